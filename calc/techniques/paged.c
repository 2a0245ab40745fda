/* paged.c - pages of `block` tokens and a table i32 [batch, pages per sequence].
 *
 *   pages = ceil(tokens / block) for each sequence; the unused rest of the last page is rounding
 *   one table for each different number of pages, shared by the layers that have it (metadata) */
#include "calc/technique.h"

#include <inttypes.h>

static kvp_err check(const struct part *x, uint64_t block, struct kvp_error *e)
{
    if (block % x->unit == 0)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "paged: block=%" PRIu64 " is not a multiple of the %" PRIu64 " tokens that share a scale", block, x->unit);
}

static kvp_err page_class(struct plan *p, struct plan_class *c, uint64_t block, struct kvp_error *e)
{
    for (uint32_t i = 0; i < c->n_parts; i++) {
        struct part *x = &c->parts[i];
        const struct law *lead;

        if (x->paged_as == UINT32_MAX)
            continue;
        KVP_TRY(check(x, block, e));
        lead = &c->parts[x->paged_as].law;
        x->block = block;
        x->pages = num_cdiv(lead->held(lead, p->w.context), block);
        x->slots = x->slots_most = num_mul(&p->over, x->pages, block);
        if (x->pages)
            plan_add_table(p, x->pages);
    }
    return KVP_OK;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const uint64_t block = spec_int(s, "block");

    KVP_TRY(plan_has_rows(p, e));
    for (uint32_t i = 0; i < p->n_classes; i++)
        KVP_TRY(page_class(p, &p->cls[i], block, e));
    return KVP_OK;
}

/* Attention looks every page up once: those of the part that leads, one table each. */
static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    const struct plan_class *c = &p->cls[cls];
    uint64_t pages = 0;

    for (uint32_t i = 0; i < c->n_parts; i++)
        if (c->parts[i].paged_as == i)
            pages = num_add(&o->over, pages, num_cdiv(part_read(&c->parts[i], p->w.context), spec_int(s, "block")));
    if (phase == KVP_DECODE && pages)
        ops_more(o, KVP_OP_ATTN, phase, cls, (struct cost){.read = NUM_PROD(&o->over, 4, p->w.batch, pages)});
}

const struct technique technique_paged = {
    .info = {.name = "paged", .axis = KVP_AXIS_STORE, .summary = "fixed-size pages and a table, as paged engines do",
             .source = "Kwon et al. 2023, arXiv:2309.06180, section 4; vLLM v1/worker/block_table.py", .params = "block=16"},
    .n_params = 1,
    .params = {{.key = "block", .kind = KVP_PARAM_INT, .positional = true, .i = 16, .min = 1, .max = 1 << 30}},
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
