/* slots.c - attention over keys that are rotated as they are read */
#include "kernels/ref/codes.h"

#include "kernels/ops/attn_slots.h"

#include <math.h>

static uint64_t place(const struct kb_attn_slots *a, uint64_t slot)
{
    return !a->ring || slot < a->first ? slot : a->first + (slot - a->first + a->ring - a->turned) % a->ring;
}

/* x, element i and its partner, turned to `position`. */
static void turn(const struct kb_attn_slots *a, uint64_t position, const double *x, double *out)
{
    const float *inv_freq = kb_at(a->inv_freq);
    uint32_t half = a->attn.head_dim / 2;

    for (uint32_t i = 0; i < half; i++) {
        float angle = (float)position * inv_freq[i];
        double c = cos((double)angle), s = sin((double)angle);

        out[i] = x[i] * c - x[i + half] * s;
        out[i + half] = x[i + half] * c + x[i] * s;
    }
}

/* One query head; `work` has room for the scores, q, a row and a turned row. */
static void attend_one(const struct kb_attn_slots *x, uint64_t b, uint32_t h, double *work)
{
    const struct kb_attn_decode *a = &x->attn;
    uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim;
    double *s = work, *q = s + a->used, *row = q + d, *turned = row + d;
    float *out = (float *)kb_at(a->out) + b * a->out_stride + (uint64_t)h * d;

    for (uint32_t i = 0; i < d; i++)
        row[i] = (double)((const float *)kb_at(a->q))[b * a->q_stride + (uint64_t)h * d + i];
    turn(x, x->query, row, q);
    for (uint64_t j = 0; j < a->used; j++) {
        for (uint32_t i = 0; i < d; i++)
            row[i] = ref_kv_element(&a->k, b, g, j, i);
        turn(x, place(x, j), row, turned);
        s[j] = 0;
        for (uint32_t i = 0; i < d; i++)
            s[j] += (double)a->scale * q[i] * turned[i];
    }
    ref_softmax(s, a->used);
    for (uint32_t i = 0; i < d; i++) {
        double sum = 0;

        for (uint64_t j = 0; j < a->used; j++)
            sum += s[j] * ref_kv_element(&a->v, b, g, j, i);
        out[i] = (float)sum;
    }
}

kvp_err ref_attn_slots(const void *args, struct kvp_error *e)
{
    const struct kb_attn_slots *a = args;
    double *work = ref_scratch(a->attn.used + 3ull * a->attn.head_dim, e);

    if (!work)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->attn.batch; b++)
        for (uint32_t h = 0; h < a->attn.heads; h++)
            attend_one(a, b, h, work);
    free(work);
    return KVP_OK;
}
