/* mla.c - multi-head latent attention, and the indexer that chooses what attention reads.
 *
 * techniques.md 3.7 MLA c; DeepSeek-V2 arXiv:2405.04434. Prefill expands the latent to k and v of every head
 * and attends with head sizes dn + dr and dv; a decode step stays in latent space: q' = W_uk^T q_nope, scores
 * and values against the latent itself, o = W_uv u. Both ways kv_b's two halves are op "absorb". */
#include "calc/ops/pass.h"

struct dims {
    uint64_t H, nope, rope, v, rank, q_rank, D;
};

static struct dims dims_of(const struct pass *s, const struct kvp_layer_class *m)
{
    return (struct dims){m->heads, m->nope_dim, m->rope_dim, m->v_head_dim, m->kv_rank, m->q_rank, s->p->model->width};
}

/* One more matrix of an op: its weights, FLOPs and output; an input that several share is the caller's. */
static void matrix(const struct pass *s, enum kvp_role role, uint64_t in, uint64_t out, bool bias, struct cost *c)
{
    const uint64_t w = pass_weights(s, role, out, in);

    c->flops = c->flops_full = sum(s, c->flops, NUM_PROD(&s->o->over, 2, s->N, in, out));
    c->read = sum(s, c->read, sum(s, w, bias ? pass_plain(s, out) : 0));
    c->written = sum(s, c->written, prod3(s, F, s->N, out));
}

static void projections(const struct pass *s, const struct kvp_layer_class *m, uint32_t cls)
{
    const struct dims d = dims_of(s, m);
    const uint64_t q = d.H * (d.nope + d.rope);
    struct cost c = {.read = prod3(s, F, s->N, d.D + d.q_rank)};

    if (d.q_rank)
        matrix(s, KVP_ROLE_ATTN, d.D, d.q_rank, m->qkv_bias, &c);
    matrix(s, KVP_ROLE_ATTN, d.q_rank ? d.q_rank : d.D, q, false, &c);
    matrix(s, KVP_ROLE_ATTN, d.D, d.rank + d.rope, m->qkv_bias, &c);
    ops_add(s->o, KVP_OP_QKV, s->phase, cls, s->p->cls[cls].alike, c);
    pass_stream(s, KVP_OP_QK_NORM, cls, s->p->cls[cls].alike, s->N, d.q_rank + d.rank, d.q_rank + d.rank, pass_plain(s, d.q_rank + d.rank));
    if (s->p->model->position == KVP_POS_ROPE)
        pass_stream(s, KVP_OP_ROPE, cls, s->p->cls[cls].alike, s->N, (d.H + 1) * d.rope, (d.H + 1) * d.rope,
                    sum(s, prod3(s, 4, s->N, 1), prod3(s, F, d.rope / 2, 1)));
}

/* ---- the indexer ---------------------------------------------------------------------------------------- */

/* Bytes of the indexer's own keys that one decode step reads, one layer: all of them. */
static uint64_t index_keys(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < c->n_parts; i++)
        if (strncmp(c->parts[i].name, "index_k", 7) == 0)
            bytes = sum(s, bytes, num_mul(&s->o->over, part_bytes(&s->o->over, &c->parts[i], part_read(&c->parts[i], s->T)), s->B));
    return bytes;
}

void ops_indexer(const struct pass *s, uint32_t cls)
{
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t D = s->p->model->width, q = (uint64_t)m->index_heads * m->index_dim, chosen = num_min(s->T, m->index_topk);
    const uint64_t pairs = s->phase == KVP_PREFILL ? num_less(ops_band(&s->o->over, s->T, PLAN_NO_LIMIT), ops_band(&s->o->over, s->before, PLAN_NO_LIMIT))
                                                    : s->T;
    const uint64_t each = NUM_PROD(&s->o->over, 2, s->B, q), q_in = m->mixer == KVP_MIX_MLA && m->q_rank ? m->q_rank : D;
    struct cost c = {.read = prod3(s, F, s->N, q_in == D ? D : D + q_in)};

    if (!m->index_dim)
        return;
    matrix(s, KVP_ROLE_ATTN, q_in, q, false, &c);
    matrix(s, KVP_ROLE_ATTN, D, m->index_dim, false, &c);
    if (m->mixer == KVP_MIX_MLA)
        matrix(s, KVP_ROLE_SMALL, D, m->index_heads, false, &c);
    c.flops_full = sum(s, c.flops, s->phase == KVP_PREFILL ? prod3(s, each, pass_pairs_full(s), 1) : prod3(s, each, s->T, 1));
    c.flops = sum(s, c.flops, prod3(s, each, pairs, 1));
    c.read = sum(s, c.read, s->phase == KVP_PREFILL ? prod3(s, F, s->N, q + m->index_dim) : sum(s, prod3(s, F, s->B, q), index_keys(s, cls)));
    c.written = sum(s, c.written, prod3(s, 4, s->N, chosen)); /* positions, i32 */
    ops_add(s->o, KVP_OP_INDEX, s->phase, cls, s->p->cls[cls].count, c);
}

