/* moe.c - routing and experts' products: by hand, and cpu against the reference */
#include "tests/kernels/kit.h"

static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};

static const struct {
    uint64_t rows;
    uint32_t experts, chosen, groups, kept;
    bool pairs, bias, normalise;
    enum kb_route kind;
    float scale;
} routes[] = {
    {1, 1, 1, 0, 0, false, false, false, KB_ROUTE_SOFTMAX, 0}, {7, 8, 2, 0, 0, false, false, true, KB_ROUTE_SOFTMAX, 0},
    {300, 32, 4, 0, 0, false, false, false, KB_ROUTE_CHOSEN, 0}, {40, 64, 6, 8, 3, false, false, false, KB_ROUTE_SOFTMAX, 16},
    {33, 256, 8, 8, 4, true, true, true, KB_ROUTE_SIGMOID, 2.5f}, {5, 12, 12, 0, 0, false, true, true, KB_ROUTE_SIGMOID, 0},
    {9, 16, 4, 4, 1, true, false, true, KB_ROUTE_SIGMOID, 1},
};

START_TEST(route_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_moe_route, ids, KVP_I32, 0, false),
                                          KIT_OUT(kb_moe_route, weights, KVP_F32, 1e-6, true)};

    for (size_t f = 0; f < (routes[_i].bias ? COUNT(formats) : 1); f++) {
        struct kb_moe_route a = {.rows = routes[_i].rows, .experts = routes[_i].experts, .chosen = routes[_i].chosen,
                                 .groups = routes[_i].groups, .groups_kept = routes[_i].kept, .group_pairs = routes[_i].pairs,
                                 .kind = routes[_i].kind, .normalise = routes[_i].normalise, .scale = routes[_i].scale,
                                 .stride = routes[_i].experts + 2, .format = formats[f]};

        a.logits = kit_rows(a.rows, a.experts, a.stride);
        if (routes[_i].bias)
            a.bias = kit_floats(a.format, a.experts, 0.3f);
        a.ids = kit_ints(a.rows * a.chosen, -1, 0);
        a.weights = kit_poison(KVP_F32, a.rows * a.chosen);
        ck_assert(kb_ref.supports(kit_ref, KB_MOE_ROUTE, &a));
        KIT_CHECK(KB_MOE_ROUTE, a, outs);
        for (uint64_t r = 0; r < a.rows; r++) { /* each expert once; the weights' sum */
            double sum = 0;
            uint32_t open = 0;

            for (uint32_t j = 0; j < a.chosen; j++) {
                const int32_t id = ((int32_t *)kb_at(a.ids))[r * a.chosen + j];

                sum += (double)((float *)kb_at(a.weights))[r * a.chosen + j];
                for (uint32_t i = 0; i < j; i++)
                    ck_assert_int_ne(id, ((int32_t *)kb_at(a.ids))[r * a.chosen + i]);
                open |= a.groups ? 1u << (uint32_t)id / (a.experts / a.groups) : 0;
            }
            ck_assert_int_le(__builtin_popcount(open), (int)a.groups_kept);
            if (a.normalise || a.kind == KB_ROUTE_CHOSEN)
                ck_assert_double_eq_tol(sum, a.scale != 0 ? (double)a.scale : 1, 1e-5);
        }
    }
}
END_TEST

/* Logits of four experts in two groups, the bias turning the choice. */
START_TEST(route_by_hand)
{
    const float logits[] = {logf(8), logf(1), logf(4), logf(3)}, bias[] = {-1, 0, 0, 0.1f};
    struct kb_moe_route a = {.rows = 1, .experts = 4, .chosen = 2, .stride = 4};
    const int32_t *ids;
    const float *w;

    a.logits = kit_bytes(16, 0);
    memcpy(kb_at(a.logits), logits, 16);
    a.ids = kit_ints(2, -1, 0);
    a.weights = kit_poison(KVP_F32, 2);
    ids = kb_at(a.ids);
    w = kb_at(a.weights);
    kit_run(KB_MOE_ROUTE, &a); /* probabilities 8, 1, 4, 3 of 16 */
    ck_assert(ids[0] == 0 && ids[1] == 2);
    ck_assert_float_eq_tol(w[0], 0.5f, 1e-6f);
    ck_assert_float_eq_tol(w[1], 0.25f, 1e-6f);
    a.normalise = true;
    a.scale = 3;
    kit_run(KB_MOE_ROUTE, &a);
    ck_assert_float_eq_tol(w[0], 2, 1e-5f);
    a.groups = 2;
    a.groups_kept = 1;
    kit_run(KB_MOE_ROUTE, &a); /* the group of expert 0 */
    ck_assert(ids[0] == 0 && ids[1] == 1);
    a.bias = kit_bytes(16, 0);
    memcpy(kb_at(a.bias), bias, 16);
    a.group_pairs = true;
    kit_run(KB_MOE_ROUTE, &a); /* 8/16 - 1 + 1/16 against 4/16 + 3/16 + 0.1: the other; 3/16 + 0.1 is its best */
    ck_assert(ids[0] == 3 && ids[1] == 2);
    ck_assert_float_eq_tol(w[0], 3 * 3.0f / 7, 1e-5f); /* weights are without the bias */
}
END_TEST

static const struct {
    uint64_t rows;
    uint32_t experts, chosen, n, k;
} products[] = {{1, 1, 1, 1, 1}, {1, 8, 2, 64, 40}, {7, 4, 3, 33, 65}, {90, 4, 2, 130, 48}, {200, 3, 1, 70, 96}};

START_TEST(gemm_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_moe_gemm, out, KVP_F32, 3e-6, false)};

    for (size_t f = 0; f < COUNT(formats); f++)
        for (int way = 0; way < 8; way++) { /* x for each choice, added to out, weighted */
            struct kb_moe_gemm a = {.rows = products[_i].rows, .experts = products[_i].experts, .chosen = products[_i].chosen,
                                    .n = products[_i].n, .k = products[_i].k, .format = formats[f], .x_each = way & 1,
                                    .accumulate = way & 2};
            const uint64_t choices = a.rows * a.chosen;

            a.x_stride = a.k + 2;
            a.x = kit_rows(a.x_each ? choices : a.rows, a.k, a.x_stride);
            a.w = kit_floats(a.format, (uint64_t)a.experts * a.n * a.k, 1);
            if (way)
                a.bias = kit_floats(a.format, (uint64_t)a.experts * a.n, 1);
            a.ids = kit_ints(choices, 0, 0);
            for (uint64_t r = 0; r < a.rows; r++) { /* each expert at most once a row */
                const uint64_t first = kit_random() % a.experts;

                for (uint32_t j = 0; j < a.chosen; j++)
                    ((int32_t *)kb_at(a.ids))[r * a.chosen + j] = (int32_t)((first + j) % a.experts);
            }
            a.out_stride = a.n + 3;
            a.out = way & 2 ? kit_rows(a.rows, a.n, a.out_stride) : kit_poison(KVP_F32, choices * a.out_stride);
            if (way & 4)
                a.weights = kit_floats(KVP_F32, choices, 1);
            ck_assert(kb_ref.supports(kit_ref, KB_MOE_GEMM, &a));
            KIT_CHECK(KB_MOE_GEMM, a, outs);
        }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/moe");
    TCase *t = tcase_create("moe");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, route_cpu, 0, (int)COUNT(routes));
    tcase_add_test(t, route_by_hand);
    tcase_add_loop_test(t, gemm_cpu, 0, (int)COUNT(products));
    suite_add_tcase(s, t);
    return kit_main(s);
}
