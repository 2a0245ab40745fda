/* minimax.c - MiniMax-M2 and M3. (MiniMax-01 and M1 mix by lightning attention: a family of its own.)
 * Sources: modeling_minimax_m2.py as published with the model (q and k normalised over all heads, a correction
 * bias on the router); vLLM's models/minimax_m3 and its sparse_attention_config: one index key a token, as many
 * index queries as KV heads, norms on both, no index value; dense layers have dense_intermediate_size. The
 * published files hold no prediction layers of M2; those of M3 (vLLM's models/minimax_m3/mtp.py) are its sparse layer
 * with experts between eh_proj and a norm, with the model's own embedding and head. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"
#include "calc/families/vision.h"

#include <string.h>

/* qk_norm_type per_layer: one norm over all heads; per_head: over each. */
static kvp_err read_qk_norm(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    const char *type = "per_layer";

    c->qk_norm = true;
    KVP_TRY(kvp_read_flag(r, "use_qk_norm", &c->qk_norm));
    KVP_TRY(kvp_json_text(&r->j, "qk_norm_type", &type, NULL));
    if (strcmp(type, "per_layer") != 0 && strcmp(type, "per_head") != 0)
        return kvp_key_fail(r, KVP_ENOTSUP, "qk_norm_type", "only per_layer and per_head are supported");
    c->qk_norm_wide = c->qk_norm && strcmp(type, "per_layer") == 0;
    return KVP_OK;
}

static kvp_err set_attention(struct kvp_reader *r)
{
    KVP_TRY(read_qk_norm(r, &r->proto));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].qk_norm = r->proto.qk_norm;
        r->layer[i].qk_norm_wide = r->proto.qk_norm_wide;
    }
    return KVP_OK;
}

static kvp_err softmax_only(const struct kvp_reader *r)
{
    const json_t *list;
    uint32_t softmax;

    KVP_TRY(kvp_read_list(r, "attn_type_list", &list));
    for (uint32_t i = 0; i < json_array_size(list); i++) {
        KVP_TRY(moe_number_at(r, "attn_type_list", list, i, 1, &softmax));
        if (!softmax)
            return kvp_key_fail(r, KVP_ENOTSUP, "attn_type_list", "this class has no linear attention");
    }
    return KVP_OK;
}

static kvp_err m2_layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;
    uint32_t modules = 0;

    KVP_TRY(moe_read(r, &moe));
    moe.router_bias = true;
    KVP_TRY(kvp_read_flag(r, "use_routing_bias", &moe.router_bias));
    KVP_TRY(kvp_read_count(r, "shared_intermediate_size", &moe.shared_width));
    KVP_TRY(softmax_only(r));
    KVP_TRY(set_attention(r));
    KVP_TRY(kvp_read_count(r, "num_mtp_modules", &modules));
    if (modules)
        r->m->mtp_unknown = "num_mtp_modules speaks of them, and the published files hold none";
    return moe_layers(r, &moe);
}

/* ---- M3 ------------------------------------------------------------------------------------------------- */

/* Layer i's indexer: the reader is over sparse_attention_config. */
static kvp_err read_sparse(const struct kvp_reader *s, uint32_t i, struct kvp_layer_class *c)
{
    const json_t *freq, *no_value;
    uint32_t on = 1, disabled = 1, blocks = 0, block = 0;

    KVP_TRY(kvp_read_list(s, "sparse_attention_freq", &freq));
    KVP_TRY(kvp_read_list(s, "sparse_disable_index_value", &no_value));
    if (freq)
        KVP_TRY(moe_number_at(s, "sparse_attention_freq", freq, i, 1, &on));
    if (!on)
        return KVP_OK;
    if (no_value)
        KVP_TRY(moe_number_at(s, "sparse_disable_index_value", no_value, i, 1, &disabled));
    if (!disabled)
        return kvp_key_fail(s, KVP_ENOTSUP, "sparse_disable_index_value", "an index with values of its own is not supported");
    KVP_TRY(kvp_need_count(s, "sparse_num_index_heads", &c->index_heads));
    KVP_TRY(kvp_need_count(s, "sparse_index_dim", &c->index_dim));
    KVP_TRY(kvp_need_count(s, "sparse_topk_blocks", &blocks));
    KVP_TRY(kvp_need_count(s, "sparse_block_size", &block));
    if (blocks > UINT32_MAX / block)
        return kvp_key_fail(s, KVP_EINPUT, "sparse_topk_blocks", "too many for their size");
    c->index_topk = blocks * block;
    return KVP_OK;
}

