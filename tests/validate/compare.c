/* compare.c - results as they leave the program: rows and verdicts, dumped logits, resuming, refusals. */
#include "tests/validate/tiny.h"
#include "validate/compare.h"
#include "validate/result.h"
#include "validate/tokens.h"

#include <unistd.h>

static char out[64], dump[80], part[80];

static void setup(void)
{
    int fd;

    strcpy(out, "/tmp/kvproof-out-XXXXXX");
    fd = mkstemp(out);
    ck_assert_int_ge(fd, 0);
    close(fd);
    snprintf(dump, sizeof(dump), "%s.f32", out);
    snprintf(part, sizeof(part), "%s.part", out);
}

static void teardown(void)
{
    unlink(out);
    unlink(dump);
    unlink(part);
}

/* ---- rows ------------------------------------------------------------------------------------------ */

START_TEST(verdicts)
{
    static const struct {
        const char *row, *kind;
        double predicted, measured;
        bool holds;
        const char *word; /* in the table */
    } cases[] = {
        {"a", "bytes", 1 << 20, 1 << 20, true, "agree"},
        {"a", "bytes", 0, 0, true, "agree"},
        {"a", "bytes", 10, 11, false, "DIFFER -9.1 %"},
        {"a", "bytes", 10, 0, false, "DIFFER"},
        {"a", "bytes", 1536, 1536, true, "1.50 KiB"},
        {"a", "bound", 10, 9, true, "within"},
        {"a", "bound", 9, 10, false, "DIFFER -10.0 %"},
        {"a", "flops", 10, 20, true, "-50.0 %"}, /* shown, does not decide */
        {"prefill", "time", 0.0123456, 0.02, true, "12.3 ms"},
        {"prefill", "time", 1e-6, 2e-6, true, "1.00 us"},
        {"prefill", "time", 9.876, 2e-7, true, "9.88 s"},
        {"prefill", "time", 1, -1, true, "-"},
    };
    struct kvp_error err = {0};
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    json_t *res = json_pack("{s:[], s:[]}", "rows", "techniques"), *all = json_pack("[O]", res);

    must(res_row(res, cases[_i].row, cases[_i].kind, cases[_i].predicted, cases[_i].measured, "by hand", &err));
    ck_assert_int_eq(res_bytes_agree(res), cases[_i].holds);
    must(res_print(f, "md", all, &err));
    fclose(f);
    ck_assert_msg(strstr(text, cases[_i].word), "%s does not say %s", text, cases[_i].word);
    free(text);
    json_decref(all);
    json_decref(res);
}
END_TEST

START_TEST(only_whole_forwards_judge_time)
{
    struct kvp_error err = {0};
    json_t *res = json_pack("{s:[], s:[]}", "rows", "techniques");

    must(res_row(res, "decode attention", "time", 9, 1, "", &err));
    must(res_row(res, "prefill", "time", 1.5, 1, "", &err));
    must(res_row(res, "decode step", "time", 0.25, 1, "", &err));
    ck_assert(fabs(res_time_error(res) - 0.75) < 1e-12);
    ck_assert_int_eq(res_row(res, "a", "bytes", 0x1p60, 1, "", NULL), KVP_ERANGE);
    json_decref(res);
}
END_TEST

START_TEST(unknown_format)
{
    struct kvp_error err = {0};
    json_t *none = json_array();

    ck_assert_int_eq(res_print(stdout, "xml", none, &err), KVP_EINPUT);
    ck_assert_ptr_nonnull(strstr(err.text, "xml"));
    json_decref(none);
}
END_TEST

/* ---- tokens ---------------------------------------------------------------------------------------- */

START_TEST(bad_token_files)
{
    static const struct {
        const char *text, *word;
    } cases[] = {{"1 2 x", "token 2 is 'x'"}, {"1 -2 3", "token 1 is '-2'"}, {"1 2 61", "token 2 is 61, the vocabulary has 61"},
                 {"1 2", "holds 2 tokens, the context is 3"}, {"1 2 3 4", "holds 4 tokens"}, {"", "holds 0 tokens"},
                 {"1 99999999999999999999 3", "token 1"}};
    const struct kvp_workload w = {.batch = 1, .prompt = 2, .generate = 1, .context = 3};
    struct kvp_error err = {0};
    struct tokens t;
    FILE *f = fopen(out, "w");

    fputs(cases[_i].text, f);
    fclose(f);
    ck_assert_int_eq(tokens_load(&t, out, TINY_VOCAB, &w, 1, &err), KVP_EINPUT);
    ck_assert_msg(strstr(err.text, cases[_i].word) && strstr(err.text, out), "'%s' does not say %s", err.text, cases[_i].word);
}
END_TEST

/* ---- whole runs ------------------------------------------------------------------------------------ */

