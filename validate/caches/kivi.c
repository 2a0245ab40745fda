/* kivi.c - keys quantized per channel, values per token, the newest rows in full precision (Liu et al.
 * 2024, arXiv:2402.02750; layout of jy-yuan/KIVI quant/new_pack.py)
 *
 * Of T tokens floor(T/R)*R keys and max(0, T-R) values are packed, in groups of G that share a scale and
 * a minimum; the other rows wait in residuals of the cache's format. Prompt tokens are packed from the f32
 * activations. In a step the new key is written, attention runs over all T tokens (the new value straight
 * from its f32 activations), and then, in the order of jy-yuan/KIVI models/llama_kivi.py, things are packed:
 * the oldest value of a full residual (a ring of R slots), whose slot the new one takes; the keys of a full
 * residual, which is freed unless the store keeps everything. A new one is allocated with the next key, for
 * min(R, tokens left in the run) rows. So a run whose length is a multiple of R ends without it.
 * A window W drops whole groups: packed keys live in a ring of ceil(W/G)*G tokens and packed values in one
 * of W-R, and attention masks to the last W tokens.
 * Codes and residuals are tagged CACHE; scales, minima and block tables METADATA. */
#include "validate/caches/caches.h"
#include "validate/caches/kivi.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <stdlib.h>

/* ---- parameters -------------------------------------------------------------------------------- */

static kvp_err int_param(uint64_t *out, const struct kvp_spec *spec, const char *key, uint64_t most,
                         struct kvp_error *e)
{
    const struct kvp_param *p = kvp_spec_param(spec, key);

    if (!p || p->i < 1 || (uint64_t)p->i > most)
        return kvp_fail(e, KVP_EINPUT, "%s: %s is %lld, expected 1 to %llu", spec->name, key,
                        p ? (long long)p->i : 0, (unsigned long long)most);
    *out = (uint64_t)p->i;
    return KVP_OK;
}

struct multiple {
    const char *what;
    uint64_t n;
    const char *of;
    uint64_t unit;
};

static kvp_err check_multiples(const struct multiple *m, size_t n, struct kvp_error *e)
{
    for (size_t i = 0; i < n; i++)
        if (m[i].n % m[i].unit)
            return kvp_fail(e, KVP_EINPUT, "kivi: %s is %llu, expected a multiple of %s %llu", m[i].what,
                            (unsigned long long)m[i].n, m[i].of, (unsigned long long)m[i].unit);
    return KVP_OK;
}

static kvp_err check_dims(const struct cache *c, struct kvp_error *e)
{
    const uint64_t codes = 32 / c->bits;
    const struct multiple spec[] = {{"residual", c->residual, "group", c->group},
                                    {"group", c->group, "the codes of a 32-bit word,", codes},
                                    {"the block of paged", c->plan.block, "kivi's group", c->group}};

    KVP_TRY(check_multiples(spec, sizeof(spec) / sizeof(spec[0]), e));
    for (uint32_t i = 0; i < c->env->model->classes; i++) {
        const uint64_t d = c->env->model->cls[i].head_dim;
        const struct multiple dims[] = {{"head_dim", d, "group", c->group},
                                        {"head_dim", d, "the codes of a 32-bit word,", codes}};

        KVP_TRY(check_multiples(dims, sizeof(dims) / sizeof(dims[0]), e));
    }
    return KVP_OK;
}

static kvp_err read_spec(struct cache *c, struct kvp_error *e)
{
    const struct kvp_spec *spec = kvp_stack_on(c->env->stack, KVP_AXIS_ENCODE);
    uint64_t bits, group;

    KVP_TRY(int_param(&bits, spec, "bits", 4, e));
    if (bits != 2 && bits != 4)
        return kvp_fail(e, KVP_EINPUT, "%s: bits is %llu, expected 2 or 4", spec->name,
                        (unsigned long long)bits);
    KVP_TRY(int_param(&group, spec, "group", UINT32_MAX, e));
    KVP_TRY(int_param(&c->residual, spec, "residual", INT64_MAX, e));
    c->bits = (uint32_t)bits;
    c->group = (uint32_t)group;
    c->scale_bytes = size_of_format(c->env->format);
    if (c->plan.grows)
        return kvp_fail(e, KVP_ENOTSUP,
                        "%s: a growing store appends whole rows, but key codes are packed across tokens",
                        spec->name);
    return check_dims(c, e);
}

