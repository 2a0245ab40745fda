/* window.c - the newest W tokens (Beltagy et al. 2020, arXiv:2004.05150; Mistral 7B, arXiv:2310.06825)
 *
 * In a model without windows every layer gets W; in a hybrid the layers that have a window are narrowed
 * to at most W and the others stay full. */
#include "validate/caches/caches.h"
#include "validate/caches/rows.h"
#include "validate/caches/steps.h"

#include "validate/caches/size.h"

static kvp_err read_window(uint64_t *out, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *p = kvp_spec_param(spec, "window");

    if (!p || p->i < 1)
        return kvp_fail(e, KVP_EINPUT, "%s: window is %lld, expected at least 1", spec->name,
                        p ? (long long)p->i : 0);
    *out = (uint64_t)p->i;
    return KVP_OK;
}

kvp_err window_of_layers(uint64_t *out, const struct cache_env *env, struct kvp_error *e)
{
    const struct kvp_spec *spec = kvp_stack_on(env->stack, KVP_AXIS_SELECT);
    const uint32_t layers = env->model->layers;
    bool hybrid = false, chunks = false;
    uint64_t w = 0;

    for (uint32_t i = 0; i < layers; i++) {
        out[i] = cache_class(env, i)->window;
        hybrid = hybrid || out[i];
        chunks = chunks || cache_class(env, i)->chunk;
    }
    if (!spec)
        return KVP_OK;
    if (chunks)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not run a window inside chunks yet", spec->name);
    if (strcmp(spec->name, cache_window.name) != 0)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the rest of the stack cannot keep the tokens it selects",
                        spec->name);
    KVP_TRY(read_window(&w, spec, e));
    for (uint32_t i = 0; i < layers; i++)
        out[i] = !hybrid ? w : out[i] ? size_min(out[i], w) : 0;
    return KVP_OK;
}

const struct cache_ops cache_window = {.name = "window", .axis = KVP_AXIS_SELECT, .params = "window", .encodes = true, ROWS_OPS};
