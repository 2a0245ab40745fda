/* quest.c - which pages a query reads, against a model that works from the keys themselves
 *
 * The model follows mit-han-lab/Quest evaluation/quest_attention.py: a page's score for a query is the sum over channels of
 * the largest q * k that its smallest and largest keys allow; max(3, budget // page) pages are read, here always with the
 * newest one, and one choice for the query heads of a kv head. */
#include "tests/techniques/picks.h"

static const struct {
    struct rig_case c;
    uint64_t page, chosen, dense; /* chosen: by hand, max(3, budget div page) */
} cases[] = {
    {{"quest:page=4,budget=8,dense=0", KVP_F32, 1, 30, 45, 4, 2, 8, 2, {0}, 0}, 4, 3, 0},
    {{"quest:page=4,budget=19,dense=1", KVP_F32, 2, 30, 45, 4, 4, 8, 3, {0}, 0}, 4, 4, 1},
    {{"quest:page=1,budget=5,dense=0", KVP_F16, 2, 20, 30, 6, 3, 16, 1, {0}, 0}, 1, 5, 0},
    /* as many pages as are read, then one more: 12 tokens are 3 pages */
    {{"quest:page=4,budget=12,dense=0", KVP_F32, 1, 9, 24, 4, 1, 8, 2, {0}, 0}, 4, 3, 0},
    /* never more */
    {{"quest:page=16,budget=64,dense=0", KVP_BF16, 1, 9, 40, 4, 2, 8, 1, {0}, 0}, 16, 4, 0},
    /* the default two dense layers leave the third */
    {{"quest:page=4,budget=12", KVP_F32, 1, 30, 40, 4, 2, 8, 3, {0}, 0}, 4, 3, 2},
    /* a layer that sees 9 tokens keeps 9 */
    {{"quest:page=4,budget=12,dense=0", KVP_F32, 2, 30, 40, 4, 2, 8, 3, {0, 9, 0}, 0}, 4, 3, 0},
    {{"quest:page=4,budget=12,dense=0 growing", KVP_F32, 2, 7, 40, 4, 2, 8, 2, {0}, 0}, 4, 3, 0},
    {{"quest:page=4,budget=12,dense=0 contiguous:64", KVP_F16, 2, 30, 45, 4, 2, 8, 2, {0}, 0}, 4, 3, 0},
    {{"quest:page=5,budget=15,dense=0 paged:4", KVP_F16, 2, 30, 45, 4, 2, 8, 2, {0}, 0}, 5, 3, 0},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

struct model {
    uint64_t page, chosen, dense;
};

/* Score of page p of `seen` tokens for the heads of kv head g. */
static double score(const struct rig *r, const struct model *m, uint32_t layer, uint64_t b, uint32_t g, uint64_t seen, uint64_t p)
{
    const uint32_t group = r->c->heads / r->c->kv_heads;
    double sum = 0;

    for (uint32_t i = 0; i < r->c->dim; i++) {
        double low = HUGE_VAL, high = -HUGE_VAL;

        for (uint64_t t = p * m->page; t < seen && t < (p + 1) * m->page; t++) {
            const double k = rig_round((double)rig_k(r, layer, b, t, g)[i], r->c->format);

            low = fmin(low, k);
            high = fmax(high, k);
        }
        for (uint32_t h = g * group; h < (g + 1) * group; h++)
            sum += fmax((double)rig_q(r, layer, b, r->seen, h)[i] * low, (double)rig_q(r, layer, b, r->seen, h)[i] * high);
    }
    return sum;
}

static bool is_read(const struct rig *r, const struct model *m, uint32_t layer, uint64_t b, uint32_t g, uint64_t p)
{
    const uint64_t seen = r->seen + 1, pages = (seen + m->page - 1) / m->page;
    const double mine = score(r, m, layer, b, g, seen, p);
    uint64_t better = 0;

    if (layer < m->dense || pages <= m->chosen || p == pages - 1)
        return true;
    for (uint64_t l = 0; l + 1 < pages; l++) {
        const double other = score(r, m, layer, b, g, seen, l);

        ck_assert_msg(l == p || fabs(other - mine) > 1e-7, "%s: the input ties at token %llu", r->c->stack, (unsigned long long)r->seen);
        better += other > mine;
    }
    return better < m->chosen - 1;
}

static void check_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    const struct model *m = arg;
    const uint64_t seen = r->seen + tokens, w = r->c->window[layer];
    double out[64];

    for (uint64_t b = 0; r->seen && b < r->c->batch; b++)
        for (uint32_t h = 0; h < r->c->heads; h++) {
            const uint32_t g = h / (r->c->heads / r->c->kv_heads);
            struct picks s = {0};

            for (uint64_t t = w && seen > w ? seen - w : 0; t < seen; t++)
                if (w || is_read(r, m, layer, b, g, t / m->page))
                    s.token[s.n++] = t;
            picks_attend(r, &s, layer, b, h, out);
            rig_same(r, rig_out(r, b, 0, 1, h), out, "attention over the chosen pages", r->seen);
        }
}

