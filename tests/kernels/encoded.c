/* encoded.c - steps that write, move and turn rows in any form `kv` gives them: against the reference bit by bit, and against
 * the same step over the numbers that the rows stand for */
#include "tests/kernels/kit.h"

static const struct {
    enum kvp_format format;
    enum kb_scales scales;
    uint32_t block; /* tokens of a page */
} forms[] = {{KVP_INT8, KB_SCALES_ROW, 0},  {KVP_INT8, KB_SCALES_GROUP, 4}, {KVP_INT4, KB_SCALES_GROUP, 0}, {KVP_INT4, KB_SCALES_ROW, 4},
             {KVP_FP8, KB_SCALES_TENSOR, 0}, {KVP_FP8, KB_SCALES_GROUP, 4},  {KVP_Q8_0, KB_SCALES_NONE, 0},  {KVP_NVFP4, KB_SCALES_NONE, 4},
             {KVP_F16, KB_SCALES_NONE, 4}};
enum { B = 2, G = 2, H = 4, D = 32, SLOTS = 24, PAGES = SLOTS / 4, RECORDS = B * G * SLOTS };

static struct kb_kv strip(int form)
{
    struct kb_kv kv = {.format = forms[form].format, .heads = G, .dim = D, .slots = SLOTS, .block = forms[form].block, .table_stride = PAGES,
                       .scales = forms[form].scales, .scale_format = KVP_F16, .group = 16};

    kv.data = kit_bytes(RECORDS * kb_row_bytes(kv.format, D), 0);
    kv.scale = kit_floats(kv.scales == KB_SCALES_GROUP ? KVP_F16 : KVP_F32, RECORDS * 2, 1);
    kv.shift = kit_floats(KVP_F16, RECORDS * 2, 1);
    if (kv.scales == KB_SCALES_TENSOR)
        ((float *)kb_at(kv.scale))[0] = 1.0f / 448;
    if (kv.block)
        kv.table = kit_shuffled(B * PAGES);
    return kv;
}

static void fill(const struct kb_kv *kv, uint64_t used)
{
    kit_run(KB_CACHE_WRITE, &(struct kb_cache_write){.batch = B, .count = used, .dst = *kv, .src = kit_floats(KVP_F32, B * used * G * D, 1),
                                                     .src_tokens = used, .src_stride = G * D});
}

/* What attention sees of slot s: with one key of it alone, the value is the row. */
static void row_of(const struct kb_kv *kv, uint64_t s, float *out)
{
    struct kb_kv moved = *kv;
    struct kb_attn_pages a = {.attn = {.batch = B, .heads = G, .kv_heads = G, .head_dim = D, .scale = 0, .used = SLOTS, .q_stride = G * D,
                                       .q = kit_floats(KVP_F32, B * G * D, 0), .k = moved, .v = moved, .out_stride = G * D,
                                       .out = kit_poison(KVP_F32, B * G * D)},
                              .page = 1, .chosen = 1, .list = kit_ints(B * G, (int32_t)s, 0)};

    kit_run(KB_ATTN_PAGES, &a);
    memcpy(out, kb_at(a.attn.out), B * G * D * sizeof(*out));
}

START_TEST(h2o)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_h2o_step, k.data, KVP_U8, 0, false), KIT_OUT(kb_h2o_step, k.scale, KVP_U8, 0, false),
                                          KIT_OUT(kb_h2o_step, k.shift, KVP_U8, 0, false), KIT_OUT(kb_h2o_step, v.data, KVP_U8, 0, false),
                                          KIT_OUT(kb_h2o_step, v.scale, KVP_U8, 0, false), KIT_OUT(kb_h2o_step, scores, KVP_F32, 0, false),
                                          KIT_OUT(kb_h2o_step, victim, KVP_I32, 0, false)};
    float before[B * G * D], after[B * G * D];
    struct kb_h2o_step a = {.batch = B, .heads = H, .kv_heads = G, .head_dim = D, .used = SLOTS, .heavy = 16, .recent = 8, .position = 50,
                            .score_format = KVP_F32, .score_stride = SLOTS, .k = strip(_i), .v = strip(_i), .new_stride = G * D};
    const uint64_t oldest = 16 + (50 - 16) % 8;
    int moved = 0;

    fill(&a.k, SLOTS);
    fill(&a.v, SLOTS);
    a.probs = kit_floats(KVP_F32, B * H * (SLOTS + 1), 0.01f);
    a.scores = kit_floats(KVP_F32, B * G * SLOTS, 1);
    a.victim = kit_poison(KVP_I32, B * G);
    a.new_k = kit_floats(KVP_F32, B * G * D, 1);
    a.new_v = kit_floats(KVP_F32, B * G * D, 1);
    row_of(&a.k, oldest, before);
    KIT_CHECK(KB_H2O_STEP, a, outs);
    for (uint64_t r = 0; r < B * G; r++) { /* the oldest recent token's row is where the victim's was */
        const int32_t lost = ((const int32_t *)kb_at(a.victim))[r];

        if ((uint64_t)lost == oldest)
            continue;
        row_of(&a.k, (uint64_t)lost, after);
        ck_assert(memcmp(after + r * D, before + r * D, D * sizeof(float)) == 0);
        moved++;
    }
    ck_assert_int_gt(moved, 0);
}
END_TEST

