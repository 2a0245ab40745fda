/* extend.c - attention of new tokens over a cache and themselves */
#include "kernels/ref/codes.h"

#include "kernels/ops/attn_extend.h"

#include <math.h>

/* New tokens of a sequence: rows [row, row + tokens), text positions from `before` on. */
struct piece {
    uint64_t b, row, tokens, before;
};

static struct piece piece_of(const struct kb_attn_extend *a, uint64_t b)
{
    const int32_t *first = kb_at(a->first), *before = kb_at(a->before);

    if (!first)
        return (struct piece){b, b * a->tokens, a->tokens, a->position};
    return (struct piece){b, (uint64_t)first[b], (uint64_t)(first[b + 1] - first[b]), (uint64_t)before[b]};
}

/* Element c of k or v of token j, in head g. */
static double element(const struct kb_attn_extend *a, const struct piece *p, const struct kb_kv *stored, struct kb_span fresh,
                      uint32_t g, uint64_t j, uint32_t c)
{
    if (j < p->before || !fresh.buf)
        return ref_kv_element(stored, p->b, g, a->ring ? j % a->ring : j, c);
    return (double)((const float *)kb_at(fresh))[(p->row + j - p->before) * a->stride + (uint64_t)g * a->head_dim + c];
}

static void extend_one(const struct kb_attn_extend *a, const struct piece *p, uint64_t t, uint32_t h, double *s)
{
    const uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim;
    const uint64_t i = p->before + t, lo = a->window && i >= a->window ? i - a->window + 1 : 0;
    const float *q = (const float *)kb_at(a->q) + (p->row + t) * a->stride + (uint64_t)h * d;
    float *out = (float *)kb_at(a->out) + (p->row + t) * a->out_stride + (uint64_t)h * d;

    for (uint64_t j = lo; j <= i; j++) {
        s[j - lo] = 0;
        for (uint32_t c = 0; c < d; c++)
            s[j - lo] += (double)q[c] * element(a, p, &a->stored_k, a->k, g, j, c);
        s[j - lo] *= (double)a->scale;
        if (a->softcap != 0)
            s[j - lo] = (double)a->softcap * tanh(s[j - lo] / (double)a->softcap);
        if (a->slopes.buf)
            s[j - lo] += (double)((const float *)kb_at(a->slopes))[h] * ((double)j - (double)i);
    }
    if (a->sinks.buf)
        s[i - lo + 1] = (double)kb_load(a->sink_format, kb_at(a->sinks), h);
    ref_softmax(s, i - lo + 1 + (a->sinks.buf != NULL));
    for (uint32_t c = 0; c < d; c++) {
        double sum = 0;

        for (uint64_t j = lo; j <= i; j++)
            sum += s[j - lo] * element(a, p, &a->stored_v, a->v, g, j, c);
        out[c] = (float)sum;
    }
}

kvp_err ref_attn_extend(const void *args, struct kvp_error *e)
{
    const struct kb_attn_extend *a = args;

    for (uint64_t b = 0; b < a->batch; b++) {
        const struct piece p = piece_of(a, b);
        double *s = ref_scratch(p.before + p.tokens + 2, e);

        if (!s)
            return KVP_ENOMEM;
        for (uint64_t t = 0; t < p.tokens; t++)
            for (uint32_t h = 0; h < a->heads; h++)
                extend_one(a, &p, t, h, s);
        free(s);
    }
    return KVP_OK;
}
