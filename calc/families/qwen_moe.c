/* qwen_moe.c - Qwen1.5-MoE, Qwen2-MoE, Qwen3-MoE and the text part of Qwen3-VL-MoE.
 * Sources: configuration_{qwen2_moe,qwen3_moe,qwen3_vl_moe}.py and the modelling files beside them in
 * huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"
#include "calc/families/vision.h"

static kvp_err qwen2_layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;

    KVP_TRY(moe_read(r, &moe));
    KVP_TRY(kvp_need_count(r, "shared_expert_intermediate_size", &moe.shared_width));
    moe.shared_gate = true;
    r->m->numbers.route = KVP_ROUTE_SOFTMAX;
    KVP_TRY(kvp_read_flag(r, "norm_topk_prob", &r->m->numbers.route_normalise));
    return moe_layers(r, &moe);
}

static kvp_err qwen3_layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;

    r->m->numbers.route = KVP_ROUTE_SOFTMAX;
    KVP_TRY(kvp_read_flag(r, "norm_topk_prob", &r->m->numbers.route_normalise));
    KVP_TRY(moe_read(r, &moe));
    return moe_layers(r, &moe);
}

static const struct kvp_rule qwen2_rules[] = {
    {"shared_expert_intermediate_size", KVP_KEY_ANY, "read: width of the shared expert"},
    {"use_sliding_window", KVP_KEY_ANY, "read: whether the window counts"},
    {"max_window_layers", KVP_KEY_ANY, "read where use_sliding_window is"},
    {"qkv_bias", KVP_KEY_TRUE, "q, k and v would have no bias"},
    {0},
};
static const struct kvp_rule qwen3_rules[] = {
    {"shared_expert_intermediate_size", KVP_KEY_FALSE, "this class has no shared expert"},
    {"use_sliding_window", KVP_KEY_ANY, "read: whether the window counts"},
    {"max_window_layers", KVP_KEY_ANY, "read where use_sliding_window is"},
    {"qkv_bias", KVP_KEY_FALSE, "this class has no such bias"},
    {"use_qk_norm", KVP_KEY_TRUE, "q and k would not be normalised"},
    {0},
};

#define QWEN3_MOE                                                                                       \
    LLAMA_LIKE, .absent = {[KVP_SIZE_KV_HEADS] = 4, [KVP_SIZE_POSITIONS] = 32768}, .bias = KVP_BIAS_ATTN, \
    .qk_norm = true, .window = KVP_WINDOW_FROM, .window_absent = 4096, .window_from_absent = 28, .layers = qwen3_layers

const struct kvp_dialect family_qwen_moe[] = {
    {
        .model_type = {"qwen2_moe"},
        .rules = {kvp_rules_moe, qwen2_rules},
        .architectures = {"Qwen2MoeForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 16, [KVP_SIZE_POSITIONS] = 32768},
        .bias = KVP_BIAS_QKV,
        .window = KVP_WINDOW_FROM, .window_absent = 4096, .window_from_absent = 28,
        .layers = qwen2_layers,
    },
    {
        .model_type = {"qwen3_moe"},
        .rules = {kvp_rules_moe, qwen3_rules},
        .architectures = {"Qwen3MoeForCausalLM"},
        QWEN3_MOE,
    },
    {
        .model_type = {"qwen3_vl_moe_text"},
        .rules = {kvp_rules_moe, qwen3_rules},
        QWEN3_MOE,
    },
    {
        .model_type = {"qwen3_vl_moe"},
        .architectures = {"Qwen3VLMoeForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "qwen3_vl_moe_text", .towers = vision_qwen3_vl,
    },
    {.model_type = {0}},
};
