/* contiguous.c - one strip per tensor, reserved at the start for max_len tokens (or the technique's own
 * limit when that is less). What lies beyond the tokens held is rounding. */
#include "calc/technique.h"

#include <inttypes.h>

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct kvp_param *given = kvp_spec_param(s, "max_len");
    const uint64_t max_len = given->given ? (uint64_t)given->i : p->model->max_positions;

    KVP_TRY(plan_has_rows(p, e));
    if (!max_len)
        return kvp_fail(e, KVP_EINPUT, "contiguous: %s names no longest sequence: give max_len", p->model->name);
    if (max_len < p->w.context)
        return kvp_fail(e, KVP_EINPUT, "contiguous: max_len %" PRIu64 "%s is less than the context of %" PRIu64, max_len,
                        given->given ? "" : " (the model's own limit)", p->w.context);
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++) {
            struct part *x = &p->cls[c].parts[i];

            if (x->strips)
                x->slots = x->slots_most = x->law.strip ? x->law.strip(&x->law, max_len) : x->law.held(&x->law, max_len);
        }
    return KVP_OK;
}

/* Twice the context, as far as the model goes: enough to show what is reserved and not used. */
static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    const uint64_t limit = m->max_positions ? m->max_positions : PLAN_NO_LIMIT, twice = num_min(2 * w->context, limit);

    snprintf(buf, n, "%" PRIu64, num_max(twice, w->context));
}

const struct technique technique_contiguous = {
    .info = {.name = "contiguous", .axis = KVP_AXIS_STORE, .summary = "a strip reserved for the longest sequence",
             .source = "the pre-allocating engines that Kwon et al. 2023, arXiv:2309.06180, section 3 compares with",
             .params = "max_len"},
    .n_params = 1,
    .params = {{.key = "max_len", .kind = KVP_PARAM_INT, .positional = true, .no_default = true, .min = 1, .max = INT64_MAX}},
    .example = example,
    .cache_rewrite = cache_rewrite,
};
