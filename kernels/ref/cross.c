/* cross.c - attention of queries over keys that are not their own tokens' */
#include "kernels/ref/codes.h"

#include "kernels/ops/attn_cross.h"

/* Element c of key or value j, in kv head g. */
static double element(const struct kb_attn_cross *a, struct kb_span rows, const struct kb_kv *stored, uint64_t b, uint32_t g, uint64_t j,
                      uint32_t c)
{
    if (!rows.buf)
        return ref_kv_element(stored, b, g, j, c);
    return (double)((const float *)kb_at(rows))[(b * a->used + j) * a->kv_stride + (uint64_t)g * a->head_dim + c];
}

static double bias_of(const struct kb_attn_cross *a, uint32_t h, uint64_t i, uint64_t j)
{
    if (!a->bias.buf)
        return 0;
    return (double)((const float *)kb_at(a->bias))[h * (2 * a->span - 1) + a->span - 1 + j - (a->position + i)];
}

static void cross_one(const struct kb_attn_cross *a, uint64_t b, uint64_t i, uint32_t h, double *s)
{
    const uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim;
    const uint64_t seen = a->causal && a->position + i + 1 < a->used ? a->position + i + 1 : a->used;
    const float *q = (const float *)kb_at(a->q) + (b * a->queries + i) * a->q_stride + (uint64_t)h * d;
    float *out = (float *)kb_at(a->out) + (b * a->queries + i) * a->out_stride + (uint64_t)h * d;

    for (uint64_t j = 0; j < seen; j++) {
        s[j] = 0;
        for (uint32_t c = 0; c < d; c++)
            s[j] += (double)q[c] * element(a, a->k, &a->stored_k, b, g, j, c);
        s[j] = (double)a->scale * s[j] + bias_of(a, h, i, j);
    }
    ref_softmax(s, seen);
    for (uint32_t c = 0; c < d; c++) {
        double sum = 0;

        for (uint64_t j = 0; j < seen; j++)
            sum += s[j] * element(a, a->v, &a->stored_v, b, g, j, c);
        out[c] = (float)sum;
    }
}

kvp_err ref_attn_cross(const void *args, struct kvp_error *e)
{
    const struct kb_attn_cross *a = args;
    double *s = ref_scratch(a->used, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint64_t i = 0; i < a->queries; i++)
            for (uint32_t h = 0; h < a->heads; h++)
                cross_one(a, b, i, h, s);
    free(s);
    return KVP_OK;
}
