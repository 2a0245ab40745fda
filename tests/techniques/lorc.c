/* lorc.c - low-rank keys and values: factors against a slow singular value decomposition, whole models at full rank against
 * dense ones, steps against one pass, bytes by hand */
#include "tests/validate/tiny.h"
#include "validate/engine/convert.h"
#include "validate/engine/low_rank.h"
#include "validate/engine/rewrite.h"
#include "validate/engine/safetensors.h"

enum { TOKENS = 19, SIDE = 24, ENCODED = 5, SEEDS = 5 };

/* ---- factors -------------------------------------------------------------------------------------- */

static uint64_t state = 1;

static float uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(state >> 32) * 0x1p-31f;
}

/* Singular values of m [rows, cols], largest first: columns are turned against one another until all are orthogonal
 * (Hestenes 1958); what is left of them are the values. */
static void slow_values(double *values, const float *m, int rows, int cols)
{
    static double a[SIDE * 3][SIDE * 3];

    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++)
            a[j][i] = (double)m[i * cols + j];
    for (int sweep = 0; sweep < 60; sweep++)
        for (int p = 0; p < cols; p++)
            for (int q = p + 1; q < cols; q++) {
                double pp = 0, qq = 0, pq = 0, t, c;

                for (int i = 0; i < rows; i++) {
                    pp += a[p][i] * a[p][i];
                    qq += a[q][i] * a[q][i];
                    pq += a[p][i] * a[q][i];
                }
                if (fabs(pq) <= 1e-15 * sqrt(pp * qq))
                    continue;
                t = (qq - pp) / (2 * pq);
                t = (t >= 0 ? 1 : -1) / (fabs(t) + sqrt(1 + t * t));
                c = 1 / sqrt(1 + t * t);
                for (int i = 0; i < rows; i++) {
                    const double x = a[p][i], y = a[q][i];

                    a[p][i] = c * (x - t * y);
                    a[q][i] = c * (y + t * x);
                }
            }
    for (int j = 0; j < cols; j++) {
        int at = j;
        double x = 0;

        for (int i = 0; i < rows; i++)
            x += a[j][i] * a[j][i];
        for (; at > 0 && values[at - 1] < sqrt(x); at--)
            values[at] = values[at - 1];
        values[at] = sqrt(x);
    }
}

static const struct {
    int rows, cols, rank;
    int dependent; /* so many rows are sums of others */
} shapes[] = {{1, 1, 1, 0},   {3, 5, 1, 0},   {5, 3, 3, 0},     {24, 24, 24, 0}, {24, 24, 7, 0},
              {24, 60, 9, 0}, {60, 24, 9, 0}, {24, 24, 12, 12}, {24, 24, 24, 3}, {2, 70, 2, 0}};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

/* The product of the factors is off by exactly the values that are left out: nothing of that rank is nearer (Eckart and
 * Young 1936); and what is orthonormal is. */
START_TEST(truncated_is_best)
{
    const int rows = shapes[_i].rows, cols = shapes[_i].cols, rank = shapes[_i].rank, least = rows < cols ? rows : cols;
    static float m[SIDE * SIDE * 9], up[SIDE * SIDE * 9], down[SIDE * SIDE * 9];
    double values[SIDE * 3], off = 0, all = 0, left = 0;
    struct kvp_error err = {0};

    state = (uint64_t)_i + 5;
    for (int i = 0; i < rows * cols; i++)
        m[i] = uniform() / (float)(1 + i / cols); /* values apart */
    for (int i = rows - shapes[_i].dependent; i < rows; i++)
        for (int j = 0; j < cols; j++)
            m[i * cols + j] = m[(i % 5) * cols + j] - 2 * m[(i % 3) * cols + j];
    slow_values(values, m, rows, cols);
    must(low_rank_split(up, down, m, (uint64_t)rows, (uint64_t)cols, (uint64_t)rank, &err));
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) {
            double x = (double)m[i * cols + j];

            all += x * x;
            for (int r = 0; r < rank; r++)
                x -= (double)up[i * rank + r] * (double)down[r * cols + j];
            off += x * x;
        }
    for (int i = rank; i < least; i++)
        left += values[i] * values[i];
    ck_assert_msg(fabs(sqrt(off) - sqrt(left)) < 1e-6 * sqrt(all), "%d by %d, rank %d: off by %g, expected %g of %g", rows, cols, rank,
                  sqrt(off), sqrt(left), sqrt(all));
    for (int p = 0; p < rank; p++)
        for (int q = 0; q < rank; q++) {
            double dot = 0;

            for (int i = 0; i < least; i++)
                dot += rows <= cols ? (double)up[i * rank + p] * (double)up[i * rank + q] : (double)down[p * cols + i] * (double)down[q * cols + i];
            ck_assert_double_eq_tol(dot, p == q, 1e-6);
        }
}
END_TEST

