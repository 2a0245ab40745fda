/* steps.c - steps that several caches take alike */
#include "validate/caches/steps.h"

#include "validate/caches/size.h"

#include <math.h>

const struct kvp_layer_class *cache_class(const struct cache_env *env, uint32_t layer)
{
    return &env->model->cls[env->model->class_of[layer]];
}

float class_scale(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    const struct kvp_numbers *n = &m->numbers;
    double scale = n->score_scale > 0 ? n->score_scale : 1 / sqrt((double)c->head_dim), more;

    if (c->mixer == KVP_MIX_MLA && m->rope_scaling == KVP_ROPE_YARN && n->yarn_mscale_all > 0) {
        more = m->rope_factor > 1 ? 0.1 * n->yarn_mscale_all * log(m->rope_factor) + 1 : 1;
        scale *= more * more; /* transformers, modeling_deepseek_v3.py: yarn_apply_mscale */
    }
    return (float)scale;
}

float cache_scale(const struct cache_env *env, uint32_t layer)
{
    return class_scale(env->model, cache_class(env, layer));
}

kvp_err attend_prompt(const struct cache_env *env, uint32_t layer, const struct cache_qkv *x, uint64_t window,
                      struct kvp_error *e)
{
    const struct kvp_layer_class *c = cache_class(env, layer);
    const bool mla = c->mixer == KVP_MIX_MLA;
    const struct kb_attn_prefill a = {.batch = env->batch,
                                      .tokens = x->tokens,
                                      .heads = c->heads,
                                      .kv_heads = mla ? c->heads : c->kv_heads,
                                      .head_dim = c->head_dim,
                                      .v_dim = c->v_head_dim,
                                      .kv_stride = x->kv_stride,
                                      .k_head = x->kv_head,
                                      .v_head = x->kv_head,
                                      .shared_dim = mla ? c->rope_dim : 0,
                                      .shared = x->shared,
                                      .shared_stride = x->latent_stride,
                                      .softcap = (float)env->model->numbers.score_cap,
                                      .sinks = x->sinks,
                                      .slopes = x->slopes,
                                      .sink_format = x->sink_format,
                                      .window = window,
                                      .chunk = c->chunk,
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

kvp_err rows_write_as(const struct cache_env *env, struct kb_cache_write w, const struct cache_qkv *x, uint64_t first, uint64_t count,
                      uint64_t slot, uint64_t ring, struct kvp_error *e)
{
    w.batch = x->batch ? x->batch : env->batch;
    w.src_tokens = x->tokens;
    while (count) {
        w.count = ring ? size_min(count, ring - slot) : count;
        w.slot = slot;
        w.src_first = first - x->position;
        w.calibrate = x->position == 0; /* over the whole prompt, however it is split */
        KVP_TRY(env->run(env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e));
        first += w.count;
        count -= w.count;
        slot = 0;
    }
    return KVP_OK;
}

kvp_err rows_write(const struct cache_env *env, const struct kb_kv *dst, const struct cache_qkv *x,
                   struct kb_span src, uint64_t first, uint64_t count, uint64_t slot, uint64_t ring,
                   struct kvp_error *e)
{
    const struct kb_cache_write w = {.dst = *dst, .src = src, .src_stride = x->stride};

    return rows_write_as(env, w, x, first, count, slot, ring, e);
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
