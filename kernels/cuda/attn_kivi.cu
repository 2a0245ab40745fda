/* attn_kivi.cu - decode attention over KIVI's packed and residual keys and values
 *
 * A block for each (sequence, kv head, up to G query heads of it, range of tokens), in tiles of as many
 * tokens as it has threads. Scores: a thread for each token, walking channels; neighbours share words of
 * codes. Values: a thread for each channel, walking tokens. */
#include "kernels/cuda/kivi.cuh"
#include "kernels/cuda/split.cuh"

enum { TILE = 128, PER_THREAD = CUDA_MAX_HEAD_DIM / TILE };

/* The value of code number j of the words from `word` on. */
static __device__ inline float unpack(const uint32_t *words, uint64_t j, uint32_t bits, float scale, float min)
{
    const uint32_t per_word = 32 / bits, code = words[j / per_word] >> (bits * (uint32_t)(j % per_word)) & ((1u << bits) - 1);

    return (float)code * scale + min;
}

/* s[r] = q[r] . key of token t, for G query heads (rows of q past the last are zero). */
template <typename T, int G>
static __device__ inline void key_scores(float *s, const float (*q)[CUDA_MAX_HEAD_DIM], const struct kb_attn_kivi &a,
                                         const struct kivi_view<T> &k, const T *residual, uint64_t b, uint32_t g, uint64_t t)
{
#pragma unroll
    for (int r = 0; r < G; r++)
        s[r] = 0;
    if (t < a.k_packed) {
        const struct kivi_place p = kivi_find(k, b, t);
        const uint64_t words = p.tokens * a.bits / 32, groups = p.tokens / a.group;
        const uint64_t channel = (p.first * a.kv_heads + g) * a.head_dim, group = p.token / a.group;

        for (uint32_t c = 0; c < a.head_dim; c++) {
            const uint64_t i = (channel + c) * groups + group;
            const float x = unpack(k.codes + (channel + c) * words, p.token, a.bits, to_f32(k.scale[i]), to_f32(k.min[i]));

#pragma unroll
            for (int r = 0; r < G; r++)
                s[r] += q[r][c] * x;
        }
        return;
    }
    residual += ((b * a.kv_heads + g) * a.k_res_slots + (t - a.k_packed)) * a.head_dim;
    for (uint32_t c = 0; c < a.head_dim; c++) {
        const float x = to_f32(residual[c]);

#pragma unroll
        for (int r = 0; r < G; r++)
            s[r] += q[r][c] * x;
    }
}

/* The row of token t's value: of the packed rows, or of the residual ring; the tail has only one. */
template <typename T>
static __device__ inline uint64_t value_row(const struct kb_attn_kivi &a, const struct kivi_view<T> &v, uint64_t b, uint32_t g,
                                            uint64_t t)
{
    if (t < a.v_packed) {
        const struct kivi_place p = kivi_find(v, b, t);

        return (p.first * a.kv_heads + g) * p.tokens + p.token;
    }
    if (t >= a.v_packed + a.v_full)
        return 0;
    return (b * a.kv_heads + g) * a.v_res_slots + (a.v_first + (t - a.v_packed)) % a.v_res_slots;
}

template <typename T>
static __device__ inline float value_at(const struct kb_attn_kivi &a, const struct kivi_view<T> &v, const T *residual,
                                        const float *tail, uint64_t t, uint64_t row, uint32_t c)
{
    const uint64_t i = row * (a.head_dim / a.group) + c / a.group;

    if (t >= a.v_packed + a.v_full)
        return tail[c];
    if (t >= a.v_packed)
        return to_f32(residual[row * a.head_dim + c]);
    return unpack(v.codes + row * a.head_dim * a.bits / 32, c, a.bits, to_f32(v.scale[i]), to_f32(v.min[i]));
}

