/* tova_step.h - TOVA decode: the token that the newest query cares least about leaves, for all heads */
#ifndef KVPROOF_OPS_TOVA_STEP_H
#define KVPROOF_OPS_TOVA_STEP_H

#include "kernels/backend.h"

#include "kernels/ops/kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Let weight[s] = the sum over all query heads of probs[b][h][s], in f32 from 0 in head order.
 *   used < budget: the new token goes to slot `used`.
 *   otherwise: of the slots and the new token (ties: the lowest slot, the new token last) the one with the
 *   lowest weight is lost; unless it is the new one itself, the new token takes its slot.
 * victim[b] (optional, i32) = the slot that was lost, `used` for the new token, -1 for none.
 * Oren et al. 2024 (arXiv:2401.06104), section 4: the mean over the heads decides, which orders as the sum. */
struct kb_tova_step {
    uint64_t batch;
    uint32_t heads, kv_heads, head_dim;
    uint64_t used, budget;
    struct kb_span probs;        /* f32 [B, heads, used + 1], from attn_decode with a tail */
    struct kb_kv k, v;
    struct kb_span new_k, new_v; /* f32, kv head g at g * head_dim */
    uint64_t new_stride;
    struct kb_span victim;       /* optional, i32 [B] */
};

#ifdef __cplusplus
}
#endif
#endif
