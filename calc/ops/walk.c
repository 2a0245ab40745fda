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

static uint64_t chosen(const struct plan_class *c)
{
    return c->model->index_topk ? c->model->index_topk : PLAN_NO_LIMIT;
}

uint64_t pass_keys(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    const uint64_t chunk = c->model->chunk, T = chunk && s->T ? (s->T - 1) % chunk + 1 : s->T;

    return num_min(num_min(T, c->span), chosen(c));
}

/* Pairs of the first T tokens. */
static uint64_t pairs_until(const struct pass *s, const struct plan_class *c, uint64_t T)
{
    const uint64_t chunk = c->model->chunk ? c->model->chunk : T, band = num_min(c->band, chosen(c));

    if (!chunk)
        return 0;
    return sum(s, prod3(s, T / chunk, ops_band(&s->o->over, chunk, band), 1), ops_band(&s->o->over, T % chunk, band));
}

uint64_t pass_pairs(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];

    return num_less(pairs_until(s, c, s->T), pairs_until(s, c, s->before));
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

static bool make_room(struct ops *o)
{
    const uint32_t cap = o->cap ? 2 * o->cap : 64;
    struct kvp_op_cost *v = realloc(o->v, cap * sizeof(*v));
    struct ops_memo *memo = v ? realloc(o->memo, cap * sizeof(*memo)) : NULL;

    o->v = v ? v : o->v;
    o->oom = o->oom || !memo;
    if (!memo)
        return false;
    memset(memo + o->cap, 0, (cap - o->cap) * sizeof(*memo));
    o->memo = memo;
    o->cap = cap;
    return true;
}

void ops_forget(struct ops *o)
{
    memset(o->weights, 0, sizeof(o->weights));
    if (o->memo)
        memset(o->memo, 0, o->cap * sizeof(*o->memo));
}

void ops_free(struct ops *o)
{
    free(o->v);
    free(o->memo);
    *o = (struct ops){0};
}

/* Counts are of all calls together. Numbers one by one: a struct of them would be stored and loaded again. */
static inline void put(struct ops *o, enum kvp_op op, enum kvp_phase phase, uint32_t cls, uint64_t calls, uint64_t flops,
                       uint64_t flops_full, uint64_t read, uint64_t written)
{
    struct kvp_op_cost *x;

    if (o->n == o->cap && !make_room(o))
        return;
    x = &o->v[o->n++];
    x->op = op;
    x->phase = phase;
    x->cls = cls;
    x->calls = calls;
    x->flops = flops;
    x->flops_full = flops_full;
    x->read_bytes = read;
    x->written_bytes = written;
    x->seconds = NAN;
}

void ops_add(struct ops *o, enum kvp_op op, enum kvp_phase phase, uint32_t cls, uint64_t calls, struct cost c)
{
    put(o, op, phase, cls, calls, num_mul(&o->over, c.flops, calls), num_mul(&o->over, c.flops_full, calls),
        num_mul(&o->over, c.read, calls), num_mul(&o->over, c.written, calls));
}

void ops_more(struct ops *o, enum kvp_op op, enum kvp_phase phase, uint32_t cls, struct cost c)
{
    /* the ops of a class are listed together, and hers are the last */
    for (uint32_t i = o->n; i > 0 && o->v[i - 1].phase == phase && o->v[i - 1].cls == cls; i--)
        if (o->v[i - 1].op == op)
            accumulate(o, &o->v[i - 1], scale(&o->over, c, o->v[i - 1].calls));
}

static void work_out(const struct pass *s, struct ops_memo *m)
{
    bool over = false;
    const uint64_t bias = m->bias ? format_bytes(&over, s->p->weights.plain, m->out) : 0;

    m->weights = num_mul(&over, m->calls, num_add(&over, store_bytes(&over, &s->p->weights, m->role, m->out, m->in, true), bias));
    m->flops = NUM_PROD(&over, m->calls, 2, m->in, m->out);
    m->read = NUM_PROD(&over, m->calls, F, num_add(&over, m->in, m->residual ? m->out : 0));
    m->written = NUM_PROD(&over, m->calls, F, m->out);
    m->calls = over ? 0 : m->calls;
    s->o->over = s->o->over || over;
}

