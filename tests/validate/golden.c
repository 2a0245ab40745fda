/* golden.c - logits, cache and state bytes against public implementations (tests/golden/make_golden.py and
 * make_recurrent.py, make_encdec.py). */
#include "tests/validate/tiny.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>

enum { MAX_GOLDENS = 64, MAX_TOKENS = 512 };

static const char *const backends[] = {"ref", "cpu"};
enum { BACKENDS = 2 };

static char *goldens[MAX_GOLDENS];
static int n_goldens;

struct golden {
    char dir[512];
    struct kvp_model m;
    int32_t ids[MAX_TOKENS];
    uint64_t n;
    int32_t source[MAX_TOKENS]; /* an encoder's */
    uint64_t n_source;
    float *logits; /* [n, vocab], transformers' */
    json_t *meta;
};

static FILE *open_in(const struct golden *g, const char *file)
{
    char path[600];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", g->dir, file);
    f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s is missing", path);
    return f;
}

static uint64_t read_ids(const struct golden *g, const char *file, int32_t *ids)
{
    FILE *f = open_in(g, file);
    uint64_t n = 0;

    while (n < MAX_TOKENS && fscanf(f, "%d", &ids[n]) == 1)
        n++;
    fclose(f);
    return n;
}

static void golden_load(struct golden *g, int i)
{
    struct kvp_error err = {0};
    uint64_t rows;
    FILE *f;

    *g = (struct golden){.n = 0};
    snprintf(g->dir, sizeof(g->dir), "%s/golden/%s", getenv("KVPROOF_TESTS"), goldens[i]);
    must(kvp_model_load(&g->m, g->dir, &err));
    g->n = read_ids(g, "tokens.txt", g->ids);
    ck_assert_uint_gt(g->n, 1);
    g->n_source = g->m.encoders ? read_ids(g, "source.txt", g->source) : 0;
    g->logits = malloc((g->n * g->m.vocab + 1) * sizeof(float));
    f = open_in(g, "logits.f32");
    rows = fread(g->logits, sizeof(float) * g->m.vocab, g->n, f);
    ck_assert_uint_eq(rows, g->n);
    ck_assert_int_eq(fgetc(f), EOF);
    fclose(f);
    f = open_in(g, "meta.json");
    g->meta = json_loadf(f, 0, NULL);
    fclose(f);
    ck_assert_ptr_nonnull(g->meta);
}

static void golden_free(struct golden *g)
{
    kvp_model_free(&g->m);
    free(g->logits);
    json_decref(g->meta);
}

static struct eng *open_golden(const struct golden *g, const char *backend, uint64_t prompt)
{
    static const struct kvp_stack dense;
    struct eng_options o = {.device = {.threads = 2}, .batch = 1, .prompt = prompt, .generate = g->n - prompt,
                            .encoder_tokens = g->n_source, .weights_dir = g->dir};
    struct kvp_error err = {0};
    struct eng *e = NULL;

    must(kb_find(&o.backend, backend, &err));
    must(eng_open(&e, &g->m, &dense, &o, &err));
    if (g->n_source)
        must(eng_source(e, g->source, &err));
    return e;
}

/* One forward over the text, cut after 1, half of it, and not at all. */
START_TEST(logits_agree_with_transformers)
{
    const char *backend = backends[_i % BACKENDS];
    struct kvp_error err = {0};
    struct golden g;
    float *ours;

    golden_load(&g, _i / BACKENDS);
    ours = malloc(g.n * g.m.vocab * sizeof(float));
    for (int cut = 0; cut < 3; cut++) {
        const uint64_t prompts[] = {1, g.n / 2, g.n};
        struct eng *e = open_golden(&g, backend, prompts[cut]);
        double apart;

        must(eng_prefill(e, g.ids, ours, NULL, &err));
        for (uint64_t t = prompts[cut]; t < g.n; t++)
            must(eng_decode(e, &g.ids[t], ours + t * g.m.vocab, &err));
        apart = far_apart(ours, g.logits, g.n * g.m.vocab);
        ck_assert_msg(apart < 1e-3, "%s on %s, %d of %d tokens as the prompt: off by %g", goldens[_i / BACKENDS], backend,
                      (int)prompts[cut], (int)g.n, apart);
        if (cut == 2)
            printf("  %-16s %s: within %.1e of the public implementation\n", goldens[_i / BACKENDS], backend, apart);
        eng_close(e);
    }
    free(ours);
    golden_free(&g);
}
END_TEST

