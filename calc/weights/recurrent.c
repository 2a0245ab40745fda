/* recurrent.c - the weights of recurrences: Mamba, RWKV (channel mix too), delta nets, lightning attention,
 * RG-LRU, gated short convolutions.
 *
 * Shapes: mamba_ssm/modules/{mamba_simple,mamba2}.py of state-spaces/mamba; modeling_{jamba,rwkv,qwen3_next,
 * recurrent_gemma,lfm2,minimax}.py of huggingface/transformers; modeling_rwkv{5,6}.py beside the RWKV
 * checkpoints; fla/layers/{rwkv7,kda}.py of fla-org/flash-linear-attention. Projections that some code
 * stores as one matrix and other code as several are one here: the same bytes. */
#include "calc/weights.h"

struct rec {
    struct walk *w;
    const struct kvp_layer_class *c;
    uint32_t cls;
    uint64_t D; /* the model's width */
};

static void matrix(const struct rec *r, const char *name, uint64_t rows, uint64_t cols, bool bias)
{
    walk_matrix(r->w, KVP_ROLE_RECURRENT, name, r->cls, r->c->count, rows, cols, bias);
}

/* A matrix that no product of activations with a linear layer reads: convolutions, decays, gates. */
static void small(const struct rec *r, const char *name, uint64_t rows, uint64_t cols)
{
    if (rows && cols && r->c->count)
        r->w->each(r->w, &(struct weight){.name = name, .role = KVP_ROLE_SMALL, .cls = r->cls, .count = r->c->count, .rows = rows, .cols = cols});
}

static void vector(const struct rec *r, const char *name, uint64_t n)
{
    walk_vector(r->w, KVP_ROLE_SMALL, name, r->cls, r->c->count, n);
}

static void bias(const struct rec *r, const char *name, uint64_t n)
{
    if (n && r->c->count)
        r->w->each(r->w, &(struct weight){.name = name, .role = KVP_ROLE_SMALL, .cls = r->cls, .count = r->c->count, .rows = n, .bias = true});
}

static void conv(const struct rec *r, uint64_t channels)
{
    small(r, "conv1d", channels, r->c->conv);
    if (r->c->conv && r->c->conv_bias)
        bias(r, "conv1d", channels);
}

static void mamba1(const struct rec *r)
{
    const struct kvp_layer_class *c = r->c;
    const uint64_t E = c->inner, n = c->state, R = c->dt_rank;

    matrix(r, "in_proj", 2 * E, r->D, c->rec_bias);
    conv(r, E);
    matrix(r, "x_proj", R + 2 * n, E, false);
    matrix(r, "dt_proj", E, R, true);
    small(r, "A_log", E, n);
    vector(r, "D", E);
    if (c->rec_norm) {
        vector(r, "dt_norm", R);
        vector(r, "b_norm", n);
        vector(r, "c_norm", n);
    }
    matrix(r, "out_proj", r->D, E, c->rec_bias);
}

static void mamba2(const struct rec *r)
{
    const struct kvp_layer_class *c = r->c;
    const uint64_t E = c->inner, bc = 2ull * c->groups * c->state;

    matrix(r, "in_proj", 2 * E + bc + c->rec_heads, r->D, c->rec_bias);
    conv(r, E + bc);
    vector(r, "dt_bias", c->rec_heads);
    vector(r, "A_log", c->rec_heads);
    vector(r, "D", c->rec_heads);
    if (c->rec_norm)
        vector(r, "gated_norm", E);
    matrix(r, "out_proj", r->D, E, c->rec_bias);
}

static void rwkv4(const struct rec *r)
{
    const uint64_t A = r->c->inner;

    vector(r, "time_decay", A);
    vector(r, "time_first", A);
    small(r, "time_mix", 3, r->D);
    matrix(r, "key", A, r->D, false);
    matrix(r, "value", A, r->D, false);
    matrix(r, "receptance", A, r->D, false);
    matrix(r, "output", r->D, A, false);
}

/* RWKV-5 and 6. In 6 low_rank is of the decay, then of the mix. */
static void rwkv56(const struct rec *r)
{
    const uint64_t A = r->c->inner, decay = r->c->low_rank[0], mix = r->c->low_rank[1];

    vector(r, "time_decay", A);
    vector(r, "time_faaaa", A);
    small(r, "time_mix", r->c->recurrent == KVP_REC_RWKV6 ? 6 : 4, r->D);
    matrix(r, "time_maa_w1", 5 * mix, r->D, false);
    matrix(r, "time_maa_w2", 5 * r->D, mix, false);
    matrix(r, "time_decay_w1", decay, r->D, false);
    matrix(r, "time_decay_w2", A, decay, false);
    matrix(r, "key", A, r->D, false);
    matrix(r, "value", A, r->D, false);
    matrix(r, "receptance", A, r->D, false);
    matrix(r, "gate", A, r->D, false);
    matrix(r, "output", r->D, A, false);
    vector(r, "ln_x", A);
    bias(r, "ln_x", A);
}

/* One low-rank pair [rank, D], [A, rank]; in the first layer there is none for v. */
static void low_rank(const struct rec *r, const char *down, const char *up, uint64_t rank, bool with_bias)
{
    matrix(r, down, rank, r->D, false);
    matrix(r, up, rank ? r->c->inner : 0, rank, with_bias);
}

