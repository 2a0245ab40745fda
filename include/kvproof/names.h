/* names.h - the words both halves share: number formats, op names, axes, memory tags. Names only:
 * no size, count or formula may live here (see docs/architecture.md, "The wall"). */
#ifndef KVPROOF_NAMES_H
#define KVPROOF_NAMES_H

#include <stddef.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How a value is stored. Codes of INT2/INT4 are packed; their scales are separate tensors. FP8 and INT8
 * are plain bytes. From Q8_0 on a format is blocks along the row, scales inside (ggml-common.h; OCP MX;
 * NVFP4: 16 codes and an fp8 scale). */
#define KVP_FORMAT_MAP(X)                                                                              \
    X(F32, "f32") X(F16, "f16") X(BF16, "bf16") X(I32, "i32") X(INT4, "int4") X(INT2, "int2")          \
    X(FP8, "fp8") X(INT8, "int8") X(I64, "i64") X(U8, "u8")                                            \
    X(Q8_0, "q8_0") X(Q5_1, "q5_1") X(Q5_0, "q5_0") X(Q4_1, "q4_1") X(Q4_0, "q4_0") X(IQ4_NL, "iq4_nl") \
    X(Q2_K, "q2_k") X(Q3_K, "q3_k") X(Q4_K, "q4_k") X(Q5_K, "q5_k") X(Q6_K, "q6_k") X(IQ4_XS, "iq4_xs") \
    X(NVFP4, "nvfp4") X(MXFP4, "mxfp4") X(MXFP8, "mxfp8")

enum kvp_format {
#define KVP_X(sym, name) KVP_##sym,
    KVP_FORMAT_MAP(KVP_X)
#undef KVP_X
        KVP_FORMATS
};

/* One name for one piece of work, predicted by calc and timed by the engine under the same word. */
#define KVP_OP_MAP(X)                                                       \
    X(EMBED, "embed")           /* token (and learned position) lookup */   \
    X(ATTN_NORM, "attn_norm")   /* norm before attention */                 \
    X(QKV, "qkv_proj")          /* q, k and v projections */                \
    X(QK_NORM, "qk_norm")       /* per-head norm of q and k (Qwen3) */      \
    X(ROPE, "rope")             /* rotary embedding of q and k */           \
    X(APPEND, "cache_append")   /* k, v into the cache */                   \
    X(GROW, "cache_grow")       /* reallocation and copy, growing stores */ \
    X(ATTN, "attention")        /* scores, softmax, weighted sum */         \
    X(SCORE, "score")           /* attention mass per key (H2O) */          \
    X(EVICT, "evict")           /* choose and move slots (H2O) */           \
    X(QUANT, "quantize")        /* pack codes, scales (KIVI) */             \
    X(O_PROJ, "o_proj")         /* output projection + residual */          \
    X(ABSORB, "absorb")         /* latent <-> head space around attention */ \
    X(REBUILD, "rebuild")       /* rows recomputed from what is stored */   \
    X(INDEX, "indexer")         /* choosing what attention reads */         \
    X(SELECT, "select")         /* window scores, top-k, gather */          \
    X(MERGE, "merge")           /* layers' rows into one */                 \
    X(CROSS_QKV, "cross_qkv")   /* q of the token, k and v of the encoder */ \
    X(CROSS_ATTN, "cross_attention")                                        \
    X(CROSS_O, "cross_o_proj")                                              \
    X(REC_IN, "rec_in_proj")    /* a recurrence's input projections */      \
    X(REC_CONV, "rec_conv")     /* its short convolution */                 \
    X(REC_SCAN, "rec_scan")     /* its state: scan, or one step */          \
    X(REC_OUT, "rec_out_proj")  /* its output projection + residual */      \
    X(ROUTER, "moe_router")     /* scores and choice of experts */          \
    X(ENCODE, "encoder")        /* the encoder, whole */                    \
    X(QUANT_ACT, "quantize_act") /* activations to int8 (W8A8) */           \
    X(MLP_NORM, "mlp_norm")     /* norm before the feed-forward */          \
    X(MLP_UP, "mlp_up")         /* gate and up (or fc) */                   \
    X(MLP_ACT, "mlp_act")       /* activation */                            \
    X(MLP_DOWN, "mlp_down")     /* down projection + residual */            \
    X(FINAL_NORM, "final_norm") /* last norm, rows with logits only */      \
    X(HEAD, "lm_head")          /* logits */

