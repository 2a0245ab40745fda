/* table.c - which cache serves a stack: a new technique is one file and one row here */
#include "validate/caches/caches.h"
#include "validate/caches/store.h"
#include "validate/engine/coding.h"
#include "validate/engine/passes.h"
#include "validate/engine/rewrite.h"

static const struct cache_ops *const caches[] = {
    &cache_dense, &cache_window, &cache_h2o, &cache_kivi, &cache_kv,
    &cache_streaming_llm, &cache_streaming_llm_once, &cache_snapkv, &cache_pyramidkv, &cache_tova,
    &cache_quest, &cache_duo, &cache_minicache, &cache_adakv, &cache_h2o_flexgen,
    &cache_lorc,
};
enum { N_CACHES = sizeof(caches) / sizeof(caches[0]) };

static const struct cache_ops *cache_named(const struct kvp_spec *spec)
{
    for (int i = 0; spec && i < N_CACHES; i++)
        if (caches[i]->axis == spec->axis && strcmp(caches[i]->name, spec->name) == 0 && (!caches[i]->takes || caches[i]->takes(spec)))
            return caches[i];
    return NULL;
}

/* Latents are rows of their own kind: a window may cut them and `kv` encode them. */
static kvp_err find_low(const struct cache_ops **out, const struct kvp_spec *rank, const struct kvp_spec *select, const struct kvp_spec *encode,
                        const struct kvp_spec *merge, struct kvp_error *e)
{
    const struct cache_ops *selection = cache_named(select), *encoding = cache_named(encode);

    *out = cache_named(rank);
    if (!*out)
        return kvp_fail(e, KVP_ENOTSUP, "%s: predicted only, the engine does not run it yet", rank->name);
    if ((select && selection != &cache_window) || (encode && encoding != &cache_kv) || merge)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not run it with %s yet", rank->name,
                        merge ? merge->name : select && selection != &cache_window ? select->name : encode->name);
    return KVP_OK;
}

/* An encoding decides the layout, and asks steps.h what a selection leaves it, as does a merge of layers; so they
 * come first, unless all that an encoding changes is how the selection's rows are stored. */
kvp_err cache_find(const struct cache_ops **out, const struct kvp_stack *s, struct kvp_error *e)
{
    const struct kvp_spec *encode = kvp_stack_on(s, KVP_AXIS_ENCODE), *merge = kvp_stack_on(s, KVP_AXIS_MERGE);
    const struct kvp_spec *select = kvp_stack_on(s, KVP_AXIS_SELECT), *spec = encode ? encode : merge ? merge : select;
    const struct cache_ops *selection = cache_named(select);

    if (kvp_stack_on(s, KVP_AXIS_RANK))
        return find_low(out, kvp_stack_on(s, KVP_AXIS_RANK), select, encode, merge, e);
    if (encode && merge)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not encode what %s merges", encode->name, merge->name);
    *out = spec ? cache_named(spec) : &cache_dense;
    if (*out == &cache_kv && selection && selection->encodes)
        *out = selection;
    return *out ? KVP_OK : kvp_fail(e, KVP_ENOTSUP, "%s: predicted only, the engine does not run it yet", spec->name);
}

static bool listed(const char *words, const char *key)
{
    const size_t len = strlen(key);

    for (const char *p = words; p && *p; p += strcspn(p, " "), p += *p == ' ')
        if (strcspn(p, " ") == len && strncmp(p, key, len) == 0)
            return true;
    return false;
}

static kvp_err check_spec(const struct kvp_spec *spec, struct kvp_error *e)
{
    struct kvp_stack alone = {.n = 1, .spec = {*spec}};
    const struct cache_ops *cache;
    const char *params = NULL;

    if (spec->axis == KVP_AXIS_STORE) {
        KVP_TRY(store_params(&params, spec, e));
    } else if (spec->axis <= KVP_AXIS_RANK) {
        KVP_TRY(rewrite_params(&params, spec, e));
    } else if (spec->axis == KVP_AXIS_SELECT || spec->axis == KVP_AXIS_MERGE || spec->axis == KVP_AXIS_ENCODE) {
        KVP_TRY(cache_find(&cache, &alone, e));
        params = cache->params;
    } else if (spec->axis == KVP_AXIS_WEIGHTS) {
        KVP_TRY(wt_coding_params(&params, spec, e));
    } else if (spec->axis >= KVP_AXIS_REUSE) {
        KVP_TRY(passes_params(&params, spec, e));
    } else {
        return kvp_fail(e, KVP_ENOTSUP, "%s: predicted only, the engine does not run it yet", spec->name);
    }
    for (uint32_t i = 0; i < spec->n_params; i++)
        if (spec->params[i].given && !listed(params, spec->params[i].key))
            return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not know %s yet", spec->name, spec->params[i].key);
    return KVP_OK;
}

kvp_err cache_check(const struct kvp_stack *s, struct kvp_error *e)
{
    for (uint32_t i = 0; i < s->n; i++)
        KVP_TRY(check_spec(&s->spec[i], e));
    return KVP_OK;
}
