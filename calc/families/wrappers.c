/* wrappers.c - multimodal models around a text model that has a dialect of its own: LLaVA, Mistral 3, CogVLM2,
 * InfiMM. Sources: configuration_ and modeling_{llava,mistral3,clip}.py of huggingface/transformers;
 * llava_arch.py of haotian-liu/LLaVA; modeling_cogvlm.py beside THUDM/cogvlm2-llama3-caption and
 * cogvlm2-llama3-chat-19B. Pixtral's and EVA's towers are not counted. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/vision.h"

#include <string.h>

static const struct kvp_rule llava_rules[] = {
    {"mm_vision_select_layer", KVP_KEY_ANY, "which layer of the tower is read; no size"},
    {"vision_feature_layer", KVP_KEY_ANY, "which layer of the tower is read; no size"},
    {"multimodal_projector_bias", KVP_KEY_TRUE, "the projector would have no biases"},
    {"mm_resampler_type", KVP_KEY_FALSE, "a resampler would stand before the decoder"},
    {"max_window_layers", KVP_KEY_ANY, "nothing without use_sliding_window"},
    {0},
};
static const struct kvp_rule mistral3_rules[] = {
    {"vision_feature_layer", KVP_KEY_ANY, "which layer of the tower is read; no size"},
    {"multimodal_projector_bias", KVP_KEY_ANY, "of the projector; no size of the text model"},
    {0},
};
static const struct kvp_rule infimm_rules[] = {
    {"cross_attn_every_n_layers", KVP_KEY_FALSE, "the gated cross-attention layers between have sizes that no key tells"},
    {0},
};
static const struct kvp_rule cogvlm_rules[] = {
    {"num_multi_query_heads", KVP_KEY_ANY, "read: the KV heads"},
    {0},
};

/* Two linears from the tower's width to the model's. */
static kvp_err projector(struct kvp_reader *r, uint32_t from)
{
    KVP_TRY(vision_linear(r, "projector.linear_1", r->m->width, from, 1));
    return vision_linear(r, "projector.linear_2", r->m->width, r->m->width, 1);
}

/* The original checkpoint holds the projector and names the tower's own (mm_vision_tower). */
static kvp_err llava_towers(struct kvp_reader *r)
{
    struct vision v = {.width = 1024, .ffn = 4096, .layers = 24, .patch = 14, .image = 336, .channels = 3, .clip = true};
    const char *type = "clip_vision_model", *shape = "";
    struct kvp_reader t;
    uint32_t from = 0;
    bool found;

    KVP_TRY(kvp_read_count(r, "mm_hidden_size", &from));
    KVP_TRY(kvp_json_text(&r->top, "mm_projector_type", &shape, NULL));
    if (from && strcmp(shape, "mlp2x_gelu") == 0)
        return projector(r, from);
    KVP_TRY(tower_open(r, "vision_config", &t, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(kvp_json_text(&t.j, "model_type", &type, NULL));
    if (strcmp(type, "clip_vision_model") != 0 && strcmp(type, "siglip_vision_model") != 0)
        return KVP_OK;
    v.clip = strcmp(type, "clip_vision_model") == 0;
    KVP_TRY(vision_read(r, "vision_config", &v, &found));
    KVP_TRY(vision_vit(r, &v));
    KVP_TRY(vision_norm(r, "tower.post_layernorm", v.width, 1));
    return projector(r, v.width);
}

/* CogVLM has weights for image tokens beside those for text in every layer; the video model has not. */
static kvp_err cogvlm_layers(struct kvp_reader *r)
{
    const char *arch = json_string_value(json_array_get(json_object_get(r->j.object, "architectures"), 0));
    const uint32_t D = r->m->width;

    if (arch && strcmp(arch, "CogVLMVideoForCausalLM") == 0)
        return KVP_OK;
    for (uint32_t i = 0; i < r->m->layers; i++) {
        struct kvp_layer_class *c = &r->layer[i];

        KVP_TRY(kvp_add_extra(r, c->extra, "vision_expert.qkv", (c->heads + 2 * c->kv_heads) * c->head_dim, D, 1, false));
        KVP_TRY(kvp_add_extra(r, c->extra, "vision_expert.o", D, c->heads * c->head_dim, 1, false));
        KVP_TRY(kvp_add_extra(r, c->extra, "vision_expert.mlp", c->ffn_width, D, 3, false));
    }
    return KVP_OK;
}

const struct kvp_dialect family_wrappers[] = {
    {
        .model_type = {"llava", "llava_llama", "llava_next"},
        .rules = {llava_rules},
        .architectures = {"LlavaForConditionalGeneration", "LlavaLlamaForCausalLM", "LlavaNextForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "llama", .towers = llava_towers,
    },
    {
        .model_type = {"mistral3"},
        .rules = {mistral3_rules},
        .architectures = {"Mistral3ForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "mistral",
    },
    {
        .model_type = {"infimm-zephyr"},
        .rules = {infimm_rules},
        .architectures = {"InfiMMZephyrModel"},
        .nested = {"language"}, .inner = "mistral",
    },
    {
        .model_type = {"cogvlm", "cogvlm2"},
        .rules = {cogvlm_rules, kvp_rules_llama},
        .architectures = {"CogVLMVideoForCausalLM", "CogVLMForCausalLM"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"}, [KVP_SIZE_LAYERS] = {"num_hidden_layers"},
                [KVP_SIZE_HEADS] = {"num_attention_heads"}, [KVP_SIZE_KV_HEADS] = {"num_multi_query_heads", "num_key_value_heads"},
                [KVP_SIZE_FFN] = {"intermediate_size"}, [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE,
        .absent = {[KVP_SIZE_POSITIONS] = 2048}, .layers = cogvlm_layers,
    },
    {.model_type = {0}},
};
