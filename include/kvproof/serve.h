/* serve.h - a trace served from a pool of blocks: the words for what both halves count, each with a scheduler of its own
 * (docs/serving.md has the rules that they follow). */
#ifndef KVPROOF_SERVE_H
#define KVPROOF_SERVE_H

#include <kvproof/trace.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Beside the stack, which has paged (block), continuous-batching (tokens and sequences of a step), and may have prefix,
 * chunked-prefill, kv and a technique that stores weights. */
struct kvp_serve_options {
    uint64_t blocks; /* of the pool */
    double step_s;   /* of the trace's clock that a step takes; more than 0 */
};

struct kvp_serving {
    uint64_t steps;           /* passes of the model */
    uint64_t hit_tokens;      /* found in the pool when a request was let in, also after a preemption */
    uint64_t computed_tokens; /* rows of all passes */
    uint64_t output_tokens;   /* answers */
    uint64_t preemptions;
    uint64_t evictions;       /* of blocks whose content might have been found again */
    uint64_t peak_blocks;     /* most that requests held at once */
    uint64_t block_steps;     /* blocks held, added up over the steps */
    uint64_t empty_slot_steps; /* their slots that hold no token, added up */
    uint64_t pool_bytes, metadata_bytes, weights_bytes; /* exact; metadata: the table, and scales of encoded rows */
    uint64_t activation_bytes, workspace_bytes;      /* at most */
    double seconds;           /* of all passes; NAN without a device */
};

#ifdef __cplusplus
}
#endif
#endif
