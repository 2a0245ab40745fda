/* ragged.c - AdaKV's shares against the rule spelled out, and ragged rows against plain strips, head by head */
#include "tests/kernels/kit.h"

static const struct {
    uint64_t batch, tokens, columns, base, floor, levels; /* few levels make ties */
    uint32_t sets;
} shares[] = {
    {1, 20, 16, 5, 1, 1000000, 2}, {2, 100, 92, 10, 2, 3, 4},  {1, 40, 40, 7, 1, 1000000, 1},   {1, 60, 50, 13, 0, 5, 3}, {2, 30, 28, 28, 5, 9, 2},
    {1, 600, 592, 50, 10, 1000000, 8}, {1, 64, 60, 9, 9, 2, 5}, {3, 50, 42, 11, 2, 1000000, 7},
};

/* Does (t, u) of two sets come before (s, v)? */
static bool beats(const float *scores, uint64_t tokens, uint64_t set, uint64_t t, uint64_t other, uint64_t u)
{
    const float a = scores[set * tokens + t], b = scores[other * tokens + u];

    return a > b || (a == b && (set < other || (set == other && t < u)));
}

/* Set s keeps `n` of its own: of the fraction floor + count * (base - floor) / base the whole part, or one more. */
static void check_shares(const struct kb_share_tokens *a, uint64_t b)
{
    const float *scores = (const float *)kb_at(a->scores) + b * a->sets * a->tokens;
    const uint64_t last = a->tokens - a->columns;
    uint64_t part[16], sum = 0, more = UINT64_MAX, less = 0;

    for (uint64_t s = 0; s < a->sets; s++) {
        uint64_t count = 0;

        for (uint64_t t = 0; t < a->columns; t++) {
            uint64_t better = 0;

            for (uint64_t i = 0; i < a->sets * a->columns; i++)
                better += beats(scores, a->tokens, i / a->columns, i % a->columns, s, t);
            count += better < a->sets * a->base;
        }
        part[s] = count * (a->base - a->floor);
    }
    for (uint64_t s = 0; s < a->sets; s++) {
        const uint64_t n = (uint64_t)((int32_t *)kb_at(a->lengths))[b * a->list_stride + s] - last, whole = a->floor + part[s] / a->base;

        ck_assert(n == whole || (n == whole + 1 && part[s] % a->base));
        sum += n;
        if (n > whole) /* the larger remainders get the rest */
            more = part[s] % a->base < more ? part[s] % a->base : more;
        else
            less = part[s] % a->base > less ? part[s] % a->base : less;
    }
    ck_assert_uint_eq(sum, a->sets * a->base);
    ck_assert(more == UINT64_MAX || more >= less);
}

static void check_index(const struct kb_share_tokens *a, uint64_t b)
{
    const float *scores = (const float *)kb_at(a->scores) + b * a->sets * a->tokens;
    const int32_t *index = (const int32_t *)kb_at(a->index) + b * a->sets * (a->base + a->tokens - a->columns);

    for (uint64_t s = 0; s < a->sets; s++) {
        const uint64_t n = (uint64_t)((int32_t *)kb_at(a->lengths))[b * a->list_stride + s] - (a->tokens - a->columns);
        uint64_t slot = 0;

        for (uint64_t t = 0; t < a->tokens; t++) {
            uint64_t better = 0;

            for (uint64_t u = 0; t < a->columns && u < a->columns; u++)
                better += beats(scores, a->tokens, s, u, s, t);
            if (t >= a->columns || better < n)
                ck_assert_int_eq(index[slot++], (int)t);
        }
        index += slot;
    }
}

START_TEST(share_all)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_share_tokens, lengths, KVP_I32, 0, false), KIT_OUT(kb_share_tokens, index, KVP_I32, 0, false)};
    struct kb_share_tokens a = {.batch = shares[_i].batch, .tokens = shares[_i].tokens, .sets = shares[_i].sets, .columns = shares[_i].columns,
                                .base = shares[_i].base, .floor = shares[_i].floor, .list_stride = shares[_i].sets + 3};

    a.scores = kit_poison(KVP_F32, a.batch * a.sets * a.tokens);
    for (uint64_t r = 0; r < a.batch * a.sets; r++)
        for (uint64_t t = 0; t < a.columns; t++) /* some sets score higher */
            ((float *)kb_at(a.scores))[r * a.tokens + t] = (float)(kit_random() % shares[_i].levels + r) * 0.37f;
    a.lengths = kit_poison(KVP_I32, a.batch * a.list_stride);
    a.index = kit_poison(KVP_I32, a.batch * a.sets * (a.base + a.tokens - a.columns));
    KIT_CHECK(KB_SHARE_TOKENS, a, outs);
    for (uint64_t b = 0; b < a.batch; b++) {
        check_shares(&a, b);
        check_index(&a, b);
    }
}
END_TEST

/* ---- rows ---------------------------------------------------------------------------------------- */

