#include "validate/engine/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ST_HEADER_MAX = 100000000 }; /* as the reference implementation limits it */

struct st_map {
    char *path;
    unsigned char *base; /* MAP_FAILED or NULL: nothing mapped */
    size_t bytes;
    json_t *header; /* owns the tensors' names */
};

struct st_files {
    struct st_map *maps;
    size_t n_maps;
    struct st_tensor *tensors;
    size_t n_tensors;
};

/* Every dtype of the format, so that tensors that no model needs can still be stepped over. */
static const struct {
    const char *name;
    uint64_t bytes;
    enum kvp_format format;
} dtypes[] = {
    {"F32", 4, KVP_F32}, {"F16", 2, KVP_F16}, {"BF16", 2, KVP_BF16},
    {"BOOL", 1, KVP_FORMATS}, {"U8", 1, KVP_FORMATS}, {"I8", 1, KVP_FORMATS}, {"F8_E4M3", 1, KVP_FORMATS},
    {"F8_E5M2", 1, KVP_FORMATS}, {"U16", 2, KVP_FORMATS}, {"I16", 2, KVP_FORMATS}, {"U32", 4, KVP_FORMATS},
    {"I32", 4, KVP_FORMATS}, {"U64", 8, KVP_FORMATS}, {"I64", 8, KVP_FORMATS}, {"F64", 8, KVP_FORMATS},
};

/* ---- one file ----------------------------------------------------------------------------------- */

