/* coded.h - how a weight matrix W [n, k] is held in fewer bits, as public checkpoints and engines lay it out */
#ifndef KVPROOF_OPS_CODED_H
#define KVPROOF_OPS_CODED_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kb_coding {
    KB_CODING_NONE,   /* numbers, or blocks with their scales inside (kernels/code.h), by `format` */
    KB_CODING_SCALED, /* `format` INT8 or FP8 codes [n, k]; W[i][j] = code * factor * scale. f32 scales: one (group 0), one
                         a row (group 1, scale[i]), or one for `group` x `group` elements ([ceil(n / group), ceil(k / group)]) */
    KB_CODING_NF4,    /* 4 bits, element e = i * k + j of the whole matrix, two a byte, the even one in the high half; */
    KB_CODING_FP4,    /* W = value of the code * scale[e / 64], f32: QLoRA, bitsandbytes kgemm_4bit_* */
    KB_CODING_GPTQ,   /* AutoGPTQ's qlinear: i32 codes [ceil(k * bits / 32), n], bits of element j of a column from bit
                         bits * (j % (32 / bits)) of word j / (32 / bits); zero i32 [groups, ceil(n * bits / 32)] packed along n, less 1; scale
                         f16 [groups, n]; index i32 [k], the group of each j. W[i][j] = (code - (zero + 1)) * scale. bits 2, 4, 8 */
    KB_CODING_AWQ,    /* AutoAWQ's WQLinear_GEMM, 4 bits: codes i32 [k, ceil(n / 8)], element i of a row in word i / 8, from bit
                         4 * {0, 4, 1, 5, 2, 6, 3, 7}[i % 8]; zero i32 [ceil(k / group), ceil(n / 8)] likewise; scale f16 [ceil(k / group), n] */
    KB_CODING_MLX,    /* mlx.core.quantize: codes u32 [n, ceil(k * bits / 32)], scale and zero (the bias) f16 [n, ceil(k / group)];
                         W = code * scale + zero. bits 2, 4, 8 */
    KB_CODING_W8A8,   /* as SCALED in int8 with group 0 or 1, and x is int8 too: codes [m, k], packed, with an f32 scale for each
                         row (quant_rows.h); products are summed in int32. k < 2^17 */
};

struct kb_coded {
    enum kb_coding coding;
    uint32_t bits, group;
    float factor;            /* SCALED: bitsandbytes' row holds its largest magnitude, and factor is 1/127 */
    enum kvp_format bias_format; /* F32, F16, BF16 */
    struct kb_span scale, zero, index;
    struct kb_span x_scale;  /* W8A8: [m] */
};

#ifdef __cplusplus
}
#endif
#endif
