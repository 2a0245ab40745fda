/* configs.c - every real config of tests/configs (index.csv says where each is from): it loads, or it is
 * refused by the name of what cannot be counted; and a key that could change memory is never overlooked. */
#include "tests/calc/calc_test.h"

#include "calc/family.h"
#include "calc/weights.h"

#include <ftw.h>

enum { MAX_FILES = 400 };
static char *files[MAX_FILES];
static int n_files;

static int keep(const char *path, const struct stat *st, int type)
{
    const size_t n = strlen(path);

    (void)st;
    if (type == FTW_F && n > 5 && strcmp(path + n - 5, ".json") == 0 && n_files < MAX_FILES)
        files[n_files++] = strdup(path);
    return 0;
}

static void find_files(void)
{
    const char *tests = getenv("KVPROOF_TESTS");
    char path[512];

    snprintf(path, sizeof(path), "%s/configs", tests ? tests : "tests");
    ck_assert_int_eq(ftw(path, keep, 16), 0);
    ck_assert_int_gt(n_files, 200);
}

static void free_files(void)
{
    while (n_files > 0)
        free(files[--n_files]);
}

static json_t *read_json(const char *path)
{
    struct kvp_error e = {0};
    char *text = NULL;
    size_t len = 0;
    json_t *root = NULL;

    ck_assert_msg(kvp_json_read_file(&text, &len, path, &e) == KVP_OK && kvp_json_parse(&root, text, len, path, &e) == KVP_OK, "%s", e.text);
    free(text);
    return root;
}

/* Refused because it cannot be counted from what the file says; each with the words of the refusal. */
static const struct {
    const char *file, *says;
} refused[] = {
    {"Infi-MM__infimm-zephyr", "cross_attn_every_n_layers"},
    {"facebook__seamless-m4t-v2-large", "vocoder"},
};

static const char *refusal_of(const char *path)
{
    for (size_t i = 0; i < COUNT(refused); i++)
        if (strstr(path, refused[i].file))
            return refused[i].says;
    return NULL;
}

START_TEST(loads_and_adds_up)
{
    for (int i = 0; i < n_files; i++) {
        struct kvp_error e = {0};
        struct kvp_model m;
        struct kvp_stack s = {0};
        struct kvp_estimate est;
        const char *says = refusal_of(files[i]);
        const kvp_err rc = kvp_model_load(&m, files[i], &e);
        const struct kvp_workload w = {.context = 100};
        const struct kvp_memory *x;

        if (says) {
            ck_assert_msg(rc == KVP_ENOTSUP && strstr(e.text, says), "%s: %s", files[i], e.text);
            continue;
        }
        ck_assert_msg(rc == KVP_OK, "%s", e.text);
        ck_assert_msg(kvp_estimate(&est, &m, &s, &w, &(struct kvp_options){0}, NULL, &e) == KVP_OK, "%s: %s", files[i], e.text);
        x = &est.memory;
        ck_assert_msg(est.parameters > 0 && est.active_parameters <= est.parameters, "%s", files[i]);
        ck_assert_msg((int64_t)x->cache_bytes == x->fixed_bytes_per_sequence + (int64_t)x->bytes_per_token * 100 + (int64_t)x->shared_bytes +
                                                     x->rounding_bytes,
                      "%s", files[i]);
        ck_assert_msg(x->cache_bytes + x->state_bytes > 0, "%s: keeps nothing", files[i]);
        kvp_estimate_free(&est);
        kvp_model_free(&m);
    }
}
END_TEST

static kvp_err parse(json_t *root, struct kvp_error *e)
{
    char *text = json_dumps(root, 0);
    struct kvp_model m;
    kvp_err rc;

    memset(e, 0, sizeof(*e));
    rc = kvp_model_parse(&m, text, strlen(text), "config.json", e);
    if (rc == KVP_OK)
        kvp_model_free(&m);
    free(text);
    return rc;
}

static const char *const mysteries[] = {
    "mystery_head_count", "mystery_layers", "mystery_window", "mystery_rank",    "mystery_state_size", "mystery_shared", "mystery_cache",
    "mystery_experts",    "mystery_dim",    "kv_mystery",     "mystery_latent",  "mystery_compression", "mystery_chunk", "mystery_sparse",
    "mystery_groups",     "mystery_blocks", "mystery_width",  "mystery_size",    "mystery_memory",     "mystery_channels", "mystery_conv",
    "ssm_mystery",        "moe_mystery",    "mystery_pattern", "mystery_interval", "num_mysteries",     "n_mysteries",    "mystery_ratio",
    "mystery_depth",      "mtp_mystery",    "hybrid_mystery", "mystery_sinks"};
