/* attn_kivi.h - decode attention over packed and residual keys and values */
#ifndef KVPROOF_OPS_ATTN_KIVI_H
#define KVPROOF_OPS_ATTN_KIVI_H

#include "kernels/backend.h"

#include "kernels/ops/kivi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Keys: packed tokens [0, k_packed), then k_full rows of the key residual. Values: packed tokens
 * [0, v_packed), then v_full rows of the value residual, a ring whose oldest row is v_first, then, with
 * tail_v, the newest token's value, which is not stored (yet). Token t is the t-th of each:
 * T == k_packed + k_full == v_packed + v_full, + 1 with a tail. The query sees tokens [first, T); earlier
 * ones may have been overwritten in a ring. */
struct kb_attn_kivi {
    uint64_t batch;
    uint32_t heads, kv_heads, head_dim, bits, group;
    float scale_qk;
    enum kvp_format format;      /* of scales, mins and residuals */
    uint64_t q_stride;
    struct kb_span q;            /* f32 */
    uint64_t first;              /* first token the query sees */
    uint64_t k_packed, k_full, v_packed, v_full, v_first;
    struct kb_kivi k, v;         /* optional spans when no packed token is seen: k_packed, v_packed <= first */
    uint64_t k_res_slots, v_res_slots;
    struct kb_span k_res;        /* format [B, kv_heads, k_res_slots, head_dim] */
    struct kb_span v_res;        /* format [B, kv_heads, v_res_slots, head_dim], ring */
    struct kb_span tail_v;       /* f32, one row per sequence, kv head h at h * head_dim; optional */
    uint64_t tail_stride;        /* f32 elements between sequences */
    uint64_t out_stride;
    struct kb_span out;          /* f32 [B, heads*head_dim] */
};

#ifdef __cplusplus
}
#endif
#endif
