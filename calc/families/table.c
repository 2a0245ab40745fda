/* table.c - every family of models, one row a file, and what is common to them: which dialect a config
 * speaks, and whether each of its keys is known. */
#include "calc/families/families.h"

#include <string.h>

static const struct kvp_dialect *const families[] = {
    family_llama,
    family_gemma,
    family_qwen,
    family_opt,
    family_bloom,
    family_gpt,
    family_falcon,
    family_mpt,
    family_phi,
    family_stablelm,
    family_starcoder2,
    family_chatglm,
    family_internlm,
    family_cohere,
    family_olmo,
    family_mixtral,
    family_dbrx,
    family_qwen_moe,
    family_deepseek,
    family_glm_moe,
    family_llama4,
    family_gpt_oss,
    family_minimax,
    family_mimo_v2,
    family_gemma3n,
    family_gemma4,
    family_step,
    family_falcon_h1,
    family_jamba,
    family_kimi_linear,
    family_lfm2,
    family_mamba,
    family_minimax_01,
    family_nemotron_h,
    family_qwen3_next,
    family_recurrent_gemma,
    family_rwkv,
    family_zamba2,
    family_bart,
    family_t5,
    family_whisper,
    family_llama_kin,
    family_exaone,
    family_minicpm,
    family_mistral,
    family_openelm,
    family_nemotron_nas,
    family_fuyu,
    family_mllama,
    family_molmo,
    family_wrappers,
};
enum { N_FAMILIES = sizeof(families) / sizeof(families[0]) };

const struct kvp_dialect *kvp_dialect_at(uint32_t i)
{
    for (size_t f = 0; f < N_FAMILIES; f++)
        for (const struct kvp_dialect *d = families[f]; d->model_type[0]; d++)
            if (i-- == 0)
                return d;
    return NULL;
}

/* ---- which dialect ----------------------------------------------------------------------------------- */

/* "gpt2, llama, ..." for messages, as far as they go. */
static const char *supported(char *buf, size_t n)
{
    const struct kvp_dialect *d;
    size_t at = 0;

    buf[0] = 0;
    for (uint32_t i = 0; (d = kvp_dialect_at(i)); i++) {
        int w = snprintf(buf + at, n - at, "%s%s", i ? ", " : "", d->model_type[0]);

        if (w < 0 || (size_t)w + 8 >= n - at) {
            snprintf(buf + at, n - at, ", ...");
            break;
        }
        at += (size_t)w;
    }
    return buf;
}

static bool listed(const char *const *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n && list[i]; i++)
        if (strcmp(list[i], name) == 0)
            return true;
    return false;
}

#define LISTED(list, name) listed((list), sizeof(list) / sizeof((list)[0]), (name))

/* The family that is known by a key when nothing names it. */
static const struct kvp_dialect *dialect_by_sign(const struct kvp_json *j)
{
    const struct kvp_dialect *d;

    for (uint32_t i = 0; (d = kvp_dialect_at(i)); i++)
        if (d->sign && json_object_get(j->object, d->sign))
            return d;
    return NULL;
}

static const struct kvp_dialect *dialect_by(const char *type, const char *arch)
{
    const struct kvp_dialect *d;

    for (uint32_t i = 0; (d = kvp_dialect_at(i)); i++)
        if (type ? LISTED(d->model_type, type) : arch && LISTED(d->architectures, arch))
            return d;
    return NULL;
}

kvp_err kvp_dialect_of(const struct kvp_json *j, const char *inner, const struct kvp_dialect **out)
{
    const char *type = NULL, *arch;
    char list[160], word[64];

    KVP_TRY(kvp_json_text(j, "model_type", &type, NULL));
    arch = json_string_value(json_array_get(json_object_get(j->object, "architectures"), 0));
    if (!type && inner)
        type = inner;
    *out = type || arch ? dialect_by(type, arch) : dialect_by_sign(j);
    if (*out && (*out)->refused)
        return kvp_fail(j->e, KVP_ENOTSUP, "%s: model_type \"%s\" cannot be counted: %s", j->origin, (*out)->model_type[0], (*out)->refused);
    if (*out)
        return KVP_OK;
    supported(list, sizeof(list));
    if (type || arch) {
        kvp_json_word(word, sizeof(word), type ? type : arch);
        return kvp_fail(j->e, KVP_ENOTSUP, "%s: %s \"%s\" is not supported; supported are %s", j->origin,
                        type ? "model_type" : "architecture", word, list);
    }
    return kvp_fail(j->e, KVP_EINPUT, "%s: model_type is missing; expected one of %s", j->origin, list);
}

/* ---- keys -------------------------------------------------------------------------------------------- */

