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

static kvp_err read_rank(uint32_t *out, const struct kvp_spec *s, const char *key, uint64_t full, struct kvp_error *e)
{
    const struct kvp_param *p = kvp_spec_param(s, key);
    const uint64_t half = full < 2 ? 1 : full / 2, rank = p && p->given && p->i > 0 ? (uint64_t)p->i : half;

    if (rank > full)
        return kvp_fail(e, KVP_EINPUT, "lorc: %s is %" PRIu64 ", but the matrix has rank %" PRIu64 " at most", key, rank, full);
    *out = (uint32_t)rank;
    return KVP_OK;
}

kvp_err rewrite_lorc(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e)
{
    const bool absorbed = !is_word(s, "form", "rebuild");
    uint32_t factored = 0;

    if (is_word(s, "rule", "progressive"))
        return kvp_fail(e, KVP_ENOTSUP, "lorc: the engine does not run rule=progressive yet");
    for (uint32_t l = 0; l < r->m.layers; l++) {
        struct kvp_layer_class *c = &r->cls[l];
        const uint64_t rows = (uint64_t)c->kv_heads * c->head_dim, full = rows < r->m.width ? rows : r->m.width;

        if (c->mixer != KVP_MIX_ATTENTION)
            continue;
        if (c->no_kv)
            return kvp_fail(e, KVP_ENOTSUP, "lorc: layer %" PRIu32 " of %s reads another layer's keys", l, r->m.name);
        KVP_TRY(read_rank(&c->low_k, s, "k_rank", full, e));
        KVP_TRY(read_rank(&c->low_v, s, "v_rank", full, e));
        c->absorb_k = absorbed && r->m.position != KVP_POS_ROPE && !c->qk_norm;
        c->absorb_v = absorbed;
        c->fused_qkv = false;
        factored++;
    }
    return factored ? KVP_OK : kvp_fail(e, KVP_ENOTSUP, "lorc: not applicable, %s has no layer with keys and values", r->m.name);
}
