/* split.cuh - decode attention in parts: partial softmaxes in the device's scratch, and their sum
 *
 * A part covers a range of tokens for one query head: a maximum, a sum of exponentials and a weighted
 * sum of values, [max, sum, acc[head_dim]] in f32. Parts of one head follow each other; the combine
 * kernel adds them in that order, so results do not depend on which block ran first. */
#ifndef KVPROOF_SPLIT_CUH
#define KVPROOF_SPLIT_CUH

#include "kernels/cuda/device.cuh"

enum { SPLIT_MIN_TOKENS = 64, SPLIT_MAX = 64, COMBINE_THREADS = 128 };

static __host__ __device__ inline uint64_t part_floats(uint32_t head_dim)
{
    return (uint64_t)head_dim + 2;
}

/* How decode work is cut: `splits` ranges of tokens, `sequences` of the batch at a time. */
struct split_plan {
    uint32_t splits;
    uint64_t sequences;
};

/* Enough blocks to fill the device twice, ranges not shorter than SPLIT_MIN_TOKENS, and parts that fit
 * in the scratch. `sequences` 0: one sequence does not fit. */
static inline struct split_plan plan_split(const struct kb_dev *dev, uint64_t tokens, uint64_t batch, uint64_t blocks,
                                           uint32_t heads, uint32_t head_dim)
{
    const uint64_t room = CUDA_SCRATCH_BYTES / sizeof(float) / (heads * part_floats(head_dim));
    const uint64_t wanted = least(div_up(2 * (uint64_t)dev->prop.multiProcessorCount, blocks), SPLIT_MAX);
    const uint64_t splits = least(least(wanted, div_up(tokens, SPLIT_MIN_TOKENS)), room);

    return {(uint32_t)splits, splits ? least(batch, room / splits) : 0};
}

/* One head: out = its parts' weighted sum; the scores in probs (if given) become probabilities. */
static __global__ void combine_parts(uint32_t heads, uint32_t head_dim, uint32_t splits, uint64_t first_sequence,
                                     const float *parts, float *out, uint64_t out_stride, float *probs, uint64_t n_probs)
{
    const uint64_t bh = blockIdx.x, b = first_sequence + bh / heads, h = bh % heads;
    const float *p = parts + bh * splits * part_floats(head_dim);
    float max = -INFINITY, sum = 0;

    for (uint32_t s = 0; s < splits; s++)
        max = fmaxf(max, p[s * part_floats(head_dim)]);
    for (uint32_t s = 0; s < splits; s++)
        sum += exp_from(p[s * part_floats(head_dim)], max) * p[s * part_floats(head_dim) + 1];
    for (uint32_t c = threadIdx.x; c < head_dim; c += blockDim.x) {
        float acc = 0;

        for (uint32_t s = 0; s < splits; s++)
            acc += exp_from(p[s * part_floats(head_dim)], max) * p[s * part_floats(head_dim) + 2 + c];
        out[b * out_stride + h * head_dim + c] = acc / sum;
    }
    if (probs)
        for (uint64_t i = threadIdx.x; i < n_probs; i += blockDim.x) {
            float *x = probs + (b * heads + h) * n_probs + i;

            *x = expf(*x - max) / sum;
        }
}

#endif
