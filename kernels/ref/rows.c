/* rows.c - what works row by row: embed, norm, gemm, rope, act, cache_write, read_probe */
#include "kernels/ref/codes.h"
#include "kernels/ref/gemm_coded.h"

#include "kernels/ops/act.h"
#include "kernels/ops/cache_write.h"
#include "kernels/ops/embed.h"
#include "kernels/ops/gemm.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/read_probe.h"
#include "kernels/ops/rope.h"

#include <math.h>

kvp_err ref_embed(const void *args, struct kvp_error *e)
{
    const struct kb_embed *a = args;
    const int32_t *tokens = kb_at(a->tokens), *positions = kb_at(a->position_ids);
    float *out = kb_at(a->out);
    const struct kb_gemm table = {.n = a->vocab, .k = a->width, .format = a->format, .w = a->table, .code = a->code};
    const struct kb_gemm learned = {.k = a->width, .format = a->format, .w = a->position_table, .code = a->position_code};

    for (uint64_t n = 0; n < a->rows; n++) {
        if (tokens[n] < 0 || (uint32_t)tokens[n] >= a->vocab)
            return kvp_fail(e, KVP_EINPUT, "token %d is outside the vocabulary of %u", tokens[n], a->vocab);
        for (uint32_t i = 0; i < a->width; i++) {
            double x = ref_weight(&table, (uint64_t)tokens[n], i);

            x *= a->scale != 0 ? (double)a->scale : 1;

            if (positions)
                x += ref_weight(&learned, (uint64_t)positions[n], i);
            out[n * a->width + i] = (float)x;
        }
    }
    return KVP_OK;
}

static void norm_one(const struct kb_norm *a, const float *in, float *out)
{
    double mean = 0, square = 0, factor;

    for (uint32_t i = 0; a->layer && i < a->width; i++)
        mean += (double)in[i] / a->width;
    for (uint32_t i = 0; i < a->width; i++)
        square += ((double)in[i] - mean) * ((double)in[i] - mean);
    factor = 1 / sqrt(square / a->width + a->eps);
    for (uint32_t i = 0; i < a->width; i++) {
        double x = ((double)in[i] - mean) * factor * ((a->weight.buf ? (double)kb_load(a->format, kb_at(a->weight), i) : 1) + (a->add_one ? 1 : 0));

        if (a->bias.buf)
            x += (double)kb_load(a->format, kb_at(a->bias), i);
        out[i] = (float)(a->accumulate ? (double)out[i] + x : x);
    }
}

kvp_err ref_norm(const void *args, struct kvp_error *e)
{
    const struct kb_norm *a = args;
    const float *in = kb_at(a->in);
    float *out = kb_at(a->out);

    (void)e;
    for (uint64_t n = 0; n < a->rows; n++)
        for (uint32_t g = 0; g < a->groups; g++)
            norm_one(a, in + n * a->in_stride + (uint64_t)g * a->width,
                     out + n * a->out_stride + (uint64_t)g * a->width);
    return KVP_OK;
}

/* Row `row` of x with row `to` of W. */
static double coded_dot(const struct kb_gemm *a, uint64_t row, uint64_t to)
{
    const float *x = (const float *)kb_at(a->x) + row * a->x_stride;
    double sum = 0;

    if (a->code.coding == KB_CODING_W8A8) {
        for (uint32_t i = 0; i < a->k; i++)
            sum += ((const int8_t *)kb_at(a->x))[row * a->k + i] * ref_weight(a, to, i);
        return sum * (double)((const float *)kb_at(a->code.x_scale))[row];
    }
    for (uint32_t i = 0; i < a->k; i++)
        sum += (double)x[i] * ref_weight(a, to, i);
    return sum;
}

kvp_err ref_gemm(const void *args, struct kvp_error *e)
{
    const struct kb_gemm *a = args;
    const bool coded = kb_is_block(a->format) || kb_is_code(a->format);
    const float *x = kb_at(a->x);
    float *out = kb_at(a->out);

    (void)e;
    for (uint64_t i = 0; i < a->m; i++)
        for (uint32_t j = 0; j < a->n; j++) {
            float *y = &out[i * a->out_stride + j];
            double sum = coded ? coded_dot(a, i, j)
                               : ref_dot(x + i * a->x_stride, a->format, kb_at(a->w), (uint64_t)j * a->k, a->k);

            if (a->bias.buf)
                sum += (double)kb_load(coded ? a->code.bias_format : a->format, kb_at(a->bias), j);
            *y = (float)((a->accumulate ? (double)*y : 0.0) + sum);
        }
    return KVP_OK;
}

static kvp_err warm(const struct kb_rope *a)
{
    for (uint64_t n = 0; n < a->rows; n++) {
        const double position = (double)((const int32_t *)kb_at(a->positions))[n];
        const double by = 1 + (double)a->warm_by * log1p(floor((position + 1) / (double)a->warm_every));

        for (uint32_t h = 0; h < a->heads; h++)
            for (uint32_t i = 0; i < a->head_dim; i++) {
                float *x = (float *)kb_at(a->x) + n * a->stride + h * (a->head_stride ? a->head_stride : a->head_dim) + i;

                *x = (float)((double)*x * by);
            }
    }
    return KVP_OK;
}

