/* low_rank.c - singular vectors of the shorter side, from the eigenvectors of its Gram matrix in double precision
 *
 * With U of m m^T, m is about U_r (U_r^T m): the product is m to rounding at full rank however close two singular values
 * are, since U is orthonormal whatever they are. LAPACK's dsyevr finds the first eigenvectors alone; GSL, where there is
 * no OpenBLAS, finds all. */
#include "validate/engine/low_rank.h"

#include <float.h>
#include <gsl/gsl_blas.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#ifdef KVP_NO_OPENBLAS
#include <gsl/gsl_eigen.h>
#include <gsl/gsl_errno.h>
#endif

static kvp_err no_memory(uint64_t n, struct kvp_error *e)
{
    return kvp_fail(e, KVP_ENOMEM, "out of memory to factor a matrix with a side of %llu", (unsigned long long)n);
}

/* g [n, n], which is lost: its `most` largest eigenvalues, largest first, and their eigenvectors [most, n] unless NULL. */
#ifndef KVP_NO_OPENBLAS
/* LAPACK 3, dsyevr */
extern void dsyevr_(const char *jobz, const char *range, const char *uplo, const int *n, double *a, const int *lda, const double *vl,
                    const double *vu, const int *il, const int *iu, const double *abstol, int *m, double *w, double *z, const int *ldz,
                    int *isuppz, double *work, const int *lwork, int *iwork, const int *liwork, int *info);

/* Ascending, as LAPACK has them. */
static int ascending(double *g, int n, int most, double *values, double *vectors, int *support)
{
    const int first = n - most + 1, ask = -1;
    const double none = 0;
    int found, info, ints, size;
    double wide, *work;
    int *more;

    dsyevr_(vectors ? "V" : "N", "I", "U", &n, g, &n, &none, &none, &first, &n, &none, &found, values, vectors, &n, support, &wide, &ask,
            &ints, &ask, &info);
    size = (int)wide;
    work = malloc((size_t)size * sizeof(*work));
    more = malloc((size_t)ints * sizeof(*more));
    if (info == 0 && work && more)
        dsyevr_(vectors ? "V" : "N", "I", "U", &n, g, &n, &none, &none, &first, &n, &none, &found, values, vectors, &n, support, work,
                &size, more, &ints, &info);
    else
        info = 1;
    free(work);
    free(more);
    return info ? info : found != most;
}

static void swap_rows(double *a, double *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        const double x = a[i];

        a[i] = b[i];
        b[i] = x;
    }
}

static int eigen(double *g, uint64_t n, uint64_t most, double *values, double *vectors)
{
    int *support = malloc(2 * n * sizeof(*support)), rc = support ? ascending(g, (int)n, (int)most, values, vectors, support) : 1;

    free(support);
    for (uint64_t i = 0; rc == 0 && i < most / 2; i++) {
        swap_rows(values + i, values + most - 1 - i, 1);
        if (vectors)
            swap_rows(vectors + i * n, vectors + (most - 1 - i) * n, n);
    }
    return rc;
}
#else
static int eigen(double *g, uint64_t n, uint64_t most, double *values, double *vectors)
{
    gsl_error_handler_t *before = gsl_set_error_handler_off();
    gsl_matrix_view m = gsl_matrix_view_array(g, n, n);
    gsl_eigen_symmv_workspace *w = gsl_eigen_symmv_alloc(n);
    gsl_vector *all = gsl_vector_alloc(n);
    gsl_matrix *columns = gsl_matrix_alloc(n, n);
    int rc = w && all && columns ? gsl_eigen_symmv(&m.matrix, all, columns, w) : GSL_ENOMEM;

    if (rc == 0)
        rc = gsl_eigen_symmv_sort(all, columns, GSL_EIGEN_SORT_VAL_DESC);
    for (uint64_t i = 0; rc == 0 && i < most; i++) {
        values[i] = gsl_vector_get(all, i);
        for (uint64_t j = 0; vectors && j < n; j++)
            vectors[i * n + j] = gsl_matrix_get(columns, j, i);
    }
    gsl_matrix_free(columns);
    gsl_vector_free(all);
    gsl_eigen_symmv_free(w);
    gsl_set_error_handler(before);
    return rc;
}
#endif

