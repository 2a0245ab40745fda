/* top_tokens.h - the tokens of a prompt with the highest scores, and its last ones */
#ifndef KVPROOF_OPS_TOP_TOKENS_H
#define KVPROOF_OPS_TOP_TOKENS_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* index[b][set] = the `best` tokens below `columns` with the highest scores (ties: the earlier one), in text order,
 * then the tokens [columns, tokens). kept = best + tokens - columns. */
struct kb_top_tokens {
    uint64_t batch, tokens;
    uint32_t sets;
    uint64_t columns, best;
    struct kb_span scores;   /* f32 [B, sets, tokens] */
    struct kb_span index;    /* out, i32 [B, sets, kept] */
};

#ifdef __cplusplus
}
#endif
#endif
