/* model.h - a parsed model: dimensions as the config.json gives them, and nothing derived from them
 * (no sizes, no counts of bytes). The one value that both halves of kvproof read. */
#ifndef KVPROOF_MODEL_H
#define KVPROOF_MODEL_H

#include <kvproof/error.h>
#include <kvproof/names.h>

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvp_mixer { KVP_MIX_ATTENTION };
enum kvp_ffn { KVP_FFN_PLAIN, KVP_FFN_GATED };
enum kvp_norm { KVP_NORM_RMS, KVP_NORM_LAYER };
enum kvp_position { KVP_POS_ROPE, KVP_POS_LEARNED };
enum kvp_act { KVP_ACT_SILU, KVP_ACT_GELU_TANH, KVP_ACT_GELU, KVP_ACT_RELU };

/* Layers that are alike. `count` of the model's layers are of this class. */
struct kvp_layer_class {
    uint32_t count;
    enum kvp_mixer mixer;
    uint32_t heads;    /* query heads */
    uint32_t kv_heads; /* divides heads */
    uint32_t head_dim; /* from head_dim, else width / heads */
    uint64_t window;   /* keys a query sees, itself included; 0: all */
    bool qkv_bias, o_bias;
    bool qk_norm;      /* RMS norm over head_dim on q and on k */
    enum kvp_ffn ffn;
    uint32_t ffn_width; /* of one matrix */
    enum kvp_act act;
    bool ffn_bias;
};

enum kvp_rope_scaling { KVP_ROPE_PLAIN, KVP_ROPE_LINEAR, KVP_ROPE_LLAMA3, KVP_ROPE_OTHER };

struct kvp_model {
    char name[96];       /* base name of the file, directory or built-in */
    char model_type[48]; /* the config's own word; picks a dialect, never a size */
    uint32_t vocab, width, layers;
    uint32_t classes;
    struct kvp_layer_class *cls; /* [classes] */
    uint32_t *class_of;          /* [layers] index into cls */
    enum kvp_norm norm;
    double norm_eps;
    enum kvp_position position;
    double rope_theta;
    enum kvp_rope_scaling rope_scaling;
    char rope_type[24]; /* the config's word, for messages when scaling is OTHER */
    double rope_factor, rope_low_freq, rope_high_freq, rope_original_context; /* LLAMA3, LINEAR */
    uint64_t max_positions; /* rows of the position table when LEARNED, else the trained context */
    bool tied;              /* lm_head shares the embedding */
    enum kvp_format dtype;  /* torch_dtype / dtype; F32 when neither is there (transformers' default) */
    bool dtype_given;
};

/* Load a model from a config.json, a directory that holds one, or a built-in name (data/models/).
 * Dialects: GPT-2, Llama, Mistral, Qwen2, Qwen3. A key that is unknown and looks as if it could
 * change memory is KVP_EINPUT naming it. *out is zeroed first; kvp_model_free() it on success.
 * Implemented in calc/model.c. */
kvp_err kvp_model_load(struct kvp_model *out, const char *path_or_name, struct kvp_error *e);

/* Same, from `len` bytes of JSON; `origin` stands in messages. The fuzz target's entry. */
kvp_err kvp_model_parse(struct kvp_model *out, const char *json, size_t len, const char *origin, struct kvp_error *e);

/* Keep the first `layers` layers only (validate --layers). 0 or more than it has: KVP_EINPUT. */
kvp_err kvp_model_truncate(struct kvp_model *m, uint32_t layers, struct kvp_error *e);

void kvp_model_free(struct kvp_model *m); /* zeroed or NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
