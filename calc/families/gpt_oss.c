/* gpt_oss.c - gpt-oss, as published for transformers and as openai/gpt-oss writes it (no model_type).
 * Source: configuration_gpt_oss.py and modeling_gpt_oss.py in huggingface/transformers; gpt_oss/torch/model.py in
 * openai/gpt-oss: biases on q, k, v, o, on the router and on every expert, one sink a head; without layer_types
 * even layers slide. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"

#include <string.h>

static kvp_err slides(const struct kvp_reader *r, uint32_t i, bool *out)
{
    const json_t *types;
    const char *type;

    KVP_TRY(kvp_read_list(r, "layer_types", &types));
    *out = i % 2 == 0;
    if (!types)
        return KVP_OK;
    type = json_string_value(json_array_get(types, i));
    if (!type || (strcmp(type, "sliding_attention") != 0 && strcmp(type, "full_attention") != 0))
        return kvp_key_fail(r, KVP_ENOTSUP, "layer_types", "only full_attention and sliding_attention are supported");
    *out = strcmp(type, "sliding_attention") == 0;
    return KVP_OK;
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;
    uint32_t window = 128;

    r->m->numbers.route = KVP_ROUTE_CHOSEN;
    r->m->numbers.swiglu_alpha = 1.702;
    r->m->numbers.swiglu_limit = 7;
    KVP_TRY(kvp_json_real(&r->j, "swiglu_alpha", &r->m->numbers.swiglu_alpha, NULL));
    KVP_TRY(kvp_json_real(&r->j, "swiglu_limit", &r->m->numbers.swiglu_limit, NULL));
    KVP_TRY(moe_read(r, &moe));
    moe.router_bias = moe.expert_bias = true;
    KVP_TRY(kvp_read_count(r, "sliding_window", &window));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        bool slide;

        KVP_TRY(slides(r, i, &slide));
        r->layer[i].window = slide ? window : 0;
        r->layer[i].sinks = true;
        r->layer[i].qkv_bias = r->layer[i].o_bias = true;
        r->layer[i].ffn_bias = false;
    }
    return moe_layers(r, &moe);
}

static const struct kvp_rule rules[] = {
    {"attention_bias", KVP_KEY_TRUE, "q, k, v and o would have no bias"},
    {0},
};

const struct kvp_dialect family_gpt_oss[] = {
    {
        .model_type = {"gpt_oss"}, .sign = "rope_ntk_alpha",
        .rules = {kvp_rules_moe, rules},
        .architectures = {"GptOssForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_HEAD_DIM] = 64, [KVP_SIZE_POSITIONS] = 131072},
        .bias = KVP_BIAS_ALL,
        .window = KVP_WINDOW_HOOK,
        .layers = layers,
    },
    {.model_type = {0}},
};
