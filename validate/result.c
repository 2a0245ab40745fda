#include "validate/result.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Must be equal, or at most. */
static bool decides(const char *kind)
{
    return strcmp(kind, "flops") != 0 && strcmp(kind, "time") != 0;
}

/* No integer. */
static bool is_real(const char *kind)
{
    return strcmp(kind, "time") == 0 || strcmp(kind, "share") == 0;
}

static bool is_bytes(const char *kind)
{
    return strcmp(kind, "bytes") == 0 || strcmp(kind, "bound") == 0;
}

/* Bytes and FLOPs are integers in JSON, and both fit a double's 53 bits only by luck: the caller keeps
 * them below 2^53, checked here. */
static json_t *number(const char *kind, double x)
{
    if (x < 0 || isnan(x))
        return json_null();
    return is_real(kind) ? json_real(x) : json_integer((json_int_t)x);
}

kvp_err res_row(json_t *result, const char *row, const char *kind, double predicted, double measured,
                const char *how, struct kvp_error *e)
{
    json_t *rows = json_object_get(result, "rows");
    json_t *error = measured > 0 && !isnan(predicted) ? json_real(predicted / measured - 1)
                    : measured == 0 && predicted == 0 ? json_real(0) : json_null();
    json_t *o;

    if (!is_real(kind) && (predicted > 0x1p53 || measured > 0x1p53)) {
        json_decref(error);
        return kvp_fail(e, KVP_ERANGE, "%s: more than 2^53, which results cannot hold exactly", row);
    }
    o = json_pack("{s:s, s:s, s:o, s:o, s:o, s:s}", "row", row, "kind", kind, "predicted",
                  number(kind, predicted), "measured", number(kind, measured), "error", error, "how", how);
    if (!o || json_array_append_new(rows, o) != 0)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a result row");
    return KVP_OK;
}

static bool row_holds(const json_t *row)
{
    const char *kind = json_string_value(json_object_get(row, "kind"));
    json_int_t p = json_integer_value(json_object_get(row, "predicted"));
    json_int_t m = json_integer_value(json_object_get(row, "measured"));

    if (strcmp(kind, "bytes") == 0 || strcmp(kind, "count") == 0)
        return p == m;
    if (strcmp(kind, "share") == 0) /* of integers that are equal or not */
        return json_equal(json_object_get(row, "predicted"), json_object_get(row, "measured"));
    return strcmp(kind, "bound") != 0 || m <= p;
}

bool res_bytes_agree(const json_t *result)
{
    size_t i;
    json_t *row;

    json_array_foreach(json_object_get(result, "rows"), i, row)
        if (!row_holds(row))
            return false;
    return true;
}

double res_time_error(const json_t *result)
{
    double worst = 0;
    size_t i;
    json_t *row;

    json_array_foreach(json_object_get(result, "rows"), i, row) {
        const char *name = json_string_value(json_object_get(row, "row"));
        double err = fabs(json_number_value(json_object_get(row, "error")));

        if ((strcmp(name, "prefill") == 0 || strcmp(name, "decode step") == 0) && err > worst)
            worst = err;
    }
    return worst;
}

/* ---- printing ---------------------------------------------------------------------------------- */

static void join_techniques(const json_t *result, char *buf, size_t n)
{
    size_t i, used = 0;
    json_t *t;

    buf[0] = '\0';
    json_array_foreach(json_object_get(result, "techniques"), i, t) {
        int len = snprintf(buf + used, n - used, "%s%s", i ? " + " : "", json_string_value(t));

        if (len < 0 || (size_t)len >= n - used)
            return;
        used += (size_t)len;
    }
    if (used == 0)
        snprintf(buf, n, "dense");
}

/* Three significant digits in the unit that suits: 1.23 us, 45.6 ms, 7.89 s; 384 MiB. */
static void three_digits(double x, const char *unit, char *buf, size_t n)
{
    snprintf(buf, n, "%.*f %s", x < 9.995 ? 2 : x < 99.95 ? 1 : 0, x, unit);
}

static void human_time(double s, char *buf, size_t n)
{
    static const struct {
        double below, times;
        const char *unit;
    } units[] = {{1e-6, 1e9, "ns"}, {1e-3, 1e6, "us"}, {1, 1e3, "ms"}, {INFINITY, 1, "s"}};
    size_t i = 0;

    while (s >= units[i].below)
        i++;
    three_digits(s * units[i].times, units[i].unit, buf, n);
}

