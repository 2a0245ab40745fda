/* gemma4.c - Gemma 4's text part: sliding layers and full ones with head size and KV heads of their own,
 * experts beside the dense feed-forward, layers that read an earlier layer's k and v, and per-layer embeddings.
 * Source: configuration_gemma4.py and modeling_gemma4.py in huggingface/transformers 5: attention_k_eq_v
 * drops full layers' v_proj (the cache holds v all the same); four norms a layer, three more with experts; a
 * scalar a layer; the router has a scale of the model's width and one an expert. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"
#include "calc/families/tower.h"

#include <stdlib.h>
#include <string.h>

struct full {
    uint32_t kv_heads, head_dim;
    bool k_is_v;
};

static kvp_err read_full(const struct kvp_reader *r, struct full *f)
{
    *f = (struct full){.kv_heads = r->proto.kv_heads, .head_dim = 512};
    KVP_TRY(kvp_read_flag(r, "attention_k_eq_v", &f->k_is_v));
    KVP_TRY(kvp_read_count(r, "global_head_dim", &f->head_dim));
    if (f->k_is_v)
        KVP_TRY(kvp_read_count(r, "num_global_key_value_heads", &f->kv_heads));
    if (!f->kv_heads || !f->head_dim || r->proto.heads % f->kv_heads)
        return kvp_key_fail(r, KVP_EINPUT, "num_global_key_value_heads", "must divide num_attention_heads, and global_head_dim be above 0");
    return KVP_OK;
}

static kvp_err set_full(struct kvp_reader *r)
{
    const bool each = kvp_json_get(&r->j, "per_layer_config") != NULL;
    struct full f;

    KVP_TRY(read_full(r, &f));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        struct kvp_layer_class *c = &r->layer[i];

        if (c->window)
            continue;
        c->kv_heads = each ? c->kv_heads : f.kv_heads;
        c->head_dim = c->v_head_dim = each ? c->head_dim : f.head_dim;
        c->k_is_v = f.k_is_v;
    }
    return KVP_OK;
}

static const struct kvp_rule own_rules[] = {
    {"head_dim", KVP_KEY_ANY, "read: a layer's own"},
    {"num_key_value_heads", KVP_KEY_ANY, "read: a layer's own"},
    {0},
};

/* Files of Transformers 5 say it layer by layer: {"05": {"head_dim": 512}, ...}. */
static kvp_err set_own(struct kvp_reader *r)
{
    const json_t *list = kvp_json_get(&r->j, "per_layer_config");
    const char *key;
    json_t *v;

    if (list && !json_is_object(list))
        return kvp_key_fail(r, KVP_EINPUT, "per_layer_config", "expected an object of layers");
    json_object_foreach((json_t *)(uintptr_t)list, key, v) {
        char *end;
        const unsigned long i = strtoul(key, &end, 10);
        struct kvp_reader own = *r;
        struct kvp_layer_class *c;

        if (*key < '0' || *key > '9' || *end || i >= r->m->layers || !json_is_object(v))
            return kvp_key_fail(r, KVP_EINPUT, "per_layer_config", "expected layers by their numbers, an object each");
        own.j.object = v;
        c = &r->layer[i];
        KVP_TRY(kvp_check_part(&own.j, "per_layer_config", own_rules));
        KVP_TRY(kvp_read_count(&own, "head_dim", &c->head_dim));
        KVP_TRY(kvp_read_count(&own, "num_key_value_heads", &c->kv_heads));
        if (!c->head_dim || !c->kv_heads || c->heads % c->kv_heads)
            return kvp_key_fail(r, KVP_EINPUT, "per_layer_config", "num_key_value_heads must divide num_attention_heads, and head_dim be above 0");
        c->v_head_dim = c->head_dim;
    }
    return KVP_OK;
}

/* The last layers read what the last earlier layer of their kind stored. */
static kvp_err share_kv(struct kvp_reader *r)
{
    uint32_t shared = 0;
    bool wide = false;

    KVP_TRY(kvp_read_count(r, "num_kv_shared_layers", &shared));
    KVP_TRY(kvp_read_flag(r, "use_double_wide_mlp", &wide));
    if (shared >= r->m->layers)
        return kvp_key_fail(r, KVP_EINPUT, "num_kv_shared_layers", "no layer would be left to share from");
    for (uint32_t i = r->m->layers - shared; i < r->m->layers; i++) {
        r->layer[i].no_kv = true;
        r->layer[i].ffn_width *= wide ? 2 : 1;
    }
    return KVP_OK;
}

static kvp_err add_experts(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;
    bool on = false;

    KVP_TRY(kvp_read_flag(r, "enable_moe_block", &on));
    if (!on)
        return KVP_OK;
    KVP_TRY(moe_read(r, &moe));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const uint32_t dense = r->layer[i].ffn_width;

        moe_set_ffn(&r->layer[i], &moe);
        r->layer[i].ffn_width = dense;
        r->layer[i].norms = 7;
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "router_scale", r->m->width, 1, 1, false));
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "per_expert_scale", moe.experts, 1, 1, false));
    }
    return KVP_OK;
}

