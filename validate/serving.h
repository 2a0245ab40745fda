/* serving.h - a trace, predicted and served, side by side. With compare.c the only code that sees both halves. */
#ifndef KVPROOF_SERVING_H
#define KVPROOF_SERVING_H

#include <kvproof/kvproof.h>

struct serving_request {
    const struct kvp_model *model;
    const struct kvp_stack *stack; /* what serving needs is added: paged, continuous-batching */
    const struct kvp_trace *trace;
    const char *trace_name;
    struct kvp_serve_options serve; /* blocks 0: as many as all requests need at once; step_s 0: 0.05 */
    struct kvp_options formats;
    const char *backend;           /* "cpu", "ref", "cuda" */
    uint32_t threads;              /* 0: all */
    uint64_t seed;
    const char *weights_dir;       /* NULL: random weights */
    const char *format, *out;      /* as in compare.h */
};

/* KVP_OK: every count and every byte agrees; KVP_NO: one does not, or it does not fit the machine. */
kvp_err serving_run(const struct serving_request *q, struct kvp_error *e);

#endif
