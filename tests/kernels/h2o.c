/* h2o.c - what H2O keeps, against a recomputation that remembers tokens instead of slots */
#include "tests/kernels/kit.h"

static const struct {
    uint64_t batch, tokens, heavy, recent, levels; /* scores take `levels` values: 2 or 3 make ties */
    uint32_t kv_heads;
} prompts[] = {
    {1, 10, 3, 4, 1000000, 1}, {2, 100, 10, 10, 3, 3}, {1, 100, 1, 1, 2, 2}, {1, 64, 30, 33, 5, 1}, {1, 5, 3, 2, 9, 2},
    {2, 4, 10, 10, 9, 1}, {1, 1000, 100, 200, 1000000, 4}, {1, 999, 500, 7, 4, 2}, {1, 257, 128, 128, 1, 1},
};

static void fill_levels(float *p, uint64_t n, uint64_t levels)
{
    for (uint64_t i = 0; i < n; i++)
        p[i] = (float)(kit_random() % levels) * 0.37f;
}

/* Token t is kept as heavy when fewer than `heavy` of the old tokens beat it: higher, or as high and earlier. */
static bool is_heavy(const float *s, uint64_t old, uint64_t heavy, uint64_t t)
{
    uint64_t better = 0;

    for (uint64_t u = 0; u < old; u++)
        better += s[u] > s[t] || (s[u] == s[t] && u < t);
    return better < heavy;
}

START_TEST(select_all)
{
    static const struct kit_out outs[][2] = {
        {KIT_OUT(kb_h2o_select, index, KVP_I32, 0, false), KIT_OUT(kb_h2o_select, kept_scores, KVP_F32, 0, false)},
        {KIT_OUT(kb_h2o_select, index, KVP_I32, 0, false), KIT_OUT(kb_h2o_select, kept_scores, KVP_F16, 0, false)}};
    uint64_t T = prompts[_i].tokens, H = prompts[_i].heavy, R = prompts[_i].recent, kept = T < H + R ? T : H + R;

    for (int f = 0; f < 2; f++) {
        struct kb_h2o_select a = {.batch = prompts[_i].batch, .tokens = T, .kv_heads = prompts[_i].kv_heads, .heavy = H,
                                  .recent = R, .score_format = f ? KVP_F16 : KVP_F32, .kept_stride = kept + 2};
        uint64_t rows = a.batch * a.kv_heads;

        a.scores = kit_poison(KVP_F32, rows * T);
        fill_levels(kb_at(a.scores), rows * T, prompts[_i].levels);
        a.index = kit_poison(KVP_I32, rows * kept);
        a.kept_scores = kit_poison(a.score_format, rows * a.kept_stride);
        KIT_CHECK(KB_H2O_SELECT, a, outs[f]);
        for (uint64_t r = 0; r < rows; r++) {
            const float *s = (const float *)kb_at(a.scores) + r * T;
            const int32_t *index = (const int32_t *)kb_at(a.index) + r * kept;
            uint64_t slot = 0;

            for (uint64_t t = 0; T > H + R && t < T - R; t++)
                if (is_heavy(s, T - R, H, t))
                    ck_assert_int_eq(index[slot++], (int)t);
            ck_assert(T <= H + R || slot == H);
            for (uint64_t p = T > H + R ? T - R : 0; p < T; p++)
                ck_assert_int_eq(index[T > H + R ? H + (p - H) % R : p], (int)p);
            for (uint64_t j = 0; j < kept; j++)
                ck_assert_float_eq(kb_load(a.score_format, kb_at(a.kept_scores), r * a.kept_stride + j),
                                   kb_rounded(a.score_format, s[index[j]]));
        }
    }
}
END_TEST

static const struct {
    uint64_t batch, heavy, recent, steps, levels;
    uint32_t heads, kv_heads, block;
    enum kvp_format score, kv;
} runs[] = {
    {1, 3, 4, 40, 1000, 1, 1, 0, KVP_F32, KVP_F32}, {2, 5, 2, 60, 2, 4, 2, 0, KVP_F32, KVP_F16},
    {1, 1, 1, 30, 3, 6, 3, 0, KVP_F16, KVP_F16},    {1, 8, 3, 80, 2, 2, 2, 4, KVP_F16, KVP_BF16},
    {1, 2, 7, 50, 1, 8, 1, 16, KVP_F32, KVP_F32},
};

