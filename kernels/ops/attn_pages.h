/* attn_pages.h - attention of one query per sequence over chosen pages of the stored tokens */
#ifndef KVPROOF_OPS_ATTN_PAGES_H
#define KVPROOF_OPS_ATTN_PAGES_H

#include "kernels/backend.h"

#include "kernels/ops/attn_decode.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As attn_decode over the slots of the pages that list[b][g] names, slot s being in page s / page, without a tail
 * and without probs. The list ends with the page of slot attn.used - 1; the others are whole. */
struct kb_attn_pages {
    struct kb_attn_decode attn;
    uint64_t page, chosen;
    struct kb_span list;      /* i32 [B, kv_heads, chosen], ascending */
};

#ifdef __cplusplus
}
#endif
#endif
