/* recurrent_loops.h - the loops of recurrent.h; included by recurrent_plain.c and recurrent_avx2.c, which say with
 * LOOP what the compiler may use, and with LOOPS_NAME what the table is called. */
#if defined(__GNUC__) && !defined(__clang__)
/* No flag of an exception is read, so selects may become vectors; clang contracts by itself. */
#pragma GCC optimize("no-trapping-math", "fp-contract=fast")
#endif
#include "kernels/cpu/recurrent.h"

#include <math.h>
#include <string.h>

#define INLINE LOOP inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL8 _Pragma("unroll")
#else
#define UNROLL8 _Pragma("GCC unroll 8")
#endif

/* exp(x), in steps that vectorize (selects, no branches): 2^n times a polynomial on [-ln2/2, ln2/2], coefficients of
 * the Cephes library's expf (S. Moshier). 0 below -87.3, finite above 88; a NaN stays one. The rounding of x / ln2 is
 * the addition of 1.5 * 2^23, which leaves n in the low bits. */
INLINE float exp_of(float x)
{
    const float high = x > 88.3f ? 88.3f : x, c = high < -87.3f ? -87.3f : high, shifted = c * 1.44269504088896341f + 0x1.8p23f;
    const float n = shifted - 0x1.8p23f, r = (c - n * 0.693359375f) + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f, power;
    uint32_t bits;

    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits - 0x4b400000u + 127) << 23 & -(uint32_t)(x >= -87.3f);
    memcpy(&power, &bits, sizeof(power));
    return y * power;
}

INLINE float sigmoid_of(float x)
{
    return 1 / (1 + exp_of(-x));
}

/* 2^(n + f), the bits of n plus any multiple of 512 in `shifted`, f in [-1/2, 1/2]: a polynomial, coefficients of the Cephes
 * library's exp2f, and n added to its exponent. */
INLINE float power_of(float f, float shifted)
{
    float y = 1.535336188319500e-4f;
    uint32_t bits, n;

    y = y * f + 1.339887440266574e-3f;
    y = y * f + 9.618437357674640e-3f;
    y = y * f + 5.550332471162809e-2f;
    y = y * f + 2.402264791363012e-1f;
    y = y * f + 6.931472028550421e-1f;
    y = y * f + 1;
    memcpy(&bits, &y, sizeof(bits));
    memcpy(&n, &shifted, sizeof(n));
    bits += n << 23;
    memcpy(&y, &bits, sizeof(y));
    return y;
}

/* exp(x) for x <= 0, where that is all; below -87 as there. A NaN stays one. */
INLINE float exp_below(float x)
{
    const float c = x < -87 ? -87 : x, shifted = c * 1.44269504088896341f + 0x1.8p23f, n = shifted - 0x1.8p23f;

    return x == x ? power_of((c * 1.44269504088896341f - n) + c * 1.925963033500e-8f, shifted) : x; /* bits added to a NaN make a number */
}

/* log(1 + t) of 0 <= t <= 1, s being t / (2 + t): 2 atanh(s), whose series in s <= 1/3 ends here below half a unit in the
 * last place. */
INLINE float log_of(float s)
{
    const float q = s * s;
    float y = 1.0f / 13;

    y = y * q + 1.0f / 11;
    y = y * q + 1.0f / 9;
    y = y * q + 1.0f / 7;
    y = y * q + 1.0f / 5;
    y = y * q + 1.0f / 3;
    y = y * q + 1;
    return 2 * s * y;
}

/* max(x, 0) + log(1 + exp(-|x|)) */
INLINE float softplus_of(float x)
{
    const float t = exp_below(-fabsf(x));

    return 0.5f * (x + fabsf(x)) + log_of(t / (2 + t));
}

