/* kvproof.h - the public library: predict what a model needs, exactly, without running it.
 *
 *     struct kvp_model m; struct kvp_stack s = {0}; struct kvp_estimate est; struct kvp_error e = {0};
 *     kvp_model_load(&m, "llama-2-7b", &e);
 *     kvp_stack_add(&s, "h2o:heavy=409,recent=409", &e);
 *     kvp_estimate(&est, &m, &s, &(struct kvp_workload){.context = 4096}, &(struct kvp_options){0}, NULL, &e);
 *
 * Pure functions: no clock, no device, no global state. Bytes and counts are 64-bit integers, exact;
 * overflow is KVP_ERANGE. One multiply-add is 2 FLOPs. */
#ifndef KVPROOF_KVPROOF_H
#define KVPROOF_KVPROOF_H

#include <kvproof/error.h>
#include <kvproof/model.h>
#include <kvproof/names.h>
#include <kvproof/serve.h>
#include <kvproof/spec.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVP_VERSION "0.1.0"

/* context = prompt + generate. Any two give the third; context alone is all prompt; 0 is "not
 * given" and a contradiction KVP_EINPUT. A decode step is the one whose query sees `context` keys,
 * itself included. batch 0 means 1. */
struct kvp_workload {
    uint64_t batch, prompt, generate, context;
};
kvp_err kvp_workload_resolve(struct kvp_workload *w, struct kvp_error *e);

struct kvp_options {
    bool weights_given, kv_given;
    enum kvp_format weights; /* not given: the model's dtype */
    enum kvp_format kv;      /* not given: the weights' format */
    uint64_t encoder_tokens; /* of an encoder-decoder, or a vision tower's output; 0: the model's own length */
    uint32_t tp, pp, ep;     /* tensor, pipeline, expert parallel ranks; 0 is 1 */
    bool ssm_given, conv_given;
    enum kvp_format ssm, conv; /* of recurrent matrices (default f32) and of conv columns (default: the model's dtype) */
    bool conv_full;          /* keep d_conv columns, as the original Mamba code does; default d_conv - 1, as vLLM does */
    bool with_vision, with_mtp; /* count the tower's weights; the extra prediction layers' */
    bool all_logits;         /* logits of every row of the prompt, not only of the last (--dump-logits) */
};

/* A machine, from data/devices/NAME.json: datasheet or probed numbers, each with unit and source. */
struct kvp_device {
    char name[96];
    uint64_t memory_bytes;
    double bandwidth;     /* bytes/s, DRAM */
    double flops_f32, flops_f16; /* peak FLOP/s, dense */
    double launch_s;      /* floor of one op */
    uint64_t context_bytes;
    char source[256];     /* what the numbers rest on, in words */
    char memory_source[256]; /* whose word memory_bytes is: the driver's, or "nominal: ..." */
    char basis[48];       /* "datasheet roofline", "probed roofline" */
    double interval;      /* half-width as a fraction: a time t is printed with [t*(1-i), t*(1+i)] ... */
    double interval_high; /* ... upper side, as a fraction (a roofline is a floor, so it is wider) */
    double memory_share;  /* of memory_bytes that may be used; 0: 0.92, as in vLLM 0.22 and later */
};
kvp_err kvp_device_load(struct kvp_device *out, const char *path_or_name, struct kvp_error *e);

/* What persists, or passes through: one line per tensor kind and layer class. */
enum kvp_tag { KVP_TAG_WEIGHTS, KVP_TAG_CACHE, KVP_TAG_METADATA, KVP_TAG_STATE, KVP_TAG_ACTIVATION, KVP_TAG_WORKSPACE };
struct kvp_tensor {
    char name[48];  /* "k", "v", "k_codes", "scores", "block_table", "q_proj.weight", ... */
    enum kvp_tag tag; /* METADATA counts inside cache_bytes too */
    uint32_t cls;   /* layer class, or UINT32_MAX: the whole model */
    uint64_t count; /* how many of them there are (layers of the class) */
    uint32_t dims;
    uint64_t shape[6];
    enum kvp_format format;
    uint64_t bytes; /* all `count` of them */
};

