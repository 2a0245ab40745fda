/* fit.h - the inverse: what fits on a device. Every answer is an integer found by asking the estimate itself. */
#ifndef KVPROOF_CALC_FIT_H
#define KVPROOF_CALC_FIT_H

#include <kvproof/kvproof.h>

#include <stdio.h>

enum { FIT_MOST = 1 << 30, FIT_DEVICES = 4096, FIT_RELIEFS = 64 };

/* What is asked. The workload's context and batch are the ones given; generate (when given) stays as it is
 * while the context changes. */
struct fit {
    const struct kvp_model *model;
    const struct kvp_stack *stack;
    const struct kvp_options *options;
    const struct kvp_device *device;
    struct kvp_workload workload; /* resolved */
};

/* The largest context (batch) up to FIT_MOST whose peak fits; 0: none. `*bound` (may be NULL): the next one,
 * as an error when it is refused rather than too big. */
kvp_err fit_context(const struct fit *q, uint64_t batch, uint64_t *out, struct kvp_error *refused, struct kvp_error *e);
kvp_err fit_batch(const struct fit *q, uint64_t context, uint64_t *out, struct kvp_error *refused, struct kvp_error *e);

/* What a relief costs, least first. A reason to prefer one: any may be the longest. */
enum fit_cost { FIT_SAME_RESULTS, FIT_ROUNDS, FIT_DROPS, FIT_MORE_DEVICES, FIT_SHARED_PROMPTS, FIT_ANOTHER_MODEL };
const char *fit_cost_name(enum fit_cost c);

/* The same stack and options with something more. */
struct fit_relief {
    char what[128];        /* "kivi:bits=2,..." or "--tensor-parallel-size 2" */
    enum fit_cost cost;
    bool fits;             /* the given workload */
    uint64_t max_context;  /* at the given batch */
    uint64_t max_batch;    /* at the given context */
    char reason[160];      /* why it can't be had; "" when it can */
};

struct fit_device {
    char name[64];
    uint64_t max_context;
    bool fits;             /* the given workload */
};

struct fit_answer {
    bool fits;             /* the given workload, as it is */
    uint64_t peak_bytes, room_bytes;
    uint64_t max_context, max_batch;
    char context_bound[200], batch_bound[200]; /* what stops the next one */
    uint32_t min_devices, tp, pp;              /* 0: not with FIT_DEVICES */
    /* On the rank that holds fewest sequences, what is left beside weights, activation, workspace, device context and
     * what sequences share, for cache and state; and what a sequence of the given context takes there. */
    uint64_t kv_pool_bytes, sequence_bytes;
    uint64_t slots; /* tokens that a sequence has room for: the context, in whole pages when the store is paged */
    uint64_t kv_pool_tokens, kv_pool_blocks, block; /* pool * slots / sequence; in whole blocks */
    double max_concurrency; /* pool / sequence */
    /* UINT32_MAX when none helps. Cheapest: of those that make the workload fit (when it does, or none will: the
     * context longer) the one of least cost, then the longest; longest: whatever it costs. */
    uint32_t n_reliefs, cheapest, longest;
    struct fit_relief relief[FIT_RELIEFS];
    uint32_t n_devices;
    struct fit_device *devices; /* owned; free() */
};
kvp_err fit_solve(struct fit_answer *out, const struct fit *q, struct kvp_error *e);

kvp_err fit_print(FILE *f, const char *format, const struct fit *q, const struct fit_answer *a, struct kvp_error *e);

#endif
