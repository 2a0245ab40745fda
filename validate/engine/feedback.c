#include "validate/engine/feedback.h"

#include "validate/engine/coding.h"

#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_linalg.h>
#include <math.h>
#include <stdlib.h>

enum { BLOCK = 128, POWERS = 20 };

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static kvp_err no_memory(const char *what, struct kvp_error *e)
{
    return kvp_fail(e, KVP_ENOMEM, "out of memory for %s", what);
}

/* ---- codes in groups ------------------------------------------------------------------------------ */

kvp_err grid_open(struct grid *g, uint32_t bits, uint32_t group, uint64_t rows, uint64_t cols, struct kvp_error *e)
{
    const uint64_t groups = cols / group + (cols % group != 0);

    *g = (struct grid){.bits = bits, .group = group, .code = malloc(rows * cols), .scale = malloc(groups * rows * sizeof(float)),
                       .zero = malloc(groups * rows)};
    if (g->code && g->scale && g->zero)
        return KVP_OK;
    grid_close(g);
    return no_memory("codes", e);
}

void grid_close(struct grid *g)
{
    free(g->code);
    free(g->scale);
    free(g->zero);
    *g = (struct grid){0};
}

/* The group of row i that begins with column j: its scale and zero, from what its numbers are now. */
static void begin_group(struct grid *g, const float *row, uint64_t i, uint64_t j, uint64_t rows, uint64_t cols)
{
    const uint64_t at = j / g->group * rows + i;
    int zero;

    wt_range(row + j, least(g->group, cols - j), 1, g->bits, &g->scale[at], &zero);
    g->zero[at] = (uint8_t)zero;
}

static float choose(struct grid *g, float x, uint64_t i, uint64_t j, uint64_t rows, uint64_t cols)
{
    const uint64_t at = j / g->group * rows + i;
    const int code = wt_code(x, g->scale[at], g->zero[at], g->bits);

    g->code[i * cols + j] = (uint8_t)code;
    return (float)(code - g->zero[at]) * g->scale[at];
}

void grid_round(struct grid *g, const float *m, uint64_t rows, uint64_t cols)
{
#pragma omp parallel for if (rows * cols > 65536)
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = 0; j < cols; j++) {
            if (j % g->group == 0)
                begin_group(g, m + i * cols, i, j, rows, cols);
            choose(g, m[i * cols + j], i, j, rows, cols);
        }
}

void grid_read(const struct grid *g, float *m, uint64_t rows, uint64_t cols)
{
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = 0; j < cols; j++) {
            const uint64_t at = j / g->group * rows + i;

            m[i * cols + j] = (float)(g->code[i * cols + j] - g->zero[at]) * g->scale[at];
        }
}

/* ---- GPTQ ----------------------------------------------------------------------------------------- */

static kvp_err hessian(double *h, const float *x, uint64_t n, uint64_t k, struct kvp_error *e)
{
    double *wide = malloc(n * k * sizeof(*wide)), mean = 0;
    gsl_matrix_view v, to;

    if (!wide)
        return no_memory("activations", e);
    for (uint64_t i = 0; i < n * k; i++)
        wide[i] = (double)x[i];
    v = gsl_matrix_view_array(wide, n, k);
    to = gsl_matrix_view_array(h, k, k);
    gsl_blas_dgemm(CblasTrans, CblasNoTrans, 1, &v.matrix, &v.matrix, 0, &to.matrix);
    free(wide);
    for (uint64_t j = 0; j < k; j++)
        mean += h[j * k + j] / (double)k;
    for (uint64_t j = 0; j < k; j++)
        h[j * k + j] += mean > 0 ? 0.01 * mean : 1;
    return KVP_OK;
}

/* h becomes the upper factor of its inverse. */
static kvp_err factor(double *h, uint64_t k, struct kvp_error *e)
{
    gsl_error_handler_t *before = gsl_set_error_handler_off();
    gsl_matrix_view v = gsl_matrix_view_array(h, k, k);
    int status = gsl_linalg_cholesky_decomp1(&v.matrix);

    status = status ? status : gsl_linalg_cholesky_invert(&v.matrix);
    status = status ? status : gsl_linalg_cholesky_decomp1(&v.matrix);
    gsl_set_error_handler(before);
    gsl_matrix_transpose(&v.matrix); /* L L^T is U^T U with U = L^T */
    return status ? kvp_fail(e, KVP_ESYS, "a Hessian has no Cholesky factor: %s", gsl_strerror(status)) : KVP_OK;
}

kvp_err gptq_factor(double **out, const float *x, uint64_t n, uint64_t cols, struct kvp_error *e)
{
    kvp_err rc;

    *out = calloc(cols * cols, sizeof(**out));
    if (!*out)
        return no_memory("a Hessian", e);
    rc = hessian(*out, x, n, cols, e);
    if (rc == KVP_OK)
        rc = factor(*out, cols, e);
    if (rc != KVP_OK) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

/* Columns [from, to) of one row: each is rounded, and those after it in the block take its error. */
static void round_block(struct grid *g, float *row, uint64_t i, uint64_t from, uint64_t to, const double *u, double *errors,
                        uint64_t rows, uint64_t cols)
{
    for (uint64_t j = from; j < to; j++) {
        const double *u_row = u + j * cols;
        double off;

        if (j % g->group == 0)
            begin_group(g, row, i, j, rows, cols);
        off = ((double)row[j] - (double)choose(g, row[j], i, j, rows, cols)) / u_row[j];
        for (uint64_t l = j; l < to; l++)
            row[l] -= (float)(off * u_row[l]);
        errors[j - from] = off;
    }
}

/* What a block is off by, out of all columns after it at once. */
static void spread(float *m, const double *errors, const double *u, uint64_t from, uint64_t to, uint64_t rows, uint64_t cols)
{
#pragma omp parallel for if (rows * cols > 65536)
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = from; j < to; j++) {
            const double off = errors[i * BLOCK + j - from], *u_row = u + j * cols;

#pragma omp simd
            for (uint64_t l = to; l < cols; l++)
                m[i * cols + l] -= (float)(off * u_row[l]);
        }
}

