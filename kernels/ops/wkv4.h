/* wkv4.h - RWKV-4's weighted average over the past; one token is a step (arXiv:2305.13048, appendix B)
 *
 *   out = sigmoid(r) * (a e^p + v e^(u+k)) / (b e^p + e^(u+k))
 *   a e^p, b e^p = e^(-exp(decay)) (a e^p, b e^p) + (e^k v, e^k)
 *
 * kept as a, b and the running exponent p, so that nothing overflows. */
#ifndef KVPROOF_OPS_WKV4_H
#define KVPROOF_OPS_WKV4_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_wkv4 {
    uint64_t batch, tokens;
    uint32_t channels;
    uint64_t stride;            /* f32 elements between rows of r, k and v */
    uint64_t out_stride;
    enum kvp_format format;     /* of decay and first */
    struct kb_span decay, first; /* [channels]: w before its -exp, and u */
    enum kvp_format state_format;
    struct kb_span state;       /* [batch, 3, channels]: a, b, p; in and out. Nothing seen: 0, 0, -1e30 */
    struct kb_span r, k, v;     /* f32 [batch * tokens, channels]; r before its sigmoid */
    struct kb_span out;         /* f32 [batch * tokens, channels]; none of the above */
};

#ifdef __cplusplus
}
#endif
#endif
