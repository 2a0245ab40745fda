/* internlm.c - close kin of Llama with a word of their own: InternLM 1 and 2, Baichuan, XVERSE, Orion.
 * Sources: configuration_ and modeling_*.py of internlm/internlm-7b, internlm/internlm2-7b (and -reward),
 * baichuan-inc/Baichuan2-7B-Chat and -13B-Chat, xverse/XVERSE-7B, OrionStarAI/Orion-14B-Base. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/shared.h"

static const struct kvp_rule internlm_rules[] = {
    {"bias", KVP_KEY_ANY, "read: biases of q, k, v and o"},
    {0},
};

/* The reward head is one row without a bias. */
static kvp_err internlm_layers(struct kvp_reader *r)
{
    KVP_TRY(kvp_read_flag(r, "bias", &r->proto.qkv_bias));
    r->proto.o_bias = r->proto.qkv_bias;
    kvp_spread(r);
    if (kvp_arch_ends(r, "ForRewardModel")) {
        r->m->head_rows = 1;
        r->m->tied = false;
    }
    return KVP_OK;
}

/* The 13B models have ALiBi and say model_max_length; the 7B ones rotate and say max_position_embeddings. */
static kvp_err baichuan_layers(struct kvp_reader *r)
{
    if (kvp_json_get(&r->j, "max_position_embeddings") || !kvp_json_get(&r->j, "model_max_length"))
        return KVP_OK;
    r->m->position = KVP_POS_ALIBI;
    kvp_cannot_run(r->m, "ALiBi");
    return KVP_OK;
}

#define LLAMA_KIN .rules = {internlm_rules, kvp_rules_llama}, LLAMA_LIKE

const struct kvp_dialect family_internlm[] = {
    {.model_type = {"internlm"}, .architectures = {"InternLMForCausalLM"}, LLAMA_KIN, .absent = {[KVP_SIZE_POSITIONS] = 2048},
     .layers = internlm_layers},
    {.model_type = {"internlm2"}, .architectures = {"InternLM2ForCausalLM", "InternLM2ForRewardModel"}, LLAMA_KIN,
     .absent = {[KVP_SIZE_POSITIONS] = 2048}, .layers = internlm_layers},
    {
        .model_type = {"baichuan"}, .architectures = {"BaichuanForCausalLM", "BaiChuanForCausalLM"},
        .rules = {kvp_rules_llama},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},
                [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},
                [KVP_SIZE_FFN] = {"intermediate_size"},
                [KVP_SIZE_POSITIONS] = {"max_position_embeddings", "model_max_length"}},
        .absent = {[KVP_SIZE_POSITIONS] = 4096}, .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps",
        .eps = 1e-6, .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE,
        .layers = baichuan_layers,
    },
    {.model_type = {"xverse"}, .architectures = {"XverseForCausalLM"}, .rules = {kvp_rules_llama}, LLAMA_LIKE,
     .absent = {[KVP_SIZE_POSITIONS] = 8192}, .bias = KVP_BIAS_NONE},
    {
        .model_type = {"orion"}, .architectures = {"OrionForCausalLM"}, .rules = {kvp_rules_llama}, .key = LLAMA_KEYS,
        .absent = {[KVP_SIZE_POSITIONS] = 4096}, .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps",
        .eps = 1e-5, .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_KEYS,
    },
    {.model_type = {0}},
};
