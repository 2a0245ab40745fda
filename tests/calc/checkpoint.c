/* checkpoint.c - headers of safetensors and GGUF files, made by hand here, and what a model makes of them.
 *
 * Sizes of ggml's blocks: the static_asserts on sizeof(block_*) in ggml/src/ggml-common.h. */
#include "calc/checkpoint.h"
#include "tests/calc/calc_test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static struct kvp_error err;

static void fresh(void)
{
    memset(&err, 0, sizeof(err));
}

/* ---- safetensors, from a buffer ----------------------------------------------------------------------- */

static kvp_err parse_header(struct checkpoint *c, const char *json, uint64_t said, uint64_t data, size_t *need)
{
    const size_t n = strlen(json);
    unsigned char *head = malloc(8 + n);
    kvp_err rc;

    *c = (struct checkpoint){0};
    fresh();
    for (int i = 0; i < 8; i++)
        head[i] = (unsigned char)(said >> (8 * i));
    memcpy(head + 8, json, n);
    rc = ckpt_parse(c, head, 8 + n, 8 + n + data, "f", need, &err);
    free(head);
    return rc;
}

static const struct {
    const char *json;
    uint64_t data;
    const char *says; /* NULL: it is fine */
} headers[] = {
    {"{}", 0, NULL},
    {"{\"__metadata__\":{\"format\":\"pt\"}}   ", 0, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, NULL},
    {"{\"a\":{\"dtype\":\"BF16\",\"shape\":[0,9],\"data_offsets\":[0,0]}}", 0, NULL},
    {"{\"b\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[4,7]},\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 7, NULL},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3,2],\"data_offsets\":[0,3]}}", 3, NULL},
    {"{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[0,3]}}", 3, NULL},
    {"{\"a\":{\"dtype\":\"F8_E8M0\",\"shape\":[5],\"data_offsets\":[0,5]}}", 5, NULL},
    {"{\"a\":{\"dtype\":\"BOOL\",\"shape\":[5],\"data_offsets\":[0,5]}}", 5, NULL},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "3 elements of F4 do not take 2 bytes"},
    {"[]", 0, "does not begin with {"},
    {" {}", 0, "does not begin with {"},
    {"{\"a\":", 0, "line 1"},
    {"{\"a\":1}", 0, "dtype (none)"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "duplicate"},
    {"{\"a\":{\"dtype\":\"Q9\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype Q9"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":3,\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "at most 8"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}", 4, "63 bits"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4, "do not take"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}", 4, "line 1"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "two integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "two integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "two integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, "end at 4"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775803,9223372036854775807]}}", 4, "end at"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "2 elements of F32 do not take 4 bytes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5, "1 bytes at its end"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "4 bytes before"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "overlap a's"},
};

START_TEST(a_safetensors_header_is_taken_or_refused)
{
    struct checkpoint c;
    size_t need = 0;
    const kvp_err rc = parse_header(&c, headers[_i].json, strlen(headers[_i].json), headers[_i].data, &need);

    if (headers[_i].says)
        ck_assert_msg(rc == KVP_EINPUT && strstr(err.text, headers[_i].says), "%s: %d %s", headers[_i].json, rc, err.text);
    else
        ck_assert_msg(rc == KVP_OK, "%s: %s", headers[_i].json, err.text);
    ckpt_free(&c);
}
END_TEST

START_TEST(a_header_longer_than_its_file_is_refused_and_a_longer_one_asked_for)
{
    struct checkpoint c;
    size_t need = 0;

    ck_assert_int_eq(parse_header(&c, "{}", 1000, 0, &need), KVP_EINPUT);
    ckpt_free(&c);
    ck_assert_int_eq(parse_header(&c, "{}", UINT64_MAX, 0, &need), KVP_EINPUT);
    ckpt_free(&c);
    ck_assert_int_eq(parse_header(&c, "{}", 100000001, UINT64_C(1) << 40, &need), KVP_EINPUT);
    ckpt_free(&c);
    ck_assert_int_eq(parse_header(&c, "{}", 1000, 5000, &need), KVP_NO);
    ck_assert_uint_eq(need, 1008);
    ck_assert_int_eq(err.code, KVP_OK);
    ckpt_free(&c);
    ck_assert_int_eq(parse_header(&c, "{}", 0, 100, &need), KVP_EINPUT);
    ckpt_free(&c);
}
END_TEST

/* ---- GGUF, written byte by byte ------------------------------------------------------------------------ */

struct gguf {
    unsigned char b[1 << 16];
    size_t n;
    uint64_t keys, tensors, data;
};

static void put(struct gguf *g, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++)
        g->b[g->n++] = (unsigned char)(x >> (8 * i));
}

static void put_text(struct gguf *g, const char *s)
{
    put(g, strlen(s), 8);
    memcpy(g->b + g->n, s, strlen(s));
    g->n += strlen(s);
}

static void begin(struct gguf *g, unsigned version)
{
    *g = (struct gguf){0};
    put(g, 0x46554747, 4);
    put(g, version, 4);
    put(g, 0, 8);
    put(g, 0, 8);
}

static void key(struct gguf *g, const char *name, unsigned type)
{
    put_text(g, name);
    put(g, type, 4);
    g->keys++;
}

static void key_u32(struct gguf *g, const char *name, uint32_t x)
{
    key(g, name, 4);
    put(g, x, 4);
}

