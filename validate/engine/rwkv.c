/* rwkv.c - RWKV's time mix and channel mix (arXiv:2305.13048, section 3; RwkvSelfAttention and RwkvFeedForward of
 * transformers, models/rwkv/modeling_rwkv.py). The window holds two tokens: the time mix's, then the channel mix's. */
#include "validate/engine/convert.h"
#include "validate/engine/internal.h"

enum { TIME, CHANNEL }; /* the tokens of the window */

/* Rows [first, first + rows) of the layer's input, mixed with the ones before them, to g->mix.out. */
static struct kb_shift shift_args(const struct eng *g, uint32_t layer, const struct pass *p, int token, enum wt_role mix, bool keep,
                                  uint64_t first, uint64_t rows)
{
    const uint32_t width = g->m->width;
    const uint64_t at = (uint64_t)token * width * cvt_size(g->o.weights);

    return (struct kb_shift){.tokens = p->tokens, .first = first, .rows = rows, .width = width,
                             .own = mixer_class(g, layer)->recurrent <= KVP_REC_RWKV5, .keep = keep, .x_stride = width,
                             .out_stride = g->mix.width, .format = g->o.weights, .mix = mixer_weight(g, mix, layer),
                             .state_format = g->o.weights, .state_stride = 2ull * width,
                             .state = mixer_window(g, layer, p, at), .x = mixer_at(&g->h, 0),
                             .out = mixer_at(&g->mix.out, first * g->mix.width)};
}

