/* quant_rows.h - rows of activations to int8, each with a scale of its own (W8A8) */
#ifndef KVPROOF_OPS_QUANT_ROWS_H
#define KVPROOF_OPS_QUANT_ROWS_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* scale = largest magnitude of a row / 127, code = nearest even of x / scale, in f32, each operation rounded once; 0 where
 * the scale is 0. Xiao et al. 2023 (arXiv:2211.10438), section 3; quantize_activation_per_token_absmax of
 * mit-han-lab/smoothquant fake_quant.py. */
struct kb_quant_rows {
    uint64_t rows;
    uint32_t width;
    uint64_t x_stride;    /* f32 elements between rows */
    struct kb_span x;     /* f32 [rows, width] */
    struct kb_span codes; /* int8 [rows, width], packed */
    struct kb_span scale; /* f32 [rows] */
};

#ifdef __cplusplus
}
#endif
#endif
