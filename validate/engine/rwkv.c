/* rwkv.c - RWKV's time mix and channel mix (arXiv:2305.13048, section 3; RwkvSelfAttention and RwkvFeedForward of
 * transformers, models/rwkv/modeling_rwkv.py). The window holds two tokens: the time mix's, then the channel mix's. */
#include "validate/engine/internal.h"

enum { TIME, CHANNEL }; /* the tokens of the window */

/* Rows [first, first + rows) of the layer's input, mixed with the ones before them, to g->mix.out. */
static kvp_err shift(struct eng *g, enum kvp_op op, uint32_t layer, const struct pass *p, int token, enum wt_role mix, bool keep,
                     uint64_t first, uint64_t rows, struct kvp_error *e)
{
    const uint32_t width = g->m->width;
    const uint64_t at = (uint64_t)token * width * (g->o.weights == KVP_F32 ? 4 : 2);
    const struct kb_shift a = {.tokens = p->tokens, .first = first, .rows = rows, .width = width,
                               .own = mixer_class(g, layer)->recurrent <= KVP_REC_RWKV5, .keep = keep, .x_stride = width,
                               .out_stride = g->mix.width, .format = g->o.weights, .mix = mixer_weight(g, mix, layer),
                               .state_format = g->o.weights, .state_stride = 2ull * width,
                               .state = {g->mix.layer[layer].window.buf, at}, .x = mixer_at(&g->h, 0),
                               .out = mixer_at(&g->mix.out, first * g->mix.width)};

    return eng_run(g, op, KB_SHIFT, &a, e);
}

/* g->mix.out's rows, as mixed, through a matrix to a column of the projections. */
static kvp_err project(struct eng *g, uint32_t layer, const struct pass *p, enum wt_role w, uint64_t n, uint64_t column, struct kvp_error *e)
{
    return mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_REC_IN, .w = w, .bias = -1, .rows = p->rows, .n = n,
                                                           .k = g->m->width, .x = mixer_at(&g->mix.out, 0), .x_stride = g->mix.width,
                                                           .out = mixer_at(&g->mix.in, column), .out_stride = g->mix.row}, e);
}

static kvp_err project_out(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    return mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_REC_OUT, .w = WT_REC_OUT, .bias = -1, .rows = p->rows,
                                                           .n = g->m->width, .k = mixer_class(g, layer)->inner,
                                                           .x = mixer_at(&g->mix.out, 0), .x_stride = g->mix.width,
                                                           .out = mixer_at(&g->x, 0), .out_stride = g->m->width, .residual = true}, e);
}

static uint64_t widest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ---- RWKV-4 --------------------------------------------------------------------------------------- */

static struct mixer_size size4(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    return (struct mixer_size){.window = 2ull * m->width, .matrix = 3ull * c->inner, .row = widest(3ull * c->inner, m->width),
                               .out = widest(c->inner, m->width)};
}

/* Nothing seen: the running exponent is far below any other. */
static void start4(const struct kvp_layer_class *c, float *matrix, uint64_t batch)
{
    const uint64_t n = c->inner;

    memset(matrix, 0, batch * 3 * n * sizeof(*matrix));
    for (uint64_t b = 0; b < batch; b++)
        for (uint64_t i = 0; i < n; i++)
            matrix[(b * 3 + 2) * n + i] = -1e30f;
}

static kvp_err run4(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    static const struct {
        enum wt_role mix, w;
    } inputs[] = {{WT_REC_MIX_R, WT_REC_R}, {WT_REC_MIX_K, WT_REC_K}, {WT_REC_MIX_V, WT_REC_V}};
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct kb_wkv4 wkv = {.batch = g->o.batch, .tokens = p->tokens, .channels = c->inner, .stride = g->mix.row,
                                .out_stride = g->mix.width, .format = g->o.weights, .decay = mixer_weight(g, WT_REC_DECAY, layer),
                                .first = mixer_weight(g, WT_REC_FIRST, layer), .state_format = g->mix.matrix,
                                .state = {g->mix.layer[layer].matrix.buf, 0}, .r = mixer_at(&g->mix.in, 0),
                                .k = mixer_at(&g->mix.in, c->inner), .v = mixer_at(&g->mix.in, 2ull * c->inner),
                                .out = mixer_at(&g->mix.out, 0)};

    for (uint64_t i = 0; i < 3; i++) {
        KVP_TRY(shift(g, KVP_OP_REC_CONV, layer, p, TIME, inputs[i].mix, i == 2, 0, p->rows, e));
        KVP_TRY(project(g, layer, p, inputs[i].w, c->inner, i * c->inner, e));
    }
    KVP_TRY(eng_run(g, KVP_OP_REC_SCAN, KB_WKV4, &wkv, e));
    return project_out(g, layer, p, e);
}

