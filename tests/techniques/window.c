/* window.c - dense and window caches against attention over the whole history with a mask */
#include "tests/techniques/rig.h"

/* What layer l may see when the stack's windows have been applied; worked out by hand for each case. */
static const struct {
    struct rig_case c;
    uint64_t sees[RIG_LAYERS]; /* 0: all */
} cases[] = {
    {{"", KVP_F32, 1, 3, 9, 2, 2, 8, 2, {0}, 0}, {0, 0}},
    {{"", KVP_F16, 2, 5, 12, 4, 2, 16, 2, {0}, 0}, {0, 0}},
    {{"", KVP_BF16, 2, 1, 7, 6, 2, 4, 1, {0}, 0}, {0}},
    /* the model's own windows: shorter and longer than the prompt, and one that never fills */
    {{"", KVP_F32, 1, 7, 20, 4, 1, 8, 3, {5, 0, 64}, 0}, {5, 0, 64}},
    /* contexts around W = 5: 4, 5, 6, and the prompt at 1, W - 1, W, W + 1, 2W and 2W + 3 */
    {{"window:5", KVP_F32, 1, 1, 4, 2, 2, 8, 1, {0}, 0}, {5}},
    {{"window:5", KVP_F32, 2, 4, 5, 4, 2, 8, 2, {0}, 0}, {5, 5}},
    {{"window:5", KVP_F16, 2, 5, 6, 4, 2, 8, 2, {0}, 0}, {5, 5}},
    {{"window:5", KVP_F32, 1, 4, 19, 4, 2, 8, 2, {0}, 0}, {5, 5}},
    {{"window:5", KVP_BF16, 2, 6, 18, 4, 1, 8, 2, {0}, 0}, {5, 5}},
    {{"window:5", KVP_F32, 2, 10, 21, 2, 2, 16, 1, {0}, 0}, {5}},
    {{"window:5", KVP_F16, 1, 13, 29, 8, 2, 8, 2, {0}, 0}, {5, 5}},
    {{"window:1", KVP_F32, 1, 3, 8, 2, 1, 8, 1, {0}, 0}, {1}},
    /* a hybrid: only windows that exist are narrowed */
    {{"window:4", KVP_F32, 2, 6, 15, 4, 2, 8, 3, {0, 8, 3}, 0}, {0, 4, 3}},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

/* Prompt attention reads f32 activations, a step reads rows of the cache's format. */
static void check_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    const struct rig_case *c = r->c;
    const uint64_t window = ((const uint64_t *)arg)[layer];
    double *k = rig_zalloc(c->context * c->dim, sizeof(*k)), *v = rig_zalloc(c->context * c->dim, sizeof(*v)), want[64];

    for (uint64_t i = 0; i < c->batch * c->heads * tokens; i++) {
        const uint64_t b = i / c->heads / tokens, t = i % tokens, query = r->seen + t;
        const uint32_t h = (uint32_t)(i / tokens % c->heads), g = h / (c->heads / c->kv_heads);
        uint64_t n = 0;

        for (uint64_t j = 0; j <= query; j++) {
            if (window && query - j >= window)
                continue;
            for (uint32_t d = 0; d < c->dim; d++) {
                const double kj = (double)rig_k(r, layer, b, j, g)[d], vj = (double)rig_v(r, layer, b, j, g)[d];

                k[n * c->dim + d] = r->seen ? rig_round(kj, c->format) : kj;
                v[n * c->dim + d] = r->seen ? rig_round(vj, c->format) : vj;
            }
            n++;
        }
        rig_attend(rig_q(r, layer, b, query, h), k, v, n, c->dim, want);
        rig_same(r, rig_out(r, b, t, tokens, h), want, "attention", query);
    }
    free(k);
    free(v);
}

START_TEST(every_step)
{
    uint64_t sees[RIG_LAYERS];
    struct rig r;

    memcpy(sees, cases[_i / RIG_BACKENDS].sees, sizeof(sees));
    rig_open(&r, &cases[_i / RIG_BACKENDS].c, rig_backends[_i % RIG_BACKENDS], false);
    rig_all(&r, check_layer, sees);
    rig_close(&r);
}
END_TEST

