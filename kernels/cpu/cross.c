/* cross.c - attention of queries over keys that are not their own tokens': a block of queries by tiles of keys, all query
 * heads of a kv head together, so that a stored row is unpacked once for all that look at it */
#include "kernels/cpu/codes.h"

#include "kernels/ops/attn_cross.h"
#include "kernels/ops/attn_decode.h"

#include <math.h>
#include <omp.h>

#define ROWS 64 /* query rows of a block: queries times heads of the group */
#define KEYS 256

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Queries [i0, i1) of sequence b in kv head g; row r is query i0 + r / group, head g * group + r % group. */
struct block {
    const struct kb_attn_cross *a;
    uint64_t b, i0, i1;
    uint32_t g, group;
    float *q, *o, *s, *tile, *max, *sum; /* [rows, dim] twice, [rows, KEYS], [KEYS, dim], [rows] twice */
};

static uint64_t block_rows(uint32_t group)
{
    return group > ROWS ? group : ROWS / group * group;
}

static uint64_t block_floats(const struct kb_attn_cross *a)
{
    const uint64_t rows = block_rows(a->heads / a->kv_heads), d = a->head_dim;

    return rows * (2 * d + KEYS + 2) + KEYS * d;
}

static void lay_out(struct block *t, float *area)
{
    const uint64_t rows = block_rows(t->group), d = t->a->head_dim;

    t->q = area;
    t->o = t->q + rows * d;
    t->s = t->o + rows * d;
    t->tile = t->s + rows * KEYS;
    t->max = t->tile + KEYS * d;
    t->sum = t->max + rows;
}

static void unpack(const struct kb_dev *dev, const struct block *t, const struct kb_kv *kv, uint64_t j0, uint64_t j1)
{
    const uint32_t d = t->a->head_dim;
    float *row = t->tile;

    for (uint64_t j = j0; j < j1; j++, row += d) {
        float one = 1;

        if (cpu_is_plain(kv->format)) {
            dev->ops->widen[kv->format](row, kb_kv_row(kv, t->b, t->g, j), d);
            continue;
        }
        cpu_kv_unpack(dev, kv, t->b, t->g, j, 1, row);
        cpu_kv_weigh(kv, t->b, t->g, j, 1, &one, &one);
        dev->ops->scale(row, d, one);
    }
}

/* Keys or values [j0, j1) as f32 rows. */
static const float *rows_of(const struct kb_dev *dev, const struct block *t, struct kb_span rows, const struct kb_kv *stored, uint64_t j0,
                            uint64_t j1, uint64_t *stride)
{
    const struct kb_attn_cross *a = t->a;

    if (rows.buf) {
        *stride = a->kv_stride;
        return (const float *)kb_at(rows) + (t->b * a->used + j0) * a->kv_stride + (uint64_t)t->g * a->head_dim;
    }
    unpack(dev, t, stored, j0, j1);
    *stride = a->head_dim;
    return t->tile;
}

/* The bias of row r's scores with keys [j0, j0 + n). */
static void add_bias(const struct block *t, uint64_t r, uint64_t j0, uint64_t n, float *s)
{
    const struct kb_attn_cross *a = t->a;
    const uint64_t h = (uint64_t)t->g * t->group + r % t->group, i = a->position + t->i0 + r / t->group;
    const float *bias = (const float *)kb_at(a->bias) + h * (2 * a->span - 1) + (a->span - 1 + j0 - i);

    for (uint64_t j = 0; j < n; j++)
        s[j] += bias[j];
}

/* Scores of row r with keys [j0, j1) become weights; its output so far is rescaled when the maximum moves. */
static void weigh(const struct kb_dev *dev, const struct block *t, uint64_t r, uint64_t j0, uint64_t j1)
{
    const struct kb_attn_cross *a = t->a;
    const uint64_t end = a->causal ? a->position + t->i0 + r / t->group + 1 : j1, n = end > j0 ? least(end, j1) - j0 : 0;
    float *s = t->s + r * KEYS, max;

    memset(s + n, 0, (j1 - j0 - n) * sizeof(float));
    if (!n)
        return;
    if (a->bias.buf)
        add_bias(t, r, j0, n, s);
    max = dev->ops->max(s, n);
    if (max > t->max[r]) {
        const float factor = expf(t->max[r] - max);

        dev->ops->scale(t->o + r * a->head_dim, a->head_dim, factor);
        t->sum[r] *= factor;
        t->max[r] = max;
    }
    t->sum[r] += dev->ops->exps(s, n, t->max[r]);
}

