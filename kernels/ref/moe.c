/* moe.c - routing, and rows through the experts that they were routed to */
#include "kernels/ref/ref.h"

#include "kernels/ops/moe_gemm.h"
#include "kernels/ops/moe_route.h"

#include <math.h>

/* What choosing goes by: score + bias, -infinity for what may not be chosen. */
static double worth_of(const struct kb_moe_route *a, const double *score, uint32_t i)
{
    return score[i] + (a->bias.buf ? (double)kb_load(a->format, kb_at(a->bias), i) : 0);
}

static double group_worth(const struct kb_moe_route *a, const double *worth, uint32_t group)
{
    const uint32_t n = a->experts / a->groups;
    double first = -INFINITY, second = -INFINITY;

    for (uint32_t i = group * n; i < (group + 1) * n; i++)
        if (worth[i] > first) {
            second = first;
            first = worth[i];
        } else if (worth[i] > second) {
            second = worth[i];
        }
    return a->group_pairs ? first + second : first;
}

/* Experts outside the best groups are out. */
static void close_groups(const struct kb_moe_route *a, double *worth, double *group)
{
    const uint32_t n = a->experts / a->groups;

    for (uint32_t i = 0; i < a->groups; i++)
        group[i] = group_worth(a, worth, i);
    for (uint32_t i = 0; i < a->groups; i++) {
        uint32_t better = 0;

        for (uint32_t j = 0; j < a->groups; j++)
            better += group[j] > group[i] || (group[j] == group[i] && j < i);
        for (uint32_t k = i * n; better >= a->groups_kept && k < (i + 1) * n; k++)
            worth[k] = -INFINITY;
    }
}

static void scores_of(const struct kb_moe_route *a, const float *logits, double *score)
{
    for (uint32_t i = 0; i < a->experts; i++)
        score[i] = a->kind == KB_ROUTE_SIGMOID ? 1 / (1 + exp(-(double)logits[i])) : (double)logits[i];
    if (a->kind == KB_ROUTE_SOFTMAX)
        ref_softmax(score, a->experts);
}

static void route_one(const struct kb_moe_route *a, const float *logits, int32_t *ids, float *weights, double *room)
{
    double *score = room, *worth = score + a->experts, *chosen = worth + a->experts, *group = chosen + a->chosen, sum = 0;

    scores_of(a, logits, score);
    for (uint32_t i = 0; i < a->experts; i++)
        worth[i] = worth_of(a, score, i);
    if (a->groups)
        close_groups(a, worth, group);
    for (uint32_t j = 0; j < a->chosen; j++) {
        uint32_t best = 0;

        for (uint32_t i = 1; i < a->experts; i++)
            best = worth[i] > worth[best] ? i : best;
        worth[best] = -INFINITY;
        ids[j] = (int32_t)best;
        chosen[j] = score[best];
    }
    if (a->kind == KB_ROUTE_CHOSEN)
        ref_softmax(chosen, a->chosen);
    for (uint32_t j = 0; j < a->chosen; j++)
        sum += chosen[j];
    for (uint32_t j = 0; j < a->chosen; j++)
        weights[j] = (float)(chosen[j] / (a->normalise ? sum : 1) * (a->scale != 0 ? (double)a->scale : 1));
}

kvp_err ref_moe_route(const void *args, struct kvp_error *e)
{
    const struct kb_moe_route *a = args;
    double *room = ref_scratch(2ull * a->experts + a->chosen + a->groups, e);

    if (!room)
        return KVP_ENOMEM;
    for (uint64_t r = 0; r < a->rows; r++)
        route_one(a, (const float *)kb_at(a->logits) + r * a->stride, (int32_t *)kb_at(a->ids) + r * a->chosen,
                  (float *)kb_at(a->weights) + r * a->chosen, room);
    free(room);
    return KVP_OK;
}

kvp_err ref_moe_gemm(const void *args, struct kvp_error *e)
{
    const struct kb_moe_gemm *a = args;

    (void)e;
    for (uint64_t i = 0; i < a->rows * a->chosen; i++) {
        const uint64_t r = i / a->chosen, expert = (uint64_t)((const int32_t *)kb_at(a->ids))[i];
        const float *x = (const float *)kb_at(a->x) + (a->x_each ? i : r) * a->x_stride;
        float *out = (float *)kb_at(a->out) + (a->accumulate ? r : i) * a->out_stride;

        for (uint32_t j = 0; j < a->n; j++) {
            double y = ref_dot(x, a->format, kb_at(a->w), (expert * a->n + j) * a->k, a->k);

            if (a->bias.buf)
                y += (double)kb_load(a->format, kb_at(a->bias), expert * a->n + j);
            y *= a->weights.buf ? (double)((const float *)kb_at(a->weights))[i] : 1;
            out[j] = (float)(a->accumulate ? (double)out[j] + y : y);
        }
    }
    return KVP_OK;
}
