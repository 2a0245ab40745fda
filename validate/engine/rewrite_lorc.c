/* rewrite_lorc.c - W_k and W_v as two thin matrices each (docs/techniques/lorc.md; Zhang et al. 2024, arXiv:2410.03111)
 *
 * What is stored is what comes out of the first. The second goes to q and to the weighted sum where it can: not to keys
 * that are turned, or normed, after it. */
#include "validate/engine/rewrite.h"

#include <inttypes.h>

static bool is_word(const struct kvp_spec *s, const char *key, const char *word)
{
    const struct kvp_param *p = kvp_spec_param(s, key);

    return p && p->word && strcmp(p->word, word) == 0;
}

static uint64_t full_rank(const struct rewritten *r, const struct kvp_layer_class *c)
{
    const uint64_t rows = (uint64_t)c->kv_heads * c->head_dim;

    return rows < r->m.width ? rows : r->m.width;
}

/* A rank that was given, or else one `part`-th of the full one. */
static kvp_err read_rank(uint32_t *out, const struct kvp_spec *s, const char *key, uint64_t full, uint64_t part, struct kvp_error *e)
{
    const struct kvp_param *p = kvp_spec_param(s, key);
    const uint64_t least = full < part ? 1 : full / part, rank = p && p->given && p->i > 0 ? (uint64_t)p->i : least;

    if (rank > full)
        return kvp_fail(e, KVP_EINPUT, "lorc: %s is %" PRIu64 ", but the matrix has rank %" PRIu64 " at most", key, rank, full);
    *out = (uint32_t)rank;
    return KVP_OK;
}

static kvp_err read_ranks(struct kvp_layer_class *c, const struct kvp_spec *s, uint64_t full, struct kvp_error *e)
{
    uint32_t least;

    if (!is_word(s, "rule", "progressive")) {
        KVP_TRY(read_rank(&c->low_k, s, "k_rank", full, 2, e));
        return read_rank(&c->low_v, s, "v_rank", full, 2, e);
    }
    KVP_TRY(read_rank(&c->low_k, s, "r_max", full, 1, e));
    KVP_TRY(read_rank(&least, s, "r_min", full, 4, e));
    if (least > c->low_k)
        return kvp_fail(e, KVP_EINPUT, "lorc: r_min is %" PRIu32 ", r_max only %" PRIu32, least, c->low_k);
    c->low_v = c->low_k;
    return KVP_OK;
}

kvp_err rewrite_lorc(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e)
{
    const bool absorbed = !is_word(s, "form", "rebuild");
    uint32_t factored = 0;

    for (uint32_t l = 0; l < r->m.layers; l++) {
        struct kvp_layer_class *c = &r->cls[l];

        if (c->mixer != KVP_MIX_ATTENTION)
            continue;
        if (c->no_kv)
            return kvp_fail(e, KVP_ENOTSUP, "lorc: layer %" PRIu32 " of %s reads another layer's keys", l, r->m.name);
        KVP_TRY(read_ranks(c, s, full_rank(r, c), e));
        c->absorb_k = absorbed && r->m.position != KVP_POS_ROPE && !c->qk_norm;
        c->absorb_v = absorbed;
        c->fused_qkv = false;
        factored++;
    }
    return factored ? KVP_OK : kvp_fail(e, KVP_ENOTSUP, "lorc: not applicable, %s has no layer with keys and values", r->m.name);
}

bool rewrite_wants_conditions(const struct kvp_stack *s)
{
    const struct kvp_spec *spec = kvp_stack_on(s, KVP_AXIS_RANK);

    return spec && is_word(spec, "rule", "progressive");
}

/* Section 3.3: a layer counts with the condition numbers of its own matrices and of all behind it, multiplied; on the
 * logarithm of that the ranks are a line, r_max at the first layer and r_min at the last. To the nearest whole rank, which
 * the paper does not say. */
void rewrite_ranks(struct rewritten *r, const struct kvp_stack *s, const double *conditions)
{
    const struct kvp_spec *spec = kvp_stack_on(s, KVP_AXIS_RANK);
    double before = 0, range = 0;
    uint32_t last = 0;

    for (uint32_t l = 0; l < r->m.layers; l++)
        last = r->cls[l].low_k ? l : last;
    for (uint32_t l = 0; l < last; l++)
        range += r->cls[l].low_k ? conditions[l] : 0;
    for (uint32_t l = 0; l <= last; l++) {
        struct kvp_layer_class *c = &r->cls[l];
        struct kvp_error none = {0};
        uint32_t least;

        if (!c->low_k || read_rank(&least, spec, "r_min", full_rank(r, c), 4, &none) != KVP_OK)
            continue;
        c->low_k -= (uint32_t)(range > 0 ? (c->low_k - least) * (before / range) + 0.5 : 0);
        c->low_v = c->low_k;
        before += conditions[l];
    }
}
