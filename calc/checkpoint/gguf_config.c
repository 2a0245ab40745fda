/* gguf_config.c - GGUF metadata as the config.json that it was made from, so that the families read both.
 *
 * Keys: ggml-org/ggml docs/gguf.md and gguf-py/gguf/constants.py; which of them a converter writes from which key of
 * the config: convert_hf_to_gguf.py of ggml-org/llama.cpp. What the metadata do not say, the tensors do (a tied head,
 * biases). The file's elements are checked against the result, so a wrong translation cannot pass unseen. */
#include "calc/checkpoint.h"

#include "calc/json.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GGUF_STRING = 8 };

/* A key of the config, and the metadata key behind "ARCH.". */
struct pair {
    const char *config, *key;
    bool needed, real;
};

static const struct pair every[] = {
    {"hidden_size", "embedding_length", true, false},
    {"num_hidden_layers", "block_count", true, false},
    {"num_attention_heads", "attention.head_count", true, false},
    {"num_key_value_heads", "attention.head_count_kv", false, false},
    {"max_position_embeddings", "context_length", true, false},
    {"rope_theta", "rope.freq_base", false, true},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", false, true},
    {0},
};
static const struct pair dense[] = {{"intermediate_size", "feed_forward_length", true, false}, {0}};
static const struct pair head_dim[] = {{"head_dim", "attention.key_length", false, false}, {0}};
static const struct pair window[] = {{"sliding_window", "attention.sliding_window", false, false}, {0}};
static const struct pair mixtral_keys[] = {
    {"num_local_experts", "expert_count", true, false}, {"num_experts_per_tok", "expert_used_count", true, false}, {0}};
static const struct pair qwen_moe_keys[] = {
    {"num_experts", "expert_count", true, false},
    {"num_experts_per_tok", "expert_used_count", true, false},
    {"moe_intermediate_size", "expert_feed_forward_length", true, false},
    {"shared_expert_intermediate_size", "expert_shared_feed_forward_length", false, false},
    {0}};
static const struct pair oss_keys[] = {
    {"num_local_experts", "expert_count", true, false},
    {"num_experts_per_tok", "expert_used_count", true, false},
    {"intermediate_size", "expert_feed_forward_length", true, false},
    {0}};
static const struct pair mla_keys[] = {
    {"kv_lora_rank", "attention.kv_lora_rank", true, false},
    {"q_lora_rank", "attention.q_lora_rank", false, false},
    {"qk_rope_head_dim", "rope.dimension_count", true, false},
    {"first_k_dense_replace", "leading_dense_block_count", true, false},
    {"n_routed_experts", "expert_count", true, false},
    {"n_shared_experts", "expert_shared_count", false, false},
    {"num_experts_per_tok", "expert_used_count", true, false},
    {"moe_intermediate_size", "expert_feed_forward_length", true, false},
    {0}};
static const struct pair layer_norm[] = {{"layer_norm_eps", "attention.layer_norm_epsilon", false, true}, {0}};
static const struct pair norm_epsilon[] = {{"norm_epsilon", "attention.layer_norm_epsilon", false, true}, {0}};

struct maker;
static kvp_err put_latent(const struct maker *m);

