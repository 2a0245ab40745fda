/* lfm2.c - LFM2: gated short convolutions and attention, with experts in LFM2-MoE; LFM2-VL's text part.
 * The tower counts on request. Sources: {configuration,modeling}_{lfm2,lfm2_moe,lfm2_vl}.py of huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"
#include "calc/families/llama_like.h"

#include <string.h>

static const struct kvp_rule rules[] = {
    {"layer_types", KVP_KEY_ANY, "read: conv or full_attention"},
    {"full_attn_idxs", KVP_KEY_ANY, "read: which layers attend"},
    {"num_heads", KVP_KEY_ANY, "num_attention_heads again"},
    {"block_dim", KVP_KEY_ANY, "the width again"},
    {"conv_dim", KVP_KEY_ANY, "the width again"},
    {"conv_dim_out", KVP_KEY_ANY, "the width again"},
    {"conv_L_cache", KVP_KEY_ANY, "read: taps of the convolution"},
    {"block_auto_adjust_ff_dim", KVP_KEY_ANY, "read: whether two thirds of block_ff_dim count"},
    {"block_ffn_dim_multiplier", KVP_KEY_ANY, "read: a factor of the width"},
    {"num_dense_layers", KVP_KEY_ANY, "read: layers before the first with experts"},
    {"num_experts", KVP_KEY_ANY, "read: experts a layer"},
    {"num_experts_per_tok", KVP_KEY_ANY, "read: experts a token"},
    {"use_expert_bias", KVP_KEY_ANY, "read: a bias an expert in the router"},
    {"sliding_window", KVP_KEY_FALSE, "attention of this class has no window"},
    {"block_multiple_of", KVP_KEY_ANY, "read: the feed-forward's width"},
    {"conv_bias", KVP_KEY_ANY, "read: the convolution"},
    {"moe_intermediate_size", KVP_KEY_ANY, "read: width of an expert"},
    {"block_use_swiglu", KVP_KEY_TRUE, "a feed-forward would have two matrices"},
    {"block_norm_eps", KVP_KEY_ANY, "the norm's epsilon, said again"},
    {"block_mlp_init_scale", KVP_KEY_ANY, "training only"},
    {"block_out_init_scale", KVP_KEY_ANY, "training only"},
    {"block_use_xavier_init", KVP_KEY_ANY, "training only"},
    {"conv_use_xavier_init", KVP_KEY_ANY, "training only"},
    {0},
};
static const struct kvp_rule vl_rules[] = {
    {"vision_feature_layer", KVP_KEY_ANY, "of the vision tower"},
    {"projector_use_layernorm", KVP_KEY_ANY, "of the vision tower's projector"},
    {"projector_hidden_size", KVP_KEY_ANY, "of the vision tower's projector"},
    {"tile_size", KVP_KEY_ANY, "how a picture is cut"},
    {"encoder_patch_size", KVP_KEY_ANY, "how a picture is cut"},
    {0},
};

static kvp_err read_conv(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    kvp_drop_attention(c);
    c->recurrent = KVP_REC_CONV;
    c->inner = r->m->width;
    c->conv = 3;
    KVP_TRY(kvp_need_count(r, "conv_L_cache", &c->conv));
    KVP_TRY(kvp_read_flag(r, "conv_bias", &c->conv_bias));
    c->rec_bias = c->conv_bias;
    return KVP_OK;
}

/* Each an integer below the number of layers. */
static kvp_err check_indices(const struct kvp_reader *r, const char *key, const json_t *list)
{
    const json_t *v;
    size_t i;

    json_array_foreach(list, i, v)
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= (json_int_t)r->m->layers)
            return kvp_key_fail(r, KVP_EINPUT, key, "expected numbers of layers, from 0 on");
    return KVP_OK;
}

