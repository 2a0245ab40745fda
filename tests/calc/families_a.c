/* families_a.c - parameters and cache of the families in gpt.c to whisper.c, against what other people counted:
 * tests/truth/weights.csv, exact_params of tests/configs/index.csv, and published totals. */
#include "tests/calc/calc_test.h"

#include <kvproof/spec.h>

struct known {
    const char *file;
    uint64_t parameters;       /* elements of all weights, a tied head once */
    uint64_t per_token;        /* bytes of cache, 2 bytes an element: layers * 2 * kv_heads * head_dim * 2 */
    const char *source;
};

#define L(layers, kv, dim) (UINT64_C(4) * (layers) * (kv) * (dim))

static const struct known models[] = {
    /* msgpack, f32: 24203541928 bytes, 4 each and 10792 of names */
    {"gptj/EleutherAI__gpt-j-6b", 6050882784, L(28, 16, 256), "weights.csv file_bytes"},
    {"gpt_neox/EleutherAI__pythia-410m@sequence-classification-finetune", 353825792, L(24, 16, 64), "index.csv"},
    {"gpt_neox/OpenAssistant__oasst-rm-2.1-pythia-1.4b-epoch-2.5@finetune", 5246377988 / 4, L(24, 16, 128), "total_size, f32"},
    /* total_size - masks 36*2048^2 - masked_bias 36*2 - inv_freq 36*16*4, halved */
    {"gpt_neox/OpenAssistant__oasst-sft-1-pythia-12b", (23834949960 - 150994944 - 72 - 2304) / 2, L(36, 40, 128), "total_size"},
    /* total_size - bit masks 32*2048^2/8 - masked_bias 32*2 - inv_freq 32*64*2, halved */
    {"gpt_neox/togethercomputer__RedPajama-INCITE-7B-Base", (13731385408 - 16777216 - 64 - 4096) / 2, L(32, 32, 128), "total_size"},
    {"unsure/gpt_neox/EleutherAI__pythia-160m", 162322944, L(12, 12, 64), "weights.csv params"},
    {"unsure/gpt_neox/EleutherAI__pythia-410m", 405334016, L(24, 16, 64), "weights.csv params"},
    {"unsure/gpt_neox/EleutherAI__pythia-2.8b", 2775208960, L(32, 32, 80), "weights.csv params"},
    {"gpt_bigcode/bigcode__gpt_bigcode-santacoder", 1124886528, L(24, 1, 128), "hub, 1.12 B"},
    /* torch, f16: 250540281 and 2631639353 bytes with names */
    {"opt/facebook__opt-125m", 125239296, L(12, 12, 64), "weights.csv file_bytes"},
    {"opt/facebook__opt-1.3b", 1315758080, L(24, 32, 64), "weights.csv file_bytes"},
    {"bloom/bigscience__bloom", 352494542848 / 2, L(70, 112, 128), "total_size, bf16"},
    {"bloom/bigscience__bloomz-560m", 559214592, L(24, 16, 64), "index.csv"},
    /* total_size, bf16, without the stored copy of the tied head */
    {"falcon/tiiuae__falcon-7b@RefinedWebModel", 14434379520 / 2 - 65024 * 4544, L(32, 1, 64), "total_size"},
    {"falcon/tiiuae__falcon-40b", 83671941120 / 2 - 65024 * 8192, L(60, 8, 64), "total_size"},
    {"falcon/tiiuae__falcon-40b@FalconForCausalLM", 83671941120 / 2 - 65024 * 8192, L(60, 8, 64), "total_size"},
    {"falcon/tiiuae__falcon-180B-chat", 359045130240 / 2 - 65024 * 14848, L(80, 8, 64), "total_size"},
    {"mpt/mosaicml__mpt-7b", 13298573312 / 2, L(32, 32, 128), "total_size"},
    {"phi/microsoft__phi-1_5", 1418270720, L(24, 32, 64), "hub"},
    {"phi/microsoft__phi-2@mixformer-sequential", 11118735360 / 4, L(32, 32, 80), "total_size, f32"},
    {"phi3/jpacifico__Chocolatine-3B-Instruct-DPO-Revised@merge", 7642159104 / 2, 0, "total_size"},
    {"phi3/microsoft__Phi-3-mini-128k-instruct", 7642159104 / 2, 0, "total_size"},
    {"phi3/microsoft__Phi-4-mini-reasoning", 3836021760, 0, "hub"},
    {"phi3/microsoft__phi-4", 29319014400 / 2, L(40, 10, 128), "total_size"},
    {"phi3/microsoft__Phi-3-small-8k-instruct", 7392272384, L(32, 8, 128), "hub, 7.39 B"},
    {"stablelm/stabilityai__stable-code-3b", 5590886400 / 2, L(32, 32, 80), "total_size"},
    {"stablelm/stabilityai__stablelm-2-zephyr-1_6b", 1644515328, L(24, 32, 64), "hub"},
    {"starcoder/bigcode__starcoder2-7b", 7173923840, 0, "hub"},
    {"baichuan/baichuan-inc__Baichuan2-7B-Chat", 7505973248, L(32, 32, 128), "hub"},
    {"chatglm/THUDM__chatglm2-6b", (12487168064 - 64) / 2, L(28, 2, 128), "total_size"},
    {"chatglm/THUDM__glm-4-9b", 9399951360, L(40, 2, 128), "hub"},
    {"internlm/yangulei__internlm-20b-llamafied", 40177428480 / 2, L(60, 40, 128), "total_size"},
    {"internlm2/internlm__internlm2_5-7b-chat", 7737708544, L(32, 8, 128), "hub"},
    {"cohere/CohereForAI__aya-23-8B", 8028033024, L(32, 8, 128), "hub"},
    {"unsure/cohere/CohereLabs__c4ai-command-r7b-12-2024", 8028033024, L(8, 8, 128), "weights.csv 8.03e9: 8 full layers"},
    {"unsure/olmo/allenai__OLMo-2-0325-32B", 32234279936, L(64, 8, 128), "hub"},
    {"olmo/allenai__Olmo-3.1-32B-Instruct", 32233522176, L(16, 8, 128), "OLMo-2-32B, 74 rows fewer twice: 16 full layers"},
    {"yi/01-ai__Yi-1.5-6B-Chat@merge", 12122071040 / 2, L(32, 4, 128), "total_size"},
    {"minicpm/openbmb__MiniCPM-2B-sft-bf16", 2724880896, L(40, 36, 64), "hub"},
    {"bart/facebook__bart-base", 139420416, L(6, 12, 64), "index.csv"},
    {"bart/facebook__bart-large", 406291456, L(12, 16, 64), "hub; h5 of 1625696184 bytes"},
    {"t5/google-t5__t5-base", 222903552, L(12, 12, 64), "index.csv"},
    {"t5/google__flan-t5-large", 783150080, L(24, 16, 64), "index.csv"},
    {"t5/google__mt5-large", 1229581312, L(24, 16, 64), "hub; msgpack of 4918349339 bytes"},
    {"whisper/openai__whisper-tiny", 37760640, L(4, 6, 64), "hub"},
};

static struct kvp_model load_config(const char *file)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/configs/%s.json", getenv("KVPROOF_TESTS"), file);
    return load(path);
}

START_TEST(parameters_and_cache)
{
    const struct known *k = &models[_i];
    struct kvp_model m = load_config(k->file);
    const struct kvp_options o = {.weights_given = true, .weights = KVP_F16, .kv_given = true, .kv = KVP_F16};
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 128}, o);

    ck_assert_msg(est.memory.parameters == k->parameters, "%s: %" PRIu64 " parameters, expected %" PRIu64 " (%s)", k->file,
                  est.memory.parameters, k->parameters, k->source);
    ck_assert_msg(est.memory.bytes_per_token == k->per_token, "%s: %" PRIu64 " bytes a token, expected %" PRIu64, k->file,
                  est.memory.bytes_per_token, k->per_token);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *known = tcase_create("known");

    tcase_add_loop_test(known, parameters_and_cache, 0, COUNT(models));
    return run("families_a", (TCase *[]){known}, 1);
}
