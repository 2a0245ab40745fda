/* rec_shapes.c - the tensors of Mamba and RWKV layers, and what files call them. */
#include "validate/engine/shapes.h"

/* ---- shapes ------------------------------------------------------------------------------------- */

#define BIT(kind) (1u << KVP_REC_##kind)
enum {
    MAMBA1 = BIT(MAMBA1),
    MAMBA2 = BIT(MAMBA2),
    MAMBA = MAMBA1 | MAMBA2,
    RWKV4 = BIT(RWKV4),
    RWKV56 = BIT(RWKV5) | BIT(RWKV6),
    RWKV6 = BIT(RWKV6),
    RWKV7 = BIT(RWKV7),
    RWKV = RWKV4 | RWKV56 | RWKV7,
    DELTA = BIT(DELTA)
};

enum dim { VEC, D, E, IN, CHANNELS, TAPS, STATE, DT_RANK, X_PROJ, HEADS, FFN, RANK0, RANK1, RANK2, RANK3, MIXES, MIXED, KEYS, DIMS };
enum need { ALWAYS, CONV_BIAS, PROJ_BIAS, NORM, INNER_NORMS, FFN_OF_RWKV, V_RANK, NEEDS };

static const struct {
    unsigned kinds;
    enum wt_fill fill;
    enum dim rows, cols;
    enum need need;
} pieces[] = {
#define AT(name) [WP_REC_##name - WP_REC_IN]
    AT(IN) = {MAMBA, WF_MATRIX, IN, D, ALWAYS},
    AT(IN_BIAS) = {MAMBA, WF_BIAS, IN, VEC, PROJ_BIAS},
    AT(DELTA_Q) = {DELTA, WF_MATRIX, KEYS, D, ALWAYS},
    AT(DELTA_K) = {DELTA, WF_MATRIX, KEYS, D, ALWAYS},
    AT(DELTA_V) = {DELTA, WF_MATRIX, E, D, ALWAYS},
    AT(DELTA_Z) = {DELTA, WF_MATRIX, E, D, ALWAYS},
    AT(DELTA_B) = {DELTA, WF_MATRIX, HEADS, D, ALWAYS},
    AT(DELTA_A) = {DELTA, WF_MATRIX, HEADS, D, ALWAYS},
    AT(CONV) = {MAMBA | DELTA, WF_MATRIX, CHANNELS, TAPS, ALWAYS},
    AT(CONV_BIAS) = {MAMBA, WF_BIAS, CHANNELS, VEC, CONV_BIAS},
    AT(X_PROJ) = {MAMBA1, WF_MATRIX, X_PROJ, E, ALWAYS},
    AT(DT) = {MAMBA1, WF_MATRIX, E, DT_RANK, ALWAYS},
    AT(DT_BIAS) = {MAMBA | DELTA, WF_BIAS, E, VEC, ALWAYS}, /* Mamba-2, delta: one a head */
    AT(A_LOG) = {MAMBA | DELTA, WF_NORM, E, STATE, ALWAYS}, /* likewise */
    AT(SKIP) = {MAMBA, WF_NORM, E, VEC, ALWAYS},    /* likewise */
    AT(DT_NORM) = {MAMBA1, WF_NORM, DT_RANK, VEC, INNER_NORMS},
    AT(B_NORM) = {MAMBA1, WF_NORM, STATE, VEC, INNER_NORMS},
    AT(C_NORM) = {MAMBA1, WF_NORM, STATE, VEC, INNER_NORMS},
    AT(NORM) = {MAMBA2 | RWKV56 | RWKV7 | DELTA, WF_NORM, E, VEC, NORM}, /* delta: one for all heads */
    AT(NORM_BIAS) = {RWKV56 | RWKV7, WF_BIAS, E, VEC, ALWAYS},
    AT(OUT) = {MAMBA | RWKV | DELTA, WF_MATRIX, D, E, ALWAYS},
    AT(OUT_BIAS) = {MAMBA, WF_BIAS, D, VEC, PROJ_BIAS},
    AT(DECAY) = {RWKV4 | RWKV56, WF_MATRIX, E, VEC, ALWAYS},
    AT(FIRST) = {RWKV4 | RWKV56, WF_BIAS, E, VEC, ALWAYS},
    AT(MIX_X) = {RWKV6, WF_MIX, D, VEC, ALWAYS},
    AT(MIX_R) = {RWKV, WF_MIX, D, VEC, ALWAYS},
    AT(MIX_W) = {RWKV6 | RWKV7, WF_MIX, D, VEC, ALWAYS},
    AT(MIX_K) = {RWKV, WF_MIX, D, VEC, ALWAYS},
    AT(MIX_V) = {RWKV, WF_MIX, D, VEC, ALWAYS},
    AT(MIX_A) = {RWKV7, WF_MIX, D, VEC, ALWAYS},
    AT(MIX_G) = {RWKV56 | RWKV7, WF_MIX, D, VEC, ALWAYS},
    AT(R) = {RWKV, WF_MATRIX, E, D, ALWAYS},
    AT(K) = {RWKV, WF_MATRIX, E, D, ALWAYS},
    AT(V) = {RWKV, WF_MATRIX, E, D, ALWAYS},
    AT(G) = {RWKV56, WF_MATRIX, E, D, ALWAYS},
    AT(MIX_DOWN) = {RWKV6, WF_MATRIX, MIXES, D, ALWAYS},
    AT(MIX_UP) = {RWKV6, WF_MATRIX, MIXED, RANK1, ALWAYS},
    AT(W_DOWN) = {RWKV6 | RWKV7, WF_MATRIX, RANK0, D, ALWAYS},
    AT(W_UP) = {RWKV6 | RWKV7, WF_MATRIX, E, RANK0, ALWAYS},
    AT(W_BIAS) = {RWKV7, WF_MATRIX, E, VEC, ALWAYS},
    AT(A_DOWN) = {RWKV7, WF_MATRIX, RANK1, D, ALWAYS},
    AT(A_UP) = {RWKV7, WF_MATRIX, E, RANK1, ALWAYS},
    AT(A_BIAS) = {RWKV7, WF_MATRIX, E, VEC, ALWAYS},
    AT(V_DOWN) = {RWKV7, WF_MATRIX, RANK2, D, V_RANK},
    AT(V_UP) = {RWKV7, WF_MATRIX, E, RANK2, V_RANK},
    AT(V_BIAS) = {RWKV7, WF_MATRIX, E, VEC, V_RANK},
    AT(G_DOWN) = {RWKV7, WF_MATRIX, RANK3, D, ALWAYS},
    AT(G_UP) = {RWKV7, WF_MATRIX, E, RANK3, ALWAYS},
    AT(K_K) = {RWKV7, WF_NORM, E, VEC, ALWAYS},
    AT(K_A) = {RWKV7, WF_NORM, E, VEC, ALWAYS},
    AT(R_K) = {RWKV7, WF_BIAS, E, VEC, ALWAYS},
    AT(FFN_MIX_K) = {RWKV, WF_MIX, D, VEC, FFN_OF_RWKV},
    AT(FFN_MIX_R) = {RWKV4 | RWKV56, WF_MIX, D, VEC, FFN_OF_RWKV},
    AT(FFN_K) = {RWKV, WF_MATRIX, FFN, D, FFN_OF_RWKV},
    AT(FFN_R) = {RWKV4 | RWKV56, WF_MATRIX, D, D, FFN_OF_RWKV},
    AT(FFN_V) = {RWKV, WF_MATRIX, D, FFN, FFN_OF_RWKV},
#undef AT
};

