/* rows.c - unquantized rows of the newest tokens, straight or as a ring */
#include "validate/caches/rows.h"

#include "validate/caches/dump.h"
#include "validate/caches/layout.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"
#include "validate/caches/store_dump.h"

#include <stdlib.h>

struct cache {
    const struct cache_env *env;
    struct store *store;
    uint64_t *window; /* [layers]; 0: none */
    uint32_t *owner;  /* [layers] whose rows a layer attends to */
    uint64_t seen;    /* tokens */
};

static kvp_err build(struct cache *c, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    uint64_t *cap = calloc(layers, sizeof(*cap));
    kvp_err rc;

    c->window = calloc(layers, sizeof(*c->window));
    c->owner = calloc(layers, sizeof(*c->owner));
    rc = cap && c->window && c->owner ? window_of_layers(c->window, c->env, e)
                          : kvp_fail(e, KVP_ENOMEM, "out of memory for a cache of %u layers", layers);
    for (uint32_t i = 0; rc == KVP_OK && i < layers; i++)
        rc = rows_owner(&c->owner[i], c->env->model, i, e);
    for (uint32_t i = 0; rc == KVP_OK && i < layers; i++)
        cap[i] = c->window[i] ? c->window[i] : UINT64_MAX;
    if (rc == KVP_OK)
        rc = store_open(&c->store, c->env, cap, NULL, e);
    free(cap);
    return rc;
}

kvp_err rows_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a cache");
    c->env = env;
    rc = build(c, e);
    if (rc != KVP_OK) {
        rows_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

void rows_close(struct cache *c)
{
    if (!c)
        return;
    store_close(c->store);
    free(c->window);
    free(c->owner);
    free(c);
}

kvp_err rows_reset(struct cache *c, struct kvp_error *e)
{
    c->seen = 0;
    return store_reset(c->store, e);
}

static uint64_t kept(const struct cache *c, uint32_t layer, uint64_t seen)
{
    return c->window[layer] ? size_min(seen, c->window[layer]) : seen;
}

static uint64_t slot_of(const struct cache *c, uint32_t layer, uint64_t position)
{
    return c->window[layer] ? position % c->window[layer] : position;
}

/* The newest rows of x into their slots. */
kvp_err rows_append(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t seen = x->position + x->tokens, n = size_min(kept(c, layer, seen), x->tokens);
    const uint64_t slot = slot_of(c, layer, seen - n);
    struct kb_kv k, v;

    KVP_TRY(store_reserve(c->store, layer, kept(c, layer, seen), e));
    store_view_from(c->store, layer, x->first, &k, &v);
    KVP_TRY(rows_write(c->env, &k, x, x->k, seen - n, n, slot, c->window[layer], e));
    KVP_TRY(rows_write(c->env, &v, x, x->v, seen - n, n, slot, c->window[layer], e));
    c->seen = seen;
    return KVP_OK;
}

uint64_t rows_window(const struct cache *c, uint32_t layer)
{
    return c->window[layer];
}

void rows_view(const struct cache *c, uint32_t layer, struct kb_kv *k, struct kb_kv *v)
{
    store_view(c->store, c->owner[layer], k, v);
}

kvp_err rows_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    if (x->q.buf)
        KVP_TRY(attend_prompt(c->env, layer, x, c->window[layer], e));
    return c->owner[layer] == layer ? rows_append(c, layer, x, e) : KVP_OK;
}

/* What the run's one scale for a tensor would be is not known before the whole prompt is; and who reads another layer's
 * ring finds it moved on. */
static kvp_err check_extend(const struct cache *c, uint32_t layer, const struct kb_kv *k, const struct kb_kv *v, struct kvp_error *e)
{
    if (k->scales == KB_SCALES_TENSOR || v->scales == KB_SCALES_TENSOR)
        return kvp_fail(e, KVP_ENOTSUP, "kv: one scale for a whole tensor needs the prompt in one pass");
    if (c->owner[layer] != layer && c->window[layer])
        return kvp_fail(e, KVP_ENOTSUP, "layer %u reads another layer's window, which needs the prompt in one pass", layer);
    return KVP_OK;
}

kvp_err rows_extend(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_extend a = {.batch = x->batch, .tokens = x->tokens, .position = x->position, .heads = cls->heads,
                               .kv_heads = cls->kv_heads, .head_dim = cls->head_dim, .window = c->window[layer],
                               .ring = c->window[layer], .scale = cache_scale(c->env, layer), .stride = x->stride, .q = x->q,
                               .k = x->k, .v = x->v, .out_stride = x->out_stride, .out = x->out};

    store_view_from(c->store, c->owner[layer], x->first, &a.stored_k, &a.stored_v);
    KVP_TRY(check_extend(c, layer, &a.stored_k, &a.stored_v, e));
    KVP_TRY(c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_EXTEND, &a, e));
    return c->owner[layer] == layer ? rows_append(c, layer, x, e) : KVP_OK;
}

kvp_err rows_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_decode a = {.batch = c->env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads,
                               .head_dim = cls->head_dim, .scale = cache_scale(c->env, layer),
                               .q_stride = x->stride, .q = x->q, .out_stride = x->out_stride, .out = x->out};

    if (c->owner[layer] == layer && x->k.buf)
        KVP_TRY(rows_append(c, layer, x, e));
    a.used = kept(c, layer, c->seen);
    store_view(c->store, c->owner[layer], &a.k, &a.v);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e);
}

kvp_err rows_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        if (cache_class(c->env, i)->kv_heads || cache_class(c->env, i)->mixer != KVP_MIX_NONE)
            dump_range(f, i, c->seen - kept(c, i, c->seen), c->seen);
    return dump_done(f, e);
}

/* Where the i-th of the kept tokens lies, in text order. */
static uint64_t slot_in_order(const void *self, uint32_t layer, uint64_t i)
{
    const struct cache *c = self;

    return slot_of(c, layer, c->seen - kept(c, layer, c->seen) + i);
}

kvp_err rows_dump_cache(struct cache *c, FILE *f, struct kvp_error *e)
{
    if (c->env->hit)
        return kvp_fail(e, KVP_ENOTSUP, "prefix: rows that sequences share are not dumped yet");
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        KVP_TRY(store_dump(c->store, c->env, i, kept(c, i, c->seen), slot_in_order, c, f, e));
    return dump_done(f, e);
}

kvp_err rows_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    *stored = pos < c->seen && c->seen - pos <= kept(c, 0, c->seen);
    if (*stored)
        return store_poison_slot(c->store, 0, 0, 0, slot_of(c, 0, pos), e);
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        KVP_TRY(store_poison_unused(c->store, i, kept(c, i, c->seen), e));
    return KVP_OK;
}
