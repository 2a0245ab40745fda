#include "validate/engine/internal.h"

#include "validate/engine/convert.h"

#include <math.h>

static struct kb_span at(const struct led_mem *m, uint64_t f32_elements)
{
    return (struct kb_span){m->buf, f32_elements * sizeof(float)};
}

static struct kb_span weight(const struct eng *g, enum wt_role role, uint32_t layer)
{
    return weights_of(&g->w, role, layer);
}

static kvp_err norm(struct eng *g, enum kvp_op op, enum wt_role role, uint32_t layer, uint64_t rows, struct kb_span in,
                    uint64_t in_stride, struct kvp_error *e)
{
    const struct kb_norm a = {.rows = rows, .groups = 1, .width = g->m->width, .in_stride = in_stride,
                              .out_stride = g->m->width, .layer = g->m->norm == KVP_NORM_LAYER, .eps = g->m->norm_eps,
                              .format = g->w.coding.vectors, .weight = weight(g, role, layer),
                              .bias = weight(g, (enum wt_role)(role + 1), layer), .in = in, .out = at(&g->h, 0)};

    return eng_run(g, op, KB_NORM, &a, e);
}

/* A matrix and its shape; rows come and go with their strides. */
struct linear {
    enum kvp_op op;
    uint64_t rows;
    uint32_t n, k;
    struct kb_span w, bias, x, out;
    uint64_t x_stride, out_stride;
    bool residual;
    enum wt_role role; /* with layer: where the matrix is found when it is coded, and w.buf NULL; */
    uint32_t layer;
    uint64_t first;    /* its first row of the role's */
};

/* The product's input in int8, a scale a row. */
static kvp_err quantize_input(struct eng *g, const struct linear *l, struct kb_gemm *a, struct kvp_error *e)
{
    const struct kb_quant_rows q = {.rows = l->rows, .width = l->k, .x_stride = l->x_stride, .x = l->x,
                                    .codes = {g->input_codes.buf, 0}, .scale = {g->input_scales.buf, 0}};

    a->x = q.codes;
    a->x_stride = l->k;
    return eng_run(g, KVP_OP_QUANT_ACT, KB_QUANT_ROWS, &q, e);
}

/* Matrix by matrix, each with its own rows of the output. */
static kvp_err coded_linear(struct eng *g, const struct linear *l, struct kb_gemm a, struct kvp_error *e)
{
    uint32_t n;
    const struct wt_coded *m = weights_coded(&g->w, l->role, l->layer, &n);

    if (!n)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not code the weights of %s", g->m->name, kvp_op_name(l->op));
    if (g->coding.coding == KB_CODING_W8A8)
        KVP_TRY(quantize_input(g, l, &a, e));
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t row = m[i].first - l->first;

        if (m[i].first + m[i].rows <= l->first || m[i].first >= l->first + l->n)
            continue;
        if (m[i].first < l->first || row + m[i].rows > l->n)
            return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not multiply a part of a coded matrix", g->m->name);
        a.n = m[i].rows;
        a.format = g->w.coding.format;
        a.code = weights_code(&g->w, &m[i]);
        a.code.x_scale = (struct kb_span){g->input_scales.buf, 0};
        a.w = (struct kb_span){m[i].part[WT_CODE].buf, 0};
        a.bias.offset = l->bias.offset + row * cvt_size(g->w.coding.vectors);
        a.out.offset = l->out.offset + row * sizeof(float);
        KVP_TRY(eng_run(g, l->op, KB_GEMM, &a, e));
    }
    return KVP_OK;
}

static kvp_err linear(struct eng *g, const struct linear *l, struct kvp_error *e)
{
    const struct kb_gemm a = {.m = l->rows, .n = l->n, .k = l->k, .x_stride = l->x_stride, .out_stride = l->out_stride,
                              .accumulate = l->residual, .format = g->w.coding.plain, .x = l->x, .w = l->w, .bias = l->bias,
                              .out = l->out, .work = at(&g->scratch, 0), .work_bytes = g->scratch.bytes};

    if (g->tap && l->role >= WT_LAYER_ROLES)
        KVP_TRY(g->tap(g->tap_self, g, l->role, l->layer, l->x, l->x_stride, l->rows, e));
    return l->w.buf ? eng_run(g, l->op, KB_GEMM, &a, e) : coded_linear(g, l, a, e);
}

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
        uint32_t groups;
        uint64_t first;
    } parts[] = {{WT_Q_NORM, h->c->heads, 0}, {WT_K_NORM, h->c->kv_heads, h->k}};

    for (size_t i = h->has_q ? 0 : 1; i < (h->has_kv ? 2 : 1); i++) {
        const struct kb_norm a = {.rows = rows, .groups = parts[i].groups, .width = h->c->head_dim,
                                  .in_stride = h->stride, .out_stride = h->stride, .eps = g->m->norm_eps,
                                  .format = g->w.coding.vectors, .weight = weight(g, parts[i].role, layer),
                                  .in = at(&g->qkv, parts[i].first), .out = at(&g->qkv, parts[i].first)};

        KVP_TRY(eng_run(g, KVP_OP_QK_NORM, KB_NORM, &a, e));
    }
    return KVP_OK;
}

