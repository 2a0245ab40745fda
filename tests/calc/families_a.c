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

/* techniques.md 5.1: q and o, k and v, the feed-forward's matrices, what else a layer and the model have */
#define DEC(layers, D, q, kv, matrices, I, more, once) \
    (UINT64_C(layers) * (2 * UINT64_C(D) * (q) + 2 * UINT64_C(D) * (kv) + UINT64_C(matrices) * (D) * (I) + (more)) + (once))
#define L(layers, kv, dim) (UINT64_C(4) * (layers) * (kv) * (dim))

static const struct known models[] = {
    /* msgpack, f32: 24203541928 bytes, 4 each and 10792 of names */
    {"gptj/EleutherAI__gpt-j-6b", DEC(28, 4096, 4096, 4096, 2, 16384, 16384 + 3 * 4096, 2 * 50400 * 4096 + 50400 + 2 * 4096), L(28, 16, 256), "weights.csv file_bytes"},
    {"gpt_neox/EleutherAI__pythia-410m@sequence-classification-finetune", 353825792, L(24, 16, 64), "index.csv"},
    {"gpt_neox/OpenAssistant__oasst-rm-2.1-pythia-1.4b-epoch-2.5@finetune", 5246377988 / 4, L(24, 16, 128), "total_size, f32"},
    /* total_size - masks 36*2048^2 - masked_bias 36*2 - inv_freq 36*16*4, halved */
    {"gpt_neox/OpenAssistant__oasst-sft-1-pythia-12b", (23834949960 - 150994944 - 72 - 2304) / 2, L(36, 40, 128), "total_size"},
    /* total_size - bit masks 32*2048^2/8 - masked_bias 32*2 - inv_freq 32*64*2, halved */
    {"gpt_neox/togethercomputer__RedPajama-INCITE-7B-Base", (13731385408 - 16777216 - 64 - 4096) / 2, L(32, 32, 128), "total_size"},
    {"unsure/gpt_neox/EleutherAI__pythia-160m", 162322944, L(12, 12, 64), "weights.csv params"},
    {"unsure/gpt_neox/EleutherAI__pythia-410m", 405334016, L(24, 16, 64), "weights.csv params"},
    {"unsure/gpt_neox/EleutherAI__pythia-2.8b", 2775208960, L(32, 32, 80), "weights.csv params"},
    {"gpt_bigcode/bigcode__gpt_bigcode-santacoder", DEC(24, 2048, 2048, 128, 2, 8192, 3 * 2048 + 256 + 8192 + 4 * 2048, (49280 + 2048) * 2048 + 2 * 2048), L(24, 1, 128), "5.1; published as 1.1 B"},
    /* torch, f16: 250540281 and 2631639353 bytes with names */
    {"opt/facebook__opt-125m", DEC(12, 768, 768, 768, 2, 3072, 5 * 768 + 3072 + 4 * 768, (50272 + 2050) * 768 + 2 * 768), L(12, 12, 64), "weights.csv file_bytes"},
    {"opt/facebook__opt-1.3b", DEC(24, 2048, 2048, 2048, 2, 8192, 5 * 2048 + 8192 + 4 * 2048, (50272 + 2050) * 2048 + 2 * 2048), L(24, 32, 64), "weights.csv file_bytes"},
    {"bloom/bigscience__bloom", 352494542848 / 2, L(70, 112, 128), "total_size, bf16"},
    {"bloom/bigscience__bloomz-560m", 559214592, L(24, 16, 64), "index.csv"},
    /* total_size, bf16, without the stored copy of the tied head */
    {"falcon/tiiuae__falcon-7b@RefinedWebModel", 14434379520 / 2 - 65024 * 4544, L(32, 1, 64), "total_size"},
    {"falcon/tiiuae__falcon-40b", 83671941120 / 2 - 65024 * 8192, L(60, 8, 64), "total_size"},
    {"falcon/tiiuae__falcon-40b@FalconForCausalLM", 83671941120 / 2 - 65024 * 8192, L(60, 8, 64), "total_size"},
    {"falcon/tiiuae__falcon-180B-chat", 359045130240 / 2 - 65024 * 14848, L(80, 8, 64), "total_size"},
    {"mpt/mosaicml__mpt-7b", 13298573312 / 2, L(32, 32, 128), "total_size"},
    {"phi/microsoft__phi-1_5", DEC(24, 2048, 2048, 2048, 2, 8192, 5 * 2048 + 8192 + 2 * 2048, 2 * 51200 * 2048 + 51200 + 2 * 2048), L(24, 32, 64), "techniques.md 5.1"},
    {"phi/microsoft__phi-2@mixformer-sequential", 11118735360 / 4, L(32, 32, 80), "total_size, f32"},
    {"phi3/jpacifico__Chocolatine-3B-Instruct-DPO-Revised@merge", 7642159104 / 2, 0, "total_size"},
    {"phi3/microsoft__Phi-3-mini-128k-instruct", 7642159104 / 2, 0, "total_size"},
    {"phi3/microsoft__Phi-4-mini-reasoning", DEC(32, 3072, 3072, 1024, 3, 8192, 2 * 3072, 200064 * 3072 + 3072), 0, "techniques.md 5.1"},
    {"phi3/microsoft__phi-4", 29319014400 / 2, L(40, 10, 128), "total_size"},
    {"phi3/microsoft__Phi-3-small-8k-instruct", DEC(32, 4096, 4096, 1024, 3, 14336, 3 * 4096 + 2048 + 2 * 14336 + 4 * 4096, 100352 * 4096 + 2 * 4096), L(32, 8, 128), "5.1; published as 7.4 B"},
    {"stablelm/stabilityai__stable-code-3b", 5590886400 / 2, L(32, 32, 80), "total_size"},
    {"stablelm/stabilityai__stablelm-2-zephyr-1_6b", DEC(24, 2048, 2048, 2048, 3, 5632, 7 * 2048, 2 * 100352 * 2048 + 2 * 2048), L(24, 32, 64), "techniques.md 5.1"},
    {"starcoder/bigcode__starcoder2-7b", DEC(32, 4608, 4608, 512, 2, 18432, 3 * 4608 + 1024 + 18432 + 4 * 4608, 49152 * 4608 + 2 * 4608), 0, "techniques.md 5.1"},
    {"baichuan/baichuan-inc__Baichuan2-7B-Chat", DEC(32, 4096, 4096, 4096, 3, 11008, 2 * 4096, 2 * 125696 * 4096 + 4096), L(32, 32, 128), "techniques.md 5.1"},
    {"chatglm/THUDM__chatglm2-6b", (12487168064 - 64) / 2, L(28, 2, 128), "total_size"},
    {"chatglm/THUDM__glm-4-9b", DEC(40, 4096, 4096, 256, 3, 13696, 3 * 4096 + 512, 2 * 151552 * 4096 + 4096), L(40, 2, 128), "techniques.md 5.1"},
    {"internlm/yangulei__internlm-20b-llamafied", 40177428480 / 2, L(60, 40, 128), "total_size"},
    {"internlm2/internlm__internlm2_5-7b-chat", DEC(32, 4096, 4096, 1024, 3, 14336, 2 * 4096, 2 * 92544 * 4096 + 4096), L(32, 8, 128), "techniques.md 5.1"},
    {"cohere/CohereForAI__aya-23-8B", DEC(32, 4096, 4096, 1024, 3, 14336, 4096, 256000 * 4096 + 4096), L(32, 8, 128), "techniques.md 5.1"},
    {"unsure/cohere/CohereLabs__c4ai-command-r7b-12-2024", DEC(32, 4096, 4096, 1024, 3, 14336, 4096, 256000 * 4096 + 4096), L(8, 8, 128), "weights.csv 8.03e9: 8 full layers"},
    {"unsure/olmo/allenai__OLMo-2-0325-32B", DEC(64, 5120, 5120, 1024, 3, 27648, 3 * 5120 + 1024, 2 * 100352 * 5120 + 5120), L(64, 8, 128), "techniques.md 5.1"},
    {"olmo/allenai__Olmo-3.1-32B-Instruct", DEC(64, 5120, 5120, 1024, 3, 27648, 3 * 5120 + 1024, 2 * 100278 * 5120 + 5120), L(16, 8, 128), "5.1; 16 full layers"},
    {"yi/01-ai__Yi-1.5-6B-Chat@merge", 12122071040 / 2, L(32, 4, 128), "total_size"},
    {"minicpm/openbmb__MiniCPM-2B-sft-bf16", DEC(40, 2304, 2304, 2304, 3, 5760, 2 * 2304, 122753 * 2304 + 2304), L(40, 36, 64), "techniques.md 5.1"},
    {"bart/facebook__bart-base", 139420416, L(6, 12, 64), "index.csv"},
    {"bart/facebook__bart-large", DEC(12, 1024, 1024, 1024, 2, 4096, 4096 + 9 * 1024, DEC(12, 1024, 2048, 2048, 2, 4096, 4096 + 15 * 1024, (50265 + 2 * 1026 + 4) * 1024)), L(12, 16, 64), "5.1; h5 of 1625696184 bytes"},
    {"t5/google-t5__t5-base", 222903552, L(12, 12, 64), "index.csv"},
    {"t5/google__flan-t5-large", 783150080, L(24, 16, 64), "index.csv"},
    {"t5/google__mt5-large", DEC(24, 1024, 1024, 1024, 3, 2816, 2 * 1024, DEC(24, 1024, 2048, 2048, 3, 2816, 3 * 1024, 2 * 250112 * 1024 + 2 * 32 * 16 + 2 * 1024)), L(24, 16, 64), "5.1; msgpack of 4918349339 bytes"},
    {"whisper/openai__whisper-tiny", DEC(4, 384, 384, 384, 2, 1536, 1536 + 8 * 384, DEC(4, 384, 768, 768, 2, 1536, 1536 + 13 * 384, (51865 + 448 + 1500 + 240 + 2 + 4) * 384 + 3 * 384 * 384)), L(4, 6, 64), "techniques.md 5.1"},
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

    ck_assert_msg(est.parameters == k->parameters, "%s: %" PRIu64 " parameters, expected %" PRIu64 " (%s)", k->file,
                  est.parameters, k->parameters, k->source);
    ck_assert_msg(est.memory.bytes_per_token == k->per_token, "%s: %" PRIu64 " bytes a token, expected %" PRIu64, k->file,
                  est.memory.bytes_per_token, k->per_token);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Configs that are not in tests/configs: sizes as published. */
static const struct {
    const char *json;
    uint64_t parameters;
    bool runs;
} texts[] = {
    /* techniques.md 5.1 */
    {"{\"model_type\":\"opt\",\"vocab_size\":50272,\"hidden_size\":4096,\"num_hidden_layers\":32,\"num_attention_heads\":32,"
     "\"ffn_dim\":16384,\"max_position_embeddings\":2048,\"word_embed_proj_dim\":4096}", 6658473984, true},
    /* OPT-350M: embedded in 512, two projections, no last norm */
    {"{\"model_type\":\"opt\",\"vocab_size\":50272,\"hidden_size\":1024,\"num_hidden_layers\":24,\"num_attention_heads\":16,"
     "\"ffn_dim\":4096,\"max_position_embeddings\":2048,\"word_embed_proj_dim\":512,\"do_layer_norm_before\":false}",
     DEC(24, 1024, 1024, 1024, 2, 4096, 4096 + 9 * 1024, 50272 * 512 + 2050 * 1024 + 2 * 512 * 1024), false},
    /* ChatGLM-6B, tied: LayerNorm, all biases */
    {"{\"model_type\":\"chatglm\",\"vocab_size\":130528,\"hidden_size\":4096,\"num_layers\":28,\"num_attention_heads\":32,"
     "\"inner_hidden_size\":16384,\"max_sequence_length\":2048,\"position_encoding_2d\":true}",
     DEC(28, 4096, 4096, 4096, 2, 16384, 16384 + 9 * 4096, 130528 * 4096 + 2 * 4096), false},
    /* part of a head rotated: sizes are known, the engine refuses */
    {"{\"model_type\":\"llama\",\"vocab_size\":10,\"hidden_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":1,"
     "\"intermediate_size\":4,\"partial_rotary_factor\":0.5}", DEC(1, 8, 8, 8, 3, 4, 16, 2 * 80 + 8), false},
    {"{\"model_type\":\"llama\",\"vocab_size\":10,\"hidden_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":1,"
     "\"intermediate_size\":4,\"partial_rotary_factor\":1.0}", DEC(1, 8, 8, 8, 3, 4, 16, 2 * 80 + 8), true},
    {"{\"model_type\":\"llama\",\"vocab_size\":10,\"hidden_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":1,"
     "\"intermediate_size\":4,\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e6},\"sliding_attention\":{\"rope_theta\":1e4}}}",
     DEC(1, 8, 8, 8, 3, 4, 16, 2 * 80 + 8), true},
    {"{\"model_type\":\"llama\",\"vocab_size\":10,\"hidden_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":1,"
     "\"intermediate_size\":4,\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e6},\"other_attention\":{\"rope_theta\":1e4}}}",
     DEC(1, 8, 8, 8, 3, 4, 16, 2 * 80 + 8), false},
};

START_TEST(parameters_of_text)
{
    struct kvp_model m;
    struct kvp_error e = {0};
    struct kvp_estimate est;

    ck_assert_msg(kvp_model_parse(&m, texts[_i].json, strlen(texts[_i].json), "text", &e) == KVP_OK, "%s", e.text);
    est = estimate_of(&m, "", (struct kvp_workload){.context = 16}, (struct kvp_options){0});
    ck_assert_uint_eq(est.parameters, texts[_i].parameters);
    ck_assert_int_eq(!*m.not_run, texts[_i].runs);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

static const struct {
    const char *json, *word;
} refused[] = {
    {"{\"model_type\":\"seamless_m4t_v2\"}", "vocoder"},
    {"{\"model_type\":\"falcon\",\"kv_share_groups\":2}", "kv_share_groups"},
    {"{\"model_type\":\"bloom\",\"state_size\":2}", "state_size"},
    {"{\"model_type\":\"phi3\",\"num_experts\":2}", "num_experts"},
    {"{\"model_type\":\"phi\",\"qk_layernorm\":true}", "qk_layernorm"},
    {"{\"model_type\":\"mpt\",\"vocab_size\":10,\"d_model\":8,\"n_heads\":2,\"n_layers\":1,\"attn_config\":{\"head_mix\":2}}", "head_mix"},
    {"{\"model_type\":\"t5\",\"is_encoder_decoder\":false}", "is_encoder_decoder"},
    {"{\"model_type\":\"chatglm\",\"pre_seq_len\":128}", "pre_seq_len"},
};

START_TEST(refuses)
{
    struct kvp_model m;
    struct kvp_error e = {0};

    ck_assert_int_ne(kvp_model_parse(&m, refused[_i].json, strlen(refused[_i].json), "text", &e), KVP_OK);
    ck_assert_msg(strstr(e.text, refused[_i].word) != NULL, "%s does not name %s", e.text, refused[_i].word);
}
END_TEST

static const struct kvp_op_cost *op_of(const struct kvp_estimate *est, enum kvp_op op, enum kvp_phase phase)
{
    for (uint32_t i = 0; i < est->n_ops; i++)
        if (est->ops[i].op == op && est->ops[i].phase == phase)
            return &est->ops[i];
    return NULL;
}

/* Whisper tiny, f32: 4 layers of width 384 over 1500 rows of encoder. */
START_TEST(cross_attention)
{
    struct kvp_model m = load_config("whisper/openai__whisper-tiny");
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.prompt = 4, .generate = 4}, (struct kvp_options){0});
    const uint64_t rows = UINT64_C(2) * 1500 * 384 * 4;

    ck_assert_uint_eq(est.memory.cache_bytes, 4 * (rows + 8 * 2 * 384 * 4));
    ck_assert_uint_eq(op_of(&est, KVP_OP_CROSS_QKV, KVP_PREFILL)->flops, UINT64_C(4) * 2 * 384 * 384 * (4 + 2 * 1500));
    ck_assert_uint_eq(op_of(&est, KVP_OP_CROSS_QKV, KVP_DECODE)->flops, 4 * 2 * 384 * 384);
    ck_assert_uint_eq(op_of(&est, KVP_OP_CROSS_ATTN, KVP_DECODE)->flops, UINT64_C(4) * 4 * 384 * 1500);
    ck_assert_uint_eq(op_of(&est, KVP_OP_CROSS_ATTN, KVP_DECODE)->read_bytes, 4 * (rows + 384 * 4));
    /* a layer: 4 D^2 and 2 D I multiply-adds a row, and 2 D T of attention; before them 3000 frames of 80 channels, three
     * at a time, become as many of D, and those 1500 rows */
    ck_assert_uint_eq(op_of(&est, KVP_OP_ENCODE, KVP_PREFILL)->flops,
                      UINT64_C(4) * 2 * 1500 * (4 * 384 * 384 + 2 * 384 * 1536 + 2 * 384 * 1500) + UINT64_C(2) * (3000 * 240 * 384 + 1500 * 1152 * 384));
    ck_assert_ptr_null(op_of(&est, KVP_OP_ENCODE, KVP_DECODE));
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* A prompt in two passes of 16 tokens: the encoder's k and v are projected in the first only. */
START_TEST(cross_attention_in_chunks)
{
    struct kvp_model m = load_config("whisper/openai__whisper-tiny");
    struct kvp_estimate est = estimate_of(&m, "chunked-prefill:16", (struct kvp_workload){.prompt = 32, .generate = 4}, (struct kvp_options){0});
    uint64_t flops = 0;

    for (uint32_t i = 0; i < est.n_ops; i++)
        if (est.ops[i].op == KVP_OP_CROSS_QKV && est.ops[i].phase == KVP_PREFILL)
            flops += est.ops[i].flops;
    ck_assert_uint_eq(flops, UINT64_C(4) * 2 * 384 * 384 * (32 + 2 * 1500));
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *known = tcase_create("known");

    tcase_add_loop_test(known, parameters_and_cache, 0, COUNT(models));
    tcase_add_loop_test(known, parameters_of_text, 0, COUNT(texts));
    tcase_add_loop_test(known, refuses, 0, COUNT(refused));
    tcase_add_test(known, cross_attention);
    tcase_add_test(known, cross_attention_in_chunks);
    return run("families_a", (TCase *[]){known}, 1);
}
