#include "validate/measure/probe.h"

#include "kernels/ops.h"
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>

enum { PROBE_BYTES = 256 << 20, PROBE_M = 512, PROBE_FEW = 64, PROBE_NK = 1024, PROBE_RUNS = 7, PROBE_LAUNCHES = 200,
       PROBE_SLOW_NS = 200000000 };

struct probe_run {
    const struct kb_backend *be;
    struct kb_dev *dev;
    struct kb_buf *buf;
};

/* Median seconds of one call of kernel k. */
static kvp_err median_time(const struct probe_run *p, enum kb_kernel k, const void *args, int runs, double *s,
                           struct kvp_error *e)
{
    double t[PROBE_LAUNCHES];
    uint64_t t0 = 0, t1 = 0;

    KVP_TRY(p->be->now(p->dev, &t0, e));
    KVP_TRY(p->be->run(p->dev, k, args, e)); /* warms up */
    KVP_TRY(p->be->now(p->dev, &t1, e));
    if (t1 - t0 > PROBE_SLOW_NS)
        runs = 1;
    for (int i = 0; i < runs; i++) {
        KVP_TRY(p->be->now(p->dev, &t0, e));
        KVP_TRY(p->be->run(p->dev, k, args, e));
        KVP_TRY(p->be->now(p->dev, &t1, e));
        t[i] = (double)(t1 - t0) * 1e-9;
    }
    gsl_sort(t, 1, (size_t)runs);
    *s = gsl_stats_median_from_sorted_data(t, 1, (size_t)runs);
    return KVP_OK;
}

/* Fewer rows where all of them would be slow. The first call may be slow for reasons of its own. */
static kvp_err size_gemm(const struct probe_run *p, struct kb_gemm *gemm, struct kvp_error *e)
{
    uint64_t t0 = 0, t1 = 0, best = UINT64_MAX;

    gemm->m = PROBE_FEW;
    for (int i = 0; i < 2; i++) {
        KVP_TRY(p->be->now(p->dev, &t0, e));
        KVP_TRY(p->be->run(p->dev, KB_GEMM, gemm, e));
        KVP_TRY(p->be->now(p->dev, &t1, e));
        best = t1 - t0 < best ? t1 - t0 : best;
    }
    if (best <= PROBE_SLOW_NS / (PROBE_M / PROBE_FEW))
        gemm->m = PROBE_M;
    return KVP_OK;
}

static kvp_err measure(const struct probe_run *p, struct probe *out, struct kvp_error *e)
{
    const uint64_t x = 64, w = x + 4ull * PROBE_M * PROBE_NK, o = w + 4ull * PROBE_NK * PROBE_NK;
    const struct kb_read_probe read = {.bytes = PROBE_BYTES - 64, .src = {p->buf, 64}, .out = {p->buf, 0}};
    struct kb_gemm gemm = {.m = PROBE_M, .n = PROBE_NK, .k = PROBE_NK, .x_stride = PROBE_NK,
                                 .out_stride = PROBE_NK, .format = KVP_F32, .x = {p->buf, x},
                                 .w = {p->buf, w}, .out = {p->buf, o}};
    const struct kb_act tiny = {.rows = 1, .width = 8, .kind = KB_ACT_RELU, .in_stride = 8, .out_stride = 8,
                                .in = {p->buf, 64}, .out = {p->buf, 64}};
    double s = 0;

    KVP_TRY(p->be->fill(p->dev, (struct kb_span){p->buf, 0}, 0, PROBE_BYTES, e));
    KVP_TRY(median_time(p, KB_READ_PROBE, &read, PROBE_RUNS, &s, e));
    out->read_bytes_per_s = (double)read.bytes / s;
    KVP_TRY(size_gemm(p, &gemm, e));
    KVP_TRY(median_time(p, KB_GEMM, &gemm, PROBE_RUNS, &s, e));
    out->gemm_flops = 2.0 * (double)gemm.m * PROBE_NK * PROBE_NK / s;
    return median_time(p, KB_ACT, &tiny, PROBE_LAUNCHES, &out->launch_s, e);
}

kvp_err probe_device(const struct kb_backend *be, struct kb_dev *dev, struct probe *out, struct kvp_error *e)
{
    struct probe_run p = {be, dev, NULL};
    kvp_err rc;

    KVP_TRY(be->alloc(dev, PROBE_BYTES, &p.buf, e));
    rc = measure(&p, out, e);
    be->release(dev, p.buf);
    return rc;
}
