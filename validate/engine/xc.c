/* xc.c - a context encoded once, read by a few cross blocks */
#include "validate/engine/xc.h"

#include "validate/caches/size.h"
#include "validate/engine/parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { UNPACK_ROWS = 1024 };

static uint64_t given(const struct kvp_spec *s, const char *key, uint64_t otherwise)
{
    const struct kvp_param *p = kvp_spec_param(s, key);

    return p && (p->given || p->i) ? (uint64_t)p->i : otherwise;
}

static bool is_word(const struct kvp_spec *s, const char *key, const char *word)
{
    const struct kvp_param *p = kvp_spec_param(s, key);

    return p && p->word && strcmp(p->word, word) == 0;
}

/* As many heads as the decoder has, or the most below that which share the width evenly and can be rotated. */
static uint32_t heads_of(uint32_t inner, uint32_t heads)
{
    while (heads > 1 && (inner % heads || inner / heads % 2))
        heads--;
    return heads;
}

kvp_err rewrite_xc(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e)
{
    struct xc *x = &r->xc;

    *x = (struct xc){.blocks = (uint32_t)given(s, "blocks", 0), .stride = (uint32_t)given(s, "stride", 0),
                     .inner = (uint32_t)given(s, "inner", 0), .width = (uint32_t)given(s, "encoder_width", r->m.width),
                     .question = given(s, "question", 0), .hidden = !is_word(s, "keep", "kv")};
    if (is_word(s, "encoder", "self"))
        return kvp_fail(e, KVP_ENOTSUP, "xc-cache: the engine does not run encoder=self yet");
    if (!r->m.layers || (uint64_t)(x->blocks - 1) * x->stride >= r->m.layers)
        return kvp_fail(e, KVP_EINPUT, "xc-cache: %" PRIu32 " blocks %" PRIu32 " layers apart do not fit into %" PRIu32 " layers", x->blocks,
                        x->stride, r->m.layers);
    for (uint32_t l = 0; l < r->m.layers; l++)
        if (r->cls[l].mixer != KVP_MIX_ATTENTION)
            return kvp_fail(e, KVP_ENOTSUP, "xc-cache: layer %" PRIu32 " of %s is not attention", l, r->m.name);
    if (r->m.encoders)
        return kvp_fail(e, KVP_ENOTSUP, "xc-cache: %s has an encoder", r->m.name);
    x->heads = heads_of(x->inner, r->cls[0].heads);
    if (r->m.position == KVP_POS_ROPE && x->inner / x->heads % 2)
        return kvp_fail(e, KVP_EINPUT, "xc-cache: inner=%" PRIu32 " is odd, and rotary positions pair its elements", x->inner);
    return KVP_OK;
}

/* The number of the layer's block; blocks where it has none. */
static uint32_t block_of(const struct eng *g, uint32_t layer)
{
    const struct xc *x = &g->own.xc;
    const uint32_t back = g->m->layers - 1 - layer;

    return x->blocks && back % x->stride == 0 && back / x->stride < x->blocks ? back / x->stride : x->blocks;
}

kvp_err xc_place(struct eng *g, struct kvp_error *e)
{
    struct xc *x = &g->own.xc;

    if (!x->blocks)
        return KVP_OK;
    if (x->question >= g->o.prompt)
        return kvp_fail(e, KVP_EINPUT, "xc-cache: question=%" PRIu64 " leaves no context of a prompt of %" PRIu64 " tokens", x->question,
                        g->o.prompt);
    if (g->o.pool || g->o.all_logits)
        return kvp_fail(e, KVP_ENOTSUP, "xc-cache: the engine %s", g->o.pool ? "does not serve it" : "has no logits of the context's tokens");
    x->context = g->o.prompt - x->question;
    g->o.prompt = x->question;
    for (uint32_t l = 0; l < g->m->layers; l++)
        if (block_of(g, l) < x->blocks) {
            g->own.cls[l].cross_heads = g->own.cls[l].cross_kv_heads = x->heads;
            g->own.cls[l].cross_head_dim = x->inner / x->heads;
            g->own.cls[l].cross_in = x->width;
        }
    return KVP_OK;
}

