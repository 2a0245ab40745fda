/* ssm_avx2.h - Mamba's step for its own 16 numbers a channel, eight channels at a time; included by recurrent_avx2.c alone.
 *
 * The step is half arithmetic, half memory: a state streams through once, and what runs out first are the misses that
 * the first cache can keep open. Measured on an AMD EPYC (Zen 4), one thread, 512 sequences of 4096 channels, in GB/s read and
 * written, of 47 for an update in place: 16 without fetching, 25 fetching into the first cache, 33 into the second, two
 * sequences ahead; 39 for states that are in the cache. */
#ifndef KVPROOF_CPU_SSM_AVX2_H
#define KVPROOF_CPU_SSM_AVX2_H

#include "kernels/cpu/avx2.h"
#include "kernels/cpu/recurrent.h"

/* 2^u for -126 <= u <= 0, a NaN stays one: u is rounded to eighths, and 2^(j/8) is looked up. What is left of u, r, at most
 * 1/16, goes through 1 + r (c1 + r (c2 + r c3)), within 2.7e-8 of 2^r. `eighths` are the bits of 2^(j/8) less j << 20: the
 * addition of 8 u << 20 brings those back, and the exponent. */
FAST_INLINE __m256 ssm_decay8(__m256 dt, __m256 a, __m256 eighths)
{
    const __m256 magic = _mm256_set1_ps(0x1.8p20f), t = _mm256_fmadd_ps(dt, a, magic);
    const __m256 r = _mm256_fmsub_ps(dt, a, _mm256_sub_ps(t, magic));
    const __m256i steps = _mm256_castps_si256(t);
    const __m256 s = _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(_mm256_permutevar8x32_ps(eighths, steps)), _mm256_slli_epi32(steps, 20)));
    __m256 y = _mm256_set1_ps(0x1.c6a004p-5f);

    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(0x1.ec0c32p-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(0x1.62e432p-1f));
    return _mm256_fmadd_ps(s, _mm256_mul_ps(y, r), s);
}

/* For each whole eight of `width` channels: h = 2^(dt a) h + in b, and y += c.h. `next` is the state of a sequence that
 * comes soon. Returns how many channels that were. */
FAST_INLINE uint32_t ssm_eights(float *h, const float *next, const float *a, const float *b, const float *c, const float *dt,
                                const float *in, float *y, uint32_t width)
{
    static const uint32_t eighths[8] = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
    const __m256 powers = _mm256_loadu_ps((const float *)(const void *)eighths);
    const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8), c0 = _mm256_loadu_ps(c), c1 = _mm256_loadu_ps(c + 8);
    uint32_t i = 0;

    for (; i + 8 <= width; i += 8, y += 8) {
        __m256 sum[8];

        UNROLL for (uint32_t k = 0; k < 8; k++, h += 16, a += 16, next += 16)
        {
            const __m256 step = _mm256_broadcast_ss(dt + i + k), x = _mm256_broadcast_ss(in + i + k);
            const __m256 h0 = _mm256_fmadd_ps(ssm_decay8(step, _mm256_loadu_ps(a), powers), _mm256_loadu_ps(h), _mm256_mul_ps(x, b0));
            const __m256 h1 =
                _mm256_fmadd_ps(ssm_decay8(step, _mm256_loadu_ps(a + 8), powers), _mm256_loadu_ps(h + 8), _mm256_mul_ps(x, b1));

            _mm_prefetch((const char *)next, _MM_HINT_T1);
            _mm256_storeu_ps(h, h0);
            _mm256_storeu_ps(h + 8, h1);
            sum[k] = _mm256_fmadd_ps(c1, h1, _mm256_mul_ps(c0, h0));
        }
        _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), sums8(sum)));
    }
    return i;
}

#endif
