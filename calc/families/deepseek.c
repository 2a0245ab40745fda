/* deepseek.c - multi-head latent attention: DeepSeek V2 to V3.2, Kimi K2, GLM-5; and the
 * compressed attention of DeepSeek-V4.
 * Sources: configuration_deepseek_{v2,v3}.py and the modelling files beside them (huggingface/transformers and
 * the models' own), deepseek-ai/DeepSeek-V3.2-Exp inference/model.py, configs.md sections 4 to 6. Published
 * checkpoints of V3 and V3.2 repeat embedding and head in their prediction layer, those of GLM-5 do not. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"
#include "calc/families/vision.h"

#include <string.h>

/* ---- attention ------------------------------------------------------------------------------------------ */

static kvp_err read_latent(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    uint64_t heads;

    KVP_TRY(kvp_read_size(r, KVP_SIZE_HEADS, &heads));
    c->heads = (uint32_t)heads;
    c->kv_rank = 512;
    c->nope_dim = c->v_head_dim = 128;
    c->rope_dim = 64;
    KVP_TRY(kvp_read_count(r, "q_lora_rank", &c->q_rank));
    KVP_TRY(kvp_need_count(r, "kv_lora_rank", &c->kv_rank));
    KVP_TRY(kvp_need_count(r, "qk_nope_head_dim", &c->nope_dim));
    KVP_TRY(kvp_need_count(r, "qk_rope_head_dim", &c->rope_dim));
    KVP_TRY(kvp_need_count(r, "v_head_dim", &c->v_head_dim));
    if (!heads)
        return kvp_key_fail(r, KVP_EINPUT, "num_attention_heads", "missing: the number of heads");
    c->mixer = KVP_MIX_MLA;
    c->head_dim = c->nope_dim + c->rope_dim;
    return KVP_OK;
}

/* use_mla false (DeepSeek-VL2-tiny): plain attention. */
static kvp_err read_mixer(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    bool mla = true;

    KVP_TRY(kvp_read_flag(r, "use_mla", &mla));
    if (mla)
        return read_latent(r, c);
    c->mixer = KVP_MIX_ATTENTION;
    return kvp_read_heads(r, c);
}

static void set_mixer(struct kvp_layer_class *c, const struct kvp_layer_class *from)
{
    c->mixer = from->mixer;
    c->heads = from->heads;
    c->kv_heads = from->kv_heads;
    c->head_dim = from->head_dim;
    c->v_head_dim = from->v_head_dim;
    c->q_rank = from->q_rank;
    c->kv_rank = from->kv_rank;
    c->nope_dim = from->nope_dim;
    c->rope_dim = from->rope_dim;
}

/* ---- the indexer ---------------------------------------------------------------------------------------- */

/* Does layer i choose for itself ("full"), or use what an earlier one chose ("shared", GLM-5.2 and later)? */
static kvp_err has_indexer(const struct kvp_reader *r, uint32_t i, bool *has)
{
    const json_t *list;
    const char *type;

    *has = true;
    KVP_TRY(kvp_read_list(r, "indexer_types", &list));
    if (!list && (kvp_json_get(&r->j, "index_topk_freq") || kvp_json_get(&r->j, "index_topk_pattern")))
        return kvp_key_fail(r, KVP_ENOTSUP, "index_topk_freq", "layers share what an indexer chose, and indexer_types does not say which");
    if (!list)
        return KVP_OK;
    type = json_string_value(json_array_get(list, i));
    if (!type || (strcmp(type, "full") != 0 && strcmp(type, "shared") != 0))
        return kvp_key_fail(r, KVP_EINPUT, "indexer_types", "expected \"full\" or \"shared\" for every layer");
    *has = strcmp(type, "full") == 0;
    return KVP_OK;
}

static kvp_err read_indexer(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    KVP_TRY(kvp_need_count(r, "index_n_heads", &c->index_heads));
    KVP_TRY(kvp_need_count(r, "index_head_dim", &c->index_dim));
    return kvp_need_count(r, "index_topk", &c->index_topk);
}

