/* kivi_avx2.c - KIVI's inner loops with AVX2, FMA and F16C; see ops_avx2.c */
#include "kernels/cpu/ops.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx2.h"

/* Elements [i, i + n) with n < 8, the rest 0, without touching what lies behind. */
FAST_INLINE __m256 load_few(enum kvp_format f, const void *p, uint64_t i, uint32_t n)
{
    float part[8] = {0};

    for (uint32_t j = 0; j < n; j++)
        part[j] = kb_load(f, p, i + j);
    return _mm256_loadu_ps(part);
}

/* M heads; scale and min of n neighbouring groups a channel. */
FAST_INLINE void fold_k_heads(enum kvp_format f, uint32_t M, const float *q, uint32_t dim, float by, const void *scale,
                              const void *min, uint64_t at, uint64_t step, uint32_t n, float *scaled, float *base)
{
    __m256 factor = _mm256_set1_ps(by), sum[4];

    UNROLL for (uint32_t m = 0; m < M; m++) sum[m] = _mm256_setzero_ps();
    for (uint32_t c = 0; c < dim; c++, at += step) {
        __m256 s = _mm256_mul_ps(factor, n == 8 ? load8(f, scale, at) : load_few(f, scale, at, n));
        __m256 z = _mm256_mul_ps(factor, n == 8 ? load8(f, min, at) : load_few(f, min, at, n));

        UNROLL for (uint32_t m = 0; m < M; m++)
        {
            __m256 x = _mm256_broadcast_ss(q + (uint64_t)m * dim + c);

            _mm256_storeu_ps(scaled + ((uint64_t)m * dim + c) * 8, _mm256_mul_ps(x, s));
            sum[m] = _mm256_fmadd_ps(x, z, sum[m]);
        }
    }
    UNROLL for (uint32_t m = 0; m < M; m++) _mm256_storeu_ps(base + 8 * m, sum[m]);
}

FAST_INLINE void fold_k(enum kvp_format f, const float *q, uint32_t m, uint32_t dim, float by, const void *scale,
                        const void *min, uint64_t at, uint64_t step, uint32_t n, float *scaled, float *base)
{
    for (; m >= 4; m -= 4, q += 4 * (uint64_t)dim, scaled += 32 * (uint64_t)dim, base += 32)
        fold_k_heads(f, 4, q, dim, by, scale, min, at, step, n, scaled, base);
    for (; m >= 2; m -= 2, q += 2 * (uint64_t)dim, scaled += 16 * (uint64_t)dim, base += 16)
        fold_k_heads(f, 2, q, dim, by, scale, min, at, step, n, scaled, base);
    if (m)
        fold_k_heads(f, 1, q, dim, by, scale, min, at, step, n, scaled, base);
}

FAST_INLINE __m128 load4(enum kvp_format f, const void *p, uint64_t i)
{
    if (f == KVP_F32)
        return _mm_loadu_ps((const float *)p + i);
    __m128i half = _mm_loadl_epi64((const __m128i *)(const void *)((const uint16_t *)p + i));
    if (f == KVP_F16)
        return _mm_cvtph_ps(half);
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(half), 16));
}

FAST_INLINE void fold_v(enum kvp_format f, const float *p, uint64_t p_stride, uint32_t m, uint64_t rows,
                        uint32_t groups, const void *scale, const void *min, uint64_t at, float *weighed, float *base)
{
    for (uint32_t i = 0; i < m; i++) {
        uint32_t j = 0;

        for (; j + 4 <= groups; j += 4) {
            __m128 sum = _mm_setzero_ps();

            for (uint64_t t = 0; t < rows; t++) {
                __m128 w = _mm_broadcast_ss(p + i * p_stride + t);

                _mm_storeu_ps(weighed + (i * rows + t) * groups + j, _mm_mul_ps(w, load4(f, scale, at + t * groups + j)));
                sum = _mm_fmadd_ps(w, load4(f, min, at + t * groups + j), sum);
            }
            _mm_storeu_ps(base + i * groups + j, sum);
        }
        for (; j < groups; j++) {
            base[i * groups + j] = 0;
            for (uint64_t t = 0; t < rows; t++) {
                float w = p[i * p_stride + t];

                weighed[(i * rows + t) * groups + j] = w * kb_load(f, scale, at + t * groups + j);
                base[i * groups + j] += w * kb_load(f, min, at + t * groups + j);
            }
        }
    }
}

#define FORMAT_OPS(name, f)                                                                                    \
    FAST static void fold_k_##name(const float *q, uint32_t m, uint32_t dim, float by, const void *scale,      \
                              const void *min, uint64_t at, uint64_t step, uint32_t n, float *scaled, float *base)\
    {                                                                                                          \
        fold_k(f, q, m, dim, by, scale, min, at, step, n, scaled, base);                                       \
    }                                                                                                          \
    FAST static void fold_v_##name(const float *p, uint64_t p_stride, uint32_t m, uint64_t rows, uint32_t groups,\
                              const void *scale, const void *min, uint64_t at, float *weighed, float *base)    \
    {                                                                                                          \
        fold_v(f, p, p_stride, m, rows, groups, scale, min, at, weighed, base);                                \
    }
