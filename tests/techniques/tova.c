/* tova.c - the tokens that the newest query cares about, against a slow model that keeps sets of positions
 *
 * The model follows schwartz-lab-NLP/TOVA src/tova_cache.py: after each forward, when more than `cache_size` tokens are
 * there, those with the highest attention of the last query stay, on the mean over the heads, in text order. */
#include "tests/techniques/picks.h"

static const struct {
    struct rig_case c;
    uint64_t budget;
} cases[] = {
    /* a prompt shorter than the budget, of the budget, one more, much more */
    {{"tova:6", KVP_F32, 1, 3, 30, 2, 2, 8, 2, {0}, 0}, 6},
    {{"tova:6", KVP_F32, 2, 6, 30, 4, 2, 8, 2, {0}, 0}, 6},
    {{"tova:6", KVP_F16, 2, 7, 30, 4, 2, 8, 2, {0}, 0}, 6},
    {{"tova:8", KVP_BF16, 2, 40, 60, 6, 3, 16, 2, {0}, 0}, 8},
    {{"tova:1", KVP_F32, 1, 9, 24, 4, 1, 8, 1, {0}, 0}, 1},
    /* never full */
    {{"tova:40", KVP_F32, 1, 6, 20, 4, 4, 8, 1, {0}, 0}, 40},
    /* a layer that sees 9 tokens keeps 9 */
    {{"tova:6", KVP_F32, 2, 20, 40, 4, 2, 8, 3, {0, 9, 0}, 0}, 6},
    {{"tova:6 growing", KVP_F32, 2, 4, 30, 4, 2, 8, 2, {0}, 0}, 6},
    {{"tova:6 contiguous:64", KVP_F32, 2, 12, 30, 4, 2, 8, 2, {0}, 0}, 6},
    {{"tova:6 paged:4", KVP_F16, 2, 4, 30, 4, 2, 8, 2, {0}, 0}, 6},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

struct model {
    uint64_t budget;
    struct picks *set; /* [layers][batch] */
};

static struct picks *set_of(const struct rig *r, struct model *m, uint32_t layer, uint64_t b)
{
    return &m->set[layer * r->c->batch + b];
}

/* Softmax of query t of head h over the tokens of s; the last one is not stored yet, the others may be. */
static void softmax(const struct rig *r, uint32_t layer, uint64_t b, uint64_t t, uint32_t h, const struct picks *s, bool stored, double *p)
{
    const uint32_t g = h / (r->c->heads / r->c->kv_heads);
    double top = -HUGE_VAL, sum = 0;

    for (uint64_t j = 0; j < s->n; j++) {
        p[j] = 0;
        for (uint32_t d = 0; d < r->c->dim; d++) {
            const double k = (double)rig_k(r, layer, b, s->token[j], g)[d];

            p[j] += (double)rig_q(r, layer, b, t, h)[d] * (stored && j + 1 < s->n ? rig_round(k, r->c->format) : k);
        }
        p[j] /= sqrt((double)r->c->dim);
        top = fmax(top, p[j]);
    }
    for (uint64_t j = 0; j < s->n; j++)
        sum += p[j] = exp(p[j] - top);
    for (uint64_t j = 0; j < s->n; j++)
        p[j] /= sum;
}

/* Inputs were chosen so that no choice is closer than what f32 sums can turn round. */
static void drop(struct rig *r, struct picks *s, uint64_t budget, double *weight)
{
    while (s->n > budget) {
        uint64_t low = 0;

        for (uint64_t j = 1; j < s->n; j++)
            low = weight[j] < weight[low] ? j : low;
        for (uint64_t j = 0; j < s->n; j++)
            ck_assert_msg(j == low || weight[j] - weight[low] > 1e-7, "%s: the input ties at token %llu", r->c->stack, (unsigned long long)r->seen);
        s->n--;
        for (uint64_t j = low; j < s->n; j++) {
            s->token[j] = s->token[j + 1];
            weight[j] = weight[j + 1];
        }
    }
}

static void check_out(struct rig *r, uint32_t layer, uint64_t b, uint32_t h, const struct picks *s, const double *p)
{
    const uint32_t g = h / (r->c->heads / r->c->kv_heads);
    double out[64] = {0};

    for (uint64_t j = 0; j < s->n; j++)
        for (uint32_t d = 0; d < r->c->dim; d++) {
            const double v = (double)rig_v(r, layer, b, s->token[j], g)[d];

            out[d] += p[j] * (j + 1 < s->n ? rig_round(v, r->c->format) : v);
        }
    rig_same(r, rig_out(r, b, 0, 1, h), out, "attention over the kept set", r->seen);
}

static void take(struct rig *r, struct model *m, uint32_t layer, uint64_t b, uint64_t tokens)
{
    struct picks *s = set_of(r, m, layer, b);
    double p[PICKS_MOST], weight[PICKS_MOST] = {0};

    if (!r->seen)
        *s = (struct picks){0};
    for (uint64_t t = r->seen; t < r->seen + tokens; t++)
        s->token[s->n++] = t;
    for (uint32_t h = 0; h < r->c->heads; h++) {
        softmax(r, layer, b, r->seen + tokens - 1, h, s, r->seen > 0, p);
        for (uint64_t j = 0; j < s->n; j++)
            weight[j] += p[j] / r->c->heads;
        if (r->seen)
            check_out(r, layer, b, h, s, p);
    }
    drop(r, s, m->budget, weight);
}

static void check_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    const uint64_t seen = r->seen + tokens, w = r->c->window[layer];
    struct model *m = arg;

    for (uint64_t b = 0; b < r->c->batch; b++) {
        struct picks *s = set_of(r, m, layer, b);

        if (!w) {
            take(r, m, layer, b, tokens);
            continue;
        }
        *s = (struct picks){0};
        for (uint64_t t = seen < w ? 0 : seen - w; t < seen; t++)
            s->token[s->n++] = t;
    }
}

