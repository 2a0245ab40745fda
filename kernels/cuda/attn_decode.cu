/* attn_decode.cu - decode attention over stored slots and an optional unstored row
 *
 * A block for each (sequence, kv head, up to G query heads of it, range of slots): K and V rows are read
 * once for all query heads that share them. A warp takes SLOTS slots at a time, a lane E neighbouring
 * channels, so a row is one coalesced load. */
#include "kernels/cuda/split.cuh"

enum { DECODE_WARPS = 4, SLOTS = 4 };

/* Where one row comes from: a slot of the cache, or the f32 tail. */
template <typename T>
struct rows {
    struct kv_view<const T> stored;
    const float *tail; /* of this sequence and kv head; NULL: none */
};

/* This lane's E channels of row i, zeros past the end of a row. */
template <int E, typename T>
static __device__ inline void load_lane(float *x, const T *row, uint32_t dim)
{
    const uint32_t c = lane_id() * E;

#pragma unroll
    for (int i = 0; i < E; i++)
        x[i] = 0;
    if (dim % E == 0 && (uintptr_t)row % (E * sizeof(T)) == 0) {
        if (c < dim)
            load_vector<E>(x, row + c);
        return;
    }
#pragma unroll
    for (int i = 0; i < E; i++)
        if (c + i < dim)
            x[i] = to_f32(row[c + i]);
}

template <int E, typename T>
static __device__ inline void load_slot(float *x, const struct rows<T> &r, uint64_t b, uint32_t g, uint64_t slot,
                                        uint64_t used)
{
    if (slot < used)
        load_lane<E>(x, r.stored.row(b, g, slot), r.stored.dim);
    else
        load_lane<E>(x, r.tail, r.stored.dim);
}

/* What one warp has seen of G query heads. */
template <int E, int G>
struct seen {
    float max[G], sum[G], acc[G][E];
};

/* Add SLOTS slots from `slot` on, those before `end`. */
template <typename T, int E, int G>
static __device__ inline void see(struct seen<E, G> &w, const struct kb_attn_decode &a, const float (*q)[E], int heads,
                                  const struct rows<T> &k, const struct rows<T> &v, uint64_t b, uint32_t g, uint64_t slot,
                                  uint64_t end, float *probs, uint64_t n_probs)
{
    float kx[SLOTS][E] = {}, vx[SLOTS][E] = {};

#pragma unroll
    for (int u = 0; u < SLOTS; u++)
        if (slot + u < end) {
            load_slot<E>(kx[u], k, b, g, slot + u, a.used);
            load_slot<E>(vx[u], v, b, g, slot + u, a.used);
        }
#pragma unroll
    for (int r = 0; r < G; r++) {
        float s[SLOTS], top = w.max[r];

        if (r >= heads)
            break;
#pragma unroll
        for (int u = 0; u < SLOTS; u++) {
            float dot = 0;

#pragma unroll
            for (int i = 0; i < E; i++)
                dot += q[r][i] * kx[u][i];
            s[u] = warp_sum(dot) * a.scale;
            if (slot + u >= end)
                s[u] = -INFINITY;
            else if (probs && lane_id() == 0)
                probs[r * n_probs + slot + u] = s[u];
            top = fmaxf(top, s[u]);
        }

        const float old = exp_from(w.max[r], top);

        w.max[r] = top;
        w.sum[r] *= old;
#pragma unroll
        for (int i = 0; i < E; i++)
            w.acc[r][i] *= old;
#pragma unroll
        for (int u = 0; u < SLOTS; u++) {
            const float p = exp_from(s[u], top);

            w.sum[r] += p;
#pragma unroll
            for (int i = 0; i < E; i++)
                w.acc[r][i] += p * vx[u][i];
        }
    }
}

/* The warps' results become one part in `part` (of the first of G heads; the next is `step` floats on). */
template <int E, int G>
static __device__ inline void store_parts(const struct seen<E, G> &w, int heads, uint32_t dim, float *part, uint64_t step)
{
    __shared__ float max[G][DECODE_WARPS], sum[G][DECODE_WARPS], acc[DECODE_WARPS][WARP * E];

    for (int r = 0; r < heads; r++)
        if (lane_id() == 0) {
            max[r][warp_id()] = w.max[r];
            sum[r][warp_id()] = w.sum[r];
        }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < G; r++) {
        float top = -INFINITY, total = 0;

        if (r >= heads)
            break;
        for (int i = 0; i < DECODE_WARPS; i++)
            top = fmaxf(top, max[r][i]);
        for (int i = 0; i < DECODE_WARPS; i++)
            total += sum[r][i] * exp_from(max[r][i], top);
#pragma unroll
        for (int i = 0; i < E; i++)
            acc[warp_id()][lane_id() * E + i] = w.acc[r][i] * exp_from(w.max[r], top);
        __syncthreads();
        for (uint32_t c = threadIdx.x; c < dim; c += blockDim.x) {
            float x = 0;

            for (int i = 0; i < DECODE_WARPS; i++)
                x += acc[i][c];
            part[r * step + 2 + c] = x;
        }
        if (threadIdx.x == 0) {
            part[r * step] = top;
            part[r * step + 1] = total;
        }
        __syncthreads();
    }
}