/* ---- storage ----------------------------------------------------------------------------------- */

uint64_t kivi_packed_keys(const struct cache *c, uint64_t tokens)
{
    return tokens / c->residual * c->residual;
}

uint64_t kivi_packed_values(const struct cache *c, uint64_t tokens)
{
    return tokens > c->residual ? tokens - c->residual : 0;
}

static kvp_err plan_layer(const struct cache *c, struct layer *l, struct kvp_error *e)
{
    const uint64_t n = c->plan.tokens, w = l->window;
    uint64_t keys, values;

    l->k.capacity = kivi_packed_keys(c, n);
    l->v.capacity = kivi_packed_values(c, n);
    if (!w || n <= w)
        return KVP_OK;
    if (w < c->residual && c->env->context > w)
        return kvp_fail(e, KVP_EINPUT, "kivi: residual is %llu, expected at most the window of %llu tokens",
                        (unsigned long long)c->residual, (unsigned long long)w);
    keys = size_div_up(w, c->group) * c->group;
    values = w > c->residual ? w - c->residual : 0;
    if (keys < l->k.capacity)
        l->k.capacity = l->k.ring = keys;
    if (values < l->v.capacity)
        l->v.capacity = l->v.ring = values;
    return KVP_OK;
}

static kvp_err side_alloc(struct cache *c, struct side *s, uint64_t codes_row, uint64_t scale_row,
                          uint64_t rows, struct kvp_error *e)
{
    struct ledger *led = c->env->led;
    uint64_t codes, scale;

    KVP_TRY(SIZE_PRODUCT(&codes, "kivi: codes", e, rows, codes_row));
    KVP_TRY(SIZE_PRODUCT(&scale, "kivi: scales", e, rows, scale_row, c->scale_bytes));
    KVP_TRY(led_alloc(led, LED_CACHE, codes, &s->codes, e));
    KVP_TRY(led_alloc(led, LED_METADATA, scale, &s->scale, e));
    return led_alloc(led, LED_METADATA, scale, &s->min, e);
}

/* A key row of codes is one channel over all tokens, a value row one token over all channels. */
static kvp_err open_sides(struct cache *c, uint32_t layer, uint64_t tokens_k, uint64_t tokens_v,
                          struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint64_t d = cls->head_dim;
    struct layer *l = &c->layer[layer];
    uint64_t channels, rows, words;

    KVP_TRY(SIZE_PRODUCT(&channels, "kivi: keys", e, c->env->batch, cls->kv_heads, d));
    KVP_TRY(SIZE_PRODUCT(&words, "kivi: keys", e, tokens_k / (32 / c->bits), sizeof(uint32_t)));
    KVP_TRY(side_alloc(c, &l->k, words, tokens_k / c->group, channels, e));
    KVP_TRY(SIZE_PRODUCT(&rows, "kivi: values", e, c->env->batch, cls->kv_heads, tokens_v));
    return side_alloc(c, &l->v, d / (32 / c->bits) * sizeof(uint32_t), d / c->group, rows, e);
}

/* Residual rows of the cache's format, [batch, kv_heads, rows, head_dim]. */
static kvp_err residual_alloc(struct cache *c, uint32_t layer, uint64_t rows, struct led_mem *out,
                              struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    uint64_t bytes;

    KVP_TRY(SIZE_PRODUCT(&bytes, "kivi: residual", e, c->env->batch, cls->kv_heads, rows, cls->head_dim,
                         c->scale_bytes));
    return led_alloc(c->env->led, LED_CACHE, bytes, out, e);
}

