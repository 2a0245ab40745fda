/* dense.c - the baseline: what every layer keeps by its own architecture.
 *
 *   attention   k, v [B, Hkv, min(T, window or chunk), d]; nothing where it reads an earlier layer's
 *   MLA         latent [B, T, kv_rank], k_rope [B, T, rope_dim]: once, not for k and for v; every
 *               tensor-parallel rank keeps all of it. With an indexer its keys: 128 fp8 and an f32 scale
 *               (beside plain attention, MiniMax-M3: keys in the cache's format); what it chooses is read,
 *               all is kept
 *   cross       k, v of the encoder's tokens
 * What a recurrence keeps is no technique's to change: state.c, added last. */
#include "calc/technique.h"

static void add_rows(struct plan *p, struct plan_class *c, const char *name, uint64_t heads, uint64_t width, uint64_t window)
{
    struct part *x = plan_add_part(c, name);

    x->format = p->kv;
    x->heads = heads;
    x->width = width;
    x->law.cap = window;
    x->law.endless = window == PLAN_NO_LIMIT;
    x->rows = x->attended = x->append_prefill = x->append_decode = x->strips = true;
    x->paged_as = 0;
}

/* Of the tokens held, what an indexer chooses; those of the query's own chunk. */
static uint64_t chosen(const struct law *l, uint64_t seen)
{
    return num_min(l->held(l, seen), l->residual);
}

static uint64_t own_chunk(const struct law *l, uint64_t seen)
{
    return seen ? num_min(l->held(l, seen), (seen - 1) % l->residual + 1) : 0;
}

/* What attention reads of the class's first two parts, where that is not all they hold. */
static void reads(struct plan_class *c)
{
    const struct kvp_layer_class *m = c->model;

    for (int i = 0; i < 2 && (m->index_topk || m->chunk); i++) {
        c->parts[i].law.read = m->index_topk ? chosen : own_chunk;
        c->parts[i].law.residual = m->index_topk ? m->index_topk : m->chunk;
    }
}

/* One fp32 scale for each 128 of the indexer's fp8 keys (vLLM's layout: 132 bytes for 128). */
static void indexer(struct plan *p, struct plan_class *c)
{
    static const char *const names[] = {"index_k", "index_k_scale"};
    const bool fp8 = c->model->mixer == KVP_MIX_MLA;

    for (int i = 0; i < (fp8 ? 2 : 1); i++) {
        add_rows(p, c, names[i], 1, i ? num_cdiv(c->model->index_dim, 128) : c->model->index_dim, PLAN_NO_LIMIT);
        if (fp8)
            c->parts[c->n_parts - 1].format = i ? KVP_F32 : KVP_FP8;
        c->parts[c->n_parts - 1].tag = i ? KVP_TAG_METADATA : KVP_TAG_CACHE;
        c->parts[c->n_parts - 1].replicated = true;
        c->parts[c->n_parts - 1].attended = false;
    }
}

static void attention(struct plan *p, struct plan_class *c)
{
    const struct kvp_layer_class *m = c->model;
    const uint64_t window = m->window ? m->window : m->chunk ? m->chunk : PLAN_NO_LIMIT;

    c->band = c->span = window;
    if (m->no_kv)
        return;
    add_rows(p, c, "k", m->kv_heads, m->head_dim, window);
    add_rows(p, c, "v", m->kv_heads, m->v_head_dim, window);
    reads(c);
    if (m->index_dim)
        indexer(p, c);
}

static void latent(struct plan *p, struct plan_class *c)
{
    const struct kvp_layer_class *m = c->model;

    c->band = c->span = PLAN_NO_LIMIT;
    add_rows(p, c, "latent", 1, m->kv_rank, PLAN_NO_LIMIT);
    add_rows(p, c, "k_rope", 1, m->rope_dim, PLAN_NO_LIMIT);
    c->parts[0].replicated = c->parts[1].replicated = true;
    reads(c);
    if (m->index_dim)
        indexer(p, c);
}

static void cross(struct plan *p, struct plan_class *c)
{
    const struct kvp_layer_class *m = c->model;

    plan_add_fixed(p, c, "cross_k", KVP_TAG_CACHE, p->kv, m->cross_kv_heads, p->encoder_tokens, m->cross_head_dim);
    plan_add_fixed(p, c, "cross_v", KVP_TAG_CACHE, p->kv, m->cross_kv_heads, p->encoder_tokens, m->cross_head_dim);
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    (void)s;
    (void)e;
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];

        c->model = &p->model->cls[i];
        c->count = c->model->count;
        c->band = c->span = PLAN_NO_LIMIT;
        if (c->model->mixer == KVP_MIX_ATTENTION)
            attention(p, c);
        if (c->model->mixer == KVP_MIX_MLA)
            latent(p, c);
        if (c->model->cross_heads)
            cross(p, c);
    }
    return KVP_OK;
}

const struct technique technique_dense = {
    .info = {.name = "dense", .axis = KVP_AXIS_SELECT,
             .summary = "every token's k and v, or those of the layer's own sliding window",
             .source = "Vaswani et al. 2017, arXiv:1706.03762; Shazeer 2019, arXiv:1911.02150 (incremental decoding)",
             .params = ""},
    .baseline = true,
    .cache_rewrite = cache_rewrite,
};