static kvp_err add_indexers(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++) {
        bool has;

        KVP_TRY(read_indexer(r, &r->layer[i]));
        KVP_TRY(has_indexer(r, i, &has));
        if (!has)
            r->layer[i].index_heads = r->layer[i].index_dim = 0;
    }
    return KVP_OK;
}

/* ---- layers --------------------------------------------------------------------------------------------- */

/* DeepseekV2TopkRouter and DeepseekV3TopkRouter: V2 chooses by softmax, a group by its best expert, or without groups
 * (greedy); V3 by sigmoid with a correction bias, a group by its two best. */
static kvp_err read_route(struct kvp_reader *r, bool sigmoid)
{
    const char *scoring = sigmoid ? "sigmoid" : "softmax", *method = sigmoid ? "noaux_tc" : "greedy";
    struct kvp_numbers *n = &r->m->numbers;
    const bool with_groups = sigmoid;

    n->route_normalise = sigmoid;
    n->route_scale = sigmoid ? 2.5 : 1;
    n->rope_neighbours = true;
    KVP_TRY(kvp_json_text(&r->j, "scoring_func", &scoring, NULL));
    KVP_TRY(kvp_json_text(&r->j, "topk_method", &method, NULL));
    KVP_TRY(kvp_read_flag(r, "norm_topk_prob", &n->route_normalise));
    KVP_TRY(kvp_read_flag(r, "rope_interleave", &n->rope_neighbours));
    KVP_TRY(kvp_json_real(&r->j, "routed_scaling_factor", &n->route_scale, NULL));
    KVP_TRY(kvp_read_count(r, "n_group", &n->route_groups));
    KVP_TRY(kvp_read_count(r, "topk_group", &n->route_groups_kept));
    n->route_pairs = sigmoid;
    if (!with_groups && strcmp(method, "group_limited_greedy") != 0)
        n->route_groups = n->route_groups_kept = 0;
    if (strcmp(scoring, sigmoid ? "sigmoid" : "softmax") != 0 ||
        strcmp(method, sigmoid ? "noaux_tc" : n->route_groups ? "group_limited_greedy" : "greedy") != 0 ||
        (!sigmoid && n->route_normalise))
        return KVP_OK; /* another way of choosing: the route stays unknown */
    n->route = sigmoid ? KVP_ROUTE_SIGMOID : KVP_ROUTE_SOFTMAX;
    return KVP_OK;
}

static kvp_err fill(struct kvp_reader *r, bool correction)
{
    struct kvp_layer_class x = r->proto;
    uint64_t ffn;

    KVP_TRY(read_mixer(r, &x));
    KVP_TRY(moe_read(r, &x));
    KVP_TRY(moe_shared(r, &x));
    KVP_TRY(moe_router_bias(r, correction, &x.router_bias));
    KVP_TRY(read_route(r, correction));
    if (x.mixer != KVP_MIX_MLA)
        kvp_cannot_run(r->m, "plain attention in a DeepSeek model");
    KVP_TRY(moe_need_layout(r));
    KVP_TRY(kvp_read_size(r, KVP_SIZE_FFN, &ffn));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        set_mixer(&r->layer[i], &x);
        r->layer[i].ffn = KVP_FFN_GATED;
        r->layer[i].ffn_width = (uint32_t)ffn;
    }
    return moe_layers(r, &x);
}

static kvp_err v2_layers(struct kvp_reader *r)
{
    KVP_TRY(fill(r, false));
    return moe_mtp(r, true);
}

static kvp_err v3_layers(struct kvp_reader *r)
{
    KVP_TRY(fill(r, true));
    return moe_mtp(r, true);
}

static kvp_err v32_layers(struct kvp_reader *r)
{
    KVP_TRY(fill(r, true));
    KVP_TRY(add_indexers(r));
    return moe_mtp(r, true);
}

/* The prediction layer chooses for itself even where the last layer does not. */
static kvp_err glm_layers(struct kvp_reader *r)
{
    KVP_TRY(fill(r, true));
    KVP_TRY(add_indexers(r));
    KVP_TRY(moe_mtp(r, false));
    return r->m->mtp_layers ? read_indexer(r, &r->m->mtp) : KVP_OK;
}

/* ---- DeepSeek-V4 ---------------------------------------------------------------------------------------- */

