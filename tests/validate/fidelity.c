/* fidelity.c - logits beside the full cache's: by hand, by laws, and through whole runs. */
#include "tests/validate/tiny.h"
#include "validate/compare.h"
#include "validate/measure/fidelity.h"

#include <jansson.h>
#include <unistd.h>

/* ---- rows ------------------------------------------------------------------------------------------- */

static double error_of(const float *full, const float *got, uint32_t n)
{
    struct fidelity f = {0};

    fidelity_add(&f, full, got, n);
    return fidelity_error(&f);
}

static double divergence_of(const float *full, const float *got, uint32_t n)
{
    struct fidelity f = {0};

    fidelity_add(&f, full, got, n);
    return fidelity_divergence(&f);
}

/* Logits ln 1, ln 2, ln 1 are 1/4, 1/2, 1/4, and ln 2, ln 1, ln 1 are 1/2, 1/4, 1/4: the divergence is
 * 1/4 ln(1/2) + 1/2 ln 2 + 1/4 ln 1 = ln(2) / 4. The difference has two entries of ln 2, the full row one. */
START_TEST(three_logits_by_hand)
{
    const float ln2 = (float)log(2), full[3] = {0, ln2, 0}, got[3] = {ln2, 0, 0}, zero[3] = {0};
    struct fidelity two = {0};

    ck_assert(fabs(divergence_of(full, got, 3) - log(2) / 4) < 1e-7);
    ck_assert(fabs(error_of(full, got, 3) - sqrt(2)) < 1e-7);
    ck_assert(error_of(zero, zero, 3) == 0);
    fidelity_add(&two, full, got, 3); /* a mean over rows, and one error over all of them */
    fidelity_add(&two, full, full, 3);
    ck_assert_uint_eq(two.rows, 2);
    ck_assert(fabs(fidelity_divergence(&two) - log(2) / 8) < 1e-7);
    ck_assert(fabs(fidelity_error(&two) - 1) < 1e-7);
}
END_TEST

static void at_random(float *x, int n, float size)
{
    for (int i = 0; i < n; i++)
        x[i] = size * (2.0f * (float)rand() / (float)RAND_MAX - 1);
}

/* As the textbook has it; good where nothing is extreme. */
static double slow_divergence(const float *full, const float *got, int n)
{
    double p = 0, q = 0, sum = 0;

    for (int i = 0; i < n; i++) {
        p += exp(full[i]);
        q += exp(got[i]);
    }
    for (int i = 0; i < n; i++)
        sum += exp(full[i]) / p * log(exp(full[i]) / p / (exp(got[i]) / q));
    return sum;
}

enum { N = 200 };

START_TEST(laws)
{
    static const float sizes[] = {1e-6f, 1, 10, 3000};
    float x[N], y[N], shifted[N], twice[N];

    srand(7);
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
        for (int repeat = 0; repeat < 50; repeat++) {
            at_random(x, N, sizes[s]);
            at_random(y, N, sizes[s]);
            for (int i = 0; i < N; i++) {
                shifted[i] = y[i] + 4;
                twice[i] = 2 * x[i];
            }
            ck_assert(error_of(x, x, N) == 0);
            ck_assert(divergence_of(x, x, N) == 0);
            ck_assert(divergence_of(x, y, N) > 0);
            ck_assert(isfinite(divergence_of(x, y, N)));
            ck_assert(fabs(error_of(x, twice, N) - 1) < 1e-12); /* |2x - x| / |x| */
            if (sizes[s] == 1 || sizes[s] == 10) {
                const double kl = slow_divergence(x, y, N);

                ck_assert_msg(fabs(divergence_of(x, y, N) - kl) < 1e-9 * (1 + kl), "%g, slowly %g", divergence_of(x, y, N), kl);
                ck_assert(fabs(divergence_of(x, shifted, N) - kl) < 1e-4 * (1 + kl)); /* a constant changes no distribution */
            }
        }
}
END_TEST

START_TEST(what_is_not_finite)
{
    const float full[2] = {0, 1}, bad[][2] = {{NAN, 1}, {INFINITY, 1}, {0, -INFINITY}};

    for (int i = 0; i < 3; i++) {
        struct fidelity f = {0};

        fidelity_add(&f, full, bad[i], 2);
        ck_assert(f.broken);
    }
}
END_TEST

/* Of more rows than there is room for, the last ones. */
START_TEST(the_last_rows_are_kept)
{
    const uint32_t vocab = 1 << 20;
    struct kvp_error err = {0};
    struct heard h;

    must(heard_open(&h, 2, 100, vocab, &err));
    ck_assert_uint_eq((h.forwards - h.first) * 2 * vocab * sizeof(float), HEARD_BYTES);
    ck_assert_ptr_null(heard_rows(&h, h.first - 1));
    ck_assert_ptr_eq(heard_rows(&h, h.first + 1), h.logits + 2 * vocab);
    ck_assert_ptr_nonnull(heard_rows(&h, 99));
    ck_assert_ptr_null(heard_rows(&h, 100));
    heard_free(&h);
}
END_TEST

