/* ledger.h - what the engine really asked the device for, by tag, in bytes, now and at its highest.
 *
 * Every device allocation of the engine and of the caches goes through a ledger. It counts requests;
 * it computes nothing about a model. */
#ifndef KVPROOF_LEDGER_H
#define KVPROOF_LEDGER_H

#include "kernels/backend.h"

enum led_tag { LED_WEIGHTS, LED_CACHE, LED_METADATA, LED_STATE, LED_ACTIVATION, LED_WORKSPACE, LED_TRACE, LED_TAGS };

struct ledger {
    const struct kb_backend *be;
    struct kb_dev *dev;
    uint64_t now[LED_TAGS], peak[LED_TAGS];
    uint64_t cache_peak; /* high water of now[CACHE] + now[METADATA] together */
    uint64_t total_peak; /* high water of everything but TRACE */
    uint64_t allocations;
};

/* One allocation; keep it whole, led_free needs tag and size. buf NULL: nothing held. */
struct led_mem {
    struct kb_buf *buf;
    uint64_t bytes;
    enum led_tag tag;
};

/* 0 bytes is fine and holds nothing. */
kvp_err led_alloc(struct ledger *l, enum led_tag tag, uint64_t bytes, struct led_mem *out, struct kvp_error *e);
void led_free(struct ledger *l, struct led_mem *m); /* m->buf becomes NULL */
/* Another ledger of the same device holds `m` from now on: both count as if the one had freed it and the other asked for it. */
void led_move(struct ledger *from, struct ledger *to, const struct led_mem *m);

#endif
