/* pages.c - Quest's bounds, choice and attention, and a prompt's attention with sinks, against their definitions */
#include "tests/kernels/kit.h"

static struct kb_kv strip(uint64_t batch, uint32_t heads, uint64_t slots, uint32_t dim, uint32_t block, enum kvp_format f)
{
    uint64_t pages = block ? (slots + block - 1) / block : 0;
    struct kb_kv kv = {.format = f, .heads = heads, .dim = dim, .slots = slots, .block = block, .table_stride = pages};

    if (block)
        kv.table = kit_shuffled(batch * pages);
    kv.data = kit_floats(f, batch * heads * dim * (block ? pages * block : slots), 1);
    return kv;
}

/* ---- bounds ------------------------------------------------------------------------------------- */

static const struct {
    uint64_t batch, prompt, steps, page;
    uint32_t kv_heads, dim;
    enum kvp_format format;
} bounds[] = {
    {1, 1, 5, 4, 1, 8, KVP_F32},  {2, 16, 3, 16, 2, 16, KVP_F16}, {2, 17, 20, 16, 3, 24, KVP_BF16},
    {1, 40, 9, 1, 2, 5, KVP_F32}, {3, 7, 0, 100, 1, 64, KVP_F16}, {1, 300, 2, 7, 4, 32, KVP_F32},
};

START_TEST(bounds_all)
{
    const uint64_t B = bounds[_i].batch, P = bounds[_i].prompt, T = P + bounds[_i].steps, page = bounds[_i].page, G = bounds[_i].kv_heads,
                   d = bounds[_i].dim;
    const struct kit_out outs[] = {KIT_OUT(kb_page_bounds, min, bounds[_i].format, 0, false), KIT_OUT(kb_page_bounds, max, bounds[_i].format, 0, false)};
    struct kb_page_bounds a = {.batch = B, .kv_heads = (uint32_t)G, .head_dim = (uint32_t)d, .page = page, .format = bounds[_i].format,
                               .k = kit_rows(B * T, G * d, G * d + 3), .k_tokens = T, .k_stride = G * d + 3, .pages = (T + page - 1) / page + 1};

    a.min = kit_poison(a.format, B * G * a.pages * d);
    a.max = kit_poison(a.format, B * G * a.pages * d);
    for (uint64_t seen = 0; seen < T; seen += a.count) {
        a.position = a.k_first = seen;
        a.count = seen ? 1 : P;
        KIT_CHECK(KB_PAGE_BOUNDS, a, outs);
    }
    for (uint64_t r = 0; r < B * G * ((T + page - 1) / page) * d; r++) {
        const uint64_t c = r % d, p = r / d % ((T + page - 1) / page), g = r / d / ((T + page - 1) / page) % G, b = r / d / ((T + page - 1) / page) / G;
        const uint64_t at = ((b * G + g) * a.pages + p) * d + c;
        float low = INFINITY, high = -INFINITY;

        for (uint64_t t = p * page; t < T && t < (p + 1) * page; t++) {
            const float k = kb_rounded(a.format, ((float *)kb_at(a.k))[(b * T + t) * a.k_stride + g * d + c]);

            low = fminf(low, k);
            high = fmaxf(high, k);
        }
        ck_assert_float_eq(kb_load(a.format, kb_at(a.min), at), low);
        ck_assert_float_eq(kb_load(a.format, kb_at(a.max), at), high);
    }
}
END_TEST

/* ---- choice and attention ------------------------------------------------------------------------- */

static const struct {
    uint64_t batch, used, page, chosen;
    uint32_t heads, kv_heads, dim, block;
    enum kvp_format format;
} picks[] = {
    {1, 33, 4, 3, 1, 1, 8, 0, KVP_F32},   {2, 64, 16, 3, 4, 2, 16, 0, KVP_F16},  {2, 65, 16, 4, 6, 3, 24, 8, KVP_F16},
    {1, 40, 1, 7, 4, 4, 8, 16, KVP_BF16}, {1, 700, 16, 20, 8, 1, 64, 0, KVP_F32}, {3, 21, 10, 1, 2, 1, 8, 4, KVP_F32},
};

/* Page p of (b, g) is chosen: it is the newest, or fewer than chosen - 1 of the others beat it. */
static bool is_chosen(const struct kb_page_select *a, uint64_t b, uint64_t g, uint64_t p)
{
    const uint64_t last = (a->used - 1) / a->page, d = a->head_dim, group = a->heads / a->kv_heads;
    uint64_t better = 0;
    double mine = 0;

    if (p == last)
        return true;
    for (uint64_t turn = 0; turn <= last; turn++) { /* p first, then the others */
        const uint64_t l = turn == 0 ? p : turn - 1;
        double sum = 0;

        for (uint64_t h = g * group; h < (g + 1) * group; h++)
            for (uint64_t i = 0; i < d; i++) {
                const double q = (double)((float *)kb_at(a->q))[b * a->q_stride + h * d + i];
                const uint64_t at = ((b * a->kv_heads + g) * a->pages + l) * d + i;

                sum += fmax(q * (double)kb_load(a->format, kb_at(a->min), at), q * (double)kb_load(a->format, kb_at(a->max), at));
            }
        sum = (double)(float)sum;
        if (turn == 0)
            mine = sum;
        else
            better += sum > mine || (sum == mine && l < p);
    }
    return better < a->chosen - 1;
}

