/* recurrent.c - convolution, token shift and the recurrences' states, token by token */
#include "kernels/ref/ref.h"

#include "kernels/ops.h"

#include <math.h>

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double softplus(double x)
{
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static double load(enum kvp_format f, struct kb_span s, uint64_t i)
{
    return (double)kb_load(f, kb_at(s), i);
}

/* f32 element i of row n. */
static double row(struct kb_span s, uint64_t stride, uint64_t n, uint64_t i)
{
    return (double)((const float *)kb_at(s))[n * stride + i];
}

static void put(struct kb_span s, uint64_t stride, uint64_t n, uint64_t i, double x)
{
    ((float *)kb_at(s))[n * stride + i] = (float)x;
}

static void load_state(double *to, enum kvp_format f, struct kb_span s, uint64_t first, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        to[i] = load(f, s, first + i);
}

static void store_state(enum kvp_format f, struct kb_span s, uint64_t first, const double *from, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        kb_store(f, kb_at(s), first + i, (float)from[i]);
}

/* ---- convolution ---------------------------------------------------------------------------------- */

/* The columns of the state and the tokens of one channel, one after the other. */
static void conv_channel(const struct kb_conv *a, uint64_t b, uint32_t c, double *line)
{
    const uint64_t kept = (b * a->columns) * a->channels + c;

    for (uint32_t j = 0; j < a->columns; j++)
        line[j] = load(a->state_format, a->state, kept + (uint64_t)j * a->channels);
    for (uint64_t t = 0; t < a->tokens; t++)
        line[a->columns + t] = row(a->x, a->stride, b * a->tokens + t, c);
    for (uint64_t t = 0; t < a->tokens; t++) {
        double y = a->bias.buf ? load(a->format, a->bias, c) : 0;

        for (uint32_t j = 0; j < a->taps; j++)
            y += load(a->format, a->w, (uint64_t)c * a->taps + j) * line[a->columns + t + 1 + j - a->taps];
        put(a->x, a->stride, b * a->tokens + t, c, a->silu ? y * sigmoid(y) : y);
    }
    for (uint32_t j = 0; j < a->columns; j++)
        kb_store(a->state_format, kb_at(a->state), kept + (uint64_t)j * a->channels, (float)line[a->tokens + j]);
}

kvp_err ref_conv(const void *args, struct kvp_error *e)
{
    const struct kb_conv *a = args;
    double *line = ref_scratch(a->columns + a->tokens + 1, e);

    if (!line)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t c = 0; c < a->channels; c++)
            conv_channel(a, b, c, line);
    free(line);
    return KVP_OK;
}

/* ---- token shift ---------------------------------------------------------------------------------- */

kvp_err ref_shift(const void *args, struct kvp_error *e)
{
    const struct kb_shift *a = args;

    (void)e;
    for (uint64_t i = 0; i < a->rows; i++)
        for (uint32_t c = 0; c < a->width; c++) {
            const uint64_t n = a->first + i, b = n / a->tokens;
            const double x = row(a->x, a->x_stride, n, c), mix = load(a->format, a->mix, c);
            const double before = n % a->tokens ? row(a->x, a->x_stride, n - 1, c)
                                                : load(a->state_format, a->state, b * a->state_stride + c);
            const double m = (a->own ? 1 - mix : mix) + (a->more.buf ? row(a->more, a->more_stride, i, c) : 0);

            put(a->out, a->out_stride, i, c, x + (before - x) * m);
        }
    for (uint64_t n = a->first; a->keep && n < a->first + a->rows; n++)
        for (uint32_t c = 0; (n + 1) % a->tokens == 0 && c < a->width; c++)
            kb_store(a->state_format, kb_at(a->state), n / a->tokens * a->state_stride + c, (float)row(a->x, a->x_stride, n, c));
    return KVP_OK;
}

kvp_err ref_gate(const void *args, struct kvp_error *e)
{
    const struct kb_gate *a = args;

    (void)e;
    for (uint64_t n = 0; n < a->rows; n++)
        for (uint32_t i = 0; i < a->width; i++) {
            const double by = sigmoid(row(a->gate, a->gate_stride, n, i)), old = row(a->out, a->out_stride, n, i);

            put(a->out, a->out_stride, n, i, a->value.buf ? old + by * row(a->value, a->value_stride, n, i) : old * by);
        }
    return KVP_OK;
}

/* ---- Mamba ---------------------------------------------------------------------------------------- */

