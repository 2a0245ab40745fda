/* recurrent.c - convolution, token shift, scans and head norm: by hand, by law (a scan is its steps), and cpu
 * against the reference */
#include "tests/kernels/kit.h"

static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};

/* A state in f16 or bf16 is rounded once by each backend: half a unit in the last place apart from the sums. */
static double state_within(enum kvp_format f)
{
    return f == KVP_F32 ? 2e-5 : f == KVP_F16 ? 1e-3 : 8e-3;
}

static const struct {
    uint64_t batch, tokens;
    uint32_t channels, n;
} shapes[] = {{1, 1, 1, 1}, {1, 1, 130, 16}, {2, 7, 64, 3}, {3, 40, 65, 16}, {1, 129, 200, 5}, {5, 2, 17, 1}, {11, 1, 72, 16}};

/* ---- convolution ---------------------------------------------------------------------------------- */

START_TEST(conv_cpu)
{
    for (size_t f = 0; f < COUNT(formats); f++)
        for (unsigned form = 0; form < 8; form++) {
            const struct kit_out outs[] = {KIT_OUT(kb_conv, x, KVP_F32, 3e-6, false),
                                           KIT_OUT(kb_conv, state, formats[(f + form) % 3], 0, false)};
            const uint64_t rows = shapes[_i].batch * shapes[_i].tokens;
            struct kb_conv a = {.batch = shapes[_i].batch, .tokens = shapes[_i].tokens, .channels = shapes[_i].channels,
                                .taps = form & 1 ? 4 : 2 + form / 2, .silu = form & 2, .format = formats[f],
                                .state_format = formats[(f + form) % 3]};

            a.columns = a.taps - (form & 4 ? 0 : 1);
            a.stride = a.channels + 5;
            a.x = kit_rows(rows, a.channels, a.stride);
            a.w = kit_floats(a.format, (uint64_t)a.channels * a.taps, 1);
            if (form & 1)
                a.bias = kit_floats(a.format, a.channels, 1);
            a.state = kit_floats(a.state_format, a.batch * a.columns * a.channels, 1);
            KIT_CHECK(KB_CONV, a, outs);
        }
}
END_TEST

/* Two taps 10 and 1 on 1 2 3 after 5: 10*5+1, 10*1+2, 10*2+3, then the column is 3. */
START_TEST(conv_by_hand)
{
    struct kb_conv a = {.batch = 1, .tokens = 3, .channels = 1, .taps = 2, .columns = 1, .stride = 1, .format = KVP_F32,
                        .state_format = KVP_F32};
    const float w[] = {10, 1}, x[] = {1, 2, 3}, want[] = {51, 12, 23};

    a.w = kit_bytes(sizeof(w), 0);
    a.x = kit_bytes(sizeof(x), 0);
    a.state = kit_floats(KVP_F32, 1, 0);
    memcpy(kb_at(a.w), w, sizeof(w));
    memcpy(kb_at(a.x), x, sizeof(x));
    *(float *)kb_at(a.state) = 5;
    kit_run(KB_CONV, &a);
    ck_assert_mem_eq(kb_at(a.x), want, sizeof(want));
    ck_assert_float_eq(*(float *)kb_at(a.state), 3);
    a.columns = 0;
    ck_assert(!kb_ref.supports(kit_ref, KB_CONV, &a));
}
END_TEST

/* ---- token shift ---------------------------------------------------------------------------------- */

