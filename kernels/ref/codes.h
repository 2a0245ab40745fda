/* codes.h - rows of codes and blocks, element by element: what is stored, and what it stands for. */
#ifndef KVPROOF_REF_CODES_H
#define KVPROOF_REF_CODES_H

#include "kernels/ref/ref.h"

/* Element i of a row of format f as it is stored: a number, or the code's own value (INT4: 0 to 15). Blocks: with
 * their scales. */
double ref_element(enum kvp_format f, const void *row, uint64_t i);

/* Element i of the row (b, h, slot), scales applied. */
double ref_kv_element(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t slot, uint64_t i);

/* Write the row of kv.dim numbers as kernels/ops/kv.h says; a tensor's scale is there already. */
void ref_kv_store(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t slot, const float *x);

/* Slot `to` becomes slot `from`, with what lies beside it. */
void ref_kv_move(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t to, uint64_t from);

/* The largest code of FP8, INT8 or INT4. */
float ref_top(enum kvp_format f);

#endif
