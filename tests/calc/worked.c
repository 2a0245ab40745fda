/* worked.c - worked examples of techniques.md, sections 3 to 5.1, that no other table holds, with the parameters that
 * give each: bytes, what a step reads, FLOPs, single tensors, lengths. "3.9 e" is its section. */
#include "tests/calc/calc_test.h"

#include <jansson.h>

#define MEM(field) offsetof(struct kvp_memory, field)
#define F16 {.weights_given = true, .weights = KVP_F16}
#define F32 {.weights_given = true, .weights = KVP_F32}
#define BF16 {.weights_given = true, .weights = KVP_BF16}

/* Models that no built-in name has, as their configs give them. */
static const char opt_67b[] =
    "{\"model_type\":\"opt\",\"vocab_size\":50272,\"hidden_size\":4096,\"num_hidden_layers\":32,\"num_attention_heads\":32,"
    "\"ffn_dim\":16384,\"max_position_embeddings\":2048,\"word_embed_proj_dim\":4096}";
static const char jamba_v01[] =
    "{\"model_type\":\"jamba\",\"vocab_size\":65536,\"hidden_size\":4096,\"num_hidden_layers\":32,\"num_attention_heads\":32,"
    "\"num_key_value_heads\":8,\"intermediate_size\":14336,\"attn_layer_period\":8,\"attn_layer_offset\":4,\"expert_layer_period\":2,"
    "\"expert_layer_offset\":1,\"num_experts\":16,\"num_experts_per_tok\":2,\"mamba_d_state\":16,\"mamba_d_conv\":4,\"mamba_expand\":2,"
    "\"mamba_dt_rank\":256,\"max_position_embeddings\":262144}";
#define RWKV(v) "{\"model_type\":\"rwkv" v "\",\"vocab_size\":65536,\"hidden_size\":4096,\"num_hidden_layers\":32}"

static struct kvp_model get(const char *what)
{
    struct kvp_model m;
    struct kvp_error e = {0};

    if (*what != '{')
        return load(what);
    ck_assert_msg(kvp_model_parse(&m, what, strlen(what), "text", &e) == KVP_OK, "%s", e.text);
    return m;
}

/* ---- bytes ------------------------------------------------------------------------------------------------- */

#define REST 524820480ULL /* Llama-2-7B: embedding, head, norms in f16 */
/* OPT-6.7B but its linears: embedding, positions, biases (3 D + D + 4 D + D a layer), LayerNorms, the last one */
#define OPT_REST (2ULL * (50272 * 4096 + 2050 * 4096 + 32 * (9 * 4096 + 4 * 4096) + 2 * 4096))

