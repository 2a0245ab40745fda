/* attn_cross.h - attention of queries over keys that are not their own tokens': an encoder's output, or the encoder's own
 * tokens (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3) */
#ifndef KVPROOF_OPS_ATTN_CROSS_H
#define KVPROOF_OPS_ATTN_CROSS_H

#include "kernels/backend.h"

#include "kernels/ops/kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every query sees keys [0, used) of its sequence. Keys and values are f32 rows where k is given, stored ones otherwise. */
struct kb_attn_cross {
    uint64_t batch;
    uint64_t queries;           /* of a sequence: row b * queries + i of q and out */
    uint64_t used;              /* keys of a sequence, at least 1 */
    uint32_t heads, kv_heads, head_dim;
    float scale;
    uint64_t q_stride;          /* f32 elements between rows */
    struct kb_span q;           /* f32, head h at h * head_dim */
    uint64_t kv_stride;
    struct kb_span k, v;        /* f32, row b * used + j, kv head h at h * head_dim; both or none */
    struct kb_kv stored_k, stored_v; /* slot j is key j */
    uint64_t out_stride;
    struct kb_span out;         /* f32, head h at h * head_dim */
    /* What follows is absent when 0. */
    bool causal;                /* query i is token position + i of the keys' text, and sees no later ones */
    uint64_t position;
    struct kb_span bias;        /* f32 [heads, 2 * span - 1]: bias[h][span - 1 + j - (position + i)] is added to the scaled
                                   score of query i and key j (Raffel et al. 2020, arXiv:1910.10683, section 2.1) */
    uint64_t span;              /* more than any distance between a query and a key that it sees */
};

#ifdef __cplusplus
}
#endif
#endif
