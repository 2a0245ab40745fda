/* moe.c - routing, and rows through the experts that they were routed to: an expert's rows are gathered, then go through its
 * matrix together, so that it is read once however many they are. */
#include "kernels/cpu/cpu.h"

#include "kernels/ops/moe_gemm.h"
#include "kernels/ops/moe_route.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

/* ---- routing -------------------------------------------------------------------------------------- */

/* The `n` largest of worth[0..total), best first, ties to the lower index. */
static void largest(const double *worth, uint32_t total, uint32_t n, int32_t *out)
{
    uint32_t held = 0;

    for (uint32_t i = 0; i < total; i++) {
        uint32_t at = held;

        while (at > 0 && worth[i] > worth[out[at - 1]])
            at--;
        if (at == n)
            continue;
        held += held < n;
        memmove(out + at + 1, out + at, (held - at - 1) * sizeof(*out));
        out[at] = (int32_t)i;
    }
}

static double group_worth(const struct kb_moe_route *a, const double *worth)
{
    int32_t top[2];
    const uint32_t n = a->group_pairs ? 2 : 1;

    largest(worth, a->experts / a->groups, n, top);
    return worth[top[0]] + (n == 2 ? worth[top[1]] : 0);
}

/* `room`: experts + groups doubles, then as many indices as groups. */
static void choose(const struct kb_moe_route *a, double *worth, double *group, int32_t *kept, int32_t *ids)
{
    const uint32_t per = a->groups ? a->experts / a->groups : a->experts;
    bool open;

    for (uint32_t i = 0; i < a->groups; i++)
        group[i] = group_worth(a, worth + (uint64_t)i * per);
    if (a->groups)
        largest(group, a->groups, a->groups_kept, kept);
    for (uint32_t i = 0; i < a->groups; i++) {
        open = false;
        for (uint32_t j = 0; j < a->groups_kept; j++)
            open = open || kept[j] == (int32_t)i;
        for (uint32_t k = i * per; !open && k < (i + 1) * per; k++)
            worth[k] = -INFINITY;
    }
    largest(worth, a->experts, a->chosen, ids);
}

