/* h2o.c - heavy hitters and recent tokens, chosen per kv head (Zhang et al. 2023, arXiv:2306.14048; the
 * real-drop variant, FMInference/H2O h2o_hf/utils_real_drop/modify_llama.py)
 *
 * min(T, heavy + recent) slots for each kv head and a score beside each: the attention mass its token
 * has received so far, summed over the query heads of the group. After the prompt, and after each step,
 * what is over the budget is dropped: the lowest score that is not recent. Slots of a head are unrelated
 * to slots of another; keys are stored rotated, so no position is needed to attend, and the positions
 * that dump_kept prints are followed on the host, only when tracing. A layer whose own window is shorter
 * than the run is refused: it must not see old tokens, heavy or not. */
#include "validate/caches/caches.h"
#include "validate/caches/dump.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"
#include "validate/caches/store.h"

#include <stdlib.h>

struct cache {
    const struct cache_env *env;
    uint64_t heavy, recent;
    enum kvp_format score_format;
    struct store *store;
    struct led_mem prompt_scores, index, probs, victim; /* transients, each for the widest layer */
    uint64_t seen;
    int32_t **where; /* [layers], tracing: [batch, kv_heads, budget] the token in each slot */
    int32_t *lost;   /* tracing: [batch, kv_heads], of the layer at hand */
};

/* ---- parameters -------------------------------------------------------------------------------- */

/* `name` tokens, or the whole tokens of `name`_ratio of the prompt. */
static kvp_err tokens_of(uint64_t *out, const struct kvp_spec *spec, const char *name, const char *ratio_name,
                         uint64_t prompt, struct kvp_error *e)
{
    const struct kvp_param *n = kvp_spec_param(spec, name), *r = kvp_spec_param(spec, ratio_name);

    if (n && n->given && r && r->given)
        return kvp_fail(e, KVP_EINPUT, "%s: %s and %s are both given, expected one of them", spec->name, name,
                        ratio_name);
    if (n && n->given)
        *out = n->i > 0 ? (uint64_t)n->i : 0;
    else
        *out = r && r->r > 0 ? (uint64_t)(r->r * (double)prompt) : 0;
    if (*out == 0)
        return kvp_fail(e, KVP_EINPUT, "%s: %s is 0 tokens, expected at least 1", spec->name, name);
    return KVP_OK;
}

static bool takes_variant(const struct kvp_spec *spec)
{
    const struct kvp_param *v = kvp_spec_param(spec, "variant");

    return !v || !v->word || strcmp(v->word, "flexgen") != 0;
}

static kvp_err read_spec(struct cache *c, struct kvp_error *e)
{
    const struct kvp_spec *spec = kvp_stack_on(c->env->stack, KVP_AXIS_SELECT);
    const struct kvp_param *f = kvp_spec_param(spec, "score_dtype"), *v = kvp_spec_param(spec, "variant");
    uint64_t budget;

    if (v && v->word && strcmp(v->word, "drop") != 0)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not run variant=%s, which hides tokens and keeps them", spec->name, v->word);

    KVP_TRY(tokens_of(&c->heavy, spec, "heavy", "heavy_ratio", c->env->prompt, e));
    KVP_TRY(tokens_of(&c->recent, spec, "recent", "recent_ratio", c->env->prompt, e));
    if (__builtin_add_overflow(c->heavy, c->recent, &budget))
        return kvp_fail(e, KVP_ERANGE, "%s: heavy + recent does not fit in 64 bits", spec->name);
    c->score_format = f ? f->f : KVP_F32;
    if (c->score_format != KVP_F32 && c->score_format != KVP_F16)
        return kvp_fail(e, KVP_EINPUT, "%s: score_dtype is %s, expected f32 or f16", spec->name,
                        kvp_format_name(c->score_format));
    for (uint32_t i = 0; i < c->env->model->layers; i++) {
        const uint64_t w = cache_class(c->env, i)->window;

        if (w && c->env->context > w)
            return kvp_fail(e, KVP_ENOTSUP,
                            "%s: layer %u sees only %llu of %llu tokens and must not see older ones it keeps",
                            spec->name, i, (unsigned long long)w, (unsigned long long)c->env->context);
    }
    return KVP_OK;
}

/* ---- storage ----------------------------------------------------------------------------------- */

static uint64_t kept(const struct cache *c, uint64_t seen)
{
    return size_min(seen, c->heavy + c->recent);
}

static kvp_err transient(struct cache *c, enum led_tag tag, struct led_mem *out, uint64_t heads,
                         uint64_t n, struct kvp_error *e)
{
    uint64_t bytes;

    KVP_TRY(SIZE_PRODUCT(&bytes, "h2o: workspace", e, c->env->batch, heads, n, size_of_format(KVP_F32)));
    return led_alloc(c->env->led, tag, bytes, out, e);
}

