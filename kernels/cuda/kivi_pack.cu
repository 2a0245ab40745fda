/* kivi_pack.cu - KIVI's codes: keys by channel over tokens, values by token over channels
 *
 * A thread packs one group. The arithmetic is f32 with every rounding spelled out, so that codes, scales
 * and mins equal the other backends' bit for bit: nothing here may be contracted into an fma. */
#include "kernels/cuda/kivi.cuh"

enum { PACK_THREADS = 128 };

/* A source element rounded to the stored format T: f32 rows, or rows of T already. */
template <typename T>
static __device__ inline float stored(const void *src, bool is_f32, uint64_t i)
{
    return is_f32 ? round_to<T>(((const float *)src)[i]) : to_f32(((const T *)src)[i]);
}

struct kivi_range {
    float scale, min;
};

/* Over `group` elements of src, `step` apart from `i` on. */
template <typename T>
static __device__ struct kivi_range range_of(const void *src, bool is_f32, uint64_t i, uint64_t step, uint32_t group,
                                             uint32_t top)
{
    float lo = stored<T>(src, is_f32, i), hi = lo;

    for (uint32_t j = 1; j < group; j++) {
        const float x = stored<T>(src, is_f32, i + j * step);

        lo = fminf(lo, x);
        hi = fmaxf(hi, x);
    }
    return {round_to<T>(__fdiv_rn(__fsub_rn(hi, lo), (float)top)), round_to<T>(lo)};
}

static __device__ inline uint32_t code_of(float x, struct kivi_range r, uint32_t top)
{
    const float q = r.scale == 0 ? 0.0f : rintf(__fdiv_rn(__fsub_rn(x, r.min), r.scale));

    return (uint32_t)fminf(fmaxf(q, 0.0f), (float)top);
}

/* Codes of one group into consecutive words. */
template <typename T>
static __device__ inline void pack_group(uint32_t *words, const void *src, bool is_f32, uint64_t i, uint64_t step,
                                         uint32_t group, uint32_t bits, struct kivi_range r)
{
    const uint32_t per_word = 32 / bits;

    for (uint32_t w = 0; w < group / per_word; w++) {
        uint32_t word = 0;

        for (uint32_t j = 0; j < per_word; j++)
            word |= code_of(stored<T>(src, is_f32, i + (w * per_word + j) * step), r, (1u << bits) - 1) << (bits * j);
        words[w] = word;
    }
}

/* Thread: (sequence, group of tokens, kv head, channel), channels fastest, as they lie in src. */
template <typename T>
static __global__ void pack_keys(struct kb_kivi_pack_k a, struct kivi_view<T> dst, const void *src)
{
    const uint64_t groups = a.tokens / a.group, n = a.batch * groups * a.kv_heads * a.head_dim;
    const uint64_t step = (uint64_t)gridDim.x * blockDim.x;

    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        const uint64_t c = i % a.head_dim, h = i / a.head_dim % a.kv_heads;
        const uint64_t group = i / a.head_dim / a.kv_heads % groups, b = i / a.head_dim / a.kv_heads / groups;
        const uint64_t from = b * a.src_batch + group * a.group * a.src_token + h * a.src_head + c;
        const struct kivi_place p = kivi_find(dst, b, a.dst_token + group * a.group);
        const uint64_t channel = (p.first * a.kv_heads + h) * a.head_dim + c;
        const struct kivi_range r = range_of<T>(src, a.src_is_f32, from, a.src_token, a.group, (1u << a.bits) - 1);
        const uint64_t at_group = channel * (p.tokens / a.group) + p.token / a.group;

        store_f32(dst.scale + at_group, r.scale);
        store_f32(dst.min + at_group, r.min);
        pack_group<T>(dst.codes + (channel * p.tokens + p.token) * a.bits / 32, src, a.src_is_f32, from, a.src_token, a.group,
                      a.bits, r);
    }
}

