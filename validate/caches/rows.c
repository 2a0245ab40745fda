/* rows.c - unquantized rows of the newest tokens, straight or as a ring */
#include "validate/caches/rows.h"

#include "kernels/code.h"
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
    uint64_t *ring;   /* [layers] slots that are used in turn: the window, or the chunk; 0: none */
    uint32_t *owner;  /* [layers] whose rows a layer attends to */
    uint64_t seen;    /* tokens */
};

static kvp_err build(struct cache *c, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    uint64_t *cap = calloc(layers, sizeof(*cap));
    kvp_err rc;

    c->window = calloc(layers, sizeof(*c->window));
    c->ring = calloc(layers, sizeof(*c->ring));
    c->owner = calloc(layers, sizeof(*c->owner));
    rc = cap && c->window && c->ring && c->owner ? window_of_layers(c->window, c->env, e)
                          : kvp_fail(e, KVP_ENOMEM, "out of memory for a cache of %u layers", layers);
    for (uint32_t i = 0; rc == KVP_OK && i < layers; i++)
        if (c->window[i] && c->env->model->position == KVP_POS_ALIBI)
            rc = kvp_fail(e, KVP_ENOTSUP, "%s: ALiBi needs the distance of every key, and a ring of rows does not keep it",
                          c->env->model->name);
    for (uint32_t i = 0; rc == KVP_OK && i < layers; i++)
        rc = rows_owner(&c->owner[i], c->env->model, i, e);
    for (uint32_t i = 0; rc == KVP_OK && i < layers; i++)
        c->ring[i] = c->window[i] ? c->window[i] : cache_class(c->env, i)->chunk;
    for (uint32_t i = 0; rc == KVP_OK && i < layers; i++)
        cap[i] = c->ring[i] ? c->ring[i] : UINT64_MAX;
    if (rc == KVP_OK)
        rc = store_open(&c->store, c->env, cap, NULL, e);
    for (uint32_t i = 0; rc == KVP_OK && i < layers; i++) {
        struct kb_kv k, v;

        store_view(c->store, i, &k, &v);
        if (cache_class(c->env, i)->mixer == KVP_MIX_MLA && !layer_rows(c->env, i).latent && (kb_is_code(k.format) || kb_is_block(k.format)))
            rc = kvp_fail(e, KVP_ENOTSUP, "mla: the engine does not code expanded keys, whose rotary part is written by itself");
    }
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
    free(c->ring);
    free(c->owner);
    free(c);
}

kvp_err rows_reset(struct cache *c, struct kvp_error *e)
{
    c->seen = 0;
    return store_reset(c->store, e);
}

/* Slots in use after `seen` tokens. */
static uint64_t held(const struct cache *c, uint32_t layer, uint64_t seen)
{
    return c->ring[layer] ? size_min(seen, c->ring[layer]) : seen;
}

/* Those that the newest of them sees: all, or its own chunk's, which are the first ones. */
static uint64_t kept(const struct cache *c, uint32_t layer, uint64_t seen)
{
    const uint64_t chunk = cache_class(c->env, layer)->chunk;

    return chunk && seen ? (seen - 1) % chunk + 1 : held(c, layer, seen);
}

static uint64_t slot_of(const struct cache *c, uint32_t layer, uint64_t position)
{
    return c->ring[layer] ? position % c->ring[layer] : position;
}

/* What goes into k's rows and into v's, and (2) what of k's rows all heads share: MLA stores the latent and the rotary key, or
 * both parts of every head's key and its value. */
static struct kb_cache_write part_of(const struct cache *c, uint32_t layer, const struct cache_qkv *x, const struct kb_kv *dst, int part)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_cache_write w = {.dst = *dst, .src_stride = x->stride, .src = part == STORE_K ? x->k : x->v};

    if (cls->mixer != KVP_MIX_MLA) {
        w.src.buf = part > STORE_V ? NULL : w.src.buf;
    } else if (layer_rows(c->env, layer).latent) {
        w.src_stride = x->latent_stride;
        w.src = part == STORE_K ? x->latent : part == STORE_V ? x->shared : (struct kb_span){0};
    } else if (part <= STORE_V) {
        w.src_stride = x->kv_stride;
        w.src_head = x->kv_head;
        w.width = part == STORE_K ? cls->nope_dim : cls->v_head_dim;
    } else {
        w.src_stride = x->latent_stride;
        w.src = x->shared;
        w.first = cls->nope_dim;
        w.width = cls->rope_dim;
        w.shared = true;
    }
    return w;
}

