/* choose.c - pooled scores of a prompt's last queries, the choice by them, TOVA's step, rows repeated by head */
#include "tests/kernels/kit.h"

/* ---- window_scores ------------------------------------------------------------------------------ */

static const struct {
    uint64_t batch, tokens, window, columns;
    uint32_t heads, kv_heads, dim, sets, kernel;
    bool average;
} windows[] = {
    {1, 9, 3, 6, 2, 1, 8, 2, 3, true},       {2, 40, 8, 32, 4, 2, 16, 2, 5, true},   {2, 40, 8, 32, 4, 2, 16, 4, 7, false},
    {1, 300, 70, 230, 6, 3, 24, 3, 5, true}, {1, 600, 5, 595, 2, 2, 8, 2, 4, false}, {1, 33, 1, 33, 4, 4, 8, 1, 1, true},
    {3, 5, 4, 1, 8, 1, 8, 1, 9, true},       {1, 6, 6, 6, 2, 2, 7, 2, 2, true},      {1, 10, 2, 0, 2, 1, 8, 1, 3, false},
    {1, 280, 280, 280, 2, 1, 8, 1, 64, false},
};

/* The definition, with a softmax of its own: what query i gives key j, the other keys it sees in the sum. */
static double given(const struct kb_window_scores *a, uint64_t b, uint32_t h, uint64_t i, uint64_t j)
{
    const float *q = (const float *)kb_at(a->q) + (b * a->tokens + i) * a->stride + (uint64_t)h * a->head_dim;
    double sum = 0, mine = 0;

    for (uint64_t l = 0; l <= i; l++) {
        const float *k = (const float *)kb_at(a->k) + (b * a->tokens + l) * a->stride + h / (a->heads / a->kv_heads) * (uint64_t)a->head_dim;
        double dot = 0;

        for (uint32_t c = 0; c < a->head_dim; c++)
            dot += (double)q[c] * (double)k[c];
        dot = exp((double)a->scale * dot);
        sum += dot;
        mine = l == j ? dot : mine;
    }
    return mine / sum;
}

static void check_scores(const struct kb_window_scores *a, uint64_t b, uint32_t set)
{
    const uint32_t group = a->heads / a->sets;
    double *sums = calloc(a->columns + 1, sizeof(*sums));
    const float *got = (const float *)kb_at(a->scores) + (b * a->sets + set) * a->tokens;

    for (uint64_t j = 0; j < a->columns; j++)
        for (uint64_t i = a->tokens - a->window; i < a->tokens; i++)
            for (uint32_t h = set * group; h < (set + 1) * group; h++)
                sums[j] += given(a, b, h, i, j);
    for (uint64_t j = 0; j < a->columns; j++) {
        double sum = 0, max = 0;

        for (int64_t l = (int64_t)j - a->kernel / 2, n = 0; n < a->kernel; l++, n++)
            if (l >= 0 && (uint64_t)l < a->columns) {
                sum += sums[l];
                max = fmax(max, sums[l]);
            }
        sum = a->average ? sum / a->kernel : max;
        ck_assert_msg(fabs((double)got[j] - sum) <= 1e-5 * sum + 1e-9, "[%llu] is %.9g, expected %.9g", (unsigned long long)j,
                      (double)got[j], sum);
    }
    free(sums);
}

START_TEST(scores_all)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_window_scores, scores, KVP_F32, 1e-5, false)};
    const uint64_t B = windows[_i].batch, T = windows[_i].tokens, H = windows[_i].heads, G = windows[_i].kv_heads, d = windows[_i].dim;
    struct kb_window_scores a = {.batch = B, .tokens = T, .heads = (uint32_t)H, .kv_heads = (uint32_t)G, .head_dim = (uint32_t)d,
                                 .window = windows[_i].window, .columns = windows[_i].columns, .kernel = windows[_i].kernel,
                                 .average = windows[_i].average, .sets = windows[_i].sets, .scale = 0.3f, .stride = (H + 2 * G) * d + 1};
    struct kb_attn_prefill p = {.batch = B, .tokens = T, .heads = a.heads, .kv_heads = a.kv_heads, .head_dim = a.head_dim,
                                .scale = a.scale, .stride = a.stride, .out_stride = H * d};

    a.q = p.q = kit_rows(B * T, H * d, a.stride);
    a.k = p.k = kit_rows(B * T, G * d, a.stride);
    p.v = kit_rows(B * T, G * d, a.stride);
    p.out = kit_poison(KVP_F32, B * T * H * d);
    a.lse = p.lse = kit_poison(KVP_F32, B * H * T);
    kit_run(KB_ATTN_PREFILL, &p);
    a.scores = kit_poison(KVP_F32, B * a.sets * T);
    KIT_CHECK(KB_WINDOW_SCORES, a, outs);
    for (uint64_t b = 0; b < B; b++)
        for (uint32_t set = 0; set < a.sets; set++)
            check_scores(&a, b, set);
}
END_TEST

