/* attn_slots.h - attention of one query per sequence over keys stored before their rotation */
#ifndef KVPROOF_OPS_ATTN_SLOTS_H
#define KVPROOF_OPS_ATTN_SLOTS_H

#include "kernels/backend.h"

#include "kernels/ops/attn_decode.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As attn_decode, but q and the stored keys carry no rotation: each is turned here, halves paired as in
 * kernels/ops/rope.h, a key by its place in the cache and q by `query`. Places number what is stored from the
 * oldest on: slots below `first` are their own places; behind them lies a ring of `ring` slots (0: none)
 * whose oldest is slot first + turned, so that slot s has the place first + (s - first + ring - turned) % ring.
 * Xiao et al. 2023 (arXiv:2309.17453), section 3.2: positions within the cache, not in the text.
 * attn.tail_k and attn.probs are not taken. */
struct kb_attn_slots {
    struct kb_attn_decode attn;
    uint64_t first, ring, turned;
    uint64_t query;         /* the place of q: that of the newest key */
    struct kb_span inv_freq; /* f32 [head_dim / 2], scaling already applied */
};

#ifdef __cplusplus
}
#endif
#endif
