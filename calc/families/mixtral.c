/* mixtral.c - decoders whose every feed-forward is experts: Mixtral, Phi-3.5-MoE, GraniteMoE, OLMoE, Grok-1.
 * Sources: configuration_{mixtral,phimoe,granitemoe,olmoe}.py and the modelling files beside them in
 * huggingface/transformers; Grok-1: xai-org/grok-1 model.py, keys of hpcai-tech/grok-1. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"
#include "calc/families/shared.h"

static kvp_err every_layer(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;

    KVP_TRY(moe_read(r, &moe));
    return moe_layers(r, &moe);
}

static kvp_err mixtral_layers(struct kvp_reader *r)
{
    r->m->numbers.route = KVP_ROUTE_SOFTMAX;
    r->m->numbers.route_normalise = true;
    return every_layer(r);
}

/* attention_bias is for q, k, v and o; norms are LayerNorm. */
static kvp_err phimoe_layers(struct kvp_reader *r)
{
    KVP_TRY(kvp_read_flag(r, "lm_head_bias", &r->m->head_bias));
    return every_layer(r);
}

static kvp_err granite_layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;

    KVP_TRY(moe_read(r, &moe));
    KVP_TRY(kvp_read_count(r, "shared_intermediate_size", &moe.shared_width));
    r->m->numbers.route = KVP_ROUTE_CHOSEN;
    KVP_TRY(kvp_read_multipliers(r));
    return moe_layers(r, &moe);
}

static kvp_err olmoe_layers(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].qk_norm_wide = true;
    r->m->numbers.route = KVP_ROUTE_SOFTMAX;
    KVP_TRY(kvp_read_flag(r, "norm_topk_prob", &r->m->numbers.route_normalise));
    if (kvp_json_get(&r->j, "clip_qkv"))
        kvp_cannot_run(r->m, "q, k and v are clipped");
    return every_layer(r);
}

static const struct kvp_rule phimoe_rules[] = {
    {"lm_head_bias", KVP_KEY_ANY, "read: the head's bias"},
    {"hidden_dropout", KVP_KEY_ANY, "training only"},
    {0},
};
static const struct kvp_rule granite_rules[] = {
    {"shared_intermediate_size", KVP_KEY_ANY, "read: width of the shared expert"},
    {0},
};
static const struct kvp_rule grok_rules[] = {
    {"max_attn_value", KVP_KEY_ANY, "a cap on scores"},
    {0},
};

const struct kvp_dialect family_mixtral[] = {
    {
        .model_type = {"mixtral"},
        .rules = {kvp_rules_moe},
        .architectures = {"MixtralForCausalLM", "MixtralModel"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 131072},
        .bias = KVP_BIAS_NONE,
        .window = KVP_WINDOW_EVERY,
        .layers = mixtral_layers,
    },
    {
        .model_type = {"phimoe"},
        .rules = {kvp_rules_moe, phimoe_rules},
        .architectures = {"PhiMoEForCausalLM", "PhimoeForCausalLM"},
        .key = LLAMA_KEYS, .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 131072},
        .bias = KVP_BIAS_ATTN,
        .window = KVP_WINDOW_EVERY,
        .layers = phimoe_layers,
    },
    {
        .model_type = {"granitemoe", "granitemoeshared"},
        .rules = {kvp_rules_moe, granite_rules},
        .architectures = {"GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .bias = KVP_BIAS_ATTN,
        .layers = granite_layers,
    },
    {
        .model_type = {"olmoe"},
        .rules = {kvp_rules_moe},
        .architectures = {"OlmoeForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_POSITIONS] = 4096},
        .bias = KVP_BIAS_ATTN, .qk_norm = true,
        .layers = olmoe_layers,
    },
    {
        .model_type = {"grok-1", "grok_1"},
        .rules = {kvp_rules_moe, grok_rules},
        .architectures = {"Grok1ModelForCausalLM", "Grok1ForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_POSITIONS] = 8192},
        .bias = KVP_BIAS_NONE, .norms = 4, .tied = true,
        .layers = every_layer,
    },
    {.model_type = {0}},
};
