/* minimax_01.c - MiniMax-Text-01 and M1: lightning attention, softmax attention every eighth layer, experts
 * everywhere. Sources: configuration_ and modeling_minimax_{text_01,m1}.py beside the checkpoints;
 * {configuration,modeling}_minimax.py of huggingface/transformers (its layer_types). */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"
#include "calc/families/llama_like.h"

#include <string.h>

static const struct kvp_rule rules[] = {
    {"attn_type_list", KVP_KEY_ANY, "read: 0 lightning, 1 softmax"},
    {"decoder_attention_types", KVP_KEY_ANY, "attn_type_list again"},
    {"layer_types", KVP_KEY_ANY, "read: linear_attention or full_attention"},
    {"layernorm_full_attention_alpha", KVP_KEY_ANY, "a factor"},
    {"layernorm_full_attention_beta", KVP_KEY_ANY, "a factor"},
    {"layernorm_linear_attention_alpha", KVP_KEY_ANY, "a factor"},
    {"layernorm_linear_attention_beta", KVP_KEY_ANY, "a factor"},
    {"layernorm_mlp_alpha", KVP_KEY_ANY, "a factor"},
    {"layernorm_mlp_beta", KVP_KEY_ANY, "a factor"},
    {"num_local_experts", KVP_KEY_ANY, "read: experts a layer"},
    {"num_experts_per_tok", KVP_KEY_ANY, "read: experts a token"},
    {"full_attn_alpha_factor", KVP_KEY_ANY, "a factor"},
    {"full_attn_beta_factor", KVP_KEY_ANY, "a factor"},
    {"block_size", KVP_KEY_ANY, "how a scan is computed"},
    {"rotary_dim", KVP_KEY_ANY, "how many of a head's elements rotate"},
    {"shared_intermediate_size", KVP_KEY_FALSE, "shared experts of this class are not supported"},
    {"shared_moe_mode", KVP_KEY_ANY, "nothing without shared experts"},
    {"sliding_window", KVP_KEY_FALSE, "attention of this class has no window"},
    {0},
};

static kvp_err read_moe(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    c->expert_width = c->ffn_width;
    c->ffn_width = 0;
    c->experts = 8;
    c->experts_per_token = 2;
    KVP_TRY(kvp_read_count(r, "num_local_experts", &c->experts));
    return kvp_read_count(r, "num_experts_per_tok", &c->experts_per_token);
}

static kvp_err attends(const struct kvp_reader *r, const json_t *kinds, const json_t *types, uint32_t i, bool *out)
{
    const json_int_t kind = json_integer_value(json_array_get(kinds, i));
    const char *type = kinds ? kind == 1 ? "full_attention" : kind == 0 ? "linear_attention" : "?" : kvp_word_at(types, i);

    *out = strcmp(type, "full_attention") == 0;
    if (*out || strcmp(type, "linear_attention") == 0)
        return KVP_OK;
    return kvp_layer_kind_fail(r, kinds ? "attn_type_list" : "layer_types", i, type,
                               kinds ? "0 and 1" : "linear_attention and full_attention");
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class lightning;
    const json_t *kinds, *types;
    bool full;

    KVP_TRY(kvp_read_list(r, "attn_type_list", &kinds));
    KVP_TRY(kvp_read_list(r, "layer_types", &types));
    if (!kinds && !types)
        return kvp_key_fail(r, KVP_EINPUT, "attn_type_list", "it is missing, and so is layer_types");
    KVP_TRY(read_moe(r, &r->proto));
    memcpy(&lightning, &r->proto, sizeof(lightning));
    kvp_drop_attention(&lightning);
    lightning.recurrent = KVP_REC_LIGHTNING;
    lightning.rec_heads = r->proto.heads;
    lightning.rec_head_dim = r->proto.head_dim;
    KVP_TRY(kvp_channels(r, "head_dim", r->proto.heads, r->proto.head_dim, &lightning.inner));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        KVP_TRY(attends(r, kinds, types, i, &full));
        memcpy(&r->layer[i], full ? &r->proto : &lightning, sizeof(lightning));
    }
    return KVP_OK;
}

const struct kvp_dialect family_minimax_01[] = {
    {
        .model_type = {"minimax_text_01", "minimax_m1", "minimax", "MiniMaxText01", "MiniMaxM1"},
        .architectures = {"MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM", "MiniMaxForCausalLM"},
        .rules = {rules},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 32768},
        .bias = KVP_BIAS_NONE, .window = KVP_WINDOW_HOOK, .layers = layers,
    },
    {.model_type = {0}},
};
