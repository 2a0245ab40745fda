/* picked.c - caches that choose once, at the end of the prompt */
#include "validate/caches/picked.h"

#include "validate/caches/look.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <stdlib.h>

struct cache {
    const struct cache_env *env;
    const struct kvp_spec *spec;
    struct picked_rule rule;
    uint64_t *slots; /* [layers] most slots of a strip */
    uint32_t *heads; /* [layers] stored */
    struct store *store;
    struct look look;
    struct led_mem scores, index; /* transients, each for the layer that needs most */
};

/* ---- parameters -------------------------------------------------------------------------------- */

kvp_err picked_acts(bool *acts, const struct cache_env *env, const char *name, struct kvp_error *e)
{
    bool any = false;

    for (uint32_t i = 0; i < env->model->layers; i++) {
        const uint64_t w = cache_class(env, i)->window;

        acts[i] = cache_class(env, i)->kv_heads && (!w || w >= env->context); /* a recurrence keeps no rows */
        any = any || acts[i];
    }
    return any ? KVP_OK
               : kvp_fail(e, KVP_ENOTSUP, "%s: not applicable: every layer sees only its own window, shorter than the context of %llu",
                          name, (unsigned long long)env->context);
}

kvp_err picked_read_window(struct picked_rule *r, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *window = kvp_spec_param(spec, "window"), *kernel = kvp_spec_param(spec, "kernel");
    const struct kvp_param *pooling = kvp_spec_param(spec, "pooling"), *heads = kvp_spec_param(spec, "heads");

    if (!window || window->i < 1)
        return kvp_fail(e, KVP_EINPUT, "%s: window is %lld, expected at least 1", spec->name, window ? (long long)window->i : 0);
    if (!kernel || kernel->i < 1 || kernel->i > UINT32_MAX)
        return kvp_fail(e, KVP_EINPUT, "%s: kernel is %lld, expected at least 1", spec->name, kernel ? (long long)kernel->i : 0);
    r->scored = true;
    r->window = (uint64_t)window->i;
    r->kernel = (uint32_t)kernel->i;
    r->average = pooling && strcmp(pooling->word, "avg") == 0;
    r->query_heads = heads && strcmp(heads->word, "query") == 0;
    return KVP_OK;
}

kvp_err picked_read_cap(uint64_t *cap, const struct picked_rule *r, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *p = kvp_spec_param(spec, "cap");

    *cap = p && p->i > 0 ? (uint64_t)p->i : 0;
    return *cap > r->window ? KVP_OK
                            : kvp_fail(e, KVP_EINPUT, "%s: cap is %llu, expected more than window, which is %llu", spec->name,
                                       (unsigned long long)*cap, (unsigned long long)r->window);
}

/* ---- storage ----------------------------------------------------------------------------------- */

/* Slots of a layer in a run, or in a strip, of `tokens` tokens. */
static uint64_t slots_of(const struct cache *c, uint32_t layer, uint64_t tokens)
{
    return c->rule.acts[layer] ? c->rule.kept[layer] + tokens - c->env->prompt : cache_class(c->env, layer)->window;
}

static bool chooses(const struct cache *c, uint32_t layer)
{
    return c->rule.acts[layer] && c->rule.scored && c->rule.kept[layer] < c->env->prompt;
}

static kvp_err transient(struct cache *c, struct led_mem *out, uint64_t values, struct kvp_error *e)
{
    uint64_t bytes;

    KVP_TRY(SIZE_PRODUCT(&bytes, "workspace", e, c->env->batch, values, size_of_format(KVP_F32)));
    return led_alloc(c->env->led, LED_WORKSPACE, bytes, out, e);
}

static kvp_err open_transients(struct cache *c, struct kvp_error *e)
{
    uint64_t scores = 0, index = 0, n;

    for (uint32_t i = 0; i < c->env->model->layers; i++) {
        if (!chooses(c, i))
            continue;
        KVP_TRY(SIZE_PRODUCT(&n, "workspace", e, c->heads[i], c->env->prompt));
        scores = n > scores ? n : scores;
        n = c->heads[i] * c->rule.kept[i]; /* less than the scores */
        index = n > index ? n : index;
    }
    KVP_TRY(transient(c, &c->scores, scores, e));
    return transient(c, &c->index, index, e);
}

