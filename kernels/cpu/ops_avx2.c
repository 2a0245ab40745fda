/* ops_avx2.c - the inner loops with AVX2, FMA and F16C. Compiled for any x86-64: each function carries its
 * target, and best_ops() in cpu.c asks the processor first. */
#include "kernels/cpu/recurrent.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx2.h"

#include <math.h>

FAST_INLINE float max8(__m256 v)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

/* exp(x): 2^n times a polynomial on [-ln2/2, ln2/2], coefficients of the Cephes library's expf (S. Moshier);
 * within 2 units in the last place; 0 below -87.3, finite above 88; a NaN stays one (it is the second operand
 * of min and max, which is what they return then). */
FAST_INLINE __m256 exp8(__m256 x)
{
    __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(-87.3f), _CMP_LT_OQ);
    __m256 n, r, y, c = _mm256_min_ps(_mm256_set1_ps(88.3f), _mm256_max_ps(_mm256_set1_ps(-87.3f), x));

    n = _mm256_round_ps(_mm256_mul_ps(c, _mm256_set1_ps(1.44269504088896341f)),
                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), c);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    y = _mm256_set1_ps(1.9875691500e-4f);
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.3981999507e-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(8.3334519073e-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(4.1665795894e-2f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.6666665459e-1f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(5.0000001201e-1f));
    y = _mm256_fmadd_ps(y, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1)));
    y = _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(
                             _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
    return _mm256_andnot_ps(tiny, y);
}

FAST_INLINE void widen(enum kvp_format f, float *dst, const void *src, uint64_t n)
{
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, load8(f, src, i));
    for (; i < n; i++)
        dst[i] = kb_load(f, src, i);
}

/* Nearest even as kb_to_bf16(); a NaN is made quiet. */
FAST_INLINE __m128i to_bf16(__m256 x)
{
    __m256i u = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));

    r = _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}

FAST_INLINE void narrow(enum kvp_format f, void *dst, const float *src, uint64_t n)
{
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 x = _mm256_loadu_ps(src + i);

        if (f == KVP_F32)
            _mm256_storeu_ps((float *)dst + i, x);
        else
            _mm_storeu_si128((__m128i *)(void *)((uint16_t *)dst + i),
                             f == KVP_F16 ? _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT) : to_bf16(x));
    }
    for (; i < n; i++)
        kb_store(f, dst, i, src[i]);
}

/* Eight more elements of R rows of w times M rows of x, from element i on. */
FAST_INLINE void dots_step(enum kvp_format f, uint32_t R, uint32_t M, const float *x, uint64_t x_stride, const void *w,
                           uint64_t at, uint64_t w_stride, uint64_t i, __m256 *acc)
{
    __m256 left[4];

    UNROLL for (uint32_t m = 0; m < M; m++) left[m] = _mm256_loadu_ps(x + m * x_stride + i);
    UNROLL for (uint32_t r = 0; r < R; r++)
    {
        __m256 row = load8(f, w, at + r * w_stride + i);

        UNROLL for (uint32_t m = 0; m < M; m++) acc[r * M + m] = _mm256_fmadd_ps(row, left[m], acc[r * M + m]);
    }
}

/* R rows of w against M rows of x in eight running sums: U = 8 / (R * M) for each product. */
FAST_INLINE void dots_block(enum kvp_format f, uint32_t R, uint32_t M, const float *x, uint64_t x_stride,
                            const void *w, uint64_t at, uint64_t w_stride, uint64_t k, float scale, float *out,
                            uint64_t out_stride, const char *ahead)
{
    const uint32_t U = 8 / (R * M);
    __m256 acc[8];
    float sum[8];
    uint64_t i = 0;

    UNROLL for (uint32_t n = 0; n < 8; n++) acc[n] = _mm256_setzero_ps();
    for (; i + 8 * U <= k; i += 8 * U) {
        UNROLL for (uint32_t r = 0; r < R; r++) if (ahead)
            _mm_prefetch(ahead + (r * w_stride + i) * kb_element(f), _MM_HINT_T0);
        UNROLL for (uint32_t u = 0; u < U; u++)
            dots_step(f, R, M, x, x_stride, w, at, w_stride, i + 8 * u, acc + u * R * M);
    }
    for (; i + 8 <= k; i += 8)
        dots_step(f, R, M, x, x_stride, w, at, w_stride, i, acc);
    _mm256_storeu_ps(sum, sums8(acc));
    UNROLL for (uint32_t n = 0; n < R * M; n++)
    {
        uint64_t r = n / M, m = n % M;

        UNROLL for (uint32_t u = 1; u < U; u++) sum[n] += sum[u * R * M + n];
        for (uint64_t j = i; j < k; j++)
            sum[n] += x[m * x_stride + j] * kb_load(f, w, at + r * w_stride + j);
        out[m * out_stride + r] = scale * sum[n];
    }
}

