/* pair.c - MiniCache's merge by what it must satisfy, and attention over merged rows against restoring them first */
#include "tests/kernels/kit.h"

static struct kb_kv strip(uint64_t batch, uint32_t heads, uint64_t slots, uint32_t dim, uint32_t block, enum kvp_format f)
{
    uint64_t pages = block ? (slots + block - 1) / block : 0;
    struct kb_kv kv = {.format = f, .heads = heads, .dim = dim, .slots = slots, .block = block, .table_stride = pages};

    if (block)
        kv.table = kit_shuffled(batch * pages);
    kv.data = kit_poison(f, batch * heads * dim * (block ? pages * block : slots));
    return kv;
}

static const struct {
    uint64_t batch, prompt, steps, ring; /* ring 0: as many slots as tokens */
    uint32_t heads, kv_heads, dim, block;
    bool per_token, wide_list;
    double share;
    enum kvp_format format;
} cases[] = {
    {1, 20, 10, 0, 2, 1, 8, 0, false, false, 0.1, KVP_F32},  {2, 40, 5, 0, 4, 2, 16, 8, false, true, 0.05, KVP_F16},
    {2, 33, 9, 0, 6, 3, 24, 0, true, false, 0.2, KVP_F32},   {1, 9, 30, 12, 4, 2, 8, 5, false, false, 0.3, KVP_F32},
    {1, 30, 30, 12, 4, 4, 8, 0, false, true, 0.3, KVP_BF16}, {1, 25, 3, 0, 2, 2, 8, 0, false, false, 0, KVP_F32},
    {1, 12, 6, 0, 2, 1, 8, 0, false, false, 1, KVP_F32},     {3, 1, 80, 0, 2, 1, 5, 0, true, true, 0.05, KVP_F16},
    {1, 70, 1, 64, 8, 1, 32, 16, false, false, 0.04, KVP_F16},
};

enum { MOST = 128 };

/* What the test remembers of a run: the rows themselves, by slot. */
struct run {
    struct kb_pair_merge m;
    uint64_t token[MOST]; /* in slot */
    uint64_t slots;
    int64_t list[12][MOST]; /* [batch * kv_heads] by entry: the slot */
};

static int64_t entry(const struct kb_pair_merge *m, uint64_t r, uint64_t i)
{
    const uint64_t at = r * m->index_slots + i;

    return m->index_format == KVP_I64 ? ((int64_t *)kb_at(m->index))[at] : ((int32_t *)kb_at(m->index))[at];
}

static const float *source(const struct kb_pair_merge *m, bool upper, uint64_t b, uint64_t t, uint32_t g)
{
    return (const float *)kb_at(upper ? m->upper : m->lower) + (b * m->tokens + t) * (upper ? m->upper_stride : m->lower_stride) + (uint64_t)g * m->head_dim;
}

/* Cosine of the two layers' vectors of token t, of one head or of all. */
static double cosine(const struct kb_pair_merge *m, uint64_t b, uint64_t t, uint32_t g)
{
    double xx = 0, yy = 0, xy = 0;

    for (uint32_t h = m->per_token ? 0 : g; h < (m->per_token ? m->kv_heads : g + 1); h++)
        for (uint32_t i = 0; i < m->head_dim; i++) {
            const double x = (double)source(m, true, b, t, h)[i], y = (double)source(m, false, b, t, h)[i];

            xx += x * x;
            yy += y * y;
            xy += x * y;
        }
    return xy / sqrt(xx * yy);
}

/* A slot's direction is a unit vector in the plane of both, t of the way from the lower's to the upper's; lengths are
 * theirs. `tol`: half a spacing of the format. */
