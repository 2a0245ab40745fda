/* cache_write.cu - f32 rows into cache slots: a warp for each (sequence, kv head, row) */
#include "kernels/cuda/device.cuh"

enum { WRITE_WARPS = 8 };

template <typename T>
static __global__ void write_rows(struct kb_cache_write a, struct kv_view<T> dst, const float *src, const int32_t *index)
{
    const uint64_t rows = a.batch * dst.heads * a.count, warps = (uint64_t)gridDim.x * WRITE_WARPS;

    for (uint64_t i = (uint64_t)blockIdx.x * WRITE_WARPS + warp_id(); i < rows; i += warps) {
        const uint64_t j = i % a.count, b = i / a.count / dst.heads;
        const uint32_t h = (uint32_t)(i / a.count % dst.heads);
        const uint64_t token = index ? (uint64_t)index[(b * dst.heads + h) * a.index_stride + j] : a.src_first + j;
        const float *from = src + (b * a.src_tokens + token) * a.src_stride + (uint64_t)h * dst.dim;
        T *to = dst.row(b, h, a.slot + j);

        for (uint32_t x = lane_id(); x < dst.dim; x += WARP)
            store_f32(to + x, from[x]);
    }
}

template <typename T>
static kvp_err write_as(struct kb_dev *dev, const struct kb_cache_write *a, struct kvp_error *e)
{
    const uint64_t rows = a->batch * a->dst.heads * a->count;

    return launch(dev, e, "cache_write", grid_for(dev, rows, WRITE_WARPS), WRITE_WARPS * WARP, write_rows<T>, *a,
                  view<T>(&a->dst), at<const float>(a->src), at<const int32_t>(a->index));
}

bool cuda_cache_write_ok(const void *args)
{
    const struct kb_cache_write *a = (const struct kb_cache_write *)args;

    return is_float(a->dst.format) && !a->dst.shared && !a->width && !a->src_head && !a->shared && a->repeat <= 1 && !a->one_index;
}

kvp_err cuda_cache_write(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    static kvp_err (*const as[])(struct kb_dev *, const struct kb_cache_write *, struct kvp_error *) = {
        write_as<float>, write_as<__half>, write_as<__nv_bfloat16>};
    const struct kb_cache_write *a = (const struct kb_cache_write *)args;

    return as[a->dst.format](dev, a, e);
}
