/* print_compare.c - techniques side by side. Ratios are printed with the two numbers that they are of. */
#include "calc/compare.h"
#include "calc/table.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#define INT(v) (json_int_t)(v)

static double ratio(const struct comparison *c, const struct compare_row *r)
{
    return r->point.memory.cache_bytes ? (double)c->row[0].point.memory.cache_bytes / (double)r->point.memory.cache_bytes : NAN;
}

static void from_text(char *buf, size_t n, const struct compare_from *f)
{
    if (!f->asked)
        snprintf(buf, n, "%s", "");
    else if (f->never || f->always)
        snprintf(buf, n, "%s", f->never ? "never" : "always");
    else
        snprintf(buf, n, "%" PRIu64, f->from);
}

static json_t *from_json(const struct compare_from *f)
{
    if (!f->asked)
        return json_null();
    return f->never || f->always ? json_string(f->never ? "never" : "always") : json_integer(INT(f->from));
}

static json_t *real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *row_json(const struct compare *q, const struct comparison *c, const struct compare_row *r)
{
    const struct kvp_point *p = &r->point;
    const struct kvp_memory *m = &p->memory;
    json_t *o = json_pack("{s:s, s:o}", "technique", r->technique, "reason", r->reason[0] ? json_string(r->reason) : json_null());

    if (r->reason[0])
        return o;
    json_object_update_new(o, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "cache_bytes", INT(m->cache_bytes), "metadata_bytes",
                                        INT(m->metadata_bytes), "state_bytes", INT(m->state_bytes), "weights_bytes",
                                        INT(m->weights_bytes), "cache_peak_bytes", INT(m->cache_peak_bytes), "peak_bytes", INT(m->peak_bytes)));
    json_object_update_new(o, json_pack("{s:I, s:I, s:I, s:I, s:I}", "traffic_prefill_bytes", INT(p->traffic_prefill),
                                        "traffic_decode_step_bytes", INT(p->traffic_decode), "flops_prefill", INT(p->flops_prefill),
                                        "flops_prefill_causal", INT(p->flops_prefill_causal), "flops_decode_step", INT(p->flops_decode)));
    json_object_set_new(o, "ttft_s", real(p->ttft_s));
    json_object_set_new(o, "tpot_s", real(p->tpot_s));
    json_object_set_new(o, "max_context", q->device ? json_integer(INT(r->max_context)) : json_null());
    json_object_set_new(o, "max_batch", q->device ? json_integer(INT(r->max_batch)) : json_null());
    json_object_set_new(o, "ratio", real(ratio(c, r)));
    json_object_set_new(o, "pays_bytes_from_context", from_json(&r->bytes_context));
    json_object_set_new(o, "pays_bytes_from_batch", from_json(&r->bytes_batch));
    json_object_set_new(o, "pays_time_from_context", from_json(&r->time_context));
    json_object_set_new(o, "pays_time_from_batch", from_json(&r->time_batch));
    return o;
}

static kvp_err print_json(FILE *f, bool line, const struct compare *q, const struct comparison *c, struct kvp_error *e)
{
    const struct kvp_workload *w = &q->workload;
    json_t *rows = json_array(), *o;
    bool bad;

    for (uint32_t i = 0; i < c->n; i++)
        json_array_append_new(rows, row_json(q, c, &c->row[i]));
    o = json_pack("{s:s, s:s, s:s, s:{s:I,s:I,s:I,s:I}, s:o, s:I, s:I, s:o}", "schema", "kvproof-compare/1", "kvproof", KVP_VERSION, "model",
                  q->model->name, "workload", "context", INT(w->context), "prompt", INT(w->prompt), "generate", INT(w->generate), "batch",
                  INT(w->batch), "device", q->device ? json_string(q->device->name) : json_null(), "horizon_context",
                  INT(c->horizon_context), "horizon_batch", INT(c->horizon_batch), "rows", rows);
    if (!o)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for JSON");
    bad = json_dumpf(o, f, line ? JSON_COMPACT : JSON_INDENT(2)) != 0 || fputc('\n', f) == EOF;
    json_decref(o);
    return bad ? kvp_fail(e, KVP_ESYS, "cannot write the output") : KVP_OK;
}

/* ---- tables ----------------------------------------------------------------------------------------- */

static const char *count(char *buf, uint64_t v)
{
    sprintf(buf, "%" PRIu64, v);
    return buf;
}

static const char *seconds(char *buf, double v)
{
    sprintf(buf, "%.6g", v);
    return isfinite(v) ? buf : "";
}

static void memory_table(struct table *t, const struct compare *q, const struct comparison *c)
{
    *t = (struct table){.columns = 8, .head = {"technique", "cache", "metadata", "state", "peak", "ratio", "max context", "max batch"},
                        .right = {false, true, true, true, true, true, true, true}};
    for (uint32_t i = 0; i < c->n; i++) {
        const struct compare_row *r = &c->row[i];
        const struct kvp_memory *m = &r->point.memory;
        char b[6][32], x[32];

        snprintf(x, sizeof(x), "%.4f", ratio(c, r));
        if (r->reason[0])
            table_row(t, r->technique, "", "", "", "", "", "", "");
        else
            table_row(t, r->technique, count(b[0], m->cache_bytes), count(b[1], m->metadata_bytes), count(b[2], m->state_bytes),
                      count(b[3], m->peak_bytes), m->cache_bytes ? x : "", q->device ? count(b[4], r->max_context) : "",
                      q->device ? count(b[5], r->max_batch) : "");
    }
}

