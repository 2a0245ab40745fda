/* extend.c - attention of new tokens over a cache and themselves: cpu against ref, and laws that tie both to the
 * attention of a whole prompt */
#include "tests/kernels/kit.h"

enum { SEQS = 3 };

static const struct {
    uint32_t heads, kv_heads, dim, block;
    uint64_t window, ring, shared;
    uint64_t tokens[SEQS], before[SEQS];
} cases[] = {
    {1, 1, 8, 0, 0, 0, 0, {1, 1, 1}, {0, 0, 0}},         {4, 2, 16, 0, 0, 0, 0, {5, 1, 9}, {0, 7, 3}},
    {6, 2, 33, 4, 0, 0, 0, {64, 65, 1}, {16, 300, 255}}, {8, 1, 64, 16, 0, 0, 0, {1, 1, 1}, {700, 1, 256}},
    {2, 2, 8, 0, 7, 7, 0, {3, 9, 20}, {2, 7, 30}},       {3, 1, 24, 0, 5, 6, 0, {1, 2, 3}, {0, 5, 400}},
    {4, 2, 16, 3, 4, 0, 0, {4, 30, 1}, {9, 0, 77}},      {65, 1, 8, 0, 0, 0, 0, {2, 3, 1}, {300, 0, 5}},
    {4, 2, 16, 0, 0, 0, 5, {4, 8, 1}, {5, 9, 31}},       {2, 1, 128, 16, 0, 0, 0, {200, 0, 100}, {512, 9, 0}},
};
enum { N_CASES = COUNT(cases) };
static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};

/* Slots that hold what is seen; the others, and all between, NaN. */
static struct kb_kv stored(int i, enum kvp_format f)
{
    const uint64_t ring = cases[i].ring;
    uint64_t slots = 0, pages;
    struct kb_kv kv = {.format = f, .heads = cases[i].kv_heads, .dim = cases[i].dim, .block = cases[i].block, .shared = cases[i].shared};

    for (int b = 0; b < SEQS; b++)
        slots = slots > cases[i].before[b] ? slots : cases[i].before[b];
    kv.slots = ring ? ring : slots + 2;
    pages = kv.block ? kv.slots / kv.block + 1 : 0;
    kv.table_stride = pages;
    if (kv.block)
        kv.table = kit_shuffled(SEQS * pages);
    kv.data = kit_poison(f, (kv.shared + SEQS * (kv.block ? pages * kv.block : kv.slots)) * kv.heads * kv.dim);
    for (uint64_t b = 0; b < SEQS; b++)
        for (uint32_t h = 0; h < kv.heads; h++)
            for (uint64_t t = 0; t < cases[i].before[b]; t++)
                for (uint32_t c = 0; c < kv.dim && (!ring || t + ring >= cases[i].before[b]); c++)
                    kb_store(f, kb_kv_row(&kv, b, h, ring ? t % ring : t), c, kit_uniform());
    return kv;
}

static struct kb_attn_extend extend(int i, enum kvp_format f)
{
    const uint64_t width = (cases[i].heads + 2ull * cases[i].kv_heads) * cases[i].dim;
    struct kb_attn_extend a = {.batch = SEQS, .heads = cases[i].heads, .kv_heads = cases[i].kv_heads, .head_dim = cases[i].dim,
                               .window = cases[i].window, .ring = cases[i].ring, .scale = 3 / sqrtf((float)cases[i].dim),
                               .stride = width + 3, .out_stride = (uint64_t)cases[i].heads * cases[i].dim + 2,
                               .first = kit_ints(SEQS + 1, 0, 0), .before = kit_ints(SEQS, 0, 0)};
    uint64_t rows = 0;

    for (int b = 0; b < SEQS; b++) {
        rows += cases[i].tokens[b];
        ((int32_t *)kb_at(a.first))[b + 1] = (int32_t)rows;
        ((int32_t *)kb_at(a.before))[b] = (int32_t)cases[i].before[b];
    }
    a.q = a.k = a.v = kit_rows(rows, width, a.stride);
    a.k.offset = (uint64_t)cases[i].heads * cases[i].dim * sizeof(float);
    a.v.offset = a.k.offset + (uint64_t)cases[i].kv_heads * cases[i].dim * sizeof(float);
    a.stored_k = stored(i, f);
    a.stored_v = stored(i, f);
    a.out = kit_poison(KVP_F32, rows * a.out_stride);
    return a;
}

