/* attn_sinks.h - causal attention of a whole prompt whose queries see the first keys and the newest */
#ifndef KVPROOF_OPS_ATTN_SINKS_H
#define KVPROOF_OPS_ATTN_SINKS_H

#include "kernels/backend.h"

#include "kernels/ops/attn_prefill.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As attn_prefill with a window, but keys j < sinks are seen by every query i >= j, however far away.
 * Xiao et al. 2024 (arXiv:2410.10819), section 2: the streaming heads' mask. */
struct kb_attn_sinks {
    struct kb_attn_prefill attn; /* window > 0 */
    uint64_t sinks;
};

#ifdef __cplusplus
}
#endif
#endif
