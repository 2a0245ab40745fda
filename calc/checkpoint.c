/* checkpoint.c - a checkpoint's files, found and read as far as their headers go. */
#include "calc/checkpoint.h"

#include "calc/num.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIRST_READ = 1 << 16, LARGEST_INDEX = 100000000, MOST_SPLITS = 1000 };

/* ---- tensors ----------------------------------------------------------------------------------------- */

kvp_err ckpt_add(struct checkpoint *c, const char *name, size_t len, struct ckpt_tensor **out, struct kvp_error *e)
{
    struct ckpt_tensor *v;
    const size_t cap = c->cap ? 2 * c->cap : 256;

    if (memchr(name, 0, len))
        return kvp_fail(e, KVP_EINPUT, "%.80s: a tensor's name holds a zero byte", name);
    if (c->n == c->cap) {
        v = realloc(c->v, cap * sizeof(*v));
        if (!v)
            return kvp_fail(e, KVP_ENOMEM, "out of memory for %zu tensors", cap);
        c->v = v;
        c->cap = cap;
    }
    *out = &c->v[c->n];
    **out = (struct ckpt_tensor){.name = strndup(name, len), .file = c->n_files};
    if (!(*out)->name)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %zu tensors", c->n);
    c->n++;
    return KVP_OK;
}

kvp_err ckpt_count(struct ckpt_tensor *t, const char *origin, struct kvp_error *e)
{
    bool over = false;

    t->elements = num_product(&over, t->shape, t->dims);
    return over ? kvp_fail(e, KVP_EINPUT, "%s: %.80s: the product of its sizes does not fit in 63 bits", origin, t->name) : KVP_OK;
}

static int by_place(const void *a, const void *b)
{
    const struct ckpt_tensor *x = a, *y = b;

    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* empty ones first */
}

kvp_err ckpt_places(struct checkpoint *c, size_t first, uint64_t data_bytes, bool whole, const char *origin, struct kvp_error *e)
{
    uint64_t end = 0;

    if (c->n > first)
        qsort(c->v + first, c->n - first, sizeof(*c->v), by_place);
    for (size_t i = first; i < c->n; i++) {
        const struct ckpt_tensor *t = &c->v[i];

        if (t->from < end)
            return kvp_fail(e, KVP_EINPUT, "%s: %.80s: its data overlap %.80s's", origin, t->name, c->v[i - 1].name);
        if (whole && t->from > end)
            return kvp_fail(e, KVP_EINPUT, "%s: %.80s: %" PRIu64 " bytes before its data belong to no tensor", origin, t->name, t->from - end);
        end = t->from + t->bytes;
    }
    if (whole && end != data_bytes)
        return kvp_fail(e, KVP_EINPUT, "%s: %" PRIu64 " bytes at its end belong to no tensor", origin, data_bytes - end);
    return KVP_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct ckpt_tensor *)a)->name, ((const struct ckpt_tensor *)b)->name);
}

kvp_err ckpt_sort(struct checkpoint *c, const char *origin, struct kvp_error *e)
{
    if (c->n)
        qsort(c->v, c->n, sizeof(*c->v), by_name);
    for (size_t i = 1; i < c->n; i++)
        if (by_name(&c->v[i - 1], &c->v[i]) == 0)
            return kvp_fail(e, KVP_EINPUT, "%s: the tensor %.80s is there twice", origin, c->v[i].name);
    return KVP_OK;
}

const struct ckpt_tensor *ckpt_find(const struct checkpoint *c, const char *name)
{
    struct ckpt_tensor key = {0};
    char copy[256];

    if (!c->n || strlen(name) >= sizeof(copy))
        return NULL;
    strcpy(copy, name);
    key.name = copy;
    return bsearch(&key, c->v, c->n, sizeof(*c->v), by_name);
}

static void drop_tensors(struct checkpoint *c, size_t first)
{
    while (c->n > first)
        free(c->v[--c->n].name);
}

