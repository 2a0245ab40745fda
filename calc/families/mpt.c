/* mpt.c - MPT. Source: configuration_mpt.py, modeling_mpt.py in huggingface/transformers; mosaicml/mpt-7b. */
#include "calc/families/families.h"

static kvp_err layers(struct kvp_reader *r)
{
    const json_t *attn = kvp_json_get(&r->j, "attn_config");
    struct kvp_reader a = *r;
    bool no_bias = true, alibi = false, learned = true, qk_ln = false;
    uint32_t kv = r->proto.heads, ratio = 4;

    KVP_TRY(kvp_read_flag(r, "no_bias", &no_bias));
    KVP_TRY(kvp_read_flag(r, "learned_pos_emb", &learned));
    KVP_TRY(kvp_read_count(r, "expansion_ratio", &ratio));
    if (attn) {
        a.j.object = attn;
        KVP_TRY(kvp_read_flag(&a, "alibi", &alibi));
        KVP_TRY(kvp_read_flag(&a, "qk_ln", &qk_ln));
        KVP_TRY(kvp_read_count(&a, "kv_n_heads", &kv));
    }
    if (!kv || r->proto.heads % kv)
        return kvp_key_fail(r, KVP_EINPUT, "attn_config", "kv_n_heads: expected a divisor of n_heads");
    if (qk_ln)
        return kvp_key_fail(r, KVP_ENOTSUP, "attn_config", "qk_ln is set, and norms over q and k are not counted");
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].kv_heads = kv;
        r->layer[i].qkv_bias = r->layer[i].o_bias = r->layer[i].ffn_bias = !no_bias;
        r->layer[i].ffn_width = ratio * r->m->width;
    }
    r->m->norm_vectors = no_bias ? 1 : 2;
    r->m->position = alibi || !learned ? KVP_POS_ALIBI : KVP_POS_LEARNED;
    snprintf(r->m->not_run, sizeof(r->m->not_run), "ALiBi positions");
    return KVP_OK;
}

static const struct kvp_rule rules[] = {
    {"attn_config", KVP_KEY_ANY, "read: KV heads, ALiBi"},
    {"expansion_ratio", KVP_KEY_ANY, "read: the feed-forward's width"},
    {0},
};

const struct kvp_dialect family_mpt[] = {
    {
        .model_type = {"mpt"},
        .architectures = {"MPTForCausalLM", "MptForCausalLM"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"d_model", "hidden_size"}, [KVP_SIZE_LAYERS] = {"n_layers", "num_hidden_layers"},
                [KVP_SIZE_HEADS] = {"n_heads", "num_attention_heads"}, [KVP_SIZE_POSITIONS] = {"max_seq_len"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .ffn_per_width = 4, .act = "gelu", .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_ALIBI, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_NONE, .tied = true,
        .rules = {rules},
        .layers = layers,
    },
    {.model_type = {0}},
};
