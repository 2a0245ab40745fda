/* ref.h - the reference backend: every kernel of kernels/ops/ in plain C, sums in double precision,
 * one thread, no library. Slow and obvious; the others are held against it. */
#ifndef KVPROOF_REF_H
#define KVPROOF_REF_H

#include "kernels/host.h"

#include <stdlib.h>

typedef kvp_err ref_kernel(const void *args, struct kvp_error *e);

#define KB_X(sym, name) ref_kernel ref_##name;
KB_KERNEL_MAP(KB_X)
#undef KB_X

/* sum of a[i] * b[i] over f32 a and b in `format`, from element `at` of b. */
static inline double ref_dot(const float *a, enum kvp_format format, const void *b, uint64_t at, uint64_t n)
{
    double sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)kb_load(format, b, at + i);
    return sum;
}

/* Scratch that the caller frees; never NULL unless *e is set. */
static inline double *ref_scratch(uint64_t n, struct kvp_error *e)
{
    double *p = n > SIZE_MAX / sizeof(*p) ? NULL : malloc(n * sizeof(*p));

    if (!p)
        kvp_fail(e, KVP_ENOMEM, "ref: no memory for %llu doubles", (unsigned long long)n);
    return p;
}

/* Softmax in place. */
void ref_softmax(double *s, uint64_t n);

#endif
