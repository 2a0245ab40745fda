/* olmo.c - OLMo 1 (norms without weights), 2 and 3 (norms of q and k over all heads, after the halves). Sources:
 * configuration_{olmo,olmo2,olmo3}.py and the modelling files beside them in huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

static kvp_err olmo_layers(struct kvp_reader *r)
{
    r->m->norm_vectors = 0;
    return KVP_OK;
}

static kvp_err olmo2_layers(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].qk_norm_wide = true;
    snprintf(r->m->not_run, sizeof(r->m->not_run), "norms after attention and after the feed-forward");
    return KVP_OK;
}

static const struct kvp_rule rules[] = {
    {"clip_qkv", KVP_KEY_ANY, "a bound on values"},
    {0},
};

const struct kvp_dialect family_olmo[] = {
    {.model_type = {"olmo"}, .architectures = {"OlmoForCausalLM"}, .key = LLAMA_KEYS, .act_key = "hidden_act", .act = "silu", .eps = 1e-5,
     .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_ATTN, .absent = {[KVP_SIZE_POSITIONS] = 2048},
     .rules = {kvp_rules_llama, rules}, .layers = olmo_layers},
    {.model_type = {"olmo2"}, .architectures = {"Olmo2ForCausalLM"}, LLAMA_LIKE, .bias = KVP_BIAS_ATTN, .qk_norm = true,
     .absent = {[KVP_SIZE_POSITIONS] = 2048}, .rules = {kvp_rules_llama, rules}, .layers = olmo2_layers},
    {.model_type = {"olmo3"}, .architectures = {"Olmo3ForCausalLM"}, LLAMA_LIKE, .bias = KVP_BIAS_ATTN, .qk_norm = true,
     .window = KVP_WINDOW_EVERY, .absent = {[KVP_SIZE_POSITIONS] = 2048}, .rules = {kvp_rules_llama, rules}, .layers = olmo2_layers},
    {.model_type = {0}},
};
