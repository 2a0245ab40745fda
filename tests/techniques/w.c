/* w.c - coded weights: each code is the nearest there is, bytes by hand, logits near the plain ones and the same on both
 * backends, however a text is cut */
#include "kernels/code.h"
#include "kernels/ops.h"
#include "tests/validate/tiny.h"
#include "validate/engine/coding.h"
#include "validate/engine/feedback.h"

enum { TOKENS = 19, BACKENDS = 2 };
static const char *const backends[] = {"ref", "cpu"};

static void read_stack(struct kvp_stack *s, const char *spec)
{
    struct kvp_error err = {0};

    *s = (struct kvp_stack){0};
    if (spec)
        must(kvp_stack_add(s, spec, &err));
}

/* ---- matrices ------------------------------------------------------------------------------------- */

enum { ROWS = 24, COLS = 96 };

/* 24 x 96 numbers, rows of every size; a group of zeros, one of equals. */
static void numbers(float *m)
{
    uint64_t x = 99;

    for (int i = 0; i < ROWS * COLS; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        m[i] = ldexpf((float)(int32_t)(x >> 32) * 0x1p-31f, i / COLS % 5 - 2);
        m[i] = i / COLS == 7 && i % COLS < 64 ? 0 : i / COLS == 9 ? 0.375f : m[i];
    }
}

/* The whole matrix back: the reference's product with the identity. */
static void decode(const struct wt_coding *c, void *const part[WT_PARTS], const uint64_t bytes[WT_PARTS], float *out)
{
    struct kvp_error err = {0};
    struct kb_buf *b[WT_PARTS] = {NULL}, *x, *y;
    struct kb_dev *dev;
    float *identity = calloc(COLS * COLS, sizeof(*identity));
    struct kb_gemm a = {.m = COLS, .n = ROWS, .k = COLS, .x_stride = COLS, .out_stride = ROWS, .format = c->format,
                        .code = {.coding = c->coding, .bits = c->bits, .group = c->group, .factor = c->factor}};
    float *t = calloc(COLS * ROWS, sizeof(*t));

    must(kb_ref.open(&dev, NULL, &err));
    for (int p = 0; p < WT_PARTS; p++)
        if (bytes[p]) {
            must(kb_ref.alloc(dev, bytes[p], &b[p], &err));
            must(kb_ref.write(dev, (struct kb_span){b[p], 0}, part[p], bytes[p], &err));
        }
    for (int i = 0; i < COLS; i++)
        identity[i * COLS + i] = 1;
    must(kb_ref.alloc(dev, COLS * COLS * sizeof(float), &x, &err));
    must(kb_ref.alloc(dev, COLS * ROWS * sizeof(float), &y, &err));
    must(kb_ref.write(dev, (struct kb_span){x, 0}, identity, COLS * COLS * sizeof(float), &err));
    a.x.buf = x;
    a.out.buf = y;
    a.w.buf = b[WT_CODE];
    a.code.scale.buf = b[WT_SCALE];
    a.code.zero.buf = b[WT_ZERO];
    a.code.index.buf = b[WT_INDEX];
    must(kb_ref.run(dev, KB_GEMM, &a, &err));
    must(kb_ref.read(dev, a.out, t, COLS * ROWS * sizeof(float), &err));
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLS; j++)
            out[i * COLS + j] = t[j * ROWS + i];
    for (int p = 0; p < WT_PARTS; p++)
        kb_ref.release(dev, b[p]);
    kb_ref.release(dev, x);
    kb_ref.release(dev, y);
    kb_ref.close(dev);
    free(identity);
    free(t);
}

/* Farthest that a number may be from its code: of the range, or the largest magnitude, of what shares its scale. */
static const struct {
    const char *spec;
    int shared; /* numbers along a row, or of the whole matrix in its order when negative; 0: a row */
    bool range;
    double within;
} codings[] = {
    {"w:int8", 0, false, 0.5 / 127 + 1e-6},   {"w:nf4", -64, false, 0.1520}, {"w:fp4", -64, false, 0.1668},
    {"w:fp8", 0, false, 0.0359},              {"w:mlx", 64, true, 0.5 / 15 + 1e-3}, {"w:mlx,bits=8,group=32", 32, true, 0.5 / 255 + 1e-3},
    {"w:mlx,bits=2,group=16", 16, true, 0.5 / 3 + 1e-3},
    {"w:q8_0", 32, false, 0.5 / 127 + 6e-4},  {"w:q4_0", 32, false, 1.0 / 8 + 1e-3}, {"w:q4_1", 32, true, 0.5 / 15 + 1e-3},
    {"w:mxfp4", 32, false, 0.25 + 1e-6}, /* between 4 and 6 of 8, or beyond 6 */
    {"w:q5_0", 32, false, 1.0 / 16 + 1e-3},   {"w:q5_1", 32, true, 0.5 / 31 + 1e-3},
};
enum { CODINGS = sizeof(codings) / sizeof(codings[0]) };

