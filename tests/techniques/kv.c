/* kv.c - encoded rows against a slow quantizer written here: what attention reads, which codes are stored, bytes under
 * every store, poison, and what a scale that fits the data is worth */
#include "tests/techniques/rig.h"

enum { MAX_DIM = 128 };

/* ---- the slow quantizer --------------------------------------------------------------------------- */

/* e4m3 to the nearest by trying all codes; of two equally near ones the even. */
static double fp8(double x)
{
    double best = 0, far = HUGE_VAL;

    for (int c = 0; c < 127; c++) {
        const double v = c / 8 ? ldexp(8 + c % 8, c / 8 - 10) : ldexp(c, -9);

        if (fabs(v - fabs(x)) < far || (fabs(v - fabs(x)) == far && c % 2 == 0)) {
            far = fabs(v - fabs(x));
            best = v;
        }
    }
    return x < 0 ? -best : best;
}

struct coding {
    enum kvp_format format;
    char scale; /* 't'ensor, 'r'ow, 'g'roup; 'b'lock, '-' whole */
    uint32_t group;
};

static float top_of(enum kvp_format f)
{
    return f == KVP_FP8 ? 448 : f == KVP_INT8 ? 127 : 7;
}

static double symmetric(float x, float scale, enum kvp_format f)
{
    const float r = scale == 0 ? 0 : x / scale, top = top_of(f);

    if (f == KVP_FP8)
        return fp8((double)r) * (double)scale;
    return (double)fminf(fmaxf(nearbyintf(r), -top), top) * (double)scale;
}