static void key_text(struct gguf *g, const char *name, const char *x)
{
    key(g, name, 8);
    put_text(g, x);
}

/* `cols` first, as in the file; bytes are the caller's, placed at the next multiple of 32. */
static void tensor(struct gguf *g, const char *name, unsigned type, uint64_t cols, uint64_t rows, uint64_t bytes)
{
    put_text(g, name);
    put(g, rows ? 2 : 1, 4);
    put(g, cols, 8);
    if (rows)
        put(g, rows, 8);
    put(g, type, 4);
    put(g, g->data, 8);
    g->data += (bytes + 31) / 32 * 32;
    g->tensors++;
}

static uint64_t end(struct gguf *g)
{
    const size_t n = g->n;

    g->n = 8;
    put(g, g->tensors, 8);
    put(g, g->keys, 8);
    g->n = n;
    return (n + 31) / 32 * 32 + g->data;
}

/* In a buffer of exactly that many bytes, so that a checker sees one too many. */
static kvp_err parse_bytes(struct checkpoint *c, const unsigned char *b, size_t n, uint64_t file_bytes, size_t *need, unsigned char **copy)
{
    *copy = malloc(n + !n);
    memcpy(*copy, b, n);
    *c = (struct checkpoint){0};
    fresh();
    return ckpt_parse(c, *copy, n, file_bytes, "f", need, &err);
}

static kvp_err parse(const struct gguf *g, uint64_t file_bytes)
{
    struct checkpoint c;
    unsigned char *copy;
    size_t need = 0;
    const kvp_err rc = parse_bytes(&c, g->b, g->n, file_bytes, &need, &copy);

    ckpt_free(&c);
    free(copy);
    return rc;
}

static const struct {
    unsigned type, cols, bytes; /* of one row */
} types[] = {
    {0, 3, 12},      {1, 3, 6},       {2, 32, 18},     {3, 32, 20},     {6, 32, 22},     {7, 32, 24},     {8, 32, 34},
    {9, 32, 36},     {10, 256, 84},   {11, 256, 110},  {12, 256, 144},  {13, 256, 176},  {14, 256, 210},  {15, 256, 292},
    {16, 256, 66},   {17, 256, 74},   {18, 256, 98},   {19, 256, 50},   {20, 32, 18},    {21, 256, 110},  {22, 256, 82},
    {23, 256, 136},  {24, 3, 3},      {25, 3, 6},      {26, 3, 12},     {27, 3, 24},     {28, 3, 24},     {29, 256, 56},
    {30, 3, 6},      {34, 256, 54},   {35, 256, 66},   {39, 32, 17},    {40, 64, 36},    {41, 128, 18},
};

START_TEST(every_ggml_type_takes_its_bytes)
{
    struct checkpoint c;
    unsigned char *copy;
    struct gguf g;
    size_t need;
    uint64_t whole;

    begin(&g, 3);
    tensor(&g, "t", types[_i].type, 2 * types[_i].cols, 5, 10 * types[_i].bytes);
    whole = end(&g);
    ck_assert_int_eq(parse_bytes(&c, g.b, g.n, whole, &need, &copy), KVP_OK);
    ck_assert_uint_eq(c.n, 1);
    ck_assert_uint_eq(c.v[0].bytes, 10 * types[_i].bytes);
    ck_assert_uint_eq(c.v[0].elements, 10 * types[_i].cols);
    ck_assert_uint_eq(c.v[0].shape[0], 5); /* rows first */
    ckpt_free(&c);
    free(copy);
    if (types[_i].cols > 3) { /* no whole blocks */
        begin(&g, 3);
        tensor(&g, "t", types[_i].type, types[_i].cols + 1, 1, 1 << 12);
        ck_assert_int_eq(parse(&g, end(&g)), KVP_EINPUT);
    }
    begin(&g, 3); /* the file ends in the last block */
    tensor(&g, "t", types[_i].type, 2 * types[_i].cols, 5, 10 * types[_i].bytes);
    whole = (g.n + 31) / 32 * 32 + 10 * types[_i].bytes;
    end(&g);
    ck_assert_int_eq(parse(&g, whole), KVP_OK);
    ck_assert_int_eq(parse(&g, whole - 1), KVP_EINPUT);
}
END_TEST

START_TEST(an_unknown_type_is_refused_by_its_number)
{
    static const unsigned unknown[] = {4, 5, 31, 36, 43, 4000000000u};
    char want[40];
    struct gguf g;

    begin(&g, 3);
    tensor(&g, "t", unknown[_i], 256, 1, 4096);
    ck_assert_int_eq(parse(&g, end(&g)), KVP_ENOTSUP);
    snprintf(want, sizeof(want), "ggml type %u ", unknown[_i]);
    ck_assert_msg(strstr(err.text, want) != NULL, "%s", err.text);
}
END_TEST

/* All thirteen types of values, and arrays of numbers and of strings. */
static void everything(struct gguf *g, unsigned version)
{
    static const unsigned char bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    char name[8];

    begin(g, version);
    for (unsigned t = 0; t < 13; t++) {
        if (t == 8 || t == 9)
            continue;
        snprintf(name, sizeof(name), "k%u", t);
        key(g, name, t);
        put(g, t + 1, bytes[t]);
    }
    key_text(g, "text", "word");
    key(g, "numbers", 9);
    put(g, 5, 4);
    put(g, 3, 8);
    for (unsigned i = 0; i < 3; i++)
        put(g, 7 + i, 4);
    key(g, "words", 9);
    put(g, 8, 4);
    put(g, 2, 8);
    put_text(g, "one");
    put_text(g, "");
    key_u32(g, "general.alignment", 64);
    tensor(g, "a", 0, 8, 2, 64);
    tensor(g, "b", 8, 32, 0, 34);
}

