/* pair.c - MiniCache: two layers' rows merged, and attention over what is left */
#include "kernels/ref/ref.h"

#include "kernels/ops/attn_merged.h"
#include "kernels/ops/pair_merge.h"

#include <math.h>

#define LEAST 1e-6 /* of a length, and of what a cosine stays away from -1 and 1 */

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

static uint64_t slot_of(const struct kb_pair_merge *a, uint64_t j)
{
    return a->ring ? (a->slot + j) % a->ring : a->slot + j;
}

static double length(const float *x, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum) > LEAST ? sqrt(sum) : LEAST;
}

/* Merge y and x, `width` long, into dir; returns the angle. */
static double merge(const struct kb_pair_merge *a, const float *y, const float *x, uint32_t width, double ly, double lx, double *dir)
{
    double cosine = 0, angle, sum = 0;

    for (uint32_t i = 0; i < width; i++)
        cosine += (double)x[i] / lx * ((double)y[i] / ly);
    cosine = cosine > 1 - LEAST ? 1 - LEAST : cosine < LEAST - 1 ? LEAST - 1 : cosine;
    angle = acos(cosine);
    for (uint32_t i = 0; i < width; i++) {
        dir[i] = (sin((1 - (double)a->t) * angle) * (double)y[i] / ly + sin((double)a->t * angle) * (double)x[i] / lx) / sin(angle);
        sum += dir[i] * dir[i];
    }
    sum = sqrt(sum) > LEAST ? sqrt(sum) : LEAST;
    for (uint32_t i = 0; i < width; i++)
        dir[i] /= sum;
    return angle;
}

/* Token j of one vector: heads [g, g + heads). */
static double merge_token(const struct kb_pair_merge *a, uint64_t b, uint32_t g, uint32_t heads, uint64_t j, double *dir)
{
    uint64_t row = b * a->tokens + a->first + j, at = (b * (a->per_token ? 1 : a->kv_heads) + g) * a->size_slots + slot_of(a, j);
    const float *y = (const float *)kb_at(a->lower) + row * a->lower_stride + (uint64_t)g * a->head_dim;
    const float *x = (const float *)kb_at(a->upper) + row * a->upper_stride + (uint64_t)g * a->head_dim;
    uint32_t width = heads * a->head_dim;
    double ly = length(y, width), lx = length(x, width), angle = merge(a, y, x, width, ly, lx, dir);

    for (uint32_t i = 0; i < width; i++)
        kb_store(a->direction.format, kb_kv_row(&a->direction, b, g + i / a->head_dim, slot_of(a, j)), i % a->head_dim, (float)dir[i]);
    kb_store(a->direction.format, kb_at(a->lower_size), at, (float)ly);
    kb_store(a->direction.format, kb_at(a->upper_size), at, (float)lx);
    return angle;
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

/* The new entries of heads [g, g + heads). */
static void choose(const struct kb_pair_merge *a, uint64_t b, uint32_t g, uint32_t heads, struct entry *sort)
{
    qsort(sort, a->count, sizeof(*sort), by_angle);
    qsort(sort, a->kept - a->was, sizeof(*sort), by_token);
    for (uint32_t h = g; h < g + heads; h++)
        for (uint64_t i = 0; i < a->kept - a->was; i++)
            list_set(a->index, a->index_format, (b * a->kv_heads + h) * a->index_slots + a->was + i, slot_of(a, sort[i].token));
}

static void keep_rows(const struct kb_pair_merge *a, uint64_t b, uint32_t g, uint64_t entry)
{
    uint64_t slot = list_at(a->index, a->index_format, (b * a->kv_heads + g) * a->index_slots + entry);

    for (uint64_t j = 0; j < a->count; j++)
        for (uint32_t i = 0; slot_of(a, j) == slot && i < a->head_dim; i++) {
            uint64_t row = b * a->tokens + a->first + j, at = (uint64_t)g * a->head_dim + i;

            kb_store(a->direction.format, kb_kv_row(&a->lower_kept, b, g, entry), i, ((const float *)kb_at(a->lower))[row * a->lower_stride + at]);
            kb_store(a->direction.format, kb_kv_row(&a->upper_kept, b, g, entry), i, ((const float *)kb_at(a->upper))[row * a->upper_stride + at]);
        }
}

kvp_err ref_pair_merge(const void *args, struct kvp_error *e)
{
    const struct kb_pair_merge *a = args;
    uint32_t heads = a->per_token ? a->kv_heads : 1;
    double *dir = ref_scratch((uint64_t)heads * a->head_dim, e);
    struct entry *sort = malloc((a->count + 1) * sizeof(*sort));

    if (!dir || !sort) {
        free(dir);
        free(sort);
        return kvp_fail(e, KVP_ENOMEM, "ref: no memory to merge %llu tokens", (unsigned long long)a->count);
    }
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t g = 0; g < a->kv_heads; g += heads) {
            for (uint64_t j = 0; j < a->count; j++)
                sort[j] = (struct entry){(float)merge_token(a, b, g, heads, j, dir), j};
            if (!a->given && a->kept > a->was)
                choose(a, b, g, heads, sort);
            for (uint32_t h = g; h < g + heads; h++)
                for (uint64_t i = 0; i < a->kept; i++)
                    keep_rows(a, b, h, i);
        }
    free(dir);
    free(sort);
    return KVP_OK;
}

