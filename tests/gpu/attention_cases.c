#include "kernels/half.h"
#include "tests/gpu/cases.h"

#include <math.h>

static unsigned long long llu(uint64_t x)
{
    return x;
}

static float scale_of(uint32_t dim)
{
    return (float)(1 / sqrt((double)dim));
}

void case_attn_prefill(struct lab *l)
{
    struct kb_attn_prefill a = {.batch = lab_between(l, 1, 2), .tokens = lab_between(l, 1, l->tiny ? 40 : 150),
                                .head_dim = case_dim(l)};
    uint64_t rows;

    case_heads(l, &a.heads, &a.kv_heads);
    a.window = lab_below(l, 2) ? lab_between(l, 1, a.tokens + 3) : 0;
    a.scale = scale_of(a.head_dim);
    a.stride = (uint64_t)(a.heads + 2 * a.kv_heads) * a.head_dim + lab_below(l, 3);
    rows = a.batch * a.tokens;
    a.q = lab_floats(l, KVP_F32, rows * a.stride, 3);
    a.k = (struct kb_span){a.q.buf, a.q.offset + 4ull * a.heads * a.head_dim};
    a.v = (struct kb_span){a.q.buf, a.k.offset + 4ull * a.kv_heads * a.head_dim};
    a.out_stride = (uint64_t)a.heads * a.head_dim + lab_below(l, 3);
    a.out = lab_out(l, KVP_F32, rows * a.out_stride, 2e-5);
    if (lab_below(l, 2))
        a.lse = lab_out(l, KVP_F32, rows * a.heads, 1e-5);
    SAY(l, "batch %llu tokens %llu heads %u/%u dim %u window %llu", llu(a.batch), llu(a.tokens), a.heads, a.kv_heads, a.head_dim,
        llu(a.window));
    lab_run(l, KB_ATTN_PREFILL, &a, sizeof(a));
}

void case_attn_decode(struct lab *l)
{
    struct kb_attn_decode a = {.batch = lab_between(l, 1, 3), .head_dim = case_dim(l),
                               .used = lab_between(l, 1, l->tiny ? 90 : 700)};
    const enum kvp_format f = lab_format(l);
    const bool tail = lab_below(l, 2), probs = lab_below(l, 2);

    case_heads(l, &a.heads, &a.kv_heads);
    if (tail && lab_below(l, 4) == 0)
        a.used = 0;
    a.scale = scale_of(a.head_dim);
    a.q_stride = (uint64_t)a.heads * a.head_dim + lab_below(l, 4);
    a.q = lab_floats(l, KVP_F32, a.batch * a.q_stride, 4);
    a.k = case_kv(l, f, a.batch, a.kv_heads, a.head_dim, a.used + 1);
    a.v = case_kv(l, f, a.batch, a.kv_heads, a.head_dim, a.used + 1);
    if (tail) {
        a.tail_stride = (uint64_t)a.kv_heads * a.head_dim + lab_below(l, 4);
        a.tail_k = lab_floats(l, KVP_F32, a.batch * a.tail_stride, 1);
        a.tail_v = lab_floats(l, KVP_F32, a.batch * a.tail_stride, 1);
    }
    a.out_stride = (uint64_t)a.heads * a.head_dim + lab_below(l, 3);
    a.out = lab_out(l, KVP_F32, a.batch * a.out_stride, 2e-5);
    if (probs)
        a.probs = lab_out(l, KVP_F32, a.batch * a.heads * (a.used + tail), 2e-5);
    SAY(l, "batch %llu heads %u/%u dim %u used %llu %s blocks %u %u%s%s", llu(a.batch), a.heads, a.kv_heads, a.head_dim,
        llu(a.used), kvp_format_name(f), a.k.block, a.v.block, tail ? " tail" : "", probs ? " probs" : "");
    lab_run(l, KB_ATTN_DECODE, &a, sizeof(a));
}

