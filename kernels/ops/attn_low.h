/* attn_low.h - decode attention over low-rank keys and values: rows are rebuilt as they are read */
#ifndef KVPROOF_OPS_ATTN_LOW_H
#define KVPROOF_OPS_ATTN_LOW_H

#include "kernels/backend.h"

#include "kernels/ops/kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A factor that leads from a latent to the heads, as torch's nn.Linear stores it. */
struct kb_factor {
    struct kb_span w;    /* [kv_heads * head_dim, rank] */
    struct kb_span bias; /* [kv_heads * head_dim]; optional */
};

/* What is stored of a token is a latent for keys and one for values, whatever the number of heads (Zhang et al. 2024,
 * arXiv:2410.03111, section 3.1). The key of kv head g is w[g] * latent + bias[g]; then, where `norm` is given, over its
 * root mean square and times norm; then, where inv_freq is given, turned, halves paired as in kernels/ops/rope.h, by its
 * place in the cache, while q is turned by `query`: places as in kernels/ops/attn_slots.h.
 * Values are rebuilt too where v_up.w is given. Where it is not, out is the weighted sum of latents, [B, heads, v.dim]. */
struct kb_attn_low {
    uint64_t batch;
    uint32_t heads, kv_heads, head_dim;
    float scale;
    uint64_t used;            /* stored slots [0, used) */
    uint64_t q_stride;        /* f32 elements between sequences */
    struct kb_span q;         /* f32, head h at h * head_dim, not turned */
    struct kb_kv k, v;        /* one head each, of the ranks */
    enum kvp_format format;   /* F32, F16, BF16: of the factors, their biases and norm */
    struct kb_factor k_up, v_up;
    struct kb_span norm;      /* [head_dim]; optional */
    float eps;                /* added to the mean square */
    uint64_t first, ring, turned;
    uint64_t query;
    struct kb_span inv_freq;  /* f32 [head_dim / 2], scaling already applied; optional */
    uint64_t out_stride;
    struct kb_span out;       /* f32 [B, heads, head_dim or v.dim] */
};

#ifdef __cplusplus
}
#endif
#endif