static void check_slot(const struct run *r, uint64_t b, uint32_t g, uint64_t slot, double tol)
{
    const struct kb_pair_merge *m = &r->m;
    const uint64_t t = r->token[slot], at = (m->per_token ? b : b * m->kv_heads + g) * m->size_slots + slot;
    const double w = acos(fmin(fmax(cosine(m, b, t, g), 1e-6 - 1), 1 - 1e-6)), k = (double)m->t;
    double xx = 0, yy = 0, dir[64 * 4], sum = 0;
    const uint32_t h0 = m->per_token ? 0 : g, h1 = m->per_token ? m->kv_heads : g + 1;

    for (uint32_t h = h0; h < h1; h++)
        for (uint32_t i = 0; i < m->head_dim; i++) {
            xx += (double)source(m, true, b, t, h)[i] * (double)source(m, true, b, t, h)[i];
            yy += (double)source(m, false, b, t, h)[i] * (double)source(m, false, b, t, h)[i];
        }
    for (uint32_t h = h0; h < h1; h++)
        for (uint32_t i = 0; i < m->head_dim; i++) {
            double *d = &dir[(h - h0) * m->head_dim + i];

            *d = (sin((1 - k) * w) * (double)source(m, false, b, t, h)[i] / sqrt(yy) + sin(k * w) * (double)source(m, true, b, t, h)[i] / sqrt(xx)) / sin(w);
            sum += *d * *d;
        }
    ck_assert_double_eq_tol(sum, 1, 1e-4); /* what SLERP keeps of itself */
    for (uint32_t i = 0; i < m->head_dim; i++)
        ck_assert_double_eq_tol((double)kb_load(m->direction.format, kb_kv_row(&m->direction, b, g, slot), i), dir[(g - h0) * m->head_dim + i], tol + 1e-5);
    ck_assert_double_eq_tol((double)kb_load(m->direction.format, kb_at(m->lower_size), at), sqrt(yy), (tol + 1e-6) * sqrt(yy));
    ck_assert_double_eq_tol((double)kb_load(m->direction.format, kb_at(m->upper_size), at), sqrt(xx), (tol + 1e-6) * sqrt(xx));
}

/* The list: what was chosen is further apart than what was not, of the tokens that there were; a kept entry has both rows. */
static void check_list(struct run *r, uint64_t b, uint32_t g, uint64_t first)
{
    const struct kb_pair_merge *m = &r->m;
    const uint64_t row = b * m->kv_heads + g;

    for (uint64_t i = 0; i < m->kept; i++) {
        const int64_t slot = entry(m, row, i);

        ck_assert(slot >= 0 && (uint64_t)slot < r->slots);
        ck_assert(i < m->was ? slot == r->list[row][i] : i == m->was || r->token[slot] > r->token[entry(m, row, i - 1)]);
        r->list[row][i] = slot;
        for (uint64_t j = 0; i >= m->was && j < m->count; j++) {
            const uint64_t t = first + j;
            bool chosen = false;

            for (uint64_t e = m->was; e < m->kept; e++)
                chosen = chosen || r->token[entry(m, row, e)] == t;
            ck_assert(chosen || cosine(m, b, t, g) >= cosine(m, b, r->token[slot], g) - 1e-9);
        }
        for (uint32_t c = 0; c < m->head_dim; c++) {
            ck_assert_float_eq(kb_load(m->direction.format, kb_kv_row(&m->lower_kept, b, g, i), c),
                               kb_rounded(m->direction.format, source(m, false, b, r->token[slot], g)[c]));
            ck_assert_float_eq(kb_load(m->direction.format, kb_kv_row(&m->upper_kept, b, g, i), c),
                               kb_rounded(m->direction.format, source(m, true, b, r->token[slot], g)[c]));
        }
    }
}

static void open_run(struct run *r, int c)
{
    const uint64_t B = cases[c].batch, T = cases[c].prompt + cases[c].steps, G = cases[c].kv_heads, d = cases[c].dim;
    const uint64_t slots = cases[c].ring ? cases[c].ring : T, room = (uint64_t)ceil(cases[c].share * (double)slots) + 1;
    const enum kvp_format f = cases[c].format, list = cases[c].wide_list ? KVP_I64 : KVP_I32;

    *r = (struct run){.slots = slots};
    r->m = (struct kb_pair_merge){.batch = B, .kv_heads = (uint32_t)G, .head_dim = (uint32_t)d, .per_token = cases[c].per_token, .t = 0.6f, .tokens = T,
                                  .lower_stride = G * d + 1, .upper_stride = G * d + 3, .ring = cases[c].ring, .size_slots = slots + 1,
                                  .index_format = list, .index_slots = room};
    r->m.lower = kit_rows(B * T, G * d, r->m.lower_stride);
    r->m.upper = kit_rows(B * T, G * d, r->m.upper_stride);
    r->m.direction = strip(B, (uint32_t)G, slots, (uint32_t)d, cases[c].block, f);
    r->m.lower_kept = strip(B, (uint32_t)G, room, (uint32_t)d, 0, f);
    r->m.upper_kept = strip(B, (uint32_t)G, room, (uint32_t)d, 0, f);
    r->m.lower_size = kit_poison(f, B * G * r->m.size_slots);
    r->m.upper_size = kit_poison(f, B * G * r->m.size_slots);
    r->m.index = kit_bytes(B * G * room * 8, 0xff);
}

