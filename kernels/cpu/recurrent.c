/* recurrent.c - convolution, token shift and the recurrences: blocks of channels or heads in parallel, each through
 * all tokens, its state in f32 meanwhile. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/recurrent.h"

#include "kernels/ops.h"

#include <math.h>
#include <string.h>

enum { BLOCK = CPU_BLOCK }; /* channels */

/* Tasks are dealt to as many parts as there is room for, in runs: part p has tasks [n * p / parts, n * (p + 1) / parts). */
static uint64_t parts_of(const struct kb_dev *dev, uint64_t tasks)
{
    return tasks < dev->threads ? tasks : dev->threads;
}

static const float *floats(struct kb_span s, uint64_t at)
{
    return s.buf ? (const float *)kb_at(s) + at : NULL;
}

static void *place(enum kvp_format f, struct kb_span s, uint64_t at)
{
    return (unsigned char *)kb_at(s) + at * kb_element(f);
}

static uint32_t width_at(uint64_t first, uint64_t end)
{
    return (uint32_t)(end - first < BLOCK ? end - first : BLOCK);
}

/* `rows` runs of `width` elements, `from_step` apart, into runs `step` apart; and back. */
static void take(const struct kb_dev *dev, float *to, uint64_t step, enum kvp_format f, struct kb_span s, uint64_t at,
                 uint64_t from_step, uint64_t rows, uint64_t width)
{
    for (uint64_t j = 0; j < rows; j++)
        dev->ops->widen[f](to + j * step, place(f, s, at + j * from_step), width);
}

static void give(const struct kb_dev *dev, const float *from, uint64_t step, enum kvp_format f, struct kb_span s, uint64_t at,
                 uint64_t to_step, uint64_t rows, uint64_t width)
{
    for (uint64_t j = 0; j < rows; j++)
        dev->ops->narrow[f](place(f, s, at + j * to_step), from + j * step, width);
}

/* A state to work on: itself where it is f32, else widened into `room`; *step: between its rows. */
static float *state_in(const struct kb_dev *dev, float *room, uint32_t *step, enum kvp_format f, struct kb_span s, uint64_t at,
                       uint64_t row, uint64_t rows, uint64_t width)
{
    *step = (uint32_t)(f == KVP_F32 ? row : width);
    if (f == KVP_F32)
        return place(f, s, at);
    take(dev, room, width, f, s, at, row, rows, width);
    return room;
}

static void state_out(const struct kb_dev *dev, const float *room, enum kvp_format f, struct kb_span s, uint64_t at, uint64_t row,
                      uint64_t rows, uint64_t width)
{
    if (f != KVP_F32)
        give(dev, room, width, f, s, at, row, rows, width);
}

/* ---- convolution ---------------------------------------------------------------------------------- */

/* Where a block of channels finds its weights and columns, in f32. */
struct conv_room {
    float *w, *bias; /* [taps, BLOCK], [BLOCK] */
    float *old, *new; /* [columns, BLOCK] */
    const float **x; /* [taps] */
};

/* The input `back` tokens before the one after the last of `tokens` rows; rows before the first are columns. */
static const float *input(const struct kb_conv *a, const float *x, const float *columns, int64_t t)
{
    return t >= 0 ? x + (uint64_t)t * a->stride : columns + (uint64_t)(t + (int64_t)a->columns) * BLOCK;
}

static void conv_block(const struct kb_dev *dev, const struct kb_conv *a, uint64_t b, uint64_t c0, const struct conv_room *r)
{
    const uint32_t width = width_at(c0, a->channels);
    const uint64_t kept = b * a->columns * a->channels + c0;
    float *x = (float *)kb_at(a->x) + b * a->tokens * a->stride + c0;

    for (uint32_t c = 0; c < width; c++)
        for (uint32_t j = 0; j < a->taps; j++)
            r->w[(uint64_t)j * BLOCK + c] = kb_load(a->format, kb_at(a->w), (c0 + c) * a->taps + j);
    if (a->bias.buf)
        dev->ops->widen[a->format](r->bias, place(a->format, a->bias, c0), width);
    take(dev, r->old, BLOCK, a->state_format, a->state, kept, a->channels, a->columns, width);
    for (uint32_t j = 0; j < a->columns; j++)
        memcpy(r->new + (uint64_t)j * BLOCK, input(a, x, r->old, (int64_t)a->tokens + j - (int64_t)a->columns), width * sizeof(float));
    for (uint64_t t = a->tokens; t-- > 0;) { /* from the end: a row is written when none needs it any more */
        for (uint32_t j = 0; j < a->taps; j++)
            r->x[j] = input(a, x, r->old, (int64_t)(t + 1 + j) - (int64_t)a->taps);
        dev->ops->rec->taps(x + t * a->stride, r->x, a->taps, r->w, BLOCK, a->bias.buf ? r->bias : NULL, a->silu, width);
    }
    give(dev, r->new, BLOCK, a->state_format, a->state, kept, a->channels, a->columns, width);
}

