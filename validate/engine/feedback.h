/* feedback.h - codes for a matrix that make its product with real activations right, not its numbers.
 *
 * GPTQ (Frantar et al. 2022, arXiv:2210.17323, sections 3.2 and 3.3; IST-DASLab/gptq, gptq.py): columns are rounded one
 * after another, and what a column is off by is taken out of those after it, by the inverse of the Hessian X^T X of the
 * layer's squared error. AWQ (Lin et al. 2023, arXiv:2306.00978, section 3.2; mit-han-lab/llm-awq, auto_scale.py):
 * input channels are scaled by a power of their mean magnitude before rounding, the power searched on a grid. */
#ifndef KVPROOF_FEEDBACK_H
#define KVPROOF_FEEDBACK_H

#include <kvproof/error.h>

#include <stdint.h>

/* A matrix [rows, cols] in groups of columns: code [rows, cols], scale and zero [ceil(cols / group), rows]. */
struct grid {
    uint32_t bits, group;
    uint8_t *code;
    float *scale;
    uint8_t *zero;
};
kvp_err grid_open(struct grid *g, uint32_t bits, uint32_t group, uint64_t rows, uint64_t cols, struct kvp_error *e);
void grid_close(struct grid *g);

/* Round to nearest. */
void grid_round(struct grid *g, const float *m, uint64_t rows, uint64_t cols);
/* The numbers that the codes stand for. */
void grid_read(const struct grid *g, float *m, uint64_t rows, uint64_t cols);

/* From activations x [n, cols]: the upper Cholesky factor of the inverse of X^T X + 1 % of its mean diagonal, [cols, cols], to
 * be freed by the caller. */
kvp_err gptq_factor(double **out, const float *x, uint64_t n, uint64_t cols, struct kvp_error *e);
/* Round with feedback. */
kvp_err gptq_round(struct grid *g, const float *m, uint64_t rows, uint64_t cols, const double *factor, struct kvp_error *e);

/* Scales [cols] for matrices whose rows lie one after another in m, from activations x [n, cols]: those of the 20 powers
 * 0, 0.05 ... 0.95 of the channels' mean magnitudes that lose least of x m^T when m * scale is rounded in `group`s of
 * `bits`. Power 0 is rounding to nearest, so it is never worse there. */
kvp_err awq_scales(float *scales, const float *m, uint64_t rows, uint64_t cols, const float *x, uint64_t n, uint32_t bits, uint32_t group,
                   struct kvp_error *e);

/* SmoothQuant's scales [cols] for matrices whose rows lie one after another in m: max|x|^power / max|m|^(1 - power) of each channel
 * (Xiao et al. 2023, arXiv:2211.10438, section 4, equation 4; smooth_ln_fcs of mit-han-lab/smoothquant smooth.py). */
void smooth_scales(float *scales, const float *m, uint64_t rows, uint64_t cols, const float *x, uint64_t n, double power);

/* Sum of squares of x (a - b)^T: what a layer's output is off by. */
kvp_err output_loss(double *out, const float *a, const float *b, uint64_t rows, uint64_t cols, const float *x, uint64_t n, struct kvp_error *e);

#endif
