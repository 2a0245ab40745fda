/* low.c - attention over latents: against the reference, and against rows that are rebuilt by other kernels first */
#include "tests/kernels/kit.h"

static const struct {
    uint64_t batch, used, first, ring, turned;
    uint32_t heads, kv_heads, dim, k_rank, v_rank, block;
    enum kvp_format stored, format;
    bool bias, norm, turns, values;
} cases[] = {
    {1, 1, 0, 0, 0, 1, 1, 2, 1, 1, 0, KVP_F32, KVP_F32, false, false, false, false},
    {2, 9, 0, 0, 0, 4, 2, 16, 7, 11, 0, KVP_F32, KVP_F32, true, false, false, true},
    {2, 33, 0, 33, 5, 6, 3, 8, 9, 24, 0, KVP_F16, KVP_F16, true, true, true, false},
    {1, 70, 4, 66, 65, 4, 1, 24, 24, 5, 0, KVP_BF16, KVP_BF16, false, true, true, true},
    {3, 40, 0, 0, 0, 8, 2, 64, 96, 40, 16, KVP_F16, KVP_F32, true, false, true, false},
    {1, 700, 0, 0, 0, 8, 4, 32, 64, 64, 0, KVP_INT8, KVP_F16, false, false, true, true},
    {2, 65, 0, 0, 0, 4, 4, 16, 32, 64, 8, KVP_INT4, KVP_F32, true, true, true, true},
    {2, 40, 0, 0, 0, 4, 2, 8, 12, 20, 0, KVP_FP8, KVP_BF16, true, false, true, true},
    {1, 300, 0, 0, 0, 4, 2, 16, 32, 32, 0, KVP_Q8_0, KVP_F32, false, false, false, false},
};

static struct kb_kv latents(uint64_t batch, uint64_t slots, uint32_t dim, uint32_t block, enum kvp_format f)
{
    const uint64_t pages = block ? (slots + block - 1) / block : 0, rows = batch * (block ? pages * block : slots);
    struct kb_kv kv = {.format = f, .heads = 1, .dim = dim, .slots = slots, .block = block, .table_stride = pages};

    if (block)
        kv.table = kit_shuffled(batch * pages);
    kv.data = kit_bytes(rows * kb_row_bytes(f, dim), 0xff);
    if (f == KVP_FP8) {
        kv.scales = KB_SCALES_TENSOR;
        kv.scale = kit_floats(KVP_F32, 1, 0);
        ((float *)kb_at(kv.scale))[0] = 1.0f / 448;
    } else if (f == KVP_INT8) {
        kv.scales = KB_SCALES_ROW;
        kv.scale = kit_poison(KVP_F32, rows);
    } else if (f == KVP_INT4) {
        kv.scales = KB_SCALES_GROUP;
        kv.group = 16;
        kv.scale_format = KVP_F16;
        kv.scale = kit_poison(KVP_F16, rows * dim / 16);
        kv.shift = kit_poison(KVP_F16, rows * dim / 16);
    }
    return kv;
}

/* Rows [0, used); what lies behind stays NaN. The rows themselves, as f32. */
static struct kb_span fill(const struct kb_kv *kv, uint64_t batch, uint64_t used)
{
    struct kb_cache_write w = {.batch = batch, .count = used, .dst = *kv, .src = kit_floats(KVP_F32, batch * used * kv->dim, 1),
                               .src_tokens = used, .src_stride = kv->dim};

    kit_run(KB_CACHE_WRITE, &w);
    return w.src;
}

/* A strip of f32 rows in the order of their places: up * latent + bias, normed and turned as asked. */
static struct kb_kv rebuilt(const struct kb_attn_low *a, const struct kb_factor *f, struct kb_span from, uint32_t rank, bool key)
{
    const uint64_t n = a->batch * a->used, wide = (uint64_t)a->kv_heads * a->head_dim;
    struct kb_gemm up = {.m = n, .n = (uint32_t)wide, .k = rank, .x_stride = rank, .out_stride = wide, .format = a->format, .x = from,
                         .w = f->w, .bias = f->bias, .out = kit_poison(KVP_F32, n * wide), .work = kit_poison(KVP_F32, wide * rank),
                         .work_bytes = wide * rank * sizeof(float)};
    struct kb_norm norm = {.rows = n, .groups = a->kv_heads, .width = a->head_dim, .in_stride = wide, .out_stride = wide, .eps = a->eps,
                           .format = a->format, .weight = a->norm, .in = up.out, .out = up.out};
    struct kb_rope turn = {.rows = n, .heads = a->kv_heads, .head_dim = a->head_dim, .stride = wide, .x = up.out,
                           .positions = kit_ints(n, 0, 0), .inv_freq = a->inv_freq};
    struct kb_kv kv = {.data = kit_poison(KVP_F32, n * wide), .format = KVP_F32, .heads = a->kv_heads, .dim = a->head_dim, .slots = a->used};

