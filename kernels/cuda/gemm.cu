/* gemm.cu - out = (accumulate ? out : 0) + x * W^T + bias
 *
 * Few rows (decode): gemv, a warp for each output column, weights read once in their own format.
 * Many rows: cuBLAS in f32 without TF32, since results are held against f32 to 1e-3; f16 and bf16
 * weights are unpacked into args.work, as many rows of W at a time as fit. Without room for one row
 * of W, gemv does it all. */
#include "kernels/cuda/device.cuh"

enum { GEMV_WARPS = 4, GEMV_ROWS = 8, GEMM_THREADS = 256 };

/* M rows of x at a time; V elements of W per lane and load (1: any alignment). */
template <typename T, int M, int V>
static __global__ void gemv(struct kb_gemm a, const float *x, const T *w, const T *bias, float *out)
{
    const uint64_t column = (uint64_t)blockIdx.x * GEMV_WARPS + warp_id();

    if (column >= a.n)
        return;
    for (uint64_t m0 = 0; m0 < a.m; m0 += M) {
        float sum[M] = {};

        for (uint64_t k = (uint64_t)lane_id() * V; k < a.k; k += WARP * V) {
            float wv[V], xv[V];

            load_vector<V>(wv, w + column * a.k + k);
#pragma unroll
            for (int r = 0; r < M; r++) {
                if (m0 + r >= a.m)
                    break;
                load_vector<V>(xv, x + (m0 + r) * a.x_stride + k);
#pragma unroll
                for (int i = 0; i < V; i++)
                    sum[r] += wv[i] * xv[i];
            }
        }
#pragma unroll
        for (int r = 0; r < M; r++) {
            sum[r] = warp_sum(sum[r]);
            if (m0 + r < a.m && lane_id() == 0) {
                float *o = out + (m0 + r) * a.out_stride + column;

                *o = (a.accumulate ? *o : 0.0f) + (sum[r] + (bias ? to_f32(bias[column]) : 0.0f));
            }
        }
    }
}

template <typename T, int V>
static kvp_err gemv_as(struct kb_dev *dev, const struct kb_gemm *a, struct kvp_error *e)
{
    return launch(dev, e, "gemm (gemv)", div_up(a->n, GEMV_WARPS), GEMV_WARPS * WARP,
                  a->m == 1 ? gemv<T, 1, V> : gemv<T, GEMV_ROWS, V>, *a, at<const float>(a->x), at<const T>(a->w),
                  at<const T>(a->bias), at<float>(a->out));
}

/* Four elements a load where every row of W and of x allows it: 16 bytes of x, 8 or 16 of W. */
template <typename T>
static kvp_err run_gemv(struct kb_dev *dev, const struct kb_gemm *a, struct kvp_error *e)
{
    const int V = 4;
    const bool vector = a->k % V == 0 && a->x_stride % V == 0 && (uintptr_t)at<T>(a->w) % (V * sizeof(T)) == 0 &&
                        (uintptr_t)at<float>(a->x) % (V * sizeof(float)) == 0;

    return vector ? gemv_as<T, V>(dev, a, e) : gemv_as<T, 1>(dev, a, e);
}

template <typename T>
static __global__ void unpack(uint64_t n, const T *in, float *out)
{
    const uint64_t step = (uint64_t)gridDim.x * blockDim.x;

    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        out[i] = to_f32(in[i]);
}

template <typename T>
static __global__ void add_bias(struct kb_gemm a, const T *bias, float *out)
{
    const uint64_t n = a.m * a.n, step = (uint64_t)gridDim.x * blockDim.x;

    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        out[i / a.n * a.out_stride + i % a.n] += to_f32(bias[i % a.n]);
}

/* Columns [first, first + count) of out from f32 weights. cuBLAS counts by columns: out^T = W x^T. */
static kvp_err sgemm(struct kb_dev *dev, const struct kb_gemm *a, const float *w, uint64_t first, uint64_t count,
                     struct kvp_error *e)
{
    const float one = 1, beta = a->accumulate ? 1 : 0;

    CUBLAS_TRY(e, cublasSgemm_64(dev->cublas, CUBLAS_OP_T, CUBLAS_OP_N, (int64_t)count, (int64_t)a->m, (int64_t)a->k, &one,
                                 w, (int64_t)a->k, at<const float>(a->x), (int64_t)a->x_stride, &beta,
                                 at<float>(a->out) + first, (int64_t)a->out_stride));
    return KVP_OK;
}

template <typename T>
static kvp_err gemm_blocks(struct kb_dev *dev, const struct kb_gemm *a, uint64_t rows, struct kvp_error *e)
{
    for (uint64_t first = 0; first < a->n; first += rows) {
        const uint64_t count = least(rows, a->n - first), n = count * a->k;

        KVP_TRY(launch(dev, e, "gemm (unpack)", grid_for(dev, n, GEMM_THREADS), GEMM_THREADS, unpack<T>, n,
                       at<const T>(a->w) + first * a->k, at<float>(a->work)));
        KVP_TRY(sgemm(dev, a, at<const float>(a->work), first, count, e));
    }
    return KVP_OK;
}

template <>
kvp_err gemm_blocks<float>(struct kb_dev *dev, const struct kb_gemm *a, uint64_t, struct kvp_error *e)
{
    return sgemm(dev, a, at<const float>(a->w), 0, a->n, e);
}

template <typename T>
static kvp_err gemm_as(struct kb_dev *dev, const struct kb_gemm *a, struct kvp_error *e)
{
    const uint64_t rows = a->work.buf ? least(a->n, a->work_bytes / sizeof(float) / a->k) : 0;

    if (a->m == 0)
        return KVP_OK;
    if (a->m <= GEMV_ROWS || (rows == 0 && a->format != KVP_F32))
        return run_gemv<T>(dev, a, e);
    KVP_TRY(gemm_blocks<T>(dev, a, rows, e));
    if (!a->bias.buf)
        return KVP_OK;
    return launch(dev, e, "gemm (bias)", grid_for(dev, a->m * a->n, GEMM_THREADS), GEMM_THREADS, add_bias<T>, *a,
                  at<const T>(a->bias), at<float>(a->out));
}

bool cuda_gemm_ok(const void *args)
{
    const struct kb_gemm *a = (const struct kb_gemm *)args;

    return is_float(a->format) && a->n > 0 && a->k > 0;
}

kvp_err cuda_gemm(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    static kvp_err (*const as[])(struct kb_dev *, const struct kb_gemm *, struct kvp_error *) = {
        gemm_as<float>, gemm_as<__half>, gemm_as<__nv_bfloat16>};
    const struct kb_gemm *a = (const struct kb_gemm *)args;

    return as[a->format](dev, a, e);
}