void ckpt_free(struct checkpoint *c)
{
    drop_tensors(c, 0);
    free(c->v);
    free(c->kv);
    free(c->header);
    for (uint32_t i = 0; i < c->n_files; i++)
        free(c->files[i]);
    free(c->files);
    *c = (struct checkpoint){0};
}

/* ---- one file ---------------------------------------------------------------------------------------- */

kvp_err ckpt_parse(struct checkpoint *c, const unsigned char *head, size_t len, uint64_t file_bytes, const char *origin,
                   size_t *need, struct kvp_error *e)
{
    const size_t first = c->n, first_kv = c->n_kv;
    kvp_err rc;

    if (len > file_bytes)
        len = (size_t)file_bytes;
    if (len < 4 && file_bytes >= 4) {
        *need = 4;
        return KVP_NO;
    }
    rc = (len >= 4 && memcmp(head, "GGUF", 4) == 0 ? ckpt_gguf : ckpt_safetensors)(c, head, len, file_bytes, origin, need, e);
    if (rc == KVP_NO) {
        drop_tensors(c, first);
        c->n_kv = first_kv;
    }
    return rc;
}

static kvp_err read_up_to(int fd, unsigned char *buf, size_t have, size_t want, const char *path, struct kvp_error *e)
{
    while (have < want) {
        const ssize_t n = pread(fd, buf + have, want - have, (off_t)have);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return kvp_fail(e, KVP_ESYS, "%s: %s", path, strerror(errno));
        if (n == 0)
            return kvp_fail(e, KVP_EINPUT, "%s: it became shorter while it was read", path);
        have += (size_t)n;
    }
    return KVP_OK;
}

/* Parse more and more of the file's beginning, until it is all of the header. */
static kvp_err read_header(struct checkpoint *c, int fd, uint64_t file_bytes, const char *path, struct kvp_error *e)
{
    size_t have = 0, want = (size_t)num_min(FIRST_READ, file_bytes);

    for (;;) {
        unsigned char *more = realloc(c->header, want + 1);
        kvp_err rc;

        if (!more)
            return kvp_fail(e, KVP_ENOMEM, "%s: out of memory for a header of %zu bytes", path, want);
        c->header = more;
        KVP_TRY(read_up_to(fd, c->header, have, want, path, e));
        have = want;
        rc = ckpt_parse(c, c->header, have, file_bytes, path, &want, e);
        if (rc != KVP_NO)
            return rc;
        want = (size_t)num_min(num_max(want, 2 * have), file_bytes);
    }
}

static kvp_err open_file(struct checkpoint *c, const char *path, struct kvp_error *e)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    kvp_err rc;

    if (fd < 0)
        return kvp_fail(e, KVP_EINPUT, "%s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = kvp_fail(e, KVP_EINPUT, "%s: expected a regular file", path);
    else
        rc = read_header(c, fd, (uint64_t)st.st_size, path, e);
    close(fd);
    return rc;
}

static kvp_err remember_file(struct checkpoint *c, const char *path, struct kvp_error *e)
{
    char **files = realloc(c->files, (c->n_files + 1) * sizeof(*files));

    if (files)
        c->files = files;
    if (!files || !(files[c->n_files] = strdup(path)))
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %s", path);
    c->n_files++;
    return KVP_OK;
}

/* Move the tensors of one file; the first file's metadata too. */
static kvp_err adopt(struct checkpoint *c, struct checkpoint *one, struct kvp_error *e)
{
    struct ckpt_tensor *v = realloc(c->v, (c->n + one->n + 1) * sizeof(*v));

    if (!v)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %zu tensors", one->n);
    c->v = v;
    if (one->n)
        memcpy(v + c->n, one->v, one->n * sizeof(*v));
    for (size_t i = 0; i < one->n; i++)
        v[c->n + i].file = c->n_files;
    c->n += one->n;
    c->cap = c->n + 1;
    one->n = 0;
    if (!c->n_files && one->gguf) {
        c->gguf = true;
        c->header = one->header;
        c->kv = one->kv;
        c->n_kv = one->n_kv;
        one->header = NULL;
        one->kv = NULL;
    }
    return KVP_OK;
}

