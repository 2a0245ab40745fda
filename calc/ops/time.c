/* time.c - a roofline with a launch floor. */
#include "calc/technique.h"

#include <math.h>

static bool is_linear(enum kvp_op op)
{
    static const bool linear_op[KVP_OPS] = {[KVP_OP_QKV] = true,    [KVP_OP_O_PROJ] = true, [KVP_OP_MLP_UP] = true,
                                            [KVP_OP_MLP_DOWN] = true, [KVP_OP_HEAD] = true,   [KVP_OP_ABSORB] = true,
                                            [KVP_OP_ROUTER] = true,   [KVP_OP_REC_IN] = true, [KVP_OP_REC_OUT] = true};

    return linear_op[op];
}

void ops_time(struct ops *o, const struct kvp_device *d, enum kvp_format weights, enum kvp_format kv)
{
    for (uint32_t i = 0; i < o->n; i++) {
        struct kvp_op_cost *x = &o->v[i];
        const enum kvp_format f = is_linear(x->op) ? weights : kv;
        const double peak = f == KVP_F32 ? d->flops_f32 : d->flops_f16;
        const double bytes = (double)x->read_bytes + (double)x->written_bytes;

        x->seconds = (double)x->calls * d->launch_s + fmax((double)x->flops / peak, bytes / d->bandwidth);
    }
}
