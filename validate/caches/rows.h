/* rows.h - unquantized rows of the newest tokens, straight or as a ring: dense and window caches.
 *
 * A layer with window w keeps min(tokens, w) slots, token t in slot t mod w; a layer without keeps
 * every token in slot t. A decode step writes the new row first and then attends to all slots: the
 * softmax does not mind their order. Kept: the last w positions, the same for every head. */
#ifndef KVPROOF_CACHES_ROWS_H
#define KVPROOF_CACHES_ROWS_H

#include "validate/caches/cache.h"

/* These fill a technique's struct cache_ops. */
kvp_err rows_open(struct cache **out, const struct cache_env *env, struct kvp_error *e);
void rows_close(struct cache *c);
kvp_err rows_reset(struct cache *c, struct kvp_error *e);
kvp_err rows_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);
kvp_err rows_extend(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);
kvp_err rows_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);
kvp_err rows_dump_kept(struct cache *c, FILE *f, struct kvp_error *e);
kvp_err rows_dump_cache(struct cache *c, FILE *f, struct kvp_error *e);
kvp_err rows_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e);

/* For caches whose rows are made of something else: the newest rows of x, its k and v a row wide, into their slots; */
kvp_err rows_append(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);
/* a layer's window (0: none), whose slots are token mod window; */
uint64_t rows_window(const struct cache *c, uint32_t layer);
/* and where its rows are now. */
void rows_view(const struct cache *c, uint32_t layer, struct kb_kv *k, struct kb_kv *v);

#define ROWS_OPS                                                                                        \
    .any_attention = true,                                                                              \
    .open = rows_open, .close = rows_close, .reset = rows_reset, .prefill = rows_prefill,               \
    .extend = rows_extend, .decode = rows_decode, .dump_kept = rows_dump_kept, .dump_cache = rows_dump_cache, .poison = rows_poison

#endif
