/* pages.c - Quest: bounds of pages, the choice by them, attention over what was chosen */
#include "kernels/cpu/codes.h"

#include "kernels/ops/attn_pages.h"
#include "kernels/ops/page_bounds.h"
#include "kernels/ops/page_select.h"

#include <float.h>
#include <math.h>
#include <omp.h>

#define TILE 32

/* Tokens of one head, from the j-th on, that lie in one page; room: a row of keys and both bounds, as f32. */
static void widen_page(const struct kb_dev *dev, const struct kb_page_bounds *a, uint64_t b, uint32_t g, uint64_t j, uint64_t n, float *room)
{
    uint32_t d = a->head_dim, size = (uint32_t)kb_element(a->format);
    uint64_t t = a->position + j, at = (((b * a->kv_heads + g) * a->pages + t / a->page) * d) * size;
    unsigned char *min = (unsigned char *)kb_at(a->min) + at, *max = (unsigned char *)kb_at(a->max) + at;
    float *low = room, *high = room + d;

    dev->ops->widen[a->format](low, min, d);
    dev->ops->widen[a->format](high, max, d);
    for (uint64_t i = 0; i < n; i++) {
        const float *k = (const float *)kb_at(a->k) + (b * a->k_tokens + a->k_first + j + i) * a->k_stride + (uint64_t)g * d;
        bool begins = (t + i) % a->page == 0;

        for (uint32_t c = 0; c < d; c++) { /* rounding keeps the order, so it can wait */
            low[c] = begins || k[c] < low[c] ? k[c] : low[c];
            high[c] = begins || k[c] > high[c] ? k[c] : high[c];
        }
    }
    dev->ops->narrow[a->format](min, low, d);
    dev->ops->narrow[a->format](max, high, d);
}

kvp_err cpu_page_bounds(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_page_bounds *a = args;
    uint64_t stride;
    float *areas;

    KVP_TRY(cpu_scratch(dev, &areas, &stride, dev->threads, 2ull * a->head_dim, e));
#pragma omp parallel for collapse(2) num_threads(cpu_threads(dev, a->batch * a->count * a->kv_heads * a->head_dim))
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t g = 0; g < a->kv_heads; g++)
            for (uint64_t j = 0, n; j < a->count; j += n) {
                n = a->page - (a->position + j) % a->page;
                n = n < a->count - j ? n : a->count - j;
                widen_page(dev, a, b, g, j, n, areas + (uint64_t)omp_get_thread_num() * stride);
            }
    return KVP_OK;
}

/* Scores of pages [0, n) of one head; room: both bounds of a page. */
static void score_pages(const struct kb_dev *dev, const struct kb_page_select *a, uint64_t b, uint32_t g, uint64_t n, float *scores, float *room)
{
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim, size = (uint32_t)kb_element(a->format);
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)g * group * d;

    for (uint64_t p = 0; p < n; p++) {
        uint64_t at = ((b * a->kv_heads + g) * a->pages + p) * d * size;
        double sum = 0;

        dev->ops->widen[a->format](room, (unsigned char *)kb_at(a->min) + at, d);
        dev->ops->widen[a->format](room + d, (unsigned char *)kb_at(a->max) + at, d);
        for (uint32_t h = 0; h < group; h++)
            for (uint32_t i = 0; i < d; i++) {
                double low = (double)q[h * d + i] * (double)room[i], high = (double)q[h * d + i] * (double)room[d + i];

                sum += low > high ? low : high;
            }
        scores[p] = sum > -FLT_MAX ? (float)sum : -FLT_MAX; /* a NaN is chosen last */
    }
}

/* The `want` highest of n, ascending; ties: the earlier one. A page is one of them when fewer than `want` beat it. */
static void choose(float *scores, uint64_t n, uint64_t want, int32_t *list)
{
    uint64_t taken = 0;

    for (uint64_t i = 0; i < want; i++) { /* marks the best by replacing its score: want is small beside n * d */
        uint64_t best = n;

        for (uint64_t p = 0; p < n; p++)
            if (scores[p] > -INFINITY && (best == n || scores[p] > scores[best]))
                best = p;
        if (best == n)
            break;
        list[taken++] = (int32_t)best;
        scores[best] = -INFINITY;
    }
    for (uint64_t i = 1; i < taken; i++)
        for (uint64_t j = i; j && list[j] < list[j - 1]; j--) {
            int32_t t = list[j];

            list[j] = list[j - 1];
            list[j - 1] = t;
        }
}

