/* ops.h - the inner loops, once in plain C and once with AVX2, FMA and F16C. Arrays indexed by format have
 * F32, F16 and BF16. Nothing needs more than element alignment. */
#ifndef KVPROOF_CPU_OPS_H
#define KVPROOF_CPU_OPS_H

#include <kvproof/names.h>

#include <stdbool.h>
#include <stdint.h>

#define CPU_FORMATS 3

struct cpu_kivi_ops {
    /* KIVI keys, n <= 8 neighbouring groups: scaled[(i * dim + c) * 8 + j] = by * q[i * dim + c] * scale[at + c * step + j], and
     * base[i * 8 + j] = the sum over c of by * q[i * dim + c] * min[at + c * step + j]. Entries from j = n on are
     * undefined. */
    void (*fold_k[CPU_FORMATS])(const float *q, uint32_t m, uint32_t dim, float by, const void *scale,
                                const void *min, uint64_t at, uint64_t step, uint32_t n, float *scaled, float *base);
    /* KIVI values: weighed[(i * rows + t) * groups + j] = p[i * p_stride + t] * scale[at + t * groups + j], and base[i * groups + j] =
     * the sum over t of p[i * p_stride + t] * min[at + t * groups + j]. */
    void (*fold_v[CPU_FORMATS])(const float *p, uint64_t p_stride, uint32_t m, uint64_t rows, uint32_t groups,
                                const void *scale, const void *min, uint64_t at, float *weighed, float *base);
    /* KIVI keys: s[i * s_stride + t] = sum over c of q[(i * dim + c) * 8] * code c of token t; the codes of a channel start at
     * words[c * w_stride] and `tokens` is a multiple of 32/bits. */
    void (*code_dots)(const float *q, uint32_t m, const uint32_t *words, uint64_t w_stride, uint32_t dim, uint32_t bits,
                      uint32_t tokens, float *s, uint64_t s_stride);
    /* KIVI values: o[i * o_stride + c] += sum over t of p[(i * rows + t) * (dim / group) + c / group] * code c of token t; the
     * codes of a token start at words[t * dim*bits/32]. */
    void (*code_mix)(const float *p, uint32_t m, const uint32_t *words, uint64_t rows, uint32_t dim, uint32_t bits,
                     uint32_t group, float *o, uint64_t o_stride);
    /* KIVI packing, n columns (a multiple of 8) of rows `stride` apart. ranges: min[c] and max[c] over `rows` rows.
     * pack: words[c] = the codes of 32/bits rows, the first in the lowest bits. What decides a bit is in
     * kernels/ops/kivi_pack_k.h: single f32 operations, none of which feeds an addition that could be contracted. */
    void (*ranges)(const float *x, uint64_t stride, uint32_t rows, uint32_t n, float *min, float *max);
    void (*pack)(const float *x, uint64_t stride, uint32_t bits, uint32_t n, const float *min, const float *scale,
                 uint32_t *words);
};

struct cpu_code_ops {
    /* dst[i] = element i + add: the code's own value (INT4 from 0 to 15; `add` is for codes alone), or a block's with its
     * scale; KVP_U8 bytes without a sign. n is whole blocks; src begins with a unit. */
    void (*unpack[KVP_FORMATS])(float *dst, const void *src, uint64_t n, float add);
    /* dst[i] = values[code i], n even; the even code of a byte in its high half */
    void (*look_up)(float *dst, const uint8_t *src, uint64_t n, const float values[16]);
    /* out[r * stride + i] = the sum of x[r * k + j] * w[i * k + j], m <= 4 rows of x, `rows` rows of w */
    void (*dots8)(const int8_t *x, uint32_t m, const int8_t *w, uint64_t rows, uint64_t k, int32_t *out, uint64_t stride);
    void (*affine)(float *x, uint64_t n, float scale, float shift); /* x = scale * x + shift */
    /* Rows of INT8 or INT4 codes, one after another, of dim at most CPU_CODE_DIM and a multiple of CPU_CODE_BLOCK; NULL: none.
     * row_dots: s[i * stride + r] = scale * the sum over c of q[i * dim + c] * code (r, c), m rows of q.
     * row_mix: o[i * dim + c] += the sum over r of p[i * p_stride + r] * code (r, c). */
    void (*row_dots[KVP_FORMATS])(const float *q, uint32_t m, const void *codes, uint64_t rows, uint32_t dim, float scale, float *s,
                                  uint64_t stride);
    void (*row_mix[KVP_FORMATS])(const float *p, uint64_t p_stride, uint32_t m, const void *codes, uint64_t rows, uint32_t dim, float *o);
};
enum { CPU_CODE_BLOCK = 64, CPU_CODE_DIM = 512 };

struct cpu_ops {
    const char *isa;
    void (*widen[CPU_FORMATS])(float *dst, const void *src, uint64_t n);
    void (*narrow[CPU_FORMATS])(void *dst, const float *src, uint64_t n);
    /* out[i * out_stride + r] = scale * x[i].w[r], m rows of x, `rows` rows of w, k summed. `ahead` (or NULL):
     * what lies there as w lies at w is fetched into the cache meanwhile; it need not be memory of ours. */
    void (*dots[CPU_FORMATS])(const float *x, uint64_t x_stride, uint32_t m, const void *w, uint64_t w_stride,
                              uint64_t rows, uint64_t k, float scale, float *out, uint64_t out_stride,
                              const void *ahead);
    /* o[i * o_stride + c] += sum over r of p[i * p_stride + r] * w[r * w_stride + c] */
    void (*mix[CPU_FORMATS])(const float *p, uint64_t p_stride, uint32_t m, const void *w, uint64_t w_stride,
                             uint64_t rows, uint64_t dim, float *o, uint64_t o_stride, const void *ahead);
    float (*max)(const float *x, uint64_t n);
    float (*exps)(float *x, uint64_t n, float minus); /* x = exp(x - minus), returns their sum */
    void (*scale)(float *x, uint64_t n, float by);
    /* out = act(gate) * up, up NULL: act(gate); by enum kb_act_kind */
    void (*act[7])(float *out, const float *gate, const float *up, uint64_t n);
    float (*sum)(const float *x, uint64_t n);                 /* sum of x */
    float (*squares)(const float *x, uint64_t n, float mean); /* sum of (x - mean)^2 */
    uint32_t (*words)(const uint32_t *x, uint64_t n);         /* sum modulo 2^32 */
    const struct cpu_kivi_ops *kivi;
    const struct cpu_rec_ops *rec; /* kernels/cpu/recurrent.h */
    const struct cpu_code_ops *code;
};

extern const struct cpu_ops cpu_ops_plain;
extern const struct cpu_code_ops cpu_code_plain;
#if defined(__x86_64__)
extern const struct cpu_ops cpu_ops_avx2;
extern const struct cpu_kivi_ops cpu_kivi_avx2;
extern const struct cpu_code_ops cpu_code_avx2;
void cpu_dots_int8(const float *q, uint32_t m, const void *codes, uint64_t rows, uint32_t dim, float scale, float *s, uint64_t stride);
void cpu_dots_int4(const float *q, uint32_t m, const void *codes, uint64_t rows, uint32_t dim, float scale, float *s, uint64_t stride);
void cpu_mix_int8(const float *p, uint64_t p_stride, uint32_t m, const void *codes, uint64_t rows, uint32_t dim, float *o);
void cpu_mix_int4(const float *p, uint64_t p_stride, uint32_t m, const void *codes, uint64_t rows, uint32_t dim, float *o);
#endif

#endif