FORMAT_OPS(f32, KVP_F32)
FORMAT_OPS(f16, KVP_F16)
FORMAT_OPS(bf16, KVP_BF16)

/* Codes [8v, 8v + 8) of a run that starts at `words`, as floats. Two bits pick one of four floats, and the
 * permutation looks at no other bits. */
FAST_INLINE __m256 codes8(uint32_t bits, const uint32_t *words, uint32_t v)
{
    __m256i shift = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), w;

    if (bits == 2) {
        w = _mm256_set1_epi32((int)words[v / 2]);
        shift = _mm256_add_epi32(_mm256_slli_epi32(shift, 1), _mm256_set1_epi32(16 * (int)(v % 2)));
        return _mm256_permutevar_ps(_mm256_setr_ps(0, 1, 2, 3, 0, 1, 2, 3), _mm256_srlv_epi32(w, shift));
    }
    w = _mm256_srlv_epi32(_mm256_set1_epi32((int)words[v]), _mm256_slli_epi32(shift, 2));
    return _mm256_cvtepi32_ps(_mm256_and_si256(w, _mm256_set1_epi32(15)));
}

/* 8 * V tokens from vector v on, M heads. */
FAST_INLINE void code_dots_block(uint32_t bits, uint32_t M, uint32_t V, const float *q, const uint32_t *words,
                                 uint64_t w_stride, uint32_t dim, float *s, uint64_t s_stride)
{
    __m256 acc[16];

    UNROLL for (uint32_t n = 0; n < M * V; n++) acc[n] = _mm256_setzero_ps();
    for (uint32_t c = 0; c < dim; c++) {
        __m256 x[4];

        UNROLL for (uint32_t v = 0; v < V; v++) x[v] = codes8(bits, words + c * w_stride, v);
        UNROLL for (uint32_t m = 0; m < M; m++)
        {
            __m256 weight = _mm256_broadcast_ss(q + ((uint64_t)m * dim + c) * 8);

            UNROLL for (uint32_t v = 0; v < V; v++) acc[m * V + v] = _mm256_fmadd_ps(weight, x[v], acc[m * V + v]);
        }
    }
    UNROLL for (uint32_t n = 0; n < M * V; n++) _mm256_storeu_ps(s + n / V * s_stride + 8 * (n % V), acc[n]);
}

/* M heads, all tokens: V vectors at a time (two share a word of 2-bit codes), then one by one for 4 bits. */
FAST_INLINE void code_dots_heads(uint32_t bits, uint32_t M, uint32_t V, const float *q, const uint32_t *words,
                                 uint64_t w_stride, uint32_t dim, uint32_t tokens, float *s, uint64_t s_stride)
{
    uint32_t t = 0;

    for (; t + 8 * V <= tokens; t += 8 * V)
        code_dots_block(bits, M, V, q, words + t * bits / 32, w_stride, dim, s + t, s_stride);
    for (; t + 16 <= tokens; t += 16)
        code_dots_block(bits, M, 2, q, words + t * bits / 32, w_stride, dim, s + t, s_stride);
    if (bits == 4 && t < tokens)
        code_dots_block(4, M, 1, q, words + t * bits / 32, w_stride, dim, s + t, s_stride);
}

FAST_INLINE void code_dots(uint32_t bits, const float *q, uint32_t m, const uint32_t *words, uint64_t w_stride,
                           uint32_t dim, uint32_t tokens, float *s, uint64_t s_stride)
{
    for (; m >= 4; m -= 4, q += 32 * (uint64_t)dim, s += 4 * s_stride)
        code_dots_heads(bits, 4, 2, q, words, w_stride, dim, tokens, s, s_stride);
    if (m >= 2) {
        code_dots_heads(bits, 2, 4, q, words, w_stride, dim, tokens, s, s_stride);
        m -= 2;
        q += 16 * (uint64_t)dim;
        s += 2 * s_stride;
    }
    if (m)
        code_dots_heads(bits, 1, 4, q, words, w_stride, dim, tokens, s, s_stride);
}

FAST static void code_dots_avx2(const float *q, uint32_t m, const uint32_t *words, uint64_t w_stride, uint32_t dim,
                                uint32_t bits, uint32_t tokens, float *s, uint64_t s_stride)
{
    if (bits == 2)
        code_dots(2, q, m, words, w_stride, dim, tokens, s, s_stride);
    else
        code_dots(4, q, m, words, w_stride, dim, tokens, s, s_stride);
}