START_TEST(matrices_come_back)
{
    static float m[ROWS * COLS], back[ROWS * COLS];
    struct kvp_error err = {0};
    uint64_t bytes[WT_PARTS];
    void *part[WT_PARTS] = {NULL};
    struct wt_coding c;
    struct kvp_stack s;

    numbers(m);
    read_stack(&s, codings[_i].spec);
    must(wt_coding_read(&c, &s, KVP_F32, &err));
    must(wt_coding_bytes(bytes, &c, ROWS, COLS, &err));
    for (int p = 0; p < WT_PARTS; p++)
        part[p] = malloc(bytes[p] + 1);
    wt_encode(part, &c, m, ROWS, COLS);
    decode(&c, part, bytes, back);
    for (int i = 0; i < ROWS * COLS; i++) {
        const int n = codings[_i].shared ? abs(codings[_i].shared) : COLS;
        const int first = codings[_i].shared < 0 ? i / n * n : i / COLS * COLS + i % COLS / n * n;
        const int end = codings[_i].shared < 0 ? first + n : first + n < i / COLS * COLS + COLS ? first + n : i / COLS * COLS + COLS;
        double low = HUGE_VAL, high = -HUGE_VAL, size;

        for (int j = first; j < end; j++) {
            low = fmin(low, (double)m[j]);
            high = fmax(high, (double)m[j]);
        }
        size = codings[_i].range ? high - low : fmax(fabs(low), fabs(high));
        ck_assert_msg(fabs((double)back[i] - (double)m[i]) <= codings[_i].within * size + 5e-4 * fmax(fabs(low), fabs(high)) * codings[_i].range + 1e-9,
                      "%s: [%d][%d] %g came back as %g, of %g", codings[_i].spec, i / COLS, i % COLS, (double)m[i], (double)back[i], size);
    }
    for (int p = 0; p < WT_PARTS; p++)
        free(part[p]);
}
END_TEST

/* Not one of the sixteen values would have been nearer. */
START_TEST(four_bits_are_the_nearest)
{
    static float m[ROWS * COLS];
    struct kvp_error err = {0};
    uint64_t bytes[WT_PARTS];
    void *part[WT_PARTS] = {NULL};
    struct wt_coding c;
    struct kvp_stack s;

    numbers(m);
    read_stack(&s, _i ? "w:fp4" : "w:nf4");
    must(wt_coding_read(&c, &s, KVP_F32, &err));
    must(wt_coding_bytes(bytes, &c, ROWS, COLS, &err));
    for (int p = 0; p < WT_PARTS; p++)
        part[p] = malloc(bytes[p] + 1);
    wt_encode(part, &c, m, ROWS, COLS);
    for (int i = 0; i < ROWS * COLS; i++) {
        const unsigned byte = ((uint8_t *)part[WT_CODE])[i / 2], code = i % 2 ? byte & 15 : byte >> 4;
        const double scale = (double)((float *)part[WT_SCALE])[i / 64];
        double apart = fabs((double)(_i ? kb_from_fp4(code) : kb_from_nf4(code)) * scale - (double)m[i]);

        for (unsigned other = 0; other < 16; other++)
            ck_assert(apart <= fabs((double)(_i ? kb_from_fp4(other) : kb_from_nf4(other)) * scale - (double)m[i]) + 1e-6 * scale);
    }
    for (int p = 0; p < WT_PARTS; p++)
        free(part[p]);
}
END_TEST

/* ---- calibrated methods --------------------------------------------------------------------------- */

enum { X_ROWS = 200, M_ROWS = 16, M_COLS = 160 };

/* Activations as layers have them: neighbouring channels move together, a few are loud. */
static void activations(float *x, float loud)
{
    uint64_t s = 5;

    for (int t = 0; t < X_ROWS; t++)
        for (int j = 0; j < M_COLS; j++) {
            float *v = &x[t * M_COLS + j];

            s = s * 6364136223846793005u + 1442695040888963407u;
            *v = (float)(int32_t)(s >> 32) * 0x1p-31f;
            *v = 0.4f * *v + (j % 8 ? 0.9f * v[-1] : 0);
        }
    for (int t = 0; t < X_ROWS; t++)
        for (int j = 3; j < M_COLS; j += 37)
            x[t * M_COLS + j] *= loud;
}

static void matrix(float *m)
{
    uint64_t s = 17;

    for (int i = 0; i < M_ROWS * M_COLS; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        m[i] = (float)(int32_t)(s >> 32) * 0x1p-31f;
    }
}

static double loss_of(const struct grid *g, const float *m, const float *x)
{
    static float back[M_ROWS * M_COLS];
    struct kvp_error err = {0};
    double loss;

    grid_read(g, back, M_ROWS, M_COLS);
    must(output_loss(&loss, m, back, M_ROWS, M_COLS, x, X_ROWS, &err));
    return loss;
}

static const struct {
    uint32_t bits, group;
    double gain; /* error feedback must leave less than this of the loss */
} grids[] = {{4, 128, 0.5}, {4, 32, 0.5}, {2, 128, 0.7}, {8, 64, 0.5}, {4, 160, 0.5}};

