/* read_probe.cu - sum a buffer as f32, in a fixed order: partial sums by block, then one block adds them */
#include "kernels/cuda/device.cuh"

enum { READ_THREADS = 256 };

static __global__ void read_sum(uint64_t n, const float4 *src, float *partial)
{
    __shared__ float part[WARP];
    const uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0;

    for (; i + 3 * step < n; i += 4 * step) { /* four loads of 16 bytes in flight */
        const float4 a = src[i], b = src[i + step], c = src[i + 2 * step], d = src[i + 3 * step];

        sum += ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
        sum += ((c.x + c.y) + (c.z + c.w)) + ((d.x + d.y) + (d.z + d.w));
    }
    for (; i < n; i += step)
        sum += (src[i].x + src[i].y) + (src[i].z + src[i].w);
    sum = block_sum(sum, part);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sum;
}

static __global__ void read_total(uint32_t n, const float *partial, float *out)
{
    __shared__ float part[WARP];
    float sum = 0;

    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += partial[i];
    sum = block_sum(sum, part);
    if (threadIdx.x == 0)
        *out = sum;
}

bool cuda_read_probe_ok(const void *args)
{
    const struct kb_read_probe *a = (const struct kb_read_probe *)args;

    return a->bytes > 0 && a->bytes % 64 == 0 && a->src.offset % 16 == 0;
}

kvp_err cuda_read_probe(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_read_probe *a = (const struct kb_read_probe *)args;
    const uint64_t n = a->bytes / sizeof(float4), blocks = grid_for(dev, n, 4 * READ_THREADS);

    KVP_TRY(launch(dev, e, "read_probe", blocks, READ_THREADS, read_sum, n, at<const float4>(a->src), dev->scratch));
    return launch(dev, e, "read_probe", 1, READ_THREADS, read_total, (uint32_t)blocks, dev->scratch, at<float>(a->out));
}
