/* falcon_h1.c - attention and Mamba-2 in Hugging Face's mamba_d_state dialect: side by side in every layer
 * (Falcon-H1), or one of the two a layer (Granite-4-H, Bamba). Sources: {configuration,modeling}_falcon_h1,
 * granitemoehybrid and bamba .py of huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"
#include "calc/families/llama_like.h"

#include <string.h>

#define MAMBA_RULES                                                            \
    {"mamba_d_state", KVP_KEY_ANY, "read: the state's columns"},               \
    {"mamba_n_heads", KVP_KEY_ANY, "read: Mamba-2's heads"},                   \
    {"mamba_d_head", KVP_KEY_ANY, "read: rows of a head's state"},             \
    {"sliding_window", KVP_KEY_FALSE, "attention of this class has no window"}

static const struct kvp_rule falcon_rules[] = {
    MAMBA_RULES,
    {"lm_head_multiplier", KVP_KEY_ANY, "a factor"},
    {"layers_block_type", KVP_KEY_ANY, "every layer is hybrid"},
    {"layer_types", KVP_KEY_ANY, "every layer is hybrid"},
    {"projectors_bias", KVP_KEY_FALSE, "biases of the output projection alone are not supported"},
    {"mamba_use_mlp", KVP_KEY_TRUE, "layers would have no feed-forward"},
    {"mamba_d_conv", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_d_ssm", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_expand", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_n_groups", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_conv_bias", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_proj_bias", KVP_KEY_ANY, "read: Mamba-2"},
    {"ssm_in_multiplier", KVP_KEY_ANY, "a factor"},
    {"ssm_out_multiplier", KVP_KEY_ANY, "a factor"},
    {"ssm_multipliers", KVP_KEY_ANY, "factors"},
    {"mamba_norm_before_gate", KVP_KEY_ANY, "the order of a norm and a gate"},
    {"mamba_rms_norm", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_chunk_size", KVP_KEY_ANY, "how a scan is computed"},
    {0},
};
static const struct kvp_rule granite_rules[] = {
    MAMBA_RULES,
    {"layer_types", KVP_KEY_ANY, "read: mamba or attention"},
    {"layers_block_type", KVP_KEY_ANY, "layer_types again"},
    {"num_local_experts", KVP_KEY_ANY, "read: experts a layer"},
    {"num_experts_per_tok", KVP_KEY_ANY, "read: experts a token"},
    {"shared_intermediate_size", KVP_KEY_ANY, "read: width of the shared feed-forward"},
    {"normalization_function", KVP_KEY_ANY, "rmsnorm, as the class has it"},
    {"init_method", KVP_KEY_ANY, "training only"},
    {"mamba_d_conv", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_expand", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_n_groups", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_conv_bias", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_proj_bias", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_chunk_size", KVP_KEY_ANY, "how a scan is computed"},
    {0},
};
static const struct kvp_rule bamba_rules[] = {
    MAMBA_RULES,
    {"attn_layer_indices", KVP_KEY_ANY, "read: which layers attend"},
    {"layer_types", KVP_KEY_ANY, "attn_layer_indices again"},
    {"layers_block_type", KVP_KEY_ANY, "attn_layer_indices again"},
    {"attn_rotary_emb", KVP_KEY_ANY, "how many of a head's elements rotate"},
    {"num_experts", KVP_KEY_ANY, "this class has one feed-forward a layer"},
    {"num_experts_per_tok", KVP_KEY_ANY, "this class has one feed-forward a layer"},
    {"expert_layer_offset", KVP_KEY_ANY, "this class has one feed-forward a layer"},
    {"expert_layer_period", KVP_KEY_ANY, "this class has one feed-forward a layer"},
    {"mamba_d_conv", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_expand", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_n_groups", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_conv_bias", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_proj_bias", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_chunk_size", KVP_KEY_ANY, "how a scan is computed"},
    {0},
};

static const struct kvp_mamba_keys mamba_keys = {
    .state = {{"mamba_d_state"}, 256}, .conv = {{"mamba_d_conv"}, 4}, .expand = {{"mamba_expand"}, 2},
    .heads = {{"mamba_n_heads"}, 128}, .head_dim = {{"mamba_d_head"}, 0}, .groups = {{"mamba_n_groups"}, 1},
    .inner = {{"mamba_d_ssm"}, 0}, .conv_bias = "mamba_conv_bias", .bias = "mamba_proj_bias",
};

static kvp_err falcon_layers(struct kvp_reader *r)
{
    struct kvp_layer_class *c = &r->proto;

    KVP_TRY(kvp_read_mamba2(r, &mamba_keys, c));
    c->rec_norm = false;
    KVP_TRY(kvp_read_flag(r, "mamba_rms_norm", &c->rec_norm));
    for (uint32_t i = 0; i < r->m->layers; i++)
        memcpy(&r->layer[i], c, sizeof(*c));
    return KVP_OK;
}

/* A shared feed-forward in every layer, and experts beside it when there are any. */
static kvp_err granite_ffn(struct kvp_reader *r)
{
    struct kvp_layer_class *c = &r->proto;
    uint32_t shared = 1024;
    const uint32_t width = c->ffn_width;

    c->experts = 8;
    KVP_TRY(kvp_read_count(r, "num_local_experts", &c->experts));
    KVP_TRY(kvp_read_count(r, "shared_intermediate_size", &shared));
    c->ffn_width = c->experts ? 0 : shared;
    if (!c->experts)
        return KVP_OK;
    c->expert_width = width;
    c->shared_width = shared;
    c->experts_per_token = 2;
    return kvp_read_count(r, "num_experts_per_tok", &c->experts_per_token);
}

