/* gemma.c - Gemma 1 to 3. Sources: configuration_{gemma,gemma2,gemma3}.py and the modelling files beside them
 * in huggingface/transformers. Embeddings are multiplied by sqrt(width) and norms by 1 + weight; Gemma 2 caps
 * scores and logits. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/tower.h"

#include <string.h>

static kvp_err gemma_layers(struct kvp_reader *r)
{
    snprintf(r->m->not_run, sizeof(r->m->not_run), "embeddings are scaled, norms are 1 + weight");
    return KVP_OK;
}

/* A full layer every `pattern` layers, or as layer_types says; the others see `window` tokens. */
static kvp_err slide(struct kvp_reader *r, uint32_t pattern, uint32_t window)
{
    const json_t *types;

    KVP_TRY(kvp_read_list(r, "layer_types", &types));
    KVP_TRY(kvp_read_count(r, "sliding_window_pattern", &pattern));
    KVP_TRY(kvp_read_count(r, "sliding_window", &window));
    if (!pattern || !window)
        return kvp_key_fail(r, KVP_EINPUT, pattern ? "sliding_window" : "sliding_window_pattern", "expected a number above 0");
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));

        if (types && (!type || (strcmp(type, "full_attention") != 0 && strcmp(type, "sliding_attention") != 0)))
            return kvp_key_fail(r, KVP_ENOTSUP, "layer_types", "full_attention and sliding_attention are supported");
        r->layer[i].norms = 4;
        r->layer[i].window = (types ? *type == 'f' : (i + 1) % pattern == 0) ? 0 : window;
    }
    return gemma_layers(r);
}

static kvp_err gemma2_layers(struct kvp_reader *r)
{
    return slide(r, 2, 4096);
}

static kvp_err gemma3_layers(struct kvp_reader *r)
{
    return slide(r, 6, 4096);
}

/* SigLIP: patches, positions, layers with biases and two LayerNorms, one more at the end; then a projection. */
static kvp_err gemma3_tower(struct kvp_reader *r)
{
    struct kvp_reader v;
    uint32_t D = 1152, F = 4304, L = 27, patch = 14, image = 896;
    bool found;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(kvp_read_count(&v, "hidden_size", &D));
    KVP_TRY(kvp_read_count(&v, "intermediate_size", &F));
    KVP_TRY(kvp_read_count(&v, "num_hidden_layers", &L));
    KVP_TRY(kvp_read_count(&v, "patch_size", &patch));
    KVP_TRY(kvp_read_count(&v, "image_size", &image));
    if (!patch || patch > image)
        return kvp_key_fail(&v, KVP_EINPUT, "patch_size", "expected a part of image_size");
    KVP_TRY(tower_add(r, "vision_patch", D, 3 * patch * patch, 1));
    KVP_TRY(tower_add(r, "vision_positions", image / patch * (image / patch), D, 1));
    KVP_TRY(tower_add(r, "vision_attention", D, D, 4 * L));
    KVP_TRY(tower_add(r, "vision_mlp", D, F, 2 * L));
    KVP_TRY(tower_add(r, "vision_mlp_bias", F, 1, L));
    KVP_TRY(tower_add(r, "vision_vectors", D, 1, 9 * L + 3)); /* 4 + 1 biases, 2 norms; patch bias, last norm */
    KVP_TRY(tower_add(r, "projector", D, r->m->width, 1));
    return tower_add(r, "projector_norm", D, 1, 1);
}

static const struct kvp_rule rules[] = {
    {"hidden_activation", KVP_KEY_ANY, "another spelling of hidden_act"},
    {"cache_implementation", KVP_KEY_ANY, "which cache class a generation uses"},
    {"sliding_window_size", KVP_KEY_ANY, "another spelling of sliding_window"},
    {"sliding_window_pattern", KVP_KEY_ANY, "read: which layers slide"},
    {"_sliding_window_pattern", KVP_KEY_ANY, "which layers slide; layer_types says it"},
    {"final_logit_softcapping", KVP_KEY_ANY, "a cap on logits"},
    {"use_bidirectional_attention", KVP_KEY_ANY, "a mask"},
    {"mm_tokens_per_image", KVP_KEY_ANY, "how many tokens a picture takes"},
    {0},
};

#define GEMMA(heads_, kv_, positions_)                                                                                  \
    .key = LLAMA_KEYS, .act_key = "hidden_activation", .act = "gelu_pytorch_tanh", .eps_key = "rms_norm_eps",           \
    .eps = 1e-6, .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_ATTN, .tied = true,                      \
    .rules = {kvp_rules_llama, rules},                                                                                  \
    .absent = {[KVP_SIZE_HEADS] = heads_, [KVP_SIZE_KV_HEADS] = kv_, [KVP_SIZE_HEAD_DIM] = 256, [KVP_SIZE_POSITIONS] = positions_,               \
               [KVP_SIZE_VOCAB] = 262208}

const struct kvp_dialect family_gemma[] = {
    {.model_type = {"gemma"}, .architectures = {"GemmaForCausalLM"}, GEMMA(16, 16, 8192), .layers = gemma_layers},
    {.model_type = {"gemma2"}, .architectures = {"Gemma2ForCausalLM"}, GEMMA(8, 4, 8192), .window = KVP_WINDOW_HOOK, .layers = gemma2_layers},
    {.model_type = {"gemma3_text"}, .architectures = {"Gemma3ForCausalLM"}, GEMMA(8, 4, 131072), .qk_norm = true, .window = KVP_WINDOW_HOOK,
     .layers = gemma3_layers},
    {.model_type = {"gemma3"}, .architectures = {"Gemma3ForConditionalGeneration"}, .nested = {"text_config"}, .inner = "gemma3_text",
     .rules = {rules}, .tower = gemma3_tower},
    {.model_type = {0}},
};
