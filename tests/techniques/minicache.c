/* minicache.c - pairs of layers that share directions, against the merge written slowly, in double
 *
 * The model follows Zefan-Cai/KVCache-Factory pyramidkv/minicache.py: unit vectors of both layers, SLERP with t = 0.6 from the
 * lower to the upper one, either layer's length back on; the ceil(gamma * n) tokens of a head whose vectors are furthest
 * apart are scattered back as they were. In a step the new token's own row is exact, and merged when both layers have it;
 * a token that is merged can't be had back, so it is kept when the share grows just then, or, in a full ring, when the
 * token whose slot it takes was. */
#include "tests/techniques/picks.h"

enum { NONE = -1 };

static const struct {
    struct rig_case c;
    double gamma;
    bool per_token;
    int lower[RIG_LAYERS]; /* by hand: the lower layer of the pair; NONE: alone */
    uint64_t window[RIG_LAYERS];
} cases[] = {
    /* start 1 of 3: layers 1 and 2 */
    {{"minicache:gamma=0.1", KVP_F32, 1, 20, 36, 4, 2, 8, 3, {0}, 0}, 0.1, false, {NONE, 1, 1}, {0}},
    {{"minicache:start=0,gamma=0.1", KVP_F32, 2, 20, 36, 4, 2, 8, 3, {0}, 0}, 0.1, false, {0, 0, NONE}, {0}},
    {{"minicache:start=0,gamma=0.3,indices=1", KVP_F16, 2, 20, 36, 6, 3, 16, 2, {0}, 0}, 0.3, false, {0, 0}, {0}},
    {{"minicache:start=0,gamma=0.3,magnitude=token,index_dtype=i64", KVP_F32, 1, 20, 36, 6, 3, 8, 2, {0}, 0}, 0.3, true, {0, 0}, {0}},
    {{"minicache:start=0,gamma=0", KVP_F32, 1, 9, 20, 4, 1, 8, 2, {0}, 0}, 0, false, {0, 0}, {0}},
    {{"minicache:start=0,gamma=0,indices=0", KVP_F32, 1, 9, 20, 4, 1, 8, 2, {0}, 0}, 0, false, {0, 0}, {0}},
    {{"minicache:start=0,gamma=1", KVP_BF16, 1, 9, 20, 4, 4, 8, 2, {0}, 0}, 1, false, {0, 0}, {0}},
    {{"minicache:start=0,gamma=0.05", KVP_F32, 1, 1, 30, 4, 2, 8, 2, {0}, 0}, 0.05, false, {0, 0}, {0}},
    /* the middle layer has a window of its own: 0 and 2 are alike */
    {{"minicache:start=0,gamma=0.1", KVP_F32, 2, 20, 36, 4, 2, 8, 3, {0, 9, 0}, 0}, 0.1, false, {0, NONE, 0}, {0, 9, 0}},
    /* rings: the window's, a model's own; a prompt below it */
    {{"window:8 minicache:start=0,gamma=0.3", KVP_F32, 2, 20, 44, 4, 2, 8, 2, {0}, 0}, 0.3, false, {0, 0}, {8, 8}},
    {{"minicache:start=0,gamma=0.4,indices=1", KVP_F32, 1, 3, 40, 4, 2, 8, 2, {7, 7}, 0}, 0.4, false, {0, 0}, {7, 7}},
    {{"minicache:start=0,gamma=0.1 contiguous:64", KVP_F32, 2, 20, 36, 4, 2, 8, 2, {0}, 0}, 0.1, false, {0, 0}, {0}},
    {{"minicache:start=0,gamma=0.1 paged:4", KVP_F16, 2, 20, 36, 4, 2, 8, 2, {0}, 0}, 0.1, false, {0, 0}, {0}},
    {{"window:8 minicache:start=0,gamma=0.3 paged:3", KVP_F16, 2, 5, 40, 4, 2, 8, 2, {0}, 0}, 0.3, false, {0, 0}, {8, 8}},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]), MOST = 64, WIDE = 16 };

/* One side (k or v) of one head of a pair. */
struct side {
    uint64_t n, token[MOST]; /* in order of arrival */
    bool kept[MOST];
    double row[2][MOST][WIDE]; /* what either layer reads */
};

struct model {
    int c;
    struct side *side; /* [layers, of the lower][batch][kv_heads][k, v] */
    double *ring[RIG_LAYERS];
};