/* n numbers that share a scale, as kernels/ops/kv.h has them; `tensor`: the scale of all rows. */
static void code_run(const struct coding *c, enum kvp_format meta, float tensor, const float *x, uint32_t n, double *out)
{
    float most = 0, low = x[0], high = x[0], scale, shift, signed_most = 0;

    for (uint32_t i = 0; i < n; i++) {
        signed_most = fabsf(x[i]) > most ? x[i] : signed_most;
        most = fmaxf(most, fabsf(x[i]));
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    for (uint32_t i = 0; i < n; i++)
        if (c->scale == 't' || c->scale == 'r') {
            out[i] = symmetric(x[i], c->scale == 't' ? tensor : most / top_of(c->format), c->format);
        } else if (c->scale == 'g' && c->format == KVP_FP8) {
            shift = (float)rig_round((double)((high + low) / 2), meta);
            scale = (float)rig_round((double)((high - low) / 2 / 448), meta);
            out[i] = fp8(scale == 0 ? 0 : (double)((x[i] - shift) / scale)) * (double)scale + (double)shift;
        } else if (c->scale == 'g') {
            const float steps = c->format == KVP_INT8 ? 255 : 15;

            shift = (float)rig_round((double)low, meta);
            scale = (float)rig_round((double)((high - low) / steps), meta);
            out[i] = (double)(scale == 0 ? 0 : nearbyintf(fminf(fmaxf((x[i] - shift) / scale, 0), steps))) * (double)scale + (double)shift;
        } else if (c->format == KVP_Q8_0) { /* ggml's: the code by the f32 scale, the value by the f16 one */
            const float by = most > 0 ? 1 / (most / 127) : 0;

            out[i] = (double)roundf(x[i] * by) * rig_round((double)(most / 127), KVP_F16);
        } else { /* q4_0 */
            const float d = signed_most / -8, by = d != 0 ? 1 / d : 0;

            out[i] = fmin(15, floor((double)(x[i] * by + 8.5f))) * rig_round((double)d, KVP_F16) - 8 * rig_round((double)d, KVP_F16);
        }
}

static void code_row(const struct coding *c, enum kvp_format meta, float tensor, const float *x, uint32_t dim, double *out)
{
    const uint32_t n = c->scale == 'g' ? c->group : c->scale == 'b' ? 32 : dim;

    for (uint32_t i = 0; i < dim; i += c->scale == '-' ? dim : n)
        if (c->scale == '-')
            for (uint32_t j = 0; j < dim; j++)
                out[j] = rig_round((double)x[j], c->format);
        else
            code_run(c, meta, tensor, x + i, n, out + i);
}

/* ---- attention ------------------------------------------------------------------------------------ */

static const struct {
    struct rig_case c;
    struct coding k, v;
    uint64_t sees; /* 0: all */
} cases[] = {
    {{"kv", KVP_F16, 2, 5, 12, 4, 2, 16, 2, {0}, 0}, {KVP_FP8, 't', 0}, {KVP_FP8, 't', 0}, 0},
    {{"kv:fp8,scale=token-head", KVP_F32, 1, 3, 9, 2, 2, 7, 2, {0}, 0}, {KVP_FP8, 'r', 0}, {KVP_FP8, 'r', 0}, 0},
    {{"kv:fp8,scale=group,group=8", KVP_F16, 1, 4, 9, 2, 1, 16, 1, {0}, 0}, {KVP_FP8, 'g', 8}, {KVP_FP8, 'g', 8}, 0},
    {{"kv:int8", KVP_F16, 2, 5, 13, 6, 2, 20, 2, {0}, 0}, {KVP_INT8, 'r', 0}, {KVP_INT8, 'r', 0}, 0},
    {{"kv:int8,scale=tensor", KVP_F32, 2, 1, 9, 4, 4, 16, 1, {0}, 0}, {KVP_INT8, 't', 0}, {KVP_INT8, 't', 0}, 0},
    {{"kv:int8,scale=group,group=4", KVP_BF16, 1, 6, 10, 2, 2, 12, 1, {0}, 0}, {KVP_INT8, 'g', 4}, {KVP_INT8, 'g', 4}, 0},
    {{"kv:int4", KVP_F16, 2, 7, 15, 4, 2, 64, 2, {0}, 0}, {KVP_INT4, 'g', 64}, {KVP_INT4, 'g', 64}, 0},
    {{"kv:int4,group=16", KVP_F32, 1, 2, 11, 3, 1, 48, 1, {0}, 0}, {KVP_INT4, 'g', 16}, {KVP_INT4, 'g', 16}, 0},
    {{"kv:int4,scale=token-head", KVP_F16, 1, 4, 8, 2, 2, 10, 2, {0}, 0}, {KVP_INT4, 'r', 0}, {KVP_INT4, 'r', 0}, 0},
    {{"kv:q8_0", KVP_F16, 2, 4, 12, 4, 2, 32, 2, {0}, 0}, {KVP_Q8_0, 'b', 0}, {KVP_Q8_0, 'b', 0}, 0},
    {{"kv:k=q8_0,v=q4_0", KVP_F16, 1, 4, 9, 4, 1, 64, 1, {0}, 0}, {KVP_Q8_0, 'b', 0}, {KVP_Q4_0, 'b', 0}, 0},
    {{"kv:k=f16,v=int8", KVP_F32, 1, 4, 9, 2, 1, 16, 1, {0}, 0}, {KVP_F16, '-', 0}, {KVP_INT8, 'r', 0}, 0},
    {{"kv:int8 window:5", KVP_F16, 2, 6, 18, 4, 2, 16, 2, {0}, 0}, {KVP_INT8, 'r', 0}, {KVP_INT8, 'r', 0}, 5},
    {{"kv:fp8 window:4", KVP_F16, 1, 9, 15, 2, 2, 16, 1, {0}, 0}, {KVP_FP8, 't', 0}, {KVP_FP8, 't', 0}, 4},
    {{"kv:int4,group=32 paged:4", KVP_F16, 2, 6, 18, 4, 2, 32, 2, {0}, 0}, {KVP_INT4, 'g', 32}, {KVP_INT4, 'g', 32}, 0},
    {{"kv:q4_0 growing", KVP_F16, 2, 3, 10, 4, 2, 32, 2, {0}, 0}, {KVP_Q4_0, 'b', 0}, {KVP_Q4_0, 'b', 0}, 0},
    {{"kv:int8 contiguous:64", KVP_F16, 2, 3, 10, 4, 2, 16, 1, {0}, 0}, {KVP_INT8, 'r', 0}, {KVP_INT8, 'r', 0}, 0},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

/* The largest magnitude of the prompt over the largest code: what a tensor's scale is. */
static float tensor_scale(const struct rig *r, uint32_t layer, bool value, enum kvp_format f)
{
    float most = 0;

    for (uint64_t b = 0; b < r->c->batch; b++)
        for (uint64_t t = 0; t < r->c->prompt; t++)
            for (uint32_t i = 0; i < r->c->kv_heads * r->c->dim; i++)
                most = fmaxf(most, fabsf((value ? rig_v(r, layer, b, t, 0) : rig_k(r, layer, b, t, 0))[i]));
    return most / top_of(f);
}

static void check_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    const struct rig_case *c = r->c;
    const int n_case = *(int *)arg;
    const struct coding *ck = &cases[n_case].k, *cv = &cases[n_case].v;
    const float ks = tensor_scale(r, layer, false, ck->format), vs = tensor_scale(r, layer, true, cv->format);
    double *k = rig_zalloc(c->context * c->dim, sizeof(*k)), *v = rig_zalloc(c->context * c->dim, sizeof(*v)), want[MAX_DIM];

    for (uint64_t i = 0; r->seen && i < c->batch * c->heads; i++) {
        const uint64_t b = i / c->heads, sees = cases[n_case].sees ? cases[n_case].sees : UINT64_MAX;
        const uint32_t h = (uint32_t)(i % c->heads), g = h / (c->heads / c->kv_heads);
        uint64_t n = 0;

        for (uint64_t j = 0; j <= r->seen; j++) {
            if (r->seen - j >= sees)
                continue;
            code_row(ck, c->format, ks, rig_k(r, layer, b, j, g), c->dim, k + n * c->dim);
            code_row(cv, c->format, vs, rig_v(r, layer, b, j, g), c->dim, v + n * c->dim);
            n++;
        }
        rig_attend(rig_q(r, layer, b, r->seen, h), k, v, n, c->dim, want);
        rig_same(r, rig_out(r, b, 0, tokens, h), want, "attention", r->seen);
    }
    free(k);
    free(v);
}

START_TEST(every_step)
{
    int n = _i / RIG_BACKENDS;
    struct rig r;

    rig_open(&r, &cases[n].c, rig_backends[_i % RIG_BACKENDS], false);
    rig_all(&r, check_layer, &n);
    rig_close(&r);
}
END_TEST

START_TEST(reset_repeats)
{
    const struct rig_case *c = &cases[_i].c;
    const uint64_t n = c->batch * c->heads * c->dim;
    float *first = rig_zalloc(n, sizeof(*first));
    uint64_t peak, now;
    struct rig r;

    rig_open(&r, c, "cpu", false);
    rig_all(&r, NULL, NULL);
    memcpy(first, r.result, n * sizeof(*first));
    peak = r.led.cache_peak;
    now = r.led.now[LED_CACHE] + r.led.now[LED_METADATA];
    rig_reset(&r);
    rig_all(&r, NULL, NULL);
    ck_assert_mem_eq(first, r.result, n * sizeof(*first));
    ck_assert_uint_eq(r.led.cache_peak, peak);
    ck_assert_uint_eq(r.led.now[LED_CACHE] + r.led.now[LED_METADATA], now);
    rig_close(&r);
    free(first);
}
END_TEST

/* ---- codes ---------------------------------------------------------------------------------------- */

/* Codes and scales of a dump give the slow quantizer's numbers. */
START_TEST(dumped_codes)
{
    static const struct rig_case c = {"kv:k=int8,v=int4,group=16 paged:4", KVP_F16, 2, 6, 9, 4, 2, 32, 1, {0}, 0};
    static const struct coding v_code = {KVP_INT4, 'g', 16};
    const json_t *k, *ks, *v, *vs, *vm;
    json_t *lines;
    struct rig r;

    rig_open(&r, &c, "cpu", false);
    rig_all(&r, NULL, NULL);
    lines = rig_dump(&r, r.ops->dump_cache);
    k = rig_tensor(&r, lines, 0, "k", KVP_INT8, (const uint64_t[]){2, 2, 9, 32});
    ks = rig_tensor(&r, lines, 0, "k_scale", KVP_F32, (const uint64_t[]){2, 2, 9, 1});
    v = rig_tensor(&r, lines, 0, "v", KVP_INT4, (const uint64_t[]){2, 2, 9, 32});
    vs = rig_tensor(&r, lines, 0, "v_scale", KVP_F16, (const uint64_t[]){2, 2, 9, 2});
    vm = rig_tensor(&r, lines, 0, "v_shift", KVP_F16, (const uint64_t[]){2, 2, 9, 2});
    for (size_t row = 0; row < 2 * 2 * 9; row++) {
        const uint64_t b = row / 18, t = row % 9;
        const uint32_t g = row / 9 % 2;
        double want[32];
        float most = 0;

        for (int i = 0; i < 32; i++)
            most = fmaxf(most, fabsf(rig_k(&r, 0, b, t, g)[i]));
        ck_assert(rig_number(ks, row) == most / 127);
        code_row(&v_code, KVP_F16, 0, rig_v(&r, 0, b, t, g), 32, want);
        for (size_t i = 0; i < 32; i++) {
            ck_assert_int_eq(json_integer_value(json_array_get(k, row * 32 + i)), (int)nearbyintf(rig_k(&r, 0, b, t, g)[i] / (most / 127)));
            ck_assert(fabs(json_number_value(json_array_get(v, row * 32 + i)) * (double)rig_number(vs, row * 2 + i / 16) +
                           (double)rig_number(vm, row * 2 + i / 16) - want[i]) < 1e-12);
        }
    }
    json_decref(lines);
    rig_close(&r);
}
END_TEST

/* ---- bytes ---------------------------------------------------------------------------------------- */

static const struct {
    struct rig_case c;
    struct rig_bytes bytes; /* metadata is not in cache */
} sizes[] = {
    /* codes 2 tensors * 2 layers * 2 sequences * 12 tokens * 2 heads * 16 = 3072; 2 f32 a layer */
    {{"kv", KVP_F16, 2, 5, 12, 4, 2, 16, 2, {0}, 0}, {3072, 16, 3088}},
    /* 2 * 1 * 9 * 1 * 20 bytes and as many rows of one f32 */
    {{"kv:int8", KVP_F32, 1, 3, 9, 2, 1, 20, 1, {0}, 0}, {360, 72, 432}},
    /* a row of 10 codes of four bits is 5 bytes: 2 * 9 * 5; f32 scales 2 * 9 * 4 */
    {{"kv:int4,scale=token-head", KVP_F32, 1, 3, 9, 2, 1, 10, 1, {0}, 0}, {90, 72, 162}},
    /* 64 codes are 32 bytes, 4 groups of 16 two f16 each: 16; 2 tensors * 9 rows */
    {{"kv:int4,group=16", KVP_F16, 1, 3, 9, 2, 1, 64, 1, {0}, 0}, {576, 288, 864}},
    /* 64 are two blocks of 34 in K, of 18 in V: 9 * 68 + 9 * 36 */
    {{"kv:k=q8_0,v=q4_0", KVP_F16, 1, 3, 9, 2, 1, 64, 1, {0}, 0}, {936, 0, 936}},
    /* 64 are 4 blocks of 9: 2 * 9 * 36 */
    {{"kv:nvfp4", KVP_F16, 1, 3, 9, 2, 1, 64, 1, {0}, 0}, {648, 0, 648}},
    /* 64 are 2 blocks of 17 in K, of 33 in V */
    {{"kv:k=mxfp4,v=mxfp8", KVP_F16, 1, 3, 9, 2, 1, 64, 1, {0}, 0}, {9 * 34 + 9 * 66, 0, 9 * 100}},
    /* a ring of 5 of 19 tokens: 2 * 5 * 16 codes, 2 * 5 * 4 bytes of scales */
    {{"kv:int8 window:5", KVP_F16, 1, 4, 19, 2, 1, 16, 1, {0}, 0}, {160, 40, 200}},
    /* 9 tokens are 3 pages of 4: 2 * 12 * (16 + 4); a table of 3 */
    {{"kv:int8 paged:4", KVP_F16, 1, 3, 9, 2, 1, 16, 1, {0}, 0}, {384, 96 + 12, 492}},
    /* strips of 64 */
    {{"kv:int8 contiguous:64", KVP_F16, 1, 3, 9, 2, 1, 16, 1, {0}, 0}, {2048, 512, 2560}},
    /* 9 rows of 16 + 4; while K grows to 9 rows, its 8 old ones and all the rest of 8: 2 * 8 * 20 + 9 * 16 = 464 is
     * less than V's turn: 9 * 16 + 8 * 16 + 2 * 8 * 4 + 9 * 16 = 480; then K's scales: 2 * 9 * 16 + 2 * 8 * 4 + 36 = 388 */
    {{"kv:int8 growing", KVP_F16, 1, 3, 9, 2, 1, 16, 1, {0}, 0}, {288, 72, 480}},
};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    struct rig r;

    rig_open(&r, &sizes[_i].c, "ref", false);
    rig_all(&r, NULL, NULL);
    rig_check_bytes(&r, &sizes[_i].bytes);
    rig_close(&r);
}
END_TEST

