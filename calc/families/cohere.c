/* cohere.c - Command-R, Aya and Command-A: parallel halves under one LayerNorm without a bias. Sources:
 * configuration_{cohere,cohere2}.py and the modelling files beside them in huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

static void not_run(struct kvp_reader *r)
{
    snprintf(r->m->not_run, sizeof(r->m->not_run), "attention and feed-forward side by side, logits scaled");
}

/* Norms of q and k are one for each head. */
static kvp_err cohere_layers(struct kvp_reader *r)
{
    bool qk = false;

    KVP_TRY(kvp_read_flag(r, "use_qk_norm", &qk));
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].qk_norm = r->layer[i].qk_norm_wide = qk;
    not_run(r);
    return KVP_OK;
}

/* Every sliding_window_pattern-th layer is full and does not rotate. */
static kvp_err cohere2_layers(struct kvp_reader *r)
{
    const json_t *types;
    uint32_t pattern = 4, window = 4096;

    KVP_TRY(kvp_read_count(r, "sliding_window_pattern", &pattern));
    KVP_TRY(kvp_read_count(r, "sliding_window", &window));
    KVP_TRY(kvp_read_list(r, "layer_types", &types));
    if (!pattern)
        return kvp_key_fail(r, KVP_EINPUT, "sliding_window_pattern", "expected a number above 0");
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        const bool full = types ? type && type[0] == 'f' : (i + 1) % pattern == 0;

        r->layer[i].window = full ? 0 : window;
        r->layer[i].no_rope = full;
    }
    not_run(r);
    return KVP_OK;
}

static const struct kvp_rule rules[] = {
    {"sliding_window_pattern", KVP_KEY_ANY, "read: which layers slide"},
    {"layer_switch", KVP_KEY_ANY, "another spelling of sliding_window_pattern"},
    {"cache_implementation", KVP_KEY_ANY, "which cache class a generation uses"},
    {"order_of_interleaved_layers", KVP_KEY_ANY, "local attention first: as sliding_window_pattern says"},
    {0},
};

#define COHERE                                                                                                          \
    .key = LLAMA_KEYS, .act_key = "hidden_act", .act = "silu", .eps_key = "layer_norm_eps", .eps = 1e-5,                \
    .norm = KVP_NORM_LAYER, .norm_no_bias = true, .norms = 1, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,           \
    .bias = KVP_BIAS_ATTN, .tied = true, .absent = {[KVP_SIZE_POSITIONS] = 8192}

const struct kvp_dialect family_cohere[] = {
    {.model_type = {"cohere"}, .architectures = {"CohereForCausalLM"}, COHERE, .rules = {kvp_rules_llama, rules}, .layers = cohere_layers},
    {.model_type = {"cohere2"}, .architectures = {"Cohere2ForCausalLM"}, COHERE, .window = KVP_WINDOW_HOOK, .rules = {kvp_rules_llama, rules},
     .layers = cohere2_layers},
    {.model_type = {0}},
};
