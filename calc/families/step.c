/* step.c - Step-3.5 and Step-3.7: sliding layers may have heads of their own, a shared expert without a gate.
 * Source: stepfun-ai/Step-3.5-Flash configuration_step3p5.py and modeling_step3p5.py, the copy in
 * huggingface/transformers (Step3p7): q and k always have norms; g_proj [heads, width] with
 * use_head_wise_attn_gate; attention_other_setting is for sliding layers. layer_types of the published files goes
 * on over the prediction layers (vLLM's step3p5_mtp.py): attention as there, a dense feed-forward, a head of their own;
 * the embedding is the model's. The tower of Step-3.7 is a perception encoder. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"
#include "calc/families/vision.h"

#include <stdlib.h>
#include <string.h>

/* Heads of the layers that slide. */
static kvp_err read_other(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    struct kvp_reader other = *r;

    other.j.object = kvp_json_get(&r->j, "attention_other_setting");
    if (!other.j.object)
        return KVP_OK;
    if (!json_is_object(other.j.object))
        return kvp_key_fail(r, KVP_EINPUT, "attention_other_setting", "expected an object");
    KVP_TRY(kvp_need_count(&other, "num_attention_heads", &c->heads));
    KVP_TRY(kvp_read_count(&other, "num_attention_groups", &c->kv_heads));
    KVP_TRY(kvp_read_count(&other, "head_dim", &c->head_dim));
    c->v_head_dim = c->head_dim;
    if (!c->kv_heads || !c->head_dim || c->heads % c->kv_heads)
        return kvp_key_fail(r, KVP_EINPUT, "attention_other_setting", "its heads must be a multiple of its groups, its head_dim above 0");
    return KVP_OK;
}

/* Does layer i slide? Prediction layers follow the last one; where the list ends before them, they do. */
static kvp_err slides(const struct kvp_reader *r, uint32_t i, bool *slides)
{
    const json_t *types = kvp_json_get(&r->j, "layer_types");
    const size_t n = json_array_size(types);
    const char *type = json_string_value(json_array_get(types, i));

    *slides = true;
    if (!types)
        return KVP_OK;
    if (!json_is_array(types) || (n != r->m->layers && n != (size_t)r->m->layers + r->m->mtp_layers))
        return kvp_key_fail(r, KVP_EINPUT, "layer_types", "expected a list of the layers, with or without the prediction layers");
    if (i >= n)
        return KVP_OK;
    *slides = type && strcmp(type, "sliding_attention") == 0;
    if (!*slides && (!type || strcmp(type, "full_attention") != 0))
        return kvp_key_fail(r, KVP_ENOTSUP, "layer_types", "expected full_attention or sliding_attention in every place");
    return KVP_OK;
}

/* Window, heads and gate of layer i. */
static kvp_err set_attention(const struct kvp_reader *r, uint32_t i, uint64_t window, struct kvp_layer_class *c)
{
    bool slide, gate = false;

    KVP_TRY(slides(r, i, &slide));
    if (slide && !window && kvp_json_get(&r->j, "layer_types"))
        return kvp_key_fail(r, KVP_EINPUT, "sliding_window", "expected a number above 0, as a layer slides");
    c->window = slide ? window : 0;
    if (c->window)
        KVP_TRY(read_other(r, c));
    KVP_TRY(kvp_read_flag(r, "use_head_wise_attn_gate", &gate));
    return gate ? kvp_add_extra(r, c->extra, "g_proj", c->heads, r->m->width, 1, true) : KVP_OK;
}

