/* backend.cu - the CUDA device behind struct kb_backend: opening, memory, clock, graphs, dispatch */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

kvp_err cuda_check(struct kvp_error *e, cudaError_t s, const char *what)
{
    static const struct {
        cudaError_t status;
        kvp_err code;
    } known[] = {
        {cudaErrorNoDevice, KVP_ENOTSUP},           {cudaErrorInsufficientDriver, KVP_ENOTSUP},
        {cudaErrorNoKernelImageForDevice, KVP_ENOTSUP}, {cudaErrorInvalidDevice, KVP_ENOTSUP},
        {cudaErrorMemoryAllocation, KVP_ENOMEM},
    };
    kvp_err code = KVP_ESYS;

    if (s == cudaSuccess)
        return KVP_OK;
    (void)cudaGetLastError();
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].status == s)
            code = known[i].code;
    return kvp_fail(e, code, "cuda: %s: %s (%s)", what, cudaGetErrorName(s), cudaGetErrorString(s));
}

kvp_err cublas_check(struct kvp_error *e, cublasStatus_t s, const char *what)
{
    if (s == CUBLAS_STATUS_SUCCESS)
        return KVP_OK;
    return kvp_fail(e, s == CUBLAS_STATUS_ALLOC_FAILED ? KVP_ENOMEM : KVP_ESYS, "cuda: %s: %s", what,
                    cublasGetStatusName(s));
}

/* ---- the device --------------------------------------------------------------------------------- */

static void cuda_close(struct kb_dev *dev)
{
    if (!dev)
        return;
    if (dev->graph)
        (void)cudaGraphExecDestroy(dev->graph);
    for (int i = 0; i < 2; i++)
        if (dev->event[i])
            (void)cudaEventDestroy(dev->event[i]);
    if (dev->cublas)
        (void)cublasDestroy(dev->cublas);
    (void)cudaFree(dev->workspace);
    (void)cudaFree(dev->scratch);
    if (dev->stream)
        (void)cudaStreamDestroy(dev->stream);
    free(dev);
}

static kvp_err open_parts(struct kb_dev *dev, struct kvp_error *e)
{
    CUDA_TRY(e, cudaSetDevice(dev->index));
    CUDA_TRY(e, cudaGetDeviceProperties(&dev->prop, dev->index));
    CUDA_TRY(e, cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking));
    CUDA_TRY(e, cudaMalloc((void **)&dev->scratch, CUDA_SCRATCH_BYTES));
    CUDA_TRY(e, cudaMalloc(&dev->workspace, CUDA_WORKSPACE_BYTES));
    CUBLAS_TRY(e, cublasCreate(&dev->cublas));
    CUBLAS_TRY(e, cublasSetStream(dev->cublas, dev->stream));
    CUBLAS_TRY(e, cublasSetWorkspace(dev->cublas, dev->workspace, CUDA_WORKSPACE_BYTES));
    CUBLAS_TRY(e, cublasSetMathMode(dev->cublas, CUBLAS_PEDANTIC_MATH)); /* no TF32 */
    CUDA_TRY(e, cudaEventCreate(&dev->event[0]));
    CUDA_TRY(e, cudaEventCreate(&dev->event[1]));
    CUDA_TRY(e, cudaEventRecord(dev->event[0], dev->stream));
    CUDA_TRY(e, cudaStreamSynchronize(dev->stream));
    return KVP_OK;
}

static kvp_err cuda_open(struct kb_dev **out, const struct kb_options *opt, struct kvp_error *e)
{
    struct kb_dev *dev = (struct kb_dev *)calloc(1, sizeof(*dev));
    kvp_err rc;

    if (!dev)
        return kvp_fail(e, KVP_ENOMEM, "cuda: no memory for a device");
    dev->index = (int)opt->index;
    rc = open_parts(dev, e);
    if (rc != KVP_OK) {
        cuda_close(dev);
        return rc;
    }
    *out = dev;
    return KVP_OK;
}

