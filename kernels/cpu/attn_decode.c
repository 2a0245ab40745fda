#include "kernels/cpu/codes.h"

#include "kernels/ops/attn_decode.h"

/* A tile of one page of memory keeps the processor's own prefetching of both streams going; with many query heads
 * per key it falls behind, and fetching values while keys are read (and the next keys while values are) helps.
 * Measured on an AMD EPYC (Zen 4), f16, d 128, one thread, of 31 GB/s: tiles of 2, 4, 8 KiB with 1 head 29, 30, 26
 * GB/s; of 4 KiB with 4 heads 10 GB/s without and 15 with fetching, with 1 head 30 and 18. Scattered pages of 16
 * tokens end every stream at once: asking for the next tile's pages early makes 1 head 9 GB/s instead of 7, 4 heads
 * 12 instead of 6. */
#define TILE_BYTES 4096
#define FETCH_FROM 4 /* query heads per kv head */
#define CODE_TILE_BYTES 16384 /* of codes as f32: half of the first cache */

static uint32_t value_dim(const struct kb_attn_decode *a)
{
    return a->v_dim ? a->v_dim : a->head_dim;
}

/* Stored rows from slot t on that lie one after another, at most up to t1. */
static uint64_t run_of(const struct kb_kv *kv, uint64_t t, uint64_t t1)
{
    uint64_t left = kv->block ? kv->block - t % kv->block : t < kv->shared ? kv->shared - t : t1 - t;

    return left < t1 - t ? left : t1 - t;
}

/* Ask for the pages of slots [t0, t1), for the second cache. */
static void fetch_pages(const struct kb_attn_decode *a, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1)
{
    for (uint64_t t = t0, n; t < t1; t += n) {
        n = run_of(&a->k, t, t1);
        const char *k = kb_kv_row(&a->k, b, g, t), *v = kb_kv_row(&a->v, b, g, t);

        for (uint64_t i = 0; i < n * kb_row_bytes(a->k.format, a->head_dim); i += 64)
            __builtin_prefetch(k + i, 0, 2);
        for (uint64_t i = 0; i < n * kb_row_bytes(a->v.format, value_dim(a)); i += 64)
            __builtin_prefetch(v + i, 0, 2);
    }
}

/* Codes that the loops take as they are stored, scales left out. */
static bool direct(const struct kb_dev *dev, const struct kb_kv *kv)
{
    return dev->ops->code->row_dots[kv->format] && (kv->scales == KB_SCALES_ROW || kv->scales == KB_SCALES_TENSOR) &&
           kv->dim % CPU_CODE_BLOCK == 0 && kv->dim <= CPU_CODE_DIM;
}

/* Scores of slots [t, t + n) from their codes. */
static void code_scores(const struct kb_dev *dev, const struct kb_attn_decode *a, uint64_t b, uint32_t g, uint64_t t, uint64_t n,
                        const float *q, float *s, uint64_t stride, float *tile)
{
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;

    if (direct(dev, &a->k)) {
        dev->ops->code->row_dots[a->k.format](q, group, kb_kv_row(&a->k, b, g, t), n, d, a->scale, s, stride);
    } else {
        cpu_kv_unpack(dev, &a->k, b, g, t, n, tile);
        dev->ops->dots[KVP_F32](q, d, group, tile, d, n, d, a->scale, s, stride, NULL);
    }
    for (uint32_t h = 0; h < group; h++)
        cpu_kv_weigh(&a->k, b, g, t, n, s + h * stride, s + h * stride);
}

/* tile: the codes of n rows, then the weights of one head. */
static void code_values(const struct kb_dev *dev, const struct kb_attn_decode *a, uint64_t b, uint32_t g, uint64_t t, uint64_t n,
                        const float *p, uint64_t stride, float *o, float *tile)
{
    uint32_t group = a->heads / a->kv_heads, d = value_dim(a);
    float *weights = tile + n * d;

    for (uint32_t h = 0; h < group; h++)
        cpu_kv_weigh(&a->v, b, g, t, n, p + h * stride, weights + h * n);
    if (direct(dev, &a->v)) {
        dev->ops->code->row_mix[a->v.format](weights, n, group, kb_kv_row(&a->v, b, g, t), n, d, o);
        return;
    }
    cpu_kv_unpack(dev, &a->v, b, g, t, n, tile);
    dev->ops->mix[KVP_F32](weights, n, group, tile, d, n, d, o, d, NULL);
}