static void check_attention(const struct kb_attn_pages *x, uint64_t b, uint32_t h)
{
    const struct kb_attn_decode *a = &x->attn;
    const uint32_t d = a->head_dim, g = h / (a->heads / a->kv_heads);
    const int32_t *list = (const int32_t *)kb_at(x->list) + (b * a->kv_heads + g) * x->chosen;
    const float *q = (const float *)kb_at(a->q) + b * a->q_stride + (uint64_t)h * d, *got = (const float *)kb_at(a->out) + b * a->out_stride + (uint64_t)h * d;
    double out[64] = {0}, sum = 0;

    for (uint64_t i = 0; i < x->chosen; i++)
        for (uint64_t s = (uint64_t)list[i] * x->page; s < ((uint64_t)list[i] + 1) * x->page && s < a->used; s++) {
            double w = 0;

            for (uint32_t c = 0; c < d; c++)
                w += (double)q[c] * (double)kb_load(a->k.format, kb_kv_row(&a->k, b, g, s), c);
            w = exp((double)a->scale * w);
            sum += w;
            for (uint32_t c = 0; c < d; c++)
                out[c] += w * (double)kb_load(a->v.format, kb_kv_row(&a->v, b, g, s), c);
        }
    for (uint32_t c = 0; c < d; c++)
        ck_assert_double_eq_tol((double)got[c], out[c] / sum, 1e-5);
}

START_TEST(picks_all)
{
    static const struct kit_out list[] = {KIT_OUT(kb_page_select, list, KVP_I32, 0, false)};
    static const struct kit_out out[] = {KIT_OUT(kb_attn_pages, attn.out, KVP_F32, 1e-5, false)};
    const uint64_t B = picks[_i].batch, H = picks[_i].heads, G = picks[_i].kv_heads, d = picks[_i].dim, used = picks[_i].used;
    struct kb_page_select s = {.batch = B, .used = used, .heads = picks[_i].heads, .kv_heads = picks[_i].kv_heads, .head_dim = picks[_i].dim,
                               .page = picks[_i].page, .chosen = picks[_i].chosen, .q_stride = H * d + 1, .format = picks[_i].format,
                               .pages = (used - 1) / picks[_i].page + 3};
    struct kb_attn_pages a = {.page = s.page, .chosen = s.chosen};

    s.q = kit_rows(B, H * d, s.q_stride);
    s.min = kit_poison(s.format, B * G * s.pages * d);
    s.max = kit_poison(s.format, B * G * s.pages * d);
    for (uint64_t r = 0; r < B * G * ((used - 1) / s.page + 1) * d; r++) {
        const uint64_t n = ((used - 1) / s.page + 1) * d, at = r / n * s.pages * d + r % n;
        const float x = kit_uniform(), y = kit_uniform();

        kb_store(s.format, kb_at(s.min), at, fminf(x, y));
        kb_store(s.format, kb_at(s.max), at, fmaxf(x, y));
    }
    s.list = kit_poison(KVP_I32, B * G * s.chosen);
    KIT_CHECK(KB_PAGE_SELECT, s, list);
    for (uint64_t r = 0; r < B * G; r++) {
        const int32_t *got = (const int32_t *)kb_at(s.list) + r * s.chosen;
        uint64_t n = 0;

        for (uint64_t p = 0; p <= (used - 1) / s.page; p++)
            if (is_chosen(&s, r / G, r % G, p))
                ck_assert_int_eq(got[n++], (int)p);
        ck_assert_uint_eq(n, s.chosen);
    }
    a.list = s.list;
    a.attn = (struct kb_attn_decode){.batch = B, .heads = s.heads, .kv_heads = s.kv_heads, .head_dim = s.head_dim, .scale = 0.3f, .used = used,
                                     .q_stride = s.q_stride, .q = s.q, .out_stride = H * d + 2};
    a.attn.k = strip(B, s.kv_heads, used + 2, s.head_dim, picks[_i].block, s.format);
    a.attn.v = strip(B, s.kv_heads, used + 2, s.head_dim, picks[_i].block, s.format);
    for (uint64_t r = 0; r < B * G * (used + 2); r++) { /* what is not chosen is not read */
        const uint64_t b = r / (used + 2) / G, slot = r % (used + 2);
        const uint32_t g = (uint32_t)(r / (used + 2) % G);

        if (slot < used && is_chosen(&s, b, g, slot / s.page))
            continue;
        memset(kb_kv_row(&a.attn.k, b, g, slot), 0xff, d * kb_element(s.format));
        memset(kb_kv_row(&a.attn.v, b, g, slot), 0xff, d * kb_element(s.format));
    }
    a.attn.out = kit_poison(KVP_F32, B * a.attn.out_stride);
    KIT_CHECK(KB_ATTN_PAGES, a, out);
    for (uint64_t b = 0; b < B; b++)
        for (uint32_t h = 0; h < H; h++)
            check_attention(&a, b, h);
}
END_TEST

