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
    /* 2 * H * w * d * q, sums H * w * (q - w), pooling H * kernel * (q - w): 320, 32, 48; reads 2 rows of q, 10 of k */
    {"snapkv:cap=4,window=2,kernel=3", KVP_OP_SELECT, KVP_PREFILL, 2 * (320 + 32 + 48), 2 * (64 + 160), 2 * 16},
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

int main(void)
{
    TCase *t = tcase_create("token level");

    tcase_add_loop_test(t, vector, 0, (int)COUNT(vectors));
    tcase_add_loop_test(t, op, 0, (int)COUNT(work));
    return run("calc: token level", &t, 1);
}
