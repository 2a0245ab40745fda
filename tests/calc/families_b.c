/* families_b.c - Llama-like dense models and multimodal wrappers: published configs against published counts.
 *
 * Weights are taken as if unquantized: quantization_config leaves the config before it is read; it changes no
 * count of elements. */
#include "tests/calc/calc_test.h"

#include <jansson.h>

static void as_plain(json_t *part)
{
    const char *key;
    json_t *v;

    json_object_del(part, "quantization_config");
    json_object_del(part, "quantization");
    json_object_foreach(part, key, v)
        if (json_is_object(v))
            as_plain(v);
}

static kvp_err try_config(struct kvp_model *m, const char *file, const char *more)
{
    const char *tests = getenv("KVPROOF_TESTS");
    char path[512], *text;
    json_t *config, *extra = json_loads(more, 0, NULL);
    kvp_err rc;

    snprintf(path, sizeof(path), "%s/configs/%s.json", tests ? tests : "tests", file);
    config = json_load_file(path, 0, NULL);
    ck_assert_msg(config != NULL, "%s", path);
    as_plain(config);
    json_object_update(config, extra);
    text = json_dumps(config, 0);
    memset(&test_error, 0, sizeof(test_error));
    rc = kvp_model_parse(m, text, strlen(text), file, &test_error);
    free(text);
    json_decref(extra);
    json_decref(config);
    return rc;
}

#define B16 .weights_given = true, .weights = KVP_BF16, .kv_given = true, .kv = KVP_BF16

/* hub: safetensors totals in tests/truth/weights.csv or index.csv (total_size over the bytes of an element).
 * class: what transformers' own class makes of the file (tests/truth/transformers.csv).
 * index N: a total that a public repository of that number in the code index quotes from the hub.
 * Cache: bf16 at 32768 tokens, T = 32768. */
