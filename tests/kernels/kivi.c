/* kivi.c - codes to the bit, where they lie, what they lose, and attention over them against attention over the
 * values they stand for */
#include "tests/kernels/kit.h"

struct shape {
    uint64_t batch, tokens, residual, first;
    uint32_t heads, kv_heads, dim, bits, group;
    enum kvp_format format;
    uint32_t block; /* 0: strips */
    bool ring;      /* only what [first, tokens) needs is kept */
};

static const struct shape shapes[] = {
    {1, 64, 32, 0, 1, 1, 32, 2, 32, KVP_F16, 0, false},    {1, 65, 32, 0, 2, 2, 64, 2, 32, KVP_F16, 0, false},
    {2, 127, 32, 0, 4, 2, 64, 4, 32, KVP_F16, 0, false},   {1, 31, 32, 0, 4, 2, 64, 2, 32, KVP_F16, 0, false},
    {1, 200, 16, 0, 8, 1, 80, 2, 16, KVP_BF16, 0, false},  {2, 100, 16, 0, 3, 3, 96, 4, 8, KVP_F32, 0, false},
    {1, 700, 128, 0, 8, 2, 128, 2, 64, KVP_F16, 0, false}, {1, 150, 32, 0, 6, 2, 128, 2, 32, KVP_F16, 32, false},
    {2, 150, 32, 0, 4, 4, 64, 4, 16, KVP_F32, 64, false},  {1, 300, 64, 211, 4, 2, 64, 2, 32, KVP_F16, 0, true},
    {1, 300, 64, 190, 6, 2, 64, 4, 32, KVP_BF16, 32, true}, {1, 64, 64, 5, 2, 1, 64, 2, 32, KVP_F16, 0, false},
    {1, 1300, 32, 0, 11, 1, 128, 4, 32, KVP_F16, 0, false}, {1, 600, 256, 100, 4, 2, 256, 2, 256, KVP_F16, 0, false},
    {1, 2000, 128, 1777, 5, 1, 128, 2, 32, KVP_F16, 16, true}, {1, 300, 64, 240, 4, 2, 64, 2, 32, KVP_F16, 0, true},
    {1, 300, 128, 290, 4, 2, 64, 4, 32, KVP_F16, 32, false}, {1, 300, 64, 236, 6, 2, 64, 4, 32, KVP_BF16, 0, true},
    {2, 300, 64, 299, 4, 2, 64, 2, 32, KVP_F16, 32, true}, {2, 1, 32, 0, 4, 2, 64, 2, 32, KVP_F16, 0, false},
};

static uint64_t up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Room for tokens that are addressed by place; `needed` of the packed ones are kept in a ring. */
static struct kb_kivi place(const struct shape *s, uint64_t packed, uint64_t needed, uint64_t unit, bool keys)
{
    uint64_t ring = s->ring ? up(needed, unit) : 0, capacity = up(s->ring ? ring : packed, s->group);
    struct kb_kivi x = {.capacity = capacity ? capacity : s->group, .ring = ring, .block = s->block};
    uint64_t first = s->batch, tokens = x.capacity, runs, words, groups;

    if (s->block) {
        x.block = (uint32_t)up(s->block, s->group);
        x.table_stride = up(x.capacity, x.block) / x.block + 1;
        x.table = kit_shuffled(s->batch * x.table_stride);
        first = s->batch * x.table_stride;
        tokens = x.block;
    }
    runs = first * s->kv_heads * (keys ? s->dim : tokens);
    words = (keys ? tokens : s->dim) * s->bits / 32;
    groups = (keys ? tokens : s->dim) / s->group;
    x.codes = kit_bytes(runs * words * 4, 0xff);
    x.scale = kit_poison(s->format, runs * groups);
    x.min = kit_poison(s->format, runs * groups);
    return x;
}

/* What stands at (b, h, token, channel), by kernels/ops/kivi.h's words; *scale too. */
static double unpack(const struct shape *s, const struct kb_kivi *x, bool keys, uint64_t b, uint32_t h, uint64_t t,
                     uint32_t c, double *scale)
{
    uint64_t p = x->ring ? t % x->ring : t, first = b, tokens = x->capacity, run, j, length, group;
    uint32_t code;

    if (x->block) {
        first = (uint64_t)((const int32_t *)kb_at(x->table))[b * x->table_stride + p / x->block];
        tokens = x->block;
        p %= x->block;
    }
    run = (first * s->kv_heads + h) * (keys ? s->dim : tokens) + (keys ? c : p);
    j = keys ? p : c;
    length = keys ? tokens : s->dim;
    group = run * (length / s->group) + j / s->group;
    code = ((const uint32_t *)kb_at(x->codes))[run * (length * s->bits / 32) + j * s->bits / 32] >>
               (j * s->bits % 32) & (s->bits == 2 ? 3u : 15u);
    *scale = (double)kb_load(s->format, kb_at(x->scale), group);
    return code * *scale + (double)kb_load(s->format, kb_at(x->min), group);
}

