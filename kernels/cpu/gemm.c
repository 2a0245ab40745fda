/* gemm.c - few rows of x: weights are streamed from where they are stored; many: unpacked in blocks for sgemm */
#include "kernels/cpu/gemm_coded.h"

#include "kernels/ops/gemm.h"

#ifndef KVP_NO_OPENBLAS
#include <cblas.h>
#endif

#define STREAM_ROWS 32  /* up to so many rows of x, unpacking W costs more than an sgemm saves */
#define PASS_ROWS 8     /* rows of x in one pass over a chunk of W */
#define CHUNK 64        /* rows of W that one thread takes at a time when streaming */
#define PIECE 512       /* elements of k in one pass when several rows of x have to stay in the first cache */
#define BLOCK_ROWS 512  /* most rows of W in one sgemm: enough to pay for packing x */
#define LEAST_ROWS 8    /* fewer unpacked rows than this are not worth an sgemm */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Without a library: tiles of W small enough to stay in the first cache while all rows of x pass. */
static void own_product(const struct cpu_ops *ops, bool trans, uint64_t m, uint64_t n, uint64_t k, float alpha,
                        const float *a, uint64_t lda, const float *b, uint64_t ldb, float beta, float *c, uint64_t ldc)
{
    float tile[4 * 16];

    for (uint64_t i = 0; !trans && beta == 0 && i < m; i++)
        memset(c + i * ldc, 0, n * sizeof(float));
    if (!trans) { /* alpha is 1 here */
        for (uint64_t i = 0; i < m; i += 4)
            ops->mix[KVP_F32](a + i * lda, lda, (uint32_t)least(4, m - i), b, ldb, k, n, c + i * ldc, ldc, NULL);
        return;
    }
    for (uint64_t j = 0; j < n; j += 16)
        for (uint64_t i = 0; i < m; i += 4) {
            uint32_t rows = (uint32_t)least(4, m - i), cols = (uint32_t)least(16, n - j);

            ops->dots[KVP_F32](a + i * lda, lda, rows, b + j * ldb, ldb, cols, k, alpha, tile, 16, NULL);
            for (uint32_t r = 0; r < rows; r++)
                for (uint32_t s = 0; s < cols; s++) {
                    float *y = &c[(i + r) * ldc + j + s];

                    *y = tile[r * 16 + s] + (beta == 0 ? 0 : *y);
                }
        }
}

