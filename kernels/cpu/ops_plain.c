#include "kernels/cpu/recurrent.h"

#include "kernels/half.h"

#include <math.h>

#define PER_FORMAT(X) X(f32, KVP_F32) X(f16, KVP_F16) X(bf16, KVP_BF16)

static inline void widen(enum kvp_format f, float *dst, const void *src, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        dst[i] = kb_load(f, src, i);
}

static inline void narrow(enum kvp_format f, void *dst, const float *src, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        kb_store(f, dst, i, src[i]);
}

/* Eight partial sums: the error grows with n / 8, and compilers may use vectors of any width. */
static inline float dot(enum kvp_format f, const float *x, const void *w, uint64_t at, uint64_t n)
{
    float part[8] = {0}, sum = 0;
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8)
        for (uint32_t l = 0; l < 8; l++)
            part[l] += x[i + l] * kb_load(f, w, at + i + l);
    for (; i < n; i++)
        sum += x[i] * kb_load(f, w, at + i);
    for (uint32_t l = 0; l < 8; l++)
        sum += part[l];
    return sum;
}

static inline void dots(enum kvp_format f, const float *x, uint64_t x_stride, uint32_t m, const void *w,
                        uint64_t w_stride, uint64_t rows, uint64_t k, float scale, float *out, uint64_t out_stride)
{
    for (uint64_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < m; i++)
            out[i * out_stride + r] = scale * dot(f, x + i * x_stride, w, r * w_stride, k);
}

static inline void mix(enum kvp_format f, const float *p, uint64_t p_stride, uint32_t m, const void *w,
                       uint64_t w_stride, uint64_t rows, uint64_t dim, float *o, uint64_t o_stride)
{
    for (uint64_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < m; i++)
            for (uint64_t c = 0; c < dim; c++)
                o[i * o_stride + c] += p[i * p_stride + r] * kb_load(f, w, r * w_stride + c);
}

static inline void fold_k(enum kvp_format f, const float *q, uint32_t m, uint32_t dim, float by, const void *scale,
                          const void *min, uint64_t at, uint64_t step, uint32_t n, float *scaled, float *base)
{
    for (uint32_t i = 0; i < 8 * m; i++)
        base[i] = 0;
    for (uint32_t c = 0; c < dim; c++, at += step)
        for (uint32_t j = 0; j < n; j++) {
            float s = by * kb_load(f, scale, at + j), z = by * kb_load(f, min, at + j);

            for (uint32_t i = 0; i < m; i++) {
                scaled[((uint64_t)i * dim + c) * 8 + j] = q[(uint64_t)i * dim + c] * s;
                base[i * 8 + j] += q[(uint64_t)i * dim + c] * z;
            }
        }
}

static inline void fold_v(enum kvp_format f, const float *p, uint64_t p_stride, uint32_t m, uint64_t rows,
                          uint32_t groups, const void *scale, const void *min, uint64_t at, float *weighed, float *base)
{
    for (uint32_t i = 0; i < m * groups; i++)
        base[i] = 0;
    for (uint64_t t = 0; t < rows; t++)
        for (uint32_t j = 0; j < groups; j++) {
            float s = kb_load(f, scale, at + t * groups + j), z = kb_load(f, min, at + t * groups + j);

            for (uint32_t i = 0; i < m; i++) {
                weighed[(i * rows + t) * groups + j] = p[i * p_stride + t] * s;
                base[i * groups + j] += p[i * p_stride + t] * z;
            }
        }
}

