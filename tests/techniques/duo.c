/* duo.c - full heads and streaming heads, against attention masked by the definition
 *
 * The model follows Xiao et al. 2024, section 2: query i of a full head sees all keys j <= i, of a streaming head those with
 * j < sink or i - j < recent. How many heads are full: F = n - ceil((1 - ratio) * (n - 1)) of all n, by hand below, spread
 * evenly: layer l of L alike has floor(F * (l + 1) / L) - floor(F * l / L) of them. */
#include "tests/techniques/picks.h"

static const struct {
    struct rig_case c;
    uint64_t sink, recent;
    uint32_t full[RIG_LAYERS]; /* by hand */
} cases[] = {
    /* 8 heads: 8 - ceil(0.5 * 7) = 4, 2 a layer */
    {{"duo:sink=2,recent=5", KVP_F32, 1, 20, 36, 8, 4, 8, 2, {0}, 0}, 2, 5, {2, 2}},
    /* 6 heads: 6 - ceil(0.5 * 5) = 3: 1 and 2 */
    {{"duo:sink=2,recent=5", KVP_F16, 2, 20, 36, 6, 3, 8, 2, {0}, 0}, 2, 5, {1, 2}},
    /* 6 heads: 6 - ceil(0.75 * 5) = 2 over three layers: 0, 1, 1 */
    {{"duo:0.25,sink=0,recent=4", KVP_F32, 1, 3, 30, 4, 2, 16, 3, {0}, 0}, 0, 4, {0, 1, 1}},
    {{"duo:0,sink=2,recent=5", KVP_F32, 1, 20, 36, 4, 2, 8, 2, {0}, 0}, 2, 5, {0, 0}},
    {{"duo:1,sink=2,recent=5", KVP_F32, 1, 20, 36, 4, 2, 8, 2, {0}, 0}, 2, 5, {2, 2}},
    /* a prompt below the sinks, of the slots, one more; never full */
    {{"duo:sink=4,recent=3", KVP_F32, 2, 2, 30, 4, 2, 8, 2, {0}, 0}, 4, 3, {1, 1}},
    {{"duo:sink=4,recent=3", KVP_BF16, 1, 7, 30, 4, 2, 8, 2, {0}, 0}, 4, 3, {1, 1}},
    {{"duo:sink=4,recent=3", KVP_F32, 1, 8, 30, 4, 2, 8, 2, {0}, 0}, 4, 3, {1, 1}},
    {{"duo:sink=4,recent=60", KVP_F32, 1, 8, 30, 4, 2, 8, 2, {0}, 0}, 4, 60, {1, 1}},
    /* a layer that sees 9 tokens keeps them in all heads, and is not counted: 4 - ceil(0.5 * 3) = 2 */
    {{"duo:sink=2,recent=5", KVP_F32, 2, 20, 36, 4, 2, 8, 3, {0, 9, 0}, 0}, 2, 5, {1, 0, 1}},
    {{"duo:sink=2,recent=5 growing", KVP_F32, 2, 4, 36, 6, 3, 8, 2, {0}, 0}, 2, 5, {1, 2}},
    {{"duo:sink=2,recent=5 contiguous:64", KVP_F32, 2, 20, 36, 6, 3, 8, 2, {0}, 0}, 2, 5, {1, 2}},
    {{"duo:sink=2,recent=5 paged:4", KVP_F16, 2, 4, 36, 6, 3, 8, 2, {0}, 0}, 2, 5, {1, 2}},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

struct model {
    uint64_t sink, recent;
    const uint32_t *full;
};

static bool sees(const struct rig *r, const struct model *m, uint32_t layer, uint32_t g, uint64_t i, uint64_t j)
{
    if (r->c->window[layer])
        return i - j < r->c->window[layer];
    return g < m->full[layer] || j < m->sink || i - j < m->recent;
}

static void check_query(struct rig *r, const struct model *m, uint32_t layer, uint64_t b, uint64_t i, uint64_t tokens, uint32_t h)
{
    const uint32_t g = h / (r->c->heads / r->c->kv_heads), dim = r->c->dim;
    double *k = rig_zalloc((i + 1) * dim, sizeof(*k)), *v = rig_zalloc((i + 1) * dim, sizeof(*v)), out[64];
    uint64_t n = 0;

    for (uint64_t j = 0; j <= i; j++)
        for (uint32_t c = 0, seen = sees(r, m, layer, g, i, j); seen && c < dim; n += ++c == dim) {
            const double x = (double)rig_k(r, layer, b, j, g)[c], y = (double)rig_v(r, layer, b, j, g)[c];

            k[n * dim + c] = r->seen ? rig_round(x, r->c->format) : x;
            v[n * dim + c] = r->seen ? rig_round(y, r->c->format) : y;
        }
    rig_attend(rig_q(r, layer, b, i, h), k, v, n, dim, out);
    rig_same(r, rig_out(r, b, i - r->seen, tokens, h), out, "attention", i);
    free(k);
    free(v);
}

static void check_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    for (uint64_t b = 0; b < r->c->batch; b++)
        for (uint64_t i = r->seen; i < r->seen + tokens; i++)
            for (uint32_t h = 0; h < r->c->heads; h++)
                check_query(r, arg, layer, b, i, tokens, h);
}