void cpu_product(const struct kb_dev *dev, bool trans, uint64_t m, uint64_t n, uint64_t k, float alpha,
                 const float *a, uint64_t lda, const float *b, uint64_t ldb, float beta, float *c, uint64_t ldc)
{
#ifndef KVP_NO_OPENBLAS
    if (dev->blas) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, trans ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k,
                    alpha, a, (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
        return;
    }
#endif
    own_product(dev->ops, trans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/* y [m, CHUNK] = x [m, k] against `cols` rows of W, in pieces of k that are added in order. While a pair of rows
 * is read the next pair is fetched. */
static void pass(const struct kb_dev *dev, const struct kb_gemm *a, const float *x, uint32_t m, const unsigned char *w,
                 uint64_t cols, float *y)
{
    uint64_t size = kb_element(a->format), piece = m < 4 ? a->k : PIECE;
    float part[PASS_ROWS * CHUNK];

    for (uint64_t k0 = 0; k0 < a->k; k0 += piece) {
        const unsigned char *at = w + k0 * size;

        dev->ops->dots[a->format](x + k0, a->x_stride, m, at, a->k, cols, least(piece, a->k - k0), 1, k0 ? part : y, CHUNK,
                                  at + (m < 4 ? 4 : 2) * a->k * size);
        for (uint32_t r = 0; k0 && r < m; r++)
            for (uint64_t j = 0; j < cols; j++)
                y[r * CHUNK + j] += part[r * CHUNK + j];
    }
}

/* Rows [j0, j1) of W against all rows of x, at most CHUNK of W at a time. */
static void stream_rows(const struct kb_dev *dev, const struct kb_gemm *a, uint64_t j0, uint64_t j1)
{
    const unsigned char *w = (const unsigned char *)kb_at(a->w) + j0 * a->k * kb_element(a->format);
    float y[PASS_ROWS * CHUNK], *out = kb_at(a->out);

    for (uint64_t i = 0; i < a->m; i += PASS_ROWS) {
        uint32_t m = (uint32_t)least(PASS_ROWS, a->m - i);

        pass(dev, a, (const float *)kb_at(a->x) + i * a->x_stride, m, w, j1 - j0, y);
        for (uint32_t r = 0; r < m; r++)
            for (uint64_t j = j0; j < j1; j++) {
                float *o = &out[(i + r) * a->out_stride + j], v = y[r * CHUNK + j - j0];

                v += a->bias.buf ? kb_load(a->format, kb_at(a->bias), j) : 0.0f;
                *o = a->accumulate ? *o + v : v;
            }
    }
}

static kvp_err stream(struct kb_dev *dev, const struct kb_gemm *a)
{
    uint64_t chunks = (a->n + CHUNK - 1) / CHUNK;

#pragma omp parallel for schedule(dynamic, 1) num_threads(cpu_threads(dev, a->m * a->n * a->k))
    for (uint64_t c = 0; c < chunks; c++)
        stream_rows(dev, a, c * CHUNK, least((c + 1) * CHUNK, a->n));
    return KVP_OK;
}

/* Rows [j0, j1) of W, unpacked into `work` unless they are f32 already. */
static void block_rows(const struct kb_dev *dev, const struct kb_gemm *a, uint64_t j0, uint64_t j1, float *work)
{
    const unsigned char *w = (const unsigned char *)kb_at(a->w) + j0 * a->k * kb_element(a->format);
    float *out = kb_at(a->out);
    uint64_t cols = j1 - j0;
    bool add = a->accumulate || a->bias.buf;

    for (uint64_t i = 0; a->bias.buf && i < a->m; i++)
        for (uint64_t j = j0; j < j1; j++) {
            float *o = &out[i * a->out_stride + j];

            *o = (a->accumulate ? *o : 0.0f) + kb_load(a->format, kb_at(a->bias), j);
        }
    if (a->format != KVP_F32)
        dev->ops->widen[a->format](work, w, cols * a->k);
    cpu_product(dev, true, a->m, cols, a->k, 1, kb_at(a->x), a->x_stride,
                a->format == KVP_F32 ? (const float *)(const void *)w : work, a->k, add ? 1 : 0, out + j0, a->out_stride);
}

/* One range of W per thread; inside it, blocks that fit the thread's share of the scratch. */
static kvp_err blocks(struct kb_dev *dev, const struct kb_gemm *a, uint64_t rows)
{
    uint64_t parts = dev->threads, share = a->work_bytes / 4 / parts;

#pragma omp parallel for schedule(static, 1) num_threads((int)parts)
    for (uint64_t part = 0; part < parts; part++) {
        uint64_t first = a->n * part / parts, end = a->n * (part + 1) / parts;

        for (uint64_t j = first; j < end; j += rows)
            block_rows(dev, a, j, least(j + rows, end), (float *)kb_at(a->work) + part * share);
    }
    return KVP_OK;
}

kvp_err cpu_gemm(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_gemm *a = args;
    uint64_t rows = BLOCK_ROWS;

    if (!cpu_is_plain(a->format))
        return cpu_gemm_coded(dev, a, e);
    if (a->format != KVP_F32)
        rows = a->work.buf ? least(rows, a->work_bytes / 4 / dev->threads / a->k) : 0;
    if (a->m <= STREAM_ROWS || rows < LEAST_ROWS)
        return stream(dev, a);
    return blocks(dev, a, rows);
}
