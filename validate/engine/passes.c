#include "validate/engine/passes.h"

#include <inttypes.h>

static const struct {
    const char *name, *params;
} known[] = {{"prefix", "shared block granularity"},
             {"continuous-batching", "max_num_batched_tokens max_num_seqs"},
             {"chunked-prefill", "chunk"}};

kvp_err passes_params(const char **out, const struct kvp_spec *spec, struct kvp_error *e)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(known[i].name, spec->name) == 0) {
            *out = known[i].params;
            return KVP_OK;
        }
    return kvp_fail(e, KVP_ENOTSUP, "%s: predicted only, the engine does not run it yet", spec->name);
}

static uint64_t number(const struct kvp_spec *s, const char *key)
{
    const struct kvp_param *p = kvp_spec_param(s, key);

    return p && p->i > 0 ? (uint64_t)p->i : 0;
}

static kvp_err read_chunk(struct passes *out, const struct kvp_stack *s, struct kvp_error *e)
{
    const struct kvp_spec *spec = kvp_stack_on(s, KVP_AXIS_CHUNKING);
    const uint64_t chunk = spec ? number(spec, "chunk") : UINT64_MAX;

    if (chunk == 0)
        return kvp_fail(e, KVP_EINPUT, "%s: chunk is 0, expected at least 1", spec->name);
    if (chunk < out->chunk)
        out->chunk = chunk;
    return KVP_OK;
}

/* As many chunks side by side as a step's tokens hold. A prompt that is not cut is one chunk, and must fit whole. */
static kvp_err read_budget(struct passes *out, const struct kvp_stack *s, uint64_t batch, struct kvp_error *e)
{
    const struct kvp_spec *spec = kvp_stack_on(s, KVP_AXIS_BATCHING);
    uint64_t tokens, seqs;

    if (!spec)
        return KVP_OK;
    tokens = number(spec, "max_num_batched_tokens");
    seqs = number(spec, "max_num_seqs");
    if (batch > seqs)
        return kvp_fail(e, KVP_EINPUT, "%s: %" PRIu64 " sequences, but max_num_seqs is %" PRIu64, spec->name, batch, seqs);
    if (batch > tokens || out->chunk > tokens)
        return kvp_fail(e, KVP_EINPUT, "%s: a pass needs %" PRIu64 " tokens, but max_num_batched_tokens is %" PRIu64, spec->name,
                        batch > out->chunk ? batch : out->chunk, tokens);
    if (tokens / out->chunk < out->width)
        out->width = tokens / out->chunk;
    return KVP_OK;
}

/* Tokens of whole blocks in n. */
static uint64_t whole(uint64_t n, uint64_t block)
{
    return n - n % block;
}

/* The last token of a prompt is computed by everyone, for its logits. Blocks are the pages' unless given; else vLLM's
 * 16 (v1/core/kv_cache_manager.py, get_computed_blocks). */
static kvp_err read_prefix(struct passes *out, const struct kvp_stack *s, uint64_t prompt, struct kvp_error *e)
{
    const struct kvp_spec *spec = kvp_stack_on(s, KVP_AXIS_REUSE), *store = kvp_stack_on(s, KVP_AXIS_STORE);
    const struct kvp_param *shared, *granularity;
    uint64_t page = store ? number(store, "block") : 0, block, same;

    if (!spec)
        return KVP_OK;
    shared = kvp_spec_param(spec, "shared");
    granularity = kvp_spec_param(spec, "granularity");
    same = shared && shared->given ? number(spec, "shared") : prompt;
    if (same > prompt)
        return kvp_fail(e, KVP_EINPUT, "%s: shared is %" PRIu64 ", the prompt has %" PRIu64 " tokens", spec->name, same, prompt);
    block = number(spec, "block") ? number(spec, "block") : page ? page : 16;
    if (granularity && granularity->word && strcmp(granularity->word, "token") == 0)
        block = 1;
    out->hit = whole(same < prompt - 1 ? same : prompt - 1, block);
    if (page && out->hit % page)
        return block == 1 ? kvp_fail(e, KVP_ENOTSUP, "%s: %" PRIu64 " tokens are no whole pages of %" PRIu64
                                     ", and the engine does not copy a page that two sequences go on in", spec->name, out->hit, page)
                          : kvp_fail(e, KVP_EINPUT, "%s: blocks of %" PRIu64 " tokens are no whole pages of %" PRIu64, spec->name,
                                     block, page);
    return KVP_OK;
}

kvp_err passes_plan(struct passes *out, const struct kvp_stack *s, uint64_t batch, uint64_t prompt, struct kvp_error *e)
{
    *out = (struct passes){.chunk = prompt, .width = batch};
    KVP_TRY(read_chunk(out, s, e));
    KVP_TRY(read_budget(out, s, batch, e));
    KVP_TRY(read_prefix(out, s, prompt, e));
    if (batch == 1)
        out->hit = 0; /* nobody is there to find it */
    return KVP_OK;
}
