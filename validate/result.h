/* result.h - what one validated stack or one served trace came to, as JSON (schemas "kvproof-validate/1" and
 * "kvproof-serve/1") and as a table. */
#ifndef KVPROOF_RESULT_H
#define KVPROOF_RESULT_H

#include <kvproof/error.h>

#include <jansson.h>

/* Rows of `result` ("rows": [{row, kind, predicted, measured, error, how}]). kind is "bytes" or "count" (must be
 * equal), "share" (of 1, of counts: must be equal too), "bound" (measured at most predicted), "flops" or "time" (seconds).
 * measured < 0: null. */
kvp_err res_row(json_t *result, const char *row, const char *kind, double predicted, double measured,
                const char *how, struct kvp_error *e);

/* Do all rows of kind bytes, count, share and bound hold? */
bool res_bytes_agree(const json_t *result);
/* The largest |error| over time rows of whole steps ("prefill", "decode step"); 0 when there is none. */
double res_time_error(const json_t *result);

/* Print results (an array) as table, md, csv, json or jsonl. A table of one result has every op; of
 * several, memory, FLOPs and whole forwards, and a summary of one line each at the end. */
kvp_err res_print(FILE *f, const char *format, const json_t *results, struct kvp_error *e);

#endif
