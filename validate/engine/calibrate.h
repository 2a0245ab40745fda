/* calibrate.h - weights whose codes depend on activations: GPTQ, AWQ, SmoothQuant.
 *
 * The same model, whole and in f32, runs a text of random tokens beside the engine's own (docs/techniques/w.md); as a
 * layer's matrices are about to be multiplied there, their input is what the engine's are coded by. Memory for it is
 * the host's and in another ledger: a calibration is done before a model is served. */
#ifndef KVPROOF_CALIBRATE_H
#define KVPROOF_CALIBRATE_H

#include "validate/engine/internal.h"

/* Code all matrices of g, which are allocated but hold nothing yet. */
kvp_err calibrate(struct eng *g, struct kvp_error *e);

#endif