/* One row of memory.parts[]: a number and how it is known. */
struct kvp_part {
    const char *name;
    uint64_t bytes;
    const char *how; /* "exact", "upper bound", "assumed", ... */
};

struct kvp_memory {
    uint64_t weights_bytes;
    uint64_t cache_bytes;    /* at rest, context tokens held; metadata included */
    uint64_t metadata_bytes; /* scales, scores, tables: part of cache_bytes */
    uint64_t state_bytes;
    uint64_t activation_bytes, workspace_bytes, device_context_bytes;
    uint64_t total_bytes;      /* weights + cache + state + activation + workspace + device_context */
    uint64_t cache_peak_bytes; /* high water of the cache over prefill and all decode steps */
    uint64_t peak_bytes;       /* total with cache_peak instead of cache */
    /* cache = batch * (fixed + per_token * context) + shared + rounding, exactly */
    uint64_t bytes_per_token;
    int64_t fixed_bytes_per_sequence;
    uint64_t shared_bytes;
    int64_t rounding_bytes;
};

enum kvp_phase { KVP_PREFILL, KVP_DECODE, KVP_PHASES };
struct kvp_op_cost {
    enum kvp_op op;
    enum kvp_phase phase;
    uint32_t cls;    /* layer class, UINT32_MAX: once per forward */
    uint64_t calls;  /* per forward: layers of the class */
    uint64_t flops;  /* of all calls, whole batch; attention in prefill is causal (the triangle) */
    uint64_t flops_full; /* same, the masked half counted too */
    uint64_t read_bytes, written_bytes; /* compulsory traffic of all calls, each operand once */
    double seconds;  /* of all calls; NAN without a device */
};

struct kvp_estimate {
    uint64_t parameters, active_parameters; /* active: what works for one token */
    struct kvp_workload workload; /* resolved */
    enum kvp_format weights, kv;  /* resolved */
    struct kvp_memory memory;
    uint32_t n_parts;
    struct kvp_part parts[8];
    uint32_t n_tensors;
    struct kvp_tensor *tensors;   /* owned */
    uint32_t n_ops;
    struct kvp_op_cost *ops;      /* owned; prefill ops, then decode ops, in execution order */
    uint64_t flops_prefill, flops_prefill_causal, flops_decode; /* prefill counts the masked half */
    uint64_t traffic_prefill, traffic_decode;
    double ttft_s, tpot_s, tokens_per_s;  /* NAN without a device */
    double ttft_lo, ttft_hi, tpot_lo, tpot_hi;
    char basis[72];
    uint32_t n_ranks;       /* tp * pp and the like; 0 when nothing is parallel */
    uint64_t n_lengths;     /* of kvp_estimate_lengths() */
    uint64_t *lengths;      /* owned, sorted */
    struct kvp_rank *ranks; /* owned; memory, tensors, ops, FLOPs and traffic above are the worst one's */
    /* Token-steps of the whole workload, each sequence for its own length, and when all wait for the longest:
     * their ratio is what a padded, static batch uses of its slots. */
    uint64_t token_steps, static_token_steps;
    uint64_t pass_rows; /* rows of activations in the widest pass: batch * prompt unless the prompt is cut */
};

/* One rank of a parallel run. Times add up the stages and leave communication out. */
struct kvp_rank {
    uint32_t stage, layers;
    bool worst;
    struct kvp_memory memory;
};

/* Is this stack defined for this model (divisibility, composition table, ...)? KVP_OK, or the reason
 * as KVP_ENOTSUP / KVP_EINPUT. */
kvp_err kvp_stack_check(const struct kvp_stack *s, const struct kvp_model *m, const struct kvp_workload *w, struct kvp_error *e);