/* Rows [batch, tokens, kv_heads, dim] with gaps; every ninth head constant, so that scale is 0 somewhere. */
static struct kb_span source(const struct shape *s, enum kvp_format f, uint64_t stride)
{
    struct kb_span x = kit_poison(f, s->batch * s->tokens * stride);

    for (uint64_t r = 0; r < s->batch * s->tokens; r++)
        for (uint32_t i = 0; i < s->kv_heads * s->dim; i++)
            kb_store(f, kb_at(x), r * stride + i, i % s->dim < s->group && i / s->dim == 2 ? 0.7f : 5 * kit_uniform());
    return x;
}

static struct kb_kivi_pack_k pack_of(const struct shape *s, struct kb_span src, bool f32, uint64_t stride, uint64_t first,
                                     uint64_t n, const struct kb_kivi *dst)
{
    struct kb_kivi_pack_k a = {
        .batch = s->batch, .kv_heads = s->kv_heads, .head_dim = s->dim, .bits = s->bits, .group = s->group, .tokens = n,
        .format = s->format, .src_is_f32 = f32, .src = src, .src_batch = s->tokens * stride, .src_token = stride,
        .src_head = s->dim, .dst_token = first, .dst = *dst,
    };

    a.src.offset = first * stride * (f32 ? 4 : kb_element(s->format));
    return a;
}

static struct kb_kivi_pack_v as_v(const struct kb_kivi_pack_k *a)
{
    return (struct kb_kivi_pack_v){
        .batch = a->batch, .kv_heads = a->kv_heads, .head_dim = a->head_dim, .bits = a->bits, .group = a->group,
        .tokens = a->tokens, .format = a->format, .src_is_f32 = a->src_is_f32, .src = a->src,
        .src_batch = a->src_batch, .src_token = a->src_token, .src_head = a->src_head, .dst_token = a->dst_token,
        .dst = a->dst,
    };
}

/* The values lost no more than half a step: rounding the scale to the format can add top * 2^-9 of one. */
static void check_loss(const struct shape *s, const struct kb_kivi *x, bool keys, struct kb_span src, bool f32,
                       uint64_t stride, uint64_t first, uint64_t end)
{
    for (uint64_t b = 0; b < s->batch; b++)
        for (uint64_t t = first; t < end; t++)
            for (uint32_t i = 0; i < s->kv_heads * s->dim; i++) {
                float want = kb_rounded(s->format, kb_load(f32 ? KVP_F32 : s->format, kb_at(src),
                                                           (b * s->tokens + t) * stride + i));
                double scale, got = unpack(s, x, keys, b, i / s->dim, t, i % s->dim, &scale);

                ck_assert_msg(fabs(got - (double)want) <= scale * 0.53 + 1e-9, "token %llu, element %u: %g for %g, step %g",
                              (unsigned long long)t, i, got, (double)want, scale);
            }
}

START_TEST(pack_all)
{
    const struct shape *s = &shapes[_i];
    uint64_t stride = s->kv_heads * (uint64_t)s->dim + 3, n = s->tokens / s->group * s->group, keep = up(s->tokens - s->first, s->group);
    const struct kit_out k_outs[] = {KIT_OUT(kb_kivi_pack_k, dst.codes, KVP_I32, 0, false),
                                     KIT_OUT(kb_kivi_pack_k, dst.scale, s->format, 0, false),
                                     KIT_OUT(kb_kivi_pack_k, dst.min, s->format, 0, false)};
    const struct kit_out v_outs[] = {KIT_OUT(kb_kivi_pack_v, dst.codes, KVP_I32, 0, false),
                                     KIT_OUT(kb_kivi_pack_v, dst.scale, s->format, 0, false),
                                     KIT_OUT(kb_kivi_pack_v, dst.min, s->format, 0, false)};

    for (int f32 = 0; f32 < 2; f32++) {
        struct kb_span src = source(s, f32 ? KVP_F32 : s->format, stride);
        uint64_t first = s->ring && n > keep ? n - keep : 0; /* a ring holds no more in one go */
        struct kb_kivi kd = place(s, n, keep, s->group, true), vd = place(s, s->tokens, keep, 1, false);
        struct kb_kivi_pack_k k = pack_of(s, src, f32, stride, first, n - first, &kd);
        struct kb_kivi_pack_k both = pack_of(s, src, f32, stride, first, s->tokens - s->tokens % s->group - first, &vd);
        struct kb_kivi_pack_v v = as_v(&both);

        KIT_CHECK(KB_KIVI_PACK_K, k, k_outs);
        check_loss(s, &k.dst, true, src, f32, stride, first, n);
        KIT_CHECK(KB_KIVI_PACK_V, v, v_outs);
        check_loss(s, &v.dst, false, src, f32, stride, first, n);
    }
}
END_TEST

