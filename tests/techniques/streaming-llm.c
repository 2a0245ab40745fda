/* streaming-llm.c - sinks and the newest tokens, turned by their place in the cache, against a slow model
 *
 * The model follows mit-han-lab/streaming-llm: StartRecentKVCache keeps [0, start_size) and the last recent_size of
 * what is cached, in text order; pos_shift/modify_llama.py turns key j of the n cached ones by j and the query by
 * n - 1. Here the newest token's row is among the sink + recent slots, as evict_for_space(1) before a step leaves it.
 * The other variants keep int(P * (1 - ratio)) (kvpress) or min(P, sink + recent) (factory) tokens of the prompt, the
 * first `sink` and the newest, with the rotation that they have, and then all that are generated. */
#include "tests/techniques/picks.h"

static const struct {
    struct rig_case c;
    uint64_t sink, recent; /* by hand; official */
    uint64_t kept;         /* of the prompt; the other variants: > 0 */
} cases[] = {
    /* never full, so places are text positions; full from the prompt on; in the middle of the steps */
    {{"streaming-llm:sink=4,recent=60", KVP_F32, 1, 9, 20, 2, 2, 8, 2, {0}, 0}, 4, 60, 0},
    {{"streaming-llm:sink=2,recent=5", KVP_F32, 2, 20, 40, 4, 2, 8, 2, {0}, 0}, 2, 5, 0},
    {{"streaming-llm:sink=2,recent=5", KVP_F16, 2, 3, 40, 4, 2, 8, 2, {0}, 0}, 2, 5, 0},
    /* a prompt of the budget, one less, one more; of fewer tokens than sinks */
    {{"streaming-llm:sink=3,recent=4", KVP_F32, 1, 7, 30, 4, 1, 8, 1, {0}, 0}, 3, 4, 0},
    {{"streaming-llm:sink=3,recent=4", KVP_F32, 1, 6, 30, 6, 3, 16, 1, {0}, 0}, 3, 4, 0},
    {{"streaming-llm:sink=3,recent=4", KVP_BF16, 1, 8, 30, 4, 4, 8, 1, {0}, 0}, 3, 4, 0},
    {{"streaming-llm:sink=9,recent=4", KVP_F32, 2, 5, 40, 4, 2, 8, 1, {0}, 0}, 9, 4, 0},
    /* no sinks; one recent token */
    {{"streaming-llm:sink=0,recent=6", KVP_F32, 1, 10, 30, 4, 2, 8, 2, {0}, 0}, 0, 6, 0},
    {{"streaming-llm:sink=2,recent=1", KVP_F32, 1, 10, 20, 4, 2, 8, 1, {0}, 0}, 2, 1, 0},
    /* a layer that sees 9 tokens keeps 9, turned by their positions in the text */
    {{"streaming-llm:sink=2,recent=5", KVP_F32, 2, 20, 40, 4, 2, 8, 3, {0, 9, 0}, 0}, 2, 5, 0},
    {{"streaming-llm:sink=2,recent=5 growing", KVP_F32, 2, 4, 40, 4, 2, 8, 2, {0}, 0}, 2, 5, 0},
    {{"streaming-llm:sink=2,recent=5 contiguous:64", KVP_F32, 2, 4, 40, 4, 2, 8, 2, {0}, 0}, 2, 5, 0},
    {{"streaming-llm:sink=2,recent=5 paged:3", KVP_F16, 2, 4, 40, 4, 2, 8, 2, {0}, 0}, 2, 5, 0},
    /* int(20 * 0.5) = 10; int(20 * 0.26) = 5; fewer than the sinks: the first ones */
    {{"streaming-llm:variant=kvpress,ratio=0.5", KVP_F32, 2, 20, 34, 4, 2, 8, 2, {0}, 0}, 4, 0, 10},
    {{"streaming-llm:variant=kvpress,ratio=0.74 paged:4", KVP_F16, 1, 20, 34, 4, 2, 8, 2, {0, 9}, 0}, 4, 0, 5},
    {{"streaming-llm:variant=kvpress,ratio=0.9", KVP_F32, 1, 20, 34, 4, 2, 8, 1, {0}, 0}, 4, 0, 1},
    {{"streaming-llm:variant=factory,sink=2,recent=5", KVP_F32, 2, 20, 34, 4, 2, 8, 2, {0}, 0}, 2, 0, 7},
    {{"streaming-llm:variant=factory,sink=2,recent=5 growing", KVP_F32, 2, 6, 20, 4, 2, 8, 2, {0}, 0}, 2, 0, 6},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

struct model {
    uint64_t sink, recent, kept;
    struct picks set[RIG_LAYERS];
};

static bool turns(const struct rig *r, const struct model *m)
{
    (void)r;
    return m->kept == 0;
}

/* x at `position`, as transformers' Llama turns it: halves paired. */
static void turn(const struct rig *r, uint64_t position, const double *x, double *out)
{
    const uint32_t half = r->c->dim / 2;

    for (uint32_t i = 0; i < half; i++) {
        const double a = (double)((float)position * rig_inv_freq(r, i));

        out[i] = x[i] * cos(a) - x[i + half] * sin(a);
        out[i + half] = x[i + half] * cos(a) + x[i] * sin(a);
    }
}

/* Query `t` over tokens token[0, n), which it and they reach at the places at[] and q_at. */
static void attend(const struct rig *r, const struct model *m, uint32_t layer, uint64_t b, uint64_t t, uint32_t h, const uint64_t *token,
                   const uint64_t *at, uint64_t n, uint64_t q_at, bool stored, double *out)
{
    const uint32_t dim = r->c->dim, g = h / (r->c->heads / r->c->kv_heads);
    double *k = rig_zalloc(n * dim, sizeof(*k)), *v = rig_zalloc(n * dim, sizeof(*v)), x[64], y[64];
    float q[64];

    for (uint64_t j = 0; j < n; j++) {
        for (uint32_t i = 0; i < dim; i++) {
            x[i] = (double)rig_k(r, layer, b, token[j], g)[i];
            v[j * dim + i] = (double)rig_v(r, layer, b, token[j], g)[i];
            if (stored) {
                v[j * dim + i] = rig_round(v[j * dim + i], r->c->format);
                x[i] = r->c->window[layer] ? x[i] : rig_round(x[i], r->c->format);
            }
        }
        memcpy(k + j * dim, x, dim * sizeof(*x));
        if (turns(r, m))
            turn(r, at[j], x, k + j * dim);
        for (uint32_t i = 0; stored && r->c->window[layer] && i < dim; i++) /* stored turned */
            k[j * dim + i] = rig_round(k[j * dim + i], r->c->format);
    }
    for (uint32_t i = 0; i < dim; i++)
        x[i] = y[i] = (double)rig_q(r, layer, b, t, h)[i];
    if (turns(r, m))
        turn(r, q_at, x, y);
    for (uint32_t i = 0; i < dim; i++)
        q[i] = (float)y[i];
    rig_attend(q, k, v, n, dim, out);
    free(k);
    free(v);
}

/* What is kept once `seen` tokens are there. */
static void keep(const struct rig *r, struct model *m, uint32_t layer, uint64_t seen)
{
    const uint64_t w = r->c->window[layer];
    struct picks *s = &m->set[layer];

    *s = (struct picks){0};
    for (uint64_t t = 0; t < seen; t++) {
        const bool sink = t < m->sink, recent = seen - t <= m->recent;
        const bool once = t >= r->c->prompt || (m->kept >= m->sink ? sink || r->c->prompt - t <= m->kept - m->sink : t < m->kept);

        if (w ? seen - t <= w : m->kept ? once : sink || recent)
            s->token[s->n++] = t;
    }
}

static void check_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    struct model *m = arg;
    uint64_t text[PICKS_MOST], place[PICKS_MOST];
    double out[64];

    for (uint64_t j = 0; j < PICKS_MOST; j++)
        text[j] = place[j] = j;
    keep(r, m, layer, r->seen + tokens);
    for (uint64_t b = 0; b < r->c->batch; b++)
        for (uint32_t h = 0; h < r->c->heads; h++) {
            const struct picks *s = &m->set[layer];
            const uint64_t w = r->c->window[layer], first = w && tokens > w ? tokens - w : 0;

            if (r->seen)
                attend(r, m, layer, b, r->seen, h, s->token, w ? s->token : place, s->n, w ? r->seen : s->n - 1, true, out);
            else /* the last row of the prompt, dense */
                attend(r, m, layer, b, tokens - 1, h, text + first, text + first, tokens - first, tokens - 1, false, out);
            rig_same(r, rig_out(r, b, tokens - 1, tokens, h), out, "attention", r->seen);
        }
}

