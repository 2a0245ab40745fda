/* h2o.c - heavy hitters against a slow model that keeps sets of positions, not slots
 *
 * The model follows FMInference/H2O h2o_hf/utils_real_drop (H2OKVCache_LayerWise): after every forward
 * the column sums of the attention are added to the scores of what is kept; when more than
 * heavy + recent are left, the `heavy` best of all but the last `recent` stay, in text order, and those
 * last ones. Here one sum for each kv head, over the query heads of its group. */
#include "tests/techniques/rig.h"

static const struct {
    struct rig_case c;
    uint64_t heavy, recent; /* by hand */
    enum kvp_format score;
} cases[] = {
    /* the prompt leaves room, so slots fill first: 4 < 3 + 4 */
    {{"h2o:heavy=3,recent=4", KVP_F32, 1, 4, 24, 2, 2, 8, 2, {0}, 0}, 3, 4, KVP_F32},
    /* shorter than `heavy`, exactly the budget, one more than it, much more */
    {{"h2o:heavy=6,recent=2", KVP_F32, 2, 1, 20, 4, 2, 8, 1, {0}, 0}, 6, 2, KVP_F32},
    {{"h2o:heavy=3,recent=4", KVP_F16, 2, 7, 20, 4, 2, 8, 2, {0}, 0}, 3, 4, KVP_F32},
    {{"h2o:heavy=3,recent=4", KVP_F32, 2, 8, 26, 4, 1, 8, 2, {0}, 0}, 3, 4, KVP_F32},
    {{"h2o:heavy=5,recent=3", KVP_BF16, 2, 29, 60, 6, 3, 16, 2, {0}, 0}, 5, 3, KVP_F32},
    {{"h2o:heavy=1,recent=1", KVP_F32, 1, 9, 24, 2, 1, 8, 1, {0}, 0}, 1, 1, KVP_F32},
    /* never full */
    {{"h2o:heavy=20,recent=20", KVP_F32, 1, 6, 14, 2, 2, 8, 1, {0}, 0}, 20, 20, KVP_F32},
    /* scores in f16; a prompt of 40 with the default ratios is int(0.1 * 40) = 4 and 4 */
    {{"h2o:heavy=3,recent=4,score_dtype=f16", KVP_F32, 2, 12, 40, 4, 2, 8, 2, {0}, 0}, 3, 4, KVP_F16},
    {{"h2o", KVP_F32, 1, 40, 60, 4, 2, 8, 2, {0}, 0}, 4, 4, KVP_F32},
    /* int(0.25 * 18) = int(4.5) = 4, int(0.17 * 18) = int(3.06) = 3; a layer window that never closes */
    {{"h2o:heavy_ratio=0.25,recent_ratio=0.17", KVP_F32, 1, 18, 34, 4, 2, 8, 2, {34, 0}, 0}, 4, 3, KVP_F32},
    /* the stores hold the same rows */
    {{"h2o:heavy=3,recent=4 growing", KVP_F32, 2, 5, 20, 4, 2, 8, 2, {0}, 0}, 3, 4, KVP_F32},
    {{"h2o:heavy=3,recent=4 contiguous:64", KVP_F32, 2, 9, 20, 4, 2, 8, 2, {0}, 0}, 3, 4, KVP_F32},
    {{"h2o:heavy=3,recent=4 paged:2", KVP_F16, 2, 5, 24, 4, 2, 8, 2, {0}, 0}, 3, 4, KVP_F32},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

/* What one kv head keeps, in text order. */
struct set {
    uint64_t n, token[64];
    double score[64];
};

struct model {
    uint64_t heavy, recent;
    enum kvp_format score;
    struct set *set; /* [layers][batch][kv_heads] */
};

static struct set *set_of(const struct rig *r, struct model *m, uint32_t layer, uint64_t b, uint32_t g)
{
    return &m->set[(layer * r->c->batch + b) * r->c->kv_heads + g];
}

/* Drop the lowest of all but the last `recent`, until `heavy` of those are left. Inputs were chosen so that
 * no choice is closer than what f32 sums can turn round. */
static void drop(struct rig *r, struct set *s, const struct model *m)
{
    const double margin = m->score == KVP_F16 ? 1e-4 : 1e-5;

    while (s->n > m->heavy + m->recent) {
        uint64_t low = 0;

        for (uint64_t j = 1; j < s->n - m->recent; j++)
            low = s->score[j] < s->score[low] ? j : low;
        for (uint64_t j = 0; j < s->n - m->recent; j++)
            ck_assert_msg(j == low || s->score[j] - s->score[low] > margin, "%s: the input ties at token %llu", r->c->stack,
                          (unsigned long long)r->seen);
        for (uint64_t j = low; j + 1 < s->n; j++) {
            s->token[j] = s->token[j + 1];
            s->score[j] = s->score[j + 1];
        }
        s->n--;
    }
}

/* Softmax of query t of head h over the n given tokens; stored rows are rounded, the last may not be. */
static void probabilities(const struct rig *r, uint32_t layer, uint64_t b, uint64_t t, uint32_t h, const uint64_t *token,
                          uint64_t n, bool stored, double *p)
{
    const struct rig_case *c = r->c;
    const uint32_t g = h / (c->heads / c->kv_heads);
    double top = -HUGE_VAL, sum = 0;

    for (uint64_t j = 0; j < n; j++) {
        p[j] = 0;
        for (uint32_t d = 0; d < c->dim; d++) {
            const double k = (double)rig_k(r, layer, b, token[j], g)[d];

            p[j] += (double)rig_q(r, layer, b, t, h)[d] * (stored && j + 1 < n ? rig_round(k, c->format) : k);
        }
        p[j] /= sqrt((double)c->dim);
        top = fmax(top, p[j]);
    }
    for (uint64_t j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - top);
    for (uint64_t j = 0; j < n; j++)
        p[j] /= sum;
}

static void check_prompt(struct rig *r, struct model *m, uint32_t layer, uint64_t b, uint32_t g)
{
    const uint32_t group = r->c->heads / r->c->kv_heads;
    struct set *s = set_of(r, m, layer, b, g);
    double p[64];

    *s = (struct set){.n = r->c->prompt};
    for (uint64_t t = 0; t < s->n; t++)
        s->token[t] = t;
    for (uint32_t h = g * group; h < (g + 1) * group; h++)
        for (uint64_t t = 0; t < s->n; t++) {
            probabilities(r, layer, b, t, h, s->token, t + 1, false, p);
            for (uint64_t j = 0; j <= t; j++)
                s->score[j] += p[j];
        }
    drop(r, s, m);
    for (uint64_t j = 0; j < s->n; j++)
        s->score[j] = rig_round(s->score[j], m->score);
}

static void check_token(struct rig *r, struct model *m, uint32_t layer, uint64_t b, uint32_t g)
{
    const struct rig_case *c = r->c;
    const uint32_t group = c->heads / c->kv_heads;
    struct set *s = set_of(r, m, layer, b, g);
    double p[64], add[64] = {0}, out[64];

    s->token[s->n] = r->seen;
    s->score[s->n++] = 0;
    for (uint32_t h = g * group; h < (g + 1) * group; h++) {
        probabilities(r, layer, b, r->seen, h, s->token, s->n, true, p);
        memset(out, 0, sizeof(out));
        for (uint64_t j = 0; j < s->n; j++) {
            add[j] += p[j];
            for (uint32_t d = 0; d < c->dim; d++) {
                const double v = (double)rig_v(r, layer, b, s->token[j], g)[d];

                out[d] += p[j] * (j + 1 < s->n ? rig_round(v, c->format) : v);
            }
        }
        rig_same(r, rig_out(r, b, 0, 1, h), out, "attention over the kept set", r->seen);
    }
    for (uint64_t j = 0; j < s->n; j++)
        s->score[j] = rig_round(s->score[j] + add[j], m->score);
    drop(r, s, m);
}

static void check_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    (void)tokens;
    for (uint64_t b = 0; b < r->c->batch; b++)
        for (uint32_t g = 0; g < r->c->kv_heads; g++)
            (r->seen ? check_token : check_prompt)(r, arg, layer, b, g);
}

