/* size.h - the caches' own arithmetic on sizes: products that cannot wrap, bytes of a format.
 *
 * Written for the measuring half alone; the prediction has its own (docs/architecture.md, "The wall"). */
#ifndef KVPROOF_CACHES_SIZE_H
#define KVPROOF_CACHES_SIZE_H

#include <kvproof/error.h>
#include <kvproof/names.h>

#include <stdint.h>

/* Bytes of one value; 0 for packed formats, which have no whole bytes. */
uint64_t size_of_format(enum kvp_format f);

/* Bytes of a row of n numbers: whole values, codes, or blocks, as the kernels lay them out. */
uint64_t size_of_row(enum kvp_format f, uint64_t n);

/* *out = the product of f[0..n). KVP_ERANGE, naming `what`, when it does not fit in 64 bits. */
kvp_err size_product(uint64_t *out, const uint64_t *f, size_t n, const char *what, struct kvp_error *e);
#define SIZE_PRODUCT(out, what, e, ...)                                                                      \
    size_product((out), (const uint64_t[]){__VA_ARGS__},                                                     \
                 sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t), (what), (e))

static inline uint64_t size_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Whole runs of `unit` that hold n; no intermediate value exceeds n. */
static inline uint64_t size_div_up(uint64_t n, uint64_t unit)
{
    return n / unit + (n % unit != 0);
}

#endif