LOOP void taps(float *y, const float *const *x, uint32_t n_taps, const float *w, uint64_t w_stride, const float *bias, bool silu,
               uint64_t n)
{
    enum { BLOCK = 64 };

    for (uint64_t c0 = 0; c0 < n; c0 += BLOCK) {
        const uint64_t m = n - c0 < BLOCK ? n - c0 : BLOCK;
        float sum[BLOCK];

        for (uint64_t c = 0; c < m; c++)
            sum[c] = bias ? bias[c0 + c] : 0;
        for (uint32_t j = 0; j < n_taps; j++) {
            const float *in = x[j] + c0, *by = w + j * w_stride + c0;

#pragma omp simd
            for (uint64_t c = 0; c < m; c++)
                sum[c] += by[c] * in[c];
        }
        if (silu) {
#pragma omp simd
            for (uint64_t c = 0; c < m; c++)
                sum[c] *= sigmoid_of(sum[c]);
        }
        memcpy(y + c0, sum, m * sizeof(*y));
    }
}

LOOP void blend(float *out, const float *x, const float *before, const float *m, const float *more, uint64_t n)
{
    if (more) {
#pragma omp simd
        for (uint64_t i = 0; i < n; i++)
            out[i] = x[i] + (before[i] - x[i]) * (m[i] + more[i]);
        return;
    }
#pragma omp simd
    for (uint64_t i = 0; i < n; i++)
        out[i] = x[i] + (before[i] - x[i]) * m[i];
}

LOOP void gate(float *out, const float *by, const float *value, uint64_t n)
{
    if (!value) {
#pragma omp simd
        for (uint64_t i = 0; i < n; i++)
            out[i] *= sigmoid_of(by[i]);
        return;
    }
#pragma omp simd
    for (uint64_t i = 0; i < n; i++)
        out[i] += sigmoid_of(by[i]) * value[i];
}

LOOP void decays(float *x, uint64_t n)
{
#pragma omp simd
    for (uint64_t i = 0; i < n; i++)
        x[i] = -exp_of(x[i]);
}

/* 2^x for x <= 0, where that is all; below -126 as there. A NaN stays one. */
INLINE float decay_of(float x)
{
    const float c = x < -126 ? -126 : x, shifted = c + 0x1.8p23f;

    return power_of(c - (shifted - 0x1.8p23f), shifted);
}

/* One channel and token: h = 2^(dt a) h + in b, returns c.h, of 16 or any n. */
INLINE float ssm_16(float *h, const float *a, const float *b, const float *c, float dt, float in)
{
    float part[16];

#pragma omp simd
    for (uint32_t j = 0; j < 16; j++) {
        h[j] = decay_of(dt * a[j]) * h[j] + in * b[j];
        part[j] = c[j] * h[j];
    }
#pragma omp simd
    for (uint32_t j = 0; j < 8; j++)
        part[j] += part[j + 8];
#pragma omp simd
    for (uint32_t j = 0; j < 4; j++)
        part[j] += part[j + 4];
    return (part[0] + part[2]) + (part[1] + part[3]);
}

INLINE float ssm_any(float *h, const float *a, const float *b, const float *c, float dt, float in, uint32_t n)
{
    float y = 0;

#pragma omp simd reduction(+ : y)
    for (uint32_t j = 0; j < n; j++) {
        h[j] = decay_of(dt * a[j]) * h[j] + in * b[j];
        y += c[j] * h[j];
    }
    return y;
}

enum { SSM_ROWS = 8, SSM_SOON = 2 }; /* rows whose steps are worked out at once; sequences ahead whose state is fetched */

/* dt and dt x of row r, and into `out` what x adds by itself; returns the largest dt. In short loops: a softplus is one long
 * chain, and too few fit into what the processor looks ahead. */
INLINE float ssm_row_steps(const struct cpu_ssm *a, uint64_t r, float *dt, float *in)
{
    const float *x = a->x + r * a->stride, *raw = a->dt + r * a->stride, *d = a->d;
    float *out = a->out + r * a->out_stride, largest;
    uint32_t most = 0; /* the bits of numbers from 0 on are in their order */

#pragma omp simd
    for (uint32_t i = 0; i < a->width; i++)
        dt[i] = exp_below(-fabsf(raw[i]));
#pragma omp simd
    for (uint32_t i = 0; i < a->width; i++)
        dt[i] = dt[i] / (2 + dt[i]);
#pragma omp simd reduction(max : most)
    for (uint32_t i = 0; i < a->width; i++) {
        const float step = 0.5f * (raw[i] + fabsf(raw[i])) + log_of(dt[i]);
        uint32_t bits;

        in[i] = step * x[i];
        dt[i] = step * 1.44269504088896341f; /* exp is 2 to the log2(e) times */
        out[i] = d[i] * x[i];
        memcpy(&bits, &dt[i], sizeof(bits));
        most = bits > most ? bits : most;
    }
    memcpy(&largest, &most, sizeof(largest));
    return largest;
}

