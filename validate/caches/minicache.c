/* minicache.c - two deep layers share the directions of their keys and values (Liu et al. 2024, arXiv:2405.14366,
 * sections 3 and 4; Zefan-Cai/KVCache-Factory pyramidkv/minicache.py, interpolation 0.6)
 *
 * From layer `start` on (half of the layers) each layer pairs up with the next unpaired one like it: heads, sizes,
 * window. Of a pair the lower layer's slots hold directions, for k and for v; beside them lie the lengths of either
 * layer (METADATA), the rows of both layers of the ceil(gamma * tokens) tokens that are most unlike, and the lists of
 * their slots (METADATA; `indices` of them: v uses k's when there is one). Lengths, kept rows and lists are strips, also
 * where directions are paged. All other layers are dense, or rings of their windows.
 *
 * A prompt's rows of the lower layer wait in f32 until the upper layer's are there. In a step either layer attends to
 * what is merged and to its own new row, which is merged as soon as the upper layer has it. What is merged can't be had
 * back, so the token that makes the share of kept ones grow is the new one itself; in a full ring a new token is kept
 * when it takes the slot of one that was. */
#include "validate/caches/caches.h"
#include "validate/caches/look.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <math.h>
#include <stdlib.h>

static const float INTERPOLATION = 0.6f;

enum { KEY, VALUE, SIDES };

/* What a pair keeps beside its directions; owned by the lower layer. */
struct pair {
    struct led_mem size[2][SIDES], kept[2][SIDES], index[SIDES]; /* [lower, upper] */
    uint64_t slots, room; /* of lengths, of kept rows */
};

struct cache {
    const struct cache_env *env;
    uint64_t start, indices;
    double gamma;
    bool per_token;
    enum kvp_format index_format;
    uint64_t *window;   /* [layers]; 0: none */
    uint32_t *partner;  /* [layers] the other layer of a pair; itself: none */
    uint32_t *heads;    /* [layers] stored in slots */
    struct pair *pair;  /* [layers] */
    struct store *store;
    struct look look;
    struct led_mem waiting; /* f32 [batch, prompt, k and v of a token]: the lower layer's rows */
};

/* ---- which layers ----------------------------------------------------------------------------------------- */

static bool alike(const struct cache *c, uint32_t a, uint32_t b)
{
    const struct kvp_layer_class *x = cache_class(c->env, a), *y = cache_class(c->env, b);

    return x->kv_heads == y->kv_heads && x->head_dim == y->head_dim && x->window == y->window && c->window[a] == c->window[b];
}

static bool lower(const struct cache *c, uint32_t layer)
{
    return c->partner[layer] > layer;
}

static bool upper(const struct cache *c, uint32_t layer)
{
    return c->partner[layer] < layer;
}

static kvp_err pair_up(struct cache *c, const struct kvp_spec *spec, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    bool any = false;

    for (uint32_t i = 0; i < layers; i++) {
        c->partner[i] = i;
        c->heads[i] = cache_class(c->env, i)->kv_heads;
    }
    for (uint32_t l = (uint32_t)c->start; l < layers; l++) {
        uint32_t u = l + 1;

        if (c->partner[l] != l)
            continue;
        while (u < layers && (c->partner[u] != u || !alike(c, l, u)))
            u++;
        if (u == layers)
            continue;
        c->partner[l] = u;
        c->partner[u] = l;
        c->heads[u] = 0;
        any = true;
    }
    return any ? KVP_OK
               : kvp_fail(e, KVP_ENOTSUP, "%s: not applicable: no two layers from %llu on keep the same kind of cache", spec->name,
                          (unsigned long long)c->start);
}

