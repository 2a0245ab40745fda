/* cross.c - attention over keys that are not the queries' own: cpu against ref, and laws that tie both to the other kinds */
#include "tests/kernels/kit.h"

static const struct {
    uint32_t heads, kv_heads, dim, block;
    uint64_t batch, queries, used, position;
    bool causal, bias;
} cases[] = {
    {1, 1, 8, 0, 1, 1, 1, 0, false, false},      {4, 2, 16, 0, 3, 5, 9, 0, false, false},   {6, 2, 33, 4, 2, 65, 300, 0, false, false},
    {8, 1, 64, 16, 2, 1, 700, 0, false, false},  {65, 1, 8, 0, 1, 3, 257, 0, false, false}, {3, 3, 24, 0, 2, 64, 256, 0, false, true},
    {4, 2, 16, 0, 2, 130, 130, 0, false, true},  {4, 2, 16, 0, 2, 130, 130, 0, true, true}, {4, 4, 8, 0, 3, 1, 20, 19, true, true},
    {2, 1, 8, 3, 2, 7, 300, 255, true, true},    {4, 1, 40, 0, 1, 33, 33, 0, true, false},  {2, 2, 8, 0, 2, 1, 5, 2, true, false},
};
enum { N_CASES = COUNT(cases) };
static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};

/* The used slots; those behind them NaN. */
static struct kb_kv stored(int i, enum kvp_format f)
{
    struct kb_kv kv = {.format = f, .heads = cases[i].kv_heads, .dim = cases[i].dim, .block = cases[i].block, .slots = cases[i].used + 2};
    const uint64_t pages = kv.block ? kv.slots / kv.block + 1 : 0;

    kv.table_stride = pages;
    if (kv.block)
        kv.table = kit_shuffled(cases[i].batch * pages);
    kv.data = kit_poison(f, cases[i].batch * (kv.block ? pages * kv.block : kv.slots) * kv.heads * kv.dim);
    for (uint64_t b = 0; b < cases[i].batch; b++)
        for (uint32_t h = 0; h < kv.heads; h++)
            for (uint64_t t = 0; t < cases[i].used; t++)
                for (uint32_t c = 0; c < kv.dim; c++)
                    kb_store(f, kb_kv_row(&kv, b, h, t), c, kit_uniform());
    return kv;
}

/* Keys and values in one strip of rows, with gaps, or stored. */
static struct kb_attn_cross cross(int i, bool rows, enum kvp_format f)
{
    const uint64_t q = (uint64_t)cases[i].heads * cases[i].dim, kv = (uint64_t)cases[i].kv_heads * cases[i].dim, B = cases[i].batch;
    struct kb_attn_cross a = {.batch = B, .queries = cases[i].queries, .used = cases[i].used, .heads = cases[i].heads,
                              .kv_heads = cases[i].kv_heads, .head_dim = cases[i].dim, .scale = 3 / sqrtf((float)cases[i].dim),
                              .q_stride = q + 5, .kv_stride = 2 * kv + 1, .out_stride = q + 2, .causal = cases[i].causal,
                              .position = cases[i].position};

    a.q = kit_rows(B * a.queries, q, a.q_stride);
    if (rows) {
        a.k = a.v = kit_rows(B * a.used, 2 * kv, a.kv_stride);
        a.v.offset = kv * sizeof(float);
    } else {
        a.stored_k = stored(i, f);
        a.stored_v = stored(i, f);
    }
    if (cases[i].bias) {
        a.span = a.used > a.position + a.queries ? a.used + 3 : a.position + a.queries;
        a.bias = kit_floats(KVP_F32, a.heads * (2 * a.span - 1), 4);
    }
    a.out = kit_poison(KVP_F32, B * a.queries * a.out_stride);
    return a;
}

static const struct kit_out outs[] = {KIT_OUT(kb_attn_cross, out, KVP_F32, 3e-6, false)};

START_TEST(cross_cpu)
{
    struct kb_attn_cross a = cross(_i, true, KVP_F32);

    kit_check(KB_ATTN_CROSS, &a, sizeof(a), outs, 1);
    for (size_t f = 0; f < COUNT(formats); f++) {
        a = cross(_i, false, formats[f]);
        kit_check(KB_ATTN_CROSS, &a, sizeof(a), outs, 1);
    }
}
END_TEST

