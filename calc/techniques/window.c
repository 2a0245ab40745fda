/* window.c - keep the newest W tokens of a layer in a ring (slot = position mod W).
 *
 *   tokens = min(T, W);  a query sees keys with 0 <= i - j < W, itself included
 *
 * On a model some of whose layers are windowed, or attend in chunks, those are narrowed and the full ones
 * stay full. An MLA latent is a row like any other; states and an encoder's keys stay. */
#include "calc/technique.h"

#include <inttypes.h>

static bool has_window(const struct kvp_model *m)
{
    for (uint32_t i = 0; i < m->classes; i++)
        if (m->cls[i].window || m->cls[i].chunk)
            return true;
    return false;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const uint64_t w = spec_int(s, "window");
    const bool hybrid = has_window(p->model);

    KVP_TRY(plan_has_rows(p, e));
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];

        if (c->model->mixer == KVP_MIX_NONE || (hybrid && !c->model->window && !c->model->chunk))
            continue;
        c->band = c->span = num_min(c->span, w);
        for (uint32_t k = 0; k < c->n_parts; k++) {
            if (!c->parts[k].rows)
                continue;
            c->parts[k].law.cap = c->span;
            c->parts[k].law.endless = false;
        }
    }
    return KVP_OK;
}

static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    (void)m;
    snprintf(buf, n, "%" PRIu64, w->context >= 4 ? w->context / 4 : 1);
}

const struct technique technique_window = {
    .info = {.name = "window", .axis = KVP_AXIS_SELECT, .summary = "the newest tokens only, in a ring",
             .source = "Jiang et al. 2023 (Mistral 7B), arXiv:2310.06825, section 2; Beltagy et al. 2020, arXiv:2004.05150",
             .params = "window=1024"},
    .n_params = 1,
    .params = {{.key = "window", .kind = KVP_PARAM_INT, .positional = true, .i = 1024, .min = 1, .max = INT64_MAX}},
    .example = example,
    .cache_rewrite = cache_rewrite,
};
