/* latent.c - attention in latent space, and the products that lead there and back */
#include "kernels/cpu/codes.h"

#include "kernels/ops/attn_latent.h"
#include "kernels/ops/head_gemm.h"

#define TILE 16 /* tokens: of 512 16-bit channels they fill half of a first cache */

/* Stored rows from slot t on that lie one after another, at most up to t1. */
static uint64_t run_of(const struct kb_kv *kv, uint64_t t, uint64_t t1)
{
    uint64_t left = kv->block ? kv->block - t % kv->block : t1 - t;

    return left < t1 - t ? left : t1 - t;
}

/* Scaled products of every head's q with slots [t0, t1) of one part of the keys. tile: room for TILE rows of codes as f32. */
static void part_scores(const struct kb_dev *dev, const struct kb_attn_latent *a, const struct kb_kv *kv, const float *q, uint64_t q_head,
                        uint64_t b, uint64_t t0, uint64_t t1, float *s, uint64_t stride, float *tile)
{
    for (uint64_t t = t0, n; t < t1; t += n) {
        const bool codes = !cpu_is_plain(kv->format);

        n = run_of(kv, t, t1);
        if (codes)
            cpu_kv_unpack(dev, kv, b, 0, t, n, tile);
        dev->ops->dots[codes ? KVP_F32 : kv->format](q, q_head, a->heads, codes ? tile : kb_kv_row(kv, b, 0, t), kv->dim, n, kv->dim,
                                                     a->scale, s + t - t0, stride, NULL);
        for (uint32_t h = 0; codes && h < a->heads; h++)
            cpu_kv_weigh(kv, b, 0, t, n, s + h * stride + t - t0, s + h * stride + t - t0);
    }
}

/* extra: scores of the second part, a tile, the weights of one tile. */
static float *tile_of(const struct kb_attn_latent *a, float *extra)
{
    return extra + (uint64_t)a->heads * TILE;
}

static void scores(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   float *s, uint64_t stride, float *extra)
{
    const struct kb_attn_latent *a = args;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride, *turned = (const float *)kb_at(a->q_rope) + b * a->q_rope_stride;

    (void)g;
    part_scores(dev, a, &a->latent, q, a->rank, b, t0, t1, s, stride, tile_of(a, extra));
    part_scores(dev, a, &a->rope, turned, a->q_rope_head, b, t0, t1, extra, TILE, tile_of(a, extra));
    for (uint32_t h = 0; h < a->heads; h++)
        for (uint64_t t = 0; t < t1 - t0; t++)
            s[h * stride + t] += extra[h * TILE + t];
}

static void values(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   const float *p, uint64_t stride, float *o, float *extra)
{
    const struct kb_attn_latent *a = args;
    float *tile = tile_of(a, extra), *weights = extra; /* the second part's scores are used up */

    (void)g;
    for (uint64_t t = t0, n; t < t1; t += n) {
        n = run_of(&a->latent, t, t1);
        if (!cpu_is_plain(a->latent.format)) {
            cpu_kv_unpack(dev, &a->latent, b, 0, t, n, tile);
            for (uint32_t h = 0; h < a->heads; h++)
                cpu_kv_weigh(&a->latent, b, 0, t, n, p + h * stride + t - t0, weights + h * n);
            dev->ops->mix[KVP_F32](weights, n, a->heads, tile, a->rank, n, a->rank, o, a->rank, NULL);
            continue;
        }
        dev->ops->mix[a->latent.format](p + t - t0, stride, a->heads, kb_kv_row(&a->latent, b, 0, t), a->rank, n, a->rank, o,
                                        a->rank, NULL);
    }
}

kvp_err cpu_attn_latent(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_latent *a = args;
    const struct cpu_attend work = {
        .batch = a->batch, .heads = a->heads, .kv_heads = 1, .dim = a->rank, .end = a->used, .tile = TILE,
        .extra = (uint64_t)TILE * (a->heads + (a->rank > a->rope_dim ? a->rank : a->rope_dim)), .args = a, .scores = scores, .values = values, .out_stride = a->out_stride,
        .out = kb_at(a->out),
    };

    return cpu_attend(dev, &work, e);
}

kvp_err cpu_head_gemm(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_head_gemm *a = args;
    const uint64_t size = kb_element(a->format), work = a->m * a->heads * a->rows * a->cols;

    (void)e;
#pragma omp parallel for num_threads(cpu_threads(dev, work))
    for (uint32_t h = 0; h < a->heads; h++) {
        const unsigned char *w = (const unsigned char *)kb_at(a->w) + h * a->w_head * size;
        const float *x = (const float *)kb_at(a->x) + h * a->x_head;
        float *out = (float *)kb_at(a->out) + h * a->out_head;

        if (!a->transposed) {
            dev->ops->dots[a->format](x, a->x_stride, (uint32_t)a->m, w, a->cols, a->rows, a->cols, 1, out, a->out_stride, NULL);
            for (uint64_t i = 0; a->bias.buf && i < a->m * a->rows; i++)
                out[i / a->rows * a->out_stride + i % a->rows] += kb_load(a->format, kb_at(a->bias), h * a->bias_head + i % a->rows);
            continue;
        }
        for (uint64_t r = 0; r < a->m; r++)
            memset(out + r * a->out_stride, 0, a->cols * sizeof(float));
        dev->ops->mix[a->format](x, a->x_stride, (uint32_t)a->m, w, a->cols, a->rows, a->cols, out, a->out_stride, NULL);
    }
    return KVP_OK;
}
