#include "calc/print_sheet.h"

#include "calc/print.h"
#include "calc/table.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a row is written from. */
struct row {
    struct kvp_point p;
    uint64_t kv_bytes;
    const struct kvp_error *why; /* or NULL: there are numbers */
};

enum kind { WORKLOAD, COUNT, SIGNED, REAL };

#define AT(field) offsetof(struct row, field)
static const struct column {
    const char *name;
    enum kind kind;
    size_t offset;
} columns[] = {
    {"batch", WORKLOAD, AT(p.workload.batch)},
    {"prompt", WORKLOAD, AT(p.workload.prompt)},
    {"generate", WORKLOAD, AT(p.workload.generate)},
    {"context", WORKLOAD, AT(p.workload.context)},
    {"parameters", COUNT, AT(p.parameters)},
    {"active_parameters", COUNT, AT(p.active_parameters)},
    {"weights_bytes", COUNT, AT(p.memory.weights_bytes)},
    {"cache_bytes", COUNT, AT(p.memory.cache_bytes)},
    {"kv_bytes", COUNT, AT(kv_bytes)},
    {"metadata_bytes", COUNT, AT(p.memory.metadata_bytes)},
    {"state_bytes", COUNT, AT(p.memory.state_bytes)},
    {"activation_bytes", COUNT, AT(p.memory.activation_bytes)},
    {"workspace_bytes", COUNT, AT(p.memory.workspace_bytes)},
    {"device_context_bytes", COUNT, AT(p.memory.device_context_bytes)},
    {"total_bytes", COUNT, AT(p.memory.total_bytes)},
    {"peak_bytes", COUNT, AT(p.memory.peak_bytes)},
    {"cache_peak_bytes", COUNT, AT(p.memory.cache_peak_bytes)},
    {"fixed_bytes_per_sequence", SIGNED, AT(p.memory.fixed_bytes_per_sequence)},
    {"bytes_per_token", COUNT, AT(p.memory.bytes_per_token)},
    {"shared_bytes", COUNT, AT(p.memory.shared_bytes)},
    {"rounding_bytes", SIGNED, AT(p.memory.rounding_bytes)},
    {"flops_prefill", COUNT, AT(p.flops_prefill)},
    {"flops_prefill_causal", COUNT, AT(p.flops_prefill_causal)},
    {"flops_decode_step", COUNT, AT(p.flops_decode)},
    {"traffic_prefill_bytes", COUNT, AT(p.traffic_prefill)},
    {"traffic_decode_step_bytes", COUNT, AT(p.traffic_decode)},
    {"ttft_s", REAL, AT(p.ttft_s)},
    {"ttft_lo_s", REAL, AT(p.ttft_lo)},
    {"ttft_hi_s", REAL, AT(p.ttft_hi)},
    {"tpot_s", REAL, AT(p.tpot_s)},
    {"tpot_lo_s", REAL, AT(p.tpot_lo)},
    {"tpot_hi_s", REAL, AT(p.tpot_hi)},
    {"tokens_per_s", REAL, AT(p.tokens_per_s)},
};
enum { N_COLUMNS = sizeof(columns) / sizeof(columns[0]) };

static const char *const texts[] = {"model", "techniques", "weights", "kv", "tp", "pp", "ep", "device", "basis"};
enum { N_TEXTS = sizeof(texts) / sizeof(texts[0]), TEXT = 256 };

enum style { CSV, JSON, JSONL, TABLE };
enum { ROOM = 1 << 16, ROW = 1 << 13 };

struct sheet {
    FILE *f;
    const char *format;
    enum style style;
    const struct kvp_device *device;
    char common[N_TEXTS * (TEXT + 32)]; /* the row's beginning, as it is written */
    size_t n_common;
    char name[N_COLUMNS][48]; /* what precedes a number: `,` or `,"name":` */
    uint8_t n_name[N_COLUMNS];
    char *buf; /* owned */
    size_t n, cap;
    bool any, written;
    struct kvp_error refused; /* the first */
    struct table table;
};

