/* sweep.c - a program's points are estimates: equal in every number, whatever points came before, for every
 * technique on models of several shapes. */
#include "calc/technique.h"
#include "tests/calc/calc_test.h"

static const char *const models[] = {
    "llama-2-7b", "mistral-7b-v0.1", "qwen3-0.6b", "gpt2", "gpt2-large", "llama-3.1-8b",
    "mixtral/mistralai__Mixtral-8x7B-v0.1.json", "jamba/ai21labs__AI21-Jamba-1.5-Mini.json", "zamba2/Zyphra__Zamba2-7B.json",
    "mamba2/mistralai__Mamba-Codestral-7B-v0.1.json", "rwkv/RWKV__rwkv-6-world-1b6.json", "nemotron_h/nvidia__Nemotron-H-56B-Base-8K.json",
    "qwen3_next/Qwen__Qwen3-Next-80B-A3B-Thinking.json", "deepseek/deepseek-ai__DeepSeek-V2-Lite.json", "llama4/meta-llama__Llama-4-Scout-17B-16E@with_vision.json",
    "deepseek-v3.2", "gemma-3-27b", "gemma-4-26b-a4b", "bart-large",
};
static const char *const more[] = {"dense", "window:100 growing", "window:200 kivi paged:32", "h2o:heavy=30,recent=70 paged:16", "kivi contiguous:1024"};

static uint64_t seed = 7;

static uint64_t below(uint64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % n;
}

/* A built-in model, or one of tests/configs. */
static struct kvp_model load_any(const char *name)
{
    char path[512];

    snprintf(path, sizeof(path), strchr(name, '/') ? "%s/configs/%s" : "%.0s%s", getenv("KVPROOF_TESTS"), name);
    return load(path);
}

static bool same_double(double a, double b)
{
    return a == b || (a != a && b != b);
}

static void check_equal(const struct kvp_estimate *a, const struct kvp_point *b, const char *what)
{
    ck_assert_msg(memcmp(&a->memory, &b->memory, sizeof(a->memory)) == 0, "%s: memory differs, peak %" PRIu64 " and %" PRIu64, what,
                  a->memory.peak_bytes, b->memory.peak_bytes);
    ck_assert_msg(memcmp(&a->workload, &b->workload, sizeof(a->workload)) == 0, "%s: workload differs", what);
    ck_assert_msg(a->parameters == b->parameters && a->active_parameters == b->active_parameters, "%s: parameters differ", what);
    ck_assert_msg(a->flops_prefill == b->flops_prefill && a->flops_prefill_causal == b->flops_prefill_causal &&
                      a->flops_decode == b->flops_decode,
                  "%s: FLOPs differ", what);
    ck_assert_msg(a->traffic_prefill == b->traffic_prefill && a->traffic_decode == b->traffic_decode, "%s: traffic differs", what);
    ck_assert_msg(same_double(a->ttft_s, b->ttft_s) && same_double(a->tpot_s, b->tpot_s) && same_double(a->tokens_per_s, b->tokens_per_s) &&
                      same_double(a->ttft_lo, b->ttft_lo) && same_double(a->ttft_hi, b->ttft_hi) &&
                      same_double(a->tpot_lo, b->tpot_lo) && same_double(a->tpot_hi, b->tpot_hi),
                  "%s: times differ", what);
}

/* Random rows through one program, each beside an estimate of its own. A refusal must be the same refusal. */
static void compare(const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_options *o, const struct kvp_device *d)
{
    struct kvp_error e = {0};
    struct kvp_program *p = kvp_program_new(m, s, o, d, &e);
    char what[512], stack[256];

    kvp_stack_text(s, stack, sizeof(stack));
    for (int i = 0; i < 60; i++) {
        const uint64_t context = 1 + below((const uint64_t[]){200, 1000, 6000}[below(3)]); /* an indexer chooses 2048 */
        const struct kvp_workload w = {.batch = 1 + below(9), .context = context, .generate = below(context)};
        struct kvp_error e1 = {0}, e2 = {0};
        struct kvp_estimate est;
        struct kvp_point x;
        const kvp_err rc = kvp_estimate(&est, m, s, &w, o, d, &e1);

        snprintf(what, sizeof(what), "%s '%s' context %" PRIu64 " generate %" PRIu64 " batch %" PRIu64, m->name, stack, w.context, w.generate, w.batch);
        if (!p) {
            ck_assert_msg(rc == e.code, "%s: the program says %s", what, e.text);
            continue;
        }
        ck_assert_msg(kvp_program_point(p, &w, &x, &e2) == rc, "%s: %s beside %s", what, e1.text, e2.text);
        ck_assert_str_eq(e1.text, e2.text);
        if (rc != KVP_OK)
            continue;
        check_equal(&est, &x, what);
        kvp_estimate_free(&est);
    }
    kvp_program_free(p);
}