/* log(8 / 0.5) of a diagonal one; as far apart as f32 can tell where a row is missing. */
START_TEST(conditions)
{
    static const float diagonal[] = {2, 0, 0, 0, 0, 0, -8, 0, 0, 0.5f, 0, 0}, short_of[] = {1, 2, 2, 4};
    struct kvp_error err = {0};
    double got = 0;

    must(low_rank_condition(&got, diagonal, 3, 4, &err));
    ck_assert_double_eq_tol(got, log(16), 1e-12);
    must(low_rank_condition(&got, short_of, 2, 2, &err));
    ck_assert_msg(got > log(1e6) && got < log(1e8), "%g", got);
}
END_TEST

/* ---- ranks ---------------------------------------------------------------------------------------- */

/* Powers of two: 16 - 14 * (what lies before) / 7. The fourth and fifth: what the last layer has does not count. */
START_TEST(ranks_by_hand)
{
    static const struct {
        const char *spec;
        double log2[5];
        uint32_t ranks[5];
    } cases[] = {
        {"lorc:rule=progressive,r_max=16,r_min=2", {2, 4, 0, 1, 9}, {16, 12, 4, 4, 2}},
        {"lorc:rule=progressive,r_max=16,r_min=4", {3, 3, 3, 3, 3}, {16, 13, 10, 7, 4}},
        {"lorc:rule=progressive,r_max=16,r_min=16", {1, 2, 3, 4, 5}, {16, 16, 16, 16, 16}},
        {"lorc:rule=progressive,r_max=9,r_min=2", {0, 0, 0, 7, 0}, {9, 9, 9, 9, 2}},
        {"lorc:rule=progressive", {0, 0, 0, 0, 1}, {16, 16, 16, 16, 16}}, /* nothing tells them apart */
        {"lorc:rule=progressive", {1, 0, 0, 0, 0}, {16, 4, 4, 4, 4}},
    };
    static const char config[] = "{\"model_type\":\"llama\",\"vocab_size\":61,\"hidden_size\":32,\"num_hidden_layers\":5,"
                                 "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":40,\"hidden_act\":\"silu\","
                                 "\"rms_norm_eps\":1e-5,\"max_position_embeddings\":64}";
    double logs[5];
    struct kvp_error err = {0};
    struct kvp_stack s = {0};
    struct rewritten r;
    struct kvp_model m;

    must(kvp_model_parse(&m, config, strlen(config), "five layers", &err));
    must(kvp_stack_add(&s, cases[_i].spec, &err));
    must(rewrite_model(&r, &m, &s, &err));
    for (int l = 0; l < 5; l++)
        logs[l] = cases[_i].log2[l] * log(2);
    ck_assert(rewrite_wants_conditions(&s));
    rewrite_ranks(&r, &s, logs);
    for (int l = 0; l < 5; l++) {
        ck_assert_msg(r.cls[l].low_k == cases[_i].ranks[l], "%s: layer %d has rank %u, expected %u", cases[_i].spec, l, r.cls[l].low_k,
                      cases[_i].ranks[l]);
        ck_assert_uint_eq(r.cls[l].low_v, r.cls[l].low_k);
    }
    rewrite_free(&r);
    kvp_model_free(&m);
}
END_TEST

/* The condition numbers of a file's matrices, by the slow decomposition; and ranks by them, whatever runs. */
START_TEST(ranks_of_a_file)
{
    static const char *const names[] = {"k_proj", "v_proj"};
    static float matrix[SIDE * SIDE * 9];
    const char *root = getenv("KVPROOF_TESTS");
    struct eng_options o = {.batch = 1, .prompt = 4, .generate = 1, .seed = 1};
    struct kvp_error err = {0};
    struct kvp_stack s = {0};
    struct st_files *files;
    struct kvp_model m;
    double *got, values[SIDE * 3];
    char path[512], name[80];

    snprintf(path, sizeof(path), "%s/golden/llama-gqa", root ? root : "tests");
    must(kvp_model_load(&m, path, &err));
    must(kvp_stack_add(&s, "lorc:rule=progressive", &err));
    o.weights_dir = path;
    must(eng_conditions(&got, &m, &s, &o, &err));
    must(st_open(&files, path, &err));
    for (uint32_t l = 0; l < m.layers; l++) {
        double want = 0;

        for (int side = 0; side < 2; side++) {
            const struct st_tensor *t;

            snprintf(name, sizeof(name), "model.layers.%u.self_attn.%s.weight", l, names[side]);
            t = st_find(files, name);
            ck_assert_ptr_nonnull(t);
            cvt_run(KVP_F32, matrix, t->format, t->data, 1, t->count);
            slow_values(values, matrix, (int)t->shape[0], (int)t->shape[1]);
            want += log(values[0] / values[t->shape[1] - 1]);
        }
        ck_assert_double_eq_tol(got[l], want, 1e-4);
    }
    st_close(files);
    free(got);
    s = (struct kvp_stack){0};
    must(kvp_stack_add(&s, "lorc", &err));
    must(eng_conditions(&got, &m, &s, &o, &err));
    ck_assert_ptr_null(got);
    kvp_model_free(&m);
}
END_TEST