kvp_err cpu_conv(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_conv *a = args;
    const uint64_t blocks = (a->channels + BLOCK - 1) / BLOCK, tasks = a->batch * blocks, parts = parts_of(dev, tasks);
    const uint64_t pointers = (a->taps * sizeof(float *) + sizeof(float) - 1) / sizeof(float);
    uint64_t stride;
    float *room;

    KVP_TRY(cpu_scratch(dev, &room, &stride, parts, pointers + ((uint64_t)a->taps + 1 + 2ull * a->columns) * BLOCK, e));
#pragma omp parallel for num_threads(cpu_threads(dev, a->batch * a->tokens * a->channels * a->taps))
    for (uint64_t part = 0; part < parts; part++) {
        float *own = room + part * stride, *w = own + pointers, *bias = w + (uint64_t)a->taps * BLOCK, *old = bias + BLOCK;
        const struct conv_room r = {.w = w, .bias = bias, .old = old, .new = old + (uint64_t)a->columns * BLOCK,
                                    .x = (const float **)(void *)own};

        for (uint64_t i = tasks * part / parts; i < tasks * (part + 1) / parts; i++)
            conv_block(dev, a, i / blocks, i % blocks * BLOCK, &r);
    }
    return KVP_OK;
}

/* ---- token shift ---------------------------------------------------------------------------------- */

/* Of sequences that begin within the rows, what came before: widened, one after the other. */
struct before {
    uint64_t first; /* sequence */
    const float *rows;
    uint64_t stride;
};

static void shift_row(const struct kb_dev *dev, const struct kb_shift *a, uint64_t i, const float *mix, const struct before *s)
{
    const uint64_t n = a->first + i;
    const float *x = floats(a->x, n * a->x_stride);
    const float *before = n % a->tokens ? x - a->x_stride : s->rows + (n / a->tokens - s->first) * s->stride;

    dev->ops->rec->blend((float *)kb_at(a->out) + i * a->out_stride, x, before, mix, floats(a->more, i * a->more_stride), a->width);
}

kvp_err cpu_shift(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_shift *a = args;
    const uint64_t end = a->first + a->rows, begins = (a->first + a->tokens - 1) / a->tokens;
    const uint64_t count = (end + a->tokens - 1) / a->tokens - begins;
    struct before s = {.first = begins};
    uint64_t stride;
    float *mix;

    KVP_TRY(cpu_scratch(dev, &mix, &stride, 1 + count, a->width, e));
    s.rows = mix + stride;
    s.stride = stride;
    dev->ops->widen[a->format](mix, kb_at(a->mix), a->width);
    for (uint32_t i = 0; a->own && i < a->width; i++)
        mix[i] = 1 - mix[i];
    take(dev, mix + stride, stride, a->state_format, a->state, begins * a->state_stride, a->state_stride, count, a->width);
#pragma omp parallel for num_threads(cpu_threads(dev, a->rows * a->width))
    for (uint64_t i = 0; i < a->rows; i++)
        shift_row(dev, a, i, mix, &s);
    for (uint64_t b = a->first / a->tokens; a->keep && (b + 1) * a->tokens <= end; b++)
        give(dev, floats(a->x, ((b + 1) * a->tokens - 1) * a->x_stride), 0, a->state_format, a->state, b * a->state_stride, 0, 1,
             a->width);
    return KVP_OK;
}

kvp_err cpu_gate(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_gate *a = args;

    (void)e;
#pragma omp parallel for num_threads(cpu_threads(dev, 4 * a->rows * a->width))
    for (uint64_t n = 0; n < a->rows; n++)
        dev->ops->rec->gate((float *)kb_at(a->out) + n * a->out_stride, floats(a->gate, n * a->gate_stride),
                            floats(a->value, n * a->value_stride), a->width);
    return KVP_OK;
}

/* ---- Mamba ---------------------------------------------------------------------------------------- */

