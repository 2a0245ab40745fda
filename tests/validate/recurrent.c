/* recurrent.c - laws of recurrent layers: however a text is cut, on whatever backend and in whatever batch, the logits
 * are the same; every byte of a state is read; weights and states have the bytes that the shapes say. */
#include "tests/validate/tiny.h"

#include "validate/engine/internal.h"

enum { TOKENS = 19, VOCAB = 61, MODELS = 9 };

#define COMMON "\"vocab_size\":61,\"num_hidden_layers\":2,\"torch_dtype\":\"float32\","

/* D 32. Parameters and state values of a sequence, by hand:
 *   embedding and head 61 * 32 each = 1952; a LayerNorm 64, an RMS norm 32
 * mamba: E 64, n 4, conv 4, R 3, tied: 1952 + 32 + 2 * (32 + in 2*64*32 + conv 5*64 + x (3+8)*64 + dt 64*3 + 64
 *   + A 64*4 + D 64 + out 32*64) = 1984 + 2 * 7776 = 17536; state 2 * (3 * 64 + 64 * 4)
 * mamba2: E 64, heads of 16, 2 groups, n 8, conv 3, no conv bias, biases in the projections, untied:
 *   2 * 1952 + 32 + 2 * (32 + (2*64+32+4) * 33 + 96*3 + 3*4 + 64 + 32*64 + 32) = 3936 + 2 * 7888 = 19712;
 *   state 2 * (2 * 96 + 64 * 8)
 * rwkv4: A 48, I 40: 2 * 1952 + 2 * 64 + 2 * (2*64 + 2*48 + 3*32 + 4*48*32 + 2*32 + 2*40*32 + 32*32) = 4032 + 2 * 10112;
 *   state 2 * (2 * 32 + 3 * 48)
 * rwkv5: heads of 8, I 40: 4032 + 2 * (128 + 2*32 + 4*32 + 5*1024 + 2*32 + 2*32 + 2*1280 + 1024) = 4032 + 2 * 9152;
 *   state 2 * (64 + 32 * 8)
 * rwkv6: ranks 64 and 32: rwkv5's and 2*32 + 5*32*32 + 5*32*32 + 64*32 + 32*64 = 14400 more a layer
 * rwkv7: heads of 16, I 40, ranks 4 5 6 7; first layer: 128 + 6*32 + 3*32 + 4*1024 + (2*32*4+32) + (2*32*5+32)
 *   + 2*32*7 + 2*32 + 32 + 2*1280 = 8256; then 2*32*6 + 32 = 416 more: 4032 + 8256 + 8672; state 2 * (64 + 32 * 16)
 * gated delta: 2 heads of q and k, 6 wide, 4 of v, 5 wide, conv 4, I 40: 3904 + 32 + 2 * (2*32 + (2*12 + 2*20 + 2*4)*32
 *   + (2*12 + 20)*4 + 4 + 4 + 5 + 32*20 + 3*32*40) = 3936 + 2 * 7037; state 2 * (3 * 44 + 4 * 6 * 5) */
