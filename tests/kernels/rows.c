/* rows.c - embed, norm, rope, act, cache_write, read_probe: by hand, by law, and cpu against the reference */
#include "tests/kernels/kit.h"

static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};

static const struct {
    uint64_t rows;
    uint32_t width;
} shapes[] = {{1, 1}, {1, 64}, {3, 80}, {7, 33}, {2, 4096}, {300, 96}, {40, 1001}};

START_TEST(embed_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_embed, out, KVP_F32, 1e-7, true)};

    for (size_t f = 0; f < COUNT(formats); f++)
        for (int learned = 0; learned < 2; learned++) {
            struct kb_embed a = {.rows = shapes[_i].rows, .width = shapes[_i].width, .vocab = 50, .format = formats[f]};

            a.tokens = kit_ints(a.rows, 0, 0);
            for (uint64_t n = 0; n < a.rows; n++)
                ((int32_t *)kb_at(a.tokens))[n] = (int32_t)(kit_random() % 50);
            a.table = kit_floats(a.format, 50 * (uint64_t)a.width, 1);
            if (learned) {
                a.position_ids = kit_ints(a.rows, 0, 1);
                a.position_table = kit_floats(a.format, a.rows * a.width, 1);
            }
            a.out = kit_poison(KVP_F32, a.rows * a.width);
            KIT_CHECK(KB_EMBED, a, outs);
        }
}
END_TEST

START_TEST(embed_by_hand)
{
    struct kb_embed a = {.rows = 2, .width = 2, .vocab = 3, .format = KVP_F32};
    const float table[] = {1, 2, 3, 4, 5, 6}, positions[] = {10, 20, 30, 40}, want[] = {35, 46, 11, 22};
    struct kvp_error e = {0};

    a.tokens = kit_ints(2, 2, -2);
    a.position_ids = kit_ints(2, 1, -1);
    a.table = kit_bytes(sizeof(table), 0);
    memcpy(kb_at(a.table), table, sizeof(table));
    a.position_table = kit_bytes(sizeof(positions), 0);
    memcpy(kb_at(a.position_table), positions, sizeof(positions));
    a.out = kit_poison(KVP_F32, 4);
    kit_run(KB_EMBED, &a);
    for (int i = 0; i < 4; i++)
        ck_assert_float_eq(((float *)kb_at(a.out))[i], want[i]);
    ((int32_t *)kb_at(a.tokens))[1] = 3;
    ck_assert_int_eq(kb_ref.run(kit_ref, KB_EMBED, &a, &e), KVP_EINPUT);
    ck_assert_str_eq(e.text, "token 3 is outside the vocabulary of 3");
    ck_assert_int_eq(kb_cpu.run(kit_cpu[0].dev, KB_EMBED, &a, NULL), KVP_EINPUT);
}
END_TEST

START_TEST(norm_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_norm, out, KVP_F32, 2e-6, false)};

    for (size_t f = 0; f < COUNT(formats); f++)
        for (unsigned form = 0; form < 4; form++) {
            uint64_t rows = shapes[_i].rows;
            struct kb_norm a = {.rows = rows, .groups = form & 1 ? 3 : 1, .width = shapes[_i].width, .layer = form >= 2,
                                .eps = 1e-5, .format = formats[f]};
            uint64_t width = (uint64_t)a.groups * a.width;

            a.in_stride = width + 7;
            a.in = kit_rows(rows, width, a.in_stride);
            a.weight = kit_floats(a.format, a.width, 2);
            if (form >= 2)
                a.bias = kit_floats(a.format, a.width, 1);
            a.out_stride = form == 3 ? a.in_stride : width + 2;
            a.out = form == 3 ? a.in : kit_poison(KVP_F32, rows * a.out_stride);
            KIT_CHECK(KB_NORM, a, outs);
        }
}
END_TEST

