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

/* Caches that take a prompt whole: a cache for each lot of sequences, and what each keeps is what it keeps alone. Models by
 * number in tiny.h; 7 has latents, 5 windows, caps and what neither has. */
static const struct {
    const char *stack;
    int model;
} lots[] = {
    {"streaming-llm:sink=2,recent=9", 1}, {"streaming-llm:sink=4,recent=40", 4}, {"h2o:heavy=4,recent=5", 1}, {"h2o:heavy=4,recent=5", 0},
    {"h2o:heavy=4,variant=flexgen", 1}, {"snapkv:cap=12,window=3", 4}, {"pyramidkv:cap=12,window=3,beta=2", 1},
    {"adakv:cap=12,window=3", 1}, {"tova:11", 3}, {"quest:page=5,budget=11,dense=1", 1}, {"duo:0.5,sink=2,recent=7", 1},
    {"minicache:start=0", 1}, {"kivi:group=16,residual=16", 4}, {"kivi:group=16,residual=16 paged:16", 4}, {"snapkv:cap=12,window=3 kv:int8", 4},
    {"snapkv:cap=12,window=3 contiguous:48", 1}, {"yoco", 1}, {"mla", 1}, {"", 7}, {"paged:4", 7}, {"", 5}, {"", 6}, {"lorc", 1},
    {"lorc:k_rank=6,v_rank=8,form=rebuild paged:4", 3},
};
enum { LOTS = sizeof(lots) / sizeof(lots[0]) };

START_TEST(lots_are_the_batch)
{
    static const char *const widths[] = {"continuous-batching:37", "continuous-batching:75"}; /* of five: 1 at once, and 2, 2, 1 */
    const int i = _i / PASSES_BACKENDS % LOTS;
    const char *backend = passes_backends[_i % PASSES_BACKENDS];
    char stack[160];
    struct passes_case c = {stack, 5, 37, 3, 0};
    struct kvp_model m;

    snprintf(stack, sizeof(stack), "%s %s", lots[i].stack, widths[_i / PASSES_BACKENDS / LOTS]);
    tiny_load(&m, lots[i].model);
    passes_same(&m, &c, lots[i].stack, backend, NULL, _i % PASSES_BACKENDS && strstr(stack, "kv") ? 5e-4 : 1e-5);
    kvp_model_free(&m);
}
END_TEST

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
    tcase_add_loop_test(t, lots_are_the_batch, 0, 2 * LOTS * PASSES_BACKENDS);
    tcase_add_test(t, bytes);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
