/* codes_plain.c - codes and blocks into f32, in plain C */
#include "kernels/cpu/ops.h"

#include "kernels/code.h"

static void unpack_int8(float *dst, const void *src, uint64_t n, float add)
{
    for (uint64_t i = 0; i < n; i++)
        dst[i] = (float)((const int8_t *)src)[i] + add;
}

static void unpack_u8(float *dst, const void *src, uint64_t n, float add)
{
    for (uint64_t i = 0; i < n; i++)
        dst[i] = (float)((const uint8_t *)src)[i] + add;
}

static void unpack_int4(float *dst, const void *src, uint64_t n, float add)
{
    for (uint64_t i = 0; i < n; i++)
        dst[i] = (float)(((const uint8_t *)src)[i / 2] >> i % 2 * 4 & 15) + add;
}

static void unpack_fp8(float *dst, const void *src, uint64_t n, float add)
{
    for (uint64_t i = 0; i < n; i++)
        dst[i] = kb_from_e4m3(((const uint8_t *)src)[i]) + add;
}

static void unpack_q8_0(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_q8_0 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++) {
        const float d = kb_from_f16(x->d);

        for (uint32_t i = 0; i < 32; i++)
            *dst++ = d * (float)x->q[i];
    }
}

/* 32 codes of four bits, or of five, times d plus m. */
static void unpack_32(float *dst, const uint8_t *q, const uint8_t *high, float d, float m)
{
    for (uint32_t i = 0; i < 16; i++) {
        const int low = (q[i] & 15) | (high ? (high[i / 8] >> i % 8 & 1) << 4 : 0);
        const int up = q[i] >> 4 | (high ? (high[2 + i / 8] >> i % 8 & 1) << 4 : 0);

        dst[i] = d * (float)low + m;
        dst[i + 16] = d * (float)up + m;
    }
}

static void unpack_q4_0(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_q4_0 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++, dst += 32)
        unpack_32(dst, x->q, NULL, kb_from_f16(x->d), -8 * kb_from_f16(x->d));
}

static void unpack_q4_1(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_q4_1 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++, dst += 32)
        unpack_32(dst, x->q, NULL, kb_from_f16(x->d), kb_from_f16(x->m));
}

static void unpack_q5_0(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_q5_0 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++, dst += 32)
        unpack_32(dst, x->q, x->h, kb_from_f16(x->d), -16 * kb_from_f16(x->d));
}

static void unpack_q5_1(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_q5_1 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++, dst += 32)
        unpack_32(dst, x->q, x->h, kb_from_f16(x->d), kb_from_f16(x->m));
}

static void unpack_mxfp4(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_mxfp4 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++, dst += 32) {
        const float d = kb_from_e8m0(x->e);

        for (uint32_t i = 0; i < 16; i++) {
            dst[i] = d * kb_from_e2m1(x->q[i] & 15);
            dst[i + 16] = d * kb_from_e2m1(x->q[i] >> 4);
        }
    }
}

static void unpack_mxfp8(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_mxfp8 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++)
        for (uint32_t i = 0; i < 32; i++)
            *dst++ = kb_from_e8m0(x->e) * kb_from_e4m3(x->q[i]);
}

static void unpack_nvfp4(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_nvfp4 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 16; b++, x++)
        for (uint32_t i = 0; i < 16; i++)
            *dst++ = kb_from_e4m3(x->s) * kb_from_e2m1(x->q[i / 2] >> i % 2 * 4 & 15);
}

static void affine_plain(float *x, uint64_t n, float scale, float shift)
{
    for (uint64_t i = 0; i < n; i++)
        x[i] = scale * x[i] + shift;
}

static void unpack_q4_k(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_q4_k *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 256; b++, x++)
        for (unsigned j = 0; j < 8; j++) {
            float by, minus;
            unsigned scale, min;

            kb_q4_k_scale(x->scales, j, &scale, &min);
            by = kb_from_f16(x->d) * (float)scale;
            minus = kb_from_f16(x->dmin) * (float)min;
#pragma omp simd
            for (unsigned i = 0; i < 32; i++)
                dst[b * 256 + j * 32 + i] = by * (float)(x->q[j / 2 * 32 + i] >> j % 2 * 4 & 15) - minus;
        }
}

static void unpack_q6_k(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_q6_k *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 256; b++, x++)
        for (unsigned j = 0; j < 16; j++) {
            const float by = kb_from_f16(x->d) * (float)x->scales[j];

            for (unsigned i = 16 * j; i < 16 * j + 16; i++)
                dst[b * 256 + i] = by * (float)kb_q6_k_code(x, i);
        }
}

static void look_up_plain(float *dst, const uint8_t *src, uint64_t n, const float values[16])
{
    for (uint64_t i = 0; i < n / 2; i++) {
        dst[2 * i] = values[src[i] >> 4];
        dst[2 * i + 1] = values[src[i] & 15];
    }
}

static void dots8_plain(const int8_t *x, uint32_t m, const int8_t *w, uint64_t rows, uint64_t k, int32_t *out, uint64_t stride)
{
    for (uint32_t r = 0; r < m; r++)
        for (uint64_t i = 0; i < rows; i++) {
            int32_t sum = 0;

            for (uint64_t j = 0; j < k; j++)
                sum += x[r * k + j] * w[i * k + j];
            out[r * stride + i] = sum;
        }
}

const struct cpu_code_ops cpu_code_plain = {
    .unpack = {[KVP_FP8] = unpack_fp8, [KVP_INT8] = unpack_int8, [KVP_U8] = unpack_u8, [KVP_INT4] = unpack_int4,
               [KVP_Q8_0] = unpack_q8_0, [KVP_Q4_0] = unpack_q4_0, [KVP_Q4_1] = unpack_q4_1, [KVP_Q5_0] = unpack_q5_0,
               [KVP_Q5_1] = unpack_q5_1, [KVP_MXFP4] = unpack_mxfp4, [KVP_MXFP8] = unpack_mxfp8, [KVP_NVFP4] = unpack_nvfp4,
               [KVP_Q4_K] = unpack_q4_k, [KVP_Q6_K] = unpack_q6_k},
    .look_up = look_up_plain,
    .dots8 = dots8_plain,
    .affine = affine_plain,
};
