/* recurrent_loops.h - the loops of recurrent.h; included by recurrent_plain.c and recurrent_avx2.c, which say with
 * LOOP what the compiler may use, and with LOOPS_NAME what the table is called. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math") /* no flag of an exception is read, and selects may become vectors */
#endif
#include "kernels/cpu/recurrent.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

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

/* max(x, 0) + log(1 + t), t = exp(-|x|): log(1 + t) = 2 atanh(t / (2 + t)), whose series in s <= 1/3 ends here below
 * half a unit in the last place. */
INLINE float softplus_of(float x)
{
    const float t = exp_of(-fabsf(x)), s = t / (2 + t), q = s * s;
    float y = 1.0f / 13;

    y = y * q + 1.0f / 11;
    y = y * q + 1.0f / 9;
    y = y * q + 1.0f / 7;
    y = y * q + 1.0f / 5;
    y = y * q + 1.0f / 3;
    y = y * q + 1;
    return 0.5f * (x + fabsf(x)) + 2 * s * y;
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

LOOP void ssm(const struct cpu_ssm *a)
{
    enum { BLOCK = 64 };
    const uint32_t width = a->width;

    for (uint64_t t = 0; t < a->tokens; t++) {
        const float *x = a->x + t * a->stride, *raw = a->dt + t * a->stride, *z = a->z ? a->z + t * a->stride : NULL;
        const float *d = a->d;
        float *out = a->out + t * a->out_stride, dt[BLOCK], y[BLOCK];

#pragma omp simd
        for (uint32_t c = 0; c < width; c++) {
            dt[c] = softplus_of(raw[c]);
            y[c] = d[c] * x[c];
        }
        for (uint32_t j = 0; j < a->n; j++) {
            const float b = a->b[t * a->stride + j], read = a->c[t * a->stride + j], *decay = a->a + (uint64_t)j * a->step;
            float *h = a->h + (uint64_t)j * a->step;

#pragma omp simd
            for (uint32_t c = 0; c < width; c++) {
                h[c] = exp_of(dt[c] * decay[c]) * h[c] + dt[c] * b * x[c];
                y[c] += read * h[c];
            }
        }
        if (z) {
#pragma omp simd
            for (uint32_t c = 0; c < width; c++)
                y[c] *= z[c] * sigmoid_of(z[c]);
        }
        memcpy(out, y, width * sizeof(*out));
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
            const float now = u[c] + k[c], q = top[c] > now ? top[c] : now;
            const float e1 = exp_of(top[c] - q), e2 = exp_of(now - q);
            const float aged = top[c] + w[c], p = aged > k[c] ? aged : k[c];
            const float f1 = exp_of(aged - p), f2 = exp_of(k[c] - p);

            out[c] = sigmoid_of(r[c]) * (e1 * num[c] + e2 * v[c]) / (e1 * den[c] + e2);
            num[c] = f1 * num[c] + f2 * v[c];
            den[c] = f1 * den[c] + f2;
            top[c] = p;
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
#pragma omp simd
        for (uint32_t j = 0; j < d; j++)
            out[j] = direct * v[j];
        for (uint32_t i = 0; i < d; i++) {
            float *s = a->s + (uint64_t)i * d;

#pragma omp simd
            for (uint32_t j = 0; j < d; j++) {
                out[j] += r[i] * s[j];
                s[j] = w[i] * s[j] + k[i] * v[j];
            }
        }
    }
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
        for (uint32_t i = 0; i < d; i++) {
            const float *s = a->s + (uint64_t)i * d;

#pragma omp simd
            for (uint32_t j = 0; j < d; j++)
                seen[j] += s[j] * kk[i];
        }
        for (uint32_t i = 0; i < d; i++) {
            float *s = a->s + (uint64_t)i * d;

#pragma omp simd
            for (uint32_t j = 0; j < d; j++) {
                s[j] = s[j] * w[i] - seen[j] * back[i] + v[j] * k[i];
                y[j] += s[j] * r[i];
            }
        }
        memcpy(out, y, d * sizeof(*out));
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
    .wkv7 = wkv7, .head_norm = head_norm,
};
