/* dense.c - the baseline: what every layer keeps by its own architecture.
 *
 *   attention   k, v [B, Hkv, min(T, window or chunk), d]; nothing where it reads an earlier layer's
 *   MLA         latent [B, T, kv_rank], k_rope [B, T, rope_dim]: once, not for k and for v; every
 *               tensor-parallel rank keeps all of it. With an indexer its keys: 128 fp8 and an f32 scale
 *               (beside plain attention, MiniMax-M3: keys in the cache's format); what it chooses is read,
 *               all is kept
 *   DeepSeek-V4 kv [B, min(T, window), d]: k and v at once; [B, T / r, d] merged from r tokens each, what is
 *               not merged yet, and the indexer's keys, merged too
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

/* One row for `residual` tokens, written when the last of them is there; read: at most `cap` tokens' worth. */
static uint64_t merged(const struct law *l, uint64_t seen)
{
    return seen / l->residual * l->residual;
}

static uint64_t merged_read(const struct law *l, uint64_t seen)
{
    return num_min(merged(l, seen), l->cap);
}

static void add_merged(struct plan *p, struct plan_class *c, const char *name, uint64_t width, enum kvp_format f, bool attended)
{
    const struct kvp_layer_class *m = c->model;
    struct part *x;

    add_rows(p, c, name, 1, width, PLAN_NO_LIMIT);
    x = &c->parts[c->n_parts - 1];
    x->unit = m->compress;
    x->law = (struct law){.held = merged, .read = merged_read, .endless = true, .residual = m->compress,
                          .cap = attended && m->index_topk ? (uint64_t)m->index_topk * m->compress : PLAN_NO_LIMIT};
    x->format = f;
    x->attended = attended;
    x->replicated = true;
    x->rows = false;
    x->paged_as = UINT32_MAX;
}

/* The tokens not merged yet, sums and gates in f32; groups of 4 overlap: twice the rows, twice the channels
 * (DeepSeek-V4 inference/model.py, class Compressor). */
static void add_unmerged(struct plan *p, struct plan_class *c, const char *name, uint64_t dim)
{
    const uint64_t r = c->model->compress, twice = r == 4 ? 2 : 1;

    plan_add_fixed(p, c, name, KVP_TAG_STATE, KVP_F32, 2, twice * r, twice * dim);
}

static void compressed(struct plan *p, struct plan_class *c)
{
    const struct kvp_layer_class *m = c->model;

    c->band = c->span = m->window;
    add_rows(p, c, "kv", 1, m->head_dim, m->window);
    c->parts[0].replicated = true;
    if (!m->compress)
        return;
    add_merged(p, c, "compressed_kv", m->head_dim, p->kv, true);
    add_unmerged(p, c, "compressor_state", m->head_dim);
    if (!m->index_dim)
        return;
    add_merged(p, c, "index_k", m->index_dim, KVP_FP8, false);
    add_merged(p, c, "index_k_scale", num_cdiv(m->index_dim, 128), KVP_F32, false);
    c->parts[c->n_parts - 1].tag = KVP_TAG_METADATA;
    add_unmerged(p, c, "index_compressor_state", m->index_dim);
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
            (c->model->o_groups ? compressed : latent)(p, c);
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
