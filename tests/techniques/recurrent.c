/* recurrent.c - the model that attends, with a recurrence in place of its attention: the page's bytes, the models whose
 * configs say the same, and what the technique is refused with. */
#include "tests/validate/tiny.h"

enum { TOKENS = 17, VOCAB = 61 };

/* A Llama of width 64: two layers, no biases. */
#define LLAMA(norm)                                                                                         \
    "{\"model_type\":\"llama\",\"vocab_size\":61,\"hidden_size\":64,\"num_hidden_layers\":2,"                   \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":96,\"hidden_act\":\"silu\","     \
    "\"rms_norm_eps\":" norm ",\"rope_theta\":10000.0,\"max_position_embeddings\":512,"                         \
    "\"tie_word_embeddings\":false,\"torch_dtype\":\"float32\"}"
#define RWKV(type, more)                                                                                        \
    "{\"model_type\":\"" type "\",\"vocab_size\":61,\"hidden_size\":64,\"num_hidden_layers\":2,"                \
    "\"tie_word_embeddings\":false,\"torch_dtype\":\"float32\"," more "}"

static struct eng *open_eng(const struct kvp_model *m, const char *technique, struct eng_options o, const char *backend)
{
    struct kvp_error err = {0};
    struct kvp_stack s = {0};
    struct eng *g = NULL;

    if (technique)
        must(kvp_stack_add(&s, technique, &err));
    must(kb_find(&o.backend, backend, &err));
    o.device.threads = 1;
    o.batch = o.batch ? o.batch : 1;
    o.seed = 11;
    must(eng_open(&g, m, &s, &o, &err));
    return g;
}

static void parse(struct kvp_model *m, const char *config)
{
    struct kvp_error err = {0};

    must(kvp_model_parse(m, config, strlen(config), "llama", &err));
}

/* docs/techniques/recurrent.md, D 64, two layers, three sequences; b of the weights:
 * rwkv4 2 D b + 3 D 4; rwkv5..7 2 D b + D 64 4; mamba E = 128: 3 E b + 16 E 4; mamba2 3 (E + 256) b + 128 E 4. */
static const struct {
    const char *technique;
    uint64_t window, matrix; /* values of a layer and sequence */
} states[] = {
    {"recurrent:rwkv4", 128, 192},  {"recurrent:rwkv5", 128, 4096}, {"recurrent:rwkv6", 128, 4096}, {"recurrent:rwkv7", 128, 4096},
    {"recurrent", 128, 4096},       {"recurrent:mamba", 384, 2048}, {"recurrent:mamba2", 1152, 16384},
};

START_TEST(bytes_are_the_pages)
{
    static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};
    static const uint64_t size[] = {4, 2, 2};
    const int32_t ids[3 * TOKENS] = {0};
    struct kvp_error err = {0};
    struct kvp_model m;

    parse(&m, LLAMA("1e-5"));
    for (int f = 0; f < 3; f++) {
        struct eng *g = open_eng(&m, states[_i].technique, (struct eng_options){.batch = 3, .prompt = TOKENS, .generate = 1, .weights = formats[f],
                                                                               .kv = formats[f]}, "cpu");
        const struct ledger *l = eng_ledger(g);

        must(eng_prefill(g, ids, NULL, NULL, &err));
        must(eng_decode(g, ids, NULL, &err));
        ck_assert_uint_eq(l->now[LED_STATE], 2 * 3 * (states[_i].window * size[f] + states[_i].matrix * 4));
        ck_assert_uint_eq(l->peak[LED_STATE], l->now[LED_STATE]);
        ck_assert_uint_eq(l->cache_peak, 0);
        eng_close(g);
    }
    kvp_model_free(&m);
}
END_TEST

