/* codes.c - kernels/ops/kv.h's codes and blocks: packing row by row, and runs of rows unpacked for the loops in f32 */
#include "kernels/cpu/codes.h"

#include <math.h>

/* ---- packing ------------------------------------------------------------------------------------ */

static float largest(const float *x, uint32_t n)
{
    float most = 0;

#pragma omp simd reduction(max : most)
    for (uint32_t i = 0; i < n; i++) {
        const float a = x[i] < 0 ? -x[i] : x[i];

        most = a > most ? a : most;
    }
    return most;
}

static void range(const float *x, uint32_t n, float *least, float *most)
{
    float lo = x[0], hi = x[0];

#pragma omp simd reduction(min : lo) reduction(max : hi)
    for (uint32_t i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    *least = lo;
    *most = hi;
}

float cpu_top(enum kvp_format f)
{
    switch (f) {
    case KVP_FP8:
        return 448;
    case KVP_INT8:
        return 127;
    default:
        return 7;
    }
}

/* Whole numbers between low and high, clamped before they are rounded: for whole bounds that is the same. Adding
 * 1.5 * 2^23 rounds to nearest even and leaves the number, in two's complement, in the low bits. */
static inline uint32_t whole(float x, float shift, float scale, float low, float high)
{
    float r = (x - shift) / scale;

    r = r < low ? low : r > high ? high : r;
    return kb_f32_bits(r + 0x1.8p23f);
}

struct affine {
    float scale, shift, low, high;
    uint32_t plus; /* added to a code before it is stored */
};

static void pack_bytes(uint8_t *to, const float *x, uint32_t n, struct affine a)
{
    if (a.scale == 0) {
        memset(to, 0, n);
        return;
    }
#pragma omp simd
    for (uint32_t i = 0; i < n; i++)
        to[i] = (uint8_t)whole(x[i], a.shift, a.scale, a.low, a.high);
}

/* From element `first` of the row on: a group may begin in the middle of a byte. */
static void pack_nibbles(uint8_t *to, uint32_t first, const float *x, uint32_t n, struct affine a)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t code = ((a.scale == 0 ? 0 : whole(x[i], a.shift, a.scale, a.low, a.high)) + a.plus) & 15u, at = first + i;

        to[at / 2] = (uint8_t)(at % 2 ? (to[at / 2] & 15u) | code << 4 : code);
    }
}

static void pack_fp8(uint8_t *to, const float *x, uint32_t n, struct affine a)
{
    for (uint32_t i = 0; i < n; i++)
        to[i] = kb_to_e4m3(a.scale == 0 ? 0 : (x[i] - a.shift) / a.scale);
}

static void pack_run(enum kvp_format f, uint8_t *row, uint32_t first, const float *x, uint32_t n, struct affine a)
{
    if (f == KVP_INT8)
        pack_bytes(row + first, x, n, a);
    else if (f == KVP_INT4)
        pack_nibbles(row, first, x, n, a);
    else
        pack_fp8(row + first, x, n, a);
}

static void pack_group(const struct kb_kv *kv, uint64_t at, uint8_t *row, uint32_t first, const float *x)
{
    const float top = kv->format == KVP_INT8 ? 255 : 15;
    struct affine a = {.high = top};
    float least, most;

    range(x, kv->group, &least, &most);
    if (kv->format == KVP_FP8) {
        a.shift = (most + least) / 2;
        a.scale = (most - least) / 2 / 448;
    } else {
        a.shift = least;
        a.scale = (most - least) / top;
    }
    kb_store(kv->scale_format, kb_at(kv->scale), at, a.scale);
    kb_store(kv->scale_format, kb_at(kv->shift), at, a.shift);
    a.scale = kb_load(kv->scale_format, kb_at(kv->scale), at);
    a.shift = kb_load(kv->scale_format, kb_at(kv->shift), at);
    pack_run(kv->format, row, first, x, kv->group, a);
}

static void pack_codes(const struct kb_kv *kv, uint64_t index, uint8_t *row, const float *x)
{
    const float top = cpu_top(kv->format);
    const uint64_t groups = kv->group ? kv->dim / kv->group : 0;
    float *scale = (float *)kb_at(kv->scale) + (kv->scales == KB_SCALES_ROW ? index : 0);

    if (kv->scales == KB_SCALES_GROUP) {
        for (uint32_t g = 0; g < groups; g++)
            pack_group(kv, index * groups + g, row, g * kv->group, x + (uint64_t)g * kv->group);
        return;
    }
    if (kv->scales == KB_SCALES_ROW)
        *scale = largest(x, kv->dim) / top;
    pack_run(kv->format, row, 0, x, kv->dim, (struct affine){.scale = *scale, .low = -top, .high = top, .plus = 8});
}

