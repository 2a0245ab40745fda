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

/* ---- budgets that differ from layer to layer ------------------------------------------------------------ */

uint64_t select_layers(const struct plan *p)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < p->n_classes; i++)
        n += select_acts(p, &p->cls[i]) ? p->cls[i].count : 0;
    return n;
}

static kvp_err each_layer(struct plan *p, uint64_t (*budget)(const void *rule, uint64_t l), const void *rule, struct kvp_error *e)
{
    uint64_t l = 0;

    KVP_TRY(plan_split(p, e));
    for (uint32_t i = 0; i < p->n_classes; i++) {
        const bool owner = select_acts(p, &p->cls[i]);
        const uint64_t at = owner || !l ? l : l - 1;

        l += owner;
        if (select_sees_all(p, &p->cls[i]))
            select_keep(p, &p->cls[i], budget(rule, at));
    }
    return KVP_OK;
}

/* Sums over layers that keep different numbers of tokens are sums over layers that keep the mean, as long as every
 * byte and FLOP is a constant times the tokens: rows, not pages or groups, and nobody's rows read by others. */
static bool adds_up(const struct plan *p)
{
    const unsigned plain = 1u << KVP_AXIS_MIXER | 1u << KVP_AXIS_SELECT | 1u << KVP_AXIS_RANK | 1u << KVP_AXIS_WEIGHTS | 1u << KVP_AXIS_BATCHING;
    bool yes = p->opened.sums;

    for (uint32_t i = 0; i < p->stack->n; i++)
        yes = yes && p->opened.technique[i] && plain >> p->opened.technique[i]->info.axis & 1;
    for (uint32_t i = 0; i < p->n_classes; i++)
        yes = yes && !p->cls[i].model->no_kv;
    return yes;
}

/* Where a cost bends: a layer that keeps the whole prompt chooses nothing, an indexer reads no more than it may. */
static uint32_t side(const struct plan *p, const struct kvp_layer_class *m, uint64_t kept)
{
    const uint64_t held = p->w.context - num_less(p->w.prompt, kept);

    return (kept >= p->w.prompt ? 1 : 0) | (m->index_topk && held > m->index_topk ? 2 : 0);
}

static void count_layers(struct plan *p, uint64_t (*budget)(const void *rule, uint64_t l), const void *rule)
{
    uint64_t l = 0;

    memset(p->opened.tally, 0, SELECT_SIDES * p->model->classes * sizeof(*p->opened.tally));
    for (uint32_t i = 0; i < p->model->layers; i++) {
        const uint32_t c = p->model->class_of[i];
        const uint64_t kept = p->cls[c].kind ? budget(rule, l++) : p->w.prompt;
        struct plan_tally *t = &p->opened.tally[SELECT_SIDES * c + (p->cls[c].kind ? side(p, p->cls[c].model, kept) : 0)];

        t->first = t->count ? t->first : i;
        t->count++;
        t->sum += kept;
        t->most = num_max(t->most, kept);
    }
}

/* The layer that keeps most, and the others at the mean, rounded down for some and up for the rest. */
static void put_layers(struct plan *p, const struct plan_tally *t)
{
    const uint64_t n = t->count - 1, sum = t->sum - t->most, mean = n ? sum / n : 0, up = n ? sum % n : 0;
    const struct {
        uint64_t count, kept;
    } put[] = {{1, t->most}, {n - up, mean}, {up, mean + 1}};

    for (int i = 0; i < 3; i++)
        if (put[i].count)
            select_keep(p, plan_put(p, t->first, (uint32_t)put[i].count), put[i].kept);
}

kvp_err select_budgets(struct plan *p, uint64_t (*budget)(const void *rule, uint64_t l), const void *rule, struct kvp_error *e)
{
    const uint32_t n = p->n_classes;

    if (!adds_up(p))
        return each_layer(p, budget, rule, e);
    for (uint32_t i = 0; i < n; i++)
        p->cls[i].kind = select_acts(p, &p->cls[i]);
    count_layers(p, budget, rule);
    KVP_TRY(plan_begin_split(p, e));
    for (uint32_t i = 0; i < SELECT_SIDES * n; i++) {
        const struct plan_tally *t = &p->opened.tally[i];

        if (t->count && p->opened.unsplit[i / SELECT_SIDES].kind)
            put_layers(p, t);
        else if (t->count)
            plan_put(p, t->first, (uint32_t)t->count);
    }
    return KVP_OK;
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
