/* encdec.h - models with an encoder: its pass over its own tokens, and the decoder's attention over what it yields
 * (Vaswani et al. 2017, arXiv:1706.03762, section 3; Lewis et al. 2020, arXiv:1910.13461, section 2.1).
 *
 * The encoder's layers are numbered behind the decoder's. Its output lives until every layer of the decoder has made keys
 * and values of it, which is before the decoder's first layer runs. */
#ifndef KVPROOF_ENGINE_ENCDEC_H
#define KVPROOF_ENGINE_ENCDEC_H

#include "validate/engine/internal.h"

/* KVP_ENOTSUP: not an architecture that is run here. */
kvp_err encdec_check(const struct kvp_model *m, struct kvp_error *e);
/* What the options ask of the encoder; KVP_EINPUT naming what does not suit it. */
kvp_err encdec_check_options(const struct kvp_model *m, const struct eng_options *o, struct kvp_error *e);

kvp_err encdec_open(struct eng *g, struct kvp_error *e); /* nothing for a model without an encoder */
void encdec_close(struct eng *g);

/* The source's tokens through the encoder, then keys and values of its output for every layer. */
kvp_err encdec_encode(struct eng *g, struct kvp_error *e);

/* An encoder's self-attention over the rows of the pass: q, k and v in g->qkv, `stride` f32 elements a row -> g->out. */
kvp_err encdec_attend(struct eng *g, uint32_t layer, const struct pass *p, uint64_t stride, struct kvp_error *e);

/* A decoder's layer reads the encoder's output. */
kvp_err encdec_cross(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e);

#endif
