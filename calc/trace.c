/* trace.c - traces of requests: read, generated, written */
#include <kvproof/trace.h>

#include <errno.h>
#include <gsl/gsl_randist.h>
#include <gsl/gsl_rng.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MOONCAKE_PIECE = 512, MAX_REQUESTS = 1 << 24, MAX_TOKENS = 1 << 30 };
/* A request's own tokens: ids that no file can say, since these are below 2^62. */
#define OWN (UINT64_C(1) << 63)
/* Prefixes by number, which are not the pieces of hash_ids. */
#define PREFIX (UINT64_C(1) << 62)

struct reader {
    struct kvp_trace *t;
    const char *name;
    uint64_t line, limit, room, piece_room;
};

static kvp_err grow(void **v, uint64_t *room, uint64_t need, size_t size, struct kvp_error *e)
{
    uint64_t more = *room ? *room : 64;
    void *p;

    if (need <= *room)
        return KVP_OK;
    while (more < need)
        more *= 2;
    p = realloc(*v, more * size);
    if (!p)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a trace of %" PRIu64 " entries", more);
    *v = p;
    *room = more;
    return KVP_OK;
}

static kvp_err add_piece(struct reader *r, uint64_t id, uint64_t tokens, struct kvp_error *e)
{
    if (!tokens)
        return KVP_OK;
    KVP_TRY(grow((void **)&r->t->piece, &r->piece_room, r->t->n_pieces + 1, sizeof(*r->t->piece), e));
    r->t->piece[r->t->n_pieces++] = (struct kvp_piece){id, tokens};
    return KVP_OK;
}

/* The request behind the pieces that were added for it: what they do not cover is its own. */
static kvp_err add_request(struct reader *r, struct kvp_request q, struct kvp_error *e)
{
    uint64_t covered = 0;

    for (uint64_t i = q.first; i < r->t->n_pieces; i++)
        covered += r->t->piece[i].tokens;
    if (r->t->n >= MAX_REQUESTS)
        return kvp_fail(e, KVP_EINPUT, "%s: more than %d requests", r->name, MAX_REQUESTS);
    KVP_TRY(grow((void **)&r->t->request, &r->room, r->t->n + 1, sizeof(*r->t->request), e));
    KVP_TRY(add_piece(r, OWN + r->t->n, q.prompt - covered, e));
    q.pieces = r->t->n_pieces - q.first;
    q.output = q.output ? q.output : 1;
    r->t->request[r->t->n++] = q;
    return KVP_OK;
}

static kvp_err check_tokens(const struct reader *r, const char *key, uint64_t n, uint64_t least, struct kvp_error *e)
{
    if (n < least || n > MAX_TOKENS)
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": %s is %" PRIu64 ", expected %" PRIu64 " to %d", r->name, r->line, key, n,
                        least, MAX_TOKENS);
    return KVP_OK;
}

/* ---- JSON lines --------------------------------------------------------------------------------- */

/* An integer under `key`; *given = false when it is not there. */
static kvp_err json_count(const struct reader *r, const json_t *o, const char *key, uint64_t *out, bool *given, struct kvp_error *e)
{
    const json_t *v = json_object_get(o, key);

    *given = v != NULL;
    if (!v)
        return KVP_OK;
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": %s is no integer of 0 or more", r->name, r->line, key);
    *out = (uint64_t)json_integer_value(v);
    return KVP_OK;
}

/* Under either spelling. */
static kvp_err json_tokens(const struct reader *r, const json_t *o, const char *theirs, const char *ours, uint64_t least, uint64_t *out,
                           struct kvp_error *e)
{
    bool given;

    KVP_TRY(json_count(r, o, theirs, out, &given, e));
    if (!given)
        KVP_TRY(json_count(r, o, ours, out, &given, e));
    if (!given)
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": neither %s nor %s", r->name, r->line, theirs, ours);
    return check_tokens(r, ours, *out, least, e);
}

