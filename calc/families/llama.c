/* llama.c - GPT-2, Llama, Qwen2, Qwen3. Sources: configuration_{gpt2,llama,qwen2,qwen3}.py
 * and the modelling files beside them in huggingface/transformers (4.56 and 5.x agree on these defaults). */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

static const struct kvp_rule gpt2_rules[] = {
    {"scale_attn_by_inverse_layer_idx", KVP_KEY_FALSE, "scores would be divided by the layer's number"},
    {"scale_attn_weights", KVP_KEY_TRUE, "scores would not be divided by sqrt(head size)"},
    {"n_special", KVP_KEY_ANY, "rows of the first GPT's table; vocab_size has them all"},
    {0},
};

const struct kvp_rule kvp_rules_llama[] = {
    {"layer_types", KVP_KEY_ANY, "read: which layers slide"},
    {"sliding_window", KVP_KEY_ANY, "read: the window"},
    {"num_experts", KVP_KEY_FALSE, "this class has no experts"},
    {"num_local_experts", KVP_KEY_FALSE, "this class has no experts"},
    {"bias", KVP_KEY_FALSE, "this class has no such bias"},
    {"use_mrope", KVP_KEY_FALSE, "positions would have several parts"},
    {"rope_interleaved", KVP_KEY_FALSE, "rotation would pair neighbouring elements"},
    {0},
};
static const struct kvp_rule llama_rules[] = {
    {"max_window_layers", KVP_KEY_ANY, "nothing without use_sliding_window"},
    {"use_sliding_window", KVP_KEY_FALSE, "this class has no window"},
    {0},
};
static const struct kvp_rule qwen_rules[] = {
    {"use_sliding_window", KVP_KEY_ANY, "read: whether the window counts"},
    {"max_window_layers", KVP_KEY_ANY, "read where use_sliding_window is"},
    {"mlp_bias", KVP_KEY_FALSE, "this class has no such bias"},
    {0},
};

const struct kvp_dialect family_llama[] = {
    {
        .model_type = {"gpt2"},
        .rules = {gpt2_rules},
        .architectures = {"GPT2LMHeadModel", "GPT2Model"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"n_embd"},
                [KVP_SIZE_LAYERS] = {"n_layer"}, [KVP_SIZE_HEADS] = {"n_head"},
                [KVP_SIZE_FFN] = {"n_inner"}, [KVP_SIZE_POSITIONS] = {"n_positions", "n_ctx"}},
        .absent = {[KVP_SIZE_POSITIONS] = 1024},
        .ffn_per_width = 4,
        .act_key = "activation_function", .act = "gelu_new",
        .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_LEARNED, .ffn = KVP_FFN_PLAIN,
        .bias = KVP_BIAS_ALL, .tied = true,
    },
    {
        .model_type = {"llama"},
        .rules = {kvp_rules_llama, llama_rules},
        .architectures = {"LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .nested_absent = {[KVP_SIZE_VOCAB] = 32000, [KVP_SIZE_WIDTH] = 4096, [KVP_SIZE_FFN] = 11008, [KVP_SIZE_LAYERS] = 32, [KVP_SIZE_HEADS] = 32},
        .bias = KVP_BIAS_KEYS,
    },
    {
        .model_type = {"qwen2"},
        .rules = {kvp_rules_llama, qwen_rules},
        .architectures = {"Qwen2ForCausalLM", "Qwen2Model"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 32, [KVP_SIZE_POSITIONS] = 32768},
        .bias = KVP_BIAS_QKV,
        .window = KVP_WINDOW_FROM, .window_absent = 4096, .window_from_absent = 28,
    },
    {
        .model_type = {"qwen3", "qwen3_vl_text"},
        .rules = {kvp_rules_llama, qwen_rules},
        .architectures = {"Qwen3ForCausalLM", "Qwen3Model"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 32, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 32768},
        .bias = KVP_BIAS_ATTN, .qk_norm = true,
        .window = KVP_WINDOW_FROM, .window_absent = 4096, .window_from_absent = 28,
    },
    {.model_type = {0}},
};