static kvp_err cuda_info(struct kb_dev *dev, struct kb_info *out, struct kvp_error *e)
{
    int driver = 0, runtime = 0, cublas = 0;
    size_t free_bytes = 0, total_bytes = 0;

    CUDA_TRY(e, cudaSetDevice(dev->index));
    CUDA_TRY(e, cudaDriverGetVersion(&driver));
    CUDA_TRY(e, cudaRuntimeGetVersion(&runtime));
    CUBLAS_TRY(e, cublasGetVersion(dev->cublas, &cublas));
    CUDA_TRY(e, cudaMemGetInfo(&free_bytes, &total_bytes));
    memset(out, 0, sizeof(*out));
    snprintf(out->name, sizeof(out->name), "%.127s", dev->prop.name);
    snprintf(out->isa, sizeof(out->isa), "sm_%d%d", dev->prop.major, dev->prop.minor);
    snprintf(out->libraries, sizeof(out->libraries), "CUDA driver %d.%d, runtime %d.%d, cuBLAS %d.%d.%d", driver / 1000,
             driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, cublas / 10000, cublas % 10000 / 100, cublas % 100);
    out->memory_total = total_bytes;
    out->memory_free = free_bytes;
    out->threads = (uint32_t)dev->prop.multiProcessorCount;
    return KVP_OK;
}

/* ---- memory ------------------------------------------------------------------------------------- */

static kvp_err cuda_alloc(struct kb_dev *dev, uint64_t bytes, struct kb_buf **out, struct kvp_error *e)
{
    struct kb_buf *buf = (struct kb_buf *)calloc(1, sizeof(*buf));
    cudaError_t s;

    if (!buf)
        return kvp_fail(e, KVP_ENOMEM, "cuda: no memory for a buffer's handle");
    s = cudaSetDevice(dev->index);
    if (s == cudaSuccess)
        s = cudaMalloc((void **)&buf->data, bytes);
    if (s == cudaSuccess) {
        buf->bytes = bytes;
        *out = buf;
        return KVP_OK;
    }
    free(buf);
    (void)cudaGetLastError();
    if (s == cudaErrorMemoryAllocation)
        return kvp_fail(e, KVP_ENOMEM, "cuda: no memory for %llu bytes on device %d", (unsigned long long)bytes, dev->index);
    return cuda_check(e, s, "cudaMalloc");
}

static void cuda_release(struct kb_dev *dev, struct kb_buf *buf)
{
    if (!buf)
        return;
    (void)cudaStreamSynchronize(dev->stream); /* queued work may still use it */
    (void)cudaFree(buf->data);
    free(buf);
}

static kvp_err check_span(const char *what, struct kb_span s, uint64_t bytes, struct kvp_error *e)
{
    if (s.buf && s.offset <= s.buf->bytes && bytes <= s.buf->bytes - s.offset)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "cuda: %s of %llu bytes at %llu does not lie in a buffer of %llu", what,
                    (unsigned long long)bytes, (unsigned long long)s.offset,
                    (unsigned long long)(s.buf ? s.buf->bytes : 0));
}

static kvp_err cuda_sync(struct kb_dev *dev, struct kvp_error *e)
{
    CUDA_TRY(e, cudaSetDevice(dev->index));
    CUDA_TRY(e, cudaStreamSynchronize(dev->stream));
    return KVP_OK;
}

/* The host's memory is pageable and the caller's again when this returns, hence the wait. */
static kvp_err cuda_write(struct kb_dev *dev, struct kb_span dst, const void *src, uint64_t bytes, struct kvp_error *e)
{
    KVP_TRY(check_span("write", dst, bytes, e));
    CUDA_TRY(e, cudaMemcpyAsync(at<char>(dst), src, bytes, cudaMemcpyHostToDevice, dev->stream));
    return cuda_sync(dev, e);
}

static kvp_err cuda_read(struct kb_dev *dev, struct kb_span src, void *dst, uint64_t bytes, struct kvp_error *e)
{
    KVP_TRY(check_span("read", src, bytes, e));
    CUDA_TRY(e, cudaMemcpyAsync(dst, at<char>(src), bytes, cudaMemcpyDeviceToHost, dev->stream));
    return cuda_sync(dev, e);
}

static kvp_err cuda_copy(struct kb_dev *dev, struct kb_span dst, struct kb_span src, uint64_t bytes, struct kvp_error *e)
{
    KVP_TRY(check_span("copy to", dst, bytes, e));
    KVP_TRY(check_span("copy from", src, bytes, e));
    CUDA_TRY(e, cudaMemcpyAsync(at<char>(dst), at<char>(src), bytes, cudaMemcpyDeviceToDevice, dev->stream));
    return KVP_OK;
}

