/* attn.c - attention of a prompt and of one token, and the mass each key received */
#include "kernels/ref/ref.h"

#include "kernels/ops/attn_decode.h"
#include "kernels/ops/attn_prefill.h"
#include "kernels/ops/attn_sinks.h"
#include "kernels/ops/h2o_scores.h"

#include <math.h>

void ref_softmax(double *s, uint64_t n)
{
    double max = s[0], sum = 0;

    for (uint64_t i = 1; i < n; i++)
        max = s[i] > max ? s[i] : max;
    for (uint64_t i = 0; i < n; i++)
        sum += s[i] = exp(s[i] - max);
    for (uint64_t i = 0; i < n; i++)
        s[i] /= sum;
}

/* log(sum(exp(s))) */
static double log_sum_exp(const double *s, uint64_t n)
{
    double max = s[0], sum = 0;

    for (uint64_t i = 1; i < n; i++)
        max = s[i] > max ? s[i] : max;
    for (uint64_t i = 0; i < n; i++)
        sum += exp(s[i] - max);
    return max + log(sum);
}

static uint64_t first_key(uint64_t i, uint64_t window)
{
    return window && i >= window ? i - window + 1 : 0;
}

/* One query head of sequence b at token i, which sees keys [0, sinks) too, sinks > 0; `s` has room for all. */
static void sinks_one(const struct kb_attn_prefill *a, uint64_t sinks, uint64_t b, uint64_t i, uint32_t h, double *s)
{
    uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim;
    uint64_t first = first_key(i, a->window), near = first < sinks ? sinks : first, row = b * a->tokens, n = 0;
    const float *q = (const float *)kb_at(a->q) + (row + i) * a->stride + (uint64_t)h * d;
    float *out = (float *)kb_at(a->out) + (row + i) * a->out_stride + (uint64_t)h * d;

    for (uint64_t j = 0; j <= i; j = j + 1 == sinks && near > sinks ? near : j + 1)
        s[n++] = (double)a->scale * ref_dot(q, KVP_F32, kb_at(a->k), (row + j) * a->stride + (uint64_t)g * d, d);
    if (a->lse.buf)
        ((float *)kb_at(a->lse))[(b * a->heads + h) * a->tokens + i] = (float)log_sum_exp(s, n);
    ref_softmax(s, n);
    for (uint32_t c = 0; c < d; c++) {
        double sum = 0;

        n = 0;
        for (uint64_t j = 0; j <= i; j = j + 1 == sinks && near > sinks ? near : j + 1)
            sum += s[n++] * (double)((const float *)kb_at(a->v))[(row + j) * a->stride + (uint64_t)g * d + c];
        out[c] = (float)sum;
    }
}

kvp_err ref_attn_sinks(const void *args, struct kvp_error *e)
{
    const struct kb_attn_sinks *x = args;
    const struct kb_attn_prefill *a = &x->attn;
    double *s = x->sinks ? ref_scratch(a->tokens + 1, e) : NULL;

    if (!x->sinks)
        return ref_attn_prefill(a, e);
    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint64_t i = 0; i < a->tokens; i++)
            for (uint32_t h = 0; h < a->heads; h++)
                sinks_one(a, x->sinks, b, i, h, s);
    free(s);
    return KVP_OK;
}

/* One query head of sequence b at token i. */
static void prefill_one(const struct kb_attn_prefill *a, uint64_t b, uint64_t i, uint32_t h, double *s)
{
    uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim;
    uint64_t lo = first_key(i, a->window), row = b * a->tokens;
    const float *q = (const float *)kb_at(a->q) + (row + i) * a->stride + (uint64_t)h * d;
    float *out = (float *)kb_at(a->out) + (row + i) * a->out_stride + (uint64_t)h * d;

    for (uint64_t j = lo; j <= i; j++)
        s[j] = (double)a->scale * ref_dot(q, KVP_F32, kb_at(a->k), (row + j) * a->stride + (uint64_t)g * d, d);
    if (a->lse.buf)
        ((float *)kb_at(a->lse))[(b * a->heads + h) * a->tokens + i] = (float)log_sum_exp(s + lo, i - lo + 1);
    ref_softmax(s + lo, i - lo + 1);
    for (uint32_t c = 0; c < d; c++) {
        double sum = 0;

        for (uint64_t j = lo; j <= i; j++)
            sum += s[j] * (double)((const float *)kb_at(a->v))[(row + j) * a->stride + (uint64_t)g * d + c];
        out[c] = (float)sum;
    }
}

