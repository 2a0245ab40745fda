/* attn_prefill.h - causal (banded) attention of a whole prompt, from f32 q, k, v */
#ifndef KVPROOF_OPS_ATTN_PREFILL_H
#define KVPROOF_OPS_ATTN_PREFILL_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_attn_prefill {
    uint64_t batch, tokens;     /* B, T: all sequences have the same length */
    uint32_t heads, kv_heads, head_dim;
    uint64_t window;            /* query i sees keys j with i - j < window; 0: all j <= i */
    float scale;                /* usually 1/sqrt(head_dim) */
    uint64_t stride;            /* f32 elements between tokens of q, k and v; row b*T + t */
    struct kb_span q, k, v;     /* head h at h * head_dim */
    uint64_t out_stride;
    struct kb_span out;         /* f32 [B*T, heads*head_dim] */
    struct kb_span lse;         /* f32 [B, heads, T] natural log of the softmax denominator with the
                                   max put back; optional */
};

#ifdef __cplusplus
}
#endif
#endif
