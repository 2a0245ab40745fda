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
    const double band = m->rope_high_freq - m->rope_low_freq; /* Llama-4-Scout: 0, a step */
    const double blend = band > 0 ? (context / wave - m->rope_low_freq) / band : 0;

    if (wave < context / m->rope_high_freq)
        return f;
    if (wave > context / m->rope_low_freq)
        return f / m->rope_factor;
    return (1 - blend) * f / m->rope_factor + blend * f;
}

/* Peng et al. 2023 (arXiv:2309.00071), section 3.2, as transformers' _compute_yarn_parameters has it: fast pairs keep their
 * frequency, slow ones are stretched, a ramp over the pair's number in between. */
static double turns_at(const struct kvp_model *m, uint32_t dim, double turns)
{
    return dim * log(m->rope_original_context / (turns * 2 * M_PI)) / (2 * log(m->rope_theta));
}

static double yarn(const struct kvp_model *m, uint32_t dim, uint32_t i)
{
    const struct kvp_numbers *n = &m->numbers;
    const double f = pow(m->rope_theta, -2.0 * i / dim);
    double low = turns_at(m, dim, n->yarn_fast > 0 ? n->yarn_fast : 32), high = turns_at(m, dim, n->yarn_slow > 0 ? n->yarn_slow : 1), ramp;

    low = fmax(n->yarn_whole ? low : floor(low), 0);
    high = fmin(n->yarn_whole ? high : ceil(high), dim - 1);
    if (low == high)
        high += 0.001;
    ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return f / m->rope_factor * ramp + f * (1 - ramp);
}

static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

float eng_rope_amplitude(const struct kvp_model *m)
{
    const struct kvp_numbers *n = &m->numbers;

    if (m->rope_scaling != KVP_ROPE_YARN)
        return 1;
    if (n->yarn_attention > 0)
        return (float)n->yarn_attention;
    if (n->yarn_mscale > 0 && n->yarn_mscale_all > 0)
        return (float)(yarn_scale(m->rope_factor, n->yarn_mscale) / yarn_scale(m->rope_factor, n->yarn_mscale_all));
    return (float)yarn_scale(m->rope_factor, 1);
}

uint32_t eng_rotary_dim(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    if (c->mixer == KVP_MIX_MLA)
        return c->rope_dim;
    return m->numbers.rotary_part > 0 ? (uint32_t)(c->head_dim * m->numbers.rotary_part) : c->head_dim;
}

void eng_window_freq(const struct kvp_model *m, uint32_t head_dim, float *out)
{
    for (uint32_t i = 0; i < head_dim / 2; i++)
        out[i] = (float)pow(m->numbers.window_theta, -2.0 * i / head_dim);
}

void eng_inv_freq(const struct kvp_model *m, uint32_t head_dim, float *out)
{
    static double (*const scale[])(const struct kvp_model *, double) = {
        [KVP_ROPE_PLAIN] = plain, [KVP_ROPE_LINEAR] = linear, [KVP_ROPE_LLAMA3] = llama3};

    for (uint32_t i = 0; i < head_dim / 2; i++)
        out[i] = (float)(m->rope_scaling == KVP_ROPE_YARN ? yarn(m, head_dim, i)
                                                          : scale[m->rope_scaling](m, pow(m->rope_theta, -2.0 * i / head_dim)));
}
