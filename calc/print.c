#include "calc/print.h"

#include "calc/print_json.h"
#include "calc/table.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* What is printed, and where. */
struct page {
    FILE *f;
    const char *format;
    bool detail;
    const struct kvp_model *m;
    const struct kvp_stack *s;
    const struct kvp_estimate *est;
    const struct kvp_device *device;
};

static void size_text(char *buf, size_t n, uint64_t bytes)
{
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    int i = 0;

    for (; v >= 1024 && i < 6; i++)
        v /= 1024;
    snprintf(buf, n, i ? "%.3f %s" : "%.0f %s", v, names[i]);
}

static void seconds_text(char *buf, size_t n, double s)
{
    if (s >= 1)
        snprintf(buf, n, "%.4g s", s);
    else if (s >= 1e-3)
        snprintf(buf, n, "%.4g ms", s * 1e3);
    else
        snprintf(buf, n, "%.4g us", s * 1e6);
}

static void count_text(char *buf, size_t n, double v)
{
    static const char *const names[] = {"", "k", "M", "G", "T", "P", "E"};
    int i = 0;

    for (; v >= 1000 && i < 6; i++)
        v /= 1000;
    snprintf(buf, n, "%.4g %s", v, names[i]);
}

/* ---- rows ----------------------------------------------------------------------------------------- */

/* Columns of every row of an estimate: section, name, value, unit, readable, how. */
enum { SECTION, NAME, VALUE, UNIT, READABLE, HOW, N_COLUMNS };

static void bytes_row(struct table *t, const char *section, const char *name, uint64_t bytes, const char *how)
{
    char value[32], readable[32];

    snprintf(value, sizeof(value), "%" PRIu64, bytes);
    size_text(readable, sizeof(readable), bytes);
    table_row(t, section, name, value, "B", readable, how);
}

static void flops_row(struct table *t, const char *name, uint64_t flops, const char *how)
{
    char value[32], readable[32], text[40];

    snprintf(value, sizeof(value), "%" PRIu64, flops);
    count_text(readable, sizeof(readable), (double)flops);
    snprintf(text, sizeof(text), "%sFLOP", readable);
    table_row(t, "work", name, value, "FLOP", text, how);
}

static void time_row(struct table *t, const char *name, double s, double lo, double hi, const char *basis)
{
    char value[32], readable[32], low[32], high[32], how[160];

    snprintf(value, sizeof(value), "%.9g", s);
    seconds_text(readable, sizeof(readable), s);
    seconds_text(low, sizeof(low), lo);
    seconds_text(high, sizeof(high), hi);
    snprintf(how, sizeof(how), "%s, from %s to %s", basis, low, high);
    table_row(t, "work", name, value, "s", readable, how);
}

static void memory_rows(struct table *t, const struct kvp_estimate *est)
{
    const struct kvp_memory *m = &est->memory;

    for (uint32_t i = 0; i < est->n_parts; i++)
        bytes_row(t, "memory", est->parts[i].name, est->parts[i].bytes, est->parts[i].how);
    bytes_row(t, "memory", "total", m->total_bytes, "sum of the rows above");
    bytes_row(t, "memory", "peak", m->peak_bytes, "total, with the cache at its highest");
    bytes_row(t, "memory", "cache at rest", m->cache_bytes, "keys and values + metadata");
    bytes_row(t, "memory", "cache at its highest", m->cache_peak_bytes, "exact: over prefill and every step");
}

static void work_rows(struct table *t, const struct kvp_estimate *est, const struct kvp_device *d)
{
    flops_row(t, "prefill", est->flops_prefill, "matrix products; the masked half of attention counted");
    flops_row(t, "prefill, causal", est->flops_prefill_causal, "matrix products; the masked half left out");
    flops_row(t, "decode step", est->flops_decode, "matrix products; the query sees the whole context");
    bytes_row(t, "work", "prefill moves", est->traffic_prefill, "compulsory: every operand once per op");
    bytes_row(t, "work", "decode step moves", est->traffic_decode, "compulsory: weights once, stored cache once");
    if (!d)
        return;
    time_row(t, "time to first token", est->ttft_s, est->ttft_lo, est->ttft_hi, est->basis);
    time_row(t, "time per decode step", est->tpot_s, est->tpot_lo, est->tpot_hi, est->basis);
    {
        char value[32];

        snprintf(value, sizeof(value), "%.6g", est->tokens_per_s);
        table_row(t, "work", "tokens per second", value, "1/s", value, "batch / time per decode step");
    }
}

