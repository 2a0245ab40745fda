/* starcoder2.c - StarCoder2. Sources: configuration_starcoder2.py and modeling_starcoder2.py in
 * huggingface/transformers: every linear has a bias under use_bias, every layer slides where a window is given. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/shared.h"

static const struct kvp_rule starcoder2_rules[] = {
    {"sliding_window", KVP_KEY_ANY, "read: the window"},
    {"layer_types", KVP_KEY_ANY, "read: which layers slide"},
    {"use_bias", KVP_KEY_ANY, "read: biases of all linears"},
    {"norm_type", KVP_KEY_ANY, "layer_norm in every published file; the class knows no other"},
    {0},
};

static kvp_err starcoder2_layers(struct kvp_reader *r)
{
    bool bias = true;

    KVP_TRY(kvp_read_flag(r, "use_bias", &bias));
    r->proto.qkv_bias = r->proto.o_bias = r->proto.ffn_bias = bias;
    kvp_spread(r);
    return KVP_OK;
}

const struct kvp_dialect family_starcoder2[] = {
    {
        .model_type = {"starcoder2"}, .architectures = {"Starcoder2ForCausalLM", "Starcoder2Model"},
        .rules = {starcoder2_rules, kvp_rules_layer_norm}, .key = LLAMA_KEYS,
        .absent = {[KVP_SIZE_KV_HEADS] = 2, [KVP_SIZE_POSITIONS] = 4096}, .act_key = "hidden_act",
        .act = "gelu_pytorch_tanh", .eps_key = "norm_epsilon", .eps = 1e-5, .norm = KVP_NORM_LAYER,
        .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL, .tied = true,
        .window = KVP_WINDOW_EVERY, .layers = starcoder2_layers,
    },
    {.model_type = {0}},
};
