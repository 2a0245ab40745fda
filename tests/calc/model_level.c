/* model_level.c - what changes the model, or who shares and when: numbers worked by hand from the papers'
 * formulas, as each row says. */
#include "tests/calc/calc_test.h"

#define MEM(field) offsetof(struct kvp_memory, field)
#define F16 {.weights_given = true, .weights = KVP_F16}
#define F16_STATE(full) {.weights_given = true, .weights = KVP_F16, .ssm_given = true, .ssm = KVP_F16, .conv_full = full}

/* Layers alike, as a model that no built-in name has: 64 x 2560 of Mamba-2.8B; DeepSeek-V3's 61 layers. */
static struct kvp_model layers_of(uint32_t layers, uint32_t width, struct kvp_layer_class c)
{
    static struct kvp_layer_class cls[1];
    static uint32_t of[64];
    struct kvp_model m = {.name = "by hand", .vocab = 1000, .width = width, .layers = layers, .classes = 1, .cls = cls, .class_of = of,
                          .max_positions = 1 << 20, .dtype = KVP_F16, .norm_vectors = 1, .position = KVP_POS_ROPE};

    cls[0] = c;
    cls[0].count = layers;
    return m;
}

static struct kvp_model mamba_sized(void)
{
    return layers_of(64, 2560, (struct kvp_layer_class){.mixer = KVP_MIX_ATTENTION, .heads = 20, .kv_heads = 20, .head_dim = 128, .v_head_dim = 128});
}

static struct kvp_model deepseek_v3(void)
{
    return layers_of(61, 7168, (struct kvp_layer_class){.mixer = KVP_MIX_MLA, .heads = 128, .head_dim = 192, .v_head_dim = 128, .kv_rank = 512,
                                                        .nope_dim = 128, .rope_dim = 64, .q_rank = 1536});
}

/* A built-in name, or one of the two above; the caller frees it with drop(). */
static struct kvp_model get(const char *name)
{
    return strcmp(name, "mamba-sized") == 0 ? mamba_sized() : strcmp(name, "deepseek-v3") == 0 ? deepseek_v3() : load(name);
}

static void drop(struct kvp_model *m)
{
    if (strcmp(m->name, "by hand") != 0)
        kvp_model_free(m);
}

