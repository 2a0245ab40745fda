/* vectors.c - byte and FLOP counts known from elsewhere: worked by hand, published checkpoints, and what
 * other people's engines printed. */
#include "tests/calc/calc_test.h"

#include <math.h>

#define MEM(field) offsetof(struct kvp_memory, field)
#define F16 {.weights_given = true, .weights = KVP_F16}
#define F32 {.weights_given = true, .weights = KVP_F32}

static const struct {
    const char *model, *specs;
    struct kvp_workload w;
    struct kvp_options o;
    size_t field;
    uint64_t bytes;
} vectors[] = {
    /* dense: 2 * L * T * Hkv * d * b */
    {"llama-2-7b", "", {.context = 4096}, F16, MEM(cache_bytes), 2147483648},          /* 2*32*4096*32*128*2 */
    {"llama-2-7b", "dense", {.context = 4096}, F16, MEM(cache_bytes), 2147483648},
    {"llama-2-7b", "", {.context = 4096, .batch = 3}, F16, MEM(cache_bytes), 6442450944},
    {"llama-3-8b", "", {.context = 8192}, F16, MEM(cache_bytes), 1073741824},          /* 2*32*8192*8*128*2 */
    {"llama-2-7b", "", {.context = 1}, F16, MEM(bytes_per_token), 524288},
    {"llama-3-8b", "", {.context = 1}, F16, MEM(bytes_per_token), 131072},
    {"llama-2-70b", "", {.context = 1}, F16, MEM(bytes_per_token), 327680},            /* 2*80*8*128*2 */
    {"gpt2-large", "", {.context = 1}, F16, MEM(bytes_per_token), 184320},             /* 2*36*1280*2 */
    {"gpt2-large", "", {.context = 1}, F32, MEM(bytes_per_token), 368640},
    /* window: 2 * L * min(T, W) * Hkv * d * b; Mistral v0.1 has W 4096 itself */
    {"mistral-7b-v0.1", "", {.context = 32768}, F16, MEM(cache_bytes), 536870912},     /* 2*32*4096*8*128*2 */
    {"mistral-7b-v0.1", "", {.context = 4095}, F16, MEM(cache_bytes), 536739840},      /* 131072 less */
    {"mistral-7b-v0.1", "", {.context = 32768}, F16, MEM(bytes_per_token), 0},
    {"mistral-7b-v0.3", "", {.context = 32768}, F16, MEM(cache_bytes), 4294967296},
    {"mistral-7b-v0.3", "window:4096", {.context = 32768}, F16, MEM(cache_bytes), 536870912},
    {"mistral-7b-v0.1", "window:1024", {.context = 32768}, F16, MEM(cache_bytes), 134217728},
    {"mistral-7b-v0.1", "window:8192", {.context = 32768}, F16, MEM(cache_bytes), 536870912}, /* narrows only */
    {"gpt2-large", "window:128", {.context = 1024}, F32, MEM(cache_bytes), 47185920},  /* 128 * 368640 */
    /* h2o: C = 2 * int(0.1 * 4096) = 818; scores L * Hkv * C * 2 */
    {"llama-2-7b", "h2o:heavy=409,recent=409,score_dtype=f16", {.context = 4096}, F16, MEM(cache_bytes), 428867584 + 1675264},
    {"llama-2-7b", "h2o:heavy=409,recent=409,score_dtype=f16", {.context = 4096}, F16, MEM(metadata_bytes), 1675264},
    {"llama-2-7b", "h2o:score_dtype=f16", {.context = 4096}, F16, MEM(cache_bytes), 428867584 + 1675264},
    {"llama-2-7b", "h2o", {.context = 4096}, F16, MEM(metadata_bytes), 2 * 1675264},
    {"llama-2-7b", "h2o", {.prompt = 2048, .generate = 2048}, F16, MEM(metadata_bytes), 1671168}, /* int(204.8): 32*32*408*4 */
    {"llama-2-7b", "h2o:heavy=409,recent=409", {.context = 100}, F16, MEM(metadata_bytes), 409600}, /* 32*32*100*4 */
    {"gpt2-large", "h2o:heavy=32,recent=96", {.context = 1024}, F32, MEM(cache_bytes), 47185920 + 368640}, /* + 36*20*128*4 */
    /* kivi: techniques of arXiv:2402.02750 on Llama-2-7B, G 32 */
    {"llama-2-7b", "kivi:bits=2,group=32,residual=128", {.context = 4096}, F16, MEM(cache_bytes), 429916160},
    {"llama-2-7b", "kivi:bits=2,group=32,residual=128", {.context = 4095}, F16, MEM(cache_bytes), 456867840},
    /* T 4097, per layer and head: 131072 + 65536 keys, 3969*32 + 3969*16 values, 128*(1+128)*2 rows: 420144 */
    {"llama-2-7b", "kivi", {.context = 4097}, F16, MEM(cache_bytes), 430227456},
    {"llama-2-7b", "kivi", {.context = 127}, F16, MEM(cache_bytes), 66584576},         /* all rows: 127 * 524288 */
    {"llama-2-7b", "kivi", {.context = 128}, F16, MEM(cache_bytes), 39845888},         /* (4096 + 2048 + 32768) * 1024 */
    {"llama-2-7b", "kivi", {.context = 129}, F16, MEM(cache_bytes), 40157184},         /* + one row of k, one packed v: 39216 */
    {"llama-2-7b", "kivi", {.context = 1}, F16, MEM(cache_bytes), 524288},
    {"llama-2-7b", "kivi:residual=32", {.context = 4096}, F16, MEM(cache_bytes), 409468928}, /* 390.5 MiB */
    {"llama-2-7b", "kivi:bits=4", {.context = 4096}, F16, MEM(cache_bytes), 694157312},      /* 662 MiB */
    {"llama-2-7b", "kivi:group=128", {.context = 4096}, F16, MEM(cache_bytes), 330825728},   /* 315.5 MiB */
    {"llama-3-8b", "kivi:bits=2,group=32,residual=128", {.context = 8192}, F16, MEM(cache_bytes), 208142336},
    {"llama-2-7b", "kivi", {.context = 4096}, F16, MEM(bytes_per_token), 98304},       /* 3 bits of 16: 524288 * 3 / 16 */
    /* kivi's key residual comes and goes: 200 tokens from a prompt of 100 had 128 rows of it, 72 are left */
    {"llama-2-7b", "kivi", {.prompt = 127, .generate = 1}, F16, MEM(cache_peak_bytes), 39845888 + 33554432},
    {"llama-2-7b", "kivi", {.context = 128}, F16, MEM(cache_peak_bytes), 39845888},
    {"llama-2-7b", "kivi", {.prompt = 128, .generate = 1}, F16, MEM(cache_peak_bytes), 40157184},
    /* growing: one more tensor of 4095 tokens, 32*4095*128*2, lives while the last is made */
    {"llama-2-7b", "growing", {.prompt = 4095, .generate = 1}, F16, MEM(cache_peak_bytes), 2147483648 + 33546240},
    {"llama-2-7b", "growing", {.context = 4096}, F16, MEM(cache_peak_bytes), 2147483648}, /* a prompt alone never grows */
    /* paged: 63 pages of 16 for 1000 tokens; the table is 4 bytes a page */
    {"llama-3-8b", "paged:16", {.context = 1000}, F16, MEM(cache_bytes), 1008 * 131072 + 63 * 4},
    {"llama-3-8b", "paged:16", {.context = 1000}, F16, MEM(rounding_bytes), 8 * 131072},
    {"llama-3-8b", "paged:16", {.context = 1000}, F16, MEM(metadata_bytes), 63 * 4},
    {"llama-3-8b", "paged:16", {.context = 1000, .batch = 5}, F16, MEM(metadata_bytes), 5 * 63 * 4},
    /* contiguous: the strip, whatever is in it */
    {"llama-3-8b", "contiguous:4096", {.context = 1000}, F16, MEM(cache_bytes), 4096 * 131072ULL},
    {"llama-3-8b", "contiguous:4096", {.context = 1000}, F16, MEM(rounding_bytes), 3096 * 131072ULL},
    {"llama-3-8b", "contiguous", {.context = 1000}, F16, MEM(cache_bytes), 8192 * 131072ULL},
    /* weights published as bytes: metadata.total_size of the checkpoints' index files */
    {"llama-2-7b", "", {.context = 1}, F16, MEM(weights_bytes), 13476831232},    /* isatyabrata/llama2-7b-chat-hf, pytorch_model.bin.index.json */
    {"llama-2-13b", "", {.context = 1}, F16, MEM(weights_bytes), 26031728640},   /* kuolema-aap14/ELYZA-japanese-Llama-2-13b-instruct, same */
    {"llama-2-70b", "", {.context = 1}, F16, MEM(weights_bytes), 137953316864 - 80 * 64 * 4}, /* MdSagorMunshi/LLAMA, less inv_freq in f32 */
    {"llama-3-8b", "", {.context = 1}, F16, MEM(weights_bytes), 16060522496},    /* bingjieshengtian/Llama3 */
    {"llama-3.2-3b", "", {.context = 1}, F16, MEM(weights_bytes), 6425499648},   /* Gusiion/meta-llama-Llama-3.2-3B-Instruct */
    {"mistral-7b-v0.3", "", {.context = 1}, F16, MEM(weights_bytes), 14496047104}, /* rhlsinghal1ss/Mistral-7B */
    {"devstral-small-2507", "", {.context = 1}, F16, MEM(weights_bytes), 47144806400}, /* fetchwiki/mistralai-Devstral-Small-2507 */
    {"qwen3-1.7b", "", {.context = 1}, F16, MEM(weights_bytes), 3441149952},     /* root-hypercube/qwen3-mlx: tied, q/k norms */
};