static void rwkv7(const struct rec *r)
{
    const uint64_t A = r->c->inner;
    const uint32_t *rank = r->c->low_rank;

    small(r, "x_mix", 6, r->D);
    vector(r, "k_k", A);
    vector(r, "k_a", A);
    vector(r, "r_k", A);
    matrix(r, "r_proj", A, r->D, false);
    matrix(r, "k_proj", A, r->D, false);
    matrix(r, "v_proj", A, r->D, false);
    low_rank(r, "w_lora_down", "w_lora_up", rank[0], true);
    low_rank(r, "a_lora_down", "a_lora_up", rank[1], true);
    low_rank(r, "v_lora_down", "v_lora_up", rank[2], true);
    low_rank(r, "g_lora_down", "g_lora_up", rank[3], false);
    matrix(r, "o_proj", r->D, A, false);
    vector(r, "g_norm", A);
    bias(r, "g_norm", A);
}

static void channel_mix(const struct rec *r)
{
    const bool gated = r->c->recurrent != KVP_REC_RWKV7;

    small(r, "channel_mix", gated ? 2 : 1, r->D);
    walk_matrix(r->w, KVP_ROLE_FFN, "channel_key", r->cls, r->c->count, r->c->ffn_width, r->D, false);
    if (gated)
        walk_matrix(r->w, KVP_ROLE_FFN, "channel_receptance", r->cls, r->c->count, r->D, r->D, false);
    walk_matrix(r->w, KVP_ROLE_FFN, "channel_value", r->cls, r->c->count, r->D, r->c->ffn_width, false);
}

static void delta(const struct rec *r)
{
    const struct kvp_layer_class *c = r->c;
    const uint64_t qk = 2ull * c->groups * c->state, v = (uint64_t)c->rec_heads * c->rec_head_dim;

    matrix(r, "in_proj_qkvz", qk + 2 * v, r->D, false);
    matrix(r, "in_proj_ba", 2ull * c->rec_heads, r->D, false);
    conv(r, qk + v);
    vector(r, "dt_bias", c->rec_heads);
    vector(r, "A_log", c->rec_heads);
    vector(r, "gated_norm", c->rec_head_dim);
    matrix(r, "out_proj", r->D, v, false);
}

static void kda(const struct rec *r)
{
    const struct kvp_layer_class *c = r->c;
    const uint64_t A = (uint64_t)c->rec_heads * c->rec_head_dim;

    matrix(r, "qkv_proj", 3 * A, r->D, false);
    conv(r, 3 * A);
    vector(r, "A_log", c->rec_heads);
    matrix(r, "f_a_proj", c->low_rank[0], r->D, false);
    matrix(r, "f_b_proj", A, c->low_rank[0], false);
    vector(r, "dt_bias", A);
    matrix(r, "b_proj", c->rec_heads, r->D, false);
    matrix(r, "g_a_proj", c->low_rank[1], r->D, false);
    matrix(r, "g_b_proj", A, c->low_rank[1], c->rec_bias);
    vector(r, "gated_norm", c->rec_head_dim);
    matrix(r, "o_proj", r->D, A, false);
}

static void lightning(const struct rec *r)
{
    const uint64_t A = (uint64_t)r->c->rec_heads * r->c->rec_head_dim;

    matrix(r, "qkv_proj", 3 * A, r->D, false);
    matrix(r, "output_gate", A, r->D, false);
    vector(r, "gated_norm", A);
    matrix(r, "out_proj", r->D, A, false);
}

/* The two gates are block-diagonal: a square block a head, with biases. */
static void rglru(const struct rec *r)
{
    const struct kvp_layer_class *c = r->c;

    matrix(r, "linear_y", c->inner, r->D, c->rec_bias);
    matrix(r, "linear_x", c->inner, r->D, c->rec_bias);
    conv(r, c->inner);
    vector(r, "recurrent_param", c->inner);
    small(r, "input_gate", c->inner, c->rec_head_dim);
    bias(r, "input_gate", c->inner);
    small(r, "recurrent_gate", c->inner, c->rec_head_dim);
    bias(r, "recurrent_gate", c->inner);
    matrix(r, "linear_out", r->D, c->inner, c->rec_bias);
}

static void short_conv(const struct rec *r)
{
    matrix(r, "in_proj", 3ull * r->c->inner, r->D, r->c->rec_bias);
    conv(r, r->c->inner);
    matrix(r, "out_proj", r->D, r->c->inner, r->c->rec_bias);
}

void weights_recurrent(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    static void (*const of[])(const struct rec *) = {
        [KVP_REC_MAMBA1] = mamba1, [KVP_REC_MAMBA2] = mamba2, [KVP_REC_RWKV4] = rwkv4,         [KVP_REC_RWKV5] = rwkv56,
        [KVP_REC_RWKV6] = rwkv56,  [KVP_REC_RWKV7] = rwkv7,   [KVP_REC_DELTA] = delta,         [KVP_REC_KDA] = kda,
        [KVP_REC_LIGHTNING] = lightning, [KVP_REC_RGLRU] = rglru, [KVP_REC_CONV] = short_conv,
    };
    const struct rec r = {w, c, cls, width};

    if (c->recurrent)
        of[c->recurrent](&r);
    if (c->ffn == KVP_FFN_RWKV)
        channel_mix(&r);
}