/* ---- poison --------------------------------------------------------------------------------------- */

static const struct {
    struct rig_case c;
    uint64_t pos;
    bool stored;
} poisons[] = {
    {{"kv", KVP_F16, 2, 6, 12, 4, 2, 16, 2, {0}, 0}, 0, true},
    {{"kv", KVP_F16, 2, 6, 12, 4, 2, 16, 2, {0}, 0}, 9, false},
    {{"kv:int8", KVP_F16, 2, 6, 12, 4, 2, 16, 2, {0}, 0}, 8, true},
    {{"kv:int8 paged:5", KVP_F16, 2, 6, 12, 4, 2, 16, 2, {0}, 0}, 11, false}, /* rounding: slots 12..14 */
    {{"kv:int8 window:4", KVP_F16, 2, 6, 12, 4, 2, 16, 2, {0}, 0}, 4, false}, /* overwritten */
    {{"kv:int8 window:4", KVP_F16, 2, 6, 12, 4, 2, 16, 2, {0}, 0}, 6, true},
    {{"kv:int4,group=16", KVP_F16, 2, 6, 12, 4, 2, 16, 2, {0}, 0}, 3, true},
    {{"kv:int4,group=16 contiguous:64", KVP_F16, 2, 6, 12, 4, 2, 16, 2, {0}, 0}, 40, false},
    {{"kv:q8_0", KVP_F16, 2, 6, 12, 4, 2, 32, 2, {0}, 0}, 3, true},
    {{"kv:q4_0 growing", KVP_F16, 2, 6, 12, 4, 2, 32, 2, {0}, 0}, 3, true},
    {{"kv:mxfp4", KVP_F16, 2, 6, 12, 4, 2, 32, 2, {0}, 0}, 3, true},
    {{"kv:nvfp4 paged:5", KVP_F16, 2, 6, 12, 4, 2, 32, 2, {0}, 0}, 7, true},
};
enum { N_POISONS = sizeof(poisons) / sizeof(poisons[0]) };