template <typename T, int E, int G>
static __global__ void __launch_bounds__(DECODE_WARPS *WARP)
    attend_slots(struct kb_attn_decode a, const float *q, struct rows<T> k, struct rows<T> v, float *probs, float *parts,
                 uint64_t first_sequence, uint32_t splits)
{
    const uint32_t group = a.heads / a.kv_heads, chunks = (group + G - 1) / G;
    const uint32_t split = blockIdx.x % splits, chunk = blockIdx.x / splits % chunks;
    const uint32_t g = blockIdx.x / splits / chunks % a.kv_heads, h = g * group + chunk * G;
    const uint64_t local = blockIdx.x / splits / chunks / a.kv_heads, b = first_sequence + local;
    const uint64_t total = a.used + (k.tail ? 1 : 0), each = (total + splits - 1) / splits;
    const uint64_t end = (split + 1) * each < total ? (split + 1) * each : total;
    const int heads = group - chunk * G < G ? (int)(group - chunk * G) : G;
    struct seen<E, G> w;
    float qx[G][E];

#pragma unroll
    for (int r = 0; r < G; r++) {
        w.max[r] = -INFINITY;
        w.sum[r] = 0;
#pragma unroll
        for (int i = 0; i < E; i++)
            qx[r][i] = w.acc[r][i] = 0;
        if (r < heads)
            load_lane<E>(qx[r], q + b * a.q_stride + (uint64_t)(h + r) * a.head_dim, a.head_dim);
    }
    if (k.tail) {
        k.tail += b * a.tail_stride + (uint64_t)g * a.head_dim;
        v.tail += b * a.tail_stride + (uint64_t)g * a.head_dim;
    }
    for (uint64_t slot = split * each + warp_id() * SLOTS; slot < end; slot += DECODE_WARPS * SLOTS)
        see<T, E, G>(w, a, qx, heads, k, v, b, g, slot, end, probs ? probs + (b * a.heads + h) * total : NULL, total);
    store_parts<E, G>(w, heads, a.head_dim, parts + ((local * a.heads + h) * splits + split) * part_floats(a.head_dim),
                      splits * part_floats(a.head_dim));
}

/* ---- host side ---------------------------------------------------------------------------------- */

template <typename T, int E, int G>
static kvp_err decode_as(struct kb_dev *dev, const struct kb_attn_decode *a, struct kvp_error *e)
{
    const uint64_t per_sequence = a->kv_heads * div_up(a->heads / a->kv_heads, G), total = a->used + (a->tail_k.buf ? 1 : 0);
    const struct split_plan plan = plan_split(dev, total, a->batch, a->batch * per_sequence, a->heads, a->head_dim);
    const struct rows<T> k = {view<const T>(&a->k), at<const float>(a->tail_k)};
    const struct rows<T> v = {view<const T>(&a->v), at<const float>(a->tail_v)};

    for (uint64_t b = 0; b < a->batch; b += plan.sequences) {
        const uint64_t n = least(plan.sequences, a->batch - b);

        KVP_TRY(launch(dev, e, "attn_decode", n * per_sequence * plan.splits, DECODE_WARPS * WARP, attend_slots<T, E, G>, *a,
                       at<const float>(a->q), k, v, at<float>(a->probs), dev->scratch, b, plan.splits));
        KVP_TRY(launch(dev, e, "attn_decode (combine)", n * a->heads, COMBINE_THREADS, combine_parts, a->heads, a->head_dim,
                       plan.splits, b, dev->scratch, at<float>(a->out), a->out_stride, at<float>(a->probs), total));
    }
    return KVP_OK;
}

/* G: query heads of one block, 1, 4 or 8; larger groups take several blocks. Eight heads of 256 channels
 * would not fit in registers. */
template <typename T, int E>
static kvp_err decode_group(struct kb_dev *dev, const struct kb_attn_decode *a, struct kvp_error *e)
{
    const uint32_t group = a->heads / a->kv_heads;

    if (group == 1)
        return decode_as<T, E, 1>(dev, a, e);
    if constexpr (E < 8)
        if (group > 4)
            return decode_as<T, E, 8>(dev, a, e);
    return decode_as<T, E, 4>(dev, a, e);
}

template <typename T>
static kvp_err decode_dim(struct kb_dev *dev, const struct kb_attn_decode *a, struct kvp_error *e)
{
    return a->head_dim <= 64    ? decode_group<T, 2>(dev, a, e)
           : a->head_dim <= 128 ? decode_group<T, 4>(dev, a, e)
                                : decode_group<T, 8>(dev, a, e);
}

bool cuda_attn_decode_ok(const void *args)
{
    const struct kb_attn_decode *a = (const struct kb_attn_decode *)args;

    return !a->k.shared && !a->softcap && !a->sinks.buf && !a->slopes.buf && (!a->v_dim || a->v_dim == a->head_dim) &&
           is_float(a->k.format) && a->k.format == a->v.format && a->kv_heads > 0 && a->heads % a->kv_heads == 0 &&
           a->head_dim > 0 && a->head_dim <= CUDA_MAX_HEAD_DIM && a->used + (a->tail_k.buf ? 1 : 0) > 0 &&
           a->heads * part_floats(a->head_dim) * sizeof(float) <= CUDA_SCRATCH_BYTES;
}

kvp_err cuda_attn_decode(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    static kvp_err (*const as[])(struct kb_dev *, const struct kb_attn_decode *, struct kvp_error *) = {
        decode_dim<float>, decode_dim<__half>, decode_dim<__nv_bfloat16>};
    const struct kb_attn_decode *a = (const struct kb_attn_decode *)args;

    return as[a->k.format](dev, a, e);
}
