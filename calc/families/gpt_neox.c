/* gpt_neox.c - GPT-NeoX (Pythia) and GPT-J. Sources: configuration_{gpt_neox,gptj}.py and the modelling files
 * beside them in huggingface/transformers. */
#include "calc/families/families.h"

static kvp_err neox_layers(struct kvp_reader *r)
{
    bool bias = true;

    KVP_TRY(kvp_read_flag(r, "attention_bias", &bias));
    for (uint32_t i = 0; i < r->m->layers && !bias; i++)
        r->layer[i].qkv_bias = r->layer[i].o_bias = false;
    snprintf(r->m->not_run, sizeof(r->m->not_run), "attention and feed-forward side by side, part of a head rotated");
    return KVP_OK;
}

/* One norm a layer feeds both halves; only the feed-forward and the head have biases. */
static kvp_err gptj_layers(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].ffn_bias = true;
    r->m->head_bias = true;
    snprintf(r->m->not_run, sizeof(r->m->not_run), "attention and feed-forward side by side, part of a head rotated");
    return KVP_OK;
}

static const struct kvp_rule neox_rules[] = {
    {"use_parallel_residual", KVP_KEY_ANY, "order of the residual's additions; both norms are there either way"},
    {"hidden_dropout", KVP_KEY_ANY, "training only"},
    {"attention_bias", KVP_KEY_ANY, "read: biases of q, k, v and o"},
    {0},
};
static const struct kvp_rule gptj_rules[] = {
    {"rotary_dim", KVP_KEY_ANY, "how much of a head is rotated, no size"},
    {"num_attention_heads", KVP_KEY_ANY, "another spelling of n_head"},
    {"num_hidden_layers", KVP_KEY_ANY, "another spelling of n_layer"},
    {0},
};

const struct kvp_dialect family_gpt_neox[] = {
    {
        .model_type = {"gpt_neox", "gpt_neox_reward_model"},
        .architectures = {"GPTNeoXForCausalLM", "GPTNeoXModel"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"}, [KVP_SIZE_LAYERS] = {"num_hidden_layers"},
                [KVP_SIZE_HEADS] = {"num_attention_heads"}, [KVP_SIZE_FFN] = {"intermediate_size"},
                [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .act_key = "hidden_act", .act = "gelu", .eps_key = "layer_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL,
        .rules = {neox_rules},
        .layers = neox_layers,
    },
    {
        .model_type = {"gptj"},
        .architectures = {"GPTJForCausalLM", "GPTJModel"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"n_embd"}, [KVP_SIZE_LAYERS] = {"n_layer"}, [KVP_SIZE_HEADS] = {"n_head"},
                [KVP_SIZE_FFN] = {"n_inner"}, [KVP_SIZE_POSITIONS] = {"n_positions", "n_ctx"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .ffn_per_width = 4, .act_key = "activation_function", .act = "gelu_new", .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .norms = 1, .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_NONE,
        .rules = {gptj_rules},
        .layers = gptj_layers,
    },
    {.model_type = {0}},
};