static struct side *side_of(const struct rig *r, const struct model *m, uint32_t layer, uint64_t b, uint32_t g, int side)
{
    return &m->side[((layer * r->c->batch + b) * r->c->kv_heads + g) * 2 + (uint32_t)side];
}

static const float *row_of(const struct rig *r, uint32_t layer, uint64_t b, uint64_t t, uint32_t g, int side)
{
    return side ? rig_v(r, layer, b, t, g) : rig_k(r, layer, b, t, g);
}

static uint32_t upper_of(const struct rig *r, const struct model *m, uint32_t low)
{
    uint32_t u = low + 1;

    while (u < r->c->layers && cases[m->c].lower[u] != (int)low)
        u++;
    return u;
}

/* Cosine of token t's vectors in both layers, and their lengths: of one head, or of all. */
static double cosine(const struct rig *r, const struct model *m, uint32_t low, uint64_t b, uint64_t t, uint32_t g, int side, double *ly, double *lx)
{
    const bool all = cases[m->c].per_token;
    double xx = 0, yy = 0, xy = 0;

    for (uint32_t h = all ? 0 : g; h < (all ? r->c->kv_heads : g + 1); h++)
        for (uint32_t i = 0; i < r->c->dim; i++) {
            const double y = (double)row_of(r, low, b, t, h, side)[i], x = (double)row_of(r, upper_of(r, m, low), b, t, h, side)[i];

            xx += x * x;
            yy += y * y;
            xy += x * y;
        }
    *lx = sqrt(xx);
    *ly = sqrt(yy);
    return xy / (*lx * *ly);
}

/* Token t joins a side as merged or kept. */
static void add(const struct rig *r, const struct model *m, uint32_t low, uint64_t b, uint32_t g, int side, uint64_t t, bool kept)
{
    struct side *s = side_of(r, m, low, b, g, side);
    double ly, lx, w = acos(cosine(r, m, low, b, t, g, side, &ly, &lx));

    s->token[s->n] = t;
    s->kept[s->n] = kept;
    for (uint32_t i = 0; i < r->c->dim; i++) {
        const double y = (double)row_of(r, low, b, t, g, side)[i], x = (double)row_of(r, upper_of(r, m, low), b, t, g, side)[i];
        const double dir = rig_round((sin(0.4 * w) * y / ly + sin(0.6 * w) * x / lx) / sin(w), r->c->format);

        s->row[0][s->n][i] = kept ? rig_round(y, r->c->format) : dir * rig_round(ly, r->c->format);
        s->row[1][s->n][i] = kept ? rig_round(x, r->c->format) : dir * rig_round(lx, r->c->format);
    }
    s->n++;
}

static void leave(struct side *s, uint64_t i)
{
    for (s->n--; i < s->n; i++) {
        s->token[i] = s->token[i + 1];
        s->kept[i] = s->kept[i + 1];
        memcpy(s->row[0][i], s->row[0][i + 1], sizeof(s->row[0][i]));
        memcpy(s->row[1][i], s->row[1][i + 1], sizeof(s->row[1][i]));
    }
}

static uint64_t share(const struct model *m, uint64_t n)
{
    return (uint64_t)ceil(cases[m->c].gamma * (double)n);
}

/* The prompt's newest tokens, the most distant of them kept; `by`: whose angles decide. */
static void take_prompt(const struct rig *r, const struct model *m, uint32_t low, uint64_t b, uint32_t g, int side, int by)
{
    const uint64_t w = cases[m->c].window[low], prompt = r->c->prompt, first = w && prompt > w ? prompt - w : 0;
    double ly, lx;

    side_of(r, m, low, b, g, side)->n = 0;
    for (uint64_t t = first; t < prompt; t++) {
        const double mine = cosine(r, m, low, b, t, g, by, &ly, &lx);
        uint64_t further = 0;

        for (uint64_t u = first; u < prompt; u++) {
            const double other = cosine(r, m, low, b, u, g, by, &ly, &lx);

            ck_assert_msg(u == t || fabs(other - mine) > 1e-6, "%s: the input ties", r->c->stack);
            further += other < mine;
        }
        add(r, m, low, b, g, side, t, further < share(m, prompt - first));
    }
}

