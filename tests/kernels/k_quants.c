/* k_quants.c - blocks of 256 weights: products against the reference over random blocks, and their layout walked the way
 * ggml-quants.c's dequantize_row_q4_K and dequantize_row_q6_K do */
#include "tests/kernels/kit.h"

#include "kernels/code.h"

static const struct {
    uint64_t m;
    uint32_t n, k;
    uint64_t work_rows;
} shapes[] = {{1, 3, 256, 0}, {2, 65, 512, 4}, {9, 40, 1024, 3}, {33, 70, 256, 64}, {70, 129, 768, 0}, {5, 24, 2304, 7}};
static const enum kvp_format formats[] = {KVP_Q4_K, KVP_Q6_K};

/* Random codes and sub-scales, sane halves. */
static struct kb_span noise(enum kvp_format f, uint64_t blocks)
{
    struct kb_span s = kit_bytes(blocks * kb_unit_of(f).bytes, 0xff);
    unsigned char *p = kb_at(s);

    for (uint64_t i = 0; i < blocks * kb_unit_of(f).bytes; i++)
        p[i] = (unsigned char)kit_random();
    for (uint64_t b = 0; b < blocks; b++) {
        if (f == KVP_Q4_K) {
            ((struct kb_q4_k *)kb_at(s))[b].d = kb_to_f16(0.01f * kit_uniform());
            ((struct kb_q4_k *)kb_at(s))[b].dmin = kb_to_f16(0.01f * kit_uniform());
        } else {
            ((struct kb_q6_k *)kb_at(s))[b].d = kb_to_f16(0.001f * kit_uniform());
        }
    }
    return s;
}

/* A pointer through each part of the block, 64 numbers a turn. */
static void walk_q4_k(const struct kb_q4_k *x, float *y)
{
    const float d = kb_from_f16(x->d), min = kb_from_f16(x->dmin);
    const uint8_t *q = x->q, *s = x->scales;

    for (int is = 0; is < 8; is += 2, q += 32) {
        float by[2], minus[2];

        for (int i = 0; i < 2; i++) {
            const int j = is + i;

            if (j < 4) {
                by[i] = d * (float)(s[j] % 64);
                minus[i] = min * (float)(s[j + 4] % 64);
            } else {
                by[i] = d * (float)(s[j + 4] % 16 + s[j - 4] / 64 * 16);
                minus[i] = min * (float)(s[j + 4] / 16 + s[j] / 64 * 16);
            }
        }
        for (int l = 0; l < 32; l++)
            *y++ = by[0] * (float)(q[l] % 16) - minus[0];
        for (int l = 0; l < 32; l++)
            *y++ = by[1] * (float)(q[l] / 16) - minus[1];
    }
}

static void walk_q6_k(const struct kb_q6_k *x, float *y)
{
    const float d = kb_from_f16(x->d);
    const uint8_t *ql = x->ql, *qh = x->qh;
    const int8_t *s = x->scales;

    for (int n = 0; n < 256; n += 128, y += 128, ql += 64, qh += 32, s += 8)
        for (int l = 0; l < 32; l++) {
            y[l] = d * (float)s[l / 16] * (float)(ql[l] % 16 + qh[l] % 4 * 16 - 32);
            y[l + 32] = d * (float)s[l / 16 + 2] * (float)(ql[l + 32] % 16 + qh[l] / 4 % 4 * 16 - 32);
            y[l + 64] = d * (float)s[l / 16 + 4] * (float)(ql[l] / 16 + qh[l] / 16 % 4 * 16 - 32);
            y[l + 96] = d * (float)s[l / 16 + 6] * (float)(ql[l + 32] / 16 + qh[l] / 64 * 16 - 32);
        }
}

START_TEST(products)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_gemm, out, KVP_F32, 2e-5, false)};

    for (size_t s = 0; s < COUNT(shapes); s++) {
        struct kb_gemm a = {.m = shapes[s].m, .n = shapes[s].n, .k = shapes[s].k, .x_stride = shapes[s].k + 3, .out_stride = shapes[s].n + 2,
                            .format = formats[_i]};

        a.x = kit_rows(a.m, a.k, a.x_stride);
        a.w = noise(a.format, (uint64_t)a.n * a.k / 256);
        a.out = kit_poison(KVP_F32, a.m * a.out_stride);
        a.work = kit_poison(KVP_F32, shapes[s].work_rows * a.k);
        a.work_bytes = shapes[s].work_rows * a.k * sizeof(float);
        KIT_CHECK(KB_GEMM, a, outs);
    }
}
END_TEST

START_TEST(layout)
{
    enum { BLOCKS = 6 };
    struct kb_span w = noise(formats[_i], BLOCKS);
    float *x, *out, want[256];
    struct kb_gemm a = {.m = 256, .n = BLOCKS, .k = 256, .x_stride = 256, .out_stride = BLOCKS, .format = formats[_i], .w = w,
                        .x = kit_floats(KVP_F32, 256 * 256, 0), .out = kit_poison(KVP_F32, 256 * BLOCKS)};

    x = kb_at(a.x);
    for (int i = 0; i < 256; i++)
        x[i * 256 + i] = 1;
    kit_run(KB_GEMM, &a);
    out = kb_at(a.out);
    for (int b = 0; b < BLOCKS; b++) {
        if (formats[_i] == KVP_Q4_K)
            walk_q4_k((const struct kb_q4_k *)kb_at(w) + b, want);
        else
            walk_q6_k((const struct kb_q6_k *)kb_at(w) + b, want);
        for (int i = 0; i < 256; i++)
            ck_assert_float_eq_tol(out[i * BLOCKS + b], want[i], 1e-6f);
    }
    ck_assert_uint_eq(sizeof(struct kb_q4_k), 144);
    ck_assert_uint_eq(sizeof(struct kb_q6_k), 210);
}
END_TEST

/* Weights only: a cache does not store them. */
START_TEST(no_rows)
{
    struct kb_kv kv = {.data = kit_bytes(1024, 0), .format = formats[_i], .heads = 1, .dim = 256, .slots = 1};
    const struct kb_cache_write w = {.batch = 1, .count = 1, .dst = kv, .src = kit_floats(KVP_F32, 256, 1), .src_tokens = 1, .src_stride = 256};

    ck_assert(!kb_cpu.supports(NULL, KB_CACHE_WRITE, &w));
    ck_assert(!kb_ref.supports(NULL, KB_CACHE_WRITE, &w));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/k_quants");
    TCase *t = tcase_create("blocks of 256");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, products, 0, 2);
    tcase_add_loop_test(t, layout, 0, 2);
    tcase_add_loop_test(t, no_rows, 0, 2);
    suite_add_tcase(s, t);
    return kit_main(s);
}
