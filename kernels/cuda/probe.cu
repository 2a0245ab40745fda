/* probe.cu - what this GPU can do, as numbers in one JSON object on stdout
 *
 * gpu-probe [--device N] [--quick]
 * Stand-alone: CUDA and cuBLAS only. Bandwidth of reading, copying and writing against size, of reading
 * against bytes in flight; where the L2 ends; launch and graph floors; bf16 GEMM over m; the allocator's
 * granule; the context's and cuBLAS's bytes; exp and unpack rates. Every time is the median of RUNS runs on
 * CUDA events after a warm-up; lists carry least and most beside it. Units are in the key names: bytes of
 * copies count read and written both. Memory differences are of the whole device, so other processes on it
 * disturb them. Exit 0, 77 where there is no GPU, 1 when a call fails (one line on stderr; stdout then
 * holds no complete object). */
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RUNS = 9, THREADS = 256, NODES = 100 };

static struct {
    int device;
    bool quick;
    struct cudaDeviceProp prop;
    cudaStream_t stream;
    cudaEvent_t begin, end;
    char *a, *b;      /* two buffers */
    size_t bytes;     /* of each */
    float *sink;
} p;

static void check(cudaError_t s, const char *what)
{
    if (s == cudaSuccess)
        return;
    fprintf(stderr, "gpu-probe: %s: %s (%s)\n", what, cudaGetErrorName(s), cudaGetErrorString(s));
    exit(1);
}
#define TRY(call) check((call), #call)

static void check_cublas(cublasStatus_t s, const char *what)
{
    if (s == CUBLAS_STATUS_SUCCESS)
        return;
    fprintf(stderr, "gpu-probe: %s: %s\n", what, cublasGetStatusName(s));
    exit(1);
}
#define TRY_CUBLAS(call) check_cublas((call), #call)

/* ---- time --------------------------------------------------------------------------------------- */

struct spread {
    double median, least, most;
};

static int by_value(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;

    return (a > b) - (a < b);
}

static struct spread spread_of(double *t)
{
    qsort(t, RUNS, sizeof(t[0]), by_value);
    return {t[RUNS / 2], t[0], t[RUNS - 1]};
}

/* Seconds of one call of work(x), by events around `times` calls in a row. */
template <typename W>
static struct spread time_of(int times, W work)
{
    double t[RUNS];

    work();
    for (int r = 0; r < RUNS; r++) {
        float ms = 0;

        TRY(cudaEventRecord(p.begin, p.stream));
        for (int i = 0; i < times; i++)
            work();
        TRY(cudaEventRecord(p.end, p.stream));
        TRY(cudaEventSynchronize(p.end));
        TRY(cudaEventElapsedTime(&ms, p.begin, p.end));
        t[r] = (double)ms * 1e-3 / times;
    }
    TRY(cudaGetLastError());
    return spread_of(t);
}

static double host_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* So many calls that a sample lasts about 2 ms at 1 TB/s, for sizes whose single call is too short. */
static int repeats(size_t bytes)
{
    const size_t n = ((size_t)2 << 30) / (bytes + 1);

    return n < 1 ? 1 : n > 200 ? 200 : (int)n;
}

/* ---- kernels ------------------------------------------------------------------------------------ */

static __global__ void nothing(void)
{
}

/* N loads of 16 bytes in flight a thread. */
template <int N>
static __global__ void read_all(const uint4 *src, size_t n, float *sink)
{
    const size_t step = (size_t)gridDim.x * blockDim.x;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t sum = 0;

    for (; i + (N - 1) * step < n; i += N * step) {
        uint4 x[N];

#pragma unroll
        for (int k = 0; k < N; k++)
            x[k] = src[i + k * step];
#pragma unroll
        for (int k = 0; k < N; k++)
            sum += x[k].x + x[k].y + x[k].z + x[k].w;
    }
    for (; i < n; i += step)
        sum += src[i].x + src[i].y + src[i].z + src[i].w;
    if (sum == 0x9e3779b9u) /* practically never, and the compiler cannot know */
        *sink = 1;
}

static __global__ void copy_all(const uint4 *src, uint4 *dst, size_t n)
{
    const size_t step = (size_t)gridDim.x * blockDim.x;

    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        dst[i] = src[i];
}

