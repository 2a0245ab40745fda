/* store.c - what every store does alike, and the table of stores */
#include "validate/caches/store.h"

#include "validate/caches/dump.h"
#include "validate/caches/size.h"
#include "validate/caches/stores.h"

#include <stdlib.h>

static kvp_err plan_none(struct store_plan *out, const struct kvp_spec *spec, const struct cache_env *env,
                         struct kvp_error *e)
{
    (void)spec;
    (void)e;
    *out = (struct store_plan){.tokens = env->context};
    return KVP_OK;
}

static const struct store_ops store_none = {.plan = plan_none, .open = store_open_strips};

static const struct store_ops *const stores[] = {&store_none, &store_contiguous, &store_growing,
                                                 &store_paged};
enum { N_STORES = sizeof(stores) / sizeof(stores[0]) };

static kvp_err find(const struct store_ops **out, const struct kvp_spec *spec, struct kvp_error *e)
{
    for (int i = 0; i < N_STORES; i++)
        if (spec ? stores[i]->name && strcmp(stores[i]->name, spec->name) == 0 : !stores[i]->name) {
            *out = stores[i];
            return KVP_OK;
        }
    return kvp_fail(e, KVP_ENOTSUP, "%s: the engine has no such store", spec->name);
}

kvp_err store_params(const char **out, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct store_ops *ops;

    KVP_TRY(find(&ops, spec, e));
    *out = ops->params;
    return KVP_OK;
}

kvp_err store_plan(struct store_plan *out, const struct cache_env *env, struct kvp_error *e)
{
    const struct kvp_spec *spec = kvp_stack_on(env->stack, KVP_AXIS_STORE);
    const struct store_ops *ops;

    KVP_TRY(find(&ops, spec, e));
    return ops->plan(out, spec, env, e);
}

static bool is_of_v(int part)
{
    return part == STORE_V || part == STORE_V_SCALE || part == STORE_V_SHIFT;
}

struct row_shape store_shape(const struct store *s, uint32_t layer, int part)
{
    const struct layer_rows r = layer_rows(s->env, layer);
    struct row_shape x = is_of_v(part) ? r.v : r.k;

    x.dim = part == STORE_K || part == STORE_V ? x.dim : 1;
    x.heads = s->heads ? s->heads[layer] : x.heads;
    return x;
}

uint32_t store_heads(const struct store *s, uint32_t layer)
{
    return store_shape(s, layer, STORE_K).heads;
}

static const struct kv_code *code_of(const struct store *s, int part)
{
    return &s->code[is_of_v(part)];
}

enum kvp_format store_format(const struct store *s, enum store_part part)
{
    return code_of(s, (int)part)->format;
}

uint64_t store_row_bytes(const struct store *s, uint32_t layer, int part)
{
    const uint32_t dim = store_shape(s, layer, is_of_v(part) ? STORE_V : STORE_K).dim;

    if (part == STORE_SCORE)
        return s->scored ? size_of_format(s->score_format) : 0;
    if (part >= STORE_ENCODED)
        return kv_beside(code_of(s, part), dim, part == STORE_K_SHIFT || part == STORE_V_SHIFT);
    return size_of_row(code_of(s, part)->format, dim);
}

kvp_err store_alloc_all(const struct store *s, uint32_t layer, int part, uint64_t slots, struct led_mem *out,
                        struct kvp_error *e)
{
    uint64_t bytes;

    KVP_TRY(SIZE_PRODUCT(&bytes, "cache rows", e, store_shape(s, layer, part).heads, slots, store_row_bytes(s, layer, part)));
    return led_alloc(s->env->led, part >= STORE_SCORE ? LED_METADATA : LED_CACHE, bytes, out, e);
}

kvp_err store_alloc(const struct store *s, uint32_t layer, int part, uint64_t slots, struct led_mem *out,
                    struct kvp_error *e)
{
    uint64_t all;

