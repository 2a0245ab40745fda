/* delta.c - gated delta nets (Yang et al. 2024, arXiv:2412.06464, section 3.3, as Qwen3-Next has them: transformers,
 * modeling_qwen3_next.py, Qwen3NextGatedDeltaNet). A prefill is the scan from an empty state. */
#include "validate/engine/internal.h"

/* Columns of a token's row in g->mix.in, as the projection gives them; q, k and v go through the convolution. */
struct columns {
    uint64_t q, k, v, z, b, a, end;
};

static struct columns columns_of(const struct kvp_layer_class *c)
{
    const uint64_t keys = (uint64_t)c->groups * c->state, e = c->inner, heads = c->rec_heads;

    return (struct columns){.q = 0, .k = keys, .v = 2 * keys, .z = 2 * keys + e, .b = 2 * keys + 2 * e, .a = 2 * keys + 2 * e + heads,
                            .end = 2 * keys + 2 * e + 2 * heads};
}

static struct mixer_size size(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    const struct columns at = columns_of(c);

    (void)m;
    return (struct mixer_size){.window = (uint64_t)(c->conv - 1) * at.z, .matrix = (uint64_t)c->inner * c->state, .row = at.end, .out = c->inner};
}

static kvp_err convolve(struct eng *g, uint32_t layer, const struct pass *p, const struct columns *at, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct kb_conv a = {.batch = g->o.batch, .tokens = p->tokens, .channels = (uint32_t)at->z, .taps = c->conv, .columns = c->conv - 1,
                              .silu = true, .stride = g->mix.row, .format = g->o.weights, .w = mixer_weight(g, WT_REC_CONV, layer),
                              .bias = mixer_weight(g, WT_REC_CONV_BIAS, layer), .state_format = g->o.weights,
                              .state = {g->mix.layer[layer].window.buf, 0}, .x = mixer_at(&g->mix.in, 0)};

    return eng_run(g, KVP_OP_REC_CONV, KB_CONV, &a, e);
}

static kvp_err scan(struct eng *g, uint32_t layer, const struct pass *p, const struct columns *at, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct kb_delta_scan a = {.batch = g->o.batch, .tokens = p->tokens, .heads = c->rec_heads, .head_dim = c->rec_head_dim,
                                    .groups = c->groups, .n = c->state, .stride = g->mix.row, .out_stride = g->mix.width,
                                    .format = g->o.weights, .a_log = mixer_weight(g, WT_REC_A_LOG, layer),
                                    .dt_bias = mixer_weight(g, WT_REC_DT_BIAS, layer), .state_format = g->mix.matrix,
                                    .state = {g->mix.layer[layer].matrix.buf, 0}, .q = mixer_at(&g->mix.in, at->q),
                                    .k = mixer_at(&g->mix.in, at->k), .v = mixer_at(&g->mix.in, at->v), .dt = mixer_at(&g->mix.in, at->a),
                                    .beta = mixer_at(&g->mix.in, at->b), .out = mixer_at(&g->mix.out, 0)};
    /* each head's output normed, then times silu(z) */
    const struct kb_head_norm norm = {.rows = p->rows, .heads = c->rec_heads, .dim = c->rec_head_dim, .rms = true, .silu = true, .one = true,
                                      .eps = g->m->norm_eps, .stride = g->mix.width, .in_stride = g->mix.row, .format = g->o.weights,
                                      .weight = mixer_weight(g, WT_REC_NORM, layer), .gate = mixer_at(&g->mix.in, at->z),
                                      .x = mixer_at(&g->mix.out, 0)};

    KVP_TRY(eng_run(g, KVP_OP_REC_SCAN, KB_DELTA_SCAN, &a, e));
    return eng_run(g, KVP_OP_REC_SCAN, KB_HEAD_NORM, &norm, e);
}

static kvp_err run(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct columns at = columns_of(c);
    const uint32_t width = g->m->width;

    KVP_TRY(mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_REC_IN, .w = WT_REC_IN, .bias = -1, .rows = p->rows, .n = at.end,
                                                            .k = width, .x = mixer_at(&g->h, 0), .x_stride = width,
                                                            .out = mixer_at(&g->mix.in, 0), .out_stride = g->mix.row}, e));
    KVP_TRY(convolve(g, layer, p, &at, e));
    KVP_TRY(scan(g, layer, p, &at, e));
    return mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_REC_OUT, .w = WT_REC_OUT, .bias = -1, .rows = p->rows, .n = width,
                                                           .k = c->inner, .x = mixer_at(&g->mix.out, 0), .x_stride = g->mix.width,
                                                           .out = mixer_at(&g->x, 0), .out_stride = width, .residual = true}, e);
}

const struct mixer_ops mixer_delta = {.kind = KVP_REC_DELTA, .size = size, .run = run};