/* Mamba-2's and the delta net's decay, skip and time bias are one number a head. */
static bool is_of_heads(const struct kvp_layer_class *c, enum wt_piece p)
{
    return (c->recurrent == KVP_REC_MAMBA2 || c->recurrent == KVP_REC_DELTA) && (p == WP_REC_DT_BIAS || p == WP_REC_A_LOG || p == WP_REC_SKIP);
}

struct wt_shape rec_shape_of(const struct kvp_model *m, const struct kvp_layer_class *c, enum wt_piece p)
{
    const int i = (int)p - WP_REC_IN;
    const bool delta = c->recurrent == KVP_REC_DELTA;
    const uint64_t bc = 2ull * c->groups * c->state, two = c->recurrent == KVP_REC_MAMBA2 || delta;
    const uint64_t dim[DIMS] = {
        [D] = m->width, [E] = c->inner, [IN] = 2ull * c->inner + two * (bc + c->rec_heads), [CHANNELS] = c->inner + two * bc,
        [TAPS] = c->conv, [STATE] = c->state, [DT_RANK] = c->dt_rank, [X_PROJ] = c->dt_rank + 2ull * c->state,
        [HEADS] = c->rec_heads, [FFN] = c->ffn_width, [RANK0] = c->low_rank[0], [RANK1] = c->low_rank[1], [RANK2] = c->low_rank[2],
        [RANK3] = c->low_rank[3], [MIXES] = 5ull * c->low_rank[1], [MIXED] = 5ull * m->width, [KEYS] = (uint64_t)c->groups * c->state,
    };
    const bool has[NEEDS] = {
        [ALWAYS] = true, [CONV_BIAS] = c->conv_bias, [PROJ_BIAS] = c->rec_bias,
        [NORM] = c->recurrent != KVP_REC_MAMBA2 || c->rec_norm, [INNER_NORMS] = c->rec_norm,
        [FFN_OF_RWKV] = c->ffn == KVP_FFN_RWKV,
        [V_RANK] = c->low_rank[2] != 0,
    };
    const bool part = p >= WP_REC_DELTA_Q && p <= WP_REC_DELTA_A;
    struct wt_shape s = {.role = part ? WT_REC_IN : (enum wt_role)(WT_REC_IN + i), .fill = pieces[i].fill};

