/* ragged_write.h - rows of f32 k or v into ragged rows, rounded to their format */
#ifndef KVPROOF_OPS_RAGGED_WRITE_H
#define KVPROOF_OPS_RAGGED_WRITE_H

#include "kernels/backend.h"

#include "kernels/ops/ragged.h"

#ifdef __cplusplus
extern "C" {
#endif

/* With an index, row j of a head is the token that its j-th entry names, the heads' entries one after another; without,
 * row lengths - 1 of each head is token `src_first`. Head h of dst takes head h / repeat of src. */
struct kb_ragged_write {
    uint64_t batch;
    struct kb_ragged dst;
    struct kb_span src;       /* f32; token t of sequence b at (b * src_tokens + t) * src_stride, a head at its number * dim */
    uint64_t src_tokens, src_stride, src_first;
    struct kb_span index;     /* optional, i32 [B, index_stride] */
    uint64_t index_stride;
    uint32_t repeat;          /* 0 as 1 */
};

#ifdef __cplusplus
}
#endif
#endif