/* ---- attention ------------------------------------------------------------------------------------------ */

/* The latent of every token to k_nope and v of every head, once; those of earlier passes again, unless it is
 * the heads' rows that are stored. */
static struct cost expand(const struct pass *s, const struct dims *d, bool stored)
{
    struct pass all = *s;
    struct cost c;

    if (!stored)
        all.N = sum(s, s->N, prod3(s, s->B, s->before, 1));
    c = (struct cost){.read = prod3(s, F, all.N, d->rank)};
    matrix(&all, KVP_ROLE_ATTN, d->rank, d->H * (d->nope + d->v), false, &c);
    return c;
}

/* q_nope into latent space before attention, the weighted latents out of it after. */
static struct cost absorb(const struct pass *s, const struct dims *d)
{
    const uint64_t flops = NUM_PROD(&s->o->over, 2, s->N, d->H, d->rank, d->nope + d->v);
    const uint64_t w = pass_weights(s, KVP_ROLE_ATTN, d->H * (d->nope + d->v), d->rank);

    return (struct cost){flops, flops, sum(s, w, NUM_PROD(&s->o->over, F, s->N, d->H, d->nope + d->rank)),
                         NUM_PROD(&s->o->over, F, s->N, d->H, d->rank + d->v)};
}

static struct cost attend_expanded(const struct pass *s, const struct dims *d, uint64_t pairs)
{
    const uint64_t each = NUM_PROD(&s->o->over, 2, s->B, d->H, d->nope + d->rope + d->v);

    return (struct cost){.flops = num_mul(&s->o->over, each, pairs),
                         .flops_full = num_mul(&s->o->over, each, s->phase == KVP_PREFILL ? pass_pairs_full(s) : pairs),
                         .read = prod3(s, F, s->N, d->H * (2 * d->nope + d->rope + d->v) + d->rope),
                         .written = prod3(s, F, s->N, d->H * (d->v + 1))};
}

static struct cost attend_absorbed(const struct pass *s, const struct dims *d, uint64_t keys, uint64_t cache)
{
    const uint64_t flops = NUM_PROD(&s->o->over, 2, s->B, d->H, 2 * d->rank + d->rope, keys);

    return (struct cost){flops, flops, sum(s, NUM_PROD(&s->o->over, F, s->B, d->H, d->rank + d->rope), cache),
                         NUM_PROD(&s->o->over, F, s->B, d->H, d->rank)};
}

/* Beside this pass's own rows attention reads what is stored. */
static struct cost expanded(const struct pass *s, const struct dims *d, uint32_t cls)
{
    const bool prefill = s->phase == KVP_PREFILL;
    struct cost c = attend_expanded(s, d, prefill ? pass_pairs(s, cls) : pass_keys(s, cls));

    c.read = sum(s, c.read, prefill ? pass_cache_reread(s, cls) : pass_cache_read(s, cls));
    return c;
}

/* ---- DeepSeek-V4 ---------------------------------------------------------------------------------------- */

/* Sum over queries i = 1 .. T of min(i / r, most) rows. */
static uint64_t merged_until(const struct pass *s, uint64_t T, uint64_t r, uint64_t most)
{
    const uint64_t below = most > T / r ? T : num_min(T, most * r - 1), n = below / r;
    const uint64_t sums = n ? sum(s, prod3(s, r, n % 2 ? n : n / 2, n % 2 ? (n - 1) / 2 : n - 1), prod3(s, n, below - n * r + 1, 1)) : 0;

    return below < T ? sum(s, sums, prod3(s, T - below, most, 1)) : sums;
}

