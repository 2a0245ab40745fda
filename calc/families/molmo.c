/* molmo.c - Molmo: Qwen2's layers under OLMo's names; intermediate_size counts gate and up together, and 128 rows
 * of special tokens stand beside the embedding. The tower's sizes are in no key: class defaults. Source:
 * config_molmo.py and modeling_molmo.py beside allenai/Molmo-7B-D-0924. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/vision.h"

#include <string.h>

enum { MORE_ROWS = 128 };

static const struct kvp_rule molmo_rules[] = {
    {"attention_layer_norm", KVP_KEY_ANY, "read: norms over all of q and of k"},
    {"layer_norm_eps", KVP_KEY_ANY, "read: the norm's epsilon"},
    {"layer_norm_type", KVP_KEY_ANY, "read: rms"},
    {"norm_after", KVP_KEY_ANY, "where norms stand, not how many"},
    {"embedding_size", KVP_KEY_ANY, "read: rows of the embedding"},
    {"weight_tying", KVP_KEY_FALSE, "the head would be the embedding"},
    {"clip_qkv", KVP_KEY_ANY, "bounds values; no size"},
    {"qkv_bias", KVP_KEY_ANY, "read: biases of q, k and v"},
    {0},
};

static kvp_err molmo_layers(struct kvp_reader *r)
{
    uint32_t rows = r->m->vocab;
    bool bias = false, norms = false, after = false;
    const char *type = "rms";

    KVP_TRY(kvp_json_text(&r->j, "layer_norm_type", &type, NULL));
    if (strcmp(type, "rms") != 0)
        return kvp_key_fail(r, KVP_ENOTSUP, "layer_norm_type", "only rms is supported");
    if (r->proto.ffn_width % 2)
        return kvp_key_fail(r, KVP_EINPUT, "intermediate_size", "is odd, and counts gate and up together");
    KVP_TRY(kvp_read_flag(r, "qkv_bias", &bias));
    KVP_TRY(kvp_read_flag(r, "attention_layer_norm", &norms));
    KVP_TRY(kvp_read_flag(r, "norm_after", &after));
    KVP_TRY(kvp_need_count(r, "embedding_size", &rows));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].qkv_bias = bias;
        r->layer[i].qk_norm = r->layer[i].qk_norm_wide = norms;
        r->layer[i].ffn_width = r->proto.ffn_width / 2;
        r->layer[i].fused_qkv = r->layer[i].fused_gate_up = true;
    }
    if (after)
        kvp_cannot_run(r->m, "norms follow the layer's parts");
    r->m->head_rows = r->m->vocab != rows ? r->m->vocab : 0;
    r->m->vocab = rows;
    return kvp_add_extra(r, r->m->extra, "new_embedding", MORE_ROWS, r->m->width, 1, false);
}

/* CLIP ViT-L/14-336 up to its last layer but one; two of its layers side by side are pooled by attention and go
 * through a gated projector as wide as the decoder's feed-forward. */
static kvp_err molmo_towers(struct kvp_reader *r)
{
    const uint32_t width = 1024, ffn = 4096, layers = 23, patches = 24 * 24, pixels = 3 * 14 * 14;
    const uint32_t wide = r->proto.ffn_width / 2;

    KVP_TRY(tower_add(r, "tower.patches", width, pixels, 1));
    KVP_TRY(tower_add(r, "tower.class", width, 1, 1));
    KVP_TRY(tower_add(r, "tower.positions", patches + 1, width, 1));
    KVP_TRY(vision_norm(r, "tower.pre_norm", width, 1));
    KVP_TRY(vision_layers(r, width, ffn, layers));
    KVP_TRY(tower_add(r, "pad_embed", 2, 2 * width, 1));
    KVP_TRY(vision_linear(r, "pooling.qkv", width, 2 * width, 3));
    KVP_TRY(vision_linear(r, "pooling.o", width, width, 1));
    KVP_TRY(tower_add(r, "projector.gate_up", wide, width, 2));
    return tower_add(r, "projector.down", r->m->width, wide, 1);
}

const struct kvp_dialect family_molmo[] = {
    {
        .model_type = {"molmo"},
        .rules = {molmo_rules, kvp_rules_llama},
        .architectures = {"MolmoForCausalLM"},
        .key = LLAMA_KEYS, .act = "silu", .eps_key = "layer_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE,
        .absent = {[KVP_SIZE_POSITIONS] = 2048}, .layers = molmo_layers, .towers = molmo_towers,
    },
    {.model_type = {0}},
};
