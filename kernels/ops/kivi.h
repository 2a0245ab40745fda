/* kivi.h - where KIVI's packed tokens lie: a strip or pages, straight or as a ring */
#ifndef KVPROOF_OPS_KIVI_H
#define KVPROOF_OPS_KIVI_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One side (K or V): codes, scales and mins of `capacity` tokens per sequence. Token t lies at place
 * p = ring ? t % ring : t. Without pages (block == 0) a tensor's first index is the sequence and it
 * holds `capacity` tokens; with pages it is the page table[b * table_stride + p / block] (i32), the
 * tensor holds `block` tokens a page, and the place inside it is p % block.
 *   K: codes u32 [first, kv_heads, head_dim, tokens*bits/32], scale and min [first, kv_heads, head_dim, tokens/group]
 *   V: codes u32 [first, kv_heads, tokens, head_dim*bits/32], scale and min [first, kv_heads, tokens, head_dim/group]
 * For K, ring, block and capacity are multiples of `group`. Code j of a packed run sits in word
 * j / (32/bits) at bit bits * (j % (32/bits)): along tokens for K, along channels for V. */
struct kb_kivi {
    struct kb_span codes, scale, min;
    uint64_t capacity; /* tokens of a sequence; used when block == 0 */
    uint64_t ring;     /* tokens; 0: none */
    uint32_t block;    /* tokens of a page; 0: no pages */
    struct kb_span table;
    uint64_t table_stride;
};

#ifdef __cplusplus
}
#endif
#endif
