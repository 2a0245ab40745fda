/* snapkv.c - once, at the end of the prompt: per head the cap - window tokens that the last `window` queries
 * attend to most, their scores pooled, and those last tokens. What is generated is kept.
 *
 *   tokens = P < cap ? T : cap + generated, the same in every layer;  2 * Hs * d * b bytes each
 *
 * Hs: kv heads, or the query heads that the official code repeats keys to before caching (heads=query).
 * Li et al. 2024, arXiv:2404.14469; FasterDecoding/SnapKV snapkv_utils.py. */
#include "calc/select.h"

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const uint64_t cap = spec_int(s, "cap");
    struct select_window w;

    KVP_TRY(select_window_open(&w, p, s, e));
    KVP_TRY(select_window_cap(&w, cap, e));
    for (uint32_t i = 0; i < p->n_classes; i++)
        if (select_sees_all(p, &p->cls[i]))
            select_keep(p, &p->cls[i], cap);
    select_window_scratch(p);
    return KVP_OK;
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    if (phase == KVP_PREFILL)
        select_window_ops(o, p, cls, s);
}

const struct technique technique_snapkv = {
    .info = {.name = "snapkv", .axis = KVP_AXIS_SELECT, .summary = "prompt tokens that its last queries attend to, chosen once per head",
             .source = "Li et al. 2024, arXiv:2404.14469, section 4; FasterDecoding/SnapKV snapkv_utils.py",
             .params = "cap=2048,window=32,kernel=5,pooling=avg,heads=kv"},
    .n_params = 1 + SELECT_WINDOW_PARAMS,
    .params = {{.key = "cap", .kind = KVP_PARAM_INT, .positional = true, .i = 2048, .min = 1, .max = INT64_MAX}, SELECT_WINDOW_TABLE(32, 5, 0)},
    .example = select_window_example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
