/* calc_test.h - what the tests of calc/ share: a built-in model and a stack in one line, and a model so
 * small that its cache can be counted by hand. */
#ifndef TESTS_CALC_TEST_H
#define TESTS_CALC_TEST_H

#include <kvproof/kvproof.h>

#include <check.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* The last error of the helpers below. */
static struct kvp_error test_error;

/* Add the specs of `text` ("h2o paged:32"), separated by spaces. */
static kvp_err add_specs(struct kvp_stack *s, const char *text)
{
    char copy[256], *save = NULL;

    memset(&test_error, 0, sizeof(test_error));
    snprintf(copy, sizeof(copy), "%s", text);
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
        KVP_TRY(kvp_stack_add(s, w, &test_error));
    return KVP_OK;
}

static kvp_err try_estimate(struct kvp_estimate *out, const struct kvp_model *m, const char *specs, struct kvp_workload w,
                            struct kvp_options o, const struct kvp_device *d)
{
    struct kvp_stack s = {0};

    KVP_TRY(add_specs(&s, specs));
    return kvp_estimate(out, m, &s, &w, &o, d, &test_error);
}

/* An estimate that must succeed. */
__attribute__((unused)) static struct kvp_estimate estimate_of(const struct kvp_model *m, const char *specs, struct kvp_workload w, struct kvp_options o)
{
    struct kvp_estimate est;
    kvp_err rc = try_estimate(&est, m, specs, w, o, NULL);

    ck_assert_msg(rc == KVP_OK, "%s, %s, context %" PRIu64 ": %s", m->name, specs, w.context, test_error.text);
    return est;
}

__attribute__((unused)) static struct kvp_model load(const char *name)
{
    struct kvp_model m;
    struct kvp_error e = {0};

    ck_assert_msg(kvp_model_load(&m, name, &e) == KVP_OK, "%s", e.text);
    return m;
}

/* Two layers, 2 query heads on 1 kv head of 4 channels, f32: a row of k or v is 16 bytes. With `hybrid` the
 * first layer sees 2 tokens only. */
__attribute__((unused)) static struct kvp_model tiny(bool hybrid)
{
    static struct kvp_layer_class same[1], two[2];
    static uint32_t of_same[2] = {0, 0}, of_two[2] = {0, 1};
    const struct kvp_layer_class c = {.count = 2, .mixer = KVP_MIX_ATTENTION, .heads = 2, .kv_heads = 1, .head_dim = 4, .v_head_dim = 4, .norms = 2,
                                      .ffn = KVP_FFN_GATED, .ffn_width = 16};
    struct kvp_model m = {.name = "tiny", .vocab = 10, .width = 8, .layers = 2, .max_positions = 64, .dtype = KVP_F32, .norm_vectors = 1};

    same[0] = two[0] = two[1] = c;
    two[0].count = two[1].count = 1;
    two[0].window = 2;
    m.classes = hybrid ? 2 : 1;
    m.cls = hybrid ? two : same;
    m.class_of = hybrid ? of_two : of_same;
    return m;
}

__attribute__((unused)) static int run(const char *name, TCase *const *cases, size_t n)
{
    Suite *s = suite_create(name);
    SRunner *r;
    int failed;

    for (size_t i = 0; i < n; i++)
        suite_add_tcase(s, cases[i]);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}

#endif
