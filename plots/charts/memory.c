/* memory: what each technique's cache takes, and what the whole run takes at its peak. A bar of the
 * prediction above a bar of the measurement; nothing that was not predicted or measured is drawn. */
#include "plots/charts/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum part { REST, METADATA, PEAK, WEIGHTS, STATE, ACTIVATION, WORKSPACE, TOTAL, PARTS };

/* Where a part is found; an estimate has no row but a key of its "memory". */
static const struct {
    const char *row, *key;
} parts[PARTS] = {
    [REST] = {"cache at rest", "cache_bytes"},
    [METADATA] = {"metadata", "metadata_bytes"},
    [PEAK] = {"cache at peak", "cache_peak_bytes"},
    [WEIGHTS] = {"weights", "weights_bytes"},
    [STATE] = {"state", "state_bytes"},
    [ACTIVATION] = {"activation", "activation_bytes"},
    [WORKSPACE] = {"workspace", "workspace_bytes"},
    [TOTAL] = {"total at peak", "peak_bytes"},
};

enum { CACHE_COLOUR = 0x0072b2, METADATA_COLOUR = 0xe69f00, WEIGHTS_COLOUR = 0x8c8c8c, DEVICE_COLOUR = 0xd55e00 };

/* The right panel's stack, left to right. */
static const struct segment {
    enum part part;
    unsigned colour;
    const char *name;
} stack[] = {
    {WEIGHTS, WEIGHTS_COLOUR, "weights"},
    {PEAK, CACHE_COLOUR, "cache"},
    {STATE, 0xcc79a7, "state"},
    {ACTIVATION, 0x009e73, "activation"},
    {WORKSPACE, 0x56b4e9, "workspace"},
};
enum { SEGMENTS = sizeof(stack) / sizeof(stack[0]) };

struct bar {
    const json_t *result;
    double predicted[PARTS], measured[PARTS]; /* bytes; -1: not known */
};

struct bars {
    struct bar *bar;
    size_t n;
    size_t undrawn; /* results without rows: not applicable, not run */
    bool measured, seen[PARTS];
    bool more; /* some total is more than its parts */
    double max_cache, max_total;
};

/* Pixels. */
enum { WIDTH = 1200, ROW = 62, TOP = 150, BELOW = 76, LINE = 18, LEFT = 236, SPLIT = 770, RIGHT = 1172 };

/* ---- reading --------------------------------------------------------------------------------------- */

static void read_estimate(struct bar *b)
{
    const json_t *m = json_object_get(b->result, "memory");

    for (int i = 0; i < PARTS; i++) {
        b->predicted[i] = result_number(m, parts[i].key);
        b->measured[i] = -1;
    }
    if (b->predicted[PEAK] < 0)
        b->predicted[PEAK] = b->predicted[REST] + b->predicted[TOTAL] - result_number(m, "total_bytes");
}

static kvp_err read_validate(struct bar *b, const char *origin, struct kvp_error *e)
{
    for (int i = 0; i < PARTS; i++) {
        const json_t *row = result_row(b->result, parts[i].row);

        b->predicted[i] = result_number(row, "predicted");
        b->measured[i] = result_number(row, "measured");
        if (b->predicted[i] < 0)
            return kvp_fail(e, KVP_EINPUT, "%s: no row '%s' with a predicted number", origin, parts[i].row);
    }
    return KVP_OK;
}

static void notice(struct bars *s, const struct bar *b)
{
    double sum = 0;

    for (size_t i = 0; i < SEGMENTS; i++)
        sum += b->predicted[stack[i].part];
    s->more = s->more || b->predicted[TOTAL] > sum;
    for (int i = 0; i < PARTS; i++)
        s->seen[i] = s->seen[i] || b->predicted[i] > 0;
    s->measured = s->measured || b->measured[REST] >= 0;
    s->max_cache = fmax(s->max_cache, fmax(fmax(b->predicted[REST], b->measured[REST]),
                                           fmax(b->predicted[PEAK], b->measured[PEAK])));
    s->max_total = fmax(s->max_total, fmax(b->predicted[TOTAL], b->measured[TOTAL]));
}

