/* phi.c - Phi-1 and 2 (three spellings of one model), Phi-3 to 4. Sources: configuration_{phi,phi3}.py and the
 * modelling files beside them in huggingface/transformers; modeling_mixformer_sequential.py of
 * microsoft/phi-2's first revision. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

static kvp_err phi_layers(struct kvp_reader *r)
{
    bool qk = false;

    KVP_TRY(kvp_read_flag(r, "qk_layernorm", &qk));
    for (uint32_t i = 0; i < r->m->layers && qk; i++) /* LayerNorm over a head, with a bias: twice a weight */
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "qk_norm", r->proto.head_dim, 1, 4, false));
    r->m->head_bias = true;
    snprintf(r->m->not_run, sizeof(r->m->not_run), "attention and feed-forward side by side, part of a head rotated");
    return KVP_OK;
}

static kvp_err phi3_layers(struct kvp_reader *r)
{
    return kvp_read_flag(r, "lm_head_bias", &r->m->head_bias);
}

static const struct kvp_rule phi_rules[] = {
    {"qk_layernorm", KVP_KEY_ANY, "read: norms of q and k"},
    {"rotary_dim", KVP_KEY_ANY, "how much of a head is rotated, no size"},
    {"flash_rotary", KVP_KEY_ANY, "which kernel runs"},
    {"attention_bias", KVP_KEY_ANY, "not read by this class: its biases are always there"},
    {0},
};
static const struct kvp_rule phi3_rules[] = {
    {"lm_head_bias", KVP_KEY_ANY, "read: the head's bias"},
    {"mlp_bias", KVP_KEY_FALSE, "this class has no such bias"},
    {"embd_layer", KVP_KEY_ANY, "how a picture's features are placed among the tokens"},
    {"audio_processor", KVP_KEY_ANY, "an audio tower"},
    {0},
};

const struct kvp_dialect family_phi[] = {
    {
        .model_type = {"phi"},
        .architectures = {"PhiForCausalLM"},
        .key = LLAMA_KEYS,
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .act_key = "hidden_act", .act = "gelu_new", .eps_key = "layer_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .norms = 1, .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL,
        .rules = {kvp_rules_llama, phi_rules},
        .layers = phi_layers,
    },
    {
        .model_type = {"phi-msft", "mixformer-sequential"},
        .architectures = {"MixFormerSequentialForCausalLM"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"n_embd"}, [KVP_SIZE_LAYERS] = {"n_layer"}, [KVP_SIZE_HEADS] = {"n_head"},
                [KVP_SIZE_KV_HEADS] = {"n_head_kv"}, [KVP_SIZE_FFN] = {"n_inner"}, [KVP_SIZE_POSITIONS] = {"n_positions"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .ffn_per_width = 4, .act_key = "activation_function", .act = "gelu_new", .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .norms = 1, .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL,
        .rules = {phi_rules},
        .layers = phi_layers,
    },
    {
        .model_type = {"phi3", "phi3_v"},
        .architectures = {"Phi3ForCausalLM", "Phi3VForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_POSITIONS] = 4096},
        .bias = KVP_BIAS_NONE,
        .window = KVP_WINDOW_EVERY,
        .rules = {kvp_rules_llama, phi3_rules},
        .layers = phi3_layers,
    },
    {.model_type = {0}},
};
