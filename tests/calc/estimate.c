/* estimate.c - laws that hold for every model and stack, peaks counted by hand on a tiny model, and what
 * must be refused. */
#include "tests/calc/calc_test.h"

#include <math.h>

static const char *const stacks[] = {
    "", "window:100", "window:5000", "h2o:heavy=30,recent=70", "h2o:heavy=30,recent=70,score_dtype=f16", "kivi",
    "kivi:bits=4,group=64,residual=64", "contiguous:9000", "growing", "paged:16", "paged:7", "window:100 growing",
    "window:100 paged:16", "window:100 contiguous:9000", "h2o:heavy=30,recent=70 growing", "h2o:heavy=30,recent=70 paged:16",
    "h2o:heavy=30,recent=70 contiguous:9000", "kivi paged:64", "kivi contiguous:9000", "window:200 kivi", "window:200 kivi paged:32",
    "window:128 kivi contiguous:9000",
};
static const char *const models[] = {"llama-3-8b", "mistral-7b-v0.1", "qwen3-0.6b"};
static const uint64_t tokens[] = {1, 2, 15, 16, 17, 99, 100, 101, 127, 128, 129, 255, 256, 257, 1000, 4095, 4096, 4097, 5000};

/* Every combination of the three tables, with a prompt of half the context and a batch. Skips what
 * h2o does not define: a context beyond a layer's own window. */
static void each(void (*law)(const struct kvp_model *, const char *, struct kvp_workload, const struct kvp_estimate *))
{
    for (size_t i = 0; i < COUNT(models); i++) {
        struct kvp_model m = load(models[i]);

        for (size_t s = 0; s < COUNT(stacks); s++)
            for (size_t k = 0; k < COUNT(tokens); k++) {
                struct kvp_workload w = {.batch = 1 + k % 3, .context = tokens[k], .generate = tokens[k] / 2};
                struct kvp_estimate est;
                const kvp_err rc = try_estimate(&est, &m, stacks[s], w, (struct kvp_options){0}, NULL);

                if (rc == KVP_ENOTSUP && strncmp(stacks[s], "h2o", 3) == 0 && m.cls[0].window && tokens[k] > m.cls[0].window)
                    continue;
                ck_assert_msg(rc == KVP_OK, "%s '%s' %" PRIu64 ": %s", m.name, stacks[s], tokens[k], test_error.text);
                law(&m, stacks[s], w, &est);
                kvp_estimate_free(&est);
            }
        kvp_model_free(&m);
    }
}