START_TEST(tova)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_tova_step, k.data, KVP_U8, 0, false), KIT_OUT(kb_tova_step, k.scale, KVP_U8, 0, false),
                                          KIT_OUT(kb_tova_step, k.shift, KVP_U8, 0, false), KIT_OUT(kb_tova_step, v.data, KVP_U8, 0, false),
                                          KIT_OUT(kb_tova_step, v.scale, KVP_U8, 0, false), KIT_OUT(kb_tova_step, victim, KVP_I32, 0, false)};
    float was[B * G * D], is[B * G * D], largest = 0, apart = 0;
    struct kb_tova_step a = {.batch = B, .heads = H, .kv_heads = G, .head_dim = D, .used = SLOTS, .budget = SLOTS, .k = strip(_i),
                             .v = strip(_i), .new_stride = G * D};
    int32_t lost;

    fill(&a.k, SLOTS);
    fill(&a.v, SLOTS);
    a.probs = kit_floats(KVP_F32, B * H * (SLOTS + 1), 0);
    for (uint64_t i = 0; i < B * H * (SLOTS + 1); i++)
        ((float *)kb_at(a.probs))[i] = 0.5f + 0.4f * kit_uniform() + (i % (SLOTS + 1) == SLOTS); /* the new token stays */
    a.victim = kit_poison(KVP_I32, B);
    a.new_k = kit_floats(KVP_F32, B * G * D, 1);
    a.new_v = kit_floats(KVP_F32, B * G * D, 1);
    KIT_CHECK(KB_TOVA_STEP, a, outs);
    lost = ((const int32_t *)kb_at(a.victim))[0];
    ck_assert_int_lt(lost, SLOTS);
    row_of(&a.v, (uint64_t)lost, is);
    memcpy(was, kb_at(a.new_v), sizeof(was));
    for (int i = 0; i < G * D; i++) {
        largest = fmaxf(largest, fabsf(was[i]));
        apart = fmaxf(apart, fabsf(was[i] - is[i]));
    }
    ck_assert_msg(apart < 0.3f * largest, "the new row is off by %g of %g", (double)apart, (double)largest);
}
END_TEST

/* Keys that are turned as they are read, and chosen pages: as over the numbers that the rows stand for. */
START_TEST(attention)
{
    static const struct kit_out turned[] = {KIT_OUT(kb_attn_slots, attn.out, KVP_F32, 1e-5, false)};
    static const struct kit_out paged[] = {KIT_OUT(kb_attn_pages, attn.out, KVP_F32, 1e-5, false)};
    struct kb_attn_slots a = {.attn = {.batch = B, .heads = H, .kv_heads = G, .head_dim = D, .scale = 0.4f, .used = 20, .q_stride = H * D,
                                       .out_stride = H * D, .k = strip(_i), .v = strip(_i)},
                              .first = 4, .ring = 16, .turned = 5, .query = 19};
    struct kb_attn_pages p = {.attn = a.attn, .page = 4, .chosen = 3};
    struct kb_attn_slots plain;

    fill(&a.attn.k, 20);
    fill(&a.attn.v, 20);
    a.attn.q = kit_floats(KVP_F32, B * H * D, 1);
    a.attn.out = kit_poison(KVP_F32, B * H * D);
    a.inv_freq = kit_floats(KVP_F32, D / 2, 0.5f);
    KIT_CHECK(KB_ATTN_SLOTS, a, turned);
    plain = a;
    plain.attn.out = kit_poison(KVP_F32, B * H * D);
    plain.attn.k = plain.attn.v = (struct kb_kv){.format = KVP_F32, .heads = G, .dim = D, .slots = SLOTS};
    plain.attn.k.data = kit_poison(KVP_F32, RECORDS * D);
    plain.attn.v.data = kit_poison(KVP_F32, RECORDS * D);
    for (uint64_t s = 0; s < 20; s++) {
        float k[B * G * D], v[B * G * D];

        row_of(&a.attn.k, s, k);
        row_of(&a.attn.v, s, v);
        for (uint64_t r = 0; r < B * G; r++) {
            memcpy(kb_kv_row(&plain.attn.k, r / G, (uint32_t)(r % G), s), k + r * D, sizeof(k) / (B * G));
            memcpy(kb_kv_row(&plain.attn.v, r / G, (uint32_t)(r % G), s), v + r * D, sizeof(v) / (B * G));
        }
    }
    kit_run(KB_ATTN_SLOTS, &plain);
    for (uint64_t i = 0; i < B * H * D; i++)
        ck_assert_float_eq_tol(((const float *)kb_at(a.attn.out))[i], ((const float *)kb_at(plain.attn.out))[i], 1e-5f);
    p.attn.q = a.attn.q;
    p.attn.out = kit_poison(KVP_F32, B * H * D);
    p.list = kit_ints(B * G * 3, 0, 0);
    for (int32_t i = 0; i < B * G * 3; i++)
        ((int32_t *)kb_at(p.list))[i] = i % 3 == 2 ? 4 : i % 3 * 2; /* pages 0 and 2, and the newest */
    KIT_CHECK(KB_ATTN_PAGES, p, paged);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/encoded");
    TCase *t = tcase_create("encoded rows");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, h2o, 0, (int)COUNT(forms));
    tcase_add_loop_test(t, tova, 0, (int)COUNT(forms));
    tcase_add_loop_test(t, attention, 0, (int)COUNT(forms));
    suite_add_tcase(s, t);
    return kit_main(s);
}
