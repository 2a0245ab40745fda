/* codes.c - kernels/ops/kv.h's codes and blocks, one element at a time */
#include "kernels/ref/codes.h"

#include <math.h>

/* ---- reading ------------------------------------------------------------------------------------ */

static unsigned nibble(const uint8_t *q, uint64_t i)
{
    return i < 16 ? q[i] & 15u : q[i - 16] >> 4;
}

static unsigned fifth(const uint8_t *h, uint64_t i)
{
    return ((unsigned)h[i / 8] >> i % 8 & 1u) << 4;
}

static double half(uint16_t h)
{
    return (double)kb_from_f16(h);
}

static double q8_0(const void *block, uint64_t i)
{
    const struct kb_q8_0 *x = block;

    return half(x->d) * x->q[i];
}

static double q4_0(const void *block, uint64_t i)
{
    const struct kb_q4_0 *x = block;

    return half(x->d) * ((int)nibble(x->q, i) - 8);
}

static double q4_1(const void *block, uint64_t i)
{
    const struct kb_q4_1 *x = block;

    return half(x->d) * nibble(x->q, i) + half(x->m);
}

static double q5_0(const void *block, uint64_t i)
{
    const struct kb_q5_0 *x = block;

    return half(x->d) * ((int)(nibble(x->q, i) | fifth(x->h, i)) - 16);
}

static double q5_1(const void *block, uint64_t i)
{
    const struct kb_q5_1 *x = block;

    return half(x->d) * (nibble(x->q, i) | fifth(x->h, i)) + half(x->m);
}

static double q4_k(const void *block, uint64_t i)
{
    const struct kb_q4_k *x = block;
    const unsigned code = x->q[i / 64 * 32 + i % 32] >> (i / 32 % 2 ? 4 : 0) & 15;
    unsigned scale, min;

    kb_q4_k_scale(x->scales, (unsigned)i / 32, &scale, &min);
    return half(x->d) * scale * code - half(x->dmin) * min;
}

static double q6_k(const void *block, uint64_t i)
{
    const struct kb_q6_k *x = block;

    return half(x->d) * x->scales[i / 16] * kb_q6_k_code(x, (unsigned)i);
}

static double mxfp4(const void *block, uint64_t i)
{
    const struct kb_mxfp4 *x = block;

    return (double)kb_from_e8m0(x->e) * (double)kb_from_e2m1((uint8_t)nibble(x->q, i));
}

static double mxfp8(const void *block, uint64_t i)
{
    const struct kb_mxfp8 *x = block;

    return (double)kb_from_e8m0(x->e) * (double)kb_from_e4m3(x->q[i]);
}

static double nvfp4(const void *block, uint64_t i)
{
    const struct kb_nvfp4 *x = block;

    return (double)kb_from_e4m3(x->s) * (double)kb_from_e2m1(x->q[i / 2] >> i % 2 * 4 & 15);
}

double ref_element(enum kvp_format f, const void *row, uint64_t i)
{
    static double (*const blocks[KVP_FORMATS])(const void *, uint64_t) = {
        [KVP_Q8_0] = q8_0, [KVP_Q4_0] = q4_0, [KVP_Q4_1] = q4_1, [KVP_Q5_0] = q5_0,
        [KVP_Q5_1] = q5_1, [KVP_MXFP4] = mxfp4, [KVP_MXFP8] = mxfp8, [KVP_NVFP4] = nvfp4,
        [KVP_Q4_K] = q4_k, [KVP_Q6_K] = q6_k};
    const struct kb_unit u = kb_unit_of(f);
    const unsigned char *p = row;

    if (kb_is_block(f))
        return blocks[f](p + i / u.elements * u.bytes, i % u.elements);
    if (f == KVP_FP8)
        return (double)kb_from_e4m3(p[i]);
    if (f == KVP_INT8)
        return (double)((const int8_t *)row)[i];
    if (f == KVP_INT4)
        return (double)(p[i / 2] >> i % 2 * 4 & 15);
    return (double)kb_load(f, row, i);
}

double ref_kv_element(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t slot, uint64_t i)
{
    const uint64_t row = kb_kv_index(kv, b, h, slot), g = kv->scales == KB_SCALES_GROUP ? row * (kv->dim / kv->group) + i / kv->group : 0;
    double code = ref_element(kv->format, kb_kv_row(kv, b, h, slot), i);

    if (!kb_is_code(kv->format))
        return code;
    if (kv->scales == KB_SCALES_GROUP) {
        code = kv->format == KVP_INT8 && code < 0 ? code + 256 : code;
        return (double)kb_load(kv->scale_format, kb_at(kv->scale), g) * code + (double)kb_load(kv->scale_format, kb_at(kv->shift), g);
    }
    code -= kv->format == KVP_INT4 ? 8 : 0;
    return code * (double)((const float *)kb_at(kv->scale))[kv->scales == KB_SCALES_ROW ? row : 0];
}