START_TEST(poison)
{
    struct rig r;

    rig_open(&r, &poisons[_i / RIG_BACKENDS].c, rig_backends[_i % RIG_BACKENDS], true);
    while (r.seen < 9)
        rig_step(&r, NULL, NULL);
    rig_poison_step(&r, poisons[_i / RIG_BACKENDS].pos, poisons[_i / RIG_BACKENDS].stored);
    rig_close(&r);
}
END_TEST

/* Whole numbers with one scale for all have no NaN. */
START_TEST(no_poison)
{
    static const struct rig_case c = {"kv:int8,scale=tensor", KVP_F16, 1, 3, 9, 2, 1, 16, 1, {0}, 0};
    struct kvp_error e = {0};
    bool stored;
    struct rig r;

    rig_open(&r, &c, "ref", true);
    rig_step(&r, NULL, NULL);
    ck_assert_int_eq(r.ops->poison(r.cache, 0, &stored, &e), KVP_ENOTSUP);
    ck_assert_ptr_nonnull(strstr(e.text, "int8"));
    rig_close(&r);
}
END_TEST

/* ---- what it is worth ----------------------------------------------------------------------------- */

/* Mean square distance of sequence 0's stored keys from what they were, over all they were. */
static double loss(struct rig *r, const double *stored)
{
    double apart = 0, all = 0;

    for (uint64_t t = 0; t < r->c->context; t++)
        for (uint32_t i = 0; i < r->c->dim; i++) {
            const double x = (double)rig_k(r, 0, 0, t, 0)[i];

            apart += (x - stored[t * r->c->dim + i]) * (x - stored[t * r->c->dim + i]);
            all += x * x;
        }
    return apart / all;
}

