/* quest.c - every token is kept, a query reads the pages that may matter to it (Tang et al. 2024, arXiv:2406.10774,
 * section 3; mit-han-lab/Quest evaluation/quest_attention.py)
 *
 * Rows as in the dense cache, and for each page of `page` tokens the smallest and the largest value of each key
 * channel, in the rows' format (METADATA), in strips of their own whatever the store. A step widens the newest page's
 * bounds; then max(3, budget / page) pages are read, the newest among them. The first `dense` layers keep bounds
 * and read everything, as does a layer with no more pages than that. A layer whose own window is shorter than the run
 * keeps that window, and no bounds. */
#include "validate/caches/caches.h"
#include "validate/caches/look.h"
#include "validate/caches/picked.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <stdlib.h>

enum { LEAST_PAGES = 3 };

struct bounds {
    struct led_mem mem[2]; /* min, max */
    uint64_t pages;        /* room of a head */
};

struct cache {
    const struct cache_env *env;
    uint64_t page, chosen, dense;
    struct store_plan plan;
    bool *acts; /* [layers]; the others have a window of their own */
    struct store *store;
    struct bounds *bounds; /* [layers] */
    struct look look;
    struct led_mem list; /* transient, for the widest layer */
};

/* ---- storage ------------------------------------------------------------------------------------------ */

static uint64_t pages_of(const struct cache *c, uint64_t tokens)
{
    return size_div_up(tokens, c->page);
}

static kvp_err alloc_bounds(struct cache *c, uint32_t layer, uint64_t pages, struct led_mem *out, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    uint64_t bytes;

    KVP_TRY(SIZE_PRODUCT(&bytes, "quest: page bounds", e, c->env->batch, cls->kv_heads, pages, cls->head_dim,
                         size_of_format(c->env->format)));
    return led_alloc(c->env->led, LED_METADATA, bytes, out, e);
}

/* A longer tensor, the old bounds of each head in it, the old tensor gone. */
static kvp_err grow(struct cache *c, uint32_t layer, struct led_mem *mem, uint64_t old, uint64_t pages, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint64_t one = cls->head_dim * size_of_format(c->env->format);
    struct led_mem longer = {0};
    kvp_err rc;

    KVP_TRY(alloc_bounds(c, layer, pages, &longer, e));
    rc = old ? copy_runs(c->env, KVP_OP_GROW, (struct kb_span){longer.buf, 0}, pages * one, (struct kb_span){mem->buf, 0},
                         old * one, old * one, c->env->batch * cls->kv_heads, e)
             : KVP_OK;
    if (rc != KVP_OK) {
        led_free(c->env->led, &longer);
        return rc;
    }
    led_free(c->env->led, mem);
    *mem = longer;
    return KVP_OK;
}

static kvp_err reserve(struct cache *c, uint32_t layer, uint64_t tokens, struct kvp_error *e)
{
    struct bounds *b = &c->bounds[layer];
    const uint64_t pages = pages_of(c, tokens), old = b->pages;

    KVP_TRY(store_reserve(c->store, layer, tokens, e));
    if (!c->plan.grows || pages <= old)
        return KVP_OK;
    KVP_TRY(grow(c, layer, &b->mem[0], old, pages, e));
    KVP_TRY(grow(c, layer, &b->mem[1], old, pages, e));
    b->pages = pages;
    return KVP_OK;
}

static kvp_err open_bounds(struct cache *c, struct kvp_error *e)
{
    for (uint32_t i = 0; !c->plan.grows && i < c->env->model->layers; i++) {
        if (!c->acts[i])
            continue;
        c->bounds[i].pages = pages_of(c, c->plan.tokens);
        KVP_TRY(alloc_bounds(c, i, c->bounds[i].pages, &c->bounds[i].mem[0], e));
        KVP_TRY(alloc_bounds(c, i, c->bounds[i].pages, &c->bounds[i].mem[1], e));
    }
    return KVP_OK;
}

/* Does a query of the layer read less than everything once `tokens` are there? */
static bool chooses(const struct cache *c, uint32_t layer, uint64_t tokens)
{
    return c->acts[layer] && layer >= c->dense && pages_of(c, tokens) > c->chosen;
}

