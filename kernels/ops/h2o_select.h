/* h2o_select.h - H2O after prefill: the heavy tokens and the recent ones, into their slots */
#ifndef KVPROOF_OPS_H2O_SELECT_H
#define KVPROOF_OPS_H2O_SELECT_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* When tokens > heavy + recent: slots [0, heavy) get the `heavy` highest scores among the first
 * tokens - recent, in text order (ties: the earlier token stays); the recent token at position p gets
 * slot heavy + (p - heavy) % recent. Otherwise slot j holds token j. `kept` = min(tokens, heavy+recent). */
struct kb_h2o_select {
    uint64_t batch, tokens;
    uint32_t kv_heads;
    uint64_t heavy, recent;
    struct kb_span scores;       /* f32 [B, kv_heads, tokens] */
    struct kb_span index;        /* out, i32 [B, kv_heads, kept]: token of slot j */
    enum kvp_format score_format; /* F32 or F16 */
    struct kb_span kept_scores;  /* out, [B, kv_heads, kept_stride] in score_format, scores by slot */
    uint64_t kept_stride;
};

#ifdef __cplusplus
}
#endif
#endif