static const struct {
    const char *model, *specs;
    struct kvp_workload w;
    struct kvp_options o;
    size_t field;
    uint64_t bytes;
} vectors[] = {
    /* gqa: 2 * 32 * 8192 * Hkv * 128 * 2 */
    {"llama-2-7b", "gqa:32", {.context = 8192}, F16, MEM(cache_bytes), 4294967296},
    {"llama-2-7b", "gqa", {.context = 8192}, F16, MEM(cache_bytes), 1073741824},
    {"llama-2-7b", "gqa:8", {.context = 8192}, F16, MEM(cache_bytes), 1073741824},
    {"llama-2-7b", "mqa", {.context = 8192}, F16, MEM(cache_bytes), 134217728},
    {"gpt2", "gqa", {.context = 100}, F16, MEM(bytes_per_token), 2 * 12 * 3 * 64 * 2},        /* 12 heads: 3 */
    {"llama-2-13b", "gqa", {.context = 1}, F16, MEM(bytes_per_token), 2 * 40 * 10 * 128 * 2}, /* 40 heads: 10 */
    /* cla: ceil(32 / s) owners */
    {"llama-2-7b", "cla", {.context = 4096}, F16, MEM(cache_bytes), 1073741824},
    {"llama-2-7b", "cla:3", {.context = 4096}, F16, MEM(cache_bytes), 11 * 67108864},         /* 704 MiB */
    {"llama-2-7b", "cla:1", {.context = 4096}, F16, MEM(cache_bytes), 2147483648},
    {"llama-2-7b", "cla:100", {.context = 4096}, F16, MEM(cache_bytes), 67108864},
    {"llama-2-7b", "mqa cla", {.context = 4096}, F16, MEM(cache_bytes), 33554432},            /* 1 GiB / 32 */
    {"llama-2-7b", "cla window:1024", {.context = 4096}, F16, MEM(cache_bytes), 268435456},
    {"llama-2-7b", "cla kivi", {.context = 4096}, F16, MEM(cache_bytes), 429916160 / 2},      /* half of KIVI's own number */
    {"llama-2-7b", "cla paged:16", {.context = 4096}, F16, MEM(cache_bytes), 1073741824 + 256 * 4},
    /* yoco: 2 * T * 8 * 128 * 2, and 16 * 2 * min(T, 1024) * 32 * 128 * 2 */
    {"llama-3-8b", "yoco", {.context = 131072}, F16, MEM(cache_bytes), 536870912 + 268435456},
    {"llama-3-8b", "yoco", {.context = 1000}, F16, MEM(cache_bytes), 4096000 + 262144000},
    {"llama-3-8b", "yoco", {.context = 131072}, F16, MEM(bytes_per_token), 4096},
    {"llama-3-8b", "yoco:self_heads=8", {.context = 131072}, F16, MEM(cache_bytes), 536870912 + 67108864},
    {"llama-3-8b", "yoco:retention", {.context = 131072}, F16, MEM(cache_bytes), 536870912},
    {"llama-3-8b", "yoco:retention", {.context = 131072}, F16, MEM(state_bytes), 16 * 32 * 128 * 128 * 4},
    {"llama-3-8b", "yoco:retention", {.context = 131072}, F16_STATE(false), MEM(state_bytes), 16 * 32 * 128 * 128 * 2},
    /* xc-cache: 6144 context tokens of 4096 channels; 32 tokens of question at 524288 */
    {"llama-2-7b", "xc-cache", {.prompt = 6144 + 32, .generate = 0}, F16, MEM(cache_bytes), 50331648 + 16777216},
    {"llama-2-7b", "xc-cache:question=1", {.prompt = 6145, .generate = 7}, F16, MEM(cache_bytes), 50331648 + 8 * 524288},
    {"llama-2-7b", "xc-cache:keep=kv", {.prompt = 6176, .generate = 0}, F16, MEM(cache_bytes), 6144 * 16384 + 16777216},
    {"llama-2-7b", "xc-cache:encoder_width=1024", {.prompt = 6176, .generate = 0}, F16, MEM(cache_bytes), 12582912 + 16777216},
    {"llama-2-7b", "xc-cache paged:16", {.prompt = 6176, .generate = 1}, F16, MEM(cache_bytes), 50331648 + 48 * 524288 + 3 * 4},
    {"llama-2-7b", "xc-cache", {.prompt = 6176, .generate = 0}, F16, MEM(bytes_per_token), 524288},
    /* what is not given has room: 12 layers of gpt2 are 4 blocks 3 apart, and of 20 tokens 10 are the question */
    {"gpt2", "xc-cache", {.prompt = 20, .generate = 2}, F16, MEM(cache_bytes), 10 * 768 * 2 + 12 * 36864},
    {"gpt2", "xc-cache:keep=kv,stride=11", {.prompt = 20, .generate = 2}, F16, MEM(cache_bytes), 10 * 2 * 2 * 1024 * 2 + 12 * 36864},
    /* mla: 576 * 2 * 61 a token; 656 B and 320 * 128 * 2 a token and layer */
    {"deepseek-v3", "", {.context = 131072}, F16, MEM(cache_bytes), 9210691584},
    {"deepseek-v3", "mla", {.context = 131072}, F16, MEM(cache_bytes), 9210691584},
    {"deepseek-v3", "mla", {.context = 1}, F16, MEM(bytes_per_token), 70272},
    {"deepseek-v3", "mla:fp8", {.context = 1}, F16, MEM(bytes_per_token), 40016},
    {"deepseek-v3", "mla:expanded", {.context = 1}, F16, MEM(bytes_per_token), 4997120},
    {"deepseek-v3", "h2o:heavy=10,recent=10", {.context = 100}, F16, MEM(cache_bytes), 20 * (70272 + 61 * 4)}, /* one set a layer */
    {"llama-2-7b", "mla", {.context = 1}, F16, MEM(bytes_per_token), 576 * 2 * 32},
    {"llama-2-7b", "mla:kv_rank=256,rope_dim=32", {.context = 1}, F16, MEM(bytes_per_token), 288 * 2 * 32},
    /* recurrent: 32 x 4096, 12 x 768, 64 x 2560 */
    {"llama-2-7b", "recurrent:rwkv4", {.context = 4096}, F16, MEM(state_bytes), 2097152},
    {"llama-2-7b", "recurrent:rwkv5", {.context = 4096}, F16, MEM(state_bytes), 34078720},
    {"llama-2-7b", "recurrent:rwkv6", {.context = 4096}, F16, MEM(state_bytes), 34078720},
    {"llama-2-7b", "recurrent", {.context = 4096}, F16, MEM(state_bytes), 34078720},
    {"llama-2-7b", "recurrent", {.context = 4096}, F16, MEM(cache_bytes), 0},
    {"gpt2", "recurrent:rwkv7", {.context = 512}, F16, MEM(state_bytes), 2396160},
    {"gpt2", "recurrent:rwkv7", {.context = 512, .batch = 3}, F16, MEM(state_bytes), 3 * 2396160},
    {"mamba-sized", "recurrent:mamba", {.context = 512}, F16_STATE(true), MEM(state_bytes), 13107200},
    {"mamba-sized", "recurrent:mamba", {.context = 512}, F16_STATE(false), MEM(state_bytes), 12451840},
    {"mamba-sized", "recurrent:mamba2", {.context = 512}, F16_STATE(true), MEM(state_bytes), 86638592},
    /* lorc: 2 * r * 2 B a token and layer */
    {"llama-3-8b", "lorc", {.context = 8192}, F16, MEM(cache_bytes), 536870912},
    {"llama-3-8b", "lorc:k_rank=512,v_rank=512", {.context = 8192}, F16, MEM(cache_bytes), 536870912},
    {"llama-2-7b", "lorc", {.context = 4096}, F16, MEM(cache_bytes), 1073741824},
    {"llama-3-8b", "lorc:rule=progressive,r_max=1024,r_min=256", {.context = 8192}, F16, MEM(cache_bytes), 671088640}, /* mean 640 */
    {"llama-3-8b", "lorc:k_rank=100,v_rank=300", {.context = 10}, F16, MEM(cache_bytes), 32 * 10 * 400 * 2},
    {"llama-3-8b", "lorc window:1024", {.context = 8192}, F16, MEM(cache_bytes), 67108864},
    /* prefix, Llama-3-8B: 131072 B a token; 2 sequences less what they share */
    {"llama-3-8b", "prefix:1000", {.prompt = 1024, .batch = 2}, F16, MEM(shared_bytes), 992 * 131072},
    {"llama-3-8b", "prefix", {.prompt = 1024, .batch = 2}, F16, MEM(shared_bytes), 1008 * 131072},
    {"llama-3-8b", "prefix", {.prompt = 1000, .batch = 2}, F16, MEM(shared_bytes), 992 * 131072},
    {"llama-3-8b", "prefix:1000,granularity=token", {.prompt = 1024, .batch = 2}, F16, MEM(shared_bytes), 1000 * 131072},
    {"llama-3-8b", "prefix:granularity=token", {.prompt = 1024, .batch = 2}, F16, MEM(shared_bytes), 1023 * 131072},
    {"llama-3-8b", "prefix:1000", {.prompt = 1024, .batch = 2}, F16, MEM(cache_bytes), (2048 - 992) * 131072},
    {"llama-3-8b", "prefix:1000", {.prompt = 1024, .batch = 1}, F16, MEM(cache_bytes), 1024 * 131072},
    {"llama-3-8b", "prefix:15", {.prompt = 1024, .batch = 2}, F16, MEM(cache_bytes), 2048 * 131072},
    {"llama-3-8b", "prefix:0", {.prompt = 1024, .batch = 2}, F16, MEM(shared_bytes), 0},
    {"llama-3-8b", "prefix:1000 paged:32", {.prompt = 1024, .batch = 2}, F16, MEM(shared_bytes), 992 * 131072},
    {"llama-3-8b", "prefix:1000 paged:16", {.prompt = 1024, .generate = 1, .batch = 4}, F16, MEM(cache_bytes),
     (4 * 65 - 3 * 62) * 16 * 131072LL + 4 * 65 * 4},
    {"llama-3-8b", "prefix:1000,granularity=token paged:16", {.prompt = 1024, .batch = 2}, F16, MEM(shared_bytes), 992 * 131072},
    /* at 5000 tokens a ring of 4096 holds the last 1096 of a prefix of 2000 */
    {"llama-3-8b", "prefix:2000 window:4096", {.prompt = 4500, .generate = 500, .batch = 2}, F16, MEM(cache_bytes), (8192 - 1096) * 131072LL},
    {"llama-3-8b", "prefix:500 window:4096", {.prompt = 4500, .generate = 500, .batch = 2}, F16, MEM(cache_bytes), 8192 * 131072LL},
    {"gpt2", "recurrent:rwkv7 prefix", {.prompt = 512, .batch = 2}, F16, MEM(state_bytes), 3 * 2396160}, /* and a checkpoint */
    /* paged: the null block and the engines' tables */
    {"llama-3-8b", "paged:16,null=1", {.context = 1000}, F16, MEM(cache_bytes), 1024 * 131072 + 63 * 4},
    {"llama-3-8b", "paged:16,layout=vllm", {.context = 1000}, F16, MEM(cache_bytes), 1024 * 131072 + 64 * 4 + 4},
    {"llama-3-8b", "paged:16,layout=vllm,null=0", {.context = 1000}, F16, MEM(metadata_bytes), 64 * 4 + 4},
    {"llama-3-8b", "paged:16", {.context = 4096, .batch = 256}, F16, MEM(metadata_bytes), 262144}, /* 256 x 256 i32 */
    {"llama-3-8b", "paged:1,layout=sglang", {.context = 1000}, F16, MEM(cache_bytes), 1001 * 131072 + 1000 * 4 + 1000 * 8},
};

