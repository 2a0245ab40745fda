/* serve.c - traces as they are written elsewhere, and schedules worked by hand */
#include <kvproof/kvproof.h>

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void parse(struct kvp_trace *t, const char *text, uint64_t limit)
{
    struct kvp_error e = {0};

    ck_assert_msg(kvp_trace_parse(t, text, strlen(text), "t", limit, &e) == KVP_OK, "%s", e.text);
}

/* ---- reading ------------------------------------------------------------------------------------ */

START_TEST(mooncake)
{
    struct kvp_trace t;

    parse(&t, "{\"timestamp\": 27482, \"input_length\": 1030, \"output_length\": 52, \"hash_ids\": [46, 47, 2366]}\n\n"
              "{\"timestamp\": 30535, \"input_length\": 6, \"output_length\": 0, \"hash_ids\": [46]}\n", 0);
    ck_assert_uint_eq(t.n, 2);
    ck_assert_double_eq_tol(t.request[1].arrival, 3.053, 1e-9);
    ck_assert_double_eq(t.request[0].arrival, 0);
    ck_assert_uint_eq(t.request[0].output, 52);
    ck_assert_uint_eq(t.request[1].output, 1); /* a prompt's logits are an answer */
    ck_assert_uint_eq(t.request[0].pieces, 3);
    ck_assert_uint_eq(t.piece[0].id, 46);
    ck_assert_uint_eq(t.piece[0].tokens, 512);
    ck_assert_uint_eq(t.piece[2].tokens, 6);
    ck_assert_uint_eq(t.piece[3].id, 46);
    ck_assert_uint_eq(t.piece[3].tokens, 6);
    kvp_trace_free(&t);
}
END_TEST

START_TEST(azure)
{
    struct kvp_trace t;

    parse(&t, "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,4808,10\r\n"
              "2023-11-16 18:17:04.0319600,3180,8\r\n2023-11-17 18:17:03.9799600+00:00,\"7\",1\r\n", 0);
    ck_assert_uint_eq(t.n, 3);
    ck_assert_double_eq_tol(t.request[1].arrival, 0.052, 1e-6);
    ck_assert_double_eq_tol(t.request[2].arrival, 86400, 1e-6);
    ck_assert_uint_eq(t.request[0].prompt, 4808);
    ck_assert_uint_eq(t.request[2].prompt, 7);
    ck_assert_uint_ne(t.piece[0].id, t.piece[1].id); /* nothing in common */
    kvp_trace_free(&t);
    parse(&t, "x,GeneratedTokens,ContextTokens,TIMESTAMP\na,3,4,2.5\nb,5,6,1.5\n", 0);
    ck_assert_uint_eq(t.request[0].prompt, 6); /* in order of arrival */
    ck_assert_double_eq(t.request[1].arrival, 1);
    kvp_trace_free(&t);
}
END_TEST

START_TEST(ours)
{
    struct kvp_trace t, again;
    struct kvp_error e = {0};
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);

    parse(&t, "{\"arrival\":5,\"prompt\":30,\"output\":4,\"prefix\":20,\"prefix_id\":3}\n"
              "{\"arrival\":5,\"prompt\":30,\"output\":4}\n"
              "{\"arrival\":6,\"prompt\":20,\"output\":2,\"hash_block\":8,\"hash_ids\":[1,2]}\n"
              "{\"arrival\":9,\"prompt\":20,\"output\":2}\n", 3);
    ck_assert_uint_eq(t.n, 3);
    ck_assert_uint_eq(t.request[0].pieces, 2);
    ck_assert_uint_eq(t.piece[t.request[0].first].tokens, 20);
    ck_assert_uint_eq(t.request[2].pieces, 3); /* 8, 8 and 4 of its own */
    ck_assert_int_eq(kvp_trace_write(f, &t, &e), KVP_OK);
    fclose(f);
    parse(&again, text, 0);
    ck_assert_uint_eq(again.n, t.n);
    ck_assert_uint_eq(again.n_pieces, t.n_pieces);
    ck_assert_mem_eq(again.piece, t.piece, t.n_pieces * sizeof(*t.piece));
    kvp_trace_free(&t);
    kvp_trace_free(&again);
    free(text);
}
END_TEST

