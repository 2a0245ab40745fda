/* predicted-vs-measured: every row twice, as bytes (which must lie on the line) and as time (which lies
 * where it lies; the band is a factor of two). Logarithmic axes, so zeros are counted in words. */
#include "plots/charts/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum group { EQUAL, BOUND, OP, STEP, GROUPS };
static const char *const group_names[GROUPS] = {"equal", "bound", "op", "step"};

struct point {
    double predicted, measured;
    enum group group;
    size_t technique; /* colour and mark */
    const char *row;
};

/* One panel's range and what did not fit on it. */
struct axis {
    double lo, hi;
    size_t n, agree, zero, unknown; /* points drawn; that hold; 0 on both sides; only one side known */
};

struct scatter {
    struct point *point;
    size_t n;
    struct axis bytes, time;
    char basis[96]; /* of the times, as the rows say */
};

/* Pixels. */
enum { WIDTH = 1200, TOP = 126, PANEL = 436, LEFT = 92, PANEL_WIDTH = 486, GAP = 100, LINE = 18, COLUMNS = 4 };

/* ---- reading --------------------------------------------------------------------------------------- */

static bool whole_step(const char *row)
{
    return strcmp(row, "prefill") == 0 || strcmp(row, "decode step") == 0;
}

/* How far off, whichever side is larger. */
static double miss(const struct point *p)
{
    return fabs(log(p->predicted / p->measured));
}

static bool holds(const struct point *p)
{
    const double ratio = p->predicted / p->measured;

    return p->group == EQUAL ? ratio == 1 : p->group == BOUND ? ratio >= 1 : ratio >= 0.5 && ratio <= 2;
}

static void add_row(struct scatter *s, const json_t *row, size_t technique)
{
    const char *kind = json_string_value(json_object_get(row, "kind"));
    struct point p = {.predicted = result_number(row, "predicted"), .measured = result_number(row, "measured"),
                      .technique = technique, .row = json_string_value(json_object_get(row, "row"))};
    struct axis *a;

    if (strcmp(kind, "flops") == 0)
        return;
    p.group = strcmp(kind, "bytes") == 0 ? EQUAL : strcmp(kind, "bound") == 0 ? BOUND : whole_step(p.row) ? STEP : OP;
    a = p.group == EQUAL || p.group == BOUND ? &s->bytes : &s->time;
    if (a == &s->time && !*s->basis)
        snprintf(s->basis, sizeof(s->basis), "%s", json_string_value(json_object_get(row, "how")));
    if (p.predicted == 0 && p.measured == 0) {
        a->zero++;
        return;
    }
    if (!(p.predicted > 0 && p.measured > 0)) {
        a->unknown++;
        return;
    }
    a->lo = fmin(a->lo, fmin(p.predicted, p.measured));
    a->hi = fmax(a->hi, fmax(p.predicted, p.measured));
    a->n++;
    a->agree += holds(&p);
    s->point[s->n++] = p;
}

static kvp_err read_points(struct scatter *s, const struct results *r, struct kvp_error *e)
{
    size_t i, k, rows = 0;
    json_t *res, *row;

    json_array_foreach(r->array, i, res)
        rows += json_array_size(json_object_get(res, "rows"));
    s->point = calloc(rows ? rows : 1, sizeof(*s->point));
    if (!s->point)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a chart");
    s->bytes = s->time = (struct axis){.lo = INFINITY};
    json_array_foreach(r->array, i, res)
        json_array_foreach(json_object_get(res, "rows"), k, row)
            add_row(s, row, i);
    return s->n ? KVP_OK
                : kvp_fail(e, KVP_EINPUT,
                           "predicted-vs-measured: nothing to draw, no row of the %zu results was both predicted and "
                           "measured",
                           r->n);
}

/* ---- the program ----------------------------------------------------------------------------------- */

/* Marks that lie on one another are nested, the first technique's outermost. */
static double mark_size(const struct point *p)
{
    return (p->group == OP ? 0.6 : 1) * (2.1 - 0.18 * (double)(p->technique % 7));
}

static void data(struct gp *g, const struct scatter *s)
{
    fprintf(g->f, "# measured, predicted (bytes or seconds), size, mark, colour, row\n");
    for (int group = 0; group < GROUPS; group++) {
        fprintf(g->f, "$%s << EOD\n", group_names[group]);
        for (size_t i = 0; i < s->n; i++) {
            const struct point *p = &s->point[i];

            if ((int)p->group == group)
                fprintf(g->f, "%.9g %.9g %.2f %d %u # %.40s\n", p->measured, p->predicted,
                        mark_size(p), gp_point(p->technique, p->group != BOUND), gp_colour(p->technique), p->row);
        }
        fprintf(g->f, "EOD\n");
    }
}

