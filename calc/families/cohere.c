/* cohere.c - Command R, Aya (cohere) and Command R7B, A (cohere2): one norm a layer without a bias, parallel
 * attention, scaled logits. Sources: configuration_ and modeling_{cohere,cohere2}.py in huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/shared.h"

static const struct kvp_rule cohere_rules[] = {
    {"use_qk_norm", KVP_KEY_ANY, "read: a norm a head on q and k"},
    {"sliding_window", KVP_KEY_ANY, "read: the window"},
    {"sliding_window_pattern", KVP_KEY_ANY, "read: which layers slide"},
    {"layer_switch", KVP_KEY_ANY, "an older word for sliding_window_pattern"},
    {"layer_types", KVP_KEY_ANY, "read: which layers slide"},
    {"order_of_interleaved_layers", KVP_KEY_ANY, "the order that sliding_window_pattern has: sliding layers come first"},
    {"use_parallel_block", KVP_KEY_ANY, "the class has attention and feed-forward in parallel"},
    {"rotary_pct", KVP_KEY_ANY, "read: no size"},
    {"use_embedding_sharing", KVP_KEY_ANY, "read as tie_word_embeddings, which is the default"},
    {0},
};

static kvp_err cohere_layers(struct kvp_reader *r)
{
    r->m->numbers.parallel = r->m->numbers.rope_neighbours = true;
    r->m->numbers.logit_scale = 0.0625;
    KVP_TRY(kvp_json_real(&r->j, "logit_scale", &r->m->numbers.logit_scale, NULL));
    KVP_TRY(kvp_read_flag(r, "use_qk_norm", &r->proto.qk_norm));
    r->proto.qk_norm_wide = r->proto.qk_norm; /* every head has weights of its own */
    kvp_spread(r);
    return KVP_OK;
}

/* Layers that do not slide do not rotate either. */
static kvp_err cohere2_layers(struct kvp_reader *r)
{
    static const char *const spellings[] = {"sliding_window_pattern", "layer_switch", NULL};
    uint32_t pattern = 4;

    KVP_TRY(cohere_layers(r));
    KVP_TRY(kvp_read_count_of(r, spellings, &pattern));
    if (!pattern)
        return kvp_key_fail(r, KVP_EINPUT, "sliding_window_pattern", "expected a number above 0");
    KVP_TRY(kvp_read_slides(r, 4096, pattern));
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].no_rope = r->layer[i].window == 0;
    return KVP_OK;
}

#define COHERE                                                                                               \
    .rules = {cohere_rules, kvp_rules_layer_norm}, .key = LLAMA_KEYS, .absent = {[KVP_SIZE_POSITIONS] = 8192}, \
    .act_key = "hidden_act", .act = "silu", .eps_key = "layer_norm_eps", .eps = 1e-5, .norm = KVP_NORM_LAYER, \
    .norm_no_bias = true, .norms = 1, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_ATTN,  \
    .tied = true

const struct kvp_dialect family_cohere[] = {
    {.model_type = {"cohere"}, .architectures = {"CohereForCausalLM"}, COHERE, .layers = cohere_layers},
    {.model_type = {"cohere2"}, .architectures = {"Cohere2ForCausalLM"}, COHERE, .window = KVP_WINDOW_HOOK,
     .layers = cohere2_layers},
    {.model_type = {0}},
};
