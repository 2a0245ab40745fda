/* gate.h - out += sigmoid(gate) * value: what RWKV's channel mix adds to the residual (arXiv:2305.13048, eq. 18) */
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
    struct kb_span gate, value, out;                /* f32; out is neither of the others */
};

#ifdef __cplusplus
}
#endif
#endif
