/* growing.c - one slot more is one new tensor: the same rows, and a peak above the rest */
#include "tests/techniques/rig.h"

static const struct rig_case run = {"", KVP_F16, 2, 5, 24, 4, 2, 8, 2, {0}, 0};
static const char *const pairs[][2] = {{"", "growing"}, {"window:5", "window:5 growing"}, {"window:9", "window:9 growing"},
                                       {"h2o:heavy=3,recent=9", "h2o:heavy=3,recent=9 growing"}};
enum { N_PAIRS = sizeof(pairs) / sizeof(pairs[0]) };

START_TEST(same_run)
{
    rig_same_run(&run, pairs[_i / RIG_BACKENDS][0], pairs[_i / RIG_BACKENDS][1], rig_backends[_i % RIG_BACKENDS], 0);
}
END_TEST

/* A slot of K or V is 2 sequences * 2 kv heads * 8 * 4 bytes = 128. */
static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
} sizes[] = {
    /* prompt only: 2 layers * 2 tensors * 3 slots; nothing to copy from */
    {{"growing", KVP_F32, 2, 3, 3, 4, 2, 8, 2, {0}, 0}, {12 * 128, 0, 12 * 128}},
    /* 9 tokens: 36 slots at rest; last to grow is a V, whose old 8 slots live beside the new 9 */
    {{"growing", KVP_F32, 2, 3, 9, 4, 2, 8, 2, {0}, 0}, {36 * 128, 0, 44 * 128}},
    /* the window of 5 is full after one step and never grows again: 20 at rest, 4 old ones at the peak */
    {{"window:5 growing", KVP_F32, 2, 4, 19, 4, 2, 8, 2, {0}, 0}, {20 * 128, 0, 24 * 128}},
    /* full from the prompt on */
    {{"window:5 growing", KVP_F32, 2, 7, 19, 4, 2, 8, 2, {0}, 0}, {20 * 128, 0, 20 * 128}},
    /* a hybrid: 5 and 12 slots; the last to grow is layer 1's V, 11 old slots */
    {{"growing", KVP_F32, 2, 7, 12, 4, 2, 8, 2, {5, 0}, 0}, {34 * 128, 0, 45 * 128}},
};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    struct rig r;

    rig_open(&r, &sizes[_i].c, "ref", false);
    for (int again = 0; again < 2; again++) {
        ck_assert_uint_eq(r.led.now[LED_CACHE], 0);
        rig_all(&r, NULL, NULL);
        rig_check_bytes(&r, &sizes[_i].bytes);
        rig_reset(&r);
    }
    rig_close(&r);
}
END_TEST

/* Each step grows K and V of each layer, timed once each; a full ring does not grow, a prompt does not copy. */
START_TEST(calls)
{
    static const struct rig_case c = {"window:6 growing", KVP_F32, 2, 4, 9, 4, 2, 8, 2, {0}, 0};
    static const uint64_t want[] = {0, 4, 4, 0, 0, 0}; /* prompt of 4; 5 and 6 slots; then full */
    struct rig r;

    rig_open(&r, &c, "ref", false);
    for (int i = 0; r.seen < c.context; i++) {
        memset(r.calls, 0, sizeof(r.calls));
        rig_step(&r, NULL, NULL);
        ck_assert_uint_eq(r.calls[KVP_OP_GROW], want[i]);
    }
    rig_close(&r);
}
END_TEST

/* An engine that does not time copies still gets them. */
START_TEST(untimed_copy)
{
    struct rig_case c = run;
    const uint64_t n = c.batch * c.heads * c.dim;
    float *first = rig_zalloc(n, sizeof(*first));
    struct rig r;

    rig_open(&r, &c, rig_backends[_i], false);
    rig_all(&r, NULL, NULL);
    memcpy(first, r.result, n * sizeof(*first));
    rig_close(&r);
    c.stack = "growing";
    rig_open(&r, &c, rig_backends[_i], false);
    r.env.copy = NULL;
    rig_all(&r, NULL, NULL);
    ck_assert_mem_eq(first, r.result, n * sizeof(*first));
    rig_close(&r);
    free(first);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("growing");
    TCase *tc = tcase_create("growing");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, same_run, 0, N_PAIRS * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_test(tc, calls);
    tcase_add_loop_test(tc, untimed_copy, 0, RIG_BACKENDS);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
