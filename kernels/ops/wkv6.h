/* wkv6.h - RWKV-5's and RWKV-6's matrix state; one token is a step (arXiv:2404.05892, section 4)
 *
 *   y[j] = the sum over i of r[i] * (u[i] k[i] v[j] + S[i][j])       S[i][j] = w[i] S[i][j] + k[i] v[j]
 *
 * for each head of `dim` channels; w = exp(-exp(decay)), decay the same for all tokens (5) or the token's own (6). */
#ifndef KVPROOF_OPS_WKV6_H
#define KVPROOF_OPS_WKV6_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_wkv6 {
    uint64_t batch, tokens;
    uint32_t heads, dim;
    uint64_t stride;        /* f32 elements between rows of r, k, v and w */
    uint64_t out_stride;
    enum kvp_format format; /* of decay and first */
    struct kb_span decay;   /* [heads * dim]; added to w where that is given */
    struct kb_span first;   /* [heads * dim]: u */
    enum kvp_format state_format;
    struct kb_span state;   /* [batch, heads, dim of k, dim of v]; in and out */
    struct kb_span r, k, v; /* f32 [batch * tokens, heads * dim] */
    struct kb_span w;       /* f32, likewise; optional */
    struct kb_span out;     /* f32, likewise; none of the above */
};

#ifdef __cplusplus
}
#endif
#endif
