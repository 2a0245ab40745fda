/* kivi.c - codes, scales, flush points and attention against a slow KIVI written from its definition
 *
 * The slow one quantizes the whole history anew at each step: Liu et al. 2024 (arXiv:2402.02750),
 * section 4, with the rounding that kernels/ops/kivi_pack_k.h fixes (all of it in f32). */
#include "tests/techniques/rig.h"

struct params {
    uint32_t bits, group, residual;
    uint64_t window[RIG_LAYERS]; /* effective; 0: none */
};

static const struct {
    struct rig_case c;
    struct params p;
} cases[] = {
    /* prompts of 1, R-1, R, R+1 and 2R+3; T past 3R */
    {{"kivi:bits=4,group=8,residual=8", KVP_F32, 1, 1, 28, 2, 2, 8, 1, {0}, 0}, {4, 8, 8, {0}}},
    {{"kivi:bits=4,group=8,residual=8", KVP_F16, 2, 7, 27, 4, 2, 8, 2, {0}, 0}, {4, 8, 8, {0}}},
    {{"kivi:bits=4,group=8,residual=8", KVP_F32, 2, 8, 26, 4, 1, 16, 1, {0}, 0}, {4, 8, 8, {0}}},
    {{"kivi:bits=4,group=8,residual=16", KVP_BF16, 1, 17, 50, 2, 1, 8, 2, {0}, 0}, {4, 8, 16, {0}}},
    {{"kivi:bits=2,group=16,residual=16", KVP_F16, 2, 15, 52, 4, 2, 16, 1, {0}, 0}, {2, 16, 16, {0}}},
    {{"kivi:bits=2,group=16,residual=16", KVP_F32, 1, 35, 66, 2, 2, 32, 2, {0}, 0}, {2, 16, 16, {0}}},
    {{"kivi:bits=2,group=16,residual=48", KVP_F16, 1, 50, 100, 2, 1, 16, 1, {0}, 0}, {2, 16, 48, {0}}},
    /* never full: T < R */
    {{"kivi:bits=2,group=32,residual=128", KVP_F16, 1, 3, 9, 2, 1, 32, 1, {0}, 0}, {2, 32, 128, {0}}},
    {{"kivi:bits=4,group=8,residual=8 paged:8", KVP_F32, 2, 11, 30, 4, 2, 8, 2, {0}, 0}, {4, 8, 8, {0}}},
    {{"kivi:bits=2,group=16,residual=16 paged:32", KVP_F16, 2, 3, 51, 2, 2, 16, 1, {0}, 0}, {2, 16, 16, {0}}},
    {{"kivi:bits=4,group=8,residual=8 contiguous:64", KVP_F16, 2, 5, 27, 4, 2, 8, 2, {0}, 0}, {4, 8, 8, {0}}},
    /* windows: W not a multiple of G; W = R, where no value is ever packed; W longer than the run */
    {{"kivi:bits=4,group=8,residual=8 window:13", KVP_F32, 2, 3, 60, 4, 2, 8, 1, {0}, 0}, {4, 8, 8, {13}}},
    {{"kivi:bits=4,group=8,residual=8 window:13", KVP_F16, 1, 45, 70, 4, 2, 8, 2, {0}, 0}, {4, 8, 8, {13, 13}}},
    {{"kivi:bits=4,group=8,residual=8 window:8", KVP_F32, 1, 30, 50, 2, 1, 8, 1, {0}, 0}, {4, 8, 8, {8}}},
    {{"kivi:bits=4,group=8,residual=8 window:21 paged:8", KVP_F32, 2, 26, 60, 4, 2, 8, 2, {0}, 0}, {4, 8, 8, {21, 21}}},
    {{"kivi:bits=2,group=16,residual=16 window:40 contiguous:128", KVP_F16, 1, 5, 90, 2, 1, 16, 1, {0}, 0}, {2, 16, 16, {40}}},
    {{"kivi:bits=4,group=8,residual=16 window:12", KVP_F32, 1, 3, 12, 2, 1, 8, 1, {0}, 0}, {4, 8, 16, {12}}},
    {{"kivi:bits=4,group=8,residual=16 window:12 contiguous:64", KVP_F32, 1, 3, 12, 2, 1, 8, 1, {0}, 0}, {4, 8, 16, {12}}},
    /* a hybrid of the model's own: layers with and without a window */
    {{"kivi:bits=4,group=8,residual=8", KVP_F32, 1, 20, 44, 2, 1, 8, 3, {11, 0, 64}, 0}, {4, 8, 8, {11, 0, 64}}},
    {{"kivi:bits=4,group=8,residual=8 window:9 paged:16", KVP_F16, 2, 2, 44, 2, 1, 8, 2, {0, 30}, 0}, {4, 8, 8, {0, 9}}},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

/* ---- the slow one ------------------------------------------------------------------------------ */

static float store_round(float x, enum kvp_format f)
{
    return (float)rig_round((double)x, f);
}

/* n values, `step` apart, become codes and what the codes stand for. */
static void quantize(const float *x, uint64_t step, uint32_t n, uint32_t bits, enum kvp_format f, int *code, float *scale,
                     float *min, double *back)
{
    const float top = (float)((1 << bits) - 1);
    float low = x[0], high = x[0];

    for (uint32_t i = 1; i < n; i++) {
        low = x[i * step] < low ? x[i * step] : low;
        high = x[i * step] > high ? x[i * step] : high;
    }
    *scale = store_round((high - low) / top, f);
    *min = store_round(low, f);
    for (uint32_t i = 0; i < n; i++) {
        const float q = *scale > 0 ? nearbyintf((x[i * step] - *min) / *scale) : 0;

        code[i * step] = (int)(q < 0 ? 0 : q > top ? top : q);
        back[i * step] = (double)code[i * step] * (double)*scale + (double)*min;
    }
}

/* One side of one (layer, sequence, kv head) after T tokens. */
struct side {
    float *row;          /* [T][dim], in the cache's precision */
    int *code;           /* [T][dim] */
    float *scale, *min;  /* keys [T/G][dim], values [T][dim/G] */
    double *back;        /* [T][dim]: dequantized where packed, else the row */
};

static struct side quantized(const struct rig *r, const struct params *p, uint32_t layer, uint64_t b, uint32_t g, bool keys,
                             uint64_t tokens, uint64_t packed)
{
    const uint64_t d = r->c->dim, n = tokens * d;
    struct side s = {rig_zalloc(n, sizeof(float)), rig_zalloc(n, sizeof(int)), rig_zalloc(n, sizeof(float)),
                     rig_zalloc(n, sizeof(float)), rig_zalloc(n, sizeof(double))};

    for (uint64_t i = 0; i < n; i++) {
        s.row[i] = store_round((keys ? rig_k : rig_v)(r, layer, b, i / d, g)[i % d], r->c->format);
        s.back[i] = (double)s.row[i];
    }
    for (uint64_t i = 0; keys && i < packed / p->group * d; i++) {
        const uint64_t at = i / d * p->group * d + i % d;

        quantize(s.row + at, d, p->group, p->bits, r->c->format, s.code + at, s.scale + i, s.min + i, s.back + at);
    }
    for (uint64_t i = 0; !keys && i < packed * d / p->group; i++) {
        const uint64_t at = i * p->group;

        quantize(s.row + at, 1, p->group, p->bits, r->c->format, s.code + at, s.scale + i, s.min + i, s.back + at);
    }
    return s;
}

static void side_free(struct side *s)
{
    free(s->row);
    free(s->code);
    free(s->scale);
    free(s->min);
    free(s->back);
}

/* ---- every step -------------------------------------------------------------------------------- */

/* A step's attention reads what was packed before it: the value that leaves the residual in this step is
 * still whole, and the newest, not stored yet, is that of the activations. */
static void check_attention(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    const struct params *p = arg;
    const struct rig_case *c = r->c;
    const uint64_t t = r->seen + 1, w = p->window[layer], first = w && t > w ? t - w : 0;
    const uint32_t group = c->heads / c->kv_heads;

    (void)tokens;
    for (uint64_t b = 0; r->seen && b < c->batch; b++)
        for (uint32_t g = 0; g < c->kv_heads; g++) {
            struct side k = quantized(r, p, layer, b, g, true, t, r->seen / p->residual * p->residual);
            struct side v = quantized(r, p, layer, b, g, false, t, r->seen > p->residual ? r->seen - p->residual : 0);

            for (uint64_t i = 0; i < c->dim; i++)
                v.back[r->seen * c->dim + i] = (double)rig_v(r, layer, b, r->seen, g)[i];
            for (uint32_t h = g * group; h < (g + 1) * group; h++) {
                double want[64];

                rig_attend(rig_q(r, layer, b, r->seen, h), k.back + first * c->dim, v.back + first * c->dim, t - first,
                           c->dim, want);
                rig_same(r, rig_out(r, b, 0, 1, h), want, "attention over the dequantized history", r->seen);
            }
            side_free(&k);
            side_free(&v);
        }
}

/* Tensors of one side in the dump: [from, packed) of codes and scales, the rest in the residual. */
static void check_side(const struct rig *r, const struct params *p, const json_t *lines, uint32_t layer, bool keys,
                       uint64_t from, uint64_t packed)
{
    const struct rig_case *c = r->c;
    const uint64_t t = r->seen, d = c->dim, n = packed - from, B = c->batch, H = c->kv_heads, G = p->group;
    const enum kvp_format codes = p->bits == 2 ? KVP_INT2 : KVP_INT4;
    const json_t *code, *scale, *min, *row;

    code = rig_tensor(r, lines, layer, keys ? "k_codes" : "v_codes", codes,
                      keys ? (const uint64_t[]){B, H, d, n} : (const uint64_t[]){B, H, n, d});
    scale = rig_tensor(r, lines, layer, keys ? "k_scale" : "v_scale", c->format,
                       keys ? (const uint64_t[]){B, H, d, n / G} : (const uint64_t[]){B, H, n, d / G});
    min = rig_tensor(r, lines, layer, keys ? "k_min" : "v_min", c->format,
                     keys ? (const uint64_t[]){B, H, d, n / G} : (const uint64_t[]){B, H, n, d / G});
    row = rig_tensor(r, lines, layer, keys ? "k_residual" : "v_residual", c->format, (const uint64_t[]){B, H, t - packed, d});
    for (uint64_t bh = 0; bh < B * H; bh++) {
        struct side s = quantized(r, p, layer, bh / H, (uint32_t)(bh % H), keys, t, packed);

        for (uint64_t j = 0; j < n; j++)
            for (uint64_t i = 0; i < d; i++) {
                const uint64_t at = keys ? (bh * d + i) * n + j : (bh * n + j) * d + i;

                ck_assert_msg(json_integer_value(json_array_get(code, at)) == s.code[(from + j) * d + i],
                              "%s on %s after %llu tokens: %s code of token %llu, channel %llu is %lld, expected %d", c->stack,
                              r->be->name, (unsigned long long)t, keys ? "key" : "value", (unsigned long long)(from + j),
                              (unsigned long long)i, (long long)json_integer_value(json_array_get(code, at)),
                              s.code[(from + j) * d + i]);
            }
        for (uint64_t j = 0; j < n * d / G; j++) {
            const uint64_t at = bh * (n * d / G) + j;
            const uint64_t want = keys ? (from / G + j % (n / G)) * d + j / (n / G) : from * (d / G) + j;

            ck_assert(rig_number(scale, at) == s.scale[want]);
            ck_assert(rig_number(min, at) == s.min[want]);
        }
        for (uint64_t j = 0; j < (t - packed) * d; j++)
            ck_assert(rig_number(row, bh * (t - packed) * d + j) == s.row[packed * d + j]);
        side_free(&s);
    }
}

static uint64_t after(uint64_t n, uint64_t ring)
{
    return n > ring ? n - ring : 0;
}

static void check_dump(struct rig *r, const struct params *p)
{
    json_t *lines = rig_dump(r, r->ops->dump_cache);
    const uint64_t kq = r->seen / p->residual * p->residual, vq = after(r->seen, p->residual);

    for (uint32_t l = 0; l < r->c->layers; l++) {
        const uint64_t w = p->window[l] && p->window[l] < r->c->context ? p->window[l] : UINT32_MAX;
        const uint64_t groups = (w + p->group - 1) / p->group * p->group;

        check_side(r, p, lines, l, true, after(kq, groups), kq);
        check_side(r, p, lines, l, false, after(vq, w - p->residual), vq);
    }
    json_decref(lines);
}

START_TEST(every_step)
{
    struct params p = cases[_i / RIG_BACKENDS].p;
    struct rig r;

    rig_open(&r, &cases[_i / RIG_BACKENDS].c, rig_backends[_i % RIG_BACKENDS], false);
    while (r.seen < r.c->context) {
        rig_step(&r, check_attention, &p);
        check_dump(&r, &p);
    }
    rig_close(&r);
}
END_TEST

/* The published definition in numbers: R = 8. */
START_TEST(flush_points)
{
    static const uint64_t want[][5] = {/* T, packed and full keys, packed and full values */
                                       {1, 0, 1, 0, 1}, {7, 0, 7, 0, 7}, {8, 8, 0, 0, 8}, {9, 8, 1, 1, 8},
                                       {15, 8, 7, 7, 8}, {16, 16, 0, 8, 8}, {17, 16, 1, 9, 8}, {25, 24, 1, 17, 8}};
    const uint64_t *w = want[_i];
    const struct rig_case c = {"kivi:bits=4,group=8,residual=8", KVP_F32, 1, 1, 25, 1, 1, 8, 1, {0}, 0};
    json_t *lines;
    struct rig r;

    rig_open(&r, &c, "ref", false);
    while (r.seen < w[0])
        rig_step(&r, NULL, NULL);
    lines = rig_dump(&r, r.ops->dump_cache);
    rig_tensor(&r, lines, 0, "k_codes", KVP_INT4, (const uint64_t[]){1, 1, 8, w[1]});
    rig_tensor(&r, lines, 0, "k_residual", KVP_F32, (const uint64_t[]){1, 1, w[2], 8});
    rig_tensor(&r, lines, 0, "v_codes", KVP_INT4, (const uint64_t[]){1, 1, w[3], 8});
    rig_tensor(&r, lines, 0, "v_residual", KVP_F32, (const uint64_t[]){1, 1, w[4], 8});
    json_decref(lines);
    rig_close(&r);
}
END_TEST

/* ---- bytes ------------------------------------------------------------------------------------- */

/* Unless said otherwise: 4 bits, G = R = 8, f32, one sequence, two kv heads of 8. One token's codes are then
 * 8 bytes a side, a key group's scale and min 128, a value's 16, a residual row 64. */
static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
} sizes[] = {
    /* T = 20: keys 16 + 4, values 12 + 8. Codes 128 + 96, residuals 256 + 512; 2 groups of keys 256,
       12 values 192. Before its last flush the key residual had 8 rows: 256 more. */
    {{"kivi:bits=4,group=8,residual=8", KVP_F32, 1, 3, 20, 2, 2, 8, 1, {0}, 0}, {992, 448, 1696}},
    /* T = 16: no key residual at rest. Codes 128 + 64, values 512; 256 + 128. At the peak 512 more. */
    {{"kivi:bits=4,group=8,residual=8", KVP_F32, 1, 3, 16, 2, 2, 8, 1, {0}, 0}, {704, 384, 1600}},
    /* the same, all of it prompt: packed straight from the activations, never a key residual */
    {{"kivi:bits=4,group=8,residual=8", KVP_F32, 1, 16, 16, 2, 2, 8, 1, {0}, 0}, {704, 384, 1088}},
    /* T = 10 after a prompt of 8: the only key residual has room for the 2 tokens left. Codes 64 + 16,
       residuals 128 + 512; 128 + 32 */
    {{"kivi:bits=4,group=8,residual=8", KVP_F32, 1, 8, 10, 2, 2, 8, 1, {0}, 0}, {720, 160, 880}},
    /* T = 5 < R: 5 rows each */
    {{"kivi:bits=4,group=8,residual=8", KVP_F32, 1, 2, 5, 2, 2, 8, 1, {0}, 0}, {640, 0, 640}},
    /* 2 bits, G = R = 16, f16, 2 layers, 2 sequences, one kv head of 16; T = 35: keys 32 + 3, values 19 + 16.
       A layer: codes 256 + 152, residuals 192 + 1024; key scales and mins 256, values' 152. At the peak
       both layers have 16 rows of keys, 1024 - 192 more each. */
    {{"kivi:bits=2,group=16,residual=16", KVP_F16, 2, 20, 35, 2, 1, 16, 2, {0}, 0}, {3248, 816, 5728}},
    /* strips for 64 keys and 56 values, both residuals 8 rows: 512 + 448 + 1024; 8 groups 1024, 896 */
    {{"kivi:bits=4,group=8,residual=8 contiguous:64", KVP_F32, 1, 3, 20, 2, 2, 8, 1, {0}, 0}, {1984, 1920, 3904}},
    /* one page of 16 a side: 128 + 128, 256 + 512; 256 + 256 and a table of 4 */
    {{"kivi:bits=4,group=8,residual=8 paged:16", KVP_F32, 1, 3, 20, 2, 2, 8, 1, {0}, 0}, {1024, 516, 1796}},
    /* two pages of 8: a table of 8 */
    {{"kivi:bits=4,group=8,residual=8 paged:8", KVP_F32, 1, 3, 20, 2, 2, 8, 1, {0}, 0}, {1024, 520, 1800}},
    /* W = 12, T = 30: a ring of 16 keys, 4 values. 128 + 32, residuals 6 * 64 + 512; 256 + 64; peak 128 more */
    {{"kivi:bits=4,group=8,residual=8 window:12", KVP_F32, 1, 3, 30, 2, 2, 8, 1, {0}, 0}, {1056, 320, 1504}},
    /* the same in strips for any run: both residuals 512 */
    {{"kivi:bits=4,group=8,residual=8 window:12 contiguous:64", KVP_F32, 1, 3, 30, 2, 2, 8, 1, {0}, 0}, {1184, 320, 1504}},
    /* R = 16 > W = 12, but the run ends before the window closes: the strips are what any run could fill,
       16 keys and no values, and residuals of 16 rows: 128 + 2 * 1024; 2 groups 256 */
    {{"kivi:bits=4,group=8,residual=16 window:12 contiguous:64", KVP_F32, 1, 3, 12, 2, 2, 8, 1, {0}, 0}, {2176, 256, 2432}},
    /* W = 12, T = 30 in pages of 8, two a side: 128 + 128, 384 + 512; 256 + 256 + 8 */
    {{"kivi:bits=4,group=8,residual=8 window:12 paged:8", KVP_F32, 1, 3, 30, 2, 2, 8, 1, {0}, 0}, {1152, 520, 1800}},
    /* a hybrid: such a layer, and one without a window: 24 keys, 22 values in 3 pages, 192 + 192, 384 + 512;
       384 + 384 and its own table of 12; 128 more at the peak for each */
    {{"kivi:bits=4,group=8,residual=8 paged:8", KVP_F32, 1, 3, 30, 2, 2, 8, 2, {12, 0}, 0}, {2432, 1300, 3988}},
};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    struct rig r;

    rig_open(&r, &sizes[_i].c, "ref", false);
    for (int again = 0; again < 2; again++) {
        const uint64_t opened = r.led.now[LED_CACHE];

        rig_all(&r, NULL, NULL);
        rig_check_bytes(&r, &sizes[_i].bytes);
        ck_assert_uint_eq(r.led.now[LED_WORKSPACE], 0);
        rig_reset(&r);
        ck_assert_uint_eq(r.led.now[LED_CACHE], opened);
    }
    rig_close(&r);
}
END_TEST