    for (uint64_t i = 0; i < n; i++) {
        const uint64_t s = i % a->used;

        ((int32_t *)kb_at(turn.positions))[i] = (int32_t)(!a->ring || s < a->first ? s : a->first + (s - a->first + a->ring - a->turned) % a->ring);
    }
    kit_run(KB_GEMM, &up);
    if (key && a->norm.buf)
        kit_run(KB_NORM, &norm);
    if (key && a->inv_freq.buf)
        kit_run(KB_ROPE, &turn);
    kit_run(KB_CACHE_WRITE, &(struct kb_cache_write){.batch = a->batch, .count = a->used, .dst = kv, .src = up.out, .src_tokens = a->used,
                                                     .src_stride = wide});
    return kv;
}

/* Attention over rows that were rebuilt before, values too; only where what is stored is stored exactly. */
static void check_rows(const struct kb_attn_low *a, struct kb_span k, struct kb_span v)
{
    const uint64_t width = (uint64_t)a->heads * a->head_dim;
    struct kb_attn_decode plain = {.batch = a->batch, .heads = a->heads, .kv_heads = a->kv_heads, .head_dim = a->head_dim, .scale = a->scale,
                                   .used = a->used, .q_stride = width, .q = kit_poison(KVP_F32, a->batch * width),
                                   .k = rebuilt(a, &a->k_up, k, a->k.dim, true), .v = rebuilt(a, &a->v_up, v, a->v.dim, false),
                                   .out_stride = width, .out = kit_poison(KVP_F32, a->batch * width)};
    struct kb_rope turn = {.rows = a->batch, .heads = a->heads, .head_dim = a->head_dim, .stride = width, .x = plain.q,
                           .positions = kit_ints(a->batch, (int32_t)a->query, 0), .inv_freq = a->inv_freq};

    for (uint64_t b = 0; b < a->batch; b++)
        memcpy((float *)kb_at(plain.q) + b * width, (const float *)kb_at(a->q) + b * a->q_stride, width * sizeof(float));
    if (a->inv_freq.buf)
        kit_run(KB_ROPE, &turn);
    kit_run(KB_ATTN_DECODE, &plain);
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint64_t i = 0; i < width; i++)
            ck_assert_float_eq_tol(((const float *)kb_at(a->out))[b * a->out_stride + i], ((const float *)kb_at(plain.out))[b * width + i], 2e-5f);
}

static struct kb_factor factor(const struct kb_attn_low *a, uint32_t rank, bool bias)
{
    const uint64_t rows = (uint64_t)a->kv_heads * a->head_dim;

    return (struct kb_factor){kit_floats(a->format, rows * rank, 1 / sqrtf((float)rank)), bias ? kit_floats(a->format, rows, 1) : (struct kb_span){0}};
}

START_TEST(latents_attend)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_low, out, KVP_F32, 2e-5, false)};
    const uint64_t B = cases[_i].batch, n = cases[_i].used, d = cases[_i].dim;
    struct kb_attn_low a = {.batch = B, .heads = cases[_i].heads, .kv_heads = cases[_i].kv_heads, .head_dim = cases[_i].dim, .scale = 0.4f,
                            .used = n, .format = cases[_i].format, .eps = 1e-5f, .first = cases[_i].first, .ring = cases[_i].ring,
                            .turned = cases[_i].turned, .query = n - 1};
    struct kb_span k, v;

    a.q_stride = a.heads * d + 3;
    a.q = kit_rows(B, a.heads * d, a.q_stride);
    a.k = latents(B, n + 2, cases[_i].k_rank, cases[_i].block, cases[_i].stored);
    a.v = latents(B, n + 2, cases[_i].v_rank, cases[_i].block, cases[_i].stored);
    k = fill(&a.k, B, n);
    v = fill(&a.v, B, n);
    a.k_up = factor(&a, a.k.dim, cases[_i].bias);
    if (cases[_i].values)
        a.v_up = factor(&a, a.v.dim, cases[_i].bias);
    if (cases[_i].norm)
        a.norm = kit_floats(a.format, d, 1);
    if (cases[_i].turns) {
        a.inv_freq = kit_floats(KVP_F32, d / 2, 0);
        for (uint64_t i = 0; i < d / 2; i++)
            ((float *)kb_at(a.inv_freq))[i] = powf(10000, -2.0f * (float)i / (float)d);
    }
    a.out_stride = a.heads * (cases[_i].values ? d : a.v.dim) + 5;
    a.out = kit_poison(KVP_F32, B * a.out_stride);
    KIT_CHECK(KB_ATTN_LOW, a, outs);
    if (cases[_i].stored != KVP_F32)
        return;
    if (!cases[_i].values) {
        a.v_up = factor(&a, a.v.dim, cases[_i].bias);
        a.out_stride = a.heads * d;
        a.out = kit_poison(KVP_F32, B * a.out_stride);
        kit_run(KB_ATTN_LOW, &a);
    }
    check_rows(&a, k, v);
}
END_TEST