/* About a model, not about a part of its file. */
static const char *const of_models[] = {"mystery_sliding", "swa_mystery",   "weight_quant_mystery", "mystery_bits", "mystery_precision",
                                        "lru_mystery",     "recurrent_mystery", "evict_mystery",    "mystery_pruning", "mystery_stride",
                                        "mystery_vocab",   "mystery_lora",  "delta_mystery",        "mystery_period", "merge_mystery",
                                        "global_mystery",  "mla_mystery",   "gqa_mystery",          "mystery_mqa",   "mystery_retention"};
static uint32_t refusals;

/* With `key` added to `at`, a part of root: an error, which names it. */
static void add_mystery(const char *file, json_t *root, json_t *at, const char *place, const char *key)
{
    struct kvp_error e;

    json_object_set_new(at, key, json_integer(3));
    ck_assert_msg(parse(root, &e) != KVP_OK, "%s: took %s in %s", file, key, place);
    ck_assert_msg(strstr(e.text, key) || strstr(e.text, place) || refusal_of(file), "%s: %s in %s is not named: %s", file, key, place, e.text);
    ck_assert_msg(!strchr(e.text, '\n') && *e.text, "%s: not one line: %s", file, e.text);
    json_object_del(at, key);
    refusals++;
}

/* Objects that hold what could change memory; a tower's only count where the tower is asked for. */
static bool holds_sizes(const char *name)
{
    static const char *const places[] = {"text_config", "language_config", "language", "llm_config", "quantization_config", "quantization",
                                         "rope_scaling", "rope_parameters", "ssm_cfg", "attn_config", "ffn_config", "block_configs",
                                         "attention", "ffn", "linear_attn_config", "sparse_attention_config", "weights"};

    for (size_t i = 0; i < COUNT(places); i++)
        if (strcmp(name, places[i]) == 0)
            return true;
    return false;
}

static bool leads_on(const char *name)
{
    return holds_sizes(name) || strcmp(name, "config_groups") == 0 || strncmp(name, "group_", 6) == 0;
}

/* In `at` and in what it holds, lists too: one key in each, another one each time. */
static void add_everywhere(const char *file, json_t *root, json_t *at, const char *name)
{
    const char *key;
    json_t *v, *x;
    size_t i;

    if (json_is_object(at) && (at == root || holds_sizes(name)))
        add_mystery(file, root, at, name, mysteries[refusals % COUNT(mysteries)]);
    json_object_foreach(at, key, v)
        if (leads_on(key) && json_is_object(v))
            add_everywhere(file, root, v, key);
        else if (leads_on(key) && json_is_array(v))
            json_array_foreach(v, i, x)
                if (json_is_object(x) && i % 7 == 0)
                    add_everywhere(file, root, x, key);
}

/* A key of every suspicious word beside the sizes, and one in every object that could hold more of them. */
START_TEST(unknown_keys_are_named)
{
    refusals = 0;
    for (int i = 0; i < n_files; i++) {
        json_t *root = read_json(files[i]);

        for (size_t k = 0; k < COUNT(mysteries) && !refusal_of(files[i]); k++)
            add_mystery(files[i], root, root, "the file", mysteries[k]);
        for (size_t k = 0; k < COUNT(of_models) && !refusal_of(files[i]); k++)
            add_mystery(files[i], root, root, "the file", of_models[k]);
        add_everywhere(files[i], root, root, "the file");
        json_decref(root);
    }
    ck_assert_uint_gt(refusals, 12000);
}
END_TEST

/* ---- absurd values --------------------------------------------------------------------------------------- */

/* The text model's part and its dialect. */
static json_t *text_part(json_t *root, const struct kvp_dialect **d)
{
    struct kvp_error e = {0};
    struct kvp_json j = {root, "config.json", &e};
    json_t *part = NULL;

    if (kvp_dialect_of(&j, NULL, d) != KVP_OK)
        return NULL;
    for (size_t i = 0; i < COUNT((*d)->nested) && (*d)->nested[i] && !part; i++)
        part = json_object_get(root, (*d)->nested[i]);
    if (!part)
        return (*d)->inner ? NULL : root;
    j.object = part;
    return kvp_dialect_of(&j, (*d)->inner, d) == KVP_OK ? part : NULL;
}

enum { ABSURDITIES = 8 };

