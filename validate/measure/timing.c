#include "validate/measure/timing.h"

#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>
#include <inttypes.h>
#include <stdlib.h>

enum { WARM_UP_NS = 1000000000 };
enum { FORWARD = KVP_OPS, COLUMNS = KVP_OPS + 1 };

/* Seconds of one phase: a row per forward, a column per op and one for the whole; < 0: not timed. */
struct samples {
    uint64_t n, cap;
    double *v; /* [cap][COLUMNS] */
};

static kvp_err samples_open(struct samples *s, uint64_t cap, struct kvp_error *e)
{
    *s = (struct samples){.cap = cap, .v = calloc((size_t)cap + 1, COLUMNS * sizeof(double))};
    return s->v ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu64 " timing samples", cap);
}

/* Of `cap` forwards, does number `i` time its ops? */
static bool times_ops(uint64_t i, uint64_t cap)
{
    return cap == 1 || i % 2 == 0;
}

static void samples_add(struct samples *s, const struct eng *g, int phase)
{
    const struct eng_op_time *t = eng_op_times(g, phase);
    const bool ops = times_ops(s->n, s->cap), whole = !ops || s->cap == 1;
    double *row = s->v + s->n++ * COLUMNS;

    for (int i = 0; i < KVP_OPS; i++)
        row[i] = ops && t[i].calls ? 1e-9 * (double)t[i].ns : -1;
    row[FORWARD] = whole ? 1e-9 * (double)eng_forward_ns(g, phase) : -1;
}

static uint64_t median(const struct samples *s, int column, double *out, double *scratch)
{
    size_t n = 0;

    for (uint64_t k = 0; k < s->n; k++)
        if (s->v[k * COLUMNS + (uint64_t)column] >= 0)
            scratch[n++] = s->v[k * COLUMNS + (uint64_t)column];
    gsl_sort(scratch, 1, n);
    *out = n ? gsl_stats_median_from_sorted_data(scratch, 1, n) : -1;
    return n;
}

static kvp_err samples_close(struct samples *s, const struct eng *g, int phase, struct timing *t, struct kvp_error *e)
{
    double *scratch = malloc((size_t)(s->n + 1) * sizeof(*scratch));

    if (!scratch)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu64 " timing samples", s->n);
    for (int i = 0; i < KVP_OPS; i++)
        median(s, i, &t->op[phase][i], scratch);
    t->forwards[phase] = median(s, FORWARD, &t->forward[phase], scratch);
    t->clocked[phase] = s->cap == 1;
    t->gemm_flops[phase] = 0;
    for (int i = 0; s->n && i < KVP_OPS; i++) /* the encoder is one op, in which attention is counted too */
        t->gemm_flops[phase] += i == KVP_OP_ENCODE ? 0 : eng_op_times(g, phase)[i].gemm_flops;
    free(scratch);
    return KVP_OK;
}

struct run {
    struct eng *g;
    const struct timing_plan *p;
    struct samples of[ENG_PHASES];
    int32_t *step; /* [batch] */
    uint64_t number;
};

static void set_clock(const struct run *r, int phase)
{
    eng_time_ops(r->g, times_ops(r->of[phase].n, r->of[phase].cap));
}

static kvp_err keep(const struct run *r, int phase, struct kvp_error *e)
{
    return r->p->room && r->number == 0 ? r->p->logits(r->p->self, phase, e) : KVP_OK;
}

static kvp_err forward_prompt(const struct run *r, struct kvp_error *e)
{
    float *const all = r->p->every_row ? r->p->room : NULL;

    return eng_prefill(r->g, r->p->prompt, all, all ? NULL : r->p->room, e);
}

/* The first forward also starts threads and touches pages. Where it is quick it runs once more; where it
 * is long, that is too little of it to pay for a second. */
static kvp_err prefill(struct run *r, struct kvp_error *e)
{
    set_clock(r, ENG_PREFILL);
    KVP_TRY(forward_prompt(r, e));
    if (r->number || eng_forward_ns(r->g, ENG_PREFILL) >= WARM_UP_NS)
        return KVP_OK;
    return forward_prompt(r, e);
}

static kvp_err one_run(struct run *r, struct kvp_error *e)
{
    const struct timing_plan *p = r->p;

    KVP_TRY(prefill(r, e));
    samples_add(&r->of[ENG_PREFILL], r->g, ENG_PREFILL);
    KVP_TRY(keep(r, ENG_PREFILL, e));
    for (uint64_t i = 0; i < p->generate; i++) {
        for (uint64_t b = 0; b < p->batch; b++)
            r->step[b] = p->rest[b * p->generate + i];
        set_clock(r, ENG_DECODE);
        KVP_TRY(eng_decode(r->g, r->step, p->room, e));
        samples_add(&r->of[ENG_DECODE], r->g, ENG_DECODE);
        KVP_TRY(keep(r, ENG_DECODE, e));
    }
    return KVP_OK;
}

static kvp_err all_runs(struct run *r, struct timing *out, struct kvp_error *e)
{
    KVP_TRY(samples_open(&r->of[ENG_PREFILL], r->p->repeat, e));
    KVP_TRY(samples_open(&r->of[ENG_DECODE], r->p->repeat * r->p->generate, e));
    r->step = malloc((size_t)r->p->batch * sizeof(*r->step));
    if (!r->step)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for tokens");
    for (; r->number < r->p->repeat; r->number++)
        KVP_TRY(one_run(r, e));
    for (int phase = 0; phase < ENG_PHASES; phase++)
        KVP_TRY(samples_close(&r->of[phase], r->g, phase, out, e));
    return KVP_OK;
}

kvp_err timing_run(struct eng *g, const struct timing_plan *p, struct timing *out, struct kvp_error *e)
{
    struct run r = {.g = g, .p = p};
    const kvp_err rc = all_runs(&r, out, e);

    for (int phase = 0; phase < ENG_PHASES; phase++)
        free(r.of[phase].v);
    free(r.step);
    return rc;
}
