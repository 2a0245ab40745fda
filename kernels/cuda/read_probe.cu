/* read_probe.cu - sum a buffer's words modulo 2^32: partial sums by block, then one block adds them
 *
 * Integer sums, so that every backend gives the same value whatever the order. */
#include "kernels/cuda/device.cuh"

enum { READ_THREADS = 256 };

static __device__ inline uint32_t words(uint4 x)
{
    return x.x + x.y + x.z + x.w;
}

static __global__ void read_sum(uint64_t n, const uint4 *src, uint32_t *partial)
{
    __shared__ uint32_t part[WARP];
    const uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t sum = 0;

    for (; i + 3 * step < n; i += 4 * step) { /* four loads of 16 bytes in flight */
        const uint4 a = src[i], b = src[i + step], c = src[i + 2 * step], d = src[i + 3 * step];

        sum += words(a) + words(b) + words(c) + words(d);
    }
    for (; i < n; i += step)
        sum += words(src[i]);
    sum = block_sum(sum, part);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sum;
}

static __global__ void read_total(uint32_t n, const uint32_t *partial, float *out)
{
    __shared__ uint32_t part[WARP];
    uint32_t sum = 0;

    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += partial[i];
    sum = block_sum(sum, part);
    if (threadIdx.x == 0)
        *out = (float)sum;
}

bool cuda_read_probe_ok(const void *args)
{
    const struct kb_read_probe *a = (const struct kb_read_probe *)args;

    return a->bytes > 0 && a->bytes % 64 == 0 && a->src.offset % 16 == 0;
}

kvp_err cuda_read_probe(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_read_probe *a = (const struct kb_read_probe *)args;
    const uint64_t n = a->bytes / sizeof(uint4), blocks = grid_for(dev, n, 4 * READ_THREADS);
    uint32_t *partial = (uint32_t *)dev->scratch;

    KVP_TRY(launch(dev, e, "read_probe", blocks, READ_THREADS, read_sum, n, at<const uint4>(a->src), partial));
    return launch(dev, e, "read_probe", 1, READ_THREADS, read_total, (uint32_t)blocks, partial, at<float>(a->out));
}
