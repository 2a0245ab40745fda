/* smoothquant.c - int8 by int8: what smoothing is worth where activations have outliers, that it changes nothing before
 * rounding, bytes by hand, and whole models in it */
#include "kernels/ops.h"
#include "tests/validate/tiny.h"
#include "validate/engine/feedback.h"

enum { TOKENS = 19, N = 64, ROWS = 24, COLS = 96 };

static void read_stack(struct kvp_stack *s, const char *spec)
{
    struct kvp_error err = {0};

    *s = (struct kvp_stack){0};
    if (spec)
        must(kvp_stack_add(s, spec, &err));
}

/* ---- smoothing ------------------------------------------------------------------------------------ */

static void fixture(float *x, float *m, float loud)
{
    uint64_t s = 3;

    for (int i = 0; i < N * COLS + ROWS * COLS; i++) {
        float *to = i < N * COLS ? &x[i] : &m[i - N * COLS];

        s = s * 6364136223846793005u + 1442695040888963407u;
        *to = (float)(int32_t)(s >> 32) * 0x1p-31f;
        if (i < N * COLS && i % COLS % 31 == 5)
            *to *= loud; /* a few channels, in every token: the outliers of the paper's figure 4 */
    }
}

/* To int8 and back, by the largest magnitude of the row. */
static void round_row(const float *x, double *out)
{
    float most = 0;

    for (int j = 0; j < COLS; j++)
        most = fmaxf(most, fabsf(x[j]));
    for (int j = 0; j < COLS; j++)
        out[j] = most > 0 ? (double)(nearbyintf(x[j] / (most / 127)) * (most / 127)) : 0;
}

/* Mean square of what products of rounded rows are off by, over their own; x / s against m * s. */
static double loss(const float *x, const float *m, const float *s)
{
    static double xr[N][COLS], mr[ROWS][COLS];
    double apart = 0, all = 0;
    float row[COLS];

    for (int t = 0; t < N; t++) {
        for (int j = 0; j < COLS; j++)
            row[j] = x[t * COLS + j] / (s ? s[j] : 1);
        round_row(row, xr[t]);
    }
    for (int i = 0; i < ROWS; i++) {
        for (int j = 0; j < COLS; j++)
            row[j] = m[i * COLS + j] * (s ? s[j] : 1);
        round_row(row, mr[i]);
    }
    for (int t = 0; t < N; t++)
        for (int i = 0; i < ROWS; i++) {
            double exact = 0, got = 0;

            for (int j = 0; j < COLS; j++) {
                exact += (double)x[t * COLS + j] * (double)m[i * COLS + j];
                got += xr[t][j] * mr[i][j];
            }
            apart += (got - exact) * (got - exact);
            all += exact * exact;
        }
    return apart / all;
}

START_TEST(smoothing_beats_rounding)
{
    static const float loud[] = {20, 60, 200};
    static float x[N * COLS], m[ROWS * COLS], s[COLS];
    double naive, ours;

    fixture(x, m, loud[_i]);
    smooth_scales(s, m, ROWS, COLS, x, N, 0.5);
    naive = loss(x, m, NULL);
    ours = loss(x, m, s);
    ck_assert_msg(ours < naive / 3, "outliers of %g: loss %g smoothed, %g not", (double)loud[_i], ours, naive);
}
END_TEST

/* max|x| = 9 and max|w| = 4: 9^0.5 / 4^0.5 = 1.5; with power 0 it is 1 / max|w|, with 1 max|x|; a dead channel's maxima are
 * 1e-5. */
START_TEST(scales_by_hand)
{
    static const float x[] = {3, 0, -9, 0}, m[] = {4, 0, -1, 0};
    float s[2];

    smooth_scales(s, m, 2, 2, x, 2, 0.5);
    ck_assert_float_eq_tol(s[0], 1.5f, 1e-6f);
    ck_assert_float_eq_tol(s[1], 1, 1e-6f);
    smooth_scales(s, m, 2, 2, x, 2, 0);
    ck_assert_float_eq_tol(s[0], 0.25f, 1e-6f);
    smooth_scales(s, m, 2, 2, x, 2, 1);
    ck_assert_float_eq_tol(s[0], 9, 1e-5f);
}
END_TEST

/* ---- whole models --------------------------------------------------------------------------------- */

static struct eng *open_eng(const struct kvp_model *m, const char *spec, struct eng_options o, const char *backend)
{
    struct kvp_error err = {0};
    struct kvp_stack s;
    struct eng *g = NULL;

    read_stack(&s, spec);
    must(kb_find(&o.backend, backend, &err));
    o.device.threads = 1;
    o.batch = 1;
    o.seed = 7;
    must(eng_open(&g, m, &s, &o, &err));
    return g;
}

static void run_text(const struct kvp_model *m, const char *spec, uint64_t prompt, const char *backend, float *logits)
{
    struct kvp_error err = {0};
    struct eng *g = open_eng(m, spec, (struct eng_options){.prompt = prompt, .generate = TOKENS - prompt, .all_logits = true}, backend);
    int32_t ids[TOKENS];

    tiny_tokens(ids, TOKENS, m->vocab);
    must(eng_prefill(g, ids, logits, NULL, &err));
    for (uint64_t i = prompt; i < TOKENS; i++)
        must(eng_decode(g, &ids[i], logits + i * m->vocab, &err));
    for (int op = 0; op < KVP_OPS; op++) /* q k v, o, up, down: four inputs a layer and forward */
        if (op == KVP_OP_QUANT_ACT)
            ck_assert_uint_eq(eng_calls(g)[op], spec && (spec[0] == 's' || strstr(spec, "w8a8")) ? 4 * m->layers * (TOKENS - prompt + 1) : 0);
    eng_close(g);
}

