/* tova.c - token omission via attention (Oren et al. 2024, arXiv:2401.06104, section 4; schwartz-lab-NLP/TOVA
 * src/tova_cache.py)
 *
 * A layer keeps `budget` tokens, the same for all of its heads. After the prompt they are those that its last query
 * attends to most, on the mean over the query heads; after a step the one that the newest query attends to least
 * leaves, whoever it is. The new row waits outside the cache until that is known. Keys carry their rotation, and a
 * slot is reused in place: order among slots means nothing. A layer whose own window is shorter than the run keeps
 * that window. */
#include "validate/caches/caches.h"
#include "validate/caches/look.h"
#include "validate/caches/picked.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <stdlib.h>

struct cache {
    const struct cache_env *env;
    uint64_t budget;
    bool *acts; /* [layers]; the others have a window of their own */
    struct store *store;
    struct look look;
    struct led_mem index, probs, victim; /* transients, each for the widest layer */
    int32_t *lost;                       /* tracing: [batch] */
};

static uint64_t slots(const struct cache *c, uint32_t layer)
{
    return c->acts[layer] ? c->budget : cache_class(c->env, layer)->window;
}

static kvp_err transient(struct cache *c, enum led_tag tag, struct led_mem *out, uint64_t heads, uint64_t n, struct kvp_error *e)
{
    uint64_t bytes;

    KVP_TRY(SIZE_PRODUCT(&bytes, "tova: workspace", e, c->env->batch, heads, n, size_of_format(KVP_F32)));
    return led_alloc(c->env->led, tag, bytes, out, e);
}

static kvp_err open_transients(struct cache *c, struct kvp_error *e)
{
    const uint64_t kept = size_min(c->budget, c->env->context), columns = c->env->prompt > kept + 1 ? c->env->prompt : kept + 1;
    uint64_t heads = 0;

    for (uint32_t i = 0; i < c->env->model->layers; i++)
        if (c->acts[i] && cache_class(c->env, i)->heads > heads)
            heads = cache_class(c->env, i)->heads;
    KVP_TRY(transient(c, LED_WORKSPACE, &c->index, 1, kept, e));
    KVP_TRY(transient(c, LED_WORKSPACE, &c->probs, heads, columns, e));
    if (!c->env->trace)
        return KVP_OK;
    c->lost = calloc(c->env->batch, sizeof(*c->lost));
    if (!c->lost)
        return kvp_fail(e, KVP_ENOMEM, "tova: out of memory for a trace");
    return transient(c, LED_TRACE, &c->victim, 1, 1, e);
}

static kvp_err open_store(struct cache *c, const struct kvp_spec *spec, uint64_t *room, struct kvp_error *e)
{
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        room[i] = slots(c, i);
    KVP_TRY(store_open(&c->store, c->env, room, NULL, e));
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        room[i] = size_min(room[i], c->env->context);
    return look_open(&c->look, c->env, c->store, spec->name, true, room, e);
}

static kvp_err build(struct cache *c, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *budget = kvp_spec_param(spec, "budget");
    const uint32_t layers = c->env->model->layers;
    uint64_t *room = calloc(layers, sizeof(*room));
    kvp_err rc;

    c->acts = calloc(layers, sizeof(*c->acts));
    c->budget = budget && budget->i > 0 ? (uint64_t)budget->i : 0;
    if (!room || !c->acts)
        rc = kvp_fail(e, KVP_ENOMEM, "tova: out of memory for %u layers", layers);
    else if (c->budget == 0)
        rc = kvp_fail(e, KVP_EINPUT, "tova: budget is 0 tokens, expected at least 1");
    else
        rc = picked_acts(c->acts, c->env, spec->name, e);
    if (rc == KVP_OK)
        rc = open_store(c, spec, room, e);
    free(room);
    return rc == KVP_OK ? open_transients(c, e) : rc;
}

static void tova_close(struct cache *c)
{
    if (!c)
        return;
    look_close(&c->look);
    store_close(c->store);
    led_free(c->env->led, &c->index);
    led_free(c->env->led, &c->probs);
    led_free(c->env->led, &c->victim);
    free(c->acts);
    free(c->lost);
    free(c);
}

