/* continuous-batching.c - every step takes as many tokens as a budget lets in, whoever's they are.
 *
 *   activation rows  at most max_num_batched_tokens, not batch * prompt
 *   prefill          as many prompts (or chunks) side by side as the budget holds; weights are read once a pass
 *   token-steps      the sum of the lengths; a static batch needs batch * the longest
 *
 * A prompt that is not cut must fit into one step (vLLM refuses too: max_num_batched_tokens below
 * max_model_len needs chunked prefill). The batch is what runs at once: no more than max_num_seqs. Defaults:
 * vLLM's server on a device of at least 70 GiB that is not an A100 has 8192 tokens and 1024 sequences, others
 * 256; the smaller one here. Orca, OSDI 2022. */
#include "calc/technique.h"

#include <inttypes.h>

static kvp_err store_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const uint64_t seqs = spec_int(s, "max_num_seqs");

    p->budget = spec_int(s, "max_num_batched_tokens");
    if (p->w.batch > seqs)
        return kvp_fail(e, KVP_EINPUT, "continuous-batching: a batch of %" PRIu64 " does not run at once with max_num_seqs=%" PRIu64, p->w.batch, seqs);
    if (p->w.batch > p->budget)
        return kvp_fail(e, KVP_EINPUT, "continuous-batching: a decode step of %" PRIu64 " sequences is over max_num_batched_tokens=%" PRIu64, p->w.batch,
                        p->budget);
    return KVP_OK;
}

/* When all stores are settled the chunk is known. */
static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    (void)s;
    if (p->chunk <= p->budget)
        return KVP_OK;
    if (p->chunk < p->w.prompt)
        return kvp_fail(e, KVP_EINPUT, "continuous-batching: a chunk of %" PRIu64 " tokens is over max_num_batched_tokens=%" PRIu64, p->chunk, p->budget);
    return kvp_fail(e, KVP_EINPUT, "continuous-batching: a prompt of %" PRIu64 " tokens is over max_num_batched_tokens=%" PRIu64 "; add chunked-prefill",
                    p->w.prompt, p->budget);
}

static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    (void)m;
    snprintf(buf, n, "max_num_batched_tokens=%" PRIu64 ",max_num_seqs=%" PRIu64, num_max(w->prompt, w->batch), num_max(w->batch, 256));
}

const struct technique technique_continuous_batching = {
    .info = {.name = "continuous-batching", .axis = KVP_AXIS_BATCHING, .summary = "steps of a token budget; sequences come and go at every step",
             .source = "Yu et al. 2022 (Orca), OSDI, section 3; vLLM v1/core/sched/scheduler.py",
             .params = "max_num_batched_tokens=8192,max_num_seqs=256"},
    .n_params = 2,
    .params = {{.key = "max_num_batched_tokens", .kind = KVP_PARAM_INT, .positional = true, .i = 8192, .min = 1, .max = INT64_MAX},
               {.key = "max_num_seqs", .kind = KVP_PARAM_INT, .i = 256, .min = 1, .max = INT64_MAX}},
    .example = example,
    .store_rewrite = store_rewrite,
    .cache_rewrite = cache_rewrite,
};
