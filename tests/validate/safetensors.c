/* safetensors.c - files that lie are refused by name; files that are merely arranged otherwise (prefix,
 * shards, formats) hold the same weights. */
#include "tests/validate/tiny.h"
#include "validate/engine/convert.h"
#include "validate/engine/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

static char dir[64];

static void path_of(const char *file, char *buf, size_t n)
{
    snprintf(buf, n, "%s/%s", dir, file);
}

static void make_dir(void)
{
    strcpy(dir, "/tmp/kvproof-st-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void remove_dir(void)
{
    static const char *const files[] = {"model.safetensors", "model.safetensors.index.json", "a.safetensors", "b.safetensors"};
    char path[128];

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        path_of(files[i], path, sizeof(path));
        unlink(path);
    }
    rmdir(dir);
}

/* length < 0: the header's own. */
static void write_st(const char *file, const char *header, long long length, const void *data, size_t bytes)
{
    const uint64_t n = length < 0 ? strlen(header) : (uint64_t)length;
    unsigned char le[8];
    char path[128];
    FILE *f;

    for (int i = 0; i < 8; i++)
        le[i] = (unsigned char)(n >> 8 * i);
    path_of(file, path, sizeof(path));
    f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    fwrite(le, 1, 8, f);
    fwrite(header, 1, strlen(header), f);
    fwrite(data, 1, bytes, f);
    fclose(f);
}

static void write_text(const char *file, const char *text)
{
    char path[128];
    FILE *f;

    path_of(file, path, sizeof(path));
    f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

/* ---- one file ------------------------------------------------------------------------------------- */

static const struct {
    const char *header;
    long long length;
    size_t data;
    const char *word; /* in the message, beside the file's name; NULL: a good file */
} files[] = {
    {"{}", -1, 0, NULL},
    {"{\"__metadata__\":{\"format\":\"pt\"}}", -1, 0, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", -1, 24, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", -1, 4, NULL},
    {"{\"b\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[3,11]},\"a\":{\"dtype\":\"BOOL\",\"shape\":[3],"
     "\"data_offsets\":[0,3]}}", -1, 11, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[0,0]},\"b\":{\"dtype\":\"F16\",\"shape\":[1],"
     "\"data_offsets\":[0,2]}}", -1, 2, NULL},
    {"{}", 3, 0, "header"},                          /* one byte longer than the file */
    {"{}", 0x7fffffffffffffff, 0, "header"},
    {"{}", 1, 0, "JSON"},                            /* cut short */
    {"[]", -1, 0, "not a JSON object"},
    {"nonsense", -1, 0, "not a JSON object"},
    {"{}", -1, 1, "belong to no tensor"},
    {"{\"a\":7}", -1, 0, "a: dtype"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", -1, 4, "a: dtype"},
    {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", -1, 4, "F33"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}}", -1, 4, "a: shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", -1, 4, "a: shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", -1, 4, "a: shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", -1, 4, "a: shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}", -1, 4, "overflows"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", -1, 4, "do not fit"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", -1, 4, "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", -1, 4, "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", -1, 4, "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", -1, 4, "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", -1, 7, "leave the file"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775800,9223372036854775804]}}", -1, 4,
     "leave the file"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", -1, 4, "do not fit"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[2],"
     "\"data_offsets\":[4,12]}}", -1, 12, "b: its data overlaps"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],"
     "\"data_offsets\":[8,12]}}", -1, 12, "b: its data follows a hole"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
     "\"data_offsets\":[4,8]}}", -1, 8, "JSON"},
};
enum { FILES = sizeof(files) / sizeof(files[0]) };

START_TEST(one_file)
{
    static const unsigned char zeros[64];
    struct kvp_error err = {0};
    struct st_files *s = NULL;
    char path[128];
    kvp_err rc;

    make_dir();
    write_st("model.safetensors", files[_i].header, files[_i].length, zeros, files[_i].data);
    path_of("model.safetensors", path, sizeof(path));
    rc = st_open(&s, path, &err);
    if (files[_i].word) {
        ck_assert_msg(rc == KVP_EINPUT, "%s was taken", files[_i].header);
        ck_assert_ptr_null(s);
        ck_assert_msg(strstr(err.text, path) && strstr(err.text, files[_i].word), "'%s' does not say %s", err.text,
                      files[_i].word);
        ck_assert_ptr_null(strchr(err.text, '\n'));
    } else {
        ck_assert_msg(rc == KVP_OK, "%s", err.text);
    }
    st_close(s);
    remove_dir();
}
END_TEST