    if (!(pieces[i].kinds & 1u << c->recurrent) || !has[pieces[i].need])
        return s;
    s.rows = delta && p == WP_REC_NORM ? c->rec_head_dim : dim[is_of_heads(c, p) ? HEADS : pieces[i].rows];
    s.cols = is_of_heads(c, p) ? 0 : dim[pieces[i].cols];
    return s;
}

bool rec_has_pre_norm(const struct kvp_model *m)
{
    return m->extra[0].name && strcmp(m->extra[0].name, "pre_norm") == 0;
}

/* ---- names -------------------------------------------------------------------------------------- */

#define MAMBA_MIXER                                                                       \
    {WP_REC_IN, 1, false, "layers.%u.mixer.in_proj.weight"},                           \
    {WP_REC_IN_BIAS, 1, false, "layers.%u.mixer.in_proj.bias"},                        \
    {WP_REC_CONV, 1, false, "layers.%u.mixer.conv1d.weight"},                          \
    {WP_REC_CONV_BIAS, 1, false, "layers.%u.mixer.conv1d.bias"},                       \
    {WP_REC_A_LOG, 1, false, "layers.%u.mixer.A_log"},                                 \
    {WP_REC_SKIP, 1, false, "layers.%u.mixer.D"},                                      \
    {WP_REC_OUT, 1, false, "layers.%u.mixer.out_proj.weight"},                         \
    {WP_REC_OUT_BIAS, 1, false, "layers.%u.mixer.out_proj.bias"},                      \
    {WP_ATTN_NORM, 1, false, "layers.%u.norm.weight"},                                 \
    {WP_FINAL_NORM, 1, false, "norm_f.weight"},                                        \
    {WP_HEAD, 1, false, "lm_head.weight"}

#define MAMBA1_MIXER                                                                      \
    {WP_REC_X_PROJ, 1, false, "layers.%u.mixer.x_proj.weight"},                           \
    {WP_REC_DT, 1, false, "layers.%u.mixer.dt_proj.weight"},                              \
    {WP_REC_DT_BIAS, 1, false, "layers.%u.mixer.dt_proj.bias"}

/* transformers, models/mamba/modeling_mamba.py: MambaModel. */
static const struct wt_name mamba_names[] = {
    {WP_EMBED, 1, false, "embeddings.weight"},
    MAMBA_MIXER,
    MAMBA1_MIXER,
};

/* mamba_ssm/models/mixer_seq_simple.py of state-spaces/mamba, with Mamba-1 layers. */
static const struct wt_name mamba_ssm_names[] = {
    {WP_EMBED, 1, false, "embedding.weight"},
    MAMBA_MIXER,
    MAMBA1_MIXER,
};

