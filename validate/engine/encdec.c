/* encdec.c - models with an encoder */
#include "validate/engine/encdec.h"

#include "validate/caches/steps.h"
#include "validate/engine/parts.h"
#include "validate/engine/shapes.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- what is run here ------------------------------------------------------------------------------------ */

/* Attention over rows of its own and a dense feed-forward; `cross`: over an encoder's output, too. A new field of a layer class
 * is 0 where the architecture is absent, so what is left after the known ones are cleared must be 0. */
static bool runs_half(const struct kvp_layer_class *c, bool cross)
{
    static const struct kvp_layer_class none;
    struct kvp_layer_class left;

    memcpy(&left, c, sizeof(left));
    if (c->mixer != KVP_MIX_ATTENTION || c->v_head_dim != c->head_dim || !c->ffn_width || c->norms != (cross ? 3 : 2) ||
        (c->ffn != KVP_FFN_PLAIN && c->ffn != KVP_FFN_GATED) || !c->cross_heads != !cross)
        return false;
    left.count = left.heads = left.kv_heads = left.head_dim = left.v_head_dim = left.ffn_width = left.norms = 0;
    left.cross_heads = left.cross_kv_heads = left.cross_head_dim = 0;
    left.mixer = KVP_MIX_NONE;
    left.ffn = KVP_FFN_NONE;
    left.act = KVP_ACT_SILU;
    left.qkv_bias = left.o_bias = left.ffn_bias = left.fused_qkv = left.fused_gate_up = false;
    return memcmp(&left, &none, sizeof(none)) == 0;
}

/* BART: tables of positions, a norm behind the embeddings and behind each half of a layer, none at the end. */
static bool runs_bart(const struct kvp_model *m)
{
    return m->numbers.norms_last && m->no_final_norm && m->norm == KVP_NORM_LAYER && m->norm_vectors == 2 &&
           m->position == KVP_POS_LEARNED && m->position_rows >= m->max_positions && m->encoder_rows == m->position_rows &&
           m->extra[0].name && strcmp(m->extra[0].name, "embedding_norm") == 0 && !m->extra[1].name;
}

kvp_err encdec_check(const struct kvp_model *m, struct kvp_error *e)
{
    bool runs = runs_bart(m) && !m->head_rows && !m->no_head && !m->encoder_width && !m->encoder_channels && !m->embed_width &&
                m->quant.format == KVP_WF_PLAIN;

    for (uint32_t i = 0; i < m->encoders; i++)
        runs = runs && runs_half(&m->encoder[i], false);
    for (uint32_t i = 0; i < m->classes; i++)
        runs = runs && runs_half(&m->cls[i], true);
    return runs ? KVP_OK : kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not run layers of this kind with an encoder yet", m->name);
}

kvp_err encdec_check_options(const struct kvp_model *m, const struct eng_options *o, struct kvp_error *e)
{
    uint64_t rows;

    if (!m->encoders)
        return KVP_OK;
    if (!o->encoder_tokens)
        return kvp_fail(e, KVP_EINPUT, "%s: the encoder needs tokens", m->name);
    if (m->encoder_rows && o->encoder_tokens > m->encoder_positions)
        return kvp_fail(e, KVP_EINPUT, "%s: %" PRIu64 " encoder tokens, but its table of learned positions has %" PRIu64 " rows", m->name,
                        o->encoder_tokens, m->encoder_positions);
    if (__builtin_mul_overflow(o->encoder_tokens, o->batch, &rows) || rows > INT32_MAX)
        return kvp_fail(e, KVP_ERANGE, "batch times encoder tokens is more than 2^31");
    if (o->pool)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not serve models with an encoder", m->name);
    return KVP_OK;
}

/* ---- life ------------------------------------------------------------------------------------------------ */

kvp_err encdec_open(struct eng *g, struct kvp_error *e)
{
    const uint64_t rows = g->o.batch * g->o.encoder_tokens;

    if (!g->m->encoders)
        return KVP_OK;
    if (g->passes.hit) /* what a decoder makes of a prefix hangs on what its encoder read */
        return kvp_fail(e, KVP_ENOTSUP, "prefix: sequences of %s share nothing unless they have the same source", g->m->name);
    g->rows = rows > g->rows ? rows : g->rows;
    g->source = malloc((size_t)rows * sizeof(*g->source));
    if (!g->source)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for the encoder's tokens");
    return cross_open(&g->cross, &g->led, g->m, g->o.kv, g->o.batch, g->o.encoder_tokens, e);
}

void encdec_close(struct eng *g)
{
    cross_close(&g->cross);
    free(g->source);
    g->source = NULL;
}

kvp_err eng_source(struct eng *g, const int32_t *tokens, struct kvp_error *e)
{
    const uint64_t n = g->o.batch * g->o.encoder_tokens;

    if (!g->m->encoders)
        return kvp_fail(e, KVP_EINPUT, "%s has no encoder to read a source", g->m->name);
    for (uint64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= g->m->vocab)
            return kvp_fail(e, KVP_EINPUT, "source token %" PRIu64 " is %" PRId32 ", the vocabulary has %" PRIu32, i, tokens[i], g->m->vocab);
    memcpy(g->source, tokens, (size_t)n * sizeof(*tokens));
    g->sourced = true;
    return KVP_OK;
}

kvp_err eng_poison_source(struct eng *g, uint32_t layer, uint64_t token, struct kvp_error *e)
{
    if (g->own.xc.blocks)
        return xc_poison(g, layer, token, e);
    if (!g->m->encoders || layer >= g->m->layers || token >= g->o.encoder_tokens)
        return kvp_fail(e, KVP_EINPUT, "%s: no key of an encoder's token %" PRIu64 " in layer %" PRIu32, g->m->name, token, layer);
    return cross_poison(&g->cross, layer, token, e);
}

