/* embed.h - out[n] = table[token[n]] (+ positions[pos[n]]) */
#ifndef KVPROOF_OPS_EMBED_H
#define KVPROOF_OPS_EMBED_H

#include "kernels/backend.h"
#include "kernels/ops/coded.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_embed {
    uint64_t rows;              /* N */
    uint32_t width, vocab;      /* a token outside [0, vocab) is KVP_EINPUT where the device can see it */
    enum kvp_format format;     /* of both tables: F32, F16, BF16, or codes or blocks as in gemm.h */
    struct kb_span tokens;      /* i32 [N] */
    struct kb_span table;       /* [vocab, width] */
    struct kb_span position_ids; /* i32 [N]; optional, with position_table */
    struct kb_span position_table; /* [positions, width]; optional */
    struct kb_span out;         /* f32 [N, width] */
    float scale;                /* of the rows of `table`; 0: 1 (Gemma) */
    struct kb_coded code, position_code; /* of the tables, where their format is no plain number */
};

#ifdef __cplusplus
}
#endif
#endif
