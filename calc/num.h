/* num.h - counts that cannot wrap: 64-bit arithmetic that remembers an overflow.
 *
 * A result above INT64_MAX (what JSON and its readers can hold) sets *over and saturates, so that a
 * long formula is written plainly and checked once at its end (KVP_ERANGE). */
#ifndef KVPROOF_CALC_NUM_H
#define KVPROOF_CALC_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NUM_MAX ((uint64_t)INT64_MAX)

static inline uint64_t num_add(bool *over, uint64_t a, uint64_t b)
{
    uint64_t r;

    if (!__builtin_add_overflow(a, b, &r) && r <= NUM_MAX)
        return r;
    *over = true;
    return NUM_MAX;
}

static inline uint64_t num_mul(bool *over, uint64_t a, uint64_t b)
{
    uint64_t r;

    if (!__builtin_mul_overflow(a, b, &r) && r <= NUM_MAX)
        return r;
    *over = true;
    return NUM_MAX;
}

static inline uint64_t num_product(bool *over, const uint64_t *f, size_t n)
{
    uint64_t r = 1;
    bool big = false;

    for (size_t i = 0; i < n; i++)
        r = num_mul(&big, r, f[i]);
    for (size_t i = 0; i < n && big; i++) /* too big on the way to a zero is a zero */
        if (f[i] == 0)
            return 0;
    *over = *over || big;
    return r;
}

/* NUM_PROD(over, a, b, c, ...): the product of any number of counts. */
#define NUM_PROD(over, ...)                                                                        \
    num_product((over), (const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static inline uint64_t num_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t num_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline uint64_t num_less(uint64_t a, uint64_t b) /* a - b, at least 0 */
{
    return a > b ? a - b : 0;
}

static inline uint64_t num_cdiv(uint64_t a, uint64_t n)
{
    return a / n + (a % n != 0);
}

#endif
