/* variants.c - what some models add to plain kernels: caps, sinks, slopes, chunks, heads of two sizes, keys in two parts,
 * neighbours that rotate. Cpu against the reference, and laws that hold by hand. */
#include "tests/kernels/kit.h"

static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};

/* ---- attention of a prompt -------------------------------------------------------------------------- */

struct shape {
    uint64_t batch, tokens, window, chunk;
    uint32_t heads, kv_heads, dim, v_dim, shared;
    float softcap;
    bool sinks, slopes, split; /* split: k and v in rows of their own, v of a head behind its k */
};

static const struct shape prompts[] = {
    {1, 1, 0, 0, 1, 1, 8, 0, 0, 3, false, false, false},   {2, 65, 0, 0, 4, 2, 64, 0, 0, 5, false, false, false},
    {1, 300, 70, 0, 6, 2, 96, 0, 0, 0, true, false, false}, {1, 1, 0, 0, 2, 1, 4, 0, 0, 0, true, false, false},
    {2, 129, 0, 0, 3, 3, 5, 0, 0, 0, false, true, false},   {1, 300, 0, 64, 4, 2, 16, 0, 0, 0, false, false, false},
    {1, 300, 50, 7, 4, 2, 16, 0, 0, 0, true, true, false},  {1, 70, 0, 0, 4, 4, 24, 16, 8, 0, false, false, true},
    {2, 130, 0, 0, 3, 3, 12, 20, 5, 0, false, false, true}, {1, 513, 0, 0, 2, 2, 48, 32, 16, 9, true, true, true},
    {1, 40, 11, 0, 6, 3, 16, 8, 0, 0, false, false, false},
};

static struct kb_attn_prefill prompt(const struct shape *s, enum kvp_format sink_format)
{
    const uint32_t dv = s->v_dim ? s->v_dim : s->dim, own = s->dim - s->shared;
    const uint64_t n = s->batch * s->tokens, q = (uint64_t)s->heads * s->dim;
    struct kb_attn_prefill a = {
        .batch = s->batch, .tokens = s->tokens, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->dim,
        .window = s->window, .chunk = s->chunk, .scale = 1 / sqrtf((float)s->dim), .v_dim = s->v_dim, .softcap = s->softcap,
        .shared_dim = s->shared, .sink_format = sink_format,
    };
    const uint64_t kv = s->kv_heads * (uint64_t)(own + dv);

    a.stride = q + (s->split ? 0 : kv) + 3;
    a.q = kit_rows(n, q + (s->split ? 0 : kv), a.stride);
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t c = 0; c < q; c++)
            ((float *)kb_at(a.q))[i * a.stride + c] *= 6;
    a.k = a.v = a.q;
    a.k.offset = q * 4;
    a.v.offset = a.k.offset + (uint64_t)s->kv_heads * own * 4;
    if (s->split) {
        a.kv_stride = kv + 5;
        a.k_head = a.v_head = own + dv;
        a.k = a.v = kit_rows(n, kv, a.kv_stride);
        a.v.offset = own * 4;
    }
    if (s->shared) {
        a.shared_stride = s->shared + 2;
        a.shared = kit_rows(n, s->shared, a.shared_stride);
    }
    if (s->sinks)
        a.sinks = kit_floats(sink_format, s->heads, 2);
    if (s->slopes)
        a.slopes = kit_floats(KVP_F32, s->heads, 0.02f); /* scores stay below 20, and their rounding below 2e-6 */
    a.out_stride = s->heads * (uint64_t)dv + 1;
    a.out = kit_poison(KVP_F32, n * a.out_stride);
    a.lse = kit_poison(KVP_F32, s->batch * s->heads * s->tokens);
    return a;
}

START_TEST(prefill_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_prefill, out, KVP_F32, 3e-6, false),
                                          KIT_OUT(kb_attn_prefill, lse, KVP_F32, 2e-6, false)};

    for (size_t f = 0; f < (prompts[_i].sinks ? COUNT(formats) : 1); f++) {
        struct kb_attn_prefill a = prompt(&prompts[_i], formats[f]);

        ck_assert(kb_ref.supports(kit_ref, KB_ATTN_PREFILL, &a));
        KIT_CHECK(KB_ATTN_PREFILL, a, outs);
    }
}
END_TEST

/* Equal keys, so scores are all x and weights alike but for what the variant does. */
static struct kb_attn_prefill level(const struct shape *s, float x)
{
    struct kb_attn_prefill a = prompt(s, KVP_F32);