START_TEST(extend_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_extend, out, KVP_F32, 3e-6, false)};

    for (size_t f = 0; f < COUNT(formats); f++) {
        struct kb_attn_extend a = extend(_i, formats[f]);

        kit_check(KB_ATTN_EXTEND, &a, sizeof(a), outs, 1);
    }
}
END_TEST

/* Scores capped, sloped by distance, and a sink in the softmax. */
START_TEST(extend_bent)
{
    /* a slope makes scores of 60, of which half a unit in the last place is 2e-6 of a weight */
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_extend, out, KVP_F32, 4e-6, false)},
                                sloped[] = {KIT_OUT(kb_attn_extend, out, KVP_F32, 3e-5, false)};

    for (int form = 1; form < 8; form++) {
        struct kb_attn_extend a = extend(_i, KVP_F32);

        a.softcap = form & 1 ? 1.5f : 0;
        if (form & 2)
            a.slopes = kit_floats(KVP_F32, a.heads, 0.2f);
        a.sink_format = formats[form % 3];
        if (form & 4)
            a.sinks = kit_floats(a.sink_format, a.heads, 2);
        kit_check(KB_ATTN_EXTEND, &a, sizeof(a), form & 2 ? sloped : outs, 1);
    }
}
END_TEST

/* Codes and blocks, with a scale a row. */
START_TEST(extend_codes)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_extend, out, KVP_F32, 5e-6, false)};
    struct kb_attn_extend a = extend(1, KVP_F32);
    const uint64_t rows = SEQS * a.stored_k.slots * a.kv_heads;

    for (int side = 0; side < 2; side++) {
        struct kb_kv *kv = side ? &a.stored_v : &a.stored_k;

        kv->format = _i ? KVP_FP8 : KVP_INT8;
        kv->scales = KB_SCALES_ROW;
        kv->scale = kit_floats(KVP_F32, rows, 0.02f);
        kv->data = kit_bytes(rows * kv->dim, 0);
        for (uint64_t n = 0; n < rows * kv->dim; n++)
            ((uint8_t *)kb_at(kv->data))[n] = (uint8_t)(kit_random() % 120);
    }
    kit_check(KB_ATTN_EXTEND, &a, sizeof(a), outs, 1);
}
END_TEST

/* A prompt in pieces whose earlier rows were stored in f32 is the prompt at once. */
START_TEST(pieces_are_the_prompt)
{
    enum { T = 150, HEADS = 4, KV = 2, DIM = 16, WIDTH = (HEADS + 2 * KV) * DIM };
    static const uint64_t pieces[] = {1, 16, 64, 149, 150}, windows[] = {0, 40};
    const uint64_t window = windows[_i % 2], piece = pieces[_i / 2];
    struct kb_attn_prefill whole = {.batch = 1, .tokens = T, .heads = HEADS, .kv_heads = KV, .head_dim = DIM, .window = window,
                                    .scale = 0.25f, .stride = WIDTH, .out_stride = HEADS * DIM, .q = kit_rows(T, WIDTH, WIDTH),
                                    .out = kit_poison(KVP_F32, T * HEADS * DIM)};
    struct kb_span got = kit_poison(KVP_F32, T * HEADS * DIM);
    struct kb_kv strip = {.format = KVP_F32, .heads = KV, .dim = DIM, .slots = window ? window : T};
    struct kb_kv k = strip, v = strip;

    whole.k = whole.v = whole.q;
    whole.k.offset = HEADS * DIM * sizeof(float);
    whole.v.offset = (HEADS + KV) * DIM * sizeof(float);
    kit_run(KB_ATTN_PREFILL, &whole);
    k.data = kit_poison(KVP_F32, KV * DIM * k.slots);
    v.data = kit_poison(KVP_F32, KV * DIM * v.slots);
    for (uint64_t at = 0; at < T; at += piece) {
        const uint64_t n = T - at < piece ? T - at : piece, skip = at * WIDTH * sizeof(float);
        const struct kb_attn_extend a = {.batch = 1, .tokens = n, .position = at, .heads = HEADS, .kv_heads = KV, .head_dim = DIM,
                                         .window = window, .ring = window, .scale = 0.25f, .stride = WIDTH, .stored_k = k,
                                         .stored_v = v, .q = {whole.q.buf, skip}, .k = {whole.q.buf, whole.k.offset + skip},
                                         .v = {whole.q.buf, whole.v.offset + skip}, .out_stride = HEADS * DIM,
                                         .out = {got.buf, at * HEADS * DIM * sizeof(float)}};

        kit_run(KB_ATTN_EXTEND, &a);
        for (uint64_t t = at; t < at + n; t++)
            for (uint32_t h = 0; h < KV; h++) {
                const uint64_t slot = window ? t % window : t, from = t * WIDTH + h * DIM;

                memcpy(kb_kv_row(&k, 0, h, slot), (float *)kb_at(whole.k) + from, DIM * sizeof(float));
                memcpy(kb_kv_row(&v, 0, h, slot), (float *)kb_at(whole.v) + from, DIM * sizeof(float));
            }
    }
    for (uint64_t i = 0; i < T * HEADS * DIM; i++)
        ck_assert_float_eq_tol(((float *)kb_at(got))[i], ((float *)kb_at(whole.out))[i], 1e-6f);
}
END_TEST

