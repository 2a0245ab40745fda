/* seq2seq.c - an encoder and a decoder: BART, Whisper, T5. Sources: configuration_{bart,whisper,t5,mt5}.py and
 * the modelling files beside them in huggingface/transformers.
 *
 * The decoder's classes are the model's, with cross-attention over the encoder's tokens; the encoder has
 * weights and work of its own and keeps nothing. Both share one table of tokens. */
#include "calc/families/families.h"

#include <stdlib.h>
#include <string.h>

static kvp_err one_encoder(struct kvp_reader *r, uint32_t layers, uint32_t heads, uint32_t ffn)
{
    struct kvp_layer_class *c = calloc(1, sizeof(*c));

    if (!c)
        return kvp_fail(r->j.e, KVP_ENOMEM, "%s: out of memory", r->j.origin);
    *c = r->proto;
    c->count = layers;
    c->heads = c->kv_heads = heads;
    c->ffn_width = ffn;
    c->cross_heads = c->cross_kv_heads = 0;
    r->m->encoder = c;
    r->m->encoders = 1;
    return KVP_OK;
}

/* The decoder's layers: self-attention, cross-attention like it, a norm for each and for the feed-forward. */
static void add_cross(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++) {
        struct kvp_layer_class *c = &r->layer[i];

        c->cross_heads = c->heads;
        c->cross_kv_heads = c->kv_heads;
        c->cross_head_dim = c->head_dim;
        c->norms = 3;
    }
    snprintf(r->m->not_run, sizeof(r->m->not_run), "an encoder and cross-attention");
}

static kvp_err read_encoder(struct kvp_reader *r)
{
    uint32_t layers = 0, heads = 0, ffn = 0;

    KVP_TRY(kvp_need_count(r, "encoder_layers", &layers));
    KVP_TRY(kvp_need_count(r, "encoder_attention_heads", &heads));
    KVP_TRY(kvp_need_count(r, "encoder_ffn_dim", &ffn));
    if (r->m->width % heads)
        return kvp_key_fail(r, KVP_EINPUT, "encoder_attention_heads", "expected a divisor of d_model");
    return one_encoder(r, layers, heads, ffn);
}

/* Positions: two rows more than there are, in each half; a norm on each half's embedding, none at the end. */
static kvp_err bart_layers(struct kvp_reader *r)
{
    KVP_TRY(read_encoder(r));
    add_cross(r);
    r->m->position_rows = r->m->encoder_rows = r->m->max_positions + 2;
    r->m->encoder_positions = r->m->max_positions;
    r->m->no_final_norm = true;
    return kvp_add_extra(r, r->m->extra, "embedding_norm", r->m->width, 1, 4, false);
}

/* k has no bias; the encoder hears through two convolutions of three taps and ends with a norm. */
static kvp_err whisper_layers(struct kvp_reader *r)
{
    uint32_t bins = 80, source = 1500;
    const uint32_t D = r->m->width;

    KVP_TRY(kvp_read_count(r, "num_mel_bins", &bins));
    KVP_TRY(kvp_read_count(r, "max_source_positions", &source));
    r->proto.qkv_bias = false;
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].qkv_bias = false;
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "qv_bias", D, 1, 4, false));
    }
    KVP_TRY(kvp_add_extra(r, r->proto.extra, "qv_bias", D, 1, 2, false));
    KVP_TRY(read_encoder(r));
    add_cross(r);
    r->m->encoder_rows = r->m->encoder_positions = source;
    KVP_TRY(kvp_add_extra(r, r->m->extra, "conv1", D, bins * 3, 1, false));
    KVP_TRY(kvp_add_extra(r, r->m->extra, "conv2", D, D * 3, 1, false));
    KVP_TRY(kvp_add_extra(r, r->m->extra, "conv_bias", D, 1, 2, false));
    return kvp_add_extra(r, r->m->extra, "encoder_norm", D, 1, 2, false);
}