    a.scale = 1;
    for (uint64_t i = 0; i < s->tokens; i++)
        for (uint32_t h = 0; h < s->heads; h++) {
            float *row = (float *)kb_at(a.q) + i * a.stride;

            row[h] = x;
            row[s->heads] = 1;               /* k */
            row[s->heads + 1] = (float)i + 1; /* v */
        }
    return a;
}

START_TEST(prefill_laws)
{
    const struct shape cap = {1, 3, 0, 0, 1, 1, 1, 0, 0, 2, false, false, false}, sink = {1, 3, 0, 0, 1, 1, 1, 0, 0, 0, true, false, false},
                       slope = {1, 3, 0, 0, 1, 1, 1, 0, 0, 0, false, true, false}, chunk = {1, 5, 0, 2, 1, 1, 1, 0, 0, 0, false, false, false};
    struct kb_attn_prefill a = level(&cap, 50);
    const float means[] = {1, 1.5f, 3, 3.5f, 5}, *out;

    kit_run(KB_ATTN_PREFILL, &a); /* the score is 2 tanh(25) = 2, lse is that and ln 3 */
    ck_assert_float_eq_tol(((float *)kb_at(a.lse))[2], 2 + logf(3), 1e-5f);

    a = level(&sink, 0.5f);
    ((float *)kb_at(a.sinks))[0] = 0.5f + logf(3); /* weighs as much as the three keys of the last query */
    kit_run(KB_ATTN_PREFILL, &a);
    out = kb_at(a.out);
    ck_assert_float_eq_tol(out[0], 1.0f / 4, 1e-6f);
    ck_assert_float_eq_tol(out[2 * a.out_stride], 2.0f / 2, 1e-6f);

    a = level(&slope, 0);
    ((float *)kb_at(a.slopes))[0] = logf(2); /* weights 1/4, 1/2, 1 of the keys 2, 1 and 0 back */
    kit_run(KB_ATTN_PREFILL, &a);
    out = kb_at(a.out);
    ck_assert_float_eq_tol(out[2 * a.out_stride], (1 * 0.25f + 2 * 0.5f + 3) / 1.75f, 1e-5f);

    a = level(&chunk, 1);
    kit_run(KB_ATTN_PREFILL, &a);
    out = kb_at(a.out);
    for (int i = 0; i < 5; i++) /* chunks {0, 1}, {2, 3}, {4}: the mean of what is seen */
        ck_assert_float_eq_tol(out[(uint64_t)i * a.out_stride], means[i], 1e-6f);
}
END_TEST

/* ---- attention of one token ------------------------------------------------------------------------- */

static const struct {
    uint64_t batch, used;
    uint32_t heads, kv_heads, dim, v_dim, block;
    float softcap;
    bool sinks, slopes, tail;
} steps[] = {
    {1, 1, 1, 1, 8, 0, 0, 4, true, true, false},    {2, 33, 4, 1, 80, 0, 0, 0, true, false, false},
    {1, 700, 8, 2, 64, 0, 16, 6, false, false, false}, {2, 257, 6, 3, 24, 16, 0, 0, false, false, false},
    {1, 1500, 8, 8, 40, 96, 32, 0, true, false, false}, {2, 90, 5, 5, 16, 0, 0, 0, false, true, true},
    {1, 0, 4, 2, 16, 8, 0, 3, true, true, true},      {1, 2000, 16, 2, 192, 128, 0, 9, true, true, true},
};

static struct kb_kv rows_of(uint64_t batch, uint64_t used, uint32_t heads, uint32_t dim, uint32_t block, enum kvp_format f)
{
    const uint64_t pages = block ? (used + block - 1) / block + 1 : 0, slots = used + 2;
    struct kb_kv kv = {.format = f, .heads = heads, .dim = dim, .slots = slots, .block = block, .table_stride = pages};

    if (block)
        kv.table = kit_shuffled(batch * pages);
    kv.data = kit_poison(f, batch * heads * dim * (block ? pages * block : slots));
    for (uint64_t b = 0; b < batch; b++)
        for (uint32_t h = 0; h < heads; h++)
            for (uint64_t t = 0; t < used; t++)
                for (uint32_t c = 0; c < dim; c++)
                    kb_store(f, kb_kv_row(&kv, b, h, t), c, kit_uniform());
    return kv;
}

