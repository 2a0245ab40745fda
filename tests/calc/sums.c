/* sums.c - what is printed adds up, on every built-in model with every technique: the sum of docs/architecture.md,
 *
 *   cache = batch * (fixed + per token * context) + shared + rounding
 *   total = weights + cache + state + activation + workspace + device context;  peak: with the cache at its highest
 *
 * and every ratio from the rows beside it, read back from the JSON as any other program would. */
#include "calc/compare.h"
#include "calc/fit.h"
#include "calc/print.h"
#include "tests/calc/calc_test.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>

static json_int_t whole(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);

    ck_assert_msg(json_is_integer(v), "%s is no integer", key);
    return json_integer_value(v);
}

static double real(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);

    ck_assert_msg(json_is_number(v), "%s is no number", key);
    return json_number_value(v);
}

static void equal(json_int_t a, json_int_t b, const char *what, const char *law)
{
    ck_assert_msg(a == b, "%s: %s: %" PRId64 " is not %" PRId64, what, law, (int64_t)a, (int64_t)b);
}

/* ---- an estimate ------------------------------------------------------------------------------------------- */

static void memory_adds_up(const json_t *m, const json_t *w, const char *what)
{
    const json_int_t rest = whole(m, "weights_bytes") + whole(m, "state_bytes") + whole(m, "activation_bytes") + whole(m, "workspace_bytes") +
                            whole(m, "device_context_bytes");
    json_int_t parts = 0;
    size_t i;
    json_t *p;

    equal(whole(m, "cache_bytes"),
          whole(w, "batch") * (whole(m, "fixed_bytes_per_sequence") + whole(m, "bytes_per_token") * whole(w, "context")) + whole(m, "shared_bytes") +
              whole(m, "rounding_bytes"),
          what, "cache = batch * (fixed + per token * context) + shared + rounding");
    equal(whole(m, "cache_bytes"), whole(m, "kv_bytes") + whole(m, "metadata_bytes"), what, "cache = keys and values + metadata");
    equal(whole(m, "total_bytes"), rest + whole(m, "cache_bytes"), what, "total");
    equal(whole(m, "peak_bytes"), rest + whole(m, "cache_peak_bytes"), what, "peak");
    ck_assert_msg(whole(m, "cache_peak_bytes") >= whole(m, "cache_bytes"), "%s: the peak is below the rest", what);
    json_array_foreach(json_object_get(m, "parts"), i, p)
        parts += whole(p, "bytes");
    equal(whole(m, "total_bytes"), parts, what, "total = the parts");
}

/* By tags, and by phases. */
static void lists_add_up(const json_t *root, const char *what)
{
    json_int_t tags[6] = {0}, flops[2] = {0}, moved[2] = {0};
    static const char *const names[] = {"weights", "cache", "metadata", "state", "activation", "workspace"};
    const json_t *m = json_object_get(root, "memory");
    size_t i;
    json_t *x;

    json_array_foreach(json_object_get(m, "tensors"), i, x)
        for (size_t k = 0; k < COUNT(names); k++)
            tags[k] += strcmp(json_string_value(json_object_get(x, "tag")), names[k]) == 0 ? whole(x, "bytes") : 0;
    equal(tags[0], whole(m, "weights_bytes"), what, "weights");
    equal(tags[1], whole(m, "kv_bytes"), what, "keys and values");
    equal(tags[2], whole(m, "metadata_bytes"), what, "metadata");
    equal(tags[3], whole(m, "state_bytes"), what, "state");
    equal(tags[4], whole(m, "activation_bytes"), what, "activation");
    equal(tags[5], whole(m, "workspace_bytes"), what, "workspace");
    json_array_foreach(json_object_get(root, "ops"), i, x) {
        const bool decode = strcmp(json_string_value(json_object_get(x, "phase")), "decode") == 0;

        flops[decode] += whole(x, "flops");
        moved[decode] += whole(x, "read_bytes") + whole(x, "written_bytes");
    }
    equal(flops[0], whole(json_object_get(root, "flops"), "prefill_causal"), what, "FLOPs of the prefill");
    equal(flops[1], whole(json_object_get(root, "flops"), "decode_step"), what, "FLOPs of a step");
    equal(moved[0], whole(json_object_get(root, "traffic"), "prefill_bytes"), what, "traffic of the prefill");
    equal(moved[1], whole(json_object_get(root, "traffic"), "decode_step_bytes"), what, "traffic of a step");
}

