/* fidelity.h - how far a technique's logits are from the full cache's on the same tokens.
 *
 * The full cache is the dense stack over the same weights and the same forced tokens, run once and kept, so that every
 * technique of a list is held against the same rows. */
#ifndef KVPROOF_FIDELITY_H
#define KVPROOF_FIDELITY_H

#include "validate/engine/engine.h"

/* A sum over rows; begins zeroed. */
struct fidelity {
    uint64_t rows;
    double gap, size;  /* sums of squares: of the difference, and of the full cache's logits */
    double divergence; /* sum of Kullback-Leibler divergences, nats */
    bool broken;       /* a logit was not finite */
};

/* One row of logits each. */
void fidelity_add(struct fidelity *f, const float *full, const float *logits, uint32_t vocab);

/* |x - full| / |full| over all rows, Euclidean; 0 when both are all zeros. */
double fidelity_error(const struct fidelity *f);
/* Mean over the rows of sum p log(p / q), with p the softmax of the full cache's logits and q that of the technique's; never
 * below 0. */
double fidelity_divergence(const struct fidelity *f);

/* Last rows of logits: forward 0 is the prefill, forward i the i-th decode step. Only the last forwards are kept where all
 * would take more than HEARD_BYTES. */
enum { HEARD_BYTES = 256 << 20 };
struct heard {
    uint64_t batch, first, forwards; /* kept: [first, forwards) */
    uint32_t vocab;
    float *logits;                   /* [forwards - first, batch, vocab] */
};
kvp_err heard_open(struct heard *h, uint64_t batch, uint64_t forwards, uint32_t vocab, struct kvp_error *e);
float *heard_rows(const struct heard *h, uint64_t forward); /* [batch, vocab]; NULL: not kept */
void heard_free(struct heard *h); /* zeroed is fine */

/* Runs the full cache once, without clocks, and hears all its forwards: prompt [batch, prompt], rest [batch, generate]. */
kvp_err heard_run(const struct heard *h, struct eng *g, const int32_t *prompt, const int32_t *rest, struct kvp_error *e);

/* All rows of two runs of the same shape. */
void fidelity_of(struct fidelity *f, const struct heard *full, const struct heard *got);

#endif
