/* adakv.c - SnapKV with one budget for all heads of a layer (Feng et al. 2024, arXiv:2407.11550, section 3; FFY0/AdaKV
 * adaptive_snapkv/monkeypatch/snapkv_utils.py)
 *
 * A prompt of more than `cap` tokens leaves `cap` a head on average: its last `window` in every head, and of the others
 * as many as the head has among the layer's best, a fifth of the budget being everyone's (kernels/ops/share_tokens.h).
 * A layer's rows lie in one tensor for k and one for v, head after head; each head's stretch has room for what will be
 * generated, or, in a growing store, the tensor is replaced at every step by one with a row more for each head. Beside
 * them the public code's seven lists of lengths and offsets (METADATA, i32): head_lens, cu_headlens, cu_klen, layer_qlens,
 * cu_qlen, cu_offset, cu_head_offset. A layer whose own window is shorter than the run keeps that window. */
#include "validate/caches/caches.h"
#include "validate/caches/dump.h"
#include "validate/caches/look.h"
#include "validate/caches/picked.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <stdlib.h>

enum { KEY, VALUE, SIDES };

struct flat {
    struct led_mem mem[SIDES], lists;
    uint64_t rows;     /* room of a sequence */
    int32_t *host;     /* [batch, lists of a sequence]: what `lists` holds */
    int32_t *where;    /* tracing: [batch, heads, context] the token of each row */
};

struct cache {
    const struct cache_env *env;
    struct picked_rule rule;
    uint64_t kept; /* of the prompt, a head on average */
    struct store_plan plan;
    uint64_t *room;   /* [layers] slots of the rings; 0: the layer is flat */
    uint32_t *heads;  /* [layers] of the rings */
    struct flat *flat; /* [layers] */
    struct store *store;
    struct look look; /* of the rings */
    struct led_mem scores, index; /* transients, each for the layer that needs most */
};

/* ---- sizes ------------------------------------------------------------------------------------------------ */

static uint32_t heads_of(const struct cache *c, uint32_t layer)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);

    return c->rule.query_heads ? cls->heads : cls->kv_heads;
}

static uint64_t list_size(const struct cache *c, uint32_t layer)
{
    return 7ull * heads_of(c, layer) + 3;
}

static bool drops(const struct cache *c)
{
    return c->kept < c->env->prompt;
}

static kvp_err alloc(struct cache *c, enum led_tag tag, struct led_mem *out, uint64_t rows, uint64_t bytes, struct kvp_error *e)
{
    uint64_t all;

    KVP_TRY(SIZE_PRODUCT(&all, "adakv", e, c->env->batch, rows, bytes));
    return led_alloc(c->env->led, tag, all, out, e);
}

