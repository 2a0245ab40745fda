/* act.h - out = act(gate) * up, or act(x) when not gated */
#ifndef KVPROOF_OPS_ACT_H
#define KVPROOF_OPS_ACT_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* SWIGLU_CLAMPED (gpt-oss): gated, and rows of in are gate, up, gate, up, ...: with g = min(gate, limit) and u = up held
 * to +-limit, out = (u + 1) * g / (1 + exp(-alpha g)). SOFTCAP: not gated, out = limit * tanh(x / limit). SCALE: not gated,
 * out = alpha * x. */
enum kb_act_kind {
    KB_ACT_SILU, KB_ACT_GELU_TANH, KB_ACT_GELU, KB_ACT_RELU, KB_ACT_RELU2, KB_ACT_TANH, KB_ACT_SIGMOID,
    KB_ACT_SWIGLU_CLAMPED, KB_ACT_SOFTCAP, KB_ACT_SCALE
};
struct kb_act {
    uint64_t rows;
    uint32_t width;       /* of out */
    bool gated;           /* in rows are [gate(width), up(width)] */
    enum kb_act_kind kind;
    uint64_t in_stride, out_stride; /* f32 elements */
    struct kb_span in, out; /* f32; out may be in (row r of out never passes row r of in) */
    float alpha, limit; /* of the kinds that say so */
};

#ifdef __cplusplus
}
#endif
#endif
