/* mimo_v2.c - MiMo-7B, a Qwen2 with a prediction layer (config.json and modeling_mimo.py of XiaomiMiMo/MiMo-7B-Base),
 * and MiMo-V2-Flash: sliding and full layers with KV heads and head sizes of their own, k and v of
 * different sizes.
 * Source: XiaomiMiMo/MiMo-V2-Flash config.json and modeling_mimo_v2_flash.py: hybrid_layer_pattern 1 slides;
 * a sink a head where add_*_attention_sink_bias says so; attention_chunk_size is not used. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"

#include <inttypes.h>
#include <string.h>

struct spelling {
    const char *heads, *kv_heads, *head_dim, *v_head_dim, *sinks;
};
static const struct spelling full = {"num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim", "add_full_attention_sink_bias"};
static const struct spelling sliding = {"swa_num_attention_heads", "swa_num_key_value_heads", "swa_head_dim", "swa_v_head_dim",
                                        "add_swa_attention_sink_bias"};

static kvp_err read_mixer(const struct kvp_reader *r, const struct spelling *s, struct kvp_layer_class *c)
{
    KVP_TRY(kvp_need_count(r, s->heads, &c->heads));
    KVP_TRY(kvp_need_count(r, s->kv_heads, &c->kv_heads));
    KVP_TRY(kvp_need_count(r, s->head_dim, &c->head_dim));
    c->v_head_dim = c->head_dim;
    KVP_TRY(kvp_read_count(r, s->v_head_dim, &c->v_head_dim));
    KVP_TRY(kvp_read_flag(r, s->sinks, &c->sinks));
    if (c->heads % c->kv_heads || !c->v_head_dim)
        return kvp_fail(r->j.e, KVP_EINPUT, "%s: %s %" PRIu32 " is not a multiple of the %" PRIu32 " KV heads, or %s is 0", r->j.origin,
                        s->heads, c->heads, c->kv_heads, s->v_head_dim);
    c->mixer = KVP_MIX_ATTENTION;
    return KVP_OK;
}

static kvp_err read_window(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    static const char *const keys[] = {"sliding_window", "sliding_window_size", NULL};
    uint32_t window = 0;

    KVP_TRY(kvp_read_count_of(r, keys, &window));
    if (!window)
        return kvp_key_fail(r, KVP_EINPUT, keys[0], "missing, but layers slide");
    c->window = window;
    return KVP_OK;
}

static kvp_err mix(struct kvp_reader *r)
{
    const json_t *pattern;
    uint32_t slides;

    KVP_TRY(kvp_read_list(r, "hybrid_layer_pattern", &pattern));
    if (!pattern)
        return kvp_key_fail(r, KVP_EINPUT, "hybrid_layer_pattern", "missing: which layers slide");
    for (uint32_t i = 0; i < r->m->layers; i++) {
        KVP_TRY(moe_number_at(r, "hybrid_layer_pattern", pattern, i, 1, &slides));
        KVP_TRY(read_mixer(r, slides ? &sliding : &full, &r->layer[i]));
        if (slides)
            KVP_TRY(read_window(r, &r->layer[i]));
    }
    return KVP_OK;
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;

    KVP_TRY(moe_read(r, &moe));
    KVP_TRY(moe_shared(r, &moe));
    KVP_TRY(moe_need_layout(r));
    KVP_TRY(moe_router_bias(r, true, &moe.router_bias));
    KVP_TRY(mix(r));
    return moe_layers(r, &moe);
}

static kvp_err mimo_layers(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].o_bias = false; /* attention_bias is for q, k and v */
    return moe_mtp(r, false);
}

static const struct kvp_rule mimo_rules[] = {
    {"num_nextn_predict_layers", KVP_KEY_ANY, "read: prediction layers, counted on request"},
    {"use_sliding_window", KVP_KEY_ANY, "read: whether the window counts"},
    {"max_window_layers", KVP_KEY_ANY, "read where use_sliding_window is"},
    {0},
};
static const struct kvp_rule rules[] = {
    {"layernorm_epsilon", KVP_KEY_ANY, "read: the norms' epsilon"},
    {"hybrid_layer_pattern", KVP_KEY_ANY, "read: which layers slide"},
    {"sliding_window_size", KVP_KEY_ANY, "sliding_window, said again"},
    {"v_head_dim", KVP_KEY_ANY, "read: size of v"},
    {"swa_num_attention_heads", KVP_KEY_ANY, "read: layers that slide"},
    {"swa_num_key_value_heads", KVP_KEY_ANY, "read: layers that slide"},
    {"swa_rope_theta", KVP_KEY_ANY, "read: rotation of layers that slide"},
    {"swa_head_dim", KVP_KEY_ANY, "read: layers that slide"},
    {"swa_v_head_dim", KVP_KEY_ANY, "read: layers that slide"},
    {"add_full_attention_sink_bias", KVP_KEY_ANY, "read: a scalar a head"},
    {"add_swa_attention_sink_bias", KVP_KEY_ANY, "read: a scalar a head"},
    {"attention_chunk_size", KVP_KEY_ANY, "carried along; the layers' windows are read"},
    {0},
};

const struct kvp_dialect family_mimo_v2[] = {
    {
        .model_type = {"mimo"},
        .rules = {mimo_rules, kvp_rules_llama},
        .architectures = {"MiMoForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 32, [KVP_SIZE_POSITIONS] = 32768},
        .bias = KVP_BIAS_ATTN,
        .window = KVP_WINDOW_FROM, .window_absent = 4096, .window_from_absent = 28,
        .layers = mimo_layers,
    },
    {
        .model_type = {"mimo_v2_flash"},
        .rules = {kvp_rules_moe, rules},
        .architectures = {"MiMoV2FlashForCausalLM"},
        .key = LLAMA_KEYS, .act_key = "hidden_act", .act = "silu", .eps_key = "layernorm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .absent = {[KVP_SIZE_POSITIONS] = 262144},
        .bias = KVP_BIAS_ATTN, .own_mixer = true,
        .window = KVP_WINDOW_HOOK,
        .layers = layers,
    },
    {.model_type = {0}},
};
