/* encdec.c - models with an encoder: bytes by hand, sequences apart, cut prompts, poison, refusals. Their numbers are held to
 * the public implementation in golden.c. */
#include "tests/validate/tiny.h"

#include "validate/caches/pool.h"

enum { BATCH = 3, SOURCE = 9, TEXT = 40, MOST = 3 * 48 };

static const char *const backends[] = {"ref", "cpu"};

static const struct {
    const char *name, *config;
    uint32_t layers, heads, dim; /* of the decoder */
} models[] = {
    {"bart", "{\"model_type\":\"bart\",\"vocab_size\":61,\"d_model\":24,\"encoder_layers\":2,\"decoder_layers\":3,"
             "\"encoder_attention_heads\":2,\"decoder_attention_heads\":3,\"encoder_ffn_dim\":40,\"decoder_ffn_dim\":20,"
             "\"max_position_embeddings\":48,\"is_encoder_decoder\":true,\"activation_function\":\"gelu\","
             "\"tie_word_embeddings\":true,\"torch_dtype\":\"float32\"}", 3, 3, 8},
};
enum { MODELS = sizeof(models) / sizeof(models[0]) };

static void load(struct kvp_model *m, int i)
{
    struct kvp_error err = {0};

    must(kvp_model_parse(m, models[i].config, strlen(models[i].config), models[i].name, &err));
}

static struct eng *open_as(const struct kvp_model *m, const char *stack, struct eng_options o, const char *backend)
{
    struct kvp_stack s = {0};
    struct kvp_error err = {0};
    struct eng *g = NULL;

    o.device.threads = 2;
    o.seed = 3;
    if (*stack)
        must(kvp_stack_add(&s, stack, &err));
    must(kb_find(&o.backend, backend, &err));
    must(eng_open(&g, m, &s, &o, &err));
    return g;
}

/* ---- bytes ------------------------------------------------------------------------------------------------ */

static const struct {
    uint64_t batch, source, prompt, generate;
    enum kvp_format kv;
} sizes[] = {{1, 1, 1, 0, KVP_F32}, {1, 48, 5, 0, KVP_F16}, {2, 7, 10, 6, KVP_BF16}, {3, 30, 2, 9, KVP_F32}};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

/* 2 * layers * batch * (source + text) * heads * dim * b, all of it from the first step on */
START_TEST(bytes)
{
    const uint64_t T = sizes[_i].prompt + sizes[_i].generate, b = sizes[_i].kv == KVP_F32 ? 4 : 2;
    const struct eng_options o = {.batch = sizes[_i].batch, .prompt = sizes[_i].prompt, .generate = sizes[_i].generate,
                                  .encoder_tokens = sizes[_i].source, .kv = sizes[_i].kv};
    struct kvp_error err = {0};
    int32_t ids[MOST];

    tiny_tokens(ids, MOST, 61);
    for (int i = 0; i < MODELS; i++) {
        struct kvp_model m;
        struct eng *g;
        uint64_t want = 2ull * models[i].layers * sizes[_i].batch * (sizes[_i].source + T) * models[i].heads * models[i].dim * b;

        load(&m, i);
        g = open_as(&m, "", o, "cpu");
        must(eng_source(g, ids, &err));
        must(eng_prefill(g, ids, NULL, NULL, &err));
        for (uint64_t t = 0; t < sizes[_i].generate; t++)
            must(eng_decode(g, ids, NULL, &err));
        ck_assert_uint_eq(eng_ledger(g)->now[LED_CACHE], want);
        ck_assert_uint_eq(eng_ledger(g)->cache_peak, want);
        ck_assert_uint_eq(eng_ledger(g)->now[LED_METADATA], 0);
        eng_close(g);
        kvp_model_free(&m);
    }
}
END_TEST

/* ---- the same numbers --------------------------------------------------------------------------------------- */

