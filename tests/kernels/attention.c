/* attention.c - prompt and decode attention: laws that hold by hand for the reference, and cpu against it */
#include "tests/kernels/kit.h"

static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};

struct shape {
    uint64_t batch, tokens, window;
    uint32_t heads, kv_heads, dim;
    bool lse;
};

static const struct shape prompts[] = {
    {1, 1, 0, 1, 1, 64, true},     {1, 7, 0, 2, 1, 8, true},      {2, 65, 0, 4, 2, 64, true},
    {1, 300, 0, 8, 1, 80, true},   {1, 300, 1, 2, 2, 16, true},   {1, 300, 70, 6, 2, 96, false},
    {2, 129, 128, 3, 3, 5, true},  {1, 513, 256, 7, 1, 128, true}, {3, 64, 64, 2, 2, 33, false},
    {1, 700, 300, 2, 1, 64, true},
};

static struct kb_attn_prefill prompt(const struct shape *s, uint64_t gap)
{
    struct kb_attn_prefill a = {
        .batch = s->batch, .tokens = s->tokens, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->dim,
        .window = s->window, .scale = 1 / sqrtf((float)s->dim),
    };
    uint64_t width = (s->heads + 2 * s->kv_heads) * (uint64_t)s->dim;

    a.stride = width + gap;
    a.q = kit_rows(s->batch * s->tokens, width, a.stride);
    for (uint64_t i = 0; i < s->batch * s->tokens; i++) /* sharper rows: the running maximum has to move */
        for (uint64_t c = 0; c < s->heads * (uint64_t)s->dim; c++)
            ((float *)kb_at(a.q))[i * a.stride + c] *= 6;
    a.k = a.v = a.q;
    a.k.offset = s->heads * (uint64_t)s->dim * 4;
    a.v.offset = a.k.offset + s->kv_heads * (uint64_t)s->dim * 4;
    a.out_stride = s->heads * (uint64_t)s->dim + gap;
    a.out = kit_poison(KVP_F32, s->batch * s->tokens * a.out_stride);
    if (s->lse)
        a.lse = kit_poison(KVP_F32, s->batch * s->heads * s->tokens);
    return a;
}

START_TEST(prefill_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_prefill, out, KVP_F32, 2e-6, false),
                                          KIT_OUT(kb_attn_prefill, lse, KVP_F32, 1e-6, false)};
    const struct shape *s = &prompts[_i];
    struct kb_attn_prefill a = prompt(s, (uint64_t)_i % 3 * 5);

    kit_check(KB_ATTN_PREFILL, &a, sizeof(a), outs, s->lse ? 2 : 1);
}
END_TEST

/* H2O's mass, from the reference's own lse: the sum over keys is the number of queries. */
START_TEST(scores_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_h2o_scores, scores, KVP_F32, 2e-6, false)};
    struct shape s = prompts[_i];
    struct kb_attn_prefill p;
    struct kb_h2o_scores a;

    s.lse = true;
    p = prompt(&s, 3);
    kit_run(KB_ATTN_PREFILL, &p);
    a = (struct kb_h2o_scores){
        .batch = s.batch, .tokens = s.tokens, .heads = s.heads, .kv_heads = s.kv_heads, .head_dim = s.dim,
        .window = s.window, .scale = p.scale, .stride = p.stride, .q = p.q, .k = p.k, .lse = p.lse,
        .scores = kit_poison(KVP_F32, s.batch * s.kv_heads * s.tokens),
    };
    KIT_CHECK(KB_H2O_SCORES, a, outs);
    for (uint64_t r = 0; r < s.batch * s.kv_heads; r++) {
        double sum = 0, want = (double)s.tokens * (s.heads / s.kv_heads);

        for (uint64_t j = 0; j < s.tokens; j++)
            sum += (double)((const float *)kb_at(a.scores))[r * s.tokens + j];
        ck_assert_double_eq_tol(sum, want, want * 1e-5);
    }
}
END_TEST