static const struct {
    const char *file;
    bool vision;
    uint64_t parameters, cache;
    const char *source;
} models[] = {
    {"llama1/decapoda-research__llama-7b-hf", false, 6738415616, 17179869184, "hub less inv_freq"},
    {"llama2/meta-llama__Llama-2-7b-hf", false, 6738415616, 17179869184, "techniques.md 5.1"},
    {"llama2/meta-llama__Llama-2-70b-chat-hf", false, 68976648192, 10737418240, "hub less inv_freq"},
    {"llama2/elyza__ELYZA-japanese-Llama-2-13b-instruct", false, 13015864320, 26843545600, "hub"},
    {"llama1/ehartford__Wizard-Vicuna-30B-Uncensored", false, 32528943616, 52344913920, "hub less inv_freq, f32"},
    {"llama3/meta-llama__Meta-Llama-3.1-8B", false, 8030261248, 4294967296, "hub"},
    {"llama3/meta-llama__Llama-3.3-70B-Instruct", false, 70553706496, 10737418240, "hub"},
    {"llama3/meta-llama__Llama-3.2-3B-Instruct", false, 3212749824, 3758096384, "hub"},
    {"llama_misc/HuggingFaceTB__SmolLM3-3B", false, 3075098624, 2415919104, "hub"},
    {"llama_misc/VineethGithubIBM__graniteModelWithoutGGUF", false, 6738481152, 17179869184, "hub"},
    {"codellama/nvidia__OpenMath-CodeLlama-13b-Python-hf", false, 13015864320, 26843545600, "hub"},
    {"yi/01-ai__Yi-1.5-6B-Chat@merge", false, 6061035520, 2147483648, "hub"},
    {"internlm/yangulei__internlm-20b-llamafied", false, 20088714240, 40265318400, "hub"},
    {"pangu/FreedomIntelligence__openPangu-Embedded-7B", false, 8030887936, 4563402752, "hub less inv_freq"},
    {"granite/ibm-granite__granite-3b-code-instruct-128k", false, 3482503680, 10737418240, "hub"},
    {"unsure/apertus/swiss-ai__Apertus-8B-Instruct-2509", false, 8053338240, 4294967296, "class: two norms of 128 and four numbers of its activation a layer"},
    {"minicpm/openbmb__MiniCPM-2B-sft-bf16", false, 2724880896, 12079595520, "shapes of modeling_minicpm.py, as MiniCPM-V-2's text part, whose total is the hub's"},
    {"minicpm/openbmb__MiniCPM-V-2", true, 3434965792, 12079595520, "hub"},
    {"mistral/neuralmagic__Mistral-7B-Instruct-v0.2-dequantized", false, 7241732096, 4294967296, "techniques.md 5.1"},
    {"mistral/mistralai__Mistral-7B-Instruct-v0.3@params.json", false, 7248023552, 4294967296, "5.1 with 32768 rows"},
    {"unsure/mistral/mistralai__Mistral-Nemo-Instruct-2407", false, 12247782400, 5368709120, "hub"},
    {"qwen/Qwen__Qwen-72B-Chat", false, 72287920128, 85899345920, "hub"},
    {"qwen2/Qwen__Qwen2.5-0.5B", false, 494032768, 402653184, "hub"},
    {"qwen2/Qwen__Qwen2.5-7B", false, 7615616512, 1879048192, "hub"},
    {"qwen2/Qwen__Qwen2.5-72B", false, 72706203648, 10737418240, "hub"},
    {"qwen2/deepcogito__cogito-v1-preview-qwen-14B", false, 14765947904, 6442450944, "hub"},
    {"qwen3/Qwen__Qwen3-0.6B", false, 596049920, 3758096384, "class"},
    {"qwen3/Qwen__Qwen3-1.7B@mirror", false, 1720574976, 3758096384, "hub"},
    {"qwen3/Qwen__Qwen3-32B", false, 32762123264, 8589934592, "hub"},
    {"qwen3/mlx-community__Qwen3-14B-4bit", false, 14768307200, 5368709120, "hub"},
    {"gemma/google__gemma-2b-it", false, 2506172416, 603979776, "hub"},
    {"gemma/google__gemma-7b", false, 8537680896, 15032385536, "techniques.md 5.1"},
    {"gemma2/google__gemma-2-9b", false, 9241705984, 6341787648, "hub; half of the layers slide"},
    {"gemma2/google__gemma-2-27b", false, 27227128320, 6945767424, "hub; half of the layers slide"},
    {"gemma3/google__gemma-3-27b-it", true, 27432406640, 3120562176, "hub; 10 of 62 see all"},
    {"gemma3/google__medgemma-27b-it", true, 27432406640, 3120562176, "hub"},
    {"unsure/gemma3/google__gemma-3-4b-it", false, 3880263168, 792723456, "hub less the tower"},
    {"unsure/gemma3/google__gemma-3-12b-it", false, 11766034176, 2483027968, "hub less the tower"},
    {"nemotron_nas/nvidia__Llama-3_3-Nemotron-Super-49B-v1", false, 49867145216, 6576668672, "hub, index 63224824488"},
    {"openelm/mlx-community__OpenELM-1_1B-Instruct-4bit", false, 1079891456, 1417674752, "hub, index 69587622226; KV heads summed over the layers"},
    {"exaone/LGAI-EXAONE__EXAONE-3.0-7.8B-Instruct", false, 7818448896, 4294967296, "class"},
    {"exaone/LGAI-EXAONE__EXAONE-4.0-32B", false, 32003216384, 2952790016, "class"},
    {"llava/liuhaotian__llava-v1.5-7b", true, 6759395328, 17179869184, "hub less inv_freq: the tower is not in the file"},
    {"llava/llava-hf__llava-1.5-7b-hf", true, 7063427072, 17179869184, "class"},
    {"qwen2_vl/Qwen__Qwen2-VL-7B-Instruct@ain-fp32", true, 8291375616, 1879048192, "hub, f32"},
    {"fuyu/adept__fuyu-8b", true, 9408238592, 19327352832, "hub"},
    {"molmo/allenai__Molmo-7B-D@bnb-nf4", true, 8021025280, 1879048192, "hub"},
    {"cogvlm/THUDM__cogvlm2-llama3-caption", false, 8030261248, 4294967296, "Llama-3-8B's shapes"},
    {"cogvlm/THUDM__cogvlm2-llama3-caption", true, 12507530496, 4294967296, "sizes and shapes of its files, below"},
    {"mllama/meta-llama__Llama-3.2-11B-Vision-Instruct", false, 9775192080, 4504813568, "class; 32 text layers, 8 that hold 4 * 1601 rows"},
    {"mllama/meta-llama__Llama-3.2-11B-Vision-Instruct", true, 10670220835, 4504813568, "hub, index 12439498600"},
    {"mllama/meta-llama__Llama-3.2-90B-Vision-Instruct", true, 88593355323, 11262033920, "class"},
    {"phi3/microsoft__Phi-3-vision-128k-instruct", true, 4146621440, 12884901888, "hub, index 12439498600 (Phi-3.5-vision, the same class and sizes)"},
    {"kimi/moonshotai__Kimi-K2.5", true, 1026879376368, 2302672896, "class"},
    {"glm/zai-org__GLM-4.5V", true, 107710933120, 6174015488, "class"},
    {"unsure/qwen3_vl/Qwen__Qwen3-VL-30B-A3B-Instruct", true, 31070754032, 3221225472, "class"},
    {"minimax/nvidia__MiniMax-M3-NVFP4", true, 427040140160, 4504682496, "class"},
};

