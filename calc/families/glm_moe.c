/* glm_moe.c - GLM-4.5 to 4.7, and the text part of GLM-4.5V.
 * Source: configuration_glm4_moe.py, modeling_glm4_moe.py and modeling_glm4v_moe.py in
 * huggingface/transformers: attention_bias is for q, k and v only, use_qk_norm is off unless given, the
 * router has a correction bias. GLM-4.5 and 4.7 repeat embedding and head in the prediction layer. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"
#include "calc/families/shared.h"
#include "calc/families/vision.h"

/* Glm4MoeTopkRouter: as DeepSeek-V3's. */
static kvp_err read_route(struct kvp_reader *r)
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
    return kvp_rotary_absent(r, 0.5);
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;
    bool qk_norm = false;

    KVP_TRY(kvp_read_flag(r, "use_qk_norm", &qk_norm));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].qk_norm = qk_norm;
        r->layer[i].o_bias = false;
    }
    KVP_TRY(moe_read(r, &moe));
    KVP_TRY(moe_shared(r, &moe));
    KVP_TRY(moe_need_layout(r));
    moe.router_bias = true;
    KVP_TRY(read_route(r));
    KVP_TRY(moe_layers(r, &moe));
    return moe_mtp(r, true);
}

/* GLM-4.5V's tower: the layers' feed-forward is as wide as what comes out, intermediate_size is the merger's. */
struct tower {
    uint32_t depth, width, out, merger, patch, image, channels, temporal, merge;
    bool bias;
};

static kvp_err read_tower(const struct kvp_reader *v, struct tower *t)
{
    *t = (struct tower){24, 1536, 4096, 13696, 14, 336, 3, 2, 2, false};
    KVP_TRY(kvp_read_count(v, "depth", &t->depth));
    KVP_TRY(kvp_read_count(v, "hidden_size", &t->width));
    KVP_TRY(kvp_read_count(v, "out_hidden_size", &t->out));
    KVP_TRY(kvp_read_count(v, "intermediate_size", &t->merger));
    KVP_TRY(kvp_need_count(v, "patch_size", &t->patch));
    KVP_TRY(kvp_read_count(v, "image_size", &t->image));
    KVP_TRY(kvp_read_count(v, "in_channels", &t->channels));
    KVP_TRY(kvp_read_count(v, "temporal_patch_size", &t->temporal));
    KVP_TRY(kvp_read_count(v, "spatial_merge_size", &t->merge));
    KVP_TRY(kvp_read_flag(v, "attention_bias", &t->bias));
    if (t->patch > 1024 || t->image / t->patch > 4096 || t->channels > 64 || t->temporal > 64 || t->merge > 16 || t->width > 1 << 20 || t->depth > 1024)
        return kvp_key_fail(v, KVP_EINPUT, "vision_config", "a size is absurd");
    return KVP_OK;
}

static kvp_err add_blocks(struct kvp_reader *r, const struct tower *t)
{
    KVP_TRY(tower_add(r, "tower.norms", t->width, 1, 2 * t->depth));
    KVP_TRY(tower_add(r, "tower.attn", t->width, t->width, 4 * t->depth));
    KVP_TRY(tower_add(r, "tower.qkv.bias", 3 * t->width, 1, t->bias ? t->depth : 0));
    return tower_add(r, "tower.mlp", t->out, t->width, 3 * t->depth);
}

static kvp_err towers(struct kvp_reader *r)
{
    struct kvp_reader v;
    struct tower t;
    bool found;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(read_tower(&v, &t));
    KVP_TRY(vision_linear(r, "tower.patches", t.width, t.channels * t.temporal * t.patch * t.patch, 1));
    KVP_TRY(tower_add(r, "tower.positions", (t.image / t.patch) * (t.image / t.patch), t.width, 1));
    KVP_TRY(tower_add(r, "tower.post_norms", t.width, 1, 2));
    KVP_TRY(add_blocks(r, &t));
    KVP_TRY(vision_linear(r, "tower.downsample", t.out, t.width * t.merge * t.merge, 1));
    KVP_TRY(tower_add(r, "merger.proj", t.out, t.out, 1));
    KVP_TRY(vision_norm(r, "merger.norm", t.out, 1));
    return tower_add(r, "merger.mlp", t.merger, t.out, 3);
}

#define GLM_MOE LLAMA_LIKE, .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 131072}, .bias = KVP_BIAS_ATTN, .layers = layers, .partial_rotary = true

const struct kvp_dialect family_glm_moe[] = {
    {
        .model_type = {"glm4_moe"},
        .rules = {kvp_rules_moe},
        .architectures = {"Glm4MoeForCausalLM"},
        GLM_MOE,
    },
    {
        .model_type = {"glm4v_moe_text"},
        .rules = {kvp_rules_moe},
        GLM_MOE,
    },
    {
        .model_type = {"glm4v_moe"},
        .architectures = {"Glm4vMoeForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "glm4v_moe_text", .towers = towers,
    },
    {.model_type = {0}},
};
