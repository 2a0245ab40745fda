#include <kvproof/kvproof.h>

#include <inttypes.h>

static kvp_err contradiction(const struct kvp_workload *w, struct kvp_error *e)
{
    return kvp_fail(e, KVP_EINPUT,
                    "context %" PRIu64 " is not prompt %" PRIu64 " + generate %" PRIu64 "; any two of them give the third",
                    w->context, w->prompt, w->generate);
}

kvp_err kvp_workload_resolve(struct kvp_workload *w, struct kvp_error *e)
{
    uint64_t sum;

    w->batch = w->batch ? w->batch : 1;
    if (__builtin_add_overflow(w->prompt, w->generate, &sum))
        return kvp_fail(e, KVP_ERANGE, "prompt %" PRIu64 " + generate %" PRIu64 " does not fit in 64 bits", w->prompt, w->generate);
    if (!w->prompt && !w->context)
        return kvp_fail(e, KVP_EINPUT, "no context: give context, or prompt and generate");
    if (!w->context)
        w->context = sum;
    if (sum > w->context || (w->prompt && w->generate && sum != w->context))
        return contradiction(w, e);
    if (!w->prompt)
        w->prompt = w->context - w->generate;
    if (!w->prompt)
        return kvp_fail(e, KVP_EINPUT, "context %" PRIu64 " - generate %" PRIu64 " leaves no prompt; it needs a token", w->context, w->generate);
    w->generate = w->context - w->prompt;
    return KVP_OK;
}
