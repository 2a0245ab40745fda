#include "validate/engine/convert.h"
#include "validate/engine/encdec.h"
#include "validate/engine/parts.h"
#include "validate/engine/shapes.h"

#include <math.h>

/* ---- attention ---------------------------------------------------------------------------------- */

/* Where q, k and v of a layer lie in a row of g->qkv. */
struct heads {
    const struct kvp_layer_class *c;
    uint64_t k, v, stride;
    bool has_q, has_kv; /* what a pass projects */
};

static struct heads heads_of(const struct kvp_layer_class *c)
{
    const uint64_t q = (uint64_t)c->heads * c->head_dim, kv = (uint64_t)c->kv_heads * c->head_dim;

    return (struct heads){.c = c, .k = q, .v = q + kv, .stride = q + 2 * kv, .has_q = true, .has_kv = !c->no_kv};
}

static kvp_err qk_norm(struct eng *g, uint32_t layer, const struct heads *h, uint64_t rows, struct kvp_error *e)
{
    const struct {
        enum wt_role role;
        uint32_t heads;
        uint64_t first;
    } parts[] = {{WT_Q_NORM, h->c->heads, 0}, {WT_K_NORM, h->c->kv_heads, h->k}};
    const bool wide = h->c->qk_norm_wide;

    for (size_t i = h->has_q ? 0 : 1; i < (h->has_kv ? 2 : 1); i++) {
        const struct kb_norm a = {.rows = rows, .groups = wide ? 1 : parts[i].heads,
                                  .width = wide ? parts[i].heads * h->c->head_dim : h->c->head_dim,
                                  .in_stride = h->stride, .out_stride = h->stride, .eps = g->m->norm_eps, .add_one = g->m->numbers.norm_add_one,
                                  .format = g->w.coding.vectors, .weight = weight(g, parts[i].role, layer),
                                  .in = at(&g->qkv, parts[i].first), .out = at(&g->qkv, parts[i].first)};

        KVP_TRY(eng_run(g, KVP_OP_QK_NORM, KB_NORM, &a, e));
    }
    return KVP_OK;
}

kvp_err eng_turn(struct eng *g, const struct kvp_layer_class *c, uint64_t rows, struct kb_span x, uint64_t stride, uint32_t heads,
                 uint64_t head, struct kvp_error *e)
{
    const uint32_t turned = eng_rotary_dim(g->m, c);
    const bool sliding = c->window && g->m->numbers.window_theta > 0;
    const struct kb_rope a = {.rows = rows, .heads = heads, .head_dim = turned, .stride = stride, .x = x,
                              .positions = {g->positions.buf, 0}, .inv_freq = at(&g->inv_freq, sliding ? turned / 2 : 0),
                              .head_stride = head == turned ? 0 : head, .neighbours = g->m->numbers.rope_neighbours,
                              .amplitude = sliding ? 0 : eng_rope_amplitude(g->m)};

    if (g->m->position != KVP_POS_ROPE || c->no_rope)
        return KVP_OK;
    return eng_run(g, KVP_OP_ROPE, KB_ROPE, &a, e);
}

/* q's and k's heads lie side by side, so one call turns both. */
static kvp_err rope(struct eng *g, const struct heads *h, uint64_t rows, struct kvp_error *e)
{
    const uint32_t heads = (h->has_q ? h->c->heads : 0) + (h->has_kv ? h->c->kv_heads : 0);

    return eng_turn(g, h->c, rows, at(&g->qkv, h->has_q ? 0 : h->k), h->stride, heads, h->c->head_dim, e);
}

kvp_err eng_rope(void *self, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    struct eng *g = self;
    const struct kvp_layer_class *c = &g->m->cls[g->m->class_of[layer]];

    return eng_turn(g, c, x->batch * x->tokens, x->q, x->stride, c->heads + c->kv_heads, c->head_dim, e); /* k follows q */
}

