/* cross.h - keys and values of an encoder's output: written once, when a prompt begins, and never grown.
 *
 * Of each layer that reads an encoder K and V [batch, kv_heads, tokens, head_dim] in the cache's format, tagged CACHE, whatever
 * the stack's techniques make of the layer's own rows. */
#ifndef KVPROOF_CACHES_CROSS_H
#define KVPROOF_CACHES_CROSS_H

#include "validate/caches/cache.h"

struct cross {
    struct ledger *led;
    const struct kvp_model *model;
    enum kvp_format format;
    uint64_t tokens;        /* of an encoder's sequence */
    struct led_mem *k, *v;  /* [layers] */
};

kvp_err cross_open(struct cross *out, struct ledger *led, const struct kvp_model *m, enum kvp_format format, uint64_t batch,
                   uint64_t tokens, struct kvp_error *e);
void cross_close(struct cross *c); /* zeroed is fine */

/* Where a layer's rows are, sequence `first` as number 0. */
void cross_view(const struct cross *c, uint32_t layer, uint64_t first, struct kb_kv *k, struct kb_kv *v);

/* For the poison tests: key and value `token` of sequence 0, kv head 0, of a layer become NaN. */
kvp_err cross_poison(struct cross *c, uint32_t layer, uint64_t token, struct kvp_error *e);

#endif
