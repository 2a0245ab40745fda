/* store.h - who owns the bytes of unquantized rows: slots per sequence, in a strip or in pages.
 *
 * A store keeps, for each layer, K and V rows of `kv_heads` heads in slots [0, used). The technique
 * on the STORE axis decides how the slots are allocated:
 *   (none)      one strip per tensor, allocated at open for exactly the slots the run will use
 *   contiguous  one strip per tensor, allocated at open for min(max_len, cap) slots
 *   growing     exactly the used slots; one more token allocates a new tensor, copies, frees the old
 *               (K, then V, layer by layer), as concatenating caches do
 *   paged       pages of `block` slots [pages, kv_heads, block, head_dim] from a pool per tensor and layer,
 *               allocated at open for the run's slots rounded up to whole pages per sequence; a table i32
 *               [batch, pages per sequence] (METADATA), one for each different number of pages per
 *               sequence and shared by the layers that have it; pages handed out in a shuffled order */
#ifndef KVPROOF_STORE_H
#define KVPROOF_STORE_H

#include "validate/caches/cache.h"

struct store;

/* `slots[layer]`: the most slots that layer will ever use per sequence in this run (the technique's
 * budget, at most the context). `cap[layer]`: its limit in any run (UINT64_MAX: none). */
kvp_err store_open(struct store **out, const struct cache_env *env, const uint64_t *slots, const uint64_t *cap, struct kvp_error *e);
void store_close(struct store *s);
kvp_err store_reset(struct store *s, struct kvp_error *e);
/* Make room for slots [0, used) of a layer; growing stores allocate and copy here (op GROW). */
kvp_err store_reserve(struct store *s, uint32_t layer, uint64_t used, struct kvp_error *e);
/* Where a layer's rows are now; valid until the next reserve or reset. */
void store_view(struct store *s, uint32_t layer, struct kb_kv *k, struct kb_kv *v);
/* Bytes of allocated slots that hold no token are set to NaN patterns (0xff); for eng_poison. */
kvp_err store_poison_unused(struct store *s, uint32_t layer, uint64_t used, struct kvp_error *e);
kvp_err store_poison_slot(struct store *s, uint32_t layer, uint32_t b, uint32_t head, uint64_t slot, struct kvp_error *e);

#endif