START_TEST(feedback_beats_rounding)
{
    static float x[X_ROWS * M_COLS], m[M_ROWS * M_COLS];
    struct kvp_error err = {0};
    struct grid nearest, fed;
    double *factor, naive, ours;

    activations(x, 1);
    matrix(m);
    must(grid_open(&nearest, grids[_i].bits, grids[_i].group, M_ROWS, M_COLS, &err));
    must(grid_open(&fed, grids[_i].bits, grids[_i].group, M_ROWS, M_COLS, &err));
    grid_round(&nearest, m, M_ROWS, M_COLS);
    must(gptq_factor(&factor, x, X_ROWS, M_COLS, &err));
    must(gptq_round(&fed, m, M_ROWS, M_COLS, factor, &err));
    naive = loss_of(&nearest, m, x);
    ours = loss_of(&fed, m, x);
    ck_assert_msg(ours < grids[_i].gain * naive, "%u bits: loss %g with feedback, %g to nearest", grids[_i].bits, ours, naive);
    free(factor);
    grid_close(&nearest);
    grid_close(&fed);
}
END_TEST

/* Optimal brain quantization as section 2 of the paper has it, column by column: the inverse by Gauss and Jordan, no
 * Cholesky, no blocks. One group, so that scales are the same from the start. */
START_TEST(feedback_is_obq)
{
    static float x[X_ROWS * M_COLS], m[M_ROWS * M_COLS];
    static double h[M_COLS][M_COLS], inv[M_COLS][M_COLS], w[M_COLS];
    struct kvp_error err = {0};
    struct grid fed;
    double *factor, mean = 0;
    int differ = 0;

    activations(x, 1);
    matrix(m);
    must(grid_open(&fed, 4, M_COLS, M_ROWS, M_COLS, &err));
    must(gptq_factor(&factor, x, X_ROWS, M_COLS, &err));
    must(gptq_round(&fed, m, M_ROWS, M_COLS, factor, &err));
    free(factor);
    for (int row = 0; row < M_ROWS; row++) {
        memset(h, 0, sizeof(h));
        memset(inv, 0, sizeof(inv));
        mean = 0;
        for (int i = 0; i < M_COLS; i++) {
            for (int j = 0; j < M_COLS; j++)
                for (int t = 0; t < X_ROWS; t++)
                    h[i][j] += (double)x[t * M_COLS + i] * (double)x[t * M_COLS + j];
            mean += h[i][i] / M_COLS;
            inv[i][i] = 1;
            w[i] = (double)m[row * M_COLS + i];
        }
        for (int i = 0; i < M_COLS; i++)
            h[i][i] += 0.01 * mean;
        for (int p = 0; p < M_COLS; p++)
            for (int i = 0; i < M_COLS; i++) {
                const double by = i == p ? 0 : h[i][p] / h[p][p];

                for (int j = 0; j < M_COLS && by != 0; j++) {
                    h[i][j] -= by * h[p][j];
                    inv[i][j] -= by * inv[p][j];
                }
            }
        for (int i = 0; i < M_COLS; i++)
            for (int j = 0; j < M_COLS; j++)
                inv[i][j] /= h[i][i];
        for (int j = 0; j < M_COLS; j++) {
            const int code = wt_code((float)w[j], fed.scale[row], fed.zero[row], 4);
            const double off = (w[j] - (double)((float)(code - fed.zero[row]) * fed.scale[row])) / inv[j][j];

            differ += code != fed.code[row * M_COLS + j];
            for (int l = j; l < M_COLS; l++)
                w[l] -= off * inv[j][l];
            for (int i = j + 1; i < M_COLS; i++) { /* without column j the inverse is another */
                const double by = inv[i][j] / inv[j][j];

                for (int l = j; l < M_COLS; l++)
                    inv[i][l] -= by * inv[j][l];
            }
        }
        if (row == 3)
            break;
    }
    ck_assert_msg(differ <= 4, "%d of %d codes differ", differ, 4 * M_COLS); /* ties that f32 broke otherwise */
    grid_close(&fed);
}
END_TEST

/* Loud channels: scaled up before rounding they lose less. Without any the search stays where rounding is. */
START_TEST(scale_search_beats_rounding)
{
    static float x[X_ROWS * M_COLS], m[M_ROWS * M_COLS], scaled[M_ROWS * M_COLS], back[M_ROWS * M_COLS], s[M_COLS];
    struct kvp_error err = {0};
    struct grid nearest, searched;
    double naive, ours;

    activations(x, _i ? 1 : 30);
    matrix(m);
    must(awq_scales(s, m, M_ROWS, M_COLS, x, X_ROWS, 4, 32, &err));
    for (int i = 0; i < M_ROWS * M_COLS; i++)
        scaled[i] = m[i] * s[i % M_COLS];
    must(grid_open(&nearest, 4, 32, M_ROWS, M_COLS, &err));
    must(grid_open(&searched, 4, 32, M_ROWS, M_COLS, &err));
    grid_round(&nearest, m, M_ROWS, M_COLS);
    grid_round(&searched, scaled, M_ROWS, M_COLS);
    naive = loss_of(&nearest, m, x);
    grid_read(&searched, back, M_ROWS, M_COLS);
    for (int i = 0; i < M_ROWS * M_COLS; i++)
        back[i] /= s[i % M_COLS];
    must(output_loss(&ours, m, back, M_ROWS, M_COLS, x, X_ROWS, &err));
    ck_assert_msg(ours <= (_i ? 1.0 : 0.6) * naive, "loss %g with scales, %g without", ours, naive);
    grid_close(&nearest);
    grid_close(&searched);
}
END_TEST