/* ---- writing ------------------------------------------------------------------------------------ */

float ref_top(enum kvp_format f)
{
    return f == KVP_FP8 ? 448 : f == KVP_INT8 ? 127 : 7;
}

static void put_nibble(uint8_t *q, uint64_t byte, bool high, unsigned code)
{
    q[byte] = (uint8_t)(high ? (q[byte] & 15u) | code << 4 : (q[byte] & 0xf0u) | code);
}

/* The code of x, whose scale and shift are known: signed ones from -top to top, others from 0 to top. */
static void put_code(enum kvp_format f, void *row, uint64_t i, float x, float scale, float shift, bool symmetric)
{
    const float top = symmetric ? ref_top(f) : f == KVP_INT8 ? 255 : 15, moved = x - shift;
    float r = scale == 0 ? 0 : moved / scale;

    if (f == KVP_FP8) {
        ((uint8_t *)row)[i] = kb_to_e4m3(r);
        return;
    }
    r = rintf(fminf(fmaxf(r, symmetric ? -top : 0), top));
    if (f == KVP_INT8)
        ((uint8_t *)row)[i] = (uint8_t)(int)r;
    else
        put_nibble(row, i / 2, i % 2, (unsigned)((int)r + (symmetric ? 8 : 0)));
}

static float largest(const float *x, uint64_t n)
{
    float most = 0;

    for (uint64_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    return most;
}

static void put_group(const struct kb_kv *kv, uint64_t at, void *row, uint64_t first, const float *x)
{
    float least = x[0], most = x[0], scale, shift, width;

    for (uint32_t i = 1; i < kv->group; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    width = most - least;
    if (kv->format == KVP_FP8) {
        shift = most + least;
        shift = shift / 2;
        scale = width / 2;
        scale = scale / 448;
    } else {
        shift = least;
        scale = width / (kv->format == KVP_INT8 ? 255.0f : 15.0f);
    }
    kb_store(kv->scale_format, kb_at(kv->scale), at, scale);
    kb_store(kv->scale_format, kb_at(kv->shift), at, shift);
    scale = kb_rounded(kv->scale_format, scale);
    shift = kb_rounded(kv->scale_format, shift);
    for (uint32_t i = 0; i < kv->group; i++)
        put_code(kv->format, row, first + i, x[i], scale, shift, false);
}

static void put_codes(const struct kb_kv *kv, uint64_t index, void *row, const float *x)
{
    float *scales = kb_at(kv->scale), scale;

    for (uint32_t g = 0; kv->scales == KB_SCALES_GROUP && g < kv->dim / kv->group; g++)
        put_group(kv, index * (kv->dim / kv->group) + g, row, (uint64_t)g * kv->group, x + (uint64_t)g * kv->group);
    if (kv->scales == KB_SCALES_GROUP)
        return;
    if (kv->scales == KB_SCALES_ROW)
        scales[index] = largest(x, kv->dim) / ref_top(kv->format);
    scale = scales[kv->scales == KB_SCALES_ROW ? index : 0];
    for (uint32_t i = 0; i < kv->dim; i++)
        put_code(kv->format, row, i, x[i], scale, 0, true);
    if (kv->format == KVP_INT4 && kv->dim % 2)
        put_nibble(row, kv->dim / 2, true, 0);
}

/* ggml's blocks of 32; the number that decides the scale is the one of largest magnitude, with its sign. */
static float extreme(const float *x)
{
    float most = 0, value = 0;

    for (uint32_t i = 0; i < 32; i++)
        if (fabsf(x[i]) > most) {
            most = fabsf(x[i]);
            value = x[i];
        }
    return value;
}

static void put_q8_0(void *block, const float *x)
{
    struct kb_q8_0 *y = block;
    const float d = largest(x, 32) / 127, by = d != 0 ? 1 / d : 0;

    y->d = kb_to_f16(d);
    for (uint32_t i = 0; i < 32; i++)
        y->q[i] = (int8_t)roundf(x[i] * by);
}

/* Codes below 2 * zero: x / d + zero, cut after half is added. */
static unsigned cut(float x, float by, float add, unsigned top)
{
    const float r = x * by;
    const int code = (int)(r + add);

    return code > (int)top ? top : (unsigned)code;
}

static void put_signed(const float *x, float zero, unsigned top, uint16_t *d, uint8_t *h, uint8_t *q)
{
    const float scale = extreme(x) / -zero, by = scale != 0 ? 1 / scale : 0;

    *d = kb_to_f16(scale);
    for (uint32_t i = 0; i < 32; i++) {
        const unsigned code = cut(x[i], by, zero + 0.5f, top);

        put_nibble(q, i % 16, i >= 16, code & 15);
        if (h)
            h[i / 8] = (uint8_t)((h[i / 8] & ~(1u << i % 8)) | (code >> 4) << i % 8);
    }
}

static void put_ranged(const float *x, unsigned top, uint16_t *d, uint16_t *m, uint8_t *h, uint8_t *q)
{
    float least = x[0], most = x[0], scale, by;

    for (uint32_t i = 1; i < 32; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    scale = (most - least) / (float)top;
    by = scale != 0 ? 1 / scale : 0;
    *d = kb_to_f16(scale);
    *m = kb_to_f16(least);
    for (uint32_t i = 0; i < 32; i++) {
        const unsigned code = cut(x[i] - least, by, 0.5f, top);

        put_nibble(q, i % 16, i >= 16, code & 15);
        if (h)
            h[i / 8] = (uint8_t)((h[i / 8] & ~(1u << i % 8)) | (code >> 4) << i % 8);
    }
}

static void put_q4_0(void *block, const float *x)
{
    struct kb_q4_0 *y = block;

    put_signed(x, 8, 15, &y->d, NULL, y->q);
}

static void put_q5_0(void *block, const float *x)
{
    struct kb_q5_0 *y = block;

    put_signed(x, 16, 31, &y->d, y->h, y->q);
}

static void put_q4_1(void *block, const float *x)
{
    struct kb_q4_1 *y = block;

    put_ranged(x, 15, &y->d, &y->m, NULL, y->q);
}

static void put_q5_1(void *block, const float *x)
{
    struct kb_q5_1 *y = block;

    put_ranged(x, 31, &y->d, &y->m, y->h, y->q);
}

/* The exponent of the largest magnitude, less `own`, the format's largest exponent. */
static uint8_t shared_exponent(const float *x, int own)
{
    const int e = (int)(kb_f32_bits(largest(x, 32)) >> 23) - own;

    return (uint8_t)(e < 0 ? 0 : e > 254 ? 254 : e);
}

static void put_mxfp4(void *block, const float *x)
{
    struct kb_mxfp4 *y = block;

    y->e = shared_exponent(x, 2);
    for (uint32_t i = 0; i < 32; i++)
        put_nibble(y->q, i % 16, i >= 16, kb_to_e2m1(x[i] / kb_from_e8m0(y->e)));
}

static void put_mxfp8(void *block, const float *x)
{
    struct kb_mxfp8 *y = block;

    y->e = shared_exponent(x, 8);
    for (uint32_t i = 0; i < 32; i++)
        y->q[i] = kb_to_e4m3(x[i] / kb_from_e8m0(y->e));
}

static void put_nvfp4(void *block, const float *x)
{
    struct kb_nvfp4 *y = block;
    float scale;

    y->s = kb_to_e4m3(largest(x, 16) / 6);
    scale = kb_from_e4m3(y->s);
    for (uint32_t i = 0; i < 16; i++)
        put_nibble(y->q, i / 2, i % 2, scale != 0 ? kb_to_e2m1(x[i] / scale) : 0);
}

void ref_kv_store(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t slot, const float *x)
{
    static void (*const blocks[KVP_FORMATS])(void *, const float *) = {
        [KVP_Q8_0] = put_q8_0, [KVP_Q4_0] = put_q4_0, [KVP_Q4_1] = put_q4_1, [KVP_Q5_0] = put_q5_0,
        [KVP_Q5_1] = put_q5_1, [KVP_MXFP4] = put_mxfp4, [KVP_MXFP8] = put_mxfp8, [KVP_NVFP4] = put_nvfp4};
    const struct kb_unit u = kb_unit_of(kv->format);
    unsigned char *row = kb_kv_row(kv, b, h, slot);

    if (kb_is_code(kv->format)) {
        put_codes(kv, kb_kv_index(kv, b, h, slot), row, x);
        return;
    }
    for (uint32_t i = 0; i < kv->dim; i += u.elements)
        if (kb_is_block(kv->format))
            blocks[kv->format](row + i / u.elements * u.bytes, x + i);
        else
            kb_store(kv->format, row, i, x[i]);
}

static void move_beside(struct kb_span values, enum kvp_format f, uint64_t each, uint64_t to, uint64_t from)
{
    for (uint64_t i = 0; i < each; i++)
        kb_store(f, kb_at(values), to * each + i, kb_load(f, kb_at(values), from * each + i));
}

void ref_kv_move(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t to, uint64_t from)
{
    const uint64_t into = kb_kv_index(kv, b, h, to), of = kb_kv_index(kv, b, h, from);

    memcpy(kb_kv_row(kv, b, h, to), kb_kv_row(kv, b, h, from), kb_row_bytes(kv->format, kv->dim));
    if (!kb_is_code(kv->format))
        return;
    if (kv->scales == KB_SCALES_ROW)
        move_beside(kv->scale, KVP_F32, 1, into, of);
    if (kv->scales != KB_SCALES_GROUP)
        return;
    move_beside(kv->scale, kv->scale_format, kv->dim / kv->group, into, of);
    move_beside(kv->shift, kv->scale_format, kv->dim / kv->group, into, of);
}
