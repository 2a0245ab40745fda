/* kivi.c - packing keys per channel and values per token, and attention over both */
#include "kernels/ref/ref.h"

#include "kernels/ops/attn_kivi.h"
#include "kernels/ops/kivi_pack_k.h"
#include "kernels/ops/kivi_pack_v.h"

#include <math.h>

/* One group of values, already in stored precision. */
struct quant {
    float scale, min;
    uint32_t top; /* 2^bits - 1 */
};

static struct quant range_of(enum kvp_format format, uint32_t bits, const double *x, uint32_t n)
{
    float min = (float)x[0], max = min;
    struct quant q = {.top = (1u << bits) - 1};

    for (uint32_t i = 1; i < n; i++) {
        min = (float)x[i] < min ? (float)x[i] : min;
        max = (float)x[i] > max ? (float)x[i] : max;
    }
    q.min = kb_rounded(format, min);
    q.scale = kb_rounded(format, (max - min) / (float)q.top);
    return q;
}

static uint32_t code_of(const struct quant *q, double x)
{
    float r;

    if (q->scale == 0)
        return 0;
    r = rintf(((float)x - q->min) / q->scale);
    return r < 0 ? 0 : r > (float)q->top ? q->top : (uint32_t)r;
}

static void put_code(uint32_t *words, uint64_t base, uint32_t bits, uint64_t j, uint32_t code)
{
    uint64_t per = 32 / bits;
    uint32_t shift = (uint32_t)(bits * (j % per)), mask = ((1u << bits) - 1) << shift;

    words[base + j / per] = (words[base + j / per] & ~mask) | code << shift;
}

static uint32_t get_code(const uint32_t *words, uint64_t base, uint32_t bits, uint64_t j)
{
    uint64_t per = 32 / bits;

    return words[base + j / per] >> (bits * (j % per)) & ((1u << bits) - 1);
}

static double source(const struct kb_kivi_pack_k *a, uint64_t b, uint64_t t, uint32_t h, uint32_t c)
{
    enum kvp_format f = a->src_is_f32 ? KVP_F32 : a->format;
    float x = kb_load(f, kb_at(a->src), b * a->src_batch + t * a->src_token + h * a->src_head + c);

    return (double)kb_rounded(a->format, x);
}

/* Tokens [t, t + group) of channel c. */
static void pack_k_group(const struct kb_kivi_pack_k *a, uint64_t b, uint32_t h, uint32_t c, uint64_t t, double *x)
{
    struct kb_kivi_place p = kb_kivi_where(&a->dst, b, a->dst_token + t);
    uint64_t run = (p.first * a->kv_heads + h) * a->head_dim + c, words = p.tokens * a->bits / 32;
    uint64_t group = run * (p.tokens / a->group) + p.at / a->group;
    struct quant q;

    for (uint32_t i = 0; i < a->group; i++)
        x[i] = source(a, b, t + i, h, c);
    q = range_of(a->format, a->bits, x, a->group);
    kb_store(a->format, kb_at(a->dst.scale), group, q.scale);
    kb_store(a->format, kb_at(a->dst.min), group, q.min);
    for (uint32_t i = 0; i < a->group; i++)
        put_code(kb_at(a->dst.codes), run * words, a->bits, p.at + i, code_of(&q, x[i]));
}

kvp_err ref_kivi_pack_k(const void *args, struct kvp_error *e)
{
    const struct kb_kivi_pack_k *a = args;
    double *x = ref_scratch(a->group, e);

    if (!x)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t h = 0; h < a->kv_heads; h++)
            for (uint32_t c = 0; c < a->head_dim; c++)
                for (uint64_t t = 0; t < a->tokens; t += a->group)
                    pack_k_group(a, b, h, c, t, x);
    free(x);
    return KVP_OK;
}

/* Channels [c, c + group) of token t. */
static void pack_v_group(const struct kb_kivi_pack_k *a, uint64_t b, uint32_t h, uint32_t c, uint64_t t, double *x)
{
    struct kb_kivi_place p = kb_kivi_where(&a->dst, b, a->dst_token + t);
    uint64_t run = (p.first * a->kv_heads + h) * p.tokens + p.at, words = (uint64_t)a->head_dim * a->bits / 32;
    uint64_t group = run * (a->head_dim / a->group) + c / a->group;
    struct quant q;

    for (uint32_t i = 0; i < a->group; i++)
        x[i] = source(a, b, t, h, c + i);
    q = range_of(a->format, a->bits, x, a->group);
    kb_store(a->format, kb_at(a->dst.scale), group, q.scale);
    kb_store(a->format, kb_at(a->dst.min), group, q.min);
    for (uint32_t i = 0; i < a->group; i++)
        put_code(kb_at(a->dst.codes), run * words, a->bits, c + i, code_of(&q, x[i]));
}