START_TEST(shift_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_shift, out, KVP_F32, 1e-6, false), KIT_OUT(kb_shift, state, KVP_F16, 0, false)};

    for (unsigned form = 0; form < 16; form++) {
        const uint64_t rows = shapes[_i].batch * shapes[_i].tokens;
        struct kb_shift a = {.tokens = shapes[_i].tokens, .rows = rows, .width = shapes[_i].channels, .own = form & 1,
                             .keep = form & 2, .format = formats[form % 3], .state_format = KVP_F16};

        if (form & 4) { /* a cut of the rows, sequences begin and end inside it */
            a.first = rows / 3;
            a.rows = rows - a.first - rows / 4;
        }
        a.x_stride = a.width + 3;
        a.more_stride = a.out_stride = a.width + 1;
        a.state_stride = 2ull * a.width;
        a.x = kit_rows(rows, a.width, a.x_stride);
        a.mix = kit_floats(a.format, a.width, 1);
        a.state = kit_floats(KVP_F16, shapes[_i].batch * a.state_stride, 1);
        a.out = form & 8 ? kit_rows(rows, a.width, a.out_stride) : kit_poison(KVP_F32, rows * a.out_stride);
        if (form & 8)
            a.more = kit_rows(rows, a.width, a.more_stride);
        KIT_CHECK(KB_SHIFT, a, outs);
    }
}
END_TEST

/* Rows cut anywhere, each piece keeping its ends, are the rows at once. */
START_TEST(shift_cuts)
{
    enum { BATCH = 3, TOKENS = 5, WIDTH = 9, ROWS = BATCH * TOKENS };
    struct kb_shift a = {.tokens = TOKENS, .rows = ROWS, .width = WIDTH, .keep = true, .x_stride = WIDTH, .out_stride = WIDTH,
                         .format = KVP_F32, .state_format = KVP_F32, .state_stride = WIDTH}, b;

    a.x = kit_rows(ROWS, WIDTH, WIDTH);
    a.mix = kit_floats(KVP_F32, WIDTH, 1);
    a.state = kit_floats(KVP_F32, BATCH * WIDTH, 1);
    a.out = kit_poison(KVP_F32, ROWS * WIDTH);
    b = a;
    b.state = kit_bytes(BATCH * WIDTH * 4, 0);
    memcpy(kb_at(b.state), kb_at(a.state), BATCH * WIDTH * 4);
    b.out = kit_poison(KVP_F32, ROWS * WIDTH);
    kit_run(KB_SHIFT, &a);
    for (b.first = 0; b.first < ROWS; b.first += b.rows) {
        struct kb_shift piece = b;

        b.rows = piece.rows = b.first == 0 ? 4 : b.first == 4 ? 3 : 8;
        piece.out.offset = b.first * WIDTH * 4;
        kit_run(KB_SHIFT, &piece);
    }
    ck_assert_mem_eq(kb_at(a.out), kb_at(b.out), ROWS * WIDTH * 4);
    ck_assert_mem_eq(kb_at(a.state), kb_at(b.state), BATCH * WIDTH * 4);
    for (int i = 0; i < WIDTH; i++)
        ck_assert_float_eq(((float *)kb_at(a.state))[i], ((float *)kb_at(a.x))[(TOKENS - 1) * WIDTH + i]);
}
END_TEST

START_TEST(gate_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_gate, out, KVP_F32, 1e-6, false)};
    const uint64_t rows = shapes[_i].batch * shapes[_i].tokens;
    struct kb_gate a = {.rows = rows, .width = shapes[_i].channels, .gate_stride = shapes[_i].channels + 1,
                        .value_stride = shapes[_i].channels, .out_stride = shapes[_i].channels + 2};

    a.gate = kit_rows(rows, a.width, a.gate_stride);
    a.value = kit_rows(rows, a.width, a.value_stride);
    a.out = kit_rows(rows, a.width, a.out_stride);
    KIT_CHECK(KB_GATE, a, outs);
}
END_TEST

/* ---- scans: made here, run whole and cut ----------------------------------------------------------- */

/* Column `at` of rows of `stride` in one buffer, as the engine's projections lie. */
static struct kb_span column(struct kb_span rows, uint64_t at)
{
    rows.offset += at * sizeof(float);
    return rows;
}

