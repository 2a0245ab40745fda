/* fit.h - the time of one op of one class, learned from timings of that class.
 *
 *   T = (a + || items*tau_item + tiles*tau_tile, bytes/B, FLOPs/F ||_p) * exp(residual)
 *
 * The first factor is fitted by GSL's trust-region least squares on log(T/t)/0.05 under a soft-L1 loss with
 * weak priors (p from 1, serial, to 8, overlap). The second is what neighbours in log sizes had left over:
 * a Gaussian process (Matern 3/2; Rasmussen and Williams 2006, chapters 2 and 4) over the 48 nearest of
 * them, its scales chosen by likelihood; it also gives the interval. A fit with too few rows, or whose
 * Jacobian is close to singular, is refused: then T = a + bytes/B, and it says so. */
#ifndef KVPROOF_CALC_OPTIME_FIT_H
#define KVPROOF_CALC_OPTIME_FIT_H

#include "calc/optime/rows.h"

enum { FIT_PARAMS = 6, FIT_LEAST_ROWS = 12 };

struct optime_fit {
    bool simple;              /* fixed cost + bandwidth */
    char why[64];             /* simple: the reason */
    double x[FIT_PARAMS];     /* log a, log tau_item, log tau_tile, log 1/B, log 1/F, logit of (p - 1)/7; simple: log a, log 1/B */
    double sd[FIT_PARAMS];
    double reach[OPTIME_COORDS], amplitude, noise; /* of the residual */
    uint32_t n;               /* rows it was fitted to */
    double *at;               /* [n, OPTIME_COORDS] owned */
    double *residual;         /* [n] owned */
};

struct optime_prediction {
    double ms, low, high;  /* 90 % interval */
    bool extrapolates;     /* outside the range of the rows, or far from all of them */
};

/* `row` are `n` pointers to timed rows of one class. KVP_ENOMEM. optime_fit_free() on success. */
kvp_err optime_fit(struct optime_fit *out, const struct optime_kind *k, const struct optime_row *const *row, uint32_t n, struct kvp_error *e);
/* `residual` off: the formula alone. */
void optime_predict(const struct optime_fit *f, const struct optime_row *row, bool residual, struct optime_prediction *out);
void optime_fit_free(struct optime_fit *f);

#endif
