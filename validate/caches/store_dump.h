/* store_dump.h - what a store holds of a layer, as dump.h's lines: rows or their codes, and what lies beside them. */
#ifndef KVPROOF_CACHES_STORE_DUMP_H
#define KVPROOF_CACHES_STORE_DUMP_H

#include "validate/caches/store.h"

/* The slot of the i-th row; NULL: i itself. */
typedef uint64_t store_slot(const void *self, uint32_t layer, uint64_t i);

/* k, v, then scales and shifts where there are any, [batch, heads, n, values of a row]. Blocks, and codes without a sign, are
 * the bytes that they are. */
kvp_err store_dump(const struct store *s, const struct cache_env *env, uint32_t layer, uint64_t n, store_slot *slot, const void *self,
                   FILE *f, struct kvp_error *e);

#endif