START_TEST(vector)
{
    struct kvp_model m = load(vectors[_i].model);
    struct kvp_estimate est = estimate_of(&m, vectors[_i].specs, vectors[_i].w, vectors[_i].o);
    uint64_t got;

    memcpy(&got, (const char *)&est.memory + vectors[_i].field, sizeof(got));
    ck_assert_msg(got == vectors[_i].bytes, "%s '%s' context %" PRIu64 ": %" PRIu64 ", expected %" PRIu64, vectors[_i].model,
                  vectors[_i].specs, est.workload.context, got, vectors[_i].bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Parameter counts that the hub or a repository states. */
static const struct {
    const char *model;
    uint64_t parameters;
    const char *source;
} parameters[] = {
    {"gpt2", 124439808, "Radford et al. 2019 as counted by transformers' GPT2LMHeadModel"},
    {"gpt2-large", 774030080, "same"},
    {"llama-2-7b", 6738415616, "hub total 6738417664 less 32 x 64 saved inv_freq"},
    {"llama-3-8b", 8030261248, "hub safetensors total, debaditc/kvfit models.json"},
    {"llama-3.1-8b", 8030261248, "same"},
    {"llama-3.3-70b", 70553706496, "same"},
    {"llama-3.2-3b", 3212749824, "same"},
    {"qwen2.5-7b", 7615616512, "same"},
    {"qwen2.5-72b", 72706203648, "same"},
    {"qwen3-32b", 32762123264, "same"},
    {"qwen2.5-0.5b", 494032768, "ollama/ollama convert/testdata/Qwen2.5-0.5B-Instruct.json"},
    {"devstral-small-2507", 23572403200, "metadata.total_parameters of its index"},
    {"mistral-7b-v0.1", 7241732096, "hub safetensors total"},
};

START_TEST(parameter_count)
{
    struct kvp_model m = load(parameters[_i].model);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){0});

    ck_assert_msg(est.parameters == parameters[_i].parameters, "%s: %" PRIu64 ", expected %" PRIu64 " (%s)", m.name, est.parameters,
                  parameters[_i].parameters, parameters[_i].source);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Cache sizes that engines printed, in MiB; a difference of two contexts where that is what was printed. */
static const struct {
    const char *model;
    uint64_t tokens, less;
    double mib;
    double tolerance; /* what rounding of the printed numbers leaves */
    const char *source;
} logs[] = {
    {"llama-2-7b", 512, 0, 256, 0, "llama.cpp, XiongjieDai/GPU-Benchmarks-on-LLM-Inference 3090_2_v2.ipynb:5299"},
    {"llama-2-13b", 512, 0, 400, 0, "llama.cpp, same, 3090_2_v2.ipynb:6154"},
    {"llama-3-8b", 8192, 0, 1024, 0, "llama.cpp, same, 3070_v3.ipynb:723"},
    {"llama-3.1-8b", 16384, 0, 2048, 0, "llama.cpp, ik_llama.cpp discussion 562"},
    {"llama-3.2-1b", 4096, 0, 128, 0, "llama.cpp through WASI-NN, Llama-3.2-1B-Instruct"},
    {"llama-3.3-70b", 4096, 0, 1280, 0, "llama.cpp, Llama-3 70B over RPC"},
    {"qwen3-1.7b", 1024, 0, 112, 0, "llama.cpp, Qwen3-1.7B Q4_K_M"},
    {"qwen3-32b", 8192, 0, 2048, 0, "ik_llama.cpp discussion 397"},
    {"qwen3-32b", 40960, 0, 10240, 0, "ik_llama.cpp issue 539"},
    {"qwen2.5-32b", 4096, 0, 1024, 0, "vLLM, failed start of Qwen2.5-32B-Instruct-AWQ"},
    {"qwen3-0.6b", 14336, 6144, 897, 1, "transformers, QwenLM/Qwen3 speed_benchmark.md: integers, so +-1"},
    {"qwen3-32b", 30720, 14336, 4096, 1, "same"},
};

START_TEST(field_log)
{
    struct kvp_model m = load(logs[_i].model);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = logs[_i].tokens}, (struct kvp_options)F16);
    double mib = (double)est.memory.cache_bytes / 1048576;

    kvp_estimate_free(&est);
    if (logs[_i].less) {
        est = estimate_of(&m, "", (struct kvp_workload){.context = logs[_i].less}, (struct kvp_options)F16);
        mib -= (double)est.memory.cache_bytes / 1048576;
        kvp_estimate_free(&est);
    }
    ck_assert_msg(fabs(mib - logs[_i].mib) <= logs[_i].tolerance, "%s: %f MiB, printed %f (%s)", m.name, mib, logs[_i].mib, logs[_i].source);
    kvp_model_free(&m);
}
END_TEST

