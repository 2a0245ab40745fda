/* chatglm.c - ChatGLM 2 and 3 and GLM-4-9B (one class), and GLM as transformers has it. Sources:
 * modeling_chatglm.py of THUDM/chatglm3-6b and THUDM/glm-4-9b; configuration_{glm,glm4}.py. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

static kvp_err chatglm_layers(struct kvp_reader *r)
{
    bool few = false, qkv = false, linear = false, last = true;
    uint32_t groups = r->proto.heads;

    KVP_TRY(kvp_read_flag(r, "multi_query_attention", &few));
    KVP_TRY(kvp_read_flag(r, "add_qkv_bias", &qkv));
    KVP_TRY(kvp_read_flag(r, "add_bias_linear", &linear));
    KVP_TRY(kvp_read_flag(r, "post_layer_norm", &last));
    if (few)
        KVP_TRY(kvp_need_count(r, "multi_query_group_num", &groups));
    if (r->proto.heads % groups)
        return kvp_key_fail(r, KVP_EINPUT, "multi_query_group_num", "expected a divisor of the query heads");
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].kv_heads = groups;
        r->layer[i].qkv_bias = qkv || linear;
        r->layer[i].o_bias = r->layer[i].ffn_bias = linear;
    }
    r->m->no_final_norm = !last;
    snprintf(r->m->not_run, sizeof(r->m->not_run), "half of a head rotated, in neighbouring pairs");
    return KVP_OK;
}

/* Two more norms a layer, on what each half yields. */
static kvp_err glm4_layers(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].norms = 4;
    return KVP_OK;
}

static const struct kvp_rule chatglm_rules[] = {
    {"multi_query_group_num", KVP_KEY_ANY, "read: KV heads"},
    {"apply_query_key_layer_scaling", KVP_KEY_ANY, "how scores are scaled"},
    {"apply_residual_connection_post_layernorm", KVP_KEY_ANY, "where the residual starts, no size"},
    {"hidden_dropout", KVP_KEY_ANY, "training only"},
    {"post_layer_norm", KVP_KEY_ANY, "read: whether there is a last norm"},
    {"rmsnorm", KVP_KEY_TRUE, "norms would have biases"},
    {"prefix_projection", KVP_KEY_ANY, "of prompt tuning"},
    {0},
};

const struct kvp_dialect family_chatglm[] = {
    {
        .model_type = {"chatglm"},
        .architectures = {"ChatGLMModel", "ChatGLMForConditionalGeneration"},
        .key = {[KVP_SIZE_VOCAB] = {"padded_vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"}, [KVP_SIZE_LAYERS] = {"num_layers"},
                [KVP_SIZE_HEADS] = {"num_attention_heads"}, [KVP_SIZE_HEAD_DIM] = {"kv_channels"}, [KVP_SIZE_FFN] = {"ffn_hidden_size"},
                [KVP_SIZE_POSITIONS] = {"seq_length"}},
        .act = "silu", .eps_key = "layernorm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE,
        .rules = {chatglm_rules},
        .layers = chatglm_layers,
    },
    {
        .model_type = {"glm"},
        .architectures = {"GlmForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 2, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 131072},
        .bias = KVP_BIAS_QKV,
        .rules = {kvp_rules_llama},
    },
    {
        .model_type = {"glm4"},
        .architectures = {"Glm4ForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 2, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 131072},
        .bias = KVP_BIAS_ATTN,
        .rules = {kvp_rules_llama},
        .layers = glm4_layers,
    },
    {.model_type = {0}},
};
