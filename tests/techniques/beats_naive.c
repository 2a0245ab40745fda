/* beats_naive.c - what a method does to make its error small is worth something: caches and products that really run,
 * beside the same with that step left out, on a fixture that has what the step is for
 *
 * GPTQ and AWQ beside rounding to nearest, and MiniCache beside averages, have their tests in w.c and minicache.c, on the
 * losses that these methods are defined by. */
#include "kernels/ops.h"
#include "tests/techniques/rig.h"
#include "tests/validate/tiny.h"
#include "validate/engine/coding.h"
#include "validate/engine/convert.h"
#include "validate/engine/feedback.h"
#include "validate/engine/low_rank.h"
#include "validate/engine/safetensors.h"

/* Mean square of what `got` is off by, over that of `want`. */
static double loss(const float *got, const double *want, uint64_t n)
{
    double apart = 0, all = 0;

    for (uint64_t i = 0; i < n; i++) {
        apart += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        all += want[i] * want[i];
    }
    ck_assert(isfinite(apart));
    return apart / all;
}

/* ---- KIVI: keys by channel, not by token (Liu et al. 2024, arXiv:2402.02750, section 3.1) -------------- */

enum { PROMPT = 256, CONTEXT = PROMPT + 8 };

/* A few channels of every key are loud, as figure 2 of the paper has them. The same numbers for every stack. */
static double cache_loss(const char *stack, float loud)
{
    const struct rig_case c = {.stack = stack, .format = KVP_F32, .batch = 1, .prompt = PROMPT, .context = CONTEXT, .heads = 4, .kv_heads = 2,
                               .dim = 64, .layers = 1};
    double *k = rig_zalloc(CONTEXT * 64, sizeof(*k)), *v = rig_zalloc(CONTEXT * 64, sizeof(*v)), *want = rig_zalloc(4 * 64, sizeof(*want)), sum = 0;
    struct rig r;

    rig_open(&r, &c, "cpu", false);
    for (uint64_t t = 0; t < CONTEXT; t++)
        for (uint32_t g = 0; g < 2; g++)
            for (uint32_t i = 5; i < 64; i += 23)
                r.x[0][t * rig_stride(&r) + (uint64_t)(4 + g) * 64 + i] = loud * (1 + 0.1f * rig_k(&r, 0, 0, t, g)[i]);
    rig_layer(&r, 0, PROMPT);
    for (r.seen = PROMPT; r.seen < CONTEXT; r.seen++) {
        rig_layer(&r, 0, 1);
        for (uint32_t h = 0; h < 4; h++) {
            for (uint64_t t = 0; t <= r.seen; t++)
                for (uint32_t i = 0; i < 64; i++) {
                    k[t * 64 + i] = (double)rig_k(&r, 0, 0, t, h / 2)[i];
                    v[t * 64 + i] = (double)rig_v(&r, 0, 0, t, h / 2)[i];
                }
            rig_attend(rig_q(&r, 0, 0, r.seen, h), k, v, r.seen + 1, 64, want + h * 64);
        }
        sum += loss(r.result, want, 4 * 64);
    }
    rig_close(&r);
    free(k);
    free(v);
    free(want);
    return sum;
}

/* 4 bits, groups of 32 and f32 scales on both sides, values by token on both; 8 of 264 tokens are whole here or there. */
START_TEST(kivi_keys)
{
    static const float loud[] = {8, 20, 50};
    const double naive = cache_loss("kv:int4,group=32", loud[_i]), ours = cache_loss("kivi:bits=4,group=32,residual=32", loud[_i]);

    ck_assert_msg(ours < naive / 3, "outliers of %g: loss %g by channel, %g by token", (double)loud[_i], ours, naive);
}
END_TEST

/* ---- LoRC: singular vectors, not the first columns (Zhang et al. 2024, arXiv:2410.03111, section 3.1) ---- */

enum { IN = 32, OUT = 32, TOKENS = 50 };

static struct kb_span put(const struct kb_backend *be, struct kb_dev *dev, struct kb_buf **keep, const void *x, uint64_t bytes)
{
    struct kvp_error err = {0};

    must(be->alloc(dev, bytes, keep, &err));
    must(be->write(dev, (struct kb_span){*keep, 0}, x, bytes, &err));
    return (struct kb_span){*keep, 0};
}

/* x [n, in] times w [out, in] transposed. */
static void times(float *y, const float *x, const float *w, int n, int in, int out)
{
    for (int t = 0; t < n; t++)
        for (int i = 0; i < out; i++) {
            double sum = 0;

            for (int j = 0; j < in; j++)
                sum += (double)x[t * in + j] * (double)w[i * in + j];
            y[t * out + i] = (float)sum;
        }
}

