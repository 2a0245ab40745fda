/* model.c - config.json to layer classes: published files, built-in names, traps, refusals. */
#include <kvproof/kvproof.h>

#include <check.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DIR = 256 };

static const char *in_tests(char *buf, size_t n, const char *dir, const char *file)
{
    const char *tests = getenv("KVPROOF_TESTS");

    snprintf(buf, n, "%s/%s/%s", tests ? tests : "tests", dir, file);
    return buf;
}

static void load(struct kvp_model *m, const char *path_or_name)
{
    struct kvp_error e = {0};

    ck_assert_msg(kvp_model_load(m, path_or_name, &e) == KVP_OK, "%s: %s", path_or_name, e.text);
}

static void parse(struct kvp_model *m, const char *json)
{
    struct kvp_error e = {0};

    ck_assert_msg(kvp_model_parse(m, json, strlen(json), "test.json", &e) == KVP_OK, "%s: %s", json, e.text);
}

/* The count of parameters, written out here a second time on purpose: it sees a wrong size, bias, norm,
 * tie or layer count. */
static uint64_t parameters(const struct kvp_model *m)
{
    uint64_t D = m->width, norm = m->norm == KVP_NORM_LAYER ? 2 * D : D, n = norm + (uint64_t)m->vocab * D * (m->tied || m->no_head ? 1 : 2);

    if (m->position == KVP_POS_LEARNED)
        n += m->max_positions * D;
    for (uint32_t i = 0; i < m->layers; i++) {
        const struct kvp_layer_class *c = &m->cls[m->class_of[i]];
        uint64_t q = (uint64_t)c->heads * c->head_dim, kv = 2 * (uint64_t)c->kv_heads * c->head_dim, I = c->ffn_width;
        uint64_t up = c->ffn == KVP_FFN_GATED ? 2 : 1;

        n += D * (q + kv) + q * D + (up + 1) * D * I + 2 * norm;
        n += c->qkv_bias ? q + kv : 0;
        n += c->o_bias ? D : 0;
        n += c->ffn_bias ? up * I + D : 0;
        n += c->qk_norm ? 2 * c->head_dim : 0;
    }
    return n;
}

/* ---- published configs ------------------------------------------------------------------------------- */

/* parameters: the total of the published weights (tests/data/configs/README.md), or what transformers' class makes of
 * the same file (tests/truth/transformers.csv), marked "class". */
static const struct {
    const char *file, *type;
    uint64_t parameters;
    uint32_t layers, heads, kv_heads, head_dim, ffn;
    uint64_t window, positions;
    bool tied, qkv_bias, o_bias, ffn_bias, qk_norm;
    enum kvp_format dtype;
    double theta;
} published[] = {
    {"llama-7b.json", "llama", 6738415616, 32, 32, 32, 128, 11008, 0, 2048, false, false, false, false, false, KVP_F16, 1e4},
    {"granite-3b-code.json", "llama", 3482503680, 32, 32, 32, 80, 10240, 0, 128000, true, true, true, true, false, KVP_BF16, 1e7},
    {"internlm-20b-llamafied.json", "llama", 20088714240, 60, 40, 40, 128, 13824, 0, 4096, false, false, false, false, false, KVP_BF16, 1e4},
    {"yi-1.5-6b.json", "llama", 6061035520, 32, 32, 4, 128, 11008, 0, 4096, false, false, false, false, false, KVP_BF16, 5e6},
    {"smollm2-360m.json", "llama", 361821120 /* class */, 32, 15, 5, 64, 2560, 0, 8192, true, false, false, false, false, KVP_BF16, 1e5},
    {"devstral-small.json", "mistral", 23572403200, 40, 32, 8, 128, 32768, 0, 131072, false, false, false, false, false, KVP_BF16, 1e9},
    {"e5-mistral-7b.json", "mistral", 7110660096 /* class */, 32, 32, 8, 128, 14336, 4096, 32768, false, false, false, false, false, KVP_F16, 1e4},
    {"cogito-qwen-14b.json", "qwen2", 14765947904, 48, 40, 8, 128, 13824, 0, 131072, false, true, false, false, false, KVP_BF16, 1e6},
    {"gte-qwen2-7b.json", "qwen2", 7612620288 /* class */, 28, 28, 4, 128, 18944, 0, 131072, false, true, false, false, false, KVP_F32, 1e6},
    {"qwen3-embedding-8b.json", "qwen3", 8188515328 /* class */, 36, 32, 8, 128, 12288, 0, 40960, false, false, false, false, true, KVP_BF16, 1e6},
    {"gpt2-medium.json", "gpt2", 354823168 /* class */, 24, 16, 16, 64, 4096, 0, 1024, true, true, true, true, false, KVP_F32, 0},
};