static const struct {
    const char *model, *specs;
    struct kvp_workload w;
    struct kvp_options o;
    size_t field;
    uint64_t bytes;
} vectors[] = {
    /* 3.2 e: the notebook's 129 stored tokens, 45.35 MiB for 360 MiB */
    {"gpt2-large", "window:129", {.context = 1024}, F32, MEM(cache_bytes), 129 * 368640},
    {"gpt2-large", "", {.context = 1024}, F32, MEM(cache_bytes), 360 << 20},
    {"mistral-7b-v0.1", "window:4096", {.context = 32768}, F16, MEM(cache_bytes), 512 << 20},
    /* 3.3 e: 409 MiB; a mask of the same budgets saves nothing: 2 GiB */
    {"llama-2-7b", "h2o:heavy_ratio=0.1,recent_ratio=0.1,score_dtype=f16", {.prompt = 4096}, F16, MEM(cache_bytes), (409 << 20) + 1675264},
    {"llama-2-7b", "h2o:variant=mask,heavy_ratio=0.1,recent_ratio=0.1", {.prompt = 4096}, F16, MEM(cache_bytes), 2ULL << 30},
    /* 3.4 e: 1024.25 MiB with query heads against 1024 MiB of no technique at all */
    {"llama-3-8b", "", {.context = 8192}, F16, MEM(cache_bytes), 1ULL << 30},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8,kernel=7,pooling=max,beta=20,heads=kv", {.prompt = 8192}, F16, MEM(cache_bytes), 268500992},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8,kernel=7,pooling=max,beta=20,heads=query", {.prompt = 8192}, F16, MEM(cache_bytes), 1074003968},
    /* 3.5 a: the paper's (3.1 h + 2) b r (s + n), where 5 % is a whole number of tokens: 12699.6 * 32 * 4000 */
    {"llama-2-7b", "minicache:start=16,gamma=0.05,magnitude=token,indices=0", {.context = 4000}, F16, MEM(cache_bytes), 1625548800},
    /* and its merged part, 3 b r h (s + n), beside the magnitudes of 2 heads' norms: 3 * 32 * 4096 * 4096 */
    {"llama-2-7b", "minicache:start=16,gamma=0,magnitude=head,indices=0", {.context = 4096}, F16, MEM(cache_bytes), 1610612736 + 8388608},
    /* 3.6 e: 16 GiB without yoco, 21.3 times 512 + 256 MiB */
    {"llama-3-8b", "", {.context = 131072}, F16, MEM(cache_bytes), 16ULL << 30},
    {"llama-3-8b", "yoco:window=1024,self_heads=32", {.context = 131072}, F16, MEM(cache_bytes), (512 + 256) << 20},
    {"llama-2-7b", "cla:3", {.context = 4096}, F16, MEM(cache_bytes), 704 << 20},
    /* 3.7 e: 8,192 bytes a context token where the decoder has 524,288 */
    {"llama-2-7b", "xc-cache:question=1", {.prompt = 2}, F16, MEM(cache_bytes), 8192 + 524288},
    {"llama-2-7b", "xc-cache:question=1", {.prompt = 6145}, F16, MEM(cache_bytes), (48 << 20) + 524288},
    {"llama-2-7b", "", {.context = 6144}, F16, MEM(cache_bytes), 3ULL << 30},
    {"llama-2-7b", "xc-cache:question=1,keep=kv", {.prompt = 2}, F16, MEM(cache_bytes), 16384 + 524288},
    /* 3.8 a: the all-f32 demos, (2 + 64) * C * 4 a layer; 3.8 e: Jamba's 4 GiB at 262,144 tokens */
    {RWKV("6"), "", {.context = 10}, F32, MEM(state_bytes), 32 * 66 * 4096 * 4},
    {jamba_v01, "", {.context = 262144}, BF16, MEM(cache_bytes), 4ULL << 30},
    {jamba_v01, "", {.context = 262144}, {.weights_given = true, .weights = KVP_F16, .ssm_given = true, .ssm = KVP_F16, .conv_full = true}, MEM(state_bytes), 9175040},
    /* 3.9 a: blocks of ggml in 224 matrices of Llama-2-7B, 6,476,005,376 elements; norms, embedding and head as asked */
    {"llama-2-7b", "w:q8_0,norms=plain,embed=plain,head=plain", {.context = 1}, F16, MEM(weights_bytes), 6476005376 / 32 * 34 + REST},
    {"llama-2-7b", "w:q4_0,norms=plain,embed=plain,head=plain", {.context = 1}, F16, MEM(weights_bytes), 6476005376 / 32 * 18 + REST},
    {"llama-2-7b", "w:q4_1,norms=plain,embed=plain,head=plain", {.context = 1}, F16, MEM(weights_bytes), 6476005376 / 32 * 20 + REST},
    {"llama-2-7b", "w:q4_k,norms=plain,embed=plain,head=plain", {.context = 1}, F16, MEM(weights_bytes), 6476005376 / 256 * 144 + REST},
    {"llama-2-7b", "w:q5_k,norms=plain,embed=plain,head=plain", {.context = 1}, F16, MEM(weights_bytes), 6476005376 / 256 * 176 + REST},
    {"llama-2-7b", "w:q6_k,norms=plain,embed=plain,head=plain", {.context = 1}, F16, MEM(weights_bytes), 6476005376 / 256 * 210 + REST},
    {"llama-2-7b", "w:f16", {.context = 1}, F16, MEM(weights_bytes), 2 * 6476005376 + REST},
    {"llama-2-7b", "w:awq,group=128", {.context = 1}, F16, MEM(weights_bytes), 3364487168 + REST},
    /* KV: a static scale of a tensor; per token and head 132 bytes for 128 values, of fp8 too */
    {"llama-3-8b", "kv:int8,scale=tensor", {.context = 8192}, F16, MEM(cache_bytes), 536871168},
    {"llama-3-8b", "kv:fp8,scale=token-head", {.context = 8192}, F16, MEM(cache_bytes), 553648128},
    {"llama-3-8b", "kv:q4_0", {.context = 8192}, F16, MEM(cache_bytes), 536870912 / 32 * 18},
    {"llama-3-8b", "kv:int4,scale=group,group=32", {.context = 8192}, F16, MEM(cache_bytes), 536870912 / 2 + 536870912 / 32 * 4},
    /* 3.9 e: 4.995 and 4.70 times less; 390.5, 662 and 315.5 MiB */
    {"llama-2-7b", "kivi:bits=2,group=32,residual=32", {.context = 4096}, F16, MEM(cache_bytes), 781 << 19},
    {"llama-2-7b", "kivi:bits=4,group=32,residual=128", {.context = 4096}, F16, MEM(cache_bytes), 662 << 20},
    {"llama-2-7b", "kivi:bits=2,group=128,residual=128", {.context = 4096}, F16, MEM(cache_bytes), 631 << 19},
    {"llama-2-7b", "kivi:bits=2,group=32,residual=128", {.context = 4096}, F16, MEM(cache_bytes), 410 << 20},
    /* 3.10 e: OPT-6.7B's linears are 6 GiB in int8 instead of 12, its cache half a GiB instead of one; gpt2-large's 1024 tokens in
     * int8. A scale a row: 9 D rows a layer, one a tensor: 6 matrices */
    {opt_67b, "", {.context = 2048}, F16, MEM(weights_bytes), (12ULL << 30) + OPT_REST},
    {opt_67b, "smoothquant", {.context = 2048}, F16, MEM(weights_bytes), (6ULL << 30) + 32 * 9 * 4096 * 4 + OPT_REST},
    {opt_67b, "smoothquant:scale=tensor", {.context = 2048}, F16, MEM(weights_bytes), (6ULL << 30) + 32 * 6 * 4 + OPT_REST},
    {opt_67b, "smoothquant:kv=int8", {.context = 2048}, F16, MEM(cache_bytes), 536870912},
    {opt_67b, "smoothquant", {.context = 2048}, F16, MEM(cache_bytes), 1 << 30},
    {"gpt2-large", "smoothquant:kv=int8", {.context = 1024}, F32, MEM(cache_bytes), 94371840},
    /* 3.11 e */
    {"llama-2-7b", "lorc:k_rank=2048,v_rank=2048", {.context = 4096}, F16, MEM(cache_bytes), 1 << 30},
    /* 3.13 e: 2 MiB a page in all layers */
    {"llama-3-8b", "paged:16", {.context = 16}, F16, MEM(cache_bytes), (2 << 20) + 4},
    {"llama-3-8b", "paged:256", {.context = 5}, F16, MEM(cache_bytes), 256 * 131072 + 4},
    /* 3.2 e: vLLM may reserve (768 + 1) * 16 = 12304 slots while a prompt is computed 8192 tokens at a time; and a null page, the
     * table's 256 pages and the length. No more than the prompt's own 2048 pages where it is computed at once */
    {"mistral-7b-v0.1", "window:4096 paged:16,layout=vllm chunked-prefill:8192", {.prompt = 32768}, F16, MEM(cache_peak_bytes),
     (12304 + 16) * 131072ULL + 256 * 4 + 4},
    {"mistral-7b-v0.1", "window:4096 paged:16,layout=vllm chunked-prefill:8192", {.prompt = 32768}, F16, MEM(cache_bytes),
     (4096 + 16) * 131072ULL + 256 * 4 + 4},
    {"mistral-7b-v0.1", "window:4096 paged:16,layout=vllm", {.prompt = 32768}, F16, MEM(cache_peak_bytes), (32768 + 16) * 131072ULL + 256 * 4 + 4},
    {"mistral-7b-v0.1", "window:4096 paged:16 chunked-prefill:8192", {.prompt = 32768}, F16, MEM(cache_peak_bytes), 4096 * 131072ULL + 256 * 4},
    /* 4: DuoAttention with its window written out, 8.02 GiB; Quest's 16 + 1 GiB */
    {"llama-3-8b", "duo:0.5,sink=64,recent=256", {.context = 131072}, F16, MEM(cache_bytes), 8610906112},
    {"llama-2-7b", "quest:page=16", {.context = 32768}, F16, MEM(cache_bytes), 17ULL << 30},
    {"llama-3-8b", "snapkv:cap=2048,window=32,kernel=5,pooling=avg", {.prompt = 8192, .generate = 10}, F16, MEM(cache_bytes), 2058 * 131072},
    {"llama-3-8b", "adakv:cap=2048,window=32", {.prompt = 8192, .generate = 10}, F16, MEM(cache_bytes), 2058 * 131072 + 32 * 4 * (7 * 8 + 3)},
    {"llama-2-7b", "tova:1024", {.prompt = 4000, .generate = 96}, F16, MEM(cache_peak_bytes), 536870912},
};