static void ssm_channel(const struct kb_ssm_scan *a, uint64_t b, uint32_t c, double *h)
{
    const uint64_t kept = (b * a->channels + c) * a->n;

    load_state(h, a->state_format, a->state, kept, a->n);
    for (uint64_t t = b * a->tokens; t < (b + 1) * a->tokens; t++) {
        const double dt = softplus(row(a->dt, a->stride, t, c)), x = row(a->x, a->stride, t, c);
        double y = load(a->format, a->d, c) * x;

        for (uint32_t j = 0; j < a->n; j++) {
            h[j] *= exp(-dt * exp(load(a->format, a->a_log, (uint64_t)c * a->n + j)));
            h[j] += dt * row(a->b, a->stride, t, j) * x;
            y += row(a->c, a->stride, t, j) * h[j];
        }
        if (a->z.buf)
            y *= row(a->z, a->stride, t, c) * sigmoid(row(a->z, a->stride, t, c));
        put(a->out, a->out_stride, t, c, y);
    }
    store_state(a->state_format, a->state, kept, h, a->n);
}

kvp_err ref_ssm_scan(const void *args, struct kvp_error *e)
{
    const struct kb_ssm_scan *a = args;
    double *h = ref_scratch(a->n, e);

    if (!h)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t c = 0; c < a->channels; c++)
            ssm_channel(a, b, c, h);
    free(h);
    return KVP_OK;
}

static void ssd_head(const struct kb_ssd_scan *a, uint64_t b, uint32_t head, double *h)
{
    const uint64_t size = (uint64_t)a->head_dim * a->n, kept = (b * a->heads + head) * size;
    const uint64_t shared = (uint64_t)(head / (a->heads / a->groups)) * a->n, first = (uint64_t)head * a->head_dim;

    load_state(h, a->state_format, a->state, kept, size);
    for (uint64_t t = b * a->tokens; t < (b + 1) * a->tokens; t++) {
        const double dt = softplus(row(a->dt, a->stride, t, head) + load(a->format, a->dt_bias, head));
        const double decay = exp(-dt * exp(load(a->format, a->a_log, head)));

        for (uint32_t p = 0; p < a->head_dim; p++) {
            const double x = row(a->x, a->stride, t, first + p);
            double y = load(a->format, a->d, head) * x;

            for (uint32_t j = 0; j < a->n; j++) {
                double *s = &h[(uint64_t)p * a->n + j];

                *s = decay * *s + dt * x * row(a->b, a->stride, t, shared + j);
                y += *s * row(a->c, a->stride, t, shared + j);
            }
            if (a->z.buf)
                y *= row(a->z, a->stride, t, first + p) * sigmoid(row(a->z, a->stride, t, first + p));
            put(a->out, a->out_stride, t, first + p, y);
        }
    }
    store_state(a->state_format, a->state, kept, h, size);
}

kvp_err ref_ssd_scan(const void *args, struct kvp_error *e)
{
    const struct kb_ssd_scan *a = args;
    double *h = ref_scratch((uint64_t)a->head_dim * a->n, e);

    if (!h)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t head = 0; head < a->heads; head++)
            ssd_head(a, b, head, h);
    free(h);
    return KVP_OK;
}

/* ---- RWKV ----------------------------------------------------------------------------------------- */

static void wkv4_channel(const struct kb_wkv4 *a, uint64_t b, uint32_t c)
{
    const double w = -exp(load(a->format, a->decay, c)), u = load(a->format, a->first, c);
    const uint64_t kept = b * 3 * a->channels + c, step = a->channels;
    double num = load(a->state_format, a->state, kept), den = load(a->state_format, a->state, kept + step);
    double p = load(a->state_format, a->state, kept + 2 * step);

    for (uint64_t t = b * a->tokens; t < (b + 1) * a->tokens; t++) {
        const double k = row(a->k, a->stride, t, c), v = row(a->v, a->stride, t, c);
        double q = fmax(p, u + k);

        put(a->out, a->out_stride, t, c,
            sigmoid(row(a->r, a->stride, t, c)) * (exp(p - q) * num + exp(u + k - q) * v) / (exp(p - q) * den + exp(u + k - q)));
        q = fmax(p + w, k);
        num = exp(p + w - q) * num + exp(k - q) * v;
        den = exp(p + w - q) * den + exp(k - q);
        p = q;
    }
    kb_store(a->state_format, kb_at(a->state), kept, (float)num);
    kb_store(a->state_format, kb_at(a->state), kept + step, (float)den);
    kb_store(a->state_format, kb_at(a->state), kept + 2 * step, (float)p);
}

kvp_err ref_wkv4(const void *args, struct kvp_error *e)
{
    const struct kb_wkv4 *a = args;

    (void)e;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t c = 0; c < a->channels; c++)
            wkv4_channel(a, b, c);
    return KVP_OK;
}

