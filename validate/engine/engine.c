#include "validate/engine/calibrate.h"

#include "kernels/host.h"
#include "kernels/written.h"
#include "validate/caches/layout.h"
#include "validate/caches/lots.h"
#include "validate/caches/pool.h"
#include "validate/engine/encdec.h"
#include "validate/engine/parts.h"
#include "validate/engine/shapes.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* ---- kernels, timed and counted ------------------------------------------------------------------ */

static kvp_err begin_op(const struct eng *g, uint64_t *t, struct kvp_error *e)
{
    return g->timed ? g->o.backend->now(g->dev, t, e) : KVP_OK;
}

static void count_kernel(struct eng *g, int k, uint64_t written)
{
    struct eng_kernel *c = &g->kernel[g->phase][k];

    c->calls++;
    c->written += written;
}

static kvp_err end_op(struct eng *g, enum kvp_op op, uint64_t began, struct kvp_error *e)
{
    struct eng_op_time *t = &g->op[g->phase][op];
    uint64_t ended = 0;

    if (g->timed) {
        KVP_TRY(g->o.backend->now(g->dev, &ended, e));
        t->ns += ended - began;
    }
    t->calls++;
    g->calls[op]++;
    return KVP_OK;
}

/* Multiply-adds of a matrix product; 0: it is none. */
static uint64_t products_of(enum kb_kernel k, const void *args)
{
    if (k == KB_GEMM)
        return ((const struct kb_gemm *)args)->m * ((const struct kb_gemm *)args)->n * ((const struct kb_gemm *)args)->k;
    if (k == KB_HEAD_GEMM)
        return ((const struct kb_head_gemm *)args)->m * ((const struct kb_head_gemm *)args)->heads *
               ((const struct kb_head_gemm *)args)->rows * ((const struct kb_head_gemm *)args)->cols;
    if (k == KB_MOE_GEMM)
        return ((const struct kb_moe_gemm *)args)->rows * ((const struct kb_moe_gemm *)args)->chosen *
               ((const struct kb_moe_gemm *)args)->n * ((const struct kb_moe_gemm *)args)->k;
    return 0;
}

kvp_err eng_run(void *self, enum kvp_op op, enum kb_kernel k, const void *args, struct kvp_error *e)
{
    struct eng *g = self;
    uint64_t t = 0;

    op = g->encoding ? KVP_OP_ENCODE : op;
    KVP_TRY(begin_op(g, &t, e));
    KVP_TRY(g->o.backend->run(g->dev, k, args, e));
    count_kernel(g, (int)k, kb_written(k, args));
    g->op[g->phase][op].gemm_flops += 2 * products_of(k, args);
    return end_op(g, op, t, e);
}

kvp_err eng_copy(void *self, enum kvp_op op, struct kb_span dst, uint64_t dst_pitch, struct kb_span src,
                 uint64_t src_pitch, uint64_t bytes, uint64_t rows, struct kvp_error *e)
{
    struct eng *g = self;
    uint64_t t = 0;

    KVP_TRY(begin_op(g, &t, e));
    for (uint64_t i = 0; i < rows; i++, dst.offset += dst_pitch, src.offset += src_pitch)
        KVP_TRY(g->o.backend->copy(g->dev, dst, src, bytes, e));
    count_kernel(g, ENG_COPY, rows * bytes);
    return end_op(g, op, t, e);
}

/* ---- buffers ------------------------------------------------------------------------------------- */

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What latent attention and experts need besides. */
static void widen(struct widest *w, const struct kvp_layer_class *c)
{
    if (c->mixer == KVP_MIX_MLA) {
        w->low_rank = larger(w->low_rank, (uint64_t)c->q_rank + c->kv_rank + c->rope_dim);
        w->expanded = larger(w->expanded, (uint64_t)c->heads * ((uint64_t)c->nope_dim + c->v_head_dim));
        w->absorbed = larger(w->absorbed, 2ull * c->heads * c->kv_rank);
    }
    w->low_rank = larger(w->low_rank, (uint64_t)c->low_k + c->low_v);
    if (c->experts) {
        w->experts = larger(w->experts, c->experts);
        w->chosen = larger(w->chosen, c->experts_per_token);
        w->expert_up = larger(w->expert_up, (c->ffn == KVP_FFN_GATED ? 2ull : 1ull) * c->experts_per_token * c->expert_width);
    }
}

static void widen_cross(struct widest *w, const struct kvp_layer_class *c)
{
    const uint64_t q = (uint64_t)c->cross_heads * c->cross_head_dim, kv = (uint64_t)c->cross_kv_heads * c->cross_head_dim;

    w->qkv = larger(w->qkv, larger(q, 2 * kv));
    w->out = larger(w->out, q);
}

static void widen_dense(struct widest *w, const struct kvp_layer_class *c)
{
    w->qkv = larger(w->qkv, ((uint64_t)c->heads + 2ull * c->kv_heads) * c->head_dim);
    w->out = larger(w->out, (uint64_t)c->heads * larger(c->head_dim, c->v_head_dim));
    w->mlp = larger(w->mlp, (c->ffn == KVP_FFN_GATED ? 2ull : 1ull) * c->ffn_width);
}