static kvp_err json_arrival(const struct reader *r, const json_t *o, double *out, struct kvp_error *e)
{
    const json_t *ms = json_object_get(o, "timestamp"), *s = json_object_get(o, "arrival");

    *out = json_number_value(ms ? ms : s) / (ms ? 1000 : 1);
    if (!json_is_number(ms ? ms : s) || !isfinite(*out) || fabs(*out) > 1e12)
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": expected timestamp (ms) or arrival (s), a number", r->name, r->line);
    return KVP_OK;
}

static kvp_err json_ids(struct reader *r, const json_t *o, uint64_t prompt, struct kvp_error *e)
{
    const json_t *ids = json_object_get(o, "hash_ids");
    uint64_t block = MOONCAKE_PIECE, left = prompt;
    bool given;
    size_t i;
    json_t *id;

    KVP_TRY(json_count(r, o, "hash_block", &block, &given, e));
    KVP_TRY(check_tokens(r, "hash_block", block, 1, e));
    if (ids && !json_is_array(ids))
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": hash_ids is no list", r->name, r->line);
    json_array_foreach(ids, i, id) {
        const uint64_t n = left < block ? left : block;

        if (!json_is_integer(id) || json_integer_value(id) < 0 || (uint64_t)json_integer_value(id) >= PREFIX)
            return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": hash_ids[%zu] is no integer of 0 to 2^62", r->name, r->line, i);
        if (!n)
            return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": hash_ids has %zu ids, a prompt of %" PRIu64 " tokens fewer pieces of %" PRIu64,
                            r->name, r->line, json_array_size(ids), prompt, block);
        KVP_TRY(add_piece(r, (uint64_t)json_integer_value(id), n, e));
        left -= n;
    }
    return KVP_OK;
}

static kvp_err json_prefix(struct reader *r, const json_t *o, uint64_t prompt, struct kvp_error *e)
{
    uint64_t tokens = 0, id = 0;
    bool given;

    KVP_TRY(json_count(r, o, "prefix", &tokens, &given, e));
    KVP_TRY(json_count(r, o, "prefix_id", &id, &given, e));
    if (tokens > prompt)
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": prefix is %" PRIu64 ", the prompt has %" PRIu64 " tokens", r->name, r->line,
                        tokens, prompt);
    if (id >= PREFIX)
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": prefix_id is not below 2^62", r->name, r->line);
    if (tokens && json_object_get(o, "hash_ids"))
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": both hash_ids and prefix", r->name, r->line);
    return add_piece(r, PREFIX + id, tokens, e);
}

static kvp_err json_request(struct reader *r, const json_t *o, struct kvp_error *e)
{
    struct kvp_request q = {.first = r->t->n_pieces};

    KVP_TRY(json_arrival(r, o, &q.arrival, e));
    KVP_TRY(json_tokens(r, o, "input_length", "prompt", 1, &q.prompt, e));
    KVP_TRY(json_tokens(r, o, "output_length", "output", 0, &q.output, e));
    KVP_TRY(json_ids(r, o, q.prompt, e));
    KVP_TRY(json_prefix(r, o, q.prompt, e));
    return add_request(r, q, e);
}

static kvp_err json_line(struct reader *r, const char *text, size_t n, struct kvp_error *e)
{
    json_error_t why;
    json_t *o = json_loadb(text, n, 0, &why);
    kvp_err rc;

    if (!json_is_object(o)) {
        json_decref(o);
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": expected a JSON object", r->name, r->line);
    }
    rc = json_request(r, o, e);
    json_decref(o);
    return rc;
}

/* ---- CSV ---------------------------------------------------------------------------------------- */

enum { TIME, CONTEXT, GENERATED, KEYS, MAX_FIELD = 64, MAX_COLUMNS = 64 };
static const char *const keys[KEYS] = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"};

/* Field `column` of a line, quotes and blanks around it left out; false: there is none, or it is too long. */
static bool csv_field(const char *text, size_t n, int column, char out[MAX_FIELD])
{
    const char *end = text + n, *stop;

    for (; column > 0; column--, text++)
        if (!(text = memchr(text, ',', (size_t)(end - text))))
            return false;
    stop = memchr(text, ',', (size_t)(end - text));
    stop = stop ? stop : end;
    while (text < stop && strchr(" \t\"", *text))
        text++;
    while (stop > text && strchr(" \t\"\r", stop[-1]))
        stop--;
    if (stop - text >= MAX_FIELD || memchr(text, 0, (size_t)(stop - text)))
        return false;
    memcpy(out, text, (size_t)(stop - text));
    out[stop - text] = 0;
    return true;
}

