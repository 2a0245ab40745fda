/* glm_moe.c - GLM-4.5 to 4.7, and the text part of GLM-4.5V.
 * Source: configuration_glm4_moe.py, modeling_glm4_moe.py and modeling_glm4v_moe.py in
 * huggingface/transformers: attention_bias is for q, k and v only, use_qk_norm is off unless given, the
 * router has a correction bias. GLM-4.5 and 4.7 repeat embedding and head in the prediction layer. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;
    bool qk_norm = false;

    KVP_TRY(kvp_read_flag(r, "use_qk_norm", &qk_norm));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].qk_norm = qk_norm;
        r->layer[i].o_bias = false;
    }
    KVP_TRY(moe_read(r, &moe));
    KVP_TRY(moe_shared(r, &moe));
    KVP_TRY(moe_need_layout(r));
    moe.router_bias = true;
    KVP_TRY(moe_layers(r, &moe));
    return moe_mtp(r, true);
}

#define GLM_MOE LLAMA_LIKE, .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 131072}, .bias = KVP_BIAS_ATTN, .layers = layers

const struct kvp_dialect family_glm_moe[] = {
    {
        .model_type = {"glm4_moe"},
        .rules = {kvp_rules_moe},
        .architectures = {"Glm4MoeForCausalLM"},
        GLM_MOE,
    },
    {
        .model_type = {"glm4v_moe_text"},
        .rules = {kvp_rules_moe},
        GLM_MOE,
    },
    {
        .model_type = {"glm4v_moe"},
        .architectures = {"Glm4vMoeForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "glm4v_moe_text",
    },
    {.model_type = {0}},
};