static kvp_err cuda_fill(struct kb_dev *dev, struct kb_span dst, int byte, uint64_t bytes, struct kvp_error *e)
{
    KVP_TRY(check_span("fill", dst, bytes, e));
    CUDA_TRY(e, cudaMemsetAsync(at<char>(dst), byte, bytes, dev->stream));
    return KVP_OK;
}

/* ---- clock and graphs --------------------------------------------------------------------------- */

/* Steps between successive events are added up: one float of milliseconds since open would resolve
 * only 8 us after two minutes. */
static kvp_err cuda_now(struct kb_dev *dev, uint64_t *ns, struct kvp_error *e)
{
    const int next = 1 - dev->turn;
    float ms = 0;

    CUDA_TRY(e, cudaEventRecord(dev->event[next], dev->stream));
    CUDA_TRY(e, cudaEventSynchronize(dev->event[next]));
    CUDA_TRY(e, cudaEventElapsedTime(&ms, dev->event[dev->turn], dev->event[next]));
    dev->turn = next;
    dev->ns += ms > 0 ? (uint64_t)((double)ms * 1e6 + 0.5) : 0;
    *ns = dev->ns;
    return KVP_OK;
}

static kvp_err cuda_graph_begin(struct kb_dev *dev, struct kvp_error *e)
{
    CUDA_TRY(e, cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal));
    return KVP_OK;
}

static kvp_err cuda_graph_end(struct kb_dev *dev, struct kvp_error *e)
{
    cudaGraph_t graph = NULL;
    cudaError_t s;

    CUDA_TRY(e, cudaStreamEndCapture(dev->stream, &graph));
    if (dev->graph)
        (void)cudaGraphExecDestroy(dev->graph);
    dev->graph = NULL;
    s = cudaGraphInstantiate(&dev->graph, graph, 0);
    (void)cudaGraphDestroy(graph);
    return cuda_check(e, s, "cudaGraphInstantiate");
}

static kvp_err cuda_graph_replay(struct kb_dev *dev, struct kvp_error *e)
{
    if (!dev->graph)
        return kvp_fail(e, KVP_EINPUT, "cuda: graph_replay before a graph_end");
    CUDA_TRY(e, cudaGraphLaunch(dev->graph, dev->stream));
    return KVP_OK;
}

/* ---- dispatch ----------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    bool (*ok)(const void *args);
    kvp_err (*run)(struct kb_dev *dev, const void *args, struct kvp_error *e);
} kernels[] = { /* the host's own kernels have higher numbers */
#define KB_X(sym, name) {#name, cuda_##name##_ok, cuda_##name},
    KB_DEVICE_KERNEL_MAP(KB_X)
#undef KB_X
};
enum { CUDA_KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

static bool cuda_supports(struct kb_dev *dev, enum kb_kernel k, const void *args)
{
    (void)dev;
    return (unsigned)k < CUDA_KERNELS && kernels[k].ok(args);
}

static kvp_err cuda_run(struct kb_dev *dev, enum kb_kernel k, const void *args, struct kvp_error *e)
{
    if ((unsigned)k >= CUDA_KERNELS)
        return kvp_fail(e, KVP_ENOTSUP, "cuda: there is no kernel number %d", (int)k);
    if (!kernels[k].ok(args))
        return kvp_fail(e, KVP_ENOTSUP, "cuda: %s does not take these formats or dimensions", kernels[k].name);
    CUDA_TRY(e, cudaSetDevice(dev->index));
    return kernels[k].run(dev, args, e);
}

extern "C" __attribute__((visibility("default"))) const struct kb_backend *kb_plugin(void);

extern "C" const struct kb_backend *kb_plugin(void)
{
    static const struct kb_backend backend = {
        KB_ABI_VERSION,  sizeof(struct kb_backend),
        "cuda",          cuda_open,
        cuda_close,      cuda_info,
        cuda_alloc,      cuda_release,
        cuda_write,      cuda_read,
        cuda_copy,       cuda_fill,
        cuda_sync,       cuda_now,
        cuda_supports,   cuda_run,
        cuda_graph_begin, cuda_graph_end,
        cuda_graph_replay,
    };

    return &backend;
}
