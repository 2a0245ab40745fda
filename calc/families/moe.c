/* moe.c - keys about experts. Sources: configuration_{mixtral,qwen2_moe,deepseek_v3,glm4_moe}.py in
 * huggingface/transformers; configs.md section 5; MTP: deepseek-ai/DeepSeek-V3 README_WEIGHTS.md. */
#include "calc/families/moe.h"

#include <inttypes.h>
#include <string.h>

const struct kvp_rule kvp_rules_moe[] = {
    {"num_experts", KVP_KEY_ANY, "read: experts"},
    {"num_local_experts", KVP_KEY_ANY, "read: experts"},
    {"n_routed_experts", KVP_KEY_ANY, "read: experts"},
    {"num_experts_per_tok", KVP_KEY_ANY, "read: experts of a token"},
    {"experts_per_token", KVP_KEY_ANY, "read: experts of a token"},
    {"top_k_experts", KVP_KEY_ANY, "read: experts of a token"},
    {"n_shared_experts", KVP_KEY_ANY, "read where the class has shared experts"},
    {"expert_intermediate_size", KVP_KEY_ANY, "read: width of an expert"},
    {"moe_layer_freq", KVP_KEY_ANY, "read: which layers have experts"},
    {"mlp_layer_types", KVP_KEY_ANY, "read: which layers have experts"},
    {"mlp_only_layers", KVP_KEY_ANY, "read: which layers have no experts"},
    {"expert_dropout", KVP_KEY_ANY, "training only"},
    {"layer_types", KVP_KEY_ANY, "read: which layers slide"},
    {"sliding_window", KVP_KEY_ANY, "read: the window"},
    {"num_nextn_predict_layers", KVP_KEY_ANY, "read: prediction layers, counted on request"},
    {"moe_intermediate_size", KVP_KEY_ANY, "read: width of an expert"},
    {"moe_top_k", KVP_KEY_ANY, "read: experts of a token"},
    {"decoder_sparse_step", KVP_KEY_ANY, "read: which layers have experts"},
    {"n_group", KVP_KEY_ANY, "which experts a router may choose from"},
    {"topk_group", KVP_KEY_ANY, "which experts a router may choose from"},
    {"moe_router_dtype", KVP_KEY_ANY, "what a router computes in"},
    {0},
};

kvp_err moe_read(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    static const char *const experts[] = {"num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts", NULL};
    static const char *const per_token[] = {"num_experts_per_tok", "experts_per_token", "top_k_experts", "moe_top_k", NULL};
    static const char *const widths[] = {"moe_intermediate_size", "expert_intermediate_size", NULL};
    uint64_t ffn = 0;

    KVP_TRY(kvp_read_count_of(r, experts, &c->experts));
    KVP_TRY(kvp_read_count_of(r, per_token, &c->experts_per_token));
    KVP_TRY(kvp_read_count_of(r, widths, &c->expert_width));
    KVP_TRY(kvp_read_size(r, KVP_SIZE_FFN, &ffn));
    if (!c->expert_width)
        c->expert_width = (uint32_t)ffn;
    if (!c->experts || !c->experts_per_token || !c->expert_width)
        return kvp_key_fail(r, KVP_EINPUT, "num_experts, num_experts_per_tok, moe_intermediate_size",
                            "expected each of them, or another spelling of it, above 0");
    if (c->experts_per_token > c->experts)
        return kvp_fail(r->j.e, KVP_EINPUT, "%s: a token goes to %" PRIu32 " experts, but there are %" PRIu32, r->j.origin,
                        c->experts_per_token, c->experts);
    c->ffn = KVP_FFN_GATED;
    c->ffn_width = 0;
    return KVP_OK;
}

kvp_err moe_shared(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    uint32_t n = 0;

    KVP_TRY(kvp_read_count(r, "n_shared_experts", &n));
    if (n > UINT32_MAX / c->expert_width)
        return kvp_key_fail(r, KVP_EINPUT, "n_shared_experts", "too many for their width");
    c->shared_width = n * c->expert_width;
    return KVP_OK;
}

kvp_err moe_number_at(const struct kvp_reader *r, const char *key, const json_t *list, uint32_t i, uint32_t most, uint32_t *out)
{
    const json_t *v = json_array_get(list, i);
    char what[64];

    if (json_is_boolean(v)) {
        *out = json_is_true(v);
        return KVP_OK;
    }
    if (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= (json_int_t)most) {
        *out = (uint32_t)json_integer_value(v);
        return KVP_OK;
    }
    snprintf(what, sizeof(what), "entry %" PRIu32 ": expected a number from 0 to %" PRIu32, i, most);
    return kvp_key_fail(r, KVP_EINPUT, key, what);
}

static kvp_err by_freq(const struct kvp_reader *r, uint32_t i, bool *sparse)
{
    const json_t *list = NULL;
    uint32_t freq = 1;

    if (json_is_array(kvp_json_get(&r->j, "moe_layer_freq"))) {
        KVP_TRY(kvp_read_list(r, "moe_layer_freq", &list));
        KVP_TRY(moe_number_at(r, "moe_layer_freq", list, i, 1, &freq));
        *sparse = *sparse && freq;
        return KVP_OK;
    }
    KVP_TRY(kvp_read_count(r, "moe_layer_freq", &freq));
    if (!freq)
        return kvp_key_fail(r, KVP_EINPUT, "moe_layer_freq", "expected a number above 0, or a list");
    *sparse = *sparse && i % freq == 0;
    return KVP_OK;
}

