#include "validate/measure/fidelity.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* ---- two rows ------------------------------------------------------------------------------------- */

static double log_sum_exp(const float *x, uint32_t n)
{
    double most = -INFINITY, sum = 0;

    for (uint32_t i = 0; i < n; i++)
        most = fmax(most, x[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp(x[i] - most);
    return most + log(sum);
}

/* The sum of q - p is 0, so p log(p / q) may be summed as p (q / p - 1 - log(q / p)): no term is below 0, and near-equal
 * distributions do not cancel. Where q / p is large or small neither does q - p. */
static double term(double log_p, double log_q)
{
    const double p = exp(log_p), r = log_q - log_p;

    return fabs(r) < 1 ? p * (expm1(r) - r) : exp(log_q) - p - p * r;
}

void fidelity_add(struct fidelity *f, const float *full, const float *logits, uint32_t vocab)
{
    const double a = log_sum_exp(full, vocab), b = log_sum_exp(logits, vocab);

    f->rows++;
    for (uint32_t i = 0; i < vocab; i++) {
        const double x = full[i], y = logits[i];

        f->broken = f->broken || !isfinite(x) || !isfinite(y);
        f->gap += (y - x) * (y - x);
        f->size += x * x;
        f->divergence += term(x - a, y - b);
    }
}

double fidelity_error(const struct fidelity *f)
{
    return f->gap > 0 || isnan(f->gap) ? sqrt(f->gap / f->size) : 0;
}

double fidelity_divergence(const struct fidelity *f)
{
    return f->rows ? f->divergence / (double)f->rows : 0;
}

/* ---- runs ------------------------------------------------------------------------------------------ */

kvp_err heard_open(struct heard *h, uint64_t batch, uint64_t forwards, uint32_t vocab, struct kvp_error *e)
{
    const uint64_t each = batch * vocab * sizeof(float), most = each < HEARD_BYTES ? HEARD_BYTES / each : 1;

    *h = (struct heard){.batch = batch, .first = forwards > most ? forwards - most : 0, .forwards = forwards, .vocab = vocab};
    h->logits = malloc((size_t)((forwards - h->first) * each));
    return h->logits ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu64 " rows of logits", (forwards - h->first) * batch);
}

float *heard_rows(const struct heard *h, uint64_t forward)
{
    return forward < h->first || forward >= h->forwards ? NULL : h->logits + (forward - h->first) * h->batch * h->vocab;
}

void heard_free(struct heard *h)
{
    free(h->logits);
    *h = (struct heard){0};
}

static kvp_err run(const struct heard *h, struct eng *g, const int32_t *prompt, const int32_t *rest, int32_t *step, struct kvp_error *e)
{
    const uint64_t generate = h->forwards - 1;

    KVP_TRY(eng_prefill(g, prompt, NULL, heard_rows(h, 0), e));
    for (uint64_t i = 0; i < generate; i++) {
        for (uint64_t b = 0; b < h->batch; b++)
            step[b] = rest[b * generate + i];
        KVP_TRY(eng_decode(g, step, heard_rows(h, i + 1), e));
    }
    return KVP_OK;
}

kvp_err heard_run(const struct heard *h, struct eng *g, const int32_t *prompt, const int32_t *rest, struct kvp_error *e)
{
    int32_t *step = malloc((size_t)h->batch * sizeof(*step));
    const kvp_err rc = step ? run(h, g, prompt, rest, step, e) : kvp_fail(e, KVP_ENOMEM, "out of memory for tokens");

    free(step);
    return rc;
}

void fidelity_of(struct fidelity *f, const struct heard *full, const struct heard *got)
{
    const uint64_t rows = (full->forwards - full->first) * full->batch;

    for (uint64_t r = 0; r < rows; r++)
        fidelity_add(f, full->logits + r * full->vocab, got->logits + r * full->vocab, full->vocab);
}
