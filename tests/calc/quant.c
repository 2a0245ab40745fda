/* quant.c - what quantization_config says, matrix by matrix: kinds for roles, lists of modules that stay, static
 * scales, and the cache's own format.
 *
 * The small Llama below has 4 layers of width 64: attention q 64 x 64, k and v 32 x 64, o 64 x 64 (A elements, 192
 * rows), a feed-forward of 128 (F elements, 320 rows), and in bf16 what no quantization touches (REST). Layouts:
 * modelopt stores weight, weight_scale, input_scale (FP8) or weight (two codes a byte), weight_scale (fp8 for 16),
 * weight_scale_2, input_scale (NVFP4), as the files of nvidia/DeepSeek-R1-0528-FP4 list them. */
#include "tests/calc/calc_test.h"

#define A 12288ull
#define F 24576ull
#define REST (2ull * (2 * 32 * 64 + 64 + 4 * 128))
#define CONFIG(quant)                                                                                                         \
    "{\"model_type\":\"llama\",\"vocab_size\":32,\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,"            \
    "\"num_key_value_heads\":2,\"intermediate_size\":128,\"max_position_embeddings\":256,\"torch_dtype\":\"bfloat16\","            \
    "\"quantization_config\":{" quant "}}"
#define FLOAT8 "\"weights\":{\"num_bits\":8,\"type\":\"float\",\"strategy\":\"tensor\"}"
#define FLOAT4 "\"weights\":{\"num_bits\":4,\"type\":\"float\",\"group_size\":16}"
#define INT4 "\"weights\":{\"num_bits\":4,\"type\":\"int\",\"strategy\":\"group\",\"group_size\":32}"
#define STATIC "\"input_activations\":{\"dynamic\":false,\"num_bits\":8,\"type\":\"float\"}"
#define DYNAMIC "\"input_activations\":{\"dynamic\":true,\"num_bits\":8,\"type\":\"float\"}"
#define CT "\"quant_method\":\"compressed-tensors\",\"config_groups\":"

static const uint64_t nvfp4_attn = A / 2 + A / 16 + 4 * 8, nvfp4_ffn = F / 2 + F / 16 + 3 * 8;

