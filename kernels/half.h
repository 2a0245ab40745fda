/* half.h - f16 and bf16 to f32 and back, to the nearest, ties to even, as the hardware does it.
 *
 * Subnormals and infinities are exact; values that round beyond the largest finite half become
 * infinity; a NaN stays a NaN, made quiet, with the payload bits that fit (as F16C's VCVTPS2PH).
 * Sources: IEEE 754-2019, sections 3.6 and 4.3.1; bf16 is the upper half of a binary32. */
#ifndef KVPROOF_KERNELS_HALF_H
#define KVPROOF_KERNELS_HALF_H

#include <kvproof/names.h>

#include <stdint.h>

static inline uint32_t kb_f32_bits(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    return u;
}

static inline float kb_bits_f32(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

static inline float kb_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;

    if (exponent == 31)
        return kb_bits_f32(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0u));
    if (exponent == 0) /* zero or subnormal: mantissa units of 2^-24 */
        return kb_bits_f32(sign | kb_f32_bits((float)mantissa * 0x1p-24f));
    return kb_bits_f32(sign | (exponent + 112) << 23 | mantissa << 13);
}

static inline uint16_t kb_to_f16(float f)
{
    uint32_t u = kb_f32_bits(f), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;

    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x47800000u) /* 65536 and more; from 65520 the rounding below carries into infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) /* below 2^-14: 0.5 has an ulp of 2^-24, so the addition rounds */
        return (uint16_t)(sign | (kb_f32_bits(kb_bits_f32(a) + 0.5f) - 0x3f000000u));
    a += 0xfffu + (a >> 13 & 1u);
    return (uint16_t)(sign | (a - 0x38000000u) >> 13);
}

static inline float kb_from_bf16(uint16_t h)
{
    return kb_bits_f32((uint32_t)h << 16);
}

static inline uint16_t kb_to_bf16(float f)
{
    uint32_t u = kb_f32_bits(f);

    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* Bytes of one element of F32, F16, BF16 or I32. */
static inline uint64_t kb_element(enum kvp_format f)
{
    return f == KVP_F16 || f == KVP_BF16 ? 2 : 4;
}

/* Element i of an array of F32, F16 or BF16. */
static inline float kb_load(enum kvp_format f, const void *p, uint64_t i)
{
    if (f == KVP_F16)
        return kb_from_f16(((const uint16_t *)p)[i]);
    if (f == KVP_BF16)
        return kb_from_bf16(((const uint16_t *)p)[i]);
    return ((const float *)p)[i];
}

static inline void kb_store(enum kvp_format f, void *p, uint64_t i, float x)
{
    if (f == KVP_F16)
        ((uint16_t *)p)[i] = kb_to_f16(x);
    else if (f == KVP_BF16)
        ((uint16_t *)p)[i] = kb_to_bf16(x);
    else
        ((float *)p)[i] = x;
}

/* x as it reads after being stored in format f. */
static inline float kb_rounded(enum kvp_format f, float x)
{
    if (f == KVP_F16)
        return kb_from_f16(kb_to_f16(x));
    if (f == KVP_BF16)
        return kb_from_bf16(kb_to_bf16(x));
    return x;
}

#endif