static struct val_request request(const struct kvp_model *m, const struct kvp_stack *s, uint64_t prompt, uint64_t generate)
{
    return (struct val_request){.model = m, .stacks = s, .n_stacks = 1, .backend = "cpu", .threads = 1, .seed = 1,
                                .workload = {.batch = 1, .prompt = prompt, .generate = generate, .context = prompt + generate},
                                .formats = {.weights_given = true, .kv_given = true}, .repeat = 1, .max_time_error = -1,
                                .format = "json", .out = out};
}

static void read_floats(const char *path, float *x, size_t n)
{
    FILE *f = fopen(path, "rb");

    ck_assert_msg(f != NULL, "%s is missing", path);
    ck_assert_uint_eq(fread(x, sizeof(float), n, f), n);
    ck_assert_int_eq(fgetc(f), EOF);
    fclose(f);
}

/* The whole file as prompt, and its end step by step: the same [T, vocab] either way, transformers'. */
START_TEST(dumped_logits_are_the_goldens)
{
    static const uint64_t generate[] = {0, 13, 39};
    static float ours[40 * 97], theirs[40 * 97];
    static const struct kvp_stack dense;
    char dir[256], path[300];
    struct kvp_error err = {0};
    struct val_request q;
    struct kvp_model m;

    snprintf(dir, sizeof(dir), "%s/golden/mistral-window", getenv("KVPROOF_TESTS"));
    must(kvp_model_load(&m, dir, &err));
    q = request(&m, &dense, 40 - generate[_i], generate[_i]);
    snprintf(path, sizeof(path), "%s/tokens.txt", dir);
    q.weights_dir = dir;
    q.tokens_file = path;
    q.dump_logits = dump;
    q.repeat = 2; /* only the first run is kept */
    must(val_run(&q, &err));
    read_floats(dump, ours, 40 * 97);
    snprintf(path, sizeof(path), "%s/logits.f32", dir);
    read_floats(path, theirs, 40 * 97);
    ck_assert(far_apart(ours, theirs, 40 * 97) < 1e-3);
    kvp_model_free(&m);
}
END_TEST

static const json_t *row(const json_t *res, const char *name)
{
    size_t i;
    json_t *r;

    json_array_foreach(json_object_get(res, "rows"), i, r)
        if (strcmp(json_string_value(json_object_get(r, "row")), name) == 0)
            return r;
    ck_abort_msg("no row %s", name);
    return NULL;
}

START_TEST(a_result_says_what_ran)
{
    static const struct kvp_stack dense;
    struct kvp_error err = {0};
    struct val_request q;
    struct kvp_model m;
    json_int_t forwards;
    json_t *res;

    tiny_load(&m, 1);
    q = request(&m, &dense, 8, 3);
    q.repeat = 2;
    must(val_run(&q, &err));
    res = json_load_file(out, 0, NULL);
    ck_assert_ptr_nonnull(res);
    /* 2 runs of 1 prefill and 3 steps, and where the first prefill was quick one more; 3 layers */
    forwards = json_integer_value(json_object_get(json_object_get(res, "calls"), "lm_head"));
    ck_assert_msg(forwards == 8 || forwards == 9, "%lld forwards", (long long)forwards);
    ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(res, "calls"), "qkv_proj")), 3 * forwards);
    ck_assert_int_eq(json_integer_value(json_object_get(row(res, "cache at rest"), "measured")), 11 * 3 * 2 * 16 * 4);
    ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(json_object_get(res, "ledger"), "cache"), "now")),
                     11 * 3 * 2 * 16 * 4);
    ck_assert_str_eq(json_string_value(json_object_get(row(res, "decode step"), "how")),
                     "sum of ops at full context | median of 3 steps up to it, no clock inside");
    ck_assert_str_eq(json_string_value(json_object_get(row(res, "prefill"), "how")),
                     "sum of ops | median of 1, no clock inside");
    /* 2 m n k by hand: 8 rows, 3 layers of qkv 64x32, o 32x32, up 80x32, down 32x40; the head once, 61x32 */
    ck_assert_int_eq(json_integer_value(json_object_get(row(res, "prefill matrices"), "measured")),
                     2 * (8 * 3 * (64 * 32 + 32 * 32 + 80 * 32 + 32 * 40) + 61 * 32));
    ck_assert_int_eq(access(part, F_OK), -1);
    json_decref(res);
    kvp_model_free(&m);
}
END_TEST

