#include "validate/engine/convert.h"

#include <string.h>

static uint32_t bits_of(float x)
{
    uint32_t u;

    memcpy(&u, &x, sizeof(u));
    return u;
}

static float float_of(uint32_t u)
{
    float x;

    memcpy(&x, &u, sizeof(x));
    return x;
}

static float from_bf16(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

static uint16_t to_bf16(float x)
{
    const uint32_t u = bits_of(x);

    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40); /* a NaN whose payload is in the lower half stays one */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float from_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, mag = h & 0x7fff;

    if (mag >= 0x7c00)
        return float_of(sign | 0x7f800000u | (mag & 0x3ff) << 13);
    if (mag >= 0x400)
        return float_of(sign | ((mag << 13) + (112u << 23)));
    return float_of(sign | bits_of((float)mag * 0x1p-24f));
}

static uint16_t to_f16(float x)
{
    const uint32_t u = bits_of(x), mag = u & 0x7fffffffu;
    const uint16_t sign = (uint16_t)(u >> 16 & 0x8000);

    if (mag > 0x7f800000u)
        return sign | 0x7e00;
    if (mag >= 0x477ff000u) /* 65520: halfway to the first that does not fit */
        return sign | 0x7c00;
    if (mag < 0x38800000u) /* subnormal: adding 0.5 rounds at 2^-24 */
        return (uint16_t)(sign | (bits_of(float_of(mag) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | ((mag - (112u << 23) + 0xfff + (mag >> 13 & 1)) >> 13));
}

uint32_t cvt_size(enum kvp_format f)
{
    return f == KVP_F32 ? sizeof(float) : sizeof(uint16_t);
}

float cvt_load(enum kvp_format f, const void *src)
{
    uint16_t h;
    float x;

    if (f == KVP_F32) {
        memcpy(&x, src, sizeof(x));
        return x;
    }
    memcpy(&h, src, sizeof(h));
    return f == KVP_F16 ? from_f16(h) : from_bf16(h);
}

void cvt_store(enum kvp_format f, void *dst, float x)
{
    uint16_t h;

    if (f == KVP_F32) {
        memcpy(dst, &x, sizeof(x));
        return;
    }
    h = f == KVP_F16 ? to_f16(x) : to_bf16(x);
    memcpy(dst, &h, sizeof(h));
}

void cvt_run(enum kvp_format to, void *dst, enum kvp_format from, const void *src, uint64_t src_step, uint64_t n)
{
    const uint64_t step = src_step * cvt_size(from);
    const unsigned char *s = src;
    unsigned char *d = dst;

    if (to == from && src_step == 1) {
        memcpy(dst, src, (size_t)(n * cvt_size(to)));
        return;
    }
    for (uint64_t i = 0; i < n; i++)
        cvt_store(to, d + i * cvt_size(to), cvt_load(from, s + i * step));
}