START_TEST(counts)
{
    struct kvp_model m;
    struct kvp_estimate est;
    kvp_err rc = try_config(&m, models[_i].file, "{}");

    ck_assert_msg(rc == KVP_OK, "%s", test_error.text);
    est = estimate_of(&m, "", (struct kvp_workload){.context = 32768}, (struct kvp_options){B16, .with_vision = models[_i].vision});
    ck_assert_msg(est.parameters == models[_i].parameters, "%s: %" PRIu64 " parameters, expected %" PRIu64 " (%s)", models[_i].file,
                  est.parameters, models[_i].parameters, models[_i].source);
    ck_assert_msg(!models[_i].cache || est.memory.cache_bytes == models[_i].cache, "%s: cache %" PRIu64 ", expected %" PRIu64, models[_i].file,
                  est.memory.cache_bytes, models[_i].cache);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

static const struct {
    const char *file, *more;
    kvp_err rc;
    const char *message;
} refused[] = {
    {"infimm/Infi-MM__infimm-zephyr", "{}", KVP_ENOTSUP, "cross-attention"},
    {"llava/liuhaotian__llava-v1.5-7b", "{\"mm_resampler_type\":\"perceiver\"}", KVP_ENOTSUP, "mm_resampler_type"},
    {"llava/liuhaotian__llava-v1.5-7b", "{\"mm_layer_share\":1}", KVP_EINPUT, "mm_layer_share"},
    {"gemma3/google__gemma-3-27b-it", "{\"num_vision_experts\":4}", KVP_EINPUT, "num_vision_experts"},
    {"gemma2/google__gemma-2-2b", "{\"kv_cache_rank\":4}", KVP_EINPUT, "kv_cache_rank"},
    {"openelm/mlx-community__OpenELM-1_1B-Instruct-4bit", "{\"num_kv_heads\":[4]}", KVP_EINPUT, "num_kv_heads"},
    {"qwen/Qwen__Qwen-1_8B", "{\"intermediate_size\":11007}", KVP_EINPUT, "intermediate_size"},
    {"mllama/meta-llama__Llama-3.2-11B-Vision-Instruct", "{\"text_config\":{\"model_type\":\"mllama_text_model\",\"vocab_size\":8,"
     "\"hidden_size\":8,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"intermediate_size\":8,"
     "\"cross_attention_layers\":[2]}}", KVP_EINPUT, "cross_attention_layers"},
    {"nemotron_nas/nvidia__Llama-3_3-Nemotron-Super-49B-v1", "{\"block_configs\":[]}", KVP_EINPUT, "block_configs"},
};

START_TEST(refusals)
{
    struct kvp_model m;
    kvp_err rc = try_config(&m, refused[_i].file, refused[_i].more);

    ck_assert_msg(rc == refused[_i].rc && strstr(test_error.text, refused[_i].message), "%s %s: %d, %s", refused[_i].file, refused[_i].more,
                  (int)rc, test_error.text);
}
END_TEST

/* CogVLM2's six files: 25,015,199,008 bytes, of which headers of 1029 tensors and 32 tables of 64 frequencies. */
START_TEST(cogvlm_files)
{
    static const uint64_t files[] = {4976699712, 4999803504, 4915917160, 4956242104, 4115863248, 1050673280};
    const uint64_t frequencies = 32 * 64 * 4;
    struct kvp_model m;
    struct kvp_estimate est;
    uint64_t bytes = 0;

    for (size_t i = 0; i < COUNT(files); i++)
        bytes += files[i];
    ck_assert_int_eq(try_config(&m, "cogvlm/THUDM__cogvlm2-llama3-caption", "{}"), KVP_OK);
    est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){B16, .with_vision = true});
    ck_assert_uint_gt(bytes, est.memory.weights_bytes + frequencies);
    ck_assert_uint_lt(bytes - est.memory.weights_bytes - frequencies, 1029 * 160);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Configs that are not under tests/configs/: keys of the published files, counted by transformers' classes 5.24.0
 * (the head of Mistral 3.1 apart, which that class ties and the hub's total of 24011361280 does not). */
#define PIXTRAL                                                                                                           \
    "{\"model_type\":\"mistral3\",\"architectures\":[\"Mistral3ForConditionalGeneration\"],\"multimodal_projector_bias\":false," \
    "\"spatial_merge_size\":2,\"text_config\":{\"model_type\":\"mistral\",\"hidden_size\":5120,\"head_dim\":128,"            \
    "\"intermediate_size\":32768,\"num_hidden_layers\":40,\"num_attention_heads\":32,\"num_key_value_heads\":8,"             \
    "\"vocab_size\":131072,\"max_position_embeddings\":131072,\"sliding_window\":null},"                                     \
    "\"vision_config\":{\"model_type\":\"pixtral\",\"hidden_size\":1024,\"head_dim\":64,\"image_size\":1540,"                \
    "\"intermediate_size\":4096,\"num_channels\":3,\"num_hidden_layers\":24,\"patch_size\":14}}"
#define STEP_TYPES "\"full_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\""
#define FOUR(x) x "," x "," x "," x
#define STEP_37                                                                                                           \
    "{\"model_type\":\"step3p7\",\"architectures\":[\"Step3p7ForConditionalGeneration\"],\"projector_bias\":false,"        \
    "\"vision_config\":{\"image_size\":728,\"patch_size\":14,\"width\":1536,\"layers\":47,\"mlp_ratio\":5.833333333333333,"  \
    "\"use_cls_token\":false,\"use_ln_post\":false,\"ls_init_value\":0.1},\"text_config\":{\"model_type\":\"step3p5\","     \
    "\"hidden_size\":4096,\"intermediate_size\":11264,\"num_hidden_layers\":45,\"max_position_embeddings\":262144,"         \
    "\"vocab_size\":128896,\"num_attention_heads\":64,\"num_attention_groups\":8,\"head_dim\":128,\"moe_num_experts\":288,"  \
    "\"moe_top_k\":8,\"moe_intermediate_size\":1280,\"share_expert_dim\":1280,\"moe_layers_enum\":\"3,4,5,6,7,8,9,10,11,12," \
    "13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44\","                    \
    "\"use_head_wise_attn_gate\":true,\"sliding_window\":512,\"use_moe_router_bias\":true,\"num_nextn_predict_layers\":3,"   \
    "\"attention_other_setting\":{\"attention_type\":\"sliding_attention\",\"num_attention_heads\":96,"                       \
    "\"num_attention_groups\":8,\"head_dim\":128},\"layer_types\":[" FOUR(STEP_TYPES) "," FOUR(STEP_TYPES) "," FOUR(STEP_TYPES) "]}}"

static const struct {
    const char *config;
    struct kvp_options o;
    uint64_t parameters;
} inline_configs[] = {
    {PIXTRAL, {B16, .with_vision = true}, 24011361280},
    {PIXTRAL, {B16}, 24011361280 - 403305472 - 35652608},
    {STEP_37, {B16}, 196956130368},
    {STEP_37, {B16, .with_vision = true}, 198937145152},
    /* 3 layers of 96 heads, a dense feed-forward, eh_proj, three norms, a gate and a head (step3p5_mtp.py of vLLM) */
    {STEP_37, {B16, .with_mtp = true}, 196956130368 + 3 * (2 * 4096ull * 4096 + 3 * 4096 + 128896 * 4096ull + 2 * 96 * 128 * 4096ull +
                                                          2 * 8 * 128 * 4096 + 256 + 96 * 4096 + 2 * 4096 + 3 * 4096ull * 11264)},
};

START_TEST(counts_of_text)
{
    const char *text = inline_configs[_i].config;
    struct kvp_model m;
    struct kvp_estimate est;
    struct kvp_error e = {0};

    ck_assert_msg(kvp_model_parse(&m, text, strlen(text), "config.json", &e) == KVP_OK, "%s", e.text);
    est = estimate_of(&m, "", (struct kvp_workload){.context = 100}, inline_configs[_i].o);
    ck_assert_uint_eq(est.parameters, inline_configs[_i].parameters);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* M3's prediction layer is a sparse layer with experts, three norms and eh_proj (minimax_m3/mtp.py of vLLM); the files
 * of M2 hold none, whatever num_mtp_modules says. */
START_TEST(minimax_mtp)
{
    const uint64_t W = 6144, heads = 64 * 128, kv = 2 * 4 * 128, index = 4 * 128 + 128;
    const uint64_t layer = W * (2 * heads + kv) + 2 * 128 + W * index + 2 * 128 + 129 * 3 * W * 3072 + 128 * W + 128 + 2 * W;
    struct kvp_model m;
    struct kvp_estimate est;

    ck_assert_int_eq(try_config(&m, "minimax/nvidia__MiniMax-M3-NVFP4", "{}"), KVP_OK);
    est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){B16, .with_mtp = true});
    ck_assert_uint_eq(est.parameters, 426174572928 + layer + 2 * W * W + 3 * W);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
    ck_assert_int_eq(try_config(&m, "minimax/MiniMaxAI__MiniMax-M2.5", "{}"), KVP_OK);
    ck_assert_int_eq(try_estimate(&est, &m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){B16, .with_mtp = true}, NULL), KVP_ENOTSUP);
    ck_assert_msg(strstr(test_error.text, "--with-mtp") && strstr(test_error.text, "num_mtp_modules"), "%s", test_error.text);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("families");

    tcase_add_loop_test(t, counts, 0, COUNT(models));
    tcase_add_loop_test(t, refusals, 0, COUNT(refused));
    tcase_add_test(t, cogvlm_files);
    tcase_add_loop_test(t, counts_of_text, 0, COUNT(inline_configs));
    tcase_add_test(t, minimax_mtp);
    return run("families_b", (TCase *const[]){t}, 1);
}