static kvp_err read_bars(struct bars *s, const struct results *r, struct kvp_error *e)
{
    s->bar = calloc(r->n, sizeof(*s->bar));
    if (!s->bar)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a chart");
    for (size_t i = 0; i < r->n; i++) {
        struct bar *b = &s->bar[s->n];

        b->result = json_array_get(r->array, i);
        if (result_not_applicable(b->result)) {
            s->undrawn++;
            continue;
        }
        if (result_kind(b->result) == RESULTS_ESTIMATE)
            read_estimate(b);
        else
            KVP_TRY(read_validate(b, r->origin[i], e));
        notice(s, b);
        s->n++;
    }
    return s->n ? KVP_OK : kvp_fail(e, KVP_EINPUT, "memory: nothing to draw, none of the %zu results has rows", r->n);
}

/* ---- labels ---------------------------------------------------------------------------------------- */

/* A stack's names in black, its parameters below in grey, at most three lines of them. */
static void technique_label(struct gp *g, const struct bar *b, double y, bool tell_model)
{
    const char *style = "right font 'sans-serif,9' textcolor rgb '#666666'";
    char names[256], full[1024], line[48], *p = full, *rest;
    size_t used = 0;
    int lines = 0;

    result_techniques(b->result, true, names, sizeof(names));
    result_techniques(b->result, false, full, sizeof(full));
    gp_label(g, LEFT - 12, y - 18, "right font 'sans-serif,12'", "%.34s", names);
    if (tell_model)
        gp_label(g, LEFT - 12, y - 2 + 14 * lines++, style, "%.24s, context %" JSON_INTEGER_FORMAT,
                 json_string_value(json_object_get(json_object_get(b->result, "model"), "name")),
                 json_integer_value(json_object_get(json_object_get(b->result, "workload"), "context")));
    for (char *item = strtok_r(p, ":,+ ", &rest); item; item = strtok_r(NULL, ":,+ ", &rest)) {
        const size_t n = strlen(item);

        if (!strpbrk(item, "=0123456789") || strstr(names, item))
            continue;
        if (used && used + n + 2 > 33) {
            gp_label(g, LEFT - 12, y - 2 + 14 * lines++, style, "%s", line);
            used = 0;
        }
        if (lines == 3)
            return;
        used += (size_t)snprintf(line + used, sizeof(line) - used, "%s%.32s", used ? ", " : "", item);
    }
    if (used)
        gp_label(g, LEFT - 12, y - 2 + 14 * lines, style, "%s", line);
}

/* What the measurement says about the prediction, in words and to the byte. */
static void verdict(const struct bar *b, enum part part, bool bound, char *buf, size_t n)
{
    const double off = b->measured[part] - b->predicted[part];
    char size[32];

    gp_bytes(b->measured[part], size, sizeof(size));
    if (off == 0)
        snprintf(buf, n, "%s, equal%s", size, bound ? "" : " to the byte");
    else if (bound && off < 0)
        snprintf(buf, n, "%s, within", size);
    else
        snprintf(buf, n, "%s, DIFFERS by %+.0f B", size, off);
}

static void value_label(struct gp *g, const char *text, double end, double y, const char *colour)
{
    fprintf(g->f, "set label '%s' at first %.17g/u,%g left offset 0.7,0 font 'sans-serif,10' textcolor rgb '%s'\n",
            text, end, y, colour);
}

/* Beside the bars of every row: `shown` in words, to the right of it and of `furthest`. */
static void value_labels(struct gp *g, const struct bars *s, enum part shown, enum part furthest, bool bound)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct bar *b = &s->bar[i];
        const double row = (double)i, predicted = fmax(b->predicted[shown], b->predicted[furthest]);
        const double end = fmax(predicted, fmax(b->measured[shown], b->measured[furthest]));
        char text[96];

        gp_bytes(b->predicted[shown], text, sizeof(text));
        value_label(g, text, end, s->measured ? row - 0.2 : row, "#000000");
        if (b->measured[shown] < 0)
            continue;
        verdict(b, shown, bound, text, sizeof(text));
        value_label(g, text, end, row + 0.2, "#444444");
    }
}

/* ---- the program ----------------------------------------------------------------------------------- */

