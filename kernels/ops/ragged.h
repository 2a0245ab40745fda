/* ragged.h - rows of heads that keep different numbers of tokens, one head after another */
#ifndef KVPROOF_OPS_RAGGED_H
#define KVPROOF_OPS_RAGGED_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The row of (b, head, j), j < lengths[b][head], begins at element (b * rows + starts[b][head] + j) * dim. */
struct kb_ragged {
    struct kb_span data;
    enum kvp_format format;   /* F32, F16, BF16 */
    uint32_t heads, dim;
    uint64_t rows;            /* room of a sequence, all heads together */
    struct kb_span lengths, starts; /* i32, `list_stride` from sequence to sequence */
    uint64_t list_stride;
};

#ifdef __cplusplus
}
#endif
#endif
