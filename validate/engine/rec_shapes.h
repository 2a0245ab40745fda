/* rec_shapes.h - the tensors of recurrent layers: Mamba, RWKV and RWKV's channel mix. */
#ifndef KVPROOF_REC_SHAPES_H
#define KVPROOF_REC_SHAPES_H

/* Each is a piece (WP_REC_...) and a role (WT_REC_...) of its own. Shapes are rec_shapes.c's. */
#define REC_MAP(X)                                                                                              \
    X(IN) X(IN_BIAS) X(CONV) X(CONV_BIAS) X(X_PROJ) X(DT) X(DT_BIAS) X(A_LOG) X(SKIP)                                \
    X(DT_NORM) X(B_NORM) X(C_NORM)                                               /* Mamba */                    \
    X(DELTA_Q) X(DELTA_K) X(DELTA_V) X(DELTA_Z) X(DELTA_B) X(DELTA_A)            /* parts of IN's buffer */     \
    X(NORM) X(NORM_BIAS) X(OUT) X(OUT_BIAS)                                      /* both */                     \
    X(DECAY) X(FIRST) X(MIX_X) X(MIX_R) X(MIX_W) X(MIX_K) X(MIX_V) X(MIX_A) X(MIX_G)                            \
    X(R) X(K) X(V) X(G) X(MIX_DOWN) X(MIX_UP) X(W_DOWN) X(W_UP) X(W_BIAS) X(A_DOWN) X(A_UP) X(A_BIAS)           \
    X(V_DOWN) X(V_UP) X(V_BIAS) X(G_DOWN) X(G_UP) X(K_K) X(K_A) X(R_K)           /* RWKV's time mix */          \
    X(FFN_MIX_K) X(FFN_MIX_R) X(FFN_K) X(FFN_R) X(FFN_V)                         /* its channel mix */

#endif
