/* backend.h - the one interface that every device fills: ref (plain C, double precision), cpu, cuda.
 *
 * Knows include/kvproof/{error,names}.h and kernels/ops/ only. Buffers are opaque handles; nothing
 * above a backend dereferences one, so a cache written once runs on all devices. All calls go on
 * one in-order queue per device: run() may return before the work is done; read(), sync() and
 * now() wait. Not thread-safe: one thread per device. */
#ifndef KVPROOF_BACKEND_H
#define KVPROOF_BACKEND_H

#include <kvproof/error.h>
#include <kvproof/names.h>

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KB_ABI_VERSION 1

struct kb_dev;
struct kb_buf;

/* A place inside a buffer. A NULL buf means "not given" where an op says a span is optional. */
struct kb_span {
    struct kb_buf *buf;
    uint64_t offset; /* bytes */
};

/* Kernels. kernels/ops/NAME.h defines struct kb_NAME, the argument of each. */
#define KB_DEVICE_KERNEL_MAP(X)                                                                 \
    X(EMBED, embed) X(NORM, norm) X(GEMM, gemm) X(ROPE, rope) X(ACT, act)                        \
    X(ATTN_PREFILL, attn_prefill) X(ATTN_DECODE, attn_decode) X(CACHE_WRITE, cache_write)        \
    X(H2O_SCORES, h2o_scores) X(H2O_SELECT, h2o_select) X(H2O_STEP, h2o_step)                    \
    X(KIVI_PACK_K, kivi_pack_k) X(KIVI_PACK_V, kivi_pack_v) X(ATTN_KIVI, attn_kivi)              \
    X(READ_PROBE, read_probe)
/* Those that no backend has but ref and cpu; supports() says false elsewhere. */
#define KB_HOST_KERNEL_MAP(X)                                                                   \
    X(CONV, conv) X(SHIFT, shift) X(GATE, gate) X(SSM_SCAN, ssm_scan) X(SSD_SCAN, ssd_scan)      \
    X(WKV4, wkv4) X(WKV6, wkv6) X(WKV7, wkv7) X(DELTA_SCAN, delta_scan) X(HEAD_NORM, head_norm)                            \
    X(ATTN_LATENT, attn_latent) X(HEAD_GEMM, head_gemm) X(MOE_ROUTE, moe_route) X(MOE_GEMM, moe_gemm) \
    X(ATTN_SLOTS, attn_slots) X(WINDOW_SCORES, window_scores) X(TOP_TOKENS, top_tokens)          \
    X(TOVA_STEP, tova_step) X(PAGE_BOUNDS, page_bounds) X(PAGE_SELECT, page_select)              \
    X(ATTN_PAGES, attn_pages) X(ATTN_SINKS, attn_sinks) X(PAIR_MERGE, pair_merge)             \
    X(ATTN_MERGED, attn_merged) X(SHARE_TOKENS, share_tokens) X(RAGGED_WRITE, ragged_write)      \
    X(ATTN_RAGGED, attn_ragged) X(H2O_PROMOTE, h2o_promote) X(QUANT_ROWS, quant_rows)  \
    X(ATTN_EXTEND, attn_extend) X(ATTN_LOW, attn_low) X(ATTN_CROSS, attn_cross)
#define KB_KERNEL_MAP(X) KB_DEVICE_KERNEL_MAP(X) KB_HOST_KERNEL_MAP(X)

enum kb_kernel {
#define KB_X(sym, name) KB_##sym,
    KB_KERNEL_MAP(KB_X)
#undef KB_X
        KB_KERNELS
};

struct kb_info {
    char name[128];      /* "Intel(R) Xeon(R) ...", "NVIDIA H200" */
    char isa[64];        /* "avx2+fma+f16c", "plain c", "sm_90" */
    char libraries[128]; /* versions: OpenBLAS, driver, runtime, cuBLAS */
    uint64_t memory_total, memory_free; /* as the system reports now; 0: unknown */
    uint32_t threads;    /* CPU threads or SMs */
};

struct kb_options {
    uint32_t threads; /* 0: all cores this process may use */
    uint32_t index;   /* device ordinal */
    bool plain;       /* cpu: plain C loops even where SIMD is there (tests) */
};

/* `size` and `abi_version` are checked when a shared object is opened. Optional members say so. */
struct kb_backend {
    uint32_t abi_version, size;
    const char *name;
    kvp_err (*open)(struct kb_dev **out, const struct kb_options *opt, struct kvp_error *e);
    void (*close)(struct kb_dev *dev); /* NULL is fine; frees no buffer */
    kvp_err (*info)(struct kb_dev *dev, struct kb_info *out, struct kvp_error *e);
    /* Memory. At least 64-byte aligned; contents undefined. bytes > 0. KVP_ENOMEM is an answer. */
    kvp_err (*alloc)(struct kb_dev *dev, uint64_t bytes, struct kb_buf **out, struct kvp_error *e);
    void (*release)(struct kb_dev *dev, struct kb_buf *buf); /* NULL is fine */
    kvp_err (*write)(struct kb_dev *dev, struct kb_span dst, const void *src, uint64_t bytes, struct kvp_error *e);
    kvp_err (*read)(struct kb_dev *dev, struct kb_span src, void *dst, uint64_t bytes, struct kvp_error *e);
    kvp_err (*copy)(struct kb_dev *dev, struct kb_span dst, struct kb_span src, uint64_t bytes, struct kvp_error *e);
    kvp_err (*fill)(struct kb_dev *dev, struct kb_span dst, int byte, uint64_t bytes, struct kvp_error *e);
    kvp_err (*sync)(struct kb_dev *dev, struct kvp_error *e);
    /* Device clock in ns after all queued work is done (events on CUDA, monotonic clock on a CPU). */
    kvp_err (*now)(struct kb_dev *dev, uint64_t *ns, struct kvp_error *e);
    /* Asking is not failing: can run(k, args) work for these formats and dimensions? */
    bool (*supports)(struct kb_dev *dev, enum kb_kernel k, const void *args);
    /* args is the struct of kernels/ops/ for k. KVP_ENOTSUP when supports() is false. */
    kvp_err (*run)(struct kb_dev *dev, enum kb_kernel k, const void *args, struct kvp_error *e);
    /* (optional, all three or none) Record what run() is given between begin and end, and replay it. */
    kvp_err (*graph_begin)(struct kb_dev *dev, struct kvp_error *e);
    kvp_err (*graph_end)(struct kb_dev *dev, struct kvp_error *e);
    kvp_err (*graph_replay)(struct kb_dev *dev, struct kvp_error *e);
};

extern const struct kb_backend kb_ref; /* kernels/ref/ */
extern const struct kb_backend kb_cpu; /* kernels/cpu/ */

/* A backend by name: "cpu", "ref", "cuda". cuda is a shared object (kvproof-cuda.so beside the
 * binary, in ../lib/kvproof, or $KVPROOF_CUDA) that exports `const struct kb_backend *kb_plugin(void)`;
 * KVP_ENOTSUP with the reason when it is missing, does not open or has another ABI.
 * Implemented in kernels/backend.c. */
kvp_err kb_find(const struct kb_backend **out, const char *name, struct kvp_error *e);

#ifdef __cplusplus
}
#endif
#endif
