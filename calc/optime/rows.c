#include "calc/optime/rows.h"

#include "calc/json.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLUMNS = 64, MAX_NEEDS = 12, MAX_WORD = 96 };

struct reader {
    struct optime_file *f;
    const char *path;
    struct kvp_error *e;
    uint32_t line;
    uint32_t columns;
    struct field {
        const char *at;
        size_t len;
    } name[MAX_COLUMNS], value[MAX_COLUMNS];
    int latency;               /* its column, or -1 */
    int need[MAX_NEEDS];       /* the kind's columns */
    bool numeric[MAX_COLUMNS]; /* of the kind, or the latency: not part of a class's name */
    char word[MAX_WORD];
};

static uint32_t split(const char *line, size_t len, struct field *out)
{
    uint32_t n = 0;

    for (const char *p = line, *end = line + len; n < MAX_COLUMNS; p++) {
        const char *comma = memchr(p, ',', (size_t)(end - p));

        out[n++] = (struct field){p, (size_t)((comma ? comma : end) - p)};
        if (!comma)
            break;
        p = comma;
    }
    return n;
}

static int column(const struct reader *r, const char *name)
{
    for (uint32_t i = 0; i < r->columns; i++)
        if (r->name[i].len == strlen(name) && memcmp(r->name[i].at, name, r->name[i].len) == 0)
            return (int)i;
    return -1;
}

static kvp_err find_kind(struct reader *r)
{
    const struct optime_kind *k;

    for (uint32_t i = 0; (k = optime_kind_at(i)); i++) {
        bool all = true;

        for (int c = 0; c < MAX_NEEDS && k->needs[c]; c++)
            all = all && column(r, k->needs[c]) >= 0;
        if (!all)
            continue;
        r->f->kind = k;
        for (int c = 0; c < MAX_NEEDS && k->needs[c]; c++) {
            r->need[c] = column(r, k->needs[c]);
            r->numeric[r->need[c]] = true;
        }
        return KVP_OK;
    }
    return kvp_fail(r->e, KVP_EINPUT, "%s: its columns are those of no known op (decode_attention, prefill_attention, mla_decode, gemm, mamba2, gated_delta_net)",
                    r->path);
}

static kvp_err number(const struct reader *r, int col, double least, double *out)
{
    char text[64], *end;
    const struct field f = r->value[col];

    snprintf(text, sizeof(text), "%.*s", (int)(f.len < 60 ? f.len : 60), f.at);
    errno = 0;
    *out = strtod(text, &end);
    if (end != text && !*end && !errno && isfinite(*out) && *out >= least)
        return KVP_OK;
    return kvp_fail(r->e, KVP_EINPUT, "%s: line %" PRIu32 ": %.*s: expected a number of at least %g", r->path, r->line, (int)r->name[col].len,
                    r->name[col].at, least);
}

static const char *word_of(void *ctx, const char *name)
{
    struct reader *r = ctx;
    const int c = column(r, name);

    r->word[0] = '\0';
    if (c >= 0)
        snprintf(r->word, sizeof(r->word), "%.*s", (int)(r->value[c].len < MAX_WORD - 1 ? r->value[c].len : MAX_WORD - 1), r->value[c].at);
    return r->word;
}

/* The words of a row, and the numbers that are shape rather than size: head_dim decides which kernel runs. */
static kvp_err class_of(struct reader *r, uint32_t *out)
{
    char name[512] = "";
    char **list;
    size_t used = 0;

    for (uint32_t c = 0; c < r->columns; c++) {
        const bool kept = !r->numeric[c] || (int)c == column(r, "head_dim") || (int)c == column(r, "window_size");

        if (kept && used < sizeof(name))
            used += (size_t)snprintf(name + used, sizeof(name) - used, "%s%.*s", used ? "/" : "", (int)r->value[c].len, r->value[c].at);
    }
    for (*out = 0; *out < r->f->n_classes; ++*out)
        if (strcmp(r->f->cls[*out], name) == 0)
            return KVP_OK;
    list = realloc(r->f->cls, (r->f->n_classes + 1) * sizeof(*list));
    if (list)
        r->f->cls = list;
    if (!list || !(list[r->f->n_classes] = strdup(name)))
        return kvp_fail(r->e, KVP_ENOMEM, "out of memory");
    r->f->n_classes++;
    return KVP_OK;
}