START_TEST(published_configs)
{
    struct kvp_model m;
    char path[PATH_MAX];
    const struct kvp_layer_class *c;

    load(&m, in_tests(path, sizeof(path), "data/configs", published[_i].file));
    ck_assert_str_eq(m.model_type, published[_i].type);
    ck_assert_uint_eq(parameters(&m), published[_i].parameters);
    ck_assert_uint_eq(m.layers, published[_i].layers);
    ck_assert_uint_eq(m.classes, 1);
    c = &m.cls[0];
    ck_assert_uint_eq(c->count, m.layers);
    ck_assert_uint_eq(c->heads, published[_i].heads);
    ck_assert_uint_eq(c->kv_heads, published[_i].kv_heads);
    ck_assert_uint_eq(c->head_dim, published[_i].head_dim);
    ck_assert_uint_eq(c->ffn_width, published[_i].ffn);
    ck_assert_uint_eq(c->window, published[_i].window);
    ck_assert_uint_eq(m.max_positions, published[_i].positions);
    ck_assert_int_eq(m.tied, published[_i].tied);
    ck_assert_int_eq(c->qkv_bias, published[_i].qkv_bias);
    ck_assert_int_eq(c->o_bias, published[_i].o_bias);
    ck_assert_int_eq(c->ffn_bias, published[_i].ffn_bias);
    ck_assert_int_eq(c->qk_norm, published[_i].qk_norm);
    ck_assert_int_eq(m.dtype, published[_i].dtype);
    ck_assert_double_eq(m.rope_theta, published[_i].theta);
    ck_assert_int_eq(m.dtype_given, strcmp(published[_i].type, "gpt2") != 0);
    kvp_model_free(&m);
}
END_TEST

/* What each family does whatever the file says. */
START_TEST(families)
{
    static const struct {
        const char *name;
        enum kvp_norm norm;
        double eps;
        enum kvp_position position;
        enum kvp_ffn ffn;
        enum kvp_act act;
    } rows[] = {
        {"gpt2", KVP_NORM_LAYER, 1e-5, KVP_POS_LEARNED, KVP_FFN_PLAIN, KVP_ACT_GELU_TANH},
        {"llama-2-7b", KVP_NORM_RMS, 1e-5, KVP_POS_ROPE, KVP_FFN_GATED, KVP_ACT_SILU},
        {"mistral-7b-v0.1", KVP_NORM_RMS, 1e-5, KVP_POS_ROPE, KVP_FFN_GATED, KVP_ACT_SILU},
        {"qwen2.5-0.5b", KVP_NORM_RMS, 1e-6, KVP_POS_ROPE, KVP_FFN_GATED, KVP_ACT_SILU},
        {"qwen3-0.6b", KVP_NORM_RMS, 1e-6, KVP_POS_ROPE, KVP_FFN_GATED, KVP_ACT_SILU},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kvp_model m;

        load(&m, rows[i].name);
        ck_assert_int_eq(m.norm, rows[i].norm);
        ck_assert_double_eq(m.norm_eps, rows[i].eps);
        ck_assert_int_eq(m.position, rows[i].position);
        ck_assert_int_eq(m.cls[0].ffn, rows[i].ffn);
        ck_assert_int_eq(m.cls[0].act, rows[i].act);
        kvp_model_free(&m);
    }
}
END_TEST

/* transformers counted its own parameters when the goldens were made. */
static const char *const goldens[] = {"gpt2", "llama-gqa", "llama3-tied", "mistral-window", "qwen2-hybrid", "qwen3"};

START_TEST(golden_configs)
{
    struct kvp_model m;
    char file[64], path[PATH_MAX];
    json_t *meta;

    snprintf(file, sizeof(file), "%s/meta.json", goldens[_i]);
    meta = json_load_file(in_tests(path, sizeof(path), "golden", file), 0, NULL);
    ck_assert_ptr_nonnull(meta);
    load(&m, in_tests(path, sizeof(path), "golden", goldens[_i]));
    ck_assert_str_eq(m.name, goldens[_i]);
    ck_assert_uint_eq(parameters(&m), (uint64_t)json_integer_value(json_object_get(meta, "parameters")));
    ck_assert_uint_eq(m.vocab, (uint64_t)json_integer_value(json_object_get(meta, "vocab")));
    ck_assert_int_eq(m.dtype, KVP_F32);
    ck_assert(m.dtype_given);
    json_decref(meta);
    kvp_model_free(&m);
}
END_TEST

/* ---- names ------------------------------------------------------------------------------------------- */

/* Totals that the models' pages state for their weights; qwen3-0.6b, whose file stores its tied head
 * twice, is 151936*1024 + 1024 + 28 * (1024*(16+2*8)*128 + 16*128*1024 + 3*1024*3072 + 2*1024 + 2*128). */