static const struct {
    uint64_t batch, tokens;
    uint32_t heads, stored, kv_heads, dim;
    enum kvp_format format;
} rows[] = {
    {1, 9, 2, 2, 1, 8, KVP_F32}, {2, 40, 4, 2, 2, 16, KVP_F16}, {2, 33, 6, 6, 3, 24, KVP_BF16}, {1, 300, 8, 4, 4, 64, KVP_F16},
};

/* Heads of random lengths with gaps between them; the first step writes chosen tokens, the second one more to each. */
START_TEST(rows_all)
{
    static const struct kit_out out[] = {KIT_OUT(kb_attn_ragged, out, KVP_F32, 1e-5, false)};
    const uint64_t B = rows[_i].batch, T = rows[_i].tokens, H = rows[_i].heads, S = rows[_i].stored, G = rows[_i].kv_heads, d = rows[_i].dim;
    const struct kit_out dst[] = {KIT_OUT(kb_ragged_write, dst.data, rows[_i].format, 0, false)};
    struct kb_ragged k = {.format = rows[_i].format, .heads = (uint32_t)S, .dim = (uint32_t)d, .rows = S * (T + 3), .list_stride = S + 1}, v;
    struct kb_ragged_write w = {.batch = B, .src_tokens = T, .src_stride = G * d + 2, .index_stride = S * T, .repeat = (uint32_t)(S / G)};
    struct kb_attn_ragged a = {.batch = B, .heads = (uint32_t)H, .scale = 0.4f, .q_stride = H * d + 1, .out_stride = H * d + 3};
    struct kb_span src[2] = {kit_rows(B * T, G * d, w.src_stride), kit_rows(B * T, G * d, w.src_stride)};
    uint64_t length[2][8];

    k.data = kit_poison(k.format, B * k.rows * d);
    k.lengths = kit_poison(KVP_I32, B * k.list_stride);
    k.starts = kit_poison(KVP_I32, B * k.list_stride);
    w.index = kit_ints(B * S * T, 0, 0);
    for (uint64_t r = 0; r < B * S; r++) {
        length[r / S][r % S] = 1 + kit_random() % (T - 1);
        ((int32_t *)kb_at(k.lengths))[r / S * k.list_stride + r % S] = (int32_t)length[r / S][r % S];
        ((int32_t *)kb_at(k.starts))[r / S * k.list_stride + r % S] = (int32_t)(r % S * (T + 2) + 1);
    }
    for (uint64_t i = 0; i < B * S * T; i++)
        ((int32_t *)kb_at(w.index))[i] = (int32_t)(kit_random() % T);
    v = k;
    v.data = kit_poison(k.format, B * k.rows * d);
    for (int side = 0; side < 2; side++) {
        w.dst = side ? v : k;
        w.src = src[side];
        KIT_CHECK(KB_RAGGED_WRITE, w, dst);
        *(side ? &v : &k) = w.dst;
    }
    for (uint64_t r = 0; r < B * S; r++)
        ((int32_t *)kb_at(k.lengths))[r / S * k.list_stride + r % S]++;
    for (int side = 0; side < 2; side++) {
        struct kb_ragged_write one = w;

        one.dst = side ? v : k;
        one.src = src[side];
        one.index = (struct kb_span){0};
        one.src_first = T - 1;
        KIT_CHECK(KB_RAGGED_WRITE, one, dst);
        *(side ? &v : &k) = one.dst;
    }
    a.k = k;
    a.v = v;
    a.q = kit_rows(B, H * d, a.q_stride);
    a.out = kit_poison(KVP_F32, B * a.out_stride);
    KIT_CHECK(KB_ATTN_RAGGED, a, out);
    for (uint64_t r = 0; r < B * H; r++) {
        const uint64_t b = r / H, h = r % H, s = h / (H / S), g = s / (S / G);
        const float *q = (const float *)kb_at(a.q) + b * a.q_stride + h * d;
        double sum = 0, mix[64] = {0};
        uint64_t from = 0;

        for (uint64_t i = 0; i < s; i++)
            from += length[b][i];
        for (uint64_t j = 0; j <= length[b][s]; j++) {
            const uint64_t t = j < length[b][s] ? (uint64_t)((int32_t *)kb_at(w.index))[b * w.index_stride + from + j] : T - 1;
            const uint64_t at = (b * T + t) * w.src_stride + g * d;
            double x = 0;

            for (uint64_t i = 0; i < d; i++)
                x += (double)q[i] * (double)kb_rounded(k.format, ((float *)kb_at(src[0]))[at + i]);
            x = exp((double)a.scale * x);
            sum += x;
            for (uint64_t i = 0; i < d; i++)
                mix[i] += x * (double)kb_rounded(k.format, ((float *)kb_at(src[1]))[at + i]);
        }
        for (uint64_t i = 0; i < d; i++)
            ck_assert_double_eq_tol((double)((float *)kb_at(a.out))[b * a.out_stride + h * d + i], mix[i] / sum, 2e-5);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/ragged");
    TCase *t = tcase_create("ragged");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, share_all, 0, (int)COUNT(shares));
    tcase_add_loop_test(t, rows_all, 0, (int)COUNT(rows));
    suite_add_tcase(s, t);
    return kit_main(s);
}
