/* engine.c - laws of the engine: however a text is cut into prefill and steps, and on whatever backend,
 * its logits are the same. */
#include "tests/validate/tiny.h"

static const char *const backends[] = {"ref", "cpu"};
enum { BACKENDS = 2, TOKENS = 23 };

/* f32 sums of at most a few hundred terms, a few layers deep: rounding stays far below this. */
static const double F32_ROUNDING = 1e-5;
/* Two backends, bf16 or f16 cache: one rounding that falls the other way is 2^-9 (2^-11) of a value. */
static const double HALF_ROUNDING = 2e-2;

static struct eng *open_eng(const struct kvp_model *m, struct eng_options o, const char *backend)
{
    static const struct kvp_stack dense;
    struct kvp_error err = {0};
    struct eng *g = NULL;

    must(kb_find(&o.backend, backend, &err));
    o.device.threads = 1; /* the machine may be shared: the goldens run on two */
    o.batch = o.batch ? o.batch : 1;
    o.seed = o.seed ? o.seed : 7;
    must(eng_open(&g, m, &dense, &o, &err));
    return g;
}

/* Logits [n, vocab] of one text: `prompt` tokens at once, the rest one by one. */
static void run_text(const struct kvp_model *m, struct eng_options o, const char *backend, float *logits)
{
    struct kvp_error err = {0};
    struct eng *g = open_eng(m, o, backend);
    int32_t ids[TOKENS];

    tiny_tokens(ids, TOKENS, m->vocab);
    must(eng_prefill(g, ids, logits, NULL, &err));
    for (uint64_t i = o.prompt; i < o.prompt + o.generate; i++)
        must(eng_decode(g, &ids[i], logits + i * m->vocab, &err));
    eng_close(g);
}

static void compare_cuts(int model, const char *backend)
{
    static const uint64_t prompts[] = {1, 5, TOKENS - 1};
    static float whole[TOKENS * TINY_VOCAB], cut[TOKENS * TINY_VOCAB];
    struct kvp_model m;

    tiny_load(&m, model);
    run_text(&m, (struct eng_options){.prompt = TOKENS}, backend, whole);
    for (size_t i = 0; i < sizeof(prompts) / sizeof(prompts[0]); i++) {
        double apart;

        run_text(&m, (struct eng_options){.prompt = prompts[i], .generate = TOKENS - prompts[i]}, backend, cut);
        apart = far_apart(cut, whole, TOKENS * m.vocab);
        ck_assert_msg(apart < F32_ROUNDING, "%s on %s, prompt %d: apart by %g", tiny_models[model].name, backend,
                      (int)prompts[i], apart);
    }
    kvp_model_free(&m);
}

START_TEST(steps_equal_one_prefill)
{
    compare_cuts(_i / BACKENDS, backends[_i % BACKENDS]);
}
END_TEST

/* Rows that do not depend on their token would pass every comparison. */
START_TEST(logits_differ_between_positions)
{
    static float whole[TOKENS * TINY_VOCAB];
    struct kvp_model m;

    tiny_load(&m, _i);
    run_text(&m, (struct eng_options){.prompt = TOKENS}, "ref", whole);
    for (int t = 1; t < TOKENS; t++)
        ck_assert_msg(far_apart(whole + t * TINY_VOCAB, whole + (t - 1) * TINY_VOCAB, m.vocab) > 0.05,
                      "%s: rows %d and %d are alike", tiny_models[_i].name, t - 1, t);
    kvp_model_free(&m);
}
END_TEST