/* All rows of x against R rows of w. */
FAST_INLINE void dots_rows(enum kvp_format f, uint32_t R, const float *x, uint64_t x_stride, uint32_t m, const void *w,
                           uint64_t at, uint64_t w_stride, uint64_t k, float scale, float *out, uint64_t out_stride,
                           const char *ahead)
{
    for (; R <= 2 && m >= 4; m -= 4, x += 4 * x_stride, out += 4 * out_stride, ahead = NULL)
        dots_block(f, R <= 2 ? R : 2, 4, x, x_stride, w, at, w_stride, k, scale, out, out_stride, ahead);
    for (; m >= 2; m -= 2, x += 2 * x_stride, out += 2 * out_stride, ahead = NULL)
        dots_block(f, R, 2, x, x_stride, w, at, w_stride, k, scale, out, out_stride, ahead);
    if (m)
        dots_block(f, R, 1, x, x_stride, w, at, w_stride, k, scale, out, out_stride, ahead);
}

/* With one row of x, w is read row by row: one stream, which the processor fetches best by itself. Otherwise the more
 * rows of w share the rows of x the better, as far as the registers go. */
FAST_INLINE void dots(enum kvp_format f, const float *x, uint64_t x_stride, uint32_t m, const void *w,
                      uint64_t w_stride, uint64_t rows, uint64_t k, float scale, float *out, uint64_t out_stride,
                      const char *ahead)
{
    uint64_t size = w_stride * kb_element(f), r = 0;

    for (; m == 1 && r < rows; r++)
        dots_block(f, 1, 1, x, x_stride, w, r * w_stride, w_stride, k, scale, out + r, out_stride, NULL);
    for (; m < 4 && r + 4 <= rows; r += 4)
        dots_rows(f, 4, x, x_stride, m, w, r * w_stride, w_stride, k, scale, out + r, out_stride,
                  ahead ? ahead + r * size : NULL);
    for (; r + 2 <= rows; r += 2)
        dots_rows(f, 2, x, x_stride, m, w, r * w_stride, w_stride, k, scale, out + r, out_stride,
                  ahead ? ahead + r * size : NULL);
    if (r < rows)
        dots_rows(f, 1, x, x_stride, m, w, r * w_stride, w_stride, k, scale, out + r, out_stride,
                  ahead ? ahead + r * size : NULL);
}

/* 8 * C channels from c on, M rows of p. */
FAST_INLINE void mix_block(enum kvp_format f, uint32_t M, uint32_t C, const float *p, uint64_t p_stride, const void *w,
                           uint64_t w_stride, uint64_t rows, uint64_t c, float *o, uint64_t o_stride,
                           const char *ahead)
{
    __m256 acc[16];

    UNROLL for (uint32_t n = 0; n < M * C; n++) acc[n] = _mm256_loadu_ps(o + n / C * o_stride + c + 8 * (n % C));
    for (uint64_t r = 0; r < rows; r++) {
        __m256 row[8];

        UNROLL for (uint32_t i = 0; i < C; i += 64 / (8 * (uint32_t)kb_element(f))) if (ahead)
            _mm_prefetch(ahead + (r * w_stride + c + 8 * i) * kb_element(f), _MM_HINT_T0);
        UNROLL for (uint32_t i = 0; i < C; i++) row[i] = load8(f, w, r * w_stride + c + 8 * i);
        UNROLL for (uint32_t m = 0; m < M; m++)
        {
            __m256 weight = _mm256_broadcast_ss(p + m * p_stride + r);

            UNROLL for (uint32_t i = 0; i < C; i++) acc[m * C + i] =
                _mm256_fmadd_ps(weight, row[i], acc[m * C + i]);
        }
    }
    UNROLL for (uint32_t n = 0; n < M * C; n++) _mm256_storeu_ps(o + n / C * o_stride + c + 8 * (n % C), acc[n]);
}

FAST_INLINE void mix_rows(enum kvp_format f, uint32_t M, const float *p, uint64_t p_stride, const void *w,
                          uint64_t w_stride, uint64_t rows, uint64_t dim, float *o, uint64_t o_stride,
                          const char *ahead)
{
    uint64_t c = 0;

    for (; M == 1 && c + 64 <= dim; c += 64)
        mix_block(f, M, M == 1 ? 8 : 1, p, p_stride, w, w_stride, rows, c, o, o_stride, ahead);
    for (; M <= 2 && c + 32 <= dim; c += 32)
        mix_block(f, M, M <= 2 ? 4 : 1, p, p_stride, w, w_stride, rows, c, o, o_stride, ahead);
    for (; c + 16 <= dim; c += 16)
        mix_block(f, M, 2, p, p_stride, w, w_stride, rows, c, o, o_stride, ahead);
    for (; c + 8 <= dim; c += 8)
        mix_block(f, M, 1, p, p_stride, w, w_stride, rows, c, o, o_stride, ahead);
    for (; c < dim; c++)
        for (uint32_t m = 0; m < M; m++)
            for (uint64_t r = 0; r < rows; r++)
                o[m * o_stride + c] += p[m * p_stride + r] * kb_load(f, w, r * w_stride + c);
}

