/* recurrent_gemma.c - RecurrentGemma (Griffin): RG-LRU blocks and local attention in a cycle. Source:
 * {configuration,modeling}_recurrent_gemma.py of huggingface/transformers. intermediate_size counts gate and
 * up together. */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"
#include "calc/families/llama_like.h"

#include <string.h>

static const struct kvp_rule rules[] = {
    {"attention_window_size", KVP_KEY_ANY, "read: the window"},
    {"embeddings_scale_by_sqrt_dim", KVP_KEY_ANY, "a factor"},
    {"layers_block_type", KVP_KEY_ANY, "_block_types, layer by layer"},
    {"final_w_init_variance_scale", KVP_KEY_ANY, "training only"},
    {"_block_types", KVP_KEY_ANY, "read: what each layer is"},
    {"block_types", KVP_KEY_ANY, "read: what each layer is"},
    {"conv1d_width", KVP_KEY_ANY, "read: columns of the convolution"},
    {"lru_width", KVP_KEY_ANY, "read: channels"},
    {0},
};

static kvp_err read_lru(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    c->recurrent = KVP_REC_RGLRU;
    c->inner = r->m->width;
    c->rec_heads = r->proto.heads;
    c->conv = 4;
    c->conv_bias = c->rec_bias = true;
    KVP_TRY(kvp_need_count(r, "lru_width", &c->inner));
    KVP_TRY(kvp_need_count(r, "conv1d_width", &c->conv));
    if (!c->inner || c->inner % c->rec_heads)
        return kvp_key_fail(r, KVP_EINPUT, "lru_width", "expected a multiple of num_attention_heads");
    c->rec_head_dim = c->inner / c->rec_heads;
    return KVP_OK;
}

static kvp_err layers(struct kvp_reader *r)
{
    const char *key = kvp_json_get(&r->j, "_block_types") ? "_block_types" : "block_types";
    const json_t *types = kvp_json_get(&r->j, key);
    const uint32_t cycle = (uint32_t)json_array_size(types);
    struct kvp_layer_class lru;
    uint32_t window = 2048;

    if (types && !cycle)
        return kvp_key_fail(r, KVP_EINPUT, key, "expected a list of recurrent and attention");
    KVP_TRY(kvp_need_count(r, "attention_window_size", &window));
    r->proto.window = window;
    r->proto.o_bias = r->proto.ffn_bias = true;
    r->proto.ffn_width /= 2;
    memcpy(&lru, &r->proto, sizeof(lru));
    kvp_drop_attention(&lru);
    KVP_TRY(read_lru(r, &lru));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const char *type = cycle ? kvp_word_at(types, i % cycle) : i % 3 == 2 ? "attention" : "recurrent";
        const bool attends = strcmp(type, "attention") == 0;

        if (!attends && strcmp(type, "recurrent") != 0)
            return kvp_layer_kind_fail(r, key, i, type, "recurrent and attention");
        memcpy(&r->layer[i], attends ? &r->proto : &lru, sizeof(lru));
    }
    return KVP_OK;
}

const struct kvp_dialect family_recurrent_gemma[] = {
    {
        .model_type = {"recurrent_gemma"},
        .architectures = {"RecurrentGemmaForCausalLM", "RecurrentGemmaModel"},
        .rules = {rules},
        .key = LLAMA_KEYS,
        .act_key = "hidden_activation", .act = "gelu_pytorch_tanh", .eps_key = "rms_norm_eps", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_ATTN, .tied = true,
        .no_positions = true, .window = KVP_WINDOW_HOOK, .layers = layers,
    },
    {.model_type = {0}},
};