/* Ticks of a logarithmic axis, at most about seven. */
static void byte_tics(struct gp *g, const struct axis *a, const char *axis)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    const int first = (int)floor(log2(a->lo)), last = (int)ceil(log2(a->hi));
    const int step = (last - first) / 7 + 1;

    fprintf(g->f, "set %stics (", axis);
    for (int k = (first + step - 1) / step * step, n = 0; k <= last && k < 60; k += step)
        fprintf(g->f, "%s'%d %s' %.0f", n++ ? ", " : "", 1 << k % 10, units[k / 10], ldexp(1, k));
    fprintf(g->f, ")\n");
}

static void time_tics(struct gp *g, const struct axis *a, const char *axis)
{
    const int first = (int)floor(log10(a->lo)), last = (int)ceil(log10(a->hi));

    fprintf(g->f, "set %stics (", axis);
    for (int k = first, n = 0; k <= last; k++) {
        const double v = pow(10, k), shown = k < -6 ? v * 1e9 : k < -3 ? v * 1e6 : k < 0 ? v * 1e3 : v;

        fprintf(g->f, "%s'%g %s' 1e%d", n++ ? ", " : "", shown,
                k < -6 ? "ns" : k < -3 ? "us" : k < 0 ? "ms" : "s", k);
    }
    fprintf(g->f, ")\n");
}

static void panel(struct gp *g, double left, const struct axis *a, const char *title, const char *quantity,
                  void (*tics)(struct gp *, const struct axis *, const char *))
{
    const double lo = a->lo / 2, hi = a->hi * 2;
    const struct axis wide = {.lo = lo, .hi = hi};

    gp_panel(g, left, TOP, left + PANEL_WIDTH, TOP + PANEL);
    fprintf(g->f, "set xrange [%.9g:%.9g]\nset yrange [%.9g:%.9g]\n", lo, hi, lo, hi);
    fprintf(g->f, "set xlabel 'measured %s'\nset ylabel 'predicted %s' offset 1,0\n", quantity, quantity);
    gp_label(g, left, TOP - 16, "left font 'sans-serif,12'", "%s", title);
    tics(g, &wide, "x");
    tics(g, &wide, "y");
    fprintf(g->f, "$span << EOD\n%.9g\n%.9g\nEOD\n", lo, hi);
}

/* The ops that are furthest off, by name, where there is room for a name and no other touches it. */
static void name_outliers(struct gp *g, const struct scatter *s)
{
    enum { NAMED = 4 };
    const struct point *named[NAMED];
    const double span = log(s->time.hi / s->time.lo) + log(4);
    int n = 0;

    for (int tries = 0; tries < NAMED; tries++) {
        const struct point *worst = NULL;

        for (size_t i = 0; i < s->n; i++) {
            const struct point *p = &s->point[i];
            const double at = log(p->measured / s->time.lo) / span;
            bool free_place = p->group == OP && !holds(p) && at > 0.2 && at < 0.7;

            for (int k = 0; k < n; k++)
                free_place = free_place && fabs(log(p->predicted / named[k]->predicted)) > 0.06 * span &&
                             strcmp(p->row, named[k]->row) != 0;
            if (free_place && (!worst || miss(p) > miss(worst)))
                worst = p;
        }
        if (!worst)
            return;
        named[n++] = worst;
        fprintf(g->f, "set label ");
        gp_quote(g->f, worst->row);
        fprintf(g->f, " at first %.9g,%.9g %s font 'sans-serif,9' textcolor rgb '#444444'\n", worst->measured,
                worst->predicted, worst->predicted > worst->measured ? "right offset -0.9,0" : "left offset 0.9,0");
    }
}

#define MARKS "using 1:2:($3*mark):4:5 with points ps variable pt variable lc rgb variable"

static void bytes_panel(struct gp *g, const struct scatter *s)
{
    panel(g, LEFT, &s->bytes, "bytes: ● must be equal, ○ predicted as an upper bound", "bytes", byte_tics);
    fprintf(g->f, "plot $span using 1:1 with lines lw 1.5 lc rgb '#999999', \\\n"
                  "     $bound " MARKS " lw 1.6, \\\n"
                  "     $equal " MARKS "\nunset label\n");
}

static void time_panel(struct gp *g, const struct scatter *s)
{
    panel(g, LEFT + PANEL_WIDTH + GAP, &s->time, "time of ops, and ringed of whole steps; band: a factor of 2", "time",
          time_tics);
    name_outliers(g, s);
    fprintf(g->f, "plot $span using 1:($1/2):($1*2) with filledcurves fs solid noborder fc rgb '#eeeeee', \\\n"
                  "     $span using 1:1 with lines lw 1.5 lc rgb '#999999', \\\n"
                  "     $op " MARKS ", \\\n"
                  "     $step using 1:2 with points ps 3*mark pt 6 lc rgb '#000000', \\\n"
                  "     $step " MARKS "\nunset label\n");
}

