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

static void attention_prefill(const struct pass *s, uint32_t cls)
{
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t q = prod3(s, m->heads, m->head_dim, 1), kv = prod3(s, m->kv_heads, m->head_dim, 1);
    const uint64_t each = NUM_PROD(&s->o->over, 4, s->B, q);

    ops_add(s->o, KVP_OP_ATTN, s->phase, cls, s->p->cls[cls].count,
            (struct cost){.flops = num_mul(&s->o->over, each, pass_pairs(s, cls)),
                          .flops_full = prod3(s, each, s->T, s->T),
                          .read = prod3(s, F, s->N, q + 2 * kv),
                          .written = sum(s, prod3(s, F, s->N, q), prod3(s, F, s->N, m->heads))});
}

uint64_t pass_cache_read(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    uint64_t cache = 0;

    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *x = &c->parts[i];

        if (x->attended)
            cache = sum(s, cache, num_mul(&s->o->over, part_bytes(&s->o->over, x, part_read(x, s->T)), s->B));
    }
    return cache;
}

static void attention_decode(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    const struct kvp_layer_class *m = c->model;
    const uint64_t q = prod3(s, m->heads, m->head_dim, 1), row = prod3(s, F, s->B, q);
    const uint64_t flops = NUM_PROD(&s->o->over, 4, s->B, q, pass_keys(s, cls));
    const uint64_t cache = pass_cache_read(s, cls);

    ops_add(s->o, KVP_OP_ATTN, s->phase, cls, s->p->cls[cls].count, (struct cost){flops, flops, sum(s, row, cache), row});
}

void pass_technique_ops(const struct pass *s, uint32_t cls)
{
    const struct kvp_stack *stack = s->p->stack;

    for (uint32_t i = 0; i < stack->n; i++) {
        const struct technique *t = s->p->opened.technique[i];

        if (t && t->extra_ops)
            t->extra_ops(s->o, s->p, cls, &stack->spec[i], s->phase);
    }
}

void ops_attention(const struct pass *s, uint32_t cls)
{
    const struct kvp_model *model = s->p->model;
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t q = (uint64_t)m->heads * m->head_dim, kv = (uint64_t)m->kv_heads * m->head_dim, n = s->p->cls[cls].count;

    if (m->mixer != KVP_MIX_ATTENTION)
        return;

    pass_stream(s, KVP_OP_ATTN_NORM, cls, n, s->N, model->width, model->width, pass_norm_weights(s));
    pass_linear(s, KVP_OP_QKV, KVP_ROLE_ATTN, cls, n, s->N, model->width, q + 2 * kv, m->qkv_bias, false);
    if (m->qk_norm)
        pass_stream(s, KVP_OP_QK_NORM, cls, n, s->N, q + kv, q + kv, pass_plain(s, 2 * (uint64_t)m->head_dim));
    if (model->position == KVP_POS_ROPE)
        pass_stream(s, KVP_OP_ROPE, cls, n, s->N, q + kv, q + kv, sum(s, prod3(s, 4, s->N, 1), prod3(s, F, m->head_dim / 2, 1)));
    pass_append(s, cls);
    if (s->phase == KVP_DECODE)
        pass_grow(s, cls);
    ops_indexer(s, cls);
    (s->phase == KVP_PREFILL ? attention_prefill : attention_decode)(s, cls);
    pass_technique_ops(s, cls);
    pass_linear(s, KVP_OP_O_PROJ, KVP_ROLE_ATTN, cls, n, s->N, q, model->width, m->o_bias, true);
}

