/* fit.c - what fits: against every context one by one, against what vLLM printed, and by hand; and the lists of a sweep. */
#include "calc/fit.h"
#include "calc/print.h"
#include "calc/search.h"
#include <math.h>
#include "calc/sweep.h"
#include "tests/calc/calc_test.h"

static struct kvp_device device_of(uint64_t bytes)
{
    return (struct kvp_device){.name = "test", .memory_bytes = bytes, .bandwidth = 1e12, .flops_f32 = 1e12, .flops_f16 = 1e13, .memory_share = 1};
}

static bool fits_at(const struct kvp_model *m, const struct kvp_stack *s, struct kvp_workload w, const struct kvp_device *d)
{
    struct kvp_options o = {0};
    struct kvp_estimate est;
    bool yes;

    if (kvp_estimate(&est, m, s, &w, &o, d, NULL) != KVP_OK)
        return false;
    yes = print_fits(&est, d);
    kvp_estimate_free(&est);
    return yes;
}

static const struct {
    const char *model, *specs;
    uint64_t context; /* whose peak is the memory there is */
    uint64_t generate;
} edges[] = {
    {"llama-2-7b", "", 1000, 0},
    {"llama-2-7b", "kivi", 1024, 0}, /* 1023 tokens are more bytes than 1024 */
    {"llama-2-7b", "kivi", 1023, 0},
    {"llama-2-7b", "kivi:residual=256", 1100, 3},
    {"llama-2-7b", "h2o", 700, 0},
    {"qwen3-0.6b", "paged:64", 900, 10},
    {"qwen3-0.6b", "kivi paged:64", 1024, 0},
    {"mistral-7b-v0.1", "window:300", 500, 1},
    {"llama-2-7b", "chunked-prefill:256", 1000, 0}, /* what passes through is a chunk's, what stays grows */
    {"llama-2-7b", "chunked-prefill:100 kivi", 1024, 0},
    {"llama-2-7b", "chunked-prefill:100 continuous-batching:300", 700, 2},
    {"gpt2", "", 1024, 0}, /* learned positions end there */
};

START_TEST(every_context_was_asked)
{
    struct kvp_model m = load(edges[_i].model);
    struct kvp_workload w = {.batch = 1, .context = edges[_i].context, .generate = edges[_i].generate};
    struct kvp_estimate est = estimate_of(&m, edges[_i].specs, w, (struct kvp_options){0});
    struct kvp_device d = device_of(est.memory.peak_bytes);
    struct kvp_options o = {0};
    struct kvp_stack s = {0};
    struct kvp_error e = {0};
    uint64_t got, expected = 0;

    kvp_estimate_free(&est);
    ck_assert_int_eq(add_specs(&s, edges[_i].specs), KVP_OK);
    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert_int_eq(fit_context(&(struct fit){&m, &s, &o, &d, w}, 1, &got, NULL, &e), KVP_OK);
    for (uint64_t t = w.generate + 1; t < 3 * edges[_i].context; t++)
        if (fits_at(&m, &s, (struct kvp_workload){.batch = 1, .context = t, .generate = w.generate}, &d))
            expected = t;
    ck_assert_uint_eq(got, expected);
    ck_assert_uint_ge(got, edges[_i].context);
    kvp_model_free(&m);
}
END_TEST

/* 4095 tokens of KIVI are 456867840 bytes, 4096 are 429916160 (vectors.c): the room of 4096 is too small for 4095. */
START_TEST(kivi_is_not_monotone)
{
    struct kvp_model m = load("llama-2-7b");
    struct kvp_workload w = {.batch = 1, .context = 4096};
    struct kvp_estimate est = estimate_of(&m, "kivi", w, (struct kvp_options){0});
    struct kvp_device d = device_of(est.memory.peak_bytes);
    struct kvp_options o = {0};
    struct kvp_stack s = {0};
    struct kvp_error e = {0};
    uint64_t got;

    kvp_estimate_free(&est);
    ck_assert_int_eq(add_specs(&s, "kivi"), KVP_OK);
    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert(!fits_at(&m, &s, (struct kvp_workload){.context = 4095}, &d));
    ck_assert_int_eq(fit_context(&(struct fit){&m, &s, &o, &d, w}, 1, &got, NULL, &e), KVP_OK);
    ck_assert_uint_eq(got, 4096);
    kvp_model_free(&m);
}
END_TEST