START_TEST(metadata_of_every_type_is_read)
{
    struct checkpoint c;
    unsigned char *copy;
    struct gguf g;
    uint64_t x, whole;
    double real;
    size_t need;

    everything(&g, 2 + (unsigned)_i);
    end(&g);
    whole = (g.n + 63) / 64 * 64 + g.data;
    ck_assert_msg(parse_bytes(&c, g.b, g.n, whole, &need, &copy) == KVP_OK, "%s", err.text);
    ck_assert_uint_eq(c.n_kv, 15);
    ck_assert(ckpt_kv_u64(ckpt_key(&c, "k0"), 0, &x) && x == 1);
    ck_assert(ckpt_kv_u64(ckpt_key(&c, "k11"), 0, &x) && x == 12);
    ck_assert(!ckpt_kv_u64(ckpt_key(&c, "k6"), 0, &x));
    ck_assert(!ckpt_kv_u64(ckpt_key(&c, "text"), 0, &x));
    ck_assert(!ckpt_kv_u64(ckpt_key(&c, "nothing"), 0, &x));
    ck_assert(ckpt_kv_real(ckpt_key(&c, "k12"), &real));
    ck_assert(ckpt_kv_u64(ckpt_key(&c, "numbers"), 2, &x) && x == 9);
    ck_assert(!ckpt_kv_u64(ckpt_key(&c, "numbers"), 3, &x));
    ck_assert_uint_eq(ckpt_key(&c, "words")->count, 2);
    ckpt_free(&c);
    free(copy);
}
END_TEST

/* A file cut anywhere is refused; a buffer cut anywhere is asked to go on; no byte that changes does harm. */
START_TEST(no_cut_and_no_changed_byte_does_harm)
{
    static const unsigned char values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    struct checkpoint c;
    unsigned char *copy;
    struct gguf g;
    uint64_t whole;
    size_t need;

    everything(&g, 3);
    end(&g);
    whole = (g.n + 63) / 64 * 64 + g.data;
    for (size_t n = 0; n < g.n; n++) {
        ck_assert_int_eq(parse_bytes(&c, g.b, n, n, &need, &copy), KVP_EINPUT);
        ckpt_free(&c);
        free(copy);
        need = 0;
        ck_assert_int_eq(parse_bytes(&c, g.b, n, whole, &need, &copy), KVP_NO);
        ck_assert_uint_gt(need, n);
        ck_assert_uint_le(need, g.n);
        ck_assert_int_eq(err.code, KVP_OK);
        ckpt_free(&c);
        free(copy);
    }
    for (size_t i = 0; i < g.n; i++)
        for (size_t k = 0; k < COUNT(values); k++) {
            const unsigned char old = g.b[i];

            g.b[i] = values[k];
            parse(&g, whole);
            g.b[i] = old;
        }
}
END_TEST

static void hostile(struct gguf *g, int i)
{
    begin(g, 3);
    switch (i) {
    case 0: /* two tensors at one place */
        tensor(g, "a", 0, 8, 0, 0);
        tensor(g, "b", 0, 8, 0, 32);
        break;
    case 1: /* sizes whose product wraps */
        tensor(g, "a", 0, UINT64_C(1) << 33, UINT64_C(1) << 33, 32);
        break;
    case 2: /* bytes that wrap */
        tensor(g, "a", 28, UINT64_C(1) << 62, 0, 32);
        break;
    case 3: /* not aligned */
        g->data = 4;
        tensor(g, "a", 0, 1, 0, 32);
        break;
    case 4: /* an array longer than the file */
        key(g, "a", 9);
        put(g, 4, 4);
        put(g, UINT64_MAX / 2, 8);
        break;
    case 5:
        key(g, "a", 9);
        put(g, 8, 4);
        put(g, UINT64_C(1) << 60, 8);
        break;
    case 6: /* an array of arrays */
        key(g, "a", 9);
        put(g, 9, 4);
        put(g, 0, 8);
        break;
    case 7:
        key(g, "a", 13);
        break;
    case 8: /* a string that ends behind the file */
        key(g, "a", 8);
        put(g, UINT64_MAX - 4, 8);
        break;
    case 9:
        key_u32(g, "a", 1);
        key_u32(g, "a", 1);
        break;
    case 10:
        key_u32(g, "general.alignment", 0);
        break;
    case 11:
        key_u32(g, "general.alignment", 48);
        break;
    case 12:
        key_text(g, "general.alignment", "32");
        break;
    case 13: /* more keys than there is room for */
        g->keys = UINT64_C(1) << 62;
        break;
    case 14:
        g->tensors = UINT64_MAX;
        break;
    case 15: /* five dimensions */
        put_text(g, "a");
        put(g, 5, 4);
        for (int d = 0; d < 5; d++)
            put(g, 1, 8);
        g->tensors = 1;
        break;
    case 16: /* a far offset */
        g->data = UINT64_MAX - 31;
        tensor(g, "a", 0, 8, 0, 32);
        g->data = 64;
        break;
    default:
        break;
    }
}
enum { HOSTILE = 17 };