static kvp_err open_layer(struct cache *c, uint32_t layer, uint64_t pages, struct kvp_error *e)
{
    struct layer *l = &c->layer[layer];
    uint64_t pooled = 0;

    KVP_TRY(SIZE_PRODUCT(&pooled, "kivi: the pool", e, pages, c->plan.block));
    KVP_TRY(open_sides(c, layer, c->pages ? pooled : l->k.capacity, c->pages ? pooled : l->v.capacity, e));
    l->v_rows = c->plan.keeps ? c->residual : size_min(c->env->context, c->residual);
    KVP_TRY(residual_alloc(c, layer, l->v_rows, &l->v_res, e));
    if (!c->plan.keeps)
        return KVP_OK;
    l->k_rows = c->residual;
    return residual_alloc(c, layer, l->k_rows, &l->k_res, e);
}

static kvp_err open_layers(struct cache *c, uint64_t *scratch, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;

    KVP_TRY(window_of_layers(scratch, c->env, e));
    for (uint32_t i = 0; i < layers; i++) {
        c->layer[i].window = scratch[i];
        KVP_TRY(plan_layer(c, &c->layer[i], e));
        scratch[i] = c->plan.block ? size_div_up(c->layer[i].k.capacity, c->plan.block) : 0;
    }
    if (c->plan.block)
        KVP_TRY(pages_open(&c->pages, c->env, scratch, e));
    for (uint32_t i = 0; i < layers; i++)
        KVP_TRY(open_layer(c, i, scratch[i], e));
    return KVP_OK;
}

static kvp_err build(struct cache *c, struct kvp_error *e)
{
    const uint32_t layers = c->env->model->layers;
    uint64_t *scratch;
    kvp_err rc;

    KVP_TRY(store_plan(&c->plan, c->env, e));
    KVP_TRY(read_spec(c, e));
    scratch = calloc(layers, sizeof(*scratch));
    c->layer = calloc(layers, sizeof(*c->layer));
    rc = scratch && c->layer ? open_layers(c, scratch, e)
                             : kvp_fail(e, KVP_ENOMEM, "kivi: out of memory for %u layers", layers);
    free(scratch);
    return rc;
}

static void side_free(struct cache *c, struct side *s)
{
    led_free(c->env->led, &s->codes);
    led_free(c->env->led, &s->scale);
    led_free(c->env->led, &s->min);
}

static void kivi_close(struct cache *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; c->layer && i < c->env->model->layers; i++) {
        side_free(c, &c->layer[i].k);
        side_free(c, &c->layer[i].v);
        led_free(c->env->led, &c->layer[i].k_res);
        led_free(c->env->led, &c->layer[i].v_res);
    }
    pages_close(c->pages);
    free(c->layer);
    free(c);
}

static kvp_err kivi_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "kivi: out of memory for a cache");
    c->env = env;
    rc = build(c, e);
    if (rc != KVP_OK) {
        kivi_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static void drop_key_residual(struct cache *c, struct layer *l)
{
    if (c->plan.keeps)
        return;
    led_free(c->env->led, &l->k_res);
    l->k_rows = 0;
}

static kvp_err kivi_reset(struct cache *c, struct kvp_error *e)
{
    (void)e;
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        drop_key_residual(c, &c->layer[i]);
    c->seen = 0;
    return KVP_OK;
}

/* ---- rows and packs ---------------------------------------------------------------------------- */

static struct kb_kivi packed(const struct cache *c, uint32_t layer, const struct side *s)
{
    struct kb_kivi p = {.codes = {s->codes.buf, 0}, .scale = {s->scale.buf, 0}, .min = {s->min.buf, 0},
                        .capacity = s->capacity, .ring = s->ring};

    if (c->pages) {
        p.block = c->plan.block;
        p.table = pages_table(c->pages, layer, &p.table_stride);
    }
    return p;
}

static struct kb_kv residual_rows(const struct cache *c, uint32_t layer, const struct led_mem *m,
                                  uint64_t rows)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);

    return (struct kb_kv){.data = {m->buf, 0},
                          .format = c->env->format,
                          .heads = cls->kv_heads,
                          .dim = cls->head_dim,
                          .slots = rows};
}

/* Where rows to be packed come from, and the text positions [first, first + tokens) they hold. */
struct source {
    bool is_f32;
    struct kb_span at; /* of the first */
    uint64_t batch, token, head, first, tokens;
};