    KVP_TRY(SIZE_PRODUCT(&all, "cache rows", e, s->env->batch, slots));
    return store_alloc_all(s, layer, part, all, out, e);
}

/* Slots of a strip that are not there: all sequences have the same, before the first strip. */
static uint64_t in_head(const struct store *s, int part)
{
    return part != STORE_SCORE && !s->pages ? s->env->hit : 0;
}

kvp_err store_open_strips(struct store *s, struct kvp_error *e)
{
    for (uint32_t i = 0; i < s->env->model->layers; i++)
        for (int p = 0; p < STORE_PARTS; p++) {
            const uint64_t head = in_head(s, p), slots = (s->fixed ? s->cap[i] : size_min(s->plan.tokens, s->cap[i])) - head;
            uint64_t all;

            KVP_TRY(SIZE_PRODUCT(&all, "cache rows", e, s->env->batch, slots));
            KVP_TRY(store_alloc_all(s, i, p, all + head, &s->layer[i].mem[p], e));
            s->layer[i].slots[p] = slots;
        }
    return KVP_OK;
}

/* A scale for a whole tensor is there before anything is stored. */
static kvp_err open_scales(struct store *s, struct kvp_error *e)
{
    for (uint32_t i = 0; i < s->env->model->layers; i++)
        for (int side = 0; side < 2; side++) {
            const struct ledger *l = s->env->led;
            const float one = 1;

            if (s->code[side].scales != KB_SCALES_TENSOR || !store_shape(s, i, side ? STORE_V : STORE_K).heads)
                continue;
            KVP_TRY(led_alloc(s->env->led, LED_METADATA, sizeof(one), &s->layer[i].one_scale[side], e));
            KVP_TRY(l->be->write(l->dev, (struct kb_span){s->layer[i].one_scale[side].buf, 0}, &one, sizeof(one), e));
        }
    return KVP_OK;
}

/* What sequences share lies in strips made for this run, or in pages, and holds whole numbers of every token. */
static kvp_err check_head(const struct store *s, struct kvp_error *e)
{
    if (!s->env->hit)
        return KVP_OK;
    if (s->plan.keeps || s->plan.grows)
        return kvp_fail(e, KVP_ENOTSUP, "%s: sequences share no rows in it", s->ops->name);
    for (uint32_t i = 0; i < s->env->model->layers; i++)
        if (s->cap[i] != UINT64_MAX)
            return kvp_fail(e, KVP_ENOTSUP, "prefix: layer %u keeps a window, which the engine does not share yet", i);
    return KVP_OK;
}

static kvp_err store_build(struct store *s, const struct store_shape *shape, struct kvp_error *e)
{
    const uint32_t layers = s->env->model->layers;
    const struct kvp_spec *spec = kvp_stack_on(s->env->stack, KVP_AXIS_STORE);

    KVP_TRY(find(&s->ops, spec, e));
    KVP_TRY(s->ops->plan(&s->plan, spec, s->env, e));
    s->cap = calloc(layers, sizeof(*s->cap));
    s->layer = calloc(layers, sizeof(*s->layer));
    s->heads = shape->heads ? calloc(layers, sizeof(*s->heads)) : NULL;
    if (!s->cap || !s->layer || !s->heads != !shape->heads)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a store of %u layers", layers);
    memcpy(s->cap, shape->cap, layers * sizeof(*s->cap));
    if (shape->heads)
        memcpy(s->heads, shape->heads, layers * sizeof(*s->heads));
    KVP_TRY(kv_codes(s->code, s->env, e));
    KVP_TRY(check_head(s, e));
    KVP_TRY(open_scales(s, e));
    return s->ops->open(s, e);
}

kvp_err store_open(struct store **out, const struct cache_env *env, const uint64_t *cap,
                   const enum kvp_format *score, struct kvp_error *e)
{
    return store_open_as(out, env, &(struct store_shape){.cap = cap, .score = score}, e);
}