static void class_text(char *buf, size_t n, uint32_t cls)
{
    if (cls == UINT32_MAX)
        snprintf(buf, n, "model");
    else
        snprintf(buf, n, "%" PRIu32, cls);
}

static void shape_text(char *buf, size_t n, const struct kvp_tensor *x)
{
    size_t used = 0;

    for (uint32_t i = 0; i < x->dims && used < n; i++)
        used += (size_t)snprintf(buf + used, n - used, "%s%" PRIu64, i ? "x" : "", x->shape[i]);
}

static void tensor_table(struct table *t, const struct kvp_estimate *est)
{
    *t = (struct table){.columns = 7, .head = {"tensor", "tag", "class", "count", "shape", "format", "bytes"},
                        .right = {[3] = true, [6] = true}, .number = {[3] = true, [6] = true}};
    for (uint32_t i = 0; i < est->n_tensors; i++) {
        const struct kvp_tensor *x = &est->tensors[i];
        char cls[16], count[32], shape[160] = "", bytes[32];

        class_text(cls, sizeof(cls), x->cls);
        snprintf(count, sizeof(count), "%" PRIu64, x->count);
        shape_text(shape, sizeof(shape), x);
        snprintf(bytes, sizeof(bytes), "%" PRIu64, x->bytes);
        table_row(t, x->name, print_tag(x->tag), cls, count, shape, kvp_format_name(x->format), bytes);
    }
}

static void op_table(struct table *t, const struct kvp_estimate *est, bool timed)
{
    *t = (struct table){.columns = 8,
                        .head = {"phase", "op", "class", "calls", "flops", "read_bytes", "written_bytes", "seconds"},
                        .right = {[3] = true, [4] = true, [5] = true, [6] = true, [7] = true},
                        .hidden = {[7] = !timed}};
    for (uint32_t i = 0; i < est->n_ops; i++) {
        const struct kvp_op_cost *x = &est->ops[i];
        char cls[16], calls[32], flops[32], read[32], written[32], seconds[32] = "";

        class_text(cls, sizeof(cls), x->cls);
        snprintf(calls, sizeof(calls), "%" PRIu64, x->calls);
        snprintf(flops, sizeof(flops), "%" PRIu64, x->flops);
        snprintf(read, sizeof(read), "%" PRIu64, x->read_bytes);
        snprintf(written, sizeof(written), "%" PRIu64, x->written_bytes);
        if (timed)
            snprintf(seconds, sizeof(seconds), "%.4g", x->seconds);
        table_row(t, x->phase == KVP_PREFILL ? "prefill" : "decode", kvp_op_name(x->op), cls, calls, flops, read, written, seconds);
    }
}

/* ---- for people ----------------------------------------------------------------------------------- */

/* The rows of one section, with its name as the head of the first column. */
static kvp_err print_section(const struct page *p, const struct table *all, const char *section, struct kvp_error *e)
{
    struct table t = {.columns = 4, .head = {section, "value", "", "how it is known"}, .right = {[1] = true, [2] = true}};
    kvp_err rc;

    if (strcmp(section, "memory") == 0)
        t.head[1] = "bytes";
    for (uint32_t r = 0; r < all->rows; r++) {
        char *const *row = &all->cell[(size_t)r * all->columns];

        if (strcmp(row[SECTION], section) == 0)
            table_row(&t, row[NAME], row[VALUE], row[READABLE], row[HOW]);
    }
    fputc('\n', p->f);
    rc = table_print(p->f, p->format, &t, e);
    table_free(&t);
    return rc;
}