static kvp_err build(struct cache *c, picked_read *read, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    struct store_plan plan;

    c->rule.kept = calloc(layers, sizeof(*c->rule.kept));
    c->rule.acts = calloc(layers, sizeof(*c->rule.acts));
    c->slots = calloc(layers, sizeof(*c->slots));
    c->heads = calloc(layers, sizeof(*c->heads));
    if (!c->rule.kept || !c->rule.acts || !c->slots || !c->heads)
        return kvp_fail(e, KVP_ENOMEM, "%s: out of memory for %u layers", c->spec->name, layers);
    KVP_TRY(picked_acts(c->rule.acts, c->env, c->spec->name, e));
    KVP_TRY(read(&c->rule, c->env, c->spec, e));
    KVP_TRY(store_plan(&plan, c->env, e));
    for (uint32_t i = 0; i < layers; i++) {
        const struct kvp_layer_class *cls = cache_class(c->env, i);

        c->slots[i] = slots_of(c, i, plan.tokens);
        c->heads[i] = c->rule.acts[i] && c->rule.query_heads ? cls->heads : cls->kv_heads;
    }
    KVP_TRY(store_open_as(&c->store, c->env, &(struct store_shape){.cap = c->slots, .heads = c->heads}, e));
    for (uint32_t i = 0; i < layers; i++)
        c->slots[i] = slots_of(c, i, c->env->context);
    KVP_TRY(look_open(&c->look, c->env, c->store, c->spec->name, !c->rule.scored, c->slots, e));
    return open_transients(c, e);
}

