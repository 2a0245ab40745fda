/* xc-cache.c - the context goes through an encoder once; the decoder reads its output in a few cross blocks.
 *
 *   context   keep=hidden  B * Tc * Denc * b               one tensor for all cross blocks
 *             keep=kv      nx * 2 * B * Tc * Dx * b
 *   decoder   2 * L * B * (question + generated) * Hkv * d * b
 *   blocks    4 * D * Dx + 12 * D * Dx + 4 * D parameters each: q, k, v, o; a gated feed-forward of 4 * Dx; two
 *             LayerNorms with bias
 *
 * The context is the prompt less `question` tokens. encoder=offline: it was encoded before, and its pass is not part
 * of the prefill. encoder=self: the decoder is its own encoder (XC-LlamaDec), and its pass over the context, as far as
 * the final norm, is the op `encode` of the prefill.
 * keep=hidden projects k and v of the whole context again in every forward call, as the official code does:
 * 4 * nx * Tc * D * Dx FLOPs ("rebuild"). ServiceNow/xc-cache xc_cache/models/cross_attn/cross_attn_llama.py;
 * defaults of scripts/cross_attn/config/exp_configs.py (4 blocks, stride 6, inner 1024). */
#include "calc/rewrite.h"
#include "calc/technique.h"

#include <inttypes.h>

static const char *const keeps[] = {"hidden", "kv", NULL};
static const char *const encoders[] = {"offline", "self", NULL};
enum { HIDDEN, KV };
enum { OFFLINE, SELF };
enum { ROWS = 1024, UNPACKED = 8 << 20 }; /* rows, and elements of a matrix, that are alive at once */

static const char NORMS[] = "cross_norms"; /* four a block */

struct blocks {
    uint64_t n, stride, inner, encoder; /* encoder: its width */
};

/* What is not given is as large as in the recipe, or as the layers have room for. */
static struct blocks blocks_of(const struct kvp_spec *s, const struct kvp_model *m)
{
    const struct kvp_param *width = kvp_spec_param(s, "encoder_width");
    const bool blocks = kvp_spec_param(s, "blocks")->given, stride = kvp_spec_param(s, "stride")->given;
    struct blocks b = {spec_int(s, "blocks"), spec_int(s, "stride"), spec_int(s, "inner"), width->given ? (uint64_t)width->i : m->width};

    for (int i = 0; i < KVP_MAX_EXTRA && m->extra[i].name; i++)
        if (strcmp(m->extra[i].name, NORMS) == 0) { /* rewritten already, and perhaps cut into stages since */
            b.n = m->extra[i].n / 4;
            return b;
        }
    if (!blocks)
        b.n = num_max(1, num_min(b.n, stride ? num_cdiv(m->layers, b.stride) : m->layers));
    if (!stride && b.n > 1)
        b.stride = num_max(1, num_min(b.stride, (m->layers - 1) / (b.n - 1)));
    return b;
}

/* The prompt's last tokens that are the decoder's own: 32, or half of a shorter prompt. */
static uint64_t question_of(const struct kvp_spec *s, uint64_t prompt)
{
    const struct kvp_param *given = kvp_spec_param(s, "question");

    return given->given || prompt > (uint64_t)given->i ? (uint64_t)given->i : num_max(1, prompt / 2);
}

static kvp_err model_rewrite(struct kvp_model *m, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct blocks b = blocks_of(s, m);
    const uint32_t n = (uint32_t)b.n, x = (uint32_t)b.inner;

    if (kvp_spec_param(s, "encoder")->i == SELF && b.encoder != m->width)
        return kvp_fail(e, KVP_EINPUT, "xc-cache: encoder=self with encoder_width=%" PRIu64 ": the decoder's own width is %u", b.encoder, m->width);
    if (!m->layers || (b.n - 1) * b.stride >= m->layers)
        return kvp_fail(e, KVP_EINPUT, "xc-cache: blocks=%" PRIu64 " with stride=%" PRIu64 " need %" PRIu64 " layers, %s has %u", b.n, b.stride,
                        (b.n - 1) * b.stride + 1, m->name, m->layers);
    if (model_mixers(m, KVP_MIX_ATTENTION) != m->layers)
        return kvp_fail(e, KVP_ENOTSUP, "xc-cache: %s has layers that are not attention", m->name);
    KVP_TRY(model_extra(m, (struct kvp_extra){"cross_q_o_proj", x, m->width, 2 * n, true}, e));
    KVP_TRY(model_extra(m, (struct kvp_extra){"cross_k_v_proj", x, (uint32_t)b.encoder, 2 * n, true}, e));
    KVP_TRY(model_extra(m, (struct kvp_extra){"cross_mlp", 4 * x, m->width, 3 * n, true}, e));
    return model_extra(m, (struct kvp_extra){NORMS, m->width, 1, 4 * n, false}, e);
}

