/* gqa.c - grouped-query attention: fewer key-value heads than query heads.
 *
 *   cache 2 * L * B * T * Hkv * d * b;  k and v projections 2 * D * Hkv * d;  attention's FLOPs as before
 *
 * The model itself changes: projections, parameters and cache follow its kv_heads. */
#include "calc/techniques/gqa.h"

#include "calc/rewrite.h"

#include <inttypes.h>

/* Without a number: the most heads that are at most a quarter of the query heads (Llama-3's 8 of 32). */
static uint32_t quarter(uint32_t heads)
{
    uint32_t n = heads / 4 ? heads / 4 : 1;

    while (heads % n)
        n--;
    return n;
}

struct wish {
    uint64_t kv_heads; /* 0: a quarter */
    uint32_t refused;  /* query heads that it does not divide */
};

static void edit(struct kvp_layer_class *c, uint32_t layer, void *to)
{
    struct wish *w = to;

    (void)layer;
    if (c->mixer != KVP_MIX_ATTENTION)
        return;
    if (w->kv_heads && (w->kv_heads > c->heads || c->heads % w->kv_heads))
        w->refused = c->heads;
    else
        c->kv_heads = w->kv_heads ? (uint32_t)w->kv_heads : quarter(c->heads);
}

kvp_err gqa_group(struct kvp_model *m, const char *name, uint64_t kv_heads, struct kvp_error *e)
{
    struct wish w = {.kv_heads = kv_heads};

    if (!model_mixers(m, KVP_MIX_ATTENTION))
        return kvp_fail(e, KVP_ENOTSUP, "%s: not applicable, %s has no attention layer with key-value heads", name, m->name);
    KVP_TRY(model_edit(m, edit, &w, e));
    if (w.refused)
        return kvp_fail(e, KVP_EINPUT, "%s: kv_heads=%" PRIu64 " does not divide the %u query heads of %s", name, kv_heads, w.refused, m->name);
    return KVP_OK;
}

static kvp_err gqa_rewrite(struct kvp_model *m, const struct kvp_spec *s, struct kvp_error *e)
{
    return gqa_group(m, "gqa", spec_int(s, "kv_heads"), e);
}

const struct technique technique_gqa = {
    .info = {.name = "gqa", .axis = KVP_AXIS_MIXER, .summary = "several query heads read one key-value head",
             .source = "Ainslie et al. 2023, arXiv:2305.13245, section 2", .params = "kv_heads"},
    .n_params = 1,
    .params = {{.key = "kv_heads", .kind = KVP_PARAM_INT, .positional = true, .no_default = true, .min = 1, .max = 1 << 20}},
    .model_rewrite = gqa_rewrite,
};
