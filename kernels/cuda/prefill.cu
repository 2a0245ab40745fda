/* prefill.cu - attention over a whole prompt, and H2O's sums over the same scores
 *
 * Both walk tiles of 32 keys against tiles of queries held in shared memory, a lane for each key and
 * QUERIES queries for each warp: every key element read from shared memory serves four products. */
#include "kernels/cuda/device.cuh"

enum { KEYS = WARP, QUERIES = 4 };

/* D: head_dim rounded up to 64, 128 or 256; warps so that the tiles fit in 48 KiB. */
template <int D>
struct tile {
    static const int warps = D <= 128 ? 8 : 2;
    static const int queries = warps * QUERIES;
};

/* Rows [first, first + rows) of a head, zeros past `tokens` and past dim; row i goes to to + i * pitch. */
template <int D>
static __device__ inline void load_rows(float *to, int pitch, int rows, const float *from, uint64_t stride, uint64_t first,
                                        uint64_t tokens, uint32_t dim)
{
    for (int i = (int)threadIdx.x; i < rows * D; i += (int)blockDim.x) {
        const uint64_t t = first + (uint64_t)(i / D);
        const uint32_t c = (uint32_t)(i % D);

        to[i / D * pitch + i % D] = t < tokens && c < dim ? from[t * stride + c] : 0.0f;
    }
}

/* s[r] = q row r . k row, for QUERIES rows of q that follow each other. */
template <int D>
static __device__ inline void dots(float *s, const float *q, const float *k, uint32_t dim)
{
    for (int r = 0; r < QUERIES; r++)
        s[r] = 0;
    for (uint32_t c = 0; c < dim; c++) {
        const float x = k[c];

#pragma unroll
        for (int r = 0; r < QUERIES; r++)
            s[r] += q[r * D + (int)c] * x;
    }
}

/* Does query i see key j? */
static __device__ inline bool visible(uint64_t i, uint64_t j, uint64_t tokens, uint64_t window)
{
    return i < tokens && j <= i && (window == 0 || i - j < window);
}

/* ---- attention ---------------------------------------------------------------------------------- */

template <int D>
static __global__ void __launch_bounds__(tile<D>::warps *WARP)
    attend_prompt(struct kb_attn_prefill a, const float *q, const float *k, const float *v, float *out, float *lse)
{
    __shared__ float sq[tile<D>::queries * D], skv[KEYS * (D + 1)], sp[tile<D>::warps][QUERIES][KEYS];
    const uint64_t tiles = (a.tokens + tile<D>::queries - 1) / tile<D>::queries;
    const uint64_t i0 = blockIdx.x % tiles * tile<D>::queries, bh = blockIdx.x / tiles;
    const uint64_t b = bh / a.heads, base = b * a.tokens * a.stride, end = i0 + tile<D>::queries < a.tokens ? i0 + tile<D>::queries : a.tokens;
    const uint32_t h = (uint32_t)(bh % a.heads), g = h / (a.heads / a.kv_heads), lane = lane_id(), warp = warp_id();
    const uint64_t mine = i0 + warp * QUERIES; /* this warp's first query */
    float acc[QUERIES][D / WARP] = {}, max[QUERIES], sum[QUERIES] = {};

    for (int r = 0; r < QUERIES; r++)
        max[r] = -INFINITY;
    load_rows<D>(sq, D, tile<D>::queries, q + base + (uint64_t)h * a.head_dim, a.stride, i0, a.tokens, a.head_dim);
    for (uint64_t j0 = a.window && i0 + 1 > a.window ? i0 + 1 - a.window : 0; j0 < end; j0 += KEYS) {
        float s[QUERIES];

        __syncthreads();
        load_rows<D>(skv, D + 1, KEYS, k + base + (uint64_t)g * a.head_dim, a.stride, j0, a.tokens, a.head_dim);
        __syncthreads();
        dots<D>(s, sq + warp * QUERIES * D, skv + lane * (D + 1), a.head_dim);
        for (int r = 0; r < QUERIES; r++) {
            const float x = visible(mine + r, j0 + lane, a.tokens, a.window) ? s[r] * a.scale : -INFINITY;
            const float top = fmaxf(max[r], warp_max(x)), old = exp_from(max[r], top), p = exp_from(x, top);

            max[r] = top;
            sum[r] = sum[r] * old + warp_sum(p);
            sp[warp][r][lane] = p;
            for (int c = 0; c < D / WARP; c++)
                acc[r][c] *= old;
        }
        __syncthreads();
        load_rows<D>(skv, D + 1, KEYS, v + base + (uint64_t)g * a.head_dim, a.stride, j0, a.tokens, a.head_dim);
        __syncthreads();
        for (int j = 0; j < KEYS; j++)
#pragma unroll
            for (int c = 0; c < D / WARP; c++) {
                const float x = skv[j * (D + 1) + c * WARP + (int)lane];

#pragma unroll
                for (int r = 0; r < QUERIES; r++)
                    acc[r][c] += sp[warp][r][j] * x;
            }
    }
    for (int r = 0; r < QUERIES; r++) {
        if (mine + r >= a.tokens)
            break;
#pragma unroll
        for (int c = 0; c < D / WARP; c++)
            if (c * WARP + lane < a.head_dim)
                out[(b * a.tokens + mine + r) * a.out_stride + (uint64_t)h * a.head_dim + c * WARP + lane] = acc[r][c] / sum[r];
        if (lse && lane == 0)
            lse[bh * a.tokens + mine + r] = max[r] + logf(sum[r]);
    }
}

