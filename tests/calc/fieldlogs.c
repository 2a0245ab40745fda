/* fieldlogs.c - what other people's engines printed (tests/truth/fieldlogs.csv, each row with its source):
 * every row whose rule is none, format or state-fp32, that is, all that follow from shapes and formats.
 *
 * A row names sizes, not a config, so most are checked on a model built from those sizes; the rest on a real
 * config of that model. The prediction must print as the log does, digit for digit. */
#include "tests/calc/calc_test.h"

#include <jansson.h>
#include <math.h>

enum { FIELDS = 18, MAX_ROWS = 400 };

struct row {
    char *text; /* owned; the fields point into it */
    const char *id, *model, *context, *sequences, *kv, *weights, *quantity, *reported, *unit, *rule;
    json_t *sizes;
};
static struct row rows[MAX_ROWS];
static int n_rows, failures;

/* ---- the file ------------------------------------------------------------------------------------- */

/* Split a line of CSV in place; quotes are doubled inside quotes. */
static int split(char *line, char **field)
{
    int n = 0;
    char *in = line, *out = line;

    for (bool more = true; more && n < FIELDS; n++) {
        bool quoted = *in == '"';

        in += quoted;
        field[n] = out;
        for (; *in && (quoted || (*in != ',' && *in != '\n')); in++) {
            if (quoted && *in == '"' && in[1] != '"') {
                quoted = false;
                continue;
            }
            in += quoted && *in == '"';
            *out++ = *in;
        }
        more = *in == ',';
        in++;
        *out++ = '\0';
    }
    return n;
}

static void load_rows(void)
{
    const char *tests = getenv("KVPROOF_TESTS");
    char path[512], line[4096], *f[FIELDS];
    FILE *file;

    snprintf(path, sizeof(path), "%s/truth/fieldlogs.csv", tests ? tests : "tests");
    file = fopen(path, "r");
    ck_assert_msg(file != NULL, "%s", path);
    ck_assert_ptr_nonnull(fgets(line, sizeof(line), file));
    while (fgets(line, sizeof(line), file)) {
        char *text = strdup(line);
        struct row *r = &rows[n_rows];

        ck_assert_msg(split(text, f) == FIELDS, "%s: %.40s...", path, line);
        *r = (struct row){text, f[0], f[2], f[5], f[6], f[7], f[8], f[10], f[11], f[12], f[16], NULL};
        if (strcmp(r->rule, "none") != 0 && strcmp(r->rule, "format") != 0 && strcmp(r->rule, "state-fp32") != 0) {
            free(text);
            continue;
        }
        r->sizes = json_loads(f[4], 0, NULL);
        ck_assert_msg(r->sizes != NULL && n_rows + 1 < MAX_ROWS, "%s: %s", r->id, f[4]);
        n_rows++;
    }
    fclose(file);
}

static void free_rows(void)
{
    while (n_rows > 0) {
        json_decref(rows[--n_rows].sizes);
        free(rows[n_rows].text);
    }
}

static uint32_t size_or(const struct row *r, const char *key, uint32_t absent)
{
    const json_t *v = json_object_get(r->sizes, key);

    return json_is_integer(v) ? (uint32_t)json_integer_value(v) : absent;
}

static uint32_t size_of(const struct row *r, const char *key)
{
    return size_or(r, key, 0);
}

static bool has(const struct row *r, const char *key)
{
    return json_object_get(r->sizes, key) != NULL;
}

/* ---- a model from sizes --------------------------------------------------------------------------- */

static void build(struct kvp_model *m, const struct row *r, const struct kvp_layer_class *c, uint32_t layers)
{
    struct kvp_layer_class *list = calloc(layers, sizeof(*list));
    struct kvp_error e = {0};

    *m = (struct kvp_model){.vocab = size_or(r, "vocab", 1), .width = size_or(r, "hidden", 1), .layers = layers, .position = KVP_POS_NONE,
                            .dtype = KVP_F16, .norm_vectors = 1, .tied = json_is_true(json_object_get(r->sizes, "tied"))};
    snprintf(m->name, sizeof(m->name), "%s", r->id);
    for (uint32_t i = 0; i < layers; i++)
        memcpy(&list[i], c, sizeof(*c));
    ck_assert_int_eq(kvp_model_group(m, list, &e), KVP_OK);
    free(list);
}

