/* gemm_coded.c - products with coded matrices: every layout against the reference over random codes, and by hand */
#include "tests/kernels/kit.h"

#include "kernels/code.h"

static const struct {
    uint64_t m;
    uint32_t n, k;
    uint64_t work_rows; /* scratch, in rows of W; 0: none */
} shapes[] = {
    {1, 1, 32, 0},    {1, 300, 64, 0},   {2, 65, 96, 4},     {3, 17, 288, 0},   {9, 40, 512, 3}, {33, 70, 320, 0},
    {33, 70, 320, 64}, {70, 129, 96, 200}, {40, 530, 544, 1100}, {5, 24, 800, 0},
};
/* For codes that need no whole blocks: odd everything. */
static const struct {
    uint32_t n, k;
} odd[] = {{1, 1}, {3, 7}, {17, 33}, {65, 129}, {31, 257}, {8, 515}};

static const struct {
    enum kvp_format format;
    struct kb_coded c;
    bool whole; /* k in whole blocks only */
} codings[] = {
    {KVP_Q8_0, {.coding = KB_CODING_NONE}, true},
    {KVP_Q4_0, {.coding = KB_CODING_NONE}, true},
    {KVP_Q4_1, {.coding = KB_CODING_NONE}, true},
    {KVP_Q5_0, {.coding = KB_CODING_NONE}, true},
    {KVP_Q5_1, {.coding = KB_CODING_NONE}, true},
    {KVP_MXFP4, {.coding = KB_CODING_NONE}, true},
    {KVP_INT8, {.coding = KB_CODING_SCALED, .group = 1, .factor = 1 / 127.0f}, false},
    {KVP_INT8, {.coding = KB_CODING_SCALED, .group = 0, .factor = 1}, false},
    {KVP_FP8, {.coding = KB_CODING_SCALED, .group = 1, .factor = 1}, false},
    {KVP_FP8, {.coding = KB_CODING_SCALED, .group = 32, .factor = 1}, false},
    {KVP_INT4, {.coding = KB_CODING_NF4}, false},
    {KVP_INT4, {.coding = KB_CODING_FP4}, false},
    {KVP_INT4, {.coding = KB_CODING_GPTQ, .bits = 4, .group = 32}, false},
    {KVP_INT4, {.coding = KB_CODING_GPTQ, .bits = 2, .group = 128}, false},
    {KVP_INT4, {.coding = KB_CODING_GPTQ, .bits = 8, .group = 64}, false},
    {KVP_INT4, {.coding = KB_CODING_AWQ, .bits = 4, .group = 32}, false},
    {KVP_INT4, {.coding = KB_CODING_MLX, .bits = 4, .group = 64}, false},
    {KVP_INT4, {.coding = KB_CODING_MLX, .bits = 8, .group = 32}, false},
    {KVP_INT4, {.coding = KB_CODING_MLX, .bits = 2, .group = 16}, false},
};