START_TEST(points_are_estimates)
{
    struct kvp_model m = load_any(models[_i]);
    struct kvp_error e = {0};
    struct kvp_device d;

    ck_assert_msg(kvp_device_load(&d, "h200", &e) == KVP_OK, "%s", e.text);
    for (uint32_t i = 0; kvp_technique_at(i); i++) {
        struct kvp_workload w = {.batch = 1, .prompt = 300, .generate = 212, .context = 512};
        struct kvp_stack s = {0};
        char spec[256];

        ck_assert_int_eq(kvp_technique_example(i, &m, &w, spec, sizeof(spec), &e), KVP_OK);
        ck_assert_msg(kvp_stack_add(&s, spec, &e) == KVP_OK, "%s", e.text);
        compare(&m, &s, &(struct kvp_options){0}, &d);
        compare(&m, &s, &(struct kvp_options){.kv_given = true, .kv = KVP_F32, .all_logits = true}, NULL);
        compare(&m, &s, &(struct kvp_options){.tp = 4, .pp = 3}, &d);
        compare(&m, &s, &(struct kvp_options){.tp = 2, .ep = 4}, &d);
    }
    for (size_t i = 0; i < COUNT(more); i++) {
        struct kvp_stack s = {0};

        ck_assert_int_eq(add_specs(&s, more[i]), KVP_OK);
        compare(&m, &s, &(struct kvp_options){0}, &d);
    }
    kvp_model_free(&m);
}
END_TEST

/* A point that does not fit in 63 bits leaves nothing behind. */
START_TEST(overflow_is_not_remembered)
{
    struct kvp_model m = load("llama-2-7b");
    struct kvp_stack s = {0};
    struct kvp_options o = {0};
    struct kvp_error e = {0};
    struct kvp_program *p = kvp_program_new(&m, &s, &o, NULL, &e);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 100}, o);
    struct kvp_point x;

    ck_assert_ptr_nonnull(p);
    ck_assert_int_eq(kvp_program_point(p, &(struct kvp_workload){.context = UINT64_C(1) << 60}, &x, &e), KVP_ERANGE);
    e = (struct kvp_error){0};
    ck_assert_int_eq(kvp_program_point(p, &(struct kvp_workload){.context = 100}, &x, &e), KVP_OK);
    check_equal(&est, &x, "after an overflow");
    kvp_estimate_free(&est);
    kvp_program_free(p);
    kvp_model_free(&m);
}
END_TEST

/* techniques.md section 4, "Tensor-parallel KV": TP * max(1, Hkv / TP) / Hkv times the single device's cache. */
static const struct {
    const char *model;
    uint32_t tp, times;
} replicated[] = {
    {"llama-3-8b", 2, 1}, {"llama-3-8b", 8, 1}, {"llama-3-8b", 16, 2}, /* Hkv 8 */
    {"llama-2-7b", 32, 1}, {"qwen2.5-0.5b", 7, 0}, /* Hkv 2 over 7: refused */
    {"llama-3-8b", 32, 4},
};

START_TEST(tensor_parallel_cache)
{
    struct kvp_model m = load(replicated[_i].model);
    struct kvp_estimate one = estimate_of(&m, "", (struct kvp_workload){.context = 1000}, (struct kvp_options){0}), all;
    kvp_err rc = try_estimate(&all, &m, "", (struct kvp_workload){.context = 1000}, (struct kvp_options){.tp = replicated[_i].tp}, NULL);
    uint64_t cache = 0;

    if (!replicated[_i].times) {
        ck_assert_int_eq(rc, KVP_EINPUT);
    } else {
        ck_assert_msg(rc == KVP_OK, "%s", test_error.text);
        ck_assert_uint_eq(all.n_ranks, replicated[_i].tp);
        for (uint32_t i = 0; i < all.n_ranks; i++)
            cache += all.ranks[i].memory.cache_bytes;
        ck_assert_uint_eq(cache, replicated[_i].times * one.memory.cache_bytes);
        kvp_estimate_free(&all);
    }
    kvp_estimate_free(&one);
    kvp_model_free(&m);
}
END_TEST

