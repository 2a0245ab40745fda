/* page_select.h - which pages of tokens a query reads, by what their bounds allow (Quest) */
#ifndef KVPROOF_OPS_PAGE_SELECT_H
#define KVPROOF_OPS_PAGE_SELECT_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The score of a page for (b, kv head g): the sum over the query heads of g and over the channels of the larger of
 * q * min and q * max, no smaller than any of its keys' q.k. list[b][g] = the newest page (used - 1) / page and the
 * `chosen` - 1 others with the highest scores (ties: the earlier one), ascending. Tang et al. 2024
 * (arXiv:2406.10774), section 3.2; for grouped heads one choice a kv head. */
struct kb_page_select {
    uint64_t batch, used;     /* tokens stored, in more pages than `chosen` */
    uint32_t heads, kv_heads, head_dim;
    uint64_t page, chosen;
    uint64_t q_stride;
    struct kb_span q;         /* f32, head h at h * head_dim */
    enum kvp_format format;
    uint64_t pages;           /* room for each head */
    struct kb_span min, max;  /* [B, kv_heads, pages, head_dim] */
    struct kb_span list;      /* out, i32 [B, kv_heads, chosen] */
};

#ifdef __cplusplus
}
#endif
#endif
