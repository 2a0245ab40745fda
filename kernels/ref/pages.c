/* pages.c - Quest: bounds of pages, the choice by them, attention over what was chosen */
#include "kernels/ref/codes.h"

#include "kernels/ops/attn_pages.h"
#include "kernels/ops/page_bounds.h"
#include "kernels/ops/page_select.h"

/* One key widens the bounds that begin at element `at`, or begins them. */
static void widen(const struct kb_page_bounds *a, const float *k, uint64_t at, bool begins)
{
    for (uint32_t i = 0; i < a->head_dim; i++) {
        float x = kb_rounded(a->format, k[i]);

        if (begins || x < kb_load(a->format, kb_at(a->min), at + i))
            kb_store(a->format, kb_at(a->min), at + i, x);
        if (begins || x > kb_load(a->format, kb_at(a->max), at + i))
            kb_store(a->format, kb_at(a->max), at + i, x);
    }
}

kvp_err ref_page_bounds(const void *args, struct kvp_error *e)
{
    const struct kb_page_bounds *a = args;

    (void)e;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t g = 0; g < a->kv_heads; g++)
            for (uint64_t j = 0; j < a->count; j++) {
                uint64_t t = a->position + j, page = (b * a->kv_heads + g) * a->pages + t / a->page;

                widen(a, (const float *)kb_at(a->k) + (b * a->k_tokens + a->k_first + j) * a->k_stride + (uint64_t)g * a->head_dim,
                      page * a->head_dim, t % a->page == 0);
            }
    return KVP_OK;
}

struct entry {
    double score;
    int32_t page;
};

static int by_score(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;

    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->page < b->page ? -1 : a->page > b->page;
}

static int by_page(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;

    return a->page < b->page ? -1 : a->page > b->page;
}

static double score(const struct kb_page_select *a, uint64_t b, uint32_t g, uint64_t page)
{
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;
    uint64_t at = ((b * a->kv_heads + g) * a->pages + page) * d;
    double sum = 0;

    for (uint32_t h = g * group; h < (g + 1) * group; h++)
        for (uint32_t i = 0; i < d; i++) {
            double q = (double)((const float *)kb_at(a->q))[b * a->q_stride + (uint64_t)h * d + i];
            double low = q * (double)kb_load(a->format, kb_at(a->min), at + i);
            double high = q * (double)kb_load(a->format, kb_at(a->max), at + i);

            sum += low > high ? low : high;
        }
    return sum;
}

kvp_err ref_page_select(const void *args, struct kvp_error *e)
{
    const struct kb_page_select *a = args;
    uint64_t last = (a->used - 1) / a->page;
    struct entry *sort = malloc((last + 1) * sizeof(*sort));

    if (!sort)
        return kvp_fail(e, KVP_ENOMEM, "ref: no memory to sort %llu pages", (unsigned long long)last);
    for (uint64_t r = 0; r < a->batch * a->kv_heads; r++) {
        int32_t *list = (int32_t *)kb_at(a->list) + r * a->chosen;

        for (uint64_t p = 0; p < last; p++)
            sort[p] = (struct entry){(double)(float)score(a, r / a->kv_heads, (uint32_t)(r % a->kv_heads), p), (int32_t)p};
        qsort(sort, last, sizeof(*sort), by_score);
        qsort(sort, a->chosen - 1, sizeof(*sort), by_page);
        for (uint64_t i = 0; i + 1 < a->chosen; i++)
            list[i] = sort[i].page;
        list[a->chosen - 1] = (int32_t)last;
    }
    free(sort);
    return KVP_OK;
}

/* One query head; `s` has room for the scores of all chosen slots. */
static void attend_one(const struct kb_attn_pages *x, uint64_t b, uint32_t h, double *s)
{
    const struct kb_attn_decode *a = &x->attn;
    uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim;
    const int32_t *list = (const int32_t *)kb_at(x->list) + (b * a->kv_heads + g) * x->chosen;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)h * d;
    uint64_t n = (x->chosen - 1) * x->page + (a->used - 1) % x->page + 1;
    float *out = (float *)kb_at(a->out) + b * a->out_stride + (uint64_t)h * d;

    for (uint64_t j = 0; j < n; j++) {
        s[j] = 0;
        for (uint32_t i = 0; i < d; i++)
            s[j] += (double)a->scale * (double)q[i] * ref_kv_element(&a->k, b, g, (uint64_t)list[j / x->page] * x->page + j % x->page, i);
    }
    ref_softmax(s, n);
    for (uint32_t i = 0; i < d; i++) {
        double sum = 0;

        for (uint64_t j = 0; j < n; j++)
            sum += s[j] * ref_kv_element(&a->v, b, g, (uint64_t)list[j / x->page] * x->page + j % x->page, i);
        out[i] = (float)sum;
    }
}

kvp_err ref_attn_pages(const void *args, struct kvp_error *e)
{
    const struct kb_attn_pages *a = args;
    double *s = ref_scratch(a->chosen * a->page, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->attn.batch; b++)
        for (uint32_t h = 0; h < a->attn.heads; h++)
            attend_one(a, b, h, s);
    free(s);
    return KVP_OK;
}
