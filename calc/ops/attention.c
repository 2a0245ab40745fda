/* attention.c - the attention half of a layer. */
#include "calc/ops/pass.h"

/* k and v rows into the cache, rounded to its format. */
void pass_append(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    struct cost cost = {0};

    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *x = &c->parts[i];
        const bool mine = s->phase == KVP_PREFILL ? x->append_prefill : x->append_decode;
        const uint64_t rows = s->phase == KVP_PREFILL ? num_min(s->T - s->before, x->law.held(&x->law, s->T)) : 1;

        if (!mine)
            continue;
        cost.read = sum(s, cost.read, NUM_PROD(&s->o->over, F, s->B, rows, x->heads, x->width));
        cost.written = sum(s, cost.written, num_mul(&s->o->over, part_bytes(&s->o->over, x, rows), s->B));
    }
    if (cost.read)
        ops_add(s->o, KVP_OP_APPEND, s->phase, cls, c->count, cost);
}

/* What a growing store copies when the newest token makes it longer. */
void pass_grow(const struct pass *s, uint32_t cls)
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

uint64_t pass_pairs_full(const struct pass *s)
{
    return prod3(s, s->T - s->before, s->T, 1);
}

static uint64_t cache_of(const struct pass *s, uint32_t cls, uint64_t seen)
{
    const struct plan_class *c = plan_owner(s->p, cls);
    uint64_t cache = 0;

    for (uint32_t i = 0; i < c->n_parts && seen; i++) {
        const struct part *x = &c->parts[i];

        if (x->attended)
            cache = sum(s, cache, num_mul(&s->o->over, part_bytes(&s->o->over, x, part_read(x, seen)), s->B));
    }
    return cache;
}

uint64_t pass_cache_read(const struct pass *s, uint32_t cls)
{
    return cache_of(s, cls, s->T);
}

uint64_t pass_cache_reread(const struct pass *s, uint32_t cls)
{
    return cache_of(s, cls, s->before);
}

/* Channels of a token's q, k and v in one layer; k and v only where the layer projects its own. */
struct widths {
    uint64_t q, k, v, out;
};

static struct widths widths_of(const struct pass *s, const struct kvp_layer_class *m)
{
    const bool own = !m->no_kv && !s->kv_done;

    return (struct widths){(uint64_t)m->heads * m->head_dim, own ? (uint64_t)m->kv_heads * m->head_dim : 0,
                           own ? (uint64_t)m->kv_heads * m->v_head_dim : 0, (uint64_t)m->heads * m->v_head_dim};
}

static void attention_prefill(const struct pass *s, uint32_t cls)
{
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t q = (uint64_t)m->heads * m->head_dim, out = (uint64_t)m->heads * m->v_head_dim;
    const uint64_t kv = (uint64_t)m->kv_heads * ((uint64_t)m->head_dim + m->v_head_dim);
    const uint64_t each = NUM_PROD(&s->o->over, 2, s->B, q + out);

    ops_add(s->o, KVP_OP_ATTN, s->phase, cls, s->p->cls[cls].count,
            (struct cost){.flops = num_mul(&s->o->over, each, pass_pairs(s, cls)),
                          .flops_full = num_mul(&s->o->over, each, pass_pairs_full(s)),
                          .read = sum(s, prod3(s, F, s->N, q + kv), pass_cache_reread(s, cls)),
                          .written = prod3(s, F, s->N, out + m->heads)});
}

static void attention_decode(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    const struct kvp_layer_class *m = c->model;
    /* an absorbed factor leaves q as wide as what is stored, or the weighted sum */
    const uint64_t key = m->absorb_k ? m->low_k : m->head_dim, value = m->absorb_v ? m->low_v : m->v_head_dim;
    const uint64_t flops = NUM_PROD(&s->o->over, 2, s->B, m->heads, key + value, pass_keys(s, cls));

    ops_add(s->o, KVP_OP_ATTN, s->phase, cls, c->count,
            (struct cost){flops, flops, sum(s, NUM_PROD(&s->o->over, F, s->B, m->heads, m->head_dim), pass_cache_read(s, cls)),
                          NUM_PROD(&s->o->over, F, s->B, m->heads, m->v_head_dim)});
}

void pass_technique_ops(const struct pass *s, uint32_t cls)
{
    const struct kvp_stack *stack = s->p->stack;

    if (s->phase == KVP_PREFILL && !s->whole)
        return;
    for (uint32_t i = 0; i < stack->n; i++) {
        const struct technique *t = s->p->opened.technique[i];

        if (t && t->extra_ops)
            t->extra_ops(s->o, s->p, cls, &stack->spec[i], s->phase);
    }
}

/* Rows of the matrix that yields a token's q (and its gate), k and v, or the factors they are made of. */
static uint64_t qkv_rows(const struct pass *s, const struct kvp_layer_class *m, uint64_t q)
{
    const struct widths x = widths_of(s, m);

    if (m->low_k && x.k)
        return q + m->low_k + m->low_v;
    return q + x.k + (m->k_is_v ? 0 : x.v);
}

static void project(const struct pass *s, uint32_t cls, uint64_t q)
{
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t in = m->attn_in ? m->attn_in : s->p->model->width;

    pass_stream(s, KVP_OP_ATTN_NORM, cls, s->p->cls[cls].alike, s->N, in, in, pass_norm_weights(s));
    pass_linear(s, KVP_OP_QKV, KVP_ROLE_ATTN, cls, s->p->cls[cls].alike, s->N, in, qkv_rows(s, m, q), m->qkv_bias, false);
}

static void rope(const struct pass *s, uint32_t cls, uint64_t channels)
{
    if (s->p->model->position == KVP_POS_ROPE)
        pass_stream(s, KVP_OP_ROPE, cls, s->p->cls[cls].alike, s->N, channels, channels,
                    sum(s, prod3(s, 4, s->N, 1), prod3(s, F, s->p->cls[cls].model->head_dim / 2, 1)));
}

void pass_kv(const struct pass *s, uint32_t cls)
{
    const struct kvp_layer_class *m = s->p->cls[cls].model;

    if (m->mixer != KVP_MIX_ATTENTION || m->no_kv)
        return;
    if (!s->moving) {
        project(s, cls, 0);
        rope(s, cls, (uint64_t)m->kv_heads * m->head_dim);
    }
    pass_each(s, cls, pass_append);
}

static void attend(const struct pass *s, uint32_t cls)
{
    if (!s->kv_done)
        pass_append(s, cls);
    if (s->phase == KVP_DECODE)
        pass_grow(s, cls);
    ops_indexer(s, cls);
    (s->phase == KVP_PREFILL ? attention_prefill : attention_decode)(s, cls);
    pass_technique_ops(s, cls);
}

void ops_attention(const struct pass *s, uint32_t cls)
{
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t n = s->p->cls[cls].alike;
    const struct widths x = widths_of(s, m);

    if (m->mixer != KVP_MIX_ATTENTION)
        return;
    if (!s->moving) {
        project(s, cls, m->gated_q ? 2 * x.q : x.q);
        if (m->qk_norm)
            pass_stream(s, KVP_OP_QK_NORM, cls, n, s->N, x.q + x.k, x.q + x.k, pass_plain(s, 2 * (uint64_t)m->head_dim));
        rope(s, cls, x.q + x.k);
    }
    pass_each(s, cls, attend);
    if (!s->moving)
        pass_linear(s, KVP_OP_O_PROJ, KVP_ROLE_ATTN, cls, n, s->N, x.out, s->p->model->width, m->o_bias, true);
}