static uint64_t number(const char *text, uint64_t absent)
{
    return *text ? strtoull(text, NULL, 10) : absent;
}

/* The cache type of the log as a technique, or none and the plain format. */
static void cache_type(const struct row *r, char *spec, size_t n, struct kvp_options *o)
{
    static const struct {
        const char *word;
        enum kvp_format f;
    } plain[] = {{"f16", KVP_F16}, {"fp16", KVP_F16}, {"bf16", KVP_BF16}, {"f32", KVP_F32}};
    const char *k = strncmp(r->kv, "K=", 2) == 0 ? r->kv + 2 : NULL;

    *spec = '\0';
    o->kv_given = true;
    o->kv = KVP_F16;
    for (size_t i = 0; i < COUNT(plain); i++)
        if (strcmp(r->kv, plain[i].word) == 0) {
            o->kv = plain[i].f;
            return;
        }
    if (k)
        snprintf(spec, n, "kv:k=%.*s,v=f16", (int)strcspn(k, ";"), k);
    else if (strstr(r->kv, "_ds_mla"))
        snprintf(spec, n, "kv:%.*s,layout=ds_mla", (int)(strstr(r->kv, "_ds_mla") - r->kv), r->kv);
    else
        snprintf(spec, n, "kv:%s", strcmp(r->kv, "Q4") == 0 ? "q4_0" : r->kv);
}

static uint64_t tensor_sum(const struct kvp_estimate *est, const char *prefix)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < est->n_tensors; i++)
        if (strncmp(est->tensors[i].name, prefix, strlen(prefix)) == 0 && est->tensors[i].tag != KVP_TAG_WEIGHTS)
            sum += est->tensors[i].bytes;
    return sum;
}