/* cache = batch * (fixed + per token * context) + shared + rounding; the tensors, parts and ops add up. */
static void adds_up(const struct kvp_model *m, const char *specs, struct kvp_workload w, const struct kvp_estimate *est)
{
    const struct kvp_memory *p = &est->memory;
    const int64_t sum = (int64_t)w.batch * (p->fixed_bytes_per_sequence + (int64_t)(p->bytes_per_token * w.context)) +
                        (int64_t)p->shared_bytes + p->rounding_bytes;
    uint64_t tags[6] = {0}, parts = 0, flops = 0, causal = 0, decode = 0, moved[2] = {0};

    ck_assert_msg(sum == (int64_t)p->cache_bytes, "%s '%s' %" PRIu64 ": %" PRId64 " is not %" PRIu64, m->name, specs, w.context, sum, p->cache_bytes);
    for (uint32_t i = 0; i < est->n_tensors; i++)
        tags[est->tensors[i].tag] += est->tensors[i].bytes;
    ck_assert_uint_eq(tags[KVP_TAG_WEIGHTS], p->weights_bytes);
    ck_assert_uint_eq(tags[KVP_TAG_METADATA], p->metadata_bytes);
    ck_assert_uint_eq(tags[KVP_TAG_CACHE] + tags[KVP_TAG_METADATA], p->cache_bytes);
    ck_assert_uint_eq(tags[KVP_TAG_ACTIVATION], p->activation_bytes);
    ck_assert_uint_eq(tags[KVP_TAG_WORKSPACE], p->workspace_bytes);
    for (uint32_t i = 0; i < est->n_parts; i++)
        parts += est->parts[i].bytes;
    ck_assert_uint_eq(parts, p->total_bytes);
    ck_assert_uint_eq(p->peak_bytes - p->total_bytes, p->cache_peak_bytes - p->cache_bytes);
    ck_assert_msg(p->cache_peak_bytes >= p->cache_bytes, "%s '%s' %" PRIu64 ": peak below rest", m->name, specs, w.context);
    for (uint32_t i = 0; i < est->n_ops; i++) {
        const struct kvp_op_cost *x = &est->ops[i];

        ck_assert(x->flops_full >= x->flops);
        flops += x->phase == KVP_PREFILL ? x->flops_full : 0;
        causal += x->phase == KVP_PREFILL ? x->flops : 0;
        decode += x->phase == KVP_DECODE ? x->flops : 0;
        moved[x->phase] += x->read_bytes + x->written_bytes;
        ck_assert(isnan(x->seconds));
    }
    ck_assert_uint_eq(flops, est->flops_prefill);
    ck_assert_uint_eq(causal, est->flops_prefill_causal);
    ck_assert_uint_eq(decode, est->flops_decode);
    ck_assert_uint_eq(moved[KVP_PREFILL], est->traffic_prefill);
    ck_assert_uint_eq(moved[KVP_DECODE], est->traffic_decode);
}

START_TEST(everything_adds_up)
{
    each(adds_up);
}
END_TEST

/* Twice the sequences are twice the cache; the weights stay. */
static void batch_is_linear(const struct kvp_model *m, const char *specs, struct kvp_workload w, const struct kvp_estimate *est)
{
    struct kvp_estimate twice;

    w.batch *= 2;
    twice = estimate_of(m, specs, w, (struct kvp_options){0});
    ck_assert_uint_eq(twice.memory.cache_bytes, 2 * est->memory.cache_bytes);
    ck_assert_uint_eq(twice.memory.cache_peak_bytes, 2 * est->memory.cache_peak_bytes);
    ck_assert_uint_eq(twice.memory.bytes_per_token, est->memory.bytes_per_token);
    ck_assert_uint_eq(twice.memory.weights_bytes, est->memory.weights_bytes);
    ck_assert_uint_eq(twice.flops_decode, 2 * est->flops_decode);
    ck_assert_uint_eq(twice.flops_prefill, 2 * est->flops_prefill);
    kvp_estimate_free(&twice);
}

START_TEST(batch)
{
    each(batch_is_linear);
}
END_TEST

/* One more token never makes a cache smaller, but for kivi, where a flush does. */
START_TEST(more_tokens_more_bytes)
{
    struct kvp_model m = load("llama-3-8b");

    for (size_t s = 0; s < COUNT(stacks); s++) {
        uint64_t last = 0;

        for (uint64_t T = 1; T <= 300 && !strstr(stacks[s], "kivi"); T++) {
            struct kvp_estimate est = estimate_of(&m, stacks[s], (struct kvp_workload){.context = T}, (struct kvp_options){0});

            ck_assert_msg(est.memory.cache_bytes >= last, "'%s' at %" PRIu64, stacks[s], T);
            last = est.memory.cache_bytes;
            kvp_estimate_free(&est);
        }
    }
    kvp_model_free(&m);
}
END_TEST

