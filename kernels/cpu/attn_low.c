/* attn_low.c - attention over latents: a tile of them unpacked, its keys rebuilt by a product, normed and turned, then
 * attended to as if they were stored. Sines and cosines are made once a call and shared by all heads. */
#include "kernels/cpu/codes.h"

#include "kernels/ops/attn_low.h"

#include <math.h>
#include <stdlib.h>

#define TILE 32

struct low {
    const struct kb_attn_low *a;
    float *q;    /* [batch, heads, dim], turned */
    float *cs;   /* [used + 1, dim]: cosines, then sines, of each place; NULL: nothing turns */
    float *bias; /* [2, kv_heads * dim] of keys and of values, 0 where they have none */
    float *norm; /* [dim] */
};

static uint64_t place(const struct kb_attn_low *a, uint64_t slot)
{
    return !a->ring || slot < a->first ? slot : a->first + (slot - a->first + a->ring - a->turned) % a->ring;
}

static void angles(const struct kb_attn_low *a, uint64_t position, float *cs)
{
    const float *inv_freq = kb_at(a->inv_freq);
    const uint32_t half = a->head_dim / 2;

    for (uint32_t i = 0; i < half; i++) {
        const float angle = (float)position * inv_freq[i];

        cs[i] = cosf(angle);
        cs[half + i] = sinf(angle);
    }
}

static void turn(const float *cs, uint32_t half, float *x)
{
#pragma omp simd
    for (uint32_t i = 0; i < half; i++) {
        const float u = x[i], v = x[i + half];

        x[i] = u * cs[i] - v * cs[half + i];
        x[i + half] = v * cs[i] + u * cs[half + i];
    }
}

/* rows [n, dim] of kv head g from latents [n, rank]. */
static void rebuild(const struct kb_dev *dev, const struct low *x, const struct kb_factor *f, uint32_t rank, uint32_t g, uint64_t n,
                    const float *from, float *rows)
{
    const uint64_t d = x->a->head_dim, at = g * d * rank * kb_element(x->a->format);
    const float *bias = x->bias + (f == &x->a->v_up ? x->a->kv_heads * d : 0) + g * d;

    dev->ops->dots[x->a->format](from, rank, (uint32_t)n, (const unsigned char *)kb_at(f->w) + at, rank, d, rank, 1, rows, d, NULL);
    for (uint64_t t = 0; f->bias.buf && t < n; t++)
        for (uint64_t i = 0; i < d; i++)
            rows[t * d + i] += bias[i];
}

/* extra: a tile of rows, then one of latents. */
static void scores(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1, float *s,
                   uint64_t stride, float *extra)
{
    const struct low *x = args;
    const struct kb_attn_low *a = x->a;
    const uint32_t group = a->heads / a->kv_heads, d = a->head_dim;
    float *tile = extra + (uint64_t)TILE * d;

    cpu_kv_read(dev, &a->k, b, 0, t0, t1, tile);
    rebuild(dev, x, &a->k_up, a->k.dim, g, t1 - t0, tile, extra);
    for (uint64_t t = t0; t < t1; t++) {
        float *row = extra + (t - t0) * d;

        if (x->norm) {
            dev->ops->scale(row, d, 1 / sqrtf(dev->ops->squares(row, d, 0) / (float)d + a->eps));
            for (uint32_t i = 0; i < d; i++)
                row[i] *= x->norm[i];
        }
        if (x->cs)
            turn(x->cs + place(a, t) * d, d / 2, row);
    }
    dev->ops->dots[KVP_F32](x->q + (b * a->heads + (uint64_t)g * group) * d, d, group, extra, d, t1 - t0, d, a->scale, s, stride, NULL);
}

static void values(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1, const float *p,
                   uint64_t stride, float *o, float *extra)
{
    const struct low *x = args;
    const struct kb_attn_low *a = x->a;
    const uint32_t group = a->heads / a->kv_heads, d = a->head_dim;
    float *tile = extra + (uint64_t)TILE * d;

    cpu_kv_read(dev, &a->v, b, 0, t0, t1, tile);
    if (!a->v_up.w.buf) {
        dev->ops->mix[KVP_F32](p, stride, group, tile, a->v.dim, t1 - t0, a->v.dim, o, a->v.dim, NULL);
        return;
    }
    rebuild(dev, x, &a->v_up, a->v.dim, g, t1 - t0, tile, extra);
    dev->ops->mix[KVP_F32](p, stride, group, extra, d, t1 - t0, d, o, d, NULL);
}

static void prepare(const struct kb_dev *dev, const struct low *x)
{
    const struct kb_attn_low *a = x->a;
    const uint64_t d = a->head_dim, kv = a->kv_heads * d;
    float *own = x->cs ? x->cs + a->used * d : NULL;

#pragma omp parallel for num_threads(cpu_threads(dev, x->cs ? a->used * d * 8 : 0))
    for (uint64_t t = 0; t < (x->cs ? a->used : 0); t++)
        angles(a, t, x->cs + t * d);
    if (own)
        angles(a, a->query, own);
    for (uint64_t r = 0; r < a->batch * a->heads; r++) {
        memcpy(x->q + r * d, (const float *)kb_at(a->q) + r / a->heads * a->q_stride + r % a->heads * d, d * sizeof(float));
        if (own)
            turn(own, (uint32_t)d / 2, x->q + r * d);
    }
    if (a->k_up.bias.buf)
        dev->ops->widen[a->format](x->bias, kb_at(a->k_up.bias), kv);
    if (a->v_up.bias.buf)
        dev->ops->widen[a->format](x->bias + kv, kb_at(a->v_up.bias), kv);
    if (x->norm)
        dev->ops->widen[a->format](x->norm, kb_at(a->norm), d);
}

kvp_err cpu_attn_low(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_low *a = args;
    const uint64_t d = a->head_dim, queries = a->batch * a->heads * d, biases = 2 * a->kv_heads * d;
    const uint64_t floats = queries + biases + d + (a->inv_freq.buf ? (a->used + 1) * d : 0);
    struct low x = {.a = a, .q = malloc(floats * sizeof(float))};
    const struct cpu_attend work = {
        .batch = a->batch, .heads = a->heads, .kv_heads = a->kv_heads, .dim = a->v_up.w.buf ? a->head_dim : a->v.dim, .end = a->used,
        .tile = TILE, .extra = TILE * (d + (a->k.dim > a->v.dim ? a->k.dim : a->v.dim)), .args = &x, .scores = scores, .values = values,
        .out_stride = a->out_stride, .out = kb_at(a->out),
    };
    kvp_err rc;

    if (!x.q)
        return kvp_fail(e, KVP_ENOMEM, "cpu: no memory for %llu numbers", (unsigned long long)floats);
    x.bias = x.q + queries;
    x.norm = a->norm.buf ? x.bias + biases : NULL;
    x.cs = a->inv_freq.buf ? x.bias + biases + d : NULL;
    prepare(dev, &x);
    rc = cpu_attend(dev, &work, e);
    free(x.q);
    return rc;
}
