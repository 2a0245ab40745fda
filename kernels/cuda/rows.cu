/* rows.cu - what happens to rows of activations: embed, norm, rope, act. One block a row. */
#include "kernels/cuda/device.cuh"

enum { ROW_THREADS = 128 };

/* ---- embed -------------------------------------------------------------------------------------- */

/* A token outside the vocabulary cannot be reported from here: its row becomes NaN, and no memory
 * outside the table is read. */
template <typename T>
static __global__ void embed_rows(struct kb_embed a, const int32_t *tokens, const T *table, const int32_t *position_ids,
                                  const T *positions, float *out)
{
    const uint64_t n = blockIdx.x;
    const int32_t token = tokens[n];
    const bool known = token >= 0 && (uint32_t)token < a.vocab;

    for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x) {
        float x = known ? to_f32(table[(uint64_t)token * a.width + i]) : NAN;

        if (positions)
            x += to_f32(positions[(uint64_t)position_ids[n] * a.width + i]);
        out[n * a.width + i] = x;
    }
}

template <typename T>
static kvp_err embed_as(struct kb_dev *dev, const struct kb_embed *a, struct kvp_error *e)
{
    return launch(dev, e, "embed", a->rows, ROW_THREADS, embed_rows<T>, *a, at<const int32_t>(a->tokens),
                  at<const T>(a->table), at<const int32_t>(a->position_ids), at<const T>(a->position_table),
                  at<float>(a->out));
}

bool cuda_embed_ok(const void *args)
{
    return is_float(((const struct kb_embed *)args)->format) && !((const struct kb_embed *)args)->scale;
}

kvp_err cuda_embed(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    static kvp_err (*const as[])(struct kb_dev *, const struct kb_embed *, struct kvp_error *) = {
        embed_as<float>, embed_as<__half>, embed_as<__nv_bfloat16>};
    const struct kb_embed *a = (const struct kb_embed *)args;

    return as[a->format](dev, a, e);
}

/* ---- norm --------------------------------------------------------------------------------------- */

template <typename T>
static __global__ void norm_rows(struct kb_norm a, const T *weight, const T *bias, const float *in, float *out)
{
    __shared__ float part[WARP];
    const uint64_t row = blockIdx.x / a.groups, group = blockIdx.x % a.groups;
    const float *x = in + row * a.in_stride + group * a.width;
    float *y = out + row * a.out_stride + group * a.width;
    float mean = 0, square = 0;

    if (a.layer) {
        for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x)
            mean += x[i];
        mean = block_sum(mean, part) / (float)a.width;
    }
    for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x)
        square += (x[i] - mean) * (x[i] - mean);
    square = block_sum(square, part) / (float)a.width;

    const float scale = 1.0f / sqrtf(square + (float)a.eps);

    for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x)
        y[i] = (x[i] - mean) * scale * to_f32(weight[i]) + (bias ? to_f32(bias[i]) : 0.0f);
}

template <typename T>
static kvp_err norm_as(struct kb_dev *dev, const struct kb_norm *a, struct kvp_error *e)
{
    return launch(dev, e, "norm", a->rows * a->groups, ROW_THREADS, norm_rows<T>, *a, at<const T>(a->weight),
                  at<const T>(a->bias), at<const float>(a->in), at<float>(a->out));
}

bool cuda_norm_ok(const void *args)
{
    const struct kb_norm *a = (const struct kb_norm *)args;

    return is_float(a->format) && a->groups > 0 && !a->add_one && !a->accumulate && a->weight.buf;
}

kvp_err cuda_norm(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    static kvp_err (*const as[])(struct kb_dev *, const struct kb_norm *, struct kvp_error *) = {
        norm_as<float>, norm_as<__half>, norm_as<__nv_bfloat16>};
    const struct kb_norm *a = (const struct kb_norm *)args;

    return as[a->format](dev, a, e);
}

/* ---- rope --------------------------------------------------------------------------------------- */

/* The angle is a product in f32, as transformers forms it. */
static __global__ void rope_rows(struct kb_rope a, float *x, const int32_t *positions, const float *inv_freq)
{
    const uint64_t row = blockIdx.x;
    const uint32_t half = a.head_dim / 2;
    const float position = (float)positions[row];

    for (uint32_t i = threadIdx.x; i < a.heads * half; i += blockDim.x) {
        float *p = x + row * a.stride + (uint64_t)(i / half) * a.head_dim + i % half;
        const float angle = __fmul_rn(position, inv_freq[i % half]);
        const float c = cosf(angle), s = sinf(angle), lo = p[0], hi = p[half];

        p[0] = lo * c - hi * s;
        p[half] = hi * c + lo * s;
    }
}

bool cuda_rope_ok(const void *args)
{
    const struct kb_rope *a = (const struct kb_rope *)args;

    return a->head_dim > 0 && a->head_dim % 2 == 0 && !a->head_stride && !a->neighbours && (a->amplitude == 0 || a->amplitude == 1) && !a->warm_every;
}

kvp_err cuda_rope(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_rope *a = (const struct kb_rope *)args;

    return launch(dev, e, "rope", a->rows, ROW_THREADS, rope_rows, *a, at<float>(a->x), at<const int32_t>(a->positions),
                  at<const float>(a->inv_freq));
}

/* ---- act ---------------------------------------------------------------------------------------- */

static __device__ float activate(enum kb_act_kind kind, float x)
{
    switch (kind) {
    case KB_ACT_SILU:
        return x / (1.0f + expf(-x));
    case KB_ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case KB_ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    default:
        return fmaxf(x, 0.0f);
    }
}

/* Rows [first, first + gridDim.x). The barriers let a row lie over its own input, shifted to the front. */
static __global__ void act_rows(struct kb_act a, uint64_t first, const float *in, float *out)
{
    const uint64_t row = first + blockIdx.x;
    const float *x = in + row * a.in_stride;
    float *y = out + row * a.out_stride;

    for (uint32_t i0 = 0; i0 < a.width; i0 += blockDim.x) {
        const uint32_t i = i0 + threadIdx.x;
        float v = 0;

        if (i < a.width)
            v = activate(a.kind, x[i]) * (a.gated ? x[a.width + i] : 1.0f);
        __syncthreads();
        if (i < a.width)
            y[i] = v;
        __syncthreads();
    }
}

bool cuda_act_ok(const void *args)
{
    return (unsigned)((const struct kb_act *)args)->kind <= KB_ACT_RELU;
}

/* In place with rows that move forward, output row r may lie over an earlier input row, which must
 * have been read: a launch takes only rows whose outputs end before the first of its inputs. That is
 * one launch for equal strides and log2(rows) for a gated MLP in place. */
kvp_err cuda_act(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_act *a = (const struct kb_act *)args;
    const bool moves = a->in.buf == a->out.buf && a->out.offset <= a->in.offset && a->out_stride < a->in_stride;

    for (uint64_t first = 0, end; first < a->rows; first = end) {
        end = a->rows;
        if (moves) {
            const uint64_t in_first = a->in.offset / sizeof(float) + first * a->in_stride;
            const uint64_t out = a->out.offset / sizeof(float);
            const uint64_t safe = in_first >= out + a->width ? (in_first - out - a->width) / a->out_stride + 1 : 0;

            end = least(a->rows, safe > first ? safe : first + 1);
        }
        KVP_TRY(launch(dev, e, "act", end - first, ROW_THREADS, act_rows, *a, first, at<const float>(a->in),
                       at<float>(a->out)));
    }
    return KVP_OK;
}
