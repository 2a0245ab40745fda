#include "calc/optime/fit.h"

#include <gsl/gsl_blas.h>
#include <gsl/gsl_linalg.h>
#include <gsl/gsl_multifit_nlinear.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { A, TAU_ITEM, TAU_TILE, INV_B, INV_F, P_LOGIT };
enum { NEAREST = 64, LIKELIHOOD_ROWS = 256, STARTS = 4, MAX_ITERATIONS = 200 };

static const double loss_scale = 0.05, least_rcond = 1e-6;

/* ---- the formula ---------------------------------------------------------------------------------- */

static double formula(const double *x, bool simple, const double *term)
{
    const double p = 1 + 7 / (1 + exp(-x[P_LOGIT]));
    double part[3], most;

    if (simple)
        return exp(x[0]) + term[0] * exp(x[1]);
    part[0] = term[2] * exp(x[TAU_ITEM]) + term[3] * exp(x[TAU_TILE]);
    part[1] = term[0] * exp(x[INV_B]);
    part[2] = term[1] * exp(x[INV_F]);
    most = fmax(part[0], fmax(part[1], part[2]));
    return exp(x[A]) + most * pow(pow(part[0] / most, p) + pow(part[1] / most, p) + pow(part[2] / most, p), 1 / p);
}

struct problem {
    const struct optime_row *const *row;
    uint32_t n;
    bool simple;
    uint32_t params;
    double prior[FIT_PARAMS], sd[FIT_PARAMS];
};

static double soft(double e)
{
    return copysign(sqrt(2 * (sqrt(1 + e * e) - 1)), e);
}

static int residuals(const gsl_vector *x, void *data, gsl_vector *f)
{
    const struct problem *p = data;
    double v[FIT_PARAMS] = {0};

    for (uint32_t i = 0; i < p->params; i++)
        v[i] = gsl_vector_get(x, i);
    for (uint32_t i = 0; i < p->n; i++)
        gsl_vector_set(f, i, soft(log(formula(v, p->simple, p->row[i]->term) / p->row[i]->ms) / loss_scale));
    for (uint32_t i = 0; i < p->params; i++)
        gsl_vector_set(f, p->n + i, (v[i] - p->prior[i]) / p->sd[i]);
    return GSL_SUCCESS;
}

/* From one start; the cost is infinite when it does not get anywhere. */
static double descend(const struct problem *p, const double *start, double *x, double *sd, double *rcond)
{
    gsl_multifit_nlinear_parameters par = gsl_multifit_nlinear_default_parameters();
    gsl_multifit_nlinear_fdf fdf = {.f = residuals, .n = p->n + p->params, .p = p->params, .params = (void *)(uintptr_t)p};
    gsl_vector_const_view x0 = gsl_vector_const_view_array(start, p->params);
    gsl_multifit_nlinear_workspace *w;
    gsl_matrix *cov = gsl_matrix_alloc(p->params, p->params);
    double cost = INFINITY;
    int info;

    par.trs = gsl_multifit_nlinear_trs_lmaccel;
    w = gsl_multifit_nlinear_alloc(gsl_multifit_nlinear_trust, &par, fdf.n, fdf.p);
    if (w && cov && gsl_multifit_nlinear_init(&x0.vector, &fdf, w) == GSL_SUCCESS) {
        gsl_multifit_nlinear_driver(MAX_ITERATIONS, 1e-8, 1e-8, 1e-8, NULL, NULL, &info, w);
        gsl_blas_ddot(gsl_multifit_nlinear_residual(w), gsl_multifit_nlinear_residual(w), &cost);
        gsl_multifit_nlinear_covar(gsl_multifit_nlinear_jac(w), 0, cov);
        gsl_multifit_nlinear_rcond(rcond, w);
        for (uint32_t i = 0; i < p->params; i++) {
            x[i] = gsl_vector_get(gsl_multifit_nlinear_position(w), i);
            sd[i] = sqrt(fmax(0, gsl_matrix_get(cov, i, i)));
        }
    }
    if (w)
        gsl_multifit_nlinear_free(w);
    if (cov)
        gsl_matrix_free(cov);
    return isfinite(cost) ? cost : INFINITY;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Milliseconds for a unit of a term at the best rate seen: the second percentile, so that one bad row counts
 * little. INFINITY when no row has the term. */
static double best_rate(const struct problem *p, int term, double *scratch)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->n; i++)
        if (p->row[i]->term[term] > 0)
            scratch[n++] = p->row[i]->ms / p->row[i]->term[term];
    if (!n)
        return INFINITY;
    qsort(scratch, n, sizeof(*scratch), by_value);
    return scratch[n / 50];
}