/* Decoding over rows that sequences share is decoding over copies of them. */
START_TEST(shared_rows)
{
    enum { USED = 300, SHARED = 270, HEADS = 4, KV = 2, DIM = 16 };
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_decode, out, KVP_F32, 3e-6, false)};
    struct kb_kv apart = {.format = KVP_F16, .heads = KV, .dim = DIM, .slots = USED}, joined = apart;
    struct kb_attn_decode a = {.batch = 2, .heads = HEADS, .kv_heads = KV, .head_dim = DIM, .scale = 0.25f, .used = USED,
                               .q_stride = HEADS * DIM, .out_stride = HEADS * DIM, .q = kit_rows(2, HEADS * DIM, HEADS * DIM)};
    struct kb_span want;

    apart.data = kit_floats(KVP_F16, 2ull * KV * USED * DIM, 1);
    joined.slots = USED - SHARED;
    joined.shared = SHARED;
    joined.data = kit_poison(KVP_F16, (uint64_t)KV * (SHARED + 2 * (USED - SHARED)) * DIM);
    for (uint64_t b = 0; b < 2; b++)
        for (uint32_t h = 0; h < KV; h++)
            for (uint64_t t = 0; t < USED; t++) {
                if (b && t < SHARED)
                    memcpy(kb_kv_row(&apart, 1, h, t), kb_kv_row(&apart, 0, h, t), DIM * 2);
                memcpy(kb_kv_row(&joined, b, h, t), kb_kv_row(&apart, b, h, t), DIM * 2);
            }
    a.k = a.v = apart;
    a.out = want = kit_poison(KVP_F32, 2 * HEADS * DIM);
    kit_run(KB_ATTN_DECODE, &a);
    a.k = a.v = joined;
    a.out = kit_poison(KVP_F32, 2 * HEADS * DIM);
    kit_check(KB_ATTN_DECODE, &a, sizeof(a), outs, 1);
    ck_assert_mem_eq(kb_at(a.out), kb_at(want), 2 * HEADS * DIM * sizeof(float));
}
END_TEST

/* New tokens read from the cache, where they are already: in f32 the same as from k and v, to the last bit where tiles begin
 * alike; as codes what the reference makes of the codes. Two sequences in pages, one of them behind nothing. */