kvp_err ref_attn_prefill(const void *args, struct kvp_error *e)
{
    const struct kb_attn_prefill *a = args;
    double *s = ref_scratch(a->tokens + 1, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint64_t i = 0; i < a->tokens; i++)
            for (uint32_t h = 0; h < a->heads; h++)
                prefill_one(a, b, i, h, s);
    free(s);
    return KVP_OK;
}

static void decode_one(const struct kb_attn_decode *a, uint64_t b, uint32_t h, double *s)
{
    uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)h * d;
    float *out = (float *)kb_at(a->out) + b * a->out_stride + (uint64_t)h * d;
    uint64_t n = a->used + (a->tail_k.buf != NULL), tail = b * a->tail_stride + (uint64_t)g * d;

    for (uint64_t j = 0; j < a->used; j++)
        s[j] = (double)a->scale * ref_dot(q, a->k.format, kb_kv_row(&a->k, b, g, j), 0, d);
    if (n > a->used)
        s[a->used] = (double)a->scale * ref_dot(q, KVP_F32, kb_at(a->tail_k), tail, d);
    ref_softmax(s, n);
    for (uint64_t j = 0; a->probs.buf && j < n; j++)
        ((float *)kb_at(a->probs))[(b * a->heads + h) * n + j] = (float)s[j];
    for (uint32_t c = 0; c < d; c++) {
        double sum = 0;

        for (uint64_t j = 0; j < a->used; j++)
            sum += s[j] * (double)kb_load(a->v.format, kb_kv_row(&a->v, b, g, j), c);
        if (n > a->used)
            sum += s[a->used] * (double)((const float *)kb_at(a->tail_v))[tail + c];
        out[c] = (float)sum;
    }
}

kvp_err ref_attn_decode(const void *args, struct kvp_error *e)
{
    const struct kb_attn_decode *a = args;
    double *s = ref_scratch(a->used + 1, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t h = 0; h < a->heads; h++)
            decode_one(a, b, h, s);
    free(s);
    return KVP_OK;
}

/* The mass key j of kv head g received. */
static double mass(const struct kb_h2o_scores *a, uint64_t b, uint32_t g, uint64_t j)
{
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;
    uint64_t row = b * a->tokens, end = a->window && a->window < a->tokens - j ? j + a->window : a->tokens;
    const float *q = kb_at(a->q), *lse = kb_at(a->lse);
    double sum = 0;

    for (uint32_t h = g * group; h < (g + 1) * group; h++)
        for (uint64_t i = j; i < end; i++)
            sum += exp((double)a->scale * ref_dot(q + (row + i) * a->stride + (uint64_t)h * d, KVP_F32, kb_at(a->k),
                                                  (row + j) * a->stride + (uint64_t)g * d, d) -
                       (double)lse[(b * a->heads + h) * a->tokens + i]);
    return sum;
}

kvp_err ref_h2o_scores(const void *args, struct kvp_error *e)
{
    const struct kb_h2o_scores *a = args;
    float *scores = kb_at(a->scores);

    (void)e;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t g = 0; g < a->kv_heads; g++)
            for (uint64_t j = 0; j < a->tokens; j++)
                scores[(b * a->kv_heads + g) * a->tokens + j] = (float)mass(a, b, g, j);
    return KVP_OK;
}
