/* attn_prefill.c - attention of a prompt, and H2O's sums of it, in tiles of queries by keys */
#include "kernels/cpu/cpu.h"

#include "kernels/ops/attn_prefill.h"
#include "kernels/ops/attn_sinks.h"
#include "kernels/ops/h2o_scores.h"

#include <math.h>
#include <omp.h>

#define QUERIES 64
#define KEYS 256

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t first_key(uint64_t i, uint64_t window, uint64_t chunk)
{
    uint64_t first = window && i >= window ? i - window + 1 : 0, begins = chunk ? i / chunk * chunk : 0;

    return first > begins ? first : begins;
}

/* Keys of tile [j0, j1) that query i sees: [lo, hi), counted from j0; lo >= hi: none. */
static void visible(uint64_t i, uint64_t window, uint64_t chunk, uint64_t j0, uint64_t j1, uint64_t *lo, uint64_t *hi)
{
    uint64_t first = first_key(i, window, chunk);

    *lo = first > j0 ? least(first - j0, j1 - j0) : 0;
    *hi = i + 1 > j0 ? least(i + 1 - j0, j1 - j0) : 0;
}

/* One block of queries [i0, i1) of head h in sequence b. */
struct block {
    const struct kb_attn_prefill *a;
    uint64_t sinks; /* keys that every query sees beside its window */
    uint64_t b, i0, i1;
    uint32_t h;
    float *s, *max, *sum; /* [QUERIES * KEYS], [QUERIES], [QUERIES] */
};

static uint32_t value_dim(const struct kb_attn_prefill *a)
{
    return a->v_dim ? a->v_dim : a->head_dim;
}

static float *out_row(const struct block *t, uint64_t i)
{
    const struct kb_attn_prefill *a = t->a;

    return (float *)kb_at(a->out) + (t->b * a->tokens + i) * a->out_stride + (uint64_t)t->h * value_dim(a);
}

/* As visible(), the sinks of the tile too; what lies between them and the window gets no weight. */
static void visible_sinks(const struct block *t, uint64_t i, uint64_t j0, uint64_t j1, float *s, uint64_t *lo, uint64_t *hi)
{
    uint64_t sinks = t->sinks > j0 ? least(least(t->sinks, i + 1) > j0 ? least(t->sinks, i + 1) - j0 : 0, j1 - j0) : 0;

    visible(i, t->a->window, t->a->chunk, j0, j1, lo, hi);
    if (sinks == 0)
        return;
    for (uint64_t j = sinks; j < *lo && j < *hi; j++)
        s[j] = -INFINITY;
    *hi = *lo >= *hi ? sinks : *hi;
    *lo = 0;
}

/* Turn a row of scores into weights; the row's output so far is rescaled when the maximum moves. */
static void weigh(const struct kb_dev *dev, const struct block *t, uint64_t i, uint64_t j0, uint64_t j1)
{
    uint64_t r = i - t->i0, lo, hi;
    float *s = t->s + r * KEYS, max;

    visible_sinks(t, i, j0, j1, s, &lo, &hi);
    if (lo >= hi) {
        memset(s, 0, (j1 - j0) * sizeof(float));
        return;
    }
    cpu_bend(s + lo, j0 + lo, hi - lo, i, t->a->softcap, t->a->slopes.buf ? (const float *)kb_at(t->a->slopes) + t->h : NULL);
    max = dev->ops->max(s + lo, hi - lo);
    if (max > t->max[r]) {
        float factor = expf(t->max[r] - max);

        dev->ops->scale(out_row(t, i), value_dim(t->a), factor);
        t->sum[r] *= factor;
        t->max[r] = max;
    }
    t->sum[r] += dev->ops->exps(s + lo, hi - lo, t->max[r]);
    memset(s, 0, lo * sizeof(float));
    memset(s + hi, 0, (j1 - j0 - hi) * sizeof(float));
}

static void finish(const struct kb_dev *dev, const struct block *t)
{
    const struct kb_attn_prefill *a = t->a;
    float *lse = kb_at(a->lse);

    for (uint64_t i = t->i0; i < t->i1; i++) {
        uint64_t r = i - t->i0;

        dev->ops->scale(out_row(t, i), value_dim(a), 1 / t->sum[r]);
        if (lse)
            lse[(t->b * a->heads + t->h) * a->tokens + i] = t->max[r] + logf(t->sum[r]);
    }
}

/* Scaled scores of the block's queries with keys [j0, j1). */
static void score_tile(const struct kb_dev *dev, const struct block *t, uint64_t j0, uint64_t j1)
{
    const struct kb_attn_prefill *a = t->a;
    uint64_t g = t->h / (a->heads / a->kv_heads), d = a->head_dim, own = d - a->shared_dim, row = t->b * a->tokens;
    uint64_t stride = a->kv_stride ? a->kv_stride : a->stride, head = a->k_head ? a->k_head : own;
    const float *q = (const float *)kb_at(a->q) + (row + t->i0) * a->stride + t->h * d;

    cpu_product(dev, true, t->i1 - t->i0, j1 - j0, own, a->scale, q, a->stride,
                (const float *)kb_at(a->k) + (row + j0) * stride + g * head, stride, 0, t->s, KEYS);
    if (a->shared_dim)
        cpu_product(dev, true, t->i1 - t->i0, j1 - j0, a->shared_dim, a->scale, q + own, a->stride,
                    (const float *)kb_at(a->shared) + (row + j0) * a->shared_stride, a->shared_stride, 1, t->s, KEYS);
}

