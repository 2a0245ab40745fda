/* ranks.h - what one rank of a tensor-, pipeline- or expert-parallel run holds, as a model of its own. */
#ifndef KVPROOF_CALC_RANKS_H
#define KVPROOF_CALC_RANKS_H

#include "calc/plan.h"

/* Ranks that hold the same: `alike` of them in pipeline stage `stage`. */
struct rank_kind {
    uint32_t stage, alike;
    uint32_t expert_rank; /* the first of them */
};

/* Every kind of rank, stage by stage, at most 2 a stage; owned by the caller, free(). One kind when
 * nothing is parallel. KVP_EINPUT when the model does not divide. */
kvp_err ranks_kinds(const struct kvp_model *m, const struct kvp_options *o, struct rank_kind **out, uint32_t *n, struct kvp_error *e);

/* The layers of a rank's stage, and with `divide` its share of their heads, widths, experts and
 * vocabulary. kvp_model_free() it. */
kvp_err ranks_model(struct kvp_model *out, const struct kvp_model *m, const struct kvp_options *o, const struct rank_kind *k,
                    bool divide, struct kvp_error *e);

/* Parts that every rank keeps whole, as they are in the undivided stage. */
void ranks_replicate(struct plan *rank, const struct plan *stage);

static inline uint32_t ranks_or_1(uint32_t n)
{
    return n ? n : 1;
}

static inline bool ranks_parallel(const struct kvp_options *o)
{
    return o->tp > 1 || o->pp > 1 || o->ep > 1;
}

#endif