/* ---- the encoder ----------------------------------------------------------------------------------------- */

kvp_err encdec_attend(struct eng *g, uint32_t layer, const struct pass *p, uint64_t stride, struct kvp_error *e)
{
    const struct kvp_layer_class *c = eng_class(g, layer);
    const uint64_t q = (uint64_t)c->heads * c->head_dim, kv = (uint64_t)c->kv_heads * c->head_dim;
    const struct kb_attn_cross a = {.batch = p->batch, .queries = p->tokens, .used = p->tokens, .heads = c->heads, .kv_heads = c->kv_heads,
                                    .head_dim = c->head_dim, .scale = class_scale(g->m, c), .q_stride = stride, .q = at(&g->qkv, 0),
                                    .kv_stride = stride, .k = at(&g->qkv, q), .v = at(&g->qkv, q + kv), .out_stride = q,
                                    .out = at(&g->out, 0)};

    return eng_run(g, KVP_OP_ATTN, KB_ATTN_CROSS, &a, e);
}

/* Keys and values of the encoder's output, in `from`, for one layer. */
static kvp_err keep(struct eng *g, uint32_t layer, const struct pass *p, const struct led_mem *from, struct kvp_error *e)
{
    const struct kvp_layer_class *c = eng_class(g, layer);
    const uint32_t kv = c->cross_kv_heads * c->cross_head_dim;
    const struct linear l = {.op = KVP_OP_CROSS_QKV, .rows = p->rows, .n = 2 * kv, .k = g->m->width, .role = WT_CROSS_KV, .layer = layer,
                             .w = weight(g, WT_CROSS_KV, layer), .bias = weight(g, WT_CROSS_KV_BIAS, layer), .x = at(from, 0),
                             .x_stride = g->m->width, .out = at(&g->qkv, 0), .out_stride = 2 * kv};
    struct kb_cache_write w = {.batch = p->batch, .count = p->tokens, .src_tokens = p->tokens, .src_stride = 2 * kv};
    struct kb_kv to[2];

    KVP_TRY(eng_linear(g, &l, e));
    cross_view(&g->cross, layer, 0, &to[0], &to[1]);
    for (int i = 0; i < 2; i++) {
        w.dst = to[i];
        w.src = at(&g->qkv, i ? kv : 0);
        KVP_TRY(eng_run(g, KVP_OP_CROSS_QKV, KB_CACHE_WRITE, &w, e));
    }
    return KVP_OK;
}

static kvp_err run_encoder(struct eng *g, const struct pass *p, struct kvp_error *e)
{
    KVP_TRY(eng_embed(g, p->rows, true, e));
    for (uint32_t l = g->m->layers; l < g->w.layers; l++)
        KVP_TRY(eng_layer(g, l, p, e));
    return KVP_OK;
}

kvp_err encdec_encode(struct eng *g, struct kvp_error *e)
{
    const struct pass p = {.tokens = g->o.encoder_tokens, .rows = g->o.batch * g->o.encoder_tokens, .batch = g->o.batch};
    kvp_err rc;

    if (!g->m->encoders)
        return KVP_OK;
    if (!g->sourced)
        return kvp_fail(e, KVP_EINPUT, "%s: a prefill needs the encoder's tokens first", g->m->name);
    KVP_TRY(eng_upload(g, g->source, &p, e));
    g->encoding = true;
    rc = run_encoder(g, &p, e);
    g->encoding = false;
    for (uint32_t l = 0; rc == KVP_OK && l < g->m->layers; l++)
        rc = keep(g, l, &p, &g->x, e);
    return rc;
}

/* ---- the decoder ----------------------------------------------------------------------------------------- */

kvp_err encdec_cross(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct kvp_layer_class *c = eng_class(g, layer);
    const uint32_t width = g->m->width, inner = c->cross_heads * c->cross_head_dim;
    const struct linear q = {.op = KVP_OP_CROSS_QKV, .rows = p->rows, .n = inner, .k = width, .role = WT_CROSS_Q, .layer = layer,
                             .w = weight(g, WT_CROSS_Q, layer), .bias = weight(g, WT_CROSS_Q_BIAS, layer), .x = eng_half_input(g, 0),
                             .x_stride = width, .out = at(&g->qkv, 0), .out_stride = inner};
    const struct linear o = {.op = KVP_OP_CROSS_O, .rows = p->rows, .n = width, .k = inner, .role = WT_CROSS_O, .layer = layer,
                             .w = weight(g, WT_CROSS_O, layer), .bias = weight(g, WT_CROSS_O_BIAS, layer), .x = at(&g->out, 0),
                             .x_stride = inner, .out = at(&g->x, 0), .out_stride = width, .residual = true};
    struct kb_attn_cross a = {.batch = p->batch, .queries = p->tokens, .used = g->cross.tokens, .heads = c->cross_heads,
                              .kv_heads = c->cross_kv_heads, .head_dim = c->cross_head_dim, .q_stride = inner, .q = at(&g->qkv, 0),
                              .out_stride = inner, .out = at(&g->out, 0)};

    a.scale = class_scale(g->m, c);
    cross_view(&g->cross, layer, p->first, &a.stored_k, &a.stored_v);
    KVP_TRY(eng_norm_first(g, KVP_OP_ATTN_NORM, WT_CROSS_NORM, layer, p->rows, e));
    KVP_TRY(eng_linear(g, &q, e));
    KVP_TRY(eng_run(g, KVP_OP_CROSS_ATTN, KB_ATTN_CROSS, &a, e));
    KVP_TRY(eng_linear(g, &o, e));
    return eng_norm_last(g, KVP_OP_ATTN_NORM, WT_CROSS_NORM, layer, 0, p->rows, e);
}
