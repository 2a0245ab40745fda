/* estimate.c - one point with everything there is to say about it: the lists of tensors and ops too. */
#include "calc/point.h"

#include <stdlib.h>

static bool from_file(const struct kvp_estimate *out)
{
    for (uint32_t i = 0; i < out->n_tensors; i++)
        if (out->tensors[i].tag == KVP_TAG_WEIGHTS)
            return strcmp(out->tensors[i].name, "checkpoint") == 0;
    return false;
}

void estimate_parts(struct kvp_estimate *out, const struct kvp_device *d)
{
    const struct kvp_memory *m = &out->memory;
    const struct kvp_part rows[] = {
        {"weights", m->weights_bytes, from_file(out) ? "exact: from the file" : "exact: tensor by tensor"},
        {"cache, keys and values", m->cache_bytes - m->metadata_bytes, "exact: as allocated at rest"},
        {"cache, metadata", m->metadata_bytes, "exact: scales, scores, tables"},
        {"state", m->state_bytes, m->state_bytes ? "exact: one a sequence" : "exact: no recurrent layers"},
        {"activation", m->activation_bytes, out->pass_rows < out->workload.batch * out->workload.prompt ? "upper bound: one pass of several" : "upper bound: the prompt in one pass"},
        {"workspace", m->workspace_bytes, "upper bound: kernels' scratch"},
        {"device context", m->device_context_bytes,
         !d ? "unknown without a device" : d->context_bytes ? "assumed: from the device file" : "none on this device"},
    };

    out->n_parts = sizeof(rows) / sizeof(rows[0]);
    for (uint32_t i = 0; i < out->n_parts; i++)
        out->parts[i] = rows[i];
}

static void numbers(struct kvp_estimate *out, const struct kvp_point *p)
{
    out->parameters = p->parameters;
    out->active_parameters = p->active_parameters;
    out->workload = p->workload;
    out->memory = p->memory;
    out->token_steps = out->static_token_steps = p->workload.batch * p->workload.context;
    out->flops_prefill = p->flops_prefill;
    out->flops_prefill_causal = p->flops_prefill_causal;
    out->flops_decode = p->flops_decode;
    out->traffic_prefill = p->traffic_prefill;
    out->traffic_decode = p->traffic_decode;
    out->ttft_s = p->ttft_s;
    out->tpot_s = p->tpot_s;
    out->tokens_per_s = p->tokens_per_s;
    out->ttft_lo = p->ttft_lo;
    out->ttft_hi = p->ttft_hi;
    out->tpot_lo = p->tpot_lo;
    out->tpot_hi = p->tpot_hi;
}

/* Every rank, stage by stage. */
static kvp_err ranks(struct kvp_estimate *out, const struct kvp_program *p, struct kvp_error *e)
{
    uint32_t n = 0;

    if (!ranks_parallel(p->o))
        return KVP_OK;
    for (uint32_t i = 0; i < p->n_shares; i++)
        out->n_ranks += p->shares[i].kind.alike;
    out->ranks = calloc(out->n_ranks, sizeof(*out->ranks));
    if (!out->ranks)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %u ranks", out->n_ranks);
    for (uint32_t i = 0; i < p->n_shares; i++)
        for (uint32_t k = 0; k < p->shares[i].kind.alike; k++)
            out->ranks[n++] = (struct kvp_rank){.stage = p->shares[i].kind.stage, .layers = p->shares[i].plan.model->layers,
                                                .worst = i == p->worst && k == 0, .memory = p->shares[i].point.memory};
    return KVP_OK;
}

static void take_lists(struct kvp_estimate *out, struct share *x)
{
    out->tensors = x->tensors.v;
    out->n_tensors = x->tensors.n;
    out->ops = x->ops.v;
    out->n_ops = x->ops.n;
    x->tensors.v = NULL;
    x->ops.v = NULL;
}

static kvp_err fill(struct kvp_estimate *out, struct kvp_program *p, const struct kvp_workload *w, struct kvp_error *e)
{
    struct kvp_point point;

    KVP_TRY(kvp_program_point(p, w, &point, e));
    numbers(out, &point);
    KVP_TRY(program_list(p, w, e));
    KVP_TRY(ranks(out, p, e));
    out->pass_rows = num_mul(&(bool){false}, plan_pass_width(&p->shares[p->worst].plan), p->shares[p->worst].plan.chunk);
    take_lists(out, &p->shares[p->worst]);
    out->weights = p->weights;
    out->kv = p->kv;
    estimate_parts(out, p->device);
    snprintf(out->basis, sizeof(out->basis), "%s%s", p->device ? p->device->basis : "none",
             p->device && out->n_ranks ? ", no communication" : "");
    return KVP_OK;
}

kvp_err kvp_estimate(struct kvp_estimate *out, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_workload *w,
                     const struct kvp_options *o, const struct kvp_device *device, struct kvp_error *e)
{
    struct kvp_workload resolved = *w;
    struct kvp_program p;
    kvp_err rc;

    *out = (struct kvp_estimate){0};
    KVP_TRY(kvp_workload_resolve(&resolved, e));
    KVP_TRY(program_open(&p, m, s, o, device, e));
    rc = fill(out, &p, &resolved, e);
    program_close(&p);
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
    free(est->ranks);
    free(est->lengths);
    est->tensors = NULL;
    est->ops = NULL;
    est->ranks = NULL;
    est->lengths = NULL;
    est->n_tensors = est->n_ops = est->n_ranks = 0;
    est->n_lengths = 0;
}
