/* compare.h - prediction beside measurement, for one configuration under one or many stacks.
 *
 * compare.c is the only file that sees both halves: it asks calc for an estimate, runs the engine, and
 * writes rows of predicted, measured, error and how each number is known. Beside them stands how far the logits are from
 * the full cache's on the same tokens (validate/measure/fidelity.h), which decides nothing. */
#ifndef KVPROOF_COMPARE_H
#define KVPROOF_COMPARE_H

#include <kvproof/kvproof.h>

struct val_request {
    const struct kvp_model *model;
    const struct kvp_stack *stacks; /* run one by one */
    uint32_t n_stacks;
    struct kvp_workload workload;   /* resolved; generate may be 0 */
    struct kvp_options formats;
    const char *backend;            /* "cpu", "ref", "cuda" */
    uint32_t threads;               /* 0: all */
    uint64_t seed;
    uint32_t repeat;                /* timed prefill runs; decode steps are generate per run */
    double budget_s;                /* 0: none; stacks not begun by then are reported as not run */
    double max_time_error;          /* fraction; < 0: time does not decide */
    const char *weights_dir;        /* NULL: random weights */
    const char *tokens_file;        /* whitespace-separated token ids, batch 1; NULL: random ids */
    const char *dump_logits, *dump_kept, *dump_cache; /* files or NULL; one stack only */
    const char *format;             /* table, json, jsonl, csv, md */
    const char *out;                /* file or NULL: stdout. FILE.part holds finished stacks meanwhile;
                                       a run that finds one of the same configuration goes on from it */
    bool progress;                  /* a line on stderr */
};

/* A device as it was probed, for predictions of times. */
struct probe;
struct kb_info;
void val_device(const struct probe *p, const struct kb_info *info, struct kvp_device *d);

/* Does the engine run this stack? KVP_ENOTSUP naming what it does not. */
kvp_err val_runs(const struct kvp_stack *s, struct kvp_error *e);

/* KVP_OK: every byte row agrees; KVP_NO: one does not, a stack was not run for lack of budget, or time
 * is outside max_time_error. A stack that has nothing to act on, or that the composition table refuses,
 * is an error when it is the only one, and a "not applicable" row in a list. */
kvp_err val_run(const struct val_request *r, struct kvp_error *e);

#endif