/* A normed vector has a mean square of 1, and a mean of 0 when the mean is taken out. */
START_TEST(norm_law)
{
    struct kb_norm a = {.rows = 3, .groups = 2, .width = 50, .in_stride = 100, .out_stride = 100, .layer = _i,
                        .format = KVP_F32};

    a.in = a.out = kit_rows(3, 100, 100);
    a.weight = kit_floats(KVP_F32, 50, 0);
    for (int i = 0; i < 50; i++)
        ((float *)kb_at(a.weight))[i] = 1;
    kit_run(KB_NORM, &a);
    for (int v = 0; v < 6; v++) {
        double sum = 0, square = 0;

        for (int i = 0; i < 50; i++) {
            double x = (double)((float *)kb_at(a.out))[v * 50 + i];

            sum += x / 50;
            square += x * x / 50;
        }
        ck_assert_double_eq_tol(square, 1, 1e-6);
        ck_assert(!_i || fabs(sum) < 1e-6);
    }
}
END_TEST

static struct kb_rope rope_of(uint64_t rows, uint32_t heads, uint32_t dim, int32_t first)
{
    struct kb_rope a = {.rows = rows, .heads = heads, .head_dim = dim, .stride = (uint64_t)heads * dim + 3};

    a.x = kit_rows(rows, (uint64_t)heads * dim, a.stride);
    a.positions = kit_ints(rows, first, 1);
    a.inv_freq = kit_floats(KVP_F32, dim / 2, 1);
    for (uint32_t i = 0; i < dim / 2; i++)
        ((float *)kb_at(a.inv_freq))[i] = (float)pow(10000, -2.0 * i / dim);
    return a;
}

START_TEST(rope_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_rope, x, KVP_F32, 1e-6, false)};
    static const struct {
        uint64_t rows;
        uint32_t heads, dim;
        int32_t first;
    } cases[] = {{1, 1, 2, 0}, {1, 32, 128, 4095}, {130, 4, 64, 0}, {17, 3, 80, 100000}, {2, 2, 6, 1}};
    struct kb_rope a = rope_of(cases[_i].rows, cases[_i].heads, cases[_i].dim, cases[_i].first);

    KIT_CHECK(KB_ROPE, a, outs);
}
END_TEST

/* By hand: 1 radian turns (1, 0) into (cos 1, sin 1). There and back: unchanged. The dot product of a query and
 * a key depends on the distance of their positions only. */
START_TEST(rope_laws)
{
    struct kb_rope a = rope_of(1, 1, 2, 1), q = rope_of(4, 1, 64, 3), k;
    struct kb_span before;
    double dot[4] = {0};

    ((float *)kb_at(a.x))[0] = 1;
    ((float *)kb_at(a.x))[1] = 0;
    kit_run(KB_ROPE, &a);
    ck_assert_float_eq_tol(((float *)kb_at(a.x))[0], 0.5403023f, 1e-7f);
    ck_assert_float_eq_tol(((float *)kb_at(a.x))[1], 0.8414710f, 1e-7f);

    before = kit_bytes(q.x.buf->bytes, 0);
    memcpy(kb_at(before), kb_at(q.x), q.x.buf->bytes);
    kit_run(KB_ROPE, &q);
    for (int n = 0; n < 4; n++)
        ((int32_t *)kb_at(q.positions))[n] = -(3 + n);
    kit_run(KB_ROPE, &q);
    for (int n = 0; n < 4; n++)
        for (int i = 0; i < 64; i++)
            ck_assert_float_eq_tol(((float *)kb_at(q.x))[n * 67 + i], ((float *)kb_at(before))[n * 67 + i], 1e-6f);

    q = rope_of(4, 1, 64, 5);
    k = rope_of(4, 1, 64, 2);
    for (int n = 1; n < 4; n++) {
        memcpy((float *)kb_at(q.x) + n * 67, kb_at(q.x), 256);
        memcpy((float *)kb_at(k.x) + n * 67, kb_at(k.x), 256);
    }
    kit_run(KB_ROPE, &q);
    kit_run(KB_ROPE, &k);
    for (int n = 0; n < 4; n++)
        for (int i = 0; i < 64; i++)
            dot[n] += (double)((float *)kb_at(q.x))[n * 67 + i] * (double)((float *)kb_at(k.x))[n * 67 + i];
    for (int n = 1; n < 4; n++)
        ck_assert_double_eq_tol(dot[n], dot[0], 1e-5);
}
END_TEST