static __global__ void write_all(uint4 *dst, size_t n)
{
    const size_t step = (size_t)gridDim.x * blockDim.x;

    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        dst[i] = make_uint4(1, 2, 3, 4);
}

static __global__ void random_bf16(__nv_bfloat16 *x, size_t n, uint32_t seed)
{
    const size_t step = (size_t)gridDim.x * blockDim.x;

    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        uint32_t h = ((uint32_t)i ^ seed) * 0x9e3779b9u;

        h = (h ^ h >> 15) * 0x85ebca6bu;
        x[i] = __float2bfloat16_rn((float)(h ^ h >> 13) * 0x1p-31f - 1.0f);
    }
}

enum { RATE_STEPS = 4096, RATE_LANES = 8 };

static __global__ void many_exps(float *sink)
{
    float x[RATE_LANES], sum = 0;

    for (int k = 0; k < RATE_LANES; k++)
        x[k] = (float)(threadIdx.x + (unsigned)k) * -0x1p-12f;
    for (int i = 0; i < RATE_STEPS; i++)
#pragma unroll
        for (int k = 0; k < RATE_LANES; k++)
            x[k] = __expf(x[k]) - 1.0f;
    for (int k = 0; k < RATE_LANES; k++)
        sum += x[k];
    if (sum == 12345.0f)
        *sink = sum;
}

/* Words of codes to f32 values: shift, mask, convert, scale and add, as the cache kernels do it. */
template <int BITS>
static __global__ void many_unpacks(float *sink, float scale, float min)
{
    uint32_t word = threadIdx.x * 0x9e3779b9u + blockIdx.x;
    float sum = 0;

    for (int i = 0; i < RATE_STEPS; i++) {
#pragma unroll
        for (int j = 0; j < 32 / BITS; j++)
            sum += (float)(word >> (BITS * j) & ((1u << BITS) - 1)) * scale + min;
        word = word * 1664525u + 1013904223u;
    }
    if (sum == 12345.0f)
        *sink = sum;
}

/* ---- bandwidth ---------------------------------------------------------------------------------- */

static unsigned full_grid(void)
{
    return (unsigned)p.prop.multiProcessorCount * 8;
}

static void print_rate(const char *sep, const char *key, double count, double value, const char *unit, struct spread t)
{
    printf("%s\n    {\"%s\": %.0f, \"%s\": %.4g, \"least_s\": %.4g, \"median_s\": %.4g, \"most_s\": %.4g}", sep, key, count, unit,
           value, t.least, t.median, t.most);
}

enum access { READ, COPY, WRITE };

static double bandwidth(enum access how, size_t bytes, struct spread *t)
{
    const size_t n = bytes / sizeof(uint4);
    uint4 *a = (uint4 *)p.a, *b = (uint4 *)p.b;
    const unsigned grid = full_grid();

    *t = time_of(repeats(bytes), [=] {
        if (how == READ)
            read_all<4><<<grid, THREADS, 0, p.stream>>>(a, n, p.sink);
        else if (how == COPY)
            copy_all<<<grid, THREADS, 0, p.stream>>>(a, b, n);
        else
            write_all<<<grid, THREADS, 0, p.stream>>>(b, n);
    });
    return (double)bytes * (how == COPY ? 2 : 1) / t->median;
}

/* Sizes double from 1 MiB to the buffers' size, with steps between, so that the L2's end shows. The
 * knee is the largest size read at 85 % or more of the best, when the largest of all is below that. */
static void probe_bandwidth(void)
{
    static const char *const names[] = {"read", "copy", "write"};
    double rate[64], size[64], best = 0, knee = 0;
    int n = 0;

    for (int how = READ; how <= WRITE; how++) {
        printf(",\n  \"%s_against_size\": [", names[how]);
        n = 0;
        for (size_t bytes = (size_t)1 << 20; bytes <= p.bytes && n < 64; bytes = n % 2 ? bytes / 2 * 3 : bytes / 3 * 4) {
            struct spread t;
            const size_t whole = bytes / 256 * 256;
            const double r = bandwidth((enum access)how, whole, &t);

            print_rate(n ? "," : "", "bytes", (double)whole, r * 1e-9, "gb_per_s", t);
            if (how == READ) {
                size[n] = (double)whole;
                rate[n] = r;
                best = r > best ? r : best;
            }
            n++;
        }
        printf("\n  ]");
        if (how == READ) {
            for (int i = 0; i < n; i++)
                knee = rate[i] >= 0.85 * best ? size[i] : knee;
            printf(",\n  \"read_dram_gb_per_s\": %.4g,\n  \"read_best_gb_per_s\": %.4g", rate[n - 1] * 1e-9, best * 1e-9);
            if (rate[n - 1] < 0.85 * best)
                printf(",\n  \"l2_knee_bytes\": %.0f", knee);
            else
                printf(",\n  \"l2_knee_bytes\": null");
        }
    }
}