static kvp_err attend(struct eng *g, uint32_t layer, const struct pass *p, const struct heads *h, struct kvp_error *e)
{
    struct cache_qkv a = {.tokens = p->tokens, .position = p->position, .stride = h->stride, .q = at(&g->qkv, 0),
                                .k = at(&g->qkv, h->k), .v = at(&g->qkv, h->v), .out_stride = h->k,
                                .out = at(&g->out, 0), .lse = at(&g->lse, 0), .sinks = weight(g, WT_SINKS, layer),
                                .sink_format = g->w.coding.vectors, .slopes = at(&g->slopes, 0), .first = p->first, .batch = p->batch};

    if (layer >= g->m->layers)
        return encdec_attend(g, layer, p, h->stride, e);
    if (p->extend)
        return g->cache_ops->extend(g->cache, layer, &a, e);
    if (!h->has_q)
        a.q.buf = NULL;
    if (!h->has_kv && !p->prefill)
        a.k.buf = a.v.buf = NULL;
    return p->prefill ? g->cache_ops->prefill(g->cache, layer, &a, e) : g->cache_ops->decode(g->cache, layer, &a, e);
}

/* q and k, once rotated, without weights. */
static kvp_err norm_turned(struct eng *g, const struct heads *h, uint64_t rows, struct kvp_error *e)
{
    const uint32_t heads = (h->has_q ? h->c->heads : 0) + (h->has_kv ? h->c->kv_heads : 0);
    const struct kb_norm a = {.rows = rows, .groups = heads, .width = h->c->head_dim, .in_stride = h->stride, .out_stride = h->stride,
                              .eps = g->m->norm_eps, .in = at(&g->qkv, h->has_q ? 0 : h->k), .out = at(&g->qkv, h->has_q ? 0 : h->k)};

    return eng_run(g, KVP_OP_QK_NORM, KB_NORM, &a, e);
}

static kvp_err warm_q(struct eng *g, const struct heads *h, uint64_t rows, struct kvp_error *e)
{
    const struct kb_rope a = {.rows = rows, .heads = h->c->heads, .head_dim = h->c->head_dim, .stride = h->stride, .x = at(&g->qkv, 0),
                              .positions = {g->positions.buf, 0}, .warm_every = (float)g->m->numbers.warm_every,
                              .warm_by = (float)g->m->numbers.warm_by};

    return eng_run(g, KVP_OP_QK_NORM, KB_ROPE, &a, e);
}

kvp_err eng_scale(struct eng *g, enum kvp_op op, struct kb_span x, uint64_t rows, uint32_t width, uint64_t stride, double by, struct kvp_error *e)
{
    const struct kb_act a = {.rows = rows, .width = width, .kind = KB_ACT_SCALE, .alpha = (float)by, .in_stride = stride, .out_stride = stride,
                             .in = x, .out = x};

    return by > 0 && by != 1 ? eng_run(g, op, KB_ACT, &a, e) : KVP_OK;
}

/* q, k and v of every row, or the part of them that h says, normed and rotated, in g->qkv. */
static kvp_err project(struct eng *g, uint32_t layer, const struct pass *p, const struct heads *h, struct kvp_error *e)
{
    const uint32_t width = g->m->width;
    const uint64_t first = h->has_q ? 0 : h->k, end = h->has_kv ? h->stride : h->k, size = cvt_size(g->w.coding.plain);
    struct linear qkv = {.op = KVP_OP_QKV, .rows = p->rows, .n = (uint32_t)(end - first), .k = width,
                         .role = WT_QKV, .layer = layer, .first = first, .w = weight(g, WT_QKV, layer),
                         .bias = weight(g, WT_QKV_BIAS, layer), .x = eng_half_input(g, 0),
                         .x_stride = width, .out = at(&g->qkv, first), .out_stride = h->stride};

    qkv.w.offset += first * width * size;
    qkv.bias.offset += first * cvt_size(g->w.coding.vectors);
    KVP_TRY(eng_norm_first(g, KVP_OP_ATTN_NORM, WT_ATTN_NORM, layer, p->rows, e));
    KVP_TRY(eng_linear(g, &qkv, e));
    if (h->c->qk_norm)
        KVP_TRY(qk_norm(g, layer, h, p->rows, e));
    if (g->cache_ops->raw)
        return KVP_OK;
    KVP_TRY(rope(g, h, p->rows, e));
    if (g->m->numbers.warm_every > 0 && h->c->no_rope && h->has_q)
        return warm_q(g, h, p->rows, e);
    return g->m->numbers.norm_qk_after && !h->c->no_rope ? norm_turned(g, h, p->rows, e) : KVP_OK;
}

