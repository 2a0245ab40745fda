/* ssm_scan.h - Mamba-1's selective scan; one token is a step (arXiv:2312.00752, algorithm 2 and section 3.2)
 *
 *   dt = softplus(dt)      h = exp(-dt * exp(a_log)) * h + dt * B * x      y = C.h + d * x      y *= silu(z)
 *
 * for each channel, with B and C of n values that all channels share. */
#ifndef KVPROOF_OPS_SSM_SCAN_H
#define KVPROOF_OPS_SSM_SCAN_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_ssm_scan {
    uint64_t batch, tokens;
    uint32_t channels, n;
    uint64_t stride;        /* f32 elements between rows of x, dt, b, c and z */
    uint64_t out_stride;
    enum kvp_format format; /* of a_log and d */
    struct kb_span a_log;   /* [channels, n] */
    struct kb_span d;       /* [channels] */
    enum kvp_format state_format;
    struct kb_span state;   /* [batch, channels, n]; in and out */
    struct kb_span x, dt;   /* f32 [batch * tokens, channels]; dt before its softplus, bias added */
    struct kb_span b, c;    /* f32 [batch * tokens, n] */
    struct kb_span z;       /* f32 [batch * tokens, channels]; optional */
    struct kb_span out;     /* f32 [batch * tokens, channels]; none of the above */
};

#ifdef __cplusplus
}
#endif
#endif
