/* quant.h - what a config (or the file beside it) says about how its weights are stored. */
#ifndef KVPROOF_CALC_QUANT_H
#define KVPROOF_CALC_QUANT_H

#include "calc/json.h"

#include <kvproof/model.h>

/* quantization_config, quantization or compression_config of `j` into m->quant; nothing happens when there is none.
 * m's layers are known: lists of modules are matched with their names, and where layers differ in what they leave
 * as it is, classes are split. KVP_ENOTSUP names an unknown method, and a list that covers a part of what is counted
 * as one (some of a layer's q, k, v and o). */
kvp_err kvp_quant_read(struct kvp_model *m, const struct kvp_json *j);
/* The whole object of a side file (quantize_config.json, hf_quant_config.json). */
kvp_err kvp_quant_side(struct kvp_model *m, const struct kvp_json *j);

/* quant_scope.c. Names of modules, or patterns of them: "re:..." is a regular expression from the start of the name on
 * (compressed-tensors), one with * or ? a glob (modelopt), any other a run of whole words of it (transformers). */
struct quant_names;
kvp_err quant_names_new(struct quant_names **out, const struct kvp_json *j);
void quant_names_free(struct quant_names *n);
/* `list` (an array of strings, or an object's keys); NULL is empty. `key`: what it is, for messages. */
kvp_err quant_names_add(struct quant_names *n, const char *key, const json_t *list);
kvp_err quant_names_add_one(struct quant_names *n, const char *key, const char *name);
/* After the last name was added. Does a name stand for all of layer i's matrices of this role? Some of them: KVP_ENOTSUP. */
kvp_err quant_covers(struct quant_names *n, const struct kvp_model *m, uint32_t layer, enum kvp_role role, bool *covered);
/* The same of the embedding or the head. */
bool quant_covers_whole(const struct quant_names *n, enum kvp_role role);
/* Roles that a layer of this class has matrices of. */
unsigned quant_roles(const struct kvp_layer_class *c);

#endif
