/* model.h - a parsed model: dimensions as the config.json gives them, and nothing derived from them
 * (no sizes, no counts of bytes). The one value that both halves of kvproof read. */
#ifndef KVPROOF_MODEL_H
#define KVPROOF_MODEL_H

#include <kvproof/error.h>
#include <kvproof/names.h>

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Zero is "absent" in every field below: a layer has a part when a field of that part is not 0. */

enum kvp_mixer { KVP_MIX_NONE, KVP_MIX_ATTENTION, KVP_MIX_MLA }; /* what keeps one row per token */
enum kvp_recurrent { /* what keeps a state of fixed size */
    KVP_REC_NONE,
    KVP_REC_MAMBA1,
    KVP_REC_MAMBA2,
    KVP_REC_RWKV4,
    KVP_REC_RWKV5,
    KVP_REC_RWKV6,
    KVP_REC_RWKV7,
    KVP_REC_DELTA,     /* gated delta net (Qwen3-Next) */
    KVP_REC_KDA,       /* Kimi delta attention */
    KVP_REC_LIGHTNING, /* linear attention with a fixed decay (MiniMax-01) */
    KVP_REC_RGLRU,     /* gated linear recurrent unit (RecurrentGemma) */
    KVP_REC_CONV,      /* gated short convolution (LFM2) */
};
enum kvp_ffn { KVP_FFN_NONE, KVP_FFN_PLAIN, KVP_FFN_GATED, KVP_FFN_RWKV };
enum kvp_norm { KVP_NORM_RMS, KVP_NORM_LAYER };
enum kvp_position { KVP_POS_ROPE, KVP_POS_LEARNED, KVP_POS_ALIBI, KVP_POS_NONE };
enum kvp_act { KVP_ACT_SILU, KVP_ACT_GELU_TANH, KVP_ACT_GELU, KVP_ACT_RELU, KVP_ACT_RELU2 };

/* A weight that no field below implies: [rows, cols] (cols 1: a vector), `n` of them in every layer. */
struct kvp_extra {
    const char *name; /* lives for ever */
    uint32_t rows, cols, n;
    bool linear; /* multiplied with every token: counts FLOPs, and is quantized where linears are */
};
enum { KVP_MAX_EXTRA = 8 };

/* Layers that are alike. `count` of the model's layers are of this class. A layer may mix by attention,
 * by a recurrence, by both side by side (Falcon-H1, Zamba2), or not at all; a decoder's layer may read an
 * encoder's output too. */
struct kvp_layer_class {
    uint32_t count;

    /* ATTENTION, and what MLA has of it */
    enum kvp_mixer mixer;
    uint32_t heads;      /* query heads */
    uint32_t kv_heads;   /* divides heads; 0 with MLA */
    uint32_t head_dim;   /* of q and k (MLA: nope_dim + rope_dim); from head_dim, else width / heads */
    uint32_t v_head_dim; /* of v and of the output; head_dim unless the config says otherwise */
    uint64_t window;     /* keys a query sees, itself included; 0: all */
    uint64_t chunk;      /* a query sees the keys of its own chunk of this many only (Llama 4); 0: no chunks */
    bool qkv_bias, o_bias;
    bool qk_norm;      /* RMS norm over head_dim on q and on k */
    bool qk_norm_wide; /* with qk_norm: one norm over all heads of q, one over all of k (OLMo-2, MiniMax-M2) */
    bool gated_q;      /* q_proj yields an output gate too: twice the rows (Qwen3-Next) */
    bool sinks;        /* one learned logit a head (gpt-oss); nothing is cached */
    bool k_is_v;       /* no v_proj: v is k's projection. The cache still holds both (Gemma 4) */
    bool no_kv;        /* reads the k and v that an earlier layer of its kind stored: no k_proj, v_proj, cache */
    bool no_rope;      /* this layer does not rotate */
    bool fused_qkv, fused_gate_up; /* one matrix in the checkpoint: counts where a format stores something for each */
    bool shared_attn;  /* its attention weights belong to an earlier layer (Zamba2): counted there */
    uint32_t attn_in;  /* width of q, k and v's input when not the model's (Zamba2: twice it) */

    /* MLA */
    uint32_t q_rank;   /* 0: q is projected at once */
    uint32_t kv_rank, nope_dim, rope_dim;
    uint32_t index_heads, index_dim; /* sparse-attention indexer with keys of its own (DeepSeek-V3.2) */
    uint32_t index_topk;

