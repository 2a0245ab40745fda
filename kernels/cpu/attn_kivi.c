/* attn_kivi.c - attention straight from codes: with value = code * scale + min,
 * q.k = sum(q scale code) + sum(q min) and sum(p v) = sum(p scale code) + sum(p min). */
#include "kernels/cpu/cpu.h"

#include "kernels/ops/attn_kivi.h"

#define TILE 256 /* tokens of a tile, or one group where that is more */
#define RUN 32   /* tokens whose codes are taken together */
#define AHEAD 16 /* channels */
#define HEADS 4  /* query heads for which what is folded stays in the first cache */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The words of n channels, `words` each and `stride` apart, one after another: a strip whose length is a power of
 * two puts all channels in the same lines of the cache, so each line is read once, some channels after it was asked
 * for. */
static void gather(uint32_t *to, const uint32_t *from, uint32_t n, uint64_t words, uint64_t stride)
{
    for (uint32_t c = 0; c < n; c++, to += words, from += stride) {
        const uint32_t *later = from + AHEAD * stride;

        for (uint64_t i = 0; c + AHEAD < n && i < words; i += 16)
            __builtin_prefetch(later + i);
        for (uint64_t i = 0; i < words; i++)
            to[i] = from[i];
    }
}

/* Where the run and the group of token t end; runs are counted from token 0. */
static uint64_t run_end(const struct kb_attn_kivi *a, uint64_t t)
{
    return least((t / a->group + 1) * a->group, (t / RUN + 1) * RUN);
}

/* Scores of the tokens [t0, t1) for `heads` query heads, from codes [dim, words] of the groups from token `start` on.
 * extra: q * scale [heads, dim, 8], sum(q min) [heads, 8], scores of one run [heads, RUN]. */
static void key_scores(const struct kb_dev *dev, const struct kb_attn_kivi *a, uint32_t heads, const float *extra,
                       float *part, const uint32_t *codes, uint64_t words, uint64_t start, uint64_t t0, uint64_t t1,
                       float *s, uint64_t stride)
{
    const float *base = extra + (uint64_t)heads * a->head_dim * 8;
    uint64_t t = t0 / RUN * RUN;

    for (t = t < start ? start : t; t < t1; t = run_end(a, t)) {
        uint64_t j = (t - start) / a->group, end = run_end(a, t), lo = t > t0 ? t : t0, hi = least(end, t1);

        dev->ops->kivi->code_dots(extra + j, heads, codes + (t - start) * a->bits / 32, words, a->head_dim, a->bits,
                            (uint32_t)(end - t), part, RUN);
        for (uint32_t h = 0; h < heads; h++)
            for (uint64_t u = lo; u < hi; u++)
                s[h * stride + u - t0] = part[h * RUN + u - t] + base[h * 8 + j];
    }
}

/* Scores of the tokens [t0, t1), which lie in `n` groups of packed keys, the first of which starts at `start`, at
 * place p. extra: for HEADS heads what key_scores() needs, then the codes. */
static void packed_keys(const struct kb_dev *dev, const struct kb_attn_kivi *a, struct kb_kivi_place p, uint32_t g,
                        const float *q, uint64_t start, uint32_t n, uint64_t t0, uint64_t t1, float *s, uint64_t stride,
                        float *extra)
{
    uint32_t heads = a->heads / a->kv_heads, d = a->head_dim;
    uint64_t run = (p.first * a->kv_heads + g) * d, groups = p.tokens / a->group, words = (uint64_t)n * a->group * a->bits / 32;
    float *part = extra + HEADS * (8 * (uint64_t)d + 8);
    uint32_t *codes = (uint32_t *)(void *)(part + HEADS * RUN);

    gather(codes, (const uint32_t *)kb_at(a->k.codes) + (run * p.tokens + p.at) * a->bits / 32, d, words,
           p.tokens * a->bits / 32);
    for (uint32_t h = 0; h < heads; h += HEADS) {
        uint32_t m = (uint32_t)least(HEADS, heads - h);

        dev->ops->kivi->fold_k[a->format](q + (uint64_t)h * d, m, d, a->scale_qk, kb_at(a->k.scale), kb_at(a->k.min),
                                    run * groups + p.at / a->group, groups, n, extra, extra + (uint64_t)m * d * 8);
        key_scores(dev, a, m, extra, part, codes, words, start, t0, t1, s + h * stride, stride);
    }
}

/* Neighbouring groups from `start`, at place p, up to the end of the page, the ring and `end`: at most 8. */
static uint32_t group_run(const struct kb_attn_kivi *a, struct kb_kivi_place p, uint64_t start, uint64_t end)
{
    uint64_t n = least(8, (end - start + a->group - 1) / a->group);

    if (a->k.ring)
        n = least(n, (a->k.ring - start % a->k.ring) / a->group);
    return (uint32_t)least(n, (p.tokens - p.at) / a->group);
}

