/* opt.c - OPT. Source: configuration_opt.py, modeling_opt.py in huggingface/transformers. */
#include "calc/families/families.h"

/* The table of positions has two rows more than there are positions. */
static kvp_err layers(struct kvp_reader *r)
{
    bool bias = true, before = true, affine = true, no_final = false;
    uint32_t proj = r->m->width;

    KVP_TRY(kvp_read_flag(r, "enable_bias", &bias));
    KVP_TRY(kvp_read_flag(r, "do_layer_norm_before", &before));
    KVP_TRY(kvp_read_flag(r, "layer_norm_elementwise_affine", &affine));
    KVP_TRY(kvp_read_flag(r, "_remove_final_layer_norm", &no_final));
    KVP_TRY(kvp_read_count(r, "word_embed_proj_dim", &proj));
    if (proj != r->m->width)
        return kvp_key_fail(r, KVP_ENOTSUP, "word_embed_proj_dim", "an embedding of another width than the model's is not counted");
    for (uint32_t i = 0; i < r->m->layers && !bias; i++)
        r->layer[i].qkv_bias = r->layer[i].o_bias = r->layer[i].ffn_bias = false;
    r->m->norm_vectors = affine ? 2 : 0;
    r->m->no_final_norm = !before || no_final;
    r->m->position_rows = r->m->max_positions + 2;
    return KVP_OK;
}

static const struct kvp_rule rules[] = {
    {"word_embed_proj_dim", KVP_KEY_ANY, "read: held to the width"},
    {"do_layer_norm_before", KVP_KEY_ANY, "read: whether there is a last norm"},
    {"layer_norm_elementwise_affine", KVP_KEY_ANY, "read: whether norms have weights"},
    {"_remove_final_layer_norm", KVP_KEY_ANY, "read: whether there is a last norm"},
    {"layerdrop", KVP_KEY_ANY, "training only"},
    {0},
};

const struct kvp_dialect family_opt[] = {
    {
        .model_type = {"opt"},
        .architectures = {"OPTForCausalLM", "OPTModel"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"}, [KVP_SIZE_LAYERS] = {"num_hidden_layers"},
                [KVP_SIZE_HEADS] = {"num_attention_heads"}, [KVP_SIZE_FFN] = {"ffn_dim"}, [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .act_key = "activation_function", .act = "relu", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_LEARNED, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL, .tied = true,
        .rules = {rules},
        .layers = layers,
    },
    {.model_type = {0}},
};
