/* quant.h - what a config (or the file beside it) says about how its weights are stored. */
#ifndef KVPROOF_CALC_QUANT_H
#define KVPROOF_CALC_QUANT_H

#include "calc/json.h"

#include <kvproof/model.h>

/* quantization_config, quantization or compression_config of `j`; nothing happens when there is none.
 * KVP_ENOTSUP names an unknown method. `layers`: of the model, 0 when not known. */
kvp_err kvp_quant_read(struct kvp_quant *q, const struct kvp_json *j, uint64_t layers);
/* The whole object of a side file (quantize_config.json, hf_quant_config.json). */
kvp_err kvp_quant_side(struct kvp_quant *q, const struct kvp_json *j, uint64_t layers);

#endif
