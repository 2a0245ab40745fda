/* cross_shapes.c - the tensors of models with an encoder: what the encoder has as a whole, and what a decoder's layer reads its
 * output by. A layer that reads one in a model without an encoder has a cross block of xc-cache's behind it. */
#include "validate/engine/shapes.h"

enum dim { VEC, WIDTH, POSITIONS, Q, KV, IN, FFN };
enum need { ENC_POSITIONS, ENC_NORM, ENC_NORM_BIAS, CROSS, CROSS_NORM_BIAS, CROSS_BIAS, CROSS_O_BIAS, BLOCK, NEEDS };

static const struct {
    enum wt_role role;
    enum wt_fill fill;
    enum dim rows, cols;
    enum need need;
} pieces[WP_PIECES - WP_CROSS_FIRST] = {
    [WP_ENC_POSITION - WP_CROSS_FIRST] = {WT_ENC_POSITION, WF_MATRIX, POSITIONS, WIDTH, ENC_POSITIONS},
    [WP_ENC_EMBED_NORM - WP_CROSS_FIRST] = {WT_ENC_EMBED_NORM, WF_NORM, WIDTH, VEC, ENC_NORM},
    [WP_ENC_EMBED_NORM_BIAS - WP_CROSS_FIRST] = {WT_ENC_EMBED_NORM_BIAS, WF_BIAS, WIDTH, VEC, ENC_NORM_BIAS},
    [WP_CROSS_NORM - WP_CROSS_FIRST] = {WT_CROSS_NORM, WF_NORM, WIDTH, VEC, CROSS},
    [WP_CROSS_NORM_BIAS - WP_CROSS_FIRST] = {WT_CROSS_NORM_BIAS, WF_BIAS, WIDTH, VEC, CROSS_NORM_BIAS},
    [WP_CROSS_Q - WP_CROSS_FIRST] = {WT_CROSS_Q, WF_MATRIX, Q, WIDTH, CROSS},
    [WP_CROSS_Q_BIAS - WP_CROSS_FIRST] = {WT_CROSS_Q_BIAS, WF_BIAS, Q, VEC, CROSS_BIAS},
    [WP_CROSS_K - WP_CROSS_FIRST] = {WT_CROSS_KV, WF_MATRIX, KV, IN, CROSS},
    [WP_CROSS_V - WP_CROSS_FIRST] = {WT_CROSS_KV, WF_MATRIX, KV, IN, CROSS},
    [WP_CROSS_K_BIAS - WP_CROSS_FIRST] = {WT_CROSS_KV_BIAS, WF_BIAS, KV, VEC, CROSS_BIAS},
    [WP_CROSS_V_BIAS - WP_CROSS_FIRST] = {WT_CROSS_KV_BIAS, WF_BIAS, KV, VEC, CROSS_BIAS},
    [WP_CROSS_O - WP_CROSS_FIRST] = {WT_CROSS_O, WF_MATRIX, WIDTH, Q, CROSS},
    [WP_CROSS_O_BIAS - WP_CROSS_FIRST] = {WT_CROSS_O_BIAS, WF_BIAS, WIDTH, VEC, CROSS_O_BIAS},
    [WP_BLOCK_NORM - WP_CROSS_FIRST] = {WT_BLOCK_NORM, WF_NORM, WIDTH, VEC, BLOCK},
    [WP_BLOCK_NORM_BIAS - WP_CROSS_FIRST] = {WT_BLOCK_NORM_BIAS, WF_BIAS, WIDTH, VEC, BLOCK},
    [WP_BLOCK_GATE - WP_CROSS_FIRST] = {WT_BLOCK_UP, WF_MATRIX, FFN, WIDTH, BLOCK},
    [WP_BLOCK_UP - WP_CROSS_FIRST] = {WT_BLOCK_UP, WF_MATRIX, FFN, WIDTH, BLOCK},
    [WP_BLOCK_DOWN - WP_CROSS_FIRST] = {WT_BLOCK_DOWN, WF_MATRIX, WIDTH, FFN, BLOCK},
};

struct wt_shape cross_shape_of(const struct kvp_model *m, const struct kvp_layer_class *c, enum wt_piece p)
{
    const bool biased = m->norm == KVP_NORM_LAYER && m->norm_vectors == 2, cross = c->cross_heads, block = cross && !m->encoders;
    const bool normed = m->encoders && m->extra[0].name && strcmp(m->extra[0].name, "embedding_norm") == 0;
    const uint64_t dim[] = {[WIDTH] = m->width, [POSITIONS] = m->encoder_rows, [Q] = (uint64_t)c->cross_heads * c->cross_head_dim,
                            [KV] = (uint64_t)c->cross_kv_heads * c->cross_head_dim, [IN] = c->cross_in ? c->cross_in : m->width,
                            [FFN] = 4ull * c->cross_heads * c->cross_head_dim};
    const bool has[NEEDS] = {[ENC_POSITIONS] = m->encoder_rows, [ENC_NORM] = normed, [ENC_NORM_BIAS] = normed && biased,
                             [CROSS] = cross, [CROSS_NORM_BIAS] = cross && (biased || block), [CROSS_BIAS] = cross && c->qkv_bias && !block,
                             [CROSS_O_BIAS] = cross && c->o_bias && !block, [BLOCK] = block};
    const uint32_t i = p - WP_CROSS_FIRST;

    return (struct wt_shape){.role = pieces[i].role, .fill = pieces[i].fill, .rows = has[pieces[i].need] ? dim[pieces[i].rows] : 0,
                             .cols = dim[pieces[i].cols]};
}

bool cross_is_block(const struct kvp_model *m, const struct kvp_layer_class *c, enum wt_piece p)
{
    return p >= WP_CROSS_LAYER && c && c->cross_heads && !m->encoders;
}

