/* families_d.c - recurrent models and hybrids: parameters, states, caches and work against published
 * checkpoints, other engines' logs and numbers worked by hand. "3.8 e" is the table of techniques.md. */
#include "tests/calc/calc_test.h"

#include <jansson.h>
#include <math.h>

/* Two hybrids' configs as published, without the keys that change nothing. */
#define REP4(x) x x x x
#define M "\"mamba\","
#define H "\"hybrid\","
static const char zamba2_27b[] =
    "{\"model_type\":\"zamba2\",\"vocab_size\":32000,\"hidden_size\":2560,\"num_hidden_layers\":54,\"num_attention_heads\":32,"
    "\"num_key_value_heads\":32,\"intermediate_size\":10240,\"mamba_d_state\":64,\"mamba_d_conv\":4,\"mamba_expand\":2,"
    "\"mamba_ngroups\":1,\"n_mamba_heads\":80,\"mamba_headdim\":64,\"attention_head_dim\":160,\"num_mem_blocks\":2,"
    "\"use_shared_mlp_adapter\":true,\"use_shared_attention_adapter\":false,\"adapter_rank\":128,\"use_mem_rope\":false,"
    "\"torch_dtype\":\"bfloat16\",\"layers_block_type\":["
    M M M M M M H M M M M M H M M M M M H M M M M M H M M M M M H M M M M M H M M M M M H M M M M H M M M H M "\"mamba\"]}";
static const char nemotron_h_8b[] =
    "{\"model_type\":\"nemotron_h\",\"vocab_size\":131072,\"hidden_size\":4096,\"num_hidden_layers\":52,\"num_attention_heads\":32,"
    "\"num_key_value_heads\":8,\"attention_head_dim\":128,\"intermediate_size\":21504,\"mamba_num_heads\":128,\"mamba_head_dim\":64,"
    "\"n_groups\":8,\"ssm_state_size\":128,\"conv_kernel\":4,\"torch_dtype\":\"bfloat16\",\"hybrid_override_pattern\":"
    "\"M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-\"}";
static const char mamba2_27b[] =
    "{\"d_model\":2560,\"d_intermediate\":0,\"n_layer\":64,\"vocab_size\":50277,\"ssm_cfg\":{\"layer\":\"Mamba2\"},\"attn_layer_idx\":[],"
    "\"attn_cfg\":{},\"rms_norm\":true,\"residual_in_fp32\":true,\"fused_add_norm\":true,\"pad_vocab_size_multiple\":16,"
    "\"tie_embeddings\":true}";
static const char qwen3_5_9b[] =
    "{\"model_type\":\"qwen3_5_text\",\"hidden_size\":4096,\"num_hidden_layers\":32,\"intermediate_size\":12288,\"vocab_size\":248320,"
    "\"num_attention_heads\":16,\"num_key_value_heads\":4,\"head_dim\":256,\"linear_num_value_heads\":32}";
#define L01 "0,0,0,0,0,0,0,1,"
static const char minimax_m1[] =
    "{\"model_type\":\"minimax_m1\",\"hidden_size\":6144,\"intermediate_size\":9216,\"num_hidden_layers\":80,\"num_attention_heads\":64,"
    "\"num_key_value_heads\":8,\"head_dim\":128,\"vocab_size\":200064,\"num_local_experts\":32,\"num_experts_per_tok\":2,"
    "\"shared_intermediate_size\":0,\"rotary_dim\":64,\"max_position_embeddings\":10240000,\"torch_dtype\":\"bfloat16\","
    "\"layernorm_mlp_alpha\":3.55,\"tie_word_embeddings\":false,\"attn_type_list\":[" REP4(L01) REP4(L01) L01 "0,0,0,0,0,0,0,1]}";
static const char kimi_linear_48b[] =
    "{\"model_type\":\"kimi_linear\",\"vocab_size\":163840,\"hidden_size\":2304,\"head_dim\":72,\"intermediate_size\":9216,"
    "\"linear_attn_config\":{\"full_attn_layers\":[4,8,12,16,20,24,27],\"kda_layers\":[1,2,3,5,6,7,9,10,11,13,14,15,17,18,19,21,22,23,"
    "25,26],\"head_dim\":128,\"num_heads\":32,\"short_conv_kernel_size\":4},\"kv_lora_rank\":512,\"q_lora_rank\":null,"
    "\"qk_nope_head_dim\":128,\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"mla_use_nope\":true,\"num_attention_heads\":32,"
    "\"num_key_value_heads\":32,\"num_hidden_layers\":27,\"first_k_dense_replace\":1,\"moe_layer_freq\":1,\"num_experts\":256,"
    "\"num_experts_per_token\":8,\"num_expert_group\":1,\"num_shared_experts\":1,\"moe_intermediate_size\":1024,"
    "\"num_nextn_predict_layers\":0,\"model_max_length\":1048576,\"torch_dtype\":\"bfloat16\",\"tie_word_embeddings\":false}";
#define RWKV(v, width, layers) \
    "{\"model_type\":\"rwkv" v "\",\"vocab_size\":65536,\"hidden_size\":" width ",\"num_hidden_layers\":" layers "}"