static kvp_err find_widest(struct eng *g, struct kvp_error *e)
{
    const struct kvp_model *m = g->m;
    struct widest w = {0};

    for (uint32_t i = 0; i < m->classes; i++) {
        const struct kvp_layer_class *c = &m->cls[i];

        widen_dense(&w, c);
        if (m->encoders)
            widen_cross(&w, c);
        w.heads = larger(w.heads, c->heads);
        w.shared = larger(w.shared, (c->ffn == KVP_FFN_GATED ? 2ull : 1ull) * c->shared_width);
        widen(&w, c);
    }
    for (uint32_t i = 0; i < m->encoders; i++)
        widen_dense(&w, &m->encoder[i]);
    if (w.qkv > INT32_MAX || w.mlp > INT32_MAX || m->vocab > INT32_MAX || m->width > INT32_MAX)
        return kvp_fail(e, KVP_ERANGE, "%s: a row of more than 2^31 elements", m->name);
    g->widest = w;
    return KVP_OK;
}

/* rows * width elements of `size` bytes. */
static kvp_err buffer(struct eng *g, enum led_tag tag, uint64_t rows, uint64_t width, uint64_t size,
                      struct led_mem *out, struct kvp_error *e)
{
    uint64_t bytes;

    if (__builtin_mul_overflow(rows, width * size, &bytes))
        return kvp_fail(e, KVP_ERANGE, "a buffer of %" PRIu64 " rows overflows", rows);
    return led_alloc(&g->led, tag, bytes, out, e);
}

static kvp_err open_activations(struct eng *g, struct kvp_error *e)
{
    const struct widest *w = &g->widest;
    const uint64_t n = g->rows, all = g->o.batch * g->o.prompt;
    const struct {
        struct led_mem *mem;
        uint64_t rows, width, size;
    } buffers[] = {
        {&g->x, n, g->m->width, sizeof(float)},
        {&g->h, n, g->m->width, sizeof(float)},
        {&g->qkv, n, w->qkv, sizeof(float)},
        {&g->out, n, w->out, sizeof(float)},
        {&g->lse, g->decoder_rows, w->heads, sizeof(float)},
        {&g->mlp, smaller(n, MLP_ROWS), larger(w->mlp, w->shared), sizeof(float)},
        {&g->low_rank, n, w->low_rank, sizeof(float)},
        {&g->expanded, n, w->expanded, sizeof(float)},
        {&g->absorbed, g->o.batch, w->absorbed, sizeof(float)},
        {&g->router, smaller(n, MLP_ROWS), w->experts, sizeof(float)},
        {&g->routed, smaller(n, MLP_ROWS), 2 * w->chosen, sizeof(float)},
        {&g->expert_up, smaller(n, MLP_ROWS), w->expert_up, sizeof(float)},
        {&g->logits, smaller(g->o.pool ? g->o.pool->seqs : g->o.all_logits ? all : g->o.batch, LOGIT_ROWS), g->m->vocab, sizeof(float)},
        {&g->tokens, n, 1, sizeof(int32_t)},
        {&g->positions, n, 1, sizeof(int32_t)},
    };

    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        KVP_TRY(buffer(g, LED_ACTIVATION, buffers[i].rows, buffers[i].width, buffers[i].size, buffers[i].mem, e));
    return KVP_OK;
}

/* The largest matrix as f32, or as much of it as is worth unpacking at once. Plain f32 weights need none. */
static kvp_err open_scratch(struct eng *g, struct kvp_error *e)
{
    const struct widest *w = &g->widest;
    const uint64_t widest = larger(larger(w->qkv, w->mlp), g->m->vocab);
    const uint64_t elements = g->m->width * widest; /* both below 2^31 */

    if (g->coding.plain == KVP_F32 && (!g->coding.on || g->coding.coding == KB_CODING_W8A8))
        return KVP_OK;
    return led_alloc(&g->led, LED_WORKSPACE, smaller(elements, GEMM_SCRATCH / sizeof(float)) * sizeof(float),
                     &g->scratch, e);
}

/* The widest input of a layer's products as int8: the normed residual, attention's output, the activation. */
static kvp_err open_inputs(struct eng *g, struct kvp_error *e)
{
    const uint64_t n = g->rows;
    uint64_t ffn = 0;

    if (g->coding.coding != KB_CODING_W8A8)
        return KVP_OK;
    for (uint32_t i = 0; i < g->m->classes; i++)
        ffn = larger(ffn, g->m->cls[i].ffn_width);
    KVP_TRY(buffer(g, LED_WORKSPACE, 1, larger(n * larger(g->m->width, g->widest.out), smaller(n, MLP_ROWS) * ffn), 1, &g->input_codes, e));
    return buffer(g, LED_WORKSPACE, n, 1, sizeof(float), &g->input_scales, e);
}

/* Of the layers that attend; 0: none does. */
static uint32_t rotary_dim(const struct kvp_model *m)
{
    uint32_t i = 0;

    while (i < m->classes && m->cls[i].mixer == KVP_MIX_NONE)
        i++;
    return i < m->classes ? eng_rotary_dim(m, &m->cls[i]) : 0;
}

