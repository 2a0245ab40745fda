#include "calc/fit.h"

#include "calc/num.h"
#include "calc/point.h"
#include "calc/print.h"
#include "calc/search.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A program, and what varies. */
struct asking {
    const struct fit *q;
    struct kvp_program *p;
    struct kvp_workload w;
    bool batch; /* the batch varies; else the context */
};

static struct kvp_workload at(const struct asking *a, uint64_t x)
{
    struct kvp_workload w = a->w;

    if (a->batch) {
        w.batch = x;
    } else {
        w.context = x;
        w.prompt = 0; /* the rest */
    }
    return w;
}

static bool fits(void *of, uint64_t x)
{
    const struct asking *a = of;
    const struct kvp_workload w = at(a, x);
    uint64_t peak;

    return program_peak(a->p, &w, &peak, NULL) == KVP_OK && print_peak_fits(peak, a->q->device);
}

static double too_many(void *of, uint64_t x)
{
    const struct asking *a = of;
    const struct kvp_workload w = at(a, x);
    uint64_t peak;

    return program_peak(a->p, &w, &peak, NULL) == KVP_OK ? print_excess(peak, a->q->device) : INFINITY;
}

/* Its work too is a number of 63 bits: what is not is no estimate. */
static bool counts(void *of, uint64_t x)
{
    const struct asking *a = of;
    const struct kvp_workload w = at(a, x);
    struct kvp_point point;

    return kvp_program_point(a->p, &w, &point, NULL) == KVP_OK;
}

/* Work only grows, so that memory is asked first, which takes no longer where a prompt is in many chunks. */
static uint64_t last_of(struct asking *a, uint64_t lo, uint64_t hi)
{
    struct search memory = {.holds = fits, .excess = too_many, .of = a, .lo = lo, .hi = hi, .wobble = a->batch ? 64 : search_wobble(a->q->stack)};
    const uint64_t last = search_last(&memory);

    if (last < lo || counts(a, last))
        return last;
    memory.hi = search_last(&(struct search){.holds = counts, .of = a, .lo = lo, .hi = last - 1});
    return search_last(&memory);
}

static kvp_err last_fitting(struct asking *a, uint64_t *out, struct kvp_error *refused, struct kvp_error *e)
{
    const struct fit *q = a->q;
    const uint64_t lo = a->batch ? 1 : q->workload.generate + 1, hi = num_max(lo, FIT_MOST);
    struct kvp_point point;
    struct kvp_workload beyond;

    a->p = kvp_program_new(q->model, q->stack, q->options, q->device, e);
    if (!a->p)
        return e->code;
    *out = last_of(a, lo, hi);
    *out = *out < lo ? 0 : *out;
    beyond = at(a, *out ? *out + 1 : lo);
    if (refused) {
        *refused = (struct kvp_error){0};
        kvp_program_point(a->p, &beyond, &point, refused);
    }
    kvp_program_free(a->p);
    return KVP_OK;
}

kvp_err fit_context(const struct fit *q, uint64_t batch, uint64_t *out, struct kvp_error *refused, struct kvp_error *e)
{
    struct asking a = {.q = q, .w = {.batch = batch, .generate = q->workload.generate}};

    return last_fitting(&a, out, refused, e);
}

kvp_err fit_batch(const struct fit *q, uint64_t context, uint64_t *out, struct kvp_error *refused, struct kvp_error *e)
{
    struct asking a = {.q = q, .batch = true,
                       .w = {.context = context, .generate = context > q->workload.generate ? q->workload.generate : 0}};

    return last_fitting(&a, out, refused, e);
}

/* ---- what binds ----------------------------------------------------------------------------------- */

