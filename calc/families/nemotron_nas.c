/* nemotron_nas.c - Nemotron-NAS (DeciLM): block_configs says of every layer how many queries share a KV head, how
 * wide the feed-forward is, and which parts are left out or are one linear. A part that is left out has no norm
 * either. Source: configuration_decilm.py, block_config.py and modeling_decilm.py beside
 * nvidia/Llama-3_3-Nemotron-Super-49B-v1. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

static const struct kvp_rule nas_rules[] = {
    {"block_configs", KVP_KEY_ANY, "read: every layer"},
    {0},
};
static const struct kvp_rule part_rules[] = {
    {"n_heads_in_group", KVP_KEY_ANY, "read: queries that share a KV head"},
    {"window_length", KVP_KEY_ANY, "read: the window"},
    {"num_sink_tokens", KVP_KEY_FALSE, "first tokens would stay beside the window"},
    {"unshifted_sink", KVP_KEY_FALSE, "first tokens would stay beside the window"},
    {"use_prefill_window_in_sink_attention", KVP_KEY_FALSE, "first tokens would stay beside the window"},
    {"sparsify", KVP_KEY_FALSE, "weights would be sparse"},
    {"llama4", KVP_KEY_FALSE, "attention would be chunked"},
    {"mamba", KVP_KEY_FALSE, "layers would hold a recurrent state"},
    {"moe", KVP_KEY_FALSE, "layers would have experts"},
    {0},
};
static const struct kvp_dialect part_keys = {.model_type = {"nemotron-nas (block_configs)"}, .rules = {part_rules}};

/* `part` of layer i. *off: no_op; *linear: replace_with_linear. */
static kvp_err open_part(const struct kvp_reader *r, uint32_t i, const char *part, struct kvp_reader *out, bool *off, bool *linear)
{
    const json_t *list;

    KVP_TRY(kvp_read_list(r, "block_configs", &list));
    *out = *r;
    out->j.object = list ? json_array_get(list, i) : NULL;
    if (out->j.object)
        KVP_TRY(kvp_dialect_check_keys(&out->j, &part_keys));
    out->j.object = json_object_get(out->j.object, part);
    if (!json_is_object(out->j.object))
        return kvp_key_fail(r, KVP_EINPUT, "block_configs", "expected a list of {attention: {...}, ffn: {...}}, one a layer");
    KVP_TRY(kvp_dialect_check_keys(&out->j, &part_keys));
    *off = *linear = false;
    KVP_TRY(kvp_read_flag(out, "no_op", off));
    return kvp_read_flag(out, "replace_with_linear", linear);
}

static kvp_err read_attention(struct kvp_reader *r, uint32_t i)
{
    struct kvp_layer_class *c = &r->layer[i];
    struct kvp_reader part;
    bool off, linear;
    uint64_t heads;
    uint32_t window = 0, group = 0;

    KVP_TRY(open_part(r, i, "attention", &part, &off, &linear));
    c->norms += !off;
    if (linear && !off)
        return kvp_add_extra(r, c->extra, "linear_attn", r->m->width, r->m->width, 1, true);
    if (off) {
        c->qkv_bias = c->o_bias = false;
        return KVP_OK;
    }
    KVP_TRY(kvp_read_size(r, KVP_SIZE_HEADS, &heads));
    KVP_TRY(kvp_need_count(&part, "n_heads_in_group", &group));
    KVP_TRY(kvp_read_count(&part, "window_length", &window));
    if (!heads || heads % group || r->m->width % heads)
        return kvp_key_fail(r, KVP_EINPUT, "n_heads_in_group", "must divide num_attention_heads, and that hidden_size");
    c->mixer = KVP_MIX_ATTENTION;
    c->heads = (uint32_t)heads;
    c->kv_heads = (uint32_t)heads / group;
    c->head_dim = c->v_head_dim = r->m->width / (uint32_t)heads;
    c->window = window;
    return KVP_OK;
}

/* 2/3 of ffn_mult times the width, up to a multiple of 256. */
static kvp_err read_ffn(struct kvp_reader *r, uint32_t i)
{
    struct kvp_layer_class *c = &r->layer[i];
    struct kvp_reader part;
    bool off, linear, found;
    double mult = 0;

    KVP_TRY(open_part(r, i, "ffn", &part, &off, &linear));
    c->norms += !off;
    if (linear && !off)
        return kvp_add_extra(r, c->extra, "linear_ffn", r->m->width, r->m->width, 1, true);
    if (off)
        return KVP_OK;
    KVP_TRY(kvp_json_real(&part.j, "ffn_mult", &mult, &found));
    if (!found || mult > 64)
        return kvp_key_fail(r, KVP_EINPUT, "ffn_mult", "expected a number from 0 to 64");
    c->ffn = KVP_FFN_GATED;
    c->ffn_width = ((uint32_t)(2 * mult * r->m->width / 3) + 255) / 256 * 256;
    return KVP_OK;
}

static kvp_err nas_layers(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].norms = 0;
        KVP_TRY(read_attention(r, i));
        KVP_TRY(read_ffn(r, i));
    }
    return KVP_OK;
}

const struct kvp_dialect family_nemotron_nas[] = {
    {
        .model_type = {"nemotron-nas", "deci"},
        .rules = {nas_rules},
        .architectures = {"DeciLMForCausalLM"},
        .key = LLAMA_KEYS, .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .bias = KVP_BIAS_KEYS,
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .own_mixer = true, .own_ffn = true, .window = KVP_WINDOW_HOOK, .layers = nas_layers,
    },
    {.model_type = {0}},
};
