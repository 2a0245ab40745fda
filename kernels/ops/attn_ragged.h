/* attn_ragged.h - attention of one query per sequence over ragged rows */
#ifndef KVPROOF_OPS_ATTN_RAGGED_H
#define KVPROOF_OPS_ATTN_RAGGED_H

#include "kernels/backend.h"

#include "kernels/ops/ragged.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As attn_decode: head h attends to all rows of head h / (heads / k.heads) of its sequence. k and v share their lists. */
struct kb_attn_ragged {
    uint64_t batch;
    uint32_t heads;
    float scale;
    uint64_t q_stride;        /* f32 elements between sequences */
    struct kb_span q;         /* f32, head h at h * dim */
    struct kb_ragged k, v;
    uint64_t out_stride;
    struct kb_span out;       /* f32 [B, heads * dim] */
};

#ifdef __cplusplus
}
#endif
#endif
