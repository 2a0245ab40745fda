/* extra.c - products of a layer that no mixer or feed-forward implies: the model's `extra` linears (Zamba2's
 * adapters and projection, Nemotron-3's way into the experts' latent and back). They count with the layer's
 * last product. */
#include "calc/ops/pass.h"

static struct cost product(const struct pass *s, const struct kvp_extra *x)
{
    const uint64_t weights = pass_weights(s, KVP_ROLE_SMALL, x->rows, x->cols);
    const uint64_t flops = NUM_PROD(&s->o->over, 2, s->N, x->rows, x->cols, x->n);

    return (struct cost){flops, flops, prod3(s, x->n, sum(s, weights, prod3(s, F, s->N, x->cols)), 1), NUM_PROD(&s->o->over, F, s->N, x->rows, x->n)};
}

static enum kvp_op last_product(const struct kvp_layer_class *m)
{
    if (m->ffn != KVP_FFN_NONE)
        return KVP_OP_MLP_DOWN;
    return m->recurrent ? KVP_OP_REC_OUT : KVP_OP_O_PROJ;
}

void ops_extra(const struct pass *s, uint32_t cls)
{
    const struct kvp_layer_class *m = s->p->cls[cls].model;

    for (uint32_t i = 0; i < KVP_MAX_EXTRA && m->extra[i].name; i++)
        if (m->extra[i].linear)
            ops_more(s->o, last_product(m), s->phase, cls, product(s, &m->extra[i]));
}
