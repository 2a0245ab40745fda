#include "validate/caches/layout.h"

#include "validate/caches/steps.h"

#include <inttypes.h>

bool rows_expanded(const struct kvp_stack *s)
{
    const struct kvp_spec *mixer = kvp_stack_on(s, KVP_AXIS_MIXER);
    const struct kvp_param *form = mixer ? kvp_spec_param(mixer, "form") : NULL;

    return form && form->word && strcmp(form->word, "expanded") == 0;
}

struct layer_rows layer_rows(const struct cache_env *env, uint32_t layer)
{
    const struct kvp_layer_class *c = cache_class(env, layer);

    if (c->no_kv)
        return (struct layer_rows){.latent = false};
    if (c->low_k) /* one for all heads */
        return (struct layer_rows){.k = {1, c->low_k}, .v = {1, c->low_v}};
    if (c->mixer == KVP_MIX_MLA && !rows_expanded(env->stack))
        return (struct layer_rows){.k = {1, c->kv_rank}, .v = {1, c->rope_dim}, .latent = true};
    if (c->mixer == KVP_MIX_MLA)
        return (struct layer_rows){.k = {c->heads, c->head_dim}, .v = {c->heads, c->v_head_dim}};
    return (struct layer_rows){.k = {c->kv_heads, c->head_dim}, .v = {c->kv_heads, c->v_head_dim ? c->v_head_dim : c->head_dim}};
}

kvp_err rows_owner(uint32_t *out, const struct kvp_model *m, uint32_t layer, struct kvp_error *e)
{
    const struct kvp_layer_class *c = &m->cls[m->class_of[layer]];

    *out = layer;
    if (!c->no_kv)
        return KVP_OK;
    for (uint32_t l = layer; l-- > 0;) {
        const struct kvp_layer_class *x = &m->cls[m->class_of[l]];

        if (x->mixer == c->mixer && !x->no_kv && x->window == c->window && x->chunk == c->chunk && x->kv_heads == c->kv_heads &&
            x->head_dim == c->head_dim && x->v_head_dim == c->v_head_dim) {
            *out = l;
            return KVP_OK;
        }
    }
    return kvp_fail(e, KVP_EINPUT, "%s: no layer before %" PRIu32 " stores the keys that it reads", m->name, layer);
}

bool cache_extends(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    (void)m;
    return c->mixer == KVP_MIX_ATTENTION && c->v_head_dim == c->head_dim && !c->chunk;
}

bool cache_is_softmax(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    return cache_extends(m, c) && !c->sinks && !(m->numbers.score_cap > 0) && m->position != KVP_POS_ALIBI;
}

bool cache_is_plain(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    if (c->mixer == KVP_MIX_NONE) /* a recurrence keeps no rows */
        return true;
    return cache_is_softmax(m, c) && !c->no_kv && !c->low_k;
}
