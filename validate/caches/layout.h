/* layout.h - what a layer's rows look like, and which layer stores them */
#ifndef KVPROOF_CACHES_LAYOUT_H
#define KVPROOF_CACHES_LAYOUT_H

#include "validate/caches/cache.h"

/* One tensor of a layer: heads of `dim` elements a token; heads 0: the layer stores none. */
struct row_shape {
    uint32_t heads, dim;
};

struct layer_rows {
    struct row_shape k, v; /* of MLA's latent form: the latent, and the rotary key that all heads share */
    bool latent;
};

struct layer_rows layer_rows(const struct cache_env *env, uint32_t layer);

/* Does the stack store MLA's keys and values of every head (mla:expanded)? */
bool rows_expanded(const struct kvp_stack *s);

/* The layer whose rows `layer` attends to: itself, or with no_kv the nearest earlier one of its kind that stores some.
 * KVP_EINPUT: there is none. */
kvp_err rows_owner(uint32_t *out, const struct kvp_model *m, uint32_t layer, struct kvp_error *e);

/* Is the layer attention over rows that a pass can add to: scores may be capped, sloped and have a sink? */
bool cache_extends(const struct kvp_model *m, const struct kvp_layer_class *c);

/* Is it softmax(scale q k) v, whoever stores k and v, and nothing besides? */
bool cache_is_softmax(const struct kvp_model *m, const struct kvp_layer_class *c);

#endif