/* Thread: (sequence, token, kv head, group of channels). */
template <typename T>
static __global__ void pack_values(struct kb_kivi_pack_v a, struct kivi_view<T> dst, const void *src)
{
    const uint64_t groups = a.head_dim / a.group, n = a.batch * a.tokens * a.kv_heads * groups;
    const uint64_t step = (uint64_t)gridDim.x * blockDim.x;

    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        const uint64_t group = i % groups, h = i / groups % a.kv_heads;
        const uint64_t t = i / groups / a.kv_heads % a.tokens, b = i / groups / a.kv_heads / a.tokens;
        const uint64_t from = b * a.src_batch + t * a.src_token + h * a.src_head + group * a.group;
        const struct kivi_place p = kivi_find(dst, b, a.dst_token + t);
        const uint64_t row = (p.first * a.kv_heads + h) * p.tokens + p.token;
        const struct kivi_range r = range_of<T>(src, a.src_is_f32, from, 1, a.group, (1u << a.bits) - 1);

        store_f32(dst.scale + row * groups + group, r.scale);
        store_f32(dst.min + row * groups + group, r.min);
        pack_group<T>(dst.codes + (row * a.head_dim + group * a.group) * a.bits / 32, src, a.src_is_f32, from, 1, a.group,
                      a.bits, r);
    }
}

template <typename T>
static kvp_err pack_k_as(struct kb_dev *dev, const struct kb_kivi_pack_k *a, struct kvp_error *e)
{
    const uint64_t n = a->batch * (a->tokens / a->group) * a->kv_heads * a->head_dim;

    return launch(dev, e, "kivi_pack_k", grid_for(dev, n, PACK_THREADS), PACK_THREADS, pack_keys<T>, *a,
                  kivi_view_of<T>(&a->dst), at<const void>(a->src));
}

template <typename T>
static kvp_err pack_v_as(struct kb_dev *dev, const struct kb_kivi_pack_v *a, struct kvp_error *e)
{
    const uint64_t n = a->batch * a->tokens * a->kv_heads * (a->head_dim / a->group);

    return launch(dev, e, "kivi_pack_v", grid_for(dev, n, PACK_THREADS), PACK_THREADS, pack_values<T>, *a,
                  kivi_view_of<T>(&a->dst), at<const void>(a->src));
}

static bool group_ok(uint32_t bits, uint32_t group, enum kvp_format f)
{
    return (bits == 2 || bits == 4) && group > 0 && group % (32 / bits) == 0 && is_float(f);
}

bool cuda_kivi_pack_k_ok(const void *args)
{
    const struct kb_kivi_pack_k *a = (const struct kb_kivi_pack_k *)args;

    return group_ok(a->bits, a->group, a->format) && a->tokens % a->group == 0 && a->dst_token % a->group == 0 &&
           a->dst.ring % a->group == 0 && a->dst.block % a->group == 0;
}

kvp_err cuda_kivi_pack_k(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    static kvp_err (*const as[])(struct kb_dev *, const struct kb_kivi_pack_k *, struct kvp_error *) = {
        pack_k_as<float>, pack_k_as<__half>, pack_k_as<__nv_bfloat16>};
    const struct kb_kivi_pack_k *a = (const struct kb_kivi_pack_k *)args;

    return as[a->format](dev, a, e);
}

bool cuda_kivi_pack_v_ok(const void *args)
{
    const struct kb_kivi_pack_v *a = (const struct kb_kivi_pack_v *)args;

    return group_ok(a->bits, a->group, a->format) && a->head_dim % a->group == 0;
}

kvp_err cuda_kivi_pack_v(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    static kvp_err (*const as[])(struct kb_dev *, const struct kb_kivi_pack_v *, struct kvp_error *) = {
        pack_v_as<float>, pack_v_as<__half>, pack_v_as<__nv_bfloat16>};
    const struct kb_kivi_pack_v *a = (const struct kb_kivi_pack_v *)args;

    return as[a->format](dev, a, e);
}