static const struct {
    const char *said, *name;
    uint64_t parameters;
} names[] = {
    {"gpt2", "gpt2", 124439808},
    {"openai-community/gpt2-large", "gpt2-large", 774030080},
    {"llama-2-7b", "llama-2-7b", 6738415616},
    {"meta-llama/Llama-2-7b-chat-hf", "llama-2-7b", 6738415616},
    {"meta-llama/Llama-2-70b-hf", "llama-2-70b", 68976648192},
    {"llama-3-8b", "llama-3-8b", 8030261248},
    {"meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b", 8030261248},
    {"meta-llama/Llama-3.1-8B", "llama-3.1-8b", 8030261248},
    {"Llama-3.2-1B-Instruct", "llama-3.2-1b", 1235814400},
    {"LLAMA-3.3-70B", "llama-3.3-70b", 70553706496},
    {"mistral-7b-v0.1", "mistral-7b-v0.1", 7241732096},
    {"mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3", 7248023552},
    {"mistralai/Ministral-8B-Instruct-2410", "ministral-8b-2410", 8019808256},
    {"Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b", 7615616512},
    {"qwen2.5-0.5b", "qwen2.5-0.5b", 494032768},
    {"qwen2.5-72b", "qwen2.5-72b", 72706203648},
    {"qwen3-0.6b", "qwen3-0.6b", 596049920},
    {"Qwen3-32B", "qwen3-32b", 32762123264},
};

START_TEST(builtin_names)
{
    struct kvp_model m;

    load(&m, names[_i].said);
    ck_assert_str_eq(m.name, names[_i].name);
    ck_assert_uint_eq(parameters(&m), names[_i].parameters);
    kvp_model_free(&m);
}
END_TEST