/* Codes, with a scale a row. */
START_TEST(cross_codes)
{
    static const struct kit_out rough[] = {KIT_OUT(kb_attn_cross, out, KVP_F32, 5e-6, false)};
    struct kb_attn_cross a = cross(1, false, KVP_F32);
    const uint64_t rows = a.batch * a.stored_k.slots * a.kv_heads;

    for (int side = 0; side < 2; side++) {
        struct kb_kv *kv = side ? &a.stored_v : &a.stored_k;

        kv->format = _i ? KVP_FP8 : KVP_INT8;
        kv->scales = KB_SCALES_ROW;
        kv->scale = kit_floats(KVP_F32, rows, 0.02f);
        kv->data = kit_bytes(rows * kv->dim, 0);
        for (uint64_t n = 0; n < rows * kv->dim; n++)
            ((uint8_t *)kb_at(kv->data))[n] = (uint8_t)(kit_random() % 120);
    }
    kit_check(KB_ATTN_CROSS, &a, sizeof(a), rough, 1);
}
END_TEST

/* Causal attention over a text's own keys is a prompt's attention. */
START_TEST(causal_is_prefill)
{
    struct kb_attn_cross a = cross(10, true, KVP_F32);
    const struct kb_attn_prefill p = {.batch = a.batch, .tokens = a.queries, .heads = a.heads, .kv_heads = a.kv_heads,
                                      .head_dim = a.head_dim, .scale = a.scale, .stride = a.q_stride, .q = a.q,
                                      .kv_stride = a.kv_stride, .k = a.k, .v = a.v, .out_stride = a.out_stride,
                                      .out = kit_poison(KVP_F32, a.batch * a.queries * a.out_stride)};
    const struct kb_buf *want = p.out.buf, *got = a.out.buf;

    kit_run(KB_ATTN_CROSS, &a);
    kit_run(KB_ATTN_PREFILL, &p);
    ck_assert_uint_eq(want->bytes, got->bytes);
    kit_compare("causal", outs, want, got);
}
END_TEST

/* The order of the keys does not matter, and a bias that is the same for all keys changes nothing. */
START_TEST(keys_have_no_order)
{
    struct kb_attn_cross a = cross(1, true, KVP_F32), b = a;
    float *to;

    b.k = b.v = kit_bytes(a.k.buf->bytes, 0);
    b.v.offset = a.v.offset;
    to = (float *)(void *)b.k.buf->data;
    for (uint64_t s = 0; s < a.batch; s++)
        for (uint64_t j = 0; j < a.used; j++)
            memcpy(to + (s * a.used + a.used - 1 - j) * a.kv_stride, (float *)kb_at(a.k) + (s * a.used + j) * a.kv_stride,
                   a.kv_stride * sizeof(float));
    b.span = a.used;
    b.bias = kit_bytes(a.heads * (2 * b.span - 1) * sizeof(float), 0);
    for (uint64_t i = 0; i < a.heads * (2 * b.span - 1); i++)
        ((float *)kb_at(b.bias))[i] = 2.5f;
    b.out = kit_poison(KVP_F32, a.batch * a.queries * a.out_stride);
    kit_run(KB_ATTN_CROSS, &a);
    kit_run(KB_ATTN_CROSS, &b);
    kit_compare("reversed", outs, a.out.buf, b.out.buf);
}
END_TEST

START_TEST(refusals)
{
    struct kb_attn_cross a = cross(7, true, KVP_F32);

    ck_assert(kb_ref.supports(kit_ref, KB_ATTN_CROSS, &a));
    a.span = a.used - 1; /* a distance would have no bias */
    ck_assert(!kb_ref.supports(kit_ref, KB_ATTN_CROSS, &a));
    a = cross(7, true, KVP_F32);
    a.position = 1; /* the last query's own key is not there */
    ck_assert(!kb_ref.supports(kit_ref, KB_ATTN_CROSS, &a));
    a = cross(1, true, KVP_F32);
    a.v.buf = NULL;
    ck_assert(!kb_ref.supports(kit_ref, KB_ATTN_CROSS, &a));
    a = cross(1, false, KVP_F32);
    a.used = 0;
    ck_assert(!kb_ref.supports(kit_ref, KB_ATTN_CROSS, &a));
    a = cross(1, false, KVP_F32);
    a.kv_heads = 3;
    ck_assert(!kb_ref.supports(kit_ref, KB_ATTN_CROSS, &a));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cross");
    TCase *t = tcase_create("cross");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_add_loop_test(t, cross_cpu, 0, N_CASES);
    tcase_add_loop_test(t, cross_codes, 0, 2);
    tcase_add_test(t, causal_is_prefill);
    tcase_add_test(t, keys_have_no_order);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    return kit_main(s);
}
