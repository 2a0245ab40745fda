/* adakv.c - SnapKV's scores, one budget for all heads of a layer, against FFY0/AdaKV's rule written slowly
 *
 * AdaptiveSnapKVCluster.update_kv: of H heads' scores the H * base highest are found, base = cap - window; a head that has
 * `count` of them keeps round(count * 0.8 + int(0.2 * base)) of its own best and the window. Rounding head by head does
 * not always leave H * base of them; here a head gets the whole part of int(0.2 * base) + count * (base - int(0.2 * base)) /
 * base, and the largest remainders get one more until the sum is right, so that none is a row away from that fraction. */
#include "tests/techniques/picks.h"

static const struct picks_case cases[] = {
    {{"adakv:cap=12,window=4", KVP_F32, 1, 9, 20, 4, 4, 8, 2, {0}, 0}, 4, 5, true, false, {9, 9}},
    {{"adakv:cap=12,window=4", KVP_F32, 2, 12, 20, 4, 2, 8, 2, {0}, 0}, 4, 5, true, false, {12, 12}},
    {{"adakv:cap=12,window=4", KVP_F32, 2, 13, 20, 4, 2, 8, 2, {0}, 0}, 4, 5, true, false, {12, 12}},
    {{"adakv:cap=5,window=4", KVP_F16, 2, 40, 50, 6, 3, 8, 2, {0}, 0}, 4, 5, true, false, {5, 5}},
    {{"adakv:cap=17,window=4,kernel=1", KVP_F32, 1, 60, 70, 8, 8, 8, 2, {0}, 0}, 4, 1, true, false, {17, 17}},
    {{"adakv:cap=16,window=4,kernel=7,pooling=max", KVP_BF16, 1, 60, 70, 4, 2, 16, 2, {0}, 0}, 4, 7, false, false, {16, 16}},
    {{"adakv:cap=14,window=3,heads=query", KVP_F32, 2, 40, 50, 6, 2, 8, 2, {0}, 0}, 3, 5, true, true, {14, 14}},
    {{"adakv:cap=12,window=4,heads=query growing", KVP_F16, 1, 40, 50, 4, 4, 8, 3, {0, 9, 0}, 0}, 4, 5, true, true, {12, 0, 12}},
    {{"adakv:cap=20,window=4", KVP_F32, 1, 40, 50, 1, 1, 8, 2, {0}, 0}, 4, 5, true, false, {20, 20}},
    {{"adakv:cap=12,window=4 growing", KVP_F32, 2, 40, 50, 6, 3, 8, 2, {0}, 0}, 4, 5, true, false, {12, 12}},
    {{"adakv:cap=12,window=4 growing", KVP_F32, 2, 7, 20, 6, 3, 8, 2, {0}, 0}, 4, 5, true, false, {7, 7}},
    {{"adakv:cap=12,window=4 contiguous:64", KVP_F32, 2, 40, 50, 6, 3, 8, 2, {0}, 0}, 4, 5, true, false, {12, 12}},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]), HEADS = 8 };

/* How many tokens below the window each head keeps. */
static void share(const struct rig *r, const struct picks_case *k, uint32_t layer, const double score[HEADS][PICKS_MOST], uint64_t *keeps)
{
    const uint64_t heads = picks_heads(k, layer), base = k->kept[layer] - k->window, columns = r->c->prompt - k->window;
    const uint64_t floor_tokens = (uint64_t)(0.2 * (double)base);
    double rest[HEADS];
    uint64_t sum = 0;

    for (uint64_t h = 0; h < heads; h++) {
        uint64_t count = 0;

        for (uint64_t t = 0; t < columns; t++) {
            uint64_t better = 0;

            for (uint64_t i = 0; i < heads * columns; i++) {
                const double other = score[i / columns][i % columns];

                better += other > score[h][t] || (other == score[h][t] && i < h * columns + t);
                ck_assert_msg(other == score[h][t] || fabs(other - score[h][t]) > 1e-8, "%s: the input ties", r->c->stack);
            }
            count += better < heads * base;
        }
        rest[h] = (double)floor_tokens + (double)(count * (base - floor_tokens)) / (double)base;
        keeps[h] = (uint64_t)(rest[h] + 1e-9);
        rest[h] -= (double)keeps[h];
        sum += keeps[h];
        if (base % 5 == 0) /* the public code's own number, before it rounds */
            ck_assert_double_eq_tol((double)keeps[h] + rest[h], 0.8 * (double)count + (double)floor_tokens, 1e-9);
    }
    for (; sum < heads * base; sum++) {
        uint64_t best = 0;

        for (uint64_t h = 1; h < heads; h++)
            best = rest[h] > rest[best] + 1e-9 ? h : best;
        keeps[best]++;
        rest[best] = -1;
    }
}

