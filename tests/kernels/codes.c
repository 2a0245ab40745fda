/* codes.c - rows of codes and blocks: fp8 and e2m1 against their definition, rows packed to the same bits by every
 * backend, how far a packed row may be from itself, and attention over packed rows */
#include "tests/kernels/kit.h"

#include "kernels/code.h"

/* ---- numbers ------------------------------------------------------------------------------------- */

/* e4m3fn by its definition: 2^(e - 7) * (1 + m / 8), without the hidden bit where e is 0. */
static double e4m3(unsigned c)
{
    const int e = (int)(c >> 3 & 15), m = (int)(c & 7);
    const double v = e ? ldexp(8 + m, e - 10) : ldexp(m, -9);

    return c & 0x80 ? -v : v;
}

START_TEST(fp8_every_code)
{
    for (unsigned c = 0; c < 256; c++) {
        if ((c & 0x7f) == 0x7f) {
            ck_assert(isnan(kb_from_e4m3((uint8_t)c)));
            continue;
        }
        ck_assert_msg((double)kb_from_e4m3((uint8_t)c) == e4m3(c), "%02x is %g", c, (double)kb_from_e4m3((uint8_t)c));
        ck_assert_uint_eq(kb_to_e4m3((float)e4m3(c)), c);
    }
    ck_assert_uint_eq(kb_to_e4m3(NAN) & 0x7f, 0x7f);
    ck_assert_uint_eq(kb_to_e4m3(449), 0x7e);
    ck_assert_uint_eq(kb_to_e4m3(-INFINITY), 0xfe);
}
END_TEST

/* Between two neighbours: below the middle the lower one, above it the upper one, on it the even one. */
START_TEST(fp8_nearest)
{
    for (unsigned c = 0; c < 0x7e; c++) {
        const float middle = (float)((e4m3(c) + e4m3(c + 1)) / 2);

        ck_assert_uint_eq(kb_to_e4m3(middle), c % 2 ? c + 1 : c);
        ck_assert_uint_eq(kb_to_e4m3(nextafterf(middle, 0)), c);
        ck_assert_uint_eq(kb_to_e4m3(-nextafterf(middle, 1000)), 0x80 | (c + 1));
    }
}
END_TEST

