/* choose.c - which tokens stay: by the last queries of a prompt (a short matrix product, sums, pooling, radix
 * selection), and step by step */
#include "kernels/cpu/codes.h"

#include "kernels/ops/top_tokens.h"
#include "kernels/ops/tova_step.h"
#include "kernels/ops/window_scores.h"

#include <omp.h>

#define QUERIES 64
#define KEYS 256

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Queries [i0, i1) of head h over keys [j0, j1): their probabilities added to sums[j0 ...]. */
static void add_tile(const struct kb_dev *dev, const struct kb_window_scores *a, uint64_t b, uint32_t h, uint64_t i0,
                     uint64_t i1, uint64_t j0, uint64_t j1, float *s, double *sums)
{
    uint64_t d = a->head_dim, g = h / (a->heads / a->kv_heads), row = b * a->tokens;
    const float *lse = (const float *)kb_at(a->lse) + (b * a->heads + h) * a->tokens;

    cpu_product(dev, true, i1 - i0, j1 - j0, d, a->scale, (const float *)kb_at(a->q) + (row + i0) * a->stride + h * d,
                a->stride, (const float *)kb_at(a->k) + (row + j0) * a->stride + g * d, a->stride, 0, s, KEYS);
    for (uint64_t i = i0; i < i1; i++) {
        uint64_t n = i + 1 > j0 ? least(i + 1 - j0, j1 - j0) : 0;
        float *p = s + (i - i0) * KEYS;

        if (n)
            dev->ops->exps(p, n, lse[i]);
        for (uint64_t j = 0; j < n; j++)
            sums[j] += (double)p[j];
    }
}

static float pooled(const struct kb_window_scores *a, const float *sums, uint64_t j)
{
    uint64_t before = a->kernel / 2, lo = j > before ? j - before : 0, hi = least(j + a->kernel - before, a->columns);
    double sum = 0;
    float max = 0;

    for (uint64_t l = lo; l < hi; l++) {
        sum += (double)sums[l];
        max = sums[l] > max ? sums[l] : max;
    }
    return a->average ? (float)(sum / a->kernel) : max;
}

/* Keys [j0, j1) of a set, not pooled yet. */
static void sum_tile(const struct kb_dev *dev, const struct kb_window_scores *a, uint64_t r, uint64_t j0, uint64_t j1, float *area)
{
    uint32_t group = a->heads / a->sets, first = (uint32_t)(r % a->sets) * group;
    float *sums = (float *)kb_at(a->scores) + r * a->tokens;
    double tile[KEYS] = {0};

    for (uint32_t h = first; h < first + group; h++)
        for (uint64_t i = a->tokens - a->window; i < a->tokens; i += QUERIES)
            add_tile(dev, a, r / a->sets, h, i, least(i + QUERIES, a->tokens), j0, j1, area, tile);
    for (uint64_t j = j0; j < j1; j++)
        sums[j] = (float)tile[j - j0];
}

static void pool_row(const struct kb_window_scores *a, uint64_t r, float *sums)
{
    float *scores = (float *)kb_at(a->scores) + r * a->tokens;

    memcpy(sums, scores, a->columns * sizeof(float));
    for (uint64_t j = 0; j < a->columns; j++)
        scores[j] = pooled(a, sums, j);
}

kvp_err cpu_window_scores(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_window_scores *a = args;
    uint64_t rows = a->batch * a->sets, tiles = (a->columns + KEYS - 1) / KEYS, stride;
    uint64_t floats = a->columns > QUERIES * KEYS ? a->columns : QUERIES * KEYS;
    float *areas;

    KVP_TRY(cpu_scratch(dev, &areas, &stride, dev->threads, floats, e));
#pragma omp parallel for schedule(dynamic, 1) \
    num_threads(cpu_threads(dev, a->batch * a->heads * a->window * a->columns * a->head_dim))
    for (uint64_t n = 0; n < rows * tiles; n++)
        sum_tile(dev, a, n / tiles, n % tiles * KEYS, least((n % tiles + 1) * KEYS, a->columns),
                 areas + (uint64_t)omp_get_thread_num() * stride);
#pragma omp parallel for num_threads(cpu_threads(dev, rows * a->columns * a->kernel))
    for (uint64_t r = 0; r < rows; r++)
        pool_row(a, r, areas + (uint64_t)omp_get_thread_num() * stride);
    return KVP_OK;
}

