/* pages.h - block tables: which pages of a pool belong to which sequence.
 *
 * A pool of B*n pages serves a layer's tensor; the table i32 [B, n] says which page holds the i-th block
 * of a sequence. Layers with the same n share one table (METADATA). The order of the pages is shuffled
 * from a fixed seed, so that a kernel that ignores the table is wrong from the first page on. */
#ifndef KVPROOF_CACHES_PAGES_H
#define KVPROOF_CACHES_PAGES_H

#include "validate/caches/cache.h"

struct pages;

/* `per_layer[layer]`: pages of a sequence; 0: the layer has no table. KVP_ERANGE when a page number
 * does not fit the table's 32 bits. */
kvp_err pages_open(struct pages **out, const struct cache_env *env, const uint64_t *per_layer,
                   struct kvp_error *e);
/* The same; `beside` (may be NULL) has tables that are used again where they fit, and must outlive this. The first `shared`
 * pages of sequence 0 are those of all: the pool has so many fewer for each other sequence. */
kvp_err pages_open_beside(struct pages **out, const struct cache_env *env, const uint64_t *per_layer,
                          const struct pages *beside, uint64_t shared, struct kvp_error *e);
void pages_close(struct pages *p); /* NULL is fine */

/* The device table of a layer and its row length; a NULL buf when the layer has none. */
struct kb_span pages_table(const struct pages *p, uint32_t layer, uint64_t *stride);
/* The page that holds block `i` of sequence b. */
uint64_t pages_at(const struct pages *p, uint32_t layer, uint64_t b, uint64_t i);

#endif