static void take_token(const struct rig *r, const struct model *m, uint32_t low, uint64_t b, uint32_t g, int side)
{
    struct side *s = side_of(r, m, low, b, g, side);
    const uint64_t w = cases[m->c].window[low];
    bool kept = share(m, s->n + 1) > share(m, s->n);

    if (w && s->n == w) {
        kept = s->kept[0];
        leave(s, 0);
    }
    add(r, m, low, b, g, side, r->seen, kept);
}

/* A pair's layer in a step: what is merged, without what has left the window, and its own new row. */
static void check_pair(struct rig *r, const struct model *m, uint32_t layer, uint64_t b, uint32_t h)
{
    const uint32_t low = (uint32_t)cases[m->c].lower[layer], dim = r->c->dim, g = h / (r->c->heads / r->c->kv_heads);
    const struct side *ks = side_of(r, m, low, b, g, 0), *vs = side_of(r, m, low, b, g, 1);
    const uint64_t w = cases[m->c].window[low], gone = w && ks->n == w;
    double k[(MOST + 1) * WIDE], v[(MOST + 1) * WIDE], out[64];
    uint64_t n = 0;

    for (uint64_t j = gone; j < ks->n; j++, n++)
        for (uint32_t i = 0; i < dim; i++) {
            k[n * dim + i] = ks->row[layer != low][j][i];
            v[n * dim + i] = vs->row[layer != low][j][i];
        }
    for (uint32_t i = 0; i < dim; i++) {
        k[n * dim + i] = (double)rig_k(r, layer, b, r->seen, g)[i];
        v[n * dim + i] = (double)rig_v(r, layer, b, r->seen, g)[i];
    }
    rig_attend(rig_q(r, layer, b, r->seen, h), k, v, n + 1, dim, out);
    for (uint32_t i = 0; i < dim; i++) /* a value's rounding may fall the other way where its direction's does */
        ck_assert_msg(fabs((double)rig_out(r, b, 0, 1, h)[i] - out[i]) < (r->c->format == KVP_F32 ? 2e-5 : r->c->format == KVP_F16 ? 2e-3 : 1e-2),
                      "%s on %s, layer %u at token %llu: [%u] is %.8g, expected %.8g", r->c->stack, r->be->name, layer, (unsigned long long)r->seen, i,
                      (double)rig_out(r, b, 0, 1, h)[i], out[i]);
}

static void check_alone(struct rig *r, const struct model *m, uint32_t layer, uint64_t b, uint32_t h)
{
    const uint64_t w = cases[m->c].window[layer];
    struct picks s = {0};
    double out[64];

    for (uint64_t t = w && r->seen + 1 > w ? r->seen + 1 - w : 0; t <= r->seen; t++)
        s.token[s.n++] = t;
    picks_attend(r, &s, layer, b, h, out);
    rig_same(r, rig_out(r, b, 0, 1, h), out, "dense attention", r->seen);
}

static void check_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    const struct model *m = arg;
    const int low = cases[m->c].lower[layer], by_k = strstr(r->c->stack, "indices=1") ? 0 : 1;

    (void)tokens;
    for (uint64_t b = 0; r->seen && b < r->c->batch; b++)
        for (uint32_t h = 0; h < r->c->heads; h++)
            (low == NONE ? check_alone : check_pair)(r, m, layer, b, h);
    for (uint64_t b = 0; low != NONE && low != (int)layer && b < r->c->batch; b++)
        for (uint32_t g = 0; g < r->c->kv_heads; g++)
            for (int side = 0; side < 2; side++)
                if (r->seen)
                    take_token(r, m, (uint32_t)low, b, g, side);
                else
                    take_prompt(r, m, (uint32_t)low, b, g, side, side && by_k);
}

