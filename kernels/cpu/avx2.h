/* avx2.h - what the files of AVX2 loops share; included by them alone, where the target is x86-64 */
#ifndef KVPROOF_CPU_AVX2_H
#define KVPROOF_CPU_AVX2_H

#include "kernels/half.h"

#include <immintrin.h>

#define FAST __attribute__((target("avx2,fma,f16c")))
#define FAST_INLINE static inline __attribute__((target("avx2,fma,f16c"), always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Elements [i, i + 8) of an array of format f. */
FAST_INLINE __m256 load8(enum kvp_format f, const void *p, uint64_t i)
{
    if (f == KVP_F32)
        return _mm256_loadu_ps((const float *)p + i);
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)p + i));
    if (f == KVP_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

FAST_INLINE float sum8(__m256 v)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

/* The sums of eight vectors, in order. */
FAST_INLINE __m256 sums8(const __m256 *v)
{
    __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));

    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

#endif
