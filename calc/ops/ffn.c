/* ffn.c - the feed-forward half of a layer. */
#include "calc/ops/pass.h"

void ops_ffn(const struct pass *s, uint32_t cls)
{
    const struct kvp_model *model = s->p->model;
    const struct kvp_layer_class *m = s->p->cls[cls].model;
    const uint64_t up = (uint64_t)m->ffn_width * (m->ffn == KVP_FFN_GATED ? 2 : 1), n = s->p->cls[cls].count;

    if (m->ffn == KVP_FFN_NONE || !m->ffn_width)
        return;

    pass_stream(s, KVP_OP_MLP_NORM, cls, n, s->N, model->width, model->width, pass_norm_weights(s));
    pass_linear(s, KVP_OP_MLP_UP, KVP_ROLE_FFN, cls, n, s->N, model->width, up, m->ffn_bias, false);
    pass_stream(s, KVP_OP_MLP_ACT, cls, n, s->N, up, m->ffn_width, 0);
    pass_linear(s, KVP_OP_MLP_DOWN, KVP_ROLE_FFN, cls, n, s->N, m->ffn_width, model->width, m->ffn_bias, true);
}

