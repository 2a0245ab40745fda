/* kivi_pack.c - KIVI's codes. Both kernels work on a tile whose columns are packed side by side: for keys the rows
 * are the tokens of a group and the columns channels; for values the tile is turned, rows are channels and columns
 * tokens. */
#include "kernels/cpu/cpu.h"

#include "kernels/ops/kivi_pack_k.h"
#include "kernels/ops/kivi_pack_v.h"

#define TOKENS 32 /* of a tile of values */

/* Scratch of one thread, in floats: the rows of a tile as they come, a turned tile, and four runs of columns. */
struct area {
    float *rows, *turned, *min, *max, *scale;
    uint32_t *words;
    void *stored; /* one row in the stored format */
};

static uint32_t up(uint32_t n)
{
    return (n + 7) / 8 * 8;
}

static uint64_t area_floats(const struct kb_kivi_pack_k *a, uint32_t tokens)
{
    uint64_t columns = a->head_dim > TOKENS ? a->head_dim : TOKENS;

    return (uint64_t)a->head_dim * (tokens + TOKENS) + 5 * columns;
}

static struct area area_at(const struct kb_kivi_pack_k *a, uint32_t tokens, float *p)
{
    uint64_t columns = a->head_dim > TOKENS ? a->head_dim : TOKENS;
    struct area x = {.rows = p, .turned = p + (uint64_t)tokens * a->head_dim};

    x.min = x.turned + (uint64_t)TOKENS * a->head_dim;
    x.max = x.min + columns;
    x.scale = x.max + columns;
    x.words = (uint32_t *)(void *)(x.scale + columns);
    x.stored = x.words + columns;
    return x;
}

/* `n` tokens from t on, head h, rounded to the stored precision: [n, head_dim] f32. */
static void load_rows(const struct kb_dev *dev, const struct kb_kivi_pack_k *a, uint64_t b, uint32_t h, uint64_t t,
                      uint32_t n, const struct area *x)
{
    enum kvp_format from = a->src_is_f32 ? KVP_F32 : a->format;
    float *row = x->rows;

    for (uint32_t r = 0; r < n; r++, row += a->head_dim) {
        uint64_t at = b * a->src_batch + (t + r) * a->src_token + h * a->src_head;
        const unsigned char *src = (const unsigned char *)kb_at(a->src) + at * kb_element(from);

        dev->ops->widen[from](row, src, a->head_dim);
        if (from != a->format) {
            dev->ops->narrow[a->format](x->stored, row, a->head_dim);
            dev->ops->widen[a->format](row, x->stored, a->head_dim);
        }
    }
}

/* min and scale of n columns of `group` rows; the values are in stored precision, so min is exact. */
static void range(const struct kb_dev *dev, const struct kb_kivi_pack_k *a, const struct area *x, const float *tile,
                  uint64_t stride, uint32_t n)
{
    float top = (float)((1u << a->bits) - 1);

    dev->ops->kivi->ranges(tile, stride, a->group, n, x->min, x->max);
    for (uint32_t c = 0; c < n; c++)
        x->scale[c] = (x->max[c] - x->min[c]) / top;
    dev->ops->narrow[a->format](x->stored, x->scale, n);
    dev->ops->widen[a->format](x->scale, x->stored, n);
}

/* One group of tokens from t on. */
static void pack_k(const struct kb_dev *dev, const struct kb_kivi_pack_k *a, uint64_t b, uint32_t h, uint64_t t, float *p)
{
    struct kb_kivi_place at = kb_kivi_where(&a->dst, b, a->dst_token + t);
    uint64_t run = (at.first * a->kv_heads + h) * a->head_dim, words = at.tokens * a->bits / 32;
    uint64_t groups = at.tokens / a->group, group = at.at / a->group;
    uint32_t per = 32 / a->bits, d = a->head_dim;
    uint32_t *codes = (uint32_t *)kb_at(a->dst.codes) + run * words + at.at / per;
    struct area x = area_at(a, a->group, p);

    load_rows(dev, a, b, h, t, a->group, &x);
    range(dev, a, &x, x.rows, d, d);
    for (uint32_t c = 0; c < d; c++) {
        kb_store(a->format, kb_at(a->dst.scale), (run + c) * groups + group, x.scale[c]);
        kb_store(a->format, kb_at(a->dst.min), (run + c) * groups + group, x.min[c]);
    }
    for (uint32_t i = 0; i < a->group / per; i++) {
        dev->ops->kivi->pack(x.rows + (uint64_t)i * per * d, d, a->bits, d, x.min, x.scale, x.words);
        for (uint32_t c = 0; c < d; c++)
            codes[c * words + i] = x.words[c];
    }
}

