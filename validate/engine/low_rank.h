/* low_rank.h - a matrix as the product of two thin ones: the truncated singular value decomposition (Eckart and Young
 * 1936), which of all products of that rank is off by least. */
#ifndef KVPROOF_ENGINE_LOW_RANK_H
#define KVPROOF_ENGINE_LOW_RANK_H

#include <kvproof/error.h>

#include <stdint.h>

/* m [rows, cols] is about up [rows, rank] times down [rank, cols]; rank is at most the smaller of the two. The factor of the
 * shorter side has orthonormal rows or columns, the other one the singular values, largest first. */
kvp_err low_rank_split(float *up, float *down, const float *m, uint64_t rows, uint64_t cols, uint64_t rank, struct kvp_error *e);

/* The logarithm of m's condition number: its largest singular value over its least, as far as f32 can tell. */
kvp_err low_rank_condition(double *out, const float *m, uint64_t rows, uint64_t cols, struct kvp_error *e);

#endif
