/* mixers.c - the table of recurrences, their states, and the steps that all of them take */
#include "validate/engine/convert.h"
#include "validate/engine/internal.h"
#include "validate/engine/parts.h"
#include "validate/engine/shapes.h"

#include <inttypes.h>
#include <stdlib.h>

static const struct mixer_ops *const table[] = {&mixer_mamba, &mixer_mamba2, &mixer_rwkv4, &mixer_rwkv5, &mixer_rwkv6, &mixer_rwkv7, &mixer_delta};
enum { KINDS = sizeof(table) / sizeof(table[0]) };

static const struct mixer_ops *ops_of(const struct kvp_layer_class *c)
{
    for (int i = 0; i < KINDS; i++)
        if (table[i]->kind == c->recurrent)
            return table[i];
    return NULL;
}

const struct kvp_layer_class *mixer_class(const struct eng *g, uint32_t layer)
{
    return &g->m->cls[g->m->class_of[layer]];
}

struct kb_span mixer_window(const struct eng *g, uint32_t layer, const struct pass *p, uint64_t at)
{
    const struct led_mem *m = &g->mix.layer[layer].window;

    return (struct kb_span){m->buf, p->first * (m->bytes / g->o.batch) + at};
}

struct kb_span mixer_matrix(const struct eng *g, uint32_t layer, const struct pass *p)
{
    const struct led_mem *m = &g->mix.layer[layer].matrix;

    return (struct kb_span){m->buf, p->first * (m->bytes / g->o.batch)};
}

struct kb_span mixer_at(const struct led_mem *m, uint64_t f32_elements)
{
    return (struct kb_span){m->buf, f32_elements * sizeof(float)};
}

struct kb_span mixer_weight(const struct eng *g, enum wt_role role, uint32_t layer)
{
    return weights_of(&g->w, role, layer);
}

kvp_err mixer_product(struct eng *g, uint32_t layer, const struct mixer_product *l, struct kvp_error *e)
{
    struct kb_gemm a = {.m = l->rows, .n = (uint32_t)l->n, .k = (uint32_t)l->k, .x_stride = l->x_stride,
                        .out_stride = l->out_stride, .accumulate = l->residual, .format = g->o.weights, .x = l->x,
                        .w = mixer_weight(g, l->w, layer),
                        .bias = l->bias < 0 ? (struct kb_span){NULL, 0} : mixer_weight(g, (enum wt_role)l->bias, layer),
                        .out = l->out, .work = {g->scratch.buf, 0}, .work_bytes = g->scratch.bytes};

    a.w.offset += l->w_at * cvt_size(g->o.weights);
    return eng_run(g, l->op, KB_GEMM, &a, e);
}

/* ---- what runs ----------------------------------------------------------------------------------- */

/* Channels make whole heads, heads whole groups. */
static bool divides(const struct kvp_layer_class *c)
{
    if (c->recurrent == KVP_REC_MAMBA1 || c->recurrent == KVP_REC_RWKV4)
        return true;
    if ((uint64_t)c->rec_heads * c->rec_head_dim != c->inner || !c->inner)
        return false;
    return (c->recurrent != KVP_REC_MAMBA2 && c->recurrent != KVP_REC_DELTA) || (c->groups && c->rec_heads % c->groups == 0);
}

/* What is left after the known fields are cleared must be 0, as in the layers that attend. */
static bool is_known(const struct kvp_layer_class *c)
{
    static const struct kvp_layer_class none;
    struct kvp_layer_class left;

    memcpy(&left, c, sizeof(left));
    left.count = left.inner = left.state = left.conv = left.groups = left.rec_heads = left.rec_head_dim = left.dt_rank = 0;
    memset(left.low_rank, 0, sizeof(left.low_rank));
    left.conv_bias = left.rec_bias = left.rec_norm = left.ffn_bias = left.fused_gate_up = false;
    left.recurrent = KVP_REC_NONE;
    left.ffn = KVP_FFN_NONE;
    left.act = KVP_ACT_SILU;
    left.ffn_width = left.norms = 0;
    left.experts = left.experts_per_token = left.expert_width = left.shared_width = 0;
    left.router_bias = left.shared_gate = false;
    return memcmp(&left, &none, sizeof(none)) == 0;
}

