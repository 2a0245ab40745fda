/* spec.c - technique specs: what parses to what, what is refused and with which words, and the round trip. */
#include "calc/technique.h"
#include "tests/calc/calc_test.h"

static const struct {
    const char *text, *canonical;
} good[] = {
    {"dense", "dense"},
    {"window", "window:1024"},
    {"window:4k", "window:4096"},
    {"window:window=7", "window:7"},
    {"window,window=2M", "window:2097152"},
    {"h2o", "h2o:heavy_ratio=0.1,recent_ratio=0.1,score_dtype=f32"},
    {"h2o:heavy=409,recent=409", "h2o:heavy=409,recent=409,score_dtype=f32"},
    {"h2o:recent=5,score_dtype=f16,heavy_ratio=0.25", "h2o:recent=5,heavy_ratio=0.25,score_dtype=f16"},
    {"h2o:heavy_ratio=1e-3", "h2o:heavy_ratio=0.001,recent_ratio=0.1,score_dtype=f32"},
    {"h2o:heavy_ratio=.30000000000000004", "h2o:heavy_ratio=0.30000000000000004,recent_ratio=0.1,score_dtype=f32"},
    {"kivi", "kivi:bits=2,group=32,residual=128"},
    {"kivi:residual=1k,bits=4", "kivi:bits=4,group=32,residual=1024"},
    {"contiguous", "contiguous"},
    {"contiguous:8192", "contiguous:8192"},
    {"growing", "growing"},
    {"paged", "paged:16"},
    {"paged:32", "paged:32"},
    /* the axes' order, whatever the order written */
    {"paged:32 window:8", "window:8 paged:32"},
    {"contiguous kivi window", "window:1024 kivi:bits=2,group=32,residual=128 contiguous"},
};

START_TEST(parses)
{
    struct kvp_stack s = {0}, again = {0};
    char text[512], second[512];

    ck_assert_msg(add_specs(&s, good[_i].text) == KVP_OK, "%s: %s", good[_i].text, test_error.text);
    kvp_stack_text(&s, text, sizeof(text));
    ck_assert_str_eq(text, good[_i].canonical);
    /* The text of what was parsed parses to the same, value for value. */
    ck_assert_msg(add_specs(&again, text) == KVP_OK, "%s: %s", text, test_error.text);
    kvp_stack_text(&again, second, sizeof(second));
    ck_assert_str_eq(second, text);
    ck_assert_uint_eq(again.n, s.n);
    for (uint32_t i = 0; i < s.n; i++) {
        ck_assert_str_eq(again.spec[i].name, s.spec[i].name);
        for (uint32_t k = 0; k < s.spec[i].n_params; k++) {
            ck_assert_int_eq(again.spec[i].params[k].i, s.spec[i].params[k].i);
            ck_assert(again.spec[i].params[k].r == s.spec[i].params[k].r);
            ck_assert_int_eq(again.spec[i].params[k].f, s.spec[i].params[k].f);
        }
    }
}
END_TEST

static const struct {
    const char *text, *says;
} bad[] = {
    {"nosuch", "unknown technique 'nosuch'"},
    {"", "unknown technique ''"},
    {"h2", "unknown technique 'h2'"},
    {"dense:4", "no parameters"},
    {"window:0", "from 1 to"},
    {"window:-1", "expected an integer"},
    {"window:", "expected an integer"},
    {"window:12x", "expected an integer"},
    {"window:4kk", "expected an integer"},
    {"window:99999999999999999999", "expected an integer"},
    {"window:9007199254740992G", "expected an integer"},
    {"window:4,window=5", "window is given twice"},
    {"window:4,5", "expected key=value"},
    {"window,4", "expected key=value"},
    {"window:depth=4", "no parameter 'depth'; it has window=1024"},
    {"h2o:409", "expected key=value"},
    {"h2o:heavy=0", "from 1 to"},
    {"h2o:heavy=4,heavy_ratio=0.5", "give heavy or heavy_ratio, not both"},
    {"h2o:recent=4,recent_ratio=0.5", "give recent or recent_ratio, not both"},
    {"h2o:heavy_ratio=2", "from 0 to 1"},
    {"h2o:heavy_ratio=nan", "from 0 to 1"},
    {"h2o:heavy_ratio=", "from 0 to 1"},
    {"h2o:heavy_ratio=0.1.2", "from 0 to 1"},
    {"h2o:score_dtype=bf16", "f32 or f16"},
    {"kivi:bits=8", "from 2 to 4"},
    {"kivi:=2", "no parameter ''"},
    {"growing:1", "has no parameters"},
    {"paged:16,", "expected key=value"},
    {"window h2o", "both on the axis 'select'"},
    {"paged contiguous", "both on the axis 'store'"},
    {"window:4 window:4", "both on the axis 'select'"},
};

