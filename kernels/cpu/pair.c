/* pair.c - MiniCache: two layers' rows merged, and attention that scales directions by their lengths as it reads */
#include "kernels/cpu/cpu.h"

#include "kernels/ops/attn_merged.h"
#include "kernels/ops/pair_merge.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#define LEAST 1e-6 /* of a length, and of what a cosine stays away from -1 and 1 */
#define TILE 32

static uint64_t list_at(struct kb_span index, enum kvp_format f, uint64_t i)
{
    return f == KVP_I64 ? (uint64_t)((const int64_t *)kb_at(index))[i] : (uint64_t)((const int32_t *)kb_at(index))[i];
}

static void list_set(struct kb_span index, enum kvp_format f, uint64_t i, uint64_t slot)
{
    if (f == KVP_I64)
        ((int64_t *)kb_at(index))[i] = (int64_t)slot;
    else
        ((int32_t *)kb_at(index))[i] = (int32_t)slot;
}

/* ---- merging ----------------------------------------------------------------------------------------- */

static uint64_t slot_of(const struct kb_pair_merge *a, uint64_t j)
{
    return a->ring ? (a->slot + j) % a->ring : a->slot + j;
}

/* x.x, y.y and x.y at once, in double: an angle near 0 hangs on the last digits. */
static void products(const float *x, const float *y, uint32_t n, double *xx, double *yy, double *xy)
{
    double a = 0, b = 0, c = 0;

#pragma omp simd reduction(+ : a, b, c)
    for (uint32_t i = 0; i < n; i++) {
        double u = (double)x[i], v = (double)y[i];

        a += u * u;
        b += v * v;
        c += u * v;
    }
    *xx = a;
    *yy = b;
    *xy = c;
}

static double at_least(double x)
{
    return x > LEAST ? x : LEAST;
}

/* Token j of one vector, heads [g, g + heads): its angle. room: the direction. */
static float merge_token(const struct kb_dev *dev, const struct kb_pair_merge *a, uint64_t b, uint32_t g, uint32_t heads, uint64_t j, float *room)
{
    uint64_t row = b * a->tokens + a->first + j, slot = slot_of(a, j), at = (b * (a->per_token ? 1 : a->kv_heads) + g) * a->size_slots + slot;
    const float *y = (const float *)kb_at(a->lower) + row * a->lower_stride + (uint64_t)g * a->head_dim;
    const float *x = (const float *)kb_at(a->upper) + row * a->upper_stride + (uint64_t)g * a->head_dim;
    uint32_t width = heads * a->head_dim;
    double lx, ly, xy, angle, wx, wy, square = 0;

    products(x, y, width, &lx, &ly, &xy);
    lx = at_least(sqrt(lx));
    ly = at_least(sqrt(ly));
    angle = acos(fmin(fmax(xy / (lx * ly), LEAST - 1), 1 - LEAST));
    wx = sin((double)a->t * angle) / sin(angle) / lx;
    wy = sin((1 - (double)a->t) * angle) / sin(angle) / ly;
#pragma omp simd reduction(+ : square)
    for (uint32_t i = 0; i < width; i++) {
        double z = wy * (double)y[i] + wx * (double)x[i];

        room[i] = (float)z;
        square += z * z;
    }
    dev->ops->scale(room, width, (float)(1 / at_least(sqrt(square))));
    for (uint32_t h = 0; h < heads; h++)
        dev->ops->narrow[a->direction.format](kb_kv_row(&a->direction, b, g + h, slot), room + (uint64_t)h * a->head_dim, a->head_dim);
    kb_store(a->direction.format, kb_at(a->lower_size), at, (float)ly);
    kb_store(a->direction.format, kb_at(a->upper_size), at, (float)lx);
    return (float)angle;
}

struct entry {
    float angle;
    uint64_t token;
};