/* conv or attention, by the list of types or of attention's layers. */
static kvp_err mixers(struct kvp_reader *r)
{
    const json_t *types, *full = kvp_json_get(&r->j, "full_attn_idxs");
    struct kvp_layer_class conv;

    KVP_TRY(kvp_read_list(r, "layer_types", &types));
    if (!types && !json_is_array(full))
        return kvp_key_fail(r, KVP_EINPUT, "layer_types", "it is missing, and so is full_attn_idxs: which layers attend");
    KVP_TRY(check_indices(r, "full_attn_idxs", full));
    memcpy(&conv, &r->proto, sizeof(conv));
    KVP_TRY(read_conv(r, &conv));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const char *type = types ? kvp_word_at(types, i) : kvp_list_has(full, i) ? "full_attention" : "conv";
        const bool attends = strcmp(type, "full_attention") == 0;

        if (!attends && strcmp(type, "conv") != 0)
            return kvp_layer_kind_fail(r, "layer_types", i, type, "conv and full_attention");
        memcpy(&r->layer[i], attends ? &r->proto : &conv, sizeof(conv));
    }
    return KVP_OK;
}

/* Two thirds of it, times the multiplier, up to a multiple; left alone without block_auto_adjust_ff_dim. */
static kvp_err adjust_ffn(struct kvp_reader *r)
{
    uint32_t multiple = 256;
    double factor = 1;
    bool adjust = true;

    KVP_TRY(kvp_read_flag(r, "block_auto_adjust_ff_dim", &adjust));
    KVP_TRY(kvp_read_count(r, "block_multiple_of", &multiple));
    KVP_TRY(kvp_json_real(&r->j, "block_ffn_dim_multiplier", &factor, NULL));
    if (!adjust)
        return KVP_OK;
    if (!multiple || factor > 16)
        return kvp_key_fail(r, KVP_EINPUT, multiple ? "block_ffn_dim_multiplier" : "block_multiple_of", "expected a factor of a width");
    r->proto.ffn_width = (uint32_t)(factor * (double)(2ull * r->proto.ffn_width / 3));
    r->proto.ffn_width = (uint32_t)(((uint64_t)r->proto.ffn_width + multiple - 1) / multiple * multiple);
    return r->proto.ffn_width ? KVP_OK : kvp_key_fail(r, KVP_EINPUT, "block_ffn_dim_multiplier", "no feed-forward is left");
}

/* ---- LFM2-VL's tower (SigLIP2 without a head) and its projector ------------------------------------------- */

struct vision {
    uint32_t depth, width, ffn, patch, channels, patches;
};

static kvp_err read_vision(const struct kvp_reader *v, struct vision *x)
{
    KVP_TRY(kvp_read_count(v, "num_hidden_layers", &x->depth));
    KVP_TRY(kvp_read_count(v, "hidden_size", &x->width));
    KVP_TRY(kvp_read_count(v, "intermediate_size", &x->ffn));
    KVP_TRY(kvp_read_count(v, "patch_size", &x->patch));
    KVP_TRY(kvp_read_count(v, "num_channels", &x->channels));
    KVP_TRY(kvp_read_count(v, "num_patches", &x->patches));
    if (x->width > 1 << 16 || x->patch > 1 << 8 || x->channels > 1 << 8)
        return kvp_key_fail(v, KVP_EINPUT, "vision_config", "a size is too big");
    return KVP_OK;
}

/* `factor`^2 patches become one row, of the projector's width, then of the text's. */
static kvp_err add_projector(const struct kvp_reader *r, const struct kvp_reader *top, uint32_t width)
{
    uint32_t factor = 2, hidden = 2560;
    bool bias = true, norm = true;
    uint64_t in;

    KVP_TRY(kvp_read_count(top, "downsample_factor", &factor));
    KVP_TRY(kvp_read_count(top, "projector_hidden_size", &hidden));
    KVP_TRY(kvp_read_flag(top, "projector_bias", &bias));
    KVP_TRY(kvp_read_flag(top, "projector_use_layernorm", &norm));
    if (factor > 1 << 8)
        return kvp_key_fail(top, KVP_EINPUT, "downsample_factor", "expected at most 256");
    in = (uint64_t)width * factor * factor;
    KVP_TRY(kvp_tower_add(r, "projector.norm", in, 1, norm ? 2 : 0, false));
    KVP_TRY(kvp_tower_add(r, "projector.linear_1", hidden, in, 1, bias));
    return kvp_tower_add(r, "projector.linear_2", r->m->width, hidden, 1, bias);
}

