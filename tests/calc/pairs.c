/* pairs.c - the composition table covers every pair of techniques, and what it says is what happens. */
#include "calc/technique.h"
#include "tests/calc/calc_test.h"

START_TEST(every_pair_once)
{
    const struct technique *a, *b;

    for (uint32_t i = 0; (a = technique_at(i)); i++)
        for (uint32_t k = i + 1; (b = technique_at(k)); k++) {
            uint32_t rows = 0;
            const struct kvp_pair *p;

            for (uint32_t r = 0; (p = kvp_pair_at(r)); r++)
                rows += (strcmp(p->a, a->info.name) == 0 && strcmp(p->b, b->info.name) == 0) ||
                        (strcmp(p->b, a->info.name) == 0 && strcmp(p->a, b->info.name) == 0);
            ck_assert_msg(rows == (a->baseline || b->baseline ? 0 : 1), "%s and %s: %u rows", a->info.name, b->info.name, rows);
        }
}
END_TEST

START_TEST(rows_name_techniques)
{
    const struct kvp_pair *p;

    for (uint32_t r = 0; (p = kvp_pair_at(r)); r++) {
        const struct technique *a = technique_find(p->a, strlen(p->a)), *b = technique_find(p->b, strlen(p->b));

        ck_assert_msg(a && b, "%s and %s", p->a, p->b);
        ck_assert_str_ne(p->reason, "not in the composition table");
        ck_assert_msg(strlen(p->reason) > 15, "%s and %s: no reason", p->a, p->b);
        ck_assert_msg(!p->allowed || a->info.axis != b->info.axis, "%s and %s are on one axis", p->a, p->b);
        ck_assert_int_eq(pair_find(p->b, p->a)->allowed, p->allowed);
    }
    ck_assert_ptr_null(pair_find("dense", "h2o"));
    ck_assert_ptr_null(pair_find("h2o", "h2o"));
}
END_TEST

/* What each technique of a pair needs to be defined on llama-3-8b at 4096. */
static const struct {
    const char *name, *spec;
} specs[] = {{"window", "window:1024"}, {"h2o", "h2o"}, {"kivi", "kivi"}, {"contiguous", "contiguous"}, {"growing", "growing"}, {"paged", "paged:32"},
             {"streaming-llm", "streaming-llm"}, {"pyramidkv", "pyramidkv:512"}, {"snapkv", "snapkv:512"}, {"adakv", "adakv:512"},
             {"tova", "tova"}, {"quest", "quest"}, {"duo", "duo"}, {"minicache", "minicache"},
             {"kv", "kv"}, {"w", "w:int8"}, {"smoothquant", "smoothquant"}};

/* Its own example where nothing else is said. */
static void spec_of(uint32_t technique, const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    for (size_t i = 0; i < COUNT(specs); i++)
        if (strcmp(specs[i].name, technique_at(technique)->info.name) == 0) {
            snprintf(buf, n, "%s", specs[i].spec);
            return;
        }
    ck_assert_int_eq(kvp_technique_example(technique, m, w, buf, n, &test_error), KVP_OK);
}

/* Further variants are specs of their technique, each another than the ones before it. */
START_TEST(variants_parse)
{
    const struct technique *t;
    uint32_t n = 0;
    char spec[160];

    for (uint32_t i = 0; (t = technique_at(i)); i++) {
        char seen[16][256];

        for (uint32_t k = 0; kvp_technique_variant(i, k, spec, sizeof(spec)); k++, n++) {
            struct kvp_stack s = {0};

            ck_assert_int_eq(kvp_stack_add(&s, spec, &test_error), KVP_OK);
            ck_assert_uint_eq(s.n, 1);
            ck_assert_str_eq(s.spec[0].name, t->info.name);
            ck_assert_uint_lt(k, COUNT(seen));
            kvp_stack_text(&s, seen[k], sizeof(seen[k]));
            for (uint32_t j = 0; j < k; j++)
                ck_assert_str_ne(seen[j], seen[k]);
        }
        ck_assert_str_eq(spec, "");
    }
    ck_assert_uint_ge(n, 11);
    ck_assert(!kvp_technique_variant(9999, 0, spec, sizeof(spec)));
}
END_TEST

