/* bart.c - BART: norms after the blocks, a norm after each embedding, position tables with two rows more. Sources:
 * configuration_bart.py and modeling_bart.py in huggingface/transformers. SeamlessM4T is refused by name. */
#include "calc/families/families.h"
#include "calc/families/shared.h"

#include <math.h>

static const struct kvp_rule bart_rules[] = {
    {"is_encoder_decoder", KVP_KEY_TRUE, "it would have no encoder"},
    {"encoder_layers", KVP_KEY_ANY, "read: the encoder"},
    {"encoder_attention_heads", KVP_KEY_ANY, "read: the encoder"},
    {"encoder_ffn_dim", KVP_KEY_ANY, "read: the encoder"},
    {"num_hidden_layers", KVP_KEY_ANY, "the encoder's layers again; not read by the class"},
    {"normalize_before", KVP_KEY_FALSE, "norms would stand before the blocks and at the end"},
    {"normalize_embedding", KVP_KEY_ANY, "not read by the class: there is always such a norm"},
    {0},
};

static kvp_err bart_encoder(struct kvp_reader *r)
{
    struct kvp_layer_class c = r->proto;
    uint32_t layers = 12;

    KVP_TRY(kvp_read_count(r, "encoder_layers", &layers));
    KVP_TRY(kvp_read_count(r, "encoder_attention_heads", &c.heads));
    KVP_TRY(kvp_need_count(r, "encoder_ffn_dim", &c.ffn_width));
    if (!c.heads || r->m->width % c.heads)
        return kvp_key_fail(r, KVP_EINPUT, "encoder_attention_heads", "expected a divisor of d_model");
    c.kv_heads = c.heads;
    c.head_dim = c.v_head_dim = r->m->width / c.heads;
    r->m->encoder_positions = r->m->max_positions;
    r->m->encoder_rows = r->m->position_rows = r->m->max_positions + 2;
    KVP_TRY(kvp_add_extra(r, r->m->extra, "embedding_norm", r->m->width, 1, 4, false)); /* encoder's, decoder's */
    return kvp_set_encoder(r, layers, &c);
}

/* The embeddings, not the positions, times the root of the width. */
static kvp_err bart_scale(struct kvp_reader *r)
{
    bool scale = false;

    KVP_TRY(kvp_read_flag(r, "scale_embedding", &scale));
    r->m->numbers.embed_scale = scale ? sqrt((double)r->m->width) : 0;
    return KVP_OK;
}

static kvp_err bart_layers(struct kvp_reader *r)
{
    KVP_TRY(bart_encoder(r));
    r->m->no_final_norm = r->m->numbers.norms_last = true;
    KVP_TRY(bart_scale(r));
    r->proto.cross_heads = r->proto.cross_kv_heads = r->proto.heads;
    r->proto.cross_head_dim = r->proto.head_dim;
    r->proto.norms = 3;
    kvp_spread(r);
    return KVP_OK;
}

const struct kvp_dialect family_bart[] = {
    {
        .model_type = {"bart"}, .architectures = {"BartForConditionalGeneration", "BartModel"},
        .rules = {bart_rules, kvp_rules_layer_norm},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"d_model"}, [KVP_SIZE_LAYERS] = {"decoder_layers"},
                [KVP_SIZE_HEADS] = {"decoder_attention_heads"}, [KVP_SIZE_FFN] = {"decoder_ffn_dim"},
                [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .absent = {[KVP_SIZE_POSITIONS] = 1024}, .act_key = "activation_function", .act = "gelu", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_LEARNED, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL,
        .tied = true, .layers = bart_layers,
    },
    {.model_type = {"seamless_m4t_v2", "seamless_m4t"}, .architectures = {"SeamlessM4Tv2Model", "SeamlessM4TModel"},
     .refused = "a speech encoder of convolutions, a second decoder for units and a vocoder are not counted"},
    {.model_type = {0}},
};