    /* cross-attention over an encoder's (or a vision tower's) output */
    uint32_t cross_heads, cross_kv_heads, cross_head_dim;
    uint32_t cross_in; /* width of what k and v project; the model's if 0 */

    /* recurrence */
    enum kvp_recurrent recurrent;
    uint32_t inner;        /* E: channels (Mamba: expand * width; RWKV, lightning: width; RGLRU: lru width) */
    uint32_t state;        /* n of Mamba, columns of a head's state elsewhere (dk of DELTA and KDA) */
    uint32_t conv;         /* d_conv: taps of the convolution; 0: none */
    uint32_t groups;       /* of B and C (Mamba-2), of key heads (DELTA: Hk) */
    uint32_t rec_heads;    /* Mamba-2, RWKV, lightning, DELTA's value heads */
    uint32_t rec_head_dim; /* of those heads (rows of a head's state; dv of DELTA) */
    uint32_t dt_rank;      /* Mamba-1 */
    uint32_t low_rank[4];  /* RWKV-7: decay, a, v, gate; RWKV-6: decay, mix; KDA: decay, gate */
    bool conv_bias, rec_bias; /* of the convolution; of in_proj and out_proj */
    bool rec_norm;         /* gated norm before out_proj (Mamba-2), or norms on dt, B and C (Jamba) */

    /* feed-forward: dense when ffn_width, experts when experts, both (Gemma 4, Arctic) when both */
    enum kvp_ffn ffn;
    uint32_t ffn_width; /* of one matrix */
    enum kvp_act act;
    bool ffn_bias;
    uint32_t experts, experts_per_token, expert_width;
    uint32_t expert_in;     /* width that experts work in when not the model's (Nemotron-3's latent) */
    uint32_t shared_width;  /* all shared experts side by side; 0: none */
    bool shared_gate;       /* [1, width] on the shared experts (Qwen) */
    bool router_bias;       /* router has a bias, or a correction bias per expert (DeepSeek-V3) */
    bool expert_bias;       /* the experts' matrices have biases (gpt-oss) */

    uint32_t norms; /* norms over the model's width in a layer: 2, 1 (parallel attention), 4 (Gemma 2), 0 */
    struct kvp_extra extra[KVP_MAX_EXTRA];

    /* MLA of DeepSeek-V4: one row of head_dim a token, k and v at once, inside the window; beside it one row for
     * `compress` tokens, of which attention reads index_topk where the layer has an indexer */
    uint32_t o_groups, o_rank; /* o in two steps, the first in groups; not 0 marks the kind */
    uint32_t compress;         /* 0: the window only */
    uint32_t streams;          /* of the residual (hyper-connections) */

    /* low-rank keys and values (LoRC): k and v are projected through this many channels, which are what is
     * stored; absorbed: the second factor is applied to q, or to the weighted sum, instead of to every key */
    uint32_t low_k, low_v;
    bool absorb_k, absorb_v;

    unsigned kept; /* roles (1 << enum kvp_role) that a quantized checkpoint leaves in the model's dtype in these layers */
};

enum kvp_rope_scaling { KVP_ROPE_PLAIN, KVP_ROPE_LINEAR, KVP_ROPE_LLAMA3, KVP_ROPE_OTHER, KVP_ROPE_YARN };

/* How a router's logits become experts: softmax of all, sigmoid of each, softmax of the chosen. */
enum kvp_route { KVP_ROUTE_UNKNOWN, KVP_ROUTE_SOFTMAX, KVP_ROUTE_SIGMOID, KVP_ROUTE_CHOSEN };

