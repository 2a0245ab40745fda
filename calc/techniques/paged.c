/* paged.c - pages of `block` tokens and a table i32 [batch, pages per sequence].
 *
 *   pages = ceil(tokens / block) for each sequence; the unused rest of the last page is rounding
 *   one table for each different number of pages, shared by the layers that have it (metadata)
 *   pool  = (sum of the sequences' pages + null) * block slots
 *
 * layout=vllm: a reserved null block, table rows rounded up to a multiple of 128/block, an i32 length a
 * sequence (vLLM v1/worker/block_table.py). layout=sglang: one dummy page, a map i32 [batch, tokens] in the
 * table's place, an i64 free list of the slots (SGLang mem_cache/memory_pool.py). */
#include "calc/technique.h"

#include <inttypes.h>

static kvp_err check(const struct part *x, uint64_t block, struct kvp_error *e)
{
    if (block % x->unit == 0)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "paged: block=%" PRIu64 " is not a multiple of the %" PRIu64 " tokens that share a scale", block, x->unit);
}

static const char *const layouts[] = {"plain", "vllm", "sglang", NULL};
enum { PLAIN, VLLM, SGLANG };

struct layout {
    int64_t as;
    uint64_t block, null;
};

static struct layout layout_of(const struct kvp_spec *s)
{
    const struct kvp_param *null = kvp_spec_param(s, "null");
    const int64_t as = kvp_spec_param(s, "layout")->i;

    return (struct layout){as, spec_int(s, "block"), null->given ? (uint64_t)null->i : as != PLAIN};
}

/* Columns of a table row. */
static uint64_t columns(const struct layout *l, uint64_t pages)
{
    const uint64_t unit = l->as == VLLM ? num_max(128 / l->block, 1) : 1;

    return num_cdiv(pages, unit) * unit;
}

/* vLLM frees a page only when the whole of it has left the window, which may begin inside one: while a prompt is computed a
 * request may hold the W - 1 tokens before a pass and the pass (v1/kv_cache_interface.py, SlidingWindowSpec). */
static uint64_t most_pages(const struct plan *p, const struct plan_class *c, const struct layout *l, uint64_t pages)
{
    const uint64_t all = num_cdiv(p->w.context, l->block);

    if (l->as != VLLM || c->band >= p->w.context)
        return pages;
    return num_max(pages, num_min(all, num_cdiv(num_min(c->band - 1 + p->chunk, p->w.context), l->block) + 1));
}

static kvp_err page_class(struct plan *p, struct plan_class *c, const struct layout *l, struct kvp_error *e)
{
    const uint64_t block = l->block;

    for (uint32_t i = 0; i < c->n_parts; i++) {
        struct part *x = &c->parts[i];
        const struct law *lead;

        if (x->paged_as == UINT32_MAX)
            continue;
        KVP_TRY(check(x, block, e));
        lead = &c->parts[x->paged_as].law;
        x->block = block;
        x->pages = num_cdiv(lead->held(lead, p->w.context), block);
        x->slots = num_mul(&p->over, x->pages, block);
        x->slots_most = num_mul(&p->over, most_pages(p, c, l, x->pages), block);
        x->null = x->pages ? l->null : 0;
        if (x->pages && l->as != SGLANG)
            plan_add_table(p, columns(l, x->pages));
    }
    return KVP_OK;
}

static uint64_t most_slots(struct plan *p)
{
    uint64_t most = 0;

    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++) {
            const struct part *x = &p->cls[c].parts[i];

            if (x->pages)
                most = num_max(most, NUM_PROD(&p->over, p->w.batch, x->pages, x->block));
        }
    return most;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct layout l = layout_of(s);
    uint64_t slots;

    KVP_TRY(plan_has_rows(p, e));
    for (uint32_t i = 0; i < p->n_classes; i++)
        KVP_TRY(page_class(p, &p->cls[i], &l, e));
    slots = most_slots(p);
    if (l.as == VLLM && slots)
        plan_add_meta(p, "sequence_lengths", KVP_I32, p->w.batch, 1);
    if (l.as == SGLANG && slots) {
        plan_add_meta(p, "token_map", KVP_I32, p->w.batch, p->w.context);
        plan_add_meta(p, "free_list", KVP_I64, 1, slots);
    }
    return KVP_OK;
}

/* Attention looks every page up once: those of the part that leads, one table each. */
static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    const struct plan_class *c = plan_owner(p, cls);
    uint64_t pages = 0;

    for (uint32_t i = 0; i < c->n_parts; i++)
        if (c->parts[i].paged_as == i)
            pages = num_add(&o->over, pages, num_cdiv(part_read(&c->parts[i], p->w.context), spec_int(s, "block")));
    if (phase == KVP_DECODE && pages)
        ops_more(o, KVP_OP_ATTN, phase, cls, (struct cost){.read = NUM_PROD(&o->over, 4, p->w.batch, pages)});
}

const struct technique technique_paged = {
    .info = {.name = "paged", .axis = KVP_AXIS_STORE, .summary = "fixed-size pages and a table, as paged engines do",
             .source = "Kwon et al. 2023, arXiv:2309.06180, section 4; vLLM v1/worker/block_table.py", .params = "block=16,layout,null"},
    .n_params = 3,
    .params = {{.key = "block", .kind = KVP_PARAM_INT, .positional = true, .i = 16, .min = 1, .max = 1 << 30},
               {.key = "layout", .kind = KVP_PARAM_WORD, .no_default = true, .i = PLAIN, .words = layouts},
               {.key = "null", .kind = KVP_PARAM_INT, .no_default = true, .min = 0, .max = 1 << 20}},
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
