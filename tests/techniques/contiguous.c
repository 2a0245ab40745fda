/* contiguous.c - strips for the longest sequence: the same rows, more bytes, all of them from the start */
#include "tests/techniques/rig.h"

static const struct rig_case run = {"", KVP_F16, 2, 5, 24, 4, 2, 8, 2, {0}, 0};
static const char *const pairs[][2] = {{"", "contiguous:64"}, {"", "contiguous:24"}, {"window:5", "window:5 contiguous:64"},
                                       {"window:60", "window:60 contiguous"},
                                       {"h2o:heavy=3,recent=9", "h2o:heavy=3,recent=9 contiguous:100"}};
enum { N_PAIRS = sizeof(pairs) / sizeof(pairs[0]) };

START_TEST(same_run)
{
    rig_same_run(&run, pairs[_i / RIG_BACKENDS][0], pairs[_i / RIG_BACKENDS][1], rig_backends[_i % RIG_BACKENDS], 0);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
} sizes[] = {
    /* 2 tensors * 2 layers * 2 sequences * 64 slots * 2 kv heads * 8 * 4 bytes = 32768, whatever the run */
    {{"contiguous:64", KVP_F32, 2, 3, 9, 4, 2, 8, 2, {0}, 0}, {32768, 0, 32768}},
    {{"contiguous:64", KVP_F32, 2, 3, 64, 4, 2, 8, 2, {0}, 0}, {32768, 0, 32768}},
    /* the model's 48 positions: 2 * 1 * 1 * 48 * 2 * 8 * 2 = 3072 */
    {{"contiguous", KVP_F16, 1, 3, 9, 4, 2, 8, 1, {0}, 48}, {3072, 0, 3072}},
    /* a window of 5 needs no more than 5, even when the run is shorter: 2 * 1 * 2 * 5 * 2 * 8 * 4 = 1280 */
    {{"window:5 contiguous:64", KVP_F32, 2, 3, 4, 4, 2, 8, 1, {0}, 0}, {1280, 0, 1280}},
    {{"window:5 contiguous:64", KVP_F32, 2, 3, 20, 4, 2, 8, 1, {0}, 0}, {1280, 0, 1280}},
    /* a hybrid: 5 + 64 slots: 2 * 69 * 2 * 2 * 8 * 4 = 17664 */
    {{"contiguous:64", KVP_F32, 2, 3, 20, 4, 2, 8, 2, {5, 0}, 0}, {17664, 0, 17664}},
    /* a window of the model that is longer than the strip: 2 * 64 * 1 * 8 * 2 = 2048 */
    {{"contiguous:64", KVP_BF16, 1, 3, 20, 4, 1, 8, 1, {100}, 0}, {2048, 0, 2048}},
};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    struct rig r;

    rig_open(&r, &sizes[_i].c, "ref", false);
    rig_check_bytes(&r, &sizes[_i].bytes);
    rig_all(&r, NULL, NULL);
    rig_check_bytes(&r, &sizes[_i].bytes);
    rig_close(&r);
}
END_TEST

static const struct {
    struct rig_case c;
    const char *says;
} refusals[] = {
    {{"contiguous:19", KVP_F32, 1, 5, 20, 2, 2, 8, 1, {0}, 0}, "max_len is 19"},
    {{"contiguous", KVP_F32, 1, 5, 20, 2, 2, 8, 1, {0}, 16}, "max_len is 16"},
};

START_TEST(refused)
{
    struct kvp_error e = {0};
    struct rig r;

    rig_prepare(&r, &refusals[_i].c, "ref", false);
    ck_assert_int_eq(r.ops->open(&r.cache, &r.env, &e), KVP_EINPUT);
    ck_assert_msg(strstr(e.text, refusals[_i].says) != NULL, "%s", e.text);
    rig_close(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("contiguous");
    TCase *tc = tcase_create("contiguous");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, same_run, 0, N_PAIRS * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, refused, 0, 2);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
