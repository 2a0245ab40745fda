/* h2o_flexgen.c - FlexGen's heavy hitters against a slow model that keeps a list of tokens
 *
 * The model follows FMInference/H2O h2o_flexgen/flexgen/pytorch_backend.py with hh_all, k = `heavy`: _heavy_hitter_pruning
 * leaves the k tokens of all but the last k - 1 with the largest column sums, and those last ones; mha_gen attends to them
 * and the new token and adds its row to acc; cache_replace and acc_replace put the oldest recent token in the place of the
 * lightest heavy one, and the new token in the place of that. Here one sum for each kv head, and a prompt of fewer than
 * 2k - 1 tokens fills up first. */
#include "tests/techniques/picks.h"

static const struct {
    struct rig_case c;
    uint64_t heavy; /* by hand */
    enum kvp_format score;
} cases[] = {
    {{"h2o:variant=flexgen,heavy=4", KVP_F32, 1, 20, 40, 2, 2, 8, 2, {0}, 0}, 4, KVP_F32},
    {{"h2o:variant=flexgen,heavy=2", KVP_F32, 2, 9, 30, 4, 2, 8, 2, {0}, 0}, 2, KVP_F32},
    /* a prompt of one slot less than there are, of fewer, of one more; never full */
    {{"h2o:variant=flexgen,heavy=4", KVP_F16, 2, 7, 30, 4, 2, 8, 2, {0}, 0}, 4, KVP_F32},
    {{"h2o:variant=flexgen,heavy=5", KVP_F32, 1, 3, 30, 6, 3, 16, 1, {0}, 0}, 5, KVP_F32},
    {{"h2o:variant=flexgen,heavy=4", KVP_BF16, 1, 8, 30, 4, 1, 8, 1, {0}, 0}, 4, KVP_F32},
    {{"h2o:variant=flexgen,heavy=30", KVP_F32, 1, 8, 20, 4, 2, 8, 1, {0}, 0}, 30, KVP_F32},
    /* int(0.1 * 40) = 4 */
    {{"h2o:variant=flexgen,score_dtype=f16", KVP_F32, 1, 40, 60, 4, 2, 8, 2, {0}, 0}, 4, KVP_F16},
    {{"h2o:variant=flexgen,heavy=4 growing", KVP_F32, 2, 5, 30, 4, 2, 8, 2, {0}, 0}, 4, KVP_F32},
    {{"h2o:variant=flexgen,heavy=4 contiguous:64", KVP_F32, 2, 20, 30, 4, 2, 8, 2, {0}, 0}, 4, KVP_F32},
    {{"h2o:variant=flexgen,heavy=4 paged:3", KVP_F16, 2, 5, 30, 4, 2, 8, 2, {0}, 0}, 4, KVP_F32},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

/* The heavy ones first, then the recent ones as they came. */
struct set {
    uint64_t n, token[PICKS_MOST];
    double score[PICKS_MOST];
};

struct model {
    uint64_t heavy;
    enum kvp_format score;
    struct set *set; /* [layers][batch][kv_heads] */
};

static struct set *set_of(const struct rig *r, const struct model *m, uint32_t layer, uint64_t b, uint32_t g)
{
    return &m->set[(layer * r->c->batch + b) * r->c->kv_heads + g];
}

static void leave(struct set *s, uint64_t i)
{
    for (s->n--; i < s->n; i++) {
        s->token[i] = s->token[i + 1];
        s->score[i] = s->score[i + 1];
    }
}

/* The lowest of the first n; inputs were chosen so that no choice is closer than what f32 (f16) sums can turn round. */
static uint64_t lowest(const struct rig *r, const struct model *m, const struct set *s, uint64_t n)
{
    uint64_t low = 0;

    for (uint64_t j = 1; j < n; j++)
        low = s->score[j] < s->score[low] ? j : low;
    for (uint64_t j = 0; j < n; j++)
        ck_assert_msg(j == low || s->score[j] - s->score[low] > (m->score == KVP_F16 ? 1e-4 : 1e-5), "%s: the input ties at token %llu", r->c->stack,
                      (unsigned long long)r->seen);
    return low;
}

static void take_prompt(struct rig *r, const struct model *m, uint32_t layer, uint64_t b, uint32_t g)
{
    const uint32_t group = r->c->heads / r->c->kv_heads;
    struct set *s = set_of(r, m, layer, b, g);
    double p[PICKS_MOST];

    *s = (struct set){.n = r->c->prompt};
    for (uint64_t t = 0; t < s->n; t++)
        s->token[t] = t;
    for (uint32_t h = g * group; h < (g + 1) * group; h++)
        for (uint64_t t = 0; t < s->n; t++) {
            picks_softmax(r, layer, b, t, h, p);
            for (uint64_t j = 0; j <= t; j++)
                s->score[j] += p[j];
        }
    while (s->n > 2 * m->heavy - 1)
        leave(s, lowest(r, m, s, s->n - (m->heavy - 1)));
    for (uint64_t j = 0; j < s->n; j++)
        s->score[j] = rig_round(s->score[j], m->score);
}

/* Softmax of the new query over the set, all of it stored. */
static void softmax(const struct rig *r, uint32_t layer, uint64_t b, uint32_t h, const struct set *s, double *p)
{
    const uint32_t g = h / (r->c->heads / r->c->kv_heads);
    double sum = 0;

    for (uint64_t j = 0; j < s->n; j++) {
        p[j] = 0;
        for (uint32_t d = 0; d < r->c->dim; d++)
            p[j] += (double)rig_q(r, layer, b, r->seen, h)[d] * rig_round((double)rig_k(r, layer, b, s->token[j], g)[d], r->c->format);
        sum += p[j] = exp(p[j] / sqrt((double)r->c->dim));
    }
    for (uint64_t j = 0; j < s->n; j++)
        p[j] /= sum;
}

static void take_token(struct rig *r, const struct model *m, uint32_t layer, uint64_t b, uint32_t g)
{
    const uint32_t group = r->c->heads / r->c->kv_heads;
    const bool full = set_of(r, m, layer, b, g)->n == 2 * m->heavy - 1;
    struct set *s = set_of(r, m, layer, b, g);
    double p[PICKS_MOST], add[PICKS_MOST] = {0}, out[64];
    struct picks seen = {0};

    s->token[s->n] = r->seen;
    s->score[s->n++] = 0;
    memcpy(seen.token, s->token, s->n * sizeof(*s->token));
    seen.n = s->n;
    for (uint32_t h = g * group; h < (g + 1) * group; h++) {
        softmax(r, layer, b, h, s, p);
        for (uint64_t j = 0; j < s->n; j++)
            add[j] += p[j];
        picks_attend(r, &seen, layer, b, h, out);
        rig_same(r, rig_out(r, b, 0, 1, h), out, "attention over the kept set", r->seen);
    }
    for (uint64_t j = 0; j < s->n; j++)
        s->score[j] = rig_round(s->score[j] + add[j], m->score);
    if (full) { /* the oldest recent one follows the heavy ones in the list, so losing one of those makes it heavy */
        const uint64_t low = lowest(r, m, s, m->heavy);
        const uint64_t token = s->token[m->heavy];
        const double score = s->score[m->heavy];

        leave(s, m->heavy);
        s->token[low] = token;
        s->score[low] = score;
    }
}

static void check_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    (void)tokens;
    for (uint64_t b = 0; b < r->c->batch; b++)
        for (uint32_t g = 0; g < r->c->kv_heads; g++)
            (r->seen ? take_token : take_prompt)(r, arg, layer, b, g);
}