static kvp_err open_rope(struct eng *g, struct kvp_error *e)
{
    const uint32_t dim = rotary_dim(g->m), tables = g->m->numbers.window_theta > 0 ? 2 : 1;
    const uint64_t bytes = (uint64_t)tables * (dim / 2) * sizeof(float);
    float *table;
    kvp_err rc;

    if (g->m->position != KVP_POS_ROPE || !dim)
        return KVP_OK;
    for (uint32_t i = 0; i < g->m->classes; i++)
        if (g->m->cls[i].mixer != KVP_MIX_NONE && eng_rotary_dim(g->m, &g->m->cls[i]) != dim)
            return kvp_fail(e, KVP_ENOTSUP, "%s: layers with different head_dim share no RoPE table", g->m->name);
    KVP_TRY(led_alloc(&g->led, LED_WORKSPACE, bytes, &g->inv_freq, e));
    table = malloc(bytes ? bytes : 1);
    if (!table)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for the RoPE table");
    g->env.inv_freq = (struct kb_span){g->inv_freq.buf, 0};
    eng_inv_freq(g->m, dim, table);
    if (tables == 2)
        eng_window_freq(g->m, dim, table + dim / 2);
    rc = g->o.backend->write(g->dev, (struct kb_span){g->inv_freq.buf, 0}, table, bytes, e);
    free(table);
    return rc;
}

/* ALiBi's slopes, Press et al. 2021 (arXiv:2108.12409), section 3: the powers of 2^(-8 / n) for a power of two of heads; else
 * those of the next lower one, then every other of twice that (as BLOOM and MPT have it). */
static kvp_err open_slopes(struct eng *g, struct kvp_error *e)
{
    const uint32_t heads = (uint32_t)g->widest.heads;
    const double most = g->m->numbers.alibi_max > 0 ? g->m->numbers.alibi_max : 8;
    uint32_t whole = 1;
    float *slopes;
    kvp_err rc;

    if (g->m->position != KVP_POS_ALIBI)
        return KVP_OK;
    while (whole <= heads / 2)
        whole *= 2;
    KVP_TRY(led_alloc(&g->led, LED_WORKSPACE, heads * sizeof(float), &g->slopes, e));
    slopes = malloc(heads * sizeof(float));
    if (!slopes)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for ALiBi's slopes");
    for (uint32_t h = 0; h < heads; h++)
        slopes[h] = (float)exp2(h < whole ? -most * (h + 1) / whole : -most * (2 * (h - whole) + 1) / (2.0 * whole));
    rc = g->o.backend->write(g->dev, (struct kb_span){g->slopes.buf, 0}, slopes, heads * sizeof(float), e);
    free(slopes);
    return rc;
}

/* ---- life ---------------------------------------------------------------------------------------- */

/* What the engine runs is attention and a feed-forward, a pair a layer, or one of them. A new field of a layer class is 0 where
 * the architecture is absent, so what is left after the known ones are cleared must be 0. */
/* A norm before each half, or before both at once; another one behind each. */
static bool runs_norms(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    const uint32_t halves = (c->mixer != KVP_MIX_NONE ? 1u : 0u) + (c->ffn != KVP_FFN_NONE ? 1u : 0u);

    if (m->numbers.parallel)
        return halves == 2 && (c->norms == 1 || c->norms == 2);
    return halves && c->norms == (m->numbers.norms_after && !m->numbers.norms_only_after ? 2 : 1) * halves;
}

static bool runs_layer(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    static const struct kvp_layer_class none;
    const bool mixes = c->mixer != KVP_MIX_NONE;
    struct kvp_layer_class left;

    if (c->recurrent)
        return mixers_run(m, c);
    memcpy(&left, c, sizeof(left));
    if ((mixes && c->mixer != KVP_MIX_ATTENTION && c->mixer != KVP_MIX_MLA) || c->ffn == KVP_FFN_RWKV || !runs_norms(m, c) ||
        (c->mixer != KVP_MIX_MLA && c->v_head_dim != c->head_dim) || !eng_runs_ffn(m, c) ||
        (c->qk_norm && m->norm == KVP_NORM_LAYER) || /* a LayerNorm a head */
        (m->numbers.residual_scale > 0 && (c->o_bias || c->ffn_bias)) || (c->experts && (m->numbers.norms_after || m->numbers.parallel)) || (c->gated_q && c->qkv_bias))
        return false;
    left.q_rank = left.kv_rank = left.nope_dim = left.rope_dim = 0;
    left.experts = left.experts_per_token = left.expert_width = left.shared_width = 0;
    left.router_bias = left.expert_bias = left.sinks = left.no_rope = left.shared_gate = left.gated_q = false;
    left.count = left.heads = left.kv_heads = left.head_dim = left.v_head_dim = left.ffn_width = left.norms = 0;
    left.window = left.chunk = 0;
    left.mixer = KVP_MIX_NONE;
    left.ffn = KVP_FFN_NONE;
    left.act = KVP_ACT_SILU;
    left.fused_qkv = left.fused_gate_up = false; /* how a checkpoint stores them */
    left.qkv_bias = left.o_bias = left.qk_norm = left.qk_norm_wide = left.ffn_bias = left.no_kv = false;
    left.low_k = left.low_v = 0;
    left.absorb_k = left.absorb_v = false;
    return memcmp(&left, &none, sizeof(none)) == 0;
}

static kvp_err check_architecture(const struct kvp_model *m, struct kvp_error *e)
{
    const uint32_t norm = m->extra[0].name && strcmp(m->extra[0].name, "embedding_norm") == 0 ? 1 : rec_has_pre_norm(m);
    const uint32_t once = m->head_rows + m->encoders + (m->extra[norm].name != NULL) + m->no_final_norm + m->no_head +
                          (m->position_rows && m->position != KVP_POS_LEARNED) + (m->quant.format != KVP_WF_PLAIN);

    if (*m->not_run)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not run this model: %s", m->name, m->not_run);
    if (m->encoders)
        return encdec_check(m, e);
    if (once || m->norm_vectors > (m->norm == KVP_NORM_LAYER ? 2u : 1u))
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not run model_type %s yet", m->name, m->model_type);
    for (uint32_t c = 0; c < m->classes; c++)
        if (!runs_layer(m, &m->cls[c]))
            return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not run layers of class %" PRIu32 " of model_type %s yet", m->name, c,
                            m->model_type);
    return KVP_OK;
}

