/* streaming-llm.c - attention sinks: the first `sink` tokens and the newest `recent`.
 *
 *   official  slots C = min(T, sink + recent). Keys are stored before their rotation and rotated with their
 *             slot's number at every step: 3 * Hkv * d * S FLOPs a layer (two products, one sum an element)
 *   kvpress   once, at the end of the prompt: int(P * (1 - ratio)) tokens stay, then the cache grows
 *   factory   once, at the end of the prompt: sink + recent tokens stay, then the cache grows
 *
 * Xiao et al. 2023, arXiv:2309.17453; mit-han-lab/streaming-llm kv_cache.py, pos_shift/modify_llama.py;
 * NVIDIA/kvpress presses/streaming_llm_press.py; Zefan-Cai/KVCache-Factory pyramidkv_utils.py. */
#include "calc/select.h"

#include <inttypes.h>

enum { OFFICIAL, KVPRESS, FACTORY };
static const char *const variants[] = {"official", "kvpress", "factory", NULL};

static int variant_of(const struct kvp_spec *s)
{
    return (int)kvp_spec_param(s, "variant")->i;
}

/* What stays of the prompt in the variants that choose once. */
static uint64_t kept(const struct plan *p, const struct kvp_spec *s)
{
    if (variant_of(s) == FACTORY)
        return num_add(&(bool){false}, spec_int(s, "sink"), spec_int(s, "recent"));
    return (uint64_t)((double)p->w.prompt * (1 - kvp_spec_param(s, "ratio")->r));
}

static kvp_err check(const struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const uint64_t sink = spec_int(s, "sink");
    const int v = variant_of(s);

    if (v != KVPRESS && kvp_spec_param(s, "ratio")->given)
        return kvp_fail(e, KVP_EINPUT, "streaming-llm: ratio belongs to variant=kvpress, and the variant is %s", variants[v]);
    if (v == KVPRESS && !kvp_spec_param(s, "ratio")->given)
        return kvp_fail(e, KVP_EINPUT, "streaming-llm: variant=kvpress drops a ratio of the prompt, expected ratio");
    if (v == KVPRESS && p->w.prompt <= sink)
        return kvp_fail(e, KVP_EINPUT, "streaming-llm: a prompt of %" PRIu64 " tokens is not longer than sink=%" PRIu64, p->w.prompt, sink);
    if (v == KVPRESS && !kept(p, s))
        return kvp_fail(e, KVP_EINPUT, "streaming-llm: ratio=%g leaves 0 tokens of a prompt of %" PRIu64, kvp_spec_param(s, "ratio")->r, p->w.prompt);
    if (v == OFFICIAL && p->model->position == KVP_POS_LEARNED)
        return kvp_fail(e, KVP_ENOTSUP,
                        "streaming-llm: positions become slot numbers, and %s has added learned ones to the keys already", p->model->name);
    return select_check(p, "streaming-llm", e);
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const uint64_t slots = num_add(&p->over, spec_int(s, "sink"), spec_int(s, "recent"));

    KVP_TRY(check(p, s, e));
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];

        if (!select_sees_all(p, c))
            continue;
        if (variant_of(s) != OFFICIAL) {
            select_keep(p, c, kept(p, s));
            continue;
        }
        c->span = num_min(c->span, slots);
        select_ring(c, slots, false);
    }
    return KVP_OK;
}

/* Channels of a token's keys that carry a rotation. */
static uint64_t rotated(const struct plan *p, const struct kvp_layer_class *m)
{
    if (p->model->position != KVP_POS_ROPE || m->no_rope)
        return 0;
    return m->mixer == KVP_MIX_MLA ? m->rope_dim : (uint64_t)m->kv_heads * m->head_dim;
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    const struct plan_class *c = &p->cls[cls];
    uint64_t flops;

    if (phase == KVP_PREFILL || variant_of(s) != OFFICIAL || !select_acts(p, c))
        return;
    flops = NUM_PROD(&o->over, 3, p->w.batch, rotated(p, c->model), num_min(p->w.context, c->span));
    ops_more(o, KVP_OP_ATTN, phase, cls, (struct cost){.flops = flops, .flops_full = flops});
}

static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    const uint64_t quarter = w->context / 4;

    if (m->position == KVP_POS_LEARNED)
        snprintf(buf, n, "sink=%d,recent=%" PRIu64 ",variant=factory", quarter > 4 ? 4 : 0, num_max(num_less(quarter, 4), 1));
    else
        snprintf(buf, n, "sink=%d,recent=%" PRIu64, quarter > 4 ? 4 : 0, num_max(num_less(quarter, 4), 1));
}

const struct technique technique_streaming_llm = {
    .info = {.name = "streaming-llm", .axis = KVP_AXIS_SELECT, .summary = "the first tokens (attention sinks) and the newest",
             .source = "Xiao et al. 2023, arXiv:2309.17453, section 3; mit-han-lab/streaming-llm kv_cache.py",
             .params = "sink=4,recent=508,variant=official,ratio"},
    .n_params = 4,
    .params = {{.key = "sink", .kind = KVP_PARAM_INT, .i = 4, .min = 0, .max = INT64_MAX},
               {.key = "recent", .kind = KVP_PARAM_INT, .i = 508, .min = 1, .max = INT64_MAX},
               {.key = "variant", .kind = KVP_PARAM_WORD, .words = variants},
               {.key = "ratio", .kind = KVP_PARAM_RATIO, .no_default = true, .excludes = "recent", .r_min = 0, .r_max = 1}},
    .example = example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