/* ---- whole models --------------------------------------------------------------------------------- */

static struct eng *open_eng(const struct kvp_model *m, const char *const *specs, struct eng_options o, const char *backend)
{
    struct kvp_error err = {0};
    struct kvp_stack s = {0};
    struct eng *g = NULL;

    for (int i = 0; i < 2 && specs[i]; i++)
        must(kvp_stack_add(&s, specs[i], &err));
    must(kb_find(&o.backend, backend, &err));
    o.device.threads = 1;
    o.seed = o.seed ? o.seed : 7;
    must(eng_open(&g, m, &s, &o, &err));
    return g;
}

/* Logits of all tokens of two texts: `prompt` of them in one pass, the rest in steps. */
static void run_seed(const struct kvp_model *m, const char *const *specs, uint64_t seed, uint64_t prompt, const char *backend, float *logits)
{
    struct kvp_error err = {0};
    struct eng *g = open_eng(m, specs, (struct eng_options){.batch = 2, .prompt = prompt, .generate = TOKENS - prompt, .seed = seed,
                                                            .all_logits = true}, backend);
    static float all[2 * TOKENS * TINY_VOCAB];
    int32_t ids[2 * TOKENS], in[2 * TOKENS];

    tiny_tokens(ids, 2 * TOKENS, m->vocab);
    for (uint64_t i = 0; i < 2 * prompt; i++)
        in[i] = ids[i / prompt * TOKENS + i % prompt];
    must(eng_prefill(g, in, all, NULL, &err));
    for (uint64_t b = 0; b < 2; b++)
        memcpy(logits + b * TOKENS * m->vocab, all + b * prompt * m->vocab, prompt * m->vocab * sizeof(*all));
    for (uint64_t i = prompt; i < TOKENS; i++) {
        in[0] = ids[i];
        in[1] = ids[TOKENS + i];
        must(eng_decode(g, in, all, &err));
        for (uint64_t b = 0; b < 2; b++)
            memcpy(logits + (b * TOKENS + i) * m->vocab, all + b * m->vocab, m->vocab * sizeof(*all));
    }
    eng_close(g);
}

static void run_text(const struct kvp_model *m, const char *const *specs, uint64_t prompt, const char *backend, float *logits)
{
    run_seed(m, specs, 0, prompt, backend, logits);
}

static uint64_t full_rank(const struct kvp_model *m)
{
    const uint64_t rows = (uint64_t)m->cls[0].kv_heads * m->cls[0].head_dim;

    return rows < m->width ? rows : m->width;
}

/* Capped scores (gemma2) do not go through latents, and MLA has its own. */
static bool has_low(const struct kvp_model *m)
{
    return strcmp(m->model_type, "gemma2") != 0 && strcmp(m->model_type, "deepseek_v3") != 0;
}

static const char *const forms[] = {"absorbed", "rebuild"};

/* The same seed draws the same matrices, and all of their rank is all of them. */
START_TEST(full_rank_is_dense)
{
    static float dense[2 * TOKENS * TINY_VOCAB], low[2 * TOKENS * TINY_VOCAB];
    const char *none[2] = {NULL}, *specs[2] = {NULL};
    char spec[80];
    struct kvp_model m;
    double apart;

    tiny_load(&m, _i / 2);
    if (!has_low(&m)) {
        kvp_model_free(&m);
        return;
    }
    snprintf(spec, sizeof(spec), "lorc:k_rank=%u,v_rank=%u,form=%s", (unsigned)full_rank(&m), (unsigned)full_rank(&m), forms[_i % 2]);
    specs[0] = spec;
    run_text(&m, none, 5, "ref", dense);
    for (int b = 0; b < 2; b++) {
        run_text(&m, specs, 5, b ? "cpu" : "ref", low);
        apart = far_apart(low, dense, 2 * TOKENS * m.vocab);
        ck_assert_msg(apart < 3e-5, "%s, %s: apart by %g", tiny_models[_i / 2].name, spec, apart);
    }
    kvp_model_free(&m);
}
END_TEST