/* Packed and read by the kernels' formula, the codes are the grid's numbers. */
START_TEST(packed_grids_come_back)
{
    static const char *const specs[] = {"w:gptq,group=32", "w:gptq,bits=2,group=16", "w:gptq,bits=8,group=96", "w:awq,group=32"};
    static float m[ROWS * COLS], back[ROWS * COLS], want[ROWS * COLS];
    struct kvp_error err = {0};
    uint64_t bytes[WT_PARTS];
    void *part[WT_PARTS] = {NULL};
    struct wt_coding c;
    struct kvp_stack s;
    struct grid g;

    numbers(m);
    read_stack(&s, specs[_i]);
    must(wt_coding_read(&c, &s, KVP_F32, &err));
    must(wt_coding_bytes(bytes, &c, ROWS, COLS, &err));
    for (int p = 0; p < WT_PARTS; p++)
        part[p] = malloc(bytes[p] + 1);
    must(grid_open(&g, c.bits, c.group, ROWS, COLS, &err));
    grid_round(&g, m, ROWS, COLS);
    grid_read(&g, want, ROWS, COLS);
    (c.coding == KB_CODING_GPTQ ? wt_pack_gptq : wt_pack_awq)(part, &c, g.code, g.scale, g.zero, ROWS, COLS);
    decode(&c, part, bytes, back);
    for (int i = 0; i < ROWS * COLS; i++)
        ck_assert_msg(fabsf(back[i] - want[i]) < 1e-6f, "%s: [%d] is %g, expected %g", specs[_i], i, (double)back[i], (double)want[i]);
    grid_close(&g);
    for (int p = 0; p < WT_PARTS; p++)
        free(part[p]);
}
END_TEST

/* ---- whole models --------------------------------------------------------------------------------- */

static struct eng *open_eng(const struct kvp_model *m, const char *spec, struct eng_options o, const char *backend)
{
    struct kvp_error err = {0};
    struct kvp_stack s;
    struct eng *g = NULL;

    read_stack(&s, spec);
    must(kb_find(&o.backend, backend, &err));
    o.device.threads = 1;
    o.batch = 1;
    if (!o.seed)
        o.seed = 7;
    must(eng_open(&g, m, &s, &o, &err));
    return g;
}

static void run_seed(const struct kvp_model *m, const char *spec, uint64_t seed, uint64_t prompt, const char *backend, float *logits)
{
    struct kvp_error err = {0};
    struct eng *g = open_eng(m, spec, (struct eng_options){.prompt = prompt, .generate = TOKENS - prompt, .seed = seed, .all_logits = true},
                             backend);
    int32_t ids[TOKENS];

    tiny_tokens(ids, TOKENS, m->vocab);
    must(eng_prefill(g, ids, logits, NULL, &err));
    for (uint64_t i = prompt; i < TOKENS; i++)
        must(eng_decode(g, &ids[i], logits + i * m->vocab, &err));
    eng_close(g);
}

static void run_text(const struct kvp_model *m, const char *spec, uint64_t prompt, const char *backend, float *logits)
{
    run_seed(m, spec, 0, prompt, backend, logits);
}

/* Bits and how finely they are scaled decide how far logits move, on average over a few models; all move, none is lost. */
static const struct {
    const char *spec;
    double within;
} fidelity[] = {{"w:int8", 0.02}, {"w:fp8", 0.15}, {"w:nf4", 0.45}, {"w:fp4", 0.55}, {"w:mlx,group=8", 0.3}, {"w:mlx,bits=8,group=8", 0.02},
                {"w:gptq,group=8", 0.3}, {"w:gptq,bits=8", 0.02}, {"w:awq,group=8", 0.3}};
enum { FIDELITY = sizeof(fidelity) / sizeof(fidelity[0]), SEEDS = 5 };

static bool is_calibrated(const char *spec)
{
    return strstr(spec, "gptq") || strstr(spec, "awq");
}

