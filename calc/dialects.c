/* dialects.c - see dialects.h. Sources: configuration_{gpt2,llama,mistral,qwen2,qwen3}.py and the
 * modelling files beside them in huggingface/transformers (4.56 and 5.x agree on these defaults). */
#include "calc/dialects.h"

#include <string.h>

/* The spellings that Llama and everything after it share. */
#define LLAMA_KEYS                                                                                 \
    {                                                                                              \
        [KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},                     \
        [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},     \
        [KVP_SIZE_KV_HEADS] = {"num_key_value_heads"}, [KVP_SIZE_HEAD_DIM] = {"head_dim"},         \
        [KVP_SIZE_FFN] = {"intermediate_size"},                                                    \
        [KVP_SIZE_POSITIONS] = {"max_position_embeddings", "max_sequence_length"},                 \
    }
#define LLAMA_LIKE                                                                                  \
    .key = LLAMA_KEYS, .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-6, \
    .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED

enum { AT_GPT2, AT_LLAMA, AT_MISTRAL, AT_QWEN2, AT_QWEN3, N_DIALECTS };

static const struct kvp_dialect dialects[N_DIALECTS] = {
    [AT_GPT2] = {
        .model_type = "gpt2",
        .architectures = {"GPT2LMHeadModel", "GPT2Model"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"n_embd"},
                [KVP_SIZE_LAYERS] = {"n_layer"}, [KVP_SIZE_HEADS] = {"n_head"},
                [KVP_SIZE_FFN] = {"n_inner"}, [KVP_SIZE_POSITIONS] = {"n_positions", "n_ctx"}},
        .absent = {[KVP_SIZE_POSITIONS] = 1024},
        .ffn_per_width = 4,
        .act_key = "activation_function", .act = "gelu_new",
        .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_LEARNED, .ffn = KVP_FFN_PLAIN,
        .bias = KVP_BIAS_ALL, .tied = true,
    },
    [AT_LLAMA] = {
        .model_type = "llama",
        .architectures = {"LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .bias = KVP_BIAS_KEYS,
    },
    [AT_MISTRAL] = {
        .model_type = "mistral",
        .architectures = {"MistralForCausalLM", "MistralModel"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 131072},
        .bias = KVP_BIAS_NONE,
        .window = KVP_WINDOW_EVERY, .window_absent = 4096,
    },
    [AT_QWEN2] = {
        .model_type = "qwen2",
        .architectures = {"Qwen2ForCausalLM", "Qwen2Model"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 32, [KVP_SIZE_POSITIONS] = 32768},
        .bias = KVP_BIAS_QKV,
        .window = KVP_WINDOW_FROM, .window_absent = 4096, .window_from_absent = 28,
    },
    [AT_QWEN3] = {
        .model_type = "qwen3",
        .architectures = {"Qwen3ForCausalLM", "Qwen3Model"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 32, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 32768},
        .bias = KVP_BIAS_ATTN, .qk_norm = true,
        .window = KVP_WINDOW_FROM, .window_absent = 4096, .window_from_absent = 28,
    },
};

const struct kvp_dialect *kvp_dialect_at(uint32_t i)
{
    return i < N_DIALECTS ? &dialects[i] : NULL;
}

/* "gpt2, llama, ..." for messages. */
static const char *supported(char *buf, size_t n)
{
    size_t at = 0;

    buf[0] = 0;
    for (uint32_t i = 0; i < N_DIALECTS; i++) {
        int w = snprintf(buf + at, n - at, "%s%s", i ? ", " : "", dialects[i].model_type);

        if (w < 0 || (size_t)w >= n - at)
            break;
        at += (size_t)w;
    }
    return buf;
}

static bool has_architecture(const struct kvp_dialect *d, const char *name)
{
    for (size_t i = 0; i < sizeof(d->architectures) / sizeof(d->architectures[0]); i++)
        if (d->architectures[i] && strcmp(d->architectures[i], name) == 0)
            return true;
    return false;
}

kvp_err kvp_dialect_of(const struct kvp_json *j, const struct kvp_dialect **out)
{
    const char *type = NULL, *arch;
    char list[96], word[64];

    KVP_TRY(kvp_json_text(j, "model_type", &type, NULL));
    arch = json_string_value(json_array_get(json_object_get(j->object, "architectures"), 0));
    for (uint32_t i = 0; i < N_DIALECTS; i++)
        if (type ? strcmp(dialects[i].model_type, type) == 0 : arch && has_architecture(&dialects[i], arch)) {
            *out = &dialects[i];
            return KVP_OK;
        }
    supported(list, sizeof(list));
    if (type || arch) {
        kvp_json_word(word, sizeof(word), type ? type : arch);
        return kvp_fail(j->e, KVP_ENOTSUP, "%s: %s \"%s\" is not supported; supported are %s", j->origin,
                        type ? "model_type" : "architecture", word, list);
    }
    if (kvp_json_get(j, "dim") && kvp_json_get(j, "n_layers"))
        return kvp_fail(j->e, KVP_ENOTSUP,
                        "%s: this is a params.json (dim, n_layers); give the model's config.json", j->origin);
    return kvp_fail(j->e, KVP_EINPUT, "%s: model_type is missing; expected one of %s", j->origin, list);
}

