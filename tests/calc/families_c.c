/* families_c.c - mixtures of experts, latent attention, mixed windows: published configs against published
 * counts, and the work of one pass against numbers worked by hand.
 *
 * Weights are taken as if unquantized, and rotation as if whole: quantization_config and
 * partial_rotary_factor leave the config before it is read; neither changes a count of elements. */
#include "calc/family.h"
#include "calc/weights.h"
#include "tests/calc/calc_test.h"

static void as_plain(json_t *part)
{
    const char *key;
    json_t *v;

    json_object_del(part, "quantization_config");
    json_object_del(part, "partial_rotary_factor");
    json_object_foreach(part, key, v)
        if (json_is_object(v))
            as_plain(v);
}

static struct kvp_model parse(json_t *config, const char *name)
{
    struct kvp_model m;
    char *text = json_dumps(config, 0);
    kvp_err rc;

    memset(&test_error, 0, sizeof(test_error));
    rc = kvp_model_parse(&m, text, strlen(text), name, &test_error);
    ck_assert_msg(rc == KVP_OK, "%s", test_error.text);
    free(text);
    json_decref(config);
    return m;
}

static json_t *config_of(const char *file)
{
    const char *tests = getenv("KVPROOF_TESTS");
    char path[512];
    json_t *config;

    snprintf(path, sizeof(path), "%s/configs/%s.json", tests ? tests : "tests", file);
    config = json_load_file(path, 0, NULL);
    ck_assert_msg(config != NULL, "%s", path);
    as_plain(config);
    return config;
}

static struct kvp_model load_config(const char *file)
{
    return parse(config_of(file), file);
}

#define B16 {.weights_given = true, .weights = KVP_BF16, .kv_given = true, .kv = KVP_BF16}

/* ---- parameters and cache ------------------------------------------------------------------------------- */

/* hub: safetensors totals, tests/truth/weights.csv or index.csv. class: what transformers' own class makes of
 * the file (tests/truth/transformers.csv). less MTP: those without the prediction layer, which the table below has. Active: less
 * layers * (n - k) * 3 * width * expert width. Cache: bf16 at 32768 tokens. */