/* One KV head on 8 ranks: 8 times. A latent: TP times, whatever the heads. */
START_TEST(one_head_and_a_latent)
{
    struct kvp_layer_class c = {.count = 2, .mixer = KVP_MIX_ATTENTION, .heads = 8, .kv_heads = 1, .head_dim = 4, .v_head_dim = 4,
                                .norms = 2, .ffn = KVP_FFN_GATED, .ffn_width = 16};
    uint32_t of[2] = {0, 0};
    struct kvp_model m = {.name = "small", .vocab = 10, .width = 32, .layers = 2, .classes = 1, .cls = &c, .class_of = of,
                          .max_positions = 64, .dtype = KVP_F32, .norm_vectors = 1};

    for (int latent = 0; latent < 2; latent++) {
        struct kvp_estimate one, all;

        if (latent)
            c = (struct kvp_layer_class){.count = 2, .mixer = KVP_MIX_MLA, .heads = 8, .head_dim = 12, .v_head_dim = 8, .kv_rank = 16,
                                         .nope_dim = 8, .rope_dim = 4, .norms = 2, .ffn = KVP_FFN_GATED, .ffn_width = 16};
        one = estimate_of(&m, "", (struct kvp_workload){.context = 10}, (struct kvp_options){0});
        all = estimate_of(&m, "", (struct kvp_workload){.context = 10}, (struct kvp_options){.tp = 8});
        ck_assert_uint_eq(one.memory.cache_bytes, latent ? 2 * 10 * 20 * 4 : 2 * 2 * 10 * 4 * 4);
        for (uint32_t i = 0; i < 8; i++)
            ck_assert_uint_eq(all.ranks[i].memory.cache_bytes, one.memory.cache_bytes);
        kvp_estimate_free(&one);
        kvp_estimate_free(&all);
    }
}
END_TEST

/* Llama-2-7B (V 32000, D 4096, L 32, I 11008, untied, f16), worked by hand:
 *   a layer 4 D^2 + 3 D I + 2 D = 202383360 parameters; TP 2 halves all but the norms: 2 D = 8192
 *   TP 2: 32 * ((202383360 - 8192) / 2 + 8192) + D + 2 * 16000 * D
 *   PP 3: 32 = 3 * 10 + 2, and vLLM gives the two to the stages before the last: 11, 11, 10
 *   first V D + 11 layers; middle 11; last 10 layers + D + V D */
START_TEST(weights_of_ranks)
{
    struct kvp_model m = load("llama-2-7b");
    const uint64_t layer = 202383360, D = 4096, V = 32000;
    const uint64_t stage[] = {V * D + 11 * layer, 11 * layer, 10 * layer + D + V * D};
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){.tp = 2});

    ck_assert_uint_eq(est.memory.weights_bytes, 2 * (32 * ((layer - 2 * D) / 2 + 2 * D) + D + V * D));
    ck_assert_uint_eq(est.parameters, 6738415616);
    kvp_estimate_free(&est);
    est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){.pp = 3});
    ck_assert_uint_eq(est.n_ranks, 3);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(est.ranks[i].memory.weights_bytes, 2 * stage[i]);
    ck_assert(est.ranks[0].worst);
    ck_assert_uint_eq(est.memory.weights_bytes, est.ranks[0].memory.weights_bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* GPT-2's 50257 rows are padded to 50304 = 786 * 64; with 3 ranks to 16768 each (50304 / 3). */
START_TEST(padded_vocabulary)
{
    struct kvp_model m = load("gpt2");
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){.tp = 3});
    bool found = false;

    for (uint32_t i = 0; i < est.n_tensors; i++)
        if (strcmp(est.tensors[i].name, "embedding.weight") == 0) {
            ck_assert_uint_eq(est.tensors[i].shape[0], 16768);
            found = true;
        }
    ck_assert(found);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("sweep");

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, points_are_estimates, 0, (int)COUNT(models));
    tcase_add_test(t, overflow_is_not_remembered);
    tcase_add_loop_test(t, tensor_parallel_cache, 0, (int)COUNT(replicated));
    tcase_add_test(t, one_head_and_a_latent);
    tcase_add_test(t, weights_of_ranks);
    tcase_add_test(t, padded_vocabulary);
    return run("calc: sweep", &t, 1);
}