/* Rows [first, first + rows) of g->h, normed, onto the residual. */
static kvp_err norm_after(struct eng *g, enum kvp_op op, enum wt_role role, uint32_t layer, uint64_t first, uint64_t rows,
                          struct kvp_error *e)
{
    const uint64_t width = g->m->width;
    const struct kb_norm a = {.rows = rows, .groups = 1, .width = g->m->width, .in_stride = width, .out_stride = width,
                              .eps = g->m->norm_eps, .format = g->w.coding.vectors, .weight = weight(g, role, layer),
                              .in = at(&g->h, first * width), .out = at(&g->x, first * width),
                              .add_one = g->m->numbers.norm_add_one, .accumulate = true};

    return eng_run(g, op, KB_NORM, &a, e);
}

/* Attention's output times sigmoid of a projection of the same normed rows; q, k and v are used up. */
static kvp_err gate_output(struct eng *g, uint32_t layer, const struct pass *p, const struct heads *h, struct kvp_error *e)
{
    const uint32_t width = g->m->width;
    const struct linear l = {.op = KVP_OP_QKV, .rows = p->rows, .n = (uint32_t)h->k, .k = width, .role = WT_Q_GATE, .layer = layer,
                             .w = weight(g, WT_Q_GATE, layer), .x = at(&g->h, 0), .x_stride = width, .out = at(&g->qkv, 0),
                             .out_stride = h->stride};
    const struct kb_gate a = {.rows = p->rows, .width = (uint32_t)h->k, .gate_stride = h->stride, .out_stride = h->k, .gate = at(&g->qkv, 0),
                              .out = at(&g->out, 0)};

    KVP_TRY(eng_linear(g, &l, e));
    return eng_run(g, KVP_OP_QKV, KB_GATE, &a, e);
}

static kvp_err attention_with(struct eng *g, uint32_t layer, const struct pass *p, const struct heads *h, struct kvp_error *e)
{
    const uint32_t width = g->m->width;
    const uint32_t outs = h->c->heads * h->c->v_head_dim;
    struct linear o = {.op = KVP_OP_O_PROJ, .rows = p->rows, .n = width, .k = outs,
                       .role = WT_O, .layer = layer, .w = weight(g, WT_O, layer),
                       .bias = weight(g, WT_O_BIAS, layer), .x = at(&g->out, 0), .x_stride = outs,
                       .out = at(&g->x, 0), .out_stride = width, .residual = true};

    if (h->c->mixer == KVP_MIX_MLA) {
        KVP_TRY(norm(g, KVP_OP_ATTN_NORM, WT_ATTN_NORM, layer, p->rows, at(&g->x, 0), width, e));
        KVP_TRY(eng_mla(g, layer, p, e));
    } else if (h->c->low_k) {
        KVP_TRY(norm(g, KVP_OP_ATTN_NORM, WT_ATTN_NORM, layer, p->rows, at(&g->x, 0), width, e));
        KVP_TRY(eng_low(g, layer, p, e));
    } else {
        KVP_TRY(project(g, layer, p, h, e));
        KVP_TRY(attend(g, layer, p, h, e));
    }
    if (!h->has_q)
        return KVP_OK;
    if (h->c->gated_q)
        KVP_TRY(gate_output(g, layer, p, h, e));
    KVP_TRY(eng_scale(g, KVP_OP_O_PROJ, at(&g->out, 0), p->rows, outs, outs, g->m->numbers.residual_scale, e));
    if (g->m->numbers.norms_after) {
        o.out = at(&g->h, 0);
        o.residual = false;
        KVP_TRY(eng_linear(g, &o, e));
        return norm_after(g, KVP_OP_ATTN_NORM, WT_POST_ATTN_NORM, layer, 0, p->rows, e);
    }
    if (g->m->numbers.parallel && h->c->norms == 2) /* the feed-forward reads what attention read */
        KVP_TRY(norm(g, KVP_OP_MLP_NORM, WT_MLP_NORM, layer, p->rows, at(&g->x, 0), width, e));
    KVP_TRY(eng_linear(g, &o, e));
    return eng_norm_last(g, KVP_OP_ATTN_NORM, WT_ATTN_NORM, layer, 0, p->rows, e);
}

static kvp_err attention(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct heads h = heads_of(eng_class(g, layer));

    return attention_with(g, layer, p, &h, e);
}