/* ---- top_tokens --------------------------------------------------------------------------------- */

static const struct {
    uint64_t batch, tokens, columns, best, levels; /* few levels make ties */
    uint32_t sets;
} tops[] = {
    {1, 10, 7, 3, 1000000, 1}, {2, 100, 92, 10, 3, 2},   {1, 100, 100, 1, 2, 1},  {3, 64, 60, 60, 5, 2},
    {1, 5, 4, 0, 9, 1},        {2, 1000, 900, 100, 4, 8}, {1, 300, 0, 0, 2, 4},     {1, 513, 512, 511, 2, 1},
};

START_TEST(top_all)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_top_tokens, index, KVP_I32, 0, false)};
    const uint64_t T = tops[_i].tokens, C = tops[_i].columns, n = tops[_i].best, kept = n + T - C;
    struct kb_top_tokens a = {.batch = tops[_i].batch, .tokens = T, .sets = tops[_i].sets, .columns = C, .best = n};

    a.scores = kit_poison(KVP_F32, a.batch * a.sets * T);
    for (uint64_t r = 0; r < a.batch * a.sets; r++)
        for (uint64_t j = 0; j < C; j++)
            ((float *)kb_at(a.scores))[r * T + j] = (float)(kit_random() % tops[_i].levels) * 0.37f;
    a.index = kit_poison(KVP_I32, a.batch * a.sets * kept);
    KIT_CHECK(KB_TOP_TOKENS, a, outs);
    for (uint64_t r = 0; r < a.batch * a.sets; r++) {
        const int32_t *index = (const int32_t *)kb_at(a.index) + r * kept;
        uint64_t slot = 0;

        for (uint64_t t = 0; t < T; t++) {
            uint64_t better = 0;

            for (uint64_t u = 0; t < C && u < C; u++) {
                const float mine = ((const float *)kb_at(a.scores))[r * T + t], other = ((const float *)kb_at(a.scores))[r * T + u];

                better += other > mine || (other == mine && u < t);
            }
            if (t >= C || better < n)
                ck_assert_int_eq(index[slot++], (int)t);
        }
        ck_assert_uint_eq(slot, kept);
    }
}
END_TEST

/* ---- tova_step ---------------------------------------------------------------------------------- */

static struct kb_kv strip(uint64_t batch, uint32_t heads, uint64_t slots, uint32_t block, enum kvp_format f)
{
    uint64_t pages = block ? (slots + block - 1) / block : 0;
    struct kb_kv kv = {.format = f, .heads = heads, .dim = 2, .slots = slots, .block = block, .table_stride = pages};

    if (block)
        kv.table = kit_shuffled(batch * pages);
    kv.data = kit_poison(f, batch * heads * 2 * (block ? pages * block : slots));
    return kv;
}

static const struct {
    uint64_t batch, budget, steps, levels;
    uint32_t heads, kv_heads, block;
    enum kvp_format kv;
} steps[] = {
    {1, 4, 30, 1000000, 1, 1, 0, KVP_F32}, {2, 6, 40, 2, 4, 2, 0, KVP_F16}, {3, 1, 20, 3, 6, 3, 0, KVP_F16},
    {1, 11, 60, 2, 2, 2, 4, KVP_BF16},     {2, 9, 30, 1, 8, 1, 16, KVP_F32},
};

