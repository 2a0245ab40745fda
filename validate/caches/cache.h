/* cache.h - what a KV cache must do for the engine: one file and one table row per technique.
 *
 * A cache holds buffer handles, never dereferences one, and sizes everything itself from the parsed
 * spec. It runs its kernels through cache_env.run, which times them under the op's name. */
#ifndef KVPROOF_CACHE_H
#define KVPROOF_CACHE_H

#include "kernels/ops.h"
#include "validate/ledger.h"
#include <kvproof/model.h>
#include <kvproof/spec.h>

struct cache; /* each technique's own */
struct cache_qkv;
struct cache_low;
struct pool_shape;

/* What a cache may use. Lives as long as the cache. */
struct cache_env {
    struct ledger *led;
    const struct kvp_model *model;
    const struct kvp_stack *stack;
    enum kvp_format format;  /* of unquantized rows */
    uint64_t batch, prompt, context;
    uint64_t lot;            /* sequences that a prefill takes at once, for lots.c */
    uint64_t hit;            /* tokens that every sequence begins with and that are stored once */
    const struct pool_shape *pool; /* serving: what pool.c holds; NULL otherwise */
    bool trace;
    /* Run a kernel, timed under `op`. */
    kvp_err (*run)(void *self, enum kvp_op op, enum kb_kernel k, const void *args, struct kvp_error *e);
    /* Copy `rows` runs of `bytes`, `dst_pitch` and `src_pitch` bytes apart, timed under `op` as one
     * call (optional; NULL: the cache copies through the backend and nobody times it). */
    kvp_err (*copy)(void *self, enum kvp_op op, struct kb_span dst, uint64_t dst_pitch, struct kb_span src,
                    uint64_t src_pitch, uint64_t bytes, uint64_t rows, struct kvp_error *e);
    /* For a `raw` cache: turn x's q and k by their positions in the text, timed under ROPE. */
    kvp_err (*rope)(void *self, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);
    struct kb_span inv_freq; /* f32 [head_dim / 2], of models with RoPE */
    void *self;
};

/* f32 q, k, v of one layer, RoPE applied, as the projections left them: row b*tokens + t,
 * `stride` elements apart; head h at h * head_dim. */
struct cache_qkv {
    uint64_t tokens; /* per sequence: the prompt, or 1 */
    uint64_t position; /* of the first */
    uint64_t stride;
    struct kb_span q, k, v; /* q.buf NULL: only store k and v; k.buf NULL: only attend to what is stored, this token's row too */
    /* MLA: q's heads are nope_dim, then rope_dim wide; k and v are rows of their own (kv_stride), of which each head has
     * kv_head elements, k without the rotary part. */
    uint64_t kv_stride, kv_head;
    uint64_t latent_stride;
    struct kb_span latent, shared; /* normed latent; rotary key of all heads */
    struct kb_span q_latent;       /* an absorbed step: q in latent space, [batch, heads, kv_rank], out_stride apart; out is too */
    uint64_t out_stride;
    struct kb_span out; /* f32 [batch*tokens, heads*head_dim] */
    struct kb_span slopes; /* (optional) f32 [heads], ALiBi */
    struct kb_span sinks; /* (optional) [heads] in sink_format, gpt-oss */
    enum kvp_format sink_format;
    struct kb_span lse; /* prefill: f32 [batch, heads, tokens], always there, to be filled by attention */
    uint64_t first, batch; /* row 0 is of sequence `first`, and so many sequences follow one another; but for extend and lots.c
                              these are the whole batch */
    const struct cache_low *low; /* of a layer whose projections are factored; NULL: they are not */
};

/* Factored projections: what is stored of a token, and what leads from there to its k (before norm and RoPE) and v. In a
 * step k and v of cache_qkv are not there. */
struct cache_low {
    uint64_t stride;         /* f32 elements between rows of latents */
    struct kb_span k, v;     /* [batch*tokens, low_k] and [batch*tokens, low_v] */
    enum kvp_format format;  /* of what follows */
    struct kb_factor k_up, v_up;
    struct kb_span k_norm;   /* [head_dim]; optional */
};

struct cache_ops {
    const char *name;       /* the technique's name; "dense" for the default */
    enum kvp_axis axis;     /* RANK, SELECT, MERGE or ENCODE */
    const char *params;     /* the parameters it reads, separated by spaces; NULL: none */
    bool any_attention;     /* takes layers that are more than softmax(q k) v over rows of their own (cache_is_plain) */
    bool (*takes)(const struct kvp_spec *s); /* (optional) is it the one for this variant of the technique? */
    bool raw;               /* q and k come before RoPE, and the cache turns them, by env->rope or by itself */
    bool encodes;           /* SELECT: touches rows by kernels that take them in any form, so `kv` may encode them */
    kvp_err (*open)(struct cache **out, const struct cache_env *env, struct kvp_error *e);
    void (*close)(struct cache *c); /* releases through the ledger; NULL is fine */
    /* Drop all tokens: a new run begins. Storage returns to what open() left. */
    kvp_err (*reset)(struct cache *c, struct kvp_error *e);
    /* Attention over the whole prompt, causal, and what of k, v is kept. */
    kvp_err (*prefill)(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);
    /* (optional) Some sequences' next tokens, in a prompt that takes several passes: attention over what is stored and
     * themselves, causal, and what is kept of them. NULL: the engine refuses such a stack. */
    kvp_err (*extend)(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);
    /* One token per sequence: attention over what is kept and the token itself; then what is kept next. */
    kvp_err (*decode)(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);
    /* As eng_dump_kept, eng_dump_cache, eng_poison; (optional) NULL: KVP_ENOTSUP. */
    kvp_err (*dump_kept)(struct cache *c, FILE *f, struct kvp_error *e);
    kvp_err (*dump_cache)(struct cache *c, FILE *f, struct kvp_error *e);
    kvp_err (*poison)(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e);
};

/* The cache for a stack: the one whose technique is on the RANK, ENCODE, MERGE or SELECT axis, else dense. Stores
 * (contiguous, growing, paged) are not caches: caches/store.h gives slots to whoever asks. */
kvp_err cache_find(const struct cache_ops **out, const struct kvp_stack *s, struct kvp_error *e);

/* Is the layer plain attention over keys and values of its own, of one size? */
bool cache_is_plain(const struct kvp_model *m, const struct kvp_layer_class *c);

/* Does the engine run this stack: every technique, and every parameter that was given? KVP_ENOTSUP naming
 * the first that it does not. A parameter left at its default is the behaviour that the cache has. */
kvp_err cache_check(const struct kvp_stack *s, struct kvp_error *e);

#endif