static json_t *absurd(size_t i)
{
    switch (i) {
    case 0: return json_integer(-1);
    case 1: return json_real(3.5);
    case 2: return json_string("seven");
    case 3: return json_integer(INT64_MAX);
    case 4: return json_real(1e300);
    case 5: return json_object();
    case 6: return json_pack("[s]", "x");
    default: return json_integer(0);
    }
}

/* Is `key` the spelling of a size that counts: the first that is there, of what the class does not read in its own way? */
static bool reads(const struct kvp_dialect *d, const json_t *part, const char *key)
{
    for (int s = 0; s < KVP_SIZES; s++) {
        const bool own = (d->own_mixer && (s == KVP_SIZE_HEADS || s == KVP_SIZE_KV_HEADS || s == KVP_SIZE_HEAD_DIM)) || (d->own_ffn && s == KVP_SIZE_FFN);
        int k = 0;

        while (k < KVP_SPELLINGS && d->key[s][k] && (!json_object_get(part, d->key[s][k]) || json_is_null(json_object_get(part, d->key[s][k]))))
            k++;
        if (k < KVP_SPELLINGS && d->key[s][k] && strcmp(d->key[s][k], key) == 0)
            return !own;
    }
    return false;
}

/* No size is a negative number, a fraction, a word, an object, or beyond what a model could have: one line that says which. */
START_TEST(absurd_sizes_are_refused)
{
    int tried = 0;

    for (int i = 0; i < n_files; i++) {
        const struct kvp_dialect *d = NULL;
        json_t *root = read_json(files[i]), *part = text_part(root, &d), *copy, *v;
        const char *key;

        copy = part && !refusal_of(files[i]) ? json_copy(part) : json_object();
        json_object_foreach(copy, key, v)
            for (size_t k = 0; k < ABSURDITIES && reads(d, part, key); k++) {
                struct kvp_error e;
                json_t *bad = absurd(k);
                char *shown = json_dumps(bad, JSON_ENCODE_ANY);

                json_object_set_new(part, key, bad);
                ck_assert_msg(parse(root, &e) == KVP_EINPUT, "%s: %s %s: \"%s\"", files[i], key, shown, e.text);
                ck_assert_msg(strstr(e.text, key) && !strchr(e.text, '\n'), "%s: %s %s: \"%s\"", files[i], key, shown, e.text);
                json_object_set(part, key, v);
                free(shown);
                tried++;
            }
        json_decref(copy);
        json_decref(root);
    }
    ck_assert_int_gt(tried, 5000);
}
END_TEST

/* 32,768 tokens, batch 1, bf16: what the layers keep by their own architecture. Sums by hand from the shapes:
 * full layers 2 Hkv d 2 bytes a token, windows and chunks as long as they are, latents once, the indexer's 132. */
