/* norm.h - RMS or layer norm of rows, in f32; also per-head q/k norm through groups */
#ifndef KVPROOF_OPS_NORM_H
#define KVPROOF_OPS_NORM_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_norm {
    uint64_t rows;      /* N */
    uint32_t groups;    /* vectors per row that are normed one by one (1, or heads for q/k norm) */
    uint32_t width;     /* elements of one vector */
    uint64_t in_stride, out_stride; /* f32 elements between rows; group g starts at g * width */
    bool layer;         /* true: subtract the mean (LayerNorm) */
    double eps;
    enum kvp_format format; /* of weight and bias */
    struct kb_span weight;  /* [width], shared by the groups; optional: 1 */
    struct kb_span bias;    /* [width]; optional */
    struct kb_span in, out; /* f32; may be the same */
    bool add_one;           /* multiply by 1 + weight (Gemma) */
    bool accumulate;        /* add to out; in is then elsewhere */
};

#ifdef __cplusplus
}
#endif
#endif