START_TEST(logits_move_a_little)
{
    static float plain[TOKENS * TINY_VOCAB], coded[TOKENS * TINY_VOCAB], cut[TOKENS * TINY_VOCAB];

    for (int i = 0; i < TINY_MODELS; i++) {
        const char *backend = backends[i % BACKENDS];
        struct kvp_model m;
        double apart = 0;

        tiny_load(&m, i);
        if (tiny_is_uncoded(&m)) {
            kvp_model_free(&m);
            continue;
        }
        for (uint64_t seed = SEEDS; seed > 0; seed--) {
            run_seed(&m, NULL, seed, TOKENS, backend, plain);
            run_seed(&m, fidelity[_i].spec, seed, TOKENS, backend, coded);
            apart += rms_apart(coded, plain, TOKENS * m.vocab) / SEEDS;
        }
        ck_assert_msg(apart > 1e-4 && apart < fidelity[_i].within, "%s of %s: apart by %g", tiny_models[i].name, fidelity[_i].spec, apart);
        run_seed(&m, fidelity[_i].spec, 1, 5, backends[(i + 1) % BACKENDS], cut);
        apart = far_apart(cut, coded, TOKENS * m.vocab);
        /* activations of another backend may round a code the other way */
        ck_assert_msg(apart < (is_calibrated(fidelity[_i].spec) ? fidelity[_i].within / 4 : 2e-5), "%s of %s: in steps on another backend apart by %g", tiny_models[i].name, fidelity[_i].spec, apart);
        kvp_model_free(&m);
    }
}
END_TEST

/* gpt2: D 24, 2 layers, V 61, 48 positions, I 96; q, k, v and o [24, 24]. Plain: 61*24 + 48*24 + 2*24 + 2 * (4*24 + 72 + 24 +
 * 96 + 24) = 3288 numbers. Linears: [72, 24], [24, 24], [96, 24], [24, 96] twice: 2 * 6912 numbers, 2 * 216 rows.
 * qwen3: D 24, d 16, H 4, Hkv 2, I 40, 2 layers, untied: plain 2*61*24 + 24 + 2 * (48 + 32) = 3112. Linears q [64, 24],
 * k and v [32, 24], o [24, 64], gate and up [40, 24], down [24, 40]: 2 * 7488 numbers, 2 * 256 rows. */
static const struct {
    int model;
    const char *spec;
    enum kvp_format dtype;
    uint64_t bytes;
} sizes[] = {
    {0, "w:int8", KVP_F32, 3288 * 4 + 2 * 6912 + 4 * 2 * 216},
    {0, "w:int8", KVP_F16, 3288 * 2 + 2 * 6912 + 4 * 2 * 216},
    {4, "w:int8", KVP_BF16, 3112 * 2 + 2 * 7488 + 4 * 2 * 256},
    /* scales for 64: 1728, 576, 2304, 2304 are 27, 9, 36, 36 whole ones */
    {0, "w:nf4", KVP_F32, 3288 * 4 + 2 * 6912 / 2 + 4 * 2 * 108},
    /* 1536, 768, 768, 1536, 960, 960, 960 are 24, 12, 12, 24, 15, 15, 15 */
    {4, "w:fp4", KVP_F16, 3112 * 2 + 2 * 7488 / 2 + 4 * 2 * 117},
    {4, "w:fp8,scale=tensor", KVP_F16, 3112 * 2 + 2 * 7488 + 4 * 2 * 7},
    {4, "w:fp8,scale=block", KVP_F16, 3112 * 2 + 2 * 7488 + 4 * 2 * 7}, /* each smaller than 128 x 128 */
    /* [24, 24], group 128: codes 3 words * 24, zeros 3 words, scales 24 f16, indices 24; [96, 24], [24, 96] */
    {0, "w:gptq", KVP_F16, 3288 * 2 + 2 * (4 * (4 * (72 + 3 + 24) + 48) + 4 * (3 * 96 + 12 + 24) + 192 + 4 * (12 * 24 + 3 + 96) + 48)},
    /* group 32: 1, 1 and 3 groups; codes [24, 3], [24, 12], [96, 3] words */
    {0, "w:awq,group=32", KVP_F16, 3288 * 2 + 2 * (4 * (4 * (72 + 3) + 48) + 4 * (288 + 12) + 192 + 4 * (288 + 9) + 144)},
    /* embedding and head too. Vectors 24 + 2 * (48 + 32) = 184. Groups of 16: K of 24 has 2, 64 has 4, 40 has 3; words: 3, 8, 5:
     * 12 + 8 a row of 24, 32 + 16 of 64, 20 + 12 of 40 */
    {4, "w:mlx,group=16", KVP_F16, 184 * 2 + 2 * 61 * 20 + 2 * (64 + 32 + 32 + 40 + 40) * 20 + 2 * 24 * 48 + 2 * 24 * 32},
};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    struct kvp_model m;
    struct eng *g;

    tiny_load(&m, sizes[_i].model);
    g = open_eng(&m, sizes[_i].spec, (struct eng_options){.prompt = 4, .generate = 1, .weights = sizes[_i].dtype}, "ref");
    ck_assert_msg(eng_ledger(g)->now[LED_WEIGHTS] == sizes[_i].bytes, "%s of %s: %llu, expected %llu", sizes[_i].spec,
                  tiny_models[sizes[_i].model].name, (unsigned long long)eng_ledger(g)->now[LED_WEIGHTS],
                  (unsigned long long)sizes[_i].bytes);
    eng_close(g);
    kvp_model_free(&m);
}
END_TEST

