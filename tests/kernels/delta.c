/* delta.c - the gated delta rule and the gate of attention: by hand, by law (a scan is its steps; a key asked for what it wrote
 * answers with it), and cpu against the reference */
#include "tests/kernels/kit.h"

static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};

static const struct {
    uint64_t batch, tokens;
    uint32_t heads, dim, groups, n;
} shapes[] = {{1, 1, 1, 1, 1, 1}, {1, 1, 4, 128, 2, 128}, {2, 7, 6, 12, 3, 8}, {3, 40, 2, 33, 2, 16}, {1, 129, 4, 24, 1, 5}, {5, 2, 3, 17, 3, 65}};

/* A state in f16 or bf16 is rounded once by each backend: half a unit in the last place apart from the sums. */
static double state_within(enum kvp_format f)
{
    return f == KVP_F32 ? 2e-5 : f == KVP_F16 ? 1e-3 : 8e-3;
}

static struct kb_span column(struct kb_span rows, uint64_t at)
{
    rows.offset += at * sizeof(float);
    return rows;
}

static struct kb_delta_scan delta_of(int i, enum kvp_format f, enum kvp_format state)
{
    const uint64_t rows = shapes[i].batch * shapes[i].tokens, E = (uint64_t)shapes[i].heads * shapes[i].dim;
    const uint64_t keys = (uint64_t)shapes[i].groups * shapes[i].n;
    struct kb_delta_scan a = {.batch = shapes[i].batch, .tokens = shapes[i].tokens, .heads = shapes[i].heads, .head_dim = shapes[i].dim,
                              .groups = shapes[i].groups, .n = shapes[i].n, .stride = 2 * keys + E + 2ull * shapes[i].heads + 1,
                              .out_stride = E + 3, .format = f, .state_format = state};

    a.a_log = kit_floats(f, a.heads, 2);
    a.dt_bias = kit_floats(f, a.heads, 1);
    a.state = kit_floats(state, a.batch * E * a.n, 1);
    a.q = kit_rows(rows, a.stride - 1, a.stride);
    a.k = column(a.q, keys);
    a.v = column(a.q, 2 * keys);
    a.dt = column(a.q, 2 * keys + E);
    a.beta = column(a.q, 2 * keys + E + a.heads);
    a.out = kit_poison(KVP_F32, rows * a.out_stride);
    return a;
}

START_TEST(delta_cpu)
{
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t s = 0; s < COUNT(formats); s++) {
            struct kb_delta_scan a = delta_of(_i, formats[f], formats[s]);
            const struct kit_out outs[] = {KIT_OUT(kb_delta_scan, out, KVP_F32, 2e-5, false),
                                           KIT_OUT(kb_delta_scan, state, formats[s], state_within(formats[s]), false)};

            KIT_CHECK(KB_DELTA_SCAN, a, outs);
        }
}
END_TEST

static void run_best(enum kb_kernel k, const void *args)
{
    struct kvp_error e = {0};

    kit_ok(kb_cpu.run(kit_cpu[3].dev, k, args, &e), &e);
}

static void same(const char *what, const float *a, const float *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        ck_assert_msg(fabsf(a[i] - b[i]) <= 1e-5f * (1 + fabsf(a[i])), "%s: element %d is %g, expected %g", what, (int)i, (double)b[i],
                      (double)a[i]);
}

/* One sequence: all tokens in one call are the tokens one by one, the state carried over. */
START_TEST(scan_is_its_steps)
{
    struct kb_delta_scan a = delta_of(4, KVP_F32, KVP_F32), one = a;
    const uint64_t E = (uint64_t)a.heads * a.head_dim, size = E * a.n;

    one.tokens = 1;
    one.state = kit_bytes(size * sizeof(float), 0);
    memcpy(kb_at(one.state), kb_at(a.state), size * sizeof(float));
    one.out = kit_poison(KVP_F32, a.tokens * a.out_stride);
    run_best(KB_DELTA_SCAN, &a);
    for (uint64_t t = 0; t < a.tokens; t++) {
        struct kb_delta_scan step = one;

        step.q = column(a.q, t * a.stride);
        step.k = column(a.k, t * a.stride);
        step.v = column(a.v, t * a.stride);
        step.dt = column(a.dt, t * a.stride);
        step.beta = column(a.beta, t * a.stride);
        step.out = column(one.out, t * a.out_stride);
        run_best(KB_DELTA_SCAN, &step);
        same("a step", (float *)kb_at(a.out) + t * a.out_stride, (float *)kb_at(step.out), E);
    }
    same("the state", kb_at(a.state), kb_at(one.state), size);
}
END_TEST

