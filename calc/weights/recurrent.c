/* recurrent.c - Mamba, RWKV, delta nets and their kin. */
#include "calc/weights.h"

void weights_recurrent(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    (void)w;
    (void)c;
    (void)cls;
    (void)width;
}
