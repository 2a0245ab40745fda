#include "calc/tensors.h"

#include "calc/num.h"

#include <stdlib.h>
#include <string.h>

/* Elements that are stored together, and their bytes, scales inside. */
static const struct {
    uint8_t elements, bytes;
} blocks[KVP_FORMATS] = {
    [KVP_F32] = {1, 4},      [KVP_F16] = {1, 2},      [KVP_BF16] = {1, 2},    [KVP_I32] = {1, 4},      [KVP_INT4] = {2, 1},
    [KVP_INT2] = {4, 1},     [KVP_FP8] = {1, 1},      [KVP_INT8] = {1, 1},    [KVP_I64] = {1, 8},      [KVP_U8] = {1, 1},
    [KVP_Q8_0] = {32, 34},   [KVP_Q5_1] = {32, 24},   [KVP_Q5_0] = {32, 22},  [KVP_Q4_1] = {32, 20},   [KVP_Q4_0] = {32, 18},
    [KVP_IQ4_NL] = {32, 18}, [KVP_NVFP4] = {16, 9},   [KVP_MXFP4] = {32, 17}, [KVP_MXFP8] = {32, 33},
};
static const struct {
    uint16_t elements, bytes;
} superblocks[KVP_FORMATS] = {
    [KVP_Q2_K] = {256, 84},  [KVP_Q3_K] = {256, 110}, [KVP_Q4_K] = {256, 144},
    [KVP_Q5_K] = {256, 176}, [KVP_Q6_K] = {256, 210}, [KVP_IQ4_XS] = {256, 136},
};

uint32_t format_block(enum kvp_format f)
{
    return blocks[f].elements ? blocks[f].elements : superblocks[f].elements;
}

uint64_t format_bytes(bool *over, enum kvp_format f, uint64_t elements)
{
    const uint64_t n = format_block(f), bytes = blocks[f].elements ? blocks[f].bytes : superblocks[f].bytes;

    return num_mul(over, n == 1 ? elements : num_cdiv(elements, n), bytes);
}

uint32_t format_bits(enum kvp_format f)
{
    return blocks[f].elements ? blocks[f].bytes * 8u / blocks[f].elements : superblocks[f].bytes * 8u / superblocks[f].elements;
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
    const uint64_t last = shape[dims - 1], rows = last ? num_mul(&t->over, num_product(&t->over, shape, dims - 1), count) : 0;
    uint64_t bytes;

    if (!rows)
        return;
    num_mul(&t->over, rows, last); /* elements are counted, too */
    bytes = num_mul(&t->over, rows, format_bytes(&t->over, f, last));
    if (t->totals)
        t->sum[tag] = num_add(&t->over, t->sum[tag], bytes);
    if (t->totals || !make_room(t))
        return;
    x = &t->v[t->n++];
    *x = (struct kvp_tensor){.tag = tag, .cls = cls, .count = count, .dims = dims, .format = f};
    strncpy(x->name, name, sizeof(x->name) - 1);
    memcpy(x->shape, shape, dims * sizeof(*shape));
    x->bytes = bytes;
}