static kvp_err csv_header(const struct reader *r, const char *text, size_t n, int column[KEYS], struct kvp_error *e)
{
    char field[MAX_FIELD];

    for (int k = 0; k < KEYS; k++) {
        column[k] = -1;
        for (int i = 0; i < MAX_COLUMNS; i++)
            if (csv_field(text, n, i, field) && strcmp(field, keys[k]) == 0)
                column[k] = i;
        if (column[k] < 0)
            return kvp_fail(e, KVP_EINPUT, "%s: neither JSON lines nor a CSV file with a column %s", r->name, keys[k]);
    }
    return KVP_OK;
}

/* Days since 1970-01-01 in the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms"). */
static double days(int y, int m, int d)
{
    const int year = m <= 2 ? y - 1 : y, era = year / 400, of_era = year - era * 400;
    const int of_year = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;

    return era * 146097.0 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

/* Seconds, or "2023-11-16 18:17:03.9799600"; a zone behind it is the same for all lines and says nothing. */
static bool csv_seconds(const char *s, double *out)
{
    int y, mo, d, h, mi;
    double sec;
    char *end;

    if (sscanf(s, "%4d-%2d-%2d%*1[ T]%2d:%2d:%lf", &y, &mo, &d, &h, &mi, &sec) == 6) {
        *out = 86400 * days(y, mo, d) + 3600 * h + 60 * mi + sec;
        return y >= 1 && mo >= 1 && mo <= 12 && d >= 1 && d <= 31 && isfinite(sec) && sec >= 0 && sec < 61;
    }
    *out = strtod(s, &end);
    return end != s && !*end && isfinite(*out) && fabs(*out) <= 1e12;
}

static kvp_err csv_count(const struct reader *r, const char *text, size_t n, const int column[KEYS], int key, uint64_t least, uint64_t *out,
                         struct kvp_error *e)
{
    char field[MAX_FIELD], *end;

    errno = 0;
    *out = csv_field(text, n, column[key], field) && *field >= '0' && *field <= '9' ? strtoull(field, &end, 10) : UINT64_MAX;
    if (*out == UINT64_MAX || *end || errno)
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": %s is no integer", r->name, r->line, keys[key]);
    return check_tokens(r, keys[key], *out, least, e);
}

static kvp_err csv_line(struct reader *r, const char *text, size_t n, const int column[KEYS], struct kvp_error *e)
{
    struct kvp_request q = {.first = r->t->n_pieces};
    char field[MAX_FIELD];

    if (!csv_field(text, n, column[TIME], field) || !csv_seconds(field, &q.arrival))
        return kvp_fail(e, KVP_EINPUT, "%s:%" PRIu64 ": TIMESTAMP is neither a date nor seconds", r->name, r->line);
    KVP_TRY(csv_count(r, text, n, column, CONTEXT, 1, &q.prompt, e));
    KVP_TRY(csv_count(r, text, n, column, GENERATED, 0, &q.output, e));
    return add_request(r, q, e);
}

/* ---- files -------------------------------------------------------------------------------------- */

static bool is_blank(const char *text, size_t n)
{
    while (n && strchr(" \t\r", text[n - 1]) && text[n - 1])
        n--;
    return n == 0;
}

static kvp_err read_lines(struct reader *r, const char *text, size_t size, struct kvp_error *e)
{
    int column[KEYS];
    bool csv = false, first = true;

    for (const char *end = text + size, *next; text < end && (!r->limit || r->t->n < r->limit); text = next) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        const size_t n = (size_t)((stop ? stop : end) - text);

        next = stop ? stop + 1 : end;
        r->line++;
        if (is_blank(text, n))
            continue;
        if (first) {
            csv = text[strspn(text, " \t")] != '{';
            first = false;
            if (csv) {
                KVP_TRY(csv_header(r, text, n, column, e));
                continue;
            }
        }
        KVP_TRY(csv ? csv_line(r, text, n, column, e) : json_line(r, text, n, e));
    }
    return r->t->n ? KVP_OK : kvp_fail(e, KVP_EINPUT, "%s: no requests", r->name);
}