/* ---- numbers -------------------------------------------------------------------------------------- */

static char *put_text(char *to, const char *s, size_t n)
{
    memcpy(to, s, n);
    return to + n;
}

static char *put_count(char *to, uint64_t v)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                                "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                                "8081828384858687888990919293949596979899";
    char digits[20];
    size_t i = sizeof(digits);

    for (; v >= 100; v /= 100)
        memcpy(&digits[i -= 2], &pairs[2 * (v % 100)], 2);
    if (v >= 10)
        memcpy(&digits[i -= 2], &pairs[2 * v], 2);
    else
        digits[--i] = (char)('0' + v);
    return put_text(to, &digits[i], sizeof(digits) - i);
}

static char *put_signed(char *to, int64_t v)
{
    if (v < 0)
        *to++ = '-';
    return put_count(to, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

static long double power_of_ten(int n)
{
    static const long double small[] = {1e0L, 1e1L, 1e2L, 1e3L, 1e4L, 1e5L, 1e6L, 1e7L, 1e8L, 1e9L, 1e10L, 1e11L, 1e12L, 1e13L,
                                        1e14L, 1e15L, 1e16L, 1e17L, 1e18L, 1e19L, 1e20L, 1e21L, 1e22L, 1e23L, 1e24L, 1e25L, 1e26L, 1e27L};

    return n < 0 ? 1 / power_of_ten(-n) : n < 28 ? small[n] : powl(10, n);
}

/* Nine significant digits, as 1.23456789e-02. */
static char *put_real(char *to, double v)
{
    int e10, e2;
    uint64_t n;

    if (v == 0)
        return put_text(to, "0", 1);
    frexp(v, &e2);
    e10 = (int)floor((e2 - 1) * 0.30102999566398120); /* or one less than that of v */
    n = (uint64_t)(v * power_of_ten(8 - e10) + 0.5L);
    if (n >= 1000000000)
        n = (uint64_t)(v * power_of_ten(8 - ++e10) + 0.5L);
    *to++ = (char)('0' + n / 100000000);
    *to++ = '.';
    for (uint64_t unit = 10000000, rest = n % 100000000; unit; rest %= unit, unit /= 10)
        *to++ = (char)('0' + rest / unit);
    *to++ = 'e';
    *to++ = e10 < 0 ? '-' : '+';
    e10 = e10 < 0 ? -e10 : e10;
    if (e10 < 10)
        *to++ = '0';
    return put_count(to, (uint64_t)e10);
}

static char *put_nothing(const struct sheet *r, char *to)
{
    return r->style == CSV ? to : put_text(to, "null", 4);
}

static char *put_value(const struct sheet *r, char *to, const struct column *c, const struct row *row)
{
    const void *at = (const char *)row + c->offset;
    uint64_t count;
    double real;

    memcpy(&count, at, sizeof(count));
    memcpy(&real, at, sizeof(real));
    if (row->why && (c->kind != WORKLOAD || !count))
        return put_nothing(r, to);
    if (c->kind == SIGNED)
        return put_signed(to, (int64_t)count);
    if (c->kind == REAL)
        return isfinite(real) ? put_real(to, real) : put_nothing(r, to);
    return put_count(to, count);
}

/* ---- text ----------------------------------------------------------------------------------------- */

/* `s` as a CSV cell or a JSON string; `to` has room for twice its length and two. */
static char *put_quoted(const struct sheet *r, char *to, const char *s)
{
    const bool csv = r->style == CSV;

    if (csv && !strpbrk(s, ",\"\r\n"))
        return put_text(to, s, strlen(s));
    *to++ = '"';
    for (; *s; s++) {
        if (*s == '"' || (!csv && *s == '\\'))
            *to++ = csv ? '"' : '\\';
        *to++ = (unsigned char)*s < ' ' ? ' ' : *s;
    }
    *to++ = '"';
    return to;
}

static void head(struct sheet *r)
{
    char *to = r->buf;

    if (r->style == CSV) {
        for (size_t i = 0; i < N_TEXTS; i++)
            to += sprintf(to, "%s%s", i ? "," : "", texts[i]);
        for (size_t i = 0; i < N_COLUMNS; i++)
            to += sprintf(to, ",%s", columns[i].name);
        to += sprintf(to, ",fits,error\n");
    }
    r->n = (size_t)(to - r->buf);
}

static void table_head(struct sheet *r)
{
    r->table = (struct table){.columns = 8, .head = {"model", "batch", "context", "cache_bytes", "peak_bytes", "ttft_s", "tpot_s", "fits"},
                              .right = {false, true, true, true, true, true, true}};
}

kvp_err sheet_open(struct sheet **out, FILE *f, const char *format, struct kvp_error *e)
{
    struct sheet *r;

    *out = NULL;
    KVP_TRY(table_format_check(format, e));
    r = calloc(1, sizeof(*r));
    if (!r || !(r->buf = malloc(ROOM + ROW))) {
        free(r);
        return kvp_fail(e, KVP_ENOMEM, "out of memory for rows");
    }
    r->f = f;
    r->format = format;
    r->cap = ROOM + ROW;
    r->style = strcmp(format, "csv") == 0 ? CSV : strcmp(format, "jsonl") == 0 ? JSONL : strcmp(format, "json") == 0 ? JSON : TABLE;
    for (size_t i = 0; i < N_COLUMNS; i++)
        r->n_name[i] = (uint8_t)(r->style == CSV ? sprintf(r->name[i], ",") : sprintf(r->name[i], ",\"%s\":", columns[i].name));
    head(r);
    table_head(r);
    *out = r;
    return KVP_OK;
}

kvp_err sheet_begin(struct sheet *r, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_options *o,
                   const struct kvp_device *d, struct kvp_error *e)
{
    const enum kvp_format weights = o->weights_given ? o->weights : m->dtype;
    const uint32_t ranks[] = {o->tp ? o->tp : 1, o->pp ? o->pp : 1, o->ep ? o->ep : 1};
    char stack[TEXT / 2 - 1], *to = r->common;

    (void)e;
    kvp_stack_text(s, stack, sizeof(stack));
    r->device = d;
    for (size_t i = 0; i < N_TEXTS; i++) {
        const char *const value[] = {m->name, stack, kvp_format_name(weights), kvp_format_name(o->kv_given ? o->kv : weights),
                                     NULL, NULL, NULL, d ? d->name : "", d ? d->basis : "none"};

        to += r->style == CSV ? sprintf(to, "%s", i ? "," : "") : sprintf(to, "%s\"%s\":", i ? "," : "", texts[i]);
        to = value[i] ? put_quoted(r, to, value[i]) : put_count(to, ranks[i - 4]);
    }
    r->n_common = (size_t)(to - r->common);
    return KVP_OK;
}

/* ---- rows ----------------------------------------------------------------------------------------- */

static kvp_err flush(struct sheet *r, struct kvp_error *e)
{
    if (r->n && fwrite(r->buf, 1, r->n, r->f) != r->n)
        return kvp_fail(e, KVP_ESYS, "cannot write the output");
    r->n = 0;
    return KVP_OK;
}

/* Room for a row. What is held back grows until a row has numbers. */
static kvp_err make_room(struct sheet *r, struct kvp_error *e)
{
    char *buf;

    if (r->any && r->n >= ROOM)
        return flush(r, e);
    if (r->cap - r->n >= ROW)
        return KVP_OK;
    buf = realloc(r->buf, 2 * r->cap);
    if (!buf)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for rows");
    r->buf = buf;
    r->cap *= 2;
    return KVP_OK;
}

static const char *fits_word(const struct sheet *r, const struct row *row)
{
    if (!r->device || row->why)
        return r->style == CSV || r->style == TABLE ? "" : "null";
    return print_peak_fits(row->p.memory.peak_bytes, r->device) ? "true" : "false";
}

static void put_row(struct sheet *r, const struct row *row)
{
    const char *fits = fits_word(r, row);
    char *to = r->buf + r->n;

    if (r->style == JSON)
        to = r->written ? put_text(to, ",\n  ", 4) : put_text(to, "[\n  ", 4);
    if (r->style != CSV)
        *to++ = '{';
    to = put_text(to, r->common, r->n_common);
    for (size_t i = 0; i < N_COLUMNS; i++) {
        to = put_text(to, r->name[i], r->n_name[i]);
        to = put_value(r, to, &columns[i], row);
    }
    to = r->style == CSV ? put_text(to, ",", 1) : put_text(to, ",\"fits\":", 8);
    to = put_text(to, fits, strlen(fits));
    to = r->style == CSV ? put_text(to, ",", 1) : put_text(to, ",\"error\":", 9);
    to = row->why ? put_quoted(r, to, row->why->text) : put_nothing(r, to);
    if (r->style != CSV)
        *to++ = '}';
    if (r->style != JSON)
        *to++ = '\n';
    r->n = (size_t)(to - r->buf);
    r->written = true;
}

static void table_line(struct sheet *r, const struct row *row)
{
    const struct kvp_point *p = &row->p;
    char batch[24], context[24], cache[24], peak[24], ttft[24] = "", tpot[24] = "", model[TEXT];

    snprintf(model, sizeof(model), "%.*s", (int)strcspn(r->common + 9, "\""), r->common + 9); /* after "model":" */
    snprintf(batch, sizeof(batch), "%" PRIu64, p->workload.batch);
    snprintf(context, sizeof(context), "%" PRIu64, p->workload.context);
    snprintf(cache, sizeof(cache), "%" PRIu64, p->memory.cache_bytes);
    snprintf(peak, sizeof(peak), "%" PRIu64, p->memory.peak_bytes);
    if (r->device && !row->why) {
        snprintf(ttft, sizeof(ttft), "%.6g", p->ttft_s);
        snprintf(tpot, sizeof(tpot), "%.6g", p->tpot_s);
    }
    table_row(&r->table, model, batch, context, row->why ? "" : cache, row->why ? "" : peak, ttft, tpot,
              row->why ? row->why->text : fits_word(r, row));
}

static kvp_err add(struct sheet *r, const struct row *row, struct kvp_error *e)
{
    if (r->style == TABLE) {
        table_line(r, row);
        return KVP_OK;
    }
    KVP_TRY(make_room(r, e));
    put_row(r, row);
    return KVP_OK;
}

kvp_err sheet_point(struct sheet *r, const struct kvp_point *p, struct kvp_error *e)
{
    const struct row row = {.p = *p, .kv_bytes = p->memory.cache_bytes - p->memory.metadata_bytes};

    r->any = true;
    return add(r, &row, e);
}

kvp_err sheet_refused(struct sheet *r, const struct kvp_workload *w, const struct kvp_error *why, struct kvp_error *e)
{
    const struct row row = {.p.workload = *w, .why = why};

    if (r->refused.code == KVP_OK)
        r->refused = *why;
    return add(r, &row, e);
}

static kvp_err finish(struct sheet *r, struct kvp_error *e)
{
    if (!r->any)
        return kvp_fail(e, r->refused.code, "%s", r->refused.text);
    if (r->style == TABLE)
        return table_print(r->f, r->format, &r->table, e);
    KVP_TRY(flush(r, e));
    if (r->style == JSON && fputs("\n]\n", r->f) == EOF)
        return kvp_fail(e, KVP_ESYS, "cannot write the output");
    return KVP_OK;
}

kvp_err sheet_close(struct sheet *r, kvp_err rc, struct kvp_error *e)
{
    if (!r)
        return rc;
    if (rc == KVP_OK)
        rc = finish(r, e);
    table_free(&r->table);
    free(r->buf);
    free(r);
    return rc;
}
