/* recurrent.c - the work of recurrences, and of RWKV's channel mix.
 *
 * techniques.md 3.8 c. FLOPs of the state part, a token and layer: RWKV-4 20 C; RWKV-5, 6 7 C N; RWKV-7
 * 9 C N; Mamba-1 7 E n; Mamba-2 5 E n; delta nets 7 Hv dk dv; lightning attention 5 H d d (decay, outer
 * product, its sum, read); RG-LRU 6 W; the short convolution's two gates 2 D. A convolution: 2 a tap and
 * channel. Prefill is linear in tokens, in whichever form it runs, and writes the last state once; a decode
 * step reads and writes the state once a sequence. */
#include "calc/ops/pass.h"

struct rec {
    const struct pass *s;
    const struct kvp_layer_class *c;
    uint32_t cls;
    uint64_t D;
};

/* What a recurrence asks of one token. */
struct shape {
    uint64_t channels;     /* of the convolution, or what a token shift mixes */
    uint64_t scan_in, out; /* values into the scan, out of it */
    uint64_t flops;        /* of the scan */
    uint64_t small;        /* weights that conv and scan read: taps, decays, norms */
};

static void add(const struct pass *s, struct cost *to, struct cost x)
{
    to->flops = sum(s, to->flops, x.flops);
    to->flops_full = to->flops;
    to->read = sum(s, to->read, x.read);
    to->written = sum(s, to->written, x.written);
}

/* N rows through [out, in]. */
static void linear(const struct rec *r, struct cost *to, uint64_t in, uint64_t out, bool bias)
{
    const struct pass *s = r->s;
    const uint64_t weights = pass_weights(s, KVP_ROLE_RECURRENT, out, in);

    if (!in || !out)
        return;
    add(s, to, (struct cost){.flops = NUM_PROD(&s->o->over, 2, s->N, in, out),
                             .read = sum(s, sum(s, weights, bias ? pass_plain(s, out) : 0), prod3(s, F, s->N, in)),
                             .written = prod3(s, F, s->N, out)});
}

/* ---- input projections, one recurrence each ----------------------------------------------------------- */

static void in_mamba1(const struct rec *r, struct cost *to)
{
    linear(r, to, r->D, 2ull * r->c->inner, r->c->rec_bias);
    linear(r, to, r->c->inner, r->c->dt_rank + 2ull * r->c->state, false);
    linear(r, to, r->c->dt_rank, r->c->inner, true);
}

static void in_mamba2(const struct rec *r, struct cost *to)
{
    linear(r, to, r->D, 2ull * r->c->inner + 2ull * r->c->groups * r->c->state + r->c->rec_heads, r->c->rec_bias);
}

static void in_rwkv4(const struct rec *r, struct cost *to)
{
    linear(r, to, r->D, 3ull * r->c->inner, false);
}

static void in_rwkv56(const struct rec *r, struct cost *to)
{
    linear(r, to, r->D, 4ull * r->c->inner, false);
    linear(r, to, r->D, r->c->low_rank[0], false);
    linear(r, to, r->c->low_rank[0], r->c->inner, false);
    linear(r, to, r->D, 5ull * r->c->low_rank[1], false);
    for (int i = 0; i < 5; i++)
        linear(r, to, r->c->low_rank[1], r->D, false);
}

static void in_rwkv7(const struct rec *r, struct cost *to)
{
    linear(r, to, r->D, 3ull * r->c->inner, false);
    for (int i = 0; i < 4; i++) {
        linear(r, to, r->D, r->c->low_rank[i], false);
        linear(r, to, r->c->low_rank[i], r->c->inner, i < 3);
    }
}

static void in_delta(const struct rec *r, struct cost *to)
{
    linear(r, to, r->D, 2ull * r->c->groups * r->c->state + 2ull * r->c->rec_heads * r->c->rec_head_dim + 2ull * r->c->rec_heads, false);
}