static const struct {
    const char *name, *config;
    uint64_t parameters, window, matrix;
} models[MODELS] = {
    {"mamba", "{\"model_type\":\"mamba\"," COMMON "\"hidden_size\":32,\"state_size\":4,\"conv_kernel\":4,\"expand\":2,"
              "\"time_step_rank\":3,\"use_bias\":false,\"use_conv_bias\":true,\"layer_norm_epsilon\":1e-5}",
     17536, 2 * 3 * 64, 2 * 64 * 4},
    {"mamba2", "{\"model_type\":\"mamba2\"," COMMON "\"hidden_size\":32,\"state_size\":8,\"conv_kernel\":3,\"expand\":2,"
               "\"num_heads\":4,\"head_dim\":16,\"n_groups\":2,\"use_bias\":true,\"use_conv_bias\":false,"
               "\"tie_word_embeddings\":false,\"layer_norm_epsilon\":1e-5}",
     19712, 2 * 2 * 96, 2 * 64 * 8},
    {"rwkv4", "{\"model_type\":\"rwkv\"," COMMON "\"hidden_size\":32,\"attention_hidden_size\":48,\"intermediate_size\":40,"
              "\"context_length\":64,\"tie_word_embeddings\":false,\"layer_norm_epsilon\":1e-5}",
     24256, 2 * 64, 2 * 3 * 48},
    {"rwkv5", "{\"model_type\":\"rwkv5\"," COMMON "\"hidden_size\":32,\"head_size\":8,\"intermediate_size\":40,"
              "\"tie_word_embeddings\":false,\"layer_norm_epsilon\":1e-5}",
     22336, 2 * 64, 2 * 32 * 8},
    {"rwkv6", "{\"model_type\":\"rwkv6\"," COMMON "\"hidden_size\":32,\"head_size\":8,\"intermediate_size\":40,"
              "\"tie_word_embeddings\":false,\"layer_norm_epsilon\":1e-5}",
     22336 + 2 * 14400, 2 * 64, 2 * 32 * 8},
    {"rwkv7", "{\"model_type\":\"rwkv7\"," COMMON "\"hidden_size\":32,\"head_dim\":16,\"intermediate_size\":40,"
              "\"decay_low_rank_dim\":4,\"a_low_rank_dim\":5,\"v_low_rank_dim\":6,\"gate_low_rank_dim\":7,"
              "\"tie_word_embeddings\":false,\"norm_eps\":1e-5}",
     20960, 2 * 64, 2 * 32 * 16},
    {"gated delta", "{\"model_type\":\"qwen3_next\"," COMMON "\"hidden_size\":32,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                    "\"intermediate_size\":40,\"layer_types\":[\"linear_attention\",\"linear_attention\"],\"num_experts\":0,"
                    "\"linear_num_key_heads\":2,\"linear_num_value_heads\":4,\"linear_key_head_dim\":6,\"linear_value_head_dim\":5,"
                    "\"linear_conv_kernel_dim\":4,\"max_position_embeddings\":64,\"tie_word_embeddings\":false,\"rms_norm_eps\":1e-6}",
     3936 + 2 * 7037, 2 * 3 * 44, 2 * 4 * 6 * 5},
    /* one tap: no columns are kept; one head */
    {"mamba, one tap", "{\"model_type\":\"mamba\"," COMMON "\"hidden_size\":32,\"state_size\":1,\"conv_kernel\":1,\"expand\":1,"
                       "\"time_step_rank\":1,\"layer_norm_epsilon\":1e-5}",
     1984 + 2 * (32 + 64 * 32 + 2 * 32 + 3 * 32 + 64 + 32 + 32 + 32 * 32), 0, 2 * 32},
    {"mamba2, one head", "{\"model_type\":\"mamba2\"," COMMON "\"hidden_size\":32,\"state_size\":8,\"conv_kernel\":4,\"expand\":1,"
                         "\"num_heads\":1,\"head_dim\":32,\"n_groups\":1,\"tie_word_embeddings\":true,\"layer_norm_epsilon\":1e-5}",
     1984 + 2 * (32 + (64 + 16 + 1) * 32 + 48 * 5 + 3 + 32 + 32 * 32), 2 * 3 * 48, 2 * 32 * 8},
};

static const char *const backends[] = {"ref", "cpu"};
enum { BACKENDS = 2 };
static const double F32_ROUNDING = 2e-5;
static const double HALF_ROUNDING = 4e-2; /* bf16 weights and columns: a rounding that falls the other way is 2^-9 */

static void load(struct kvp_model *m, int i)
{
    struct kvp_error err = {0};

    must(kvp_model_parse(m, models[i].config, strlen(models[i].config), models[i].name, &err));
}

static struct eng *open_eng(const struct kvp_model *m, struct eng_options o, const char *backend)
{
    static const struct kvp_stack dense;
    struct kvp_error err = {0};
    struct eng *g = NULL;

    must(kb_find(&o.backend, backend, &err));
    o.device.threads = 1;
    o.batch = o.batch ? o.batch : 1;
    o.seed = 7;
    must(eng_open(&g, m, &dense, &o, &err));
    return g;
}

static void run_text(const struct kvp_model *m, struct eng_options o, const char *backend, float *logits)
{
    struct kvp_error err = {0};
    struct eng *g = open_eng(m, o, backend);
    int32_t ids[TOKENS];

    tiny_tokens(ids, TOKENS, VOCAB);
    must(eng_prefill(g, ids, logits, NULL, &err));
    for (uint64_t i = o.prompt; i < o.prompt + o.generate; i++)
        must(eng_decode(g, &ids[i], logits + i * VOCAB, &err));
    eng_close(g);
}

