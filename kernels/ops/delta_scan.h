/* delta_scan.h - the gated delta rule; one token is a step (Yang et al. 2024, arXiv:2412.06464, section 3; fla/ops/gated_delta_rule
 * of fla-org/flash-linear-attention; transformers, modeling_qwen3_next.py: torch_recurrent_gated_delta_rule)
 *
 *   q = q / |q| / sqrt(n)     k = k / |k|     |x| = sqrt(x.x + 1e-6)
 *   S = exp(-exp(a_log) softplus(dt + dt_bias)) S      S = S + k (sigmoid(beta) (v - S^T k))^T      y = S^T q
 *
 * for each head's matrix S of n rows and head_dim columns; heads / groups neighbouring heads share q and k. */
#ifndef KVPROOF_OPS_DELTA_SCAN_H
#define KVPROOF_OPS_DELTA_SCAN_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_delta_scan {
    uint64_t batch, tokens;
    uint32_t heads, head_dim, groups, n;
    uint64_t stride;        /* f32 elements between rows of q, k, v, dt and beta */
    uint64_t out_stride;
    enum kvp_format format; /* of a_log and dt_bias */
    struct kb_span a_log, dt_bias; /* [heads] */
    enum kvp_format state_format;
    struct kb_span state;   /* [batch, heads, n, head_dim]; in and out */
    struct kb_span q, k;    /* f32 [batch * tokens, groups * n] */
    struct kb_span v;       /* f32 [batch * tokens, heads * head_dim] */
    struct kb_span dt, beta; /* f32 [batch * tokens, heads] */
    struct kb_span out;     /* f32, as v; none of the above */
};

#ifdef __cplusplus
}
#endif
#endif
