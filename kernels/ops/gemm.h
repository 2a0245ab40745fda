/* gemm.h - out = (accumulate ? out : 0) + x * W^T + bias, W as torch's nn.Linear stores it */
#ifndef KVPROOF_OPS_GEMM_H
#define KVPROOF_OPS_GEMM_H

#include "kernels/backend.h"
#include "kernels/ops/coded.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_gemm {
    uint64_t m;            /* rows of x (tokens) */
    uint32_t n, k;         /* W is [n out, k in], row-major */
    uint64_t x_stride, out_stride; /* f32 elements between rows */
    bool accumulate;       /* add to out (residual) */
    enum kvp_format format; /* of W and bias: F32, F16, BF16; else of W's codes or blocks, see `code` */
    struct kb_span x;      /* f32 [m, k]; W8A8 (coded.h): int8 */
    struct kb_span w;      /* [n, k] */
    struct kb_span bias;   /* [n]; optional */
    struct kb_span out;    /* f32 [m, n] */
    struct kb_span work;   /* f32 scratch for unpacking weights; optional */
    uint64_t work_bytes;   /* its size; a backend that needs it falls back to smaller blocks, at least
                              one row (4 * k bytes); 0 only where no scratch is needed */
    struct kb_coded code;  /* how W is coded; with a format that is no plain number, and only then */
};

#ifdef __cplusplus
}
#endif
#endif