static int by_angle(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;

    if (a->angle != b->angle)
        return a->angle > b->angle ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

static int by_token(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;

    return a->token < b->token ? -1 : a->token > b->token;
}

/* The new entries of heads [g, g + heads): as slots, in the order of their tokens. */
static void choose(const struct kb_pair_merge *a, uint64_t b, uint32_t g, uint32_t heads, struct entry *angles)
{
    const uint64_t n = a->kept - a->was;

    qsort(angles, a->count, sizeof(*angles), by_angle);
    qsort(angles, n, sizeof(*angles), by_token);
    for (uint32_t h = g; h < g + heads; h++)
        for (uint64_t i = 0; i < n; i++)
            list_set(a->index, a->index_format, (b * a->kv_heads + h) * a->index_slots + a->was + i, slot_of(a, angles[i].token));
}

/* Rows of entries whose slot was written now. */
static void keep_rows(const struct kb_dev *dev, const struct kb_pair_merge *a, uint64_t b, uint32_t g)
{
    for (uint64_t i = 0; i < a->kept; i++) {
        uint64_t slot = list_at(a->index, a->index_format, (b * a->kv_heads + g) * a->index_slots + i), row;
        uint64_t j = a->ring ? (slot + a->ring - a->slot) % a->ring : slot - a->slot; /* beyond count: not now */

        if (j >= a->count || (!a->ring && slot < a->slot))
            continue;
        row = b * a->tokens + a->first + j;
        dev->ops->narrow[a->direction.format](kb_kv_row(&a->lower_kept, b, g, i),
                                              (const float *)kb_at(a->lower) + row * a->lower_stride + (uint64_t)g * a->head_dim, a->head_dim);
        dev->ops->narrow[a->direction.format](kb_kv_row(&a->upper_kept, b, g, i),
                                              (const float *)kb_at(a->upper) + row * a->upper_stride + (uint64_t)g * a->head_dim, a->head_dim);
    }
}

kvp_err cpu_pair_merge(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_pair_merge *a = args;
    uint32_t heads = a->per_token ? a->kv_heads : 1;
    uint64_t vectors = a->batch * (a->kv_heads / heads), width = (uint64_t)heads * a->head_dim, stride;
    struct entry *angles = malloc((vectors * a->count + 1) * sizeof(*angles));
    kvp_err rc = angles ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "cpu: no memory to merge %llu tokens", (unsigned long long)a->count);
    int threads = cpu_threads(dev, vectors * a->count * width * 8);
    float *areas;

    if (rc == KVP_OK)
        rc = cpu_scratch(dev, &areas, &stride, dev->threads, width, e);
    if (rc != KVP_OK) {
        free(angles);
        return rc;
    }
#pragma omp parallel for num_threads(threads)
    for (uint64_t n = 0; n < vectors * a->count; n++)
        angles[n] = (struct entry){merge_token(dev, a, n / a->count / (a->kv_heads / heads), (uint32_t)(n / a->count % (a->kv_heads / heads)), heads,
                                               n % a->count, areas + (uint64_t)omp_get_thread_num() * stride),
                                   n % a->count};
#pragma omp parallel for num_threads(threads)
    for (uint64_t n = 0; n < vectors; n++) {
        uint64_t b = n / (a->kv_heads / heads);
        uint32_t g = (uint32_t)(n % (a->kv_heads / heads));

        if (!a->given && a->kept > a->was)
            choose(a, b, g, heads, angles + n * a->count);
        for (uint32_t h = g; h < g + heads; h++)
            keep_rows(dev, a, b, h);
    }
    free(angles);
    return KVP_OK;
}

/* ---- attention ----------------------------------------------------------------------------------------- */

/* Stored rows from slot t on that lie one after another, at most up to t1. */
static uint64_t run_of(const struct kb_kv *kv, uint64_t t, uint64_t t1)
{
    uint64_t left = kv->block ? kv->block - t % kv->block : t1 - t;

    return left < t1 - t ? left : t1 - t;
}

/* Lengths of slots [t0, t1) of (b, g) as f32. */
static void sizes(const struct kb_dev *dev, const struct kb_attn_merged *x, struct kb_span size, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                  float *out)
{
    uint64_t at = (x->per_token ? b : b * x->attn.kv_heads + g) * x->size_slots + t0;

    dev->ops->widen[x->attn.k.format](out, (const unsigned char *)kb_at(size) + at * kb_element(x->attn.k.format), t1 - t0);
}