/* Logits of every token, [batch, TEXT, 61]: `prompt` at once, the rest step by step. */
static void run(const struct kvp_model *m, const char *stack, const char *backend, uint64_t batch, uint64_t prompt, const int32_t *source,
                const int32_t *ids, float *out)
{
    const struct eng_options o = {.batch = batch, .prompt = prompt, .generate = TEXT - prompt, .encoder_tokens = SOURCE, .all_logits = true};
    struct eng *g = open_as(m, stack, o, backend);
    struct kvp_error err = {0};
    static float first[BATCH * TEXT * 61], row[BATCH * 61];
    int32_t prompts[BATCH * TEXT], step[BATCH];

    for (uint64_t b = 0; b < batch; b++)
        memcpy(prompts + b * prompt, ids + b * TEXT, prompt * sizeof(*ids));
    must(eng_source(g, source, &err));
    must(eng_prefill(g, prompts, first, NULL, &err));
    for (uint64_t b = 0; b < batch; b++)
        memcpy(out + b * TEXT * 61, first + b * prompt * 61, prompt * 61 * sizeof(*out));
    for (uint64_t t = prompt; t < TEXT; t++) {
        for (uint64_t b = 0; b < batch; b++)
            step[b] = ids[b * TEXT + t];
        must(eng_decode(g, step, row, &err));
        for (uint64_t b = 0; b < batch; b++)
            memcpy(out + (b * TEXT + t) * 61, row + b * 61, 61 * sizeof(*out));
    }
    eng_close(g);
}

/* Each sequence reads its own source, however the prompts are cut and however many go side by side. */
START_TEST(sequences_are_their_own)
{
    static const struct {
        const char *stack;
        uint64_t prompt;
    } ways[] = {{"", TEXT}, {"", 1}, {"", 6}, {"chunked-prefill:16", 37}, {"continuous-batching:40", 37},
                {"continuous-batching:80", 37}, {"paged:4", 7}, {"growing", 7}, {"window:40", 5}};
    static float alone[BATCH * TEXT * 61], together[BATCH * TEXT * 61];
    int32_t source[BATCH * SOURCE], ids[BATCH * TEXT];
    struct kvp_model m;

    tiny_tokens(source, BATCH * SOURCE, 61);
    tiny_tokens(ids, BATCH * TEXT, 59);
    load(&m, _i / 2);
    for (uint64_t b = 0; b < BATCH; b++)
        run(&m, "", "ref", 1, TEXT, source + b * SOURCE, ids + b * TEXT, alone + b * TEXT * 61);
    for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
        run(&m, ways[w].stack, backends[_i % 2], BATCH, ways[w].prompt, source, ids, together);
        for (uint64_t b = 0; b < BATCH; b++) {
            const double apart = far_apart(together + b * TEXT * 61, alone + b * TEXT * 61, TEXT * 61);

            ck_assert_msg(apart < 2e-5, "%s on %s, '%s', prompt %d: sequence %d is off by %g", models[_i / 2].name, backends[_i % 2],
                          ways[w].stack, (int)ways[w].prompt, (int)b, apart);
        }
    }
    kvp_model_free(&m);
}
END_TEST

