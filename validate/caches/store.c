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

const struct kvp_layer_class *store_class(const struct store *s, uint32_t layer)
{
    const struct kvp_model *m = s->env->model;

    return &m->cls[m->class_of[layer]];
}

uint32_t store_heads(const struct store *s, uint32_t layer)
{
    return s->heads[layer];
}

int store_parts(const struct store *s)
{
    return s->scored ? STORE_PARTS : STORE_SCORE;
}

uint64_t store_row_bytes(const struct store *s, uint32_t layer, int part)
{
    if (part == STORE_SCORE)
        return size_of_format(s->score_format);
    return size_of_format(s->env->format) * store_class(s, layer)->head_dim;
}

kvp_err store_alloc(const struct store *s, uint32_t layer, int part, uint64_t slots, struct led_mem *out,
                    struct kvp_error *e)
{
    uint64_t bytes;

    KVP_TRY(SIZE_PRODUCT(&bytes, "cache rows", e, s->env->batch, store_heads(s, layer), slots,
                         store_row_bytes(s, layer, part)));
    return led_alloc(s->env->led, part == STORE_SCORE ? LED_METADATA : LED_CACHE, bytes, out, e);
}

kvp_err store_open_strips(struct store *s, struct kvp_error *e)
{
    for (uint32_t i = 0; i < s->env->model->layers; i++)
        for (int p = 0; p < store_parts(s); p++) {
            const uint64_t slots = s->fixed ? s->cap[i] : size_min(s->plan.tokens, s->cap[i]);

            KVP_TRY(store_alloc(s, i, p, slots, &s->layer[i].mem[p], e));
            s->layer[i].slots[p] = slots;
        }
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
    s->heads = calloc(layers, sizeof(*s->heads));
    if (!s->cap || !s->layer || !s->heads)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a store of %u layers", layers);
    memcpy(s->cap, shape->cap, layers * sizeof(*s->cap));
    for (uint32_t i = 0; i < layers; i++)
        s->heads[i] = shape->heads ? shape->heads[i] : store_class(s, i)->kv_heads;
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
    for (uint32_t i = 0; s->layer && i < s->env->model->layers; i++)
        for (int p = 0; p < STORE_PARTS; p++)
            led_free(s->env->led, &s->layer[i].mem[p]);
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
    for (int p = 0; s->ops->reserve && p < store_parts(s); p++)
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
    const struct kvp_layer_class *c = store_class(s, layer);
    struct kb_kv v = {.data = {l->mem[part].buf, 0}, .format = s->env->format, .heads = store_heads(s, layer),
                      .dim = c->head_dim, .slots = l->slots[part], .block = s->plan.block};

    if (s->pages)
        v.table = pages_table(s->pages, layer, &v.table_stride);
    return v;
}

void store_view(const struct store *s, uint32_t layer, struct kb_kv *k, struct kb_kv *v)
{
    *k = view(s, layer, STORE_K);
    *v = view(s, layer, STORE_V);
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
    const uint64_t block = part == STORE_SCORE || !s->pages ? l->slots[part] : s->plan.block;
    const uint64_t first = part == STORE_SCORE || !s->pages ? b : pages_at(s->pages, layer, b, slot / block);
    const uint64_t row = (first * store_heads(s, layer) + head) * block + slot % block;

    return (struct kb_span){l->mem[part].buf, row * store_row_bytes(s, layer, (int)part)};
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
    const uint64_t slots = s->layer[layer].slots[part];
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
    for (int p = 0; p < store_parts(s); p++)
        for (uint64_t b = 0; b < s->env->batch; b++)
            for (uint32_t h = 0; h < store_heads(s, layer); h++)
                KVP_TRY(poison_run(s, layer, p, b, h, used, e));
    return KVP_OK;
}

kvp_err store_poison_slot(struct store *s, uint32_t layer, uint64_t b, uint32_t head, uint64_t slot,
                          struct kvp_error *e)
{
    const struct ledger *l = s->env->led;

    for (int p = STORE_K; p <= STORE_V; p++)
        KVP_TRY(l->be->fill(l->dev, store_row(s, layer, (enum store_part)p, b, head, slot), 0xff,
                            store_row_bytes(s, layer, p), e));
    return KVP_OK;
}
