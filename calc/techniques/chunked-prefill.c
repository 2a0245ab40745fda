/* chunked-prefill.c - a prompt in pieces of `chunk` tokens, each attending to all before it.
 *
 *   attention's FLOPs as before;  earlier k and v are read again: KV_token * C * m(m-1)/2 for m = ceil(Tp/C)
 *   weights are read m times;     activations are a chunk's
 *
 * What a technique does once for a whole prompt is listed with the last chunk. Sarathi-Serve, arXiv:2403.02310. */
#include "calc/technique.h"

#include <inttypes.h>

static kvp_err store_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    (void)e;
    p->chunk = num_min(spec_int(s, "chunk"), p->w.prompt);
    return KVP_OK;
}

static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    (void)m;
    snprintf(buf, n, "%" PRIu64, num_max(w->prompt / 4, 16));
}

/* Fewer than 16 tokens a pass is decoding, not prefill. */
const struct technique technique_chunked_prefill = {
    .info = {.name = "chunked-prefill", .axis = KVP_AXIS_CHUNKING, .summary = "the prompt in pieces, so that activations are a piece's",
             .source = "Agrawal et al. 2024, arXiv:2403.02310, section 4; vLLM v1/core/sched/scheduler.py", .params = "chunk=2048"},
    .n_params = 1,
    .params = {{.key = "chunk", .kind = KVP_PARAM_INT, .positional = true, .i = 2048, .min = 16, .max = INT64_MAX}},
    .example = example,
    .store_rewrite = store_rewrite,
};