/* ---- H2O ---------------------------------------------------------------------------------------- */

void case_h2o_scores(struct lab *l)
{
    struct kb_h2o_scores a = {.batch = lab_between(l, 1, 2), .tokens = lab_between(l, 1, l->tiny ? 40 : 150),
                              .head_dim = case_dim(l)};

    case_heads(l, &a.heads, &a.kv_heads);
    a.window = lab_below(l, 2) ? lab_between(l, 1, a.tokens + 3) : 0;
    a.scale = scale_of(a.head_dim);
    a.stride = (uint64_t)(a.heads + a.kv_heads) * a.head_dim + lab_below(l, 3);
    a.q = lab_floats(l, KVP_F32, a.batch * a.tokens * a.stride, 1);
    a.k = (struct kb_span){a.q.buf, a.q.offset + 4ull * a.heads * a.head_dim};
    a.lse = lab_positive(l, KVP_F32, a.batch * a.heads * a.tokens, 5);
    a.scores = lab_out(l, KVP_F32, a.batch * a.kv_heads * a.tokens, 2e-5);
    SAY(l, "batch %llu tokens %llu heads %u/%u dim %u window %llu", llu(a.batch), llu(a.tokens), a.heads, a.kv_heads, a.head_dim,
        llu(a.window));
    lab_run(l, KB_H2O_SCORES, &a, sizeof(a));
}

/* Scores of one of three steps, half of the time: ties are where selection goes wrong. */
static struct kb_span draw_scores(struct lab *l, enum kvp_format f, uint64_t n)
{
    const struct kb_span s = lab_positive(l, f, n, 4);

    if (lab_below(l, 2))
        for (uint64_t i = 0; i < n; i++) {
            static const float steps[] = {0, 0.5f, 2};
            const float x = steps[lab_below(l, 3)];

            if (f == KVP_F32)
                ((float *)(void *)(l->image + s.offset))[i] = x;
            else /* f16: the same three values by their bits */
                ((uint16_t *)(void *)(l->image + s.offset))[i] = x == 0 ? 0 : x < 1 ? 0x3800 : 0x4000;
        }
    return s;
}

/* Here and there a NaN, or nothing but NaN: what a broken model leaves, and no reason to leave the buffers. */
static void break_scores(struct lab *l, struct kb_span s, enum kvp_format f, uint64_t n)
{
    const uint64_t one_in = lab_below(l, 2) ? 1 : 4, size = kb_element(f);

    for (uint64_t i = 0; i < n; i++)
        if (lab_below(l, one_in) == 0)
            memset(l->image + s.offset + i * size, 0xff, size);
}

void case_h2o_select(struct lab *l)
{
    struct kb_h2o_select a = {.batch = lab_between(l, 1, 3), .tokens = lab_between(l, 1, l->tiny ? 300 : 2000),
                              .kv_heads = (uint32_t)lab_between(l, 1, 4), .score_format = lab_below(l, 2) ? KVP_F32 : KVP_F16};
    uint64_t kept;

    a.heavy = lab_between(l, 1, a.tokens / 2 + 2);
    a.recent = lab_between(l, 1, a.tokens / 2 + 2);
    kept = a.tokens < a.heavy + a.recent ? a.tokens : a.heavy + a.recent;
    a.scores = draw_scores(l, KVP_F32, a.batch * a.kv_heads * a.tokens);
    a.index = lab_out(l, KVP_I32, a.batch * a.kv_heads * kept, 0);
    a.kept_stride = kept + lab_below(l, 4);
    a.kept_scores = lab_out(l, a.score_format, a.batch * a.kv_heads * a.kept_stride, 0);
    SAY(l, "batch %llu heads %u tokens %llu heavy %llu recent %llu %s", llu(a.batch), a.kv_heads, llu(a.tokens), llu(a.heavy),
        llu(a.recent), kvp_format_name(a.score_format));
    lab_run(l, KB_H2O_SELECT, &a, sizeof(a));
}