START_TEST(e2m1_nearest)
{
    static const float values[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

    for (unsigned c = 0; c < 8; c++)
        ck_assert_float_eq(kb_from_e2m1((uint8_t)c), values[c]);
    for (unsigned c = 0; c < 7; c++) {
        const float middle = (values[c] + values[c + 1]) / 2;

        ck_assert_uint_eq(kb_to_e2m1(middle), c % 2 ? c + 1 : c);
        ck_assert_uint_eq(kb_to_e2m1(nextafterf(middle, 0)), c);
        ck_assert_uint_eq(kb_to_e2m1(nextafterf(middle, 9)), c + 1);
    }
    ck_assert_uint_eq(kb_to_e2m1(-100), 15);
}
END_TEST

/* ---- rows ---------------------------------------------------------------------------------------- */

struct coding {
    enum kvp_format format;
    enum kb_scales scales;
    enum kvp_format scale_format;
    uint32_t group;
    double within; /* of the largest magnitude of what shares a scale: half a step, and the scale's own rounding */
};

static const struct coding codings[] = {
    {KVP_FP8, KB_SCALES_TENSOR, KVP_F32, 0, 0.0359},  {KVP_FP8, KB_SCALES_ROW, KVP_F32, 0, 0.0359},
    {KVP_INT8, KB_SCALES_TENSOR, KVP_F32, 0, 0.00394}, {KVP_INT8, KB_SCALES_ROW, KVP_F32, 0, 0.00394},
    {KVP_INT4, KB_SCALES_TENSOR, KVP_F32, 0, 0.0715},  {KVP_INT4, KB_SCALES_ROW, KVP_F32, 0, 0.0715},
    {KVP_FP8, KB_SCALES_GROUP, KVP_F16, 32, 0.037},    {KVP_INT8, KB_SCALES_GROUP, KVP_F32, 8, 0.00394},
    {KVP_INT4, KB_SCALES_GROUP, KVP_F16, 16, 0.07},    {KVP_INT4, KB_SCALES_GROUP, KVP_BF16, 32, 0.08},
    {KVP_INT4, KB_SCALES_GROUP, KVP_F32, 1, 1e-7},     {KVP_Q8_0, KB_SCALES_NONE, KVP_F32, 0, 0.0045},
    {KVP_Q4_0, KB_SCALES_NONE, KVP_F32, 0, 0.126},     {KVP_Q4_1, KB_SCALES_NONE, KVP_F32, 0, 0.068},
    {KVP_Q5_0, KB_SCALES_NONE, KVP_F32, 0, 0.064},     {KVP_Q5_1, KB_SCALES_NONE, KVP_F32, 0, 0.034},
    {KVP_MXFP4, KB_SCALES_NONE, KVP_F32, 0, 0.26},     {KVP_MXFP8, KB_SCALES_NONE, KVP_F32, 0, 0.126},
    {KVP_NVFP4, KB_SCALES_NONE, KVP_F32, 0, 0.24},
};

struct place {
    uint64_t batch, slots;
    uint32_t heads, dim, block;
};

static const struct place places[] = {{1, 5, 1, 32, 0}, {2, 7, 3, 64, 0}, {2, 40, 2, 96, 16}, {1, 9, 2, 128, 4}};

/* Storage for `rows` rows, all NaN, scales too. */
static struct kb_kv rows_of(const struct coding *c, const struct place *p)
{
    struct kb_kv kv = {.format = c->format, .heads = p->heads, .dim = p->dim, .slots = p->slots, .block = p->block,
                       .scales = c->scales, .scale_format = c->scale_format, .group = c->group};
    uint64_t rows = p->batch * p->slots * p->heads;

    if (p->block) {
        kv.table_stride = (p->slots + p->block - 1) / p->block + 1;
        kv.table = kit_shuffled(p->batch * kv.table_stride);
        rows = p->batch * kv.table_stride * p->block * p->heads;
    }
    kv.data = kit_bytes(rows * kb_row_bytes(c->format, p->dim), 0xff);
    if (c->scales == KB_SCALES_TENSOR)
        kv.scale = kit_poison(KVP_F32, 1);
    if (c->scales == KB_SCALES_ROW)
        kv.scale = kit_poison(KVP_F32, rows);
    if (c->scales == KB_SCALES_GROUP) {
        kv.scale = kit_poison(c->scale_format, rows * (p->dim / c->group));
        kv.shift = kit_poison(c->scale_format, rows * (p->dim / c->group));
    }
    return kv;
}

/* Rows of every size, one of zeros, one of a constant. */
static struct kb_cache_write writes(const struct coding *c, const struct place *p, uint64_t count)
{
    struct kb_cache_write a = {.batch = p->batch, .count = count, .dst = rows_of(c, p), .src_tokens = count + 2, .src_first = 1,
                               .src_stride = (uint64_t)p->heads * p->dim + 3, .calibrate = true};
    float *x;

    a.src = kit_rows(p->batch * a.src_tokens, (uint64_t)p->heads * p->dim, a.src_stride);
    x = kb_at(a.src);
    for (uint64_t r = 0; r < p->batch * a.src_tokens; r++)
        for (uint64_t i = 0; i < (uint64_t)p->heads * p->dim; i++) {
            float *v = &x[r * a.src_stride + i];

            *v = r == 2 ? 0 : r == 3 ? -1.75f : *v * ldexpf(1, (int)(r % 5) * 3 - 3);
        }
    return a;
}

static bool has(const struct kb_span s)
{
    return s.buf != NULL;
}

START_TEST(rows_are_the_same_bits)
{
    static const struct kit_out all[] = {KIT_OUT(kb_cache_write, dst.data, KVP_F16, 0, false),
                                         KIT_OUT(kb_cache_write, dst.scale, KVP_F16, 0, false),
                                         KIT_OUT(kb_cache_write, dst.shift, KVP_F16, 0, false)};

    for (size_t i = 0; i < COUNT(places); i++) {
        struct kb_cache_write a = writes(&codings[_i], &places[i], places[i].slots - 1);

        if (a.dst.dim % (codings[_i].group ? codings[_i].group : kb_unit_of(a.dst.format).elements))
            continue;
        kit_check(KB_CACHE_WRITE, &a, sizeof(a), all, has(a.dst.shift) ? 3 : has(a.dst.scale) ? 2 : 1);
    }
}
END_TEST

/* Two heads of a cache take one head of the rows; its scale is theirs, and nothing beyond the rows is looked at. */
START_TEST(rows_of_repeated_heads)
{
    static const struct place p = {2, 6, 4, 32, 0};
    static const struct kit_out all[] = {KIT_OUT(kb_cache_write, dst.data, KVP_F16, 0, false),
                                         KIT_OUT(kb_cache_write, dst.scale, KVP_F16, 0, false)};
    struct kb_cache_write a = writes(&codings[_i], &p, 5);
    float most = 0;

    a.repeat = 2;
    a.src_stride = 2 * 32 + 5;
    a.src = kit_rows(p.batch * a.src_tokens, 2 * 32, a.src_stride);
    kit_check(KB_CACHE_WRITE, &a, sizeof(a), all, has(a.dst.scale) ? 2 : 1);
    if (codings[_i].scales != KB_SCALES_TENSOR)
        return;
    for (uint64_t r = 0; r < p.batch * a.src_tokens; r++)
        for (uint64_t i = 0; i < 64; i++)
            most = fmaxf(most, fabsf(((float *)kb_at(a.src))[r * a.src_stride + i]));
    ck_assert_float_eq_tol(*(float *)kb_at(a.dst.scale) * (a.dst.format == KVP_FP8 ? 448 : a.dst.format == KVP_INT8 ? 127 : 7), most, 1e-6f);
}
END_TEST

/* What the reference stored, read here by the formulas of kernels/ops/kv.h and ggml's dequantize_row_*. */
static double element(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t slot, uint32_t i)
{
    const unsigned char *row = kb_kv_row(kv, b, h, slot), *p = row + i / 32 * kb_unit_of(kv->format).bytes;
    const uint64_t index = kb_kv_index(kv, b, h, slot), g = kv->group ? index * (kv->dim / kv->group) + i / kv->group : 0;
    const uint32_t j = i % 32;
    uint16_t d = 0, m = 0;
    double code;

    if (kb_is_code(kv->format)) {
        const bool group = kv->scales == KB_SCALES_GROUP;

        code = kv->format == KVP_FP8 ? e4m3(row[i])
               : kv->format == KVP_INT4 ? (double)((i % 2 ? row[i / 2] >> 4 : row[i / 2] & 15) - (group ? 0 : 8))
               : group                  ? (double)row[i]
                                        : (double)(signed char)row[i];
        if (group)
            return code * (double)kb_load(kv->scale_format, kb_at(kv->scale), g) + (double)kb_load(kv->scale_format, kb_at(kv->shift), g);
        return code * (double)((float *)kb_at(kv->scale))[kv->scales == KB_SCALES_ROW ? index : 0];
    }
    memcpy(&d, p, 2);
    memcpy(&m, p + 2, 2);
    switch (kv->format) {
    case KVP_Q8_0:
        return (double)kb_from_f16(d) * (signed char)p[2 + j];
    case KVP_Q4_0:
        return (double)kb_from_f16(d) * ((j < 16 ? p[2 + j] & 15 : p[2 + j - 16] >> 4) - 8);
    case KVP_Q4_1:
        return (double)kb_from_f16(d) * (j < 16 ? p[4 + j] & 15 : p[4 + j - 16] >> 4) + (double)kb_from_f16(m);
    case KVP_Q5_0:
        return (double)kb_from_f16(d) * (((j < 16 ? p[6 + j] & 15 : p[6 + j - 16] >> 4) | (p[2 + j / 8] >> j % 8 & 1) << 4) - 16);
    case KVP_Q5_1:
        return (double)kb_from_f16(d) * ((j < 16 ? p[8 + j] & 15 : p[8 + j - 16] >> 4) | (p[4 + j / 8] >> j % 8 & 1) << 4) +
               (double)kb_from_f16(m);
    case KVP_MXFP4:
        return ldexp(1, p[0] - 127) * (double)kb_from_e2m1(j < 16 ? p[1 + j] & 15 : p[1 + j - 16] >> 4);
    case KVP_MXFP8:
        return ldexp(1, p[0] - 127) * e4m3(p[1 + j]);
    default: /* NVFP4 */
        p = row + i / 16 * 9;
        return e4m3(p[0]) * (double)kb_from_e2m1(i % 2 ? p[1 + i % 16 / 2] >> 4 : p[1 + i % 16 / 2] & 15);
    }
}

/* Largest magnitude of what shares the scale of element i; of the whole source for a tensor's. */
static double shared(const struct coding *c, const struct kb_cache_write *a, const float *row, uint32_t i)
{
    const uint32_t n = c->group ? c->group : kb_is_block(c->format) ? kb_unit_of(c->format).elements : a->dst.dim;
    double most = 0;

    if (c->scales == KB_SCALES_TENSOR) {
        for (uint64_t r = 0; r < a->batch * a->src_tokens; r++)
            for (uint64_t x = 0; x < (uint64_t)a->dst.heads * a->dst.dim; x++)
                most = fmax(most, fabs((double)((float *)kb_at(a->src))[r * a->src_stride + x]));
        return most;
    }
    for (uint32_t x = i / n * n; x < i / n * n + n; x++)
        most = fmax(most, fabs((double)row[x]));
    return most;
}

START_TEST(rows_come_back)
{
    const struct coding *c = &codings[_i];
    struct kb_cache_write a = writes(c, &places[3], 8);

    kit_run(KB_CACHE_WRITE, &a);
    for (uint32_t h = 0; h < a.dst.heads; h++)
        for (uint64_t j = 0; j < a.count; j++) {
            const float *row = (float *)kb_at(a.src) + (1 + j) * a.src_stride + h * a.dst.dim;

            for (uint32_t i = 0; i < a.dst.dim; i++)
                ck_assert_msg(fabs(element(&a.dst, 0, h, j, i) - (double)row[i]) <= c->within * shared(c, &a, row, i) + 0x1p-25,
                              "%s: row %d, element %u: %g is stored as %g, scale's largest %g", kvp_format_name(c->format), (int)j, i,
                              (double)row[i], element(&a.dst, 0, h, j, i), shared(c, &a, row, i));
        }
}
END_TEST

/* By hand: 127 in [-127, 127] is code 127 whatever the row's scale; q8_0's -127 likewise; int4 of -7..7 is itself plus 8. */
START_TEST(rows_by_hand)
{
    static const struct place one = {1, 1, 1, 32, 0};
    static const struct coding int4 = {KVP_INT4, KB_SCALES_ROW, KVP_F32, 0, 0}, q8 = {KVP_Q8_0, KB_SCALES_NONE, KVP_F32, 0, 0};
    struct kb_cache_write a = writes(&int4, &one, 1), b = writes(&q8, &one, 1);
    float *x = (float *)kb_at(a.src) + a.src_stride, *y = (float *)kb_at(b.src) + b.src_stride;

    for (int i = 0; i < 32; i++) {
        x[i] = 0.5f * (float)(i % 15 - 7);
        y[i] = (float)(i == 3 ? -127 : i);
    }
    kit_run(KB_CACHE_WRITE, &a);
    kit_run(KB_CACHE_WRITE, &b);
    ck_assert_float_eq(*(float *)kb_at(a.dst.scale), 0.5f);
    for (unsigned i = 0; i < 32; i++)
        ck_assert_uint_eq(((uint8_t *)kb_at(a.dst.data))[i / 2] >> i % 2 * 4 & 15, i % 15 + 1);
    ck_assert_uint_eq(*(uint16_t *)kb_at(b.dst.data), 0x3c00); /* 1.0 */
    for (int i = 0; i < 32; i++)
        ck_assert_int_eq(((int8_t *)kb_at(b.dst.data))[2 + i], i == 3 ? -127 : i);
}
END_TEST

/* ---- attention ----------------------------------------------------------------------------------- */

static const struct {
    struct place at;
    uint32_t heads;
    bool tail, probs;
} steps[] = {
    {{1, 5, 1, 32, 0}, 1, false, true},    {{2, 66, 3, 64, 0}, 6, true, true},   {{2, 300, 2, 96, 16}, 14, false, false},
    {{1, 700, 1, 128, 4}, 8, true, true},  {{1, 1100, 2, 128, 0}, 2, false, true},
    {{2, 75, 2, 64, 0}, 14, true, true},   {{1, 47, 1, 256, 0}, 3, false, true},
};

START_TEST(attention_reads_codes)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_decode, out, KVP_F32, 1e-5, false),
                                          KIT_OUT(kb_attn_decode, probs, KVP_F32, 1e-5, false)};
    const struct coding *k = &codings[_i], *v = &codings[((size_t)_i * 7 + 3) % COUNT(codings)];

    for (size_t s = 0; s < COUNT(steps); s++) {
        const struct place *p = &steps[s].at;
        struct kb_cache_write wk = writes(k, p, p->slots - 2), wv = writes(v, p, p->slots - 2);
        struct kb_attn_decode a = {.batch = p->batch, .heads = steps[s].heads, .kv_heads = p->heads, .head_dim = p->dim,
                                   .scale = 0.002f, .used = p->slots - 2, .q_stride = (uint64_t)steps[s].heads * p->dim,
                                   .tail_stride = (uint64_t)p->heads * p->dim, .out_stride = (uint64_t)steps[s].heads * p->dim + 1};

        kit_run(KB_CACHE_WRITE, &wk);
        kit_run(KB_CACHE_WRITE, &wv);
        a.k = wk.dst;
        a.v = wv.dst;
        a.q = kit_rows(p->batch, a.q_stride, a.q_stride);
        if (steps[s].tail) {
            a.tail_k = kit_rows(p->batch, a.tail_stride, a.tail_stride);
            a.tail_v = kit_rows(p->batch, a.tail_stride, a.tail_stride);
        }
        a.out = kit_poison(KVP_F32, p->batch * a.out_stride);
        if (steps[s].probs)
            a.probs = kit_poison(KVP_F32, p->batch * a.heads * (a.used + steps[s].tail));
        kit_check(KB_ATTN_DECODE, &a, sizeof(a), outs, steps[s].probs ? 2 : 1);
    }
}
END_TEST