static void human_size(double bytes, char *buf, size_t n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t i = 0;

    for (; bytes >= 1024 && i + 1 < sizeof(units) / sizeof(units[0]); i++)
        bytes /= 1024;
    if (i == 0)
        snprintf(buf, n, "%.0f B", bytes);
    else
        three_digits(bytes, units[i], buf, n);
}

static void human(const char *kind, const json_t *v, char *buf, size_t n)
{
    if (!json_is_number(v))
        snprintf(buf, n, "-");
    else if (strcmp(kind, "time") == 0)
        human_time(json_number_value(v), buf, n);
    else if (strcmp(kind, "share") == 0)
        snprintf(buf, n, "%.2f %%", 100 * json_number_value(v));
    else
        snprintf(buf, n, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
}

/* A reader's size of the predicted bytes, or of FLOPs. */
static void about(const json_t *row, char *buf, size_t n)
{
    const char *kind = json_string_value(json_object_get(row, "kind"));
    const double x = json_number_value(json_object_get(row, "predicted"));

    if (is_bytes(kind))
        human_size(x, buf, n);
    else if (strcmp(kind, "flops") == 0)
        three_digits(x * 1e-9, "GFLOP", buf, n);
    else
        snprintf(buf, n, "%s", "");
}

static void verdict(const json_t *row, char *buf, size_t n)
{
    const char *kind = json_string_value(json_object_get(row, "kind"));
    const json_t *err = json_object_get(row, "error");
    const bool counted = strcmp(kind, "time") != 0;

    if (!json_is_number(json_object_get(row, "measured")))
        snprintf(buf, n, "-");
    else if (strcmp(kind, "bound") == 0 && row_holds(row))
        snprintf(buf, n, "within");
    else if (counted && json_equal(json_object_get(row, "predicted"), json_object_get(row, "measured")))
        snprintf(buf, n, "agree");
    else if (!json_is_number(err))
        snprintf(buf, n, "%s", decides(kind) ? "DIFFER" : "-");
    else
        snprintf(buf, n, "%s%+.1f %%", decides(kind) ? "DIFFER " : "", 100 * json_number_value(err));
}

/* One line of `n` cells; a negative width aligns left, 0 is as wide as the text. */
static void print_cells(FILE *f, bool md, const int *width, const char *const *cell, size_t n)
{
    for (size_t i = 0; i < n; i++)
        fprintf(f, "%s%*s%s", md ? "| " : i ? "  " : "", width[i], cell[i], md ? " " : "");
    fprintf(f, md ? "|\n" : "\n");
}

/* "1.3e-03", "0", "-" where there is none, the reason where there is one that says more. */
static void fidelity_cell(const json_t *result, const char *field, char *buf, size_t n)
{
    const json_t *f = json_object_get(result, "fidelity"), *x = json_object_get(f, field);

    if (json_is_true(json_object_get(f, "needs_training")))
        snprintf(buf, n, "needs training");
    else if (!json_is_number(x))
        snprintf(buf, n, "-");
    else
        snprintf(buf, n, json_number_value(x) > 0 ? "%.1e" : "%.0f", json_number_value(x));
}

/* What the logits were, against the full cache's. */
static void print_fidelity(FILE *f, const json_t *result)
{
    const json_t *o = json_object_get(result, "fidelity");
    const char *note = json_string_value(json_object_get(o, "note"));
    char error[32], divergence[32];

    if (!o)
        return;
    fidelity_cell(result, "relative_logit_error", error, sizeof(error));
    fidelity_cell(result, "kl_divergence", divergence, sizeof(divergence));
    fprintf(f, "\nagainst the full cache on the same tokens: ");
    if (json_is_number(json_object_get(o, "relative_logit_error")))
        fprintf(f, "relative logit error %s, KL divergence %s nats a row, %" JSON_INTEGER_FORMAT " rows%s", error, divergence,
                json_integer_value(json_object_get(o, "rows")), note ? "; " : "");
    fprintf(f, "%s\n", note ? note : "");
}

/* What the kernels of one forward wrote; < 0 where it did not run. */
static double wrote(const json_t *result, const char *phase)
{
    json_t *ran = json_object_get(json_object_get(result, "kernels"), phase), *k;
    const char *name;
    double sum = 0;

    json_object_foreach(ran, name, k)
        sum += json_number_value(json_object_get(k, "bytes_written"));
    return json_object_size(ran) ? sum : -1;
}

static void wrote_cell(const json_t *result, const char *phase, char *buf, size_t n)
{
    const double sum = wrote(result, phase);

    if (sum < 0)
        snprintf(buf, n, "-");
    else
        human_size(sum, buf, n);
}

static void print_kernels(FILE *f, const json_t *result)
{
    static const char *const phases[][2] = {{"prefill", "kernels of a prefill"}, {"decode", "kernels of a decode step"}};
    char size[32], sum[32];

    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
        json_t *ran = json_object_get(json_object_get(result, "kernels"), phases[i][0]), *k;
        const char *name, *comma = "";

        if (json_object_size(ran) == 0)
            continue;
        wrote_cell(result, phases[i][0], sum, sizeof(sum));
        fprintf(f, "\n%s, which wrote %s: ", phases[i][1], sum);
        json_object_foreach(ran, name, k) {
            human_size(json_number_value(json_object_get(k, "bytes_written")), size, sizeof(size));
            fprintf(f, "%s%s %" JSON_INTEGER_FORMAT "x %s", comma, name, json_integer_value(json_object_get(k, "calls")), size);
            comma = ", ";
        }
        fprintf(f, "\n");
    }
}