static const struct {
    const char *file;
    uint64_t parameters, active, cache;
    const char *source;
} models[] = {
    {"mixtral/mistralai__Mixtral-8x7B-v0.1", 46702792704, 12879925248, 4294967296, "techniques.md 5.1; 2*32*8*128*2*T"},
    {"mixtral/mistralai__Mixtral-8x7B-Instruct-v0.1", 46702792704, 12879925248, 4294967296, "hub total_size / 2"},
    {"mixtral/mistralai__Mixtral-8x22B-v0.1", 140620634112, 39152031744, 7516192768, "hub"},
    {"mixtral/cognitivecomputations__dolphin-2.5-mixtral-8x7b", 46702809088, 12879941632, 4294967296, "hub"},
    {"qwen2_moe/Qwen__Qwen1.5-MoE-A2.7B", 14315784192, 2689173504, 6442450944, "hub"},
    {"qwen3_moe/Qwen__Qwen3-30B-A3B", 30532122624, 3353032704, 3221225472, "hub"},
    {"qwen3_moe/Qwen__Qwen3-30B-A3B-Instruct-2507", 30532122624, 3353032704, 3221225472, "hub"},
    {"qwen3_moe/Qwen__Qwen3-235B-A22B", 235093634560, 22190763520, 6308233216, "hub"},
    {"qwen3_moe/Qwen__Qwen3-Coder-480B-A35B-Instruct", 480154875392, 35474765312, 8321499136, "hub"},
    {"unsure/qwen3_vl/Qwen__Qwen3-VL-30B-A3B-Instruct", 30532122624, 3353032704, 3221225472, "its text part has the shapes of Qwen3-30B-A3B"},
    {"unsure/olmo/allenai__OLMoE-1B-7B-0924", 6919161856, 1282017280, 4294967296, "hub"},
    {"granite/ibm-granite__granite-3.1-1b-a400m-instruct", 1334628352, 428658688, 1610612736, "hub file size"},
    {"phi_moe/microsoft__Phi-3.5-MoE-instruct", 41873153344, 6640999744, 4294967296, "class"},
    {"phi_moe/microsoft__Phi-tiny-MoE-instruct", 3755220288, 1288969536, 134152192, "class; window 2047"},
    {"unsure/dbrx/databricks__dbrx-instruct", 131596523520, 36469708800, 5368709120, "class"},
    {"gpt_oss/openai__gpt-oss-20b", 20914757184, 4187440704, 808452096, "hub; 12*(T+128)*2048"},
    {"gpt_oss/openai__gpt-oss-20b@original", 20914757184, 4187440704, 808452096, "the same model"},
    {"gpt_oss/openai__gpt-oss-120b", 116829156672, 5711982912, 1212678144, "hub; 18*(T+128)*2048"},
    {"llama4/meta-llama__Llama-4-Scout-17B-16E@with_vision", 107769861120, 17172894720, 2818572288, "class; (36*8192 + 12*T)*4096"},
    {"unsure/llama4/meta-llama__Llama-4-Scout-17B-16E-Instruct", 107769861120, 17172894720, 2818572288, "same"},
    {"llama4/meta-llama__Llama-4-Maverick-17B-128E-Instruct-FP8", 400711848960, 17184691200, 2818572288, "class"},
    {"unsure/llama4/meta-llama__Llama-4-Maverick-17B-128E-Instruct", 400711848960, 17184691200, 2818572288, "same"},
    {"deepseek/deepseek-ai__DeepSeek-V2-Lite", 15706484224, 2661150208, 1019215872, "hub; 27*576*2*T"},
    {"deepseek/deepseek-ai__DeepSeek-V2.5", 235741434880, 21375800320, 2264924160, "hub; 60*576*2*T"},
    {"deepseek/deepseek-ai__DeepSeek-V3", 671026419200, 37552297472, 2302672896, "techniques.md 5.1; 70272*T"},
    {"deepseek/deepseek-ai__DeepSeek-V3.1", 671026419200, 37552297472, 2302672896, "same shapes"},
    {"deepseek/deepseek-ai__DeepSeek-R1", 671026419200, 37552297472, 2302672896, "same shapes"},
    {"deepseek/deepseek-ai__DeepSeek-R1@mirror", 671026419200, 37552297472, 2302672896, "hub, MAI-DS-R1"},
    {"deepseek/deepseek-ai__DeepSeek-V3.2", 671877944064, 38403822336, 2566520832, "hub less MTP; 61*(1152 + 132)*T"},
    {"deepseek/deepseek-ai__DeepSeek-V4-Flash", 284334567511, 13801959511, 209747968,
     "class; 43*128*1024 + 21*T/4*(1024 + 132) + 20*T/128*1024"},
    {"deepseek/deepseek-ai__DeepSeek-V4-Pro", 1572999528803, 49781408099, 300220416, "class; 61, 30 and 31 layers"},
    {"kimi/moonshotai__Kimi-K2-Instruct", 1026408232448, 32861500928, 2302672896, "hub less an unexplained 3416"},
    {"unsure/kimi/moonshotai__Kimi-K2-Thinking", 1026408232448, 32861500928, 2302672896, "hub less an unexplained 7808"},
    {"kimi/moonshotai__Kimi-K2.5", 1026408232448, 32861500928, 2302672896, "its text part has K2's shapes"},
    {"kimi/nvidia__Kimi-K2.5-NVFP4", 1026408232448, 32861500928, 2302672896, "same"},
    {"glm/zai-org__GLM-5", 743911218432, 41784728832, 3281780736, "hub less MTP; 78*(1152 + 132)*T"},
    {"glm/zai-org__GLM-5-FP8", 743911218432, 41784728832, 3281780736, "same"},
    {"glm/nvidia__GLM-5.1-NVFP4", 743911218432, 41784728832, 3281780736, "same"},
    {"unsure/glm/zai-org__GLM-5.3", 743377019904, 41250530304, 3035234304, "hub less MTP; (78*1152 + 21*132)*T"},
    {"glm/zai-org__GLM-4.5V", 106852251264, 13424129664, 6174015488, "class, text part"},
    {"unsure/glm/zai-org__GLM-4.7-FP8", 352796486560, 33630923680, 12348030976, "class"},
    {"minimax/MiniMaxAI__MiniMax-M2.5", 228689764864, 11030553088, 8321499136, "hub"},
    {"minimax/MiniMaxAI__MiniMax-M2.7", 228689764864, 11030553088, 8321499136, "hub"},
    {"minimax/nvidia__MiniMax-M2.5-NVFP4", 228689764864, 11030553088, 8321499136, "same"},
    {"minimax/nvidia__MiniMax-M3-NVFP4", 426174572928, 25962473856, 4504682496, "class; (60*2048 + 57*256)*T"},
    {"unsure/minimax/MiniMaxAI__MiniMax-M3", 426174572928, 25962473856, 4504682496, "same"},
    {"mimo/XiaomiMiMo__MiMo-V2-Flash", 308778780864, 15445936320, 780533760, "class; 9*4*320*2*T + 39*8*320*2*128"},
    {"mimo/XiaomiMiMo__MiMo-7B@mirror", 7622619136, 7622619136, 4831838208, "hub total_size / 2 less MTP; 36*4096*T"},
    {"gemma4/google__gemma-4-26B-A4B", 25233141790, 3822530590, 880803840, "class; 25*1024*8192 + 5*4096*T"},
    {"gemma4/google__gemma-4-31b-it", 30697345340, 30697345340, 3523215360, "hub less the tower; 50*1024*16384 + 10*8192*T"},
    {"unsure/step/stepfun-ai__Step-3.7-Flash", 195832712256, 10863905856, 1679818752, "a trimmed file: Step-3.7's shapes (families_b.c) with 64 heads everywhere and no gate; (12*T + 33*512)*4096"},
};

START_TEST(counts)
{
    struct kvp_model m = load_config(models[_i].file);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 32768}, (struct kvp_options)B16);

    ck_assert_msg(est.parameters == models[_i].parameters, "%s: %" PRIu64 " parameters, expected %" PRIu64 " (%s)", models[_i].file,
                  est.parameters, models[_i].parameters, models[_i].source);
    ck_assert_msg(est.active_parameters == models[_i].active, "%s: %" PRIu64 " active, expected %" PRIu64, models[_i].file,
                  est.active_parameters, models[_i].active);
    ck_assert_msg(est.memory.cache_bytes == models[_i].cache, "%s: cache %" PRIu64 ", expected %" PRIu64 " (%s)", models[_i].file,
                  est.memory.cache_bytes, models[_i].cache, models[_i].source);
    ck_assert_uint_eq(est.memory.weights_bytes, 2 * est.parameters);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* With the prediction layer and with the vision tower, as the hub counts them. */
