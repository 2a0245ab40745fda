/* duo.c - retrieval heads keep every token, streaming heads the first and the newest (Xiao et al. 2024,
 * arXiv:2410.10819, section 2; mit-han-lab/duo-attention duo_attn/patch/static_kv_cache.py)
 *
 * Of the n kv heads of all layers n - ceil((1 - ratio) * (n - 1)) are full, as the public code's quantile gives
 * (duo_attn/utils.py, sparsify_attention_heads), all with ratio 1, none with 0. Which they are is learned; here they are
 * spread evenly over the layers, and come first in each, as the public code reorders them. Two stores: one of the
 * full heads, one of the streaming ones with sink + recent slots from the start (a ring behind the sinks). Streaming
 * heads see no more than that in the prompt either. A layer whose own window is shorter than the run keeps that
 * window, in all of its heads. */
#include "validate/caches/caches.h"
#include "validate/caches/dump.h"
#include "validate/caches/look.h"
#include "validate/caches/picked.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <math.h>
#include <stdlib.h>

/* One kind of heads. */
struct side {
    uint32_t *heads; /* [layers] */
    uint64_t *slots; /* [layers] most */
    struct store *store;
    struct look look;
};

struct cache {
    const struct cache_env *env;
    uint64_t sink, recent;
    bool *acts; /* [layers]; the others have a window of their own, and full heads only */
    struct side full, streaming;
};

/* ---- which heads ---------------------------------------------------------------------------------------- */

static uint64_t count_full(double ratio, uint64_t n)
{
    if (ratio >= 1)
        return n;
    return ratio > 0 && n ? n - (uint64_t)ceil((1 - ratio) * (double)(n - 1)) : 0;
}

static void share_out(struct cache *c, double ratio)
{
    const uint32_t layers = c->env->model->layers;
    uint64_t n = 0, full, passed = 0;

    for (uint32_t i = 0; i < layers; i++)
        n += c->acts[i] ? cache_class(c->env, i)->kv_heads : 0;
    full = count_full(ratio, n);
    for (uint32_t i = 0; i < layers; i++) {
        const uint32_t kv_heads = cache_class(c->env, i)->kv_heads;

        c->full.heads[i] = kv_heads;
        if (!c->acts[i])
            continue;
        c->full.heads[i] = (uint32_t)((passed + kv_heads) * full / n - passed * full / n);
        c->streaming.heads[i] = kv_heads - c->full.heads[i];
        passed += kv_heads;
    }
}

static kvp_err read_spec(struct cache *c, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *sink = kvp_spec_param(spec, "sink"), *recent = kvp_spec_param(spec, "recent"), *ratio = kvp_spec_param(spec, "ratio");
    uint64_t slots;

    if (!sink || !recent || !ratio || sink->i < 0 || recent->i < 1)
        return kvp_fail(e, KVP_EINPUT, "duo: expected sink of at least 0 and recent of at least 1");
    c->sink = (uint64_t)sink->i;
    c->recent = (uint64_t)recent->i;
    if (__builtin_add_overflow(c->sink, c->recent, &slots))
        return kvp_fail(e, KVP_ERANGE, "duo: sink + recent does not fit in 64 bits");
    KVP_TRY(picked_acts(c->acts, c->env, spec->name, e));
    share_out(c, ratio->r);
    for (uint32_t i = 0; i < c->env->model->layers; i++) {
        c->full.slots[i] = c->acts[i] ? UINT64_MAX : cache_class(c->env, i)->window;
        c->streaming.slots[i] = slots;
    }
    return KVP_OK;
}

/* ---- storage --------------------------------------------------------------------------------------------- */

static kvp_err open_side(struct cache *c, struct side *s, bool fixed, const struct store *beside, struct kvp_error *e)
{
    KVP_TRY(store_open_as(&s->store, c->env, &(struct store_shape){.cap = s->slots, .heads = s->heads, .fixed = fixed, .beside = beside}, e));
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        s->slots[i] = size_min(s->slots[i], c->env->context);
    return look_open(&s->look, c->env, s->store, "duo", true, s->slots, e);
}

static kvp_err build(struct cache *c, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    bool there;

    c->acts = calloc(layers, sizeof(*c->acts));
    there = c->acts != NULL;
    for (int i = 0; i < 2; i++) {
        struct side *s = i ? &c->streaming : &c->full;

        s->heads = calloc(layers, sizeof(*s->heads));
        s->slots = calloc(layers, sizeof(*s->slots));
        there = there && s->heads && s->slots;
    }
    if (!there)
        return kvp_fail(e, KVP_ENOMEM, "duo: out of memory for %u layers", layers);
    KVP_TRY(read_spec(c, kvp_stack_on(c->env->stack, KVP_AXIS_SELECT), e));
    KVP_TRY(open_side(c, &c->full, false, NULL, e));
    return open_side(c, &c->streaming, true, c->full.store, e);
}

