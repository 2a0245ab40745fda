/* moe.h - what families with experts share: the keys that say how many, how wide, and which layers. */
#ifndef KVPROOF_CALC_FAMILIES_MOE_H
#define KVPROOF_CALC_FAMILIES_MOE_H

#include "calc/family.h"

extern const struct kvp_rule kvp_rules_moe[];

/* Experts, experts per token and their width (the class's FFN width where no key gives one) into `c`, whose
 * dense width becomes 0. KVP_EINPUT when a count is missing, or a token goes to more experts than there are. */
kvp_err moe_read(const struct kvp_reader *r, struct kvp_layer_class *c);
/* Does topk_method add a number an expert to the router's scores (noaux_tc)? `absent`: what no method means. */
kvp_err moe_router_bias(const struct kvp_reader *r, bool absent, bool *out);
/* n_shared_experts of the experts' width. */
kvp_err moe_shared(const struct kvp_reader *r, struct kvp_layer_class *c);
/* Is layer i one with experts? first_k_dense_replace, moe_layer_freq (a number or a list), mlp_layer_types,
 * decoder_sparse_step with mlp_only_layers: whatever of these the config has must agree that it is. */
kvp_err moe_is_sparse(const struct kvp_reader *r, uint32_t i, bool *sparse);
/* KVP_EINPUT unless the config says which layers are dense: for classes whose default is not "none". */
kvp_err moe_need_layout(const struct kvp_reader *r);
/* Layer i gets the feed-forward of `from`, and keeps its mixer. */
void moe_set_ffn(struct kvp_layer_class *c, const struct kvp_layer_class *from);
/* moe_set_ffn() on every layer that moe_is_sparse(). */
kvp_err moe_layers(struct kvp_reader *r, const struct kvp_layer_class *from);

/* num_nextn_predict_layers layers like the last one, each with eh_proj and three norms; `copies`: they repeat
 * the embedding and the head. */
kvp_err moe_mtp(struct kvp_reader *r, bool copies);

/* Element i of a list of numbers under `key`; KVP_EINPUT when it is not one from 0 to `most`. */
kvp_err moe_number_at(const struct kvp_reader *r, const char *key, const json_t *list, uint32_t i, uint32_t most, uint32_t *out);

#endif