template <int D>
static kvp_err prefill_as(struct kb_dev *dev, const struct kb_attn_prefill *a, struct kvp_error *e)
{
    return launch(dev, e, "attn_prefill", a->batch * a->heads * div_up(a->tokens, tile<D>::queries), tile<D>::warps * WARP,
                  attend_prompt<D>, *a, at<const float>(a->q), at<const float>(a->k), at<const float>(a->v),
                  at<float>(a->out), at<float>(a->lse));
}

static bool heads_ok(uint32_t heads, uint32_t kv_heads, uint32_t head_dim)
{
    return kv_heads > 0 && heads % kv_heads == 0 && head_dim > 0 && head_dim <= CUDA_MAX_HEAD_DIM;
}

bool cuda_attn_prefill_ok(const void *args)
{
    const struct kb_attn_prefill *a = (const struct kb_attn_prefill *)args;
    const bool plain = !a->softcap && !a->sinks.buf && !a->slopes.buf && !a->chunk && !a->shared_dim && !a->kv_stride && !a->k_head &&
                       !a->v_head && (!a->v_dim || a->v_dim == a->head_dim);

    return plain && heads_ok(a->heads, a->kv_heads, a->head_dim);
}

kvp_err cuda_attn_prefill(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_prefill *a = (const struct kb_attn_prefill *)args;

    return a->head_dim <= 64    ? prefill_as<64>(dev, a, e)
           : a->head_dim <= 128 ? prefill_as<128>(dev, a, e)
                                : prefill_as<256>(dev, a, e);
}

/* ---- H2O's scores ------------------------------------------------------------------------------- */

/* A block for each tile of keys of one kv head; queries go by, and every lane sums for its key. */
template <int D>
static __global__ void __launch_bounds__(tile<D>::warps *WARP)
    sum_mass(struct kb_h2o_scores a, const float *q, const float *k, const float *lse, float *scores)
{
    __shared__ float sq[tile<D>::queries * D], sk[KEYS * (D + 1)], total[tile<D>::warps][KEYS];
    const uint64_t tiles = (a.tokens + KEYS - 1) / KEYS;
    const uint64_t j0 = blockIdx.x % tiles * KEYS, bg = blockIdx.x / tiles, b = bg / a.kv_heads;
    const uint32_t group = a.heads / a.kv_heads, g = (uint32_t)(bg % a.kv_heads), lane = lane_id(), warp = warp_id();
    const uint64_t base = b * a.tokens * a.stride, j = j0 + lane;
    const uint64_t last = a.window && a.window < a.tokens ? j0 + KEYS - 1 + a.window : a.tokens;
    const uint64_t end = last < a.tokens ? last : a.tokens; /* queries from `end` on see none of these keys */
    float mass = 0;

    load_rows<D>(sk, D + 1, KEYS, k + base + (uint64_t)g * a.head_dim, a.stride, j0, a.tokens, a.head_dim);
    for (uint32_t h = g * group; h < (g + 1) * group; h++)
        for (uint64_t i0 = j0; i0 < end; i0 += tile<D>::queries) {
            float s[QUERIES];

            __syncthreads();
            load_rows<D>(sq, D, tile<D>::queries, q + base + (uint64_t)h * a.head_dim, a.stride, i0, a.tokens, a.head_dim);
            __syncthreads();
            dots<D>(s, sq + warp * QUERIES * D, sk + lane * (D + 1), a.head_dim);
            for (int r = 0; r < QUERIES; r++) {
                const uint64_t i = i0 + warp * QUERIES + r;

                if (visible(i, j, a.tokens, a.window))
                    mass += expf(a.scale * s[r] - lse[(b * a.heads + h) * a.tokens + i]);
            }
        }
    total[warp][lane] = mass;
    __syncthreads();
    if (warp == 0 && j < a.tokens) {
        mass = 0;
        for (int w = 0; w < tile<D>::warps; w++)
            mass += total[w][lane];
        scores[bg * a.tokens + j] = mass;
    }
}

template <int D>
static kvp_err scores_as(struct kb_dev *dev, const struct kb_h2o_scores *a, struct kvp_error *e)
{
    return launch(dev, e, "h2o_scores", a->batch * a->kv_heads * div_up(a->tokens, KEYS), tile<D>::warps * WARP,
                  sum_mass<D>, *a, at<const float>(a->q), at<const float>(a->k), at<const float>(a->lse),
                  at<float>(a->scores));
}

bool cuda_h2o_scores_ok(const void *args)
{
    const struct kb_h2o_scores *a = (const struct kb_h2o_scores *)args;

    return heads_ok(a->heads, a->kv_heads, a->head_dim);
}

kvp_err cuda_h2o_scores(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_h2o_scores *a = (const struct kb_h2o_scores *)args;

    return a->head_dim <= 64    ? scores_as<64>(dev, a, e)
           : a->head_dim <= 128 ? scores_as<128>(dev, a, e)
                                : scores_as<256>(dev, a, e);
}