#define FORMAT_OPS(name, f)                                                                                    \
    static void widen_##name(float *dst, const void *src, uint64_t n)                                          \
    {                                                                                                          \
        widen(f, dst, src, n);                                                                                 \
    }                                                                                                          \
    static void narrow_##name(void *dst, const float *src, uint64_t n)                                         \
    {                                                                                                          \
        narrow(f, dst, src, n);                                                                                \
    }                                                                                                          \
    static void dots_##name(const float *x, uint64_t x_stride, uint32_t m, const void *w, uint64_t w_stride,   \
                            uint64_t rows, uint64_t k, float scale, float *out, uint64_t out_stride,           \
                            const void *ahead)                                                                 \
    {                                                                                                          \
        (void)ahead;                                                                                           \
        dots(f, x, x_stride, m, w, w_stride, rows, k, scale, out, out_stride);                                 \
    }                                                                                                          \
    static void mix_##name(const float *p, uint64_t p_stride, uint32_t m, const void *w, uint64_t w_stride,    \
                           uint64_t rows, uint64_t dim, float *o, uint64_t o_stride, const void *ahead)        \
    {                                                                                                          \
        (void)ahead;                                                                                           \
        mix(f, p, p_stride, m, w, w_stride, rows, dim, o, o_stride);                                           \
    }                                                                                                          \
    static void fold_k_##name(const float *q, uint32_t m, uint32_t dim, float by, const void *scale,           \
                              const void *min, uint64_t at, uint64_t step, uint32_t n, float *scaled, float *base)\
    {                                                                                                          \
        fold_k(f, q, m, dim, by, scale, min, at, step, n, scaled, base);                                       \
    }                                                                                                          \
    static void fold_v_##name(const float *p, uint64_t p_stride, uint32_t m, uint64_t rows, uint32_t groups,   \
                              const void *scale, const void *min, uint64_t at, float *weighed, float *base)    \
    {                                                                                                          \
        fold_v(f, p, p_stride, m, rows, groups, scale, min, at, weighed, base);                                \
    }
PER_FORMAT(FORMAT_OPS)

