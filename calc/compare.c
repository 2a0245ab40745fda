#include "calc/compare.h"

#include "calc/fit.h"
#include "calc/num.h"
#include "calc/search.h"

#include <stdlib.h>
#include <string.h>

enum { HORIZON_CONTEXT = 1 << 20, HORIZON_BATCH = 4096 };

/* A technique beside the baseline, at one point after the other. */
struct pair {
    const struct compare *q;
    struct kvp_program *with, *without;
    bool batch, time; /* what varies; what is compared */
};

static bool pays_at(const struct pair *p, uint64_t x)
{
    const struct kvp_workload *w = &p->q->workload;
    const struct kvp_workload by_batch = {.batch = x, .context = w->context, .generate = w->generate};
    const struct kvp_workload by_context = {.batch = w->batch, .context = x, .generate = w->generate};
    const struct kvp_workload *at = p->batch ? &by_batch : &by_context;
    struct kvp_point a, b;

    if (kvp_program_point(p->with, at, &a, NULL) != KVP_OK || kvp_program_point(p->without, at, &b, NULL) != KVP_OK)
        return false;
    if (p->time)
        return a.tpot_s < b.tpot_s;
    return a.memory.cache_bytes + a.memory.state_bytes < b.memory.cache_bytes + b.memory.state_bytes;
}

static bool does_not_pay(void *of, uint64_t x)
{
    return !pays_at(of, x);
}

static struct compare_from pays_from(struct pair p, bool batch, bool time, const struct kvp_stack *s, const struct comparison *c)
{
    const uint64_t lo = batch ? 1 : p.q->workload.generate + 1, hi = num_max(lo, batch ? c->horizon_batch : c->horizon_context);
    struct compare_from f = {.asked = !time || p.q->device};
    uint64_t last;

    if (!f.asked)
        return f;
    p.batch = batch;
    p.time = time;
    last = search_last(&(struct search){.holds = does_not_pay, .of = &p, .lo = lo, .hi = hi, .wobble = search_wobble(s)});
    f.never = last >= hi;
    f.always = last < lo;
    f.from = last + 1;
    return f;
}

static void refuse(struct compare_row *r, const struct kvp_error *why)
{
    snprintf(r->reason, sizeof(r->reason), "%.250s", why->text);
}

static kvp_err on_device(struct compare_row *r, const struct compare *q, const struct kvp_stack *s, struct kvp_error *e)
{
    const struct fit f = {q->model, s, q->options, q->device, q->workload};

    if (!q->device)
        return KVP_OK;
    KVP_TRY(fit_context(&f, q->workload.batch, &r->max_context, NULL, e));
    return fit_batch(&f, q->workload.context, &r->max_batch, NULL, e);
}

static kvp_err fill(struct compare_row *r, const struct compare *q, const struct kvp_stack *s, struct kvp_program *with,
                    struct kvp_program *without, const struct comparison *c, struct kvp_error *e)
{
    const struct pair p = {.q = q, .with = with, .without = without};

    KVP_TRY(kvp_program_point(with, &q->workload, &r->point, e));
    KVP_TRY(on_device(r, q, s, e));
    r->bytes_context = pays_from(p, false, false, s, c);
    r->bytes_batch = pays_from(p, true, false, s, c);
    r->time_context = pays_from(p, false, true, s, c);
    r->time_batch = pays_from(p, true, true, s, c);
    return KVP_OK;
}

/* A model that keeps no cache, and nothing that this changed. */
static bool nothing_to_act_on(const struct kvp_point *with, const struct kvp_point *without)
{
    return !with->memory.cache_bytes && memcmp(&with->memory, &without->memory, sizeof(with->memory)) == 0 &&
           with->flops_prefill == without->flops_prefill && with->flops_decode == without->flops_decode &&
           with->traffic_prefill == without->traffic_prefill && with->traffic_decode == without->traffic_decode;
}

static void technique_row(struct comparison *c, const struct compare *q, uint32_t i, struct kvp_program *without)
{
    struct compare_row *r = &c->row[c->n++];
    struct kvp_stack s = *q->base;
    struct kvp_error why = {0};
    struct kvp_program *with;

    if (kvp_technique_example(i, q->model, &q->workload, r->technique, sizeof(r->technique), &why) != KVP_OK ||
        kvp_stack_add(&s, r->technique, &why) != KVP_OK) {
        refuse(r, &why);
        return;
    }
    if (s.n > q->base->n)
        kvp_spec_text(kvp_stack_on(&s, kvp_technique_at(i)->axis), r->technique, sizeof(r->technique));
    with = kvp_program_new(q->model, &s, q->options, q->device, &why);
    if (!with || fill(r, q, &s, with, without, c, &why) != KVP_OK)
        refuse(r, &why);
    else if (s.n > q->base->n && nothing_to_act_on(&r->point, &c->base))
        snprintf(r->reason, sizeof(r->reason), "not applicable: no KV cache");
    kvp_program_free(with);
}

static uint64_t horizon(const struct kvp_model *m, uint64_t given)
{
    const uint64_t most = num_max(m->max_positions, given);

    return m->position == KVP_POS_LEARNED && m->max_positions ? num_max(given, m->max_positions) : num_max(most, HORIZON_CONTEXT);
}

kvp_err compare_all(struct comparison *out, const struct compare *q, struct kvp_error *e)
{
    struct kvp_program *without = kvp_program_new(q->model, q->base, q->options, q->device, e);
    uint32_t n = 0;
    kvp_err rc;

    *out = (struct comparison){.horizon_context = horizon(q->model, q->workload.context), .horizon_batch = num_max(HORIZON_BATCH, q->workload.batch)};
    if (!without)
        return e->code;
    rc = kvp_program_point(without, &q->workload, &out->base, e);
    while (kvp_technique_at(n))
        n++;
    out->row = rc == KVP_OK ? calloc(n, sizeof(*out->row)) : NULL;
    if (rc == KVP_OK && !out->row)
        rc = kvp_fail(e, KVP_ENOMEM, "out of memory for %u rows", n);
    for (uint32_t i = 0; rc == KVP_OK && i < n; i++)
        technique_row(out, q, i, without);
    kvp_program_free(without);
    return rc;
}

void compare_free(struct comparison *c)
{
    free(c->row);
    *c = (struct comparison){0};
}
