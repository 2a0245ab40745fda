#include "validate/engine/shapes.h"

/* ---- shapes ------------------------------------------------------------------------------------- */

enum dim { DIM_VEC, DIM_WIDTH, DIM_VOCAB, DIM_POSITIONS, DIM_Q, DIM_KV, DIM_K, DIM_V, DIM_LOW_K, DIM_LOW_V, DIM_HEAD, DIM_FFN, DIMS };
enum need { ALWAYS, LEARNED, UNTIED, LAYER_NORM, QKV_BIAS, QK_NORM, KV, KV_BIAS, K_NORM, O_BIAS, GATED, GATED_BIAS, FFN_BIAS, EMBED_NORM, EMBED_NORM_BIAS, LOW, LOW_BIAS, NEEDS };

static const struct {
    enum wt_role role;
    enum wt_fill fill;
    enum dim rows, cols;
    enum need need;
} pieces[WP_PIECES] = {
    [WP_EMBED] = {WT_EMBED, WF_MATRIX, DIM_VOCAB, DIM_WIDTH, ALWAYS},
    [WP_POSITION] = {WT_POSITION, WF_MATRIX, DIM_POSITIONS, DIM_WIDTH, LEARNED},
    [WP_FINAL_NORM] = {WT_FINAL_NORM, WF_NORM, DIM_WIDTH, DIM_VEC, ALWAYS},
    [WP_FINAL_NORM_BIAS] = {WT_FINAL_NORM_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, LAYER_NORM},
    [WP_HEAD] = {WT_HEAD, WF_MATRIX, DIM_VOCAB, DIM_WIDTH, UNTIED},
    [WP_EMBED_NORM] = {WT_EMBED_NORM, WF_NORM, DIM_WIDTH, DIM_VEC, EMBED_NORM},
    [WP_EMBED_NORM_BIAS] = {WT_EMBED_NORM_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, EMBED_NORM_BIAS},
    [WP_ATTN_NORM] = {WT_ATTN_NORM, WF_NORM, DIM_WIDTH, DIM_VEC, ALWAYS},
    [WP_ATTN_NORM_BIAS] = {WT_ATTN_NORM_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, LAYER_NORM},
    [WP_Q] = {WT_QKV, WF_MATRIX, DIM_Q, DIM_WIDTH, ALWAYS},
    [WP_K] = {WT_QKV, WF_MATRIX, DIM_K, DIM_WIDTH, KV},
    [WP_V] = {WT_QKV, WF_MATRIX, DIM_V, DIM_WIDTH, KV},
    [WP_Q_BIAS] = {WT_QKV_BIAS, WF_BIAS, DIM_Q, DIM_VEC, QKV_BIAS},
    [WP_K_BIAS] = {WT_QKV_BIAS, WF_BIAS, DIM_KV, DIM_VEC, KV_BIAS},
    [WP_V_BIAS] = {WT_QKV_BIAS, WF_BIAS, DIM_KV, DIM_VEC, KV_BIAS},
    [WP_Q_NORM] = {WT_Q_NORM, WF_NORM, DIM_HEAD, DIM_VEC, QK_NORM},
    [WP_K_NORM] = {WT_K_NORM, WF_NORM, DIM_HEAD, DIM_VEC, K_NORM},
    [WP_O] = {WT_O, WF_MATRIX, DIM_WIDTH, DIM_Q, ALWAYS},
    [WP_O_BIAS] = {WT_O_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, O_BIAS},
    [WP_MLP_NORM] = {WT_MLP_NORM, WF_NORM, DIM_WIDTH, DIM_VEC, ALWAYS},
    [WP_MLP_NORM_BIAS] = {WT_MLP_NORM_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, LAYER_NORM},
    [WP_GATE] = {WT_UP, WF_MATRIX, DIM_FFN, DIM_WIDTH, GATED},
    [WP_UP] = {WT_UP, WF_MATRIX, DIM_FFN, DIM_WIDTH, ALWAYS},
    [WP_GATE_BIAS] = {WT_UP_BIAS, WF_BIAS, DIM_FFN, DIM_VEC, GATED_BIAS},
    [WP_UP_BIAS] = {WT_UP_BIAS, WF_BIAS, DIM_FFN, DIM_VEC, FFN_BIAS},
    [WP_DOWN] = {WT_DOWN, WF_MATRIX, DIM_WIDTH, DIM_FFN, ALWAYS},
    [WP_DOWN_BIAS] = {WT_DOWN_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, FFN_BIAS},
    [WP_K_UP] = {WT_K_UP, WF_MATRIX, DIM_KV, DIM_LOW_K, LOW},
    [WP_V_UP] = {WT_V_UP, WF_MATRIX, DIM_KV, DIM_LOW_V, LOW},
    [WP_K_UP_BIAS] = {WT_K_UP_BIAS, WF_BIAS, DIM_KV, DIM_VEC, LOW_BIAS},
    [WP_V_UP_BIAS] = {WT_V_UP_BIAS, WF_BIAS, DIM_KV, DIM_VEC, LOW_BIAS},
};

