/* pass.h - one forward pass being listed; for the files of ops/. */
#ifndef KVPROOF_CALC_OPS_PASS_H
#define KVPROOF_CALC_OPS_PASS_H

#include "calc/technique.h"

enum { F = 4 }; /* bytes of an activation: f32 */

struct pass {
    struct ops *o;
    struct plan *p;
    enum kvp_phase phase;
    uint64_t B, T, N; /* sequences; tokens seen by the last query; rows of activations */
    uint64_t logit_rows;
    uint64_t before; /* tokens of each sequence that earlier passes, or another sequence, left in the cache */
    bool first, last; /* of these sequences' prompts: the pass that begins them; the one that ends them */
    bool whole;       /* the last pass of all: work that is counted for a whole prompt and batch is listed here */
    bool kv_done;     /* k and v of the class are projected and stored already */
    bool moving;      /* list only what hangs on the place in the prompt; the rest is as it was in the chunk before */
};

static inline uint64_t prod3(const struct pass *s, uint64_t a, uint64_t b, uint64_t c)
{
    return NUM_PROD(&s->o->over, a, b, c);
}

static inline uint64_t sum(const struct pass *s, uint64_t a, uint64_t b)
{
    return num_add(&s->o->over, a, b);
}

/* rows x [in] through weights [out, in] (+ bias) to [out]; adds to what is there when `residual`. */
void pass_linear(const struct pass *s, enum kvp_op op, enum kvp_role role, uint32_t cls, uint64_t calls, uint64_t rows, uint64_t in,
                 uint64_t out, bool bias, bool residual);
/* rows of `in` f32 read and of `out` written, beside `extra` bytes read. */
void pass_stream(const struct pass *s, enum kvp_op op, uint32_t cls, uint64_t calls, uint64_t rows, uint64_t in, uint64_t out, uint64_t extra);
/* Bytes of a weight matrix [rows, cols] as stored. */
uint64_t pass_weights(const struct pass *s, enum kvp_role role, uint64_t rows, uint64_t cols);
/* List what differs between classes whose layers are otherwise alike, class by class, and add them up in the ops of
 * `cls`, the first of them. Ops that are the same in all count plan_class.alike layers. */
void pass_each(const struct pass *s, uint32_t cls, void (*each)(const struct pass *s, uint32_t cls));
/* Bytes of `n` unquantized weights. */
uint64_t pass_plain(const struct pass *s, uint64_t n);
uint64_t pass_norm_weights(const struct pass *s);

/* The mixers and feed-forwards of one plan class; each does nothing where the class has none. */
void ops_attention(const struct pass *s, uint32_t cls);
void ops_mla(const struct pass *s, uint32_t cls);
/* A sparse-attention indexer beside MLA or plain attention, before the attention op. */
void ops_indexer(const struct pass *s, uint32_t cls);
void ops_cross(const struct pass *s, uint32_t cls);
void ops_recurrent(const struct pass *s, uint32_t cls);
void ops_ffn(const struct pass *s, uint32_t cls);
void ops_extra(const struct pass *s, uint32_t cls);
/* The encoder, once, in prefill. */
void ops_encoder(const struct pass *s);

/* Shared by attention and MLA: rows into the cache; what a growing store copies; the stack's own work. */
void pass_append(const struct pass *s, uint32_t cls);
void pass_grow(const struct pass *s, uint32_t cls);
void pass_technique_ops(const struct pass *s, uint32_t cls);
/* Keys that this decode step's query sees in the class, and pairs of query and key of a prefill pass: within the
 * window, the chunk, and what an indexer chooses. One head, one sequence. */
uint64_t pass_keys(const struct pass *s, uint32_t cls);
uint64_t pass_pairs(const struct pass *s, uint32_t cls);
/* Bytes of the cache that this decode step's attention reads in the class, one layer. */
uint64_t pass_cache_read(const struct pass *s, uint32_t cls);
/* The same for a prefill pass: what lies before its own tokens. */
uint64_t pass_cache_reread(const struct pass *s, uint32_t cls);
/* pass_pairs() with the masked half. */
uint64_t pass_pairs_full(const struct pass *s);
/* Only k and v of every token: what a class owes the layers above that prefill only the last one. */
void pass_kv(const struct pass *s, uint32_t cls);

#endif
