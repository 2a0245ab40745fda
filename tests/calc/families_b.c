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
 * hand: techniques.md 5.1 with the shapes of the published code. Cache: bf16 at 32768 tokens, T = 32768. */
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
    {"unsure/apertus/swiss-ai__Apertus-8B-Instruct-2509", false, 8053338176, 4294967296, "hand: two norms of 128 and two alphas a layer"},
    {"minicpm/openbmb__MiniCPM-2B-sft-bf16", false, 2724880896, 12079595520, "hand"},
    {"minicpm/openbmb__MiniCPM-V-2", true, 3434965792, 12079595520, "hub"},
    {"mistral/neuralmagic__Mistral-7B-Instruct-v0.2-dequantized", false, 7241732096, 4294967296, "techniques.md 5.1"},
    {"mistral/mistralai__Mistral-7B-Instruct-v0.3@params.json", false, 7248023552, 4294967296, "5.1 with 32768 rows"},
    {"unsure/mistral/mistralai__Mistral-Nemo-Instruct-2407", false, 12247782400, 5368709120, "hub"},
    {"qwen/Qwen__Qwen-72B-Chat", false, 72287920128, 85899345920, "hub"},
    {"qwen2/Qwen__Qwen2.5-0.5B", false, 494032768, 402653184, "hub"},
    {"qwen2/Qwen__Qwen2.5-7B", false, 7615616512, 1879048192, "hub"},
    {"qwen2/Qwen__Qwen2.5-72B", false, 72706203648, 10737418240, "hub"},
    {"qwen2/deepcogito__cogito-v1-preview-qwen-14B", false, 14765947904, 6442450944, "hub"},
    {"qwen3/Qwen__Qwen3-0.6B", false, 596049920, 3758096384, "hand"},
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
    {"nemotron_nas/nvidia__Llama-3_3-Nemotron-Super-49B-v1", false, 49867145216, 6576668672, "hand, and its card"},
    {"openelm/mlx-community__OpenELM-1_1B-Instruct-4bit", false, 1079891456, 1417674752, "hand, and its card; KV heads summed over the layers"},
    {"exaone/LGAI-EXAONE__EXAONE-3.0-7.8B-Instruct", false, 7818448896, 4294967296, "hand, and its card"},
    {"exaone/LGAI-EXAONE__EXAONE-4.0-32B", false, 32003216384, 2952790016, "hand, and its card"},
    {"llava/liuhaotian__llava-v1.5-7b", true, 6759395328, 17179869184, "hub less inv_freq: the tower is not in the file"},
    {"llava/llava-hf__llava-1.5-7b-hf", true, 7063427072, 17179869184, "hand, and its card"},
    {"qwen2_vl/Qwen__Qwen2-VL-7B-Instruct@ain-fp32", true, 8291375616, 1879048192, "hub, f32"},
    {"fuyu/adept__fuyu-8b", true, 9408238592, 19327352832, "hub"},
    {"molmo/allenai__Molmo-7B-D@bnb-nf4", true, 8021025280, 1879048192, "hub"},
    {"cogvlm/THUDM__cogvlm2-llama3-caption", false, 8030261248, 4294967296, "Llama-3-8B's shapes"},
    {"mllama/meta-llama__Llama-3.2-11B-Vision-Instruct", false, 9775192080, 4504813568, "32 text layers, 8 that hold 4 * 1601 rows"},
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

int main(void)
{
    TCase *t = tcase_create("families");

    tcase_add_loop_test(t, counts, 0, COUNT(models));
    tcase_add_loop_test(t, refusals, 0, COUNT(refused));
    return run("families_b", (TCase *const[]){t}, 1);
}
