/* lots.h - continuous batching for caches that take a prompt whole: the batch in lots of as many sequences as a pass holds,
 * a cache of the stack's kind for each. A prefill is a lot's own, one after another; a step goes through all of them. */
#ifndef KVPROOF_CACHES_LOTS_H
#define KVPROOF_CACHES_LOTS_H

#include "validate/caches/cache.h"

/* The hooks of `inner` in lots of cache_env.lot sequences; dumps are left out. */
struct cache_ops lots_of(const struct cache_ops *inner);

#endif