static const struct kvp_rule sparse_rules[] = {
    {"use_sparse_attention", KVP_KEY_ANY, "read: whether there is an indexer"},
    {"sparse_attention_freq", KVP_KEY_ANY, "read: which layers have an indexer"},
    {"sparse_disable_index_value", KVP_KEY_ANY, "read: which indexers have no values"},
    {"sparse_num_index_heads", KVP_KEY_ANY, "read: indexer"},
    {"sparse_index_dim", KVP_KEY_ANY, "read: indexer"},
    {"sparse_topk_blocks", KVP_KEY_ANY, "read: blocks that a step reads"},
    {"sparse_block_size", KVP_KEY_ANY, "read: blocks that a step reads"},
    {"sparse_init_block", KVP_KEY_ANY, "which blocks are read always"},
    {"sparse_local_block", KVP_KEY_ANY, "which blocks are read always"},
    {"sparse_score_type", KVP_KEY_ANY, "how blocks are compared"},
    {0},
};

static kvp_err add_sparse(struct kvp_reader *r)
{
    struct kvp_reader s = *r;
    bool use = true;

    s.j.object = kvp_json_get(&r->j, "sparse_attention_config");
    if (!s.j.object)
        return KVP_OK;
    if (!json_is_object(s.j.object))
        return kvp_key_fail(r, KVP_EINPUT, "sparse_attention_config", "expected an object");
    KVP_TRY(kvp_check_part(&s.j, "sparse_attention_config", sparse_rules));
    KVP_TRY(kvp_read_flag(&s, "use_sparse_attention", &use));
    for (uint32_t i = 0; i < r->m->layers && use; i++)
        KVP_TRY(read_sparse(&s, i, &r->layer[i]));
    return KVP_OK;
}

/* num_mtp_modules may say how often one layer is used again (7 beside num_nextn_predict_layers 1). */
static kvp_err m3_mtp(struct kvp_reader *r)
{
    static const char *const counts[] = {"num_nextn_predict_layers", "num_mtp_modules", NULL};
    struct kvp_model *m = r->m;
    const struct kvp_layer_class *last = &r->layer[m->layers - 1];

    KVP_TRY(kvp_read_count_of(r, counts, &m->mtp_layers));
    if (!m->mtp_layers)
        return KVP_OK;
    if (!last->experts || !last->index_heads) {
        m->mtp_layers = 0;
        m->mtp_unknown = "they are sparse and have experts, and the last layer has not";
        return KVP_OK;
    }
    memcpy(&m->mtp, last, sizeof(m->mtp));
    m->mtp.count = m->mtp_layers;
    KVP_TRY(kvp_add_extra(r, m->mtp_extra, "eh_proj", m->width, 2 * m->width, 1, true));
    return kvp_add_extra(r, m->mtp_extra, "mtp_norms", m->width, 1, 3, false); /* enorm, hnorm, the last */
}

static kvp_err m3_layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;
    uint32_t dense = r->proto.ffn_width, shared = 0, n = 1;

    KVP_TRY(moe_read(r, &moe));
    moe.router_bias = true;
    KVP_TRY(kvp_read_flag(r, "use_routing_bias", &moe.router_bias));
    KVP_TRY(kvp_read_count(r, "n_shared_experts", &n));
    KVP_TRY(kvp_read_count(r, "shared_intermediate_size", &shared));
    if (shared && n > UINT32_MAX / shared)
        return kvp_key_fail(r, KVP_EINPUT, "n_shared_experts", "too many for their width");
    moe.shared_width = n * shared;
    KVP_TRY(kvp_read_count(r, "dense_intermediate_size", &dense));
    KVP_TRY(set_attention(r));
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].ffn_width = dense;
    KVP_TRY(moe_layers(r, &moe));
    snprintf(r->m->not_run, sizeof(r->m->not_run), "its norms add 1 to their weight, its activation is a clamped SwiGLU");
    KVP_TRY(add_sparse(r));
    return m3_mtp(r);
}

