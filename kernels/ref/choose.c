/* choose.c - which tokens stay: by the last queries of a prompt (SnapKV and its kin), and step by step (TOVA) */
#include "kernels/ref/codes.h"

#include "kernels/ops/top_tokens.h"
#include "kernels/ops/tova_step.h"
#include "kernels/ops/window_scores.h"

#include <math.h>

/* What key j received from the last queries of the heads of a set. */
static double received(const struct kb_window_scores *a, uint64_t b, uint32_t set, uint64_t j)
{
    uint32_t d = a->head_dim, group = a->heads / a->sets;
    uint64_t row = b * a->tokens, first = a->tokens - a->window;
    const float *q = kb_at(a->q), *lse = (const float *)kb_at(a->lse);
    double sum = 0;

    for (uint32_t h = set * group; h < (set + 1) * group; h++)
        for (uint64_t i = first > j ? first : j, g = h / (a->heads / a->kv_heads); i < a->tokens; i++)
            sum += exp((double)a->scale * ref_dot(q + (row + i) * a->stride + (uint64_t)h * d, KVP_F32, kb_at(a->k),
                                                  (row + j) * a->stride + g * d, d) -
                       (double)lse[(b * a->heads + h) * a->tokens + i]);
    return sum;
}

static double pooled(const struct kb_window_scores *a, const double *sums, uint64_t j)
{
    double sum = 0, max = 0; /* no sum is negative */

    for (uint64_t t = 0; t < a->kernel; t++) {
        uint64_t l = j + t - a->kernel / 2;

        if (j + t < a->kernel / 2 || l >= a->columns)
            continue;
        sum += sums[l];
        max = sums[l] > max ? sums[l] : max;
    }
    return a->average ? sum / a->kernel : max;
}

kvp_err ref_window_scores(const void *args, struct kvp_error *e)
{
    const struct kb_window_scores *a = args;
    double *sums = ref_scratch(a->columns + 1, e);

    if (!sums)
        return KVP_ENOMEM;
    for (uint64_t r = 0; r < a->batch * a->sets; r++) {
        for (uint64_t j = 0; j < a->columns; j++)
            sums[j] = received(a, r / a->sets, (uint32_t)(r % a->sets), j);
        for (uint64_t j = 0; j < a->columns; j++)
            ((float *)kb_at(a->scores))[r * a->tokens + j] = (float)pooled(a, sums, j);
    }
    free(sums);
    return KVP_OK;
}

struct entry {
    float score;
    int32_t token;
};

static int by_score(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;

    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

static int by_token(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;

    return a->token < b->token ? -1 : a->token > b->token;
}

static void top_one(const struct kb_top_tokens *a, const float *scores, int32_t *index, struct entry *sort)
{
    for (uint64_t j = 0; j < a->columns; j++)
        sort[j] = (struct entry){scores[j], (int32_t)j};
    qsort(sort, a->columns, sizeof(*sort), by_score);
    qsort(sort, a->best, sizeof(*sort), by_token);
    for (uint64_t j = 0; j < a->best; j++)
        index[j] = sort[j].token;
    for (uint64_t t = a->columns; t < a->tokens; t++)
        index[a->best + t - a->columns] = (int32_t)t;
}

kvp_err ref_top_tokens(const void *args, struct kvp_error *e)
{
    const struct kb_top_tokens *a = args;
    uint64_t kept = a->best + a->tokens - a->columns;
    struct entry *sort = malloc((a->columns + 1) * sizeof(*sort));

    if (!sort)
        return kvp_fail(e, KVP_ENOMEM, "ref: no memory to sort %llu scores", (unsigned long long)a->columns);
    for (uint64_t r = 0; r < a->batch * a->sets; r++)
        top_one(a, (const float *)kb_at(a->scores) + r * a->tokens, (int32_t *)kb_at(a->index) + r * kept, sort);
    free(sort);
    return KVP_OK;
}

/* The slot that is lost; `used` for the new token. */
static uint64_t least(const struct kb_tova_step *a, uint64_t b)
{
    const float *probs = (const float *)kb_at(a->probs) + b * a->heads * (a->used + 1);
    uint64_t low = 0;
    float lowest = 0;

    for (uint64_t s = 0; s <= a->used; s++) {
        float weight = 0;

        for (uint32_t h = 0; h < a->heads; h++)
            weight += probs[h * (a->used + 1) + s];
        if (s == 0 || weight < lowest) {
            lowest = weight;
            low = s;
        }
    }
    return low;
}

kvp_err ref_tova_step(const void *args, struct kvp_error *e)
{
    const struct kb_tova_step *a = args;

    (void)e;
    for (uint64_t b = 0; b < a->batch; b++) {
        bool full = a->used == a->budget;
        uint64_t slot = full ? least(a, b) : a->used;

        for (uint32_t g = 0; (!full || slot < a->used) && g < a->kv_heads; g++) {
            uint64_t row = b * a->new_stride + (uint64_t)g * a->head_dim;

            ref_kv_store(&a->k, b, g, slot, (const float *)kb_at(a->new_k) + row);
            ref_kv_store(&a->v, b, g, slot, (const float *)kb_at(a->new_v) + row);
        }
        if (a->victim.buf)
            ((int32_t *)kb_at(a->victim))[b] = full ? (int32_t)slot : -1;
    }
    return KVP_OK;
}
