#include "validate/caches/pool.h"

#include "kernels/code.h"
#include "validate/caches/kv.h"
#include "validate/caches/layout.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <inttypes.h>
#include <stdlib.h>

enum part { ROWS, SCALES, SHIFTS, PARTS };

struct pool_layer {
    struct led_mem mem[2][PARTS]; /* of K, of V */
};

struct cache {
    const struct cache_env *env;
    struct pool_shape shape;
    struct kv_code code[2]; /* of K, of V */
    struct pool_layer *layer;
    struct led_mem table, first, before;
    int32_t *host;           /* [seqs, longest] */
    struct pool_seq *seq;    /* of the pass at hand, without their blocks */
    uint64_t n;
};

static uint64_t block_bytes(const struct cache *c, uint32_t layer, int side, int part)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const struct kv_code *code = &c->code[side];
    const uint64_t row = part == ROWS ? size_of_row(code->format, cls->head_dim) : kv_beside(code, cls->head_dim, part == SHIFTS);

    return cls->kv_heads * c->shape.block * row;
}

static kvp_err open_layer(struct cache *c, uint32_t layer, struct kvp_error *e)
{
    for (int side = 0; side < 2; side++)
        for (int part = 0; part < PARTS; part++) {
            const uint64_t block = block_bytes(c, layer, side, part);
            uint64_t bytes;

            KVP_TRY(SIZE_PRODUCT(&bytes, "a pool of blocks", e, c->shape.blocks, block));
            if (bytes)
                KVP_TRY(led_alloc(c->env->led, part == ROWS ? LED_CACHE : LED_METADATA, bytes, &c->layer[layer].mem[side][part], e));
        }
    return KVP_OK;
}

static kvp_err open_layers(struct cache *c, struct kvp_error *e)
{
    KVP_TRY(kv_codes(c->code, c->env, e));
    for (int side = 0; side < 2; side++)
        if (c->code[side].scales == KB_SCALES_TENSOR)
            return kvp_fail(e, KVP_ENOTSUP, "kv: one scale for a whole tensor is a prompt's own; a pool has many");
    for (uint32_t l = 0; l < c->env->model->layers; l++) {
        const struct kvp_layer_class *cls = cache_class(c->env, l);

        if (cls->no_kv || cls->low_k)
            return kvp_fail(e, KVP_ENOTSUP, "a pool of blocks: layer %" PRIu32 " has no keys and values of its own", l);
        if (cls->mixer != KVP_MIX_NONE && !cache_extends(c->env->model, cls))
            return kvp_fail(e, KVP_ENOTSUP, "a pool of blocks: the engine does not run it with layer %" PRIu32 "'s kind of attention yet", l);
        KVP_TRY(open_layer(c, l, e));
    }
    return KVP_OK;
}

static kvp_err open_tables(struct cache *c, struct kvp_error *e)
{
    const uint64_t size = size_of_format(KVP_I32);
    uint64_t n;

    KVP_TRY(SIZE_PRODUCT(&n, "a table of blocks", e, c->shape.seqs, c->shape.longest));
    KVP_TRY(led_alloc(c->env->led, LED_METADATA, n * size, &c->table, e));
    KVP_TRY(led_alloc(c->env->led, LED_WORKSPACE, (c->shape.seqs + 1) * size, &c->first, e));
    KVP_TRY(led_alloc(c->env->led, LED_WORKSPACE, c->shape.seqs * size, &c->before, e));
    c->host = malloc(n * sizeof(*c->host));
    c->seq = calloc(c->shape.seqs, sizeof(*c->seq));
    return c->host && c->seq ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "out of memory for a table of %" PRIu64 " blocks", n);
}

static void pool_close(struct cache *c)
{
    if (!c)
        return;
    for (uint32_t l = 0; c->layer && l < c->env->model->layers; l++)
        for (int i = 0; i < 2 * PARTS; i++)
            led_free(c->env->led, &c->layer[l].mem[i / PARTS][i % PARTS]);
    led_free(c->env->led, &c->table);
    led_free(c->env->led, &c->first);
    led_free(c->env->led, &c->before);
    free(c->layer);
    free(c->host);
    free(c->seq);
    free(c);
}

static kvp_err pool_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    struct cache *c = calloc(1, sizeof(*c));
    kvp_err rc;

    *out = NULL;
    if (!c)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a pool of blocks");
    c->env = env;
    c->shape = *env->pool;
    c->layer = calloc(env->model->layers, sizeof(*c->layer));
    rc = c->layer ? open_layers(c, e) : kvp_fail(e, KVP_ENOMEM, "out of memory for a pool of blocks");
    if (rc == KVP_OK)
        rc = open_tables(c, e);
    if (rc != KVP_OK) {
        pool_close(c);
        return rc;
    }
    *out = c;
    return KVP_OK;
}

static kvp_err check_seq(const struct cache *c, const struct pool_seq *s, struct kvp_error *e)
{
    if (!s->rows || s->blocks > c->shape.longest || s->blocks * c->shape.block < s->before + s->rows)
        return kvp_fail(e, KVP_EINPUT, "a pass: %" PRIu64 " tokens behind %" PRIu64 " in %" PRIu64 " blocks", s->rows, s->before, s->blocks);
    for (uint64_t i = 0; i < s->blocks; i++)
        if (s->block[i] >= c->shape.blocks)
            return kvp_fail(e, KVP_EINPUT, "a pass: block %" PRIu32 " of a pool of %" PRIu64, s->block[i], c->shape.blocks);
    return KVP_OK;
}

