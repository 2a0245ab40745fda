/* pyramidkv.c - budgets that fall from layer to layer, worked by hand from the two public rules; within a layer the
 * choice is SnapKV's (picks.h)
 *
 * official (KVCache-Factory pyramidkv_utils.py): C = cap - window, lo = C // beta, hi = 2C - lo; hi beyond q - window
 * is cut to it and lo = 2C - hi; layer l keeps hi - l * ((hi - lo) // (L - 1)) and the window.
 * kvpress (pyramidkv_press.py): C = q * (1 - ratio), in real numbers, the window inside. */
#include "tests/techniques/picks.h"

#define MAX7 .kernel = 7, .average = false

static const struct picks_case cases[] = {
    /* C 8, lo 2, hi 14, step 6: 14, 8, 2 and the window of 4 */
    {{"pyramidkv:cap=12,window=4,beta=4", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, 4, MAX7, .kept = {18, 12, 6}},
    /* lo 8 div 20 = 0: the top layer keeps its window only */
    {{"pyramidkv:cap=12,window=4", KVP_F32, 2, 40, 48, 4, 2, 8, 3, {0}, 0}, 4, MAX7, .kept = {20, 12, 4}},
    /* step 13 div 2 = 6: 14 (hi) 8, 2; not 1 (lo) */
    {{"pyramidkv:cap=12,window=4,beta=5", KVP_F32, 1, 40, 46, 4, 4, 8, 3, {0}, 0}, 4, MAX7, .kept = {19, 12, 5}},
    /* C 12, hi 23 is beyond 26 - 4: 22 and 2, step 10; the bottom layer keeps all */
    {{"pyramidkv:cap=16,window=4,beta=12", KVP_F32, 1, 26, 30, 4, 2, 8, 3, {0}, 0}, 4, MAX7, .kept = {26, 16, 6}},
    /* q < 2C: cap in every layer; q = cap; q < cap: all */
    {{"pyramidkv:cap=16,window=4", KVP_F16, 2, 20, 26, 4, 2, 8, 3, {0}, 0}, 4, MAX7, .kept = {16, 16, 16}},
    {{"pyramidkv:cap=16,window=4", KVP_F32, 1, 16, 20, 4, 2, 8, 3, {0}, 0}, 4, MAX7, .kept = {16, 16, 16}},
    {{"pyramidkv:cap=16,window=4", KVP_F32, 1, 15, 20, 4, 2, 8, 3, {0}, 0}, 4, MAX7, .kept = {15, 15, 15}},
    /* one layer: hi */
    {{"pyramidkv:cap=12,window=4,beta=4", KVP_F32, 1, 40, 44, 4, 2, 8, 1, {0}, 0}, 4, MAX7, .kept = {18}},
    /* the layer that sees 9 tokens is not counted: two steps of 12 */
    {{"pyramidkv:cap=12,window=4,beta=4", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0, 9, 0}, 0}, 4, MAX7, .kept = {18, 0, 6}},
    {{"pyramidkv:cap=12,window=4,beta=4,kernel=5,pooling=avg", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, 4, 5, true, false, {18, 12, 6}},
    {{"pyramidkv:cap=12,window=4,beta=4,heads=query", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, 4, 7, false, true, {18, 12, 6}},
    /* kvpress, ratio 0.5 of 40: C 20, lo 1, hi 39, cut to 38 and 2; 1 below the window of 2: 20 in every layer */
    {{"pyramidkv:rule=kvpress,ratio=0.5,window=2", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, 2, MAX7, .kept = {38, 20, 2}},
    {{"pyramidkv:rule=kvpress,ratio=0.5,window=3", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, 3, MAX7, .kept = {37, 20, 3}},
    {{"pyramidkv:rule=kvpress,ratio=0.75,window=2", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, 2, MAX7, .kept = {10, 10, 10}},
    /* C 10, beta 4: lo 2.5, hi 17.5: 17.5 is 18 (to even), 10, 2.5 is 2 */
    {{"pyramidkv:rule=kvpress,ratio=0.75,window=2,beta=4", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, 2, MAX7, .kept = {18, 10, 2}},
    /* fewer than the window: the newest */
    {{"pyramidkv:rule=kvpress,ratio=0.9,window=8", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, 8, MAX7, .kept = {4, 4, 4}},
    /* the stores hold the same rows */
    {{"pyramidkv:cap=12,window=4,beta=4 growing", KVP_F32, 2, 40, 48, 4, 2, 8, 3, {0}, 0}, 4, MAX7, .kept = {18, 12, 6}},
    {{"pyramidkv:cap=12,window=4,beta=4 contiguous:60", KVP_F16, 2, 40, 48, 4, 2, 8, 3, {0}, 0}, 4, MAX7, .kept = {18, 12, 6}},
    {{"pyramidkv:cap=12,window=4,beta=4 paged:4", KVP_F16, 2, 40, 48, 4, 2, 8, 3, {0}, 0}, 4, MAX7, .kept = {18, 12, 6}},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

START_TEST(every_step)
{
    picks_run(&cases[_i / RIG_BACKENDS], rig_backends[_i % RIG_BACKENDS]);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
    uint64_t workspace;
} sizes[] = {
    /* 18 + 12 + 6 of 40 and 8 more in each layer: 60 slots of 2 * 2 * 8 * 4 = 128 bytes;
       scores 2 * 40 * 4 = 320, index of the bottom layer 2 * 18 * 4 = 144 */
    {{"pyramidkv:cap=12,window=4,beta=4", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, {7680, 0, 7680}, 464},
    /* room for 60 tokens: 12 slots more in each layer */
    {{"pyramidkv:cap=12,window=4,beta=4 contiguous:60", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, {12288, 0, 12288}, 464},
    /* 26, 20 and 14 slots: 7, 5 and 4 pages of 4, three tables of 28, 20 and 16 bytes */
    {{"pyramidkv:cap=12,window=4,beta=4 paged:4", KVP_F32, 1, 40, 48, 4, 2, 8, 3, {0}, 0}, {8192, 64, 8256}, 464},
    /* layers of 20, 20 and 20 share one */
    {{"pyramidkv:cap=12,window=4,beta=4 paged:4", KVP_F32, 1, 12, 20, 4, 2, 8, 3, {0}, 0}, {7680, 20, 7700}, 0},
};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    struct rig r;

    rig_open(&r, &sizes[_i].c, "ref", false);
    rig_all(&r, NULL, NULL);
    rig_check_bytes(&r, &sizes[_i].bytes);
    ck_assert_uint_eq(r.led.peak[LED_WORKSPACE], sizes[_i].workspace);
    rig_close(&r);
}
END_TEST

START_TEST(poison)
{
    static const struct rig_case c = {"pyramidkv:cap=12,window=4,beta=4 paged:4", KVP_F16, 2, 40, 48, 4, 2, 8, 3, {0}, 0};
    const uint64_t pos = (uint64_t)_i / 2;
    struct rig r;

    rig_open(&r, &c, rig_backends[_i % 2], true);
    while (r.seen < 43)
        rig_step(&r, NULL, NULL);
    rig_poison_step(&r, pos, picks_keeps(&r, pos));
    rig_close(&r);
}
END_TEST

static const struct picks_refusal refusals[] = {
    {{"pyramidkv:cap=8,window=8", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "cap is 8"},
    {{"pyramidkv:rule=kvpress", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "ratio"},
    {{"pyramidkv:ratio=0.5", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "ratio"},
    {{"pyramidkv:rule=kvpress,ratio=0.5,heads=query", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "kv heads"},
    {{"pyramidkv:cap=9", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {3}, 0}, KVP_ENOTSUP, "not applicable"},
};
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(refused)
{
    picks_refused(&refusals[_i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pyramidkv");
    TCase *tc = tcase_create("pyramidkv");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, 45 * RIG_BACKENDS);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    suite_add_tcase(s, tc);
    return picks_main(s);
}