START_TEST(own_rows_are_stored)
{
    enum { SEQ = 2, LONG = 300, HEADS = 4, KV = 2, DIM = 16, BLOCK = 8, PAGES = LONG / BLOCK + 1 };
    static const enum kvp_format kinds[] = {KVP_F32, KVP_F16, KVP_INT8};
    static const int32_t before[SEQ] = {270, 0}, rows[SEQ] = {30, 45};
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_extend, out, KVP_F32, 3e-6, false)};
    const uint64_t stride = (HEADS + 2 * KV) * DIM + 1;
    struct kb_kv kv[2];
    struct kb_attn_extend a = {.batch = SEQ, .heads = HEADS, .kv_heads = KV, .head_dim = DIM, .scale = 0.5f, .stride = stride,
                               .window = _i % 2 ? 20 : 0, .out_stride = HEADS * DIM, .first = kit_ints(SEQ + 1, 0, 0),
                               .before = kit_ints(SEQ, 0, 0), .out = kit_poison(KVP_F32, 75 * HEADS * DIM)};
    struct kb_span all = kit_rows(LONG + 45, (HEADS + 2 * KV) * DIM, stride), want;

    for (int side = 0; side < 2; side++) {
        kv[side] = (struct kb_kv){.format = kinds[_i / 2], .heads = KV, .dim = DIM, .block = BLOCK, .table_stride = PAGES,
                                  .table = kit_shuffled(SEQ * PAGES), .data = kit_poison(KVP_F32, SEQ * PAGES * BLOCK * KV * DIM)};
        if (kinds[_i / 2] == KVP_INT8) {
            kv[side].scales = KB_SCALES_ROW;
            kv[side].scale = kit_poison(KVP_F32, SEQ * PAGES * BLOCK * KV);
        }
        for (uint64_t b = 0; b < SEQ; b++) {
            struct kb_cache_write w = {.batch = 1, .count = (uint64_t)(before[b] + rows[b]), .dst = kv[side], .src = all,
                                       .src_tokens = (uint64_t)(before[b] + rows[b]), .src_stride = stride, .src_first = b * LONG};

            w.dst.table.offset += b * PAGES * sizeof(int32_t);
            w.src.offset += (HEADS + (uint64_t)side * KV) * DIM * sizeof(float);
            kit_run(KB_CACHE_WRITE, &w);
        }
    }
    for (int b = 0; b < SEQ; b++) {
        ((int32_t *)kb_at(a.before))[b] = before[b];
        ((int32_t *)kb_at(a.first))[b + 1] = ((int32_t *)kb_at(a.first))[b] + rows[b];
    }
    a.q = all;
    a.q.offset += 270 * stride * sizeof(float); /* the last 30 rows of the first, then the second's 45 */
    a.stored_k = kv[0];
    a.stored_v = kv[1];
    kit_check(KB_ATTN_EXTEND, &a, sizeof(a), outs, 1);
    if (kinds[_i / 2] != KVP_F32)
        return;
    want = a.out;
    kit_run(KB_ATTN_EXTEND, &a);
    a.k = a.v = a.q;
    a.k.offset += HEADS * DIM * sizeof(float);
    a.v.offset += (HEADS + KV) * DIM * sizeof(float);
    a.out = kit_poison(KVP_F32, 75 * HEADS * DIM);
    kit_run(KB_ATTN_EXTEND, &a);
    for (uint64_t i = 0; i < 75 * HEADS * DIM; i++)
        ck_assert_float_eq_tol(((float *)kb_at(a.out))[i], ((float *)kb_at(want))[i], 1e-6f);
}
END_TEST

START_TEST(refusals)
{
    struct kb_attn_extend a = extend(4, KVP_F32);

    a.ring = a.window - 2; /* would overwrite what is still seen */
    ck_assert(!kb_ref.supports(kit_ref, KB_ATTN_EXTEND, &a));
    a = extend(1, KVP_F32);
    a.before.buf = NULL;
    ck_assert(!kb_ref.supports(kit_ref, KB_ATTN_EXTEND, &a));
    a = extend(1, KVP_F32);
    a.k.buf = NULL; /* v alone */
    ck_assert(!kb_ref.supports(kit_ref, KB_ATTN_EXTEND, &a));
    a.v.buf = NULL;
    ck_assert(kb_ref.supports(kit_ref, KB_ATTN_EXTEND, &a));
    a = extend(4, KVP_F32);
    a.k.buf = a.v.buf = NULL; /* a ring has no place for them all */
    ck_assert(!kb_ref.supports(kit_ref, KB_ATTN_EXTEND, &a));
    a = extend(1, KVP_F32);
    a.kv_heads = 3;
    ck_assert(!kb_ref.supports(kit_ref, KB_ATTN_EXTEND, &a));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("extend");
    TCase *t = tcase_create("extend");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_add_loop_test(t, extend_cpu, 0, N_CASES);
    tcase_add_loop_test(t, extend_bent, 0, N_CASES);
    tcase_add_loop_test(t, extend_codes, 0, 2);
    tcase_add_loop_test(t, pieces_are_the_prompt, 0, 10);
    tcase_add_test(t, shared_rows);
    tcase_add_loop_test(t, own_rows_are_stored, 0, 6);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    return kit_main(s);
}
