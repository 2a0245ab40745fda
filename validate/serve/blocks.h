/* blocks.h - who holds which block of a pool, and which blocks can be found again by what they hold.
 *
 * As in vLLM's v1/core/block_pool.py: a block has a count of holders; without any it waits at the end of a queue, its
 * content still there, until it is the oldest and is taken for something else. A whole block is found by a hash of its
 * tokens and of all before them; the tokens themselves are compared too, so that a hash in common is no hit. */
#ifndef KVPROOF_SERVE_BLOCKS_H
#define KVPROOF_SERVE_BLOCKS_H

#include <kvproof/error.h>

#include <stdint.h>

enum { BLOCKS_NONE = -1 };
struct blocks;

/* `n` blocks of `tokens`. */
kvp_err blocks_open(struct blocks **out, uint32_t n, uint32_t tokens, struct kvp_error *e);
void blocks_close(struct blocks *p); /* NULL is fine */

uint32_t blocks_free(const struct blocks *p); /* without holders */
uint64_t blocks_evicted(const struct blocks *p); /* contents that were given up */
uint32_t blocks_holders(const struct blocks *p, uint32_t block);

/* The oldest free block, its content given up; there must be one. */
uint32_t blocks_take(struct blocks *p);
void blocks_hold(struct blocks *p, uint32_t block); /* one more holder */
void blocks_drop(struct blocks *p, uint32_t block); /* one fewer */

/* The hash of a block's tokens behind those that `before` stands for (0: none). */
uint64_t blocks_hash(const struct blocks *p, uint64_t before, const int32_t *tokens);
/* The block with these tokens behind `before`, or BLOCKS_NONE. */
int64_t blocks_find(const struct blocks *p, uint64_t before, const int32_t *tokens);
/* From now on it is found, unless another one is already. */
void blocks_name(struct blocks *p, uint32_t block, uint64_t before, const int32_t *tokens);

#endif
