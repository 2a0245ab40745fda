/* poison.c - the cache is what the engine reads: NaN in a row that the next query sees ruins its logits,
 * NaN in everything that holds no token changes not one bit. */
#include "tests/validate/tiny.h"

enum { PROMPT = 21, STEPS = 3, MORE = 3, SEEN = PROMPT + STEPS, CONTEXT = SEEN + MORE };

/* tokens: how many of the SEEN positions layer 0, head 0 keeps. visible: how many the next query can see,
 * itself included (0: all that are kept). */
static const struct {
    int model;
    const char *specs[2];
    uint64_t tokens, visible;
    bool recent_only; /* exactly the last `tokens` positions are kept */
} cases[] = {
    {4, {NULL}, SEEN, 0, true},
    {4, {"paged:4"}, SEEN, 0, true},
    {4, {"paged:5"}, SEEN, 0, true},
    {4, {"contiguous:64"}, SEEN, 0, true},
    {4, {"growing"}, SEEN, 0, true},
    {2, {NULL}, 7, 7, true}, /* the model's own window */
    {2, {"contiguous:64"}, 7, 7, true},
    {4, {"window:5"}, 5, 5, true},
    {4, {"window:5", "paged:2"}, 5, 5, true},
    {4, {"window:100", "growing"}, SEEN, 100, true},
    {4, {"h2o:heavy=3,recent=4"}, 7, 0, false},
    {4, {"h2o:heavy=3,recent=4", "paged:4"}, 7, 0, false},
    {4, {"h2o:heavy=30,recent=40", "contiguous:64"}, SEEN, 0, true},
    {4, {"streaming-llm:sink=3,recent=30", "paged:4"}, SEEN, 0, true},
    {4, {"streaming-llm:variant=factory,sink=2,recent=5"}, 7 + STEPS, 0, false},
    {4, {"snapkv:cap=9,window=4"}, 9 + STEPS, 0, false},
    {4, {"snapkv:cap=9,window=4", "paged:4"}, 9 + STEPS, 0, false},
    {4, {"pyramidkv:cap=9,window=4"}, 14 + STEPS, 0, false}, /* 2 * 5 of them and the window in the bottom layer */
    {4, {"adakv:cap=40,window=4"}, SEEN, 0, true},
    {4, {"adakv:cap=40,window=4", "growing"}, SEEN, 0, true},
    {4, {"minicache:start=0,gamma=0.2"}, SEEN, 0, true},
    {4, {"minicache:start=0,gamma=0.2", "paged:4"}, SEEN, 0, true},
    {4, {"window:5", "minicache:start=0,gamma=0.5"}, 5, 5, true},
    {4, {"tova:7"}, 7, 0, false},
    {4, {"quest:page=4,budget=40,dense=0"}, SEEN, 0, true},
    {4, {"duo:1,sink=2,recent=5", "paged:4"}, SEEN, 0, true},
    {4, {"duo:0,sink=2,recent=30", "contiguous:64"}, SEEN, 0, true},
    {4, {"tova:7", "growing"}, 7, 0, false},
    {4, {"kivi:bits=2,group=16,residual=16"}, SEEN, 0, true},
    {4, {"lorc"}, SEEN, 0, true},
    {0, {"lorc"}, SEEN, 0, true}, /* absorbed */
    {4, {"lorc:form=rebuild,k_rank=5,v_rank=9", "paged:4"}, SEEN, 0, true},
    {4, {"lorc:k_rank=3,v_rank=20", "window:5"}, 5, 5, true},
    {2, {"lorc", "contiguous:64"}, 7, 7, true},
    {4, {"lorc", "kv:int8"}, SEEN, 0, true},
    {4, {"kv:fp8"}, SEEN, 0, true},
    {4, {"h2o:heavy=3,recent=4", "kv:int8"}, 7, 0, false},
    {4, {"tova:7", "kv:int4,group=16"}, 7, 0, false},
    {4, {"streaming-llm:sink=3,recent=30", "kv:int8"}, SEEN, 0, true},
    {4, {"streaming-llm:sink=2,recent=25", "kv:fp8"}, SEEN, 0, true},
    {4, {"quest:page=4,budget=40,dense=0", "kv:int8"}, SEEN, 0, true},
    {4, {"kv:int8", "window:5"}, 5, 5, true},
    {4, {"kv:int8", "growing"}, SEEN, 0, true},
    {4, {"kv:int4,group=16", "paged:4"}, SEEN, 0, true},
    {4, {"kivi:bits=4,group=8,residual=8", "paged:16"}, SEEN, 0, true},
    {4, {"kivi:bits=4,group=16,residual=16", "contiguous:64"}, SEEN, 0, true},
};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