START_TEST(short_files)
{
    static const char *const texts[] = {"", "1234567"};
    struct kvp_error err = {0};
    struct st_files *s;

    make_dir();
    write_text("model.safetensors", texts[_i]);
    ck_assert_int_eq(st_open(&s, dir, &err), KVP_EINPUT);
    ck_assert_ptr_nonnull(strstr(err.text, "too short"));
    remove_dir();
}
END_TEST

START_TEST(tensors_are_found_where_they_lie)
{
    /* 1 byte first, so that nothing after it is aligned */
    static const char header[] = "{\"one\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                                 "\"half\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[1,5]},"
                                 "\"full\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[5,13]}}";
    static const unsigned char data[] = {9, 0x00, 0x3c, 0x00, 0xc0, 0, 0, 0x40, 0x40, 0, 0, 0x80, 0xbe};
    struct kvp_error err = {0};
    struct st_files *s;
    struct st_tensor *t;
    float x[2];

    make_dir();
    write_st("model.safetensors", header, -1, data, sizeof(data));
    must(st_open(&s, dir, &err));
    ck_assert_ptr_null(st_find(s, "none"));
    t = st_find(s, "one");
    ck_assert_int_eq(t->format, KVP_FORMATS);
    t = st_find(s, "half");
    ck_assert_uint_eq(t->count, 2);
    cvt_run(KVP_F32, x, t->format, t->data, 1, 2);
    ck_assert(x[0] == 1.0f && x[1] == -2.0f);
    t = st_find(s, "full");
    ck_assert(t->dims == 2 && t->shape[0] == 1 && t->shape[1] == 2);
    cvt_run(KVP_F32, x, t->format, t->data, 1, 2);
    ck_assert(x[0] == 3.0f && x[1] == -0.25f);
    ck_assert_str_eq(st_at(s, 0)->name, "full");
    ck_assert_ptr_null(st_at(s, 3));
    st_close(s);
    remove_dir();
}
END_TEST

/* ---- number formats ------------------------------------------------------------------------------- */

START_TEST(formats_round_to_nearest_even)
{
    /* IEEE 754-2008 section 3.6 for binary16; bf16 is the upper half of binary32 */
    static const struct {
        enum kvp_format f;
        float x, back;
    } cases[] = {
        {KVP_F16, 1.0f, 1.0f}, {KVP_F16, -2.5f, -2.5f}, {KVP_F16, 65504.0f, 65504.0f}, {KVP_F16, 65519.9f, 65504.0f},
        {KVP_F16, 65520.0f, INFINITY}, {KVP_F16, -1e9f, -INFINITY}, {KVP_F16, 0x1p-24f, 0x1p-24f},
        {KVP_F16, 0x1p-25f, 0.0f}, {KVP_F16, 0x1.8p-24f, 0x1p-23f}, {KVP_F16, 0x1.ff8p-15f, 0x1.ff8p-15f}, {KVP_F16, 0x1.ffcp-15f, 0x1p-14f},
        {KVP_F16, 1 + 0x1p-11f, 1.0f}, {KVP_F16, 1 + 0x1.8p-10f, 1 + 0x1p-9f}, {KVP_F16, INFINITY, INFINITY},
        {KVP_BF16, 1 + 0x1p-8f, 1.0f}, {KVP_BF16, 1 + 0x1.8p-7f, 1 + 0x1p-6f}, {KVP_BF16, 0x1p-140f, 0x1p-133f * 0},
        {KVP_BF16, 0x1.fffffep127f, INFINITY}, {KVP_BF16, -3.0f, -3.0f}, {KVP_F32, 0x1.234568p3f, 0x1.234568p3f},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        unsigned char raw[4];
        float back;

        cvt_store(cases[i].f, raw, cases[i].x);
        back = cvt_load(cases[i].f, raw);
        ck_assert_msg(back == cases[i].back, "%s: %a came back as %a", kvp_format_name(cases[i].f), (double)cases[i].x,
                      (double)back);
    }
}
END_TEST