/* vLLM printed how many blocks its swap space of 4 GiB held (sources: vectors.c, pools). */
static const struct {
    const char *model;
    uint64_t blocks;
} pools[] = {{"llama-2-13b", 327}, {"llama-3.1-8b", 2048}};

START_TEST(pool)
{
    struct kvp_model m = load(pools[_i].model);
    struct kvp_workload w = {.batch = 1, .context = 4096};
    struct kvp_estimate est = estimate_of(&m, "", w, (struct kvp_options){0});
    struct kvp_device d = device_of(est.memory.peak_bytes - est.memory.cache_bytes + (UINT64_C(4) << 30));
    struct kvp_options o = {0};
    struct kvp_stack s = {0};
    struct kvp_error e = {0};
    struct fit_answer a;

    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert_msg(fit_solve(&a, &(struct fit){&m, &s, &o, &d, w}, &e) == KVP_OK, "%s", e.text);
    ck_assert_uint_eq(a.kv_pool_bytes, UINT64_C(4) << 30);
    ck_assert_uint_eq(a.block, 16);
    ck_assert_uint_eq(a.kv_pool_blocks, pools[_i].blocks);
    ck_assert_double_eq_tol(a.max_concurrency, (double)(UINT64_C(4) << 30) / (double)est.memory.cache_bytes, 1e-9);
    free(a.devices);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Every answer is asked again of the estimate: it fits, and one more does not. */
START_TEST(answers_hold)
{
    struct kvp_model m = load("llama-3.3-70b");
    struct kvp_workload w = {.batch = 2, .context = 4096};
    struct kvp_options o = {0};
    struct kvp_stack s = {0}, with = {0};
    struct kvp_error e = {0};
    struct kvp_device d;
    struct fit_answer a;

    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert_msg(kvp_device_load(&d, "h200", &e) == KVP_OK, "%s", e.text);
    d.memory_bytes += UINT64_C(20) << 30; /* 131 GiB of weights fit, with something left */
    ck_assert_msg(fit_solve(&a, &(struct fit){&m, &s, &o, &d, w}, &e) == KVP_OK, "%s", e.text);
    ck_assert(a.fits);
    ck_assert_uint_eq(a.min_devices, 1);
    ck_assert(fits_at(&m, &s, (struct kvp_workload){.batch = 2, .context = a.max_context}, &d));
    ck_assert(!fits_at(&m, &s, (struct kvp_workload){.batch = 2, .context = a.max_context + 1}, &d));
    ck_assert(fits_at(&m, &s, (struct kvp_workload){.batch = a.max_batch, .context = 4096}, &d));
    ck_assert(!fits_at(&m, &s, (struct kvp_workload){.batch = a.max_batch + 1, .context = 4096}, &d));
    ck_assert_uint_lt(a.longest, a.n_reliefs);
    ck_assert_uint_lt(a.cheapest, a.n_reliefs);
    for (uint32_t i = 0; i < a.n_reliefs; i++) {
        ck_assert_uint_ge(a.relief[a.longest].max_context, a.relief[i].max_context);
        if (a.relief[i].max_context > a.max_context)
            ck_assert_int_ge(a.relief[i].cost, a.relief[a.cheapest].cost);
    }
    /* the same results in less room: only the prompt's activation, in pieces */
    ck_assert_int_eq(a.relief[a.cheapest].cost, FIT_SAME_RESULTS);
    ck_assert_str_eq(a.relief[a.cheapest].what, "chunked-prefill:1024");
    ck_assert_int_eq(kvp_stack_add(&with, a.relief[a.cheapest].what, &e), KVP_OK);
    ck_assert(fits_at(&m, &with, (struct kvp_workload){.batch = 2, .context = a.relief[a.cheapest].max_context}, &d));
    ck_assert(!fits_at(&m, &with, (struct kvp_workload){.batch = 2, .context = a.relief[a.cheapest].max_context + 1}, &d));
    free(a.devices);
    kvp_model_free(&m);
}
END_TEST

/* Llama-3.1-405B in bf16 is 811 GB (405.85 G parameters); an H200 has 150 GB of which 138.7 may be used: six are 832,
 * and beside the weights a rank needs room, so that the answer is 6 or more; it is the first that fits. */
START_TEST(fewest_devices)
{
    struct kvp_model m = load("llama-3.1-405b");
    struct kvp_workload w = {.batch = 1, .context = 4096};
    struct kvp_options o = {0};
    struct kvp_stack s = {0};
    struct kvp_error e = {0};
    struct kvp_device d;
    struct fit_answer a;

    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert_msg(kvp_device_load(&d, "h200", &e) == KVP_OK, "%s", e.text);
    ck_assert_msg(fit_solve(&a, &(struct fit){&m, &s, &o, &d, w}, &e) == KVP_OK, "%s", e.text);
    ck_assert(!a.fits);
    ck_assert_uint_eq(a.max_context, 0);
    ck_assert_str_eq(a.context_bound, "weights");
    ck_assert_uint_ge(a.min_devices, 6);
    for (uint32_t n = 1; n <= a.min_devices; n++)
        for (uint32_t tp = 1; tp <= n; tp++) {
            const struct kvp_options ranks = {.tp = tp, .pp = n / tp};
            struct kvp_estimate est;

            if (n % tp || kvp_estimate(&est, &m, &s, &w, &ranks, &d, NULL) != KVP_OK)
                continue;
            ck_assert_msg(n == a.min_devices || !print_fits(&est, &d), "%u devices would do", n);
            ck_assert_msg(n < a.min_devices || tp != a.tp || print_fits(&est, &d), "%u devices do not do", n);
            kvp_estimate_free(&est);
        }
    /* no technique makes it fit on one: the relief is those devices */
    ck_assert_uint_lt(a.cheapest, a.n_reliefs);
    ck_assert_int_eq(a.relief[a.cheapest].cost, FIT_MORE_DEVICES);
    ck_assert(a.relief[a.cheapest].fits);
    free(a.devices);
    kvp_model_free(&m);
}
END_TEST

/* Whole numbers of what the estimate says of every rank: the pool is that of the rank that holds fewest sequences, which
 * need not be the one with the highest peak (three stages of Gemma 3's 62 layers are 21, 21 and 20, with 3, 4 and 3 that
 * see everything); what sequences share is taken once; a paged sequence has room for whole pages. */
static const struct {
    const char *model, *specs;
    uint64_t context, batch, slots;
    struct kvp_options options;
} deals[] = {
    {"gemma-3-27b", "", 9000, 2, 9000, {.pp = 3}},
    {"nemotron-3-nano-30b-a3b", "", 9000, 2, 9000, {.pp = 2}},
    {"qwen3-0.6b", "", 3000, 1, 3000, {.tp = 16}},
    {"mixtral-8x7b", "", 3000, 1, 3000, {.tp = 2, .ep = 2}},
    {"deepseek-v2-lite", "", 3000, 4, 3000, {.tp = 4, .pp = 2}},
    {"qwen3-0.6b", "paged:64", 3000, 2, 3008, {.tp = 0}},
    {"qwen3-0.6b", "paged:64", 3008, 2, 3008, {.tp = 2}},
    {"qwen3-0.6b", "prefix:1000,granularity=token", 3000, 2, 3000, {.tp = 0}},
    {"rwkv-4-169m", "", 300, 2, 300, {.tp = 0}},
};

START_TEST(pool_of_ranks)
{
    struct kvp_model m = load(deals[_i].model);
    struct kvp_workload w = {.batch = deals[_i].batch, .context = deals[_i].context};
    struct kvp_device d = device_of(UINT64_C(140) << 30);
    struct kvp_estimate given, one;
    struct kvp_error e = {0};
    struct kvp_stack s = {0};
    struct fit_answer a;
    double fewest = 1e300;

    ck_assert_int_eq(add_specs(&s, deals[_i].specs), KVP_OK);
    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert_int_eq(try_estimate(&given, &m, deals[_i].specs, w, deals[_i].options, &d), KVP_OK);
    w.batch = 1;
    ck_assert_int_eq(try_estimate(&one, &m, deals[_i].specs, w, deals[_i].options, &d), KVP_OK);
    w.batch = deals[_i].batch;
    ck_assert_msg(fit_solve(&a, &(struct fit){&m, &s, &deals[_i].options, &d, w}, &e) == KVP_OK, "%s", e.text);
    for (uint32_t i = 0; i < (given.n_ranks ? given.n_ranks : 1); i++) {
        const struct kvp_memory *x = given.n_ranks ? &given.ranks[i].memory : &given.memory, *y = one.n_ranks ? &one.ranks[i].memory : &one.memory;
        const uint64_t room = d.memory_bytes - (x->peak_bytes - x->cache_peak_bytes - x->state_bytes) - y->shared_bytes;

        fewest = fmin(fewest, (double)room / (double)(y->cache_bytes + y->state_bytes - y->shared_bytes));
    }
    ck_assert_double_eq_tol(a.max_concurrency, fewest, 1e-12 * fewest);
    ck_assert_double_eq(a.max_concurrency, (double)a.kv_pool_bytes / (double)a.sequence_bytes);
    ck_assert_uint_eq(a.slots, deals[_i].slots);
    ck_assert_uint_eq(a.kv_pool_tokens, (uint64_t)((__uint128_t)a.kv_pool_bytes * a.slots / a.sequence_bytes));
    ck_assert_uint_eq(a.kv_pool_blocks, a.kv_pool_tokens / a.block);
    free(a.devices);
    kvp_estimate_free(&given);
    kvp_estimate_free(&one);
    kvp_model_free(&m);
}
END_TEST

/* A model whose attention, and with it the table of learned positions, made way for a state goes on beyond 1024. */
START_TEST(no_positions_no_end)
{
    struct kvp_model m = load("gpt2");
    struct kvp_workload w = {.batch = 1, .context = 500};
    struct kvp_device d = device_of(UINT64_C(8) << 30);
    struct kvp_options o = {0};
    struct kvp_error e = {0};
    struct kvp_stack s = {0};
    uint64_t got;

    ck_assert_int_eq(add_specs(&s, "recurrent:rwkv7"), KVP_OK);
    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert_int_eq(fit_context(&(struct fit){&m, &s, &o, &d, w}, 1, &got, NULL, &e), KVP_OK);
    ck_assert_uint_gt(got, 1024);
    ck_assert(fits_at(&m, &s, (struct kvp_workload){.batch = 1, .context = got}, &d));
    ck_assert(!fits_at(&m, &s, (struct kvp_workload){.batch = 1, .context = got + 1}, &d));
    kvp_model_free(&m);
}
END_TEST

static const struct {
    const char *text;
    uint64_t least, n, v[8];
} lists[] = {
    {"1k,4k", 1, 2, {1024, 4096}},
    {"1k-8k*2", 1, 4, {1024, 2048, 4096, 8192}},
    {"1k-7k*2", 1, 3, {1024, 2048, 4096}},
    {"1-9+4", 1, 3, {1, 5, 9}},
    {"1-10+4", 1, 3, {1, 5, 9}},
    {"3-5", 1, 3, {3, 4, 5}},
    {"7", 1, 1, {7}},
    {"0,2", 0, 2, {0, 2}},
    {"5,1-3,1M", 1, 5, {5, 1, 2, 3, 1048576}},
    {"18446744073709551615-18446744073709551615+1", 1, 1, {UINT64_MAX}},
    {"0", 1, 0, {0}},
    {"", 1, 0, {0}},
    {"1,", 1, 0, {0}},
    {"4-2", 1, 0, {0}},
    {"1-4*1", 1, 0, {0}},
    {"0-4*2", 0, 0, {0}},
    {"1-4+0", 1, 0, {0}},
    {"1-4-5", 1, 0, {0}},
    {"-4", 1, 0, {0}},
    {"1x", 1, 0, {0}},
    {"1-99999999", 1, 0, {0}}, /* more than 2^24 */
};

START_TEST(list)
{
    struct sweep_list l;
    struct kvp_error e = {0};
    const kvp_err rc = sweep_list_parse(&l, "context", lists[_i].text, lists[_i].least, &e);

    ck_assert_msg((rc == KVP_OK) == (lists[_i].n > 0), "'%s': %s", lists[_i].text, e.text);
    if (rc != KVP_OK)
        return;
    ck_assert_uint_eq(l.n, lists[_i].n);
    for (size_t i = 0; i < l.n; i++)
        ck_assert_uint_eq(l.v[i], lists[_i].v[i]);
    free(l.v);
}
END_TEST

/* Holds up to 100 but for 90 to 99, and at 120 of 120 to 130. */
static bool odd(void *of, uint64_t x)
{
    (void)of;
    return x < 90 || x == 100 || x == 120;
}

START_TEST(search)
{
    struct search s = {.holds = odd, .lo = 1, .hi = 1000, .wobble = 19};

    ck_assert_uint_eq(search_last(&s), 100);
    s.wobble = 20;
    ck_assert_uint_eq(search_last(&s), 120);
    s.hi = 110;
    ck_assert_uint_eq(search_last(&s), 100);
    s.hi = 50;
    ck_assert_uint_eq(search_last(&s), 50);
    s.lo = 101;
    s.hi = 119;
    ck_assert_uint_eq(search_last(&s), 100);
}
END_TEST

/* Lines, steps and bends, above 0 from some x on, counted. */
static double over(const uint64_t *k, uint64_t x)
{
    const double at = (double)x, edge = (double)k[0];

    switch (k[1]) {
    case 0:
        return 3 * (at - edge) + 1;
    case 1:
        return 4096 * floor((at - edge) / 16) + 1;
    case 2:
        return at < edge / 2 ? -edge : (at - edge) * 1e6 + 1;
    default:
        return x > k[0] + 7 ? INFINITY : at - edge + 0.25;
    }
}

struct straight {
    uint64_t k[2], asked;
};

static double over_counted(void *of, uint64_t x)
{
    struct straight *s = of;

    s->asked++;
    return over(s->k, x);
}

static bool under_counted(void *of, uint64_t x)
{
    return over_counted(of, x) <= 0;
}

/* The same edge with a root's help and without it, which for a line asks less. */
START_TEST(search_by_root)
{
    for (uint64_t edge = 2; edge < 1ull << 40; edge = edge * 7 / 3 + 1) {
        struct straight s = {{edge, (uint64_t)_i}, 0};
        const struct search plain = {.holds = under_counted, .of = &s, .lo = 1, .hi = 1ull << 41, .wobble = 16};
        struct search by_root = plain;
        uint64_t asked, last;

        by_root.excess = over_counted;
        last = search_last(&plain);
        ck_assert(over(s.k, last) <= 0 && over(s.k, last + 1) > 0);
        asked = s.asked;
        s.asked = 0;
        ck_assert_uint_eq(search_last(&by_root), last);
        if (_i == 0 && edge > 1 << 20)
            ck_assert_uint_lt(s.asked, asked);
    }
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("fit");

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, every_context_was_asked, 0, (int)COUNT(edges));
    tcase_add_test(t, kivi_is_not_monotone);
    tcase_add_loop_test(t, pool, 0, (int)COUNT(pools));
    tcase_add_loop_test(t, pool_of_ranks, 0, (int)COUNT(deals));
    tcase_add_test(t, no_positions_no_end);
    tcase_add_test(t, answers_hold);
    tcase_add_test(t, fewest_devices);
    tcase_add_loop_test(t, list, 0, (int)COUNT(lists));
    tcase_add_test(t, search);
    tcase_add_loop_test(t, search_by_root, 0, 4);
    return run("calc: fit", &t, 1);
}
