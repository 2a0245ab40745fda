/* h2o_flexgen.c - heavy hitters as FlexGen's port has them (Zhang et al. 2023, arXiv:2306.14048, appendix A;
 * FMInference/H2O h2o_flexgen/flexgen/pytorch_backend.py)
 *
 * With k = `heavy` there are 2k slots for each kv head, and a score beside each, from the start, whatever the run needs. The
 * prompt leaves its k heaviest tokens of all but the last k - 1, and those; one slot is free. A step writes its row
 * there first and attends to it with the others. Then the lightest of the k heavy ones is lost, whatever the recent ones
 * weigh; the oldest recent token takes its slot, and the new one the slot of that. While there is room nothing is lost. A
 * layer whose own window is shorter than the run is refused, as variant=drop does. */
#include "validate/caches/caches.h"
#include "validate/caches/look.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <stdlib.h>

struct cache {
    const struct cache_env *env;
    uint64_t heavy;
    enum kvp_format score_format;
    struct store *store;
    struct look look;
    struct led_mem prompt_scores, index, probs, victim; /* transients, each for the widest layer */
    int32_t *lost;                                      /* tracing: [batch, kv_heads], of the layer at hand */
};

static bool takes(const struct kvp_spec *spec)
{
    const struct kvp_param *v = kvp_spec_param(spec, "variant");

    return v && v->word && strcmp(v->word, "flexgen") == 0;
}

/* ---- parameters -------------------------------------------------------------------------------- */

static kvp_err check_windows(const struct cache *c, const struct kvp_spec *spec, struct kvp_error *e)
{
    for (uint32_t i = 0; i < c->env->model->layers; i++) {
        const uint64_t w = cache_class(c->env, i)->window;

        if (w && c->env->context > w)
            return kvp_fail(e, KVP_ENOTSUP, "%s: layer %u sees only %llu of %llu tokens and must not see older ones it keeps",
                            spec->name, i, (unsigned long long)w, (unsigned long long)c->env->context);
    }
    return KVP_OK;
}

static kvp_err read_spec(struct cache *c, struct kvp_error *e)
{
    const struct kvp_spec *spec = kvp_stack_on(c->env->stack, KVP_AXIS_SELECT);
    const struct kvp_param *n = kvp_spec_param(spec, "heavy"), *r = kvp_spec_param(spec, "heavy_ratio"), *f = kvp_spec_param(spec, "score_dtype");
    const struct kvp_param *recent = kvp_spec_param(spec, "recent");

    if (recent && recent->given)
        return kvp_fail(e, KVP_EINPUT, "%s: variant=flexgen has as many recent slots as heavy ones, expected heavy only", spec->name);
    if (n && n->given)
        c->heavy = n->i > 0 ? (uint64_t)n->i : 0;
    else
        c->heavy = r && r->r > 0 ? (uint64_t)(r->r * (double)c->env->prompt) : 0;
    c->score_format = f ? f->f : KVP_F32;
    if (c->heavy < 2 || c->heavy > INT32_MAX / 2)
        return kvp_fail(e, KVP_EINPUT, "%s: heavy is %llu tokens; variant=flexgen keeps heavy - 1 recent ones, so at least 2 and below 2^30",
                        spec->name, (unsigned long long)c->heavy);
    if (c->score_format != KVP_F32 && c->score_format != KVP_F16)
        return kvp_fail(e, KVP_EINPUT, "%s: score_dtype is %s, expected f32 or f16", spec->name, kvp_format_name(c->score_format));
    return check_windows(c, spec, e);
}

/* ---- storage ----------------------------------------------------------------------------------- */

/* Slots that hold a token between steps. */
static uint64_t kept(const struct cache *c, uint64_t seen)
{
    return size_min(seen, 2 * c->heavy - 1);
}

static kvp_err transient(struct cache *c, enum led_tag tag, struct led_mem *out, uint64_t heads, uint64_t n, struct kvp_error *e)
{
    uint64_t bytes;

    KVP_TRY(SIZE_PRODUCT(&bytes, "h2o: workspace", e, c->env->batch, heads, n, size_of_format(KVP_F32)));
    return led_alloc(c->env->led, tag, bytes, out, e);
}