static kvp_err open_list(struct cache *c, struct kvp_error *e)
{
    uint64_t heads = 0, bytes;

    for (uint32_t i = 0; i < c->env->model->layers; i++)
        if (chooses(c, i, c->env->context) && cache_class(c->env, i)->kv_heads > heads)
            heads = cache_class(c->env, i)->kv_heads;
    KVP_TRY(SIZE_PRODUCT(&bytes, "quest: workspace", e, c->env->batch, heads, heads ? c->chosen : 0, sizeof(int32_t)));
    return led_alloc(c->env->led, LED_WORKSPACE, bytes, &c->list, e);
}

static kvp_err read_spec(struct cache *c, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *page = kvp_spec_param(spec, "page"), *budget = kvp_spec_param(spec, "budget"), *dense = kvp_spec_param(spec, "dense");

    if (!page || !budget || !dense || page->i < 1 || budget->i < 1 || dense->i < 0)
        return kvp_fail(e, KVP_EINPUT, "quest: expected page and budget of at least 1 and dense of at least 0");
    c->page = (uint64_t)page->i;
    c->chosen = (uint64_t)budget->i / c->page;
    c->chosen = c->chosen < LEAST_PAGES ? LEAST_PAGES : c->chosen;
    c->dense = (uint64_t)dense->i;
    return KVP_OK;
}

static kvp_err open_store(struct cache *c, const struct kvp_spec *spec, uint64_t *room, struct kvp_error *e)
{
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        room[i] = c->acts[i] ? UINT64_MAX : cache_class(c->env, i)->window;
    KVP_TRY(store_open(&c->store, c->env, room, NULL, e));
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        room[i] = size_min(room[i], c->env->context);
    KVP_TRY(look_open(&c->look, c->env, c->store, spec->name, true, room, e));
    KVP_TRY(open_bounds(c, e));
    return open_list(c, e);
}

static kvp_err build(struct cache *c, const struct kvp_spec *spec, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    uint64_t *room = calloc(layers, sizeof(*room));
    kvp_err rc = KVP_OK;

    c->acts = calloc(layers, sizeof(*c->acts));
    c->bounds = calloc(layers, sizeof(*c->bounds));
    if (!room || !c->acts || !c->bounds)
        rc = kvp_fail(e, KVP_ENOMEM, "quest: out of memory for %u layers", layers);
    if (rc == KVP_OK)
        rc = read_spec(c, spec, e);
    if (rc == KVP_OK)
        rc = picked_acts(c->acts, c->env, spec->name, e);
    if (rc == KVP_OK)
        rc = store_plan(&c->plan, c->env, e);
    if (rc == KVP_OK)
        rc = open_store(c, spec, room, e);
    free(room);
    return rc;
}

static void free_bounds(struct cache *c)
{
    for (uint32_t i = 0; c->bounds && i < c->env->model->layers; i++) {
        led_free(c->env->led, &c->bounds[i].mem[0]);
        led_free(c->env->led, &c->bounds[i].mem[1]);
        c->bounds[i].pages = 0;
    }
}

static void quest_close(struct cache *c)
{
    if (!c)
        return;
    free_bounds(c);
    look_close(&c->look);
    store_close(c->store);
    led_free(c->env->led, &c->list);
    free(c->acts);
    free(c->bounds);
    free(c);
}

static kvp_err quest_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "quest: out of memory for a cache");
    c->env = env;
    rc = build(c, kvp_stack_on(env->stack, KVP_AXIS_SELECT), e);
    if (rc != KVP_OK) {
        quest_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err quest_reset(struct cache *c, struct kvp_error *e)
{
    if (c->plan.grows)
        free_bounds(c);
    look_reset(&c->look);
    return store_reset(c->store, e);
}

/* ---- rows and bounds ------------------------------------------------------------------------------------ */

static kvp_err widen(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const struct bounds *b = &c->bounds[layer];
    const uint64_t skip = x->first * cls->kv_heads * b->pages * cls->head_dim * size_of_format(c->env->format);
    const struct kb_page_bounds a = {.batch = x->batch ? x->batch : c->env->batch, .count = x->tokens, .position = x->position,
                                     .kv_heads = cls->kv_heads, .head_dim = cls->head_dim, .page = c->page,
                                     .format = c->env->format, .k = x->k, .k_tokens = x->tokens, .k_stride = x->stride,
                                     .pages = b->pages, .min = {b->mem[0].buf, skip}, .max = {b->mem[1].buf, skip}};

    return c->env->run(c->env->self, KVP_OP_APPEND, KB_PAGE_BOUNDS, &a, e);
}

static kvp_err append(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t seen = x->position + x->tokens, ring = c->acts[layer] ? 0 : cache_class(c->env, layer)->window;
    const uint64_t used = ring ? size_min(seen, ring) : seen, n = size_min(used, x->tokens), slot = ring ? (seen - n) % ring : seen - n;
    struct kb_kv k, v;

    KVP_TRY(c->acts[layer] ? reserve(c, layer, used, e) : store_reserve(c->store, layer, used, e));
    store_view_from(c->store, layer, x->first, &k, &v);
    KVP_TRY(rows_write(c->env, &k, x, x->k, seen - n, n, slot, ring, e));
    KVP_TRY(rows_write(c->env, &v, x, x->v, seen - n, n, slot, ring, e));
    for (uint64_t t = seen - n; t < seen; t++)
        look_put(&c->look, layer, ring ? t % ring : t, t);
    c->look.used[layer] = used;
    return c->acts[layer] ? widen(c, layer, x, e) : KVP_OK;
}

static kvp_err quest_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    KVP_TRY(attend_prompt(c->env, layer, x, cache_class(c->env, layer)->window, e));
    return append(c, layer, x, e);
}

