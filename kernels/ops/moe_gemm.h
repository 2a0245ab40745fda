/* moe_gemm.h - rows through the matrices of the experts that they were routed to */
#ifndef KVPROOF_OPS_MOE_GEMM_H
#define KVPROOF_OPS_MOE_GEMM_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* For every row r and every j < chosen, with e = ids[r][j]:
 *   y = W[e] x + bias[e], x the row r of x, or row r * chosen + j when x has one for each choice (x_each)
 *   y is multiplied by weights[r][j] when given
 *   out row r * chosen + j = y, or with accumulate out row r += y, for j in some fixed order */
struct kb_moe_gemm {
    uint64_t rows;
    uint32_t experts, chosen;
    uint32_t n, k;          /* W[e] is [n out, k in], at e * n * k */
    enum kvp_format format; /* of W and bias */
    struct kb_span w, bias; /* bias [experts, n]; optional */
    struct kb_span ids;     /* i32 [rows, chosen] */
    bool x_each;
    uint64_t x_stride, out_stride; /* f32 elements between rows */
    struct kb_span x, out;  /* f32 */
    struct kb_span weights; /* f32 [rows, chosen]; optional */
    bool accumulate;
};

#ifdef __cplusplus
}
#endif
#endif