/* One line for each layer and sequence: all heads keep the same. */
static void same_sets(struct rig *r, struct model *m)
{
    json_t *lines = rig_dump(r, r->ops->dump_kept), *line;
    size_t i;

    ck_assert_uint_eq(json_array_size(lines), r->c->layers * r->c->batch);
    json_array_foreach(lines, i, line) {
        const struct picks *s = set_of(r, m, (uint32_t)rig_int(line, "layer"), (uint64_t)rig_int(line, "batch"));
        const json_t *pos = json_object_get(line, "positions");

        ck_assert_int_eq(rig_int(line, "head"), -1);
        ck_assert_uint_eq(json_array_size(pos), s->n);
        for (size_t j = 0; j < s->n; j++)
            ck_assert_msg((uint64_t)json_integer_value(json_array_get(pos, j)) == s->token[j],
                          "%s on %s after %llu tokens, line %zu: position %zu is %lld, expected %llu", r->c->stack, r->be->name,
                          (unsigned long long)r->seen, i, j, (long long)json_integer_value(json_array_get(pos, j)),
                          (unsigned long long)s->token[j]);
    }
    json_decref(lines);
}

START_TEST(every_step)
{
    const struct rig_case *c = &cases[_i / RIG_BACKENDS].c;
    struct model m = {cases[_i / RIG_BACKENDS].budget, rig_zalloc(c->layers * c->batch, sizeof(struct picks))};
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
    static const char *const stacks[] = {"tova:6", "tova:6 growing", "tova:6 contiguous:64", "tova:6 paged:8"};
    static const struct rig_case c = {NULL, KVP_F16, 2, 12, 30, 4, 2, 8, 2, {0}, 0};

    rig_same_run(&c, stacks[0], stacks[_i / RIG_BACKENDS], rig_backends[_i % RIG_BACKENDS], 1e-6f);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
    uint64_t workspace;
} sizes[] = {
    /* 6 slots of 2 * 2 layers * 2 sequences * 2 kv heads * 8 * 4 = 512 bytes; index 2 * 6 * 4 = 48, probabilities of the
       prompt 2 * 4 * 12 * 4 = 384 */
    {{"tova:6", KVP_F32, 2, 12, 20, 4, 2, 8, 2, {0}, 0}, {3072, 0, 3072}, 432},
    /* a run of 5 tokens: 5 slots; index 40, probabilities of 6: 192 */
    {{"tova:6", KVP_F32, 2, 3, 5, 4, 2, 8, 2, {0}, 0}, {2560, 0, 2560}, 232},
    {{"tova:6 contiguous:64", KVP_F32, 2, 3, 5, 4, 2, 8, 2, {0}, 0}, {3072, 0, 3072}, 232},
    {{"tova:6 paged:4", KVP_F32, 2, 12, 20, 4, 2, 8, 2, {0}, 0}, {4096, 16, 4112}, 432},
    /* the last V on its way from 5 to 6: 5 slots of 128 more */
    {{"tova:6 growing", KVP_F32, 2, 3, 20, 4, 2, 8, 2, {0}, 0}, {3072, 0, 3712}, 272},
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

/* A poisoned row is read once; what it does to the choice that follows is not asked here. */
START_TEST(poison)
{
    static const struct rig_case c[] = {{"tova:6", KVP_F32, 2, 9, 20, 4, 2, 8, 2, {0}, 0},
                                        {"tova:6 paged:4", KVP_F16, 2, 9, 20, 4, 2, 8, 2, {0}, 0}};
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
    {{"tova:6", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {3}, 0}, KVP_ENOTSUP, "not applicable"},
    {{"tova:6 kivi:group=8,residual=8,bits=4", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_ENOTSUP, "tova"},
};
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(refused)
{
    picks_refused(&refusals[_i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tova");
    TCase *tc = tcase_create("tova");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, same_bits, 0, 4 * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, 18 * 4);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    suite_add_tcase(s, tc);
    return picks_main(s);
}
