/* continuous-batching.c - as many prompts side by side as a step's tokens hold: the same logits from smaller passes */
#include "tests/techniques/passes.h"

static const struct passes_pair same[] = {
    {{"continuous-batching:37", 3, 37, 3, 0}, "", false}, /* one prompt a pass */
    {{"continuous-batching:75", 5, 37, 2, 0}, "", false}, /* two, two, one */
    {{"continuous-batching:1000", 3, 37, 3, 0}, "", false},
    {{"continuous-batching:40 chunked-prefill:16", 5, 37, 2, 0}, "", false},
    {{"continuous-batching:40 chunked-prefill:16 paged:4", 5, 37, 2, 0}, "", false},
    {{"window:9 continuous-batching:40 chunked-prefill:16", 5, 37, 2, 0}, "window:9", false},
    {{"kv:int8,scale=token-head continuous-batching:75", 5, 37, 2, 0}, "kv:int8,scale=token-head", false},
};

PASSES_SAME(passes_are_the_batch, same)

/* As in chunked-prefill.c: 984 bytes a row of the widest pass, 244 a row of logits, 64 at once. */
START_TEST(bytes)
{
    passes_bytes(&(struct passes_case){"continuous-batching:75", 5, 37, 3, 0}, 1, 5 * 15360, 0, 74 * 984 + 64 * 244);
    passes_bytes(&(struct passes_case){"continuous-batching:40 chunked-prefill:16", 5, 37, 3, 0}, 1, 5 * 15360, 0, 32 * 984 + 64 * 244);
    passes_bytes(&(struct passes_case){"continuous-batching:16 chunked-prefill:16", 6, 37, 3, 0}, 1, 6 * 15360, 0, 16 * 984 + 64 * 244);
}
END_TEST

START_TEST(refusals)
{
    passes_refused(&(struct passes_case){"continuous-batching:36", 1, 37, 3, 0}, 1, KVP_EINPUT, "max_num_batched_tokens");
    passes_refused(&(struct passes_case){"continuous-batching:4 chunked-prefill:16", 1, 37, 3, 0}, 1, KVP_EINPUT, "needs 16");
    passes_refused(&(struct passes_case){"continuous-batching:4", 5, 2, 3, 0}, 1, KVP_EINPUT, "needs 5");
    passes_refused(&(struct passes_case){"continuous-batching:40,max_num_seqs=2", 3, 4, 3, 0}, 1, KVP_EINPUT, "max_num_seqs");
    passes_refused(&(struct passes_case){"h2o:heavy=4,recent=4 continuous-batching:40", 3, 37, 3, 0}, 1, KVP_ENOTSUP, "one pass");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("continuous-batching");
    TCase *t = tcase_create("continuous-batching");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, passes_are_the_batch, 0, PASSES_RUNS(same));
    tcase_add_test(t, bytes);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
