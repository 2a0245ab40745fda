/* store.h - who owns the bytes of rows that are written one by one, whole or as the `kv` technique encodes them:
 * slots per sequence, in a strip or in pages.
 *
 * A store keeps, for each layer, K and V rows of `kv_heads` heads in slots [0, used), and beside each
 * slot a score when the technique asks for one. The technique on the STORE axis decides how the slots
 * are allocated:
 *   (none)      one strip per tensor, allocated at open for exactly the slots the run will use
 *   contiguous  one strip per tensor, allocated at open for min(max_len, cap) slots
 *   growing     exactly the used slots; one more token allocates a new tensor, copies, frees the old
 *               (K, then V, then scores, layer by layer), as concatenating caches do
 *   paged       pages of `block` slots [pages, kv_heads, block, head_dim] from a pool per tensor and layer,
 *               allocated at open for the run's slots rounded up to whole pages per sequence; a table i32
 *               [batch, pages per sequence] (METADATA), one for each different number of pages per
 *               sequence and shared by the layers that have it; pages handed out in a shuffled order;
 *               scores are not paged
 * Scales and shifts of encoded rows lie in the rows' own slots, whatever these are; a tensor's one scale is there from
 * the start. K and V are tagged CACHE, scores, scales and tables METADATA. */
#ifndef KVPROOF_STORE_H
#define KVPROOF_STORE_H

#include "validate/caches/cache.h"

struct store;

/* What the technique on the STORE axis means to a cache, also to one that lays out its own tensors. */
struct store_plan {
    uint64_t tokens; /* what capacities are worked out for: the run's context, or max_len */
    bool keeps;      /* everything is allocated at open and kept (contiguous) */
    bool grows;      /* rows are added by reallocation (growing) */
    uint32_t block;  /* tokens of a page; 0: strips */
};

/* The parameters that the store of this technique reads, as in cache_ops; KVP_ENOTSUP: no such store. */
kvp_err store_params(const char **out, const struct kvp_spec *spec, struct kvp_error *e);

/* KVP_EINPUT naming the parameter that does not suit the run; KVP_ENOTSUP for an unknown store. */
kvp_err store_plan(struct store_plan *out, const struct cache_env *env, struct kvp_error *e);

/* `cap[layer]`: the most slots per sequence that the technique ever uses in a layer (UINT64_MAX: one
 * for each token). `score`: the format of a score beside each slot of each kv head, or NULL. */
kvp_err store_open(struct store **out, const struct cache_env *env, const uint64_t *cap,
                   const enum kvp_format *score, struct kvp_error *e);
/* The same in full. */
struct store_shape {
    const uint64_t *cap;          /* [layers], as above */
    const uint32_t *heads;        /* [layers] heads of rows in each layer, which may be 0; NULL: the kv heads */
    const enum kvp_format *score;
    bool fixed;                   /* strips have `cap` slots however short the run is */
    const struct store *beside;   /* another store of this run: pages of as many blocks share its tables; NULL: none */
};
kvp_err store_open_as(struct store **out, const struct cache_env *env, const struct store_shape *shape, struct kvp_error *e);
void store_close(struct store *s); /* NULL is fine */
kvp_err store_reset(struct store *s, struct kvp_error *e);

/* Make room for slots [0, used) of a layer; growing stores allocate and copy here (op GROW). */
kvp_err store_reserve(struct store *s, uint32_t layer, uint64_t used, struct kvp_error *e);

/* The same in two stores of one run, part by part: K of both, then V of both. */
kvp_err store_reserve_both(struct store *a, uint64_t used_a, struct store *b, uint64_t used_b, uint32_t layer, struct kvp_error *e);

/* Where a layer's rows are now; valid until the next reserve or reset. */
void store_view(const struct store *s, uint32_t layer, struct kb_kv *k, struct kb_kv *v);
/* The same with sequence `first` as number 0. */
void store_view_from(const struct store *s, uint32_t layer, uint64_t first, struct kb_kv *k, struct kb_kv *v);

/* Scores of a layer, [batch, kv_heads, *stride]. */
struct kb_span store_scores(const struct store *s, uint32_t layer, uint64_t *stride);

/* Where slot `slot` of head `head` of sequence `b` begins in the buffer of K, V or the scores. */
enum store_part {
    STORE_K, STORE_V, STORE_SCORE, STORE_ENCODED, /* those that every store may have; the rest only with `kv` */
    STORE_K_SCALE = STORE_ENCODED, STORE_K_SHIFT, STORE_V_SCALE, STORE_V_SHIFT, STORE_PARTS
};
struct kb_span store_row(const struct store *s, uint32_t layer, enum store_part part, uint64_t b,
                         uint32_t head, uint64_t slot);

/* What a number of K or V is stored as. */
enum kvp_format store_format(const struct store *s, enum store_part part);

/* Host copy of a part of a layer, to be freed by the caller; store_row's offsets hold in it. */
kvp_err store_fetch(void **out, const struct store *s, uint32_t layer, enum store_part part,
                    struct kvp_error *e);

/* Bytes of allocated slots that hold no token are set to NaN patterns (0xff); for eng_poison. */
kvp_err store_poison_unused(struct store *s, uint32_t layer, uint64_t used, struct kvp_error *e);
/* The K and V row of one slot become NaN; KVP_ENOTSUP where its format has none. */
kvp_err store_poison_slot(struct store *s, uint32_t layer, uint64_t b, uint32_t head, uint64_t slot,
                          struct kvp_error *e);

#endif
