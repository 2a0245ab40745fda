/* token_level.c - techniques that choose which tokens stay, or merge layers: worked examples of the papers and
 * their public code, to the byte, and what they cannot do. */
#include "tests/calc/calc_test.h"

#define MEM(field) offsetof(struct kvp_memory, field)
#define F16 {.weights_given = true, .weights = KVP_F16}

static const struct {
    const char *model, *specs;
    struct kvp_workload w;
    size_t field;
    uint64_t bytes;
} vectors[] = {
    /* sinks: 2*32*32*128*2 = 524288 bytes a token of llama-2-7b, min(T, sink + recent) tokens */
    {"llama-2-7b", "streaming-llm:recent=2000", {.context = 4096}, MEM(cache_bytes), 1050673152},
    {"llama-2-7b", "streaming-llm:recent=1020", {.context = 4096}, MEM(cache_bytes), 536870912},
    {"llama-2-7b", "streaming-llm:recent=1020", {.prompt = 4000, .generate = 96}, MEM(cache_peak_bytes), 536870912},
    {"llama-2-7b", "streaming-llm:recent=1020", {.context = 1023}, MEM(cache_bytes), 1023 * 524288ULL},
    {"llama-2-7b", "streaming-llm:sink=1,recent=255", {.context = 4096}, MEM(cache_bytes), 256 * 524288ULL},
    {"llama-2-7b", "streaming-llm:recent=1020", {.context = 4096}, MEM(bytes_per_token), 0},
    /* the variants choose once and grow: int(4001 * 0.75) = 3000 + 95; 512 + 96; a prompt that fits is left alone */
    {"llama-2-7b", "streaming-llm:variant=kvpress,ratio=0.25", {.prompt = 4001, .generate = 95}, MEM(cache_bytes), 3095 * 524288ULL},
    {"llama-2-7b", "streaming-llm:variant=factory", {.prompt = 4000, .generate = 96}, MEM(cache_bytes), 608 * 524288ULL},
    {"llama-2-7b", "streaming-llm:variant=factory", {.prompt = 400, .generate = 96}, MEM(cache_bytes), 496 * 524288ULL},
    {"llama-2-7b", "streaming-llm:variant=factory", {.prompt = 4000, .generate = 96}, MEM(bytes_per_token), 524288},
    {"llama-2-7b", "streaming-llm:recent=1020 paged:16", {.context = 4096}, MEM(cache_bytes), 536870912 + 64 * 4},
    /* h2o: mask keeps the dense cache; flexgen 2 * 409 slots from the start, a score each (as drop at 4096) */
    {"llama-2-7b", "h2o:variant=drop,score_dtype=f16", {.context = 4096}, MEM(cache_bytes), 428867584 + 1675264},
    {"llama-2-7b", "h2o:variant=mask", {.context = 4096}, MEM(cache_bytes), 2147483648},
    {"llama-2-7b", "h2o:variant=mask", {.context = 4096}, MEM(metadata_bytes), 0},
    {"llama-2-7b", "h2o:variant=flexgen,score_dtype=f16", {.context = 4096}, MEM(cache_bytes), 428867584 + 1675264},
    {"llama-2-7b", "h2o:variant=flexgen,heavy=409,score_dtype=f16", {.context = 100}, MEM(cache_bytes), 428867584 + 1675264},
    {"llama-2-7b", "h2o:variant=flexgen,heavy=409,score_dtype=f16", {.context = 100}, MEM(rounding_bytes), 718 * (524288 + 2048)},
    /* pyramidkv: llama-3-8b keeps 4096 bytes a token and layer; 65,552 tokens */
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", {.context = 8192}, MEM(cache_bytes), 268500992},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8,heads=query", {.context = 8192}, MEM(cache_bytes), 1074003968},
    {"llama-3-8b", "pyramidkv:cap=128,window=8", {.context = 8192}, MEM(cache_bytes), 4272 * 4096},
    {"llama-3-8b", "pyramidkv:cap=320,window=64,kernel=5,pooling=avg", {.context = 8192}, MEM(cache_bytes), 10608 * 4096},
    {"llama-3-8b", "pyramidkv:cap=2048,window=32", {.context = 4096}, MEM(cache_bytes), 65840ULL * 4096},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", {.context = 3000}, MEM(cache_bytes), 2048 * 131072},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", {.context = 2047}, MEM(cache_bytes), 2047 * 131072},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", {.context = 2048}, MEM(cache_bytes), 2048 * 131072},
    /* 2C = 4080: 4079 is uniform; at 4080 hi 3978 is less than q - w = 4072, so 65,552 again */
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", {.context = 4079}, MEM(cache_bytes), 2048 * 131072},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", {.context = 4080}, MEM(cache_bytes), 268500992},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", {.prompt = 8192, .generate = 100}, MEM(cache_bytes), 268500992 + 100 * 131072},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8 growing", {.prompt = 8192, .generate = 100}, MEM(cache_bytes), 268500992 + 100 * 131072},
    {"llama-3-8b", "pyramidkv:cap=2048,window=8", {.context = 8192}, MEM(bytes_per_token), 131072},
    /* kvpress: C 4096, lo 204.8, hi 7987.2, both inside; symmetric about 4096, so 32 * 4096 tokens by round-half-even of
     * hi - l * 7782.4 / 31 (worked with Python's round) */
    {"llama-3-8b", "pyramidkv:rule=kvpress,ratio=0.5,window=64", {.context = 8192}, MEM(cache_bytes), 131072 * 4096ULL},
    /* lo 26.2 is less than the window of 64: round(524.288) = 524 in every layer */
    {"llama-3-8b", "pyramidkv:rule=kvpress,ratio=0.936,window=64", {.context = 8192}, MEM(cache_bytes), 524 * 131072},
    /* snapkv: min(P, cap) + n */
    {"llama-3-8b", "snapkv", {.prompt = 8192, .generate = 10}, MEM(cache_bytes), 2058 * 131072},
    {"llama-3-8b", "snapkv", {.prompt = 2047, .generate = 10}, MEM(cache_bytes), 2057 * 131072},
    {"llama-3-8b", "snapkv:heads=query", {.prompt = 8192, .generate = 10}, MEM(cache_bytes), 2058 * 524288ULL},
    /* adakv: the same and 4 * (7 * 8 + 3) = 236 bytes a layer */
    {"llama-3-8b", "adakv", {.prompt = 8192, .generate = 10}, MEM(cache_bytes), 2058 * 131072 + 32 * 236},
    {"llama-3-8b", "adakv", {.prompt = 8192, .generate = 10}, MEM(metadata_bytes), 32 * 236},
    /* snapkv leaves 4096 and 4095 of 8192 tokens: kivi's own vectors for those */
    {"llama-2-7b", "snapkv:4096 kivi", {.context = 8192}, MEM(cache_bytes), 429916160},
    {"llama-2-7b", "snapkv:4095 kivi", {.context = 8192}, MEM(cache_bytes), 456867840},
    {"llama-2-7b", "snapkv:4000 kivi", {.prompt = 8192, .generate = 96}, MEM(cache_bytes), 429916160},
    /* tova: min(T, m) */
    {"llama-2-7b", "tova:1024", {.context = 4096}, MEM(cache_bytes), 536870912},
    {"llama-2-7b", "tova:1024", {.context = 1000}, MEM(cache_bytes), 1000 * 524288ULL},
    /* quest: 16 GiB + 1 GiB; ceil(33 / 16) = 3 pages of min and max, 524288 bytes each */
    {"llama-2-7b", "quest", {.context = 32768}, MEM(cache_bytes), (16ULL << 30) + (1ULL << 30)},
    {"llama-2-7b", "quest", {.context = 32768}, MEM(metadata_bytes), 1ULL << 30},
    {"llama-2-7b", "quest", {.context = 33}, MEM(cache_bytes), (33 + 3) * 524288ULL},
    {"llama-2-7b", "quest growing", {.prompt = 30, .generate = 3}, MEM(cache_bytes), (33 + 3) * 524288ULL},
    /* duo: 32 layers * 512 * (4 * 131072 + 4 * 320); the static slots are there at 100 tokens too */
    {"llama-3-8b", "duo", {.context = 131072}, MEM(cache_bytes), 8610906112},
    {"llama-3-8b", "duo", {.context = 100}, MEM(cache_bytes), 32 * 512 * (4 * 100 + 4 * 320)},
    {"llama-3-8b", "duo", {.context = 100}, MEM(rounding_bytes), 32 * 512 * 4 * 220},
    {"llama-3-8b", "duo growing", {.context = 100}, MEM(cache_bytes), 100 * 131072},
    {"llama-3-8b", "duo contiguous:1000", {.context = 100}, MEM(cache_bytes), 32 * 512 * (4 * 1000 + 4 * 320)},
    {"llama-3-8b", "duo:1", {.context = 1000}, MEM(cache_bytes), 1000 * 131072},
    {"llama-3-8b", "duo:0", {.context = 1000}, MEM(cache_bytes), 320 * 131072},
    /* a quarter of 1024 heads: 1024 - ceil(0.75 * 1023) = 256, 8 a layer: 512 * (8 * T + 24 * 320) */
    {"llama-2-7b", "duo:0.25", {.context = 4096}, MEM(cache_bytes), 32ULL * 512 * (8 * 4096 + 24 * 320)},
    /* minicache: dense 1073741824 + directions 536870912 + magnitudes 8388608 + retained 8*2*2*32*205*128*2 */
    {"llama-2-7b", "minicache:indices=0", {.context = 4096}, MEM(cache_bytes), 1672740864},
    {"llama-2-7b", "minicache:start=16,indices=0", {.context = 4096}, MEM(metadata_bytes), 8388608},
    {"llama-2-7b", "minicache:indices=1", {.context = 4096}, MEM(cache_bytes), 1672740864 + 8 * 32 * 205 * 4},
    {"llama-2-7b", "minicache:indices=2", {.context = 4096}, MEM(cache_bytes), 1672740864 + 2 * 8 * 32 * 205 * 4},
    {"llama-2-7b", "minicache:indices=2,index_dtype=i64", {.context = 4096}, MEM(cache_bytes), 1672740864 + 2 * 8 * 32 * 205 * 8},
    {"llama-2-7b", "minicache:indices=0,magnitude=token", {.context = 4096}, MEM(cache_bytes), 1672740864 - 8388608 / 32 * 31},
    /* an odd number of layers from 17 on: 7 pairs, 18 dense layers of 16384 bytes a token */
    {"llama-2-7b", "minicache:start=17,indices=0", {.context = 4096}, MEM(cache_bytes),
     18 * 67108864ULL + 7 * 67108864ULL + 7 * 4 * 32 * 4096 * 2ULL + 7 * 4 * 32 * 205 * 256ULL},
    {"llama-2-7b", "window:1024 minicache:indices=0,gamma=0", {.context = 4096}, MEM(cache_bytes),
     24 * 1024 * 16384ULL + 8 * 4 * 32 * 1024 * 2ULL},
};