static uint64_t row_bytes(const struct cache *c, uint32_t layer)
{
    return cache_class(c->env, layer)->head_dim * size_of_format(c->env->format);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static kvp_err open_flat(struct cache *c, uint32_t layer, struct kvp_error *e)
{
    const uint64_t heads = heads_of(c, layer);
    struct flat *f = &c->flat[layer];

    f->host = calloc(c->env->batch * list_size(c, layer), sizeof(*f->host));
    f->where = c->env->trace ? calloc(c->env->batch * heads * c->env->context, sizeof(*f->where)) : NULL;
    if (!f->host || (c->env->trace && !f->where))
        return kvp_fail(e, KVP_ENOMEM, "adakv: out of memory for the lists of %llu heads", (unsigned long long)heads);
    KVP_TRY(alloc(c, LED_METADATA, &f->lists, list_size(c, layer), sizeof(int32_t), e));
    if (c->plan.grows)
        return KVP_OK;
    KVP_TRY(SIZE_PRODUCT(&f->rows, "adakv: rows", e, heads, c->kept + c->plan.tokens - c->env->prompt));
    KVP_TRY(alloc(c, LED_CACHE, &f->mem[KEY], f->rows, row_bytes(c, layer), e));
    return alloc(c, LED_CACHE, &f->mem[VALUE], f->rows, row_bytes(c, layer), e);
}

static kvp_err open_transients(struct cache *c, struct kvp_error *e)
{
    uint64_t heads = 0;

    for (uint32_t i = 0; drops(c) && i < c->env->model->layers; i++)
        heads = c->rule.acts[i] && heads_of(c, i) > heads ? heads_of(c, i) : heads;
    KVP_TRY(alloc(c, LED_WORKSPACE, &c->scores, heads * c->env->prompt, sizeof(float), e));
    return alloc(c, LED_WORKSPACE, &c->index, heads * c->kept, sizeof(int32_t), e);
}

static kvp_err open_layers(struct cache *c, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;

    KVP_TRY(store_plan(&c->plan, c->env, e));
    if (c->plan.block)
        return kvp_fail(e, KVP_ENOTSUP, "adakv: heads keep different numbers of tokens, and a table of pages serves all heads of a layer");
    for (uint32_t i = 0; i < layers; i++) {
        c->room[i] = c->rule.acts[i] ? 0 : cache_class(c->env, i)->window;
        c->heads[i] = c->rule.acts[i] ? 0 : cache_class(c->env, i)->kv_heads;
    }
    KVP_TRY(store_open_as(&c->store, c->env, &(struct store_shape){.cap = c->room, .heads = c->heads}, e));
    KVP_TRY(look_open(&c->look, c->env, c->store, "adakv", true, c->room, e));
    for (uint32_t i = 0; i < layers; i++)
        if (c->rule.acts[i])
            KVP_TRY(open_flat(c, i, e));
    return open_transients(c, e);
}

static kvp_err build(struct cache *c, struct kvp_error *e)
{
    const struct kvp_spec *spec = kvp_stack_on(c->env->stack, KVP_AXIS_SELECT);
    const uint32_t layers = c->env->model->layers;
    uint64_t cap;

    c->rule.acts = calloc(layers, sizeof(*c->rule.acts));
    c->room = calloc(layers, sizeof(*c->room));
    c->heads = calloc(layers, sizeof(*c->heads));
    c->flat = calloc(layers, sizeof(*c->flat));
    if (!c->rule.acts || !c->room || !c->heads || !c->flat)
        return kvp_fail(e, KVP_ENOMEM, "adakv: out of memory for %u layers", layers);
    KVP_TRY(picked_acts(c->rule.acts, c->env, spec->name, e));
    KVP_TRY(picked_read_window(&c->rule, spec, e));
    KVP_TRY(picked_read_cap(&cap, &c->rule, spec, e));
    c->kept = size_min(cap, c->env->prompt);
    return open_layers(c, e);
}

static void free_rows(struct cache *c, uint32_t layer)
{
    led_free(c->env->led, &c->flat[layer].mem[KEY]);
    led_free(c->env->led, &c->flat[layer].mem[VALUE]);
}

static void ada_close(struct cache *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; c->flat && i < c->env->model->layers; i++) {
        free_rows(c, i);
        led_free(c->env->led, &c->flat[i].lists);
        free(c->flat[i].host);
        free(c->flat[i].where);
    }
    led_free(c->env->led, &c->scores);
    led_free(c->env->led, &c->index);
    look_close(&c->look);
    store_close(c->store);
    free(c->rule.acts);
    free(c->room);
    free(c->heads);
    free(c->flat);
    free(c);
}

