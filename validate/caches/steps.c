/* steps.c - steps that several caches take alike */
#include "validate/caches/steps.h"

#include "validate/caches/size.h"

#include <math.h>

const struct kvp_layer_class *cache_class(const struct cache_env *env, uint32_t layer)
{
    return &env->model->cls[env->model->class_of[layer]];
}

float cache_scale(const struct cache_env *env, uint32_t layer)
{
    return (float)(1 / sqrt((double)cache_class(env, layer)->head_dim));
}

kvp_err attend_prompt(const struct cache_env *env, uint32_t layer, const struct cache_qkv *x, uint64_t window,
                      struct kvp_error *e)
{
    const struct kvp_layer_class *c = cache_class(env, layer);
    const struct kb_attn_prefill a = {.batch = env->batch,
                                      .tokens = x->tokens,
                                      .heads = c->heads,
                                      .kv_heads = c->kv_heads,
                                      .head_dim = c->head_dim,
                                      .window = window,
                                      .scale = cache_scale(env, layer),
                                      .stride = x->stride,
                                      .q = x->q,
                                      .k = x->k,
                                      .v = x->v,
                                      .out_stride = x->out_stride,
                                      .out = x->out,
                                      .lse = x->lse};

    return env->run(env->self, KVP_OP_ATTN, KB_ATTN_PREFILL, &a, e);
}

kvp_err rows_write(const struct cache_env *env, const struct kb_kv *dst, const struct cache_qkv *x,
                   struct kb_span src, uint64_t first, uint64_t count, uint64_t slot, uint64_t ring,
                   struct kvp_error *e)
{
    while (count) {
        const uint64_t n = ring ? size_min(count, ring - slot) : count;
        const struct kb_cache_write w = {.batch = x->batch ? x->batch : env->batch,
                                         .count = n,
                                         .dst = *dst,
                                         .slot = slot,
                                         .src = src,
                                         .src_tokens = x->tokens,
                                         .src_stride = x->stride,
                                         .src_first = first - x->position,
                                         .calibrate = x->position == 0}; /* over the whole prompt, however it is split */

        KVP_TRY(env->run(env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e));
        first += n;
        count -= n;
        slot = 0;
    }
    return KVP_OK;
}

kvp_err copy_runs(const struct cache_env *env, enum kvp_op op, struct kb_span dst, uint64_t dst_pitch, struct kb_span src,
                  uint64_t src_pitch, uint64_t bytes, uint64_t runs, struct kvp_error *e)
{
    const struct ledger *l = env->led;

    if (env->copy)
        return env->copy(env->self, op, dst, dst_pitch, src, src_pitch, bytes, runs, e);
    for (uint64_t i = 0; i < runs; i++, dst.offset += dst_pitch, src.offset += src_pitch)
        KVP_TRY(l->be->copy(l->dev, dst, src, bytes, e));
    return KVP_OK;
}