static void wkv6_head(const struct kb_wkv6 *a, uint64_t b, uint32_t head, double *s)
{
    const uint64_t size = (uint64_t)a->dim * a->dim, kept = (b * a->heads + head) * size, first = (uint64_t)head * a->dim;

    load_state(s, a->state_format, a->state, kept, size);
    for (uint64_t t = b * a->tokens; t < (b + 1) * a->tokens; t++) {
        for (uint32_t j = 0; j < a->dim; j++) {
            double y = 0;

            for (uint32_t i = 0; i < a->dim; i++)
                y += row(a->r, a->stride, t, first + i) *
                     (load(a->format, a->first, first + i) * row(a->k, a->stride, t, first + i) * row(a->v, a->stride, t, first + j) +
                      s[(uint64_t)i * a->dim + j]);
            put(a->out, a->out_stride, t, first + j, y);
        }
        for (uint32_t i = 0; i < a->dim; i++) {
            const double decay = load(a->format, a->decay, first + i) + (a->w.buf ? row(a->w, a->stride, t, first + i) : 0);

            for (uint32_t j = 0; j < a->dim; j++)
                s[(uint64_t)i * a->dim + j] = exp(-exp(decay)) * s[(uint64_t)i * a->dim + j] +
                                              row(a->k, a->stride, t, first + i) * row(a->v, a->stride, t, first + j);
        }
    }
    store_state(a->state_format, a->state, kept, s, size);
}

kvp_err ref_wkv6(const void *args, struct kvp_error *e)
{
    const struct kb_wkv6 *a = args;
    double *s = ref_scratch((uint64_t)a->dim * a->dim, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t head = 0; head < a->heads; head++)
            wkv6_head(a, b, head, s);
    free(s);
    return KVP_OK;
}

/* What a head's token brings, after all that happens to it element by element. */
struct token7 {
    double *w, *k, *v, *kk, *a;
};

static void token7_prepare(const struct kb_wkv7 *a, uint64_t t, uint64_t first, const struct token7 *x)
{
    double length = 0;

    for (uint32_t i = 0; i < a->dim; i++) {
        const double k = row(a->k, a->stride, t, first + i), rate = sigmoid(row(a->a, a->stride, t, first + i));
        const double v = row(a->v, a->stride, t, first + i);

        x->w[i] = exp(-exp(-0.5) * sigmoid(row(a->w, a->stride, t, first + i)));
        x->kk[i] = k * load(a->format, a->k_k, first + i);
        x->k[i] = k * (1 + (rate - 1) * load(a->format, a->k_a, first + i));
        x->a[i] = rate;
        x->v[i] = v;
        if (a->v_first.buf)
            x->v[i] += (row(a->v_first, a->stride, t, first + i) - v) * sigmoid(row(a->v_mix, a->out_stride, t, first + i));
        length += x->kk[i] * x->kk[i];
        put(a->k, a->stride, t, first + i, x->k[i]);
        put(a->v, a->stride, t, first + i, x->v[i]);
    }
    for (uint32_t i = 0; i < a->dim; i++)
        x->kk[i] /= fmax(sqrt(length), 1e-12);
}

static void wkv7_head(const struct kb_wkv7 *a, uint64_t b, uint32_t head, double *s, const struct token7 *x)
{
    const uint64_t size = (uint64_t)a->dim * a->dim, kept = (b * a->heads + head) * size, first = (uint64_t)head * a->dim;

    load_state(s, a->state_format, a->state, kept, size);
    for (uint64_t t = b * a->tokens; t < (b + 1) * a->tokens; t++) {
        token7_prepare(a, t, first, x);
        for (uint32_t j = 0; j < a->dim; j++) {
            double seen = 0, y = 0;

            for (uint32_t i = 0; i < a->dim; i++)
                seen += s[(uint64_t)i * a->dim + j] * x->kk[i];
            for (uint32_t i = 0; i < a->dim; i++) {
                double *at = &s[(uint64_t)i * a->dim + j];

                *at = *at * x->w[i] - seen * x->kk[i] * x->a[i] + x->v[j] * x->k[i];
                y += *at * row(a->r, a->stride, t, first + i);
            }
            put(a->out, a->out_stride, t, first + j, y);
        }
    }
    store_state(a->state_format, a->state, kept, s, size);
}

kvp_err ref_wkv7(const void *args, struct kvp_error *e)
{
    const struct kb_wkv7 *a = args;
    const uint64_t d = a->dim;
    double *s = ref_scratch(d * d + 5 * d, e), *x = s ? s + d * d : NULL;

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t head = 0; head < a->heads; head++)
            wkv7_head(a, b, head, s, &(struct token7){x, x + d, x + 2 * d, x + 3 * d, x + 4 * d});
    free(s);
    return KVP_OK;
}