START_TEST(refuses)
{
    struct kvp_stack s = {0};
    kvp_err rc;

    /* "" is one spec here, not none */
    memset(&test_error, 0, sizeof(test_error));
    rc = *bad[_i].text ? add_specs(&s, bad[_i].text) : kvp_stack_add(&s, "", &test_error);
    ck_assert_msg(rc == KVP_EINPUT, "'%s' gave %d (%s)", bad[_i].text, rc, test_error.text);
    ck_assert_msg(strstr(test_error.text, bad[_i].says) != NULL, "'%s' says: %s", bad[_i].text, test_error.text);
    ck_assert_ptr_null(strchr(test_error.text, '\n'));
}
END_TEST

START_TEST(text_is_cut_not_overrun)
{
    struct kvp_stack s = {0};
    char text[64], whole[128];

    ck_assert_int_eq(add_specs(&s, "kivi paged"), KVP_OK);
    kvp_stack_text(&s, whole, sizeof(whole));
    for (size_t n = 0; n <= strlen(whole); n++) {
        memset(text, '#', sizeof(text));
        kvp_stack_text(&s, text, n);
        ck_assert(text[n] == '#');
        if (n)
            ck_assert(strlen(text) == n - 1 && strncmp(text, whole, n - 1) == 0);
    }
}
END_TEST

/* A failed add leaves the stack as it was. */
START_TEST(failure_adds_nothing)
{
    struct kvp_stack s = {0};

    ck_assert_int_eq(add_specs(&s, "paged:32"), KVP_OK);
    ck_assert_int_eq(add_specs(&s, "window:0"), KVP_EINPUT);
    ck_assert_int_eq(add_specs(&s, "contiguous"), KVP_EINPUT);
    ck_assert_uint_eq(s.n, 1);
    ck_assert_str_eq(s.spec[0].name, "paged");
}
END_TEST

/* What a table row of a technique must have; `info.params` is the parameter table in words. */
START_TEST(technique_table)
{
    const struct technique *t, *other;
    uint32_t baselines = 0;

    for (uint32_t i = 0; (t = technique_at(i)); i++) {
        char params[256] = "";

        for (uint32_t k = 0; k < t->n_params; k++) {
            const struct tech_param *p = &t->params[k];
            const size_t n = strlen(params);

            if (p->no_default)
                snprintf(params + n, sizeof(params) - n, "%s%s", k ? "," : "", p->key);
            else if (p->kind == KVP_PARAM_INT)
                snprintf(params + n, sizeof(params) - n, "%s%s=%" PRId64, k ? "," : "", p->key, p->i);
            else if (p->kind == KVP_PARAM_RATIO)
                snprintf(params + n, sizeof(params) - n, "%s%s=%g", k ? "," : "", p->key, p->r);
            else
                snprintf(params + n, sizeof(params) - n, "%s%s=%s", k ? "," : "", p->key,
                         p->kind == KVP_PARAM_WORD ? p->words[p->i] : kvp_format_name(p->f));
        }
        ck_assert_str_eq(params, t->info.params);
        ck_assert(strlen(t->info.summary) > 10 && strlen(t->info.source) > 10);
        ck_assert_msg(t->cache_rewrite != NULL, "%s has no footprint", t->info.name);
        ck_assert_ptr_eq(kvp_technique_at(i), &t->info);
        baselines += t->baseline;
        for (uint32_t k = i + 1; (other = technique_at(k)); k++)
            ck_assert_str_ne(t->info.name, other->info.name);
    }
    ck_assert_uint_eq(baselines, 1);
    ck_assert(technique_at(0)->baseline);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("spec");

    tcase_add_loop_test(t, parses, 0, (int)COUNT(good));
    tcase_add_loop_test(t, refuses, 0, (int)COUNT(bad));
    tcase_add_test(t, text_is_cut_not_overrun);
    tcase_add_test(t, failure_adds_nothing);
    tcase_add_test(t, technique_table);
    return run("calc: specs", &t, 1);
}
