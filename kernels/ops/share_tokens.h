/* share_tokens.h - a layer's budget of tokens shared out over its heads by their scores (AdaKV) */
#ifndef KVPROOF_OPS_SHARE_TOKENS_H
#define KVPROOF_OPS_SHARE_TOKENS_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of the sets * base tokens that a sequence may keep below `columns`, count[set] are among the sets * base highest
 * scores of all its sets (ties: the lower set, then the earlier token). A set keeps floor + count * (base - floor) / base
 * of them, in whole tokens; what is left goes to the sets with the largest remainders (ties: the lower set). So the sum
 * is sets * base, and no set is a whole token away from the fraction that FFY0/AdaKV rounds (snapkv_utils.py,
 * AdaptiveSnapKVCluster.update_kv). lengths[b][set] = what it keeps + tokens - columns; index[b] = for one set after
 * another its highest scores (ties: the earlier token) in text order, then the tokens [columns, tokens).
 * Feng et al. 2024 (arXiv:2407.11550), section 3. */
struct kb_share_tokens {
    uint64_t batch, tokens;
    uint32_t sets;
    uint64_t columns, base, floor; /* floor <= base <= columns, 0 < base */
    struct kb_span scores;    /* f32 [B, sets, tokens] */
    struct kb_span lengths;   /* out, i32 [B, list_stride] */
    uint64_t list_stride;
    struct kb_span index;     /* out, i32 [B, sets * (base + tokens - columns)] */
};

#ifdef __cplusplus
}
#endif
#endif
