/* conv.h - causal depthwise convolution of a few taps over tokens, in place, with the columns it keeps
 *
 *   y[t][c] = act(bias[c] + the sum over j < taps of w[c][j] * x[t - taps + 1 + j][c])
 *
 * x before the first token comes from the state, which then holds the last `columns` inputs (Gu, Dao 2023,
 * arXiv:2312.00752, section 3.4; Dao-AILab/causal-conv1d). */
#ifndef KVPROOF_OPS_CONV_H
#define KVPROOF_OPS_CONV_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_conv {
    uint64_t batch, tokens;
    uint32_t channels, taps;
    uint32_t columns;       /* of the state: at least taps - 1, the newest last */
    bool silu;              /* act: SiLU, else none */
    uint64_t stride;        /* f32 elements between rows of x */
    enum kvp_format format; /* of w and bias */
    struct kb_span w;       /* [channels, taps] */
    struct kb_span bias;    /* [channels]; optional */
    enum kvp_format state_format;
    struct kb_span state;   /* [batch, columns, channels]; in and out. Optional where taps is 1 */
    struct kb_span x;       /* f32 [batch * tokens, channels]; y comes in its place */
};

#ifdef __cplusplus
}
#endif
#endif