static void work_table(struct table *t, const struct comparison *c)
{
    *t = (struct table){.columns = 8, .head = {"technique", "prefill bytes", "decode bytes", "prefill FLOPs", "causal FLOPs", "decode FLOPs", "TTFT s", "TPOT s"},
                        .right = {false, true, true, true, true, true, true, true}};
    for (uint32_t i = 0; i < c->n; i++) {
        const struct kvp_point *p = &c->row[i].point;
        char b[7][32];

        if (!c->row[i].reason[0])
            table_row(t, c->row[i].technique, count(b[0], p->traffic_prefill), count(b[1], p->traffic_decode), count(b[2], p->flops_prefill),
                      count(b[3], p->flops_prefill_causal), count(b[4], p->flops_decode), seconds(b[5], p->ttft_s), seconds(b[6], p->tpot_s));
    }
}

static void pays_table(struct table *t, const struct comparison *c)
{
    *t = (struct table){.columns = 6, .head = {"technique", "bytes from context", "bytes from batch", "time from context", "time from batch", "not applicable"},
                        .right = {false, true, true, true, true}};
    for (uint32_t i = 0; i < c->n; i++) {
        const struct compare_row *r = &c->row[i];
        char b[4][32] = {"", "", "", ""};

        if (!r->reason[0]) {
            from_text(b[0], sizeof(b[0]), &r->bytes_context);
            from_text(b[1], sizeof(b[1]), &r->bytes_batch);
            from_text(b[2], sizeof(b[2]), &r->time_context);
            from_text(b[3], sizeof(b[3]), &r->time_batch);
        }
        table_row(t, r->technique, b[0], b[1], b[2], b[3], r->reason);
    }
}

/* One flat table. */
static void print_csv(FILE *f, const struct compare *q, const struct comparison *c)
{
    fputs("technique,cache_bytes,metadata_bytes,state_bytes,weights_bytes,cache_peak_bytes,peak_bytes,traffic_prefill_bytes,traffic_decode_step_bytes,"
          "flops_prefill,flops_prefill_causal,flops_decode_step,ttft_s,tpot_s,max_context,max_batch,ratio,pays_bytes_from_context,"
          "pays_bytes_from_batch,pays_time_from_context,pays_time_from_batch,reason\n", f);
    for (uint32_t i = 0; i < c->n; i++) {
        json_t *o = row_json(q, c, &c->row[i]);
        static const char *const keys[] = {"cache_bytes", "metadata_bytes", "state_bytes", "weights_bytes", "cache_peak_bytes", "peak_bytes",
                                           "traffic_prefill_bytes", "traffic_decode_step_bytes", "flops_prefill", "flops_prefill_causal",
                                           "flops_decode_step", "ttft_s", "tpot_s", "max_context", "max_batch", "ratio",
                                           "pays_bytes_from_context", "pays_bytes_from_batch", "pays_time_from_context", "pays_time_from_batch"};

        fprintf(f, "\"%s\"", c->row[i].technique);
        for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++) {
            const json_t *v = json_object_get(o, keys[k]);

            fputc(',', f);
            if (json_is_integer(v))
                fprintf(f, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
            else if (json_is_real(v))
                fprintf(f, "%.9g", json_real_value(v));
            else if (json_is_string(v))
                fputs(json_string_value(v), f);
        }
        fputs(",\"", f);
        for (const char *s = c->row[i].reason; *s; s++)
            fputs(*s == '"' ? "\"\"" : (char[]){*s, '\0'}, f);
        fputs("\"\n", f);
        json_decref(o);
    }
}

static kvp_err print_tables(FILE *f, const char *format, const struct compare *q, const struct comparison *c, struct kvp_error *e)
{
    const struct kvp_workload *w = &q->workload;
    struct table t[3];
    kvp_err rc = KVP_OK;

    memory_table(&t[0], q, c);
    work_table(&t[1], c);
    pays_table(&t[2], c);
    fprintf(f, "%s, batch %" PRIu64 ", prompt %" PRIu64 " + generate %" PRIu64 " = context %" PRIu64 "%s%s\n\n", q->model->name, w->batch,
            w->prompt, w->generate, w->context, q->device ? ", on " : "", q->device ? q->device->name : "");
    for (int i = 0; i < 3; i++) {
        if (rc == KVP_OK)
            rc = table_print(f, format, &t[i], e);
        table_free(&t[i]);
        if (i == 0)
            fprintf(f, "\nbytes; ratio = cache of %s / cache of the row\n\n", c->row[0].technique);
        if (i == 1)
            fprintf(f, "\nfrom where each pays: fewer bytes of cache and state, a quicker decode step; up to context %" PRIu64
                       ", up to batch %" PRIu64 "\n\n", c->horizon_context, c->horizon_batch);
    }
    return rc;
}

kvp_err compare_print(FILE *f, const char *format, const struct compare *q, const struct comparison *c, struct kvp_error *e)
{
    KVP_TRY(table_format_check(format, e));
    if (strncmp(format, "json", 4) == 0)
        return print_json(f, strcmp(format, "jsonl") == 0, q, c, e);
    if (strcmp(format, "csv") != 0)
        return print_tables(f, format, q, c, e);
    print_csv(f, q, c);
    return ferror(f) ? kvp_fail(e, KVP_ESYS, "cannot write the output") : KVP_OK;
}
