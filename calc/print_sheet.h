/* print_sheet.h - points as flat rows, a million a second: CSV, JSON lines, a JSON array, or a table. */
#ifndef KVPROOF_CALC_PRINT_SHEET_H
#define KVPROOF_CALC_PRINT_SHEET_H

#include <kvproof/kvproof.h>

#include <stdio.h>

struct sheet;

/* `format`: table, json, jsonl, csv, md; KVP_EINPUT for another. *out is NULL on failure. */
kvp_err sheet_open(struct sheet **out, FILE *f, const char *format, struct kvp_error *e);

/* What the rows that follow have in common. */
kvp_err sheet_begin(struct sheet *r, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_options *o,
                   const struct kvp_device *d, struct kvp_error *e);
kvp_err sheet_point(struct sheet *r, const struct kvp_point *p, struct kvp_error *e);
/* A row without numbers that says why. */
kvp_err sheet_refused(struct sheet *r, const struct kvp_workload *w, const struct kvp_error *why, struct kvp_error *e);

/* Finish, unless `rc` is an error already; frees `r` (NULL is fine). When every row was refused: nothing is
 * written, and the first refusal is the error. */
kvp_err sheet_close(struct sheet *r, kvp_err rc, struct kvp_error *e);

#endif
