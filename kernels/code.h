/* code.h - numbers in a byte or less: where their bits lie, what they stand for, and back. Layouts only; how a scale
 * is chosen is each kernel's (kernels/ops/kv.h) and each backend's own.
 *
 *   FP8    e4m3fn: sign, 4 bits of exponent (bias 7), 3 of mantissa; 448 the largest, 0x7f and 0xff NaN, no infinity
 *          (Micikevicius et al. 2022, arXiv:2209.05433, section 3); to the nearest even, beyond 448 it is 448
 *   INT4   two a byte, the even element in the low half; a row begins with a byte
 *   blocks Q8_0 ... Q5_1 as ggml's ggml-common.h; MXFP4 as its block_mxfp4, MXFP8 likewise (OCP Microscaling Formats
 *          1.0, sections 5.1 and 5.2); NVFP4 an e4m3 scale, then the codes as in INT4; Q4_K and Q6_K, for weights only, as
 *          ggml's block_q4_K and block_q6_K */
#ifndef KVPROOF_KERNELS_CODE_H
#define KVPROOF_KERNELS_CODE_H

#include "kernels/half.h"

#include <stdbool.h>

struct kb_q8_0 {
    uint16_t d;
    int8_t q[32];
};
struct kb_q4_0 {
    uint16_t d;
    uint8_t q[16]; /* element j low, j + 16 high, as in every block of 32 below */
};
struct kb_q4_1 {
    uint16_t d, m;
    uint8_t q[16];
};
struct kb_q5_0 {
    uint16_t d;
    uint8_t h[4]; /* the fifth bit of element j is bit j */
    uint8_t q[16];
};
struct kb_q5_1 {
    uint16_t d, m;
    uint8_t h[4];
    uint8_t q[16];
};
struct kb_mxfp4 {
    uint8_t e; /* the scale is 2^(e - 127); 255: NaN */
    uint8_t q[16];
};
struct kb_mxfp8 {
    uint8_t e, q[32];
};
struct kb_nvfp4 {
    uint8_t s, q[8];
};

/* 8 sub-blocks of 32: element i of sub-block j is d * scale[j] * code - dmin * min[j]. Codes of sub-blocks 2n and 2n + 1 are the
 * low and the high halves of q[32 n + i]. Scales and mins of 6 bits: those of sub-block j < 4 are the low 6 bits of scales[j] and
 * scales[j + 4]; from 4 on their low 4 bits are the halves of scales[j + 4], the high 2 those of scales[j - 4] and scales[j]. */
struct kb_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12], q[128];
};
/* 16 sub-blocks of 16: element i is d * scales[i / 16] * (code - 32). Of each 128 elements, the low 4 bits of i are in
 * ql[64 n + i % 64], the low half for i < 64, and the high 2 in qh[32 n + i % 32], from bit 2 (i / 32). */
struct kb_q6_k {
    uint8_t ql[128], qh[64];
    int8_t scales[16];
    uint16_t d;
};

static inline void kb_q4_k_scale(const uint8_t *s, unsigned j, unsigned *scale, unsigned *min)
{
    *scale = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | (unsigned)s[j - 4] >> 6 << 4;
    *min = j < 4 ? s[j + 4] & 63u : (unsigned)s[j + 4] >> 4 | (unsigned)s[j] >> 6 << 4;
}

static inline int kb_q6_k_code(const struct kb_q6_k *x, unsigned at)
{
    const unsigned n = at / 128, i = at % 128, low = x->ql[64 * n + i % 64] >> (i < 64 ? 0 : 4) & 15;

    return (int)(low | (x->qh[32 * n + i % 32] >> 2 * (i / 32) & 3u) << 4) - 32;
}

/* Elements that a format stores together, and their bytes. {0, 0}: not a format that kernels read. */
struct kb_unit {
    uint16_t elements, bytes;
};

