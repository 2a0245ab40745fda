/* attend.c - one query token per sequence: ranges of tokens in parallel, running softmax, ordered merge */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <omp.h>

#define RANGE 256 /* fewer tokens than this are not worth a range of their own */

/* One range of one kv head: per query head of the group a maximum, a sum and dim accumulators. */
struct part {
    float *max, *sum, *o, *s, *extra;
};

static struct part part_at(const struct cpu_attend *a, float *area)
{
    uint64_t group = a->heads / a->kv_heads;
    float *o = area + 2 * group, *s = o + group * a->dim;

    return (struct part){area, area + group, o, s, s + group * a->tile};
}

static uint64_t part_floats(const struct cpu_attend *a)
{
    return (uint64_t)(a->heads / a->kv_heads) * (2 + a->dim + a->tile) + a->extra;
}

static void keep_scores(const struct cpu_attend *a, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1, const float *s)
{
    uint32_t group = a->heads / a->kv_heads;
    uint64_t n = a->end - a->first;

    for (uint32_t h = 0; h < group; h++)
        memcpy(a->probs + (b * a->heads + g * group + h) * n + t0 - a->first, s + (uint64_t)h * a->tile,
               (t1 - t0) * sizeof(float));
}

static void take_tile(const struct kb_dev *dev, const struct cpu_attend *a, struct part p, uint64_t b, uint32_t g,
                      uint64_t t0, uint64_t t1)
{
    uint32_t group = a->heads / a->kv_heads;

    a->scores(dev, a->args, b, g, t0, t1, p.s, a->tile, p.extra);
    if (a->probs)
        keep_scores(a, b, g, t0, t1, p.s);
    for (uint32_t h = 0; h < group; h++) {
        float *s = p.s + (uint64_t)h * a->tile, max = dev->ops->max(s, t1 - t0);

        if (max > p.max[h]) {
            float factor = expf(p.max[h] - max);

            dev->ops->scale(p.o + (uint64_t)h * a->dim, a->dim, factor);
            p.sum[h] *= factor;
            p.max[h] = max;
        }
        p.sum[h] += dev->ops->exps(s, t1 - t0, p.max[h]);
    }
    a->values(dev, a->args, b, g, t0, t1, p.s, a->tile, p.o, p.extra);
}

static void take_range(const struct kb_dev *dev, const struct cpu_attend *a, struct part p, uint64_t b, uint32_t g,
                       uint64_t t0, uint64_t t1)
{
    uint32_t group = a->heads / a->kv_heads;

    for (uint32_t h = 0; h < group; h++) {
        p.max[h] = -INFINITY;
        p.sum[h] = 0;
    }
    memset(p.o, 0, (uint64_t)group * a->dim * sizeof(float));
    while (t0 < t1) {
        uint64_t next = (t0 / a->tile + 1) * a->tile;

        next = next < t1 ? next : t1;
        take_tile(dev, a, p, b, g, t0, next);
        t0 = next;
    }
}

/* Head h of kv head g: its `parts` areas of `stride` floats into the output row, and the probabilities. */
static void merge(const struct kb_dev *dev, const struct cpu_attend *a, float *areas, uint64_t stride, uint64_t parts,
                  uint64_t b, uint32_t g, uint32_t h)
{
    uint32_t head = g * (a->heads / a->kv_heads) + h;
    float sink = a->sinks.buf ? kb_load(a->sink_format, kb_at(a->sinks), head) : -INFINITY;
    float *out = a->out + b * a->out_stride + (uint64_t)head * a->dim, max = sink, sum = 0;
    uint64_t n = a->end - a->first;

    for (uint64_t i = 0; i < parts; i++)
        max = fmaxf(max, part_at(a, areas + i * stride).max[h]);
    for (uint64_t i = 0; i < parts; i++) {
        struct part p = part_at(a, areas + i * stride);

        sum += p.sum[h] * expf(p.max[h] - max);
    }
    sum += expf(sink - max);
    for (uint64_t i = 0; i < parts; i++) {
        struct part p = part_at(a, areas + i * stride);
        float factor = expf(p.max[h] - max) / sum;

        for (uint32_t c = 0; c < a->dim; c++)
            out[c] = (i ? out[c] : 0.0f) + factor * p.o[(uint64_t)h * a->dim + c];
    }
    if (a->probs) {
        float *probs = a->probs + (b * a->heads + head) * n;

        dev->ops->exps(probs, n, max);
        dev->ops->scale(probs, n, 1 / sum);
    }
}

void cpu_bend(float *s, uint64_t j0, uint64_t n, uint64_t i, float softcap, const float *slope)
{
    for (uint64_t j = 0; softcap != 0 && j < n; j++)
        s[j] = softcap * tanhf(s[j] / softcap);
    for (uint64_t j = 0; slope && j < n; j++)
        s[j] += *slope * ((float)(j0 + j) - (float)i);
}

/* Tokens of one range: enough ranges to keep the threads busy, whole tiles, none too short. */
static uint64_t range_tokens(const struct kb_dev *dev, const struct cpu_attend *a)
{
    uint64_t n = a->end - a->first, pairs = a->batch * a->kv_heads, ranges = (4 * dev->threads + pairs - 1) / pairs;
    uint64_t tokens;

    if (ranges > (n + RANGE - 1) / RANGE)
        ranges = (n + RANGE - 1) / RANGE;
    tokens = (n + ranges - 1) / ranges;
    return (tokens + a->tile - 1) / a->tile * a->tile;
}

kvp_err cpu_attend(struct kb_dev *dev, const struct cpu_attend *a, struct kvp_error *e)
{
    uint64_t pairs = a->batch * a->kv_heads, tokens = range_tokens(dev, a), start = a->first / a->tile * a->tile;
    uint64_t ranges = (a->end - start + tokens - 1) / tokens, stride;
    int threads = cpu_threads(dev, a->batch * a->heads * a->dim * (a->end - a->first));
    uint32_t group = a->heads / a->kv_heads;
    float *areas;

    KVP_TRY(cpu_scratch(dev, &areas, &stride, ranges > 1 ? pairs * ranges : dev->threads, part_floats(a), e));
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (uint64_t i = 0; i < pairs * ranges; i++) {
            uint64_t pair = i / ranges, t0 = start + i % ranges * tokens, t1 = t0 + tokens;
            float *area = areas + (ranges > 1 ? i : (uint64_t)omp_get_thread_num()) * stride;

            take_range(dev, a, part_at(a, area), pair / a->kv_heads, (uint32_t)(pair % a->kv_heads),
                       t0 > a->first ? t0 : a->first, t1 < a->end ? t1 : a->end);
            for (uint32_t h = 0; ranges == 1 && h < group; h++)
                merge(dev, a, area, stride, 1, pair / a->kv_heads, (uint32_t)(pair % a->kv_heads), h);
        }
        if (ranges > 1) {
#pragma omp for
            for (uint64_t i = 0; i < pairs * group; i++) {
                uint64_t pair = i / group;

                merge(dev, a, areas + pair * ranges * stride, stride, ranges, pair / a->kv_heads,
                      (uint32_t)(pair % a->kv_heads), (uint32_t)(i % group));
            }
        }
    }
    return KVP_OK;
}