static void data(struct gp *g, const struct bars *s)
{
    fprintf(g->f, "# row, then bytes predicted and bytes measured, each: cache at rest, its metadata, cache at\n"
                  "# peak, weights, state, activation, workspace, total at peak; -1: not known\n$bars << EOD\n");
    for (size_t i = 0; i < s->n; i++) {
        fprintf(g->f, "%zu", i);
        for (int k = 0; k < PARTS; k++)
            fprintf(g->f, " %.0f", s->bar[i].predicted[k]);
        for (int k = 0; k < PARTS; k++)
            fprintf(g->f, " %.0f", s->bar[i].measured[k]);
        fputc('\n', g->f);
    }
    fprintf(g->f, "EOD\n");
}

/* A part's value in a row of $bars, as gnuplot sees it. */
struct column {
    char text[16];
};

static struct column predicted(enum part p)
{
    struct column c;

    snprintf(c.text, sizeof(c.text), "$%d", 2 + (int)p);
    return c;
}

static struct column measured(enum part p)
{
    struct column c;

    snprintf(c.text, sizeof(c.text), "$%d", 2 + PARTS + (int)p);
    return c;
}

/* Boxes from value `from` to value `to` in every row whose `known` is not -1: the predicted ones in full
 * colour, the measured ones pale below them. */
static void boxes(struct gp *g, bool pale, const char *known, const char *from, const char *to, unsigned colour)
{
    fprintf(g->f, "$bars using (0):1:(w(%s,%s)):(w(%s,%s)):($1+%s):($1+%s) ", known, from, known, to,
            pale ? "0.04" : "top", pale ? "0.36" : "end");
    fprintf(g->f, "with boxxyerror fs solid %s noborder fc rgb '#%06x'", pale ? "0.45" : "1", colour);
}

static void peak_marks(struct gp *g, const char *value, const char *from, const char *length)
{
    fprintf(g->f, "$bars using (w(%s,%s)):($1+%s):(0):(%s) with vectors nohead lw 2 lc rgb '#000000'", value, value,
            from, length);
}

/* Between two elements of one plot command. */
static void next(struct gp *g)
{
    fprintf(g->f, ", \\\n     ");
}

static void unit(struct gp *g, double largest, const char *what)
{
    const double u = largest >= 0x1p30 ? 0x1p30 : largest >= 0x1p20 ? 0x1p20 : 0x1p10;

    fprintf(g->f, "u = %.0f.0\nset xlabel '%s [%s]'\n", u, what, u == 0x1p30 ? "GiB" : u == 0x1p20 ? "MiB" : "KiB");
}

static void panel(struct gp *g, const struct bars *s, double left, double right, double bottom)
{
    gp_panel(g, left, TOP, right, bottom);
    fprintf(g->f, "set yrange [%g:-0.5]\n", (double)s->n - 0.5);
}

static void cache_boxes(struct gp *g, bool pale, const char *rest, const char *metadata)
{
    char rows[40];

    snprintf(rows, sizeof(rows), "%s-%s", rest, metadata);
    boxes(g, pale, rest, "0", rows, CACHE_COLOUR);
    next(g);
    boxes(g, pale, rest, rows, rest, METADATA_COLOUR);
}

static void cache_panel(struct gp *g, const struct bars *s)
{
    unit(g, s->max_cache, "cache");
    fprintf(g->f, "set xrange [0:%.17g/u]\n", s->max_cache * 1.55);
    value_labels(g, s, REST, PEAK, false);
    fprintf(g->f, "plot ");
    cache_boxes(g, false, predicted(REST).text, predicted(METADATA).text);
    next(g);
    cache_boxes(g, true, measured(REST).text, measured(METADATA).text);
    next(g);
    peak_marks(g, predicted(PEAK).text, "top-0.02", "end-top+0.04");
    next(g);
    peak_marks(g, measured(PEAK).text, "0.02", "0.36");
    fputc('\n', g->f);
}

static void total_panel(struct gp *g, const struct bars *s)
{
    char low[120] = "0", high[120] = "";

    unit(g, s->max_total, "memory");
    fprintf(g->f, "set xrange [0:%.17g/u]\nunset ytics\n", s->max_total * 1.5);
    value_labels(g, s, TOTAL, TOTAL, true);
    fprintf(g->f, "plot ");
    for (size_t i = 0; i < SEGMENTS; i++) {
        snprintf(high, sizeof(high), "%.100s+%s", low, predicted(stack[i].part).text);
        boxes(g, false, "0", low, high, stack[i].colour);
        next(g);
        memcpy(low, high, sizeof(low));
    }
    if (s->more) {
        boxes(g, false, "0", low, predicted(TOTAL).text, DEVICE_COLOUR);
        next(g);
    }
    boxes(g, true, measured(TOTAL).text, "0", measured(TOTAL).text, WEIGHTS_COLOUR);
    fputc('\n', g->f);
}

