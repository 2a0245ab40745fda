/* xc.h - xc-cache: a decoder of whose prompt only the question passes through it; the context was encoded before, and a few cross
 * blocks read it (docs/techniques/xc-cache.md; Monteiro et al. 2024, arXiv:2404.15420, section 3).
 *
 * The encoder is the decoder without its blocks (XC-LlamaDec): an engine of its own runs the context and is gone when the
 * prefill begins. Where encoder_width is not the model's there is no such encoder, and its output is drawn at random. */
#ifndef KVPROOF_ENGINE_XC_H
#define KVPROOF_ENGINE_XC_H

#include "validate/ledger.h"
#include <kvproof/model.h>
#include <kvproof/spec.h>

struct eng;
struct eng_options;
struct pass;
struct rewritten;

struct xc {
    uint32_t blocks, stride, inner, width; /* blocks 0: the stack has no such technique; width: the encoder's */
    bool hidden;               /* what is stored: its output, or keys and values for each block */
    uint64_t context, question; /* tokens of the prompt */
    uint32_t heads;            /* of a block */
    struct led_mem rows;       /* hidden: [batch, context, width] */
    struct led_mem *k, *v;     /* else [blocks][batch, heads, context, inner / heads] */
    struct led_mem kv;         /* f32 [batch, context, 2 inner]: keys and values as they are projected again */
    struct led_mem unpacked;   /* f32, up to 1024 rows of the output, where it is not stored in f32 */
    struct led_mem q_out, mlp, scratch, inv_freq, positions;
    int32_t *ids, *prompt;     /* what `rows` are of, [batch, context]; [batch, question] */
    bool encoded;
};

/* What the stack asks of the model; it changes no layer. KVP_EINPUT: a parameter that does not suit it. */
kvp_err rewrite_xc(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e);

/* The prompt becomes the question and layers get their blocks. KVP_EINPUT: no context is left. */
kvp_err xc_place(struct eng *g, struct kvp_error *e);
kvp_err xc_open(struct eng *g, struct kvp_error *e);
void xc_close(struct eng *g);

/* The context of tokens [batch, context + question] is encoded and stored, unless it is the one that is; *out: the question. */
kvp_err xc_begin(struct eng *g, const int32_t *tokens, const int32_t **out, struct kvp_error *e);

/* The block behind a layer, if there is one. */
kvp_err xc_block(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e);

/* For the poison tests: what is stored of the context's `token` of sequence 0 (of kv head 0, for the block of `layer`). */
kvp_err xc_poison(struct eng *g, uint32_t layer, uint64_t token, struct kvp_error *e);

#endif
