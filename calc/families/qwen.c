/* qwen.c - Qwen-1 and Qwen-VL (intermediate_size counts gate and up together), Qwen2-VL, Qwen2.5-VL and
 * Qwen3-VL. Sources: configuration_ and modeling_qwen.py beside Qwen/Qwen-72B-Chat;
 * configuration_ and modeling_{qwen2_vl,qwen2_5_vl,qwen3_vl}.py of huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/vision.h"

static const struct kvp_rule qwen_rules[] = {
    {"layer_norm_epsilon", KVP_KEY_ANY, "read: the norm's epsilon"},
    {"no_bias", KVP_KEY_TRUE, "linears beside q, k and v would have biases"},
    {"padded_vocab_size", KVP_KEY_ANY, "vocab_size is the padded one"},
    {"scale_attn_weights", KVP_KEY_TRUE, "scores would not be divided by sqrt(head size)"},
    {"use_cache_quantization", KVP_KEY_ANY, "what a cache holds is asked for, not read here"},
    {"use_cache_kernel", KVP_KEY_ANY, "which kernel, not what is stored"},
    {0},
};
static const struct kvp_rule vl_rules[] = {
    {"use_sliding_window", KVP_KEY_ANY, "read: whether the window counts"},
    {"max_window_layers", KVP_KEY_ANY, "read where use_sliding_window is"},
    {"mlp_bias", KVP_KEY_FALSE, "this class has no such bias"},
    {0},
};

static kvp_err qwen_layers(struct kvp_reader *r)
{
    bool logn = false, ntk = false;

    if (r->proto.ffn_width % 2)
        return kvp_key_fail(r, KVP_EINPUT, "intermediate_size", "is odd, and counts gate and up together");
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].ffn_width = r->proto.ffn_width / 2;
        r->layer[i].fused_qkv = true;
    }
    KVP_TRY(kvp_json_real(&r->j, "rotary_emb_base", &r->m->rope_theta, NULL));
    KVP_TRY(kvp_read_flag(r, "use_logn_attn", &logn));
    KVP_TRY(kvp_read_flag(r, "use_dynamic_ntk", &ntk));
    if (logn || ntk)
        kvp_cannot_run(r->m, "beyond seq_length scores and rotation are rescaled");
    return KVP_OK;
}

/* ---- Qwen2-VL, Qwen2.5-VL, Qwen3-VL ------------------------------------------------------------------------ */

struct qwen_tower {
    uint32_t depth, width, ffn, patch, temporal, merge, channels, positions, deepstack;
    bool gated, rms; /* Qwen2.5-VL: SwiGLU with biases, RMS norms */
};

static kvp_err read_tower(struct kvp_reader *r, const char *width_key, struct qwen_tower *t, bool *found)
{
    struct kvp_reader v;
    static const char *const channels[] = {"in_channels", "in_chans", NULL};

    KVP_TRY(tower_open(r, "vision_config", &v, found));
    if (!*found)
        return KVP_OK;
    KVP_TRY(kvp_read_count(&v, "depth", &t->depth));
    KVP_TRY(kvp_read_count(&v, width_key, &t->width));
    KVP_TRY(kvp_read_count(&v, "intermediate_size", &t->ffn));
    KVP_TRY(kvp_read_count(&v, "patch_size", &t->patch));
    KVP_TRY(kvp_read_count(&v, "temporal_patch_size", &t->temporal));
    KVP_TRY(kvp_read_count(&v, "spatial_merge_size", &t->merge));
    KVP_TRY(kvp_read_count_of(&v, channels, &t->channels));
    KVP_TRY(kvp_read_count(&v, "num_position_embeddings", &t->positions));
    t->deepstack = (uint32_t)json_array_size(kvp_json_get(&v.j, "deepstack_visual_indexes"));
    if (t->patch > 1024 || t->temporal > 64 || t->merge > 16 || t->channels > 64 || t->width > 1 << 20 || t->depth > 1024)
        return kvp_key_fail(r, KVP_EINPUT, "vision_config", "a size is absurd");
    return KVP_OK;
}

static kvp_err mergers(struct kvp_reader *r, const struct qwen_tower *t)
{
    const uint32_t in = t->width * t->merge * t->merge, n = 1 + t->deepstack;

    KVP_TRY(tower_add(r, "merger.norm", t->width, 1, t->rms ? 1 : 2));
    KVP_TRY(vision_norm(r, "deepstack.norm", in, t->deepstack));
    KVP_TRY(vision_linear(r, "merger.fc1", in, in, n));
    return vision_linear(r, "merger.fc2", r->m->width, in, n);
}

static kvp_err add_tower(struct kvp_reader *r, const struct qwen_tower *t)
{
    KVP_TRY(tower_add(r, "tower.patches", t->width, t->channels * t->temporal * t->patch * t->patch, 1));
    if (!t->gated) {
        if (t->positions) {
            KVP_TRY(tower_add(r, "tower.patches", t->width, 1, 1));
            KVP_TRY(tower_add(r, "tower.positions", t->positions, t->width, 1));
        }
        KVP_TRY(vision_layers(r, t->width, t->ffn, t->depth));
        return mergers(r, t);
    }
    KVP_TRY(vision_linear(r, "tower.attn", t->width, t->width, 4 * t->depth));
    KVP_TRY(vision_linear(r, "tower.gate_up", t->ffn, t->width, 2 * t->depth));
    KVP_TRY(vision_linear(r, "tower.down", t->width, t->ffn, t->depth));
    KVP_TRY(tower_add(r, "tower.norms", t->width, 1, 2 * t->depth));
    return mergers(r, t);
}