static kvp_err open_transients(struct cache *c, struct kvp_error *e)
{
    uint64_t heads = 0, kv_heads = 0;

    for (uint32_t i = 0; i < c->env->model->classes; i++) {
        const struct kvp_layer_class *cls = &c->env->model->cls[i];

        heads = cls->heads > heads ? cls->heads : heads;
        kv_heads = cls->kv_heads > kv_heads ? cls->kv_heads : kv_heads;
    }
    KVP_TRY(transient(c, LED_WORKSPACE, &c->prompt_scores, kv_heads, c->env->prompt, e));
    KVP_TRY(transient(c, LED_WORKSPACE, &c->index, kv_heads, kept(c, c->env->prompt), e));
    KVP_TRY(transient(c, LED_WORKSPACE, &c->probs, heads, size_min(c->env->context, 2 * c->heavy), e));
    if (!c->env->trace)
        return KVP_OK;
    c->lost = calloc(c->env->batch * kv_heads, sizeof(*c->lost));
    if (!c->lost)
        return kvp_fail(e, KVP_ENOMEM, "h2o: out of memory for a trace");
    return transient(c, LED_TRACE, &c->victim, kv_heads, 1, e);
}

static kvp_err build(struct cache *c, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    uint64_t *room;
    kvp_err rc;

    KVP_TRY(read_spec(c, e));
    room = calloc(layers, sizeof(*room));
    if (!room)
        return kvp_fail(e, KVP_ENOMEM, "h2o: out of memory for %u layers", layers);
    for (uint32_t i = 0; i < layers; i++)
        room[i] = 2 * c->heavy;
    rc = store_open_as(&c->store, c->env, &(struct store_shape){.cap = room, .score = &c->score_format, .fixed = true}, e);
    if (rc == KVP_OK)
        rc = look_open(&c->look, c->env, c->store, "h2o", false, room, e);
    free(room);
    return rc == KVP_OK ? open_transients(c, e) : rc;
}

static void flexgen_close(struct cache *c)
{
    if (!c)
        return;
    look_close(&c->look);
    store_close(c->store);
    led_free(c->env->led, &c->prompt_scores);
    led_free(c->env->led, &c->index);
    led_free(c->env->led, &c->probs);
    led_free(c->env->led, &c->victim);
    free(c->lost);
    free(c);
}

static kvp_err flexgen_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "h2o: out of memory for a cache");
    c->env = env;
    rc = build(c, e);
    if (rc != KVP_OK) {
        flexgen_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err flexgen_reset(struct cache *c, struct kvp_error *e)
{
    look_reset(&c->look);
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
    const struct kb_h2o_scores s = {.batch = env->batch, .tokens = x->tokens, .heads = cls->heads, .kv_heads = cls->kv_heads,
                                    .head_dim = cls->head_dim, .window = cls->window, .scale = cache_scale(env, layer),
                                    .stride = x->stride, .q = x->q, .k = x->k, .lse = x->lse, .scores = all_of(&c->prompt_scores)};
    struct kb_h2o_select p = {.batch = env->batch, .tokens = x->tokens, .kv_heads = cls->kv_heads, .heavy = c->heavy,
                              .recent = c->heavy - 1, .scores = s.scores, .index = all_of(&c->index), .score_format = c->score_format};

    KVP_TRY(env->run(env->self, KVP_OP_SCORE, KB_H2O_SCORES, &s, e));
    p.kept_scores = store_scores(c->store, layer, &p.kept_stride);
    return env->run(env->self, KVP_OP_EVICT, KB_H2O_SELECT, &p, e);
}

static kvp_err write(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kb_cache_write w, struct kvp_error *e)
{
    struct kb_kv k, v;

    store_view(c->store, layer, &k, &v);
    w.batch = c->env->batch;
    w.src_tokens = x->tokens;
    w.src_stride = x->stride;
    w.src = x->k;
    w.dst = k;
    KVP_TRY(c->env->run(c->env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e));
    w.src = x->v;
    w.dst = v;
    return c->env->run(c->env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e);
}

static kvp_err flexgen_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t n = kept(c, x->tokens);

    KVP_TRY(attend_prompt(c->env, layer, x, cache_class(c->env, layer)->window, e));
    KVP_TRY(store_reserve(c->store, layer, size_min(x->tokens, 2 * c->heavy), e));
    KVP_TRY(select_slots(c, layer, x, e));
    KVP_TRY(write(c, layer, x, (struct kb_cache_write){.count = n, .index = all_of(&c->index), .index_stride = n, .calibrate = true}, e));
    c->look.used[layer] = n;
    return look_read(&c->look, layer, all_of(&c->index), n, e);
}