/* dump_kept has one line for each layer, sequence and kv head. */
static void same_sets(struct rig *r, struct model *m)
{
    json_t *lines = rig_dump(r, r->ops->dump_kept), *line;
    size_t i;

    ck_assert_uint_eq(json_array_size(lines), r->c->layers * r->c->batch * r->c->kv_heads);
    json_array_foreach(lines, i, line) {
        const struct set *s = &m->set[i];
        const json_t *pos = json_object_get(line, "positions");

        ck_assert_int_eq(((rig_int(line, "layer") * (int64_t)r->c->batch + rig_int(line, "batch")) * r->c->kv_heads) +
                             rig_int(line, "head"), (int64_t)i);
        ck_assert_uint_eq(json_array_size(pos), s->n);
        for (size_t j = 0; j < s->n; j++)
            ck_assert_msg((uint64_t)json_integer_value(json_array_get(pos, j)) == s->token[j],
                          "%s on %s after %llu tokens, line %zu: position %zu is %lld, expected %llu", r->c->stack,
                          r->be->name, (unsigned long long)r->seen, i, j,
                          (long long)json_integer_value(json_array_get(pos, j)), (unsigned long long)s->token[j]);
    }
    json_decref(lines);
}

/* Scores and rows by slot; `position` names the token. An f16 score may differ by one spacing (2^-7 below 16)
 * where the f32 sum falls on the other side of a rounding boundary than the double one. */
