/* lorc.c - latents of keys and values, one of each a token and layer for all heads (docs/techniques/lorc.md; Zhang et al.
 * 2024, arXiv:2410.03111, section 3.1)
 *
 * Rows are rows.c's, a rank wide, in whatever form `kv` gives them. A prompt attends to keys and values as they were
 * projected through both factors. A step reads latents: what can be absorbed never becomes a key or a value, q and the
 * weighted sum are led through the second factors instead; a bias of keys then adds the same to all scores and falls
 * out. Other rows are rebuilt tile by tile by the kernel that attends. */
#include "validate/caches/caches.h"
#include "validate/caches/rows.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <stdlib.h>

struct cache {
    const struct cache_env *env;
    struct cache *rows;  /* rows.c's */
    struct led_mem q;    /* f32 [batch, heads, rank], the widest layer's: q in latent space */
    struct led_mem sums; /* the same of values */
};


static kvp_err room(struct cache *c, uint64_t width, struct led_mem *out, struct kvp_error *e)
{
    uint64_t bytes;

    KVP_TRY(SIZE_PRODUCT(&bytes, "lorc: absorbed rows", e, c->env->batch, width, sizeof(float)));
    return led_alloc(c->env->led, LED_ACTIVATION, bytes, out, e);
}

static kvp_err build(struct cache *c, struct kvp_error *e)
{
    uint64_t q = 0, sums = 0;

    for (uint32_t l = 0; l < c->env->model->layers; l++) {
        const struct kvp_layer_class *x = cache_class(c->env, l);

        if (x->absorb_k && (uint64_t)x->heads * x->low_k > q)
            q = (uint64_t)x->heads * x->low_k;
        if (x->absorb_v && (uint64_t)x->heads * x->low_v > sums)
            sums = (uint64_t)x->heads * x->low_v;
    }
    KVP_TRY(room(c, q, &c->q, e));
    KVP_TRY(room(c, sums, &c->sums, e));
    return rows_open(&c->rows, c->env, e);
}

static void lorc_close(struct cache *c)
{
    if (!c)
        return;
    rows_close(c->rows);
    led_free(c->env->led, &c->q);
    led_free(c->env->led, &c->sums);
    free(c);
}

