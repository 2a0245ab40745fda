/* shared.h - what several families read the same way. */
#ifndef KVPROOF_CALC_FAMILIES_SHARED_H
#define KVPROOF_CALC_FAMILIES_SHARED_H

#include "calc/family.h"

extern const struct kvp_rule kvp_rules_layer_norm[]; /* spellings of the norm's epsilon */

/* layer_types, else every `pattern`-th layer is full and the others slide. For KVP_WINDOW_HOOK. */
kvp_err kvp_read_slides(struct kvp_reader *r, uint64_t window_absent, uint32_t pattern);
/* A rotary width in elements (rotary_dim): harmless for sizes. */
kvp_err kvp_read_rotary_dim(const struct kvp_reader *r, const char *key, uint32_t absent);
/* Every layer's flags, after a hook changed the prototype: windows stay. */
void kvp_spread(struct kvp_reader *r);
/* An encoder of `count` layers like *c. */
kvp_err kvp_set_encoder(struct kvp_reader *r, uint32_t count, const struct kvp_layer_class *c);

/* Granite's multipliers, none of which is a size: of the embedding, of what is added to the residual, of scores, and what logits
 * are divided by. */
kvp_err kvp_read_multipliers(struct kvp_reader *r);

/* The share of a head that rotates where the config does not say one. */
kvp_err kvp_rotary_absent(struct kvp_reader *r, double part);

#endif