static void times_add_up(const json_t *root, const char *what)
{
    const json_t *t = json_object_get(root, "time"), *d = json_object_get(root, "device");
    const double batch = real(json_object_get(root, "workload"), "batch"), peak = real(json_object_get(root, "memory"), "peak_bytes");

    ck_assert_msg(fabs(real(t, "tokens_per_s") * real(t, "tpot_s") - batch) < 1e-9 * batch, "%s: tokens a second", what);
    ck_assert_msg(json_is_true(json_object_get(d, "fits")) == (peak <= real(d, "memory_share") * real(d, "memory_bytes")), "%s: fits", what);
}

static json_t *printed(FILE *f, char **text, size_t *len)
{
    json_t *root;

    fclose(f);
    root = json_loadb(*text, *len, 0, NULL);
    ck_assert_ptr_nonnull(root);
    free(*text);
    return root;
}

static int seen;

static void one(const struct kvp_model *m, uint32_t technique, struct kvp_workload w, const struct kvp_options *o, const struct kvp_device *d)
{
    struct kvp_stack s = {0};
    struct kvp_error e = {0};
    struct kvp_estimate est;
    char spec[256], what[400], *text;
    size_t len;
    json_t *root;
    FILE *f;

    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    if (kvp_technique_example(technique, m, &w, spec, sizeof(spec), &e) != KVP_OK || kvp_stack_add(&s, spec, &e) != KVP_OK ||
        kvp_estimate(&est, m, &s, &w, o, d, &e) != KVP_OK)
        return; /* not defined there, and the row says why: pairs.c, token_level.c, model_level.c */
    snprintf(what, sizeof(what), "%s %s context %" PRIu64, m->name, spec, w.context);
    f = open_memstream(&text, &len);
    ck_assert_msg(kvp_estimate_print(f, "json", true, m, &s, &est, d, &e) == KVP_OK, "%s", e.text);
    root = printed(f, &text, &len);
    memory_adds_up(json_object_get(root, "memory"), json_object_get(root, "workload"), what);
    lists_add_up(root, what);
    times_add_up(root, what);
    json_decref(root);
    kvp_estimate_free(&est);
    seen++;
}

/* Names of the built-in models; owned by the caller. */
static int names_of(char **names, int most)
{
    struct dirent **files;
    char path[512];
    int n, k = 0;

    snprintf(path, sizeof(path), "%s/models", kvp_data_dir());
    n = scandir(path, &files, NULL, alphasort);
    ck_assert_int_gt(n, 60);
    for (int i = 0; i < n; i++) {
        const size_t len = strlen(files[i]->d_name);

        if (k < most && len > 5 && strcmp(files[i]->d_name + len - 5, ".json") == 0)
            names[k++] = strndup(files[i]->d_name, len - 5);
        free(files[i]);
    }
    free(files);
    return k;
}

START_TEST(every_model_with_every_technique)
{
    char *names[400];
    const int n = names_of(names, 400);
    struct kvp_error e = {0};
    struct kvp_device d;

    ck_assert_msg(kvp_device_load(&d, "h200", &e) == KVP_OK, "%s", e.text);
    for (int i = 0; i < n; i++) {
        struct kvp_model m = load(names[i]);

        for (uint32_t t = 0; kvp_technique_at(t); t++) {
            one(&m, t, (struct kvp_workload){.batch = 3, .prompt = 413, .generate = 20}, &(struct kvp_options){0}, &d);
            one(&m, t, (struct kvp_workload){.batch = 2, .prompt = 100, .generate = 1}, &(struct kvp_options){.tp = 2, .pp = 2}, &d);
        }
        kvp_model_free(&m);
        free(names[i]);
    }
    ck_assert_int_gt(seen, 4000);
}
END_TEST

