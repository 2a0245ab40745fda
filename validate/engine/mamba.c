/* mamba.c - Mamba-1 and Mamba-2 layers (arXiv:2312.00752, section 3.4; 2405.21060, section 7.1; the blocks of
 * mamba_ssm/modules/{mamba_simple,mamba2}.py in state-spaces/mamba). A prefill is the scan from an empty state. */
#include "validate/engine/internal.h"

/* Columns of a token's row in g->mix.in. */
struct one {
    uint64_t x, z, dt, low, b, c, end;
};

static struct one one_of(const struct kvp_layer_class *c)
{
    const uint64_t e = c->inner;

    return (struct one){.x = 0, .z = e, .dt = 2 * e, .low = 3 * e, .b = 3 * e + c->dt_rank, .c = 3 * e + c->dt_rank + c->state,
                        .end = 3 * e + c->dt_rank + 2ull * c->state};
}

static struct mixer_size size1(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    (void)m;
    return (struct mixer_size){.window = (uint64_t)(c->conv - 1) * c->inner, .matrix = (uint64_t)c->inner * c->state,
                               .row = one_of(c).end, .out = c->inner};
}

static kvp_err convolve(struct eng *g, uint32_t layer, const struct pass *p, uint64_t first, uint64_t channels, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct kb_conv a = {.batch = p->batch, .tokens = p->tokens, .channels = (uint32_t)channels, .taps = c->conv,
                              .columns = c->conv - 1, .silu = true, .stride = g->mix.row, .format = g->o.weights,
                              .w = mixer_weight(g, WT_REC_CONV, layer), .bias = mixer_weight(g, WT_REC_CONV_BIAS, layer),
                              .state_format = g->o.weights, .state = mixer_window(g, layer, p, 0),
                              .x = mixer_at(&g->mix.in, first)};

    return eng_run(g, KVP_OP_REC_CONV, KB_CONV, &a, e);
}

/* The layer's input through in_proj, to the first columns. */
static kvp_err project_in(struct eng *g, uint32_t layer, const struct pass *p, uint64_t n, struct kvp_error *e)
{
    return mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_REC_IN, .w = WT_REC_IN, .bias = WT_REC_IN_BIAS, .rows = p->rows,
                                                           .n = n, .k = g->m->width, .x = mixer_at(&g->h, 0), .x_stride = g->m->width,
                                                           .out = mixer_at(&g->mix.in, 0), .out_stride = g->mix.row}, e);
}

static kvp_err project_out(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    return mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_REC_OUT, .w = WT_REC_OUT, .bias = WT_REC_OUT_BIAS, .rows = p->rows,
                                                           .n = g->m->width, .k = mixer_class(g, layer)->inner,
                                                           .x = mixer_at(&g->mix.out, 0), .x_stride = g->mix.width,
                                                           .out = mixer_at(&g->x, 0), .out_stride = g->m->width, .residual = true}, e);
}

/* Jamba: RMS norms on dt, B and C. */
static kvp_err inner_norms(struct eng *g, uint32_t layer, const struct pass *p, const struct one *at, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct {
        enum wt_role role;
        uint32_t width;
        uint64_t column;
    } parts[] = {{WT_REC_DT_NORM, c->dt_rank, at->low}, {WT_REC_B_NORM, c->state, at->b}, {WT_REC_C_NORM, c->state, at->c}};

    for (int i = 0; c->rec_norm && i < 3; i++) {
        const struct kb_span x = mixer_at(&g->mix.in, parts[i].column);
        const struct kb_norm a = {.rows = p->rows, .groups = 1, .width = parts[i].width, .in_stride = g->mix.row, .out_stride = g->mix.row,
                                  .eps = g->m->norm_eps, .format = g->o.weights, .weight = mixer_weight(g, parts[i].role, layer),
                                  .in = x, .out = x};

        KVP_TRY(eng_run(g, KVP_OP_REC_IN, KB_NORM, &a, e));
    }
    return KVP_OK;
}

/* dt, B and C of the convolved x. */
static kvp_err select(struct eng *g, uint32_t layer, const struct pass *p, const struct one *at, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const uint64_t row = g->mix.row;

    KVP_TRY(mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_REC_IN, .w = WT_REC_X_PROJ, .bias = -1, .rows = p->rows,
                                                            .n = at->end - at->low, .k = c->inner, .x = mixer_at(&g->mix.in, at->x),
                                                            .x_stride = row, .out = mixer_at(&g->mix.in, at->low), .out_stride = row}, e));
    KVP_TRY(inner_norms(g, layer, p, at, e));
    return mixer_product(g, layer, &(struct mixer_product){.op = KVP_OP_REC_IN, .w = WT_REC_DT, .bias = WT_REC_DT_BIAS, .rows = p->rows,
                                                           .n = c->inner, .k = c->dt_rank, .x = mixer_at(&g->mix.in, at->low),
                                                           .x_stride = row, .out = mixer_at(&g->mix.in, at->dt), .out_stride = row}, e);
}

