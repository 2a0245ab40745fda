/* paged.c - rows in shuffled pages: the same rows within rounding, whole pages and tables to the byte */
#include "tests/techniques/rig.h"

#include "validate/caches/pages.h"

static const struct rig_case run = {"", KVP_F16, 2, 5, 24, 4, 2, 8, 2, {0}, 0};
static const char *const pairs[][2] = {{"", "paged:1"}, {"", "paged:7"}, {"", "paged"}, {"", "paged:64"},
                                       {"window:9", "window:9 paged:4"}, {"window:9", "window:9 paged:3"},
                                       {"h2o:heavy=3,recent=9", "h2o:heavy=3,recent=9 paged:5"}};
enum { N_PAIRS = sizeof(pairs) / sizeof(pairs[0]) };

/* ref sums in double in slot order, pages or not: bit for bit; cpu may begin a new partial sum at a page. */
START_TEST(same_run)
{
    rig_same_run(&run, pairs[_i / RIG_BACKENDS][0], pairs[_i / RIG_BACKENDS][1], rig_backends[_i % RIG_BACKENDS],
                 _i % RIG_BACKENDS ? 2e-6f : 0);
}
END_TEST

/* A slot of K or V is 2 sequences * 2 kv heads * 8 * 4 bytes = 128; a table entry 4, for both sequences 8. */
static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
} sizes[] = {
    /* 9 tokens in pages of 4: 12 slots, 3 pages; one table for both layers: 4 * 12 * 128, 3 * 8 */
    {{"paged:4", KVP_F32, 2, 3, 9, 4, 2, 8, 2, {0}, 0}, {6144, 24, 6168}},
    /* 8 tokens fill 2 pages: no rounding */
    {{"paged:4", KVP_F32, 2, 3, 8, 4, 2, 8, 2, {0}, 0}, {4096, 16, 4112}},
    /* one page of 16 by default: 4 * 16 * 128 */
    {{"paged", KVP_F32, 2, 3, 9, 4, 2, 8, 2, {0}, 0}, {8192, 8, 8200}},
    /* a window of 5: 2 pages of 4 */
    {{"window:5 paged:4", KVP_F32, 2, 3, 20, 4, 2, 8, 2, {0}, 0}, {4096, 16, 4112}},
    /* layers with 5, 20 and 6 slots: 2, 5 and 2 pages, so two tables: 2 * 36 * 128, (2 + 5) * 8 */
    {{"paged:4", KVP_F32, 2, 3, 20, 4, 2, 8, 3, {5, 0, 6}, 0}, {9216, 56, 9272}},
    /* pages of one slot: no rounding, a table of 9 */
    {{"paged:1", KVP_F32, 2, 3, 9, 4, 2, 8, 1, {0}, 0}, {2304, 72, 2376}},
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

/* 2 sequences of 10 and of 3 pages: each table holds every page once, in no order, and the device has what
 * the host has. */
START_TEST(tables)
{
    static const struct rig_case c = {"paged:4", KVP_F32, 2, 3, 40, 4, 2, 8, 3, {0}, 0};
    static const uint64_t per_layer[] = {10, 3, 10};
    struct pages *p = NULL;
    int32_t device[20];
    bool seen[20] = {false}, straight = true;
    uint64_t stride, other;
    struct kb_span t;
    struct rig r;

    rig_prepare(&r, &c, "ref", false);
    RIG_OK(&r, pages_open(&p, &r.env, per_layer, &e));
    t = pages_table(p, 0, &stride);
    ck_assert_uint_eq(stride, 10);
    ck_assert_ptr_eq(t.buf, pages_table(p, 2, &other).buf);
    ck_assert_ptr_ne(t.buf, pages_table(p, 1, &other).buf);
    ck_assert_uint_eq(other, 3);
    RIG_OK(&r, r.be->read(r.dev, t, device, sizeof(device), &e));
    for (uint64_t i = 0; i < 20; i++) {
        ck_assert_uint_eq(pages_at(p, 0, i / 10, i % 10), (uint64_t)device[i]);
        ck_assert(device[i] >= 0 && device[i] < 20 && !seen[device[i]]);
        seen[device[i]] = true;
        straight = straight && device[i] == (int32_t)i;
    }
    ck_assert(!straight);
    pages_close(p);
    rig_close(&r);
}
END_TEST

/* 2^31 pages are one more than an i32 can count. */
START_TEST(too_many)
{
    static const struct rig_case c = {"paged:1", KVP_F32, 2, 1, 1, 1, 1, 8, 1, {0}, 0};
    static const uint64_t per_layer[] = {(uint64_t)1 << 30};
    struct kvp_error e = {0};
    struct pages *p = NULL;
    struct rig r;

    rig_prepare(&r, &c, "ref", false);
    ck_assert_int_eq(pages_open(&p, &r.env, per_layer, &e), KVP_ERANGE);
    ck_assert_ptr_null(p);
    rig_close(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("paged");
    TCase *tc = tcase_create("paged");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, same_run, 0, N_PAIRS * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_test(tc, tables);
    tcase_add_test(tc, too_many);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