/* vLLM printed how many blocks its swap space held: floor(4 GiB / bytes of one block in all layers). */
static const struct {
    const char *model;
    const char *specs;
    uint64_t block, space, blocks;
} pools[] = {
    {"llama-2-13b", "paged:16", 16, 4ULL << 30, 327},   /* vLLM start-up log, Llama-2-13b-chat-hf */
    {"llama-3.1-8b", "paged:16", 16, 4ULL << 30, 2048}, /* vllm-project/vllm issue 10517 */
};

START_TEST(pool)
{
    struct kvp_model m = load(pools[_i].model);
    struct kvp_estimate est = estimate_of(&m, pools[_i].specs, (struct kvp_workload){.context = pools[_i].block}, (struct kvp_options)F16);

    ck_assert_uint_eq(pools[_i].space / (est.memory.cache_bytes - est.memory.metadata_bytes), pools[_i].blocks);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Lengths 5, 1000, 33, 4096 and 129 in pages of 16 are 16 + 1008 + 48 + 4096 + 144 = 5312 slots. */
START_TEST(paged_slots)
{
    static const uint64_t lengths[] = {5, 1000, 33, 4096, 129};
    struct kvp_model m = load("llama-3-8b");
    uint64_t slots = 0;

    for (size_t i = 0; i < COUNT(lengths); i++) {
        struct kvp_estimate est = estimate_of(&m, "paged:16", (struct kvp_workload){.context = lengths[i]}, (struct kvp_options)F16);

        slots += (est.memory.cache_bytes - est.memory.metadata_bytes) / 131072;
        kvp_estimate_free(&est);
    }
    ck_assert_uint_eq(slots, 5312);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("vectors");

    tcase_add_loop_test(t, vector, 0, (int)COUNT(vectors));
    tcase_add_loop_test(t, parameter_count, 0, (int)COUNT(parameters));
    tcase_add_loop_test(t, field_log, 0, (int)COUNT(logs));
    tcase_add_loop_test(t, pool, 0, (int)COUNT(pools));
    tcase_add_test(t, paged_slots);
    return run("calc: vectors", &t, 1);
}