static void same_sets(struct rig *r, const struct model *m)
{
    json_t *lines = rig_dump(r, r->ops->dump_kept), *line;
    size_t i;

    ck_assert_uint_eq(json_array_size(lines), r->c->layers * r->c->batch);
    json_array_foreach(lines, i, line) {
        const struct picks *s = &m->set[rig_int(line, "layer")];
        const json_t *pos = json_object_get(line, "positions");

        ck_assert_int_eq(rig_int(line, "head"), -1);
        ck_assert_uint_eq(json_array_size(pos), s->n);
        for (size_t j = 0; j < s->n; j++)
            ck_assert_msg((uint64_t)json_integer_value(json_array_get(pos, j)) == s->token[j],
                          "%s after %llu tokens, layer %lld: position %zu is %lld, expected %llu", r->c->stack, (unsigned long long)r->seen,
                          (long long)rig_int(line, "layer"), j, (long long)json_integer_value(json_array_get(pos, j)), (unsigned long long)s->token[j]);
    }
    json_decref(lines);
}

START_TEST(every_step)
{
    const struct rig_case *c = &cases[_i / RIG_BACKENDS].c;
    struct model m = {cases[_i / RIG_BACKENDS].sink, cases[_i / RIG_BACKENDS].recent, cases[_i / RIG_BACKENDS].kept, {{0}}};
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
}
END_TEST