/* A second run after reset gives the same bits from the same bytes. */
START_TEST(reset_repeats)
{
    const struct rig_case *c = &cases[_i].c;
    const uint64_t n = c->batch * c->heads * c->dim;
    float *first = rig_zalloc(n, sizeof(*first));
    uint64_t peak, now;
    struct rig r;

    rig_open(&r, c, "cpu", false);
    rig_all(&r, NULL, NULL);
    memcpy(first, r.result, n * sizeof(*first));
    peak = r.led.cache_peak;
    now = r.led.now[LED_CACHE];
    rig_reset(&r);
    rig_all(&r, NULL, NULL);
    ck_assert_mem_eq(first, r.result, n * sizeof(*first));
    ck_assert_uint_eq(r.led.cache_peak, peak);
    ck_assert_uint_eq(r.led.now[LED_CACHE], now);
    rig_close(&r);
    free(first);
}
END_TEST

/* Bytes of K and V over all layers, at the end of the run; nothing is transient, so the peak is the same. */
static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
} sizes[] = {
    /* 2 tensors * 2 layers * 9 tokens * 2 heads * 8 * 4 bytes = 2304 */
    {{"", KVP_F32, 1, 3, 9, 2, 2, 8, 2, {0}, 0}, {2304, 0, 2304}},
    /* 2 * 2 * 2 sequences * 12 * 2 kv heads (of 4 heads) * 16 * 2 bytes = 6144 */
    {{"", KVP_F16, 2, 5, 12, 4, 2, 16, 2, {0}, 0}, {6144, 0, 6144}},
    /* layers keep 5, 20 and 20 (a window of 64 never fills): 45 * 2 * 1 * 8 * 4 = 2880 */
    {{"", KVP_F32, 1, 7, 20, 4, 1, 8, 3, {5, 0, 64}, 0}, {2880, 0, 2880}},
    /* T = 4 < W: 2 * 4 * 2 * 8 * 4 = 512; T = 19 > W: 2 * 2 layers * 5 * 2 * 8 * 4 = 1280 */
    {{"window:5", KVP_F32, 1, 1, 4, 2, 2, 8, 1, {0}, 0}, {512, 0, 512}},
    {{"window:5", KVP_F32, 1, 4, 19, 4, 2, 8, 2, {0}, 0}, {1280, 0, 1280}},
    /* a hybrid keeps 15, 4 and 3: 22 * 2 tensors * 2 sequences * 2 heads * 8 * 4 = 5632 */
    {{"window:4", KVP_F32, 2, 6, 15, 4, 2, 8, 3, {0, 8, 3}, 0}, {5632, 0, 5632}},
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

/* A step: one attention a layer, and K and V each written by one call. */
START_TEST(calls)
{
    static const struct rig_case c = {"window:5", KVP_F32, 1, 4, 6, 2, 2, 8, 2, {0}, 0};
    struct rig r;

    rig_open(&r, &c, "ref", false);
    rig_step(&r, NULL, NULL);
    memset(r.calls, 0, sizeof(r.calls));
    rig_step(&r, NULL, NULL);
    ck_assert_uint_eq(r.calls[KVP_OP_ATTN], 2);
    ck_assert_uint_eq(r.calls[KVP_OP_APPEND], 4);
    ck_assert_uint_eq(r.calls[KVP_OP_GROW], 0);
    rig_close(&r);
}
END_TEST

START_TEST(kept)
{
    static const struct rig_case c = {"window:4", KVP_F32, 2, 6, 9, 4, 2, 8, 3, {0, 8, 3}, 0};
    static const int64_t from[] = {0, 5, 6}; /* of 9 tokens: all, the last 4, the last 3 */
    json_t *lines;
    struct rig r;

    rig_open(&r, &c, "ref", true);
    rig_all(&r, NULL, NULL);
    lines = rig_dump(&r, r.ops->dump_kept);
    ck_assert_uint_eq(json_array_size(lines), 3);
    for (size_t l = 0; l < 3; l++) {
        const json_t *line = json_array_get(lines, l), *pos = json_object_get(line, "positions");

        ck_assert_int_eq(rig_int(line, "layer"), (int64_t)l);
        ck_assert_int_eq(rig_int(line, "head"), -1);
        ck_assert_uint_eq(json_array_size(pos), (size_t)(9 - from[l]));
        for (size_t i = 0; i < json_array_size(pos); i++)
            ck_assert_int_eq(json_integer_value(json_array_get(pos, i)), from[l] + (int64_t)i);
    }
    json_decref(lines);
    rig_close(&r);
}
END_TEST

/* The dump is the history, rounded to the format, in text order. */
START_TEST(dumped_rows)
{
    static const struct rig_case c = {"window:4 paged:2", KVP_F16, 2, 6, 9, 4, 2, 8, 1, {0}, 0};
    const json_t *k, *v;
    json_t *lines;
    struct rig r;

    rig_open(&r, &c, "ref", false);
    rig_all(&r, NULL, NULL);
    lines = rig_dump(&r, r.ops->dump_cache);
    k = rig_tensor(&r, lines, 0, "k", KVP_F16, (const uint64_t[]){2, 2, 4, 8});
    v = rig_tensor(&r, lines, 0, "v", KVP_F16, (const uint64_t[]){2, 2, 4, 8});
    for (size_t i = 0; i < 2 * 2 * 4 * 8; i++) {
        const uint64_t b = i / 64, t = 5 + i / 8 % 4;
        const uint32_t g = i / 32 % 2;

        ck_assert(rig_number(k, i) == (float)rig_round((double)rig_k(&r, 0, b, t, g)[i % 8], KVP_F16));
        ck_assert(rig_number(v, i) == (float)rig_round((double)rig_v(&r, 0, b, t, g)[i % 8], KVP_F16));
    }
    json_decref(lines);
    rig_close(&r);
}
END_TEST

/* 9 tokens seen: which positions are stored, and does the next step of 10 read them? With W = 4 the step
 * overwrites the oldest, position 5, before it attends: so that is asked with position 6. */
static const struct {
    struct rig_case c;
    uint64_t pos;
    bool stored;
} poisons[] = {
    {{"", KVP_F32, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 0, true},
    {{"", KVP_F16, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 8, true},
    {{"", KVP_F32, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 9, false}, /* not yet seen: unallocated slots 9..11 */
    {{"window:4", KVP_BF16, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 6, true},
    {{"window:4", KVP_F32, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 8, true},
    {{"window:4", KVP_F32, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 4, false}, /* evicted */
    {{"window:4 contiguous:64", KVP_F32, 2, 2, 12, 4, 2, 8, 2, {0}, 0}, 0, false},
    {{"contiguous:64", KVP_F16, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 40, false},
    {{"paged:5", KVP_F32, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 3, true},
    {{"paged:5", KVP_F32, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 11, false}, /* rounding: slots 12..14 */
    {{"window:4 paged:16", KVP_F16, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 7, true},
    {{"growing", KVP_F32, 2, 6, 12, 4, 2, 8, 2, {0}, 0}, 2, true},
};
enum { N_POISONS = sizeof(poisons) / sizeof(poisons[0]) };

START_TEST(poison)
{
    struct rig r;

    rig_open(&r, &poisons[_i / RIG_BACKENDS].c, rig_backends[_i % RIG_BACKENDS], true);
    while (r.seen < 9)
        rig_step(&r, NULL, NULL);
    rig_poison_step(&r, poisons[_i / RIG_BACKENDS].pos, poisons[_i / RIG_BACKENDS].stored);
    rig_close(&r);
}
END_TEST

START_TEST(unknown_technique)
{
    struct kvp_stack s = {.n = 1, .spec = {{.name = "nonesuch", .axis = KVP_AXIS_SELECT}}};
    const struct cache_ops *ops = NULL;
    struct kvp_error e = {0};

    ck_assert_int_eq(cache_find(&ops, &s, &e), KVP_ENOTSUP);
    ck_assert_ptr_nonnull(strstr(e.text, "nonesuch"));
}
END_TEST

/* 2^62 tokens of 32 bytes do not fit in 64 bits, and nothing may be held after the refusal. */
START_TEST(overflow)
{
    static const struct rig_case c = {"", KVP_F32, 1, 1, 1, 1, 1, 8, 1, {0}, 0};
    struct kvp_error e = {0};
    struct rig r;

    rig_prepare(&r, &c, "ref", false);
    r.env.context = (uint64_t)1 << 62;
    ck_assert_int_eq(r.ops->open(&r.cache, &r.env, &e), KVP_ERANGE);
    ck_assert_ptr_null(r.cache);
    rig_close(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("window");
    TCase *tc = tcase_create("dense and window");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, reset_repeats, 0, N_CASES);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_test(tc, calls);
    tcase_add_test(tc, kept);
    tcase_add_test(tc, dumped_rows);
    tcase_add_loop_test(tc, poison, 0, N_POISONS * RIG_BACKENDS);
    tcase_add_test(tc, unknown_technique);
    tcase_add_test(tc, overflow);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
