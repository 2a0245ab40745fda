/* code_rows_avx2.c - products with rows of INT8 and INT4 codes, taken from where they are stored: a code becomes a float in
 * a register, and its row's scale is applied to the product. */
#include "kernels/cpu/ops.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx2.h"

/* ---- INT8 --------------------------------------------------------------------------------------- */

FAST_INLINE __m256 int8x8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

/* Products of R rows and M queries from eight running sums: (u * R + r) * M + m. */
FAST_INLINE void store_dots(uint32_t R, uint32_t M, const __m256 *acc, float scale, float *s, uint64_t stride)
{
    const __m256 all = _mm256_mul_ps(sums8(acc), _mm256_set1_ps(scale));
    float sum[8];

    if (M == 1 && R == 8) {
        _mm256_storeu_ps(s, all);
        return;
    }
    _mm256_storeu_ps(sum, all);
    UNROLL for (uint32_t n = 0; n < R * M; n++)
    {
        UNROLL for (uint32_t u = 1; u < 8 / (R * M); u++) sum[n] += sum[u * R * M + n];
        s[n % M * stride + n / M] = sum[n];
    }
}

/* R rows against M queries in eight running sums, U for each product. */
FAST_INLINE void dots8_sums(uint32_t R, uint32_t M, const float *q, const int8_t *w, uint32_t dim, __m256 *acc)
{
    const uint32_t U = 8 / (R * M);
    uint32_t c = 0;

    UNROLL for (uint32_t n = 0; n < 8; n++) acc[n] = _mm256_setzero_ps();
    for (; c + 8 * U <= dim; c += 8 * U)
        UNROLL for (uint32_t u = 0; u < U; u++) UNROLL for (uint32_t r = 0; r < R; r++)
        {
            const __m256 x = int8x8(w + (uint64_t)r * dim + c + 8 * u);

            UNROLL for (uint32_t m = 0; m < M; m++) acc[(u * R + r) * M + m] =
                _mm256_fmadd_ps(x, _mm256_loadu_ps(q + (uint64_t)m * dim + c + 8 * u), acc[(u * R + r) * M + m]);
        }
    for (; c < dim; c += 8)
        UNROLL for (uint32_t n = 0; n < R * M; n++) acc[n] =
            _mm256_fmadd_ps(int8x8(w + (uint64_t)(n / M) * dim + c), _mm256_loadu_ps(q + (uint64_t)(n % M) * dim + c), acc[n]);
}

FAST_INLINE void dots8_block(uint32_t R, uint32_t M, const float *q, const int8_t *w, uint32_t dim, float scale, float *s, uint64_t stride)
{
    __m256 acc[8];

    dots8_sums(R, M, q, w, dim, acc);
    store_dots(R, M, acc, scale, s, stride);
}

FAST_INLINE void dots8_rows(uint32_t R, const float *q, uint32_t m, const int8_t *w, uint32_t dim, float scale, float *s, uint64_t stride)
{
    for (; R <= 2 && m >= 4; m -= 4, q += 4ull * dim, s += 4 * stride)
        dots8_block(R <= 2 ? R : 2, 4, q, w, dim, scale, s, stride);
    for (; m >= 2; m -= 2, q += 2ull * dim, s += 2 * stride)
        dots8_block(R, 2, q, w, dim, scale, s, stride);
    if (m)
        dots8_block(R, 1, q, w, dim, scale, s, stride);
}

FAST void cpu_dots_int8(const float *q, uint32_t m, const void *codes, uint64_t rows, uint32_t dim, float scale, float *s, uint64_t stride)
{
    const int8_t *w = codes;
    uint64_t r = 0;

    for (; m == 1 && r + 8 <= rows; r += 8) {
        __m256 acc[8], sum[8];

        UNROLL for (uint32_t half = 0; half < 8; half += 4)
        {
            dots8_sums(4, 1, q, w + (r + half) * dim, dim, acc);
            UNROLL for (uint32_t i = 0; i < 4; i++) sum[half + i] = _mm256_add_ps(acc[i], acc[4 + i]);
        }
        store_dots(8, 1, sum, scale, s + r, stride);
    }
    for (; m < 4 && r + 4 <= rows; r += 4)
        dots8_rows(4, q, m, w + r * dim, dim, scale, s + r, stride);
    for (; r + 2 <= rows; r += 2)
        dots8_rows(2, q, m, w + r * dim, dim, scale, s + r, stride);
    if (r < rows)
        dots8_rows(1, q, m, w + r * dim, dim, scale, s + r, stride);
}

/* 8 * C channels of M results. */
FAST_INLINE void mix8_block(uint32_t M, uint32_t C, const float *p, uint64_t p_stride, const int8_t *w, uint64_t rows, uint32_t dim, float *o)
{
    __m256 acc[8];

    UNROLL for (uint32_t n = 0; n < M * C; n++) acc[n] = _mm256_loadu_ps(o + (uint64_t)(n / C) * dim + 8 * (n % C));
    for (uint64_t r = 0; r < rows; r++, w += dim)
        UNROLL for (uint32_t i = 0; i < C; i++)
        {
            const __m256 x = int8x8(w + 8 * i);

            UNROLL for (uint32_t m = 0; m < M; m++) acc[m * C + i] =
                _mm256_fmadd_ps(_mm256_broadcast_ss(p + m * p_stride + r), x, acc[m * C + i]);
        }
    UNROLL for (uint32_t n = 0; n < M * C; n++) _mm256_storeu_ps(o + (uint64_t)(n / C) * dim + 8 * (n % C), acc[n]);
}