START_TEST(steps_equal_one_prefill)
{
    static const uint64_t prompts[] = {1, 2, 7, TOKENS - 1}; /* fewer tokens than columns, too */
    static float whole[TOKENS * VOCAB], cut[TOKENS * VOCAB];
    const char *backend = backends[_i % BACKENDS];
    struct kvp_model m;

    load(&m, _i / BACKENDS);
    run_text(&m, (struct eng_options){.prompt = TOKENS}, backend, whole);
    for (size_t i = 0; i < sizeof(prompts) / sizeof(prompts[0]); i++) {
        double apart;

        run_text(&m, (struct eng_options){.prompt = prompts[i], .generate = TOKENS - prompts[i]}, backend, cut);
        apart = far_apart(cut, whole, TOKENS * VOCAB);
        ck_assert_msg(apart < F32_ROUNDING, "%s on %s, prompt %d: apart by %g", models[_i / BACKENDS].name, backend, (int)prompts[i],
                      apart);
    }
    kvp_model_free(&m);
}
END_TEST

START_TEST(backends_agree)
{
    static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};
    static float a[TOKENS * VOCAB], b[TOKENS * VOCAB];
    struct kvp_model m;

    load(&m, _i);
    for (int f = 0; f < 3; f++)
        for (int s = 0; s < 3; s++) {
            const struct eng_options o = {.prompt = 9, .generate = TOKENS - 9, .weights = formats[f], .kv = formats[f]};
            double apart;

            m.state = formats[s];
            run_text(&m, o, "ref", a);
            run_text(&m, o, "cpu", b);
            apart = far_apart(b, a, TOKENS * VOCAB);
            ck_assert_msg(apart < (f || s ? HALF_ROUNDING : F32_ROUNDING), "%s, weights %s, state %s: apart by %g", models[_i].name,
                          kvp_format_name(formats[f]), kvp_format_name(formats[s]), apart);
        }
    kvp_model_free(&m);
}
END_TEST

/* More rows than a block of the feed-forward, sequences that end inside and at the end of one; each as if alone. */
START_TEST(sequences_of_a_batch_stay_apart)
{
    enum { BATCH = 3, PROMPT = 400, STEPS = 2 };
    static float last[BATCH * VOCAB], one[VOCAB];
    static int32_t ids[BATCH * (PROMPT + STEPS)], prompts[BATCH * PROMPT];
    struct kvp_error err = {0};
    struct eng *g, *alone;
    struct kvp_model m;

    load(&m, _i);
    tiny_tokens(ids, BATCH * (PROMPT + STEPS), VOCAB);
    for (int b = 0; b < BATCH; b++)
        memcpy(prompts + b * PROMPT, ids + b * (PROMPT + STEPS), sizeof(int32_t) * PROMPT);
    g = open_eng(&m, (struct eng_options){.batch = BATCH, .prompt = PROMPT, .generate = STEPS}, "cpu");
    alone = open_eng(&m, (struct eng_options){.prompt = PROMPT, .generate = STEPS}, "cpu");
    must(eng_prefill(g, prompts, NULL, last, &err));
    for (int s = 0; s < STEPS; s++) {
        int32_t step[BATCH];

        for (int b = 0; b < BATCH; b++)
            step[b] = ids[b * (PROMPT + STEPS) + PROMPT + s];
        must(eng_decode(g, step, last, &err));
    }
    for (int b = 0; b < BATCH; b++) {
        must(eng_prefill(alone, prompts + b * PROMPT, NULL, NULL, &err));
        for (int s = 0; s < STEPS; s++)
            must(eng_decode(alone, &ids[b * (PROMPT + STEPS) + PROMPT + s], one, &err));
        ck_assert_msg(far_apart(last + b * VOCAB, one, VOCAB) < F32_ROUNDING, "%s: sequence %d", models[_i].name, b);
    }
    eng_close(alone);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

START_TEST(ledger_holds_what_the_model_says)
{
    static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};
    static const uint64_t size[] = {4, 2, 2};
    struct kvp_model m;

    load(&m, _i);
    for (int f = 0; f < 3; f++) {
        struct eng *g = open_eng(&m, (struct eng_options){.batch = 3, .prompt = 4, .generate = 1, .weights = formats[f], .kv = formats[f]}, "ref");
        const struct ledger *l = eng_ledger(g);
        struct kvp_error err = {0};
        const int32_t ids[12] = {0};

        must(eng_prefill(g, ids, NULL, NULL, &err));
        must(eng_decode(g, ids, NULL, &err));
        ck_assert_uint_eq(l->now[LED_WEIGHTS], models[_i].parameters * size[f]);
        ck_assert_uint_eq(l->now[LED_STATE], 3 * (models[_i].window * size[f] + models[_i].matrix * 4));
        ck_assert_uint_eq(l->peak[LED_STATE], l->now[LED_STATE]);
        ck_assert_uint_eq(l->now[LED_CACHE] + l->now[LED_METADATA], 0);
        eng_close(g);
    }
    kvp_model_free(&m);
}
END_TEST

