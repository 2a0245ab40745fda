/* nemotron_h.c - Nemotron-H and Nemotron-3: each layer is one of Mamba-2, attention without positions, a
 * feed-forward or experts, with one norm. Sources: modeling_nemotron_h.py beside the checkpoints;
 * vllm/model_executor/models/nemotron_h.py (latent experts: fc1_latent_proj and fc2_latent_proj around them)
 * and nemotron_h_mtp.py. */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"

#include <inttypes.h>
#include <string.h>

static const struct kvp_rule rules[] = {
    {"layers_block_type", KVP_KEY_ANY, "read: what each layer is"},
    {"ssm_state_size", KVP_KEY_ANY, "read: the state's columns"},
    {"mamba_num_heads", KVP_KEY_ANY, "read: Mamba-2's heads"},
    {"mamba_head_dim", KVP_KEY_ANY, "read: rows of a head's state"},
    {"mamba_state_dim", KVP_KEY_ANY, "ssm_state_size again"},
    {"mamba_ssm_cache_dtype", KVP_KEY_ANY, "read: the state's format"},
    {"time_step_rank", KVP_KEY_ANY, "Mamba-2 has no rank"},
    {"n_routed_experts", KVP_KEY_ANY, "read: experts a layer"},
    {"n_shared_experts", KVP_KEY_ANY, "read: shared experts"},
    {"num_experts_per_tok", KVP_KEY_ANY, "read: experts a token"},
    {"moe_shared_expert_intermediate_size", KVP_KEY_ANY, "read: width of a shared expert"},
    {"moe_shared_expert_overlap", KVP_KEY_ANY, "when shared experts run, not what they are"},
    {"num_nextn_predict_layers", KVP_KEY_ANY, "read: prediction layers, counted on request"},
    {"mtp_layers_block_type", KVP_KEY_ANY, "read: what a prediction layer is"},
    {"sliding_window", KVP_KEY_FALSE, "attention of this class has no window"},
    {"conv_kernel", KVP_KEY_ANY, "read: columns of the convolution"},
    {"hybrid_override_pattern", KVP_KEY_ANY, "read: what each layer is"},
    {"mamba_num_groups", KVP_KEY_ANY, "read: Mamba-2"},
    {"n_groups", KVP_KEY_ANY, "read: Mamba-2"},
    {"moe_intermediate_size", KVP_KEY_ANY, "read: width of an expert"},
    {"moe_latent_size", KVP_KEY_ANY, "read: width that experts work in"},
    {"use_conv_bias", KVP_KEY_ANY, "read: the convolution"},
    {"chunk_size", KVP_KEY_ANY, "how a scan is computed"},
    {"mamba_hidden_act", KVP_KEY_ANY, "the convolution's activation"},
    {"mamba_proj_bias", KVP_KEY_FALSE, "use_bias says whether projections have biases"},
    {"use_mamba_kernels", KVP_KEY_ANY, "which kernel, not what is stored"},
    {"n_group", KVP_KEY_ANY, "which experts a router may choose from"},
    {"topk_group", KVP_KEY_ANY, "which experts a router may choose from"},
    {0},
};

static const struct kvp_mamba_keys mamba_keys = {
    .state = {{"ssm_state_size", "mamba_state_dim"}, 128}, .conv = {{"conv_kernel"}, 4},
    .heads = {{"mamba_num_heads"}, 128}, .head_dim = {{"mamba_head_dim"}, 64},
    .groups = {{"n_groups", "mamba_num_groups"}, 8}, .conv_bias = "use_conv_bias", .bias = "use_bias",
};

enum kind { MAMBA, ATTENTION, MLP, MOE, KINDS };

static kvp_err read_experts(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    uint32_t shared = 0, shared_width = 0;

    KVP_TRY(kvp_need_count(r, "n_routed_experts", &c->experts));
    KVP_TRY(kvp_need_count(r, "num_experts_per_tok", &c->experts_per_token));
    KVP_TRY(kvp_need_count(r, "moe_intermediate_size", &c->expert_width));
    KVP_TRY(kvp_read_count(r, "n_shared_experts", &shared));
    KVP_TRY(kvp_read_count(r, "moe_shared_expert_intermediate_size", &shared_width));
    KVP_TRY(kvp_channels(r, "n_shared_experts", shared, shared_width ? shared_width : c->expert_width, &c->shared_width));
    c->router_bias = true;
    c->ffn_width = 0;
    KVP_TRY(kvp_read_count(r, "moe_latent_size", &c->expert_in));
    if (!c->expert_in)
        return KVP_OK;
    KVP_TRY(kvp_add_extra(r, c->extra, "latent_in", c->expert_in, r->m->width, 1, true));
    return kvp_add_extra(r, c->extra, "latent_out", r->m->width, c->expert_in, 1, true);
}