/* A file under tests/configs/, read as if unquantized; or the text of one. */
static struct kvp_model model_of(const char *what)
{
    const char *tests = getenv("KVPROOF_TESTS");
    struct kvp_error e = {0};
    struct kvp_model m;
    char path[512], *text;
    json_t *config;

    snprintf(path, sizeof(path), "%s/configs/%s.json", tests ? tests : "tests", what);
    config = *what == '{' ? json_loads(what, 0, NULL) : json_load_file(path, 0, NULL);
    if (!config) { /* Infinity: not strict JSON, but the loader takes it */
        ck_assert_msg(kvp_model_load(&m, path, &e) == KVP_OK, "%s", e.text);
        return m;
    }
    json_object_del(config, "quantization");
    text = json_dumps(config, 0);
    ck_assert_msg(kvp_model_parse(&m, text, strlen(text), *what == '{' ? "config" : path, &e) == KVP_OK, "%s", e.text);
    free(text);
    json_decref(config);
    return m;
}

/* ---- parameters -------------------------------------------------------------------------------------------- */

#define MTP {.with_mtp = true}
#define ALL_PARTS {.with_mtp = true, .with_vision = true}

static const struct {
    const char *config;
    struct kvp_options o;
    uint64_t parameters;
} parameters[] = {
    /* tests/truth/weights.csv and tests/configs/index.csv: totals of the checkpoints */
    {"mamba/state-spaces__mamba-130m", {0}, 129135360},
    {"unsure/mamba/state-spaces__mamba-130m-hf", {0}, 129135360},
    {"mamba/state-spaces__mamba-2.8b-hf", {0}, 2768345600},
    {"unsure/rwkv/RWKV__rwkv-4-169m-pile", {0}, 169342464},
    {"unsure/rwkv/RWKV__rwkv-4-430m-pile", {0}, 430397440},
    {"unsure/rwkv/RWKV__rwkv-4-1b5-pile", {0}, 1515106304},
    {"unsure/rwkv/RWKV__rwkv-4-3b-pile", {0}, 2984627200},
    {"nemotron_h/nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", {0}, 31577940288},
    {"unsure/nemotron_h/nvidia__NVIDIA-Nemotron-Nano-9B-v2", {0}, 8888227328},
    {"unsure/granite/ibm-granite__granite-4.0-h-small", {0}, 32207337984},
    {"qwen3_next/Qwen__Qwen3-Next-80B-A3B-Thinking", {0}, 79674391296},
    {"qwen3_next/Qwen__Qwen3-Next-80B-A3B-Thinking", MTP, 81324862720},
    {"qwen3_5/Qwen__Qwen3.5-27B", ALL_PARTS, 27781427952},
    {mamba2_27b, {0}, 2702599680}, /* techniques.md 5.1 */
    /* D 2048, L 24, V 65536: 2 V D + 24 (6 D^2 + 2 * 7168 D + 14 D) + 4 D */
    {"rwkv/RWKV__rwkv-5-world-1b5", {0}, 1577754624},
    /* the same with 16 D, and 2 D * 64 + 10 D * 32 of low rank */
    {"rwkv/RWKV__rwkv-6-world-1b6", {0}, 1599873024},
    /* D 768, L 12, V 50304: 2 V D + 12 (12 D^2 + 2 D (64 + 64 + 128) + 18 D) + 11 (2 D 32 + D) + 4 D */
    {"unsure/rwkv/RWKV__RWKV7-Goose-Pile-168M-HF", {0}, 167638272},
    /* D 4096, E 8192, n 16, R 256, V 65024, untied: 2 V D + D + 64 (3 D E + 5 E + E (R + 32) + R E + E + 16 E + E + D) */
    {"falcon_mamba/tiiuae__falcon-mamba-7b", {0}, 7272665088},
    /* D 4096, E 8192, G n 1024, Hm 128, V 32768: 2 V D + D + 64 (D (2 E + 2048 + 128) + 5 (E + 2048) + 384 + E + E D + D) */
    {"mamba2/mistralai__Mamba-Codestral-7B-v0.1", {0}, 7285403648},
    /* D 2048, I 8192, V 65536, tied: V D + D + 10 (4 D^2 + 3 D) + 6 (2 * 32 * 64 D + 2 * 8 * 64 D + 128) + 16 (3 D I + 2 D) */
    {"lfm2/LiquidAI__LFM2-1.2B", {0}, 1170340608},
    {"lfm2/LiquidAI__LFM2.5-VL-1.6B", {0}, 1170340608}, /* the same text model */
    /* and W 1152: 27 (4 W^2 + 2 W 4304 + 9 W + 4304) + 768 W + W + 256 W + 2 W + 4 W 2048 + 2048 + 2048^2 + 2048 */
    {"lfm2/LiquidAI__LFM2.5-VL-1.6B", {.with_vision = true}, 1596625904},
    /* D 2304, A 4096, V 163840: 2 V D + D + 27 * 2 D + 20 (4 A D + 12 A + 2 * 128 (D + A) + A + 32 D + 32 + 128)
     * + 7 (32 * 192 D + 576 D + 512 + 512 * 32 * 256 + A D) + 3 D 9216 + 26 (257 * 3 D 1024 + 256 D + 256) */
    {kimi_linear_48b, {0}, 49122681728},
};