/* What a step reads from latents is what the prompt computed from both factors; and less than all of the rank shows. */
START_TEST(steps_are_the_pass)
{
    static const char *const more[] = {NULL, "paged:4", "growing", "window:6", "contiguous:64"};
    static float whole[2 * TOKENS * TINY_VOCAB], cut[2 * TOKENS * TINY_VOCAB], dense[2 * TOKENS * TINY_VOCAB];
    const char *specs[2] = {NULL, more[_i / 2 % 5]}, *without[2] = {more[_i / 2 % 5]};
    char spec[80];
    struct kvp_model m;
    double apart;

    tiny_load(&m, _i / 10);
    if (!has_low(&m)) {
        kvp_model_free(&m);
        return;
    }
    snprintf(spec, sizeof(spec), "lorc:k_rank=%u,v_rank=7,form=%s", (unsigned)full_rank(&m) / 3, forms[_i % 2]);
    specs[0] = spec;
    run_text(&m, specs, TOKENS, "ref", whole);
    run_text(&m, specs, 5, _i % 3 ? "cpu" : "ref", cut);
    apart = far_apart(cut, whole, 2 * TOKENS * m.vocab);
    ck_assert_msg(apart < 3e-5, "%s, %s: apart by %g", tiny_models[_i / 10].name, spec, apart);
    run_text(&m, without, TOKENS, "ref", dense);
    apart = far_apart(whole, dense, 2 * TOKENS * m.vocab);
    ck_assert_msg(apart > 1e-3 && isfinite(apart), "%s, %s: apart from dense by %g", tiny_models[_i / 10].name, spec, apart);
    kvp_model_free(&m);
}
END_TEST

/* Latents in fewer bits move logits a little, on average over a few models; a scale for the whole tensor is that of the prompt, which is nearly all of it. */
START_TEST(encoded_latents)
{
    static const struct {
        const char *spec;
        double within;
    } kv[] = {{"kv:int8", 0.015}, {"kv:fp8", 0.1}, {"kv:int4,group=8", 0.1}};
    static float plain[2 * TOKENS * TINY_VOCAB], coded[2 * TOKENS * TINY_VOCAB];
    const char *specs[2] = {"lorc:k_rank=8,v_rank=8", NULL};
    struct kvp_model m;
    double apart = 0;

    tiny_load(&m, _i % ENCODED);
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        specs[1] = NULL;
        run_seed(&m, specs, seed, TOKENS - 1, "ref", plain);
        specs[1] = kv[_i / ENCODED].spec;
        run_seed(&m, specs, seed, TOKENS - 1, "cpu", coded);
        apart += far_apart(coded, plain, 2 * TOKENS * m.vocab) / SEEDS;
    }
    ck_assert_msg(apart > 1e-5 && apart < kv[_i / ENCODED].within, "%s, %s: apart by %g", tiny_models[_i % ENCODED].name,
                  specs[1], apart);
    kvp_model_free(&m);
}
END_TEST

/* gpt2: 3 heads of 8 in a width of 24, 2 layers; W_k and W_v have 576 numbers each in a layer, their factors 48 r. llama:
 * 4 query heads of 8, 2 of keys, width 32, 3 layers; 512 numbers each, their factors 32 r + 16 r. A latent is r numbers. */