/* NemotronHTopkRouter: sigmoid with a correction bias, a group by its two best. */
static kvp_err read_route(const struct kvp_reader *r)
{
    struct kvp_numbers *n = &r->m->numbers;
    uint32_t groups = 1, kept = 1;

    n->route = KVP_ROUTE_SIGMOID;
    n->route_normalise = n->route_pairs = true;
    KVP_TRY(kvp_read_flag(r, "norm_topk_prob", &n->route_normalise));
    KVP_TRY(kvp_json_real(&r->j, "routed_scaling_factor", &n->route_scale, NULL));
    KVP_TRY(kvp_read_count(r, "n_group", &groups));
    KVP_TRY(kvp_read_count(r, "topk_group", &kept));
    n->route_groups = groups > 1 ? groups : 0; /* of one group all may be chosen */
    n->route_groups_kept = groups > 1 ? kept : 0;
    return KVP_OK;
}

/* The pattern's letter, or the list's word, of layer i. */
static kvp_err kind_of(const struct kvp_reader *r, const char *pattern, const json_t *list, uint32_t i, enum kind *out)
{
    static const char letters[] = "M*-E";
    static const char *const words[] = {"mamba", "attention", "mlp", "moe"};
    const char letter[] = {pattern ? pattern[i] : 0, 0};
    const char *word = pattern ? letter : kvp_word_at(list, i);

    for (int k = 0; k < KINDS; k++)
        if (pattern ? pattern[i] == letters[k] : k == 0 ? kvp_is_mamba(word) : k == 1 ? kvp_is_attention(word) : strcmp(word, words[k]) == 0) {
            *out = (enum kind)k;
            return KVP_OK;
        }
    return kvp_layer_kind_fail(r, pattern ? "hybrid_override_pattern" : "layers_block_type", i, word,
                               pattern ? "M, *, - and E" : "mamba, attention, mlp and moe");
}

static kvp_err read_kinds(const struct kvp_reader *r, const char **pattern, const json_t **list)
{
    *pattern = NULL;
    KVP_TRY(kvp_json_text(&r->j, "hybrid_override_pattern", pattern, NULL));
    KVP_TRY(kvp_read_list(r, "layers_block_type", list));
    if (*pattern && strlen(*pattern) != r->m->layers)
        return kvp_key_fail(r, KVP_EINPUT, "hybrid_override_pattern", "expected one letter a layer");
    if (!*pattern && !*list)
        return kvp_key_fail(r, KVP_EINPUT, "hybrid_override_pattern", "it is missing, and so is layers_block_type");
    return KVP_OK;
}

/* One attention and one expert layer, both with their norm, behind a projection of the last hidden state and
 * the next token's embedding, each normed. */
static kvp_err read_mtp(struct kvp_reader *r)
{
    struct kvp_layer_class experts = r->proto;

    KVP_TRY(kvp_read_count(r, "num_nextn_predict_layers", &r->m->mtp_layers));
    if (!r->m->mtp_layers)
        return KVP_OK;
    KVP_TRY(read_experts(r, &experts));
    r->m->mtp = experts;
    r->m->mtp.norms = 2;
    r->m->mtp.count = r->m->mtp_layers;
    KVP_TRY(kvp_add_extra(r, r->m->mtp_extra, "eh_proj", r->m->width, 2 * r->m->width, 1, true));
    return kvp_add_extra(r, r->m->mtp_extra, "norms", r->m->width, 1, 3, false);
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class of[KINDS];
    const char *pattern;
    const json_t *list;
    enum kind kind = MAMBA;

    KVP_TRY(read_kinds(r, &pattern, &list));
    KVP_TRY(kvp_read_state_dtype(r, "mamba_ssm_cache_dtype"));
    for (int k = 0; k < KINDS; k++) {
        memcpy(&of[k], &r->proto, sizeof(of[k]));
        if (k == MAMBA || k == ATTENTION)
            kvp_drop_ffn(&of[k]);
        if (k != ATTENTION)
            kvp_drop_attention(&of[k]);
    }
    KVP_TRY(kvp_read_mamba2(r, &mamba_keys, &of[MAMBA]));
    if (kvp_json_get(&r->j, "n_routed_experts")) {
        KVP_TRY(read_experts(r, &of[MOE]));
        KVP_TRY(read_route(r));
    }
    for (uint32_t i = 0; i < r->m->layers; i++) {
        KVP_TRY(kind_of(r, pattern, list, i, &kind));
        if (kind == MOE && !of[MOE].experts)
            return kvp_key_fail(r, KVP_EINPUT, "n_routed_experts", "it is missing, and a layer has experts");
        memcpy(&r->layer[i], &of[kind], sizeof(of[kind]));
    }
    return read_mtp(r);
}

const struct kvp_dialect family_nemotron_h[] = {
    {
        .model_type = {"nemotron_h"},
        .architectures = {"NemotronHForCausalLM"},
        .rules = {rules},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},
                [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},
                [KVP_SIZE_KV_HEADS] = {"num_key_value_heads"}, [KVP_SIZE_HEAD_DIM] = {"head_dim", "attention_head_dim"},
                [KVP_SIZE_FFN] = {"intermediate_size"}, [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .layers_of = {"layers_block_type", "hybrid_override_pattern"},
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 4096},
        .act_key = "mlp_hidden_act", .act = "relu2", .eps_key = "layer_norm_epsilon", .eps = 1e-5, .norms = 1,
        .norm = KVP_NORM_RMS, .position = KVP_POS_NONE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_KEYS,
        .window = KVP_WINDOW_HOOK, .layers = layers,
    },
    {.model_type = {0}},
};
