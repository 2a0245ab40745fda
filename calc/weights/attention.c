/* attention.c - q, k, v, o, the norms on q and k, and cross-attention. */
#include "calc/weights.h"

static void qk_norms(struct walk *w, const struct kvp_layer_class *c, uint32_t cls)
{
    const uint64_t q = c->qk_norm_wide ? (uint64_t)c->heads * c->head_dim : c->head_dim;
    const uint64_t k = c->qk_norm_wide ? (uint64_t)c->kv_heads * c->head_dim : c->head_dim;

    walk_vector(w, KVP_ROLE_NORM, "q_norm", cls, c->count, q);
    if (!c->no_kv)
        walk_vector(w, KVP_ROLE_NORM, "k_norm", cls, c->count, k);
}

/* W_k and W_v as two factors each (LoRC). */
static void low_rank(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t in)
{
    walk_matrix(w, KVP_ROLE_ATTN, "k_down_proj", cls, c->count, c->low_k, in, false);
    walk_matrix(w, KVP_ROLE_ATTN, "k_up_proj", cls, c->count, (uint64_t)c->kv_heads * c->head_dim, c->low_k, c->qkv_bias);
    walk_matrix(w, KVP_ROLE_ATTN, "v_down_proj", cls, c->count, c->low_v, in, false);
    walk_matrix(w, KVP_ROLE_ATTN, "v_up_proj", cls, c->count, (uint64_t)c->kv_heads * c->v_head_dim, c->low_v, c->qkv_bias);
}

void weights_attention(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    const uint64_t in = c->attn_in ? c->attn_in : width, n = c->count;
    uint64_t q = (uint64_t)c->heads * c->head_dim * (c->gated_q ? 2 : 1);
    uint64_t k = (uint64_t)c->kv_heads * c->head_dim, v = (uint64_t)c->kv_heads * c->v_head_dim;

    if (c->mixer != KVP_MIX_ATTENTION || c->shared_attn)
        return;
    if (c->fused_qkv && !c->no_kv && !c->low_k) {
        walk_matrix(w, KVP_ROLE_ATTN, "qkv_proj", cls, n, q + k + v, in, c->qkv_bias);
        q = k = v = 0;
    }
    walk_matrix(w, KVP_ROLE_ATTN, "q_proj", cls, n, q, in, c->qkv_bias);
    if (c->low_k && !c->no_kv) {
        low_rank(w, c, cls, in);
        k = v = 0;
    }
    if (!c->no_kv)
        walk_matrix(w, KVP_ROLE_ATTN, "k_proj", cls, n, k, in, c->qkv_bias);
    if (!c->no_kv && !c->k_is_v)
        walk_matrix(w, KVP_ROLE_ATTN, "v_proj", cls, n, v, in, c->qkv_bias);
    if (c->qk_norm)
        qk_norms(w, c, cls);
    walk_matrix(w, KVP_ROLE_ATTN, "o_proj", cls, n, width, (uint64_t)c->heads * c->v_head_dim, c->o_bias);
    if (c->sinks)
        walk_vector(w, KVP_ROLE_SMALL, "sinks", cls, n, c->heads);
}

void weights_cross(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    const uint64_t q = (uint64_t)c->cross_heads * c->cross_head_dim, kv = (uint64_t)c->cross_kv_heads * c->cross_head_dim;
    const uint64_t in = c->cross_in ? c->cross_in : width;

    if (!c->cross_heads)
        return;
    walk_matrix(w, KVP_ROLE_ATTN, "cross_q_proj", cls, c->count, q, width, c->qkv_bias);
    walk_matrix(w, KVP_ROLE_ATTN, "cross_k_proj", cls, c->count, kv, in, c->qkv_bias);
    walk_matrix(w, KVP_ROLE_ATTN, "cross_v_proj", cls, c->count, kv, in, c->qkv_bias);
    walk_matrix(w, KVP_ROLE_ATTN, "cross_o_proj", cls, c->count, width, q, c->o_bias);
}