START_TEST(vector)
{
    struct kvp_model m = get(vectors[_i].model);
    struct kvp_estimate est = estimate_of(&m, vectors[_i].specs, vectors[_i].w, vectors[_i].o);
    const struct kvp_memory *x = &est.memory;
    uint64_t got;

    memcpy(&got, (const char *)x + vectors[_i].field, sizeof(got));
    ck_assert_msg(got == vectors[_i].bytes, "%s '%s' context %" PRIu64 ": %" PRIu64 ", expected %" PRIu64, vectors[_i].model,
                  vectors[_i].specs, est.workload.context, got, vectors[_i].bytes);
    ck_assert_int_eq((int64_t)x->cache_bytes, (int64_t)est.workload.batch * (x->fixed_bytes_per_sequence + (int64_t)(x->bytes_per_token * est.workload.context)) +
                                                  (int64_t)x->shared_bytes + x->rounding_bytes);
    ck_assert_uint_ge(x->cache_peak_bytes, x->cache_bytes);
    kvp_estimate_free(&est);
    drop(&m);
}
END_TEST

static const struct {
    const char *model, *specs;
    uint64_t parameters;
} parameters[] = {
    {"llama-2-7b", "gqa:8", 6738415616 - 2 * 32 * 4096 * 3072ULL},
    {"llama-2-7b", "mqa", 6738415616 - 2 * 32 * 4096 * (4096 - 128ULL)},
    {"llama-2-7b", "cla", 6738415616 - 16 * 2 * 4096 * 4096ULL},
    {"llama-2-7b", "cla:3", 6738415616 - 21 * 2 * 4096 * 4096ULL},
    {"llama-2-7b", "xc-cache:blocks=1", 6738415616 + 67125248},
    {"llama-2-7b", "xc-cache", 6738415616 + 268500992},
    /* the lower half's k and v grow to 32 heads; 15 upper layers have none */
    {"llama-3-8b", "yoco", 8030261248 + 16 * 2 * 4096 * 3072ULL - 15 * 2 * 4096 * 1024ULL},
    {"llama-3-8b", "lorc", 8030261248 - 32 * 2 * (4096 * 1024 - 512 * (4096 + 1024ULL))},
    {"llama-3-8b", "prefix", 8030261248},
};