/* Relative positions: a table of buckets for each head, in the first layer of each half. */
static kvp_err t5_layers(struct kvp_reader *r)
{
    const char *proj = "relu";
    uint32_t layers = r->m->layers, buckets = 32, positions = 512;

    KVP_TRY(kvp_json_text(&r->j, "feed_forward_proj", &proj, NULL));
    KVP_TRY(kvp_read_count(r, "relative_attention_num_buckets", &buckets));
    KVP_TRY(kvp_read_count(r, "n_positions", &positions));
    KVP_TRY(kvp_read_count(r, "num_layers", &layers));
    r->proto.ffn = strncmp(proj, "gated", 5) == 0 ? KVP_FFN_GATED : KVP_FFN_PLAIN;
    r->proto.act = strstr(proj, "gelu") ? KVP_ACT_GELU_TANH : KVP_ACT_RELU;
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].ffn = r->proto.ffn;
        r->layer[i].act = r->proto.act;
    }
    KVP_TRY(one_encoder(r, layers, r->proto.heads, r->proto.ffn_width));
    add_cross(r);
    r->m->encoder_positions = positions;
    KVP_TRY(kvp_add_extra(r, r->m->extra, "relative_attention_bias", buckets, r->proto.heads, 2, false));
    return kvp_add_extra(r, r->m->extra, "encoder_norm", r->m->width, 1, 1, false);
}

static const struct kvp_rule both_rules[] = {
    {"is_encoder_decoder", KVP_KEY_ANY, "read: it is"},
    {"encoder_layers", KVP_KEY_ANY, "read: the encoder's layers"},
    {"encoder_attention_heads", KVP_KEY_ANY, "read: the encoder's heads"},
    {"encoder_ffn_dim", KVP_KEY_ANY, "read: the encoder's feed-forward"},
    {"num_hidden_layers", KVP_KEY_ANY, "the encoder's layers again"},
    {"num_decoder_layers", KVP_KEY_ANY, "read: the decoder's layers"},
    {"num_layers", KVP_KEY_ANY, "read: the encoder's layers"},
    {"encoder_layerdrop", KVP_KEY_ANY, "training only"},
    {"decoder_layerdrop", KVP_KEY_ANY, "training only"},
    {"layerdrop", KVP_KEY_ANY, "training only"},
    {"add_final_layer_norm", KVP_KEY_FALSE, "there would be a last norm"},
    {"normalize_before", KVP_KEY_FALSE, "norms would come first, and a last one"},
    {"normalize_embedding", KVP_KEY_TRUE, "the embedding's norm would be missing"},
    {"static_position_embeddings", KVP_KEY_FALSE, "positions would not be learned"},
    {"classifier_proj_size", KVP_KEY_ANY, "of a classifier"},
    {"use_weighted_layer_sum", KVP_KEY_FALSE, "layers would be weighed"},
    {0},
};

#define DECODER                                                                                                         \
    .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"d_model"}, [KVP_SIZE_LAYERS] = {"decoder_layers"},  \
            [KVP_SIZE_HEADS] = {"decoder_attention_heads"}, [KVP_SIZE_FFN] = {"decoder_ffn_dim"},                       \
            [KVP_SIZE_POSITIONS] = {"max_position_embeddings", "max_target_positions"}},                                \
    .act_key = "activation_function", .act = "gelu", .eps = 1e-5, .norm = KVP_NORM_LAYER, .position = KVP_POS_LEARNED,  \
    .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL, .tied = true, .rules = {both_rules}

const struct kvp_dialect family_seq2seq[] = {
    {.model_type = {"bart"}, .architectures = {"BartForConditionalGeneration", "BartModel"}, DECODER, .layers = bart_layers},
    {.model_type = {"whisper"}, .architectures = {"WhisperForConditionalGeneration"}, DECODER, .layers = whisper_layers},
    {
        .model_type = {"t5", "mt5"},
        .architectures = {"T5ForConditionalGeneration", "MT5ForConditionalGeneration", "T5WithLMHeadModel"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"d_model"}, [KVP_SIZE_LAYERS] = {"num_decoder_layers", "num_layers"},
                [KVP_SIZE_HEADS] = {"num_heads"}, [KVP_SIZE_HEAD_DIM] = {"d_kv"}, [KVP_SIZE_FFN] = {"d_ff"}},
        .act = "relu", .eps_key = "layer_norm_epsilon", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_NONE, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_NONE, .tied = true, .no_positions = true,
        .rules = {both_rules},
        .layers = t5_layers,
    },
    {.model_type = {0}},
};
