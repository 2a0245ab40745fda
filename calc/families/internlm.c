/* internlm.c - remote-code classes that are Llama under another name: InternLM 1 and 2, Baichuan, XVERSE,
 * Orion. Sources: the modelling files in their own repositories (internlm/internlm-7b, internlm2-7b,
 * baichuan-inc/Baichuan2-7B-Chat, xverse/XVERSE-7B, OrionStarAI/Orion-14B-Base). */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

/* InternLM-1's `bias` is for q, k, v and o. */
static kvp_err internlm_layers(struct kvp_reader *r)
{
    bool bias = true;

    KVP_TRY(kvp_read_flag(r, "bias", &bias));
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].qkv_bias = r->layer[i].o_bias = bias;
    return KVP_OK;
}

static kvp_err internlm2_layers(struct kvp_reader *r)
{
    bool bias = false;

    KVP_TRY(kvp_read_flag(r, "bias", &bias));
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].qkv_bias = r->layer[i].o_bias = bias;
    return KVP_OK;
}

/* Baichuan-13B has ALiBi: its configs say model_max_length and no rotary key; sizes are the same. */
static const struct kvp_rule bias_rules[] = {
    {"bias", KVP_KEY_ANY, "read: biases of q, k, v and o"},
    {0},
};
static const struct kvp_rule own_rules[] = {
    {"z_loss_weight", KVP_KEY_ANY, "training only"},
    {0},
};

#define LIKE(type, arch)                                                                                                \
    .model_type = {type}, .architectures = {arch}, LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 2048}

const struct kvp_dialect family_internlm[] = {
    {LIKE("internlm", "InternLMForCausalLM"), .bias = KVP_BIAS_NONE, .rules = {bias_rules, kvp_rules_llama}, .layers = internlm_layers},
    {LIKE("internlm2", "InternLM2ForCausalLM"), .bias = KVP_BIAS_NONE, .rules = {bias_rules, kvp_rules_llama}, .layers = internlm2_layers},
    {LIKE("baichuan", "BaichuanForCausalLM"), .bias = KVP_BIAS_NONE, .rules = {own_rules, kvp_rules_llama}},
    {LIKE("xverse", "XverseForCausalLM"), .bias = KVP_BIAS_NONE, .rules = {own_rules, kvp_rules_llama}},
    {.model_type = {"orion"}, .architectures = {"OrionForCausalLM"}, .key = LLAMA_KEYS, .absent = {[KVP_SIZE_POSITIONS] = 4096},
     .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-5, .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE,
     .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE, .rules = {own_rules, kvp_rules_llama}},
    {.model_type = {0}},
};