/* A piece of a prompt looks at all that is there, as a prompt does. */
static kvp_err quest_extend(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint64_t ring = c->acts[layer] ? 0 : cls->window;
    struct kb_attn_extend a = {.batch = x->batch, .tokens = x->tokens, .position = x->position, .heads = cls->heads,
                               .kv_heads = cls->kv_heads, .head_dim = cls->head_dim, .window = cls->window, .ring = ring,
                               .scale = cache_scale(c->env, layer), .stride = x->stride, .q = x->q, .k = x->k, .v = x->v,
                               .out_stride = x->out_stride, .out = x->out};

    if (c->env->hit)
        return kvp_fail(e, KVP_ENOTSUP, "quest: the engine does not share bounds of pages yet");
    store_view_from(c->store, layer, x->first, &a.stored_k, &a.stored_v);
    KVP_TRY(c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_EXTEND, &a, e));
    return append(c, layer, x, e);
}

/* ---- a step --------------------------------------------------------------------------------------------- */

static kvp_err attend_chosen(struct cache *c, uint32_t layer, const struct kb_attn_decode *d, struct kvp_error *e)
{
    const struct cache_env *env = c->env;
    const struct kb_page_select s = {.batch = d->batch, .used = d->used, .heads = d->heads, .kv_heads = d->kv_heads,
                                     .head_dim = d->head_dim, .page = c->page, .chosen = c->chosen, .q_stride = d->q_stride,
                                     .q = d->q, .format = env->format, .pages = c->bounds[layer].pages,
                                     .min = {c->bounds[layer].mem[0].buf, 0}, .max = {c->bounds[layer].mem[1].buf, 0},
                                     .list = {c->list.buf, 0}};
    const struct kb_attn_pages a = {.attn = *d, .page = c->page, .chosen = c->chosen, .list = s.list};

    KVP_TRY(env->run(env->self, KVP_OP_INDEX, KB_PAGE_SELECT, &s, e));
    return env->run(env->self, KVP_OP_ATTN, KB_ATTN_PAGES, &a, e);
}

static kvp_err quest_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_decode a = {.batch = c->env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads, .head_dim = cls->head_dim,
                               .scale = cache_scale(c->env, layer), .q_stride = x->stride, .q = x->q,
                               .out_stride = x->out_stride, .out = x->out};

    KVP_TRY(append(c, layer, x, e));
    a.used = c->look.used[layer];
    store_view(c->store, layer, &a.k, &a.v);
    if (chooses(c, layer, a.used))
        return attend_chosen(c, layer, &a, e);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e);
}

/* ---- looking in ------------------------------------------------------------------------------------------ */

static kvp_err quest_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_kept(&c->look, f, e);
}

static kvp_err quest_dump_cache(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_cache(&c->look, f, e);
}

static kvp_err quest_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    return look_poison(&c->look, pos, stored, e);
}

const struct cache_ops cache_quest = {.name = "quest", .axis = KVP_AXIS_SELECT, .params = "page budget dense", .encodes = true, .open = quest_open,
                                      .close = quest_close, .reset = quest_reset, .prefill = quest_prefill,
                                      .extend = quest_extend,
                                      .decode = quest_decode, .dump_kept = quest_dump_kept, .dump_cache = quest_dump_cache,
                                      .poison = quest_poison};
