/* stablelm.c - StableLM. Source: configuration_stablelm.py, modeling_stablelm.py in huggingface/transformers;
 * stabilityai/stable-code-3b for the spelling stablelm_epoch. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

/* With parallel residuals one norm feeds both halves; norms of q and k are one for each head, without bias. */
static kvp_err layers(struct kvp_reader *r)
{
    bool bias = false, parallel = false, qk = false;

    KVP_TRY(kvp_read_flag(r, "use_qkv_bias", &bias));
    KVP_TRY(kvp_read_flag(r, "use_parallel_residual", &parallel));
    KVP_TRY(kvp_read_flag(r, "qk_layernorm", &qk));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].qkv_bias = bias;
        r->layer[i].norms = parallel ? 1 : 2;
        r->layer[i].qk_norm = r->layer[i].qk_norm_wide = qk;
    }
    snprintf(r->m->not_run, sizeof(r->m->not_run), "part of a head rotated");
    return KVP_OK;
}

static const struct kvp_rule rules[] = {
    {"qk_layernorm", KVP_KEY_ANY, "read: norms of q and k"},
    {"num_heads", KVP_KEY_ANY, "another spelling of num_attention_heads"},
    {"norm_eps", KVP_KEY_ANY, "another spelling of the norm's epsilon"},
    {"hidden_dropout", KVP_KEY_ANY, "training only"},
    {0},
};

const struct kvp_dialect family_stablelm[] = {
    {
        .model_type = {"stablelm", "stablelm_epoch"},
        .architectures = {"StableLmForCausalLM", "StableLMEpochForCausalLM"},
        .key = LLAMA_KEYS,
        .absent = {[KVP_SIZE_POSITIONS] = 4096},
        .act_key = "hidden_act", .act = "silu", .eps_key = "layer_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE,
        .rules = {kvp_rules_llama, rules},
        .layers = layers,
    },
    {.model_type = {0}},
};
