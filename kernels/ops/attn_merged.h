/* attn_merged.h - attention of one query per sequence over directions that a layer's lengths scale */
#ifndef KVPROOF_OPS_ATTN_MERGED_H
#define KVPROOF_OPS_ATTN_MERGED_H

#include "kernels/backend.h"

#include "kernels/ops/attn_decode.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As attn_decode, but attn.k and attn.v hold directions: the row of a slot is its direction times its length, or, when
 * one of the first `kept` entries of the list names the slot, that entry's row. Slot `skip` is not attended to
 * (UINT64_MAX: none). attn.probs is not taken; the tail is, and must be there when every slot is skipped. */
struct kb_attn_merged {
    struct kb_attn_decode attn;
    bool per_token;
    struct kb_span k_size, v_size; /* in the format of attn.k, [B, kv_heads (per_token: 1), size_slots] */
    uint64_t size_slots;
    uint64_t skip;
    uint64_t kept;
    struct kb_kv k_kept, v_kept;   /* strips; looked at only when kept > 0, as the lists */
    struct kb_span k_index, v_index; /* I32 or I64, [B, kv_heads, index_slots] */
    enum kvp_format index_format;
    uint64_t index_slots;
};

#ifdef __cplusplus
}
#endif
#endif