static void same_slots(struct rig *r, struct model *m, uint32_t layer)
{
    const struct rig_case *c = r->c;
    const uint64_t n = m->set[0].n, dim = c->dim, shape[] = {c->batch, c->kv_heads, n, 1};
    json_t *lines = rig_dump(r, r->ops->dump_cache);
    const json_t *pos = rig_tensor(r, lines, layer, "position", KVP_I32, shape);
    const json_t *score = rig_tensor(r, lines, layer, "score", m->score, shape);
    const json_t *k = rig_tensor(r, lines, layer, "k", c->format, (const uint64_t[]){c->batch, c->kv_heads, n, dim});
    const json_t *v = rig_tensor(r, lines, layer, "v", c->format, (const uint64_t[]){c->batch, c->kv_heads, n, dim});

    for (size_t i = 0; i < c->batch * c->kv_heads * n; i++) {
        const uint64_t token = (uint64_t)json_integer_value(json_array_get(pos, i)), bh = i / n;
        const struct set *s = &m->set[layer * c->batch * c->kv_heads + bh];
        uint64_t j = 0;

        while (j < n && s->token[j] != token)
            j++;
        ck_assert_uint_lt(j, n);
        ck_assert_double_eq_tol((double)rig_number(score, i), s->score[j], m->score == KVP_F16 ? 0.008 : 2e-5);
        for (size_t d = 0; d < dim; d++) {
            const uint64_t b = bh / c->kv_heads;
            const uint32_t g = (uint32_t)(bh % c->kv_heads);

            ck_assert(rig_number(k, i * dim + d) == (float)rig_round((double)rig_k(r, layer, b, token, g)[d], c->format));
            ck_assert(rig_number(v, i * dim + d) == (float)rig_round((double)rig_v(r, layer, b, token, g)[d], c->format));
        }
    }
    json_decref(lines);
}

START_TEST(every_step)
{
    const struct rig_case *c = &cases[_i / RIG_BACKENDS].c;
    struct model m = {cases[_i / RIG_BACKENDS].heavy, cases[_i / RIG_BACKENDS].recent, cases[_i / RIG_BACKENDS].score,
                      rig_zalloc(c->layers * c->batch * c->kv_heads, sizeof(struct set))};
    struct rig r;

    rig_open(&r, c, rig_backends[_i % RIG_BACKENDS], true);
    while (r.seen < c->context) {
        rig_step(&r, check_layer, &m);
        same_sets(&r, &m);
    }
    for (uint32_t l = 0; l < c->layers; l++)
        same_slots(&r, &m, l);
    rig_close(&r);
    free(m.set);
}
END_TEST

