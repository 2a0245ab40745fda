/* weights.h - every weight of a model, one by one, and how each is stored.
 *
 * weights_each() walks the shapes; weights/formats.c says which tensors a matrix becomes in a format. The
 * elements of all weights (before any format) are the model's parameters. */
#ifndef KVPROOF_CALC_WEIGHTS_H
#define KVPROOF_CALC_WEIGHTS_H

#include "calc/tensors.h"

/* `count` matrices of [rows, cols] (cols 0: a vector of `rows`) in all layers of a class together. */
struct weight {
    const char *name;
    enum kvp_role role;
    uint32_t cls;   /* model class, or WHOLE_MODEL; encoder classes follow: ENCODER_CLASS + i */
    uint64_t count, rows, cols;
    bool linear;    /* multiplied with activations: may be quantized */
    bool bias;      /* the bias of a linear: stored beside it */
    bool biased;    /* a linear that has one */
    unsigned kept;  /* of its class: kvp_layer_class */
    uint32_t active_of, active; /* experts: `active` of `active_of` work for a token; 0: all */
};
enum { ENCODER_CLASS = 1 << 20 };

struct walk {
    const struct kvp_model *m;
    bool tower, mtp; /* count those too */
    void (*each)(struct walk *w, const struct weight *x);
    void *to;
    unsigned kept; /* of the class that is walked */
};
void weights_each(struct walk *w);

/* For the files of weights/: the weights of one layer class; `c` may be an encoder's. */
void weights_attention(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width);
void weights_mla(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width);
void weights_cross(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width);
void weights_recurrent(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width);
void weights_ffn(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width);
void walk_matrix(struct walk *w, enum kvp_role role, const char *name, uint32_t cls, uint64_t count, uint64_t rows, uint64_t cols, bool bias);
void walk_vector(struct walk *w, enum kvp_role role, const char *name, uint32_t cls, uint64_t count, uint64_t n);

/* How the weights of this run are stored: the checkpoint's way, or what was asked for. */
struct store_plan {
    enum kvp_format plain;  /* what is not quantized: f32, f16, bf16 */
    struct kvp_quant quant; /* format PLAIN: nothing is quantized */
    unsigned roles;         /* roles (1 << role) that quant applies to; linears only */
    enum kvp_format ggml;   /* quant.format GGML: the block format ... */
    enum kvp_format ggml_embed, ggml_head, ggml_expert; /* ... and of these; F32: that one */
    bool vectors_f32;       /* vectors and routers are f32 whatever `plain` is: llama.cpp's files */
};

/* What a model's own quantization_config says, or plain weights in `plain`. */
struct store_plan store_of_model(const struct kvp_model *m, enum kvp_format plain);

/* The tensors that one weight becomes, with scales, zeros and indices. */
void store_lower(struct tensors *t, const struct store_plan *s, const struct weight *x);
/* Bytes that a pass reads of it: the sum of those tensors for one of the `count`. */
uint64_t store_bytes(bool *over, const struct store_plan *s, enum kvp_role role, uint64_t rows, uint64_t cols, bool linear);

/* Every weight as stored, and the two counts. Active: what works for one token (experts_per_token of the
 * experts), the embedding table counted whole. */
void weight_tensors(struct tensors *t, const struct kvp_model *m, const struct store_plan *s, bool tower, bool mtp);
uint64_t weight_parameters(bool *over, const struct kvp_model *m, bool tower, bool mtp, uint64_t *active);

#endif
