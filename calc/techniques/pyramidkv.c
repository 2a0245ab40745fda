/* pyramidkv.c - SnapKV's choice with a budget that falls from layer to layer.
 *
 *   official  C = cap - window; q < cap: nothing is dropped; q < 2C: cap in every layer; else
 *             lo = C div beta, hi = 2C - lo; where hi >= q - window: hi = q - window, lo = 2C - hi;
 *             step = (hi - lo) div (L - 1), 0 when L is 1; layer l keeps hi - l*step + window
 *   kvpress   in real numbers, the window inside: C = q*(1 - ratio), round() per layer, or the same
 *             round(q*(1 - ratio)) in every layer unless q >= hi >= lo >= window
 *
 * L and l count the layers it acts on. What is generated is kept, in every layer.
 * Cai et al. 2024, arXiv:2406.02069; Zefan-Cai/KVCache-Factory pyramidkv_utils.py; NVIDIA/kvpress
 * presses/pyramidkv_press.py. */
#include "calc/select.h"

#include <inttypes.h>
#include <math.h>

enum { OFFICIAL, KVPRESS };
static const char *const rules[] = {"official", "kvpress", NULL};

struct rule {
    bool kvpress;
    uint64_t cap, window, beta, q, layers;
    double ratio;
    bool flat; /* the same everywhere: hi */
    uint64_t hi, step;
    double top, slope;
};

/* Before anything is asked of a layer: where the budgets begin, and how they fall. */
static void official(struct rule *r)
{
    const uint64_t C = r->cap - r->window;
    uint64_t lo = C / r->beta;

    r->hi = 2 * C - lo;
    if (r->q < r->cap || r->q < 2 * C) {
        r->flat = true;
        r->hi = num_min(r->q, r->cap);
        return;
    }
    if (r->hi >= r->q - r->window) {
        r->hi = r->q - r->window;
        lo = 2 * C - r->hi;
    }
    r->step = r->layers > 1 ? (r->hi - lo) / (r->layers - 1) : 0;
    r->hi += r->window;
}

static void kvpress(struct rule *r)
{
    const double q = (double)r->q, w = (double)r->window, C = q * (1 - r->ratio);
    double lo = C / (double)r->beta;

    r->top = 2 * C - lo;
    if (r->top >= q - w) {
        r->top = q - w;
        lo = 2 * C - r->top;
    }
    r->flat = !(q >= r->top && r->top >= lo && lo >= w) || r->layers < 2;
    r->hi = (uint64_t)rint(C);
    r->slope = r->flat ? 0 : (r->top - lo) / (double)(r->layers - 1);
}

static uint64_t budget(const void *rule, uint64_t l)
{
    const struct rule *r = rule;

    if (r->flat)
        return r->hi;
    return r->kvpress ? (uint64_t)rint(r->top - (double)l * r->slope) : r->hi - l * r->step;
}

static kvp_err check(const struct rule *r, const struct kvp_spec *s, struct kvp_error *e)
{
    if (r->kvpress && !kvp_spec_param(s, "ratio")->given)
        return kvp_fail(e, KVP_EINPUT, "pyramidkv: rule=kvpress drops a ratio of the prompt, expected ratio");
    if (!r->kvpress && kvp_spec_param(s, "ratio")->given)
        return kvp_fail(e, KVP_EINPUT, "pyramidkv: ratio belongs to rule=kvpress, expected cap");
    if (r->kvpress && kvp_spec_param(s, "heads")->i)
        return kvp_fail(e, KVP_EINPUT, "pyramidkv: rule=kvpress stores kv heads, expected heads=kv");
    if (r->cap > INT64_MAX / 2)
        return kvp_fail(e, KVP_ERANGE, "pyramidkv: cap=%" PRIu64 " is too big", r->cap);
    return KVP_OK;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    struct rule r = {.kvpress = kvp_spec_param(s, "rule")->i == KVPRESS, .cap = spec_int(s, "cap"), .beta = spec_int(s, "beta"),
                     .q = p->w.prompt, .ratio = kvp_spec_param(s, "ratio")->r};
    struct select_window w;

    KVP_TRY(check(&r, s, e));
    KVP_TRY(select_window_open(&w, p, s, e));
    if (!r.kvpress)
        KVP_TRY(select_window_cap(&w, r.cap, e));
    r.window = w.window;
    r.layers = select_layers(p);
    (r.kvpress ? kvpress : official)(&r);
    KVP_TRY(select_budgets(p, budget, &r, e));
    select_window_scratch(p);
    return KVP_OK;
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    if (phase == KVP_PREFILL)
        select_window_ops(o, p, cls, s);
}

const struct technique technique_pyramidkv = {
    .info = {.name = "pyramidkv", .axis = KVP_AXIS_SELECT, .summary = "prompt tokens chosen once per head, fewer in every higher layer",
             .source = "Cai et al. 2024, arXiv:2406.02069, section 4; Zefan-Cai/KVCache-Factory pyramidkv_utils.py",
             .params = "cap=2048,window=8,kernel=7,pooling=max,heads=kv,beta=20,rule=official,ratio"},
    .n_params = 4 + SELECT_WINDOW_PARAMS,
    .params = {{.key = "cap", .kind = KVP_PARAM_INT, .positional = true, .i = 2048, .min = 1, .max = INT64_MAX},
               SELECT_WINDOW_TABLE(8, 7, 1),
               {.key = "beta", .kind = KVP_PARAM_INT, .i = 20, .min = 1, .max = INT64_MAX},
               {.key = "rule", .kind = KVP_PARAM_WORD, .words = rules},
               {.key = "ratio", .kind = KVP_PARAM_RATIO, .no_default = true, .excludes = "cap", .r_min = 0, .r_max = 1}},
    .example = select_window_example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
