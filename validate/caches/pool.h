/* pool.h - keys and values of many sequences in one pool of blocks, for serving: who owns which block is the scheduler's
 * business (validate/serve/), a pass is told (Kwon et al. 2023, arXiv:2309.06180, section 4.1).
 *
 * For each layer K and V [blocks, kv_heads, block, head_dim], tagged CACHE, whole or as the `kv` technique encodes them, with
 * scales in their rows' slots, tagged METADATA; a table i32 [seqs, longest], tagged METADATA,
 * which holds a pass's sequences in its first rows. Layers with a window keep every token and do not look at old ones. */
#ifndef KVPROOF_CACHES_POOL_H
#define KVPROOF_CACHES_POOL_H

#include "validate/caches/cache.h"

struct pool_shape {
    uint64_t blocks;
    uint32_t block;         /* tokens of one */
    uint64_t seqs, longest; /* sequences of a pass and blocks of a sequence, at most */
    uint64_t rows;          /* new tokens of a pass, at most */
};

/* A sequence in a pass: `rows` new tokens behind `before` stored ones, and the blocks for all of them. */
struct pool_seq {
    uint64_t rows, before;
    const uint32_t *block;
    uint64_t blocks;
};

extern const struct cache_ops cache_pool;

/* The next passes' sequences, in the order of their rows. */
kvp_err pool_begin(struct cache *c, const struct pool_seq *seq, uint64_t n, struct kvp_error *e);
/* Every slot of a block becomes NaN, in all layers; for tests. */
kvp_err pool_poison(struct cache *c, uint32_t block, struct kvp_error *e);

#endif