/* ---- ratios ------------------------------------------------------------------------------------------------ */

static const char *const some[] = {"llama-2-7b", "gemma-3-27b", "deepseek-v2-lite", "qwen3.5-35b-a3b", "mamba-2.8b", "whisper-tiny"};

START_TEST(ratios_of_compare)
{
    static const struct kvp_stack none;
    static const struct kvp_options plain;
    struct kvp_model m = load(some[_i]);
    struct kvp_workload w = {.batch = 2, .context = 400};
    struct kvp_error e = {0};
    struct kvp_device d;
    struct comparison c;
    double dense = NAN;
    char *text;
    size_t len, i;
    json_t *root, *r;
    FILE *f;

    ck_assert_msg(kvp_device_load(&d, "h200", &e) == KVP_OK, "%s", e.text);
    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert_msg(compare_all(&c, &(struct compare){&m, &none, &plain, &d, w}, &e) == KVP_OK, "%s", e.text);
    f = open_memstream(&text, &len);
    ck_assert_int_eq(compare_print(f, "json", &(struct compare){&m, &none, &plain, &d, w}, &c, &e), KVP_OK);
    root = printed(f, &text, &len);
    json_array_foreach(json_object_get(root, "rows"), i, r) {
        const json_t *ratio = json_object_get(r, "ratio");

        if (i == 0)
            dense = real(r, "cache_bytes");
        if (json_is_number(ratio))
            ck_assert_msg(fabs(json_number_value(ratio) * real(r, "cache_bytes") - dense) <= 1e-9 * dense, "%s: ratio %g",
                          json_string_value(json_object_get(r, "technique")), json_number_value(ratio));
        else
            ck_assert(!json_is_null(json_object_get(r, "reason")) || real(r, "cache_bytes") == 0);
    }
    json_decref(root);
    compare_free(&c);
    kvp_model_free(&m);
}
END_TEST

START_TEST(ratios_of_fit)
{
    static const struct kvp_stack none;
    static const struct kvp_options plain;
    struct kvp_model m = load(some[_i]);
    struct kvp_workload w = {.batch = 2, .context = 400};
    struct kvp_error e = {0};
    struct kvp_device d;
    struct fit_answer a;
    char *text;
    size_t len;
    json_t *root;
    FILE *f;

    ck_assert_msg(kvp_device_load(&d, "h200", &e) == KVP_OK, "%s", e.text);
    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert_msg(fit_solve(&a, &(struct fit){&m, &none, &plain, &d, w}, &e) == KVP_OK, "%s", e.text);
    f = open_memstream(&text, &len);
    ck_assert_int_eq(fit_print(f, "json", &(struct fit){&m, &none, &plain, &d, w}, &a, &e), KVP_OK);
    root = printed(f, &text, &len);
    if (a.sequence_bytes) {
        const double pool = real(root, "kv_pool_bytes"), sequence = real(root, "sequence_bytes");

        ck_assert_double_eq_tol(real(root, "max_concurrency"), pool / sequence, 1e-9 * pool / sequence);
        ck_assert_int_eq(whole(root, "kv_pool_tokens"),
                         (json_int_t)((__int128)whole(root, "kv_pool_bytes") * whole(root, "slots") / whole(root, "sequence_bytes")));
        ck_assert_int_eq(whole(root, "kv_pool_blocks"), whole(root, "kv_pool_tokens") / whole(root, "block"));
    }
    ck_assert(json_is_true(json_object_get(root, "fits")) == (real(root, "peak_bytes") <= real(root, "memory_share") * real(root, "memory_bytes")));
    ck_assert_int_eq(whole(root, "room_bytes"), (json_int_t)(real(root, "memory_share") * real(root, "memory_bytes")));
    json_decref(root);
    free(a.devices);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("sums");

    tcase_set_timeout(t, 300);
    tcase_add_test(t, every_model_with_every_technique);
    tcase_add_loop_test(t, ratios_of_compare, 0, (int)COUNT(some));
    tcase_add_loop_test(t, ratios_of_fit, 0, (int)COUNT(some));
    return run("calc: what is printed adds up", &t, 1);
}