static void in_kda(const struct rec *r, struct cost *to)
{
    const uint64_t A = (uint64_t)r->c->rec_heads * r->c->rec_head_dim;

    linear(r, to, r->D, 3 * A + r->c->rec_heads, false);
    for (int i = 0; i < 2; i++) {
        linear(r, to, r->D, r->c->low_rank[i], false);
        linear(r, to, r->c->low_rank[i], A, i == 1 && r->c->rec_bias);
    }
}

static void in_lightning(const struct rec *r, struct cost *to)
{
    linear(r, to, r->D, 4ull * r->c->rec_heads * r->c->rec_head_dim, false);
}

/* linear_y, linear_x, and the two gates: blocks of rec_head_dim on the diagonal. */
static void in_rglru(const struct rec *r, struct cost *to)
{
    const struct pass *s = r->s;
    const uint64_t gates = 2ull * r->c->inner * r->c->rec_head_dim;

    linear(r, to, r->D, 2ull * r->c->inner, r->c->rec_bias);
    add(s, to, (struct cost){.flops = prod3(s, 2, s->N, gates),
                             .read = sum(s, pass_plain(s, gates + 2ull * r->c->inner), prod3(s, F, s->N, r->c->inner)),
                             .written = prod3(s, F, s->N, 2ull * r->c->inner)});
}

static void in_conv(const struct rec *r, struct cost *to)
{
    linear(r, to, r->D, 3ull * r->c->inner, r->c->rec_bias);
}

/* ---- conv and scan -------------------------------------------------------------------------------------- */

static struct shape shape_of(const struct kvp_layer_class *c, uint64_t D)
{
    const uint64_t E = c->inner, A = (uint64_t)c->rec_heads * c->rec_head_dim, bc = 2ull * c->groups * c->state;

    switch (c->recurrent) {
    case KVP_REC_MAMBA1:
        return (struct shape){E, 3 * E + 2ull * c->state, E, 7 * E * c->state, E * c->state + E};
    case KVP_REC_MAMBA2:
        return (struct shape){E + bc, 2 * E + bc + c->rec_heads, E, 5 * E * c->state, 3ull * c->rec_heads + (c->rec_norm ? E : 0)};
    case KVP_REC_RWKV4:
        return (struct shape){D, 3 * E, E, 20 * E, 2 * E};
    case KVP_REC_RWKV5:
        return (struct shape){D, 4 * E, E, 7 * E * c->rec_head_dim, 4 * E};
    case KVP_REC_RWKV6:
        return (struct shape){D, 5 * E, E, 7 * E * c->rec_head_dim, 4 * E};
    case KVP_REC_RWKV7:
        return (struct shape){D, 7 * E, E, 9 * E * c->rec_head_dim, 5 * E};
    case KVP_REC_DELTA:
        return (struct shape){bc + A, bc + 2 * A + 2ull * c->rec_heads, A, 7 * A * c->state, 2ull * c->rec_heads + c->rec_head_dim};
    case KVP_REC_KDA:
        return (struct shape){3 * A, 5 * A + c->rec_heads, A, 7 * A * c->rec_head_dim, A + c->rec_heads + c->rec_head_dim};
    case KVP_REC_LIGHTNING:
        return (struct shape){0, 4 * A, A, 5 * A * c->rec_head_dim, A};
    case KVP_REC_RGLRU:
        return (struct shape){E, 4 * E, E, 6 * E, E};
    case KVP_REC_CONV:
        return (struct shape){E, 3 * E, E, 2 * E, 0};
    case KVP_REC_NONE:
        break;
    }
    return (struct shape){0};
}

/* Bytes of the state, all sequences: the window of the conv (or the shifted tokens), or the rest of it. */
static uint64_t state_bytes(const struct rec *r, bool window)
{
    const struct plan_class *c = &r->s->p->cls[r->cls];
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *x = &c->parts[i];
        const bool is_window = strcmp(x->name, "conv_state") == 0 || strcmp(x->name, "shift") == 0;

        if (x->tag == KVP_TAG_STATE && is_window == window)
            bytes = sum(r->s, bytes, num_mul(&r->s->o->over, part_bytes(&r->s->o->over, x, x->law.cap), r->s->B));
    }
    return bytes;
}

