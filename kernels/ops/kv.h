/* kv.h - where cached keys or values lie: slots of a contiguous strip, or of pages; whole numbers or codes */
#ifndef KVPROOF_OPS_KV_H
#define KVPROOF_OPS_KV_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kb_scales { KB_SCALES_NONE, KB_SCALES_TENSOR, KB_SCALES_ROW, KB_SCALES_GROUP };

/* Element (b, h, slot, x), in elements of `format` from the span's start:
 *   block == 0: ((b * heads + h) * slots + slot) * dim + x
 *   block  > 0: ((page * heads + h) * block + slot % block) * dim + x,
 *               page = table[b * table_stride + slot / block] (i32)
 * where the row (the same without dim and x) begins with a whole unit of the format (kernels/code.h).
 *
 * Codes (FP8, INT8, INT4) need `scales`:
 *   TENSOR  value = scale[0] * code
 *   ROW     value = scale[row] * code, f32, row as above: its largest magnitude over the largest code
 *   GROUP   value = scale * code + shift, of group x / group of the row: [row][dim / group] in scale_format
 * Largest codes: 448 in FP8; 127 in INT8, stored signed; 7 in INT4, stored plus 8. In a GROUP, INT8 and INT4 run from 0
 * to 255 and 15, the shift is the least element and the scale a 255th or 15th of the range; in FP8 the shift is the
 * middle, (greatest + least) / 2, and the scale half the range over 448.
 * All in f32, each operation rounded once: scale and shift as said, rounded to their format, then
 * code = nearest even of (x - shift) / scale, clamped; 0 where the scale is 0.
 * Blocks (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1: as ggml's quantize_row_*_ref; MXFP4, MXFP8: 2^(exponent of the largest
 * magnitude - that of the format's largest), elements over it to the nearest, saturating; NVFP4: a sixth of the largest
 * magnitude as e4m3, elements over that) hold their scales. */
struct kb_kv {
    struct kb_span data;
    enum kvp_format format;  /* F32, F16, BF16; FP8, INT8, INT4; the blocks above */
    uint32_t heads, dim;
    uint64_t slots;          /* capacity per sequence when block == 0 */
    uint32_t block;
    struct kb_span table;    /* i32; only when block > 0 */
    uint64_t table_stride;
    enum kb_scales scales;   /* of codes */
    enum kvp_format scale_format; /* GROUP: F32, F16, BF16 */
    uint32_t group;          /* GROUP: channels */
    struct kb_span scale, shift;
    uint64_t shared;         /* strips: slots below it are the same rows for every sequence, [heads, shared, dim] at the tensor's
                                start; behind them the strips, where slot s is slot s - shared */
    uint64_t first;          /* with shared: sequence 0 of the call is this one of the strips */
};

#ifdef __cplusplus
}
#endif
#endif
