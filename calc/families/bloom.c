/* bloom.c - BLOOM: ALiBi, a norm on the embedding. Source: configuration_bloom.py, modeling_bloom.py in
 * huggingface/transformers. */
#include "calc/families/families.h"

static kvp_err layers(struct kvp_reader *r)
{
    snprintf(r->m->not_run, sizeof(r->m->not_run), "ALiBi positions and a norm on the embedding");
    return kvp_add_extra(r, r->m->extra, "embedding_norm", r->m->width, 1, 2, false);
}

static const struct kvp_rule rules[] = {
    {"apply_residual_connection_post_layernorm", KVP_KEY_ANY, "where the residual starts, no size"},
    {"attention_softmax_in_fp32", KVP_KEY_ANY, "precision of a softmax"},
    {"hidden_dropout", KVP_KEY_ANY, "training only"},
    {"num_hidden_layers", KVP_KEY_ANY, "another spelling of n_layer"},
    {"skip_bias_add", KVP_KEY_ANY, "fusion of a kernel"},
    {"skip_bias_add_qkv", KVP_KEY_ANY, "fusion of a kernel"},
    {"offset_alibi", KVP_KEY_ANY, "how positions are counted"},
    {0},
};

const struct kvp_dialect family_bloom[] = {
    {
        .model_type = {"bloom"},
        .architectures = {"BloomForCausalLM", "BloomModel"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size", "n_embed"}, [KVP_SIZE_LAYERS] = {"n_layer", "num_hidden_layers"},
                [KVP_SIZE_HEADS] = {"n_head", "num_attention_heads"}, [KVP_SIZE_POSITIONS] = {"seq_length"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .ffn_per_width = 4, .act = "gelu_new", .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_ALIBI, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL, .tied = true,
        .rules = {rules},
        .layers = layers,
    },
    {.model_type = {0}},
};
