/* device.cuh - device-side helpers: formats, sums over a warp or block, where a cached row lies */
#ifndef KVPROOF_DEVICE_CUH
#define KVPROOF_DEVICE_CUH

#include "kernels/cuda/cuda.h"

#include <math.h>

enum { WARP = 32 };
#define FULL_WARP 0xffffffffu

static __device__ inline float to_f32(float x) { return x; }
static __device__ inline float to_f32(__half x) { return __half2float(x); }
static __device__ inline float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }

/* Round to nearest even, as every backend stores. */
static __device__ inline void store_f32(float *p, float x) { *p = x; }
static __device__ inline void store_f32(__half *p, float x) { *p = __float2half_rn(x); }
static __device__ inline void store_f32(__nv_bfloat16 *p, float x) { *p = __float2bfloat16_rn(x); }

template <typename T>
static __device__ inline float round_to(float x)
{
    T stored;

    store_f32(&stored, x);
    return to_f32(stored);
}

static __device__ inline uint32_t lane_id(void) { return threadIdx.x % WARP; }
static __device__ inline uint32_t warp_id(void) { return threadIdx.x / WARP; }

/* Every lane gets the result; the order of the additions is fixed. */
template <typename T>
static __device__ inline T warp_sum(T x)
{
    for (int d = WARP / 2; d > 0; d /= 2)
        x += __shfl_xor_sync(FULL_WARP, x, d);
    return x;
}

static __device__ inline float warp_max(float x)
{
    for (int d = WARP / 2; d > 0; d /= 2)
        x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, d));
    return x;
}

/* Over the block, for every thread. `part` is shared, [32]; the block is whole warps. */
template <typename T>
static __device__ inline T block_sum(T x, T *part)
{
    x = warp_sum(x);
    __syncthreads(); /* an earlier use of part is over */
    if (lane_id() == 0)
        part[warp_id()] = x;
    __syncthreads();
    return warp_sum(lane_id() < blockDim.x / WARP ? part[lane_id()] : (T)0);
}

static __device__ inline float block_max(float x, float *part)
{
    x = warp_max(x);
    __syncthreads();
    if (lane_id() == 0)
        part[warp_id()] = x;
    __syncthreads();
    return warp_max(lane_id() < blockDim.x / WARP ? part[lane_id()] : -INFINITY);
}

/* exp(x - max) where a max of -inf means that nothing was seen. */
static __device__ inline float exp_from(float x, float max)
{
    return x == -INFINITY ? 0.0f : expf(x - max);
}

/* N elements from p as f32, in one load of 16, 8 or 4 bytes; p is aligned to that. */
template <typename T, int N>
struct __align__(sizeof(T) * N) packed {
    T x[N];
};

template <int N, typename T>
static __device__ inline void load_vector(float *out, const T *p)
{
    const packed<T, N> v = *reinterpret_cast<const packed<T, N> *>(p);

#pragma unroll
    for (int i = 0; i < N; i++)
        out[i] = to_f32(v.x[i]);
}

/* struct kb_kv with addresses in place of spans. */
template <typename T>
struct kv_view {
    T *data;
    const int32_t *table;
    uint64_t table_stride, slots;
    uint32_t heads, dim, block;

    __device__ inline T *row(uint64_t b, uint32_t h, uint64_t slot) const
    {
        uint64_t page;

        if (block == 0)
            return data + ((b * heads + h) * slots + slot) * dim;
        page = (uint64_t)table[b * table_stride + slot / block];
        return data + ((page * heads + h) * block + slot % block) * dim;
    }
};

template <typename T>
static inline struct kv_view<T> view(const struct kb_kv *kv)
{
    return {at<T>(kv->data), at<const int32_t>(kv->table), kv->table_stride, kv->slots, kv->heads, kv->dim, kv->block};
}

#endif