START_TEST(same_bits)
{
    static const char *const stacks[] = {"streaming-llm:sink=2,recent=5", "streaming-llm:sink=2,recent=5 growing",
                                         "streaming-llm:sink=2,recent=5 contiguous:64", "streaming-llm:sink=2,recent=5 paged:4"};
    static const struct rig_case c = {NULL, KVP_F16, 2, 4, 30, 4, 2, 8, 2, {0}, 0};

    rig_same_run(&c, stacks[0], stacks[_i / RIG_BACKENDS], rig_backends[_i % RIG_BACKENDS], 1e-6f);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
} sizes[] = {
    /* 7 slots of 2 * 2 layers * 2 sequences * 2 kv heads * 8 * 4 = 512 bytes; 6 when the run is no longer */
    {{"streaming-llm:sink=2,recent=5", KVP_F32, 2, 4, 12, 4, 2, 8, 2, {0}, 0}, {3584, 0, 3584}},
    {{"streaming-llm:sink=2,recent=5", KVP_F32, 2, 4, 6, 4, 2, 8, 2, {0}, 0}, {3072, 0, 3072}},
    {{"streaming-llm:sink=2,recent=5 contiguous:64", KVP_F32, 2, 4, 6, 4, 2, 8, 2, {0}, 0}, {3584, 0, 3584}},
    /* 2 pages of 4 and a table of 2 * 2 * 4 */
    {{"streaming-llm:sink=2,recent=5 paged:4", KVP_F32, 2, 4, 12, 4, 2, 8, 2, {0}, 0}, {4096, 16, 4112}},
    /* the last V on its way from 6 to 7: 6 slots of 128 more */
    {{"streaming-llm:sink=2,recent=5 growing", KVP_F32, 2, 4, 12, 4, 2, 8, 2, {0}, 0}, {3584, 0, 4352}},
    /* 10 of 20 and 4 more; 7 of 20 and 4 more */
    {{"streaming-llm:variant=kvpress,ratio=0.5", KVP_F32, 2, 20, 24, 4, 2, 8, 2, {0}, 0}, {7168, 0, 7168}},
    {{"streaming-llm:variant=factory,sink=2,recent=5 contiguous:64", KVP_F32, 2, 20, 24, 4, 2, 8, 2, {0}, 0}, {26112, 0, 26112}},
};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