template <int N>
static void in_flight(int per_sm, bool *first)
{
    const size_t n = p.bytes / sizeof(uint4);
    const unsigned grid = (unsigned)(p.prop.multiProcessorCount * per_sm);
    const uint4 *a = (const uint4 *)p.a;
    const struct spread t = time_of(1, [=] { read_all<N><<<grid, THREADS, 0, p.stream>>>(a, n, p.sink); });

    printf("%s\n    {\"blocks_per_sm\": %d, \"threads_per_block\": %d, \"loads_per_thread\": %d, \"bytes_in_flight_per_sm\": %d, "
           "\"gb_per_s\": %.4g, \"median_s\": %.4g}",
           *first ? "" : ",", per_sm, THREADS, N, per_sm * THREADS * N * 16, (double)p.bytes / t.median * 1e-9, t.median);
    *first = false;
}

static void probe_in_flight(void)
{
    bool first = true;

    printf(",\n  \"read_against_bytes_in_flight\": [");
    for (int per_sm = 1; per_sm <= 8; per_sm *= 2) {
        in_flight<1>(per_sm, &first);
        in_flight<2>(per_sm, &first);
        in_flight<4>(per_sm, &first);
        in_flight<8>(per_sm, &first);
    }
    printf("\n  ]");
}

/* ---- floors ------------------------------------------------------------------------------------- */

static void print_seconds(const char *key, struct spread t)
{
    printf(",\n  \"%s_s\": {\"median\": %.4g, \"least\": %.4g, \"most\": %.4g}", key, t.median, t.least, t.most);
}

static struct spread launch_and_wait(void)
{
    double t[RUNS];

    for (int r = 0; r < RUNS; r++) {
        const double t0 = host_seconds();

        for (int i = 0; i < NODES; i++) {
            nothing<<<1, 32, 0, p.stream>>>();
            TRY(cudaStreamSynchronize(p.stream));
        }
        t[r] = (host_seconds() - t0) / NODES;
    }
    return spread_of(t);
}

static void probe_floors(void)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    struct spread t;

    t = time_of(1000, [] { nothing<<<1, 32, 0, p.stream>>>(); });
    print_seconds("launch_back_to_back", t);
    print_seconds("launch_and_wait", launch_and_wait());
    TRY(cudaStreamBeginCapture(p.stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < NODES; i++)
        nothing<<<1, 32, 0, p.stream>>>();
    TRY(cudaStreamEndCapture(p.stream, &graph));
    TRY(cudaGraphInstantiate(&exec, graph, 0));
    t = time_of(10, [=] { TRY(cudaGraphLaunch(exec, p.stream)); });
    t = {t.median / NODES, t.least / NODES, t.most / NODES};
    print_seconds("graph_node", t);
    printf(",\n  \"graph_nodes\": %d", NODES);
    TRY(cudaGraphExecDestroy(exec));
    TRY(cudaGraphDestroy(graph));
}

/* ---- GEMM --------------------------------------------------------------------------------------- */