/* ---- whole runs ---------------------------------------------------------------------------------------- */

static char out[64], dumps[2][80];

static void setup(void)
{
    int fd;

    strcpy(out, "/tmp/kvproof-out-XXXXXX");
    fd = mkstemp(out);
    ck_assert_int_ge(fd, 0);
    close(fd);
    for (int i = 0; i < 2; i++)
        snprintf(dumps[i], sizeof(dumps[i]), "%s.%d", out, i);
}

static void teardown(void)
{
    unlink(out);
    for (int i = 0; i < 2; i++)
        unlink(dumps[i]);
}

enum { PROMPT = 19, GENERATE = 5 };

static json_t *run(const struct kvp_model *m, const struct kvp_stack *s, uint32_t n, uint64_t batch, const char *logits)
{
    struct kvp_error err = {0};
    struct val_request q = {.model = m, .stacks = s, .n_stacks = n, .backend = "cpu", .threads = 1, .seed = 1,
                            .workload = {.batch = batch, .prompt = PROMPT, .generate = GENERATE, .context = PROMPT + GENERATE},
                            .formats = {.weights_given = true, .kv_given = true}, .repeat = 1, .max_time_error = -1,
                            .format = "json", .out = out, .dump_logits = logits};
    json_t *res;

    must(val_run(&q, &err));
    res = json_load_file(out, 0, NULL);
    ck_assert_ptr_nonnull(res);
    return res;
}

static double field(const json_t *res, const char *name)
{
    const json_t *x = json_object_get(json_object_get(res, "fidelity"), name);

    return json_is_number(x) ? json_number_value(x) : NAN;
}

enum verdict { EXACT, NEAR, APART, TRAINING };
static const struct {
    const char *spec;
    enum verdict is;
} cases[] = {
    {"dense", EXACT}, {"contiguous:40", EXACT}, {"growing", EXACT}, {"paged:4", EXACT}, {"window:24", EXACT}, {"window:100", EXACT},
    {"h2o:heavy=12,recent=12", NEAR}, {"tova:24", NEAR}, {"quest:page=4,budget=40,dense=0", NEAR}, {"w:f32", EXACT},
    {"continuous-batching", EXACT}, {"chunked-prefill:16", NEAR}, {"streaming-llm:sink=4,recent=40", NEAR}, {"prefix:8", EXACT},
    {"kv:fp8", APART}, {"window:6", APART}, {"h2o:heavy=3,recent=3", APART}, {"kivi:bits=2,group=16,residual=16", APART}, {"w:int8", APART},
    {"gqa:1", TRAINING}, {"mqa", TRAINING}, {"cla", TRAINING}, {"recurrent:mamba", TRAINING},
};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

static void check(const json_t *res, const char *spec, enum verdict is, uint64_t batch)
{
    const double error = field(res, "relative_logit_error"), kl = field(res, "kl_divergence");
    const json_t *f = json_object_get(res, "fidelity");
    const char *note = json_string_value(json_object_get(f, "note"));

    ck_assert_str_eq(json_string_value(json_object_get(f, "against")), "dense");
    ck_assert_msg(json_is_true(json_object_get(f, "needs_training")) == (is == TRAINING), "%s", spec);
    if (is == TRAINING) {
        ck_assert(isnan(error) && isnan(kl));
        ck_assert_msg(note && strncmp(note, "needs training: ", 16) == 0, "%s says %s", spec, note);
        return;
    }
    ck_assert_str_eq(note, "random weights: not a statement about quality");
    ck_assert(field(res, "rows") == (double)(batch * (1 + GENERATE)));
    ck_assert_msg(is != EXACT || (error == 0 && kl == 0), "%s: %g, %g", spec, error, kl);
    ck_assert_msg(is != NEAR || (error < 1e-5 && kl < 1e-9), "%s: %g, %g", spec, error, kl);
    ck_assert_msg(is != APART || (error > 1e-4 && kl > 1e-9), "%s: %g, %g", spec, error, kl);
    ck_assert_msg(kl >= 0, "%s: %g", spec, kl);
}

static void load_wide(struct kvp_model *m)
{
    static const char config[] = "{\"model_type\":\"llama\",\"vocab_size\":61,\"hidden_size\":64,\"num_hidden_layers\":3,"
                                 "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"intermediate_size\":48,"
                                 "\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"max_position_embeddings\":256,"
                                 "\"tie_word_embeddings\":false,\"torch_dtype\":\"float32\"}";
    struct kvp_error err = {0};

    must(kvp_model_parse(m, config, strlen(config), "wide", &err));
}

