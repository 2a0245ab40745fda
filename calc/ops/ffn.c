/* ffn.c - the feed-forward half of a layer: dense, experts, shared experts; all of one op together.
 *
 * techniques.md 5.2. FLOPs: the experts a token is routed to and the shared ones. Bytes: a pass over `rows`
 * tokens reads the experts that any of them needs, under uniform routing n * (1 - (1 - k/n)^rows) of n. */
#include "calc/ops/pass.h"

#include <math.h>

/* Rounded up: an expert is read whole or not at all. */
static uint64_t distinct_experts(const struct kvp_layer_class *m, uint64_t rows)
{
    const double n = m->experts, k = m->experts_per_token;
    const double missed = k < n ? pow(1 - k / n, (double)rows) : 0;
    const double expected = n * (1 - missed);

    return num_min(m->experts, (uint64_t)ceil(expected - 1e-9 * n)); /* one row needs k, not k + 1 */
}

/* What a layer's feed-forward is made of: parts of `rows` rows, each in and out of `width` wide matrices. */
struct piece {
    enum kvp_role role;
    uint64_t rows, in, width, copies;
    bool bias;
};

static uint32_t pieces_of(const struct pass *s, const struct kvp_layer_class *m, struct piece out[3])
{
    const uint64_t D = s->p->model->width;
    uint32_t n = 0;

    if (m->ffn_width)
        out[n++] = (struct piece){KVP_ROLE_FFN, s->N, D, m->ffn_width, 1, m->ffn_bias};
    if (m->experts)
        out[n++] = (struct piece){KVP_ROLE_EXPERT, prod3(s, s->N, m->experts_per_token, 1), m->expert_in ? m->expert_in : D, m->expert_width,
                                  distinct_experts(m, s->N), m->expert_bias};
    if (m->experts && m->shared_width)
        out[n++] = (struct piece){KVP_ROLE_SHARED, s->N, D, m->shared_width, 1, false};
    return n;
}

/* Weights and FLOPs of `out` outputs from `in` inputs; the activations are the caller's. */
static void product(const struct pass *s, const struct piece *x, uint64_t in, uint64_t out, struct cost *c)
{
    const uint64_t one = sum(s, pass_weights(s, x->role, out, in), x->bias ? pass_plain(s, out) : 0);

    c->flops = c->flops_full = sum(s, c->flops, NUM_PROD(&s->o->over, 2, x->rows, in, out));
    c->read = sum(s, c->read, prod3(s, one, x->copies, 1));
}

static void router(const struct pass *s, const struct kvp_layer_class *m, uint32_t cls)
{
    const uint64_t out = (uint64_t)m->experts + (m->shared_gate ? 1 : 0), D = s->p->model->width;
    struct piece x = {KVP_ROLE_ROUTER, s->N, D, out, 1, false};
    struct cost c = {.read = sum(s, prod3(s, F, s->N, D), m->router_bias ? pass_plain(s, m->experts) : 0), .written = prod3(s, F, s->N, out)};

    product(s, &x, D, out, &c);
    ops_add(s->o, KVP_OP_ROUTER, s->phase, cls, s->p->cls[cls].alike, c);
}

void ops_ffn(const struct pass *s, uint32_t cls)
{
    const struct kvp_model *model = s->p->model;
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t gates = m->ffn == KVP_FFN_GATED ? 2 : 1, n = s->p->cls[cls].alike;
    const uint64_t row = prod3(s, F, s->N, model->width);
    struct cost up = {.read = row}, act = {0}, down = {.read = row, .written = row};
    struct piece piece[3];
    const uint32_t pieces = m->ffn == KVP_FFN_NONE || m->ffn == KVP_FFN_RWKV ? 0 : pieces_of(s, m, piece);

    if (!pieces)
        return;
    for (uint32_t i = 0; i < pieces; i++) {
        const struct piece *x = &piece[i];
        const uint64_t inner = prod3(s, F, x->rows, x->width), outer = prod3(s, inner, gates, 1);

        product(s, x, x->in, x->width * gates, &up);
        product(s, x, x->width, x->in, &down);
        up.written = sum(s, up.written, outer);
        act.read = sum(s, act.read, outer);
        act.written = sum(s, act.written, inner);
        down.read = sum(s, down.read, inner);
    }
    pass_stream(s, KVP_OP_MLP_NORM, cls, n, s->N, model->width, model->width, pass_norm_weights(s));
    if (m->experts)
        router(s, m, cls);
    ops_add(s->o, KVP_OP_MLP_UP, s->phase, cls, n, up);
    ops_add(s->o, KVP_OP_MLP_ACT, s->phase, cls, n, act);
    ops_add(s->o, KVP_OP_MLP_DOWN, s->phase, cls, n, down);
}