static inline struct kb_unit kb_unit_of(enum kvp_format f)
{
    static const struct kb_unit units[KVP_FORMATS] = {
        [KVP_F32] = {1, 4}, [KVP_F16] = {1, 2}, [KVP_BF16] = {1, 2}, [KVP_FP8] = {1, 1}, [KVP_INT8] = {1, 1}, [KVP_INT4] = {2, 1},
        [KVP_Q8_0] = {32, sizeof(struct kb_q8_0)}, [KVP_Q4_0] = {32, sizeof(struct kb_q4_0)},
        [KVP_Q4_1] = {32, sizeof(struct kb_q4_1)}, [KVP_Q5_0] = {32, sizeof(struct kb_q5_0)},
        [KVP_Q5_1] = {32, sizeof(struct kb_q5_1)}, [KVP_MXFP4] = {32, sizeof(struct kb_mxfp4)},
        [KVP_MXFP8] = {32, sizeof(struct kb_mxfp8)}, [KVP_NVFP4] = {16, sizeof(struct kb_nvfp4)},
        [KVP_Q4_K] = {256, sizeof(struct kb_q4_k)}, [KVP_Q6_K] = {256, sizeof(struct kb_q6_k)},
    };

    return (unsigned)f < KVP_FORMATS ? units[f] : (struct kb_unit){0, 0};
}

/* Bytes of a row of n elements, whole units. */
static inline uint64_t kb_row_bytes(enum kvp_format f, uint64_t n)
{
    const struct kb_unit u = kb_unit_of(f);

    return u.elements <= 1 ? n * u.bytes : (n + u.elements - 1) / u.elements * u.bytes;
}

/* Blocks with their scales inside. */
static inline bool kb_is_block(enum kvp_format f)
{
    return kb_unit_of(f).elements >= 16;
}

/* Blocks that rows of a cache may consist of. */
static inline bool kb_is_row_block(enum kvp_format f)
{
    return kb_is_block(f) && kb_unit_of(f).elements < 256;
}

/* Codes whose scale lies beside them. */
static inline bool kb_is_code(enum kvp_format f)
{
    return f == KVP_FP8 || f == KVP_INT8 || f == KVP_INT4;
}

static inline float kb_from_e4m3(uint8_t c)
{
    const uint32_t sign = (uint32_t)(c & 0x80u) << 24, exponent = c >> 3 & 15u, mantissa = c & 7u;

    if ((c & 0x7fu) == 0x7fu)
        return kb_bits_f32(sign | 0x7fc00000u);
    if (exponent == 0) /* units of 2^-9 */
        return kb_bits_f32(sign | kb_f32_bits((float)mantissa * 0x1p-9f));
    return kb_bits_f32(sign | (exponent + 120) << 23 | mantissa << 20);
}

static inline uint8_t kb_to_e4m3(float f)
{
    const uint32_t u = kb_f32_bits(f), sign = u >> 24 & 0x80u, a = u & 0x7fffffffu;

    if (a > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (a < 0x3c800000u) /* below 2^-6: the addition rounds to units of 2^-9 */
        return (uint8_t)(sign | (kb_f32_bits(kb_bits_f32(a) * 512 + 0x1p23f) & 15u));
    if (a >= 0x43e00000u) /* 448 and more */
        return (uint8_t)(sign | 0x7eu);
    return (uint8_t)(sign | (((a + 0x7ffffu + (a >> 20 & 1u)) >> 20) - (120 << 3)));
}

/* e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; to the nearest, ties to the even code. */
static inline float kb_from_e2m1(uint8_t c)
{
    static const float values[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

    return c & 8 ? -values[c & 7] : values[c & 7];
}

static inline uint8_t kb_to_e2m1(float f)
{
    const float a = f < 0 ? -f : f;
    const unsigned sign = f < 0 ? 8 : 0;
    const unsigned code = a <= 0.25f ? 0u : a < 0.75f ? 1u : a <= 1.25f ? 2u : a < 1.75f ? 3u : a <= 2.5f ? 4u : a < 3.5f ? 5u : a <= 5 ? 6u : 7u;

    return (uint8_t)(sign | code);
}

/* A power of two, as an MX block stores it. */
static inline float kb_from_e8m0(uint8_t e)
{
    return kb_bits_f32(e == 255 ? 0x7fc00000u : e ? (uint32_t)e << 23 : 0x400000u);
}

/* NF4: the quantiles of a normal distribution (Dettmers et al. 2023, arXiv:2305.14314, appendix E); FP4: e2m1's
 * fractions of 12 as bitsandbytes' csrc/kernels.cu orders them, the sign in the highest bit. */
static inline float kb_from_nf4(unsigned c)
{
    static const float values[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                                     -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                                     0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                                     0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

    return values[c & 15];
}

static inline float kb_from_fp4(unsigned c)
{
    static const float values[8] = {0.0f, 0.0052083333f, 0.66666667f, 1.0f, 0.33333333f, 0.5f, 0.16666667f, 0.25f};

    return c & 8 ? -values[c & 7] : values[c & 7];
}

#endif