const struct kvp_rule kvp_rules_common[] = {
    {"use_cache", KVP_KEY_ANY, "whether a forward returns its cache; generation always uses one"},
    {"output_hidden_states", KVP_KEY_ANY, "what a forward returns, not what it computes"},
    {"output_attentions", KVP_KEY_ANY, "what a forward returns, not what it computes"},
    {"cache_implementation", KVP_KEY_ANY, "transformers' own cache class; every layer's window is read"},
    {"_attn_implementation", KVP_KEY_ANY, "which kernel, not what is stored"},
    {"pruned_heads", KVP_KEY_FALSE, "layers would have different head counts"},
    {"add_cross_attention", KVP_KEY_FALSE, "layers would hold a second attention"},
    {"is_encoder_decoder", KVP_KEY_FALSE, "this class is a decoder"},
    {"num_nextn_predict_layers", KVP_KEY_FALSE, "prediction layers would add weights and cache"},
    {"quantization_config", KVP_KEY_ANY, "read: how weights are stored"},
    {"quantization", KVP_KEY_ANY, "read: how weights are stored"},
    {"embd_pdrop", KVP_KEY_ANY, "training only"},
    {"num_beams", KVP_KEY_ANY, "how text is generated, not the model"},
    {"num_beam_groups", KVP_KEY_ANY, "how text is generated, not the model"},
    {"num_return_sequences", KVP_KEY_ANY, "how text is generated, not the model"},
    {"no_repeat_ngram_size", KVP_KEY_ANY, "how text is generated, not the model"},
    {"encoder_no_repeat_ngram_size", KVP_KEY_ANY, "how text is generated, not the model"},
    {"chunk_size_feed_forward", KVP_KEY_ANY, "how a feed-forward is computed; the result is the same"},
    {"num_logits_to_keep", KVP_KEY_ANY, "what a forward returns; generation takes the last row"},
    {"ep_size", KVP_KEY_ANY, "expert parallelism of the training"},
    {"num_labels", KVP_KEY_ANY, "a classifier's; the language model's head is counted"},
    {0},
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

static const struct kvp_rule *rule_in(const struct kvp_rule *list, const char *key)
{
    for (; list && list->key; list++)
        if (strcmp(list->key, key) == 0)
            return list;
    return NULL;
}

/* A family's own word on a key comes before the common one. */
static const struct kvp_rule *own_rule(const struct kvp_dialect *d, const char *key)
{
    const struct kvp_rule *r = NULL;

    for (size_t i = 0; i < sizeof(d->rules) / sizeof(d->rules[0]) && !r; i++)
        r = rule_in(d->rules[i], key);
    return r;
}

static const struct kvp_rule *rule_of(const struct kvp_dialect *d, const char *key)
{
    const struct kvp_rule *r = own_rule(d, key);

    return r ? r : rule_in(kvp_rules_common, key);
}

static bool is_size(const struct kvp_dialect *d, const char *key)
{
    for (int s = 0; s < KVP_SIZES; s++)
        if (LISTED(d->key[s], key))
            return true;
    return LISTED(d->nested, key) || (d->eps_key && strcmp(d->eps_key, key) == 0);
}

static const char *word_in(const char *key, const char *const *words)
{
    for (; *words; words++)
        if (strcasestr(key, *words))
            return *words;
    return NULL;
}

/* Could a key of this name change what is stored? The word that says so, or NULL. Of a part of the file (how weights are
 * quantized, how positions rotate) every key is about that, so that fewer words say anything. */
static const char *suspicious(const char *key, bool part)
{
    static const char *const words[] = {"head", "layer", "window", "rank", "state", "share", "cache", "expert", "dim", "kv", "latent",
                                        "compress", "chunk", "sparse", "group", "block", "width", "size", "memory", "channel", "conv",
                                        "ssm", "mamba", "moe", "hybrid", "interval", "pattern", "mtp", "nextn", "depth", "sink", "full_attn",
                                        "attn_type", "ratio", NULL};
    static const char *const of_models[] = {"sliding", "swa", "quant", "bits", "precision", "lru", "recurr", "evict", "prun", "stride", "vocab",
                                            "embd", "indexer", "lora", "delta", "period", "merge", "global", "mla", "gqa", "mqa", "multi_query",
                                            "retention", "bottleneck", NULL};
    static const char *const counts[] = {"num_", "n_"};
    const char *word = word_in(key, words);

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        if (strncasecmp(key, counts[i], strlen(counts[i])) == 0)
            return counts[i];
    return word || part ? word : word_in(key, of_models);
}

static kvp_err check_key(const struct kvp_json *j, const struct kvp_dialect *d, const struct kvp_dialect *outer,
                         const char *key, const json_t *v)
{
    const struct kvp_rule *r = outer && own_rule(outer, key) ? own_rule(outer, key) : rule_of(d, key);
    const char *word;
    char shown[80];

    if (r && r->demand == KVP_KEY_FALSE && !is_empty(v))
        return kvp_fail(j->e, KVP_ENOTSUP, "%s: %s is set, and %s", j->origin, key, r->reason);
    if (r && r->demand == KVP_KEY_TRUE && !is_true(v))
        return kvp_fail(j->e, KVP_ENOTSUP, "%s: %s is not true, so %s", j->origin, key, r->reason);
    word = r || is_size(d, key) ? NULL : suspicious(key, d->part);
    if (!word)
        return KVP_OK;
    kvp_json_word(shown, sizeof(shown), key);
    return kvp_fail(j->e, KVP_EINPUT,
                    "%s: key \"%s\" is not known for model_type %s, and a key about \"%s\" could change memory",
                    j->origin, shown, d->model_type[0], word);
}

kvp_err kvp_dialect_check_keys(const struct kvp_json *j, const struct kvp_dialect *d)
{
    return kvp_dialect_check_flat(j, d, NULL);
}

kvp_err kvp_dialect_check_flat(const struct kvp_json *j, const struct kvp_dialect *d, const struct kvp_dialect *outer)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)j->object, key, v)
        if (!json_is_null(v))
            KVP_TRY(check_key(j, d, outer, key, v));
    return KVP_OK;
}

kvp_err kvp_check_part(const struct kvp_json *part, const char *name, const struct kvp_rule *rules)
{
    const struct kvp_dialect d = {.model_type = {name}, .rules = {rules}, .part = true};

    return kvp_dialect_check_keys(part, &d);
}