/* The same, whatever is stored: against the latents as f32 that the stored ones stand for. */
START_TEST(stored_formats)
{
    static const enum kvp_format formats[] = {KVP_F16, KVP_BF16};
    struct kb_attn_low a = {.batch = 2, .heads = 4, .kv_heads = 2, .head_dim = 8, .scale = 0.3f, .used = 21, .format = KVP_F32, .query = 20,
                            .q_stride = 32, .out_stride = 32};
    const enum kvp_format f = formats[_i];
    struct kb_span k, v;

    a.q = kit_rows(2, 32, 32);
    a.k = latents(2, 21, 6, 0, f);
    a.v = latents(2, 21, 10, 0, f);
    k = fill(&a.k, 2, 21);
    v = fill(&a.v, 2, 21);
    for (uint64_t i = 0; i < 2 * 21 * 6; i++)
        ((float *)kb_at(k))[i] = kb_load(f, kb_at(a.k.data), i);
    for (uint64_t i = 0; i < 2 * 21 * 10; i++)
        ((float *)kb_at(v))[i] = kb_load(f, kb_at(a.v.data), i);
    a.k_up = factor(&a, 6, true);
    a.v_up = factor(&a, 10, true);
    a.out = kit_poison(KVP_F32, 64);
    kit_run(KB_ATTN_LOW, &a);
    check_rows(&a, k, v);
}
END_TEST

/* Where keys are absorbed: one head of latents for all query heads, values of another width, in any form. */
START_TEST(absorbed)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_decode, out, KVP_F32, 1e-5, false)};
    static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_INT8, KVP_FP8, KVP_INT4, KVP_Q8_0};
    static const uint32_t widths[][2] = {{32, 64}, {96, 32}, {160, 32}};
    const uint64_t used = 83;

    for (size_t f = 0; f < COUNT(formats); f++) {
        struct kb_attn_decode a = {.batch = 2, .heads = 6, .kv_heads = 1, .head_dim = widths[_i][0], .v_dim = widths[_i][1], .scale = 0.2f,
                                   .used = used, .q_stride = 6 * widths[_i][0] + 1, .out_stride = 6 * widths[_i][1] + 2};

        a.k = latents(2, used + 1, a.head_dim, f % 2 ? 16 : 0, formats[f]);
        a.v = latents(2, used + 1, a.v_dim, f % 2 ? 16 : 0, formats[f]);
        fill(&a.k, 2, used);
        fill(&a.v, 2, used);
        a.q = kit_rows(2, 6 * a.head_dim, a.q_stride);
        a.out = kit_poison(KVP_F32, 2 * a.out_stride);
        KIT_CHECK(KB_ATTN_DECODE, a, outs);
    }
}
END_TEST

START_TEST(refused)
{
    struct kb_attn_low a = {.batch = 1, .heads = 2, .kv_heads = 1, .head_dim = 3, .used = 4};

    a.k = latents(1, 4, 2, 0, KVP_F32);
    a.v = latents(1, 4, 2, 0, KVP_F32);
    a.k_up = factor(&a, 2, false);
    ck_assert(kb_cpu.supports(NULL, KB_ATTN_LOW, &a));
    a.inv_freq = kit_floats(KVP_F32, 1, 1); /* a head of three does not pair */
    ck_assert(!kb_cpu.supports(NULL, KB_ATTN_LOW, &a));
    a.head_dim = 4;
    ck_assert(kb_cpu.supports(NULL, KB_ATTN_LOW, &a));
    a.ring = 5;
    ck_assert(!kb_cpu.supports(NULL, KB_ATTN_LOW, &a));
    a.ring = 0;
    a.k_up.w.buf = NULL;
    ck_assert(!kb_cpu.supports(NULL, KB_ATTN_LOW, &a));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/low");
    TCase *t = tcase_create("low");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, latents_attend, 0, (int)COUNT(cases));
    tcase_add_loop_test(t, stored_formats, 0, 2);
    tcase_add_loop_test(t, absorbed, 0, 3);
    tcase_add_test(t, refused);
    suite_add_tcase(s, t);
    return kit_main(s);
}