START_TEST(every_step)
{
    struct model m = {cases[_i / RIG_BACKENDS].page, cases[_i / RIG_BACKENDS].chosen, cases[_i / RIG_BACKENDS].dense};
    struct rig r;

    rig_open(&r, &cases[_i / RIG_BACKENDS].c, rig_backends[_i % RIG_BACKENDS], false);
    for (int again = 0; again < 2; again++) {
        rig_all(&r, check_layer, &m);
        rig_reset(&r);
    }
    rig_close(&r);
}
END_TEST

/* With a budget for everything it is the dense cache, bit for bit. */
START_TEST(same_as_dense)
{
    static const char *const stacks[] = {"quest:page=4,budget=64,dense=0", "quest:page=4,budget=64,dense=0 growing",
                                         "quest:page=4,budget=64,dense=0 contiguous:64", "quest:page=4,budget=64,dense=0 paged:8", "quest:dense=3"};
    static const struct rig_case c = {NULL, KVP_F16, 2, 12, 40, 4, 2, 8, 3, {0}, 0};

    rig_same_run(&c, "dense", stacks[_i / RIG_BACKENDS], rig_backends[_i % RIG_BACKENDS], 1e-6f);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
    uint64_t workspace;
} sizes[] = {
    /* 22 tokens of 2 * 2 layers * 2 sequences * 2 kv heads * 8 * 4 = 512 bytes, 6 pages of as many; a list of 2 * 2 * 3 * 4 */
    {{"quest:page=4,budget=8,dense=0", KVP_F32, 2, 12, 22, 4, 2, 8, 2, {0}, 0}, {11264, 3072, 14336}, 48},
    /* both layers dense: no list */
    {{"quest:page=4,budget=8", KVP_F32, 2, 12, 22, 4, 2, 8, 2, {0}, 0}, {11264, 3072, 14336}, 0},
    {{"quest:page=4,budget=8,dense=0 contiguous:62", KVP_F32, 2, 12, 22, 4, 2, 8, 2, {0}, 0}, {31744, 8192, 39936}, 48},
    /* pages of 5: 5 blocks, 25 slots, a table of 2 * 5 * 4 */
    {{"quest:page=4,budget=8,dense=0 paged:5", KVP_F32, 2, 12, 22, 4, 2, 8, 2, {0}, 0}, {12800, 3112, 15912}, 48},
    /* the last V on its way from 21 to 22: 21 * 128 more; the bounds have not grown since token 21 */
    {{"quest:page=4,budget=8,dense=0 growing", KVP_F32, 2, 12, 22, 4, 2, 8, 2, {0}, 0}, {11264, 3072, 17024}, 48},
    /* 21 tokens: at V's turn both bounds of the layer have yet to grow from 5 pages to 6; 10752 + 3072 in the end,
       less 2 * 128, and V's 20 old slots */
    {{"quest:page=4,budget=8,dense=0 growing", KVP_F32, 2, 12, 21, 4, 2, 8, 2, {0}, 0}, {10752, 3072, 16128}, 48},
    /* a layer of 9 slots without bounds, one of 22 with: 9 * 256, 22 * 256, 6 * 256 */
    {{"quest:page=4,budget=8,dense=0", KVP_F32, 2, 12, 22, 4, 2, 8, 2, {9, 0}, 0}, {7936, 1536, 9472}, 48},
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

/* A row is read when its page is chosen: by the bounds, which were taken before the poison. */
START_TEST(poison)
{
    static const struct rig_case c[] = {{"quest:page=4,budget=8,dense=0", KVP_F32, 2, 30, 40, 4, 2, 8, 1, {0}, 0},
                                        {"quest:page=4,budget=8,dense=0 paged:4", KVP_F16, 2, 30, 40, 4, 2, 8, 1, {0}, 0}};
    const struct model m = {4, 3, 0};
    const uint64_t pos = (uint64_t)_i / 4;
    bool stored, read;
    struct rig r;

    rig_open(&r, &c[_i % 2], rig_backends[_i / 2 % 2], true);
    while (r.seen < 33)
        rig_step(&r, NULL, NULL);
    read = pos < 33 && is_read(&r, &m, 0, 0, 0, pos / 4);
    RIG_OK(&r, r.ops->poison(r.cache, pos, &stored, &e));
    ck_assert(stored == (pos < 33));
    rig_layer(&r, 0, 1);
    ck_assert_msg(rig_has_nan(r.result, 16) == read, "position %llu: NaN", (unsigned long long)pos);
    ck_assert(!rig_has_nan(r.result + 16, 2 * 4 * 8 - 16));
    rig_close(&r);
}
END_TEST

static const struct picks_refusal refusals[] = {
    {{"quest", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {3}, 0}, KVP_ENOTSUP, "not applicable"},
    {{"quest kivi:group=8,residual=8,bits=4", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_ENOTSUP, "quest"},
};
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(refused)
{
    picks_refused(&refusals[_i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("quest");
    TCase *tc = tcase_create("quest");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, same_as_dense, 0, 5 * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, 35 * 4);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    suite_add_tcase(s, tc);
    return picks_main(s);
}