/* One call: the newest `n` of `seen` tokens. */
static void merge(struct run *r, int c, uint64_t seen, uint64_t n)
{
    const enum kvp_format f = cases[c].format;
    const struct kit_out outs[] = {
        KIT_OUT(kb_pair_merge, direction.data, f, f == KVP_F32 ? 1e-5 : 8e-3, false), KIT_OUT(kb_pair_merge, lower_size, f, f == KVP_F32 ? 1e-6 : 8e-3, true),
        KIT_OUT(kb_pair_merge, upper_size, f, f == KVP_F32 ? 1e-6 : 8e-3, true), KIT_OUT(kb_pair_merge, lower_kept.data, f, 0, false),
        KIT_OUT(kb_pair_merge, upper_kept.data, f, 0, false), KIT_OUT(kb_pair_merge, index, KVP_I32, 0, false)};
    const uint64_t held = seen < r->slots ? seen : r->slots;

    r->m.was = r->m.kept;
    r->m.kept = (uint64_t)ceil(cases[c].share * (double)held);
    r->m.count = n;
    r->m.first = seen - n;
    r->m.slot = r->m.ring ? (seen - n) % r->m.ring : seen - n;
    for (uint64_t j = 0; j < n; j++)
        r->token[r->m.ring ? (seen - n + j) % r->m.ring : seen - n + j] = seen - n + j;
    KIT_CHECK(KB_PAIR_MERGE, r->m, outs);
}

static struct kb_span copy_of(struct kb_span s)
{
    struct kb_span c = kit_bytes(s.buf->bytes, 0);

    memcpy(c.buf->data, s.buf->data, s.buf->bytes);
    return c;
}

/* Attention over the slots with one skipped, against rows restored here. */
static void attend(const struct run *r, int c, uint64_t used, bool upper)
{
    const struct kb_pair_merge *m = &r->m;
    const uint32_t H = cases[c].heads, group = H / m->kv_heads, d = m->head_dim;
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_merged, attn.out, KVP_F32, 2e-5, false)};
    struct kb_attn_merged a = {.per_token = m->per_token, .k_size = upper ? m->upper_size : m->lower_size, .v_size = upper ? m->lower_size : m->upper_size,
                               .size_slots = m->size_slots, .skip = used > 3 ? used / 2 : UINT64_MAX, .kept = m->kept,
                               .k_kept = upper ? m->upper_kept : m->lower_kept, .v_kept = upper ? m->lower_kept : m->upper_kept,
                               .k_index = m->index, .v_index = m->index, .index_format = m->index_format, .index_slots = m->index_slots};

    a.attn = (struct kb_attn_decode){.batch = m->batch, .heads = H, .kv_heads = m->kv_heads, .head_dim = d, .scale = 0.4f, .used = used, .q_stride = H * d,
                                     .k = m->direction, .v = m->direction, .tail_stride = m->kv_heads * d, .out_stride = H * d};
    a.attn.q = kit_rows(m->batch, H * d, H * d);
    a.attn.tail_k = kit_rows(m->batch, m->kv_heads * d, m->kv_heads * d);
    a.attn.tail_v = kit_rows(m->batch, m->kv_heads * d, m->kv_heads * d);
    a.attn.out = kit_poison(KVP_F32, m->batch * H * d);
    a.attn.k.data = a.attn.v.data = copy_of(m->direction.data);
    for (uint64_t n = 0; a.skip < used && n < m->batch * m->kv_heads; n++) /* what is skipped is not read */
        memset(kb_kv_row(&a.attn.k, n / m->kv_heads, (uint32_t)(n % m->kv_heads), a.skip), 0xff, d * kb_element(m->direction.format));
    KIT_CHECK(KB_ATTN_MERGED, a, outs);
    for (uint64_t n = 0; n < m->batch * H; n++) {
        const uint64_t b = n / H;
        const uint32_t g = (uint32_t)(n % H) / group;
        const float *q = (const float *)kb_at(a.attn.q) + n * d;
        double out[64] = {0}, sum = 0;

        for (uint64_t s = 0; s <= used; s++) {
            double k[64], v[64], w = 0;
            int64_t kept = -1;

            if (s == a.skip)
                continue;
            for (uint64_t i = 0; i < a.kept; i++)
                kept = entry(m, b * m->kv_heads + g, i) == (int64_t)s && s < used ? (int64_t)i : kept;
            for (uint32_t i = 0; i < d; i++) {
                const uint64_t at = (m->per_token ? b : b * m->kv_heads + g) * m->size_slots + s, tail = b * m->kv_heads * d + g * d + i;

                if (s == used) {
                    k[i] = (double)((float *)kb_at(a.attn.tail_k))[tail];
                    v[i] = (double)((float *)kb_at(a.attn.tail_v))[tail];
                } else if (kept >= 0) {
                    k[i] = (double)kb_load(a.k_kept.format, kb_kv_row(&a.k_kept, b, g, (uint64_t)kept), i);
                    v[i] = (double)kb_load(a.k_kept.format, kb_kv_row(&a.v_kept, b, g, (uint64_t)kept), i);
                } else {
                    k[i] = (double)kb_load(a.attn.k.format, kb_kv_row(&a.attn.k, b, g, s), i);
                    v[i] = k[i] * (double)kb_load(a.attn.k.format, kb_at(a.v_size), at);
                    k[i] *= (double)kb_load(a.attn.k.format, kb_at(a.k_size), at);
                }
                w += (double)q[i] * k[i];
            }
            w = exp((double)a.attn.scale * w);
            sum += w;
            for (uint32_t i = 0; i < d; i++)
                out[i] += w * v[i];
        }
        for (uint32_t i = 0; i < d; i++)
            ck_assert_double_eq_tol((double)((float *)kb_at(a.attn.out))[n * d + i], out[i] / sum, 3e-5);
    }
}