/* ---- a step ------------------------------------------------------------------------------------ */

static kvp_err trace_step(struct cache *c, uint32_t layer, uint64_t position, uint64_t used, struct kvp_error *e)
{
    const struct ledger *l = c->env->led;
    const uint32_t heads = cache_class(c->env, layer)->kv_heads;
    const uint64_t oldest = c->heavy + (position - c->heavy) % (c->heavy - 1);

    if (!c->lost)
        return KVP_OK;
    KVP_TRY(l->be->read(l->dev, all_of(&c->victim), c->lost, c->env->batch * heads * sizeof(*c->lost), e));
    for (uint64_t n = 0; n < c->env->batch * heads; n++) {
        int32_t *where = look_at(&c->look, layer, n / heads, (uint32_t)(n % heads));

        if (c->lost[n] >= 0)
            where[c->lost[n]] = where[oldest];
        where[c->lost[n] >= 0 ? oldest : used] = (int32_t)position;
    }
    return KVP_OK;
}

static kvp_err flexgen_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct cache_env *env = c->env;
    const struct kvp_layer_class *cls = cache_class(env, layer);
    const uint64_t used = kept(c, x->position);
    struct kb_attn_decode a = {.batch = env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads, .head_dim = cls->head_dim,
                               .scale = cache_scale(env, layer), .used = used + 1, .q_stride = x->stride, .q = x->q,
                               .out_stride = x->out_stride, .out = x->out, .probs = all_of(&c->probs)};
    struct kb_h2o_promote p = {.batch = env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads, .head_dim = cls->head_dim,
                               .used = used, .heavy = c->heavy, .position = x->position, .probs = a.probs,
                               .score_format = c->score_format, .victim = all_of(&c->victim)};

    KVP_TRY(store_reserve(c->store, layer, used + 1, e));
    KVP_TRY(write(c, layer, x, (struct kb_cache_write){.count = 1, .slot = used}, e));
    store_view(c->store, layer, &a.k, &a.v);
    KVP_TRY(env->run(env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e));
    p.k = a.k;
    p.v = a.v;
    p.scores = store_scores(c->store, layer, &p.score_stride);
    KVP_TRY(env->run(env->self, KVP_OP_EVICT, KB_H2O_PROMOTE, &p, e));
    c->look.used[layer] = kept(c, x->position + 1);
    return trace_step(c, layer, x->position, used, e);
}

/* ---- looking in -------------------------------------------------------------------------------- */

static kvp_err flexgen_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_kept(&c->look, f, e);
}

static kvp_err flexgen_dump_cache(struct cache *c, FILE *f, struct kvp_error *e)
{
    return look_dump_cache(&c->look, f, e);
}

static kvp_err flexgen_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    return look_poison(&c->look, pos, stored, e);
}

const struct cache_ops cache_h2o_flexgen = {.name = "h2o",
                                            .axis = KVP_AXIS_SELECT,
                                            .params = "heavy recent heavy_ratio score_dtype variant",
                                            .takes = takes,
                                            .encodes = true,
                                            .open = flexgen_open,
                                            .close = flexgen_close,
                                            .reset = flexgen_reset,
                                            .prefill = flexgen_prefill,
                                            .decode = flexgen_decode,
                                            .dump_kept = flexgen_dump_kept,
                                            .dump_cache = flexgen_dump_cache,
                                            .poison = flexgen_poison};