static kvp_err read_spec(struct cache *c, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *start = kvp_spec_param(spec, "start"), *gamma = kvp_spec_param(spec, "gamma");
    const struct kvp_param *magnitude = kvp_spec_param(spec, "magnitude"), *indices = kvp_spec_param(spec, "indices");
    const struct kvp_param *dtype = kvp_spec_param(spec, "index_dtype");

    c->start = start && start->given ? (uint64_t)start->i : c->env->model->layers / 2;
    c->gamma = gamma ? gamma->r : 0;
    c->per_token = magnitude && magnitude->word && strcmp(magnitude->word, "token") == 0;
    c->indices = indices ? (uint64_t)indices->i : 0;
    c->index_format = dtype ? dtype->f : KVP_I32;
    if (c->start >= c->env->model->layers)
        return kvp_fail(e, KVP_EINPUT, "%s: start is %llu, expected less than the %u layers", spec->name, (unsigned long long)c->start,
                        c->env->model->layers);
    if (c->indices == 0 && c->gamma > 0)
        return kvp_fail(e, KVP_ENOTSUP, "%s: without indices nobody can tell which tokens were retained; the engine needs 1 or 2", spec->name);
    return KVP_OK;
}

/* ---- storage ------------------------------------------------------------------------------------------------ */

static uint64_t share_of(const struct cache *c, uint64_t slots)
{
    return (uint64_t)ceil(c->gamma * (double)slots);
}

static uint64_t held(const struct cache *c, uint32_t layer, uint64_t seen)
{
    return c->window[layer] ? size_min(seen, c->window[layer]) : seen;
}

static kvp_err alloc(struct cache *c, enum led_tag tag, struct led_mem *out, uint64_t heads, uint64_t rows, uint64_t bytes, struct kvp_error *e)
{
    uint64_t all;

    KVP_TRY(SIZE_PRODUCT(&all, "minicache", e, c->env->batch, heads, rows, bytes));
    return led_alloc(c->env->led, tag, all, out, e);
}

static kvp_err open_pair(struct cache *c, uint32_t layer, uint64_t tokens, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint64_t element = size_of_format(c->env->format), index = c->index_format == KVP_I64 ? sizeof(int64_t) : sizeof(int32_t);
    struct pair *p = &c->pair[layer];

    p->slots = held(c, layer, tokens);
    p->room = share_of(c, p->slots);
    for (int side = 0; side < SIDES; side++) {
        for (int up = 0; up < 2; up++) {
            KVP_TRY(alloc(c, LED_METADATA, &p->size[up][side], c->per_token ? 1 : cls->kv_heads, p->slots, element, e));
            KVP_TRY(alloc(c, LED_CACHE, &p->kept[up][side], cls->kv_heads, p->room, cls->head_dim * element, e));
        }
        if ((uint64_t)side < c->indices)
            KVP_TRY(alloc(c, LED_METADATA, &p->index[side], cls->kv_heads, p->room, index, e));
    }
    return KVP_OK;
}

static kvp_err open_waiting(struct cache *c, struct kvp_error *e)
{
    uint64_t width = 0;

    for (uint32_t i = 0; i < c->env->model->layers; i++)
        if (lower(c, i) && 2ull * cache_class(c->env, i)->kv_heads * cache_class(c->env, i)->head_dim > width)
            width = 2ull * cache_class(c->env, i)->kv_heads * cache_class(c->env, i)->head_dim;
    return alloc(c, LED_WORKSPACE, &c->waiting, 1, c->env->prompt, width * sizeof(float), e);
}

static kvp_err open_store(struct cache *c, uint64_t *room, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    struct store_plan plan;

    KVP_TRY(store_plan(&plan, c->env, e));
    if (plan.grows)
        return kvp_fail(e, KVP_ENOTSUP, "minicache: a growing store concatenates a layer's own rows, and directions belong to two layers");
    for (uint32_t i = 0; i < layers; i++)
        room[i] = c->window[i] ? c->window[i] : UINT64_MAX;
    KVP_TRY(store_open_as(&c->store, c->env, &(struct store_shape){.cap = room, .heads = c->heads}, e));
    for (uint32_t i = 0; i < layers; i++)
        if (lower(c, i))
            KVP_TRY(open_pair(c, i, plan.tokens, e));
    KVP_TRY(open_waiting(c, e));
    for (uint32_t i = 0; i < layers; i++)
        room[i] = size_min(room[i], c->env->context);
    return look_open(&c->look, c->env, c->store, "minicache", true, room, e);
}

