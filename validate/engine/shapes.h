/* shapes.h - what tensors a model consists of, piece by piece, and what files call them. Tables only:
 * a family of models is a list of names, a tensor is a row. */
#ifndef KVPROOF_SHAPES_H
#define KVPROOF_SHAPES_H

#include "validate/engine/weights.h"

/* One tensor of the model as most files hold it; several make up a role's buffer, in this order. */
enum wt_piece {
    WP_EMBED, WP_POSITION, WP_FINAL_NORM, WP_FINAL_NORM_BIAS, WP_HEAD, WP_HEAD_BIAS, WP_EMBED_NORM, WP_EMBED_NORM_BIAS,
    WP_ATTN_NORM, WP_ATTN_NORM_BIAS, WP_Q, WP_Q_GATE, WP_K, WP_V, WP_Q_BIAS, WP_K_BIAS, WP_V_BIAS, WP_Q_NORM, WP_K_NORM,
    WP_O, WP_O_BIAS, WP_MLP_NORM, WP_MLP_NORM_BIAS, WP_GATE, WP_UP, WP_GATE_BIAS, WP_UP_BIAS, WP_DOWN,
    WP_DOWN_BIAS, WP_POST_ATTN_NORM, WP_POST_MLP_NORM, WP_SINKS, WP_Q_A, WP_Q_A_BIAS, WP_Q_A_NORM, WP_Q_B, WP_KV_A, WP_KV_A_BIAS,
    WP_KV_A_NORM, WP_KV_B, WP_ROUTER, WP_ROUTER_BIAS, WP_EXPERT_UP, WP_EXPERT_UP_BIAS, WP_EXPERT_DOWN, WP_EXPERT_DOWN_BIAS,
    WP_SHARED_SCALE, WP_SHARED_GATE, WP_SHARED_UP, WP_SHARED_DOWN,
#define REC_X(name) WP_REC_##name,
    REC_MAP(REC_X)
#undef REC_X
    WP_DRAWN, /* what follows is no file's, and never drawn by itself: it is made of other pieces */
    WP_K_UP = WP_DRAWN, WP_V_UP, WP_K_UP_BIAS, WP_V_UP_BIAS,
    /* whole models */
    WP_CROSS_FIRST, WP_ENC_POSITION = WP_CROSS_FIRST, WP_ENC_EMBED_NORM, WP_ENC_EMBED_NORM_BIAS,
    /* layers that read an encoder's output (cross_shapes.c) */
    WP_CROSS_LAYER, WP_CROSS_NORM = WP_CROSS_LAYER, WP_CROSS_NORM_BIAS, WP_CROSS_Q, WP_CROSS_Q_BIAS, WP_CROSS_K, WP_CROSS_V,
    WP_CROSS_K_BIAS, WP_CROSS_V_BIAS, WP_CROSS_O, WP_CROSS_O_BIAS, WP_BLOCK_NORM, WP_BLOCK_NORM_BIAS, WP_BLOCK_GATE, WP_BLOCK_UP,
    WP_BLOCK_DOWN,
    WP_PIECES
};

/* Does the piece belong to a layer? */
static inline bool wt_of_layer(enum wt_piece p)
{
    return p >= WP_CROSS_LAYER || (p >= WP_ATTN_NORM && p < WP_CROSS_FIRST);
}

enum wt_fill { WF_MATRIX, WF_NORM, WF_BIAS, WF_MIX }; /* how random values are drawn */

struct wt_shape {
    enum wt_role role;
    enum wt_fill fill;
    uint64_t rows, cols; /* cols 0: a vector; rows 0: the model has no such piece */
};

/* `c` may be NULL for pieces of the whole model. */
struct wt_shape wt_shape_of(const struct kvp_model *m, const struct kvp_layer_class *c, enum wt_piece p);

/* How a file has them: [out, in]; [in, out]; [n, in, out], n matrices stacked (n > 1); or by head, each head's share of every
 * piece in turn: by KV head (its query heads, its k, its v), by query head, by a recurrence's key head. */
enum { WO_PLAIN, WO_TRANSPOSED, WO_GROUPED = 1 << 16, WO_BY_QUERY, WO_BY_KEY };

/* The same as wt_shape_of for the pieces WP_REC_... (rec_shapes.c). */
bool rec_has_pre_norm(const struct kvp_model *m); /* a norm right behind the embedding (RWKV) */
struct wt_shape rec_shape_of(const struct kvp_model *m, const struct kvp_layer_class *c, enum wt_piece p);

/* The same for those from WP_CROSS_FIRST on (cross_shapes.c). */
struct wt_shape cross_shape_of(const struct kvp_model *m, const struct kvp_layer_class *c, enum wt_piece p);

/* Is it a layer's with a block that no checkpoint has (xc-cache)? */
bool cross_is_block(const struct kvp_model *m, const struct kvp_layer_class *c, enum wt_piece p);

/* Layers of the model's encoder, and the class of one of them. */
uint32_t wt_encoder_layers(const struct kvp_model *m);
const struct kvp_layer_class *wt_encoder_class(const struct kvp_model *m, uint32_t layer);

/* What a file calls `count` pieces from `first` on, stacked; "%u" stands for the layer. */
struct wt_name {
    enum wt_piece first;
    uint32_t count;
    uint32_t order;
    const char *pattern; /* several, separated by '|': the first that is there */
};

/* Experts' matrices in a file: one tensor an expert (the pattern's second "%u"), or one for all of them. Each expert's is part
 * `part` of the `parts` that its share of the role's buffer consists of. */
struct wt_expert_name {
    enum wt_piece piece;
    uint32_t part, parts;
    bool stacked;    /* [E, ...] in one tensor */
    bool transposed; /* an expert's is [in, out] */
    const char *pattern;
};

struct wt_family {
    const char *model_types; /* space-separated */
    const char *prefix;      /* that names may or may not have */
    const struct wt_name *names;
    uint32_t n_names;
    const struct wt_expert_name *experts;
    uint32_t n_experts;
};

const struct wt_family *wt_family_of(const char *model_type); /* NULL: no such family */
const struct wt_family *rec_family_of(const char *model_type); /* of recurrent models; wt_family_of() asks it */
const struct wt_family *cross_family_of(const char *model_type); /* of those with an encoder; rec_family_of() is asked before */
const struct wt_name *cross_encoder_names(const char *model_type, uint32_t *n); /* of the encoder's layers */
bool wt_is_word_of(const char *list, const char *word); /* is it one of the space-separated words? */

/* Is `name` a buffer that files of this family carry beside the weights (causal masks, RoPE tables)? */
bool wt_is_buffer(const char *name);

#endif