/* A line for each head: what the next query, or this one, may see of the past. */
static void same_sets(struct rig *r, const struct model *m)
{
    json_t *lines = rig_dump(r, r->ops->dump_kept), *line;
    size_t i;

    ck_assert_uint_eq(json_array_size(lines), r->c->layers * r->c->kv_heads);
    json_array_foreach(lines, i, line) {
        const json_t *pos = json_object_get(line, "positions");
        const uint32_t layer = (uint32_t)rig_int(line, "layer"), g = (uint32_t)rig_int(line, "head");
        size_t n = 0;

        ck_assert_uint_eq(i, layer * r->c->kv_heads + g);
        for (uint64_t j = 0; j < r->seen; j++)
            if (sees(r, m, layer, g, r->seen - 1, j))
                ck_assert_uint_eq((uint64_t)json_integer_value(json_array_get(pos, n++)), j);
        ck_assert_uint_eq(json_array_size(pos), n);
    }
    json_decref(lines);
}

START_TEST(every_step)
{
    const struct model m = {cases[_i / RIG_BACKENDS].sink, cases[_i / RIG_BACKENDS].recent, cases[_i / RIG_BACKENDS].full};
    struct rig r;

    rig_open(&r, &cases[_i / RIG_BACKENDS].c, rig_backends[_i % RIG_BACKENDS], true);
    for (int again = 0; again < 2; again++) {
        while (r.seen < r.c->context) {
            rig_step(&r, check_layer, (void *)(uintptr_t)&m);
            same_sets(&r, &m);
        }
        rig_reset(&r);
    }
    rig_close(&r);
}
END_TEST

/* All heads full: the dense cache, bit for bit. */
START_TEST(same_as_dense)
{
    static const char *const stacks[] = {"duo:1", "duo:1 growing", "duo:1 contiguous:64", "duo:1 paged:8"};
    static const struct rig_case c = {NULL, KVP_F16, 2, 12, 30, 4, 2, 8, 2, {0}, 0};

    rig_same_run(&c, "dense", stacks[_i / RIG_BACKENDS], rig_backends[_i % RIG_BACKENDS], 1e-6f);
}
END_TEST

static const struct {
    struct rig_case c;
    struct rig_bytes bytes;
} sizes[] = {
    /* heads of 2 sequences * 2 tensors * 8 * 4 = 128 bytes a token; 3 full ones of 20 tokens, 3 streaming ones of 7 */
    {{"duo:sink=2,recent=5", KVP_F32, 2, 12, 20, 6, 3, 8, 2, {0}, 0}, {10368, 0, 10368}},
    /* slots that nobody fills: 3 of 6, 3 of 7 */
    {{"duo:sink=2,recent=5", KVP_F32, 2, 5, 6, 6, 3, 8, 2, {0}, 0}, {4992, 0, 4992}},
    {{"duo:sink=2,recent=5 contiguous:64", KVP_F32, 2, 12, 20, 6, 3, 8, 2, {0}, 0}, {27264, 0, 27264}},
    /* 5 pages and 2 pages of 4: 3 * 20 and 3 * 8 slots; tables of 2 * 5 * 4 and 2 * 2 * 4 */
    {{"duo:sink=2,recent=5 paged:4", KVP_F32, 2, 12, 20, 6, 3, 8, 2, {0}, 0}, {10752, 56, 10808}},
    /* both kinds have 2 pages: one table */
    {{"duo:sink=2,recent=5 paged:4", KVP_F32, 2, 5, 6, 6, 3, 8, 2, {0}, 0}, {6144, 16, 6160}},
    /* layer 1's V of its two full heads on its way from 19 to 20: 2 * 64 * 19 more */
    {{"duo:sink=2,recent=5 growing", KVP_F32, 2, 12, 20, 6, 3, 8, 2, {0}, 0}, {10368, 0, 12800}},
    /* at 6 tokens the streaming head's V has yet to grow when the full ones' does: 4608 in the end, 64 less, 2 * 64 * 5 more */
    {{"duo:sink=2,recent=5 growing", KVP_F32, 2, 5, 6, 6, 3, 8, 2, {0}, 0}, {4608, 0, 5184}},
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

/* 16 tokens seen. Full head 0 reads every row; streaming head 0 reads 0, 1 and 12 to 15: 11 is overwritten first. */
START_TEST(poison)
{
    static const struct rig_case c[] = {{"duo:1,sink=2,recent=5 contiguous:64", KVP_F32, 2, 9, 20, 4, 2, 8, 2, {0}, 0},
                                        {"duo:sink=2,recent=5 paged:4", KVP_F16, 2, 9, 20, 4, 2, 8, 2, {0}, 0},
                                        {"duo:0,sink=2,recent=5", KVP_F16, 2, 9, 20, 4, 2, 8, 2, {0}, 0}};
    const uint64_t pos = (uint64_t)_i / 6;
    struct rig r;

    rig_open(&r, &c[_i % 3], rig_backends[_i / 3 % 2], true);
    while (r.seen < 16)
        rig_step(&r, NULL, NULL);
    if (_i % 3 < 2 || pos != 11)
        rig_poison_step(&r, pos, _i % 3 < 2 ? pos < 16 : pos < 2 || (pos > 11 && pos < 16));
    rig_close(&r);
}
END_TEST

static const struct picks_refusal refusals[] = {
    {{"duo", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {3}, 0}, KVP_ENOTSUP, "not applicable"},
    {{"duo kivi:group=8,residual=8,bits=4", KVP_F32, 1, 9, 20, 2, 2, 8, 1, {0}, 0}, KVP_ENOTSUP, "duo"},
};
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(refused)
{
    picks_refused(&refusals[_i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("duo");
    TCase *tc = tcase_create("duo");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_step, 0, N_CASES * RIG_BACKENDS);
    tcase_add_loop_test(tc, same_as_dense, 0, 4 * RIG_BACKENDS);
    tcase_add_loop_test(tc, bytes, 0, N_SIZES);
    tcase_add_loop_test(tc, poison, 0, 18 * 6);
    tcase_add_loop_test(tc, refused, 0, N_REFUSALS);
    suite_add_tcase(s, tc);
    return picks_main(s);
}
