/* duo.c - DuoAttention: some kv heads keep everything, the others sinks and the newest tokens.
 *
 *   2 * d * b * ( nf * T + ns * (sink + recent) ) a layer and sequence; nf + ns = Hkv
 *   static caches: the streaming heads' slots are there from the start. While a prompt comes in chunks they
 *   have room for one chunk more
 *
 * Which heads are full is learned; how many follows from a quantile over all heads of the model: of n
 * heads F = n - ceil((1 - ratio) * (n - 1)) (all when ratio is 1, none when 0), here spread evenly over the
 * layers. With layers alike the bytes do not depend on where they are.
 * Xiao et al. 2024, arXiv:2410.10819; mit-han-lab/duo-attention duo_attn/utils.py, patch/static_kv_cache.py. */
#include "calc/select.h"

#include <inttypes.h>
#include <math.h>

static uint64_t full_heads(double ratio, uint64_t n)
{
    if (ratio <= 0 || !n)
        return 0;
    return ratio >= 1 ? n : n - (uint64_t)ceil((1 - ratio) * (double)(n - 1));
}

static uint64_t all_slots(const struct law *l, uint64_t max_len)
{
    (void)max_len;
    return l->cap;
}

/* `names`: of k and of v, which share a table of pages. */
static void add_part(struct plan_class *c, const char *const names[2], uint32_t k, const struct part *like, uint64_t heads, const struct law *law)
{
    struct part *x;

    if (!heads)
        return;
    x = plan_add_part(c, names[k]);
    *x = *like;
    x->name = names[k];
    x->heads = heads;
    x->law = *law;
    x->paged_as = (uint32_t)(plan_find_part(c, names[0]) - c->parts);
}

/* k and v of `full` heads and of the rest; the caller's parts that are no rows stay. */
static void divide(struct plan *p, struct plan_class *c, uint64_t full, uint64_t slots)
{
    static const char *const names[][2] = {{"k_full", "v_full"}, {"k_streaming", "v_streaming"}};
    const struct law all = {.held = law_ring, .cap = PLAN_NO_LIMIT, .endless = true}, ring = {.held = law_ring, .strip = all_slots, .cap = slots};
    struct part was[PLAN_MAX_PARTS];
    const uint32_t parts = plan_take_parts(c, was);
    uint32_t k = 0;

    for (uint32_t i = 0; i < parts && k < 2; i++) {
        const struct part *x = &was[i];

        if (!part_is_row(x))
            continue;
        add_part(c, names[0], k, x, full, &all);
        add_part(c, names[1], k++, x, x->heads - full, &ring);
        if (full == x->heads)
            continue;
        c->parts[c->n_parts - 1].slots = slots;
        c->parts[c->n_parts - 1].slots_most = p->chunk < p->w.prompt ? num_add(&p->over, slots, p->chunk) : slots;
    }
    for (uint32_t i = 0; i < parts; i++)
        if (!part_is_row(&was[i]))
            *plan_add_part(c, was[i].name) = was[i];
}

static kvp_err check(const struct plan *p, struct kvp_error *e)
{
    KVP_TRY(select_check(p, "duo", e));
    for (uint32_t i = 0; i < p->n_classes; i++)
        if (p->cls[i].model->mixer == KVP_MIX_MLA)
            return kvp_fail(e, KVP_ENOTSUP, "duo: MLA keeps one latent for all heads, so no head can keep less than another");
        else if (p->cls[i].model->no_kv && select_sees_all(p, &p->cls[i]))
            return kvp_fail(e, KVP_ENOTSUP, "duo: layers of %s read other layers' keys, and which heads are full is each layer's own", p->model->name);
    return KVP_OK;
}

/* Full heads of each layer: the whole model's, spread evenly. */
static void spread(struct plan *p, double ratio)
{
    uint64_t n = 0, full, before = 0;

    for (uint32_t i = 0; i < p->n_classes; i++)
        n += select_acts(p, &p->cls[i]) ? select_heads(&p->cls[i]) * p->cls[i].count : 0;
    full = full_heads(ratio, n);
    for (uint32_t l = 0; l < p->model->layers; l++) {
        const struct plan_class *c = &p->cls[plan_class_of(p, l)];
        const uint64_t first = before;

        before += select_acts(p, c) ? select_heads(c) : 0;
        p->opened.kind[l] = n ? (uint32_t)(full * before / n - full * first / n) : 0;
    }
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const uint64_t slots = num_add(&p->over, spec_int(s, "sink"), spec_int(s, "recent"));

    KVP_TRY(check(p, e));
    spread(p, kvp_spec_param(s, "ratio")->r);
    KVP_TRY(plan_group(p, p->opened.kind, e));
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];

        if (!select_acts(p, c))
            continue;
        divide(p, c, c->kind, slots);
        c->band = num_min(c->band, slots); /* of the streaming heads; extra_ops adds what the full ones see */
        c->span = num_min(c->span, slots);
    }
    return KVP_OK;
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    struct plan_class *c = &p->cls[cls];
    const struct part *k = plan_find_part(c, "k_full");
    const struct kvp_layer_class *m = c->model;
    const uint64_t T = p->w.context, P = p->w.prompt;
    uint64_t each, more;

    (void)s;
    if (!k)
        return;
    each = NUM_PROD(&o->over, 2, p->w.batch, k->heads * (m->heads / m->kv_heads), (uint64_t)m->head_dim + m->v_head_dim);
    more = phase == KVP_DECODE ? T - num_min(T, c->span) : ops_band(&o->over, P, PLAN_NO_LIMIT) - ops_band(&o->over, P, c->band);
    more = num_mul(&o->over, each, more);
    ops_more(o, KVP_OP_ATTN, phase, cls, (struct cost){.flops = more, .flops_full = phase == KVP_DECODE ? more : 0});
}

static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    const uint64_t quarter = w->context / 4;

    (void)m;
    snprintf(buf, n, "sink=%d,recent=%" PRIu64, quarter > 4 ? 4 : 0, num_max(num_less(quarter, 4), 1));
}

const struct technique technique_duo = {
    .info = {.name = "duo", .axis = KVP_AXIS_SELECT, .summary = "retrieval heads keep every token, streaming heads sinks and the newest",
             .source = "Xiao et al. 2024, arXiv:2410.10819, section 2; mit-han-lab/duo-attention static_kv_cache.py",
             .params = "ratio=0.5,sink=64,recent=256"},
    .n_params = 3,
    .params = {{.key = "ratio", .kind = KVP_PARAM_RATIO, .positional = true, .r = 0.5, .r_min = 0, .r_max = 1},
               {.key = "sink", .kind = KVP_PARAM_INT, .i = 64, .min = 0, .max = INT64_MAX},
               {.key = "recent", .kind = KVP_PARAM_INT, .i = 256, .min = 1, .max = INT64_MAX}},
    .example = example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