/* Each stored row carries its token; which tokens stay is followed by slot. */
START_TEST(tova_all)
{
    const uint64_t B = steps[_i].batch, n = steps[_i].budget;
    const struct kit_out outs[] = {KIT_OUT(kb_tova_step, k.data, steps[_i].kv, 0, false), KIT_OUT(kb_tova_step, v.data, steps[_i].kv, 0, false),
                                   KIT_OUT(kb_tova_step, victim, KVP_I32, 0, false)};
    struct kb_tova_step a = {.batch = B, .heads = steps[_i].heads, .kv_heads = steps[_i].kv_heads, .head_dim = 2, .budget = n,
                             .k = strip(B, steps[_i].kv_heads, n, steps[_i].block, steps[_i].kv),
                             .v = strip(B, steps[_i].kv_heads, n, steps[_i].block, steps[_i].kv), .new_stride = steps[_i].kv_heads * 2u + 1};
    uint64_t token[3][16];

    for (uint64_t p = 0; p < steps[_i].steps; p++) {
        a.used = p < n ? p : n;
        a.probs = kit_poison(KVP_F32, B * a.heads * (a.used + 1));
        for (uint64_t i = 0; i < B * a.heads * (a.used + 1); i++)
            ((float *)kb_at(a.probs))[i] = (float)(kit_random() % steps[_i].levels) * 0.37f;
        a.new_k = kit_rows(B, a.kv_heads * 2u, a.new_stride);
        a.new_v = kit_rows(B, a.kv_heads * 2u, a.new_stride);
        for (uint64_t i = 0; i < B * a.new_stride; i++) {
            ((float *)kb_at(a.new_k))[i] = (float)p;
            ((float *)kb_at(a.new_v))[i] = -(float)p;
        }
        a.victim = kit_poison(KVP_I32, B);
        KIT_CHECK(KB_TOVA_STEP, a, outs);
        for (uint64_t b = 0; b < B; b++) {
            float least = INFINITY;
            uint64_t lost = n;

            for (uint64_t s = 0; s <= a.used; s++) {
                float weight = 0;

                for (uint32_t h = 0; h < a.heads; h++)
                    weight += ((const float *)kb_at(a.probs))[(b * a.heads + h) * (a.used + 1) + s];
                if (weight < least) {
                    least = weight;
                    lost = s;
                }
            }
            ck_assert_int_eq(((int32_t *)kb_at(a.victim))[b], p < n ? -1 : (int)lost);
            if (p < n || lost < n)
                token[b][p < n ? p : lost] = p;
            for (uint64_t r = 0; r < a.kv_heads * (p < n ? p + 1 : n); r++) {
                const uint64_t s = r / a.kv_heads;
                const uint32_t g = (uint32_t)(r % a.kv_heads);

                ck_assert_float_eq(kb_load(a.k.format, kb_kv_row(&a.k, b, g, s), 1), (float)token[b][s]);
                ck_assert_float_eq(kb_load(a.v.format, kb_kv_row(&a.v, b, g, s), 0), -(float)token[b][s]);
            }
        }
    }
}
END_TEST

/* ---- cache_write: one list for all heads, heads repeated ------------------------------------------ */

static const struct {
    uint64_t batch, tokens, count, slot;
    uint32_t heads, repeat;
    bool one_index;
} writes[] = {{1, 9, 4, 0, 4, 1, true}, {2, 20, 11, 3, 6, 3, false}, {2, 7, 7, 1, 4, 2, true}, {1, 5, 2, 0, 8, 8, false}};

START_TEST(write_all)
{
    const uint64_t B = writes[_i].batch, T = writes[_i].tokens, n = writes[_i].count;
    const uint32_t H = writes[_i].heads, from = H / writes[_i].repeat;
    static const struct kit_out outs[] = {KIT_OUT(kb_cache_write, dst.data, KVP_F16, 0, false)};
    struct kb_cache_write a = {.batch = B, .count = n, .slot = writes[_i].slot, .src_tokens = T, .src_stride = from * 2u + 3, .index_stride = n,
                               .one_index = writes[_i].one_index, .repeat = writes[_i].repeat, .dst = strip(B, H, n + 5, 0, KVP_F16)};

    a.src = kit_rows(B * T, from * 2u, a.src_stride);
    a.index = kit_ints(B * H * n, 0, 1);
    for (uint64_t i = 0; i < B * H * n; i++)
        ((int32_t *)kb_at(a.index))[i] = (int32_t)(kit_random() % T);
    KIT_CHECK(KB_CACHE_WRITE, a, outs);
    for (uint64_t r = 0; r < B * H * n; r++) {
        const uint64_t b = r / (H * n), h = r / n % H, j = r % n;
        const uint64_t t = (uint64_t)((int32_t *)kb_at(a.index))[(a.one_index ? b : b * H + h) * n + j];

        for (uint32_t i = 0; i < 2; i++)
            ck_assert_float_eq(kb_load(KVP_F16, kb_kv_row(&a.dst, b, (uint32_t)h, a.slot + j), i),
                               kb_rounded(KVP_F16, ((float *)kb_at(a.src))[(b * T + t) * a.src_stride + h / a.repeat * 2 + i]));
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/choose");
    TCase *t = tcase_create("choose");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, scores_all, 0, (int)COUNT(windows));
    tcase_add_loop_test(t, top_all, 0, (int)COUNT(tops));
    tcase_add_loop_test(t, tova_all, 0, (int)COUNT(steps));
    tcase_add_loop_test(t, write_all, 0, (int)COUNT(writes));
    suite_add_tcase(s, t);
    return kit_main(s);
}