static kvp_err check_model(const struct kvp_model *m, uint64_t context, struct kvp_error *e)
{
    if (m->layers == 0 || m->classes == 0)
        return kvp_fail(e, KVP_EINPUT, "%s: a model without layers", m->name);
    KVP_TRY(check_architecture(m, e));
    if (m->position == KVP_POS_LEARNED && context > m->max_positions)
        return kvp_fail(e, KVP_EINPUT, "%s: context %" PRIu64 ", but its table of learned positions has %" PRIu64 " rows",
                        m->name, context, m->max_positions);
    if (m->position == KVP_POS_ROPE && m->rope_scaling == KVP_ROPE_OTHER)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine has no RoPE scaling of rope_type %s, only default, linear and llama3",
                        m->name, m->rope_type);
    return KVP_OK;
}

static kvp_err check_options(const struct eng_options *o, struct kvp_error *e)
{
    uint64_t context, rows;

    if (o->batch == 0 || o->prompt == 0)
        return kvp_fail(e, KVP_EINPUT, "the engine needs a batch and a prompt of at least 1");
    if (__builtin_add_overflow(o->prompt, o->generate, &context) || __builtin_mul_overflow(context, o->batch, &rows) ||
        rows > INT32_MAX)
        return kvp_fail(e, KVP_ERANGE, "batch times context is more than 2^31");
    if (o->weights > KVP_BF16 || o->kv > KVP_BF16)
        return kvp_fail(e, KVP_EINPUT, "weights and cache can be f32, f16 or bf16");
    return KVP_OK;
}

/* A prefill hands a layer's k and v on to the layers after it as they are: nobody may have overwritten them. */
static kvp_err check_readers(const struct kvp_model *m, struct kvp_error *e)
{
    uint32_t last = 0;

    for (uint32_t l = 0; l < m->layers; l++) {
        uint32_t owner;

        if (m->cls[m->class_of[l]].mixer == KVP_MIX_NONE)
            continue;
        if (m->position == KVP_POS_ALIBI && m->cls[m->class_of[l]].mixer == KVP_MIX_MLA)
            return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not run ALiBi in latent attention", m->name);
        KVP_TRY(rows_owner(&owner, m, l, e));
        if (owner != l && owner != last)
            return kvp_fail(e, KVP_ENOTSUP, "%s: layer %" PRIu32 " reads the keys of layer %" PRIu32 ", but layer %" PRIu32
                            " has others in between: the engine does not run this yet", m->name, l, owner, last);
        last = owner;
    }
    return KVP_OK;
}

/* Halves of whole heads, by one table, as a cache that rotates by itself does. */
static bool turns_plainly(const struct kvp_model *m)
{
    const struct kvp_numbers *n = &m->numbers;

    for (uint32_t i = 0; i < m->classes; i++)
        if (m->cls[i].no_rope)
            return false;
    return !n->rope_neighbours && !(n->rotary_part > 0) && !(n->window_theta > 0) && !n->norm_qk_after && !(n->warm_every > 0) &&
           m->rope_scaling != KVP_ROPE_YARN;
}

/* Whole prompts, fewer side by side than there are, and a cache or a kind of attention that takes no pieces: each lot has a
 * cache of its own. */
static bool needs_lots(const struct eng *g)
{
    const struct passes *p = &g->passes;
    bool pieces = g->cache_ops->extend && g->own.last_only_from >= g->m->layers;

    if (g->o.pool || p->chunk < g->o.prompt || p->hit || p->width >= g->o.batch)
        return false;
    for (uint32_t i = 0; i < g->m->classes; i++)
        pieces = pieces && (g->m->cls[i].mixer == KVP_MIX_NONE || cache_is_softmax(g->m, &g->m->cls[i]));
    return !pieces;
}

/* What goes on from where a pass left it: rows that a cache can extend. */
static kvp_err check_passes(const struct eng *g, struct kvp_error *e)
{
    const struct passes *p = &g->passes;

    if (g->o.pool || g->env.lot || passes_one(p, g->o.batch, g->o.prompt))
        return KVP_OK;
    if (!g->cache_ops->extend)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine runs it with a prompt in one pass only", g->cache_ops->name);
    if (g->own.last_only_from < g->m->layers)
        return kvp_fail(e, KVP_ENOTSUP, "yoco: the engine runs it with a prompt in one pass only");
    for (uint32_t i = 0; i < g->m->classes; i++)
        if (g->m->cls[i].mixer != KVP_MIX_NONE && !cache_extends(g->m, &g->m->cls[i]))
            return kvp_fail(e, KVP_ENOTSUP, "%s: the engine runs class %" PRIu32 "'s kind of attention with a prompt in one pass only",
                            g->m->name, i);
    return KVP_OK;
}