START_TEST(parameter_count)
{
    struct kvp_model m = model_of(parameters[_i].config);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 128}, parameters[_i].o);

    ck_assert_msg(est.parameters == parameters[_i].parameters, "%s: %" PRIu64 " parameters, not %" PRIu64, m.name, est.parameters,
                  parameters[_i].parameters);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Files' sizes, rounded by who wrote them down. */
static const struct {
    const char *config;
    double unit, size, tolerance; /* bytes */
} sizes[] = {
    /* tests/truth/weights.csv gib_rounded: kaito's catalogue, all files of the repository in bf16 */
    {"qwen3_5/Qwen__Qwen3.5-27B", 1 << 30, 51.75, 0.011},
    {"qwen3_5/Qwen__Qwen3.5-122B-A10B", 1 << 30, 232.99, 0.011},
    {"qwen3_5/Qwen__Qwen3.6-35B-A3B", 1 << 30, 66.97, 0.011},
    {"nemotron_h/nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 1 << 30, 58.82, 0.011},
    {"unsure/nemotron_h/nvidia__NVIDIA-Nemotron-Nano-9B-v2", 1 << 30, 16.56, 0.011},
    /* what their authors say: 2.66e9, 7.36e9, 51.6e9, 456e9, 3.15e9, 7.59e9, 2.68e9 and 8.34e9 weights of 2 bytes */
    {zamba2_27b, 2e9, 2.662, 0.003},
    {"zamba2/Zyphra__Zamba2-7B", 2e9, 7.36, 0.005},
    {"jamba/ai21labs__AI21-Jamba-1.5-Mini", 2e9, 51.6, 0.05},
    {minimax_m1, 2e9, 456, 0.5},
    {"unsure/falcon_h1/tiiuae__Falcon-H1-3B-Instruct", 2e9, 3.15, 0.005},
    {"unsure/falcon_h1/tiiuae__Falcon-H1-7B-Instruct", 2e9, 7.59, 0.005},
    {"unsure/recurrent_gemma/google__recurrentgemma-2b", 2e9, 2.68, 0.005},
    {"unsure/lfm2/mlx-community__LFM2-8B-A1B-4bit", 2e9, 8.34, 0.005},
};

START_TEST(weights_size)
{
    struct kvp_model m = model_of(sizes[_i].config);
    struct kvp_options o = {.weights_given = true, .weights = KVP_BF16, .with_mtp = m.towers != 0, .with_vision = true};
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 128}, o);
    const double size = (double)est.memory.weights_bytes / sizes[_i].unit;

    ck_assert_msg(fabs(size - sizes[_i].size) <= sizes[_i].tolerance, "%s: %f, not %f", m.name, size, sizes[_i].size);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* ---- states and caches ------------------------------------------------------------------------------------- */

#define HALF .weights_given = true, .weights = KVP_F16
#define SSM16 .ssm_given = true, .ssm = KVP_F16
#define FULL .conv_full = true