/* An architecture with experts and the one without are two rows where llama.cpp has one word for both. */
static const struct arch {
    const char *name, *model_type;
    enum { DENSE, EXPERTS, WINDOW } when;
    const struct pair *keys[4];
    bool biases;     /* attention_bias and mlp_bias say what the tensors show */
    bool may_slide;  /* no window in the metadata is none, whatever the class assumes */
    kvp_err (*heads)(const struct maker *m); /* (optional) a head's sizes, when they are not one number */
} archs[] = {
    {"llama", "mixtral", EXPERTS, {dense, mixtral_keys, head_dim, window}, false, true, NULL},
    {"llama", "mistral", WINDOW, {dense, head_dim, window}, false, true, NULL},
    {"llama", "llama", DENSE, {dense, head_dim}, true, false, NULL},
    {"mistral3", "mistral", DENSE, {dense, head_dim, window}, false, true, NULL},
    {"mistral", "mistral", DENSE, {dense, head_dim, window}, false, true, NULL},
    {"qwen2", "qwen2", DENSE, {dense}, false, false, NULL},
    {"qwen2moe", "qwen2_moe", EXPERTS, {dense, qwen_moe_keys}, false, false, NULL},
    {"qwen3", "qwen3", DENSE, {dense, head_dim}, false, false, NULL},
    {"qwen3moe", "qwen3_moe", EXPERTS, {dense, qwen_moe_keys, head_dim}, false, false, NULL},
    {"gemma", "gemma", DENSE, {dense, head_dim}, false, false, NULL},
    {"gemma2", "gemma2", DENSE, {dense, head_dim, window}, false, false, NULL},
    {"gemma3", "gemma3_text", DENSE, {dense, head_dim, window}, false, false, NULL},
    {"phi3", "phi3", DENSE, {dense, window}, false, true, NULL},
    {"olmo2", "olmo2", DENSE, {dense}, false, false, NULL},
    {"starcoder2", "starcoder2", DENSE, {dense, norm_epsilon, window}, false, true, NULL},
    {"command-r", "cohere", DENSE, {dense, layer_norm}, false, false, NULL},
    {"deepseek2", "deepseek_v2", EXPERTS, {dense, mla_keys}, false, false, put_latent},
    {"gpt-oss", "gpt_oss", EXPERTS, {oss_keys, head_dim, window}, false, false, NULL},
};

struct maker {
    const struct checkpoint *c;
    const char *origin;
    char arch[40];
    json_t *config;
    struct kvp_error *e;
};

static const struct ckpt_kv *of_arch(const struct maker *m, const char *key)
{
    char full[128];

    snprintf(full, sizeof(full), "%s.%s", m->arch, key);
    return ckpt_key(m->c, full);
}

static kvp_err put(const struct maker *m, const char *key, json_t *value)
{
    return json_object_set_new(m->config, key, value) ? kvp_fail(m->e, KVP_ENOMEM, "%s: out of memory for %s", m->origin, key) : KVP_OK;
}

/* A number, or a list of one a layer that are all the same. */
static kvp_err number_of(const struct maker *m, const char *key, uint64_t *out, bool *found)
{
    const struct ckpt_kv *kv = of_arch(m, key);
    uint64_t other;

    *found = kv != NULL;
    if (!kv)
        return KVP_OK;
    for (uint64_t i = 0; i < kv->count || i == 0; i++) {
        if (!ckpt_kv_u64(kv, i, &other) || other > INT64_MAX)
            return kvp_fail(m->e, KVP_EINPUT, "%s: %s.%s: expected a whole number that is not negative", m->origin, m->arch, key);
        if (i && other != *out)
            return kvp_fail(m->e, KVP_ENOTSUP, "%s: %s.%s: layers that differ (%" PRIu64 " and %" PRIu64 ") are not supported in this architecture",
                            m->origin, m->arch, key, *out, other);
        *out = other;
    }
    return KVP_OK;
}

static kvp_err put_pair(const struct maker *m, const struct pair *p)
{
    uint64_t n = 0;
    double real = 0;
    bool found;

    if (p->real && !ckpt_kv_real(of_arch(m, p->key), &real))
        return KVP_OK;
    if (p->real && !isfinite(real))
        return kvp_fail(m->e, KVP_EINPUT, "%s: %s.%s: expected a finite number", m->origin, m->arch, p->key);
    if (p->real)
        return put(m, p->config, json_real(real));
    KVP_TRY(number_of(m, p->key, &n, &found));
    if (!found && p->needed)
        return kvp_fail(m->e, KVP_EINPUT, "%s: %s.%s is missing from its metadata", m->origin, m->arch, p->key);
    return found ? put(m, p->config, json_integer((json_int_t)n)) : KVP_OK;
}

static kvp_err put_pairs(const struct maker *m, const struct pair *list)
{
    for (; list && list->config; list++)
        KVP_TRY(put_pair(m, list));
    return KVP_OK;
}