INLINE void ssm_fetch(const float *row, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += 64 / sizeof(*row))
        __builtin_prefetch(row + i);
}

/* What row r needs of memory, which is a page for each. */
INLINE void ssm_fetch_row(const struct cpu_ssm *a, uint64_t r)
{
    ssm_fetch(a->x + r * a->stride, a->width);
    ssm_fetch(a->dt + r * a->stride, a->width);
    ssm_fetch(a->b + r * a->stride, a->n);
    ssm_fetch(a->c + r * a->stride, a->n);
    ssm_fetch(a->out + r * a->out_stride, a->width);
    if (a->z)
        ssm_fetch(a->z + r * a->stride, a->width);
}

/* Mamba's own n: by eights where recurrent_avx2.c has that and no power is below 2^-126. */
INLINE void ssm_row_16(const struct cpu_ssm *a, float *h, const float *next, const float *b, const float *c, const float *dt,
                       const float *in, float most, float *out)
{
    uint32_t i = 0;

#ifdef SSM_EIGHTS
    if (most * a->least >= -126)
        i = SSM_EIGHTS(h, next, a->a, b, c, dt, in, out, a->width);
#else
    (void)next, (void)most;
#endif
    for (; i < a->width; i++)
        out[i] += ssm_16(h + (uint64_t)i * 16, a->a + (uint64_t)i * 16, b, c, dt[i], in[i]);
}

INLINE void ssm_row(const struct cpu_ssm *a, uint64_t r, const float *dt, const float *in, float most)
{
    const uint64_t sequence = r / a->tokens;
    const float *b = a->b + r * a->stride, *c = a->c + r * a->stride;
    float *h = a->h + sequence * a->step, *out = a->out + r * a->out_stride;
    const bool more = r % a->tokens == 0 && (sequence + SSM_SOON) * a->tokens < a->rows;

    if (a->n == 16)
        ssm_row_16(a, h, more ? h + SSM_SOON * a->step : h, b, c, dt, in, most, out);
    for (uint32_t i = 0; a->n != 16 && i < a->width; i++)
        out[i] += ssm_any(h + (uint64_t)i * a->n, a->a + (uint64_t)i * a->n, b, c, dt[i], in[i], a->n);
    if (a->z) {
        const float *z = a->z + r * a->stride;

#pragma omp simd
        for (uint32_t i = 0; i < a->width; i++)
            out[i] *= z[i] * sigmoid_of(z[i]);
    }
}

LOOP void ssm(const struct cpu_ssm *a)
{
    float dt[SSM_ROWS][CPU_BLOCK], in[SSM_ROWS][CPU_BLOCK], most[SSM_ROWS];

    for (uint64_t r = 0; r < a->rows; r += SSM_ROWS) {
        const uint64_t n = a->rows - r < SSM_ROWS ? a->rows - r : SSM_ROWS;

        for (uint64_t k = 0; k < n; k++)
            most[k] = ssm_row_steps(a, r + k, dt[k], in[k]);
        for (uint64_t k = 0; k < n; k++) {
            if (r + k + SSM_ROWS < a->rows)
                ssm_fetch_row(a, r + k + SSM_ROWS);
            ssm_row(a, r + k, dt[k], in[k], most[k]);
        }
    }
}

LOOP void ssd(const struct cpu_ssd *a)
{
    for (uint64_t t = 0; t < a->tokens; t++) {
        const float dt = softplus_of(a->dt[t * a->stride] + a->bias), decay = exp_of(dt * a->a);
        const float *x = a->x + t * a->stride, *b = a->b + t * a->stride, *read = a->c + t * a->stride;
        float *out = a->out + t * a->out_stride;

        for (uint32_t p = 0; p < a->dim; p++) {
            const float in = dt * x[p];
            float *h = a->h + (uint64_t)p * a->n, y = 0;

#pragma omp simd reduction(+ : y)
            for (uint32_t j = 0; j < a->n; j++) {
                h[j] = decay * h[j] + in * b[j];
                y += read[j] * h[j];
            }
            out[p] = y + a->d * x[p];
        }
        if (a->z) {
            const float *z = a->z + t * a->stride;

#pragma omp simd
            for (uint32_t p = 0; p < a->dim; p++)
                out[p] *= z[p] * sigmoid_of(z[p]);
        }
    }
}

