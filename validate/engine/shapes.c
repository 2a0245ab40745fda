#include "validate/engine/shapes.h"

/* ---- shapes ------------------------------------------------------------------------------------- */

enum dim { DIM_VEC, DIM_WIDTH, DIM_VOCAB, DIM_POSITIONS, DIM_Q, DIM_KV, DIM_HEAD, DIM_FFN, DIM_OUT, DIM_HEADS, DIM_Q_RANK, DIM_Q_IN,
           DIM_KV_RANK, DIM_LATENT, DIM_EXPANDED, DIM_EXPERTS, DIM_EXPERT_UP, DIM_EXPERT_DOWN, DIM_EXPERT, DIM_SHARED, DIM_ONE, DIM_K, DIM_V,
           DIM_LOW_K, DIM_LOW_V, DIMS };
enum need { ALWAYS, FINAL_NORM, FINAL_NORM_BIAS, LEARNED, UNTIED, HEAD_BIAS, EMBED_NORM, EMBED_NORM_BIAS, LAYER_NORM, QKV_BIAS, QK_NORM, KV,
            KV_BIAS, K_NORM, O_BIAS, GATED, GATED_BIAS, FFN_BIAS, Q_GATE, SHARED_SCALE, NORMS, BEFORE, BEFORE_LAYER, ATTENTION, DENSE, DENSE_BIAS, TWO_NORMS, TWO_NORMS_LAYER, AFTER, SINKS, MLA, MLA_BIAS, Q_RANK, Q_RANK_BIAS, EXPERTS, ROUTER_BIAS,
            EXPERT_BIAS, SHARED, SHARED_GATED, LOW, LOW_BIAS, NEEDS };

