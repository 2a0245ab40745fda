/* kv.h - how the `kv` technique stores a row of keys or of values (docs/techniques/kv.md). */
#ifndef KVPROOF_CACHES_KV_H
#define KVPROOF_CACHES_KV_H

#include "validate/caches/cache.h"

struct kv_code {
    enum kvp_format format;
    enum kb_scales scales;        /* of codes; blocks and whole numbers have none beside them */
    enum kvp_format scale_format; /* GROUP */
    uint32_t group;               /* GROUP: channels */
};

/* Of k and of v: what the stack says, or env's format without `kv`. KVP_EINPUT: a format, a group or a scale that
 * does not suit the model's heads. */
kvp_err kv_codes(struct kv_code out[2], const struct cache_env *env, struct kvp_error *e);

/* Bytes of scale, or of shift, beside a row of `dim` numbers. */
uint64_t kv_beside(const struct kv_code *c, uint32_t dim, bool shift);

#endif
