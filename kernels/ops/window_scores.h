/* window_scores.h - attention that a prompt's keys received from its last queries, pooled */
#ifndef KVPROOF_OPS_WINDOW_SCORES_H
#define KVPROOF_OPS_WINDOW_SCORES_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A set belongs to heads / sets neighbouring query heads. sum[b][set][j] = over them and over the last `window`
 * queries i >= j of exp(scale * q[i][h].k[j] - lse[b][h][i]), j < columns; scores[b][set][j] = over sum[b][set][l],
 * j - kernel/2 <= l < j - kernel/2 + kernel: with `average` the sum divided by kernel, what lies outside [0, columns)
 * counting as 0; else the largest of those inside. The rest of a row of scores is left alone.
 * Li et al. 2024 (arXiv:2404.14469), section 4; FasterDecoding/SnapKV snapkv_utils.py (pooling with stride 1 and
 * padding kernel/2); grouped heads reduced before pooling, as in Zefan-Cai/KVCache-Factory pyramidkv_utils.py and
 * FFY0/AdaKV snapkv_utils.py, whose mean orders as the sum. */
struct kb_window_scores {
    uint64_t batch, tokens;
    uint32_t heads, kv_heads, head_dim, sets;
    uint64_t window;         /* queries, at most tokens */
    uint64_t columns;        /* keys that are scored, at most tokens */
    uint32_t kernel;         /* neighbours pooled; 1: none */
    bool average;
    float scale;
    uint64_t stride;
    struct kb_span q, k;     /* f32, as in attn_prefill */
    struct kb_span lse;      /* f32 [B, heads, tokens] */
    struct kb_span scores;   /* out, f32 [B, sets, tokens] */
};

#ifdef __cplusplus
}
#endif
#endif