kvp_err gptq_round(struct grid *g, const float *m, uint64_t rows, uint64_t cols, const double *factor, struct kvp_error *e)
{
    float *w = malloc(rows * cols * sizeof(*w));
    double *errors = malloc(rows * BLOCK * sizeof(*errors));
    const bool room = w && errors;

    if (room)
        memcpy(w, m, rows * cols * sizeof(*w));
    for (uint64_t from = 0; room && from < cols; from += BLOCK) {
        const uint64_t to = least(from + BLOCK, cols);

#pragma omp parallel for if (rows * cols > 65536)
        for (uint64_t i = 0; i < rows; i++)
            round_block(g, w + i * cols, i, from, to, factor, errors + i * BLOCK, rows, cols);
        spread(w, errors, factor, from, to, rows, cols);
    }
    free(w);
    free(errors);
    return room ? KVP_OK : no_memory("a matrix to be rounded", e);
}

/* ---- AWQ ------------------------------------------------------------------------------------------ */

kvp_err output_loss(double *out, const float *a, const float *b, uint64_t rows, uint64_t cols, const float *x, uint64_t n, struct kvp_error *e)
{
    float *apart = malloc(rows * cols * sizeof(*apart)), *y = malloc(n * rows * sizeof(*y));
    const bool room = apart && y;

    *out = 0;
    if (room) {
        gsl_matrix_float_const_view left = gsl_matrix_float_const_view_array(x, n, cols);
        gsl_matrix_float_view right = gsl_matrix_float_view_array(apart, rows, cols), to = gsl_matrix_float_view_array(y, n, rows);

        for (uint64_t i = 0; i < rows * cols; i++)
            apart[i] = a[i] - b[i];
        gsl_blas_sgemm(CblasNoTrans, CblasTrans, 1, &left.matrix, &right.matrix, 0, &to.matrix);
        for (uint64_t i = 0; i < n * rows; i++)
            *out += (double)y[i] * (double)y[i];
    }
    free(apart);
    free(y);
    return room ? KVP_OK : no_memory("a layer's output", e);
}

/* mean |x|^power of each channel, around 1. */
static void powers(float *s, const float *x, uint64_t n, uint64_t k, double power)
{
    double low = HUGE_VAL, high = 0, middle;

    for (uint64_t j = 0; j < k; j++) {
        double sum = 0;

        for (uint64_t t = 0; t < n; t++)
            sum += fabs((double)x[t * k + j]);
        s[j] = (float)fmax(pow(sum / (double)n, power), 1e-4);
        low = fmin(low, (double)s[j]);
        high = fmax(high, (double)s[j]);
    }
    middle = sqrt(low * high);
    for (uint64_t j = 0; j < k; j++)
        s[j] = (float)((double)s[j] / middle);
}

static double channel_max(const float *m, uint64_t rows, uint64_t cols, uint64_t j)
{
    double most = 1e-5;

    for (uint64_t i = 0; i < rows; i++)
        most = fmax(most, fabs((double)m[i * cols + j]));
    return most;
}

void smooth_scales(float *scales, const float *m, uint64_t rows, uint64_t cols, const float *x, uint64_t n, double power)
{
    for (uint64_t j = 0; j < cols; j++)
        scales[j] = (float)fmax(1e-5, pow(channel_max(x, n, cols, j), power) / pow(channel_max(m, rows, cols, j), 1 - power));
}

/* m as it is after scaling, rounding and scaling back. */
static kvp_err rounded(float *to, const float *m, const float *s, uint64_t rows, uint64_t cols, uint32_t bits, uint32_t group, struct kvp_error *e)
{
    struct grid g;

    for (uint64_t i = 0; i < rows * cols; i++)
        to[i] = m[i] * s[i % cols];
    KVP_TRY(grid_open(&g, bits, group, rows, cols, e));
    grid_round(&g, to, rows, cols);
    grid_read(&g, to, rows, cols);
    grid_close(&g);
    for (uint64_t i = 0; i < rows * cols; i++)
        to[i] /= s[i % cols];
    return KVP_OK;
}

kvp_err awq_scales(float *scales, const float *m, uint64_t rows, uint64_t cols, const float *x, uint64_t n, uint32_t bits, uint32_t group,
                   struct kvp_error *e)
{
    float *s = malloc(cols * sizeof(*s)), *back = malloc(rows * cols * sizeof(*back));
    kvp_err rc = s && back ? KVP_OK : no_memory("a search of scales", e);
    double best = HUGE_VAL, loss;

    for (int p = 0; p < POWERS && rc == KVP_OK; p++) {
        powers(s, x, n, cols, (double)p / POWERS);
        rc = rounded(back, m, s, rows, cols, bits, group, e);
        if (rc == KVP_OK)
            rc = output_loss(&loss, m, back, rows, cols, x, n, e);
        if (rc == KVP_OK && loss < best) {
            best = loss;
            memcpy(scales, s, cols * sizeof(*s));
        }
    }
    free(s);
    free(back);
    return rc;
}