static kvp_err granite_layers(struct kvp_reader *r)
{
    const char *positions = "", *key = kvp_json_get(&r->j, "layer_types") ? "layer_types" : "layers_block_type";
    struct kvp_layer_class mamba;
    const json_t *types;

    KVP_TRY(kvp_json_text(&r->j, "position_embedding_type", &positions, NULL));
    if (strcmp(positions, "rope") != 0)
        r->m->position = KVP_POS_NONE;
    KVP_TRY(granite_ffn(r));
    KVP_TRY(kvp_read_list(r, key, &types));
    memset(&mamba, 0, sizeof(mamba));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const char *type = types ? kvp_word_at(types, i) : "mamba";
        const bool attends = kvp_is_attention(type);

        if (!attends && !kvp_is_mamba(type))
            return kvp_layer_kind_fail(r, key, i, type, "mamba and attention");
        if (!attends && !mamba.recurrent) {
            memcpy(&mamba, &r->proto, sizeof(mamba));
            kvp_drop_attention(&mamba);
            KVP_TRY(kvp_read_mamba2(r, &mamba_keys, &mamba));
        }
        memcpy(&r->layer[i], attends ? &r->proto : &mamba, sizeof(mamba));
    }
    return KVP_OK;
}

static kvp_err bamba_layers(struct kvp_reader *r)
{
    const json_t *attend = kvp_json_get(&r->j, "attn_layer_indices");
    struct kvp_layer_class mamba;

    if (attend && !json_is_array(attend))
        return kvp_key_fail(r, KVP_EINPUT, "attn_layer_indices", "expected a list of layers");
    memcpy(&mamba, &r->proto, sizeof(mamba));
    kvp_drop_attention(&mamba);
    KVP_TRY(kvp_read_mamba2(r, &mamba_keys, &mamba));
    for (uint32_t i = 0; i < r->m->layers; i++)
        memcpy(&r->layer[i], attend && kvp_list_has(attend, i) ? &r->proto : &mamba, sizeof(mamba));
    return KVP_OK;
}

const struct kvp_dialect family_falcon_h1[] = {
    {
        .model_type = {"falcon_h1"},
        .architectures = {"FalconH1ForCausalLM", "FalconH1Model"},
        .rules = {falcon_rules},
        .key = LLAMA_KEYS, .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 8192},
        .bias = KVP_BIAS_KEYS, .window = KVP_WINDOW_HOOK, .layers = falcon_layers,
    },
    {
        .model_type = {"granitemoehybrid"},
        .architectures = {"GraniteMoeHybridForCausalLM", "GraniteMoeHybridModel"},
        .rules = {granite_rules},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .bias = KVP_BIAS_ATTN, .window = KVP_WINDOW_HOOK, .layers = granite_layers,
    },
    {
        .model_type = {"bamba"},
        .architectures = {"BambaForCausalLM", "BambaModel"},
        .rules = {bamba_rules},
        .key = LLAMA_KEYS, .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 262144},
        .bias = KVP_BIAS_KEYS, .window = KVP_WINDOW_HOOK, .layers = bamba_layers,
    },
    {.model_type = {0}},
};
