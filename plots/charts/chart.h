/* chart.h - a chart: which results it reads, and how it becomes a gnuplot program. */
#ifndef KVPROOF_CHART_H
#define KVPROOF_CHART_H

#include "plots/gp.h"
#include "plots/results.h"

struct chart {
    const char *name;    /* on the command line; never renamed */
    const char *reads;   /* what its inputs are, in words */
    const char *summary; /* one line for `kvproof list charts` */
    int kinds;           /* RESULTS_VALIDATE, RESULTS_ESTIMATE */
    /* Write the program to g->f. KVP_EINPUT: nothing in the results can be drawn. */
    kvp_err (*draw)(struct gp *g, const struct results *r, struct kvp_error *e);
};

extern const struct chart kvp_chart_memory;
extern const struct chart kvp_chart_predicted_vs_measured;

extern const struct chart *const kvp_charts[]; /* NULL-terminated: table.c */

/* Title and subtitle, top left: the model, the workload, formats and machine when all results agree on
 * them. `what` follows the model's name. */
void chart_title(struct gp *g, const struct results *r, const char *what);

/* Do all results have the same model and workload? Otherwise each label must say which. */
bool chart_one_workload(const struct results *r);

#endif