/* 2 bits, 16 values: 0 1 2 3 and halves; ties go to the even code. Bits counted by hand. */
START_TEST(pack_by_hand)
{
    static const float x[16] = {0, 1, 2, 3, 0.5f, 1.5f, 2.5f, 0.25f, 3, 3, 3, 3, 0, 0, 0.75f, 1.25f};
    /* codes 0 1 2 3 | 0 2 2 0 | 3 3 3 3 | 0 0 1 1, the first in the lowest bits */
    static const uint32_t word = 0xe4u | 0x28u << 8 | 0xffu << 16 | 0x50u << 24;
    struct shape s = {1, 16, 16, 0, 1, 1, 16, 2, 16, KVP_F32, 0, false};
    struct kb_span src = kit_floats(KVP_F32, 256, 0);
    struct kb_kivi kd = place(&s, 16, 16, 16, true), vd = place(&s, 16, 16, 16, false);
    struct kb_kivi_pack_k k = pack_of(&s, src, true, 16, 0, 16, &kd), both = pack_of(&s, src, true, 16, 0, 16, &vd);
    struct kb_kivi_pack_v v = as_v(&both);

    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            ((float *)kb_at(src))[i * 16 + j] = x[j] + 4; /* token i, channel j */
    kit_run(KB_KIVI_PACK_V, &v);
    ck_assert_uint_eq(((uint32_t *)kb_at(v.dst.codes))[7], word);
    ck_assert_float_eq(((float *)kb_at(v.dst.scale))[7], 1);
    ck_assert_float_eq(((float *)kb_at(v.dst.min))[7], 4);
    kit_run(KB_KIVI_PACK_K, &k); /* along tokens each channel is constant: no step, code 0, the value is the minimum */
    ck_assert_uint_eq(((uint32_t *)kb_at(k.dst.codes))[5], 0);
    ck_assert_float_eq(((float *)kb_at(k.dst.scale))[5], 0);
    ck_assert_float_eq(((float *)kb_at(k.dst.min))[5], 5.5f);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            ((float *)kb_at(src))[i * 16 + j] = x[i] - 9;
    kit_run(KB_KIVI_PACK_K, &k);
    ck_assert_uint_eq(((uint32_t *)kb_at(k.dst.codes))[15], word);
    ck_assert_float_eq(((float *)kb_at(k.dst.min))[15], -9);
}
END_TEST

/* A state as the cache would hold it after `tokens` tokens, packed by the reference; the query sees [first, T).
 * tail: the last value is not stored, and what is stored is packed as if it were not there. */
static struct kb_attn_kivi state(const struct shape *s, bool tail, struct kb_span *k, struct kb_span *v)
{
    uint64_t T = s->tokens, R = s->residual, stride = s->kv_heads * (uint64_t)s->dim, stored = T - tail;
    uint64_t kq = T / R * R, vq = stored > R ? stored - R : 0, kf = T - kq, vf = stored - vq;
    uint64_t k_keep = kq > s->first ? kq - s->first / s->group * s->group : 0, v_keep = vq > s->first ? vq - s->first : 0;
    struct kb_attn_kivi a = {
        .batch = s->batch, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->dim, .bits = s->bits,
        .group = s->group, .scale_qk = 1 / sqrtf((float)s->dim), .format = s->format,
        .q_stride = s->heads * (uint64_t)s->dim + 1, .first = s->first, .k_packed = kq, .k_full = kf, .v_packed = vq,
        .v_full = vf, .v_first = vf == R ? 3 % R : 0, .k_res_slots = R, .v_res_slots = R,
        .out_stride = s->heads * (uint64_t)s->dim + 2,
    };
    uint64_t k0 = s->ring ? kq - k_keep : 0, v0 = s->ring ? vq - v_keep : 0;

