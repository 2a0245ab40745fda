/* falcon.c - Falcon, old and new decoder, under its three model types. Source: configuration_falcon.py,
 * modeling_falcon.py in huggingface/transformers; RefinedWeb*: tiiuae/falcon-{7b,40b}. */
#include "calc/families/families.h"

#include <string.h>

/* The new decoder (and RefinedWeb, which is it) has groups of KV heads and a norm for each half; the old one
 * has one KV head when multi_query, and one norm when its halves run side by side. */
static kvp_err layers(struct kvp_reader *r)
{
    const char *type = NULL;
    bool fresh = false, one = true, parallel = true, alibi = false, bias = false;
    uint32_t kv = r->proto.heads, norms;

    KVP_TRY(kvp_json_text(&r->j, "model_type", &type, NULL));
    fresh = type && strcmp(type, "RefinedWeb") == 0;
    KVP_TRY(kvp_read_flag(r, "new_decoder_architecture", &fresh));
    KVP_TRY(kvp_read_flag(r, "multi_query", &one));
    KVP_TRY(kvp_read_flag(r, "parallel_attn", &parallel));
    KVP_TRY(kvp_read_flag(r, "alibi", &alibi));
    KVP_TRY(kvp_read_flag(r, "bias", &bias));
    KVP_TRY(kvp_read_count_of(r, (const char *const[]){"n_head_kv", "num_kv_heads", NULL}, &kv));
    norms = fresh || !parallel ? 2 : 1;
    KVP_TRY(kvp_read_count(r, "num_ln_in_parallel_attn", &norms));
    kv = fresh ? kv : one ? 1 : r->proto.heads;
    if (!kv || r->proto.heads % kv)
        return kvp_key_fail(r, KVP_EINPUT, "num_kv_heads", "expected a divisor of the query heads");
    for (uint32_t i = 0; i < r->m->layers; i++) {
        struct kvp_layer_class *c = &r->layer[i];

        c->kv_heads = kv;
        c->norms = norms;
        c->qkv_bias = c->o_bias = c->ffn_bias = bias;
    }
    if (alibi)
        r->m->position = KVP_POS_ALIBI;
    snprintf(r->m->not_run, sizeof(r->m->not_run), alibi ? "ALiBi positions" : "attention and feed-forward side by side");
    return KVP_OK;
}

static const struct kvp_rule rules[] = {
    {"apply_residual_connection_post_layernorm", KVP_KEY_ANY, "where the residual starts, no size"},
    {"hidden_dropout", KVP_KEY_ANY, "training only"},
    {"n_head_kv", KVP_KEY_ANY, "read: KV heads"},
    {"num_kv_heads", KVP_KEY_ANY, "read: KV heads"},
    {"n_head", KVP_KEY_ANY, "read: query heads"},
    {"n_layer", KVP_KEY_ANY, "read: layers"},
    {"num_ln_in_parallel_attn", KVP_KEY_ANY, "read: norms of a layer"},
    {0},
};

const struct kvp_dialect family_falcon[] = {
    {
        .model_type = {"falcon", "RefinedWeb", "RefinedWebModel"},
        .architectures = {"FalconForCausalLM", "RWForCausalLM"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size", "n_embed"},
                [KVP_SIZE_LAYERS] = {"num_hidden_layers", "n_layer"}, [KVP_SIZE_HEADS] = {"num_attention_heads", "n_head"},
                [KVP_SIZE_FFN] = {"ffn_hidden_size"}, [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .ffn_per_width = 4, .act_key = "activation", .act = "gelu", .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_NONE, .tied = true,
        .rules = {rules},
        .layers = layers,
    },
    {.model_type = {0}},
};
