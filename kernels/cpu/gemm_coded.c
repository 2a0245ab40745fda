#include "kernels/cpu/gemm_coded.h"

#include "kernels/code.h"
#include "kernels/cpu/codes.h"
#include "kernels/ops/quant_rows.h"

enum {
    TILE_ROWS = 16,   /* of W: a line of 32-bit words, where codes are packed down the columns */
    TILE_COLS = 256,  /* 16 KiB as f32: half of the first cache; whole groups of every format but odd ones */
    PASS_ROWS = 8,    /* rows of x in one pass over a tile */
    STREAM_ROWS = 32, /* up to so many rows of x tiles are unpacked and thrown away */
    BLOCK_ROWS = 512,
    LEAST_ROWS = 8    /* fewer unpacked rows than this are not worth an sgemm */
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- tiles: rows [i, i + rows), columns [j, j + cols) of W, `stride` floats between rows of `to` ---------------------- */

struct tile {
    uint64_t i, rows, j, cols, stride;
    float *to;
};

static void multiply(float *x, uint64_t n, float by)
{
#pragma omp simd
    for (uint64_t c = 0; c < n; c++)
        x[c] *= by;
}

static void blocks(const struct kb_dev *dev, const struct kb_gemm *a, const struct tile *t)
{
    const struct kb_unit u = kb_unit_of(a->format);
    const uint64_t row = kb_row_bytes(a->format, a->k);

    for (uint64_t r = 0; r < t->rows; r++)
        dev->ops->code->unpack[a->format](t->to + r * t->stride,
                                          (const uint8_t *)kb_at(a->w) + (t->i + r) * row + t->j / u.elements * u.bytes, t->cols, 0);
}

static void scaled(const struct kb_dev *dev, const struct kb_gemm *a, const struct tile *t)
{
    const uint32_t g = a->code.group;
    const float *scale = kb_at(a->code.scale);

    for (uint64_t r = 0; r < t->rows; r++) {
        const uint64_t i = t->i + r;
        float *to = t->to + r * t->stride;

        dev->ops->code->unpack[a->format](to, (const uint8_t *)kb_at(a->w) + i * a->k + t->j, t->cols, 0);
        if (g < 2)
            multiply(to, t->cols, a->code.factor * scale[g ? i : 0]);
        for (uint64_t c = 0, n; g > 1 && c < t->cols; c += n) {
            n = least(t->cols - c, g - (t->j + c) % g);
            multiply(to + c, n, a->code.factor * scale[i / g * ((a->k + g - 1) / g) + (t->j + c) / g]);
        }
    }
}

/* A scale for each 64 elements of the whole matrix: runs end where these do, not where rows do. */
static void four_bit(const struct kb_dev *dev, const struct kb_gemm *a, const struct tile *t)
{
    const uint8_t *codes = kb_at(a->w);
    const float *scale = kb_at(a->code.scale);
    float values[16];

    (void)dev;
    for (unsigned c = 0; c < 16; c++)
        values[c] = a->code.coding == KB_CODING_NF4 ? kb_from_nf4(c) : kb_from_fp4(c);
    for (uint64_t r = 0; r < t->rows; r++) {
        const uint64_t first = (t->i + r) * a->k + t->j;
        float *to = t->to + r * t->stride;

        for (uint64_t c = 0, n; c < t->cols; c += n) {
            const uint64_t e = first + c;

            n = least(t->cols - c, 64 - e % 64);
            if (e % 2 == 0 && n % 2 == 0)
                dev->ops->code->look_up(to + c, codes + e / 2, n, values);
            else
                for (uint64_t x = 0; x < n; x++)
                    to[c + x] = values[(e + x) % 2 ? codes[(e + x) / 2] & 15 : codes[(e + x) / 2] >> 4];
            multiply(to + c, n, scale[e / 64]);
        }
    }
}

/* Codes run down the columns: a word has the next 32/bits elements of one row, its neighbour those of the next row. */
static void gptq(const struct kb_dev *dev, const struct kb_gemm *a, const struct tile *t)
{
    const uint32_t bits = a->code.bits, per = 32 / bits, mask = (1u << bits) - 1;
    const uint64_t zeros = (a->n + per - 1) / per;
    const uint32_t *words = kb_at(a->w), *zero = kb_at(a->code.zero);
    const uint16_t *scale = kb_at(a->code.scale);
    const int32_t *index = kb_at(a->code.index);
    float by[TILE_ROWS], minus[TILE_ROWS];
    int32_t have = -1;

    (void)dev;
    for (uint64_t c = 0; c < t->cols; c++) {
        const uint64_t j = t->j + c, g = (uint64_t)index[j];
        const uint32_t *word = words + j / per * a->n + t->i;

        for (uint64_t r = 0; index[j] != have && r < t->rows; r++) {
            const uint64_t i = t->i + r;

            by[r] = kb_from_f16(scale[g * a->n + i]);
            minus[r] = (float)((zero[g * zeros + i / per] >> bits * (i % per) & mask) + 1);
        }
        have = index[j];
        for (uint64_t r = 0; r < t->rows; r++)
            t->to[r * t->stride + c] = ((float)(word[r] >> bits * (j % per) & mask) - minus[r]) * by[r];
    }
}

static void awq(const struct kb_dev *dev, const struct kb_gemm *a, const struct tile *t)
{
    static const unsigned shifts[8] = {0, 16, 4, 20, 8, 24, 12, 28};
    const uint64_t words = (a->n + 7) / 8;
    const uint32_t *codes = kb_at(a->w), *zero = kb_at(a->code.zero);
    const uint16_t *scale = kb_at(a->code.scale);
    float by[TILE_ROWS], minus[TILE_ROWS];
    uint64_t have = UINT64_MAX;

    (void)dev;
    for (uint64_t c = 0; c < t->cols; c++) {
        const uint64_t j = t->j + c, g = j / a->code.group;

        for (uint64_t r = 0; g != have && r < t->rows; r++) {
            const uint64_t i = t->i + r;

            by[r] = kb_from_f16(scale[g * a->n + i]);
            minus[r] = (float)(zero[g * words + i / 8] >> shifts[i % 8] & 15);
        }
        have = g;
        for (uint64_t r = 0; r < t->rows; r++) {
            const uint64_t i = t->i + r;

            t->to[r * t->stride + c] = ((float)(codes[j * words + i / 8] >> shifts[i % 8] & 15) - minus[r]) * by[r];
        }
    }
}

static void mlx(const struct kb_dev *dev, const struct kb_gemm *a, const struct tile *t)
{
    const uint32_t bits = a->code.bits, per = 32 / bits, mask = (1u << bits) - 1, g = a->code.group;
    const uint64_t words = (a->k + per - 1) / per, groups = (a->k + g - 1) / g;
    const uint16_t *scale = kb_at(a->code.scale), *bias = kb_at(a->code.zero);

    for (uint64_t r = 0; r < t->rows; r++) {
        const uint64_t i = t->i + r;
        const uint32_t *row = (const uint32_t *)kb_at(a->w) + i * words;
        float *to = t->to + r * t->stride;

        for (uint64_t c = 0; c < t->cols; c++)
            to[c] = (float)(row[(t->j + c) / per] >> bits * ((t->j + c) % per) & mask);
        for (uint64_t c = 0, n; c < t->cols; c += n) {
            const uint64_t at = i * groups + (t->j + c) / g;

            n = least(t->cols - c, g - (t->j + c) % g);
            dev->ops->code->affine(to + c, n, kb_from_f16(scale[at]), kb_from_f16(bias[at]));
        }
    }
}

static void unpack(const struct kb_dev *dev, const struct kb_gemm *a, const struct tile *t)
{
    static void (*const table[])(const struct kb_dev *, const struct kb_gemm *, const struct tile *) = {
        [KB_CODING_NONE] = blocks, [KB_CODING_SCALED] = scaled, [KB_CODING_NF4] = four_bit, [KB_CODING_FP4] = four_bit,
        [KB_CODING_GPTQ] = gptq,   [KB_CODING_AWQ] = awq,       [KB_CODING_MLX] = mlx};

    table[a->code.coding](dev, a, t);
}

void cpu_weight_row(const struct kb_dev *dev, const struct kb_gemm *a, uint64_t i, float *to)
{
    if (cpu_is_plain(a->format))
        dev->ops->widen[a->format](to, (const uint8_t *)kb_at(a->w) + i * kb_row_bytes(a->format, a->k), a->k);
    else
        unpack(dev, a, &(struct tile){.i = i, .rows = 1, .cols = a->k, .stride = a->k, .to = to});
}

/* ---- few rows of x -------------------------------------------------------------------------------- */

static void finish(const struct kb_gemm *a, uint64_t row, uint64_t i, float sum)
{
    float *o = (float *)kb_at(a->out) + row * a->out_stride + i;

    sum += a->bias.buf ? kb_load(a->code.bias_format, kb_at(a->bias), i) : 0.0f;
    *o = a->accumulate ? *o + sum : sum;
}

/* Rows [i, i + n) of W against rows [m0, m0 + m) of x, m <= STREAM_ROWS. */
static void stream_rows(const struct kb_dev *dev, const struct kb_gemm *a, uint64_t i, uint64_t n, uint64_t m0, uint64_t m)
{
    float tile[TILE_ROWS * TILE_COLS], y[STREAM_ROWS * TILE_ROWS], part[PASS_ROWS * TILE_ROWS];

    for (uint64_t j = 0; j < a->k; j += TILE_COLS) {
        const struct tile t = {i, n, j, least(TILE_COLS, a->k - j), TILE_COLS, tile};

        unpack(dev, a, &t);
        for (uint64_t r = 0; r < m; r += PASS_ROWS) {
            const uint32_t rows = (uint32_t)least(PASS_ROWS, m - r);
            const float *x = (const float *)kb_at(a->x) + (m0 + r) * a->x_stride + j;

            dev->ops->dots[KVP_F32](x, a->x_stride, rows, tile, TILE_COLS, n, t.cols, 1, part, TILE_ROWS, NULL);
            for (uint32_t p = 0; p < rows; p++)
                for (uint64_t c = 0; c < n; c++)
                    y[(r + p) * TILE_ROWS + c] = (j ? y[(r + p) * TILE_ROWS + c] : 0) + part[p * TILE_ROWS + c];
        }
    }
    for (uint64_t r = 0; r < m; r++)
        for (uint64_t c = 0; c < n; c++)
            finish(a, m0 + r, i + c, y[r * TILE_ROWS + c]);
}

static kvp_err stream(struct kb_dev *dev, const struct kb_gemm *a)
{
    const uint64_t tiles = (a->n + TILE_ROWS - 1) / TILE_ROWS;

#pragma omp parallel for schedule(dynamic, 1) num_threads(cpu_threads(dev, a->m * a->n * a->k))
    for (uint64_t c = 0; c < tiles; c++)
        for (uint64_t m = 0; m < a->m; m += STREAM_ROWS)
            stream_rows(dev, a, c * TILE_ROWS, least(TILE_ROWS, a->n - c * TILE_ROWS), m, least(STREAM_ROWS, a->m - m));
    return KVP_OK;
}

/* ---- many rows of x ------------------------------------------------------------------------------- */

static void block_rows(const struct kb_dev *dev, const struct kb_gemm *a, uint64_t first, uint64_t end, float *work)
{
    float *out = kb_at(a->out);
    const bool add = a->accumulate || a->bias.buf;

    for (uint64_t r = 0; a->bias.buf && r < a->m; r++)
        for (uint64_t i = first; i < end; i++) {
            float *o = &out[r * a->out_stride + i];

            *o = (a->accumulate ? *o : 0.0f) + kb_load(a->code.bias_format, kb_at(a->bias), i);
        }
    for (uint64_t i = first; i < end; i += TILE_ROWS)
        for (uint64_t j = 0; j < a->k; j += TILE_COLS) {
            const struct tile t = {i, least(TILE_ROWS, end - i), j, least(TILE_COLS, a->k - j), a->k, work + (i - first) * a->k + j};

            unpack(dev, a, &t);
        }
    cpu_product(dev, true, a->m, end - first, a->k, 1, kb_at(a->x), a->x_stride, work, a->k, add ? 1 : 0, out + first, a->out_stride);
}

static kvp_err many(struct kb_dev *dev, const struct kb_gemm *a, uint64_t rows)
{
    const uint64_t parts = dev->threads, share = a->work_bytes / 4 / parts;

#pragma omp parallel for schedule(static, 1) num_threads((int)parts)
    for (uint64_t part = 0; part < parts; part++) {
        const uint64_t first = a->n * part / parts, end = a->n * (part + 1) / parts;

        for (uint64_t i = first; i < end; i += rows)
            block_rows(dev, a, i, least(i + rows, end), (float *)kb_at(a->work) + part * share);
    }
    return KVP_OK;
}

/* ---- int8 by int8 ---------------------------------------------------------------------------------- */

/* 16 rows of W stay in the first or second cache while all rows of x pass. */
static kvp_err in_int8(struct kb_dev *dev, const struct kb_gemm *a)
{
    const uint64_t tiles = (a->n + TILE_ROWS - 1) / TILE_ROWS;
    const float *scale = kb_at(a->code.scale), *x_scale = kb_at(a->code.x_scale);
    const int8_t *x = kb_at(a->x), *w = kb_at(a->w);

#pragma omp parallel for schedule(dynamic, 1) num_threads(cpu_threads(dev, a->m * a->n * a->k))
    for (uint64_t c = 0; c < tiles; c++) {
        const uint64_t i = c * TILE_ROWS, n = least(TILE_ROWS, a->n - i);
        int32_t sum[4 * TILE_ROWS];

        for (uint64_t r = 0; r < a->m; r += 4) {
            const uint32_t rows = (uint32_t)least(4, a->m - r);

            dev->ops->code->dots8(x + r * a->k, rows, w + i * a->k, n, a->k, sum, TILE_ROWS);
            for (uint32_t p = 0; p < rows; p++)
                for (uint64_t q = 0; q < n; q++)
                    finish(a, r + p, i + q,
                           (float)sum[p * TILE_ROWS + q] * (x_scale[r + p] * (a->code.factor * scale[a->code.group ? i + q : 0])));
        }
    }
    return KVP_OK;
}

kvp_err cpu_quant_rows(struct kb_dev *dev, const void *args, struct kvp_error *e)
{
    const struct kb_quant_rows *a = args;

    (void)e;
#pragma omp parallel for num_threads(cpu_threads(dev, a->rows * a->width))
    for (uint64_t r = 0; r < a->rows; r++) {
        const struct kb_kv row = {.data = a->codes, .format = KVP_INT8, .heads = 1, .dim = a->width, .slots = a->rows,
                                  .scales = KB_SCALES_ROW, .scale = a->scale};

        cpu_kv_store(dev, &row, 0, 0, r, (const float *)kb_at(a->x) + r * a->x_stride);
    }
    return KVP_OK;
}

kvp_err cpu_gemm_coded(struct kb_dev *dev, const struct kb_gemm *a, struct kvp_error *e)
{
    const uint64_t rows = a->work.buf ? least(BLOCK_ROWS, a->work_bytes / 4 / dev->threads / a->k) : 0;

    (void)e;
    if (a->code.coding == KB_CODING_W8A8)
        return in_int8(dev, a);
    return a->m <= STREAM_ROWS || rows < LEAST_ROWS ? stream(dev, a) : many(dev, a, rows);
}