/* Names end up in JSON: whole characters, whatever the file is called. */
static const struct {
    const char *origin, *name;
} spelled[] = {
    {"d\xc3\xa9j\xc3\xa0.json", "d\xc3\xa9j\xc3\xa0"},
    {"a\xff" "b\xc3.json", "a?b?"},
    {"x\n\x7f.json", "x??"},
    {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xc3\xa9.json",
     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
};

START_TEST(names_of_files)
{
    static const char text[] = "{\"model_type\": \"gpt2\", \"vocab_size\": 9, \"n_embd\": 8, \"n_layer\": 1, \"n_head\": 2}";
    struct kvp_error e = {0};
    struct kvp_model m;

    ck_assert_msg(kvp_model_parse(&m, text, sizeof(text) - 1, spelled[_i].origin, &e) == KVP_OK, "%s", e.text);
    ck_assert_str_eq(m.name, spelled[_i].name);
    kvp_model_free(&m);
}
END_TEST

/* A folder with what the test needs; the Check child that runs the test stands in it. */
static void in_folder(char *dir)
{
    strcpy(dir, "/tmp/kvproof-model-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(chdir(dir), 0);
}

static void write_file(const char *path, const char *text)
{
    FILE *fp = fopen(path, "w");

    ck_assert_ptr_nonnull(fp);
    ck_assert_int_ge(fputs(text, fp), 0);
    ck_assert_int_eq(fclose(fp), 0);
}

#define SIZES "\"vocab_size\":97,\"hidden_size\":32,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"intermediate_size\":40"
#define KV ",\"num_key_value_heads\":2"
#define LLAMA(more) "{\"model_type\":\"llama\"," SIZES KV more "}"
#define MISTRAL(more) "{\"model_type\":\"mistral\"," SIZES KV more "}"
#define QWEN2(more) "{\"model_type\":\"qwen2\"," SIZES KV more "}"
#define QWEN3(more) "{\"model_type\":\"qwen3\"," SIZES KV more "}"
#define GPT2(more) "{\"model_type\":\"gpt2\",\"vocab_size\":97,\"n_embd\":32,\"n_layer\":4,\"n_head\":4" more "}"

START_TEST(paths_win)
{
    static const struct {
        const char *said, *name;
    } rows[] = {{"gpt2", "gpt2"}, {"mine/gpt2.json", "gpt2"}, {"mine", "mine"}, {"mine/", "mine"}, {"./mine//config.json", "mine"}, {"config.json", "config"}};
    char dir[DIR], data[PATH_MAX], cmd[DIR + 16];
    struct kvp_model m;
    struct kvp_error e = {0};

    ck_assert_ptr_nonnull(realpath(getenv("KVPROOF_DATA"), data));
    setenv("KVPROOF_DATA", data, 1);
    in_folder(dir);
    ck_assert_int_eq(mkdir("mine", 0755), 0);
    write_file("gpt2", LLAMA(""));
    write_file("mine/gpt2.json", LLAMA(""));
    write_file("mine/config.json", LLAMA(""));
    write_file("config.json", LLAMA(""));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        load(&m, rows[i].said);
        ck_assert_str_eq(m.name, rows[i].name);
        ck_assert_str_eq(m.model_type, "llama");
        kvp_model_free(&m);
    }
    ck_assert_int_eq(unlink("gpt2"), 0);
    load(&m, "gpt2");
    ck_assert_str_eq(m.model_type, "gpt2");
    kvp_model_free(&m);

    write_file("mine/hf_quant_config.json", "{}");
    ck_assert_int_eq(kvp_model_load(&m, "mine", &e), KVP_ENOTSUP);
    ck_assert_ptr_nonnull(strstr(e.text, "mine/hf_quant_config.json"));
    snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert_int_eq(system(cmd), 0);
}
END_TEST

START_TEST(not_found)
{
    static const struct {
        const char *said, *fragment;
    } rows[] = {
        {"llama-9-7b", "kvproof list models"},
        {"llama-9-7b", "/models"},
        {"", "empty"},
        {"../data/models/gpt2", "no model"},
        {"a/b/gpt2", "no model"},
        {"gpt2\nx", "gpt2?x"},
        {"/nonexistent/config.json", "/nonexistent/config.json"},
        {"/proc", "without a config.json"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kvp_model m;
        struct kvp_error e = {0};

        ck_assert_int_eq(kvp_model_load(&m, rows[i].said, &e), KVP_EINPUT);
        ck_assert_msg(strstr(e.text, rows[i].fragment) != NULL, "%s", e.text);
        ck_assert_ptr_null(strchr(e.text, '\n'));
        ck_assert_ptr_null(m.cls);
    }
}
END_TEST

/* ---- traps ------------------------------------------------------------------------------------------- */

/* Each of these is an ordinary Llama of 4 layers, 4 heads, 2 KV heads, head size 8, for all the clutter. */
static const char *const same_llama[] = {
    LLAMA(""),
    LLAMA(",\"head_dim\":null,\"rope_scaling\":null,\"sliding_window\":null,\"quantization_config\":null"),
    LLAMA(",\"time_step_limit\":[0.0,Infinity],\"x\":-Infinity,\"y\":NaN"),
    LLAMA(",\"name\":\"Infinity and NaN \\\" -Infinity\",\"model_max_length\":1000000000000000019884624838656"),
    LLAMA(",\"use_cache\":true,\"output_hidden_states\":false,\"pruned_heads\":{},\"num_experts\":0"),
    LLAMA(",\"future_state_dim\":null,\"eos_token_id\":[1,2,3],\"pad_token_id\":-1"),
    LLAMA(",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000.0},\"dtype\":\"auto\""),
    "{\"architectures\":[\"LLaMAForCausalLM\"]," SIZES KV "}",
    "{\"model_type\":null,\"architectures\":[\"LlamaForCausalLM\"]," SIZES KV "}",
    "{\"model_type\":\"llama\",\"vocab_size\":97.0,\"hidden_size\":32.0,\"num_hidden_layers\":4.0,\"num_attention_heads\":4.0,"
    "\"intermediate_size\":40.0,\"num_key_value_heads\":2.0,\"tie_word_embeddings\":0,\"attention_bias\":0}",
    "\n\t {\"model_type\":\"llama\"," SIZES KV ",\"mlp_bias\":false}\n",
};

START_TEST(clutter)
{
    struct kvp_model m;

    parse(&m, same_llama[_i]);
    ck_assert_str_eq(m.model_type, "llama");
    ck_assert_str_eq(m.name, "test");
    ck_assert_uint_eq(m.vocab, 97);
    ck_assert_uint_eq(m.width, 32);
    ck_assert_uint_eq(m.layers, 4);
    ck_assert_uint_eq(m.classes, 1);
    ck_assert_uint_eq(m.cls[0].heads, 4);
    ck_assert_uint_eq(m.cls[0].kv_heads, 2);
    ck_assert_uint_eq(m.cls[0].head_dim, 8);
    ck_assert_uint_eq(m.cls[0].window, 0);
    ck_assert_int_eq(m.rope_scaling, KVP_ROPE_PLAIN);
    ck_assert_double_eq(m.rope_theta, 10000);
    ck_assert_int_eq(m.tied, false);
    ck_assert_int_eq(m.dtype, KVP_F32);
    ck_assert_int_eq(m.dtype_given, false);
    ck_assert_uint_eq(m.max_positions, 2048);
    kvp_model_free(&m);
}
END_TEST

/* Class defaults and null, from the configuration files of transformers. */
START_TEST(defaults)
{
    static const struct {
        const char *json;
        uint32_t kv_heads, head_dim, ffn;
        bool tied;
    } rows[] = {
        {"{\"model_type\":\"llama\"," SIZES "}", 4, 8, 40, false},
        {"{\"model_type\":\"qwen2\"," SIZES ",\"num_key_value_heads\":null}", 4, 8, 40, false},
        {QWEN3(""), 2, 128, 40, false},
        {QWEN3(",\"head_dim\":null"), 2, 8, 40, false},
        {QWEN3(",\"head_dim\":10,\"tie_word_embeddings\":true"), 2, 10, 40, true},
        {GPT2(""), 4, 8, 128, true},
        {GPT2(",\"n_inner\":null,\"tie_word_embeddings\":false"), 4, 8, 128, false},
        {GPT2(",\"n_inner\":50"), 4, 8, 50, true},
        {"{\"model_type\":\"mistral\",\"vocab_size\":9,\"hidden_size\":64,\"num_hidden_layers\":1,\"num_attention_heads\":16,\"intermediate_size\":8}", 8, 4, 8, false},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kvp_model m;

        parse(&m, rows[i].json);
        ck_assert_msg(m.cls[0].kv_heads == rows[i].kv_heads && m.cls[0].head_dim == rows[i].head_dim &&
                      m.cls[0].ffn_width == rows[i].ffn && m.tied == rows[i].tied,
                      "%s: %u %u %u %d", rows[i].json, m.cls[0].kv_heads, m.cls[0].head_dim, m.cls[0].ffn_width, m.tied);
        kvp_model_free(&m);
    }
}
END_TEST

/* The window of each of the four layers. */
static const struct {
    const char *json;
    uint64_t window[4];
    uint32_t classes;
} windows[] = {
    {MISTRAL(""), {4096, 4096, 4096, 4096}, 1},
    {MISTRAL(",\"sliding_window\":7"), {7, 7, 7, 7}, 1},
    {MISTRAL(",\"sliding_window\":null"), {0, 0, 0, 0}, 1},
    {MISTRAL(",\"sliding_window\":7,\"layer_types\":[\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"]"), {7, 0, 7, 0}, 2},
    {LLAMA(",\"sliding_window\":7,\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"]"), {0, 0, 7, 0}, 2},
    {LLAMA(",\"sliding_window\":null,\"max_window_layers\":2,\"use_sliding_window\":false"), {0, 0, 0, 0}, 1},
    {QWEN2(",\"sliding_window\":7"), {0, 0, 0, 0}, 1},
    {QWEN2(",\"sliding_window\":7,\"use_sliding_window\":false,\"max_window_layers\":0"), {0, 0, 0, 0}, 1},
    {QWEN2(",\"sliding_window\":7,\"use_sliding_window\":true,\"max_window_layers\":0"), {7, 7, 7, 7}, 1},
    {QWEN2(",\"sliding_window\":7,\"use_sliding_window\":true,\"max_window_layers\":3"), {0, 0, 0, 7}, 2},
    {QWEN2(",\"sliding_window\":7,\"use_sliding_window\":true"), {0, 0, 0, 0}, 1}, /* class default: from layer 28 on */
    {QWEN3(",\"use_sliding_window\":true,\"max_window_layers\":1"), {0, 4096, 4096, 4096}, 2},
    {QWEN3(",\"sliding_window\":7,\"use_sliding_window\":true,\"max_window_layers\":9,\"layer_types\":[\"sliding_attention\",\"full_attention\",\"full_attention\",\"full_attention\"]"), {7, 0, 0, 0}, 2},
};

START_TEST(layer_windows)
{
    struct kvp_model m;
    uint32_t counted = 0;

    parse(&m, windows[_i].json);
    ck_assert_uint_eq(m.classes, windows[_i].classes);
    for (uint32_t i = 0; i < m.layers; i++) {
        ck_assert_uint_lt(m.class_of[i], m.classes);
        ck_assert_uint_eq(m.cls[m.class_of[i]].window, windows[_i].window[i]);
    }
    for (uint32_t c = 0; c < m.classes; c++)
        counted += m.cls[c].count;
    ck_assert_uint_eq(counted, 4);
    kvp_model_free(&m);
}
END_TEST

START_TEST(rope)
{
    static const struct {
        const char *json;
        enum kvp_rope_scaling scaling;
        const char *type;
        double theta, factor, low, high, original;
    } rows[] = {
        {LLAMA(",\"rope_theta\":5e5"), KVP_ROPE_PLAIN, "default", 5e5, 0, 0, 0, 0},
        {LLAMA(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}"), KVP_ROPE_LINEAR, "linear", 1e4, 4, 0, 0, 0},
        {LLAMA(",\"rope_theta\":7,\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.0,\"rope_theta\":99.5}"), KVP_ROPE_LINEAR, "linear", 99.5, 2, 0, 0, 0},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}"),
         KVP_ROPE_LLAMA3, "llama3", 1e4, 8, 1, 4, 8192},
        {QWEN2(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0}"), KVP_ROPE_YARN, "yarn", 1e4, 4, 0, 0, 32768},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kvp_model m;

        parse(&m, rows[i].json);
        ck_assert_int_eq(m.rope_scaling, rows[i].scaling);
        ck_assert_str_eq(m.rope_type, rows[i].type);
        ck_assert_double_eq(m.rope_theta, rows[i].theta);
        ck_assert_double_eq(m.rope_factor, rows[i].factor);
        ck_assert_double_eq(m.rope_low_freq, rows[i].low);
        ck_assert_double_eq(m.rope_high_freq, rows[i].high);
        ck_assert_double_eq(m.rope_original_context, rows[i].original);
        kvp_model_free(&m);
    }
}
END_TEST

START_TEST(dtypes)
{
    static const struct {
        const char *json;
        enum kvp_format dtype;
        bool given;
    } rows[] = {
        {LLAMA(""), KVP_F32, false},
        {LLAMA(",\"torch_dtype\":\"float16\""), KVP_F16, true},
        {LLAMA(",\"torch_dtype\":\"torch.bfloat16\""), KVP_BF16, true},
        {LLAMA(",\"torch_dtype\":\"float16\",\"dtype\":\"float32\""), KVP_F32, true},
        {LLAMA(",\"torch_dtype\":null,\"dtype\":\"bfloat16\""), KVP_BF16, true},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kvp_model m;

        parse(&m, rows[i].json);
        ck_assert_int_eq(m.dtype, rows[i].dtype);
        ck_assert_int_eq(m.dtype_given, rows[i].given);
        kvp_model_free(&m);
    }
}
END_TEST

/* ---- refusals ---------------------------------------------------------------------------------------- */

static const struct {
    const char *json;
    kvp_err code;
    const char *fragment; /* what the message must name */
} refused[] = {
    /* a key that could change memory, one for each word of the rule, whatever its case */
    {LLAMA(",\"hidden_size\":64"), KVP_EINPUT, "duplicate object key"}, /* once in the text already */
    {LLAMA(",\"num_head_groups\":2"), KVP_EINPUT, "num_head_groups"},
    {LLAMA(",\"num_extra_layers\":2"), KVP_EINPUT, "num_extra_layers"},
    {LLAMA(",\"attentionWindow\":2"), KVP_EINPUT, "attentionWindow"},
    {LLAMA(",\"kv_lora_rank\":512"), KVP_EINPUT, "kv_lora_rank"},
    {LLAMA(",\"state_size\":16"), KVP_EINPUT, "state_size"},
    {LLAMA(",\"shared_kv\":true"), KVP_EINPUT, "shared_kv"},
    {LLAMA(",\"CACHE_implementation\":\"static\""), KVP_EINPUT, "CACHE_implementation"},
    {LLAMA(",\"n_routed_experts\":8"), KVP_EINPUT, "n_routed_experts"},
    {LLAMA(",\"rotary_dim\":64"), KVP_EINPUT, "rotary_dim"},
    {LLAMA(",\"layer\\nbreak\":1"), KVP_EINPUT, "layer?break"},
    {GPT2(",\"head_dim\":64"), KVP_EINPUT, "head_dim"},
    {GPT2(",\"sliding_window\":64"), KVP_EINPUT, "sliding_window"},
    {MISTRAL(",\"use_sliding_window\":true"), KVP_EINPUT, "use_sliding_window"},
    /* values that mean another architecture */
    {GPT2(",\"scale_attn_by_inverse_layer_idx\":true"), KVP_ENOTSUP, "scale_attn_by_inverse_layer_idx"},
    {GPT2(",\"scale_attn_weights\":false"), KVP_ENOTSUP, "scale_attn_weights"},
    {GPT2(",\"add_cross_attention\":true"), KVP_ENOTSUP, "add_cross_attention"},
    {LLAMA(",\"num_local_experts\":8"), KVP_ENOTSUP, "num_local_experts"},
    {LLAMA(",\"num_nextn_predict_layers\":1"), KVP_ENOTSUP, "num_nextn_predict_layers"},
    {LLAMA(",\"pruned_heads\":{\"0\":[1]}"), KVP_ENOTSUP, "pruned_heads"},
    {LLAMA(",\"sliding_window\":4096"), KVP_ENOTSUP, "sliding_window"},
    {MISTRAL(",\"attention_bias\":true"), KVP_ENOTSUP, "attention_bias"},
    {LLAMA(",\"hidden_act\":\"mish\""), KVP_ENOTSUP, "mish"},
    {LLAMA(",\"torch_dtype\":\"float8_e4m3fn\""), KVP_ENOTSUP, "float8_e4m3fn"},
    {LLAMA(",\"layer_types\":[\"full_attention\",\"conv\",\"full_attention\",\"full_attention\"]"), KVP_ENOTSUP, "conv"},
    {"{\"model_type\":\"no-such-type\"}", KVP_ENOTSUP, "no-such-type"},
    {"{\"model_type\":\"no-such-type\"}", KVP_ENOTSUP, "gpt2, llama, qwen2, qwen3"},
    {"{\"architectures\":[\"NoSuchForCausalLM\"]}", KVP_ENOTSUP, "NoSuchForCausalLM"},
    {"{\"dim\":4096,\"n_layers\":32,\"n_heads\":32}", KVP_EINPUT, "vocab_size"},
    {LLAMA(",\"quantization_config\":{\"quant_method\":\"aqlm\"}"), KVP_ENOTSUP, "aqlm"},
    {LLAMA(",\"quantization_config\":{\"quant_algo\":\"MIXED_PRECISION\"}"), KVP_ENOTSUP, "MIXED_PRECISION"},
    {LLAMA(",\"quantization\":{\"bits\":4}"), KVP_ENOTSUP, "quantization"},
    /* values that are wrong */
    {"{}", KVP_EINPUT, "model_type"},
    {"[]", KVP_EINPUT, "object"},
    {"", KVP_EINPUT, "line 1"},
    {"{\"model_type\":\"llama\",\n\"vocab_size\": }", KVP_EINPUT, "line 2"},
    {"{\"model_type\":5}", KVP_EINPUT, "model_type"},
    {"{\"model_type\":\"llama\"}", KVP_EINPUT, "vocab_size"},
    {"{\"model_type\":\"llama\",\"vocab_size\":97,\"hidden_size\":32,\"num_hidden_layers\":null}", KVP_EINPUT, "num_hidden_layers"},
    {"{\"model_type\":\"llama\",\"vocab_size\":97,\"hidden_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":4}", KVP_EINPUT, "intermediate_size"},
    {"{\"model_type\":\"llama\",\"vocab_size\":97,\"hidden_size\":30,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_size\":1}", KVP_EINPUT, "head_dim"},
    {"{\"model_type\":\"gpt2\",\"vocab_size\":97,\"n_embd\":33,\"n_layer\":2,\"n_head\":4}", KVP_EINPUT, "n_embd 33"},
    {"{\"model_type\":\"llama\",\"vocab_size\":\"97\"}", KVP_EINPUT, "vocab_size"},
    {"{\"model_type\":\"llama\",\"vocab_size\":97.5}", KVP_EINPUT, "vocab_size"},
    {"{\"model_type\":\"llama\",\"vocab_size\":Infinity}", KVP_EINPUT, "vocab_size"},
    {"{\"model_type\":\"llama\",\"vocab_size\":-1}", KVP_EINPUT, "vocab_size"},
    {"{\"model_type\":\"llama\",\"vocab_size\":0}", KVP_EINPUT, "vocab_size"},
    {"{\"model_type\":\"llama\",\"vocab_size\":18446744073709551617}", KVP_EINPUT, "vocab_size"},
    {"{\"model_type\":\"llama\",\"vocab_size\":97,\"hidden_size\":32,\"num_hidden_layers\":4097}", KVP_EINPUT, "1 to 4096"},
    {"{\"model_type\":\"mistral\"," SIZES "}", KVP_EINPUT, "8 KV heads"},
    {"{\"model_type\":\"llama\"," SIZES ",\"num_key_value_heads\":3}", KVP_EINPUT, "3 KV heads"},
    {LLAMA(",\"head_dim\":7"), KVP_EINPUT, "odd"},
    {LLAMA(",\"head_dim\":1e9"), KVP_EINPUT, "head_dim"},
    {LLAMA(",\"rms_norm_eps\":0"), KVP_EINPUT, "rms_norm_eps"},
    {LLAMA(",\"rope_theta\":-5"), KVP_EINPUT, "rope_theta"},
    {LLAMA(",\"rope_theta\":NaN"), KVP_EINPUT, "rope_theta"},
    {LLAMA(",\"rope_scaling\":\"linear\""), KVP_EINPUT, "rope_scaling"},
    {LLAMA(",\"rope_scaling\":{\"type\":\"linear\"}"), KVP_EINPUT, "rope_scaling: factor"},
    {LLAMA(",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}"), KVP_EINPUT, "low_freq_factor"},
    {LLAMA(",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":3,\"original_max_position_embeddings\":8}"), KVP_EINPUT, "high_freq_factor"},
    {LLAMA(",\"tie_word_embeddings\":\"yes\""), KVP_EINPUT, "tie_word_embeddings"},
    {LLAMA(",\"torch_dtype\":16"), KVP_EINPUT, "torch_dtype"},
    {MISTRAL(",\"sliding_window\":0"), KVP_EINPUT, "sliding_window"},
    {MISTRAL(",\"sliding_window\":7,\"layer_types\":[\"full_attention\"]"), KVP_EINPUT, "layer_types"},
    {QWEN2(",\"sliding_window\":7,\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"]"), KVP_EINPUT, "layer 2"},
    {LLAMA(",\"x\":1e999"), KVP_EINPUT, "line 1"},
};

START_TEST(refusals)
{
    struct kvp_model m;
    struct kvp_error e = {0};
    kvp_err rc = kvp_model_parse(&m, refused[_i].json, strlen(refused[_i].json), "test.json", &e);

    ck_assert_msg(rc == refused[_i].code, "%s: %d %s", refused[_i].json, rc, e.text);
    ck_assert_int_eq(e.code, rc);
    ck_assert_msg(strstr(e.text, refused[_i].fragment) != NULL, "%s: %s", refused[_i].json, e.text);
    ck_assert_msg(strstr(e.text, "test.json") == e.text, "%s", e.text);
    ck_assert_ptr_null(strchr(e.text, '\n'));
    ck_assert_ptr_null(m.cls);
    ck_assert_ptr_null(m.class_of);
    kvp_model_free(&m);
}
END_TEST

/* Every prefix of a file is refused in one line (or is the file), and nothing leaks on the way. */
START_TEST(cut_short)
{
    static const char text[] = QWEN2(",\"use_sliding_window\":true,\"sliding_window\":7,\"max_window_layers\":2,\"x\":[NaN,-Infinity]");

    for (size_t n = 0; n < sizeof(text) - 1; n++) {
        struct kvp_model m;
        struct kvp_error e = {0};

        ck_assert_int_eq(kvp_model_parse(&m, text, n, "cut", &e), KVP_EINPUT);
        ck_assert_ptr_null(strchr(e.text, '\n'));
    }
}
END_TEST

/* ---- after parsing ----------------------------------------------------------------------------------- */

START_TEST(truncation)
{
    static const char text[] = QWEN2(",\"use_sliding_window\":true,\"sliding_window\":7,\"max_window_layers\":2");
    static const struct {
        uint32_t layers, classes, count[2];
    } rows[] = {{4, 2, {2, 2}}, {3, 2, {2, 1}}, {2, 1, {2, 0}}, {1, 1, {1, 0}}};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kvp_model m;

        parse(&m, text);
        ck_assert_int_eq(kvp_model_truncate(&m, rows[i].layers, NULL), KVP_OK);
        ck_assert_uint_eq(m.layers, rows[i].layers);
        ck_assert_uint_eq(m.classes, rows[i].classes);
        for (uint32_t c = 0; c < m.classes; c++)
            ck_assert_uint_eq(m.cls[c].count, rows[i].count[c]);
        ck_assert_uint_eq(m.cls[m.class_of[0]].window, 0);
        kvp_model_free(&m);
    }
    for (uint32_t bad = 0; bad <= 5; bad += 5) {
        struct kvp_model m;
        struct kvp_error e = {0};

        parse(&m, text);
        ck_assert_int_eq(kvp_model_truncate(&m, bad, &e), KVP_EINPUT);
        ck_assert_ptr_nonnull(strstr(e.text, "4 layers"));
        ck_assert_uint_eq(m.layers, 4);
        kvp_model_free(&m);
    }
}
END_TEST

START_TEST(freeing)
{
    struct kvp_model m;

    kvp_model_free(NULL);
    parse(&m, LLAMA(""));
    kvp_model_free(&m);
    ck_assert_ptr_null(m.cls);
    ck_assert_uint_eq(m.layers, 0);
    kvp_model_free(&m);
}
END_TEST

START_TEST(data_dir)
{
    unsetenv("KVPROOF_DATA");
    ck_assert_ptr_nonnull(kvp_data_dir());
    ck_assert_str_ne(kvp_data_dir(), "");
    setenv("KVPROOF_DATA", "/somewhere", 1);
    ck_assert_str_eq(kvp_data_dir(), "/somewhere");
}
END_TEST

#define LOOP(tc, table, test) tcase_add_loop_test(tc, test, 0, (int)(sizeof(table) / sizeof((table)[0])))

int main(void)
{
    Suite *s = suite_create("model");
    TCase *tc = tcase_create("model");
    SRunner *sr;
    int failed;

    suite_add_tcase(s, tc);
    LOOP(tc, published, published_configs);
    tcase_add_test(tc, families);
    LOOP(tc, goldens, golden_configs);
    LOOP(tc, names, builtin_names);
    LOOP(tc, spelled, names_of_files);
    tcase_add_test(tc, paths_win);
    tcase_add_test(tc, not_found);
    LOOP(tc, same_llama, clutter);
    tcase_add_test(tc, defaults);
    LOOP(tc, windows, layer_windows);
    tcase_add_test(tc, rope);
    tcase_add_test(tc, dtypes);
    LOOP(tc, refused, refusals);
    tcase_add_test(tc, cut_short);
    tcase_add_test(tc, truncation);
    tcase_add_test(tc, freeing);
    tcase_add_test(tc, data_dir);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