#define MOST 16

/* The slow model of one kv head: tokens with their score, in order of arrival; heavy ones carry their slot. */
struct token {
    int64_t position;
    float score;
    uint64_t slot;
};

struct model {
    uint64_t n;
    struct token t[MOST];
};

static uint64_t at_slot(const struct model *m, uint64_t slot)
{
    uint64_t i = 0;

    while (m->t[i].slot != slot)
        i++;
    return i;
}

/* The rule of the paper, with the tie rule of kernels/ops/h2o_step.h. Returns the slot lost, or -1. */
static int64_t step_model(struct model *m, uint64_t heavy, uint64_t recent, int64_t position, const float *add,
                          float own, enum kvp_format f)
{
    uint64_t oldest, worst, o;

    for (uint64_t i = 0; i < m->n; i++)
        m->t[i].score = kb_rounded(f, m->t[i].score + add[m->t[i].slot]);
    if (m->n < heavy + recent) {
        m->t[m->n] = (struct token){position, kb_rounded(f, own), m->n};
        m->n++;
        return -1;
    }
    oldest = m->n; /* of the tokens that hold a recent slot, the one that came first */
    for (uint64_t i = 0; i < m->n; i++)
        if (m->t[i].slot >= heavy && (oldest == m->n || m->t[i].position < m->t[oldest].position))
            oldest = i;
    o = m->t[oldest].slot;
    worst = at_slot(m, 0);
    for (uint64_t s = 1; s < heavy; s++)
        worst = m->t[at_slot(m, s)].score < m->t[worst].score ? at_slot(m, s) : worst;
    if (m->t[oldest].score < m->t[worst].score)
        worst = oldest;
    else
        m->t[oldest].slot = m->t[worst].slot;
    int64_t lost = worst == oldest ? (int64_t)o : (int64_t)m->t[worst].slot;
    m->t[worst] = (struct token){position, kb_rounded(f, own), o};
    return lost;
}

static struct kb_kv strip(uint64_t batch, uint32_t heads, uint64_t slots, uint32_t block, enum kvp_format f)
{
    uint64_t pages = block ? (slots + block - 1) / block : 0;
    struct kb_kv kv = {.format = f, .heads = heads, .dim = 2, .slots = slots, .block = block, .table_stride = pages};

    if (block)
        kv.table = kit_shuffled(batch * pages);
    kv.data = kit_poison(f, batch * heads * 2 * (block ? pages * block : slots));
    return kv;
}