void case_h2o_step(struct lab *l)
{
    struct kb_h2o_step a = {.batch = lab_between(l, 1, 3), .head_dim = case_dim(l), .heavy = lab_between(l, 1, l->tiny ? 30 : 400),
                            .recent = lab_between(l, 1, 60), .score_format = lab_below(l, 2) ? KVP_F32 : KVP_F16};
    const enum kvp_format f = lab_format(l);
    const bool full = lab_below(l, 3) > 0, ties = lab_below(l, 2), nan = lab_below(l, 5) == 0;

    case_heads(l, &a.heads, &a.kv_heads);
    a.used = full ? a.heavy + a.recent : lab_between(l, 1, a.heavy + a.recent - 1);
    a.position = full ? a.used + lab_below(l, 500) : a.used;
    a.probs = lab_positive(l, KVP_F32, a.batch * a.heads * (a.used + 1), ties ? 1e-9 : 1); /* too small to break a tie in f16 */
    a.score_stride = a.heavy + a.recent + lab_below(l, 3);
    a.scores = draw_scores(l, a.score_format, a.batch * a.kv_heads * a.score_stride);
    if (nan)
        break_scores(l, a.scores, a.score_format, a.batch * a.kv_heads * a.score_stride);
    /* NaNs have many bit patterns: then numbers must still be equal, and NaNs be NaNs */
    lab_changes(l, a.scores, a.score_format, a.batch * a.kv_heads * a.score_stride, nan ? 1e-30 : 0);
    a.k = case_kv(l, f, a.batch, a.kv_heads, a.head_dim, a.heavy + a.recent);
    a.v = case_kv(l, f, a.batch, a.kv_heads, a.head_dim, a.heavy + a.recent);
    lab_changes(l, a.k.data, f, case_kv_elements(&a.k, a.batch), 0);
    lab_changes(l, a.v.data, f, case_kv_elements(&a.v, a.batch), 0);
    a.new_stride = (uint64_t)a.kv_heads * a.head_dim + lab_below(l, 3);
    a.new_k = lab_floats(l, KVP_F32, a.batch * a.new_stride, 1);
    a.new_v = lab_floats(l, KVP_F32, a.batch * a.new_stride, 1);
    if (lab_below(l, 2))
        a.victim = lab_out(l, KVP_I32, a.batch * a.kv_heads, 0);
    SAY(l, "batch %llu heads %u/%u dim %u used %llu heavy %llu recent %llu position %llu %s scores %s%s%s", llu(a.batch), a.heads,
        a.kv_heads, a.head_dim, llu(a.used), llu(a.heavy), llu(a.recent), llu(a.position), kvp_format_name(f),
        kvp_format_name(a.score_format), ties ? " ties" : "", nan ? " NaN" : "");
    lab_run(l, KB_H2O_STEP, &a, sizeof(a));
}

/* ---- KIVI --------------------------------------------------------------------------------------- */

/* Room for `tokens` packed tokens of either side, as a strip, a ring, pages, or pages in a ring; `unit`:
 * 1 for V, the group for K. Codes, scales and mins are random. */
struct packed {
    struct kb_kivi at;
    uint64_t words, scales; /* of all sequences */
};

static struct packed draw_kivi(struct lab *l, uint64_t batch, uint32_t heads, uint32_t dim, uint32_t bits, uint32_t group,
                               enum kvp_format f, uint64_t tokens, uint64_t unit, uint64_t ring)
{
    struct packed p = {.at = {.ring = ring}};
    const uint64_t places = ring ? ring : tokens;
    uint64_t held;