/* out[m, 4096] = x[m, 4096] W^T, bf16 in and out, f32 inside, on uniform values in (-1, 1). */
static void probe_gemm(cublasHandle_t cublas)
{
    const int nk = 4096, most = 8192;
    const size_t w = (size_t)nk * nk, x = (size_t)most * nk;
    __nv_bfloat16 *base = (__nv_bfloat16 *)p.a, *out = (__nv_bfloat16 *)p.b;
    const float one = 1, zero = 0;

    random_bf16<<<full_grid(), THREADS, 0, p.stream>>>(base, w + x, 1);
    printf(",\n  \"gemm_bf16_n\": %d,\n  \"gemm_bf16_k\": %d,\n  \"gemm_bf16_against_m\": [", nk, nk);
    for (int m = 1; m <= most; m *= 2) {
        const struct spread t = time_of(m <= 512 ? 20 : 3, [=] {
            TRY_CUBLAS(cublasGemmEx(cublas, CUBLAS_OP_T, CUBLAS_OP_N, nk, m, nk, &one, base, CUDA_R_16BF, nk, base + w, CUDA_R_16BF,
                                    nk, &zero, out, CUDA_R_16BF, nk, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
        });

        print_rate(m > 1 ? "," : "", "m", m, 2.0 * m * nk * nk / t.median * 1e-12, "tflop_per_s", t);
    }
    printf("\n  ]");
}

/* ---- memory ------------------------------------------------------------------------------------- */

static size_t used_bytes(void)
{
    size_t free_bytes = 0, total = 0;

    TRY(cudaMemGetInfo(&free_bytes, &total));
    return total - free_bytes;
}

/* Allocations of one size in a row: how much the device's free memory falls at each. */
static void probe_granule(void)
{
    static const size_t sizes[] = {1, 4096, (size_t)1 << 20, ((size_t)2 << 20) + 1};
    enum { EACH = 4 };

    printf(",\n  \"allocation_deltas\": [");
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        void *held[EACH];

        printf("%s\n    {\"bytes\": %zu, \"device_delta_bytes\": [", s ? "," : "", sizes[s]);
        for (int i = 0; i < EACH; i++) {
            const size_t before = used_bytes();

            TRY(cudaMalloc(&held[i], sizes[s]));
            printf("%s%lld", i ? ", " : "", (long long)used_bytes() - (long long)before);
        }
        printf("]}");
        for (int i = 0; i < EACH; i++)
            TRY(cudaFree(held[i]));
    }
    printf("\n  ]");
}

/* What a handle takes, and what the first GEMM of it takes on top: its workspace. */
static cublasHandle_t probe_cublas(void)
{
    cublasHandle_t cublas;
    const float one = 1, zero = 0;
    size_t before = used_bytes(), created;
    int version = 0;

    TRY_CUBLAS(cublasCreate(&cublas));
    TRY_CUBLAS(cublasSetStream(cublas, p.stream));
    TRY_CUBLAS(cublasGetVersion(cublas, &version));
    created = used_bytes();
    TRY_CUBLAS(cublasGemmEx(cublas, CUBLAS_OP_T, CUBLAS_OP_N, 1024, 1024, 1024, &one, p.a, CUDA_R_16BF, 1024, p.a, CUDA_R_16BF, 1024,
                            &zero, p.b, CUDA_R_16BF, 1024, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    TRY(cudaStreamSynchronize(p.stream));
    printf(",\n  \"cublas_version\": %d,\n  \"cublas_handle_bytes\": %lld,\n  \"cublas_first_gemm_bytes\": %lld", version,
           (long long)created - (long long)before, (long long)used_bytes() - (long long)created);
    return cublas;
}

/* ---- rates -------------------------------------------------------------------------------------- */

static void probe_rates(void)
{
    const unsigned grid = full_grid();
    const double threads = (double)grid * THREADS;
    struct spread t;

    t = time_of(1, [=] { many_exps<<<grid, THREADS, 0, p.stream>>>(p.sink); });
    printf(",\n  \"exp_per_s\": %.4g", threads * RATE_STEPS * RATE_LANES / t.median);
    t = time_of(1, [=] { many_unpacks<4><<<grid, THREADS, 0, p.stream>>>(p.sink, 0.1f, -1.0f); });
    printf(",\n  \"unpack_int4_values_per_s\": %.4g", threads * RATE_STEPS * 8 / t.median);
    t = time_of(1, [=] { many_unpacks<2><<<grid, THREADS, 0, p.stream>>>(p.sink, 0.1f, -1.0f); });
    printf(",\n  \"unpack_int2_values_per_s\": %.4g", threads * RATE_STEPS * 16 / t.median);
}

/* ---- main --------------------------------------------------------------------------------------- */

/* The device's name, for JSON: only what needs no escape. */
static void print_clean(const char *key, const char *s)
{
    printf(",\n  \"%s\": \"", key);
    for (; *s; s++)
        if (*s >= ' ' && *s < 127 && *s != '"' && *s != '\\')
            putchar(*s);
    putchar('"');
}

static void print_provenance(size_t used_before_buffers)
{
    char date[32];
    const time_t now = time(NULL);
    struct tm tm;
    int driver = 0, runtime = 0, clock_khz = 0, memory_khz = 0, bus_bits = 0;

    gmtime_r(&now, &tm);
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
    TRY(cudaDriverGetVersion(&driver));
    TRY(cudaRuntimeGetVersion(&runtime));
    TRY(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, p.device));
    TRY(cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, p.device));
    TRY(cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, p.device));
    printf("{\n  \"schema\": \"kvproof-gpu-probe 1\"");
    print_clean("device", p.prop.name);
    print_clean("date", date);
    printf(",\n  \"compute_capability\": \"%d.%d\",\n  \"cuda_driver_version\": %d,\n  \"cuda_runtime_version\": %d", p.prop.major,
           p.prop.minor, driver, runtime);
    printf(",\n  \"multiprocessors\": %d,\n  \"clock_khz\": %d,\n  \"memory_clock_khz\": %d,\n  \"memory_bus_bits\": %d", p.prop.multiProcessorCount,
           clock_khz, memory_khz, bus_bits);
    printf(",\n  \"memory_bytes\": %zu,\n  \"l2_bytes\": %d,\n  \"ecc\": %s", p.prop.totalGlobalMem, p.prop.l2CacheSize,
           p.prop.ECCEnabled ? "true" : "false");
    printf(",\n  \"runs\": %d,\n  \"statistic\": \"median of runs on CUDA events, after a warm-up\"", RUNS);
    printf(",\n  \"context_bytes\": %zu", used_before_buffers);
}

