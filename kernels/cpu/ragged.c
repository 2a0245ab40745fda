/* ragged.c - AdaKV: a budget shared out over heads (one radix selection over all of them, one for each), and rows that
 * lie one head after another */
#include "kernels/cpu/cpu.h"

#include "kernels/ops/attn_ragged.h"
#include "kernels/ops/ragged_write.h"
#include "kernels/ops/share_tokens.h"

#include <omp.h>
#include <stdlib.h>

/* ---- sharing out ------------------------------------------------------------------------------------- */

/* Order of floats as order of unsigned words; -0 as 0. */
static uint32_t order(float x)
{
    uint32_t u = kb_f32_bits(x + 0.0f);

    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The value of the `want`-th highest (from 1) of `rows` rows of n scores, byte by byte from the top; *equal: how many of
 * that value are among the `want` highest. */
static uint32_t threshold(const float *scores, uint64_t rows, uint64_t stride, uint64_t n, uint64_t want, uint64_t *equal)
{
    uint32_t prefix = 0, mask = 0;

    for (int shift = 24; shift >= 0; shift -= 8) {
        uint64_t count[256] = {0};
        uint32_t digit = 255;

        for (uint64_t r = 0; r < rows; r++)
            for (uint64_t t = 0; t < n; t++) {
                uint32_t o = order(scores[r * stride + t]);

                if ((o & mask) == prefix)
                    count[o >> shift & 255]++;
            }
        while (count[digit] < want)
            want -= count[digit--];
        prefix |= digit << shift;
        mask |= 255u << shift;
    }
    *equal = want;
    return prefix;
}

/* How many of each set are among the best of all, then what it keeps of them. */
static void share(const struct kb_share_tokens *a, const float *scores, uint64_t *keeps, uint64_t *left)
{
    uint64_t equal, sum = 0;
    uint32_t cut = threshold(scores, a->sets, a->tokens, a->columns, a->sets * a->base, &equal);

    for (uint32_t s = 0; s < a->sets; s++) {
        uint64_t count = 0;

        for (uint64_t t = 0; t < a->columns; t++) {
            uint32_t o = order(scores[s * a->tokens + t]);

            if (o > cut || (o == cut && equal)) {
                equal -= o == cut;
                count++;
            }
        }
        keeps[s] = a->floor + count * (a->base - a->floor) / a->base;
        left[s] = count * (a->base - a->floor) % a->base;
        sum += keeps[s];
    }
    for (; sum < a->sets * a->base; sum++) {
        uint32_t best = 0;

        for (uint32_t s = 1; s < a->sets; s++)
            best = left[s] > left[best] ? s : best;
        keeps[best]++;
        left[best] = 0;
    }
}

/* The n best of one set in text order, then the last tokens. */
static void list_one(const struct kb_share_tokens *a, const float *scores, uint64_t n, int32_t *index)
{
    uint64_t equal = 0, taken = 0;
    uint32_t cut = n ? threshold(scores, 1, 0, a->columns, n, &equal) : 0;

    for (uint64_t t = 0; taken < n; t++) {
        uint32_t o = order(scores[t]);

        if (o > cut || (o == cut && equal)) {
            equal -= o == cut;
            index[taken++] = (int32_t)t;
        }
    }
    for (uint64_t t = a->columns; t < a->tokens; t++)
        index[taken++] = (int32_t)t;
}

kvp_err cpu_share_tokens(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_share_tokens *a = args;
    uint64_t *keeps = malloc(3 * a->sets * sizeof(*keeps)), last = a->tokens - a->columns;

    if (!keeps)
        return kvp_fail(e, KVP_ENOMEM, "cpu: no memory to share out %llu tokens", (unsigned long long)a->columns);
    for (uint64_t b = 0; b < a->batch; b++) {
        const float *scores = (const float *)kb_at(a->scores) + b * a->sets * a->tokens;
        int32_t *index = (int32_t *)kb_at(a->index) + b * a->sets * (a->base + last);
        uint64_t *start = keeps + 2 * a->sets;

        share(a, scores, keeps, keeps + a->sets);
        for (uint32_t s = 0; s < a->sets; s++) {
            ((int32_t *)kb_at(a->lengths))[b * a->list_stride + s] = (int32_t)(keeps[s] + last);
            start[s] = s ? start[s - 1] + keeps[s - 1] + last : 0;
        }
#pragma omp parallel for num_threads(cpu_threads(dev, 8 * a->sets * a->columns))
        for (uint32_t s = 0; s < a->sets; s++)
            list_one(a, scores + s * a->tokens, keeps[s], index + start[s]);
    }
    free(keeps);
    return KVP_OK;
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

static void write_one(const struct kb_dev *dev, const struct kb_ragged_write *a, uint64_t b, uint32_t h)
{
    uint64_t n = kb_ragged_length(&a->dst, b, h), from = 0, row = a->dst.dim * kb_element(a->dst.format);
    const float *src = (const float *)kb_at(a->src) + (uint64_t)(h / (a->repeat ? a->repeat : 1)) * a->dst.dim;
    const int32_t *index = kb_at(a->index);
    unsigned char *rows = kb_ragged_rows(&a->dst, b, h);

    for (uint32_t i = 0; index && i < h; i++)
        from += kb_ragged_length(&a->dst, b, i);
    for (uint64_t j = index ? 0 : n - 1; j < n; j++) {
        uint64_t t = index ? (uint64_t)index[b * a->index_stride + from + j] : a->src_first;

        dev->ops->narrow[a->dst.format](rows + j * row, src + (b * a->src_tokens + t) * a->src_stride, a->dst.dim);
    }
}

kvp_err cpu_ragged_write(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_ragged_write *a = args;

    (void)e;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(cpu_threads(dev, a->index.buf ? a->batch * a->dst.rows * a->dst.dim : 0))
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t h = 0; h < a->dst.heads; h++)
            write_one(dev, a, b, h);
    return KVP_OK;
}

/* All query heads of stored head g: scores, softmax, weighted sum, in one area of [group, rows]. */
static void attend_one(const struct kb_dev *dev, const struct kb_attn_ragged *a, uint64_t b, uint32_t g, float *s)
{
    uint32_t group = a->heads / a->k.heads, d = a->k.dim;
    uint64_t n = kb_ragged_length(&a->k, b, g);
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)g * group * d;
    float *out = (float *)kb_at(a->out) + b * a->out_stride + (uint64_t)g * group * d;

    dev->ops->dots[a->k.format](q, d, group, kb_ragged_rows(&a->k, b, g), d, n, d, a->scale, s, n, NULL);
    for (uint32_t h = 0; h < group; h++)
        dev->ops->scale(s + h * n, n, 1 / dev->ops->exps(s + h * n, n, dev->ops->max(s + h * n, n)));
    memset(out, 0, (uint64_t)group * d * sizeof(float));
    dev->ops->mix[a->v.format](s, n, group, kb_ragged_rows(&a->v, b, g), d, n, d, out, d, NULL);
}

kvp_err cpu_attn_ragged(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_ragged *a = args;
    uint64_t stride;
    float *areas;

    KVP_TRY(cpu_scratch(dev, &areas, &stride, dev->threads, a->heads / a->k.heads * a->k.rows, e));
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(cpu_threads(dev, a->batch * a->k.rows * a->k.dim))
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t g = 0; g < a->k.heads; g++)
            attend_one(dev, a, b, g, areas + (uint64_t)omp_get_thread_num() * stride);
    return KVP_OK;
}
