/* opt.c - OPT. Sources: configuration_opt.py and modeling_opt.py in huggingface/transformers: learned positions
 * start at row 2, so the table has two rows more; OPT-350M embeds in 512 and projects to 1024. */
#include "calc/families/families.h"
#include "calc/families/shared.h"

static const struct kvp_rule opt_rules[] = {
    {"do_layer_norm_before", KVP_KEY_ANY, "read: without it there is no last norm"},
    {"_remove_final_layer_norm", KVP_KEY_ANY, "read: no last norm"},
    {"layer_norm_elementwise_affine", KVP_KEY_ANY, "read: norms without weights (Galactica)"},
    {"enable_bias", KVP_KEY_ANY, "read: biases of all linears"},
    {"word_embed_proj_dim", KVP_KEY_ANY, "read: the embedding's width"},
    {0},
};

static kvp_err read_projections(struct kvp_reader *r)
{
    struct kvp_model *m = r->m;
    uint32_t dim = m->width;

    KVP_TRY(kvp_need_count(r, "word_embed_proj_dim", &dim));
    if (dim == m->width)
        return KVP_OK;
    m->embed_width = dim;
    KVP_TRY(kvp_add_extra(r, m->extra, "project_in", m->width, dim, 1, true));
    return kvp_add_extra(r, m->extra, "project_out", dim, m->width, 1, true);
}

static kvp_err opt_layers(struct kvp_reader *r)
{
    bool before = true, removed = false, affine = true, bias = true;

    KVP_TRY(kvp_read_flag(r, "do_layer_norm_before", &before));
    KVP_TRY(kvp_read_flag(r, "_remove_final_layer_norm", &removed));
    KVP_TRY(kvp_read_flag(r, "layer_norm_elementwise_affine", &affine));
    KVP_TRY(kvp_read_flag(r, "enable_bias", &bias));
    r->m->no_final_norm = !before || removed;
    r->m->norm_vectors = affine ? 2 : 0;
    r->m->position_rows = r->m->max_positions + 2;
    r->proto.qkv_bias = r->proto.o_bias = r->proto.ffn_bias = bias;
    kvp_spread(r);
    if (!before)
        kvp_cannot_run(r->m, "norms follow the layer's parts");
    return read_projections(r);
}

const struct kvp_dialect family_opt[] = {
    {
        .model_type = {"opt"}, .architectures = {"OPTForCausalLM", "OPTModel"},
        .rules = {opt_rules, kvp_rules_layer_norm},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},
                [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},
                [KVP_SIZE_FFN] = {"ffn_dim"}, [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048}, .act_key = "activation_function", .act = "relu",
        .eps = 1e-5, .norm = KVP_NORM_LAYER, .position = KVP_POS_LEARNED, .ffn = KVP_FFN_PLAIN,
        .bias = KVP_BIAS_ALL, .tied = true, .layers = opt_layers,
    },
    {.model_type = {0}},
};