static double kv_of(const struct row *r, const struct kvp_layer_class *c, uint32_t layers, uint64_t context)
{
    struct kvp_options o = {0};
    struct kvp_estimate est;
    struct kvp_model m;
    char spec[96];
    double bytes;

    build(&m, r, c, layers);
    cache_type(r, spec, sizeof(spec), &o);
    est = estimate_of(&m, spec, (struct kvp_workload){.context = context}, o);
    bytes = (double)(strncmp(r->kv, "K=", 2) == 0 ? tensor_sum(&est, "k") : est.memory.cache_bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
    return bytes;
}

static double kv_bytes(const struct row *r)
{
    const uint64_t blocks = size_of(r, "hpu_blocks");
    const uint64_t context = blocks ? blocks * size_of(r, "block_size") : number(r->context, 1);
    const uint32_t kv = size_or(r, "n_head_kv", size_of(r, "n_kv_heads")), d = size_of(r, "head_dim");
    const struct kvp_layer_class gqa = {.mixer = KVP_MIX_ATTENTION, .heads = kv, .kv_heads = kv, .head_dim = size_or(r, "n_embd_head_k", d),
                                        .v_head_dim = size_or(r, "n_embd_head_v", d)};
    const uint32_t nope = 128, rope = size_of(r, "n_embd_head_qk_rope");
    const struct kvp_layer_class mla = {.mixer = KVP_MIX_MLA, .heads = size_of(r, "n_head"), .head_dim = nope + rope, .v_head_dim = 128,
                                        .kv_rank = size_of(r, "kv_lora_rank"), .rope_dim = rope, .nope_dim = nope};

    return kv_of(r, mla.kv_rank ? &mla : &gqa, size_or(r, "n_layer_kv", size_of(r, "n_layer")), context);
}

/* ---- states --------------------------------------------------------------------------------------- */

static double state_of(const struct row *r, const struct kvp_layer_class *c, uint32_t layers, uint64_t batch, const char *tensors)
{
    const bool bf16 = strcmp(r->kv, "bf16") == 0;
    const struct kvp_options o = {.conv_given = true, .conv = bf16 ? KVP_BF16 : KVP_F32};
    struct kvp_estimate est;
    struct kvp_model m;
    double bytes;

    build(&m, r, c, layers);
    est = estimate_of(&m, "", (struct kvp_workload){.context = 1, .batch = batch}, o);
    bytes = (double)(*tensors ? tensor_sum(&est, tensors) : est.memory.state_bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
    return bytes;
}

/* llama.cpp counts a gated delta net as a Mamba-2: d_inner = value heads * 128, d_state = the key head's size. */
static double state_bytes(const struct row *r)
{
    const struct kvp_layer_class conv = {.recurrent = KVP_REC_CONV, .inner = size_of(r, "n_embd"), .conv = size_of(r, "shortconv_l_cache")};
    const uint32_t inner = size_of(r, "ssm_d_inner"), n = size_of(r, "ssm_d_state"), groups = size_of(r, "ssm_n_group");
    const struct kvp_layer_class delta = {.recurrent = KVP_REC_DELTA, .inner = inner, .state = n, .conv = 4, .groups = groups,
                                          .rec_heads = inner / 128, .rec_head_dim = 128};
    const struct kvp_layer_class mamba = {.recurrent = KVP_REC_MAMBA1, .inner = inner, .state = n, .conv = 4};
    const uint32_t layers = size_or(r, "n_layer_recurrent", size_or(r, "layers_on_device", size_of(r, "n_layer")));

    if (conv.conv)
        return state_of(r, &conv, size_of(r, "n_layer_conv"), 1, "");
    return state_of(r, groups ? &delta : &mamba, layers, number(r->sequences, 1) * (1 + size_of(r, "n_rs_seq")), "");
}

/* The engine keeps a spare slot, and the log is of the convolution alone. */
static double sglang_conv(const struct row *r)
{
    const struct kvp_layer_class c = {.recurrent = KVP_REC_MAMBA2, .inner = size_of(r, "conv_dim") - 2048, .state = 128, .conv = 4, .groups = 8,
                                      .rec_heads = 1, .rec_head_dim = 1};

    return state_of(r, &c, size_of(r, "mamba_layers"), size_of(r, "max_mamba_cache_size") + 1, "conv");
}

/* ---- rows of their own kind ------------------------------------------------------------------------ */

/* One full layer of 4 KV heads and a windowed one of 8, both kept whole. */
static double mimo_pair(const struct row *r)
{
    const struct kvp_layer_class c = {.mixer = KVP_MIX_ATTENTION, .heads = 12, .kv_heads = 12, .head_dim = 192, .v_head_dim = 192};

    return kv_of(r, &c, 1, number(r->context, 1));
}

/* mlc-llm's figure holds the cache and the auxiliary arrays of its formula (cpp/serve/config.cc). */
static double mlc(const struct row *r)
{
    const struct kvp_layer_class c = {.mixer = KVP_MIX_ATTENTION, .heads = size_of(r, "n_qo_heads"), .kv_heads = size_of(r, "n_kv_heads"),
                                      .head_dim = size_of(r, "head_dim"), .v_head_dim = size_of(r, "head_dim")};
    const double tokens = (double)number(r->context, 1), chunk = size_of(r, "prefill_chunk"), d = size_of(r, "head_dim");

    return kv_of(r, &c, size_of(r, "n_layer"), number(r->context, 1)) + 1.25 * tokens + (size_of(r, "max_batch") + 1) * 88.0 +
           chunk * (size_of(r, "n_qo_heads") + 1) * 8 + chunk * d * (size_of(r, "n_qo_heads") + size_of(r, "n_kv_heads")) * 4 +
           48.0 * 1024 * 1024;
}

static double indexer(const struct row *r)
{
    const struct kvp_layer_class c = {.mixer = KVP_MIX_MLA, .heads = 1, .head_dim = 1, .v_head_dim = 1, .kv_rank = 1, .rope_dim = 1,
                                      .index_heads = 1, .index_dim = size_of(r, "index_head_dim")};
    struct kvp_estimate est;
    struct kvp_model m;
    double bytes;

    build(&m, r, &c, 1);
    est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){0});
    bytes = (double)tensor_sum(&est, "index_k");
    kvp_estimate_free(&est);
    kvp_model_free(&m);
    return bytes;
}