/* The cache under a at T is that under b and `more` bytes. */
static const struct {
    const char *a, *b;
    uint64_t T;
    uint64_t more;
} equal[] = {
    {"window:5000", "", 5000, 0},
    {"window:5000", "", 4999, 0},
    {"h2o:heavy=3000,recent=2000", "", 5000, 5000 * 32 * 8 * 4},          /* and a f32 score per slot and kv head */
    {"h2o:heavy=3000,recent=2000,score_dtype=f16", "", 5000, 5000 * 32 * 8 * 2},
    {"paged:1", "", 5000, 5000 * 4},                                     /* and the table */
    {"paged:1 window:100", "window:100", 5000, 100 * 4},
    {"contiguous:5000", "", 5000, 0},
    {"growing", "", 5000, 0},
    {"kivi", "", 127, 0},                                                /* nothing is packed below the residual */
    {"window:8192 kivi", "kivi", 5000, 0},
    {"kivi contiguous:4992", "kivi", 4992, 128 * 256 * 8 * 32},          /* both residuals whole: 128 more rows of k */
};

START_TEST(equals)
{
    struct kvp_model m = load("llama-3-8b");
    struct kvp_estimate a = estimate_of(&m, equal[_i].a, (struct kvp_workload){.context = equal[_i].T}, (struct kvp_options){0});
    struct kvp_estimate b = estimate_of(&m, equal[_i].b, (struct kvp_workload){.context = equal[_i].T}, (struct kvp_options){0});

    ck_assert_msg(a.memory.cache_bytes == b.memory.cache_bytes + equal[_i].more, "'%s' %" PRIu64 ", '%s' %" PRIu64 " + %" PRIu64, equal[_i].a,
                  a.memory.cache_bytes, equal[_i].b, b.memory.cache_bytes, equal[_i].more);
    kvp_estimate_free(&a);
    kvp_estimate_free(&b);
    kvp_model_free(&m);
}
END_TEST

/* For a dense growing cache the peak is (1 + 1/(2L)) of the cache, less one row of one tensor. */
START_TEST(growing_peak_is_one_tensor)
{
    struct kvp_model m = load("gpt2-large");

    for (uint64_t T = 2; T <= 1024; T *= 2) {
        struct kvp_estimate est = estimate_of(&m, "growing", (struct kvp_workload){.context = T, .generate = 1}, (struct kvp_options){0});
        const double ratio = (double)est.memory.cache_peak_bytes / (double)est.memory.cache_bytes;

        ck_assert_double_eq_tol(ratio, 1 + 1.0 / (2 * 36) * (double)(T - 1) / (double)T, 1e-12);
        kvp_estimate_free(&est);
    }
    kvp_model_free(&m);
}
END_TEST

/* Counted by hand: rows of 16 bytes, two layers, k and v (tests/calc/calc_test.h). */
static const struct {
    bool hybrid;
    const char *specs;
    struct kvp_workload w;
    uint64_t rest, peak, metadata;
} by_hand[] = {
    /* dense: 2 layers * 2 * 16 * T */
    {false, "", {.prompt = 2, .generate = 2}, 256, 256, 0},
    /* before: 2 layers * 2 tensors * 48. The last v: 7 tensors gone to 64 but one, 3*64 + 64 + 48 */
    {false, "growing", {.prompt = 2, .generate = 2}, 256, 256 + 48, 0},
    /* scores of 4 bytes follow: at the last v 4*64 + 48 + the scores, one grown (16) and one not (12) */
    {false, "h2o:heavy=2,recent=2 growing", {.prompt = 2, .generate = 2}, 288, 332, 32},
    /* budget 3: the last growth is at 3 tokens: v of the second layer, 4*48 + 32 + 12 + 8 */
    {false, "h2o:heavy=2,recent=1 growing", {.prompt = 2, .generate = 2}, 216, 244, 24},
    /* layer 1 sees 2 tokens and stops growing; layer 2's last v: 64 + 64 + 64 + 48 */
    {true, "growing", {.prompt = 1, .generate = 3}, 192, 240, 0},
    {true, "", {.prompt = 1, .generate = 3}, 192, 192, 0},
    /* pages of 2: 1 and 3 of them, two tables of 4 and 12 bytes */
    {true, "paged:2", {.context = 5}, 256 + 16, 256 + 16, 16},
    {false, "paged:2", {.context = 5}, 2 * 6 * 32 + 12, 2 * 6 * 32 + 12, 12},
    /* a window on a hybrid narrows the windowed layer only: 1 and 5 tokens */
    {true, "window:1", {.context = 5}, 6 * 32, 6 * 32, 0},
    {false, "window:3", {.context = 5}, 2 * 3 * 32, 2 * 3 * 32, 0},
    /* strips: min(max_len, window) */
    {true, "contiguous:8", {.context = 5}, (2 + 8) * 32, (2 + 8) * 32, 0},
    /* scores get the strip as well: 4 slots */
    {false, "h2o:heavy=2,recent=2 contiguous:8", {.context = 3}, 2 * 4 * (32 + 4), 2 * 4 * (32 + 4), 32},
    {false, "h2o:heavy=2,recent=2 paged:3", {.context = 5}, 2 * (6 * 32 + 16) + 8, 2 * (6 * 32 + 16) + 8, 2 * 16 + 8},
};

