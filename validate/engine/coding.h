/* coding.h - linear weights in fewer bits, by the `w` and `smoothquant` techniques (docs/techniques/w.md): what the
 * stack asks for, how many bytes a matrix takes, and rounding it to nearest.
 *
 * The engine's own, apart from the kernels' and from the prediction. What needs activations to be calibrated
 * (GPTQ, AWQ, SmoothQuant) is in calibrate.h; the layouts are kernels/ops/coded.h's and kernels/code.h's. */
#ifndef KVPROOF_CODING_H
#define KVPROOF_CODING_H

#include "kernels/ops/coded.h"
#include <kvproof/spec.h>

/* What is done before rounding, from a model's own activations. */
enum wt_method { WT_ROUND, WT_GPTQ, WT_AWQ, WT_SMOOTH };

struct wt_coding {
    bool on;                /* linears are coded */
    bool all;               /* embedding, learned positions and head too (MLX and ggml) */
    enum kb_coding coding;
    enum kvp_format format; /* of the codes, or the block format */
    uint32_t bits, group;
    float factor;
    enum wt_method method;
    enum kvp_format plain;   /* of matrices that are not coded */
    enum kvp_format vectors; /* of norms and biases */
};

/* From the technique on the WEIGHTS axis, or `plain` throughout without one. KVP_ENOTSUP: a format that the engine
 * does not store; KVP_EINPUT: a parameter that the format has not. */
kvp_err wt_coding_read(struct wt_coding *out, const struct kvp_stack *s, enum kvp_format plain, struct kvp_error *e);

/* The parameters that it reads, as in cache_ops; KVP_ENOTSUP: a technique that the engine does not run. */
kvp_err wt_coding_params(const char **out, const struct kvp_spec *spec, struct kvp_error *e);

/* A matrix as stored: codes, scales, zeros or biases, indices; those that the coding does not have are of 0 bytes. */
enum wt_part { WT_CODE, WT_SCALE, WT_ZERO, WT_INDEX, WT_PARTS };

/* KVP_ENOTSUP: rows that do not divide into the format's blocks. */
kvp_err wt_coding_bytes(uint64_t out[WT_PARTS], const struct wt_coding *c, uint64_t rows, uint64_t cols, struct kvp_error *e);

/* m [rows, cols] rounded to nearest, into `out` of those bytes. Not for GPTQ and AWQ. */
void wt_encode(void *const out[WT_PARTS], const struct wt_coding *c, const float *m, uint64_t rows, uint64_t cols);

/* 256 numbers to one block of ggml's (k_quants.c). */
void wt_encode_q4_k(void *block, const float *x);
void wt_encode_q6_k(void *block, const float *x);

/* ---- for methods that choose each code themselves (calibrate.h) ----------------------------------- */

/* Scale and zero of n numbers `step` apart that share them: codes from 0 to 2^bits - 1, of which `zero` (whole, at least
 * 1) stands for 0; the scale as f16 keeps it. */
void wt_range(const float *x, uint64_t n, uint64_t step, uint32_t bits, float *scale, int *zero);

/* The code of x: nearest of x / scale + zero, clamped. */
int wt_code(float x, float scale, int zero, uint32_t bits);

/* code [rows, cols], scale and zero [groups, rows] in GPTQ's and in AWQ's layout. */
void wt_pack_gptq(void *const out[WT_PARTS], const struct wt_coding *c, const uint8_t *code, const float *scale, const uint8_t *zero,
                  uint64_t rows, uint64_t cols);
void wt_pack_awq(void *const out[WT_PARTS], const struct wt_coding *c, const uint8_t *code, const float *scale, const uint8_t *zero,
                 uint64_t rows, uint64_t cols);

#endif