/* ---- life ------------------------------------------------------------------------------------------------ */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static kvp_err alloc(struct eng *g, enum led_tag tag, uint64_t a, uint64_t b, uint64_t size, struct led_mem *out, struct kvp_error *e)
{
    uint64_t bytes;

    KVP_TRY(SIZE_PRODUCT(&bytes, "xc-cache", e, a, b, size));
    return led_alloc(&g->led, tag, bytes, out, e);
}

static kvp_err open_context(struct eng *g, struct kvp_error *e)
{
    struct xc *x = &g->own.xc;
    const uint64_t rows = g->o.batch * x->context, size = size_of_format(g->o.kv);

    if (x->hidden) {
        KVP_TRY(alloc(g, LED_CACHE, rows, x->width, size, &x->rows, e));
        KVP_TRY(alloc(g, LED_WORKSPACE, rows, 2ull * x->inner, sizeof(float), &x->kv, e));
        return g->o.kv == KVP_F32 ? KVP_OK : alloc(g, LED_WORKSPACE, least(x->context, UNPACK_ROWS), x->width, sizeof(float), &x->unpacked, e);
    }
    x->k = calloc(x->blocks, sizeof(*x->k));
    x->v = calloc(x->blocks, sizeof(*x->v));
    if (!x->k || !x->v)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu32 " blocks", x->blocks);
    for (uint32_t i = 0; i < x->blocks; i++) {
        KVP_TRY(alloc(g, LED_CACHE, rows, x->inner, size, &x->k[i], e));
        KVP_TRY(alloc(g, LED_CACHE, rows, x->inner, size, &x->v[i], e));
    }
    return KVP_OK;
}

static kvp_err open_tables(struct eng *g, struct kvp_error *e)
{
    struct xc *x = &g->own.xc;
    const uint32_t dim = x->inner / x->heads;
    const struct kb_backend *be = g->o.backend;
    float *freq = malloc((dim / 2 + 1) * sizeof(*freq));
    kvp_err rc = KVP_OK;

    for (uint64_t i = 0; x->ids && i < x->context; i++)
        x->ids[i] = (int32_t)i;
    if (!freq || !x->ids || !x->prompt)
        rc = kvp_fail(e, KVP_ENOMEM, "out of memory for a context");
    if (rc == KVP_OK)
        rc = be->write(g->dev, at(&x->positions, 0), x->ids, x->context * sizeof(int32_t), e);
    if (rc == KVP_OK && x->inv_freq.buf) {
        eng_inv_freq(g->m, dim, freq);
        rc = be->write(g->dev, at(&x->inv_freq, 0), freq, dim / 2 * sizeof(float), e);
    }
    free(freq);
    return rc;
}

kvp_err xc_open(struct eng *g, struct kvp_error *e)
{
    struct xc *x = &g->own.xc;
    const uint64_t n = g->o.batch * x->question, unpack = 8ull * x->inner * g->m->width, kv = 2ull * x->inner * x->width;

    if (!x->blocks)
        return KVP_OK;
    if (x->context > INT32_MAX / g->o.batch)
        return kvp_fail(e, KVP_ERANGE, "xc-cache: batch times context is more than 2^31");
    x->ids = calloc(g->o.batch * x->context, sizeof(*x->ids));
    x->prompt = calloc(n, sizeof(*x->prompt));
    KVP_TRY(open_context(g, e));
    KVP_TRY(alloc(g, LED_WORKSPACE, n, 2ull * x->inner, sizeof(float), &x->q_out, e));
    KVP_TRY(alloc(g, LED_WORKSPACE, least(n, MLP_ROWS), 8ull * x->inner, sizeof(float), &x->mlp, e));
    KVP_TRY(alloc(g, LED_WORKSPACE, x->context, 1, sizeof(int32_t), &x->positions, e));
    if (g->m->position == KVP_POS_ROPE)
        KVP_TRY(alloc(g, LED_WORKSPACE, x->inner / x->heads / 2, 1, sizeof(float), &x->inv_freq, e));
    if (g->coding.plain != KVP_F32)
        KVP_TRY(alloc(g, LED_WORKSPACE, least(GEMM_SCRATCH / 4, unpack > kv ? unpack : kv), 1, sizeof(float), &x->scratch, e));
    return open_tables(g, e);
}