static bool has(const struct set *s, uint64_t token)
{
    bool found = false;

    for (uint64_t j = 0; j < s->n; j++)
        found = found || s->token[j] == token;
    return found;
}

static void same_sets(struct rig *r, const struct model *m)
{
    json_t *lines = rig_dump(r, r->ops->dump_kept), *line, *x;
    size_t i, j;

    ck_assert_uint_eq(json_array_size(lines), r->c->layers * r->c->batch * r->c->kv_heads);
    json_array_foreach(lines, i, line) {
        const struct set *s = set_of(r, m, (uint32_t)rig_int(line, "layer"), (uint64_t)rig_int(line, "batch"), (uint32_t)rig_int(line, "head"));
        const json_t *pos = json_object_get(line, "positions");

        ck_assert_uint_eq(json_array_size(pos), s->n);
        json_array_foreach(pos, j, x)
            ck_assert_msg(has(s, (uint64_t)json_integer_value(x)), "%s on %s after %llu tokens, line %zu keeps %lld", r->c->stack, r->be->name,
                          (unsigned long long)r->seen, i, (long long)json_integer_value(x));
    }
    json_decref(lines);
}

START_TEST(every_step)
{
    const struct rig_case *c = &cases[_i / RIG_BACKENDS].c;
    struct model m = {cases[_i / RIG_BACKENDS].heavy, cases[_i / RIG_BACKENDS].score, rig_zalloc(c->layers * c->batch * c->kv_heads, sizeof(struct set))};
    struct rig r;

    rig_open(&r, c, rig_backends[_i % RIG_BACKENDS], true);
    for (int again = 0; again < 2; again++) {
        while (r.seen < c->context) {
            rig_step(&r, check_layer, &m);
            same_sets(&r, &m);
        }
        rig_reset(&r);
    }
    rig_close(&r);
    free(m.set);
}
END_TEST

