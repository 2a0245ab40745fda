/* latent.c - attention in latent space, and the products that lead there and back */
#include "kernels/ref/codes.h"

#include "kernels/ops/attn_latent.h"
#include "kernels/ops/head_gemm.h"

static double row_dot(const float *q, const struct kb_kv *kv, uint64_t b, uint64_t t)
{
    double sum = 0;

    for (uint32_t i = 0; i < kv->dim; i++)
        sum += (double)q[i] * ref_kv_element(kv, b, 0, t, i);
    return sum;
}

static void latent_one(const struct kb_attn_latent *a, uint64_t b, uint32_t h, double *s)
{
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)h * a->rank;
    const float *q_rope = (const float *)kb_at(a->q_rope) + b * a->q_rope_stride + h * a->q_rope_head;
    float *out = (float *)kb_at(a->out) + b * a->out_stride + (uint64_t)h * a->rank;

    for (uint64_t t = 0; t < a->used; t++)
        s[t] = (double)a->scale * (row_dot(q, &a->latent, b, t) + row_dot(q_rope, &a->rope, b, t));
    ref_softmax(s, a->used);
    for (uint32_t c = 0; c < a->rank; c++) {
        double sum = 0;

        for (uint64_t t = 0; t < a->used; t++)
            sum += s[t] * ref_kv_element(&a->latent, b, 0, t, c);
        out[c] = (float)sum;
    }
}

kvp_err ref_attn_latent(const void *args, struct kvp_error *e)
{
    const struct kb_attn_latent *a = args;
    double *s = ref_scratch(a->used, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t h = 0; h < a->heads; h++)
            latent_one(a, b, h, s);
    free(s);
    return KVP_OK;
}

kvp_err ref_head_gemm(const void *args, struct kvp_error *e)
{
    const struct kb_head_gemm *a = args;
    const uint32_t in = a->transposed ? a->rows : a->cols, outs = a->transposed ? a->cols : a->rows;

    (void)e;
    for (uint64_t r = 0; r < a->m; r++)
        for (uint32_t h = 0; h < a->heads; h++) {
            const float *x = (const float *)kb_at(a->x) + r * a->x_stride + h * a->x_head;
            float *out = (float *)kb_at(a->out) + r * a->out_stride + h * a->out_head;

            for (uint32_t i = 0; i < outs; i++) {
                double sum = a->bias.buf ? (double)kb_load(a->format, kb_at(a->bias), h * a->bias_head + i) : 0;

                for (uint32_t j = 0; j < in; j++)
                    sum += (double)x[j] * (double)kb_load(a->format, kb_at(a->w), h * a->w_head + (a->transposed ? (uint64_t)j * a->cols + i : (uint64_t)i * a->cols + j));
                out[i] = (float)sum;
            }
        }
    return KVP_OK;
}
