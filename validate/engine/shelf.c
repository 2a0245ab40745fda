#include "validate/engine/shelf.h"

#include <string.h>

bool shelf_serves(const struct kvp_stack *s)
{
    return !kvp_stack_on(s, KVP_AXIS_MIXER) && !kvp_stack_on(s, KVP_AXIS_SHARE) && !kvp_stack_on(s, KVP_AXIS_RANK) &&
           !kvp_stack_on(s, KVP_AXIS_WEIGHTS);
}

kvp_err shelf_device(struct shelf *s, const struct kb_backend *be, const struct kb_options *o, struct kb_dev **dev, struct kvp_error *e)
{
    struct kb_dev *opened = NULL;

    if (!s->led.dev) {
        KVP_TRY(be->open(&opened, o, e));
        s->led = (struct ledger){.be = be, .dev = opened};
    }
    *dev = s->led.dev;
    return KVP_OK;
}

static bool same_dir(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same(const struct shelf_key *a, const struct shelf_key *b)
{
    return a->m == b->m && same_dir(a->dir, b->dir) && a->seed == b->seed && a->format == b->format;
}

bool shelf_take(struct shelf *s, const struct shelf_key *k, struct weights *w, struct ledger *led)
{
    if (!s->full || !same(&s->key, k))
        return false;
    *w = s->w;
    weights_move(w, led);
    s->full = false;
    s->taken++;
    return true;
}

void shelf_put(struct shelf *s, const struct shelf_key *k, struct weights *w)
{
    shelf_clear(s);
    weights_move(w, &s->led);
    s->w = *w;
    s->key = *k;
    s->full = true;
    *w = (struct weights){0};
}

void shelf_clear(struct shelf *s)
{
    if (s->full)
        weights_close(&s->w);
    s->full = false;
}

void shelf_close(struct shelf *s)
{
    shelf_clear(s);
    if (s->led.dev)
        s->led.be->close(s->led.dev);
    *s = (struct shelf){0};
}
