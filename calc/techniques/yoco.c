/* yoco.c - you only cache once: the lower half attends by a window (or a recurrence), the upper half reads one
 * k and v that the lower half's output is projected to.
 *
 *   cross part  2 * B * T * Hkv * d * b                        once
 *   self part   (L/2) * 2 * B * min(T, W) * Hs * d * b         variant=window
 *               (L/2) * B * Hs * d * d, in the state's format  variant=retention
 *
 * Prefill computes the upper half for the last token only. Hs: the query heads, unless `self_heads` says other.
 * microsoft/unilm YOCO/yoco/models/decoder. The upper layers' one projection is counted on the first of them. */
#include "calc/rewrite.h"
#include "calc/technique.h"

#include <inttypes.h>

static const char *const variants[] = {"window", "retention", NULL};
enum { WINDOW, RETENTION };

struct halves {
    uint32_t lower;
    uint64_t window, self_heads;
    bool retention, not_attention;
    uint32_t refused;
};

static void edit_lower(struct kvp_layer_class *c, struct halves *h)
{
    const uint32_t self = h->self_heads ? (uint32_t)h->self_heads : c->heads;

    if (self > c->heads || c->heads % self) {
        h->refused = c->heads;
        return;
    }
    c->kv_heads = self;
    c->window = h->window;
    c->chunk = 0;
    if (!h->retention)
        return;
    c->mixer = KVP_MIX_NONE;
    c->recurrent = KVP_REC_LIGHTNING;
    c->rec_heads = self;
    c->rec_head_dim = c->head_dim;
    c->inner = self * c->head_dim;
    c->window = c->heads = c->kv_heads = c->head_dim = c->v_head_dim = 0;
}

static void edit(struct kvp_layer_class *c, uint32_t layer, void *to)
{
    struct halves *h = to;

    if (c->mixer != KVP_MIX_ATTENTION) {
        h->not_attention = true;
        return;
    }
    c->no_kv = layer > h->lower;
    if (layer < h->lower)
        edit_lower(c, h);
    else
        c->window = c->chunk = 0;
}

static kvp_err model_rewrite(struct kvp_model *m, const struct kvp_spec *s, struct kvp_error *e)
{
    struct halves h = {.lower = m->layers / 2, .window = spec_int(s, "window"), .self_heads = spec_int(s, "self_heads"),
                       .retention = kvp_spec_param(s, "variant")->i == RETENTION};

    KVP_TRY(model_edit(m, edit, &h, e));
    if (h.not_attention)
        return kvp_fail(e, KVP_ENOTSUP, "yoco: %s has layers that are not attention", m->name);
    if (h.refused)
        return kvp_fail(e, KVP_EINPUT, "yoco: self_heads=%" PRIu64 " does not divide the %u query heads of %s", h.self_heads, h.refused, m->name);
    return KVP_OK;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    (void)s;
    (void)e;
    for (uint32_t i = 0; i < p->n_classes; i++)
        p->cls[i].last_only = p->cls[i].first >= p->model->layers / 2;
    return KVP_OK;
}

static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    (void)m;
    snprintf(buf, n, "window=%" PRIu64, w->context >= 4 ? w->context / 4 : 1);
}

const struct technique technique_yoco = {
    .info = {.name = "yoco", .axis = KVP_AXIS_SHARE, .summary = "one cache for the upper half, a window or a state for each lower layer",
             .source = "Sun et al. 2024, arXiv:2405.05254, section 2; microsoft/unilm YOCO/yoco/models/decoder",
             .params = "variant=window,window=1024,self_heads"},
    .n_params = 3,
    .params = {{.key = "variant", .kind = KVP_PARAM_WORD, .positional = true, .i = WINDOW, .words = variants},
               {.key = "window", .kind = KVP_PARAM_INT, .i = 1024, .min = 1, .max = INT64_MAX},
               {.key = "self_heads", .kind = KVP_PARAM_INT, .no_default = true, .min = 1, .max = 1 << 20}},
    .example = example,
    .model_rewrite = model_rewrite,
    .cache_rewrite = cache_rewrite,
};
