/* family.h - how a family of models spells its sizes in config.json, and what its class assumes when a
 * key is absent. A family is one file in families/ and one row in families/table.c.
 *
 * Most of a family is data, struct kvp_dialect: reading by it fills a prototype layer. What data can't say
 * is a hook: `layers` edits the layers one by one. Nothing here computes a byte. */
#ifndef KVPROOF_CALC_FAMILY_H
#define KVPROOF_CALC_FAMILY_H

#include <kvproof/model.h>

#include "calc/json.h"

/* The sizes that have a different name in different families. */
enum kvp_size { KVP_SIZE_VOCAB, KVP_SIZE_WIDTH, KVP_SIZE_LAYERS, KVP_SIZE_HEADS, KVP_SIZE_KV_HEADS,
                KVP_SIZE_HEAD_DIM, KVP_SIZE_FFN, KVP_SIZE_POSITIONS, KVP_SIZES };

enum { KVP_SPELLINGS = 4 };

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
    KVP_WINDOW_HOOK,  /* the layers hook sets it */
};

enum kvp_demand {
    KVP_KEY_ANY,   /* read elsewhere, or without effect on sizes and results */
    KVP_KEY_FALSE, /* supported only as false, 0, null or empty */
    KVP_KEY_TRUE,
};
struct kvp_rule {
    const char *key;
    enum kvp_demand demand;
    const char *reason; /* ANY: why it is harmless, or what reads it; else: what it would change */
};

struct kvp_reader;

struct kvp_dialect {
    const char *model_type[6];     /* all words for it; the first is its name */
    const char *architectures[4];  /* the fallback when model_type is absent */
    /* (optional) A wrapper: these keys, the first that is there, hold the text model; its own model_type
     * picks its dialect, `inner` when it has none. A wrapper whose key is absent is read flat as `inner`. */
    const char *nested[3], *inner;
    const char *sign; /* (optional) no model_type, no architectures: the key that only this family has */
    const char *key[KVP_SIZES][KVP_SPELLINGS]; /* spellings, first hit wins */
    const char *layers_of[2]; /* (optional) no number of layers: as many as this list, or string, is long */
    /* Class defaults, for a key that is absent (null means no value, not the default). 0: none, which
     * is "required" for vocab, width, layers, heads and FFN (but see ffn_per_width), "as many as
     * heads" for KV heads and "width / heads" for the head size. */
    uint64_t absent[KVP_SIZES];
    /* The same for a wrapper's part, which may leave out sizes that a file of its own never does. */
    uint64_t nested_absent[KVP_SIZES];
    uint64_t ffn_per_width; /* no FFN width: this many times the width */
    const char *act_key, *act;
    const char *eps_key;
    double eps;
    enum kvp_norm norm;
    uint32_t norms;        /* a layer; 0: 2 */
    bool norm_no_bias;     /* LayerNorm with a weight only */
    enum kvp_position position;
    enum kvp_ffn ffn;
    enum kvp_bias bias;
    bool tied, qk_norm;
    bool own_mixer;        /* heads, KV heads and head size are not read: the hook fills the mixer */
    bool own_ffn;          /* nor is the feed-forward width */
    bool partial_rotary;   /* the engine turns only the leading part of a head as this class does */
    bool indexed;          /* every layer has sparse attention, and layer_types may say so */
    bool part;             /* no class: a part of a config, see kvp_check_part() */
    bool no_positions;     /* no trained context in the config: not required */
    enum kvp_window_rule window;
    uint64_t window_absent, window_from_absent; /* sliding_window, max_window_layers */
    const struct kvp_rule *rules[4]; /* keys of its own, each list closed by an empty row; see kvp_rules_common */
    /* (optional) Edit r->layer[0 .. r->m->layers - 1], which hold the prototype each, and what is once a
     * model in r->m. Messages: file and key. */
    kvp_err (*layers)(struct kvp_reader *r);
    /* (optional) The class is known, and its sizes can't be counted: why. KVP_ENOTSUP. */
    const char *refused;
    /* (optional) A wrapper's, or a flat multimodal class's: the tower's weights from r->top into r->m->tower.
     * After `layers`; families/tower.h. */
    kvp_err (*towers)(struct kvp_reader *r);
    const char *not_run; /* m->not_run, when every model of the class needs it */
};