static const int row_width[] = {-22, 16, 16, 10, 12, 0};
/* The first column is as wide as the longest name, and at least so wide. */
static const int summary_width[] = {-52, 14, 14, 10, 14, 14, 10, 10, 13, 10, 14, 14, 0};
enum { SUMMARY = sizeof(summary_width) / sizeof(summary_width[0]) };

static bool is_step(const json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "row"));

    return strcmp(name, "prefill") == 0 || strcmp(name, "decode step") == 0;
}

static void print_row(FILE *f, const json_t *row, bool md)
{
    const char *kind = json_string_value(json_object_get(row, "kind"));
    char p[64], m[64], a[64], v[64];

    human(kind, json_object_get(row, "predicted"), p, sizeof(p));
    human(kind, json_object_get(row, "measured"), m, sizeof(m));
    about(row, a, sizeof(a));
    verdict(row, v, sizeof(v));
    print_cells(f, md, row_width,
                (const char *const[]){json_string_value(json_object_get(row, "row")), p, m, a, v,
                                      json_string_value(json_object_get(row, "how"))}, 6);
}

static const char *why_not(const json_t *result)
{
    return json_string_value(json_object_get(result, "not_applicable"));
}

static const char *no_rows(const json_t *result)
{
    return json_object_get(result, "not_run") ? "" : "not applicable: ";
}

/* `ops`: every op; otherwise memory, FLOPs and whole forwards. */
static void print_rows(FILE *f, const json_t *result, bool md, bool ops)
{
    bool timed = false;
    char name[512];
    size_t i;
    json_t *row;

    join_techniques(result, name, sizeof(name));
    fprintf(f, md ? "\n### %s\n\n" : "\n%s\n", name);
    if (why_not(result)) {
        fprintf(f, "  %s%s\n", no_rows(result), why_not(result));
        return;
    }
    print_cells(f, md, row_width,
                (const char *const[]){"row", "predicted", "measured", "about", "error", "how known: predicted | measured"}, 6);
    if (md)
        fprintf(f, "| --- | ---: | ---: | ---: | ---: | --- |\n");
    json_array_foreach(json_object_get(result, "rows"), i, row) {
        const bool time = strcmp(json_string_value(json_object_get(row, "kind")), "time") == 0;

        if (time && !ops && !is_step(row))
            continue;
        if (time && !timed && !md)
            fprintf(f, "\n");
        timed = timed || time;
        print_row(f, row, md);
    }
    print_kernels(f, result);
    print_fidelity(f, result);
}

static json_t *find_row(const json_t *result, const char *name)
{
    size_t i;
    json_t *row;

    json_array_foreach(json_object_get(result, "rows"), i, row)
        if (strcmp(json_string_value(json_object_get(row, "row")), name) == 0)
            return row;
    return NULL;
}

static void cell(const json_t *result, const char *row, const char *field, const char *kind, char *buf, size_t n)
{
    const json_t *r = find_row(result, row);

    human(kind, r ? json_object_get(r, field) : NULL, buf, n);
}

static bool random_weights(const json_t *results)
{
    const char *from = json_string_value(json_object_get(json_array_get(results, 0), "weights_from"));

    return from && strcmp(from, "random") == 0;
}