START_TEST(pairs_all)
{
    const double tol = cases[_i].format == KVP_F32 ? 0 : cases[_i].format == KVP_F16 ? 0x1p-11 : 0x1p-8;
    const uint64_t T = cases[_i].prompt + cases[_i].steps;
    struct run r;

    open_run(&r, _i);
    for (uint64_t seen = cases[_i].prompt; seen <= T; seen++) {
        const uint64_t held = seen < r.slots ? seen : r.slots, n = seen == cases[_i].prompt ? held : 1;

        merge(&r, _i, seen, n);
        for (uint64_t b = 0; b < r.m.batch; b++)
            for (uint32_t g = 0; g < r.m.kv_heads; g++) {
                for (uint64_t s = 0; s < held; s++)
                    check_slot(&r, b, g, s, tol);
                check_list(&r, b, g, seen - n);
            }
        attend(&r, _i, held, seen % 2);
    }
}
END_TEST

/* A list that another call made: rows of those tokens, whatever their angles. */
START_TEST(given_list)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_pair_merge, lower_kept.data, KVP_F32, 0, false), KIT_OUT(kb_pair_merge, upper_kept.data, KVP_F32, 0, false),
                                          KIT_OUT(kb_pair_merge, index, KVP_I32, 0, false), KIT_OUT(kb_pair_merge, direction.data, KVP_F32, 1e-5, false)};
    struct run r;

    open_run(&r, 0);
    r.m.count = 20;
    r.m.kept = 2;
    r.m.given = true;
    ((int32_t *)kb_at(r.m.index))[0] = 3;
    ((int32_t *)kb_at(r.m.index))[1] = 17;
    KIT_CHECK(KB_PAIR_MERGE, r.m, outs);
    ck_assert_float_eq(kb_load(KVP_F32, kb_kv_row(&r.m.lower_kept, 0, 0, 1), 2), source(&r.m, false, 0, 17, 0)[2]);
    ck_assert_float_eq(kb_load(KVP_F32, kb_kv_row(&r.m.upper_kept, 0, 0, 0), 5), source(&r.m, true, 0, 3, 0)[5]);
}
END_TEST

/* Equal and opposite vectors, and a vector of zeros, stay finite. */
START_TEST(extremes)
{
    struct run r;

    open_run(&r, 0);
    for (uint32_t i = 0; i < 8; i++) {
        float *lower = kb_at(r.m.lower), *upper = kb_at(r.m.upper);

        upper[i] = lower[i];
        upper[r.m.upper_stride + i] = -lower[r.m.lower_stride + i];
        upper[2 * r.m.upper_stride + i] = 0;
        lower[3 * r.m.lower_stride + i] = upper[3 * r.m.upper_stride + i] = 0;
    }
    merge(&r, 0, 20, 20);
    for (uint64_t s = 0; s < 4; s++)
        for (uint32_t i = 0; i < 8; i++)
            ck_assert(isfinite(kb_load(KVP_F32, kb_kv_row(&r.m.direction, 0, 0, s), i)));
    for (uint32_t i = 0; i < 8; i++)
        ck_assert_float_eq_tol(kb_load(KVP_F32, kb_kv_row(&r.m.direction, 0, 0, 0), i) * kb_load(KVP_F32, kb_at(r.m.upper_size), 0), ((float *)kb_at(r.m.lower))[i],
                               2e-3f); /* the cosine stops 1e-6 short of 1 */
    ck_assert_int_eq(entry(&r.m, 0, 0), 1); /* the opposite pair is the most distant */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/pair");
    TCase *t = tcase_create("pair");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, pairs_all, 0, (int)COUNT(cases));
    tcase_add_test(t, given_list);
    tcase_add_test(t, extremes);
    suite_add_tcase(s, t);
    return kit_main(s);
}