/* Equal keys weigh equally: the output is the mean of the values that the query sees, lse its score plus ln(n). */
START_TEST(prefill_mean)
{
    const struct shape s = {1, 9, _i ? 4 : 0, 2, 1, 4, true};
    struct kb_attn_prefill a = prompt(&s, 2);

    for (uint64_t i = 0; i < s.tokens; i++)
        for (uint32_t c = 0; c < s.dim; c++) {
            float *row = (float *)kb_at(a.k) + i * a.stride;

            row[c] = 0.25f;
            row[s.dim + c] = (float)i; /* v follows k */
        }
    kit_run(KB_ATTN_PREFILL, &a);
    for (uint64_t i = 0; i < s.tokens; i++)
        for (uint32_t h = 0; h < s.heads; h++) {
            uint64_t lo = _i && i >= 4 ? i - 3 : 0;
            const float *q = (const float *)kb_at(a.q) + i * a.stride + h * s.dim;
            double score = 0.5 * 0.25 * ((double)q[0] + (double)q[1] + (double)q[2] + (double)q[3]);

            for (uint32_t c = 0; c < s.dim; c++)
                ck_assert_float_eq_tol(((float *)kb_at(a.out))[i * a.out_stride + h * s.dim + c], (float)(lo + i) / 2, 1e-6f);
            ck_assert_double_eq_tol((double)((float *)kb_at(a.lse))[h * s.tokens + i], score + log((double)(i - lo + 1)),
                                    1e-6);
        }
}
END_TEST

struct step {
    uint64_t batch, used;
    uint32_t heads, kv_heads, dim, block;
    bool tail, probs;
};

static const struct step steps[] = {
    {1, 1, 1, 1, 64, 0, false, true},    {1, 0, 4, 2, 64, 0, true, true},    {2, 33, 4, 1, 80, 0, true, true},
    {1, 100, 6, 2, 96, 16, false, true}, {3, 257, 7, 7, 128, 0, true, false}, {1, 1500, 8, 1, 128, 0, false, false},
    {1, 1500, 5, 1, 128, 32, true, true}, {2, 700, 6, 3, 33, 7, true, true}, {1, 640, 12, 4, 5, 0, false, true},
    {1, 3000, 16, 8, 64, 16, false, false}, {2, 40, 11, 1, 576, 16, true, true},
};

/* Storage of keys or values with the unused slots, and everything between, NaN. */
static struct kb_kv store(const struct step *s, enum kvp_format f)
{
    uint64_t pages = s->block ? (s->used + s->block - 1) / s->block : 0, rows = s->used + 3;
    struct kb_kv kv = {.format = f, .heads = s->kv_heads, .dim = s->dim, .slots = rows, .block = s->block};

    if (s->block) {
        kv.table_stride = pages + 1;
        kv.table = kit_shuffled(s->batch * kv.table_stride);
        kv.data = kit_poison(f, s->batch * kv.table_stride * s->block * s->kv_heads * s->dim);
    } else {
        kv.data = kit_poison(f, s->batch * rows * s->kv_heads * s->dim);
    }
    for (uint64_t b = 0; b < s->batch; b++)
        for (uint32_t h = 0; h < s->kv_heads; h++)
            for (uint64_t t = 0; t < s->used; t++)
                for (uint32_t c = 0; c < s->dim; c++)
                    kb_store(f, kb_kv_row(&kv, b, h, t), c, kit_uniform());
    return kv;
}

static struct kb_attn_decode decode(const struct step *s, enum kvp_format f)
{
    uint64_t n = s->used + s->tail;
    struct kb_attn_decode a = {
        .batch = s->batch, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->dim, .used = s->used,
        .scale = 3 / sqrtf((float)s->dim), .q_stride = s->heads * (uint64_t)s->dim + 3, .k = store(s, f), .v = store(s, f),
        .tail_stride = s->kv_heads * (uint64_t)s->dim + 1, .out_stride = s->heads * (uint64_t)s->dim + 2,
    };

    a.q = kit_rows(s->batch, s->heads * (uint64_t)s->dim, a.q_stride);
    if (s->tail) {
        a.tail_k = kit_rows(s->batch, s->kv_heads * (uint64_t)s->dim, a.tail_stride);
        a.tail_v = kit_rows(s->batch, s->kv_heads * (uint64_t)s->dim, a.tail_stride);
    }
    a.out = kit_poison(KVP_F32, s->batch * a.out_stride);
    if (s->probs)
        a.probs = kit_poison(KVP_F32, s->batch * s->heads * n);
    return a;
}