LOOP void wkv4(const struct cpu_wkv4 *a)
{
    const uint32_t width = a->width;
    const float *u = a->u, *w = a->w;
    float *num = a->s, *den = a->s + a->step, *top = a->s + 2 * (uint64_t)a->step;

    for (uint64_t t = 0; t < a->tokens; t++) {
        const float *r = a->r + t * a->stride, *k = a->k + t * a->stride, *v = a->v + t * a->stride;
        float *out = a->out + t * a->out_stride;

#pragma omp simd
        for (uint32_t c = 0; c < width; c++) {
            const float now = u[c] + k[c], aged = top[c] + w[c];
            /* of the weights of two terms, relative to the larger, one is 1 */
            const float e = exp_below(-fabsf(top[c] - now)), f = exp_below(-fabsf(aged - k[c]));
            const float e1 = top[c] > now ? 1 : e, e2 = top[c] > now ? e : 1;
            const float f1 = aged > k[c] ? 1 : f, f2 = aged > k[c] ? f : 1, p = aged > k[c] ? aged : k[c];

            out[c] = sigmoid_of(r[c]) * (e1 * num[c] + e2 * v[c]) / (e1 * den[c] + e2);
            num[c] = f1 * num[c] + f2 * v[c];
            den[c] = f1 * den[c] + f2;
            top[c] = p;
        }
    }
}

/* One token of a head: y = r S and S = diag(w) S + k v^T, y of `direct` v at the start. */
INLINE void wkv6_one(float *s, float *out, const float *r, const float *k, const float *v, const float *w, float direct, uint32_t d)
{
#pragma omp simd
    for (uint32_t j = 0; j < d; j++)
        out[j] = direct * v[j];
    for (uint32_t i = 0; i < d; i++, s += d) {
        const float ri = r[i], ki = k[i], wi = w[i];

#pragma omp simd
        for (uint32_t j = 0; j < d; j++) {
            const float old = s[j];

            out[j] += ri * old;
            s[j] = wi * old + ki * v[j];
        }
    }
}

LOOP void wkv6(const struct cpu_wkv6 *a)
{
    const uint32_t d = a->dim;
    const float *u = a->u;

    for (uint64_t t = 0; t < a->tokens; t++) {
        const float *r = a->r + t * a->stride, *k = a->k + t * a->stride, *v = a->v + t * a->stride;
        const float *own = a->w ? a->w + t * a->stride : NULL;
        float *out = a->out + t * a->out_stride, *w = a->room, direct = 0;

        for (uint32_t i = 0; i < d; i++)
            w[i] = a->decay[i] + (own ? own[i] : 0);
#pragma omp simd reduction(+ : direct)
        for (uint32_t i = 0; i < d; i++) {
            w[i] = exp_of(-exp_of(w[i]));
            direct += r[i] * u[i] * k[i];
        }
        if (d == 64) /* RWKV's own: whole vectors */
            wkv6_one(a->s, out, r, k, v, w, direct, 64);
        else
            wkv6_one(a->s, out, r, k, v, w, direct, d);
    }
}

/* One token of a head, as wkv7.h says: `back` is kk * a. Any dim; y and seen are room. */
INLINE void wkv7_one(float *s, float *y, float *seen, const float *r, const float *k, const float *v, const float *w, const float *kk,
                     const float *back, uint32_t d)
{
    for (uint32_t i = 0; i < d; i++) {
        const float *row = s + (uint64_t)i * d, by = kk[i];

#pragma omp simd
        for (uint32_t j = 0; j < d; j++)
            seen[j] += row[j] * by;
    }
    for (uint32_t i = 0; i < d; i++) {
        const float wi = w[i], bi = back[i], ki = k[i], ri = r[i];
        float *row = s + (uint64_t)i * d;

#pragma omp simd
        for (uint32_t j = 0; j < d; j++) {
            const float next = row[j] * wi - seen[j] * bi + v[j] * ki;

            row[j] = next;
            y[j] += next * ri;
        }
    }
}

