/* gemm_coded.h - one weight of a coded matrix. */
#ifndef KVPROOF_REF_GEMM_CODED_H
#define KVPROOF_REF_GEMM_CODED_H

#include "kernels/ops/gemm.h"

/* W[i][j]. */
double ref_weight(const struct kb_gemm *a, uint64_t i, uint64_t j);

#endif
