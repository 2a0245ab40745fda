/* ragged.c - AdaKV: a budget shared out over heads, and rows that lie one head after another */
#include "kernels/ref/ref.h"

#include "kernels/ops/attn_ragged.h"
#include "kernels/ops/ragged_write.h"
#include "kernels/ops/share_tokens.h"

struct entry {
    float score;
    uint32_t set;
    int32_t token;
};

static int by_score(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;

    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    if (a->set != b->set)
        return a->set < b->set ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

static int by_value(const void *x, const void *y)
{
    const int32_t a = *(const int32_t *)x, b = *(const int32_t *)y;

    return (a > b) - (a < b);
}

/* What each set keeps below `columns`, from how many of it are among the best of all. */
static void share(const struct kb_share_tokens *a, const uint64_t *count, uint64_t *keeps)
{
    uint64_t sum = 0, best;

    for (uint32_t s = 0; s < a->sets; s++)
        sum += keeps[s] = a->floor + count[s] * (a->base - a->floor) / a->base;
    for (; sum < a->sets * a->base; sum++) {
        best = a->sets;
        for (uint32_t s = 0; s < a->sets; s++) { /* who has got one is not asked again */
            const uint64_t part = count[s] * (a->base - a->floor);

            if (keeps[s] == a->floor + part / a->base && (best == a->sets || part % a->base > count[best] * (a->base - a->floor) % a->base))
                best = s;
        }
        keeps[best]++;
    }
}

static void share_one(const struct kb_share_tokens *a, uint64_t b, struct entry *sort, uint64_t *count, uint64_t *keeps)
{
    const float *scores = (const float *)kb_at(a->scores) + b * a->sets * a->tokens;
    int32_t *index = (int32_t *)kb_at(a->index) + b * a->sets * (a->base + a->tokens - a->columns);
    const uint64_t all = a->sets * a->columns;

    for (uint64_t i = 0; i < all; i++)
        sort[i] = (struct entry){scores[i / a->columns * a->tokens + i % a->columns], (uint32_t)(i / a->columns), (int32_t)(i % a->columns)};
    qsort(sort, all, sizeof(*sort), by_score);
    memset(count, 0, a->sets * sizeof(*count));
    for (uint64_t i = 0; i < a->sets * a->base; i++)
        count[sort[i].set]++;
    share(a, count, keeps);
    for (uint32_t s = 0; s < a->sets; s++) {
        uint64_t n = 0;

        ((int32_t *)kb_at(a->lengths))[b * a->list_stride + s] = (int32_t)(keeps[s] + a->tokens - a->columns);
        for (uint64_t i = 0; n < keeps[s]; i++)
            if (sort[i].set == s)
                index[n++] = sort[i].token;
        qsort(index, n, sizeof(*index), by_value);
        for (uint64_t t = a->columns; t < a->tokens; t++)
            index[n++] = (int32_t)t;
        index += n;
    }
}

kvp_err ref_share_tokens(const void *args, struct kvp_error *e)
{
    const struct kb_share_tokens *a = args;
    struct entry *sort = malloc(a->sets * a->columns * sizeof(*sort));
    uint64_t *count = malloc(2 * a->sets * sizeof(*count));

    for (uint64_t b = 0; sort && count && b < a->batch; b++)
        share_one(a, b, sort, count, count + a->sets);
    free(sort);
    free(count);
    return sort && count ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "ref: no memory to share out %llu tokens", (unsigned long long)a->columns);
}

kvp_err ref_ragged_write(const void *args, struct kvp_error *e)
{
    const struct kb_ragged_write *a = args;
    const int32_t *index = kb_at(a->index);

    (void)e;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t h = 0, from = 0; h < a->dst.heads; from += (uint32_t)kb_ragged_length(&a->dst, b, h++)) {
            uint64_t n = kb_ragged_length(&a->dst, b, h);

            for (uint64_t j = index ? 0 : n - 1; j < n; j++) {
                uint64_t t = index ? (uint64_t)index[b * a->index_stride + from + j] : a->src_first;
                const float *row = (const float *)kb_at(a->src) + (b * a->src_tokens + t) * a->src_stride +
                                   (uint64_t)(h / (a->repeat ? a->repeat : 1)) * a->dst.dim;

                for (uint32_t i = 0; i < a->dst.dim; i++)
                    kb_store(a->dst.format, kb_ragged_rows(&a->dst, b, h), j * a->dst.dim + i, row[i]);
            }
        }
    return KVP_OK;
}

kvp_err ref_attn_ragged(const void *args, struct kvp_error *e)
{
    const struct kb_attn_ragged *a = args;
    uint32_t d = a->k.dim;
    double *s = ref_scratch(a->k.rows + 1, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t r = 0; r < a->batch * a->heads; r++) {
        uint64_t b = r / a->heads, h = r % a->heads;
        uint32_t g = (uint32_t)h / (a->heads / a->k.heads);
        uint64_t n = kb_ragged_length(&a->k, b, g);
        const float *q = (const float *)kb_at(a->q) + b * a->q_stride + h * d;

        for (uint64_t j = 0; j < n; j++)
            s[j] = (double)a->scale * ref_dot(q, a->k.format, kb_ragged_rows(&a->k, b, g), j * d, d);
        ref_softmax(s, n);
        for (uint32_t i = 0; i < d; i++) {
            double sum = 0;

            for (uint64_t j = 0; j < n; j++)
                sum += s[j] * (double)kb_load(a->v.format, kb_ragged_rows(&a->v, b, g), j * d + i);
            ((float *)kb_at(a->out))[b * a->out_stride + h * d + i] = (float)sum;
        }
    }
    free(s);
    return KVP_OK;
}
