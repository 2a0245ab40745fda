/* h2o.c - which tokens H2O keeps: after the prompt, and at every step */
#include "kernels/ref/codes.h"

#include "kernels/ops/h2o_promote.h"
#include "kernels/ops/h2o_select.h"
#include "kernels/ops/h2o_step.h"

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

/* index[slot] for one head; `sort` has room for all tokens. */
static void select_one(const struct kb_h2o_select *a, const float *scores, int32_t *index, struct entry *sort)
{
    uint64_t old = a->tokens - a->recent;

    for (uint64_t t = 0; t < old; t++)
        sort[t] = (struct entry){scores[t], (int32_t)t};
    qsort(sort, old, sizeof(*sort), by_score);
    qsort(sort, a->heavy, sizeof(*sort), by_token);
    for (uint64_t j = 0; j < a->heavy; j++)
        index[j] = sort[j].token;
    for (uint64_t p = old; p < a->tokens; p++)
        index[a->heavy + (p - a->heavy) % a->recent] = (int32_t)p;
}

kvp_err ref_h2o_select(const void *args, struct kvp_error *e)
{
    const struct kb_h2o_select *a = args;
    bool all = a->tokens <= a->heavy || a->tokens - a->heavy <= a->recent;
    uint64_t kept = all ? a->tokens : a->heavy + a->recent;
    struct entry *sort = malloc(a->tokens * sizeof(*sort));

    if (!sort)
        return kvp_fail(e, KVP_ENOMEM, "ref: no memory to sort %llu scores", (unsigned long long)a->tokens);
    for (uint64_t r = 0; r < a->batch * a->kv_heads; r++) {
        const float *scores = (const float *)kb_at(a->scores) + r * a->tokens;
        int32_t *index = (int32_t *)kb_at(a->index) + r * kept;

        for (uint64_t j = 0; all && j < kept; j++)
            index[j] = (int32_t)j;
        if (!all)
            select_one(a, scores, index, sort);
        for (uint64_t j = 0; j < kept; j++)
            kb_store(a->score_format, kb_at(a->kept_scores), r * a->kept_stride + j, scores[index[j]]);
    }
    free(sort);
    return KVP_OK;
}

/* Sum over the query heads of g of their probability of slot s, in f32 and in head order. */
static float added(const struct kb_h2o_step *a, uint64_t b, uint32_t g, uint64_t s)
{
    uint32_t group = a->heads / a->kv_heads;
    const float *probs = kb_at(a->probs);
    float sum = 0;

    for (uint32_t h = g * group; h < (g + 1) * group; h++)
        sum += probs[(b * a->heads + h) * (a->used + 1) + s];
    return sum;
}

/* The slot whose token is lost. */
static uint64_t lowest(const struct kb_h2o_step *a, uint64_t scores, uint64_t o)
{
    const void *p = kb_at(a->scores);
    uint64_t low = 0;

    for (uint64_t s = 1; s < a->heavy; s++)
        if (kb_load(a->score_format, p, scores + s) < kb_load(a->score_format, p, scores + low))
            low = s;
    return kb_load(a->score_format, p, scores + o) < kb_load(a->score_format, p, scores + low) ? o : low;
}

static void step_one(const struct kb_h2o_step *a, uint64_t b, uint32_t g)
{
    uint64_t scores = (b * a->kv_heads + g) * a->score_stride, slot = a->used;
    uint64_t new_row = b * a->new_stride + (uint64_t)g * a->head_dim;
    void *p = kb_at(a->scores);
    int32_t victim = -1;

    for (uint64_t s = 0; s < a->used; s++)
        kb_store(a->score_format, p, scores + s, kb_load(a->score_format, p, scores + s) + added(a, b, g, s));
    if (a->used == a->heavy + a->recent) {
        uint64_t low;

        slot = a->heavy + (a->position - a->heavy) % a->recent;
        low = lowest(a, scores, slot);
        victim = (int32_t)low;
        if (low != slot) {
            ref_kv_move(&a->k, b, g, low, slot);
            ref_kv_move(&a->v, b, g, low, slot);
            kb_store(a->score_format, p, scores + low, kb_load(a->score_format, p, scores + slot));
        }
    }
    ref_kv_store(&a->k, b, g, slot, (const float *)kb_at(a->new_k) + new_row);
    ref_kv_store(&a->v, b, g, slot, (const float *)kb_at(a->new_v) + new_row);
    kb_store(a->score_format, p, scores + slot, added(a, b, g, a->used));
    if (a->victim.buf)
        ((int32_t *)kb_at(a->victim))[b * a->kv_heads + g] = victim;
}

kvp_err ref_h2o_step(const void *args, struct kvp_error *e)
{
    const struct kb_h2o_step *a = args;

    (void)e;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t g = 0; g < a->kv_heads; g++)
            step_one(a, b, g);
    return KVP_OK;
}

static float promoted_mass(const struct kb_h2o_promote *a, uint64_t b, uint32_t g, uint64_t s)
{
    uint32_t group = a->heads / a->kv_heads;
    float sum = 0;

    for (uint32_t h = g * group; h < (g + 1) * group; h++)
        sum += ((const float *)kb_at(a->probs))[(b * a->heads + h) * (a->used + 1) + s];
    return sum;
}

kvp_err ref_h2o_promote(const void *args, struct kvp_error *e)
{
    const struct kb_h2o_promote *a = args;
    void *p = kb_at(a->scores);

    (void)e;
    for (uint64_t r = 0; r < a->batch * a->kv_heads; r++) {
        uint64_t b = r / a->kv_heads, at = r * a->score_stride, low = 0, o = a->heavy + (a->position - a->heavy) % (a->heavy - 1);
        uint32_t g = (uint32_t)(r % a->kv_heads);
        bool full = a->used == 2 * a->heavy - 1;

        for (uint64_t s = 0; s < a->used; s++)
            kb_store(a->score_format, p, at + s, kb_load(a->score_format, p, at + s) + promoted_mass(a, b, g, s));
        kb_store(a->score_format, p, at + a->used, promoted_mass(a, b, g, a->used));
        for (uint64_t s = 1; s < a->heavy && full; s++)
            low = kb_load(a->score_format, p, at + s) < kb_load(a->score_format, p, at + low) ? s : low;
        for (int i = 0; full && i < 2; i++) { /* the oldest recent one, then the new one */
            uint64_t from = i ? a->used : o, to = i ? o : low;

            ref_kv_move(&a->k, b, g, to, from);
            ref_kv_move(&a->v, b, g, to, from);
            kb_store(a->score_format, p, at + to, kb_load(a->score_format, p, at + from));
        }
        if (a->victim.buf)
            ((int32_t *)kb_at(a->victim))[r] = full ? (int32_t)low : -1;
    }
    return KVP_OK;
}