kvp_err cpu_kivi_pack_k(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_kivi_pack_k *a = args;
    uint64_t groups = a->tokens / a->group, heads = a->batch * a->kv_heads, parts = dev->threads, stride;
    float *p;

    KVP_TRY(cpu_scratch(dev, &p, &stride, parts, area_floats(a, a->group), e));
#pragma omp parallel for num_threads(cpu_threads(dev, heads * a->tokens * a->head_dim))
    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t i = heads * groups * part / parts; i < heads * groups * (part + 1) / parts; i++)
            pack_k(dev, a, i / groups / a->kv_heads, (uint32_t)(i / groups % a->kv_heads), i % groups * a->group,
                   p + part * stride);
    return KVP_OK;
}

/* Rows [n, d] to columns [d, TOKENS]; the columns from n on repeat the last. */
static void turn(const struct area *x, uint32_t n, uint32_t d)
{
    for (uint32_t t = 0; t < up(n); t++) {
        const float *row = x->rows + (uint64_t)(t < n ? t : n - 1) * d;

        for (uint32_t c = 0; c < d; c++)
            x->turned[(uint64_t)c * TOKENS + t] = row[c];
    }
}

/* At most TOKENS tokens from t on. */
static void pack_v(const struct kb_dev *dev, const struct kb_kivi_pack_k *a, uint64_t b, uint32_t h, uint64_t t, uint32_t n,
                   float *p)
{
    uint32_t per = 32 / a->bits, d = a->head_dim, groups = d / a->group;
    struct area x = area_at(a, TOKENS, p);
    uint64_t row[TOKENS];

    load_rows(dev, a, b, h, t, n, &x);
    turn(&x, n, d);
    for (uint32_t i = 0; i < n; i++) {
        struct kb_kivi_place at = kb_kivi_where(&a->dst, b, a->dst_token + t + i);

        row[i] = (at.first * a->kv_heads + h) * at.tokens + at.at;
    }
    for (uint32_t g = 0; g < groups; g++) {
        range(dev, a, &x, x.turned + (uint64_t)g * a->group * TOKENS, TOKENS, up(n));
        for (uint32_t i = 0; i < n; i++) {
            kb_store(a->format, kb_at(a->dst.scale), row[i] * groups + g, x.scale[i]);
            kb_store(a->format, kb_at(a->dst.min), row[i] * groups + g, x.min[i]);
        }
        for (uint32_t c = g * a->group; c < (g + 1) * a->group; c += per) {
            dev->ops->kivi->pack(x.turned + (uint64_t)c * TOKENS, TOKENS, a->bits, up(n), x.min, x.scale, x.words);
            for (uint32_t i = 0; i < n; i++)
                ((uint32_t *)kb_at(a->dst.codes))[row[i] * (d / per) + c / per] = x.words[i];
        }
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
    uint64_t tiles = (a.tokens + TOKENS - 1) / TOKENS, heads = a.batch * a.kv_heads, parts = dev->threads, stride;
    float *p;

    KVP_TRY(cpu_scratch(dev, &p, &stride, parts, area_floats(&a, TOKENS), e));
#pragma omp parallel for num_threads(cpu_threads(dev, heads * a.tokens * a.head_dim))
    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t i = heads * tiles * part / parts; i < heads * tiles * (part + 1) / parts; i++) {
            uint64_t t = i % tiles * TOKENS, n = a.tokens - t;

            pack_v(dev, &a, i / tiles / a.kv_heads, (uint32_t)(i / tiles % a.kv_heads), t,
                   (uint32_t)(n < TOKENS ? n : TOKENS), p + part * stride);
        }
    return KVP_OK;
}
