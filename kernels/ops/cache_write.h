/* cache_write.h - rows of f32 k or v into cache slots, rounded to the cache format */
#ifndef KVPROOF_OPS_CACHE_WRITE_H
#define KVPROOF_OPS_CACHE_WRITE_H

#include "kernels/backend.h"

#include "kernels/ops/kv.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_cache_write {
    uint64_t batch, count;   /* rows per sequence */
    struct kb_kv dst;
    uint64_t slot;           /* row j goes to slot (slot + j) */
    struct kb_span src;      /* f32; row of token t of sequence b at (b * src_tokens + t) * src_stride,
                                kv head h at h * dim */
    uint64_t src_tokens, src_stride, src_first; /* row j is token src_first + j ... */
    struct kb_span index;    /* ... or, when given, i32 [B, heads, index_stride]: token index[b][h][j] */
    uint64_t index_stride;
    uint32_t first, width;   /* the elements of a row that are written; width 0: all */
    uint64_t src_head;       /* f32 elements between heads of src; 0: width */
    bool shared;             /* every head gets the same source row */
    bool one_index;          /* the index is [B, index_stride], the same for every head */
    uint32_t repeat;         /* heads of dst that take the same head of src (h / repeat); 0 as 1 */
    bool calibrate;          /* scales TENSOR: dst.scale[0] becomes the largest magnitude of all src_tokens rows of all
                                sequences and heads over the largest code (1 when all are 0), then rows are written */
};

#ifdef __cplusplus
}
#endif
#endif