static void print_head(const struct page *p)
{
    const struct kvp_estimate *est = p->est;
    const struct kvp_workload *w = &est->workload;
    const char *end = strcmp(p->format, "md") == 0 ? "  \n" : "\n";
    char stack[512];

    kvp_stack_text(p->s, stack, sizeof(stack));
    fprintf(p->f, "%s: %" PRIu64 " parameters, %u layers, weights %s, cache %s%s", p->m->name, est->parameters, p->m->layers,
            kvp_format_name(est->weights), kvp_format_name(est->kv), end);
    fprintf(p->f, "techniques: %s%s", stack, end);
    fprintf(p->f, "workload: batch %" PRIu64 ", prompt %" PRIu64 " + generate %" PRIu64 " = context %" PRIu64 "%s", w->batch, w->prompt,
            w->generate, w->context, end);
    if (est->n_lengths)
        fprintf(p->f, "lengths: %" PRIu64 " from %" PRIu64 " to %" PRIu64 "; cache and state of each, work and activation of a batch padded to the longest%s",
                est->n_lengths, est->lengths[0], est->lengths[est->n_lengths - 1], end);
    if (est->n_lengths)
        fprintf(p->f, "token-steps: %" PRIu64 ", padded to the longest %" PRIu64 " (%.1f %% of them used)%s", est->token_steps, est->static_token_steps,
                100 * (double)est->token_steps / (double)est->static_token_steps, end);
}

static void print_form(const struct page *p)
{
    const struct kvp_memory *m = &p->est->memory;

    fprintf(p->f, "\ncache = batch * (fixed + per token * context) + shared + rounding\n"
                  "      = %" PRIu64 " * (%" PRId64 " + %" PRIu64 " * %" PRIu64 ") + %" PRIu64 " + %" PRId64 " = %" PRIu64 "\n",
            p->est->workload.batch, m->fixed_bytes_per_sequence, m->bytes_per_token, p->est->workload.context, m->shared_bytes,
            m->rounding_bytes, m->cache_bytes);
}

/* A row a rank, neighbours that are alike in one. */
static kvp_err print_ranks(const struct page *p, struct kvp_error *e)
{
    const struct kvp_rank *r = p->est->ranks;
    struct table t = {.columns = 6, .head = {"ranks", "stage", "layers", "weights", "cache", "peak"},
                      .right = {false, true, true, true, true, true}};
    kvp_err rc;

    for (uint32_t i = 0, next; i < p->est->n_ranks; i = next) {
        char which[48], stage[16], layers[16], weights[32], cache[32], peak[32];

        for (next = i + 1; next < p->est->n_ranks && r[next].stage == r[i].stage &&
                           memcmp(&r[next].memory, &r[i].memory, sizeof(r[i].memory)) == 0;)
            next++;
        snprintf(which, sizeof(which), next > i + 1 ? "%" PRIu32 "-%" PRIu32 : "%" PRIu32, i, next - 1);
        snprintf(stage, sizeof(stage), "%" PRIu32, r[i].stage);
        snprintf(layers, sizeof(layers), "%" PRIu32, r[i].layers);
        snprintf(weights, sizeof(weights), "%" PRIu64, r[i].memory.weights_bytes);
        snprintf(cache, sizeof(cache), "%" PRIu64, r[i].memory.cache_bytes);
        snprintf(peak, sizeof(peak), "%" PRIu64, r[i].memory.peak_bytes);
        table_row(&t, which, stage, layers, weights, cache, peak);
    }
    fprintf(p->f, "\nevery number above is of the rank with the highest peak; times add up the stages, without communication\n\n");
    rc = table_print(p->f, p->format, &t, e);
    table_free(&t);
    return rc;
}

static void print_verdict(const struct page *p)
{
    const struct kvp_device *d = p->device;
    char peak[32], memory[32], room[32];

    if (!d)
        return;
    size_text(peak, sizeof(peak), p->est->memory.peak_bytes);
    size_text(memory, sizeof(memory), d->memory_bytes);
    size_text(room, sizeof(room), (uint64_t)(print_share(d) * (double)d->memory_bytes));
    fprintf(p->f, "\n%s: peak %s %s in %.2f * %s = %s\n%s: %s\nmemory: %s\n", d->name, peak,
            print_fits(p->est, d) ? "fits" : "does not fit", print_share(d), memory, room, d->basis, d->source, d->memory_source);
}