/* ARCH.vocab_size, else the embedding's rows, else how many tokens the tokenizer has. */
static kvp_err put_vocab(const struct maker *m)
{
    const struct ckpt_tensor *embd = ckpt_find(m->c, "token_embd.weight");
    const struct ckpt_kv *tokens = ckpt_key(m->c, "tokenizer.ggml.tokens");
    uint64_t n = 0;
    bool found;

    KVP_TRY(number_of(m, "vocab_size", &n, &found));
    if (!found && embd && embd->dims == 2)
        n = embd->shape[0];
    else if (!found && tokens)
        n = tokens->count;
    else if (!found)
        return kvp_fail(m->e, KVP_EINPUT, "%s: neither %s.vocab_size nor token_embd.weight nor tokenizer.ggml.tokens says how many tokens there are",
                        m->origin, m->arch);
    if (n > INT64_MAX)
        return kvp_fail(m->e, KVP_EINPUT, "%s: a vocabulary of %" PRIu64, m->origin, n);
    return put(m, "vocab_size", json_integer((json_int_t)n));
}

static kvp_err put_tensors(const struct maker *m, const struct arch *a)
{
    const struct ckpt_tensor *embd = ckpt_find(m->c, "token_embd.weight");
    const bool bf16 = embd && strcmp(embd->dtype, "BF16") == 0;

    KVP_TRY(put(m, "tie_word_embeddings", json_boolean(!ckpt_find(m->c, "output.weight"))));
    KVP_TRY(put(m, "torch_dtype", json_string(bf16 ? "bfloat16" : "float16")));
    if (!a->biases)
        return KVP_OK;
    KVP_TRY(put(m, "attention_bias", json_boolean(ckpt_find(m->c, "blk.0.attn_output.bias") != NULL)));
    return put(m, "mlp_bias", json_boolean(ckpt_find(m->c, "blk.0.ffn_down.bias") != NULL));
}

/* Keys and values of different widths are not what these classes have. */
static kvp_err check_value_length(const struct maker *m)
{
    uint64_t k = 0, v = 0;
    bool has_k, has_v;

    KVP_TRY(number_of(m, "attention.key_length", &k, &has_k));
    KVP_TRY(number_of(m, "attention.value_length", &v, &has_v));
    if (has_k && has_v && k != v)
        return kvp_fail(m->e, KVP_ENOTSUP, "%s: %s.attention.value_length %" PRIu64 " is not the key_length %" PRIu64, m->origin, m->arch, v, k);
    return KVP_OK;
}

/* No size depends on these; who computes with them should know. */
static kvp_err put_rope(const struct maker *m)
{
    const struct ckpt_kv *kv = of_arch(m, "rope.scaling.type");
    const bool tensor = ckpt_find(m->c, "rope_freqs.weight") || ckpt_find(m->c, "rope_factors_long.weight");
    const bool plain = !kv || kv->type != GGUF_STRING || (kv->count == 4 && memcmp(kv->value, "none", 4) == 0);
    json_t *scaling, *type;
    double factor = 1;

    if (plain && !tensor)
        return KVP_OK;
    type = plain ? json_string("tensor") : json_stringn((const char *)kv->value, (size_t)kv->count);
    if (!type)
        return kvp_fail(m->e, KVP_EINPUT, "%s: %s.rope.scaling.type: expected UTF-8", m->origin, m->arch);
    if (!ckpt_kv_real(of_arch(m, "rope.scaling.factor"), &factor) || !(factor > 0 && factor <= DBL_MAX))
        factor = 1;
    scaling = json_pack("{s:o, s:f}", "rope_type", type, "factor", factor);
    return put(m, "rope_scaling", scaling);
}

/* Multi-head latent attention: where it is stored as one wide KV head, the heads' own widths are under ..._mla. */
static kvp_err put_latent(const struct maker *m)
{
    uint64_t k = 0, v = 0, rope = 0;
    bool has_k, has_v, found;

    KVP_TRY(number_of(m, "attention.key_length_mla", &k, &has_k));
    KVP_TRY(number_of(m, "attention.value_length_mla", &v, &has_v));
    if (!has_k)
        KVP_TRY(number_of(m, "attention.key_length", &k, &has_k));
    if (!has_v)
        KVP_TRY(number_of(m, "attention.value_length", &v, &has_v));
    KVP_TRY(number_of(m, "rope.dimension_count", &rope, &found));
    if (!has_k || !has_v || k <= rope)
        return kvp_fail(m->e, KVP_EINPUT, "%s: %s.attention.key_length and value_length: expected a key wider than the %" PRIu64 " that rotate",
                        m->origin, m->arch, rope);
    KVP_TRY(put(m, "qk_nope_head_dim", json_integer((json_int_t)(k - rope))));
    KVP_TRY(put(m, "v_head_dim", json_integer((json_int_t)v)));
    found = false;
    for (size_t i = 0; i < m->c->n && !found; i++)
        found = strstr(m->c->v[i].name, "exp_probs_b") != NULL;
    return put(m, "topk_method", json_string(found ? "noaux_tc" : "greedy"));
}