/* A step in the middle: K row, attention, one value packed, V row; the flush packs keys too. */
START_TEST(calls)
{
    static const struct rig_case c = {"kivi:bits=4,group=8,residual=8", KVP_F32, 1, 10, 17, 2, 2, 8, 1, {0}, 0};
    struct rig r;

    rig_open(&r, &c, "ref", false);
    rig_step(&r, NULL, NULL);
    while (r.seen < c.context) {
        memset(r.calls, 0, sizeof(r.calls));
        rig_step(&r, NULL, NULL);
        ck_assert_uint_eq(r.calls[KVP_OP_APPEND], 2);
        ck_assert_uint_eq(r.calls[KVP_OP_ATTN], 1);
        ck_assert_uint_eq(r.calls[KVP_OP_QUANT], r.seen == 16 ? 2 : 1);
    }
    rig_close(&r);
}
END_TEST

/* A strip for longer runs and a second run change no bit; pages may change the order of a sum. */
START_TEST(same_bits)
{
    static const char *const stacks[] = {"kivi:bits=4,group=8,residual=8", "kivi:bits=4,group=8,residual=8 contiguous:64",
                                         "kivi:bits=4,group=8,residual=8 paged:8",
                                         "kivi:bits=4,group=8,residual=8 paged:24"};
    struct rig_case c = {stacks[0], KVP_F16, 2, 5, 30, 4, 2, 8, 2, {0}, 0};
    const uint64_t n = c.batch * c.heads * c.dim;
    float *first = rig_zalloc(n, sizeof(*first));
    struct rig r;

    rig_open(&r, &c, rig_backends[_i % RIG_BACKENDS], false);
    rig_all(&r, NULL, NULL);
    memcpy(first, r.result, n * sizeof(*first));
    rig_close(&r);
    c.stack = stacks[_i / RIG_BACKENDS];
    rig_open(&r, &c, rig_backends[_i % RIG_BACKENDS], false);
    for (int again = 0; again < 2; again++) {
        rig_all(&r, NULL, NULL);
        for (uint64_t i = 0; i < n; i++)
            ck_assert(strstr(c.stack, "paged") ? fabsf(first[i] - r.result[i]) < 1e-6f : first[i] == r.result[i]);
        rig_reset(&r);
    }
    rig_close(&r);
    free(first);
}
END_TEST