/* All layers, the prediction layer too; some have an indexer. */
static double glm_sparse(const struct row *r)
{
    const uint32_t layers = size_of(r, "n_layer") + size_of(r, "mtp_layers"), rope = size_of(r, "qk_rope");
    struct kvp_layer_class *list = calloc(layers, sizeof(*list));
    struct kvp_error e = {0};
    struct kvp_options o = {0};
    struct kvp_estimate est;
    struct kvp_model m = {0};
    char spec[96];
    double bytes;

    for (uint32_t i = 0; i < layers; i++)
        list[i] = (struct kvp_layer_class){.mixer = KVP_MIX_MLA, .heads = 1, .head_dim = 1, .v_head_dim = 1, .kv_rank = size_of(r, "kv_lora_rank"),
                                           .rope_dim = rope, .index_dim = i < size_of(r, "indexer_layers") ? 128 : 0};
    build(&m, r, &list[0], layers);
    ck_assert_int_eq(kvp_model_group(&m, list, &e), KVP_OK);
    free(list);
    cache_type(r, spec, sizeof(spec), &o);
    o.kv = KVP_BF16;
    est = estimate_of(&m, spec, (struct kvp_workload){.context = 1}, o);
    bytes = (double)est.memory.cache_bytes;
    kvp_estimate_free(&est);
    kvp_model_free(&m);
    return bytes;
}

/* The identity that vLLM prints: what the budget leaves after weights, other memory and activations. */
static double vllm_pool(const struct row *r)
{
    const double gib = 1024.0 * 1024 * 1024;

    return (json_real_value(json_object_get(r->sizes, "budget_GiB")) - json_real_value(json_object_get(r->sizes, "weights_GiB")) -
            json_real_value(json_object_get(r->sizes, "non_torch_GiB")) - json_real_value(json_object_get(r->sizes, "activation_GiB"))) *
           gib;
}

/* ---- weights -------------------------------------------------------------------------------------- */

static enum kvp_format dtype_of(const char *word)
{
    return strcmp(word, "fp32") == 0 ? KVP_F32 : strcmp(word, "fp16") == 0 ? KVP_F16 : KVP_BF16;
}

/* Llama-like sizes; the rotary frequencies that old checkpoints store are `inv_freq` bytes a layer. */
static double dense_weights(const struct row *r)
{
    static const struct {
        const char *id;
        unsigned bytes;
    } inv_freq[] = {{"st-005", 2}, {"st-007", 4}, {"st-020", 4}, {"st-024", 4}};
    const uint32_t heads = size_of(r, "heads"), kv = size_of(r, "kv_heads"), layers = size_of(r, "layers"), hidden = size_of(r, "hidden");
    const uint32_t d = size_or(r, "head_dim", hidden / heads);
    const struct kvp_layer_class c = {
        .mixer = KVP_MIX_ATTENTION, .heads = heads, .kv_heads = kv, .head_dim = d, .v_head_dim = d, .ffn = KVP_FFN_GATED,
        .ffn_width = has(r, "experts") ? 0 : size_of(r, "ff"), .experts = size_of(r, "experts"), .experts_per_token = has(r, "experts") ? 2 : 0,
        .expert_width = has(r, "experts") ? size_of(r, "ff") : 0, .norms = 2, .qk_norm = json_is_true(json_object_get(r->sizes, "qkn")),
        .qkv_bias = json_is_true(json_object_get(r->sizes, "qkvb")), .o_bias = json_is_true(json_object_get(r->sizes, "ob"))};
    struct kvp_estimate est;
    struct kvp_model m;
    double bytes;

    build(&m, r, &c, layers);
    est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){.weights_given = true, .weights = dtype_of(r->weights)});
    bytes = (double)est.memory.weights_bytes;
    for (size_t i = 0; i < COUNT(inv_freq); i++)
        if (strcmp(r->id, inv_freq[i].id) == 0)
            bytes += (double)layers * 64 * inv_freq[i].bytes;
    kvp_estimate_free(&est);
    kvp_model_free(&m);
    return bytes;
}