static uint64_t merged_keys(const struct pass *s, const struct kvp_layer_class *m, uint64_t most)
{
    if (!m->compress)
        return 0;
    if (s->phase == KVP_DECODE)
        return num_min(s->T / m->compress, most);
    return num_less(merged_until(s, s->T, m->compress, most), merged_until(s, s->before, m->compress, most));
}

/* q, the row that is k and v, and what is merged: values and gates, twice as wide where groups overlap. */
static void compressed_projections(const struct pass *s, const struct kvp_layer_class *m, uint32_t cls)
{
    const uint64_t D = s->p->model->width, n = s->p->cls[cls].alike, twice = m->compress == 4 ? 4 : 2;
    const uint64_t merged = m->compress ? twice * ((uint64_t)m->head_dim + m->index_dim) : 0;
    struct cost c = {.read = prod3(s, F, s->N, D + m->q_rank)};

    matrix(s, KVP_ROLE_ATTN, D, m->q_rank, false, &c);
    matrix(s, KVP_ROLE_ATTN, m->q_rank, (uint64_t)m->heads * m->head_dim, false, &c);
    matrix(s, KVP_ROLE_ATTN, D, m->head_dim, false, &c);
    if (merged)
        matrix(s, KVP_ROLE_SMALL, D, merged, false, &c);
    ops_add(s->o, KVP_OP_QKV, s->phase, cls, n, c);
    pass_stream(s, KVP_OP_QK_NORM, cls, n, s->N, (uint64_t)m->q_rank + m->head_dim, (uint64_t)m->q_rank + m->head_dim,
                pass_plain(s, (uint64_t)m->q_rank + m->head_dim));
    pass_stream(s, KVP_OP_ROPE, cls, n, s->N, ((uint64_t)m->heads + 1) * m->rope_dim, ((uint64_t)m->heads + 1) * m->rope_dim,
                sum(s, prod3(s, 4, s->N, 1), prod3(s, F, m->rope_dim / 2, 1)));
}

static void compressed_index(const struct pass *s, const struct kvp_layer_class *m, uint32_t cls)
{
    const uint64_t q = (uint64_t)m->index_heads * m->index_dim, D = s->p->model->width, n = s->p->cls[cls].count;
    const uint64_t scores = NUM_PROD(&s->o->over, 2, s->B, q, merged_keys(s, m, PLAN_NO_LIMIT / m->compress));
    struct cost c = {.read = prod3(s, F, s->N, D + m->q_rank)};

    matrix(s, KVP_ROLE_ATTN, m->q_rank, q, false, &c);
    matrix(s, KVP_ROLE_SMALL, D, m->index_heads, false, &c);
    c.flops = c.flops_full = sum(s, c.flops, scores);
    c.read = sum(s, c.read, sum(s, prod3(s, F, s->N, q), s->phase == KVP_DECODE ? index_keys(s, cls) : 0));
    c.written = sum(s, c.written, prod3(s, 4, s->N, num_min(s->T / m->compress, m->index_topk)));
    ops_add(s->o, KVP_OP_INDEX, s->phase, cls, n, c);
}

static void compressed_attention(const struct pass *s, const struct kvp_layer_class *m, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    const bool prefill = s->phase == KVP_PREFILL;
    const uint64_t q = (uint64_t)m->heads * m->head_dim, row = prod3(s, F, s->N, q);
    const uint64_t most = m->index_topk ? m->index_topk : PLAN_NO_LIMIT / (m->compress ? m->compress : 1);
    const uint64_t window = prefill ? num_less(ops_band(&s->o->over, s->T, c->band), ops_band(&s->o->over, s->before, c->band)) : num_min(s->T, c->span);
    const uint64_t flops = NUM_PROD(&s->o->over, 4, s->B, q, sum(s, window, merged_keys(s, m, most)));
    const uint64_t rows = num_add(&s->o->over, s->T, m->compress ? s->T / m->compress : 0);

    ops_add(s->o, KVP_OP_ATTN, s->phase, cls, c->count,
            (struct cost){flops, prefill ? NUM_PROD(&s->o->over, 4, s->B, q, s->T - s->before, rows) : flops,
                          sum(s, row, prefill ? NUM_PROD(&s->o->over, F, s->B, rows, m->head_dim) : pass_cache_read(s, cls)), row});
}