START_TEST(same_bits)
{
    static const char *const stacks[] = {"h2o:variant=flexgen,heavy=4", "h2o:variant=flexgen,heavy=4 growing", "h2o:variant=flexgen,heavy=4 contiguous:64",
                                         "h2o:variant=flexgen,heavy=4 paged:8"};
    static const struct rig_case c = {NULL, KVP_F16, 2, 5, 30, 4, 2, 8, 2, {0}, 0};

    rig_same_run(&c, stacks[0], stacks[_i / RIG_BACKENDS], rig_backends[_i % RIG_BACKENDS], 1e-6f);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
} sizes[] = {
    /* 8 slots of 2 * 2 layers * 2 sequences * 2 kv heads * 8 * 4 = 512 bytes, scores 2 * 2 * 2 * 8 * 4 = 256, and half that in f16;
       the same for a run of 6 tokens */
    {{"h2o:variant=flexgen,heavy=4", KVP_F32, 2, 9, 20, 4, 2, 8, 2, {0}, 0}, {4096, 256, 4352}},
    {{"h2o:variant=flexgen,heavy=4,score_dtype=f16", KVP_F32, 2, 9, 20, 4, 2, 8, 2, {0}, 0}, {4096, 128, 4224}},
    {{"h2o:variant=flexgen,heavy=4", KVP_F32, 2, 3, 6, 4, 2, 8, 2, {0}, 0}, {4096, 256, 4352}},
    {{"h2o:variant=flexgen,heavy=4 contiguous:64", KVP_F32, 2, 3, 6, 4, 2, 8, 2, {0}, 0}, {4096, 256, 4352}},
    /* 2 pages of 3 for 6 tokens, a table of 2 * 2 * 4; the scores are there */
    {{"h2o:variant=flexgen,heavy=4 paged:3", KVP_F32, 2, 3, 6, 4, 2, 8, 2, {0}, 0}, {3072, 272, 3344}},
    {{"h2o:variant=flexgen,heavy=4 growing", KVP_F32, 2, 3, 6, 4, 2, 8, 2, {0}, 0}, {3072, 192, 3888}},
};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    struct rig r;

    rig_open(&r, &sizes[_i].c, "ref", false);
    for (int again = 0; again < 2; again++) {
        rig_all(&r, NULL, NULL);
        rig_check_bytes(&r, &sizes[_i].bytes);
        rig_reset(&r);
    }
    rig_close(&r);
}
END_TEST

/* 16 tokens seen with 7 slots taken in each head; the free slot is overwritten before anybody reads it. */
START_TEST(poison)
{
    static const struct rig_case c[] = {{"h2o:variant=flexgen,heavy=4", KVP_F32, 2, 9, 20, 4, 2, 8, 2, {0}, 0},
                                        {"h2o:variant=flexgen,heavy=4 paged:4", KVP_F16, 2, 9, 20, 4, 2, 8, 2, {0}, 0}};
    const uint64_t pos = (uint64_t)_i / 4;
    struct rig r;

    rig_open(&r, &c[_i % 2], rig_backends[_i / 2 % 2], true);
    while (r.seen < 16)
        rig_step(&r, NULL, NULL);
    rig_poison_step(&r, pos, picks_keeps(&r, pos));
    rig_close(&r);
}
END_TEST

static const struct picks_refusal refusals[] = {
    {{"h2o:variant=flexgen,heavy=1", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "at least 2"},
    {{"h2o:variant=flexgen,heavy=4,recent=4", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "as many recent"},
    {{"h2o:variant=flexgen,heavy=4", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {0, 19}, 0}, KVP_ENOTSUP, "19"},
    {{"h2o:variant=mask,heavy=4,recent=4", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_ENOTSUP, "variant=mask"},
};
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(refused)
{
    picks_refused(&refusals[_i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("h2o_flexgen");
    TCase *tc = tcase_create("h2o_flexgen");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, same_bits, 0, 4 * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, 18 * 4);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    suite_add_tcase(s, tc);
    return picks_main(s);
}
