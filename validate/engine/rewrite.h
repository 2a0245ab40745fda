/* rewrite.h - techniques that change the model itself: what layers mix by, and which of them own keys and values, and how
 * wide these are.
 *
 * Written from docs/techniques/{gqa,mqa,mla,cla,yoco,lorc}.md and the papers that they name. */
#ifndef KVPROOF_ENGINE_REWRITE_H
#define KVPROOF_ENGINE_REWRITE_H

#include "validate/engine/xc.h"
#include <kvproof/model.h>
#include <kvproof/spec.h>

/* A model as the stack leaves it. `m` points into this struct and into the caller's model. */
struct rewritten {
    struct kvp_model m;
    struct kvp_layer_class *cls; /* [m.layers], one a layer */
    uint32_t *class_of;
    uint32_t last_only_from; /* a prefill runs the layers from here on for each sequence's last token; m.layers: none */
    struct xc xc;                /* xc-cache: blocks beside the layers */
};

/* The techniques on the MIXER, SHARE and RANK axes, applied to a copy of `m`. KVP_EINPUT: a parameter that does not suit
 * the model; KVP_ENOTSUP: a technique that is not here. rewrite_free() it on success. */
kvp_err rewrite_model(struct rewritten *out, const struct kvp_model *m, const struct kvp_stack *s, struct kvp_error *e);
void rewrite_free(struct rewritten *r); /* zeroed is fine */

/* rewrite_lorc.c. Ranks may follow the weights: every layer has the largest then until conditions, [layers] as of
 * weights_conditions(), say better. */
kvp_err rewrite_lorc(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e);
bool rewrite_wants_conditions(const struct kvp_stack *s);
void rewrite_ranks(struct rewritten *r, const struct kvp_stack *s, const double *conditions);

/* The parameters that a technique of these axes reads, separated by spaces; KVP_ENOTSUP: it is not here. */
kvp_err rewrite_params(const char **out, const struct kvp_spec *spec, struct kvp_error *e);

#endif
