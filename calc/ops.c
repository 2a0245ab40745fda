#include "calc/technique.h"

#include <math.h>
#include <stdlib.h>

enum { F = 4 }; /* bytes of an activation: f32 */

uint64_t ops_band(bool *over, uint64_t tokens, uint64_t band)
{
    const uint64_t m = num_min(tokens, band);
    const uint64_t triangle = m % 2 ? num_mul(over, m, (m + 1) / 2) : num_mul(over, m / 2, m + 1);

    return num_add(over, triangle, num_mul(over, tokens - m, m));
}

static struct cost scale(bool *over, struct cost c, uint64_t n)
{
    return (struct cost){num_mul(over, c.flops, n), num_mul(over, c.flops_full, n), num_mul(over, c.read, n), num_mul(over, c.written, n)};
}

static void accumulate(struct ops *o, struct kvp_op_cost *x, struct cost c)
{
    x->flops = num_add(&o->over, x->flops, c.flops);
    x->flops_full = num_add(&o->over, x->flops_full, c.flops_full);
    x->read_bytes = num_add(&o->over, x->read_bytes, c.read);
    x->written_bytes = num_add(&o->over, x->written_bytes, c.written);
}

void ops_add(struct ops *o, enum kvp_op op, enum kvp_phase phase, uint32_t cls, uint64_t calls, struct cost c)
{
    if (o->n == o->cap) {
        const uint32_t cap = o->cap ? 2 * o->cap : 64;
        struct kvp_op_cost *v = realloc(o->v, cap * sizeof(*v));

        if (!v) {
            o->oom = true;
            return;
        }
        o->v = v;
        o->cap = cap;
    }
    o->v[o->n] = (struct kvp_op_cost){.op = op, .phase = phase, .cls = cls, .calls = calls, .seconds = NAN};
    accumulate(o, &o->v[o->n++], scale(&o->over, c, calls));
}

void ops_more(struct ops *o, enum kvp_op op, enum kvp_phase phase, uint32_t cls, struct cost c)
{
    for (uint32_t i = 0; i < o->n; i++)
        if (o->v[i].op == op && o->v[i].phase == phase && o->v[i].cls == cls)
            accumulate(o, &o->v[i], scale(&o->over, c, o->v[i].calls));
}

/* ---- one forward pass ----------------------------------------------------------------------------- */

struct pass {
    struct ops *o;
    struct plan *p;
    enum kvp_phase phase;
    uint64_t B, T, N; /* sequences; tokens seen by the last query; rows of activations */
    uint64_t logit_rows;
    uint64_t wb;      /* bytes of a weight */
};

static uint64_t prod3(const struct pass *s, uint64_t a, uint64_t b, uint64_t c)
{
    return NUM_PROD(&s->o->over, a, b, c);
}

static uint64_t sum(const struct pass *s, uint64_t a, uint64_t b)
{
    return num_add(&s->o->over, a, b);
}

/* rows x [in] through weights [out, in] (+ bias) to [out]; adds to what is there when `residual`. */
static void linear(const struct pass *s, enum kvp_op op, uint32_t cls, uint64_t calls, uint64_t rows, uint64_t in, uint64_t out,
                   bool bias, bool residual)
{
    const uint64_t weights = sum(s, prod3(s, in, out, s->wb), bias ? prod3(s, 1, out, s->wb) : 0);
    const uint64_t result = prod3(s, F, rows, out), flops = NUM_PROD(&s->o->over, 2, rows, in, out);

    ops_add(s->o, op, s->phase, cls, calls,
            (struct cost){flops, flops, sum(s, weights, sum(s, prod3(s, F, rows, in), residual ? result : 0)), result});
}

/* rows of `width` f32 read and written back (or elsewhere), beside `extra` bytes read. */
static void stream(const struct pass *s, enum kvp_op op, uint32_t cls, uint64_t calls, uint64_t rows, uint64_t in, uint64_t out, uint64_t extra)
{
    ops_add(s->o, op, s->phase, cls, calls, (struct cost){.read = sum(s, prod3(s, F, rows, in), extra), .written = prod3(s, F, rows, out)});
}

