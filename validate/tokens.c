#include "validate/tokens.h"

#include <errno.h>
#include <gsl/gsl_rng.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The next id of a file; *end when there is none. */
static kvp_err next_id(FILE *f, const char *file, uint64_t index, long long *id, bool *end, struct kvp_error *e)
{
    char word[32];
    char *stop;
    int got = fscanf(f, "%31s", word);

    *end = got == EOF;
    if (*end)
        return ferror(f) ? kvp_fail(e, KVP_ESYS, "%s: %s", file, strerror(errno)) : KVP_OK;
    errno = 0;
    *id = strtoll(word, &stop, 10);
    if (errno || *stop || *id < 0)
        return kvp_fail(e, KVP_EINPUT, "%s: token %" PRIu64 " is '%s', expected a non-negative integer", file,
                        index, word);
    return KVP_OK;
}

static kvp_err read_ids(const char *file, int32_t *out, uint64_t want, uint32_t vocab, uint64_t *n,
                        struct kvp_error *e)
{
    FILE *f = fopen(file, "r");
    long long id = 0;
    bool end = false;
    kvp_err rc = KVP_OK;

    if (!f)
        return kvp_fail(e, KVP_EINPUT, "%s: %s", file, strerror(errno));
    for (*n = 0; rc == KVP_OK; (*n)++) {
        rc = next_id(f, file, *n, &id, &end, e);
        if (rc != KVP_OK || end)
            break;
        if (out && id >= (long long)vocab)
            rc = kvp_fail(e, KVP_EINPUT, "%s: token %" PRIu64 " is %lld, the vocabulary has %u", file, *n, id, vocab);
        else if (out && *n < want)
            out[*n] = (int32_t)id;
    }
    fclose(f);
    return rc;
}

kvp_err tokens_count(const char *file, uint64_t *n, struct kvp_error *e)
{
    return read_ids(file, NULL, 0, 0, n, e);
}

static kvp_err from_file(struct tokens *t, const char *file, uint32_t vocab, struct kvp_error *e)
{
    const uint64_t want = t->n_prompt + t->n_rest;
    int32_t *all;
    uint64_t n = 0;
    kvp_err rc;

    if (t->batch != 1)
        return kvp_fail(e, KVP_EINPUT, "--tokens %s: one sequence, so --batch must be 1", file);
    all = malloc((size_t)want * sizeof(*all));
    if (!all)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for tokens");
    rc = read_ids(file, all, want, vocab, &n, e);
    if (rc == KVP_OK && n != want)
        rc = kvp_fail(e, KVP_EINPUT, "--tokens %s: holds %" PRIu64 " tokens, the context is %" PRIu64, file, n, want);
    if (rc == KVP_OK) {
        memcpy(t->prompt, all, (size_t)t->n_prompt * sizeof(*all));
        memcpy(t->rest, all + t->n_prompt, (size_t)t->n_rest * sizeof(*all));
    }
    free(all);
    return rc;
}

static kvp_err at_random(struct tokens *t, uint32_t vocab, uint64_t seed, struct kvp_error *e)
{
    gsl_rng *g = gsl_rng_alloc(gsl_rng_mt19937);

    if (!g)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for the random generator");
    gsl_rng_set(g, (unsigned long)seed + 1); /* 0 would mean GSL's own default */
    for (uint64_t i = 0; i < t->batch * t->n_prompt; i++)
        t->prompt[i] = (int32_t)gsl_rng_uniform_int(g, vocab);
    for (uint64_t i = 0; i < t->batch * t->n_rest; i++)
        t->rest[i] = (int32_t)gsl_rng_uniform_int(g, vocab);
    gsl_rng_free(g);
    return KVP_OK;
}

kvp_err tokens_load(struct tokens *t, const char *file, uint32_t vocab, const struct kvp_workload *w,
                    uint64_t seed, struct kvp_error *e)
{
    kvp_err rc;

    *t = (struct tokens){.batch = w->batch, .n_prompt = w->prompt, .n_rest = w->generate};
    if (w->context > (UINT64_MAX >> 8) / w->batch)
        return kvp_fail(e, KVP_ERANGE, "batch times context overflows");
    t->prompt = malloc((size_t)(t->batch * t->n_prompt + 1) * sizeof(*t->prompt));
    t->rest = malloc((size_t)(t->batch * t->n_rest + 1) * sizeof(*t->rest));
    if (!t->prompt || !t->rest)
        rc = kvp_fail(e, KVP_ENOMEM, "out of memory for tokens");
    else
        rc = file ? from_file(t, file, vocab, e) : at_random(t, vocab, seed, e);
    if (rc != KVP_OK)
        tokens_free(t);
    return rc;
}

