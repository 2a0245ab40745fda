/* kivi_pack.c - KIVI's codes. What decides a bit (kernels/ops/kivi_pack_k.h) stands in range_of and code_of:
 * single f32 operations, which no compiler may contract because none of them feeds an addition. */
#include "kernels/cpu/cpu.h"

#include "kernels/ops/kivi_pack_k.h"
#include "kernels/ops/kivi_pack_v.h"

#include <math.h>

struct quant {
    float scale, min;
};

static struct quant range_of(enum kvp_format format, uint32_t bits, const float *x, uint64_t stride, uint32_t n)
{
    float min = x[0], max = x[0];

    for (uint32_t i = 1; i < n; i++) {
        min = x[i * stride] < min ? x[i * stride] : min;
        max = x[i * stride] > max ? x[i * stride] : max;
    }
    return (struct quant){kb_rounded(format, (max - min) / (float)((1u << bits) - 1)), min};
}

/* Clamping to whole numbers before rounding gives what clamping after it gives, and the rounding of a number
 * below 2^22 is the addition of 1.5 * 2^23: to nearest even, in the low bits. */
static uint32_t code_of(struct quant q, uint32_t bits, float x)
{
    float top = (float)((1u << bits) - 1), r;

    if (q.scale == 0)
        return 0;
    r = (x - q.min) / q.scale;
    r = r < 0 ? 0 : r > top ? top : r;
    return kb_f32_bits(r + 0x1.8p23f) & ((1u << bits) - 1);
}

/* One word: 32/bits values, `stride` apart. */
static uint32_t word_of(struct quant q, uint32_t bits, const float *x, uint64_t stride)
{
    uint32_t word = 0;

    for (uint32_t i = 0; i < 32 / bits; i++)
        word |= code_of(q, bits, x[i * stride]) << i * bits;
    return word;
}

/* `rows` tokens from t on, head h, rounded to the stored precision: [rows, head_dim] f32. */
static void load_rows(const struct kb_dev *dev, const struct kb_kivi_pack_k *a, uint64_t b, uint32_t h, uint64_t t,
                      uint32_t rows, float *x)
{
    enum kvp_format from = a->src_is_f32 ? KVP_F32 : a->format;

    for (uint32_t r = 0; r < rows; r++, x += a->head_dim) {
        uint64_t at = b * a->src_batch + (t + r) * a->src_token + h * a->src_head;

        dev->ops->widen[from](x, (const unsigned char *)kb_at(a->src) + at * kb_element(from), a->head_dim);
        for (uint32_t c = 0; from != a->format && c < a->head_dim; c++)
            x[c] = kb_rounded(a->format, x[c]);
    }
}

/* One group of tokens from t on. */
static void pack_k(const struct kb_dev *dev, const struct kb_kivi_pack_k *a, uint64_t b, uint32_t h, uint64_t t, float *x)
{
    struct kb_kivi_place p = kb_kivi_where(&a->dst, b, a->dst_token + t);
    uint64_t run = (p.first * a->kv_heads + h) * a->head_dim, words = p.tokens * a->bits / 32;
    uint32_t per = 32 / a->bits, d = a->head_dim;

    load_rows(dev, a, b, h, t, a->group, x);
    for (uint32_t c = 0; c < d; c++) {
        struct quant q = range_of(a->format, a->bits, x + c, d, a->group);
        uint32_t *w = (uint32_t *)kb_at(a->dst.codes) + (run + c) * words + p.at / per;
        uint64_t group = (run + c) * (p.tokens / a->group) + p.at / a->group;

        for (uint32_t i = 0; i < a->group / per; i++)
            w[i] = word_of(q, a->bits, x + (uint64_t)i * per * d + c, d);
        kb_store(a->format, kb_at(a->dst.scale), group, q.scale);
        kb_store(a->format, kb_at(a->dst.min), group, q.min);
    }
}

kvp_err cpu_kivi_pack_k(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_kivi_pack_k *a = args;
    uint64_t groups = a->tokens / a->group, heads = a->batch * a->kv_heads, parts = dev->threads, stride;
    float *x;

    KVP_TRY(cpu_scratch(dev, &x, &stride, parts, (uint64_t)a->group * a->head_dim, e));
#pragma omp parallel for num_threads(cpu_threads(dev, 4 * heads * a->tokens * a->head_dim))
    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t i = heads * groups * part / parts; i < heads * groups * (part + 1) / parts; i++)
            pack_k(dev, a, i / groups / a->kv_heads, (uint32_t)(i / groups % a->kv_heads), i % groups * a->group,
                   x + part * stride);
    return KVP_OK;
}

static void pack_v(const struct kb_dev *dev, const struct kb_kivi_pack_k *a, uint64_t b, uint32_t h, uint64_t t, float *x)
{
    struct kb_kivi_place p = kb_kivi_where(&a->dst, b, a->dst_token + t);
    uint64_t row = (p.first * a->kv_heads + h) * p.tokens + p.at;
    uint32_t per = 32 / a->bits, groups = a->head_dim / a->group;
    uint32_t *words = (uint32_t *)kb_at(a->dst.codes) + row * (a->head_dim / per);

    load_rows(dev, a, b, h, t, 1, x);
    for (uint32_t g = 0; g < groups; g++) {
        struct quant q = range_of(a->format, a->bits, x + (uint64_t)g * a->group, 1, a->group);

        for (uint32_t c = g * a->group; c < (g + 1) * a->group; c += per)
            words[c / per] = word_of(q, a->bits, x + c, 1);
        kb_store(a->format, kb_at(a->dst.scale), row * groups + g, q.scale);
        kb_store(a->format, kb_at(a->dst.min), row * groups + g, q.min);
    }
}

kvp_err cpu_kivi_pack_v(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_kivi_pack_v *v = args;
    const struct kb_kivi_pack_k a = {
        .batch = v->batch, .kv_heads = v->kv_heads, .head_dim = v->head_dim, .bits = v->bits, .group = v->group,
        .tokens = v->tokens, .format = v->format, .src_is_f32 = v->src_is_f32, .src = v->src,
        .src_batch = v->src_batch, .src_token = v->src_token, .src_head = v->src_head,
        .dst_token = v->dst_token, .dst = v->dst,
    };
    uint64_t rows = a.batch * a.kv_heads * a.tokens, parts = dev->threads, stride;
    float *x;

    KVP_TRY(cpu_scratch(dev, &x, &stride, parts, a.head_dim, e));
#pragma omp parallel for num_threads(cpu_threads(dev, 4 * rows * a.head_dim))
    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t i = rows * part / parts; i < rows * (part + 1) / parts; i++)
            pack_v(dev, &a, i / a.tokens / a.kv_heads, (uint32_t)(i / a.tokens % a.kv_heads), i % a.tokens,
                   x + part * stride);
    return KVP_OK;
}
