#include "calc/rewrite.h"

#include <stdlib.h>
#include <string.h>

kvp_err model_edit(struct kvp_model *m, void (*edit)(struct kvp_layer_class *c, uint32_t layer, void *to), void *to, struct kvp_error *e)
{
    struct kvp_layer_class *layer = calloc(m->layers ? m->layers : 1, sizeof(*layer));
    kvp_err rc;

    if (!layer)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %u layers", m->layers);
    for (uint32_t i = 0; i < m->layers; i++) {
        memcpy(&layer[i], &m->cls[m->class_of[i]], sizeof(*layer)); /* padding too: grouping compares bytes */
        edit(&layer[i], i, to);
    }
    rc = kvp_model_group(m, layer, e);
    free(layer);
    return rc;
}

uint32_t model_mixers(const struct kvp_model *m, enum kvp_mixer mixer)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < m->layers; i++)
        n += m->cls[m->class_of[i]].mixer == mixer;
    return n;
}

kvp_err model_extra(struct kvp_model *m, struct kvp_extra x, struct kvp_error *e)
{
    for (int i = 0; i < KVP_MAX_EXTRA; i++)
        if (!m->extra[i].name) {
            m->extra[i] = x;
            return KVP_OK;
        }
    return kvp_fail(e, KVP_ENOTSUP, "%s has no room for another extra weight, %s", m->name, x.name);
}
