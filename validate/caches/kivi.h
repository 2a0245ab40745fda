/* kivi.h - what kivi.c (storage and steps) and kivi_look.c (dumps and poison) share */
#ifndef KVPROOF_CACHES_KIVI_H
#define KVPROOF_CACHES_KIVI_H

#include "validate/caches/pages.h"
#include "validate/caches/store.h"

/* Packed keys or values of a layer. */
struct side {
    struct led_mem codes, scale, min;
    uint64_t capacity; /* tokens of a sequence, before rounding to pages */
    uint64_t ring;     /* 0: a token lies at its own position */
};

struct layer {
    struct side k, v;
    struct led_mem k_res, v_res;
    uint64_t k_rows, v_rows; /* allocated, of each sequence and head; k_rows 0: no key residual */
    uint64_t window;         /* 0: none */
};

struct cache {
    const struct cache_env *env;
    uint32_t bits, group;
    uint64_t residual, scale_bytes, seen;
    struct store_plan plan;
    struct pages *pages;
    struct layer *layer;
};

/* Tokens whose keys, whose values are packed when `tokens` have been seen. */
uint64_t kivi_packed_keys(const struct cache *c, uint64_t tokens);
uint64_t kivi_packed_values(const struct cache *c, uint64_t tokens);
/* Positions [from, n) are all that a ring can hold of [0, n); ring 0 holds all. */
uint64_t kivi_ring_from(uint64_t n, uint64_t ring);

kvp_err kivi_dump_kept(struct cache *c, FILE *f, struct kvp_error *e);
kvp_err kivi_dump_cache(struct cache *c, FILE *f, struct kvp_error *e);
/* A packed row cannot hold a NaN code: the scales of its groups become NaN. A key's group is G tokens of
 * one channel, so poisoning a packed key poisons its whole group of tokens. */
kvp_err kivi_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e);

#endif
