/* cla.c - cross-layer attention: every `share`-th attention layer stores k and v, those up to the next one read
 * them.
 *
 *   cache 2 * ceil(L/s) * B * T * Hkv * d * b;  the readers have no k and v projections
 *   a decode step reads as much as before: every layer passes over its owner's rows
 *
 * Layers of another kind (a different window, or other heads) cannot share; where a model mixes kinds the
 * layers of each are counted on their own. */
#include "calc/rewrite.h"
#include "calc/technique.h"

enum { KINDS = 16 };

struct sharing {
    uint64_t share;
    uint32_t kinds;
    struct kvp_layer_class kind[KINDS];
    uint64_t seen[KINDS];
    bool many;
};

static bool alike(const struct kvp_layer_class *a, const struct kvp_layer_class *b)
{
    return a->window == b->window && a->chunk == b->chunk && a->kv_heads == b->kv_heads && a->head_dim == b->head_dim &&
           a->v_head_dim == b->v_head_dim;
}

static void edit(struct kvp_layer_class *c, uint32_t layer, void *to)
{
    struct sharing *s = to;
    uint32_t k = 0;

    (void)layer;
    if (c->mixer != KVP_MIX_ATTENTION || c->no_kv)
        return;
    while (k < s->kinds && !alike(c, &s->kind[k]))
        k++;
    if (k == KINDS) {
        s->many = true;
        return;
    }
    if (k == s->kinds)
        s->kind[s->kinds++] = *c;
    c->no_kv = s->seen[k]++ % s->share != 0;
}

static kvp_err model_rewrite(struct kvp_model *m, const struct kvp_spec *s, struct kvp_error *e)
{
    struct sharing x = {.share = spec_int(s, "share")};

    if (!model_mixers(m, KVP_MIX_ATTENTION))
        return kvp_fail(e, KVP_ENOTSUP, "cla: not applicable, %s has no attention layer that stores k and v", m->name);
    KVP_TRY(model_edit(m, edit, &x, e));
    if (x.many)
        return kvp_fail(e, KVP_ENOTSUP, "cla: %s has more than %d kinds of attention layers", m->name, KINDS);
    return KVP_OK;
}

const struct technique technique_cla = {
    .info = {.name = "cla", .axis = KVP_AXIS_SHARE, .summary = "neighbouring layers read one layer's keys and values",
             .source = "Brandon et al. 2024, arXiv:2405.12981, section 3", .params = "share=2"},
    .n_params = 1,
    .params = {{.key = "share", .kind = KVP_PARAM_INT, .positional = true, .i = 2, .min = 1, .max = 1 << 20}},
    .model_rewrite = model_rewrite,
};