void xc_close(struct eng *g)
{
    struct xc *x = &g->own.xc;
    struct led_mem *const mem[] = {&x->rows, &x->kv, &x->unpacked, &x->q_out, &x->mlp, &x->scratch, &x->inv_freq, &x->positions};

    for (size_t i = 0; i < sizeof(mem) / sizeof(mem[0]); i++)
        led_free(&g->led, mem[i]);
    for (uint32_t i = 0; x->k && x->v && i < x->blocks; i++) {
        led_free(&g->led, &x->k[i]);
        led_free(&g->led, &x->v[i]);
    }
    free(x->k);
    free(x->v);
    free(x->ids);
    free(x->prompt);
    *x = (struct xc){0};
}

/* ---- products -------------------------------------------------------------------------------------------- */

static kvp_err multiply(struct eng *g, enum kvp_op op, enum wt_role role, uint32_t layer, uint64_t rows, uint32_t n, uint32_t k, struct kb_span x,
                        struct kb_span out, uint64_t out_stride, bool residual, struct kvp_error *e)
{
    const struct led_mem *scratch = &g->own.xc.scratch;
    const struct kb_gemm a = {.m = rows, .n = n, .k = k, .x_stride = role == WT_CROSS_O ? 2ull * k : role == WT_BLOCK_DOWN ? 2ull * k : k,
                              .out_stride = out_stride, .accumulate = residual, .format = g->w.coding.plain, .x = x,
                              .w = weight(g, role, layer), .out = out, .work = at(scratch, 0), .work_bytes = scratch->bytes};

    return eng_run(g, op, KB_GEMM, &a, e);
}

static kvp_err turn(struct eng *g, enum kvp_op op, uint64_t rows, uint64_t stride, struct kb_span at_x, struct kb_span positions, struct kvp_error *e)
{
    const struct xc *x = &g->own.xc;
    const struct kb_rope a = {.rows = rows, .heads = x->heads, .head_dim = x->inner / x->heads, .stride = stride, .x = at_x,
                              .positions = positions, .inv_freq = at(&x->inv_freq, 0)};

    return x->inv_freq.buf ? eng_run(g, op, KB_ROPE, &a, e) : KVP_OK;
}

/* Keys and values of one sequence's context, from f32 rows `in`, for the block of a layer. */
static kvp_err project(struct eng *g, uint32_t layer, uint64_t rows, struct kb_span in, struct kb_span out, struct kvp_error *e)
{
    const struct xc *x = &g->own.xc;

    return multiply(g, KVP_OP_REBUILD, WT_CROSS_KV, layer, rows, 2 * x->inner, x->width, in, out, 2ull * x->inner, false, e);
}

/* Rows [first, first + n) of the stored output as f32: where they lie, or unpacked. */
static kvp_err widen(struct eng *g, uint64_t row, uint64_t n, struct kb_span *out, struct kvp_error *e)
{
    const struct xc *x = &g->own.xc;
    const struct kb_embed a = {.rows = n, .width = x->width, .vocab = (uint32_t)n, .format = g->o.kv, .tokens = at(&x->positions, 0),
                               .table = {x->rows.buf, row * x->width * size_of_format(g->o.kv)}, .out = at(&x->unpacked, 0)};

    *out = g->o.kv == KVP_F32 ? a.table : a.out;
    return g->o.kv == KVP_F32 ? KVP_OK : eng_run(g, KVP_OP_REBUILD, KB_EMBED, &a, e);
}

/* The official code keeps no keys: each forward projects the whole context again (cross_attn_llama.py, LlamaCrossAttention). */
static kvp_err rebuild(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct xc *x = &g->own.xc;
    const uint64_t step = g->o.kv == KVP_F32 ? x->context : UNPACK_ROWS, wide = 2ull * x->inner;

    for (uint64_t b = 0; b < p->batch; b++) {
        for (uint64_t r = 0; r < x->context; r += step) {
            const uint64_t n = least(step, x->context - r);
            struct kb_span in;

            KVP_TRY(widen(g, (p->first + b) * x->context + r, n, &in, e));
            KVP_TRY(project(g, layer, n, in, at(&x->kv, (b * x->context + r) * wide), e));
        }
        KVP_TRY(turn(g, KVP_OP_REBUILD, x->context, wide, at(&x->kv, b * x->context * wide), at(&x->positions, 0), e));
    }
    return KVP_OK;
}

