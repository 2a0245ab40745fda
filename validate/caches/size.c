/* size.c - products that cannot wrap, bytes of a format */
#include "validate/caches/size.h"

#include "kernels/code.h"

uint64_t size_of_format(enum kvp_format f)
{
    static const uint64_t bytes[KVP_FORMATS] = {[KVP_F32] = 4, [KVP_F16] = 2, [KVP_BF16] = 2, [KVP_I32] = 4};

    return (unsigned)f < KVP_FORMATS ? bytes[f] : 0;
}

uint64_t size_of_row(enum kvp_format f, uint64_t n)
{
    return kb_row_bytes(f, n);
}

kvp_err size_product(uint64_t *out, const uint64_t *f, size_t n, const char *what, struct kvp_error *e)
{
    uint64_t v = 1;

    for (size_t i = 0; i < n; i++)
        if (__builtin_mul_overflow(v, f[i], &v))
            return kvp_fail(e, KVP_ERANGE, "%s: the size does not fit in 64 bits", what);
    *out = v;
    return KVP_OK;
}
