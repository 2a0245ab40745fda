#include "validate/ledger.h"

#include <inttypes.h>

static const char *const tag_name[LED_TAGS] = {
    [LED_WEIGHTS] = "weights",       [LED_CACHE] = "the cache",    [LED_METADATA] = "cache metadata",
    [LED_STATE] = "state",           [LED_ACTIVATION] = "activations", [LED_WORKSPACE] = "workspace",
    [LED_TRACE] = "the trace",
};

static uint64_t total_now(const struct ledger *l)
{
    uint64_t sum = 0;

    for (int t = 0; t < LED_TAGS; t++)
        sum += t == LED_TRACE ? 0 : l->now[t];
    return sum;
}

static void raise_to(uint64_t *high, uint64_t x)
{
    if (x > *high)
        *high = x;
}

static void count(struct ledger *l, enum led_tag tag, uint64_t bytes)
{
    l->now[tag] += bytes;
    l->allocations++;
    raise_to(&l->peak[tag], l->now[tag]);
    raise_to(&l->cache_peak, l->now[LED_CACHE] + l->now[LED_METADATA]);
    raise_to(&l->total_peak, total_now(l));
}

kvp_err led_alloc(struct ledger *l, enum led_tag tag, uint64_t bytes, struct led_mem *out, struct kvp_error *e)
{
    struct kvp_error why = {0};
    kvp_err rc;

    *out = (struct led_mem){.bytes = bytes, .tag = tag};
    if (bytes == 0)
        return KVP_OK;
    rc = l->be->alloc(l->dev, bytes, &out->buf, &why);
    if (rc != KVP_OK) {
        out->buf = NULL;
        return kvp_fail(e, rc, "%" PRIu64 " bytes for %s: %s", bytes, tag_name[tag], why.text);
    }
    count(l, tag, bytes);
    return KVP_OK;
}

void led_move(struct ledger *from, struct ledger *to, const struct led_mem *m)
{
    if (!m->buf)
        return;
    from->now[m->tag] -= m->bytes;
    count(to, m->tag, m->bytes);
}

void led_free(struct ledger *l, struct led_mem *m)
{
    if (!m->buf)
        return;
    l->be->release(l->dev, m->buf);
    l->now[m->tag] -= m->bytes;
    *m = (struct led_mem){0};
}