static struct kb_ssm_scan ssm_of(int i, enum kvp_format f, enum kvp_format state, bool gated)
{
    const uint64_t rows = shapes[i].batch * shapes[i].tokens, E = shapes[i].channels, n = shapes[i].n;
    struct kb_ssm_scan a = {.batch = shapes[i].batch, .tokens = shapes[i].tokens, .channels = shapes[i].channels, .n = shapes[i].n,
                            .stride = 3 * E + 2 * n + 1, .out_stride = E + 3, .format = f, .state_format = state};

    a.a_log = kit_floats(f, E * n, 2);
    a.d = kit_floats(f, E, 1);
    a.state = kit_floats(state, a.batch * E * n, 1);
    a.x = kit_rows(rows, a.stride - 1, a.stride);
    a.dt = column(a.x, E);
    a.b = column(a.x, 2 * E);
    a.c = column(a.x, 2 * E + n);
    if (gated)
        a.z = column(a.x, 2 * E + 2 * n);
    a.out = kit_poison(KVP_F32, rows * a.out_stride);
    return a;
}

static struct kb_ssd_scan ssd_of(int i, enum kvp_format f, enum kvp_format state, bool gated)
{
    const uint32_t groups = (uint32_t)i % 2 + 1, heads = groups * (1 + (uint32_t)i % 3), dim = shapes[i].channels % 37 + 1;
    const uint64_t rows = shapes[i].batch * shapes[i].tokens, E = (uint64_t)heads * dim, bc = (uint64_t)groups * shapes[i].n;
    struct kb_ssd_scan a = {.batch = shapes[i].batch, .tokens = shapes[i].tokens, .heads = heads, .head_dim = dim, .groups = groups,
                            .n = shapes[i].n, .stride = 2 * E + 2 * bc + heads + 1, .out_stride = E + 3, .format = f,
                            .state_format = state};

    a.a_log = kit_floats(f, heads, 2);
    a.d = kit_floats(f, heads, 1);
    a.dt_bias = kit_floats(f, heads, 1);
    a.state = kit_floats(state, a.batch * E * a.n, 1);
    a.x = kit_rows(rows, a.stride - 1, a.stride);
    a.b = column(a.x, E);
    a.c = column(a.x, E + bc);
    a.dt = column(a.x, E + 2 * bc);
    if (gated)
        a.z = column(a.x, E + 2 * bc + heads);
    a.out = kit_poison(KVP_F32, rows * a.out_stride);
    return a;
}

static struct kb_wkv4 wkv4_of(int i, enum kvp_format f, enum kvp_format state)
{
    const uint64_t rows = shapes[i].batch * shapes[i].tokens, E = shapes[i].channels;
    struct kb_wkv4 a = {.batch = shapes[i].batch, .tokens = shapes[i].tokens, .channels = shapes[i].channels, .stride = 3 * E + 1,
                        .out_stride = E + 3, .format = f, .state_format = state};

    a.decay = kit_floats(f, E, 2);
    a.first = kit_floats(f, E, 3);
    a.state = kit_floats(state, a.batch * 3 * E, 1);
    for (uint64_t b = 0; b < a.batch; b++)
        for (uint64_t c = 0; c < E; c++) /* a denominator is positive */
            kb_store(state, kb_at(a.state), (b * 3 + 1) * E + c, 0.5f + fabsf(kit_uniform()));
    a.r = kit_rows(rows, 3 * E, a.stride);
    a.k = column(a.r, E);
    a.v = column(a.r, 2 * E);
    a.out = kit_poison(KVP_F32, rows * a.out_stride);
    return a;
}

static struct kb_wkv6 wkv6_of(int i, enum kvp_format f, enum kvp_format state, bool own)
{
    const uint32_t heads = 1 + (uint32_t)i % 3, dim = shapes[i].channels % 67 + 1;
    const uint64_t rows = shapes[i].batch * shapes[i].tokens, E = (uint64_t)heads * dim;
    struct kb_wkv6 a = {.batch = shapes[i].batch, .tokens = shapes[i].tokens, .heads = heads, .dim = dim, .stride = 4 * E + 1,
                        .out_stride = E + 3, .format = f, .state_format = state};