static kvp_err lorc_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "lorc: out of memory for a cache");
    c->env = env;
    rc = build(c, e);
    if (rc != KVP_OK) {
        lorc_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err lorc_reset(struct cache *c, struct kvp_error *e)
{
    return rows_reset(c->rows, e);
}

/* x with its latents for keys and values. */
static struct cache_qkv latents(const struct cache_qkv *x)
{
    struct cache_qkv y = *x;

    y.k = x->low->k;
    y.v = x->low->v;
    y.stride = x->low->stride;
    return y;
}

static kvp_err lorc_prefill(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct cache_qkv y = latents(x);

    if (c->env->model->position == KVP_POS_ROPE)
        KVP_TRY(c->env->rope(c->env->self, layer, x, e));
    KVP_TRY(attend_prompt(c->env, layer, x, rows_window(c->rows, layer), e));
    return rows_append(c->rows, layer, &y, e);
}

/* ---- a step ----------------------------------------------------------------------------------------- */

static kvp_err run(struct cache *c, enum kvp_op op, enum kb_kernel k, const void *args, struct kvp_error *e)
{
    return c->env->run(c->env->self, op, k, args, e);
}

/* q of the heads of each kv head, times its part of the second factor: q[h] * w[g]. */
static kvp_err absorb_q(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint32_t group = cls->heads / cls->kv_heads;
    const uint64_t part = (uint64_t)cls->head_dim * cls->low_k * size_of_format(x->low->format);
    struct kb_head_gemm a = {.m = c->env->batch, .heads = group, .rows = cls->head_dim, .cols = cls->low_k, .transposed = true,
                             .format = x->low->format, .w = x->low->k_up.w, .x_stride = x->stride, .x_head = cls->head_dim, .x = x->q,
                             .out_stride = (uint64_t)cls->heads * cls->low_k, .out_head = cls->low_k, .out = {c->q.buf, 0}};

    for (uint32_t g = 0; g < cls->kv_heads; g++) {
        KVP_TRY(run(c, KVP_OP_ABSORB, KB_HEAD_GEMM, &a, e));
        a.w.offset += part;
        a.x.offset += (uint64_t)group * a.x_head * sizeof(float);
        a.out.offset += (uint64_t)group * a.out_head * sizeof(float);
    }
    return KVP_OK;
}

/* The sums of latents to values. Probabilities sum to 1, so a bias of values is added as it is. */
static kvp_err expand_sums(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint64_t size = size_of_format(x->low->format), d = cls->head_dim, group = cls->heads / cls->kv_heads;
    struct kb_head_gemm a = {.m = c->env->batch, .heads = (uint32_t)group, .rows = cls->head_dim, .cols = cls->low_v, .format = x->low->format,
                             .w = x->low->v_up.w, .bias = x->low->v_up.bias, .x_stride = (uint64_t)cls->heads * cls->low_v, .x_head = cls->low_v,
                             .x = {c->sums.buf, 0}, .out_stride = x->out_stride, .out_head = d, .out = x->out};

    for (uint32_t g = 0; g < cls->kv_heads; g++) {
        KVP_TRY(run(c, KVP_OP_ABSORB, KB_HEAD_GEMM, &a, e));
        a.w.offset += d * cls->low_v * size;
        a.bias.offset += d * size;
        a.x.offset += group * a.x_head * sizeof(float);
        a.out.offset += group * d * sizeof(float);
    }
    return KVP_OK;
}

/* Nothing is rebuilt: the heads are query heads of one key of `low_k` channels and one value of `low_v`. */
static kvp_err attend_absorbed(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t used, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    struct kb_attn_decode a = {.batch = c->env->batch, .heads = cls->heads, .kv_heads = 1, .head_dim = cls->low_k, .v_dim = cls->low_v,
                               .scale = cache_scale(c->env, layer), .used = used, .q_stride = (uint64_t)cls->heads * cls->low_k,
                               .q = {c->q.buf, 0}, .out_stride = (uint64_t)cls->heads * cls->low_v, .out = {c->sums.buf, 0}};

    rows_view(c->rows, layer, &a.k, &a.v);
    KVP_TRY(absorb_q(c, layer, x, e));
    KVP_TRY(run(c, KVP_OP_ATTN, KB_ATTN_DECODE, &a, e));
    return expand_sums(c, layer, x, e);
}

/* Keys are rebuilt, and values unless their factor is absorbed. In a ring the oldest row is behind the newest one. */
static kvp_err attend_rebuilt(struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t used, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const uint64_t seen = x->position + 1, window = rows_window(c->rows, layer);
    struct kb_attn_low a = {.batch = c->env->batch, .heads = cls->heads, .kv_heads = cls->kv_heads, .head_dim = cls->head_dim,
                            .scale = cache_scale(c->env, layer), .used = used, .q_stride = x->stride, .q = x->q, .format = x->low->format,
                            .k_up = x->low->k_up, .norm = x->low->k_norm, .eps = (float)c->env->model->norm_eps, .query = used - 1,
                            .inv_freq = c->env->inv_freq, .out_stride = x->out_stride, .out = x->out};

    if (window && seen > window) {
        a.ring = window;
        a.turned = seen % window;
    }
    if (cls->absorb_v) {
        a.out = (struct kb_span){c->sums.buf, 0};
        a.out_stride = (uint64_t)cls->heads * cls->low_v;
    } else {
        a.v_up = x->low->v_up;
    }
    rows_view(c->rows, layer, &a.k, &a.v);
    KVP_TRY(run(c, KVP_OP_ATTN, KB_ATTN_LOW, &a, e));
    return cls->absorb_v ? expand_sums(c, layer, x, e) : KVP_OK;
}

static kvp_err lorc_decode(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct cache_qkv y = latents(x);
    const uint64_t window = rows_window(c->rows, layer), seen = x->position + 1, used = window ? size_min(seen, window) : seen;

    KVP_TRY(rows_append(c->rows, layer, &y, e));
    return (cache_class(c->env, layer)->absorb_k ? attend_absorbed : attend_rebuilt)(c, layer, x, used, e);
}

/* ---- looking in --------------------------------------------------------------------------------------- */

static kvp_err lorc_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    return rows_dump_kept(c->rows, f, e);
}

static kvp_err lorc_dump_cache(struct cache *c, FILE *f, struct kvp_error *e)
{
    return rows_dump_cache(c->rows, f, e);
}

static kvp_err lorc_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    return rows_poison(c->rows, pos, stored, e);
}

const struct cache_ops cache_lorc = {.name = "lorc", .axis = KVP_AXIS_RANK, .any_attention = true, .raw = true, .open = lorc_open,
                                     .close = lorc_close, .reset = lorc_reset, .prefill = lorc_prefill, .decode = lorc_decode,
                                     .dump_kept = lorc_dump_kept, .dump_cache = lorc_dump_cache, .poison = lorc_poison};
