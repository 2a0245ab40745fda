/* walk.c - every op of a pass, in execution order. */
#include "calc/ops/pass.h"

#include <math.h>
#include <stdlib.h>

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

void pass_linear(const struct pass *s, enum kvp_op op, enum kvp_role role, uint32_t cls, uint64_t calls, uint64_t rows, uint64_t in,
                 uint64_t out, bool bias, bool residual)
{
    const uint64_t weights = sum(s, store_bytes(&s->o->over, &s->p->weights, role, out, in, true), bias ? pass_plain(s, out) : 0);
    const uint64_t result = prod3(s, F, rows, out), flops = NUM_PROD(&s->o->over, 2, rows, in, out);

    ops_add(s->o, op, s->phase, cls, calls,
            (struct cost){flops, flops, sum(s, weights, sum(s, prod3(s, F, rows, in), residual ? result : 0)), result});
}

void pass_stream(const struct pass *s, enum kvp_op op, uint32_t cls, uint64_t calls, uint64_t rows, uint64_t in, uint64_t out, uint64_t extra)
{
    ops_add(s->o, op, s->phase, cls, calls, (struct cost){.read = sum(s, prod3(s, F, rows, in), extra), .written = prod3(s, F, rows, out)});
}

uint64_t pass_plain(const struct pass *s, uint64_t n)
{
    return format_bytes(&s->o->over, s->p->weights.plain, n);
}

uint64_t pass_norm_weights(const struct pass *s)
{
    return pass_plain(s, num_mul(&s->o->over, s->p->model->norm_vectors, s->p->model->width));
}

static void embed(const struct pass *s)
{
    const uint64_t tables = s->p->model->position == KVP_POS_LEARNED ? 2 : 1;
    const uint64_t rows = pass_plain(s, prod3(s, tables, s->N, s->p->model->width));

    ops_add(s->o, KVP_OP_EMBED, s->phase, UINT32_MAX, 1,
            (struct cost){.read = sum(s, rows, prod3(s, tables, s->N, 4)), .written = prod3(s, F, s->N, s->p->model->width)});
}

static void forward(const struct pass *s)
{
    const struct kvp_model *m = s->p->model;

    if (s->phase == KVP_PREFILL)
        ops_encoder(s);
    embed(s);
    for (uint32_t c = 0; c < s->p->n_classes; c++) {
        ops_attention(s, c);
        ops_mla(s, c);
        ops_recurrent(s, c);
        ops_cross(s, c);
        ops_ffn(s, c);
    }
    pass_stream(s, KVP_OP_FINAL_NORM, UINT32_MAX, 1, s->logit_rows, m->width, m->width, pass_norm_weights(s));
    pass_linear(s, KVP_OP_HEAD, KVP_ROLE_HEAD, UINT32_MAX, 1, s->logit_rows, m->embed_width ? m->embed_width : m->width, m->head_rows ? m->head_rows : m->vocab, false, false);
}

kvp_err ops_build(struct ops *o, struct plan *p, uint64_t logit_rows, struct kvp_error *e)
{
    const uint64_t B = p->w.batch;

    forward(&(struct pass){o, p, KVP_PREFILL, B, p->w.prompt, num_mul(&o->over, B, p->w.prompt), logit_rows});
    forward(&(struct pass){o, p, KVP_DECODE, B, p->w.context, B, B});
    if (o->oom)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a list of ops");
    if (o->over || p->over)
        return kvp_fail(e, KVP_ERANGE, "a count of FLOPs or bytes does not fit in 63 bits: the context, the batch or the model is too big");
    return KVP_OK;
}

