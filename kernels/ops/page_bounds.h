/* page_bounds.h - the smallest and the largest value of each key channel in each page of tokens (Quest) */
#ifndef KVPROOF_OPS_PAGE_BOUNDS_H
#define KVPROOF_OPS_PAGE_BOUNDS_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Keys of the tokens at positions [position, position + count) widen the bounds of their pages, token t that of
 * page t / page; the first token of a page begins them. Keys are rounded to `format` first, as they are stored.
 * Tang et al. 2024 (arXiv:2406.10774), section 3.2. */
struct kb_page_bounds {
    uint64_t batch, count, position;
    uint32_t kv_heads, head_dim;
    uint64_t page;            /* tokens */
    enum kvp_format format;   /* F32, F16, BF16 */
    struct kb_span k;         /* f32; row of the j-th token of sequence b at (b * k_tokens + k_first + j) * k_stride, head
                                 g at g * head_dim */
    uint64_t k_tokens, k_first, k_stride;
    uint64_t pages;           /* room for each head */
    struct kb_span min, max;  /* [B, kv_heads, pages, head_dim] in `format` */
};

#ifdef __cplusplus
}
#endif
#endif
