/* extend.c - attention of new tokens over a cache and themselves: a block of queries by tiles of keys, all query heads
 * of a kv head together, so that a stored row is unpacked once for all that look at it */
#include "kernels/cpu/codes.h"

#include "kernels/ops/attn_extend.h"

#include <math.h>
#include <omp.h>

#define ROWS 64 /* query rows of a block: tokens times heads of the group */
#define KEYS 256

/* New tokens of a sequence: rows [row, row + tokens), text positions from `before` on. */
struct piece {
    uint64_t b, row, tokens, before;
};

static struct piece piece_of(const struct kb_attn_extend *a, uint64_t b)
{
    const int32_t *first = kb_at(a->first), *before = kb_at(a->before);

    if (!first)
        return (struct piece){b, b * a->tokens, a->tokens, a->position};
    return (struct piece){b, (uint64_t)first[b], (uint64_t)(first[b + 1] - first[b]), (uint64_t)before[b]};
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t first_key(const struct kb_attn_extend *a, uint64_t i)
{
    return a->window && i >= a->window ? i - a->window + 1 : 0;
}

/* Queries [t0, t1) of a piece in kv head g, row r = (t - t0) * group + h. */
struct block {
    const struct kb_attn_extend *a;
    struct piece p;
    uint64_t t0, t1;
    uint32_t g, group;
    float *q, *o, *s, *tile, *max, *sum; /* [rows, dim] twice, [rows, KEYS], [KEYS + 1, dim], [rows] twice */
};

static uint64_t block_rows(uint32_t group)
{
    return group > ROWS ? group : ROWS / group * group;
}

static uint64_t block_floats(const struct kb_attn_extend *a)
{
    const uint64_t rows = block_rows(a->heads / a->kv_heads), d = a->head_dim;

    return rows * (2 * d + KEYS + 2) + KEYS * (d + 1);
}

static void lay_out(struct block *t, float *area)
{
    const uint64_t rows = block_rows(t->group), d = t->a->head_dim;

    t->q = area;
    t->o = t->q + rows * d;
    t->s = t->o + rows * d;
    t->tile = t->s + rows * KEYS;
    t->max = t->tile + KEYS * (d + 1);
    t->sum = t->max + rows;
}

/* Tokens of the text [j0, j1), all stored, as f32 rows. */
static void unpack(const struct kb_dev *dev, const struct block *t, const struct kb_kv *kv, uint64_t j0, uint64_t j1)
{
    const uint32_t d = t->a->head_dim;
    float *row = t->tile;

    for (uint64_t j = j0; j < j1; j++, row += d) {
        const uint64_t slot = t->a->ring ? j % t->a->ring : j;
        float one = 1;

        if (cpu_is_plain(kv->format)) {
            dev->ops->widen[kv->format](row, kb_kv_row(kv, t->p.b, t->g, slot), d);
            continue;
        }
        cpu_kv_unpack(dev, kv, t->p.b, t->g, slot, 1, row);
        cpu_kv_weigh(kv, t->p.b, t->g, slot, 1, &one, &one);
        dev->ops->scale(row, d, one);
    }
}

/* Rows of k or v of tokens [j0, j1), which are all stored or all new. */
static const float *rows_of(const struct kb_dev *dev, const struct block *t, const struct kb_kv *kv, struct kb_span fresh,
                            uint64_t j0, uint64_t j1, uint64_t *stride)
{
    if (j0 < t->p.before || !fresh.buf) {
        unpack(dev, t, kv, j0, j1);
        *stride = t->a->head_dim;
        return t->tile;
    }
    *stride = t->a->stride;
    return (const float *)kb_at(fresh) + (t->p.row + j0 - t->p.before) * t->a->stride + (uint64_t)t->g * t->a->head_dim;
}

/* Scores of one query at token i with tokens j0 + [lo, hi). */
static void bend(const struct kb_attn_extend *a, uint64_t h, float *s, uint64_t i, uint64_t j0, uint64_t lo, uint64_t hi)
{
    const float *slopes = a->slopes.buf ? kb_at(a->slopes) : NULL;

    for (uint64_t j = lo; a->softcap != 0 && j < hi; j++)
        s[j] = a->softcap * tanhf(s[j] / a->softcap);
    for (uint64_t j = lo; slopes && j < hi; j++)
        s[j] -= slopes[h] * (float)(i - j0 - j);
}

/* Scores of row r with tokens [j0, j1) become weights; its output so far is rescaled when the maximum moves. */
static void weigh(const struct kb_dev *dev, const struct block *t, uint64_t r, uint64_t j0, uint64_t j1)
{
    const uint64_t i = t->p.before + t->t0 + r / t->group, first = first_key(t->a, i), n = j1 - j0;
    const uint64_t lo = first > j0 ? least(first - j0, n) : 0, hi = i + 1 > j0 ? least(i + 1 - j0, n) : 0;
    float *s = t->s + r * KEYS, max;

    if (lo >= hi) {
        memset(s, 0, n * sizeof(float));
        return;
    }
    bend(t->a, (uint64_t)t->g * t->group + r % t->group, s, i, j0, lo, hi);
    max = dev->ops->max(s + lo, hi - lo);
    if (max > t->max[r]) {
        const float factor = expf(t->max[r] - max);

        dev->ops->scale(t->o + r * t->a->head_dim, t->a->head_dim, factor);
        t->sum[r] *= factor;
        t->max[r] = max;
    }
    t->sum[r] += dev->ops->exps(s + lo, hi - lo, t->max[r]);
    memset(s, 0, lo * sizeof(float));
    memset(s + hi, 0, (n - hi) * sizeof(float));
}

static void take_tile(const struct kb_dev *dev, const struct block *t, uint64_t rows, uint64_t j0, uint64_t j1)
{
    const struct kb_attn_extend *a = t->a;
    const uint64_t d = a->head_dim;
    uint64_t stride;
    const float *x = rows_of(dev, t, &a->stored_k, a->k, j0, j1, &stride);

    cpu_product(dev, true, rows, j1 - j0, d, a->scale, t->q, d, x, stride, 0, t->s, KEYS);
    for (uint64_t r = 0; r < rows; r++)
        weigh(dev, t, r, j0, j1);
    x = rows_of(dev, t, &a->stored_v, a->v, j0, j1, &stride);
    cpu_product(dev, false, rows, d, j1 - j0, 1, t->s, KEYS, x, stride, 1, t->o, d);
}

static void attend_block(const struct kb_dev *dev, const struct block *t)
{
    const struct kb_attn_extend *a = t->a;
    const uint64_t rows = (t->t1 - t->t0) * t->group, d = a->head_dim, end = t->p.before + t->t1;

    for (uint64_t r = 0; r < rows; r++) {
        const uint64_t row = t->p.row + t->t0 + r / t->group, h = (uint64_t)t->g * t->group + r % t->group;

        memcpy(t->q + r * d, (const float *)kb_at(a->q) + row * a->stride + h * d, d * sizeof(float));
        t->max[r] = a->sinks.buf ? kb_load(a->sink_format, kb_at(a->sinks), h) : -INFINITY;
        t->sum[r] = a->sinks.buf ? 1 : 0;
    }
    memset(t->o, 0, rows * d * sizeof(float));
    for (uint64_t j0 = first_key(a, t->p.before + t->t0), j1; j0 < end; j0 = j1) {
        j1 = least(j0 + KEYS, j0 < t->p.before && a->k.buf ? t->p.before : end);
        take_tile(dev, t, rows, j0, j1);
    }
    for (uint64_t r = 0; r < rows; r++) {
        const uint64_t row = t->p.row + t->t0 + r / t->group, h = (uint64_t)t->g * t->group + r % t->group;
        float *out = (float *)kb_at(a->out) + row * a->out_stride + h * d;

        dev->ops->scale(t->o + r * d, d, 1 / t->sum[r]);
        memcpy(out, t->o + r * d, d * sizeof(float));
    }
}

kvp_err cpu_attn_extend(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_extend *a = args;
    const uint32_t group = a->heads / a->kv_heads;
    const uint64_t tokens = block_rows(group) / group;
    uint64_t longest = 0, work = 0, blocks, stride;
    float *areas;

    for (uint64_t b = 0; b < a->batch; b++) {
        const struct piece p = piece_of(a, b);

        longest = p.tokens > longest ? p.tokens : longest;
        work += p.tokens * (p.before + p.tokens) * a->heads * a->head_dim;
    }
    blocks = (longest + tokens - 1) / tokens;
    KVP_TRY(cpu_scratch(dev, &areas, &stride, dev->threads, block_floats(a), e));
#pragma omp parallel for schedule(dynamic, 1) num_threads(cpu_threads(dev, work))
    for (uint64_t n = 0; n < blocks * a->batch * a->kv_heads; n++) { /* the last blocks see the most keys: they go first */
        const uint64_t at = (blocks - 1 - n / (a->batch * a->kv_heads)) * tokens, pair = n % (a->batch * a->kv_heads);
        struct block t = {.a = a, .p = piece_of(a, pair / a->kv_heads), .g = (uint32_t)(pair % a->kv_heads), .group = group};

        if (at >= t.p.tokens)
            continue;
        t.t0 = at;
        t.t1 = least(at + tokens, t.p.tokens);
        lay_out(&t, areas + (uint64_t)omp_get_thread_num() * stride);
        attend_block(dev, &t);
    }
    return KVP_OK;
}
