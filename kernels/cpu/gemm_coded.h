/* gemm_coded.h - products with a coded matrix: tiles of W become f32 in the first cache and all rows of x pass over them,
 * or, for many rows, blocks of W become f32 in the call's scratch and OpenBLAS has the rest. */
#ifndef KVPROOF_CPU_GEMM_CODED_H
#define KVPROOF_CPU_GEMM_CODED_H

#include "kernels/cpu/cpu.h"

#include "kernels/ops/gemm.h"

kvp_err cpu_gemm_coded(struct kb_dev *dev, const struct kb_gemm *a, struct kvp_error *e);

/* Row i of W, plain or coded, as f32. */
void cpu_weight_row(const struct kb_dev *dev, const struct kb_gemm *a, uint64_t i, float *to);

#endif