/* Another source, another answer; and the second prefill leaves nothing of the first. */
START_TEST(the_source_is_read)
{
    const struct eng_options o = {.batch = 1, .prompt = TEXT, .encoder_tokens = SOURCE};
    static float one[61], other[61], again[61];
    int32_t source[SOURCE], ids[TEXT];
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g;

    load(&m, _i);
    g = open_as(&m, "", o, "cpu");
    tiny_tokens(source, SOURCE, 61);
    tiny_tokens(ids, TEXT, 61);
    must(eng_source(g, source, &err));
    must(eng_prefill(g, ids, NULL, one, &err));
    source[SOURCE / 2] = (source[SOURCE / 2] + 1) % 61;
    must(eng_source(g, source, &err));
    must(eng_prefill(g, ids, NULL, other, &err));
    source[SOURCE / 2] = (source[SOURCE / 2] + 60) % 61;
    must(eng_source(g, source, &err));
    must(eng_prefill(g, ids, NULL, again, &err));
    ck_assert(far_apart(one, other, 61) > 1e-3);
    ck_assert_mem_eq(one, again, sizeof(one));
    ck_assert_uint_eq(eng_op_times(g, ENG_PREFILL)[KVP_OP_ENCODE].calls > 0, 1);
    ck_assert_uint_eq(eng_op_times(g, ENG_PREFILL)[KVP_OP_CROSS_ATTN].calls, models[_i].layers);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* ---- poison ------------------------------------------------------------------------------------------------- */

/* A stored key of the source is read by its own sequence and by no other. */
START_TEST(poisoned_sources)
{
    const struct eng_options o = {.batch = 2, .prompt = 5, .generate = 2, .encoder_tokens = SOURCE, .kv = _i % 2 ? KVP_F16 : KVP_F32};
    static const uint64_t tokens[] = {0, 4, SOURCE - 1};
    static float logits[2 * 61];
    int32_t ids[2 * SOURCE];
    struct kvp_error err = {0};
    struct kvp_model m;

    load(&m, _i / 2);
    tiny_tokens(ids, 2 * SOURCE, 61);
    for (uint32_t layer = 0; layer < m.layers; layer++)
        for (size_t k = 0; k < sizeof(tokens) / sizeof(tokens[0]); k++) {
            struct eng *g = open_as(&m, "", o, "cpu");

            must(eng_source(g, ids, &err));
            must(eng_prefill(g, ids, NULL, logits, &err));
            ck_assert(isfinite(logits[0]));
            must(eng_poison_source(g, layer, tokens[k], &err));
            must(eng_decode(g, ids, logits, &err));
            ck_assert_msg(isnan(logits[0]), "layer %u: key %d of the source is not read", layer, (int)tokens[k]);
            for (int i = 61; i < 2 * 61; i++)
                ck_assert(isfinite(logits[i]));
            must(eng_prefill(g, ids, NULL, logits, &err)); /* written anew */
            for (int i = 0; i < 2 * 61; i++)
                ck_assert(isfinite(logits[i]));
            eng_close(g);
        }
    kvp_model_free(&m);
}
END_TEST

/* ---- refusals ------------------------------------------------------------------------------------------------ */

static void refused(const struct kvp_model *m, const char *stack, struct eng_options o, kvp_err rc, const char *words)
{
    struct kvp_stack s = {0};
    struct kvp_error err = {0}, why = {0};
    struct eng *g = NULL;

    if (*stack)
        must(kvp_stack_add(&s, stack, &err));
    must(kb_find(&o.backend, "ref", &err));
    ck_assert_int_eq(eng_open(&g, m, &s, &o, &why), rc);
    ck_assert_msg(strstr(why.text, words) != NULL, "'%s', expected '%s'", why.text, words);
    ck_assert_ptr_null(g);
}

START_TEST(refusals)
{
    const struct eng_options o = {.batch = 2, .prompt = 4, .encoder_tokens = 3};
    struct kvp_error none = {0}, range = {0}, no_encoder = {0};
    struct eng_options with;
    int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct kvp_model m, gpt2;
    struct eng *g;

    load(&m, 0);
    with = o;
    with.encoder_tokens = 0;
    refused(&m, "", with, KVP_EINPUT, "the encoder needs tokens");
    with.encoder_tokens = 49;
    refused(&m, "", with, KVP_EINPUT, "49 encoder tokens, but its table of learned positions has 48 rows");
    refused(&m, "prefix:3,granularity=token", o, KVP_ENOTSUP, "share nothing unless they have the same source");
    refused(&m, "cla:3", o, KVP_ENOTSUP, "does not run layers of this kind with an encoder yet");
    refused(&m, "w:int8", o, KVP_ENOTSUP, "codes the weights of attention and dense feed-forwards only");
    with = o;
    with.pool = &(struct pool_shape){.blocks = 4, .block = 4, .seqs = 1, .rows = 4};
    refused(&m, "", with, KVP_ENOTSUP, "does not serve models with an encoder");
    g = open_as(&m, "", o, "cpu");
    ck_assert_int_eq(eng_prefill(g, ids, NULL, NULL, &none), KVP_EINPUT);
    ck_assert_msg(strstr(none.text, "needs the encoder's tokens first") != NULL, "%s", none.text);
    ids[5] = 61;
    ck_assert_int_eq(eng_source(g, ids, &range), KVP_EINPUT);
    ck_assert_msg(strstr(range.text, "source token 5 is 61") != NULL, "%s", range.text);
    eng_close(g);
    tiny_load(&gpt2, 0);
    g = open_as(&gpt2, "", (struct eng_options){.batch = 1, .prompt = 4}, "cpu");
    ck_assert_int_eq(eng_source(g, ids, &no_encoder), KVP_EINPUT);
    ck_assert_msg(strstr(no_encoder.text, "has no encoder") != NULL, "%s", no_encoder.text);
    eng_close(g);
    kvp_model_free(&gpt2);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("encdec");
    TCase *t = tcase_create("encdec");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, bytes, 0, SIZES);
    tcase_add_loop_test(t, sequences_are_their_own, 0, MODELS * 2);
    tcase_add_loop_test(t, the_source_is_read, 0, MODELS);
    tcase_add_loop_test(t, poisoned_sources, 0, MODELS * 2);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
