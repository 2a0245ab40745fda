/* gemm_coded.c - one weight at a time from kernels/ops/coded.h's layouts */
#include "kernels/ref/gemm_coded.h"

#include "kernels/ref/codes.h"

#include "kernels/ops/quant_rows.h"

#include <math.h>

/* Code number `at` of a run of `bits` bits each, packed in 32-bit words from the lowest bit on. */
static unsigned packed(const uint32_t *words, uint64_t at, uint32_t bits)
{
    const uint32_t per = 32 / bits;

    return words[at / per] >> bits * (at % per) & ((1u << bits) - 1);
}

static double scaled(const struct kb_gemm *a, uint64_t i, uint64_t j)
{
    const uint32_t g = a->code.group;
    const uint64_t at = g == 0 ? 0 : g == 1 ? i : i / g * ((a->k + g - 1) / g) + j / g;

    return ref_element(a->format, kb_at(a->w), i * a->k + j) * (double)a->code.factor * (double)((const float *)kb_at(a->code.scale))[at];
}

static double four_bit(const struct kb_gemm *a, uint64_t i, uint64_t j)
{
    const uint64_t e = i * a->k + j;
    const unsigned byte = ((const uint8_t *)kb_at(a->w))[e / 2], code = e % 2 ? byte & 15 : byte >> 4;

    return (double)(a->code.coding == KB_CODING_NF4 ? kb_from_nf4(code) : kb_from_fp4(code)) *
           (double)((const float *)kb_at(a->code.scale))[e / 64];
}

static double gptq(const struct kb_gemm *a, uint64_t i, uint64_t j)
{
    const uint32_t bits = a->code.bits, per = 32 / bits;
    const uint64_t g = (uint64_t)((const int32_t *)kb_at(a->code.index))[j], zeros = (a->n + per - 1) / per;
    const unsigned code = ((const uint32_t *)kb_at(a->w))[j / per * a->n + i] >> bits * (j % per) & ((1u << bits) - 1);
    const unsigned zero = packed((const uint32_t *)kb_at(a->code.zero) + g * zeros, i, bits);

    return (double)((int)code - (int)zero - 1) * (double)kb_load(KVP_F16, kb_at(a->code.scale), g * a->n + i);
}

static double awq(const struct kb_gemm *a, uint64_t i, uint64_t j)
{
    static const unsigned places[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    const uint64_t words = (a->n + 7) / 8, g = j / a->code.group;
    const unsigned shift = 4 * places[i % 8];
    const unsigned code = ((const uint32_t *)kb_at(a->w))[j * words + i / 8] >> shift & 15;
    const unsigned zero = ((const uint32_t *)kb_at(a->code.zero))[g * words + i / 8] >> shift & 15;

    return (double)((int)code - (int)zero) * (double)kb_load(KVP_F16, kb_at(a->code.scale), g * a->n + i);
}

static double mlx(const struct kb_gemm *a, uint64_t i, uint64_t j)
{
    const uint32_t per = 32 / a->code.bits;
    const uint64_t words = (a->k + per - 1) / per, groups = (a->k + a->code.group - 1) / a->code.group, g = i * groups + j / a->code.group;

    return packed((const uint32_t *)kb_at(a->w) + i * words, j, a->code.bits) * (double)kb_load(KVP_F16, kb_at(a->code.scale), g) +
           (double)kb_load(KVP_F16, kb_at(a->code.zero), g);
}

double ref_weight(const struct kb_gemm *a, uint64_t i, uint64_t j)
{
    switch (a->code.coding) {
    case KB_CODING_SCALED:
    case KB_CODING_W8A8:
        return scaled(a, i, j);
    case KB_CODING_NF4:
    case KB_CODING_FP4:
        return four_bit(a, i, j);
    case KB_CODING_GPTQ:
        return gptq(a, i, j);
    case KB_CODING_AWQ:
        return awq(a, i, j);
    case KB_CODING_MLX:
        return mlx(a, i, j);
    case KB_CODING_NONE:
        break;
    }
    return ref_element(a->format, (const unsigned char *)kb_at(a->w) + i * kb_row_bytes(a->format, a->k), j);
}

kvp_err ref_quant_rows(const void *args, struct kvp_error *e)
{
    const struct kb_quant_rows *a = args;

    (void)e;
    for (uint64_t r = 0; r < a->rows; r++) {
        const float *x = (const float *)kb_at(a->x) + r * a->x_stride;
        float most = 0, *scale = (float *)kb_at(a->scale) + r;

        for (uint32_t i = 0; i < a->width; i++)
            most = fmaxf(most, fabsf(x[i]));
        *scale = most / 127;
        for (uint32_t i = 0; i < a->width; i++)
            ((int8_t *)kb_at(a->codes))[r * a->width + i] = (int8_t)(*scale > 0 ? rintf(fminf(fmaxf(x[i] / *scale, -127), 127)) : 0);
    }
    return KVP_OK;
}