/* Attention of one query over keys up * (down * x), values w * x: the latents are stored, keys rebuilt by the kernel. */
static void attend(float *out, const float *q, const float *x, const float *w, const float *up, const float *down, int rank)
{
    static float latent[TOKENS * IN];
    const struct kb_backend *be;
    struct kb_buf *buf[6];
    struct kvp_error err = {0};
    struct kb_dev *dev;
    struct kb_attn_low a = {.batch = 1, .heads = 2, .kv_heads = 2, .head_dim = OUT / 2, .scale = 2, .used = TOKENS, .q_stride = OUT, .out_stride = OUT,
                            .k = {.heads = 1, .dim = (uint32_t)rank, .slots = TOKENS}, .v = {.heads = 1, .dim = IN, .slots = TOKENS}};

    must(kb_find(&be, "cpu", &err));
    must(be->open(&dev, &(struct kb_options){.threads = 1}, &err));
    times(latent, x, down, TOKENS, IN, rank);
    a.q = put(be, dev, &buf[0], q, OUT * sizeof(float));
    a.k.data = put(be, dev, &buf[1], latent, (uint64_t)TOKENS * (uint64_t)rank * sizeof(float));
    a.v.data = put(be, dev, &buf[2], x, TOKENS * IN * sizeof(float));
    a.k_up.w = put(be, dev, &buf[3], up, (uint64_t)OUT * (uint64_t)rank * sizeof(float));
    a.v_up.w = put(be, dev, &buf[4], w, OUT * IN * sizeof(float));
    a.out = put(be, dev, &buf[5], out, OUT * sizeof(float));
    must(be->run(dev, KB_ATTN_LOW, &a, &err));
    must(be->read(dev, a.out, out, OUT * sizeof(float), &err));
    for (int i = 0; i < 6; i++)
        be->release(dev, buf[i]);
    be->close(dev);
}

/* W_k of layer `layer` of a small model that is kept with its weights. */
static void read_keys(float *w, int layer)
{
    const char *root = getenv("KVPROOF_TESTS");
    struct kvp_error err = {0};
    struct st_files *files;
    const struct st_tensor *t;
    char text[512];

    snprintf(text, sizeof(text), "%s/golden/llama-gqa", root ? root : "tests");
    must(st_open(&files, text, &err));
    snprintf(text, sizeof(text), "model.layers.%d.self_attn.k_proj.weight", layer);
    t = st_find(files, text);
    ck_assert(t && t->count == OUT * IN);
    cvt_run(KVP_F32, w, t->format, t->data, 1, t->count);
    st_close(files);
}

enum cut { WHOLE, SINGULAR, COLUMNS, ROWS };

/* What is left of a query's attention with keys of a smaller rank: the best one, the first columns of W, its first rows. */
static void low_rank_attention(float *out, enum cut cut, const float *w, const float *x, const float *q, int rank)
{
    static float up[OUT * IN], down[OUT * IN];
    struct kvp_error err = {0};

    memset(up, 0, sizeof(up));
    memset(down, 0, sizeof(down));
    if (cut == SINGULAR) {
        must(low_rank_split(up, down, w, OUT, IN, (uint64_t)rank, &err));
    } else if (cut == ROWS) { /* W's first rows make latents, which are the first channels as they are */
        memcpy(down, w, (size_t)rank * IN * sizeof(*w));
        for (int i = 0; i < rank; i++)
            up[i * rank + i] = 1;
    } else { /* latents are the first channels of x; all of them where W is whole */
        for (int r = 0; r < rank; r++)
            down[r * IN + r] = 1;
        for (int i = 0; i < OUT; i++)
            memcpy(up + i * rank, w + i * IN, (size_t)rank * sizeof(*w));
    }
    attend(out, q, x, w, up, down, rank);
}

static double low_rank_loss(enum cut cut, int layer, int rank)
{
    static float w[OUT * IN], x[TOKENS * IN], q[OUT], exact[OUT], got[OUT];
    uint64_t seed = (uint64_t)layer + 3;
    double want[OUT], sum = 0;

    read_keys(w, layer);
    for (int run = 0; run < 20; run++) {
        for (int i = 0; i < TOKENS * IN; i++)
            x[i] = rig_random(&seed);
        for (int i = 0; i < OUT; i++)
            q[i] = rig_random(&seed);
        low_rank_attention(exact, WHOLE, w, x, q, IN);
        low_rank_attention(got, cut, w, x, q, rank);
        for (int i = 0; i < OUT; i++)
            want[i] = (double)exact[i];
        sum += loss(got, want, OUT);
    }
    return sum;
}