START_TEST(decode_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_decode, out, KVP_F32, 3e-6, false),
                                          KIT_OUT(kb_attn_decode, probs, KVP_F32, 3e-6, false)};
    const struct step *s = &steps[_i];

    for (size_t f = 0; f < COUNT(formats); f++) {
        struct kb_attn_decode a = decode(s, formats[f]);

        kit_check(KB_ATTN_DECODE, &a, sizeof(a), outs, s->probs ? 2 : 1);
    }
}
END_TEST

/* One key: its value comes back unchanged and its probability is 1. Equal keys: the mean. */
START_TEST(decode_mean)
{
    static const struct step one = {1, 1, 2, 1, 8, 0, false, true}, four = {1, 4, 2, 1, 8, 0, false, true};
    struct kb_attn_decode a = decode(&one, KVP_F16);

    kit_run(KB_ATTN_DECODE, &a);
    for (uint32_t c = 0; c < 16; c++)
        ck_assert_float_eq(((float *)kb_at(a.out))[c], kb_load(KVP_F16, kb_at(a.v.data), c % 8));
    ck_assert_float_eq(((float *)kb_at(a.probs))[1], 1);
    a = decode(&four, KVP_F32);
    for (uint64_t t = 0; t < 4; t++)
        for (uint32_t c = 0; c < 8; c++) {
            ((float *)kb_kv_row(&a.k, 0, 0, t))[c] = 1;
            ((float *)kb_kv_row(&a.v, 0, 0, t))[c] = (float)(t * t); /* 0 1 4 9: mean 3.5 */
        }
    kit_run(KB_ATTN_DECODE, &a);
    for (uint32_t c = 0; c < 16; c++)
        ck_assert_float_eq_tol(((float *)kb_at(a.out))[c], 3.5f, 1e-6f);
}
END_TEST

/* Two keys whose scores differ by ln 3: weights 1/4 and 3/4. */
START_TEST(decode_by_hand)
{
    static const struct step s = {1, 2, 1, 1, 1, 0, false, true};
    struct kb_attn_decode a = decode(&s, KVP_F32);

    a.scale = 0.5f;
    ((float *)kb_at(a.q))[0] = 2;
    ((float *)kb_at(a.k.data))[0] = 1;
    ((float *)kb_at(a.k.data))[1] = 1 + logf(3);
    ((float *)kb_at(a.v.data))[0] = 8;
    ((float *)kb_at(a.v.data))[1] = 16;
    kit_run(KB_ATTN_DECODE, &a);
    ck_assert_float_eq_tol(((float *)kb_at(a.probs))[0], 0.25f, 1e-6f);
    ck_assert_float_eq_tol(((float *)kb_at(a.out))[0], 14, 1e-5f);
}
END_TEST

static void same_out(const struct kb_span a, const struct kb_span b, float within)
{
    for (uint64_t i = 0; i < a.buf->bytes / 4; i++) {
        float x = ((const float *)kb_at(a))[i], y = ((const float *)kb_at(b))[i];

        ck_assert((isnan(x) && isnan(y)) || fabsf(x - y) <= within);
    }
}