    p.at.capacity = (places + unit - 1) / unit * unit + unit * lab_below(l, 2);
    held = batch * p.at.capacity;
    if (lab_below(l, 2)) {
        p.at.block = (uint32_t)(group * lab_between(l, 1, 2));
        p.at.table_stride = (places + p.at.block - 1) / p.at.block + lab_below(l, 2);
        p.at.table = lab_permutation(l, batch * p.at.table_stride);
        held = batch * p.at.table_stride * p.at.block;
    }
    p.words = held * heads * dim * bits / 32;
    p.scales = held * heads * dim / group;
    p.at.codes = lab_bits(l, p.words * 4);
    p.at.scale = lab_positive(l, f, p.scales, 0.5);
    p.at.min = lab_floats(l, f, p.scales, 1);
    return p;
}

static void kivi_changes(struct lab *l, const struct packed *p, enum kvp_format f)
{
    lab_changes(l, p->at.codes, KVP_I32, p->words, 0);
    lab_changes(l, p->at.scale, f, p->scales, 0);
    lab_changes(l, p->at.min, f, p->scales, 0);
}

static void draw_quant(struct lab *l, uint32_t *bits, uint32_t *group, uint32_t *dim)
{
    *bits = lab_below(l, 2) ? 2 : 4;
    *group = lab_below(l, 2) ? 32 : 16;
    *dim = *group * (uint32_t)lab_between(l, 1, l->tiny ? 3 : 8);
}

void case_kivi_pack_k(struct lab *l)
{
    struct kb_kivi_pack_k a = {.batch = lab_between(l, 1, 3), .kv_heads = (uint32_t)lab_between(l, 1, 3), .format = lab_format(l),
                               .src_is_f32 = lab_below(l, 2)};
    struct packed p;
    uint64_t tokens, ring;

    draw_quant(l, &a.bits, &a.group, &a.head_dim);
    a.tokens = a.group * lab_between(l, 1, 4);
    a.dst_token = a.group * lab_below(l, 3);
    tokens = a.tokens + a.dst_token;
    ring = lab_below(l, 2) ? a.tokens + a.group * lab_below(l, 2) : 0;
    a.src_head = a.head_dim;
    a.src_token = (uint64_t)a.kv_heads * a.head_dim + lab_below(l, 3);
    a.src_batch = a.src_token * (a.tokens + lab_below(l, 3));
    a.src = lab_floats(l, a.src_is_f32 ? KVP_F32 : a.format, a.batch * a.src_batch, lab_below(l, 8) ? 2 : 0);
    p = draw_kivi(l, a.batch, a.kv_heads, a.head_dim, a.bits, a.group, a.format, tokens, a.group, ring);
    a.dst = p.at;
    kivi_changes(l, &p, a.format);
    SAY(l, "batch %llu heads %u dim %u bits %u group %u tokens %llu from %llu ring %llu block %u %s%s", llu(a.batch), a.kv_heads,
        a.head_dim, a.bits, a.group, llu(a.tokens), llu(a.dst_token), llu(ring), p.at.block, kvp_format_name(a.format),
        a.src_is_f32 ? " from f32" : "");
    lab_run(l, KB_KIVI_PACK_K, &a, sizeof(a));
}

void case_kivi_pack_v(struct lab *l)
{
    struct kb_kivi_pack_v a = {.batch = lab_between(l, 1, 3), .kv_heads = (uint32_t)lab_between(l, 1, 3), .format = lab_format(l),
                               .src_is_f32 = lab_below(l, 2), .tokens = lab_between(l, 1, 90), .dst_token = lab_below(l, 70)};
    const uint64_t ring = lab_below(l, 2) ? a.tokens + lab_below(l, 9) : 0;
    struct packed p;

    draw_quant(l, &a.bits, &a.group, &a.head_dim);
    a.src_token = a.head_dim;
    a.src_head = a.src_token * (a.tokens + lab_below(l, 3));
    a.src_batch = a.src_head * a.kv_heads;
    a.src = lab_floats(l, a.src_is_f32 ? KVP_F32 : a.format, a.batch * a.src_batch, lab_below(l, 8) ? 2 : 0);
    p = draw_kivi(l, a.batch, a.kv_heads, a.head_dim, a.bits, a.group, a.format, a.tokens + a.dst_token, 1, ring);
    a.dst = p.at;
    kivi_changes(l, &p, a.format);
    SAY(l, "batch %llu heads %u dim %u bits %u group %u tokens %llu from %llu ring %llu block %u %s%s", llu(a.batch), a.kv_heads,
        a.head_dim, a.bits, a.group, llu(a.tokens), llu(a.dst_token), llu(ring), p.at.block, kvp_format_name(a.format),
        a.src_is_f32 ? " from f32" : "");
    lab_run(l, KB_KIVI_PACK_V, &a, sizeof(a));
}