START_TEST(bytes)
{
    struct rig r;

    rig_open(&r, &sizes[_i].c, "ref", false);
    for (int again = 0; again < 2; again++) {
        rig_all(&r, NULL, NULL);
        rig_check_bytes(&r, &sizes[_i].bytes);
        ck_assert_uint_eq(r.led.peak[LED_WORKSPACE], 0);
        rig_reset(&r);
    }
    rig_close(&r);
}
END_TEST

/* 16 tokens seen: 0, 1 and 11 to 15 are kept. The next step's row takes 11's slot before anybody reads it. */
START_TEST(poison)
{
    static const struct rig_case c[] = {{"streaming-llm:sink=2,recent=5", KVP_F32, 2, 9, 20, 4, 2, 8, 2, {0}, 0},
                                        {"streaming-llm:sink=2,recent=5 paged:4", KVP_F16, 2, 9, 20, 4, 2, 8, 2, {0}, 0}};
    const uint64_t pos = (uint64_t)_i / 4;
    bool stored;
    struct rig r;

    rig_open(&r, &c[_i % 2], rig_backends[_i / 2 % 2], true);
    while (r.seen < 16)
        rig_step(&r, NULL, NULL);
    if (pos == 11) {
        RIG_OK(&r, r.ops->poison(r.cache, pos, &stored, &e));
        ck_assert(stored);
        rig_layer(&r, 0, 1);
        ck_assert(!rig_has_nan(r.result, c->batch * c->heads * c->dim));
    } else {
        rig_poison_step(&r, pos, pos < 2 || (pos > 11 && pos < 16));
    }
    rig_close(&r);
}
END_TEST

static const struct picks_refusal refusals[] = {
    {{"streaming-llm:ratio=0.5", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "kvpress"},
    {{"streaming-llm:variant=kvpress", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "ratio"},
    {{"streaming-llm:variant=kvpress,ratio=0.5", KVP_F32, 1, 4, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "sinks"},
    {{"streaming-llm:variant=kvpress,ratio=1", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_EINPUT, "none"},
    {{"streaming-llm:sink=2,recent=2", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {3}, 0}, KVP_ENOTSUP, "not applicable"},
};
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(refused)
{
    picks_refused(&refusals[_i]);
}
END_TEST

/* Learned positions are in the keys already. */
START_TEST(learned_positions)
{
    static const struct rig_case c = {"streaming-llm:sink=2,recent=5", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0};
    struct kvp_error e = {0};
    struct rig r;

    rig_prepare(&r, &c, "ref", false);
    r.model.position = KVP_POS_LEARNED;
    ck_assert_int_eq(r.ops->open(&r.cache, &r.env, &e), KVP_ENOTSUP);
    ck_assert_ptr_nonnull(strstr(e.text, "slot numbers"));
    rig_close(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("streaming-llm");
    TCase *tc = tcase_create("streaming-llm");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, same_bits, 0, 4 * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, 17 * 4);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    tcase_add_test(tc, learned_positions);
    suite_add_tcase(s, tc);
    return picks_main(s);
}