/* A context of any length leaves the same state. */
START_TEST(bytes_do_not_grow)
{
    struct kvp_model m;
    uint64_t bytes = 0;

    parse(&m, LLAMA("1e-5"));
    for (uint64_t n = 1; n <= 256; n *= 16) {
        struct eng *g = open_eng(&m, states[_i].technique, (struct eng_options){.prompt = n, .generate = n}, "ref");

        ck_assert(bytes == 0 || eng_ledger(g)->now[LED_STATE] == bytes);
        bytes = eng_ledger(g)->now[LED_STATE];
        eng_close(g);
    }
    kvp_model_free(&m);
}
END_TEST

static void run_text(const struct kvp_model *m, const char *technique, uint64_t prompt, const char *backend, float *logits)
{
    struct eng *g = open_eng(m, technique, (struct eng_options){.prompt = prompt, .generate = TOKENS - prompt}, backend);
    struct kvp_error err = {0};
    int32_t ids[TOKENS];

    tiny_tokens(ids, TOKENS, VOCAB);
    must(eng_prefill(g, ids, logits, NULL, &err));
    for (uint64_t i = prompt; i < TOKENS; i++)
        must(eng_decode(g, &ids[i], logits + i * VOCAB, &err));
    eng_close(g);
}

START_TEST(steps_equal_one_prefill)
{
    static float whole[TOKENS * VOCAB], cut[TOKENS * VOCAB];
    struct kvp_model m;
    double apart;

    parse(&m, LLAMA("1e-5"));
    run_text(&m, states[_i].technique, TOKENS, "ref", whole);
    run_text(&m, states[_i].technique, 3, "cpu", cut);
    apart = far_apart(cut, whole, TOKENS * VOCAB);
    ck_assert_msg(apart < 2e-5, "%s: apart by %g", states[_i].technique, apart);
    kvp_model_free(&m);
}
END_TEST

/* An RWKV of the same width is the model that the technique makes, weight by weight of the same seed. Channel mixes are
 * 4 D, or 3.5 D in whole runs of 32; RWKV-7's ranks at D 64: 2.5 * 8 / 32 rounds to 1 run of 32, 1.7 * 8 / 32 to 0, at
 * least 1, 5 * 8 / 32 to 1. */
static const struct {
    const char *technique, *norm, *config;
} alike[] = {
    {"recurrent:rwkv4", "1e-5", RWKV("rwkv", "\"attention_hidden_size\":64,\"intermediate_size\":256,\"layer_norm_epsilon\":1e-5")},
    {"recurrent:rwkv5", "1e-5", RWKV("rwkv5", "\"head_size\":64,\"intermediate_size\":224,\"layer_norm_epsilon\":1e-5")},
    {"recurrent:rwkv6", "1e-5", RWKV("rwkv6", "\"head_size\":64,\"intermediate_size\":224,\"layer_norm_epsilon\":1e-5")},
    {"recurrent:rwkv7", "1e-5", RWKV("rwkv7", "\"head_dim\":64,\"intermediate_size\":256,\"norm_eps\":1e-5,\"decay_low_rank_dim\":32,"
                                              "\"a_low_rank_dim\":32,\"v_low_rank_dim\":32,\"gate_low_rank_dim\":32")},
};

START_TEST(an_rwkv_is_what_it_makes)
{
    static float ours[TOKENS * VOCAB], theirs[TOKENS * VOCAB];
    struct kvp_model llama, rwkv;

    parse(&llama, LLAMA("1e-5"));
    parse(&rwkv, alike[_i].config);
    run_text(&llama, alike[_i].technique, 5, "cpu", ours);
    run_text(&rwkv, NULL, 5, "cpu", theirs);
    ck_assert_msg(memcmp(ours, theirs, sizeof(ours)) == 0, "%s: apart by %g", alike[_i].technique, far_apart(ours, theirs, TOKENS * VOCAB));
    kvp_model_free(&llama);
    kvp_model_free(&rwkv);
}
END_TEST

/* Parameters of a layer under Mamba, by hand; D 64, E 128. Llama's own: 2 * 64 + 3 * 64 * 96 = 18560.
 * mamba: in 256*64 + conv 5*128 + x (4+32)*128 + dt 128*5 + A 128*16 + D 128 + out 64*128 = 32640
 * mamba2: in (256+256+2)*64 + conv 5*384 + 3*2 + norm 128 + out 64*128 = 43142 */
