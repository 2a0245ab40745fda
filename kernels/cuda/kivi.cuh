/* kivi.cuh - where a packed token lies (kernels/ops/kivi.h), for the packing and the attention kernels */
#ifndef KVPROOF_KIVI_CUH
#define KVPROOF_KIVI_CUH

#include "kernels/cuda/device.cuh"

/* struct kb_kivi with addresses; T is the format of scales and mins. */
template <typename T>
struct kivi_view {
    uint32_t *codes;
    T *scale, *min;
    const int32_t *table;
    uint64_t table_stride, capacity, ring;
    uint32_t block;
};

template <typename T>
static inline struct kivi_view<T> kivi_view_of(const struct kb_kivi *k)
{
    return {at<uint32_t>(k->codes), at<T>(k->scale), at<T>(k->min), at<const int32_t>(k->table),
            k->table_stride,        k->capacity,     k->ring,       k->block};
}

/* The first index (sequence or page), the token inside it, and how many tokens it holds. */
struct kivi_place {
    uint64_t first, token, tokens;
};

template <typename T>
static __device__ inline struct kivi_place kivi_find(const struct kivi_view<T> &k, uint64_t b, uint64_t t)
{
    const uint64_t p = k.ring ? t % k.ring : t;

    if (k.block == 0)
        return {b, p, k.capacity};
    return {(uint64_t)k.table[b * k.table_stride + p / k.block], p % k.block, k.block};
}

#endif