static kvp_err read_tower(const struct kvp_reader *r)
{
    struct vision x = {12, 768, 3072, 16, 3, 256}; /* Siglip2VisionConfig */
    struct kvp_reader v = *r, top = *r;

    top.j = r->top;
    v.j.object = kvp_json_get(&r->top, "vision_config");
    if (!v.j.object)
        return KVP_OK;
    if (!json_is_object(v.j.object))
        return kvp_key_fail(r, KVP_EINPUT, "vision_config", "expected an object");
    KVP_TRY(read_vision(&v, &x));
    KVP_TRY(kvp_tower_add(r, "patch_embedding", x.width, (uint64_t)x.channels * x.patch * x.patch, 1, true));
    KVP_TRY(kvp_tower_add(r, "position_embedding", x.patches, x.width, 1, false));
    KVP_TRY(kvp_tower_add(r, "norms", x.width, 1, 4ull * x.depth + 2, false));
    KVP_TRY(kvp_tower_add(r, "qkv_o", x.width, x.width, 4ull * x.depth, true));
    KVP_TRY(kvp_tower_add(r, "fc1", x.ffn, x.width, x.depth, true));
    KVP_TRY(kvp_tower_add(r, "fc2", x.width, x.ffn, x.depth, true));
    return add_projector(r, &top, x.width);
}

static kvp_err dense_layers(struct kvp_reader *r)
{
    KVP_TRY(adjust_ffn(r));
    KVP_TRY(mixers(r));
    return read_tower(r);
}

static kvp_err moe_layers(struct kvp_reader *r)
{
    uint32_t dense = 2, experts = 0, per_token = 0, width = 0;
    bool bias = true;

    KVP_TRY(mixers(r));
    KVP_TRY(kvp_need_count(r, "num_experts", &experts));
    KVP_TRY(kvp_need_count(r, "num_experts_per_tok", &per_token));
    KVP_TRY(kvp_need_count(r, "moe_intermediate_size", &width));
    KVP_TRY(kvp_read_count(r, "num_dense_layers", &dense));
    KVP_TRY(kvp_read_flag(r, "use_expert_bias", &bias));
    for (uint32_t i = dense; i < r->m->layers; i++) {
        struct kvp_layer_class *c = &r->layer[i];

        c->ffn_width = 0;
        c->experts = experts;
        c->experts_per_token = per_token;
        c->expert_width = width;
        c->router_bias = bias;
    }
    return KVP_OK;
}

#define LFM2_LIKE                                                                                            \
    .rules = {rules},                                                                                        \
    .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},                           \
            [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},           \
            [KVP_SIZE_KV_HEADS] = {"num_key_value_heads"}, [KVP_SIZE_HEAD_DIM] = {"head_dim"},               \
            [KVP_SIZE_FFN] = {"block_ff_dim", "intermediate_size"}, [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}}, \
    .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 128000},                                      \
    .eps_key = "norm_eps", .eps = 1e-5, .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, \
    .bias = KVP_BIAS_NONE, .tied = true, .qk_norm = true, .window = KVP_WINDOW_HOOK

const struct kvp_dialect family_lfm2[] = {
    {.model_type = {"lfm2"}, .architectures = {"Lfm2ForCausalLM", "Lfm2Model"}, LFM2_LIKE, .layers = dense_layers},
    {.model_type = {"lfm2_moe"}, .architectures = {"Lfm2MoeForCausalLM"}, LFM2_LIKE, .layers = moe_layers},
    {.model_type = {"lfm2_vl", "lfm2-vl"}, .architectures = {"Lfm2VlForConditionalGeneration"}, .rules = {vl_rules},
     .nested = {"text_config"}, .inner = "lfm2"},
    {.model_type = {0}},
};
