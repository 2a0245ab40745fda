/* pair_merge.h - MiniCache: two layers' rows become one direction and two lengths; the most unlike stay */
#ifndef KVPROOF_OPS_PAIR_MERGE_H
#define KVPROOF_OPS_PAIR_MERGE_H

#include "kernels/backend.h"

#include "kernels/ops/kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* For each of `count` tokens of a sequence, x and y are the upper and the lower layer's vectors: a head's row each, or
 * with per_token the rows of all heads end to end. Lengths below 1e-6 count as that. With w the angle between them
 * (its cosine kept 1e-6 away from -1 and 1),
 *   direction = (sin((1-t) w) y/|y| + sin(t w) x/|x|) / sin(w), divided by its own length,
 * goes to slot (slot + j) % ring of `direction` (ring 0: slot + j), and the lengths to the same slot of lower_size and
 * upper_size. Then the list of each head: entries [was, kept) become the kept - was tokens with the largest angles
 * (ties: the earlier one), in order, by slot, unless `given`, when they are there already; and the rows of every entry
 * [0, kept) whose slot was written now are stored as they are, in lower_kept and upper_kept.
 * Liu et al. 2024 (arXiv:2405.14366), section 4; Zefan-Cai/KVCache-Factory pyramidkv/minicache.py. */
struct kb_pair_merge {
    uint64_t batch, count;
    uint32_t kv_heads, head_dim;
    bool per_token;
    float t;
    struct kb_span lower, upper; /* f32; the j-th row of sequence b at (b * tokens + first + j) * stride, head g at
                                    g * head_dim */
    uint64_t tokens, first, lower_stride, upper_stride;
    struct kb_kv direction;
    uint64_t slot, ring;
    struct kb_span lower_size, upper_size; /* in direction's format, [B, kv_heads (per_token: 1), size_slots] */
    uint64_t size_slots;
    uint64_t was, kept;          /* kept - was <= count */
    struct kb_kv lower_kept, upper_kept; /* strips; looked at only when kept > 0, as the list */
    struct kb_span index;        /* I32 or I64, [B, kv_heads, index_slots] */
    enum kvp_format index_format;
    uint64_t index_slots;
    bool given;
};

#ifdef __cplusplus
}
#endif
#endif