kvp_err ref_kivi_pack_v(const void *args, struct kvp_error *e)
{
    const struct kb_kivi_pack_v *v = args;
    const struct kb_kivi_pack_k a = {
        .batch = v->batch, .kv_heads = v->kv_heads, .head_dim = v->head_dim, .bits = v->bits, .group = v->group,
        .tokens = v->tokens, .format = v->format, .src_is_f32 = v->src_is_f32, .src = v->src,
        .src_batch = v->src_batch, .src_token = v->src_token, .src_head = v->src_head,
        .dst_token = v->dst_token, .dst = v->dst,
    };
    double *x = ref_scratch(a.group, e);

    if (!x)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a.batch; b++)
        for (uint32_t h = 0; h < a.kv_heads; h++)
            for (uint64_t t = 0; t < a.tokens; t++)
                for (uint32_t c = 0; c < a.head_dim; c += a.group)
                    pack_v_group(&a, b, h, c, t, x);
    free(x);
    return KVP_OK;
}

static double key(const struct kb_attn_kivi *a, uint64_t b, uint32_t g, uint64_t t, uint32_t c)
{
    struct kb_kivi_place p;
    uint64_t run, group;

    if (t >= a->k_packed)
        return (double)kb_load(a->format, kb_at(a->k_res),
                               ((b * a->kv_heads + g) * a->k_res_slots + t - a->k_packed) * a->head_dim + c);
    p = kb_kivi_where(&a->k, b, t);
    run = (p.first * a->kv_heads + g) * a->head_dim + c;
    group = run * (p.tokens / a->group) + p.at / a->group;
    return (double)get_code(kb_at(a->k.codes), run * (p.tokens * a->bits / 32), a->bits, p.at) *
               (double)kb_load(a->format, kb_at(a->k.scale), group) +
           (double)kb_load(a->format, kb_at(a->k.min), group);
}

static double value(const struct kb_attn_kivi *a, uint64_t b, uint32_t g, uint64_t t, uint32_t c)
{
    struct kb_kivi_place p;
    uint64_t run, group;

    if (t >= a->v_packed + a->v_full)
        return (double)((const float *)kb_at(a->tail_v))[b * a->tail_stride + (uint64_t)g * a->head_dim + c];
    if (t >= a->v_packed) {
        uint64_t slot = (a->v_first + t - a->v_packed) % a->v_res_slots;

        return (double)kb_load(a->format, kb_at(a->v_res),
                               ((b * a->kv_heads + g) * a->v_res_slots + slot) * a->head_dim + c);
    }
    p = kb_kivi_where(&a->v, b, t);
    run = (p.first * a->kv_heads + g) * p.tokens + p.at;
    group = run * (a->head_dim / a->group) + c / a->group;
    return (double)get_code(kb_at(a->v.codes), run * ((uint64_t)a->head_dim * a->bits / 32), a->bits, c) *
               (double)kb_load(a->format, kb_at(a->v.scale), group) +
           (double)kb_load(a->format, kb_at(a->v.min), group);
}

static void attend(const struct kb_attn_kivi *a, uint64_t b, uint32_t h, double *s)
{
    uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)h * d;
    float *out = (float *)kb_at(a->out) + b * a->out_stride + (uint64_t)h * d;
    uint64_t n = a->k_packed + a->k_full - a->first;

    for (uint64_t j = 0; j < n; j++) {
        double sum = 0;

        for (uint32_t c = 0; c < d; c++)
            sum += (double)q[c] * key(a, b, g, a->first + j, c);
        s[j] = (double)a->scale_qk * sum;
    }
    ref_softmax(s, n);
    for (uint32_t c = 0; c < d; c++) {
        double sum = 0;

        for (uint64_t j = 0; j < n; j++)
            sum += s[j] * value(a, b, g, a->first + j, c);
        out[c] = (float)sum;
    }
}

kvp_err ref_attn_kivi(const void *args, struct kvp_error *e)
{
    const struct kb_attn_kivi *a = args;
    double *s = ref_scratch(a->k_packed + a->k_full - a->first, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t h = 0; h < a->heads; h++)
            attend(a, b, h, s);
    free(s);
    return KVP_OK;
}