/* transformers, models/jamba/modeling_jamba.py: JambaModel. */
static const struct wt_name jamba_names[] = {
    {WP_EMBED, 1, false, "embed_tokens.weight"},
    {WP_FINAL_NORM, 1, false, "final_layernorm.weight"},
    {WP_HEAD, 1, false, "lm_head.weight"},
    {WP_ATTN_NORM, 1, false, "layers.%u.input_layernorm.weight"},
    {WP_MLP_NORM, 1, false, "layers.%u.pre_ff_layernorm.weight"},
    {WP_Q, 1, false, "layers.%u.self_attn.q_proj.weight"},
    {WP_K, 1, false, "layers.%u.self_attn.k_proj.weight"},
    {WP_V, 1, false, "layers.%u.self_attn.v_proj.weight"},
    {WP_O, 1, false, "layers.%u.self_attn.o_proj.weight"},
    {WP_REC_IN, 1, false, "layers.%u.mamba.in_proj.weight"},
    {WP_REC_IN_BIAS, 1, false, "layers.%u.mamba.in_proj.bias"},
    {WP_REC_CONV, 1, false, "layers.%u.mamba.conv1d.weight"},
    {WP_REC_CONV_BIAS, 1, false, "layers.%u.mamba.conv1d.bias"},
    {WP_REC_X_PROJ, 1, false, "layers.%u.mamba.x_proj.weight"},
    {WP_REC_DT, 1, false, "layers.%u.mamba.dt_proj.weight"},
    {WP_REC_DT_BIAS, 1, false, "layers.%u.mamba.dt_proj.bias"},
    {WP_REC_A_LOG, 1, false, "layers.%u.mamba.A_log"},
    {WP_REC_SKIP, 1, false, "layers.%u.mamba.D"},
    {WP_REC_DT_NORM, 1, false, "layers.%u.mamba.dt_layernorm.weight"},
    {WP_REC_B_NORM, 1, false, "layers.%u.mamba.b_layernorm.weight"},
    {WP_REC_C_NORM, 1, false, "layers.%u.mamba.c_layernorm.weight"},
    {WP_REC_OUT, 1, false, "layers.%u.mamba.out_proj.weight"},
    {WP_REC_OUT_BIAS, 1, false, "layers.%u.mamba.out_proj.bias"},
    {WP_GATE, 1, false, "layers.%u.feed_forward.gate_proj.weight"},
    {WP_UP, 1, false, "layers.%u.feed_forward.up_proj.weight"},
    {WP_DOWN, 1, false, "layers.%u.feed_forward.down_proj.weight"},
    {WP_ROUTER, 1, false, "layers.%u.feed_forward.router.weight"},
};
static const struct wt_expert_name jamba_experts[] = {
    {WP_EXPERT_UP, 0, 2, false, false, "layers.%u.feed_forward.experts.%u.gate_proj.weight"},
    {WP_EXPERT_UP, 1, 2, false, false, "layers.%u.feed_forward.experts.%u.up_proj.weight"},
    {WP_EXPERT_DOWN, 0, 1, false, false, "layers.%u.feed_forward.experts.%u.down_proj.weight"},
};

/* transformers, models/mamba2/modeling_mamba2.py: Mamba2Model. */
static const struct wt_name mamba2_names[] = {
    {WP_EMBED, 1, false, "embeddings.weight"},
    MAMBA_MIXER,
    {WP_REC_DT_BIAS, 1, false, "layers.%u.mixer.dt_bias"},
    {WP_REC_NORM, 1, false, "layers.%u.mixer.norm.weight"},
};

/* transformers, models/rwkv/modeling_rwkv.py: RwkvModel. */
static const struct wt_name rwkv4_names[] = {
    {WP_EMBED, 1, false, "embeddings.weight"},
    {WP_EMBED_NORM, 1, false, "blocks.0.pre_ln.weight"},
    {WP_EMBED_NORM_BIAS, 1, false, "blocks.0.pre_ln.bias"},
    {WP_FINAL_NORM, 1, false, "ln_out.weight"},
    {WP_FINAL_NORM_BIAS, 1, false, "ln_out.bias"},
    {WP_HEAD, 1, false, "head.weight"},
    {WP_ATTN_NORM, 1, false, "blocks.%u.ln1.weight"},
    {WP_ATTN_NORM_BIAS, 1, false, "blocks.%u.ln1.bias"},
    {WP_MLP_NORM, 1, false, "blocks.%u.ln2.weight"},
    {WP_MLP_NORM_BIAS, 1, false, "blocks.%u.ln2.bias"},
    {WP_REC_DECAY, 1, false, "blocks.%u.attention.time_decay"},
    {WP_REC_FIRST, 1, false, "blocks.%u.attention.time_first"},
    {WP_REC_MIX_K, 1, false, "blocks.%u.attention.time_mix_key"},
    {WP_REC_MIX_V, 1, false, "blocks.%u.attention.time_mix_value"},
    {WP_REC_MIX_R, 1, false, "blocks.%u.attention.time_mix_receptance"},
    {WP_REC_K, 1, false, "blocks.%u.attention.key.weight"},
    {WP_REC_V, 1, false, "blocks.%u.attention.value.weight"},
    {WP_REC_R, 1, false, "blocks.%u.attention.receptance.weight"},
    {WP_REC_OUT, 1, false, "blocks.%u.attention.output.weight"},
    {WP_REC_FFN_MIX_K, 1, false, "blocks.%u.feed_forward.time_mix_key"},
    {WP_REC_FFN_MIX_R, 1, false, "blocks.%u.feed_forward.time_mix_receptance"},
    {WP_REC_FFN_K, 1, false, "blocks.%u.feed_forward.key.weight"},
    {WP_REC_FFN_R, 1, false, "blocks.%u.feed_forward.receptance.weight"},
    {WP_REC_FFN_V, 1, false, "blocks.%u.feed_forward.value.weight"},
};

