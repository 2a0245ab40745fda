/* head_gemm.h - a matrix of its own for every head: into latent space and back */
#ifndef KVPROOF_OPS_HEAD_GEMM_H
#define KVPROOF_OPS_HEAD_GEMM_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out[r][h] = W[h] x[r][h] + bias[h], or x[r][h] W[h] when transposed. W[h] is [rows, cols] at h * w_head: x has cols elements and
 * out rows of them, or the other way round. */
struct kb_head_gemm {
    uint64_t m;              /* rows of x */
    uint32_t heads, rows, cols;
    bool transposed;
    enum kvp_format format;  /* of W and bias */
    uint64_t w_head;         /* elements between the heads' matrices */
    struct kb_span w;
    struct kb_span bias;     /* optional, not when transposed: [rows] at h * bias_head */
    uint64_t bias_head;
    uint64_t x_stride, x_head; /* f32 elements between rows, between heads */
    struct kb_span x;
    uint64_t out_stride, out_head;
    struct kb_span out;      /* f32 */
};

#ifdef __cplusplus
}
#endif
#endif
