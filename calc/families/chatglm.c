/* chatglm.c - ChatGLM-6B, ChatGLM2 and 3, GLM-4-9B (one model_type, two sets of keys), and GLM-4 as transformers
 * has it (glm, glm4). Sources: configuration_chatglm.py and modeling_chatglm.py of THUDM/chatglm-6b,
 * chatglm2-6b and glm-4-9b; configuration_ and modeling_{glm,glm4}.py in huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/shared.h"

static const struct kvp_rule chatglm_rules[] = {
    {"add_bias_linear", KVP_KEY_ANY, "read: biases"},
    {"add_qkv_bias", KVP_KEY_ANY, "read: biases of q, k and v"},
    {"apply_query_key_layer_scaling", KVP_KEY_ANY, "scores are scaled back; no size"},
    {"multi_query_attention", KVP_KEY_ANY, "read: KV heads"},
    {"multi_query_group_num", KVP_KEY_ANY, "read: KV heads"},
    {"position_encoding_2d", KVP_KEY_ANY, "which positions rotate which half of a head"},
    {"inner_hidden_size", KVP_KEY_ANY, "read: feed-forward width"},
    {"post_layer_norm", KVP_KEY_ANY, "read: the last norm"},
    {"rmsnorm", KVP_KEY_ANY, "read: the norm"},
    {"pre_seq_len", KVP_KEY_FALSE, "a prefix would be cached"},
    {"prefix_projection", KVP_KEY_FALSE, "a prefix would be cached"},
    {0},
};
static const struct kvp_rule glm_rules[] = {
    {"attention_bias", KVP_KEY_ANY, "read: biases of q, k and v"},
    {"mlp_bias", KVP_KEY_FALSE, "this class has no such bias"},
    {0},
};

/* ChatGLM-6B: what BLOOM has, but for its positions. */
static kvp_err first_layers(struct kvp_reader *r)
{
    r->m->norm = KVP_NORM_LAYER;
    r->m->norm_vectors = 2;
    r->m->tied = true;
    KVP_TRY(kvp_json_bool(&r->top, "tie_word_embeddings", &r->m->tied, NULL));
    r->proto.ffn = KVP_FFN_PLAIN;
    r->proto.act = KVP_ACT_GELU;
    r->proto.qkv_bias = r->proto.o_bias = r->proto.ffn_bias = true;
    kvp_spread(r);
    kvp_cannot_run(r->m, "positions in two dimensions");
    return KVP_OK;
}

static kvp_err later_layers(struct kvp_reader *r)
{
    bool all = false, qkv = false, groups = false, last = true, rms = true;

    KVP_TRY(kvp_read_flag(r, "add_bias_linear", &all));
    KVP_TRY(kvp_read_flag(r, "add_qkv_bias", &qkv));
    KVP_TRY(kvp_read_flag(r, "multi_query_attention", &groups));
    KVP_TRY(kvp_read_flag(r, "post_layer_norm", &last));
    KVP_TRY(kvp_read_flag(r, "rmsnorm", &rms));
    r->proto.qkv_bias = all || qkv;
    r->proto.o_bias = r->proto.ffn_bias = all;
    if (groups)
        KVP_TRY(kvp_need_count(r, "multi_query_group_num", &r->proto.kv_heads));
    if (r->proto.heads % r->proto.kv_heads)
        return kvp_key_fail(r, KVP_EINPUT, "multi_query_group_num", "expected a divisor of num_attention_heads");
    r->m->no_final_norm = !last;
    r->m->norm = rms ? KVP_NORM_RMS : KVP_NORM_LAYER;
    r->m->norm_vectors = rms ? 1 : 2;
    kvp_spread(r);
    kvp_cannot_run(r->m, "only a part of each head is rotated");
    return KVP_OK;
}

static kvp_err chatglm_layers(struct kvp_reader *r)
{
    return (kvp_json_get(&r->j, "inner_hidden_size") ? first_layers : later_layers)(r);
}

static kvp_err glm_layers(struct kvp_reader *r)
{
    r->proto.o_bias = false; /* attention_bias is of q, k and v */
    r->m->numbers.rope_neighbours = true;
    r->m->numbers.norms_after = r->d->norms == 4;
    kvp_spread(r);
    return kvp_rotary_absent(r, 0.5);
}

#define GLM                                                                                                   \
    .rules = {kvp_rules_llama, glm_rules}, LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 131072}, .bias = KVP_BIAS_ATTN, \
    .layers = glm_layers, .partial_rotary = true

const struct kvp_dialect family_chatglm[] = {
    {
        .model_type = {"chatglm"}, .architectures = {"ChatGLMModel", "ChatGLMForConditionalGeneration"},
        .rules = {chatglm_rules, kvp_rules_layer_norm},
        .key = {[KVP_SIZE_VOCAB] = {"padded_vocab_size", "vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},
                [KVP_SIZE_LAYERS] = {"num_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},
                [KVP_SIZE_HEAD_DIM] = {"kv_channels"}, [KVP_SIZE_FFN] = {"ffn_hidden_size", "inner_hidden_size"},
                [KVP_SIZE_POSITIONS] = {"seq_length", "max_sequence_length"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048}, .act = "silu", .eps_key = "layernorm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE,
        .layers = chatglm_layers,
    },
    {.model_type = {"glm"}, .architectures = {"GlmForCausalLM"}, GLM},
    {.model_type = {"glm4"}, .architectures = {"Glm4ForCausalLM"}, .norms = 4, GLM},
    {.model_type = {0}},
};
