/* mpt.c - MPT. Sources: configuration_mpt.py of mosaicml/mpt-7b and of huggingface/transformers, and llm-foundry's
 * modeling_mpt.py: attn_config.kv_n_heads for grouped queries, no_bias for norms and linears alike. */
#include "calc/families/families.h"
#include "calc/families/shared.h"

#include <string.h>

static const struct kvp_rule mpt_rules[] = {
    {"attn_config", KVP_KEY_ANY, "read: positions, KV heads, norms on q and k"},
    {"init_config", KVP_KEY_ANY, "how weights are drawn before training"},
    {"ffn_config", KVP_KEY_FALSE, "the feed-forward would be another"},
    {"no_bias", KVP_KEY_ANY, "read: biases"},
    {"learned_pos_emb", KVP_KEY_ANY, "read: a table of positions, unless ALiBi"},
    {"expansion_ratio", KVP_KEY_ANY, "read: feed-forward width"},
    {"resid_pdrop", KVP_KEY_ANY, "training only"},
    {0},
};
static const struct kvp_rule attn_rules[] = {
    {"kv_n_heads", KVP_KEY_ANY, "read: KV heads"},
    {"qk_ln", KVP_KEY_ANY, "read: norms on q and k"},
    {"sliding_window_size", KVP_KEY_ANY, "read: the window"},
    {"attn_type", KVP_KEY_ANY, "read: whose keys"},
    {0},
};
static const struct kvp_dialect attn_dialect = {.model_type = {"mpt's attn_config"}, .rules = {attn_rules}};

struct mpt_attn {
    bool alibi, rope, qk_ln;
    uint64_t kv_heads, window;
};

static kvp_err read_attn(const struct kvp_reader *r, struct mpt_attn *a)
{
    const json_t *object = kvp_json_get(&r->j, "attn_config");
    const char *type = "multihead_attention";
    struct kvp_json j = {object, r->j.origin, r->j.e};
    int64_t window = -1;

    if (!object)
        return KVP_OK;
    if (!json_is_object(object))
        return kvp_key_fail(r, KVP_EINPUT, "attn_config", "expected an object");
    KVP_TRY(kvp_dialect_check_keys(&j, &attn_dialect));
    KVP_TRY(kvp_json_bool(&j, "alibi", &a->alibi, NULL));
    KVP_TRY(kvp_json_bool(&j, "rope", &a->rope, NULL));
    KVP_TRY(kvp_json_bool(&j, "qk_ln", &a->qk_ln, NULL));
    KVP_TRY(kvp_json_text(&j, "attn_type", &type, NULL));
    KVP_TRY(kvp_json_real(&j, "alibi_bias_max", &r->m->numbers.alibi_max, NULL));
    KVP_TRY(kvp_json_real(&j, "softmax_scale", &r->m->numbers.score_scale, NULL));
    if (kvp_json_get(&j, "clip_qkv"))
        kvp_cannot_run(r->m, "q, k and v are clipped");
    KVP_TRY(kvp_json_u64(&j, "kv_n_heads", 1, 1 << 16, &a->kv_heads, NULL));
    if (strcmp(type, "multiquery_attention") == 0)
        a->kv_heads = 1;
    if (json_is_integer(json_object_get(object, "sliding_window_size")))
        window = json_integer_value(json_object_get(object, "sliding_window_size"));
    a->window = window > 0 ? (uint64_t)window + 1 : 0; /* keys before the query; -1: all */
    return KVP_OK;
}

static kvp_err mpt_layers(struct kvp_reader *r)
{
    struct mpt_attn a = {0};
    bool no_bias = true, learned = true;

    KVP_TRY(read_attn(r, &a));
    KVP_TRY(kvp_read_flag(r, "no_bias", &no_bias));
    KVP_TRY(kvp_read_flag(r, "learned_pos_emb", &learned));
    if (a.kv_heads && r->proto.heads % a.kv_heads)
        return kvp_key_fail(r, KVP_EINPUT, "attn_config.kv_n_heads", "expected a divisor of n_heads");
    if (a.kv_heads)
        r->proto.kv_heads = (uint32_t)a.kv_heads;
    r->proto.qk_norm = r->proto.qk_norm_wide = a.qk_ln;
    r->proto.qkv_bias = r->proto.o_bias = r->proto.ffn_bias = !no_bias;
    r->m->norm_vectors = no_bias ? 1 : 2;
    r->m->position = a.alibi ? KVP_POS_ALIBI : a.rope ? KVP_POS_ROPE : learned ? KVP_POS_LEARNED : KVP_POS_NONE;
    kvp_spread(r);
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].window = a.window;
    return KVP_OK;
}

/* expansion_ratio: the feed-forward's width in widths. */
static kvp_err mpt_ffn(struct kvp_reader *r)
{
    uint32_t ratio = 4;

    KVP_TRY(kvp_read_count(r, "expansion_ratio", &ratio));
    if (!ratio || (uint64_t)ratio * r->m->width > 1 << 24)
        return kvp_key_fail(r, KVP_EINPUT, "expansion_ratio", "expected a small number above 0");
    r->proto.ffn = KVP_FFN_PLAIN;
    r->proto.ffn_width = ratio * r->m->width;
    return mpt_layers(r);
}

const struct kvp_dialect family_mpt[] = {
    {
        .model_type = {"mpt"}, .architectures = {"MPTForCausalLM", "MptForCausalLM"},
        .rules = {mpt_rules, kvp_rules_layer_norm},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"d_model"}, [KVP_SIZE_LAYERS] = {"n_layers"},
                [KVP_SIZE_HEADS] = {"n_heads"}, [KVP_SIZE_POSITIONS] = {"max_seq_len"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048}, .act = "gelu", .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .norm_no_bias = true, .position = KVP_POS_ALIBI, .own_ffn = true,
        .bias = KVP_BIAS_NONE, .tied = true, .layers = mpt_ffn,
    },
    {.model_type = {0}},
};
