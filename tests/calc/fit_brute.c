/* fit_brute.c - the largest context and batch, the fewest devices, the pool and from where a technique pays, each
 * against asking every number one after the other: models with windows, chunks, states, experts and latents, on one
 * device and on several, with prompts whole and cut. */
#include "calc/compare.h"
#include "calc/fit.h"
#include "calc/print.h"
#include "tests/calc/calc_test.h"

static struct kvp_device device_of(uint64_t bytes)
{
    return (struct kvp_device){.name = "test", .memory_bytes = bytes, .bandwidth = 1e12, .flops_f32 = 1e12, .flops_f16 = 1e13, .memory_share = 1};
}

static const struct {
    const char *model, *specs;
    uint64_t batch, generate;
    struct kvp_options o;
} cases[] = {
    {"gpt2", "", 1, 0, {.tp = 0}},
    {"gemma-3-27b", "", 2, 0, {.tp = 2}},
    {"gemma-3-27b", "paged:16", 3, 20, {.pp = 3}},
    {"gemma-3-27b", "chunked-prefill:100", 3, 0, {.tp = 0}},
    {"gpt-oss-20b", "paged:16,layout=vllm", 1, 1, {.tp = 2}},
    {"gpt-oss-20b", "chunked-prefill:64 paged:16", 4, 7, {.tp = 0}},
    {"llama-4-scout", "", 1, 0, {.tp = 4}},
    {"mimo-v2-flash", "", 2, 3, {.tp = 2, .ep = 2}},
    {"mixtral-8x7b", "kivi", 2, 0, {.tp = 2, .ep = 2}},
    {"mixtral-8x7b", "continuous-batching:500", 3, 5, {.tp = 0}},
    {"deepseek-v2-lite", "", 4, 0, {.tp = 4, .pp = 2}},
    {"deepseek-v3.2", "chunked-prefill:128", 2, 0, {.tp = 8}},
    {"qwen3.5-35b-a3b", "", 2, 1, {.tp = 2}},
    {"nemotron-3-nano-30b-a3b", "chunked-prefill:256", 5, 0, {.tp = 0}},
    {"jamba-1.5-mini", "kivi:residual=256", 1, 0, {.tp = 2}},
    {"zamba2-7b", "", 3, 0, {.tp = 0}},
    {"llama-3.1-8b", "h2o", 2, 10, {.tp = 16}},
    {"llama-3.1-8b", "h2o:variant=flexgen,heavy_ratio=0.2,recent_ratio=0.2", 1, 4, {.tp = 0}},
    {"llama-3.1-8b", "pyramidkv:cap=300,window=8", 1, 0, {.tp = 2}},
    {"llama-3.1-8b", "pyramidkv:rule=kvpress,ratio=0.5", 2, 0, {.tp = 0}},
    {"llama-3.1-8b", "minicache", 2, 0, {.tp = 0}},
    {"llama-3.1-8b", "duo:0.5,sink=64,recent=256", 2, 0, {.tp = 0}},
    {"llama-3.1-8b", "quest", 1, 0, {.tp = 2}},
    {"llama-3.1-8b", "xc-cache:question=200", 2, 0, {.tp = 0}},
    {"llama-3.1-8b", "prefix:500", 4, 0, {.tp = 0}},
    {"llama-3.1-8b", "prefix:500 chunked-prefill:64", 4, 0, {.tp = 0}},
    {"llama-3.1-8b", "contiguous:2000", 2, 0, {.tp = 0}},
    {"llama-3.1-8b", "growing", 1, 9, {.tp = 0}},
    {"llama-3.1-8b", "yoco:window,window=256", 1, 0, {.tp = 0}},
    {"llama-3.1-8b", "kv:nvfp4 paged:64", 2, 0, {.tp = 4}},
};

static bool asked(struct kvp_program *p, struct kvp_workload w, const struct kvp_device *d, uint64_t *peak)
{
    struct kvp_point x;

    if (kvp_program_point(p, &w, &x, NULL) != KVP_OK)
        return false;
    *peak = x.memory.peak_bytes;
    return print_peak_fits(x.memory.peak_bytes, d);
}