static void take_tile(const struct kb_dev *dev, const struct block *t, uint64_t rows, uint64_t j0, uint64_t j1)
{
    const struct kb_attn_cross *a = t->a;
    const uint64_t d = a->head_dim;
    uint64_t stride;
    const float *x = rows_of(dev, t, a->k, &a->stored_k, j0, j1, &stride);

    cpu_product(dev, true, rows, j1 - j0, d, a->scale, t->q, d, x, stride, 0, t->s, KEYS);
    for (uint64_t r = 0; r < rows; r++)
        weigh(dev, t, r, j0, j1);
    x = rows_of(dev, t, a->v, &a->stored_v, j0, j1, &stride);
    cpu_product(dev, false, rows, d, j1 - j0, 1, t->s, KEYS, x, stride, 1, t->o, d);
}

static void attend_block(const struct kb_dev *dev, const struct block *t)
{
    const struct kb_attn_cross *a = t->a;
    const uint64_t rows = (t->i1 - t->i0) * t->group, d = a->head_dim;
    const uint64_t end = a->causal ? least(a->position + t->i1, a->used) : a->used;

    for (uint64_t r = 0; r < rows; r++) {
        const uint64_t row = t->b * a->queries + t->i0 + r / t->group, h = (uint64_t)t->g * t->group + r % t->group;

        memcpy(t->q + r * d, (const float *)kb_at(a->q) + row * a->q_stride + h * d, d * sizeof(float));
        t->max[r] = -INFINITY;
        t->sum[r] = 0;
    }
    memset(t->o, 0, rows * d * sizeof(float));
    for (uint64_t j = 0; j < end; j += KEYS)
        take_tile(dev, t, rows, j, least(j + KEYS, end));
    for (uint64_t r = 0; r < rows; r++) {
        const uint64_t row = t->b * a->queries + t->i0 + r / t->group, h = (uint64_t)t->g * t->group + r % t->group;

        dev->ops->scale(t->o + r * d, d, 1 / t->sum[r]);
        memcpy((float *)kb_at(a->out) + row * a->out_stride + h * d, t->o + r * d, d * sizeof(float));
    }
}

/* One query that sees every stored key is a decode step's. */
static kvp_err one_query(struct kb_dev *dev, const struct kb_attn_cross *a, struct kvp_error *e)
{
    const struct kb_attn_decode one = {.batch = a->batch, .heads = a->heads, .kv_heads = a->kv_heads, .head_dim = a->head_dim,
                                       .scale = a->scale, .used = a->used, .q_stride = a->q_stride, .q = a->q, .k = a->stored_k,
                                       .v = a->stored_v, .out_stride = a->out_stride, .out = a->out};

    return cpu_attn_decode(dev, &one, e);
}

kvp_err cpu_attn_cross(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_cross *a = args;
    const uint32_t group = a->heads / a->kv_heads;
    const uint64_t step = block_rows(group) / group, blocks = (a->queries + step - 1) / step, pairs = a->batch * a->kv_heads;
    uint64_t stride;
    float *areas;

    if (a->queries == 1 && !a->k.buf && !a->bias.buf && (!a->causal || a->position + 1 >= a->used))
        return one_query(dev, a, e);
    KVP_TRY(cpu_scratch(dev, &areas, &stride, dev->threads, block_floats(a), e));
#pragma omp parallel for schedule(dynamic, 1) num_threads(cpu_threads(dev, a->batch * a->queries * a->used * a->heads * a->head_dim))
    for (uint64_t n = 0; n < blocks * pairs; n++) {
        const uint64_t i0 = n / pairs * step, pair = n % pairs;
        struct block t = {.a = a, .b = pair / a->kv_heads, .i0 = i0, .i1 = least(i0 + step, a->queries),
                          .g = (uint32_t)(pair % a->kv_heads), .group = group};

        lay_out(&t, areas + (uint64_t)omp_get_thread_num() * stride);
        attend_block(dev, &t);
    }
    return KVP_OK;
}
