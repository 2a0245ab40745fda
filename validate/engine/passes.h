/* passes.h - how a prefill is cut: how many tokens of each sequence, and how many sequences, go through at once.
 *
 * Written from docs/techniques/{chunked-prefill,continuous-batching,prefix}.md and their sources. */
#ifndef KVPROOF_ENGINE_PASSES_H
#define KVPROOF_ENGINE_PASSES_H

#include "validate/caches/cache.h"

struct passes {
    uint64_t chunk; /* tokens of a sequence, at most */
    uint64_t width; /* sequences, at most */
    uint64_t hit;   /* tokens that all sequences but the first find in the cache */
};

/* The parameters that a technique of the REUSE, BATCHING or CHUNKING axis reads, separated by spaces; KVP_ENOTSUP: it
 * is not here. */
kvp_err passes_params(const char **out, const struct kvp_spec *spec, struct kvp_error *e);

/* KVP_EINPUT naming the parameter that does not suit the run. */
kvp_err passes_plan(struct passes *out, const struct kvp_stack *s, uint64_t batch, uint64_t prompt, struct kvp_error *e);

/* One pass over all of every prompt? */
static inline bool passes_one(const struct passes *p, uint64_t batch, uint64_t prompt)
{
    return p->chunk >= prompt && p->width >= batch && !p->hit;
}

#endif