/* Of a real config, or of one in the same words: parameters, or bytes with a weights technique. */
static const struct of_config {
    const char *id, *config, *spec;
    double add; /* bytes (or parameters) that the file holds beside */
} of_config[] = {
    {"st-029", "configs/falcon/tiiuae__falcon-180B-chat.json", "", 65024.0 * 14848 * 2}, /* the tied head is stored */
    {"st-030", "configs/falcon/tiiuae__falcon-40b.json", "", 65024.0 * 8192 * 2},
    {"st-031", "configs/falcon/tiiuae__falcon-7b@RefinedWebModel.json", "", 65024.0 * 4544 * 2},
    {"st-034", "configs/stablelm/stabilityai__stable-code-3b.json", "", 0},
    {"st-035", "configs/mpt/mosaicml__mpt-7b.json", "", 0},
    /* a causal mask, counted as bits, two scalars and the frequencies in every layer */
    {"st-037", "configs/gpt_neox/togethercomputer__RedPajama-INCITE-7B-Base.json", "", 32.0 * (2048.0 * 2048 / 8 + 2 + 64 * 2)},
    {"st-038", "configs/gpt_oss/openai__gpt-oss-20b.json", "", 0},
    {"st-040", "configs/qwen3/mlx-community__Qwen3-14B-4bit.json", "", 0},
    {"st-043", "llama-3.3-70b", "", 0}, /* the same shapes */
    {"st-049", "configs/llama_misc/HuggingFaceTB__SmolLM3-3B.json", "", 0},
    {"vl-081", "llama-3.1-8b", "", 131072.0 * 128 * 2}, /* cos and sin */
    {"ik-071", "configs/deepseek/deepseek-ai__DeepSeek-V3.json", "", 0},
    {"ik-074", "configs/deepseek/deepseek-ai__DeepSeek-V2-Lite.json", "", 0},
    {"ik-077", "configs/qwen3_moe/Qwen__Qwen3-30B-A3B.json", "", 0},
    {"ik-078", "qwen3-32b", "", 0},
    {"ik-081", "llama-2-13b", "", 0},
    {"lc-093", "llama-2-70b", "", 0},
    {"lc-095", "configs/unsure/gpt_neox/EleutherAI__pythia-2.8b.json", "", 0},
    {"lc-096", "configs/gemma/google__gemma-2b-it.json", "", 0},
    /* GGUF counts a tied output matrix twice */
    {"lc-097", "configs/gpt_bigcode/TheBloke__WizardCoder-15B-1.0-GPTQ.json", "w:none", 49153.0 * 6144},
    {"lc-099", "llama-2-7b", "w:q4_0,norms=f32,embed=q4_0,head=q6_k", 0},
    {"lc-102", "llama-2-70b", "w:f16,norms=f32", 0},
    {"lc-103", "llama-2-70b", "w:q4_0,norms=f32,embed=q4_0,head=q6_k", 0},
    {"ik-083", "llama-2-13b", "w:q8_0,norms=f32,embed=q8_0,head=q8_0", 0},
    {"ik-085", "configs/deepseek/deepseek-ai__DeepSeek-R1.json", "w:q8_0,norms=f32,embed=q8_0,head=q8_0", 0},
    {"lc-110", "configs/gpt_oss/openai__gpt-oss-20b.json", "w:q8_0,experts=mxfp4", 0},
};