static const struct {
    enum wt_role role;
    enum wt_fill fill;
    enum dim rows, cols;
    enum need need;
} pieces[WP_PIECES] = {
    [WP_EMBED] = {WT_EMBED, WF_MATRIX, DIM_VOCAB, DIM_WIDTH, ALWAYS},
    [WP_POSITION] = {WT_POSITION, WF_MATRIX, DIM_POSITIONS, DIM_WIDTH, LEARNED},
    [WP_FINAL_NORM] = {WT_FINAL_NORM, WF_NORM, DIM_WIDTH, DIM_VEC, FINAL_NORM},
    [WP_FINAL_NORM_BIAS] = {WT_FINAL_NORM_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, FINAL_NORM_BIAS},
    [WP_HEAD] = {WT_HEAD, WF_MATRIX, DIM_VOCAB, DIM_WIDTH, UNTIED},
    [WP_HEAD_BIAS] = {WT_HEAD_BIAS, WF_BIAS, DIM_VOCAB, DIM_VEC, HEAD_BIAS},
    [WP_EMBED_NORM] = {WT_EMBED_NORM, WF_NORM, DIM_WIDTH, DIM_VEC, EMBED_NORM},
    [WP_EMBED_NORM_BIAS] = {WT_EMBED_NORM_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, EMBED_NORM_BIAS},
    [WP_ATTN_NORM] = {WT_ATTN_NORM, WF_NORM, DIM_WIDTH, DIM_VEC, BEFORE},
    [WP_ATTN_NORM_BIAS] = {WT_ATTN_NORM_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, BEFORE_LAYER},
    [WP_Q] = {WT_QKV, WF_MATRIX, DIM_Q, DIM_WIDTH, ATTENTION},
    [WP_Q_GATE] = {WT_Q_GATE, WF_MATRIX, DIM_Q, DIM_WIDTH, Q_GATE},
    [WP_K] = {WT_QKV, WF_MATRIX, DIM_K, DIM_WIDTH, KV},
    [WP_V] = {WT_QKV, WF_MATRIX, DIM_V, DIM_WIDTH, KV},
    [WP_Q_BIAS] = {WT_QKV_BIAS, WF_BIAS, DIM_Q, DIM_VEC, QKV_BIAS},
    [WP_K_BIAS] = {WT_QKV_BIAS, WF_BIAS, DIM_KV, DIM_VEC, KV_BIAS},
    [WP_V_BIAS] = {WT_QKV_BIAS, WF_BIAS, DIM_KV, DIM_VEC, KV_BIAS},
    [WP_Q_NORM] = {WT_Q_NORM, WF_NORM, DIM_HEAD, DIM_VEC, QK_NORM},
    [WP_K_NORM] = {WT_K_NORM, WF_NORM, DIM_HEAD, DIM_VEC, K_NORM},
    [WP_O] = {WT_O, WF_MATRIX, DIM_WIDTH, DIM_OUT, ALWAYS},
    [WP_O_BIAS] = {WT_O_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, O_BIAS},
    [WP_MLP_NORM] = {WT_MLP_NORM, WF_NORM, DIM_WIDTH, DIM_VEC, TWO_NORMS},
    [WP_MLP_NORM_BIAS] = {WT_MLP_NORM_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, TWO_NORMS_LAYER},
    [WP_GATE] = {WT_UP, WF_MATRIX, DIM_FFN, DIM_WIDTH, GATED},
    [WP_UP] = {WT_UP, WF_MATRIX, DIM_FFN, DIM_WIDTH, DENSE},
    [WP_GATE_BIAS] = {WT_UP_BIAS, WF_BIAS, DIM_FFN, DIM_VEC, GATED_BIAS},
    [WP_UP_BIAS] = {WT_UP_BIAS, WF_BIAS, DIM_FFN, DIM_VEC, FFN_BIAS},
    [WP_DOWN] = {WT_DOWN, WF_MATRIX, DIM_WIDTH, DIM_FFN, DENSE},
    [WP_DOWN_BIAS] = {WT_DOWN_BIAS, WF_BIAS, DIM_WIDTH, DIM_VEC, DENSE_BIAS},
    [WP_POST_ATTN_NORM] = {WT_POST_ATTN_NORM, WF_NORM, DIM_WIDTH, DIM_VEC, AFTER},
    [WP_POST_MLP_NORM] = {WT_POST_MLP_NORM, WF_NORM, DIM_WIDTH, DIM_VEC, AFTER},
    [WP_SINKS] = {WT_SINKS, WF_BIAS, DIM_HEADS, DIM_VEC, SINKS},
    [WP_Q_A] = {WT_Q_A, WF_MATRIX, DIM_Q_RANK, DIM_WIDTH, Q_RANK},
    [WP_Q_A_BIAS] = {WT_Q_A_BIAS, WF_BIAS, DIM_Q_RANK, DIM_VEC, Q_RANK_BIAS},
    [WP_Q_A_NORM] = {WT_Q_A_NORM, WF_NORM, DIM_Q_RANK, DIM_VEC, Q_RANK},
    [WP_Q_B] = {WT_Q_B, WF_MATRIX, DIM_Q, DIM_Q_IN, MLA},
    [WP_KV_A] = {WT_KV_A, WF_MATRIX, DIM_LATENT, DIM_WIDTH, MLA},
    [WP_KV_A_BIAS] = {WT_KV_A_BIAS, WF_BIAS, DIM_LATENT, DIM_VEC, MLA_BIAS},
    [WP_KV_A_NORM] = {WT_KV_A_NORM, WF_NORM, DIM_KV_RANK, DIM_VEC, MLA},
    [WP_KV_B] = {WT_KV_B, WF_MATRIX, DIM_EXPANDED, DIM_KV_RANK, MLA},
    [WP_ROUTER] = {WT_ROUTER, WF_MATRIX, DIM_EXPERTS, DIM_WIDTH, EXPERTS},
    [WP_ROUTER_BIAS] = {WT_ROUTER_BIAS, WF_BIAS, DIM_EXPERTS, DIM_VEC, ROUTER_BIAS},
    [WP_EXPERT_UP] = {WT_EXPERT_UP, WF_MATRIX, DIM_EXPERT_UP, DIM_WIDTH, EXPERTS},
    [WP_EXPERT_UP_BIAS] = {WT_EXPERT_UP_BIAS, WF_BIAS, DIM_EXPERT_UP, DIM_VEC, EXPERT_BIAS},
    [WP_EXPERT_DOWN] = {WT_EXPERT_DOWN, WF_MATRIX, DIM_EXPERT_DOWN, DIM_EXPERT, EXPERTS},
    [WP_EXPERT_DOWN_BIAS] = {WT_EXPERT_DOWN_BIAS, WF_BIAS, DIM_EXPERT_DOWN, DIM_VEC, EXPERT_BIAS},
    [WP_SHARED_SCALE] = {WT_SHARED_SCALE, WF_MATRIX, DIM_ONE, DIM_WIDTH, SHARED_SCALE},
    [WP_SHARED_GATE] = {WT_SHARED_UP, WF_MATRIX, DIM_SHARED, DIM_WIDTH, SHARED_GATED},
    [WP_SHARED_UP] = {WT_SHARED_UP, WF_MATRIX, DIM_SHARED, DIM_WIDTH, SHARED},
    [WP_SHARED_DOWN] = {WT_SHARED_DOWN, WF_MATRIX, DIM_WIDTH, DIM_SHARED, SHARED},
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
    const uint64_t rows = (uint64_t)l->kv_heads * l->head_dim;
    const uint64_t dim[DIMS] = {
        [DIM_WIDTH] = m->width, [DIM_VOCAB] = m->vocab, [DIM_POSITIONS] = m->position_rows ? m->position_rows : m->max_positions,
        [DIM_Q] = (uint64_t)l->heads * l->head_dim, [DIM_KV] = rows,
        [DIM_K] = l->low_k ? l->low_k : rows, [DIM_V] = l->low_v ? l->low_v : rows, [DIM_LOW_K] = l->low_k, [DIM_LOW_V] = l->low_v,
        [DIM_HEAD] = l->head_dim, [DIM_FFN] = l->ffn_width,
        [DIM_OUT] = (uint64_t)l->heads * l->v_head_dim, [DIM_HEADS] = l->heads, [DIM_Q_RANK] = l->q_rank,
        [DIM_Q_IN] = l->q_rank ? l->q_rank : m->width, [DIM_KV_RANK] = l->kv_rank,
        [DIM_LATENT] = (uint64_t)l->kv_rank + l->rope_dim,
        [DIM_EXPANDED] = (uint64_t)l->heads * ((uint64_t)l->nope_dim + l->v_head_dim), [DIM_EXPERTS] = l->experts,
        [DIM_EXPERT_UP] = (l->ffn == KVP_FFN_GATED ? 2ull : 1ull) * l->experts * l->expert_width, [DIM_EXPERT_DOWN] = (uint64_t)l->experts * m->width,
        [DIM_EXPERT] = l->expert_width, [DIM_SHARED] = l->shared_width, [DIM_ONE] = 1,
    };
    const bool biased = m->norm == KVP_NORM_LAYER && m->norm_vectors == 2;
    const bool embed_norm = rec_has_pre_norm(m) || (m->extra[0].name && strcmp(m->extra[0].name, "embedding_norm") == 0);
    const bool attention = l->mixer == KVP_MIX_ATTENTION, mla = l->mixer == KVP_MIX_MLA, kv = attention && !l->no_kv;
    const bool norms = m->norm_vectors != 0, before = norms && !m->numbers.norms_only_after;
    const bool two = before && (l->norms != 1 || (l->mixer == KVP_MIX_NONE && !l->recurrent)); /* a feed-forward of its own, or by itself */
    const bool has[NEEDS] = {
        [ALWAYS] = true, [FINAL_NORM] = norms && !m->no_final_norm, [FINAL_NORM_BIAS] = !m->no_final_norm && biased, [LEARNED] = m->position == KVP_POS_LEARNED, [UNTIED] = !m->tied,
        [HEAD_BIAS] = m->head_bias, [EMBED_NORM] = embed_norm, [EMBED_NORM_BIAS] = embed_norm && biased,
        [LAYER_NORM] = biased, [QKV_BIAS] = attention && l->qkv_bias, [QK_NORM] = attention && l->qk_norm,
        [KV] = kv, [KV_BIAS] = kv && l->qkv_bias && !l->low_k, [K_NORM] = kv && l->qk_norm, [ATTENTION] = attention,
        [TWO_NORMS] = two, [TWO_NORMS_LAYER] = two && biased,
        [NORMS] = norms, [BEFORE] = before, [BEFORE_LAYER] = before && biased,
        [AFTER] = l->norms == 4 || m->numbers.norms_only_after, [SINKS] = l->sinks, [MLA] = mla, [MLA_BIAS] = mla && l->qkv_bias, [Q_RANK] = mla && l->q_rank,
        [Q_RANK_BIAS] = mla && l->q_rank && l->qkv_bias, [DENSE] = l->ffn_width, [DENSE_BIAS] = l->ffn_width && l->ffn_bias,
        [EXPERTS] = l->experts, [ROUTER_BIAS] = l->experts && l->router_bias, [EXPERT_BIAS] = l->experts && l->expert_bias,
        [LOW] = kv && l->low_k, [LOW_BIAS] = kv && l->low_k && l->qkv_bias, [SHARED] = l->experts && l->shared_width, [SHARED_GATED] = l->experts && l->shared_width && l->ffn == KVP_FFN_GATED,
        [Q_GATE] = attention && l->gated_q, [SHARED_SCALE] = l->experts && l->shared_gate,
        [O_BIAS] = l->o_bias, [GATED] = l->ffn == KVP_FFN_GATED,
        [GATED_BIAS] = l->ffn == KVP_FFN_GATED && l->ffn_bias, [FFN_BIAS] = l->ffn_bias,
    };

    if (p >= WP_CROSS_FIRST)
        return cross_shape_of(m, l, p);
    if (p >= WP_REC_IN && p < WP_DRAWN)
        return rec_shape_of(m, l, p);
    if (l->qk_norm_wide && (p == WP_Q_NORM || p == WP_K_NORM)) /* one norm over all heads */
        return (struct wt_shape){.role = pieces[p].role, .fill = pieces[p].fill,
                                 .rows = has[pieces[p].need] && !lacks(l, p) ? dim[p == WP_Q_NORM ? DIM_Q : DIM_KV] : 0};
    return (struct wt_shape){.role = pieces[p].role, .fill = pieces[p].fill,
                             .rows = has[pieces[p].need] && !lacks(l, p) ? dim[pieces[p].rows] : 0, .cols = dim[pieces[p].cols]};
}