/* Tracing, stores and a second run change no bit of what comes out. */
START_TEST(same_bits)
{
    static const char *const stacks[] = {"h2o:heavy=3,recent=4", "h2o:heavy=3,recent=4 growing",
                                         "h2o:heavy=3,recent=4 contiguous:64", "h2o:heavy=3,recent=4 paged:4"};
    struct rig_case c = {stacks[0], KVP_F16, 2, 5, 20, 4, 2, 8, 2, {0}, 0};
    const uint64_t n = c.batch * c.heads * c.dim;
    float *first = rig_zalloc(n, sizeof(*first));
    struct rig r;

    rig_open(&r, &c, rig_backends[_i % RIG_BACKENDS], true);
    rig_all(&r, NULL, NULL);
    memcpy(first, r.result, n * sizeof(*first));
    rig_close(&r);
    c.stack = stacks[_i / RIG_BACKENDS];
    rig_open(&r, &c, rig_backends[_i % RIG_BACKENDS], false);
    for (int again = 0; again < 2; again++) {
        rig_all(&r, NULL, NULL);
        ck_assert_mem_eq(first, r.result, n * sizeof(*first));
        rig_reset(&r);
    }
    rig_close(&r);
    free(first);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
} sizes[] = {
    /* 7 slots: 2 tensors * 2 layers * 2 sequences * 2 kv heads * 7 * 8 * 4 bytes = 3584; scores
       2 layers * 2 * 2 * 7 * 4 = 224, and half of that in f16 */
    {{"h2o:heavy=3,recent=4", KVP_F32, 2, 5, 12, 4, 2, 8, 2, {0}, 0}, {3584, 224, 3808}},
    {{"h2o:heavy=3,recent=4,score_dtype=f16", KVP_F32, 2, 5, 12, 4, 2, 8, 2, {0}, 0}, {3584, 112, 3696}},
    /* a run of 6 tokens needs 6 slots: 3072 and 192; a strip for any run has its 7 */
    {{"h2o:heavy=3,recent=4", KVP_F32, 2, 5, 6, 4, 2, 8, 2, {0}, 0}, {3072, 192, 3264}},
    {{"h2o:heavy=3,recent=4 contiguous:64", KVP_F32, 2, 5, 6, 4, 2, 8, 2, {0}, 0}, {3584, 224, 3808}},
    /* pages of 4: 2 pages, 8 slots: 4096; scores as they were, one table of 2 * 2 * 4 = 16 bytes */
    {{"h2o:heavy=3,recent=4 paged:4", KVP_F32, 2, 5, 12, 4, 2, 8, 2, {0}, 0}, {4096, 240, 4336}},
    /* A slot is 2 * 2 * 8 * 4 = 128 bytes in K or V and 16 in the scores. The highest moment is layer 1's
       V on its way from 6 to 7: all is there but V's and the score's 7th slot, and the new V beside it:
       3808 - 128 - 16 + 7 * 128 = 4560 */
    {{"h2o:heavy=3,recent=4 growing", KVP_F32, 2, 5, 12, 4, 2, 8, 2, {0}, 0}, {3584, 224, 4560}},
};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

/* Workspace, the same in all of these: scores of the prompt 2 * 2 * 5 * 4 = 80, at most 2 * 2 * 7 * 4 = 112
 * of index and 2 * 4 heads * (7 + 1) * 4 = 256 of probabilities, 448 in all. */
START_TEST(bytes)
{
    struct rig r;

    rig_open(&r, &sizes[_i].c, "ref", false);
    for (int again = 0; again < 2; again++) {
        rig_all(&r, NULL, NULL);
        rig_check_bytes(&r, &sizes[_i].bytes);
        ck_assert_uint_le(r.led.peak[LED_WORKSPACE], 448);
        rig_reset(&r);
    }
    rig_close(&r);
}
END_TEST