static void legend(struct gp *g, const struct bars *s)
{
    const double y = TOP - 20;
    double x = LEFT + 6;

    gp_label(g, LEFT, TOP - 44, "left font 'sans-serif,12'", "cache at rest%s",
             s->measured ? ": predicted above, measured below (pale)" : "");
    gp_label(g, SPLIT, TOP - 44, "left font 'sans-serif,12'", "whole run at its peak");
    gp_mark(g, x, y, 5, 1.4, CACHE_COLOUR, "rows");
    gp_mark(g, x + 66, y, 5, 1.4, METADATA_COLOUR, "metadata");
    gp_label(g, x + 164, y, "left font 'sans-serif,10' textcolor rgb '#222222'", "│ cache at its peak");
    x = SPLIT + 6;
    for (size_t i = 0; i < SEGMENTS; i++) {
        if (!s->seen[stack[i].part])
            continue;
        gp_mark(g, x, y, 5, 1.4, stack[i].colour, stack[i].name);
        x += 38 + 6.2 * (double)strlen(stack[i].name);
    }
    if (s->more)
        gp_mark(g, x, y, 5, 1.4, DEVICE_COLOUR, "device");
}

static void captions(struct gp *g, const struct results *r, double y)
{
    const char *style = "left font 'sans-serif,10' textcolor rgb '#555555'";

    gp_label(g, 24, y, style,
             "activation and workspace are predicted as upper bounds, weights and cache to the byte");
    y += LINE;
    for (size_t i = 0; i < r->n; i++) {
        const json_t *res = json_array_get(r->array, i);
        char name[512];

        if (!result_not_applicable(res))
            continue;
        result_techniques(res, true, name, sizeof(name));
        gp_label(g, 24, y, style, "not drawn: %.60s (%.120s)", name,
                 result_not_applicable(res));
        y += LINE;
    }
}

static void write_program(struct gp *g, const struct bars *s, const struct results *r)
{
    const double height = TOP + ROW * (double)s->n + BELOW + LINE * (double)(s->undrawn + 1);
    const double bottom = TOP + ROW * (double)s->n;

    gp_begin(g, WIDTH, height);
    data(g, s);
    fprintf(g->f, "w(known,x) = known < 0 ? NaN : x/u\n"
                  "top = %g\nend = %g\nunset key\nset border 1 lc rgb '#888888'\n"
                  "set tics nomirror textcolor rgb '#333333'\nunset ytics\n"
                  "set grid xtics lt 1 lc rgb '#e4e4e4'\nset multiplot\n",
            s->measured ? -0.36 : -0.26, s->measured ? -0.04 : 0.26);
    chart_title(g, r, s->measured ? "memory by technique, predicted and measured" : "memory by technique, predicted");
    for (size_t i = 0; i < s->n; i++)
        technique_label(g, &s->bar[i], TOP + ROW * ((double)i + 0.5), !chart_one_workload(r));
    legend(g, s);
    captions(g, r, bottom + BELOW - 8);
    panel(g, s, LEFT, SPLIT - 34, bottom);
    cache_panel(g, s);
    fprintf(g->f, "unset label\n");
    panel(g, s, SPLIT, RIGHT, bottom);
    total_panel(g, s);
    fprintf(g->f, "unset multiplot\n");
}

static kvp_err draw(struct gp *g, const struct results *r, struct kvp_error *e)
{
    struct bars s = {0};
    kvp_err rc = read_bars(&s, r, e);

    if (rc == KVP_OK)
        write_program(g, &s, r);
    free(s.bar);
    return rc;
}

const struct chart kvp_chart_memory = {
    .name = "memory",
    .reads = "results of validate, or of estimate",
    .summary = "cache and everything else per technique, predicted above measured",
    .kinds = RESULTS_VALIDATE | RESULTS_ESTIMATE,
    .draw = draw,
};