/* ---- gated delta rule ------------------------------------------------------------------------------ */

static double length(struct kb_span x, uint64_t stride, uint64_t t, uint64_t first, uint32_t n)
{
    double square = 1e-6;

    for (uint32_t i = 0; i < n; i++)
        square += pow(row(x, stride, t, first + i), 2);
    return sqrt(square);
}

static void delta_head(const struct kb_delta_scan *a, uint64_t b, uint32_t head, double *s)
{
    const uint64_t size = (uint64_t)a->head_dim * a->n, kept = (b * a->heads + head) * size;
    const uint64_t shared = (uint64_t)(head / (a->heads / a->groups)) * a->n, first = (uint64_t)head * a->head_dim;

    load_state(s, a->state_format, a->state, kept, size);
    for (uint64_t t = b * a->tokens; t < (b + 1) * a->tokens; t++) {
        const double dt = softplus(row(a->dt, a->stride, t, head) + load(a->format, a->dt_bias, head));
        const double decay = exp(-exp(load(a->format, a->a_log, head)) * dt), beta = sigmoid(row(a->beta, a->stride, t, head));
        const double q = length(a->q, a->stride, t, shared, a->n) * sqrt(a->n), k = length(a->k, a->stride, t, shared, a->n);

        for (uint32_t j = 0; j < a->head_dim; j++) {
            double seen = 0, y = 0;

            for (uint32_t i = 0; i < a->n; i++)
                seen += decay * s[(uint64_t)i * a->head_dim + j] * row(a->k, a->stride, t, shared + i) / k;
            for (uint32_t i = 0; i < a->n; i++) {
                double *at = &s[(uint64_t)i * a->head_dim + j];

                *at = decay * *at + row(a->k, a->stride, t, shared + i) / k * beta * (row(a->v, a->stride, t, first + j) - seen);
                y += *at * row(a->q, a->stride, t, shared + i) / q;
            }
            put(a->out, a->out_stride, t, first + j, y);
        }
    }
    store_state(a->state_format, a->state, kept, s, size);
}

kvp_err ref_delta_scan(const void *args, struct kvp_error *e)
{
    const struct kb_delta_scan *a = args;
    double *s = ref_scratch((uint64_t)a->head_dim * a->n, e);

    if (!s)
        return KVP_ENOMEM;
    for (uint64_t b = 0; b < a->batch; b++)
        for (uint32_t head = 0; head < a->heads; head++)
            delta_head(a, b, head, s);
    free(s);
    return KVP_OK;
}

/* ---- head norm ------------------------------------------------------------------------------------ */

static double bonus(const struct kb_head_norm *a, uint64_t n, uint64_t first)
{
    double sum = 0;

    for (uint32_t i = 0; a->r_k.buf && i < a->dim; i++)
        sum += row(a->r, a->in_stride, n, first + i) * row(a->k, a->in_stride, n, first + i) * load(a->format, a->r_k, (a->one ? 0 : first) + i);
    return sum;
}

static void head_norm_one(const struct kb_head_norm *a, uint64_t n, uint64_t first)
{
    const double more = bonus(a, n, first);
    const uint64_t own = a->one ? 0 : first;
    double mean = 0, square = 0;

    for (uint32_t i = 0; !a->rms && i < a->dim; i++)
        mean += row(a->x, a->stride, n, first + i) / a->dim;
    for (uint32_t i = 0; i < a->dim; i++)
        square += pow(row(a->x, a->stride, n, first + i) - mean, 2) / a->dim;
    for (uint32_t i = 0; i < a->dim; i++) {
        double y = (row(a->x, a->stride, n, first + i) - mean) / sqrt(square + a->eps) * load(a->format, a->weight, own + i);

        if (a->bias.buf)
            y += load(a->format, a->bias, own + i);
        if (a->r_k.buf)
            y += more * row(a->v, a->in_stride, n, first + i);
        if (a->gate.buf)
            y *= row(a->gate, a->in_stride, n, first + i) * (a->silu ? sigmoid(row(a->gate, a->in_stride, n, first + i)) : 1);
        put(a->x, a->stride, n, first + i, y);
    }
}

kvp_err ref_head_norm(const void *args, struct kvp_error *e)
{
    const struct kb_head_norm *a = args;

    (void)e;
    for (uint64_t n = 0; n < a->rows; n++)
        for (uint32_t h = 0; h < a->heads; h++)
            head_norm_one(a, n, (uint64_t)h * a->dim);
    return KVP_OK;
}