kvp_err picked_open(struct cache **out, const struct cache_env *env, picked_read *read, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a cache");
    c->env = env;
    c->spec = kvp_stack_on(env->stack, KVP_AXIS_SELECT);
    rc = build(c, read, e);
    if (rc != KVP_OK) {
        picked_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

void picked_close(struct cache *c)
{
    if (!c)
        return;
    look_close(&c->look);
    store_close(c->store);
    led_free(c->env->led, &c->scores);
    led_free(c->env->led, &c->index);
    free(c->rule.kept);
    free(c->rule.acts);
    free(c->slots);
    free(c->heads);
    free(c);
}

kvp_err picked_reset(struct cache *c, struct kvp_error *e)
{
    look_reset(&c->look);
    return store_reset(c->store, e);
}

/* ---- rows into slots ----------------------------------------------------------------------------- */

/* `index` NULL: `count` tokens from `first` on. */
static kvp_err write(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t first, uint64_t count, uint64_t slot,
                     const struct led_mem *index, struct kvp_error *e)
{
    struct kb_cache_write w = {.batch = c->env->batch,
                               .count = count,
                               .slot = slot,
                               .src_tokens = x->tokens,
                               .src_stride = x->stride,
                               .src_first = first - x->position,
                               .calibrate = x->position == 0,
                               .index = {index ? index->buf : NULL, 0},
                               .index_stride = count,
                               .repeat = c->heads[layer] / cache_class(c->env, layer)->kv_heads};
    struct kb_kv k, v;

    if (count == 0)
        return KVP_OK;
    store_view(c->store, layer, &k, &v);
    w.src = x->k;
    w.dst = k;
    KVP_TRY(c->env->run(c->env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e));
    w.src = x->v;
    w.dst = v;
    return c->env->run(c->env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e);
}

/* Tokens [first, first + count) into slots from `slot` on. */
static kvp_err keep(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t first, uint64_t count, uint64_t slot,
                    struct kvp_error *e)
{
    for (uint64_t i = 0; i < count; i++)
        look_put(&c->look, layer, slot + i, first + i);
    return write(c, layer, x, first, count, slot, NULL, e);
}

/* The newest rows into a ring of w slots. */
static kvp_err keep_newest(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t w, struct kvp_error *e)
{
    const uint64_t seen = x->position + x->tokens;
    uint64_t n = size_min(size_min(seen, w), x->tokens);

    KVP_TRY(store_reserve(c->store, layer, size_min(seen, w), e));
    for (uint64_t at = seen - n; n;) {
        const uint64_t run = size_min(n, w - at % w);

        KVP_TRY(keep(c, layer, x, at, run, at % w, e));
        at += run;
        n -= run;
    }
    c->look.used[layer] = size_min(seen, w);
    return KVP_OK;
}

/* ---- the prompt -------------------------------------------------------------------------------- */

static kvp_err choose(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct cache_env *env = c->env;
    const struct kvp_layer_class *cls = cache_class(env, layer);
    const uint64_t kept = c->rule.kept[layer], asked = size_min(c->rule.window, x->tokens), last = size_min(c->rule.window, kept);
    const struct kb_window_scores s = {.batch = env->batch,
                                       .tokens = x->tokens,
                                       .heads = cls->heads,
                                       .kv_heads = cls->kv_heads,
                                       .head_dim = cls->head_dim,
                                       .sets = c->heads[layer],
                                       .window = asked,
                                       .columns = x->tokens - last,
                                       .kernel = c->rule.kernel,
                                       .average = c->rule.average,
                                       .scale = cache_scale(env, layer),
                                       .stride = x->stride,
                                       .q = x->q,
                                       .k = x->k,
                                       .lse = x->lse,
                                       .scores = {c->scores.buf, 0}};
    const struct kb_top_tokens t = {.batch = env->batch,
                                    .tokens = x->tokens,
                                    .sets = c->heads[layer],
                                    .columns = s.columns,
                                    .best = kept - last,
                                    .scores = s.scores,
                                    .index = {c->index.buf, 0}};

    KVP_TRY(env->run(env->self, KVP_OP_SELECT, KB_WINDOW_SCORES, &s, e));
    KVP_TRY(env->run(env->self, KVP_OP_SELECT, KB_TOP_TOKENS, &t, e));
    KVP_TRY(write(c, layer, x, x->position, kept, 0, &c->index, e));
    return look_read(&c->look, layer, t.index, kept, e);
}

static kvp_err keep_prompt(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t kept = c->rule.kept[layer], sink = kept < x->tokens ? size_min(c->rule.sink, kept) : 0;

    KVP_TRY(store_reserve(c->store, layer, kept, e));
    c->look.used[layer] = kept;
    if (kept && chooses(c, layer))
        return choose(c, layer, x, e);
    KVP_TRY(keep(c, layer, x, 0, sink, 0, e));
    return keep(c, layer, x, x->tokens - (kept - sink), kept - sink, sink, e);
}

kvp_err picked_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t window = cache_class(c->env, layer)->window;

    KVP_TRY(attend_prompt(c->env, layer, x, window, e));
    return c->rule.acts[layer] ? keep_prompt(c, layer, x, e) : keep_newest(c, layer, x, window, e);
}

/* ---- a step ------------------------------------------------------------------------------------ */

static kvp_err append(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t used = c->look.used[layer];

    if (!c->rule.acts[layer])
        return keep_newest(c, layer, x, cache_class(c->env, layer)->window, e);
    KVP_TRY(store_reserve(c->store, layer, used + 1, e));
    c->look.used[layer] = used + 1;
    return keep(c, layer, x, x->position, 1, used, e);
}

kvp_err picked_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_decode a = {.batch = c->env->batch, .heads = cls->heads, .kv_heads = c->heads[layer], .head_dim = cls->head_dim,
                               .scale = cache_scale(c->env, layer), .q_stride = x->stride, .q = x->q,
                               .out_stride = x->out_stride, .out = x->out};

    KVP_TRY(append(c, layer, x, e));
    a.used = c->look.used[layer];
    store_view(c->store, layer, &a.k, &a.v);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e);
}

/* ---- looking in -------------------------------------------------------------------------------- */

kvp_err picked_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_kept(&c->look, f, e);
}

kvp_err picked_dump_cache(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_cache(&c->look, f, e);
}

kvp_err picked_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    return look_poison(&c->look, pos, stored, e);
}
