/* whisper.c - Whisper: two convolutions over the mel frames, then an encoder of a fixed 1500 positions; k has no
 * bias, q, v and o do. Sources: configuration_whisper.py and modeling_whisper.py in huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/shared.h"

static const struct kvp_rule whisper_rules[] = {
    {"is_encoder_decoder", KVP_KEY_TRUE, "it would have no encoder"},
    {"encoder_layers", KVP_KEY_ANY, "read: the encoder"},
    {"encoder_attention_heads", KVP_KEY_ANY, "read: the encoder"},
    {"encoder_ffn_dim", KVP_KEY_ANY, "read: the encoder"},
    {"num_hidden_layers", KVP_KEY_ANY, "the encoder's layers again; not read by the class"},
    {"use_weighted_layer_sum", KVP_KEY_ANY, "of the audio classifier only"},
    {"num_mel_bins", KVP_KEY_ANY, "read: the encoder's input"},
    {"classifier_proj_size", KVP_KEY_ANY, "a classifier's"},
    {"median_filter_width", KVP_KEY_ANY, "time stamps"},
    {0},
};

static kvp_err biases(const struct kvp_reader *r, struct kvp_layer_class *c, uint32_t attentions)
{
    c->qkv_bias = false;
    return kvp_add_extra(r, c->extra, "q_proj.bias, v_proj.bias", r->m->width, 1, 2 * attentions, false);
}

static kvp_err whisper_encoder(struct kvp_reader *r)
{
    struct kvp_layer_class c = r->proto;
    struct kvp_model *m = r->m;
    uint32_t layers = 4, mels = 80, rows = 1500;

    KVP_TRY(kvp_read_count(r, "encoder_layers", &layers));
    KVP_TRY(kvp_read_count(r, "encoder_attention_heads", &c.heads));
    KVP_TRY(kvp_need_count(r, "encoder_ffn_dim", &c.ffn_width));
    KVP_TRY(kvp_read_count(r, "num_mel_bins", &mels));
    KVP_TRY(kvp_read_count(r, "max_source_positions", &rows));
    if (!c.heads || m->width % c.heads)
        return kvp_key_fail(r, KVP_EINPUT, "encoder_attention_heads", "expected a divisor of d_model");
    c.kv_heads = c.heads;
    c.head_dim = c.v_head_dim = m->width / c.heads;
    m->encoder_positions = m->encoder_rows = rows;
    m->encoder_channels = mels;
    KVP_TRY(biases(r, &c, 1));
    KVP_TRY(kvp_add_extra(r, m->extra, "encoder_conv1", m->width, 3 * mels, 1, false));
    KVP_TRY(kvp_add_extra(r, m->extra, "encoder_conv2", m->width, 3 * m->width, 1, false));
    KVP_TRY(kvp_add_extra(r, m->extra, "encoder_conv.bias", m->width, 1, 2, false));
    KVP_TRY(kvp_add_extra(r, m->extra, "encoder_final_norm", m->width, 1, 2, false));
    return kvp_set_encoder(r, layers, &c);
}

static kvp_err whisper_layers(struct kvp_reader *r)
{
    KVP_TRY(whisper_encoder(r));
    KVP_TRY(biases(r, &r->proto, 2));
    r->proto.cross_heads = r->proto.cross_kv_heads = r->proto.heads;
    r->proto.cross_head_dim = r->proto.head_dim;
    r->proto.norms = 3;
    kvp_spread(r);
    kvp_cannot_run(r->m, "an encoder of audio frames");
    return KVP_OK;
}

const struct kvp_dialect family_whisper[] = {
    {
        .model_type = {"whisper"}, .architectures = {"WhisperForConditionalGeneration", "WhisperModel"},
        .rules = {whisper_rules, kvp_rules_layer_norm},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"d_model"}, [KVP_SIZE_LAYERS] = {"decoder_layers"},
                [KVP_SIZE_HEADS] = {"decoder_attention_heads"}, [KVP_SIZE_FFN] = {"decoder_ffn_dim"},
                [KVP_SIZE_POSITIONS] = {"max_target_positions"}},
        .absent = {[KVP_SIZE_POSITIONS] = 448}, .act_key = "activation_function", .act = "gelu", .eps = 1e-5,
        .norm = KVP_NORM_LAYER, .position = KVP_POS_LEARNED, .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL,
        .tied = true, .layers = whisper_layers,
    },
    {.model_type = {0}},
};