/* Three sequences that begin alike, once with rows of their own and once with shared ones: the first writes all of its rows,
 * the others, from number 1 of the strips on, only what lies behind. The codes read are the same. */
START_TEST(attention_reads_shared_codes)
{
    enum { SHARED = 21, SLOTS = 40, HEADS = 4, DIM = 96 };
    static const struct place p = {3, SLOTS, 2, DIM, 0};
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_decode, out, KVP_F32, 1e-5, false)};
    const struct coding *c = &codings[_i];
    struct kb_cache_write own = writes(c, &p, SLOTS), part = own;
    struct kb_attn_decode a = {.batch = 3, .heads = HEADS, .kv_heads = 2, .head_dim = DIM, .scale = 0.002f, .used = SLOTS,
                               .q_stride = HEADS * DIM, .out_stride = HEADS * DIM, .q = kit_rows(3, HEADS * DIM, HEADS * DIM)};
    struct kb_span want;

    if (c->scales == KB_SCALES_TENSOR || (c->group && DIM % c->group))
        return;
    for (uint64_t b = 1; b < 3; b++)
        memcpy((float *)kb_at(own.src) + b * own.src_tokens * own.src_stride, kb_at(own.src), (own.src_first + SHARED) * own.src_stride * 4);
    kit_run(KB_CACHE_WRITE, &own);
    part.dst = rows_of(c, &p);
    part.dst.shared = SHARED;
    part.dst.slots = SLOTS - SHARED;
    part.batch = 1;
    kit_run(KB_CACHE_WRITE, &part);
    part.batch = 2;
    part.dst.first = 1;
    part.src.offset += part.src_tokens * part.src_stride * 4;
    part.src_first += SHARED;
    part.slot = SHARED;
    part.count = SLOTS - SHARED;
    kit_run(KB_CACHE_WRITE, &part);
    part.dst.first = 0;
    for (uint64_t b = 0; b < 3; b++)
        for (uint32_t h = 0; h < 2; h++)
            for (uint64_t t = 0; t < SLOTS; t++)
                for (uint32_t i = 0; i < DIM; i++)
                    ck_assert(element(&part.dst, b, h, t, i) == element(&own.dst, b, h, t, i));
    a.k = a.v = own.dst;
    a.out = want = kit_poison(KVP_F32, 3 * HEADS * DIM);
    kit_run(KB_ATTN_DECODE, &a);
    a.k = a.v = part.dst;
    a.out = kit_poison(KVP_F32, 3 * HEADS * DIM);
    kit_check(KB_ATTN_DECODE, &a, sizeof(a), outs, 1);
    ck_assert_mem_eq(kb_at(a.out), kb_at(want), 3 * HEADS * DIM * sizeof(float));
}
END_TEST