/* Every f16 value survives a round trip, NaNs as NaNs. */
START_TEST(f16_round_trip)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        const uint16_t in = (uint16_t)h;
        uint16_t out;
        const float x = cvt_load(KVP_F16, &in);

        cvt_store(KVP_F16, &out, x);
        ck_assert(isnan(x) ? isnan(cvt_load(KVP_F16, &out)) : in == out);
    }
}
END_TEST

/* ---- directories ---------------------------------------------------------------------------------- */

static const char empty[] = "{}";
static const char one_a[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";

START_TEST(bad_directories)
{
    static const struct {
        const char *index, *a, *b, *word;
    } cases[] = {
        {NULL, NULL, NULL, "neither model.safetensors nor"},
        {"{", NULL, NULL, "index.json: line 1"},
        {"{}", NULL, NULL, "no weight_map"},
        {"{\"weight_map\":[]}", NULL, NULL, "no weight_map"},
        {"{\"weight_map\":{\"a\":7}}", NULL, NULL, "a: expected the name of a file"},
        {"{\"weight_map\":{\"a\":\"../a.safetensors\"}}", empty, NULL, "a: expected the name of a file"},
        {"{\"weight_map\":{\"a\":\"a.safetensors\"}}", NULL, NULL, "a.safetensors: No such file"},
        {"{\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"}}", one_a, one_a, "a: also in"},
    };
    static const unsigned char zeros[4];
    struct kvp_error err = {0};
    struct st_files *s;

    make_dir();
    if (cases[_i].index)
        write_text("model.safetensors.index.json", cases[_i].index);
    if (cases[_i].a)
        write_st("a.safetensors", cases[_i].a, -1, zeros, cases[_i].a == one_a ? 4 : 0);
    if (cases[_i].b)
        write_st("b.safetensors", cases[_i].b, -1, zeros, 4);
    ck_assert_int_eq(st_open(&s, dir, &err), KVP_EINPUT);
    ck_assert_ptr_null(s);
    ck_assert_msg(strstr(err.text, cases[_i].word), "'%s' does not say %s", err.text, cases[_i].word);
    remove_dir();
}
END_TEST

/* ---- whole models: a golden's weights, arranged otherwise ------------------------------------------- */

struct source {
    struct kvp_model m;
    json_t *header;
    unsigned char *data;
    size_t bytes;
};

static void source_load(struct source *s, const char *golden)
{
    struct kvp_error err = {0};
    unsigned char le[8];
    uint64_t n = 0;
    char path[512];
    char *text;
    FILE *f;

    snprintf(path, sizeof(path), "%s/golden/%s", getenv("KVPROOF_TESTS"), golden);
    must(kvp_model_load(&s->m, path, &err));
    snprintf(path, sizeof(path), "%s/golden/%s/model.safetensors", getenv("KVPROOF_TESTS"), golden);
    f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s is missing", path);
    ck_assert_uint_eq(fread(le, 1, 8, f), 8);
    for (int i = 7; i >= 0; i--)
        n = n << 8 | le[i];
    text = malloc(n);
    ck_assert_uint_eq(fread(text, 1, n, f), n);
    s->header = json_loadb(text, n, 0, NULL);
    ck_assert_ptr_nonnull(s->header);
    free(text);
    s->data = malloc(1 << 20);
    s->bytes = fread(s->data, 1, 1 << 20, f);
    fclose(f);
}

static void source_write(const struct source *s, const char *file, const json_t *header)
{
    char *text = json_dumps(header, JSON_COMPACT);

    write_st(file, text, -1, s->data, s->bytes);
    free(text);
}

static void source_free(struct source *s)
{
    kvp_model_free(&s->m);
    json_decref(s->header);
    free(s->data);
}

static kvp_err logits_of(const struct kvp_model *m, const char *weights, float *out, struct kvp_error *e)
{
    static const struct kvp_stack dense;
    const struct eng_options o = {.backend = &kb_ref, .batch = 1, .prompt = 6, .weights_dir = weights};
    int32_t ids[6];
    struct eng *g;

    tiny_tokens(ids, 6, m->vocab);
    KVP_TRY(eng_open(&g, m, &dense, &o, e));
    ck_assert_int_eq(eng_prefill(g, ids, NULL, out, e), KVP_OK);
    eng_close(g);
    return KVP_OK;
}