void pass_linear(const struct pass *s, enum kvp_op op, enum kvp_role role, uint32_t cls, uint64_t calls, uint64_t rows, uint64_t in,
                 uint64_t out, bool bias, bool residual)
{
    struct ops_memo *m;
    bool *over = &s->o->over;
    uint64_t flops;

    if (s->o->n == s->o->cap && !make_room(s->o))
        return;
    m = &s->o->memo[s->o->n];
    if (!calls || m->calls != calls || m->in != in || m->out != out || m->role != role || m->bias != bias || m->residual != residual) {
        *m = (struct ops_memo){.in = in, .out = out, .calls = calls, .role = role, .bias = bias, .residual = residual};
        work_out(s, m);
    }
    flops = num_mul(over, m->flops, rows);
    put(s->o, op, s->phase, cls, calls, flops, flops, num_add(over, m->weights, num_mul(over, m->read, rows)), num_mul(over, m->written, rows));
}

void pass_stream(const struct pass *s, enum kvp_op op, uint32_t cls, uint64_t calls, uint64_t rows, uint64_t in, uint64_t out, uint64_t extra)
{
    const uint64_t read = num_mul(&s->o->over, calls, sum(s, prod3(s, F, rows, in), extra));

    put(s->o, op, s->phase, cls, calls, 0, 0, read, NUM_PROD(&s->o->over, F, rows, out, calls));
}

