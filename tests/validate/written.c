/* written.c - what kernels say that they write, against the bytes that change in every buffer, call by call: a backend between
 * the engine and the real one looks at all memory before and after each kernel. */
#include "kernels/host.h"
#include "kernels/ops.h"
#include "kernels/written.h"
#include "tests/validate/tiny.h"

enum { BUFFERS = 4096, POISON = 0xa5 };

static const struct kb_backend *real;
static struct {
    struct kb_buf *buf;
    unsigned char *before;
} held[BUFFERS];
static int n_held;

static struct {
    uint64_t calls, said, words;
} tally[KB_KERNELS];

static kvp_err watch_alloc(struct kb_dev *dev, uint64_t bytes, struct kb_buf **out, struct kvp_error *e)
{
    KVP_TRY(real->alloc(dev, bytes, out, e));
    memset((*out)->data, POISON, (*out)->bytes);
    ck_assert_int_lt(n_held, BUFFERS);
    held[n_held].buf = *out;
    held[n_held++].before = malloc((*out)->bytes);
    return KVP_OK;
}

static void watch_release(struct kb_dev *dev, struct kb_buf *buf)
{
    int i = 0;

    while (i < n_held && held[i].buf != buf)
        i++;
    if (i < n_held) {
        free(held[i].before);
        held[i] = held[--n_held];
    }
    real->release(dev, buf);
}

/* Bytes that are in a unit of so many of which one changed. */
static uint64_t changes(const unsigned char *a, const unsigned char *b, uint64_t n, uint64_t unit)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i += unit) {
        const uint64_t some = n - i < unit ? n - i : unit;

        sum += memcmp(a + i, b + i, some) ? some : 0;
    }
    return sum;
}

/* What a kernel may use as it likes is no result of it. */
static const struct kb_buf *scratch_of(enum kb_kernel k, const void *args)
{
    return k == KB_GEMM ? ((const struct kb_gemm *)args)->work.buf : NULL;
}

static kvp_err watch_run(struct kb_dev *dev, enum kb_kernel k, const void *args, struct kvp_error *e)
{
    const uint64_t said = kb_written(k, args);
    uint64_t changed = 0, words = 0;

    for (int i = 0; i < n_held; i++)
        memcpy(held[i].before, held[i].buf->data, held[i].buf->bytes);
    KVP_TRY(real->run(dev, k, args, e));
    for (int i = 0; i < n_held; i++)
        if (held[i].buf != scratch_of(k, args)) {
            changed += changes(held[i].before, held[i].buf->data, held[i].buf->bytes, 1);
            words += changes(held[i].before, held[i].buf->data, held[i].buf->bytes, 4);
        }
    ck_assert_msg(changed <= said, "%s changed %llu bytes and says %llu", kb_kernel_name(k), (unsigned long long)changed,
                  (unsigned long long)said);
    tally[k].calls++;
    tally[k].said += said;
    tally[k].words += words;
    return KVP_OK;
}

static const struct kb_backend *watcher(const char *name)
{
    static struct kb_backend be;
    struct kvp_error err = {0};

    must(kb_find(&real, name, &err));
    be = *real;
    be.alloc = watch_alloc;
    be.release = watch_release;
    be.run = watch_run;
    return &be;
}

/* Model 1 has RoPE and grouped heads of 8 channels, 4 as many that group by 16 (tiny.h). */
static const struct {
    int model;
    const char *stack;
} runs[] = {
    {0, ""}, {1, ""}, {2, ""}, {4, "paged:4"}, {4, "growing"}, {4, "window:5"}, {4, "streaming-llm:sink=3,recent=5"},
    {4, "h2o:heavy=3,recent=4"}, {4, "h2o:variant=flexgen,heavy_ratio=0.3"}, {4, "snapkv:cap=9,window=4"}, {4, "adakv:cap=9,window=4"},
    {4, "tova:7"}, {4, "quest:page=4,budget=9,dense=0"}, {4, "duo:0.5,sink=2,recent=5"}, {4, "minicache:start=0,gamma=0.2"},
    {4, "kivi:bits=2,group=16,residual=16"}, {4, "kv:fp8"}, {4, "kv:int8,scale=token-head"}, {4, "w:int8"}, {4, "smoothquant"}, {4, "chunked-prefill:16"}, {4, "lorc:k_rank=6,v_rank=7"},
};
enum { RUNS = sizeof(runs) / sizeof(runs[0]), PROMPT = 21, STEPS = 6, BATCH = 2 };

