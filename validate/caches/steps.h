/* steps.h - steps that several caches take alike */
#ifndef KVPROOF_CACHES_STEPS_H
#define KVPROOF_CACHES_STEPS_H

#include "validate/caches/cache.h"

const struct kvp_layer_class *cache_class(const struct cache_env *env, uint32_t layer);

/* The same of any class, an encoder's too. */
float class_scale(const struct kvp_model *m, const struct kvp_layer_class *c);

/* 1 / sqrt(head_dim) unless the model says otherwise: what scores are multiplied with before the softmax. */
float cache_scale(const struct cache_env *env, uint32_t layer);

/* Causal attention of the whole prompt, banded when `window` is not 0; fills x->out and x->lse. */
kvp_err attend_prompt(const struct cache_env *env, uint32_t layer, const struct cache_qkv *x, uint64_t window,
                      struct kvp_error *e);

/* Rows of text positions [first, first + count), from x's `src` (its k or v), into slots slot, slot + 1, ...
 * of dst; with a ring, slot numbers wrap at `ring` (count <= ring). Op APPEND. */
kvp_err rows_write(const struct cache_env *env, const struct kb_kv *dst, const struct cache_qkv *x,
                   struct kb_span src, uint64_t first, uint64_t count, uint64_t slot, uint64_t ring,
                   struct kvp_error *e);

/* The same, told by `w`: dst, src, its strides and columns; the rest is filled in. */
kvp_err rows_write_as(const struct cache_env *env, struct kb_cache_write w, const struct cache_qkv *x, uint64_t first, uint64_t count,
                      uint64_t slot, uint64_t ring, struct kvp_error *e);

/* `runs` runs of `bytes`, their pitches apart, timed under `op` as one call. */
kvp_err copy_runs(const struct cache_env *env, enum kvp_op op, struct kb_span dst, uint64_t dst_pitch, struct kb_span src,
                  uint64_t src_pitch, uint64_t bytes, uint64_t runs, struct kvp_error *e);

/* The window of each layer (0: none), [layers]: the model's own, narrowed by the `window` technique
 * when it is in the stack. KVP_ENOTSUP when another technique is on the SELECT axis. */
kvp_err window_of_layers(uint64_t *out, const struct cache_env *env, struct kvp_error *e);

#endif