static const char *largest_term(const struct kvp_memory *m)
{
    const struct {
        const char *name;
        uint64_t bytes;
    } terms[] = {{"weights", m->weights_bytes}, {"cache", m->cache_peak_bytes}, {"state", m->state_bytes},
                 {"activation", m->activation_bytes}, {"workspace", m->workspace_bytes}, {"device context", m->device_context_bytes}};
    size_t most = 0;

    for (size_t i = 1; i < sizeof(terms) / sizeof(terms[0]); i++)
        if (terms[i].bytes > terms[most].bytes)
            most = i;
    return terms[most].name;
}

/* Of the rank whose peak was the highest at the last point: what grew most since `w`. */
static const char *largest_growth(struct kvp_program *p, const struct kvp_workload *w, const struct kvp_memory *now)
{
    const uint32_t rank = p->worst;
    const struct kvp_memory *was = &p->shares[rank].point.memory;
    struct kvp_memory d = {0};
    struct kvp_point ignored;

    if (kvp_program_point(p, w, &ignored, NULL) != KVP_OK)
        return largest_term(now);
    d.cache_peak_bytes = num_less(now->cache_peak_bytes, was->cache_peak_bytes);
    d.state_bytes = num_less(now->state_bytes, was->state_bytes);
    d.activation_bytes = num_less(now->activation_bytes, was->activation_bytes);
    d.workspace_bytes = num_less(now->workspace_bytes, was->workspace_bytes);
    return largest_term(&d);
}

/* What one more makes too big: the term that grew most, or with nothing fitting the largest. */
static kvp_err bound(char *buf, size_t n, const struct fit *q, struct kvp_workload w, struct kvp_workload next, const struct kvp_error *refused,
                     struct kvp_error *e)
{
    struct kvp_program *p;
    struct kvp_point b;

    if (refused->code != KVP_OK) {
        snprintf(buf, n, "%.*s", (int)n - 1, refused->text);
        return KVP_OK;
    }
    if (next.context > FIT_MOST || next.batch > FIT_MOST) {
        snprintf(buf, n, "nothing: more was not tried");
        return KVP_OK;
    }
    p = kvp_program_new(q->model, q->stack, q->options, q->device, e);
    if (!p)
        return e->code;
    if (kvp_program_point(p, &next, &b, e) != KVP_OK) {
        kvp_program_free(p);
        return e->code;
    }
    snprintf(buf, n, "%s", w.batch && w.context ? largest_growth(p, &w, &b.memory) : largest_term(&b.memory));
    kvp_program_free(p);
    return KVP_OK;
}

static struct kvp_workload of_context(const struct fit *q, uint64_t context)
{
    return (struct kvp_workload){.batch = q->workload.batch, .generate = q->workload.generate, .context = context};
}

static struct kvp_workload of_batch(const struct fit *q, uint64_t batch)
{
    return (struct kvp_workload){.batch = batch, .generate = q->workload.generate, .context = q->workload.context};
}

static kvp_err largest(struct fit_answer *out, const struct fit *q, struct kvp_error *e)
{
    struct kvp_error refused;

    KVP_TRY(fit_context(q, q->workload.batch, &out->max_context, &refused, e));
    KVP_TRY(bound(out->context_bound, sizeof(out->context_bound), q, of_context(q, out->max_context),
                  of_context(q, out->max_context ? out->max_context + 1 : q->workload.generate + 1), &refused, e));
    KVP_TRY(fit_batch(q, q->workload.context, &out->max_batch, &refused, e));
    return bound(out->batch_bound, sizeof(out->batch_bound), q, of_batch(q, out->max_batch), of_batch(q, out->max_batch + 1), &refused, e);
}

/* ---- the pool -------------------------------------------------------------------------------------- */

/* Tokens of a page: the store's own, else 16. */
static uint64_t block_of(const struct kvp_stack *s)
{
    const struct kvp_spec *store = kvp_stack_on(s, KVP_AXIS_STORE);
    const struct kvp_param *block = store ? kvp_spec_param(store, "block") : NULL;

    return block && block->i > 0 ? (uint64_t)block->i : 16;
}

static bool is_paged(const struct kvp_stack *s)
{
    const struct kvp_spec *store = kvp_stack_on(s, KVP_AXIS_STORE);

    return store && kvp_spec_param(store, "block");
}