static void stateful(const struct rec *r, enum kvp_op op, uint64_t in, uint64_t out, uint64_t flops, uint64_t weights, uint64_t state)
{
    const struct pass *s = r->s;
    const uint64_t work = prod3(s, s->N, flops, 1), before = s->phase == KVP_DECODE ? state : 0;

    ops_add(s->o, op, s->phase, r->cls, s->p->cls[r->cls].alike,
            (struct cost){work, work, sum(s, sum(s, prod3(s, F, s->N, in), pass_plain(s, weights)), before),
                          sum(s, prod3(s, F, s->N, out), state)});
}

/* ---- RWKV's channel mix ---------------------------------------------------------------------------------- */

static void channel_mix(const struct rec *r)
{
    const struct pass *s = r->s;
    const uint64_t n = s->p->cls[r->cls].alike, I = r->c->ffn_width, gate = r->c->recurrent == KVP_REC_RWKV7 ? 0 : r->D;

    pass_stream(s, KVP_OP_MLP_NORM, r->cls, n, s->N, r->D, r->D, pass_norm_weights(s));
    pass_linear(s, KVP_OP_MLP_UP, KVP_ROLE_FFN, r->cls, n, s->N, r->D, I + gate, false, false);
    pass_stream(s, KVP_OP_MLP_ACT, r->cls, n, s->N, I + gate, I + gate, 0);
    pass_linear(s, KVP_OP_MLP_DOWN, KVP_ROLE_FFN, r->cls, n, s->N, I, r->D, false, true);
}

void ops_recurrent(const struct pass *s, uint32_t cls)
{
    static void (*const in[])(const struct rec *, struct cost *) = {
        [KVP_REC_MAMBA1] = in_mamba1, [KVP_REC_MAMBA2] = in_mamba2, [KVP_REC_RWKV4] = in_rwkv4, [KVP_REC_RWKV5] = in_rwkv56,
        [KVP_REC_RWKV6] = in_rwkv56,  [KVP_REC_RWKV7] = in_rwkv7,   [KVP_REC_DELTA] = in_delta, [KVP_REC_KDA] = in_kda,
        [KVP_REC_LIGHTNING] = in_lightning, [KVP_REC_RGLRU] = in_rglru, [KVP_REC_CONV] = in_conv,
    };
    const struct plan_class *pc = &s->p->cls[cls];
    const struct rec r = {s, pc->model, cls, s->p->model->width};
    const struct shape x = shape_of(r.c, r.D);
    struct cost first = {0};

    if (r.c->recurrent) {
        if (r.c->mixer == KVP_MIX_NONE) /* side by side with attention one norm serves both */
            pass_stream(s, KVP_OP_ATTN_NORM, cls, pc->alike, s->N, r.D, r.D, pass_norm_weights(s));
        in[r.c->recurrent](&r, &first);
        ops_add(s->o, KVP_OP_REC_IN, s->phase, cls, pc->alike, first);
        if (x.channels)
            stateful(&r, KVP_OP_REC_CONV, x.channels, x.channels, 2 * x.channels * r.c->conv,
                     x.channels * (r.c->conv + (r.c->conv_bias ? 1 : 0)), state_bytes(&r, true));
        stateful(&r, KVP_OP_REC_SCAN, x.scan_in, x.out, x.flops, x.small, state_bytes(&r, false));
        pass_linear(s, KVP_OP_REC_OUT, KVP_ROLE_RECURRENT, cls, pc->alike, s->N, x.out, r.D,
                    r.c->rec_bias && r.c->recurrent != KVP_REC_KDA, true);
    }
    if (r.c->ffn == KVP_FFN_RWKV)
        channel_mix(&r);
}