START_TEST(bytes)
{
    static const struct {
        int model;
        const char *specs[2];
        int64_t fewer; /* numbers than a dense model has */
        uint64_t cache, metadata, ranks, absorbed;
    } sizes[] = {
        /* half of 24 each: 2 * 48 * 12 is what 2 * 576 are; 3 heads of 12 + 12 in latent space */
        {0, {"lorc"}, 0, 2 * 2 * 19 * 24 * 2, 0, 24, 2 * 3 * 24 * 4},
        {0, {"lorc:k_rank=5,v_rank=24"}, 2 * (2 * 576 - 48 * 29), 2 * 2 * 19 * 29 * 2, 0, 29, 2 * 3 * 29 * 4},
        {0, {"lorc:k_rank=1,v_rank=3,form=rebuild"}, 2 * (2 * 576 - 48 * 4), 2 * 2 * 19 * 4 * 2, 0, 4, 0},
        {0, {"lorc", "paged:8"}, 0, 2 * 2 * 24 * 24 * 2, 2 * 3 * 4, 24, 2 * 3 * 24 * 4},
        /* rotated: of the keys nothing is absorbed */
        {1, {"lorc"}, 3 * (2 * 512 - 2 * 48 * 8), 3 * 2 * 19 * 16 * 2, 0, 16, 2 * 4 * 8 * 4},
        {1, {"lorc:k_rank=16,v_rank=2", "window:6"}, 3 * (2 * 512 - 48 * 18), 3 * 2 * 6 * 18 * 2, 0, 18, 2 * 4 * 2 * 4},
        {1, {"lorc", "kv:int8"}, 3 * (2 * 512 - 2 * 48 * 8), 3 * 2 * 19 * 16, 3 * 2 * 19 * 2 * 4, 16, 2 * 4 * 8 * 4},
    };
    const char *none[2] = {NULL};
    const struct eng_options o = {.batch = 2, .prompt = 4, .generate = 15, .weights = KVP_F16, .kv = KVP_F16};
    const uint64_t rows = 2 * 4; /* of a pass */
    struct kvp_model m;
    struct eng *g, *dense;

    tiny_load(&m, sizes[_i].model);
    g = open_eng(&m, sizes[_i].specs, o, "ref");
    dense = open_eng(&m, none, o, "ref");
    ck_assert_int_eq((int64_t)eng_ledger(dense)->now[LED_WEIGHTS] - (int64_t)eng_ledger(g)->now[LED_WEIGHTS], 2 * sizes[_i].fewer);
    ck_assert_uint_eq(eng_ledger(g)->now[LED_CACHE], sizes[_i].cache);
    ck_assert_uint_eq(eng_ledger(g)->now[LED_METADATA], sizes[_i].metadata);
    ck_assert_uint_eq(eng_ledger(g)->now[LED_ACTIVATION] - eng_ledger(dense)->now[LED_ACTIVATION], rows * sizes[_i].ranks * 4 + sizes[_i].absorbed);
    ck_assert_uint_eq(eng_ledger(g)->now[LED_WORKSPACE], eng_ledger(dense)->now[LED_WORKSPACE]);
    eng_close(g);
    eng_close(dense);
    kvp_model_free(&m);
}
END_TEST

START_TEST(refusals)
{
    static const struct {
        const char *specs[2], *says;
        int model;
    } no[] = {
        {{"lorc"}, "gemma2", 5},
        {{"lorc"}, "not applicable", 7},
        {{"lorc:k_rank=17"}, "k_rank", 1},           {{"lorc:v_rank=1000"}, "v_rank", 1},  {{"lorc:rule=progressive,r_max=4,r_min=5"}, "r_min", 1},
        {{"lorc", "w:int8"}, "factored", 1},         {{"lorc", "smoothquant"}, "factored", 1}, {{"lorc", "tova:5"}, "tova", 1},
        {{"lorc", "streaming-llm"}, "streaming", 1}, {{"lorc", "chunked-prefill:16"}, "one pass", 1},
    };
    struct eng_options o = {.prompt = 20, .batch = 1};
    struct kvp_error err = {0}, why = {0};
    struct kvp_stack s = {0};
    struct kvp_model m;
    struct eng *g = NULL;
    kvp_err rc;

    tiny_load(&m, no[_i].model);
    for (int i = 0; i < 2 && no[_i].specs[i]; i++)
        must(kvp_stack_add(&s, no[_i].specs[i], &err));
    must(kb_find(&o.backend, "ref", &err));
    rc = eng_open(&g, &m, &s, &o, &why);
    ck_assert_int_eq(rc, _i >= 2 && _i < 5 ? KVP_EINPUT : KVP_ENOTSUP);
    ck_assert_ptr_null(g);
    ck_assert_msg(strstr(why.text, no[_i].says), "'%s' does not say %s", why.text, no[_i].says);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("lorc");
    TCase *t = tcase_create("low-rank keys and values");
    SRunner *r = srunner_create(s);
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, truncated_is_best, 0, SHAPES);
    tcase_add_test(t, conditions);
    tcase_add_loop_test(t, ranks_by_hand, 0, 6);
    tcase_add_test(t, ranks_of_a_file);
    tcase_add_loop_test(t, full_rank_is_dense, 0, 2 * TINY_MODELS);
    tcase_add_loop_test(t, steps_are_the_pass, 0, 10 * TINY_MODELS);
    tcase_add_loop_test(t, encoded_latents, 0, 3 * ENCODED);
    tcase_add_loop_test(t, bytes, 0, 7);
    tcase_add_loop_test(t, refusals, 0, 10);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
