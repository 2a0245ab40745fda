/* quest.c - nothing is evicted; a query reads the pages that may matter to it.
 *
 *   stored   k, v of every token, and per page of p tokens the smallest and the largest value of each key
 *            channel: 2 * Hkv * d * b * ceil(T / p) a layer and sequence (metadata)
 *   read     the metadata, and of k and v n = max(3, budget div p) pages, the newest among them always
 *   work     3 * H * d FLOPs a page: the larger of two products in every channel, summed up
 *
 * The first `dense` layers read everything, though they keep metadata too. One choice per kv head: with
 * grouped heads the official kernels, made for as many kv heads as heads, do not say.
 * Tang et al. 2024, arXiv:2406.10774, section 3; mit-han-lab/quest evaluation/quest_attention.py. */
#include "calc/select.h"

#include <inttypes.h>

static uint64_t whole_pages(const struct law *l, uint64_t seen)
{
    return num_cdiv(num_min(seen, l->cap), l->residual) * l->residual;
}

/* A row's law has the page in `residual`, the pages that are read in `chosen`. */
struct choice {
    uint64_t page, pages; /* tokens of one; how many a query reads */
};

static struct choice choice_of(const struct kvp_spec *s)
{
    const uint64_t page = spec_int(s, "page");

    return (struct choice){page, num_max(3, spec_int(s, "budget") / page)};
}

/* Tokens of `seen` that a query reads: whole pages, and what is in the newest. */
static uint64_t chosen(const struct choice *x, uint64_t seen)
{
    if (!seen || num_cdiv(seen, x->page) <= x->pages)
        return seen;
    return (x->pages - 1) * x->page + (seen - 1) % x->page + 1;
}

static uint64_t read_chosen(const struct law *l, uint64_t seen)
{
    return chosen(&(struct choice){l->residual, l->chosen}, seen);
}

static void add_bounds(struct plan *p, struct plan_class *c, const struct choice *x)
{
    static const char *const names[] = {"page_min", "page_max"};

    for (int i = 0; i < 2; i++) {
        struct part *part = plan_add_part(c, names[i]);

        part->tag = KVP_TAG_METADATA;
        part->format = p->kv;
        part->heads = c->model->kv_heads;
        part->width = c->model->head_dim;
        part->unit = x->page;
        part->law = (struct law){.held = whole_pages, .cap = PLAN_NO_LIMIT, .residual = x->page, .endless = true};
        part->follows_growth = part->strips = true;
    }
}

static void read_pages(struct plan_class *c, const struct choice *x, uint64_t context)
{
    c->span = num_min(c->span, chosen(x, context));
    for (uint32_t i = 0; i < c->n_parts; i++)
        if (part_is_row(&c->parts[i]))
            c->parts[i].law = (struct law){.held = law_ring, .read = read_chosen, .cap = PLAN_NO_LIMIT, .chosen = x->pages, .residual = x->page, .endless = true};
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct choice x = choice_of(s);

    KVP_TRY(select_check(p, "quest", e));
    for (uint32_t l = 0; l < p->model->layers; l++)
        p->opened.kind[l] = l >= spec_int(s, "dense");
    KVP_TRY(plan_group(p, p->opened.kind, e));
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];

        if (!select_sees_all(p, c))
            continue;
        if (c->model->mixer == KVP_MIX_MLA)
            return kvp_fail(e, KVP_ENOTSUP, "quest: bounds are of a head's key channels, and MLA keeps a latent");
        if (c->kind)
            read_pages(c, &x, p->w.context);
        if (class_has_rows(c))
            add_bounds(p, c, &x);
        if (c->first >= spec_int(s, "dense") && num_cdiv(p->w.context, x.page) > x.pages)
            plan_add_scratch(p, "chosen_pages", KVP_I32, p->w.batch, c->model->kv_heads, x.pages);
    }
    return KVP_OK;
}

static void decode_ops(struct ops *o, struct plan *p, uint32_t cls, const struct choice *x, uint64_t bounds)
{
    const struct kvp_layer_class *m = p->cls[cls].model;
    const uint64_t B = p->w.batch, T = p->w.context, pages = num_cdiv(T, x->page);
    bool *over = &o->over;
    const uint64_t flops = NUM_PROD(over, 3, B, m->heads, m->head_dim, pages), list = NUM_PROD(over, 4, B, m->kv_heads, num_min(pages, x->pages));

    ops_add(o, KVP_OP_INDEX, KVP_DECODE, cls, p->cls[cls].count,
            (struct cost){flops, flops, num_add(over, num_mul(over, bounds, pages), NUM_PROD(over, 4, B, m->heads, m->head_dim)), list});
    ops_more(o, KVP_OP_ATTN, KVP_DECODE, cls, (struct cost){.read = list});
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    struct plan_class *c = &p->cls[cls];
    const struct part *b = plan_find_part(c, "page_min");
    const struct choice x = choice_of(s);
    uint64_t bounds;

    if (!b)
        return;
    bounds = NUM_PROD(&o->over, 2, p->w.batch, part_bytes(&o->over, b, b->unit));
    if (phase == KVP_PREFILL) {
        ops_more(o, KVP_OP_APPEND, phase, cls, (struct cost){.written = num_mul(&o->over, bounds, num_cdiv(p->w.prompt, x.page))});
        return;
    }
    ops_more(o, KVP_OP_APPEND, phase, cls, (struct cost){.read = (p->w.context - 1) % x.page ? bounds : 0, .written = bounds});
    if (c->kind)
        decode_ops(o, p, cls, &x, bounds);
}

static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    const uint64_t page = w->context >= 128 ? 16 : num_max(w->context / 8, 1);

    (void)m;
    snprintf(buf, n, "page=%" PRIu64 ",budget=%" PRIu64, page, num_max(w->context / 4, 1));
}

const struct technique technique_quest = {
    .info = {.name = "quest", .axis = KVP_AXIS_SELECT, .summary = "every token is kept, a query reads the pages that may matter",
             .source = "Tang et al. 2024, arXiv:2406.10774, section 3; mit-han-lab/quest", .params = "page=16,budget=1024,dense=2"},
    .n_params = 3,
    .params = {{.key = "page", .kind = KVP_PARAM_INT, .i = 16, .min = 1, .max = 1 << 30},
               {.key = "budget", .kind = KVP_PARAM_INT, .i = 1024, .min = 1, .max = INT64_MAX},
               {.key = "dense", .kind = KVP_PARAM_INT, .i = 2, .min = 0, .max = 1 << 30}},
    .example = example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