static const struct {
    const char *quant;
    uint32_t classes;
    uint64_t bytes;
} stored[] = {
    {CONFIG("\"quant_algo\":\"FP8\""), 1, 4 * (A + F + 7 * 8) + REST},
    {CONFIG("\"quant_algo\":\"FP8\",\"config_groups\":{\"group_0\":{" FLOAT8 "," DYNAMIC "}}"), 1, 4 * (A + F + 7 * 4) + REST},
    {CONFIG("\"quant_method\":\"fp8\""), 1, 4 * (A + F + 7 * 4) + REST},
    {CONFIG("\"quant_algo\":\"NVFP4\",\"ignore\":[\"lm_head\"]"), 1, 4 * ((A + F) / 2 + (A + F) / 16 + 7 * 8) + REST},
    /* Meta's fp8: the first and the last layer's feed-forward, and one layer's attention, stay */
    {CONFIG("\"quant_method\":\"fbgemm_fp8\",\"modules_to_not_convert\":[\"model.layers.0.mlp.down_proj\",\"model.layers.0.mlp.gate_proj\","
            "\"model.layers.0.mlp.up_proj\",\"model.layers.3.mlp.down_proj\",\"model.layers.3.mlp.gate_proj\",\"model.layers.3.mlp.up_proj\","
            "\"model.layers.0.self_attn.q_proj\",\"model.layers.0.self_attn.k_proj\",\"model.layers.0.self_attn.v_proj\","
            "\"model.layers.0.self_attn.o_proj\"]"),
     3, 2 * A + 3 * (A + 192 * 4) + 2 * (2 * F) + 2 * (F + 320 * 4) + REST},
    /* a whole layer by a glob: 1, not what begins with 1 */
    {CONFIG("\"quant_algo\":\"NVFP4\",\"ignore\":[\"model.layers.1.*\"]"), 2, 2 * (A + F) + 3 * (nvfp4_attn + nvfp4_ffn) + REST},
    {CONFIG("\"quant_algo\":\"NVFP4\",\"exclude_modules\":[\"model.layers.0.self_attn*\",\"model.layers.1.self_attn*\","
            "\"language_model.model.layers.2.self_attn*\",\"model.layers.3.self_attn*\"]"),
     1, 4 * (2 * A + nvfp4_ffn) + REST},
    {CONFIG("\"quant_method\":\"mxfp4\",\"modules_to_not_convert\":[\"model.layers.*.self_attn\",\"model.layers.*.mlp.router\",\"lm_head\"]"), 1,
     4 * (2 * A + F / 32 * 17) + REST},
    {CONFIG(CT "{\"group_0\":{" INT4 ",\"targets\":[\"Linear\"]}},\"ignore\":[\"lm_head\",\"re:.*self_attn.*\"]"), 1,
     4 * (2 * A + F / 2 + F / 32 * 2 + 3 * 16) + REST},
    {CONFIG(CT "{\"group_0\":{" INT4 ",\"targets\":[\"Linear\"]}},\"ignore\":[\"re:.*layers\\\\.\\\\d+\\\\.mlp\\\\.(gate|up|down)_proj$\"]"), 1,
     4 * (2 * F + A / 2 + A / 32 * 2 + 4 * 16) + REST},
    /* a group for attention, one for the rest; a group for the feed-forward alone */
    {CONFIG(CT "{\"group_0\":{" FLOAT4 "," DYNAMIC ",\"targets\":[\"Linear\"]},\"group_1\":{" FLOAT8 "," STATIC ",\"targets\":[\"re:.*self_attn.*\"]}}"),
     1, 4 * (A + 4 * 8 + F / 2 + F / 16 + 3 * 4) + REST},
    {CONFIG(CT "{\"group_0\":{" FLOAT8 "," DYNAMIC ",\"targets\":[\"re:.*mlp.*\"]}}"), 1, 4 * (2 * A + F + 3 * 4) + REST},
    /* modelopt, matrix by matrix; MXFP8: an e8m0 for 32 */
    {CONFIG("\"quant_method\":\"modelopt\",\"quant_algo\":\"MIXED_PRECISION\",\"quantized_layers\":{"
#define LAYER(n, attn, mlp)                                                                                                    \
    "\"model.layers." n ".self_attn.q_proj\":" attn ",\"model.layers." n ".self_attn.k_proj\":" attn                            \
    ",\"model.layers." n ".self_attn.v_proj\":" attn ",\"model.layers." n ".self_attn.o_proj\":" attn                           \
    ",\"model.layers." n ".mlp.gate_proj\":" mlp ",\"model.layers." n ".mlp.up_proj\":" mlp ",\"model.layers." n ".mlp.down_proj\":" mlp
#define MXFP8 "{\"quant_algo\":\"MXFP8\"}"
#define NVFP4 "{\"quant_algo\":\"NVFP4\",\"group_size\":16}"
            LAYER("0", MXFP8, NVFP4) "," LAYER("1", MXFP8, NVFP4) "," LAYER("2", MXFP8, NVFP4) "," LAYER("3", MXFP8, NVFP4) "}"),
     1, 4 * (A + A / 32 + nvfp4_ffn) + REST},
};

static struct kvp_model parse(const char *text)
{
    struct kvp_error e = {0};
    struct kvp_model m;

    ck_assert_msg(kvp_model_parse(&m, text, strlen(text), "config.json", &e) == KVP_OK, "%s", e.text);
    return m;
}

