/* gemma3n.c - Gemma 3n's text part: several streams of which one goes through a layer (AltUp), a low-rank path beside
 * attention (LAuReL), an embedding for every layer, and last layers that read what an earlier one of their kind stored.
 * Source: configuration_gemma3n.py and modeling_gemma3n.py in huggingface/transformers 5. The vision and audio towers
 * are not counted. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

#include <string.h>

enum { MOST_STREAMS = 64 };

/* intermediate_size: a number, or one a layer. */
static kvp_err read_widths(struct kvp_reader *r)
{
    const json_t *v = kvp_json_get(&r->j, "intermediate_size");
    uint32_t width = 16384;

    if (!json_is_array(v))
        KVP_TRY(kvp_read_count(r, "intermediate_size", &width));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const json_t *x = json_is_array(v) ? json_array_get(v, i) : NULL;

        if (json_is_array(v) && (!json_is_integer(x) || json_integer_value(x) < 1 || json_integer_value(x) > 1 << 24))
            return kvp_key_fail(r, KVP_EINPUT, "intermediate_size", "expected a number above 0, or one a layer");
        r->layer[i].ffn = KVP_FFN_GATED;
        r->layer[i].ffn_width = x ? (uint32_t)json_integer_value(x) : width;
    }
    return json_is_array(v) && json_array_size(v) != r->m->layers
               ? kvp_key_fail(r, KVP_EINPUT, "intermediate_size", "expected as many numbers as layers")
               : KVP_OK;
}

static kvp_err share_kv(struct kvp_reader *r)
{
    uint32_t shared = 15;

    KVP_TRY(kvp_read_count(r, "num_kv_shared_layers", &shared));
    if (shared >= r->m->layers)
        return kvp_key_fail(r, KVP_EINPUT, "num_kv_shared_layers", "no layer would be left to share from");
    for (uint32_t i = r->m->layers - shared; i < r->m->layers; i++)
        r->layer[i].no_kv = true;
    return KVP_OK;
}

static kvp_err add_layer(const struct kvp_reader *r, struct kvp_extra *x, uint32_t streams, uint32_t laurel, uint32_t dim)
{
    const uint32_t D = r->m->width;

    KVP_TRY(kvp_add_extra(r, x, "altup_coefficients", streams + streams * streams, streams, 1, true)); /* correction, prediction */
    KVP_TRY(kvp_add_extra(r, x, "altup_router", streams, D, 1, true));
    KVP_TRY(kvp_add_extra(r, x, "laurel_left", laurel, D, 1, true));
    KVP_TRY(kvp_add_extra(r, x, "laurel_right", D, laurel, 1, true));
    KVP_TRY(kvp_add_extra(r, x, "scale_and_norms", D, 1, 4, false)); /* of the output, the router, LAuReL, the layer's own input */
    KVP_TRY(kvp_add_extra(r, x, "per_layer_input_gate", dim, D, 1, true));
    return kvp_add_extra(r, x, "per_layer_projection", D, dim, 1, true);
}

static kvp_err add_model(struct kvp_reader *r, uint32_t streams, uint32_t dim)
{
    struct kvp_model *m = r->m;
    uint32_t vocab = 262144;

    KVP_TRY(kvp_read_count(r, "vocab_size_per_layer_input", &vocab));
    if (dim > UINT32_MAX / m->layers)
        return kvp_key_fail(r, KVP_EINPUT, "hidden_size_per_layer_input", "too wide for so many layers");
    KVP_TRY(kvp_add_extra(r, m->extra, "per_layer_embedding", vocab, m->layers * dim, 1, false));
    KVP_TRY(kvp_add_extra(r, m->extra, "per_layer_model_projection", m->layers * dim, m->width, 1, true));
    KVP_TRY(kvp_add_extra(r, m->extra, "per_layer_projection_norm", dim, 1, 1, false));
    return kvp_add_extra(r, m->extra, "altup_projections", m->width, m->width, 2 * (streams - 1), true);
}

static kvp_err layers(struct kvp_reader *r)
{
    uint32_t streams = 4, laurel = 64, dim = 256;

    for (uint32_t i = 4; i < r->m->layers && !kvp_json_get(&r->j, "layer_types"); i += 5)
        r->layer[i].window = 0;
    KVP_TRY(read_widths(r));
    KVP_TRY(share_kv(r));
    KVP_TRY(kvp_read_count(r, "altup_num_inputs", &streams));
    KVP_TRY(kvp_read_count(r, "laurel_rank", &laurel));
    KVP_TRY(kvp_read_count(r, "hidden_size_per_layer_input", &dim));
    if (!streams || streams > MOST_STREAMS || !laurel || !dim)
        return kvp_key_fail(r, KVP_EINPUT, "altup_num_inputs, laurel_rank, hidden_size_per_layer_input", "expected each above 0, and at most 64 streams");
    for (uint32_t i = 0; i < r->m->layers; i++)
        KVP_TRY(add_layer(r, r->layer[i].extra, streams, laurel, dim));
    snprintf(r->m->not_run, sizeof(r->m->not_run), "several streams, a low-rank path, embeddings of every layer");
    return add_model(r, streams, dim);
}

static const struct kvp_rule rules[] = {
    {"layer_types", KVP_KEY_ANY, "read: which layers slide"},
    {"sliding_window", KVP_KEY_ANY, "read: the window"},
    {"num_kv_shared_layers", KVP_KEY_ANY, "read: layers without a cache of their own"},
    {"hidden_size_per_layer_input", KVP_KEY_ANY, "read: embeddings of every layer"},
    {"vocab_size_per_layer_input", KVP_KEY_ANY, "read: embeddings of every layer"},
    {"intermediate_size", KVP_KEY_ANY, "read: feed-forward widths"},
    {"laurel_rank", KVP_KEY_ANY, "read: the low-rank path"},
    {"activation_sparsity_pattern", KVP_KEY_ANY, "which activations become 0; the matrices are whole"},
    {0},
};
static const struct kvp_rule wrapper_rules[] = {
    {"audio_soft_tokens_per_image", KVP_KEY_ANY, "how many tokens a sound is; tokens are tokens"},
    {0},
};

const struct kvp_dialect family_gemma3n[] = {
    {
        .model_type = {"gemma3n_text"},
        .rules = {rules},
        .architectures = {"Gemma3nForCausalLM"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"}, [KVP_SIZE_LAYERS] = {"num_hidden_layers"},
                [KVP_SIZE_HEADS] = {"num_attention_heads"}, [KVP_SIZE_KV_HEADS] = {"num_key_value_heads"}, [KVP_SIZE_HEAD_DIM] = {"head_dim"},
                [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .act_key = "hidden_activation", .act = "gelu_pytorch_tanh", .eps_key = "rms_norm_eps", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .absent = {[KVP_SIZE_VOCAB] = 262400, [KVP_SIZE_WIDTH] = 2048, [KVP_SIZE_LAYERS] = 35, [KVP_SIZE_HEADS] = 8,
                   [KVP_SIZE_KV_HEADS] = 2, [KVP_SIZE_HEAD_DIM] = 256, [KVP_SIZE_POSITIONS] = 32768},
        .bias = KVP_BIAS_ATTN, .norms = 4, .qk_norm = true, .tied = true, .own_ffn = true,
        .window = KVP_WINDOW_EVERY, .window_absent = 512,
        .layers = layers,
    },
    {
        .model_type = {"gemma3n"},
        .rules = {wrapper_rules},
        .architectures = {"Gemma3nForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "gemma3n_text",
    },
    {.model_type = {0}},
};