/* One line a stack: the answer a reader came for. */
static void print_summary(FILE *f, const json_t *results, bool md)
{
    static const struct {
        const char *row, *field, *kind;
    } columns[] = {{"cache at rest", "predicted", "bytes"}, {"cache at rest", "measured", "bytes"},
                   {"cache at peak", "predicted", "bytes"}, {"cache at peak", "measured", "bytes"},
                   {"decode step", "predicted", "time"}, {"decode step", "measured", "time"}};
    int width[SUMMARY];
    size_t i;
    json_t *r;

    memcpy(width, summary_width, sizeof(width));
    json_array_foreach(results, i, r) {
        char name[512];

        join_techniques(r, name, sizeof(name));
        width[0] = -(int)strlen(name) < width[0] ? -(int)strlen(name) : width[0];
    }
    fprintf(f, "\n");
    print_cells(f, md, width,
                (const char *const[]){"technique", "rest predicted", "rest measured", "about", "peak predicted",
                                      "peak measured", "step pred.", "step meas.", "prefill wrote", "step wrote", "logit error",
                                      "KL", "bytes"}, SUMMARY);
    if (md)
        fprintf(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n");
    json_array_foreach(results, i, r) {
        char name[512], size[64], c[6][64], error[32], divergence[32], prefill[32], step[32];
        const json_t *rest = find_row(r, "cache at rest");

        join_techniques(r, name, sizeof(name));
        if (why_not(r)) {
            fprintf(f, md ? "| %*s | %s%s |\n" : "%*s  %s%s\n", md ? 0 : width[0], name, no_rows(r), why_not(r));
            continue;
        }
        for (size_t k = 0; k < 6; k++)
            cell(r, columns[k].row, columns[k].field, columns[k].kind, c[k], sizeof(c[k]));
        fidelity_cell(r, "relative_logit_error", error, sizeof(error));
        fidelity_cell(r, "kl_divergence", divergence, sizeof(divergence));
        wrote_cell(r, "prefill", prefill, sizeof(prefill));
        wrote_cell(r, "decode", step, sizeof(step));
        human_size(rest ? json_number_value(json_object_get(rest, "measured")) : 0, size, sizeof(size));
        print_cells(f, md, width,
                    (const char *const[]){name, c[0], c[1], size, c[2], c[3], c[4], c[5], prefill, step, error, divergence,
                                          res_bytes_agree(r) ? "agree" : "DIFFER"}, SUMMARY);
    }
    fprintf(f, "\nlogit error, KL (nats a row): against the full cache on the same tokens%s\n",
            random_weights(results) ? "; random weights: not a statement about quality" : "");
}

static void print_trace(FILE *f, const json_t *r, json_int_t layers, const char *weights, const char *kv)
{
    const json_t *t = json_object_get(r, "trace");

    fprintf(f, "%" JSON_INTEGER_FORMAT " layers, weights %s, cache %s; %s: %" JSON_INTEGER_FORMAT " requests, a pool of %"
            JSON_INTEGER_FORMAT " blocks, a step every %g s of the trace\n", layers, weights, kv,
            json_string_value(json_object_get(t, "name")), json_integer_value(json_object_get(t, "requests")),
            json_integer_value(json_object_get(t, "blocks")), json_real_value(json_object_get(t, "step_s")));
}

static void print_head(FILE *f, const json_t *r, bool md)
{
    const char *name = "?", *dev = "?", *isa = "", *be = "?", *w = "?", *kv = "?";
    json_int_t prompt = 0, generate = 0, context = 0, batch = 0, layers = 0, parameters = 0;
    double bw = 0, fl = 0, la = 0;

    json_unpack((json_t *)r, "{s:{s:s,s:I,s?I}, s?{s:I,s:I,s:I,s:I}, s:{s:s,s:s}, s:{s:s,s:s,s:s}, s:{s:F,s:F,s:F}}",
                "model", "name", &name, "layers", &layers, "parameters", &parameters, "workload", "prompt",
                &prompt, "generate", &generate, "context", &context, "batch", &batch, "formats", "weights",
                &w, "kv", &kv, "backend", "name", &be, "device", &dev, "isa", &isa, "probe",
                "read_gb_per_s", &bw, "gemm_gflop_per_s", &fl, "launch_us", &la);
    fprintf(f, md ? "## %s\n\n" : "%s\n", name);
    if (json_object_get(r, "trace"))
        print_trace(f, r, layers, w, kv);
    else
        fprintf(f, "%" JSON_INTEGER_FORMAT " parameters, %" JSON_INTEGER_FORMAT " layers, weights %s, cache %s; batch %"
            JSON_INTEGER_FORMAT ", prompt %" JSON_INTEGER_FORMAT " + %" JSON_INTEGER_FORMAT " generated = context %"
            JSON_INTEGER_FORMAT "\n", parameters, layers, w, kv, batch, prompt, generate, context);
    fprintf(f, "ran on %s: %s (%s); weights: %s\n", be, dev, isa,
            json_string_value(json_object_get(r, "weights_from")));
    fprintf(f, "times rest on a roofline probed in this run, not calibrated: read %.1f GB/s, f32 GEMM %.1f GFLOP/s, "
            "%.2f us a call; causal FLOPs are halved\n", bw, fl, la);
}

static void print_csv_row(FILE *f, const json_t *result, const json_t *row)
{
    static const char *const fields[] = {"predicted", "measured", "error"};
    const json_t *w = json_object_get(result, "workload");
    char name[512];

    join_techniques(result, name, sizeof(name));
    fprintf(f, "%s,\"%s\",%" JSON_INTEGER_FORMAT ",%" JSON_INTEGER_FORMAT ",%s,%s",
            json_string_value(json_object_get(json_object_get(result, "model"), "name")), name,
            json_integer_value(json_object_get(w, "context")), json_integer_value(json_object_get(w, "batch")),
            json_string_value(json_object_get(row, "row")), json_string_value(json_object_get(row, "kind")));
    for (size_t k = 0; k < 3; k++) {
        const json_t *v = json_object_get(row, fields[k]);

        if (json_is_integer(v))
            fprintf(f, ",%" JSON_INTEGER_FORMAT, json_integer_value(v));
        else if (json_is_real(v))
            fprintf(f, ",%.9g", json_real_value(v));
        else
            fprintf(f, ",");
    }
    fprintf(f, ",\"%s\"\n", json_string_value(json_object_get(row, "how")));
}

/* Fidelity as rows: nothing is predicted of it. */
static void print_csv_fidelity(FILE *f, const json_t *result)
{
    static const char *const fields[][2] = {{"relative_logit_error", "relative logit error"}, {"kl_divergence", "KL divergence"}};
    const json_t *o = json_object_get(result, "fidelity");
    const char *note = json_string_value(json_object_get(o, "note"));

    for (size_t i = 0; o && i < sizeof(fields) / sizeof(fields[0]); i++) {
        json_t *row = json_pack("{s:s, s:s, s:O, s:s}", "row", fields[i][1], "kind", "fidelity", "measured",
                                json_object_get(o, fields[i][0]), "how", note ? note : "against the full cache on the same tokens");

        if (row)
            print_csv_row(f, result, row);
        json_decref(row);
    }
}

static void print_csv(FILE *f, const json_t *results)
{
    size_t i, j;
    json_t *r, *row;

    fprintf(f, "model,techniques,context,batch,row,kind,predicted,measured,error,how\n");
    json_array_foreach(results, i, r) {
        json_array_foreach(json_object_get(r, "rows"), j, row)
            print_csv_row(f, r, row);
        print_csv_fidelity(f, r);
    }
}

static void print_text(FILE *f, const json_t *results, bool md)
{
    size_t i;
    json_t *r;

    json_array_foreach(results, i, r)
        if (!json_object_get(r, "not_applicable")) {
            print_head(f, r, md);
            break;
        }
    json_array_foreach(results, i, r)
        print_rows(f, r, md, json_array_size(results) == 1);
    if (json_array_size(results) > 1)
        print_summary(f, results, md);
}

kvp_err res_print(FILE *f, const char *format, const json_t *results, struct kvp_error *e)
{
    size_t i;
    json_t *r;

    if (strcmp(format, "json") == 0) {
        json_dumpf(json_array_size(results) == 1 ? json_array_get(results, 0) : results, f, JSON_INDENT(2));
        fputc('\n', f);
    } else if (strcmp(format, "jsonl") == 0) {
        json_array_foreach(results, i, r) {
            json_dumpf(r, f, JSON_COMPACT);
            fputc('\n', f);
        }
    } else if (strcmp(format, "csv") == 0) {
        print_csv(f, results);
    } else if (strcmp(format, "md") == 0 || strcmp(format, "table") == 0) {
        print_text(f, results, strcmp(format, "md") == 0);
    } else {
        return kvp_fail(e, KVP_EINPUT, "-o %s: expected table, json, jsonl, csv or md", format);
    }
    return ferror(f) ? kvp_fail(e, KVP_ESYS, "writing the result failed") : KVP_OK;
}