/* mamba and mamba2 say with hidden_act what follows the convolution, and here that is SiLU; in hybrids it is the
 * feed-forward's. FalconMamba norms dt, B and C without weights, which no size shows. */
static bool is_plain_mamba(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    return (!wt_is_word_of("mamba mamba2", m->model_type) || c->act == KVP_ACT_SILU) && strcmp(m->model_type, "falcon_mamba") != 0;
}

bool mixers_run(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    const bool rwkv = c->ffn == KVP_FFN_RWKV, mamba = c->recurrent == KVP_REC_MAMBA1 || c->recurrent == KVP_REC_MAMBA2;
    const bool convolves = mamba || c->recurrent == KVP_REC_DELTA;
    const uint32_t norms = c->ffn == KVP_FFN_NONE ? 1 : 2;

    return ops_of(c) && is_known(c) && divides(c) && (rwkv || eng_runs_ffn(m, c)) && c->norms == norms && convolves == !rwkv && (!convolves || c->conv) && (!mamba || is_plain_mamba(m, c)) &&
           c->inner <= INT32_MAX / 8;
}

/* ---- states -------------------------------------------------------------------------------------- */

static kvp_err product(uint64_t *out, uint64_t a, uint64_t b, uint64_t c, struct kvp_error *e)
{
    if (__builtin_mul_overflow(a, b, out) || __builtin_mul_overflow(*out, c, out))
        return kvp_fail(e, KVP_ERANGE, "a recurrent state's size overflows");
    return KVP_OK;
}

static kvp_err open_layer(struct eng *g, uint32_t l, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, l);
    struct mixer_layer *x = &g->mix.layer[l];
    struct mixer_size s;
    uint64_t bytes;

    if (!c->recurrent)
        return KVP_OK;
    s = ops_of(c)->size(g->m, c);
    KVP_TRY(product(&bytes, g->o.batch, s.window, cvt_size(g->o.weights), e));
    KVP_TRY(led_alloc(&g->led, LED_STATE, bytes, &x->window, e));
    KVP_TRY(product(&bytes, g->o.batch, s.matrix, cvt_size(g->mix.matrix), e));
    KVP_TRY(led_alloc(&g->led, LED_STATE, bytes, &x->matrix, e));
    if (!g->passes.hit)
        return KVP_OK;
    KVP_TRY(led_alloc(&g->led, LED_STATE, x->window.bytes / g->o.batch, &x->window_mark, e));
    return led_alloc(&g->led, LED_STATE, x->matrix.bytes / g->o.batch, &x->matrix_mark, e);
}

static kvp_err open_activations(struct eng *g, struct kvp_error *e)
{
    const uint64_t rows = g->rows;
    uint64_t in, out;

    KVP_TRY(product(&in, rows, g->mix.row, sizeof(float), e));
    KVP_TRY(product(&out, rows, g->mix.width, sizeof(float), e));
    KVP_TRY(led_alloc(&g->led, LED_ACTIVATION, in, &g->mix.in, e));
    return led_alloc(&g->led, LED_ACTIVATION, out, &g->mix.out, e);
}

kvp_err mixers_open(struct eng *g, struct kvp_error *e)
{
    const struct kvp_model *m = g->m;

    g->mix = (struct mixers){.matrix = m->state};
    for (uint32_t i = 0; i < m->classes; i++) {
        struct mixer_size s;

        if (!m->cls[i].recurrent)
            continue;
        s = ops_of(&m->cls[i])->size(m, &m->cls[i]);
        g->mix.row = s.row > g->mix.row ? s.row : g->mix.row;
        g->mix.width = s.out > g->mix.width ? s.out : g->mix.width;
    }
    if (!g->mix.row)
        return KVP_OK;
    if (g->mix.matrix > KVP_BF16)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine keeps states in f32, f16 or bf16, not in %s", m->name,
                        kvp_format_name(g->mix.matrix));
    g->mix.layer = calloc(m->layers, sizeof(*g->mix.layer));
    if (!g->mix.layer)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu32 " layers", m->layers);
    for (uint32_t l = 0; l < m->layers; l++)
        KVP_TRY(open_layer(g, l, e));
    return open_activations(g, e);
}