static int32_t ids[CONTEXT];

static struct eng *after_steps(const struct kvp_model *m, const char *const *specs, const char *backend)
{
    struct eng_options o = {.device = {.threads = 1}, .kv = KVP_F16, .batch = 1, .prompt = PROMPT,
                            .generate = STEPS + MORE, .seed = 3, .trace = true};
    struct kvp_error err = {0};
    struct kvp_stack stack = {0};
    struct eng *g = NULL;

    for (int i = 0; i < 2 && specs[i]; i++)
        must(kvp_stack_add(&stack, specs[i], &err));
    must(kb_find(&o.backend, backend, &err));
    must(eng_open(&g, m, &stack, &o, &err));
    tiny_tokens(ids, CONTEXT, m->vocab);
    must(eng_prefill(g, ids, NULL, NULL, &err));
    for (int i = PROMPT; i < SEEN; i++)
        must(eng_decode(g, &ids[i], NULL, &err));
    return g;
}

/* Logits of the MORE steps that follow. */
static void go_on(struct eng *g, float *logits)
{
    struct kvp_error err = {0};

    for (int i = 0; i < MORE; i++)
        must(eng_decode(g, &ids[SEEN + i], logits + i * TINY_VOCAB, &err));
}

static bool any_nan(const float *x, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (isnan(x[i]))
            return true;
    return false;
}

static void poison_everywhere(int c, const char *backend)
{
    static float clean[MORE * TINY_VOCAB], after[MORE * TINY_VOCAB];
    struct kvp_model m;
    uint64_t stored_count = 0;
    struct eng *g;

    tiny_load(&m, cases[c].model);
    g = after_steps(&m, cases[c].specs, backend);
    go_on(g, clean);
    eng_close(g);
    ck_assert(!any_nan(clean, MORE * TINY_VOCAB));
    for (uint64_t pos = 0; pos < SEEN + 2; pos++) {
        struct kvp_error err = {0};
        bool stored = false;

        g = after_steps(&m, cases[c].specs, backend);
        must(eng_poison(g, pos, &stored, &err));
        go_on(g, after);
        eng_close(g);
        stored_count += stored;
        if (cases[c].recent_only)
            ck_assert_msg(stored == (pos < SEEN && SEEN - pos <= cases[c].tokens), "position %d: stored %d", (int)pos, stored);
        if (!stored)
            ck_assert_msg(memcmp(after, clean, sizeof(clean)) == 0, "position %d is not stored, yet its poison shows", (int)pos);
        else if (cases[c].visible == 0 || SEEN - pos < cases[c].visible)
            ck_assert_msg(any_nan(after, TINY_VOCAB), "position %d is stored and seen, yet its poison does not show", (int)pos);
        else
            ck_assert_msg(memcmp(after, clean, sizeof(clean)) == 0, "position %d is out of the window, yet its poison shows", (int)pos);
    }
    ck_assert_uint_eq(stored_count, cases[c].tokens);
    kvp_model_free(&m);
}

START_TEST(poison_shows_where_it_is_read)
{
    poison_everywhere(_i / 2, _i % 2 ? "cpu" : "ref");
}
END_TEST

/* What a dump says is kept is what can be poisoned: h2o's own choice, layer 0, head 0. */
START_TEST(dump_agrees_with_poison)
{
    static const char *const specs[2] = {"h2o:heavy=3,recent=4"};
    struct kvp_model m;
    struct kvp_error err = {0};
    struct eng *g;
    char *text = NULL, *list;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    uint64_t found = 0;

    tiny_load(&m, 4);
    g = after_steps(&m, specs, "ref");
    must(eng_dump_kept(g, f, &err));
    fclose(f);
    eng_close(g);
    list = strstr(text, "\"positions\"");
    ck_assert_ptr_nonnull(list);
    list = strchr(list, '[');
    for (char *end = list; *end != ']'; found++) {
        const uint64_t pos = strtoull(end + 1, &end, 10);
        bool stored = false;

        g = after_steps(&m, specs, "ref");
        must(eng_poison(g, pos, &stored, &err));
        ck_assert_msg(stored, "%s: position %d is said to be kept", text, (int)pos);
        eng_close(g);
        while (*end == ' ')
            end++;
    }
    ck_assert_uint_eq(found, 7);
    free(text);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("poison");
    TCase *t = tcase_create("poison");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 240);
    tcase_add_loop_test(t, poison_shows_where_it_is_read, 0, CASES * 2);
    tcase_add_test(t, dump_agrees_with_poison);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
