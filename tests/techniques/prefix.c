/* prefix.c - rows that sequences share: the same logits, fewer bytes, and everybody reads them */
#include "tests/techniques/passes.h"

static const struct passes_pair same[] = {
    {{"prefix:32", 3, 37, 3, 32}, "", true},
    {{"prefix:20", 3, 37, 3, 20}, "", true}, /* a hit of 16 */
    {{"prefix", 3, 37, 3, 37}, "", true},
    {{"prefix:37,granularity=token", 2, 37, 3, 37}, "", true}, /* all but the last token */
    {{"prefix:15", 2, 37, 3, 15}, "", true}, /* no whole block */
    {{"prefix:7,granularity=token", 4, 9, 3, 7}, "", true},
    {{"prefix:32 paged:4", 3, 37, 3, 32}, "", true},
    {{"prefix:36,block=12 paged:4", 3, 37, 3, 36}, "", true},
    {{"prefix:31 paged:16", 2, 33, 3, 31}, "", true},
    {{"prefix:32 chunked-prefill:16", 3, 37, 3, 32}, "", true},
    {{"prefix:32 continuous-batching:40 chunked-prefill:16 paged:4", 5, 37, 2, 32}, "", true},
    {{"prefix:32", 1, 37, 3, 0}, "", false}, /* nobody to share with */
    /* Whoever comes later reads the prefix as it is stored: as the second of two chunks does. */
    {{"prefix:32 chunked-prefill:32 kv:int8", 3, 37, 3, 32}, "chunked-prefill:32 kv:int8", true},
    {{"prefix:32 chunked-prefill:16 kv:int4,group=8", 3, 37, 3, 32}, "chunked-prefill:16 kv:int4,group=8", true},
    {{"prefix:16 chunked-prefill:16 kv:fp8,scale=token-head paged:4", 3, 37, 3, 16}, "chunked-prefill:16 kv:fp8,scale=token-head", true},
    {{"prefix:35,granularity=token chunked-prefill:35 kv:k=f16,v=int8", 2, 37, 3, 35}, "chunked-prefill:35 kv:k=f16,v=int8", true},
};

PASSES_SAME(sharers_are_alone, same)

/* A state has no rows to share: the others go on from a copy of it that was set aside at the hit, and every sequence of a batch
 * may be in another pass. */
START_TEST(states_go_on)
{
    static const char *const goldens[] = {"mamba", "mamba2", "rwkv4", "rwkv5", "rwkv6", "rwkv7", "nemotron-h", "jamba-dense"};
    static const struct passes_case cases[] = {
        {"prefix:32", 3, 37, 3, 32}, {"prefix:9,granularity=token", 2, 12, 3, 9}, {"prefix:32", 1, 37, 3, 0},
        {"prefix:32 chunked-prefill:16", 3, 37, 3, 32}, {"continuous-batching:40", 3, 37, 3, 0},
        {"prefix:32 continuous-batching:40 chunked-prefill:16", 5, 37, 2, 32},
    };
    struct kvp_error err = {0};
    struct kvp_model m;
    char dir[300];

    snprintf(dir, sizeof(dir), "%s/golden/%s", getenv("KVPROOF_TESTS"), goldens[_i]);
    must(kvp_model_load(&m, dir, &err));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        passes_same(&m, &cases[i], "", "cpu", dir, 2e-5);
    kvp_model_free(&m);
}
END_TEST

START_TEST(one_state_more)
{
    static const struct {
        const char *stack;
        uint64_t batch, states;
    } cases[] = {{"recurrent:mamba", 3, 3}, {"recurrent:mamba prefix:32", 3, 4}, {"recurrent:mamba prefix:32", 1, 1},
                 {"recurrent:mamba prefix:15", 3, 3}}; /* no whole block, no hit */
    uint64_t one = 0;
    struct kvp_model m;

    tiny_load(&m, 1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct passes_case c = {cases[i].stack, cases[i].batch, 37, 3, 32};
        struct kvp_error err = {0};
        struct eng *g;

        must(passes_open(&g, &m, &c, "ref", NULL, &err));
        one = one ? one : eng_ledger(g)->now[LED_STATE] / 3;
        ck_assert(one > 0);
        ck_assert_uint_eq(eng_ledger(g)->now[LED_STATE], cases[i].states * one);
        eng_close(g);
    }
    kvp_model_free(&m);
}
END_TEST

