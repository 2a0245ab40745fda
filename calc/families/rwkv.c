/* rwkv.c - RWKV-4 to 7. Sources: modeling_rwkv.py of huggingface/transformers, configuration_ and
 * modeling_rwkv{5,6}.py beside the RWKV checkpoints (their low ranks are constants there), and
 * fla/models/rwkv7 of fla-org/flash-linear-attention, whose default ranks are BlinkDL/RWKV-LM's. */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"

#include <math.h>
#include <string.h>

static const struct kvp_rule rules[] = {
    {"attention_hidden_size", KVP_KEY_ANY, "read: the time mix's channels"},
    {"head_size", KVP_KEY_ANY, "read: a head's size"},
    {"head_dim", KVP_KEY_ANY, "read: a head's size"},
    {"head_size_divisor", KVP_KEY_ANY, "a factor"},
    {"num_attention_heads", KVP_KEY_ANY, "channels / head size, or the head size itself"},
    {"num_heads", KVP_KEY_ANY, "channels / head size"},
    {"a_low_rank_dim", KVP_KEY_ANY, "read"},
    {"decay_low_rank_dim", KVP_KEY_ANY, "read"},
    {"gate_low_rank_dim", KVP_KEY_ANY, "read"},
    {"v_low_rank_dim", KVP_KEY_ANY, "read"},
    {"value_dim", KVP_KEY_ANY, "read: held to the width"},
    {"attn", KVP_KEY_FALSE, "some layers would attend"},
    {"fuse_cross_entropy", KVP_KEY_ANY, "training only"},
    {"intermediate_size", KVP_KEY_ANY, "read: the channel mix's width"},
    {"hidden_ratio", KVP_KEY_ANY, "read: the channel mix's width"},
    {0},
};

/* The channel mix: `width` where no intermediate_size is given. */
static kvp_err read_channel_mix(const struct kvp_reader *r, struct kvp_layer_class *c, uint32_t width)
{
    c->ffn = KVP_FFN_RWKV;
    c->ffn_width = 0;
    KVP_TRY(kvp_read_count(r, "intermediate_size", &c->ffn_width));
    if (!c->ffn_width)
        c->ffn_width = width;
    return KVP_OK;
}

/* Heads of one size over the time mix's channels. */
static kvp_err read_channels(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    static const char *const sizes[] = {"head_size", "head_dim", NULL};

    c->inner = r->m->width;
    c->rec_head_dim = 64;
    KVP_TRY(kvp_read_count(r, "attention_hidden_size", &c->inner));
    KVP_TRY(kvp_read_count_of(r, sizes, &c->rec_head_dim));
    if (!c->inner)
        return kvp_key_fail(r, KVP_EINPUT, "attention_hidden_size", "expected a number above 0");
    if (c->recurrent == KVP_REC_RWKV4) {
        c->rec_head_dim = 0;
        return KVP_OK;
    }
    if (!c->rec_head_dim || c->inner % c->rec_head_dim)
        return kvp_key_fail(r, KVP_EINPUT, "head_size", "expected a divisor of the time mix's channels");
    c->rec_heads = c->inner / c->rec_head_dim;
    return KVP_OK;
}

/* Every layer alike; the embedding has a norm of its own, kept in the first block. */
static kvp_err fill(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++)
        memcpy(&r->layer[i], &r->proto, sizeof(r->proto));
    return kvp_add_extra(r, r->m->extra, "pre_norm", r->m->width, 1, r->m->norm_vectors, false);
}

static kvp_err rwkv4_layers(struct kvp_reader *r)
{
    r->proto.recurrent = KVP_REC_RWKV4;
    KVP_TRY(read_channels(r, &r->proto));
    KVP_TRY(read_channel_mix(r, &r->proto, 4 * r->m->width));
    return fill(r);
}

static uint32_t three_and_a_half(uint32_t width)
{
    return (uint32_t)(7ull * width / 2 / 32 * 32);
}

static kvp_err rwkv5_layers(struct kvp_reader *r)
{
    r->proto.recurrent = KVP_REC_RWKV5;
    KVP_TRY(read_channels(r, &r->proto));
    KVP_TRY(read_channel_mix(r, &r->proto, three_and_a_half(r->m->width)));
    return fill(r);
}