static json_t *renamed(const json_t *header, const char *prefix, const char *instead)
{
    json_t *out = json_object(), *v;
    const char *name;

    json_object_foreach((json_t *)header, name, v) {
        const bool hit = strncmp(name, prefix, strlen(prefix)) == 0;
        char text[256];

        snprintf(text, sizeof(text), "%s%s", hit ? instead : "", hit ? name + strlen(prefix) : name);
        json_object_set(out, text, v);
    }
    return out;
}

START_TEST(prefix_or_none)
{
    static const struct {
        const char *golden, *prefix;
    } cases[] = {{"gpt2", "transformer."}, {"llama-gqa", "model."}};
    struct kvp_error err = {0};
    float a[256], b[256];
    struct source s;
    json_t *bare;

    make_dir();
    source_load(&s, cases[_i].golden);
    source_write(&s, "model.safetensors", s.header);
    must(logits_of(&s.m, dir, a, &err));
    bare = renamed(s.header, cases[_i].prefix, "");
    ck_assert(!json_equal(bare, s.header));
    source_write(&s, "model.safetensors", bare);
    must(logits_of(&s.m, dir, b, &err));
    ck_assert_mem_eq(a, b, s.m.vocab * sizeof(float));
    json_decref(bare);
    source_free(&s);
    remove_dir();
}
END_TEST

/* Half of the tensors in each of two files: their data is packed anew. */
static void write_shards(const struct source *s)
{
    json_t *index = json_object(), *map = json_object(), *v;
    const char *name;
    char *text;
    char path[128];

    for (int half = 0; half < 2; half++) {
        const char *file = half ? "b.safetensors" : "a.safetensors";
        unsigned char *data = malloc(s->bytes);
        json_t *header = json_object();
        json_int_t at = 0;
        int i = 0;

        json_object_foreach(s->header, name, v) {
            const json_t *off = json_object_get(v, "data_offsets");
            const json_int_t from = json_integer_value(json_array_get(off, 0)), to = json_integer_value(json_array_get(off, 1));

            if (strcmp(name, "__metadata__") == 0 || i++ % 2 != half)
                continue;
            memcpy(data + at, s->data + from, (size_t)(to - from));
            json_object_set_new(header, name, json_pack("{s:O,s:O,s:[I,I]}", "dtype", json_object_get(v, "dtype"), "shape",
                                                        json_object_get(v, "shape"), "data_offsets", at, at + to - from));
            json_object_set_new(map, name, json_string(file));
            at += to - from;
        }
        text = json_dumps(header, 0);
        write_st(file, text, -1, data, (size_t)at);
        free(text);
        free(data);
        json_decref(header);
    }
    json_object_set_new(index, "weight_map", map);
    path_of("model.safetensors.index.json", path, sizeof(path));
    json_dump_file(index, path, 0);
    json_decref(index);
}

START_TEST(shards_hold_the_same)
{
    struct kvp_error err = {0};
    float a[256], b[256];
    struct source s;
    char path[512];

    make_dir();
    source_load(&s, "qwen3");
    write_shards(&s);
    must(logits_of(&s.m, dir, a, &err));
    snprintf(path, sizeof(path), "%s/golden/qwen3/model.safetensors", getenv("KVPROOF_TESTS"));
    must(logits_of(&s.m, path, b, &err));
    ck_assert_mem_eq(a, b, s.m.vocab * sizeof(float));
    source_free(&s);
    remove_dir();
}
END_TEST

START_TEST(fewer_layers_leave_tensors_over)
{
    struct kvp_error err = {0};
    float a[256];
    struct source s;
    char path[512];

    source_load(&s, "llama-gqa");
    must(kvp_model_truncate(&s.m, 1, &err));
    snprintf(path, sizeof(path), "%s/golden/llama-gqa", getenv("KVPROOF_TESTS"));
    must(logits_of(&s.m, path, a, &err));
    source_free(&s);
}
END_TEST

static void drop(json_t *header, const char *key) /* its data stays, under another name */
{
    json_t *v = json_incref(json_object_get(header, key));

    json_object_del(header, key);
    json_object_set_new(header, "lm_head.weight_scale", v);
}

static void turn(json_t *header, const char *key)
{
    json_t *shape = json_object_get(json_object_get(header, key), "shape");
    json_t *first = json_incref(json_array_get(shape, 0));

    json_array_remove(shape, 0);
    json_array_append_new(shape, first);
}

