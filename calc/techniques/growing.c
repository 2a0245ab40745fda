/* growing.c - caches that concatenate: one more token allocates a new tensor, copies, frees the old.
 *
 *   at rest exactly the tokens held; at its highest one more tensor: for a dense cache (1 + 1/(2L)) of it
 *   every step copies what it grows: a read and a write of the whole cache */
#include "calc/technique.h"

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    (void)s;
    KVP_TRY(plan_has_rows(p, e));
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++) {
            struct part *x = &p->cls[c].parts[i];

            x->grows = x->rows || x->follows_growth;
            if (x->grows)
                x->slots = x->slots_most = 0; /* what a technique would reserve at the start grows too */
        }
    return KVP_OK;
}

const struct technique technique_growing = {
    .info = {.name = "growing", .axis = KVP_AXIS_STORE, .summary = "exactly the used slots, reallocated and copied at every token",
             .source = "huggingface/transformers cache_utils.py, DynamicLayer.update (torch.cat)", .params = ""},
    .cache_rewrite = cache_rewrite,
};