/* Sizes of models that have no config here, as the cards give them, in fieldlogs' own words. */
static const struct of_sizes {
    const char *id, *sizes;
    uint32_t norms;        /* over the width, in a layer */
    const char *spec;
} of_sizes[] = {
    {"lc-091", "{\"vocab\":151552,\"hidden\":6144,\"layers\":61,\"heads\":48,\"kv_heads\":2,\"head_dim\":128,\"ff\":23040}", 4, ""},
    {"ik-086", "{\"vocab\":151552,\"hidden\":6144,\"layers\":61,\"heads\":48,\"kv_heads\":8,\"head_dim\":128,\"ff\":23040}", 4, "w:bf16,norms=f32"},
    {"lc-094", "{\"vocab\":32000,\"hidden\":8192,\"layers\":80,\"heads\":64,\"kv_heads\":64,\"head_dim\":128,\"ff\":22016}", 2, ""},
    {"lc-107", "{\"vocab\":32000,\"hidden\":8192,\"layers\":80,\"heads\":64,\"kv_heads\":64,\"head_dim\":128,\"ff\":22016}", 2,
     "w:q4_0,norms=f32,embed=q4_0,head=q6_k"},
    /* two sub-norms of a layer, over the width and over the feed-forward's: 2 norms and 9472 more */
    {"ik-082", "{\"vocab\":128256,\"hidden\":2560,\"layers\":30,\"heads\":20,\"kv_heads\":5,\"head_dim\":128,\"ff\":6912,\"sub_norms\":9472}", 2, ""},
};

/* ---- which row is checked how --------------------------------------------------------------------- */

static double weights_or_parameters(const struct row *r, const struct kvp_model *m, const char *spec, struct kvp_options o)
{
    struct kvp_estimate est = estimate_of(m, spec, (struct kvp_workload){.context = 1}, o);
    const double v = (double)(strcmp(r->quantity, "params") == 0 ? est.parameters : est.memory.weights_bytes);

    kvp_estimate_free(&est);
    return v;
}

static double by_config(const struct row *r, const struct of_config *c)
{
    const char *tests = getenv("KVPROOF_TESTS");
    struct kvp_options o = {.weights_given = strcmp(r->weights, "mlx-4bit") != 0, .weights = dtype_of(r->weights)};
    struct kvp_error e = {0};
    struct kvp_model m;
    char path[512];
    double v;

    snprintf(path, sizeof(path), "%s%s%s", strchr(c->config, '/') ? tests : "", strchr(c->config, '/') ? "/" : "", c->config);
    ck_assert_msg(kvp_model_load(&m, path, &e) == KVP_OK, "%s", e.text);
    v = weights_or_parameters(r, &m, c->spec, o) + c->add;
    kvp_model_free(&m);
    return v;
}

static double by_sizes(struct row *r, const struct of_sizes *s)
{
    const struct kvp_options o = {.weights_given = true, .weights = KVP_BF16};
    struct kvp_layer_class c;
    struct kvp_model m;
    double v;

    json_decref(r->sizes);
    r->sizes = json_loads(s->sizes, 0, NULL);
    c = (struct kvp_layer_class){.mixer = KVP_MIX_ATTENTION, .heads = size_of(r, "heads"), .kv_heads = size_of(r, "kv_heads"), .head_dim = 128,
                                 .v_head_dim = 128, .ffn = KVP_FFN_GATED, .ffn_width = size_of(r, "ff"), .norms = s->norms};
    if (has(r, "sub_norms"))
        c.extra[0] = (struct kvp_extra){"sub_norms", size_of(r, "sub_norms"), 1, 1, false};
    build(&m, r, &c, size_of(r, "layers"));
    v = weights_or_parameters(r, &m, s->spec, o);
    kvp_model_free(&m);
    return v;
}

/* gpt2 in f32 with its causal masks, as one byte an element, and a scalar a layer; and an int8 copy of the
 * head: 769 bytes a row. */
static double gpt2_int8_head(const struct row *r)
{
    struct kvp_model m = load("gpt2");
    const double v = weights_or_parameters(r, &m, "", (struct kvp_options){.weights_given = true, .weights = KVP_F32});

    kvp_model_free(&m);
    return v + 12 * (1024.0 * 1024 + 4) + 50257.0 * 769;
}

