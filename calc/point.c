#include "calc/point.h"

#include <math.h>
#include <stdlib.h>

/* ---- opening -------------------------------------------------------------------------------------- */

static kvp_err check_formats(const struct kvp_program *p, struct kvp_error *e)
{
    const unsigned rows = 1u << KVP_F32 | 1u << KVP_F16 | 1u << KVP_BF16;

    if ((rows & 1u << p->weights) && (rows & 1u << p->kv))
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "weights in %s, cache in %s: expected f32, f16 or bf16", kvp_format_name(p->weights), kvp_format_name(p->kv));
}

/* As the checkpoint has them: nothing asks for other weights, or for a part of them. */
static uint64_t stored_bytes(const struct kvp_program *p, const struct kvp_model *given, const struct kvp_stack *s)
{
    const struct kvp_options *o = p->o;
    bool over = false;
    uint64_t n = given->file_bytes;

    if (!n || o->weights_given || p->rewritten.model != given || ranks_parallel(o) || kvp_stack_on(s, KVP_AXIS_WEIGHTS))
        return 0;
    n = num_add(&over, n, o->with_vision ? given->file_tower_bytes : 0);
    return num_add(&over, n, o->with_mtp ? given->file_mtp_bytes : 0);
}

static kvp_err open_share(struct share *x, const struct kvp_program *p, const struct kvp_stack *s, struct kvp_error *e)
{
    const struct kvp_model *m = p->rewritten.model;

    if (ranks_parallel(p->o))
        KVP_TRY(ranks_model(&x->model, m, p->o, &x->kind, true, e));
    KVP_TRY(plan_open(&x->plan, ranks_parallel(p->o) ? &x->model : m, s, p->o, p->kv, true, e));
    x->plan.opened.weights = p->rewritten.opened.weights;
    x->divided = p->o->tp > 1;
    if (!x->divided)
        return KVP_OK;
    KVP_TRY(ranks_model(&x->stage, m, p->o, &x->kind, false, e));
    return plan_open(&x->whole, &x->stage, s, p->o, p->kv, true, e);
}

static kvp_err open_shares(struct kvp_program *p, const struct kvp_model *given, const struct kvp_stack *s, struct kvp_error *e)
{
    struct rank_kind *kinds = NULL;
    kvp_err rc = ranks_kinds(p->rewritten.model, p->o, &kinds, &p->n_shares, e);

    p->shares = rc == KVP_OK ? calloc(p->n_shares, sizeof(*p->shares)) : NULL;
    if (rc == KVP_OK && !p->shares)
        rc = kvp_fail(e, KVP_ENOMEM, "out of memory for %u ranks", p->n_shares);
    for (uint32_t i = 0; rc == KVP_OK && i < p->n_shares; i++) {
        p->shares[i].kind = kinds[i];
        p->shares[i].file_bytes = stored_bytes(p, given, s);
        rc = open_share(&p->shares[i], p, s, e);
    }
    free(kinds);
    return rc;
}

static kvp_err count_parameters(struct kvp_program *p, struct kvp_error *e)
{
    bool over = false;

    p->parameters = weight_parameters(&over, p->rewritten.model, p->o->with_vision, p->o->with_mtp, &p->active_parameters);
    return over ? kvp_fail(e, KVP_ERANGE, "a size does not fit in 63 bits: the context, the batch or the model is too big") : KVP_OK;
}

kvp_err program_open(struct kvp_program *p, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_options *o,
                     const struct kvp_device *device, struct kvp_error *e)
{
    kvp_err rc;

    *p = (struct kvp_program){.o = o, .device = device};
    p->weights = o->weights_given ? o->weights : m->dtype;
    p->kv = o->kv_given ? o->kv : p->weights;
    KVP_TRY(check_formats(p, e));
    KVP_TRY(plan_open(&p->rewritten, m, s, o, p->kv, false, e));
    rc = count_parameters(p, e);
    if (rc == KVP_OK)
        rc = open_shares(p, m, s, e);
    if (rc != KVP_OK)
        program_close(p);
    return rc;
}

void program_close(struct kvp_program *p)
{
    for (uint32_t i = 0; p->shares && i < p->n_shares; i++) {
        struct share *x = &p->shares[i];

        plan_free(&x->plan);
        plan_free(&x->whole);
        kvp_model_free(&x->model);
        kvp_model_free(&x->stage);
        free(x->tensors.v);
        ops_free(&x->ops);
    }
    free(p->shares);
    plan_free(&p->rewritten);
    *p = (struct kvp_program){0};
}

/* ---- one rank ------------------------------------------------------------------------------------- */