START_TEST(act_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_act, out, KVP_F32, 1e-5, true)};

    for (int kind = KB_ACT_SILU; kind <= KB_ACT_SIGMOID; kind++)
        for (int form = 0; form < 4; form++) { /* gated or not; apart or in place in the same rows */
            uint64_t rows = shapes[_i].rows, width = shapes[_i].width, in = width * (form & 1 ? 2 : 1);
            struct kb_act a = {.rows = rows, .width = shapes[_i].width, .gated = form & 1, .kind = (enum kb_act_kind)kind,
                               .in_stride = in + 3, .out_stride = form >= 2 ? width : width + 1};

            a.in = kit_rows(rows, in, a.in_stride);
            for (uint64_t r = 0; r < rows; r++)
                for (uint64_t i = 0; i < width; i++)
                    ((float *)kb_at(a.in))[r * a.in_stride + i] *= 8;
            a.out = form >= 2 ? a.in : kit_poison(KVP_F32, rows * a.out_stride);
            if (form < 2) {
                KIT_CHECK(KB_ACT, a, outs);
                continue;
            }
            /* in place: in is out's buffer on each backend, so each gets its own copy of both */
            struct kb_span start = kit_bytes(a.in.buf->bytes, 0), want = kit_bytes(a.in.buf->bytes, 0);

            memcpy(kb_at(start), kb_at(a.in), a.in.buf->bytes);
            kit_run(KB_ACT, &a);
            memcpy(kb_at(want), kb_at(a.in), a.in.buf->bytes);
            for (size_t c = 0; c < COUNT(kit_cpu); c++) {
                memcpy(kb_at(a.in), kb_at(start), a.in.buf->bytes);
                ck_assert_int_eq(kb_cpu.run(kit_cpu[c].dev, KB_ACT, &a, NULL), KVP_OK);
                kit_compare("act in place", outs, want.buf, a.in.buf);
            }
        }
}
END_TEST

/* Values from a table of the functions (Abramowitz and Stegun, 7.1 for erf), 7 digits. */
START_TEST(act_by_hand)
{
    static const struct {
        enum kb_act_kind kind;
        float x, y;
    } cases[] = {
        {KB_ACT_SILU, 0, 0}, {KB_ACT_SILU, 1, 0.7310586f}, {KB_ACT_SILU, -1, -0.2689414f}, {KB_ACT_SILU, 20, 20},
        {KB_ACT_GELU, 1, 0.8413447f}, {KB_ACT_GELU, -2, -0.0455003f}, {KB_ACT_GELU, 0, 0},
        {KB_ACT_GELU_TANH, 1, 0.8411920f}, {KB_ACT_GELU_TANH, -1, -0.1588080f}, {KB_ACT_GELU_TANH, 3, 2.9963627f},
        {KB_ACT_RELU, 3, 3}, {KB_ACT_RELU, -3, 0}, {KB_ACT_RELU2, 3, 9}, {KB_ACT_RELU2, -3, 0},
        {KB_ACT_TANH, 1, 0.7615942f}, {KB_ACT_TANH, -0.5f, -0.4621172f}, {KB_ACT_SIGMOID, 1, 0.7310586f}, {KB_ACT_SIGMOID, -2, 0.1192029f},
    };
    struct kb_act a = {.rows = 1, .width = 1, .gated = true, .in_stride = 2, .out_stride = 1};

    a.in = kit_rows(1, 2, 2);
    a.out = kit_poison(KVP_F32, 1);
    for (size_t i = 0; i < COUNT(cases); i++) {
        a.kind = cases[i].kind;
        ((float *)kb_at(a.in))[0] = cases[i].x;
        ((float *)kb_at(a.in))[1] = 2;
        kit_run(KB_ACT, &a);
        ck_assert_msg(fabsf(((float *)kb_at(a.out))[0] - 2 * cases[i].y) < 3e-7f, "case %zu: %.9g", i,
                      (double)((float *)kb_at(a.out))[0]);
    }
}
END_TEST