START_TEST(backends_agree)
{
    static const struct {
        enum kvp_format weights, kv;
        double tolerance;
    } formats[] = {{KVP_F32, KVP_F32, F32_ROUNDING}, {KVP_BF16, KVP_BF16, HALF_ROUNDING}, {KVP_F16, KVP_F16, HALF_ROUNDING},
                   {KVP_F16, KVP_F32, F32_ROUNDING}, {KVP_F32, KVP_F16, HALF_ROUNDING}};
    static float a[TOKENS * TINY_VOCAB], b[TOKENS * TINY_VOCAB];
    struct kvp_model m;

    tiny_load(&m, _i);
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        const struct eng_options o = {.prompt = 9, .generate = TOKENS - 9, .weights = formats[i].weights, .kv = formats[i].kv};
        double apart;

        run_text(&m, o, "ref", a);
        run_text(&m, o, "cpu", b);
        apart = far_apart(b, a, TOKENS * m.vocab);
        ck_assert_msg(apart < formats[i].tolerance, "%s, weights %s, cache %s: ref and cpu apart by %g",
                      tiny_models[_i].name, kvp_format_name(formats[i].weights), kvp_format_name(formats[i].kv), apart);
    }
    kvp_model_free(&m);
}
END_TEST

/* The three formats of the same seed are the same weights, rounded: logits are close, not equal. */
START_TEST(formats_hold_the_same_weights)
{
    static float exact[TOKENS * TINY_VOCAB], rounded[TOKENS * TINY_VOCAB];
    static const enum kvp_format formats[] = {KVP_F16, KVP_BF16};
    static const double within[] = {2e-2, 1e-1};
    struct kvp_model m;

    tiny_load(&m, _i);
    run_text(&m, (struct eng_options){.prompt = TOKENS}, "ref", exact);
    for (int i = 0; i < 2; i++) {
        double apart;

        run_text(&m, (struct eng_options){.prompt = TOKENS, .weights = formats[i], .kv = formats[i]}, "ref", rounded);
        apart = far_apart(rounded, exact, TOKENS * m.vocab);
        ck_assert_msg(apart > 0 && apart < within[i], "%s as %s: apart by %g", tiny_models[_i].name,
                      kvp_format_name(formats[i]), apart);
    }
    kvp_model_free(&m);
}
END_TEST