static void run(const struct kvp_model *m, const char *spec, const char *backend)
{
    struct eng_options o = {.backend = watcher(backend), .device = {.threads = 1}, .batch = BATCH, .prompt = PROMPT, .generate = STEPS,
                            .encoder_tokens = m->encoders ? PROMPT : 0, .seed = 3};
    int32_t ids[BATCH * (PROMPT + STEPS)];
    struct kvp_stack s = {0};
    struct kvp_error err = {0};
    struct eng *g;

    tiny_tokens(ids, BATCH * (PROMPT + STEPS), m->vocab);
    if (*spec)
        must(kvp_stack_add(&s, spec, &err));
    must(eng_open(&g, m, &s, &o, &err));
    if (m->encoders)
        must(eng_source(g, ids, &err));
    must(eng_prefill(g, ids, NULL, NULL, &err));
    for (int i = 0; i < STEPS; i++)
        must(eng_decode(g, ids + BATCH * (PROMPT + i), NULL, &err));
    eng_close(g);
    ck_assert_int_eq(n_held, 0);
}

/* What changed is no more than what was said, call by call; and over all calls what was said is at most twice the words in which
 * something changed: the rest was written again as it was. */
START_TEST(no_more_and_not_much_less)
{
    static const char *const goldens[] = {"mamba", "mamba2", "rwkv4", "rwkv6", "rwkv7", "qwen3-next", "deepseek-v2", "mixtral", "bart"};
    const char *backend = _i ? "cpu" : "ref";
    struct kvp_error err = {0};
    struct kvp_model m;
    char dir[300];

    memset(tally, 0, sizeof(tally));
    for (int i = 0; i < RUNS; i++) {
        tiny_load(&m, runs[i].model);
        run(&m, runs[i].stack, backend);
        kvp_model_free(&m);
    }
    for (size_t i = 0; i < sizeof(goldens) / sizeof(goldens[0]); i++) {
        snprintf(dir, sizeof(dir), "%s/golden/%s", getenv("KVPROOF_TESTS"), goldens[i]);
        must(kvp_model_load(&m, dir, &err));
        run(&m, "", backend);
        kvp_model_free(&m);
    }
    for (int k = 0; k < KB_KERNELS; k++)
        if (!tally[k].calls)
            ck_assert_msg(k == KB_READ_PROBE, "%s was not run", kb_kernel_name((enum kb_kernel)k));
        else
            ck_assert_msg(2 * tally[k].words >= tally[k].said, "%s changed words of %llu bytes in %llu calls and says %llu",
                          kb_kernel_name((enum kb_kernel)k), (unsigned long long)tally[k].words, (unsigned long long)tally[k].calls,
                          (unsigned long long)tally[k].said);
}
END_TEST

/* The engine adds them up forward by forward. */
START_TEST(counted_by_hand)
{
    struct eng_options o = {.device = {.threads = 1}, .batch = 1, .prompt = 8, .generate = 1, .seed = 3};
    static const struct kvp_stack dense;
    int32_t ids[9];
    struct kvp_error err = {0};
    const struct eng_kernel *k;
    struct kvp_model m;
    struct eng *g;

    tiny_load(&m, 1); /* 3 layers of width 32, 4 heads of 8 over 2, 40 up and down, vocabulary of 61 */
    tiny_tokens(ids, 9, m.vocab);
    must(kb_find(&o.backend, "cpu", &err));
    must(eng_open(&g, &m, &dense, &o, &err));
    for (int i = 0; i < 2; i++)
        must(eng_prefill(g, ids, NULL, NULL, &err)); /* of the last alone */
    must(eng_decode(g, ids + 8, NULL, &err));
    k = eng_kernels(g, ENG_PREFILL);
    ck_assert_uint_eq(k[KB_GEMM].calls, 3 * 4 + 1);
    ck_assert_uint_eq(k[KB_GEMM].written, 4 * (3 * 8 * (64 + 32 + 80 + 32) + 61));
    ck_assert_uint_eq(k[KB_CACHE_WRITE].calls, 6);
    ck_assert_uint_eq(k[KB_CACHE_WRITE].written, 4 * 3 * 2 * 8 * 16);
    ck_assert_uint_eq(k[KB_ATTN_PREFILL].written, 4 * 3 * 8 * (32 + 4)); /* and its log-sum-exp */
    ck_assert_uint_eq(k[KB_ATTN_DECODE].calls, 0);
    k = eng_kernels(g, ENG_DECODE);
    ck_assert_uint_eq(k[KB_CACHE_WRITE].written, 4 * 3 * 2 * 16);
    ck_assert_uint_eq(k[KB_ATTN_DECODE].calls, 3);
    ck_assert_uint_eq(k[KB_ATTN_DECODE].written, 4 * 3 * 32);
    ck_assert_uint_eq(k[KB_EMBED].written, 4 * 32);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("written");
    TCase *t = tcase_create("written");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, no_more_and_not_much_less, 0, 2);
    tcase_add_test(t, counted_by_hand);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