/* The same for RWKV's own dim of 64: what is summed stays in registers, of the second pass half of the columns at a
 * time. The second pass asks for the next head's state, for the second cache: on an AMD EPYC (Zen 4), one thread, 256 sequences,
 * 30 GB/s read and written, 24 for the first cache, 29 without; 43 for states that are in the cache. */
typedef float vec8 __attribute__((vector_size(32), aligned(4)));

INLINE void wkv7_seen(const float *s, float *seen, const float *kk)
{
    vec8 sum[8] = {{0}}, *to = (vec8 *)(void *)seen;

    for (uint32_t i = 0; i < 64; i++) {
        const vec8 *row = (const vec8 *)(const void *)(s + (uint64_t)i * 64);

        UNROLL8 for (int q = 0; q < 8; q++) sum[q] += row[q] * kk[i];
    }
    UNROLL8 for (int q = 0; q < 8; q++) to[q] = sum[q]; /* not memcpy(), for which the sums would lie in memory */
}

INLINE void wkv7_half(float *s, float *y, const float *seen, const float *r, const float *k, const float *v, const float *w, const float *back)
{
    vec8 sum[4] = {{0}}, old[4], value[4], *to = (vec8 *)(void *)y;

    UNROLL8 for (int q = 0; q < 4; q++) old[q] = ((const vec8 *)(const void *)seen)[q];
    UNROLL8 for (int q = 0; q < 4; q++) value[q] = ((const vec8 *)(const void *)v)[q];
    for (uint32_t i = 0; i < 64; i++) {
        const float wi = w[i], bi = back[i], ki = k[i], ri = r[i];
        vec8 *row = (vec8 *)(void *)(s + (uint64_t)i * 64);

        __builtin_prefetch(row + 64 * 8, 0, 2);
        __builtin_prefetch(row + 64 * 8 + 2, 0, 2);
        UNROLL8 for (int q = 0; q < 4; q++)
        {
            const vec8 next = row[q] * wi - old[q] * bi + value[q] * ki;

            row[q] = next;
            sum[q] += next * ri;
        }
    }
    UNROLL8 for (int q = 0; q < 4; q++) to[q] = sum[q];
}

LOOP void wkv7(const struct cpu_wkv7 *a)
{
    const uint32_t d = a->dim;
    const float *k_k = a->k_k, *k_a = a->k_a;
    float *w = a->room, *kk = w + d, *back = kk + d, *seen = back + d, *y = seen + d, *k = y + d, *v = k + d;

    for (uint64_t t = 0; t < a->tokens; t++) {
        const float *r = a->r + t * a->stride, *raw = a->w + t * a->stride, *rate = a->a + t * a->stride;
        float *keys = a->k + t * a->stride, *values = a->v + t * a->stride, *out = a->out + t * a->out_stride;
        float square = 0, by;

#pragma omp simd reduction(+ : square)
        for (uint32_t i = 0; i < d; i++) {
            const float z = sigmoid_of(rate[i]);

            w[i] = exp_of(-0.606530659712633f * sigmoid_of(raw[i]));
            kk[i] = keys[i] * k_k[i];
            k[i] = keys[i] * (1 + (z - 1) * k_a[i]);
            back[i] = z;
            v[i] = values[i];
            square += kk[i] * kk[i];
        }
        if (a->v_first) {
            const float *first = a->v_first + t * a->stride, *mix = a->v_mix + t * a->out_stride;

#pragma omp simd
            for (uint32_t i = 0; i < d; i++)
                v[i] += (first[i] - v[i]) * sigmoid_of(mix[i]);
        }
        by = 1 / fmaxf(sqrtf(square), 1e-12f);
#pragma omp simd
        for (uint32_t i = 0; i < d; i++) {
            kk[i] *= by;
            back[i] *= kk[i];
            keys[i] = k[i];
            values[i] = v[i];
            seen[i] = y[i] = 0;
        }
        if (d == 64)
            wkv7_seen(a->s, seen, kk);
        for (uint32_t j = 0; d == 64 && j < 64; j += 32)
            wkv7_half(a->s + j, y + j, seen + j, r, k, v + j, w, back);
        if (d != 64)
            wkv7_one(a->s, y, seen, r, k, v, w, kk, back, d);
        memcpy(out, y, d * sizeof(*out));
    }
}