static const struct {
    const char *file;
    uint64_t cache, state;
} kept[] = {
    {"llama3/meta-llama__Meta-Llama-3.1-8B", 4294967296, 0},
    {"mixtral/mistralai__Mixtral-8x7B-v0.1", 4294967296, 0},
    {"qwen3/Qwen__Qwen3-0.6B", 3758096384, 0},
    {"qwen3/Qwen__Qwen3-32B", 8589934592, 0},
    {"gpt_oss/openai__gpt-oss-20b", 808452096, 0},
    {"gemma4/google__gemma-4-26B-A4B", 880803840, 0},
    {"mimo/XiaomiMiMo__MiMo-V2-Flash", 780533760, 0},
    {"llama4/meta-llama__Llama-4-Scout-17B-16E@with_vision", 2818572288, 0},
    {"deepseek/deepseek-ai__DeepSeek-V3", 2302672896, 0},
    {"deepseek/deepseek-ai__DeepSeek-V3.2", 2566520832, 0},
    {"kimi/moonshotai__Kimi-K2.5", 2302672896, 0},
    {"qwen3_5/Qwen__Qwen3.5-35B-A3B", 671088640, 64389120},
    {"nemotron_h/nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 201326592, 49082368},
    {"nemotron_nas/nvidia__Llama-3_3-Nemotron-Super-49B-v1", 6576668672, 0},
};

START_TEST(keeps)
{
    const char *tests = getenv("KVPROOF_TESTS");
    const struct kvp_options o = {.kv_given = true, .kv = KVP_BF16, .weights_given = true, .weights = KVP_BF16};
    struct kvp_estimate est;
    struct kvp_model m;
    char path[512];

    snprintf(path, sizeof(path), "%s/configs/%s.json", tests ? tests : "tests", kept[_i].file);
    m = load(path);
    est = estimate_of(&m, "", (struct kvp_workload){.context = 32768}, o);
    ck_assert_msg(est.memory.cache_bytes == kept[_i].cache && est.memory.state_bytes == kept[_i].state,
                  "%s: cache %" PRIu64 ", state %" PRIu64, kept[_i].file, est.memory.cache_bytes, est.memory.state_bytes);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* A word names one class. */
START_TEST(model_types_are_unique)
{
    const struct kvp_dialect *a, *b;

    for (uint32_t i = 0; (a = kvp_dialect_at(i)); i++)
        for (uint32_t j = i; (b = kvp_dialect_at(j)); j++)
            for (size_t x = 0; x < COUNT(a->model_type) && a->model_type[x]; x++)
                for (size_t y = i == j ? x + 1 : 0; y < COUNT(b->model_type) && b->model_type[y]; y++)
                    ck_assert_msg(strcmp(a->model_type[x], b->model_type[y]) != 0, "%s is two classes", a->model_type[x]);
}
END_TEST

/* ---- work and weights tell the same story --------------------------------------------------------------- */

/* Elements of matrices that one token is multiplied with. Cross-attention's k and v are the encoder's tokens'; the
 * gates of an RG-LRU are matrices that no format counts as linear layers. */
static void add_active(struct walk *w, const struct weight *x)
{
    const bool gate = strcmp(x->name, "input_gate") == 0 || strcmp(x->name, "recurrent_gate") == 0;
    uint64_t *sum = w->to;

    if ((!x->linear && !(gate && x->cols)) || x->bias || (x->cls >= ENCODER_CLASS && x->cls != WHOLE_MODEL))
        return;
    if (x->role != KVP_ROLE_HEAD && strncmp(x->name, "cross_k", 7) != 0 && strncmp(x->name, "cross_v", 7) != 0)
        *sum += x->count * x->rows * x->cols / (x->active ? x->active_of : 1) * (x->active ? x->active : 1);
}

/* FLOPs of a decode step of one sequence, without the head, scans, convolutions and the encoder's keys. */
static uint64_t step_flops(const struct kvp_model *m, uint64_t context)
{
    static const bool other[KVP_OPS] = {[KVP_OP_CROSS_ATTN] = true, [KVP_OP_REC_SCAN] = true, [KVP_OP_REC_CONV] = true, [KVP_OP_HEAD] = true};
    struct kvp_error e = {0};
    struct kvp_stack s = {0};
    struct kvp_estimate est;
    uint64_t sum = 0;

    ck_assert_msg(kvp_estimate(&est, m, &s, &(struct kvp_workload){.context = context}, &(struct kvp_options){0}, NULL, &e) == KVP_OK, "%s", e.text);
    for (uint32_t k = 0; k < est.n_ops; k++)
        if (est.ops[k].phase == KVP_DECODE && !other[est.ops[k].op])
            sum += est.ops[k].flops;
    kvp_estimate_free(&est);
    return sum;
}

/* Zamba2 multiplies one block's weights in many layers; DeepSeek-V4 merges rows of several tokens. */
static bool once_each(const struct kvp_model *m)
{
    for (uint32_t i = 0; i < m->classes; i++)
        if (m->cls[i].shared_attn || m->cls[i].compress)
            return false;
    return true;
}

/* What attention does grows with the context, in a line for a few tokens; what is left at no tokens is 2 FLOPs a weight. */
START_TEST(every_active_weight_is_multiplied_once)
{
    int seen = 0;

    for (int i = 0; i < n_files; i++) {
        struct kvp_error e = {0};
        struct kvp_model m;
        uint64_t weights = 0, flops;
        struct walk w = {.m = &m, .each = add_active, .to = &weights};

        if (refusal_of(files[i]) || kvp_model_load(&m, files[i], &e) != KVP_OK)
            continue;
        if (once_each(&m)) {
            weights_each(&w);
            flops = 2 * step_flops(&m, 2) - step_flops(&m, 4);
            ck_assert_msg(flops == 2 * weights, "%s: %" PRIu64 " FLOPs, expected 2 * %" PRIu64, files[i], flops, weights);
            seen++;
        }
        kvp_model_free(&m);
    }
    ck_assert_int_gt(seen, 200);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("configs");

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, find_files, free_files);
    tcase_add_test(t, loads_and_adds_up);
    tcase_add_test(t, every_active_weight_is_multiplied_once);
    tcase_add_test(t, unknown_keys_are_named);
    tcase_add_test(t, absurd_sizes_are_refused);
    tcase_add_loop_test(t, keeps, 0, COUNT(kept));
    tcase_add_test(t, model_types_are_unique);
    return run("calc: real configs", &t, 1);
}