/* Two stacks; the first is found finished in FILE.part and is taken from there, not run again. */
START_TEST(an_interrupted_run_goes_on)
{
    struct kvp_stack stacks[2] = {0};
    struct kvp_error err = {0};
    struct val_request q;
    struct kvp_model m;
    json_t *res;
    FILE *f;

    tiny_load(&m, 1);
    must(kvp_stack_add(&stacks[1], "window:4", &err));
    q = request(&m, stacks, 8, 2);
    must(val_run(&q, &err));
    res = json_load_file(out, 0, NULL);
    json_object_set_new(res, "mark", json_true());
    f = fopen(part, "w");
    fputs("cut short {\n", f);
    json_dumpf(res, f, JSON_COMPACT);
    fputc('\n', f);
    fclose(f);
    json_decref(res);
    q.n_stacks = 2;
    must(val_run(&q, &err));
    res = json_load_file(out, 0, NULL);
    ck_assert_uint_eq(json_array_size(res), 2);
    ck_assert(json_is_true(json_object_get(json_array_get(res, 0), "mark")));
    ck_assert_ptr_null(json_object_get(json_array_get(res, 1), "mark"));
    ck_assert_int_eq(access(part, F_OK), -1);
    json_decref(res);
    /* another seed is another run */
    q.n_stacks = 1;
    q.seed = 2;
    must(val_run(&q, &err));
    res = json_load_file(out, 0, NULL);
    ck_assert_ptr_null(json_object_get(res, "mark"));
    json_decref(res);
    kvp_model_free(&m);
}
END_TEST

/* Whether a finished run in FILE.part of the request as it was serves the request as it is: it must not. */
static bool taken_over(const struct val_request *q)
{
    struct kvp_error err = {0};
    json_t *res;
    bool marked;

    must(val_run(q, &err));
    res = json_load_file(out, 0, NULL);
    marked = json_object_get(res, "mark") != NULL;
    json_decref(res);
    return marked;
}

static void leave_part(const struct val_request *q)
{
    struct kvp_error err = {0};
    json_t *res;

    must(val_run(q, &err));
    res = json_load_file(out, 0, NULL);
    json_object_set_new(res, "mark", json_true());
    ck_assert_int_eq(json_dump_file(res, part, JSON_COMPACT), 0);
    json_decref(res);
}

START_TEST(another_run_is_not_taken_over)
{
    static const struct kvp_stack dense;
    struct val_request q, other;
    struct kvp_model m, edited;
    FILE *f;

    tiny_load(&m, 1);
    tiny_load(&edited, 1);
    edited.rope_theta *= 2;
    q = request(&m, &dense, 2, 1);
    leave_part(&q);
    ck_assert(taken_over(&q));
    f = fopen(dump, "w");
    fputs("1 2 3", f);
    fclose(f);
    for (int i = 0; i < 4; i++) {
        leave_part(&q);
        other = q;
        if (i == 0)
            other.threads = 2;
        else if (i == 1)
            other.repeat = 2;
        else if (i == 2)
            other.model = &edited;
        else
            other.tokens_file = dump;
        ck_assert_msg(!taken_over(&other), "case %d", i);
        unlink(part);
    }
    kvp_model_free(&edited);
    kvp_model_free(&m);
}
END_TEST

/* kivi's default group of 32 does not divide a head of 8: alone an error, in a list a row that is no pass. */
START_TEST(what_does_not_apply)
{
    struct kvp_stack stacks[2] = {0};
    struct kvp_error err = {0}, why = {0}, list = {0};
    struct val_request q;
    struct kvp_model m;
    json_t *res;

    tiny_load(&m, 1);
    must(kvp_stack_add(&stacks[1], "kivi", &err));
    q = request(&m, &stacks[1], 8, 2);
    ck_assert_int_eq(val_run(&q, &why), KVP_EINPUT);
    ck_assert_ptr_nonnull(strstr(why.text, "kivi"));
    q.stacks = stacks;
    q.n_stacks = 2;
    must(val_run(&q, &err));
    res = json_load_file(out, 0, NULL);
    ck_assert_ptr_null(json_object_get(json_array_get(res, 0), "not_applicable"));
    ck_assert_str_eq(json_string_value(json_object_get(json_array_get(res, 1), "not_applicable")), why.text);
    json_decref(res);
    stacks[0] = stacks[1];
    ck_assert_int_eq(val_run(&q, &list), KVP_EINPUT); /* a list of nothing */
    kvp_model_free(&m);
}
END_TEST

START_TEST(time_decides_only_when_asked)
{
    static const struct kvp_stack dense;
    struct kvp_error err = {0}, no = {0};
    struct val_request q;
    struct kvp_model m;

    tiny_load(&m, 1);
    q = request(&m, &dense, 8, 2);
    must(val_run(&q, &err));
    q.max_time_error = 1e-9;
    ck_assert_int_eq(val_run(&q, &no), KVP_NO);
    ck_assert_ptr_nonnull(strstr(no.text, "--max-time-error"));
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("compare");
    TCase *t = tcase_create("compare");
    SRunner *r;
    int failed;

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, verdicts, 0, 12);
    tcase_add_test(t, only_whole_forwards_judge_time);
    tcase_add_test(t, unknown_format);
    tcase_add_loop_test(t, bad_token_files, 0, 7);
    tcase_add_loop_test(t, dumped_logits_are_the_goldens, 0, 3);
    tcase_add_test(t, a_result_says_what_ran);
    tcase_add_test(t, an_interrupted_run_goes_on);
    tcase_add_test(t, another_run_is_not_taken_over);
    tcase_add_test(t, what_does_not_apply);
    tcase_add_test(t, time_decides_only_when_asked);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
