/* xc-cache.c - cross blocks over an encoded context: bytes by hand, a slow forward in double precision from the paper's formulas,
 * laws, poison, refusals. */
#include "tests/techniques/slow.h"

enum { N = 27, LAYERS = 5, WIDTH = 24, HEADS = 6, KV = 2, D = 8 };

static const char *const backends[] = {"ref", "cpu"};
static const char model[] = SLOW_LLAMA(5, 2, false);
static const double ROUNDING = 3e-5; /* f32 sums of a few dozen terms, five layers and their blocks deep */

/* ---- bytes ------------------------------------------------------------------------------------------------- */

/* hidden B * Tc * Denc * b, kv blocks * 2 * B * Tc * inner * b; the decoder 2 * L * B * (question + generated) * Hkv * d * b */
static const struct {
    const char *stack;
    uint64_t batch, prompt, generate;
    enum kvp_format kv;
    uint64_t bytes, metadata;
} sizes[] = {
    {"xc-cache:blocks=2,stride=2,inner=12,question=5", 1, 20, 3, KVP_F32, (15 * 24 + 2 * 5 * 8 * 16) * 4, 0},
    {"xc-cache:blocks=2,stride=2,inner=12,question=5", 3, 20, 3, KVP_F16, 3 * (15 * 24 + 2 * 5 * 8 * 16) * 2, 0},
    {"xc-cache:blocks=5,stride=1,inner=12,question=5,keep=kv", 2, 20, 3, KVP_BF16, 2 * (5 * 2 * 15 * 12 + 2 * 5 * 8 * 16) * 2, 0},
    {"xc-cache:blocks=1,inner=12,question=1", 1, 2, 0, KVP_F32, (1 * 24 + 2 * 5 * 1 * 16) * 4, 0},
    {"xc-cache:blocks=1,inner=12,question=4,encoder_width=40", 2, 9, 1, KVP_F16, 2 * (5 * 40 + 2 * 5 * 5 * 16) * 2, 0},
    {"xc-cache:blocks=1,inner=12,question=4,encoder_width=40,keep=kv", 2, 9, 1, KVP_F32, 2 * (2 * 5 * 12 + 2 * 5 * 5 * 16) * 4, 0},
    {"xc-cache:blocks=1,inner=12,question=5 paged:4", 1, 20, 3, KVP_F32, (15 * 24 + 2 * 5 * 8 * 16) * 4, 2 * 4},
    {"xc-cache:blocks=1,inner=12,question=5 growing", 1, 20, 3, KVP_F32, (15 * 24 + 2 * 5 * 8 * 16) * 4, 0},
};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    const struct eng_options o = {.prompt = sizes[_i].prompt, .generate = sizes[_i].generate, .kv = sizes[_i].kv, .batch = sizes[_i].batch};
    int32_t ids[3 * N];
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g = slow_open(&m, model, sizes[_i].stack, o, "cpu");

    tiny_tokens(ids, 3 * N, TINY_VOCAB);
    must(eng_prefill(g, ids, NULL, NULL, &err));
    for (uint64_t t = 0; t < sizes[_i].generate; t++)
        must(eng_decode(g, ids, NULL, &err));
    ck_assert_msg(eng_ledger(g)->now[LED_CACHE] == sizes[_i].bytes, "%s: %llu bytes, expected %llu", sizes[_i].stack,
                  (unsigned long long)eng_ledger(g)->now[LED_CACHE], (unsigned long long)sizes[_i].bytes);
    ck_assert_uint_eq(eng_ledger(g)->now[LED_METADATA], sizes[_i].metadata);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* ---- the slow forward ---------------------------------------------------------------------------------------- */

static void slow_embed(const struct eng *g, const int32_t *ids, uint64_t n, double *x)
{
    for (uint64_t i = 0; i < n * WIDTH; i++)
        x[i] = slow_weight(g, WT_EMBED, 0, (uint64_t)ids[i / WIDTH] * WIDTH + i % WIDTH);
}

/* One decoder layer over all rows. */
static void slow_layer(const struct eng *g, uint32_t l, uint64_t n, double *x)
{
    const struct slow_layer own = {.owner = l, .kv_heads = KV};
    struct slow s = {.n = n, .x = x};

    s.k[l] = calloc(n * KV * D, sizeof(double));
    s.v[l] = calloc(n * KV * D, sizeof(double));
    slow_attention(g, &s, l, &own);
    for (uint64_t t = 0; t < n; t++)
        slow_mlp(g, l, x + t * WIDTH);
    free(s.k[l]);
    free(s.v[l]);
}