/* llama: a token is 2 * 3 * 16 * 4 = 384 bytes; B * 40 tokens - (B - 1) * hit. In pages of 4: 10 pages a sequence, the
 * shared ones once, and a table of B * 10 numbers. */
START_TEST(bytes)
{
    static const struct {
        struct passes_case c;
        uint64_t tokens, metadata;
    } cases[] = {
        {{"prefix:32", 3, 37, 3, 0}, 120 - 2 * 32, 0},           {{"prefix:31", 3, 37, 3, 0}, 120 - 2 * 16, 0},
        {{"prefix", 3, 33, 7, 0}, 120 - 2 * 32, 0},              {{"prefix", 3, 32, 8, 0}, 120 - 2 * 16, 0},
        {{"prefix:granularity=token", 2, 37, 3, 0}, 80 - 36, 0}, {{"prefix:31 paged:4", 3, 37, 3, 0}, 120 - 2 * 28, 120},
        {{"prefix:31,block=16 paged:4", 3, 37, 3, 0}, 120 - 2 * 16, 120}, {{"prefix:32", 1, 37, 3, 0}, 40, 0},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const uint64_t rows = cases[i].c.batch * cases[i].c.prompt, logits = rows < 64 ? rows : 64;

        passes_bytes(&cases[i].c, 1, 384 * cases[i].tokens, cases[i].metadata, rows * 984 + logits * 244);
    }
}
END_TEST

START_TEST(refusals)
{
    passes_refused(&(struct passes_case){"prefix:38", 2, 37, 3, 0}, 1, KVP_EINPUT, "shared");
    passes_refused(&(struct passes_case){"prefix:32,block=6 paged:4", 2, 37, 3, 0}, 1, KVP_EINPUT, "whole pages");
    passes_refused(&(struct passes_case){"prefix:31,granularity=token paged:4", 2, 37, 3, 0}, 1, KVP_ENOTSUP, "whole pages");
    passes_refused(&(struct passes_case){"prefix:32 contiguous:48", 2, 37, 3, 0}, 1, KVP_ENOTSUP, "share");
    passes_refused(&(struct passes_case){"prefix:32 growing", 2, 37, 3, 0}, 1, KVP_ENOTSUP, "share");
    passes_refused(&(struct passes_case){"prefix:32", 2, 37, 3, 0}, 2, KVP_ENOTSUP, "window");
}
END_TEST

/* Prompts that do not begin alike are told apart. */
START_TEST(different_prompts)
{
    static const struct passes_case c = {"prefix:32", 2, 37, 0, 31};
    struct kvp_error err = {0}, why = {0};
    int32_t ids[2 * 37];
    struct kvp_model m;
    struct eng *g = NULL;

    tiny_load(&m, 1);
    passes_tokens(&c, ids, m.vocab);
    must(passes_open(&g, &m, &c, "ref", NULL, &err));
    ck_assert_int_eq(eng_prefill(g, ids, NULL, NULL, &why), KVP_EINPUT);
    ck_assert_ptr_nonnull(strstr(why.text, "sequence 1"));
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* Sequence 0's row at `pos` turns NaN: within the hit everybody reads it, behind it only its owner. */
START_TEST(poison)
{
    static const char *const stacks[] = {"prefix:32", "prefix:32 paged:4"};
    const struct passes_case c = {stacks[_i / 2], 3, 37, 3, 32};
    const uint64_t pos = _i % 2 ? 31 : 32;
    struct kvp_error err = {0};
    int32_t ids[3 * 40];
    float logits[3 * TINY_VOCAB];
    bool stored = false;
    struct kvp_model m;
    struct eng *g = NULL;

    tiny_load(&m, 1);
    passes_tokens(&c, ids, m.vocab);
    must(passes_open(&g, &m, &c, "cpu", NULL, &err));
    must(eng_prefill(g, ids, NULL, NULL, &err));
    must(eng_poison(g, pos, &stored, &err));
    ck_assert(stored);
    must(eng_decode(g, ids + 3 * 37, logits, &err));
    for (int b = 0; b < 3; b++)
        ck_assert_int_eq(isnan(logits[b * TINY_VOCAB]), b == 0 || _i % 2);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("prefix");
    TCase *t = tcase_create("prefix");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, sharers_are_alone, 0, PASSES_RUNS(same));
    tcase_add_loop_test(t, states_go_on, 0, 8);
    tcase_add_test(t, one_state_more);
    tcase_add_test(t, bytes);
    tcase_add_test(t, refusals);
    tcase_add_test(t, different_prompts);
    tcase_add_loop_test(t, poison, 0, 4);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
