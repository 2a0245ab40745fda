/* pairs.c - every pair of techniques that the composition table allows, run on a small model: predicted bytes are the measured
 * ones. What the engine refuses is listed here with its reason, and nothing that runs may be listed. */
#include "tests/validate/tiny.h"
#include "validate/compare.h"

#include <jansson.h>
#include <unistd.h>

enum { PROMPT = 48, GENERATE = 6, BATCH = 2, PAIRS = 512 };

/* Parameters that suit one another where a technique's own example at this workload would not. */
static const struct {
    const char *name, *spec;
} specs[] = {{"window", "window:40"}, {"paged", "paged:32"}, {"prefix", "prefix:32"}, {"quest", "quest:page=16,budget=32,dense=1"},
             {"yoco", "yoco:window=40"}, {"kv", "kv:int8,scale=token-head"}};

static void spec_of(const char *name, const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    struct kvp_error err = {0};

    for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++)
        if (strcmp(specs[i].name, name) == 0) {
            snprintf(buf, n, "%s", specs[i].spec);
            return;
        }
    for (uint32_t i = 0; kvp_technique_at(i); i++)
        if (strcmp(kvp_technique_at(i)->name, name) == 0)
            must(kvp_technique_example(i, m, w, buf, n, &err));
}

/* Does the engine run the technique by itself? What it does not is no pair's affair. */
static bool runs_alone(const char *spec)
{
    struct kvp_error err = {0}, why = {0};
    struct kvp_stack s = {0};

    must(kvp_stack_add(&s, spec, &err));
    return val_runs(&s, &why) == KVP_OK;
}

#define ONE_PASS "with a prompt in one pass only"
#define NO_ROWS "the rest of the stack cannot keep the tokens it selects"
#define NO_READERS "kind of attention yet"
#define NO_CODES "the engine codes the weights of attention and dense feed-forwards only"

/* Pairs that the engine refuses so far, and the words that it refuses them with. */
static const struct {
    const char *a, *b, *why;
} refused[] = {
    /* caches that take a prompt whole, and bounds of pages, which nobody shares */
    {"streaming-llm", "chunked-prefill", ONE_PASS}, {"kivi", "chunked-prefill", ONE_PASS}, {"yoco", "chunked-prefill", ONE_PASS},
    {"yoco", "prefix", ONE_PASS}, {"mla", "prefix", ONE_PASS}, {"mla", "chunked-prefill", ONE_PASS}, {"quest", "prefix", "bounds of pages"},
    /* selections that read or move rows by kernels which know whole numbers only */
    {"adakv", "kv", NO_ROWS}, {"duo", "kv", NO_ROWS}, {"minicache", "kv", "the engine does not encode what minicache merges"},
    /* layouts that do not ask the selection which rows are theirs */
    {"pyramidkv", "kivi", NO_ROWS}, {"snapkv", "kivi", NO_ROWS}, {"streaming-llm", "minicache", NO_ROWS},
    /* caches of their own that do not know readers of another layer's rows */
    {"streaming-llm", "cla", NO_READERS}, {"minicache", "cla", NO_READERS}, {"kivi", "cla", NO_READERS}, {"kivi", "yoco", NO_READERS},
    {"h2o", "mla", NO_READERS}, {"tova", "mla", NO_READERS}, {"mla", "w", NO_CODES}, {"mla", "smoothquant", NO_CODES},
    /* rows that several sequences read */
    {"window", "prefix", "a window, which the engine does not share"},
    /* latents */
    {"lorc", "streaming-llm", "does not run it with streaming-llm"}, {"lorc", "tova", "does not run it with tova"},
    {"lorc", "prefix", ONE_PASS}, {"lorc", "chunked-prefill", ONE_PASS},
    {"lorc", "w", "does not code factored weights"}, {"lorc", "smoothquant", "does not code factored weights"},
    /* the matrices of a recurrence, and of cross blocks */
    {"recurrent", "w", NO_CODES}, {"recurrent", "smoothquant", NO_CODES}, {"xc-cache", "w", NO_CODES}, {"xc-cache", "smoothquant", NO_CODES},
};
enum { REFUSED = sizeof(refused) / sizeof(refused[0]) };

static const char *refusal(const char *a, const char *b)
{
    for (size_t i = 0; i < REFUSED; i++)
        if ((strcmp(refused[i].a, a) == 0 && strcmp(refused[i].b, b) == 0) || (strcmp(refused[i].a, b) == 0 && strcmp(refused[i].b, a) == 0))
            return refused[i].why;
    return NULL;
}

static const char config[] = "{\"model_type\":\"llama\",\"vocab_size\":61,\"hidden_size\":128,\"num_hidden_layers\":8,"
                             "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":64,\"intermediate_size\":96,"
                             "\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"max_position_embeddings\":256,"
                             "\"tie_word_embeddings\":false,\"torch_dtype\":\"float32\"}";