/* ---- the upper half, for the last token only ------------------------------------------------------ */

/* Row b of the residual and of the positions becomes what row (b + 1) * tokens - 1 was. */
static kvp_err keep_last_rows(struct eng *g, const struct pass *p, struct kvp_error *e)
{
    const struct {
        struct kb_buf *buf;
        uint64_t bytes;
    } rows[] = {{g->x.buf, g->m->width * sizeof(float)}, {g->positions.buf, sizeof(int32_t)}};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (uint64_t b = 0; b < p->batch && p->tokens > 1; b++)
            KVP_TRY(g->o.backend->copy(g->dev, (struct kb_span){rows[i].buf, b * rows[i].bytes},
                                       (struct kb_span){rows[i].buf, ((b + 1) * p->tokens - 1) * rows[i].bytes}, rows[i].bytes, e));
    return KVP_OK;
}

/* The layer stores every token's k and v; from its queries on, the pass is a step with each sequence's last token
 * (Sun et al. 2024, arXiv:2405.05254, section 2.3). */
static kvp_err turn_to_last(struct eng *g, uint32_t layer, struct pass *p, struct kvp_error *e)
{
    struct heads h = heads_of(&g->m->cls[g->m->class_of[layer]]);

    h.has_q = false;
    KVP_TRY(attention_with(g, layer, p, &h, e));
    KVP_TRY(keep_last_rows(g, p, e));
    *p = (struct pass){.tokens = 1, .rows = p->batch, .first = p->first, .batch = p->batch, .position = p->position + p->tokens - 1};
    h.has_q = true;
    h.has_kv = false;
    return attention_with(g, layer, p, &h, e);
}

/* ---- feed-forward ------------------------------------------------------------------------------- */

static kvp_err mlp_rows(struct eng *g, uint32_t layer, uint64_t first, uint64_t rows, struct kvp_error *e)
{
    static const enum kb_act_kind kinds[] = {[KVP_ACT_SILU] = KB_ACT_SILU, [KVP_ACT_GELU_TANH] = KB_ACT_GELU_TANH,
                                             [KVP_ACT_GELU] = KB_ACT_GELU, [KVP_ACT_RELU] = KB_ACT_RELU,
                                             [KVP_ACT_RELU2] = KB_ACT_RELU2};
    const struct kvp_layer_class *c = eng_class(g, layer);
    const bool gated = c->ffn == KVP_FFN_GATED;
    const uint32_t width = g->m->width, wide = (gated ? 2 : 1) * c->ffn_width;
    const struct linear up = {.op = KVP_OP_MLP_UP, .rows = rows, .n = wide, .k = width, .role = WT_UP, .layer = layer, .w = weight(g, WT_UP, layer),
                              .bias = weight(g, WT_UP_BIAS, layer), .x = eng_half_input(g, first), .x_stride = width,
                              .out = at(&g->mlp, 0), .out_stride = wide};
    const struct kb_act act = {.rows = rows, .width = c->ffn_width, .gated = gated, .kind = kinds[c->act],
                               .in_stride = wide, .out_stride = wide, .in = at(&g->mlp, 0), .out = at(&g->mlp, 0)};
    const bool after = g->m->numbers.norms_after;
    const struct linear down = {.op = KVP_OP_MLP_DOWN, .rows = rows, .n = width, .k = c->ffn_width,
                                .role = WT_DOWN, .layer = layer, .w = weight(g, WT_DOWN, layer), .bias = weight(g, WT_DOWN_BIAS, layer),
                                .x = at(&g->mlp, 0), .x_stride = wide, .out = at(after ? &g->h : &g->x, first * width),
                                .out_stride = width, .residual = !after};

    if (c->experts)
        return eng_experts(g, layer, first, rows, e);
    KVP_TRY(eng_linear(g, &up, e));
    KVP_TRY(eng_run(g, KVP_OP_MLP_ACT, KB_ACT, &act, e));
    KVP_TRY(eng_scale(g, KVP_OP_MLP_ACT, at(&g->mlp, 0), rows, c->ffn_width, wide, g->m->numbers.residual_scale, e));
    KVP_TRY(eng_linear(g, &down, e));
    return after ? norm_after(g, KVP_OP_MLP_NORM, WT_POST_MLP_NORM, layer, first, rows, e)
                 : eng_norm_last(g, KVP_OP_MLP_NORM, WT_MLP_NORM, layer, first, rows, e);
}

