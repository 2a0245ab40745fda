/* cuda.h - what the files of kernels/cuda/ share on the host side: the device, a buffer, errors, launches.
 *
 * C in manner, C++ only where CUDA is: templates over the stored format, and the launch. Every kernel
 * goes on the device's one stream. No device code here; that is device.cuh.
 * The same sources compile as plain C++ against tests/gpu/emulate/, which is why launches go through
 * cudaLaunchKernelEx (an ordinary function) and not through <<<>>>. */
#ifndef KVPROOF_CUDA_H
#define KVPROOF_CUDA_H

#include "kernels/ops.h"

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

enum {
    CUDA_SCRATCH_BYTES = 16 << 20,   /* partial results of split kernels; part of the device's context */
    CUDA_WORKSPACE_BYTES = 32 << 20, /* what NVIDIA recommends for cuBLAS on Hopper; fixed, so that no
                                        call allocates behind the ledger or inside a capture */
    CUDA_MAX_HEAD_DIM = 256,
};

struct kb_buf {
    char *data; /* device address */
    uint64_t bytes;
};

struct kb_dev {
    int index;
    struct cudaDeviceProp prop;
    cudaStream_t stream;
    cublasHandle_t cublas;
    void *workspace;
    float *scratch;            /* CUDA_SCRATCH_BYTES */
    cudaEvent_t event[2];      /* event[turn] was recorded at `ns` */
    int turn;
    uint64_t ns;
    cudaGraphExec_t graph;     /* NULL until a graph_end */
};

/* KVP_OK, or the CUDA error by its name: no device is KVP_ENOTSUP, no memory KVP_ENOMEM, anything
 * else KVP_ESYS. Clears the runtime's last error, so that one failure is reported once. */
kvp_err cuda_check(struct kvp_error *e, cudaError_t s, const char *what);
kvp_err cublas_check(struct kvp_error *e, cublasStatus_t s, const char *what);
#define CUDA_TRY(e, call) KVP_TRY(cuda_check((e), (call), #call))
#define CUBLAS_TRY(e, call) KVP_TRY(cublas_check((e), (call), #call))

/* The address of a span; NULL when it is not given. */
template <typename T>
static inline T *at(struct kb_span s)
{
    return s.buf ? (T *)(s.buf->data + s.offset) : NULL;
}

static inline uint64_t div_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

static inline uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Blocks for a grid-stride loop over n items, `per_block` at a time: enough to fill the device. */
static inline uint64_t grid_for(const struct kb_dev *dev, uint64_t n, uint64_t per_block)
{
    return least(div_up(n, per_block), 16 * (uint64_t)dev->prop.multiProcessorCount);
}

/* Queue kernel(args...) on the device's stream. A grid of 0 blocks is nothing to do. */
template <typename... P, typename... A>
static kvp_err launch(struct kb_dev *dev, struct kvp_error *e, const char *what, uint64_t blocks, uint32_t threads,
                      void (*kernel)(P...), A... args)
{
    cudaLaunchConfig_t c = {};

    if (blocks == 0)
        return KVP_OK;
    if (blocks > INT32_MAX)
        return kvp_fail(e, KVP_ERANGE, "cuda: %s needs %llu blocks, more than one grid holds", what,
                        (unsigned long long)blocks);
    c.gridDim = dim3((unsigned)blocks, 1, 1);
    c.blockDim = dim3(threads, 1, 1);
    c.stream = dev->stream;
    return cuda_check(e, cudaLaunchKernelEx(&c, kernel, static_cast<P>(args)...), what);
}

/* Is this a format that kernels read and write directly? Tables by format have these three rows. */
static inline bool is_float(enum kvp_format f)
{
    static_assert(KVP_F32 == 0 && KVP_F16 == 1 && KVP_BF16 == 2, "tables are indexed by format");
    return f == KVP_F32 || f == KVP_F16 || f == KVP_BF16;
}

/* cuda_NAME_ok: can it run with these formats and dimensions? cuda_NAME: queue it. `args` is struct kb_NAME. */
#define KB_X(sym, name)                                  \
    bool cuda_##name##_ok(const void *args);             \
    kvp_err cuda_##name(struct kb_dev *dev, const void *args, struct kvp_error *e);
KB_DEVICE_KERNEL_MAP(KB_X)
#undef KB_X

#endif
