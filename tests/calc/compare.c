/* compare.c - techniques side by side: each row is its own estimate, and from where it pays is worked by hand. */
#include "calc/compare.h"
#include "tests/calc/calc_test.h"

static struct comparison compare_of(const struct kvp_model *m, struct kvp_workload w, const struct kvp_device *d)
{
    static const struct kvp_stack none;
    static const struct kvp_options plain;
    struct kvp_error e = {0};
    struct comparison c;

    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK);
    ck_assert_msg(compare_all(&c, &(struct compare){m, &none, &plain, d, w}, &e) == KVP_OK, "%s", e.text);
    return c;
}

static const struct compare_row *row_of(const struct comparison *c, const char *name)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (strncmp(c->row[i].technique, name, strlen(name)) == 0)
            return &c->row[i];
    ck_abort_msg("no row %s", name);
    return NULL;
}

START_TEST(rows_are_estimates)
{
    struct kvp_model m = load("llama-2-7b");
    struct comparison c = compare_of(&m, (struct kvp_workload){.batch = 2, .context = 2048}, NULL);
    uint32_t n = 0;

    while (kvp_technique_at(n))
        n++;
    ck_assert_uint_eq(c.n, n); /* a technique that does not apply is a row, too */
    ck_assert_str_eq(c.row[0].technique, "dense");
    for (uint32_t i = 0; i < c.n; i++) {
        const struct compare_row *r = &c.row[i];
        struct kvp_estimate est;

        if (r->reason[0])
            continue;
        est = estimate_of(&m, r->technique, (struct kvp_workload){.batch = 2, .context = 2048}, (struct kvp_options){0});
        ck_assert_mem_eq(&est.memory, &r->point.memory, sizeof(est.memory));
        ck_assert_uint_eq(est.traffic_decode, r->point.traffic_decode);
        kvp_estimate_free(&est);
    }
    compare_free(&c);
    kvp_model_free(&m);
}
END_TEST

static bool is_never(const struct compare_from *f)
{
    return f->asked && f->never;
}

/* Llama-2-7B at 4096 tokens, batch 1.
 *   window:1024 (the example: a quarter): 1024 tokens are the dense cache, 1025 are not
 *   kivi: 127 rows are the dense cache to the byte (vectors.c), 128 are 39845888 bytes of 67108864
 *   growing, contiguous, paged never hold less; nothing depends on the batch in bytes */
START_TEST(where_it_pays)
{
    struct kvp_model m = load("llama-2-7b");
    struct kvp_error e = {0};
    struct kvp_device d;
    struct comparison c;
    const struct compare_row *r;

    ck_assert_msg(kvp_device_load(&d, "h200", &e) == KVP_OK, "%s", e.text);
    c = compare_of(&m, (struct kvp_workload){.batch = 1, .context = 4096}, &d);
    r = row_of(&c, "window");
    ck_assert(!r->bytes_context.never && !r->bytes_context.always);
    ck_assert_uint_eq(r->bytes_context.from, 1025);
    ck_assert_uint_eq(r->time_context.from, 1025);
    ck_assert(r->bytes_batch.always && r->time_batch.always);
    r = row_of(&c, "kivi");
    ck_assert_uint_eq(r->bytes_context.from, 128);
    ck_assert(r->bytes_batch.always);
    r = row_of(&c, "growing");
    ck_assert(is_never(&r->bytes_context) && is_never(&r->bytes_batch) && is_never(&r->time_context) && is_never(&r->time_batch));
    r = row_of(&c, "contiguous");
    ck_assert(is_never(&r->bytes_context) && is_never(&r->time_context));
    r = row_of(&c, "paged");
    ck_assert(is_never(&r->bytes_context) && is_never(&r->time_batch));
    r = row_of(&c, "dense");
    ck_assert(is_never(&r->bytes_context) && is_never(&r->time_context));
    compare_free(&c);
    kvp_model_free(&m);
}
END_TEST

/* The step from which KIVI's decode is quicker, asked one context after the other. */
START_TEST(time_is_exact)
{
    struct kvp_model m = load("llama-2-7b");
    struct kvp_error e = {0};
    struct kvp_device d;
    struct comparison c;
    const struct compare_row *r;
    uint64_t last = 0;

    ck_assert_msg(kvp_device_load(&d, "h200", &e) == KVP_OK, "%s", e.text);
    c = compare_of(&m, (struct kvp_workload){.batch = 1, .context = 4096}, &d);
    r = row_of(&c, "kivi");
    for (uint64_t t = 1; t <= 6000; t++) {
        struct kvp_estimate dense, kivi;

        ck_assert_int_eq(try_estimate(&dense, &m, "", (struct kvp_workload){.context = t}, (struct kvp_options){0}, &d), KVP_OK);
        ck_assert_int_eq(try_estimate(&kivi, &m, r->technique, (struct kvp_workload){.context = t}, (struct kvp_options){0}, &d), KVP_OK);
        if (kivi.tpot_s >= dense.tpot_s)
            last = t;
        kvp_estimate_free(&dense);
        kvp_estimate_free(&kivi);
    }
    ck_assert_uint_eq(r->time_context.from, last + 1);
    compare_free(&c);
    kvp_model_free(&m);
}
END_TEST

START_TEST(not_applicable)
{
    struct kvp_model m = load("mistral-7b-v0.1");
    struct comparison c = compare_of(&m, (struct kvp_workload){.batch = 1, .context = 8192}, NULL);

    ck_assert_ptr_nonnull(strstr(row_of(&c, "h2o")->reason, "sees only its own window"));
    ck_assert(!row_of(&c, "kivi")->time_context.asked);
    compare_free(&c);
    kvp_model_free(&m);
}
END_TEST

/* What has no cache is not made smaller: a row that says so, and never a pass. */
START_TEST(no_cache)
{
    char path[512];
    struct kvp_model m;
    struct comparison c;

    snprintf(path, sizeof(path), "%s/configs/mamba2/mistralai__Mamba-Codestral-7B-v0.1.json", getenv("KVPROOF_TESTS"));
    m = load(path);
    c = compare_of(&m, (struct kvp_workload){.batch = 1, .context = 4096}, NULL);
    ck_assert_str_eq(row_of(&c, "dense")->reason, "");
    ck_assert_str_eq(row_of(&c, "growing")->reason, "not applicable: no KV cache");
    ck_assert_str_eq(row_of(&c, "paged")->reason, "not applicable: no KV cache");
    compare_free(&c);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("compare");

    tcase_set_timeout(t, 120);
    tcase_add_test(t, rows_are_estimates);
    tcase_add_test(t, where_it_pays);
    tcase_add_test(t, time_is_exact);
    tcase_add_test(t, not_applicable);
    tcase_add_test(t, no_cache);
    return run("calc: compare", &t, 1);
}
