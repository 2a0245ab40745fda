/* gguf.c - the header of a GGUF file: magic, version, metadata, and where each tensor is.
 *
 * Layout and value types: ggml-org/ggml docs/gguf.md. Limits: gguf_init_from_file_impl() of ggml/src/gguf.cpp (keys
 * once, at most 4 sizes, rows of whole blocks, an alignment that is a power of two, no arrays of arrays).
 * Types and blocks: enum ggml_type of ggml/include/ggml.h and the block_* structs of ggml/src/ggml-common.h. */
#include "calc/checkpoint.h"

#include "calc/num.h"
#include "calc/tensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NAME = 65535, LONGEST_HEADER = 1 << 28, MOST_DIMS = 4, DEFAULT_ALIGNMENT = 32 };
enum value { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, VALUES };

static const uint8_t value_bytes[VALUES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* A row is here by ggml's number; `elements` 0: a format of calc/tensors.h, else `format` is the nearest that is there. */
static const struct ggml_row {
    const char *name;
    enum kvp_format format;
    uint16_t elements, bytes;
    bool plain;
} types[] = {
    [0] = {.name = "F32", .format = KVP_F32, .plain = true},
    [1] = {.name = "F16", .format = KVP_F16, .plain = true},
    [2] = {.name = "Q4_0", .format = KVP_Q4_0},
    [3] = {.name = "Q4_1", .format = KVP_Q4_1},
    [6] = {.name = "Q5_0", .format = KVP_Q5_0},
    [7] = {.name = "Q5_1", .format = KVP_Q5_1},
    [8] = {.name = "Q8_0", .format = KVP_Q8_0},
    [9] = {.name = "Q8_1", .format = KVP_Q8_0, .elements = 32, .bytes = 36},
    [10] = {.name = "Q2_K", .format = KVP_Q2_K},
    [11] = {.name = "Q3_K", .format = KVP_Q3_K},
    [12] = {.name = "Q4_K", .format = KVP_Q4_K},
    [13] = {.name = "Q5_K", .format = KVP_Q5_K},
    [14] = {.name = "Q6_K", .format = KVP_Q6_K},
    [15] = {.name = "Q8_K", .format = KVP_Q8_0, .elements = 256, .bytes = 292},
    [16] = {.name = "IQ2_XXS", .format = KVP_Q2_K, .elements = 256, .bytes = 66},
    [17] = {.name = "IQ2_XS", .format = KVP_Q2_K, .elements = 256, .bytes = 74},
    [18] = {.name = "IQ3_XXS", .format = KVP_Q3_K, .elements = 256, .bytes = 98},
    [19] = {.name = "IQ1_S", .format = KVP_Q2_K, .elements = 256, .bytes = 50},
    [20] = {.name = "IQ4_NL", .format = KVP_IQ4_NL},
    [21] = {.name = "IQ3_S", .format = KVP_Q3_K, .elements = 256, .bytes = 110},
    [22] = {.name = "IQ2_S", .format = KVP_Q2_K, .elements = 256, .bytes = 82},
    [23] = {.name = "IQ4_XS", .format = KVP_IQ4_XS},
    [24] = {.name = "I8", .elements = 1, .bytes = 1},
    [25] = {.name = "I16", .elements = 1, .bytes = 2},
    [26] = {.name = "I32", .elements = 1, .bytes = 4},
    [27] = {.name = "I64", .elements = 1, .bytes = 8},
    [28] = {.name = "F64", .elements = 1, .bytes = 8, .plain = true},
    [29] = {.name = "IQ1_M", .format = KVP_Q2_K, .elements = 256, .bytes = 56},
    [30] = {.name = "BF16", .format = KVP_BF16, .plain = true},
    [34] = {.name = "TQ1_0", .format = KVP_Q2_K, .elements = 256, .bytes = 54},
    [35] = {.name = "TQ2_0", .format = KVP_Q2_K, .elements = 256, .bytes = 66},
    [39] = {.name = "MXFP4", .format = KVP_MXFP4},
    [40] = {.name = "NVFP4", .format = KVP_NVFP4, .elements = 64, .bytes = 36},
    [41] = {.name = "Q1_0", .format = KVP_Q2_K, .elements = 128, .bytes = 18},
};

/* ---- bytes ------------------------------------------------------------------------------------------- */

struct cursor {
    const unsigned char *head;
    size_t at, len;
    uint64_t file_bytes;
    size_t *need;
    const char *origin;
    struct kvp_error *e;
};

/* The next n bytes. */
static kvp_err take(struct cursor *r, uint64_t n, const unsigned char **out)
{
    if (n > r->file_bytes - r->at)
        return kvp_fail(r->e, KVP_EINPUT, "%s: the file of %" PRIu64 " bytes ends inside its header: %" PRIu64 " more are wanted at %zu",
                        r->origin, r->file_bytes, n, r->at);
    if (n > LONGEST_HEADER || r->at + n > LONGEST_HEADER)
        return kvp_fail(r->e, KVP_EINPUT, "%s: a header longer than %d bytes", r->origin, LONGEST_HEADER);
    if (n > r->len - r->at) {
        *r->need = r->at + (size_t)n;
        return KVP_NO;
    }
    *out = r->head + r->at;
    r->at += (size_t)n;
    return KVP_OK;
}

static uint64_t little(const unsigned char *p, unsigned n)
{
    uint64_t x = 0;

    while (n--)
        x = x << 8 | p[n];
    return x;
}

static kvp_err take_number(struct cursor *r, unsigned bytes, uint64_t *out)
{
    const unsigned char *p;

    KVP_TRY(take(r, bytes, &p));
    *out = little(p, bytes);
    return KVP_OK;
}

static kvp_err take_string(struct cursor *r, uint64_t most, const unsigned char **text, uint64_t *len)
{
    KVP_TRY(take_number(r, 8, len));
    if (*len > most)
        return kvp_fail(r->e, KVP_EINPUT, "%s: a name of %" PRIu64 " bytes at %zu; %" PRIu64 " are the most", r->origin, *len, r->at, most);
    return take(r, *len, text);
}

/* ---- metadata ---------------------------------------------------------------------------------------- */

static kvp_err take_array(struct cursor *r, struct ckpt_kv *kv)
{
    uint64_t item, bytes;
    bool over = false;

    KVP_TRY(take_number(r, 4, &item));
    KVP_TRY(take_number(r, 8, &kv->count));
    if (item >= VALUES || item == ARRAY)
        return kvp_fail(r->e, KVP_EINPUT, "%s: %.*s: an array of elements of type %" PRIu64, r->origin, (int)num_min(kv->key_len, 80), kv->key, item);
    kv->item = (uint32_t)item;
    kv->value = r->head + r->at;
    if (item != STRING) {
        bytes = num_mul(&over, kv->count, value_bytes[item]);
        return take(r, over ? UINT64_MAX : bytes, &kv->value);
    }
    if (kv->count > (r->file_bytes - r->at) / 8)
        return kvp_fail(r->e, KVP_EINPUT, "%s: %.*s: %" PRIu64 " strings are more than the file has room for", r->origin,
                        (int)num_min(kv->key_len, 80), kv->key, kv->count);
    for (uint64_t i = 0; i < kv->count; i++) {
        const unsigned char *text;
        uint64_t len;

        KVP_TRY(take_string(r, UINT64_MAX, &text, &len));
    }
    return KVP_OK;
}

static kvp_err take_value(struct cursor *r, struct ckpt_kv *kv)
{
    uint64_t type;

    KVP_TRY(take_number(r, 4, &type));
    if (type >= VALUES)
        return kvp_fail(r->e, KVP_EINPUT, "%s: %.*s: a value of type %" PRIu64 ", where GGUF has 0 to 12", r->origin,
                        (int)num_min(kv->key_len, 80), kv->key, type);
    kv->type = (uint32_t)type;
    kv->count = 1;
    if (type == ARRAY)
        return take_array(r, kv);
    if (type == STRING)
        return take_string(r, UINT64_MAX, &kv->value, &kv->count);
    return take(r, value_bytes[type], &kv->value);
}

static kvp_err take_key(struct checkpoint *c, struct cursor *r)
{
    struct ckpt_kv kv = {0}, *more;
    const unsigned char *key;
    uint64_t len;

    KVP_TRY(take_string(r, LONGEST_NAME, &key, &len));
    kv.key = (const char *)key;
    kv.key_len = (size_t)len;
    KVP_TRY(take_value(r, &kv));
    if (c->n_kv == c->cap_kv) {
        const size_t cap = c->cap_kv ? 2 * c->cap_kv : 64;

        more = realloc(c->kv, cap * sizeof(*more));
        if (!more)
            return kvp_fail(r->e, KVP_ENOMEM, "%s: out of memory for its metadata", r->origin);
        c->kv = more;
        c->cap_kv = cap;
    }
    c->kv[c->n_kv++] = kv;
    return KVP_OK;
}

static int compare_keys(const char *a, size_t an, const char *b, size_t bn)
{
    const int d = memcmp(a, b, an < bn ? an : bn);

    return d ? d : an < bn ? -1 : an > bn;
}

static int by_key(const void *a, const void *b)
{
    const struct ckpt_kv *x = a, *y = b;

    return compare_keys(x->key, x->key_len, y->key, y->key_len);
}

static kvp_err take_keys(struct checkpoint *c, struct cursor *r, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        KVP_TRY(take_key(c, r));
    if (c->n_kv)
        qsort(c->kv, c->n_kv, sizeof(*c->kv), by_key);
    for (size_t i = 1; i < c->n_kv; i++)
        if (by_key(&c->kv[i - 1], &c->kv[i]) == 0)
            return kvp_fail(r->e, KVP_EINPUT, "%s: the key %.*s is there twice", r->origin, (int)num_min(c->kv[i].key_len, 80), c->kv[i].key);
    return KVP_OK;
}

const struct ckpt_kv *ckpt_key(const struct checkpoint *c, const char *key)
{
    const size_t n = strlen(key);

    for (size_t lo = 0, hi = c->n_kv; lo < hi;) {
        const size_t mid = lo + (hi - lo) / 2;
        const int d = compare_keys(key, n, c->kv[mid].key, c->kv[mid].key_len);

        if (!d)
            return &c->kv[mid];
        if (d < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

bool ckpt_kv_u64(const struct ckpt_kv *kv, uint64_t i, uint64_t *out)
{
    const uint32_t type = kv && kv->type == ARRAY ? kv->item : kv ? kv->type : STRING;
    const bool is_signed = type == I8 || type == I16 || type == I32 || type == I64;

    if (type == STRING || type == ARRAY || type == F32 || type == F64 || i >= kv->count)
        return false;
    *out = little(kv->value + i * value_bytes[type], value_bytes[type]);
    return !is_signed || !(*out >> (8 * value_bytes[type] - 1));
}

bool ckpt_kv_real(const struct ckpt_kv *kv, double *out)
{
    uint64_t bits;
    float f;

    if (!kv || (kv->type != F32 && kv->type != F64))
        return false;
    bits = little(kv->value, value_bytes[kv->type]);
    if (kv->type == F64) {
        memcpy(out, &bits, sizeof(*out));
        return true;
    }
    memcpy(&f, &(uint32_t){(uint32_t)bits}, sizeof(f));
    *out = (double)f;
    return true;
}

/* ---- tensors ----------------------------------------------------------------------------------------- */

static kvp_err count_bytes(struct ckpt_tensor *t, uint64_t type, struct cursor *r)
{
    const struct ggml_row *row = type < sizeof(types) / sizeof(types[0]) ? &types[type] : NULL;
    const uint64_t first = t->dims ? t->shape[t->dims - 1] : 1;
    uint64_t block;
    bool over = false;

    if (!row || !row->name)
        return kvp_fail(r->e, KVP_ENOTSUP, "%s: %.80s: ggml type %" PRIu64 " is not known here", r->origin, t->name, type);
    block = row->elements ? row->elements : format_block(row->format);
    snprintf(t->dtype, sizeof(t->dtype), "%s", row->name);
    t->plain = row->plain;
    t->format = row->plain ? KVP_F32 : row->format;
    if (first % block)
        return kvp_fail(r->e, KVP_EINPUT, "%s: %.80s: rows of %" PRIu64 " elements are no whole blocks of %s (%" PRIu64 ")", r->origin, t->name,
                        first, row->name, block);
    t->bytes = row->elements ? num_mul(&over, t->elements / block, row->bytes) : format_bytes(&over, row->format, t->elements);
    return over ? kvp_fail(r->e, KVP_EINPUT, "%s: %.80s: its bytes do not fit in 63 bits", r->origin, t->name) : KVP_OK;
}

static kvp_err take_tensor(struct checkpoint *c, struct cursor *r)
{
    struct ckpt_tensor *t;
    const unsigned char *name;
    uint64_t len, dims, type;

    KVP_TRY(take_string(r, LONGEST_NAME, &name, &len));
    KVP_TRY(ckpt_add(c, (const char *)name, (size_t)len, &t, r->e));
    KVP_TRY(take_number(r, 4, &dims));
    if (dims > MOST_DIMS)
        return kvp_fail(r->e, KVP_EINPUT, "%s: %.80s: %" PRIu64 " dimensions; %d are the most", r->origin, t->name, dims, MOST_DIMS);
    t->dims = (uint32_t)dims;
    for (uint32_t i = t->dims; i-- > 0;) /* the fastest comes first in the file */
        KVP_TRY(take_number(r, 8, &t->shape[i]));
    KVP_TRY(ckpt_count(t, r->origin, r->e));
    KVP_TRY(take_number(r, 4, &type));
    KVP_TRY(take_number(r, 8, &t->from));
    return count_bytes(t, type, r);
}

static kvp_err check_places(struct checkpoint *c, size_t first, const struct cursor *r)
{
    const struct ckpt_kv *kv = ckpt_key(c, "general.alignment");
    uint64_t alignment = DEFAULT_ALIGNMENT, begin;

    if (kv && (kv->type != U32 || !ckpt_kv_u64(kv, 0, &alignment) || !alignment || (alignment & (alignment - 1))))
        return kvp_fail(r->e, KVP_EINPUT, "%s: general.alignment: expected a power of two, 32 bits wide", r->origin);
    begin = num_cdiv(r->at, alignment) * alignment;
    for (size_t i = first; i < c->n; i++) {
        const struct ckpt_tensor *t = &c->v[i];

        if (t->from % alignment)
            return kvp_fail(r->e, KVP_EINPUT, "%s: %.80s: its offset %" PRIu64 " is not a multiple of %" PRIu64, r->origin, t->name, t->from, alignment);
        if (begin > r->file_bytes || t->from > r->file_bytes - begin || t->bytes > r->file_bytes - begin - t->from)
            return kvp_fail(r->e, KVP_EINPUT, "%s: %.80s: its %" PRIu64 " bytes at offset %" PRIu64 " go past the file's end (%" PRIu64 " bytes)",
                            r->origin, t->name, t->bytes, t->from, r->file_bytes);
    }
    return ckpt_places(c, first, num_less(r->file_bytes, begin), false, r->origin, r->e);
}

kvp_err ckpt_gguf(struct checkpoint *c, const unsigned char *head, size_t len, uint64_t file_bytes, const char *origin,
                  size_t *need, struct kvp_error *e)
{
    struct cursor r = {head, 0, len, file_bytes, need, origin, e};
    const size_t first = c->n;
    uint64_t magic, version, tensors, keys;

    c->gguf = true;
    KVP_TRY(take_number(&r, 4, &magic));
    KVP_TRY(take_number(&r, 4, &version));
    if (version != 2 && version != 3)
        return kvp_fail(e, KVP_ENOTSUP, "%s: GGUF version %" PRIu64 "%s; 2 and 3 are read", origin, version,
                        version && !(version & 0xffff) ? " (a big-endian file)" : "");
    KVP_TRY(take_number(&r, 8, &tensors));
    KVP_TRY(take_number(&r, 8, &keys));
    if (keys > file_bytes / 13 || tensors > file_bytes / 24) /* the fewest bytes that one can take */
        return kvp_fail(e, KVP_EINPUT, "%s: %" PRIu64 " keys and %" PRIu64 " tensors are more than %" PRIu64 " bytes have room for", origin, keys,
                        tensors, file_bytes);
    KVP_TRY(take_keys(c, &r, keys));
    for (uint64_t i = 0; i < tensors; i++)
        KVP_TRY(take_tensor(c, &r));
    return check_places(c, first, &r);
}
