/* formats.c - bytes of weights and cache values as stored. Expected values: techniques.md 3.9 and 3.10. */
#include "tests/calc/calc_test.h"

#define MEM(field) offsetof(struct kvp_memory, field)
#define REST 524820480ull /* Llama-2-7B: embedding, head, norms in f16 */

static const struct {
    const char *model, *specs;
    uint64_t context;
    size_t field;
    uint64_t bytes;
} cases[] = {
    {"llama-2-7b", "w:int8", 1, MEM(weights_bytes), 6481444864 + REST},
    {"llama-2-7b", "w:nf4", 1, MEM(weights_bytes), 3642753024 + REST},
    {"llama-2-7b", "w:fp4", 1, MEM(weights_bytes), 3642753024 + REST},
    {"llama-2-7b", "w:nf4,double_quant=on", 1, MEM(weights_bytes), 3340771328 + 224 * 4 + REST}, /* and one offset a matrix */
    {"llama-2-7b", "w:awq", 1, MEM(weights_bytes), 3364487168 + REST},
    {"llama-2-7b", "w:gptq", 1, MEM(weights_bytes), 3364487168 + 32 * 4ull * (6 * 4096 + 11008) + REST}, /* g_idx: 4K a matrix */
    {"llama-2-7b", "w:mxfp4", 1, MEM(weights_bytes), 6476005376 / 32 * 17 + REST},
    {"llama-2-7b", "w:fp8,scale=tensor", 1, MEM(weights_bytes), 6476005376 + 224 * 4 + REST},
    {"llama-2-7b", "w:fp8,scale=block", 1, MEM(weights_bytes), 6476005376 + 6476005376 / 16384 * 4 + REST},
    /* unpacking 32 MiB, 64 frequencies; one row's widest input in int8, and its scale */
    {"llama-2-7b", "smoothquant", 1, MEM(workspace_bytes), (32 << 20) + 64 * 4 + 11008 + 4},
    {"llama-2-7b", "w:w8a8", 1, MEM(workspace_bytes), (32 << 20) + 64 * 4 + 11008 + 4},
    {"llama-2-7b", "smoothquant", 1, MEM(weights_bytes), 6481444864 + REST},
    {"llama-2-7b", "smoothquant:scale=tensor", 1, MEM(weights_bytes), 6476005376 + 224 * 4 + REST},
    {"llama-2-7b", "smoothquant:kv=int8", 2048, MEM(cache_bytes), 536870912}, /* OPT-6.7B's cache is of the same shape */
    {"llama-3-8b", "kv:fp8", 8192, MEM(cache_bytes), 536871168},
    {"llama-3-8b", "kv:int8", 8192, MEM(cache_bytes), 553648128},
    {"llama-3-8b", "kv:q8_0", 8192, MEM(cache_bytes), 1073741824 / 64 * 34},
    {"llama-3-8b", "kv:nvfp4", 8192, MEM(cache_bytes), 536870912 / 16 * 9}, /* 4.5 bits */
    {"llama-3-8b", "kv:int4", 8192, MEM(cache_bytes), 536870912 / 2 + 536870912 / 64 * 4}, /* 4 + 32/64 bits */
    {"llama-3-8b", "kv:k=q8_0,v=q4_0", 8192, MEM(cache_bytes), 536870912 / 64 * 34 + 536870912 / 64 * 18},
};

START_TEST(stored_bytes)
{
    struct kvp_model m = load(cases[_i].model);
    struct kvp_estimate est = estimate_of(&m, cases[_i].specs, (struct kvp_workload){.context = cases[_i].context},
                                          (struct kvp_options){.weights_given = true, .weights = KVP_F16});
    uint64_t got;

    memcpy(&got, (const char *)&est.memory + cases[_i].field, sizeof(got));
    ck_assert_msg(got == cases[_i].bytes, "%s, %s: %" PRIu64 ", expected %" PRIu64, cases[_i].model, cases[_i].specs, got, cases[_i].bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("formats");

    tcase_add_loop_test(t, stored_bytes, 0, (int)COUNT(cases));
    return run("formats", (TCase *const[]){t}, 1);
}