static kvp_err shift(struct eng *g, enum kvp_op op, uint32_t layer, const struct pass *p, int token, enum wt_role mix, bool keep,
                     uint64_t first, uint64_t rows, struct kvp_error *e)
{
    const struct kb_shift a = shift_args(g, layer, p, token, mix, keep, first, rows);

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
    const struct kb_wkv4 wkv = {.batch = p->batch, .tokens = p->tokens, .channels = c->inner, .stride = g->mix.row,
                                .out_stride = g->mix.width, .format = g->o.weights, .decay = mixer_weight(g, WT_REC_DECAY, layer),
                                .first = mixer_weight(g, WT_REC_FIRST, layer), .state_format = g->mix.matrix,
                                .state = mixer_matrix(g, layer, p), .r = mixer_at(&g->mix.in, 0),
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

/* ---- RWKV-5 and 6 (arXiv:2404.05892, section 4; modeling_rwkv{5,6}.py beside the checkpoints) ------ */

enum { HEADS_EPS = 64 }; /* times 1e-5: the checkpoints' head_size_divisor, squared */

/* Columns of a token's row in g->mix.in. */
struct columns56 {
    uint64_t r, k, v, g, w, low, end;
};

static struct columns56 columns56(const struct kvp_layer_class *c)
{
    const uint64_t e = c->inner, low = c->recurrent == KVP_REC_RWKV6 ? widest(5ull * c->low_rank[1], c->low_rank[0]) : 0;
    const uint64_t w = c->recurrent == KVP_REC_RWKV6 ? e : 0;

    return (struct columns56){.r = 0, .k = e, .v = 2 * e, .g = 3 * e, .w = 4 * e, .low = 4 * e + w, .end = 4 * e + w + low};
}

static struct mixer_size size56(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    return (struct mixer_size){.window = 2ull * m->width, .matrix = (uint64_t)c->inner * c->rec_head_dim,
                               .row = widest(columns56(c).end, m->width), .out = widest(c->inner, m->width)};
}

/* The recurrence over what is projected, the norm of its heads, the gate, the output projection. */
static kvp_err average56(struct eng *g, uint32_t layer, const struct pass *p, const struct columns56 *at, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct kb_wkv6 wkv = {.batch = p->batch, .tokens = p->tokens, .heads = c->rec_heads, .dim = c->rec_head_dim,
                                .stride = g->mix.row, .out_stride = g->mix.width, .format = g->o.weights,
                                .decay = mixer_weight(g, WT_REC_DECAY, layer), .first = mixer_weight(g, WT_REC_FIRST, layer),
                                .state_format = g->mix.matrix, .state = mixer_matrix(g, layer, p),
                                .r = mixer_at(&g->mix.in, at->r), .k = mixer_at(&g->mix.in, at->k), .v = mixer_at(&g->mix.in, at->v),
                                .w = {at->low > at->w ? g->mix.in.buf : NULL, at->w * sizeof(float)}, .out = mixer_at(&g->mix.out, 0)};
    const struct kb_head_norm norm = {.rows = p->rows, .heads = c->rec_heads, .dim = c->rec_head_dim, .silu = true,
                                      .eps = HEADS_EPS * 1e-5, .stride = g->mix.width, .in_stride = g->mix.row, .format = g->o.weights,
                                      .weight = mixer_weight(g, WT_REC_NORM, layer), .bias = mixer_weight(g, WT_REC_NORM_BIAS, layer),
                                      .gate = mixer_at(&g->mix.in, at->g), .x = mixer_at(&g->mix.out, 0)};

    KVP_TRY(eng_run(g, KVP_OP_REC_SCAN, KB_WKV6, &wkv, e));
    KVP_TRY(eng_run(g, KVP_OP_REC_SCAN, KB_HEAD_NORM, &norm, e));
    return project_out(g, layer, p, e);
}

static kvp_err run5(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct columns56 at = columns56(c);
    const struct {
        enum wt_role mix, w;
        uint64_t column;
    } inputs[] = {{WT_REC_MIX_R, WT_REC_R, at.r}, {WT_REC_MIX_K, WT_REC_K, at.k}, {WT_REC_MIX_V, WT_REC_V, at.v},
                  {WT_REC_MIX_G, WT_REC_G, at.g}};

    for (int i = 0; i < 4; i++) {
        KVP_TRY(shift(g, KVP_OP_REC_CONV, layer, p, TIME, inputs[i].mix, i == 3, 0, p->rows, e));
        KVP_TRY(project(g, layer, p, inputs[i].w, c->inner, inputs[i].column, e));
    }
    return average56(g, layer, p, &at, e);
}

const struct mixer_ops mixer_rwkv5 = {.kind = KVP_REC_RWKV5, .size = size56, .run = run5};

/* Between two low-rank factors: n columns in place. */
static kvp_err activate(struct eng *g, const struct pass *p, enum kb_act_kind kind, uint64_t column, uint64_t n, struct kvp_error *e)
{
    const struct kb_act a = {.rows = p->rows, .width = (uint32_t)n, .kind = kind, .in_stride = g->mix.row, .out_stride = g->mix.row,
                             .in = mixer_at(&g->mix.in, column), .out = mixer_at(&g->mix.in, column)};

    return eng_run(g, KVP_OP_REC_IN, KB_ACT, &a, e);
}

/* A low-rank factor's second half: `rank` columns to [rows, n]. */
static kvp_err raise(struct eng *g, uint32_t layer, const struct pass *p, enum wt_role w, uint64_t w_at, int bias, uint64_t column,
                     uint64_t rank, uint64_t n, struct kb_span out, uint64_t out_stride, struct kvp_error *e)
{
    return mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_REC_IN, .w = w, .w_at = w_at, .bias = bias, .rows = p->rows,
                                                           .n = n, .k = rank, .x = mixer_at(&g->mix.in, column), .x_stride = g->mix.row,
                                                           .out = out, .out_stride = out_stride}, e);
}

/* The token's own mix, number i of w, k, v, r, g, onto the learned one; g->mix.out is mixed by their sum. */
static kvp_err own_mix(struct eng *g, uint32_t layer, const struct pass *p, const struct columns56 *at, uint64_t i, enum wt_role mix,
                       bool keep, struct kvp_error *e)
{
    const uint64_t width = g->m->width, rank = mixer_class(g, layer)->low_rank[1];
    struct kb_shift a;

    KVP_TRY(raise(g, layer, p, WT_REC_MIX_UP, i * width * rank, -1, at->low + i * rank, rank, width, mixer_at(&g->mix.out, 0),
                  g->mix.width, e));
    a = shift_args(g, layer, p, TIME, mix, keep, 0, p->rows);
    a.more = a.out;
    a.more_stride = a.out_stride;
    return eng_run(g, KVP_OP_REC_CONV, KB_SHIFT, &a, e);
}

