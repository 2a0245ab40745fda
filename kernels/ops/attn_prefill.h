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
    /* What follows is absent when 0. */
    uint32_t v_dim;             /* of a head of v and of out; 0: head_dim */
    uint64_t kv_stride;         /* f32 elements between tokens of k and v; 0: stride */
    uint64_t k_head, v_head;    /* f32 elements between heads of k and of v; 0: what a head has */
    uint32_t shared_dim;        /* the last elements of a key, which all heads share and k does not hold (MLA) */
    struct kb_span shared;      /* f32, one row a token */
    uint64_t shared_stride;
    uint64_t chunk;             /* a query sees keys of its own chunk of so many tokens only (Llama 4) */
    float softcap;              /* a scaled score x becomes softcap * tanh(x / softcap) (Gemma 2) */
    struct kb_span slopes;      /* f32 [heads]: (j - i) * slope is added to a score (Press et al. 2021, ALiBi) */
    enum kvp_format sink_format;
    struct kb_span sinks;       /* [heads]: one more score in the denominator, without a value (gpt-oss) */
};

#ifdef __cplusplus
}
#endif
#endif
