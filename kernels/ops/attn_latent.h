/* attn_latent.h - decode attention in latent space: all heads over one latent and one rotary key a token */
#ifndef KVPROOF_OPS_ATTN_LATENT_H
#define KVPROOF_OPS_ATTN_LATENT_H

#include "kernels/backend.h"

#include "kernels/ops/kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* DeepSeek-V2 (arXiv:2405.04434), section 2.1, with the up-projections absorbed: with p the softmax over slots t < used of
 * scale * (q[h].latent[t] + q_rope[h].rope[t]), out[h] is the sum of p[t] * latent[t]. */
struct kb_attn_latent {
    uint64_t batch;
    uint32_t heads, rank, rope_dim;
    float scale;
    uint64_t used;
    uint64_t q_stride;
    struct kb_span q;         /* f32 [B, heads, rank] */
    uint64_t q_rope_stride, q_rope_head; /* f32 elements between sequences, between heads */
    struct kb_span q_rope;
    struct kb_kv latent, rope; /* one head each, of rank and of rope_dim */
    uint64_t out_stride;
    struct kb_span out;       /* f32 [B, heads, rank] */
};

#ifdef __cplusplus
}
#endif
#endif
