/* mla.c - multi-head latent attention: the low-rank projections, their norms, and the sparse-attention
 * indexer that some models put beside attention.
 *
 * DeepSeek-V2 arXiv:2405.04434; deepseek-ai/DeepSeek-V3 inference/model.py (class MLA), DeepSeek-V3.2-Exp
 * inference/model.py (class Indexer: wq_b, wk, k_norm with a bias, weights_proj). MiniMax-M3's indexer, beside
 * plain attention: vllm/models/minimax_m3 (index_q_proj, index_k_proj, a norm on each, no value). DeepSeek-V4: the
 * shapes in its checkpoints' headers (layers.N.attn.{wq_a, wq_b, wkv, wo_a, wo_b, compressor, indexer}, hc_*). */
#include "calc/weights.h"

static void indexer(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    const uint64_t q = (uint64_t)c->index_heads * c->index_dim, n = c->count;
    const bool latent = c->mixer == KVP_MIX_MLA;

    walk_matrix(w, KVP_ROLE_ATTN, "index_q_proj", cls, n, q, latent && c->q_rank ? c->q_rank : width, false);
    walk_matrix(w, KVP_ROLE_ATTN, "index_k_proj", cls, n, c->index_dim, width, false);
    walk_vector(w, KVP_ROLE_NORM, "index_k_norm", cls, n, c->index_dim);
    walk_vector(w, KVP_ROLE_NORM, latent ? "index_k_norm.b" : "index_q_norm", cls, n, c->index_dim);
    if (latent)
        walk_matrix(w, KVP_ROLE_SMALL, "index_weights_proj", cls, n, c->index_heads, width, false);
}

static void latent(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    const uint64_t n = c->count, q = (uint64_t)c->heads * c->head_dim;

    if (c->q_rank) {
        walk_matrix(w, KVP_ROLE_ATTN, "q_a_proj", cls, n, c->q_rank, width, c->qkv_bias);
        walk_vector(w, KVP_ROLE_NORM, "q_a_norm", cls, n, c->q_rank);
        walk_matrix(w, KVP_ROLE_ATTN, "q_b_proj", cls, n, q, c->q_rank, false);
    } else {
        walk_matrix(w, KVP_ROLE_ATTN, "q_proj", cls, n, q, width, false);
    }
    walk_matrix(w, KVP_ROLE_ATTN, "kv_a_proj", cls, n, (uint64_t)c->kv_rank + c->rope_dim, width, c->qkv_bias);
    walk_vector(w, KVP_ROLE_NORM, "kv_a_norm", cls, n, c->kv_rank);
    walk_matrix(w, KVP_ROLE_ATTN, "kv_b_proj", cls, n, (uint64_t)c->heads * ((uint64_t)c->nope_dim + c->v_head_dim), c->kv_rank, false);
    walk_matrix(w, KVP_ROLE_ATTN, "o_proj", cls, n, width, (uint64_t)c->heads * c->v_head_dim, c->o_bias);
}

/* ---- DeepSeek-V4 ---------------------------------------------------------------------------------------- */

/* `dim` wide rows merged from c->compress tokens; groups of 4 overlap, and need twice the channels. */
static void compressor(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width, uint64_t dim)
{
    const uint64_t channels = dim * (c->compress == 4 ? 2 : 1);

    walk_matrix(w, KVP_ROLE_SMALL, "compressor.kv_proj", cls, c->count, channels, width, false);
    walk_matrix(w, KVP_ROLE_SMALL, "compressor.gate_proj", cls, c->count, channels, width, false);
    walk_matrix(w, KVP_ROLE_SMALL, "compressor.position_bias", cls, c->count, c->compress, channels, false);
    walk_vector(w, KVP_ROLE_NORM, "compressor.norm", cls, c->count, dim);
}

/* What mixes the residual's streams before and after each half of a layer. */
static void hyper_connections(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    const uint64_t m = c->streams, mixes = (2 + m) * m;

    walk_matrix(w, KVP_ROLE_SMALL, "hyper.fn", cls, 2ull * c->count, mixes, m * width, false);
    walk_vector(w, KVP_ROLE_SMALL, "hyper.base", cls, 2ull * c->count, mixes);
    walk_vector(w, KVP_ROLE_SMALL, "hyper.scale", cls, 2ull * c->count, m ? 3 : 0);
}

static void compressed(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    const uint64_t n = c->count, heads = (uint64_t)c->heads * c->head_dim, out = (uint64_t)c->o_groups * c->o_rank;

    walk_matrix(w, KVP_ROLE_ATTN, "q_a_proj", cls, n, c->q_rank, width, false);
    walk_vector(w, KVP_ROLE_NORM, "q_a_norm", cls, n, c->q_rank);
    walk_matrix(w, KVP_ROLE_ATTN, "q_b_proj", cls, n, heads, c->q_rank, false);
    walk_matrix(w, KVP_ROLE_ATTN, "kv_proj", cls, n, c->head_dim, width, false);
    walk_vector(w, KVP_ROLE_NORM, "kv_norm", cls, n, c->head_dim);
    walk_matrix(w, KVP_ROLE_ATTN, "o_a_proj", cls, n, out, heads / c->o_groups, false);
    walk_matrix(w, KVP_ROLE_ATTN, "o_b_proj", cls, n, width, out, false);
    walk_vector(w, KVP_ROLE_SMALL, "sinks", cls, n, c->sinks ? c->heads : 0);
    hyper_connections(w, c, cls, width);
    if (c->compress)
        compressor(w, c, cls, width, c->head_dim);
    if (!c->index_dim)
        return;
    walk_matrix(w, KVP_ROLE_ATTN, "index_q_proj", cls, n, (uint64_t)c->index_heads * c->index_dim, c->q_rank, false);
    walk_matrix(w, KVP_ROLE_SMALL, "index_weights_proj", cls, n, c->index_heads, width, false);
    compressor(w, c, cls, width, c->index_dim);
}

void weights_mla(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    if (c->o_groups) {
        compressed(w, c, cls, width);
        return;
    }
    if (c->mixer == KVP_MIX_MLA && !c->shared_attn)
        latent(w, c, cls, width);
    if (c->mixer != KVP_MIX_NONE && c->index_dim)
        indexer(w, c, cls, width);
}
