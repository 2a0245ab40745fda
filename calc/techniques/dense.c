/* dense.c - the baseline: every layer keeps k and v of all tokens, or of its own sliding window. */
#include "calc/technique.h"

static void add_rows(struct plan *p, struct plan_class *c, const char *name, uint64_t window)
{
    struct part *x = plan_add_part(c, name);

    x->format = p->kv;
    x->heads = c->model->kv_heads;
    x->width = c->model->head_dim;
    x->law.cap = window;
    x->law.endless = window == PLAN_NO_LIMIT;
    x->rows = x->attended = x->append_prefill = x->append_decode = x->strips = true;
    x->paged_as = 0;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    (void)s;
    (void)e;
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];
        const uint64_t window = p->model->cls[i].window ? p->model->cls[i].window : PLAN_NO_LIMIT;

        c->model = &p->model->cls[i];
        c->count = c->model->count;
        c->band = c->span = window;
        add_rows(p, c, "k", window);
        add_rows(p, c, "v", window);
    }
    return KVP_OK;
}

const struct technique technique_dense = {
    .info = {.name = "dense", .axis = KVP_AXIS_SELECT,
             .summary = "every token's k and v, or those of the layer's own sliding window",
             .source = "Vaswani et al. 2017, arXiv:1706.03762; Shazeer 2019, arXiv:1911.02150 (incremental decoding)",
             .params = ""},
    .baseline = true,
    .cache_rewrite = cache_rewrite,
};
