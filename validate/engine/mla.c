/* mla.c - multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1; deepseek-ai/DeepSeek-V3 inference/model.py):
 * a prompt's latents are expanded to keys and values of every head; a step goes into latent space and back (absorbed), unless
 * the expanded rows are what is stored. */
#include "validate/engine/parts.h"

#include "validate/engine/convert.h"

/* A row of g->low_rank: q's low-rank projection, then the latent, then the rotary key. */
struct latent {
    const struct kvp_layer_class *c;
    uint64_t latent, rope, stride; /* f32 elements */
    uint64_t q, kv;                /* of a row of q; of a row of expanded k and v */
};

static struct latent latent_of(const struct eng *g, uint32_t layer)
{
    const struct kvp_layer_class *c = &g->m->cls[g->m->class_of[layer]];

    return (struct latent){.c = c, .latent = c->q_rank, .rope = c->q_rank + c->kv_rank, .stride = (uint64_t)c->q_rank + c->kv_rank + c->rope_dim,
                           .q = (uint64_t)c->heads * c->head_dim, .kv = (uint64_t)c->heads * (c->nope_dim + c->v_head_dim)};
}

static kvp_err norm_part(struct eng *g, enum wt_role role, uint32_t layer, uint64_t rows, uint64_t stride, uint64_t first, uint32_t width,
                         struct kvp_error *e)
{
    const struct kb_norm a = {.rows = rows, .groups = 1, .width = width, .in_stride = stride, .out_stride = stride, .eps = g->m->norm_eps,
                              .format = g->w.coding.vectors, .weight = weight(g, role, layer), .in = at(&g->low_rank, first),
                              .out = at(&g->low_rank, first)};

    return eng_run(g, KVP_OP_QK_NORM, KB_NORM, &a, e);
}

static kvp_err project_q(struct eng *g, uint32_t layer, const struct latent *x, uint64_t rows, struct kvp_error *e)
{
    const uint32_t width = g->m->width, rank = x->c->q_rank;
    const struct linear down = {.op = KVP_OP_QKV, .rows = rows, .n = rank, .k = width, .w = weight(g, WT_Q_A, layer),
                                .bias = weight(g, WT_Q_A_BIAS, layer), .x = at(&g->h, 0), .x_stride = width,
                                .out = at(&g->low_rank, 0), .out_stride = x->stride};
    const struct linear up = {.op = KVP_OP_QKV, .rows = rows, .n = (uint32_t)x->q, .k = rank ? rank : width, .w = weight(g, WT_Q_B, layer),
                              .x = rank ? at(&g->low_rank, 0) : at(&g->h, 0), .x_stride = rank ? x->stride : width,
                              .out = at(&g->qkv, 0), .out_stride = x->q};

    if (rank) {
        KVP_TRY(eng_linear(g, &down, e));
        KVP_TRY(norm_part(g, WT_Q_A_NORM, layer, rows, x->stride, 0, rank, e));
    }
    KVP_TRY(eng_linear(g, &up, e));
    return eng_turn(g, x->c, rows, at(&g->qkv, x->c->nope_dim), x->q, x->c->heads, x->c->head_dim, e);
}

static kvp_err project_latent(struct eng *g, uint32_t layer, const struct latent *x, uint64_t rows, struct kvp_error *e)
{
    const uint32_t width = g->m->width;
    const struct linear down = {.op = KVP_OP_QKV, .rows = rows, .n = x->c->kv_rank + x->c->rope_dim, .k = width,
                                .w = weight(g, WT_KV_A, layer), .bias = weight(g, WT_KV_A_BIAS, layer), .x = at(&g->h, 0),
                                .x_stride = width, .out = at(&g->low_rank, x->latent), .out_stride = x->stride};

    KVP_TRY(eng_linear(g, &down, e));
    KVP_TRY(norm_part(g, WT_KV_A_NORM, layer, rows, x->stride, x->latent, x->c->kv_rank, e));
    return eng_turn(g, x->c, rows, at(&g->low_rank, x->rope), x->stride, 1, x->c->rope_dim, e);
}

