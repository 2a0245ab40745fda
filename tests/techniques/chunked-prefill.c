/* chunked-prefill.c - a prompt in pieces is the prompt: logits, bytes, what it cannot do */
#include "tests/techniques/passes.h"

#include <dirent.h>

static const struct passes_pair same[] = {
    {{"chunked-prefill:16", 1, 37, 3, 0}, "", false},          {{"chunked-prefill:16", 3, 37, 3, 0}, "", false},
    {{"chunked-prefill:16", 2, 16, 2, 0}, "", false},          {{"chunked-prefill:16", 2, 17, 2, 0}, "", false},
    {{"chunked-prefill:16", 2, 15, 2, 0}, "", false},          {{"chunked-prefill:16", 2, 32, 0, 0}, "", false},
    {{"chunked-prefill:36", 2, 37, 3, 0}, "", false},          {{"chunked-prefill:16", 1, 1, 4, 0}, "", false},
    {{"window:9 chunked-prefill:16", 2, 37, 3, 0}, "window:9", false},
    {{"window:20 chunked-prefill:16", 2, 37, 3, 0}, "window:20", false},
    {{"paged:4 chunked-prefill:16", 3, 37, 3, 0}, "", false},
    {{"contiguous:48 chunked-prefill:16", 3, 37, 3, 0}, "", false},
    {{"quest:page=5,budget=11,dense=1 chunked-prefill:16", 2, 37, 3, 0}, "quest:page=5,budget=11,dense=1", true},
    {{"quest:page=4,budget=9,dense=0 chunked-prefill:16 continuous-batching:32 paged:4", 5, 37, 3, 0}, "quest:page=4,budget=9,dense=0", true},
    {{"cla:2 chunked-prefill:16", 2, 37, 3, 0}, "cla:2", true},
};

PASSES_SAME(pieces_are_the_prompt, same)

/* Of a row of the cache that was rounded, an earlier piece is read rounded: half a step of f16 away, and no more. */
START_TEST(half_rows)
{
    static const struct passes_case c = {"kv:f16 chunked-prefill:16", 2, 37, 3, 0};
    struct kvp_model m;

    tiny_load(&m, _i);
    passes_same(&m, &c, "kv:f16", "ref", NULL, 2e-3);
    kvp_model_free(&m);
}
END_TEST

/* Public models with their public weights, recurrent ones too: the pieces' logits are the prompt's. */
START_TEST(goldens)
{
    char dir[512], path[1024];
    struct dirent **names;
    int n, ran = 0;

    snprintf(dir, sizeof(dir), "%s/golden", getenv("KVPROOF_TESTS"));
    n = scandir(dir, &names, NULL, alphasort);
    ck_assert_int_gt(n, 0);
    for (int i = 0; i < n; i++) {
        struct passes_case c = {"chunked-prefill:16", 1, 41, 2, 0};
        struct kvp_error err = {0}, why = {0};
        struct eng *g = NULL;
        struct kvp_model m;

        snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && !strchr(names[i]->d_name, '.') && kvp_model_load(&m, path, &err) == KVP_OK) {
            const kvp_err rc = m.encoders ? KVP_ENOTSUP : passes_open(&g, &m, &c, "ref", path, &why); /* no source: encdec.c */

            eng_close(g);
            ck_assert_msg(rc == KVP_OK || rc == KVP_ENOTSUP, "%s: %s", names[i]->d_name, why.text);
            for (c.batch = 1; rc == KVP_OK && c.batch < 3; c.batch++, ran++)
                passes_same(&m, &c, "", passes_backends[_i], path, 2e-5);
            kvp_model_free(&m);
        }
        free(names[i]);
    }
    free(names);
    ck_assert_int_ge(ran, 12);
}
END_TEST

/* llama: 3 layers, 2 kv heads of 8, width 32, 4 heads, feed-forward 2 * 40, vocabulary 61, all f32. Cache: 2 * 3 * B * 40 *
 * 16 * 4 = 15360 B. A row: x 32, h 32, qkv 64, out 32, lse 4, mlp 80, two ids: 246 * 4 = 984; logits 61 * 4 = 244 each. */
START_TEST(bytes)
{
    passes_bytes(&(struct passes_case){"chunked-prefill:16", 1, 37, 3, 0}, 1, 15360, 0, 16 * 984 + 37 * 244);
    passes_bytes(&(struct passes_case){"chunked-prefill:16", 2, 37, 3, 0}, 1, 30720, 0, 32 * 984 + 64 * 244);
    passes_bytes(&(struct passes_case){"chunked-prefill:64", 2, 37, 3, 0}, 1, 30720, 0, 74 * 984 + 64 * 244);
}
END_TEST

START_TEST(refusals)
{
    passes_refused(&(struct passes_case){"h2o:heavy=4,recent=4 chunked-prefill:16", 1, 37, 3, 0}, 1, KVP_ENOTSUP, "one pass");
    passes_refused(&(struct passes_case){"kivi:group=8,residual=8 chunked-prefill:16", 1, 37, 3, 0}, 1, KVP_ENOTSUP, "one pass");
    passes_refused(&(struct passes_case){"yoco chunked-prefill:16", 1, 37, 3, 0}, 1, KVP_ENOTSUP, "one pass");
}
END_TEST

/* A poisoned row of an earlier piece is read by a later step; one that a window let go is not. */
START_TEST(poison)
{
    static const struct passes_case c = {"window:9 chunked-prefill:16", 1, 37, 3, 0};
    struct kvp_error err = {0};
    int32_t ids[40];
    float logits[TINY_VOCAB];
    struct kvp_model m;
    struct eng *g = NULL;
    bool stored = _i == 0;

    tiny_load(&m, 1);
    passes_tokens(&c, ids, m.vocab);
    must(passes_open(&g, &m, &c, "cpu", NULL, &err));
    must(eng_prefill(g, ids, NULL, NULL, &err));
    must(eng_poison(g, _i ? 30 : 27, &stored, &err));
    ck_assert_int_eq(stored, _i);
    must(eng_decode(g, ids + 37, logits, &err));
    ck_assert_int_eq(isnan(logits[0]), _i);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("chunked-prefill");
    TCase *t = tcase_create("chunked-prefill");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, pieces_are_the_prompt, 0, PASSES_RUNS(same));
    tcase_add_loop_test(t, half_rows, 0, TINY_MODELS);
    tcase_add_loop_test(t, goldens, 0, PASSES_BACKENDS);
    tcase_add_test(t, bytes);
    tcase_add_test(t, refusals);
    tcase_add_loop_test(t, poison, 0, 2);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