/* The whole prediction. `device` may be NULL: times are NAN and basis is "none".
 * kvp_estimate_free() it on success. */
kvp_err kvp_estimate(struct kvp_estimate *out, const struct kvp_model *m, const struct kvp_stack *s,
                     const struct kvp_workload *w, const struct kvp_options *o,
                     const struct kvp_device *device, struct kvp_error *e);
void kvp_estimate_free(struct kvp_estimate *est);

/* A batch of `n` sequences of these lengths (contexts), the last `generate` tokens of each generated. Cache and
 * state are exact; FLOPs, traffic, times and activations are those of the batch padded to the longest. */
kvp_err kvp_estimate_lengths(struct kvp_estimate *out, const struct kvp_model *m, const struct kvp_stack *s, const uint64_t *lengths,
                             uint64_t n, uint64_t generate, const struct kvp_options *o, const struct kvp_device *device, struct kvp_error *e);

/* The same without lists, for many workloads: every number of an estimate but tensors, ops, parts and ranks,
 * exactly. A program is a (model, stack, options, device), which must outlive it; a point allocates nothing
 * and touches only its program, so programs may run side by side. */
struct kvp_point {
    uint64_t parameters, active_parameters;
    struct kvp_workload workload; /* resolved */
    struct kvp_memory memory;
    uint64_t flops_prefill, flops_prefill_causal, flops_decode;
    uint64_t traffic_prefill, traffic_decode;
    double ttft_s, tpot_s, tokens_per_s;
    double ttft_lo, ttft_hi, tpot_lo, tpot_hi;
};
struct kvp_program;
struct kvp_program *kvp_program_new(const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_options *o,
                                    const struct kvp_device *device, struct kvp_error *e); /* NULL: *e says why */
kvp_err kvp_program_point(struct kvp_program *p, const struct kvp_workload *w, struct kvp_point *out, struct kvp_error *e);
void kvp_program_free(struct kvp_program *p);

/* A trace served from a pool of blocks. KVP_EINPUT: a request that the pool, a step or the model can never hold;
 * KVP_ENOTSUP: a stack or a model whose requests share no blocks of keys and values. */
kvp_err kvp_serve_predict(struct kvp_serving *out, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_trace *t,
                          const struct kvp_serve_options *so, const struct kvp_options *o, const struct kvp_device *device,
                          struct kvp_error *e);

/* Lists, for `kvproof list`, help and tests. NULL past the end. */
struct kvp_technique_info {
    const char *name;
    enum kvp_axis axis;
    const char *summary; /* one line */
    const char *source;  /* paper and section, or public implementation */
    const char *params;  /* "bits=2,group=32,residual=128" with defaults */
};
const struct kvp_technique_info *kvp_technique_at(uint32_t i);

/* A spec of technique `i` that has something to do on this model at this workload (resolved), for runs
 * over all of them: its own words, `window:128` say. Always terminated. KVP_EINPUT past the end. */
kvp_err kvp_technique_example(uint32_t i, const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n,
                              struct kvp_error *e);

/* The k-th further variant of technique `i` that a run over all of them has a row for ("w:nf4" beside w's example). Always
 * terminated; false when there are no more. */
bool kvp_technique_variant(uint32_t i, uint32_t k, char *buf, size_t n);

/* One row of the composition table: a pair, whether it is allowed, and why. */
struct kvp_pair {
    const char *a, *b;
    bool allowed;
    const char *reason;
};
const struct kvp_pair *kvp_pair_at(uint32_t i); /* read it before the next call */

/* Where data/ is: $KVPROOF_DATA, beside the binary (ROOT/data for ROOT/build/CONFIG/kvproof,
 * PREFIX/share/kvproof for an installed one), or the compiled-in DATADIR. */
const char *kvp_data_dir(void);

#ifdef __cplusplus
}
#endif
#endif