    a.q = kit_rows(s->batch, s->heads * (uint64_t)s->dim, a.q_stride);
    *k = source(s, KVP_F32, stride);
    *v = source(s, KVP_F32, stride);
    if (kq > s->first) { /* without a packed token to see a side has no storage */
        a.k = place(s, kq, k_keep, s->group, true);
        if (kq > k0) {
            struct kb_kivi_pack_k p = pack_of(s, *k, true, stride, k0, kq - k0, &a.k);
            kit_run(KB_KIVI_PACK_K, &p);
        }
    }
    if (vq > s->first) {
        a.v = place(s, vq, v_keep, 1, false);
        if (vq > v0) {
            struct kb_kivi_pack_k p = pack_of(s, *v, true, stride, v0, vq - v0, &a.v);
            struct kb_kivi_pack_v pv = as_v(&p);
            kit_run(KB_KIVI_PACK_V, &pv);
        }
    }
    a.k_res = kit_poison(s->format, s->batch * s->kv_heads * R * s->dim);
    a.v_res = kit_poison(s->format, s->batch * s->kv_heads * R * s->dim);
    for (uint64_t b = 0; b < s->batch; b++)
        for (uint32_t i = 0; i < stride; i++) {
            uint64_t row = (b * s->kv_heads + i / s->dim) * R;

            for (uint64_t t = kq; t < T; t++)
                kb_store(s->format, kb_at(a.k_res), (row + t - kq) * s->dim + i % s->dim,
                         ((float *)kb_at(*k))[(b * T + t) * stride + i]);
            for (uint64_t t = vq; t < stored; t++)
                kb_store(s->format, kb_at(a.v_res), (row + (a.v_first + t - vq) % R) * s->dim + i % s->dim,
                         ((float *)kb_at(*v))[(b * T + t) * stride + i]);
        }
    if (tail) {
        a.tail_v = (struct kb_span){v->buf, v->offset + (T - 1) * stride * sizeof(float)};
        a.tail_stride = T * stride;
    }
    a.out = kit_poison(KVP_F32, s->batch * a.out_stride);
    return a;
}

START_TEST(attend_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_kivi, out, KVP_F32, 3e-6, false)};
    struct kb_span k, v;
    struct kb_attn_kivi a = state(&shapes[_i / 2], _i % 2, &k, &v);

    KIT_CHECK(KB_ATTN_KIVI, a, outs);
}
END_TEST

/* The same attention over an f32 cache that holds the values the codes stand for; the tail is not rounded. */
START_TEST(attend_is_decode)
{
    const struct shape *s = &shapes[_i / 2];
    struct kb_span k, v;
    struct kb_attn_kivi a = state(s, _i % 2, &k, &v);
    uint64_t T = s->tokens, n = T - s->first, stride = s->kv_heads * (uint64_t)s->dim;
    struct kb_attn_decode d = {
        .batch = s->batch, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->dim, .scale = a.scale_qk, .used = n,
        .q_stride = a.q_stride, .q = a.q, .out_stride = a.out_stride, .out = kit_poison(KVP_F32, s->batch * a.out_stride),
        .k = {.format = KVP_F32, .heads = s->kv_heads, .dim = s->dim, .slots = n},
    };

    d.v = d.k;
    d.k.data = kit_poison(KVP_F32, s->batch * n * stride);
    d.v.data = kit_poison(KVP_F32, s->batch * n * stride);
    for (uint64_t b = 0; b < s->batch; b++)
        for (uint64_t t = s->first; t < T; t++)
            for (uint32_t i = 0; i < stride; i++) {
                uint32_t h = i / s->dim, c = i % s->dim;
                float rk = kb_rounded(s->format, ((float *)kb_at(k))[(b * T + t) * stride + i]);
                float rv = ((float *)kb_at(v))[(b * T + t) * stride + i];
                double scale;

                if (t < a.k_packed)
                    rk = (float)unpack(s, &a.k, true, b, h, t, c, &scale);
                if (t < a.v_packed)
                    rv = (float)unpack(s, &a.v, false, b, h, t, c, &scale);
                else if (t < a.v_packed + a.v_full)
                    rv = kb_rounded(s->format, rv);
                ((float *)kb_kv_row(&d.k, b, h, t - s->first))[c] = rk;
                ((float *)kb_kv_row(&d.v, b, h, t - s->first))[c] = rv;
            }
    kit_run(KB_ATTN_KIVI, &a);
    kit_run(KB_ATTN_DECODE, &d);
    for (uint64_t i = 0; i < s->batch * a.out_stride; i++) {
        float x = ((float *)kb_at(a.out))[i], y = ((float *)kb_at(d.out))[i];

        ck_assert_msg((isnan(x) && isnan(y)) || fabsf(x - y) < 1e-5f, "%g, expected %g", (double)x, (double)y);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/kivi");
    TCase *t = tcase_create("kivi");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, pack_all, 0, (int)COUNT(shapes));
    tcase_add_test(t, pack_by_hand);
    tcase_add_loop_test(t, attend_cpu, 0, 2 * (int)COUNT(shapes));
    tcase_add_loop_test(t, attend_is_decode, 0, 2 * (int)COUNT(shapes));
    suite_add_tcase(s, t);
    return kit_main(s);
}