static kvp_err open_transients(struct cache *c, struct kvp_error *e)
{
    const uint64_t slots = kept(c, c->env->context);
    uint64_t heads = 0, kv_heads = 0;

    for (uint32_t i = 0; i < c->env->model->classes; i++) {
        const struct kvp_layer_class *cls = &c->env->model->cls[i];

        heads = cls->heads > heads ? cls->heads : heads;
        kv_heads = cls->kv_heads > kv_heads ? cls->kv_heads : kv_heads;
    }
    KVP_TRY(transient(c, LED_WORKSPACE, &c->prompt_scores, kv_heads, c->env->prompt, e));
    KVP_TRY(transient(c, LED_WORKSPACE, &c->index, kv_heads, slots, e));
    KVP_TRY(transient(c, LED_WORKSPACE, &c->probs, heads, slots + 1, e));
    if (!c->env->trace)
        return KVP_OK;
    c->lost = calloc(c->env->batch * kv_heads, sizeof(*c->lost));
    if (!c->lost)
        return kvp_fail(e, KVP_ENOMEM, "h2o: out of memory for a trace");
    return transient(c, LED_TRACE, &c->victim, kv_heads, 1, e);
}

static kvp_err open_trace(struct cache *c, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;

    if (!c->env->trace)
        return KVP_OK;
    c->where = calloc(layers, sizeof(*c->where));
    for (uint32_t i = 0; c->where && i < layers; i++) {
        c->where[i] = calloc(c->env->batch * cache_class(c->env, i)->kv_heads * kept(c, c->env->context),
                             sizeof(int32_t));
        if (!c->where[i])
            return kvp_fail(e, KVP_ENOMEM, "h2o: out of memory for a trace");
    }
    return c->where ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "h2o: out of memory for a trace");
}

static kvp_err build(struct cache *c, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    uint64_t *cap;
    kvp_err rc;

    KVP_TRY(read_spec(c, e));
    cap = calloc(layers, sizeof(*cap));
    if (!cap)
        return kvp_fail(e, KVP_ENOMEM, "h2o: out of memory for %u layers", layers);
    for (uint32_t i = 0; i < layers; i++)
        cap[i] = c->heavy + c->recent;
    rc = store_open(&c->store, c->env, cap, &c->score_format, e);
    free(cap);
    KVP_TRY(rc);
    KVP_TRY(open_transients(c, e));
    return open_trace(c, e);
}

static void h2o_close(struct cache *c)
{
    if (!c)
        return;
    store_close(c->store);
    led_free(c->env->led, &c->prompt_scores);
    led_free(c->env->led, &c->index);
    led_free(c->env->led, &c->probs);
    led_free(c->env->led, &c->victim);
    for (uint32_t i = 0; c->where && i < c->env->model->layers; i++)
        free(c->where[i]);
    free(c->where);
    free(c->lost);
    free(c);
}

