/* rows.c - what works row by row: embed, norm, rope, act, cache_write, read_probe */
#include "kernels/cpu/codes.h"
#include "kernels/cpu/gemm_coded.h"

#include "kernels/ops/act.h"
#include "kernels/ops/cache_write.h"
#include "kernels/ops/embed.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/read_probe.h"
#include "kernels/ops/rope.h"

#include <math.h>
#include <omp.h>

kvp_err cpu_embed(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_embed *a = args;
    const int32_t *tokens = kb_at(a->tokens), *positions = kb_at(a->position_ids);
    const struct kb_gemm table = {.n = a->vocab, .k = a->width, .format = a->format, .w = a->table, .code = a->code};
    const struct kb_gemm learned = {.k = a->width, .format = a->format, .w = a->position_table, .code = a->position_code};
    float *out = kb_at(a->out), *rows;
    uint64_t stride;

    KVP_TRY(cpu_scratch(dev, &rows, &stride, dev->threads, positions ? a->width : 0, e));
    for (uint64_t n = 0; n < a->rows; n++)
        if (tokens[n] < 0 || (uint32_t)tokens[n] >= a->vocab)
            return kvp_fail(e, KVP_EINPUT, "token %d is outside the vocabulary of %u", tokens[n], a->vocab);
#pragma omp parallel for num_threads(cpu_threads(dev, a->rows * a->width))
    for (uint64_t n = 0; n < a->rows; n++) {
        float *y = out + n * a->width, *row = rows + (uint64_t)omp_get_thread_num() * stride;

        cpu_weight_row(dev, &table, (uint64_t)tokens[n], y);
        if (a->scale != 0)
            dev->ops->scale(y, a->width, a->scale);
        if (positions)
            cpu_weight_row(dev, &learned, (uint64_t)positions[n], row);
        for (uint32_t i = 0; positions && i < a->width; i++)
            y[i] += row[i];
    }
    return KVP_OK;
}

static void norm_one(const struct kb_dev *dev, const struct kb_norm *a, const float *weight, const float *bias,
                     const float *in, float *out)
{
    float mean = a->layer ? dev->ops->sum(in, a->width) / (float)a->width : 0;
    double square = (double)dev->ops->squares(in, a->width, mean);
    float factor = (float)(1 / sqrt(square / a->width + a->eps));

    if (a->accumulate) {
#pragma omp simd
        for (uint32_t i = 0; i < a->width; i++)
            out[i] += (in[i] - mean) * factor * weight[i];
    } else {
#pragma omp simd
        for (uint32_t i = 0; i < a->width; i++)
            out[i] = (in[i] - mean) * factor * weight[i];
    }
    for (uint32_t i = 0; bias && i < a->width; i++)
        out[i] += bias[i];
}

kvp_err cpu_norm(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_norm *a = args;
    const float *in = kb_at(a->in);
    float *out = kb_at(a->out), *weight, *bias;
    uint64_t stride;

    KVP_TRY(cpu_scratch(dev, &weight, &stride, 2, a->width, e));
    bias = a->bias.buf ? weight + stride : NULL;
    for (uint32_t i = 0; !a->weight.buf && i < a->width; i++)
        weight[i] = 1;
    if (a->weight.buf)
        dev->ops->widen[a->format](weight, kb_at(a->weight), a->width);
    for (uint32_t i = 0; a->add_one && i < a->width; i++)
        weight[i] += 1;
    if (bias)
        dev->ops->widen[a->format](bias, kb_at(a->bias), a->width);
#pragma omp parallel for num_threads(cpu_threads(dev, a->rows * a->groups * a->width))
    for (uint64_t n = 0; n < a->rows; n++)
        for (uint32_t g = 0; g < a->groups; g++)
            norm_one(dev, a, weight, bias, in + n * a->in_stride + (uint64_t)g * a->width,
                     out + n * a->out_stride + (uint64_t)g * a->width);
    return KVP_OK;
}

/* The cosines and sines of one row's angles are computed once for all its heads. */
static void rope_row(const struct kb_rope *a, uint64_t n, float *cs)
{
    const float *inv_freq = kb_at(a->inv_freq);
    float position = (float)((const int32_t *)kb_at(a->positions))[n], by = a->amplitude != 0 ? a->amplitude : 1;
    uint32_t half = a->head_dim / 2;

    for (uint32_t i = 0; i < half; i++) {
        float angle = position * inv_freq[i];

        cs[i] = by * cosf(angle);
        cs[half + i] = by * sinf(angle);
    }
    for (uint32_t h = 0; h < a->heads; h++) {
        float *x = (float *)kb_at(a->x) + n * a->stride + h * (a->head_stride ? a->head_stride : a->head_dim);

        for (uint32_t i = 0; a->neighbours && i < half; i++) {
            float u = x[2 * i], v = x[2 * i + 1];

            x[2 * i] = u * cs[i] - v * cs[half + i];
            x[2 * i + 1] = v * cs[i] + u * cs[half + i];
        }
        if (a->neighbours)
            continue;
#pragma omp simd
        for (uint32_t i = 0; i < half; i++) {
            float u = x[i], v = x[i + half];

            x[i] = u * cs[i] - v * cs[half + i];
            x[i + half] = v * cs[i] + u * cs[half + i];
        }
    }
}