/* A rank's pool, and a sequence in it; kept when it holds fewer sequences than those before. */
static void rank_pool(struct fit_answer *out, const struct kvp_memory *given, const struct kvp_memory *one)
{
    const uint64_t rest = given->peak_bytes - given->cache_peak_bytes - given->state_bytes;
    const uint64_t pool = num_less(num_less(out->room_bytes, rest), one->shared_bytes);
    const uint64_t sequence = num_less(one->cache_bytes + one->state_bytes, one->shared_bytes);
    const bool first = !out->sequence_bytes, fewer = (__uint128_t)pool * out->sequence_bytes < (__uint128_t)out->kv_pool_bytes * sequence;

    if (sequence ? first || fewer : first && (!out->kv_pool_bytes || pool < out->kv_pool_bytes)) {
        out->kv_pool_bytes = pool;
        out->sequence_bytes = sequence;
    }
}

/* Sequences of the given context beside what serves any: vLLM's "maximum concurrency" and "KV cache size". */
static void pool(struct fit_answer *out, const struct fit *q, const struct kvp_program *given, const struct kvp_program *one)
{
    const uint64_t context = q->workload.context;

    out->block = block_of(q->stack);
    out->slots = is_paged(q->stack) ? num_cdiv(context, out->block) * out->block : context;
    for (uint32_t i = 0; i < given->n_shares; i++)
        rank_pool(out, &given->shares[i].point.memory, &one->shares[i].point.memory);
    if (!out->sequence_bytes)
        return;
    out->max_concurrency = (double)out->kv_pool_bytes / (double)out->sequence_bytes;
    out->kv_pool_tokens = (uint64_t)((__uint128_t)out->kv_pool_bytes * out->slots / out->sequence_bytes);
    out->kv_pool_blocks = out->kv_pool_tokens / out->block;
}

/* The workload as it is, and the pool that it leaves. */
static kvp_err as_given(struct fit_answer *out, const struct fit *q, struct kvp_error *e)
{
    struct kvp_program *given = kvp_program_new(q->model, q->stack, q->options, q->device, e);
    struct kvp_program *one = given ? kvp_program_new(q->model, q->stack, q->options, q->device, e) : NULL;
    struct kvp_workload w = q->workload;
    struct kvp_point x, y;
    kvp_err rc = one ? kvp_program_point(given, &w, &x, e) : e->code;

    w.batch = 1;
    if (rc == KVP_OK)
        rc = kvp_program_point(one, &w, &y, e);
    if (rc == KVP_OK) {
        out->peak_bytes = x.memory.peak_bytes;
        out->room_bytes = (uint64_t)(print_share(q->device) * (double)q->device->memory_bytes);
        out->fits = print_peak_fits(x.memory.peak_bytes, q->device);
        pool(out, q, given, one);
    }
    kvp_program_free(given);
    kvp_program_free(one);
    return rc;
}

static bool fits_with(const struct fit *q, struct kvp_error *e)
{
    struct kvp_program *p = kvp_program_new(q->model, q->stack, q->options, q->device, e);
    struct asking a = {.q = q, .p = p, .w = q->workload, .batch = true};
    const bool yes = p && fits(&a, q->workload.batch) && counts(&a, q->workload.batch);

    kvp_program_free(p);
    return yes;
}

/* ---- fewest devices --------------------------------------------------------------------------------- */

static bool fits_as(const struct fit *q, const struct kvp_options *o)
{
    struct fit as = *q;

    as.options = o;
    return fits_with(&as, NULL);
}

/* Tensor parallel first: of the ways to use n devices the one with most of it. */
static bool fits_on(const struct fit *q, uint32_t n, uint32_t *tp, uint32_t *pp)
{
    for (*tp = n; *tp > 0; --*tp) {
        struct kvp_options o = *q->options;

        if (n % *tp)
            continue;
        *pp = n / *tp;
        o.tp = *tp;
        o.pp = *pp;
        o.ep = q->options->ep > 1 ? *tp : 0; /* dealt out when they were asked to be */
        if (*pp <= q->model->layers && fits_as(q, &o))
            return true;
    }
    return false;
}