/* The decoder's own tokens are the question's and the answer's. */
static kvp_err store_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const uint64_t question = question_of(s, p->w.prompt);

    if (question >= p->w.prompt)
        return kvp_fail(e, KVP_EINPUT, "xc-cache: question=%" PRIu64 " leaves no context of a prompt of %" PRIu64 " tokens", question, p->w.prompt);
    p->w.context -= p->w.prompt - question;
    p->w.prompt = question;
    p->chunk = question;
    return KVP_OK;
}

static uint64_t context_of(const struct plan *p)
{
    return p->asked - p->w.context;
}

static uint32_t last_class(const struct plan *p)
{
    return plan_class_of(p, p->model->layers - 1);
}

static void add(struct plan *p, struct plan_class *c, const char *name, uint64_t width, uint64_t layers)
{
    struct part *x = plan_add_fixed(p, c, name, KVP_TAG_CACHE, p->kv, 1, context_of(p), width);

    x->layers = layers;
    x->replicated = true;
}

/* A block has as many heads as the decoder, or the most below that which divide its width into even parts. */
static uint64_t head_of(const struct blocks *b, const struct kvp_model *m)
{
    for (uint64_t heads = m->cls[m->class_of[0]].heads; heads > 1; heads--)
        if (b->inner % (2 * heads) == 0)
            return b->inner / heads;
    return b->inner;
}

/* What blocks work in beside the decoder's activations: they are wider, or may be. */
static void scratch(struct plan *p, const struct blocks *b, bool hidden)
{
    const uint64_t Tc = context_of(p), B = p->w.batch, N = num_mul(&p->over, B, p->w.prompt);
    const uint64_t largest = num_max(NUM_PROD(&p->over, 8, b->inner, p->model->width), NUM_PROD(&p->over, 2, b->inner, b->encoder));

    if (hidden)
        plan_add_scratch(p, "context_k_v", KVP_F32, B, num_mul(&p->over, 2, Tc), b->inner);
    if (hidden && p->kv != KVP_F32)
        plan_add_scratch(p, "context_rows", KVP_F32, 1, num_min(Tc, ROWS), b->encoder);
    plan_add_scratch(p, "context_positions", KVP_I32, 1, 1, Tc);
    plan_add_scratch(p, "block_q_out", KVP_F32, 2, N, b->inner);
    plan_add_scratch(p, "block_mlp", KVP_F32, 8, num_min(N, ROWS), b->inner);
    if (p->model->position == KVP_POS_ROPE)
        plan_add_scratch(p, "block_frequencies", KVP_F32, 1, 1, head_of(b, p->model) / 2);
    if (p->weights.plain != KVP_F32)
        plan_add_scratch(p, "block_unpack", KVP_F32, 1, 1, num_min(UNPACKED, largest));
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct blocks b = blocks_of(s, p->model);
    struct plan_class *c = &p->cls[last_class(p)];

    (void)e;
    if (kvp_spec_param(s, "keep")->i == HIDDEN) {
        add(p, c, "context_hidden", b.encoder, 1);
    } else {
        add(p, c, "context_k", b.inner, b.n);
        add(p, c, "context_v", b.inner, b.n);
    }
    scratch(p, &b, kvp_spec_param(s, "keep")->i == HIDDEN);
    return KVP_OK;
}

static struct cost linear(struct ops *o, struct plan *p, uint64_t rows, uint64_t in, uint64_t out)
{
    const uint64_t flops = NUM_PROD(&o->over, 2, rows, in, out);

    return (struct cost){flops, flops, num_add(&o->over, store_bytes(&o->over, &p->weights, KVP_ROLE_SMALL, out, in, true), NUM_PROD(&o->over, 4, rows, in)),
                         NUM_PROD(&o->over, 4, rows, out)};
}