static kvp_err ada_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "adakv: out of memory for a cache");
    c->env = env;
    rc = build(c, e);
    if (rc != KVP_OK) {
        ada_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err ada_reset(struct cache *c, struct kvp_error *e)
{
    for (uint32_t i = 0; i < c->env->model->layers; i++) {
        if (!c->rule.acts[i])
            continue;
        memset(c->flat[i].host, 0, c->env->batch * list_size(c, i) * sizeof(int32_t));
        if (c->plan.grows)
            free_rows(c, i);
    }
    look_reset(&c->look);
    return store_reset(c->store, e);
}

/* ---- lists ------------------------------------------------------------------------------------------------------ */

/* The first of a sequence's lists, on the host: head_lens; and where a head's rows begin: cu_klen. */
static int32_t *lengths(const struct cache *c, uint32_t layer, uint64_t b)
{
    return c->flat[layer].host + b * list_size(c, layer);
}

static int32_t *starts(const struct cache *c, uint32_t layer, uint64_t b)
{
    return lengths(c, layer, b) + 2 * heads_of(c, layer);
}

/* The other lists of a sequence from its lengths; `spare`: rows that each stretch has beyond them. */
static void fill_lists(struct cache *c, uint32_t layer, uint64_t b, uint64_t spare)
{
    const uint32_t n = heads_of(c, layer);
    int32_t *len = lengths(c, layer, b), *sums = len + n, *start = starts(c, layer, b), *ones = start + n + 1, *q = ones + n, *offset = q + n + 1,
            *head = offset + n + 1, at = 0, sum = 0;

    for (uint32_t h = 0; h <= n; h++) {
        start[h] = at;
        q[h] = offset[h] = (int32_t)h;
        if (h == n)
            break;
        sum += len[h];
        sums[h] = sum;
        ones[h] = 1;
        head[h] = (int32_t)h + 1;
        at += len[h] + (int32_t)spare;
    }
}

static kvp_err send_lists(struct cache *c, uint32_t layer, struct kvp_error *e)
{
    const struct ledger *l = c->env->led;

    return l->be->write(l->dev, (struct kb_span){c->flat[layer].lists.buf, 0}, c->flat[layer].host,
                        c->env->batch * list_size(c, layer) * sizeof(int32_t), e);
}

static struct kb_ragged ragged(const struct cache *c, uint32_t layer, int side)
{
    const struct flat *f = &c->flat[layer];
    const uint32_t heads = heads_of(c, layer);

    return (struct kb_ragged){.data = {f->mem[side].buf, 0}, .format = c->env->format, .heads = heads, .dim = cache_class(c->env, layer)->head_dim,
                              .rows = f->rows, .lengths = {f->lists.buf, 0}, .starts = {f->lists.buf, 2ull * heads * sizeof(int32_t)},
                              .list_stride = list_size(c, layer)};
}

/* ---- rows --------------------------------------------------------------------------------------------------------- */

static kvp_err write_rows(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kb_span index, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_ragged_write w = {.batch = c->env->batch, .src_tokens = x->tokens, .src_stride = x->stride, .index = index,
                                .index_stride = heads_of(c, layer) * c->kept, .repeat = heads_of(c, layer) / cls->kv_heads};

    for (int side = KEY; side < SIDES; side++) {
        w.dst = ragged(c, layer, side);
        w.src = side == KEY ? x->k : x->v;
        KVP_TRY(c->env->run(c->env->self, KVP_OP_APPEND, KB_RAGGED_WRITE, &w, e));
    }
    return KVP_OK;
}

/* A tensor with one row more for each head; `old`: where the stretches began, [batch, heads]. */
static kvp_err grow(struct cache *c, uint32_t layer, int side, const int32_t *old, uint64_t rows, struct kvp_error *e)
{
    const uint32_t heads = heads_of(c, layer);
    struct flat *f = &c->flat[layer];
    struct led_mem longer = {0};
    const uint64_t row = row_bytes(c, layer);
    kvp_err rc;

    KVP_TRY(alloc(c, LED_CACHE, &longer, rows, row, e));
    rc = KVP_OK;
    for (uint64_t n = 0; rc == KVP_OK && n < c->env->batch * heads; n++) {
        const uint64_t b = n / heads, h = n % heads, held = (uint64_t)lengths(c, layer, b)[h] - 1;

        rc = copy_runs(c->env, KVP_OP_GROW, (struct kb_span){longer.buf, (b * rows + (uint64_t)starts(c, layer, b)[h]) * row}, held * row,
                       (struct kb_span){f->mem[side].buf, (b * f->rows + (uint64_t)old[n]) * row}, held * row, held * row, 1, e);
    }
    if (rc != KVP_OK) {
        led_free(c->env->led, &longer);
        return rc;
    }
    led_free(c->env->led, &f->mem[side]);
    f->mem[side] = longer;
    return KVP_OK;
}

static kvp_err grow_both(struct cache *c, uint32_t layer, const int32_t *old, struct kvp_error *e)
{
    const uint64_t rows = c->flat[layer].rows + heads_of(c, layer);

    KVP_TRY(grow(c, layer, KEY, old, rows, e));
    KVP_TRY(grow(c, layer, VALUE, old, rows, e));
    c->flat[layer].rows = rows;
    return KVP_OK;
}

/* ---- the prompt ------------------------------------------------------------------------------------------------------ */

/* Which tokens each head keeps, into c->index and the lengths. */
static kvp_err choose(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct cache_env *env = c->env;
    const struct kvp_layer_class *cls = cache_class(env, layer);
    const struct ledger *l = env->led;
    const uint64_t base = c->kept - c->rule.window;
    const struct kb_window_scores s = {.batch = env->batch, .tokens = x->tokens, .heads = cls->heads, .kv_heads = cls->kv_heads,
                                       .head_dim = cls->head_dim, .sets = heads_of(c, layer), .window = c->rule.window,
                                       .columns = x->tokens - c->rule.window, .kernel = c->rule.kernel, .average = c->rule.average,
                                       .scale = cache_scale(env, layer), .stride = x->stride, .q = x->q, .k = x->k, .lse = x->lse,
                                       .scores = {c->scores.buf, 0}};
    const struct kb_share_tokens t = {.batch = env->batch, .tokens = x->tokens, .sets = s.sets, .columns = s.columns, .base = base,
                                      .floor = (uint64_t)(0.2 * (double)base), .scores = s.scores,
                                      .lengths = {c->flat[layer].lists.buf, 0}, .list_stride = list_size(c, layer),
                                      .index = {c->index.buf, 0}};

    KVP_TRY(env->run(env->self, KVP_OP_SELECT, KB_WINDOW_SCORES, &s, e));
    KVP_TRY(env->run(env->self, KVP_OP_SELECT, KB_SHARE_TOKENS, &t, e));
    for (uint64_t b = 0; b < env->batch; b++)
        KVP_TRY(l->be->read(l->dev, (struct kb_span){t.lengths.buf, b * t.list_stride * sizeof(int32_t)}, lengths(c, layer, b),
                            t.sets * sizeof(int32_t), e));
    return KVP_OK;
}

static kvp_err trace_prompt(struct cache *c, uint32_t layer, const int32_t *index)
{
    const uint32_t heads = heads_of(c, layer);
    struct flat *f = &c->flat[layer];
    uint64_t at = 0;

    for (uint64_t n = 0; f->where && n < c->env->batch * heads; n++) {
        const uint64_t held = (uint64_t)lengths(c, layer, n / heads)[n % heads];

        for (uint64_t j = 0; j < held; j++)
            f->where[n * c->env->context + j] = index ? index[at + j] : (int32_t)j;
        at += held;
    }
    return KVP_OK;
}

static kvp_err read_trace(struct cache *c, uint32_t layer, struct kvp_error *e)
{
    const struct ledger *l = c->env->led;
    const uint64_t n = c->env->batch * heads_of(c, layer) * c->kept;
    int32_t *index;
    kvp_err rc;

    if (!c->flat[layer].where)
        return KVP_OK;
    index = malloc(n * sizeof(*index));
    if (!index)
        return kvp_fail(e, KVP_ENOMEM, "adakv: out of memory for a trace");
    rc = l->be->read(l->dev, (struct kb_span){c->index.buf, 0}, index, n * sizeof(*index), e);
    if (rc == KVP_OK)
        rc = trace_prompt(c, layer, index);
    free(index);
    return rc;
}

/* All tokens in every head: the i-th row is the i-th token. Written head by head, as no index says so. */
static kvp_err write_all(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint32_t heads = heads_of(c, layer), repeat = heads / cls->kv_heads;
    const uint64_t row = row_bytes(c, layer);

    for (uint64_t n = 0; n < c->env->batch * heads * SIDES; n++) {
        const uint64_t b = n / SIDES / heads, h = n / SIDES % heads;
        const struct kb_span src = n % SIDES == KEY ? x->k : x->v;
        const struct kb_cache_write w = {
            .batch = 1, .count = x->tokens, .src_tokens = x->tokens, .src_stride = x->stride,
            .src = {src.buf, src.offset + (b * x->tokens * x->stride + h / repeat * cls->head_dim) * sizeof(float)},
            .dst = {.data = {c->flat[layer].mem[n % SIDES].buf, (b * c->flat[layer].rows + (uint64_t)starts(c, layer, b)[h]) * row},
                    .format = c->env->format, .heads = 1, .dim = cls->head_dim, .slots = x->tokens}};

        KVP_TRY(c->env->run(c->env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e));
    }
    return trace_prompt(c, layer, NULL);
}

static kvp_err keep_prompt(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint32_t heads = heads_of(c, layer);
    struct flat *f = &c->flat[layer];

    if (drops(c))
        KVP_TRY(choose(c, layer, x, e));
    for (uint64_t b = 0; b < c->env->batch; b++) {
        for (uint32_t h = 0; !drops(c) && h < heads; h++)
            lengths(c, layer, b)[h] = (int32_t)x->tokens;
        fill_lists(c, layer, b, c->plan.grows ? 0 : c->plan.tokens - c->env->prompt);
    }
    if (c->plan.grows) {
        f->rows = heads * c->kept;
        KVP_TRY(alloc(c, LED_CACHE, &f->mem[KEY], f->rows, row_bytes(c, layer), e));
        KVP_TRY(alloc(c, LED_CACHE, &f->mem[VALUE], f->rows, row_bytes(c, layer), e));
    }
    KVP_TRY(send_lists(c, layer, e));
    if (!drops(c))
        return write_all(c, layer, x, e);
    KVP_TRY(write_rows(c, layer, x, (struct kb_span){c->index.buf, 0}, e));
    return read_trace(c, layer, e);
}

/* The newest rows of a layer with a window of its own. */
static kvp_err keep_ring(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t seen = x->position + x->tokens, ring = c->room[layer], used = size_min(seen, ring), n = size_min(used, x->tokens);
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

static kvp_err ada_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    KVP_TRY(attend_prompt(c->env, layer, x, cache_class(c->env, layer)->window, e));
    return c->rule.acts[layer] ? keep_prompt(c, layer, x, e) : keep_ring(c, layer, x, e);
}

/* ---- a step ----------------------------------------------------------------------------------------------------------- */

/* One row more for each head: its number in the lengths, and room for it. */
static kvp_err lengthen(struct cache *c, uint32_t layer, uint64_t position, struct kvp_error *e)
{
    const uint32_t heads = heads_of(c, layer);
    int32_t *old = malloc(c->env->batch * heads * sizeof(*old));
    kvp_err rc = KVP_OK;

    if (!old)
        return kvp_fail(e, KVP_ENOMEM, "adakv: out of memory for %u heads", heads);
    for (uint64_t b = 0; b < c->env->batch; b++) {
        memcpy(old + b * heads, starts(c, layer, b), heads * sizeof(*old));
        for (uint32_t h = 0; h < heads; h++) {
            const int32_t row = lengths(c, layer, b)[h]++;

            if (c->flat[layer].where)
                c->flat[layer].where[(b * heads + h) * c->env->context + (uint64_t)row] = (int32_t)position;
        }
        fill_lists(c, layer, b, c->plan.grows ? 0 : c->plan.tokens - position - 1);
    }
    if (c->plan.grows)
        rc = grow_both(c, layer, old, e);
    free(old);
    return rc == KVP_OK ? send_lists(c, layer, e) : rc;
}

static kvp_err step_flat(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    struct kb_attn_ragged a = {.batch = c->env->batch, .heads = cache_class(c->env, layer)->heads, .scale = cache_scale(c->env, layer),
                               .q_stride = x->stride, .q = x->q, .out_stride = x->out_stride, .out = x->out};

    KVP_TRY(lengthen(c, layer, x->position, e));
    KVP_TRY(write_rows(c, layer, x, (struct kb_span){0}, e));
    a.k = ragged(c, layer, KEY);
    a.v = ragged(c, layer, VALUE);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_RAGGED, &a, e);
}