/* What changes numbers and no size: the engine reads it, the prediction does not. 0 is the plain way. */
struct kvp_numbers {
    double embed_scale;   /* what the embedding's rows are multiplied by */
    bool norm_add_one;    /* norms multiply by 1 + weight (Gemma) */
    bool norm_qk_after;   /* q and k of layers with RoPE have norms without weights, after it (Llama 4) */
    double warm_every, warm_by; /* q of layers without RoPE is multiplied by 1 + by * log(1 + floor((position + 1) / every)) */
    bool route_first;     /* what an expert counts multiplies its input, not its output (Llama 4) */
    bool norms_last;      /* a norm stands behind each half and its residual, none before it (BART) */
    bool norms_after;     /* with 4 norms: attention's and the feed-forward's output have one each (Gemma 2) */
    bool norms_only_after; /* with norms_after and 2 norms: the halves read the residual as it is (OLMo 2) */
    double residual_scale, logit_scale; /* what the halves' outputs, and the logits, are multiplied by; 0: 1 */
    double score_cap, logit_cap; /* cap * tanh(x / cap) */
    double score_scale;   /* what q.k is multiplied by; 0: 1 / sqrt(head_dim) */
    double window_theta;  /* layers with a window rotate by this base, without scaling; 0: as the others */
    bool rope_neighbours; /* rotation pairs (x[2i], x[2i + 1]); the halves of a head otherwise */
    double rotary_part;   /* the share of a head that rotates, its leading elements; 0: all */
    double alibi_max;     /* what ALiBi's slopes are powers of: 2^(-max i / heads); 0: 8 */
    bool parallel;        /* attention and feed-forward read the same residual; with 1 norm the same norm */
    enum kvp_route route;
    bool route_normalise; /* the chosen experts' weights are divided by their sum */
    bool route_pairs;     /* a group is worth its two best experts; its best otherwise */
    double route_scale;
    uint32_t route_groups, route_groups_kept;
    double swiglu_alpha, swiglu_limit; /* the experts' activation is gpt-oss's clamped SwiGLU */
    double yarn_fast, yarn_slow, yarn_mscale, yarn_mscale_all, yarn_attention; /* as the config says; 0: it does not */
    bool yarn_whole;      /* truncate is false: the ramp's ends are not rounded */
};

/* One way of storing a matrix. */
struct kvp_quant_kind {
    enum kvp_wformat format;
    uint32_t bits, group;      /* group 0: the format's own; UINT32_MAX: one group a row */
    uint32_t block[2];         /* FP8: rows and columns that share a scale; 0: one scale a tensor */
    bool e8m0;                 /* FP8: the scales of blocks are e8m0, one byte each, not f32 */
    bool input_scale;          /* an f32 beside every matrix: the static scale of what it is multiplied with */
};
enum { KVP_MAX_KINDS = 3 };

/* How the checkpoint stores its linear weights; what the config's quantization_config says, in words.
 * Unquantized: format KVP_WF_PLAIN. */
struct kvp_quant {
    enum kvp_wformat format;   /* as in a kind */
    uint32_t bits, group;
    uint32_t block[2];
    bool e8m0, input_scale;
    struct kvp_quant_kind other[KVP_MAX_KINDS];
    uint8_t of[KVP_ROLES];     /* a role's matrices are stored as other[of - 1]; 0: as above */
    bool desc_act, double_quant;
    bool packed_bias;          /* GPTQ: a bias beside every packed matrix, whether the class has one or not */
    bool described;            /* bitsandbytes: a code book and a description beside every matrix */
    bool embed, head;          /* these are quantized too (MLX) */
    unsigned kept;             /* roles (1 << enum kvp_role) that stay in the model's dtype */
    bool by_layer;             /* in some layers others do too: kept of their class */
    enum kvp_format kv;        /* kv_cache_scheme; F32: not said */
    char method[24];           /* the config's word */
    enum kvp_format ggml;      /* GGML: the files' commonest block format, which what is not counted from them takes */
};

struct kvp_model {
    char name[96];       /* base name of the file, directory or built-in */
    char model_type[48]; /* the config's own word; picks a dialect, never a size */
    uint32_t vocab, width, layers;
    uint32_t head_rows;  /* rows of the head when not vocab; 0: vocab */
    uint32_t classes;
    struct kvp_layer_class *cls; /* [classes] */
    uint32_t *class_of;          /* [layers] index into cls */
    /* [layers] log of the condition numbers of W_k and W_v, multiplied, where the weights were looked at; not the model's
     * own. NULL: unknown */
    const double *conditions;
    enum kvp_norm norm;
    uint32_t norm_vectors; /* learned vectors of one norm: 1 weight, 2 weight and bias, 0 none (OLMo-1) */
    double norm_eps;
    bool no_final_norm;
    enum kvp_position position;
    double rope_theta;
    enum kvp_rope_scaling rope_scaling;
    char rope_type[24]; /* the config's word, for messages when scaling is OTHER */
    double rope_factor, rope_low_freq, rope_high_freq, rope_original_context; /* LLAMA3, LINEAR, YARN */
    uint64_t max_positions; /* the trained context; with LEARNED a hard limit; 0: none said (RWKV, T5) */
    uint64_t position_rows; /* rows of the table when LEARNED and not max_positions (OPT: 2 more); 0: those */
    bool tied;              /* lm_head shares the embedding */
    bool no_head;           /* there is no lm_head at all (an embedding model's own class) */
    bool head_bias;
    enum kvp_format dtype;  /* torch_dtype / dtype; F32 when neither is there (transformers' default) */
    bool dtype_given;
    struct kvp_quant quant;