static kvp_err v4_mixer(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    uint64_t heads, head_dim;
    uint32_t window = 0;

    KVP_TRY(kvp_read_size(r, KVP_SIZE_HEADS, &heads));
    KVP_TRY(kvp_read_size(r, KVP_SIZE_HEAD_DIM, &head_dim));
    KVP_TRY(kvp_need_count(r, "q_lora_rank", &c->q_rank));
    KVP_TRY(kvp_need_count(r, "qk_rope_head_dim", &c->rope_dim));
    KVP_TRY(kvp_need_count(r, "o_groups", &c->o_groups));
    KVP_TRY(kvp_need_count(r, "o_lora_rank", &c->o_rank));
    KVP_TRY(kvp_need_count(r, "hc_mult", &c->streams));
    KVP_TRY(kvp_need_count(r, "sliding_window", &window));
    if (!heads || !head_dim || heads % c->o_groups || c->rope_dim > head_dim || c->streams > 1024)
        return kvp_key_fail(r, KVP_EINPUT, "num_attention_heads, head_dim, o_groups, hc_mult",
                            "expected heads that divide into the groups, a head no smaller than what rotates of it, at most 1024 streams");
    c->mixer = KVP_MIX_MLA;
    c->heads = (uint32_t)heads;
    c->head_dim = c->v_head_dim = (uint32_t)head_dim;
    c->window = window;
    c->sinks = true;
    return KVP_OK;
}

/* compress_ratios lists the layers, then the prediction layers. Groups of 4 have an indexer. */
static kvp_err v4_compress(const struct kvp_reader *r, uint32_t i, struct kvp_layer_class *c)
{
    const json_t *list = kvp_json_get(&r->j, "compress_ratios");

    if (json_array_size(list) < r->m->layers)
        return kvp_key_fail(r, KVP_EINPUT, "compress_ratios", "expected a list with a number for every layer");
    KVP_TRY(moe_number_at(r, "compress_ratios", list, i, 1 << 20, &c->compress));
    return c->compress == 4 ? read_indexer(r, c) : KVP_OK;
}

static kvp_err v4_mtp(struct kvp_reader *r, const struct kvp_layer_class *plain)
{
    struct kvp_model *m = r->m;
    const uint32_t k = plain->streams;

    KVP_TRY(kvp_read_count(r, "num_nextn_predict_layers", &m->mtp_layers));
    if (!m->mtp_layers)
        return KVP_OK;
    memcpy(&m->mtp, plain, sizeof(m->mtp));
    m->mtp.count = m->mtp_layers;
    KVP_TRY(kvp_add_extra(r, m->mtp_extra, "mtp_proj", m->width, m->width, 2, true)); /* of the token, of the hidden state */
    KVP_TRY(kvp_add_extra(r, m->mtp_extra, "mtp_norms", m->width, 1, 3, false));
    KVP_TRY(kvp_add_extra(r, m->mtp_extra, "mtp_hyper_head.fn", k, k * m->width, 1, true));
    return kvp_add_extra(r, m->mtp_extra, "mtp_hyper_head", k + 1, 1, 1, false); /* base and scale */
}

static kvp_err v4_layers(struct kvp_reader *r)
{
    struct kvp_layer_class x;
    uint32_t hash = 0, streams;

    memcpy(&x, &r->proto, sizeof(x));
    KVP_TRY(v4_mixer(r, &x));
    KVP_TRY(moe_read(r, &x));
    KVP_TRY(moe_shared(r, &x));
    KVP_TRY(kvp_read_count(r, "num_hash_layers", &hash));
    streams = x.streams;
    for (uint32_t i = 0; i < r->m->layers; i++) {
        struct kvp_layer_class *c = &r->layer[i];

        memcpy(c, &x, sizeof(x));
        KVP_TRY(v4_compress(r, i, c));
        c->router_bias = i >= hash;
        if (i < hash)
            KVP_TRY(kvp_add_extra(r, c->extra, "token_experts", r->m->vocab, x.experts_per_token, 1, false));
    }
    KVP_TRY(kvp_add_extra(r, r->m->extra, "hyper_head.fn", streams, streams * r->m->width, 1, true));
    KVP_TRY(kvp_add_extra(r, r->m->extra, "hyper_head", streams + 1, 1, 1, false));
    x.router_bias = true;
    return v4_mtp(r, &x);
}

