/* gemm.c - products: identities by hand, and cpu against the reference for few and many rows, with and without
 * scratch, bias and accumulation */
#include "tests/kernels/kit.h"

static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};

static const struct {
    uint64_t m;
    uint32_t n, k;
    uint64_t work_rows; /* scratch, in rows of W; 0: none */
} shapes[] = {
    {1, 1, 1, 0},      {1, 300, 64, 0},  {2, 65, 80, 4},    {3, 131, 33, 0},   {4, 64, 129, 1},   {7, 100, 256, 0},
    {8, 513, 96, 64},  {9, 40, 7, 3},    {16, 100, 64, 1},  {17, 129, 200, 100}, {33, 700, 65, 48}, {70, 64, 300, 0},
    {130, 1030, 64, 2000},
};

START_TEST(gemm_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_gemm, out, KVP_F32, 2e-6, false)};

    for (size_t f = 0; f < COUNT(formats); f++)
        for (int form = 0; form < 4; form++) {
            struct kb_gemm a = {.m = shapes[_i].m, .n = shapes[_i].n, .k = shapes[_i].k, .accumulate = form & 1,
                                .format = formats[f], .x_stride = shapes[_i].k + 5u, .out_stride = shapes[_i].n + 3u};

            a.x = kit_rows(a.m, a.k, a.x_stride);
            a.w = kit_floats(a.format, (uint64_t)a.n * a.k, 1);
            if (form & 2)
                a.bias = kit_floats(a.format, a.n, 1);
            a.out = a.accumulate ? kit_rows(a.m, a.n, a.out_stride) : kit_poison(KVP_F32, a.m * a.out_stride);
            if ((a.work_bytes = shapes[_i].work_rows * a.k * 4))
                a.work = kit_poison(KVP_F32, a.work_bytes / 4);
            KIT_CHECK(KB_GEMM, a, outs);
        }
}
END_TEST

/* x times the identity is x; accumulating once more doubles it; a bias is added once. */
START_TEST(gemm_identity)
{
    struct kb_gemm a = {.m = 5, .n = 6, .k = 6, .x_stride = 6, .out_stride = 6, .format = KVP_F16};
    const float *x, *y;

    a.x = kit_rows(5, 6, 6);
    a.w = kit_floats(KVP_F16, 36, 0);
    for (uint32_t i = 0; i < 6; i++)
        kb_store(KVP_F16, kb_at(a.w), i * 7, 1);
    a.out = kit_poison(KVP_F32, 30);
    x = kb_at(a.x);
    y = kb_at(a.out);
    kit_run(KB_GEMM, &a);
    for (int i = 0; i < 30; i++)
        ck_assert_float_eq(y[i], x[i]);
    a.accumulate = true;
    a.bias = kit_floats(KVP_F16, 6, 0);
    for (uint32_t i = 0; i < 6; i++)
        kb_store(KVP_F16, kb_at(a.bias), i, (float)i);
    kit_run(KB_GEMM, &a);
    for (int i = 0; i < 30; i++)
        ck_assert_float_eq_tol(y[i], 2 * x[i] + (float)(i % 6), 1e-6f);
}
END_TEST

/* [1 2] W^T with W = [[3 4] [5 6] [7 8]]: which of W's indices is summed. */
START_TEST(gemm_by_hand)
{
    static const float want[] = {11, 17, 23};
    struct kb_gemm a = {.m = 1, .n = 3, .k = 2, .x_stride = 2, .out_stride = 3, .format = KVP_BF16};

    a.x = kit_floats(KVP_F32, 2, 0);
    a.w = kit_floats(KVP_BF16, 6, 0);
    for (uint32_t i = 0; i < 6; i++)
        kb_store(KVP_BF16, kb_at(a.w), i, (float)(3 + i));
    ((float *)kb_at(a.x))[0] = 1;
    ((float *)kb_at(a.x))[1] = 2;
    a.out = kit_poison(KVP_F32, 3);
    kit_run(KB_GEMM, &a);
    for (int i = 0; i < 3; i++)
        ck_assert_float_eq(((float *)kb_at(a.out))[i], want[i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/gemm");
    TCase *t = tcase_create("gemm");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, gemm_cpu, 0, (int)COUNT(shapes));
    tcase_add_test(t, gemm_identity);
    tcase_add_test(t, gemm_by_hand);
    suite_add_tcase(s, t);
    return kit_main(s);
}