/* Element i of the k or v row of a slot. */
static double restored(const struct kb_attn_merged *x, bool key, uint64_t b, uint32_t g, uint64_t slot, uint32_t i)
{
    const struct kb_attn_decode *a = &x->attn;
    const struct kb_kv *dir = key ? &a->k : &a->v, *kept = key ? &x->k_kept : &x->v_kept;
    uint64_t list = (b * a->kv_heads + g) * x->index_slots, at = (x->per_token ? b : b * a->kv_heads + g) * x->size_slots + slot;

    for (uint64_t n = 0; n < x->kept; n++)
        if (list_at(key ? x->k_index : x->v_index, x->index_format, list + n) == slot)
            return (double)kb_load(kept->format, kb_kv_row(kept, b, g, n), i);
    return (double)kb_load(dir->format, kb_kv_row(dir, b, g, slot), i) * (double)kb_load(dir->format, kb_at(key ? x->k_size : x->v_size), at);
}

static void attend_one(const struct kb_attn_merged *x, uint64_t b, uint32_t h, double *s)
{
    const struct kb_attn_decode *a = &x->attn;
    uint32_t g = h / (a->heads / a->kv_heads), d = a->head_dim;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)h * d;
    float *out = (float *)kb_at(a->out) + b * a->out_stride + (uint64_t)h * d;
    uint64_t n = 0, tail = b * a->tail_stride + (uint64_t)g * d;

    for (uint64_t j = 0; j < a->used; j++) {
        double sum = 0;

        for (uint32_t i = 0; j != x->skip && i < d; i++)
            sum += (double)q[i] * restored(x, true, b, g, j, i);
        if (j != x->skip)
            s[n++] = (double)a->scale * sum;
    }
    if (a->tail_k.buf)
        s[n++] = (double)a->scale * ref_dot(q, KVP_F32, kb_at(a->tail_k), tail, d);
    ref_softmax(s, n);
    for (uint32_t i = 0; i < d; i++) {
        double sum = 0;

        n = 0;
        for (uint64_t j = 0; j < a->used; j++)
            if (j != x->skip)
                sum += s[n++] * restored(x, false, b, g, j, i);
        if (a->tail_k.buf)
            sum += s[n] * (double)((const float *)kb_at(a->tail_v))[tail + i];
        out[i] = (float)sum;
    }
}

kvp_err ref_attn_merged(const void *args, struct kvp_error *e)
{
    const struct kb_attn_merged *a = args;
    double *s = ref_scratch(a->attn.used + 1, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->attn.batch; b++)
        for (uint32_t h = 0; h < a->attn.heads; h++)
            attend_one(a, b, h, s);
    free(s);
    return KVP_OK;
}