static void attend_block(const struct kb_dev *dev, const struct block *t)
{
    const struct kb_attn_prefill *a = t->a;
    uint64_t g = t->h / (a->heads / a->kv_heads), d = value_dim(a), row = t->b * a->tokens;
    uint64_t stride = a->kv_stride ? a->kv_stride : a->stride, head = a->v_head ? a->v_head : d;

    for (uint64_t i = t->i0; i < t->i1; i++) {
        t->max[i - t->i0] = a->sinks.buf ? kb_load(a->sink_format, kb_at(a->sinks), t->h) : -INFINITY;
        t->sum[i - t->i0] = a->sinks.buf ? 1 : 0;
        memset(out_row(t, i), 0, d * sizeof(float));
    }
    for (uint64_t first = first_key(t->i0, a->window, a->chunk), j0 = t->sinks ? 0 : first / KEYS * KEYS, j1; j0 < t->i1; j0 = j1) {
        j1 = least(j0 + KEYS, t->i1);
        if (j0 >= t->sinks && j1 <= first) /* between the sinks and the windows of all */
            continue;
        score_tile(dev, t, j0, j1);
        for (uint64_t i = t->i0; i < t->i1; i++)
            weigh(dev, t, i, j0, j1);
        cpu_product(dev, false, t->i1 - t->i0, d, j1 - j0, 1, t->s, KEYS,
                    (const float *)kb_at(a->v) + (row + j0) * stride + g * head, stride, 1, out_row(t, t->i0), a->out_stride);
    }
    finish(dev, t);
}

static kvp_err attend_prompt(struct kb_dev *dev, const struct kb_attn_prefill *a, uint64_t sinks, struct kvp_error *e)
{
    uint64_t blocks = (a->tokens + QUERIES - 1) / QUERIES, pairs = a->batch * a->heads, stride;
    float *areas;

    KVP_TRY(cpu_scratch(dev, &areas, &stride, dev->threads, QUERIES * (KEYS + 2), e));
#pragma omp parallel for schedule(dynamic, 1) num_threads(cpu_threads(dev, pairs * a->tokens * a->tokens * a->head_dim))
    for (uint64_t n = 0; n < blocks * pairs; n++) { /* the last blocks see the most keys: they go first */
        uint64_t block = blocks - 1 - n / pairs, pair = n % pairs;
        float *area = areas + (uint64_t)omp_get_thread_num() * stride;
        const struct block t = {
            .a = a, .sinks = sinks, .b = pair / a->heads, .i0 = block * QUERIES, .i1 = least((block + 1) * QUERIES, a->tokens),
            .h = (uint32_t)(pair % a->heads), .s = area, .max = area + QUERIES * KEYS,
            .sum = area + QUERIES * (KEYS + 1),
        };

        attend_block(dev, &t);
    }
    return KVP_OK;
}

kvp_err cpu_attn_prefill(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    return attend_prompt(dev, args, 0, e);
}

kvp_err cpu_attn_sinks(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_sinks *a = args;

    return attend_prompt(dev, &a->attn, a->sinks, e);
}

/* The mass keys [j0, j1) of kv head g received from head h's queries [i0, i1), added to sums. */
static void add_mass(const struct kb_dev *dev, const struct kb_h2o_scores *a, uint64_t b, uint32_t h, uint64_t i0,
                     uint64_t i1, uint64_t j0, uint64_t j1, float *s, double *sums)
{
    uint64_t d = a->head_dim, g = h / (a->heads / a->kv_heads), row = b * a->tokens;
    const float *lse = (const float *)kb_at(a->lse) + (b * a->heads + h) * a->tokens;

    cpu_product(dev, true, i1 - i0, j1 - j0, d, a->scale, (const float *)kb_at(a->q) + (row + i0) * a->stride + h * d,
                a->stride, (const float *)kb_at(a->k) + (row + j0) * a->stride + g * d, a->stride, 0, s, KEYS);
    for (uint64_t i = i0; i < i1; i++) {
        uint64_t lo, hi;
        float *p = s + (i - i0) * KEYS;

        visible(i, a->window, 0, j0, j1, &lo, &hi);
        if (lo >= hi)
            continue;
        dev->ops->exps(p + lo, hi - lo, lse[i]);
        for (uint64_t j = lo; j < hi; j++)
            sums[j] += (double)p[j];
    }
}

kvp_err cpu_h2o_scores(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_h2o_scores *a = args;
    uint64_t blocks = (a->tokens + KEYS - 1) / KEYS, pairs = a->batch * a->kv_heads, stride;
    uint32_t group = a->heads / a->kv_heads;
    float *areas;

    KVP_TRY(cpu_scratch(dev, &areas, &stride, dev->threads, QUERIES * KEYS, e));
#pragma omp parallel for schedule(dynamic, 1) \
    num_threads(cpu_threads(dev, a->batch * a->heads * a->tokens * a->tokens * a->head_dim))
    for (uint64_t n = 0; n < blocks * pairs; n++) { /* the first keys are seen by the most queries */
        uint64_t j0 = n / pairs * KEYS, j1 = least(j0 + KEYS, a->tokens), b = n % pairs / a->kv_heads;
        uint64_t end = a->window && j1 - 1 + a->window < a->tokens ? j1 - 1 + a->window : a->tokens;
        uint32_t g = (uint32_t)(n % pairs % a->kv_heads);
        double sums[KEYS] = {0};

        for (uint32_t h = g * group; h < (g + 1) * group; h++)
            for (uint64_t i = j0; i < end; i += QUERIES)
                add_mass(dev, a, b, h, i, least(i + QUERIES, end), j0, j1,
                         areas + (uint64_t)omp_get_thread_num() * stride, sums);
        for (uint64_t j = j0; j < j1; j++)
            ((float *)kb_at(a->scores))[(b * a->kv_heads + g) * a->tokens + j] = (float)sums[j - j0];
    }
    return KVP_OK;
}