void tokens_share(struct tokens *t, uint64_t n)
{
    for (uint64_t b = 1; b < t->batch; b++)
        memcpy(t->prompt + b * t->n_prompt, t->prompt, (size_t)(n < t->n_prompt ? n : t->n_prompt) * sizeof(*t->prompt));
}

void tokens_free(struct tokens *t)
{
    free(t->prompt);
    free(t->rest);
    t->prompt = t->rest = NULL;
}

/* A device, a pipe or a link is what the user wants written to, not a name to put a file in the place of. */
static bool in_place(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

static bool is_dir(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

kvp_err out_check(const char *path, struct kvp_error *e)
{
    struct out_file o;

    if (!path || in_place(path))
        return KVP_OK;
    KVP_TRY(out_open(&o, path, e));
    out_abort(&o);
    return KVP_OK;
}

kvp_err out_open(struct out_file *o, const char *path, struct kvp_error *e)
{
    int fd;

    *o = (struct out_file){.path = path};
    if (path && is_dir(path))
        return kvp_fail(e, KVP_ESYS, "%s: cannot write: %s", path, strerror(EISDIR));
    if (path && in_place(path)) {
        o->f = fopen(path, "w");
        return o->f ? KVP_OK : kvp_fail(e, KVP_ESYS, "%s: cannot write: %s", path, strerror(errno));
    }
    if (!path) {
        o->f = open_memstream(&o->text, &o->size);
        return o->f ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "out of memory for output");
    }
    if (asprintf(&o->temp, "%s.XXXXXX", path) < 0)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for output");
    fd = mkstemp(o->temp);
    if (fd >= 0)
        fchmod(fd, 0644);
    o->f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!o->f) {
        kvp_fail(e, KVP_ESYS, "%s: cannot write: %s", path, strerror(errno));
        free(o->temp);
        o->temp = NULL;
        return KVP_ESYS;
    }
    return KVP_OK;
}

static kvp_err commit_stdout(struct out_file *o, struct kvp_error *e)
{
    const bool bad = fclose(o->f) != 0;
    const bool short_write = bad || fwrite(o->text, 1, o->size, stdout) != o->size || fflush(stdout) != 0;

    free(o->text);
    return short_write ? kvp_fail(e, KVP_ESYS, "writing to stdout failed: %s", strerror(errno)) : KVP_OK;
}

kvp_err out_commit(struct out_file *o, struct kvp_error *e)
{
    kvp_err rc = KVP_OK;
    bool bad;

    if (!o->path)
        return commit_stdout(o, e);
    bad = ferror(o->f) != 0;
    bad = fclose(o->f) != 0 || bad;
    if (bad || (o->temp && rename(o->temp, o->path) != 0)) {
        rc = kvp_fail(e, KVP_ESYS, "%s: cannot write: %s", o->path, strerror(errno));
        if (o->temp)
            unlink(o->temp);
    }
    free(o->temp);
    return rc;
}

void out_abort(struct out_file *o)
{
    fclose(o->f);
    free(o->text);
    if (o->temp)
        unlink(o->temp);
    free(o->temp);
}

kvp_err logit_file_open(struct logit_file *l, const char *path, uint64_t rows, uint32_t vocab, struct kvp_error *e)
{
    *l = (struct logit_file){.vocab = vocab};
    if (rows > SIZE_MAX / sizeof(float) / vocab || !(l->rows = malloc((size_t)rows * vocab * sizeof(float))))
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu64 " rows of logits", rows);
    l->open = out_open(&l->o, path, e) == KVP_OK;
    if (!l->open)
        logit_file_abort(l);
    return l->open ? KVP_OK : KVP_ESYS;
}

float *logit_file_row(struct logit_file *l)
{
    return l && l->open ? l->rows : NULL;
}

kvp_err logit_file_write(struct logit_file *l, uint64_t rows, struct kvp_error *e)
{
    const size_t n = l && l->open ? (size_t)(rows * l->vocab) : 0;

    if (n && fwrite(l->rows, sizeof(float), n, l->o.f) != n)
        return kvp_fail(e, KVP_ESYS, "%s: cannot write: %s", l->o.path, strerror(errno));
    return KVP_OK;
}

kvp_err logit_file_commit(struct logit_file *l, struct kvp_error *e)
{
    if (!l->open)
        return KVP_OK;
    l->open = false;
    return out_commit(&l->o, e);
}

void logit_file_abort(struct logit_file *l)
{
    if (l->open)
        out_abort(&l->o);
    free(l->rows);
    *l = (struct logit_file){0};
}