static void close_side(struct side *s)
{
    look_close(&s->look);
    store_close(s->store);
    free(s->heads);
    free(s->slots);
}

static void duo_close(struct cache *c)
{
    if (!c)
        return;
    close_side(&c->streaming); /* whose tables may be the other's */
    close_side(&c->full);
    free(c->acts);
    free(c);
}

static kvp_err duo_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "duo: out of memory for a cache");
    c->env = env;
    rc = build(c, e);
    if (rc != KVP_OK) {
        duo_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err duo_reset(struct cache *c, struct kvp_error *e)
{
    look_reset(&c->full.look);
    look_reset(&c->streaming.look);
    KVP_TRY(store_reset(c->full.store, e));
    return store_reset(c->streaming.store, e);
}

/* ---- the heads of one side ------------------------------------------------------------------------------- */

static struct kb_span from_head(struct kb_span s, uint64_t head, uint32_t dim)
{
    return (struct kb_span){s.buf, s.offset + head * dim * sizeof(float)};
}

/* x with the q, k, v and output of one side's heads only. */
static struct cache_qkv part_of(const struct cache *c, uint32_t layer, const struct cache_qkv *x, const struct side *s)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint64_t first = s == &c->streaming ? c->full.heads[layer] : 0, group = cls->heads / cls->kv_heads;
    struct cache_qkv y = *x;

    y.q = from_head(x->q, first * group, cls->head_dim);
    y.k = from_head(x->k, first, cls->head_dim);
    y.v = from_head(x->v, first, cls->head_dim);
    y.out = from_head(x->out, first * group, cls->head_dim);
    return y;
}

/* Slots below `fixed` are their own tokens'; behind them lies a ring of `ring` slots. */
struct places {
    uint64_t fixed, ring;
};

static struct places places_of(const struct cache *c, uint32_t layer, const struct side *s)
{
    if (s == &c->streaming)
        return (struct places){c->sink, c->recent};
    return (struct places){c->acts[layer] ? UINT64_MAX : 0, cache_class(c->env, layer)->window};
}

static uint64_t used_at(struct places p, uint64_t seen)
{
    return p.fixed >= seen || p.ring >= seen - p.fixed ? seen : p.fixed + p.ring;
}

/* Rows of tokens [first, first + count). */
static kvp_err keep(struct cache *c, uint32_t layer, const struct side *s, const struct cache_qkv *y, uint64_t first, uint64_t count,
                    struct kvp_error *e)
{
    const struct places p = places_of(c, layer, s);
    struct kb_kv k, v;

    store_view(s->store, layer, &k, &v);
    for (uint64_t n; count; first += n, count -= n) {
        const uint64_t at = first < p.fixed ? 0 : (first - p.fixed) % p.ring, slot = first < p.fixed ? first : p.fixed + at;

        n = size_min(count, first < p.fixed ? p.fixed - first : p.ring - at);
        KVP_TRY(rows_write(c->env, &k, y, y->k, first, n, slot, 0, e));
        KVP_TRY(rows_write(c->env, &v, y, y->v, first, n, slot, 0, e));
        for (uint64_t i = 0; i < n; i++)
            look_put(&s->look, layer, slot + i, first + i);
    }
    return KVP_OK;
}

static kvp_err append_side(struct cache *c, uint32_t layer, struct side *s, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct places p = places_of(c, layer, s);
    const struct cache_qkv y = part_of(c, layer, x, s);
    const uint64_t seen = x->position + x->tokens, used = used_at(p, seen), newest = used == seen ? 0 : seen - p.ring;

    if (s->heads[layer] == 0)
        return KVP_OK;
    s->look.used[layer] = used;
    if (newest <= x->position)
        return keep(c, layer, s, &y, x->position, x->tokens, e);
    if (x->position < p.fixed)
        KVP_TRY(keep(c, layer, s, &y, x->position, size_min(p.fixed, newest) - x->position, e));
    return keep(c, layer, s, &y, newest, seen - newest, e);
}