static kvp_err add_file(struct checkpoint *c, const char *path, struct kvp_error *e)
{
    struct checkpoint one = {0};
    kvp_err rc = open_file(&one, path, e);

    if (rc == KVP_OK && c->n_files && one.gguf != c->gguf)
        rc = kvp_fail(e, KVP_EINPUT, "%s: expected the format of %s", path, c->files[0]);
    if (rc == KVP_OK)
        rc = adopt(c, &one, e);
    if (rc == KVP_OK)
        rc = remember_file(c, path, e);
    ckpt_free(&one);
    return rc;
}

/* ---- several ----------------------------------------------------------------------------------------- */

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);

    return n >= k && strcmp(s + n - k, end) == 0;
}

static bool exists(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0;
}

static kvp_err join(char *buf, size_t n, const char *dir, const char *name, struct kvp_error *e)
{
    const int w = snprintf(buf, n, "%s/%s", dir, name);

    return w > 0 && (size_t)w < n ? KVP_OK : kvp_fail(e, KVP_EINPUT, "%.200s...: the path is too long", dir);
}

/* The other parts of NAME-00001-of-00003.gguf (llama.cpp's gguf-split); split.count says how many. */
static kvp_err add_splits(struct checkpoint *c, const char *path, struct kvp_error *e)
{
    static const char pattern[] = "-00001-of-00000.gguf";
    const size_t n = strlen(path), tail = sizeof(pattern) - 1;
    char part[PATH_MAX], want[sizeof(pattern) + 16];
    uint64_t count = 1;

    if (!ckpt_kv_u64(ckpt_key(c, "split.count"), 0, &count) || count < 2)
        return KVP_OK;
    snprintf(want, sizeof(want), "-00001-of-%05u.gguf", (unsigned)num_min(count, 99999));
    if (count > MOST_SPLITS || n < tail || n >= sizeof(part) || strcmp(path + n - tail, want) != 0)
        return kvp_fail(e, KVP_EINPUT, "%s: one of %" PRIu64 " parts; expected the first, NAME%s", path, count, want);
    for (unsigned i = 2; i <= count; i++) {
        memcpy(part, path, n + 1);
        snprintf(part + n - tail, tail + 1, "-%05u-of-%05u.gguf", i % 100000, (unsigned)count % 100000);
        if (!exists(part))
            return kvp_fail(e, KVP_EINPUT, "%s: missing, and %s is one of %" PRIu64 " parts", part, path, count);
        KVP_TRY(add_file(c, part, e));
    }
    return KVP_OK;
}

static kvp_err load_index(json_t **root, const char *path, struct kvp_error *e)
{
    json_error_t je;
    struct stat st;

    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > LARGEST_INDEX)
        return kvp_fail(e, KVP_EINPUT, "%s: expected a file of at most %d bytes", path, LARGEST_INDEX);
    *root = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    if (!*root)
        return kvp_fail(e, KVP_EINPUT, "%s: line %d: %.200s", path, je.line, je.text);
    return KVP_OK;
}

static kvp_err add_shard(struct checkpoint *c, const char *dir, const char *file, const char *index, struct kvp_error *e)
{
    char path[PATH_MAX];

    KVP_TRY(join(path, sizeof(path), dir, file, e));
    for (uint32_t i = c->n_files; i-- > 0;)
        if (strcmp(c->files[i], path) == 0)
            return KVP_OK;
    if (!exists(path))
        return kvp_fail(e, KVP_EINPUT, "%s: missing, and %.200s names it: is the download finished?", path, index);
    return add_file(c, path, e);
}

