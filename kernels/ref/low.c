/* low.c - attention over latents: keys and values rebuilt one by one */
#include "kernels/ref/codes.h"

#include "kernels/ops/attn_low.h"

#include <math.h>

static uint64_t place(const struct kb_attn_low *a, uint64_t slot)
{
    return !a->ring || slot < a->first ? slot : a->first + (slot - a->first + a->ring - a->turned) % a->ring;
}

static void turn(const struct kb_attn_low *a, uint64_t position, double *x)
{
    const float *inv_freq = kb_at(a->inv_freq);
    const uint32_t half = a->head_dim / 2;

    for (uint32_t i = 0; inv_freq && i < half; i++) {
        const float angle = (float)position * inv_freq[i];
        const double c = cos((double)angle), s = sin((double)angle), u = x[i], v = x[i + half];

        x[i] = u * c - v * s;
        x[i + half] = v * c + u * s;
    }
}

/* Head g of the row that slot j of sequence b stands for. */
static void rebuild(const struct kb_attn_low *a, const struct kb_factor *f, const struct kb_kv *kv, uint64_t b, uint32_t g, uint64_t j,
                    double *out)
{
    for (uint32_t i = 0; i < a->head_dim; i++) {
        const uint64_t row = (uint64_t)g * a->head_dim + i;

        out[i] = f->bias.buf ? (double)kb_load(a->format, kb_at(f->bias), row) : 0;
        for (uint32_t r = 0; r < kv->dim; r++)
            out[i] += (double)kb_load(a->format, kb_at(f->w), row * kv->dim + r) * ref_kv_element(kv, b, 0, j, r);
    }
}

static void norm(const struct kb_attn_low *a, double *x)
{
    double squares = 0;

    if (!a->norm.buf)
        return;
    for (uint32_t i = 0; i < a->head_dim; i++)
        squares += x[i] * x[i];
    for (uint32_t i = 0; i < a->head_dim; i++)
        x[i] *= (double)kb_load(a->format, kb_at(a->norm), i) / sqrt(squares / a->head_dim + (double)a->eps);
}

static void scores(const struct kb_attn_low *a, uint64_t b, uint32_t h, double *s, double *q, double *row)
{
    for (uint32_t i = 0; i < a->head_dim; i++)
        q[i] = (double)((const float *)kb_at(a->q))[b * a->q_stride + (uint64_t)h * a->head_dim + i];
    turn(a, a->query, q);
    for (uint64_t j = 0; j < a->used; j++) {
        rebuild(a, &a->k_up, &a->k, b, h / (a->heads / a->kv_heads), j, row);
        norm(a, row);
        turn(a, place(a, j), row);
        s[j] = 0;
        for (uint32_t i = 0; i < a->head_dim; i++)
            s[j] += (double)a->scale * q[i] * row[i];
    }
}

static void values(const struct kb_attn_low *a, uint64_t b, uint32_t h, const double *s, double *sum, double *row)
{
    const uint32_t width = a->v_up.w.buf ? a->head_dim : a->v.dim;
    float *out = (float *)kb_at(a->out) + b * a->out_stride + (uint64_t)h * width;

    memset(sum, 0, width * sizeof(*sum));
    for (uint64_t j = 0; j < a->used; j++) {
        if (a->v_up.w.buf)
            rebuild(a, &a->v_up, &a->v, b, h / (a->heads / a->kv_heads), j, row);
        for (uint32_t i = 0; i < width; i++)
            sum[i] += s[j] * (a->v_up.w.buf ? row[i] : ref_kv_element(&a->v, b, 0, j, i));
    }
    for (uint32_t i = 0; i < width; i++)
        out[i] = (float)sum[i];
}

kvp_err ref_attn_low(const void *args, struct kvp_error *e)
{
    const struct kb_attn_low *a = args;
    double *s = ref_scratch(a->used + 2ull * a->head_dim + a->v.dim, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t h = 0; h < a->heads; h++) {
            double *row = s + a->used, *wide = row + a->head_dim;

            scores(a, b, h, s, wide, row);
            ref_softmax(s, a->used);
            values(a, b, h, s, wide, row);
        }
    free(s);
    return KVP_OK;
}