static kvp_err find_arch(struct maker *m, const struct arch **out)
{
    const struct ckpt_kv *kv = ckpt_key(m->c, "general.architecture");
    uint64_t experts = 0, width = 0;
    bool found, known = false;
    char word[sizeof(m->arch)];

    if (!kv || !kv->value || kv->type != GGUF_STRING || kv->count >= sizeof(m->arch))
        return kvp_fail(m->e, KVP_EINPUT, "%s: general.architecture: expected a short string", m->origin);
    memcpy(word, kv->value, (size_t)kv->count);
    word[kv->count] = 0;
    kvp_json_word(m->arch, sizeof(m->arch), word);
    KVP_TRY(number_of(m, "expert_count", &experts, &found));
    KVP_TRY(number_of(m, "attention.sliding_window", &width, &found));
    for (size_t i = 0; i < sizeof(archs) / sizeof(archs[0]); i++) {
        const struct arch *a = &archs[i];

        if (strcmp(a->name, m->arch) != 0)
            continue;
        known = true;
        if ((a->when == EXPERTS) != (experts > 0) || (a->when == WINDOW && !width))
            continue;
        *out = a;
        return KVP_OK;
    }
    if (known)
        return kvp_fail(m->e, KVP_ENOTSUP, "%s: architecture %s with %" PRIu64 " experts is not supported", m->origin, m->arch, experts);
    return kvp_fail(m->e, KVP_ENOTSUP, "%s: architecture \"%s\" is not supported from GGUF; a directory with its config.json may be", m->origin, m->arch);
}

static kvp_err make(struct maker *m)
{
    const struct arch *a = NULL;

    KVP_TRY(find_arch(m, &a));
    KVP_TRY(put(m, "model_type", json_string(a->model_type)));
    KVP_TRY(put_pairs(m, every));
    for (size_t i = 0; i < sizeof(a->keys) / sizeof(a->keys[0]); i++)
        KVP_TRY(put_pairs(m, a->keys[i]));
    KVP_TRY((a->heads ? a->heads : check_value_length)(m));
    KVP_TRY(put_vocab(m));
    KVP_TRY(put_rope(m));
    if (a->may_slide && !of_arch(m, "attention.sliding_window"))
        KVP_TRY(put(m, "sliding_window", json_null()));
    return put_tensors(m, a);
}

kvp_err ckpt_gguf_config(char **text, const struct checkpoint *c, const char *origin, struct kvp_error *e)
{
    struct maker m = {.c = c, .origin = origin, .config = json_object(), .e = e};
    kvp_err rc = m.config ? make(&m) : kvp_fail(e, KVP_ENOMEM, "%s: out of memory", origin);

    *text = rc == KVP_OK ? json_dumps(m.config, 0) : NULL;
    if (rc == KVP_OK && !*text)
        rc = kvp_fail(e, KVP_ENOMEM, "%s: out of memory", origin);
    json_decref(m.config);
    return rc;
}

kvp_err ckpt_gguf_model(struct kvp_model *out, const struct checkpoint *c, const char *origin, struct kvp_error *e)
{
    char *text = NULL;
    kvp_err rc;

    memset(out, 0, sizeof(*out));
    if (!c->gguf)
        return kvp_fail(e, KVP_EINPUT, "%s: not a GGUF file", origin);
    KVP_TRY(ckpt_gguf_config(&text, c, origin, e));
    rc = kvp_model_parse(out, text, strlen(text), origin, e);
    free(text);
    KVP_TRY(rc);
    if (strlen(out->name) > 5 && strcmp(out->name + strlen(out->name) - 5, ".gguf") == 0)
        out->name[strlen(out->name) - 5] = 0;
    rc = ckpt_describe(out, c, origin, e);
    if (rc != KVP_OK)
        kvp_model_free(out);
    return rc;
}