template <typename T, int G>
static __global__ void __launch_bounds__(TILE)
    attend_packed(struct kb_attn_kivi a, const float *q, struct kivi_view<T> k, struct kivi_view<T> v, const T *k_res,
                  const T *v_res, const float *tail, float *parts, uint64_t first_sequence, uint32_t splits)
{
    __shared__ float sq[G][CUDA_MAX_HEAD_DIM], sp[G][TILE], part[WARP];
    __shared__ uint64_t srow[TILE];
    const uint32_t group = a.heads / a.kv_heads, chunks = (group + G - 1) / G;
    const uint32_t split = blockIdx.x % splits, chunk = blockIdx.x / splits % chunks;
    const uint32_t g = blockIdx.x / splits / chunks % a.kv_heads, h = g * group + chunk * G;
    const uint64_t local = blockIdx.x / splits / chunks / a.kv_heads, b = first_sequence + local;
    const uint64_t total = a.k_packed + a.k_full, each = (total - a.first + splits - 1) / splits;
    const uint64_t begin = a.first + split * each, end = begin + each < total ? begin + each : total;
    const int heads = group - chunk * G < G ? (int)(group - chunk * G) : G;
    float max[G], sum[G], acc[G][PER_THREAD];

    if (tail)
        tail += b * a.tail_stride + (uint64_t)g * a.head_dim;
#pragma unroll
    for (int r = 0; r < G; r++) {
        max[r] = -INFINITY;
        sum[r] = 0;
        for (int i = 0; i < PER_THREAD; i++)
            acc[r][i] = 0;
        for (uint32_t c = threadIdx.x; c < a.head_dim; c += TILE)
            sq[r][c] = r < heads ? q[b * a.q_stride + (uint64_t)(h + r) * a.head_dim + c] : 0.0f;
    }
    __syncthreads();
    for (uint64_t t0 = begin; t0 < end; t0 += TILE) {
        const uint64_t t = t0 + threadIdx.x;
        const int n = end - t0 < TILE ? (int)(end - t0) : TILE;
        float s[G];

        if (t < end) {
            key_scores<T, G>(s, sq, a, k, k_res, b, g, t);
            srow[threadIdx.x] = value_row(a, v, b, g, t);
        }
#pragma unroll
        for (int r = 0; r < G; r++) {
            const float x = t < end ? s[r] * a.scale_qk : -INFINITY;
            const float top = fmaxf(max[r], block_max(x, part)), old = exp_from(max[r], top), p = exp_from(x, top);

            max[r] = top;
            sum[r] = sum[r] * old + block_sum(p, part);
            sp[r][threadIdx.x] = p;
            for (int i = 0; i < PER_THREAD; i++)
                acc[r][i] *= old;
        }
        __syncthreads();
        for (int j = 0; j < n; j++)
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) {
                const uint32_t c = threadIdx.x + (uint32_t)i * TILE;

                if (c < a.head_dim) {
                    const float x = value_at(a, v, v_res, tail, t0 + (uint64_t)j, srow[j], c);

#pragma unroll
                    for (int r = 0; r < G; r++)
                        acc[r][i] += sp[r][j] * x;
                }
            }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < G; r++) {
        float *out = parts + ((local * a.heads + h + (uint32_t)r) * splits + split) * part_floats(a.head_dim);

        if (r >= heads)
            break;
        if (threadIdx.x == 0) {
            out[0] = max[r];
            out[1] = sum[r];
        }
        for (int i = 0; i < PER_THREAD; i++)
            if (threadIdx.x + (uint32_t)i * TILE < a.head_dim)
                out[2 + threadIdx.x + i * TILE] = acc[r][i];
    }
}

/* ---- host side ---------------------------------------------------------------------------------- */

template <typename T, int G>
static kvp_err attend_as(struct kb_dev *dev, const struct kb_attn_kivi *a, struct kvp_error *e)
{
    const uint64_t per_sequence = a->kv_heads * div_up(a->heads / a->kv_heads, G), tokens = a->k_packed + a->k_full - a->first;
    const struct split_plan plan = plan_split(dev, tokens, a->batch, a->batch * per_sequence, a->heads, a->head_dim);

    for (uint64_t b = 0; b < a->batch; b += plan.sequences) {
        const uint64_t n = least(plan.sequences, a->batch - b);

        KVP_TRY(launch(dev, e, "attn_kivi", n * per_sequence * plan.splits, TILE, attend_packed<T, G>, *a,
                       at<const float>(a->q), kivi_view_of<T>(&a->k), kivi_view_of<T>(&a->v), at<const T>(a->k_res),
                       at<const T>(a->v_res), at<const float>(a->tail_v), dev->scratch, b, plan.splits));
        KVP_TRY(launch(dev, e, "attn_kivi (combine)", n * a->heads, COMBINE_THREADS, combine_parts, a->heads, a->head_dim,
                       plan.splits, b, dev->scratch, at<float>(a->out), a->out_stride, (float *)NULL, 0));
    }
    return KVP_OK;
}

template <typename T>
static kvp_err attend_group(struct kb_dev *dev, const struct kb_attn_kivi *a, struct kvp_error *e)
{
    const uint32_t group = a->heads / a->kv_heads;

    return group == 1 ? attend_as<T, 1>(dev, a, e) : group <= 4 ? attend_as<T, 4>(dev, a, e) : attend_as<T, 8>(dev, a, e);
}

bool cuda_attn_kivi_ok(const void *args)
{
    const struct kb_attn_kivi *a = (const struct kb_attn_kivi *)args;

    return (a->bits == 2 || a->bits == 4) && a->group > 0 && is_float(a->format) && a->kv_heads > 0 &&
           a->heads % a->kv_heads == 0 && a->head_dim > 0 && a->head_dim <= CUDA_MAX_HEAD_DIM &&
           a->head_dim % a->group == 0 &&
           a->k_packed + a->k_full == a->v_packed + a->v_full + (a->tail_v.buf ? 1 : 0) &&
           a->first < a->k_packed + a->k_full && a->heads * part_floats(a->head_dim) * sizeof(float) <= CUDA_SCRATCH_BYTES;
}

kvp_err cuda_attn_kivi(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    static kvp_err (*const as[])(struct kb_dev *, const struct kb_attn_kivi *, struct kvp_error *) = {
        attend_group<float>, attend_group<__half>, attend_group<__nv_bfloat16>};
    const struct kb_attn_kivi *a = (const struct kb_attn_kivi *)args;

    return as[a->format](dev, a, e);
}
