/* ssd_scan.h - Mamba-2's scan, one scalar of time and decay a head; one token is a step (Dao, Gu 2024,
 * arXiv:2405.21060, section 7; state-spaces/mamba, selective_state_update)
 *
 *   dt = softplus(dt + bias)   h = exp(-dt * exp(a_log)) * h + dt * x B^T   y = h C + d * x   y *= silu(z)
 *
 * for each head's matrix h of head_dim rows and n columns; heads / groups neighbouring heads share B and C. */
#ifndef KVPROOF_OPS_SSD_SCAN_H
#define KVPROOF_OPS_SSD_SCAN_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_ssd_scan {
    uint64_t batch, tokens;
    uint32_t heads, head_dim, groups, n;
    uint64_t stride;        /* f32 elements between rows of x, dt, b, c and z */
    uint64_t out_stride;
    enum kvp_format format; /* of a_log, d and dt_bias */
    struct kb_span a_log, d, dt_bias; /* [heads] */
    enum kvp_format state_format;
    struct kb_span state;   /* [batch, heads, head_dim, n]; in and out */
    struct kb_span x;       /* f32 [batch * tokens, heads * head_dim] */
    struct kb_span dt;      /* f32 [batch * tokens, heads] */
    struct kb_span b, c;    /* f32 [batch * tokens, groups * n] */
    struct kb_span z;       /* f32, as x; optional */
    struct kb_span out;     /* f32, as x; none of the above */
};

#ifdef __cplusplus
}
#endif
#endif