/* ---- poison ------------------------------------------------------------------------------------ */

/* 21 tokens seen: keys 16 + 5, values 13 + 8. */
static const struct {
    struct rig_case c;
    uint64_t pos;
    bool stored;
} poisons[] = {
    {{"kivi:bits=4,group=8,residual=8", KVP_F32, 2, 6, 30, 4, 2, 8, 2, {0}, 0}, 3, true},   /* both packed */
    {{"kivi:bits=4,group=8,residual=8", KVP_F16, 2, 6, 30, 4, 2, 8, 2, {0}, 0}, 15, true},  /* key packed, value not */
    {{"kivi:bits=4,group=8,residual=8", KVP_BF16, 2, 6, 30, 4, 2, 8, 2, {0}, 0}, 20, true}, /* both rows */
    {{"kivi:bits=4,group=8,residual=8", KVP_F32, 2, 6, 30, 4, 2, 8, 2, {0}, 0}, 21, false},
    {{"kivi:bits=4,group=8,residual=8 contiguous:64", KVP_F16, 2, 6, 30, 4, 2, 8, 2, {0}, 0}, 50, false},
    {{"kivi:bits=4,group=8,residual=8 paged:16", KVP_F32, 2, 6, 30, 4, 2, 8, 2, {0}, 0}, 9, true},
    {{"kivi:bits=4,group=8,residual=8 paged:16", KVP_F32, 2, 6, 30, 4, 2, 8, 2, {0}, 0}, 29, false},
    {{"kivi:bits=4,group=8,residual=8 window:13", KVP_F32, 2, 6, 40, 4, 2, 8, 2, {0}, 0}, 9, true},
    {{"kivi:bits=4,group=8,residual=8 window:13", KVP_F32, 2, 6, 40, 4, 2, 8, 2, {0}, 0}, 7, false}, /* out of sight */
    {{"kivi:bits=4,group=8,residual=8 window:13 paged:32", KVP_F16, 2, 6, 60, 4, 2, 8, 2, {0}, 0}, 2, false},
    {{"kivi:bits=4,group=8,residual=32 contiguous:64", KVP_F32, 2, 6, 30, 4, 2, 8, 2, {0}, 0}, 25, false}, /* rows only */
    {{"kivi:bits=4,group=8,residual=32", KVP_F32, 2, 6, 30, 4, 2, 8, 2, {0}, 0}, 4, true},
};
enum { N_POISONS = sizeof(poisons) / sizeof(poisons[0]) };

