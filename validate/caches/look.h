/* look.h - which token lies in which slot, for dumps and poison: followed on the host when the run is traced.
 *
 * For caches whose slots are in a store. A layer's heads have a list each, or one for all of them. */
#ifndef KVPROOF_CACHES_LOOK_H
#define KVPROOF_CACHES_LOOK_H

#include "validate/caches/store.h"

struct look {
    const struct cache_env *env;
    struct store *store;
    const char *name; /* of the technique, for messages */
    bool one_list;
    uint64_t *used;   /* [layers] slots that hold a token now; the cache keeps it up to date */
    uint64_t *room;   /* [layers] most of them in this run */
    int32_t **where;  /* [layers], tracing: [batch, lists, room] the token in each slot */
};

/* `room`: [layers], copied. */
kvp_err look_open(struct look *l, const struct cache_env *env, struct store *store, const char *name, bool one_list,
                  const uint64_t *room, struct kvp_error *e);
void look_close(struct look *l);
void look_reset(struct look *l); /* nothing is used */

/* The slots of a list; NULL when nothing is traced. */
int32_t *look_at(const struct look *l, uint32_t layer, uint64_t b, uint32_t list);
/* `position` lies in `slot` from now on, in every list of every sequence. */
void look_put(const struct look *l, uint32_t layer, uint64_t slot, uint64_t position);
/* Slots [0, n) are the tokens that the device's i32 [batch, lists, n] says. */
kvp_err look_read(const struct look *l, uint32_t layer, struct kb_span index, uint64_t n, struct kvp_error *e);

/* As in cache_ops. */
kvp_err look_dump_kept(const struct look *l, FILE *f, struct kvp_error *e);
kvp_err look_dump_cache(const struct look *l, FILE *f, struct kvp_error *e);
kvp_err look_poison(const struct look *l, uint64_t pos, bool *stored, struct kvp_error *e);

#endif
