/* paged.c - rows in pages of `block` slots from a pool, found through a table (Kwon et al. 2023,
 * arXiv:2309.06180, section 4); no null page, the pool is exactly what the run needs */
#include "validate/caches/stores.h"

#include "validate/caches/size.h"

#include <stdlib.h>

static kvp_err plan(struct store_plan *out, const struct kvp_spec *spec, const struct cache_env *env,
                    struct kvp_error *e)
{
    const struct kvp_param *p = kvp_spec_param(spec, "block");

    if (!p || p->i < 1 || p->i > UINT32_MAX)
        return kvp_fail(e, KVP_EINPUT, "%s: block is %lld, expected 1 to %lld", spec->name,
                        p ? (long long)p->i : 0, (long long)UINT32_MAX);
    *out = (struct store_plan){.tokens = env->context, .block = (uint32_t)p->i};
    return KVP_OK;
}

static kvp_err open_pools(struct store *s, uint64_t *pages, struct kvp_error *e)
{
    for (uint32_t i = 0; i < s->env->model->layers; i++) {
        const uint64_t slots = size_min(s->plan.tokens, s->cap[i]);
        uint64_t rounded, all;

        pages[i] = store_heads(s, i) ? size_div_up(slots, s->plan.block) : 0;
        KVP_TRY(SIZE_PRODUCT(&rounded, "paged: the pool", e, pages[i], s->plan.block));
        for (int p = 0; p < STORE_PARTS; p++) {
            s->layer[i].slots[p] = p != STORE_SCORE ? rounded : s->fixed ? s->cap[i] : slots;
            KVP_TRY(SIZE_PRODUCT(&all, "paged: the pool", e, s->env->batch, s->layer[i].slots[p]));
            if (p != STORE_SCORE && pages[i])
                all -= (s->env->batch - 1) * s->env->hit; /* whole pages of a prefix */
            KVP_TRY(store_alloc_all(s, i, p, all, &s->layer[i].mem[p], e));
        }
    }
    return pages_open_beside(&s->pages, s->env, pages, s->beside ? s->beside->pages : NULL, s->env->hit / s->plan.block, e);
}

static kvp_err open_paged(struct store *s, struct kvp_error *e)
{
    uint64_t *pages = calloc(s->env->model->layers, sizeof(*pages));
    kvp_err rc;

    if (!pages)
        return kvp_fail(e, KVP_ENOMEM, "paged: out of memory for %u layers", s->env->model->layers);
    rc = open_pools(s, pages, e);
    free(pages);
    return rc;
}

const struct store_ops store_paged = {.name = "paged", .params = "block", .plan = plan, .open = open_paged};
