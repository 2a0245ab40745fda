/* rewrite.h - for techniques that change the model: its layers one by one. */
#ifndef KVPROOF_CALC_REWRITE_H
#define KVPROOF_CALC_REWRITE_H

#include <kvproof/model.h>

/* Every layer of `m` in order through `edit`, then grouped again; `to` is the caller's. */
kvp_err model_edit(struct kvp_model *m, void (*edit)(struct kvp_layer_class *c, uint32_t layer, void *to), void *to, struct kvp_error *e);

/* How many layers mix by `mixer`. */
uint32_t model_mixers(const struct kvp_model *m, enum kvp_mixer mixer);

/* One more weight for the whole model; KVP_ENOTSUP when there is no room for it. */
kvp_err model_extra(struct kvp_model *m, struct kvp_extra x, struct kvp_error *e);

#endif
