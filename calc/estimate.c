#include "calc/technique.h"

#include <math.h>
#include <stdlib.h>

/* Everything being worked out; its lists become the estimate's on success. */
struct work {
    const struct kvp_device *device;
    const struct kvp_options *o;
    struct plan plan;
    struct tensors tensors;
    struct ops ops;
    uint64_t logit_rows;
};

static void resolve_formats(struct kvp_estimate *out, const struct kvp_model *m, const struct kvp_options *o)
{
    out->weights = o->weights_given ? o->weights : m->dtype;
    out->kv = o->kv_given ? o->kv : out->weights;
}

static kvp_err check_formats(const struct kvp_estimate *out, struct kvp_error *e)
{
    const unsigned rows = 1u << KVP_F32 | 1u << KVP_F16 | 1u << KVP_BF16;

    if ((rows & 1u << out->weights) && (rows & 1u << out->kv))
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "weights in %s, cache in %s: expected f32, f16 or bf16", kvp_format_name(out->weights), kvp_format_name(out->kv));
}

static kvp_err memory(struct kvp_estimate *out, struct work *w, struct kvp_error *e)
{
    struct kvp_memory *m = &out->memory;
    struct tensors *t = &w->tensors;
    uint64_t rest;

    weight_tensors(t, w->plan.model, &w->plan.weights, w->o->with_vision, w->o->with_mtp);
    out->parameters = weight_parameters(&t->over, w->plan.model, w->o->with_vision, w->o->with_mtp, &out->active_parameters);
    plan_tensors(&w->plan, t);
    activation_tensors(t, w->plan.model, out->workload.batch, out->workload.prompt, w->logit_rows);
    workspace_tensors(t, w->plan.model, out->weights);
    m->weights_bytes = tensors_sum(t, KVP_TAG_WEIGHTS);
    m->metadata_bytes = tensors_sum(t, KVP_TAG_METADATA);
    m->cache_bytes = num_add(&t->over, tensors_sum(t, KVP_TAG_CACHE), m->metadata_bytes);
    m->state_bytes = tensors_sum(t, KVP_TAG_STATE);
    m->activation_bytes = tensors_sum(t, KVP_TAG_ACTIVATION);
    m->workspace_bytes = tensors_sum(t, KVP_TAG_WORKSPACE);
    m->device_context_bytes = w->device ? w->device->context_bytes : 0;
    plan_totals(&w->plan, m);
    rest = num_add(&t->over, num_add(&t->over, m->weights_bytes, m->state_bytes),
                   num_add(&t->over, m->activation_bytes, num_add(&t->over, m->workspace_bytes, m->device_context_bytes)));
    m->total_bytes = num_add(&t->over, rest, m->cache_bytes);
    m->peak_bytes = num_add(&t->over, rest, m->cache_peak_bytes);
    t->over = t->over || w->plan.over;
    return tensors_err(t, e);
}

/* The rows of total_bytes, and how each is known. */
static void parts(struct kvp_estimate *out, const struct kvp_device *d)
{
    const struct kvp_memory *m = &out->memory;
    const struct kvp_part rows[] = {
        {"weights", m->weights_bytes, "exact: tensor by tensor"},
        {"cache, keys and values", m->cache_bytes - m->metadata_bytes, "exact: as allocated at rest"},
        {"cache, metadata", m->metadata_bytes, "exact: scales, scores, tables"},
        {"state", m->state_bytes, m->state_bytes ? "exact: one a sequence" : "exact: no recurrent layers"},
        {"activation", m->activation_bytes, "upper bound: the prompt in one pass"},
        {"workspace", m->workspace_bytes, "upper bound: kernels' scratch"},
        {"device context", m->device_context_bytes,
         !d ? "unknown without a device" : d->context_bytes ? "assumed: from the device file" : "none on this device"},
    };

    out->n_parts = sizeof(rows) / sizeof(rows[0]);
    for (uint32_t i = 0; i < out->n_parts; i++)
        out->parts[i] = rows[i];
}