/* All of them in one list, held against one run of the full cache, and some by themselves: the same numbers. */
START_TEST(a_list)
{
    const uint64_t batch = (uint64_t)_i + 1;
    static struct kvp_stack stacks[CASES];
    struct kvp_error err = {0};
    struct kvp_model m;
    json_t *all, *one;

    memset(stacks, 0, sizeof(stacks));
    load_wide(&m);
    for (int i = 0; i < CASES; i++)
        must(kvp_stack_add(&stacks[i], cases[i].spec, &err));
    all = run(&m, stacks, CASES, batch, NULL);
    ck_assert_uint_eq(json_array_size(all), CASES);
    for (int i = 0; i < CASES; i++) {
        ck_assert_msg(!json_object_get(json_array_get(all, (size_t)i), "not_applicable"), "%s", cases[i].spec);
        check(json_array_get(all, (size_t)i), cases[i].spec, cases[i].is, batch);
        if (i % 8 || batch > 1) /* a run probes the machine first, which takes its time */
            continue;
        one = run(&m, &stacks[i], 1, batch, NULL);
        ck_assert_msg(json_equal(json_object_get(one, "fidelity"), json_object_get(json_array_get(all, (size_t)i), "fidelity")), "%s",
                      cases[i].spec);
        json_decref(one);
    }
    json_decref(all);
    kvp_model_free(&m);
}
END_TEST

static void read_last_rows(const char *path, float *x)
{
    const size_t n = (1 + GENERATE) * TINY_VOCAB;
    FILE *f = fopen(path, "rb");

    ck_assert(f && fseek(f, -(long)(n * sizeof(float)), SEEK_END) == 0);
    ck_assert_uint_eq(fread(x, sizeof(float), n, f), n);
    fclose(f);
}

/* The files that two runs wrote say the same, by the textbook's formulas; writing them changes no number. */
START_TEST(dumped_logits_agree)
{
    static float logits[2][(1 + GENERATE) * TINY_VOCAB];
    struct kvp_stack s[2] = {0};
    struct kvp_error err = {0};
    struct kvp_model m;
    double gap = 0, size = 0, kl = 0;
    json_t *res[2], *plain;

    load_wide(&m);
    must(kvp_stack_add(&s[1], "kv:int4,group=16", &err));
    for (int i = 0; i < 2; i++) {
        res[i] = run(&m, &s[i], 1, 1, dumps[i]);
        read_last_rows(dumps[i], logits[i]);
    }
    for (int r = 0; r <= GENERATE; r++)
        kl += slow_divergence(logits[0] + r * TINY_VOCAB, logits[1] + r * TINY_VOCAB, TINY_VOCAB) / (1 + GENERATE);
    for (int i = 0; i < (1 + GENERATE) * TINY_VOCAB; i++) {
        gap += pow((double)logits[1][i] - logits[0][i], 2);
        size += pow(logits[0][i], 2);
    }
    ck_assert(gap > 0);
    ck_assert(fabs(field(res[1], "relative_logit_error") / sqrt(gap / size) - 1) < 1e-6);
    ck_assert(fabs(field(res[1], "kl_divergence") / kl - 1) < 1e-6);
    plain = run(&m, &s[1], 1, 1, NULL);
    ck_assert(fabs(field(plain, "kl_divergence") / kl - 1) < 1e-3); /* heads of one row and of many round apart */
    json_decref(plain);
    for (int i = 0; i < 2; i++)
        json_decref(res[i]);
    kvp_model_free(&m);
}
END_TEST

/* Weights of a file are somebody's: then it is a statement. */
START_TEST(real_weights_carry_no_label)
{
    struct kvp_stack s = {0};
    struct kvp_error err = {0};
    struct val_request q;
    struct kvp_model m;
    char dir[256];
    json_t *res;

    snprintf(dir, sizeof(dir), "%s/golden/llama-gqa", getenv("KVPROOF_TESTS"));
    must(kvp_model_load(&m, dir, &err));
    must(kvp_stack_add(&s, "window:5", &err));
    q = (struct val_request){.model = &m, .stacks = &s, .n_stacks = 1, .backend = "cpu", .threads = 1, .seed = 1,
                             .workload = {.batch = 1, .prompt = PROMPT, .generate = GENERATE, .context = PROMPT + GENERATE},
                             .formats = {.weights_given = true, .kv_given = true}, .repeat = 1, .max_time_error = -1,
                             .format = "json", .out = out, .weights_dir = dir};
    must(val_run(&q, &err));
    res = json_load_file(out, 0, NULL);
    ck_assert(field(res, "relative_logit_error") > 0);
    ck_assert_ptr_null(json_object_get(json_object_get(res, "fidelity"), "note"));
    json_decref(res);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fidelity");
    TCase *t = tcase_create("fidelity");
    SRunner *r;
    int failed;

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, three_logits_by_hand);
    tcase_add_test(t, laws);
    tcase_add_test(t, what_is_not_finite);
    tcase_add_test(t, the_last_rows_are_kept);
    tcase_add_loop_test(t, a_list, 0, 2);
    tcase_add_test(t, dumped_logits_agree);
    tcase_add_test(t, real_weights_carry_no_label);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