/* m m^T, or m^T m where rows are more than columns: the smaller one, both halves filled. */
static void gram(double *g, const double *m, uint64_t rows, uint64_t cols)
{
    const uint64_t n = rows < cols ? rows : cols;
    gsl_matrix_const_view v = gsl_matrix_const_view_array(m, rows, cols);
    gsl_matrix_view to = gsl_matrix_view_array(g, n, n);

    gsl_blas_dsyrk(CblasLower, rows <= cols ? CblasNoTrans : CblasTrans, 1, &v.matrix, 0, &to.matrix);
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t j = i + 1; j < n; j++)
            g[i * n + j] = g[j * n + i];
}

/* Singular vectors [rank, n] of the shorter side n of m, or with NULL the eigenvalues alone. */
static kvp_err decompose(double *values, double *vectors, const double *m, uint64_t rows, uint64_t cols, uint64_t rank, struct kvp_error *e)
{
    const uint64_t n = rows < cols ? rows : cols;
    double *g = malloc(n * n * sizeof(*g));
    int rc;

    if (!g)
        return no_memory(n, e);
    gram(g, m, rows, cols);
    rc = eigen(g, n, rank, values, vectors);
    free(g);
    return rc ? kvp_fail(e, KVP_ESYS, "a matrix of %llu by %llu has no singular values (%d)", (unsigned long long)rows,
                         (unsigned long long)cols, rc)
              : KVP_OK;
}

static double *widen(const float *m, uint64_t n)
{
    double *wide = malloc(n * sizeof(*wide));

    for (uint64_t i = 0; wide && i < n; i++)
        wide[i] = (double)m[i];
    return wide;
}

/* vectors [rank, n] are of the rows where these are no more than the columns; `other` has room for the other factor. */
static void factors(float *up, float *down, const double *m, const double *vectors, double *other, uint64_t rows, uint64_t cols, uint64_t rank)
{
    const bool of_rows = rows <= cols;
    const uint64_t n = of_rows ? rows : cols, wide = of_rows ? cols : rows;
    gsl_matrix_const_view v = gsl_matrix_const_view_array(vectors, rank, n), from = gsl_matrix_const_view_array(m, rows, cols);
    gsl_matrix_view to = gsl_matrix_view_array(other, rank, wide);

    gsl_blas_dgemm(CblasNoTrans, of_rows ? CblasNoTrans : CblasTrans, 1, &v.matrix, &from.matrix, 0, &to.matrix);
    for (uint64_t r = 0; r < rank; r++) {
        for (uint64_t i = 0; i < rows; i++)
            up[i * rank + r] = (float)(of_rows ? vectors[r * n + i] : other[r * wide + i]);
        for (uint64_t j = 0; j < cols; j++)
            down[r * cols + j] = (float)(of_rows ? other[r * wide + j] : vectors[r * n + j]);
    }
}

kvp_err low_rank_split(float *up, float *down, const float *m, uint64_t rows, uint64_t cols, uint64_t rank, struct kvp_error *e)
{
    const uint64_t n = rows < cols ? rows : cols;
    double *wide = widen(m, rows * cols), *values = malloc(n * sizeof(*values));
    double *vectors = malloc(rank * n * sizeof(*vectors)), *other = malloc(rank * (rows + cols - n) * sizeof(*other));
    kvp_err rc = wide && values && vectors && other ? decompose(values, vectors, wide, rows, cols, rank, e) : no_memory(n, e);

    if (rc == KVP_OK)
        factors(up, down, wide, vectors, other, rows, cols, rank);
    free(wide);
    free(values);
    free(vectors);
    free(other);
    return rc;
}

kvp_err low_rank_condition(double *out, const float *m, uint64_t rows, uint64_t cols, struct kvp_error *e)
{
    const uint64_t n = rows < cols ? rows : cols;
    double *wide = widen(m, rows * cols), *values = malloc(n * sizeof(*values));
    kvp_err rc = wide && values ? decompose(values, NULL, wide, rows, cols, n, e) : no_memory(n, e);

    if (rc == KVP_OK) /* squares: what is below a rounding of the largest is 0 for all we know */
        *out = values[0] > 0 ? log(values[0] / fmax(values[n - 1], values[0] * (double)FLT_EPSILON * (double)FLT_EPSILON)) / 2 : 0;
    free(wide);
    free(values);
    return rc;
}
