/* h2o.cu - H2O's bookkeeping: which tokens stay after prefill, and which slot goes at each step
 *
 * A block for each (sequence, kv head). Ties are decided by position, so the kept sets are a function
 * of the scores alone. */
#include "kernels/cuda/device.cuh"

enum { H2O_THREADS = 256, DIGITS = 256 };

/* Unsigned keys in the order of the floats; -0 and 0 are one key, as they compare equal. */
static __device__ inline uint32_t order_key(float x)
{
    const uint32_t bits = __float_as_uint(x + 0.0f);

    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* ---- select ------------------------------------------------------------------------------------- */

/* The key of the `want`-th highest of x[0, n), and how many equal to it are among those `want`. By
 * digits of 8 bits from the top; counting is in integers, so its order does not matter. */
static __device__ void find_threshold(const float *x, uint64_t n, uint64_t want, uint32_t *key, uint64_t *equal)
{
    __shared__ unsigned long long count[DIGITS];
    __shared__ uint32_t prefix;
    __shared__ unsigned long long rest;

    if (threadIdx.x == 0) {
        prefix = 0;
        rest = want;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = (int)threadIdx.x; i < DIGITS; i += (int)blockDim.x)
            count[i] = 0;
        __syncthreads();
        for (uint64_t i = threadIdx.x; i < n; i += blockDim.x) {
            const uint32_t k = order_key(x[i]);

            if (shift == 24 || k >> (shift + 8) == prefix >> (shift + 8))
                atomicAdd(&count[k >> shift & (DIGITS - 1)], 1ull);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = DIGITS - 1;

            for (; digit > 0 && count[digit] < rest; digit--)
                rest -= count[digit];
            prefix |= (uint32_t)digit << shift;
        }
        __syncthreads();
    }
    *key = prefix;
    *equal = rest;
}

/* Threads before this one in the block whose flag is set, and the block's total. */
static __device__ uint32_t rank_in_block(bool flag, uint32_t *total)
{
    __shared__ uint32_t warp_count[WARP];
    const uint32_t ballot = __ballot_sync(FULL_WARP, flag);
    uint32_t before = (uint32_t)__popc(ballot & ((1u << lane_id()) - 1));

    __syncthreads();
    if (lane_id() == 0)
        warp_count[warp_id()] = (uint32_t)__popc(ballot);
    __syncthreads();
    *total = 0;
    for (uint32_t w = 0; w < blockDim.x / WARP; w++) {
        before += w < warp_id() ? warp_count[w] : 0;
        *total += warp_count[w];
    }
    return before;
}

template <typename S>
static __global__ void select_slots(struct kb_h2o_select a, const float *scores, int32_t *index, S *kept_scores)
{
    const uint64_t bg = blockIdx.x;
    const bool evicts = a.tokens > a.heavy + a.recent;
    const uint64_t kept = evicts ? a.heavy + a.recent : a.tokens, old = evicts ? a.tokens - a.recent : 0;
    uint64_t slot = 0, equal = 0, equal_seen = 0; /* the same in every thread */
    uint32_t threshold = 0;

    scores += bg * a.tokens;
    index += bg * kept;
    kept_scores += bg * a.kept_stride;
    if (evicts)
        find_threshold(scores, old, a.heavy, &threshold, &equal);
    for (uint64_t t0 = 0; t0 < old; t0 += blockDim.x) {
        const uint64_t t = t0 + threadIdx.x;
        const uint32_t k = t < old ? order_key(scores[t]) : 0;
        uint32_t equals = 0, taken = 0;
        const uint64_t rank = equal_seen + rank_in_block(t < old && k == threshold, &equals);
        const bool take = t < old && (k > threshold || (k == threshold && rank < equal));
        const uint64_t to = slot + rank_in_block(take, &taken);

        if (take) {
            index[to] = (int32_t)t;
            store_f32(kept_scores + to, scores[t]);
        }
        slot += taken;
        equal_seen += equals;
    }
    for (uint64_t t = old + threadIdx.x; t < a.tokens; t += blockDim.x) {
        const uint64_t to = evicts ? a.heavy + (t - a.heavy) % a.recent : t;

        index[to] = (int32_t)t;
        store_f32(kept_scores + to, scores[t]);
    }
}

template <typename S>
static kvp_err select_as(struct kb_dev *dev, const struct kb_h2o_select *a, struct kvp_error *e)
{
    return launch(dev, e, "h2o_select", a->batch * a->kv_heads, H2O_THREADS, select_slots<S>, *a, at<const float>(a->scores),
                  at<int32_t>(a->index), at<S>(a->kept_scores));
}

static bool score_ok(enum kvp_format f)
{
    return f == KVP_F32 || f == KVP_F16;
}

bool cuda_h2o_select_ok(const void *args)
{
    const struct kb_h2o_select *a = (const struct kb_h2o_select *)args;

    return score_ok(a->score_format) && a->heavy > 0 && a->recent > 0 && a->tokens <= INT32_MAX;
}

kvp_err cuda_h2o_select(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_h2o_select *a = (const struct kb_h2o_select *)args;

    return a->score_format == KVP_F16 ? select_as<__half>(dev, a, e) : select_as<float>(dev, a, e);
}

/* ---- step --------------------------------------------------------------------------------------- */

