/* serve.h - a trace of requests on the engine: continuous batching over a pool of blocks, for real.
 *
 * Time in the trace is counted in passes: pass k begins at k * step_s, so that what is scheduled hangs on the trace alone
 * and not on how fast this machine is. Tokens come from the pieces' ids, and answers are given, not sampled: request r's
 * are the same however it is scheduled. */
#ifndef KVPROOF_SERVE_SERVE_H
#define KVPROOF_SERVE_SERVE_H

#include "validate/engine/engine.h"
#include <kvproof/serve.h>

struct serve_run {
    const struct kvp_model *model;
    const struct kvp_stack *stack;  /* paged and continuous-batching; prefix and chunked-prefill if wanted */
    const struct kvp_trace *trace;
    struct kvp_serve_options serve;
    struct eng_options engine;      /* backend, device, formats, seed, weights_dir */
    /* (optional) Logits [vocab] of request r's `index`-th answer token. */
    kvp_err (*answer)(void *self, uint64_t r, uint64_t index, const float *logits, struct kvp_error *e);
    /* (optional) After every pass; `g` is at rest. */
    kvp_err (*passed)(void *self, struct eng *g, uint64_t pass, struct kvp_error *e);
    void *self;
};

/* Token `i` of request r, its answer behind its prompt. */
int32_t serve_token(const struct kvp_trace *t, uint64_t r, uint64_t i, uint32_t vocab);

/* Everything is measured: tokens that were not computed, rows that were, bytes in the ledger, seconds of the passes. */
kvp_err serve_trace(struct kvp_serving *out, const struct serve_run *s, struct kvp_error *e);

#endif
