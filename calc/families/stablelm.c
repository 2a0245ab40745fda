/* stablelm.c - StableLM 3B-4E1T, 2, Stable Code; Nemotron (dense, Minitron). Sources: configuration_ and
 * modeling_{stablelm,nemotron}.py in huggingface/transformers, modeling_stablelm_epoch.py of
 * stabilityai/stablelm-3b-4e1t. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/shared.h"

static const struct kvp_rule stablelm_rules[] = {
    {"use_qkv_bias", KVP_KEY_ANY, "read: biases of q, k and v"},
    {"qk_layernorm", KVP_KEY_ANY, "read: a norm a head on q and k"},
    {"use_parallel_residual", KVP_KEY_ANY, "read: one norm a layer"},
    {"num_heads", KVP_KEY_ANY, "the same as num_attention_heads"},
    {0},
};
static const struct kvp_rule nemotron_rules[] = {
    {"attention_bias", KVP_KEY_ANY, "read: biases"},
    {"mlp_bias", KVP_KEY_ANY, "read: biases"},
    {0},
};

static kvp_err stablelm_layers(struct kvp_reader *r)
{
    bool parallel = false, norms = false;

    KVP_TRY(kvp_read_flag(r, "use_qkv_bias", &r->proto.qkv_bias));
    KVP_TRY(kvp_read_flag(r, "qk_layernorm", &norms));
    KVP_TRY(kvp_read_flag(r, "use_parallel_residual", &parallel));
    r->proto.qk_norm = r->proto.qk_norm_wide = norms; /* every head has a norm of its own: as many weights */
    if (parallel) {
        r->proto.norms = 1;
        r->m->numbers.parallel = true;
    }
    if (!json_object_get(r->j.object, "rope_pct") && !json_object_get(r->j.object, "partial_rotary_factor") &&
        !json_object_get(r->j.object, "rope_parameters"))
        r->m->numbers.rotary_part = 0.25; /* class default */
    kvp_spread(r);
    return KVP_OK;
}

static kvp_err nemotron_layers(struct kvp_reader *r)
{
    r->m->numbers.norm_add_one = true;
    return kvp_rotary_absent(r, 0.5);
}

const struct kvp_dialect family_stablelm[] = {
    {
        .model_type = {"stablelm", "stablelm_epoch"}, .architectures = {"StableLmForCausalLM", "StableLMEpochForCausalLM"},
        .rules = {stablelm_rules, kvp_rules_layer_norm}, .key = LLAMA_KEYS, .absent = {[KVP_SIZE_POSITIONS] = 4096},
        .act_key = "hidden_act", .act = "silu", .eps_key = "layer_norm_eps", .eps = 1e-5, .norm = KVP_NORM_LAYER,
        .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE, .layers = stablelm_layers,
        .partial_rotary = true,
    },
    {
        .model_type = {"nemotron"}, .architectures = {"NemotronForCausalLM"},
        .rules = {nemotron_rules, kvp_rules_layer_norm}, .key = LLAMA_KEYS, .absent = {[KVP_SIZE_POSITIONS] = 4096},
        .act_key = "hidden_act", .act = "relu2", .eps_key = "norm_eps", .eps = 1e-5, .norm = KVP_NORM_LAYER,
        .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_KEYS, .layers = nemotron_layers,
        .partial_rotary = true,
    },
    {.model_type = {0}},
};