START_TEST(every_step)
{
    const struct rig_case *c = &cases[_i / RIG_BACKENDS].c;
    struct model m = {.c = _i / RIG_BACKENDS, .side = rig_zalloc(c->layers * c->batch * c->kv_heads * 2, sizeof(struct side))};
    struct rig r;

    rig_open(&r, c, rig_backends[_i % RIG_BACKENDS], false);
    for (int again = 0; again < 2; again++) {
        rig_all(&r, check_layer, &m);
        rig_reset(&r);
    }
    rig_close(&r);
    free(m.side);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
    uint64_t workspace;
} sizes[] = {
    /* 20 tokens, 2 sequences, 2 kv heads of 8 * 4 bytes: a tensor of rows is 128 a token. Directions 2 * 20 * 128 = 5120; R = 2:
       retained 4 * 2 * 128 = 1024; lengths 4 * 2 * 2 * 20 * 4 = 1280 and lists 2 * 2 * 2 * 2 * 4 = 64 (metadata).
       Waiting: 2 * 12 * 2 * 2 * 8 * 4 = 3072 */
    {{"minicache:start=0,gamma=0.1", KVP_F32, 2, 12, 20, 4, 2, 8, 2, {0}, 0}, {6144, 1344, 7488}, 3072},
    /* a third layer is dense: 5120 more */
    {{"minicache:gamma=0.1", KVP_F32, 2, 12, 20, 4, 2, 8, 3, {0}, 0}, {11264, 1344, 12608}, 3072},
    /* half the lengths, one list of twice the width */
    {{"minicache:start=0,gamma=0.1,magnitude=token,indices=1,index_dtype=i64", KVP_F32, 2, 12, 20, 4, 2, 8, 2, {0}, 0}, {6144, 704, 6848}, 3072},
    {{"minicache:start=0,gamma=0.1 contiguous:60", KVP_F32, 2, 12, 20, 4, 2, 8, 2, {0}, 0}, {18432, 4032, 22464}, 3072},
    /* 3 pages of 8 for the directions, a table of 2 * 3 * 4 */
    {{"minicache:start=0,gamma=0.1 paged:8", KVP_F32, 2, 12, 20, 4, 2, 8, 2, {0}, 0}, {7168, 1368, 8536}, 3072},
    /* a window of 10: R = 1 */
    {{"window:10 minicache:start=0,gamma=0.1", KVP_F32, 2, 12, 20, 4, 2, 8, 2, {0}, 0}, {3072, 672, 3744}, 3072},
};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    struct rig r;

    rig_open(&r, &sizes[_i].c, "ref", false);
    for (int again = 0; again < 2; again++) {
        rig_all(&r, NULL, NULL);
        rig_check_bytes(&r, &sizes[_i].bytes);
        ck_assert_uint_eq(r.led.peak[LED_WORKSPACE], sizes[_i].workspace);
        rig_reset(&r);
    }
    rig_close(&r);
}
END_TEST

/* 22 tokens seen: every row is read by layer 0, as directions or as kept; the layers above must not mind, so the upper
 * one of the pair, which reads the same directions, is left out. */
START_TEST(poison)
{
    static const struct rig_case c[] = {{"minicache:start=0,gamma=0.2", KVP_F32, 2, 20, 30, 4, 2, 8, 2, {0}, 0},
                                        {"minicache:start=0,gamma=0.2,indices=1 paged:4", KVP_F16, 2, 20, 30, 4, 2, 8, 2, {0}, 0},
                                        {"minicache:start=0,gamma=0.2,index_dtype=i64 contiguous:64", KVP_F16, 2, 20, 30, 4, 2, 8, 2, {0}, 0}};
    const uint64_t pos = (uint64_t)_i / 6;
    bool stored;
    struct rig r;

    rig_open(&r, &c[_i % 3], rig_backends[_i / 3 % 2], true);
    while (r.seen < 22)
        rig_step(&r, NULL, NULL);
    RIG_OK(&r, r.ops->poison(r.cache, pos, &stored, &e));
    ck_assert(stored == (pos < 22));
    for (uint32_t l = 0; l < 2; l++) {
        rig_layer(&r, l, 1);
        ck_assert(rig_has_nan(r.result, 16) == (stored && (l == 0 || rig_has_nan(r.result, 16))));
        ck_assert(!rig_has_nan(r.result + 16, 2 * 4 * 8 - 16));
    }
    rig_close(&r);
}
END_TEST

/* ---- what it is for ---------------------------------------------------------------------------------------- */

enum { FIX_PROMPT = 40, FIX_CONTEXT = 48 };

/* The upper layer's rows are the lower one's, longer and a little turned, as deep layers' are; every tenth token's are not. */
static void make_alike(struct rig *r)
{
    for (uint64_t t = 0; t < FIX_CONTEXT; t++)
        for (uint64_t i = 0; i < rig_stride(r); i++) {
            float *upper = r->x[1] + t * rig_stride(r) + i;

            if (t % 10 != 3)
                *upper = 1.5f * r->x[0][t * rig_stride(r) + i] + 0.3f * *upper;
        }
}