START_TEST(decode_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_decode, out, KVP_F32, 4e-6, false),
                                          KIT_OUT(kb_attn_decode, probs, KVP_F32, 4e-6, false)};

    for (size_t f = 0; f < COUNT(formats); f++) {
        const uint32_t dv = steps[_i].v_dim ? steps[_i].v_dim : steps[_i].dim, groups = steps[_i].kv_heads;
        struct kb_attn_decode a = {
            .batch = steps[_i].batch, .heads = steps[_i].heads, .kv_heads = groups, .head_dim = steps[_i].dim,
            .v_dim = steps[_i].v_dim, .used = steps[_i].used, .scale = 3 / sqrtf((float)steps[_i].dim),
            .softcap = steps[_i].softcap, .sink_format = formats[f],
        };

        a.q_stride = a.heads * (uint64_t)a.head_dim + 1;
        a.q = kit_rows(a.batch, a.q_stride - 1, a.q_stride);
        a.k = rows_of(a.batch, a.used, groups, a.head_dim, steps[_i].block, formats[f]);
        a.v = rows_of(a.batch, a.used, groups, dv, steps[_i].block, formats[f]);
        if (steps[_i].tail) {
            a.tail_stride = groups * (uint64_t)(a.head_dim > dv ? a.head_dim : dv) + 2;
            a.tail_k = kit_rows(a.batch, groups * (uint64_t)a.head_dim, a.tail_stride);
            a.tail_v = kit_rows(a.batch, groups * (uint64_t)dv, a.tail_stride);
        }
        if (steps[_i].sinks)
            a.sinks = kit_floats(formats[f], a.heads, 2);
        if (steps[_i].slopes)
            a.slopes = kit_floats(KVP_F32, a.heads, 0.01f);
        a.out_stride = a.heads * (uint64_t)dv + 1;
        a.out = kit_poison(KVP_F32, a.batch * a.out_stride);
        a.probs = kit_poison(KVP_F32, a.batch * a.heads * (a.used + steps[_i].tail));
        ck_assert(kb_ref.supports(kit_ref, KB_ATTN_DECODE, &a));
        KIT_CHECK(KB_ATTN_DECODE, a, outs);
    }
}
END_TEST

/* ---- attention in latent space ---------------------------------------------------------------------- */

static const struct {
    uint64_t batch, used;
    uint32_t heads, rank, rope, block;
} latents[] = {
    {1, 1, 1, 4, 2, 0}, {2, 33, 4, 64, 8, 0}, {1, 700, 16, 128, 16, 16}, {3, 90, 3, 20, 6, 7}, {1, 1100, 8, 512, 64, 0},
};

START_TEST(latent_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_attn_latent, out, KVP_F32, 4e-6, false)};

    for (size_t f = 0; f < COUNT(formats); f++) {
        struct kb_attn_latent a = {.batch = latents[_i].batch, .used = latents[_i].used, .heads = latents[_i].heads,
                                   .rank = latents[_i].rank, .rope_dim = latents[_i].rope};

        a.scale = 3 / sqrtf((float)(a.rank + a.rope_dim));
        a.q_stride = a.heads * (uint64_t)a.rank + 3;
        a.q = kit_rows(a.batch, a.q_stride - 3, a.q_stride);
        a.q_rope_head = a.rope_dim + 5;
        a.q_rope_stride = a.heads * a.q_rope_head;
        a.q_rope = kit_rows(a.batch, a.q_rope_stride, a.q_rope_stride);
        a.latent = rows_of(a.batch, a.used, 1, a.rank, latents[_i].block, formats[f]);
        a.rope = rows_of(a.batch, a.used, 1, a.rope_dim, latents[_i].block, formats[f]);
        a.out_stride = a.heads * (uint64_t)a.rank + 2;
        a.out = kit_poison(KVP_F32, a.batch * a.out_stride);
        ck_assert(kb_ref.supports(kit_ref, KB_ATTN_LATENT, &a));
        KIT_CHECK(KB_ATTN_LATENT, a, outs);
    }
}
END_TEST