/* ---- Kimi-K2.5's tower ------------------------------------------------------------------------------------ */

/* MoonViT: a table of positions on a grid, layers as SigLIP's, and a projector over merged patches. */
struct moonvit {
    uint32_t width, ffn, layers, patch, high, wide, out, merge[2];
};

static kvp_err read_moonvit(const struct kvp_reader *v, struct moonvit *t)
{
    const json_t *merge = kvp_json_get(&v->j, "merge_kernel_size");

    *t = (struct moonvit){1152, 4304, 27, 14, 64, 64, 1152, {2, 2}};
    KVP_TRY(kvp_read_count(v, "vt_hidden_size", &t->width));
    KVP_TRY(kvp_read_count(v, "vt_intermediate_size", &t->ffn));
    KVP_TRY(kvp_read_count(v, "vt_num_hidden_layers", &t->layers));
    KVP_TRY(kvp_need_count(v, "patch_size", &t->patch));
    KVP_TRY(kvp_read_count(v, "init_pos_emb_height", &t->high));
    KVP_TRY(kvp_read_count(v, "init_pos_emb_width", &t->wide));
    KVP_TRY(kvp_read_count(v, "mm_hidden_size", &t->out));
    for (uint32_t i = 0; i < 2 && merge; i++)
        KVP_TRY(moe_number_at(v, "merge_kernel_size", merge, i, 16, &t->merge[i]));
    if (t->patch > 1024 || t->high > 4096 || t->wide > 4096 || t->width > 1 << 20 || t->out > 1 << 20 || t->layers > 1024)
        return kvp_key_fail(v, KVP_EINPUT, "vision_config", "a size is absurd");
    return KVP_OK;
}

static kvp_err kimi_towers(struct kvp_reader *r)
{
    struct kvp_reader v;
    struct moonvit t;
    uint32_t merged;
    bool found;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(read_moonvit(&v, &t));
    merged = t.out * t.merge[0] * t.merge[1];
    KVP_TRY(vision_linear(r, "tower.patches", t.width, 3 * t.patch * t.patch, 1));
    KVP_TRY(tower_add(r, "tower.positions", t.high * t.wide, t.width, 1));
    KVP_TRY(vision_layers(r, t.width, t.ffn, t.layers));
    KVP_TRY(vision_norm(r, "tower.final_norm", t.width, 1));
    KVP_TRY(vision_norm(r, "projector.norm", t.out, 1));
    KVP_TRY(vision_linear(r, "projector.in", merged, merged, 1));
    return vision_linear(r, "projector.out", r->m->width, merged, 1);
}

/* ---- keys ----------------------------------------------------------------------------------------------- */