static float max_plain(const float *x, uint64_t n)
{
    float max = -INFINITY;

    for (uint64_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static float exps_plain(float *x, uint64_t n, float minus)
{
    float sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - minus);
    return sum;
}

static void scale_plain(float *x, uint64_t n, float by)
{
    for (uint64_t i = 0; i < n; i++)
        x[i] *= by;
}

static inline float silu(float x)
{
    return x / (1 + expf(-x));
}

/* 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)); 1.5957... = 2 sqrt(2/pi) */
static inline float gelu_tanh(float x)
{
    return x / (1 + expf(-1.5957691216f * (x + 0.044715f * x * x * x)));
}

static inline float gelu(float x)
{
    return 0.5f * x * erfcf(-x * (float)M_SQRT1_2);
}

static inline float relu(float x)
{
    return x > 0 ? x : 0;
}

static inline float relu2(float x)
{
    return x < 0 ? 0 : x * x; /* a NaN stays one */
}

static inline float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

#define ACT_OPS(name)                                                                                          \
    static void act_##name(float *out, const float *gate, const float *up, uint64_t n)                         \
    {                                                                                                          \
        for (uint64_t i = 0; i < n; i++)                                                                       \
            out[i] = name(gate[i]) * (up ? up[i] : 1.0f);                                                      \
    }
ACT_OPS(silu)
ACT_OPS(gelu_tanh)
ACT_OPS(gelu)
ACT_OPS(relu)
ACT_OPS(relu2)
ACT_OPS(tanhf)
ACT_OPS(sigmoid)

static float sum_plain(const float *x, uint64_t n)
{
    float part[8] = {0}, sum = 0;

    for (uint64_t i = 0; i < n; i++)
        part[i % 8] += x[i];
    for (uint32_t l = 0; l < 8; l++)
        sum += part[l];
    return sum;
}

static float squares_plain(const float *x, uint64_t n, float mean)
{
    float part[8] = {0}, sum = 0;

    for (uint64_t i = 0; i < n; i++)
        part[i % 8] += (x[i] - mean) * (x[i] - mean);
    for (uint32_t l = 0; l < 8; l++)
        sum += part[l];
    return sum;
}

static uint32_t words_plain(const uint32_t *x, uint64_t n)
{
    uint32_t sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

static void code_dots_plain(const float *q, uint32_t m, const uint32_t *words, uint64_t w_stride, uint32_t dim,
                            uint32_t bits, uint32_t tokens, float *s, uint64_t s_stride)
{
    uint32_t per = 32 / bits, mask = (1u << bits) - 1;

    for (uint32_t i = 0; i < m; i++)
        for (uint32_t t = 0; t < tokens; t++) {
            float sum = 0;

            for (uint32_t c = 0; c < dim; c++)
                sum += q[((uint64_t)i * dim + c) * 8] * (float)(words[c * w_stride + t / per] >> bits * (t % per) & mask);
            s[i * s_stride + t] = sum;
        }
}

static void code_mix_plain(const float *p, uint32_t m, const uint32_t *words, uint64_t rows, uint32_t dim,
                           uint32_t bits, uint32_t group, float *o, uint64_t o_stride)
{
    uint32_t per = 32 / bits, mask = (1u << bits) - 1, groups = dim / group;

    for (uint64_t t = 0; t < rows; t++)
        for (uint32_t i = 0; i < m; i++)
            for (uint32_t c = 0; c < dim; c++)
                o[i * o_stride + c] += p[(i * rows + t) * groups + c / group] *
                                       (float)(words[t * (dim / per) + c / per] >> bits * (c % per) & mask);
}

static void ranges_plain(const float *x, uint64_t stride, uint32_t rows, uint32_t n, float *min, float *max)
{
    for (uint32_t c = 0; c < n; c++)
        min[c] = max[c] = x[c];
    for (uint32_t r = 1; r < rows; r++)
        for (uint32_t c = 0; c < n; c++) {
            min[c] = x[r * stride + c] < min[c] ? x[r * stride + c] : min[c];
            max[c] = x[r * stride + c] > max[c] ? x[r * stride + c] : max[c];
        }
}

/* Clamping to whole numbers before rounding gives what clamping after it gives, and the rounding of a number
 * below 2^22 is the addition of 1.5 * 2^23: to nearest even, in the low bits. */
static inline uint32_t code_of(float x, float min, float scale, uint32_t top)
{
    float r = (x - min) / scale;

    r = r < 0 ? 0 : r > (float)top ? (float)top : r;
    return scale == 0 ? 0 : kb_f32_bits(r + 0x1.8p23f) & top;
}

static void pack_plain(const float *x, uint64_t stride, uint32_t bits, uint32_t n, const float *min, const float *scale,
                       uint32_t *words)
{
    for (uint32_t c = 0; c < n; c++) {
        words[c] = 0;
        for (uint32_t r = 0; r < 32 / bits; r++)
            words[c] |= code_of(x[r * stride + c], min[c], scale[c], (1u << bits) - 1) << r * bits;
    }
}

static const struct cpu_kivi_ops kivi_plain = {
    .fold_k = {fold_k_f32, fold_k_f16, fold_k_bf16},
    .fold_v = {fold_v_f32, fold_v_f16, fold_v_bf16},
    .code_dots = code_dots_plain,
    .code_mix = code_mix_plain,
    .ranges = ranges_plain,
    .pack = pack_plain,
};

const struct cpu_ops cpu_ops_plain = {
    .isa = "plain c",
    .widen = {widen_f32, widen_f16, widen_bf16},
    .narrow = {narrow_f32, narrow_f16, narrow_bf16},
    .dots = {dots_f32, dots_f16, dots_bf16},
    .mix = {mix_f32, mix_f16, mix_bf16},
    .max = max_plain,
    .exps = exps_plain,
    .scale = scale_plain,
    .act = {act_silu, act_gelu_tanh, act_gelu, act_relu, act_relu2, act_tanhf, act_sigmoid},
    .sum = sum_plain,
    .squares = squares_plain,
    .words = words_plain,
    .kivi = &kivi_plain,
    .rec = &cpu_rec_plain,
    .code = &cpu_code_plain,
};
