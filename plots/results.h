/* results.h - results of `kvproof validate`, `kvproof serve` and `kvproof estimate`, read back from json or jsonl.
 *
 * Everything a reader below relies on is checked here, once: after results_load() the fields named
 * beside each kind exist and have their type. */
#ifndef KVPROOF_RESULTS_H
#define KVPROOF_RESULTS_H

#include <kvproof/error.h>

#include <jansson.h>

/* VALIDATE: {schema, model.name, workload.{context,prompt,generate,batch}, techniques[], formats.{weights,kv},
 *           backend.name, weights_from, rows[]: {row, kind, predicted, measured, error, how}};
 *           predicted, measured and error are numbers or null.
 * SERVE:    as VALIDATE, but for workload trace.{name,requests,blocks,step_s}.
 * ESTIMATE: {model.name, workload as above, techniques[], memory.{weights,cache,metadata,state,activation,
 *           workspace,total,peak}_bytes}. */
enum { RESULTS_VALIDATE = 1, RESULTS_ESTIMATE = 2, RESULTS_SERVE = 4 };

struct results {
    json_t *array;  /* of objects, in the order of the files */
    size_t n;
    char **origin;  /* [n] "FILE:LINE" of each, for messages */
};

/* All results of `n` files; `kinds` says which are welcome. KVP_EINPUT names file, line and field.
 * results_free() it on success. */
kvp_err results_load(struct results *r, const char *const *paths, int n, int kinds, struct kvp_error *e);
void results_free(struct results *r);

/* Which kind this result is; 0 for something else. */
int result_kind(const json_t *result);

/* "kivi:bits=2,group=32", "window:64 + paged:16", "dense". `names_only` leaves the parameters out. */
void result_techniques(const json_t *result, bool names_only, char *buf, size_t n);

/* The row called `name`, or NULL. */
const json_t *result_row(const json_t *result, const char *name);

/* row[field] as a number; -1 when there is no row or no number. */
double result_number(const json_t *row, const char *field);

/* The reason why there are no rows, or NULL. */
const char *result_not_applicable(const json_t *result);

#endif