uint32_t wt_encoder_layers(const struct kvp_model *m)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < m->encoders; i++)
        n += m->encoder[i].count;
    return n;
}

const struct kvp_layer_class *wt_encoder_class(const struct kvp_model *m, uint32_t layer)
{
    uint32_t i = 0;

    while (i + 1 < m->encoders && layer >= m->encoder[i].count)
        layer -= m->encoder[i++].count;
    return &m->encoder[i];
}

/* ---- names --------------------------------------------------------------------------------------------- */

/* transformers, models/bart/modeling_bart.py */
#define BART_LAYER(half)                                                       \
    {WP_Q, 1, WO_PLAIN, half ".layers.%u.self_attn.q_proj.weight"},            \
    {WP_K, 1, WO_PLAIN, half ".layers.%u.self_attn.k_proj.weight"},            \
    {WP_V, 1, WO_PLAIN, half ".layers.%u.self_attn.v_proj.weight"},            \
    {WP_Q_BIAS, 1, WO_PLAIN, half ".layers.%u.self_attn.q_proj.bias"},         \
    {WP_K_BIAS, 1, WO_PLAIN, half ".layers.%u.self_attn.k_proj.bias"},         \
    {WP_V_BIAS, 1, WO_PLAIN, half ".layers.%u.self_attn.v_proj.bias"},         \
    {WP_O, 1, WO_PLAIN, half ".layers.%u.self_attn.out_proj.weight"},          \
    {WP_O_BIAS, 1, WO_PLAIN, half ".layers.%u.self_attn.out_proj.bias"},       \
    {WP_ATTN_NORM, 1, WO_PLAIN, half ".layers.%u.self_attn_layer_norm.weight"}, \
    {WP_ATTN_NORM_BIAS, 1, WO_PLAIN, half ".layers.%u.self_attn_layer_norm.bias"}, \
    {WP_UP, 1, WO_PLAIN, half ".layers.%u.fc1.weight"},                        \
    {WP_UP_BIAS, 1, WO_PLAIN, half ".layers.%u.fc1.bias"},                     \
    {WP_DOWN, 1, WO_PLAIN, half ".layers.%u.fc2.weight"},                      \
    {WP_DOWN_BIAS, 1, WO_PLAIN, half ".layers.%u.fc2.bias"},                   \
    {WP_MLP_NORM, 1, WO_PLAIN, half ".layers.%u.final_layer_norm.weight"},     \
    {WP_MLP_NORM_BIAS, 1, WO_PLAIN, half ".layers.%u.final_layer_norm.bias"}

static const struct wt_name bart_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "shared.weight"},
    {WP_POSITION, 1, WO_PLAIN, "decoder.embed_positions.weight"},
    {WP_EMBED_NORM, 1, WO_PLAIN, "decoder.layernorm_embedding.weight"},
    {WP_EMBED_NORM_BIAS, 1, WO_PLAIN, "decoder.layernorm_embedding.bias"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_ENC_POSITION, 1, WO_PLAIN, "encoder.embed_positions.weight"},
    {WP_ENC_EMBED_NORM, 1, WO_PLAIN, "encoder.layernorm_embedding.weight"},
    {WP_ENC_EMBED_NORM_BIAS, 1, WO_PLAIN, "encoder.layernorm_embedding.bias"},
    BART_LAYER("decoder"),
    {WP_CROSS_Q, 1, WO_PLAIN, "decoder.layers.%u.encoder_attn.q_proj.weight"},
    {WP_CROSS_K, 1, WO_PLAIN, "decoder.layers.%u.encoder_attn.k_proj.weight"},
    {WP_CROSS_V, 1, WO_PLAIN, "decoder.layers.%u.encoder_attn.v_proj.weight"},
    {WP_CROSS_Q_BIAS, 1, WO_PLAIN, "decoder.layers.%u.encoder_attn.q_proj.bias"},
    {WP_CROSS_K_BIAS, 1, WO_PLAIN, "decoder.layers.%u.encoder_attn.k_proj.bias"},
    {WP_CROSS_V_BIAS, 1, WO_PLAIN, "decoder.layers.%u.encoder_attn.v_proj.bias"},
    {WP_CROSS_O, 1, WO_PLAIN, "decoder.layers.%u.encoder_attn.out_proj.weight"},
    {WP_CROSS_O_BIAS, 1, WO_PLAIN, "decoder.layers.%u.encoder_attn.out_proj.bias"},
    {WP_CROSS_NORM, 1, WO_PLAIN, "decoder.layers.%u.encoder_attn_layer_norm.weight"},
    {WP_CROSS_NORM_BIAS, 1, WO_PLAIN, "decoder.layers.%u.encoder_attn_layer_norm.bias"},
};
static const struct wt_name bart_encoder[] = {BART_LAYER("encoder")};

#define NAMES(a) a, sizeof(a) / sizeof((a)[0])
static const struct {
    struct wt_family family;
    const struct wt_name *encoder;
    uint32_t n_encoder;
} families[] = {
    {{"bart", "model.", NAMES(bart_names), NULL, 0}, NAMES(bart_encoder)},
};
#undef NAMES
enum { FAMILIES = sizeof(families) / sizeof(families[0]) };

const struct wt_family *cross_family_of(const char *model_type)
{
    for (int i = 0; i < FAMILIES; i++)
        if (wt_is_word_of(families[i].family.model_types, model_type))
            return &families[i].family;
    return NULL;
}

const struct wt_name *cross_encoder_names(const char *model_type, uint32_t *n)
{
    for (int i = 0; i < FAMILIES; i++)
        if (wt_is_word_of(families[i].family.model_types, model_type)) {
            *n = families[i].n_encoder;
            return families[i].encoder;
        }
    *n = 0;
    return NULL;
}
