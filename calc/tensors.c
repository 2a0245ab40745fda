#include "calc/tensors.h"

#include "calc/num.h"

#include <stdlib.h>
#include <string.h>

uint32_t format_bits(enum kvp_format f)
{
    static const uint32_t bits[KVP_FORMATS] = {
        [KVP_F32] = 32, [KVP_F16] = 16, [KVP_BF16] = 16, [KVP_I32] = 32, [KVP_INT4] = 4, [KVP_INT2] = 2,
    };

    return bits[f];
}

static bool make_room(struct tensors *t)
{
    struct kvp_tensor *v;
    const uint32_t cap = t->cap ? 2 * t->cap : 32;

    if (t->n < t->cap)
        return true;
    v = realloc(t->v, cap * sizeof(*v));
    if (!v) {
        t->oom = true;
        return false;
    }
    t->v = v;
    t->cap = cap;
    return true;
}

void tensors_add(struct tensors *t, const char *name, enum kvp_tag tag, uint32_t cls, uint64_t count,
                 enum kvp_format f, uint32_t dims, const uint64_t *shape)
{
    struct kvp_tensor *x;
    const uint64_t elements = num_mul(&t->over, num_product(&t->over, shape, dims), count);

    if (!elements || !make_room(t))
        return;
    x = &t->v[t->n++];
    *x = (struct kvp_tensor){.tag = tag, .cls = cls, .count = count, .dims = dims, .format = f};
    strncpy(x->name, name, sizeof(x->name) - 1);
    memcpy(x->shape, shape, dims * sizeof(*shape));
    x->bytes = format_bits(f) < 8 ? elements / (8 / format_bits(f)) : num_mul(&t->over, elements, format_bits(f) / 8);
}

uint64_t tensors_sum(struct tensors *t, enum kvp_tag tag)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < t->n; i++)
        if (t->v[i].tag == tag)
            sum = num_add(&t->over, sum, t->v[i].bytes);
    return sum;
}

uint64_t tensors_elements(struct tensors *t, enum kvp_tag tag)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < t->n; i++)
        if (t->v[i].tag == tag)
            sum = num_add(&t->over, sum, num_mul(&t->over, num_product(&t->over, t->v[i].shape, t->v[i].dims), t->v[i].count));
    return sum;
}

kvp_err tensors_err(const struct tensors *t, struct kvp_error *e)
{
    if (t->oom)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a list of %u tensors", t->n);
    if (t->over)
        return kvp_fail(e, KVP_ERANGE, "a size does not fit in 63 bits: the context, the batch or the model is too big");
    return KVP_OK;
}

/* ---- weights ------------------------------------------------------------------------------------ */

struct weights {
    struct tensors *t;
    const struct kvp_model *m;
    enum kvp_format f;
};

static void matrix(const struct weights *w, const char *name, uint32_t cls, uint64_t count, uint64_t out, uint64_t in, bool bias)
{
    char text[48];

    snprintf(text, sizeof(text), "%s.weight", name);
    TENSOR(w->t, text, KVP_TAG_WEIGHTS, cls, count, w->f, out, in);
    snprintf(text, sizeof(text), "%s.bias", name);
    if (bias)
        TENSOR(w->t, text, KVP_TAG_WEIGHTS, cls, count, w->f, out);
}

static void norm(const struct weights *w, const char *name, uint32_t cls, uint64_t count, uint64_t width, bool bias)
{
    char text[48];

    snprintf(text, sizeof(text), "%s.weight", name);
    TENSOR(w->t, text, KVP_TAG_WEIGHTS, cls, count, w->f, width);
    snprintf(text, sizeof(text), "%s.bias", name);
    if (bias)
        TENSOR(w->t, text, KVP_TAG_WEIGHTS, cls, count, w->f, width);
}