static kvp_err build(struct cache *c, const struct kvp_spec *spec, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    uint64_t *room = calloc(layers, sizeof(*room));
    kvp_err rc;

    c->window = calloc(layers, sizeof(*c->window));
    c->partner = calloc(layers, sizeof(*c->partner));
    c->heads = calloc(layers, sizeof(*c->heads));
    c->pair = calloc(layers, sizeof(*c->pair));
    if (room && c->window && c->partner && c->heads && c->pair)
        rc = read_spec(c, spec, e);
    else
        rc = kvp_fail(e, KVP_ENOMEM, "minicache: out of memory for %u layers", layers);
    if (rc == KVP_OK)
        rc = window_of_layers(c->window, c->env, e);
    if (rc == KVP_OK)
        rc = pair_up(c, spec, e);
    if (rc == KVP_OK)
        rc = open_store(c, room, e);
    free(room);
    return rc;
}

static void mini_close(struct cache *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; c->pair && i < c->env->model->layers; i++)
        for (int side = 0; side < SIDES; side++) {
            for (int up = 0; up < 2; up++) {
                led_free(c->env->led, &c->pair[i].size[up][side]);
                led_free(c->env->led, &c->pair[i].kept[up][side]);
            }
            led_free(c->env->led, &c->pair[i].index[side]);
        }
    led_free(c->env->led, &c->waiting);
    look_close(&c->look);
    store_close(c->store);
    free(c->window);
    free(c->partner);
    free(c->heads);
    free(c->pair);
    free(c);
}

static kvp_err mini_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "minicache: out of memory for a cache");
    c->env = env;
    rc = build(c, kvp_stack_on(env->stack, KVP_AXIS_MERGE), e);
    if (rc != KVP_OK) {
        mini_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err mini_reset(struct cache *c, struct kvp_error *e)
{
    look_reset(&c->look);
    return store_reset(c->store, e);
}

/* ---- layers that are alone ------------------------------------------------------------------------------------ */

/* Slots of the newest tokens, for the trace. */
static void put_newest(const struct cache *c, uint32_t layer, const struct cache_qkv *x)
{
    const uint64_t seen = x->position + x->tokens, used = held(c, layer, seen);

    for (uint64_t t = seen - size_min(used, x->tokens); t < seen; t++)
        look_put(&c->look, layer, c->window[layer] ? t % c->window[layer] : t, t);
    c->look.used[layer] = used;
}

static kvp_err append(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t seen = x->position + x->tokens, ring = c->window[layer], n = size_min(held(c, layer, seen), x->tokens);
    const uint64_t slot = ring ? (seen - n) % ring : seen - n;
    struct kb_kv k, v;

    KVP_TRY(store_reserve(c->store, layer, held(c, layer, seen), e));
    store_view(c->store, layer, &k, &v);
    KVP_TRY(rows_write(c->env, &k, x, x->k, seen - n, n, slot, ring, e));
    KVP_TRY(rows_write(c->env, &v, x, x->v, seen - n, n, slot, ring, e));
    put_newest(c, layer, x);
    return KVP_OK;
}

static struct kb_attn_decode step_of(const struct cache *c, uint32_t layer, const struct cache_qkv *x)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);

    return (struct kb_attn_decode){.batch = c->env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads, .head_dim = cls->head_dim,
                                   .scale = cache_scale(c->env, layer), .q_stride = x->stride, .q = x->q,
                                   .out_stride = x->out_stride, .out = x->out};
}

static kvp_err step_alone(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    struct kb_attn_decode a = step_of(c, layer, x);

    KVP_TRY(append(c, layer, x, e));
    a.used = c->look.used[layer];
    store_view(c->store, layer, &a.k, &a.v);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e);
}

/* ---- pairs ---------------------------------------------------------------------------------------------------- */

/* The lower layer's rows of this pass, k then v in a row of twice the width. */
static kvp_err wait(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint64_t width = (uint64_t)cls->kv_heads * cls->head_dim * sizeof(float), rows = c->env->batch * x->tokens;

    KVP_TRY(copy_runs(c->env, KVP_OP_MERGE, (struct kb_span){c->waiting.buf, 0}, 2 * width, x->k, x->stride * sizeof(float), width, rows, e));
    return copy_runs(c->env, KVP_OP_MERGE, (struct kb_span){c->waiting.buf, width}, 2 * width, x->v, x->stride * sizeof(float), width, rows, e);
}

