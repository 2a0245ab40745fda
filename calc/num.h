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

/* Two to eight factors one after the other, in registers; num_product() when they are too many for 63 bits. */
static inline uint64_t num_prod(bool *over, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    bool big = false;
    uint64_t r = num_mul(&big, a, b);

    r = c == 1 ? r : num_mul(&big, r, c);
    r = d == 1 ? r : num_mul(&big, r, d);
    r = e == 1 ? r : num_mul(&big, r, e);
    r = f == 1 ? r : num_mul(&big, r, f);
    r = g == 1 ? r : num_mul(&big, r, g);
    r = h == 1 ? r : num_mul(&big, r, h);
    return big ? num_product(over, (const uint64_t[]){a, b, c, d, e, f, g, h}, 8) : r;
}

/* NUM_PROD(over, a, b, ...): the product of up to eight counts. */
#define NUM_FIRST_8(over, a, b, c, d, e, f, g, h, ...) num_prod((over), (a), (b), (c), (d), (e), (f), (g), (h))
#define NUM_PROD(over, ...) NUM_FIRST_8(over, __VA_ARGS__, 1, 1, 1, 1, 1, 1, 1, 1)

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