START_TEST(parameter_count)
{
    struct kvp_model m = load(parameters[_i].model);
    struct kvp_estimate est = estimate_of(&m, parameters[_i].specs, (struct kvp_workload){.prompt = 100}, (struct kvp_options){0});

    ck_assert_msg(est.parameters == parameters[_i].parameters, "%s %s: %" PRIu64 ", expected %" PRIu64, m.name, parameters[_i].specs, est.parameters,
                  parameters[_i].parameters);
    ck_assert_uint_eq(est.memory.weights_bytes, 2 * est.parameters);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Published totals of the pure models: layers alike, Mamba's without a feed-forward and tied. Mamba's are of
 * the papers' tables, RWKV's of the hub's safetensors (tests/truth/weights.csv and families_d.c). */
static const struct {
    const char *kind;
    uint32_t layers, width, vocab, norms;
    bool tied;
    uint64_t parameters;
} pure[] = {
    {"recurrent:mamba", 64, 2560, 50280, 1, true, 2768345600},   /* Mamba-2.8B */
    {"recurrent:mamba2", 64, 2560, 50288, 1, true, 2702599680},  /* Mamba2-2.7B */
    {"recurrent:rwkv4", 12, 768, 50277, 2, false, 169342464},    /* rwkv-4-169m-pile */
    {"recurrent:rwkv5", 24, 2048, 65536, 2, false, 1577754624},  /* rwkv-5-world-1b5 */
    {"recurrent:rwkv6", 24, 2048, 65536, 2, false, 1599873024},  /* rwkv-6-world-1b6 */
};

START_TEST(pure_recurrence)
{
    struct kvp_model m = layers_of(pure[_i].layers, pure[_i].width, (struct kvp_layer_class){.mixer = KVP_MIX_ATTENTION, .heads = 12, .kv_heads = 12,
                                                                                             .head_dim = 64, .v_head_dim = 64});
    struct kvp_estimate est;

    m.cls[0].norms = pure[_i].norms;
    m.vocab = pure[_i].vocab;
    m.tied = pure[_i].tied;
    est = estimate_of(&m, pure[_i].kind, (struct kvp_workload){.prompt = 100}, (struct kvp_options){0});
    ck_assert_msg(est.parameters == pure[_i].parameters, "%s: %" PRIu64 ", expected %" PRIu64, pure[_i].kind, est.parameters, pure[_i].parameters);
    kvp_estimate_free(&est);
}
END_TEST

/* ---- work and traffic --------------------------------------------------------------------------------- */

enum { FLOPS, READ, CALLS };

static uint64_t ops_sum(const struct kvp_estimate *est, enum kvp_op op, enum kvp_phase phase, int what)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < est->n_ops; i++) {
        const struct kvp_op_cost *x = &est->ops[i];

        if (x->op == op && x->phase == phase)
            sum += what == FLOPS ? x->flops : what == READ ? x->read_bytes : x->calls;
    }
    return sum;
}