static kvp_err plan_passes(struct eng *g, struct kvp_error *e)
{
    g->rows = g->decoder_rows = g->o.pool ? g->o.pool->rows : 0;
    if (g->o.pool)
        return KVP_OK;
    KVP_TRY(passes_plan(&g->passes, &g->stack, g->o.batch, g->o.prompt, e));
    g->rows = g->decoder_rows = larger(g->passes.width * g->passes.chunk, g->o.batch);
    return KVP_OK;
}

static kvp_err open_cache(struct eng *g, struct kvp_error *e)
{
    g->env = (struct cache_env){.led = &g->led, .model = g->m, .stack = &g->stack, .format = g->o.kv, .batch = g->o.batch,
                                .prompt = g->o.prompt, .context = g->o.prompt + g->o.generate, .hit = g->passes.hit, .pool = g->o.pool,
                                .trace = g->o.trace,
                                .run = eng_run, .copy = eng_copy, .rope = eng_rope, .self = g};
    KVP_TRY(cache_check(&g->stack, e));
    g->expand = rows_expanded(&g->stack);
    if (g->o.pool)
        g->cache_ops = &cache_pool;
    else
        KVP_TRY(cache_find(&g->cache_ops, &g->stack, e));
    if (needs_lots(g)) {
        g->env.lot = g->passes.width;
        g->lots_ops = lots_of(g->cache_ops);
        g->cache_ops = &g->lots_ops;
    }
    KVP_TRY(check_passes(g, e));
    if (g->cache_ops->raw && !turns_plainly(g->m))
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not run it with %s's kind of rotation yet", g->cache_ops->name, g->m->name);
    for (uint32_t l = 0; !g->cache_ops->any_attention && l < g->m->layers; l++)
        if (!cache_is_plain(g->m, &g->m->cls[g->m->class_of[l]]))
            return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not run it with layer %" PRIu32 "'s kind of attention yet",
                            g->cache_ops->name, l);
    KVP_TRY(check_readers(g->m, e));
    return g->cache_ops->open(&g->cache, &g->env, e);
}

static kvp_err open_host(struct eng *g, struct kvp_error *e)
{
    g->host_ids = malloc((size_t)g->rows * sizeof(*g->host_ids));
    g->host_tokens = malloc((size_t)g->rows * sizeof(*g->host_tokens));
    return g->host_ids && g->host_tokens ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "out of memory for token ids");
}

/* Where keys are rebuilt, nothing but a norm and a rotation follows. */
static kvp_err check_factors(const struct eng *g, struct kvp_error *e)
{
    bool any = false;

    for (uint32_t i = 0; i < g->m->classes; i++) {
        const struct kvp_layer_class *c = &g->m->cls[i];

        any = any || c->low_k;
        if (c->low_k && (!cache_is_softmax(g->m, c) || c->no_rope || (c->qk_norm && g->m->numbers.norm_add_one)))
            return kvp_fail(e, KVP_ENOTSUP, "lorc: the engine does not run it with the attention of model_type %s yet", g->m->model_type);
    }
    if (!any)
        return KVP_OK;
    if (g->o.pool)
        return kvp_fail(e, KVP_ENOTSUP, "lorc: the engine does not serve from latents yet");
    return g->coding.on ? kvp_fail(e, KVP_ENOTSUP, "lorc: the engine does not code factored weights yet") : KVP_OK;
}

static kvp_err open_device(struct eng *g, struct kvp_error *e)
{
    if (!g->o.shelf)
        return g->o.backend->open(&g->dev, &g->o.device, e);
    if (!shelf_serves(&g->stack))
        shelf_clear(g->o.shelf);
    return shelf_device(g->o.shelf, g->o.backend, &g->o.device, &g->dev, e);
}

static kvp_err open_weights(struct eng *g, struct kvp_error *e)
{
    const struct shelf_key key = {.m = g->given, .dir = g->o.weights_dir, .seed = g->o.seed, .format = g->coding.plain};
    const bool shelved = g->o.shelf && shelf_serves(&g->stack);

    if (!shelved || !shelf_take(g->o.shelf, &key, &g->w, &g->led))
        KVP_TRY(weights_open(&g->w, &g->led, g->m, &g->coding, g->o.weights_dir, g->o.seed, e));
    if (shelved)
        g->shelved = key;
    return KVP_OK;
}

static kvp_err open_all(struct eng *g, struct kvp_error *e)
{
    KVP_TRY(open_device(g, e));
    g->led = (struct ledger){.be = g->o.backend, .dev = g->dev};
    KVP_TRY(find_widest(g, e));
    KVP_TRY(wt_coding_read(&g->coding, &g->stack, g->o.weights, e));
    KVP_TRY(check_factors(g, e));
    g->o.weights = g->coding.plain;
    KVP_TRY(plan_passes(g, e));
    KVP_TRY(mixers_open(g, e));
    KVP_TRY(encdec_open(g, e));
    KVP_TRY(xc_open(g, e));
    KVP_TRY(open_cache(g, e)); /* before the weights: what is wrong with it is said at once */
    KVP_TRY(open_activations(g, e));
    KVP_TRY(open_scratch(g, e));
    KVP_TRY(open_inputs(g, e));
    KVP_TRY(open_rope(g, e));
    KVP_TRY(open_slopes(g, e));
    KVP_TRY(open_host(g, e));
    KVP_TRY(open_weights(g, e));
    return g->coding.method == WT_ROUND ? KVP_OK : calibrate(g, e);
}

