/* attn.c - attention of a prompt and of one token, and the mass each key received */
#include "kernels/ref/codes.h"

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

/* A scaled score, held down and biased. */
static double bend(double s, float softcap, const float *slope, double distance)
{
    if (softcap != 0)
        s = (double)softcap * tanh(s / (double)softcap);
    return slope ? s + (double)*slope * distance : s;
}

/* Where head h's slope is, or NULL. */
static const float *slope_of(struct kb_span slopes, uint32_t h)
{
    return slopes.buf ? (const float *)kb_at(slopes) + h : NULL;
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

static uint64_t first_key(uint64_t i, uint64_t window, uint64_t chunk)
{
    const uint64_t first = window && i >= window ? i - window + 1 : 0, begins = chunk ? i / chunk * chunk : 0;

    return first > begins ? first : begins;
}

/* One query head of sequence b at token i, which sees keys [0, sinks) too, sinks > 0; `s` has room for all. */
static void sinks_one(const struct kb_attn_prefill *a, uint64_t sinks, uint64_t b, uint64_t i, uint32_t h, double *s)
{
    uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim;
    uint64_t first = first_key(i, a->window, 0), near = first < sinks ? sinks : first, row = b * a->tokens, n = 0;
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
    const uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim, own = d - a->shared_dim, dv = a->v_dim ? a->v_dim : d;
    const uint64_t row = b * a->tokens, stride = a->kv_stride ? a->kv_stride : a->stride;
    const uint64_t k_head = a->k_head ? a->k_head : own, v_head = a->v_head ? a->v_head : dv;
    const uint64_t lo = first_key(i, a->window, a->chunk), n = i - lo + 1;
    const float *q = (const float *)kb_at(a->q) + (row + i) * a->stride + (uint64_t)h * d;
    float *out = (float *)kb_at(a->out) + (row + i) * a->out_stride + (uint64_t)h * dv;

    for (uint64_t j = lo; j <= i; j++) {
        s[j] = ref_dot(q, KVP_F32, kb_at(a->k), (row + j) * stride + g * k_head, own);
        if (a->shared_dim)
            s[j] += ref_dot(q + own, KVP_F32, kb_at(a->shared), (row + j) * a->shared_stride, a->shared_dim);
        s[j] = bend((double)a->scale * s[j], a->softcap, slope_of(a->slopes, h), (double)j - (double)i);
    }
    if (a->sinks.buf)
        s[i + 1] = (double)kb_load(a->sink_format, kb_at(a->sinks), h);
    if (a->lse.buf)
        ((float *)kb_at(a->lse))[(b * a->heads + h) * a->tokens + i] = (float)log_sum_exp(s + lo, n + (a->sinks.buf != NULL));
    ref_softmax(s + lo, n + (a->sinks.buf != NULL));
    for (uint32_t c = 0; c < dv; c++) {
        double sum = 0;

        for (uint64_t j = lo; j <= i; j++)
            sum += s[j] * (double)((const float *)kb_at(a->v))[(row + j) * stride + g * v_head + c];
        out[c] = (float)sum;
    }
}

kvp_err ref_attn_prefill(const void *args, struct kvp_error *e)
{
    const struct kb_attn_prefill *a = args;
    double *s = ref_scratch(a->tokens + 2, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint64_t i = 0; i < a->tokens; i++)
            for (uint32_t h = 0; h < a->heads; h++)
                prefill_one(a, b, i, h, s);
    free(s);
    return KVP_OK;
}

static double kv_dot(const float *q, const struct kb_kv *kv, uint64_t b, uint32_t g, uint64_t slot)
{
    double sum = 0;

    for (uint32_t i = 0; i < kv->dim; i++)
        sum += (double)q[i] * ref_kv_element(kv, b, g, slot, i);
    return sum;
}

static void decode_one(const struct kb_attn_decode *a, uint64_t b, uint32_t h, double *s)
{
    const uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim, dv = a->v_dim ? a->v_dim : d;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)h * d;
    float *out = (float *)kb_at(a->out) + b * a->out_stride + (uint64_t)h * dv;
    const uint64_t n = a->used + (a->tail_k.buf != NULL), tail_k = b * a->tail_stride + (uint64_t)g * d,
                   tail_v = b * a->tail_stride + (uint64_t)g * dv;

    for (uint64_t j = 0; j < a->used; j++)
        s[j] = (double)a->scale * kv_dot(q, &a->k, b, g, j);
    if (n > a->used)
        s[a->used] = (double)a->scale * ref_dot(q, KVP_F32, kb_at(a->tail_k), tail_k, d);
    for (uint64_t j = 0; j < n; j++)
        s[j] = bend(s[j], a->softcap, slope_of(a->slopes, h), (double)j - (double)(n - 1));
    if (a->sinks.buf)
        s[n] = (double)kb_load(a->sink_format, kb_at(a->sinks), h);
    ref_softmax(s, n + (a->sinks.buf != NULL));
    for (uint64_t j = 0; a->probs.buf && j < n; j++)
        ((float *)kb_at(a->probs))[(b * a->heads + h) * n + j] = (float)s[j];
    for (uint32_t c = 0; c < dv; c++) {
        double sum = 0;

        for (uint64_t j = 0; j < a->used; j++)
            sum += s[j] * ref_kv_element(&a->v, b, g, j, c);
        if (n > a->used)
            sum += s[a->used] * (double)((const float *)kb_at(a->tail_v))[tail_v + c];
        out[c] = (float)sum;
    }
}

kvp_err ref_attn_decode(const void *args, struct kvp_error *e)
{
    const struct kb_attn_decode *a = args;
    double *s = ref_scratch(a->used + 2, e);

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