START_TEST(matrix_by_matrix)
{
    struct kvp_model m = parse(stored[_i].quant);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){0});

    ck_assert_msg(est.memory.weights_bytes == stored[_i].bytes, "%s: %" PRIu64 ", expected %" PRIu64, stored[_i].quant, est.memory.weights_bytes,
                  stored[_i].bytes);
    ck_assert_uint_eq(m.classes, stored[_i].classes);
    ck_assert_uint_eq(est.parameters, 4 * (A + F) + REST / 2);
    kvp_estimate_free(&est);
    est = estimate_of(&m, "w:none", (struct kvp_workload){.context = 1}, (struct kvp_options){0});
    ck_assert_uint_eq(est.memory.weights_bytes, 2 * est.parameters); /* asked for otherwise: none of it holds */
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

static const struct {
    const char *quant;
    kvp_err rc;
    const char *says;
} refused[] = {
    {CONFIG("\"quant_algo\":\"FP8\",\"ignore\":[\"model.layers.2.self_attn.q_proj\"]"), KVP_ENOTSUP, "layers.2.self_attn.q_proj"},
    {CONFIG("\"quant_algo\":\"FP8\",\"ignore\":[\"re:(?i).*attn\"]"), KVP_ENOTSUP, "(?i)"},
    {CONFIG("\"quant_algo\":\"FP8\",\"ignore\":[\"re:(\"]"), KVP_ENOTSUP, "ignore"},
    {CONFIG("\"quant_algo\":\"FP8\",\"ignore\":[\"re:((a{1,999}){1,999}){1,999}\"]"), KVP_ENOTSUP, "ignore"},
    {CONFIG("\"quant_algo\":\"FP8\",\"ignore\":[\"re:(a*)*\\\\1\"]"), KVP_ENOTSUP, "ignore"},
    {CONFIG(CT "{\"group_0\":{" FLOAT8 ",\"targets\":[\"model.layers.1.mlp\"]}}"), KVP_ENOTSUP, "layer 1"},
    {CONFIG(CT "{\"group_0\":{" FLOAT8 "},\"group_1\":{" FLOAT4 ",\"targets\":[\"Linear\"]}}"), KVP_ENOTSUP, "two groups"},
    {CONFIG(CT "{\"group_0\":{" FLOAT8 "},\"group_1\":{" FLOAT4 ",\"targets\":[\"re:.*v_proj\"]}}"), KVP_ENOTSUP, "targets"},
    {CONFIG("\"quant_algo\":\"MIXED_PRECISION\",\"quantized_layers\":{\"model.layers.0.mlp.up_proj\":{\"quant_algo\":\"W9\"}}"), KVP_ENOTSUP, "W9"},
    {CONFIG("\"quant_algo\":\"MIXED_PRECISION\",\"quantized_layers\":{\"model.layers.0.mlp.up_proj\":{}}"), KVP_ENOTSUP, "quant_algo"},
    {CONFIG("\"quant_algo\":\"FP8\",\"kv_cache_scheme\":\"FP6\""), KVP_ENOTSUP, "kv_cache_scheme"},
    {CONFIG("\"quant_algo\":\"FP8\",\"kv_cache_scheme\":{\"num_bits\":6,\"type\":\"float\"}"), KVP_ENOTSUP, "kv_cache_scheme"},
    {CONFIG("\"quant_algo\":\"FP8\",\"kv_cache_scheme\":{\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\"}"), KVP_ENOTSUP, "channel"},
    {CONFIG("\"quant_algo\":\"FP8\",\"kv_cache_scheme\":{\"num_bits\":8,\"type\":\"float\",\"group_size\":64}"), KVP_ENOTSUP, "group_size"},
    {CONFIG("\"quant_algo\":\"FP8\",\"kv_cache_scheme\":{\"num_bits\":8,\"residual_window\":64}"), KVP_EINPUT, "residual_window"},
    {CONFIG(CT "{\"group_0\":{\"weights\":{\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\"}}}"), KVP_ENOTSUP, "strategy"},
    {CONFIG(CT "{\"group_0\":{\"weights\":{\"num_bits\":8,\"type\":\"float\",\"block_structure\":[128,128]}}}"), KVP_ENOTSUP, "block_structure"},
    {CONFIG(CT "{\"group_0\":{\"weights\":{\"num_bits\":4,\"outlier_ratio\":0.01}}}"), KVP_EINPUT, "outlier_ratio"},
    {CONFIG("\"quant_algo\":\"FP8\",\"expert_bits\":4"), KVP_EINPUT, "expert_bits"},
    {CONFIG("\"quant_algo\":\"FP8\",\"ignore\":\"lm_head\""), KVP_EINPUT, "ignore"},
    {CONFIG("\"quant_algo\":\"FP8\"},\"quantization\":{\"bits\":4,\"group_size\":64"), KVP_EINPUT, "different things"},
    {CONFIG("\"quant_algo\":\"FP8\",\"kv_cache_quant_algo\":8"), KVP_EINPUT, "kv_cache_quant_algo"},
};