/* Every layer takes an embedding of its own in (the E models). */
static kvp_err add_per_layer(struct kvp_reader *r)
{
    struct kvp_model *m = r->m;
    uint32_t dim = 0, vocab = m->vocab;

    KVP_TRY(kvp_read_count(r, "hidden_size_per_layer_input", &dim));
    KVP_TRY(kvp_read_count(r, "vocab_size_per_layer_input", &vocab));
    for (uint32_t i = 0; i < m->layers; i++) {
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "layer_scalar", 1, 1, 1, false));
        if (!dim)
            continue;
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "per_layer_input_gate", dim, m->width, 1, true));
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "per_layer_projection", m->width, dim, 1, true));
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "post_per_layer_input_norm", m->width, 1, 1, false));
    }
    if (!dim)
        return KVP_OK;
    if (dim > UINT32_MAX / m->layers)
        return kvp_key_fail(r, KVP_EINPUT, "hidden_size_per_layer_input", "too wide for so many layers");
    KVP_TRY(kvp_add_extra(r, m->extra, "per_layer_embedding", vocab, m->layers * dim, 1, false));
    KVP_TRY(kvp_add_extra(r, m->extra, "per_layer_model_projection", m->layers * dim, m->width, 1, true));
    return kvp_add_extra(r, m->extra, "per_layer_projection_norm", dim, 1, 1, false);
}

/* ---- the vision tower: attention and a gated feed-forward without biases, four norms a layer ------------- */

struct vision {
    uint32_t width, layers, heads, head_dim, ffn, patch, positions;
    bool standardize, clipped;
};

static kvp_err read_vision(const struct kvp_reader *v, struct vision *x)
{
    *x = (struct vision){768, 16, 12, 64, 3072, 16, 10240, false, false};
    KVP_TRY(kvp_read_count(v, "hidden_size", &x->width));
    KVP_TRY(kvp_read_count(v, "num_hidden_layers", &x->layers));
    KVP_TRY(kvp_read_count(v, "num_attention_heads", &x->heads));
    KVP_TRY(kvp_read_count(v, "head_dim", &x->head_dim));
    KVP_TRY(kvp_read_count(v, "intermediate_size", &x->ffn));
    KVP_TRY(kvp_read_count(v, "patch_size", &x->patch));
    KVP_TRY(kvp_read_count(v, "position_embedding_size", &x->positions));
    KVP_TRY(kvp_read_flag(v, "standardize", &x->standardize));
    KVP_TRY(kvp_read_flag(v, "use_clipped_linears", &x->clipped));
    return x->patch <= 256 && x->heads <= 4096 && x->head_dim <= 65536 && x->layers <= 4096
               ? KVP_OK
               : kvp_key_fail(v, KVP_EINPUT, "vision_config", "a patch, heads or a number of layers beyond reason");
}

static kvp_err add_vision(struct kvp_reader *r)
{
    struct kvp_reader v;
    struct vision x;
    bool found;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(read_vision(&v, &x));
    KVP_TRY(tower_add(r, "vision.patch_embedding", x.width, 3 * x.patch * x.patch, 1));
    KVP_TRY(tower_add(r, "vision.positions", x.positions, x.width, 2)); /* rows and columns */
    KVP_TRY(tower_add(r, "vision.attention", x.width, x.heads * x.head_dim, 4 * x.layers));
    KVP_TRY(tower_add(r, "vision.qk_norm", x.head_dim, 1, 2 * x.layers));
    KVP_TRY(tower_add(r, "vision.mlp", x.width, x.ffn, 3 * x.layers));
    KVP_TRY(tower_add(r, "vision.norms", x.width, 1, 4 * x.layers));
    KVP_TRY(tower_add(r, "vision.standardize", x.width, 1, x.standardize ? 2 : 0));
    KVP_TRY(tower_add(r, "vision.clip_bounds", 4, 1, x.clipped ? 7 * x.layers : 0));
    return tower_add(r, "vision.projector", r->m->width, x.width, 1);
}

static kvp_err layers(struct kvp_reader *r)
{
    KVP_TRY(set_full(r));
    KVP_TRY(set_own(r));
    KVP_TRY(share_kv(r));
    KVP_TRY(add_experts(r));
    snprintf(r->m->not_run, sizeof(r->m->not_run), "scaled embeddings, norms on v, scalars a layer, capped logits");
    KVP_TRY(add_vision(r));
    return add_per_layer(r);
}

static const struct kvp_rule rules[] = {
    {"per_layer_config", KVP_KEY_ANY, "read: what a layer has of its own"},
    {"global_head_dim", KVP_KEY_ANY, "read: full layers"},
    {"num_global_key_value_heads", KVP_KEY_ANY, "read: full layers"},
    {"num_kv_shared_layers", KVP_KEY_ANY, "read: layers without a cache of their own"},
    {"hidden_size_per_layer_input", KVP_KEY_ANY, "read: embeddings of every layer"},
    {"vocab_size_per_layer_input", KVP_KEY_ANY, "read: embeddings of every layer"},
    {"enable_moe_block", KVP_KEY_ANY, "read: experts beside the feed-forward"},
    {0},
};

const struct kvp_dialect family_gemma4[] = {
    {
        .model_type = {"gemma4_text"},
        .rules = {kvp_rules_moe, rules},
        .architectures = {"Gemma4ForCausalLM"},
        .key = LLAMA_KEYS, .act_key = "hidden_activation", .act = "gelu_pytorch_tanh", .eps_key = "rms_norm_eps", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .absent = {[KVP_SIZE_VOCAB] = 262144, [KVP_SIZE_HEAD_DIM] = 256, [KVP_SIZE_POSITIONS] = 131072},
        .bias = KVP_BIAS_ATTN, .norms = 4, .qk_norm = true, .tied = true,
        .window = KVP_WINDOW_EVERY, .window_absent = 512,
        .layers = layers,
    },
    {
        .model_type = {"gemma4"},
        .architectures = {"Gemma4ForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "gemma4_text",
    },
    {.model_type = {0}},
};