/* A layer that mixes by a recurrence, or that has no feed-forward of this kind. */
static bool lacks(const struct kvp_layer_class *c, enum wt_piece p)
{
    if (p >= WP_Q && p <= WP_O_BIAS)
        return c->mixer == KVP_MIX_NONE;
    if (p == WP_ATTN_NORM || p == WP_ATTN_NORM_BIAS)
        return c->mixer == KVP_MIX_NONE && !c->recurrent;
    if (p == WP_MLP_NORM || p == WP_MLP_NORM_BIAS)
        return c->ffn == KVP_FFN_NONE;
    return p >= WP_GATE && p <= WP_DOWN_BIAS && (c->ffn == KVP_FFN_NONE || c->ffn == KVP_FFN_RWKV);
}

struct wt_shape wt_shape_of(const struct kvp_model *m, const struct kvp_layer_class *c, enum wt_piece p)
{
    static const struct kvp_layer_class none;
    const struct kvp_layer_class *l = c ? c : &none;
    const uint64_t kv = (uint64_t)l->kv_heads * l->head_dim;
    const uint64_t dim[DIMS] = {
        [DIM_WIDTH] = m->width, [DIM_VOCAB] = m->vocab, [DIM_POSITIONS] = m->max_positions,
        [DIM_Q] = (uint64_t)l->heads * l->head_dim, [DIM_KV] = kv,
        [DIM_K] = l->low_k ? l->low_k : kv, [DIM_V] = l->low_v ? l->low_v : kv, [DIM_LOW_K] = l->low_k, [DIM_LOW_V] = l->low_v,
        [DIM_HEAD] = l->head_dim, [DIM_FFN] = l->ffn_width,
    };
    const bool has[NEEDS] = {
        [ALWAYS] = true, [LEARNED] = m->position == KVP_POS_LEARNED, [UNTIED] = !m->tied,
        [LAYER_NORM] = m->norm == KVP_NORM_LAYER, [QKV_BIAS] = l->qkv_bias, [QK_NORM] = l->qk_norm,
        [KV] = !l->no_kv, [KV_BIAS] = !l->no_kv && l->qkv_bias && !l->low_k, [K_NORM] = !l->no_kv && l->qk_norm,
        [O_BIAS] = l->o_bias, [GATED] = l->ffn == KVP_FFN_GATED,
        [GATED_BIAS] = l->ffn == KVP_FFN_GATED && l->ffn_bias, [FFN_BIAS] = l->ffn_bias,
        [EMBED_NORM] = rec_has_pre_norm(m), [EMBED_NORM_BIAS] = rec_has_pre_norm(m) && m->norm == KVP_NORM_LAYER,
        [LOW] = l->low_k, [LOW_BIAS] = l->low_k && l->qkv_bias,
    };

    if (p >= WP_REC_IN)
        return rec_shape_of(m, l, p);
    return (struct wt_shape){.role = pieces[p].role, .fill = pieces[p].fill,
                             .rows = has[pieces[p].need] && !lacks(l, p) ? dim[pieces[p].rows] : 0, .cols = dim[pieces[p].cols]};
}

/* ---- names -------------------------------------------------------------------------------------- */