static struct {
    char a[32], b[32];
} names[PAIRS];

static uint32_t collect(struct kvp_stack *stacks, const struct kvp_model *m, const struct kvp_workload *w)
{
    const struct kvp_pair *p;
    struct kvp_error err = {0};
    uint32_t n = 0;

    for (uint32_t i = 0; (p = kvp_pair_at(i)); i++) {
        char one[256], other[256];

        if (!p->allowed)
            continue;
        ck_assert_uint_lt(n, PAIRS);
        snprintf(names[n].a, sizeof(names[n].a), "%s", p->a);
        snprintf(names[n].b, sizeof(names[n].b), "%s", p->b);
        spec_of(names[n].a, m, w, one, sizeof(one));
        spec_of(names[n].b, m, w, other, sizeof(other));
        if (!runs_alone(one) || !runs_alone(other))
            continue;
        stacks[n] = (struct kvp_stack){0};
        must(kvp_stack_add(&stacks[n], one, &err));
        must(kvp_stack_add(&stacks[n], other, &err));
        n++;
    }
    return n;
}

static uint32_t ran, wrong;

/* All that is wrong is printed, not the first of it alone. */
#define expect(fact, ...)            \
    do {                             \
        if (!(fact)) {               \
            printf("  " __VA_ARGS__); \
            printf("\n");            \
            wrong++;                 \
        }                            \
    } while (0)

static void check_row(const json_t *row, const char *a, const char *b)
{
    const char *kind = json_string_value(json_object_get(row, "kind")), *name = json_string_value(json_object_get(row, "row"));
    const long long p = json_integer_value(json_object_get(row, "predicted")), m = json_integer_value(json_object_get(row, "measured"));

    if (strcmp(kind, "bytes") == 0)
        expect(p == m, "%s with %s: %s: predicted %lld, measured %lld", a, b, name, p, m);
    if (strcmp(kind, "bound") == 0)
        expect(m <= p, "%s with %s: %s: at most %lld, measured %lld", a, b, name, p, m);
}

static void check(const json_t *res, const char *a, const char *b)
{
    const char *not_run = json_string_value(json_object_get(res, "not_applicable")), *words = refusal(a, b);
    size_t i;
    json_t *row;

    if (words || not_run) {
        expect(not_run, "%s with %s is listed as refused, and runs", a, b);
        expect(!not_run || (words && strstr(not_run, words)), "%s with %s, not listed: %s", a, b, not_run);
        return;
    }
    json_array_foreach(json_object_get(res, "rows"), i, row)
        check_row(row, a, b);
    ck_assert_uint_ge(json_array_size(json_object_get(res, "rows")), 8);
    ran++;
}

START_TEST(all_pairs)
{
    struct kvp_stack *stacks = calloc(PAIRS, sizeof(*stacks));
    char out[] = "/tmp/kvproof-pairs-XXXXXX";
    struct kvp_error err = {0};
    struct kvp_model m;
    struct val_request q = {.model = &m, .stacks = stacks, .backend = "cpu", .threads = 1, .seed = 1,
                            .workload = {.batch = BATCH, .prompt = PROMPT, .generate = GENERATE, .context = PROMPT + GENERATE},
                            .formats = {.weights_given = true, .kv_given = true}, .repeat = 1, .max_time_error = -1,
                            .format = "json", .out = out};
    const int fd = mkstemp(out);
    json_t *all;

    ck_assert_int_ge(fd, 0);
    close(fd);
    must(kvp_model_parse(&m, config, strlen(config), "small", &err));
    q.n_stacks = collect(stacks, &m, &q.workload);
    ck_assert_uint_gt(q.n_stacks, 100);
    if (val_run(&q, &err) != KVP_OK)
        fprintf(stderr, "%s\n", err.text); /* which pair, and by how much, comes now */
    all = json_load_file(out, 0, NULL);
    ck_assert_ptr_nonnull(all);
    ck_assert_uint_eq(json_array_size(all), q.n_stacks);
    for (uint32_t i = 0; i < q.n_stacks; i++)
        check(json_array_get(all, i), names[i].a, names[i].b);
    printf("  %u of %u pairs that the table allows ran, bytes agree; %u are refused, as listed\n", ran, q.n_stacks, q.n_stacks - ran);
    ck_assert_uint_eq(wrong, 0);
    ck_assert_uint_ge(ran, 165);
    json_decref(all);
    unlink(out);
    kvp_model_free(&m);
    free(stacks);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pairs");
    TCase *t = tcase_create("pairs");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 300);
    tcase_add_test(t, all_pairs);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
