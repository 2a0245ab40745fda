/* gpt_bigcode.c - StarCoder's class (one KV head) and StarCoder2's. Sources: configuration_gpt_bigcode.py,
 * configuration_starcoder2.py and the modelling files beside them in huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

static kvp_err bigcode_layers(struct kvp_reader *r)
{
    bool one = true;

    KVP_TRY(kvp_read_flag(r, "multi_query", &one));
    for (uint32_t i = 0; i < r->m->layers && one; i++)
        r->layer[i].kv_heads = 1;
    return KVP_OK;
}

static kvp_err starcoder2_layers(struct kvp_reader *r)
{
    bool bias = true;

    KVP_TRY(kvp_read_flag(r, "use_bias", &bias));
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].qkv_bias = r->layer[i].o_bias = r->layer[i].ffn_bias = bias;
    return KVP_OK;
}

static const struct kvp_rule bigcode_rules[] = {
    {"multi_query", KVP_KEY_ANY, "read: one KV head"},
    {"inference_runner", KVP_KEY_ANY, "how a server runs it"},
    {"validate_runner_input", KVP_KEY_ANY, "how a server runs it"},
    {"pre_allocate_kv_cache", KVP_KEY_ANY, "how a server runs it; -t contiguous says what that costs"},
    {"num_key_value_heads", KVP_KEY_ANY, "another spelling of what multi_query says"},
    {0},
};
static const struct kvp_rule starcoder2_rules[] = {
    {"layer_norm_epsilon", KVP_KEY_ANY, "another spelling of norm_epsilon"},
    {"embedding_dropout", KVP_KEY_ANY, "training only"},
    {0},
};

const struct kvp_dialect family_gpt_bigcode[] = {
    {
        .model_type = {"gpt_bigcode"},
        .architectures = {"GPTBigCodeForCausalLM", "GPTBigCodeModel"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"n_embd"}, [KVP_SIZE_LAYERS] = {"n_layer"}, [KVP_SIZE_HEADS] = {"n_head"},
                [KVP_SIZE_FFN] = {"n_inner"}, [KVP_SIZE_POSITIONS] = {"n_positions"}},
        .absent = {[KVP_SIZE_POSITIONS] = 1024},
        .ffn_per_width = 4, .act_key = "activation_function", .act = "gelu_pytorch_tanh", .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_LEARNED, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL, .tied = true,
        .rules = {bigcode_rules},
        .layers = bigcode_layers,
    },
    {
        .model_type = {"starcoder2"},
        .architectures = {"Starcoder2ForCausalLM", "Starcoder2Model"},
        .key = LLAMA_KEYS,
        .absent = {[KVP_SIZE_KV_HEADS] = 2, [KVP_SIZE_POSITIONS] = 4096},
        .act_key = "hidden_act", .act = "gelu_pytorch_tanh", .eps_key = "norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_NONE, .tied = true,
        .window = KVP_WINDOW_EVERY,
        .rules = {kvp_rules_llama, starcoder2_rules},
        .layers = starcoder2_layers,
    },
    {.model_type = {0}},
};