kvp_err cpu_page_select(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_page_select *a = args;
    uint64_t last = (a->used - 1) / a->page, stride;
    float *areas;

    KVP_TRY(cpu_scratch(dev, &areas, &stride, dev->threads, last + 2ull * a->head_dim, e));
#pragma omp parallel for num_threads(cpu_threads(dev, a->batch * a->heads * last * a->head_dim))
    for (uint64_t r = 0; r < a->batch * a->kv_heads; r++) {
        float *area = areas + (uint64_t)omp_get_thread_num() * stride;
        int32_t *list = (int32_t *)kb_at(a->list) + r * a->chosen;

        score_pages(dev, a, r / a->kv_heads, (uint32_t)(r % a->kv_heads), last, area, area + last);
        choose(area, last, a->chosen - 1, list);
        list[a->chosen - 1] = (int32_t)last;
    }
    return KVP_OK;
}

/* The slot of the t-th chosen token, and how many from there on lie one after another, at most up to t1. */
static uint64_t slot_of(const struct kb_attn_pages *a, const struct kb_kv *kv, uint64_t b, uint32_t g, uint64_t t, uint64_t t1, uint64_t *run)
{
    const int32_t *list = (const int32_t *)kb_at(a->list) + (b * a->attn.kv_heads + g) * a->chosen;
    uint64_t slot = (uint64_t)list[t / a->page] * a->page + t % a->page, n = a->page - t % a->page;

    n = n < t1 - t ? n : t1 - t;
    *run = kv->block && kv->block - slot % kv->block < n ? kv->block - slot % kv->block : n;
    return slot;
}

static void scores(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   float *s, uint64_t stride, float *extra)
{
    const struct kb_attn_pages *x = args;
    const struct kb_attn_decode *a = &x->attn;
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)g * group * d;

    for (uint64_t t = t0, n; t < t1; t += n) {
        uint64_t slot = slot_of(x, &a->k, b, g, t, t1, &n);

        if (!cpu_is_plain(a->k.format)) {
            cpu_kv_read(dev, &a->k, b, g, slot, slot + n, extra);
            dev->ops->dots[KVP_F32](q, d, group, extra, d, n, d, a->scale, s + t - t0, stride, NULL);
            continue;
        }
        dev->ops->dots[a->k.format](q, d, group, kb_kv_row(&a->k, b, g, slot), d, n, d, a->scale, s + t - t0, stride, NULL);
    }
}

static void values(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   const float *p, uint64_t stride, float *o, float *extra)
{
    const struct kb_attn_pages *x = args;
    const struct kb_attn_decode *a = &x->attn;
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;

    for (uint64_t t = t0, n; t < t1; t += n) {
        uint64_t slot = slot_of(x, &a->v, b, g, t, t1, &n);

        if (!cpu_is_plain(a->v.format)) {
            cpu_kv_read(dev, &a->v, b, g, slot, slot + n, extra);
            dev->ops->mix[KVP_F32](p + t - t0, stride, group, extra, d, n, d, o, d, NULL);
            continue;
        }
        dev->ops->mix[a->v.format](p + t - t0, stride, group, kb_kv_row(&a->v, b, g, slot), d, n, d, o, d, NULL);
    }
}

kvp_err cpu_attn_pages(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_pages *a = args;
    const struct cpu_attend work = {
        .batch = a->attn.batch, .heads = a->attn.heads, .kv_heads = a->attn.kv_heads, .dim = a->attn.head_dim,
        .end = (a->chosen - 1) * a->page + (a->attn.used - 1) % a->page + 1, .tile = TILE, .args = a, .scores = scores,
        .extra = (uint64_t)TILE * a->attn.head_dim, .values = values, .out_stride = a->attn.out_stride, .out = kb_at(a->attn.out),
    };

    return cpu_attend(dev, &work, e);
}
