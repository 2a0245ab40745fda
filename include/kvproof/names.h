/* names.h - the words both halves share: number formats, op names, axes, memory tags. Names only:
 * no size, count or formula may live here (see docs/architecture.md, "The wall"). */
#ifndef KVPROOF_NAMES_H
#define KVPROOF_NAMES_H

#include <stddef.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How a value is stored. Codes of INT2/INT4 are packed; their scales are separate tensors. */
#define KVP_FORMAT_MAP(X) X(F32, "f32") X(F16, "f16") X(BF16, "bf16") X(I32, "i32") X(INT4, "int4") X(INT2, "int2")

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
