/* cla.c - layers that read an earlier layer's keys and values, and yoco's upper half, against a slow forward. */
#include "tests/techniques/slow.h"

enum { N = 21, LAYERS = 5 };

static const char *const backends[] = {"ref", "cpu"};
static const char model[] = SLOW_LLAMA(5, 2, false);

/* Each layer's owner, its owner's heads and its window; bytes by the pages' formulas: d 8, T 21, f32. */
static const struct {
    const char *stack;
    struct slow_layer l[LAYERS];
    uint64_t bytes;
} cases[] = {
    {"cla", {{0, 2, 0}, {0, 2, 0}, {2, 2, 0}, {2, 2, 0}, {4, 2, 0}}, 2 * 3 * 21 * 2 * 8 * 4},
    {"cla:3", {{0, 2, 0}, {0, 2, 0}, {0, 2, 0}, {3, 2, 0}, {3, 2, 0}}, 2 * 2 * 21 * 2 * 8 * 4},
    {"cla:9", {{0, 2, 0}, {0, 2, 0}, {0, 2, 0}, {0, 2, 0}, {0, 2, 0}}, 2 * 1 * 21 * 2 * 8 * 4},
    {"cla:1", {{0, 2, 0}, {1, 2, 0}, {2, 2, 0}, {3, 2, 0}, {4, 2, 0}}, 2 * 5 * 21 * 2 * 8 * 4},
    {"cla window:6", {{0, 2, 6}, {0, 2, 6}, {2, 2, 6}, {2, 2, 6}, {4, 2, 6}}, 2 * 3 * 6 * 2 * 8 * 4},
    {"cla mqa", {{0, 1, 0}, {0, 1, 0}, {2, 1, 0}, {2, 1, 0}, {4, 1, 0}}, 2 * 3 * 21 * 1 * 8 * 4},
    {"cla growing", {{0, 2, 0}, {0, 2, 0}, {2, 2, 0}, {2, 2, 0}, {4, 2, 0}}, 2 * 3 * 21 * 2 * 8 * 4},
    {"cla paged:4", {{0, 2, 0}, {0, 2, 0}, {2, 2, 0}, {2, 2, 0}, {4, 2, 0}}, 2 * 3 * 24 * 2 * 8 * 4},
    /* layers 0 and 1 slide with all six heads; 2 projects the one cache, 3 and 4 read it */
    {"yoco:window=5", {{0, 6, 5}, {1, 6, 5}, {2, 2, 0}, {2, 2, 0}, {2, 2, 0}}, 2 * 21 * 2 * 8 * 4 + 2 * 2 * 5 * 6 * 8 * 4},
    {"yoco:window=40", {{0, 6, 40}, {1, 6, 40}, {2, 2, 0}, {2, 2, 0}, {2, 2, 0}}, 2 * 21 * 2 * 8 * 4 + 2 * 2 * 21 * 6 * 8 * 4},
    {"yoco:window=3,self_heads=3", {{0, 3, 3}, {1, 3, 3}, {2, 2, 0}, {2, 2, 0}, {2, 2, 0}},
     2 * 21 * 2 * 8 * 4 + 2 * 2 * 3 * 3 * 8 * 4},
    {"yoco:window=1 mqa paged:4", {{0, 6, 1}, {1, 6, 1}, {2, 1, 0}, {2, 1, 0}, {2, 1, 0}},
     2 * 24 * 1 * 8 * 4 + 2 * 2 * 4 * 6 * 8 * 4},
};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

/* f32 sums of a few dozen terms, five layers deep */
static const double ROUNDING = 2e-5;

START_TEST(logits_and_bytes)
{
    static const uint64_t prompts[] = {1, 2, 13, N};
    static float want[N * TINY_VOCAB], got[N * TINY_VOCAB];
    const char *stack = cases[_i / 2].stack, *backend = backends[_i % 2];
    int32_t ids[N];

    tiny_tokens(ids, N, TINY_VOCAB);
    for (int p = 0; p < 4; p++) {
        const struct eng_options o = {.prompt = prompts[p], .generate = N - prompts[p], .all_logits = true};
        struct kvp_model m;
        struct eng *g = slow_open(&m, model, stack, o, backend);
        double apart;

        slow_forward(g, cases[_i / 2].l, ids, N, want);
        slow_run(g, ids, prompts[p], N, true, got);
        apart = far_apart(got, want, N * TINY_VOCAB);
        ck_assert_msg(apart < ROUNDING, "%s on %s, prompt %d: off by %g", stack, backend, (int)prompts[p], apart);
        /* again, with the last row's logits alone: what a prefill may leave out */
        slow_run(g, ids, prompts[p], N, false, got);
        apart = far_apart(got + (prompts[p] - 1) * TINY_VOCAB, want + (prompts[p] - 1) * TINY_VOCAB,
                          (N + 1 - prompts[p]) * TINY_VOCAB);
        ck_assert_msg(apart < ROUNDING, "%s on %s, prompt %d, last row: off by %g", stack, backend, (int)prompts[p], apart);
        ck_assert_msg(eng_ledger(g)->now[LED_CACHE] == cases[_i / 2].bytes, "%s: %llu bytes, expected %llu", stack,
                      (unsigned long long)eng_ledger(g)->now[LED_CACHE], (unsigned long long)cases[_i / 2].bytes);
        eng_close(g);
        kvp_model_free(&m);
    }
}
END_TEST