static const struct kvp_rule mla_rules[] = {
    {"q_lora_rank", KVP_KEY_ANY, "read: MLA"},
    {"kv_lora_rank", KVP_KEY_ANY, "read: MLA"},
    {"qk_nope_head_dim", KVP_KEY_ANY, "read: MLA"},
    {"qk_rope_head_dim", KVP_KEY_ANY, "read: MLA"},
    {"v_head_dim", KVP_KEY_ANY, "read: MLA"},
    {"use_mla", KVP_KEY_ANY, "read: MLA, or plain attention"},
    {"qk_head_dim", KVP_KEY_ANY, "qk_nope_head_dim + qk_rope_head_dim, said again"},
    {"lm_head", KVP_KEY_TRUE, "there would be no head"},
    {"rm_head", KVP_KEY_FALSE, "there would be a second head"},
    {"indexer_types", KVP_KEY_ANY, "read: which layers have an indexer"},
    {0},
};
static const struct kvp_rule no_index_rules[] = {
    {"index_n_heads", KVP_KEY_FALSE, "this class has no indexer"},
    {"index_head_dim", KVP_KEY_FALSE, "this class has no indexer"},
    {0},
};
static const struct kvp_rule index_rules[] = {
    {"index_n_heads", KVP_KEY_ANY, "read: indexer"},
    {"index_head_dim", KVP_KEY_ANY, "read: indexer"},
    {"indexer_rope_interleave", KVP_KEY_ANY, "which elements rotate; no size"},
    {"index_share_for_mtp_iteration", KVP_KEY_ANY, "what repeated predictions choose; the prediction layer's weights are the same"},
    {"index_topk_pattern", KVP_KEY_ANY, "read: which layers have an indexer"},
    {0},
};
static const struct kvp_rule v4_rules[] = {
    {"o_lora_rank", KVP_KEY_ANY, "read: the output projection"},
    {"num_hash_layers", KVP_KEY_ANY, "read: layers whose experts the token's number chooses"},
    {"expert_dtype", KVP_KEY_ANY, "read: how experts are stored"},
    {"index_n_heads", KVP_KEY_ANY, "read: indexer"},
    {"index_head_dim", KVP_KEY_ANY, "read: indexer"},
    {"q_lora_rank", KVP_KEY_ANY, "read: q"},
    {"qk_rope_head_dim", KVP_KEY_ANY, "read: what rotates of a head"},
    {"compress_ratios", KVP_KEY_ANY, "read: how many tokens a stored row stands for"},
    {"compress_rope_theta", KVP_KEY_ANY, "rotation of the rows"},
    {"o_groups", KVP_KEY_ANY, "read: the output projection"},
    {"hc_sinkhorn_iters", KVP_KEY_ANY, "how streams are mixed; no weight"},
    {0},
};
static const struct kvp_rule k25_rules[] = {
    {"use_unified_vision_chunk", KVP_KEY_ANY, "how pictures and films are cut; tokens are tokens"},
    {0},
};

/* Rotation pairs neighbouring elements in all of these. */
#define MLA_LIKE(bias_, hook_) \
    LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 4096}, .bias = bias_, .own_mixer = true, .own_ffn = true, .layers = hook_

const struct kvp_dialect family_deepseek[] = {
    {
        .model_type = {"deepseek_v2"},
        .rules = {kvp_rules_moe, mla_rules, no_index_rules},
        .architectures = {"DeepseekV2ForCausalLM"},
        MLA_LIKE(KVP_BIAS_ATTN, v2_layers),
    },
    {
        .model_type = {"deepseek_v3"},
        .rules = {kvp_rules_moe, mla_rules, no_index_rules},
        .architectures = {"DeepseekV3ForCausalLM"},
        MLA_LIKE(KVP_BIAS_ATTN, v3_layers),
    },
    {
        .model_type = {"kimi_k2"},
        .rules = {kvp_rules_moe, mla_rules, no_index_rules},
        .architectures = {"KimiK2ForCausalLM"},
        MLA_LIKE(KVP_BIAS_ATTN, v3_layers),
    },
    {
        .model_type = {"deepseek_v32"},
        .rules = {kvp_rules_moe, mla_rules, index_rules},
        .architectures = {"DeepseekV32ForCausalLM"},
        MLA_LIKE(KVP_BIAS_ATTN, v32_layers), .indexed = true,
    },
    {
        .model_type = {"glm_moe_dsa"},
        .rules = {kvp_rules_moe, mla_rules, index_rules},
        .architectures = {"GlmMoeDsaForCausalLM"},
        MLA_LIKE(KVP_BIAS_ATTN, glm_layers), .indexed = true,
    },
    {
        .model_type = {"deepseek_v4"},
        .rules = {v4_rules, kvp_rules_moe},
        .architectures = {"DeepseekV4ForCausalLM"},
        MLA_LIKE(KVP_BIAS_NONE, v4_layers),
        .window = KVP_WINDOW_HOOK,
    },
    {
        .model_type = {"kimi_k25"},
        .architectures = {"KimiK25ForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "kimi_k2", .towers = kimi_towers, .rules = {k25_rules},
    },
    {
        .model_type = {"deepseek_vl_v2"},
        .architectures = {"DeepseekVLV2ForCausalLM", "DeepseekOCRForCausalLM"},
        .nested = {"language_config"}, .inner = "deepseek_v2",
    },
    {.model_type = {0}},
};