static struct kb_span all_of(const struct led_mem *m)
{
    return (struct kb_span){m->buf, 0};
}

static struct kb_kv kept_rows(const struct cache *c, uint32_t low, int up, int side)
{
    const struct kvp_layer_class *cls = cache_class(c->env, low);

    return (struct kb_kv){.data = all_of(&c->pair[low].kept[up][side]), .format = c->env->format, .heads = cls->kv_heads, .dim = cls->head_dim,
                          .slots = c->pair[low].room};
}

static const struct led_mem *list_of(const struct cache *c, uint32_t low, int side)
{
    return &c->pair[low].index[(uint64_t)side < c->indices ? side : KEY];
}

/* One side, k or v, of what waits and of x's newest n rows. */
static kvp_err merge_side(struct cache *c, uint32_t low, const struct cache_qkv *x, int side, uint64_t n, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, low);
    const uint64_t seen = x->position + x->tokens, width = (uint64_t)cls->kv_heads * cls->head_dim, ring = c->window[low];
    struct kb_kv k, v;
    struct kb_pair_merge m = {.batch = c->env->batch, .count = n, .kv_heads = cls->kv_heads, .head_dim = cls->head_dim,
                              .per_token = c->per_token, .t = INTERPOLATION,
                              .lower = {c->waiting.buf, side == KEY ? 0 : width * sizeof(float)}, .upper = side == KEY ? x->k : x->v,
                              .tokens = x->tokens, .first = x->tokens - n, .lower_stride = 2 * width, .upper_stride = x->stride,
                              .slot = ring ? (seen - n) % ring : seen - n, .ring = ring,
                              .lower_size = all_of(&c->pair[low].size[0][side]), .upper_size = all_of(&c->pair[low].size[1][side]),
                              .size_slots = c->pair[low].slots,
                              .was = x->position ? share_of(c, held(c, low, x->position)) : 0, .kept = share_of(c, held(c, low, seen)),
                              .lower_kept = kept_rows(c, low, 0, side), .upper_kept = kept_rows(c, low, 1, side),
                              .index = all_of(list_of(c, low, side)), .index_format = c->index_format,
                              .index_slots = c->pair[low].room, .given = (uint64_t)side >= c->indices};

    store_view(c->store, low, &k, &v);
    m.direction = side == KEY ? k : v;
    return c->env->run(c->env->self, KVP_OP_MERGE, KB_PAIR_MERGE, &m, e);
}

static kvp_err merge(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint32_t low = c->partner[layer];
    const uint64_t n = size_min(held(c, low, x->position + x->tokens), x->tokens);

    KVP_TRY(store_reserve(c->store, low, held(c, low, x->position + x->tokens), e));
    KVP_TRY(merge_side(c, low, x, KEY, n, e));
    KVP_TRY(merge_side(c, low, x, VALUE, n, e));
    put_newest(c, low, x);
    put_newest(c, layer, x);
    return KVP_OK;
}

/* What is merged and the layer's own new row; in a full ring the oldest token is out of the window by now. */
static kvp_err attend_pair(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const int up = upper(c, layer);
    const uint32_t low = up ? c->partner[layer] : layer;
    const uint64_t used = held(c, low, x->position), ring = c->window[low];
    struct kb_attn_merged a = {.attn = step_of(c, layer, x), .per_token = c->per_token, .k_size = all_of(&c->pair[low].size[up][KEY]),
                               .v_size = all_of(&c->pair[low].size[up][VALUE]), .size_slots = c->pair[low].slots,
                               .skip = ring && x->position >= ring ? x->position % ring : UINT64_MAX, .kept = share_of(c, used),
                               .k_kept = kept_rows(c, low, up, KEY), .v_kept = kept_rows(c, low, up, VALUE),
                               .k_index = all_of(list_of(c, low, KEY)), .v_index = all_of(list_of(c, low, VALUE)),
                               .index_format = c->index_format, .index_slots = c->pair[low].room};

    a.attn.used = used;
    a.attn.tail_k = x->k;
    a.attn.tail_v = x->v;
    a.attn.tail_stride = x->stride;
    store_view(c->store, low, &a.attn.k, &a.attn.v);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_MERGED, &a, e);
}