static const struct {
    const char *file;
    uint64_t parameters;
} with_all[] = {
    {"llama4/meta-llama__Llama-4-Scout-17B-16E@with_vision", 108641793536},
    {"gemma4/google__gemma-4-31b-it", 31273088876}, /* total_size / 2 */
    {"deepseek/deepseek-ai__DeepSeek-V3", 684489845504},
    {"deepseek/deepseek-ai__DeepSeek-R1", 684489845504},
    {"deepseek/deepseek-ai__DeepSeek-V3.2", 685355329792},
    {"mimo/XiaomiMiMo__MiMo-7B@mirror", 7833409536},
    {"glm/zai-org__GLM-5", 753864139008},
    {"unsure/glm/zai-org__GLM-5.3", 753329940480},
    {"kimi/moonshotai__Kimi-K2-Instruct", 1026408232448}, /* has none */
};

START_TEST(everything)
{
    struct kvp_model m = load_config(with_all[_i].file);
    bool over = false;

    ck_assert_uint_eq(weight_parameters(&over, &m, true, true, NULL), with_all[_i].parameters);
    ck_assert(!over);
    kvp_model_free(&m);
}
END_TEST

/* ---- layers --------------------------------------------------------------------------------------------- */

static const struct kvp_layer_class *layer_of(const struct kvp_model *m, uint32_t i)
{
    return &m->cls[m->class_of[i]];
}

START_TEST(llama4_layers)
{
    struct kvp_model m = load_config("llama4/meta-llama__Llama-4-Maverick-17B-128E-Instruct-FP8");

    for (uint32_t i = 0; i < m.layers; i++) {
        const struct kvp_layer_class *c = layer_of(&m, i);

        ck_assert_uint_eq(c->chunk, i % 4 == 3 ? 0 : 8192);
        ck_assert_uint_eq(c->no_rope, i % 4 == 3);
        ck_assert_uint_eq(c->experts, i % 2 == 1 ? 128 : 0);
        ck_assert_uint_eq(c->ffn_width, i % 2 == 1 ? 0 : 16384);
    }
    ck_assert(!*m.not_run);
    kvp_model_free(&m);
}
END_TEST

START_TEST(mimo_layers)
{
    struct kvp_model m = load_config("mimo/XiaomiMiMo__MiMo-V2-Flash");
    const struct kvp_layer_class *full = layer_of(&m, 0), *slides = layer_of(&m, 1);

    ck_assert(full->window == 0 && full->kv_heads == 4 && full->head_dim == 192 && full->v_head_dim == 128 && !full->sinks && !full->experts);
    ck_assert(slides->window == 128 && slides->kv_heads == 8 && slides->head_dim == 192 && slides->v_head_dim == 128 && slides->sinks);
    ck_assert_uint_eq(slides->experts, 256);
    kvp_model_free(&m);
}
END_TEST

START_TEST(gemma4_layers)
{
    struct kvp_model m = load_config("gemma4/google__gemma-4-26B-A4B");
    const struct kvp_layer_class *slides = layer_of(&m, 0), *full = layer_of(&m, 5);

    ck_assert(slides->window == 1024 && slides->kv_heads == 8 && slides->head_dim == 256 && !slides->k_is_v);
    ck_assert(full->window == 0 && full->kv_heads == 2 && full->head_dim == 512 && full->k_is_v);
    ck_assert(full->experts == 128 && full->ffn_width == 2112 && full->expert_width == 704 && full->norms == 7);
    kvp_model_free(&m);
}
END_TEST