/* ggml's blocks of 32, embedding, positions and tied head among them, vectors in f32. */
static const char blocks_config[] =
    "{\"model_type\":\"gpt2\",\"vocab_size\":61,\"n_positions\":48,\"n_embd\":64,\"n_layer\":2,\"n_head\":2,\"n_inner\":96,"
    "\"activation_function\":\"gelu_new\",\"layer_norm_epsilon\":1e-5,\"tie_word_embeddings\":true,\"torch_dtype\":\"float16\"}";

START_TEST(blocks)
{
    static const struct {
        const char *spec;
        uint64_t block;
        double within;
    } formats[] = {{"w:q8_0", 34, 0.08}, {"w:q5_1", 24, 0.3}, {"w:q5_0", 22, 0.4}, {"w:q4_1", 20, 0.5}, {"w:q4_0", 18, 0.7}};
    static float plain[TOKENS * TINY_VOCAB], coded[TOKENS * TINY_VOCAB], cut[TOKENS * TINY_VOCAB];
    /* vectors: 2*64 + 2 * (4*64 + 192 + 64 + 96 + 64); numbers: 61*64 + 48*64 + 2 * (192*64 + 64*64 + 2 * 96*64) */
    const uint64_t vectors = 128 + 2 * 672, all = 109 * 64 + 2 * 28672;
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g;
    double apart;

    must(kvp_model_parse(&m, blocks_config, strlen(blocks_config), "blocks", &err));
    g = open_eng(&m, formats[_i].spec, (struct eng_options){.prompt = 4, .generate = 1, .weights = KVP_F16}, "ref");
    ck_assert_uint_eq(eng_ledger(g)->now[LED_WEIGHTS], vectors * 4 + all / 32 * formats[_i].block);
    eng_close(g);
    run_text(&m, NULL, TOKENS, "cpu", plain);
    run_text(&m, formats[_i].spec, TOKENS, "cpu", coded);
    run_text(&m, formats[_i].spec, 6, "ref", cut);
    apart = far_apart(coded, plain, TOKENS * m.vocab);
    ck_assert_msg(apart > 1e-4 && apart < formats[_i].within, "%s: apart by %g", formats[_i].spec, apart);
    ck_assert(far_apart(cut, coded, TOKENS * m.vocab) < 2e-5);
    kvp_model_free(&m);
}
END_TEST

/* Blocks of 32 in the linears alone; what is not coded is as it was. */
START_TEST(mxfp4)
{
    static float plain[TOKENS * TINY_VOCAB], coded[TOKENS * TINY_VOCAB], cut[TOKENS * TINY_VOCAB];
    /* as in `blocks`: vectors, embedding and positions in 16 bits, 17 bytes for 32 of the rest */
    const uint64_t whole = 128 + 2 * 672 + 109 * 64, linears = 2 * 28672;
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g;
    double apart;

    must(kvp_model_parse(&m, blocks_config, strlen(blocks_config), "blocks", &err));
    g = open_eng(&m, "w:mxfp4", (struct eng_options){.prompt = 4, .generate = 1, .weights = KVP_F16}, "ref");
    ck_assert_uint_eq(eng_ledger(g)->now[LED_WEIGHTS], whole * 2 + linears / 32 * 17);
    eng_close(g);
    run_text(&m, NULL, TOKENS, "cpu", plain);
    run_text(&m, "w:mxfp4", TOKENS, "cpu", coded);
    run_text(&m, "w:mxfp4", 6, "ref", cut);
    apart = far_apart(coded, plain, TOKENS * m.vocab);
    ck_assert_msg(apart > 1e-3 && apart < 0.7, "apart by %g", apart);
    ck_assert(far_apart(cut, coded, TOKENS * m.vocab) < 2e-5);
    kvp_model_free(&m);
}
END_TEST

/* The codes of one block, worked by hand: 5.5 of a largest 5.5 stays under the exponent 2^2, so the scale is 1 and codes are
 * the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6; twice as large, the scale is 2. */
START_TEST(mxfp4_by_hand)
{
    static const float x[] = {5.5f, -0.2f, 0.3f, 2.4f, -3.6f, 0.8f, 0, 1}, back[] = {6, 0, 0.5f, 2, -4, 1, 0, 1};
    static float m[ROWS * COLS], out[ROWS * COLS];
    struct kvp_error err = {0};
    uint64_t room[WT_PARTS];
    void *part[WT_PARTS] = {NULL};
    struct wt_coding c;
    struct kvp_stack s;

    for (int i = 0; i < 8; i++) {
        m[i] = x[i];
        m[32 + i] = 2 * x[i];
        m[COLS + i] = x[i] / 1024;
    }
    read_stack(&s, "w:mxfp4");
    must(wt_coding_read(&c, &s, KVP_F32, &err));
    must(wt_coding_bytes(room, &c, ROWS, COLS, &err));
    ck_assert_uint_eq(room[WT_CODE], ROWS * COLS / 32 * 17);
    part[WT_CODE] = malloc(room[WT_CODE]);
    wt_encode(part, &c, m, ROWS, COLS);
    ck_assert_uint_eq(((const unsigned char *)part[WT_CODE])[0], 127);
    ck_assert_uint_eq(((const unsigned char *)part[WT_CODE])[17], 128);
    ck_assert_uint_eq(((const unsigned char *)part[WT_CODE])[34], 0); /* all zeros */
    decode(&c, part, room, out);
    for (int i = 0; i < 8; i++) {
        ck_assert_float_eq(out[i], back[i]);
        ck_assert_float_eq(out[32 + i], 2 * back[i]);
        ck_assert_float_eq(out[COLS + i], back[i] / 1024);
    }
    free(part[WT_CODE]);
}
END_TEST

