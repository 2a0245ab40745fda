#include "validate/caches/lots.h"

#include <inttypes.h>
#include <stdlib.h>

struct lot {
    struct cache_env env; /* as the whole one, with fewer sequences */
    struct cache *cache;
    uint64_t first;
};

struct cache {
    const struct cache_env *env;
    const struct cache_ops *ops;
    struct lot *lot;
    uint64_t n;
};

static void lots_close(struct cache *c)
{
    if (!c)
        return;
    for (uint64_t i = 0; i < c->n; i++)
        if (c->lot[i].cache)
            c->ops->close(c->lot[i].cache);
    free(c->lot);
    free(c);
}

static kvp_err open_lots(struct cache *c, struct kvp_error *e)
{
    const struct cache_env *env = c->env;

    KVP_TRY(cache_find(&c->ops, env->stack, e));
    c->n = (env->batch + env->lot - 1) / env->lot;
    c->lot = calloc(c->n, sizeof(*c->lot));
    if (!c->lot)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu64 " caches", c->n);
    for (uint64_t i = 0; i < c->n; i++) {
        struct lot *l = &c->lot[i];

        l->first = i * env->lot;
        l->env = *env;
        l->env.batch = env->batch - l->first < env->lot ? env->batch - l->first : env->lot;
        KVP_TRY(c->ops->open(&l->cache, &l->env, e));
    }
    return KVP_OK;
}

static kvp_err lots_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a cache");
    c->env = env;
    rc = open_lots(c, e);
    if (rc != KVP_OK) {
        lots_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err lots_reset(struct cache *c, struct kvp_error *e)
{
    for (uint64_t i = 0; i < c->n; i++)
        KVP_TRY(c->ops->reset(c->lot[i].cache, e));
    return KVP_OK;
}

/* `rows` rows further on, `stride` elements apart. */
static void skip(struct kb_span *s, uint64_t rows, uint64_t stride)
{
    if (s->buf)
        s->offset += rows * stride * sizeof(float);
}

/* What there is of a lot in x, row 0 of which is of sequence x->first; *low is where its latents are said. */
static struct cache_qkv part_of(const struct cache_qkv *x, const struct lot *l, struct cache_low *low)
{
    const uint64_t rows = (l->first - x->first) * x->tokens, kv = x->kv_stride ? x->kv_stride : x->stride;
    struct cache_qkv part = *x;

    skip(&part.q, rows, x->stride);
    skip(&part.k, rows, kv);
    skip(&part.v, rows, kv);
    skip(&part.latent, rows, x->latent_stride);
    skip(&part.shared, rows, x->latent_stride);
    skip(&part.q_latent, rows, x->out_stride);
    skip(&part.out, rows, x->out_stride);
    if (x->low) {
        *low = *x->low;
        skip(&low->k, rows, low->stride);
        skip(&low->v, rows, low->stride);
        part.low = low;
    }
    part.first = 0;
    part.batch = l->env.batch;
    return part;
}

static kvp_err lots_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    struct lot *l = &c->lot[x->first / c->env->lot];
    struct cache_low low;
    const struct cache_qkv part = part_of(x, l, &low);

    if (x->first != l->first || x->batch != l->env.batch)
        return kvp_fail(e, KVP_EINPUT, "a pass of sequences %" PRIu64 " to %" PRIu64 ", which are no lot", x->first, x->first + x->batch);
    l->env.inv_freq = c->env->inv_freq;
    return c->ops->prefill(l->cache, layer, &part, e);
}

/* All of the batch, or the one lot whose prefill goes on with its last tokens alone (yoco). */
static kvp_err lots_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    for (uint64_t i = x->first / c->env->lot; i < c->n && c->lot[i].first < x->first + x->batch; i++) {
        struct cache_low low;
        const struct cache_qkv part = part_of(x, &c->lot[i], &low);

        c->lot[i].env.inv_freq = c->env->inv_freq;
        KVP_TRY(c->ops->decode(c->lot[i].cache, layer, &part, e));
    }
    return KVP_OK;
}

static kvp_err lots_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    return c->ops->poison(c->lot[0].cache, pos, stored, e);
}

struct cache_ops lots_of(const struct cache_ops *inner)
{
    struct cache_ops ops = *inner;

    ops.open = lots_open;
    ops.close = lots_close;
    ops.reset = lots_reset;
    ops.prefill = lots_prefill;
    ops.decode = lots_decode;
    ops.poison = inner->poison ? lots_poison : NULL;
    ops.extend = NULL;
    ops.dump_kept = ops.dump_cache = NULL;
    return ops;
}