static kvp_err map_file(struct st_map *m, struct kvp_error *e)
{
    struct stat st;
    const int fd = open(m->path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return kvp_fail(e, KVP_EINPUT, "%s: %s", m->path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return kvp_fail(e, KVP_EINPUT, "%s: not a regular file", m->path);
    }
    m->bytes = (size_t)st.st_size;
    m->base = m->bytes ? mmap(NULL, m->bytes, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    close(fd);
    if (m->base == MAP_FAILED)
        return kvp_fail(e, KVP_ESYS, "%s: mmap: %s", m->path, strerror(errno));
    return KVP_OK;
}

static kvp_err read_header(struct st_map *m, uint64_t *data_at, struct kvp_error *e)
{
    json_error_t je;
    uint64_t n = 0;

    if (m->bytes < 8)
        return kvp_fail(e, KVP_EINPUT, "%s: %zu bytes, too short for a safetensors file", m->path, m->bytes);
    for (int i = 7; i >= 0; i--)
        n = n << 8 | m->base[i];
    if (n > ST_HEADER_MAX || n > m->bytes - 8)
        return kvp_fail(e, KVP_EINPUT, "%s: the header is said to take %" PRIu64 " bytes of a file of %zu", m->path,
                        n, m->bytes);
    *data_at = 8 + n;
    m->header = json_loadb((const char *)m->base + 8, (size_t)n, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(m->header))
        return kvp_fail(e, KVP_EINPUT, "%s: the header is not a JSON object%s%s", m->path, m->header ? "" : ": ",
                        m->header ? "" : je.text);
    return KVP_OK;
}

static kvp_err read_shape(struct st_tensor *t, const json_t *shape, struct kvp_error *e)
{
    size_t i;
    json_t *v;

    if (!json_is_array(shape) || json_array_size(shape) > ST_DIMS)
        return kvp_fail(e, KVP_EINPUT, "%s: %s: shape is not a list of at most %d sizes", t->file, t->name, ST_DIMS);
    t->count = 1;
    json_array_foreach(shape, i, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return kvp_fail(e, KVP_EINPUT, "%s: %s: shape holds what is not a size", t->file, t->name);
        t->shape[t->dims++] = (uint64_t)json_integer_value(v);
        if (__builtin_mul_overflow(t->count, (uint64_t)json_integer_value(v), &t->count))
            return kvp_fail(e, KVP_EINPUT, "%s: %s: the shape's product overflows", t->file, t->name);
    }
    return KVP_OK;
}

static kvp_err read_dtype(struct st_tensor *t, const char *word, uint64_t *bytes, struct kvp_error *e)
{
    for (size_t i = 0; word && i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        if (strcmp(dtypes[i].name, word) == 0) {
            snprintf(t->dtype, sizeof(t->dtype), "%s", word);
            t->format = dtypes[i].format;
            *bytes = dtypes[i].bytes;
            return KVP_OK;
        }
    return kvp_fail(e, KVP_EINPUT, "%s: %s: dtype %.40s is not one of the format's", t->file, t->name,
                    word ? word : "(none)");
}

/* `v` is the header's value for t->name; `data` and `size` the file's data area. */
static kvp_err read_tensor(struct st_tensor *t, const json_t *v, const unsigned char *data, uint64_t size,
                           struct kvp_error *e)
{
    const json_t *offsets = json_object_get(v, "data_offsets");
    const json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    uint64_t bytes = 0, want;

    KVP_TRY(read_dtype(t, json_string_value(json_object_get(v, "dtype")), &bytes, e));
    KVP_TRY(read_shape(t, json_object_get(v, "shape"), e));
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return kvp_fail(e, KVP_EINPUT, "%s: %s: data_offsets is not a pair of integers", t->file, t->name);
    if (json_integer_value(from) < 0 || json_integer_value(to) < json_integer_value(from) ||
        (uint64_t)json_integer_value(to) > size)
        return kvp_fail(e, KVP_EINPUT, "%s: %s: data_offsets [%" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT
                        "] leave the file's %" PRIu64 " bytes of data", t->file, t->name, json_integer_value(from),
                        json_integer_value(to), size);
    if (__builtin_mul_overflow(t->count, bytes, &want) ||
        want != (uint64_t)(json_integer_value(to) - json_integer_value(from)))
        return kvp_fail(e, KVP_EINPUT, "%s: %s: %" JSON_INTEGER_FORMAT " bytes do not fit its shape and dtype", t->file,
                        t->name, json_integer_value(to) - json_integer_value(from));
    t->data = data + json_integer_value(from);
    return KVP_OK;
}

/* Where a tensor's data ends; the format counts whole bytes only. */
static const unsigned char *data_end(const struct st_tensor *t)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        if (strcmp(dtypes[i].name, t->dtype) == 0)
            bytes = dtypes[i].bytes;
    return t->data + t->count * bytes;
}

static int by_place(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;

    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->count < y->count ? -1 : x->count > y->count; /* empty tensors first */
}

static kvp_err check_cover(struct st_tensor *t, size_t n, const struct st_map *m, const unsigned char *data,
                           struct kvp_error *e)
{
    const unsigned char *at = data;

    qsort(t, n, sizeof(*t), by_place);
    for (size_t i = 0; i < n; i++) {
        if (t[i].data != at)
            return kvp_fail(e, KVP_EINPUT, "%s: %s: its data %s", m->path, t[i].name,
                            t[i].data < at ? "overlaps another tensor's" : "follows a hole");
        at = data_end(&t[i]);
    }
    if (at != m->base + m->bytes)
        return kvp_fail(e, KVP_EINPUT, "%s: %zu bytes of data belong to no tensor", m->path,
                        (size_t)(m->base + m->bytes - at));
    return KVP_OK;
}

static kvp_err read_file(struct st_files *s, struct st_map *m, struct kvp_error *e)
{
    const unsigned char *data;
    struct st_tensor *more;
    uint64_t data_at = 0;
    const char *name;
    json_t *v;
    size_t first = s->n_tensors;

    KVP_TRY(map_file(m, e));
    KVP_TRY(read_header(m, &data_at, e));
    more = realloc(s->tensors, (first + json_object_size(m->header) + 1) * sizeof(*more));
    if (!more)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for the tensors of %s", m->path);
    s->tensors = more;
    data = m->base + data_at;
    json_object_foreach(m->header, name, v) {
        struct st_tensor *t = &s->tensors[s->n_tensors];

        if (strcmp(name, "__metadata__") == 0)
            continue;
        *t = (struct st_tensor){.name = name, .file = m->path};
        KVP_TRY(read_tensor(t, v, data, m->bytes - data_at, e));
        s->n_tensors++;
    }
    return check_cover(s->tensors + first, s->n_tensors - first, m, data, e);
}

static kvp_err add_file(struct st_files *s, const char *dir, const char *file, struct kvp_error *e)
{
    struct st_map *maps = realloc(s->maps, (s->n_maps + 1) * sizeof(*maps));
    struct st_map *m;

    if (!maps)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %s", file);
    s->maps = maps;
    m = &maps[s->n_maps];
    *m = (struct st_map){0};
    if (asprintf(&m->path, "%s%s%s", dir ? dir : "", dir ? "/" : "", file) < 0) {
        m->path = NULL;
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %s", file);
    }
    s->n_maps++;
    return read_file(s, m, e);
}

/* ---- a directory -------------------------------------------------------------------------------- */

static bool have_file(const struct st_files *s, const char *dir, const char *file)
{
    const size_t skip = strlen(dir) + 1;

    for (size_t i = 0; i < s->n_maps; i++)
        if (strcmp(s->maps[i].path + skip, file) == 0)
            return true;
    return false;
}

static kvp_err open_shards(struct st_files *s, const char *dir, const char *index, const json_t *map, struct kvp_error *e)
{
    const char *name;
    json_t *v;

    if (!json_is_object(map))
        return kvp_fail(e, KVP_EINPUT, "%s: no weight_map object", index);
    json_object_foreach((json_t *)map, name, v) {
        const char *file = json_string_value(v);

        if (!file || !*file || strchr(file, '/'))
            return kvp_fail(e, KVP_EINPUT, "%s: weight_map: %s: expected the name of a file in the same directory",
                            index, name);
        if (!have_file(s, dir, file))
            KVP_TRY(add_file(s, dir, file, e));
    }
    return KVP_OK;
}

static kvp_err open_index(struct st_files *s, const char *dir, const char *index, struct kvp_error *e)
{
    json_error_t je;
    json_t *root = json_load_file(index, JSON_REJECT_DUPLICATES, &je);
    kvp_err rc;

    if (!root && access(index, F_OK) != 0)
        return kvp_fail(e, KVP_EINPUT, "%s: holds neither model.safetensors nor model.safetensors.index.json", dir);
    if (!root)
        return kvp_fail(e, KVP_EINPUT, "%s: line %d: %s", index, je.line, je.text);
    rc = open_shards(s, dir, index, json_object_get(root, "weight_map"), e);
    json_decref(root);
    return rc;
}

static kvp_err open_dir(struct st_files *s, const char *dir, struct kvp_error *e)
{
    char *path;
    kvp_err rc;

    if (asprintf(&path, "%s/model.safetensors", dir) < 0)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %s", dir);
    rc = access(path, F_OK) == 0 ? KVP_OK : KVP_NO;
    free(path);
    if (rc == KVP_OK)
        return add_file(s, dir, "model.safetensors", e);
    if (asprintf(&path, "%s/model.safetensors.index.json", dir) < 0)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %s", dir);
    rc = open_index(s, dir, path, e);
    free(path);
    return rc;
}

/* ---- all of it ---------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

static kvp_err sort_names(struct st_files *s, struct kvp_error *e)
{
    if (s->n_tensors)
        qsort(s->tensors, s->n_tensors, sizeof(*s->tensors), by_name);
    for (size_t i = 1; i < s->n_tensors; i++)
        if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0)
            return kvp_fail(e, KVP_EINPUT, "%s: %s: also in %s", s->tensors[i].file, s->tensors[i].name,
                            s->tensors[i - 1].file);
    return KVP_OK;
}

kvp_err st_open(struct st_files **out, const char *path, struct kvp_error *e)
{
    struct st_files *s = calloc(1, sizeof(*s));
    struct stat st;
    kvp_err rc;

    *out = NULL;
    if (!s)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %s", path);
    if (stat(path, &st) != 0)
        rc = kvp_fail(e, KVP_EINPUT, "%s: %s", path, strerror(errno));
    else
        rc = S_ISDIR(st.st_mode) ? open_dir(s, path, e) : add_file(s, NULL, path, e);
    if (rc == KVP_OK)
        rc = sort_names(s, e);
    if (rc != KVP_OK) {
        st_close(s);
        return rc;
    }
    *out = s;
    return KVP_OK;
}

void st_close(struct st_files *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_maps; i++) {
        if (s->maps[i].base && s->maps[i].base != MAP_FAILED)
            munmap(s->maps[i].base, s->maps[i].bytes);
        json_decref(s->maps[i].header);
        free(s->maps[i].path);
    }
    free(s->maps);
    free(s->tensors);
    free(s);
}

struct st_tensor *st_find(struct st_files *s, const char *name)
{
    const struct st_tensor key = {.name = name};

    return s->n_tensors ? bsearch(&key, s->tensors, s->n_tensors, sizeof(key), by_name) : NULL;
}

struct st_tensor *st_at(struct st_files *s, uint64_t i)
{
    return i < s->n_tensors ? &s->tensors[i] : NULL;
}

void st_shape_text(uint32_t dims, const uint64_t *shape, char *buf, size_t n)
{
    size_t used = (size_t)snprintf(buf, n, "[");

    for (uint32_t i = 0; i < dims && used < n; i++)
        used += (size_t)snprintf(buf + used, n - used, "%s%" PRIu64, i ? ", " : "", shape[i]);
    if (used < n)
        snprintf(buf + used, n - used, "]");
}