/* Keys a thousand times larger, or smaller: fp8 with the prompt's scale loses what it loses at 1; with a scale of 1, which
 * is what vLLM takes when nobody calibrates, it clips, or keeps next to nothing. */
START_TEST(a_calibrated_scale_beats_one)
{
    static const struct rig_case c = {"kv:fp8", KVP_F16, 1, 20, 24, 1, 1, 64, 1, {0}, 0};
    const float by = _i ? 1e-3f : 1e3f;
    double *ours = rig_zalloc(24 * 64, sizeof(*ours)), *naive = rig_zalloc(24 * 64, sizeof(*naive));
    const json_t *codes, *scale;
    json_t *lines;
    struct rig r;

    rig_open(&r, &c, "cpu", false);
    for (uint64_t i = 0; i < 24 * rig_stride(&r); i++)
        r.x[0][i] *= i % rig_stride(&r) < 64 ? 1e-6f : by; /* q small: scores stay */
    rig_all(&r, NULL, NULL);
    lines = rig_dump(&r, r.ops->dump_cache);
    codes = rig_tensor(&r, lines, 0, "k", KVP_FP8, (const uint64_t[]){1, 1, 24, 64});
    scale = rig_tensor(&r, lines, 0, "k_scale", KVP_F32, (const uint64_t[]){1, 1, 1, 1});
    for (size_t i = 0; i < 24 * 64; i++) {
        const int64_t code = json_integer_value(json_array_get(codes, i)), m = code & 127;

        ours[i] = (code & 128 ? -1 : 1) * (m / 8 ? ldexp((double)(8 + m % 8), (int)(m / 8) - 10) : ldexp((double)m, -9)) *
                  (double)rig_number(scale, 0);
        naive[i] = fp8((double)rig_k(&r, 0, 0, i / 64, 0)[i % 64]);
    }
    ck_assert_msg(loss(&r, ours) < 1e-3, "calibrated: %g", loss(&r, ours));
    ck_assert_msg(loss(&r, naive) > 10 * loss(&r, ours), "calibrated %g, uncalibrated %g", loss(&r, ours), loss(&r, naive));
    json_decref(lines);
    rig_close(&r);
    free(ours);
    free(naive);
}
END_TEST