/* moe_layers_enum: "3,4,5,..." */
static kvp_err enumerated(const struct kvp_reader *r, uint32_t i, bool *sparse)
{
    const char *list = NULL;
    char *end;

    KVP_TRY(kvp_json_text(&r->j, "moe_layers_enum", &list, NULL));
    if (!list)
        return moe_is_sparse(r, i, sparse);
    if (strlen(list) > 8 * (size_t)r->m->layers)
        return kvp_key_fail(r, KVP_EINPUT, "moe_layers_enum", "longer than a list of the layers");
    *sparse = false;
    for (; *list; list = *end == ',' ? end + 1 : end) {
        const unsigned long layer = strtoul(list, &end, 10);

        if (end == list || (*end && *end != ','))
            return kvp_key_fail(r, KVP_EINPUT, "moe_layers_enum", "expected numbers of layers and commas");
        *sparse = *sparse || layer == i;
    }
    return KVP_OK;
}

static kvp_err read_moe(const struct kvp_reader *r, struct kvp_layer_class *moe)
{
    KVP_TRY(moe_read(r, moe));
    KVP_TRY(kvp_read_count(r, "share_expert_dim", &moe->shared_width));
    KVP_TRY(kvp_read_flag(r, "use_moe_router_bias", &moe->router_bias));
    return kvp_json_get(&r->j, "moe_layers_enum") ? KVP_OK : moe_need_layout(r);
}

static kvp_err read_mtp(struct kvp_reader *r, uint64_t window)
{
    struct kvp_model *m = r->m;

    if (!m->mtp_layers)
        return KVP_OK;
    for (uint32_t i = 0; i < m->mtp_layers; i++) {
        struct kvp_layer_class c;

        memcpy(&c, &r->proto, sizeof(c));
        KVP_TRY(set_attention(r, m->layers + i, window, &c));
        c.count = m->mtp_layers;
        if (i && memcmp(&c, &m->mtp, sizeof(c)) != 0)
            return kvp_key_fail(r, KVP_ENOTSUP, "layer_types", "the prediction layers differ");
        memcpy(&m->mtp, &c, sizeof(c));
    }
    KVP_TRY(kvp_add_extra(r, m->mtp_extra, "eh_proj", m->width, 2 * m->width, 1, true));
    KVP_TRY(kvp_add_extra(r, m->mtp_extra, "mtp_norms", m->width, 1, 3, false)); /* enorm, hnorm, the head's */
    return kvp_add_extra(r, m->mtp_extra, "mtp_lm_head", m->vocab, m->width, 1, false);
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;
    uint64_t window = 0;
    bool sparse;

    KVP_TRY(read_moe(r, &moe));
    KVP_TRY(kvp_read_count(r, "num_nextn_predict_layers", &r->m->mtp_layers));
    KVP_TRY(kvp_json_u64(&r->j, "sliding_window", 1, UINT64_C(1) << 40, &window, NULL));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        struct kvp_layer_class *c = &r->layer[i];

        KVP_TRY(set_attention(r, i, window, c));
        KVP_TRY(enumerated(r, i, &sparse));
        if (sparse)
            moe_set_ffn(c, &moe);
    }
    snprintf(r->m->not_run, sizeof(r->m->not_run), "norms add 1 to their weight, a gate on every head's output");
    return read_mtp(r, window);
}

/* The perception encoder: layers as SigLIP's with a scale on either branch, no norm after them, then two strided
 * convolutions of 3 x 3 that double the width, and a projector. */