START_TEST(logits_move_a_little)
{
    static const char *const specs[] = {"smoothquant", "smoothquant:scale=tensor", "w:w8a8", "w:w8a8,scale=tensor"};
    static float plain[TOKENS * TINY_VOCAB], coded[TOKENS * TINY_VOCAB], cut[TOKENS * TINY_VOCAB];
    const char *spec = specs[_i / TINY_MODELS];
    struct kvp_model m;
    double apart;

    tiny_load(&m, _i % TINY_MODELS);
    if (tiny_is_uncoded(&m)) {
        kvp_model_free(&m);
        return;
    }
    run_text(&m, NULL, TOKENS, "cpu", plain);
    run_text(&m, spec, TOKENS, "cpu", coded);
    apart = rms_apart(coded, plain, TOKENS * m.vocab);
    ck_assert_msg(apart > 1e-4 && apart < 0.05, "%s, %s: apart by %g", tiny_models[_i % TINY_MODELS].name, spec, apart);
    /* in steps, and on the other backend: an input that rounds the other way is a 127th of its row's largest */
    run_text(&m, spec, 5, "ref", cut);
    apart = far_apart(cut, coded, TOKENS * m.vocab);
    ck_assert_msg(apart < 0.04, "%s, %s: in steps apart by %g", tiny_models[_i % TINY_MODELS].name, spec, apart);
    kvp_model_free(&m);
}
END_TEST

/* Scales move into the norm before, and not where both halves read one: Phi. */
START_TEST(one_norm_before_both_halves)
{
    static const char *const specs[] = {"smoothquant", "w:awq,group=8"};
    static const char phi[] = "{\"model_type\":\"phi\",\"vocab_size\":61,\"hidden_size\":32,\"num_hidden_layers\":2,"
                              "\"num_attention_heads\":4,\"num_key_value_heads\":4,\"intermediate_size\":40,\"hidden_act\":\"gelu_new\","
                              "\"layer_norm_eps\":1e-5,\"rope_theta\":10000.0,\"partial_rotary_factor\":0.5,"
                              "\"max_position_embeddings\":256,\"tie_word_embeddings\":false,\"torch_dtype\":\"float32\"}";
    static const double within[] = {0.05, 0.3};
    static float plain[TOKENS * TINY_VOCAB], coded[TOKENS * TINY_VOCAB];
    struct kvp_error err = {0};
    struct kvp_model m;
    double apart;

    must(kvp_model_parse(&m, phi, strlen(phi), "phi", &err));
    run_text(&m, NULL, TOKENS, "cpu", plain);
    run_text(&m, specs[_i], TOKENS, "cpu", coded);
    apart = rms_apart(coded, plain, TOKENS * m.vocab);
    ck_assert_msg(apart > 1e-4 && apart < within[_i], "phi, %s: apart by %g", specs[_i], apart);
    kvp_model_free(&m);
}
END_TEST

/* gpt2 (tests/techniques/w.c): 3288 plain numbers; linears 2 * 6912 bytes, 2 * 216 rows, 2 * 6 matrices. Inputs of 4 rows:
 * 4 * 96 codes, 4 scales. */
START_TEST(bytes)
{
    static const struct {
        const char *spec;
        enum kvp_format dtype;
        uint64_t weights, workspace;
    } sizes[] = {{"w:w8a8", KVP_F32, 3288 * 4 + 2 * 6912 + 4 * 2 * 216, 4 * 96 + 4 * 4},
                 {"smoothquant", KVP_F32, 3288 * 4 + 2 * 6912 + 4 * 2 * 216, 4 * 96 + 4 * 4},
                 {"smoothquant:scale=tensor", KVP_F32, 3288 * 4 + 2 * 6912 + 4 * 2 * 6, 4 * 96 + 4 * 4},
                 /* unpacking 96 rows of 24 for the head */
                 {"smoothquant", KVP_F16, 3288 * 2 + 2 * 6912 + 4 * 2 * 216, 4 * 96 + 4 * 4 + 4 * 24 * 96}};
    struct kvp_model m;
    struct eng *g;

    tiny_load(&m, 0);
    g = open_eng(&m, sizes[_i].spec, (struct eng_options){.prompt = 4, .generate = 1, .weights = sizes[_i].dtype}, "ref");
    ck_assert_uint_eq(eng_ledger(g)->now[LED_WEIGHTS], sizes[_i].weights);
    ck_assert_uint_eq(eng_ledger(g)->now[LED_WORKSPACE], sizes[_i].workspace);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

START_TEST(refusals)
{
    struct eng_options o = {.prompt = 4, .batch = 1};
    struct kvp_error err = {0}, why = {0};
    struct kvp_model m;
    struct kvp_stack s;
    struct eng *g = NULL;

    tiny_load(&m, 1);
    read_stack(&s, "smoothquant:kv=int8");
    must(kb_find(&o.backend, "ref", &err));
    ck_assert_int_eq(eng_open(&g, &m, &s, &o, &why), KVP_ENOTSUP);
    ck_assert_ptr_null(g);
    ck_assert_msg(strstr(why.text, "kv"), "'%s' does not say kv", why.text);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("smoothquant");
    TCase *t = tcase_create("int8 by int8");
    SRunner *r = srunner_create(s);
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, smoothing_beats_rounding, 0, 3);
    tcase_add_test(t, scales_by_hand);
    tcase_add_loop_test(t, logits_move_a_little, 0, 4 * TINY_MODELS);
    tcase_add_loop_test(t, one_norm_before_both_halves, 0, 2);
    tcase_add_loop_test(t, bytes, 0, 4);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
