/* convert.h - number formats of weights on the host: F32, F16 (IEEE binary16) and BF16.
 *
 * Rounding is to nearest, ties to even; what is too large for the target becomes infinity; NaN stays
 * NaN. Pointers need no alignment. The engine's own, apart from the kernels', so that a mistake in
 * either shows against the golden logits. */
#ifndef KVPROOF_CONVERT_H
#define KVPROOF_CONVERT_H

#include <kvproof/names.h>

#include <stdint.h>

/* Bytes of one F32, F16 or BF16. */
uint32_t cvt_size(enum kvp_format f);

float cvt_load(enum kvp_format f, const void *src);
void cvt_store(enum kvp_format f, void *dst, float x);

/* n elements, `src_step` elements apart in src, packed in dst. */
void cvt_run(enum kvp_format to, void *dst, enum kvp_format from, const void *src, uint64_t src_step, uint64_t n);

#endif
