/* promote.c - FlexGen's eviction against a list of tokens that remembers which are heavy */
#include "tests/kernels/kit.h"

static const struct {
    uint64_t batch, heavy, steps, levels; /* few levels make ties */
    uint32_t heads, kv_heads, block;
    enum kvp_format score, kv;
} runs[] = {
    {1, 2, 30, 1000000, 1, 1, 0, KVP_F32, KVP_F32}, {2, 5, 40, 2, 4, 2, 0, KVP_F32, KVP_F16}, {1, 3, 30, 3, 6, 3, 0, KVP_F16, KVP_F16},
    {1, 7, 60, 2, 2, 2, 4, KVP_F16, KVP_BF16},      {2, 4, 30, 1, 8, 1, 16, KVP_F32, KVP_F32},
};
enum { MOST = 16 };

struct token {
    float score, row;
};

static struct kb_kv strip(uint64_t batch, uint32_t heads, uint64_t slots, uint32_t block, enum kvp_format f)
{
    uint64_t pages = block ? (slots + block - 1) / block : 0;
    struct kb_kv kv = {.format = f, .heads = heads, .dim = 2, .slots = slots, .block = block, .table_stride = pages};

    if (block)
        kv.table = kit_shuffled(batch * pages);
    kv.data = kit_poison(f, batch * heads * 2 * (block ? pages * block : slots));
    return kv;
}

/* t: the heavy ones by slot, then the recent ones, oldest first. Returns the heavy slot that was lost, or -1. */
static int step(struct token *t, uint64_t n, uint64_t heavy, struct token new)
{
    uint64_t low = 0;
    struct token oldest;

    if (n < 2 * heavy - 1) {
        t[n] = new;
        return -1;
    }
    for (uint64_t s = 1; s < heavy; s++)
        low = t[s].score < t[low].score ? s : low;
    oldest = t[heavy];
    memmove(&t[heavy], &t[heavy + 1], (heavy - 2) * sizeof(*t));
    t[low] = oldest;
    t[2 * heavy - 2] = new;
    return (int)low;
}

START_TEST(promote_all)
{
    const uint64_t B = runs[_i].batch, H = runs[_i].heavy;
    const uint32_t G = runs[_i].kv_heads, group = runs[_i].heads / G;
    const struct kit_out outs[] = {KIT_OUT(kb_h2o_promote, scores, runs[_i].score, 0, false), KIT_OUT(kb_h2o_promote, k.data, runs[_i].kv, 0, false),
                                   KIT_OUT(kb_h2o_promote, v.data, runs[_i].kv, 0, false), KIT_OUT(kb_h2o_promote, victim, KVP_I32, 0, false)};
    struct kb_h2o_promote a = {.batch = B, .heads = runs[_i].heads, .kv_heads = G, .head_dim = 2, .heavy = H, .score_format = runs[_i].score,
                               .score_stride = 2 * H + 1, .k = strip(B, G, 2 * H, runs[_i].block, runs[_i].kv),
                               .v = strip(B, G, 2 * H, runs[_i].block, runs[_i].kv)};
    struct token list[4][MOST];

    a.scores = kit_poison(a.score_format, B * G * a.score_stride);
    for (uint64_t p = 0; p < runs[_i].steps; p++) {
        a.position = p;
        a.used = p < 2 * H - 1 ? p : 2 * H - 1;
        a.probs = kit_poison(KVP_F32, B * a.heads * (a.used + 1));
        for (uint64_t i = 0; i < B * a.heads * (a.used + 1); i++)
            ((float *)kb_at(a.probs))[i] = (float)(kit_random() % runs[_i].levels) * 0.37f;
        for (uint64_t r = 0; r < B * G * 2; r++) { /* the new row is there already */
            kb_store(a.k.format, kb_kv_row(&a.k, r / 2 / G, (uint32_t)(r / 2 % G), a.used), r % 2, (float)p);
            kb_store(a.v.format, kb_kv_row(&a.v, r / 2 / G, (uint32_t)(r / 2 % G), a.used), r % 2, -(float)p);
        }
        a.victim = kit_poison(KVP_I32, B * G);
        KIT_CHECK(KB_H2O_PROMOTE, a, outs);
        for (uint64_t r = 0; r < B * G; r++) {
            const float *probs = (const float *)kb_at(a.probs) + r * group * (a.used + 1);
            float add[MOST + 1] = {0};

            for (uint64_t s = 0; s <= a.used; s++)
                for (uint32_t h = 0; h < group; h++)
                    add[s] += probs[h * (a.used + 1) + s];
            for (uint64_t s = 0; s < a.used; s++) { /* a recent token's slot: its place in the ring */
                const uint64_t slot = s < H || a.used < 2 * H - 1 ? s : H + (p - (2 * H - 1) + s - H + (H - 1)) % (H - 1);

                list[r][s].score = kb_rounded(a.score_format, list[r][s].score + add[slot]);
            }
            ck_assert_int_eq(((int32_t *)kb_at(a.victim))[r], step(list[r], a.used, H, (struct token){kb_rounded(a.score_format, add[a.used]), (float)p}));
            for (uint64_t s = 0; s < (p < 2 * H - 1 ? p + 1 : 2 * H - 1); s++) {
                const uint64_t slot = s < H || p + 1 < 2 * H - 1 ? s : H + (p + 1 - (2 * H - 1) + s - H + (H - 1)) % (H - 1);

                ck_assert_float_eq(kb_load(a.score_format, kb_at(a.scores), r * a.score_stride + slot), list[r][s].score);
                ck_assert_float_eq(kb_load(a.k.format, kb_kv_row(&a.k, r / G, (uint32_t)(r % G), slot), 1), list[r][s].row);
                ck_assert_float_eq(kb_load(a.v.format, kb_kv_row(&a.v, r / G, (uint32_t)(r % G), slot), 0), -list[r][s].row);
            }
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/promote");
    TCase *t = tcase_create("promote");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, promote_all, 0, (int)COUNT(runs));
    suite_add_tcase(s, t);
    return kit_main(s);
}