/* One loud row, long out of the window: scales of their own keep the quiet rows, one scale for all loses them. Loud channels: groups keep the
 * quiet channels. */
START_TEST(finer_scales_beat_coarser)
{
    static const struct {
        const char *coarse, *fine;
        bool channels;
    } pairs[] = {{"kv:int8,scale=tensor window:8", "kv:int8 window:8", false}, {"kv:int4,scale=token-head", "kv:int4,group=16", true}};
    double apart[2];

    for (int fine = 0; fine < 2; fine++) {
        struct rig_case c = {fine ? pairs[_i].fine : pairs[_i].coarse, KVP_F32, 1, 20, 21, 1, 1, 64, 1, {0}, 0}, whole = c;
        struct rig r, exact;

        whole.stack = pairs[_i].channels ? "" : "window:8";
        rig_open(&r, &c, "cpu", false);
        rig_open(&exact, &whole, "cpu", false);
        for (uint64_t i = 0; i < 21 * rig_stride(&r); i++)
            if (pairs[_i].channels ? i % rig_stride(&r) % 64 < 16 && i % rig_stride(&r) >= 64 : i / rig_stride(&r) == 3)
                r.x[0][i] *= 50, exact.x[0][i] *= 50;
        rig_all(&r, NULL, NULL);
        rig_all(&exact, NULL, NULL);
        apart[fine] = 0;
        for (int i = 16; i < 64; i++)
            apart[fine] += fabs((double)r.result[i] - (double)exact.result[i]);
        rig_close(&exact);
        rig_close(&r);
    }
    ck_assert_msg(apart[1] < apart[0] / 2, "%s is off by %g, %s by %g", pairs[_i].coarse, apart[0], pairs[_i].fine, apart[1]);
}
END_TEST

/* ---- refusals ------------------------------------------------------------------------------------- */

