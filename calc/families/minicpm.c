/* minicpm.c - MiniCPM (scaled embeddings, residuals and logits), MiniCPM3 (latent attention) and MiniCPM-V 2.
 * Sources: configuration_ and modeling_minicpm.py, modeling_minicpmv.py and resampler.py beside
 * openbmb/MiniCPM-2B-sft-bf16, MiniCPM3-4B and MiniCPM-V-2. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/vision.h"

#include <string.h>

static const struct kvp_rule scale_rules[] = {
    {"dim_model_base", KVP_KEY_ANY, "scales the logits; no size"},
    {"sparse_config", KVP_KEY_FALSE, "attention would choose blocks by extra weights"},
    {"scale_depth", KVP_KEY_ANY, "a factor of the residual"},
    {0},
};
static const struct kvp_rule mla_rules[] = {
    {"q_lora_rank", KVP_KEY_ANY, "read: rank of q"},
    {"kv_lora_rank", KVP_KEY_ANY, "read: rank of k and v"},
    {"qk_nope_head_dim", KVP_KEY_ANY, "read: the part of a head that does not rotate"},
    {"qk_rope_head_dim", KVP_KEY_ANY, "read: the part of a head that rotates"},
    {"v_head_dim", KVP_KEY_ANY, "read: head size of v"},
    {0},
};
static const struct kvp_rule v_rules[] = {
    {"drop_vision_last_layer", KVP_KEY_ANY, "read: layers of the tower"},
    {"vision_encoder", KVP_KEY_ANY, "read: which tower"},
    {"image_size", KVP_KEY_ANY, "pixels"},
    {"patch_size", KVP_KEY_ANY, "read: the tower"},
    {0},
};

/* num_key_value_heads counts heads after the expansion, and is not what is cached. */
static kvp_err mla_layers(struct kvp_reader *r)
{
    struct kvp_layer_class c = r->proto;
    uint64_t heads;

    KVP_TRY(kvp_read_size(r, KVP_SIZE_HEADS, &heads));
    if (!heads)
        return kvp_key_fail(r, KVP_EINPUT, "num_attention_heads", "is missing");
    c.mixer = KVP_MIX_MLA;
    c.heads = (uint32_t)heads;
    KVP_TRY(kvp_read_count(r, "q_lora_rank", &c.q_rank));
    KVP_TRY(kvp_need_count(r, "kv_lora_rank", &c.kv_rank));
    KVP_TRY(kvp_need_count(r, "qk_nope_head_dim", &c.nope_dim));
    KVP_TRY(kvp_need_count(r, "qk_rope_head_dim", &c.rope_dim));
    c.head_dim = c.nope_dim + c.rope_dim;
    c.v_head_dim = r->m->width / c.heads;
    KVP_TRY(kvp_read_count(r, "v_head_dim", &c.v_head_dim));
    if (!c.v_head_dim)
        return kvp_key_fail(r, KVP_EINPUT, "v_head_dim", "expected a number above 0");
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i] = c;
    return KVP_OK;
}

/* One cross-attention of query_num learned queries over the patches, and a projection. */
static kvp_err resampler(struct kvp_reader *r, uint32_t width)
{
    const uint32_t D = r->m->width;
    uint32_t queries = 64;

    KVP_TRY(kvp_read_count(r, "query_num", &queries));
    KVP_TRY(tower_add(r, "resampler.query", queries, D, 2)); /* and their fixed positions, stored too */
    KVP_TRY(tower_add(r, "resampler.kv_proj", D, width, 1));
    KVP_TRY(vision_linear(r, "resampler.attn", D, D, 4));
    KVP_TRY(vision_norm(r, "resampler.norms", D, 3));
    return tower_add(r, "resampler.proj", D, D, 1);
}

/* timm's vit_so400m_patch14_siglip_384: the sizes are in its name and nowhere else. */
static kvp_err v_towers(struct kvp_reader *r)
{
    struct vision v = {.width = 1152, .ffn = 4304, .layers = 27, .patch = 14, .image = 384, .channels = 3};
    const char *name = "";
    bool drop = false;

    KVP_TRY(kvp_json_text(&r->j, "vision_encoder", &name, NULL));
    if (strcmp(name, "vit_so400m_patch14_siglip_384.webli") != 0)
        return KVP_OK;
    KVP_TRY(kvp_read_flag(r, "drop_vision_last_layer", &drop));
    v.layers -= drop;
    KVP_TRY(vision_vit(r, &v));
    KVP_TRY(vision_norm(r, "tower.norm", v.width, 1));
    return resampler(r, v.width);
}

#define SCALED "embeddings, residuals and logits are scaled"

const struct kvp_dialect family_minicpm[] = {
    {
        .model_type = {"minicpm"},
        .rules = {scale_rules, kvp_rules_llama},
        .architectures = {"MiniCPMForCausalLM", "MiniCPMModel"},
        LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 2048}, .bias = KVP_BIAS_ATTN, .tied = true, .not_run = SCALED,
    },
    {
        .model_type = {"minicpmv"},
        .rules = {v_rules, scale_rules, kvp_rules_llama},
        .architectures = {"MiniCPMV"},
        LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 2048}, .bias = KVP_BIAS_ATTN, .tied = true, .not_run = SCALED,
        .towers = v_towers,
    },
    {
        .model_type = {"minicpm3"},
        .rules = {mla_rules, scale_rules, kvp_rules_llama},
        .architectures = {"MiniCPM3ForCausalLM", "MiniCPM3Model"},
        LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 32768}, .bias = KVP_BIAS_ATTN, .tied = true, .own_mixer = true,
        .layers = mla_layers, .not_run = SCALED,
    },
    {.model_type = {0}},
};
