#include "validate/engine/internal.h"

#include <math.h>

/* theta^(-2i/d), Su et al. 2021 (arXiv:2104.09864), section 3.2.2. */
static double plain(const struct kvp_model *m, double f)
{
    (void)m;
    return f;
}

/* Positions divided by the factor: position interpolation, Chen et al. 2023 (arXiv:2306.15595). */
static double linear(const struct kvp_model *m, double f)
{
    return f / m->rope_factor;
}

/* transformers, modeling_rope_utils.py: _compute_llama3_parameters. Long waves are stretched, short ones
 * kept, those between blended. */
static double llama3(const struct kvp_model *m, double f)
{
    const double wave = 2 * M_PI / f, context = m->rope_original_context;
    const double blend = (context / wave - m->rope_low_freq) / (m->rope_high_freq - m->rope_low_freq);

    if (wave < context / m->rope_high_freq)
        return f;
    if (wave > context / m->rope_low_freq)
        return f / m->rope_factor;
    return (1 - blend) * f / m->rope_factor + blend * f;
}

void eng_inv_freq(const struct kvp_model *m, uint32_t head_dim, float *out)
{
    static double (*const scale[])(const struct kvp_model *, double) = {
        [KVP_ROPE_PLAIN] = plain, [KVP_ROPE_LINEAR] = linear, [KVP_ROPE_LLAMA3] = llama3};

    for (uint32_t i = 0; i < head_dim / 2; i++)
        out[i] = (float)scale[m->rope_scaling](m, pow(m->rope_theta, -2.0 * i / head_dim));
}