/* One head of 1 x 1, state 2: alpha = exp(-1 * log 2) = 1/2 (softplus(0) = log 2), beta = 1/2 (sigmoid(0)), k and q of length 1.
 * S = 1; rest = (5 - 1) / 2 = 2; S = 3; y = 3. */
START_TEST(by_hand)
{
    struct kb_delta_scan a = {.batch = 1, .tokens = 1, .heads = 1, .head_dim = 1, .groups = 1, .n = 1, .stride = 5, .out_stride = 1,
                              .format = KVP_F32, .state_format = KVP_F32};
    const float row[] = {7, 4, 5, 0, 0};

    a.a_log = kit_floats(KVP_F32, 1, 0);
    a.dt_bias = kit_floats(KVP_F32, 1, 0);
    a.state = kit_floats(KVP_F32, 1, 0);
    a.q = kit_bytes(sizeof(row), 0);
    a.out = kit_poison(KVP_F32, 1);
    *(float *)kb_at(a.a_log) = *(float *)kb_at(a.dt_bias) = 0;
    *(float *)kb_at(a.state) = 2;
    memcpy(kb_at(a.q), row, sizeof(row));
    a.k = column(a.q, 1);
    a.v = column(a.q, 2);
    a.dt = column(a.q, 3);
    a.beta = column(a.q, 4);
    kit_run(KB_DELTA_SCAN, &a);
    ck_assert_float_eq_tol(*(float *)kb_at(a.out), 3, 1e-5f);
    ck_assert_float_eq_tol(*(float *)kb_at(a.state), 3, 1e-5f);
    a.groups = 0;
    ck_assert(!kb_ref.supports(kit_ref, KB_DELTA_SCAN, &a));
}
END_TEST

/* Without a value the gate multiplies; what lies between the rows stays. */
START_TEST(gate_multiplies)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_gate, out, KVP_F32, 1e-6, false)};
    struct kb_gate a = {.rows = 5, .width = 1 + 37u * (uint32_t)_i, .gate_stride = 200, .out_stride = 150};
    struct kb_gate half = {.rows = 1, .width = 1, .gate_stride = 1, .out_stride = 1};

    a.gate = kit_rows(a.rows, a.width, a.gate_stride);
    a.out = kit_rows(a.rows, a.width, a.out_stride);
    KIT_CHECK(KB_GATE, a, outs);
    half.gate = kit_bytes(4, 0);
    half.out = kit_bytes(4, 0);
    *(float *)kb_at(half.gate) = 0;
    *(float *)kb_at(half.out) = 6;
    kit_run(KB_GATE, &half);
    ck_assert_float_eq_tol(*(float *)kb_at(half.out), 3, 1e-6f);
}
END_TEST

/* One weight for all heads is that weight in every head. */
START_TEST(one_norm_for_all_heads)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_head_norm, x, KVP_F32, 2e-6, false)};
    enum { ROWS = 3, HEADS = 4, DIM = 12, E = HEADS * DIM };
    struct kb_head_norm a = {.rows = ROWS, .heads = HEADS, .dim = DIM, .rms = true, .silu = true, .one = true, .eps = 1e-6, .stride = E + 1,
                             .in_stride = E, .format = formats[_i]}, b;
    const uint64_t size = kb_element(formats[_i]) * DIM;

    a.weight = kit_floats(a.format, DIM, 1);
    a.gate = kit_rows(ROWS, E, E);
    a.x = kit_rows(ROWS, E, a.stride);
    b = a;
    b.one = false;
    b.weight = kit_bytes(HEADS * size, 0);
    for (uint64_t h = 0; h < HEADS; h++)
        memcpy((char *)kb_at(b.weight) + h * size, kb_at(a.weight), size);
    b.x = kit_bytes(ROWS * a.stride * sizeof(float), 0);
    memcpy(kb_at(b.x), kb_at(a.x), ROWS * a.stride * sizeof(float));
    kit_run(KB_HEAD_NORM, &a);
    kit_run(KB_HEAD_NORM, &b);
    for (uint64_t r = 0; r < ROWS; r++)
        same("a head", (float *)kb_at(b.x) + r * a.stride, (float *)kb_at(a.x) + r * a.stride, E);
    a.x = kit_rows(ROWS, E, a.stride);
    KIT_CHECK(KB_HEAD_NORM, a, outs);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("delta");
    TCase *t = tcase_create("gated delta rule");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_add_loop_test(t, delta_cpu, 0, (int)COUNT(shapes));
    tcase_add_test(t, scan_is_its_steps);
    tcase_add_test(t, by_hand);
    tcase_add_loop_test(t, gate_multiplies, 0, 4);
    tcase_add_loop_test(t, one_norm_for_all_heads, 0, (int)COUNT(formats));
    suite_add_tcase(s, t);
    return kit_main(s);
}