/* A prefill of the context alone, without the head and with no row kept: one op. */
static void encode(struct ops *o, struct plan *p, uint32_t cls)
{
    const struct kvp_workload w = {.batch = p->w.batch, .prompt = context_of(p), .context = context_of(p)};
    struct ops each = {0};
    struct kvp_error e = {0};
    struct cost all = {0};
    struct plan own;
    kvp_err rc = plan_build(&own, p->model, &(struct kvp_stack){0}, &w, p->o, p->kv, &e);

    if (rc == KVP_OK) {
        own.weights = p->weights;
        rc = ops_build(&each, &own, num_mul(&o->over, w.batch, w.prompt), &e);
        plan_free(&own);
    }
    for (uint32_t i = 0; rc == KVP_OK && i < each.n; i++) {
        const struct kvp_op_cost *x = &each.v[i];

        if (x->phase != KVP_PREFILL || x->op == KVP_OP_HEAD || x->op == KVP_OP_APPEND)
            continue;
        all.flops = num_add(&o->over, all.flops, x->flops);
        all.flops_full = num_add(&o->over, all.flops_full, x->flops_full);
        all.read = num_add(&o->over, all.read, x->read_bytes);
        all.written = num_add(&o->over, all.written, x->written_bytes);
    }
    ops_free(&each);
    o->oom = o->oom || rc == KVP_ENOMEM;
    o->over = o->over || (rc != KVP_OK && rc != KVP_ENOMEM);
    ops_add(o, KVP_OP_ENCODE, KVP_PREFILL, cls, 1, all);
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    const struct blocks b = blocks_of(s, p->model);
    const bool rebuild = kvp_spec_param(s, "keep")->i == HIDDEN;
    const uint64_t Tc = context_of(p), B = p->w.batch, N = num_mul(&o->over, B, phase == KVP_PREFILL ? p->w.prompt : 1);
    const uint64_t kb = format_bits(p->kv) / 8, all = NUM_PROD(&o->over, 4, b.inner, N, Tc);
    const uint64_t stored = NUM_PROD(&o->over, B, Tc, rebuild ? 4 : kb, 2, b.inner);

    if (cls != last_class(p))
        return;
    if (phase == KVP_PREFILL && kvp_spec_param(s, "encoder")->i == SELF)
        encode(o, p, cls);
    if (rebuild) {
        struct cost c = linear(o, p, num_mul(&o->over, B, Tc), b.encoder, 2 * b.inner);

        c.read = num_add(&o->over, store_bytes(&o->over, &p->weights, KVP_ROLE_SMALL, 2 * b.inner, b.encoder, true), NUM_PROD(&o->over, B, Tc, b.encoder, kb));
        ops_add(o, KVP_OP_REBUILD, phase, cls, b.n, c);
    }
    ops_add(o, KVP_OP_CROSS_QKV, phase, cls, b.n, linear(o, p, N, p->model->width, b.inner));
    ops_add(o, KVP_OP_CROSS_ATTN, phase, cls, b.n,
            (struct cost){all, all, num_add(&o->over, stored, NUM_PROD(&o->over, 4, N, b.inner)), NUM_PROD(&o->over, 4, N, b.inner)});
    ops_add(o, KVP_OP_CROSS_O, phase, cls, b.n, linear(o, p, N, b.inner, p->model->width));
    ops_add(o, KVP_OP_MLP_UP, phase, cls, b.n, linear(o, p, N, p->model->width, 8 * b.inner));
    ops_add(o, KVP_OP_MLP_DOWN, phase, cls, b.n, linear(o, p, N, 4 * b.inner, p->model->width));
}

/* Half of the prompt is the question, and as many blocks as the layers have room for. */
static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    const uint64_t blocks = m->layers < 4 ? m->layers : 4, stride = m->layers >= 19 ? 6 : 1;

    snprintf(buf, n, "blocks=%" PRIu64 ",stride=%" PRIu64 ",question=%" PRIu64, blocks, stride, num_max(w->prompt / 2, 1));
}

const struct technique technique_xc_cache = {
    .info = {.name = "xc-cache", .axis = KVP_AXIS_MIXER, .summary = "the context as an encoder's output, read by a few cross blocks",
             .source = "Monteiro et al. 2024, arXiv:2404.15420; ServiceNow/xc-cache cross_attn_llama.py, exp_configs.py",
             .params = "blocks,stride,inner=1024,question,keep=hidden,encoder=offline,encoder_width"},
    .n_params = 7,
    .params = {{.key = "blocks", .kind = KVP_PARAM_INT, .no_default = true, .i = 4, .min = 1, .max = 1 << 16},
               {.key = "stride", .kind = KVP_PARAM_INT, .no_default = true, .i = 6, .min = 1, .max = 1 << 16},
               {.key = "inner", .kind = KVP_PARAM_INT, .i = 1024, .min = 1, .max = 1 << 20},
               {.key = "question", .kind = KVP_PARAM_INT, .no_default = true, .i = 32, .min = 1, .max = INT64_MAX},
               {.key = "keep", .kind = KVP_PARAM_WORD, .i = HIDDEN, .words = keeps},
               {.key = "encoder", .kind = KVP_PARAM_WORD, .words = encoders},
               {.key = "encoder_width", .kind = KVP_PARAM_INT, .no_default = true, .min = 1, .max = 1 << 20}},
    .example = example,
    .model_rewrite = model_rewrite,
    .store_rewrite = store_rewrite,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