static double shortest(const struct problem *p)
{
    double least = INFINITY;

    for (uint32_t i = 0; i < p->n; i++)
        least = fmin(least, p->row[i]->ms);
    return least;
}

static void fit_simple(struct optime_fit *f, struct problem *p, double *scratch, const char *why)
{
    const double start[2] = {log(shortest(p)), log(best_rate(p, 0, scratch))};
    double rcond;

    f->simple = p->simple = true;
    p->params = 2;
    memcpy(p->prior, start, sizeof(start));
    p->sd[0] = p->sd[1] = 2;
    memcpy(f->x, start, sizeof(start));
    snprintf(f->why, sizeof(f->why), "%s", why);
    if (p->n)
        descend(p, start, f->x, f->sd, &rcond);
}

static void fit_full(struct optime_fit *f, struct problem *p, double *scratch)
{
    static const double p_start[2] = {-2, 0.5}, tau_start[2] = {-7, -10}, sd[FIT_PARAMS] = {0.7, 3, 3, 0.4, 1.5, 1.5};
    const double inv_b = best_rate(p, 0, scratch), inv_f = best_rate(p, 1, scratch), a = shortest(p);
    double best = INFINITY, best_rcond = 0;

    p->params = FIT_PARAMS;
    for (int s = 0; s < STARTS; s++) {
        const double start[FIT_PARAMS] = {log(0.8 * a), tau_start[s % 2], -11, log(inv_b) + 0.1, log(inv_f) + 0.1, p_start[s / 2]};
        double x[FIT_PARAMS], dev[FIT_PARAMS], rcond = 0, cost;

        memcpy(p->prior, start, sizeof(start));
        memcpy(p->sd, sd, sizeof(sd));
        cost = descend(p, start, x, dev, &rcond);
        if (cost < best) {
            best = cost;
            best_rcond = rcond;
            memcpy(f->x, x, sizeof(x));
            memcpy(f->sd, dev, sizeof(dev));
        }
    }
    if (!isfinite(best) || best_rcond < least_rcond)
        fit_simple(f, p, scratch, "the fit was close to singular");
}

/* Repeated timings of few sizes say nothing about a formula. */
static bool few_sizes(const struct optime_row *const *row, uint32_t n)
{
    const struct optime_row *seen[FIT_LEAST_ROWS];
    uint32_t k = 0;

    for (uint32_t i = 0; i < n && k < FIT_LEAST_ROWS; i++) {
        uint32_t j = 0;

        while (j < k && memcmp(seen[j]->term, row[i]->term, sizeof(row[i]->term)) != 0)
            j++;
        if (j == k)
            seen[k++] = row[i];
    }
    return k < FIT_LEAST_ROWS;
}

/* ---- the residual --------------------------------------------------------------------------------- */

static double likeness(const double *a, const double *b, const double *reach)
{
    double d2 = 0, d;

    for (int i = 0; i < OPTIME_COORDS; i++)
        d2 += (a[i] - b[i]) * (a[i] - b[i]) / (reach[i] * reach[i]);
    d = sqrt(3 * d2);
    return (1 + d) * exp(-d);
}

static void covariance(gsl_matrix *k, const double *at, const uint32_t *which, uint32_t n, const double *reach, double amplitude, double noise)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j <= i; j++) {
            const double *a = at + OPTIME_COORDS * (size_t)(which ? which[i] : i), *b = at + OPTIME_COORDS * (size_t)(which ? which[j] : j);
            const double v = amplitude * amplitude * likeness(a, b, reach) + (i == j ? noise * noise : 0);

            gsl_matrix_set(k, i, j, v);
            gsl_matrix_set(k, j, i, v);
        }
}