/* transformers, models/nemotron_h/modeling_nemotron_h.py: NemotronHModel. A layer mixes by Mamba-2, or attends, or is a
 * feed-forward, dense or of experts without gates, and has one norm. */
static const struct wt_name nemotron_h_names[] = {
    {WP_EMBED, 1, false, "embeddings.weight"},
    MAMBA_MIXER,
    {WP_REC_DT_BIAS, 1, false, "layers.%u.mixer.dt_bias"},
    {WP_REC_NORM, 1, false, "layers.%u.mixer.norm.weight"},
    {WP_Q, 1, false, "layers.%u.mixer.q_proj.weight"},
    {WP_K, 1, false, "layers.%u.mixer.k_proj.weight"},
    {WP_V, 1, false, "layers.%u.mixer.v_proj.weight"},
    {WP_O, 1, false, "layers.%u.mixer.o_proj.weight"},
    {WP_MLP_NORM, 1, false, "layers.%u.norm.weight"},
    {WP_UP, 1, false, "layers.%u.mixer.up_proj.weight"},
    {WP_DOWN, 1, false, "layers.%u.mixer.down_proj.weight"},
    {WP_ROUTER, 1, false, "layers.%u.mixer.gate.weight"},
    {WP_ROUTER_BIAS, 1, false, "layers.%u.mixer.gate.e_score_correction_bias"},
    {WP_SHARED_UP, 1, false, "layers.%u.mixer.shared_experts.up_proj.weight"},
    {WP_SHARED_DOWN, 1, false, "layers.%u.mixer.shared_experts.down_proj.weight"},
};
static const struct wt_expert_name nemotron_h_experts[] = {
    {WP_EXPERT_UP, 0, 1, false, false, "layers.%u.mixer.experts.%u.up_proj.weight"},
    {WP_EXPERT_DOWN, 0, 1, false, false, "layers.%u.mixer.experts.%u.down_proj.weight"},
};

#define RWKV56_BLOCK                                                                \
    {WP_EMBED, 1, false, "embeddings.weight"},                                            \
    {WP_EMBED_NORM, 1, false, "blocks.0.pre_ln.weight"},                                  \
    {WP_EMBED_NORM_BIAS, 1, false, "blocks.0.pre_ln.bias"},                               \
    {WP_FINAL_NORM, 1, false, "ln_out.weight"},                                           \
    {WP_FINAL_NORM_BIAS, 1, false, "ln_out.bias"},                                        \
    {WP_HEAD, 1, false, "head.weight"},                                                   \
    {WP_ATTN_NORM, 1, false, "blocks.%u.ln1.weight"},                                     \
    {WP_ATTN_NORM_BIAS, 1, false, "blocks.%u.ln1.bias"},                                  \
    {WP_MLP_NORM, 1, false, "blocks.%u.ln2.weight"},                                      \
    {WP_MLP_NORM_BIAS, 1, false, "blocks.%u.ln2.bias"},                                   \
    {WP_REC_DECAY, 1, false, "blocks.%u.attention.time_decay"},                           \
    {WP_REC_FIRST, 1, false, "blocks.%u.attention.time_faaaa"},                           \
    {WP_REC_K, 1, false, "blocks.%u.attention.key.weight"},                               \
    {WP_REC_V, 1, false, "blocks.%u.attention.value.weight"},                             \
    {WP_REC_R, 1, false, "blocks.%u.attention.receptance.weight"},                        \
    {WP_REC_G, 1, false, "blocks.%u.attention.gate.weight"},                              \
    {WP_REC_OUT, 1, false, "blocks.%u.attention.output.weight"},                          \
    {WP_REC_NORM, 1, false, "blocks.%u.attention.ln_x.weight"},                           \
    {WP_REC_NORM_BIAS, 1, false, "blocks.%u.attention.ln_x.bias"},                        \
    {WP_REC_FFN_K, 1, false, "blocks.%u.feed_forward.key.weight"},                        \
    {WP_REC_FFN_R, 1, false, "blocks.%u.feed_forward.receptance.weight"},                 \
    {WP_REC_FFN_V, 1, false, "blocks.%u.feed_forward.value.weight"}

