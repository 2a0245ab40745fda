/* recurrent.h - the inner loops of convolutions, token shifts and recurrences: for a block of channels or one head,
 * all tokens. recurrent_loops.h is their one source, compiled plain and with AVX2. */
#ifndef KVPROOF_CPU_RECURRENT_H
#define KVPROOF_CPU_RECURRENT_H

#include "kernels/cpu/ops.h"

/* Channels [0, width) of `rows` rows, at most CPU_BLOCK channels, `tokens` rows a sequence. a is -exp(a_log), least the
 * least of it or less, and h a state, [width, n] as a is; a sequence's is `step` after the one before. */
#define CPU_BLOCK 64
struct cpu_ssm {
    uint64_t rows, tokens, step;
    uint32_t width, n;
    float least;
    uint64_t stride, out_stride;
    const float *a, *d, *x, *dt, *b, *c, *z;
    float *h, *out;
};

/* One head of one sequence; h is its state, [dim, n]. */
struct cpu_ssd {
    uint64_t tokens;
    uint32_t dim, n;
    uint64_t stride, out_stride;
    float a, d, bias; /* a is -exp(a_log) */
    const float *x, *dt, *b, *c, *z;
    float *h, *out;
};

/* Channels [0, width) of one sequence; w is -exp(decay), s the state, [3, step]. */
struct cpu_wkv4 {
    uint64_t tokens;
    uint32_t width, step;
    uint64_t stride, out_stride;
    const float *w, *u, *r, *k, *v;
    float *s, *out;
};

/* One head of one sequence; s is its state, [dim of k, dim of v]. room: dim floats (wkv6), 7 dim (wkv7). */
struct cpu_wkv6 {
    uint64_t tokens;
    uint32_t dim;
    uint64_t stride, out_stride;
    const float *decay, *u, *r, *k, *v, *w;
    float *s, *out, *room;
};
struct cpu_wkv7 {
    uint64_t tokens;
    uint32_t dim;
    uint64_t stride, out_stride;
    const float *k_k, *k_a, *r, *w, *a, *v_first, *v_mix;
    float *k, *v, *s, *out, *room;
};

/* One head of one row. */
struct cpu_delta {
    uint64_t tokens, stride, out_stride;
    uint32_t dim, n;
    float a, bias; /* -exp(a_log), dt_bias */
    const float *q, *k, *v, *dt, *beta;
    float *s;      /* [n, dim] */
    float *room;   /* [2 * n + dim] */
    float *out;
};

struct cpu_head_norm {
    uint32_t dim;
    bool rms, silu;
    float eps;
    const float *weight, *bias, *r_k, *r, *k, *v, *gate;
    float *x;
};

struct cpu_rec_ops {
    /* y[c] = bias[c] + the sum over j of w[j * w_stride + c] * x[j][c], through SiLU if asked; y may be an x[j] */
    void (*taps)(float *y, const float *const *x, uint32_t taps, const float *w, uint64_t w_stride, const float *bias, bool silu,
                 uint64_t n);
    /* out = x + (before - x) * (m + more) */
    void (*blend)(float *out, const float *x, const float *before, const float *m, const float *more, uint64_t n);
    void (*gate)(float *out, const float *gate, const float *value, uint64_t n); /* out += sigmoid(gate) * value, or *= without */
    void (*decays)(float *x, uint64_t n);                                       /* x = -exp(x) */
    void (*ssm)(const struct cpu_ssm *a);
    void (*ssd)(const struct cpu_ssd *a);
    void (*wkv4)(const struct cpu_wkv4 *a);
    void (*wkv6)(const struct cpu_wkv6 *a);
    void (*wkv7)(const struct cpu_wkv7 *a);
    void (*delta)(const struct cpu_delta *a);
    void (*head_norm)(const struct cpu_head_norm *a);
};

extern const struct cpu_rec_ops cpu_rec_plain;
#if defined(__x86_64__)
extern const struct cpu_rec_ops cpu_rec_avx2;
#endif

#endif