static kvp_err h2o_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "h2o: out of memory for a cache");
    c->env = env;
    rc = build(c, e);
    if (rc != KVP_OK) {
        h2o_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err h2o_reset(struct cache *c, struct kvp_error *e)
{
    c->seen = 0;
    return store_reset(c->store, e);
}

/* ---- the prompt -------------------------------------------------------------------------------- */

static struct kb_span all_of(const struct led_mem *m)
{
    return (struct kb_span){m->buf, 0};
}

static kvp_err select_slots(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct cache_env *env = c->env;
    const struct kvp_layer_class *cls = cache_class(env, layer);
    const struct kb_h2o_scores s = {.batch = env->batch,
                                    .tokens = x->tokens,
                                    .heads = cls->heads,
                                    .kv_heads = cls->kv_heads,
                                    .head_dim = cls->head_dim,
                                    .window = cls->window,
                                    .scale = cache_scale(env, layer),
                                    .stride = x->stride,
                                    .q = x->q,
                                    .k = x->k,
                                    .lse = x->lse,
                                    .scores = all_of(&c->prompt_scores)};
    struct kb_h2o_select p = {.batch = env->batch,
                              .tokens = x->tokens,
                              .kv_heads = cls->kv_heads,
                              .heavy = c->heavy,
                              .recent = c->recent,
                              .scores = all_of(&c->prompt_scores),
                              .index = all_of(&c->index),
                              .score_format = c->score_format};

    KVP_TRY(env->run(env->self, KVP_OP_SCORE, KB_H2O_SCORES, &s, e));
    p.kept_scores = store_scores(c->store, layer, &p.kept_stride);
    return env->run(env->self, KVP_OP_EVICT, KB_H2O_SELECT, &p, e);
}

static kvp_err write_selected(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct cache_env *env = c->env;
    struct kb_cache_write w = {.batch = env->batch,
                               .count = kept(c, x->tokens),
                               .src = x->k,
                               .src_tokens = x->tokens,
                               .src_stride = x->stride,
                               .index = all_of(&c->index),
                               .index_stride = kept(c, x->tokens),
                               .calibrate = true};
    struct kb_kv k, v;

    store_view(c->store, layer, &k, &v);
    w.dst = k;
    KVP_TRY(env->run(env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e));
    w.dst = v;
    w.src = x->v;
    return env->run(env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e);
}

/* The traced tokens of (b, head), by slot. */
static int32_t *traced(const struct cache *c, uint32_t layer, uint64_t b, uint32_t head)
{
    return c->where[layer] + (b * cache_class(c->env, layer)->kv_heads + head) * kept(c, c->env->context);
}

static kvp_err trace_prompt(struct cache *c, uint32_t layer, uint64_t n, struct kvp_error *e)
{
    const struct ledger *l = c->env->led;
    const uint32_t heads = cache_class(c->env, layer)->kv_heads;

    for (uint64_t b = 0; c->where && b < c->env->batch; b++)
        for (uint32_t h = 0; h < heads; h++)
            KVP_TRY(l->be->read(l->dev, (struct kb_span){c->index.buf, (b * heads + h) * n * sizeof(int32_t)},
                                traced(c, layer, b, h), n * sizeof(int32_t), e));
    return KVP_OK;
}

static kvp_err h2o_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    KVP_TRY(attend_prompt(c->env, layer, x, cache_class(c->env, layer)->window, e));
    KVP_TRY(store_reserve(c->store, layer, kept(c, x->tokens), e));
    KVP_TRY(select_slots(c, layer, x, e));
    KVP_TRY(write_selected(c, layer, x, e));
    c->seen = x->tokens;
    return trace_prompt(c, layer, kept(c, x->tokens), e);
}

/* ---- a step ------------------------------------------------------------------------------------ */

static kvp_err attend_step(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t used,
                           struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_decode a = {.batch = c->env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads,
                               .head_dim = cls->head_dim, .scale = cache_scale(c->env, layer), .used = used,
                               .q_stride = x->stride, .q = x->q, .tail_k = x->k, .tail_v = x->v,
                               .tail_stride = x->stride, .out_stride = x->out_stride, .out = x->out,
                               .probs = all_of(&c->probs)};

    store_view(c->store, layer, &a.k, &a.v);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e);
}

static kvp_err evict_step(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t used,
                          struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_h2o_step s = {.batch = c->env->batch,
                            .heads = cls->heads,
                            .kv_heads = cls->kv_heads,
                            .head_dim = cls->head_dim,
                            .used = used,
                            .heavy = c->heavy,
                            .recent = c->recent,
                            .position = x->position,
                            .probs = all_of(&c->probs),
                            .score_format = c->score_format,
                            .new_k = x->k,
                            .new_v = x->v,
                            .new_stride = x->stride,
                            .victim = all_of(&c->victim)};

    s.scores = store_scores(c->store, layer, &s.score_stride);
    store_view(c->store, layer, &s.k, &s.v);
    return c->env->run(c->env->self, KVP_OP_EVICT, KB_H2O_STEP, &s, e);
}

/* The slot that the new token takes when all slots are full: the oldest recent one's. */
static uint64_t recent_slot(const struct cache *c, uint64_t position)
{
    return c->heavy + (position - c->heavy) % c->recent;
}

static kvp_err trace_step(struct cache *c, uint32_t layer, uint64_t position, uint64_t used,
                          struct kvp_error *e)
{
    const struct ledger *l = c->env->led;
    const uint32_t heads = cache_class(c->env, layer)->kv_heads;
    const uint64_t mine = used < c->heavy + c->recent ? used : recent_slot(c, position);

    if (!c->where)
        return KVP_OK;
    KVP_TRY(l->be->read(l->dev, all_of(&c->victim), c->lost, c->env->batch * heads * sizeof(*c->lost), e));
    for (uint64_t b = 0; b < c->env->batch; b++)
        for (uint32_t h = 0; h < heads; h++) {
            int32_t *where = traced(c, layer, b, h);
            const int32_t lost = c->lost[b * heads + h];

            if (lost >= 0)
                where[lost] = where[mine];
            where[mine] = (int32_t)position;
        }
    return KVP_OK;
}