static kvp_err run6(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct columns56 at = columns56(c);
    const struct {
        uint64_t number; /* among the low-rank mixes */
        enum wt_role mix, w;
        uint64_t column, n;
    } inputs[] = {{1, WT_REC_MIX_K, WT_REC_K, at.k, c->inner}, {2, WT_REC_MIX_V, WT_REC_V, at.v, c->inner},
                  {3, WT_REC_MIX_R, WT_REC_R, at.r, c->inner}, {4, WT_REC_MIX_G, WT_REC_G, at.g, c->inner},
                  /* last: it takes the place of the mixes */
                  {0, WT_REC_MIX_W, WT_REC_W_DOWN, at.low, c->low_rank[0]}};

    KVP_TRY(shift(g, KVP_OP_REC_CONV, layer, p, TIME, WT_REC_MIX_X, false, 0, p->rows, e));
    KVP_TRY(project(g, layer, p, WT_REC_MIX_DOWN, 5ull * c->low_rank[1], at.low, e));
    KVP_TRY(activate(g, p, KB_ACT_TANH, at.low, 5ull * c->low_rank[1], e));
    for (int i = 0; i < 5; i++) {
        KVP_TRY(own_mix(g, layer, p, &at, inputs[i].number, inputs[i].mix, i == 4, e));
        KVP_TRY(project(g, layer, p, inputs[i].w, inputs[i].n, inputs[i].column, e));
    }
    KVP_TRY(activate(g, p, KB_ACT_TANH, at.low, c->low_rank[0], e));
    KVP_TRY(raise(g, layer, p, WT_REC_W_UP, 0, -1, at.low, c->low_rank[0], c->inner, mixer_at(&g->mix.in, at.w), g->mix.row, e));
    return average56(g, layer, p, &at, e);
}

const struct mixer_ops mixer_rwkv6 = {.kind = KVP_REC_RWKV6, .size = size56, .run = run6};

/* ---- RWKV-7 (arXiv:2503.14456, section 4; fla/layers/rwkv7.py of fla-org/flash-linear-attention) ---- */

/* `first` is the first layer's v, which the later layers mix with theirs: it outlives the layer. */
struct columns7 {
    uint64_t r, w, k, v, a, g, first, low;
};

static struct columns7 columns7(const struct kvp_layer_class *c)
{
    const uint64_t e = c->inner;

    return (struct columns7){.r = 0, .w = e, .k = 2 * e, .v = 3 * e, .a = 4 * e, .g = 5 * e, .first = 6 * e, .low = 7 * e};
}

static struct mixer_size size7(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    const uint64_t low = widest(widest(c->low_rank[0], c->low_rank[1]), widest(c->low_rank[2], c->low_rank[3]));

    return (struct mixer_size){.window = 2ull * m->width, .matrix = (uint64_t)c->inner * c->rec_head_dim,
                               .row = widest(columns7(c).low + low, m->width), .out = widest(c->inner, m->width)};
}

/* r, w, k, a and g of the mixed tokens. */
static kvp_err inputs7(struct eng *g, uint32_t layer, const struct pass *p, const struct columns7 *at, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct {
        enum wt_role mix, w; /* the matrix, or the first of its two factors */
        uint32_t rank;       /* 0: one matrix */
        int act;             /* between the factors, or -1 */
        enum wt_role up;
        int bias;
        uint64_t column;
    } inputs[] = {{WT_REC_MIX_R, WT_REC_R, 0, -1, WT_REC_R, -1, at->r},
                  {WT_REC_MIX_W, WT_REC_W_DOWN, c->low_rank[0], KB_ACT_TANH, WT_REC_W_UP, WT_REC_W_BIAS, at->w},
                  {WT_REC_MIX_K, WT_REC_K, 0, -1, WT_REC_K, -1, at->k},
                  {WT_REC_MIX_A, WT_REC_A_DOWN, c->low_rank[1], -1, WT_REC_A_UP, WT_REC_A_BIAS, at->a},
                  {WT_REC_MIX_G, WT_REC_G_DOWN, c->low_rank[3], KB_ACT_SIGMOID, WT_REC_G_UP, -1, at->g}};

    for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++) {
        const uint32_t rank = inputs[i].rank;

        KVP_TRY(shift(g, KVP_OP_REC_CONV, layer, p, TIME, inputs[i].mix, false, 0, p->rows, e));
        KVP_TRY(project(g, layer, p, inputs[i].w, rank ? rank : c->inner, rank ? at->low : inputs[i].column, e));
        if (inputs[i].act >= 0)
            KVP_TRY(activate(g, p, (enum kb_act_kind)inputs[i].act, at->low, rank, e));
        if (rank)
            KVP_TRY(raise(g, layer, p, inputs[i].up, 0, inputs[i].bias, at->low, rank, c->inner,
                          mixer_at(&g->mix.in, inputs[i].column), g->mix.row, e));
    }
    return KVP_OK;
}