/* Pages, a permutation of the slots, and the last row as a tail: the same attention. */
START_TEST(decode_same_thing)
{
    static const struct step flat = {2, 37, 4, 2, 16, 0, false, false}, paged = {2, 37, 4, 2, 16, 8, false, false},
                             less = {2, 36, 4, 2, 16, 0, true, false};
    struct kb_attn_decode a = decode(&flat, KVP_F32), b = decode(&paged, KVP_F32), c = decode(&flat, KVP_F32),
                          d = decode(&less, KVP_F32);
    const int32_t *order = kb_at(kit_shuffled(37));

    b.q = c.q = d.q = a.q;
    for (uint64_t s = 0; s < 2; s++)
        for (uint32_t g = 0; g < 2; g++)
            for (uint64_t t = 0; t < 37; t++) {
                const void *k = kb_kv_row(&a.k, s, g, t), *v = kb_kv_row(&a.v, s, g, t);

                memcpy(kb_kv_row(&b.k, s, g, t), k, 64);
                memcpy(kb_kv_row(&b.v, s, g, t), v, 64);
                memcpy(kb_kv_row(&c.k, s, g, (uint64_t)order[t]), k, 64);
                memcpy(kb_kv_row(&c.v, s, g, (uint64_t)order[t]), v, 64);
                memcpy(t < 36 ? kb_kv_row(&d.k, s, g, t) : (float *)kb_at(d.tail_k) + s * d.tail_stride + g * 16, k, 64);
                memcpy(t < 36 ? kb_kv_row(&d.v, s, g, t) : (float *)kb_at(d.tail_v) + s * d.tail_stride + g * 16, v, 64);
            }
    kit_run(KB_ATTN_DECODE, &a);
    kit_run(KB_ATTN_DECODE, &b);
    kit_run(KB_ATTN_DECODE, &c);
    kit_run(KB_ATTN_DECODE, &d);
    same_out(a.out, b.out, 0);
    same_out(a.out, c.out, 1e-6f);
    same_out(a.out, d.out, 0);
}
END_TEST

/* The last row of a prompt is a decode step over its keys. */
START_TEST(prefill_is_decode)
{
    const struct shape s = {1, 20, _i ? 6 : 0, 4, 2, 16, false};
    const struct step step = {1, _i ? 6 : 20, 4, 2, 16, 0, false, false};
    struct kb_attn_prefill p = prompt(&s, 0);
    struct kb_attn_decode d = decode(&step, KVP_F32);
    uint64_t first = 20 - step.used;

    d.scale = p.scale;
    memcpy(kb_at(d.q), (float *)kb_at(p.q) + 19 * p.stride, 4 * 16 * 4);
    for (uint32_t g = 0; g < 2; g++)
        for (uint64_t t = 0; t < step.used; t++) {
            memcpy(kb_kv_row(&d.k, 0, g, t), (float *)kb_at(p.k) + (first + t) * p.stride + g * 16, 64);
            memcpy(kb_kv_row(&d.v, 0, g, t), (float *)kb_at(p.v) + (first + t) * p.stride + g * 16, 64);
        }
    kit_run(KB_ATTN_PREFILL, &p);
    kit_run(KB_ATTN_DECODE, &d);
    for (uint32_t c = 0; c < 64; c++)
        ck_assert_float_eq(((float *)kb_at(d.out))[c], ((float *)kb_at(p.out))[19 * p.out_stride + c]);
}
END_TEST

/* A NaN in a visible stored row reaches the output; in a row beyond `used` it does not (every decode_cpu case). */
START_TEST(decode_poison)
{
    static const struct step s = {1, 50, 2, 1, 64, 0, false, false};
    struct kb_attn_decode a = decode(&s, KVP_F16);
    struct kvp_error e = {0};

    kb_store(KVP_F16, kb_kv_row(&a.k, 0, 0, 17), 5, NAN);
    for (size_t c = 0; c < COUNT(kit_cpu); c++) {
        memset(kb_at(a.out), 0, a.out.buf->bytes);
        kit_ok(kb_cpu.run(kit_cpu[c].dev, KB_ATTN_DECODE, &a, &e), &e);
        ck_assert_msg(isnan(((float *)kb_at(a.out))[0]), "%s hides a NaN", kit_cpu[c].name);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/attention");
    TCase *t = tcase_create("attention");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, prefill_cpu, 0, (int)COUNT(prompts));
    tcase_add_loop_test(t, scores_cpu, 0, (int)COUNT(prompts));
    tcase_add_loop_test(t, prefill_mean, 0, 2);
    tcase_add_loop_test(t, decode_cpu, 0, (int)COUNT(steps));
    tcase_add_test(t, decode_mean);
    tcase_add_test(t, decode_by_hand);
    tcase_add_test(t, decode_same_thing);
    tcase_add_loop_test(t, prefill_is_decode, 0, 2);
    tcase_add_test(t, decode_poison);
    suite_add_tcase(s, t);
    return kit_main(s);
}