const struct mixer_ops mixer_rwkv4 = {.kind = KVP_REC_RWKV4, .size = size4, .run = run4, .start = start4};

/* ---- channel mix ---------------------------------------------------------------------------------- */

/* relu(key)^2 of the rows to g->mlp. */
static kvp_err channel_keys(struct eng *g, uint32_t layer, const struct pass *p, bool keep, uint64_t first, uint64_t rows, struct kvp_error *e)
{
    const uint32_t wide = mixer_class(g, layer)->ffn_width;
    const struct kb_act act = {.rows = rows, .width = wide, .kind = KB_ACT_RELU2, .in_stride = wide, .out_stride = wide,
                               .in = mixer_at(&g->mlp, 0), .out = mixer_at(&g->mlp, 0)};

    KVP_TRY(shift(g, KVP_OP_MLP_UP, layer, p, CHANNEL, WT_REC_FFN_MIX_K, keep, first, rows, e));
    KVP_TRY(mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_MLP_UP, .w = WT_REC_FFN_K, .bias = -1, .rows = rows, .n = wide,
                                                            .k = g->m->width, .x = mixer_at(&g->mix.out, first * g->mix.width),
                                                            .x_stride = g->mix.width, .out = mixer_at(&g->mlp, 0), .out_stride = wide}, e));
    return eng_run(g, KVP_OP_MLP_ACT, KB_ACT, &act, e);
}

/* Through the last matrix: to `out`, or onto the residual. */
static kvp_err channel_values(struct eng *g, uint32_t layer, uint64_t rows, struct kb_span out, uint64_t stride, bool residual,
                              struct kvp_error *e)
{
    const uint32_t wide = mixer_class(g, layer)->ffn_width;

    return mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_MLP_DOWN, .w = WT_REC_FFN_V, .bias = -1, .rows = rows,
                                                           .n = g->m->width, .k = wide, .x = mixer_at(&g->mlp, 0), .x_stride = wide,
                                                           .out = out, .out_stride = stride, .residual = residual}, e);
}

/* RWKV-4 to 6: what a row adds is weighed by a receptance of its own. */
static kvp_err channel_gated(struct eng *g, uint32_t layer, const struct pass *p, uint64_t first, uint64_t rows, struct kvp_error *e)
{
    const uint32_t width = g->m->width;
    const struct kb_span mixed = mixer_at(&g->mix.out, first * g->mix.width), gate = mixer_at(&g->mix.in, first * g->mix.row);
    const struct kb_gate add = {.rows = rows, .width = width, .gate_stride = g->mix.row, .value_stride = g->mix.width,
                                .out_stride = width, .gate = gate, .value = mixed, .out = mixer_at(&g->x, first * width)};

    KVP_TRY(channel_keys(g, layer, p, false, first, rows, e));
    KVP_TRY(shift(g, KVP_OP_MLP_UP, layer, p, CHANNEL, WT_REC_FFN_MIX_R, true, first, rows, e));
    KVP_TRY(mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_MLP_UP, .w = WT_REC_FFN_R, .bias = -1, .rows = rows, .n = width,
                                                            .k = width, .x = mixed, .x_stride = g->mix.width, .out = gate,
                                                            .out_stride = g->mix.row}, e));
    KVP_TRY(channel_values(g, layer, rows, mixed, g->mix.width, false, e));
    return eng_run(g, KVP_OP_MLP_DOWN, KB_GATE, &add, e);
}

static kvp_err channel_plain(struct eng *g, uint32_t layer, const struct pass *p, uint64_t first, uint64_t rows, struct kvp_error *e)
{
    KVP_TRY(channel_keys(g, layer, p, true, first, rows, e));
    return channel_values(g, layer, rows, mixer_at(&g->x, first * g->m->width), g->m->width, true, e);
}

kvp_err rwkv_channels(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const bool gated = mixer_class(g, layer)->recurrent != KVP_REC_RWKV7;

    for (uint64_t r = 0; r < p->rows; r += MLP_ROWS)
        KVP_TRY((gated ? channel_gated : channel_plain)(g, layer, p, r, p->rows - r < MLP_ROWS ? p->rows - r : MLP_ROWS, e));
    return KVP_OK;
}