/* ---- keys -------------------------------------------------------------------------------------------- */

enum demand {
    ANY,       /* read elsewhere, or without effect on sizes and results */
    ONLY_FALSE, /* or 0, null, empty */
    ONLY_TRUE,
};
enum {
    GPT2 = 1 << AT_GPT2, LLAMA = 1 << AT_LLAMA, MISTRAL = 1 << AT_MISTRAL,
    QWEN2 = 1 << AT_QWEN2, QWEN3 = 1 << AT_QWEN3,
    ROPE = LLAMA | MISTRAL | QWEN2 | QWEN3, ALL = GPT2 | ROPE,
};

struct rule {
    const char *key;
    unsigned dialects; /* bit i: row i */
    enum demand demand;
    const char *reason; /* ANY: why it is harmless; else: what it would change */
};

static const struct rule rules[] = {
    {"use_cache", ALL, ANY, "whether a forward returns its cache; generation always uses one"},
    {"output_hidden_states", ALL, ANY, "what a forward returns, not what it computes"},
    {"layer_norm_epsilon", GPT2, ANY, "read: the norm's epsilon"},
    {"layer_types", ROPE, ANY, "read: which layers slide"},
    {"sliding_window", ROPE, ANY, "read: the window"},
    {"use_sliding_window", QWEN2 | QWEN3, ANY, "read: whether the window counts"},
    {"max_window_layers", LLAMA | QWEN2 | QWEN3, ANY, "read where use_sliding_window is; nothing without it"},
    {"use_sliding_window", LLAMA, ONLY_FALSE, "this class has no window"},
    {"pruned_heads", ALL, ONLY_FALSE, "layers would have different head counts"},
    {"scale_attn_by_inverse_layer_idx", GPT2, ONLY_FALSE, "scores would be divided by the layer's number"},
    {"scale_attn_weights", GPT2, ONLY_TRUE, "scores would not be divided by sqrt(head size)"},
    {"add_cross_attention", ALL, ONLY_FALSE, "layers would hold a second attention"},
    {"is_encoder_decoder", ALL, ONLY_FALSE, "only decoders are modelled"},
    {"num_nextn_predict_layers", ALL, ONLY_FALSE, "prediction layers would add weights and cache"},
    {"num_experts", ROPE, ONLY_FALSE, "mixtures of experts are not supported"},
    {"num_local_experts", ROPE, ONLY_FALSE, "mixtures of experts are not supported"},
    {"mlp_bias", MISTRAL | QWEN2 | QWEN3, ONLY_FALSE, "this class has no such bias"},
    {"attention_bias", MISTRAL, ONLY_FALSE, "this class has no such bias"},
    {"bias", ROPE, ONLY_FALSE, "this class has no such bias"},
    {"use_mrope", ROPE, ONLY_FALSE, "positions would have several parts"},
    {"rope_interleaved", ROPE, ONLY_FALSE, "rotation would pair neighbouring elements"},
};

static bool is_empty(const json_t *v)
{
    return json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0) || (json_is_object(v) && json_object_size(v) == 0);
}

static bool is_true(const json_t *v)
{
    return json_is_true(v) || (json_is_integer(v) && json_integer_value(v) == 1);
}

static const struct rule *rule_of(const struct kvp_dialect *d, const char *key)
{
    unsigned bit = 1u << (d - dialects);

    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
        if (rules[i].dialects & bit && strcmp(rules[i].key, key) == 0)
            return &rules[i];
    return NULL;
}

static bool is_size(const struct kvp_dialect *d, const char *key)
{
    for (int s = 0; s < KVP_SIZES; s++)
        for (int k = 0; k < 3 && d->key[s][k]; k++)
            if (strcmp(d->key[s][k], key) == 0)
                return true;
    return false;
}

/* Could a key of this name change what is stored? The word that says so, or NULL. */
static const char *suspicious(const char *key)
{
    static const char *const words[] = {"head",  "layer", "window", "rank", "state",
                                        "share", "cache", "expert", "dim"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcasestr(key, words[i]))
            return words[i];
    return NULL;
}

static kvp_err check_key(const struct kvp_json *j, const struct kvp_dialect *d, const char *key,
                         const json_t *v)
{
    const struct rule *r = rule_of(d, key);
    const char *word;
    char shown[80];

    if (r && r->demand == ONLY_FALSE && !is_empty(v))
        return kvp_fail(j->e, KVP_ENOTSUP, "%s: %s is set, and %s", j->origin, key, r->reason);
    if (r && r->demand == ONLY_TRUE && !is_true(v))
        return kvp_fail(j->e, KVP_ENOTSUP, "%s: %s is not true, so %s", j->origin, key, r->reason);
    word = r || is_size(d, key) ? NULL : suspicious(key);
    if (!word)
        return KVP_OK;
    kvp_json_word(shown, sizeof(shown), key);
    return kvp_fail(j->e, KVP_EINPUT,
                    "%s: key \"%s\" is not known for model_type %s, and a key about \"%s\" could change memory",
                    j->origin, shown, d->model_type, word);
}

kvp_err kvp_dialect_check_keys(const struct kvp_json *j, const struct kvp_dialect *d)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)j->object, key, v)
        if (!json_is_null(v))
            KVP_TRY(check_key(j, d, key, v));
    return KVP_OK;
}