/* modeling_rwkv5.py beside RWKV/rwkv-5-world. */
static const struct wt_name rwkv5_names[] = {
    RWKV56_BLOCK,
    {WP_REC_MIX_K, 1, false, "blocks.%u.attention.time_mix_key"},
    {WP_REC_MIX_V, 1, false, "blocks.%u.attention.time_mix_value"},
    {WP_REC_MIX_R, 1, false, "blocks.%u.attention.time_mix_receptance"},
    {WP_REC_MIX_G, 1, false, "blocks.%u.attention.time_mix_gate"},
    {WP_REC_FFN_MIX_K, 1, false, "blocks.%u.feed_forward.time_mix_key"},
    {WP_REC_FFN_MIX_R, 1, false, "blocks.%u.feed_forward.time_mix_receptance"},
};

/* modeling_rwkv6.py beside RWKV/rwkv-6-world. */
static const struct wt_name rwkv6_names[] = {
    RWKV56_BLOCK,
    {WP_REC_MIX_X, 1, false, "blocks.%u.attention.time_maa_x"},
    {WP_REC_MIX_W, 1, false, "blocks.%u.attention.time_maa_w"},
    {WP_REC_MIX_K, 1, false, "blocks.%u.attention.time_maa_k"},
    {WP_REC_MIX_V, 1, false, "blocks.%u.attention.time_maa_v"},
    {WP_REC_MIX_R, 1, false, "blocks.%u.attention.time_maa_r"},
    {WP_REC_MIX_G, 1, false, "blocks.%u.attention.time_maa_g"},
    {WP_REC_MIX_DOWN, 1, 1, "blocks.%u.attention.time_maa_w1"},
    {WP_REC_MIX_UP, 1, 5, "blocks.%u.attention.time_maa_w2"},
    {WP_REC_W_DOWN, 1, 1, "blocks.%u.attention.time_decay_w1"},
    {WP_REC_W_UP, 1, 1, "blocks.%u.attention.time_decay_w2"},
    {WP_REC_FFN_MIX_K, 1, false, "blocks.%u.feed_forward.time_maa_k"},
    {WP_REC_FFN_MIX_R, 1, false, "blocks.%u.feed_forward.time_maa_r"},
};

