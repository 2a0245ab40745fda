/* gqa.c - fewer key-value heads, and one (mqa): the same model as one whose config says so, byte by byte and bit by bit. */
#include "tests/techniques/slow.h"

enum { N = 19 };

static const char *const backends[] = {"ref", "cpu"};

/* bytes = 2 * L * B * T * Hkv * d * b, L 3, T 19, d 8, f16 */
static const struct {
    const char *stack;
    uint32_t heads; /* that it leaves */
    uint64_t batch, bytes;
} cases[] = {
    {"gqa:6", 6, 1, 2 * 3 * 19 * 6 * 8 * 2},
    {"gqa:3", 3, 1, 2 * 3 * 19 * 3 * 8 * 2},
    {"gqa:2", 2, 2, 2 * 3 * 2 * 19 * 2 * 8 * 2},
    {"gqa", 1, 1, 2 * 3 * 19 * 8 * 2}, /* the largest divisor of 6 that is at most 6/4 */
    {"mqa", 1, 3, 2 * 3 * 3 * 19 * 8 * 2},
    {"mqa window:4", 1, 1, 2 * 3 * 4 * 8 * 2},
    {"gqa:3 paged:4", 3, 1, 2 * 3 * 20 * 3 * 8 * 2},
    {"gqa:2 growing", 2, 1, 2 * 3 * 19 * 2 * 8 * 2},
};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

static const char *config_with(uint32_t heads)
{
    static const char *const configs[] = {[1] = SLOW_LLAMA(3, 1, false), [2] = SLOW_LLAMA(3, 2, false),
                                          [3] = SLOW_LLAMA(3, 3, false), [6] = SLOW_LLAMA(3, 6, false)};

    return configs[heads];
}

START_TEST(bytes)
{
    const struct eng_options o = {.prompt = 12, .generate = N - 12, .kv = KVP_F16, .batch = cases[_i].batch};
    static float logits[3 * N * TINY_VOCAB];
    int32_t ids[3 * N];
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g = slow_open(&m, config_with(6), cases[_i].stack, o, "cpu");

    tiny_tokens(ids, 3 * N, TINY_VOCAB);
    must(eng_prefill(g, ids, NULL, logits, &err));
    for (int t = 12; t < N; t++)
        must(eng_decode(g, ids, logits, &err));
    ck_assert_msg(eng_ledger(g)->now[LED_CACHE] == cases[_i].bytes, "%s: %llu bytes, expected %llu", cases[_i].stack,
                  (unsigned long long)eng_ledger(g)->now[LED_CACHE], (unsigned long long)cases[_i].bytes);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* The technique on one model is another model as published: same seed, same weights, same logits. */
START_TEST(is_the_model_with_fewer_heads)
{
    static const char *const stacks[] = {"gqa:3", "gqa:2", "gqa", "mqa", "gqa:6"};
    static const uint32_t heads[] = {3, 2, 1, 1, 6};
    const struct eng_options o = {.prompt = 7, .generate = N - 7};
    const char *backend = backends[_i % 2];
    static float a[N * TINY_VOCAB], b[N * TINY_VOCAB];
    struct kvp_model m, plain;
    int32_t ids[N];
    struct eng *g = slow_open(&m, config_with(6), stacks[_i / 2], o, backend);
    struct eng *h = slow_open(&plain, config_with(heads[_i / 2]), "", o, backend);

    tiny_tokens(ids, N, TINY_VOCAB);
    slow_run(g, ids, 7, N, true, a);
    slow_run(h, ids, 7, N, true, b);
    ck_assert_msg(memcmp(a, b, sizeof(a)) == 0, "%s on %s: not the model of %u heads", stacks[_i / 2], backend, heads[_i / 2]);
    ck_assert_uint_eq(eng_ledger(g)->now[LED_WEIGHTS], eng_ledger(h)->now[LED_WEIGHTS]);
    eng_close(g);
    eng_close(h);
    kvp_model_free(&m);
    kvp_model_free(&plain);
}
END_TEST

START_TEST(heads_that_do_not_divide_are_refused)
{
    static const char *const refused[] = {"gqa:4", "gqa:5", "gqa:12"};
    const struct eng_options o = {.prompt = N};
    struct kvp_error err = {0};
    struct kvp_model m;

    ck_assert_ptr_null(slow_try(&m, config_with(6), refused[_i], o, "ref", &err));
    ck_assert_msg(strstr(err.text, "does not divide the 6 query heads"), "%s: %s", refused[_i], err.text);
}
END_TEST

/* A stored row that is spoilt reaches every query head: they share it. */
START_TEST(poison)
{
    const struct eng_options o = {.prompt = 7, .generate = 2, .trace = true};
    float logits[TINY_VOCAB];
    struct kvp_error err = {0};
    struct kvp_model m;
    int32_t ids[N];
    bool stored = false;
    struct eng *g = slow_open(&m, config_with(6), "mqa", o, backends[_i]);

    tiny_tokens(ids, N, TINY_VOCAB);
    must(eng_prefill(g, ids, NULL, logits, &err));
    must(eng_decode(g, &ids[7], logits, &err));
    ck_assert(isfinite(logits[0]));
    must(eng_poison(g, 3, &stored, &err));
    ck_assert(stored);
    must(eng_decode(g, &ids[8], logits, &err));
    ck_assert(isnan(logits[0]));
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("gqa");
    TCase *t = tcase_create("gqa");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, bytes, 0, CASES);
    tcase_add_loop_test(t, is_the_model_with_fewer_heads, 0, 10);
    tcase_add_loop_test(t, heads_that_do_not_divide_are_refused, 0, 3);
    tcase_add_loop_test(t, poison, 0, 2);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