/* ---- a block ----------------------------------------------------------------------------------------------- */

static kvp_err block_norm(struct eng *g, enum kvp_op op, enum wt_role role, uint32_t layer, uint64_t rows, struct kvp_error *e)
{
    const uint64_t width = g->m->width;
    const struct kb_norm a = {.rows = rows, .groups = 1, .width = g->m->width, .in_stride = width, .out_stride = width, .layer = true,
                              .eps = g->m->norm_eps, .format = g->w.coding.vectors, .weight = weight(g, role, layer),
                              .bias = weight(g, (enum wt_role)(role + 1), layer), .in = at(&g->x, 0), .out = at(&g->h, 0)};

    return eng_run(g, op, KB_NORM, &a, e);
}

static struct kb_kv strip(const struct eng *g, const struct led_mem *m, uint64_t first)
{
    const struct xc *x = &g->own.xc;

    return (struct kb_kv){.data = {m->buf, first * x->context * x->inner * size_of_format(g->o.kv)}, .format = g->o.kv, .heads = x->heads,
                          .dim = x->inner / x->heads, .slots = x->context};
}

static kvp_err read_context(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct xc *x = &g->own.xc;
    const uint32_t block = block_of(g, layer), dim = x->inner / x->heads;
    struct kb_attn_cross a = {.batch = p->batch, .queries = p->tokens, .used = x->context, .heads = x->heads, .kv_heads = x->heads,
                              .head_dim = dim, .scale = (float)(1 / sqrt((double)dim)), .q_stride = 2ull * x->inner, .q = at(&x->q_out, 0),
                              .kv_stride = 2ull * x->inner, .out_stride = 2ull * x->inner, .out = at(&x->q_out, x->inner)};

    if (x->hidden) {
        KVP_TRY(rebuild(g, layer, p, e));
        a.k = at(&x->kv, 0);
        a.v = at(&x->kv, x->inner);
    } else {
        a.stored_k = strip(g, &x->k[block], p->first);
        a.stored_v = strip(g, &x->v[block], p->first);
    }
    return eng_run(g, KVP_OP_CROSS_ATTN, KB_ATTN_CROSS, &a, e);
}

static kvp_err block_mlp(struct eng *g, uint32_t layer, uint64_t first, uint64_t rows, struct kvp_error *e)
{
    static const enum kb_act_kind kinds[] = {[KVP_ACT_SILU] = KB_ACT_SILU, [KVP_ACT_GELU_TANH] = KB_ACT_GELU_TANH,
                                             [KVP_ACT_GELU] = KB_ACT_GELU, [KVP_ACT_RELU] = KB_ACT_RELU,
                                             [KVP_ACT_RELU2] = KB_ACT_RELU2};
    const struct xc *x = &g->own.xc;
    const uint32_t wide = 4 * x->inner, width = g->m->width;
    const struct kb_act act = {.rows = rows, .width = wide, .gated = true, .kind = kinds[eng_class(g, layer)->act], .in_stride = 2ull * wide,
                               .out_stride = 2ull * wide, .in = at(&x->mlp, 0), .out = at(&x->mlp, 0)};

    KVP_TRY(multiply(g, KVP_OP_MLP_UP, WT_BLOCK_UP, layer, rows, 2 * wide, width, at(&g->h, first * width), at(&x->mlp, 0), 2ull * wide, false, e));
    KVP_TRY(eng_run(g, KVP_OP_MLP_ACT, KB_ACT, &act, e));
    return multiply(g, KVP_OP_MLP_DOWN, WT_BLOCK_DOWN, layer, rows, width, wide, at(&x->mlp, 0), at(&g->x, first * width), width, true, e);
}