kvp_err pool_begin(struct cache *c, const struct pool_seq *seq, uint64_t n, struct kvp_error *e)
{
    const struct ledger *l = c->env->led;
    int32_t edge[2] = {0, 0};

    if (n > c->shape.seqs)
        return kvp_fail(e, KVP_EINPUT, "a pass of %" PRIu64 " sequences, at most %" PRIu64, n, c->shape.seqs);
    KVP_TRY(l->be->write(l->dev, (struct kb_span){c->first.buf, 0}, &edge[0], sizeof(edge[0]), e));
    for (uint64_t s = 0; s < n; s++) {
        KVP_TRY(check_seq(c, &seq[s], e));
        c->seq[s] = (struct pool_seq){.rows = seq[s].rows, .before = seq[s].before};
        edge[0] += (int32_t)seq[s].rows;
        edge[1] = (int32_t)seq[s].before;
        KVP_TRY(l->be->write(l->dev, (struct kb_span){c->first.buf, (s + 1) * sizeof(edge[0])}, &edge[0], sizeof(edge[0]), e));
        KVP_TRY(l->be->write(l->dev, (struct kb_span){c->before.buf, s * sizeof(edge[1])}, &edge[1], sizeof(edge[1]), e));
        for (uint64_t i = 0; i < c->shape.longest; i++)
            c->host[s * c->shape.longest + i] = i < seq[s].blocks ? (int32_t)seq[s].block[i] : INT32_MAX; /* read by nobody */
    }
    c->n = n;
    return n ? l->be->write(l->dev, (struct kb_span){c->table.buf, 0}, c->host, n * c->shape.longest * sizeof(*c->host), e) : KVP_OK;
}

static struct kb_kv view(const struct cache *c, uint32_t layer, int side, uint64_t seq)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const struct led_mem *mem = c->layer[layer].mem[side];
    const struct kv_code *code = &c->code[side];

    return (struct kb_kv){.data = {mem[ROWS].buf, 0}, .format = code->format, .scales = code->scales, .scale_format = code->scale_format,
                          .group = code->group, .scale = {mem[SCALES].buf, 0}, .shift = {mem[SHIFTS].buf, 0}, .heads = cls->kv_heads, .dim = cls->head_dim,
                          .block = c->shape.block, .table = {c->table.buf, seq * c->shape.longest * sizeof(int32_t)},
                          .table_stride = c->shape.longest};
}

/* New rows of sequence s, the first of which is row `row` of x. */
static kvp_err write_rows(const struct cache *c, uint32_t layer, const struct cache_qkv *x, uint64_t s, uint64_t row, struct kvp_error *e)
{
    for (int side = 0; side < 2; side++) {
        const struct kb_cache_write w = {.batch = 1, .count = c->seq[s].rows,
                                         .dst = view(c, layer, side, s),
                                         .slot = c->seq[s].before, .src = side ? x->v : x->k, .src_tokens = c->seq[s].rows,
                                         .src_stride = x->stride, .src_first = row};

        KVP_TRY(c->env->run(c->env->self, KVP_OP_APPEND, KB_CACHE_WRITE, &w, e));
    }
    return KVP_OK;
}

/* Every sequence's rows are stored before anyone looks, so that one may find what another stores in the same pass; and all
 * are read as they are stored, so that nothing hangs on where a pass begins. */
static kvp_err pool_extend(struct cache *c, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const struct kb_attn_extend a = {.batch = c->n, .first = {c->first.buf, 0}, .before = {c->before.buf, 0}, .heads = cls->heads,
                                     .kv_heads = cls->kv_heads, .head_dim = cls->head_dim, .window = cls->window,
                                     .scale = cache_scale(c->env, layer), .softcap = (float)c->env->model->numbers.score_cap,
                                     .slopes = x->slopes, .sinks = x->sinks, .sink_format = x->sink_format, .stride = x->stride, .q = x->q,
                                     .stored_k = view(c, layer, 0, 0), .stored_v = view(c, layer, 1, 0),
                                     .out_stride = x->out_stride, .out = x->out};
    uint64_t row = 0;

    for (uint64_t s = 0; s < c->n; row += c->seq[s++].rows)
        KVP_TRY(write_rows(c, layer, x, s, row, e));
    return c->env->run(c->env->self, KVP_OP_ATTN, KB_ATTN_EXTEND, &a, e);
}

kvp_err pool_poison(struct cache *c, uint32_t block, struct kvp_error *e)
{
    const struct ledger *l = c->env->led;

    for (uint32_t i = 0; i < c->env->model->layers; i++)
        for (int n = 0; n < 2 * PARTS; n++) {
            const struct led_mem *mem = &c->layer[i].mem[n / PARTS][n % PARTS];
            const uint64_t bytes = block_bytes(c, i, n / PARTS, n % PARTS);

            if (mem->buf)
                KVP_TRY(l->be->fill(l->dev, (struct kb_span){mem->buf, block * bytes}, 0xff, bytes, e));
        }
    return KVP_OK;
}

const struct cache_ops cache_pool = {.name = "pool", .any_attention = true, .open = pool_open, .close = pool_close, .extend = pool_extend};