/* fla/models/rwkv7 and fla/layers/rwkv7.py of fla-org/flash-linear-attention. */
static const struct wt_name rwkv7_names[] = {
    {WP_EMBED, 1, false, "embeddings.weight"},
    {WP_EMBED_NORM, 1, false, "layers.0.pre_norm.weight"},
    {WP_EMBED_NORM_BIAS, 1, false, "layers.0.pre_norm.bias"},
    {WP_FINAL_NORM, 1, false, "norm.weight"},
    {WP_FINAL_NORM_BIAS, 1, false, "norm.bias"},
    {WP_HEAD, 1, false, "lm_head.weight"},
    {WP_ATTN_NORM, 1, false, "layers.%u.attn_norm.weight"},
    {WP_ATTN_NORM_BIAS, 1, false, "layers.%u.attn_norm.bias"},
    {WP_MLP_NORM, 1, false, "layers.%u.ffn_norm.weight"},
    {WP_MLP_NORM_BIAS, 1, false, "layers.%u.ffn_norm.bias"},
    {WP_REC_MIX_R, 1, false, "layers.%u.attn.x_r"},
    {WP_REC_MIX_W, 1, false, "layers.%u.attn.x_w"},
    {WP_REC_MIX_K, 1, false, "layers.%u.attn.x_k"},
    {WP_REC_MIX_V, 1, false, "layers.%u.attn.x_v"},
    {WP_REC_MIX_A, 1, false, "layers.%u.attn.x_a"},
    {WP_REC_MIX_G, 1, false, "layers.%u.attn.x_g"},
    {WP_REC_R, 1, false, "layers.%u.attn.r_proj.weight"},
    {WP_REC_K, 1, false, "layers.%u.attn.k_proj.weight"},
    {WP_REC_V, 1, false, "layers.%u.attn.v_proj.weight"},
    {WP_REC_OUT, 1, false, "layers.%u.attn.o_proj.weight"},
    {WP_REC_W_DOWN, 1, false, "layers.%u.attn.w_lora.lora.0.weight"},
    {WP_REC_W_UP, 1, false, "layers.%u.attn.w_lora.lora.2.weight"},
    {WP_REC_W_BIAS, 1, false, "layers.%u.attn.w_lora.lora.2.bias"},
    {WP_REC_A_DOWN, 1, false, "layers.%u.attn.a_lora.lora.0.weight"},
    {WP_REC_A_UP, 1, false, "layers.%u.attn.a_lora.lora.2.weight"},
    {WP_REC_A_BIAS, 1, false, "layers.%u.attn.a_lora.lora.2.bias"},
    {WP_REC_V_DOWN, 1, false, "layers.%u.attn.v_lora.lora.0.weight"},
    {WP_REC_V_UP, 1, false, "layers.%u.attn.v_lora.lora.2.weight"},
    {WP_REC_V_BIAS, 1, false, "layers.%u.attn.v_lora.lora.2.bias"},
    {WP_REC_G_DOWN, 1, false, "layers.%u.attn.g_lora.lora.0.weight"},
    {WP_REC_G_UP, 1, false, "layers.%u.attn.g_lora.lora.2.weight"},
    {WP_REC_K_K, 1, false, "layers.%u.attn.k_k"},
    {WP_REC_K_A, 1, false, "layers.%u.attn.k_a"},
    {WP_REC_R_K, 1, false, "layers.%u.attn.r_k"},
    {WP_REC_NORM, 1, false, "layers.%u.attn.g_norm.weight"},
    {WP_REC_NORM_BIAS, 1, false, "layers.%u.attn.g_norm.bias"},
    {WP_REC_FFN_MIX_K, 1, false, "layers.%u.ffn.x_k"},
    {WP_REC_FFN_K, 1, false, "layers.%u.ffn.key.weight"},
    {WP_REC_FFN_V, 1, false, "layers.%u.ffn.value.weight"},
};

/* transformers, models/qwen3_next/modeling_qwen3_next.py and models/qwen3_5/modeling_qwen3_5.py: q of a head, then its gate. */
#define NEXT_NAMES                                                                            \
    {WP_EMBED, 1, WO_PLAIN, "embed_tokens.weight"},                                      \
    {WP_FINAL_NORM, 1, WO_PLAIN, "norm.weight"},                                         \
    {WP_HEAD, 1, WO_PLAIN, "lm_head.weight"},                                            \
    {WP_ATTN_NORM, 1, WO_PLAIN, "layers.%u.input_layernorm.weight"},                     \
    {WP_MLP_NORM, 1, WO_PLAIN, "layers.%u.post_attention_layernorm.weight"},             \
    {WP_Q, 2, WO_BY_QUERY, "layers.%u.self_attn.q_proj.weight"},                         \
    {WP_K, 1, WO_PLAIN, "layers.%u.self_attn.k_proj.weight"},                            \
    {WP_V, 1, WO_PLAIN, "layers.%u.self_attn.v_proj.weight"},                            \
    {WP_Q_NORM, 1, WO_PLAIN, "layers.%u.self_attn.q_norm.weight"},                       \
    {WP_K_NORM, 1, WO_PLAIN, "layers.%u.self_attn.k_norm.weight"},                       \
    {WP_O, 1, WO_PLAIN, "layers.%u.self_attn.o_proj.weight"},                            \
    {WP_REC_CONV, 1, WO_PLAIN, "layers.%u.linear_attn.conv1d.weight"},                   \
    {WP_REC_DT_BIAS, 1, WO_PLAIN, "layers.%u.linear_attn.dt_bias"},                      \
    {WP_REC_A_LOG, 1, WO_PLAIN, "layers.%u.linear_attn.A_log"},                          \
    {WP_REC_NORM, 1, WO_PLAIN, "layers.%u.linear_attn.norm.weight"},                     \
    {WP_REC_OUT, 1, WO_PLAIN, "layers.%u.linear_attn.out_proj.weight"},                  \
    {WP_GATE, 1, WO_PLAIN, "layers.%u.mlp.gate_proj.weight"},                            \
    {WP_UP, 1, WO_PLAIN, "layers.%u.mlp.up_proj.weight"},                                \
    {WP_DOWN, 1, WO_PLAIN, "layers.%u.mlp.down_proj.weight"},                            \
    {WP_ROUTER, 1, WO_PLAIN, "layers.%u.mlp.gate.weight"},                               \
    {WP_SHARED_SCALE, 1, WO_PLAIN, "layers.%u.mlp.shared_expert_gate.weight"},           \
    {WP_SHARED_GATE, 1, WO_PLAIN, "layers.%u.mlp.shared_expert.gate_proj.weight"},       \
    {WP_SHARED_UP, 1, WO_PLAIN, "layers.%u.mlp.shared_expert.up_proj.weight"},           \
    {WP_SHARED_DOWN, 1, WO_PLAIN, "layers.%u.mlp.shared_expert.down_proj.weight"}

