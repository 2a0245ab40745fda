#include "calc/search.h"

#include "calc/num.h"

#include <gsl/gsl_errno.h>
#include <gsl/gsl_roots.h>
#include <math.h>

enum { LEAST_WOBBLE = 512, MOST_WOBBLE = 1 << 18 };

/* lo, then steps that double, then hi: the last of them where it holds, and in *above the one after it. */
static uint64_t last_sample(const struct search *s, uint64_t *above)
{
    uint64_t last = s->lo - 1, step = 1;
    bool open = true;

    *above = s->lo;
    for (uint64_t x = s->lo; open; step *= 2) {
        const uint64_t next = x < s->hi && step <= s->hi - x ? x + step : s->hi;

        open = x < s->hi;
        if (s->holds(s->of, x)) {
            last = x;
            *above = next;
        }
        x = next;
    }
    return last;
}

/* What is known while a root is looked for: it holds at yes and not at no. */
struct bracket {
    const struct search *s;
    uint64_t yes, no;
};

/* Half a byte off, so that it is never 0. */
static double excess_at(double x, void *of)
{
    struct bracket *b = of;
    const uint64_t at = (uint64_t)x;
    const double over = b->s->excess(b->s->of, at);

    if (over <= 0)
        b->yes = at > b->yes && at < b->no ? at : b->yes;
    else
        b->no = at < b->no && at > b->yes ? at : b->no;
    return over - 0.5;
}

static void narrow(struct bracket *b)
{
    enum { MOST = 24 };
    gsl_error_handler_t *handler = gsl_set_error_handler_off();
    gsl_root_fsolver *root = gsl_root_fsolver_alloc(gsl_root_fsolver_brent);
    gsl_function f = {.function = excess_at, .params = b};

    if (root && isfinite(b->s->excess(b->s->of, b->no)) && gsl_root_fsolver_set(root, &f, (double)b->yes, (double)b->no) == GSL_SUCCESS)
        for (int i = 0; i < MOST && b->no - b->yes > 1 && gsl_root_fsolver_iterate(root) == GSL_SUCCESS; i++)
            continue;
    gsl_root_fsolver_free(root);
    gsl_set_error_handler(handler);
}

/* Somewhere it holds at x and not at x + 1; there. */
static uint64_t edge(const struct search *s, uint64_t yes, uint64_t no)
{
    struct bracket b = {s, yes, no};

    if (s->excess)
        narrow(&b);
    yes = b.yes;
    no = b.no;
    while (no - yes > 1) {
        const uint64_t mid = yes + (no - yes) / 2;

        if (s->holds(s->of, mid))
            yes = mid;
        else
            no = mid;
    }
    return yes;
}

uint64_t search_last(const struct search *s)
{
    uint64_t above, last;

    if (s->lo > s->hi)
        return s->lo - 1;
    last = last_sample(s, &above);
    if (last == s->hi)
        return last;
    if (last >= s->lo)
        last = edge(s, last, above);
    for (uint64_t x = last + 1; x <= s->hi && x - last <= s->wobble; x++)
        if (s->holds(s->of, x))
            last = x;
    return last;
}

uint64_t search_wobble(const struct kvp_stack *s)
{
    uint64_t n = LEAST_WOBBLE;

    for (uint32_t i = 0; i < s->n; i++)
        for (uint32_t k = 0; k < s->spec[i].n_params && s->spec[i].axis != KVP_AXIS_CHUNKING; k++) /* a cut prompt's bytes only grow */
            if (s->spec[i].params[k].kind == KVP_PARAM_INT && s->spec[i].params[k].i > 0)
                n += 8 * num_min((uint64_t)s->spec[i].params[k].i, MOST_WOBBLE);
    return num_min(n, MOST_WOBBLE);
}