static kvp_err measure_conditions(double **out, const struct kvp_model *m, const struct eng_options *o, struct kvp_error *e)
{
    kvp_err rc;

    *out = calloc(m->layers, sizeof(**out));
    if (!*out)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu32 " layers", m->layers);
    rc = weights_conditions(*out, m, o->weights_dir, o->seed, e);
    if (rc != KVP_OK) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

kvp_err eng_conditions(double **out, const struct kvp_model *m, const struct kvp_stack *s, const struct eng_options *o, struct kvp_error *e)
{
    struct rewritten r;
    kvp_err rc;

    *out = NULL;
    if (!rewrite_wants_conditions(s))
        return KVP_OK;
    KVP_TRY(rewrite_model(&r, m, s, e));
    rc = check_model(&r.m, o->prompt + o->generate, e);
    if (rc == KVP_OK)
        rc = measure_conditions(out, &r.m, o, e);
    rewrite_free(&r);
    return rc;
}

static kvp_err rank_layers(struct eng *g, struct kvp_error *e)
{
    double *conditions;

    if (!rewrite_wants_conditions(&g->stack))
        return KVP_OK;
    KVP_TRY(measure_conditions(&conditions, g->m, &g->o, e));
    rewrite_ranks(&g->own, &g->stack, conditions);
    free(conditions);
    return KVP_OK;
}

kvp_err eng_open(struct eng **out, const struct kvp_model *m, const struct kvp_stack *s, const struct eng_options *o,
                 struct kvp_error *e)
{
    struct eng *g;
    kvp_err rc;

    *out = NULL;
    KVP_TRY(check_options(o, e));
    g = calloc(1, sizeof(*g));
    if (!g)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for the engine");
    g->given = m;
    g->stack = *s;
    g->o = *o;
    rc = rewrite_model(&g->own, m, s, e);
    g->m = &g->own.m;
    if (rc == KVP_OK) /* as the stack leaves it: what is replaced need not run */
        rc = check_model(g->m, o->prompt + o->generate, e);
    if (rc == KVP_OK)
        rc = encdec_check_options(g->m, o, e);
    if (rc == KVP_OK)
        rc = rank_layers(g, e);
    if (rc == KVP_OK)
        rc = xc_place(g, e);
    if (rc == KVP_OK)
        rc = open_all(g, e);
    if (rc != KVP_OK) {
        eng_close(g);
        return rc;
    }
    *out = g;
    return KVP_OK;
}

void eng_close(struct eng *g)
{
    if (!g)
        return;
    if (g->dev) {
        struct led_mem *const mem[] = {&g->x, &g->h, &g->qkv, &g->out, &g->lse, &g->mlp, &g->logits, &g->tokens,
                                       &g->positions, &g->scratch, &g->input_codes, &g->input_scales, &g->inv_freq, &g->low_rank,
                                       &g->expanded, &g->absorbed, &g->router, &g->routed, &g->expert_up, &g->slopes};

        if (g->cache)
            g->cache_ops->close(g->cache);
        for (size_t i = 0; i < sizeof(mem) / sizeof(mem[0]); i++)
            led_free(&g->led, mem[i]);
        mixers_close(g);
        encdec_close(g);
        xc_close(g);
        if (g->shelved.m)
            shelf_put(g->o.shelf, &g->shelved, &g->w);
        else
            weights_close(&g->w);
        if (!g->o.shelf)
            g->o.backend->close(g->dev);
    }
    rewrite_free(&g->own);
    free(g->host_ids);
    free(g->host_tokens);
    free(g);
}

/* ---- runs ---------------------------------------------------------------------------------------- */

static kvp_err check_tokens(const struct eng *g, const int32_t *tokens, uint64_t n, struct kvp_error *e)
{
    for (uint64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= g->m->vocab)
            return kvp_fail(e, KVP_EINPUT, "token %" PRIu64 " is %" PRId32 ", the vocabulary has %" PRIu32, i, tokens[i],
                            g->m->vocab);
    return KVP_OK;
}

/* Of the table of learned positions (OPT, BART: 2). */
static uint64_t first_row(const struct kvp_model *m)
{
    return m->position == KVP_POS_LEARNED && m->position_rows ? m->position_rows - m->max_positions : 0;
}

kvp_err eng_upload(struct eng *g, const int32_t *tokens, const struct pass *p, struct kvp_error *e)
{
    const struct kb_backend *be = g->o.backend;
    const uint64_t bytes = p->rows * sizeof(int32_t), first = p->position + first_row(g->m);

    for (uint64_t i = 0; i < p->rows; i++)
        g->host_ids[i] = (int32_t)(first + i % p->tokens);
    KVP_TRY(be->write(g->dev, (struct kb_span){g->tokens.buf, 0}, tokens, bytes, e));
    return be->write(g->dev, (struct kb_span){g->positions.buf, 0}, g->host_ids, bytes, e);
}

static kvp_err begin_phase(struct eng *g, int phase, uint64_t *began, struct kvp_error *e)
{
    g->phase = phase;
    memset(g->op[phase], 0, sizeof(g->op[phase]));
    memset(g->kernel[phase], 0, sizeof(g->kernel[phase]));
    return g->o.backend->now(g->dev, began, e);
}

static kvp_err end_phase(struct eng *g, uint64_t began, struct kvp_error *e)
{
    uint64_t ended = 0;

    KVP_TRY(g->o.backend->now(g->dev, &ended, e));
    g->forward_ns[g->phase] = ended - began;
    return KVP_OK;
}