/* Layers that share an earlier layer's k and v keep none and have no projection for them. */
START_TEST(gemma4_shared)
{
    json_t *config = config_of("gemma4/google__gemma-4-31b-it"), *text = json_object_get(config, "text_config");
    const uint64_t D = 5376, full = D * 4 * 512 + 512, slides = 2 * D * 16 * 256 + 256; /* k (v is k) and k_norm; k, v, k_norm */
    struct kvp_model m;
    struct kvp_estimate est;

    json_object_set_new(text, "num_kv_shared_layers", json_integer(6)); /* the last: five that slide, one full */
    m = parse(config, "shared");
    est = estimate_of(&m, "", (struct kvp_workload){.context = 32768}, (struct kvp_options)B16);
    ck_assert_uint_eq(est.memory.cache_bytes, 45ull * 1024 * 16384 + 9ull * 8192 * 32768);
    ck_assert_uint_eq(est.parameters, 30697345340 - full - 5 * slides);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* A file under tests/data/, with keys merged into it or, with value NULL, taken away. */
static kvp_err saved(struct kvp_model *m, const char *file, const char *key, const char *value, struct kvp_error *e)
{
    const char *tests = getenv("KVPROOF_TESTS");
    char path[512], *text;
    json_t *config;
    kvp_err rc;

    snprintf(path, sizeof(path), "%s/data/transformers5/%s.json", tests ? tests : "tests", file);
    config = json_load_file(path, 0, NULL);
    ck_assert_msg(config != NULL, "%s", path);
    if (key)
        json_object_set_new(config, key, json_loads(value, JSON_DECODE_ANY, NULL));
    text = json_dumps(config, 0);
    rc = kvp_model_parse(m, text, strlen(text), file, e);
    free(text);
    json_decref(config);
    return rc;
}

/* What layers keep in files of Transformers 5, whose words are their own (parameters: tests/truth/transformers.csv).
 *   gemma3n: of 35 layers 20 keep k and v of 2 heads of 256; 4 see everything, 16 see 512 tokens
 *   gemma4: 5 layers with 4 heads of 512, 25 of 4 heads of 256 that see 512 tokens
 *   zamba2: 9 hybrids of 32 heads of 160;  nemotron_h: one of 4 layers, 8 heads of 128
 *   deepseek_v32, glm_moe_dsa: 1152 bytes of latent and 132 of the indexer */
static const struct {
    const char *file;
    uint64_t cache;
} kept_by[] = {
    {"gemma3n_text", 2048 * (4 * 32768 + 16 * 512ull)},
    {"gemma4_text", 5 * 8192 * 32768ull + 25 * 4096 * 512},
    {"zamba2", 9 * 2 * 32 * 160 * 2 * 32768ull},
    {"nemotron_h", 2 * 8 * 128 * 2 * 32768ull},
    {"deepseek_v32", 61 * (1152 + 132) * 32768ull},
    {"glm_moe_dsa", 78 * (1152 + 132) * 32768ull},
    {"gpt_bigcode", 12 * 2 * 64 * 2 * 1024},
    {"cohere2", 2 * 64 * 128 * 2 * (10 * 32768ull + 30 * 4096)},
    {"falcon_h1", 32 * 2 * 8 * 128 * 2 * 32768ull},
};

START_TEST(words_of_transformers_5)
{
    struct kvp_estimate est;
    struct kvp_error e = {0};
    struct kvp_model m;

    ck_assert_msg(saved(&m, kept_by[_i].file, NULL, NULL, &e) == KVP_OK, "%s", e.text);
    est = estimate_of(&m, "", (struct kvp_workload){.context = m.position == KVP_POS_LEARNED ? 1024 : 32768}, (struct kvp_options)B16);
    ck_assert_msg(est.memory.cache_bytes == kept_by[_i].cache, "%s: %" PRIu64 ", expected %" PRIu64, kept_by[_i].file, est.memory.cache_bytes, kept_by[_i].cache);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* What such a file says twice it may not say differently, nor of layers that there are not. */
static const struct {
    const char *file, *key, *value, *says;
} said_twice[] = {
    {"gpt_bigcode", "num_key_value_heads", "12", "num_key_value_heads"},
    {"gemma4_text", "per_layer_config", "{\"30\": {\"head_dim\": 512}}", "per_layer_config"},
    {"gemma4_text", "per_layer_config", "{\"5x\": {\"head_dim\": 512}}", "per_layer_config"},
    {"gemma4_text", "per_layer_config", "{\"5\": {\"num_key_value_heads\": 3}}", "per_layer_config"},
    {"gemma4_text", "per_layer_config", "{\"5\": {\"kv_mystery\": 3}}", "kv_mystery"},
    {"gemma4_text", "per_layer_config", "[512]", "per_layer_config"},
    {"gemma3n_text", "intermediate_size", "[16384]", "intermediate_size"},
    {"gemma3n_text", "intermediate_size", "-1", "intermediate_size"},
    {"gemma3n_text", "num_kv_shared_layers", "35", "num_kv_shared_layers"},
    {"gemma3n_text", "altup_num_inputs", "0", "altup_num_inputs"},
    {"gemma3n_text", "laurel_rank", "1e9", "laurel_rank"},
    {"nemotron_h", "layers_block_type", "[\"linear\", \"moe\", \"mlp\", \"moe\"]", "layers_block_type"},
    {"qwen2", "layer_types", "[\"indexed_attention\"]", "layer_types"},
};

START_TEST(says_it_differently)
{
    struct kvp_error e = {0};
    struct kvp_model m;
    const kvp_err rc = saved(&m, said_twice[_i].file, said_twice[_i].key, said_twice[_i].value, &e);

    ck_assert_int_eq(kvp_exit_status(rc), 2);
    ck_assert_msg(strstr(e.text, said_twice[_i].says) && !strchr(e.text, '\n'), "%s", e.text);
}
END_TEST

/* hpcai-tech/grok-1's keys: 131072*6144 + 64*(2*6144*6144 + 2*6144*1024 + 8*3*6144*32768 + 8*6144 + 4*6144) + 6144 */
START_TEST(grok)
{
    struct kvp_model m = parse(json_pack("{s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:s}", "model_type", "grok-1", "vocab_size", 131072, "hidden_size",
                                         6144, "intermediate_size", 32768, "num_hidden_layers", 64, "num_attention_heads", 48,
                                         "num_key_value_heads", 8, "num_experts", 8, "num_experts_per_tok", 2, "max_position_embeddings", 8192,
                                         "torch_dtype", "bfloat16"), "grok");
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 8192}, (struct kvp_options)B16);

    ck_assert_uint_eq(est.parameters, 315684820992);
    ck_assert_uint_eq(est.active_parameters, 83756587008);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* DeepSeek-VL2-tiny's language_config: no latent at all. 10 heads of 128, 2*12*10*128*2 bytes a token. */
START_TEST(without_mla)
{
    json_t *text = json_pack("{s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:n,s:n,s:b,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i}", "model_type", "deepseek_v2", "vocab_size",
                             129280, "hidden_size", 1280, "intermediate_size", 6848, "num_hidden_layers", 12, "num_attention_heads", 10,
                             "num_key_value_heads", 10, "kv_lora_rank", "q_lora_rank", "use_mla", 0, "qk_nope_head_dim", 0,
                             "qk_rope_head_dim", 0, "v_head_dim", 0, "n_routed_experts", 64, "n_shared_experts", 2, "num_experts_per_tok", 6,
                             "moe_intermediate_size", 896, "first_k_dense_replace", 1);
    struct kvp_model m = parse(json_pack("{s:s,s:o}", "model_type", "deepseek_vl_v2", "language_config", text), "vl2");
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, (struct kvp_options)B16);

    ck_assert_uint_eq(est.memory.bytes_per_token, 61440);
    ck_assert_uint_eq(layer_of(&m, 1)->shared_width, 1792);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* ---- refusals ------------------------------------------------------------------------------------------- */

/* A published config with one key set to `value` (JSON; NULL: the key goes), and what the message must name. */
static const struct {
    const char *file, *key, *value;
    kvp_err code;
    const char *says;
} refusals[] = {
    {"mixtral/mistralai__Mixtral-8x7B-v0.1", "expert_rank", "4", KVP_EINPUT, "expert_rank"},
    {"mixtral/mistralai__Mixtral-8x7B-v0.1", "num_experts_per_tok", "9", KVP_EINPUT, "9 experts"},
    {"mixtral/mistralai__Mixtral-8x7B-v0.1", "num_local_experts", "0", KVP_EINPUT, "num_experts"},
    {"qwen3_moe/Qwen__Qwen3-30B-A3B", "mlp_only_layers", "[48]", KVP_EINPUT, "mlp_only_layers"},
    {"qwen3_moe/Qwen__Qwen3-30B-A3B", "decoder_sparse_step", "0", KVP_EINPUT, "decoder_sparse_step"},
    {"qwen3_moe/Qwen__Qwen3-30B-A3B", "shared_expert_intermediate_size", "768", KVP_ENOTSUP, "shared_expert"},
    {"deepseek/deepseek-ai__DeepSeek-V3", "kv_lora_rank", NULL, KVP_OK, ""}, /* the class's default is V3's */
    {"deepseek/deepseek-ai__DeepSeek-V3", "kv_lora_rank", "0", KVP_EINPUT, "kv_lora_rank"},
    {"deepseek/deepseek-ai__DeepSeek-V3", "first_k_dense_replace", NULL, KVP_OK, ""}, /* moe_layer_freq is there */
    {"deepseek/deepseek-ai__DeepSeek-V3", "index_head_dim", "128", KVP_ENOTSUP, "indexer"},
    {"deepseek/deepseek-ai__DeepSeek-V3", "cache_share", "2", KVP_EINPUT, "cache_share"},
    {"deepseek/deepseek-ai__DeepSeek-V3", "topk_method", "\"best\"", KVP_ENOTSUP, "topk_method"},
    {"deepseek/deepseek-ai__DeepSeek-V3", "compress_ratios", "[4]", KVP_EINPUT, "compress_ratios"},
    {"deepseek/deepseek-ai__DeepSeek-V3", "quantization_config", "{\"quant_method\":\"fp8\",\"kv_bits\":4}", KVP_EINPUT, "kv_bits"},
    {"deepseek/deepseek-ai__DeepSeek-V3", "quantization_config", "{\"quant_method\":\"fp8\",\"modules_to_not_convert\":\"lm_head\"}", KVP_EINPUT,
     "modules_to_not_convert"},
    {"deepseek/deepseek-ai__DeepSeek-V3", "quantization_config",
     "{\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"group_0\":{\"weights\":{\"num_bits\":4}},\"group_1\":{\"weights\":{\"num_bits\":8}}}}",
     KVP_ENOTSUP, "config_groups"},
    {"deepseek/deepseek-ai__DeepSeek-V3", "rope_scaling", "{\"type\":\"yarn\",\"factor\":2,\"window_cache\":4}", KVP_EINPUT, "window_cache"},
    {"unsure/dbrx/databricks__dbrx-instruct", "ffn_config", "{\"moe_num_experts\":16,\"moe_top_k\":4,\"ffn_hidden_size\":10752,\"n_shared\":1}", KVP_EINPUT, "n_shared"},
    {"deepseek/deepseek-ai__DeepSeek-V3.2", "index_topk", NULL, KVP_EINPUT, "index_topk"},
    {"deepseek/deepseek-ai__DeepSeek-V4-Flash", "compress_ratios", NULL, KVP_EINPUT, "compress_ratios"},
    {"deepseek/deepseek-ai__DeepSeek-V4-Pro", "compress_ratios", "[4]", KVP_EINPUT, "compress_ratios"},
    {"deepseek/deepseek-ai__DeepSeek-V4-Pro", "o_groups", "7", KVP_EINPUT, "o_groups"},
    {"unsure/glm/zai-org__GLM-5.3", "indexer_types", NULL, KVP_ENOTSUP, "indexer_types"},
    {"unsure/glm/zai-org__GLM-5.3", "indexer_types", "[\"full\"]", KVP_EINPUT, "indexer_types"},
    {"unsure/glm/zai-org__GLM-4.7-FP8", "first_k_dense_replace", NULL, KVP_EINPUT, "first_k_dense_replace"},
    {"gpt_oss/openai__gpt-oss-20b", "attention_bias", "false", KVP_ENOTSUP, "attention_bias"},
    {"gpt_oss/openai__gpt-oss-20b", "num_local_experts", "null", KVP_EINPUT, "num_experts"},
    {"minimax/MiniMaxAI__MiniMax-M2.7", "attn_type_list", "[1]", KVP_EINPUT, "attn_type_list"},
    {"minimax/MiniMaxAI__MiniMax-M2.7", "qk_norm_type", "\"per_row\"", KVP_ENOTSUP, "qk_norm_type"},
    {"unsure/minimax/MiniMaxAI__MiniMax-M3", "attention_output_gate", "true", KVP_ENOTSUP, "gate"},
    {"mimo/XiaomiMiMo__MiMo-V2-Flash", "hybrid_layer_pattern", NULL, KVP_EINPUT, "hybrid_layer_pattern"},
    {"mimo/XiaomiMiMo__MiMo-V2-Flash", "swa_num_key_value_heads", "7", KVP_EINPUT, "swa_num_attention_heads"},
    {"unsure/dbrx/databricks__dbrx-instruct", "ffn_config", NULL, KVP_EINPUT, "ffn_config"},
    {"unsure/dbrx/databricks__dbrx-instruct", "n_heads", "47", KVP_EINPUT, "n_heads"},
    {"unsure/dbrx/databricks__dbrx-instruct", "num_key_value_heads", "7", KVP_EINPUT, "num_key_value_heads"},
    {"unsure/step/stepfun-ai__Step-3.7-Flash", "moe_layers_enum", "\"3,x\"", KVP_EINPUT, "moe_layers_enum"},
};

START_TEST(refusal)
{
    json_t *config = config_of(refusals[_i].file);
    struct kvp_error e = {0};
    struct kvp_model m;
    char *text;
    kvp_err rc;

    if (refusals[_i].value)
        json_object_set_new(config, refusals[_i].key, json_loads(refusals[_i].value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(config, refusals[_i].key);
    text = json_dumps(config, 0);
    rc = kvp_model_parse(&m, text, strlen(text), "x.json", &e);
    ck_assert_msg(rc == refusals[_i].code && strstr(e.text, refusals[_i].says), "%s, %s %s: %d \"%s\"", refusals[_i].file, refusals[_i].key,
                  refusals[_i].value ? refusals[_i].value : "absent", rc, e.text);
    kvp_model_free(&m);
    free(text);
    json_decref(config);
}
END_TEST

/* ---- work ----------------------------------------------------------------------------------------------- */

#define PRE KVP_PREFILL
#define DEC KVP_DECODE
#define ALL KVP_OPS
#define MIXTRAL "mixtral/mistralai__Mixtral-8x7B-v0.1"
#define V3 "deepseek/deepseek-ai__DeepSeek-V3"
#define V32 "deepseek/deepseek-ai__DeepSeek-V3.2"
#define SCOUT "llama4/meta-llama__Llama-4-Scout-17B-16E@with_vision"
#define V4 "deepseek/deepseek-ai__DeepSeek-V4-Flash"
#define M3 "unsure/minimax/MiniMaxAI__MiniMax-M3"

static const struct {
    const char *file;
    struct kvp_workload w;
    enum kvp_phase phase;
    unsigned op;
    uint64_t flops;
} flops[] = {
    /* experts: 32 layers, 2 of 8, 4096 to 2 * 14336 and back; the router has 8 outputs */
    {MIXTRAL, {.context = 4096}, DEC, KVP_OP_MLP_UP, 32ull * 2 * 2 * 4096 * 28672},
    {MIXTRAL, {.context = 4096}, DEC, KVP_OP_MLP_DOWN, 32ull * 2 * 2 * 4096 * 14336},
    {MIXTRAL, {.context = 4096}, DEC, KVP_OP_ROUTER, 32ull * 2 * 4096 * 8},
    {MIXTRAL, {.context = 4096}, PRE, KVP_OP_MLP_UP, 4096 * 32ull * 2 * 2 * 4096 * 28672},
    /* all of a step: twice the active weights but the embedding and 65 norms; attention 4*32*32*128*T */
    {MIXTRAL, {.context = 4096}, DEC, ALL, 2 * (12879925248ull - 32000 * 4096 - 65 * 4096) + 4ull * 32 * 32 * 128 * 4096},
    {MIXTRAL, {.context = 4096, .batch = 3}, DEC, ALL, 3 * (2 * (12879925248ull - 32000 * 4096 - 65 * 4096) + 4ull * 32 * 32 * 128 * 4096)},
    /* a shared expert beside 8 of 256: (8 + 1) * 3 * 7168 * 2048 in 58 layers, 3 * 7168 * 18432 in 3 */
    {V3, {.context = 4096}, DEC, KVP_OP_MLP_DOWN, 2ull * 7168 * (58 * 9 * 2048 + 3 * 18432)},
    /* MLA, techniques.md 3.7 e: absorbed 278528 a context token and layer, naive 81920 (here the triangle) */
    {V3, {.context = 1}, DEC, KVP_OP_ATTN, 61ull * 278528},
    {V3, {.context = 4096}, DEC, KVP_OP_ATTN, 61ull * 278528 * 4096},
    {V3, {.context = 4096}, PRE, KVP_OP_ATTN, 61ull * 81920 * (4096 * 4097 / 2)},
    {V3, {.context = 4096}, DEC, KVP_OP_ABSORB, 61ull * 2 * 128 * 512 * 256},
    {V3, {.context = 4096}, PRE, KVP_OP_ABSORB, 61ull * 2 * 4096 * 512 * 128 * 256},
    {V3, {.context = 4096}, DEC, KVP_OP_QKV, 61ull * 2 * (7168 * 1536 + 1536 * 128 * 192 + 7168 * 576)},
    {V3, {.context = 4096}, DEC, KVP_OP_O_PROJ, 61ull * 2 * 128 * 128 * 7168},
    /* all: twice the active weights but the embedding, norms (2*7168 + 1536 + 512 a layer, one last) and biases */
    {V3, {.context = 4096}, DEC, ALL, 2 * (37552297472ull - 129280ull * 7168 - 61 * (2 * 7168 + 2048) - 7168 - 58 * 256) + 61ull * 278528 * 4096},
    /* an indexer: attention stops at 2048 keys, 64 heads of 128 look at all */
    {V32, {.context = 4096}, DEC, KVP_OP_ATTN, 61ull * 278528 * 2048},
    {V32, {.context = 1024}, DEC, KVP_OP_ATTN, 61ull * 278528 * 1024},
    {V32, {.context = 4096}, PRE, KVP_OP_ATTN, 61ull * 81920 * (2048 * 2049 / 2 + 2048ull * 2048)},
    {V32, {.context = 4096}, DEC, KVP_OP_INDEX, 61ull * 2 * (1536 * 8192 + 7168 * 128 + 7168 * 64 + 8192 * 4096)},
    /* chunks of 8192 in 36 layers: token 8193 sees itself only; 40 heads of 128 */
    {SCOUT, {.context = 8193}, DEC, KVP_OP_ATTN, 4ull * 40 * 128 * (36 * 1 + 12 * 8193)},
    {SCOUT, {.context = 8192}, DEC, KVP_OP_ATTN, 4ull * 40 * 128 * 48 * 8192},
    {SCOUT, {.context = 8194}, PRE, KVP_OP_ATTN, 4ull * 40 * 128 * (36 * (8192ull * 8193 / 2 + 3) + 12 * (8194ull * 8195 / 2))},
    /* V4: 128 of the window in 43 layers; at most 512 of T/4 rows in 21, all of T/128 in 20; prefill summed up
     * query by query in a script */
    {V4, {.context = 32768}, DEC, KVP_OP_ATTN, 4ull * 64 * 512 * (43 * 128 + 21 * 512 + 20 * 256)},
    {V4, {.context = 4096}, PRE, KVP_OP_ATTN, 7403558928384ull},
    {V4, {.context = 32768}, DEC, KVP_OP_INDEX, 21ull * 2 * (1024 * 8192 + 4096 * 64 + 8192 * 8192)},
    /* blocks chosen beside plain attention: 16 * 128 keys in 57 of 60 layers */
    {M3, {.context = 4096}, DEC, KVP_OP_ATTN, 4ull * 64 * 128 * (57 * 2048 + 3 * 4096)},
    {M3, {.context = 4096}, DEC, KVP_OP_INDEX, 57ull * 2 * (6144 * 512 + 6144 * 128 + 512 * 4096)},
};

START_TEST(work)
{
    struct kvp_model m = load_config(flops[_i].file);
    struct kvp_estimate est = estimate_of(&m, "", flops[_i].w, (struct kvp_options)B16);
    uint64_t sum = 0;

    for (uint32_t i = 0; i < est.n_ops; i++)
        if (est.ops[i].phase == flops[_i].phase && (flops[_i].op == ALL || est.ops[i].op == flops[_i].op))
            sum += est.ops[i].flops;
    ck_assert_msg(sum == flops[_i].flops, "%s, row %d: %" PRIu64 " FLOPs, expected %" PRIu64, flops[_i].file, _i, sum, flops[_i].flops);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Bytes read by an op of a pass, bf16 weights and cache, f32 activations. */
static const struct {
    const char *file;
    struct kvp_workload w;
    enum kvp_phase phase;
    enum kvp_op op;
    uint64_t bytes;
} reads[] = {
    /* of 8 experts with 2 a token: 2; 8*(1 - .75^2) = 3.5, so 4; 8*(1 - .75^3) = 4.625, so 5; all 8 of a prompt */
    {MIXTRAL, {.context = 64}, DEC, KVP_OP_MLP_UP, 32ull * (2ull * 28672 * 4096 * 2 + 4 * 4096)},
    {MIXTRAL, {.context = 64, .batch = 2}, DEC, KVP_OP_MLP_UP, 32ull * (4ull * 28672 * 4096 * 2 + 2 * 4 * 4096)},
    {MIXTRAL, {.context = 64, .batch = 3}, DEC, KVP_OP_MLP_UP, 32ull * (5ull * 28672 * 4096 * 2 + 3 * 4 * 4096)},
    {MIXTRAL, {.context = 64}, PRE, KVP_OP_MLP_UP, 32ull * (8ull * 28672 * 4096 * 2 + 64 * 4 * 4096)},
    /* down: 2 experts' weights, their inputs, the residual */
    {MIXTRAL, {.context = 64}, DEC, KVP_OP_MLP_DOWN, 32ull * (2ull * 14336 * 4096 * 2 + 4 * (2 * 14336 + 4096))},
    {MIXTRAL, {.context = 64}, DEC, KVP_OP_ROUTER, 32ull * (8 * 4096 * 2 + 4 * 4096)},
    /* q in latent space, 128 * 576, and 576 of every token */
    {V3, {.context = 4096}, DEC, KVP_OP_ATTN, 61ull * (4 * 128 * 576 + 2 * 576 * 4096)},
    {V3, {.context = 4096}, DEC, KVP_OP_ABSORB, 61ull * (2 * 512 * 128 * 256 + 4 * 128 * (128 + 512))},
    {V32, {.context = 4096}, DEC, KVP_OP_ATTN, 61ull * (4 * 128 * 576 + 2 * 576 * 2048)},
    /* wq_b, wk, weights_proj; their inputs; the queries; 132 bytes of every token */
    {V32, {.context = 4096}, DEC, KVP_OP_INDEX,
     61ull * (2 * (1536 * 8192 + 7168 * 128 + 7168 * 64) + 4 * (1536 + 7168) + 4 * 8192 + 132 * 4096)},
    /* token 8193 reads itself only in the chunked layers: 40 heads of q, 2 * 8 * 128 of k and v */
    {SCOUT, {.context = 8193}, DEC, KVP_OP_ATTN, 48ull * 4 * 5120 + 4096ull * (36 * 1 + 12 * 8193)},
};

START_TEST(traffic)
{
    struct kvp_model m = load_config(reads[_i].file);
    struct kvp_estimate est = estimate_of(&m, "", reads[_i].w, (struct kvp_options)B16);
    uint64_t sum = 0;

    for (uint32_t i = 0; i < est.n_ops; i++)
        if (est.ops[i].phase == reads[_i].phase && est.ops[i].op == reads[_i].op)
            sum += est.ops[i].read_bytes;
    ck_assert_msg(sum == reads[_i].bytes, "%s, row %d: %" PRIu64 " bytes, expected %" PRIu64, reads[_i].file, _i, sum, reads[_i].bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* techniques.md 3.7 e and 7: 70272 bytes a token, 9210691584 at 131072; 132 a token and layer for an indexer,
 * 4 of which are its scale. Activations of one decode step's q and output in latent space, 512 each: 4*128*1024. */
START_TEST(latent_cache)
{
    struct kvp_model m = load_config(V3), sparse = load_config(V32);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 131072}, (struct kvp_options)B16);
    struct kvp_estimate ext = estimate_of(&sparse, "", (struct kvp_workload){.context = 131072}, (struct kvp_options)B16);
    uint64_t absorbed = 0;

    ck_assert_uint_eq(est.memory.cache_bytes, 9210691584);
    ck_assert_uint_eq(est.memory.bytes_per_token, 70272);
    ck_assert_uint_eq(ext.memory.bytes_per_token, 70272 + 61 * 132);
    ck_assert_uint_eq(ext.memory.metadata_bytes, 61ull * 4 * 131072);
    for (uint32_t i = 0; i < est.n_tensors; i++)
        if (strcmp(est.tensors[i].name, "absorbed") == 0)
            absorbed += est.tensors[i].bytes;
    ck_assert_uint_eq(absorbed, 4 * 128 * 1024);
    kvp_estimate_free(&est);
    kvp_estimate_free(&ext);
    kvp_model_free(&m);
    kvp_model_free(&sparse);
}
END_TEST

/* What V4 has not merged yet, two sets (values and gates) in f32: 2 * 8 rows of 1024 in 21 layers, 2 * 128 of 512 in
 * 20, and 2 * 8 of 256 for the indexers. */
START_TEST(unmerged)
{
    struct kvp_model m = load_config(V4);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 4096}, (struct kvp_options)B16);

    ck_assert_uint_eq(est.memory.state_bytes, 4ull * 2 * (21 * 8 * 1024 + 20 * 128 * 512 + 21 * 8 * 256));
    ck_assert_uint_eq(est.memory.bytes_per_token, 21 * (256 + 33) + 20 * 8);
    ck_assert_int_eq(est.memory.fixed_bytes_per_sequence, 43 * 128 * 1024);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("families_c");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, counts, 0, COUNT(models));
    tcase_add_loop_test(t, everything, 0, COUNT(with_all));
    tcase_add_test(t, llama4_layers);
    tcase_add_test(t, mimo_layers);
    tcase_add_test(t, gemma4_layers);
    tcase_add_test(t, gemma4_shared);
    tcase_add_loop_test(t, words_of_transformers_5, 0, (int)COUNT(kept_by));
    tcase_add_loop_test(t, says_it_differently, 0, (int)COUNT(said_twice));
    tcase_add_test(t, grok);
    tcase_add_test(t, without_mla);
    tcase_add_loop_test(t, refusal, 0, COUNT(refusals));
    tcase_add_loop_test(t, work, 0, COUNT(flops));
    tcase_add_loop_test(t, traffic, 0, COUNT(reads));
    tcase_add_test(t, latent_cache);
    tcase_add_test(t, unmerged);
    return run("families_c", &t, 1);
}
