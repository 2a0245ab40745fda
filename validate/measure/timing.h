/* timing.h - one configuration run to the end, as often as asked, and the middle of what was timed.
 *
 * A clock around every op slows the whole a little, so ops and whole forwards come from different
 * forwards where there are enough: of several prefills every other one, of the decode steps every
 * other one, beginning with the ops. A single forward must serve both. A first prefill of less than a
 * second is a warm-up and is not counted. */
#ifndef KVPROOF_TIMING_H
#define KVPROOF_TIMING_H

#include "validate/engine/engine.h"

struct timing_plan {
    const int32_t *prompt; /* [batch, prompt] */
    const int32_t *rest;   /* [batch, generate], teacher-forced */
    uint64_t batch, generate;
    uint64_t repeat;       /* runs, at least 1 */
    /* Logits of the first run, one after another in `room`: after the prefill each sequence's last row, [batch, vocab] f32, or
     * with `every_row` all of them, [batch, prompt, vocab]; after each step [batch, vocab]. Later runs compute as much and hand
     * on none. room NULL: last rows only, kept nowhere. */
    float *room;
    bool every_row;
    kvp_err (*logits)(void *self, int phase, struct kvp_error *e);
    void *self;
};

struct timing {
    double op[ENG_PHASES][KVP_OPS];        /* median seconds of the forwards in which it ran; < 0: it never did */
    double forward[ENG_PHASES];            /* median seconds of whole forwards; < 0: none */
    uint64_t forwards[ENG_PHASES];         /* how many that is the median of */
    bool clocked[ENG_PHASES];              /* those were slowed by the clocks of the ops */
    uint64_t gemm_flops[ENG_PHASES];       /* of the last forward, from the kernels' arguments */
};

kvp_err timing_run(struct eng *g, const struct timing_plan *p, struct timing *out, struct kvp_error *e);

#endif