START_TEST(refusals)
{
    static const struct {
        struct rig_case c;
        kvp_err code;
        const char *word;
    } bad[] = {
        {{"kv:iq4_nl", KVP_F16, 1, 3, 9, 2, 1, 32, 1, {0}, 0}, KVP_ENOTSUP, "iq4_nl"},
        {{"kv:q8_0", KVP_F16, 1, 3, 9, 2, 1, 48, 1, {0}, 0}, KVP_EINPUT, "32"},
        {{"kv:int4", KVP_F16, 1, 3, 9, 2, 1, 48, 1, {0}, 0}, KVP_EINPUT, "64"},
        {{"kv:q8_0,scale=tensor", KVP_F16, 1, 3, 9, 2, 1, 32, 1, {0}, 0}, KVP_EINPUT, "scale"},
        {{"kv duo", KVP_F16, 1, 3, 9, 2, 1, 32, 1, {0}, 0}, KVP_ENOTSUP, "duo"},
    };
    struct kvp_error e = {0};
    struct rig r;

    rig_prepare(&r, &bad[_i].c, "ref", false);
    ck_assert_int_eq(r.ops->open(&r.cache, &r.env, &e), bad[_i].code);
    ck_assert_msg(strstr(e.text, bad[_i].word), "'%s' does not say %s", e.text, bad[_i].word);
    ck_assert_ptr_null(r.cache);
    rig_close(&r);
}
END_TEST

/* Encoded, a selection keeps what it would keep whole: the results differ by what rounding does to rows in [-1, 1), and do
 * differ. Budgets that nothing exceeds where scores decide, since rounded ones may decide otherwise. */
START_TEST(selections)
{
    static const struct {
        const char *select, *kv;
        float tolerance;
    } stacks[] = {
        {"streaming-llm:sink=3,recent=9", "kv:int8", 0.02f},   {"streaming-llm:sink=3,recent=9", "kv:int4,group=8", 0.3f},
        {"streaming-llm:variant=factory,sink=3,recent=9", "kv:int8", 0.02f}, {"tova:64", "kv:int8", 0.02f}, {"tova:64", "kv:fp8", 0.15f},
        {"h2o:heavy=30,recent=34", "kv:int8", 0.02f},          {"h2o:heavy=30,recent=34", "kv:int4,group=8", 0.3f},
        {"h2o:variant=flexgen,heavy=30", "kv:int8", 0.02f},    {"quest:page=4,budget=64,dense=0", "kv:int8", 0.02f},
        {"quest:page=4,budget=64,dense=0", "kv:fp8", 0.15f},
    };
    const int i = _i / RIG_BACKENDS;
    const char *backend = rig_backends[_i % RIG_BACKENDS];
    char both[128];
    struct rig_case c = {.stack = stacks[i].select, .format = KVP_F32, .batch = 2, .prompt = 17, .context = 40, .heads = 4, .kv_heads = 2,
                         .dim = 16, .layers = 2}, coded = c;
    struct rig a, b;
    float most = 0;

    snprintf(both, sizeof(both), "%s %s", stacks[i].select, stacks[i].kv);
    coded.stack = both;
    rig_open(&a, &c, backend, false);
    rig_open(&b, &coded, backend, false);
    for (uint64_t tokens = c.prompt; a.seen < c.context; a.seen = b.seen += tokens, tokens = 1)
        for (uint32_t l = 0; l < c.layers; l++) {
            rig_layer(&a, l, tokens);
            rig_layer(&b, l, tokens);
            for (uint64_t j = 0; j < c.batch * tokens * c.heads * c.dim; j++)
                most = fmaxf(most, fabsf(a.result[j] - b.result[j]));
        }
    ck_assert_msg(most > 1e-5f && most < stacks[i].tolerance, "%s on %s: off by %g", both, backend, (double)most);
    rig_close(&a);
    rig_close(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kv");
    TCase *tc = tcase_create("encoded rows");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, reset_repeats, 0, N_CASES);
    tcase_add_test(tc, dumped_codes);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, N_POISONS * RIG_BACKENDS);
    tcase_add_test(tc, no_poison);
    tcase_add_loop_test(tc, a_calibrated_scale_beats_one, 0, 2);
    tcase_add_loop_test(tc, finer_scales_beat_coarser, 0, 2);
    tcase_add_loop_test(tc, selections, 0, 10 * RIG_BACKENDS);
    tcase_add_loop_test(tc, refusals, 0, 5);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