START_TEST(vector)
{
    struct kvp_model m = get(vectors[_i].model);
    struct kvp_estimate est = estimate_of(&m, vectors[_i].specs, vectors[_i].w, vectors[_i].o);
    uint64_t got;

    memcpy(&got, (const char *)&est.memory + vectors[_i].field, sizeof(got));
    ck_assert_msg(got == vectors[_i].bytes, "%s '%s' context %" PRIu64 ": %" PRIu64 ", expected %" PRIu64, m.name, vectors[_i].specs,
                  est.workload.context, got, vectors[_i].bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Tensors of the cache by their name's beginning, and which of them. */
static const struct {
    const char *model, *specs;
    uint64_t context;
    const char *name;
    uint64_t bytes;
} tensors[] = {
    /* 3.4 e: 3986 tokens in the lowest layer, 111 in the highest; cap 128: 242 to 25 */
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", 8192, "k[0]", 3986 * 2048},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", 8192, "v[1]", 3861 * 2048},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", 8192, "k[31]", 111 * 2048},
    {"llama-3-8b", "pyramidkv:cap=128,window=8", 8192, "k[0]", 242 * 2048},
    {"llama-3-8b", "pyramidkv:cap=128,window=8", 8192, "v[31]", 25 * 2048},
    /* 3.5 e */
    {"llama-2-7b", "minicache:start=16,gamma=0.05,indices=0", 4096, "k[0]", 1073741824 / 2},
    {"llama-2-7b", "minicache:start=16,gamma=0.05,indices=0", 4096, "k_direction", 536870912 / 2},
    {"llama-2-7b", "minicache:start=16,gamma=0.05,indices=0", 4096, "v_direction", 536870912 / 2},
    {"llama-2-7b", "minicache:start=16,gamma=0.05,indices=0", 4096, "k_magnitude", 8388608 / 2},
    {"llama-2-7b", "minicache:start=16,gamma=0.05,indices=0", 4096, "k_retained", 53739520 / 2},
    {"llama-2-7b", "minicache:start=16,gamma=0.05,indices=0", 4096, "v_retained", 53739520 / 2},
    /* 3.13 e: 65,536 bytes a page and layer, k and v */
    {"llama-3-8b", "paged:16", 16, "k[0]", 32 * 65536 / 2},
    {"llama-3-8b", "paged:16", 16, "v[0]", 32 * 65536 / 2},
};

/* `name`, or `name[...]`. */
static bool named(const char *tensor, const char *name)
{
    const size_t n = strlen(name);

    return strncmp(tensor, name, n) == 0 && (!tensor[n] || (tensor[n] == '[' && name[n - 1] != ']'));
}

START_TEST(tensor)
{
    struct kvp_model m = get(tensors[_i].model);
    struct kvp_estimate est = estimate_of(&m, tensors[_i].specs, (struct kvp_workload){.prompt = tensors[_i].context}, (struct kvp_options)F16);
    uint64_t got = 0;

    for (uint32_t i = 0; i < est.n_tensors; i++) {
        const struct kvp_tensor *t = &est.tensors[i];
        char name[64];

        snprintf(name, sizeof(name), t->cls == UINT32_MAX ? "%s" : "%s[%" PRIu32 "]", t->name, t->cls);
        got += (t->tag == KVP_TAG_CACHE || t->tag == KVP_TAG_METADATA) && named(name, tensors[_i].name) ? t->bytes : 0;
    }
    ck_assert_msg(got == tensors[_i].bytes, "%s '%s' %s: %" PRIu64 ", expected %" PRIu64, m.name, tensors[_i].specs, tensors[_i].name, got,
                  tensors[_i].bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* The floor of the official rule leaves ((hi - lo) mod (L - 1)) * L / 2 tokens more than L * cap (3.4 a). */
START_TEST(pyramid_excess)
{
    struct kvp_model m = load("llama-3-8b");

    for (uint64_t cap = 16; cap < 700; cap += 13) {
        const uint64_t C = cap - 8, lo = C / 20, hi = 2 * C - lo;
        char spec[64];
        struct kvp_estimate est;

        snprintf(spec, sizeof(spec), "pyramidkv:cap=%" PRIu64 ",window=8", cap);
        est = estimate_of(&m, spec, (struct kvp_workload){.prompt = 8192}, (struct kvp_options)F16);
        ck_assert_uint_eq(est.memory.cache_bytes, 4096 * (32 * cap + (hi - lo) % 31 * 32 / 2));
        kvp_estimate_free(&est);
    }
    kvp_model_free(&m);
}
END_TEST

/* ---- work -------------------------------------------------------------------------------------------------- */

enum what { FLOPS, READ, WRITTEN };

/* The q of a step's attention, f32: 32 * 4 * 4096 in Llama-2-7B and Llama-3-8B. */
#define Q 524288ULL

static const struct {
    const char *model, *specs;
    struct kvp_workload w;
    enum kvp_phase phase;
    enum kvp_op op;
    enum what what;
    uint64_t value;
} works[] = {
    /* 3.1 c, e: 512 MiB a step; 4 L H d S and 3 L Hkv d S for the rotation; one token written */
    {"llama-2-7b", "streaming-llm:sink=4,recent=1020", {.context = 4096}, KVP_DECODE, KVP_OP_ATTN, READ, (512 << 20) + Q},
    {"llama-2-7b", "streaming-llm:sink=4,recent=1020", {.context = 4096}, KVP_DECODE, KVP_OP_ATTN, FLOPS, (4 + 3) * 32 * 4096 * 1024ULL},
    {"llama-2-7b", "streaming-llm:sink=4,recent=1020", {.context = 4096}, KVP_DECODE, KVP_OP_APPEND, WRITTEN, 524288},
    {"llama-2-7b", "streaming-llm:sink=4,recent=1020", {.context = 4096}, KVP_PREFILL, KVP_OP_ATTN, FLOPS, 4399120252928},
    /* 3.2 c: 4 L H d (m (m + 1) / 2 + (T - m) W) */
    {"mistral-7b-v0.1", "window:4096", {.prompt = 32768}, KVP_PREFILL, KVP_OP_ATTN, FLOPS, 4ULL * 32 * 4096 * (4096 * 4097 / 2 + 28672ULL * 4096)},
    {"mistral-7b-v0.1", "window:4096", {.context = 32768}, KVP_DECODE, KVP_OP_ATTN, READ, (512 << 20) + Q},
    {"mistral-7b-v0.1", "window:4096", {.context = 32768}, KVP_DECODE, KVP_OP_APPEND, WRITTEN, 131072},
    /* 3.4 c: the window's scores 2 H w d q, sums H w (q - w), pooling k H (q - w); max pooling compares */
    {"llama-3-8b", "pyramidkv:cap=2048,window=8,kernel=7,pooling=avg,heads=query", {.prompt = 8192}, KVP_PREFILL, KVP_OP_SELECT, FLOPS,
     32ULL * (2 * 32 * 8 * 128 * 8192ULL + 32 * 8 * 8184 + 7 * 32 * 8184)},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", {.prompt = 8192, .generate = 1}, KVP_DECODE, KVP_OP_ATTN, FLOPS, 4ULL * 4096 * (65552 + 32)},
    /* 3.5 c: traffic is not halved: K and V of all layers but what is retained twice, and the magnitudes */
    {"llama-2-7b", "minicache:start=16,gamma=0,indices=0", {.context = 4096}, KVP_DECODE, KVP_OP_ATTN, READ, (2ULL << 30) + 8388608 + Q},
    {"llama-2-7b", "minicache:start=16,gamma=0,indices=0", {.prompt = 4096}, KVP_PREFILL, KVP_OP_MERGE, FLOPS, 14ULL * 128 * 8 * 4096 * 32 * 2},
    /* 3.6 c */
    {"llama-2-7b", "gqa:8", {.context = 4096}, KVP_DECODE, KVP_OP_ATTN, FLOPS, 2147483648},
    {"llama-2-7b", "gqa:8", {.context = 4096}, KVP_DECODE, KVP_OP_QKV, FLOPS, 32ULL * 2 * 4096 * (4096 + 2 * 1024)},
    {"llama-2-7b", "gqa:8", {.context = 4096}, KVP_DECODE, KVP_OP_APPEND, WRITTEN, 131072},
    {"llama-2-7b", "cla:2", {.context = 4096}, KVP_DECODE, KVP_OP_APPEND, WRITTEN, 262144},
    /* 3.7 c, e: 4 nx Dx Tc and 4 nx Tc D Dx a token */
    {"llama-2-7b", "xc-cache:blocks=4,stride=6,inner=1024,question=1", {.prompt = 6145}, KVP_DECODE, KVP_OP_CROSS_ATTN, FLOPS, 4ULL * 4 * 1024 * 6144},
    {"llama-2-7b", "xc-cache:blocks=4,stride=6,inner=1024,question=1", {.prompt = 6145}, KVP_DECODE, KVP_OP_REBUILD, FLOPS, 412316860416},
    /* 3.9 c: a step moves the stored bytes once: half of the cache in int8 and a scale a row */
    {"llama-3-8b", "kv:int8", {.context = 8192}, KVP_DECODE, KVP_OP_ATTN, READ, 553648128 + Q},
    /* 3.11 c, e: 1024 times the 16,384 FLOP of dense attention a context token */
    {"llama-2-7b", "lorc:k_rank=2048,v_rank=2048", {.context = 1}, KVP_DECODE, KVP_OP_REBUILD, FLOPS, 32 * 1024 * 16384},
    {"llama-2-7b", "", {.context = 1}, KVP_DECODE, KVP_OP_ATTN, FLOPS, 32 * 16384},
    /* 3.12 c, e: n new tokens after a hit of p: 4 L H d (n p + n (n + 1) / 2); 12,288 tokens are read again */
    {"llama-3-8b", "prefix:992,block=16", {.prompt = 1024, .batch = 2}, KVP_PREFILL, KVP_OP_ATTN, FLOPS,
     4ULL * 32 * 4096 * (1024 * 1025 / 2 + 32 * 992 + 32 * 33 / 2)},
    {"llama-3-8b", "chunked-prefill:2048", {.prompt = 8192}, KVP_PREFILL, KVP_OP_ATTN, READ, 8192 * 4 * 32 * 6144ULL + 12288 * 131072ULL},
    {"llama-3-8b", "chunked-prefill:2048", {.prompt = 8192}, KVP_PREFILL, KVP_OP_ATTN, FLOPS, 2ULL * 32 * 4096 * 8192 * 8193},
    /* 3.13 a, c: growing copies the cache once more, 2 KV(T - 1); 4 bytes of table a page and layer */
    {"llama-2-7b", "growing", {.prompt = 4095, .generate = 1}, KVP_DECODE, KVP_OP_GROW, READ, 4095 * 524288ULL},
    {"llama-2-7b", "growing", {.prompt = 4095, .generate = 1}, KVP_DECODE, KVP_OP_GROW, WRITTEN, 4095 * 524288ULL},
    {"llama-3-8b", "paged:16", {.context = 8192}, KVP_DECODE, KVP_OP_ATTN, READ, (1 << 30) + 32 * 512 * 4 + Q},
    /* 4: TOVA's newest token takes part, m + 1 keys; Quest's bounds are 2 Hkv d b a page */
    {"llama-2-7b", "tova:1024", {.context = 4096}, KVP_DECODE, KVP_OP_ATTN, FLOPS, 4ULL * 32 * 4096 * 1025},
    {"llama-2-7b", "quest:page=16,dense=2", {.context = 32768}, KVP_DECODE, KVP_OP_INDEX, READ, 30ULL * (2 * 4096 * 2 * 2048 + 4 * 4096)},
};

START_TEST(work)
{
    struct kvp_model m = get(works[_i].model);
    struct kvp_estimate est = estimate_of(&m, works[_i].specs, works[_i].w, (struct kvp_options)F16);
    uint64_t sum = 0;

    for (uint32_t i = 0; i < est.n_ops; i++) {
        const struct kvp_op_cost *x = &est.ops[i];

        if (x->op == works[_i].op && x->phase == works[_i].phase)
            sum += works[_i].what == FLOPS ? x->flops : works[_i].what == READ ? x->read_bytes : x->written_bytes;
    }
    ck_assert_msg(sum == works[_i].value, "%s '%s' %s: %" PRIu64 ", expected %" PRIu64, m.name, works[_i].specs, kvp_op_name(works[_i].op), sum,
                  works[_i].value);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* 3.12 e: the notebook's requests of 39, 39 and 45 words, 34 shared: 123 - 2 * 34 = 55 tokens are kept. */
START_TEST(three_requests)
{
    static const uint64_t lengths[] = {39, 39, 45};
    struct kvp_model m = load("llama-3-8b");
    struct kvp_stack s = {0};
    struct kvp_options o = F16;
    struct kvp_estimate est;

    ck_assert_int_eq(add_specs(&s, "prefix:34,granularity=token"), KVP_OK);
    ck_assert_int_eq(kvp_estimate_lengths(&est, &m, &s, lengths, 3, 0, &o, NULL, &test_error), KVP_OK);
    ck_assert_uint_eq(est.token_steps, 123);
    ck_assert_uint_eq(est.memory.cache_bytes, 55 * 131072);
    ck_assert_uint_eq(est.memory.shared_bytes, 34 * 131072);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* 3.9: KIVI's closed form against its state machine, token by token, from every length of the prompt. Of k and v apart, in
 * tokens: quantized and whole. */
START_TEST(kivi_state_machine)
{
    enum { R = 32, HEAD = 128, Q2 = 2 };
    struct kvp_model m = load("llama-2-7b");

    for (uint64_t prompt = 1; prompt < 3 * R; prompt += 7) {
        uint64_t kq = prompt / R * R, kf = prompt - kq, vq = prompt > R ? prompt - R : 0, vf = prompt - vq;

        for (uint64_t n = 0; n < 2 * R + 3; n++) {
            /* a head's bytes: 2 bits a value, an f16 scale and minimum for each 32, f16 rows */
            const uint64_t head = (kq + vq) * (HEAD * Q2 / 8 + HEAD / 32 * 4) + (kf + vf) * HEAD * 2;
            struct kvp_estimate est = estimate_of(&m, "kivi:bits=2,group=32,residual=32", (struct kvp_workload){.prompt = prompt, .generate = n}, (struct kvp_options)F16);

            ck_assert_msg(est.memory.cache_bytes == head * 1024, "prompt %" PRIu64 " + %" PRIu64 ": %" PRIu64 ", expected %" PRIu64, prompt, n,
                          est.memory.cache_bytes, head * 1024);
            kvp_estimate_free(&est);
            if (++kf == R)
                kq += R, kf = 0;
            if (++vf > R)
                vq++, vf = R;
        }
    }
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("worked examples");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, vector, 0, (int)COUNT(vectors));
    tcase_add_loop_test(t, tensor, 0, (int)COUNT(tensors));
    tcase_add_test(t, pyramid_excess);
    tcase_add_loop_test(t, work, 0, (int)COUNT(works));
    tcase_add_test(t, three_requests);
    tcase_add_test(t, kivi_state_machine);
    return run("calc: worked examples", &t, 1);
}