static kvp_err towers(struct kvp_reader *r)
{
    uint32_t width = 1536, depth = 47, patch = 14, image = 728, channels = 3;
    bool found, class_token = false, post = false, bias = false;
    double ratio = 8960.0 / 1536, scale = 0.1;
    struct kvp_reader v, top = *r;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(kvp_read_count(&v, "width", &width));
    KVP_TRY(kvp_read_count(&v, "layers", &depth));
    KVP_TRY(kvp_need_count(&v, "patch_size", &patch));
    KVP_TRY(kvp_read_count(&v, "image_size", &image));
    KVP_TRY(kvp_read_count(&v, "num_channels", &channels));
    KVP_TRY(kvp_json_real(&v.j, "mlp_ratio", &ratio, NULL));
    KVP_TRY(kvp_json_real(&v.j, "ls_init_value", &scale, NULL));
    KVP_TRY(kvp_read_flag(&v, "use_cls_token", &class_token));
    KVP_TRY(kvp_read_flag(&v, "use_ln_post", &post));
    top.j.object = r->top.object;
    KVP_TRY(kvp_read_flag(&top, "projector_bias", &bias));
    if (patch > 1024 || image / patch > 4096 || channels > 64 || width > 1 << 20 || depth > 1024 || !(ratio >= 0 && ratio <= 64))
        return kvp_key_fail(r, KVP_EINPUT, "vision_config", "a size is absurd");
    if (class_token || post || bias || scale <= 0)
        return KVP_OK; /* another tower than the published one: --with-vision says that it is not known */
    KVP_TRY(tower_add(r, "tower.patches", width, channels * patch * patch, 1));
    KVP_TRY(tower_add(r, "tower.positions", (image / patch) * (image / patch), width, 1));
    KVP_TRY(vision_norm(r, "tower.pre_norm", width, 1));
    KVP_TRY(vision_layers(r, width, (uint32_t)(width * ratio), depth));
    KVP_TRY(tower_add(r, "tower.scales", width, 1, 2 * depth));
    KVP_TRY(vision_linear(r, "tower.downsample_1", 2 * width, 9 * width, 1));
    KVP_TRY(vision_linear(r, "tower.downsample_2", 4 * width, 18 * width, 1));
    return tower_add(r, "projector", r->m->width, 4 * width, 1);
}

static const struct kvp_rule rules[] = {
    {"moe_num_experts", KVP_KEY_ANY, "read: experts"},
    {"share_expert_dim", KVP_KEY_ANY, "read: width of the shared expert"},
    {"moe_layers_enum", KVP_KEY_ANY, "read: which layers have experts"},
    {"moe_layer_offset", KVP_KEY_FALSE, "experts would begin at another layer"},
    {"moe_every_n_layer", KVP_KEY_TRUE, "experts would skip layers"},
    {"swiglu_limits_shared", KVP_KEY_ANY, "where the shared expert's activation is clamped; no size"},
    {"norm_expert_weight", KVP_KEY_ANY, "weights of the chosen experts sum to 1; no size"},
    {"use_head_wise_attn_gate", KVP_KEY_ANY, "read: g_proj"},
    {"use_rope_layers", KVP_KEY_ANY, "which layers rotate; no size"},
    {"num_nextn_predict_layers", KVP_KEY_ANY, "read: prediction layers, counted on request"},
    {"num_attention_groups", KVP_KEY_ANY, "read: KV heads"},
    {"use_moe_router_bias", KVP_KEY_ANY, "read: a number an expert"},
    {"moe_router_scaling_factor", KVP_KEY_ANY, "a factor of the experts' sum"},
    {0},
};

const struct kvp_dialect family_step[] = {
    {
        .model_type = {"step3p5"},
        .rules = {rules, kvp_rules_moe},
        .architectures = {"Step3p5ForCausalLM"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"}, [KVP_SIZE_LAYERS] = {"num_hidden_layers"},
                [KVP_SIZE_HEADS] = {"num_attention_heads"}, [KVP_SIZE_KV_HEADS] = {"num_key_value_heads", "num_attention_groups"},
                [KVP_SIZE_HEAD_DIM] = {"head_dim"}, [KVP_SIZE_FFN] = {"intermediate_size"},
                [KVP_SIZE_POSITIONS] = {"max_position_embeddings", "max_seq_len"}},
        .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_HEAD_DIM] = 128},
        .bias = KVP_BIAS_NONE, .qk_norm = true,
        .window = KVP_WINDOW_HOOK,
        .layers = layers,
    },
    {
        .model_type = {"step3p7"},
        .architectures = {"Step3p7ForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "step3p5", .towers = towers,
    },
    {.model_type = {0}},
};