static const struct {
    const char *config;
    struct kvp_options o;
    uint64_t state, per_token;
} states[] = {
    /* 3.8 e */
    {"unsure/rwkv/RWKV__rwkv-4-7b-pile", {HALF}, 2097152, 0},
    {RWKV("5", "4096", "32"), {HALF}, 34078720, 0},
    {RWKV("6", "4096", "32"), {HALF}, 34078720, 0},
    {RWKV("7", "4096", "32"), {HALF}, 34078720, 0},
    {"unsure/rwkv/RWKV__RWKV7-Goose-Pile-168M-HF", {HALF}, 2396160, 0},
    {"mamba/state-spaces__mamba-2.8b-hf", {HALF, SSM16, FULL}, 13107200, 0},
    {"mamba/state-spaces__mamba-2.8b-hf", {HALF, SSM16}, 12451840, 0},
    {"mamba/state-spaces__mamba-2.8b-hf", {HALF, FULL}, 23592960, 0},
    {mamba2_27b, {HALF, SSM16, FULL}, 86638592, 0},
    {mamba2_27b, {HALF, FULL}, 170524672, 0},
    {"jamba/ai21labs__AI21-Jamba-1.5-Mini", {HALF, SSM16, FULL}, 9175040, 16384}, /* v0.1's sizes */
    {zamba2_27b, {HALF, SSM16, FULL}, 37656576, 184320},
    {"qwen3_next/Qwen__Qwen3-Next-80B-A3B-Thinking", {FULL}, 77856768, 24576},
    {"qwen3_next/Qwen__Qwen3-Next-80B-A3B-Thinking", {.ssm_given = true, .ssm = KVP_BF16}, 39518208, 24576},
    {nemotron_h_8b, {FULL}, 102629376, 16384},
    /* 3.8 a and configs.md 4, by hand */
    {"unsure/rwkv/RWKV__rwkv-4-169m-pile", {.weights_given = true, .weights = KVP_F32}, 184320, 0}, /* 12 * 5 * 768 * 4 */
    {"qwen3_5/Qwen__Qwen3.5-35B-A3B", {0}, 64389120, 20480},                                        /* 30 (32*128*128*4 + 8192*3*2) */
    {"nemotron_h/nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", {0}, 49082368, 6144},                /* 23 (64*64*128*4 + 6144*3*2) */
    {minimax_m1, {0}, 293601280, 40960},                                                            /* 70 * 64*128*128*4; 10*2*8*128*2 */
    {"unsure/recurrent_gemma/google__recurrentgemma-2b", {HALF}, 18 * (2560 * 3 * 2 + 2560 * 4), 0}, /* 8 windows of 2048 beside */
    {"lfm2/LiquidAI__LFM2-1.2B", {0}, 10 * 2048 * 2 * 2, 12288},                                    /* 6*2*8*64*2 */
    {"lfm2/LiquidAI__LFM2-1.2B", {FULL}, 10 * 2048 * 3 * 2, 12288},
    {"lfm2/LiquidAI__LFM2-1.2B", {.conv_given = true, .conv = KVP_F32}, 10 * 2048 * 2 * 4, 12288},
    {"unsure/falcon_h1/tiiuae__Falcon-H1-3B-Instruct", {HALF}, 32 * (32 * 128 * 256 * 4 + 4608 * 3 * 2), 32 * 2 * 2 * 128 * 2},
    {"unsure/granite/ibm-granite__granite-4.0-h-small", {HALF}, 36 * (128 * 64 * 128 * 4 + 8448 * 3 * 2), 4 * 2 * 8 * 128 * 2},
    {"unsure/granite/ibm-granite__granite-4.0-micro", {HALF}, 0, 40 * 2 * 8 * 64 * 2},
    {"zamba2/Zyphra__Zamba2-7B", {0}, 81 * (7168 * 64 * 4 + 7424 * 3 * 2), 13 * 2 * 32 * 224 * 2},
    {"nemotron_h/nvidia__NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", {0}, 48 * (256 * 64 * 128 * 4 + 18432 * 3 * 2), 12 * 2 * 2 * 128 * 2},
    {kimi_linear_48b, {0}, 20 * (32 * 128 * 128 * 4 + 3 * 4096 * 3 * 2), 7 * 576 * 2},
    /* the cache's format is not the state's */
    {"lfm2/LiquidAI__LFM2-1.2B", {.kv_given = true, .kv = KVP_F32}, 10 * 2048 * 2 * 2, 24576},
};

START_TEST(state)
{
    struct kvp_model m = model_of(states[_i].config);
    struct kvp_estimate est;

    for (uint64_t batch = 1; batch <= 3; batch += 2)
        for (uint64_t context = 1; context <= 4096; context += 4095) { /* whatever the context, once a sequence */
            est = estimate_of(&m, "", (struct kvp_workload){.context = context, .batch = batch}, states[_i].o);
            ck_assert_msg(est.memory.state_bytes == batch * states[_i].state, "%s: state %" PRIu64 ", not %" PRIu64, m.name,
                          est.memory.state_bytes, batch * states[_i].state);
            ck_assert_uint_eq(est.memory.bytes_per_token, states[_i].per_token);
            kvp_estimate_free(&est);
        }
    kvp_model_free(&m);
}
END_TEST

/* 32768 tokens of bf16: 10 layers * 2 * 2 * 256 * 2, 6 * 2 * 2 * 128 * 2; 8 windows of 2048 tokens * 2 * 256 * 2. */
START_TEST(cache)
{
    static const struct {
        const char *config;
        uint64_t cache;
    } caches[] = {
        {"qwen3_5/Qwen__Qwen3.5-35B-A3B", 671088640},
        {"nemotron_h/nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 201326592},
        {"unsure/recurrent_gemma/google__recurrentgemma-2b", 8ull * 2048 * 2 * 256 * 2},
    };

    for (size_t i = 0; i < COUNT(caches); i++) {
        struct kvp_model m = model_of(caches[i].config);
        struct kvp_options o = {.weights_given = true, .weights = KVP_BF16};
        struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 32768}, o);

        ck_assert_uint_eq(est.memory.cache_bytes, caches[i].cache);
        kvp_estimate_free(&est);
        kvp_model_free(&m);
    }
}
END_TEST

/* tests/truth/fieldlogs.csv, rule state-fp32: llama.cpp keeps states and conv columns in f32. `slots` are
 * sequences times rollback copies. `share`: layers of this device. Rows whose printed number is of one part
 * (SGLang: conv columns alone, in bf16) say so. */