/* Short names, unless two results of one model and workload would then look alike. */
static void technique_name(const struct results *r, size_t i, char *buf, size_t n)
{
    const json_t *res = json_array_get(r->array, i), *model = json_object_get(res, "model");
    const json_t *work = json_object_get(res, "workload"), *other;
    char name[512], others[512];
    bool alike = false;
    size_t k;

    result_techniques(res, true, name, sizeof(name));
    json_array_foreach(r->array, k, other) {
        result_techniques(other, true, others, sizeof(others));
        alike = alike || (k != i && strcmp(name, others) == 0 &&
                          json_equal(json_object_get(other, "workload"), work) &&
                          json_equal(json_object_get(other, "model"), model));
    }
    result_techniques(res, !alike, name, sizeof(name));
    if (chart_one_workload(r))
        snprintf(buf, n, "%.32s", name);
    else
        snprintf(buf, n, "%.14s · %.13s %" JSON_INTEGER_FORMAT, name,
                 json_string_value(json_object_get(model, "name")),
                 json_integer_value(json_object_get(work, "context")));
}

/* Returns how many lines the legend took. */
static int legend(struct gp *g, const struct results *r, double y)
{
    size_t shown = 0;

    for (size_t i = 0; i < r->n; i++) {
        char name[64];

        if (result_not_applicable(json_array_get(r->array, i)))
            continue;
        technique_name(r, i, name, sizeof(name));
        gp_mark(g, LEFT + (double)(shown % COLUMNS) * 270, y + LINE * (double)(shown / COLUMNS), gp_point(i, true), 1.3,
                gp_colour(i), name);
        shown++;
    }
    return (int)((shown + COLUMNS - 1) / COLUMNS);
}

static void captions(struct gp *g, const struct scatter *s, const struct results *r, double y)
{
    const char *style = "left font 'sans-serif,10' textcolor rgb '#555555'";
    const struct axis *b = &s->bytes, *t = &s->time;

    gp_label(g, LEFT, y, style,
             "bytes: %zu of %zu rows hold; %zu more are 0 on both sides, which has no place on a logarithmic axis%s",
             b->agree, b->n, b->zero, b->unknown ? "; rows without a counterpart are left out" : "");
    gp_label(g, LEFT, y + LINE, style, "time: %zu of %zu ops and steps within a factor of 2%s; basis: %s", t->agree,
             t->n, t->unknown ? "; ops without a counterpart are left out" : "", *s->basis ? s->basis : "none");
    y += 2 * LINE;
    for (size_t i = 0; i < r->n; i++, y += LINE) {
        const json_t *res = json_array_get(r->array, i);
        char name[512];

        if (!result_not_applicable(res)) {
            y -= LINE;
            continue;
        }
        result_techniques(res, true, name, sizeof(name));
        gp_label(g, LEFT, y, style, "not drawn: %.60s (%.120s)", name, result_not_applicable(res));
    }
}

static void write_program(struct gp *g, const struct scatter *s, const struct results *r)
{
    double undrawn = 0, y = TOP + PANEL + 70;

    for (size_t i = 0; i < r->n; i++)
        undrawn += result_not_applicable(json_array_get(r->array, i)) != NULL;
    gp_begin(g, WIDTH, y + LINE * (ceil(((double)r->n - undrawn) / COLUMNS) + 2 + undrawn) + 12);
    data(g, s);
    fprintf(g->f, "unset key\nset border 3 lc rgb '#888888'\n"
                  "set tics nomirror textcolor rgb '#333333'\nset logscale xy\n"
                  "set grid lt 1 lc rgb '#e4e4e4'\nset multiplot\n");
    chart_title(g, r, "predicted against measured");
    y += LINE * legend(g, r, y) + 8;
    captions(g, s, r, y);
    if (s->bytes.n)
        bytes_panel(g, s);
    if (s->time.n)
        time_panel(g, s);
    fprintf(g->f, "unset multiplot\n");
}

static kvp_err draw(struct gp *g, const struct results *r, struct kvp_error *e)
{
    struct scatter s = {0};
    kvp_err rc = read_points(&s, r, e);

    if (rc == KVP_OK)
        write_program(g, &s, r);
    free(s.point);
    return rc;
}

const struct chart kvp_chart_predicted_vs_measured = {
    .name = "predicted-vs-measured",
    .reads = "results of validate",
    .summary = "every row of bytes and every op's time against the prediction",
    .kinds = RESULTS_VALIDATE,
    .draw = draw,
};
