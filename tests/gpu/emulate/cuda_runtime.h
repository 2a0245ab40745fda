/* cuda_runtime.h - as much of CUDA as kernels/cuda/ uses, on the host: its .cu files compile as plain C++
 *
 * A block's threads are fibers of one thread, so that barriers and shuffles mean what they mean on a GPU;
 * blocks run one after the other, the last first, since no order is promised. Stricter than a GPU where that
 * finds mistakes: a barrier or shuffle that not all threads (of the block, of the warp) reach ends the program,
 * fresh memory is all ones (NaN), and device memory is malloc's, so that the address sanitizer sees every
 * access past an allocation.
 * It says nothing about races, memory order, coalescing or speed. */
#ifndef EMULATE_CUDA_RUNTIME_H
#define EMULATE_CUDA_RUNTIME_H

#include "kernels/half.h"

#include <functional>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(n)
#define __align__(n) __attribute__((aligned(n)))

/* ---- what a kernel sees ------------------------------------------------------------------------- */

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

struct __align__(16) uint4 {
    unsigned x, y, z, w;
};

struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};
static inline float __half2float(__half x) { return kb_from_f16(x.bits); }
static inline __half __float2half_rn(float x) { return {kb_to_f16(x)}; }
static inline float __bfloat162float(__nv_bfloat16 x) { return kb_from_bf16(x.bits); }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {kb_to_bf16(x)}; }

static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline uint32_t __float_as_uint(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return bits;
}
static inline unsigned long long atomicAdd(unsigned long long *p, unsigned long long x)
{
    const unsigned long long old = *p;

    *p += x;
    return old;
}

void __syncthreads(void);
uint32_t emulate_shuffle(uint32_t bits, int lanes);

template <typename T>
static inline T __shfl_xor_sync(unsigned, T x, int lanes)
{
    uint32_t bits;

    static_assert(sizeof(x) == sizeof(bits), "one register");
    memcpy(&bits, &x, sizeof(x));
    bits = emulate_shuffle(bits, lanes);
    memcpy(&x, &bits, sizeof(x));
    return x;
}

unsigned __ballot_sync(unsigned mask, bool x);

/* ---- what the host calls ------------------------------------------------------------------------ */

enum cudaError_t {
    cudaSuccess,
    cudaErrorMemoryAllocation,
    cudaErrorNoDevice,
    cudaErrorInsufficientDriver,
    cudaErrorNoKernelImageForDevice,
    cudaErrorInvalidDevice,
    cudaErrorInvalidValue,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum { cudaStreamNonBlocking = 1 };

typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_event *cudaEvent_t;
typedef struct emulated_graph *cudaGraph_t;
typedef struct emulated_graph *cudaGraphExec_t;

struct cudaDeviceProp {
    char name[64];
    int major, minor, multiProcessorCount;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};

const char *cudaGetErrorName(cudaError_t s);
const char *cudaGetErrorString(cudaError_t s);
cudaError_t cudaGetLastError(void);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int index);
cudaError_t cudaDriverGetVersion(int *out);
cudaError_t cudaRuntimeGetVersion(int *out);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreate(cudaEvent_t *out);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);

/* Run `work` now, or record it while a capture is on. */
cudaError_t emulate_queue(std::function<void()> work);
void emulate_grid(dim3 grid, dim3 block, const std::function<void()> &thread);

template <typename... P, typename... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *c, void (*kernel)(P...), A &&...args)
{
    const dim3 grid = c->gridDim, block = c->blockDim;
    const std::tuple<P...> values(args...);

    return emulate_queue([=] { emulate_grid(grid, block, [=] { std::apply(kernel, values); }); });
}

#endif