static const struct {
    const char *id, *config;
    uint64_t slots;
    double share, mib, tolerance;
    const char *part;
    enum kvp_format format;
} logs[] = {
    {"lc-054", "qwen3_5/Qwen__Qwen3.5-27B", 2, 1, 299.25, 0.005, "", KVP_F32},
    {"lc-058", "qwen3_5/Qwen__Qwen3.5-27B", 12, 1, 1795.50, 0.005, "", KVP_F32},
    {"lc-060", qwen3_5_9b, 1, 1, 50.25, 0.005, "", KVP_F32},
    {"lc-061", qwen3_5_9b, 4, 1, 201.00, 0.005, "", KVP_F32},
    {"lc-061 R", qwen3_5_9b, 4, 1, 9.00, 0.005, "conv_state", KVP_F32},
    {"lc-061 S", qwen3_5_9b, 4, 1, 192.00, 0.005, "delta_state", KVP_F32},
    {"lc-062", qwen3_5_9b, 1, 1, 50.25, 0.005, "", KVP_F32},
    {"lc-063", "qwen3_5/Qwen__Qwen3.5-35B-A3B", 4, 1, 251.25, 0.005, "", KVP_F32},
    {"lc-065", "qwen3_5/Qwen__Qwen3.5-35B-A3B", 1, 1, 62.81, 0.005, "", KVP_F32},
    {"lc-066", "qwen3_next/Qwen__Qwen3-Next-80B-A3B-Thinking", 4, 1, 301.50, 0.005, "", KVP_F32},
    {"lc-078", "lfm2/LiquidAI__LFM2-1.2B", 1, 1, 0.16, 0.005, "", KVP_F32},
    {"lc-079", "mamba/state-spaces__mamba-2.8b-hf", 1, 1, 23.75, 0.005, "", KVP_F32},
    {"lc-112", "falcon_mamba/tiiuae__falcon-mamba-7b", 1, 1, 38, 0.005, "", KVP_F32},
    {"lc-119", qwen3_5_9b, 1, 10 / 24.0, 20.94, 0.005, "", KVP_F32},
    {"lc-124", "qwen3_5/Qwen__Qwen3.5-27B", 1, 18 / 48.0, 56.11, 0.005, "", KVP_F32},
    {"sg-019", "unsure/nemotron_h/nvidia__NVIDIA-Nemotron-Nano-9B-v2", 49, 1, 0.09 * 1024, 0.005 * 1024, "conv_state", KVP_BF16},
};

START_TEST(field_log)
{
    struct kvp_model m = model_of(logs[_i].config);
    struct kvp_options o = {.conv_given = true, .conv = logs[_i].format};
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 512, .batch = logs[_i].slots}, o);
    uint64_t bytes = 0;
    double mib;

    for (uint32_t i = 0; i < est.n_tensors; i++)
        if (est.tensors[i].tag == KVP_TAG_STATE && (!*logs[_i].part || strcmp(est.tensors[i].name, logs[_i].part) == 0))
            bytes += est.tensors[i].bytes;
    mib = (double)bytes * logs[_i].share / 1048576;
    ck_assert_msg(fabs(mib - logs[_i].mib) <= logs[_i].tolerance, "%s: %f MiB, printed %f", logs[_i].id, mib, logs[_i].mib);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Techniques change what holds tokens, never the state. Qwen3.5-27B: 48 layers of 2.1 and 3.1 MB. */
START_TEST(techniques)
{
    static const char *const specs[] = {"dense", "window:64", "h2o", "kivi", "paged:16", "contiguous:8192", "growing", "h2o paged:16"};
    struct kvp_model m = model_of("qwen3_5/Qwen__Qwen3.5-27B");

    for (size_t i = 0; i < COUNT(specs); i++) {
        struct kvp_estimate est = estimate_of(&m, specs[i], (struct kvp_workload){.context = 4096, .batch = 2}, (struct kvp_options){0});

        ck_assert_msg(est.memory.state_bytes == 2ull * 48 * (48 * 128 * 128 * 4 + 10240 * 3 * 2), "%s", specs[i]);
        kvp_estimate_free(&est);
    }
    kvp_model_free(&m);
}
END_TEST

/* What a config says about the format of the state. */
START_TEST(state_dtype)
{
    static const char text[] = "{\"model_type\":\"qwen3_5_text\",\"hidden_size\":512,\"num_hidden_layers\":4,\"intermediate_size\":64,"
                               "\"vocab_size\":64,\"num_attention_heads\":2,\"mamba_ssm_dtype\":\"bfloat16\"}";
    struct kvp_model m = model_of(text);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 8}, (struct kvp_options){0});

    ck_assert_uint_eq(est.memory.state_bytes, 3ull * (32 * 128 * 128 * 2 + 8192 * 3 * 4)); /* conv in f32: no dtype */
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* ---- work -------------------------------------------------------------------------------------------------- */

enum what { FLOPS, READ, WRITTEN };