    a.decay = kit_floats(f, E, 2);
    a.first = kit_floats(f, E, 1);
    a.state = kit_floats(state, a.batch * E * dim, 1);
    a.r = kit_rows(rows, 4 * E, a.stride);
    a.k = column(a.r, E);
    a.v = column(a.r, 2 * E);
    if (own)
        a.w = column(a.r, 3 * E);
    a.out = kit_poison(KVP_F32, rows * a.out_stride);
    return a;
}

/* k and v lie in buffers of their own: they are outputs too. */
static struct kb_wkv7 wkv7_of(int i, enum kvp_format f, enum kvp_format state, bool mixes)
{
    const uint32_t heads = 1 + (uint32_t)i % 3, dim = shapes[i].channels % 67 + 1;
    const uint64_t rows = shapes[i].batch * shapes[i].tokens, E = (uint64_t)heads * dim;
    struct kb_wkv7 a = {.batch = shapes[i].batch, .tokens = shapes[i].tokens, .heads = heads, .dim = dim, .stride = 4 * E + 1,
                        .out_stride = E + 3, .format = f, .state_format = state};

    a.k_k = kit_floats(f, E, 1);
    a.k_a = kit_floats(f, E, 1);
    a.state = kit_floats(state, a.batch * E * dim, 1);
    a.r = kit_rows(rows, 4 * E, a.stride);
    a.w = column(a.r, E);
    a.a = column(a.r, 2 * E);
    a.k = kit_rows(rows, E, a.stride);
    a.v = kit_rows(rows, E, a.stride);
    a.out = mixes ? kit_rows(rows, E, a.out_stride) : kit_poison(KVP_F32, rows * a.out_stride);
    if (mixes) {
        a.v_first = column(a.r, 3 * E);
        a.v_mix = kit_rows(rows, E, a.out_stride);
    }
    return a;
}

START_TEST(scans_cpu)
{
    for (size_t f = 0; f < COUNT(formats); f++)
        for (int form = 0; form < 2; form++) {
            const enum kvp_format state = formats[(f + (size_t)form) % 3];
            const double kept = state_within(state);
            struct kb_ssm_scan ssm = ssm_of(_i, formats[f], state, form);
            struct kb_ssd_scan ssd = ssd_of(_i, formats[f], state, form);
            struct kb_wkv4 wkv4 = wkv4_of(_i, formats[f], state);
            struct kb_wkv6 wkv6 = wkv6_of(_i, formats[f], state, form);
            struct kb_wkv7 wkv7 = wkv7_of(_i, formats[f], state, form);
            const struct kit_out of_ssm[] = {KIT_OUT(kb_ssm_scan, out, KVP_F32, 2e-5, false), KIT_OUT(kb_ssm_scan, state, state, kept, false)};
            const struct kit_out of_ssd[] = {KIT_OUT(kb_ssd_scan, out, KVP_F32, 2e-5, false), KIT_OUT(kb_ssd_scan, state, state, kept, false)};
            const struct kit_out of_wkv4[] = {KIT_OUT(kb_wkv4, out, KVP_F32, 2e-5, false), KIT_OUT(kb_wkv4, state, state, kept, false)};
            const struct kit_out of_wkv6[] = {KIT_OUT(kb_wkv6, out, KVP_F32, 2e-5, false), KIT_OUT(kb_wkv6, state, state, kept, false)};
            const struct kit_out of_wkv7[] = {KIT_OUT(kb_wkv7, out, KVP_F32, 2e-5, false), KIT_OUT(kb_wkv7, state, state, kept, false),
                                              KIT_OUT(kb_wkv7, k, KVP_F32, 1e-6, false), KIT_OUT(kb_wkv7, v, KVP_F32, 1e-6, false)};

            KIT_CHECK(KB_SSM_SCAN, ssm, of_ssm);
            KIT_CHECK(KB_SSD_SCAN, ssd, of_ssd);
            KIT_CHECK(KB_WKV4, wkv4, of_wkv4);
            KIT_CHECK(KB_WKV6, wkv6, of_wkv6);
            KIT_CHECK(KB_WKV7, wkv7, of_wkv7);
        }
}
END_TEST

