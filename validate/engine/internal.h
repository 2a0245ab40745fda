/* internal.h - the engine's own state, shared by engine.c (life, runs, clock) and forward.c (layers). */
#ifndef KVPROOF_ENGINE_INTERNAL_H
#define KVPROOF_ENGINE_INTERNAL_H

#include "kernels/ops.h"
#include "validate/caches/cache.h"
#include "validate/caches/cross.h"
#include "validate/engine/engine.h"
#include "validate/engine/mixer.h"
#include "validate/engine/passes.h"
#include "validate/engine/rewrite.h"
#include "validate/engine/shelf.h"
#include "validate/engine/weights.h"

enum {
    MLP_ROWS = 1024,           /* rows of the feed-forward that are alive at once */
    LOGIT_ROWS = 64,           /* rows of logits that are alive at once */
    GEMM_SCRATCH = 32 << 20    /* bytes, at most, for unpacking weights */
};

/* The largest of each dimension over the layer classes, in elements. */
struct widest {
    uint64_t qkv, out, heads, mlp;
    uint64_t low_rank, expanded, absorbed, experts, chosen, expert_up, shared;
};

struct eng {
    const struct kvp_model *given; /* the caller's */
    const struct kvp_model *m; /* own.m: the stack has changed it */
    struct rewritten own;
    struct kvp_stack stack;
    struct eng_options o;
    struct kb_dev *dev;
    struct ledger led;
    struct wt_coding coding;
    struct weights w;
    struct shelf_key shelved; /* its m is NULL: the weights go when the engine does */
    const struct cache_ops *cache_ops;
    struct cache_ops lots_ops; /* cache_ops, where the batch is prefilled in lots */
    struct cache *cache;
    struct cache_env env;
    struct widest widest;
    struct passes passes;
    uint64_t rows; /* N, of the widest pass, the encoder's too */
    uint64_t decoder_rows; /* of the widest but the encoder's */
    /* activations, all f32 but the ids, for N rows */
    struct led_mem x, h, qkv, out, lse, mlp, logits, tokens, positions;
    struct led_mem input_codes, input_scales; /* W8A8: of the product at hand */
    struct led_mem scratch, inv_freq;
    struct led_mem slopes; /* ALiBi: f32 [heads] */
    struct led_mem low_rank, expanded, absorbed;   /* MLA */
    struct led_mem router, routed, expert_up;      /* experts: logits; ids, then weights; what they are wide */
    bool expand; /* MLA stores k and v of every head */
    struct mixers mix;  /* recurrent layers */
    struct cross cross; /* keys of an encoder's output */
    int32_t *source;    /* [batch, encoder_tokens], once `sourced` */
    bool sourced, encoding; /* what runs is the encoder: its kernels count as one op */
    int32_t *host_ids, *host_tokens; /* [rows] */
    uint64_t position;  /* tokens seen per sequence */
    bool timed;
    int phase;
    struct eng_op_time op[ENG_PHASES][KVP_OPS];
    struct eng_kernel kernel[ENG_PHASES][ENG_KERNELS];
    uint64_t forward_ns[ENG_PHASES];
    uint64_t calls[KVP_OPS];
    /* (optional) Called before a layer's matrices of `role` are multiplied with x [rows], in f32 `stride` apart. */
    kvp_err (*tap)(void *self, struct eng *from, enum wt_role role, uint32_t layer, struct kb_span x, uint64_t stride, uint64_t rows,
                   struct kvp_error *e);
    void *tap_self;
};

/* One forward pass: `tokens` per sequence from `position` on, whose ids and positions are on the device. */
struct pass {
    uint64_t tokens, rows; /* rows = batch * tokens */
    uint64_t position;
    bool prefill;          /* all of every prompt at once */
    bool extend;           /* a part of some prompts */
    uint64_t first, batch; /* sequences [first, first + batch) */
};

/* cache_env.run and .copy: `self` is the engine. */
kvp_err eng_run(void *self, enum kvp_op op, enum kb_kernel k, const void *args, struct kvp_error *e);
kvp_err eng_copy(void *self, enum kvp_op op, struct kb_span dst, uint64_t dst_pitch, struct kb_span src,
                 uint64_t src_pitch, uint64_t bytes, uint64_t rows, struct kvp_error *e);

/* Ids and positions of the pass to the device. */
kvp_err eng_upload(struct eng *g, const int32_t *tokens, const struct pass *p, struct kvp_error *e);

/* cache_env.rope: the rows of the pass at hand. */
kvp_err eng_rope(void *self, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);

/* Embedding and all layers; leaves the residual in g->x. With `last_only` a prefill may go on with each sequence's last
 * token alone: *p then says so. */
kvp_err eng_layers(struct eng *g, struct pass *p, bool last_only, struct kvp_error *e);

/* Final norm and head for each sequence's last row -> `last` ([batch, vocab], may be NULL), and when `all`
 * is not NULL for every row -> all [rows, vocab]. */
kvp_err eng_head(struct eng *g, const struct pass *p, float *all, float *last, struct kvp_error *e);

/* RoPE's inverse frequencies, scaling applied, [head_dim / 2]. Not for KVP_ROPE_OTHER. */
void eng_inv_freq(const struct kvp_model *m, uint32_t head_dim, float *out);

/* The same for layers with a window that rotate by a base of their own. */
void eng_window_freq(const struct kvp_model *m, uint32_t head_dim, float *out);

/* What cosines and sines are multiplied by (YaRN); 1 where nothing says so. */
float eng_rope_amplitude(const struct kvp_model *m);

/* How many elements of a head rotate. */
uint32_t eng_rotary_dim(const struct kvp_model *m, const struct kvp_layer_class *c);

#endif