kvp_err store_open_as(struct store **out, const struct cache_env *env, const struct store_shape *shape, struct kvp_error *e)
{
    struct store *s = calloc(1, sizeof(*s));
    kvp_err rc;

    *out = NULL;
    if (!s)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a store");
    s->env = env;
    s->scored = shape->score != NULL;
    s->score_format = shape->score ? *shape->score : KVP_F32;
    s->fixed = shape->fixed;
    s->beside = shape->beside;
    rc = store_build(s, shape, e);
    if (rc != KVP_OK) {
        store_close(s);
        return rc;
    }
    *out = s;
    return KVP_OK;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; s->layer && i < s->env->model->layers; i++) {
        for (int p = 0; p < STORE_PARTS; p++)
            led_free(s->env->led, &s->layer[i].mem[p]);
        for (int side = 0; side < 2; side++) {
            led_free(s->env->led, &s->layer[i].one_scale[side]);
        }
    }
    pages_close(s->pages);
    free(s->layer);
    free(s->cap);
    free(s->heads);
    free(s);
}

kvp_err store_reset(struct store *s, struct kvp_error *e)
{
    (void)e;
    if (s->ops->reset)
        s->ops->reset(s);
    return KVP_OK;
}

kvp_err store_reserve(struct store *s, uint32_t layer, uint64_t used, struct kvp_error *e)
{
    for (int p = 0; s->ops->reserve && p < STORE_PARTS; p++)
        KVP_TRY(s->ops->reserve(s, layer, p, used, e));
    return KVP_OK;
}

kvp_err store_reserve_both(struct store *a, uint64_t used_a, struct store *b, uint64_t used_b, uint32_t layer, struct kvp_error *e)
{
    for (int p = STORE_K; a->ops->reserve && p <= STORE_V; p++) {
        KVP_TRY(a->ops->reserve(a, layer, p, used_a, e));
        KVP_TRY(b->ops->reserve(b, layer, p, used_b, e));
    }
    return KVP_OK;
}

static struct kb_kv view(const struct store *s, uint32_t layer, int part)
{
    const struct store_layer *l = &s->layer[layer];
    const struct row_shape shape = store_shape(s, layer, part);
    const struct kv_code *code = code_of(s, part);
    const int scale = part == STORE_K ? STORE_K_SCALE : STORE_V_SCALE;
    struct kb_kv v = {.data = {l->mem[part].buf, 0}, .format = code->format, .heads = shape.heads,
                      .dim = shape.dim, .slots = l->slots[part], .block = s->plan.block, .scales = code->scales,
                      .scale_format = code->scale_format, .group = code->group,
                      .scale = {l->mem[scale].buf, 0}, .shift = {l->mem[scale + 1].buf, 0}, .shared = in_head(s, part)};

    if (code->scales == KB_SCALES_TENSOR)
        v.scale = (struct kb_span){l->one_scale[part == STORE_V].buf, 0};

    if (s->pages)
        v.table = pages_table(s->pages, layer, &v.table_stride);
    return v;
}

void store_view(const struct store *s, uint32_t layer, struct kb_kv *k, struct kb_kv *v)
{
    *k = view(s, layer, STORE_K);
    *v = view(s, layer, STORE_V);
}

/* In pages it is the table's row; in strips, the strip, and what lies beside it, unless there is something before them. */
static void skip(const struct store *s, uint32_t layer, int part, uint64_t first, struct kb_kv *v)
{
    const uint64_t rows = first * v->heads * v->slots;
    const int scale = part == STORE_K ? STORE_K_SCALE : STORE_V_SCALE;

    if (s->pages) {
        v->table.offset += first * v->table_stride * size_of_format(KVP_I32);
        return;
    }
    if (v->shared) {
        v->first = first;
        return;
    }
    v->data.offset += rows * store_row_bytes(s, layer, part);
    if (v->scales == KB_SCALES_TENSOR)
        return;
    v->scale.offset += rows * store_row_bytes(s, layer, scale);
    v->shift.offset += rows * store_row_bytes(s, layer, scale + 1);
}