/* Decays and skips of a block of channels serve all sequences, which go together where their states are f32. */
static void ssm_block(const struct kb_dev *dev, const struct kb_ssm_scan *a, uint64_t c0, float *room)
{
    const uint32_t width = width_at(c0, a->channels);
    const uint64_t size = (uint64_t)a->n * width, together = a->state_format == KVP_F32 ? a->batch : 1;
    float *decay = room, *own = decay + size, *d = own + size, least;

    dev->ops->widen[a->format](decay, place(a->format, a->a_log, c0 * a->n), size);
    least = -1.001f * expf(dev->ops->max(decay, size));
    dev->ops->rec->decays(decay, size);
    dev->ops->widen[a->format](d, place(a->format, a->d, c0), width);
    for (uint64_t b = 0; b < a->batch; b += together) {
        const uint64_t row = b * a->tokens * a->stride, kept = (b * a->channels + c0) * a->n;
        struct cpu_ssm x = {.rows = together * a->tokens, .tokens = a->tokens, .step = (uint64_t)a->channels * a->n, .width = width,
                            .n = a->n, .least = least, .stride = a->stride, .out_stride = a->out_stride, .a = decay, .d = d,
                            .x = floats(a->x, row + c0), .dt = floats(a->dt, row + c0), .b = floats(a->b, row),
                            .c = floats(a->c, row), .z = floats(a->z, row + c0),
                            .out = (float *)kb_at(a->out) + b * a->tokens * a->out_stride + c0};
        uint32_t step;

        x.h = state_in(dev, own, &step, a->state_format, a->state, kept, size, 1, size);
        dev->ops->rec->ssm(&x);
        state_out(dev, own, a->state_format, a->state, kept, size, 1, size);
    }
}

kvp_err cpu_ssm_scan(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_ssm_scan *a = args;
    const uint64_t blocks = (a->channels + BLOCK - 1) / BLOCK, parts = parts_of(dev, blocks);
    uint64_t stride;
    float *room;

    KVP_TRY(cpu_scratch(dev, &room, &stride, parts, (2ull * a->n + 1) * BLOCK, e));
#pragma omp parallel for num_threads(cpu_threads(dev, a->batch * a->tokens * a->channels * a->n))
    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t i = blocks * part / parts; i < blocks * (part + 1) / parts; i++)
            ssm_block(dev, a, i * BLOCK, room + part * stride);
    return KVP_OK;
}

static void ssd_head(const struct kb_dev *dev, const struct kb_ssd_scan *a, uint64_t b, uint32_t head, float *room)
{
    const uint64_t row = b * a->tokens * a->stride, first = (uint64_t)head * a->head_dim;
    const uint64_t shared = (uint64_t)(head / (a->heads / a->groups)) * a->n, size = (uint64_t)a->head_dim * a->n;
    const uint64_t kept = (b * a->heads + head) * size;
    uint32_t step;
    float *h = state_in(dev, room, &step, a->state_format, a->state, kept, size, 1, size);

    dev->ops->rec->ssd(&(struct cpu_ssd){
        .tokens = a->tokens, .dim = a->head_dim, .n = a->n, .stride = a->stride, .out_stride = a->out_stride,
        .a = -expf(kb_load(a->format, kb_at(a->a_log), head)), .d = kb_load(a->format, kb_at(a->d), head),
        .bias = kb_load(a->format, kb_at(a->dt_bias), head), .x = floats(a->x, row + first), .dt = floats(a->dt, row + head),
        .b = floats(a->b, row + shared), .c = floats(a->c, row + shared), .z = floats(a->z, row + first), .h = h,
        .out = (float *)kb_at(a->out) + b * a->tokens * a->out_stride + first});
    state_out(dev, h, a->state_format, a->state, kept, size, 1, size);
}

kvp_err cpu_ssd_scan(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_ssd_scan *a = args;
    const uint64_t size = (uint64_t)a->head_dim * a->n, tasks = a->batch * a->heads, parts = parts_of(dev, tasks);
    uint64_t stride;
    float *room;

    KVP_TRY(cpu_scratch(dev, &room, &stride, parts, size, e));
#pragma omp parallel for num_threads(cpu_threads(dev, a->tokens * tasks * size))
    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t i = tasks * part / parts; i < tasks * (part + 1) / parts; i++)
            ssd_head(dev, a, i / a->heads, (uint32_t)(i % a->heads), room + part * stride);
    return KVP_OK;
}

/* ---- RWKV ----------------------------------------------------------------------------------------- */

