/* stores.h - what the stores share among themselves: one file and one row of store.c's table each */
#ifndef KVPROOF_CACHES_STORES_H
#define KVPROOF_CACHES_STORES_H

#include "validate/caches/kv.h"
#include "validate/caches/layout.h"
#include "validate/caches/pages.h"
#include "validate/caches/store.h"

struct store_layer {
    struct led_mem mem[STORE_PARTS];
    uint64_t slots[STORE_PARTS]; /* allocated for each sequence and head, beside those that all share; in pages: whole pages */
    struct led_mem one_scale[2]; /* of the whole K, of the whole V */
};

struct store {
    const struct cache_env *env;
    const struct store_ops *ops;
    struct store_plan plan;
    bool scored, fixed;
    const struct store *beside; /* whose tables this one's pages may share; NULL: none */
    enum kvp_format score_format;
    struct kv_code code[2]; /* of K, of V */
    uint64_t *cap; /* [layers] */
    uint32_t *heads; /* [layers] */
    struct store_layer *layer;
    struct pages *pages; /* NULL: strips */
};

struct store_ops {
    const char *name; /* of the technique; NULL: no technique on the axis */
    const char *params; /* that it reads, separated by spaces; NULL: none */
    kvp_err (*plan)(struct store_plan *out, const struct kvp_spec *spec, const struct cache_env *env,
                    struct kvp_error *e);
    kvp_err (*open)(struct store *s, struct kvp_error *e); /* what there is from the start */
    /* (optional) Slots [0, used) of one part; NULL: all are there from the start. */
    kvp_err (*reserve)(struct store *s, uint32_t layer, int part, uint64_t used, struct kvp_error *e);
    void (*reset)(struct store *s); /* (optional) back to what open left */
};

extern const struct store_ops store_contiguous, store_growing, store_paged;

/* Heads and width of a part of a layer. */
struct row_shape store_shape(const struct store *s, uint32_t layer, int part);
/* Heads of rows that a layer stores. */
uint32_t store_heads(const struct store *s, uint32_t layer);
/* Bytes of one slot of one head; 0: there is no such part. */
uint64_t store_row_bytes(const struct store *s, uint32_t layer, int part);
/* Allocate `slots` slots of one part into *out; the layer is left alone. */
kvp_err store_alloc(const struct store *s, uint32_t layer, int part, uint64_t slots, struct led_mem *out,
                    struct kvp_error *e);
/* The same for `slots` slots of all sequences together. */
kvp_err store_alloc_all(const struct store *s, uint32_t layer, int part, uint64_t slots, struct led_mem *out,
                        struct kvp_error *e);
/* Every layer's parts as strips of min(plan.tokens, cap) slots. */
kvp_err store_open_strips(struct store *s, struct kvp_error *e);

#endif