/* Blocks of 256: rows that they do not divide are refused (bad, below), and their scales, which are searched for, lose less
 * than those of a range cut into equal steps. */
static const char wide_config[] =
    "{\"model_type\":\"gpt2\",\"vocab_size\":61,\"n_positions\":48,\"n_embd\":256,\"n_layer\":2,\"n_head\":4,\"n_inner\":512,"
    "\"activation_function\":\"gelu_new\",\"layer_norm_epsilon\":1e-5,\"tie_word_embeddings\":true,\"torch_dtype\":\"float16\"}";

static const struct {
    const char *spec;
    uint64_t block;
    double within; /* of the logits */
    int run, low, top; /* numbers that share a scale, and their codes; a range when low is 0 */
} k_quants[] = {{"w:q4_k", 144, 0.4, 32, 0, 15}, {"w:q6_k", 210, 0.12, 16, -32, 31}};

/* Mean square of what `run` numbers lose with one scale that takes them all in. */
static double equal_steps(const float *m, int k)
{
    const int run = k_quants[k].run;
    double sum = 0;

    for (int first = 0; first < 256; first += run) {
        float low = 0, high = 0, step;

        for (int i = first; i < first + run; i++) {
            low = fminf(low, m[i]);
            high = fmaxf(high, m[i]);
        }
        step = k_quants[k].low ? fmaxf(-low, high) / (float)k_quants[k].top : (high - low) / (float)k_quants[k].top;
        for (int i = first; i < first + run; i++) {
            const float from = k_quants[k].low ? 0 : low;
            const double off = (double)(rintf((m[i] - from) / step) * step + from - m[i]);

            sum += off * off;
        }
    }
    return sum;
}

START_TEST(k_quants_search_scales)
{
    enum { BLOCKS = 50 };
    static float m[BLOCKS][256];
    static _Alignas(4) unsigned char block[210];
    const enum kvp_format f = _i ? KVP_Q6_K : KVP_Q4_K;
    double ours = 0, naive = 0;
    uint64_t x = 5;

    for (int b = 0; b < BLOCKS; b++) {
        for (int i = 0; i < 256; i++) {
            float sum = 0; /* nearly normal, as weights are */

            for (int n = 0; n < 6; n++) {
                x = x * 6364136223846793005u + 1442695040888963407u;
                sum += (float)(int32_t)(x >> 32) * 0x1p-31f;
            }
            m[b][i] = sum * 0.02f;
        }
        (_i ? wt_encode_q6_k : wt_encode_q4_k)(block, m[b]);
        naive += equal_steps(m[b], _i);
        for (int i = 0; i < 256; i++) {
            const struct kb_q4_k *four = (const void *)block;
            const struct kb_q6_k *six = (const void *)block;
            unsigned scale, min;
            double off;

            kb_q4_k_scale(four->scales, (unsigned)i / 32, &scale, &min);
            off = f == KVP_Q4_K ? (double)kb_from_f16(four->d) * scale * (four->q[i / 64 * 32 + i % 32] >> i / 32 % 2 * 4 & 15) -
                                      (double)kb_from_f16(four->dmin) * min
                                : (double)kb_from_f16(six->d) * six->scales[i / 16] * kb_q6_k_code(six, (unsigned)i);
            off -= (double)m[b][i];
            ours += off * off;
        }
    }
    ck_assert_msg(ours < 0.97 * naive, "%s: loss %g, of equal steps %g", k_quants[_i].spec, ours, naive);
}
END_TEST

START_TEST(blocks_of_256)
{
    static float plain[TOKENS * TINY_VOCAB], coded[TOKENS * TINY_VOCAB], cut[TOKENS * TINY_VOCAB];
    /* vectors: 2*256 + 2 * (4*256 + 768 + 256 + 512 + 256); numbers: (61 + 48)*256 + 2 * (768*256 + 256*256 + 2 * 512*256) */
    const uint64_t vectors = 512 + 2 * 2816, all = 109 * 256 + 2 * 524288;
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g;
    double apart;

    must(kvp_model_parse(&m, wide_config, strlen(wide_config), "wide", &err));
    g = open_eng(&m, k_quants[_i].spec, (struct eng_options){.prompt = 4, .generate = 1, .weights = KVP_F16}, "ref");
    ck_assert_uint_eq(eng_ledger(g)->now[LED_WEIGHTS], vectors * 4 + all / 256 * k_quants[_i].block);
    eng_close(g);
    run_text(&m, NULL, TOKENS, "cpu", plain);
    run_text(&m, k_quants[_i].spec, TOKENS, "cpu", coded);
    run_text(&m, k_quants[_i].spec, 6, "ref", cut);
    apart = far_apart(coded, plain, TOKENS * m.vocab);
    ck_assert_msg(apart > 1e-3 && apart < k_quants[_i].within, "%s: apart by %g", k_quants[_i].spec, apart);
    ck_assert(far_apart(cut, coded, TOKENS * m.vocab) < 5e-5);
    kvp_model_free(&m);
}
END_TEST