static kvp_err append(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t seen = x->position + x->tokens;
    const uint64_t full = used_at(places_of(c, layer, &c->full), seen), streaming = used_at(places_of(c, layer, &c->streaming), seen);

    KVP_TRY(store_reserve_both(c->full.store, c->full.heads[layer] ? full : 0, c->streaming.store,
                               c->streaming.heads[layer] ? streaming : 0, layer, e));
    KVP_TRY(append_side(c, layer, &c->full, x, e));
    return append_side(c, layer, &c->streaming, x, e);
}

/* ---- attention --------------------------------------------------------------------------------------------- */

static kvp_err prompt_side(struct cache *c, uint32_t layer, const struct side *s, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const struct cache_qkv y = part_of(c, layer, x, s);
    struct kb_attn_sinks a = {.attn = {.batch = c->env->batch, .tokens = y.tokens, .heads = s->heads[layer] * (cls->heads / cls->kv_heads),
                                       .kv_heads = s->heads[layer], .head_dim = cls->head_dim, .window = cls->window,
                                       .scale = cache_scale(c->env, layer), .stride = y.stride, .q = y.q, .k = y.k, .v = y.v,
                                       .out_stride = y.out_stride, .out = y.out},
                              .sinks = c->sink};

    if (s->heads[layer] == 0)
        return KVP_OK;
    if (s == &c->full)
        return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_PREFILL, &a.attn, e);
    a.attn.window = c->recent;
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_SINKS, &a, e);
}

static kvp_err step_side(struct cache *c, uint32_t layer, const struct side *s, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const struct cache_qkv y = part_of(c, layer, x, s);
    struct kb_attn_decode a = {.batch = c->env->batch, .heads = s->heads[layer] * (cls->heads / cls->kv_heads),
                               .kv_heads = s->heads[layer], .head_dim = cls->head_dim, .scale = cache_scale(c->env, layer),
                               .used = s->look.used[layer], .q_stride = y.stride, .q = y.q, .out_stride = y.out_stride, .out = y.out};

    if (s->heads[layer] == 0)
        return KVP_OK;
    store_view(s->store, layer, &a.k, &a.v);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e);
}

static kvp_err duo_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    KVP_TRY(prompt_side(c, layer, &c->full, x, e));
    KVP_TRY(prompt_side(c, layer, &c->streaming, x, e));
    return append(c, layer, x, e);
}

static kvp_err duo_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    KVP_TRY(append(c, layer, x, e));
    KVP_TRY(step_side(c, layer, &c->full, x, e));
    return step_side(c, layer, &c->streaming, x, e);
}

/* ---- looking in ------------------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* A line for each head: the full ones come first. */
static kvp_err dump_side(const struct side *s, uint32_t layer, uint32_t first, FILE *f, struct kvp_error *e)
{
    const uint64_t n = s->look.used[layer];
    uint64_t *pos = calloc(n + 1, sizeof(*pos));

    if (!pos)
        return kvp_fail(e, KVP_ENOMEM, "duo: out of memory for %llu positions", (unsigned long long)n);
    for (uint64_t i = 0; s->heads[layer] && i < n; i++)
        pos[i] = (uint64_t)look_at(&s->look, layer, 0, 0)[i];
    qsort(pos, n, sizeof(*pos), by_value);
    for (uint32_t h = 0; h < s->heads[layer]; h++)
        dump_positions(f, layer, first + h, -1, pos, n);
    free(pos);
    return KVP_OK;
}

static kvp_err duo_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    if (!c->env->trace)
        return kvp_fail(e, KVP_ENOTSUP, "duo: positions are known only when the run is traced");
    for (uint32_t i = 0; i < c->env->model->layers; i++) {
        KVP_TRY(dump_side(&c->full, i, 0, f, e));
        KVP_TRY(dump_side(&c->streaming, i, c->full.heads[i], f, e));
    }
    return dump_done(f, e);
}

/* kv head 0 is full where the layer has a full head. */
static kvp_err duo_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    struct side *first = c->full.heads[0] ? &c->full : &c->streaming, *other = c->full.heads[0] ? &c->streaming : &c->full;
    bool ignored;

    KVP_TRY(look_poison(&first->look, pos, stored, e));
    return *stored ? KVP_OK : look_poison(&other->look, UINT64_MAX, &ignored, e);
}

const struct cache_ops cache_duo = {.name = "duo", .axis = KVP_AXIS_SELECT, .params = "ratio sink recent", .open = duo_open,
                                    .close = duo_close, .reset = duo_reset, .prefill = duo_prefill, .decode = duo_decode,
                                    .dump_kept = duo_dump_kept, .poison = duo_poison};
