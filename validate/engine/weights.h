/* weights.h - a model's weights on the device: read from safetensors, or random.
 *
 * One device buffer per role and layer (tag WEIGHTS); their bytes are the parameters times the bytes of
 * the format, exactly; a tied head is the embedding itself. Matrices are [out, in], row-major. Coded matrices (coding.h)
 * have a buffer for their codes and one for each kind of scale, matrix by matrix as checkpoints have them. */
#ifndef KVPROOF_WEIGHTS_H
#define KVPROOF_WEIGHTS_H

#include "validate/engine/coding.h"
#include "validate/engine/rec_shapes.h"
#include "validate/ledger.h"
#include <kvproof/model.h>

enum wt_role {
    WT_EMBED,           /* [vocab, D] */
    WT_POSITION,        /* [positions, D], learned positions only */
    WT_FINAL_NORM,      /* [D] */
    WT_FINAL_NORM_BIAS,
    WT_HEAD,            /* [vocab, D]; asking for it when tied gives the embedding */
    WT_HEAD_BIAS,       /* [vocab] */
    WT_EMBED_NORM,      /* [D], of the embedding's rows (BLOOM) */
    WT_EMBED_NORM_BIAS,
    WT_ENC_POSITION,    /* an encoder's: [positions, D] */
    WT_ENC_EMBED_NORM,
    WT_ENC_EMBED_NORM_BIAS,
    WT_LAYER_ROLES,     /* those below exist once per layer; an encoder's layers follow the model's */
    WT_ATTN_NORM = WT_LAYER_ROLES,
    WT_ATTN_NORM_BIAS,
    WT_QKV,             /* [(H + 2 Hkv) * d, D]: q, then k, then v; factored: what leads to their latents */
    WT_QKV_BIAS,        /* factored: q's */
    WT_Q_GATE,          /* [H * d, D]: of attention's output (Qwen3-Next) */
    WT_Q_NORM,          /* [d] */
    WT_K_NORM,
    WT_O,               /* [D, H * dv] */
    WT_O_BIAS,
    WT_MLP_NORM,
    WT_MLP_NORM_BIAS,
    WT_UP,              /* [2 I, D] gate, then up; [I, D] when the layer has no gate */
    WT_UP_BIAS,
    WT_DOWN,            /* [D, I] */
    WT_DOWN_BIAS,
    WT_POST_ATTN_NORM,  /* of attention's output (Gemma 2) */
    WT_POST_MLP_NORM,
    WT_SINKS,           /* [H] */
    WT_Q_A,             /* MLA: [q_rank, D] */
    WT_Q_A_BIAS,
    WT_Q_A_NORM,
    WT_Q_B,             /* [H * d, q_rank], or [H * d, D] without a rank */
    WT_KV_A,            /* [kv_rank + rope_dim, D] */
    WT_KV_A_BIAS,
    WT_KV_A_NORM,       /* [kv_rank] */
    WT_KV_B,            /* [H * (nope_dim + dv), kv_rank]: a head's k, then its v */
    WT_ROUTER,          /* [E, D] */
    WT_ROUTER_BIAS,
    WT_EXPERT_UP,       /* [E][2 Ie, D]: an expert's gate, then up; gpt-oss: a row of each in turn */
    WT_EXPERT_UP_BIAS,
    WT_EXPERT_DOWN,     /* [E][D, Ie] */
    WT_EXPERT_DOWN_BIAS,
    WT_SHARED_SCALE,    /* [1, D]: what the shared experts count (Qwen) */
    WT_SHARED_UP,       /* [2 Is, D] gate, then up */
    WT_SHARED_DOWN,     /* [D, Is] */
    WT_K_UP,            /* [Hkv * d, rank]; factored layers only, as those below */
    WT_V_UP,
    WT_K_UP_BIAS,
    WT_V_UP_BIAS,
#define REC_X(name) WT_REC_##name,
    REC_MAP(REC_X)
#undef REC_X
    WT_CROSS_NORM,      /* [D] */
    WT_CROSS_NORM_BIAS,
    WT_CROSS_Q,         /* [H * d, D] */
    WT_CROSS_Q_BIAS,
    WT_CROSS_KV,        /* [2 Hkv * d, D]: k, then v */
    WT_CROSS_KV_BIAS,
    WT_CROSS_O,         /* [D, H * d] */
    WT_CROSS_O_BIAS,
    WT_BLOCK_NORM,      /* [D], of a cross block's feed-forward (xc-cache) */
    WT_BLOCK_NORM_BIAS,
    WT_BLOCK_UP,        /* [8 inner, D]: gate, then up */
    WT_BLOCK_DOWN,      /* [D, 4 inner] */
    WT_ROLES
};

/* One coded matrix: rows [first, first + rows) of its role. */
struct wt_coded {
    uint64_t first;
    uint32_t rows, cols;
    struct led_mem part[WT_PARTS];
};
enum { WT_MATRICES = 3 }; /* of a role, at most: q, k and v */

struct weights {
    struct ledger *led;
    uint32_t layers; /* an encoder's among them */
    bool tied;
    struct wt_coding coding;
    struct wt_coded *coded; /* [WT_MATRICES for each of mem] */
    struct led_mem *mem; /* [WT_LAYER_ROLES + layers * (WT_ROLES - WT_LAYER_ROLES)] */
};

/* From `path` (safetensors file or directory), as `coding` says; KVP_EINPUT naming the tensor when
 * one is missing, has another shape than the model says, or is not the model's at all (but for mask
 * buffers, a stored copy of a tied head, and layers beyond the model's). path NULL: random, the same for
 * the same seed whatever the format, but for rounding: matrices uniform with variance 1 / in, norm weights
 * in 1 +- 0.1, biases in +- 0.1.
 * Layers with low_k: k's and v's matrices, whether read or random, are factored (low_rank.h).
 * On failure nothing is held. */
kvp_err weights_open(struct weights *w, struct ledger *led, const struct kvp_model *m, const struct wt_coding *coding,
                     const char *path, uint64_t seed, struct kvp_error *e);
void weights_close(struct weights *w); /* zeroed is fine */
/* Another ledger of the same device holds them from now on. */
void weights_move(struct weights *w, struct ledger *to);

/* For each layer the logarithm of W_k's condition number times W_v's, as the same model's weights have them before anything
 * is factored; 0 for layers without. Nothing is put on a device. */
kvp_err weights_conditions(double *out, const struct kvp_model *m, const char *path, uint64_t seed, struct kvp_error *e);

/* buf is NULL when the model has no such tensor, or it is coded. `layer` is ignored for roles of the whole model. */
struct kb_span weights_of(const struct weights *w, enum wt_role role, uint32_t layer);

/* The *n matrices that a role is coded as; *n is 0 when it is not. */
const struct wt_coded *weights_coded(const struct weights *w, enum wt_role role, uint32_t layer, uint32_t *n);

/* Fill one of them, with parts of its sizes. Those of a calibrated method (coding.h) hold nothing until then. */
kvp_err weights_put(const struct weights *w, const struct wt_coded *m, void *const part[WT_PARTS], struct kvp_error *e);

/* How kernels read one of them; biases are of the vectors' format. */
struct kb_coded weights_code(const struct weights *w, const struct wt_coded *m);

#endif