START_TEST(refusals)
{
    struct kvp_error e = {0};
    struct kvp_model m;
    kvp_err rc = kvp_model_parse(&m, refused[_i].quant, strlen(refused[_i].quant), "config.json", &e);

    ck_assert_msg(rc == refused[_i].rc && strstr(e.text, refused[_i].says), "%s: %d, %s", refused[_i].quant, (int)rc, e.text);
}
END_TEST

static const struct {
    const char *quant;
    enum kvp_format kv;
} caches[] = {
    {CONFIG("\"quant_algo\":\"FP8\""), KVP_F32},
    {CONFIG("\"quant_algo\":\"FP8\",\"kv_cache_scheme\":null,\"kv_cache_quant_algo\":null"), KVP_F32},
    {CONFIG("\"quant_algo\":\"FP8\",\"kv_cache_scheme\":\"FP8\""), KVP_FP8},
    {CONFIG("\"quant_algo\":\"FP8\",\"kv_cache_quant_algo\":\"NVFP4\""), KVP_NVFP4},
    {CONFIG("\"quant_algo\":\"FP8\",\"kv_cache_quant_algo\":\"none\""), KVP_F32},
    {CONFIG("\"quant_algo\":\"NVFP4\",\"kv_cache_scheme\":{\"dynamic\":false,\"num_bits\":8,\"type\":\"float\"}"), KVP_FP8},
    {CONFIG(CT "{\"group_0\":{" FLOAT8 "}},\"kv_cache_scheme\":{\"num_bits\":8,\"type\":\"int\",\"strategy\":\"tensor\",\"symmetric\":true}"), KVP_INT8},
};

START_TEST(caches_own_format)
{
    struct kvp_model m = parse(caches[_i].quant);

    ck_assert_int_eq(m.quant.kv, caches[_i].kv);
    kvp_model_free(&m);
}
END_TEST

/* Real files. */
static struct kvp_estimate of_file(struct kvp_model *m, const char *file)
{
    const char *tests = getenv("KVPROOF_TESTS");
    char path[512];

    snprintf(path, sizeof(path), "%s/configs/%s.json", tests ? tests : "tests", file);
    *m = load(path);
    return estimate_of(m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){0});
}

static uint64_t bytes_named(const struct kvp_estimate *est, const char *part)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < est->n_tensors; i++)
        if (est->tensors[i].tag == KVP_TAG_WEIGHTS && strstr(est->tensors[i].name, part))
            sum += est->tensors[i].bytes;
    return sum;
}