/* With one latent of rank and rope laid end to end as a key, and the latent as its value, it is decode attention. */
START_TEST(latent_is_decode)
{
    enum { H = 3, R = 8, D = 4, USED = 21 };
    struct kb_attn_latent a = {.batch = 1, .heads = H, .rank = R, .rope_dim = D, .used = USED, .scale = 0.7f, .q_stride = H * R,
                               .q_rope_head = D, .q_rope_stride = H * D, .out_stride = H * R};
    struct kb_attn_decode b = {.batch = 1, .heads = H, .kv_heads = 1, .head_dim = R + D, .v_dim = R, .used = USED, .scale = 0.7f,
                               .q_stride = H * (R + D), .out_stride = H * R};

    a.q = kit_floats(KVP_F32, H * R, 1);
    a.q_rope = kit_floats(KVP_F32, H * D, 1);
    a.latent = rows_of(1, USED, 1, R, 0, KVP_F32);
    a.rope = rows_of(1, USED, 1, D, 4, KVP_F32);
    a.out = kit_poison(KVP_F32, H * R);
    b.q = kit_poison(KVP_F32, H * (R + D));
    b.k = rows_of(1, USED, 1, R + D, 0, KVP_F32);
    b.v = a.latent;
    b.out = kit_poison(KVP_F32, H * R);
    for (int h = 0; h < H; h++) {
        memcpy((float *)kb_at(b.q) + h * (R + D), (float *)kb_at(a.q) + h * R, R * 4);
        memcpy((float *)kb_at(b.q) + h * (R + D) + R, (float *)kb_at(a.q_rope) + h * D, D * 4);
    }
    for (uint64_t t = 0; t < USED; t++) {
        memcpy(kb_kv_row(&b.k, 0, 0, t), kb_kv_row(&a.latent, 0, 0, t), R * 4);
        memcpy((float *)kb_kv_row(&b.k, 0, 0, t) + R, kb_kv_row(&a.rope, 0, 0, t), D * 4);
    }
    kit_run(KB_ATTN_LATENT, &a);
    kit_run(KB_ATTN_DECODE, &b);
    for (int i = 0; i < H * R; i++)
        ck_assert_float_eq_tol(((float *)kb_at(a.out))[i], ((float *)kb_at(b.out))[i], 1e-6f);
}
END_TEST

static const struct {
    uint64_t m;
    uint32_t heads, rows, cols;
} products[] = {{1, 1, 1, 1}, {3, 4, 16, 64}, {2, 5, 7, 33}, {9, 2, 128, 512}};

START_TEST(head_gemm_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_head_gemm, out, KVP_F32, 3e-6, false)};

    for (size_t f = 0; f < COUNT(formats); f++)
        for (int way = 0; way < 3; way++) {
            const bool t = way == 1;
            struct kb_head_gemm a = {.m = products[_i].m, .heads = products[_i].heads, .rows = products[_i].rows,
                                     .cols = products[_i].cols, .transposed = t, .format = formats[f]};
            const uint32_t in = t ? a.rows : a.cols, out = t ? a.cols : a.rows;

            a.w_head = (uint64_t)(a.rows + 2) * a.cols;
            a.w = kit_floats(a.format, a.w_head * a.heads, 1);
            a.x_head = in + 1;
            a.x_stride = a.heads * a.x_head + 2;
            a.x = kit_rows(a.m, a.x_stride, a.x_stride);
            a.out_head = out + 3;
            a.out_stride = a.heads * a.out_head;
            a.out = kit_poison(KVP_F32, a.m * a.out_stride);
            a.bias_head = out + 1;
            if (way == 2)
                a.bias = kit_floats(a.format, a.heads * a.bias_head, 1);
            KIT_CHECK(KB_HEAD_GEMM, a, outs);
        }
}
END_TEST

/* ---- rows ------------------------------------------------------------------------------------------- */

START_TEST(norm_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_norm, out, KVP_F32, 2e-6, false)};

    for (size_t f = 0; f < COUNT(formats); f++) {
        struct kb_norm a = {.rows = 7, .groups = 2, .width = 33, .in_stride = 70, .out_stride = 67, .eps = 1e-6,
                            .format = formats[f], .add_one = _i != 1, .accumulate = _i != 0};

        a.weight = kit_floats(a.format, a.width, 1);
        a.in = kit_rows(a.rows, 66, a.in_stride);
        a.out = kit_rows(a.rows, 66, a.out_stride);
        KIT_CHECK(KB_NORM, a, outs);
    }
}
END_TEST

/* A weight of 0 is then a weight of 1, and what was there stays. */
START_TEST(norm_by_hand)
{
    struct kb_norm a = {.rows = 1, .groups = 1, .width = 2, .in_stride = 2, .out_stride = 2, .add_one = true, .accumulate = true};
    const float in[] = {3, -4}, was[] = {10, 20};

    a.weight = kit_bytes(8, 0);
    a.in = kit_bytes(8, 0);
    a.out = kit_bytes(8, 0);
    memcpy(kb_at(a.in), in, 8);
    memcpy(kb_at(a.out), was, 8);
    kit_run(KB_NORM, &a); /* the root mean square is sqrt(12.5) */
    ck_assert_float_eq_tol(((float *)kb_at(a.out))[0], 10 + 3 / sqrtf(12.5f), 1e-6f);
    ck_assert_float_eq_tol(((float *)kb_at(a.out))[1], 20 - 4 / sqrtf(12.5f), 1e-5f);
}
END_TEST