static void softmax(double *x, uint32_t n)
{
    double top = -INFINITY, sum = 0;

    for (uint32_t i = 0; i < n; i++)
        top = fmax(top, x[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] = exp(x[i] - top);
    for (uint32_t i = 0; i < n; i++)
        x[i] /= sum;
}

static void route_row(const struct kb_moe_route *a, uint64_t r, double *room)
{
    const float *logits = (const float *)kb_at(a->logits) + r * a->stride;
    double *score = room, *worth = score + a->experts, *picked = worth + a->experts, *group = picked + a->chosen, sum = 0;
    int32_t *ids = (int32_t *)kb_at(a->ids) + r * a->chosen, *kept = (int32_t *)(void *)(group + a->groups);
    float *weights = (float *)kb_at(a->weights) + r * a->chosen;

    for (uint32_t i = 0; i < a->experts; i++)
        score[i] = a->kind == KB_ROUTE_SIGMOID ? 1 / (1 + exp(-(double)logits[i])) : (double)logits[i];
    if (a->kind == KB_ROUTE_SOFTMAX)
        softmax(score, a->experts);
    for (uint32_t i = 0; i < a->experts; i++)
        worth[i] = score[i] + (a->bias.buf ? (double)kb_load(a->format, kb_at(a->bias), i) : 0);
    choose(a, worth, group, kept, ids);
    for (uint32_t j = 0; j < a->chosen; j++)
        picked[j] = score[ids[j]];
    if (a->kind == KB_ROUTE_CHOSEN)
        softmax(picked, a->chosen);
    for (uint32_t j = 0; j < a->chosen; j++)
        sum += picked[j];
    for (uint32_t j = 0; j < a->chosen; j++)
        weights[j] = (float)(picked[j] / (a->normalise ? sum : 1) * (a->scale != 0 ? (double)a->scale : 1));
}

kvp_err cpu_moe_route(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_moe_route *a = args;
    const uint64_t doubles = 2ull * a->experts + a->chosen + 2ull * a->groups;
    uint64_t stride;
    float *areas;

    KVP_TRY(cpu_scratch(dev, &areas, &stride, dev->threads, 2 * doubles, e));
#pragma omp parallel for num_threads(cpu_threads(dev, a->rows * a->experts * (8 + a->chosen)))
    for (uint64_t r = 0; r < a->rows; r++)
        route_row(a, r, (double *)(void *)(areas + (uint64_t)omp_get_thread_num() * stride));
    return KVP_OK;
}

/* ---- products ------------------------------------------------------------------------------------- */

enum { ROWS_OF_W = 64, STREAMED = 16 /* up to so many rows of x, unpacking W costs more than a product saves */ };

/* Choices [0, n) that went to one expert, and their rows of x side by side. */
struct group {
    const struct kb_moe_gemm *a;
    uint64_t expert, n;
    const uint64_t *choice;
    const float *x; /* [n, k] */
};

/* Rows [j0, j1) of the expert's matrix: y [n, ROWS_OF_W], then to where it goes. `w`: room for them unpacked. */
static void take_rows(const struct kb_dev *dev, const struct group *s, uint64_t j0, uint64_t j1, float *y, float *unpacked)
{
    const struct kb_moe_gemm *a = s->a;
    const uint64_t row = s->expert * a->n + j0, size = kb_element(a->format);
    const unsigned char *w = (const unsigned char *)kb_at(a->w) + row * a->k * size;
    const float *weights = kb_at(a->weights);

    if (s->n <= STREAMED) {
        dev->ops->dots[a->format](s->x, a->k, (uint32_t)s->n, w, a->k, j1 - j0, a->k, 1, y, ROWS_OF_W, NULL);
    } else {
        if (a->format != KVP_F32)
            dev->ops->widen[a->format](unpacked, w, (j1 - j0) * a->k);
        cpu_product(dev, true, s->n, j1 - j0, a->k, 1, s->x, a->k, a->format == KVP_F32 ? (const float *)(const void *)w : unpacked,
                    a->k, 0, y, ROWS_OF_W);
    }
    for (uint64_t i = 0; i < s->n; i++) {
        const uint64_t c = s->choice[i];
        float *out = (float *)kb_at(a->out) + (a->accumulate ? c / a->chosen : c) * a->out_stride + j0;

        for (uint64_t j = 0; j < j1 - j0; j++) {
            float v = y[i * ROWS_OF_W + j] + (a->bias.buf ? kb_load(a->format, kb_at(a->bias), row + j) : 0.0f);

            v *= weights ? weights[c] : 1;
            out[j] = a->accumulate ? out[j] + v : v;
        }
    }
}

static void one_expert(struct kb_dev *dev, const struct group *s, float *areas, uint64_t stride)
{
    const uint64_t blocks = (s->a->n + ROWS_OF_W - 1) / ROWS_OF_W;

#pragma omp parallel for schedule(static) num_threads(cpu_threads(dev, s->n * s->a->n * s->a->k))
    for (uint64_t b = 0; b < blocks; b++) {
        const uint64_t j0 = b * ROWS_OF_W, j1 = j0 + ROWS_OF_W < s->a->n ? j0 + ROWS_OF_W : s->a->n;
        float *y = areas + (uint64_t)omp_get_thread_num() * stride;

        take_rows(dev, s, j0, j1, y, y + s->n * ROWS_OF_W);
    }
}

/* The choices that went to expert `x`, in order, and the rows of x that they have. */
static uint64_t gather(const struct kb_moe_gemm *a, int32_t x, uint64_t *choice, float *rows)
{
    const int32_t *ids = kb_at(a->ids);
    uint64_t n = 0;

    for (uint64_t i = 0; i < a->rows * a->chosen; i++)
        if (ids[i] == x) {
            memcpy(rows + n * a->k, (const float *)kb_at(a->x) + (a->x_each ? i : i / a->chosen) * a->x_stride, a->k * sizeof(float));
            choice[n++] = i;
        }
    return n;
}

kvp_err cpu_moe_gemm(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_moe_gemm *a = args;
    const uint64_t each = a->rows * ROWS_OF_W + (a->format == KVP_F32 ? 0 : (uint64_t)ROWS_OF_W * a->k);
    const uint64_t share = (each > (a->rows * a->k + dev->threads - 1) / dev->threads ? each : (a->rows * a->k + dev->threads - 1) / dev->threads);
    uint64_t *choice = malloc((a->rows ? a->rows : 1) * sizeof(*choice)), stride;
    float *areas;
    kvp_err rc;

    if (!choice)
        return kvp_fail(e, KVP_ENOMEM, "cpu: no memory for %llu rows' experts", (unsigned long long)a->rows);
    rc = cpu_scratch(dev, &areas, &stride, 2ull * dev->threads, share, e); /* the second half: gathered rows */
    for (uint32_t x = 0; rc == KVP_OK && x < a->experts; x++) {
        float *rows = areas + dev->threads * stride;
        const struct group s = {.a = a, .expert = x, .n = gather(a, (int32_t)x, choice, rows), .choice = choice, .x = rows};

        if (s.n)
            one_expert(dev, &s, areas, stride);
    }
    free(choice);
    return rc;
}
