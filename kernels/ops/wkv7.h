/* wkv7.h - RWKV-7's generalised delta rule; one token is a step (Peng et al. 2025, arXiv:2503.14456, section 4)
 *
 *   w = exp(-e^(-1/2) sigmoid(w))            a = sigmoid(a)             kk = k * k_k, of length 1 in each head
 *   k = k * (1 + (a - 1) * k_a)              v = v + (v_first - v) * sigmoid(v_mix)
 *   S = S diag(w) - (S kk) (kk * a)^T + v k^T                           y = S r
 *
 * for each head of `dim` channels. k and v are left changed, since the head norm's bonus reads them. */
#ifndef KVPROOF_OPS_WKV7_H
#define KVPROOF_OPS_WKV7_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_wkv7 {
    uint64_t batch, tokens;
    uint32_t heads, dim;
    uint64_t stride;        /* f32 elements between rows of r, w, k, v, a and v_first */
    uint64_t out_stride;    /* of v_mix and out */
    enum kvp_format format; /* of k_k and k_a */
    struct kb_span k_k, k_a; /* [heads * dim] */
    enum kvp_format state_format;
    struct kb_span state;   /* [batch, heads, dim of k, dim of v]: S transposed; in and out */
    struct kb_span r, w, k, v, a; /* f32 [batch * tokens, heads * dim] */
    struct kb_span v_first, v_mix; /* f32, likewise; both or neither */
    struct kb_span out;     /* f32, likewise; may be v_mix, none of the others */
};

#ifdef __cplusplus
}
#endif
#endif