/* Each stored row carries the position of its token, so that what moved is seen. */
START_TEST(steps_all)
{
    uint64_t H = runs[_i].heavy, R = runs[_i].recent, B = runs[_i].batch, room = H + R;
    uint32_t heads = runs[_i].heads, kv = runs[_i].kv_heads, group = heads / kv;
    const struct kit_out outs[] = {
        KIT_OUT(kb_h2o_step, scores, runs[_i].score, 0, false), KIT_OUT(kb_h2o_step, k.data, runs[_i].kv, 0, false),
        KIT_OUT(kb_h2o_step, v.data, runs[_i].kv, 0, false), KIT_OUT(kb_h2o_step, victim, KVP_I32, 0, false)};
    struct model m[4] = {0};
    struct kb_h2o_step a = {
        .batch = B, .heads = heads, .kv_heads = kv, .head_dim = 2, .heavy = H, .recent = R, .score_format = runs[_i].score,
        .score_stride = room + 1, .k = strip(B, kv, room, runs[_i].block, runs[_i].kv),
        .v = strip(B, kv, room, runs[_i].block, runs[_i].kv), .new_stride = kv * 2u + 1,
    };

    a.scores = kit_poison(a.score_format, B * kv * a.score_stride);
    for (uint64_t p = 0; p < runs[_i].steps; p++) {
        a.position = p;
        a.used = p < room ? p : room;
        a.probs = kit_poison(KVP_F32, B * heads * (a.used + 1));
        fill_levels(kb_at(a.probs), B * heads * (a.used + 1), runs[_i].levels);
        a.new_k = kit_rows(B, kv * 2u, a.new_stride);
        a.new_v = kit_rows(B, kv * 2u, a.new_stride);
        for (uint64_t i = 0; i < B * a.new_stride; i++) {
            ((float *)kb_at(a.new_k))[i] = (float)p;
            ((float *)kb_at(a.new_v))[i] = -(float)p;
        }
        a.victim = kit_poison(KVP_I32, B * kv);
        KIT_CHECK(KB_H2O_STEP, a, outs);
        for (uint64_t r = 0; r < B * kv; r++) {
            float add[MOST + 1] = {0};
            const float *probs = (const float *)kb_at(a.probs) + r * group * (a.used + 1);

            for (uint64_t s = 0; s <= a.used; s++)
                for (uint32_t h = 0; h < group; h++)
                    add[s] += probs[h * (a.used + 1) + s];
            int64_t lost = step_model(&m[r], H, R, (int64_t)p, add, add[a.used], a.score_format);

            ck_assert_int_eq(((int32_t *)kb_at(a.victim))[r], lost);
            for (uint64_t s = 0; s < m[r].n; s++) {
                const struct token *t = &m[r].t[at_slot(&m[r], s)];

                ck_assert_float_eq(kb_load(a.score_format, kb_at(a.scores), r * a.score_stride + s), t->score);
                ck_assert_float_eq(kb_load(a.k.format, kb_kv_row(&a.k, r / kv, (uint32_t)(r % kv), s), 1), (float)t->position);
                ck_assert_float_eq(kb_load(a.v.format, kb_kv_row(&a.v, r / kv, (uint32_t)(r % kv), s), 0), -(float)t->position);
            }
        }
    }
}
END_TEST

/* heavy 2, recent 1, position 3: scores 5 3, the oldest recent 4. Slot 1 is lost; slot 2's token moves there. */
START_TEST(step_by_hand)
{
    static const float scores[] = {5, 2, 4}, probs[] = {0, 1, 0, 0.5f}, k[] = {10, 11, 12}, want_k[] = {10, 12, 13},
                       want_scores[] = {5, 4, 0.5f};
    struct kb_h2o_step a = {.batch = 1, .heads = 1, .kv_heads = 1, .head_dim = 1, .used = 3, .heavy = 2, .recent = 1,
                            .position = 3, .score_stride = 3, .new_stride = 1};

    a.k = a.v = (struct kb_kv){.format = KVP_F32, .heads = 1, .dim = 1, .slots = 3};
    a.probs = kit_floats(KVP_F32, 4, 1);
    memcpy(kb_at(a.probs), probs, sizeof(probs));
    a.scores = kit_floats(KVP_F32, 3, 1);
    memcpy(kb_at(a.scores), scores, sizeof(scores));
    a.k.data = kit_floats(KVP_F32, 3, 1);
    a.v.data = kit_floats(KVP_F32, 3, 1);
    memcpy(kb_at(a.k.data), k, sizeof(k));
    memcpy(kb_at(a.v.data), k, sizeof(k));
    a.new_k = a.new_v = kit_floats(KVP_F32, 1, 0);
    ((float *)kb_at(a.new_k))[0] = 13;
    a.victim = kit_poison(KVP_I32, 1);
    kit_run(KB_H2O_STEP, &a);
    for (int i = 0; i < 3; i++) {
        ck_assert_float_eq(((float *)kb_at(a.k.data))[i], want_k[i]);
        ck_assert_float_eq(((float *)kb_at(a.scores))[i], want_scores[i]);
    }
    ck_assert_int_eq(((int32_t *)kb_at(a.victim))[0], 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/h2o");
    TCase *t = tcase_create("h2o");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, select_all, 0, (int)COUNT(prompts));
    tcase_add_loop_test(t, steps_all, 0, (int)COUNT(runs));
    tcase_add_test(t, step_by_hand);
    suite_add_tcase(s, t);
    return kit_main(s);
}
