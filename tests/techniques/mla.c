/* mla.c - latent attention: bytes, the absorbed step against the expanded one, and a slow forward from the paper's formulas. */
#include "tests/techniques/slow.h"

enum { N = 21, LAYERS = 2, HEADS = 6, D = 8 };

static const char *const backends[] = {"ref", "cpu"};
static const char model[] = SLOW_LLAMA(2, 2, false);
static const double ROUNDING = 2e-5; /* as in cla.c */

/* latent L * B * T * (rkv + dr) * b, expanded L * B * T * H * (dn + dr + dv) * b; defaults rkv 4d, dr d/2, dn = dv = d */
static const struct {
    const char *stack;
    uint64_t batch, bytes, metadata;
} cases[] = {
    {"mla", 1, 2 * 21 * (32 + 4) * 2, 0},
    {"mla:expanded", 1, 2 * 21 * 6 * (8 + 4 + 8) * 2, 0},
    {"mla", 3, 2 * 3 * 21 * (32 + 4) * 2, 0},
    {"mla:kv_rank=5,rope_dim=2,nope_dim=3,v_dim=7,q_rank=9", 1, 2 * 21 * (5 + 2) * 2, 0},
    {"mla:kv_rank=5,rope_dim=2,nope_dim=3,v_dim=7,form=expanded", 2, 2 * 2 * 21 * 6 * (3 + 2 + 7) * 2, 0},
    {"mla window:4", 1, 2 * 4 * (32 + 4) * 2, 0},
    {"mla:expanded window:30", 1, 2 * 21 * 6 * 20 * 2, 0},
    {"mla paged:4", 1, 2 * 24 * (32 + 4) * 2, 6 * 4},
    {"mla growing", 1, 2 * 21 * (32 + 4) * 2, 0},
    {"mla contiguous:40", 1, 2 * 40 * (32 + 4) * 2, 0},
    {"mla kv:int8", 1, 2 * 21 * (32 + 4), 2 * 2 * 21 * 4}, /* one f32 scale a row of each part */
};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

