/* tower.c - see tower.h. */
#include "calc/families/tower.h"

#include <stdlib.h>

kvp_err tower_open(const struct kvp_reader *r, const char *key, struct kvp_reader *out, bool *found)
{
    const json_t *part = kvp_json_get(&r->top, key);

    *out = *r;
    out->j.object = part;
    *found = part != NULL;
    return !part || json_is_object(part) ? KVP_OK : kvp_key_fail(r, KVP_EINPUT, key, "expected an object");
}

kvp_err tower_add(struct kvp_reader *r, const char *name, uint32_t rows, uint32_t cols, uint32_t n)
{
    struct kvp_extra *tower;

    if (!rows || !cols || !n)
        return KVP_OK;
    tower = realloc(r->m->tower, (r->m->towers + 1) * sizeof(*tower));
    if (!tower)
        return kvp_fail(r->j.e, KVP_ENOMEM, "%s: out of memory", r->j.origin);
    tower[r->m->towers++] = (struct kvp_extra){name, rows, cols, n, false};
    r->m->tower = tower;
    return KVP_OK;
}