uint64_t tensors_sum(struct tensors *t, enum kvp_tag tag)
{
    uint64_t sum = t->totals ? t->sum[tag] : 0;

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

/* ---- activations and scratch -------------------------------------------------------------------- */

enum { FFN_ROWS = 1024, LOGIT_ROWS = 64, GEMM_SCRATCH = 32 << 20 };

/* Experts: the router's scores, which experts each token goes to and what each counts, gate and up of all of them;
 * in the blocks of rows that the dense feed-forward has. Shared experts count with the dense one. */
static void moe_activations(struct tensors *t, const struct kvp_model *m, uint64_t rows)
{
    uint64_t choice = 0, up = 0, experts = 0;

    for (uint32_t i = 0; i < m->classes; i++) {
        const struct kvp_layer_class *c = &m->cls[i];
        const uint64_t k = c->experts ? c->experts_per_token : 0;

        experts = num_max(experts, c->experts);
        choice = num_max(choice, 2 * k);
        up = num_max(up, k * c->expert_width * (c->ffn == KVP_FFN_GATED ? 2 : 1));
    }
    TENSOR(t, "router_scores", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, rows, experts);
    TENSOR(t, "expert_choice", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, rows, choice);
    TENSOR(t, "expert_up", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, rows, up);
}

/* MLA: the low-rank q and latent of a prompt, k and v expanded from it; in a decode step q and the output in
 * latent space, as where LoRC's factors are absorbed (DeepSeek-V4 expands nothing, and its output is low-rank too; its residual has streams). An indexer:
 * its queries, and which tokens it chose. */
static void mla_activations(struct tensors *t, const struct kvp_model *m, uint64_t batch, uint64_t n)
{
    uint64_t low = 0, expanded = 0, absorbed = 0, index = 0, topk = 0, streams = 0;

    for (uint32_t i = 0; i < m->classes; i++) {
        const struct kvp_layer_class *c = &m->cls[i];
        const bool mla = c->mixer == KVP_MIX_MLA;

        low = num_max(low, (uint64_t)c->low_k + c->low_v);
        absorbed = num_max(absorbed, (uint64_t)c->heads * ((c->absorb_k ? c->low_k : 0) + (uint64_t)(c->absorb_v ? c->low_v : 0)));
        low = num_max(low, mla ? (uint64_t)c->q_rank + c->kv_rank + c->rope_dim + (uint64_t)c->o_groups * c->o_rank : 0);
        expanded = num_max(expanded, mla && !c->o_groups ? (uint64_t)c->heads * ((uint64_t)c->nope_dim + c->v_head_dim) : 0);
        absorbed = num_max(absorbed, mla && !c->o_groups ? 2 * (uint64_t)c->heads * c->kv_rank : 0);
        index = num_max(index, ((uint64_t)c->index_heads + 1) * c->index_dim);
        topk = num_max(topk, c->index_dim ? c->index_topk : 0);
        streams = num_max(streams, c->streams);
    }
    TENSOR(t, "residual_streams", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, streams, m->width);
    TENSOR(t, "low_rank", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, low);
    TENSOR(t, "expanded_kv", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, expanded);
    TENSOR(t, "absorbed", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, batch, absorbed);
    TENSOR(t, "index_q", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, index);
    TENSOR(t, "chosen", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_I32, n, topk);
}

/* What a recurrence's input projections yield for a token, and what its scan does. */
static uint64_t recurrent_in(const struct kvp_layer_class *c)
{
    const uint64_t E = c->inner, A = (uint64_t)c->rec_heads * c->rec_head_dim, bc = 2ull * c->groups * c->state;

    switch (c->recurrent) {
    case KVP_REC_MAMBA1:
        return 3 * E + c->dt_rank + 2ull * c->state;
    case KVP_REC_MAMBA2:
        return 2 * E + bc + c->rec_heads;
    case KVP_REC_RWKV4:
        return 3 * E;
    case KVP_REC_RWKV5:
        return 4 * E;
    case KVP_REC_RWKV6: /* beside its projections the low-rank mixes, then the decay's */
        return 5 * E + num_max(5ull * c->low_rank[1], c->low_rank[0]);
    case KVP_REC_RWKV7: /* the first layer's v, and the widest low rank */
        return 7 * E + num_max(num_max(c->low_rank[0], c->low_rank[1]), num_max(c->low_rank[2], c->low_rank[3]));
    case KVP_REC_DELTA:
        return bc + 2 * A + 2ull * c->rec_heads;
    case KVP_REC_KDA:
        return 5 * A + c->rec_heads;
    case KVP_REC_LIGHTNING:
    case KVP_REC_RGLRU:
        return 4 * E;
    case KVP_REC_CONV:
        return 3 * E;
    case KVP_REC_NONE:
        break;
    }
    return 0;
}

static void recurrent_activations(struct tensors *t, const struct kvp_model *m, uint64_t n)
{
    uint64_t in = 0, out = 0;

    for (uint32_t i = 0; i < m->classes; i++) {
        in = num_max(in, recurrent_in(&m->cls[i]));
        out = num_max(out, m->cls[i].recurrent ? m->cls[i].inner : 0);
    }
    TENSOR(t, "recurrent_in", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, in);
    TENSOR(t, "recurrent_out", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, out);
}

/* A layer's widest rows: q, k and v, its own or an encoder's; attention's output; the feed-forward's middle. */
struct widths {
    uint64_t qkv, out, ffn;
};

static void widen(struct widths *w, const struct kvp_layer_class *c)
{
    const uint64_t cross_q = (uint64_t)c->cross_heads * c->cross_head_dim, cross_kv = 2 * (uint64_t)c->cross_kv_heads * c->cross_head_dim;

    w->qkv = num_max(w->qkv, ((uint64_t)c->heads + 2 * (uint64_t)c->kv_heads) * c->head_dim);
    w->qkv = num_max(w->qkv, num_max(cross_q, cross_kv));
    w->out = num_max(w->out, num_max((uint64_t)c->heads * num_max(c->head_dim, c->v_head_dim), cross_q));
    w->ffn = num_max(w->ffn, ((uint64_t)c->ffn_width + c->shared_width) * (c->ffn == KVP_FFN_GATED ? 2 : 1));
}

/* An encoder runs before the decoder does, in the same buffers. */
void activation_tensors(struct tensors *t, const struct kvp_model *m, uint64_t batch, uint64_t prompt, uint64_t encoder_tokens, uint64_t logit_rows)
{
    const uint64_t own = num_mul(&t->over, batch, prompt), n = num_max(own, m->encoders ? num_mul(&t->over, batch, encoder_tokens) : 0);
    const uint64_t width = num_max(m->width, m->encoders ? m->encoder_width : 0);
    struct widths w = {0};
    uint64_t heads = 0;

    for (uint32_t i = 0; i < m->classes; i++) {
        const struct kvp_layer_class *c = &m->cls[i];

        heads = num_max(heads, c->heads);
        widen(&w, c);
    }
    for (uint32_t i = 0; i < m->encoders; i++)
        widen(&w, &m->encoder[i]);
    TENSOR(t, "residual", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, width);
    TENSOR(t, "normed", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, width);
    TENSOR(t, "qkv", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, w.qkv);
    TENSOR(t, "attention_out", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, n, w.out);
    recurrent_activations(t, m, n);
    TENSOR(t, "log_sum_exp", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, batch, heads, prompt);
    TENSOR(t, "mlp", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, num_min(n, FFN_ROWS), w.ffn);
    moe_activations(t, m, num_min(n, FFN_ROWS));
    mla_activations(t, m, batch, n);
    if (!m->no_logits)
        TENSOR(t, "logits", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_F32, num_min(logit_rows, LOGIT_ROWS), m->vocab);
    TENSOR(t, "token_ids", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_I32, n);
    TENSOR(t, "position_ids", KVP_TAG_ACTIVATION, WHOLE_MODEL, 1, KVP_I32, n);
}

/* Elements of a head that rotate. */
static uint64_t rotary_dim(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    if (c->mixer == KVP_MIX_MLA)
        return c->rope_dim;
    return m->numbers.rotary_part > 0 ? (uint64_t)(c->head_dim * m->numbers.rotary_part) : c->head_dim;
}

/* A matrix product unpacks weights that are not f32, at most this much at once; q, k, v are one matrix to it, and
 * gate and up are. */
void workspace_tensors(struct tensors *t, const struct kvp_model *m, enum kvp_format weights)
{
    uint64_t turned = 0, heads = 0, rows = m->vocab;

    for (uint32_t i = 0; i < m->classes; i++) {
        const struct kvp_layer_class *c = &m->cls[i];

        turned = num_max(turned, rotary_dim(m, c));
        heads = num_max(heads, c->heads);
        rows = num_max(rows, ((uint64_t)c->heads + 2 * (uint64_t)c->kv_heads) * c->head_dim);
        rows = num_max(rows, (uint64_t)c->ffn_width * (c->ffn == KVP_FFN_GATED ? 2 : 1));
        rows = num_max(rows, recurrent_in(c));
        rows = num_max(rows, num_max((uint64_t)c->cross_heads, 2 * (uint64_t)c->cross_kv_heads) * c->cross_head_dim);
    }
    for (uint32_t i = 0; i < m->encoders; i++) {
        const struct kvp_layer_class *c = &m->encoder[i];

        rows = num_max(rows, ((uint64_t)c->heads + 2 * (uint64_t)c->kv_heads) * c->head_dim);
        rows = num_max(rows, (uint64_t)c->ffn_width * (c->ffn == KVP_FFN_GATED ? 2 : 1));
    }
    if (weights != KVP_F32)
        TENSOR(t, "gemm_scratch", KVP_TAG_WORKSPACE, WHOLE_MODEL, 1, KVP_F32,
               num_min(GEMM_SCRATCH / 4, num_mul(&t->over, rows, m->width)));
    if (m->position == KVP_POS_ALIBI)
        TENSOR(t, "alibi_slopes", KVP_TAG_WORKSPACE, WHOLE_MODEL, 1, KVP_F32, heads);
    if (m->position == KVP_POS_ROPE)
        TENSOR(t, "rope_frequencies", KVP_TAG_WORKSPACE, WHOLE_MODEL, m->numbers.window_theta > 0 ? 2 : 1, KVP_F32, turned / 2);
}