/* Latents and rotary keys of every coding, in strips and in pages. */
START_TEST(latent_attention_reads_codes)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_latent, out, KVP_F32, 4e-6, false)};
    static const struct place latents[] = {{2, 37, 1, 128, 0}, {1, 40, 1, 64, 16}}, keys[] = {{2, 37, 1, 32, 0}, {1, 40, 1, 32, 16}};

    for (size_t i = 0; i < COUNT(latents); i++) {
        struct kb_cache_write latent = writes(&codings[_i], &latents[i], latents[i].slots), key = writes(&codings[_i], &keys[i], keys[i].slots);
        struct kb_attn_latent a = {.batch = latents[i].batch, .heads = 5, .rank = latents[i].dim, .rope_dim = keys[i].dim,
                                   .used = latents[i].slots - 3, .scale = 0.1f, .q_stride = 5ull * latents[i].dim,
                                   .q_rope_head = keys[i].dim, .q_rope_stride = 5ull * keys[i].dim, .out_stride = 5ull * latents[i].dim + 1};

        kit_run(KB_CACHE_WRITE, &latent);
        kit_run(KB_CACHE_WRITE, &key);
        a.latent = latent.dst;
        a.rope = key.dst;
        a.q = kit_rows(a.batch, a.q_stride, a.q_stride);
        a.q_rope = kit_rows(a.batch, a.q_rope_stride, a.q_rope_stride);
        a.out = kit_poison(KVP_F32, a.batch * a.out_stride);
        ck_assert(kb_ref.supports(kit_ref, KB_ATTN_LATENT, &a));
        KIT_CHECK(KB_ATTN_LATENT, a, outs);
    }
}
END_TEST

