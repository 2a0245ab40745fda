/* mistral.c - Mistral, Ministral 3, and the params.json of Mistral's own format (dim, n_layers, n_heads, ...).
 * Sources: configuration_{mistral,ministral3}.py of huggingface/transformers; transformer_layers.py and
 * args.py of mistralai/mistral-inference. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

static const struct kvp_rule mistral_rules[] = {
    {"mlp_bias", KVP_KEY_FALSE, "this class has no such bias"},
    {"attention_bias", KVP_KEY_FALSE, "this class has no such bias"},
    {0},
};
static const struct kvp_rule params_rules[] = {
    {"sliding_window", KVP_KEY_ANY, "read: the window"},
    {"moe", KVP_KEY_FALSE, "layers would have experts; give the model's config.json"},
    {"vision_encoder", KVP_KEY_FALSE, "there is a vision tower; give the model's config.json"},
    {0},
};

static kvp_err params_layers(struct kvp_reader *r)
{
    return kvp_read_flag(r, "tied_embeddings", &r->m->tied);
}

const struct kvp_dialect family_mistral[] = {
    {
        .model_type = {"mistral"},
        .rules = {kvp_rules_llama, mistral_rules},
        .architectures = {"MistralForCausalLM", "MistralModel"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 131072},
        .bias = KVP_BIAS_NONE,
        .window = KVP_WINDOW_EVERY, .window_absent = 4096,
    },
    {
        .model_type = {"ministral3"},
        .rules = {kvp_rules_llama, mistral_rules},
        .architectures = {"Ministral3ForCausalLM", "Ministral3Model"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 262144},
        .bias = KVP_BIAS_NONE,
        .window = KVP_WINDOW_EVERY,
    },
    {
        .model_type = {"mistral params.json"}, .sign = "dim",
        .rules = {params_rules},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"dim"}, [KVP_SIZE_LAYERS] = {"n_layers"},
                [KVP_SIZE_HEADS] = {"n_heads"}, [KVP_SIZE_KV_HEADS] = {"n_kv_heads"}, [KVP_SIZE_HEAD_DIM] = {"head_dim"},
                [KVP_SIZE_FFN] = {"hidden_dim"}, [KVP_SIZE_POSITIONS] = {"max_seq_len", "max_position_embeddings"}},
        .act = "silu", .eps_key = "norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .bias = KVP_BIAS_NONE, .no_positions = true,
        .window = KVP_WINDOW_EVERY,
        .layers = params_layers, .not_run = "its layout pairs neighbouring elements for rotation",
    },
    {.model_type = {0}},
};