START_TEST(write_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_cache_write, dst.data, KVP_F16, 0, false)};
    static const struct {
        uint64_t batch, count, slot;
        uint32_t heads, dim, block;
        bool index;
    } cases[] = {{1, 1, 0, 1, 1, 0, false}, {2, 5, 3, 3, 80, 0, false}, {2, 13, 2, 2, 33, 4, false},
                 {3, 8, 0, 2, 64, 0, true}, {1, 9, 5, 4, 128, 16, true}};

    for (size_t f = 0; f < COUNT(formats); f++) {
        struct kb_cache_write a = {
            .batch = cases[_i].batch, .count = cases[_i].count, .slot = cases[_i].slot, .src_tokens = 20, .src_first = 4,
            .src_stride = (uint64_t)cases[_i].heads * cases[_i].dim + 5,
            .dst = {.format = formats[f], .heads = cases[_i].heads, .dim = cases[_i].dim, .slots = 17,
                    .block = cases[_i].block, .table_stride = 5},
        };
        uint64_t row = (uint64_t)a.dst.heads * a.dst.dim;

        a.src = kit_rows(a.batch * 20, row, a.src_stride);
        if (a.dst.block)
            a.dst.table = kit_shuffled(a.batch * 5);
        a.dst.data = kit_poison(a.dst.format, a.batch * row * (a.dst.block ? 5 * a.dst.block : 17));
        if (cases[_i].index) {
            a.index_stride = a.count + 1;
            a.index = kit_ints(a.batch * a.dst.heads * a.index_stride, 0, 0);
            for (uint64_t i = 0; i < a.batch * a.dst.heads * a.index_stride; i++)
                ((int32_t *)kb_at(a.index))[i] = (int32_t)(kit_random() % 20);
        }
        KIT_CHECK(KB_CACHE_WRITE, a, outs);
        for (uint64_t b = 0; b < a.batch; b++) /* the header's addresses, spelled out */
            for (uint32_t h = 0; h < a.dst.heads; h++)
                for (uint64_t j = 0; j < a.count; j++) {
                    uint64_t t = 4 + j, slot = a.slot + j, at = ((b * a.dst.heads + h) * 17 + slot) * a.dst.dim;
                    const float *src;

                    if (a.index.buf)
                        t = (uint64_t)((int32_t *)kb_at(a.index))[(b * a.dst.heads + h) * a.index_stride + j];
                    if (a.dst.block)
                        at = (((uint64_t)((int32_t *)kb_at(a.dst.table))[b * 5 + slot / a.dst.block] * a.dst.heads + h) *
                                  a.dst.block + slot % a.dst.block) * a.dst.dim;
                    src = (float *)kb_at(a.src) + (b * 20 + t) * a.src_stride + h * a.dst.dim;
                    for (uint32_t i = 0; i < a.dst.dim; i++)
                        ck_assert_float_eq(kb_load(a.dst.format, kb_at(a.dst.data), at + i), kb_rounded(a.dst.format, src[i]));
                }
    }
}
END_TEST

START_TEST(probe_sums)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_read_probe, out, KVP_F32, 0, false)};
    struct kb_read_probe a = {.bytes = _i ? 64 * 12345 : 64};

    a.src = kit_ints(a.bytes / 4, 1, 1);
    a.out = kit_poison(KVP_F32, 1);
    KIT_CHECK(KB_READ_PROBE, a, outs);
    if (!_i)
        ck_assert_float_eq(((float *)kb_at(a.out))[0], 136); /* 1 + 2 + ... + 16 */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/rows");
    TCase *t = tcase_create("rows");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, embed_cpu, 0, (int)COUNT(shapes));
    tcase_add_test(t, embed_by_hand);
    tcase_add_loop_test(t, norm_cpu, 0, (int)COUNT(shapes));
    tcase_add_loop_test(t, norm_law, 0, 2);
    tcase_add_loop_test(t, rope_cpu, 0, 5);
    tcase_add_test(t, rope_laws);
    tcase_add_loop_test(t, act_cpu, 0, (int)COUNT(shapes));
    tcase_add_test(t, act_by_hand);
    tcase_add_loop_test(t, write_cpu, 0, 5);
    tcase_add_loop_test(t, probe_sums, 0, 2);
    suite_add_tcase(s, t);
    return kit_main(s);
}
