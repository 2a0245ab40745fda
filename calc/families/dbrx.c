/* dbrx.c - DBRX: attention and experts are described in objects of their own.
 * Source: configuration_dbrx.py and modeling_dbrx.py in huggingface/transformers: no bias anywhere, LayerNorm
 * with a weight only, ffn_config's moe_num_experts 4 and moe_top_k 1 unless given. */
#include "calc/families/families.h"
#include "calc/families/moe.h"

#include <string.h>

/* The same reader over the object under `key`. */
/* Of its parts; some files hold all that a PretrainedConfig has. */
static const struct kvp_rule part_rules[] = {
    {"kv_n_heads", KVP_KEY_ANY, "read: KV heads"},
    {"moe_num_experts", KVP_KEY_ANY, "read: experts"},
    {"moe_top_k", KVP_KEY_ANY, "read: experts of a token"},
    {"ffn_hidden_size", KVP_KEY_ANY, "read: width of an expert"},
    {"hidden_size", KVP_KEY_ANY, "d_model again"},
    {"moe_jitter_eps", KVP_KEY_ANY, "training only"},
    {"moe_loss_weight", KVP_KEY_ANY, "training only"},
    {"moe_normalize_expert_weights", KVP_KEY_ANY, "a factor of the experts' sum"},
    {"clip_qkv", KVP_KEY_ANY, "a bound on values"},
    {"uniform_expert_assignment", KVP_KEY_ANY, "a test of the training"},
    {0},
};

static const struct kvp_rule rules[] = {
    {"num_key_value_heads", KVP_KEY_ANY, "read: attn_config's kv_n_heads again"},
    {0},
};

static kvp_err part(const struct kvp_reader *r, const char *key, struct kvp_reader *out)
{
    *out = *r;
    out->j.object = kvp_json_get(&r->j, key);
    if (!json_is_object(out->j.object))
        return kvp_key_fail(r, KVP_EINPUT, key, "expected an object");
    return kvp_check_part(&out->j, key, part_rules);
}

static kvp_err read_attention(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    struct kvp_reader attn;
    uint32_t heads = 0, kv = 1, again;

    KVP_TRY(part(r, "attn_config", &attn));
    KVP_TRY(kvp_need_count(r, "n_heads", &heads));
    KVP_TRY(kvp_read_count(&attn, "kv_n_heads", &kv));
    again = kv;
    KVP_TRY(kvp_read_count(r, "num_key_value_heads", &again));
    if (again != kv)
        return kvp_key_fail(r, KVP_EINPUT, "num_key_value_heads", "expected attn_config's kv_n_heads again");
    KVP_TRY(kvp_json_real(&attn.j, "rope_theta", &r->m->rope_theta, NULL));
    if (!kv || heads % kv || r->m->width % heads)
        return kvp_fail(r->j.e, KVP_EINPUT, "%s: n_heads %u must divide d_model %u and be a multiple of kv_n_heads %u", r->j.origin, heads,
                        r->m->width, kv);
    c->mixer = KVP_MIX_ATTENTION;
    c->heads = heads;
    c->kv_heads = kv;
    c->head_dim = c->v_head_dim = r->m->width / heads;
    return KVP_OK;
}

static kvp_err read_experts(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    struct kvp_reader ffn;

    KVP_TRY(part(r, "ffn_config", &ffn));
    c->experts = 4;
    c->experts_per_token = 1;
    c->expert_width = 3584;
    KVP_TRY(kvp_read_count(&ffn, "moe_num_experts", &c->experts));
    KVP_TRY(kvp_read_count(&ffn, "moe_top_k", &c->experts_per_token));
    KVP_TRY(kvp_read_count(&ffn, "ffn_hidden_size", &c->expert_width));
    if (!c->experts || !c->expert_width || !c->experts_per_token || c->experts_per_token > c->experts)
        return kvp_key_fail(r, KVP_EINPUT, "ffn_config",
                            "moe_num_experts, moe_top_k and ffn_hidden_size must be above 0, moe_top_k no more than the experts");
    c->ffn = KVP_FFN_GATED;
    return KVP_OK;
}

static kvp_err layers(struct kvp_reader *r)
{
    KVP_TRY(read_attention(r, &r->proto));
    KVP_TRY(read_experts(r, &r->proto));
    for (uint32_t i = 0; i < r->m->layers; i++)
        memcpy(&r->layer[i], &r->proto, sizeof(r->proto));
    return KVP_OK;
}

const struct kvp_dialect family_dbrx[] = {
    {
        .model_type = {"dbrx"},
        .architectures = {"DbrxForCausalLM"},
        .rules = {rules},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"d_model"}, [KVP_SIZE_LAYERS] = {"n_layers"},
                [KVP_SIZE_HEADS] = {"n_heads"}, [KVP_SIZE_POSITIONS] = {"max_seq_len"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .norm_no_bias = true, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .bias = KVP_BIAS_NONE, .own_mixer = true, .own_ffn = true,
        .layers = layers,
    },
    {.model_type = {0}},
};