static bool any_nan(const float *x, int n)
{
    bool found = false;

    for (int i = 0; i < n; i++)
        found = found || isnan(x[i]);
    return found;
}

/* NaN in any one value of a state, of any layer, must reach the next step's logits; a new run must not see it. */
START_TEST(every_byte_of_a_state_is_read)
{
    static float clean[VOCAB], poisoned[VOCAB];
    struct kvp_error err = {0};
    int32_t ids[8];
    struct kvp_model m;
    struct eng *g;

    load(&m, _i);
    tiny_tokens(ids, 8, VOCAB);
    g = open_eng(&m, (struct eng_options){.prompt = 6, .generate = 2}, "cpu");
    must(eng_prefill(g, ids, NULL, NULL, &err));
    must(eng_decode(g, &ids[6], clean, &err));
    for (uint32_t l = 0; l < m.layers; l++) {
        const struct led_mem *mem[] = {&g->mix.layer[l].window, &g->mix.layer[l].matrix};

        for (int part = 0; part < 2; part++)
            for (uint64_t at = 0; at < mem[part]->bytes; at += 4) {
                must(eng_prefill(g, ids, NULL, NULL, &err));
                must(g->o.backend->fill(g->dev, (struct kb_span){mem[part]->buf, at}, 0xff, 4, &err));
                must(eng_decode(g, &ids[6], poisoned, &err));
                ck_assert_msg(any_nan(poisoned, VOCAB), "%s: layer %u, %s, byte %d is not read", models[_i].name, l,
                              part ? "matrix" : "window", (int)at);
                at += 4 * (at / 64); /* nearer ones at first, then further apart */
            }
    }
    must(eng_prefill(g, ids, NULL, NULL, &err));
    must(eng_decode(g, &ids[6], poisoned, &err));
    ck_assert_mem_eq(clean, poisoned, sizeof(clean));
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* ---- what does not run ----------------------------------------------------------------------------- */

static const struct {
    const char *config, *word;
} refused[] = {
    {"{\"model_type\":\"falcon_mamba\"," COMMON "\"hidden_size\":32,\"state_size\":4,\"conv_kernel\":4,\"expand\":2,\"intermediate_size\":64,"
     "\"time_step_rank\":3,\"use_bias\":false,\"use_conv_bias\":true,\"layer_norm_epsilon\":1e-5}", "falcon_mamba"},
    {"{\"model_type\":\"mamba\"," COMMON "\"hidden_size\":32,\"state_size\":4,\"conv_kernel\":4,\"expand\":2,\"hidden_act\":\"gelu\","
     "\"time_step_rank\":3,\"layer_norm_epsilon\":1e-5}", "class 0"},
};

START_TEST(refusals_name_the_cause)
{
    static const struct kvp_stack dense;
    struct eng_options o = {.batch = 1, .prompt = 4};
    struct kvp_error err = {0}, why = {0};
    struct kvp_model m;
    struct eng *g = NULL;

    must(kb_find(&o.backend, "ref", &err));
    must(kvp_model_parse(&m, refused[_i].config, strlen(refused[_i].config), "refused", &err));
    ck_assert_int_eq(eng_open(&g, &m, &dense, &o, &why), KVP_ENOTSUP);
    ck_assert_msg(strstr(why.text, refused[_i].word), "'%s' does not say %s", why.text, refused[_i].word);
    kvp_model_free(&m);
}
END_TEST

START_TEST(a_state_in_a_packed_format)
{
    static const struct kvp_stack dense;
    struct eng_options o = {.batch = 1, .prompt = 4};
    struct kvp_error err = {0}, why = {0};
    struct kvp_model m;
    struct eng *g = NULL;

    must(kb_find(&o.backend, "ref", &err));
    load(&m, 0);
    m.state = KVP_INT8;
    ck_assert_int_eq(eng_open(&g, &m, &dense, &o, &why), KVP_ENOTSUP);
    ck_assert_ptr_nonnull(strstr(why.text, "int8"));
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("recurrent");
    TCase *t = tcase_create("recurrent");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, steps_equal_one_prefill, 0, MODELS * BACKENDS);
    tcase_add_loop_test(t, backends_agree, 0, MODELS);
    tcase_add_loop_test(t, sequences_of_a_batch_stay_apart, 0, MODELS);
    tcase_add_loop_test(t, ledger_holds_what_the_model_says, 0, MODELS);
    tcase_add_loop_test(t, every_byte_of_a_state_is_read, 0, MODELS);
    tcase_add_loop_test(t, refusals_name_the_cause, 0, (int)(sizeof(refused) / sizeof(refused[0])));
    tcase_add_test(t, a_state_in_a_packed_format);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
