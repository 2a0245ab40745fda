/* head_norm.h - norm of each head by itself with weights of its own, and what follows it in RWKV and Mamba-2
 *
 *   y = norm(x) * weight + bias      y += (the sum over the head of r * k * r_k) * v      y *= gate or silu(gate)
 *
 * RWKV-5, 6: gate through SiLU; 7: the bonus, and the gate as it is (arXiv:2404.05892, 2503.14456). Mamba-2: an
 * RMS norm of groups and nothing more (arXiv:2405.21060). Gated delta net: an RMS norm, one for all heads, and the gate
 * through SiLU (arXiv:2412.06464). */
#ifndef KVPROOF_OPS_HEAD_NORM_H
#define KVPROOF_OPS_HEAD_NORM_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_head_norm {
    uint64_t rows;
    uint32_t heads, dim;
    bool rms;               /* no mean is taken out */
    bool silu;              /* of the gate */
    bool one;               /* weight, bias and r_k are [dim], the same for every head */
    double eps;
    uint64_t stride;        /* f32 elements between rows of x */
    uint64_t in_stride;     /* of r, k, v and gate */
    enum kvp_format format; /* of weight, bias and r_k */
    struct kb_span weight;  /* [heads * dim] */
    struct kb_span bias;    /* [heads * dim]; optional */
    struct kb_span r_k;     /* [heads * dim]; optional, and r, k, v with it */
    struct kb_span r, k, v; /* f32 [rows, heads * dim] */
    struct kb_span gate;    /* f32, likewise; optional */
    struct kb_span x;       /* f32, likewise; y comes in its place */
};

#ifdef __cplusplus
}
#endif
#endif