/* v, and how much of the first layer's goes into it, which lies in g->mix.out when all else is projected. */
static kvp_err values7(struct eng *g, uint32_t layer, const struct pass *p, uint64_t column, uint64_t low, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const uint32_t rank = c->low_rank[2];

    KVP_TRY(shift(g, KVP_OP_REC_CONV, layer, p, TIME, WT_REC_MIX_V, true, 0, p->rows, e));
    KVP_TRY(project(g, layer, p, WT_REC_V, c->inner, column, e));
    if (!rank)
        return KVP_OK;
    KVP_TRY(project(g, layer, p, WT_REC_V_DOWN, rank, low, e));
    return raise(g, layer, p, WT_REC_V_UP, 0, WT_REC_V_BIAS, low, rank, c->inner, mixer_at(&g->mix.out, 0), g->mix.width, e);
}

static kvp_err run7(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct columns7 at = columns7(c);
    const uint64_t v = layer ? at.v : at.first;
    const struct kb_span in = mixer_at(&g->mix.in, 0), none = {NULL, 0};
    const struct kb_wkv7 wkv = {.batch = p->batch, .tokens = p->tokens, .heads = c->rec_heads, .dim = c->rec_head_dim,
                                .stride = g->mix.row, .out_stride = g->mix.width, .format = g->o.weights,
                                .k_k = mixer_weight(g, WT_REC_K_K, layer), .k_a = mixer_weight(g, WT_REC_K_A, layer),
                                .state_format = g->mix.matrix, .state = mixer_matrix(g, layer, p), .r = in,
                                .w = mixer_at(&g->mix.in, at.w), .k = mixer_at(&g->mix.in, at.k), .v = mixer_at(&g->mix.in, v),
                                .a = mixer_at(&g->mix.in, at.a), .v_first = c->low_rank[2] ? mixer_at(&g->mix.in, at.first) : none,
                                .v_mix = c->low_rank[2] ? mixer_at(&g->mix.out, 0) : none, .out = mixer_at(&g->mix.out, 0)};
    const struct kb_head_norm norm = {.rows = p->rows, .heads = c->rec_heads, .dim = c->rec_head_dim,
                                      .eps = c->rec_head_dim * g->m->norm_eps, .stride = g->mix.width, .in_stride = g->mix.row,
                                      .format = g->o.weights, .weight = mixer_weight(g, WT_REC_NORM, layer),
                                      .bias = mixer_weight(g, WT_REC_NORM_BIAS, layer), .r_k = mixer_weight(g, WT_REC_R_K, layer),
                                      .r = in, .k = mixer_at(&g->mix.in, at.k), .v = mixer_at(&g->mix.in, v),
                                      .gate = mixer_at(&g->mix.in, at.g), .x = mixer_at(&g->mix.out, 0)};

    KVP_TRY(inputs7(g, layer, p, &at, e));
    KVP_TRY(values7(g, layer, p, v, at.low, e));
    KVP_TRY(eng_run(g, KVP_OP_REC_SCAN, KB_WKV7, &wkv, e));
    KVP_TRY(eng_run(g, KVP_OP_REC_SCAN, KB_HEAD_NORM, &norm, e));
    return project_out(g, layer, p, e);
}

const struct mixer_ops mixer_rwkv7 = {.kind = KVP_REC_RWKV7, .size = size7, .run = run7};

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