static kvp_err warm(const struct kb_dev *dev, const struct kb_rope *a)
{
    for (uint64_t n = 0; n < a->rows; n++) {
        const float position = (float)((const int32_t *)kb_at(a->positions))[n];
        const float by = 1 + a->warm_by * log1pf(floorf((position + 1) / a->warm_every));

        for (uint32_t h = 0; h < a->heads; h++)
            dev->ops->scale((float *)kb_at(a->x) + n * a->stride + h * (a->head_stride ? a->head_stride : a->head_dim), a->head_dim, by);
    }
    return KVP_OK;
}

kvp_err cpu_rope(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_rope *a = args;
    uint64_t areas = a->rows < dev->threads ? a->rows : dev->threads, stride;
    float *cs;

    if (a->warm_every != 0)
        return warm(dev, a);
    KVP_TRY(cpu_scratch(dev, &cs, &stride, areas, a->head_dim, e));
#pragma omp parallel for num_threads(cpu_threads(dev, a->rows * a->heads * a->head_dim))
    for (uint64_t part = 0; part < areas; part++)
        for (uint64_t n = a->rows * part / areas; n < a->rows * (part + 1) / areas; n++)
            rope_row(a, n, cs + part * stride);
    return KVP_OK;
}

static void limited_row(const struct kb_act *a, const float *in, float *out)
{
    for (uint32_t i = 0; a->kind == KB_ACT_SCALE && i < a->width; i++)
        out[i] = a->alpha * in[i];
    for (uint32_t i = 0; a->kind == KB_ACT_SOFTCAP && i < a->width; i++)
        out[i] = a->limit * tanhf(in[i] / a->limit);
    for (uint32_t i = 0; a->kind == KB_ACT_SWIGLU_CLAMPED && i < a->width; i++) {
        float gate = fminf(in[2 * i], a->limit), up = fmaxf(fminf(in[2 * i + 1], a->limit), -a->limit);

        out[i] = (up + 1) * gate / (1 + expf(-a->alpha * gate));
    }
}

/* Rows in order in one thread when out overwrites earlier rows of in. */
kvp_err cpu_act(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_act *a = args;
    const float *in = kb_at(a->in);
    float *out = kb_at(a->out);
    bool overlap = out < in + a->rows * a->in_stride && in < out + a->rows * a->out_stride;
    bool chained = overlap && !(in == out && a->in_stride == a->out_stride);
    int threads = chained ? 1 : cpu_threads(dev, 4 * a->rows * a->width);

    (void)e;
#pragma omp parallel for num_threads(threads)
    for (uint64_t n = 0; n < a->rows; n++)
        if (a->kind >= KB_ACT_SWIGLU_CLAMPED)
            limited_row(a, in + n * a->in_stride, out + n * a->out_stride);
        else
            dev->ops->act[a->kind](out + n * a->out_stride, in + n * a->in_stride,
                                   a->gated ? in + n * a->in_stride + a->width : NULL, a->width);
    return KVP_OK;
}

static void calibrate(const struct kb_dev *dev, const struct kb_cache_write *a)
{
    const uint64_t rows = a->batch * a->src_tokens, width = (uint64_t)a->dst.heads / (a->repeat ? a->repeat : 1) * a->dst.dim;
    float most = 0;

#pragma omp parallel for reduction(max : most) num_threads(cpu_threads(dev, rows * width))
    for (uint64_t r = 0; r < rows; r++) {
        const float *x = (const float *)kb_at(a->src) + r * a->src_stride;

        for (uint64_t i = 0; i < width; i++)
            most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    *(float *)kb_at(a->dst.scale) = most > 0 ? most / cpu_top(a->dst.format) : 1;
}

kvp_err cpu_cache_write(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_cache_write *a = args;
    const int32_t *index = kb_at(a->index);
    const float *src = kb_at(a->src);
    uint32_t heads = a->dst.heads, dim = a->width ? a->width : a->dst.dim;
    uint64_t head = a->shared ? 0 : a->src_head ? a->src_head : dim, skip = a->first * kb_element(a->dst.format);

    (void)e;
    if (a->calibrate && a->dst.scales == KB_SCALES_TENSOR)
        calibrate(dev, a);
#pragma omp parallel for collapse(2) num_threads(cpu_threads(dev, a->batch * a->count * heads * dim))
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t h = 0; h < heads; h++)
            for (uint64_t j = 0; j < a->count; j++) {
                uint64_t list = a->one_index ? b : b * heads + h, from = h / (a->repeat ? a->repeat : 1);
                uint64_t t = index ? (uint64_t)index[list * a->index_stride + j] : a->src_first + j;

                const float *row = src + (b * a->src_tokens + t) * a->src_stride + from * head;

                if (a->width)
                    dev->ops->narrow[a->dst.format]((char *)kb_kv_row(&a->dst, b, h, a->slot + j) + skip, row, dim);
                else
                    cpu_kv_store(dev, &a->dst, b, h, a->slot + j, row);
            }
    return KVP_OK;
}

kvp_err cpu_read_probe(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_read_probe *a = args;
    const uint32_t *words = kb_at(a->src);
    uint64_t lines = a->bytes / 64, parts = dev->threads;
    uint32_t sum = 0;

    (void)e;
#pragma omp parallel for num_threads(cpu_threads(dev, a->bytes / 4)) reduction(+ : sum)
    for (uint64_t part = 0; part < parts; part++) {
        uint64_t first = lines * part / parts, end = lines * (part + 1) / parts;

        sum += dev->ops->words(words + first * 16, (end - first) * 16);
    }
    *(float *)kb_at(a->out) = (float)sum;
    return KVP_OK;
}