/* log p(residual | scales), without constants; the rows are every `n / used`-th. */
static double likelihood(const struct optime_fit *f, const uint32_t *which, uint32_t n, gsl_matrix *k, gsl_vector *y)
{
    double quad, logdet = 0;

    covariance(k, f->at, which, n, f->reach, f->amplitude, f->noise);
    for (uint32_t i = 0; i < n; i++)
        gsl_vector_set(y, i, f->residual[which[i]]);
    if (gsl_linalg_cholesky_decomp1(k) != GSL_SUCCESS)
        return -INFINITY;
    gsl_blas_dtrsv(CblasLower, CblasNoTrans, CblasNonUnit, k, y);
    gsl_blas_ddot(y, y, &quad);
    for (uint32_t i = 0; i < n; i++)
        logdet += log(gsl_matrix_get(k, i, i));
    return -quad / 2 - logdet;
}

static bool choose_scales(struct optime_fit *f, const double *reach)
{
    static const double stretch[] = {0.25, 0.5, 1, 2}, amplitudes[] = {0.1, 0.2, 0.4}, noises[] = {0.01, 0.03, 0.06};
    const uint32_t n = f->n < LIKELIHOOD_ROWS ? f->n : LIKELIHOOD_ROWS;
    gsl_matrix *k = n ? gsl_matrix_alloc(n, n) : NULL;
    gsl_vector *y = n ? gsl_vector_alloc(n) : NULL;
    struct optime_fit best = *f;
    double most = -INFINITY;
    uint32_t which[LIKELIHOOD_ROWS];

    for (uint32_t i = 0; i < n; i++)
        which[i] = (uint32_t)((uint64_t)i * f->n / n);
    for (int c = 0; k && y && c < 4 * 4 * 3 * 3; c++) {
        double l;

        for (int i = 0; i < OPTIME_COORDS; i++)
            f->reach[i] = reach[i] * stretch[i ? c % 4 : c / 4 % 4];
        f->amplitude = amplitudes[c / 16 % 3];
        f->noise = noises[c / 48];
        l = likelihood(f, which, n, k, y);
        if (l > most) {
            most = l;
            best = *f;
        }
    }
    *f = best;
    if (k)
        gsl_matrix_free(k);
    if (y)
        gsl_vector_free(y);
    return !n || (k && y);
}

/* The nearest rows, as a heap-free insertion: NEAREST is small. */
static uint32_t nearest(const struct optime_fit *f, const double *at, uint32_t *which)
{
    double like[NEAREST];
    uint32_t n = 0;

    for (uint32_t i = 0; i < f->n; i++) {
        const double l = likeness(at, f->at + OPTIME_COORDS * (size_t)i, f->reach);
        uint32_t slot = n < NEAREST ? n++ : NEAREST - 1;

        if (slot == NEAREST - 1 && n == NEAREST && i >= NEAREST && l <= like[slot])
            continue;
        for (; slot > 0 && like[slot - 1] < l; slot--) {
            like[slot] = like[slot - 1];
            which[slot] = which[slot - 1];
        }
        like[slot] = l;
        which[slot] = i;
    }
    return n;
}