/* DeepSeek-V4: experts in MXFP4, 17 bytes for 32, and an e8m0 for each block of the rest. */
START_TEST(deepseek_v4)
{
    const uint64_t experts = 43ull * 256 * 3 * 2048 * 4096, shared = 43ull * 3 * 2048 * 4096;
    struct kvp_model m;
    struct kvp_estimate est = of_file(&m, "deepseek/deepseek-ai__DeepSeek-V4-Flash");

    ck_assert_uint_eq(bytes_named(&est, "experts.gate") + bytes_named(&est, "experts.up") + bytes_named(&est, "experts.down"), experts / 32 * 17);
    ck_assert_uint_eq(bytes_named(&est, "shared_expert."), shared + shared / 16384);
    for (uint32_t i = 0; i < est.n_tensors; i++)
        ck_assert_msg(!strstr(est.tensors[i].name, "scale_inv") || est.tensors[i].format == KVP_U8, "%s", est.tensors[i].name);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* 126 layers of width 16384, heads 128 on 8 of 128, 53248 wide. Not quantized: the feed-forward of the first and the
 * last, the attention of the last. A scale a row is f32. */
START_TEST(llama_405b)
{
    const uint64_t D = 16384, kv = 1024, I = 53248, attn = 2 * D * D + 2 * D * kv, ffn = 3 * D * I;
    struct kvp_model m;
    struct kvp_estimate est = of_file(&m, "llama3/meta-llama__Meta-Llama-3.1-405B-Instruct-FP8");

    ck_assert_uint_eq(est.memory.weights_bytes, 125 * (attn + 4 * (2 * D + 2 * kv)) + 2 * attn + 124 * (ffn + 4 * (2 * I + D)) + 2 * 2 * ffn +
                                                    2 * (2 * 128256 * D + D + 126 * 2 * D));
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Of GLM-5.1 only the routed experts are in NVFP4: 75 layers of 256 of 3 x 2048 x 6144. */
START_TEST(glm_5_1)
{
    const uint64_t n = 75ull * 256 * 3, experts = n * 2048 * 6144;
    struct kvp_model m;
    struct kvp_estimate est = of_file(&m, "glm/nvidia__GLM-5.1-NVFP4");

    ck_assert_uint_eq(est.memory.weights_bytes, experts / 2 + experts / 16 + n * 8 + 2 * (est.parameters - experts));
    ck_assert_int_eq(m.quant.kv, KVP_FP8);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* MiniMax-M3: NVFP4 in the experts (57 layers of 128), MXFP8 in attention, the dense layers and the shared experts. */
START_TEST(minimax_m3)
{
    const uint64_t n = 57ull * 128 * 3, experts = n * 3072 * 6144, attn = 60ull * 6144 * (2 * 8192 + 2 * 512);
    const uint64_t dense = 3ull * 3 * 12288 * 6144, shared = 57ull * 3 * 3072 * 6144;
    struct kvp_model m;
    struct kvp_estimate est = of_file(&m, "minimax/nvidia__MiniMax-M3-NVFP4");
    uint64_t eight = 0;

    ck_assert_uint_eq(bytes_named(&est, "experts.gate") + bytes_named(&est, "experts.up") + bytes_named(&est, "experts.down"),
                      experts / 2 + experts / 16 + n * 8);
    ck_assert_uint_eq(bytes_named(&est, "shared_expert."), shared + shared / 32);
    for (uint32_t i = 0; i < est.n_tensors; i++)
        eight += est.tensors[i].format == KVP_FP8 && !strstr(est.tensors[i].name, "scale") ? est.tensors[i].bytes : 0;
    ck_assert_uint_ge(eight, attn + dense + shared); /* and the indexers' */
    ck_assert_uint_le(eight, attn + dense + shared + 57ull * 6144 * 5 * 128);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("quantization");

    tcase_add_loop_test(t, matrix_by_matrix, 0, (int)COUNT(stored));
    tcase_add_loop_test(t, refusals, 0, (int)COUNT(refused));
    tcase_add_loop_test(t, caches_own_format, 0, (int)COUNT(caches));
    tcase_add_test(t, deepseek_v4);
    tcase_add_test(t, llama_405b);
    tcase_add_test(t, glm_5_1);
    tcase_add_test(t, minimax_m3);
    return run("calc: quantization", (TCase *const[]){t}, 1);
}
