/* dialects.h - how each family spells its sizes in config.json, and what its class assumes when a key
 * is absent. Adding a family is one row in dialects.c and, where it has own keys, rows of rules. */
#ifndef CALC_DIALECTS_H
#define CALC_DIALECTS_H

#include <kvproof/model.h>

#include "calc/json.h"

/* The sizes that have a different name in different families. */
enum kvp_size { KVP_SIZE_VOCAB, KVP_SIZE_WIDTH, KVP_SIZE_LAYERS, KVP_SIZE_HEADS, KVP_SIZE_KV_HEADS,
                KVP_SIZE_HEAD_DIM, KVP_SIZE_FFN, KVP_SIZE_POSITIONS, KVP_SIZES };

enum kvp_bias {
    KVP_BIAS_KEYS, /* attention_bias and mlp_bias say; absent: none */
    KVP_BIAS_ATTN, /* attention_bias says for q, k, v and o; the feed-forward has none */
    KVP_BIAS_QKV,  /* q, k and v always */
    KVP_BIAS_NONE,
    KVP_BIAS_ALL,
};

enum kvp_window_rule {
    KVP_WINDOW_NONE,  /* the class has no window; only layer_types can ask for one */
    KVP_WINDOW_EVERY, /* sliding_window bounds every layer */
    KVP_WINDOW_FROM,  /* with use_sliding_window true: layers from max_window_layers on */
};

struct kvp_dialect {
    const char *model_type;
    const char *architectures[3]; /* the fallback when model_type is absent */
    const char *key[KVP_SIZES][3]; /* spellings, first hit wins */
    /* Class defaults, for a key that is absent (null means no value, not the default). 0: none, which
     * is "required" for vocab, width, layers, heads and FFN (but see ffn_per_width), "as many as
     * heads" for KV heads and "width / heads" for the head size. */
    uint64_t absent[KVP_SIZES];
    uint64_t ffn_per_width; /* no FFN width: this many times the width */
    const char *act_key, *act;
    const char *eps_key;
    double eps;
    enum kvp_norm norm;
    enum kvp_position position;
    enum kvp_ffn ffn;
    enum kvp_bias bias;
    bool tied, qk_norm;
    enum kvp_window_rule window;
    uint64_t window_absent, window_from_absent; /* sliding_window, max_window_layers */
};

/* NULL past the end. */
const struct kvp_dialect *kvp_dialect_at(uint32_t i);

/* The dialect of a config. KVP_ENOTSUP naming a model_type that is not here, KVP_EINPUT when neither
 * model_type nor a known architecture is there. */
kvp_err kvp_dialect_of(const struct kvp_json *j, const struct kvp_dialect **out);

/* Every key of the config: known, harmless with a reason, held to the one value that is supported, or
 * refused because its name says that it could change memory (KVP_EINPUT naming it). */
kvp_err kvp_dialect_check_keys(const struct kvp_json *j, const struct kvp_dialect *d);

#endif