static uint64_t weights_bytes(struct share *x, const struct kvp_options *o)
{
    struct tensors *t = &x->tensors;

    if (t->totals && x->weighed && memcmp(&x->stored, &x->plan.weights, sizeof(x->stored)) == 0)
        return x->weights_bytes;
    if (x->file_bytes)
        TENSOR(t, "checkpoint", KVP_TAG_WEIGHTS, WHOLE_MODEL, 1, KVP_U8, x->file_bytes);
    else
        weight_tensors(t, x->plan.model, &x->plan.weights, o->with_vision, o->with_mtp);
    memcpy(&x->stored, &x->plan.weights, sizeof(x->stored));
    ops_forget(&x->ops);
    x->weighed = t->totals;
    return x->weights_bytes = tensors_sum(t, KVP_TAG_WEIGHTS);
}

/* Rows that the widest pass has for each sequence: a chunk, or its part of a token budget. */
static uint64_t rows_of_one(struct plan *p)
{
    return num_max(1, num_cdiv(num_mul(&p->over, plan_pass_width(p), p->chunk), p->w.batch));
}

/* As what a matrix product finds weights: int8 by int8 needs no unpacking, other codes are unpacked like 16 bits. */
static enum kvp_format unpacked(const struct store_plan *s)
{
    return s->quant.format == KVP_WF_PLAIN || s->quant.format == KVP_WF_W8A8 ? s->plain : KVP_F16;
}

static kvp_err memory(struct share *x, const struct kvp_program *p, uint64_t logit_rows, struct kvp_error *e)
{
    struct kvp_memory *m = &x->point.memory;
    const struct kvp_workload *w = &x->plan.w;
    struct tensors *t = &x->tensors;
    uint64_t rest;

    m->weights_bytes = weights_bytes(x, p->o);
    plan_tensors(&x->plan, t);
    activation_tensors(t, x->plan.model, w->batch, rows_of_one(&x->plan), x->plan.encoder_tokens, logit_rows);
    workspace_tensors(t, x->plan.model, unpacked(&x->plan.weights));
    m->metadata_bytes = tensors_sum(t, KVP_TAG_METADATA);
    m->cache_bytes = num_add(&t->over, tensors_sum(t, KVP_TAG_CACHE), m->metadata_bytes);
    m->state_bytes = tensors_sum(t, KVP_TAG_STATE);
    m->activation_bytes = tensors_sum(t, KVP_TAG_ACTIVATION);
    m->workspace_bytes = tensors_sum(t, KVP_TAG_WORKSPACE);
    m->device_context_bytes = p->device ? p->device->context_bytes : 0;
    plan_totals(&x->plan, m);
    rest = num_add(&t->over, num_add(&t->over, m->weights_bytes, m->state_bytes),
                   num_add(&t->over, m->activation_bytes, num_add(&t->over, m->workspace_bytes, m->device_context_bytes)));
    m->total_bytes = num_add(&t->over, rest, m->cache_bytes);
    m->peak_bytes = num_add(&t->over, rest, m->cache_peak_bytes);
    t->over = t->over || x->plan.over;
    return tensors_err(t, e);
}

struct sums {
    uint64_t flops, full, traffic;
    double seconds;
};

/* The ops of one phase, from `*i` on. */
static struct sums sum_phase(const struct ops *o, uint32_t *i, enum kvp_phase phase, bool *over)
{
    struct sums s = {0};

    for (; *i < o->n && o->v[*i].phase == phase; ++*i) {
        const struct kvp_op_cost *c = &o->v[*i];

        s.flops = num_add(over, s.flops, c->flops);
        s.full = num_add(over, s.full, c->flops_full);
        s.traffic = num_add(over, s.traffic, num_add(over, c->read_bytes, c->written_bytes));
        s.seconds += c->seconds;
    }
    return s;
}

static kvp_err add_up(struct share *x, const struct kvp_program *p, struct kvp_error *e)
{
    struct sums prefill, decode;
    bool over = false;
    uint32_t i = 0;

    if (p->device)
        ops_time(&x->ops, p->device, p->weights, p->kv);
    prefill = sum_phase(&x->ops, &i, KVP_PREFILL, &over);
    decode = sum_phase(&x->ops, &i, KVP_DECODE, &over);
    x->point.flops_prefill = prefill.full;
    x->point.flops_prefill_causal = prefill.flops;
    x->point.flops_decode = decode.flops;
    x->point.traffic_prefill = prefill.traffic;
    x->point.traffic_decode = decode.traffic;
    x->point.ttft_s = prefill.seconds;
    x->point.tpot_s = decode.seconds;
    return over ? kvp_fail(e, KVP_ERANGE, "a sum of FLOPs or bytes does not fit in 63 bits: the context, the batch or the model is too big") : KVP_OK;
}