/* q's and k's heads lie side by side, so one call turns both. */
static kvp_err rope(struct eng *g, const struct heads *h, uint64_t rows, struct kvp_error *e)
{
    const uint32_t heads = (h->has_q ? h->c->heads : 0) + (h->has_kv ? h->c->kv_heads : 0);
    const struct kb_rope a = {.rows = rows, .heads = heads, .head_dim = h->c->head_dim,
                              .stride = h->stride, .x = at(&g->qkv, h->has_q ? 0 : h->k), .positions = {g->positions.buf, 0},
                              .inv_freq = at(&g->inv_freq, 0)};

    return eng_run(g, KVP_OP_ROPE, KB_ROPE, &a, e);
}

kvp_err eng_rope(void *self, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    struct eng *g = self;
    const struct heads h = heads_of(&g->m->cls[g->m->class_of[layer]]);

    return rope(g, &h, g->o.batch * x->tokens, e);
}

static kvp_err attend(struct eng *g, uint32_t layer, const struct pass *p, const struct heads *h, struct kvp_error *e)
{
    struct cache_qkv a = {.tokens = p->tokens, .position = p->position, .stride = h->stride, .q = at(&g->qkv, 0),
                                .k = at(&g->qkv, h->k), .v = at(&g->qkv, h->v), .out_stride = h->k,
                                .out = at(&g->out, 0), .lse = at(&g->lse, 0), .first = p->first, .batch = p->batch};

    if (p->extend)
        return g->cache_ops->extend(g->cache, layer, &a, e);
    if (!h->has_q)
        a.q.buf = NULL;
    if (!h->has_kv && !p->prefill)
        a.k.buf = a.v.buf = NULL;
    return p->prefill ? g->cache_ops->prefill(g->cache, layer, &a, e) : g->cache_ops->decode(g->cache, layer, &a, e);
}

/* ---- factored projections (Zhang et al. 2024, arXiv:2410.03111, section 3.1) ----------------------- */

/* A layer's latents in rows of their own, k's beside v's, and what leads on from there. */
static struct cache_low low_of(const struct eng *g, uint32_t layer, const struct kvp_layer_class *c)
{
    return (struct cache_low){.stride = (uint64_t)c->low_k + c->low_v, .k = at(&g->low, 0), .v = at(&g->low, c->low_k),
                              .format = g->w.coding.plain, .k_up = {weight(g, WT_K_UP, layer), weight(g, WT_K_UP_BIAS, layer)},
                              .v_up = {weight(g, WT_V_UP, layer), weight(g, WT_V_UP_BIAS, layer)}, .k_norm = weight(g, WT_K_NORM, layer)};
}

/* q and both latents of every row: one matrix, but that only q has a bias. */
static kvp_err project_low(struct eng *g, uint32_t layer, const struct pass *p, const struct heads *h, struct kvp_error *e)
{
    const uint32_t width = g->m->width, rows = h->c->low_k + h->c->low_v;
    const struct linear q = {.op = KVP_OP_QKV, .rows = p->rows, .n = (uint32_t)h->k, .k = width, .role = WT_QKV, .layer = layer,
                             .w = weight(g, WT_QKV, layer), .bias = weight(g, WT_QKV_BIAS, layer), .x = at(&g->h, 0), .x_stride = width,
                             .out = at(&g->qkv, 0), .out_stride = h->stride};
    struct linear low = q;

    low.n = rows;
    low.first = h->k;
    low.w.offset += h->k * width * cvt_size(g->w.coding.plain);
    low.bias.buf = NULL;
    low.out = at(&g->low, 0);
    low.out_stride = rows;
    KVP_TRY(linear(g, &q, e));
    return linear(g, &low, e);
}

/* k and v of a prompt from its latents. */
static kvp_err expand(struct eng *g, const struct pass *p, const struct heads *h, const struct cache_low *x, struct kvp_error *e)
{
    const struct {
        struct kb_factor up;
        struct kb_span from;
        uint32_t rank;
        uint64_t to;
    } sides[] = {{x->k_up, x->k, h->c->low_k, h->k}, {x->v_up, x->v, h->c->low_v, h->v}};

    for (size_t i = 0; i < 2; i++) {
        const struct linear l = {.op = KVP_OP_REBUILD, .rows = p->rows, .n = (uint32_t)(h->v - h->k), .k = sides[i].rank, .w = sides[i].up.w,
                                 .bias = sides[i].up.bias, .x = sides[i].from, .x_stride = x->stride, .out = at(&g->qkv, sides[i].to),
                                 .out_stride = h->stride};

        KVP_TRY(linear(g, &l, e));
    }
    return KVP_OK;
}