static int no_device(cudaError_t s)
{
    int count = 0;

    if (s == cudaSuccess)
        s = cudaGetDeviceCount(&count);
    if (s == cudaSuccess && count > p.device)
        return 0;
    fprintf(stderr, "skipped: no CUDA device %d here (%s)\n", p.device, cudaGetErrorName(s));
    return 77;
}

static bool parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--quick") == 0)
            p.quick = true;
        else if (strcmp(argv[i], "--device") == 0 && i + 1 < argc)
            p.device = atoi(argv[++i]);
        else
            return false;
    return true;
}

int main(int argc, char **argv)
{
    size_t used;
    cublasHandle_t cublas;

    if (!parse(argc, argv)) {
        fprintf(stderr, "usage: gpu-probe [--device N] [--quick]\n");
        return 2;
    }
    if (no_device(cudaSuccess))
        return 77;
    TRY(cudaSetDevice(p.device));
    TRY(cudaFree(0)); /* makes the context */
    used = used_bytes();
    TRY(cudaGetDeviceProperties(&p.prop, p.device));
    print_provenance(used);
    probe_granule();
    TRY(cudaStreamCreateWithFlags(&p.stream, cudaStreamNonBlocking));
    TRY(cudaEventCreate(&p.begin));
    TRY(cudaEventCreate(&p.end));
    p.bytes = (size_t)(p.quick ? 256 : 2048) << 20;
    TRY(cudaMalloc(&p.a, p.bytes));
    TRY(cudaMalloc(&p.b, p.bytes));
    TRY(cudaMalloc(&p.sink, sizeof(float)));
    TRY(cudaMemsetAsync(p.a, 0x3c, p.bytes, p.stream));
    TRY(cudaMemsetAsync(p.b, 0x3c, p.bytes, p.stream));
    TRY(cudaStreamSynchronize(p.stream));
    cublas = probe_cublas();
    probe_floors();
    probe_bandwidth();
    probe_in_flight();
    probe_gemm(cublas);
    probe_rates();
    TRY(cudaStreamSynchronize(p.stream));
    printf("\n}\n");
    TRY_CUBLAS(cublasDestroy(cublas));
    TRY(cudaFree(p.a));
    TRY(cudaFree(p.b));
    TRY(cudaFree(p.sink));
    return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