static void fewest_devices(struct fit_answer *out, const struct fit *q)
{
    for (uint32_t n = 1; n <= FIT_DEVICES && !out->min_devices; n++)
        if (fits_on(q, n, &out->tp, &out->pp))
            out->min_devices = n;
}

/* ---- which devices ---------------------------------------------------------------------------------- */

static int is_json(const struct dirent *d)
{
    const size_t n = strlen(d->d_name);

    return n > 5 && d->d_name[0] != '.' && strcmp(d->d_name + n - 5, ".json") == 0;
}

static kvp_err try_device(struct fit_device *out, const struct fit *q, const char *file, struct kvp_error *e)
{
    struct kvp_device d;
    struct fit on = *q;

    snprintf(out->name, sizeof(out->name), "%.*s", (int)strlen(file) - 5, file);
    KVP_TRY(kvp_device_load(&d, out->name, e));
    d.memory_share = q->device->memory_share;
    on.device = &d;
    KVP_TRY(fit_context(&on, q->workload.batch, &out->max_context, NULL, e));
    out->fits = fits_with(&on, e);
    return KVP_OK;
}

static kvp_err each_device(struct fit_answer *out, const struct fit *q, struct kvp_error *e)
{
    struct dirent **files = NULL;
    kvp_err rc = KVP_OK;
    char path[4096];
    int n;

    snprintf(path, sizeof(path), "%s/devices", kvp_data_dir());
    n = scandir(path, &files, is_json, alphasort);
    if (n < 0)
        return kvp_fail(e, KVP_EINPUT, "%s: %s", path, strerror(errno));
    out->devices = calloc((size_t)n + 1, sizeof(*out->devices));
    if (!out->devices)
        rc = kvp_fail(e, KVP_ENOMEM, "out of memory for %d devices", n);
    for (int i = 0; i < n; i++) {
        if (rc == KVP_OK)
            rc = try_device(&out->devices[out->n_devices++], q, files[i]->d_name, e);
        free(files[i]);
    }
    free(files);
    return rc;
}

/* ---- relief ----------------------------------------------------------------------------------------- */

const char *fit_cost_name(enum fit_cost c)
{
    static const char *const names[] = {"same results", "rounds", "drops", "more devices", "prompts that share", "another model"};

    return names[c];
}

static enum fit_cost cost_of(enum kvp_axis axis)
{
    switch (axis) {
    case KVP_AXIS_STORE:
    case KVP_AXIS_BATCHING:
    case KVP_AXIS_CHUNKING:
        return FIT_SAME_RESULTS;
    case KVP_AXIS_ENCODE:
    case KVP_AXIS_WEIGHTS:
        return FIT_ROUNDS;
    case KVP_AXIS_SELECT:
    case KVP_AXIS_MERGE:
    case KVP_AXIS_RANK:
        return FIT_DROPS;
    case KVP_AXIS_REUSE:
        return FIT_SHARED_PROMPTS;
    default:
        return FIT_ANOTHER_MODEL;
    }
}

static void solve_relief(struct fit_relief *r, const struct fit *q, const struct kvp_stack *s, const struct kvp_options *o)
{
    struct fit with = *q;
    struct kvp_error why = {0};

    with.stack = s;
    with.options = o;
    if (fit_context(&with, q->workload.batch, &r->max_context, NULL, &why) != KVP_OK ||
        fit_batch(&with, q->workload.context, &r->max_batch, NULL, &why) != KVP_OK)
        snprintf(r->reason, sizeof(r->reason), "%.150s", why.text);
    else
        r->fits = fits_with(&with, &why);
}