/* A layer that slides keeps window - 1 tokens there (the next query brings its own key), window here. */
static uint64_t expected_bytes(const struct golden *g)
{
    const json_t *repeats = json_object_get(g->meta, "kv_repeats"); /* each KV head, once for every query head */
    uint64_t sum = 0;
    size_t i;
    json_t *l;

    json_array_foreach(json_object_get(g->meta, "cache_layers"), i, l) {
        const uint64_t bytes = (uint64_t)json_integer_value(json_object_get(l, "bytes"));
        const uint64_t tokens = (uint64_t)json_integer_value(json_object_get(l, "tokens"));
        const bool slides = strstr(json_string_value(json_object_get(l, "kind")), "Sliding") != NULL;

        sum += bytes / tokens * (slides && tokens < g->n ? tokens + 1 : tokens);
    }
    json_array_foreach(json_object_get(g->meta, "cross_layers"), i, l)
        sum += (uint64_t)json_integer_value(json_object_get(l, "bytes"));
    return repeats ? sum / (uint64_t)json_integer_value(repeats) : sum;
}

static uint64_t number(const json_t *o, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(o, key));
}

/* A convolution keeps d_conv columns there, of which the oldest is never read again; d_conv - 1 here. */
static uint64_t expected_state(const struct golden *g)
{
    uint64_t sum = 0;
    size_t i;
    json_t *l;

    json_array_foreach(json_object_get(g->meta, "state_layers"), i, l) {
        const uint64_t columns = number(l, "columns");

        sum += number(l, "matrix_bytes") + number(l, "shift_bytes");
        sum += columns ? number(l, "conv_bytes") / columns * (columns - 1) : 0;
    }
    return sum;
}

START_TEST(cache_bytes_agree_with_transformers)
{
    struct kvp_error err = {0};
    struct golden g;
    struct eng *e;

    golden_load(&g, _i);
    e = open_golden(&g, "ref", g.n);
    must(eng_prefill(e, g.ids, NULL, NULL, &err));
    if (!json_object_get(g.meta, "state_layers"))
        ck_assert_uint_eq(json_array_size(json_object_get(g.meta, "cache_layers")), g.m.layers);
    ck_assert_uint_eq(eng_ledger(e)->now[LED_STATE], expected_state(&g));
    ck_assert_uint_eq(eng_ledger(e)->now[LED_CACHE], expected_bytes(&g));
    ck_assert_uint_eq(eng_ledger(e)->now[LED_WEIGHTS],
                      4 * (uint64_t)json_integer_value(json_object_get(g.meta, "parameters")));
    eng_close(e);
    golden_free(&g);
}
END_TEST

/* The test above must not pass for want of goldens. */
START_TEST(every_dialect_has_a_golden)
{
    static const char *const dialects[] = {"gpt2",    "llama",     "mistral", "qwen2",  "qwen3",       "mixtral",
                                           "qwen3_moe", "gemma", "gemma2",  "gemma3_text", "gpt_oss", "deepseek_v2", "deepseek_v3",
                                           "gpt_neox",  "gptj",  "phi",     "phi3",        "falcon",  "stablelm",    "starcoder2",
                                           "bloom",     "mpt",   "llama4_text", "granite", "granitemoe", "cohere", "cohere2", "helium", "smollm3", "glm",
                                           "glm4",  "glm4_moe",  "nemotron", "olmo",  "olmo2", "olmo3", "olmoe", "exaone4", "opt", "gpt_bigcode",
                                           "qwen2_moe", "qwen3_5_text", "mamba", "mamba2", "jamba", "nemotron_h", "qwen3_next", "rwkv",
                                           "rwkv5", "rwkv6",     "rwkv7", "bart"};

    for (size_t d = 0; d < sizeof(dialects) / sizeof(dialects[0]); d++) {
        bool found = false;

        for (int i = 0; i < n_goldens; i++) {
            struct golden g;

            golden_load(&g, i);
            found = found || strcmp(g.m.model_type, dialects[d]) == 0;
            golden_free(&g);
        }
        ck_assert_msg(found, "no golden of model_type %s below $KVPROOF_TESTS/golden", dialects[d]);
    }
}
END_TEST

static void find_goldens(void)
{
    const char *tests = getenv("KVPROOF_TESTS");
    struct dirent **list = NULL;
    char path[512];
    int n;

    snprintf(path, sizeof(path), "%s/golden", tests ? tests : "tests");
    n = scandir(path, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char config[800];
        FILE *f;

        snprintf(config, sizeof(config), "%s/%s/config.json", path, list[i]->d_name);
        f = fopen(config, "r");
        if (f && n_goldens < MAX_GOLDENS)
            goldens[n_goldens++] = strdup(list[i]->d_name);
        if (f)
            fclose(f);
        free(list[i]);
    }
    free(list);
}

int main(void)
{
    Suite *s = suite_create("golden");
    TCase *t = tcase_create("golden");
    SRunner *r;
    int failed;

    find_goldens();
    tcase_set_timeout(t, 120);
    tcase_add_test(t, every_dialect_has_a_golden);
    tcase_add_loop_test(t, logits_agree_with_transformers, 0, n_goldens * BACKENDS);
    tcase_add_loop_test(t, cache_bytes_agree_with_transformers, 0, n_goldens);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    for (int i = 0; i < n_goldens; i++)
        free(goldens[i]);
    return failed != 0;
}
