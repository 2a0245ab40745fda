/* state.c - what a recurrence keeps: columns of its convolution and its matrix, whatever the context.
 *
 * techniques.md 3.8 and the models' own code: the matrix in f32 unless the config or --mamba-ssm-cache-dtype
 * says otherwise, conv columns (d_conv - 1; --conv-columns full: d_conv) and RWKV's shifted tokens in the
 * model's dtype. */
#include "calc/plan.h"

/* [B, 1, columns, channels] of the convolution's window. */
static void conv(struct plan *p, struct plan_class *c, uint64_t channels)
{
    const uint64_t columns = p->o->conv_full ? c->model->conv : num_less(c->model->conv, 1);

    if (columns && channels)
        plan_add_fixed(p, c, "conv_state", KVP_TAG_STATE, p->o->conv_given ? p->o->conv : p->weights.plain, 1, columns, channels);
}

static void matrix(struct plan *p, struct plan_class *c, const char *name, uint64_t heads, uint64_t rows, uint64_t columns)
{
    plan_add_fixed(p, c, name, KVP_TAG_STATE, p->o->ssm_given ? p->o->ssm : p->model->state, heads, rows, columns);
}

static void shifts(struct plan *p, struct plan_class *c)
{
    plan_add_fixed(p, c, "shift", KVP_TAG_STATE, p->o->conv_given ? p->o->conv : p->weights.plain, 1, 2, p->model->width);
}

void plan_add_state(struct plan *p, struct plan_class *c)
{
    const struct kvp_layer_class *m = c->model;

    switch (m->recurrent) {
    case KVP_REC_NONE:
        return;
    case KVP_REC_MAMBA1:
        conv(p, c, m->inner);
        matrix(p, c, "ssm_state", 1, m->inner, m->state);
        return;
    case KVP_REC_MAMBA2:
        conv(p, c, m->inner + 2ull * m->groups * m->state);
        matrix(p, c, "ssm_state", m->rec_heads, m->rec_head_dim, m->state);
        return;
    case KVP_REC_RWKV4:
        shifts(p, c);
        matrix(p, c, "wkv_state", 1, 3, m->inner);
        return;
    case KVP_REC_RWKV5:
    case KVP_REC_RWKV6:
    case KVP_REC_RWKV7:
        shifts(p, c);
        matrix(p, c, "wkv_state", m->rec_heads, m->rec_head_dim, m->rec_head_dim);
        return;
    case KVP_REC_DELTA:
        conv(p, c, 2ull * m->groups * m->state + (uint64_t)m->rec_heads * m->rec_head_dim);
        matrix(p, c, "delta_state", m->rec_heads, m->state, m->rec_head_dim);
        return;
    case KVP_REC_KDA:
        conv(p, c, 3ull * m->rec_heads * m->rec_head_dim);
        matrix(p, c, "delta_state", m->rec_heads, m->rec_head_dim, m->rec_head_dim);
        return;
    case KVP_REC_LIGHTNING:
        matrix(p, c, "linear_state", m->rec_heads, m->rec_head_dim, m->rec_head_dim);
        return;
    case KVP_REC_RGLRU:
        conv(p, c, m->inner);
        matrix(p, c, "lru_state", 1, 1, m->inner);
        return;
    case KVP_REC_CONV:
        conv(p, c, m->inner);
        return;
    }
}