kvp_err ref_rope(const void *args, struct kvp_error *e)
{
    const struct kb_rope *a = args;
    const int32_t *positions = kb_at(a->positions);
    const float *inv_freq = kb_at(a->inv_freq);
    uint32_t half = a->head_dim / 2;

    (void)e;
    if (a->warm_every != 0)
        return warm(a);
    for (uint64_t n = 0; n < a->rows; n++)
        for (uint32_t h = 0; h < a->heads; h++) {
            float *x = (float *)kb_at(a->x) + n * a->stride + h * (a->head_stride ? a->head_stride : a->head_dim);

            for (uint32_t i = 0; i < half; i++) {
                float angle = (float)positions[n] * inv_freq[i], *p = a->neighbours ? x + 2 * i : x + i,
                      *r = a->neighbours ? p + 1 : p + half;
                double by = a->amplitude != 0 ? (double)a->amplitude : 1, c = by * cos((double)angle), s = by * sin((double)angle),
                       u = (double)*p, v = (double)*r;

                *p = (float)(u * c - v * s);
                *r = (float)(v * c + u * s);
            }
        }
    return KVP_OK;
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

/* 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)), which has no cancellation */
static double gelu_tanh(double x)
{
    return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double gelu(double x)
{
    return 0.5 * x * erfc(-x * M_SQRT1_2);
}

static double relu(double x)
{
    return x > 0 ? x : 0;
}

static double relu2(double x)
{
    return x < 0 ? 0 : x * x; /* a NaN stays one */
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static kvp_err limited(const struct kb_act *a)
{
    for (uint64_t n = 0; n < a->rows; n++) {
        const float *in = (const float *)kb_at(a->in) + n * a->in_stride;
        float *out = (float *)kb_at(a->out) + n * a->out_stride;

        for (uint32_t i = 0; i < a->width; i++) {
            if (a->kind == KB_ACT_SCALE) {
                out[i] = (float)((double)a->alpha * (double)in[i]);
            } else if (a->kind == KB_ACT_SOFTCAP) {
                out[i] = (float)((double)a->limit * tanh((double)in[i] / (double)a->limit));
            } else {
                const double gate = fmin((double)in[2 * i], (double)a->limit);
                const double up = fmax(fmin((double)in[2 * i + 1], (double)a->limit), -(double)a->limit);

                out[i] = (float)((up + 1) * gate / (1 + exp(-(double)a->alpha * gate)));
            }
        }
    }
    return KVP_OK;
}

kvp_err ref_act(const void *args, struct kvp_error *e)
{
    static double (*const table[])(double) = {
        [KB_ACT_SILU] = silu, [KB_ACT_GELU_TANH] = gelu_tanh, [KB_ACT_GELU] = gelu, [KB_ACT_RELU] = relu,
        [KB_ACT_RELU2] = relu2, [KB_ACT_TANH] = tanh, [KB_ACT_SIGMOID] = sigmoid};
    const struct kb_act *a = args;

    (void)e;
    if (a->kind >= KB_ACT_SWIGLU_CLAMPED)
        return limited(a);
    for (uint64_t n = 0; n < a->rows; n++) {
        const float *in = (const float *)kb_at(a->in) + n * a->in_stride;
        float *out = (float *)kb_at(a->out) + n * a->out_stride;

        for (uint32_t i = 0; i < a->width; i++)
            out[i] = (float)(table[a->kind]((double)in[i]) * (a->gated ? (double)in[a->width + i] : 1.0));
    }
    return KVP_OK;
}

/* One scale for all rows that there are. */
static void calibrate(const struct kb_cache_write *a)
{
    float most = 0;

    for (uint64_t r = 0; r < a->batch * a->src_tokens; r++)
        for (uint64_t i = 0; i < (uint64_t)a->dst.heads / (a->repeat ? a->repeat : 1) * a->dst.dim; i++)
            most = fmaxf(most, fabsf(((const float *)kb_at(a->src))[r * a->src_stride + i]));
    *(float *)kb_at(a->dst.scale) = most > 0 ? most / ref_top(a->dst.format) : 1;
}

kvp_err ref_cache_write(const void *args, struct kvp_error *e)
{
    const struct kb_cache_write *a = args;
    const int32_t *index = kb_at(a->index);
    const float *src = kb_at(a->src);
    const uint32_t width = a->width ? a->width : a->dst.dim;
    const uint64_t head = a->shared ? 0 : a->src_head ? a->src_head : width;

    (void)e;
    if (a->calibrate && a->dst.scales == KB_SCALES_TENSOR)
        calibrate(a);
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t h = 0; h < a->dst.heads; h++)
            for (uint64_t j = 0; j < a->count; j++) {
                uint64_t list = a->one_index ? b : b * a->dst.heads + h, from = h / (a->repeat ? a->repeat : 1);
                uint64_t t = index ? (uint64_t)index[list * a->index_stride + j] : a->src_first + j;
                const float *row = src + (b * a->src_tokens + t) * a->src_stride + from * head;

                for (uint32_t i = 0; a->width && i < width; i++)
                    kb_store(a->dst.format, kb_kv_row(&a->dst, b, h, a->slot + j), a->first + i, row[i]);
                if (!a->width)
                    ref_kv_store(&a->dst, b, h, a->slot + j, row);
            }
    return KVP_OK;
}

kvp_err ref_read_probe(const void *args, struct kvp_error *e)
{
    const struct kb_read_probe *a = args;
    const uint32_t *words = kb_at(a->src);
    uint32_t sum = 0;

    (void)e;
    for (uint64_t i = 0; i < a->bytes / 4; i++)
        sum += words[i];
    *(float *)kb_at(a->out) = (float)sum;
    return KVP_OK;
}