static uint64_t norm_weights(const struct pass *s)
{
    return prod3(s, s->p->model->norm == KVP_NORM_LAYER ? 2 : 1, s->p->model->width, s->wb);
}

static void embed(const struct pass *s)
{
    const uint64_t tables = s->p->model->position == KVP_POS_LEARNED ? 2 : 1;
    const uint64_t rows = NUM_PROD(&s->o->over, tables, s->N, s->p->model->width, s->wb);

    ops_add(s->o, KVP_OP_EMBED, s->phase, UINT32_MAX, 1,
            (struct cost){.read = sum(s, rows, prod3(s, tables, s->N, 4)), .written = prod3(s, F, s->N, s->p->model->width)});
}

/* k and v rows into the cache, rounded to its format. */
static void append(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    struct cost cost = {0};

    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *x = &c->parts[i];
        const bool mine = s->phase == KVP_PREFILL ? x->append_prefill : x->append_decode;
        const uint64_t rows = s->phase == KVP_PREFILL ? x->law.held(&x->law, s->T) : 1;

        if (!mine)
            continue;
        cost.read = sum(s, cost.read, NUM_PROD(&s->o->over, F, s->B, rows, x->heads, x->width));
        cost.written = sum(s, cost.written, num_mul(&s->o->over, part_bytes(&s->o->over, x, rows), s->B));
    }
    if (cost.read)
        ops_add(s->o, KVP_OP_APPEND, s->phase, cls, c->count, cost);
}

/* What a growing store copies when the newest token makes it longer. */
static void grow(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    struct cost cost = {0};

    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *x = &c->parts[i];
        const uint64_t before = x->law.held(&x->law, s->T - 1);

        if (x->grows && x->law.held(&x->law, s->T) > before)
            cost.read = sum(s, cost.read, num_mul(&s->o->over, part_bytes(&s->o->over, x, before), s->B));
    }
    cost.written = cost.read;
    if (cost.read)
        ops_add(s->o, KVP_OP_GROW, s->phase, cls, c->count, cost);
}

static void attention_prefill(const struct pass *s, uint32_t cls)
{
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t q = prod3(s, m->heads, m->head_dim, 1), kv = prod3(s, m->kv_heads, m->head_dim, 1);
    const uint64_t each = NUM_PROD(&s->o->over, 4, s->B, q);

    ops_add(s->o, KVP_OP_ATTN, s->phase, cls, m->count,
            (struct cost){.flops = num_mul(&s->o->over, each, ops_band(&s->o->over, s->T, s->p->cls[cls].band)),
                          .flops_full = prod3(s, each, s->T, s->T),
                          .read = prod3(s, F, s->N, q + 2 * kv),
                          .written = sum(s, prod3(s, F, s->N, q), prod3(s, F, s->N, m->heads))});
}

static void attention_decode(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    const struct kvp_layer_class *m = c->model;
    const uint64_t q = prod3(s, m->heads, m->head_dim, 1), row = prod3(s, F, s->B, q);
    const uint64_t flops = NUM_PROD(&s->o->over, 4, s->B, q, num_min(s->T, c->span));
    uint64_t cache = 0;

    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *x = &c->parts[i];

        if (x->attended)
            cache = sum(s, cache, num_mul(&s->o->over, part_bytes(&s->o->over, x, part_read(x, s->T)), s->B));
    }
    ops_add(s->o, KVP_OP_ATTN, s->phase, cls, m->count, (struct cost){flops, flops, sum(s, row, cache), row});
}

static void technique_ops(const struct pass *s, uint32_t cls)
{
    const struct kvp_stack *stack = s->p->stack;

    for (uint32_t i = 0; i < stack->n; i++) {
        const struct technique *t = technique_find(stack->spec[i].name, strlen(stack->spec[i].name));

        if (t && t->extra_ops)
            t->extra_ops(s->o, s->p, cls, &stack->spec[i], s->phase);
    }
}

