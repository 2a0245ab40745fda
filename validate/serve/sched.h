/* sched.h - which requests compute how many tokens in the next pass, and in which blocks.
 *
 * First come, first served, as in vLLM's v1/core/sched/scheduler.py: those that run go on, in the order in which they were
 * let in; when the pool has no block left for one, who was let in last gives up its blocks and begins again later
 * (recomputation), before all who wait; when nobody had to, those who wait are let in while tokens, sequences and blocks
 * last, each behind the whole blocks of its tokens that the pool still has. docs/serving.md. */
#ifndef KVPROOF_SERVE_SCHED_H
#define KVPROOF_SERVE_SCHED_H

#include "validate/serve/blocks.h"

#include <stdbool.h>

struct sched_rules {
    uint32_t blocks, block;     /* of the pool; tokens of one */
    uint64_t tokens, seqs;      /* of a pass, at most */
    uint64_t chunk;             /* tokens of one sequence in a pass, at most; 0: a sequence is not cut */
    bool reuse;                 /* blocks are found by their tokens */
};

/* One request. The caller sets what is above the line; the rest is the scheduler's. */
struct sched_req {
    const int32_t *token;       /* all that it will ever have */
    uint64_t prompt, output;
    /* ---- */
    uint64_t known, stored, now; /* tokens there are; in the pool; to be computed in this pass */
    uint64_t answered;
    uint64_t named, behind;     /* whole blocks that can be found, and the hash of them */
    uint32_t *block;
    uint64_t blocks, room;
    struct sched_req *next;     /* who waits, or runs, behind it */
};

struct sched_counts {
    uint64_t hit_tokens, preemptions;
};

struct sched;
kvp_err sched_open(struct sched **out, const struct sched_rules *r, struct kvp_error *e);
void sched_close(struct sched *s); /* NULL is fine */

/* The request waits from now on. */
void sched_arrive(struct sched *s, struct sched_req *q);
bool sched_idle(const struct sched *s);

/* Plan a pass: `now` of every running request. */
kvp_err sched_plan(struct sched *s, struct kvp_error *e);
/* The requests that run, in order, by `next`. */
struct sched_req *sched_running(const struct sched *s);
/* What was planned has been computed. */
void sched_done(struct sched *s);

const struct sched_counts *sched_counts(const struct sched *s);
const struct blocks *sched_blocks(const struct sched *s);

#endif
