/* gqa.h - for mqa.c, which is gqa with one head. */
#ifndef KVPROOF_CALC_TECHNIQUES_GQA_H
#define KVPROOF_CALC_TECHNIQUES_GQA_H

#include "calc/technique.h"

/* Every attention layer to `kv_heads` key-value heads; 0: a quarter of its query heads. `name` says who asks. */
kvp_err gqa_group(struct kvp_model *m, const char *name, uint64_t kv_heads, struct kvp_error *e);

#endif