START_TEST(identical_sequences_give_identical_rows)
{
    enum { BATCH = 3, PROMPT = 6, STEPS = 4 };
    static float rows[BATCH * PROMPT * TINY_VOCAB], last[BATCH * TINY_VOCAB], one[TINY_VOCAB];
    const char *backend = backends[_i % BACKENDS];
    int32_t ids[BATCH * PROMPT], text[PROMPT + STEPS], step[BATCH];
    struct kvp_error err = {0};
    struct eng *g, *alone;
    struct kvp_model m;

    tiny_load(&m, _i / BACKENDS);
    g = open_eng(&m, (struct eng_options){.batch = BATCH, .prompt = PROMPT, .generate = STEPS}, backend);
    alone = open_eng(&m, (struct eng_options){.prompt = PROMPT, .generate = STEPS}, backend);
    tiny_tokens(text, PROMPT + STEPS, m.vocab);
    for (int b = 0; b < BATCH; b++)
        memcpy(ids + b * PROMPT, text, sizeof(int32_t) * PROMPT);
    must(eng_prefill(g, ids, rows, last, &err));
    must(eng_prefill(alone, text, NULL, one, &err));
    ck_assert(far_apart(last, one, m.vocab) < F32_ROUNDING);
    ck_assert_mem_eq(last, rows + (PROMPT - 1) * TINY_VOCAB, sizeof(one));
    for (int s = 0; s < STEPS; s++) {
        for (int b = 0; b < BATCH; b++)
            step[b] = text[PROMPT + s];
        must(eng_decode(g, step, last, &err));
        must(eng_decode(alone, step, one, &err));
        for (int b = 0; b < BATCH; b++)
            ck_assert(far_apart(last + b * TINY_VOCAB, one, m.vocab) < F32_ROUNDING);
    }
    eng_close(alone);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* Different sequences in a batch must not see each other. */
START_TEST(sequences_of_a_batch_stay_apart)
{
    enum { BATCH = 3, PROMPT = 5, STEPS = 3 };
    static float last[BATCH * TINY_VOCAB], one[TINY_VOCAB];
    const char *backend = backends[_i % BACKENDS];
    int32_t ids[BATCH * (PROMPT + STEPS)], prompts[BATCH * PROMPT], step[BATCH];
    struct kvp_error err = {0};
    struct eng *g, *alone[BATCH];
    struct kvp_model m;

    tiny_load(&m, _i / BACKENDS);
    tiny_tokens(ids, BATCH * (PROMPT + STEPS), m.vocab);
    g = open_eng(&m, (struct eng_options){.batch = BATCH, .prompt = PROMPT, .generate = STEPS}, backend);
    for (int b = 0; b < BATCH; b++) {
        alone[b] = open_eng(&m, (struct eng_options){.prompt = PROMPT, .generate = STEPS}, backend);
        memcpy(prompts + b * PROMPT, ids + b * (PROMPT + STEPS), sizeof(int32_t) * PROMPT);
        must(eng_prefill(alone[b], prompts + b * PROMPT, NULL, NULL, &err));
    }
    must(eng_prefill(g, prompts, NULL, NULL, &err));
    for (int s = 0; s < STEPS; s++) {
        for (int b = 0; b < BATCH; b++)
            step[b] = ids[b * (PROMPT + STEPS) + PROMPT + s];
        must(eng_decode(g, step, last, &err));
        for (int b = 0; b < BATCH; b++) {
            must(eng_decode(alone[b], &step[b], one, &err));
            ck_assert(far_apart(last + b * TINY_VOCAB, one, m.vocab) < F32_ROUNDING);
        }
    }
    for (int b = 0; b < BATCH; b++)
        eng_close(alone[b]);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* A second prefill starts over: same logits, same bytes at rest. */
START_TEST(prefill_again_is_a_new_run)
{
    static float first[TINY_VOCAB], again[TINY_VOCAB];
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g;
    uint64_t bytes;
    int32_t ids[8];

    tiny_load(&m, _i);
    tiny_tokens(ids, 8, m.vocab);
    g = open_eng(&m, (struct eng_options){.prompt = 6, .generate = 2}, "ref");
    must(eng_prefill(g, ids, NULL, NULL, &err));
    must(eng_decode(g, ids + 6, NULL, &err));
    must(eng_decode(g, ids + 7, first, &err));
    bytes = eng_ledger(g)->now[LED_CACHE];
    ck_assert_int_eq(eng_decode(g, ids, NULL, NULL), KVP_EINPUT); /* past the context */
    must(eng_prefill(g, ids, NULL, NULL, &err));
    must(eng_decode(g, ids + 6, NULL, &err));
    must(eng_decode(g, ids + 7, again, &err));
    ck_assert_mem_eq(first, again, m.vocab * sizeof(float));
    ck_assert_uint_eq(eng_ledger(g)->now[LED_CACHE], bytes);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* ---- bytes, calls, time -------------------------------------------------------------------------- */

/* By hand from the configs above.
 * gpt2: D 24, 2 layers, V 61, 48 positions, I 96: 61*24 + 48*24 + 2*24
 *   + 2 * (4*24 + 24*72+72 + 24*24+24 + 24*96+96 + 96*24+24) = 1464 + 1152 + 48 + 2 * 7224 = 17112
 * llama: D 32, d 8, H 4, Hkv 2, I 40, 3 layers, biases, untied: 2*61*32 + 32
 *   + 3 * (2*32 + 32*64+64 + 32*32+32 + 2*(32*40+40) + 40*32+32) = 3936 + 3 * 7184 = 25488
 * mistral: Hkv 1, I 24, 2 layers: 2*61*32 + 32 + 2 * (64 + 32*48 + 32*32 + 3*32*24) = 3936 + 2 * 4928 = 13792
 * qwen2: tied, qkv bias, I 56: 61*32 + 32 + 2 * (64 + 32*64+64 + 32*32 + 3*32*56) = 1984 + 2 * 8576 = 19136
 * qwen3: D 24, d 16, H 4, Hkv 2, I 40, norms of 16: 2*61*24 + 24
 *   + 2 * (48 + 24*128 + 32 + 64*24 + 3*24*40) = 2952 + 2 * 7568 = 18088
 * gemma2: tied, d 16, four norms: 61*32 + 32 + 2 * (4*32 + 32*128 + 64*32 + 3*32*40) = 1984 + 2 * 10112 = 22208
 * mixtral: four experts of 24: 2*61*32 + 32 + 2 * (64 + 32*64 + 32*32 + 4*32 + 4*3*32*24) = 3936 + 2 * 12480 = 28896
 * deepseek_v3: attention 64 + 12*32 + 12 + 64*12 + 26*32 + 20 + 96*20 + 32*56 = 5792; a dense layer 3*32*40 = 3840, one of
 *   eight experts of 12 and a shared one 8*32 + 8 + 9*3*32*12 = 10632: 3936 + 2 * 5792 + 3840 + 10632 = 29992 */
static const uint64_t parameters[TINY_MODELS] = {17112, 25488, 13792, 19136, 18088, 22208, 28896, 29992};

/* Per token: layers * 2 * Hkv * d values; mistral's ring holds 7 tokens, gemma2's first layer 6,
 * deepseek_v3 a latent of 20 and a key of 6. Context 12, batch 2. */
static const uint64_t cache_values[TINY_MODELS] = {2 * 12 * 2 * 2 * 24, 2 * 12 * 3 * 2 * 16, 2 * 7 * 2 * 2 * 8,
                                                   2 * 12 * 2 * 2 * 16, 2 * 12 * 2 * 2 * 32, 2 * (6 + 12) * 2 * 32,
                                                   2 * 12 * 2 * 2 * 16, 2 * 12 * 2 * (20 + 6)};

START_TEST(ledger_holds_what_the_model_says)
{
    static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};
    static const uint64_t size[] = {4, 2, 2};
    int32_t ids[20];
    struct kvp_model m;

    tiny_load(&m, _i);
    tiny_tokens(ids, 20, m.vocab);
    for (int i = 0; i < 3; i++) {
        struct kvp_error err = {0};
        struct eng *g = open_eng(&m, (struct eng_options){.batch = 2, .prompt = 10, .generate = 2, .weights = formats[i],
                                                          .kv = formats[i]}, "ref");
        const struct ledger *l = eng_ledger(g);
        const uint64_t held = l->now[LED_ACTIVATION];

        must(eng_prefill(g, ids, NULL, NULL, &err));
        must(eng_decode(g, ids, NULL, &err));
        must(eng_decode(g, ids, NULL, &err));
        ck_assert_uint_eq(l->now[LED_WEIGHTS], parameters[_i] * size[i]);
        ck_assert_uint_eq(l->now[LED_CACHE] + l->now[LED_METADATA], cache_values[_i] * size[i]);
        ck_assert_uint_eq(l->cache_peak, cache_values[_i] * size[i]);
        ck_assert_uint_eq(l->now[LED_ACTIVATION], held);
        ck_assert_uint_eq(l->peak[LED_ACTIVATION], held);
        ck_assert_uint_le(l->peak[LED_WORKSPACE], (32 << 20) + 16 * sizeof(float));
        eng_close(g);
    }
    kvp_model_free(&m);
}
END_TEST

/* x, h: 20 rows of D; qkv, out; lse B*H*P; MLP rows; logits 2 rows; two lists of ids. By hand, f32. */
static const uint64_t activation_values[TINY_MODELS] = {
    20 * (24 + 24 + 72 + 24 + 3 + 96 + 2) + 2 * 61,   20 * (32 + 32 + 64 + 32 + 4 + 80 + 2) + 2 * 61,
    20 * (32 + 32 + 48 + 32 + 4 + 48 + 2) + 2 * 61,   20 * (32 + 32 + 64 + 32 + 4 + 112 + 2) + 2 * 61,
    20 * (24 + 24 + 128 + 64 + 4 + 80 + 2) + 2 * 61,  20 * (32 + 32 + 128 + 64 + 4 + 80 + 2) + 2 * 61,
    20 * (32 + 32 + 64 + 32 + 4 + 2 + 4 + 2 * 2 + 2 * 48) + 2 * 61, /* router, choice, both experts' gate and up */
    /* low rank, expanded k and v, router, choice, three experts; q and output in latent space of two rows */
    20 * (32 + 32 + 64 + 64 + 4 + 80 + 2 + 38 + 96 + 8 + 2 * 3 + 3 * 24) + 2 * 61 + 2 * 2 * 4 * 20,
};

START_TEST(activations_are_the_contracts)
{
    struct kvp_model m;
    struct eng *g;

    tiny_load(&m, _i);
    g = open_eng(&m, (struct eng_options){.batch = 2, .prompt = 10, .generate = 2}, "ref");
    ck_assert_uint_eq(eng_ledger(g)->now[LED_ACTIVATION], 4 * activation_values[_i]);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* Ops once per layer, or once per forward. */
START_TEST(every_op_runs_as_often_as_layers)
{
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g;
    int32_t ids[8];

    tiny_load(&m, _i);
    tiny_tokens(ids, 8, m.vocab);
    g = open_eng(&m, (struct eng_options){.prompt = 6, .generate = 2}, "ref");
    must(eng_prefill(g, ids, NULL, NULL, &err));
    eng_time_ops(g, true);
    must(eng_decode(g, ids, NULL, &err));
    for (int phase = 0; phase < ENG_PHASES; phase++) {
        const struct eng_op_time *t = eng_op_times(g, phase);
        const bool rope = m.position == KVP_POS_ROPE, qk = m.cls[0].qk_norm, mla = m.cls[0].mixer == KVP_MIX_MLA;
        const uint64_t shared = m.cls[m.class_of[m.layers - 1]].shared_width > 0; /* one layer */
        uint64_t sum = 0;

        ck_assert_uint_eq(t[KVP_OP_EMBED].calls, 1);
        ck_assert_uint_eq(t[KVP_OP_QKV].calls, (mla ? 3 : 1) * m.layers); /* q down and up, the latent */
        ck_assert_uint_eq(t[KVP_OP_ROPE].calls, rope ? (mla ? 2 : 1) * m.layers : 0);
        ck_assert_uint_eq(t[KVP_OP_QK_NORM].calls, qk || mla ? 2 * m.layers : 0);
        ck_assert_uint_eq(t[KVP_OP_ABSORB].calls, mla ? (phase == ENG_DECODE ? 2 : 1) * m.layers : 0);
        ck_assert_uint_eq(t[KVP_OP_ATTN].calls, m.layers);
        ck_assert_uint_ge(t[KVP_OP_APPEND].calls, m.layers);
        ck_assert_uint_eq(t[KVP_OP_MLP_DOWN].calls, m.layers + shared);
        ck_assert_uint_eq(t[KVP_OP_FINAL_NORM].calls, 1);
        ck_assert_uint_eq(t[KVP_OP_HEAD].calls, m.numbers.logit_cap > 0 ? 2 : 1);
        for (int op = 0; op < KVP_OPS; op++)
            sum += t[op].ns;
        ck_assert((sum > 0) == (phase == ENG_DECODE)); /* timing was on for the step only */
        ck_assert_uint_gt(eng_forward_ns(g, phase), 0);
        ck_assert_uint_le(sum, eng_forward_ns(g, phase));
    }
    ck_assert_uint_eq(eng_calls(g)[KVP_OP_QKV], 2 * (m.cls[0].mixer == KVP_MIX_MLA ? 3u : 1u) * m.layers);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* ---- what cannot run ------------------------------------------------------------------------------ */

START_TEST(refusals_name_the_cause)
{
    static const struct {
        int model;
        struct eng_options o;
        enum kvp_rope_scaling scaling;
        kvp_err code;
        const char *word;
    } cases[] = {
        {0, {.batch = 1, .prompt = 40, .generate = 9}, KVP_ROPE_PLAIN, KVP_EINPUT, "48 rows"},
        {1, {.batch = 1, .prompt = 4}, KVP_ROPE_OTHER, KVP_ENOTSUP, "yarn"},
        {1, {.batch = 0, .prompt = 4}, KVP_ROPE_PLAIN, KVP_EINPUT, "batch"},
        {1, {.batch = 1, .prompt = 0, .generate = 4}, KVP_ROPE_PLAIN, KVP_EINPUT, "prompt"},
        {1, {.batch = 1ull << 40, .prompt = 1ull << 40}, KVP_ROPE_PLAIN, KVP_ERANGE, "2^31"},
        {1, {.batch = 1, .prompt = 4, .weights = KVP_INT4}, KVP_ROPE_PLAIN, KVP_EINPUT, "f32, f16 or bf16"},
        {1, {.batch = 1, .prompt = 4, .weights_dir = "/nowhere"}, KVP_ROPE_PLAIN, KVP_EINPUT, "/nowhere"},
    };
    struct kvp_error err = {0}, why = {0};
    static const struct kvp_stack dense;
    struct eng_options o = cases[_i].o;
    struct kvp_model m;
    struct eng *g = NULL;

    must(kb_find(&o.backend, "ref", &err));
    tiny_load(&m, cases[_i].model);
    m.rope_scaling = cases[_i].scaling;
    strcpy(m.rope_type, "yarn");
    ck_assert_int_eq(eng_open(&g, &m, &dense, &o, &why), cases[_i].code);
    ck_assert_ptr_null(g);
    ck_assert_msg(strstr(why.text, cases[_i].word), "'%s' does not say %s", why.text, cases[_i].word);
    kvp_model_free(&m);
}
END_TEST

START_TEST(tokens_outside_the_vocabulary)
{
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g;
    int32_t ids[3] = {1, 2, TINY_VOCAB};

    tiny_load(&m, 1);
    g = open_eng(&m, (struct eng_options){.prompt = 3, .generate = 1}, "ref");
    ck_assert_int_eq(eng_decode(g, ids, NULL, NULL), KVP_EINPUT); /* nothing was run yet */
    ck_assert_int_eq(eng_prefill(g, ids, NULL, NULL, NULL), KVP_EINPUT);
    ids[2] = -1;
    ck_assert_int_eq(eng_prefill(g, ids, NULL, NULL, NULL), KVP_EINPUT);
    ids[2] = TINY_VOCAB - 1;
    must(eng_prefill(g, ids, NULL, NULL, &err));
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("engine");
    TCase *t = tcase_create("engine");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, steps_equal_one_prefill, 0, TINY_MODELS * BACKENDS);
    tcase_add_loop_test(t, logits_differ_between_positions, 0, TINY_MODELS);
    tcase_add_loop_test(t, backends_agree, 0, TINY_MODELS);
    tcase_add_loop_test(t, formats_hold_the_same_weights, 0, TINY_MODELS);
    tcase_add_loop_test(t, identical_sequences_give_identical_rows, 0, TINY_MODELS * BACKENDS);
    tcase_add_loop_test(t, sequences_of_a_batch_stay_apart, 0, TINY_MODELS * BACKENDS);
    tcase_add_loop_test(t, prefill_again_is_a_new_run, 0, TINY_MODELS);
    tcase_add_loop_test(t, ledger_holds_what_the_model_says, 0, TINY_MODELS);
    tcase_add_loop_test(t, activations_are_the_contracts, 0, TINY_MODELS);
    tcase_add_loop_test(t, every_op_runs_as_often_as_layers, 0, TINY_MODELS);
    tcase_add_loop_test(t, refusals_name_the_cause, 0, 7);
    tcase_add_test(t, tokens_outside_the_vocabulary);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
