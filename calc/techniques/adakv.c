/* adakv.c - SnapKV's scores, a layer's budget of Hs * (cap - window) tokens shared out over its heads.
 *
 *   Every head keeps at least int(0.2 * (cap - window)) of its own; the rest goes by one top-k over all heads
 *   of the layer. The heads' rows lie one after another, [sum of lengths, d], so the bytes are SnapKV's, and
 *   seven int32 arrays of lengths and offsets: 4 * (7 * Hs + 3) bytes a layer and sequence (metadata).
 *
 * Feng et al. 2024, arXiv:2407.11550; FFY0/AdaKV adaptive_snapkv/monkeypatch/snapkv_utils.py. The adapter in
 * kvpress only masks and saves nothing. */
#include "calc/select.h"

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const uint64_t cap = spec_int(s, "cap");
    struct select_window w;

    KVP_TRY(select_window_open(&w, p, s, e));
    KVP_TRY(select_window_cap(&w, cap, e));
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];

        if (!select_sees_all(p, c))
            continue;
        if (c->model->mixer == KVP_MIX_MLA)
            return kvp_fail(e, KVP_ENOTSUP, "adakv: MLA keeps one latent for all heads, so there are no heads to share a budget out over");
        select_keep(p, c, cap);
        if (class_has_rows(c))
            plan_add_fixed(p, c, "head_lengths", KVP_TAG_METADATA, KVP_I32, 1, 1, 7 * select_heads(c) + 3);
    }
    select_window_scratch(p);
    return KVP_OK;
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    if (phase == KVP_PREFILL)
        select_window_ops(o, p, cls, s);
}

const struct technique technique_adakv = {
    .info = {.name = "adakv", .axis = KVP_AXIS_SELECT, .summary = "SnapKV with a layer's budget shared out over its heads",
             .source = "Feng et al. 2024, arXiv:2407.11550, section 3; FFY0/AdaKV snapkv_utils.py",
             .params = "cap=2048,window=32,kernel=5,pooling=avg,heads=kv"},
    .n_params = 1 + SELECT_WINDOW_PARAMS,
    .params = {{.key = "cap", .kind = KVP_PARAM_INT, .positional = true, .i = 2048, .min = 1, .max = INT64_MAX}, SELECT_WINDOW_TABLE(32, 5, 0)},
    .example = select_window_example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