static kvp_err forward(struct eng *g, struct pass *p, const int32_t *tokens, float *all, float *last, bool head,
                       struct kvp_error *e)
{
    const uint64_t seen = p->position + p->tokens;

    KVP_TRY(eng_upload(g, tokens, p, e));
    KVP_TRY(eng_layers(g, p, !all, e));
    if (head || all)
        KVP_TRY(eng_head(g, p, all, last, e));
    g->position = seen;
    return KVP_OK;
}

/* Some sequences' tokens [from, to), a chunk at a time; logits are the prompt's last chunk's. */
static kvp_err prefill_lot(struct eng *g, const int32_t *tokens, uint64_t first, uint64_t batch, uint64_t from, uint64_t to, float *all,
                           float *last, struct kvp_error *e)
{
    const uint64_t prompt = g->o.prompt;

    for (uint64_t at = from, n; at < to; at += n) {
        struct pass p = {.extend = !g->env.lot, .prefill = g->env.lot > 0, .first = first, .batch = batch, .position = at};

        p.tokens = n = smaller(g->passes.chunk, to - at);
        p.rows = batch * n;
        for (uint64_t b = 0; b < batch; b++)
            memcpy(g->host_tokens + b * n, tokens + (first + b) * prompt + at, n * sizeof(*tokens));
        KVP_TRY(forward(g, &p, g->host_tokens, all, last, at + n == prompt, e));
    }
    return KVP_OK;
}

static kvp_err check_hit(const struct eng *g, const int32_t *tokens, struct kvp_error *e)
{
    for (uint64_t b = 1; b < g->o.batch; b++)
        if (memcmp(tokens, tokens + b * g->o.prompt, g->passes.hit * sizeof(*tokens)) != 0)
            return kvp_fail(e, KVP_EINPUT, "prefix: sequence %" PRIu64 " does not begin with the same %" PRIu64 " tokens as sequence 0",
                            b, g->passes.hit);
    return KVP_OK;
}

static kvp_err go_on(struct eng *g, uint64_t first, uint64_t n, struct kvp_error *e)
{
    for (uint64_t b = first; b < first + n; b++)
        KVP_TRY(mixers_go_on(g, b, e));
    return KVP_OK;
}

/* The first sequence alone where the others find its prefix, then as many side by side as a pass holds. */
static kvp_err prefill_lots(struct eng *g, const int32_t *tokens, float *all, float *last, struct kvp_error *e)
{
    const struct passes *p = &g->passes;
    const uint64_t cut = g->mix.layer ? p->hit : 0; /* where states are set aside */

    KVP_TRY(check_hit(g, tokens, e));
    for (uint64_t first = 0, n; first < g->o.batch; first += n) {
        n = p->hit && !first ? 1 : smaller(p->width, g->o.batch - first);
        if (!first && cut)
            KVP_TRY(prefill_lot(g, tokens, 0, 1, 0, cut, all, last, e));
        KVP_TRY(first ? go_on(g, first, n, e) : mixers_mark(g, 0, e));
        KVP_TRY(prefill_lot(g, tokens, first, n, first ? p->hit : cut, g->o.prompt, all, last, e));
    }
    for (uint64_t b = 1; all && b < g->o.batch; b++) /* the same tokens behind the same tokens: computed once */
        memcpy(all + b * g->o.prompt * g->m->vocab, all, p->hit * g->m->vocab * sizeof(*all));
    return KVP_OK;
}

kvp_err eng_prefill(struct eng *g, const int32_t *tokens, float *all_logits, float *logits, struct kvp_error *e)
{
    struct pass p = {.tokens = g->o.prompt, .rows = g->o.batch * g->o.prompt, .prefill = true, .batch = g->o.batch};
    uint64_t began = 0;

    if (g->o.pool)
        return kvp_fail(e, KVP_EINPUT, "an engine that serves runs passes, no prefill");
    g->position = 0;
    KVP_TRY(check_tokens(g, tokens, p.rows + g->o.batch * g->own.xc.context, e));
    KVP_TRY(xc_begin(g, tokens, &tokens, e));
    KVP_TRY(g->cache_ops->reset(g->cache, e));
    KVP_TRY(mixers_reset(g, e));
    KVP_TRY(begin_phase(g, ENG_PREFILL, &began, e));
    KVP_TRY(encdec_encode(g, e));
    if (passes_one(&g->passes, g->o.batch, g->o.prompt))
        KVP_TRY(forward(g, &p, tokens, all_logits, logits, true, e));
    else
        KVP_TRY(prefill_lots(g, tokens, all_logits, logits, e));
    return end_phase(g, began, e);
}

kvp_err eng_decode(struct eng *g, const int32_t *tokens, float *logits, struct kvp_error *e)
{
    struct pass p = {.tokens = 1, .rows = g->o.batch, .position = g->position, .batch = g->o.batch};
    uint64_t began = 0;

    if (g->position == 0)
        return kvp_fail(e, KVP_EINPUT, "a decode step needs a prefill first");
    if (g->position >= g->o.prompt + g->o.generate)
        return kvp_fail(e, KVP_EINPUT, "position %" PRIu64 " is past the context of %" PRIu64, g->position,
                        g->o.prompt + g->o.generate);
    KVP_TRY(check_tokens(g, tokens, p.rows, e));
    KVP_TRY(begin_phase(g, ENG_DECODE, &began, e));
    KVP_TRY(forward(g, &p, tokens, NULL, logits, true, e));
    return end_phase(g, began, e);
}

