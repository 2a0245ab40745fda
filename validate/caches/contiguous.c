/* contiguous.c - strips for the longest sequence that could come, allocated once, as engines without
 * paging reserve them (Kwon et al. 2023, arXiv:2309.06180, section 3.1) */
#include "validate/caches/stores.h"

static kvp_err plan(struct store_plan *out, const struct kvp_spec *spec, const struct cache_env *env,
                    struct kvp_error *e)
{
    const struct kvp_param *p = kvp_spec_param(spec, "max_len");
    const uint64_t tokens = p && p->given ? (uint64_t)p->i : env->model->max_positions;

    if (p && p->given && p->i < 1)
        return kvp_fail(e, KVP_EINPUT, "%s: max_len is %lld, expected at least 1", spec->name,
                        (long long)p->i);
    if (tokens < env->context)
        return kvp_fail(e, KVP_EINPUT, "%s: max_len is %llu, but the run's context has %llu tokens",
                        spec->name, (unsigned long long)tokens, (unsigned long long)env->context);
    *out = (struct store_plan){.tokens = tokens, .keeps = true};
    return KVP_OK;
}

const struct store_ops store_contiguous = {.name = "contiguous", .params = "max_len", .plan = plan, .open = store_open_strips};