/* Slot and score of the lowest score, the lower slot first; thread 0's result is the block's. */
struct lowest {
    float score;
    uint64_t slot;
};

static __device__ inline bool lower(struct lowest a, struct lowest b)
{
    return a.score < b.score || (a.score == b.score && a.slot < b.slot);
}

static __device__ struct lowest block_lowest(struct lowest mine)
{
    __shared__ float score[H2O_THREADS];
    __shared__ uint64_t slot[H2O_THREADS];

    score[threadIdx.x] = mine.score;
    slot[threadIdx.x] = mine.slot;
    __syncthreads();
    for (uint32_t half = H2O_THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            const struct lowest a = {score[threadIdx.x], slot[threadIdx.x]};
            const struct lowest b = {score[threadIdx.x + half], slot[threadIdx.x + half]};

            if (lower(b, a)) {
                score[threadIdx.x] = b.score;
                slot[threadIdx.x] = b.slot;
            }
        }
        __syncthreads();
    }
    return {score[0], slot[0]};
}

static __device__ inline float added(const float *probs, uint32_t group, uint64_t n, uint64_t s)
{
    float sum = 0;

    for (uint32_t h = 0; h < group; h++)
        sum += probs[h * n + s];
    return sum;
}

/* Slot `from` to slot `to` (unless equal), then the new row into `from`. A thread keeps its channels. */
template <typename T>
static __device__ inline void move_and_store(struct kv_view<T> kv, uint64_t b, uint32_t g, uint64_t to, uint64_t from,
                                             const float *fresh)
{
    T *old = kv.row(b, g, from), *dst = kv.row(b, g, to);

    for (uint32_t c = threadIdx.x; c < kv.dim; c += blockDim.x) {
        if (to != from)
            dst[c] = old[c];
        store_f32(old + c, fresh[c]);
    }
}

template <typename T, typename S>
static __global__ void step_slots(struct kb_h2o_step a, const float *probs, S *scores, struct kv_view<T> k,
                                  struct kv_view<T> v, const float *new_k, const float *new_v, int32_t *victim)
{
    const uint64_t bg = blockIdx.x, b = bg / a.kv_heads, n = a.used + 1;
    const uint32_t g = (uint32_t)(bg % a.kv_heads), group = a.heads / a.kv_heads;
    const bool full = a.used >= a.heavy + a.recent;
    const uint64_t oldest = full ? a.heavy + (a.position - a.heavy) % a.recent : a.used; /* where the new token goes */
    struct lowest low = {INFINITY, UINT64_MAX};
    uint64_t to = oldest;

    probs += (b * a.heads + (uint64_t)g * group) * n;
    scores += bg * a.score_stride;
    for (uint64_t s = threadIdx.x; s < a.used; s += blockDim.x) {
        store_f32(scores + s, to_f32(scores[s]) + added(probs, group, n, s));
        if (s < a.heavy) {
            const struct lowest here = {to_f32(scores[s]), s};

            low = lower(here, low) ? here : low;
        }
    }
    low = block_lowest(low); /* its barriers also make every score visible */
    if (isnan(to_f32(scores[0])))
        low = {to_f32(scores[0]), 0}; /* nothing compares below it; and of NaNs alone `low` found no slot at all */
    if (full && !(to_f32(scores[oldest]) < low.score))
        to = low.slot;
    __syncthreads();
    if (threadIdx.x == 0) {
        if (to != oldest)
            scores[to] = scores[oldest];
        store_f32(scores + oldest, added(probs, group, n, a.used));
        if (victim)
            victim[bg] = full ? (int32_t)to : -1;
    }
    move_and_store(k, b, g, to, oldest, new_k + b * a.new_stride + (uint64_t)g * a.head_dim);
    move_and_store(v, b, g, to, oldest, new_v + b * a.new_stride + (uint64_t)g * a.head_dim);
}

template <typename T, typename S>
static kvp_err step_as(struct kb_dev *dev, const struct kb_h2o_step *a, struct kvp_error *e)
{
    return launch(dev, e, "h2o_step", a->batch * a->kv_heads, H2O_THREADS, step_slots<T, S>, *a, at<const float>(a->probs),
                  at<S>(a->scores), view<T>(&a->k), view<T>(&a->v), at<const float>(a->new_k), at<const float>(a->new_v),
                  at<int32_t>(a->victim));
}

bool cuda_h2o_step_ok(const void *args)
{
    const struct kb_h2o_step *a = (const struct kb_h2o_step *)args;

    return score_ok(a->score_format) && is_float(a->k.format) && a->k.format == a->v.format && a->kv_heads > 0 &&
           a->heads % a->kv_heads == 0 && a->heavy > 0 && a->recent > 0;
}

kvp_err cuda_h2o_step(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    static kvp_err (*const as[][2])(struct kb_dev *, const struct kb_h2o_step *, struct kvp_error *) = {
        {step_as<float, float>, step_as<float, __half>},
        {step_as<__half, float>, step_as<__half, __half>},
        {step_as<__nv_bfloat16, float>, step_as<__nv_bfloat16, __half>}};
    const struct kb_h2o_step *a = (const struct kb_h2o_step *)args;

    return as[a->k.format][a->score_format == KVP_F16](dev, a, e);
}