kvp_err xc_block(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e)
{
    const struct xc *x = &g->own.xc;
    const uint32_t width = g->m->width;

    if (block_of(g, layer) == x->blocks)
        return KVP_OK;
    KVP_TRY(block_norm(g, KVP_OP_ATTN_NORM, WT_CROSS_NORM, layer, p->rows, e));
    KVP_TRY(multiply(g, KVP_OP_CROSS_QKV, WT_CROSS_Q, layer, p->rows, x->inner, width, at(&g->h, 0), at(&x->q_out, 0), 2ull * x->inner, false, e));
    KVP_TRY(turn(g, KVP_OP_ROPE, p->rows, 2ull * x->inner, at(&x->q_out, 0), at(&g->positions, 0), e));
    KVP_TRY(read_context(g, layer, p, e));
    KVP_TRY(multiply(g, KVP_OP_CROSS_O, WT_CROSS_O, layer, p->rows, width, x->inner, at(&x->q_out, x->inner), at(&g->x, 0), width, true, e));
    KVP_TRY(block_norm(g, KVP_OP_MLP_NORM, WT_BLOCK_NORM, layer, p->rows, e));
    for (uint64_t r = 0; r < p->rows; r += MLP_ROWS)
        KVP_TRY(block_mlp(g, layer, r, least(p->rows - r, MLP_ROWS), e));
    return KVP_OK;
}

/* ---- offline ------------------------------------------------------------------------------------------------- */

/* The decoder without its blocks over the context: every row behind its last norm. */
static kvp_err encode(struct eng *g, const int32_t *ids, float *out, struct kvp_error *e)
{
    static const struct kvp_stack dense;
    const struct xc *x = &g->own.xc;
    const uint64_t rows = g->o.batch * x->context;
    const struct eng_options o = {.backend = g->o.backend, .device = g->o.device, .weights = g->o.weights, .kv = g->o.kv, .batch = g->o.batch,
                                  .prompt = x->context, .seed = g->o.seed, .weights_dir = g->o.weights_dir};
    struct eng *enc;
    kvp_err rc;

    KVP_TRY(eng_open(&enc, g->given, &dense, &o, e));
    rc = eng_prefill(enc, ids, NULL, NULL, e);
    if (rc == KVP_OK)
        rc = norm(enc, KVP_OP_FINAL_NORM, WT_FINAL_NORM, 0, rows, at(&enc->x, 0), enc->m->width, e);
    if (rc == KVP_OK)
        rc = enc->o.backend->read(enc->dev, at(&enc->h, 0), out, rows * x->width * sizeof(float), e);
    eng_close(enc);
    return rc;
}

/* What an encoder of another width might have yielded: variance 1, its own for every token and place. */
static void draw(const struct eng *g, const int32_t *ids, float *out)
{
    const struct xc *x = &g->own.xc;
    uint64_t state;

    for (uint64_t r = 0; r < g->o.batch * x->context; r++) {
        state = g->o.seed * 0x9e3779b97f4a7c15u + ((uint64_t)(uint32_t)ids[r] << 32) + r % x->context;
        for (uint32_t i = 0; i < x->width; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
            out[r * x->width + i] = (float)(((double)(state >> 40) * 0x1p-24 - 0.5) * sqrt(12));
        }
    }
}

