/* h2o_step.h - H2O decode: add this step's probabilities, evict one slot per head, store the new row */
#ifndef KVPROOF_OPS_H2O_STEP_H
#define KVPROOF_OPS_H2O_STEP_H

#include "kernels/backend.h"

#include "kernels/ops/kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* For each (b, kv head g), with add[s] = sum over the query heads of g of probs[b][h][s]:
 *   scores[s] += add[s] for s < used, each rounded to score_format. add[s] is summed in f32 from 0 in head
 *   order, then added in f32: the same scores and probs make the same choices on every backend.
 *   used < heavy + recent: the new token goes to slot `used`, its score is add[used].
 *   otherwise: let o = the slot of the oldest recent token, heavy + (position - heavy) % recent. Among
 *   the slots [0, heavy) and o, find the lowest score (ties: the lowest slot, o last; a NaN is not lower than
 *   anything and nothing is lower than a NaN in slot 0). If it is o, o's
 *   token is lost; else o's k, v and score move to that slot. The new token takes slot o.
 * victim[b][g] (optional, i32) = the slot that was lost, or -1. */
struct kb_h2o_step {
    uint64_t batch;
    uint32_t heads, kv_heads, head_dim;
    uint64_t used, heavy, recent;
    uint64_t position;          /* of the new token, from 0 */
    struct kb_span probs;       /* f32 [B, heads, used + 1], from attn_decode with a tail */
    enum kvp_format score_format;
    struct kb_span scores;      /* [B, kv_heads, score_stride] */
    uint64_t score_stride;
    struct kb_kv k, v;
    struct kb_span new_k, new_v; /* f32, kv head g at g * head_dim */
    uint64_t new_stride;
    struct kb_span victim;      /* optional, i32 [B, kv_heads] */
};

#ifdef __cplusplus
}
#endif
#endif