static struct kb_span copy_of(struct kb_span s)
{
    struct kb_span c = kit_bytes(s.buf->bytes, 0);

    memcpy(c.buf->data, s.buf->data, s.buf->bytes);
    c.offset = s.offset;
    return c;
}

static void same(const char *what, struct kb_span whole, struct kb_span steps)
{
    for (uint64_t i = 0; i < whole.buf->bytes / 4; i++) {
        const float a = ((float *)(void *)whole.buf->data)[i], b = ((float *)(void *)steps.buf->data)[i];

        ck_assert_msg((isnan(a) && isnan(b)) || fabsf(a - b) <= 1e-5f * (1 + fabsf(a)), "%s: element %d is %g at once, %g in steps", what,
                      (int)i, (double)a, (double)b);
    }
}

static void run_best(enum kb_kernel k, const void *args)
{
    struct kvp_error e = {0};

    kit_ok(kb_cpu.run(kit_cpu[3].dev, k, args, &e), &e);
}

#define ADVANCE(span, by) ((span).buf ? (void)((span).offset += (by) * sizeof(float)) : (void)0)

/* One sequence: all tokens in one call are the tokens one by one, state carried over. */
START_TEST(scan_is_its_steps)
{
    struct kb_ssm_scan ssm = ssm_of(4, KVP_F32, KVP_F32, true), ssm1 = ssm;
    struct kb_ssd_scan ssd = ssd_of(4, KVP_F32, KVP_F32, true), ssd1 = ssd;
    struct kb_wkv4 wkv4 = wkv4_of(4, KVP_F32, KVP_F32), wkv41 = wkv4;
    struct kb_wkv6 wkv6 = wkv6_of(4, KVP_F32, KVP_F32, true), wkv61 = wkv6;
    struct kb_wkv7 wkv7 = wkv7_of(4, KVP_F32, KVP_F32, true), wkv71 = wkv7;

    ssm1.state = copy_of(ssm.state), ssm1.out = copy_of(ssm.out), ssm1.tokens = 1;
    ssd1.state = copy_of(ssd.state), ssd1.out = copy_of(ssd.out), ssd1.tokens = 1;
    wkv41.state = copy_of(wkv4.state), wkv41.out = copy_of(wkv4.out), wkv41.tokens = 1;
    wkv61.state = copy_of(wkv6.state), wkv61.out = copy_of(wkv6.out), wkv61.tokens = 1;
    wkv71.state = copy_of(wkv7.state), wkv71.out = copy_of(wkv7.out), wkv71.tokens = 1;
    wkv71.k = copy_of(wkv7.k), wkv71.v = copy_of(wkv7.v);
    run_best(KB_SSM_SCAN, &ssm);
    run_best(KB_SSD_SCAN, &ssd);
    run_best(KB_WKV4, &wkv4);
    run_best(KB_WKV6, &wkv6);
    run_best(KB_WKV7, &wkv7);
    for (uint64_t t = 0; t < shapes[4].tokens; t++) {
        run_best(KB_SSM_SCAN, &ssm1);
        run_best(KB_SSD_SCAN, &ssd1);
        run_best(KB_WKV4, &wkv41);
        run_best(KB_WKV6, &wkv61);
        run_best(KB_WKV7, &wkv71);
        ADVANCE(ssm1.x, ssm.stride), ADVANCE(ssm1.dt, ssm.stride), ADVANCE(ssm1.b, ssm.stride), ADVANCE(ssm1.c, ssm.stride);
        ADVANCE(ssm1.z, ssm.stride), ADVANCE(ssm1.out, ssm.out_stride);
        ADVANCE(ssd1.x, ssd.stride), ADVANCE(ssd1.dt, ssd.stride), ADVANCE(ssd1.b, ssd.stride), ADVANCE(ssd1.c, ssd.stride);
        ADVANCE(ssd1.z, ssd.stride), ADVANCE(ssd1.out, ssd.out_stride);
        ADVANCE(wkv41.r, wkv4.stride), ADVANCE(wkv41.k, wkv4.stride), ADVANCE(wkv41.v, wkv4.stride), ADVANCE(wkv41.out, wkv4.out_stride);
        ADVANCE(wkv61.r, wkv6.stride), ADVANCE(wkv61.k, wkv6.stride), ADVANCE(wkv61.v, wkv6.stride), ADVANCE(wkv61.w, wkv6.stride);
        ADVANCE(wkv61.out, wkv6.out_stride);
        ADVANCE(wkv71.r, wkv7.stride), ADVANCE(wkv71.w, wkv7.stride), ADVANCE(wkv71.a, wkv7.stride), ADVANCE(wkv71.k, wkv7.stride);
        ADVANCE(wkv71.v, wkv7.stride), ADVANCE(wkv71.v_first, wkv7.stride), ADVANCE(wkv71.v_mix, wkv7.out_stride);
        ADVANCE(wkv71.out, wkv7.out_stride);
    }
    same("ssm_scan", ssm.out, ssm1.out), same("ssm_scan", ssm.state, ssm1.state);
    same("ssd_scan", ssd.out, ssd1.out), same("ssd_scan", ssd.state, ssd1.state);
    same("wkv4", wkv4.out, wkv41.out), same("wkv4", wkv4.state, wkv41.state);
    same("wkv6", wkv6.out, wkv61.out), same("wkv6", wkv6.state, wkv61.state);
    same("wkv7", wkv7.out, wkv71.out), same("wkv7", wkv7.state, wkv71.state);
}
END_TEST