static void flatten(json_t *header, const char *key)
{
    json_t *t = json_object_get(header, key), *v;
    json_int_t n = 1;
    size_t i;

    json_array_foreach(json_object_get(t, "shape"), i, v)
        n *= json_integer_value(v);
    json_object_set_new(t, "shape", json_pack("[I]", n));
}

static void as_i32(json_t *header, const char *key)
{
    json_object_set_new(json_object_get(header, key), "dtype", json_string("I32"));
}

static void misname(json_t *header, const char *key)
{
    json_t *v = json_incref(json_object_get(header, key));

    json_object_del(header, key);
    json_object_set_new(header, "model.layers.1.self_attn.q_norm.weight", v);
}

START_TEST(weights_of_another_model)
{
    static const struct {
        void (*change)(json_t *, const char *);
        const char *key, *word;
        kvp_err code;
    } cases[] = {
        {drop, "model.layers.1.mlp.up_proj.weight", "no tensor layers.1.mlp.up_proj.weight", KVP_EINPUT},
        {drop, "model.norm.weight", "no tensor norm.weight", KVP_EINPUT},
        {turn, "model.layers.0.mlp.down_proj.weight", "down_proj.weight: shape [40, 32], the model expects [32, 40]", KVP_EINPUT},
        {flatten, "lm_head.weight", "lm_head.weight: shape [3104], the model expects [97, 32]", KVP_EINPUT},
        {as_i32, "model.embed_tokens.weight", "embed_tokens.weight: dtype I32", KVP_ENOTSUP},
        {misname, "model.layers.1.input_layernorm.weight", "no tensor layers.1.input_layernorm.weight", KVP_EINPUT},
    };
    struct kvp_error err = {0};
    float a[256];
    struct source s;

    make_dir();
    source_load(&s, "llama-gqa");
    ck_assert_ptr_nonnull(json_object_get(s.header, cases[_i].key));
    cases[_i].change(s.header, cases[_i].key);
    source_write(&s, "model.safetensors", s.header);
    ck_assert_int_eq(logits_of(&s.m, dir, a, &err), cases[_i].code);
    ck_assert_msg(strstr(err.text, cases[_i].word) && strstr(err.text, dir), "'%s' does not say %s", err.text, cases[_i].word);
    source_free(&s);
    remove_dir();
}
END_TEST

/* Everything that the model needs, and one tensor more. */
START_TEST(a_tensor_too_many)
{
    struct kvp_error err = {0};
    struct source s;
    json_int_t end;
    float a[256];

    make_dir();
    source_load(&s, "llama-gqa");
    end = (json_int_t)s.bytes;
    memset(s.data + s.bytes, 0, 4);
    s.bytes += 4;
    json_object_set_new(s.header, "model.layers.0.self_attn.q_norm.weight",
                        json_pack("{s:s,s:[I],s:[I,I]}", "dtype", "F32", "shape", (json_int_t)1, "data_offsets", end, end + 4));
    source_write(&s, "model.safetensors", s.header);
    ck_assert_int_eq(logits_of(&s.m, dir, a, &err), KVP_EINPUT);
    ck_assert_ptr_nonnull(strstr(err.text, "q_norm.weight [1] is not a tensor of this llama model"));
    source_free(&s);
    remove_dir();
}
END_TEST

START_TEST(a_family_without_names)
{
    struct kvp_error err = {0};
    struct source s;
    float a[256];

    source_load(&s, "llama-gqa");
    strcpy(s.m.model_type, "unheard-of");
    ck_assert_int_eq(logits_of(&s.m, "/tmp", a, &err), KVP_ENOTSUP);
    ck_assert_ptr_nonnull(strstr(err.text, "model_type unheard-of"));
    source_free(&s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("safetensors");
    TCase *t = tcase_create("safetensors");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, one_file, 0, FILES);
    tcase_add_loop_test(t, short_files, 0, 2);
    tcase_add_test(t, tensors_are_found_where_they_lie);
    tcase_add_test(t, formats_round_to_nearest_even);
    tcase_add_test(t, f16_round_trip);
    tcase_add_loop_test(t, bad_directories, 0, 8);
    tcase_add_loop_test(t, prefix_or_none, 0, 2);
    tcase_add_test(t, shards_hold_the_same);
    tcase_add_test(t, fewer_layers_leave_tensors_over);
    tcase_add_loop_test(t, weights_of_another_model, 0, 6);
    tcase_add_test(t, a_tensor_too_many);
    tcase_add_test(t, a_family_without_names);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
