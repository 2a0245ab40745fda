/* lorc.c - attention with factored projections (Zhang et al. 2024, arXiv:2410.03111, section 3.1): the first factors make
 * what is stored, one latent for keys and one for values; a prompt's keys and values come from both */
#include "validate/engine/parts.h"

/* Where q, k and v of a layer lie in a row of g->qkv. */
struct columns {
    const struct kvp_layer_class *c;
    uint64_t q, kv, stride;
};

/* A layer's latents in rows of their own, k's beside v's, and what leads on from there. */
static struct cache_low low_of(const struct eng *g, uint32_t layer, const struct kvp_layer_class *c)
{
    return (struct cache_low){.stride = (uint64_t)c->low_k + c->low_v, .k = at(&g->low_rank, 0), .v = at(&g->low_rank, c->low_k),
                              .format = g->w.coding.plain, .k_up = {weight(g, WT_K_UP, layer), weight(g, WT_K_UP_BIAS, layer)},
                              .v_up = {weight(g, WT_V_UP, layer), weight(g, WT_V_UP_BIAS, layer)}, .k_norm = weight(g, WT_K_NORM, layer)};
}

/* q and both latents of every row: one matrix, but that only q has a bias. */
static kvp_err project(struct eng *g, uint32_t layer, uint64_t rows, const struct columns *x, struct kvp_error *e)
{
    const uint32_t width = g->m->width, latents = x->c->low_k + x->c->low_v;
    const struct linear q = {.op = KVP_OP_QKV, .rows = rows, .n = (uint32_t)x->q, .k = width, .role = WT_QKV, .layer = layer,
                             .w = weight(g, WT_QKV, layer), .bias = weight(g, WT_QKV_BIAS, layer), .x = at(&g->h, 0), .x_stride = width,
                             .out = at(&g->qkv, 0), .out_stride = x->stride};
    struct linear low = q;

    low.n = latents;
    low.first = x->q;
    low.w.offset += x->q * width * cvt_size(g->w.coding.plain);
    low.bias.buf = NULL;
    low.out = at(&g->low_rank, 0);
    low.out_stride = latents;
    KVP_TRY(eng_linear(g, &q, e));
    return eng_linear(g, &low, e);
}

/* k and v of a prompt from its latents. */
static kvp_err expand(struct eng *g, uint64_t rows, const struct columns *x, const struct cache_low *low, struct kvp_error *e)
{
    const struct {
        struct kb_factor up;
        struct kb_span from;
        uint32_t rank;
        uint64_t to;
    } sides[] = {{low->k_up, low->k, x->c->low_k, x->q}, {low->v_up, low->v, x->c->low_v, x->q + x->kv}};

    for (size_t i = 0; i < 2; i++) {
        const struct linear l = {.op = KVP_OP_REBUILD, .rows = rows, .n = (uint32_t)x->kv, .k = sides[i].rank, .w = sides[i].up.w,
                                 .bias = sides[i].up.bias, .x = sides[i].from, .x_stride = low->stride, .out = at(&g->qkv, sides[i].to),
                                 .out_stride = x->stride};

        KVP_TRY(eng_linear(g, &l, e));
    }
    return KVP_OK;
}

static kvp_err norm_heads(struct eng *g, enum wt_role role, uint32_t layer, uint64_t rows, const struct columns *x, uint32_t heads, uint64_t first,
                          struct kvp_error *e)
{
    const struct kb_norm a = {.rows = rows, .groups = heads, .width = x->c->head_dim, .in_stride = x->stride, .out_stride = x->stride,
                              .eps = g->m->norm_eps, .format = g->w.coding.vectors, .weight = weight(g, role, layer), .in = at(&g->qkv, first),
                              .out = at(&g->qkv, first)};

    return x->c->qk_norm ? eng_run(g, KVP_OP_QK_NORM, KB_NORM, &a, e) : KVP_OK;
}

/* Turned by the cache, which knows what it rebuilds. */
kvp_err eng_low(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct kvp_layer_class *c = &g->m->cls[g->m->class_of[layer]];
    const uint64_t q = (uint64_t)c->heads * c->head_dim, kv = (uint64_t)c->kv_heads * c->head_dim;
    const struct columns x = {.c = c, .q = q, .kv = kv, .stride = q + 2 * kv};
    const struct cache_low low = low_of(g, layer, c);
    const struct cache_qkv a = {.tokens = p->tokens, .position = p->position, .stride = x.stride, .q = at(&g->qkv, 0), .k = at(&g->qkv, q),
                                .v = at(&g->qkv, q + kv), .out_stride = q, .out = at(&g->out, 0), .lse = at(&g->lse, 0), .first = p->first,
                                .batch = p->batch, .low = &low};

    KVP_TRY(project(g, layer, p->rows, &x, e));
    KVP_TRY(norm_heads(g, WT_Q_NORM, layer, p->rows, &x, c->heads, 0, e));
    if (!p->prefill)
        return g->cache_ops->decode(g->cache, layer, &a, e);
    KVP_TRY(expand(g, p->rows, &x, &low, e));
    KVP_TRY(norm_heads(g, WT_K_NORM, layer, p->rows, &x, c->kv_heads, q, e));
    return g->cache_ops->prefill(g->cache, layer, &a, e);
}