FAST_INLINE void mix(enum kvp_format f, const float *p, uint64_t p_stride, uint32_t m, const void *w,
                     uint64_t w_stride, uint64_t rows, uint64_t dim, float *o, uint64_t o_stride, const char *ahead)
{
    for (; m >= 4; m -= 4, p += 4 * p_stride, o += 4 * o_stride, ahead = NULL)
        mix_rows(f, 4, p, p_stride, w, w_stride, rows, dim, o, o_stride, ahead);
    for (; m >= 2; m -= 2, p += 2 * p_stride, o += 2 * o_stride, ahead = NULL)
        mix_rows(f, 2, p, p_stride, w, w_stride, rows, dim, o, o_stride, ahead);
    if (m)
        mix_rows(f, 1, p, p_stride, w, w_stride, rows, dim, o, o_stride, ahead);
}

#define FORMAT_OPS(name, f)                                                                                    \
    FAST static void widen_##name(float *dst, const void *src, uint64_t n)                                     \
    {                                                                                                          \
        widen(f, dst, src, n);                                                                                 \
    }                                                                                                          \
    FAST static void narrow_##name(void *dst, const float *src, uint64_t n)                                    \
    {                                                                                                          \
        narrow(f, dst, src, n);                                                                                \
    }                                                                                                          \
    FAST static void dots_##name(const float *x, uint64_t x_stride, uint32_t m, const void *w,                 \
                                 uint64_t w_stride, uint64_t rows, uint64_t k, float scale, float *out,        \
                                 uint64_t out_stride, const void *ahead)                                       \
    {                                                                                                          \
        dots(f, x, x_stride, m, w, w_stride, rows, k, scale, out, out_stride, ahead);                          \
    }                                                                                                          \
    FAST static void mix_##name(const float *p, uint64_t p_stride, uint32_t m, const void *w,                  \
                                uint64_t w_stride, uint64_t rows, uint64_t dim, float *o, uint64_t o_stride,   \
                                const void *ahead)                                                             \
    {                                                                                                          \
        mix(f, p, p_stride, m, w, w_stride, rows, dim, o, o_stride, ahead);                                    \
    }
FORMAT_OPS(f32, KVP_F32)
FORMAT_OPS(f16, KVP_F16)
FORMAT_OPS(bf16, KVP_BF16)

FAST static float max_avx2(const float *x, uint64_t n)
{
    __m256 v = _mm256_set1_ps(-INFINITY);
    uint64_t i = 0;
    float max;

    for (; i + 8 <= n; i += 8)
        v = _mm256_max_ps(v, _mm256_loadu_ps(x + i));
    max = max8(v);
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

/* The last n < 8 elements, the others as `fill`. */
FAST_INLINE __m256 load_part(const float *x, uint64_t n, float fill)
{
    float part[8] = {fill, fill, fill, fill, fill, fill, fill, fill};

    memcpy(part, x, n * sizeof(float));
    return _mm256_loadu_ps(part);
}

FAST_INLINE void store_part(float *x, uint64_t n, __m256 v)
{
    float part[8];

    _mm256_storeu_ps(part, v);
    memcpy(x, part, n * sizeof(float));
}

FAST static float exps_avx2(float *x, uint64_t n, float minus)
{
    __m256 sum = _mm256_setzero_ps(), m = _mm256_set1_ps(minus), y;
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        y = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), m));
        _mm256_storeu_ps(x + i, y);
        sum = _mm256_add_ps(sum, y);
    }
    if (i < n) {
        y = exp8(_mm256_sub_ps(load_part(x + i, n - i, -INFINITY), m));
        store_part(x + i, n - i, y);
        sum = _mm256_add_ps(sum, y);
    }
    return sum8(sum);
}

FAST static void scale_avx2(float *x, uint64_t n, float by)
{
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(by)));
    for (; i < n; i++)
        x[i] *= by;
}