/* Sequences of a batch do not see each other, in the rows that are left of a prompt either. */
START_TEST(batches)
{
    enum { B = 3, PROMPT = 9, STEPS = 4 };
    static float batch[B * TINY_VOCAB], alone[TINY_VOCAB];
    const char *stack = cases[_i].stack;
    struct kvp_error err = {0};
    int32_t ids[B * N], step[B];
    struct kvp_model m, n;
    struct eng *g = slow_open(&m, model, stack, (struct eng_options){.batch = B, .prompt = PROMPT, .generate = STEPS}, "cpu");

    tiny_tokens(ids, B * N, TINY_VOCAB);
    for (int t = 0; t <= STEPS; t++) {
        for (int b = 0; b < B; b++)
            step[b] = ids[B * PROMPT + b * STEPS + t - 1];
        must(t ? eng_decode(g, step, batch, &err) : eng_prefill(g, ids, NULL, batch, &err));
        for (int b = 0; b < B; b++) {
            struct eng *one = slow_open(&n, model, stack, (struct eng_options){.prompt = PROMPT, .generate = STEPS}, "cpu");

            must(eng_prefill(one, ids + b * PROMPT, NULL, alone, &err));
            for (int i = 0; i < t; i++)
                must(eng_decode(one, &ids[B * PROMPT + b * STEPS + i], alone, &err));
            ck_assert_msg(far_apart(batch + b * TINY_VOCAB, alone, TINY_VOCAB) < ROUNDING, "%s: sequence %d, step %d", stack, b, t);
            eng_close(one);
            kvp_model_free(&n);
        }
    }
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* Layer 0's row 3 is read by layer 1 as well; what nobody stored is nowhere. */
START_TEST(poison)
{
    const struct eng_options o = {.prompt = 7, .generate = 3, .trace = true};
    float logits[TINY_VOCAB];
    struct kvp_error err = {0};
    struct kvp_model m;
    int32_t ids[N];
    bool stored;
    struct eng *g = slow_open(&m, model, _i ? "yoco:window=5" : "cla", o, "cpu");

    tiny_tokens(ids, N, TINY_VOCAB);
    must(eng_prefill(g, ids, NULL, logits, &err));
    must(eng_decode(g, &ids[7], logits, &err));
    must(eng_poison(g, 200, &stored, &err)); /* never seen: what is allocated and empty becomes NaN */
    ck_assert(!stored);
    must(eng_decode(g, &ids[8], logits, &err));
    ck_assert(isfinite(logits[0]));
    must(eng_poison(g, 5, &stored, &err));
    ck_assert(stored);
    must(eng_decode(g, &ids[9], logits, &err));
    ck_assert(isnan(logits[0]));
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

START_TEST(refusals)
{
    static const struct {
        const char *stack, *words;
    } refused[] = {
        {"yoco:retention", "does not run variant=retention"},
        {"yoco:self_heads=4", "self_heads=4 does not divide the 6 query heads"},
        {"cla kivi:bits=2,group=8", "kivi: the engine does not run it with layer 1's kind of attention"},
    };
    struct kvp_error err = {0};
    struct kvp_model m;

    ck_assert_ptr_null(slow_try(&m, model, refused[_i].stack, (struct eng_options){.prompt = N}, "ref", &err));
    ck_assert_msg(strstr(err.text, refused[_i].words), "%s: %s", refused[_i].stack, err.text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cla");
    TCase *t = tcase_create("cla");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, logits_and_bytes, 0, 2 * CASES);
    tcase_add_loop_test(t, batches, 0, CASES);
    tcase_add_loop_test(t, poison, 0, 2);
    tcase_add_loop_test(t, refusals, 0, 3);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