static void krige(const struct optime_fit *f, const double *at, double *mean, double *sd)
{
    double kk[NEAREST * NEAREST], yy[NEAREST], ss[NEAREST], explained;
    uint32_t which[NEAREST];
    const uint32_t n = nearest(f, at, which);
    const double all = f->amplitude * f->amplitude;
    gsl_matrix_view k = gsl_matrix_view_array(kk, n ? n : 1, n ? n : 1);
    gsl_vector_view y = gsl_vector_view_array(yy, n ? n : 1), s = gsl_vector_view_array(ss, n ? n : 1);

    *mean = 0;
    *sd = sqrt(all + f->noise * f->noise);
    if (!n)
        return;
    covariance(&k.matrix, f->at, which, n, f->reach, f->amplitude, f->noise);
    for (uint32_t i = 0; i < n; i++) {
        yy[i] = f->residual[which[i]];
        ss[i] = all * likeness(at, f->at + OPTIME_COORDS * (size_t)which[i], f->reach);
    }
    if (gsl_linalg_cholesky_decomp1(&k.matrix) != GSL_SUCCESS)
        return;
    gsl_blas_dtrsv(CblasLower, CblasNoTrans, CblasNonUnit, &k.matrix, &y.vector);
    gsl_blas_dtrsv(CblasLower, CblasNoTrans, CblasNonUnit, &k.matrix, &s.vector);
    gsl_blas_ddot(&s.vector, &y.vector, mean);
    gsl_blas_ddot(&s.vector, &s.vector, &explained);
    *sd = sqrt(fmax(0, all - explained) + f->noise * f->noise);
}

/* ---- together ------------------------------------------------------------------------------------- */

kvp_err optime_fit(struct optime_fit *out, const struct optime_kind *k, const struct optime_row *const *row, uint32_t n, struct kvp_error *e)
{
    gsl_error_handler_t *handler = gsl_set_error_handler_off();
    struct problem p = {.row = row, .n = n};
    double *scratch = calloc(n ? n : 1, sizeof(*scratch));
    bool ok;

    *out = (struct optime_fit){.n = n};
    memcpy(out->reach, k->reach, sizeof(out->reach));
    out->amplitude = 0.25;
    out->noise = 0.03;
    out->at = calloc(n ? n : 1, OPTIME_COORDS * sizeof(*out->at));
    out->residual = calloc(n ? n : 1, sizeof(*out->residual));
    ok = scratch && out->at && out->residual;
    if (ok && n < FIT_LEAST_ROWS)
        fit_simple(out, &p, scratch, "too few rows");
    else if (ok && few_sizes(row, n))
        fit_simple(out, &p, scratch, "too few different sizes");
    else if (ok)
        fit_full(out, &p, scratch);
    for (uint32_t i = 0; ok && i < n; i++) {
        memcpy(out->at + OPTIME_COORDS * (size_t)i, row[i]->at, sizeof(row[i]->at));
        out->residual[i] = log(row[i]->ms / formula(out->x, out->simple, row[i]->term));
    }
    ok = ok && choose_scales(out, k->reach);
    free(scratch);
    gsl_set_error_handler(handler);
    if (ok)
        return KVP_OK;
    optime_fit_free(out);
    return kvp_fail(e, KVP_ENOMEM, "out of memory for a fit");
}

static bool outside(const struct optime_fit *f, const double *at)
{
    for (int c = 0; c < OPTIME_COORDS; c++) {
        double low = INFINITY, high = -INFINITY;

        for (uint32_t i = 0; i < f->n; i++) {
            low = fmin(low, f->at[OPTIME_COORDS * (size_t)i + (size_t)c]);
            high = fmax(high, f->at[OPTIME_COORDS * (size_t)i + (size_t)c]);
        }
        if (at[c] < low - 1e-9 || at[c] > high + 1e-9)
            return true;
    }
    return f->n == 0;
}

void optime_predict(const struct optime_fit *f, const struct optime_row *row, bool residual, struct optime_prediction *out)
{
    gsl_error_handler_t *handler = gsl_set_error_handler_off();
    double mean = 0, sd = sqrt(f->amplitude * f->amplitude + f->noise * f->noise);

    if (residual)
        krige(f, row->at, &mean, &sd);
    out->ms = formula(f->x, f->simple, row->term) * exp(mean);
    out->low = out->ms * exp(-1.645 * sd);
    out->high = out->ms * exp(1.645 * sd);
    out->extrapolates = outside(f, row->at);
    gsl_set_error_handler(handler);
}

void optime_fit_free(struct optime_fit *f)
{
    free(f->at);
    free(f->residual);
    *f = (struct optime_fit){0};
}