/* ---- names -------------------------------------------------------------------------------------- */

/* transformers, models/gpt2/modeling_gpt2.py: GPT2Model; Conv1D keeps [in, out]. */
static const struct wt_name gpt2_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "wte.weight"},
    {WP_POSITION, 1, WO_PLAIN, "wpe.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "ln_f.weight"},
    {WP_FINAL_NORM_BIAS, 1, WO_PLAIN, "ln_f.bias"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "h.%u.ln_1.weight"},
    {WP_ATTN_NORM_BIAS, 1, WO_PLAIN, "h.%u.ln_1.bias"},
    {WP_Q, 4, WO_TRANSPOSED, "h.%u.attn.c_attn.weight"},
    {WP_Q_BIAS, 3, WO_PLAIN, "h.%u.attn.c_attn.bias"},
    {WP_O, 1, WO_TRANSPOSED, "h.%u.attn.c_proj.weight"},
    {WP_O_BIAS, 1, WO_PLAIN, "h.%u.attn.c_proj.bias"},
    {WP_MLP_NORM, 1, WO_PLAIN, "h.%u.ln_2.weight"},
    {WP_MLP_NORM_BIAS, 1, WO_PLAIN, "h.%u.ln_2.bias"},
    {WP_UP, 1, WO_TRANSPOSED, "h.%u.mlp.c_fc.weight"},
    {WP_UP_BIAS, 1, WO_PLAIN, "h.%u.mlp.c_fc.bias"},
    {WP_DOWN, 1, WO_TRANSPOSED, "h.%u.mlp.c_proj.weight"},
    {WP_DOWN_BIAS, 1, WO_PLAIN, "h.%u.mlp.c_proj.bias"},
};

/* transformers, models/llama/modeling_llama.py: LlamaModel; Mistral, Qwen2 and Qwen3 use the same names,
 * Qwen3 with q_norm and k_norm. */
