/* h2o_scores.h - H2O: attention mass each prompt key received, summed over queries and grouped heads */
#ifndef KVPROOF_OPS_H2O_SCORES_H
#define KVPROOF_OPS_H2O_SCORES_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* scores[b][g][j] = sum over query heads h of group g, over queries i >= j, of
 * exp(scale * q[i][h].k[j][g] - lse[b][h][i]). Zhang et al. 2023 (arXiv:2306.14048), section 4. */
struct kb_h2o_scores {
    uint64_t batch, tokens;
    uint32_t heads, kv_heads, head_dim;
    uint64_t window;         /* as in attn_prefill */
    float scale;
    uint64_t stride;
    struct kb_span q, k;     /* f32, as in attn_prefill */
    struct kb_span lse;      /* f32 [B, heads, T] */
    struct kb_span scores;   /* out, f32 [B, kv_heads, T] */
};

#ifdef __cplusplus
}
#endif
#endif