/* ---- a pass ------------------------------------------------------------------------------------------------------ */

static kvp_err store_rows(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    return lower(c, layer) ? wait(c, layer, x, e) : merge(c, layer, x, e);
}

static kvp_err mini_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    KVP_TRY(attend_prompt(c->env, layer, x, c->window[layer], e));
    return c->partner[layer] == layer ? append(c, layer, x, e) : store_rows(c, layer, x, e);
}

static kvp_err mini_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    if (c->partner[layer] == layer)
        return step_alone(c, layer, x, e);
    KVP_TRY(attend_pair(c, layer, x, e));
    return store_rows(c, layer, x, e);
}

/* ---- looking in --------------------------------------------------------------------------------------------------- */

static kvp_err mini_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_kept(&c->look, f, e);
}

/* Every byte of the strips of a pair that holds no token, when slots [0, used) are. */
static kvp_err poison_beyond(const struct cache *c, const struct led_mem *m, uint64_t runs, uint64_t slots, uint64_t used, struct kvp_error *e)
{
    const struct ledger *l = c->env->led;
    const uint64_t one = slots ? m->bytes / runs / slots : 0;

    for (uint64_t i = 0; one && used < slots && i < runs; i++)
        KVP_TRY(l->be->fill(l->dev, (struct kb_span){m->buf, (i * slots + used) * one}, 0xff, (slots - used) * one, e));
    return KVP_OK;
}

static kvp_err poison_strips(const struct cache *c, uint32_t layer, struct kvp_error *e)
{
    const struct pair *p = &c->pair[layer];
    const uint64_t used = c->look.used[layer], heads = c->env->batch * cache_class(c->env, layer)->kv_heads;

    for (int side = 0; lower(c, layer) && side < SIDES; side++)
        for (int up = 0; up < 2; up++) {
            KVP_TRY(poison_beyond(c, &p->size[up][side], c->per_token ? c->env->batch : heads, p->slots, used, e));
            KVP_TRY(poison_beyond(c, &p->kept[up][side], heads, p->room, share_of(c, used), e));
        }
    return KVP_OK;
}

/* The kept rows of slot `slot` in the first list of layer 0, when it is there. */
static kvp_err poison_kept(const struct cache *c, uint64_t slot, struct kvp_error *e)
{
    const struct ledger *l = c->env->led;
    const struct pair *p = &c->pair[0];
    const uint64_t wide = c->index_format == KVP_I64 ? 2 : 1, row = p->room ? cache_class(c->env, 0)->head_dim * size_of_format(c->env->format) : 0;

    for (int side = 0; side < SIDES; side++)
        for (uint64_t i = 0; i < share_of(c, c->look.used[0]); i++) {
            int32_t at; /* the low half of an i64, as this machine has it */

            KVP_TRY(l->be->read(l->dev, (struct kb_span){list_of(c, 0, side)->buf, i * wide * sizeof(at)}, &at, sizeof(at), e));
            if ((uint64_t)at == slot)
                KVP_TRY(l->be->fill(l->dev, (struct kb_span){p->kept[0][side].buf, i * row}, 0xff, row, e));
        }
    return KVP_OK;
}

static kvp_err mini_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    KVP_TRY(look_poison(&c->look, pos, stored, e));
    for (uint32_t i = 0; !*stored && i < c->env->model->layers; i++)
        KVP_TRY(poison_strips(c, i, e));
    return *stored && lower(c, 0) ? poison_kept(c, c->window[0] ? pos % c->window[0] : pos, e) : KVP_OK;
}

const struct cache_ops cache_minicache = {.name = "minicache", .axis = KVP_AXIS_MERGE,
                                          .params = "start gamma magnitude indices index_dtype", .open = mini_open,
                                          .close = mini_close, .reset = mini_reset, .prefill = mini_prefill,
                                          .decode = mini_decode, .dump_kept = mini_dump_kept, .poison = mini_poison};