static void wkv4_block(const struct kb_dev *dev, const struct kb_wkv4 *a, uint64_t b, uint64_t c0, float *room)
{
    const uint32_t width = width_at(c0, a->channels);
    const uint64_t row = b * a->tokens * a->stride + c0, kept = b * 3 * a->channels + c0;
    float *w = room, *u = w + BLOCK, *own = u + BLOCK, *s;
    uint32_t step;

    dev->ops->widen[a->format](w, place(a->format, a->decay, c0), width);
    dev->ops->rec->decays(w, width);
    dev->ops->widen[a->format](u, place(a->format, a->first, c0), width);
    s = state_in(dev, own, &step, a->state_format, a->state, kept, a->channels, 3, width);
    dev->ops->rec->wkv4(&(struct cpu_wkv4){
        .tokens = a->tokens, .width = width, .step = step, .stride = a->stride, .out_stride = a->out_stride, .w = w, .u = u,
        .r = floats(a->r, row), .k = floats(a->k, row), .v = floats(a->v, row), .s = s,
        .out = (float *)kb_at(a->out) + b * a->tokens * a->out_stride + c0});
    state_out(dev, own, a->state_format, a->state, kept, a->channels, 3, width);
}

kvp_err cpu_wkv4(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_wkv4 *a = args;
    const uint64_t blocks = (a->channels + BLOCK - 1) / BLOCK, tasks = a->batch * blocks, parts = parts_of(dev, tasks);
    uint64_t stride;
    float *room;

    KVP_TRY(cpu_scratch(dev, &room, &stride, parts, 5 * BLOCK, e));
#pragma omp parallel for num_threads(cpu_threads(dev, 16 * a->batch * a->tokens * a->channels))
    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t i = tasks * part / parts; i < tasks * (part + 1) / parts; i++)
            wkv4_block(dev, a, i / blocks, i % blocks * BLOCK, room + part * stride);
    return KVP_OK;
}

static void wkv6_head(const struct kb_dev *dev, const struct kb_wkv6 *a, uint64_t b, uint64_t head, float *room)
{
    const uint64_t d = a->dim, first = head * d, row = b * a->tokens * a->stride + first, kept = (b * a->heads + head) * d * d;
    float *decay = room, *u = decay + d, *w = u + d, *s;
    uint32_t step;

    dev->ops->widen[a->format](decay, place(a->format, a->decay, first), d);
    dev->ops->widen[a->format](u, place(a->format, a->first, first), d);
    s = state_in(dev, w + d, &step, a->state_format, a->state, kept, d * d, 1, d * d);
    dev->ops->rec->wkv6(&(struct cpu_wkv6){
        .tokens = a->tokens, .dim = a->dim, .stride = a->stride, .out_stride = a->out_stride, .decay = decay, .u = u,
        .r = floats(a->r, row), .k = floats(a->k, row), .v = floats(a->v, row), .w = floats(a->w, row), .s = s, .room = w,
        .out = (float *)kb_at(a->out) + b * a->tokens * a->out_stride + first});
    state_out(dev, s, a->state_format, a->state, kept, d * d, 1, d * d);
}

kvp_err cpu_wkv6(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_wkv6 *a = args;
    const uint64_t d = a->dim, tasks = a->batch * a->heads, parts = parts_of(dev, tasks);
    uint64_t stride;
    float *room;

    KVP_TRY(cpu_scratch(dev, &room, &stride, parts, d * d + 3 * d, e));
#pragma omp parallel for num_threads(cpu_threads(dev, a->tokens * tasks * d * d))
    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t i = tasks * part / parts; i < tasks * (part + 1) / parts; i++)
            wkv6_head(dev, a, i / a->heads, i % a->heads, room + part * stride);
    return KVP_OK;
}

static void wkv7_head(const struct kb_dev *dev, const struct kb_wkv7 *a, uint64_t b, uint64_t head, float *room)
{
    const uint64_t d = a->dim, first = head * d, row = b * a->tokens * a->stride + first, kept = (b * a->heads + head) * d * d;
    const uint64_t out = b * a->tokens * a->out_stride + first;
    float *k_k = room, *k_a = k_k + d, *own = k_a + d, *s;
    uint32_t step;

    dev->ops->widen[a->format](k_k, place(a->format, a->k_k, first), d);
    dev->ops->widen[a->format](k_a, place(a->format, a->k_a, first), d);
    s = state_in(dev, own + 7 * d, &step, a->state_format, a->state, kept, d * d, 1, d * d);
    dev->ops->rec->wkv7(&(struct cpu_wkv7){
        .tokens = a->tokens, .dim = a->dim, .stride = a->stride, .out_stride = a->out_stride, .k_k = k_k, .k_a = k_a,
        .r = floats(a->r, row), .w = floats(a->w, row), .a = floats(a->a, row), .v_first = floats(a->v_first, row),
        .v_mix = floats(a->v_mix, out), .k = (float *)kb_at(a->k) + row, .v = (float *)kb_at(a->v) + row, .s = s, .room = own,
        .out = (float *)kb_at(a->out) + out});
    state_out(dev, s, a->state_format, a->state, kept, d * d, 1, d * d);
}