static kvp_err step_ring(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_decode a = {.batch = c->env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads, .head_dim = cls->head_dim,
                               .scale = cache_scale(c->env, layer), .q_stride = x->stride, .q = x->q,
                               .out_stride = x->out_stride, .out = x->out};

    KVP_TRY(keep_ring(c, layer, x, e));
    a.used = c->look.used[layer];
    store_view(c->store, layer, &a.k, &a.v);
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e);
}

static kvp_err ada_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    return c->rule.acts[layer] ? step_flat(c, layer, x, e) : step_ring(c, layer, x, e);
}

/* ---- looking in ------------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* `n` tokens of a head, in text order. */
static kvp_err dump_head(FILE *f, uint32_t layer, uint64_t b, uint32_t h, const int32_t *where, uint64_t n, struct kvp_error *e)
{
    uint64_t *pos = calloc(n + 1, sizeof(*pos));

    if (!pos)
        return kvp_fail(e, KVP_ENOMEM, "adakv: out of memory for %llu positions", (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++)
        pos[i] = (uint64_t)where[i];
    qsort(pos, n, sizeof(*pos), by_value);
    dump_positions(f, layer, h, (int64_t)b, pos, n);
    free(pos);
    return KVP_OK;
}

static kvp_err ada_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    if (!c->env->trace)
        return kvp_fail(e, KVP_ENOTSUP, "adakv: positions are known only when the run is traced");
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        for (uint64_t b = 0; b < c->env->batch; b++)
            for (uint32_t h = 0; h < (c->rule.acts[i] ? heads_of(c, i) : c->heads[i]); h++)
                KVP_TRY(c->rule.acts[i] ? dump_head(f, i, b, h, c->flat[i].where + (b * heads_of(c, i) + h) * c->env->context,
                                                    (uint64_t)lengths(c, i, b)[h], e)
                                        : dump_head(f, i, b, h, look_at(&c->look, i, b, 0), c->look.used[i], e));
    return dump_done(f, e);
}