START_TEST(hostile_gguf_is_refused)
{
    struct gguf g;
    uint64_t n;

    hostile(&g, _i);
    n = end(&g);
    ck_assert_msg(parse(&g, n) == KVP_EINPUT, "%d: %d %s", _i, err.code, err.text);
    hostile(&g, _i);
    end(&g);
    ck_assert_msg(parse(&g, n + 4096) == KVP_EINPUT || _i == 4, "%d: %d %s", _i, err.code, err.text);
}
END_TEST

START_TEST(other_versions_are_refused)
{
    static const uint32_t versions[] = {0, 1, 4, 0x03000000};
    struct gguf g;

    begin(&g, versions[_i]);
    ck_assert_int_eq(parse(&g, end(&g)), KVP_ENOTSUP);
    ck_assert_int_eq(strstr(err.text, "big-endian") != NULL, versions[_i] == 0x03000000);
}
END_TEST

/* ---- models ------------------------------------------------------------------------------------------- */

static char dir[] = "/tmp/kvproof-checkpoint-XXXXXX";

static void make_dir(void)
{
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void remove_dir(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -r %s", dir);
    ck_assert_int_eq(system(command), 0);
}

static const char *in_dir(const char *name)
{
    static char path[256];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

/* A file of `size` bytes that begins with these; the rest is a hole. */
static void write_file(const char *name, const void *head, size_t n, uint64_t size)
{
    const int fd = open(in_dir(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, head, n), (ssize_t)n);
    ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

/* Tensors "NAME rows cols" (cols 0: a vector), in f16 unless `dtype` says otherwise. */
static void write_safetensors(const char *name, const char *dtype, unsigned bytes, const char *tensors)
{
    char json[8192], copy[4096], *save = NULL;
    unsigned char head[8 + sizeof(json)];
    uint64_t at = 0;
    size_t n = 1;

    snprintf(copy, sizeof(copy), "%s", tensors);
    strcpy(json, "{");
    for (char *t = strtok_r(copy, ";", &save); t; t = strtok_r(NULL, ";", &save)) {
        unsigned rows, cols;
        char word[80];

        ck_assert_int_eq(sscanf(t, "%79s %u %u", word, &rows, &cols), 3);
        n += (size_t)snprintf(json + n, sizeof(json) - n, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%u%s", n > 1 ? "," : "", word, dtype, rows, cols ? "," : "");
        if (cols)
            n += (size_t)snprintf(json + n, sizeof(json) - n, "%u", cols);
        n += (size_t)snprintf(json + n, sizeof(json) - n, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + (uint64_t)bytes * rows * (cols ? cols : 1));
        at += (uint64_t)bytes * rows * (cols ? cols : 1);
    }
    n += (size_t)snprintf(json + n, sizeof(json) - n, "}");
    for (int i = 0; i < 8; i++)
        head[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(head + 8, json, n);
    write_file(name, head, 8 + n, 8 + n + at);
}

/* Vocabulary 10, width 8, 2 layers of 2 heads on 1, head 4, feed-forward 16:
 * a layer is 64 + 32 + 32 + 64 + 3 * 128 + 16 = 592; all of it 80 + 80 + 8 + 2 * 592 = 1352. */
#define CONFIG(vocab, layers, more)                                                                                     \
    "{\"model_type\":\"llama\",\"torch_dtype\":\"float16\",\"vocab_size\":" #vocab ",\"hidden_size\":8,"               \
    "\"num_hidden_layers\":" #layers ",\"num_attention_heads\":2,\"num_key_value_heads\":1,\"intermediate_size\":16,"   \
    "\"max_position_embeddings\":64" more "}"
#define LAYER(l)                                                                                                        \
    "model.layers." #l ".self_attn.q_proj.weight 8 8;model.layers." #l ".self_attn.k_proj.weight 4 8;"                  \
    "model.layers." #l ".self_attn.v_proj.weight 4 8;model.layers." #l ".self_attn.o_proj.weight 8 8;"                  \
    "model.layers." #l ".mlp.gate_proj.weight 16 8;model.layers." #l ".mlp.up_proj.weight 16 8;"                        \
    "model.layers." #l ".mlp.down_proj.weight 8 16;model.layers." #l ".input_layernorm.weight 8 0;"                     \
    "model.layers." #l ".post_attention_layernorm.weight 8 0;"
#define ENDS "model.embed_tokens.weight 10 8;model.norm.weight 8 0;"
#define HEAD "lm_head.weight 10 8;"
#define ALL ENDS HEAD LAYER(0) LAYER(1)

static kvp_err load_dir(struct kvp_model *m, const char *config, const char *dtype, unsigned bytes, const char *tensors)
{
    fresh();
    write_file("config.json", config, strlen(config), strlen(config));
    if (tensors)
        write_safetensors("model.safetensors", dtype, bytes, tensors);
    return kvp_model_load(m, dir, &err);
}

static const struct {
    const char *config, *tensors, *dtype;
    unsigned bytes;
    uint64_t file_bytes; /* 0: refused */
    const char *says;
} dirs[] = {
    {CONFIG(10, 2, ""), ALL, "F16", 2, 2704, NULL},
    {CONFIG(10, 2, ""), ALL, "F32", 4, 5408, NULL}, /* as the file has it, whatever the config's dtype */
    {CONFIG(10, 2, ""), ALL "model.layers.0.self_attn.rotary_emb.inv_freq 2 0;model.embeddings.position_ids 1 64;", "F16", 2, 2704, NULL},
    {CONFIG(10, 2, ",\"tie_word_embeddings\":true"), ENDS LAYER(0) LAYER(1), "BF16", 2, 2544, NULL},
    {CONFIG(10, 2, ",\"tie_word_embeddings\":true"), ALL, "BF16", 2, 2544, NULL}, /* a copy is stored, too */
    {CONFIG(10, 2, ""), ENDS LAYER(0) LAYER(1), "F16", 2, 2544, NULL},            /* a backbone alone: no head */
    {CONFIG(10, 2, ",\"architectures\":[\"LlamaModel\"]"), ENDS LAYER(0) LAYER(1), "F16", 2, 2544, NULL},
    {CONFIG(10, 2, ",\"architectures\":[\"LlamaModel\"]"), ALL, "F16", 2, 2704, NULL}, /* says backbone, and holds a head */
    {CONFIG(10, 2, ",\"architectures\":[\"LlamaForSequenceClassification\"],\"num_labels\":3"), ENDS LAYER(0) LAYER(1) "score.weight 3 8;", "F16", 2, 2592, NULL},
    {CONFIG(10, 2, ""), ALL, "I8", 1, 1352, NULL},                                /* quantized: bytes only */
    {CONFIG(11, 2, ""), ALL, "F16", 2, 0, "model.embed_tokens.weight has 10 rows, and the config says a vocabulary of 11"},
    {CONFIG(10, 3, ""), ALL, "F16", 2, 0, "count 2 layers, and the config says 3"},
    {CONFIG(10, 1, ""), ALL, "F16", 2, 0, "count 2 layers, and the config says 1"},
    {CONFIG(10, 2, ",\"attention_bias\":true"), ALL, "F16", 2, 0, "layer 0 has 592 elements by its tensors and 616 by the config"},
    {CONFIG(10, 2, ""), ALL "score.weight 3 8;", "F16", 2, 0, "have 1376 elements, and the config says 1352"},
};

START_TEST(a_directory_is_checked_against_its_config)
{
    struct kvp_model m;
    kvp_err rc;

    make_dir();
    rc = load_dir(&m, dirs[_i].config, dirs[_i].dtype, dirs[_i].bytes, dirs[_i].tensors);
    if (dirs[_i].file_bytes) {
        ck_assert_msg(rc == KVP_OK, "%s", err.text);
        ck_assert_uint_eq(m.file_bytes, dirs[_i].file_bytes);
        ck_assert_uint_eq(m.file_elements, strcmp(dirs[_i].dtype, "I8") ? dirs[_i].file_bytes / dirs[_i].bytes : 0);
    } else {
        ck_assert_msg(rc == KVP_EINPUT && strstr(err.text, dirs[_i].says), "%s", err.text);
    }
    kvp_model_free(&m);
    remove_dir();
}
END_TEST

static void write_text(const char *name, const char *text)
{
    write_file(name, text, strlen(text), strlen(text));
}

START_TEST(shards_are_read_by_their_index)
{
    static const char *const index = "{\"metadata\":{\"total_size\":2704},\"weight_map\":{\"model.embed_tokens.weight\":\"a.safetensors\","
                                     "\"lm_head.weight\":\"b.safetensors\"}}";
    struct kvp_model m;

    make_dir();
    write_text("config.json", CONFIG(10, 2, ""));
    write_text("model.safetensors.index.json", index);
    write_safetensors("a.safetensors", "F16", 2, ENDS LAYER(0));
    fresh();
    ck_assert_int_eq(kvp_model_load(&m, dir, &err), KVP_EINPUT); /* half a download */
    ck_assert_msg(strstr(err.text, "b.safetensors: missing") != NULL, "%s", err.text);
    write_safetensors("b.safetensors", "BF16", 2, HEAD LAYER(1));
    fresh();
    ck_assert_msg(kvp_model_load(&m, dir, &err) == KVP_OK, "%s", err.text);
    ck_assert_uint_eq(m.file_bytes, 2704);
    kvp_model_free(&m);
    write_safetensors("b.safetensors", "F16", 2, HEAD LAYER(0)); /* a layer twice */
    fresh();
    ck_assert_int_eq(kvp_model_load(&m, dir, &err), KVP_EINPUT);
    ck_assert_msg(strstr(err.text, "twice") != NULL, "%s", err.text);
    write_safetensors("b.safetensors", "F16", 2, LAYER(1)); /* not what the map says */
    fresh();
    ck_assert_int_eq(kvp_model_load(&m, dir, &err), KVP_EINPUT);
    ck_assert_msg(strstr(err.text, "lm_head.weight is not in b.safetensors") != NULL, "%s", err.text);
    write_text("model.safetensors.index.json", "{\"weight_map\":{\"a\":\"../a.safetensors\"}}");
    fresh();
    ck_assert_int_eq(kvp_model_load(&m, dir, &err), KVP_EINPUT);
    ck_assert_int_eq(unlink(in_dir("model.safetensors.index.json")), 0);
    fresh();
    ck_assert_int_eq(kvp_model_load(&m, dir, &err), KVP_EINPUT); /* two, and nothing says which */
    ck_assert_int_eq(unlink(in_dir("b.safetensors")), 0);
    write_safetensors("a.safetensors", "F16", 2, ALL); /* one of any name */
    fresh();
    ck_assert_msg(kvp_model_load(&m, dir, &err) == KVP_OK, "%s", err.text);
    ck_assert_uint_eq(m.file_bytes, 2704);
    kvp_model_free(&m);
    remove_dir();
}
END_TEST

/* Elements as make_golden.py's models have them: safetensors' total of f32 bytes, by a reader of its own (Python). */
static const struct {
    const char *name;
    uint64_t elements;
} goldens[] = {{"gpt2", 30624}, {"llama-gqa", 26336}, {"llama3-tied", 17504}, {"mistral-window", 20192}, {"qwen2-hybrid", 27360}, {"qwen3", 23296}};

START_TEST(golden_directories_load_with_their_bytes)
{
    char path[512];
    struct kvp_model m;

    for (int alone = 0; alone < 2; alone++) {
        snprintf(path, sizeof(path), "%s/golden/%s%s", getenv("KVPROOF_TESTS"), goldens[_i].name, alone ? "/model.safetensors" : "");
        fresh();
        ck_assert_msg(kvp_model_load(&m, path, &err) == KVP_OK, "%s", err.text);
        ck_assert_str_eq(m.name, goldens[_i].name);
        ck_assert_uint_eq(m.file_elements, goldens[_i].elements);
        ck_assert_uint_eq(m.file_bytes, 4 * goldens[_i].elements);
        kvp_model_free(&m);
    }
}
END_TEST

/* ---- GGUF models -------------------------------------------------------------------------------------- */

/* The same model, its matrices wider: width 64, heads 2 on 1 of 32, feed-forward 96, vocabulary 100. Q8_0 is 34 bytes
 * for 32. A layer: q, o 2 * 64 * 64, k, v 2 * 32 * 64, 3 * 96 * 64 = 30720 in Q8_0 (32640 bytes), norms 128 f32 (512).
 * Embedding 6400 in Q8_0 (6800), final norm 64 f32 (256): 2 * 33152 + 7056 = 73360 bytes, 68160 elements. */
static void gguf_layer(struct gguf *g, unsigned l)
{
    static const struct {
        const char *name;
        unsigned type, cols, rows;
    } t[] = {{"attn_norm.weight", 0, 64, 0}, {"attn_q.weight", 8, 64, 64}, {"attn_k.weight", 8, 64, 32}, {"attn_v.weight", 8, 64, 32},
             {"attn_output.weight", 8, 64, 64}, {"ffn_norm.weight", 0, 64, 0}, {"ffn_gate.weight", 8, 64, 96}, {"ffn_up.weight", 8, 64, 96},
             {"ffn_down.weight", 8, 96, 64}};
    char name[64];

    for (size_t i = 0; i < COUNT(t); i++) {
        const uint64_t n = (uint64_t)t[i].cols * (t[i].rows ? t[i].rows : 1);

        snprintf(name, sizeof(name), "blk.%u.%s", l, t[i].name);
        tensor(g, name, t[i].type, t[i].cols, t[i].rows, t[i].type ? n / 32 * 34 : n * 4);
    }
}

struct gguf_case {
    const char *arch;
    unsigned layers, vocab, window; /* 0: no such key */
    bool head, per_layer, drop_width;
};

static struct gguf file;

static void gguf_keys(const struct gguf_case *x)
{
    char name[64];

    begin(&file, 3);
    key_text(&file, "general.architecture", x->arch);
#define KEY(what, value) (snprintf(name, sizeof(name), "%s." what, x->arch), key_u32(&file, name, (value)))
    KEY("block_count", x->layers);
    if (!x->drop_width)
        KEY("embedding_length", 64);
    KEY("feed_forward_length", 96);
    KEY("attention.head_count", 2);
    KEY("context_length", 2048);
    if (x->vocab)
        KEY("vocab_size", x->vocab);
    if (x->window)
        KEY("attention.sliding_window", x->window);
    snprintf(name, sizeof(name), "%s.attention.head_count_kv", x->arch);
    key(&file, name, 9);
    put(&file, 4, 4);
    put(&file, 2, 8);
    put(&file, 1, 4);
    put(&file, x->per_layer ? 2 : 1, 4);
    key(&file, "tokenizer.ggml.tokens", 9);
    put(&file, 8, 4);
    put(&file, 100, 8);
    for (int i = 0; i < 100; i++)
        put_text(&file, "token");
}

static void gguf_ends(bool head)
{
    tensor(&file, "token_embd.weight", 8, 64, 100, 6800);
    tensor(&file, "output_norm.weight", 0, 64, 0, 256);
    tensor(&file, "rope_freqs.weight", 0, 16, 0, 64);
    if (head)
        tensor(&file, "output.weight", 8, 64, 100, 6800);
}

static void write_gguf(const struct gguf_case *x)
{
    uint64_t n;

    gguf_keys(x);
    gguf_ends(x->head);
    gguf_layer(&file, 0);
    gguf_layer(&file, 1);
    n = end(&file);
    write_file("tiny.gguf", file.b, file.n, n);
}

static const struct {
    struct gguf_case x;
    const char *model_type; /* NULL: refused */
    uint64_t bytes;
    const char *says;
} ggufs[] = {
    {{.arch = "llama", .layers = 2, .vocab = 100}, "llama", 73360, NULL},
    {{.arch = "llama", .layers = 2}, "llama", 73360, NULL},
    {{.arch = "llama", .layers = 2, .head = true}, "llama", 80160, NULL},
    {{.arch = "llama", .layers = 2, .window = 128}, "mistral", 73360, NULL},
    {{.arch = "mistral3", .layers = 2}, "mistral", 73360, NULL},
    {{.arch = "llama", .layers = 3}, NULL, 0, "count 2 layers"},
    {{.arch = "llama", .layers = 2, .vocab = 101}, NULL, 0, "has 100 rows"},
    {{.arch = "llama", .layers = 2, .per_layer = true}, NULL, 0, "llama.attention.head_count_kv: layers that differ"},
    {{.arch = "llama", .layers = 2, .drop_width = true}, NULL, 0, "llama.embedding_length is missing"},
    {{.arch = "qwen2", .layers = 2}, NULL, 0, "layer 0 has 30848 elements by its tensors and 30976 by the config"}, /* biases */
    {{.arch = "clip", .layers = 2}, NULL, 0, "architecture \"clip\""},
    {{.arch = "qwen3moe", .layers = 2}, NULL, 0, "qwen3moe with 0 experts"},
};

START_TEST(a_gguf_file_is_a_model)
{
    struct kvp_model m;
    kvp_err rc;

    make_dir();
    write_gguf(&ggufs[_i].x);
    fresh();
    rc = kvp_model_load(&m, in_dir("tiny.gguf"), &err);
    if (ggufs[_i].model_type) {
        ck_assert_msg(rc == KVP_OK, "%s", err.text);
        ck_assert_str_eq(m.name, "tiny");
        ck_assert_str_eq(m.model_type, ggufs[_i].model_type);
        ck_assert_uint_eq(m.file_bytes, ggufs[_i].bytes);
        ck_assert_uint_eq(m.file_elements, ggufs[_i].x.head ? 74560 : 68160);
        ck_assert_uint_eq(m.cls[0].window, ggufs[_i].x.window);
        ck_assert_uint_eq(m.max_positions, 2048);
        ck_assert_int_eq(m.quant.format, KVP_WF_GGML);
        ck_assert_int_eq(m.quant.ggml, KVP_Q8_0);
    } else {
        ck_assert_msg(rc != KVP_OK && strstr(err.text, ggufs[_i].says), "%s", err.text);
    }
    kvp_model_free(&m);
    remove_dir();
}
END_TEST

START_TEST(a_split_gguf_file_is_read_whole)
{
    const struct gguf_case x = {.arch = "llama", .layers = 2};
    struct kvp_model m;
    uint64_t n;

    make_dir();
    gguf_keys(&x);
    key(&file, "split.count", 2);
    put(&file, 2, 2);
    gguf_ends(false);
    gguf_layer(&file, 0);
    n = end(&file);
    write_file("m-00001-of-00002.gguf", file.b, file.n, n);
    write_file("m.gguf", file.b, file.n, n);
    begin(&file, 3);
    key(&file, "split.count", 2);
    put(&file, 2, 2);
    gguf_layer(&file, 1);
    n = end(&file);
    fresh();
    ck_assert_int_eq(kvp_model_load(&m, in_dir("m-00001-of-00002.gguf"), &err), KVP_EINPUT);
    ck_assert_msg(strstr(err.text, "m-00002-of-00002.gguf: missing") != NULL, "%s", err.text);
    write_file("m-00002-of-00002.gguf", file.b, file.n, n);
    fresh();
    ck_assert_msg(kvp_model_load(&m, in_dir("m-00001-of-00002.gguf"), &err) == KVP_OK, "%s", err.text);
    ck_assert_uint_eq(m.file_bytes, 73360);
    kvp_model_free(&m);
    fresh();
    ck_assert_int_eq(kvp_model_load(&m, in_dir("m.gguf"), &err), KVP_EINPUT); /* which parts are its own? */
    remove_dir();
}
END_TEST

START_TEST(a_gguf_file_is_known_by_its_first_bytes)
{
    const struct gguf_case x = {.arch = "llama", .layers = 2};
    struct kvp_model m;
    char from[256];

    make_dir();
    write_gguf(&x);
    snprintf(from, sizeof(from), "%s", in_dir("tiny.gguf"));
    ck_assert_int_eq(rename(from, in_dir("sha256-0123")), 0);
    fresh();
    ck_assert_msg(kvp_model_load(&m, in_dir("sha256-0123"), &err) == KVP_OK, "%s", err.text);
    ck_assert_uint_eq(m.file_bytes, 73360);
    kvp_model_free(&m);
    write_text("not.gguf", "{}");
    fresh();
    ck_assert_int_eq(kvp_model_load(&m, in_dir("not.gguf"), &err), KVP_EINPUT);
    ck_assert_msg(strstr(err.text, "does not begin with GGUF") != NULL, "%s", err.text);
    write_safetensors("lone.safetensors", "F16", 2, ALL);
    fresh();
    ck_assert_int_eq(kvp_model_load(&m, in_dir("lone.safetensors"), &err), KVP_EINPUT);
    ck_assert_msg(strstr(err.text, "config.json") != NULL, "%s", err.text);
    remove_dir();
}
END_TEST

/* From bytes to a model, as a fuzzer goes. */
static kvp_err model_of(const unsigned char *b, size_t n, uint64_t file_bytes)
{
    struct checkpoint c;
    struct kvp_model m = {0};
    unsigned char *copy;
    size_t need;
    kvp_err rc = parse_bytes(&c, b, n, file_bytes, &need, &copy);

    if (rc == KVP_OK)
        rc = ckpt_sort(&c, "f", &err);
    if (rc == KVP_OK)
        rc = ckpt_gguf_model(&m, &c, "f", &err);
    kvp_model_free(&m);
    ckpt_free(&c);
    free(copy);
    return rc;
}

START_TEST(no_changed_byte_of_a_model_does_harm)
{
    const struct gguf_case x = {.arch = "llama", .layers = 2};
    uint64_t n;

    gguf_keys(&x);
    gguf_ends(true);
    gguf_layer(&file, 0);
    gguf_layer(&file, 1);
    n = end(&file);
    ck_assert_msg(model_of(file.b, file.n, n) == KVP_OK, "%s", err.text);
    for (size_t i = 0; i < file.n; i++) {
        unsigned char old;

        if (memcmp(file.b + i, "token", 5) == 0) /* a hundred that are alike */
            i += 4;
        old = file.b[i];
        file.b[i] = (unsigned char)(_i ? old ^ 1u << (i % 8) : 0xff);
        model_of(file.b, file.n, n);
        file.b[i] = old;
    }
}
END_TEST

/* ---- estimates ---------------------------------------------------------------------------------------- */

START_TEST(weights_are_the_files_unless_others_are_asked_for)
{
    const struct kvp_workload w = {.context = 16};
    struct kvp_estimate est;
    struct kvp_program *p;
    struct kvp_point point;
    struct kvp_options o = {0};
    struct kvp_stack s = {0};
    struct kvp_model m;

    make_dir();
    ck_assert_int_eq(load_dir(&m, CONFIG(10, 2, ""), "I8", 1, ALL), KVP_OK);
    est = estimate_of(&m, "", w, o);
    ck_assert_uint_eq(est.memory.weights_bytes, 1352);
    ck_assert_str_eq(est.tensors[0].name, "checkpoint");
    ck_assert_uint_eq(est.tensors[0].bytes, 1352);
    ck_assert_str_eq(est.parts[0].how, "exact: from the file");
    ck_assert_uint_eq(est.parameters, 1352);
    p = kvp_program_new(&m, &s, &o, NULL, &err);
    ck_assert_ptr_nonnull(p);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(kvp_program_point(p, &w, &point, &err), KVP_OK);
        ck_assert_mem_eq(&point.memory, &est.memory, sizeof(point.memory));
    }
    kvp_program_free(p);
    kvp_estimate_free(&est);
    est = estimate_of(&m, "h2o", w, o); /* the cache's techniques leave the weights alone */
    ck_assert_uint_eq(est.memory.weights_bytes, 1352);
    kvp_estimate_free(&est);
    est = estimate_of(&m, "", w, (struct kvp_options){.weights_given = true, .weights = KVP_F32});
    ck_assert_uint_eq(est.memory.weights_bytes, 4 * 1352);
    ck_assert_str_eq(est.parts[0].how, "exact: tensor by tensor");
    kvp_estimate_free(&est);
    est = estimate_of(&m, "", w, (struct kvp_options){.pp = 2}); /* a stage is not the whole file */
    ck_assert_uint_lt(est.memory.weights_bytes, 2 * 1352);
    ck_assert_str_eq(est.parts[0].how, "exact: tensor by tensor");
    kvp_estimate_free(&est);
    ck_assert_int_eq(kvp_model_truncate(&m, 1, &err), KVP_OK);
    est = estimate_of(&m, "", w, o);
    ck_assert_uint_eq(est.memory.weights_bytes, 2 * (1352 - 592));
    kvp_estimate_free(&est);
    kvp_model_free(&m);
    remove_dir();
}
END_TEST

int main(void)
{
    TCase *st = tcase_create("safetensors"), *gg = tcase_create("gguf"), *models = tcase_create("models");
    TCase *cases[] = {st, gg, models};

    tcase_add_loop_test(st, a_safetensors_header_is_taken_or_refused, 0, COUNT(headers));
    tcase_add_test(st, a_header_longer_than_its_file_is_refused_and_a_longer_one_asked_for);
    tcase_add_loop_test(gg, every_ggml_type_takes_its_bytes, 0, COUNT(types));
    tcase_add_loop_test(gg, an_unknown_type_is_refused_by_its_number, 0, 6);
    tcase_add_loop_test(gg, metadata_of_every_type_is_read, 0, 2);
    tcase_add_test(gg, no_cut_and_no_changed_byte_does_harm);
    tcase_add_loop_test(gg, hostile_gguf_is_refused, 0, HOSTILE);
    tcase_add_loop_test(gg, other_versions_are_refused, 0, 4);
    tcase_add_loop_test(models, a_directory_is_checked_against_its_config, 0, COUNT(dirs));
    tcase_add_test(models, shards_are_read_by_their_index);
    tcase_add_loop_test(models, golden_directories_load_with_their_bytes, 0, COUNT(goldens));
    tcase_add_loop_test(models, a_gguf_file_is_a_model, 0, COUNT(ggufs));
    tcase_add_test(models, a_split_gguf_file_is_read_whole);
    tcase_add_test(models, a_gguf_file_is_known_by_its_first_bytes);
    tcase_add_loop_test(models, no_changed_byte_of_a_model_does_harm, 0, 2);
    tcase_add_test(models, weights_are_the_files_unless_others_are_asked_for);
    return run("checkpoint", cases, COUNT(cases));
}
