/* safetensors.c - the header of a .safetensors file: 8 bytes of length, then JSON.
 *
 * What is refused is what the reference refuses (safetensors/src/tensor.rs: Metadata::validate, and the header limit
 * of 100 MB there), holes between tensors included. */
#include "calc/checkpoint.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_HEADER = 100000000 };

/* tensor.rs, enum Dtype. */
static const struct {
    const char *name;
    uint8_t bits;
    bool plain;
} dtypes[] = {
    {"BF16", 16, true},     {"F16", 16, true},      {"F32", 32, true},     {"F64", 64, true},     {"U8", 8, false},
    {"I8", 8, false},       {"F8_E4M3", 8, false},  {"F8_E5M2", 8, false}, {"F8_E8M0", 8, false}, {"F4", 4, false},
    {"F6_E2M3", 6, false},  {"F6_E3M2", 6, false},  {"BOOL", 8, false},    {"I16", 16, false},    {"U16", 16, false},
    {"I32", 32, false},     {"U32", 32, false},     {"I64", 64, false},    {"U64", 64, false},    {"C64", 64, false},
};

static kvp_err read_dtype(struct ckpt_tensor *t, const json_t *v, const char *origin, uint64_t *bits, struct kvp_error *e)
{
    const char *word = json_string_value(json_object_get(v, "dtype"));

    for (size_t i = 0; word && i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        if (strcmp(dtypes[i].name, word) == 0) {
            snprintf(t->dtype, sizeof(t->dtype), "%s", word);
            t->plain = dtypes[i].plain;
            *bits = dtypes[i].bits;
            return KVP_OK;
        }
    return kvp_fail(e, KVP_EINPUT, "%s: %.80s: dtype %.40s is not one of safetensors'", origin, t->name, word ? word : "(none)");
}

static kvp_err read_shape(struct ckpt_tensor *t, const json_t *v, const char *origin, struct kvp_error *e)
{
    const json_t *shape = json_object_get(v, "shape");

    if (!json_is_array(shape) || json_array_size(shape) > CKPT_DIMS)
        return kvp_fail(e, KVP_EINPUT, "%s: %.80s: shape: expected a list of at most %d sizes", origin, t->name, CKPT_DIMS);
    t->dims = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < t->dims; i++) {
        const json_t *n = json_array_get(shape, i);

        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return kvp_fail(e, KVP_EINPUT, "%s: %.80s: shape: expected sizes, whole and not negative", origin, t->name);
        t->shape[i] = (uint64_t)json_integer_value(n);
    }
    return ckpt_count(t, origin, e);
}

static kvp_err read_place(struct ckpt_tensor *t, const json_t *v, uint64_t bits, uint64_t data_bytes, const char *origin, struct kvp_error *e)
{
    const json_t *span = json_object_get(v, "data_offsets"), *from = json_array_get(span, 0), *to = json_array_get(span, 1);
    uint64_t want;

    if (json_array_size(span) != 2 || !json_is_integer(from) || !json_is_integer(to) || json_integer_value(from) < 0 ||
        json_integer_value(to) < json_integer_value(from))
        return kvp_fail(e, KVP_EINPUT, "%s: %.80s: data_offsets: expected two integers, the second not smaller", origin, t->name);
    t->from = (uint64_t)json_integer_value(from);
    t->bytes = (uint64_t)json_integer_value(to) - t->from;
    if (t->from + t->bytes > data_bytes)
        return kvp_fail(e, KVP_EINPUT, "%s: %.80s: data_offsets end at %" PRIu64 ", and the file holds %" PRIu64 " bytes of data", origin,
                        t->name, t->from + t->bytes, data_bytes);
    if (__builtin_mul_overflow(t->elements, bits, &want) || want % 8 || want / 8 != t->bytes)
        return kvp_fail(e, KVP_EINPUT, "%s: %.80s: %" PRIu64 " elements of %s do not take %" PRIu64 " bytes", origin, t->name, t->elements,
                        t->dtype, t->bytes);
    return KVP_OK;
}

static kvp_err read_tensors(struct checkpoint *c, json_t *root, uint64_t data_bytes, const char *origin, struct kvp_error *e)
{
    const size_t first = c->n;
    const char *name;
    json_t *v;

    json_object_foreach(root, name, v) {
        struct ckpt_tensor *t;
        uint64_t bits = 0;

        if (strcmp(name, "__metadata__") == 0)
            continue;
        KVP_TRY(ckpt_add(c, name, strlen(name), &t, e));
        KVP_TRY(read_dtype(t, v, origin, &bits, e));
        KVP_TRY(read_shape(t, v, origin, e));
        KVP_TRY(read_place(t, v, bits, data_bytes, origin, e));
    }
    return ckpt_places(c, first, data_bytes, true, origin, e);
}

kvp_err ckpt_safetensors(struct checkpoint *c, const unsigned char *head, size_t len, uint64_t file_bytes, const char *origin,
                         size_t *need, struct kvp_error *e)
{
    uint64_t n = 0;
    json_error_t je;
    json_t *root;
    kvp_err rc;

    if (file_bytes < 8)
        return kvp_fail(e, KVP_EINPUT, "%s: %" PRIu64 " bytes are too few for a safetensors file", origin, file_bytes);
    if (len < 8) {
        *need = 8;
        return KVP_NO;
    }
    for (int i = 7; i >= 0; i--)
        n = n << 8 | head[i];
    if (n > LONGEST_HEADER || n > file_bytes - 8)
        return kvp_fail(e, KVP_EINPUT, "%s: its header is said to take %" PRIu64 " bytes; the file has %" PRIu64 ", and %d are the most",
                        origin, n, file_bytes, LONGEST_HEADER);
    if (len - 8 < n) {
        *need = (size_t)n + 8;
        return KVP_NO;
    }
    if (!n || head[8] != '{')
        return kvp_fail(e, KVP_EINPUT, "%s: the header does not begin with {", origin);
    root = json_loadb((const char *)head + 8, (size_t)n, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        return kvp_fail(e, KVP_EINPUT, "%s: the header, line %d: %.200s", origin, je.line, je.text);
    rc = read_tensors(c, root, file_bytes - 8 - n, origin, e);
    json_decref(root);
    return rc;
}
