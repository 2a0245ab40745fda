/* table.c - which cache serves a stack: a new technique is one file and one row here */
#include "validate/caches/caches.h"

static const struct cache_ops *const caches[] = {&cache_dense, &cache_window, &cache_h2o, &cache_kivi};
enum { N_CACHES = sizeof(caches) / sizeof(caches[0]) };

/* An encoding decides the layout, and asks steps.h what a selection leaves it; so it comes first. */
kvp_err cache_find(const struct cache_ops **out, const struct kvp_stack *s, struct kvp_error *e)
{
    const struct kvp_spec *encode = kvp_stack_on(s, KVP_AXIS_ENCODE);
    const struct kvp_spec *spec = encode ? encode : kvp_stack_on(s, KVP_AXIS_SELECT);

    *out = spec ? NULL : &cache_dense;
    for (int i = 0; spec && i < N_CACHES; i++)
        if (caches[i]->axis == spec->axis && strcmp(caches[i]->name, spec->name) == 0)
            *out = caches[i];
    return *out ? KVP_OK : kvp_fail(e, KVP_ENOTSUP, "%s: the engine has no such cache", spec->name);
}