/* Prompt rows from position `first` to `end`. */
static struct source from_prompt(const struct cache_qkv *x, struct kb_span rows, uint64_t head_dim,
                                 uint64_t first, uint64_t end)
{
    rows.offset += first * x->stride * sizeof(float);
    return (struct source){true, rows, x->tokens * x->stride, x->stride, head_dim, first, end - first};
}

/* Residual rows from slot `slot` on. */
static struct source from_residual(const struct cache *c, uint32_t layer, const struct led_mem *m,
                                   uint64_t rows, uint64_t slot, uint64_t first, uint64_t tokens)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint64_t d = cls->head_dim;

    return (struct source){
        false, {m->buf, slot * d * c->scale_bytes}, cls->kv_heads * rows * d, d, rows * d, first, tokens};
}

static kvp_err pack_k(struct cache *c, uint32_t layer, const struct source *s, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const struct kb_kivi_pack_k a = {.batch = c->env->batch,
                                     .kv_heads = cls->kv_heads,
                                     .head_dim = cls->head_dim,
                                     .bits = c->bits,
                                     .group = c->group,
                                     .tokens = s->tokens,
                                     .format = c->env->format,
                                     .src_is_f32 = s->is_f32,
                                     .src = s->at,
                                     .src_batch = s->batch,
                                     .src_token = s->token,
                                     .src_head = s->head,
                                     .dst_token = s->first,
                                     .dst = packed(c, layer, &c->layer[layer].k)};

    return s->tokens ? c->env->run(c->env->self, KVP_OP_QUANT, KB_KIVI_PACK_K, &a, e) : KVP_OK;
}

static kvp_err pack_v(struct cache *c, uint32_t layer, const struct source *s, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const struct kb_kivi_pack_v a = {.batch = c->env->batch,
                                     .kv_heads = cls->kv_heads,
                                     .head_dim = cls->head_dim,
                                     .bits = c->bits,
                                     .group = c->group,
                                     .tokens = s->tokens,
                                     .format = c->env->format,
                                     .src_is_f32 = s->is_f32,
                                     .src = s->at,
                                     .src_batch = s->batch,
                                     .src_token = s->token,
                                     .src_head = s->head,
                                     .dst_token = s->first,
                                     .dst = packed(c, layer, &c->layer[layer].v)};

    return s->tokens && c->layer[layer].v.capacity
               ? c->env->run(c->env->self, KVP_OP_QUANT, KB_KIVI_PACK_V, &a, e)
               : KVP_OK;
}

/* The key residual, when the token at `start` is the first that no flush has packed. */
static kvp_err key_residual(struct cache *c, uint32_t layer, uint64_t start, struct kvp_error *e)
{
    struct layer *l = &c->layer[layer];

    if (l->k_rows)
        return KVP_OK;
    KVP_TRY(residual_alloc(c, layer, size_min(c->residual, c->env->context - start), &l->k_res, e));
    l->k_rows = size_min(c->residual, c->env->context - start);
    return KVP_OK;
}

/* x's rows of positions [first, first + n) into the residual slots they belong to. */
static kvp_err write_keys(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t first,
                          uint64_t n, struct kvp_error *e)
{
    struct layer *l = &c->layer[layer];
    struct kb_kv dst;

    if (n == 0)
        return KVP_OK;
    KVP_TRY(key_residual(c, layer, kivi_packed_keys(c, first), e));
    dst = residual_rows(c, layer, &l->k_res, l->k_rows);
    return rows_write(c->env, &dst, x, x->k, first, n, first % c->residual, 0, e);
}

static kvp_err write_values(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t first,
                            uint64_t n, struct kvp_error *e)
{
    struct layer *l = &c->layer[layer];
    const struct kb_kv dst = residual_rows(c, layer, &l->v_res, l->v_rows);

    return rows_write(c->env, &dst, x, x->v, first, n, first % c->residual, c->residual, e);
}

/* ---- the prompt and a step --------------------------------------------------------------------- */

uint64_t kivi_ring_from(uint64_t n, uint64_t ring)
{
    return ring && n > ring ? n - ring : 0;
}

