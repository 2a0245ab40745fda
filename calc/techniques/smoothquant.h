/* smoothquant.h - products of int8 with int8, whoever chose the weights: their inputs are int8 too, a scale a row. */
#ifndef KVPROOF_CALC_SMOOTHQUANT_H
#define KVPROOF_CALC_SMOOTHQUANT_H

#include "calc/technique.h"

/* Room for the widest input of a layer's products. */
void int8_inputs(struct plan *p);
/* The work of making them. */
void int8_inputs_ops(struct ops *o, struct plan *p, uint32_t cls, enum kvp_phase phase);

#endif