/* Without a weight, and rows that are multiplied by what their position says. */
START_TEST(bare_rows)
{
    static const struct kit_out norms[] = {KIT_OUT(kb_norm, out, KVP_F32, 2e-6, false)},
                                warmed[] = {KIT_OUT(kb_rope, x, KVP_F32, 2e-6, false)};
    struct kb_norm a = {.rows = 3, .groups = 2, .width = 20, .in_stride = 41, .out_stride = 43, .eps = 1e-6};
    struct kb_rope b = {.rows = 4, .heads = 2, .head_dim = 6, .stride = 15, .warm_every = 8, .warm_by = 0.1f};
    float first;

    a.in = kit_rows(a.rows, 40, a.in_stride);
    a.out = kit_poison(KVP_F32, a.rows * a.out_stride);
    KIT_CHECK(KB_NORM, a, norms);
    b.x = kit_rows(b.rows, 12, b.stride);
    b.positions = kit_ints(b.rows, 0, 23); /* the last is 69: floor(70 / 8) = 8 */
    first = ((float *)kb_at(b.x))[3 * 15 + 11];
    KIT_CHECK(KB_ROPE, b, warmed);
    ck_assert_float_eq_tol(((float *)kb_at(b.x))[3 * 15 + 11], first * (1 + 0.1f * logf(9)), 1e-6f);
}
END_TEST

START_TEST(act_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_act, out, KVP_F32, 2e-6, false)};
    static const enum kb_act_kind kinds[] = {KB_ACT_SWIGLU_CLAMPED, KB_ACT_SOFTCAP, KB_ACT_SCALE};
    const bool gated = _i == 0;
    struct kb_act a = {.rows = 9, .width = 37, .gated = gated, .kind = kinds[_i],
                       .alpha = 1.702f, .limit = gated ? 2 : 5, .in_stride = 80, .out_stride = 41};

    ck_assert(kb_ref.supports(kit_ref, KB_ACT, &a));
    a.in = kit_rows(a.rows, gated ? 74 : 37, a.in_stride);
    for (uint64_t i = 0; i < 9 * 80; i++)
        ((float *)kb_at(a.in))[i] *= 6; /* some of them clamped */
    a.out = kit_poison(KVP_F32, a.rows * a.out_stride);
    KIT_CHECK(KB_ACT, a, outs);
    a.out_stride = a.in_stride;
    a.out = kit_poison(KVP_F32, a.rows * a.out_stride);
    memcpy(kb_at(a.out), kb_at(a.in), a.in.buf->bytes);
    a.in = a.out; /* in place: the same */
    kit_run(KB_ACT, &a);
    ck_assert(isfinite(((float *)kb_at(a.out))[8 * 80 + 36]));
}
END_TEST

START_TEST(swiglu_by_hand)
{
    struct kb_act a = {.rows = 1, .width = 2, .gated = true, .kind = KB_ACT_SWIGLU_CLAMPED, .alpha = 1, .limit = 3, .in_stride = 4, .out_stride = 2};
    const float in[] = {9, 9, -1, -9}; /* gate, up, gate, up */

    a.in = kit_bytes(sizeof(in), 0);
    memcpy(kb_at(a.in), in, sizeof(in));
    a.out = kit_poison(KVP_F32, 2);
    kit_run(KB_ACT, &a);
    ck_assert_float_eq_tol(((float *)kb_at(a.out))[0], 4 * 3 / (1 + expf(-3)), 1e-5f);
    ck_assert_float_eq_tol(((float *)kb_at(a.out))[1], (1 - 3) * -1 / (1 + expf(1)), 1e-6f);
}
END_TEST

START_TEST(rope_cpu)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_rope, x, KVP_F32, 2e-6, false)};
    struct kb_rope a = {.rows = 11, .heads = 3, .head_dim = 6, .stride = 50, .head_stride = _i & 1 ? 16 : 0, .neighbours = _i & 2,
                        .amplitude = _i & 4 ? 1.3f : 0};

    a.x = kit_rows(a.rows, 48, a.stride);
    a.positions = kit_ints(a.rows, 5, 3);
    a.inv_freq = kit_floats(KVP_F32, 3, 1);
    KIT_CHECK(KB_ROPE, a, outs);
}
END_TEST

