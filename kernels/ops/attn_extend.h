/* attn_extend.h - causal attention of new tokens over what a cache holds and over themselves: a piece of a prompt, or
 * one token, behind any number of stored ones (Agrawal et al. 2024, arXiv:2403.02310, section 4.2) */
#ifndef KVPROOF_OPS_ATTN_EXTEND_H
#define KVPROOF_OPS_ATTN_EXTEND_H

#include "kernels/backend.h"

#include "kernels/ops/kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The new tokens of sequence b are rows [first[b], first[b + 1]) of q, k, v and out, and the first of them is token
 * before[b] of the text. Earlier tokens are read from the cache, new ones from k and v, whether they are stored already
 * or not; without k and v (k.buf NULL) from the cache too, where they must be. Token j of the text lies in slot j, or in
 * slot j % ring. */
struct kb_attn_extend {
    uint64_t batch;
    uint64_t tokens, position;  /* first[b] = b * tokens and before[b] = position, where the two spans are not given */
    struct kb_span first, before; /* i32 [batch + 1] and [batch]; both or none */
    uint32_t heads, kv_heads, head_dim;
    uint64_t window;            /* query i sees keys j with i - j < window; 0: all j <= i */
    uint64_t ring;              /* 0, or at least window - 1, so that nothing that is seen has been overwritten */
    float scale;
    float softcap;              /* not 0: scores become softcap * tanh(score / softcap) */
    struct kb_span slopes;      /* (optional) f32 [heads], ALiBi: slope * (j - i) is added */
    enum kvp_format sink_format;
    struct kb_span sinks;       /* (optional) [heads]: a logit more in the softmax, without a value (gpt-oss) */
    uint64_t stride;            /* f32 elements between rows of q, k and v */
    struct kb_span q, k, v;     /* f32, head h at h * head_dim; k and v both or none, and with a ring both */
    struct kb_kv stored_k, stored_v;
    uint64_t out_stride;
    struct kb_span out;         /* f32, head h at h * head_dim */
};

#ifdef __cplusplus
}
#endif
#endif