static kvp_err check_map(const struct checkpoint *c, json_t *map, const char *index, struct kvp_error *e)
{
    const char *name;
    json_t *v;

    json_object_foreach(map, name, v) {
        const struct ckpt_tensor *t = ckpt_find(c, name);
        const char *slash = t ? strrchr(c->files[t->file], '/') : NULL;

        if (!slash || strcmp(slash + 1, json_string_value(v)) != 0)
            return kvp_fail(e, KVP_EINPUT, "%s: weight_map: %.80s is not in %.80s", index, name, json_string_value(v));
    }
    return KVP_OK;
}

static kvp_err read_map(struct checkpoint *c, json_t *map, const char *dir, const char *index, struct kvp_error *e)
{
    const char *name;
    json_t *v;

    if (!json_is_object(map) || !json_object_size(map))
        return kvp_fail(e, KVP_EINPUT, "%s: weight_map: expected an object of tensors and their files", index);
    json_object_foreach(map, name, v) {
        const char *file = json_string_value(v);

        if (!file || !ends_with(file, ".safetensors") || strchr(file, '/'))
            return kvp_fail(e, KVP_EINPUT, "%s: weight_map: %.80s: expected the name of a .safetensors file in the same directory", index, name);
        KVP_TRY(add_shard(c, dir, file, index, e));
    }
    KVP_TRY(ckpt_sort(c, index, e));
    return check_map(c, map, index, e);
}

static kvp_err open_index(struct checkpoint *c, const char *dir, const char *index, struct kvp_error *e)
{
    json_t *root = NULL;
    kvp_err rc;

    KVP_TRY(load_index(&root, index, e));
    rc = read_map(c, json_object_get(root, "weight_map"), dir, index, e);
    json_decref(root);
    return rc;
}

/* How many .safetensors there are, and the name of one. */
static size_t count_safetensors(const char *dir, char *name, size_t n)
{
    size_t count = 0;
    struct dirent *d;
    DIR *all = opendir(dir);

    while (all && (d = readdir(all)) != NULL)
        if (ends_with(d->d_name, ".safetensors") && strlen(d->d_name) < n) {
            strcpy(name, d->d_name);
            count++;
        }
    if (all)
        closedir(all);
    return count;
}

static kvp_err open_dir(struct checkpoint *c, const char *dir, struct kvp_error *e)
{
    char path[PATH_MAX], name[NAME_MAX + 1] = "model.safetensors";
    size_t n = 1;

    KVP_TRY(join(path, sizeof(path), dir, name, e));
    if (!exists(path)) {
        KVP_TRY(join(path, sizeof(path), dir, "model.safetensors.index.json", e));
        if (exists(path))
            return open_index(c, dir, path, e);
        n = count_safetensors(dir, name, sizeof(name));
    }
    if (n != 1)
        return kvp_fail(e, KVP_EINPUT, "%s: %zu .safetensors files and no model.safetensors.index.json that says which count", dir, n);
    KVP_TRY(join(path, sizeof(path), dir, name, e));
    KVP_TRY(add_file(c, path, e));
    return ckpt_sort(c, path, e);
}

bool ckpt_in_dir(const char *dir)
{
    char path[PATH_MAX], name[NAME_MAX + 1];

    if (count_safetensors(dir, name, sizeof(name)))
        return true;
    return join(path, sizeof(path), dir, "model.safetensors.index.json", NULL) == KVP_OK && exists(path);
}

bool ckpt_is_gguf(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    char magic[4] = "";
    const bool is = fd >= 0 && pread(fd, magic, sizeof(magic), 0) == sizeof(magic) && memcmp(magic, "GGUF", sizeof(magic)) == 0;

    if (fd >= 0)
        close(fd);
    return is;
}

kvp_err ckpt_open(struct checkpoint *c, const char *path, struct kvp_error *e)
{
    struct stat st;
    kvp_err rc;

    *c = (struct checkpoint){0};
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        rc = open_dir(c, path, e);
    } else {
        rc = add_file(c, path, e);
        if (rc == KVP_OK)
            rc = add_splits(c, path, e);
        if (rc == KVP_OK)
            rc = ckpt_sort(c, path, e);
    }
    if (rc != KVP_OK)
        ckpt_free(c);
    return rc;
}