/* What is in memory, and in *logit_rows the rows that get logits at once. */
static kvp_err share_memory(struct share *x, const struct kvp_program *p, const struct kvp_workload *w, bool list, uint64_t *logit_rows, struct kvp_error *e)
{
    x->plan.opened.sums = x->whole.opened.sums = !list;
    KVP_TRY(plan_fill(&x->plan, w, e));
    if (x->divided) {
        KVP_TRY(plan_fill(&x->whole, w, e));
        ranks_replicate(&x->plan, &x->whole);
    }
    *logit_rows = p->o->all_logits ? num_mul(&x->plan.over, x->plan.w.batch, x->plan.w.prompt) : x->plan.w.batch;
    x->tensors.n = x->ops.n = 0;
    x->tensors.over = x->tensors.oom = x->ops.over = x->ops.oom = false;
    x->tensors.totals = !list;
    memset(x->tensors.sum, 0, sizeof(x->tensors.sum));
    return memory(x, p, *logit_rows, e);
}

static kvp_err share_point(struct share *x, const struct kvp_program *p, const struct kvp_workload *w, bool list, struct kvp_error *e)
{
    uint64_t logit_rows;

    KVP_TRY(share_memory(x, p, w, list, &logit_rows, e));
    KVP_TRY(ops_build(&x->ops, &x->plan, logit_rows, e));
    return add_up(x, p, e);
}

/* ---- all of them ---------------------------------------------------------------------------------- */

/* Stages work one after the other, the ranks of a stage at the same time. */
static void total_times(struct kvp_point *out, const struct kvp_program *p)
{
    const struct kvp_device *d = p->device;
    double ttft = 0, tpot = 0, stage_ttft = 0, stage_tpot = 0;

    out->ttft_s = out->tpot_s = out->tokens_per_s = out->ttft_lo = out->ttft_hi = out->tpot_lo = out->tpot_hi = NAN;
    if (!d)
        return;
    for (uint32_t i = 0; i < p->n_shares; i++) {
        const struct share *x = &p->shares[i];
        const bool new_stage = i == 0 || x->kind.stage != x[-1].kind.stage;

        ttft += new_stage ? stage_ttft : 0;
        tpot += new_stage ? stage_tpot : 0;
        stage_ttft = new_stage ? x->point.ttft_s : fmax(stage_ttft, x->point.ttft_s);
        stage_tpot = new_stage ? x->point.tpot_s : fmax(stage_tpot, x->point.tpot_s);
    }
    out->ttft_s = ttft + stage_ttft;
    out->tpot_s = tpot + stage_tpot;
    out->tokens_per_s = (double)out->workload.batch / out->tpot_s;
    out->ttft_lo = out->ttft_s * (1 - d->interval);
    out->ttft_hi = out->ttft_s * (1 + d->interval_high);
    out->tpot_lo = out->tpot_s * (1 - d->interval);
    out->tpot_hi = out->tpot_s * (1 + d->interval_high);
}

kvp_err kvp_program_point(struct kvp_program *p, const struct kvp_workload *w, struct kvp_point *out, struct kvp_error *e)
{
    p->worst = 0;
    for (uint32_t i = 0; i < p->n_shares; i++) {
        KVP_TRY(share_point(&p->shares[i], p, w, false, e));
        if (p->shares[i].point.memory.peak_bytes > p->shares[p->worst].point.memory.peak_bytes)
            p->worst = i;
    }
    *out = p->shares[p->worst].point;
    out->workload = *w; /* not the plan's: a technique may keep part of a prompt elsewhere */
    KVP_TRY(kvp_workload_resolve(&out->workload, e));
    out->parameters = p->parameters;
    out->active_parameters = p->active_parameters;
    total_times(out, p);
    return KVP_OK;
}

kvp_err program_peak(struct kvp_program *p, const struct kvp_workload *w, uint64_t *peak, struct kvp_error *e)
{
    *peak = 0;
    for (uint32_t i = 0; i < p->n_shares; i++) {
        uint64_t logit_rows;

        KVP_TRY(share_memory(&p->shares[i], p, w, false, &logit_rows, e));
        *peak = num_max(*peak, p->shares[i].point.memory.peak_bytes);
    }
    return KVP_OK;
}

kvp_err program_list(struct kvp_program *p, const struct kvp_workload *w, struct kvp_error *e)
{
    return share_point(&p->shares[p->worst], p, w, true, e);
}

/* ---- the library's --------------------------------------------------------------------------------- */

struct kvp_program *kvp_program_new(const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_options *o,
                                    const struct kvp_device *device, struct kvp_error *e)
{
    struct kvp_program *p = malloc(sizeof(*p));

    if (!p) {
        kvp_fail(e, KVP_ENOMEM, "out of memory for a program");
        return NULL;
    }
    if (program_open(p, m, s, o, device, e) == KVP_OK)
        return p;
    free(p);
    return NULL;
}

void kvp_program_free(struct kvp_program *p)
{
    if (!p)
        return;
    program_close(p);
    free(p);
}