static int by_arrival(const void *a, const void *b)
{
    const struct kvp_request *x = a, *y = b;

    if (x->arrival != y->arrival)
        return x->arrival < y->arrival ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first; /* pieces are in the file's order */
}

static void in_order(struct kvp_trace *t)
{
    double start;

    qsort(t->request, t->n, sizeof(*t->request), by_arrival);
    start = t->request[0].arrival;
    for (uint64_t i = 0; i < t->n; i++)
        t->request[i].arrival -= start;
}

kvp_err kvp_trace_parse(struct kvp_trace *out, const char *text, size_t size, const char *name, uint64_t limit, struct kvp_error *e)
{
    struct reader r = {.t = out, .name = name, .limit = limit};
    char *copy = malloc(size + 1);
    kvp_err rc;

    *out = (struct kvp_trace){0};
    if (!copy)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a trace of %zu bytes", size);
    memcpy(copy, text, size);
    copy[size] = 0;
    rc = read_lines(&r, copy, size, e);
    free(copy);
    if (rc == KVP_OK)
        in_order(out);
    else
        kvp_trace_free(out);
    return rc;
}

kvp_err kvp_trace_load(struct kvp_trace *out, const char *path, uint64_t limit, struct kvp_error *e)
{
    FILE *f = fopen(path, "r");
    char *text = NULL;
    size_t size = 0;
    uint64_t room = 0;
    kvp_err rc = KVP_OK;

    *out = (struct kvp_trace){0};
    if (!f)
        return kvp_fail(e, KVP_EINPUT, "%s: %s", path, strerror(errno));
    while (rc == KVP_OK && !feof(f) && !ferror(f)) {
        rc = grow((void **)&text, &room, size + 65536, 1, e);
        if (rc == KVP_OK)
            size += fread(text + size, 1, 65536, f);
    }
    if (rc == KVP_OK && ferror(f))
        rc = kvp_fail(e, KVP_EINPUT, "%s: %s", path, strerror(errno));
    fclose(f);
    if (rc == KVP_OK)
        rc = kvp_trace_parse(out, text, size, path, limit, e);
    free(text);
    return rc;
}

void kvp_trace_free(struct kvp_trace *t)
{
    free(t->request);
    free(t->piece);
    *t = (struct kvp_trace){0};
}

/* ---- generated ---------------------------------------------------------------------------------- */

struct recipe {
    double requests, rate, prompt, output, prefixes, prefix, zipf;
};

static kvp_err read_recipe(struct recipe *r, const char *spec, struct kvp_error *e)
{
    struct {
        const char *key;
        double *at, least, most;
    } parts[] = {{"requests", &r->requests, 1, 1e6}, {"rate", &r->rate, 1e-6, 1e6},     {"prompt", &r->prompt, 1, 1e6},
                 {"output", &r->output, 1, 1e6},     {"prefixes", &r->prefixes, 1, 1e5}, {"prefix", &r->prefix, 0, 1e6},
                 {"zipf", &r->zipf, 0, 10}};
    char key[16];
    int used;

    *r = (struct recipe){32, 4, 64, 16, 4, 32, 1};
    for (; *spec; spec += *spec == ',') {
        size_t i = 0;
        double v;

        used = -1;
        if (sscanf(spec, "%15[a-z]=%lf%n", key, &v, &used) != 2 || used < 0 || (spec[used] && spec[used] != ','))
            return kvp_fail(e, KVP_EINPUT, "a generated trace: %s: expected KEY=NUMBER", spec);
        while (i < sizeof(parts) / sizeof(parts[0]) && strcmp(parts[i].key, key) != 0)
            i++;
        if (i == sizeof(parts) / sizeof(parts[0]))
            return kvp_fail(e, KVP_EINPUT, "a generated trace has no %s, only requests, rate, prompt, output, prefixes, prefix, zipf", key);
        if (!(v >= parts[i].least && v <= parts[i].most) || (parts[i].at != &r->rate && parts[i].at != &r->zipf && v != floor(v)))
            return kvp_fail(e, KVP_EINPUT, "a generated trace: %s=%g: expected %g to %g", key, v, parts[i].least, parts[i].most);
        *parts[i].at = v;
        spec += used;
    }
    return KVP_OK;
}