START_TEST(vector)
{
    struct kvp_model m = load(vectors[_i].model);
    struct kvp_estimate est = estimate_of(&m, vectors[_i].specs, vectors[_i].w, (struct kvp_options)F16);
    uint64_t got;

    memcpy(&got, (const char *)&est.memory + vectors[_i].field, sizeof(got));
    ck_assert_msg(got == vectors[_i].bytes, "%s '%s' context %" PRIu64 ": %" PRIu64 ", expected %" PRIu64, vectors[_i].model,
                  vectors[_i].specs, est.workload.context, got, vectors[_i].bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Two layers, 2 query heads on 1 kv head of 4 channels, f32; T 10. Without a technique attention reads k, v
 * 2 * 10 * 16 = 320 bytes and q 32 a layer, writes 32, and does 4 * 2 * 4 * 10 = 320 FLOPs. */
static const struct {
    const char *specs;
    enum kvp_op op;
    enum kvp_phase phase;
    uint64_t flops, read, written; /* all layers of the model */
} work[] = {
    {"streaming-llm:sink=1,recent=3", KVP_OP_ATTN, KVP_DECODE, 2 * (128 + 3 * 4 * 4), 2 * (128 + 32), 2 * 32},
    {"streaming-llm:sink=1,recent=3", KVP_OP_APPEND, KVP_DECODE, 0, 2 * 32, 2 * 32},
    /* 2 * H * w * d * q, sums H * w * (q - w), pooling Hkv * kernel * (q - w): 320, 32, 24; reads 2 rows of q, 10 of k */
    {"snapkv:cap=4,window=2,kernel=3", KVP_OP_SELECT, KVP_PREFILL, 2 * (320 + 32 + 24), 2 * (64 + 160), 2 * 16},
    {"snapkv:cap=4,window=2,kernel=3,pooling=max", KVP_OP_SELECT, KVP_PREFILL, 2 * (320 + 32), 2 * (64 + 160), 2 * 16},
    {"snapkv:cap=4,window=2", KVP_OP_ATTN, KVP_DECODE, 2 * 128, 2 * (128 + 32), 2 * 32},
    /* the choice, as 4 indices, is read where the 4 rows are stored */
    {"snapkv:cap=4,window=2", KVP_OP_APPEND, KVP_PREFILL, 0, 2 * (128 + 16), 2 * 128},
    /* tova: 5 keys of which 4 are stored; the probabilities 2 * 5 * 4 */
    {"tova:4", KVP_OP_ATTN, KVP_DECODE, 2 * 160, 2 * (128 + 32 + 32), 2 * (32 + 40)},
    {"tova:4", KVP_OP_EVICT, KVP_DECODE, 2 * 10, 2 * (40 + 32), 2 * 32},
    /* quest, pages of 2, at least 3: of layer 1 6 tokens; 5 pages' bounds of 32 bytes, q; 3 ids */
    {"quest:page=2,budget=2,dense=1", KVP_OP_INDEX, KVP_DECODE, 3 * 2 * 4 * 5, 160 + 32, 12},
    {"quest:page=2,budget=2,dense=1", KVP_OP_ATTN, KVP_DECODE, 320 + 192, 352 + 192 + 32 + 12, 2 * 32},
    /* duo, no full head: 4 slots */
    {"duo:0,sink=1,recent=3", KVP_OP_ATTN, KVP_DECODE, 2 * 128, 2 * (128 + 32), 2 * 32},
    {"duo:1,sink=1,recent=3", KVP_OP_ATTN, KVP_DECODE, 2 * 320, 2 * (320 + 32), 2 * 32},
    /* minicache: d products a row of k and of v; reads directions as before, 2 * 10 magnitudes of 4 */
    {"minicache:start=0,gamma=0", KVP_OP_ATTN, KVP_DECODE, 2 * (320 + 80), 2 * (352 + 80), 2 * 32},
    /* 14 * 8 a token once a pair; both layers' rows are read; directions and magnitudes are written */
    {"minicache:start=0,gamma=0", KVP_OP_MERGE, KVP_PREFILL, 14 * 8 * 10, 2 * 320, 320 + 2 * 80},
    {"minicache:start=0,gamma=0", KVP_OP_MERGE, KVP_DECODE, 14 * 8, 2 * 32, 32 + 2 * 8},
};

START_TEST(op)
{
    struct kvp_model m = tiny(false);
    struct kvp_estimate est;
    struct kvp_op_cost sum = {0};

    m.position = KVP_POS_ROPE;
    est = estimate_of(&m, work[_i].specs, (struct kvp_workload){.context = 10}, (struct kvp_options){0});
    for (uint32_t i = 0; i < est.n_ops; i++)
        if (est.ops[i].op == work[_i].op && est.ops[i].phase == work[_i].phase) {
            sum.flops += est.ops[i].flops;
            sum.read_bytes += est.ops[i].read_bytes;
            sum.written_bytes += est.ops[i].written_bytes;
        }
    ck_assert_msg(sum.flops == work[_i].flops, "%s %s: %" PRIu64 " FLOPs, expected %" PRIu64, work[_i].specs, kvp_op_name(work[_i].op), sum.flops, work[_i].flops);
    ck_assert_msg(sum.read_bytes == work[_i].read, "%s %s: reads %" PRIu64 ", expected %" PRIu64, work[_i].specs, kvp_op_name(work[_i].op), sum.read_bytes, work[_i].read);
    ck_assert_msg(sum.written_bytes == work[_i].written, "%s %s: writes %" PRIu64 ", expected %" PRIu64, work[_i].specs, kvp_op_name(work[_i].op),
                  sum.written_bytes, work[_i].written);
    kvp_estimate_free(&est);
}
END_TEST

/* ---- models that are not attention all through --------------------------------------------------------- */

enum kind { FULL, WINDOWED, CHUNKED, MLA, MAMBA, BORROWS, WIDE };

/* A row of k or v is 16 bytes (f32), one of the latent 32 and of k_rope 16; a state is 128 + 3 * 32. */
static struct kvp_layer_class layer(enum kind k)
{
    struct kvp_layer_class c = {.norms = 2, .ffn = KVP_FFN_GATED, .ffn_width = 16};

    if (k == MAMBA) {
        c.recurrent = KVP_REC_MAMBA1;
        c.inner = 8, c.state = 4, c.conv = 4, c.dt_rank = 1;
        return c;
    }
    c.mixer = k == MLA ? KVP_MIX_MLA : KVP_MIX_ATTENTION;
    c.heads = 2;
    c.kv_heads = k == MLA ? 0 : 1;
    c.head_dim = k == MLA ? 8 : 4;
    c.v_head_dim = 4;
    if (k == MLA)
        c.kv_rank = 8, c.nope_dim = 4, c.rope_dim = 4;
    c.window = k == WINDOWED ? 6 : 0;
    c.chunk = k == CHUNKED ? 8 : 0;
    c.no_kv = k == BORROWS;
    if (k == WIDE)
        c.head_dim = 16, c.v_head_dim = 32;
    return c;
}

static struct kvp_model mixed(const enum kind *kinds, uint32_t n)
{
    struct kvp_layer_class layers[8];
    struct kvp_model m = {.name = "mixed", .vocab = 10, .width = 8, .layers = n, .position = KVP_POS_ROPE, .dtype = KVP_F32, .norm_vectors = 1};
    struct kvp_error e = {0};

    for (uint32_t i = 0; i < n; i++)
        layers[i] = layer(kinds[i]);
    ck_assert_msg(kvp_model_group(&m, layers, &e) == KVP_OK, "%s", e.text);
    return m;
}

#define KINDS(...) {__VA_ARGS__}, sizeof((enum kind[]){__VA_ARGS__}) / sizeof(enum kind)

/* Context 20, all prompt, unless `generate`. */
static const struct {
    enum kind kinds[8];
    uint32_t n;
    const char *specs;
    uint64_t generate;
    kvp_err rc;
    uint64_t cache; /* or what the error says */
    const char *says;
} mixtures[] = {
    /* window: rows of attention only; windows and chunks are narrowed, full layers beside them are not */
    {KINDS(MAMBA, FULL), "window:5", 0, KVP_OK, 5 * 32, NULL},
    {KINDS(WINDOWED, FULL), "window:5", 0, KVP_OK, 5 * 32 + 20 * 32, NULL},
    {KINDS(WINDOWED, FULL), "window:7", 0, KVP_OK, 6 * 32 + 20 * 32, NULL},
    {KINDS(CHUNKED, FULL), "window:5", 0, KVP_OK, 5 * 32 + 20 * 32, NULL},
    {KINDS(MLA, MLA), "window:5", 0, KVP_OK, 2 * 5 * 48, NULL},
    {KINDS(FULL, BORROWS), "window:5", 0, KVP_OK, 5 * 32, NULL},
    {KINDS(MAMBA), "window:5", 0, KVP_ENOTSUP, 0, "not applicable: no KV cache"},
    /* h2o: one score a slot and head, or a slot and layer with MLA */
    {KINDS(MAMBA, FULL), "h2o:heavy=2,recent=3", 0, KVP_OK, 5 * (32 + 4), NULL},
    {KINDS(MLA), "h2o:heavy=2,recent=3", 0, KVP_OK, 5 * (48 + 4), NULL},
    {KINDS(MAMBA), "h2o", 0, KVP_ENOTSUP, 0, "not applicable: no KV cache"},
    {KINDS(WINDOWED, FULL), "h2o:heavy=2,recent=3", 0, KVP_OK, 6 * 32 + 5 * (32 + 4), NULL},
    {KINDS(MAMBA, CHUNKED, FULL), "h2o:variant=flexgen,heavy=3", 0, KVP_OK, 8 * 32 + 6 * (32 + 4), NULL},
    {KINDS(WINDOWED, FULL), "h2o:variant=mask,heavy=2,recent=3", 0, KVP_OK, 6 * 32 + 20 * 32, NULL},
    {KINDS(WINDOWED), "h2o:heavy=2,recent=3", 0, KVP_ENOTSUP, 0, "sees only its own window"},
    {KINDS(FULL), "h2o:variant=flexgen,recent=3", 0, KVP_EINPUT, 0, "as many recent slots"},
    /* sinks: windowed layers keep their ring */
    {KINDS(MAMBA, WINDOWED, FULL), "streaming-llm:sink=1,recent=4", 0, KVP_OK, 6 * 32 + 5 * 32, NULL},
    {KINDS(MLA, MAMBA), "streaming-llm:sink=1,recent=4", 0, KVP_OK, 5 * 48, NULL},
    {KINDS(WINDOWED), "streaming-llm:sink=1,recent=4", 0, KVP_ENOTSUP, 0, "sees only its own window"},
    {KINDS(MAMBA), "streaming-llm", 0, KVP_ENOTSUP, 0, "not applicable: no KV cache"},
    {KINDS(FULL), "streaming-llm:ratio=0.5", 0, KVP_EINPUT, 0, "ratio belongs to variant=kvpress"},
    {KINDS(FULL), "streaming-llm:variant=kvpress", 0, KVP_EINPUT, 0, "expected ratio"},
    {KINDS(FULL), "streaming-llm:variant=kvpress,ratio=0.5,sink=20", 0, KVP_EINPUT, 0, "not longer than sink=20"},
    /* chosen once: cap 5 of 18, 2 more */
    {KINDS(MAMBA, WINDOWED, FULL), "snapkv:cap=5,window=2", 2, KVP_OK, 6 * 32 + 7 * 32, NULL},
    {KINDS(MLA), "snapkv:cap=5,window=2", 2, KVP_OK, 7 * 48, NULL},
    {KINDS(FULL), "snapkv:cap=5,window=2,heads=query", 2, KVP_OK, 7 * 64, NULL},
    {KINDS(MLA), "snapkv:cap=5,window=2,heads=query", 2, KVP_ENOTSUP, 0, "one latent for all heads"},
    {KINDS(FULL), "snapkv:cap=5,window=5", 0, KVP_EINPUT, 0, "leaves nothing beside window=5"},
    {KINDS(MLA), "adakv:cap=5,window=2", 0, KVP_ENOTSUP, 0, "no heads to share"},
    {KINDS(MAMBA, FULL), "adakv:cap=5,window=2", 2, KVP_OK, 7 * 32 + 4 * (7 + 3), NULL},
    {KINDS(MAMBA), "snapkv", 0, KVP_ENOTSUP, 0, "no KV cache"},
    /* pyramid over the two full layers alone: C 4, lo 0, hi 8, step 8: 10 and 2 tokens; one layer: hi */
    {KINDS(FULL, MAMBA, FULL, WINDOWED), "pyramidkv:cap=6,window=2", 0, KVP_OK, (10 + 2 + 6) * 32, NULL},
    {KINDS(FULL, MAMBA), "pyramidkv:cap=6,window=2", 0, KVP_OK, 10 * 32, NULL},
    {KINDS(FULL, FULL), "pyramidkv:cap=6,window=2 paged:4", 0, KVP_OK, (12 + 4) * 32 + 4 * (3 + 1), NULL},
    {KINDS(FULL), "pyramidkv:ratio=0.5", 0, KVP_EINPUT, 0, "ratio belongs to rule=kvpress"},
    {KINDS(FULL), "pyramidkv:rule=kvpress", 0, KVP_EINPUT, 0, "expected ratio"},
    {KINDS(MAMBA, FULL), "tova:5", 0, KVP_OK, 5 * 32, NULL},
    {KINDS(MLA), "tova:5", 0, KVP_OK, 5 * 48, NULL},
    /* quest: 5 pages of 4, min and max of a key each */
    {KINDS(MAMBA, FULL), "quest:page=4", 0, KVP_OK, 20 * 32 + 5 * 32, NULL},
    {KINDS(MLA), "quest", 0, KVP_ENOTSUP, 0, "MLA keeps a latent"},
    /* duo: of 3 heads 3 - ceil(0.5 * 2) = 2 are full, layer by layer 0, 1 and 1 */
    {KINDS(FULL, FULL, MAMBA, FULL), "duo:sink=1,recent=4", 0, KVP_OK, (20 + 20 + 5) * 32, NULL},
    {KINDS(FULL, FULL), "duo:sink=1,recent=4 paged:4", 0, KVP_OK, (20 + 8) * 32 + 4 * (5 + 2), NULL},
    {KINDS(MLA), "duo", 0, KVP_ENOTSUP, 0, "MLA keeps one latent"},
    /* minicache: layers 1 and 3 pair up over the recurrence; 2 and 4 of their own kinds; the odd one is dense.
     * A pair: directions 20 * 32, magnitudes 2 * 2 * 20 * 4 */
    {KINDS(FULL, MAMBA, FULL), "minicache:start=0,gamma=0", 0, KVP_OK, 20 * 32 + 320, NULL},
    {KINDS(FULL, WINDOWED, FULL, WINDOWED, FULL), "minicache:start=0,gamma=0", 0, KVP_OK, (20 + 6 + 20) * 32 + 16 * (20 + 6), NULL},
    {KINDS(FULL, BORROWS, FULL), "minicache:start=0,gamma=0", 0, KVP_OK, 20 * 32 + 320, NULL},
    /* R = ceil(0.1 * 20) = 2: 4 * 2 rows of 16, 2 lists of 2 */
    {KINDS(FULL, FULL), "minicache:start=0,gamma=0.1", 0, KVP_OK, 20 * 32 + 320 + 4 * 2 * 16 + 2 * 2 * 4, NULL},
    {KINDS(FULL, FULL), "minicache", 0, KVP_ENOTSUP, 0, "no two layers"},
    {KINDS(MLA, MLA), "minicache:start=0", 0, KVP_ENOTSUP, 0, "MLA keeps a latent"},
    {KINDS(MAMBA, MAMBA), "minicache", 0, KVP_ENOTSUP, 0, "no KV cache"},
    {KINDS(FULL, FULL), "minicache:start=2", 0, KVP_EINPUT, 0, "has 2 layers"},
    /* kivi leaves the recurrence alone, and has no channels of an MLA latent */
    /* 16 of 20 keys of 16 are packed, 64 + 2 * 64 bytes, 4 rows of 64 are not; 4 of 20 values of 32, 32 + 2 * 32, 16 rows of 128 are not */
    {KINDS(MAMBA, WIDE, BORROWS), "kivi:group=16,residual=16", 0, KVP_OK, 64 + 128 + 256 + 32 + 64 + 2048, NULL},
    {KINDS(MLA), "kivi", 0, KVP_ENOTSUP, 0, "kivi: MLA keeps one latent"},
    {KINDS(MAMBA), "kivi", 0, KVP_ENOTSUP, 0, "not applicable: no KV cache"},
    /* stores */
    {KINDS(MAMBA, FULL), "contiguous:32", 0, KVP_OK, 32 * 32, NULL},
    {KINDS(FULL), "contiguous", 0, KVP_EINPUT, 0, "give max_len"},
    {KINDS(MAMBA), "contiguous:32", 0, KVP_ENOTSUP, 0, "not applicable: no KV cache"},
    {KINDS(MAMBA, MLA), "paged:8", 0, KVP_OK, 24 * 48 + 3 * 4, NULL},
    {KINDS(MAMBA), "paged", 0, KVP_ENOTSUP, 0, "not applicable: no KV cache"},
    {KINDS(MAMBA, MLA), "growing", 0, KVP_OK, 20 * 48, NULL},
    {KINDS(MAMBA), "growing", 0, KVP_ENOTSUP, 0, "not applicable: no KV cache"},
};

START_TEST(mixture)
{
    struct kvp_model m = mixed(mixtures[_i].kinds, mixtures[_i].n);
    const struct kvp_workload w = {.prompt = 20 - mixtures[_i].generate, .generate = mixtures[_i].generate};
    struct kvp_estimate est;
    const kvp_err rc = try_estimate(&est, &m, mixtures[_i].specs, w, (struct kvp_options){0}, NULL);
    uint64_t state = 0;

    ck_assert_msg(rc == mixtures[_i].rc, "%s: %d %s", mixtures[_i].specs, rc, test_error.text);
    if (rc != KVP_OK) {
        ck_assert_msg(strstr(test_error.text, mixtures[_i].says) != NULL, "says: %s", test_error.text);
        kvp_model_free(&m);
        return;
    }
    for (uint32_t i = 0; i < mixtures[_i].n; i++)
        state += mixtures[_i].kinds[i] == MAMBA ? 128 + 96 : 0;
    ck_assert_msg(est.memory.cache_bytes == mixtures[_i].cache, "%s: %" PRIu64 ", expected %" PRIu64, mixtures[_i].specs, est.memory.cache_bytes, mixtures[_i].cache);
    ck_assert_uint_eq(est.memory.state_bytes, state);
    ck_assert_int_eq((int64_t)est.memory.cache_bytes, est.memory.fixed_bytes_per_sequence + (int64_t)(est.memory.bytes_per_token * 20) + est.memory.rounding_bytes);
    ck_assert_uint_ge(est.memory.cache_peak_bytes, est.memory.cache_bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

START_TEST(learned_positions)
{
    struct kvp_model m = load("gpt2");
    struct kvp_estimate est;

    ck_assert_int_eq(try_estimate(&est, &m, "streaming-llm", (struct kvp_workload){.context = 600}, (struct kvp_options){0}, NULL), KVP_ENOTSUP);
    ck_assert_ptr_nonnull(strstr(test_error.text, "learned ones"));
    est = estimate_of(&m, "streaming-llm:variant=factory", (struct kvp_workload){.context = 600}, (struct kvp_options){0});
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Examples have something to do, at any length. */
START_TEST(examples_bite)
{
    static const char *const models[] = {"llama-3-8b", "gpt2", "mistral-7b-v0.3"}, *const grows[] = {"dense", "quest"};
    const struct kvp_technique_info *t;

    for (uint32_t i = 0; (t = kvp_technique_at(i)); i++)
        for (size_t k = 0; k < 9; k++) {
            const struct kvp_workload w = {.batch = 1, .prompt = (uint64_t)64 << k % 3 * 2, .generate = 8, .context = ((uint64_t)64 << k % 3 * 2) + 8};
            struct kvp_model m = load(models[k / 3]);
            struct kvp_estimate est, dense;
            struct kvp_error e = {0};
            char spec[256];
            bool all = t->axis == KVP_AXIS_MERGE;

            if (t->axis != KVP_AXIS_SELECT && t->axis != KVP_AXIS_MERGE) {
                kvp_model_free(&m);
                continue;
            }
            for (size_t g = 0; g < COUNT(grows); g++)
                all = all || strcmp(t->name, grows[g]) == 0;
            if (w.context > m.max_positions) {
                kvp_model_free(&m);
                continue;
            }
            ck_assert_int_eq(kvp_technique_example(i, &m, &w, spec, sizeof(spec), &e), KVP_OK);
            est = estimate_of(&m, spec, w, (struct kvp_options){0});
            dense = estimate_of(&m, "", w, (struct kvp_options){0});
            ck_assert_msg(all || est.memory.cache_bytes < dense.memory.cache_bytes, "%s on %s at %" PRIu64 " saves nothing", spec, m.name, w.context);
            kvp_estimate_free(&est);
            kvp_estimate_free(&dense);
            kvp_model_free(&m);
        }
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("token level");

    tcase_add_loop_test(t, vector, 0, (int)COUNT(vectors));
    tcase_add_loop_test(t, op, 0, (int)COUNT(work));
    tcase_add_loop_test(t, mixture, 0, (int)COUNT(mixtures));
    tcase_add_test(t, learned_positions);
    tcase_add_test(t, examples_bite);
    return run("calc: token level", &t, 1);
}
