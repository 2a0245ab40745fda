/* emulate.cc - fibers for a block's threads, and the host calls of cuda_runtime.h and cublas_v2.h */
#include <cublas_v2.h>

#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <ucontext.h>
#include <vector>

enum { WARP_LANES = 32, MAX_THREADS = 1024, STACK_BYTES = 128 << 10, MULTIPROCESSORS = 4 };
static const size_t MEMORY_BYTES = (size_t)4 << 30;

/* ---- a block ------------------------------------------------------------------------------------ */

dim3 threadIdx, blockIdx, blockDim, gridDim;

enum state { READY, AT_WARP, AT_BLOCK, DONE };
struct fiber {
    ucontext_t context;
    std::vector<char> stack;
    enum state state;
};
static std::vector<struct fiber> fibers;
static ucontext_t scheduler;
static unsigned current;
static const std::function<void()> *body;
static uint32_t lanes[MAX_THREADS]; /* what each thread shows to its warp */

static void enter(void)
{
    (*body)();
    fibers[current].state = DONE;
}

static void wait_at(enum state s)
{
    fibers[current].state = s;
    swapcontext(&fibers[current].context, &scheduler);
}

void __syncthreads(void)
{
    wait_at(AT_BLOCK);
}

uint32_t emulate_shuffle(uint32_t bits, int distance)
{
    lanes[current] = bits;
    wait_at(AT_WARP);
    bits = lanes[current ^ (unsigned)distance];
    wait_at(AT_WARP);
    return bits;
}

unsigned __ballot_sync(unsigned, bool x)
{
    unsigned bits = 0;

    lanes[current] = x;
    wait_at(AT_WARP);
    for (unsigned i = 0; i < WARP_LANES; i++)
        bits |= lanes[current / WARP_LANES * WARP_LANES + i] << i;
    wait_at(AT_WARP);
    return bits;
}

/* Fibers [first, first + n) go on if all of them stand at `s`. */
static bool release(unsigned first, unsigned n, enum state s)
{
    for (unsigned i = first; i < first + n; i++)
        if (fibers[i].state != s)
            return false;
    for (unsigned i = first; i < first + n; i++)
        fibers[i].state = READY;
    return true;
}

static bool release_some(unsigned threads)
{
    bool moved = release(0, threads, AT_BLOCK);

    for (unsigned i = 0; i < threads; i += WARP_LANES)
        moved = release(i, WARP_LANES, AT_WARP) || moved;
    return moved;
}

/* Every fiber that can, until its next barrier or its end; how many ended. */
static unsigned run_ready(unsigned threads)
{
    unsigned done = 0;

    for (current = 0; current < threads; current++)
        if (fibers[current].state == READY) {
            threadIdx = dim3(current, 0, 0);
            swapcontext(&scheduler, &fibers[current].context);
            done += fibers[current].state == DONE;
        }
    return done;
}

static void prepare(struct fiber *f)
{
    f->stack.resize(STACK_BYTES);
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack.data();
    f->context.uc_stack.ss_size = f->stack.size();
    f->context.uc_link = &scheduler;
    f->state = READY;
    makecontext(&f->context, enter, 0);
}

static void run_block(unsigned threads)
{
    for (unsigned i = 0; i < threads; i++)
        prepare(&fibers[i]);
    for (unsigned left = threads; (left -= run_ready(threads)) > 0;)
        if (!release_some(threads)) {
            fprintf(stderr, "emulate: a barrier or shuffle was not reached by all threads of block %u\n", blockIdx.x);
            abort();
        }
}

void emulate_grid(dim3 grid, dim3 block, const std::function<void()> &thread)
{
    if (block.x == 0 || block.x > MAX_THREADS || block.x % WARP_LANES) {
        fprintf(stderr, "emulate: a block of %u threads\n", block.x);
        abort();
    }
    fibers.resize(MAX_THREADS);
    body = &thread;
    gridDim = grid;
    blockDim = block;
    for (unsigned i = grid.x; i-- > 0;) {
        blockIdx = dim3(i, 0, 0);
        run_block(block.x);
    }
}

/* ---- queue and graphs --------------------------------------------------------------------------- */

struct emulated_graph {
    std::vector<std::function<void()>> work;
};
static struct emulated_graph *capture;

cudaError_t emulate_queue(std::function<void()> work)
{
    if (capture)
        capture->work.push_back(work);
    else
        work();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode)
{
    capture = new emulated_graph;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *out)
{
    *out = capture;
    capture = NULL;
    return *out ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    *out = new emulated_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t)
{
    for (const std::function<void()> &work : graph->work)
        work();
    return cudaSuccess;
}

/* ---- memory ------------------------------------------------------------------------------------- */

static std::map<void *, size_t> allocated;
static size_t in_use;

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    if (bytes > MEMORY_BYTES - in_use || posix_memalign(out, 256, bytes))
        return cudaErrorMemoryAllocation;
    memset(*out, 0xff, bytes);
    allocated[*out] = bytes;
    in_use += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    if (p) {
        in_use -= allocated.at(p);
        allocated.erase(p);
        free(p);
    }
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    *free_bytes = MEMORY_BYTES - in_use;
    *total_bytes = MEMORY_BYTES;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind, cudaStream_t)
{
    return emulate_queue([=] { memcpy(dst, src, bytes); });
}

cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t)
{
    return emulate_queue([=] { memset(dst, byte, bytes); });
}

/* ---- device, stream, events --------------------------------------------------------------------- */

struct emulated_event {
    struct timespec at;
};

const char *cudaGetErrorName(cudaError_t s) { return s == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError"; }
const char *cudaGetErrorString(cudaError_t) { return "emulated"; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaSetDevice(int index) { return index == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) { *out = NULL; return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *out) { *out = new emulated_event(); return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) { delete event; return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *out) { *out = 0; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *out) { *out = 0; return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int)
{
    memset(out, 0, sizeof(*out));
    strcpy(out->name, "emulated");
    out->multiProcessorCount = MULTIPROCESSORS;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    clock_gettime(CLOCK_MONOTONIC, &event->at);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = (float)(to->at.tv_sec - from->at.tv_sec) * 1e3f + (float)(to->at.tv_nsec - from->at.tv_nsec) * 1e-6f;
    return cudaSuccess;
}

/* ---- cuBLAS ------------------------------------------------------------------------------------- */

const char *cublasGetStatusName(cublasStatus_t) { return "emulated"; }
cublasStatus_t cublasCreate(cublasHandle_t *out) { *out = NULL; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetVersion(cublasHandle_t, int *out) { *out = 0; return CUBLAS_STATUS_SUCCESS; }

/* Sixteen partial sums, so that a compiler may use vectors without changing a result. */
static float dot(const float *a, const float *b, int64_t n)
{
    float part[16] = {}, sum = 0;
    int64_t i = 0;

    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++)
            part[k] += a[i + k] * b[i + k];
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (int k = 0; k < 16; k++)
        sum += part[k];
    return sum;
}

cublasStatus_t cublasSgemm_64(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int64_t m, int64_t n, int64_t k,
                              const float *alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                              const float *beta, float *c, int64_t ldc)
{
    const float by = *alpha, keep = *beta;

    if (ta != CUBLAS_OP_T || tb != CUBLAS_OP_N || lda < k || ldb < k || ldc < m)
        return CUBLAS_STATUS_INVALID_VALUE;
    emulate_queue([=] {
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < m; i++)
                c[j * ldc + i] = by * dot(a + i * lda, b + j * ldb, k) + (keep == 0 ? 0.0f : keep * c[j * ldc + i]);
    });
    return CUBLAS_STATUS_SUCCESS;
}