    /* An encoder: layers of its own over its own tokens. The decoder's classes have cross_heads. */
    uint32_t encoders;               /* classes */
    struct kvp_layer_class *encoder; /* [encoders], with counts */
    uint64_t encoder_positions;      /* its trained (or fixed) length; 0: none said */
    uint64_t encoder_rows;           /* rows of its learned position table; 0: none */
    uint32_t encoder_width;          /* the model's if 0 */
    uint32_t encoder_channels;       /* of the frames that two convolutions over 3 of them make its rows of, the second
                                      * in steps of 2 (Whisper); 0: none. Their weights are in `extra` */

    struct kvp_extra extra[KVP_MAX_EXTRA]; /* once for the whole model: embedding norms, projections */
    uint32_t towers;                 /* what only --with-vision counts: the vision or audio tower, shape by shape */
    struct kvp_extra *tower;         /* [towers] */
    /* Why --with-vision, --with-mtp cannot be answered: there is a tower, or there are prediction layers, and their
     * sizes are not known. NULL: they are, or there is none. Live for ever. */
    const char *tower_unknown, *mtp_unknown;
    uint32_t mtp_layers;             /* extra prediction layers, counted only on request */
    struct kvp_layer_class mtp;      /* one of them */
    struct kvp_extra mtp_extra[KVP_MAX_EXTRA];

    bool no_embed, no_logits; /* a later pipeline stage: no embedding table; an earlier one: no final norm and head run */
    uint32_t embed_width; /* of the embedding and the head when not the model's (OPT-350M); 0: the model's */

    /* What the engine cannot run yet although every size is known: the reason, or "". */
    char not_run[96];
    struct kvp_numbers numbers;

    enum kvp_format state; /* of recurrent matrices, where the config says (mamba_ssm_cache_dtype); F32: it does not */

    /* What a checkpoint's headers say, where they were read: bytes as stored, buffers and copies left out. 0: none */
    uint64_t file_bytes, file_elements; /* of the text model; elements 0 where quantized ones are packed */
    uint64_t file_tower_bytes, file_mtp_bytes;
};

/* Load a model from a config.json, a directory that holds one, a GGUF file, or a built-in name (data/models/).
 * Safetensors in the directory (or one of its files, by name): their headers must be of that config, and give
 * file_bytes.
 * Dialects: calc/families/. A key that is unknown and looks as if it could change memory is KVP_EINPUT
 * naming it. *out is zeroed first; kvp_model_free() it on success.
 * Implemented in calc/model.c. */
kvp_err kvp_model_load(struct kvp_model *out, const char *path_or_name, struct kvp_error *e);

/* Same, from `len` bytes of JSON; `origin` stands in messages. The fuzz target's entry. */
kvp_err kvp_model_parse(struct kvp_model *out, const char *json, size_t len, const char *origin, struct kvp_error *e);

/* Keep the first `layers` layers only (validate --layers). 0 or more than it has: KVP_EINPUT. */
kvp_err kvp_model_truncate(struct kvp_model *m, uint32_t layers, struct kvp_error *e);

/* A deep copy; kvp_model_free() it on success. KVP_ENOMEM. */
kvp_err kvp_model_copy(struct kvp_model *out, const struct kvp_model *m, struct kvp_error *e);

/* Group alike layers: `layer` is [m->layers], count ignored. Fills cls, classes and class_of, classes in
 * the order of their first layer. */
kvp_err kvp_model_group(struct kvp_model *m, const struct kvp_layer_class *layer, struct kvp_error *e);

void kvp_model_free(struct kvp_model *m); /* zeroed or NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