START_TEST(poison)
{
    struct rig r;

    rig_open(&r, &poisons[_i / RIG_BACKENDS].c, rig_backends[_i % RIG_BACKENDS], true);
    while (r.seen < 21)
        rig_step(&r, NULL, NULL);
    rig_poison_step(&r, poisons[_i / RIG_BACKENDS].pos, poisons[_i / RIG_BACKENDS].stored);
    rig_close(&r);
}
END_TEST

START_TEST(kept)
{
    static const struct rig_case c = {"kivi:bits=4,group=8,residual=8", KVP_F32, 1, 6, 30, 2, 1, 8, 2, {13, 0}, 0};
    json_t *lines;
    struct rig r;

    rig_open(&r, &c, "ref", false);
    rig_all(&r, NULL, NULL);
    lines = rig_dump(&r, r.ops->dump_kept);
    ck_assert_uint_eq(json_array_size(lines), 2);
    for (size_t l = 0; l < 2; l++) {
        const json_t *pos = json_object_get(json_array_get(lines, l), "positions");

        ck_assert_int_eq(rig_int(json_array_get(lines, l), "head"), -1);
        ck_assert_uint_eq(json_array_size(pos), l ? 30 : 13);
        ck_assert_int_eq(json_integer_value(json_array_get(pos, 0)), l ? 0 : 17);
    }
    json_decref(lines);
    rig_close(&r);
}
END_TEST

