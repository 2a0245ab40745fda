/* phi.c - Phi-1, 1.5, 2 (three dialects), Phi-3, 3.5, 4 and the text part of Phi-3-vision, Phi-3-small. Sources:
 * configuration_ and modeling_{phi,phi3}.py in huggingface/transformers; image_embedding_phi3_v.py of
 * microsoft/Phi-3-vision-128k-instruct; configuration_mixformer_sequential.py and
 * modeling_phi.py of microsoft/phi-2; configuration_phi3_small.py and modeling_phi3_small.py of
 * microsoft/Phi-3-small-8k-instruct, whose sparse layers keep every row of k and v. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/shared.h"
#include "calc/families/vision.h"

#include <string.h>

static const struct kvp_rule phi_rules[] = {
    {"rotary_dim", KVP_KEY_ANY, "read: which part of a head rotates; no size"},
    {"qk_layernorm", KVP_KEY_FALSE, "q and k would have norms"},
    {"architecture", KVP_KEY_ANY, "blocks are parallel in every published file"},
    {"attention_bias", KVP_KEY_ANY, "not read by the class: it always has biases"},
    {0},
};
static const struct kvp_rule phi3_rules[] = {
    {"attention_bias", KVP_KEY_FALSE, "this class has no such bias"},
    {"mlp_bias", KVP_KEY_FALSE, "this class has no such bias"},
    {"lm_head_bias", KVP_KEY_ANY, "read: the head's bias"},
    {"embd_layer", KVP_KEY_ANY, "the image embedding, which is a tower"},
    {"img_processor", KVP_KEY_ANY, "the image tower"},
    {"full_attn_mod", KVP_KEY_ANY, "which layers a kernel cuts into blocks; all are kept"},
    {0},
};
static const struct kvp_rule small_rules[] = {
    {"blocksparse_homo_head_pattern", KVP_KEY_ANY, "which keys a query reads, not which are kept"},
    {"dense_attention_every_n_layers", KVP_KEY_ANY, "which layers read every key; all keep every key"},
    {"ff_dim_multiplier", KVP_KEY_FALSE, "the feed-forward width would be derived"},
    {"attention_bias", KVP_KEY_ANY, "not read by the class: it always has biases"},
    {"blocksparse_block_size", KVP_KEY_ANY, "what a step reads, not what is kept"},
    {"blocksparse_num_local_blocks", KVP_KEY_ANY, "what a step reads, not what is kept"},
    {"blocksparse_triton_kernel_block_size", KVP_KEY_ANY, "which kernel, not what is stored"},
    {"blocksparse_vert_stride", KVP_KEY_ANY, "what a step reads, not what is kept"},
    {"mup_width_multiplier", KVP_KEY_ANY, "a factor of the logits"},
    {0},
};

static kvp_err phi_layers(struct kvp_reader *r)
{
    const bool said = json_object_get(r->j.object, "partial_rotary_factor") || json_object_get(r->j.object, "rope_parameters");

    r->m->head_bias = true;
    r->m->numbers.parallel = true;
    if (!said && json_object_get(r->j.object, "rotary_dim"))
        return kvp_read_rotary_dim(r, "rotary_dim", 32);
    if (!said)
        r->m->numbers.rotary_part = 0.5; /* class default */
    return KVP_OK;
}

static kvp_err phi3_layers(struct kvp_reader *r)
{
    return kvp_read_flag(r, "lm_head_bias", &r->m->head_bias);
}

/* "gegelu" is a gated GELU that is clipped. */
static kvp_err small_layers(struct kvp_reader *r)
{
    r->proto.act = KVP_ACT_GELU;
    kvp_spread(r);
    kvp_cannot_run(r->m, "block-sparse attention");
    return KVP_OK;
}

/* Four patches side by side go through two linears; learned rows separate the lines and the images. The class has
 * one tower, CLIP ViT-L/14 at 336, whatever the config leaves out. */
static kvp_err phi3_v_towers(struct kvp_reader *r)
{
    const struct vision clip = {.width = 1024, .ffn = 4096, .layers = 24, .patch = 14, .image = 336, .channels = 3, .clip = true};
    const char *name = "", *projection = "mlp";
    struct kvp_reader v, embd;
    bool found, hd = false, separator = false;

    KVP_TRY(tower_open(r, "img_processor", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(tower_open(r, "embd_layer", &embd, &found));
    if (found) {
        KVP_TRY(kvp_json_text(&embd.j, "projection_cls", &projection, NULL));
        KVP_TRY(kvp_read_flag(&embd, "use_hd_transform", &hd));
        KVP_TRY(kvp_read_flag(&embd, "with_learnable_separator", &separator));
    }
    KVP_TRY(kvp_json_text(&v.j, "model_name", &name, NULL));
    if (strcmp(name, "openai/clip-vit-large-patch14-336") != 0 || strcmp(projection, "mlp") != 0 || !hd || !separator)
        return KVP_OK; /* --with-vision says that it is not known */
    KVP_TRY(vision_vit(r, &clip));
    KVP_TRY(vision_norm(r, "tower.post_layernorm", clip.width, 1));
    KVP_TRY(tower_add(r, "tower.separators", 4 * clip.width, 1, 2));
    KVP_TRY(vision_linear(r, "projector.linear_1", r->m->width, 4 * clip.width, 1));
    return vision_linear(r, "projector.linear_2", r->m->width, r->m->width, 1);
}

#define PHI_BLOCK                                                                                            \
    .rules = {phi_rules, kvp_rules_layer_norm}, .absent = {[KVP_SIZE_POSITIONS] = 2048}, .ffn_per_width = 4, \
    .act = "gelu_new", .eps = 1e-5, .norm = KVP_NORM_LAYER, .norms = 1, .position = KVP_POS_ROPE,            \
    .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL, .layers = phi_layers, .partial_rotary = true

const struct kvp_dialect family_phi[] = {
    {.model_type = {"phi"}, .architectures = {"PhiModel"}, .key = LLAMA_KEYS, .act_key = "hidden_act",
     .eps_key = "layer_norm_eps", PHI_BLOCK},
    {
        .model_type = {"phi-msft", "mixformer-sequential"}, .architectures = {"PhiForCausalLM", "MixFormerSequentialForCausalLM"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"n_embd"}, [KVP_SIZE_LAYERS] = {"n_layer"},
                [KVP_SIZE_HEADS] = {"n_head"}, [KVP_SIZE_KV_HEADS] = {"n_head_kv"}, [KVP_SIZE_FFN] = {"n_inner"},
                [KVP_SIZE_POSITIONS] = {"n_positions"}},
        .act_key = "activation_function", .eps_key = "layer_norm_epsilon", PHI_BLOCK,
    },
    {.model_type = {"phi3", "phi3_v"}, .architectures = {"Phi3ForCausalLM", "Phi3VForCausalLM", "Phi3Model"},
     .rules = {kvp_rules_llama, phi3_rules}, LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 4096},
     .bias = KVP_BIAS_NONE, .window = KVP_WINDOW_EVERY, .layers = phi3_layers, .towers = phi3_v_towers, .partial_rotary = true},
    {
        .model_type = {"phi3small"}, .architectures = {"Phi3SmallForCausalLM"},
        .rules = {small_rules, kvp_rules_layer_norm},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},
                [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},
                [KVP_SIZE_KV_HEADS] = {"num_key_value_heads"}, [KVP_SIZE_FFN] = {"ff_intermediate_size"},
                [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .absent = {[KVP_SIZE_POSITIONS] = 8192}, .act = "gelu", .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_ALL,
        .tied = true, .layers = small_layers,
    },
    {.model_type = {0}},
};