enum kvp_op {
#define KVP_X(sym, name) KVP_OP_##sym,
    KVP_OP_MAP(KVP_X)
#undef KVP_X
        KVP_OPS
};

/* How a weight matrix is stored: the words of `w:FORMAT`, --quantization and quantization_config. Each is
 * one row of calc/weights/formats.c, which says which tensors a matrix becomes. */
#define KVP_WFORMAT_MAP(X)                                                                             \
    X(PLAIN, "none") X(INT8, "int8") X(NF4, "nf4") X(FP4, "fp4") X(GPTQ, "gptq") X(AWQ, "awq")         \
    X(FP8, "fp8") X(MXFP4, "mxfp4") X(NVFP4, "nvfp4") X(MLX, "mlx") X(W8A8, "w8a8")                    \
    X(COMPRESSED, "compressed-tensors") X(GGML, "ggml")

enum kvp_wformat {
#define KVP_X(sym, name) KVP_WF_##sym,
    KVP_WFORMAT_MAP(KVP_X)
#undef KVP_X
        KVP_WFORMATS
};

/* What a weight is for: decides whether it is quantized, how it is split over ranks, whether a decode step
 * reads all of it. */
#define KVP_ROLE_MAP(X)                                                                                \
    X(EMBED, "embedding") X(HEAD, "lm_head") X(NORM, "norm") X(ATTN, "attention") X(FFN, "mlp")        \
    X(ROUTER, "router") X(EXPERT, "expert") X(SHARED, "shared_expert") X(RECURRENT, "recurrent")       \
    X(SMALL, "small") X(TOWER, "tower") X(MTP, "mtp")

enum kvp_role {
#define KVP_X(sym, name) KVP_ROLE_##sym,
    KVP_ROLE_MAP(KVP_X)
#undef KVP_X
        KVP_ROLES
};

/* Axes of the technique stack, in the fixed order of application; two on one axis is an error. */
#define KVP_AXIS_MAP(X)                                                                          \
    X(MIXER, "mixer") X(SHARE, "share") X(RANK, "rank") X(SELECT, "select") X(MERGE, "merge")    \
    X(ENCODE, "encode") X(STORE, "store") X(WEIGHTS, "weights") X(REUSE, "reuse")                \
    X(BATCHING, "batching") X(CHUNKING, "chunking")

enum kvp_axis {
#define KVP_X(sym, name) KVP_AXIS_##sym,
    KVP_AXIS_MAP(KVP_X)
#undef KVP_X
        KVP_AXES
};

static inline const char *kvp_format_name(enum kvp_format f)
{
    static const char *const names[] = {
#define KVP_X(sym, name) name,
        KVP_FORMAT_MAP(KVP_X)
#undef KVP_X
    };
    return (unsigned)f < KVP_FORMATS ? names[f] : "?";
}

static inline const char *kvp_role_name(enum kvp_role role)
{
    static const char *const names[] = {
#define KVP_X(sym, name) name,
        KVP_ROLE_MAP(KVP_X)
#undef KVP_X
    };
    return (unsigned)role < KVP_ROLES ? names[role] : "?";
}

static inline const char *kvp_op_name(enum kvp_op op)
{
    static const char *const names[] = {
#define KVP_X(sym, name) name,
        KVP_OP_MAP(KVP_X)
#undef KVP_X
    };
    return (unsigned)op < KVP_OPS ? names[op] : "?";
}

static inline const char *kvp_axis_name(enum kvp_axis a)
{
    static const char *const names[] = {
#define KVP_X(sym, name) name,
        KVP_AXIS_MAP(KVP_X)
#undef KVP_X
    };
    return (unsigned)a < KVP_AXES ? names[a] : "?";
}

#ifdef __cplusplus
}
#endif
#endif