/* Turned by the cache, which knows what it rebuilds. */
static kvp_err attention_low(struct eng *g, uint32_t layer, const struct pass *p, struct heads h, const struct linear *o, struct kvp_error *e)
{
    const struct cache_low low = low_of(g, layer, h.c);
    const struct cache_qkv a = {.tokens = p->tokens, .position = p->position, .stride = h.stride, .q = at(&g->qkv, 0), .k = at(&g->qkv, h.k),
                                .v = at(&g->qkv, h.v), .out_stride = h.k, .out = at(&g->out, 0), .lse = at(&g->lse, 0), .first = p->first,
                                .batch = p->batch, .low = &low};

    KVP_TRY(norm(g, KVP_OP_ATTN_NORM, WT_ATTN_NORM, layer, p->rows, at(&g->x, 0), g->m->width, e));
    KVP_TRY(project_low(g, layer, p, &h, e));
    if (p->prefill)
        KVP_TRY(expand(g, p, &h, &low, e));
    h.has_kv = p->prefill;
    if (h.c->qk_norm)
        KVP_TRY(qk_norm(g, layer, &h, p->rows, e));
    KVP_TRY((p->prefill ? g->cache_ops->prefill : g->cache_ops->decode)(g->cache, layer, &a, e));
    return linear(g, o, e);
}

/* ---- whole attention ------------------------------------------------------------------------------ */

/* q, k and v of every row, or the part of them that h says, normed and rotated, in g->qkv. */
static kvp_err project(struct eng *g, uint32_t layer, const struct pass *p, const struct heads *h, struct kvp_error *e)
{
    const uint32_t width = g->m->width;
    const uint64_t first = h->has_q ? 0 : h->k, end = h->has_kv ? h->stride : h->k, size = cvt_size(g->w.coding.plain);
    struct linear qkv = {.op = KVP_OP_QKV, .rows = p->rows, .n = (uint32_t)(end - first), .k = width,
                         .role = WT_QKV, .layer = layer, .first = first, .w = weight(g, WT_QKV, layer),
                         .bias = weight(g, WT_QKV_BIAS, layer), .x = at(&g->h, 0),
                         .x_stride = width, .out = at(&g->qkv, first), .out_stride = h->stride};

    qkv.w.offset += first * width * size;
    qkv.bias.offset += first * cvt_size(g->w.coding.vectors);
    KVP_TRY(norm(g, KVP_OP_ATTN_NORM, WT_ATTN_NORM, layer, p->rows, at(&g->x, 0), width, e));
    KVP_TRY(linear(g, &qkv, e));
    if (h->c->qk_norm)
        KVP_TRY(qk_norm(g, layer, h, p->rows, e));
    return g->m->position == KVP_POS_ROPE && !g->cache_ops->raw ? rope(g, h, p->rows, e) : KVP_OK;
}

static kvp_err attention_with(struct eng *g, uint32_t layer, const struct pass *p, const struct heads *h, struct kvp_error *e)
{
    const uint32_t width = g->m->width;
    const struct linear o = {.op = KVP_OP_O_PROJ, .rows = p->rows, .n = width, .k = (uint32_t)h->k,
                             .role = WT_O, .layer = layer, .w = weight(g, WT_O, layer), .bias = weight(g, WT_O_BIAS, layer), .x = at(&g->out, 0),
                             .x_stride = h->k, .out = at(&g->x, 0), .out_stride = width, .residual = true};

    if (h->c->low_k)
        return attention_low(g, layer, p, *h, &o, e);
    KVP_TRY(project(g, layer, p, h, e));
    KVP_TRY(attend(g, layer, p, h, e));
    return h->has_q ? linear(g, &o, e) : KVP_OK;
}