/* q, k, v and z by key head, and b and a. */
static const struct wt_name qwen3_next_names[] = {
    NEXT_NAMES,
    {WP_REC_DELTA_Q, 4, WO_BY_KEY, "layers.%u.linear_attn.in_proj_qkvz.weight"},
    {WP_REC_DELTA_B, 2, WO_BY_KEY, "layers.%u.linear_attn.in_proj_ba.weight"},
};
static const struct wt_name qwen3_5_names[] = {
    NEXT_NAMES,
    {WP_REC_DELTA_Q, 3, WO_PLAIN, "layers.%u.linear_attn.in_proj_qkv.weight"},
    {WP_REC_DELTA_Z, 1, WO_PLAIN, "layers.%u.linear_attn.in_proj_z.weight"},
    {WP_REC_DELTA_B, 1, WO_PLAIN, "layers.%u.linear_attn.in_proj_b.weight"},
    {WP_REC_DELTA_A, 1, WO_PLAIN, "layers.%u.linear_attn.in_proj_a.weight"},
};
static const struct wt_expert_name mlp_experts[] = {
    {WP_EXPERT_UP, 0, 2, false, false, "layers.%u.mlp.experts.%u.gate_proj.weight"},
    {WP_EXPERT_UP, 1, 2, false, false, "layers.%u.mlp.experts.%u.up_proj.weight"},
    {WP_EXPERT_DOWN, 0, 1, false, false, "layers.%u.mlp.experts.%u.down_proj.weight"},
};

#define NAMES(a) a, sizeof(a) / sizeof((a)[0])
static const struct wt_family families[] = {
    {"mamba", "backbone.", NAMES(mamba_names), NULL, 0},
    {"mamba_ssm", "backbone.", NAMES(mamba_ssm_names), NULL, 0},
    {"jamba", "model.", NAMES(jamba_names), NAMES(jamba_experts)},
    {"mamba2", "backbone.", NAMES(mamba2_names), NULL, 0},
    {"nemotron_h", "backbone.", NAMES(nemotron_h_names), NAMES(nemotron_h_experts)},
    {"qwen3_next", "model.", NAMES(qwen3_next_names), NAMES(mlp_experts)},
    {"qwen3_5_text qwen3_5_moe_text", "model.", NAMES(qwen3_5_names), NAMES(mlp_experts)},
    {"rwkv", "rwkv.", NAMES(rwkv4_names), NULL, 0},
    {"rwkv5", "rwkv.", NAMES(rwkv5_names), NULL, 0},
    {"rwkv6", "rwkv.", NAMES(rwkv6_names), NULL, 0},
    {"rwkv7", "model.", NAMES(rwkv7_names), NULL, 0},
};
#undef NAMES

const struct wt_family *rec_family_of(const char *model_type)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        if (wt_is_word_of(families[i].model_types, model_type))
            return &families[i];
    return NULL;
}