/* M3's tower: CLIP's layers behind patches in space and time without a bias; each patch is projected, then those
 * that are merged are projected together. */
static kvp_err m3_towers(struct kvp_reader *r)
{
    struct vision v = {.width = 1280, .ffn = 5120, .layers = 32, .patch = 14, .image = 2016, .channels = 3};
    uint32_t temporal = 2, merge = 2, projected = r->m->width;
    struct kvp_reader t, top = *r;
    bool found;

    KVP_TRY(vision_read(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(tower_open(r, "img_token_compression_config", &t, &found));
    if (found) {
        KVP_TRY(kvp_read_count(&t, "temporal_patch_size", &temporal));
        KVP_TRY(kvp_read_count(&t, "spatial_merge_size", &merge));
    }
    top.j.object = r->top.object;
    KVP_TRY(kvp_read_count(&top, "projector_hidden_size", &projected));
    if (temporal > 64 || merge > 16 || r->m->width > 1 << 20)
        return kvp_key_fail(r, KVP_EINPUT, "img_token_compression_config", "a size is absurd");
    KVP_TRY(tower_add(r, "tower.patches", v.width, v.channels * temporal * v.patch * v.patch, 1));
    KVP_TRY(vision_norm(r, "tower.pre_norm", v.width, 1));
    KVP_TRY(vision_layers(r, v.width, v.ffn, v.layers));
    KVP_TRY(vision_linear(r, "projector.linear_1", projected, v.width, 1));
    KVP_TRY(vision_linear(r, "projector.linear_2", r->m->width, projected, 1));
    KVP_TRY(vision_linear(r, "merger.linear_1", projected, r->m->width * merge * merge, 1));
    return vision_linear(r, "merger.linear_2", r->m->width, projected, 1);
}

static const struct kvp_rule minimax_rules[] = {
    {"shared_intermediate_size", KVP_KEY_ANY, "read: width of the shared experts"},
    {"rotary_dim", KVP_KEY_ANY, "rotation of a part of the head; no size"},
    {"mtp_transformer_layers", KVP_KEY_ANY, "prediction layers, which the published files do not hold"},
    {"num_nextn_predict_layers", KVP_KEY_ANY, "read: prediction layers, counted on request"},
    {"attention_output_gate", KVP_KEY_FALSE, "attention's output would have a gate"},
    {"attn_type_list", KVP_KEY_ANY, "read: which layers are softmax attention"},
    {"num_mtp_modules", KVP_KEY_ANY, "prediction layers that no published checkpoint holds"},
    {"use_mtp", KVP_KEY_ANY, "prediction layers that no published checkpoint holds"},
    {"dense_intermediate_size", KVP_KEY_ANY, "read: width of the dense layers"},
    {"sparse_attention_config", KVP_KEY_ANY, "read: blocks chosen by an indexer"},
    {0},
};
static const struct kvp_rule m3_vl_rules[] = {
    {"num_reward_heads", KVP_KEY_FALSE, "there would be another head"},
    {"vision_feature_layer", KVP_KEY_ANY, "which layer of the vision tower is used; no size"},
    {"img_token_compression_config", KVP_KEY_ANY, "how many tokens a picture becomes"},
    {"projector_hidden_size", KVP_KEY_ANY, "the projector's"},
    {0},
};

const struct kvp_dialect family_minimax[] = {
    {
        .model_type = {"minimax_m2"},
        .rules = {kvp_rules_moe, minimax_rules},
        .architectures = {"MiniMaxM2ForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 196608},
        .bias = KVP_BIAS_NONE,
        .window = KVP_WINDOW_NONE,
        .layers = m2_layers,
    },
    {
        .model_type = {"minimax_m3", "minimax_m3_text"},
        .rules = {minimax_rules, kvp_rules_moe},
        .architectures = {"MiniMaxM3SparseForCausalLM"},
        .key = LLAMA_KEYS, .eps_key = "rms_norm_eps", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .absent = {[KVP_SIZE_KV_HEADS] = 4, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 1048576},
        .bias = KVP_BIAS_NONE,
        .layers = m3_layers,
    },
    {
        .model_type = {"minimax_m3_vl"},
        .rules = {m3_vl_rules},
        .architectures = {"MiniMaxM3SparseForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "minimax_m3", .towers = m3_towers,
    },
    {.model_type = {0}},
};