/* Neighbours of a reordered head turn as its halves do; an amplitude stretches; what lies behind head_dim stays. */
START_TEST(rope_laws)
{
    struct kb_rope a = {.rows = 1, .heads = 1, .head_dim = 4, .stride = 6, .head_stride = 6}, b = a;

    a.x = kit_rows(1, 6, 6);
    b.x = kit_rows(1, 6, 6);
    for (int i = 0; i < 4; i++)
        ((float *)kb_at(b.x))[i % 2 * 2 + i / 2] = ((float *)kb_at(a.x))[i]; /* x0 x2, x1 x3 -> neighbours */
    ((float *)kb_at(b.x))[4] = 7;
    a.positions = b.positions = kit_ints(1, 3, 0);
    a.inv_freq = b.inv_freq = kit_floats(KVP_F32, 2, 1);
    b.neighbours = true;
    b.amplitude = 2;
    kit_run(KB_ROPE, &a);
    kit_run(KB_ROPE, &b);
    for (int i = 0; i < 4; i++)
        ck_assert_float_eq_tol(((float *)kb_at(b.x))[i % 2 * 2 + i / 2], 2 * ((float *)kb_at(a.x))[i], 1e-6f);
    ck_assert_float_eq(((float *)kb_at(b.x))[4], 7);
}
END_TEST

START_TEST(embed_scales)
{
    static const struct kit_out outs[] = {KIT_OUT(kb_embed, out, KVP_F32, 1e-7, true)};
    struct kb_embed a = {.rows = 5, .width = 12, .vocab = 9, .format = KVP_BF16, .scale = 3.5f};

    a.tokens = kit_ints(5, 0, 2);
    a.table = kit_floats(a.format, 9 * 12, 1);
    a.out = kit_poison(KVP_F32, 5 * 12);
    KIT_CHECK(KB_EMBED, a, outs);
    ck_assert_float_eq(((float *)kb_at(a.out))[12], 3.5f * kb_load(KVP_BF16, kb_at(a.table), 2 * 12));
}
END_TEST

/* Heads apart by more than their width, one row for all of them, and a part of a row. */
START_TEST(write_cpu)
{
    static const struct kit_out outs[] = {{offsetof(struct kb_cache_write, dst) + offsetof(struct kb_kv, data), KVP_F16, 0, false}};
    const bool part = _i & 1;
    struct kb_cache_write a = {.batch = 2, .count = 3, .slot = 1, .src_tokens = 4, .src_stride = 60, .src_first = 1,
                               .first = part ? 3 : 0, .width = part ? 4 : 0, .src_head = _i & 2 ? 17 : 0, .shared = _i & 4};

    a.dst = rows_of(2, 5, 3, 8, 0, KVP_F16);
    a.src = kit_rows(8, 60, 60);
    ck_assert(kb_ref.supports(kit_ref, KB_CACHE_WRITE, &a));
    KIT_CHECK(KB_CACHE_WRITE, a, outs);
    ck_assert_float_eq_tol(kb_load(KVP_F16, kb_kv_row(&a.dst, 1, 2, 2), part ? 3 : 0),
                           ((float *)kb_at(a.src))[(4 + 2) * 60 + (a.shared ? 0 : 2 * (a.src_head ? a.src_head : part ? 4 : 8))], 1e-3f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/variants");
    TCase *t = tcase_create("variants");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, prefill_cpu, 0, (int)COUNT(prompts));
    tcase_add_test(t, prefill_laws);
    tcase_add_loop_test(t, decode_cpu, 0, (int)COUNT(steps));
    tcase_add_loop_test(t, latent_cpu, 0, (int)COUNT(latents));
    tcase_add_test(t, latent_is_decode);
    tcase_add_loop_test(t, head_gemm_cpu, 0, (int)COUNT(products));
    tcase_add_loop_test(t, norm_cpu, 0, 3);
    tcase_add_test(t, norm_by_hand);
    tcase_add_test(t, bare_rows);
    tcase_add_loop_test(t, act_cpu, 0, 3);
    tcase_add_test(t, swiglu_by_hand);
    tcase_add_loop_test(t, rope_cpu, 0, 8);
    tcase_add_test(t, rope_laws);
    tcase_add_test(t, embed_scales);
    tcase_add_loop_test(t, write_cpu, 0, 8);
    suite_add_tcase(s, t);
    return kit_main(s);
}