START_TEST(codes_without_scales_are_refused)
{
    static const struct place p = {1, 4, 2, 64, 0};
    struct kb_cache_write a = writes(&codings[_i], &p, 2);

    ck_assert(kb_cpu.supports(kit_cpu[0].dev, KB_CACHE_WRITE, &a));
    a.dst.dim = 63;
    if (kb_is_block(a.dst.format) || a.dst.group > 1)
        ck_assert(!kb_cpu.supports(kit_cpu[0].dev, KB_CACHE_WRITE, &a));
    a.dst.dim = 64;
    a.dst.scale.buf = NULL;
    ck_assert(kb_cpu.supports(kit_cpu[0].dev, KB_CACHE_WRITE, &a) == kb_is_block(a.dst.format));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/codes");
    TCase *t = tcase_create("codes");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, fp8_every_code);
    tcase_add_test(t, fp8_nearest);
    tcase_add_test(t, e2m1_nearest);
    tcase_add_loop_test(t, rows_are_the_same_bits, 0, (int)COUNT(codings));
    tcase_add_loop_test(t, rows_of_repeated_heads, 0, (int)COUNT(codings));
    tcase_add_loop_test(t, rows_come_back, 0, (int)COUNT(codings));
    tcase_add_test(t, rows_by_hand);
    tcase_add_loop_test(t, attention_reads_shared_codes, 0, (int)COUNT(codings));
    tcase_add_loop_test(t, attention_reads_codes, 0, (int)COUNT(codings));
    tcase_add_loop_test(t, latent_attention_reads_codes, 0, (int)COUNT(codings));
    tcase_add_loop_test(t, codes_without_scales_are_refused, 0, (int)COUNT(codings));
    suite_add_tcase(s, t);
    return kit_main(s);
}