/* transformers, models/gpt2/modeling_gpt2.py: GPT2Model; Conv1D keeps [in, out]. */
static const struct wt_name gpt2_names[] = {
    {WP_EMBED, 1, false, "wte.weight"},
    {WP_POSITION, 1, false, "wpe.weight"},
    {WP_FINAL_NORM, 1, false, "ln_f.weight"},
    {WP_FINAL_NORM_BIAS, 1, false, "ln_f.bias"},
    {WP_HEAD, 1, false, "lm_head.weight"},
    {WP_ATTN_NORM, 1, false, "h.%u.ln_1.weight"},
    {WP_ATTN_NORM_BIAS, 1, false, "h.%u.ln_1.bias"},
    {WP_Q, 3, true, "h.%u.attn.c_attn.weight"},
    {WP_Q_BIAS, 3, false, "h.%u.attn.c_attn.bias"},
    {WP_O, 1, true, "h.%u.attn.c_proj.weight"},
    {WP_O_BIAS, 1, false, "h.%u.attn.c_proj.bias"},
    {WP_MLP_NORM, 1, false, "h.%u.ln_2.weight"},
    {WP_MLP_NORM_BIAS, 1, false, "h.%u.ln_2.bias"},
    {WP_UP, 1, true, "h.%u.mlp.c_fc.weight"},
    {WP_UP_BIAS, 1, false, "h.%u.mlp.c_fc.bias"},
    {WP_DOWN, 1, true, "h.%u.mlp.c_proj.weight"},
    {WP_DOWN_BIAS, 1, false, "h.%u.mlp.c_proj.bias"},
};

/* transformers, models/llama/modeling_llama.py: LlamaModel; Mistral, Qwen2 and Qwen3 use the same names,
 * Qwen3 with q_norm and k_norm. */
static const struct wt_name llama_names[] = {
    {WP_EMBED, 1, false, "embed_tokens.weight"},
    {WP_FINAL_NORM, 1, false, "norm.weight"},
    {WP_HEAD, 1, false, "lm_head.weight"},
    {WP_ATTN_NORM, 1, false, "layers.%u.input_layernorm.weight"},
    {WP_Q, 1, false, "layers.%u.self_attn.q_proj.weight"},
    {WP_K, 1, false, "layers.%u.self_attn.k_proj.weight"},
    {WP_V, 1, false, "layers.%u.self_attn.v_proj.weight"},
    {WP_Q_BIAS, 1, false, "layers.%u.self_attn.q_proj.bias"},
    {WP_K_BIAS, 1, false, "layers.%u.self_attn.k_proj.bias"},
    {WP_V_BIAS, 1, false, "layers.%u.self_attn.v_proj.bias"},
    {WP_Q_NORM, 1, false, "layers.%u.self_attn.q_norm.weight"},
    {WP_K_NORM, 1, false, "layers.%u.self_attn.k_norm.weight"},
    {WP_O, 1, false, "layers.%u.self_attn.o_proj.weight"},
    {WP_O_BIAS, 1, false, "layers.%u.self_attn.o_proj.bias"},
    {WP_MLP_NORM, 1, false, "layers.%u.post_attention_layernorm.weight"},
    {WP_GATE, 1, false, "layers.%u.mlp.gate_proj.weight"},
    {WP_UP, 1, false, "layers.%u.mlp.up_proj.weight"},
    {WP_GATE_BIAS, 1, false, "layers.%u.mlp.gate_proj.bias"},
    {WP_UP_BIAS, 1, false, "layers.%u.mlp.up_proj.bias"},
    {WP_DOWN, 1, false, "layers.%u.mlp.down_proj.weight"},
    {WP_DOWN_BIAS, 1, false, "layers.%u.mlp.down_proj.bias"},
};

#define NAMES(a) a, sizeof(a) / sizeof((a)[0])
static const struct wt_family families[] = {
    {"gpt2", "transformer.", NAMES(gpt2_names)},
    {"llama mistral qwen2 qwen3", "model.", NAMES(llama_names)},
};
#undef NAMES

bool wt_is_word_of(const char *list, const char *word)
{
    const size_t len = strlen(word);

    for (const char *p = list; *p; p += strcspn(p, " "), p += *p == ' ')
        if (strcspn(p, " ") == len && strncmp(p, word, len) == 0)
            return true;
    return false;
}

const struct wt_family *wt_family_of(const char *model_type)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        if (wt_is_word_of(families[i].model_types, model_type))
            return &families[i];
    return rec_family_of(model_type);
}

bool wt_is_buffer(const char *name)
{
    static const char *const ends[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};
    const size_t len = strlen(name);

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        if (len >= strlen(ends[i]) && strcmp(name + len - strlen(ends[i]), ends[i]) == 0)
            return true;
    return false;
}
