/* prefix.c - sequences of a batch begin with the same tokens: these are computed and stored once.
 *
 *   hit = min(floor((Tp - 1) / block) * block, floor(shared / block) * block)   granularity=block, vLLM's rule
 *         min(Tp - 1, shared)                                                  granularity=token, a radix tree
 *
 * The last token of a prompt is always computed, for its logits. The first sequence computes the prefix; the
 * others begin behind the hit and attend to it. A layer with a window shares what it still sees; a recurrence
 * keeps one copy more of its state, at the hit, for the others (plan.c). In pages only whole pages are shared, and `block` is the pages'.
 * vLLM v1/core/kv_cache_manager.py; SGLang arXiv:2312.07104. */
#include "calc/technique.h"

#include <inttypes.h>

static const char *const granularities[] = {"block", "token", NULL};
enum { BLOCK, TOKEN };
enum { VLLM_BLOCK = 16 };

static uint64_t down(uint64_t n, uint64_t block)
{
    return n / block * block;
}

static uint64_t page_of(const struct plan *p)
{
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++)
            if (p->cls[c].parts[i].pages)
                return p->cls[c].parts[i].block;
    return 0;
}

static kvp_err block_of(const struct plan *p, const struct kvp_spec *s, uint64_t *block, struct kvp_error *e)
{
    const struct kvp_param *given = kvp_spec_param(s, "block");
    const uint64_t page = page_of(p);

    *block = given->given ? (uint64_t)given->i : page ? page : VLLM_BLOCK;
    if (page && *block % page)
        return kvp_fail(e, KVP_EINPUT, "prefix: block=%" PRIu64 " is not a multiple of the pages of %" PRIu64 " tokens", *block, page);
    return KVP_OK;
}

static void share(struct plan *p, struct part *x, uint64_t hit)
{
    const uint64_t held = x->law.held(&x->law, p->w.context);
    const uint64_t seen = num_less(hit, p->w.context - held); /* what of the hit a ring still holds */

    if (!x->rows)
        return;
    x->shared = x->pages ? down(num_min(seen, held), x->block) : num_min(seen, held);
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct kvp_param *given = kvp_spec_param(s, "shared");
    const uint64_t shared = given->given ? (uint64_t)given->i : p->w.prompt;
    uint64_t block;

    KVP_TRY(block_of(p, s, &block, e));
    if (shared > p->w.prompt)
        return kvp_fail(e, KVP_EINPUT, "prefix: shared=%" PRIu64 " is more than the prompt of %" PRIu64 " tokens", shared, p->w.prompt);
    p->hit = kvp_spec_param(s, "granularity")->i == TOKEN ? num_min(p->w.prompt - 1, shared)
                                                           : num_min(down(p->w.prompt - 1, block), down(shared, block));
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++)
            share(p, &p->cls[c].parts[i], p->hit);
    return KVP_OK;
}

static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    (void)m;
    snprintf(buf, n, "shared=%" PRIu64 ",granularity=token", num_max(w->prompt / 2, 1));
}

const struct technique technique_prefix = {
    .info = {.name = "prefix", .axis = KVP_AXIS_REUSE, .summary = "a common beginning of the batch's prompts, computed and stored once",
             .source = "Kwon et al. 2023, arXiv:2309.06180, section 4.4; Zheng et al. 2023, arXiv:2312.07104, section 3; vLLM v1/core/kv_cache_manager.py",
             .params = "shared,block,granularity=block"},
    .n_params = 3,
    .params = {{.key = "shared", .kind = KVP_PARAM_INT, .positional = true, .no_default = true, .min = 0, .max = INT64_MAX},
               {.key = "block", .kind = KVP_PARAM_INT, .no_default = true, .min = 1, .max = 1 << 30},
               {.key = "granularity", .kind = KVP_PARAM_WORD, .i = BLOCK, .words = granularities}},
    .example = example,
    .cache_rewrite = cache_rewrite,
};