static kvp_err h2o_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t used = kept(c, x->position);

    KVP_TRY(store_reserve(c->store, layer, kept(c, x->position + 1), e));
    KVP_TRY(attend_step(c, layer, x, used, e));
    KVP_TRY(evict_step(c, layer, x, used, e));
    c->seen = x->position + 1;
    return trace_step(c, layer, x->position, used, e);
}

/* ---- looking in -------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static kvp_err need_trace(const struct cache *c, struct kvp_error *e)
{
    return c->where ? KVP_OK
                    : kvp_fail(e, KVP_ENOTSUP, "h2o: positions are known only when the run is traced");
}

static kvp_err h2o_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    const uint64_t n = kept(c, c->seen);
    uint64_t *pos;

    KVP_TRY(need_trace(c, e));
    pos = calloc(n + 1, sizeof(*pos));
    if (!pos)
        return kvp_fail(e, KVP_ENOMEM, "h2o: out of memory for %llu positions", (unsigned long long)n);
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        for (uint64_t b = 0; b < c->env->batch; b++)
            for (uint32_t h = 0; h < cache_class(c->env, i)->kv_heads; h++) {
                for (uint64_t s = 0; s < n; s++)
                    pos[s] = (uint64_t)traced(c, i, b, h)[s];
                qsort(pos, n, sizeof(*pos), by_value);
                dump_positions(f, i, h, (int64_t)b, pos, n);
            }
    free(pos);
    return dump_done(f, e);
}

/* [batch, kv_heads, slots, width] in slot order; `position`, when traced, says which token a slot holds. */
static kvp_err dump_part(struct cache *c, uint32_t layer, enum store_part part, const char *name,
                         enum kvp_format format, uint64_t width, FILE *f, struct kvp_error *e)
{
    const uint32_t heads = cache_class(c->env, layer)->kv_heads;
    const uint64_t n = kept(c, c->seen);
    void *host;
    struct dump d;

    KVP_TRY(store_fetch(&host, c->store, layer, part, e));
    dump_begin(&d, f, layer, name, format, (uint64_t[]){c->env->batch, heads, n, width});
    for (uint64_t b = 0; b < c->env->batch; b++)
        for (uint32_t h = 0; h < heads; h++)
            for (uint64_t s = 0; s < n; s++)
                dump_values(&d, format, (char *)host + store_row(c->store, layer, part, b, h, s).offset,
                            width);
    dump_end(&d);
    free(host);
    return KVP_OK;
}

static void dump_where(struct cache *c, uint32_t layer, FILE *f)
{
    const uint32_t heads = cache_class(c->env, layer)->kv_heads;
    const uint64_t n = kept(c, c->seen);
    struct dump d;

    dump_begin(&d, f, layer, "position", KVP_I32, (uint64_t[]){c->env->batch, heads, n, 1});
    for (uint64_t b = 0; b < c->env->batch; b++)
        for (uint32_t h = 0; h < heads; h++)
            dump_values(&d, KVP_I32, traced(c, layer, b, h), n);
    dump_end(&d);
}

static kvp_err h2o_dump_cache(struct cache *c, FILE *f, struct kvp_error *e)
{
    for (uint32_t i = 0; i < c->env->model->layers; i++) {
        const uint32_t dim = cache_class(c->env, i)->head_dim;

        KVP_TRY(dump_part(c, i, STORE_K, "k", c->env->format, dim, f, e));
        KVP_TRY(dump_part(c, i, STORE_V, "v", c->env->format, dim, f, e));
        KVP_TRY(dump_part(c, i, STORE_SCORE, "score", c->score_format, 1, f, e));
        if (c->where)
            dump_where(c, i, f);
    }
    return dump_done(f, e);
}

static kvp_err h2o_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    const uint64_t n = kept(c, c->seen);

    KVP_TRY(need_trace(c, e));
    for (uint64_t s = 0; s < n; s++)
        if ((uint64_t)traced(c, 0, 0, 0)[s] == pos) {
            *stored = true;
            return store_poison_slot(c->store, 0, 0, 0, s, e);
        }
    *stored = false;
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        KVP_TRY(store_poison_unused(c->store, i, n, e));
    return KVP_OK;
}

const struct cache_ops cache_h2o = {.name = "h2o",
                                    .axis = KVP_AXIS_SELECT,
                                    .params = "heavy recent heavy_ratio recent_ratio score_dtype variant",
                                    .takes = takes_variant,
                                    .encodes = true,
                                    .open = h2o_open,
                                    .close = h2o_close,
                                    .reset = h2o_reset,
                                    .prefill = h2o_prefill,
                                    .decode = h2o_decode,
                                    .dump_kept = h2o_dump_kept,
                                    .dump_cache = h2o_dump_cache,
                                    .poison = h2o_poison};
