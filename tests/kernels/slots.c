/* slots.c - attention that turns its keys as it reads them, against turning first (rope) and attending then */
#include "tests/kernels/kit.h"

static const struct {
    uint64_t batch, used, first, ring, turned;
    uint32_t heads, kv_heads, dim, block;
    enum kvp_format format;
} cases[] = {
    {1, 1, 0, 0, 0, 1, 1, 2, 0, KVP_F32},    {2, 9, 4, 5, 0, 4, 2, 16, 0, KVP_F32},   {2, 9, 4, 5, 3, 4, 2, 16, 0, KVP_F16},
    {1, 70, 0, 70, 69, 6, 3, 24, 0, KVP_F32}, {1, 700, 4, 696, 500, 8, 2, 32, 0, KVP_BF16}, {3, 33, 1, 32, 7, 2, 2, 8, 4, KVP_F16},
    {1, 40, 0, 0, 0, 8, 1, 64, 16, KVP_F32},
};

/* Row (b, g, s) of a cache as f32, at slot `to` of another. */
static void copy_row(const struct kb_kv *from, const struct kb_kv *to, uint64_t b, uint32_t g, uint64_t s, uint64_t to_slot)
{
    for (uint32_t i = 0; i < from->dim; i++)
        kb_store(KVP_F32, kb_kv_row(to, b, g, to_slot), i, kb_load(from->format, kb_kv_row(from, b, g, s), i));
}

static struct kb_kv strip(uint64_t batch, uint32_t heads, uint64_t slots, uint32_t dim, uint32_t block, enum kvp_format f)
{
    uint64_t pages = block ? (slots + block - 1) / block : 0;
    struct kb_kv kv = {.format = f, .heads = heads, .dim = dim, .slots = slots, .block = block, .table_stride = pages};

    if (block)
        kv.table = kit_shuffled(batch * pages);
    kv.data = kit_floats(f, batch * heads * dim * (block ? pages * block : slots), 1);
    return kv;
}

/* The same keys in the order of their places, turned by the rope kernel, and q by its own place. */
static void check_order(const struct kb_attn_slots *x)
{
    const struct kb_attn_decode *a = &x->attn;
    const uint64_t B = a->batch, n = a->used;
    struct kb_attn_decode plain = *a;
    struct kb_rope r = {.heads = 1, .head_dim = a->head_dim, .stride = a->head_dim, .inv_freq = x->inv_freq};

    plain.k = strip(B, a->kv_heads, n, a->head_dim, 0, KVP_F32);
    plain.v = strip(B, a->kv_heads, n, a->head_dim, 0, KVP_F32);
    for (uint64_t i = 0; i < B * a->kv_heads * n; i++) {
        const uint64_t place = i % n, b = i / n / a->kv_heads;
        const uint32_t g = (uint32_t)(i / n % a->kv_heads);
        uint64_t slot = place < x->first || !x->ring ? place : x->first + (place - x->first + x->turned) % x->ring;

        copy_row(&a->k, &plain.k, b, g, slot, place);
        copy_row(&a->v, &plain.v, b, g, slot, place);
    }
    r.rows = B * a->kv_heads * n;
    r.x = plain.k.data;
    r.positions = kit_ints(r.rows, 0, 1);
    for (uint64_t i = 0; i < r.rows; i++)
        ((int32_t *)kb_at(r.positions))[i] = (int32_t)(i % n);
    kit_run(KB_ROPE, &r);
    plain.q = kit_poison(KVP_F32, B * a->heads * a->head_dim);
    plain.q_stride = (uint64_t)a->heads * a->head_dim;
    for (uint64_t b = 0; b < B; b++)
        memcpy((float *)kb_at(plain.q) + b * plain.q_stride, (const float *)kb_at(a->q) + b * a->q_stride, plain.q_stride * sizeof(float));
    r.rows = B * a->heads;
    r.x = plain.q;
    r.positions = kit_ints(r.rows, (int32_t)x->query, 0);
    kit_run(KB_ROPE, &r);
    plain.out = kit_poison(KVP_F32, B * a->out_stride);
    kit_run(KB_ATTN_DECODE, &plain);
    for (uint64_t i = 0; i < B * a->heads * a->head_dim; i++) {
        const uint64_t at = i / (a->heads * a->head_dim) * a->out_stride + i % (a->heads * a->head_dim);

        ck_assert_float_eq_tol(((const float *)kb_at(a->out))[at], ((const float *)kb_at(plain.out))[at], 1e-5f);
    }
}

START_TEST(turned_keys)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_slots, attn.out, KVP_F32, 1e-5, false)};
    const uint64_t B = cases[_i].batch, H = cases[_i].heads, d = cases[_i].dim;
    struct kb_attn_slots a = {.first = cases[_i].first, .ring = cases[_i].ring, .turned = cases[_i].turned, .query = cases[_i].used - 1};

    a.attn = (struct kb_attn_decode){.batch = B, .heads = cases[_i].heads, .kv_heads = cases[_i].kv_heads, .head_dim = cases[_i].dim,
                                     .scale = 0.4f, .used = cases[_i].used, .q_stride = H * d + 3, .out_stride = H * d + 5};
    a.attn.q = kit_rows(B, H * d, a.attn.q_stride);
    a.attn.k = strip(B, a.attn.kv_heads, a.attn.used + 2, a.attn.head_dim, cases[_i].block, cases[_i].format);
    a.attn.v = strip(B, a.attn.kv_heads, a.attn.used + 2, a.attn.head_dim, cases[_i].block, cases[_i].format);
    for (uint64_t r = 0; r < B * a.attn.kv_heads * 2; r++) { /* what holds no token */
        memset(kb_kv_row(&a.attn.k, r / 2 / a.attn.kv_heads, (uint32_t)(r / 2 % a.attn.kv_heads), a.attn.used + r % 2), 0xff, d * kb_element(a.attn.k.format));
        memset(kb_kv_row(&a.attn.v, r / 2 / a.attn.kv_heads, (uint32_t)(r / 2 % a.attn.kv_heads), a.attn.used + r % 2), 0xff, d * kb_element(a.attn.v.format));
    }
    a.inv_freq = kit_floats(KVP_F32, d / 2, 0);
    for (uint64_t i = 0; i < d / 2; i++)
        ((float *)kb_at(a.inv_freq))[i] = powf(10000, -2.0f * (float)i / (float)d);
    a.attn.out = kit_poison(KVP_F32, B * a.attn.out_stride);
    KIT_CHECK(KB_ATTN_SLOTS, a, outs);
    check_order(&a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/slots");
    TCase *t = tcase_create("slots");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, turned_keys, 0, (int)COUNT(cases));
    suite_add_tcase(s, t);
    return kit_main(s);
}