static kvp_err print_table(const struct page *p, const struct table *all, struct kvp_error *e)
{
    struct table t;
    kvp_err rc;

    print_head(p);
    KVP_TRY(print_section(p, all, "memory", e));
    print_form(p);
    KVP_TRY(print_section(p, all, "work", e));
    if (p->est->n_ranks)
        KVP_TRY(print_ranks(p, e));
    print_verdict(p);
    if (!p->detail)
        return KVP_OK;
    fputc('\n', p->f);
    tensor_table(&t, p->est);
    rc = table_print(p->f, p->format, &t, e);
    table_free(&t);
    fputc('\n', p->f);
    op_table(&t, p->est, p->device != NULL);
    if (rc == KVP_OK)
        rc = table_print(p->f, p->format, &t, e);
    table_free(&t);
    return rc;
}

/* ---- CSV: the same rows, flat --------------------------------------------------------------------- */

static void csv_detail(struct table *t, const struct kvp_estimate *est)
{
    char name[96], value[32], how[224], shape[160] = "", cls[16];

    for (uint32_t i = 0; i < est->n_tensors; i++) {
        const struct kvp_tensor *x = &est->tensors[i];

        class_text(cls, sizeof(cls), x->cls);
        shape_text(shape, sizeof(shape), x);
        snprintf(name, sizeof(name), "%s[%s]", x->name, cls);
        snprintf(value, sizeof(value), "%" PRIu64, x->bytes);
        snprintf(how, sizeof(how), "%s: %" PRIu64 " of %s %s", print_tag(x->tag), x->count, shape, kvp_format_name(x->format));
        table_row(t, "tensor", name, value, "B", "", how);
    }
    for (uint32_t i = 0; i < est->n_ops; i++) {
        const struct kvp_op_cost *x = &est->ops[i];
        const char *phase = x->phase == KVP_PREFILL ? "prefill" : "decode";

        class_text(cls, sizeof(cls), x->cls);
        snprintf(name, sizeof(name), "%s %s[%s]", phase, kvp_op_name(x->op), cls);
        snprintf(value, sizeof(value), "%" PRIu64, x->flops);
        table_row(t, "op", name, value, "FLOP", "", "");
        snprintf(value, sizeof(value), "%" PRIu64, x->read_bytes + x->written_bytes);
        table_row(t, "op", name, value, "B", "", "read and written");
    }
}

static void csv_form(struct table *t, const struct kvp_memory *m)
{
    char fixed[32], rounding[32];

    snprintf(fixed, sizeof(fixed), "%" PRId64, m->fixed_bytes_per_sequence);
    snprintf(rounding, sizeof(rounding), "%" PRId64, m->rounding_bytes);
    table_row(t, "cache", "fixed per sequence", fixed, "B", "", "");
    bytes_row(t, "cache", "per token", m->bytes_per_token, "in the long run");
    bytes_row(t, "cache", "shared", m->shared_bytes, "");
    table_row(t, "cache", "rounding", rounding, "B", "", "");
}

kvp_err kvp_estimate_print(FILE *f, const char *format, bool detail, const struct kvp_model *m, const struct kvp_stack *s,
                           const struct kvp_estimate *est, const struct kvp_device *device, struct kvp_error *e)
{
    const struct page p = {f, format, detail, m, s, est, device};
    const bool json = strncmp(format, "json", 4) == 0, csv = strcmp(format, "csv") == 0;
    struct table all = {.columns = N_COLUMNS, .head = {"section", "name", "value", "unit", "readable", "how"}};
    kvp_err rc;

    KVP_TRY(table_format_check(format, e));
    if (json)
        return print_json(f, strcmp(format, "jsonl") == 0, detail, m, s, est, device, e);
    memory_rows(&all, est);
    if (csv)
        csv_form(&all, &est->memory);
    work_rows(&all, est, device);
    if (csv && detail)
        csv_detail(&all, est);
    if (all.oom)
        rc = kvp_fail(e, KVP_ENOMEM, "out of memory for a table");
    else
        rc = csv ? table_print(f, format, &all, e) : print_table(&p, &all, e);
    table_free(&all);
    return rc;
}
