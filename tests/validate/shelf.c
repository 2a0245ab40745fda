/* shelf.c - engines one after another on the same weights: the same logits and the same ledger as engines of their own. */
#include "tests/validate/tiny.h"
#include "validate/engine/shelf.h"

enum { PROMPT = 9, STEPS = 2 };

struct outcome {
    float logits[2][TINY_VOCAB];
    struct ledger led;
};

static void run(struct outcome *out, struct shelf *shelf, const struct kvp_model *m, const char *spec, uint64_t seed)
{
    struct eng_options o = {.device = {.threads = 1}, .batch = 1, .prompt = PROMPT, .generate = STEPS, .seed = seed, .shelf = shelf};
    int32_t ids[PROMPT + STEPS];
    struct kvp_stack s = {0};
    struct kvp_error err = {0};
    struct eng *g;

    tiny_tokens(ids, PROMPT + STEPS, m->vocab);
    must(kb_find(&o.backend, "cpu", &err));
    if (*spec)
        must(kvp_stack_add(&s, spec, &err));
    must(eng_open(&g, m, &s, &o, &err));
    must(eng_prefill(g, ids, NULL, out->logits[0], &err));
    must(eng_decode(g, ids + PROMPT, out->logits[1], &err));
    out->led = *eng_ledger(g);
    eng_close(g);
}

static const struct {
    const char *spec;
    uint64_t seed;
    bool takes; /* finds its weights on the shelf, coming after the one above */
} runs[] = {{"", 1, false},     {"window:4", 1, true}, {"paged:4", 1, true}, {"kv:fp8", 1, true}, {"", 2, false}, {"window:4", 2, true},
            {"mqa", 2, false},  {"", 2, false},        {"w:int8", 2, false}, {"growing", 2, false}, {"recurrent:mamba", 2, false},
            {"contiguous:40", 2, false}, {"continuous-batching", 2, true}};
enum { RUNS = sizeof(runs) / sizeof(runs[0]) };

START_TEST(as_engines_of_their_own)
{
    struct shelf shelf = {0};
    struct kvp_model m;
    uint64_t taken = 0;

    tiny_load(&m, _i);
    for (int i = 0; i < RUNS; i++) {
        struct outcome alone, shared;

        run(&alone, NULL, &m, runs[i].spec, runs[i].seed);
        run(&shared, &shelf, &m, runs[i].spec, runs[i].seed);
        ck_assert_msg(memcmp(alone.logits, shared.logits, sizeof(alone.logits)) == 0, "%s: other logits", runs[i].spec);
        ck_assert_int_eq(memcmp(alone.led.now, shared.led.now, sizeof(alone.led.now)), 0);
        ck_assert_int_eq(memcmp(alone.led.peak, shared.led.peak, sizeof(alone.led.peak)), 0);
        ck_assert_uint_eq(alone.led.cache_peak, shared.led.cache_peak);
        ck_assert_uint_eq(alone.led.total_peak, shared.led.total_peak);
        ck_assert_uint_eq(alone.led.allocations, shared.led.allocations);
        taken += runs[i].takes;
        ck_assert_msg(shelf.taken == taken, "%s, run %d: weights were taken %d times", runs[i].spec, i, (int)shelf.taken);
    }
    ck_assert(shelf.full);
    ck_assert_uint_eq(shelf.led.now[LED_WEIGHTS], shelf.led.peak[LED_WEIGHTS]); /* never two sets */
    shelf_close(&shelf);
    shelf_close(&shelf);
    kvp_model_free(&m);
}
END_TEST

/* Weights are another's when the model is, were it equal field by field. */
START_TEST(another_model)
{
    struct shelf shelf = {0};
    struct kvp_model a, b;
    struct outcome out;

    tiny_load(&a, 1);
    tiny_load(&b, 1);
    run(&out, &shelf, &a, "", 1);
    run(&out, &shelf, &b, "", 1);
    ck_assert_uint_eq(shelf.taken, 0);
    run(&out, &shelf, &b, "", 1);
    ck_assert_uint_eq(shelf.taken, 1);
    shelf_close(&shelf);
    kvp_model_free(&b);
    kvp_model_free(&a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("shelf");
    TCase *t = tcase_create("shelf");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, as_engines_of_their_own, 0, 2);
    tcase_add_test(t, another_model);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