/* The streams of the residual are mixed before both halves of a layer: counted here, with the first norm. */
static void streams(const struct pass *s, const struct kvp_layer_class *m, uint32_t cls)
{
    const uint64_t D = s->p->model->width, k = m->streams, mixes = 2 * (2 + k) * k;
    struct cost c = {.read = sum(s, prod3(s, F, s->N, (k + 1) * D), pass_norm_weights(s)), .written = prod3(s, F, s->N, D)};

    if (k)
        matrix(s, KVP_ROLE_SMALL, k * D, mixes, false, &c);
    ops_add(s->o, KVP_OP_ATTN_NORM, s->phase, cls, s->p->cls[cls].alike, c);
}

static void compressed_attend(const struct pass *s, uint32_t cls)
{
    const struct kvp_layer_class *m = s->p->cls[cls].model;

    pass_append(s, cls);
    if (s->phase == KVP_DECODE)
        pass_grow(s, cls);
    if (m->index_dim)
        compressed_index(s, m, cls);
    compressed_attention(s, m, cls);
    pass_technique_ops(s, cls);
}

/* Each group's heads to its own o_rank, then all of those to the width. */
static void compressed_out(const struct pass *s, const struct kvp_layer_class *m, uint32_t cls)
{
    const uint64_t D = s->p->model->width, q = (uint64_t)m->heads * m->head_dim, low = (uint64_t)m->o_groups * m->o_rank;
    struct cost out = {.flops = NUM_PROD(&s->o->over, 2, s->N, q, m->o_rank), .read = sum(s, prod3(s, F, s->N, q + low), prod3(s, F, s->N, D)),
                       .written = prod3(s, F, s->N, low)};

    out.read = sum(s, out.read, pass_weights(s, KVP_ROLE_ATTN, low, q / m->o_groups));
    matrix(s, KVP_ROLE_ATTN, low, D, false, &out);
    ops_add(s->o, KVP_OP_O_PROJ, s->phase, cls, s->p->cls[cls].alike, out);
}

static void ops_compressed(const struct pass *s, uint32_t cls)
{
    const struct kvp_layer_class *m = s->p->cls[cls].model;

    if (!s->moving) {
        streams(s, m, cls);
        compressed_projections(s, m, cls);
    }
    pass_each(s, cls, compressed_attend);
    if (!s->moving)
        compressed_out(s, m, cls);
}

static void attend(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    const struct dims d = dims_of(s, c->model);
    const bool expands = s->phase == KVP_PREFILL || c->expanded;

    pass_append(s, cls);
    if (s->phase == KVP_DECODE)
        pass_grow(s, cls);
    ops_indexer(s, cls);
    ops_add(s->o, KVP_OP_ABSORB, s->phase, cls, c->count, expands ? expand(s, &d, c->expanded) : absorb(s, &d));
    ops_add(s->o, KVP_OP_ATTN, s->phase, cls, c->count, expands ? expanded(s, &d, cls) : attend_absorbed(s, &d, pass_keys(s, cls), pass_cache_read(s, cls)));
    pass_technique_ops(s, cls);
}

void ops_mla(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    const struct kvp_layer_class *m = c->model;
    const struct dims d = dims_of(s, m);

    if (m->mixer != KVP_MIX_MLA)
        return;
    if (m->o_groups) {
        ops_compressed(s, cls);
        return;
    }
    if (!s->moving) {
        pass_stream(s, KVP_OP_ATTN_NORM, cls, c->alike, s->N, d.D, d.D, pass_norm_weights(s));
        projections(s, m, cls);
    }
    pass_each(s, cls, attend);
    if (!s->moving)
        pass_linear(s, KVP_OP_O_PROJ, KVP_ROLE_ATTN, cls, c->alike, s->N, d.H * d.v, d.D, m->o_bias, true);
}