static const struct {
    const char *model, *specs;
    struct kvp_workload w;
    enum kvp_op op;
    enum kvp_phase phase;
    int what;
    uint64_t value;
} works[] = {
    /* attention's FLOPs do not depend on the key-value heads: 4 * 32 * 32 * 128 * S */
    {"llama-2-7b", "mqa", {.context = 4096}, KVP_OP_ATTN, KVP_DECODE, FLOPS, 2147483648},
    {"llama-2-7b", "cla", {.context = 4096}, KVP_OP_ATTN, KVP_DECODE, FLOPS, 2147483648},
    /* every layer of cla passes over 2 * 4096 * 4096 * 2 B, and a row of q */
    {"llama-2-7b", "cla", {.context = 4096}, KVP_OP_ATTN, KVP_DECODE, READ, 2147483648 + 32 * 4096 * 4},
    {"llama-2-7b", "gqa:8", {.context = 4096}, KVP_OP_ATTN, KVP_DECODE, READ, 536870912 + 32 * 4096 * 4},
    {"llama-2-7b", "cla", {.context = 4096}, KVP_OP_QKV, KVP_DECODE, FLOPS, 2 * 4096 * (16 * 12288 + 16 * 4096ULL)},
    /* yoco: the upper half computes one token of the prompt; its one k and v all of them */
    {"llama-3-8b", "yoco", {.prompt = 1000}, KVP_OP_MLP_DOWN, KVP_PREFILL, FLOPS, 2 * 4096 * 14336 * (16 * 1000 + 16ULL)},
    {"llama-3-8b", "yoco", {.prompt = 1000}, KVP_OP_QKV, KVP_PREFILL, FLOPS, 2 * 4096 * (16 * 1000 * 12288ULL + 1000 * 2048 + 16 * 4096)},
    {"llama-3-8b", "yoco", {.prompt = 1000}, KVP_OP_ATTN, KVP_PREFILL, FLOPS, 4 * 4096 * (16 * 500500ULL + 16 * 1000)},
    {"llama-3-8b", "yoco", {.context = 4096}, KVP_OP_ATTN, KVP_DECODE, FLOPS, 4 * 4096 * (16 * 1024ULL + 16 * 4096)},
    /* xc-cache: 4 * 4 * 6144 * 4096 * 1024 */
    {"llama-2-7b", "xc-cache", {.prompt = 6176}, KVP_OP_REBUILD, KVP_DECODE, FLOPS, 412316860416},
    {"llama-2-7b", "xc-cache", {.prompt = 6176, .batch = 3}, KVP_OP_REBUILD, KVP_DECODE, FLOPS, 3 * 412316860416},
    {"llama-2-7b", "xc-cache:keep=kv", {.prompt = 6176}, KVP_OP_REBUILD, KVP_DECODE, FLOPS, 0},
    {"llama-2-7b", "xc-cache", {.prompt = 6176}, KVP_OP_CROSS_ATTN, KVP_DECODE, FLOPS, 4 * 4 * 1024 * 6144},
    {"llama-2-7b", "xc-cache", {.prompt = 6176}, KVP_OP_ATTN, KVP_DECODE, FLOPS, 4 * 32 * 4096 * 32}, /* its own 32 tokens */
    /* lorc: 16777216 FLOP a context token and layer for one key of 4096 from rank 2048 */
    {"llama-2-7b", "lorc", {.context = 4096}, KVP_OP_REBUILD, KVP_DECODE, FLOPS, 16777216ULL * 4096 * 32},
    {"llama-2-7b", "lorc:form=rebuild", {.context = 4096}, KVP_OP_REBUILD, KVP_DECODE, FLOPS, 2 * 16777216ULL * 4096 * 32},
    {"llama-2-7b", "lorc", {.context = 4096}, KVP_OP_ATTN, KVP_DECODE, FLOPS, 2ULL * 32 * 32 * (128 + 2048) * 4096},
    {"llama-2-7b", "lorc", {.context = 4096}, KVP_OP_ATTN, KVP_DECODE, READ, 1073741824 + 32 * 4096 * 4},
    {"llama-2-7b", "lorc", {.prompt = 100}, KVP_OP_REBUILD, KVP_PREFILL, FLOPS, 2 * 16777216ULL * 100 * 32},
    {"gpt2", "lorc", {.context = 100}, KVP_OP_REBUILD, KVP_DECODE, FLOPS, 0}, /* not rotated: absorbed, ranks 384 */
    {"gpt2", "lorc", {.context = 100}, KVP_OP_ATTN, KVP_DECODE, FLOPS, 2 * 12 * 12 * 768 * 100},
    {"gpt2", "lorc", {.context = 100}, KVP_OP_ABSORB, KVP_DECODE, FLOPS, 12 * 2 * 768 * 768},
    {"llama-2-7b", "lorc chunked-prefill:1k", {.prompt = 4096}, KVP_OP_REBUILD, KVP_PREFILL, FLOPS, 2 * 16777216ULL * (1024 * 10) * 32},
    /* chunks: 2048 * (1 + 2 + 3) tokens are read again; FLOPs are those of the triangle */
    {"llama-3-8b", "", {.prompt = 8192}, KVP_OP_ATTN, KVP_PREFILL, READ, 32 * 8192 * 4 * 6144ULL},
    {"llama-3-8b", "chunked-prefill", {.prompt = 8192}, KVP_OP_ATTN, KVP_PREFILL, READ, 32 * 8192 * 4 * 6144ULL + 1610612736},
    {"llama-3-8b", "chunked-prefill", {.prompt = 5000}, KVP_OP_ATTN, KVP_PREFILL, READ, 32 * 5000 * 4 * 6144ULL + 6144 * 131072},
    {"llama-3-8b", "chunked-prefill", {.prompt = 5000}, KVP_OP_ATTN, KVP_PREFILL, FLOPS, 4ULL * 32 * 4096 * 12502500},
    {"llama-3-8b", "chunked-prefill", {.prompt = 5000}, KVP_OP_MLP_DOWN, KVP_PREFILL, CALLS, 3 * 32},
    {"llama-3-8b", "chunked-prefill", {.prompt = 8192}, KVP_OP_HEAD, KVP_PREFILL, CALLS, 1},
    {"llama-3-8b", "chunked-prefill:4k", {.prompt = 4096}, KVP_OP_QKV, KVP_PREFILL, CALLS, 32},
    /* 3 sequences, hits of 992: 1024 + 2 * 32 rows, in two passes */
    {"llama-3-8b", "prefix:1000", {.prompt = 1024, .batch = 3}, KVP_OP_MLP_DOWN, KVP_PREFILL, FLOPS, 2ULL * 32 * 4096 * 14336 * (1024 + 64)},
    {"llama-3-8b", "prefix:1000", {.prompt = 1024, .batch = 3}, KVP_OP_ATTN, KVP_PREFILL, FLOPS,
     4ULL * 32 * 4096 * (3 * 524800ULL - 2 * 992 * 993 / 2)},
    {"llama-3-8b", "prefix:1000", {.prompt = 1024, .batch = 3}, KVP_OP_HEAD, KVP_PREFILL, FLOPS, 3ULL * 2 * 4096 * 128256},
    /* a budget of 2 prompts: 8 sequences in 4 passes */
    {"llama-3-8b", "continuous-batching:2k", {.prompt = 1024, .batch = 8}, KVP_OP_MLP_DOWN, KVP_PREFILL, CALLS, 4 * 32},
    {"llama-3-8b", "continuous-batching:2k", {.prompt = 1024, .batch = 7}, KVP_OP_MLP_DOWN, KVP_PREFILL, FLOPS, 2ULL * 32 * 4096 * 14336 * 7168},
    {"llama-3-8b", "continuous-batching:2k chunked-prefill:512", {.prompt = 1024, .batch = 8}, KVP_OP_MLP_DOWN, KVP_PREFILL, CALLS, 4 * 32},
};