/* The newest rows of x into their slots. */
kvp_err rows_append(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t seen = x->position + x->tokens, n = size_min(held(c, layer, seen), x->tokens);
    const uint64_t slot = slot_of(c, layer, seen - n);
    struct kb_kv k, v;

    KVP_TRY(store_reserve(c->store, layer, held(c, layer, seen), e));
    store_view_from(c->store, layer, x->first, &k, &v);
    for (int i = 0; i < 3; i++) {
        const struct kb_cache_write w = part_of(c, layer, x, i == STORE_V ? &v : &k, i);

        if (w.src.buf)
            KVP_TRY(rows_write_as(c->env, w, x, seen - n, n, slot, c->ring[layer], e));
    }
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
    if (c->owner[layer] != layer && c->ring[layer])
        return kvp_fail(e, KVP_ENOTSUP, "layer %u reads another layer's window, which needs the prompt in one pass", layer);
    return KVP_OK;
}

kvp_err rows_extend(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_extend a = {.batch = x->batch, .tokens = x->tokens, .position = x->position, .heads = cls->heads,
                               .kv_heads = cls->kv_heads, .head_dim = cls->head_dim, .window = c->window[layer],
                               .ring = c->window[layer], .scale = cache_scale(c->env, layer),
                               .softcap = (float)c->env->model->numbers.score_cap, .slopes = x->slopes, .sinks = x->sinks,
                               .sink_format = x->sink_format, .stride = x->stride, .q = x->q,
                               .k = x->k, .v = x->v, .out_stride = x->out_stride, .out = x->out};

    store_view_from(c->store, c->owner[layer], x->first, &a.stored_k, &a.stored_v);
    KVP_TRY(check_extend(c, layer, &a.stored_k, &a.stored_v, e));
    KVP_TRY(c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_EXTEND, &a, e));
    return c->owner[layer] == layer ? rows_append(c, layer, x, e) : KVP_OK;
}

static kvp_err decode_latent(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_latent a = {.batch = c->env->batch, .heads = cls->heads, .rank = cls->kv_rank, .rope_dim = cls->rope_dim,
                               .scale = cache_scale(c->env, layer), .used = kept(c, layer, c->seen), .q_stride = x->out_stride,
                               .q = x->q_latent, .q_rope_stride = x->stride, .q_rope_head = cls->head_dim, .q_rope = x->q,
                               .out_stride = x->out_stride, .out = x->out};

    a.q_rope.offset += cls->nope_dim * sizeof(float);
    store_view(c->store, layer, &a.latent, &a.rope);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_LATENT, &a, e);
}

kvp_err rows_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_decode a = {.batch = c->env->batch, .heads = cls->heads,
                               .kv_heads = cls->mixer == KVP_MIX_MLA ? cls->heads : cls->kv_heads,
                               .head_dim = cls->head_dim, .v_dim = cls->v_head_dim, .scale = cache_scale(c->env, layer),
                               .q_stride = x->stride, .q = x->q, .out_stride = x->out_stride, .out = x->out,
                               .softcap = (float)c->env->model->numbers.score_cap, .sinks = x->sinks, .sink_format = x->sink_format,
                               .slopes = x->slopes};

    if (c->owner[layer] == layer && x->k.buf)
        KVP_TRY(rows_append(c, layer, x, e));
    if (layer_rows(c->env, layer).latent)
        return decode_latent(c, layer, x, e);
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
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        KVP_TRY(store_dump(c->store, c->env, i, kept(c, i, c->seen), slot_in_order, c, f, e));
    return dump_done(f, e);
}

/* Slots in use that the next token will see: of a chunk that is full, none. */
static uint64_t next_sees(const struct cache *c, uint32_t layer)
{
    const uint64_t chunk = cache_class(c->env, layer)->chunk;

    return chunk ? c->seen % chunk : held(c, layer, c->seen);
}

kvp_err rows_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    *stored = pos < c->seen && c->seen - pos <= next_sees(c, 0);
    if (*stored)
        return store_poison_slot(c->store, 0, 0, 0, slot_of(c, 0, pos), e);
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        KVP_TRY(store_poison_unused(c->store, i, next_sees(c, i), e));
    return KVP_OK;
}
