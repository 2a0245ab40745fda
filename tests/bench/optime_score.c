/* optime_score.c - how well times of ops are predicted that the fit never saw: rows of a CSV file as `kvproof
 * calibrate --from` reads them, cells split in halves, each class fitted on one half and scored on the other.
 *
 *     make optime-score ROWS=gemm.csv [SEEDS=3] [BY=row]
 *
 * Prints for each class its rows (fitted, scored), and median and 95th percentile of |T/t - 1|: the formula with its
 * residual, then the formula alone; for each seed the same over all scored rows, and the share of them inside the
 * printed interval. BY=row splits rows instead of cells: every curve was seen, other points of it are predicted. */
#include "calc/optime/fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WAYS = 2 };

struct errors {
    double *v[WAYS];
    uint32_t n, inside;
};

static void *room(size_t n)
{
    void *p = malloc(n ? n : 1);

    if (!p)
        abort();
    return p;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double quantile(double *v, uint32_t n, double q)
{
    qsort(v, n, sizeof(*v), by_value);
    return n ? v[(uint32_t)(q * (n - 1) + 0.5)] : (double)NAN;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Which rows the target speaks of. */
static bool gated(const struct optime_file *f, const struct optime_row *r)
{
    const char *name = f->cls[r->cls];
    const char *kind = f->kind->name;

    if (strcmp(kind, "decode_attention") == 0)
        return strstr(name, "/vllm/") && strstr(name, "/0/") && (strstr(name, "/64/0") || strstr(name, "/128/0")) && r->at[0] >= log2(1e8);
    if (strcmp(kind, "mla_decode") == 0)
        return r->at[0] >= log2(1e8);
    if (strcmp(kind, "prefill_attention") == 0)
        return strstr(name, "/0/") && r->at[0] + r->at[1] >= 11;
    return true;
}

static void score_class(const struct optime_file *f, uint32_t cls, uint64_t seed, bool by_row, struct errors *all, bool verbose)
{
    const struct optime_row **train = room(f->n * sizeof(*train)), **test = room(f->n * sizeof(*test));
    uint32_t n_train = 0, n_test = 0, first = all->n;
    struct kvp_error e = {0};
    struct optime_fit fit, simple;

    for (uint32_t i = 0; i < f->n; i++) {
        const struct optime_row *r = &f->row[i];

        if (r->cls != cls)
            continue;
        if (mix((by_row ? (uint64_t)i * 7919 : r->cell) + seed * UINT64_C(0x9e3779b97f4a7c15)) & 1)
            train[n_train++] = r;
        else if (gated(f, r))
            test[n_test++] = r;
    }
    if (n_train >= FIT_LEAST_ROWS && n_test && optime_fit(&fit, f->kind, train, n_train, &e) == KVP_OK) {
        struct optime_prediction p;

        optime_fit(&simple, f->kind, train, 0, &e);
        for (uint32_t i = 0; i < n_test; i++) {
            const double t = test[i]->ms;

            if (by_row) { /* a curve: its (n, k) was seen */
                bool seen = false;

                for (uint32_t k = 0; k < n_train && !seen; k++)
                    seen = train[k]->cell == test[i]->cell;
                if (!seen)
                    continue;
            }
            optime_predict(&fit, test[i], true, &p);
            all->inside += t >= p.low && t <= p.high;
            all->v[0][all->n] = fabs(p.ms / t - 1);
            optime_predict(&fit, test[i], false, &p);
            all->v[1][all->n++] = fabs(p.ms / t - 1);
        }
        if (verbose && all->n > first) {
            const uint32_t n = all->n - first;
            double *v[2] = {room(n * sizeof(double)), room(n * sizeof(double))};

            for (int w = 0; w < 2; w++)
                memcpy(v[w], all->v[w] + first, n * sizeof(double));
            printf("%-80s %5u %5u  %.3f %.3f | %.3f %.3f %s\n", f->cls[cls], n_train, n, quantile(v[0], n, .5), quantile(v[0], n, .95),
                   quantile(v[1], n, .5), quantile(v[1], n, .95), fit.simple ? fit.why : "");
            free(v[0]);
            free(v[1]);
        }
        optime_fit_free(&fit);
        optime_fit_free(&simple);
    }
    free(train);
    free(test);
}

int main(int argc, char **argv)
{
    struct optime_file f;
    struct kvp_error e = {0};
    const int seeds = argc > 2 ? atoi(argv[2]) : 3;
    const bool by_row = argc > 3;

    if (argc < 2 || seeds < 1) {
        fprintf(stderr, "usage: optime_score ROWS.csv [SEEDS [row]]\n");
        return 2;
    }
    if (optime_open(&f, argv[1], true, &e) != KVP_OK) {
        fprintf(stderr, "%s\n", e.text);
        return 2;
    }
    for (int s = 0; s < seeds; s++) {
        struct errors all = {0};

        for (int w = 0; w < WAYS; w++)
            all.v[w] = room(f.n * sizeof(double));
        for (uint32_t c = 0; c < f.n_classes; c++)
            score_class(&f, c, (uint64_t)s, by_row, &all, s == 0);
        printf("seed %d: %u rows, with residual %.4f %.4f, formula %.4f %.4f, inside %.3f\n", s, all.n, quantile(all.v[0], all.n, .5),
               quantile(all.v[0], all.n, .95), quantile(all.v[1], all.n, .5), quantile(all.v[1], all.n, .95), all.n ? (double)all.inside / all.n : (double)NAN);
        for (int w = 0; w < WAYS; w++)
            free(all.v[w]);
    }
    optime_close(&f);
    return 0;
}