/* ---- sinks ---------------------------------------------------------------------------------------- */

static const struct {
    uint64_t batch, tokens, window, sinks;
    uint32_t heads, kv_heads, dim;
} sinks[] = {
    {1, 9, 3, 2, 2, 1, 8},   {2, 40, 5, 4, 4, 2, 16},     {1, 300, 40, 1, 2, 2, 24},  {1, 700, 100, 64, 2, 1, 8},
    {1, 20, 30, 4, 2, 2, 8}, {1, 600, 256, 300, 2, 1, 8}, {1, 30, 4, 0, 2, 1, 8},     {1, 20, 3, 50, 2, 2, 8},
    {1, 1, 1, 1, 1, 1, 4},   {1, 900, 1, 257, 1, 1, 8},
};

static void check_query(const struct kb_attn_sinks *x, uint64_t b, uint64_t i, uint32_t h)
{
    const struct kb_attn_prefill *a = &x->attn;
    const uint32_t d = a->head_dim, g = h / (a->heads / a->kv_heads);
    const float *q = (const float *)kb_at(a->q) + (b * a->tokens + i) * a->stride + (uint64_t)h * d;
    double out[64] = {0}, sum = 0;

    for (uint64_t j = 0; j <= i; j++) {
        const float *k = (const float *)kb_at(a->k) + (b * a->tokens + j) * a->stride + (uint64_t)g * d;
        double w = 0;

        if (j >= x->sinks && i - j >= a->window)
            continue;
        for (uint32_t c = 0; c < d; c++)
            w += (double)q[c] * (double)k[c];
        w = exp((double)a->scale * w);
        sum += w;
        for (uint32_t c = 0; c < d; c++)
            out[c] += w * (double)((const float *)kb_at(a->v))[(b * a->tokens + j) * a->stride + (uint64_t)g * d + c];
    }
    for (uint32_t c = 0; c < d; c++)
        ck_assert_double_eq_tol((double)((const float *)kb_at(a->out))[(b * a->tokens + i) * a->out_stride + (uint64_t)h * d + c], out[c] / sum, 2e-5);
    ck_assert_double_eq_tol((double)((const float *)kb_at(a->lse))[(b * a->heads + h) * a->tokens + i], log(sum), 2e-5);
}

START_TEST(sinks_all)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_sinks, attn.out, KVP_F32, 1e-5, false), KIT_OUT(kb_attn_sinks, attn.lse, KVP_F32, 1e-5, false)};
    const uint64_t B = sinks[_i].batch, T = sinks[_i].tokens, H = sinks[_i].heads, G = sinks[_i].kv_heads, d = sinks[_i].dim;
    struct kb_attn_sinks a = {.sinks = sinks[_i].sinks};

    a.attn = (struct kb_attn_prefill){.batch = B, .tokens = T, .heads = sinks[_i].heads, .kv_heads = sinks[_i].kv_heads, .head_dim = sinks[_i].dim,
                                      .window = sinks[_i].window, .scale = 0.3f, .stride = (H + 2 * G) * d + 1, .out_stride = H * d + 1};
    a.attn.q = kit_rows(B * T, H * d, a.attn.stride);
    a.attn.k = kit_rows(B * T, G * d, a.attn.stride);
    a.attn.v = kit_rows(B * T, G * d, a.attn.stride);
    a.attn.out = kit_poison(KVP_F32, B * T * a.attn.out_stride);
    a.attn.lse = kit_poison(KVP_F32, B * H * T);
    KIT_CHECK(KB_ATTN_SINKS, a, outs);
    for (uint64_t i = 0; i < B * T; i++)
        for (uint32_t h = 0; h < H; h++)
            check_query(&a, i / T, i % T, h);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/pages");
    TCase *t = tcase_create("pages");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, bounds_all, 0, (int)COUNT(bounds));
    tcase_add_loop_test(t, picks_all, 0, (int)COUNT(picks));
    tcase_add_loop_test(t, sinks_all, 0, (int)COUNT(sinks));
    suite_add_tcase(s, t);
    return kit_main(s);
}
