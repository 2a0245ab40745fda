/* gate.h - out += sigmoid(gate) * value: what RWKV's channel mix adds to the residual (arXiv:2305.13048, eq. 18); without a
 * value out *= sigmoid(gate): attention's output gate (Qiu et al. 2025, arXiv:2505.06708, section 2.2) */
#ifndef KVPROOF_OPS_GATE_H
#define KVPROOF_OPS_GATE_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_gate {
    uint64_t rows;
    uint32_t width;
    uint64_t gate_stride, value_stride, out_stride; /* f32 elements between rows */
    struct kb_span gate, out;                       /* f32; out is neither of the others */
    struct kb_span value;                           /* f32; optional */
};

#ifdef __cplusplus
}
#endif
#endif