static uint64_t up(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

/* Random bytes, at most `top` where 0xff.. would be a NaN; what lies beyond them is poison. */
static struct kb_span noise(uint64_t bytes, bool fp8)
{
    struct kb_span s = kit_bytes(bytes, 0xff);
    uint8_t *p = kb_at(s);

    for (uint64_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)(fp8 ? kit_random() % 127 | (kit_random() & 128) : kit_random());
    return s;
}

/* Blocks get sane scales: their halves are random numbers, their exponents near 1. */
static struct kb_span block_noise(enum kvp_format f, uint64_t blocks)
{
    const struct kb_unit u = kb_unit_of(f);
    struct kb_span s = noise(blocks * u.bytes, false);

    for (uint64_t b = 0; b < blocks; b++) {
        unsigned char *p = (unsigned char *)kb_at(s) + b * u.bytes;
        const uint16_t d = kb_to_f16(kit_uniform()), m = kb_to_f16(kit_uniform());

        if (f == KVP_MXFP4) {
            p[0] = (unsigned char)(120 + kit_random() % 8);
            continue;
        }
        memcpy(p, &d, 2);
        if (f == KVP_Q4_1 || f == KVP_Q5_1)
            memcpy(p + 2, &m, 2);
    }
    return s;
}

static void fill(struct kb_gemm *a, enum kvp_format format, struct kb_coded c)
{
    const uint64_t n = a->n, k = a->k, per = c.bits ? 32 / c.bits : 1, groups = c.group ? up(k, c.group) : 1;

    a->format = format;
    switch (c.coding) {
    case KB_CODING_NONE:
        a->w = block_noise(format, n * k / kb_unit_of(format).elements);
        break;
    case KB_CODING_W8A8:
    case KB_CODING_SCALED:
        a->w = noise(n * k, format == KVP_FP8);
        c.scale = kit_floats(KVP_F32, c.group == 0 ? 1 : c.group == 1 ? n : up(n, c.group) * up(k, c.group), 1);
        break;
    case KB_CODING_NF4:
    case KB_CODING_FP4:
        a->w = noise(up(n * k, 2), false);
        c.scale = kit_floats(KVP_F32, up(n * k, 64), 1);
        break;
    case KB_CODING_GPTQ:
        a->w = noise(4 * up(k, per) * n, false);
        c.zero = noise(4 * groups * up(n, per), false);
        c.scale = kit_floats(KVP_F16, groups * n, 1);
        c.index = kit_ints(k, 0, 0);
        for (uint64_t j = 0; j < k; j++) /* groups in no order, as desc_act leaves them */
            ((int32_t *)kb_at(c.index))[j] = (int32_t)(kit_random() % groups);
        break;
    case KB_CODING_AWQ:
        a->w = noise(4 * k * up(n, 8), false);
        c.zero = noise(4 * groups * up(n, 8), false);
        c.scale = kit_floats(KVP_F16, groups * n, 1);
        break;
    case KB_CODING_MLX:
        a->w = noise(4 * n * up(k, per), false);
        c.scale = kit_floats(KVP_F16, n * groups, 1);
        c.zero = kit_floats(KVP_F16, n * groups, 1);
    }
    a->code = c;
}

static void check(uint64_t m, uint32_t n, uint32_t k, uint64_t work_rows, int coding, int form)
{
    static const enum kvp_format biases[] = {KVP_F32, KVP_F16, KVP_BF16};
    static const struct kit_out outs[] = {KIT_OUT(kb_gemm, out, KVP_F32, 3e-6, false)};
    struct kb_gemm a = {.m = m, .n = n, .k = k, .accumulate = form & 1, .x_stride = k + 5u, .out_stride = n + 3u};

    fill(&a, codings[coding].format, codings[coding].c);
    a.x = kit_rows(m, k, a.x_stride);
    if (form & 2) {
        a.code.bias_format = biases[coding % 3];
        a.bias = kit_floats(a.code.bias_format, n, 1);
    }
    a.out = a.accumulate ? kit_rows(m, n, a.out_stride) : kit_poison(KVP_F32, m * a.out_stride);
    if ((a.work_bytes = work_rows * k * 4))
        a.work = kit_poison(KVP_F32, a.work_bytes / 4);
    KIT_CHECK(KB_GEMM, a, outs);
}

START_TEST(coded_cpu)
{
    for (size_t s = 0; s < COUNT(shapes); s++)
        check(shapes[s].m, shapes[s].n, shapes[s].k, shapes[s].work_rows, _i, (int)s % 4);
    for (size_t s = 0; !codings[_i].whole && s < COUNT(odd); s++)
        check(s * 11 + 1, odd[s].n, odd[s].k, s % 2 ? 64 : 0, _i, (int)s % 4);
}
END_TEST

/* Rows to int8, bit for bit, then products of them: whole numbers, so only the last three multiplications may differ. */
START_TEST(w8a8_cpu)
{
    static const struct kit_out rows[] = {KIT_OUT(kb_quant_rows, codes, KVP_F16, 0, false), KIT_OUT(kb_quant_rows, scale, KVP_F32, 0, false)};
    static const struct kit_out outs[] = {KIT_OUT(kb_gemm, out, KVP_F32, 1e-6, false)};
    static const struct {
        uint64_t m;
        uint32_t n, k;
    } sizes[] = {{1, 1, 2}, {1, 300, 64}, {3, 17, 130}, {4, 33, 257}, {9, 40, 512}, {33, 70, 1000}};

    for (size_t s = 0; s < COUNT(sizes); s++) {
        const uint64_t m = sizes[s].m;
        const uint32_t n = sizes[s].n, k = sizes[s].k + sizes[s].k * (uint32_t)m % 2; /* codes fill whole halves */
        struct kb_quant_rows q = {.rows = m, .width = k, .x_stride = k + 3u};
        struct kb_gemm a = {.m = m, .n = n, .k = k, .x_stride = k, .out_stride = n + 1u, .accumulate = s % 2, .format = KVP_INT8,
                            .code = {.coding = KB_CODING_W8A8, .group = s % 3 != 0, .factor = 1, .bias_format = KVP_F16}};

        q.x = kit_rows(m, k, q.x_stride);
        if (m > 2)
            memset((float *)kb_at(q.x) + 2 * q.x_stride, 0, k * sizeof(float));
        q.codes = kit_bytes(m * k, 0x55);
        q.scale = kit_poison(KVP_F32, m);
        kit_check(KB_QUANT_ROWS, &q, sizeof(q), rows, 2);
        a.x = q.codes;
        a.code.x_scale = q.scale;
        a.w = noise((uint64_t)n * k, false);
        a.code.scale = kit_floats(KVP_F32, a.code.group ? n : 1, 1);
        a.bias = kit_floats(KVP_F16, n, 1);
        a.out = a.accumulate ? kit_rows(m, n, a.out_stride) : kit_poison(KVP_F32, m * a.out_stride);
        KIT_CHECK(KB_GEMM, a, outs);
    }
}
END_TEST

static float product(struct kb_gemm *a, float x0, float x1)
{
    a->m = 1;
    a->x = kit_floats(KVP_F32, a->k, 0);
    ((float *)kb_at(a->x))[0] = x0;
    if (a->k > 1)
        ((float *)kb_at(a->x))[1] = x1;
    a->out = kit_poison(KVP_F32, a->n);
    a->x_stride = a->k;
    a->out_stride = a->n;
    kit_run(KB_GEMM, a);
    return *(float *)kb_at(a->out);
}

/* One number of each layout, worked out from its source. */
START_TEST(coded_by_hand)
{
    struct kb_gemm a = {.n = 1, .k = 2, .format = KVP_INT8, .code = {.coding = KB_CODING_SCALED, .group = 1, .factor = 1 / 127.0f}};
    uint32_t *words;

    /* LLM.int8: code 127 of a row whose largest magnitude is 3 is 3; -127 is -3: 1 * 3 - 2 * 3 */
    a.w = kit_bytes(2, 127);
    ((int8_t *)kb_at(a.w))[1] = -127;
    a.code.scale = kit_floats(KVP_F32, 1, 0);
    *(float *)kb_at(a.code.scale) = 3;
    ck_assert_float_eq_tol(product(&a, 1, 2), -3, 1e-6f);
    /* NF4: the first code is the high half: 15 is 1, 0 is -1; absmax 2 */
    a.format = KVP_INT4;
    a.code.coding = KB_CODING_NF4;
    *(uint8_t *)kb_at(a.w) = 0xf0;
    *(float *)kb_at(a.code.scale) = 2;
    ck_assert_float_eq(product(&a, 10, 1), 18);
    /* FP4: 3 is 1, 11 is -1 */
    a.code.coding = KB_CODING_FP4;
    *(uint8_t *)kb_at(a.w) = 0x3b;
    ck_assert_float_eq(product(&a, 10, 1), 18);
    /* GPTQ: codes 9 and 6, zero stored 7 means 8, scale 0.5: 0.5 and -1 */
    a.code = (struct kb_coded){.coding = KB_CODING_GPTQ, .bits = 4, .group = 128};
    a.w = kit_bytes(4, 0);
    *(uint32_t *)kb_at(a.w) = 0x69;
    a.code.zero = kit_ints(1, 7, 0);
    a.code.scale = kit_floats(KVP_F16, 1, 0);
    kb_store(KVP_F16, kb_at(a.code.scale), 0, 0.5f);
    a.code.index = kit_ints(2, 0, 0);
    ck_assert_float_eq(product(&a, 10, 1), 4);
    /* AWQ: rows 0 to 7 in the places 0 4 1 5 2 6 3 7; zero 8, scale 0.5. x = (1, 0) reads column 0 */
    a = (struct kb_gemm){.n = 8, .k = 2, .format = KVP_INT4, .code = {.coding = KB_CODING_AWQ, .bits = 4, .group = 128}};
    a.w = kit_ints(2, 0, 0);
    words = kb_at(a.w);
    words[0] = 0xfdb9eca8; /* code of row i is 8 + i */
    a.code.zero = kit_ints(1, (int32_t)0x88888888, 0);
    a.code.scale = kit_floats(KVP_F16, 8, 0);
    for (unsigned i = 0; i < 8; i++)
        kb_store(KVP_F16, kb_at(a.code.scale), i, 0.5f);
    product(&a, 1, 0);
    for (int i = 0; i < 8; i++)
        ck_assert_float_eq(((float *)kb_at(a.out))[i], 0.5f * (float)i);
    /* MLX: code 5 and 2, scale 0.5, bias -1: 1.5 and 0 */
    a = (struct kb_gemm){.n = 1, .k = 2, .format = KVP_INT4, .code = {.coding = KB_CODING_MLX, .bits = 4, .group = 64}};
    a.w = kit_ints(1, 0x25, 0);
    a.code.scale = kit_floats(KVP_F16, 1, 0);
    kb_store(KVP_F16, kb_at(a.code.scale), 0, 0.5f);
    a.code.zero = kit_floats(KVP_F16, 1, 0);
    kb_store(KVP_F16, kb_at(a.code.zero), 0, -1);
    ck_assert_float_eq(product(&a, 10, 7), 15);
}
END_TEST

/* Rows of blocks are looked up like any others. */
START_TEST(embed_of_blocks)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_embed, out, KVP_F32, 2e-6, true)};
    struct kb_embed a = {.rows = 9, .width = 96, .vocab = 31, .format = codings[_i].format};

    a.tokens = kit_ints(9, 2, 3);
    a.table = block_noise(a.format, 31 * 3);
    a.position_ids = kit_ints(9, 0, 1);
    a.position_table = block_noise(a.format, 9 * 3);
    a.out = kit_poison(KVP_F32, 9 * 96);
    ck_assert(kb_is_block(a.format));
    KIT_CHECK(KB_EMBED, a, outs);
}
END_TEST

START_TEST(what_is_missing_is_refused)
{
    struct kb_gemm a = {.m = 1, .n = 8, .k = 32, .x_stride = 32, .out_stride = 8};

    fill(&a, codings[_i].format, codings[_i].c);
    ck_assert(kb_cpu.supports(kit_cpu[0].dev, KB_GEMM, &a));
    a.code.scale.buf = NULL;
    a.k -= kb_is_block(a.format);
    ck_assert(!kb_cpu.supports(kit_cpu[0].dev, KB_GEMM, &a));
    a.k = 32;
    a.format = KVP_F16; /* numbers are not coded */
    a.code.coding = KB_CODING_SCALED;
    ck_assert(!kb_cpu.supports(kit_cpu[0].dev, KB_GEMM, &a));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/gemm_coded");
    TCase *t = tcase_create("coded");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, coded_cpu, 0, (int)COUNT(codings));
    tcase_add_test(t, w8a8_cpu);
    tcase_add_test(t, coded_by_hand);
    tcase_add_loop_test(t, embed_of_blocks, 0, 6);
    tcase_add_loop_test(t, what_is_missing_is_refused, 0, (int)COUNT(codings));
    suite_add_tcase(s, t);
    return kit_main(s);
}
