/* rope.h - rotary embedding in place, halves paired (x[i], x[i + dim/2]) as in transformers' Llama */
#ifndef KVPROOF_OPS_ROPE_H
#define KVPROOF_OPS_ROPE_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Angle i of a row is (float)position * inv_freq[i], the product rounded to f32 (as transformers computes
 * it); every backend rotates by that angle, so that they agree at large positions. */
struct kb_rope {
    uint64_t rows;
    uint32_t heads, head_dim;
    uint64_t stride;        /* f32 elements between rows of x; head h at h * head_dim */
    struct kb_span x;       /* f32 */
    struct kb_span positions; /* i32 [rows] */
    struct kb_span inv_freq;  /* f32 [head_dim / 2], scaling already applied */
    uint64_t head_stride;   /* f32 elements between heads, of which the first head_dim rotate; 0: head_dim */
    bool neighbours;        /* pair (x[2i], x[2i + 1]) instead of halves (GPT-J, DeepSeek) */
    float warm_every, warm_by; /* warm_every not 0: nothing rotates, rows are multiplied by 1 + warm_by * log(1 +
                               floor((position + 1) / warm_every)) instead (Llama 4, on q of layers without RoPE) */
    float amplitude;        /* cosine and sine are multiplied by it (YaRN); 0: 1 */
};

#ifdef __cplusplus
}
#endif
#endif
