/* engine.h - a small, real inference engine over a backend: whole models, real caches, a ledger and
 * a clock per op.
 *
 * Includes nothing of calc/: it takes the parsed model and the parsed technique stack (dimensions and
 * parameters as the user gave them) and works out every size on its own. With real weights the
 * tensors' shapes are checked against the model and must agree. */
#ifndef KVPROOF_ENGINE_H
#define KVPROOF_ENGINE_H

#include "kernels/backend.h"
#include "validate/ledger.h"
#include <kvproof/model.h>
#include <kvproof/spec.h>

struct eng; /* opaque */
struct pool_seq;
struct pool_shape;
struct shelf;

struct eng_options {
    const struct kb_backend *backend;
    struct kb_options device;
    enum kvp_format weights, kv;   /* storage formats: F32, F16, BF16 */
    uint64_t batch, prompt, generate; /* context = prompt + generate; prompt >= 1 */
    uint64_t encoder_tokens;       /* of a source, where the model has an encoder */
    uint64_t seed;                 /* random weights and tokens */
    const char *weights_dir;       /* safetensors directory or file; NULL: random weights */
    bool all_logits;               /* eng_prefill is going to be asked for every row: room for 64 at once */
    const struct pool_shape *pool; /* serving (validate/caches/pool.h): passes by eng_pass alone, of any sequences; else NULL */
    struct shelf *shelf;           /* where weights are found and left (validate/engine/shelf.h); NULL: they are this engine's own */
    bool trace;                    /* keep positions for eng_dump_kept (host memory, not in the ledger) */
};

enum { ENG_PREFILL, ENG_DECODE, ENG_PHASES };

struct eng_op_time {
    uint64_t calls;   /* kernel calls in the last forward of that phase */
    uint64_t ns;      /* their sum in the last forward */
    uint64_t gemm_flops; /* of its GEMMs, from their arguments: 2 m n k */
};

/* Builds weights and cache. On failure *out is NULL and everything is released. `m` stays the caller's
 * and must outlive the engine. KVP_EINPUT: a context beyond a table of learned positions; KVP_ENOTSUP: a
 * RoPE scaling that is not plain, linear or llama3. */
kvp_err eng_open(struct eng **out, const struct kvp_model *m, const struct kvp_stack *s, const struct eng_options *o, struct kvp_error *e);
void eng_close(struct eng *g); /* NULL is fine */

/* What the stack's ranks follow, for each layer (weights_conditions()), to be freed by the caller; NULL: nothing does. A
 * property of the weights that `o` names, as the dimensions are of the model. */
kvp_err eng_conditions(double **out, const struct kvp_model *m, const struct kvp_stack *s, const struct eng_options *o, struct kvp_error *e);

const struct ledger *eng_ledger(const struct eng *g);

/* What the encoder reads in every prefill from now on: [batch, encoder_tokens]. KVP_EINPUT: there is no encoder. */
kvp_err eng_source(struct eng *g, const int32_t *tokens, struct kvp_error *e);
/* For tests: key and value of one of its tokens, of sequence 0 and kv head 0 of a layer, become NaN; with xc-cache what is
 * stored of the context's token. */
kvp_err eng_poison_source(struct eng *g, uint32_t layer, uint64_t token, struct kvp_error *e);

/* Run the prompt: tokens is [batch, prompt]. `all_logits` (may be NULL): host f32 [batch, prompt, vocab],
 * teacher-forced rows; otherwise only the last row's logits are computed. `logits` (may be NULL): host
 * f32 [batch, vocab] of the last row. Weights survive, a former run's cache is dropped: calling it again
 * starts a new run. */
kvp_err eng_prefill(struct eng *g, const int32_t *tokens, float *all_logits, float *logits, struct kvp_error *e);

/* One decode step with one token per sequence, at the next position. logits as above.
 * KVP_EINPUT past the context. */
kvp_err eng_decode(struct eng *g, const int32_t *tokens, float *logits, struct kvp_error *e);

/* One pass of an engine that serves: `tokens` are the new ones of seq[0], then of seq[1] and so on. logits: host f32
 * [n, vocab], of the last row of each sequence that `wants` names, in this order and nothing between. Counted as decode. */
kvp_err eng_pass(struct eng *g, const struct pool_seq *seq, uint64_t n, const int32_t *tokens, const bool *wants, float *logits,
                 struct kvp_error *e);
/* For tests: a block of the pool becomes NaN. */
kvp_err eng_poison_block(struct eng *g, uint32_t block, struct kvp_error *e);

/* Time of each op in the last forward of `phase`. Timing is per op with a device sync only when
 * switched on, and then the ops' sum is a little more than an untimed step. */
void eng_time_ops(struct eng *g, bool on);
const struct eng_op_time *eng_op_times(const struct eng *g, int phase); /* [KVP_OPS] */
uint64_t eng_forward_ns(const struct eng *g, int phase);                /* the whole last forward */

/* Kernel calls of each op in all forwards since eng_open: what really ran. [KVP_OPS] */
const uint64_t *eng_calls(const struct eng *g);

/* Kernels of the last forward of `phase`, and what they wrote by their arguments (kernels/written.h). [ENG_KERNELS]; the
 * last is copies from buffer to buffer. */
enum { ENG_COPY = KB_KERNELS, ENG_KERNELS };
struct eng_kernel {
    uint64_t calls, written;
};
const struct eng_kernel *eng_kernels(const struct eng *g, int phase);
const char *eng_kernel_name(int k);

/* JSON lines to f: {"layer","head","batch","positions":[...]} of what each (kv) head can still see, in
 * text order; needs trace. Head is -1 and one line a layer when all heads keep the same. */
kvp_err eng_dump_kept(struct eng *g, FILE *f, struct kvp_error *e);

/* Codes and scales, one JSON line per tensor and layer: {"layer","name","format","shape","data":[...]}
 * codes unpacked to integers, values as numbers. */
kvp_err eng_dump_cache(struct eng *g, FILE *f, struct kvp_error *e);

/* For the poison tests: overwrite with NaN the cache row (k and v) that holds text position `pos` of
 * sequence 0, layer 0, kv head 0, and set *stored. When no row holds it, poison instead every byte of
 * allocated cache that holds no token, and set *stored = false. Needs trace. KVP_ENOTSUP for packed rows. */
kvp_err eng_poison(struct eng *g, uint64_t pos, bool *stored, struct kvp_error *e);

#endif