/* k (its part that does not rotate) and v of every head, a head's k before its v. */
static kvp_err expand(struct eng *g, uint32_t layer, const struct latent *x, uint64_t rows, struct kvp_error *e)
{
    const struct linear up = {.op = KVP_OP_ABSORB, .rows = rows, .n = (uint32_t)x->kv, .k = x->c->kv_rank, .w = weight(g, WT_KV_B, layer),
                              .x = at(&g->low_rank, x->latent), .x_stride = x->stride, .out = at(&g->expanded, 0), .out_stride = x->kv};

    return eng_linear(g, &up, e);
}

/* q into latent space (W_uk^T q), or the weighted sum of latents out of it (W_uv u). */
static kvp_err absorb(struct eng *g, uint32_t layer, const struct latent *x, uint64_t rows, bool in, struct kvp_error *e)
{
    const struct kvp_layer_class *c = x->c;
    const uint64_t both = 2ull * c->heads * c->kv_rank, latents = (uint64_t)c->heads * c->kv_rank;
    struct kb_head_gemm a = {.m = rows, .heads = c->heads, .rows = in ? c->nope_dim : c->v_head_dim, .cols = c->kv_rank, .transposed = in,
                             .format = g->w.coding.plain, .w_head = (uint64_t)(c->nope_dim + c->v_head_dim) * c->kv_rank,
                             .w = weight(g, WT_KV_B, layer)};

    if (in) {
        a.x = at(&g->qkv, 0);
        a.x_stride = x->q;
        a.x_head = c->head_dim;
        a.out = at(&g->absorbed, 0);
        a.out_stride = both;
        a.out_head = c->kv_rank;
    } else {
        a.w.offset += (uint64_t)c->nope_dim * c->kv_rank * cvt_size(g->w.coding.plain);
        a.x = at(&g->absorbed, latents);
        a.x_stride = both;
        a.x_head = c->kv_rank;
        a.out = at(&g->out, 0);
        a.out_stride = (uint64_t)c->heads * c->v_head_dim;
        a.out_head = c->v_head_dim;
    }
    return eng_run(g, KVP_OP_ABSORB, KB_HEAD_GEMM, &a, e);
}

kvp_err eng_mla(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct latent x = latent_of(g, layer);
    const bool absorbed = !p->prefill && !g->expand;
    struct cache_qkv a = {.tokens = p->tokens, .position = p->position, .stride = x.q, .q = at(&g->qkv, 0), .kv_stride = x.kv,
                          .k = at(&g->expanded, 0), .v = at(&g->expanded, x.c->nope_dim), .kv_head = x.kv / x.c->heads,
                          .latent = at(&g->low_rank, x.latent), .shared = at(&g->low_rank, x.rope), .latent_stride = x.stride,
                          .out_stride = (uint64_t)x.c->heads * x.c->v_head_dim, .out = at(&g->out, 0), .lse = at(&g->lse, 0), .first = p->first, .batch = p->batch};

    KVP_TRY(project_q(g, layer, &x, p->rows, e));
    KVP_TRY(project_latent(g, layer, &x, p->rows, e));
    if (!absorbed) {
        KVP_TRY(expand(g, layer, &x, p->rows, e));
        return p->prefill ? g->cache_ops->prefill(g->cache, layer, &a, e) : g->cache_ops->decode(g->cache, layer, &a, e);
    }
    a.q_latent = at(&g->absorbed, 0);
    a.out_stride = 2ull * x.c->heads * x.c->kv_rank;
    a.out = at(&g->absorbed, (uint64_t)x.c->heads * x.c->kv_rank);
    KVP_TRY(absorb(g, layer, &x, p->rows, true, e));
    KVP_TRY(g->cache_ops->decode(g->cache, layer, &a, e));
    return absorb(g, layer, &x, p->rows, false, e);
}