/* Row j of a head, in k and v, or all of them from there to the next head's first. */
static kvp_err poison_rows(struct cache *c, uint32_t layer, uint64_t b, uint32_t h, uint64_t j, uint64_t n, struct kvp_error *e)
{
    const struct ledger *l = c->env->led;
    const uint64_t row = row_bytes(c, layer);

    for (int side = KEY; n && side < SIDES; side++)
        KVP_TRY(l->be->fill(l->dev, (struct kb_span){c->flat[layer].mem[side].buf, (b * c->flat[layer].rows + (uint64_t)starts(c, layer, b)[h] + j) * row},
                            0xff, n * row, e));
    return KVP_OK;
}

static kvp_err poison_spare(struct cache *c, struct kvp_error *e)
{
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        for (uint64_t b = 0; c->rule.acts[i] && b < c->env->batch; b++)
            for (uint32_t h = 0; h < heads_of(c, i); h++) {
                const uint64_t held = (uint64_t)lengths(c, i, b)[h], room = (uint64_t)(starts(c, i, b)[h + 1] - starts(c, i, b)[h]);

                KVP_TRY(poison_rows(c, i, b, h, held, room - held, e));
            }
    return KVP_OK;
}

static kvp_err ada_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    if (!c->env->trace)
        return kvp_fail(e, KVP_ENOTSUP, "adakv: positions are known only when the run is traced");
    *stored = false;
    for (uint64_t j = 0; c->rule.acts[0] && j < (uint64_t)lengths(c, 0, 0)[0]; j++)
        if ((uint64_t)c->flat[0].where[j] == pos) {
            *stored = true;
            return poison_rows(c, 0, 0, 0, j, 1, e);
        }
    KVP_TRY(look_poison(&c->look, c->rule.acts[0] ? UINT64_MAX : pos, stored, e));
    return *stored ? KVP_OK : poison_spare(c, e);
}

const struct cache_ops cache_adakv = {.name = "adakv", .axis = KVP_AXIS_SELECT, .params = "cap window kernel pooling heads",
                                      .open = ada_open, .close = ada_close, .reset = ada_reset, .prefill = ada_prefill,
                                      .decode = ada_decode, .dump_kept = ada_dump_kept, .poison = ada_poison};