static const struct {
    const char *config;
    uint64_t batch;
    enum kvp_phase phase;
    enum kvp_op op;
    enum what what;
    uint64_t sum;
} works[] = {
    /* 3.8 c. Mamba-2.8B in f16: D 2560, E 5120, n 16, R 160, 64 layers, batch 2 */
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_DECODE, KVP_OP_REC_SCAN, FLOPS, 64ull * 2 * 7 * 5120 * 16},
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_DECODE, KVP_OP_REC_CONV, FLOPS, 64ull * 2 * 2 * 5120 * 4},
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_DECODE, KVP_OP_REC_IN, FLOPS, 7172259840},  /* 64*2*2 (2 D E + E 192 + 160 E) */
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_DECODE, KVP_OP_REC_OUT, FLOPS, 3355443200}, /* 64*2*2 E D */
    /* written: outputs and the new state; read: x, dt, z, B, C; A and D; the old state */
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_DECODE, KVP_OP_REC_SCAN, WRITTEN, 64ull * 2 * (4 * 5120 + 5120 * 16 * 4)},
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_DECODE, KVP_OP_REC_SCAN, READ,
     64ull * (2 * 4 * (3 * 5120 + 32) + 2 * (5120 * 16 + 5120) + 2 * 5120 * 16 * 4)},
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_DECODE, KVP_OP_REC_CONV, WRITTEN, 64ull * 2 * (4 * 5120 + 3 * 5120 * 2)},
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_DECODE, KVP_OP_REC_CONV, READ, 64ull * (2 * 4 * 5120 + 2 * 5 * 5120 + 2 * 3 * 5120 * 2)},
    /* prefill of 100 tokens: 100 times the work, the state written once */
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_PREFILL, KVP_OP_REC_SCAN, FLOPS, 100ull * 64 * 2 * 7 * 5120 * 16},
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_PREFILL, KVP_OP_REC_SCAN, WRITTEN, 64ull * 2 * (100 * 4 * 5120 + 5120 * 16 * 4)},
    {"mamba/state-spaces__mamba-2.8b-hf", 2, KVP_PREFILL, KVP_OP_ATTN_NORM, WRITTEN, 64ull * 2 * 100 * 4 * 2560},
    /* RWKV-4 169M: 2 * 13 C^2 a layer in four ops, 20 C in the scan */
    {"unsure/rwkv/RWKV__rwkv-4-169m-pile", 1, KVP_DECODE, KVP_OP_REC_IN, FLOPS, 12ull * 2 * 3 * 768 * 768},
    {"unsure/rwkv/RWKV__rwkv-4-169m-pile", 1, KVP_DECODE, KVP_OP_REC_OUT, FLOPS, 12ull * 2 * 768 * 768},
    {"unsure/rwkv/RWKV__rwkv-4-169m-pile", 1, KVP_DECODE, KVP_OP_MLP_UP, FLOPS, 12ull * 2 * 5 * 768 * 768},
    {"unsure/rwkv/RWKV__rwkv-4-169m-pile", 1, KVP_DECODE, KVP_OP_MLP_DOWN, FLOPS, 12ull * 2 * 4 * 768 * 768},
    {"unsure/rwkv/RWKV__rwkv-4-169m-pile", 1, KVP_DECODE, KVP_OP_REC_SCAN, FLOPS, 12ull * 20 * 768},
    {"rwkv/RWKV__rwkv-5-world-1b5", 1, KVP_DECODE, KVP_OP_REC_SCAN, FLOPS, 24ull * 7 * 2048 * 64},
    {"rwkv/RWKV__rwkv-6-world-1b6", 1, KVP_DECODE, KVP_OP_REC_SCAN, FLOPS, 24ull * 7 * 2048 * 64},
    {"unsure/rwkv/RWKV__RWKV7-Goose-Pile-168M-HF", 1, KVP_DECODE, KVP_OP_REC_SCAN, FLOPS, 12ull * 9 * 768 * 64},
    /* 4 C^2 + low rank, one rank of 32 less in the first layer */
    {"unsure/rwkv/RWKV__RWKV7-Goose-Pile-168M-HF", 1, KVP_DECODE, KVP_OP_REC_IN, FLOPS,
     12ull * 2 * (3 * 768 * 768 + 2 * 768 * (64 + 64 + 128)) + 11ull * 2 * 2 * 768 * 32},
    {"mamba2/mistralai__Mamba-Codestral-7B-v0.1", 1, KVP_DECODE, KVP_OP_REC_SCAN, FLOPS, 64ull * 5 * 8192 * 128},
    {"mamba2/mistralai__Mamba-Codestral-7B-v0.1", 1, KVP_DECODE, KVP_OP_REC_IN, FLOPS, 64ull * 2 * 4096 * (2 * 8192 + 2 * 8 * 128 + 128)},
    {"qwen3_next/Qwen__Qwen3-Next-80B-A3B-Thinking", 1, KVP_DECODE, KVP_OP_REC_SCAN, FLOPS, 36ull * 7 * 32 * 128 * 128},
    {"qwen3_next/Qwen__Qwen3-Next-80B-A3B-Thinking", 1, KVP_DECODE, KVP_OP_REC_CONV, FLOPS, 36ull * 2 * 8192 * 4},
    {"qwen3_next/Qwen__Qwen3-Next-80B-A3B-Thinking", 1, KVP_DECODE, KVP_OP_REC_OUT, FLOPS, 36ull * 2 * 4096 * 2048},
    {minimax_m1, 1, KVP_DECODE, KVP_OP_REC_SCAN, FLOPS, 70ull * 5 * 64 * 128 * 128},
    {kimi_linear_48b, 1, KVP_DECODE, KVP_OP_REC_SCAN, FLOPS, 20ull * 7 * 32 * 128 * 128},
    {kimi_linear_48b, 1, KVP_DECODE, KVP_OP_REC_IN, FLOPS, 20ull * 2 * (2304 * (3 * 4096 + 32) + 2 * 128 * (2304 + 4096))},
    {"lfm2/LiquidAI__LFM2-1.2B", 1, KVP_DECODE, KVP_OP_REC_CONV, FLOPS, 10ull * 2 * 2048 * 3},
    {"lfm2/LiquidAI__LFM2-1.2B", 1, KVP_DECODE, KVP_OP_REC_IN, FLOPS, 10ull * 2 * 3 * 2048 * 2048},
    {"unsure/recurrent_gemma/google__recurrentgemma-2b", 1, KVP_DECODE, KVP_OP_REC_IN, FLOPS, 18ull * 2 * (2 * 2560 * 2560 + 2 * 2560 * 256)},
    /* down_proj, and what the layer adds: rank-128 adapters on gate and up, a projection of the width; 13 layers */
    {"zamba2/Zyphra__Zamba2-7B", 1, KVP_DECODE, KVP_OP_MLP_DOWN, FLOPS,
     13ull * 2 * (14336 * 3584 + 3584 * 3584 + 128 * (3584 + 2 * 14336))},
    /* side by side: one norm a layer serves both */
    {"unsure/falcon_h1/tiiuae__Falcon-H1-3B-Instruct", 1, KVP_DECODE, KVP_OP_ATTN_NORM, WRITTEN, 32ull * 4 * 2560},
};