static uint64_t cell_of(const struct reader *r)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

    for (int i = 0; i < 3 && r->f->kind->cell[i]; i++) {
        const struct field f = r->value[column(r, r->f->kind->cell[i])];

        for (size_t k = 0; k <= f.len; k++)
            hash = (hash ^ (uint64_t)(k < f.len ? (unsigned char)f.at[k] : ',')) * UINT64_C(1099511628211);
    }
    return hash;
}

static kvp_err read_row(struct reader *r, const char *line, size_t len, struct optime_row *out)
{
    double v[MAX_NEEDS] = {0};

    *out = (struct optime_row){.line = line, .len = len};
    if (split(line, len, r->value) != r->columns)
        return kvp_fail(r->e, KVP_EINPUT, "%s: line %" PRIu32 ": expected %" PRIu32 " columns", r->path, r->line, r->columns);
    for (int c = 0; c < MAX_NEEDS && r->f->kind->needs[c]; c++) {
        const char *name = r->f->kind->needs[c];
        const bool may_be_zero = strcmp(name, "step") == 0 || strcmp(name, "window_size") == 0 || strcmp(name, "seq_len") == 0;

        KVP_TRY(number(r, r->need[c], may_be_zero ? 0 : 1, &v[c]));
    }
    if (r->latency >= 0)
        KVP_TRY(number(r, r->latency, 1e-9, &out->ms));
    r->f->kind->work(v, word_of, r, out->term, out->at);
    out->cell = cell_of(r);
    return class_of(r, &out->cls);
}

static kvp_err read_rows(struct reader *r, const char *text)
{
    uint32_t cap = 0;

    for (const char *p = text; *p;) {
        size_t len = strcspn(p, "\n"), step = len + (p[len] == '\n');

        r->line++;
        len -= len && p[len - 1] == '\r';
        if (r->f->n == cap) {
            struct optime_row *more = realloc(r->f->row, (cap = cap ? 2 * cap : 1024) * sizeof(*more));

            if (!more)
                return kvp_fail(r->e, KVP_ENOMEM, "out of memory");
            r->f->row = more;
        }
        if (len)
            KVP_TRY(read_row(r, p, len, &r->f->row[r->f->n++]));
        p += step;
    }
    return r->f->n ? KVP_OK : kvp_fail(r->e, KVP_EINPUT, "%s: no rows", r->path);
}

static kvp_err read_file(struct reader *r, bool timed)
{
    const char *text = r->f->text;
    const size_t len = strcspn(text, "\r\n");

    r->line = 1;
    r->f->header = text;
    r->f->header_len = len;
    r->columns = split(text, len, r->name);
    r->latency = column(r, "latency_ms");
    if (timed && r->latency < 0)
        return kvp_fail(r->e, KVP_EINPUT, "%s: expected a column latency_ms", r->path);
    if (r->latency >= 0)
        r->numeric[r->latency] = true;
    KVP_TRY(find_kind(r));
    return read_rows(r, text + len + strspn(text + len, "\r\n"));
}

kvp_err optime_open(struct optime_file *out, const char *path, bool timed, struct kvp_error *e)
{
    struct reader *r = calloc(1, sizeof(*r));
    size_t len = 0;
    kvp_err rc;

    *out = (struct optime_file){0};
    if (!r)
        return kvp_fail(e, KVP_ENOMEM, "out of memory");
    *r = (struct reader){.f = out, .path = path, .e = e};
    rc = kvp_json_read_file(&out->text, &len, path, e);
    if (rc == KVP_OK && strlen(out->text) != len)
        rc = kvp_fail(e, KVP_EINPUT, "%s: expected text", path);
    if (rc == KVP_OK)
        rc = read_file(r, timed);
    free(r);
    if (rc != KVP_OK)
        optime_close(out);
    return rc;
}

void optime_close(struct optime_file *f)
{
    for (uint32_t i = 0; i < f->n_classes; i++)
        free(f->cls[i]);
    free(f->cls);
    free(f->row);
    free(f->text);
    *f = (struct optime_file){0};
}
