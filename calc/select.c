#include "calc/select.h"

#include <inttypes.h>

const char *const select_pooling[] = {"avg", "max", NULL};
const char *const select_granularity[] = {"kv", "query", NULL};

bool select_sees_all(const struct plan *p, const struct plan_class *c)
{
    const struct kvp_layer_class *m = c->model;

    return m->mixer != KVP_MIX_NONE && !(m->window && m->window < p->w.context) && !(m->chunk && m->chunk < p->w.context);
}

bool select_acts(const struct plan *p, const struct plan_class *c)
{
    return class_has_rows(c) && select_sees_all(p, c);
}

kvp_err select_check(const struct plan *p, const char *technique, struct kvp_error *e)
{
    KVP_TRY(plan_has_rows(p, e));
    for (uint32_t i = 0; i < p->n_classes; i++)
        if (select_acts(p, &p->cls[i]))
            return KVP_OK;
    return kvp_fail(e, KVP_ENOTSUP, "%s: not applicable: every layer of %s that has a KV cache sees only its own window, shorter than the context of %" PRIu64,
                    technique, p->model->name, p->w.context);
}

uint64_t select_heads(const struct plan_class *c)
{
    for (uint32_t i = 0; i < c->n_parts; i++)
        if (part_is_row(&c->parts[i]))
            return c->parts[i].heads;
    return 0;
}

uint64_t select_row(bool *over, const struct plan_class *c)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < c->n_parts; i++)
        if (part_is_row(&c->parts[i]))
            sum = num_add(over, sum, num_mul(over, c->parts[i].heads, c->parts[i].width));
    return sum;
}

uint64_t select_row_bytes(bool *over, const struct plan_class *c)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < c->n_parts; i++)
        if (part_is_row(&c->parts[i]))
            sum = num_add(over, sum, part_bytes(over, &c->parts[i], 1));
    return sum;
}

void select_ring(struct plan_class *c, uint64_t slots, bool evicts_last)
{
    for (uint32_t i = 0; i < c->n_parts; i++) {
        struct part *x = &c->parts[i];

        if (!x->rows)
            continue;
        x->law = (struct law){.held = law_ring, .read = evicts_last ? law_ring_before : NULL, .cap = slots};
        if (evicts_last)
            x->append_decode = false; /* the eviction step stores the row */
    }
}

void select_keep(struct plan *p, struct plan_class *c, uint64_t kept)
{
    const uint64_t dropped = num_less(p->w.prompt, kept);

    for (uint32_t i = 0; i < c->n_parts; i++)
        if (c->parts[i].rows)
            c->parts[i].law.dropped = dropped;
    c->span = num_min(c->span, p->w.context - dropped);
}

/* ---- by the last queries of the prompt ------------------------------------------------------------------ */

static kvp_err store_query_heads(struct plan *p, const char *technique, struct kvp_error *e)
{
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];

        if (!select_acts(p, c))
            continue;
        if (c->model->mixer != KVP_MIX_ATTENTION)
            return kvp_fail(e, KVP_ENOTSUP, "%s: heads=query: MLA keeps one latent for all heads", technique);
        for (uint32_t k = 0; k < c->n_parts; k++)
            if (part_is_row(&c->parts[k]))
                c->parts[k].heads = c->model->heads;
    }
    return KVP_OK;
}

static struct select_window read_params(const struct kvp_spec *s)
{
    return (struct select_window){s->name, spec_int(s, "window"), spec_int(s, "kernel"), kvp_spec_param(s, "pooling")->i == 0,
                                  kvp_spec_param(s, "heads")->i == 1};
}

kvp_err select_window_open(struct select_window *out, struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    *out = read_params(s);
    KVP_TRY(select_check(p, s->name, e));
    return out->query ? store_query_heads(p, s->name, e) : KVP_OK;
}

kvp_err select_window_cap(const struct select_window *w, uint64_t cap, struct kvp_error *e)
{
    if (cap > w->window)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "%s: cap=%" PRIu64 " leaves nothing beside window=%" PRIu64 ", expected more than that", w->technique, cap, w->window);
}

/* Prompt tokens that the class keeps. */
static uint64_t kept(const struct plan *p, const struct plan_class *c)
{
    for (uint32_t i = 0; i < c->n_parts; i++)
        if (part_is_row(&c->parts[i]))
            return num_less(p->w.prompt, c->parts[i].law.dropped);
    return p->w.prompt;
}

void select_window_scratch(struct plan *p)
{
    for (uint32_t i = 0; i < p->n_classes; i++) {
        const struct plan_class *c = &p->cls[i];

        if (!class_has_rows(c) || kept(p, c) == p->w.prompt)
            continue;
        plan_add_scratch(p, "prompt_scores", KVP_F32, p->w.batch, select_heads(c), p->w.prompt);
        plan_add_scratch(p, "kept_index", KVP_I32, p->w.batch, select_heads(c), kept(p, c));
    }
}

/* w rows of q.k, their sum over the rows and over the query heads of a set, the pooling of each set (a maximum
 * adds nothing); the rows themselves are gathered by cache_append. */
void select_window_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s)
{
    const struct plan_class *c = &p->cls[cls];
    const struct kvp_layer_class *m = c->model;
    const struct select_window x = read_params(s);
    const uint64_t B = p->w.batch, q = p->w.prompt, n = kept(p, c), window = num_min(x.window, q), H = m->heads;
    const uint64_t keys = m->kv_heads ? m->kv_heads : H, hs = select_heads(c);
    bool *over = &o->over;
    uint64_t flops, index;

    if (!class_has_rows(c) || n == q)
        return;
    flops = NUM_PROD(over, 2, B, H, window, num_mul(over, m->head_dim, q));
    flops = num_add(over, flops, NUM_PROD(over, B, q - window, num_add(over, num_mul(over, H, window), x.average ? num_mul(over, hs, x.kernel) : 0)));
    index = NUM_PROD(over, 4, B, hs, n);
    ops_add(o, KVP_OP_SELECT, KVP_PREFILL, cls, c->count,
            (struct cost){flops, flops, NUM_PROD(over, 4, B, m->head_dim, num_add(over, num_mul(over, window, H), num_mul(over, q, keys))), index});
    ops_more(o, KVP_OP_APPEND, KVP_PREFILL, cls, (struct cost){.read = index});
}

void select_window_example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    const uint64_t window = w->prompt >= 64 ? 8 : 1;

    (void)m;
    snprintf(buf, n, "cap=%" PRIu64 ",window=%" PRIu64, num_max(w->prompt / 4, window + 1), window);
}
