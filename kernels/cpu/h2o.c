/* h2o.c - H2O's choices: the heavy tokens of a prompt by radix selection, one eviction per step */
#include "kernels/cpu/codes.h"

#include "kernels/ops/h2o_promote.h"
#include "kernels/ops/h2o_select.h"
#include "kernels/ops/h2o_step.h"

/* Order of floats as order of unsigned words; -0 as 0. */
static uint32_t order(float x)
{
    uint32_t u = kb_f32_bits(x + 0.0f);

    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The value of the `want`-th highest of n scores (want from 1), byte by byte from the top; *equal: how many
 * of that value are among the `want` highest. */
static uint32_t threshold(const float *scores, uint64_t n, uint64_t want, uint64_t *equal)
{
    uint32_t prefix = 0, mask = 0;

    for (int shift = 24; shift >= 0; shift -= 8) {
        uint64_t count[256] = {0};
        uint32_t digit = 255;

        for (uint64_t t = 0; t < n; t++) {
            uint32_t o = order(scores[t]);

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

static void select_one(const struct kb_h2o_select *a, const float *scores, int32_t *index)
{
    uint64_t old = a->tokens - a->recent, equal, slot = 0;
    uint32_t cut = threshold(scores, old, a->heavy, &equal);

    for (uint64_t t = 0; t < old; t++) {
        uint32_t o = order(scores[t]);

        if (o > cut || (o == cut && equal)) {
            equal -= o == cut;
            index[slot++] = (int32_t)t;
        }
    }
    for (uint64_t p = old; p < a->tokens; p++)
        index[a->heavy + (p - a->heavy) % a->recent] = (int32_t)p;
}

kvp_err cpu_h2o_select(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_h2o_select *a = args;
    bool all = a->tokens <= a->heavy || a->tokens - a->heavy <= a->recent;
    uint64_t kept = all ? a->tokens : a->heavy + a->recent;

    (void)e;
#pragma omp parallel for num_threads(cpu_threads(dev, 8 * a->batch * a->kv_heads * a->tokens))
    for (uint64_t r = 0; r < a->batch * a->kv_heads; r++) {
        const float *scores = (const float *)kb_at(a->scores) + r * a->tokens;
        int32_t *index = (int32_t *)kb_at(a->index) + r * kept;

        for (uint64_t j = 0; all && j < kept; j++)
            index[j] = (int32_t)j;
        if (!all)
            select_one(a, scores, index);
        for (uint64_t j = 0; j < kept; j++)
            kb_store(a->score_format, kb_at(a->kept_scores), r * a->kept_stride + j, scores[index[j]]);
    }
    return KVP_OK;
}

static float added(const struct kb_h2o_step *a, const float *probs, uint64_t s)
{
    uint32_t group = a->heads / a->kv_heads;
    float sum = 0;

    for (uint32_t h = 0; h < group; h++)
        sum += probs[h * (a->used + 1) + s];
    return sum;
}

/* Add this step's mass; the slot with the lowest score among the heavy ones, and its score. */
static uint64_t add_scores(const struct kb_h2o_step *a, const float *probs, void *scores, float *low)
{
    uint64_t at = 0;

    for (uint64_t s = 0; s < a->used; s++) {
        float x = kb_rounded(a->score_format, kb_load(a->score_format, scores, s) + added(a, probs, s));

        kb_store(a->score_format, scores, s, x);
        if (s == 0 || (s < a->heavy && x < *low)) {
            *low = x;
            at = s;
        }
    }
    return at;
}

static void step_one(const struct kb_dev *dev, const struct kb_h2o_step *a, uint64_t b, uint32_t g)
{
    uint64_t new_row = b * a->new_stride + (uint64_t)g * a->head_dim, slot = a->used, low;
    const float *probs = (const float *)kb_at(a->probs) +
                         (b * a->heads + (uint64_t)g * (a->heads / a->kv_heads)) * (a->used + 1);
    void *scores = (unsigned char *)kb_at(a->scores) +
                   (b * a->kv_heads + g) * a->score_stride * kb_element(a->score_format);
    float lowest = 0;
    int32_t victim = -1;

    low = add_scores(a, probs, scores, &lowest);
    if (a->used == a->heavy + a->recent) {
        float oldest;

        slot = a->heavy + (a->position - a->heavy) % a->recent;
        oldest = kb_load(a->score_format, scores, slot);
        low = oldest < lowest ? slot : low;
        victim = (int32_t)low;
        if (low != slot) {
            cpu_kv_move(&a->k, b, g, low, slot);
            cpu_kv_move(&a->v, b, g, low, slot);
            kb_store(a->score_format, scores, low, oldest);
        }
    }
    cpu_kv_store(dev, &a->k, b, g, slot, (const float *)kb_at(a->new_k) + new_row);
    cpu_kv_store(dev, &a->v, b, g, slot, (const float *)kb_at(a->new_v) + new_row);
    kb_store(a->score_format, scores, slot, added(a, probs, a->used));
    if (a->victim.buf)
        ((int32_t *)kb_at(a->victim))[b * a->kv_heads + g] = victim;
}

kvp_err cpu_h2o_step(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_h2o_step *a = args;

    (void)e;
#pragma omp parallel for collapse(2) num_threads(cpu_threads(dev, a->batch * a->heads * (a->used + 1)))
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t g = 0; g < a->kv_heads; g++)
            step_one(dev, a, b, g);
    return KVP_OK;
}

/* Moves in the order given: the oldest recent token to the lightest heavy one's slot, the new one to its. */
static void promote(const struct kb_h2o_promote *a, uint64_t b, uint32_t g, void *scores, uint64_t low)
{
    const uint64_t o = a->heavy + (a->position - a->heavy) % (a->heavy - 1), from[] = {o, a->used}, to[] = {low, o};

    for (int i = 0; i < 2; i++) {
        cpu_kv_move(&a->k, b, g, to[i], from[i]);
        cpu_kv_move(&a->v, b, g, to[i], from[i]);
        kb_store(a->score_format, scores, to[i], kb_load(a->score_format, scores, from[i]));
    }
}

static void promote_one(const struct kb_h2o_promote *a, uint64_t b, uint32_t g)
{
    const uint32_t group = a->heads / a->kv_heads;
    const float *probs = (const float *)kb_at(a->probs) + (b * a->heads + (uint64_t)g * group) * (a->used + 1);
    void *scores = (unsigned char *)kb_at(a->scores) + (b * a->kv_heads + g) * a->score_stride * kb_element(a->score_format);
    const bool full = a->used == 2 * a->heavy - 1;
    uint64_t low = 0;
    float lowest = 0;

    for (uint64_t s = 0; s <= a->used; s++) {
        float sum = 0, x;

        for (uint32_t h = 0; h < group; h++)
            sum += probs[h * (a->used + 1) + s];
        x = kb_rounded(a->score_format, s < a->used ? kb_load(a->score_format, scores, s) + sum : sum);
        kb_store(a->score_format, scores, s, x);
        if (s == 0 || (s < a->heavy && x < lowest)) {
            lowest = x;
            low = s;
        }
    }
    if (full)
        promote(a, b, g, scores, low);
    if (a->victim.buf)
        ((int32_t *)kb_at(a->victim))[b * a->kv_heads + g] = full ? (int32_t)low : -1;
}

kvp_err cpu_h2o_promote(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_h2o_promote *a = args;

    (void)e;
#pragma omp parallel for collapse(2) num_threads(cpu_threads(dev, a->batch * a->heads * (a->used + 1)))
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t g = 0; g < a->kv_heads; g++)
            promote_one(a, b, g);
    return KVP_OK;
}