/* Room for exactly what a context (or a batch) needs at its peak. */
static void one_edge(const struct fit *q, struct kvp_program *p, bool batch, uint64_t at, uint64_t until)
{
    const uint64_t lo = batch ? 1 : q->workload.generate + 1;
    struct kvp_workload w = {.batch = batch ? at : q->workload.batch, .context = batch ? q->workload.context : at, .generate = q->workload.generate};
    struct kvp_device d = device_of(UINT64_MAX);
    struct kvp_error e = {0};
    struct fit as = *q;
    uint64_t got, ignored, peak, expected = 0;

    if (!asked(p, w, &d, &peak)) /* not defined there */
        return;
    d.memory_bytes = peak;
    as.device = &d;
    for (uint64_t x = lo; x <= until; x++) {
        *(batch ? &w.batch : &w.context) = x;
        expected = asked(p, w, &d, &ignored) ? x : expected;
    }
    ck_assert_int_eq((batch ? fit_batch : fit_context)(&as, batch ? w.context : w.batch, &got, NULL, &e), KVP_OK);
    if (expected == until) /* it goes on beyond */
        ck_assert_uint_ge(got, expected);
    else
        ck_assert_msg(got == expected, "%s at %" PRIu64 ": %" PRIu64 ", one by one %" PRIu64, batch ? "batch" : "context", at, got, expected);
}

START_TEST(one_by_one)
{
    static const uint64_t contexts[] = {11, 300, 777, 1024, 1025, 1900}, batches[] = {1, 2, 7, 20};
    struct kvp_model m = load(cases[_i].model);
    struct kvp_workload w = {.batch = cases[_i].batch, .context = 1000, .generate = cases[_i].generate};
    struct kvp_device d = device_of(1);
    struct kvp_error e = {0};
    struct kvp_stack s = {0};
    struct kvp_program *p;
    struct fit q = {&m, &s, &cases[_i].o, &d, w};

    ck_assert_int_eq(add_specs(&s, cases[_i].specs), KVP_OK);
    p = kvp_program_new(&m, &s, &cases[_i].o, &d, &e);
    ck_assert_msg(p != NULL, "%s", e.text);
    for (size_t i = 0; i < COUNT(contexts); i++)
        one_edge(&q, p, false, contexts[i], 4000);
    for (size_t i = 0; i < COUNT(batches); i++)
        one_edge(&q, p, true, batches[i], 120);
    kvp_program_free(p);
    kvp_model_free(&m);
}
END_TEST

/* ---- fewest devices ------------------------------------------------------------------------------------------ */

static const struct {
    const char *model, *specs;
    double share; /* of its weights that a device holds */
    bool experts;
} fleets[] = {
    {"llama-3.1-8b", "", 0.3, false},     {"mixtral-8x7b", "kivi", 0.27, true},  {"gemma-3-27b", "paged:16", 0.4, false}, {"qwen3.5-35b-a3b", "", 0.6, true},
    {"deepseek-v2-lite", "", 0.22, true}, {"jamba-1.5-mini", "", 0.35, false},   {"gpt2", "", 0.5, false},                {"gpt-oss-20b", "", 1.2, false},
};

START_TEST(fewest)
{
    struct kvp_model m = load(fleets[_i].model);
    struct kvp_workload w = {.batch = 2, .context = 1000};
    struct kvp_estimate est = estimate_of(&m, fleets[_i].specs, w, (struct kvp_options){0});
    struct kvp_device d = device_of((uint64_t)(fleets[_i].share * (double)est.memory.weights_bytes));
    const struct kvp_options o = {.tp = 1, .ep = fleets[_i].experts ? 2 : 0};
    struct kvp_error e = {0};
    struct kvp_stack s = {0};
    struct fit_answer a;
    uint32_t expected = 0;

    kvp_estimate_free(&est);
    ck_assert_int_eq(add_specs(&s, fleets[_i].specs), KVP_OK);
    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    for (uint32_t n = 1; n <= 64 && !expected; n++)
        for (uint32_t tp = 1; tp <= n && !expected; tp++) {
            const struct kvp_options as = {.tp = tp, .pp = n / tp, .ep = o.ep ? tp : 0};

            if (n % tp || n / tp > m.layers || try_estimate(&est, &m, fleets[_i].specs, w, as, &d) != KVP_OK)
                continue;
            expected = print_fits(&est, &d) ? n : 0;
            kvp_estimate_free(&est);
        }
    ck_assert_msg(fit_solve(&a, &(struct fit){&m, &s, &o, &d, w}, &e) == KVP_OK, "%s", e.text);
    ck_assert_msg(a.min_devices == expected, "%u devices, one by one %u", a.min_devices, expected);
    for (uint32_t i = 0; i < a.n_devices; i++) { /* which devices: each as if it alone were asked */
        struct kvp_device other;

        ck_assert_int_eq(kvp_device_load(&other, a.devices[i].name, &e), KVP_OK);
        other.memory_share = d.memory_share;
        ck_assert_int_eq(try_estimate(&est, &m, fleets[_i].specs, w, o, &other), KVP_OK);
        ck_assert_msg(print_fits(&est, &other) == a.devices[i].fits, "%s", a.devices[i].name);
        kvp_estimate_free(&est);
    }
    ck_assert_uint_ge(a.n_devices, 25);
    free(a.devices);
    kvp_model_free(&m);
}
END_TEST