/* Mean square of what the upper layer's attention is off the dense cache's, over the steps. */
static double error_of(const char *stack)
{
    const struct rig_case c = {stack, KVP_F32, 1, FIX_PROMPT, FIX_CONTEXT, 4, 2, 8, 2, {0}, 0};
    struct rig_case plain = c;
    double sum = 0;
    struct rig a, b;

    plain.stack = "dense";
    rig_open(&a, &plain, "ref", false);
    rig_open(&b, &c, "ref", false);
    make_alike(&a);
    make_alike(&b);
    for (uint64_t tokens = FIX_PROMPT; a.seen < FIX_CONTEXT; a.seen = b.seen += tokens, tokens = 1)
        for (uint32_t l = 0; l < 2; l++) {
            rig_layer(&a, l, tokens);
            rig_layer(&b, l, tokens);
            for (uint64_t i = 0; a.seen && i < 4 * 8; i++)
                sum += pow((double)a.result[i] - (double)b.result[i], 2);
        }
    rig_close(&a);
    rig_close(&b);
    return sum;
}

/* The same with both layers reading the plain mean of their rows. */
static double error_of_average(void)
{
    static const struct rig_case c = {"dense", KVP_F32, 1, FIX_PROMPT, FIX_CONTEXT, 4, 2, 8, 2, {0}, 0};
    double k[FIX_CONTEXT * 8], v[FIX_CONTEXT * 8], dense[8], mean[8], sum = 0;
    struct rig r;

    rig_open(&r, &c, "ref", false);
    make_alike(&r);
    for (uint64_t t = FIX_PROMPT; t < FIX_CONTEXT; t++)
        for (uint32_t l = 0; l < 2; l++)
            for (uint32_t h = 0; h < 4; h++)
                for (int averaged = 0; averaged < 2; averaged++) {
                    for (uint64_t j = 0; j <= t; j++)
                        for (uint32_t i = 0; i < 8; i++) {
                            const bool mix = averaged && j < t;

                            k[j * 8 + i] = ((double)rig_k(&r, l, 0, j, h / 2)[i] + (double)rig_k(&r, mix ? 1 - l : l, 0, j, h / 2)[i]) / 2;
                            v[j * 8 + i] = ((double)rig_v(&r, l, 0, j, h / 2)[i] + (double)rig_v(&r, mix ? 1 - l : l, 0, j, h / 2)[i]) / 2;
                        }
                    rig_attend(rig_q(&r, l, 0, t, h), k, v, t + 1, 8, averaged ? mean : dense);
                    for (uint32_t i = 0; averaged && i < 8; i++)
                        sum += pow(mean[i] - dense[i], 2);
                }
    rig_close(&r);
    return sum;
}

/* Lengths and directions beat the mean of the rows, and the tokens that are kept beat merging them all. */
START_TEST(beats_the_average)
{
    const double merged = error_of("minicache:start=0,gamma=0"), kept = error_of("minicache:start=0,gamma=0.12"), average = error_of_average();

    ck_assert_msg(merged < 0.8 * average && kept < 0.6 * merged, "average %g, merged %g, with tokens kept %g", average, merged, kept);
}
END_TEST

static const struct picks_refusal refusals[] = {
    {{"minicache:start=2", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {0}, 0}, KVP_EINPUT, "start is 2"},
    {{"minicache", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {0}, 0}, KVP_ENOTSUP, "not applicable"},
    {{"minicache:start=0", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {0, 5}, 0}, KVP_ENOTSUP, "not applicable"},
    {{"minicache:start=0,indices=0", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {0}, 0}, KVP_ENOTSUP, "retained"},
    {{"minicache:start=0 growing", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {0}, 0}, KVP_ENOTSUP, "growing"},
    {{"streaming-llm minicache:start=0", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {0}, 0}, KVP_ENOTSUP, "streaming-llm"},
};
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(refused)
{
    picks_refused(&refusals[_i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("minicache");
    TCase *tc = tcase_create("minicache");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, 24 * 6);
    tcase_add_test(tc, beats_the_average);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    suite_add_tcase(s, tc);
    return picks_main(s);
}
