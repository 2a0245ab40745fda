/* streaming-llm.c - attention sinks: the first tokens and the newest (Xiao et al. 2023, arXiv:2309.17453)
 *
 * variant=official (mit-han-lab/streaming-llm streaming_llm/kv_cache.py, pos_shift/modify_llama.py): at most
 * sink + recent slots, the newest token's among them, a ring behind the sinks. Keys are stored before their
 * rotation; a step turns each by its place in the cache and the query by the last one, so that no position is
 * beyond sink + recent however long the text is. A layer whose own window is shorter than the run keeps that
 * window, turned as ever.
 * variant=factory and variant=kvpress choose once and leave the rotation that keys have (Zefan-Cai/KVCache-Factory
 * pyramidkv/pyramidkv_utils.py, StreamingLLMKVCluster; NVIDIA/kvpress presses/streaming_llm_press.py). */
#include "validate/caches/caches.h"
#include "validate/caches/look.h"
#include "validate/caches/picked.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <stdlib.h>

#define PARAMS "sink recent variant ratio"

static bool is_variant(const struct kvp_spec *spec, const char *word)
{
    const struct kvp_param *p = kvp_spec_param(spec, "variant");

    return p && p->word && strcmp(p->word, word) == 0;
}

static bool is_official(const struct kvp_spec *spec)
{
    return is_variant(spec, "official");
}

static bool is_one_choice(const struct kvp_spec *spec)
{
    return !is_official(spec);
}

static kvp_err read_numbers(uint64_t *sink, uint64_t *recent, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *s = kvp_spec_param(spec, "sink"), *r = kvp_spec_param(spec, "recent");
    const struct kvp_param *ratio = kvp_spec_param(spec, "ratio");
    uint64_t slots;

    if (!s || !r || s->i < 0 || r->i < 1)
        return kvp_fail(e, KVP_EINPUT, "%s: expected sink of at least 0 and recent of at least 1", spec->name);
    *sink = (uint64_t)s->i;
    *recent = (uint64_t)r->i;
    if (__builtin_add_overflow(*sink, *recent, &slots))
        return kvp_fail(e, KVP_ERANGE, "%s: sink + recent does not fit in 64 bits", spec->name);
    if (ratio && ratio->given != is_variant(spec, "kvpress"))
        return kvp_fail(e, KVP_EINPUT, "%s: ratio belongs to variant=kvpress, and only to it", spec->name);
    return KVP_OK;
}

/* ---- one choice: factory, kvpress ---------------------------------------------------------------- */

static kvp_err read_choice(struct picked_rule *r, const struct cache_env *env, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *ratio = kvp_spec_param(spec, "ratio");
    uint64_t recent, kept;

    KVP_TRY(read_numbers(&r->sink, &recent, spec, e));
    kept = size_min(env->prompt, r->sink + recent);
    if (is_variant(spec, "kvpress")) {
        if (env->prompt <= r->sink)
            return kvp_fail(e, KVP_EINPUT, "%s: a prompt of %llu tokens is not longer than its %llu sinks", spec->name,
                            (unsigned long long)env->prompt, (unsigned long long)r->sink);
        kept = (uint64_t)((double)env->prompt * (1 - ratio->r));
        if (kept == 0)
            return kvp_fail(e, KVP_EINPUT, "%s: ratio leaves none of the prompt's %llu tokens", spec->name,
                            (unsigned long long)env->prompt);
    }
    for (uint32_t i = 0; i < env->model->layers; i++)
        r->kept[i] = kept;
    return KVP_OK;
}

static kvp_err once_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    return picked_open(out, env, read_choice, e);
}

const struct cache_ops cache_streaming_llm_once = {.name = "streaming-llm", .axis = KVP_AXIS_SELECT, .params = PARAMS,
                                                   .takes = is_one_choice, .encodes = true, .open = once_open, PICKED_OPS};

/* ---- official --------------------------------------------------------------------------------------- */

struct cache {
    const struct cache_env *env;
    uint64_t sink, recent;
    bool *acts;      /* [layers]; the others have a window of their own */
    uint64_t *slots; /* [layers] */
    struct store *store;
    struct look look;
};

static kvp_err build(struct cache *c, const struct kvp_spec *spec, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;

    if (c->env->model->position != KVP_POS_ROPE)
        return kvp_fail(e, KVP_ENOTSUP, "%s: positions become slot numbers, which only rotated keys allow, and %s has none",
                        spec->name, c->env->model->name);
    KVP_TRY(read_numbers(&c->sink, &c->recent, spec, e));
    c->acts = calloc(layers, sizeof(*c->acts));
    c->slots = calloc(layers, sizeof(*c->slots));
    if (!c->acts || !c->slots)
        return kvp_fail(e, KVP_ENOMEM, "%s: out of memory for %u layers", spec->name, layers);
    KVP_TRY(picked_acts(c->acts, c->env, spec->name, e));
    for (uint32_t i = 0; i < layers; i++)
        c->slots[i] = c->acts[i] ? c->sink + c->recent : cache_class(c->env, i)->window;
    KVP_TRY(store_open(&c->store, c->env, c->slots, NULL, e));
    for (uint32_t i = 0; i < layers; i++)
        c->slots[i] = size_min(c->slots[i], c->env->context);
    return look_open(&c->look, c->env, c->store, spec->name, true, c->slots, e);
}

