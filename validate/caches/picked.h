/* picked.h - caches that choose once, at the end of the prompt, and keep all that is generated.
 *
 * A layer whose own window is shorter than the run keeps that window, as a ring, and nothing else: it must not
 * see older tokens. In the others slots [0, kept) are the chosen tokens of the prompt in text order, and the
 * token at position p >= prompt lies in slot kept + p - prompt. Two ways of choosing:
 *   positions  the first `sink` tokens and the newest ones
 *   scores     the last `window` tokens, and of those before them the ones that the window's queries attend to
 *              most, one set for each stored head: probabilities are summed over those queries and the query
 *              heads of the stored one, and pooled (kernels/ops/window_scores.h) */
#ifndef KVPROOF_CACHES_PICKED_H
#define KVPROOF_CACHES_PICKED_H

#include "validate/caches/cache.h"

struct picked_rule {
    uint64_t *kept; /* [layers] tokens of the prompt that stay, from 0 to the prompt, where `acts` */
    bool *acts;     /* [layers] */
    bool scored;
    uint64_t sink;                  /* by positions */
    uint64_t window;                /* by scores ... */
    uint32_t kernel;
    bool average;
    bool query_heads;               /* rows are stored once for each query head */
};

/* Reads the technique's parameters into a rule whose `acts` is filled in already. */
typedef kvp_err picked_read(struct picked_rule *r, const struct cache_env *env, const struct kvp_spec *spec, struct kvp_error *e);

kvp_err picked_open(struct cache **out, const struct cache_env *env, picked_read *read, struct kvp_error *e);

/* window, kernel, pooling and heads, as SnapKV and its kin have them. */
kvp_err picked_read_window(struct picked_rule *r, const struct kvp_spec *spec, struct kvp_error *e);
/* KVP_EINPUT unless the parameter `cap` is more than the rule's window. */
kvp_err picked_read_cap(uint64_t *cap, const struct picked_rule *r, const struct kvp_spec *spec, struct kvp_error *e);

/* In which layers a choice is made: those that see the whole context. KVP_ENOTSUP when there is none. */
kvp_err picked_acts(bool *acts, const struct cache_env *env, const char *name, struct kvp_error *e);

/* These fill a technique's struct cache_ops beside its open. */
void picked_close(struct cache *c);
kvp_err picked_reset(struct cache *c, struct kvp_error *e);
kvp_err picked_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);
kvp_err picked_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e);
kvp_err picked_dump_kept(struct cache *c, FILE *f, struct kvp_error *e);
kvp_err picked_dump_cache(struct cache *c, FILE *f, struct kvp_error *e);
kvp_err picked_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e);

#define PICKED_OPS                                                                                        \
    .close = picked_close, .reset = picked_reset, .prefill = picked_prefill, .decode = picked_decode,     \
    .dump_kept = picked_dump_kept, .dump_cache = picked_dump_cache, .poison = picked_poison

#endif