FAST_INLINE void mix8_rows(uint32_t M, const float *p, uint64_t p_stride, const int8_t *w, uint64_t rows, uint32_t dim, float *o)
{
    uint32_t c = 0;

    for (; c + 64 / M <= dim; c += 64 / M)
        mix8_block(M, 8 / M, p, p_stride, w + c, rows, dim, o + c);
    for (; c < dim; c += 8)
        mix8_block(M, 1, p, p_stride, w + c, rows, dim, o + c);
}

FAST void cpu_mix_int8(const float *p, uint64_t p_stride, uint32_t m, const void *codes, uint64_t rows, uint32_t dim, float *o)
{
    for (; m >= 4; m -= 4, p += 4 * p_stride, o += 4ull * dim)
        mix8_rows(4, p, p_stride, codes, rows, dim, o);
    for (; m >= 2; m -= 2, p += 2 * p_stride, o += 2ull * dim)
        mix8_rows(2, p, p_stride, codes, rows, dim, o);
    if (m)
        mix8_rows(1, p, p_stride, codes, rows, dim, o);
}

/* ---- INT4 ---------------------------------------------------------------------------------------
 * 64 codes are eight words of eight; code k of each word is masked where it is, so that a vector holds 16^(k % 4) times
 * the codes k, 8 + k, ... 56 + k. What they meet is in that order too, times 16^-(k % 4): exact. Stored plus 8, taken
 * away from the sums. */

enum { WORDS = 64 }; /* codes in a block of eight words */

FAST_INLINE __m256 nibble_of(__m256i words, uint32_t k)
{
    return _mm256_cvtepi32_ps(
        _mm256_and_si256(k & 4 ? _mm256_srli_epi32(words, 16) : words, _mm256_set1_epi32((int32_t)(15u << 4 * (k & 3)))));
}

