/* gpt.c - GPT-J, GPT-NeoX (Pythia, RedPajama, reward models on it), GPT-BigCode (StarCoder 1, SantaCoder).
 * Sources: configuration_ and modeling_{gptj,gpt_neox,gpt_bigcode}.py in huggingface/transformers; the reward
 * head (one row and a bias) is model_training/models/reward_model.py of LAION-AI/Open-Assistant. */
#include "calc/families/families.h"
#include "calc/families/shared.h"

static const struct kvp_rule gptj_rules[] = {
    {"rotary_dim", KVP_KEY_ANY, "read: which part of a head rotates; no size"},
    {"rotary", KVP_KEY_TRUE, "positions would come from elsewhere"},
    {"scale_attn_weights", KVP_KEY_TRUE, "scores would not be divided by sqrt(head size)"},
    {0},
};
static const struct kvp_rule neox_rules[] = {
    {"attention_bias", KVP_KEY_ANY, "read: biases of q, k, v and o"},
    {"use_parallel_residual", KVP_KEY_ANY, "read: both have two norms"},
    {"classifier_dropout", KVP_KEY_ANY, "training only"},
    {"pooling", KVP_KEY_ANY, "which token's output the reward head reads"},
    {0},
};
static const struct kvp_rule bigcode_rules[] = {
    {"multi_query", KVP_KEY_ANY, "read: one KV head"},
    {"num_key_value_heads", KVP_KEY_ANY, "read: multi_query again"},
    {"pre_allocate_kv_cache", KVP_KEY_ANY, "a runner's choice of when to allocate; the model is the same"},
    {"scale_attn_weights", KVP_KEY_TRUE, "scores would not be divided by sqrt(head size)"},
    {0},
};

static kvp_err gptj_layers(struct kvp_reader *r)
{
    r->m->numbers.parallel = r->m->numbers.rope_neighbours = true;
    r->m->head_bias = true;
    r->proto.ffn_bias = true;
    kvp_spread(r);
    return kvp_read_rotary_dim(r, "rotary_dim", 64);
}

static kvp_err neox_layers(struct kvp_reader *r)
{
    bool bias = true, parallel = true;

    KVP_TRY(kvp_read_flag(r, "attention_bias", &bias));
    KVP_TRY(kvp_read_flag(r, "use_parallel_residual", &parallel));
    r->proto.qkv_bias = r->proto.o_bias = bias;
    kvp_spread(r);
    r->m->numbers.parallel = parallel;
    if (!json_object_get(r->j.object, "rotary_pct") && !json_object_get(r->j.object, "partial_rotary_factor") &&
        !json_object_get(r->j.object, "rope_parameters"))
        r->m->numbers.rotary_part = 0.25; /* class default */
    return KVP_OK;
}

static kvp_err reward_layers(struct kvp_reader *r)
{
    KVP_TRY(neox_layers(r));
    r->m->head_rows = 1;
    r->m->head_bias = true;
    r->m->tied = false;
    return KVP_OK;
}

static kvp_err bigcode_layers(struct kvp_reader *r)
{
    bool multi_query = true;
    uint32_t again;

    KVP_TRY(kvp_read_flag(r, "multi_query", &multi_query));
    if (multi_query)
        r->proto.kv_heads = 1;
    again = r->proto.kv_heads;
    KVP_TRY(kvp_read_count(r, "num_key_value_heads", &again));
    if (again != r->proto.kv_heads)
        return kvp_key_fail(r, KVP_EINPUT, "num_key_value_heads", "expected 1 with multi_query, else as many as heads");
    kvp_spread(r);
    return KVP_OK;
}

#define GPT_KEYS                                                                                              \
    .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"n_embd", "hidden_size"},                  \
            [KVP_SIZE_LAYERS] = {"n_layer", "num_hidden_layers"}, [KVP_SIZE_HEADS] = {"n_head", "num_attention_heads"}, \
            [KVP_SIZE_FFN] = {"n_inner"}, [KVP_SIZE_POSITIONS] = {"n_positions", "max_position_embeddings"}}
#define NEOX                                                                                                  \
    .rules = {neox_rules, kvp_rules_layer_norm},                                                              \
    .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},                            \
            [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},            \
            [KVP_SIZE_FFN] = {"intermediate_size"}, [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},      \
    .absent = {[KVP_SIZE_POSITIONS] = 2048}, .act_key = "hidden_act", .act = "gelu",                          \
    .eps_key = "layer_norm_eps", .eps = 1e-5, .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE,               \
    .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL, .partial_rotary = true

const struct kvp_dialect family_gpt[] = {
    {
        .model_type = {"gptj"}, .architectures = {"GPTJForCausalLM", "GPTJModel"},
        .rules = {gptj_rules, kvp_rules_layer_norm}, GPT_KEYS, .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .ffn_per_width = 4, .act_key = "activation_function", .act = "gelu_new",
        .eps_key = "layer_norm_epsilon", .eps = 1e-5, .norm = KVP_NORM_LAYER, .norms = 1,
        .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_NONE, .layers = gptj_layers, .partial_rotary = true,
    },
    {.model_type = {"gpt_neox"}, .architectures = {"GPTNeoXForCausalLM", "GPTNeoXModel", "GPTNeoXForSequenceClassification"}, NEOX,
     .layers = neox_layers},
    {.model_type = {"gpt_neox_reward_model"}, .architectures = {"GPTNeoXRewardModel"}, NEOX, .layers = reward_layers},
    {
        .model_type = {"gpt_bigcode"}, .architectures = {"GPTBigCodeForCausalLM", "GPTBigCodeModel"},
        .rules = {bigcode_rules, kvp_rules_layer_norm}, GPT_KEYS, .absent = {[KVP_SIZE_POSITIONS] = 1024},
        .ffn_per_width = 4, .act_key = "activation_function", .act = "gelu_pytorch_tanh",
        .eps_key = "layer_norm_epsilon", .eps = 1e-5, .norm = KVP_NORM_LAYER, .position = KVP_POS_LEARNED,
        .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL, .tied = true, .layers = bigcode_layers,
    },
    {.model_type = {0}},
};
