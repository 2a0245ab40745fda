/* bloom.c - BLOOM and BLOOMZ: ALiBi, a norm after the embedding. Sources: configuration_bloom.py and
 * modeling_bloom.py in huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/shared.h"

static const struct kvp_rule bloom_rules[] = {
    {"skip_bias_add_qkv", KVP_KEY_ANY, "which kernel adds the biases"},
    {0},
};

static kvp_err bloom_layers(struct kvp_reader *r)
{
    bool after = false;

    KVP_TRY(kvp_read_flag(r, "apply_residual_connection_post_layernorm", &after));
    if (after)
        kvp_cannot_run(r->m, "the residual is taken after the norm");
    return kvp_add_extra(r, r->m->extra, "embedding_norm", r->m->width, 1, 2, false);
}

const struct kvp_dialect family_bloom[] = {
    {
        .model_type = {"bloom"}, .architectures = {"BloomForCausalLM", "BloomModel"},
        .rules = {bloom_rules, kvp_rules_layer_norm},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"n_embed", "hidden_size"},
                [KVP_SIZE_LAYERS] = {"n_layer", "num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads", "n_head"},
                [KVP_SIZE_FFN] = {"n_inner"}, [KVP_SIZE_POSITIONS] = {"seq_length"}},
        .ffn_per_width = 4, .act = "gelu_new", .eps_key = "layer_norm_epsilon", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_ALIBI, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL,
        .tied = true, .no_positions = true, .layers = bloom_layers,
    },
    {.model_type = {0}},
};