START_TEST(work)
{
    struct kvp_model m = load(works[_i].model);
    struct kvp_estimate est = estimate_of(&m, works[_i].specs, works[_i].w, (struct kvp_options)F16);
    const uint64_t got = ops_sum(&est, works[_i].op, works[_i].phase, works[_i].what);

    ck_assert_msg(got == works[_i].value, "%s '%s' %s: %" PRIu64 ", expected %" PRIu64, works[_i].model, works[_i].specs, kvp_op_name(works[_i].op), got,
                  works[_i].value);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Condition numbers that are known: all in the first layer, and only the first has r_max; all in the last, and all have it. */
START_TEST(ranks_by_condition)
{
    static const struct {
        uint32_t layer;
        uint64_t ranks;
    } cases[] = {{0, 1024 + 31 * 256}, {15, 16 * 1024 + 16 * 256}, {31, 32 * 1024}};
    double conditions[32] = {0};
    struct kvp_model m = load("llama-3-8b");
    struct kvp_estimate est;

    ck_assert_uint_eq(m.layers, 32);
    conditions[cases[_i].layer] = 2.5;
    m.conditions = conditions;
    est = estimate_of(&m, "lorc:rule=progressive,r_max=1024,r_min=256", (struct kvp_workload){.context = 10}, (struct kvp_options)F16);
    ck_assert_uint_eq(est.memory.cache_bytes, cases[_i].ranks * 2 * 10 * 2);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* The decoder as its own encoder: what a prefill of the context does, but for the head and the rows that it would keep. */
START_TEST(own_encoder)
{
    struct kvp_model m = load("llama-2-7b");
    struct kvp_estimate dense = estimate_of(&m, "", (struct kvp_workload){.prompt = 6144, .batch = 2}, (struct kvp_options){.weights_given = true, .weights = KVP_F16, .all_logits = true});
    struct kvp_estimate off = estimate_of(&m, "xc-cache", (struct kvp_workload){.prompt = 6176, .batch = 2}, (struct kvp_options)F16);
    struct kvp_estimate own = estimate_of(&m, "xc-cache:encoder=self", (struct kvp_workload){.prompt = 6176, .batch = 2}, (struct kvp_options)F16);
    uint64_t flops = dense.flops_prefill_causal, read = 0;

    for (uint32_t i = 0; i < dense.n_ops; i++)
        if (dense.ops[i].phase == KVP_PREFILL && dense.ops[i].op != KVP_OP_HEAD && dense.ops[i].op != KVP_OP_APPEND)
            read += dense.ops[i].read_bytes;
    flops -= ops_sum(&dense, KVP_OP_HEAD, KVP_PREFILL, FLOPS);
    ck_assert_uint_eq(ops_sum(&off, KVP_OP_ENCODE, KVP_PREFILL, CALLS), 0);
    ck_assert_uint_eq(ops_sum(&own, KVP_OP_ENCODE, KVP_PREFILL, FLOPS), flops);
    ck_assert_uint_eq(ops_sum(&own, KVP_OP_ENCODE, KVP_PREFILL, READ), read);
    ck_assert_uint_eq(ops_sum(&own, KVP_OP_ENCODE, KVP_DECODE, CALLS), 0);
    ck_assert_uint_eq(own.flops_prefill_causal, off.flops_prefill_causal + flops);
    ck_assert_uint_eq(own.memory.cache_bytes, off.memory.cache_bytes);
    kvp_estimate_free(&dense);
    kvp_estimate_free(&off);
    kvp_estimate_free(&own);
    kvp_model_free(&m);
}
END_TEST

/* What passes through is a chunk's, or a budget's. */
static const struct {
    const char *specs, *as;
    struct kvp_workload w, as_w;
} rows[] = {
    {"chunked-prefill", "", {.prompt = 8192}, {.prompt = 2048}},
    {"chunked-prefill:100", "", {.prompt = 8192, .batch = 3}, {.prompt = 100, .batch = 3}},
    {"chunked-prefill:64k", "", {.prompt = 8192}, {.prompt = 8192}},
    {"continuous-batching:4k", "", {.prompt = 2048, .batch = 64}, {.prompt = 2048, .batch = 2}},
    {"continuous-batching:4k chunked-prefill:1k", "", {.prompt = 8192, .batch = 64}, {.prompt = 1024, .batch = 4}},
    {"continuous-batching:64k", "", {.prompt = 2048, .batch = 2}, {.prompt = 2048, .batch = 2}},
};

START_TEST(activation_rows)
{
    struct kvp_model m = load("llama-3-8b");
    struct kvp_estimate a = estimate_of(&m, rows[_i].specs, rows[_i].w, (struct kvp_options)F16);
    struct kvp_estimate b = estimate_of(&m, rows[_i].as, rows[_i].as_w, (struct kvp_options)F16);
    const uint64_t logits = 4ULL * 128256; /* a row of each sequence, up to 64 */
    const uint64_t more = a.workload.batch - b.workload.batch;

    ck_assert_uint_eq(a.memory.activation_bytes, b.memory.activation_bytes + more * logits);
    kvp_estimate_free(&a);
    kvp_estimate_free(&b);
    kvp_model_free(&m);
}
END_TEST

/* ---- lengths ------------------------------------------------------------------------------------------ */

static const uint64_t five[] = {5, 1000, 33, 4096, 129};

/* Tables are each sequence's own; the null page is there once. */
static const struct {
    const char *specs;
    uint64_t cache, metadata;
} ragged[] = {
    {"", 5263 * 131072LL, 0},
    {"contiguous:4096", 5 * 4096 * 131072LL, 0},
    {"paged:16", 5312 * 131072LL, 332 * 4},
    {"paged:16,null=1", 5328 * 131072LL, 332 * 4},
    {"paged:16,layout=vllm", 5328 * 131072LL, (8 + 64 + 8 + 256 + 16) * 4 + 5 * 4},
    {"paged:1,layout=sglang", 5264 * 131072LL, 5263 * 4 + 5263 * 8},
    {"window:100 paged:16", (16 + 112 + 48 + 112 + 112) * 131072LL, 25 * 4},
};

START_TEST(lengths)
{
    struct kvp_model m = load("llama-3-8b");
    struct kvp_stack s = {0};
    struct kvp_options o = F16;
    struct kvp_estimate est;
    const struct kvp_memory *x = &est.memory;

    ck_assert_int_eq(add_specs(&s, ragged[_i].specs), KVP_OK);
    ck_assert_int_eq(kvp_estimate_lengths(&est, &m, &s, five, 5, 0, &o, NULL, &test_error), KVP_OK);
    ck_assert_uint_eq(x->metadata_bytes, ragged[_i].metadata);
    ck_assert_uint_eq(x->cache_bytes, ragged[_i].cache + ragged[_i].metadata);
    ck_assert_int_eq((int64_t)x->cache_bytes,
                     5 * (x->fixed_bytes_per_sequence + (int64_t)x->bytes_per_token * 4096) + (int64_t)x->shared_bytes + x->rounding_bytes);
    ck_assert_uint_eq(est.token_steps, 5263);
    ck_assert_uint_eq(est.static_token_steps, 20480); /* 25.7 % of them used */
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* ---- what is refused ---------------------------------------------------------------------------------- */

static const struct {
    const char *model, *specs;
    struct kvp_workload w;
    kvp_err rc;
    const char *says;
} refused[] = {
    {"llama-2-7b", "gqa:7", {.context = 10}, KVP_EINPUT, "kv_heads=7 does not divide the 32 query heads"},
    {"llama-2-7b", "gqa:64", {.context = 10}, KVP_EINPUT, "kv_heads=64 does not divide"},
    {"deepseek-v3", "gqa", {.context = 10}, KVP_ENOTSUP, "no attention layer with key-value heads"},
    {"deepseek-v3", "lorc", {.context = 10}, KVP_ENOTSUP, "stores a latent already"},
    {"deepseek-v3", "cla", {.context = 10}, KVP_ENOTSUP, "no attention layer that stores k and v"},
    {"deepseek-v3", "mla:kv_rank=256", {.context = 10}, KVP_EINPUT, "only form= applies"},
    {"mistral-7b-v0.1", "mla", {.context = 10}, KVP_ENOTSUP, "layers with a window"},
    {"llama-3-8b", "lorc:k_rank=1025", {.context = 10}, KVP_EINPUT, "more than 1024"},
    {"llama-3-8b", "lorc:rule=progressive,r_max=100,r_min=200", {.context = 10}, KVP_EINPUT, "200"},
    {"llama-2-7b", "xc-cache:question=32", {.prompt = 32}, KVP_EINPUT, "question=32 leaves no context"},
    {"llama-2-7b", "xc-cache:encoder=self,encoder_width=1024", {.prompt = 100}, KVP_EINPUT, "encoder=self with encoder_width=1024"},
    {"llama-2-7b", "xc-cache:blocks=7,stride=6", {.prompt = 100}, KVP_EINPUT, "need 37 layers, llama-2-7b has 32"},
    {"llama-2-7b", "yoco:self_heads=5", {.context = 10}, KVP_EINPUT, "self_heads=5 does not divide"},
    {"llama-3-8b", "prefix:11", {.prompt = 10}, KVP_EINPUT, "shared=11 is more than the prompt of 10"},
    {"llama-3-8b", "prefix:block=8 paged:16", {.prompt = 100}, KVP_EINPUT, "block=8 is not a multiple of the pages of 16"},
    {"llama-3-8b", "prefix h2o", {.prompt = 100}, KVP_ENOTSUP, "an evicting sequence"},
    {"llama-3-8b", "continuous-batching:100", {.prompt = 101}, KVP_EINPUT, "add chunked-prefill"},
    {"llama-3-8b", "continuous-batching:100 chunked-prefill:101", {.prompt = 1010}, KVP_EINPUT, "chunk of 101"},
    {"llama-3-8b", "continuous-batching:100", {.prompt = 10, .batch = 101}, KVP_EINPUT, "decode step of 101"},
    {"llama-3-8b", "continuous-batching", {.prompt = 10, .batch = 257}, KVP_EINPUT, "max_num_seqs=256"},
};

START_TEST(refuses)
{
    struct kvp_model m = get(refused[_i].model);
    struct kvp_estimate est;
    kvp_err rc = try_estimate(&est, &m, refused[_i].specs, refused[_i].w, (struct kvp_options)F16, NULL);

    ck_assert_msg(rc == refused[_i].rc, "%s %s: %d %s", refused[_i].model, refused[_i].specs, rc, test_error.text);
    ck_assert_msg(strstr(test_error.text, refused[_i].says) != NULL, "says: %s", test_error.text);
    drop(&m);
}
END_TEST

/* Every technique's example does something on every built-in attention model, and never crashes. */
START_TEST(examples)
{
    static const char *const models[] = {"gpt2", "llama-3-8b", "mistral-7b-v0.1", "qwen3-0.6b"};
    const struct kvp_technique_info *t;

    for (size_t k = 0; k < COUNT(models); k++) {
        struct kvp_model m = load(models[k]);

        for (uint32_t i = 0; (t = kvp_technique_at(i)); i++) {
            struct kvp_workload w = {.batch = 2, .prompt = 60, .generate = 4};
            struct kvp_estimate est;
            char spec[160];
            kvp_err rc;

            ck_assert_int_eq(kvp_workload_resolve(&w, &test_error), KVP_OK);
            ck_assert_int_eq(kvp_technique_example(i, &m, &w, spec, sizeof(spec), &test_error), KVP_OK);
            rc = try_estimate(&est, &m, spec, w, (struct kvp_options)F16, NULL);
            ck_assert_msg(rc == KVP_OK || rc == KVP_ENOTSUP || rc == KVP_EINPUT, "%s %s: %s", models[k], spec, test_error.text);
            if (rc == KVP_OK)
                kvp_estimate_free(&est);
        }
        kvp_model_free(&m);
    }
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("model level");

    tcase_add_loop_test(t, vector, 0, (int)COUNT(vectors));
    tcase_add_loop_test(t, parameter_count, 0, (int)COUNT(parameters));
    tcase_add_loop_test(t, pure_recurrence, 0, (int)COUNT(pure));
    tcase_add_loop_test(t, work, 0, (int)COUNT(works));
    tcase_add_loop_test(t, ranks_by_condition, 0, 3);
    tcase_add_test(t, own_encoder);
    tcase_add_loop_test(t, activation_rows, 0, (int)COUNT(rows));
    tcase_add_loop_test(t, lengths, 0, (int)COUNT(ragged));
    tcase_add_loop_test(t, refuses, 0, (int)COUNT(refused));
    tcase_add_test(t, examples);
    return run("calc: model level", &t, 1);
}