void store_view_from(const struct store *s, uint32_t layer, uint64_t first, struct kb_kv *k, struct kb_kv *v)
{
    store_view(s, layer, k, v);
    skip(s, layer, STORE_K, first, k);
    skip(s, layer, STORE_V, first, v);
}

struct kb_span store_scores(const struct store *s, uint32_t layer, uint64_t *stride)
{
    *stride = s->layer[layer].slots[STORE_SCORE];
    return (struct kb_span){s->layer[layer].mem[STORE_SCORE].buf, 0};
}

struct kb_span store_row(const struct store *s, uint32_t layer, enum store_part part, uint64_t b,
                         uint32_t head, uint64_t slot)
{
    const struct store_layer *l = &s->layer[layer];
    const uint64_t shared = in_head(s, (int)part), bytes = store_row_bytes(s, layer, (int)part);
    const uint64_t block = part == STORE_SCORE || !s->pages ? l->slots[part] : s->plan.block;
    const uint64_t first = part == STORE_SCORE || !s->pages ? b : pages_at(s->pages, layer, b, slot / block);
    const uint32_t heads = store_shape(s, layer, (int)part).heads;
    const uint64_t row = heads * shared + (first * heads + head) * block + (slot - shared) % block;

    return (struct kb_span){l->mem[part].buf, (slot < shared ? head * shared + slot : row) * bytes};
}

kvp_err store_fetch(void **out, const struct store *s, uint32_t layer, enum store_part part,
                    struct kvp_error *e)
{
    return dump_fetch(out, s->env, &s->layer[layer].mem[part], e);
}

/* Slots [from, slots) of one head: one fill a run of neighbours. */
static kvp_err poison_run(struct store *s, uint32_t layer, int part, uint64_t b, uint32_t head, uint64_t from,
                          struct kvp_error *e)
{
    const struct ledger *l = s->env->led;
    const uint64_t slots = s->layer[layer].slots[part] + in_head(s, part);
    const uint64_t block = part == STORE_SCORE || !s->pages ? slots : s->plan.block;

    for (uint64_t next; from < slots; from = next) {
        next = (from / block + 1) * block;
        KVP_TRY(l->be->fill(l->dev, store_row(s, layer, (enum store_part)part, b, head, from), 0xff,
                            (next - from) * store_row_bytes(s, layer, part), e));
    }
    return KVP_OK;
}

kvp_err store_poison_unused(struct store *s, uint32_t layer, uint64_t used, struct kvp_error *e)
{
    for (int p = 0; p < STORE_PARTS; p++)
        for (uint64_t b = 0; s->layer[layer].mem[p].buf && b < s->env->batch; b++)
            for (uint32_t h = 0; h < store_shape(s, layer, p).heads; h++)
                KVP_TRY(poison_run(s, layer, p, b, h, used, e));
    return KVP_OK;
}

kvp_err store_poison_slot(struct store *s, uint32_t layer, uint64_t b, uint32_t head, uint64_t slot,
                          struct kvp_error *e)
{
    const struct ledger *l = s->env->led;

    for (int side = 0; side < 2; side++)
        if (s->code[side].scales == KB_SCALES_TENSOR && s->code[side].format != KVP_FP8)
            return kvp_fail(e, KVP_ENOTSUP, "a row of %s with one scale for all rows cannot be NaN",
                            kvp_format_name(s->code[side].format));
    for (int p = 0; p < STORE_PARTS; p++)
        if (p != STORE_SCORE && s->layer[layer].mem[p].buf)
            KVP_TRY(l->be->fill(l->dev, store_row(s, layer, (enum store_part)p, b, head, slot), 0xff,
                                store_row_bytes(s, layer, p), e));
    return KVP_OK;
}