START_TEST(lorc_factors)
{
    static const int ranks[] = {8, 16, 24};
    const int rank = ranks[_i % 3], layer = _i / 3;
    const double ours = low_rank_loss(SINGULAR, layer, rank), columns = low_rank_loss(COLUMNS, layer, rank), rows = low_rank_loss(ROWS, layer, rank);

    ck_assert_msg(ours < 0.8 * columns && ours < 0.8 * rows, "layer %d, rank %d: loss %g, with the first columns %g, with the first rows %g", layer,
                  rank, ours, columns, rows);
    ck_assert_msg(low_rank_loss(SINGULAR, layer, IN) < 1e-9, "at full rank nothing is lost");
}
END_TEST

/* ---- SmoothQuant: products in int8 with the outliers moved to the weights (arXiv:2211.10438, section 4) -- */

enum { N = 40, ROWS_OF = 24, COLS = 96 };

/* Of x / s times (m * s) transposed, by the kernels; s NULL: neither is touched. */
static double product_loss(const float *x, const float *m, const float *s)
{
    static float xs[N * COLS], ms[ROWS_OF * COLS], got[N * ROWS_OF];
    static double want[N * ROWS_OF];
    static uint8_t codes[ROWS_OF * COLS];
    static float scales[ROWS_OF];
    void *const part[WT_PARTS] = {[WT_CODE] = codes, [WT_SCALE] = scales};
    const struct kb_backend *be;
    struct kvp_error err = {0};
    struct kvp_stack stack = {0};
    struct wt_coding c;
    struct kb_buf *buf[6];
    struct kb_dev *dev;

    for (int i = 0; i < N * COLS; i++)
        xs[i] = x[i] / (s ? s[i % COLS] : 1);
    for (int i = 0; i < ROWS_OF * COLS; i++)
        ms[i] = m[i] * (s ? s[i % COLS] : 1);
    must(kvp_stack_add(&stack, "smoothquant", &err));
    must(wt_coding_read(&c, &stack, KVP_F32, &err));
    wt_encode(part, &c, ms, ROWS_OF, COLS);
    must(kb_find(&be, "cpu", &err));
    must(be->open(&dev, &(struct kb_options){.threads = 1}, &err));
    const struct kb_quant_rows q = {.rows = N, .width = COLS, .x_stride = COLS, .x = put(be, dev, &buf[0], xs, sizeof(xs)),
                                    .codes = put(be, dev, &buf[1], xs, N * COLS), .scale = put(be, dev, &buf[2], xs, N * sizeof(float))};
    const struct kb_gemm g = {.m = N, .n = ROWS_OF, .k = COLS, .x_stride = COLS, .out_stride = ROWS_OF, .format = c.format, .x = q.codes,
                              .w = put(be, dev, &buf[3], codes, sizeof(codes)), .out = put(be, dev, &buf[4], got, sizeof(got)),
                              .code = {.coding = c.coding, .bits = c.bits, .group = c.group, .factor = c.factor, .bias_format = KVP_F32,
                                       .scale = put(be, dev, &buf[5], scales, sizeof(scales)), .x_scale = q.scale}};
    must(be->run(dev, KB_QUANT_ROWS, &q, &err));
    must(be->run(dev, KB_GEMM, &g, &err));
    must(be->read(dev, g.out, got, sizeof(got), &err));
    for (int i = 0; i < 6; i++)
        be->release(dev, buf[i]);
    be->close(dev);
    for (int t = 0; t < N; t++)
        for (int i = 0; i < ROWS_OF; i++) {
            want[t * ROWS_OF + i] = 0;
            for (int j = 0; j < COLS; j++)
                want[t * ROWS_OF + i] += (double)x[t * COLS + j] * (double)m[i * COLS + j];
        }
    return loss(got, want, N * ROWS_OF);
}

START_TEST(smoothed_products)
{
    static const float loud[] = {20, 60, 200};
    static float x[N * COLS], m[ROWS_OF * COLS], s[COLS];
    uint64_t seed = 11;
    double naive, ours;

    for (int i = 0; i < N * COLS; i++)
        x[i] = rig_random(&seed) * (i % COLS % 31 == 5 ? loud[_i] : 1);
    for (int i = 0; i < ROWS_OF * COLS; i++)
        m[i] = rig_random(&seed);
    smooth_scales(s, m, ROWS_OF, COLS, x, N, 0.5);
    naive = product_loss(x, m, NULL);
    ours = product_loss(x, m, s);
    ck_assert_msg(ours < naive / 3, "outliers of %g: loss %g smoothed, %g not", (double)loud[_i], ours, naive);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("beats naive");
    TCase *t = tcase_create("the step that makes errors small");
    SRunner *r = srunner_create(s);
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, kivi_keys, 0, 3);
    tcase_add_loop_test(t, lorc_factors, 0, 6);
    tcase_add_loop_test(t, smoothed_products, 0, 3);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