/* Which weights there are, and how stored, changes rarely: a sum of a few tensors each is remembered. */
uint64_t pass_weights(const struct pass *s, enum kvp_role role, uint64_t rows, uint64_t cols)
{
    struct ops_weights *w = &s->o->weights[(rows * 7 + cols + role) % OPS_WEIGHTS];
    bool over = false;

    if (w->role == role && w->rows == rows && w->cols == cols)
        return w->bytes;
    *w = (struct ops_weights){role, rows, cols, store_bytes(&over, &s->p->weights, role, rows, cols, true)};
    if (over)
        *w = (struct ops_weights){0};
    s->o->over |= over;
    return over ? NUM_MAX : w->bytes;
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

static void mix_and_feed(const struct pass *s, uint32_t c)
{
    ops_attention(s, c);
    ops_mla(s, c);
    if (s->moving)
        return;
    ops_recurrent(s, c);
    ops_cross(s, c);
    ops_ffn(s, c);
    ops_extra(s, c);
}

/* The upper half of YOCO: k and v of every token once, the layers for the last token alone. */
static void class_of_last(const struct pass *s, uint32_t c)
{
    struct pass last = *s;

    pass_kv(s, c);
    last.N = s->B;
    last.before = s->T - 1;
    last.kv_done = true;
    if (s->last)
        mix_and_feed(&last, c);
}

static void layers(const struct pass *s)
{
    for (uint32_t c = 0; c < s->p->n_classes; c++)
        if (s->p->cls[c].alike)
            (s->phase == KVP_PREFILL && s->p->cls[c].last_only ? class_of_last : mix_and_feed)(s, c);
}

static void forward(const struct pass *s)
{
    const struct kvp_model *m = s->p->model;

    if (s->phase == KVP_PREFILL && s->first)
        ops_encoder(s);
    if (!m->no_embed)
        embed(s);
    layers(s);
    if (m->no_logits || !s->logit_rows)
        return;
    pass_stream(s, KVP_OP_FINAL_NORM, UINT32_MAX, 1, s->logit_rows, m->width, m->width, pass_norm_weights(s));
    pass_linear(s, KVP_OP_HEAD, KVP_ROLE_HEAD, UINT32_MAX, 1, s->logit_rows, m->embed_width ? m->embed_width : m->width, m->head_rows ? m->head_rows : m->vocab, false, false);
}

/* Where in [first, from) is this op? Passes list alike, so it is looked for behind the one before. */
static uint32_t same_op(const struct ops *o, uint32_t first, uint32_t from, uint32_t behind, const struct kvp_op_cost *x)
{
    for (uint32_t i = first; i < from; i++) {
        const uint32_t k = behind < from ? behind : first;

        if (o->v[k].op == x->op && o->v[k].cls == x->cls)
            return k;
        behind = k + 1;
    }
    return from;
}

/* Ops from `from` on into the same ops of [first, from). */
static void fold(struct ops *o, uint32_t first, uint32_t from)
{
    uint32_t n = from, k = first;

    for (uint32_t i = from; i < o->n && first < from; i++) {
        const struct kvp_op_cost *x = &o->v[i];

        k = same_op(o, first, from, k, x);
        if (k == from) {
            o->v[n++] = *x;
            continue;
        }
        o->v[k].calls = num_add(&o->over, o->v[k].calls, x->calls);
        accumulate(o, &o->v[k], (struct cost){x->flops, x->flops_full, x->read_bytes, x->written_bytes});
        k++;
    }
    o->n = first < from ? n : o->n;
}

void pass_each(const struct pass *s, uint32_t cls, void (*each)(const struct pass *s, uint32_t cls))
{
    const uint32_t first = s->o->n;

    each(s, cls);
    for (uint32_t c = s->p->cls[cls].next; c; c = s->p->cls[c].next) {
        const uint32_t from = s->o->n;

        each(s, c);
        for (uint32_t i = from; i < s->o->n; i++)
            s->o->v[i].cls = cls;
        fold(s->o, first, from);
    }
}

static void times(struct ops *o, struct kvp_op_cost *x, uint64_t n)
{
    x->calls = num_mul(&o->over, x->calls, n);
    x->flops = num_mul(&o->over, x->flops, n);
    x->flops_full = num_mul(&o->over, x->flops_full, n);
    x->read_bytes = num_mul(&o->over, x->read_bytes, n);
    x->written_bytes = num_mul(&o->over, x->written_bytes, n);
}

/* What one pass over a chunk costs otherwise than the pass over the chunk before it. */
static bool moves(enum kvp_op op)
{
    return op == KVP_OP_APPEND || op == KVP_OP_ATTN || op == KVP_OP_INDEX || op == KVP_OP_ABSORB;
}

/* The ops from `from` on are those of pass `s`. List `more` passes behind it, each a chunk later: what does not hang on
 * the place in the prompt is the same. */
static void go_on(const struct pass *s, uint32_t from, uint64_t more)
{
    struct pass next = *s;

    for (uint32_t i = from; i < s->o->n && more; i++)
        if (!moves(s->o->v[i].op))
            times(s->o, &s->o->v[i], more + 1);
    next.moving = true;
    for (uint64_t i = 0; i < more && !s->o->over; i++) {
        const uint32_t n = s->o->n;

        next.before = next.T;
        next.T += s->T - s->before;
        layers(&next);
        fold(s->o, from, n);
    }
}

/* `B` sequences side by side, `count` times over, from token `from` of the prompt on. */
struct lot {
    uint64_t B, count, from;
    bool whole; /* the last of all */
};

/* A chunk at a time. */
static void prefill_lot(struct ops *o, struct plan *p, const struct lot *l, bool all_logits)
{
    const uint32_t base = o->n;
    uint64_t at = l->from, more = 0;

    for (; at < p->w.prompt; at += (more + 1) * p->chunk) {
        const uint64_t end = num_min(p->w.prompt, num_add(&o->over, at, p->chunk)), N = num_mul(&o->over, l->B, end - at);
        const bool first = at == l->from, last = end == p->w.prompt;
        const uint32_t from = o->n;
        const struct pass s = {.o = o, .p = p, .phase = KVP_PREFILL, .B = l->B, .T = end, .N = N, .before = at, .first = first,
                               .last = last, .whole = last && l->whole, .logit_rows = all_logits ? N : last ? l->B : 0};

        forward(&s);
        more = last || (first && p->encoder_tokens) ? 0 : (p->w.prompt - end - 1) / p->chunk;
        go_on(&s, from, more);
        fold(o, base, from);
    }
    for (uint32_t i = base; i < o->n && l->count > 1; i++)
        times(o, &o->v[i], l->count);
    fold(o, 0, base);
}

/* With a prefix in the cache the first sequence computes it, and the others begin behind it. */
static void prefill(struct ops *o, struct plan *p, bool all_logits)
{
    const uint64_t width = plan_pass_width(p), alone = p->hit && p->w.batch > 1, batch = p->w.batch - alone;
    const uint64_t rest = (batch - 1) % width + 1, full = (batch - rest) / width;

    if (alone)
        prefill_lot(o, p, &(struct lot){1, 1, 0, false}, all_logits);
    if (full)
        prefill_lot(o, p, &(struct lot){width, full, alone ? p->hit : 0, false}, all_logits);
    prefill_lot(o, p, &(struct lot){rest, 1, alone ? p->hit : 0, true}, all_logits);
}

kvp_err ops_build(struct ops *o, struct plan *p, uint64_t logit_rows, struct kvp_error *e)
{
    const uint64_t B = p->w.batch;

    prefill(o, p, logit_rows != B);
    forward(&(struct pass){.o = o, .p = p, .phase = KVP_DECODE, .B = B, .T = p->w.context, .N = B, .logit_rows = B, .before = p->w.context - 1});
    if (o->oom)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a list of ops");
    if (o->over || p->over)
        return kvp_fail(e, KVP_ERANGE, "a count of FLOPs or bytes does not fit in 63 bits: the context, the batch or the model is too big");
    return KVP_OK;
}
