/* openelm.c - OpenELM: heads and feed-forward width differ from layer to layer. Source: configuration_ and
 * modeling_openelm.py beside apple/OpenELM-1_1B-Instruct (make_divisible rounds the width). */
#include "calc/families/families.h"

static const struct kvp_rule openelm_rules[] = {
    {"num_query_heads", KVP_KEY_ANY, "read: query heads, one number a layer"},
    {"num_kv_heads", KVP_KEY_ANY, "read: KV heads, one number a layer"},
    {"head_dim", KVP_KEY_ANY, "read: the head size"},
    {"ffn_multipliers", KVP_KEY_ANY, "read: feed-forward width over the model's, one number a layer"},
    {"ffn_dim_divisor", KVP_KEY_ANY, "read: the width is a multiple of it"},
    {"ffn_with_glu", KVP_KEY_TRUE, "the feed-forward would have no gate"},
    {"share_input_output_layers", KVP_KEY_ANY, "read: whether the head is the embedding"},
    {"normalize_qk_projections", KVP_KEY_ANY, "read: norms on q and k"},
    {"normalization_layer_name", KVP_KEY_ANY, "read: rms_norm"},
    {"num_gqa_groups", KVP_KEY_ANY, "num_kv_heads says the same layer by layer"},
    {"qkv_multipliers", KVP_KEY_ANY, "num_query_heads says the same layer by layer"},
    {0},
};

enum { MOST_HEADS = 1 << 16 };

static kvp_err heads_at(const struct kvp_reader *r, const char *key, uint32_t i, uint32_t *out)
{
    const json_t *list, *v;

    KVP_TRY(kvp_read_list(r, key, &list));
    v = list ? json_array_get(list, i) : NULL;
    if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > MOST_HEADS)
        return kvp_key_fail(r, KVP_EINPUT, key, "expected a list of head counts, one a layer");
    *out = (uint32_t)json_integer_value(v);
    return KVP_OK;
}

/* To a multiple of `divisor`, and never below 0.9 of what was asked. */
static uint32_t make_divisible(double v, uint32_t divisor)
{
    uint32_t n = (uint32_t)(v + divisor / 2.0) / divisor * divisor;

    if (n < divisor)
        n = divisor;
    return n < 0.9 * v ? n + divisor : n;
}

static kvp_err width_at(const struct kvp_reader *r, uint32_t i, uint32_t divisor, uint32_t *out)
{
    const json_t *list, *v;

    KVP_TRY(kvp_read_list(r, "ffn_multipliers", &list));
    v = list ? json_array_get(list, i) : NULL;
    if (!json_is_number(v) || !(json_number_value(v) > 0 && json_number_value(v) <= 64))
        return kvp_key_fail(r, KVP_EINPUT, "ffn_multipliers", "expected a list of numbers from 0 to 64, one a layer");
    *out = make_divisible(json_number_value(v) * r->m->width, divisor);
    return KVP_OK;
}

static kvp_err read_layer(struct kvp_reader *r, uint32_t i, uint32_t head_dim, uint32_t divisor, bool qk_norm)
{
    struct kvp_layer_class *c = &r->layer[i];

    c->mixer = KVP_MIX_ATTENTION;
    c->ffn = KVP_FFN_GATED;
    c->head_dim = c->v_head_dim = head_dim;
    c->qk_norm = qk_norm;
    KVP_TRY(heads_at(r, "num_query_heads", i, &c->heads));
    KVP_TRY(heads_at(r, "num_kv_heads", i, &c->kv_heads));
    if (c->heads % c->kv_heads)
        return kvp_key_fail(r, KVP_EINPUT, "num_query_heads", "is not a multiple of num_kv_heads in every layer");
    return width_at(r, i, divisor, &c->ffn_width);
}

static kvp_err openelm_layers(struct kvp_reader *r)
{
    uint32_t head_dim = 128, divisor = 256;
    bool qk_norm = true;

    KVP_TRY(kvp_read_count(r, "head_dim", &head_dim));
    KVP_TRY(kvp_read_count(r, "ffn_dim_divisor", &divisor));
    if (!head_dim || head_dim % 2 || head_dim > MOST_HEADS)
        return kvp_key_fail(r, KVP_EINPUT, "head_dim", "expected an even number from 2 to 65536");
    if (!divisor || divisor > 1 << 20)
        return kvp_key_fail(r, KVP_EINPUT, "ffn_dim_divisor", "expected a number from 1 to 2^20");
    KVP_TRY(kvp_read_flag(r, "normalize_qk_projections", &qk_norm));
    KVP_TRY(kvp_read_flag(r, "share_input_output_layers", &r->m->tied));
    KVP_TRY(kvp_json_real(&r->j, "rope_freq_constant", &r->m->rope_theta, NULL));
    for (uint32_t i = 0; i < r->m->layers; i++)
        KVP_TRY(read_layer(r, i, head_dim, divisor, qk_norm));
    return KVP_OK;
}

const struct kvp_dialect family_openelm[] = {
    {
        .model_type = {"openelm"},
        .rules = {openelm_rules},
        .architectures = {"OpenELMForCausalLM", "OpenELMModel"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"model_dim"}, [KVP_SIZE_LAYERS] = {"num_transformer_layers"},
                [KVP_SIZE_POSITIONS] = {"max_context_length"}},
        .act_key = "activation_fn_name", .act = "swish", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .bias = KVP_BIAS_NONE, .tied = true,
        .own_mixer = true, .own_ffn = true, .absent = {[KVP_SIZE_POSITIONS] = 2048}, .layers = openelm_layers,
    },
    {.model_type = {0}},
};
