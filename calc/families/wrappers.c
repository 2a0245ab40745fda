/* wrappers.c - multimodal models around a text model that has a dialect of its own: LLaVA, Mistral 3, CogVLM2,
 * InfiMM. Sources: configuration_ and modeling_{llava,mistral3,clip,pixtral}.py of
 * huggingface/transformers; llava_arch.py of haotian-liu/LLaVA; modeling_cogvlm.py and visual.py beside
 * THUDM/cogvlm2-llama3-caption and cogvlm2-llama3-chat-19B. */
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
    {"vocab_size", KVP_KEY_ANY, "the text model's, said again"},
    {"image_aspect_ratio", KVP_KEY_ANY, "how a picture is cut"},
    {"mm_hidden_size", KVP_KEY_ANY, "read: the tower's width"},
    {0},
};
static const struct kvp_rule mistral3_rules[] = {
    {"vision_feature_layer", KVP_KEY_ANY, "which layer of the tower is read; no size"},
    {"multimodal_projector_bias", KVP_KEY_ANY, "of the projector; no size of the text model"},
    {"spatial_merge_size", KVP_KEY_ANY, "read: the projector"},
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

/* Pixtral: no biases, RMS norms, a gated feed-forward; positions rotate. */
static kvp_err pixtral(struct kvp_reader *r, struct vision *v)
{
    bool found;

    *v = (struct vision){.width = 1024, .ffn = 4096, .layers = 24, .patch = 16, .image = 1024, .channels = 3};
    KVP_TRY(vision_read(r, "vision_config", v, &found));
    KVP_TRY(tower_add(r, "tower.patches", v->width, v->channels * v->patch * v->patch, 1));
    KVP_TRY(tower_add(r, "tower.ln_pre", v->width, 1, 1));
    KVP_TRY(tower_add(r, "tower.norms", v->width, 1, 2 * v->layers));
    KVP_TRY(tower_add(r, "tower.attn", v->width, v->width, 4 * v->layers));
    return tower_add(r, "tower.mlp", v->ffn, v->width, 3 * v->layers);
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
    if (strcmp(type, "pixtral") == 0) {
        KVP_TRY(pixtral(r, &v));
        return projector(r, v.width);
    }
    if (strcmp(type, "clip_vision_model") != 0 && strcmp(type, "siglip_vision_model") != 0)
        return KVP_OK;
    v.clip = strcmp(type, "clip_vision_model") == 0;
    KVP_TRY(vision_read(r, "vision_config", &v, &found));
    KVP_TRY(vision_vit(r, &v));
    KVP_TRY(vision_norm(r, "tower.post_layernorm", v.width, 1));
    if (strcmp(r->outer->model_type[0], "llava_next") == 0)
        KVP_TRY(tower_add(r, "image_newline", r->m->width, 1, 1));
    return projector(r, v.width);
}

/* Patches are merged and normed before the projector. */
static kvp_err mistral3_towers(struct kvp_reader *r)
{
    const char *type = "pixtral";
    struct kvp_reader t;
    struct vision v;
    uint32_t merge = 2;
    bool found, bias = false;

    KVP_TRY(tower_open(r, "vision_config", &t, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(kvp_json_text(&t.j, "model_type", &type, NULL));
    if (strcmp(type, "pixtral") != 0)
        return KVP_OK;
    t.j.object = r->top.object;
    KVP_TRY(kvp_read_count(&t, "spatial_merge_size", &merge));
    KVP_TRY(kvp_read_flag(&t, "multimodal_projector_bias", &bias));
    if (!merge || merge > 16)
        return kvp_key_fail(r, KVP_EINPUT, "spatial_merge_size", "expected a number from 1 to 16");
    KVP_TRY(pixtral(r, &v));
    KVP_TRY(tower_add(r, "projector.norm", v.width, 1, 1));
    KVP_TRY(tower_add(r, "projector.merge", v.width, v.width * merge * merge, 1));
    if (bias)
        return projector(r, v.width);
    KVP_TRY(tower_add(r, "projector.linear_1", r->m->width, v.width, 1));
    return tower_add(r, "projector.linear_2", r->m->width, r->m->width, 1);
}

struct eva {
    uint32_t width, ffn, layers, patch, positions, channels;
};

static kvp_err read_eva(const struct kvp_reader *v, struct eva *t)
{
    *t = (struct eva){.channels = 3};
    KVP_TRY(kvp_need_count(v, "hidden_size", &t->width));
    KVP_TRY(kvp_need_count(v, "intermediate_size", &t->ffn));
    KVP_TRY(kvp_need_count(v, "num_hidden_layers", &t->layers));
    KVP_TRY(kvp_need_count(v, "patch_size", &t->patch));
    KVP_TRY(kvp_need_count(v, "num_positions", &t->positions));
    KVP_TRY(kvp_read_count(v, "in_channels", &t->channels));
    if (t->patch > 1024 || t->channels > 64 || t->width > 1 << 20 || t->layers > 1 << 12)
        return kvp_key_fail(v, KVP_EINPUT, "vision_config", "a size is absurd");
    return KVP_OK;
}

/* CogVLM2's EVA2-CLIP for video: four neighbouring patches become one by a convolution, and a gated projector as
 * wide inside as a layer's feed-forward follows. What encloses an image is learned. */
static kvp_err cogvlm_towers(struct kvp_reader *r)
{
    const char *arch = json_string_value(json_array_get(json_object_get(r->j.object, "architectures"), 0));
    const uint32_t D = r->m->width;
    struct kvp_reader v;
    struct eva t;
    bool found;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found || !arch || strcmp(arch, "CogVLMVideoForCausalLM") != 0)
        return KVP_OK;
    KVP_TRY(read_eva(&v, &t));
    KVP_TRY(vision_linear(r, "tower.patches", t.width, t.channels * t.patch * t.patch, 1));
    KVP_TRY(tower_add(r, "tower.class", t.width, 1, 1));
    KVP_TRY(tower_add(r, "tower.positions", t.positions, t.width, 1));
    KVP_TRY(vision_layers(r, t.width, t.ffn, t.layers));
    KVP_TRY(vision_linear(r, "tower.conv", t.width, 4 * t.width, 1));
    KVP_TRY(tower_add(r, "projector.linear", D, t.width, 1));
    KVP_TRY(vision_norm(r, "projector.norm", D, 1));
    KVP_TRY(tower_add(r, "projector.mlp", r->proto.ffn_width, D, 3));
    return tower_add(r, "projector.ends", D, 1, 2);
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
        .model_type = {"llava", "llava_llama"},
        .rules = {llava_rules},
        .architectures = {"LlavaForConditionalGeneration", "LlavaLlamaForCausalLM"},
        .nested = {"text_config"}, .inner = "llama", .towers = llava_towers,
    },
    {
        .model_type = {"llava_next"},
        .rules = {llava_rules},
        .architectures = {"LlavaNextForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "llama", .towers = llava_towers,
    },
    {
        .model_type = {"mistral3"},
        .rules = {mistral3_rules},
        .architectures = {"Mistral3ForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "mistral", .towers = mistral3_towers,
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
        .absent = {[KVP_SIZE_POSITIONS] = 2048}, .layers = cogvlm_layers, .towers = cogvlm_towers,
    },
    {.model_type = {0}},
};
