/* snapkv.c - what each head keeps of a prompt, against the rule written slowly (picks.h), and what it costs */
#include "tests/techniques/picks.h"

static const struct picks_case cases[] = {
    /* a prompt below the capacity stays whole; one more; the capacity one more than the window */
    {{"snapkv:cap=12,window=4", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {0}, 0}, 4, 5, true, false, {9, 9}},
    {{"snapkv:cap=12,window=4", KVP_F32, 2, 12, 20, 4, 2, 8, 2, {0}, 0}, 4, 5, true, false, {12, 12}},
    {{"snapkv:cap=12,window=4", KVP_F32, 2, 13, 20, 4, 2, 8, 2, {0}, 0}, 4, 5, true, false, {12, 12}},
    {{"snapkv:cap=5,window=4", KVP_F16, 2, 40, 50, 4, 1, 8, 2, {0}, 0}, 4, 5, true, false, {5, 5}},
    /* pooling: none, the largest, an even kernel, one wider than the prompt */
    {{"snapkv:cap=12,window=4,kernel=1", KVP_F32, 1, 40, 50, 6, 3, 16, 2, {0}, 0}, 4, 1, true, false, {12, 12}},
    {{"snapkv:cap=16,window=4,kernel=7,pooling=max", KVP_F32, 1, 60, 70, 4, 2, 16, 2, {0}, 0}, 4, 7, false, false, {16, 16}},
    {{"snapkv:cap=16,window=4,kernel=4,pooling=max", KVP_F32, 1, 60, 70, 4, 2, 16, 2, {0}, 0}, 4, 4, false, false, {16, 16}},
    {{"snapkv:cap=10,window=3,kernel=99", KVP_BF16, 1, 30, 36, 4, 2, 8, 1, {0}, 0}, 3, 99, true, false, {10}},
    /* rows once for each query head, which then chooses for itself */
    {{"snapkv:cap=12,window=4,heads=query", KVP_F32, 2, 40, 50, 6, 2, 8, 2, {0}, 0}, 4, 5, true, true, {12, 12}},
    {{"snapkv:cap=12,window=4,heads=query paged:4", KVP_F16, 1, 40, 50, 4, 4, 8, 2, {0}, 0}, 4, 5, true, true, {12, 12}},
    /* a layer that sees 9 tokens keeps 9 */
    {{"snapkv:cap=12,window=4", KVP_F32, 2, 40, 50, 4, 2, 8, 3, {0, 9, 0}, 0}, 4, 5, true, false, {12, 0, 12}},
    {{"snapkv:cap=12,window=4,heads=query growing", KVP_F32, 1, 7, 30, 4, 2, 8, 2, {9, 0}, 0}, 4, 5, true, true, {0, 7}},
    /* the stores hold the same rows */
    {{"snapkv:cap=12,window=4 growing", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, 4, 5, true, false, {12, 12}},
    {{"snapkv:cap=12,window=4 contiguous:64", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, 4, 5, true, false, {12, 12}},
    {{"snapkv:cap=12,window=4 paged:5", KVP_F16, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, 4, 5, true, false, {12, 12}},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

START_TEST(every_step)
{
    picks_run(&cases[_i / RIG_BACKENDS], rig_backends[_i % RIG_BACKENDS]);
}
END_TEST

/* Stores and tracing change no bit of what comes out. */
START_TEST(same_bits)
{
    static const char *const stacks[] = {"snapkv:cap=12,window=4", "snapkv:cap=12,window=4 growing", "snapkv:cap=12,window=4 contiguous:64",
                                         "snapkv:cap=12,window=4 paged:8"};
    static const struct rig_case c = {NULL, KVP_F16, 2, 40, 50, 4, 2, 8, 2, {0}, 0};

    rig_same_run(&c, stacks[0], stacks[_i / RIG_BACKENDS], rig_backends[_i % RIG_BACKENDS], 1e-6f);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
    uint64_t workspace;
} sizes[] = {
    /* 12 of 40 and 10 more: 22 slots; 2 tensors * 2 layers * 2 sequences * 2 kv heads * 22 * 8 * 4 bytes = 11264.
       scores 2 * 2 * 40 * 4 = 640, index 2 * 2 * 12 * 4 = 192 */
    {{"snapkv:cap=12,window=4", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, {11264, 0, 11264}, 832},
    /* twice the heads */
    {{"snapkv:cap=12,window=4,heads=query", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, {22528, 0, 22528}, 1664},
    /* nothing is dropped, so nothing is scored: 17 slots */
    {{"snapkv:cap=12,window=4", KVP_F32, 2, 7, 17, 4, 2, 8, 2, {0}, 0}, {8704, 0, 8704}, 0},
    /* room for 64 tokens of which 28 are gone: 36 slots */
    {{"snapkv:cap=12,window=4 contiguous:64", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, {18432, 0, 18432}, 832},
    /* 22 slots are 6 pages of 4: 24 slots, and a table of 2 * 6 * 4 */
    {{"snapkv:cap=12,window=4 paged:4", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, {12288, 48, 12336}, 832},
    /* the last V grows last, beside its 21 slots: 11264 + 21 * 128 */
    {{"snapkv:cap=12,window=4 growing", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, {11264, 0, 13952}, 832},
    /* a layer of 9 and one of 22 slots: 2 * 2 * 2 * 8 * 4 = 256 bytes each */
    {{"snapkv:cap=12,window=4", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {9, 0}, 0}, {7936, 0, 7936}, 832},
};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    struct rig r;

    rig_open(&r, &sizes[_i].c, "ref", false);
    for (int again = 0; again < 2; again++) {
        rig_all(&r, NULL, NULL);
        rig_check_bytes(&r, &sizes[_i].bytes);
        ck_assert_uint_eq(r.led.peak[LED_WORKSPACE], sizes[_i].workspace);
        rig_reset(&r);
    }
    rig_close(&r);
}
END_TEST

/* 44 tokens seen: every kept row is read by the next step, and no other byte. */
START_TEST(poison)
{
    static const struct rig_case c[] = {{"snapkv:cap=12,window=4", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0},
                                        {"snapkv:cap=12,window=4 paged:4", KVP_F16, 2, 40, 50, 4, 2, 8, 2, {0}, 0},
                                        {"snapkv:cap=12,window=4 contiguous:64", KVP_F16, 2, 40, 50, 4, 2, 8, 2, {0}, 0}};
    const uint64_t pos = (uint64_t)_i / 6;
    struct rig r;

    rig_open(&r, &c[_i % 3], rig_backends[_i / 3 % 2], true);
    while (r.seen < 44)
        rig_step(&r, NULL, NULL);
    ck_assert(pos < 36 || pos >= 44 || picks_keeps(&r, pos));
    rig_poison_step(&r, pos, picks_keeps(&r, pos));
    rig_close(&r);
}
END_TEST

static const struct picks_refusal refusals[] = {
    {{"snapkv:cap=8,window=8", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "cap is 8"},
    {{"snapkv:cap=9,window=8", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {4, 19}, 0}, KVP_ENOTSUP, "not applicable"},
};
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(refused)
{
    picks_refused(&refusals[_i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("snapkv");
    TCase *tc = tcase_create("snapkv");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, same_bits, 0, 4 * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, 46 * 6);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    suite_add_tcase(s, tc);
    return picks_main(s);
}
