/* fuyu.c - Persimmon and Fuyu, whose text sizes stand at the top. Sources: configuration_ and
 * modeling_{persimmon,fuyu}.py of huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/vision.h"

static const struct kvp_rule persimmon_rules[] = {
    {"qk_layernorm", KVP_KEY_ANY, "read: LayerNorms on q and k"},
    {"layer_norm_eps", KVP_KEY_ANY, "read: the norms' epsilon"},
    {0},
};
static const struct kvp_rule fuyu_rules[] = {
    {"text_config", KVP_KEY_ANY, "its sizes are the class's or the top level's: see below"},
    {"num_channels", KVP_KEY_ANY, "read: the tower"},
    {"patch_size", KVP_KEY_ANY, "read: the tower"},
    {"image_size", KVP_KEY_ANY, "pixels; patches are tokens"},
    {0},
};

static kvp_err persimmon_layers(struct kvp_reader *r)
{
    bool norms = true;

    KVP_TRY(kvp_read_flag(r, "qk_layernorm", &norms));
    for (uint32_t i = 0; norms && i < r->m->layers; i++) {
        r->layer[i].qk_norm = true;
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "qk_norm.bias", r->layer[i].head_dim, 1, 2, false));
    }
    return KVP_OK;
}

/* Sizes stand at the top; what stands in text_config besides must say nothing about them. */
static kvp_err check_part(const struct kvp_reader *r)
{
    const json_t *part = kvp_json_get(&r->top, "text_config");

    return part ? kvp_dialect_check_keys(&(struct kvp_json){part, r->j.origin, r->j.e}, r->d) : KVP_OK;
}

static kvp_err fuyu_layers(struct kvp_reader *r)
{
    if (kvp_json_get(&r->top, "text_config") && json_object_get(kvp_json_get(&r->top, "text_config"), "hidden_size"))
        return kvp_key_fail(r, KVP_ENOTSUP, "text_config", "sizes there as well as at the top are not supported");
    KVP_TRY(check_part(r));
    return persimmon_layers(r);
}

/* Patches go through one linear into the decoder. */
static kvp_err fuyu_towers(struct kvp_reader *r)
{
    uint32_t patch = 30, channels = 3;

    KVP_TRY(kvp_need_count(r, "patch_size", &patch));
    KVP_TRY(kvp_need_count(r, "num_channels", &channels));
    if (patch > 1024 || channels > 1024)
        return kvp_key_fail(r, KVP_EINPUT, "patch_size", "or num_channels is absurd");
    return vision_linear(r, "vision_embed_tokens", r->m->width, patch * patch * channels, 1);
}

#define PERSIMMON                                                                                                    \
    .key = LLAMA_KEYS, .act_key = "hidden_act", .act = "relu2", .eps_key = "layer_norm_eps", .eps = 1e-5,             \
    .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL,                     \
    .absent = {[KVP_SIZE_POSITIONS] = 16384}, .not_run = "half of each head rotated, LayerNorms on q and k"

const struct kvp_dialect family_fuyu[] = {
    {
        .model_type = {"persimmon"},
        .rules = {persimmon_rules, kvp_rules_llama},
        .architectures = {"PersimmonForCausalLM"},
        PERSIMMON, .layers = persimmon_layers,
    },
    {
        .model_type = {"fuyu"},
        .rules = {fuyu_rules, persimmon_rules, kvp_rules_llama},
        .architectures = {"FuyuForCausalLM"},
        PERSIMMON, .layers = fuyu_layers, .towers = fuyu_towers,
    },
    {.model_type = {0}},
};