FAST_INLINE __m256 silu(__m256 x)
{
    __m256 one = _mm256_set1_ps(1);

    return _mm256_div_ps(x, _mm256_add_ps(one, exp8(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

FAST_INLINE __m256 gelu_tanh(__m256 x)
{
    __m256 one = _mm256_set1_ps(1), cube = _mm256_mul_ps(x, _mm256_mul_ps(x, x));
    __m256 u = _mm256_fmadd_ps(cube, _mm256_set1_ps(0.044715f), x);

    return _mm256_div_ps(x, _mm256_add_ps(one, exp8(_mm256_mul_ps(u, _mm256_set1_ps(-1.5957691216f)))));
}

FAST_INLINE __m256 relu(__m256 x)
{
    return _mm256_max_ps(x, _mm256_setzero_ps());
}

/* A NaN stays one: it is the second operand of max, which is what that returns then. */
FAST_INLINE __m256 relu2(__m256 x)
{
    __m256 y = _mm256_max_ps(_mm256_setzero_ps(), x);

    return _mm256_mul_ps(y, y);
}

FAST_INLINE __m256 sigmoid(__m256 x)
{
    __m256 one = _mm256_set1_ps(1);

    return _mm256_div_ps(one, _mm256_add_ps(one, exp8(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

#define ACT_OPS(name)                                                                                          \
    FAST static void act_##name(float *out, const float *gate, const float *up, uint64_t n)                    \
    {                                                                                                          \
        uint64_t i = 0;                                                                                        \
                                                                                                               \
        for (; i + 8 <= n; i += 8) {                                                                           \
            __m256 y = name(_mm256_loadu_ps(gate + i));                                                        \
                                                                                                               \
            _mm256_storeu_ps(out + i, up ? _mm256_mul_ps(y, _mm256_loadu_ps(up + i)) : y);                     \
        }                                                                                                      \
        if (i < n) {                                                                                           \
            __m256 y = name(load_part(gate + i, n - i, 0));                                                    \
                                                                                                               \
            store_part(out + i, n - i, up ? _mm256_mul_ps(y, load_part(up + i, n - i, 0)) : y);                \
        }                                                                                                      \
    }
ACT_OPS(silu)
ACT_OPS(gelu_tanh)
ACT_OPS(relu)
ACT_OPS(relu2)
ACT_OPS(sigmoid)

/* The C library's erfc and tanh have no vector form. */
static void act_gelu(float *out, const float *gate, const float *up, uint64_t n)
{
    cpu_ops_plain.act[2](out, gate, up, n);
}

static void act_tanh(float *out, const float *gate, const float *up, uint64_t n)
{
    cpu_ops_plain.act[5](out, gate, up, n);
}

FAST static float sum_avx2(const float *x, uint64_t n)
{
    __m256 sum = _mm256_setzero_ps();
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8)
        sum = _mm256_add_ps(sum, _mm256_loadu_ps(x + i));
    return sum8(_mm256_add_ps(sum, load_part(x + i, n - i, 0)));
}

FAST static float squares_avx2(const float *x, uint64_t n, float mean)
{
    __m256 sum = _mm256_setzero_ps(), m = _mm256_set1_ps(mean), y;
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        y = _mm256_sub_ps(_mm256_loadu_ps(x + i), m);
        sum = _mm256_fmadd_ps(y, y, sum);
    }
    y = _mm256_sub_ps(load_part(x + i, n - i, mean), m);
    return sum8(_mm256_fmadd_ps(y, y, sum));
}

FAST static uint32_t words_avx2(const uint32_t *x, uint64_t n)
{
    __m256i acc[8], total = _mm256_setzero_si256();
    uint32_t lanes[8], sum = 0;
    uint64_t i = 0;

    UNROLL for (uint32_t u = 0; u < 8; u++) acc[u] = _mm256_setzero_si256();
    for (; i + 64 <= n; i += 64) {
        UNROLL for (uint32_t u = 0; u < 8; u++) acc[u] =
            _mm256_add_epi32(acc[u], _mm256_loadu_si256((const __m256i *)(const void *)(x + i + 8 * u)));
    }
    UNROLL for (uint32_t u = 0; u < 8; u++) total = _mm256_add_epi32(total, acc[u]);
    _mm256_storeu_si256((__m256i *)(void *)lanes, total);
    for (uint32_t l = 0; l < 8; l++)
        sum += lanes[l];
    for (; i < n; i++)
        sum += x[i];
    return sum;
}

const struct cpu_ops cpu_ops_avx2 = {
    .isa = "avx2+fma+f16c",
    .widen = {widen_f32, widen_f16, widen_bf16},
    .narrow = {narrow_f32, narrow_f16, narrow_bf16},
    .dots = {dots_f32, dots_f16, dots_bf16},
    .mix = {mix_f32, mix_f16, mix_bf16},
    .max = max_avx2,
    .exps = exps_avx2,
    .scale = scale_avx2,
    .act = {act_silu, act_gelu_tanh, act_gelu, act_relu, act_relu2, act_tanh, act_sigmoid},
    .sum = sum_avx2,
    .squares = squares_avx2,
    .words = words_avx2,
    .kivi = &cpu_kivi_avx2,
    .rec = &cpu_rec_avx2,
    .code = &cpu_code_avx2,
};

#endif