void case_attn_kivi(struct lab *l)
{
    struct kb_attn_kivi a = {.batch = lab_between(l, 1, 2), .format = lab_format(l)};
    const bool tail = lab_below(l, 2);
    uint64_t tokens, stored, k_ring = 0, v_ring = 0;

    draw_quant(l, &a.bits, &a.group, &a.head_dim);
    case_heads(l, &a.heads, &a.kv_heads);
    a.k_packed = a.group * lab_below(l, l->tiny ? 4 : 16);
    a.k_full = lab_between(l, a.k_packed ? 0 : 1, 64);
    tokens = a.k_packed + a.k_full;
    stored = tokens - tail;
    a.v_full = lab_between(l, stored ? 1 : 0, stored < 64 ? stored : 64);
    a.v_packed = stored - a.v_full;
    if (lab_below(l, 2)) { /* a window, and rings that hold no more than it needs */
        a.first = lab_below(l, tokens);
        k_ring = a.first < a.k_packed ? a.k_packed - a.first / a.group * a.group : 0;
        v_ring = a.first < a.v_packed ? a.v_packed - a.first : 0;
    }
    a.scale_qk = scale_of(a.head_dim);
    a.q_stride = (uint64_t)a.heads * a.head_dim + lab_below(l, 3);
    a.q = lab_floats(l, KVP_F32, a.batch * a.q_stride, 2);
    if (a.k_packed)
        a.k = draw_kivi(l, a.batch, a.kv_heads, a.head_dim, a.bits, a.group, a.format, a.k_packed, a.group, k_ring).at;
    if (a.v_packed)
        a.v = draw_kivi(l, a.batch, a.kv_heads, a.head_dim, a.bits, a.group, a.format, a.v_packed, 1, v_ring).at;
    a.k_res_slots = a.k_full + lab_below(l, 3);
    a.v_res_slots = a.v_full + lab_below(l, 3);
    a.v_first = a.v_res_slots ? lab_below(l, a.v_res_slots) : 0;
    a.k_res = lab_floats(l, a.format, a.batch * a.kv_heads * (a.k_res_slots + 1) * a.head_dim, 1);
    a.v_res = lab_floats(l, a.format, a.batch * a.kv_heads * (a.v_res_slots + 1) * a.head_dim, 1);
    if (tail) {
        a.tail_stride = (uint64_t)a.kv_heads * a.head_dim + lab_below(l, 3);
        a.tail_v = lab_floats(l, KVP_F32, a.batch * a.tail_stride, 1);
    }
    a.out_stride = (uint64_t)a.heads * a.head_dim + lab_below(l, 3);
    a.out = lab_out(l, KVP_F32, a.batch * a.out_stride, 2e-5);
    SAY(l, "batch %llu heads %u/%u dim %u bits %u group %u k %llu+%llu v %llu+%llu%s first %llu blocks %u %u %s", llu(a.batch), a.heads,
        a.kv_heads, a.head_dim, a.bits, a.group, llu(a.k_packed), llu(a.k_full), llu(a.v_packed), llu(a.v_full), tail ? "+tail" : "",
        llu(a.first), a.k.block, a.v.block, kvp_format_name(a.format));
    lab_run(l, KB_ATTN_KIVI, &a, sizeof(a));
}