void mixers_close(struct eng *g)
{
    for (uint32_t l = 0; g->mix.layer && l < g->m->layers; l++) {
        led_free(&g->led, &g->mix.layer[l].window);
        led_free(&g->led, &g->mix.layer[l].matrix);
        led_free(&g->led, &g->mix.layer[l].window_mark);
        led_free(&g->led, &g->mix.layer[l].matrix_mark);
    }
    led_free(&g->led, &g->mix.in);
    led_free(&g->led, &g->mix.out);
    free(g->mix.layer);
    g->mix.layer = NULL;
}

static kvp_err zero(struct eng *g, const struct led_mem *m, struct kvp_error *e)
{
    return m->buf ? g->o.backend->fill(g->dev, (struct kb_span){m->buf, 0}, 0, m->bytes, e) : KVP_OK;
}

/* A matrix that does not begin at zero. */
static kvp_err begin(struct eng *g, uint32_t l, const struct mixer_ops *ops, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, l);
    const uint64_t n = g->o.batch * ops->size(g->m, c).matrix;
    float *host = malloc(n * sizeof(*host));
    kvp_err rc;

    if (!host)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a state");
    ops->start(c, host, g->o.batch);
    if (g->mix.matrix != KVP_F32)
        cvt_run(g->mix.matrix, host, KVP_F32, host, 1, n); /* in place: narrower */
    rc = g->o.backend->write(g->dev, (struct kb_span){g->mix.layer[l].matrix.buf, 0}, host, g->mix.layer[l].matrix.bytes, e);
    free(host);
    return rc;
}

kvp_err mixers_reset(struct eng *g, struct kvp_error *e)
{
    for (uint32_t l = 0; g->mix.layer && l < g->m->layers; l++) {
        const struct mixer_ops *ops = ops_of(mixer_class(g, l));

        if (!mixer_class(g, l)->recurrent)
            continue;
        KVP_TRY(zero(g, &g->mix.layer[l].window, e));
        KVP_TRY(ops->start ? begin(g, l, ops, e) : zero(g, &g->mix.layer[l].matrix, e));
    }
    return KVP_OK;
}

/* One sequence's part of `all` to `mark`, or back. */
static kvp_err move(struct eng *g, const struct led_mem *all, const struct led_mem *mark, uint64_t sequence, bool back, struct kvp_error *e)
{
    const struct kb_span a = {all->buf, sequence * mark->bytes}, b = {mark->buf, 0};

    return mark->buf ? g->o.backend->copy(g->dev, back ? a : b, back ? b : a, mark->bytes, e) : KVP_OK;
}

static kvp_err move_all(struct eng *g, uint64_t sequence, bool back, struct kvp_error *e)
{
    for (uint32_t l = 0; g->mix.layer && l < g->m->layers; l++) {
        const struct mixer_layer *x = &g->mix.layer[l];

        KVP_TRY(move(g, &x->window, &x->window_mark, sequence, back, e));
        KVP_TRY(move(g, &x->matrix, &x->matrix_mark, sequence, back, e));
    }
    return KVP_OK;
}

kvp_err mixers_mark(struct eng *g, uint64_t sequence, struct kvp_error *e)
{
    return move_all(g, sequence, false, e);
}

kvp_err mixers_go_on(struct eng *g, uint64_t sequence, struct kvp_error *e)
{
    return move_all(g, sequence, true, e);
}

/* ---- layers -------------------------------------------------------------------------------------- */

kvp_err mixers_layer(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    KVP_TRY(norm(g, KVP_OP_ATTN_NORM, WT_ATTN_NORM, layer, p->rows, at(&g->x, 0), g->m->width, e));
    return ops_of(mixer_class(g, layer))->run(g, layer, p, e);
}

kvp_err mixers_channels(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    KVP_TRY(norm(g, KVP_OP_MLP_NORM, WT_MLP_NORM, layer, p->rows, at(&g->x, 0), g->m->width, e));
    return rwkv_channels(g, layer, p, e);
}