static kvp_err generate(struct reader *r, const struct recipe *x, gsl_rng *g, const gsl_ran_discrete_t *which, struct kvp_error *e)
{
    double now = 0;

    for (uint64_t i = 0; i < (uint64_t)x->requests; i++) {
        struct kvp_request q = {.arrival = now, .first = r->t->n_pieces};
        const uint64_t prefix = (uint64_t)x->prefix, id = PREFIX + gsl_ran_discrete(g, which);

        q.prompt = prefix + 1 + gsl_ran_poisson(g, x->prompt - 1);
        q.output = 1 + gsl_ran_poisson(g, x->output - 1);
        KVP_TRY(add_piece(r, id, prefix, e));
        KVP_TRY(add_request(r, q, e));
        now += gsl_ran_exponential(g, 1 / x->rate);
    }
    return KVP_OK;
}

kvp_err kvp_trace_generate(struct kvp_trace *out, const char *spec, uint64_t seed, struct kvp_error *e)
{
    struct reader r = {.t = out, .name = "a generated trace"};
    gsl_rng *g;
    gsl_ran_discrete_t *which = NULL;
    struct recipe x;
    double *weights;
    kvp_err rc;

    *out = (struct kvp_trace){0};
    KVP_TRY(read_recipe(&x, spec, e));
    g = gsl_rng_alloc(gsl_rng_mt19937);
    weights = malloc((size_t)x.prefixes * sizeof(*weights));
    for (size_t k = 0; weights && k < (size_t)x.prefixes; k++)
        weights[k] = pow((double)(k + 1), -x.zipf);
    if (g && weights)
        which = gsl_ran_discrete_preproc((size_t)x.prefixes, weights);
    if (g)
        gsl_rng_set(g, (unsigned long)seed + 1); /* 0 would mean GSL's own default */
    rc = which ? generate(&r, &x, g, which, e) : kvp_fail(e, KVP_ENOMEM, "out of memory for a generated trace");
    if (which)
        gsl_ran_discrete_free(which);
    if (g)
        gsl_rng_free(g);
    free(weights);
    if (rc != KVP_OK)
        kvp_trace_free(out);
    return rc;
}

/* ---- written ------------------------------------------------------------------------------------ */

static void write_ids(FILE *f, const struct kvp_trace *t, const struct kvp_request *q)
{
    fprintf(f, ",\"hash_block\":%" PRIu64 ",\"hash_ids\":[", t->piece[q->first].tokens);
    for (uint64_t i = 0; i < q->pieces && t->piece[q->first + i].id < PREFIX; i++)
        fprintf(f, "%s%" PRIu64, i ? "," : "", t->piece[q->first + i].id);
    fputs("]", f);
}

kvp_err kvp_trace_write(FILE *f, const struct kvp_trace *t, struct kvp_error *e)
{
    for (uint64_t i = 0; i < t->n; i++) {
        const struct kvp_request *q = &t->request[i];
        const struct kvp_piece *p = &t->piece[q->first];

        fprintf(f, "{\"arrival\":%.17g,\"prompt\":%" PRIu64 ",\"output\":%" PRIu64, q->arrival, q->prompt, q->output);
        if (p->id < PREFIX)
            write_ids(f, t, q);
        else if (p->id < OWN)
            fprintf(f, ",\"prefix\":%" PRIu64 ",\"prefix_id\":%" PRIu64, p->tokens, p->id - PREFIX);
        fputs("}\n", f);
    }
    return ferror(f) ? kvp_fail(e, KVP_ESYS, "writing the trace failed") : KVP_OK;
}