static kvp_err mlp(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    if (!g->m->numbers.parallel)
        KVP_TRY(eng_norm_first(g, KVP_OP_MLP_NORM, WT_MLP_NORM, layer, p->rows, e));
    for (uint64_t r = 0; r < p->rows; r += MLP_ROWS)
        KVP_TRY(mlp_rows(g, layer, r, p->rows - r < MLP_ROWS ? p->rows - r : MLP_ROWS, e));
    return KVP_OK;
}

/* ---- whole passes ------------------------------------------------------------------------------- */

static kvp_err embed_norm(struct eng *g, uint64_t rows, bool encoder, struct kvp_error *e)
{
    const enum wt_role role = encoder ? WT_ENC_EMBED_NORM : WT_EMBED_NORM;
    const struct kb_norm a = {.rows = rows, .groups = 1, .width = g->m->width, .in_stride = g->m->width, .out_stride = g->m->width,
                              .layer = g->m->norm == KVP_NORM_LAYER, .eps = g->m->norm_eps, .format = g->w.coding.vectors,
                              .weight = weight(g, role, 0), .bias = weight(g, (enum wt_role)(role + 1), 0), .in = at(&g->x, 0),
                              .out = at(&g->x, 0)};

    return eng_run(g, KVP_OP_EMBED, KB_NORM, &a, e);
}

static kvp_err run_embed(struct eng *g, struct kb_embed a, struct kvp_error *e)
{
    uint32_t n;
    const struct wt_coded *table = weights_coded(&g->w, WT_EMBED, 0, &n), *position = weights_coded(&g->w, WT_POSITION, 0, &(uint32_t){0});

    if (n) {
        a.format = g->w.coding.format;
        a.code = weights_code(&g->w, table);
        a.table = (struct kb_span){table->part[WT_CODE].buf, 0};
        a.position_code = weights_code(&g->w, position);
        a.position_table = (struct kb_span){position->part[WT_CODE].buf, 0};
    }
    return eng_run(g, KVP_OP_EMBED, KB_EMBED, &a, e);
}

static kvp_err mix(struct eng *g, uint32_t layer, struct pass *p, bool last_only, struct kvp_error *e)
{
    if (g->m->cls[g->m->class_of[layer]].recurrent)
        return mixers_layer(g, layer, p, e);
    if (g->m->cls[g->m->class_of[layer]].mixer == KVP_MIX_NONE)
        return KVP_OK;
    return last_only && p->prefill && layer == g->own.last_only_from ? turn_to_last(g, layer, p, e) : attention(g, layer, p, e);
}

static kvp_err feed_forward(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const enum kvp_ffn kind = g->m->cls[g->m->class_of[layer]].ffn;

    if (kind == KVP_FFN_NONE)
        return KVP_OK;
    return kind == KVP_FFN_RWKV ? mixers_channels(g, layer, p, e) : mlp(g, layer, p, e);
}

kvp_err eng_embed(struct eng *g, uint64_t rows, bool encoder, struct kvp_error *e)
{
    const bool learned = g->m->position == KVP_POS_LEARNED;
    const struct kb_embed embed = {.rows = rows, .width = g->m->width, .vocab = g->m->vocab, .format = g->w.coding.plain,
                                   .tokens = {g->tokens.buf, 0}, .table = weight(g, WT_EMBED, 0),
                                   .position_ids = {learned ? g->positions.buf : NULL, 0},
                                   .position_table = weight(g, encoder ? WT_ENC_POSITION : WT_POSITION, 0), .out = at(&g->x, 0),
                                   .scale = (float)g->m->numbers.embed_scale};

    KVP_TRY(run_embed(g, embed, e));
    return weight(g, WT_EMBED_NORM, 0).buf ? embed_norm(g, rows, encoder, e) : KVP_OK;
}

kvp_err eng_layer(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    KVP_TRY(attention(g, layer, p, e));
    return mlp(g, layer, p, e);
}

kvp_err eng_layers(struct eng *g, struct pass *p, bool last_only, struct kvp_error *e)
{
    KVP_TRY(eng_embed(g, p->rows, false, e));
    for (uint32_t l = 0; l < g->m->layers; l++) {
        KVP_TRY(mix(g, l, p, last_only, e));
        if (g->m->encoders)
            KVP_TRY(encdec_cross(g, l, p, e));
        KVP_TRY(feed_forward(g, l, p, e));
        KVP_TRY(xc_block(g, l, p, e));
    }
    return KVP_OK;
}