START_TEST(counted_by_hand)
{
    struct kvp_model m = tiny(by_hand[_i].hybrid);
    struct kvp_estimate est = estimate_of(&m, by_hand[_i].specs, by_hand[_i].w, (struct kvp_options){0});

    ck_assert_msg(est.memory.cache_bytes == by_hand[_i].rest, "'%s': rest %" PRIu64 ", expected %" PRIu64, by_hand[_i].specs,
                  est.memory.cache_bytes, by_hand[_i].rest);
    ck_assert_msg(est.memory.cache_peak_bytes == by_hand[_i].peak, "'%s': peak %" PRIu64 ", expected %" PRIu64, by_hand[_i].specs,
                  est.memory.cache_peak_bytes, by_hand[_i].peak);
    ck_assert_uint_eq(est.memory.metadata_bytes, by_hand[_i].metadata);
    kvp_estimate_free(&est);
}
END_TEST

/* Activations of the tiny model, f32: N = 2 * 3 rows; x, h 8 wide, qkv (2 + 2) * 4, out 8, lse 2 heads,
 * mlp 2 * 16, logits 2 rows (or all 6) of 10, two ids: 6 * (8+8+16+8+2+32+2) * 4 + rows * 40. */
START_TEST(activation)
{
    struct kvp_model m = tiny(false);
    struct kvp_estimate a = estimate_of(&m, "", (struct kvp_workload){.batch = 2, .context = 3}, (struct kvp_options){0});
    struct kvp_estimate b = estimate_of(&m, "", (struct kvp_workload){.batch = 2, .context = 3}, (struct kvp_options){.all_logits = true});

    ck_assert_uint_eq(a.memory.activation_bytes, 6 * 76 * 4 + 80);
    ck_assert_uint_eq(b.memory.activation_bytes, 6 * 76 * 4 + 240);
    ck_assert_uint_eq(a.memory.workspace_bytes, 8); /* two rope frequencies; f32 weights need no scratch */
    kvp_estimate_free(&a);
    kvp_estimate_free(&b);
}
END_TEST

static const struct {
    struct kvp_workload w;
    kvp_err rc;
    struct kvp_workload resolved;
} workloads[] = {
    {{.context = 10}, KVP_OK, {.batch = 1, .prompt = 10, .generate = 0, .context = 10}},
    {{.prompt = 10}, KVP_OK, {.batch = 1, .prompt = 10, .generate = 0, .context = 10}},
    {{.batch = 4, .prompt = 6, .generate = 4}, KVP_OK, {.batch = 4, .prompt = 6, .generate = 4, .context = 10}},
    {{.context = 10, .prompt = 6}, KVP_OK, {.batch = 1, .prompt = 6, .generate = 4, .context = 10}},
    {{.context = 10, .generate = 4}, KVP_OK, {.batch = 1, .prompt = 6, .generate = 4, .context = 10}},
    {{.context = 10, .prompt = 6, .generate = 4}, KVP_OK, {.batch = 1, .prompt = 6, .generate = 4, .context = 10}},
    {{.context = 10, .prompt = 10}, KVP_OK, {.batch = 1, .prompt = 10, .generate = 0, .context = 10}},
    {{.context = 10, .prompt = 6, .generate = 5}, KVP_EINPUT, {0}},
    {{.context = 10, .prompt = 6, .generate = 3}, KVP_EINPUT, {0}},
    {{.context = 10, .prompt = 11}, KVP_EINPUT, {0}},
    {{.context = 10, .generate = 10}, KVP_EINPUT, {0}},
    {{.context = 10, .generate = 11}, KVP_EINPUT, {0}},
    {{.generate = 3}, KVP_EINPUT, {0}},
    {{0}, KVP_EINPUT, {0}},
    {{.prompt = UINT64_MAX, .generate = 1}, KVP_ERANGE, {0}},
};