/* Keys and values of all blocks, projected before the run, in memory that is not this run's. */
static kvp_err store_kv(struct eng *g, const float *hidden, struct kvp_error *e)
{
    const struct xc *x = &g->own.xc;
    const struct kb_backend *be = g->o.backend;
    const uint64_t row = x->width * sizeof(float), wide = 2ull * x->inner;
    struct kb_buf *in = NULL, *kv = NULL;
    kvp_err rc = be->alloc(g->dev, x->context * row, &in, e);

    if (rc == KVP_OK)
        rc = be->alloc(g->dev, x->context * wide * sizeof(float), &kv, e);
    for (uint32_t l = 0; rc == KVP_OK && l < g->m->layers; l++)
        for (uint64_t b = 0; rc == KVP_OK && block_of(g, l) < x->blocks && b < g->o.batch; b++) {
            struct kb_cache_write w = {.batch = 1, .count = x->context, .src_tokens = x->context, .src_stride = wide};

            rc = be->write(g->dev, (struct kb_span){in, 0}, hidden + b * x->context * x->width, x->context * row, e);
            if (rc == KVP_OK)
                rc = project(g, l, x->context, (struct kb_span){in, 0}, (struct kb_span){kv, 0}, e);
            if (rc == KVP_OK)
                rc = turn(g, KVP_OP_REBUILD, x->context, wide, (struct kb_span){kv, 0}, at(&x->positions, 0), e);
            for (int v = 0; rc == KVP_OK && v < 2; v++) {
                w.dst = strip(g, v ? &x->v[block_of(g, l)] : &x->k[block_of(g, l)], b);
                w.src = (struct kb_span){kv, v ? x->inner * sizeof(float) : 0};
                rc = eng_run(g, KVP_OP_REBUILD, KB_CACHE_WRITE, &w, e);
            }
        }
    be->release(g->dev, in);
    be->release(g->dev, kv);
    return rc;
}

static kvp_err store_hidden(struct eng *g, const float *hidden, struct kvp_error *e)
{
    const struct xc *x = &g->own.xc;
    const uint64_t n = g->o.batch * x->context * x->width;
    void *rows = malloc(n * cvt_size(g->o.kv));
    kvp_err rc;

    if (!rows)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a context");
    cvt_run(g->o.kv, rows, KVP_F32, hidden, 1, n);
    rc = g->o.backend->write(g->dev, at(&x->rows, 0), rows, n * cvt_size(g->o.kv), e);
    free(rows);
    return rc;
}

static kvp_err store_context(struct eng *g, const int32_t *ids, struct kvp_error *e)
{
    const struct xc *x = &g->own.xc;
    float *hidden = malloc(g->o.batch * x->context * x->width * sizeof(*hidden));
    kvp_err rc = KVP_OK;

    if (!hidden)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a context");
    if (x->width == g->m->width)
        rc = encode(g, ids, hidden, e);
    else
        draw(g, ids, hidden);
    if (rc == KVP_OK)
        rc = x->hidden ? store_hidden(g, hidden, e) : store_kv(g, hidden, e);
    free(hidden);
    return rc;
}

kvp_err xc_begin(struct eng *g, const int32_t *tokens, const int32_t **out, struct kvp_error *e)
{
    struct xc *x = &g->own.xc;
    const uint64_t all = x->context + x->question;
    bool same = x->encoded;

    *out = tokens;
    if (!x->blocks)
        return KVP_OK;
    for (uint64_t b = 0; b < g->o.batch; b++) {
        same = same && memcmp(x->ids + b * x->context, tokens + b * all, x->context * sizeof(*tokens)) == 0;
        memcpy(x->ids + b * x->context, tokens + b * all, x->context * sizeof(*tokens));
        memcpy(x->prompt + b * x->question, tokens + b * all + x->context, x->question * sizeof(*tokens));
    }
    *out = x->prompt;
    if (same)
        return KVP_OK;
    x->encoded = false;
    KVP_TRY(store_context(g, x->ids, e));
    x->encoded = true;
    return KVP_OK;
}

kvp_err xc_poison(struct eng *g, uint32_t layer, uint64_t token, struct kvp_error *e)
{
    struct xc *x = &g->own.xc;
    const uint32_t block = layer < g->m->layers ? block_of(g, layer) : x->blocks;
    const uint64_t size = size_of_format(g->o.kv), row = x->hidden ? x->width * size : x->inner / x->heads * size;

    if (block == x->blocks || token >= x->context)
        return kvp_fail(e, KVP_EINPUT, "xc-cache: no row of the context's token %" PRIu64 " for layer %" PRIu32, token, layer);
    x->encoded = false;
    if (x->hidden)
        return g->o.backend->fill(g->dev, (struct kb_span){x->rows.buf, token * row}, 0xff, row, e);
    KVP_TRY(g->o.backend->fill(g->dev, (struct kb_span){x->k[block].buf, token * row}, 0xff, row, e));
    return g->o.backend->fill(g->dev, (struct kb_span){x->v[block].buf, token * row}, 0xff, row, e);
}
