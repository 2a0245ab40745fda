/* falcon.c - Falcon in both decoder architectures. Sources: configuration_falcon.py and modeling_falcon.py in
 * huggingface/transformers; the older remote code of tiiuae/falcon-7b (RefinedWebModel) and falcon-40b
 * (RefinedWeb), where n_head_kv takes the place of new_decoder_architecture. Published files hold lm_head
 * although the class ties it: V * D elements that are no parameters. */
#include "calc/families/families.h"
#include "calc/families/shared.h"

#include <string.h>

static const struct kvp_rule falcon_rules[] = {
    {"alibi", KVP_KEY_ANY, "read: positions"},
    {"bias", KVP_KEY_ANY, "read: biases of all linears"},
    {"multi_query", KVP_KEY_ANY, "read: one KV head in the old architecture"},
    {"new_decoder_architecture", KVP_KEY_ANY, "read: KV heads and norms"},
    {"parallel_attn", KVP_KEY_ANY, "read: norms"},
    {"num_ln_in_parallel_attn", KVP_KEY_ANY, "read: norms"},
    {0},
};

static kvp_err read_norms(struct kvp_reader *r, bool grouped)
{
    bool parallel = true;
    uint32_t norms = grouped ? 2 : 1;

    KVP_TRY(kvp_read_flag(r, "parallel_attn", &parallel));
    if (grouped)
        KVP_TRY(kvp_read_count(r, "num_ln_in_parallel_attn", &norms));
    r->proto.norms = parallel ? norms : 2;
    if (norms != 1 && norms != 2)
        return kvp_key_fail(r, KVP_EINPUT, "num_ln_in_parallel_attn", "expected 1 or 2");
    r->m->numbers.parallel = parallel;
    return KVP_OK;
}

static kvp_err falcon_layers(struct kvp_reader *r)
{
    bool grouped = kvp_json_get(&r->j, "n_head_kv") != NULL, multi_query = true, alibi = false, bias = false;

    KVP_TRY(kvp_read_flag(r, "new_decoder_architecture", &grouped));
    KVP_TRY(kvp_read_flag(r, "multi_query", &multi_query));
    KVP_TRY(kvp_read_flag(r, "alibi", &alibi));
    KVP_TRY(kvp_read_flag(r, "bias", &bias));
    if (!grouped)
        r->proto.kv_heads = multi_query ? 1 : r->proto.heads;
    if (alibi) {
        r->m->position = KVP_POS_ALIBI;
        kvp_cannot_run(r->m, "ALiBi, divided by the square root of the head size");
    }
    r->proto.qkv_bias = r->proto.o_bias = r->proto.ffn_bias = bias;
    KVP_TRY(read_norms(r, grouped));
    kvp_spread(r);
    return KVP_OK;
}

const struct kvp_dialect family_falcon[] = {
    {
        .model_type = {"falcon", "RefinedWeb", "RefinedWebModel"},
        .architectures = {"FalconForCausalLM", "RWForCausalLM", "FalconModel"},
        .rules = {falcon_rules, kvp_rules_layer_norm},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},
                [KVP_SIZE_LAYERS] = {"num_hidden_layers", "n_layer"}, [KVP_SIZE_HEADS] = {"num_attention_heads", "n_head"},
                [KVP_SIZE_KV_HEADS] = {"num_kv_heads", "n_head_kv"}, [KVP_SIZE_FFN] = {"ffn_hidden_size"},
                [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048}, .ffn_per_width = 4, .act_key = "activation", .act = "gelu",
        .eps_key = "layer_norm_epsilon", .eps = 1e-5, .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE,
        .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_NONE, .tied = true, .layers = falcon_layers,
    },
    {.model_type = {0}},
};