static kvp_err attention(struct eng *g, uint32_t layer, struct pass *p, struct kvp_error *e)
{
    const struct heads h = heads_of(&g->m->cls[g->m->class_of[layer]]);

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
        for (uint64_t b = 0; b < g->o.batch && p->tokens > 1; b++)
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
    *p = (struct pass){.tokens = 1, .rows = g->o.batch, .batch = g->o.batch, .position = p->position + p->tokens - 1};
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
    const struct kvp_layer_class *c = &g->m->cls[g->m->class_of[layer]];
    const bool gated = c->ffn == KVP_FFN_GATED;
    const uint32_t width = g->m->width, wide = (gated ? 2 : 1) * c->ffn_width;
    const struct linear up = {.op = KVP_OP_MLP_UP, .rows = rows, .n = wide, .k = width, .role = WT_UP, .layer = layer, .w = weight(g, WT_UP, layer),
                              .bias = weight(g, WT_UP_BIAS, layer), .x = at(&g->h, first * width), .x_stride = width,
                              .out = at(&g->mlp, 0), .out_stride = wide};
    const struct kb_act act = {.rows = rows, .width = c->ffn_width, .gated = gated, .kind = kinds[c->act],
                               .in_stride = wide, .out_stride = wide, .in = at(&g->mlp, 0), .out = at(&g->mlp, 0)};
    const struct linear down = {.op = KVP_OP_MLP_DOWN, .rows = rows, .n = width, .k = c->ffn_width,
                                .role = WT_DOWN, .layer = layer, .w = weight(g, WT_DOWN, layer), .bias = weight(g, WT_DOWN_BIAS, layer),
                                .x = at(&g->mlp, 0), .x_stride = wide, .out = at(&g->x, first * width),
                                .out_stride = width, .residual = true};

    KVP_TRY(linear(g, &up, e));
    KVP_TRY(eng_run(g, KVP_OP_MLP_ACT, KB_ACT, &act, e));
    return linear(g, &down, e);
}

static kvp_err mlp(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    KVP_TRY(norm(g, KVP_OP_MLP_NORM, WT_MLP_NORM, layer, p->rows, at(&g->x, 0), g->m->width, e));
    for (uint64_t r = 0; r < p->rows; r += MLP_ROWS)
        KVP_TRY(mlp_rows(g, layer, r, p->rows - r < MLP_ROWS ? p->rows - r : MLP_ROWS, e));
    return KVP_OK;
}

/* ---- whole passes ------------------------------------------------------------------------------- */

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

kvp_err eng_layers(struct eng *g, struct pass *p, bool last_only, struct kvp_error *e)
{
    const bool learned = g->m->position == KVP_POS_LEARNED;
    const struct kb_embed embed = {.rows = p->rows, .width = g->m->width, .vocab = g->m->vocab, .format = g->w.coding.plain,
                                   .tokens = {g->tokens.buf, 0}, .table = weight(g, WT_EMBED, 0),
                                   .position_ids = {learned ? g->positions.buf : NULL, 0},
                                   .position_table = weight(g, WT_POSITION, 0), .out = at(&g->x, 0)};

    KVP_TRY(run_embed(g, embed, e));
    KVP_TRY(mixers_embedded(g, p, e));
    for (uint32_t l = 0; l < g->m->layers; l++) {
        KVP_TRY(mix(g, l, p, last_only, e));
        KVP_TRY(feed_forward(g, l, p, e));
    }
    return KVP_OK;
}

/* Logits of normed rows [first, first + rows), and from there to `host` unless it is NULL. */
static kvp_err head_rows(struct eng *g, uint64_t first, uint64_t rows, float *host, struct kvp_error *e)
{
    const uint64_t vocab = g->m->vocab, width = g->m->width;
    const struct linear l = {.op = KVP_OP_HEAD, .rows = rows, .n = g->m->vocab, .k = g->m->width,
                             .role = WT_HEAD, .w = weight(g, WT_HEAD, 0), .x = at(&g->h, first * width), .x_stride = width,
                             .out = at(&g->logits, 0), .out_stride = vocab};

    KVP_TRY(linear(g, &l, e));
    return host ? g->o.backend->read(g->dev, at(&g->logits, 0), host, rows * vocab * sizeof(float), e) : KVP_OK;
}

static kvp_err head_blocks(struct eng *g, uint64_t first, uint64_t rows, float *host, struct kvp_error *e)
{
    const uint64_t block = g->logits.bytes / (g->m->vocab * sizeof(float));

    for (uint64_t r = 0; r < rows; r += block)
        KVP_TRY(head_rows(g, first + r, rows - r < block ? rows - r : block, host ? host + r * g->m->vocab : NULL, e));
    return KVP_OK;
}

/* `all` and `last` are the whole batch's; the pass has rows of some sequences, from its position on. */
static kvp_err all_rows(struct eng *g, const struct pass *p, float *all, float *last, struct kvp_error *e)
{
    const size_t vocab = g->m->vocab;

    KVP_TRY(norm(g, KVP_OP_FINAL_NORM, WT_FINAL_NORM, 0, p->rows, at(&g->x, 0), g->m->width, e));
    if (!p->extend)
        KVP_TRY(head_blocks(g, 0, p->rows, all, e));
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
    KVP_TRY(norm(g, KVP_OP_FINAL_NORM, WT_FINAL_NORM, 0, p->batch, at(&g->x, (p->tokens - 1) * width),
                 p->tokens * width, e));
    return head_blocks(g, 0, p->batch, last ? last + p->first * g->m->vocab : NULL, e);
}