static void try_technique(struct fit_answer *out, const struct fit *q, uint32_t i)
{
    struct fit_relief *r = &out->relief[out->n_reliefs];
    struct kvp_stack s = *q->stack;
    struct kvp_error why = {0};
    char spec[128];

    if (out->n_reliefs == FIT_RELIEFS || kvp_technique_example(i, q->model, &q->workload, spec, sizeof(spec), &why) != KVP_OK)
        return;
    snprintf(r->what, sizeof(r->what), "%s", spec);
    r->cost = cost_of(kvp_technique_at(i)->axis);
    if (kvp_stack_add(&s, spec, &why) != KVP_OK) {
        snprintf(r->reason, sizeof(r->reason), "%.150s", why.text);
    } else if (s.n == q->stack->n) {
        return; /* the baseline */
    } else {
        kvp_spec_text(kvp_stack_on(&s, kvp_technique_at(i)->axis), r->what, sizeof(r->what));
        solve_relief(r, q, &s, q->options);
    }
    out->n_reliefs++;
}

static void try_options(struct fit_answer *out, const struct fit *q, struct kvp_options o, const char *what, enum fit_cost cost)
{
    struct fit_relief *r = &out->relief[out->n_reliefs];

    if (out->n_reliefs == FIT_RELIEFS)
        return;
    snprintf(r->what, sizeof(r->what), "%s", what);
    r->cost = cost;
    solve_relief(r, q, q->stack, &o);
    out->n_reliefs++;
}

static bool some_make_it_fit(const struct fit_answer *a)
{
    for (uint32_t i = 0; i < a->n_reliefs; i++)
        if (a->relief[i].fits)
            return true;
    return false;
}

static void choose(struct fit_answer *out)
{
    const bool to_fit = !out->fits && some_make_it_fit(out);

    out->cheapest = out->longest = UINT32_MAX;
    for (uint32_t i = 0; i < out->n_reliefs; i++) {
        const struct fit_relief *r = &out->relief[i], *c = &out->relief[out->cheapest % FIT_RELIEFS];

        if (r->reason[0])
            continue;
        if (r->max_context > (out->longest == UINT32_MAX ? out->max_context : out->relief[out->longest].max_context))
            out->longest = i;
        if (!(to_fit ? r->fits : r->max_context > out->max_context))
            continue;
        if (out->cheapest == UINT32_MAX || r->cost < c->cost || (r->cost == c->cost && r->max_context > c->max_context))
            out->cheapest = i;
    }
}

static void reliefs(struct fit_answer *out, const struct fit *q)
{
    struct kvp_options o = *q->options;
    char what[96];

    for (uint32_t i = 0; kvp_technique_at(i); i++)
        try_technique(out, q, i);
    o.tp = o.tp ? 2 * o.tp : 2;
    snprintf(what, sizeof(what), "--tensor-parallel-size %" PRIu32, o.tp);
    try_options(out, q, o, what, FIT_MORE_DEVICES);
    if (!out->fits && out->min_devices > 2) {
        o.tp = out->tp;
        o.pp = out->pp;
        o.ep = q->options->ep > 1 ? o.tp : 0;
        snprintf(what, sizeof(what), "--tensor-parallel-size %" PRIu32 " --pipeline-parallel-size %" PRIu32, o.tp, o.pp);
        try_options(out, q, o, what, FIT_MORE_DEVICES);
    }
    o = *q->options;
    if ((o.weights_given ? o.weights : q->model->dtype) == KVP_F32) {
        o.weights_given = true;
        o.weights = KVP_BF16;
        try_options(out, q, o, "--dtype bf16", FIT_ROUNDS);
    }
    choose(out);
}

kvp_err fit_solve(struct fit_answer *out, const struct fit *q, struct kvp_error *e)
{
    *out = (struct fit_answer){0};
    KVP_TRY(as_given(out, q, e));
    KVP_TRY(largest(out, q, e));
    fewest_devices(out, q);
    reliefs(out, q);
    return each_device(out, q, e);
}