static void layer(const struct weights *w, uint32_t cls)
{
    const struct kvp_layer_class *c = &w->m->cls[cls];
    const uint64_t q = (uint64_t)c->heads * c->head_dim, kv = (uint64_t)c->kv_heads * c->head_dim, D = w->m->width;
    const bool ln = w->m->norm == KVP_NORM_LAYER;

    norm(w, "attn_norm", cls, c->count, D, ln);
    matrix(w, "q_proj", cls, c->count, q, D, c->qkv_bias);
    matrix(w, "k_proj", cls, c->count, kv, D, c->qkv_bias);
    matrix(w, "v_proj", cls, c->count, kv, D, c->qkv_bias);
    if (c->qk_norm) {
        norm(w, "q_norm", cls, c->count, c->head_dim, false);
        norm(w, "k_norm", cls, c->count, c->head_dim, false);
    }
    matrix(w, "o_proj", cls, c->count, D, q, c->o_bias);
    norm(w, "mlp_norm", cls, c->count, D, ln);
    if (c->ffn == KVP_FFN_GATED)
        matrix(w, "gate_proj", cls, c->count, c->ffn_width, D, c->ffn_bias);
    matrix(w, "up_proj", cls, c->count, c->ffn_width, D, c->ffn_bias);
    matrix(w, "down_proj", cls, c->count, D, c->ffn_width, c->ffn_bias);
}

void weight_tensors(struct tensors *t, const struct kvp_model *m, enum kvp_format f)
{
    const struct weights w = {.t = t, .m = m, .f = f};

    matrix(&w, "embedding", WHOLE_MODEL, 1, m->vocab, m->width, false);
    if (m->position == KVP_POS_LEARNED)
        matrix(&w, "positions", WHOLE_MODEL, 1, m->max_positions, m->width, false);
    for (uint32_t i = 0; i < m->classes; i++)
        layer(&w, i);
    norm(&w, "final_norm", WHOLE_MODEL, 1, m->width, m->norm == KVP_NORM_LAYER);
    if (!m->tied)
        matrix(&w, "lm_head", WHOLE_MODEL, 1, m->vocab, m->width, false);
}

/* ---- activations and scratch -------------------------------------------------------------------- */

enum { FFN_ROWS = 1024, LOGIT_ROWS = 64, GEMM_SCRATCH = 32 << 20 };

void activation_tensors(struct tensors *t, const struct kvp_model *m, uint64_t batch, uint64_t prompt, uint64_t logit_rows)
{
    const uint64_t n = num_mul(&t->over, batch, prompt);
    uint64_t heads = 0, qkv = 0, out = 0, ffn = 0;

    for (uint32_t i = 0; i < m->classes; i++) {
        const struct kvp_layer_class *c = &m->cls[i];

        heads = num_max(heads, c->heads);
        qkv = num_max(qkv, ((uint64_t)c->heads + 2 * (uint64_t)c->kv_heads) * c->head_dim);
        out = num_max(out, (uint64_t)c->heads * c->head_dim);
        ffn = num_max(ffn, (uint64_t)c->ffn_width * (c->ffn == KVP_FFN_GATED ? 2 : 1));
    }
    TENSOR(t, "residual", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, m->width);
    TENSOR(t, "normed", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, m->width);
    TENSOR(t, "qkv", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, qkv);
    TENSOR(t, "attention_out", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, out);
    TENSOR(t, "log_sum_exp", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, batch, heads, prompt);
    TENSOR(t, "mlp", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, num_min(n, FFN_ROWS), ffn);
    TENSOR(t, "logits", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, num_min(logit_rows, LOGIT_ROWS), m->vocab);
    TENSOR(t, "token_ids", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_I32, n);
    TENSOR(t, "position_ids", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_I32, n);
}

/* A matrix product unpacks 16-bit weights, at most this much at once; q, k, v are one matrix to it, and
 * gate and up are. */
void workspace_tensors(struct tensors *t, const struct kvp_model *m, enum kvp_format weights)
{
    uint64_t head_dim = 0, rows = m->vocab;

    for (uint32_t i = 0; i < m->classes; i++) {
        const struct kvp_layer_class *c = &m->cls[i];

        head_dim = num_max(head_dim, c->head_dim);
        rows = num_max(rows, ((uint64_t)c->heads + 2 * (uint64_t)c->kv_heads) * c->head_dim);
        rows = num_max(rows, (uint64_t)c->ffn_width * (c->ffn == KVP_FFN_GATED ? 2 : 1));
    }
    if (weights != KVP_F32)
        TENSOR(t, "gemm_scratch", KVP_TAG_WORKSPACE, WHOLE_MODEL, 1, KVP_F32,
               num_min(GEMM_SCRATCH / 4, num_mul(&t->over, rows, m->width)));
    if (m->position == KVP_POS_ROPE)
        TENSOR(t, "rope_frequencies", KVP_TAG_WORKSPACE, WHOLE_MODEL, 1, KVP_F32, head_dim / 2);
}