/* ---- refusals ---------------------------------------------------------------------------------- */

static const struct {
    struct rig_case c;
    kvp_err err;
    const char *says;
} refusals[] = {
    {{"kivi:bits=4,group=8,residual=12", KVP_F32, 1, 5, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "residual is 12"},
    {{"kivi:bits=4,group=16,residual=16", KVP_F32, 1, 5, 20, 2, 2, 24, 1, {0}, 0}, KVP_EINPUT, "head_dim is 24"},
    {{"kivi:bits=2,group=8,residual=8", KVP_F32, 1, 5, 20, 2, 2, 16, 1, {0}, 0}, KVP_EINPUT, "group is 8"},
    {{"kivi:bits=4,group=8,residual=8 paged:12", KVP_F32, 1, 5, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "paged is 12"},
    {{"kivi:bits=4,group=8,residual=16 window:12", KVP_F32, 1, 5, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "residual is 16"},
    {{"kivi:bits=4,group=8,residual=8 growing", KVP_F32, 1, 5, 20, 2, 2, 8, 1, {0}, 0}, KVP_ENOTSUP, "growing"},
    {{"kivi:bits=4,group=8,residual=8 contiguous:19", KVP_F32, 1, 5, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "max_len is 19"},
};
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(refused)
{
    struct kvp_error e = {0};
    struct rig r;
    kvp_err rc;

    rig_prepare(&r, &refusals[_i].c, "ref", false);
    rc = r.ops->open(&r.cache, &r.env, &e);
    ck_assert_msg(rc == refusals[_i].err, "%s: %d %s", refusals[_i].c.stack, rc, e.text);
    ck_assert_msg(strstr(e.text, refusals[_i].says) != NULL, "%s: %s", refusals[_i].c.stack, e.text);
    rig_close(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kivi");
    TCase *tc = tcase_create("kivi");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, flush_points, 0, 8);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_test(tc, calls);
    tcase_add_loop_test(tc, same_bits, 0, 4 * RIG_BACKENDS);
    tcase_add_loop_test(tc, poison, 0, N_POISONS * RIG_BACKENDS);
    tcase_add_test(tc, kept);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