START_TEST(work)
{
    struct kvp_model m = model_of(works[_i].config);
    struct kvp_options o = {.weights_given = true, .weights = KVP_F16};
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 100, .batch = works[_i].batch}, o);
    uint64_t sum = 0;

    for (uint32_t i = 0; i < est.n_ops; i++) {
        const struct kvp_op_cost *x = &est.ops[i];

        if (x->phase == works[_i].phase && x->op == works[_i].op)
            sum += works[_i].what == FLOPS ? x->flops : works[_i].what == READ ? x->read_bytes : x->written_bytes;
    }
    ck_assert_msg(sum == works[_i].sum, "%s, %s: %" PRIu64 ", not %" PRIu64, m.name, kvp_op_name(works[_i].op), sum, works[_i].sum);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* ---- refusals ---------------------------------------------------------------------------------------------- */

#define MAMBA(more) "{\"model_type\":\"mamba\",\"vocab_size\":64,\"hidden_size\":64,\"num_hidden_layers\":2" more "}"
#define JAMBA(more)                                                                                                  \
    "{\"model_type\":\"jamba\",\"vocab_size\":64,\"hidden_size\":64,\"intermediate_size\":64,\"num_attention_heads\":8,\"num_hidden_layers\":8" more "}"
#define NEMOTRON(more)                                                                                               \
    "{\"model_type\":\"nemotron_h\",\"vocab_size\":64,\"hidden_size\":64,\"intermediate_size\":64,\"num_attention_heads\":8" more "}"
#define LFM(more)                                                                                                    \
    "{\"model_type\":\"lfm2\",\"vocab_size\":64,\"hidden_size\":64,\"intermediate_size\":64,\"num_attention_heads\":8,\"num_hidden_layers\":2" more "}"
#define GRANITE(more)                                                                                                \
    "{\"model_type\":\"granitemoehybrid\",\"vocab_size\":64,\"hidden_size\":64,\"intermediate_size\":64,\"num_attention_heads\":8,\"num_hidden_layers\":2" more "}"