/* With x = 0 a state of 1 becomes exp(-softplus(dt) exp(a_log)): the decays are held against libm's, from those that forget
 * nothing to those that leave less than any normal float ([1]: 2^-126 may stay). */
START_TEST(ssm_decays_are_libms)
{
    enum { CHANNELS = 200, N = 16 };
    struct kb_ssm_scan a = {.batch = 1, .tokens = 1, .channels = CHANNELS, .n = N, .stride = CHANNELS, .out_stride = CHANNELS,
                            .format = KVP_F32, .state_format = KVP_F32};
    const float most = _i ? 8 : 2.5f;
    struct kvp_error e = {0};

    a.a_log = kit_floats(KVP_F32, CHANNELS * N, most);
    a.dt = kit_floats(KVP_F32, CHANNELS, 7);
    a.d = a.x = kit_bytes(CHANNELS * sizeof(float), 0);
    a.b = a.c = kit_floats(KVP_F32, CHANNELS, 1);
    a.out = kit_floats(KVP_F32, CHANNELS, 1);
    for (size_t k = 0; k < COUNT(kit_cpu); k++) {
        a.state = kit_bytes(CHANNELS * N * sizeof(float), 0);
        for (uint32_t i = 0; i < CHANNELS * N; i++)
            ((float *)kb_at(a.state))[i] = 1;
        kit_ok(kb_cpu.run(kit_cpu[k].dev, KB_SSM_SCAN, &a, &e), &e);
        for (uint32_t i = 0; i < CHANNELS * N; i++) {
            const double u = -log1p(exp(((float *)kb_at(a.dt))[i / N])) * exp(((float *)kb_at(a.a_log))[i]), want = exp(u);
            const double got = ((float *)kb_at(a.state))[i]; /* dt, a and their product are rounded, exp is not exact */

            ck_assert_msg(fabs(got - want) <= want * (3e-7 - 6e-7 * u) + 0x1p-126, "%s: exp(%g) is %g, not %g", kit_cpu[k].name, u, got,
                          want);
        }
    }
}
END_TEST