/* The decoder as the context's encoder: rows behind the last norm. */
static void slow_encode(const struct eng *g, const int32_t *ids, uint64_t n, double *out)
{
    double *x = calloc(n * WIDTH, sizeof(*x));

    slow_embed(g, ids, n, x);
    for (uint32_t l = 0; l < LAYERS; l++)
        slow_layer(g, l, n, x);
    for (uint64_t t = 0; t < n; t++)
        slow_norm(g, WT_FINAL_NORM, 0, x + t * WIDTH, out + t * WIDTH);
    free(x);
}

static void slow_layer_norm(const struct eng *g, enum wt_role role, uint32_t l, const double *x, double *out)
{
    double mean = 0, var = 0;

    for (int i = 0; i < WIDTH; i++)
        mean += x[i] / WIDTH;
    for (int i = 0; i < WIDTH; i++)
        var += (x[i] - mean) * (x[i] - mean) / WIDTH;
    for (int i = 0; i < WIDTH; i++)
        out[i] = (x[i] - mean) / sqrt(var + g->m->norm_eps) * slow_weight(g, role, l, (uint64_t)i) +
                 slow_weight(g, (enum wt_role)(role + 1), l, (uint64_t)i);
}

/* Attention of q over C rows of k and v without a mask: every head by itself. */
static void slow_cross(const double *q, const double *k, const double *v, uint64_t C, uint32_t heads, uint32_t dim, double *out)
{
    double *p = calloc(C, sizeof(*p));

    for (uint32_t h = 0; h < heads; h++) {
        double sum = 0;

        for (uint64_t j = 0; j < C; j++) {
            p[j] = 0;
            for (uint32_t i = 0; i < dim; i++)
                p[j] += q[h * dim + i] * k[(j * heads + h) * dim + i];
            sum += p[j] = exp(p[j] / sqrt(dim));
        }
        for (uint32_t i = 0; i < dim; i++) {
            out[h * dim + i] = 0;
            for (uint64_t j = 0; j < C; j++)
                out[h * dim + i] += p[j] / sum * v[(j * heads + h) * dim + i];
        }
    }
    free(p);
}

static void slow_block(const struct eng *g, uint32_t l, uint32_t heads, uint32_t inner, const double *hidden, uint64_t C, uint64_t n, double *x)
{
    double *k = calloc(C * inner, sizeof(*k)), *v = calloc(C * inner, sizeof(*v)), *q = calloc(inner, sizeof(*q));
    double *out = calloc(inner, sizeof(*out)), *up = calloc(8 * (size_t)inner, sizeof(*up)), h[WIDTH];

    for (uint64_t j = 0; j < C; j++) {
        slow_linear(g, WT_CROSS_KV, l, 0, inner, WIDTH, hidden + j * WIDTH, k + j * inner, false);
        slow_linear(g, WT_CROSS_KV, l, inner, inner, WIDTH, hidden + j * WIDTH, v + j * inner, false);
        slow_rope(g, k + j * inner, heads, inner / heads, j);
    }
    for (uint64_t t = 0; t < n; t++) {
        double *row = x + t * WIDTH;

        slow_layer_norm(g, WT_CROSS_NORM, l, row, h);
        slow_linear(g, WT_CROSS_Q, l, 0, inner, WIDTH, h, q, false);
        slow_rope(g, q, heads, inner / heads, t);
        slow_cross(q, k, v, C, heads, inner / heads, out);
        slow_linear(g, WT_CROSS_O, l, 0, WIDTH, inner, out, row, true);
        slow_layer_norm(g, WT_BLOCK_NORM, l, row, h);
        slow_linear(g, WT_BLOCK_UP, l, 0, 8ull * inner, WIDTH, h, up, false);
        for (uint32_t i = 0; i < 4 * inner; i++)
            up[i] = up[i] / (1 + exp(-up[i])) * up[4 * inner + i];
        slow_linear(g, WT_BLOCK_DOWN, l, 0, WIDTH, 4ull * inner, up, row, true);
    }
    free(k);
    free(v);
    free(q);
    free(out);
    free(up);
}

static const struct {
    const char *keep;
    uint32_t blocks, stride, inner, heads; /* heads: the decoder's six, or the most below that make even parts */
    uint64_t question;
} cases[] = {{"hidden", 2, 2, 12, 6, 5}, {"kv", 2, 2, 12, 6, 5}, {"hidden", 5, 1, 24, 6, 9},      {"kv", 5, 1, 20, 5, 9},
             {"hidden", 1, 6, 8, 4, 1},  {"kv", 1, 6, 2, 1, 20}, {"hidden", 3, 2, 34, 1, 11}};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

static void stack_of(int i, char *buf, size_t n)
{
    snprintf(buf, n, "xc-cache:blocks=%u,stride=%u,inner=%u,question=%d,keep=%s", cases[i].blocks, cases[i].stride, cases[i].inner,
             (int)cases[i].question, cases[i].keep);
}

