/* codes_avx2.c - codes and the commonest blocks into f32, with AVX2 and F16C; the rest as codes_plain.c has it */
#include "kernels/cpu/ops.h"

#if defined(__x86_64__)

#include "kernels/code.h"
#include "kernels/cpu/avx2.h"

FAST_INLINE __m128i load_bytes8(const void *p)
{
    return _mm_loadl_epi64((const __m128i *)p);
}

FAST static void unpack_int8(float *dst, const void *src, uint64_t n, float add)
{
    const __m256 a = _mm256_set1_ps(add);
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_add_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_bytes8((const int8_t *)src + i))), a));
    for (; i < n; i++)
        dst[i] = (float)((const int8_t *)src)[i] + add;
}

FAST static void unpack_u8(float *dst, const void *src, uint64_t n, float add)
{
    const __m256 a = _mm256_set1_ps(add);
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_add_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_bytes8((const uint8_t *)src + i))), a));
    for (; i < n; i++)
        dst[i] = (float)((const uint8_t *)src)[i] + add;
}

/* The eight codes of four bytes, in order. */
FAST_INLINE __m256 nibbles8(const uint8_t *p)
{
    int32_t four;

    memcpy(&four, p, sizeof(four));
    return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(four), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)),
                                               _mm256_set1_epi32(15)));
}

FAST static void unpack_int4(float *dst, const void *src, uint64_t n, float add)
{
    const __m256 a = _mm256_set1_ps(add);
    const uint8_t *p = src;
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_add_ps(nibbles8(p + i / 2), a));
    for (; i < n; i++)
        dst[i] = (float)(p[i / 2] >> i % 2 * 4 & 15) + add;
}

/* e4m3's bits as a half's: its exponent is 8 too small then, subnormals included; 0x7f is NaN. */
FAST_INLINE __m256 fp8x8(const uint8_t *p)
{
    const __m128i c = _mm_cvtepu8_epi16(load_bytes8(p)), low = _mm_and_si128(c, _mm_set1_epi16(0x7f));
    const __m128i nan = _mm_and_si128(_mm_cmpeq_epi16(low, _mm_set1_epi16(0x7f)), _mm_set1_epi16(0x7e00));
    const __m128i h = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(low, 7), nan), _mm_slli_epi16(_mm_andnot_si128(_mm_set1_epi16(0x7f), c), 8));

    return _mm256_mul_ps(_mm256_cvtph_ps(h), _mm256_set1_ps(256));
}

FAST static void unpack_fp8(float *dst, const void *src, uint64_t n, float add)
{
    const __m256 a = _mm256_set1_ps(add);
    const uint8_t *p = src;
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_add_ps(fp8x8(p + i), a));
    for (; i < n; i++)
        dst[i] = kb_from_e4m3(p[i]) + add;
}

FAST static void unpack_q8_0(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_q8_0 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++, dst += 32) {
        const __m256 d = _mm256_set1_ps(_cvtsh_ss(x->d));

        UNROLL for (uint32_t i = 0; i < 32; i += 8)
            _mm256_storeu_ps(dst + i, _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_bytes8(x->q + i)))));
    }
}

/* Sixteen bytes of low and high halves times d plus m. */
FAST_INLINE void block4(float *dst, const uint8_t *q, __m256 d, __m256 m)
{
    const __m128i all = _mm_loadu_si128((const __m128i *)(const void *)q), mask = _mm_set1_epi8(15);
    const __m128i half[2] = {_mm_and_si128(all, mask), _mm_and_si128(_mm_srli_epi16(all, 4), mask)};

    UNROLL for (uint32_t i = 0; i < 2; i++)
    {
        _mm256_storeu_ps(dst + 16 * i, _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(half[i])), m));
        _mm256_storeu_ps(dst + 16 * i + 8,
                         _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(half[i], 8))), m));
    }
}

FAST static void unpack_q4_0(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_q4_0 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++, dst += 32) {
        const float d = _cvtsh_ss(x->d);

        block4(dst, x->q, _mm256_set1_ps(d), _mm256_set1_ps(-8 * d));
    }
}

FAST static void unpack_q4_1(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_q4_1 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++, dst += 32)
        block4(dst, x->q, _mm256_set1_ps(_cvtsh_ss(x->d)), _mm256_set1_ps(_cvtsh_ss(x->m)));
}

static void unpack_q5_0(float *dst, const void *src, uint64_t n, float add)
{
    cpu_code_plain.unpack[KVP_Q5_0](dst, src, n, add);
}

static void unpack_q5_1(float *dst, const void *src, uint64_t n, float add)
{
    cpu_code_plain.unpack[KVP_Q5_1](dst, src, n, add);
}

static void unpack_q4_k(float *dst, const void *src, uint64_t n, float add)
{
    cpu_code_plain.unpack[KVP_Q4_K](dst, src, n, add);
}

static void unpack_q6_k(float *dst, const void *src, uint64_t n, float add)
{
    cpu_code_plain.unpack[KVP_Q6_K](dst, src, n, add);
}

/* e2m1 looked up: twice its value is a whole number. */
FAST_INLINE __m256 e2m1x8(__m128i codes, __m256 half_scale)
{
    const __m128i twice = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);

    return _mm256_mul_ps(half_scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_shuffle_epi8(twice, codes))));
}