/* ---- serving --------------------------------------------------------------------------------------- */

static kvp_err upload_ragged(struct eng *g, const struct pool_seq *seq, uint64_t n, const int32_t *tokens, uint64_t rows, struct kvp_error *e)
{
    const struct kb_backend *be = g->o.backend;
    int32_t *at = g->host_ids;

    for (uint64_t s = 0; s < n; s++)
        for (uint64_t i = 0; i < seq[s].rows; i++)
            *at++ = (int32_t)(seq[s].before + i + first_row(g->m));
    KVP_TRY(be->write(g->dev, (struct kb_span){g->tokens.buf, 0}, tokens, rows * sizeof(int32_t), e));
    return be->write(g->dev, (struct kb_span){g->positions.buf, 0}, g->host_ids, rows * sizeof(int32_t), e);
}

/* The last rows of the residual that are wanted move to its beginning. */
static kvp_err gather(struct eng *g, const struct pool_seq *seq, uint64_t n, const bool *wants, uint64_t *wanted, struct kvp_error *e)
{
    const uint64_t bytes = g->m->width * sizeof(float);
    uint64_t end = 0;

    for (uint64_t s = *wanted = 0; s < n; s++) {
        end += seq[s].rows;
        if (!wants[s])
            continue;
        if (*wanted != end - 1)
            KVP_TRY(g->o.backend->copy(g->dev, (struct kb_span){g->x.buf, *wanted * bytes}, (struct kb_span){g->x.buf, (end - 1) * bytes},
                                       bytes, e));
        ++*wanted;
    }
    return KVP_OK;
}

static kvp_err run_ragged(struct eng *g, const struct pool_seq *seq, uint64_t n, const int32_t *tokens, uint64_t rows, const bool *wants,
                          float *logits, struct kvp_error *e)
{
    struct pass p = {.tokens = rows, .rows = rows, .extend = true, .batch = 1}, head = {.tokens = 1};

    KVP_TRY(pool_begin(g->cache, seq, n, e));
    KVP_TRY(upload_ragged(g, seq, n, tokens, rows, e));
    KVP_TRY(eng_layers(g, &p, false, e));
    KVP_TRY(gather(g, seq, n, wants, &head.rows, e));
    head.batch = head.rows;
    return head.rows ? eng_head(g, &head, NULL, logits, e) : KVP_OK;
}

kvp_err eng_pass(struct eng *g, const struct pool_seq *seq, uint64_t n, const int32_t *tokens, const bool *wants, float *logits,
                 struct kvp_error *e)
{
    uint64_t rows = 0, began = 0;

    for (uint64_t s = 0; s < n; s++) {
        rows += seq[s].rows;
        if (g->m->position == KVP_POS_LEARNED && seq[s].before + seq[s].rows > g->m->max_positions)
            return kvp_fail(e, KVP_EINPUT, "%s: a sequence of %" PRIu64 " tokens, but its table of learned positions has %" PRIu64 " rows",
                            g->m->name, seq[s].before + seq[s].rows, g->m->max_positions);
    }
    if (!rows || rows > g->rows)
        return kvp_fail(e, KVP_EINPUT, "a pass of %" PRIu64 " tokens, expected 1 to %" PRIu64, rows, g->rows);
    KVP_TRY(check_tokens(g, tokens, rows, e));
    KVP_TRY(begin_phase(g, ENG_DECODE, &began, e));
    KVP_TRY(run_ragged(g, seq, n, tokens, rows, wants, logits, e));
    return end_phase(g, began, e);
}

kvp_err eng_poison_block(struct eng *g, uint32_t block, struct kvp_error *e)
{
    return pool_poison(g->cache, block, e);
}

/* ---- what a run left ------------------------------------------------------------------------------ */

const struct ledger *eng_ledger(const struct eng *g)
{
    return &g->led;
}

void eng_time_ops(struct eng *g, bool on)
{
    g->timed = on;
}

const struct eng_op_time *eng_op_times(const struct eng *g, int phase)
{
    return g->op[phase];
}

uint64_t eng_forward_ns(const struct eng *g, int phase)
{
    return g->forward_ns[phase];
}

const uint64_t *eng_calls(const struct eng *g)
{
    return g->calls;
}

const struct eng_kernel *eng_kernels(const struct eng *g, int phase)
{
    return g->kernel[phase];
}

const char *eng_kernel_name(int k)
{
    return k == ENG_COPY ? "copy" : kb_kernel_name((enum kb_kernel)k);
}

static kvp_err cannot(const struct eng *g, const char *what, struct kvp_error *e)
{
    return kvp_fail(e, KVP_ENOTSUP, "%s: this cache has no %s", g->cache_ops->name, what);
}

kvp_err eng_dump_kept(struct eng *g, FILE *f, struct kvp_error *e)
{
    return g->cache_ops->dump_kept ? g->cache_ops->dump_kept(g->cache, f, e) : cannot(g, "kept positions to dump", e);
}

kvp_err eng_dump_cache(struct eng *g, FILE *f, struct kvp_error *e)
{
    return g->cache_ops->dump_cache ? g->cache_ops->dump_cache(g->cache, f, e) : cannot(g, "codes to dump", e);
}

kvp_err eng_poison(struct eng *g, uint64_t pos, bool *stored, struct kvp_error *e)
{
    return g->cache_ops->poison ? g->cache_ops->poison(g->cache, pos, stored, e) : cannot(g, "rows to poison", e);
}
