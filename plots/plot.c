#include "plots/plot.h"

#include "plots/charts/chart.h"
#include "validate/tokens.h"

#include <stdlib.h>
#include <string.h>

/* gnuplot's SVG writes smaller letters and larger marks than its PNG does. */
static const struct {
    const char *extension, *terminal;
    double mark;
} terminals[] = {{".svg", "svg fontscale 1.25", 0.72}, {".png", "pngcairo", 1}};

bool kvp_chart_at(uint32_t i, const char *row[3])
{
    const struct chart *const *c = kvp_charts;

    while (*c && i--)
        c++;
    if (*c) {
        row[0] = (*c)->name;
        row[1] = (*c)->reads;
        row[2] = (*c)->summary;
    }
    return *c != NULL;
}

static const struct chart *find_chart(const char *name)
{
    for (const struct chart *const *c = kvp_charts; *c; c++)
        if (strcmp((*c)->name, name) == 0)
            return *c;
    return NULL;
}

static kvp_err terminal_of(const char *out, struct gp_target *t, struct kvp_error *e)
{
    const size_t n = strlen(out);

    for (size_t i = 0; i < sizeof(terminals) / sizeof(terminals[0]); i++) {
        const size_t ext = strlen(terminals[i].extension);

        if (n > ext && strcmp(out + n - ext, terminals[i].extension) == 0) {
            t->terminal = terminals[i].terminal;
            t->mark = terminals[i].mark;
            return KVP_OK;
        }
    }
    return kvp_fail(e, KVP_EINPUT, "-o %s: expected FILE.png or FILE.svg", out);
}

/* The whole program in memory: a chart that cannot be drawn leaves nothing behind. */
static kvp_err write_program(const struct chart *c, const struct results *r, const struct gp_target *t,
                             char **program, size_t *size, struct kvp_error *e)
{
    struct gp g = {.f = open_memstream(program, size), .target = t};
    kvp_err rc;
    bool bad;

    if (!g.f)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a chart");
    rc = c->draw(&g, r, e);
    bad = ferror(g.f) != 0;
    bad = fclose(g.f) != 0 || bad;
    if (rc == KVP_OK && bad)
        rc = kvp_fail(e, KVP_ENOMEM, "out of memory for a chart");
    if (rc != KVP_OK)
        free(*program);
    return rc;
}

static kvp_err draw_file(const char *program, size_t size, const char *out, struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    KVP_TRY(out_open(&o, out, e));
    rc = gp_run(program, size, fileno(o.f), e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

static kvp_err save_script(const char *program, size_t size, const char *script, struct kvp_error *e)
{
    struct out_file o;

    KVP_TRY(out_open(&o, script, e));
    fwrite(program, 1, size, o.f);
    return out_commit(&o, e);
}

kvp_err kvp_plot(const char *chart, const char *const *inputs, int n_inputs, const char *out, const char *script,
                 struct kvp_error *e)
{
    const struct chart *c = find_chart(chart);
    struct gp_target t;
    struct results r;
    char default_out[64], *program = NULL;
    size_t size = 0;
    kvp_err rc;

    if (!c)
        return kvp_fail(e, KVP_EINPUT, "unknown chart '%s', see `kvproof list charts`", chart);
    if (!out && !script)
        return kvp_fail(e, KVP_EINPUT, "plot: where to? give -o FILE.png, -o FILE.svg or --script FILE");
    snprintf(default_out, sizeof(default_out), "%s.svg", c->name);
    KVP_TRY(terminal_of(out ? out : default_out, &t, e));
    t.file = !script ? NULL : out ? out : default_out;
    KVP_TRY(results_load(&r, inputs, n_inputs, c->kinds, e));
    rc = write_program(c, &r, &t, &program, &size, e);
    results_free(&r);
    KVP_TRY(rc);
    rc = script ? save_script(program, size, script, e) : draw_file(program, size, out, e);
    free(program);
    return rc;
}