/* The low ranks are the model code's: of the decay and of the mix, doubled at the width of the 7B. */
static kvp_err rwkv6_layers(struct kvp_reader *r)
{
    const uint32_t twice = r->m->width >= 4096 ? 2 : 1;

    r->proto.recurrent = KVP_REC_RWKV6;
    KVP_TRY(read_channels(r, &r->proto));
    KVP_TRY(read_channel_mix(r, &r->proto, three_and_a_half(r->m->width)));
    r->proto.low_rank[0] = 64 * twice;
    r->proto.low_rank[1] = 32 * twice;
    return fill(r);
}

static kvp_err read_ranks(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    static const struct {
        const char *key;
        double factor;
    } ranks[] = {{"decay_low_rank_dim", 2.5}, {"a_low_rank_dim", 2.5}, {"v_low_rank_dim", 1.7}, {"gate_low_rank_dim", 5}};

    for (int i = 0; i < 4; i++) {
        const long blocks = lrint(ranks[i].factor * sqrt(r->m->width) * (c->rec_head_dim / 64.0) / 32);

        c->low_rank[i] = blocks > 1 ? 32 * (uint32_t)blocks : 32;
        if (kvp_json_get(&r->j, ranks[i].key))
            KVP_TRY(kvp_need_count(r, ranks[i].key, &c->low_rank[i]));
    }
    return KVP_OK;
}

static kvp_err check_value_dim(const struct kvp_reader *r)
{
    const json_t *v = kvp_json_get(&r->j, "value_dim");
    const size_t n = json_is_array(v) ? json_array_size(v) : v ? 1 : 0;

    for (size_t i = 0; i < n; i++)
        if (json_integer_value(json_is_array(v) ? json_array_get(v, i) : v) != (json_int_t)r->m->width)
            return kvp_key_fail(r, KVP_ENOTSUP, "value_dim", "only the width is supported");
    return KVP_OK;
}

/* The first layer's v is the one that the others mix with theirs: it has no low-rank pair for it. */
static kvp_err rwkv7_layers(struct kvp_reader *r)
{
    double ratio = 4;
    bool first = true, bias = true;

    KVP_TRY(kvp_read_flag(r, "norm_first", &first));
    KVP_TRY(kvp_read_flag(r, "norm_bias", &bias));
    KVP_TRY(kvp_json_real(&r->j, "hidden_ratio", &ratio, NULL));
    KVP_TRY(check_value_dim(r));
    if (ratio > 64)
        return kvp_key_fail(r, KVP_EINPUT, "hidden_ratio", "expected at most 64");
    r->m->norm_vectors = bias ? 2 : 1;
    r->proto.recurrent = KVP_REC_RWKV7;
    KVP_TRY(read_channels(r, &r->proto));
    KVP_TRY(read_channel_mix(r, &r->proto, ((uint32_t)(ratio * r->m->width) + 31) / 32 * 32));
    KVP_TRY(read_ranks(r, &r->proto));
    KVP_TRY(fill(r));
    r->layer[0].low_rank[2] = 0;
    if (!first)
        memset(r->m->extra, 0, sizeof(r->m->extra));
    return KVP_OK;
}

#define RWKV_LIKE                                                                                                  \
    .rules = {rules},                                                                                              \
    .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},                                 \
            [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},        \
    .act = "relu2", .eps = 1e-5, .norm = KVP_NORM_LAYER, .position = KVP_POS_NONE, .own_mixer = true,              \
    .own_ffn = true, .no_positions = true, .bias = KVP_BIAS_NONE, .window = KVP_WINDOW_HOOK

const struct kvp_dialect family_rwkv[] = {
    {.model_type = {"rwkv"}, .architectures = {"RwkvForCausalLM", "RwkvModel"}, RWKV_LIKE,
     .eps_key = "layer_norm_epsilon", .layers = rwkv4_layers},
    {.model_type = {"rwkv5"}, .architectures = {"Rwkv5ForCausalLM"}, RWKV_LIKE,
     .eps_key = "layer_norm_epsilon", .layers = rwkv5_layers},
    {.model_type = {"rwkv6"}, .architectures = {"Rwkv6ForCausalLM"}, RWKV_LIKE,
     .eps_key = "layer_norm_epsilon", .layers = rwkv6_layers},
    {.model_type = {"rwkv7"}, .architectures = {"RWKV7ForCausalLM"}, RWKV_LIKE,
     .eps_key = "norm_eps", .layers = rwkv7_layers},
    {.model_type = {0}},
};