static const struct wt_name llama_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "embed_tokens.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "norm.weight"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "layers.%u.input_layernorm.weight"},
    {WP_Q, 1, WO_PLAIN, "layers.%u.self_attn.q_proj.weight"},
    {WP_K, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.weight"},
    {WP_V, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.weight"},
    {WP_Q_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.q_proj.bias"},
    {WP_K_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.bias"},
    {WP_V_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.bias"},
    {WP_Q_NORM, 1, WO_PLAIN, "layers.%u.self_attn.q_norm.weight"},
    {WP_K_NORM, 1, WO_PLAIN, "layers.%u.self_attn.k_norm.weight"},
    {WP_O, 1, WO_PLAIN, "layers.%u.self_attn.o_proj.weight"},
    {WP_O_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.o_proj.bias"},
    {WP_MLP_NORM, 1, WO_PLAIN, "layers.%u.post_attention_layernorm.weight"},
    {WP_GATE, 1, WO_PLAIN, "layers.%u.mlp.gate_proj.weight"},
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.up_proj.weight"},
    {WP_GATE_BIAS, 1, WO_PLAIN, "layers.%u.mlp.gate_proj.bias"},
    {WP_UP_BIAS, 1, WO_PLAIN, "layers.%u.mlp.up_proj.bias"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},
    {WP_DOWN_BIAS, 1, WO_PLAIN, "layers.%u.mlp.down_proj.bias"},
};

/* transformers, models/gemma2/modeling_gemma2.py: post_attention_layernorm comes after attention here; Gemma 3 with norms on
 * q and k. */
static const struct wt_name gemma2_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "embed_tokens.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "norm.weight"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "layers.%u.input_layernorm.weight"},
    {WP_Q, 1, WO_PLAIN, "layers.%u.self_attn.q_proj.weight"},
    {WP_K, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.weight"},
    {WP_V, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.weight"},
    {WP_Q_NORM, 1, WO_PLAIN, "layers.%u.self_attn.q_norm.weight"},
    {WP_K_NORM, 1, WO_PLAIN, "layers.%u.self_attn.k_norm.weight"},
    {WP_O, 1, WO_PLAIN, "layers.%u.self_attn.o_proj.weight"},
    {WP_POST_ATTN_NORM, 1, WO_PLAIN, "layers.%u.post_attention_layernorm.weight"},
    {WP_MLP_NORM, 1, WO_PLAIN, "layers.%u.pre_feedforward_layernorm.weight"},
    {WP_GATE, 1, WO_PLAIN, "layers.%u.mlp.gate_proj.weight"},
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.up_proj.weight"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},
    {WP_POST_MLP_NORM, 1, WO_PLAIN, "layers.%u.post_feedforward_layernorm.weight"},
};

/* Attention and norms as Llama has them, then what is each family's own. */
#define LLAMA_ATTENTION                                                  \
    {WP_EMBED, 1, WO_PLAIN, "embed_tokens.weight"},                         \
    {WP_FINAL_NORM, 1, WO_PLAIN, "norm.weight"},                            \
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},                               \
    {WP_ATTN_NORM, 1, WO_PLAIN, "layers.%u.input_layernorm.weight"},        \
    {WP_Q, 1, WO_PLAIN, "layers.%u.self_attn.q_proj.weight"},               \
    {WP_K, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.weight"},               \
    {WP_V, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.weight"},               \
    {WP_Q_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.q_proj.bias"},            \
    {WP_K_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.bias"},            \
    {WP_V_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.bias"},            \
    {WP_Q_NORM, 1, WO_PLAIN, "layers.%u.self_attn.q_norm.weight"},          \
    {WP_K_NORM, 1, WO_PLAIN, "layers.%u.self_attn.k_norm.weight"},          \
    {WP_O, 1, WO_PLAIN, "layers.%u.self_attn.o_proj.weight"},               \
    {WP_O_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.o_proj.bias"},            \
    {WP_MLP_NORM, 1, WO_PLAIN, "layers.%u.post_attention_layernorm.weight"}

/* mistralai/Mixtral-8x7B-v0.1's files; transformers, models/mixtral/modeling_mixtral.py. */
static const struct wt_name mixtral_names[] = {
    LLAMA_ATTENTION,
    {WP_ROUTER, 1, WO_PLAIN, "layers.%u.block_sparse_moe.gate.weight"},
};
static const struct wt_expert_name mixtral_experts[] = {
    {WP_EXPERT_UP, 0, 2, false, false, "layers.%u.block_sparse_moe.experts.%u.w1.weight"},
    {WP_EXPERT_UP, 1, 2, false, false, "layers.%u.block_sparse_moe.experts.%u.w3.weight"},
    {WP_EXPERT_DOWN, 0, 1, false, false, "layers.%u.block_sparse_moe.experts.%u.w2.weight"},
};

/* transformers, models/qwen3_moe/modeling_qwen3_moe.py, models/qwen2_moe/modeling_qwen2_moe.py, models/olmoe/modeling_olmoe.py */
static const struct wt_name qwen3_moe_names[] = {
    LLAMA_ATTENTION,
    {WP_SHARED_SCALE, 1, WO_PLAIN, "layers.%u.mlp.shared_expert_gate.weight"},
    {WP_SHARED_GATE, 1, WO_PLAIN, "layers.%u.mlp.shared_expert.gate_proj.weight"},
    {WP_SHARED_UP, 1, WO_PLAIN, "layers.%u.mlp.shared_expert.up_proj.weight"},
    {WP_SHARED_DOWN, 1, WO_PLAIN, "layers.%u.mlp.shared_expert.down_proj.weight"},
    {WP_ROUTER, 1, WO_PLAIN, "layers.%u.mlp.gate.weight"},
    {WP_GATE, 1, WO_PLAIN, "layers.%u.mlp.gate_proj.weight"},
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.up_proj.weight"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},
};
static const struct wt_expert_name mlp_experts[] = {
    {WP_EXPERT_UP, 0, 2, false, false, "layers.%u.mlp.experts.%u.gate_proj.weight"},
    {WP_EXPERT_UP, 1, 2, false, false, "layers.%u.mlp.experts.%u.up_proj.weight"},
    {WP_EXPERT_DOWN, 0, 1, false, false, "layers.%u.mlp.experts.%u.down_proj.weight"},
};

/* transformers, models/glm4_moe/modeling_glm4_moe.py */
static const struct wt_name glm4_moe_names[] = {
    LLAMA_ATTENTION,
    {WP_ROUTER, 1, WO_PLAIN, "layers.%u.mlp.gate.weight"},
    {WP_ROUTER_BIAS, 1, WO_PLAIN, "layers.%u.mlp.gate.e_score_correction_bias"},
    {WP_SHARED_GATE, 1, WO_PLAIN, "layers.%u.mlp.shared_experts.gate_proj.weight"},
    {WP_SHARED_UP, 1, WO_PLAIN, "layers.%u.mlp.shared_experts.up_proj.weight"},
    {WP_SHARED_DOWN, 1, WO_PLAIN, "layers.%u.mlp.shared_experts.down_proj.weight"},
    {WP_GATE, 1, WO_PLAIN, "layers.%u.mlp.gate_proj.weight"},
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.up_proj.weight"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},
};

/* transformers, models/gpt_oss/modeling_gpt_oss.py: gate and up in turn, [E, in, out] */
static const struct wt_name gpt_oss_names[] = {
    LLAMA_ATTENTION,
    {WP_SINKS, 1, WO_PLAIN, "layers.%u.self_attn.sinks"},
    {WP_ROUTER, 1, WO_PLAIN, "layers.%u.mlp.router.weight"},
    {WP_ROUTER_BIAS, 1, WO_PLAIN, "layers.%u.mlp.router.bias"},
};
static const struct wt_expert_name gpt_oss_experts[] = {
    {WP_EXPERT_UP, 0, 1, true, true, "layers.%u.mlp.experts.gate_up_proj"},
    {WP_EXPERT_UP_BIAS, 0, 1, true, false, "layers.%u.mlp.experts.gate_up_proj_bias"},
    {WP_EXPERT_DOWN, 0, 1, true, true, "layers.%u.mlp.experts.down_proj"},
    {WP_EXPERT_DOWN_BIAS, 0, 1, true, false, "layers.%u.mlp.experts.down_proj_bias"},
};

/* transformers, models/deepseek_v3/modeling_deepseek_v3.py; V2's are the same without the correction bias. Without a rank q is
 * projected at once, under another name. */
#define DEEPSEEK_NAMES                                                             \
    {WP_EMBED, 1, WO_PLAIN, "embed_tokens.weight"},                                   \
    {WP_FINAL_NORM, 1, WO_PLAIN, "norm.weight"},                                      \
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},                                         \
    {WP_ATTN_NORM, 1, WO_PLAIN, "layers.%u.input_layernorm.weight"},                  \
    {WP_Q_A, 1, WO_PLAIN, "layers.%u.self_attn.q_a_proj.weight"},                     \
    {WP_Q_A_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.q_a_proj.bias"},                  \
    {WP_Q_A_NORM, 1, WO_PLAIN, "layers.%u.self_attn.q_a_layernorm.weight"},           \
    {WP_KV_A, 1, WO_PLAIN, "layers.%u.self_attn.kv_a_proj_with_mqa.weight"},          \
    {WP_KV_A_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.kv_a_proj_with_mqa.bias"},       \
    {WP_KV_A_NORM, 1, WO_PLAIN, "layers.%u.self_attn.kv_a_layernorm.weight"},         \
    {WP_KV_B, 1, WO_PLAIN, "layers.%u.self_attn.kv_b_proj.weight"},                   \
    {WP_O, 1, WO_PLAIN, "layers.%u.self_attn.o_proj.weight"},                         \
    {WP_O_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.o_proj.bias"},                      \
    {WP_MLP_NORM, 1, WO_PLAIN, "layers.%u.post_attention_layernorm.weight"},          \
    {WP_GATE, 1, WO_PLAIN, "layers.%u.mlp.gate_proj.weight"},                         \
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.up_proj.weight"},                             \
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},                         \
    {WP_ROUTER, 1, WO_PLAIN, "layers.%u.mlp.gate.weight"},                            \
    {WP_ROUTER_BIAS, 1, WO_PLAIN, "layers.%u.mlp.gate.e_score_correction_bias"},      \
    {WP_SHARED_GATE, 1, WO_PLAIN, "layers.%u.mlp.shared_experts.gate_proj.weight"},   \
    {WP_SHARED_UP, 1, WO_PLAIN, "layers.%u.mlp.shared_experts.up_proj.weight"},       \
    {WP_SHARED_DOWN, 1, WO_PLAIN, "layers.%u.mlp.shared_experts.down_proj.weight"}

/* transformers, models/gpt_neox/modeling_gpt_neox.py */
static const struct wt_name neox_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "embed_in.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "final_layer_norm.weight"},
    {WP_FINAL_NORM_BIAS, 1, WO_PLAIN, "final_layer_norm.bias"},
    {WP_HEAD, 1, WO_PLAIN, "embed_out.weight"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "layers.%u.input_layernorm.weight"},
    {WP_ATTN_NORM_BIAS, 1, WO_PLAIN, "layers.%u.input_layernorm.bias"},
    {WP_Q, 4, WO_GROUPED, "layers.%u.attention.query_key_value.weight"},
    {WP_Q_BIAS, 3, WO_GROUPED, "layers.%u.attention.query_key_value.bias"},
    {WP_O, 1, WO_PLAIN, "layers.%u.attention.dense.weight"},
    {WP_O_BIAS, 1, WO_PLAIN, "layers.%u.attention.dense.bias"},
    {WP_MLP_NORM, 1, WO_PLAIN, "layers.%u.post_attention_layernorm.weight"},
    {WP_MLP_NORM_BIAS, 1, WO_PLAIN, "layers.%u.post_attention_layernorm.bias"},
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.dense_h_to_4h.weight"},
    {WP_UP_BIAS, 1, WO_PLAIN, "layers.%u.mlp.dense_h_to_4h.bias"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.dense_4h_to_h.weight"},
    {WP_DOWN_BIAS, 1, WO_PLAIN, "layers.%u.mlp.dense_4h_to_h.bias"},
};

/* transformers, models/gptj/modeling_gptj.py */
static const struct wt_name gptj_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "wte.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "ln_f.weight"},
    {WP_FINAL_NORM_BIAS, 1, WO_PLAIN, "ln_f.bias"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_HEAD_BIAS, 1, WO_PLAIN, "lm_head.bias"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "h.%u.ln_1.weight"},
    {WP_ATTN_NORM_BIAS, 1, WO_PLAIN, "h.%u.ln_1.bias"},
    {WP_Q, 1, WO_PLAIN, "h.%u.attn.q_proj.weight"},
    {WP_K, 1, WO_PLAIN, "h.%u.attn.k_proj.weight"},
    {WP_V, 1, WO_PLAIN, "h.%u.attn.v_proj.weight"},
    {WP_O, 1, WO_PLAIN, "h.%u.attn.out_proj.weight"},
    {WP_UP, 1, WO_PLAIN, "h.%u.mlp.fc_in.weight"},
    {WP_UP_BIAS, 1, WO_PLAIN, "h.%u.mlp.fc_in.bias"},
    {WP_DOWN, 1, WO_PLAIN, "h.%u.mlp.fc_out.weight"},
    {WP_DOWN_BIAS, 1, WO_PLAIN, "h.%u.mlp.fc_out.bias"},
};

/* transformers, models/phi/modeling_phi.py */
static const struct wt_name phi_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "embed_tokens.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "final_layernorm.weight"},
    {WP_FINAL_NORM_BIAS, 1, WO_PLAIN, "final_layernorm.bias"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_HEAD_BIAS, 1, WO_PLAIN, "lm_head.bias"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "layers.%u.input_layernorm.weight"},
    {WP_ATTN_NORM_BIAS, 1, WO_PLAIN, "layers.%u.input_layernorm.bias"},
    {WP_Q, 1, WO_PLAIN, "layers.%u.self_attn.q_proj.weight"},
    {WP_K, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.weight"},
    {WP_V, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.weight"},
    {WP_Q_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.q_proj.bias"},
    {WP_K_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.bias"},
    {WP_V_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.bias"},
    {WP_O, 1, WO_PLAIN, "layers.%u.self_attn.dense.weight"},
    {WP_O_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.dense.bias"},
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.fc1.weight"},
    {WP_UP_BIAS, 1, WO_PLAIN, "layers.%u.mlp.fc1.bias"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.fc2.weight"},
    {WP_DOWN_BIAS, 1, WO_PLAIN, "layers.%u.mlp.fc2.bias"},
};

/* transformers, models/phi3/modeling_phi3.py */
static const struct wt_name phi3_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "embed_tokens.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "norm.weight"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_HEAD_BIAS, 1, WO_PLAIN, "lm_head.bias"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "layers.%u.input_layernorm.weight"},
    {WP_Q, 4, WO_PLAIN, "layers.%u.self_attn.qkv_proj.weight"},
    {WP_O, 1, WO_PLAIN, "layers.%u.self_attn.o_proj.weight"},
    {WP_MLP_NORM, 1, WO_PLAIN, "layers.%u.post_attention_layernorm.weight"},
    {WP_GATE, 2, WO_PLAIN, "layers.%u.mlp.gate_up_proj.weight"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},
};

/* transformers, models/stablelm/modeling_stablelm.py, models/starcoder2/modeling_starcoder2.py */
#define LAYER_NORM_BIASES                                                \
    {WP_FINAL_NORM_BIAS, 1, WO_PLAIN, "norm.bias"},                         \
    {WP_ATTN_NORM_BIAS, 1, WO_PLAIN, "layers.%u.input_layernorm.bias"},     \
    {WP_MLP_NORM_BIAS, 1, WO_PLAIN, "layers.%u.post_attention_layernorm.bias"}
static const struct wt_name stablelm_names[] = {
    LLAMA_ATTENTION, LAYER_NORM_BIASES,
    {WP_GATE, 1, WO_PLAIN, "layers.%u.mlp.gate_proj.weight"},
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.up_proj.weight"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},
};
static const struct wt_name starcoder2_names[] = {
    LLAMA_ATTENTION, LAYER_NORM_BIASES,
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.c_fc.weight"},
    {WP_UP_BIAS, 1, WO_PLAIN, "layers.%u.mlp.c_fc.bias"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.c_proj.weight"},
    {WP_DOWN_BIAS, 1, WO_PLAIN, "layers.%u.mlp.c_proj.bias"},
};

/* transformers, models/bloom/modeling_bloom.py and models/falcon/modeling_falcon.py */
static const struct wt_name bloom_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "word_embeddings.weight"},
    {WP_EMBED_NORM, 1, WO_PLAIN, "word_embeddings_layernorm.weight"},
    {WP_EMBED_NORM_BIAS, 1, WO_PLAIN, "word_embeddings_layernorm.bias"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "ln_f.weight"},
    {WP_FINAL_NORM_BIAS, 1, WO_PLAIN, "ln_f.bias"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "h.%u.input_layernorm.weight|h.%u.ln_attn.weight"},
    {WP_ATTN_NORM_BIAS, 1, WO_PLAIN, "h.%u.input_layernorm.bias|h.%u.ln_attn.bias"},
    {WP_Q, 4, WO_GROUPED, "h.%u.self_attention.query_key_value.weight"},
    {WP_Q_BIAS, 3, WO_GROUPED, "h.%u.self_attention.query_key_value.bias"},
    {WP_O, 1, WO_PLAIN, "h.%u.self_attention.dense.weight"},
    {WP_O_BIAS, 1, WO_PLAIN, "h.%u.self_attention.dense.bias"},
    {WP_MLP_NORM, 1, WO_PLAIN, "h.%u.post_attention_layernorm.weight|h.%u.ln_mlp.weight"},
    {WP_MLP_NORM_BIAS, 1, WO_PLAIN, "h.%u.post_attention_layernorm.bias|h.%u.ln_mlp.bias"},
    {WP_UP, 1, WO_PLAIN, "h.%u.mlp.dense_h_to_4h.weight"},
    {WP_UP_BIAS, 1, WO_PLAIN, "h.%u.mlp.dense_h_to_4h.bias"},
    {WP_DOWN, 1, WO_PLAIN, "h.%u.mlp.dense_4h_to_h.weight"},
    {WP_DOWN_BIAS, 1, WO_PLAIN, "h.%u.mlp.dense_4h_to_h.bias"},
};

/* transformers, models/mpt/modeling_mpt.py: no biases */
static const struct wt_name mpt_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "wte.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "norm_f.weight"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "blocks.%u.norm_1.weight"},
    {WP_Q, 4, WO_PLAIN, "blocks.%u.attn.Wqkv.weight"},
    {WP_O, 1, WO_PLAIN, "blocks.%u.attn.out_proj.weight"},
    {WP_MLP_NORM, 1, WO_PLAIN, "blocks.%u.norm_2.weight"},
    {WP_UP, 1, WO_PLAIN, "blocks.%u.ffn.up_proj.weight"},
    {WP_DOWN, 1, WO_PLAIN, "blocks.%u.ffn.down_proj.weight"},
};

/* transformers, models/llama4/modeling_llama4.py: gate, then up; [E, in, out] */
static const struct wt_name llama4_names[] = {
    LLAMA_ATTENTION,
    {WP_GATE, 1, WO_PLAIN, "layers.%u.feed_forward.gate_proj.weight"},
    {WP_UP, 1, WO_PLAIN, "layers.%u.feed_forward.up_proj.weight"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.feed_forward.down_proj.weight"},
    {WP_ROUTER, 1, WO_PLAIN, "layers.%u.feed_forward.router.weight"},
    {WP_SHARED_GATE, 1, WO_PLAIN, "layers.%u.feed_forward.shared_expert.gate_proj.weight"},
    {WP_SHARED_UP, 1, WO_PLAIN, "layers.%u.feed_forward.shared_expert.up_proj.weight"},
    {WP_SHARED_DOWN, 1, WO_PLAIN, "layers.%u.feed_forward.shared_expert.down_proj.weight"},
};
static const struct wt_expert_name llama4_experts[] = {
    {WP_EXPERT_UP, 0, 1, true, true, "layers.%u.feed_forward.experts.gate_up_proj"},
    {WP_EXPERT_DOWN, 0, 1, true, true, "layers.%u.feed_forward.experts.down_proj"},
};

/* transformers, models/granitemoe/modeling_granitemoe.py: gate and up of an expert in one, [E, out, in] */
static const struct wt_name granitemoe_names[] = {
    LLAMA_ATTENTION,
    {WP_ROUTER, 1, WO_PLAIN, "layers.%u.block_sparse_moe.router.layer.weight"},
    {WP_SHARED_GATE, 2, WO_PLAIN, "layers.%u.shared_mlp.input_linear.weight"},
    {WP_SHARED_DOWN, 1, WO_PLAIN, "layers.%u.shared_mlp.output_linear.weight"},
};
static const struct wt_expert_name granitemoe_experts[] = {
    {WP_EXPERT_UP, 0, 1, true, false, "layers.%u.block_sparse_moe.input_linear.weight"},
    {WP_EXPERT_DOWN, 0, 1, true, false, "layers.%u.block_sparse_moe.output_linear.weight"},
};

/* transformers, models/glm4/modeling_glm4.py; glm's without the norms behind. */
static const struct wt_name glm_names[] = {
    LLAMA_ATTENTION,
    {WP_POST_ATTN_NORM, 1, WO_PLAIN, "layers.%u.post_self_attn_layernorm.weight"},
    {WP_POST_MLP_NORM, 1, WO_PLAIN, "layers.%u.post_mlp_layernorm.weight"},
    {WP_GATE, 2, WO_PLAIN, "layers.%u.mlp.gate_up_proj.weight"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},
};

/* transformers, models/olmo2/modeling_olmo2.py, models/exaone4/modeling_exaone4.py: norms only behind the halves */
static const struct wt_name olmo2_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "embed_tokens.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "norm.weight"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_Q, 1, WO_PLAIN, "layers.%u.self_attn.q_proj.weight"},
    {WP_K, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.weight"},
    {WP_V, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.weight"},
    {WP_Q_NORM, 1, WO_PLAIN, "layers.%u.self_attn.q_norm.weight"},
    {WP_K_NORM, 1, WO_PLAIN, "layers.%u.self_attn.k_norm.weight"},
    {WP_O, 1, WO_PLAIN, "layers.%u.self_attn.o_proj.weight"},
    {WP_POST_ATTN_NORM, 1, WO_PLAIN, "layers.%u.post_attention_layernorm.weight"},
    {WP_GATE, 1, WO_PLAIN, "layers.%u.mlp.gate_proj.weight"},
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.up_proj.weight"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},
    {WP_POST_MLP_NORM, 1, WO_PLAIN, "layers.%u.post_feedforward_layernorm.weight"},
};

/* transformers, models/nemotron/modeling_nemotron.py */
static const struct wt_name nemotron_names[] = {
    LLAMA_ATTENTION, LAYER_NORM_BIASES,
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.up_proj.weight"},
    {WP_UP_BIAS, 1, WO_PLAIN, "layers.%u.mlp.up_proj.bias"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},
    {WP_DOWN_BIAS, 1, WO_PLAIN, "layers.%u.mlp.down_proj.bias"},
};

/* transformers, models/gpt_bigcode/modeling_gpt_bigcode.py: one KV head behind all of q, or q, k and v by head */
static const struct wt_name bigcode_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "wte.weight"},
    {WP_POSITION, 1, WO_PLAIN, "wpe.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "ln_f.weight"},
    {WP_FINAL_NORM_BIAS, 1, WO_PLAIN, "ln_f.bias"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "h.%u.ln_1.weight"},
    {WP_ATTN_NORM_BIAS, 1, WO_PLAIN, "h.%u.ln_1.bias"},
    {WP_Q, 4, WO_GROUPED, "h.%u.attn.c_attn.weight"},
    {WP_Q_BIAS, 3, WO_GROUPED, "h.%u.attn.c_attn.bias"},
    {WP_O, 1, WO_PLAIN, "h.%u.attn.c_proj.weight"},
    {WP_O_BIAS, 1, WO_PLAIN, "h.%u.attn.c_proj.bias"},
    {WP_MLP_NORM, 1, WO_PLAIN, "h.%u.ln_2.weight"},
    {WP_MLP_NORM_BIAS, 1, WO_PLAIN, "h.%u.ln_2.bias"},
    {WP_UP, 1, WO_PLAIN, "h.%u.mlp.c_fc.weight"},
    {WP_UP_BIAS, 1, WO_PLAIN, "h.%u.mlp.c_fc.bias"},
    {WP_DOWN, 1, WO_PLAIN, "h.%u.mlp.c_proj.weight"},
    {WP_DOWN_BIAS, 1, WO_PLAIN, "h.%u.mlp.c_proj.bias"},
};

/* transformers, models/opt/modeling_opt.py */
static const struct wt_name opt_names[] = {
    {WP_EMBED, 1, WO_PLAIN, "embed_tokens.weight"},
    {WP_POSITION, 1, WO_PLAIN, "embed_positions.weight"},
    {WP_FINAL_NORM, 1, WO_PLAIN, "final_layer_norm.weight"},
    {WP_FINAL_NORM_BIAS, 1, WO_PLAIN, "final_layer_norm.bias"},
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},
    {WP_ATTN_NORM, 1, WO_PLAIN, "layers.%u.self_attn_layer_norm.weight"},
    {WP_ATTN_NORM_BIAS, 1, WO_PLAIN, "layers.%u.self_attn_layer_norm.bias"},
    {WP_Q, 1, WO_PLAIN, "layers.%u.self_attn.q_proj.weight"},
    {WP_K, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.weight"},
    {WP_V, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.weight"},
    {WP_Q_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.q_proj.bias"},
    {WP_K_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.bias"},
    {WP_V_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.bias"},
    {WP_O, 1, WO_PLAIN, "layers.%u.self_attn.out_proj.weight"},
    {WP_O_BIAS, 1, WO_PLAIN, "layers.%u.self_attn.out_proj.bias"},
    {WP_MLP_NORM, 1, WO_PLAIN, "layers.%u.final_layer_norm.weight"},
    {WP_MLP_NORM_BIAS, 1, WO_PLAIN, "layers.%u.final_layer_norm.bias"},
    {WP_UP, 1, WO_PLAIN, "layers.%u.fc1.weight"},
    {WP_UP_BIAS, 1, WO_PLAIN, "layers.%u.fc1.bias"},
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.fc2.weight"},
    {WP_DOWN_BIAS, 1, WO_PLAIN, "layers.%u.fc2.bias"},
};

static const struct wt_name deepseek_names[] = {
    DEEPSEEK_NAMES,
    {WP_Q_B, 1, WO_PLAIN, "layers.%u.self_attn.q_b_proj.weight|layers.%u.self_attn.q_proj.weight"},
};

#define NAMES(a) a, sizeof(a) / sizeof((a)[0])
static const struct wt_family families[] = {
    {"gpt2", "transformer.", NAMES(gpt2_names), NULL, 0},
    {"llama mistral qwen2 qwen3 gemma granite cohere cohere2 helium smollm3 olmo", "model.", NAMES(llama_names), NULL, 0},
    {"gemma2 gemma3_text", "model.", NAMES(gemma2_names), NULL, 0},
    {"mixtral", "model.", NAMES(mixtral_names), NAMES(mixtral_experts)},
    {"qwen2_moe qwen3_moe olmoe", "model.", NAMES(qwen3_moe_names), NAMES(mlp_experts)},
    {"granitemoe granitemoeshared", "model.", NAMES(granitemoe_names), NAMES(granitemoe_experts)},
    {"glm glm4", "model.", NAMES(glm_names), NULL, 0},
    {"glm4_moe", "model.", NAMES(glm4_moe_names), NAMES(mlp_experts)},
    {"olmo2 olmo3 exaone4", "model.", NAMES(olmo2_names), NULL, 0},
    {"nemotron", "model.", NAMES(nemotron_names), NULL, 0},
    {"gpt_bigcode", "transformer.", NAMES(bigcode_names), NULL, 0},
    {"opt", "model.decoder.", NAMES(opt_names), NULL, 0},
    {"gpt_oss", "model.", NAMES(gpt_oss_names), NAMES(gpt_oss_experts)},
    {"deepseek_v2 deepseek_v3 kimi_k2", "model.", NAMES(deepseek_names), NAMES(mlp_experts)},
    {"llama4_text", "model.", NAMES(llama4_names), NAMES(llama4_experts)},
    {"gpt_neox", "gpt_neox.", NAMES(neox_names), NULL, 0},
    {"gptj", "transformer.", NAMES(gptj_names), NULL, 0},
    {"phi", "model.", NAMES(phi_names), NULL, 0},
    {"phi3", "model.", NAMES(phi3_names), NULL, 0},
    {"stablelm", "model.", NAMES(stablelm_names), NULL, 0},
    {"starcoder2", "model.", NAMES(starcoder2_names), NULL, 0},
    {"bloom falcon", "transformer.", NAMES(bloom_names), NULL, 0},
    {"mpt", "transformer.", NAMES(mpt_names), NULL, 0},
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
    return rec_family_of(model_type) ? rec_family_of(model_type) : cross_family_of(model_type);
}

bool wt_is_buffer(const char *name)
{
    static const char *const ends[] = {".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
                                       ".rotary_emb.inv_freq", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"};
    const size_t len = strlen(name);

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        if (len >= strlen(ends[i]) && strcmp(name + len - strlen(ends[i]), ends[i]) == 0)
            return true;
    return false;
}