static kvp_err kivi_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct layer *l = &c->layer[layer];
    const uint64_t d = cache_class(c->env, layer)->head_dim, t = x->tokens;
    const uint64_t kq = kivi_packed_keys(c, t), vq = kivi_packed_values(c, t);
    const struct source k = from_prompt(x, x->k, d, kivi_ring_from(kq, l->k.ring), kq);
    const struct source v = from_prompt(x, x->v, d, kivi_ring_from(vq, l->v.ring), vq);

    KVP_TRY(attend_prompt(c->env, layer, x, l->window, e));
    KVP_TRY(pack_k(c, layer, &k, e));
    KVP_TRY(write_keys(c, layer, x, kq, t - kq, e));
    KVP_TRY(pack_v(c, layer, &v, e));
    KVP_TRY(write_values(c, layer, x, vq, t - vq, e));
    c->seen = t;
    return KVP_OK;
}

/* Nothing of this step is packed yet, and its value is not stored. */
static kvp_err attend_step(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t t,
                           struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const struct layer *l = &c->layer[layer];
    const uint64_t kq = kivi_packed_keys(c, t - 1), vq = kivi_packed_values(c, t - 1);
    const struct kb_attn_kivi a = {.batch = c->env->batch,
                                   .heads = cls->heads,
                                   .kv_heads = cls->kv_heads,
                                   .head_dim = cls->head_dim,
                                   .bits = c->bits,
                                   .group = c->group,
                                   .scale_qk = cache_scale(c->env, layer),
                                   .format = c->env->format,
                                   .q_stride = x->stride,
                                   .q = x->q,
                                   .first = l->window && t > l->window ? t - l->window : 0,
                                   .k_packed = kq,
                                   .k_full = t - kq,
                                   .v_packed = vq,
                                   .v_full = t - 1 - vq,
                                   .v_first = vq % c->residual,
                                   .k = packed(c, layer, &l->k),
                                   .v = packed(c, layer, &l->v),
                                   .k_res_slots = l->k_rows,
                                   .v_res_slots = l->v_rows,
                                   .k_res = {l->k_res.buf, 0},
                                   .v_res = {l->v_res.buf, 0},
                                   .tail_v = x->v,
                                   .tail_stride = x->stride,
                                   .out_stride = x->out_stride,
                                   .out = x->out};

    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_KIVI, &a, e);
}

/* After the attention of token number t: a full key residual is packed and given up. */
static kvp_err flush_keys(struct cache *c, uint32_t layer, uint64_t t, struct kvp_error *e)
{
    struct layer *l = &c->layer[layer];
    struct source s;

    if (t % c->residual)
        return KVP_OK;
    s = from_residual(c, layer, &l->k_res, l->k_rows, 0, t - c->residual, c->residual);
    KVP_TRY(pack_k(c, layer, &s, e));
    drop_key_residual(c, l);
    return KVP_OK;
}

/* The value of position p into the residual; the oldest of a full one is packed and leaves its slot. */
static kvp_err store_value(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t p,
                           struct kvp_error *e)
{
    const struct layer *l = &c->layer[layer];

    if (p >= c->residual) {
        const struct source oldest =
            from_residual(c, layer, &l->v_res, l->v_rows, p % c->residual, p - c->residual, 1);

        KVP_TRY(pack_v(c, layer, &oldest, e));
    }
    return write_values(c, layer, x, p, 1, e);
}

static kvp_err kivi_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const uint64_t p = x->position;

    KVP_TRY(write_keys(c, layer, x, p, 1, e));
    KVP_TRY(attend_step(c, layer, x, p + 1, e));
    KVP_TRY(store_value(c, layer, x, p, e));
    c->seen = p + 1;
    return flush_keys(c, layer, p + 1, e);
}

const struct cache_ops cache_kivi = {.name = "kivi",
                                     .axis = KVP_AXIS_ENCODE,
                                     .params = "bits group residual",
                                     .open = kivi_open,
                                     .close = kivi_close,
                                     .reset = kivi_reset,
                                     .prefill = kivi_prefill,
                                     .decode = kivi_decode,
                                     .dump_kept = kivi_dump_kept,
                                     .dump_cache = kivi_dump_cache,
                                     .poison = kivi_poison};