/* Of 32 numbers the one furthest from 0, the first of equals. */
static float extreme(const float *x)
{
    const float most = largest(x, 32);

    for (uint32_t i = 0; i < 32; i++)
        if (x[i] == most || x[i] == -most)
            return x[i];
    return 0;
}

static float inverse(float d)
{
    return d == 0 ? 0 : 1 / d;
}

/* (x - m) * by + add, cut to a whole number, at most top; element j and j + 16 share a byte, fifth bits apart. */
static void pack_block(const float *x, float m, float by, float add, uint32_t top, uint8_t *high, uint8_t *q)
{
    uint32_t fifth = 0, code[32];

    for (uint32_t i = 0; i < 32; i++) {
        const float r = (x[i] - m) * by;

        code[i] = (uint32_t)(int32_t)(r + add);
        code[i] = code[i] > top ? top : code[i];
        fifth |= (code[i] >> 4) << i;
    }
    for (uint32_t i = 0; i < 16; i++)
        q[i] = (uint8_t)((code[i] & 15u) | (code[i + 16] & 15u) << 4);
    for (uint32_t i = 0; high && i < 4; i++)
        high[i] = (uint8_t)(fifth >> 8 * i);
}

static void pack_q8_0(void *block, const float *x)
{
    struct kb_q8_0 *y = block;
    const float d = largest(x, 32) / 127, by = inverse(d);

    y->d = kb_to_f16(d);
    for (uint32_t i = 0; i < 32; i++)
        y->q[i] = (int8_t)roundf(x[i] * by);
}

static void pack_q4_0(void *block, const float *x)
{
    struct kb_q4_0 *y = block;
    const float d = extreme(x) / -8;

    y->d = kb_to_f16(d);
    pack_block(x, 0, inverse(d), 8.5f, 15, NULL, y->q);
}

static void pack_q5_0(void *block, const float *x)
{
    struct kb_q5_0 *y = block;
    const float d = extreme(x) / -16;

    y->d = kb_to_f16(d);
    pack_block(x, 0, inverse(d), 16.5f, 31, y->h, y->q);
}

static void pack_q4_1(void *block, const float *x)
{
    struct kb_q4_1 *y = block;
    float least, most;

    range(x, 32, &least, &most);
    y->d = kb_to_f16((most - least) / 15);
    y->m = kb_to_f16(least);
    pack_block(x, least, inverse((most - least) / 15), 0.5f, 15, NULL, y->q);
}

static void pack_q5_1(void *block, const float *x)
{
    struct kb_q5_1 *y = block;
    float least, most;

    range(x, 32, &least, &most);
    y->d = kb_to_f16((most - least) / 31);
    y->m = kb_to_f16(least);
    pack_block(x, least, inverse((most - least) / 31), 0.5f, 31, y->h, y->q);
}

/* The exponent bits of the largest magnitude, less the format's own largest exponent. */
static uint8_t exponent(const float *x, uint32_t own)
{
    const uint32_t e = kb_f32_bits(largest(x, 32)) >> 23 & 255u;

    return (uint8_t)(e > own ? e - own : 0);
}

static void pack_mxfp4(void *block, const float *x)
{
    struct kb_mxfp4 *y = block;
    float scale;

    y->e = exponent(x, 2);
    scale = kb_from_e8m0(y->e);
    for (uint32_t i = 0; i < 16; i++)
        y->q[i] = (uint8_t)(kb_to_e2m1(x[i] / scale) | kb_to_e2m1(x[i + 16] / scale) << 4);
}

static void pack_mxfp8(void *block, const float *x)
{
    struct kb_mxfp8 *y = block;
    float scale;

    y->e = exponent(x, 8);
    scale = kb_from_e8m0(y->e);
    for (uint32_t i = 0; i < 32; i++)
        y->q[i] = kb_to_e4m3(x[i] / scale);
}

static void pack_nvfp4(void *block, const float *x)
{
    struct kb_nvfp4 *y = block;
    float scale;

    y->s = kb_to_e4m3(largest(x, 16) / 6);
    scale = kb_from_e4m3(y->s);
    memset(y->q, 0, sizeof(y->q));
    for (uint32_t i = 0; scale != 0 && i < 8; i++)
        y->q[i] = (uint8_t)(kb_to_e2m1(x[2 * i] / scale) | kb_to_e2m1(x[2 * i + 1] / scale) << 4);
}