static void official_close(struct cache *c)
{
    if (!c)
        return;
    look_close(&c->look);
    store_close(c->store);
    free(c->acts);
    free(c->slots);
    free(c);
}

static kvp_err official_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a cache");
    c->env = env;
    rc = build(c, kvp_stack_on(env->stack, KVP_AXIS_SELECT), e);
    if (rc != KVP_OK) {
        official_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err official_reset(struct cache *c, struct kvp_error *e)
{
    look_reset(&c->look);
    return store_reset(c->store, e);
}

/* Sinks of a layer, and the slots of the ring behind them. */
static uint64_t fixed(const struct cache *c, uint32_t layer)
{
    return c->acts[layer] ? c->sink : 0;
}

static uint64_t ring(const struct cache *c, uint32_t layer)
{
    return c->acts[layer] ? c->recent : cache_class(c->env, layer)->window;
}

static uint64_t slot_of(const struct cache *c, uint32_t layer, uint64_t position)
{
    const uint64_t first = fixed(c, layer);

    return position < first ? position : first + (position - first) % ring(c, layer);
}

/* Rows of [first, first + count), which wrap in the ring at most once. */
static kvp_err keep(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t first, uint64_t count, struct kvp_error *e)
{
    struct kb_kv k, v;

    store_view(c->store, layer, &k, &v);
    for (uint64_t n; count; first += n, count -= n) {
        const uint64_t slot = slot_of(c, layer, first), end = first < fixed(c, layer) ? fixed(c, layer) : fixed(c, layer) + ring(c, layer);

        n = size_min(count, end - slot);
        KVP_TRY(rows_write(c->env, &k, x, x->k, first, n, slot, 0, e));
        KVP_TRY(rows_write(c->env, &v, x, x->v, first, n, slot, 0, e));
        for (uint64_t i = 0; i < n; i++)
            look_put(&c->look, layer, slot + i, first + i);
    }
    return KVP_OK;
}

/* What stays of x's tokens: the sinks among them, and the newest. */
static kvp_err append(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t seen = x->position + x->tokens, sinks = fixed(c, layer), used = size_min(seen, sinks + ring(c, layer));
    const uint64_t newest = seen - size_min(seen, ring(c, layer)), from = newest > sinks ? newest : sinks;

    KVP_TRY(store_reserve(c->store, layer, used, e));
    c->look.used[layer] = used;
    if (x->position < sinks)
        KVP_TRY(keep(c, layer, x, x->position, size_min(x->tokens, sinks - x->position), e));
    if (from < seen)
        KVP_TRY(keep(c, layer, x, from > x->position ? from : x->position, size_min(seen - from, x->tokens), e));
    return KVP_OK;
}

static kvp_err official_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    if (c->acts[layer])
        KVP_TRY(append(c, layer, x, e));
    KVP_TRY(c->env->rope(c->env->self, layer, x, e));
    KVP_TRY(attend_prompt(c->env, layer, x, cache_class(c->env, layer)->window, e));
    return c->acts[layer] ? KVP_OK : append(c, layer, x, e);
}

/* The newest token lies in the last place; the oldest of a full ring is the one after it. */
static kvp_err attend(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint64_t used = c->look.used[layer], seen = x->position + 1;
    struct kb_attn_slots a = {.attn = {.batch = c->env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads,
                                       .head_dim = cls->head_dim, .scale = cache_scale(c->env, layer), .used = used,
                                       .q_stride = x->stride, .q = x->q, .out_stride = x->out_stride, .out = x->out},
                              .first = c->sink, .query = used - 1, .inv_freq = c->env->inv_freq};

    store_view(c->store, layer, &a.attn.k, &a.attn.v);
    if (!c->acts[layer])
        return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a.attn, e);
    if (seen > c->sink + c->recent) {
        a.ring = c->recent;
        a.turned = (seen - c->sink) % c->recent;
    }
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_SLOTS, &a, e);
}

static kvp_err official_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    if (!c->acts[layer])
        KVP_TRY(c->env->rope(c->env->self, layer, x, e));
    KVP_TRY(append(c, layer, x, e));
    return attend(c, layer, x, e);
}

static kvp_err official_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_kept(&c->look, f, e);
}

static kvp_err official_dump_cache(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_cache(&c->look, f, e);
}

static kvp_err official_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    return look_poison(&c->look, pos, stored, e);
}

const struct cache_ops cache_streaming_llm = {.name = "streaming-llm", .axis = KVP_AXIS_SELECT, .params = PARAMS,
                                              .takes = is_official, .raw = true, .encodes = true, .open = official_open,
                                              .close = official_close, .reset = official_reset,
                                              .prefill = official_prefill, .decode = official_decode,
                                              .dump_kept = official_dump_kept, .dump_cache = official_dump_cache,
                                              .poison = official_poison};