/* Order of floats as order of unsigned words; -0 as 0. */
static uint32_t order(float x)
{
    uint32_t u = kb_f32_bits(x + 0.0f);

    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The value of the `want`-th highest of n scores (want from 1), byte by byte from the top; *equal: how many of
 * that value are among the `want` highest. */
static uint32_t threshold(const float *scores, uint64_t n, uint64_t want, uint64_t *equal)
{
    uint32_t prefix = 0, mask = 0;

    for (int shift = 24; shift >= 0; shift -= 8) {
        uint64_t count[256] = {0};
        uint32_t digit = 255;

        for (uint64_t t = 0; t < n; t++) {
            uint32_t o = order(scores[t]);

            if ((o & mask) == prefix)
                count[o >> shift & 255]++;
        }
        while (count[digit] < want)
            want -= count[digit--];
        prefix |= digit << shift;
        mask |= 255u << shift;
    }
    *equal = want;
    return prefix;
}

static void top_one(const struct kb_top_tokens *a, const float *scores, int32_t *index)
{
    uint64_t equal = 0, n = 0;
    uint32_t cut = a->best ? threshold(scores, a->columns, a->best, &equal) : 0;

    for (uint64_t j = 0; n < a->best; j++) {
        uint32_t o = order(scores[j]);

        if (o > cut || (o == cut && equal)) {
            equal -= o == cut;
            index[n++] = (int32_t)j;
        }
    }
    for (uint64_t t = a->columns; t < a->tokens; t++)
        index[n++] = (int32_t)t;
}

kvp_err cpu_top_tokens(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_top_tokens *a = args;
    uint64_t kept = a->best + a->tokens - a->columns;

    (void)e;
#pragma omp parallel for num_threads(cpu_threads(dev, 8 * a->batch * a->sets * a->columns))
    for (uint64_t r = 0; r < a->batch * a->sets; r++)
        top_one(a, (const float *)kb_at(a->scores) + r * a->tokens, (int32_t *)kb_at(a->index) + r * kept);
    return KVP_OK;
}

/* The slot that is lost; `used` for the new token. weights: [used + 1] */
static uint64_t lightest(const struct kb_tova_step *a, uint64_t b, float *weights)
{
    uint64_t n = a->used + 1, low = 0;
    const float *probs = (const float *)kb_at(a->probs) + b * a->heads * n;

    memset(weights, 0, n * sizeof(float));
    for (uint32_t h = 0; h < a->heads; h++)
        for (uint64_t s = 0; s < n; s++)
            weights[s] += probs[h * n + s];
    for (uint64_t s = 1; s < n; s++)
        low = weights[s] < weights[low] ? s : low;
    return low;
}

kvp_err cpu_tova_step(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_tova_step *a = args;
    bool full = a->used == a->budget;
    uint64_t stride;
    float *weights;

    KVP_TRY(cpu_scratch(dev, &weights, &stride, 1, a->used + 1, e));
    for (uint64_t b = 0; b < a->batch; b++) {
        uint64_t slot = full ? lightest(a, b, weights) : a->used;

        for (uint32_t g = 0; (!full || slot < a->used) && g < a->kv_heads; g++) {
            uint64_t row = b * a->new_stride + (uint64_t)g * a->head_dim;

            cpu_kv_store(dev, &a->k, b, g, slot, (const float *)kb_at(a->new_k) + row);
            cpu_kv_store(dev, &a->v, b, g, slot, (const float *)kb_at(a->new_v) + row);
        }
        if (a->victim.buf)
            ((int32_t *)kb_at(a->victim))[b] = full ? (int32_t)slot : -1;
    }
    return KVP_OK;
}