START_TEST(bytes)
{
    const struct eng_options o = {.prompt = 12, .generate = N - 12, .kv = KVP_F16, .batch = cases[_i].batch};
    static float logits[3 * TINY_VOCAB];
    int32_t ids[3 * N];
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g = slow_open(&m, model, cases[_i].stack, o, "cpu");

    tiny_tokens(ids, 3 * N, TINY_VOCAB);
    must(eng_prefill(g, ids, NULL, logits, &err));
    for (int t = 12; t < N; t++)
        must(eng_decode(g, ids, logits, &err));
    ck_assert_msg(eng_ledger(g)->now[LED_CACHE] == cases[_i].bytes, "%s: %llu bytes, expected %llu", cases[_i].stack,
                  (unsigned long long)eng_ledger(g)->now[LED_CACHE], (unsigned long long)cases[_i].bytes);
    ck_assert_uint_eq(eng_ledger(g)->now[LED_METADATA], cases[_i].metadata);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* ---- the paper's formulas ---------------------------------------------------------------------------- */

/* One row of an MLA layer: q of every head, and k and v of every head from the normed latent. */
static void project(const struct eng *g, uint32_t layer, const double *h, uint64_t t, double *q, double *k, double *v)
{
    const struct kvp_layer_class *c = &g->m->cls[layer];
    const uint32_t width = g->m->width, rank = c->kv_rank, dr = c->rope_dim, dn = c->nope_dim, dv = c->v_head_dim, d = dn + dr;
    double *low = calloc(rank + dr + c->q_rank + 1, sizeof(*low)), *both = calloc((size_t)HEADS * (dn + dv), sizeof(*both)), sum = 0;

    if (c->q_rank) {
        slow_linear(g, WT_Q_A, layer, 0, c->q_rank, width, h, low, false);
        for (uint32_t i = 0; i < c->q_rank; i++)
            sum += low[i] * low[i] / c->q_rank;
        for (uint32_t i = 0; i < c->q_rank; i++)
            low[i] *= slow_weight(g, WT_Q_A_NORM, layer, i) / sqrt(sum + g->m->norm_eps);
        slow_linear(g, WT_Q_B, layer, 0, (uint64_t)HEADS * d, c->q_rank, low, q, false);
    } else {
        slow_linear(g, WT_Q_B, layer, 0, (uint64_t)HEADS * d, width, h, q, false);
    }
    slow_linear(g, WT_KV_A, layer, 0, rank + dr, width, h, low, false);
    sum = 0;
    for (uint32_t i = 0; i < rank; i++)
        sum += low[i] * low[i] / rank;
    for (uint32_t i = 0; i < rank; i++)
        low[i] *= slow_weight(g, WT_KV_A_NORM, layer, i) / sqrt(sum + g->m->norm_eps);
    slow_linear(g, WT_KV_B, layer, 0, (uint64_t)HEADS * (dn + dv), rank, low, both, false);
    slow_rope(g, low + rank, 1, dr, t);
    for (uint32_t i = 0; i < HEADS; i++) {
        slow_rope(g, q + i * d + dn, 1, dr, t);
        memcpy(k + i * d, both + i * (dn + dv), dn * sizeof(*k));
        memcpy(k + i * d + dn, low + rank, dr * sizeof(*k));
        memcpy(v + i * dv, both + i * (dn + dv) + dn, dv * sizeof(*v));
    }
    free(low);
    free(both);
}

static void attend(const struct kvp_layer_class *c, const double *q, const double *k, const double *v, uint64_t t, uint64_t first, double *out)
{
    const uint32_t d = c->head_dim, dv = c->v_head_dim;
    double *p = calloc(t + 1, sizeof(*p));

    for (uint32_t h = 0; h < HEADS; h++) {
        double sum = 0;

        for (uint64_t j = first; j <= t; j++) {
            p[j] = 0;
            for (uint32_t i = 0; i < d; i++)
                p[j] += q[h * d + i] * k[(j * HEADS + h) * d + i];
            sum += p[j] = exp(p[j] / sqrt(d));
        }
        for (uint32_t i = 0; i < dv; i++) {
            out[h * dv + i] = 0;
            for (uint64_t j = first; j <= t; j++)
                out[h * dv + i] += p[j] / sum * v[(j * HEADS + h) * dv + i];
        }
    }
    free(p);
}

static void slow_mla(const struct eng *g, uint64_t window, const int32_t *ids, float *logits)
{
    const uint32_t width = g->m->width, vocab = g->m->vocab;
    double *x = calloc(N * width, sizeof(*x)), *h = calloc(width, sizeof(*h)), *row = calloc(vocab, sizeof(*row));

    for (uint64_t i = 0; i < N * width; i++)
        x[i] = slow_weight(g, WT_EMBED, 0, (uint64_t)ids[i / width] * width + i % width);
    for (uint32_t l = 0; l < LAYERS; l++) {
        const struct kvp_layer_class *c = &g->m->cls[l];
        const uint64_t d = (uint64_t)HEADS * c->head_dim, dv = (uint64_t)HEADS * c->v_head_dim;
        double *q = calloc(d, sizeof(*q)), *k = calloc(N * d, sizeof(*k)), *v = calloc(N * dv, sizeof(*v)), *out = calloc(dv, sizeof(*out));

        for (uint64_t t = 0; t < N; t++) {
            slow_norm(g, WT_ATTN_NORM, l, x + t * width, h);
            project(g, l, h, t, q, k + t * d, v + t * dv);
            attend(c, q, k, v, t, window && t >= window ? t - window + 1 : 0, out);
            slow_linear(g, WT_O, l, 0, width, dv, out, x + t * width, true);
            slow_mlp(g, l, x + t * width);
        }
        free(q);
        free(k);
        free(v);
        free(out);
    }
    for (uint64_t t = 0; t < N; t++) {
        slow_norm(g, WT_FINAL_NORM, 0, x + t * width, h);
        slow_linear(g, WT_HEAD, 0, 0, vocab, width, h, row, false);
        for (uint32_t i = 0; i < vocab; i++)
            logits[t * vocab + i] = (float)row[i];
    }
    free(x);
    free(h);
    free(row);
}

/* Both forms, however the text is cut: a prompt is expanded, a step absorbed or over expanded rows. */
START_TEST(a_slow_forward_agrees)
{
    static const struct {
        const char *stack;
        uint64_t window;
    } stacks[] = {{"mla", 0}, {"mla:expanded", 0}, {"mla:kv_rank=7,rope_dim=6,nope_dim=5,v_dim=9,q_rank=11", 0},
                  {"mla:kv_rank=7,rope_dim=6,nope_dim=5,v_dim=9,q_rank=11,form=expanded", 0}, {"mla window:5", 5},
                  {"mla:expanded window:5 paged:2", 5}, {"mla paged:4", 0}};
    static const uint64_t prompts[] = {1, 8, N};
    static float want[N * TINY_VOCAB], got[N * TINY_VOCAB];
    const char *stack = stacks[_i / 2].stack, *backend = backends[_i % 2];
    int32_t ids[N];

    tiny_tokens(ids, N, TINY_VOCAB);
    for (int p = 0; p < 3; p++) {
        const struct eng_options o = {.prompt = prompts[p], .generate = N - prompts[p], .all_logits = true};
        struct kvp_model m;
        struct eng *g = slow_open(&m, model, stack, o, backend);
        double apart;

        slow_mla(g, stacks[_i / 2].window, ids, want);
        slow_run(g, ids, prompts[p], N, true, got);
        apart = far_apart(got, want, N * TINY_VOCAB);
        ck_assert_msg(apart < ROUNDING, "%s on %s, prompt %d: off by %g", stack, backend, (int)prompts[p], apart);
        eng_close(g);
        kvp_model_free(&m);
    }
}
END_TEST

/* The two forms hold the same weights: a step absorbed is a step expanded, to rounding, and not the same code. */
START_TEST(absorbed_is_expanded)
{
    static float a[N * TINY_VOCAB], b[N * TINY_VOCAB];
    const struct eng_options o = {.prompt = 3, .generate = N - 3};
    const char *backend = backends[_i];
    struct kvp_model m, n;
    struct eng *g = slow_open(&m, model, "mla", o, backend), *h = slow_open(&n, model, "mla:expanded", o, backend);
    int32_t ids[N];

    tiny_tokens(ids, N, TINY_VOCAB);
    slow_run(g, ids, 3, N, true, a);
    slow_run(h, ids, 3, N, true, b);
    ck_assert(far_apart(a, b, N * TINY_VOCAB) < ROUNDING);
    ck_assert_uint_eq(eng_op_times(g, ENG_DECODE)[KVP_OP_ABSORB].calls, 2 * LAYERS); /* in and out */
    ck_assert_uint_eq(eng_op_times(h, ENG_DECODE)[KVP_OP_ABSORB].calls, LAYERS);     /* the new row's expansion */
    eng_close(g);
    eng_close(h);
    kvp_model_free(&m);
    kvp_model_free(&n);
}
END_TEST

START_TEST(poison)
{
    const struct eng_options o = {.prompt = 7, .generate = 3, .trace = true};
    float logits[TINY_VOCAB];
    struct kvp_error err = {0};
    struct kvp_model m;
    int32_t ids[N];
    bool stored;
    struct eng *g = slow_open(&m, model, _i & 1 ? "mla:expanded window:6" : "mla window:6", o, backends[_i / 2]);

    tiny_tokens(ids, N, TINY_VOCAB);
    must(eng_prefill(g, ids, NULL, logits, &err));
    must(eng_poison(g, 0, &stored, &err)); /* evicted: the window holds 1 to 6 */
    ck_assert(!stored);
    must(eng_decode(g, &ids[7], logits, &err));
    ck_assert(isfinite(logits[0]));
    must(eng_poison(g, 5, &stored, &err));
    ck_assert(stored);
    must(eng_decode(g, &ids[8], logits, &err));
    ck_assert(isnan(logits[0]));
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

START_TEST(refusals)
{
    static const struct {
        const char *stack, *words;
    } refused[] = {
        {"mla:fp8", "does not run form=fp8"},
        {"mla:rope_dim=3", "rope_dim=3 is odd"},
        {"mla:expanded kv:int8", "does not code expanded keys"},
        {"mla h2o", "h2o: the engine does not run it with layer 0's kind of attention"},
    };
    struct kvp_error err = {0};
    struct kvp_model m;

    ck_assert_ptr_null(slow_try(&m, model, refused[_i].stack, (struct eng_options){.prompt = N}, "ref", &err));
    ck_assert_msg(strstr(err.text, refused[_i].words), "%s: %s", refused[_i].stack, err.text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("mla");
    TCase *t = tcase_create("mla");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, bytes, 0, CASES);
    tcase_add_loop_test(t, a_slow_forward_agrees, 0, 14);
    tcase_add_loop_test(t, absorbed_is_expanded, 0, 2);
    tcase_add_loop_test(t, poison, 0, 4);
    tcase_add_loop_test(t, refusals, 0, 4);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