/* 16 tokens seen with 7 slots in each head: positions 0..8 may or may not be there, 12..15 are. The oldest
 * recent row is evicted or moved only after the step's attention, so each stored row is still read. */
START_TEST(poison)
{
    static const struct rig_case c[] = {{"h2o:heavy=3,recent=4", KVP_F32, 2, 9, 20, 4, 2, 8, 2, {0}, 0},
                                        {"h2o:heavy=3,recent=4 paged:4", KVP_F16, 2, 9, 20, 4, 2, 8, 2, {0}, 0}};
    const uint64_t pos = (uint64_t)_i / 4;
    bool kept = false;
    json_t *lines;
    struct rig r;

    rig_open(&r, &c[_i % 2], rig_backends[_i / 2 % 2], true);
    while (r.seen < 16)
        rig_step(&r, NULL, NULL);
    lines = rig_dump(&r, r.ops->dump_kept);
    for (size_t j = 0; j < 7; j++)
        kept = kept || (uint64_t)json_integer_value(
                           json_array_get(json_object_get(json_array_get(lines, 0), "positions"), j)) == pos;
    ck_assert(pos < 12 || kept);
    json_decref(lines);
    rig_poison_step(&r, pos, kept);
    rig_close(&r);
}
END_TEST

/* Slots that no token has reached yet: 6 of 7, after a prompt of 5 and a step. */
START_TEST(poison_unused)
{
    static const struct rig_case c = {"h2o:heavy=3,recent=4 contiguous:64", KVP_F32, 2, 5, 12, 4, 2, 8, 2, {0}, 0};
    struct rig r;

    rig_open(&r, &c, rig_backends[_i], true);
    rig_step(&r, NULL, NULL);
    rig_step(&r, NULL, NULL);
    rig_poison_step(&r, 30, false);
    rig_close(&r);
}
END_TEST

static const struct {
    struct rig_case c;
    kvp_err err;
    const char *says;
} refusals[] = {
    /* int(0.1 * 9) = 0 */
    {{"h2o", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "heavy"},
    {{"h2o:heavy=4", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "recent"},
    {{"h2o:heavy=4,recent=4", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {0, 19}, 0}, KVP_ENOTSUP, "19"},
    {{"h2o:heavy=4,recent=4 kivi:group=8,residual=8,bits=4", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_ENOTSUP, "h2o"},
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

/* Both ways of giving a budget; the parser may refuse it too, so the spec is built by hand. */
START_TEST(both_budgets)
{
    static const struct rig_case c = {"h2o:heavy=4,recent=4", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0};
    struct kvp_error e = {0};
    struct rig r;

    rig_prepare(&r, &c, "ref", false);
    for (uint32_t i = 0; i < r.stack.spec[0].n_params; i++)
        r.stack.spec[0].params[i].given = true;
    ck_assert_int_eq(r.ops->open(&r.cache, &r.env, &e), KVP_EINPUT);
    ck_assert_ptr_nonnull(strstr(e.text, "heavy_ratio"));
    rig_close(&r);
}
END_TEST

/* Without a trace nobody knows which token a slot holds. */
START_TEST(untraced)
{
    static const struct rig_case c = {"h2o:heavy=4,recent=4", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0};
    struct kvp_error e = {0};
    bool stored;
    struct rig r;

    rig_open(&r, &c, "ref", false);
    rig_step(&r, NULL, NULL);
    ck_assert_int_eq(r.ops->dump_kept(r.cache, stdout, &e), KVP_ENOTSUP);
    ck_assert_int_eq(r.ops->poison(r.cache, 0, &stored, &e), KVP_ENOTSUP);
    rig_close(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("h2o");
    TCase *tc = tcase_create("h2o");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, same_bits, 0, 4 * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, 16 * 4);
    tcase_add_loop_test(tc, poison_unused, 0, RIG_BACKENDS);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    tcase_add_test(tc, both_budgets);
    tcase_add_test(tc, untraced);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
