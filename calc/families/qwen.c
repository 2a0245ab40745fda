/* qwen.c - Qwen 1, and Qwen2-VL to Qwen3-VL by their text part. Sources: modeling_qwen.py of Qwen/Qwen-7B;
 * configuration_{qwen2_vl,qwen2_5_vl,qwen3_vl}.py and the modelling files beside them in
 * huggingface/transformers; Qwen-VL's visual.py. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/tower.h"

/* intermediate_size counts gate and up together. */
static kvp_err qwen_layers(struct kvp_reader *r)
{
    if (r->proto.ffn_width % 2)
        return kvp_key_fail(r, KVP_EINPUT, "intermediate_size", "expected an even number: it counts gate and up together");
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].ffn_width /= 2;
    return KVP_OK;
}

/* A ViT with biases, then attention from 256 learned queries onto its output, a norm and a square projection. */
static kvp_err qwen_vl_tower(struct kvp_reader *r)
{
    struct kvp_reader v;
    uint32_t D = 0, L = 0, patch = 14, out = 0, image = 448, F;
    double ratio = 4;
    bool found;

    KVP_TRY(tower_open(r, "visual", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(kvp_need_count(&v, "width", &D));
    KVP_TRY(kvp_need_count(&v, "layers", &L));
    KVP_TRY(kvp_need_count(&v, "output_dim", &out));
    KVP_TRY(kvp_read_count(&v, "patch_size", &patch));
    KVP_TRY(kvp_read_count(&v, "image_size", &image));
    KVP_TRY(kvp_json_real(&v.j, "mlp_ratio", &ratio, NULL));
    F = ratio < 64 ? (uint32_t)(D * ratio) : 0;
    KVP_TRY(tower_add(r, "vision_patch", D, 3 * patch * patch, 1));
    KVP_TRY(tower_add(r, "vision_positions", 256, D, 1));
    KVP_TRY(tower_add(r, "vision_attention", D, D, 4 * L));
    KVP_TRY(tower_add(r, "vision_mlp", D, F, 2 * L));
    KVP_TRY(tower_add(r, "vision_mlp_bias", F, 1, L));
    KVP_TRY(tower_add(r, "vision_vectors", D, 1, 9 * L + 2));
    KVP_TRY(tower_add(r, "resampler_queries", 256, out, 2));
    KVP_TRY(tower_add(r, "resampler_kv", out, D, 1));
    KVP_TRY(tower_add(r, "resampler", out, out, 5));
    return tower_add(r, "resampler_vectors", out, 1, 10);
}

/* Blocks with biases; four patches become one token in the merger. */
static kvp_err qwen2_vl_tower(struct kvp_reader *r)
{
    struct kvp_reader v;
    uint32_t D = 1280, L = 32, ratio = 4, patch = 14, merge = 2, frames = 2;
    bool found;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(kvp_read_count(&v, "embed_dim", &D));
    KVP_TRY(kvp_read_count(&v, "depth", &L));
    KVP_TRY(kvp_read_count(&v, "mlp_ratio", &ratio));
    KVP_TRY(kvp_read_count(&v, "patch_size", &patch));
    KVP_TRY(kvp_read_count(&v, "spatial_merge_size", &merge));
    KVP_TRY(kvp_read_count(&v, "temporal_patch_size", &frames));
    KVP_TRY(tower_add(r, "vision_patch", D, 3 * frames * patch * patch, 1));
    KVP_TRY(tower_add(r, "vision_attention", D, D, 4 * L));
    KVP_TRY(tower_add(r, "vision_mlp", D, ratio * D, 2 * L));
    KVP_TRY(tower_add(r, "vision_mlp_bias", ratio * D, 1, L));
    KVP_TRY(tower_add(r, "vision_vectors", D, 1, 9 * L + 2));
    KVP_TRY(tower_add(r, "merger_up", merge * merge * D, merge * merge * D, 1));
    KVP_TRY(tower_add(r, "merger_down", r->m->width, merge * merge * D, 1));
    KVP_TRY(tower_add(r, "merger_up_bias", merge * merge * D, 1, 1));
    return tower_add(r, "merger_down_bias", r->m->width, 1, 1);
}

static const struct kvp_rule qwen_rules[] = {
    {"kv_channels", KVP_KEY_ANY, "read: head size"},
    {"use_cache_quantization", KVP_KEY_FALSE, "its int8 cache is not counted; -t kv:int8 is one"},
    {"use_cache_kernel", KVP_KEY_ANY, "which kernel runs"},
    {0},
};
static const struct kvp_rule vl_rules[] = {
    {"max_window_layers", KVP_KEY_ANY, "read where use_sliding_window is"},
    {0},
};

const struct kvp_dialect family_qwen[] = {
    {
        .model_type = {"qwen"},
        .architectures = {"QWenLMHeadModel"},
        .key = {[KVP_SIZE_VOCAB] = {"padded_vocab_size", "vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size", "n_embd"},
                [KVP_SIZE_LAYERS] = {"num_hidden_layers", "n_layer"}, [KVP_SIZE_HEADS] = {"num_attention_heads", "n_head"},
                [KVP_SIZE_HEAD_DIM] = {"kv_channels"}, [KVP_SIZE_FFN] = {"intermediate_size", "ffn_hidden_size"},
                [KVP_SIZE_POSITIONS] = {"seq_length", "max_position_embeddings"}},
        .absent = {[KVP_SIZE_POSITIONS] = 8192},
        .act = "silu", .eps_key = "layer_norm_epsilon", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_QKV,
        .rules = {qwen_rules},
        .layers = qwen_layers, .tower = qwen_vl_tower,
    },
    {.model_type = {"qwen2_vl", "qwen2_vl_text"}, .architectures = {"Qwen2VLForConditionalGeneration"}, .nested = {"text_config"},
     .inner = "qwen2", .rules = {vl_rules}, .tower = qwen2_vl_tower},
    {.model_type = {"qwen2_5_vl", "qwen2_5_vl_text"}, .architectures = {"Qwen2_5_VLForConditionalGeneration"}, .nested = {"text_config"},
     .inner = "qwen2", .rules = {vl_rules}},
    {.model_type = {"qwen3_vl"}, .architectures = {"Qwen3VLForConditionalGeneration"}, .nested = {"text_config"}, .inner = "qwen3",
     .rules = {vl_rules}},
    {
        .model_type = {"qwen3_vl_text"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 32, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 128000},
        .bias = KVP_BIAS_ATTN, .qk_norm = true,
        .rules = {kvp_rules_llama},
    },
    {.model_type = {0}},
};
