/* smoothquant.c - int8 weights and activations (W8A8); smoothing is folded into norms and weights and costs
 * nothing. kv=int8: the INT8 OPT code's cache, one static scale a tensor, held by the code, not the cache.
 * Xiao et al. 2023, arXiv:2211.10438; mit-han-lab/smoothquant smoothquant/opt.py, fake_quant.py. */
#include "calc/techniques/smoothquant.h"


static const char *const scales[] = {"channel", "tensor", NULL}, *const caches[] = {"none", "int8", NULL};

static kvp_err store_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct kvp_quant q = {.format = KVP_WF_W8A8, .bits = 8, .group = kvp_spec_param(s, "scale")->i ? 0 : UINT32_MAX};

    (void)e;
    p->weights = store_of_model(&(struct kvp_model){.quant = q}, p->weights.plain);
    return KVP_OK;
}

enum { FFN_ROWS = 1024 }; /* rows of the feed-forward that are alive at once */

/* The input of the linear at hand in int8, and a scale for each of its rows. */
void int8_inputs(struct plan *p)
{
    const uint64_t rows = num_max(num_mul(&p->over, plan_pass_width(p), p->chunk), p->w.batch);

    for (uint32_t i = 0; i < p->n_classes; i++) {
        const struct kvp_layer_class *c = p->cls[i].model;

        plan_add_scratch(p, "input_codes", KVP_INT8, rows, num_max(p->model->width, (uint64_t)c->heads * c->v_head_dim), 1);
        plan_add_scratch(p, "input_codes", KVP_INT8, num_min(rows, FFN_ROWS), c->ffn_width, 1);
    }
    plan_add_scratch(p, "input_scales", KVP_F32, rows, 1, 1);
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    int8_inputs(p);
    if (!kvp_spec_param(s, "kv")->i)
        return KVP_OK;
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++) {
            struct part *x = &p->cls[c].parts[i];

            if (!x->attended || !x->rows)
                continue;
            if (x->format != p->kv)
                return kvp_fail(e, KVP_EINPUT, "smoothquant: kv=int8, but %s is stored as %s already", x->name, kvp_format_name(x->format));
            x->format = KVP_INT8;
        }
    return KVP_OK;
}

/* An input of a linear: a maximum, a division, a rounding for each element; two passes over it. */
void int8_inputs_ops(struct ops *o, struct plan *p, uint32_t cls, enum kvp_phase phase)
{
    const struct kvp_layer_class *m = p->cls[cls].model;
    const uint64_t rows = num_mul(&o->over, p->w.batch, phase == KVP_PREFILL ? p->w.prompt : 1);
    const uint64_t heads = num_mul(&o->over, m->heads, m->v_head_dim ? m->v_head_dim : m->head_dim);
    const uint64_t n = num_mul(&o->over, rows, num_add(&o->over, 2ull * p->model->width + m->ffn_width, heads));
    const uint64_t flops = num_mul(&o->over, 3, n);

    ops_add(o, KVP_OP_QUANT_ACT, phase, cls, p->cls[cls].count,
            (struct cost){flops, flops, num_mul(&o->over, 8, n), num_add(&o->over, n, num_mul(&o->over, 16, rows))});
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    (void)s;
    int8_inputs_ops(o, p, cls, phase);
}

const struct technique technique_smoothquant = {
    .info = {.name = "smoothquant", .axis = KVP_AXIS_WEIGHTS, .summary = "int8 weights and activations, smoothing folded into the norms",
             .source = "Xiao et al. 2023, arXiv:2211.10438; mit-han-lab/smoothquant opt.py, fake_quant.py", .params = "scale=channel,kv=none"},
    .n_params = 2,
    .params = {{.key = "scale", .kind = KVP_PARAM_WORD, .words = scales}, {.key = "kv", .kind = KVP_PARAM_WORD, .words = caches}},
    .store_rewrite = store_rewrite,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
