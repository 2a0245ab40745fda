/* plot.h - charts of results, drawn by gnuplot.
 *
 * A chart turns results into a gnuplot program with the data inside; nothing is computed here that a
 * prediction or a measurement should have said. One file in plots/charts/ and one row of
 * plots/charts/table.c per chart. */
#ifndef KVPROOF_PLOT_H
#define KVPROOF_PLOT_H

#include <kvproof/error.h>

/* A row of the table of charts: name, what it reads, what it shows. False past the end. */
bool kvp_chart_at(uint32_t i, const char *row[3]);

/* Draw `chart` from `n_inputs` files of results (json or jsonl).
 *
 * out     FILE.png or FILE.svg: the terminal is chosen by the extension; with script NULL the picture is
 *         drawn through a pipe to gnuplot, appears whole or not at all, and replaces an older one.
 * script  a file that gets the program instead; gnuplot is not run. `gnuplot FILE` then writes `out`
 *         (CHART.svg when out is NULL).
 *
 * KVP_EINPUT: unknown chart, another extension, a bad line (names file and line), nothing to draw.
 * KVP_ESYS: no gnuplot, or its first line of complaint. The caller ignores SIGPIPE. */
kvp_err kvp_plot(const char *chart, const char *const *inputs, int n_inputs, const char *out,
                 const char *script, struct kvp_error *e);

#endif