START_TEST(table_is_what_happens)
{
    struct kvp_model m = load("llama-3-8b");
    struct kvp_workload w = {.batch = 2, .prompt = 4090, .generate = 6};
    const struct technique *a, *b;

    ck_assert_int_eq(kvp_workload_resolve(&w, &test_error), KVP_OK);
    for (uint32_t i = 1; (a = technique_at(i)); i++)
        for (uint32_t k = i + 1; (b = technique_at(k)); k++) {
            struct kvp_stack s = {0};
            struct kvp_error e = {0};
            struct kvp_estimate est;
            char one[160], other[160];
            struct kvp_pair p = *pair_find(b->info.name, a->info.name);
            kvp_err rc;

            spec_of(i, &m, &w, one, sizeof(one));
            spec_of(k, &m, &w, other, sizeof(other));
            rc = kvp_stack_add(&s, one, &e);
            if (rc == KVP_OK)
                rc = kvp_stack_add(&s, other, &e);
            if (rc == KVP_OK)
                rc = kvp_estimate(&est, &m, &s, &w, &(struct kvp_options){0}, NULL, &e);
            ck_assert_msg((rc == KVP_OK) == p.allowed, "%s with %s: %s", one, other, e.text);
            ck_assert_int_eq(kvp_exit_status(rc), p.allowed ? 0 : 2);
            if (!p.allowed && a->info.axis != b->info.axis) {
                ck_assert_int_eq(rc, KVP_ENOTSUP);
                ck_assert_ptr_nonnull(strstr(e.text, p.reason));
            }
            if (rc == KVP_OK) { /* the form holds whatever is stacked */
                const struct kvp_memory *x = &est.memory;

                ck_assert_msg((int64_t)x->cache_bytes == 2 * (x->fixed_bytes_per_sequence + (int64_t)x->bytes_per_token * 4096) +
                                                             (int64_t)x->shared_bytes + x->rounding_bytes,
                              "%s with %s: the form is not the cache", one, other);
                ck_assert_msg(x->cache_peak_bytes >= x->cache_bytes, "%s with %s: the peak is below the rest", one, other);
                kvp_estimate_free(&est);
            }
        }
    kvp_model_free(&m);
}
END_TEST

/* Parameters that a model or a workload does not suit. */
static const struct {
    const char *model, *specs;
    struct kvp_workload w;
    kvp_err rc;
    const char *says;
} refused[] = {
    {"llama-2-7b", "kivi:residual=100", {.context = 4096}, KVP_EINPUT, "residual=100 is not a multiple of group=32"},
    {"llama-2-7b", "kivi:group=24,residual=120", {.context = 4096}, KVP_EINPUT, "group=24 is not a multiple of the 16 codes"},
    {"llama-2-7b", "kivi:bits=4,group=24,residual=120", {.context = 4096}, KVP_EINPUT, "head_dim 128 of llama-2-7b is not a multiple of group=24"},
    {"llama-2-7b", "kivi:bits=3", {.context = 4096}, KVP_EINPUT, "bits=3, expected 2 or 4"},
    {"llama-3.2-1b", "kivi:group=128", {.context = 4096}, KVP_EINPUT, "head_dim 64"},
    {"llama-2-7b", "kivi paged:16", {.context = 4096}, KVP_EINPUT, "block=16 is not a multiple"},
    {"llama-2-7b", "kivi paged:64", {.context = 4096}, KVP_OK, NULL},
    {"llama-2-7b", "window:64 kivi", {.context = 4096}, KVP_EINPUT, "window of 64 tokens is smaller than residual=128"},
    {"llama-2-7b", "window:64 kivi", {.context = 64}, KVP_OK, NULL},
    {"llama-2-7b", "window:128 kivi", {.context = 4096}, KVP_OK, NULL},
    {"llama-2-7b", "h2o", {.context = 9}, KVP_EINPUT, "heavy_ratio=0.1 of a prompt of 9 tokens is 0 tokens"},
    {"llama-2-7b", "h2o", {.context = 10}, KVP_OK, NULL},
    {"llama-2-7b", "h2o:heavy=1,recent_ratio=0", {.context = 4096}, KVP_EINPUT, "recent_ratio=0"},
    {"mistral-7b-v0.1", "h2o", {.context = 8192}, KVP_ENOTSUP, "sees only its own window"},
    {"mistral-7b-v0.1", "h2o", {.context = 4096}, KVP_OK, NULL},
    {"llama-3-8b", "contiguous:100", {.context = 101}, KVP_EINPUT, "max_len 100 is less than the context of 101"},
    {"llama-3-8b", "contiguous", {.context = 8193}, KVP_EINPUT, "max_len 8192 (the model's own limit)"},
    {"llama-3-8b", "contiguous:100", {.context = 100}, KVP_OK, NULL},
    {"gpt2", "", {.context = 1025}, KVP_EINPUT, "learned positions for 1024 tokens"},
    {"gpt2", "", {.context = 1024}, KVP_OK, NULL},
};

START_TEST(model_and_workload)
{
    struct kvp_model m = load(refused[_i].model);
    struct kvp_stack s = {0};
    struct kvp_error e = {0};
    kvp_err rc;

    ck_assert_int_eq(add_specs(&s, refused[_i].specs), KVP_OK);
    rc = kvp_stack_check(&s, &m, &refused[_i].w, &e);
    ck_assert_msg(rc == refused[_i].rc, "%s %s: %d %s", refused[_i].model, refused[_i].specs, rc, e.text);
    if (refused[_i].says)
        ck_assert_msg(strstr(e.text, refused[_i].says) != NULL, "says: %s", e.text);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("pairs");

    tcase_add_test(t, variants_parse);
    tcase_add_test(t, every_pair_once);
    tcase_add_test(t, rows_name_techniques);
    tcase_add_test(t, table_is_what_happens);
    tcase_add_loop_test(t, model_and_workload, 0, (int)COUNT(refused));
    return run("calc: composition", &t, 1);
}