static kvp_err by_type(const struct kvp_reader *r, uint32_t i, bool *sparse)
{
    const json_t *list;
    const char *type;

    KVP_TRY(kvp_read_list(r, "mlp_layer_types", &list));
    if (!list)
        return KVP_OK;
    type = json_string_value(json_array_get(list, i));
    if (!type || (strcmp(type, "dense") != 0 && strcmp(type, "sparse") != 0))
        return kvp_key_fail(r, KVP_EINPUT, "mlp_layer_types", "expected \"dense\" or \"sparse\" for every layer");
    *sparse = *sparse && strcmp(type, "sparse") == 0;
    return KVP_OK;
}

/* Qwen: experts where (i + 1) is a multiple of the step, and the layer is not listed. */
static kvp_err by_step(const struct kvp_reader *r, uint32_t i, bool *sparse)
{
    const json_t *listed = kvp_json_get(&r->j, "mlp_only_layers");
    uint32_t step = 1, layer;

    KVP_TRY(kvp_read_count(r, "decoder_sparse_step", &step));
    if (!step)
        return kvp_key_fail(r, KVP_EINPUT, "decoder_sparse_step", "expected a number above 0");
    *sparse = *sparse && (i + 1) % step == 0;
    if (listed && (!json_is_array(listed) || json_array_size(listed) > r->m->layers))
        return kvp_key_fail(r, KVP_EINPUT, "mlp_only_layers", "expected a list of layers, each once");
    for (uint32_t k = 0; k < json_array_size(listed); k++) {
        KVP_TRY(moe_number_at(r, "mlp_only_layers", listed, k, r->m->layers - 1, &layer));
        *sparse = *sparse && layer != i;
    }
    return KVP_OK;
}

kvp_err moe_is_sparse(const struct kvp_reader *r, uint32_t i, bool *sparse)
{
    uint32_t dense = 0;

    KVP_TRY(kvp_read_count(r, "first_k_dense_replace", &dense));
    *sparse = i >= dense;
    KVP_TRY(by_freq(r, i, sparse));
    KVP_TRY(by_type(r, i, sparse));
    return by_step(r, i, sparse);
}

kvp_err moe_need_layout(const struct kvp_reader *r)
{
    static const char *const keys[] = {"first_k_dense_replace", "mlp_layer_types", "moe_layer_freq"};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (kvp_json_get(&r->j, keys[i]))
            return KVP_OK;
    return kvp_key_fail(r, KVP_EINPUT, keys[0], "missing: which layers have no experts");
}

void moe_set_ffn(struct kvp_layer_class *c, const struct kvp_layer_class *from)
{
    c->ffn = from->ffn;
    c->ffn_width = from->ffn_width;
    c->experts = from->experts;
    c->experts_per_token = from->experts_per_token;
    c->expert_width = from->expert_width;
    c->shared_width = from->shared_width;
    c->shared_gate = from->shared_gate;
    c->router_bias = from->router_bias;
    c->expert_bias = from->expert_bias;
}

kvp_err moe_layers(struct kvp_reader *r, const struct kvp_layer_class *from)
{
    for (uint32_t i = 0; i < r->m->layers; i++) {
        bool sparse;

        KVP_TRY(moe_is_sparse(r, i, &sparse));
        if (sparse)
            moe_set_ffn(&r->layer[i], from);
    }
    return KVP_OK;
}

kvp_err moe_mtp(struct kvp_reader *r, bool copies)
{
    struct kvp_model *m = r->m;

    KVP_TRY(kvp_read_count(r, "num_nextn_predict_layers", &m->mtp_layers));
    if (!m->mtp_layers)
        return KVP_OK;
    memcpy(&m->mtp, &r->layer[m->layers - 1], sizeof(m->mtp));
    m->mtp.count = m->mtp_layers;
    KVP_TRY(kvp_add_extra(r, m->mtp_extra, "eh_proj", m->width, 2 * m->width, 1, true));
    KVP_TRY(kvp_add_extra(r, m->mtp_extra, "mtp_norms", m->width, 1, 3, false)); /* enorm, hnorm, the head's */
    if (!copies)
        return KVP_OK;
    KVP_TRY(kvp_add_extra(r, m->mtp_extra, "mtp_embedding", m->vocab, m->width, 1, false));
    return kvp_add_extra(r, m->mtp_extra, "mtp_lm_head", m->vocab, m->width, 1, false);
}

kvp_err moe_router_bias(const struct kvp_reader *r, bool absent, bool *out)
{
    const char *method = NULL;

    KVP_TRY(kvp_json_text(&r->j, "topk_method", &method, NULL));
    *out = method ? strcmp(method, "noaux_tc") == 0 : absent;
    if (method && !*out && strcmp(method, "greedy") != 0 && strcmp(method, "group_limited_greedy") != 0)
        return kvp_key_fail(r, KVP_ENOTSUP, "topk_method", "only noaux_tc, greedy and group_limited_greedy are supported");
    return KVP_OK;
}