static void choose(const struct rig *r, const struct picks_model *m, uint32_t layer, uint64_t b)
{
    const struct picks_case *k = m->k;
    const uint32_t heads = picks_heads(k, layer), group = r->c->heads / heads;
    const uint64_t prompt = r->c->prompt, columns = prompt - k->window;
    double score[HEADS][PICKS_MOST];
    uint64_t keeps[HEADS];

    for (uint32_t h = 0; h < heads; h++)
        picks_scores(r, k, layer, b, h * group, (h + 1) * group, columns, score[h]);
    share(r, k, layer, (const double (*)[PICKS_MOST])score, keeps);
    for (uint32_t h = 0; h < heads; h++) {
        struct picks *s = picks_at(m, layer, b, h);

        *s = (struct picks){0};
        for (uint64_t t = 0; t < prompt; t++)
            if (t >= columns || picks_best(r, score[h], columns, keeps[h], t))
                s->token[s->n++] = t;
        ck_assert_uint_eq(s->n, keeps[h] + k->window);
        ck_assert_uint_ge(keeps[h], (uint64_t)(0.2 * (double)(k->kept[layer] - k->window)));
    }
}

static void check_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    const struct picks_model *m = arg;

    if (r->seen || !m->k->kept[layer] || m->k->kept[layer] == r->c->prompt) {
        picks_layer(r, layer, tokens, arg);
        return;
    }
    for (uint64_t b = 0; b < r->c->batch; b++)
        choose(r, m, layer, b);
}

START_TEST(every_step)
{
    const struct picks_case *k = &cases[_i / RIG_BACKENDS];
    struct picks_model m = {k, rig_zalloc(k->c.layers * k->c.batch * k->c.heads, sizeof(struct picks))};
    struct rig r;

    rig_open(&r, &k->c, rig_backends[_i % RIG_BACKENDS], true);
    for (int again = 0; again < 2; again++) {
        while (r.seen < k->c.context) {
            rig_step(&r, check_layer, &m);
            picks_same(&r, &m);
        }
        rig_reset(&r);
    }
    rig_close(&r);
    free(m.set);
}
END_TEST

START_TEST(same_bits)
{
    static const char *const stacks[] = {"adakv:cap=12,window=4", "adakv:cap=12,window=4 growing", "adakv:cap=12,window=4 contiguous:64"};
    static const struct rig_case c = {NULL, KVP_F16, 2, 40, 50, 4, 2, 8, 2, {0}, 0};

    rig_same_run(&c, stacks[0], stacks[_i / RIG_BACKENDS], rig_backends[_i % RIG_BACKENDS], 0);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
    uint64_t workspace;
} sizes[] = {
    /* rows, scores and index as snapkv's; lists of 7 * 2 + 3 = 17 numbers: 2 layers * 2 sequences * 17 * 4 = 272 */
    {{"adakv:cap=12,window=4", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, {11264, 272, 11536}, 832},
    /* 31 numbers */
    {{"adakv:cap=12,window=4,heads=query", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, {22528, 496, 23024}, 1664},
    {{"adakv:cap=12,window=4", KVP_F32, 2, 7, 17, 4, 2, 8, 2, {0}, 0}, {8704, 272, 8976}, 0},
    {{"adakv:cap=12,window=4 contiguous:64", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, {18432, 272, 18704}, 832},
    /* the last V beside its 21 rows a head */
    {{"adakv:cap=12,window=4 growing", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0}, {11264, 272, 14224}, 832},
    /* a ring of 9, without lists */
    {{"adakv:cap=12,window=4", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {9, 0}, 0}, {7936, 136, 8072}, 832},
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

START_TEST(poison)
{
    static const struct rig_case c[] = {{"adakv:cap=12,window=4", KVP_F32, 2, 40, 50, 4, 2, 8, 2, {0}, 0},
                                        {"adakv:cap=12,window=4 contiguous:64", KVP_F16, 2, 40, 50, 4, 2, 8, 2, {0}, 0},
                                        {"adakv:cap=12,window=4 growing", KVP_F16, 2, 40, 50, 4, 2, 8, 2, {0}, 0}};
    const uint64_t pos = (uint64_t)_i / 6;
    struct rig r;

    rig_open(&r, &c[_i % 3], rig_backends[_i / 3 % 2], true);
    while (r.seen < 44)
        rig_step(&r, NULL, NULL);
    rig_poison_step(&r, pos, picks_keeps(&r, pos));
    rig_close(&r);
}
END_TEST

static const struct picks_refusal refusals[] = {
    {{"adakv:cap=8,window=8", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "cap is 8"},
    {{"adakv:cap=9,window=8", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {3}, 0}, KVP_ENOTSUP, "not applicable"},
    {{"adakv:cap=9,window=8 paged", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_ENOTSUP, "different numbers"},
};
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(refused)
{
    picks_refused(&refusals[_i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("adakv");
    TCase *tc = tcase_create("adakv");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, same_bits, 0, 3 * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, 46 * 6);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    suite_add_tcase(s, tc);
    return picks_main(s);
}