static kvp_err add_up(struct kvp_estimate *out, const struct ops *o, struct kvp_error *e)
{
    bool over = false;

    for (uint32_t i = 0; i < o->n; i++) {
        const struct kvp_op_cost *x = &o->v[i];
        const bool pre = x->phase == KVP_PREFILL;
        uint64_t *traffic = pre ? &out->traffic_prefill : &out->traffic_decode;
        uint64_t *flops = pre ? &out->flops_prefill_causal : &out->flops_decode;

        *flops = num_add(&over, *flops, x->flops);
        if (pre)
            out->flops_prefill = num_add(&over, out->flops_prefill, x->flops_full);
        *traffic = num_add(&over, *traffic, num_add(&over, x->read_bytes, x->written_bytes));
    }
    return over ? kvp_fail(e, KVP_ERANGE, "a sum of FLOPs or bytes does not fit in 63 bits: the context, the batch or the model is too big") : KVP_OK;
}

static void times(struct kvp_estimate *out, struct work *w)
{
    const struct kvp_device *d = w->device;
    double sum[KVP_PHASES] = {0};

    out->ttft_s = out->tpot_s = out->tokens_per_s = out->ttft_lo = out->ttft_hi = out->tpot_lo = out->tpot_hi = NAN;
    snprintf(out->basis, sizeof(out->basis), "%s", d ? d->basis : "none");
    if (!d)
        return;
    ops_time(&w->ops, d, out->weights, out->kv);
    for (uint32_t i = 0; i < w->ops.n; i++)
        sum[w->ops.v[i].phase] += w->ops.v[i].seconds;
    out->ttft_s = sum[KVP_PREFILL];
    out->tpot_s = sum[KVP_DECODE];
    out->tokens_per_s = (double)out->workload.batch / out->tpot_s;
    out->ttft_lo = out->ttft_s * (1 - d->interval);
    out->ttft_hi = out->ttft_s * (1 + d->interval_high);
    out->tpot_lo = out->tpot_s * (1 - d->interval);
    out->tpot_hi = out->tpot_s * (1 + d->interval_high);
}

static kvp_err estimate(struct kvp_estimate *out, struct work *w, struct kvp_error *e)
{
    KVP_TRY(memory(out, w, e));
    parts(out, w->device);
    KVP_TRY(ops_build(&w->ops, &w->plan, w->logit_rows, e));
    KVP_TRY(add_up(out, &w->ops, e));
    times(out, w);
    return KVP_OK;
}

kvp_err kvp_estimate(struct kvp_estimate *out, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_workload *wl,
                     const struct kvp_options *o, const struct kvp_device *device, struct kvp_error *e)
{
    struct work w = {.device = device, .o = o};
    kvp_err rc;

    *out = (struct kvp_estimate){.workload = *wl};
    resolve_formats(out, m, o);
    KVP_TRY(check_formats(out, e));
    KVP_TRY(kvp_workload_resolve(&out->workload, e));
    KVP_TRY(plan_build(&w.plan, m, s, &out->workload, o, out->kv, e));
    w.logit_rows = o->all_logits ? num_mul(&w.plan.over, out->workload.batch, out->workload.prompt) : out->workload.batch;
    rc = estimate(out, &w, e);
    plan_free(&w.plan);
    out->tensors = w.tensors.v;
    out->n_tensors = w.tensors.n;
    out->ops = w.ops.v;
    out->n_ops = w.ops.n;
    if (rc != KVP_OK)
        kvp_estimate_free(out);
    return rc;
}

void kvp_estimate_free(struct kvp_estimate *est)
{
    if (!est)
        return;
    free(est->tensors);
    free(est->ops);
    est->tensors = NULL;
    est->ops = NULL;
    est->n_tensors = est->n_ops = 0;
}