static const struct {
    const char *text, *word;
} bad[] = {
    {"", "no requests"},
    {"\n \n", "no requests"},
    {"TIMESTAMP,ContextTokens\n1,2\n", "GeneratedTokens"},
    {"TIMESTAMP,ContextTokens,GeneratedTokens\nnever,2,3\n", "t:2: TIMESTAMP"},
    {"TIMESTAMP,ContextTokens,GeneratedTokens\n1,-2,3\n", "ContextTokens is no integer"},
    {"TIMESTAMP,ContextTokens,GeneratedTokens\n1,0,3\n", "ContextTokens is 0"},
    {"TIMESTAMP,ContextTokens,GeneratedTokens\n1,2\n", "GeneratedTokens"},
    {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-16 18:17:03,2,3\n", "TIMESTAMP"},
    {"{\"arrival\":0,\"prompt\":1,\"output\":1}\nx\n", "t:2: expected a JSON object"},
    {"{\"arrival\":0,\"prompt\":1}", "output"},
    {"{\"arrival\":0,\"output\":1}", "prompt"},
    {"{\"prompt\":1,\"output\":1}", "arrival"},
    {"{\"arrival\":\"0\",\"prompt\":1,\"output\":1}", "arrival"},
    {"{\"arrival\":0,\"prompt\":1.5,\"output\":1}", "prompt"},
    {"{\"arrival\":0,\"prompt\":0,\"output\":1}", "prompt is 0"},
    {"{\"arrival\":0,\"prompt\":2000000000000,\"output\":1}", "prompt"},
    {"{\"arrival\":0,\"prompt\":4,\"output\":1,\"prefix\":5}", "prefix is 5"},
    {"{\"arrival\":0,\"prompt\":4,\"output\":1,\"prefix\":2,\"hash_ids\":[1]}", "both"},
    {"{\"arrival\":0,\"prompt\":512,\"output\":1,\"hash_ids\":[1,2]}", "hash_ids has 2"},
    {"{\"arrival\":0,\"prompt\":512,\"output\":1,\"hash_ids\":[-1]}", "hash_ids[0]"},
    {"{\"arrival\":0,\"prompt\":512,\"output\":1,\"hash_ids\":7}", "hash_ids is no list"},
    {"{\"arrival\":0,\"prompt\":4,\"output\":1,\"hash_block\":0,\"hash_ids\":[1]}", "hash_block"},
};

START_TEST(refused)
{
    struct kvp_error e = {0};
    struct kvp_trace t;

    ck_assert_int_eq(kvp_trace_parse(&t, bad[_i].text, strlen(bad[_i].text), "t", 0, &e), KVP_EINPUT);
    ck_assert_msg(strstr(e.text, bad[_i].word), "'%s' does not say %s", e.text, bad[_i].word);
    ck_assert_ptr_null(t.request);
}
END_TEST

/* ---- generating --------------------------------------------------------------------------------- */

/* 4000 requests: means and shares within five standard deviations of what the laws say. */
START_TEST(generated)
{
    struct kvp_error e = {0};
    struct kvp_trace t;
    double prompt = 0, output = 0, counts[3] = {0}, harmonic = 1 + 0.25 + 1.0 / 9;
    const double n = 4000;

    ck_assert_int_eq(kvp_trace_generate(&t, "requests=4000,rate=8,prompt=50,output=20,prefixes=3,prefix=16,zipf=2", 5, &e), KVP_OK);
    ck_assert_uint_eq(t.n, 4000);
    for (uint64_t i = 0; i < t.n; i++) {
        const struct kvp_piece *p = &t.piece[t.request[i].first];

        ck_assert_uint_eq(p->tokens, 16);
        ck_assert_uint_lt(p->id & 0xff, 3);
        counts[p->id & 0xff]++;
        prompt += (double)t.request[i].prompt;
        output += (double)t.request[i].output;
        ck_assert(!i || t.request[i].arrival >= t.request[i - 1].arrival);
    }
    ck_assert_double_eq_tol(prompt / n, 66, 5 * sqrt(49 / n));
    ck_assert_double_eq_tol(output / n, 20, 5 * sqrt(19 / n));
    ck_assert_double_eq_tol(t.request[t.n - 1].arrival / n, 1.0 / 8, 5 / 8.0 / sqrt(n));
    for (int k = 0; k < 3; k++)
        ck_assert_double_eq_tol(counts[k] / n, 1 / ((k + 1.0) * (k + 1)) / harmonic, 5 * sqrt(0.25 / n));
    kvp_trace_free(&t);
    ck_assert_int_eq(kvp_trace_generate(&t, "requests=0", 5, &e), KVP_EINPUT);
    e = (struct kvp_error){0};
    ck_assert_int_eq(kvp_trace_generate(&t, "speed=3", 5, &e), KVP_EINPUT);
    ck_assert_ptr_nonnull(strstr(e.text, "speed"));
    e = (struct kvp_error){0};
    ck_assert_int_eq(kvp_trace_generate(&t, "prompt=2.5", 5, &e), KVP_EINPUT);
    e = (struct kvp_error){0};
    ck_assert_int_eq(kvp_trace_generate(&t, "prompt", 5, &e), KVP_EINPUT);
}
END_TEST

/* ---- schedules by hand -------------------------------------------------------------------------- */

static const char config[] = "{\"model_type\":\"llama\",\"vocab_size\":61,\"hidden_size\":32,\"num_hidden_layers\":3,"
                             "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":40,\"hidden_act\":\"silu\","
                             "\"rms_norm_eps\":1e-5,\"max_position_embeddings\":8192,\"torch_dtype\":\"float32\"}";

/* Two requests at once, blocks of 8, a pool of 4. A: 8 tokens and 3 answers; B: 16 and 2.
 *   step 1  A 8 tokens in 1 block, B 16 in 2: 3 held, none empty; A and B have an answer
 *   step 2  A's ninth token takes the last block; B's seventeenth finds none: B, let in last, gives up. 2 held, 7 empty
 *   step 3  A's tenth: 2 held, 6 empty. B would need 3 of the 2 that are free. A has all its answers
 *   step 4  B again: 17 tokens in 3 blocks, 7 empty; its second answer
 * 24 + 1 + 1 + 17 rows. With a prefix cache B's two whole blocks are still there in step 4: 16 hit, 1 row. */
#define AB "{\"arrival\":0,\"prompt\":8,\"output\":3}\n{\"arrival\":0,\"prompt\":16,\"output\":2}\n"
/* The same prompt twice, the second when the first is done. */
#define TWICE(n, ids) "{\"arrival\":0,\"prompt\":" #n ",\"output\":1,\"hash_ids\":" ids "}\n{\"arrival\":9,\"prompt\":" #n ",\"output\":1,\"hash_ids\":" ids "}\n"

static const struct {
    const char *trace, *stack;
    uint64_t blocks, steps, hit, computed, output, preemptions, evictions, peak, held, empty;
} schedules[] = {
    {AB, "paged:8 continuous-batching:64", 4, 4, 0, 43, 5, 1, 0, 3, 10, 20},
    {AB, "paged:8 prefix continuous-batching:64", 4, 4, 16, 27, 5, 1, 0, 3, 10, 20},
    /* One at a time: A's 3 steps, then B's 2. Blocks 1, 2, 2, 2, 3; empty 0, 7, 6, 0, 7. */
    {AB, "paged:8 continuous-batching:64,max_num_seqs=1", 4, 5, 0, 27, 5, 0, 0, 3, 10, 20},
    /* A step of 17: A's 8 leave no room for B's 16, its ninth does: 4 held, 7 empty. B gives up in step 3 (2, 6), and is
     * computed again in step 4 (3, 7). 8 + 17 + 1 + 17 rows. */
    {AB, "paged:8 continuous-batching:17", 4, 4, 0, 43, 5, 1, 0, 4, 10, 20},
    /* Chunks of 16, steps of 17: A 8 and 9 of B in 1 + 2 blocks (7 empty); A 1 and B 7 (7): 2 + 2; A 1 needs none, B 1 a
     * third, which is not there: B again, in step 4 with 16 of 17, and step 5. Held 3, 4, 2, 2, 3; empty 7, 7, 6, 0, 7. */
    {AB, "paged:8 continuous-batching:17 chunked-prefill:16", 4, 5, 0, 43, 5, 1, 0, 4, 14, 27},
    /* The last token is computed again: techniques.md's 1008 of 1024, 992 of 1000. */
    {TWICE(1024, "[1,2]"), "paged prefix continuous-batching:2048", 100, 2, 1008, 1040, 2, 0, 0, 64, 128, 0},
    {TWICE(1000, "[1,2]"), "paged prefix continuous-batching:2048", 100, 2, 992, 1008, 2, 0, 0, 63, 126, 16},
    {TWICE(1024, "[1,2]"), "paged continuous-batching:2048", 100, 2, 0, 2048, 2, 0, 0, 64, 128, 0},
    /* A pool of just one prompt: its last block is taken for the new one's last, nothing else is given up. */
    {TWICE(1024, "[1,2]"), "paged prefix continuous-batching:2048", 64, 2, 1008, 1040, 2, 0, 1, 64, 128, 0},
    /* In the same step: the second finds what the first is about to store. */
    {"{\"arrival\":0,\"prompt\":40,\"output\":1,\"prefix\":40}\n{\"arrival\":0,\"prompt\":40,\"output\":1,\"prefix\":40}\n",
     "paged:8 prefix continuous-batching:64", 10, 1, 32, 48, 2, 0, 0, 6, 6, 0},
    /* Arrivals 0 and 9 with steps of 1 s: nothing runs in between, and no step is counted. */
    {"{\"arrival\":0,\"prompt\":1,\"output\":2}\n{\"arrival\":9,\"prompt\":1,\"output\":1}\n", "paged:8 continuous-batching:8", 1, 3, 0, 3, 3,
     0, 0, 1, 3, 20},
};

START_TEST(schedule)
{
    struct kvp_serving s;
    struct kvp_error e = {0};
    struct kvp_stack stack = {0};
    struct kvp_model m;
    struct kvp_trace t;
    char copy[128], *save = NULL;
    const uint64_t block = strstr(schedules[_i].stack, "paged:8") ? 8 : 16;

    ck_assert_int_eq(kvp_model_parse(&m, config, strlen(config), "tiny", &e), KVP_OK);
    parse(&t, schedules[_i].trace, 0);
    strcpy(copy, schedules[_i].stack);
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
        ck_assert_msg(kvp_stack_add(&stack, w, &e) == KVP_OK, "%s", e.text);
    ck_assert_msg(kvp_serve_predict(&s, &m, &stack, &t, &(struct kvp_serve_options){schedules[_i].blocks, 1}, &(struct kvp_options){0}, NULL,
                                    &e) == KVP_OK, "%s", e.text);
    ck_assert_uint_eq(s.steps, schedules[_i].steps);
    ck_assert_uint_eq(s.hit_tokens, schedules[_i].hit);
    ck_assert_uint_eq(s.computed_tokens, schedules[_i].computed);
    ck_assert_uint_eq(s.output_tokens, schedules[_i].output);
    ck_assert_uint_eq(s.preemptions, schedules[_i].preemptions);
    ck_assert_uint_eq(s.evictions, schedules[_i].evictions);
    ck_assert_uint_eq(s.peak_blocks, schedules[_i].peak);
    ck_assert_uint_eq(s.block_steps, schedules[_i].held);
    ck_assert_uint_eq(s.empty_slot_steps, schedules[_i].empty);
    ck_assert_uint_eq(s.pool_bytes, schedules[_i].blocks * block * 2 * 3 * 2 * 8 * 4); /* k and v, layers, heads of 8, f32 */
    ck_assert(isnan(s.seconds));
    kvp_trace_free(&t);
    kvp_model_free(&m);
}
END_TEST

/* Twice the bandwidth and FLOPs, half the time; a call costs what it costs. */
START_TEST(seconds)
{
    struct kvp_device d = {.bandwidth = 1e9, .flops_f32 = 1e10, .flops_f16 = 1e10};
    struct kvp_serving a, b, c;
    struct kvp_error e = {0};
    struct kvp_stack stack = {0};
    struct kvp_model m;
    struct kvp_trace t;
    const struct kvp_serve_options so = {4, 1};
    const struct kvp_options o = {0};

    ck_assert_int_eq(kvp_model_parse(&m, config, strlen(config), "tiny", &e), KVP_OK);
    parse(&t, AB, 0);
    ck_assert_int_eq(kvp_stack_add(&stack, "paged:8", &e), KVP_OK);
    ck_assert_int_eq(kvp_stack_add(&stack, "continuous-batching:64", &e), KVP_OK);
    ck_assert_int_eq(kvp_serve_predict(&a, &m, &stack, &t, &so, &o, &d, &e), KVP_OK);
    d.launch_s = 1e-3;
    ck_assert_int_eq(kvp_serve_predict(&c, &m, &stack, &t, &so, &o, &d, &e), KVP_OK);
    d = (struct kvp_device){.bandwidth = 2e9, .flops_f32 = 2e10, .flops_f16 = 2e10};
    ck_assert_int_eq(kvp_serve_predict(&b, &m, &stack, &t, &so, &o, &d, &e), KVP_OK);
    ck_assert_double_eq_tol(b.seconds, a.seconds / 2, 1e-12);
    ck_assert_double_gt(a.seconds, 4 * (double)a.weights_bytes / 1e9); /* every pass reads all weights */
    ck_assert_double_gt(c.seconds, a.seconds + 4 * 3 * 10e-3); /* and makes ten calls a layer */
    kvp_trace_free(&t);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("serve");
    TCase *t = tcase_create("serve");
    SRunner *r;
    int failed;

    tcase_add_test(t, mooncake);
    tcase_add_test(t, azure);
    tcase_add_test(t, ours);
    tcase_add_loop_test(t, refused, 0, (int)COUNT(bad));
    tcase_add_test(t, generated);
    tcase_add_loop_test(t, schedule, 0, (int)COUNT(schedules));
    tcase_add_test(t, seconds);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
