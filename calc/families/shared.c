/* shared.c - what several families read the same way. */
#include "calc/families/shared.h"

#include <stdlib.h>
#include <string.h>

const struct kvp_rule kvp_rules_layer_norm[] = {
    {"layer_norm_eps", KVP_KEY_ANY, "read: the norm's epsilon"},
    {"layer_norm_epsilon", KVP_KEY_ANY, "read: the norm's epsilon"},
    {"layernorm_epsilon", KVP_KEY_ANY, "read: the norm's epsilon"},
    {"add_final_layer_norm", KVP_KEY_FALSE, "another norm would follow the last layer"},
    {"apply_residual_connection_post_layernorm", KVP_KEY_ANY, "where the residual is taken from; no weight"},
    {"encoder_layerdrop", KVP_KEY_ANY, "training only"},
    {"decoder_layerdrop", KVP_KEY_ANY, "training only"},
    {"layerdrop", KVP_KEY_ANY, "training only"},
    {"pad_key_length", KVP_KEY_ANY, "how a kernel rounds; nothing is kept"},
    {"tie_encoder_decoder", KVP_KEY_FALSE, "the encoder would have no weights of its own"},
    {0},
};

kvp_err kvp_read_slides(struct kvp_reader *r, uint64_t window_absent, uint32_t pattern)
{
    uint64_t window = json_object_get(r->j.object, "sliding_window") ? 0 : window_absent;
    const json_t *types;

    KVP_TRY(kvp_json_u64(&r->j, "sliding_window", 1, UINT64_C(1) << 40, &window, NULL));
    KVP_TRY(kvp_read_list(r, "layer_types", &types));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const char *type = types ? json_string_value(json_array_get(types, i)) : (i + 1) % pattern ? "sliding_attention" : "full_attention";
        const bool slides = type && strcmp(type, "sliding_attention") == 0;

        if (!slides && (!type || strcmp(type, "full_attention") != 0))
            return kvp_key_fail(r, KVP_ENOTSUP, "layer_types", "expected full_attention or sliding_attention in every place");
        if (types && slides && !window)
            return kvp_key_fail(r, KVP_EINPUT, "sliding_window", "expected a number above 0, as a layer slides");
        r->layer[i].window = slides ? window : 0;
    }
    return KVP_OK;
}

kvp_err kvp_read_rotary_dim(const struct kvp_reader *r, const char *key, uint32_t absent)
{
    uint32_t dim = absent;

    KVP_TRY(kvp_read_count(r, key, &dim));
    if (dim != r->proto.head_dim)
        r->m->numbers.rotary_part = (double)dim / r->proto.head_dim;
    if (dim > r->proto.head_dim || (dim != r->proto.head_dim && !r->d->partial_rotary))
        kvp_cannot_run(r->m, "only a part of each head is rotated");
    return KVP_OK;
}

void kvp_spread(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const uint64_t window = r->layer[i].window;

        memcpy(&r->layer[i], &r->proto, sizeof(r->proto));
        r->layer[i].window = window;
    }
}

kvp_err kvp_set_encoder(struct kvp_reader *r, uint32_t count, const struct kvp_layer_class *c)
{
    if (count == 0 || count > 4096)
        return kvp_key_fail(r, KVP_EINPUT, "encoder_layers", "expected 1 to 4096");
    r->m->encoder = calloc(1, sizeof(*r->m->encoder));
    if (!r->m->encoder)
        return kvp_fail(r->j.e, KVP_ENOMEM, "%s: out of memory", r->j.origin);
    *r->m->encoder = *c;
    r->m->encoder->count = count;
    r->m->encoders = 1;
    return KVP_OK;
}

kvp_err kvp_read_multipliers(struct kvp_reader *r)
{
    struct kvp_numbers *n = &r->m->numbers;
    double divide = 1;

    n->embed_scale = n->residual_scale = n->score_scale = 1;
    KVP_TRY(kvp_json_real(&r->j, "embedding_multiplier", &n->embed_scale, NULL));
    KVP_TRY(kvp_json_real(&r->j, "residual_multiplier", &n->residual_scale, NULL));
    KVP_TRY(kvp_json_real(&r->j, "attention_multiplier", &n->score_scale, NULL));
    KVP_TRY(kvp_json_real(&r->j, "logits_scaling", &divide, NULL));
    if (divide <= 0 || n->embed_scale <= 0 || n->residual_scale <= 0 || n->score_scale <= 0)
        kvp_cannot_run(r->m, "a multiplier is not above 0");
    n->logit_scale = divide > 0 ? 1 / divide : 0;
    return KVP_OK;
}

kvp_err kvp_rotary_absent(struct kvp_reader *r, double part)
{
    static const char *const keys[] = {"rope_parameters", "rope_scaling"};
    bool said = json_object_get(r->j.object, "partial_rotary_factor") != NULL;

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        said = said || json_object_get(json_object_get(r->j.object, keys[i]), "partial_rotary_factor");
    if (!said)
        r->m->numbers.rotary_part = part;
    return KVP_OK;
}