static void attention_half(const struct pass *s, uint32_t cls)
{
    const struct kvp_model *model = s->p->model;
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t q = (uint64_t)m->heads * m->head_dim, kv = (uint64_t)m->kv_heads * m->head_dim, n = m->count;

    stream(s, KVP_OP_ATTN_NORM, cls, n, s->N, model->width, model->width, norm_weights(s));
    linear(s, KVP_OP_QKV, cls, n, s->N, model->width, q + 2 * kv, m->qkv_bias, false);
    if (m->qk_norm)
        stream(s, KVP_OP_QK_NORM, cls, n, s->N, q + kv, q + kv, prod3(s, 2, m->head_dim, s->wb));
    if (model->position == KVP_POS_ROPE)
        stream(s, KVP_OP_ROPE, cls, n, s->N, q + kv, q + kv, sum(s, prod3(s, 4, s->N, 1), prod3(s, F, m->head_dim / 2, 1)));
    append(s, cls);
    if (s->phase == KVP_DECODE)
        grow(s, cls);
    (s->phase == KVP_PREFILL ? attention_prefill : attention_decode)(s, cls);
    technique_ops(s, cls);
    linear(s, KVP_OP_O_PROJ, cls, n, s->N, q, model->width, m->o_bias, true);
}

static void feed_forward(const struct pass *s, uint32_t cls)
{
    const struct kvp_model *model = s->p->model;
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t up = (uint64_t)m->ffn_width * (m->ffn == KVP_FFN_GATED ? 2 : 1), n = m->count;

    stream(s, KVP_OP_MLP_NORM, cls, n, s->N, model->width, model->width, norm_weights(s));
    linear(s, KVP_OP_MLP_UP, cls, n, s->N, model->width, up, m->ffn_bias, false);
    stream(s, KVP_OP_MLP_ACT, cls, n, s->N, up, m->ffn_width, 0);
    linear(s, KVP_OP_MLP_DOWN, cls, n, s->N, m->ffn_width, model->width, m->ffn_bias, true);
}

static void forward(const struct pass *s)
{
    const struct kvp_model *m = s->p->model;

    embed(s);
    for (uint32_t c = 0; c < m->classes; c++) {
        attention_half(s, c);
        feed_forward(s, c);
    }
    stream(s, KVP_OP_FINAL_NORM, UINT32_MAX, 1, s->logit_rows, m->width, m->width, norm_weights(s));
    linear(s, KVP_OP_HEAD, UINT32_MAX, 1, s->logit_rows, m->width, m->vocab, false, false);
}

kvp_err ops_build(struct ops *o, struct plan *p, enum kvp_format weights, uint64_t logit_rows, struct kvp_error *e)
{
    const uint64_t B = p->w.batch, wb = format_bits(weights) / 8;

    forward(&(struct pass){o, p, KVP_PREFILL, B, p->w.prompt, num_mul(&o->over, B, p->w.prompt), logit_rows, wb});
    forward(&(struct pass){o, p, KVP_DECODE, B, p->w.context, B, B, wb});
    if (o->oom)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a list of ops");
    if (o->over || p->over)
        return kvp_fail(e, KVP_ERANGE, "a count of FLOPs or bytes does not fit in 63 bits: the context, the batch or the model is too big");
    return KVP_OK;
}

/* ---- time ------------------------------------------------------------------------------------------ */

static bool is_linear(enum kvp_op op)
{
    static const bool linear_op[KVP_OPS] = {[KVP_OP_QKV] = true,    [KVP_OP_O_PROJ] = true, [KVP_OP_MLP_UP] = true,
                                            [KVP_OP_MLP_DOWN] = true, [KVP_OP_HEAD] = true};

    return linear_op[op];
}

void ops_time(struct ops *o, const struct kvp_device *d, enum kvp_format weights, enum kvp_format kv)
{
    for (uint32_t i = 0; i < o->n; i++) {
        struct kvp_op_cost *x = &o->v[i];
        const enum kvp_format f = is_linear(x->op) ? weights : kv;
        const double peak = f == KVP_F32 ? d->flops_f32 : d->flops_f16;
        const double bytes = (double)x->read_bytes + (double)x->written_bytes;

        x->seconds = (double)x->calls * d->launch_s + fmax((double)x->flops / peak, bytes / d->bandwidth);
    }
}
