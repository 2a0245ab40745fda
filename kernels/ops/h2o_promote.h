/* h2o_promote.h - H2O as FlexGen has it: the oldest recent token takes the place of the lightest heavy one */
#ifndef KVPROOF_OPS_H2O_PROMOTE_H
#define KVPROOF_OPS_H2O_PROMOTE_H

#include "kernels/backend.h"

#include "kernels/ops/kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Slots [0, heavy) are heavy, [heavy, 2 heavy - 1) recent, the last one is free between steps. The new token's row is in
 * slot `used` already. For each (b, kv head g): scores[s] += the sum of probs over the query heads of g, in f32 from 0 in
 * head order, for s < used, rounded to score_format; scores[used] = that sum.
 *   used < 2 heavy - 1: nothing else.
 *   otherwise: the lowest score of the heavy ones is lost (ties: the lowest slot); the oldest recent token, in slot
 *   o = heavy + (position - heavy) % (heavy - 1), moves there with its score; the new one moves to o.
 * victim[b][g] (optional, i32) = the slot that was lost, or -1.
 * FMInference/H2O h2o_flexgen/flexgen/pytorch_backend.py (mha_gen, cache_replace, acc_replace). */
struct kb_h2o_promote {
    uint64_t batch;
    uint32_t heads, kv_heads, head_dim;
    uint64_t used, heavy;        /* heavy >= 2, used < 2 heavy */
    uint64_t position;           /* of the new token */
    struct kb_span probs;        /* f32 [B, heads, used + 1] */
    enum kvp_format score_format; /* F32 or F16 */
    struct kb_span scores;       /* [B, kv_heads, score_stride] */
    uint64_t score_stride;
    struct kb_kv k, v;
    struct kb_span victim;
};

#ifdef __cplusplus
}
#endif
#endif
