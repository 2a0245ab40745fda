/* cpu.h - the CPU backend: OpenMP over rows, heads and ranges of tokens; SIMD chosen when the device is
 * opened; OpenBLAS for products with many rows.
 *
 * Results depend on the number of threads only: work is cut by a rule, never by who comes first, and
 * partial sums are merged in order. OpenBLAS runs with one thread inside each of ours (its own pool
 * would compete with OpenMP's for the cores) and is left out by -DKVP_NO_OPENBLAS.
 *
 * A tree that looks for races (CONFIG=tsan) sets both numbers below, so that a tiny test's kernels run side by side too. */
#ifndef KVPROOF_CPU_H
#define KVPROOF_CPU_H

#include "kernels/cpu/ops.h"
#include "kernels/host.h"

#ifndef KVP_LEAST_THREADS
#define KVP_LEAST_THREADS 1
#endif
#ifndef KVP_PARALLEL_FROM
#define KVP_PARALLEL_FROM 16384 /* multiply-adds, or elements visited: fewer are not worth waking a thread for */
#endif

struct kb_dev {
    uint32_t threads;
    bool blas; /* false when plain, or built without */
    const struct cpu_ops *ops;
    float *scratch; /* grows to what one call needs; freed by close */
    uint64_t scratch_floats;
};

typedef kvp_err cpu_kernel(struct kb_dev *dev, const void *args, struct kvp_error *e);

#define KB_X(sym, name) cpu_kernel cpu_##name;
KB_KERNEL_MAP(KB_X)
#undef KB_X

/* `count` areas of `floats` each (rounded up to whole cache lines, returned in *stride), contents undefined,
 * valid until the next call. */
kvp_err cpu_scratch(struct kb_dev *dev, float **out, uint64_t *stride, uint64_t count, uint64_t floats,
                    struct kvp_error *e);

/* One of the formats that the loops of ops.h have tables for. */
static inline bool cpu_is_plain(enum kvp_format f)
{
    return f == KVP_F32 || f == KVP_F16 || f == KVP_BF16;
}

/* Threads worth waking for `work` multiply-adds or element visits. */
static inline int cpu_threads(const struct kb_dev *dev, uint64_t work)
{
    return work < KVP_PARALLEL_FROM ? 1 : (int)dev->threads;
}

/* c[i][j] = alpha * a[i].b[j] (trans) or sum over l of a[i][l] * b[l][j] (not trans), plus beta * c, f32, in
 * the calling thread; beta is 0 or 1. Strides in elements. m x n result, k summed. */
void cpu_product(const struct kb_dev *dev, bool trans, uint64_t m, uint64_t n, uint64_t k, float alpha,
                 const float *a, uint64_t lda, const float *b, uint64_t ldb, float beta, float *c, uint64_t ldc);

/* Attention of one query token per sequence over tokens [first, end): ranges of tokens in parallel, each
 * with a running softmax over tiles, merged in order. A tile never crosses a multiple of `tile`. */
struct cpu_attend {
    uint64_t batch;
    uint32_t heads, kv_heads, dim;
    uint64_t first, end;
    uint32_t tile;
    uint64_t extra;   /* floats of scratch that the two below get */
    const void *args; /* handed to the two below, which serve all query heads of kv head g at once */
    /* s[h * stride + t - t0] = scaled score of token t for the h-th head of the group */
    void (*scores)(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   float *s, uint64_t stride, float *extra);
    /* o[h * dim + c] += sum over t of p[h * stride + t - t0] * value[t][c] */
    void (*values)(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   const float *p, uint64_t stride, float *o, float *extra);
    uint64_t out_stride;
    float *out, *probs; /* probs: NULL or [batch, heads, end - first] */
    struct kb_span sinks; /* (optional) [heads] in sink_format: one more score in each denominator */
    enum kvp_format sink_format;
};

/* Scaled scores of one query head at token i, for keys [j0, j0 + n): held down, then biased by distance. 0, NULL: neither. */
void cpu_bend(float *s, uint64_t j0, uint64_t n, uint64_t i, float softcap, const float *slope);

kvp_err cpu_attend(struct kb_dev *dev, const struct cpu_attend *a, struct kvp_error *e);

#endif