static void scores(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   float *s, uint64_t stride, float *extra)
{
    const struct kb_attn_kivi *a = args;
    uint32_t heads = a->heads / a->kv_heads, d = a->head_dim;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)g * heads * d;
    uint64_t t = t0, packed = least(t1, a->k_packed), end;

    for (; t < packed; t = end) {
        uint64_t start = t / a->group * a->group;
        struct kb_kivi_place p = kb_kivi_where(&a->k, b, start);
        uint32_t n = group_run(a, p, start, packed);

        end = least(start + (uint64_t)n * a->group, packed);
        packed_keys(dev, a, p, g, q, start, n, t, end, s + t - t0, stride, extra);
    }
    if (t < t1) {
        uint64_t row = (b * a->kv_heads + g) * a->k_res_slots + t - a->k_packed;

        dev->ops->dots[a->format](q, d, heads, (const unsigned char *)kb_at(a->k_res) + row * d * kb_element(a->format), d,
                                  t1 - t, d, a->scale_qk, s + t - t0, stride, NULL);
    }
}

/* Packed values from token t on that lie one after another, at `place`: at most `most`. */
static uint64_t value_run(const struct kb_kivi *v, struct kb_kivi_place place, uint64_t t, uint64_t most)
{
    if (v->block)
        most = least(most, place.tokens - place.at);
    return v->ring ? least(most, v->ring - t % v->ring) : most;
}

/* p: weights of `rows` <= RUN tokens that lie one after another at `place`. extra: p * scale
 * [heads, rows, dim / group], then sum(p min) [heads, dim / group]. */
static void packed_values(const struct kb_dev *dev, const struct kb_attn_kivi *a, struct kb_kivi_place place, uint32_t g,
                          uint64_t rows, const float *p, uint64_t stride, float *o, float *extra)
{
    uint32_t heads = a->heads / a->kv_heads, d = a->head_dim, groups = d / a->group;
    uint64_t row = (place.first * a->kv_heads + g) * place.tokens + place.at;
    float *base = extra + heads * rows * groups;

    dev->ops->kivi->fold_v[a->format](p, stride, heads, rows, groups, kb_at(a->v.scale), kb_at(a->v.min), row * groups, extra,
                                base);
    dev->ops->kivi->code_mix(extra, heads, (const uint32_t *)kb_at(a->v.codes) + row * (d * a->bits / 32), rows, d, a->bits,
                       a->group, o, d);
    for (uint32_t n = 0; n < heads * groups; n++) /* heads and their groups of channels follow one another */
        for (uint32_t c = 0; c < a->group; c++)
            o[n * a->group + c] += base[n];
}

static void values(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   const float *p, uint64_t stride, float *o, float *extra)
{
    const struct kb_attn_kivi *a = args;
    uint32_t heads = a->heads / a->kv_heads, d = a->head_dim;
    uint64_t t = t0, n, packed = least(t1, a->v_packed), stored = least(t1, a->v_packed + a->v_full);

    for (; t < packed; t += n) {
        struct kb_kivi_place place = kb_kivi_where(&a->v, b, t);

        n = value_run(&a->v, place, t, least(RUN, packed - t));
        packed_values(dev, a, place, g, n, p + t - t0, stride, o, extra);
    }
    for (; t < stored; t += n) {
        uint64_t slot = (a->v_first + t - a->v_packed) % a->v_res_slots, row = (b * a->kv_heads + g) * a->v_res_slots + slot;

        n = least(stored - t, a->v_res_slots - slot);
        dev->ops->mix[a->format](p + t - t0, stride, heads,
                                 (const unsigned char *)kb_at(a->v_res) + row * d * kb_element(a->format), d, n, d, o, d,
                                 NULL);
    }
    if (t < t1)
        dev->ops->mix[KVP_F32](p + t - t0, stride, heads,
                               (const float *)kb_at(a->tail_v) + b * a->tail_stride + (uint64_t)g * d, d, 1, d, o, d,
                               NULL);
}

kvp_err cpu_attn_kivi(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_kivi *a = args;
    uint64_t heads = a->heads / a->kv_heads, groups = a->head_dim / a->group;
    uint32_t tile = a->group > TILE ? a->group : TILE / a->group * a->group;
    uint64_t keys = HEADS * (8 * (uint64_t)a->head_dim + 8 + RUN) + (uint64_t)a->head_dim * tile * a->bits / 32;
    uint64_t vals = heads * groups * (RUN + 1);
    const struct cpu_attend work = {
        .batch = a->batch, .heads = a->heads, .kv_heads = a->kv_heads, .dim = a->head_dim, .first = a->first,
        .end = a->k_packed + a->k_full, .tile = tile,
        .extra = keys > vals ? keys : vals, .args = a, .scores = scores, .values = values,
        .out_stride = a->out_stride, .out = kb_at(a->out),
    };

    return cpu_attend(dev, &work, e);
}