static void scores(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   float *s, uint64_t stride, float *extra)
{
    const struct kb_attn_decode *a = args;
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)g * group * d;
    uint64_t stored = t1 < a->used ? t1 : a->used, n;

    if (a->k.block && a->k.block == a->v.block)
        fetch_pages(a, b, g, t1, t1 + (t1 - t0) < a->used ? t1 + (t1 - t0) : a->used);
    for (uint64_t t = t0; t < stored; t += n) {
        n = run_of(&a->k, t, stored);
        if (!cpu_is_plain(a->k.format)) {
            code_scores(dev, a, b, g, t, n, q, s + t - t0, stride, extra);
            continue;
        }
        dev->ops->dots[a->k.format](q, d, group, kb_kv_row(&a->k, b, g, t), d, n, d, a->scale, s + t - t0, stride,
                                    group < FETCH_FROM || a->v.dim != d ? NULL : kb_kv_row(&a->v, b, g, t));
    }
    if (t1 > a->used)
        dev->ops->dots[KVP_F32](q, d, group, (const float *)kb_at(a->tail_k) + b * a->tail_stride + (uint64_t)g * d, d,
                                1, d, a->scale, s + a->used - t0, stride, NULL);
    for (uint32_t h = 0; h < group && (a->softcap != 0 || a->slopes.buf); h++)
        cpu_bend(s + h * stride, t0, t1 - t0, a->used + (a->tail_k.buf != NULL) - 1, a->softcap,
                 a->slopes.buf ? (const float *)kb_at(a->slopes) + g * group + h : NULL);
}

static void values(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   const float *p, uint64_t stride, float *o, float *extra)
{
    const struct kb_attn_decode *a = args;
    uint32_t group = a->heads / a->kv_heads, d = value_dim(a);
    uint64_t stored = t1 < a->used ? t1 : a->used, n;

    for (uint64_t t = t0; t < stored; t += n) {
        uint64_t ahead = t + (t1 - t0);

        n = run_of(&a->v, t, stored);
        if (!cpu_is_plain(a->v.format)) {
            code_values(dev, a, b, g, t, n, p + t - t0, stride, o, extra);
            continue;
        }
        dev->ops->mix[a->v.format](p + t - t0, stride, group, kb_kv_row(&a->v, b, g, t), d, n, d, o, d,
                                   group < FETCH_FROM || ahead + n > a->used || d != a->head_dim ? NULL : kb_kv_row(&a->k, b, g, ahead));
    }
    if (t1 > a->used)
        dev->ops->mix[KVP_F32](p + a->used - t0, stride, group,
                               (const float *)kb_at(a->tail_v) + b * a->tail_stride + (uint64_t)g * d, d, 1, d, o, d,
                               NULL);
}

static uint32_t tile_of(const struct kb_dev *dev, const struct kb_kv *kv)
{
    const bool stored = cpu_is_plain(kv->format) || direct(dev, kv);
    uint64_t n = (stored ? TILE_BYTES / kb_row_bytes(kv->format, kv->dim) : CODE_TILE_BYTES / sizeof(float) / kv->dim) / 8 * 8;

    return (uint32_t)(n < 8 ? 8 : n > 128 ? 128 : n);
}

kvp_err cpu_attn_decode(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_decode *a = args;
    const uint32_t tile = tile_of(dev, cpu_is_plain(a->v.format) ? &a->k : &a->v), group = a->heads / a->kv_heads;
    const bool codes = !cpu_is_plain(a->k.format) || !cpu_is_plain(a->v.format);
    const struct cpu_attend work = {
        .batch = a->batch, .heads = a->heads, .kv_heads = a->kv_heads, .dim = value_dim(a),
        .end = a->used + (a->tail_k.buf != NULL), .tile = tile, .args = a,
        .extra = codes ? (uint64_t)tile * ((a->head_dim > value_dim(a) ? a->head_dim : value_dim(a)) + group) : 0, .scores = scores,
        .values = values, .out_stride = a->out_stride, .out = kb_at(a->out), .probs = kb_at(a->probs), .sinks = a->sinks,
        .sink_format = a->sink_format,
    };

    return cpu_attend(dev, &work, e);
}