/* ---- from where it pays --------------------------------------------------------------------------------------- */

static const struct {
    const char *model, *specs;
    struct kvp_options o;
} pays[] = {
    {"gemma-3-27b", "", {.tp = 0}},        {"mixtral-8x7b", "", {.tp = 2}},        {"qwen3.5-35b-a3b", "", {.tp = 0}},
    {"deepseek-v2-lite", "", {.tp = 2}},   {"gpt-oss-20b", "paged:16", {.tp = 0}}, {"gpt2", "", {.tp = 0}},
};

static uint64_t last_not_paying(struct kvp_program *with, struct kvp_program *without, bool batch, bool time, uint64_t until)
{
    uint64_t last = 0;

    for (uint64_t x = 1; x <= until; x++) {
        const struct kvp_workload w = {.batch = batch ? x : 1, .context = batch ? 1000 : x};
        struct kvp_point a, b;
        const bool both = kvp_program_point(with, &w, &a, NULL) == KVP_OK && kvp_program_point(without, &w, &b, NULL) == KVP_OK;
        const bool less = both && (time ? a.tpot_s < b.tpot_s
                                        : a.memory.cache_bytes + a.memory.state_bytes < b.memory.cache_bytes + b.memory.state_bytes);

        last = less ? last : x;
    }
    return last;
}

static void agrees(const struct compare_from *f, uint64_t last, uint64_t until, uint64_t horizon, const char *what)
{
    if (f->never)
        ck_assert_msg(last == until || until < horizon, "%s: never, one by one from %" PRIu64, what, last + 1);
    else if (f->always)
        ck_assert_msg(last == 0, "%s: always, one by one not at %" PRIu64, what, last);
    else if (f->from <= until)
        ck_assert_msg(f->from == last + 1, "%s: from %" PRIu64 ", one by one %" PRIu64, what, f->from, last + 1);
}

START_TEST(pays_from)
{
    struct kvp_model m = load(pays[_i].model);
    struct kvp_workload w = {.batch = 1, .context = 1000};
    struct kvp_error e = {0};
    struct kvp_stack base = {0};
    struct kvp_device d;
    struct kvp_program *without;
    struct comparison c;
    uint64_t until;
    int seen = 0;

    ck_assert_msg(kvp_device_load(&d, "h200", &e) == KVP_OK, "%s", e.text);
    ck_assert_int_eq(add_specs(&base, pays[_i].specs), KVP_OK);
    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert_msg(compare_all(&c, &(struct compare){&m, &base, &pays[_i].o, &d, w}, &e) == KVP_OK, "%s", e.text);
    until = c.horizon_context < 3000 ? c.horizon_context : 3000;
    without = kvp_program_new(&m, &base, &pays[_i].o, &d, &e);
    ck_assert_ptr_nonnull(without);
    for (uint32_t i = 0; i < c.n; i++) {
        const struct compare_row *r = &c.row[i];
        struct kvp_stack s = base;
        struct kvp_program *with;

        if (r->reason[0] || kvp_stack_add(&s, r->technique, &e) != KVP_OK)
            continue;
        with = kvp_program_new(&m, &s, &pays[_i].o, &d, &e);
        ck_assert_msg(with != NULL, "%s", e.text);
        for (int time = 0; time < 2; time++) {
            agrees(time ? &r->time_context : &r->bytes_context, last_not_paying(with, without, false, time, until), until, c.horizon_context, r->technique);
            agrees(time ? &r->time_batch : &r->bytes_batch, last_not_paying(with, without, true, time, 100), 100, c.horizon_batch, r->technique);
        }
        kvp_program_free(with);
        seen++;
    }
    ck_assert_int_gt(seen, 10);
    kvp_program_free(without);
    compare_free(&c);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("one by one");

    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, one_by_one, 0, (int)COUNT(cases));
    tcase_add_loop_test(t, fewest, 0, (int)COUNT(fleets));
    tcase_add_loop_test(t, pays_from, 0, (int)COUNT(pays));
    return run("calc: answers, one by one", &t, 1);
}