/* With nothing seen the average is of the token alone: out = sigmoid(r) * v, whatever k and u. */
START_TEST(wkv4_of_one_token_is_its_value)
{
    struct kb_wkv4 a = wkv4_of(1, KVP_F32, KVP_F32);

    for (uint32_t c = 0; c < a.channels; c++) {
        ((float *)kb_at(a.state))[c] = ((float *)kb_at(a.state))[a.channels + c] = 0;
        ((float *)kb_at(a.state))[2 * a.channels + c] = -1e30f;
    }
    run_best(KB_WKV4, &a);
    for (uint32_t c = 0; c < a.channels; c++) {
        const float r = ((float *)kb_at(a.r))[c], v = ((float *)kb_at(a.v))[c];

        ck_assert_float_eq_tol(((float *)kb_at(a.out))[c], v / (1 + expf(-r)), 1e-6f);
    }
}
END_TEST

/* Values far outside of what exp can take: the running exponent keeps everything finite. */
START_TEST(wkv4_does_not_overflow)
{
    struct kb_wkv4 a = wkv4_of(3, KVP_F32, KVP_F32);

    for (uint64_t t = 0; t < a.batch * a.tokens; t++)
        for (uint32_t c = 0; c < a.channels; c++)
            ((float *)kb_at(a.k))[t * a.stride + c] = (t + c) % 2 ? 300.0f : -300.0f;
    run_best(KB_WKV4, &a);
    for (uint64_t t = 0; t < a.batch * a.tokens; t++)
        for (uint32_t c = 0; c < a.channels; c++)
            ck_assert(isfinite(((float *)kb_at(a.out))[t * a.out_stride + c]));
}
END_TEST

/* ---- head norm ------------------------------------------------------------------------------------ */

START_TEST(head_norm_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_head_norm, x, KVP_F32, 5e-6, false)};

    for (size_t f = 0; f < COUNT(formats); f++)
        for (unsigned form = 0; form < 8; form++) {
            const uint64_t rows = shapes[_i].batch * shapes[_i].tokens;
            struct kb_head_norm a = {.rows = rows, .heads = 1 + (uint32_t)_i % 3, .dim = shapes[_i].channels, .rms = form & 1,
                                     .silu = form & 2, .eps = 64e-5, .format = formats[f]};
            const uint64_t E = (uint64_t)a.heads * a.dim;

            a.stride = E + 1;
            a.in_stride = 4 * E + 2;
            a.x = kit_rows(rows, E, a.stride);
            a.weight = kit_floats(a.format, E, 1);
            if (form & 4) {
                a.bias = kit_floats(a.format, E, 1);
                a.r_k = kit_floats(a.format, E, 1);
                a.r = kit_rows(rows, 4 * E, a.in_stride);
                a.k = column(a.r, E);
                a.v = column(a.r, 2 * E);
                a.gate = column(a.r, 3 * E);
            }
            KIT_CHECK(KB_HEAD_NORM, a, outs);
        }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("recurrent");
    TCase *t = tcase_create("recurrent");

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_add_loop_test(t, conv_cpu, 0, COUNT(shapes));
    tcase_add_test(t, conv_by_hand);
    tcase_add_loop_test(t, shift_cpu, 0, COUNT(shapes));
    tcase_add_test(t, shift_cuts);
    tcase_add_loop_test(t, gate_cpu, 0, COUNT(shapes));
    tcase_add_loop_test(t, scans_cpu, 0, COUNT(shapes));
    tcase_add_test(t, scan_is_its_steps);
    tcase_add_loop_test(t, ssm_decays_are_libms, 0, 2);
    tcase_add_test(t, wkv4_of_one_token_is_its_value);
    tcase_add_test(t, wkv4_does_not_overflow);
    tcase_add_loop_test(t, head_norm_cpu, 0, COUNT(shapes));
    suite_add_tcase(s, t);
    return kit_main(s);
}