/* 8 * V channels from c on, all of one group; M heads. */
FAST_INLINE void code_mix_block(uint32_t bits, uint32_t M, uint32_t V, const float *p, const uint32_t *words,
                                uint64_t rows, uint32_t dim, uint32_t group, uint32_t c, float *o, uint64_t o_stride)
{
    uint32_t groups = dim / group, row = dim * bits / 32;
    __m256 acc[16];

    words += c * bits / 32;
    p += c / group;
    UNROLL for (uint32_t n = 0; n < M * V; n++) acc[n] = _mm256_loadu_ps(o + n / V * o_stride + c + 8 * (n % V));
    for (uint64_t t = 0; t < rows; t++) {
        __m256 x[4];

        UNROLL for (uint32_t v = 0; v < V; v++) x[v] = codes8(bits, words + t * row, v);
        UNROLL for (uint32_t m = 0; m < M; m++)
        {
            __m256 weight = _mm256_broadcast_ss(p + (m * rows + t) * groups);

            UNROLL for (uint32_t v = 0; v < V; v++) acc[m * V + v] = _mm256_fmadd_ps(weight, x[v], acc[m * V + v]);
        }
    }
    UNROLL for (uint32_t n = 0; n < M * V; n++) _mm256_storeu_ps(o + n / V * o_stride + c + 8 * (n % V), acc[n]);
}

FAST_INLINE void code_mix_heads(uint32_t bits, uint32_t M, uint32_t V, const float *p, const uint32_t *words,
                                uint64_t rows, uint32_t dim, uint32_t group, float *o, uint64_t o_stride)
{
    uint32_t c = 0;

    for (; group % (8 * V) == 0 && c < dim; c += 8 * V)
        code_mix_block(bits, M, V, p, words, rows, dim, group, c, o, o_stride);
    for (; group % 16 == 0 && c < dim; c += 16)
        code_mix_block(bits, M, 2, p, words, rows, dim, group, c, o, o_stride);
    for (; bits == 4 && c < dim; c += 8)
        code_mix_block(4, M, 1, p, words, rows, dim, group, c, o, o_stride);
}

FAST_INLINE void code_mix(uint32_t bits, const float *p, uint32_t m, const uint32_t *words, uint64_t rows, uint32_t dim,
                          uint32_t group, float *o, uint64_t o_stride)
{
    uint64_t head = rows * (dim / group);

    for (; m >= 4; m -= 4, p += 4 * head, o += 4 * o_stride)
        code_mix_heads(bits, 4, 2, p, words, rows, dim, group, o, o_stride);
    if (m >= 2) {
        code_mix_heads(bits, 2, 4, p, words, rows, dim, group, o, o_stride);
        m -= 2;
        p += 2 * head;
        o += 2 * o_stride;
    }
    if (m)
        code_mix_heads(bits, 1, 4, p, words, rows, dim, group, o, o_stride);
}

FAST static void code_mix_avx2(const float *p, uint32_t m, const uint32_t *words, uint64_t rows, uint32_t dim,
                               uint32_t bits, uint32_t group, float *o, uint64_t o_stride)
{
    if (bits == 2)
        code_mix(2, p, m, words, rows, dim, group, o, o_stride);
    else
        code_mix(4, p, m, words, rows, dim, group, o, o_stride);
}

FAST static void ranges_avx2(const float *x, uint64_t stride, uint32_t rows, uint32_t n, float *min, float *max)
{
    for (uint32_t c = 0; c < n; c += 8) {
        __m256 lo = _mm256_loadu_ps(x + c), hi = lo;

        for (uint32_t r = 1; r < rows; r++) {
            __m256 v = _mm256_loadu_ps(x + r * stride + c);

            lo = _mm256_min_ps(v, lo);
            hi = _mm256_max_ps(v, hi);
        }
        _mm256_storeu_ps(min + c, lo);
        _mm256_storeu_ps(max + c, hi);
    }
}

/* As code_of() in ops_plain.c, eight at a time. */
FAST static void pack_avx2(const float *x, uint64_t stride, uint32_t bits, uint32_t n, const float *min,
                           const float *scale, uint32_t *words)
{
    __m256 top = _mm256_set1_ps((float)((1u << bits) - 1)), zero = _mm256_setzero_ps();
    __m256i mask = _mm256_set1_epi32((1 << bits) - 1);

    for (uint32_t c = 0; c < n; c += 8) {
        __m256 m = _mm256_loadu_ps(min + c), s = _mm256_loadu_ps(scale + c), flat = _mm256_cmp_ps(s, zero, _CMP_EQ_OQ);
        __m256i word = _mm256_setzero_si256();

        for (uint32_t r = 0; r < 32 / bits; r++) {
            __m256 v = _mm256_div_ps(_mm256_sub_ps(_mm256_loadu_ps(x + r * stride + c), m), s);

            v = _mm256_add_ps(_mm256_min_ps(_mm256_max_ps(v, zero), top), _mm256_set1_ps(0x1.8p23f));
            word = _mm256_or_si256(word, _mm256_sll_epi32(_mm256_and_si256(_mm256_castps_si256(v), mask),
                                                          _mm_cvtsi32_si128((int)(r * bits))));
        }
        word = _mm256_andnot_si256(_mm256_castps_si256(flat), word);
        _mm256_storeu_si256((__m256i *)(void *)(words + c), word);
    }
}

const struct cpu_kivi_ops cpu_kivi_avx2 = {
    .fold_k = {fold_k_f32, fold_k_f16, fold_k_bf16},
    .fold_v = {fold_v_f32, fold_v_f16, fold_v_bf16},
    .code_dots = code_dots_avx2,
    .code_mix = code_mix_avx2,
    .ranges = ranges_avx2,
    .pack = pack_avx2,
};

#endif