/* A model card's sizes: 36 Mamba-2 layers and 4 of attention, experts in all of them. */
static double granite_tiny(const struct row *r)
{
    struct kvp_layer_class list[40];
    struct kvp_error e = {0};
    struct kvp_model m;
    double v;

    memset(list, 0, sizeof(list));
    for (int i = 0; i < 40; i++) {
        list[i] = (struct kvp_layer_class){.ffn = KVP_FFN_GATED, .experts = 64, .experts_per_token = 6, .expert_width = 512, .shared_width = 1024,
                                           .norms = 2};
        if (i % 10 == 5) {
            list[i].mixer = KVP_MIX_ATTENTION;
            list[i].heads = 12;
            list[i].kv_heads = 4;
            list[i].head_dim = list[i].v_head_dim = 128;
            continue;
        }
        list[i].recurrent = KVP_REC_MAMBA2;
        list[i].inner = 3072;
        list[i].state = 128;
        list[i].conv = 4;
        list[i].groups = 1;
        list[i].rec_heads = 48;
        list[i].rec_head_dim = 64;
        list[i].conv_bias = list[i].rec_norm = true;
    }
    build(&m, r, &list[0], 40);
    m.vocab = 100352;
    m.width = 1536;
    m.tied = true;
    ck_assert_int_eq(kvp_model_group(&m, list, &e), KVP_OK);
    v = weights_or_parameters(r, &m, "", (struct kvp_options){0});
    kvp_model_free(&m);
    return v;
}

static const struct {
    const char *id;
    double (*value)(const struct row *r);
} special[] = {
    {"sg-019", sglang_conv}, {"tr-011", mimo_pair}, {"ml-002", mlc}, {"ml-003", mlc}, {"sg-028", indexer}, {"vl-096", glm_sparse},
    {"vl-097", glm_sparse}, {"vl-077", vllm_pool}, {"vl-078", vllm_pool}, {"vl-079", vllm_pool}, {"hf-017", gpt2_int8_head},
    {"lc-166", granite_tiny},
};

static double value_of(struct row *r)
{
    for (size_t i = 0; i < COUNT(special); i++)
        if (strcmp(special[i].id, r->id) == 0)
            return special[i].value(r);
    for (size_t i = 0; i < COUNT(of_config); i++)
        if (strcmp(of_config[i].id, r->id) == 0)
            return by_config(r, &of_config[i]);
    for (size_t i = 0; i < COUNT(of_sizes); i++)
        if (strcmp(of_sizes[i].id, r->id) == 0)
            return by_sizes(r, &of_sizes[i]);
    if (strcmp(r->quantity, "state_bytes") == 0)
        return state_bytes(r);
    return strcmp(r->quantity, "kv_bytes") == 0 ? kv_bytes(r) : dense_weights(r);
}

/* What one of the unit is; llama.cpp's MB are MiB, and SGLang's GB are GiB. */
static double unit_of(const struct row *r)
{
    static const struct {
        const char *word;
        double is;
    } units[] = {{"MiB", 1048576}, {"MB", 1048576}, {"GiB", 1073741824}, {"GB", 1073741824}, {"bytes", 1}, {"params", 1}, {"B", 1e9},
                 {"MB(10^6)", 1e6}, {"kB per token", 1024}};

    if (strncmp(r->id, "ml-", 3) == 0)
        return 1048576;
    for (size_t i = 0; i < COUNT(units); i++)
        if (strcmp(units[i].word, r->unit) == 0)
            return units[i].is;
    ck_abort_msg("%s: unit %s", r->id, r->unit);
}

static int digits_after_point(const char *text)
{
    const char *point = strchr(text, '.');

    return point ? (int)strspn(point + 1, "0123456789") : 0;
}

START_TEST(every_row)
{
    load_rows();
    ck_assert_int_eq(n_rows, 136);
    for (int i = 0; i < n_rows; i++) {
        struct row *r = &rows[i];
        const double ours = value_of(r) / unit_of(r), theirs = strtod(r->reported, NULL);
        const double half = 0.5000001 * pow(10, -digits_after_point(r->reported));

        /* a figure printed with fewer digits than it has was rounded, or cut */
        if (fabs(ours - theirs) > half && !(ours - theirs >= 0 && ours - theirs < 2 * half))
            printf("%s %s: %.9g %s, the log says %s\n", r->id, r->model, ours, r->unit, r->reported), failures++;
    }
    ck_assert_int_eq(failures, 0);
    free_rows();
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("field logs");

    tcase_add_test(t, every_row);
    return run("calc: field logs", &t, 1);
}
