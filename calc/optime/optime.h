/* optime.h - op timings made elsewhere become a device's op model, and the model predicts ops it never saw.
 *
 * The model is JSON (kvproof-optime/1): for each class of ops the formula's parameters with standard
 * deviations, the residual's scales, and the points it was learned from, so that nothing is hidden. */
#ifndef KVPROOF_CALC_OPTIME_H
#define KVPROOF_CALC_OPTIME_H

#include <kvproof/error.h>

#include <stdint.h>
#include <stdio.h>

/* Fit every class of ops in `n` CSV files and write the model to `f`. KVP_EINPUT about a file. */
kvp_err kvp_optime_calibrate(FILE *f, const char *const *rows, uint32_t n, struct kvp_error *e);

/* Print the rows of a CSV file (its latency_ms may be missing) with predicted_ms, low_ms, high_ms (90 %) and
 * basis: interpolated, extrapolated, or transferred, which is from the class of the same op that has most
 * words in common, since the row's own is not in the model. */
kvp_err kvp_optime_predict(FILE *f, const char *rows, const char *model, struct kvp_error *e);

#endif