FAST_INLINE __m256i words_of(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* 8 x 8, in place. */
FAST_INLINE void transpose(__m256 *x)
{
    __m256 a[8], b[8];

    UNROLL for (uint32_t i = 0; i < 8; i += 2)
    {
        a[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    UNROLL for (uint32_t i = 0; i < 8; i += 4) UNROLL for (uint32_t j = 0; j < 2; j++)
    {
        b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
        b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
    }
    UNROLL for (uint32_t i = 0; i < 4; i++)
    {
        x[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        x[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

FAST_INLINE __m256 sixteenths(uint32_t k)
{
    return _mm256_set1_ps(1.0f / (float)(1u << 4 * (k & 3)));
}

/* to: the query in the order and with the factors of the codes; *less: lane by lane the sum of -8 times it. */
FAST_INLINE void turn_query(float *to, __m256 *less, const float *q, uint32_t dim)
{
    __m256 sum = _mm256_setzero_ps();

    for (uint32_t c = 0; c < dim; c += WORDS) {
        __m256 x[8];

        UNROLL for (uint32_t k = 0; k < 8; k++) x[k] = _mm256_loadu_ps(q + c + 8 * k);
        transpose(x);
        UNROLL for (uint32_t k = 0; k < 8; k++)
        {
            sum = _mm256_add_ps(sum, x[k]);
            _mm256_storeu_ps(to + c + 8 * k, _mm256_mul_ps(x[k], sixteenths(k)));
        }
    }
    *less = _mm256_mul_ps(sum, _mm256_set1_ps(-8));
}

/* As dots8_sums(); q turned. */
FAST_INLINE void dots4_sums(uint32_t R, uint32_t M, const float *q, const __m256 *less, const uint8_t *w, uint32_t dim, __m256 *acc)
{
    const uint32_t U = 8 / (R * M);

    UNROLL for (uint32_t n = 0; n < 8; n++) acc[n] = n < R * M ? less[n % M] : _mm256_setzero_ps();
    for (uint32_t c = 0; c < dim; c += WORDS)
        UNROLL for (uint32_t r = 0; r < R; r++)
        {
            const __m256i words = words_of(w + ((uint64_t)r * dim + c) / 2);

            UNROLL for (uint32_t k = 0; k < 8; k++)
            {
                const __m256 x = nibble_of(words, k);

                UNROLL for (uint32_t m = 0; m < M; m++) acc[(k % U * R + r) * M + m] =
                    _mm256_fmadd_ps(x, _mm256_loadu_ps(q + (uint64_t)m * dim + c + 8 * k), acc[(k % U * R + r) * M + m]);
            }
        }
}

FAST_INLINE void dots4_block(uint32_t R, uint32_t M, const float *q, const __m256 *less, const uint8_t *w, uint32_t dim, float scale,
                             float *s, uint64_t stride)
{
    __m256 acc[8];

    dots4_sums(R, M, q, less, w, dim, acc);
    store_dots(R, M, acc, scale, s, stride);
}

/* M queries against all rows. */
FAST_INLINE void dots4_all(uint32_t M, const float *q, const uint8_t *w, uint64_t rows, uint32_t dim, float scale, float *s, uint64_t stride)
{
    const uint32_t R = M == 4 ? 2 : 4;
    float turned[4 * CPU_CODE_DIM];
    __m256 less[4];
    uint64_t r = 0;

    UNROLL for (uint32_t m = 0; m < M; m++) turn_query(turned + (uint64_t)m * dim, &less[m], q + (uint64_t)m * dim, dim);
    for (; M == 1 && r + 8 <= rows; r += 8) {
        __m256 acc[8], sum[8];

        UNROLL for (uint32_t half = 0; half < 8; half += 4)
        {
            dots4_sums(4, 1, turned, less, w + (r + half) * dim / 2, dim, acc);
            UNROLL for (uint32_t i = 0; i < 4; i++) sum[half + i] = _mm256_add_ps(acc[i], acc[4 + i]);
        }
        store_dots(8, 1, sum, scale, s + r, stride);
    }
    for (; r + R <= rows; r += R)
        dots4_block(R, M, turned, less, w + r * dim / 2, dim, scale, s + r, stride);
    for (; r < rows; r++)
        dots4_block(1, M, turned, less, w + r * dim / 2, dim, scale, s + r, stride);
}

FAST void cpu_dots_int4(const float *q, uint32_t m, const void *codes, uint64_t rows, uint32_t dim, float scale, float *s, uint64_t stride)
{
    for (; m >= 4; m -= 4, q += 4ull * dim, s += 4 * stride)
        dots4_all(4, q, codes, rows, dim, scale, s, stride);
    for (; m >= 2; m -= 2, q += 2ull * dim, s += 2 * stride)
        dots4_all(2, q, codes, rows, dim, scale, s, stride);
    if (m)
        dots4_all(1, q, codes, rows, dim, scale, s, stride);
}

/* A block of 64 channels of M results: 8 / M of the words' codes at a time. less: -8 times the sum of each row of p. */
FAST_INLINE void mix4_block(uint32_t M, const float *p, uint64_t p_stride, const float *less, const uint8_t *w, uint64_t rows, uint32_t dim,
                            float *o)
{
    const uint32_t K = 8 / M;
    __m256 sum[4][8];

    UNROLL for (uint32_t k0 = 0; k0 < 8; k0 += K)
    {
        __m256 acc[8];

        UNROLL for (uint32_t n = 0; n < 8; n++) acc[n] = _mm256_setzero_ps();
        for (uint64_t r = 0; r < rows; r++) {
            const __m256i words = words_of(w + r * dim / 2);

            UNROLL for (uint32_t k = 0; k < K; k++)
            {
                const __m256 x = nibble_of(words, k0 + k);

                UNROLL for (uint32_t m = 0; m < M; m++) acc[m * K + k] =
                    _mm256_fmadd_ps(_mm256_broadcast_ss(p + m * p_stride + r), x, acc[m * K + k]);
            }
        }
        UNROLL for (uint32_t n = 0; n < 8; n++) sum[n / K][k0 + n % K] = _mm256_mul_ps(acc[n], sixteenths(k0 + n % K));
    }
    UNROLL for (uint32_t m = 0; m < M; m++)
    {
        transpose(sum[m]);
        UNROLL for (uint32_t k = 0; k < 8; k++)
        {
            float *to = o + (uint64_t)m * dim + 8 * k;

            _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), _mm256_add_ps(sum[m][k], _mm256_set1_ps(less[m]))));
        }
    }
}

/* All channels of M results. */
FAST_INLINE void mix4_all(uint32_t M, const float *p, uint64_t p_stride, const uint8_t *w, uint64_t rows, uint32_t dim, float *o)
{
    float less[4];

    for (uint32_t m = 0; m < M; m++) {
        __m256 sum = _mm256_setzero_ps();
        uint64_t r = 0;

        for (; r + 8 <= rows; r += 8)
            sum = _mm256_add_ps(sum, _mm256_loadu_ps(p + m * p_stride + r));
        less[m] = sum8(sum);
        for (; r < rows; r++)
            less[m] += p[m * p_stride + r];
        less[m] *= -8;
    }
    for (uint32_t c = 0; c < dim; c += WORDS)
        mix4_block(M, p, p_stride, less, w + c / 2, rows, dim, o + c);
}

FAST void cpu_mix_int4(const float *p, uint64_t p_stride, uint32_t m, const void *codes, uint64_t rows, uint32_t dim, float *o)
{
    for (; m >= 4; m -= 4, p += 4 * p_stride, o += 4ull * dim)
        mix4_all(4, p, p_stride, codes, rows, dim, o);
    for (; m >= 2; m -= 2, p += 2 * p_stride, o += 2ull * dim)
        mix4_all(2, p, p_stride, codes, rows, dim, o);
    if (m)
        mix4_all(1, p, p_stride, codes, rows, dim, o);
}

#endif