static kvp_err qwen2_vl_towers(struct kvp_reader *r)
{
    struct qwen_tower t = {.depth = 32, .width = 1280, .patch = 14, .temporal = 2, .merge = 2, .channels = 3};
    uint32_t ratio = 4;
    struct kvp_reader v;
    bool found;

    KVP_TRY(read_tower(r, "embed_dim", &t, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    KVP_TRY(kvp_read_count(&v, "mlp_ratio", &ratio));
    if (ratio > 64)
        return kvp_key_fail(r, KVP_EINPUT, "mlp_ratio", "is absurd");
    t.ffn = ratio * t.width;
    return add_tower(r, &t);
}

static kvp_err qwen2_5_vl_towers(struct kvp_reader *r)
{
    struct qwen_tower t = {.depth = 32, .width = 1280, .ffn = 3420, .patch = 14, .temporal = 2, .merge = 2, .channels = 3,
                           .gated = true, .rms = true};
    bool found;

    KVP_TRY(read_tower(r, "hidden_size", &t, &found));
    return found ? add_tower(r, &t) : KVP_OK;
}

kvp_err vision_qwen3_vl(struct kvp_reader *r)
{
    struct qwen_tower t = {.depth = 27, .width = 1152, .ffn = 4304, .patch = 16, .temporal = 2, .merge = 2, .channels = 3, .positions = 2304};
    bool found;

    KVP_TRY(read_tower(r, "hidden_size", &t, &found));
    return found ? add_tower(r, &t) : KVP_OK;
}

#define QWEN2_VL                                                                                                     \
    LLAMA_LIKE, .absent = {[KVP_SIZE_KV_HEADS] = 32, [KVP_SIZE_POSITIONS] = 32768}, .bias = KVP_BIAS_QKV,             \
    .window = KVP_WINDOW_FROM, .window_absent = 4096, .window_from_absent = 80, .nested = {"text_config"}

/* Qwen-VL's `visual` (its visual.py): a ViT with a norm before it, then attention from 256 learned queries onto
 * its output, with position tables for them, a norm and a square projection. */
static kvp_err qwen_towers(struct kvp_reader *r)
{
    struct kvp_reader v;
    uint32_t width = 0, layers = 0, out = 0, patch = 14;
    double ratio = 4;
    bool found;

    KVP_TRY(tower_open(r, "visual", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(kvp_need_count(&v, "width", &width));
    KVP_TRY(kvp_need_count(&v, "layers", &layers));
    KVP_TRY(kvp_need_count(&v, "output_dim", &out));
    KVP_TRY(kvp_read_count(&v, "patch_size", &patch));
    KVP_TRY(kvp_json_real(&v.j, "mlp_ratio", &ratio, NULL));
    if (patch > 1024 || ratio > 64)
        return kvp_key_fail(&v, KVP_EINPUT, "patch_size", "or mlp_ratio is absurd");
    KVP_TRY(tower_add(r, "tower.patches", width, 3 * patch * patch, 1));
    KVP_TRY(tower_add(r, "tower.positions", 256, width, 1));
    KVP_TRY(vision_norm(r, "tower.pre_norm", width, 1));
    KVP_TRY(vision_layers(r, width, (uint32_t)(width * ratio), layers));
    KVP_TRY(tower_add(r, "pool.queries", 256, out, 2));
    KVP_TRY(tower_add(r, "pool.kv", out, width, 1));
    KVP_TRY(vision_linear(r, "pool.attention", out, out, 4));
    KVP_TRY(vision_norm(r, "pool.norms", out, 3));
    return tower_add(r, "pool.projection", out, out, 1);
}

const struct kvp_dialect family_qwen[] = {
    {
        .model_type = {"qwen"},
        .rules = {qwen_rules},
        .architectures = {"QWenLMHeadModel"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"}, [KVP_SIZE_LAYERS] = {"num_hidden_layers"},
                [KVP_SIZE_HEADS] = {"num_attention_heads"}, [KVP_SIZE_HEAD_DIM] = {"kv_channels"}, [KVP_SIZE_FFN] = {"intermediate_size"},
                [KVP_SIZE_POSITIONS] = {"seq_length", "max_position_embeddings"}},
        .absent = {[KVP_SIZE_POSITIONS] = 8192},
        .act = "silu", .eps_key = "layer_norm_epsilon", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_QKV, .layers = qwen_layers, .towers = qwen_towers,
    },
    {
        .model_type = {"qwen2_vl", "qwen2_vl_text"},
        .rules = {vl_rules, kvp_rules_llama},
        .architectures = {"Qwen2VLForConditionalGeneration"},
        QWEN2_VL, .towers = qwen2_vl_towers,
    },
    {
        .model_type = {"qwen2_5_vl", "qwen2_5_vl_text"},
        .rules = {vl_rules, kvp_rules_llama},
        .architectures = {"Qwen2_5_VLForConditionalGeneration"},
        QWEN2_VL, .towers = qwen2_5_vl_towers,
    },
    {
        .model_type = {"qwen3_vl"},
        .architectures = {"Qwen3VLForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "qwen3", .towers = vision_qwen3_vl,
    },
    {.model_type = {0}},
};
