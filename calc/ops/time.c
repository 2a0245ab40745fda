/* time.c - a roofline with a launch floor. */
#include "calc/technique.h"

static bool is_linear(enum kvp_op op)
{
    static const bool linear_op[KVP_OPS] = {[KVP_OP_QKV] = true,    [KVP_OP_O_PROJ] = true, [KVP_OP_MLP_UP] = true,
                                            [KVP_OP_MLP_DOWN] = true, [KVP_OP_HEAD] = true,   [KVP_OP_ABSORB] = true,
                                            [KVP_OP_ROUTER] = true,   [KVP_OP_REC_IN] = true, [KVP_OP_REC_OUT] = true};

    return linear_op[op];
}

void ops_time(struct ops *o, const struct kvp_device *d, enum kvp_format weights, enum kvp_format kv)
{
    const double byte = 1 / d->bandwidth, f32 = 1 / d->flops_f32, f16 = 1 / d->flops_f16;

    for (uint32_t i = 0; i < o->n; i++) {
        struct kvp_op_cost *x = &o->v[i];
        const enum kvp_format f = is_linear(x->op) ? weights : kv;
        const double compute = (double)x->flops * (f == KVP_F32 ? f32 : f16);
        const double memory = ((double)x->read_bytes + (double)x->written_bytes) * byte;

        x->seconds = (double)x->calls * d->launch_s + (compute > memory ? compute : memory);
    }
}