FAST static void unpack_mxfp4(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_mxfp4 *x = src;
    const __m128i mask = _mm_set1_epi8(15);

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++, dst += 32) {
        const __m128i all = _mm_loadu_si128((const __m128i *)(const void *)x->q), low = _mm_and_si128(all, mask);
        const __m128i high = _mm_and_si128(_mm_srli_epi16(all, 4), mask);
        const __m256 d = _mm256_set1_ps(0.5f * kb_from_e8m0(x->e));

        _mm256_storeu_ps(dst, e2m1x8(low, d));
        _mm256_storeu_ps(dst + 8, e2m1x8(_mm_srli_si128(low, 8), d));
        _mm256_storeu_ps(dst + 16, e2m1x8(high, d));
        _mm256_storeu_ps(dst + 24, e2m1x8(_mm_srli_si128(high, 8), d));
    }
}

FAST static void unpack_mxfp8(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_mxfp8 *x = src;

    (void)add;
    for (uint64_t b = 0; b < n / 32; b++, x++, dst += 32) {
        const __m256 d = _mm256_set1_ps(kb_from_e8m0(x->e));

        UNROLL for (uint32_t i = 0; i < 32; i += 8) _mm256_storeu_ps(dst + i, _mm256_mul_ps(d, fp8x8(x->q + i)));
    }
}

FAST static void unpack_nvfp4(float *dst, const void *src, uint64_t n, float add)
{
    const struct kb_nvfp4 *x = src;
    const __m128i mask = _mm_set1_epi8(15);

    (void)add;
    for (uint64_t b = 0; b < n / 16; b++, x++, dst += 16) {
        const __m128i all = load_bytes8(x->q);
        const __m128i codes = _mm_unpacklo_epi8(_mm_and_si128(all, mask), _mm_and_si128(_mm_srli_epi16(all, 4), mask));
        const __m256 d = _mm256_set1_ps(0.5f * kb_from_e4m3(x->s));

        _mm256_storeu_ps(dst, e2m1x8(codes, d));
        _mm256_storeu_ps(dst + 8, e2m1x8(_mm_srli_si128(codes, 8), d));
    }
}

FAST_INLINE int32_t sum_of_8(__m256i v)
{
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

/* M rows of x, one row of w: pairs of 16-bit products are summed at once. */
FAST_INLINE void dots8_row(uint32_t M, const int8_t *x, const int8_t *w, uint64_t k, int32_t *out, uint64_t stride)
{
    __m256i acc[4];
    uint64_t j = 0;

    UNROLL for (uint32_t m = 0; m < M; m++) acc[m] = _mm256_setzero_si256();
    for (; j + 16 <= k; j += 16) {
        const __m256i row = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(w + j)));

        UNROLL for (uint32_t m = 0; m < M; m++) acc[m] = _mm256_add_epi32(
            acc[m], _mm256_madd_epi16(row, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(x + m * k + j)))));
    }
    UNROLL for (uint32_t m = 0; m < M; m++)
    {
        int32_t sum = sum_of_8(acc[m]);

        for (uint64_t l = j; l < k; l++)
            sum += x[m * k + l] * w[l];
        out[m * stride] = sum;
    }
}

FAST static void dots8_avx2(const int8_t *x, uint32_t m, const int8_t *w, uint64_t rows, uint64_t k, int32_t *out, uint64_t stride)
{
    for (uint64_t i = 0; i < rows; i++)
        if (m == 4)
            dots8_row(4, x, w + i * k, k, out + i, stride);
        else
            for (uint32_t r = 0; r < m; r++)
                dots8_row(1, x + r * k, w + i * k, k, out + r * stride + i, stride);
}

FAST static void affine_avx2(float *x, uint64_t n, float scale, float shift)
{
    const __m256 s = _mm256_set1_ps(scale), m = _mm256_set1_ps(shift);
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_fmadd_ps(_mm256_loadu_ps(x + i), s, m));
    for (; i < n; i++)
        x[i] = scale * x[i] + shift;
}

/* Two tables of eight and the code's highest bit to choose between them. */
FAST static void look_up_avx2(float *dst, const uint8_t *src, uint64_t n, const float values[16])
{
    const __m256 low = _mm256_loadu_ps(values), high = _mm256_loadu_ps(values + 8);
    const __m256i shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        int32_t four;
        __m256i c;

        memcpy(&four, src + i / 2, sizeof(four));
        c = _mm256_srlv_epi32(_mm256_set1_epi32(four), shifts);
        _mm256_storeu_ps(dst + i, _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, c), _mm256_permutevar8x32_ps(high, c),
                                                   _mm256_castsi256_ps(_mm256_slli_epi32(c, 28))));
    }
    if (i < n)
        cpu_code_plain.look_up(dst + i, src + i / 2, n - i, values);
}

const struct cpu_code_ops cpu_code_avx2 = {
    .unpack = {[KVP_FP8] = unpack_fp8, [KVP_INT8] = unpack_int8, [KVP_U8] = unpack_u8, [KVP_INT4] = unpack_int4,
               [KVP_Q8_0] = unpack_q8_0, [KVP_Q4_0] = unpack_q4_0, [KVP_Q4_1] = unpack_q4_1, [KVP_Q5_0] = unpack_q5_0,
               [KVP_Q5_1] = unpack_q5_1, [KVP_MXFP4] = unpack_mxfp4, [KVP_MXFP8] = unpack_mxfp8, [KVP_NVFP4] = unpack_nvfp4,
               [KVP_Q4_K] = unpack_q4_k, [KVP_Q6_K] = unpack_q6_k},
    .look_up = look_up_avx2,
    .dots8 = dots8_avx2,
    .affine = affine_avx2,
    .row_dots = {[KVP_INT8] = cpu_dots_int8, [KVP_INT4] = cpu_dots_int4},
    .row_mix = {[KVP_INT8] = cpu_mix_int8, [KVP_INT4] = cpu_mix_int4},
};

#endif
