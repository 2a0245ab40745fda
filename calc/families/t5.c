/* t5.c - T5, T5 v1.1, FLAN-T5 and mT5: a table of relative biases in the first layer of each half, no positions
 * else. Sources: configuration_ and modeling_{t5,mt5}.py in huggingface/transformers. A config without n_positions
 * (mT5) gets 512, T5's own encoder length (arXiv:1910.10683, section 3.1.2). */
#include "calc/families/families.h"
#include "calc/families/shared.h"

#include <string.h>

static const struct kvp_rule t5_rules[] = {
    {"is_encoder_decoder", KVP_KEY_TRUE, "it would have no encoder"},
    {"num_layers", KVP_KEY_ANY, "read: the encoder's layers, and the decoder's unless num_decoder_layers is there"},
    {"feed_forward_proj", KVP_KEY_ANY, "read: two matrices or three"},
    {"is_gated_act", KVP_KEY_ANY, "what feed_forward_proj says"},
    {0},
};

/* "relu", "gated-gelu", "gated-silu". */
static kvp_err t5_ffn(struct kvp_reader *r)
{
    const char *word = "relu";

    KVP_TRY(kvp_json_text(&r->j, "feed_forward_proj", &word, NULL));
    r->proto.ffn = KVP_FFN_PLAIN;
    if (strncmp(word, "gated-", 6) == 0) {
        r->proto.ffn = KVP_FFN_GATED;
        word += 6;
    }
    if (strcmp(word, "gelu") == 0)
        word = "gelu_new";
    return kvp_read_act(r, NULL, word, &r->proto.act);
}

static kvp_err t5_extras(struct kvp_reader *r)
{
    uint32_t buckets = 32;

    KVP_TRY(kvp_read_count(r, "relative_attention_num_buckets", &buckets));
    if (!buckets)
        return kvp_key_fail(r, KVP_EINPUT, "relative_attention_num_buckets", "expected a number above 0");
    KVP_TRY(kvp_add_extra(r, r->m->extra, "relative_attention_bias", buckets, r->proto.heads, 2, false));
    return kvp_add_extra(r, r->m->extra, "encoder_final_norm", r->m->width, 1, 1, false);
}

static kvp_err t5_layers(struct kvp_reader *r)
{
    uint32_t encoder = r->m->layers;

    KVP_TRY(t5_ffn(r));
    KVP_TRY(t5_extras(r));
    KVP_TRY(kvp_read_count(r, "num_layers", &encoder));
    KVP_TRY(kvp_set_encoder(r, encoder, &r->proto));
    r->m->encoder_positions = r->m->max_positions; /* its training's length, no limit for either half */
    r->proto.cross_heads = r->proto.cross_kv_heads = r->proto.heads;
    r->proto.cross_head_dim = r->proto.head_dim;
    r->proto.norms = 3;
    kvp_spread(r);
    kvp_cannot_run(r->m, "relative biases");
    return KVP_OK;
}

const struct kvp_dialect family_t5[] = {
    {
        .model_type = {"t5", "mt5"}, .architectures = {"T5ForConditionalGeneration", "MT5ForConditionalGeneration", "T5Model"},
        .rules = {t5_rules, kvp_rules_layer_norm},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"d_model"},
                [KVP_SIZE_LAYERS] = {"num_decoder_layers", "num_layers"}, [KVP_SIZE_HEADS] = {"num_heads"},
                [KVP_SIZE_HEAD_DIM] = {"d_kv"}, [KVP_SIZE_FFN] = {"d_ff"}, [KVP_SIZE_POSITIONS] = {"n_positions"}},
        .absent = {[KVP_SIZE_HEAD_DIM] = 64, [KVP_SIZE_POSITIONS] = 512}, .act = "relu",
        .eps_key = "layer_norm_epsilon", .eps = 1e-6, .norm = KVP_NORM_RMS, .position = KVP_POS_NONE,
        .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_NONE, .tied = true, .layers = t5_layers,
    },
    {.model_type = {0}},
};