/* Logits of normed rows [first, first + rows), and from there to `host` unless it is NULL. */
static kvp_err head_rows(struct eng *g, uint64_t first, uint64_t rows, float *host, struct kvp_error *e)
{
    const uint64_t vocab = g->m->vocab, width = g->m->width;
    const struct linear l = {.op = KVP_OP_HEAD, .rows = rows, .n = g->m->vocab, .k = g->m->width,
                             .role = WT_HEAD, .w = weight(g, WT_HEAD, 0), .bias = weight(g, WT_HEAD_BIAS, 0), .x = at(&g->h, first * width),
                             .x_stride = width,
                             .out = at(&g->logits, 0), .out_stride = vocab};

    const struct kb_act cap = {.rows = rows, .width = g->m->vocab, .kind = KB_ACT_SOFTCAP, .in_stride = vocab, .out_stride = vocab,
                               .in = at(&g->logits, 0), .out = at(&g->logits, 0), .limit = (float)g->m->numbers.logit_cap};

    KVP_TRY(eng_linear(g, &l, e));
    KVP_TRY(eng_scale(g, KVP_OP_HEAD, at(&g->logits, 0), rows, g->m->vocab, vocab, g->m->numbers.logit_scale, e));
    if (g->m->numbers.logit_cap > 0)
        KVP_TRY(eng_run(g, KVP_OP_HEAD, KB_ACT, &cap, e));
    return host ? g->o.backend->read(g->dev, at(&g->logits, 0), host, rows * vocab * sizeof(float), e) : KVP_OK;
}

static kvp_err head_blocks(struct eng *g, uint64_t first, uint64_t rows, float *host, struct kvp_error *e)
{
    const uint64_t block = g->logits.bytes / (g->m->vocab * sizeof(float));

    for (uint64_t r = 0; r < rows; r += block)
        KVP_TRY(head_rows(g, first + r, rows - r < block ? rows - r : block, host ? host + r * g->m->vocab : NULL, e));
    return KVP_OK;
}

/* The rows that the head reads, `stride` apart from `in` on, into g->h: normed, or as they are where there is no last norm. */
static kvp_err final_rows(struct eng *g, uint64_t rows, struct kb_span in, uint64_t stride, struct kvp_error *e)
{
    const uint64_t bytes = g->m->width * sizeof(float);

    if (!g->m->no_final_norm)
        return norm(g, KVP_OP_FINAL_NORM, WT_FINAL_NORM, 0, rows, in, stride, e);
    return eng_copy(g, KVP_OP_FINAL_NORM, at(&g->h, 0), bytes, in, stride * sizeof(float), bytes, rows, e);
}

/* `all` and `last` are the whole batch's; the pass has rows of some sequences, from its position on. */
static kvp_err all_rows(struct eng *g, const struct pass *p, float *all, float *last, struct kvp_error *e)
{
    const size_t vocab = g->m->vocab;

    KVP_TRY(final_rows(g, p->rows, at(&g->x, 0), g->m->width, e));
    if (!p->extend)
        KVP_TRY(head_blocks(g, 0, p->rows, all + p->first * p->tokens * vocab, e));
    for (uint64_t b = 0; b < p->batch; b++) {
        float *rows = all + ((p->first + b) * g->o.prompt + p->position) * vocab;

        if (p->extend)
            KVP_TRY(head_blocks(g, b * p->tokens, p->tokens, rows, e));
        if (last)
            memcpy(last + (p->first + b) * vocab, rows + (p->tokens - 1) * vocab, vocab * sizeof(*last));
    }
    return KVP_OK;
}

kvp_err eng_head(struct eng *g, const struct pass *p, float *all, float *last, struct kvp_error *e)
{
    const uint64_t width = g->m->width;

    if (all)
        return all_rows(g, p, all, last, e);
    KVP_TRY(final_rows(g, p->batch, at(&g->x, (p->tokens - 1) * width), p->tokens * width, e));
    return head_blocks(g, 0, p->batch, last ? last + p->first * g->m->vocab : NULL, e);
}