static kvp_err tova_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "tova: out of memory for a cache");
    c->env = env;
    rc = build(c, kvp_stack_on(env->stack, KVP_AXIS_SELECT), e);
    if (rc != KVP_OK) {
        tova_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err tova_reset(struct cache *c, struct kvp_error *e)
{
    look_reset(&c->look);
    return store_reset(c->store, e);
}

/* ---- rows ------------------------------------------------------------------------------------------- */

/* The newest of x's tokens into slots by position, in a ring of as many slots as the layer has. */
static kvp_err append(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t seen = x->position + x->tokens, ring = slots(c, layer), used = size_min(seen, ring), n = size_min(used, x->tokens);
    struct kb_kv k, v;

    KVP_TRY(store_reserve(c->store, layer, used, e));
    store_view(c->store, layer, &k, &v);
    KVP_TRY(rows_write(c->env, &k, x, x->k, seen - n, n, (seen - n) % ring, ring, e));
    KVP_TRY(rows_write(c->env, &v, x, x->v, seen - n, n, (seen - n) % ring, ring, e));
    for (uint64_t t = seen - n; t < seen; t++)
        look_put(&c->look, layer, t % ring, t);
    c->look.used[layer] = used;
    return KVP_OK;
}

static kvp_err write_chosen(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    struct kb_cache_write w = {.batch = c->env->batch, .count = c->budget, .src_tokens = x->tokens, .src_stride = x->stride,
                               .index = {c->index.buf, 0}, .index_stride = c->budget, .one_index = true,
                               .calibrate = true};
    struct kb_kv k, v;

    KVP_TRY(store_reserve(c->store, layer, c->budget, e));
    store_view(c->store, layer, &k, &v);
    w.src = x->k;
    w.dst = k;
    KVP_TRY(c->env->run(c->env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e));
    w.src = x->v;
    w.dst = v;
    c->look.used[layer] = c->budget;
    return c->env->run(c->env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e);
}

/* ---- the prompt --------------------------------------------------------------------------------------- */

static kvp_err choose(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct cache_env *env = c->env;
    const struct kvp_layer_class *cls = cache_class(env, layer);
    const struct kb_window_scores s = {.batch = env->batch, .tokens = x->tokens, .heads = cls->heads, .kv_heads = cls->kv_heads,
                                       .head_dim = cls->head_dim, .sets = 1, .window = 1, .columns = x->tokens, .kernel = 1,
                                       .scale = cache_scale(env, layer), .stride = x->stride, .q = x->q, .k = x->k,
                                       .lse = x->lse, .scores = {c->probs.buf, 0}};
    const struct kb_top_tokens t = {.batch = env->batch, .tokens = x->tokens, .sets = 1,
                                    .columns = x->tokens, .best = c->budget, .scores = s.scores, .index = {c->index.buf, 0}};

    KVP_TRY(env->run(env->self, KVP_OP_SELECT, KB_WINDOW_SCORES, &s, e));
    KVP_TRY(env->run(env->self, KVP_OP_SELECT, KB_TOP_TOKENS, &t, e));
    KVP_TRY(write_chosen(c, layer, x, e));
    return look_read(&c->look, layer, t.index, c->budget, e);
}

static kvp_err tova_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    KVP_TRY(attend_prompt(c->env, layer, x, cache_class(c->env, layer)->window, e));
    return c->acts[layer] && x->tokens > c->budget ? choose(c, layer, x, e) : append(c, layer, x, e);
}

/* ---- a step --------------------------------------------------------------------------------------------- */

static kvp_err trace_step(struct cache *c, uint32_t layer, uint64_t position, uint64_t used, struct kvp_error *e)
{
    const struct ledger *l = c->env->led;

    if (!c->lost)
        return KVP_OK;
    KVP_TRY(l->be->read(l->dev, (struct kb_span){c->victim.buf, 0}, c->lost, c->env->batch * sizeof(*c->lost), e));
    for (uint64_t b = 0; b < c->env->batch; b++)
        if (c->lost[b] < 0)
            look_at(&c->look, layer, b, 0)[used] = (int32_t)position;
        else if ((uint64_t)c->lost[b] < used)
            look_at(&c->look, layer, b, 0)[c->lost[b]] = (int32_t)position;
    return KVP_OK;
}

/* Attention over what is kept and the new token; then one of them leaves. */
static kvp_err step(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct cache_env *env = c->env;
    const struct kvp_layer_class *cls = cache_class(env, layer);
    const uint64_t used = c->look.used[layer];
    struct kb_attn_decode a = {.batch = env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads, .head_dim = cls->head_dim,
                               .scale = cache_scale(env, layer), .used = used, .q_stride = x->stride, .q = x->q,
                               .tail_k = x->k, .tail_v = x->v, .tail_stride = x->stride, .out_stride = x->out_stride,
                               .out = x->out, .probs = {c->probs.buf, 0}};
    struct kb_tova_step s = {.batch = env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads, .head_dim = cls->head_dim,
                             .used = used, .budget = c->budget, .probs = a.probs, .new_k = x->k, .new_v = x->v,
                             .new_stride = x->stride, .victim = {c->victim.buf, 0}};

    KVP_TRY(store_reserve(c->store, layer, size_min(used + 1, c->budget), e));
    store_view(c->store, layer, &a.k, &a.v);
    KVP_TRY(env->run(env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e));
    s.k = a.k;
    s.v = a.v;
    KVP_TRY(env->run(env->self, KVP_OP_EVICT, KB_TOVA_STEP, &s, e));
    c->look.used[layer] = size_min(used + 1, c->budget);
    return trace_step(c, layer, x->position, used, e);
}

static kvp_err step_window(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_decode a = {.batch = c->env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads, .head_dim = cls->head_dim,
                               .scale = cache_scale(c->env, layer), .q_stride = x->stride, .q = x->q,
                               .out_stride = x->out_stride, .out = x->out};

    KVP_TRY(append(c, layer, x, e));
    a.used = c->look.used[layer];
    store_view(c->store, layer, &a.k, &a.v);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e);
}

static kvp_err tova_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    return c->acts[layer] ? step(c, layer, x, e) : step_window(c, layer, x, e);
}

/* ---- looking in ------------------------------------------------------------------------------------------ */

static kvp_err tova_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_kept(&c->look, f, e);
}

static kvp_err tova_dump_cache(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_cache(&c->look, f, e);
}

static kvp_err tova_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    return look_poison(&c->look, pos, stored, e);
}

const struct cache_ops cache_tova = {.name = "tova", .axis = KVP_AXIS_SELECT, .params = "budget", .encodes = true, .open = tova_open,
                                     .close = tova_close, .reset = tova_reset, .prefill = tova_prefill, .decode = tova_decode,
                                     .dump_kept = tova_dump_kept, .dump_cache = tova_dump_cache, .poison = tova_poison};