/* Logits of the question's last token and of every one after it. */
static void slow_xc(const struct eng *g, int i, const int32_t *ids, uint64_t context, uint64_t n, float *logits)
{
    double *hidden = calloc(context * WIDTH, sizeof(*hidden)), *x = calloc(n * WIDTH, sizeof(*x)), h[WIDTH], out[TINY_VOCAB];

    slow_encode(g, ids, context, hidden);
    slow_embed(g, ids + context, n, x);
    for (uint32_t l = 0; l < LAYERS; l++) {
        const uint32_t back = LAYERS - 1 - l;

        slow_layer(g, l, n, x);
        if (back % cases[i].stride == 0 && back / cases[i].stride < cases[i].blocks)
            slow_block(g, l, cases[i].heads, cases[i].inner, hidden, context, n, x);
    }
    for (uint64_t t = cases[i].question - 1; t < n; t++, logits += TINY_VOCAB) {
        slow_norm(g, WT_FINAL_NORM, 0, x + t * WIDTH, h);
        slow_linear(g, WT_HEAD, 0, 0, TINY_VOCAB, WIDTH, h, out, false);
        for (int v = 0; v < TINY_VOCAB; v++)
            logits[v] = (float)out[v];
    }
    free(hidden);
    free(x);
}

START_TEST(a_slow_forward_agrees)
{
    const int which = _i / 2;
    const uint64_t context = 13, prompt = context + cases[which].question, rest = 4;
    const struct eng_options o = {.prompt = prompt, .generate = rest};
    static float want[5 * TINY_VOCAB], got[5 * TINY_VOCAB];
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g;
    int32_t ids[64];
    char stack[128];
    double apart;

    stack_of(which, stack, sizeof(stack));
    tiny_tokens(ids, 64, TINY_VOCAB);
    g = slow_open(&m, model, stack, o, backends[_i % 2]);
    slow_xc(g, which, ids, context, cases[which].question + rest, want);
    must(eng_prefill(g, ids, NULL, got, &err));
    for (uint64_t t = 0; t < rest; t++)
        must(eng_decode(g, ids + prompt + t, got + (t + 1) * TINY_VOCAB, &err));
    apart = far_apart(got, want, (rest + 1) * TINY_VOCAB);
    ck_assert_msg(apart < ROUNDING, "%s on %s: off by %g", stack, backends[_i % 2], apart);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* ---- laws ----------------------------------------------------------------------------------------------------- */

static void last_logits(const char *stack, uint64_t batch, uint64_t prompt, const int32_t *ids, float *out)
{
    const struct eng_options o = {.prompt = prompt, .generate = 1, .batch = batch};
    int32_t next[3] = {3, 5, 7};
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g = slow_open(&m, model, stack, o, "cpu");

    must(eng_prefill(g, ids, NULL, out, &err));
    must(eng_decode(g, next, out, &err));
    eng_close(g);
    kvp_model_free(&m);
}

/* What is stored, output or keys and values, is the same answer; stores and how many go side by side do not change it; and a
 * sequence beside others reads its own context. */
START_TEST(forms_agree)
{
    static const char *const forms[] = {
        "xc-cache:blocks=3,stride=2,inner=12,question=5", "xc-cache:blocks=3,stride=2,inner=12,question=5,keep=kv",
        "xc-cache:blocks=3,stride=2,inner=12,question=5 paged:4", "xc-cache:blocks=3,stride=2,inner=12,question=5,keep=kv growing",
        "xc-cache:blocks=3,stride=2,inner=12,question=5 continuous-batching:5",
        "xc-cache:blocks=3,stride=2,inner=12,question=5,keep=kv continuous-batching:10"};
    static float want[3 * TINY_VOCAB], got[3 * TINY_VOCAB], alone[TINY_VOCAB];
    int32_t ids[3 * 20];

    tiny_tokens(ids, 3 * 20, TINY_VOCAB);
    last_logits(forms[0], 3, 20, ids, want);
    for (size_t i = 1; i < sizeof(forms) / sizeof(forms[0]); i++) {
        last_logits(forms[i], 3, 20, ids, got);
        ck_assert_msg(far_apart(got, want, 3 * TINY_VOCAB) < ROUNDING, "%s: off by %g", forms[i], far_apart(got, want, 3 * TINY_VOCAB));
    }
    last_logits(forms[0], 1, 20, ids, alone);
    ck_assert(far_apart(alone, want, TINY_VOCAB) < ROUNDING);
    ids[20 + 3]++; /* the second sequence's context */
    last_logits(forms[0], 3, 20, ids, got);
    ck_assert(far_apart(got, want, TINY_VOCAB) < ROUNDING);
    ck_assert(far_apart(got + TINY_VOCAB, want + TINY_VOCAB, TINY_VOCAB) > 1e-4);
}
END_TEST

/* A context is encoded once: the second prefill with it reads what is there, another one's is another. */
START_TEST(encoded_once)
{
    const struct eng_options o = {.prompt = 20, .generate = 1};
    static float first[TINY_VOCAB], again[TINY_VOCAB], other[TINY_VOCAB], back[TINY_VOCAB];
    int32_t ids[20];
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g = slow_open(&m, model, _i ? "xc-cache:blocks=1,inner=12,question=5,keep=kv" : "xc-cache:blocks=1,inner=12,question=5,encoder_width=40",
                              o, "cpu");

    tiny_tokens(ids, 20, TINY_VOCAB);
    must(eng_prefill(g, ids, NULL, first, &err));
    must(eng_prefill(g, ids, NULL, again, &err));
    ids[2] = (ids[2] + 1) % TINY_VOCAB;
    must(eng_prefill(g, ids, NULL, other, &err));
    ids[2] = (ids[2] + TINY_VOCAB - 1) % TINY_VOCAB;
    must(eng_prefill(g, ids, NULL, back, &err));
    ck_assert_mem_eq(first, again, sizeof(first));
    ck_assert_mem_eq(first, back, sizeof(first));
    ck_assert(far_apart(other, first, TINY_VOCAB) > 1e-5);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* ---- poison ----------------------------------------------------------------------------------------------------- */

START_TEST(poisoned_contexts)
{
    static const char *const forms[] = {"xc-cache:blocks=2,stride=2,inner=12,question=5", "xc-cache:blocks=2,stride=2,inner=12,question=5,keep=kv"};
    static const uint64_t tokens[] = {0, 7, 14};
    const struct eng_options o = {.prompt = 20, .generate = 1, .batch = 2, .kv = _i % 2 ? KVP_F16 : KVP_F32};
    static float logits[2 * TINY_VOCAB];
    int32_t ids[40];

    tiny_tokens(ids, 40, TINY_VOCAB);
    for (size_t k = 0; k < sizeof(tokens) / sizeof(tokens[0]); k++) {
        struct kvp_error err = {0}, none = {0}, past = {0};
        struct kvp_model m;
        struct eng *g = slow_open(&m, model, forms[_i / 2], o, "cpu");

        must(eng_prefill(g, ids, NULL, logits, &err));
        ck_assert_int_eq(eng_poison_source(g, 3, 0, &none), KVP_EINPUT); /* no block there */
        ck_assert_int_eq(eng_poison_source(g, 4, 15, &past), KVP_EINPUT); /* the question's first token */
        must(eng_poison_source(g, 4, tokens[k], &err));
        must(eng_decode(g, ids, logits, &err));
        ck_assert_msg(isnan(logits[0]), "token %d of the context is not read", (int)tokens[k]);
        for (int i = TINY_VOCAB; i < 2 * TINY_VOCAB; i++)
            ck_assert(isfinite(logits[i]));
        must(eng_prefill(g, ids, NULL, logits, &err)); /* stored anew */
        ck_assert(isfinite(logits[0]));
        eng_close(g);
        kvp_model_free(&m);
    }
}
END_TEST

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

START_TEST(refusals)
{
    static const struct {
        const char *stack;
        struct eng_options o;
        const char *words;
    } rows[] = {
        {"xc-cache:blocks=1,question=20", {.prompt = 20}, "question=20 leaves no context of a prompt of 20 tokens"},
        {"xc-cache:blocks=3,stride=3,question=2", {.prompt = 20}, "3 blocks 3 layers apart do not fit into 5 layers"},
        {"xc-cache:blocks=1,question=2,encoder=self", {.prompt = 20}, "does not run encoder=self yet"},
        {"xc-cache:blocks=1,question=2,inner=7", {.prompt = 20}, "inner=7 is odd"},
        {"xc-cache:blocks=1,question=2", {.prompt = 20, .all_logits = true}, "has no logits of the context's tokens"},
        {"xc-cache:blocks=1,question=2 w:int8", {.prompt = 20}, "codes the weights of attention and dense feed-forwards only"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kvp_error err = {0};
        struct kvp_model m;

        ck_assert_ptr_null(slow_try(&m, model, rows[i].stack, rows[i].o, "ref", &err));
        ck_assert_msg(strstr(err.text, rows[i].words) != NULL, "%s: '%s', expected '%s'", rows[i].stack, err.text, rows[i].words);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("xc-cache");
    TCase *t = tcase_create("xc-cache");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, bytes, 0, SIZES);
    tcase_add_loop_test(t, a_slow_forward_agrees, 0, CASES * 2);
    tcase_add_test(t, forms_agree);
    tcase_add_loop_test(t, encoded_once, 0, 2);
    tcase_add_loop_test(t, poisoned_contexts, 0, 4);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