kvp_err cpu_wkv7(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_wkv7 *a = args;
    const uint64_t d = a->dim, tasks = a->batch * a->heads, parts = parts_of(dev, tasks);
    uint64_t stride;
    float *room;

    KVP_TRY(cpu_scratch(dev, &room, &stride, parts, d * d + 9 * d, e));
#pragma omp parallel for num_threads(cpu_threads(dev, a->tokens * tasks * d * d))
    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t i = tasks * part / parts; i < tasks * (part + 1) / parts; i++)
            wkv7_head(dev, a, i / a->heads, i % a->heads, room + part * stride);
    return KVP_OK;
}

/* ---- head norm ------------------------------------------------------------------------------------ */

static void delta_head(const struct kb_dev *dev, const struct kb_delta_scan *a, uint64_t b, uint32_t head, float *room)
{
    const uint64_t row = b * a->tokens * a->stride, first = (uint64_t)head * a->head_dim;
    const uint64_t shared = (uint64_t)(head / (a->heads / a->groups)) * a->n, size = (uint64_t)a->head_dim * a->n;
    const uint64_t kept = (b * a->heads + head) * size;
    uint32_t step;
    float *s = state_in(dev, room, &step, a->state_format, a->state, kept, size, 1, size);

    dev->ops->rec->delta(&(struct cpu_delta){
        .tokens = a->tokens, .dim = a->head_dim, .n = a->n, .stride = a->stride, .out_stride = a->out_stride,
        .a = -expf(kb_load(a->format, kb_at(a->a_log), head)), .bias = kb_load(a->format, kb_at(a->dt_bias), head),
        .q = floats(a->q, row + shared), .k = floats(a->k, row + shared), .v = floats(a->v, row + first),
        .dt = floats(a->dt, row + head), .beta = floats(a->beta, row + head), .s = s, .room = room + size,
        .out = (float *)kb_at(a->out) + b * a->tokens * a->out_stride + first});
    state_out(dev, s, a->state_format, a->state, kept, size, 1, size);
}

kvp_err cpu_delta_scan(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_delta_scan *a = args;
    const uint64_t size = (uint64_t)a->head_dim * a->n, tasks = a->batch * a->heads, parts = parts_of(dev, tasks);
    uint64_t stride;
    float *room;

    KVP_TRY(cpu_scratch(dev, &room, &stride, parts, size + 2ull * a->n + a->head_dim, e));
#pragma omp parallel for num_threads(cpu_threads(dev, 2 * a->tokens * tasks * size))
    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t i = tasks * part / parts; i < tasks * (part + 1) / parts; i++)
            delta_head(dev, a, i / a->heads, (uint32_t)(i % a->heads), room + part * stride);
    return KVP_OK;
}

kvp_err cpu_head_norm(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_head_norm *a = args;
    const uint64_t width = (uint64_t)a->heads * a->dim, own = a->one ? a->dim : width;
    const struct kb_span from[3] = {a->weight, a->bias, a->r_k};
    uint64_t stride;
    float *w;

    KVP_TRY(cpu_scratch(dev, &w, &stride, 3, own, e));
    for (uint64_t i = 0; i < 3; i++)
        if (from[i].buf)
            dev->ops->widen[a->format](w + i * stride, kb_at(from[i]), own);
#pragma omp parallel for collapse(2) num_threads(cpu_threads(dev, 4 * a->rows * width))
    for (uint64_t n = 0; n < a->rows; n++)
        for (uint32_t h = 0; h < a->heads; h++) {
            const uint64_t first = (uint64_t)h * a->dim, in = n * a->in_stride + first, at = a->one ? 0 : first;

            dev->ops->rec->head_norm(&(struct cpu_head_norm){
                .dim = a->dim, .rms = a->rms, .silu = a->silu, .eps = (float)a->eps, .weight = w + at,
                .bias = a->bias.buf ? w + stride + at : NULL, .r_k = a->r_k.buf ? w + 2 * stride + at : NULL,
                .r = floats(a->r, in), .k = floats(a->k, in), .v = floats(a->v, in), .gate = floats(a->gate, in),
                .x = (float *)kb_at(a->x) + n * a->stride + first});
        }
    return KVP_OK;
}