/* A config being read. `j` is the part that holds the text model, `top` the whole file (the same where
 * nothing is nested): dtype, tie and quantization are looked for in j, then in top. */
struct kvp_reader {
    struct kvp_json j, top;
    const struct kvp_dialect *d, *outer; /* outer: the wrapper's, or d */
    struct kvp_model *m;
    struct kvp_layer_class proto;  /* what the keys gave; every layer starts as it */
    struct kvp_layer_class *layer; /* [m->layers] */
};

/* families/table.c: NULL past the end. */
const struct kvp_dialect *kvp_dialect_at(uint32_t i);

/* The dialect of a config: model_type, else architectures[0], else the keys that only one family has.
 * KVP_ENOTSUP naming a model_type that is not here, KVP_EINPUT when nothing says what it is. */
kvp_err kvp_dialect_of(const struct kvp_json *j, const char *inner, const struct kvp_dialect **out);

/* Every key of the config: known, harmless with a reason, held to the one value that is supported, or
 * refused because its name says that it could change memory (KVP_EINPUT naming it). Called for `j`, and for
 * `top` with the wrapper's dialect. */
kvp_err kvp_dialect_check_keys(const struct kvp_json *j, const struct kvp_dialect *d);
/* The same for a wrapper that is written flat: keys of its own come first. */
kvp_err kvp_dialect_check_flat(const struct kvp_json *j, const struct kvp_dialect *d, const struct kvp_dialect *outer);
/* The same for an object inside, which messages call `name`; `rules` (closed by an empty row) are its keys. */
kvp_err kvp_check_part(const struct kvp_json *part, const char *name, const struct kvp_rule *rules);
extern const struct kvp_rule kvp_rules_common[]; /* known in every family */

/* ---- reading, for hooks ------------------------------------------------------------------------------ */

/* The first spelling that has a value; else the class default where no spelling is there at all; else 0. */
kvp_err kvp_read_size(const struct kvp_reader *r, enum kvp_size s, uint64_t *out);
/* A count under `key`, 0 to 2^24, of j; left alone when absent or null. */
kvp_err kvp_read_count(const struct kvp_reader *r, const char *key, uint32_t *out);
/* The same from the first of several spellings, closed by NULL. */
kvp_err kvp_read_count_of(const struct kvp_reader *r, const char *const *keys, uint32_t *out);
/* The same, and KVP_EINPUT when it is absent or 0. */
kvp_err kvp_need_count(const struct kvp_reader *r, const char *key, uint32_t *out);
kvp_err kvp_read_flag(const struct kvp_reader *r, const char *key, bool *out);
/* The list under `key`, of exactly m->layers entries (KVP_EINPUT else); NULL when absent or null. */
kvp_err kvp_read_list(const struct kvp_reader *r, const char *key, const json_t **out);
/* KVP_EINPUT / KVP_ENOTSUP about a key, in the common form "FILE: KEY: ...". */
kvp_err kvp_key_fail(const struct kvp_reader *r, kvp_err code, const char *key, const char *what);
/* The activation of that name (silu, gelu_new, relu2, ...). */
kvp_err kvp_read_act(const struct kvp_reader *r, const char *key, const char *absent, enum kvp_act *out);
/* heads, KV heads and head size by the dialect's keys, into a class. */
kvp_err kvp_read_heads(const struct kvp_reader *r, struct kvp_layer_class *c);
/* Whether architectures[0] ends in `tail`. */
bool kvp_arch_ends(const struct kvp_reader *r, const char *tail);
/* The first reason why the engine does not run this model stays. */
void kvp_cannot_run(struct kvp_model *m, const char *reason);
/* An extra weight of a class (or of the model): KVP_EINPUT when there is no room. */
kvp_err kvp_add_extra(const struct kvp_reader *r, struct kvp_extra *list, const char *name, uint32_t rows, uint32_t cols,
                      uint32_t n, bool linear);

#endif