static const struct {
    const char *json;
    kvp_err rc;
    const char *words;
} refusals[] = {
    {MAMBA(",\"state_shape\":3"), KVP_EINPUT, "state_shape"},
    {MAMBA(",\"n_window\":3"), KVP_EINPUT, "n_window"},
    {MAMBA(",\"shared_rank\":3"), KVP_EINPUT, "shared_rank"},
    {MAMBA(",\"num_experts\":3"), KVP_EINPUT, "num_experts"},
    {MAMBA(",\"time_step_rank\":\"big\""), KVP_EINPUT, "time_step_rank"},
    {MAMBA(",\"state_size\":-1"), KVP_EINPUT, "state_size"},
    {MAMBA(",\"expand\":16777216"), KVP_EINPUT, "expand"},
    {"{\"d_model\":64,\"n_layer\":2,\"vocab_size\":64,\"ssm_cfg\":{},\"attn_layer_idx\":[1]}", KVP_ENOTSUP, "attn_layer_idx"},
    {"{\"d_model\":64,\"n_layer\":2,\"vocab_size\":64,\"ssm_cfg\":{},\"d_cache\":1}", KVP_EINPUT, "d_cache"},
    {"{\"d_model\":64,\"n_layer\":2,\"vocab_size\":64,\"ssm_cfg\":{\"n_share\":1}}", KVP_EINPUT, "n_share"},
    {"{\"d_model\":64,\"n_layer\":2,\"vocab_size\":64,\"ssm_cfg\":{\"layer\":\"Mamba2\",\"D_has_hdim\":true}}", KVP_ENOTSUP, "D_has_hdim"},
    {"{\"d_model\":64,\"n_layer\":2,\"vocab_size\":64,\"ssm_cfg\":[1]}", KVP_EINPUT, "ssm_cfg"},
    {"{\"model_type\":\"mamba2\",\"vocab_size\":64,\"hidden_size\":64,\"num_hidden_layers\":2,\"num_heads\":3}", KVP_EINPUT, "Mamba heads"},
    {NEMOTRON(""), KVP_EINPUT, "num_hidden_layers"},
    {NEMOTRON(",\"hybrid_override_pattern\":\"MX\""), KVP_ENOTSUP, "X"},
    {NEMOTRON(",\"hybrid_override_pattern\":\"ME\""), KVP_EINPUT, "n_routed_experts"},
    {NEMOTRON(",\"hybrid_override_pattern\":\"M-\",\"num_hidden_layers\":3"), KVP_EINPUT, "hybrid_override_pattern"},
    {NEMOTRON(",\"hybrid_override_pattern\":\"M-\",\"mamba_ssm_cache_dtype\":\"int3\""), KVP_ENOTSUP, "mamba_ssm_cache_dtype"},
    {NEMOTRON(",\"hybrid_override_pattern\":\"M-\",\"sliding_window\":16"), KVP_ENOTSUP, "sliding_window"},
    {NEMOTRON(",\"layers_block_type\":[\"mamba\",7]"), KVP_ENOTSUP, "layers_block_type"},
    {LFM(""), KVP_EINPUT, "full_attn_idxs"},
    {LFM(",\"layer_types\":[\"conv\"]"), KVP_EINPUT, "layer_types"},
    {LFM(",\"layer_types\":[\"conv\",\"mamba\"]"), KVP_ENOTSUP, "mamba"},
    {LFM(",\"full_attn_idxs\":[0],\"conv_dim_in\":8"), KVP_EINPUT, "conv_dim_in"},
    {LFM(",\"full_attn_idxs\":[0,2]"), KVP_EINPUT, "full_attn_idxs"},
    {LFM(",\"full_attn_idxs\":[0,\"1\"]"), KVP_EINPUT, "full_attn_idxs"},
    {LFM(",\"full_attn_idxs\":[0],\"conv_L_cache\":0"), KVP_EINPUT, "conv_L_cache"},
    {LFM(",\"full_attn_idxs\":[0],\"vision_config\":[1]"), KVP_EINPUT, "vision_config"},
    {JAMBA(",\"attn_layer_period\":0"), KVP_EINPUT, "attn_layer_period"},
    {JAMBA(",\"attn_layer_period\":2,\"attn_layer_offset\":2"), KVP_EINPUT, "attn_layer_offset"},
    {JAMBA(",\"expert_layer_offset\":5"), KVP_EINPUT, "expert_layer_offset"},
    {MAMBA(",\"conv_kernel\":0"), KVP_EINPUT, "conv_kernel"},
    {MAMBA(",\"state_size\":0"), KVP_EINPUT, "state_size"},
    {MAMBA(",\"expand\":0"), KVP_EINPUT, "expand"},
    {"{\"d_model\":64,\"n_layer\":2,\"vocab_size\":64,\"ssm_cfg\":{\"d_state\":0}}", KVP_EINPUT, "d_state"},
    {"{\"model_type\":\"qwen3_next\",\"vocab_size\":64,\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
     "\"intermediate_size\":8,\"linear_key_head_dim\":0}", KVP_EINPUT, "linear_key_head_dim"},
    {GRANITE(",\"layer_types\":[\"attention\",\"conv\"]"), KVP_ENOTSUP, "conv"},
    {GRANITE(",\"mamba_d_head\":3"), KVP_EINPUT, "Mamba heads"},
    {"{\"model_type\":\"rwkv5\",\"vocab_size\":64,\"hidden_size\":100,\"num_hidden_layers\":2}", KVP_EINPUT, "head_size"},
    {"{\"model_type\":\"rwkv7\",\"vocab_size\":64,\"hidden_size\":128,\"num_hidden_layers\":2,\"attn\":{\"layers\":[1]}}", KVP_ENOTSUP, "attn"},
    {"{\"model_type\":\"zamba2\",\"vocab_size\":64,\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"n_mamba_heads\":2}", KVP_EINPUT,
     "layers_block_type"},
    {"{\"model_type\":\"qwen3_next\",\"vocab_size\":64,\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4}", KVP_EINPUT,
     "intermediate_size"},
    {"{\"model_type\":\"qwen3_next\",\"vocab_size\":64,\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
     "\"intermediate_size\":8,\"linear_num_key_heads\":5}", KVP_EINPUT, "linear_num_value_heads"},
};

START_TEST(refused)
{
    struct kvp_error e = {0};
    struct kvp_model m;
    kvp_err rc = kvp_model_parse(&m, refusals[_i].json, strlen(refusals[_i].json), "config", &e);

    ck_assert_msg(rc == refusals[_i].rc && strstr(e.text, refusals[_i].words), "%s: %d, %s", refusals[_i].json, (int)rc, e.text);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("families_d");

    tcase_add_loop_test(t, parameter_count, 0, (int)COUNT(parameters));
    tcase_add_loop_test(t, weights_size, 0, (int)COUNT(sizes));
    tcase_add_loop_test(t, state, 0, (int)COUNT(states));
    tcase_add_test(t, cache);
    tcase_add_loop_test(t, field_log, 0, (int)COUNT(logs));
    tcase_add_test(t, techniques);
    tcase_add_test(t, state_dtype);
    tcase_add_loop_test(t, work, 0, (int)COUNT(works));
    tcase_add_loop_test(t, refused, 0, (int)COUNT(refusals));
    return run("calc: recurrent families", &t, 1);
}