START_TEST(workload)
{
    struct kvp_workload w = workloads[_i].w;
    struct kvp_error e = {0};

    ck_assert_int_eq(kvp_workload_resolve(&w, &e), workloads[_i].rc);
    if (workloads[_i].rc != KVP_OK)
        return;
    ck_assert(memcmp(&w, &workloads[_i].resolved, sizeof(w)) == 0);
    ck_assert_int_eq(kvp_workload_resolve(&w, &e), KVP_OK); /* resolved already */
    ck_assert(memcmp(&w, &workloads[_i].resolved, sizeof(w)) == 0);
}
END_TEST

/* Nothing wraps: an error, never a small number. */
static const struct {
    const char *specs;
    struct kvp_workload w;
} huge[] = {
    {"", {.context = 1ULL << 60}}, {"", {.context = 1ULL << 40}},   {"", {.context = UINT64_MAX}},
    {"", {.batch = 1ULL << 50, .context = 4096}},                   {"", {.batch = UINT64_MAX, .context = 1}},
    {"paged", {.context = 1ULL << 60}}, {"kivi", {.context = 1ULL << 60}}, {"growing", {.prompt = 1, .generate = 1ULL << 60}},
    {"window:4", {.context = 1ULL << 60}}, {"h2o", {.context = 1ULL << 60}},
    {"contiguous:4398046511104k", {.context = 1}},
};

START_TEST(overflow)
{
    struct kvp_model m = load("llama-3-8b");
    struct kvp_estimate est;
    kvp_err rc = try_estimate(&est, &m, huge[_i].specs, huge[_i].w, (struct kvp_options){0}, NULL);

    ck_assert_msg(rc == KVP_ERANGE, "'%s': %d", huge[_i].specs, rc);
    ck_assert_int_eq(kvp_exit_status(rc), 2);
    kvp_model_free(&m);
}
END_TEST

/* A cache in another format than the weights; formats that are not rows are refused. */
START_TEST(formats)
{
    struct kvp_model m = load("llama-3-8b");
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 8192}, (struct kvp_options){.kv_given = true, .kv = KVP_F32});

    ck_assert_uint_eq(est.memory.cache_bytes, 2147483648);
    ck_assert_uint_eq(est.memory.weights_bytes, 16060522496);
    ck_assert_int_eq(est.weights, KVP_BF16);
    kvp_estimate_free(&est);
    ck_assert_int_eq(try_estimate(&est, &m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){.kv_given = true, .kv = KVP_INT4}, NULL), KVP_EINPUT);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("estimate");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, everything_adds_up);
    tcase_add_test(t, batch);
    tcase_add_test(t, more_tokens_more_bytes);
    tcase_add_loop_test(t, equals, 0, (int)COUNT(equal));
    tcase_add_test(t, growing_peak_is_one_tensor);
    tcase_add_loop_test(t, counted_by_hand, 0, (int)COUNT(by_hand));
    tcase_add_test(t, activation);
    tcase_add_loop_test(t, workload, 0, (int)COUNT(workloads));
    tcase_add_loop_test(t, overflow, 0, (int)COUNT(huge));
    tcase_add_test(t, formats);
    return run("calc: estimates", &t, 1);
}