START_TEST(the_feed_forward_stays_under_mamba)
{
    static const struct {
        const char *technique;
        uint64_t layer;
    } cases[] = {{"recurrent:mamba", 18560 + 32640}, {"recurrent:mamba2", 18560 + 43142}};
    struct kvp_model m;

    parse(&m, LLAMA("1e-5"));
    for (int i = 0; i < 2; i++) {
        struct eng *g = open_eng(&m, cases[i].technique, (struct eng_options){.prompt = 2, .generate = 1}, "ref");

        ck_assert_uint_eq(eng_ledger(g)->now[LED_WEIGHTS], 4 * (2 * 61 * 64 + 64 + 2 * cases[i].layer));
        eng_close(g);
    }
    kvp_model_free(&m);
}
END_TEST

/* The position table of a model with learned positions goes with its attention: any context runs. */
START_TEST(positions_go)
{
    struct kvp_model m;
    struct eng *g;

    tiny_load(&m, 0); /* a GPT-2 of 48 positions */
    g = open_eng(&m, "recurrent:mamba", (struct eng_options){.prompt = 60, .generate = 4}, "cpu");
    ck_assert_uint_gt(eng_ledger(g)->now[LED_STATE], 0);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

static const struct {
    int model; /* of tiny_models */
    const char *technique;
    kvp_err code;
    const char *word;
} refused[] = {
    {0, "recurrent:rwkv7", KVP_EINPUT, "width 24"}, {0, "recurrent:rwkv5", KVP_EINPUT, "heads of 64"},
    {0, "recurrent:mamba2", KVP_EINPUT, "width 24"}, {1, "recurrent:rwkv6", KVP_EINPUT, "width 32"},
};

START_TEST(refusals_name_the_cause)
{
    struct eng_options o = {.batch = 1, .prompt = 4};
    struct kvp_error err = {0}, why = {0};
    struct kvp_stack s = {0};
    struct kvp_model m;
    struct eng *g = NULL;

    tiny_load(&m, refused[_i].model);
    must(kb_find(&o.backend, "ref", &err));
    must(kvp_stack_add(&s, refused[_i].technique, &err));
    ck_assert_int_eq(eng_open(&g, &m, &s, &o, &why), refused[_i].code);
    ck_assert_msg(strstr(why.text, refused[_i].word), "'%s' does not say %s", why.text, refused[_i].word);
    kvp_model_free(&m);
}
END_TEST

/* A model of recurrences has nothing to replace. */
START_TEST(nothing_attends)
{
    struct eng_options o = {.batch = 1, .prompt = 4};
    struct kvp_error err = {0}, why = {0};
    struct kvp_stack s = {0};
    struct kvp_model m;
    struct eng *g = NULL;

    parse(&m, alike[0].config);
    must(kb_find(&o.backend, "ref", &err));
    must(kvp_stack_add(&s, "recurrent:mamba", &err));
    ck_assert_int_eq(eng_open(&g, &m, &s, &o, &why), KVP_ENOTSUP);
    ck_assert_ptr_nonnull(strstr(why.text, "no layer that attends"));
    kvp_model_free(&m);
}
END_TEST

#define COUNT(a) (int)(sizeof(a) / sizeof((a)[0]))

int main(void)
{
    Suite *s = suite_create("recurrent");
    TCase *t = tcase_create("recurrent");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, bytes_are_the_pages, 0, COUNT(states));
    tcase_add_loop_test(t, bytes_do_not_grow, 0, COUNT(states));
    tcase_add_loop_test(t, steps_equal_one_prefill, 0, COUNT(states));
    tcase_add_loop_test(t, an_rwkv_is_what_it_makes, 0, COUNT(alike));
    tcase_add_test(t, the_feed_forward_stays_under_mamba);
    tcase_add_test(t, positions_go);
    tcase_add_loop_test(t, refusals_name_the_cause, 0, COUNT(refused));
    tcase_add_test(t, nothing_attends);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