/* w:f16 is the model in f16. */
START_TEST(plain_words)
{
    static float a[TOKENS * TINY_VOCAB], b[TOKENS * TINY_VOCAB];
    struct kvp_model m;
    struct eng *g, *half;

    tiny_load(&m, 1);
    g = open_eng(&m, "w:bf16", (struct eng_options){.prompt = 4, .generate = 1}, "ref");
    half = open_eng(&m, NULL, (struct eng_options){.prompt = 4, .generate = 1, .weights = KVP_BF16}, "ref");
    ck_assert_uint_eq(eng_ledger(g)->now[LED_WEIGHTS], eng_ledger(half)->now[LED_WEIGHTS]);
    ck_assert_uint_eq(eng_ledger(g)->now[LED_WORKSPACE], eng_ledger(half)->now[LED_WORKSPACE]);
    eng_close(g);
    eng_close(half);
    run_text(&m, NULL, TOKENS, "cpu", a);
    run_text(&m, "w:none", TOKENS, "cpu", b);
    ck_assert_mem_eq(a, b, sizeof(a));
    kvp_model_free(&m);
}
END_TEST

/* The linears of attention and of dense feed-forwards are coded; a model that has others is refused whole. */
START_TEST(other_matrices_are_refused)
{
    int n = 0;

    for (int i = 0; i < TINY_MODELS; i++) {
        struct eng_options o = {.prompt = 4, .batch = 1};
        struct kvp_error err = {0}, why = {0};
        struct kvp_model m;
        struct kvp_stack s;
        struct eng *g = NULL;

        tiny_load(&m, i);
        read_stack(&s, fidelity[_i].spec);
        must(kb_find(&o.backend, "cpu", &err));
        if (tiny_is_uncoded(&m)) {
            ck_assert_int_eq(eng_open(&g, &m, &s, &o, &why), KVP_ENOTSUP);
            ck_assert_msg(strstr(why.text, "attention and dense feed-forwards only") != NULL, "%s", why.text);
            n++;
        }
        kvp_model_free(&m);
    }
    ck_assert_int_eq(n, 2);
}
END_TEST

START_TEST(refusals)
{
    static const struct {
        const char *spec;
        kvp_err code;
        const char *word;
    } bad[] = {{"w:q5_k", KVP_ENOTSUP, "q5_k"}, {"w:q4_k", KVP_ENOTSUP, "weights"}, {"w:nvfp4", KVP_ENOTSUP, "nvfp4"}, {"w:q8_0", KVP_ENOTSUP, "40 weights"},
               {"w:int8,group=32", KVP_EINPUT, "group"}, {"w:mlx,bits=3", KVP_ENOTSUP, "not 3"}, {"w:nf4,double_quant=on", KVP_ENOTSUP, "double_quant"}};
    struct eng_options o = {.prompt = 4, .batch = 1};
    struct kvp_error err = {0}, why = {0};
    struct kvp_model m;
    struct kvp_stack s;
    struct eng *g = NULL;

    tiny_load(&m, 1);
    read_stack(&s, bad[_i].spec);
    must(kb_find(&o.backend, "ref", &err));
    ck_assert_int_eq(eng_open(&g, &m, &s, &o, &why), bad[_i].code);
    ck_assert_ptr_null(g);
    ck_assert_msg(strstr(why.text, bad[_i].word), "'%s' does not say %s", why.text, bad[_i].word);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("w");
    TCase *t = tcase_create("coded weights");
    SRunner *r = srunner_create(s);
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, matrices_come_back, 0, CODINGS);
    tcase_add_loop_test(t, four_bits_are_the_nearest, 0, 2);
    tcase_add_loop_test(t, feedback_beats_rounding, 0, sizeof(grids) / sizeof(grids[0]));
    tcase_add_test(t, feedback_is_obq);
    tcase_add_loop_test(t, scale_search_beats_rounding, 0, 2);
    tcase_add_loop_test(t, packed_grids_come_back, 0, 4);
    tcase_add_loop_test(t, logits_move_a_little, 0, FIDELITY);
    tcase_add_loop_test(t, bytes, 0, SIZES);
    tcase_add_loop_test(t, blocks, 0, 5);
    tcase_add_loop_test(t, k_quants_search_scales, 0, 2);
    tcase_add_loop_test(t, blocks_of_256, 0, 2);
    tcase_add_test(t, mxfp4);
    tcase_add_test(t, mxfp4_by_hand);
    tcase_add_test(t, plain_words);
    tcase_add_loop_test(t, other_matrices_are_refused, 0, FIDELITY);
    tcase_add_loop_test(t, refusals, 0, 7);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
