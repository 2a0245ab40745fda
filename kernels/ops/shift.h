/* shift.h - RWKV's token shift: a row mixed with the row before it, channel by channel
 *
 *   out[t] = x[t] + (x[t-1] - x[t]) * m          m = mix + more, or 1 - mix when `own`
 *
 * The row before a sequence's first comes from the state (Peng et al. 2023, arXiv:2305.13048, section 3.1;
 * 2404.05892, section 4.2 for `more`, a mix of the token itself). Rows [first, first + rows) of the matrix are
 * worked on, so that a prompt can be cut anywhere. */
#ifndef KVPROOF_OPS_SHIFT_H
#define KVPROOF_OPS_SHIFT_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_shift {
    uint64_t tokens;        /* rows of a sequence */
    uint64_t first, rows;
    uint32_t width;
    bool own;               /* mix weighs the row itself (RWKV-4, 5), not the one before (6, 7) */
    bool keep;              /* sequences whose last row is among these: it becomes their state, after all is read */
    uint64_t x_stride, more_stride, out_stride; /* f32 elements between rows */
    enum kvp_format format; /* of mix */
    struct kb_span mix;     /* [width] */
    enum kvp_format state_format;
    uint64_t state_stride;  /* elements between sequences */
    struct kb_span state;   /* [batch, state_stride], the first `width` of each; in, and out when `keep` */
    struct kb_span x;       /* f32, row 0 of the matrix */
    struct kb_span more;    /* f32, the row of x's row `first`; optional */
    struct kb_span out;     /* f32, likewise; may be `more`, not x */
};

#ifdef __cplusplus
}
#endif
#endif
