/* ops.h - the work of one forward pass, op by op, under the names that the engine times.
 *
 * FLOPs: one multiply-add is 2. Counted are the matrix products (projections, feed-forward, head,
 * attention's two, H2O's second pass) and the arithmetic that a technique adds. Softmax, norms, rotary
 * embedding, activations, comparisons and biases are not: together they are under one per cent.
 * Bytes: compulsory traffic, every operand once per op: weights in their format once per pass (not per
 * sequence), cache rows in theirs, activations in f32. The embedding table counts the rows looked up. */
#ifndef KVPROOF_CALC_OPS_H
#define KVPROOF_CALC_OPS_H

#include "calc/num.h"

#include <kvproof/kvproof.h>

struct plan;

/* A linear op is linear in the rows that it multiplies: what it costs a row, and the weights it reads. */
struct ops_memo {
    uint64_t in, out, calls; /* whose they are; calls 0: nobody's */
    enum kvp_role role;
    bool bias, residual;
    uint64_t weights, flops, read, written; /* of all calls; the last three a row */
};

/* What a matrix takes as it is stored. */
struct ops_weights {
    enum kvp_role role;
    uint64_t rows, cols, bytes; /* rows 0: nobody's */
};
enum { OPS_WEIGHTS = 61 };

struct ops {
    struct kvp_op_cost *v; /* owned; free() */
    uint32_t n, cap;
    bool over, oom;
    struct ops_memo *memo; /* owned [cap]: by the op's place in the list; ops_forget() when weights are stored otherwise */
    struct ops_weights weights[OPS_WEIGHTS]; /* by a hash */
};

void ops_forget(struct ops *o);
void ops_free(struct ops *o);

/* One layer's cost; `calls` of it are listed. */
struct cost {
    uint64_t flops, flops_full, read, written;
};
void ops_add(struct ops *o, enum kvp_op op, enum kvp_phase phase, uint32_t cls, uint64_t calls, struct cost c);
/* Add to an op of the class whose ops are being listed (one layer's cost again). Nothing happens when it is not there. */
void ops_more(struct ops *o, enum kvp_op op, enum kvp_phase phase, uint32_t cls, struct cost c);

/* All ops of prefill, then of the decode step whose query sees `context` tokens. */
kvp_err ops_build(struct ops *o, struct plan *p, uint64_t logit_rows, struct kvp_error *e);

/* Pairs (i, j) with j <= i and i - j < band, for `tokens` queries. */
uint64_t ops_band(bool *over, uint64_t tokens, uint64_t band);

/* calls * launch + max(FLOPs / peak, bytes / bandwidth), into every op. */
void ops_time(struct ops *o, const struct kvp_device *d, enum kvp_format weights, enum kvp_format kv);

#endif