/* x over its length, times `by`. */
INLINE void unit(float *to, const float *x, float by, uint32_t n)
{
    float square = 1e-6f;

#pragma omp simd reduction(+ : square)
    for (uint32_t i = 0; i < n; i++)
        square += x[i] * x[i];
    by /= sqrtf(square);
#pragma omp simd
    for (uint32_t i = 0; i < n; i++)
        to[i] = x[i] * by;
}

/* One token of a head: what k finds is taken out of v, and what is left is written; two passes over the state. */
INLINE void delta_one(float *s, float *y, float *rest, const float *q, const float *k, const float *v, float decay, float beta, uint32_t n,
                      uint32_t d)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *row = s + (uint64_t)i * d, by = k[i] * decay;

#pragma omp simd
        for (uint32_t j = 0; j < d; j++)
            rest[j] += row[j] * by;
    }
#pragma omp simd
    for (uint32_t j = 0; j < d; j++)
        rest[j] = beta * (v[j] - rest[j]);
    for (uint32_t i = 0; i < n; i++) {
        const float ki = k[i], qi = q[i];
        float *row = s + (uint64_t)i * d;

#pragma omp simd
        for (uint32_t j = 0; j < d; j++) {
            const float next = decay * row[j] + ki * rest[j];

            row[j] = next;
            y[j] += next * qi;
        }
    }
}

LOOP void delta(const struct cpu_delta *a)
{
    const uint32_t n = a->n, d = a->dim;
    float *q = a->room, *k = q + n, *rest = k + n;

    for (uint64_t t = 0; t < a->tokens; t++) {
        const uint64_t row = t * a->stride;
        const float decay = exp_of(a->a * softplus_of(a->dt[row] + a->bias)), beta = sigmoid_of(a->beta[row]);
        float *out = a->out + t * a->out_stride;

        unit(q, a->q + row, 1 / sqrtf((float)n), n);
        unit(k, a->k + row, 1, n);
        memset(rest, 0, d * sizeof(*rest));
        memset(out, 0, d * sizeof(*out));
        delta_one(a->s, out, rest, q, k, a->v + row, decay, beta, n, d);
    }
}

LOOP void head_norm(const struct cpu_head_norm *a)
{
    const uint32_t dim = a->dim;
    const float *weight = a->weight, *gates = a->gate;
    float *x = a->x, mean = 0, square = 0, bonus = 0, by;

    if (!a->rms) {
#pragma omp simd reduction(+ : mean)
        for (uint32_t i = 0; i < dim; i++)
            mean += x[i];
        mean /= (float)a->dim;
    }
#pragma omp simd reduction(+ : square)
    for (uint32_t i = 0; i < dim; i++)
        square += (x[i] - mean) * (x[i] - mean);
    by = 1 / sqrtf(square / (float)a->dim + a->eps);
#pragma omp simd
    for (uint32_t i = 0; i < dim; i++)
        x[i] = (x[i] - mean) * by * weight[i];
    for (uint32_t i = 0; a->bias && i < dim; i++)
        x[i] += a->bias[i];
    if (a->r_k) {
#pragma omp simd reduction(+ : bonus)
        for (uint32_t i = 0; i < dim; i++)
            bonus += a->r[i] * a->k[i] * a->r_k[i];
        for (uint32_t i = 0; i < dim; i++)
            x[i] += bonus * a->v[i];
    }
    if (!a->gate)
        return;
#pragma omp simd
    for (uint32_t i = 0; i < dim; i++)
        x[i] *= gates[i];
    if (!a->silu)
        return;
#pragma omp simd
    for (uint32_t i = 0; i < dim; i++)
        x[i] *= sigmoid_of(gates[i]);
}

const struct cpu_rec_ops LOOPS_NAME = {
    .taps = taps, .blend = blend, .gate = gate, .decays = decays, .ssm = ssm, .ssd = ssd, .wkv4 = wkv4, .wkv6 = wkv6,
    .wkv7 = wkv7, .delta = delta, .head_norm = head_norm,
};