void cpu_kv_store(const struct kb_dev *dev, const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t slot, const float *x)
{
    static void (*const pack[KVP_FORMATS])(void *, const float *) = {
        [KVP_Q8_0] = pack_q8_0, [KVP_Q4_0] = pack_q4_0, [KVP_Q4_1] = pack_q4_1, [KVP_Q5_0] = pack_q5_0,
        [KVP_Q5_1] = pack_q5_1, [KVP_MXFP4] = pack_mxfp4, [KVP_MXFP8] = pack_mxfp8, [KVP_NVFP4] = pack_nvfp4};
    const struct kb_unit u = kb_unit_of(kv->format);
    uint8_t *row = kb_kv_row(kv, b, h, slot);

    if (kb_is_code(kv->format)) {
        pack_codes(kv, kb_kv_index(kv, b, h, slot), row, x);
        return;
    }
    if (!kb_is_block(kv->format)) {
        dev->ops->narrow[kv->format](row, x, kv->dim);
        return;
    }
    for (uint32_t i = 0; i < kv->dim; i += u.elements, row += u.bytes)
        pack[kv->format](row, x + i);
}

/* ---- unpacking ---------------------------------------------------------------------------------- */

static void unpack_groups(const struct kb_dev *dev, const struct kb_kv *kv, uint64_t index, const uint8_t *row, float *to)
{
    const uint32_t groups = kv->dim / kv->group;

    dev->ops->code->unpack[kv->format == KVP_INT8 ? KVP_U8 : kv->format](to, row, kv->dim, 0);
    for (uint32_t g = 0; g < groups; g++)
        dev->ops->code->affine(to + (uint64_t)g * kv->group, kv->group,
                               kb_load(kv->scale_format, kb_at(kv->scale), index * groups + g),
                               kb_load(kv->scale_format, kb_at(kv->shift), index * groups + g));
}

void cpu_kv_unpack(const struct kb_dev *dev, const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t t, uint64_t n, float *tile)
{
    const uint64_t index = kb_kv_index(kv, b, h, t), bytes = kb_row_bytes(kv->format, kv->dim);
    const uint8_t *row = kb_kv_row(kv, b, h, t);
    const float add = kv->format == KVP_INT4 ? -8 : 0;

    if (kv->scales == KB_SCALES_GROUP && kb_is_code(kv->format)) {
        for (uint64_t i = 0; i < n; i++)
            unpack_groups(dev, kv, index + i, row + i * bytes, tile + i * kv->dim);
        return;
    }
    if (kv->dim % kb_unit_of(kv->format).elements == 0) { /* no bits between the rows */
        dev->ops->code->unpack[kv->format](tile, row, n * kv->dim, add);
        return;
    }
    for (uint64_t i = 0; i < n; i++)
        dev->ops->code->unpack[kv->format](tile + i * kv->dim, row + i * bytes, kv->dim, add);
}

void cpu_kv_weigh(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t t, uint64_t n, const float *from, float *to)
{
    const bool rows = kb_is_code(kv->format) && kv->scales == KB_SCALES_ROW, one = kb_is_code(kv->format) && kv->scales == KB_SCALES_TENSOR;
    const float *scale = (const float *)kb_at(kv->scale) + (rows ? kb_kv_index(kv, b, h, t) : 0);

    if (rows) {
#pragma omp simd
        for (uint64_t i = 0; i < n; i++)
            to[i] = from[i] * scale[i];
        return;
    }
#pragma omp simd
    for (uint64_t i = 0; i < n; i++)
        to[i] = from[i] * (one ? scale[0] : 1);
}

void cpu_kv_read(const struct kb_dev *dev, const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t t, uint64_t t1, float *tile)
{
    for (uint64_t n; t < t1; t += n, tile += n * kv->dim) {
        const uint64_t left = kv->block ? kv->block - t % kv->block : t < kv->shared ? kv->shared - t : t1 - t;

        n = left < t1 - t ? left : t1 - t;
        if (cpu_is_plain(kv->format)) {
            dev->ops->widen[kv->format](tile, kb_kv_row(kv, b, h, t), n * kv->dim);
            continue;
        }
        cpu_kv_unpack(dev, kv, b, h, t, n, tile);
        for (uint64_t i = 0; i < n; i++) {
            const float one = 1;
            float weight;

            cpu_kv_weigh(kv, b, h, t + i, 1, &one, &weight);
            dev->ops->scale(tile + i * kv->dim, kv->dim, weight);
        }
    }
}

void cpu_kv_move(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t to, uint64_t from)
{
    const uint64_t into = kb_kv_index(kv, b, h, to), of = kb_kv_index(kv, b, h, from);
    const bool groups = kb_is_code(kv->format) && kv->scales == KB_SCALES_GROUP;
    const uint64_t beside = groups ? kv->dim / kv->group * kb_element(kv->scale_format) : sizeof(float);
    unsigned char *const scale = kb_at(kv->scale), *const shift = kb_at(kv->shift);

    memcpy(kb_kv_row(kv, b, h, to), kb_kv_row(kv, b, h, from), kb_row_bytes(kv->format, kv->dim));
    if (groups || (kb_is_code(kv->format) && kv->scales == KB_SCALES_ROW))
        memcpy(scale + into * beside, scale + of * beside, beside);
    if (groups)
        memcpy(shift + into * beside, shift + of * beside, beside);
}
