/* attn_slots.c - attention over keys that are rotated as they are read: sines and cosines once a call, shared by
 * all heads, then a tile of turned keys at a time */
#include "kernels/cpu/codes.h"

#include "kernels/ops/attn_slots.h"

#include <math.h>
#include <stdlib.h>

#define TILE 32

struct turned {
    const struct kb_attn_slots *a;
    float *q;  /* [batch, heads, dim], turned */
    float *cs; /* [used + 1, dim]: cosines, then sines, of each place */
};

static uint64_t place(const struct kb_attn_slots *a, uint64_t slot)
{
    return !a->ring || slot < a->first ? slot : a->first + (slot - a->first + a->ring - a->turned) % a->ring;
}

static void angles(const struct kb_attn_slots *a, uint64_t position, float *cs)
{
    const float *inv_freq = kb_at(a->inv_freq);
    uint32_t half = a->attn.head_dim / 2;

    for (uint32_t i = 0; i < half; i++) {
        float angle = (float)position * inv_freq[i];

        cs[i] = cosf(angle);
        cs[half + i] = sinf(angle);
    }
}

static void turn(const float *cs, uint32_t half, const float *x, float *out)
{
#pragma omp simd
    for (uint32_t i = 0; i < half; i++) {
        float u = x[i], v = x[i + half];

        out[i] = u * cs[i] - v * cs[half + i];
        out[i + half] = v * cs[i] + u * cs[half + i];
    }
}

/* extra: a tile of turned keys, then one of rows as they are stored. */
static void scores(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   float *s, uint64_t stride, float *extra)
{
    const struct turned *x = args;
    const struct kb_attn_decode *a = &x->a->attn;
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;
    float *rows = extra + TILE * (uint64_t)d;

    cpu_kv_read(dev, &a->k, b, g, t0, t1, rows);
    for (uint64_t t = t0; t < t1; t++)
        turn(x->cs + place(x->a, t) * d, d / 2, rows + (t - t0) * d, extra + (t - t0) * d);
    dev->ops->dots[KVP_F32](x->q + (b * a->heads + (uint64_t)g * group) * d, d, group, extra, d, t1 - t0, d, a->scale, s,
                            stride, NULL);
}

static void values(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   const float *p, uint64_t stride, float *o, float *extra)
{
    const struct kb_attn_decode *a = &((const struct turned *)args)->a->attn;
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;

    if (!cpu_is_plain(a->v.format)) {
        cpu_kv_read(dev, &a->v, b, g, t0, t1, extra);
        dev->ops->mix[KVP_F32](p, stride, group, extra, d, t1 - t0, d, o, d, NULL);
        return;
    }
    for (uint64_t t = t0, n; t < t1; t += n) {
        n = a->v.block && a->v.block - t % a->v.block < t1 - t ? a->v.block - t % a->v.block : t1 - t;
        dev->ops->mix[a->v.format](p + t - t0, stride, group, kb_kv_row(&a->v, b, g, t), d, n, d, o, d, NULL);
    }
}

static void prepare(const struct kb_dev *dev, const struct turned *x)
{
    const struct kb_attn_decode *a = &x->a->attn;
    uint32_t d = a->head_dim;
    float *own = x->cs + a->used * d;

#pragma omp parallel for num_threads(cpu_threads(dev, a->used * d * 8))
    for (uint64_t t = 0; t < a->used; t++)
        angles(x->a, t, x->cs + t * d);
    angles(x->a, x->a->query, own);
    for (uint64_t r = 0; r < a->batch * a->heads; r++)
        turn(own, d / 2, (const float *)kb_at(a->q) + r / a->heads * a->q_stride + r % a->heads * d, x->q + r * d);
}

kvp_err cpu_attn_slots(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_slots *a = args;
    uint64_t d = a->attn.head_dim, queries = a->attn.batch * a->attn.heads * d, floats = queries + (a->attn.used + 1) * d;
    struct turned x = {.a = a, .q = malloc(floats * sizeof(float))};
    const struct cpu_attend work = {
        .batch = a->attn.batch, .heads = a->attn.heads, .kv_heads = a->attn.kv_heads, .dim = a->attn.head_dim,
        .end = a->attn.used, .tile = TILE, .extra = 2 * TILE * d, .args = &x, .scores = scores, .values = values,
        .out_stride = a->attn.out_stride, .out = kb_at(a->attn.out),
    };
    kvp_err rc;

    if (!x.q)
        return kvp_fail(e, KVP_ENOMEM, "cpu: no memory for %llu angles", (unsigned long long)floats);
    x.cs = x.q + queries;
    prepare(dev, &x);
    rc = cpu_attend(dev, &work, e);
    free(x.q);
    return rc;
}