static kvp_err run1(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct one at = one_of(c);
    const struct kb_ssm_scan scan = {.batch = p->batch, .tokens = p->tokens, .channels = c->inner, .n = c->state, .stride = g->mix.row,
                                     .out_stride = g->mix.width, .format = g->o.weights, .a_log = mixer_weight(g, WT_REC_A_LOG, layer),
                                     .d = mixer_weight(g, WT_REC_SKIP, layer), .state_format = g->mix.matrix,
                                     .state = mixer_matrix(g, layer, p), .x = mixer_at(&g->mix.in, at.x),
                                     .dt = mixer_at(&g->mix.in, at.dt), .b = mixer_at(&g->mix.in, at.b), .c = mixer_at(&g->mix.in, at.c),
                                     .z = mixer_at(&g->mix.in, at.z), .out = mixer_at(&g->mix.out, 0)};

    KVP_TRY(project_in(g, layer, p, 2ull * c->inner, e));
    KVP_TRY(convolve(g, layer, p, at.x, c->inner, e));
    KVP_TRY(select(g, layer, p, &at, e));
    KVP_TRY(eng_run(g, KVP_OP_REC_SCAN, KB_SSM_SCAN, &scan, e));
    return project_out(g, layer, p, e);
}

const struct mixer_ops mixer_mamba = {.kind = KVP_REC_MAMBA1, .size = size1, .run = run1};

/* ---- Mamba-2: one projection gives z, x, B, C and dt ----------------------------------------------- */

struct two {
    uint64_t z, x, b, c, dt, end;
};

static struct two two_of(const struct kvp_layer_class *c)
{
    const uint64_t e = c->inner, shared = (uint64_t)c->groups * c->state;

    return (struct two){.z = 0, .x = e, .b = 2 * e, .c = 2 * e + shared, .dt = 2 * e + 2 * shared, .end = 2 * e + 2 * shared + c->rec_heads};
}

static struct mixer_size size2(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    const struct two at = two_of(c);

    (void)m;
    return (struct mixer_size){.window = (uint64_t)(c->conv - 1) * (at.dt - at.x), .matrix = (uint64_t)c->inner * c->state,
                               .row = at.end, .out = c->inner};
}

/* RMSNorm(y * silu(z)), a group of channels at a time; the gate is the scan's. */
static kvp_err gated_norm(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct kb_head_norm a = {.rows = p->rows, .heads = c->groups, .dim = c->inner / c->groups, .rms = true, .eps = g->m->norm_eps,
                                   .stride = g->mix.width, .format = g->o.weights, .weight = mixer_weight(g, WT_REC_NORM, layer),
                                   .x = mixer_at(&g->mix.out, 0)};

    return eng_run(g, KVP_OP_REC_SCAN, KB_HEAD_NORM, &a, e);
}

static kvp_err run2(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct kvp_layer_class *c = mixer_class(g, layer);
    const struct two at = two_of(c);
    const struct kb_ssd_scan scan = {.batch = p->batch, .tokens = p->tokens, .heads = c->rec_heads, .head_dim = c->rec_head_dim,
                                     .groups = c->groups, .n = c->state, .stride = g->mix.row, .out_stride = g->mix.width,
                                     .format = g->o.weights, .a_log = mixer_weight(g, WT_REC_A_LOG, layer),
                                     .d = mixer_weight(g, WT_REC_SKIP, layer), .dt_bias = mixer_weight(g, WT_REC_DT_BIAS, layer),
                                     .state_format = g->mix.matrix, .state = mixer_matrix(g, layer, p),
                                     .x = mixer_at(&g->mix.in, at.x), .dt = mixer_at(&g->mix.in, at.dt), .b = mixer_at(&g->mix.in, at.b),
                                     .c = mixer_at(&g->mix.in, at.c), .z = mixer_at(&g->mix.in, at.z), .out = mixer_at(&g->mix.out, 0)};

    KVP_TRY(project_in(g, layer, p, at.end, e));
    KVP_TRY(convolve(g, layer, p, at.x, at.dt - at.x, e));
    KVP_TRY(eng_run(g, KVP_OP_REC_SCAN, KB_SSD_SCAN, &scan, e));
    if (c->rec_norm)
        KVP_TRY(gated_norm(g, layer, p, e));
    return project_out(g, layer, p, e);
}

const struct mixer_ops mixer_mamba2 = {.kind = KVP_REC_MAMBA2, .size = size2, .run = run2};