/* extra: the tile's lengths. */
static void scores(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   float *s, uint64_t stride, float *extra)
{
    const struct kb_attn_merged *x = args;
    const struct kb_attn_decode *a = &x->attn;
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)g * group * d;
    uint64_t stored = t1 < a->used ? t1 : a->used, list = (b * a->kv_heads + g) * x->index_slots, n;

    for (uint64_t t = t0; t < stored; t += n) {
        n = run_of(&a->k, t, stored);
        dev->ops->dots[a->k.format](q, d, group, kb_kv_row(&a->k, b, g, t), d, n, d, a->scale, s + t - t0, stride, NULL);
    }
    if (t0 < stored)
        sizes(dev, x, x->k_size, b, g, t0, stored, extra);
    for (uint32_t h = 0; h < group; h++)
        for (uint64_t t = t0; t < stored; t++)
            s[h * stride + t - t0] *= extra[t - t0];
    for (uint64_t i = 0; i < x->kept; i++) {
        uint64_t slot = list_at(x->k_index, x->index_format, list + i);

        if (slot >= t0 && slot < stored)
            dev->ops->dots[x->k_kept.format](q, d, group, kb_kv_row(&x->k_kept, b, g, i), d, 1, d, a->scale, s + slot - t0, stride, NULL);
    }
    for (uint32_t h = 0; x->skip >= t0 && x->skip < stored && h < group; h++)
        s[h * stride + x->skip - t0] = -INFINITY;
    if (t1 > a->used)
        dev->ops->dots[KVP_F32](q, d, group, (const float *)kb_at(a->tail_k) + b * a->tail_stride + (uint64_t)g * d, d, 1, d, a->scale,
                                s + a->used - t0, stride, NULL);
}

/* Weights of the tile's directions: probability times length, and nothing where a row is kept. */
static void weigh(const struct kb_dev *dev, const struct kb_attn_merged *x, uint64_t b, uint32_t g, uint64_t t0, uint64_t stored,
                  const float *p, uint64_t stride, float *w)
{
    const struct kb_attn_decode *a = &x->attn;
    uint32_t group = a->heads / a->kv_heads;
    uint64_t list = (b * a->kv_heads + g) * x->index_slots;
    float size[TILE];

    sizes(dev, x, x->v_size, b, g, t0, stored, size);
    for (uint64_t i = 0; i < x->kept; i++) {
        uint64_t slot = list_at(x->v_index, x->index_format, list + i);

        if (slot >= t0 && slot < stored)
            size[slot - t0] = 0;
    }
    for (uint32_t h = 0; h < group; h++)
        for (uint64_t t = t0; t < stored; t++)
            w[h * TILE + t - t0] = p[h * stride + t - t0] * size[t - t0];
}

/* extra: the weights, [group, TILE]. */
static void values(const struct kb_dev *dev, const void *args, uint64_t b, uint32_t g, uint64_t t0, uint64_t t1,
                   const float *p, uint64_t stride, float *o, float *extra)
{
    const struct kb_attn_merged *x = args;
    const struct kb_attn_decode *a = &x->attn;
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;
    uint64_t stored = t1 < a->used ? t1 : a->used, list = (b * a->kv_heads + g) * x->index_slots, n;

    if (t0 < stored)
        weigh(dev, x, b, g, t0, stored, p, stride, extra);
    for (uint64_t t = t0 + (t0 == x->skip); t < stored; t += n, t += t == x->skip) {
        n = run_of(&a->v, t, t < x->skip && x->skip < stored ? x->skip : stored);
        dev->ops->mix[a->v.format](extra + t - t0, TILE, group, kb_kv_row(&a->v, b, g, t), d, n, d, o, d, NULL);
    }
    for (uint64_t i = 0; i < x->kept; i++) {
        uint64_t slot = list_at(x->v_index, x->index_format, list + i);

        if (slot >= t0 && slot < stored && slot != x->skip)
            dev->ops->mix[x->v_kept.format](p + slot - t0, stride, group, kb_kv_row(&x->v_kept, b, g, i), d, 1, d, o, d, NULL);
    }
    if (t1 > a->used)
        dev->ops->mix[KVP_F32](p + a->used - t0, stride, group, (const float *)kb_at(a->tail_v) + b * a->tail_stride + (uint64_t)g * d, d, 1, d, o,
                               d, NULL);
}

kvp_err cpu_attn_merged(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_attn_merged *a = args;
    const struct cpu_attend work = {
        .batch = a->attn.batch, .heads = a->attn.heads, .kv_heads = a->attn.kv_heads, .dim = a->attn.head_dim,
        .end = a->attn.used + (a->attn.tail_k.buf != NULL), .tile = TILE, .extra = (uint64_t)(a->attn.heads / a->attn.kv_heads) * TILE,
        .args = a, .scores = scores, .values = values, .out_stride = a->attn.out_stride, .out = kb_at(a->attn.out),
    };

    return cpu_attend(dev, &work, e);
}
