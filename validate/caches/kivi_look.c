/* kivi_look.c - KIVI's codes and residuals for dumps, and NaN in them for the poison tests */
#include "validate/caches/kivi.h"

#include "validate/caches/dump.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

#include <stdlib.h>

/* One side with what is needed to find an element in it. */
struct where {
    const struct cache *c;
    const struct side *side;
    bool keys;
    uint32_t layer, kv_heads;
    uint64_t head_dim, tokens; /* tokens under one first index: a page's or a sequence's */
    uint64_t from, to;         /* text positions that are packed and still held */
};

static struct where look(const struct cache *c, uint32_t layer, bool keys)
{
    const struct kvp_layer_class *cls = cache_class(c->env, layer);
    const struct side *s = keys ? &c->layer[layer].k : &c->layer[layer].v;
    const uint64_t n = keys ? kivi_packed_keys(c, c->seen) : kivi_packed_values(c, c->seen);

    return (struct where){.c = c, .side = s, .keys = keys, .layer = layer, .kv_heads = cls->kv_heads,
                          .head_dim = cls->head_dim, .tokens = c->pages ? c->plan.block : s->capacity,
                          .from = s->capacity ? kivi_ring_from(n, s->ring) : n, .to = n};
}

static uint64_t place_of(const struct where *w, uint64_t token)
{
    return w->side->ring ? token % w->side->ring : token;
}

/* Index of (sequence and head, channel, place) among codes (unit 1) or among scales (unit group). */
static uint64_t element(const struct where *w, uint64_t bh, uint64_t channel, uint64_t place, uint64_t unit)
{
    const uint64_t b = bh / w->kv_heads, head = bh % w->kv_heads, inside = place % w->tokens;
    const uint64_t first = w->c->pages ? pages_at(w->c->pages, w->layer, b, place / w->tokens) : b;
    const uint64_t run = first * w->kv_heads + head;

    if (w->keys)
        return (run * w->head_dim + channel) * (w->tokens / unit) + inside / unit;
    return (run * w->tokens + inside) * (w->head_dim / unit) + channel / unit;
}

/* ---- dumps ------------------------------------------------------------------------------------- */

static int64_t code_at(const struct cache *c, const void *host, uint64_t i)
{
    const uint32_t word = ((const uint32_t *)host)[i * c->bits / 32];

    return word >> (i * c->bits % 32) & ((1u << c->bits) - 1);
}

/* A packed tensor in text order. Keys [batch, kv_heads, head_dim, tokens], values [batch, kv_heads,
 * tokens, head_dim]; the last dimension counts groups when `unit`, the codes of one element, is one. */
static kvp_err dump_packed(const struct where *w, const char *name, const struct led_mem *m, uint64_t unit,
                           FILE *f, struct kvp_error *e)
{
    const struct cache *c = w->c;
    const uint64_t held = w->to - w->from, runs = c->env->batch * w->kv_heads;
    const uint64_t rows = w->keys ? w->head_dim : held, columns = (w->keys ? held : w->head_dim) / unit;
    const enum kvp_format codes = c->bits == 2 ? KVP_INT2 : KVP_INT4,
                          format = unit == 1 ? codes : c->env->format;
    void *host;
    struct dump d;

    KVP_TRY(dump_fetch(&host, c->env, m, e));
    dump_begin(&d, f, w->layer, name, format, (uint64_t[]){c->env->batch, w->kv_heads, rows, columns});
    for (uint64_t i = 0; i < runs * rows * columns; i++) {
        const uint64_t column = i % columns * unit, row = i / columns % rows, bh = i / columns / rows;
        const uint64_t token = w->from + (w->keys ? column : row), channel = w->keys ? row : column;
        const uint64_t at = element(w, bh, channel, place_of(w, token), unit);

        if (unit == 1)
            dump_int(&d, code_at(c, host, at));
        else
            dump_values(&d, format, (char *)host + at * c->scale_bytes, 1);
    }
    dump_end(&d);
    free(host);
    return KVP_OK;
}

/* Residual rows of text positions [from, seen), [batch, kv_heads, rows, head_dim]. */
static kvp_err dump_residual(const struct where *w, const char *name, const struct led_mem *m, uint64_t slots,
                             FILE *f, struct kvp_error *e)
{
    const struct cache *c = w->c;
    const uint64_t bytes = w->head_dim * c->scale_bytes;
    void *host;
    struct dump d;

    KVP_TRY(dump_fetch(&host, c->env, m, e));
    dump_begin(&d, f, w->layer, name, c->env->format,
               (uint64_t[]){c->env->batch, w->kv_heads, c->seen - w->to, w->head_dim});
    for (uint64_t bh = 0; bh < c->env->batch * w->kv_heads; bh++)
        for (uint64_t t = w->to; t < c->seen; t++)
            dump_values(&d, c->env->format, (char *)host + (bh * slots + t % c->residual) * bytes,
                        w->head_dim);
    dump_end(&d);
    free(host);
    return KVP_OK;
}

static kvp_err dump_side(struct cache *c, uint32_t layer, bool keys, FILE *f, struct kvp_error *e)
{
    static const char *const names[2][4] = {{"v_codes", "v_scale", "v_min", "v_residual"},
                                            {"k_codes", "k_scale", "k_min", "k_residual"}};
    const struct where w = look(c, layer, keys);
    const struct layer *l = &c->layer[layer];

    KVP_TRY(dump_packed(&w, names[keys][0], &w.side->codes, 1, f, e));
    KVP_TRY(dump_packed(&w, names[keys][1], &w.side->scale, c->group, f, e));
    KVP_TRY(dump_packed(&w, names[keys][2], &w.side->min, c->group, f, e));
    return dump_residual(&w, names[keys][3], keys ? &l->k_res : &l->v_res, keys ? l->k_rows : l->v_rows, f,
                         e);
}

kvp_err kivi_dump_cache(struct cache *c, FILE *f, struct kvp_error *e)
{
    for (uint32_t i = 0; i < c->env->model->layers; i++) {
        KVP_TRY(dump_side(c, i, true, f, e));
        KVP_TRY(dump_side(c, i, false, f, e));
    }
    return dump_done(f, e);
}

kvp_err kivi_dump_kept(struct cache *c, FILE *f, struct kvp_error *e)
{
    for (uint32_t i = 0; i < c->env->model->layers; i++)
        dump_range(f, i, kivi_ring_from(c->seen, c->layer[i].window), c->seen);
    return dump_done(f, e);
}

/* ---- poison ------------------------------------------------------------------------------------ */

static kvp_err nan_fill(const struct cache *c, const struct led_mem *m, uint64_t offset, uint64_t bytes,
                        struct kvp_error *e)
{
    const struct ledger *l = c->env->led;

    return l->be->fill(l->dev, (struct kb_span){m->buf, offset}, 0xff, bytes, e);
}

/* The scales of every channel at one place. */
static kvp_err poison_place(const struct where *w, uint64_t bh, uint64_t place, struct kvp_error *e)
{
    const uint64_t b = w->c->scale_bytes;

    for (uint64_t ch = 0; ch < w->head_dim; ch += w->keys ? 1 : w->c->group)
        KVP_TRY(nan_fill(w->c, &w->side->scale, element(w, bh, ch, place, w->c->group) * b, b, e));
    return KVP_OK;
}

static kvp_err poison_token(struct cache *c, bool keys, uint64_t pos, struct kvp_error *e)
{
    const struct where w = look(c, 0, keys);
    const uint64_t row = w.head_dim * c->scale_bytes;

    if (pos < w.from)
        return KVP_OK; /* this side's ring has dropped it already; the other side decides */
    if (pos < w.to)
        return poison_place(&w, 0, place_of(&w, pos), e);
    return nan_fill(c, keys ? &c->layer[0].k_res : &c->layer[0].v_res, pos % c->residual * row, row, e);
}

/* Places and residual rows that hold no token. */
static kvp_err poison_unused(struct cache *c, uint32_t layer, bool keys, struct kvp_error *e)
{
    const struct where w = look(c, layer, keys);
    const struct layer *l = &c->layer[layer];
    const uint64_t used = size_min(w.to, w.side->capacity), rows = keys ? l->k_rows : l->v_rows;
    const uint64_t places =
        c->pages ? size_div_up(l->k.capacity, c->plan.block) * c->plan.block : w.side->capacity;
    const uint64_t waiting = c->seen - w.to, row = w.head_dim * c->scale_bytes;

    for (uint64_t bh = 0; bh < c->env->batch * w.kv_heads; bh++) {
        for (uint64_t p = used; p < places; p += keys ? c->group : 1)
            KVP_TRY(poison_place(&w, bh, p, e));
        if (waiting < rows)
            KVP_TRY(nan_fill(c, keys ? &l->k_res : &l->v_res, (bh * rows + waiting) * row,
                             (rows - waiting) * row, e));
    }
    return KVP_OK;
}

kvp_err kivi_poison(struct cache *c, uint64_t pos, bool *stored, struct kvp_error *e)
{
    const uint64_t first = kivi_ring_from(c->seen, c->layer[0].window);

    *stored = pos >= first && pos < c->seen;
    if (*stored) {
        KVP_TRY(poison_token(c, true, pos, e));
        return poison_token(c, false, pos, e);
    }
    for (uint32_t i = 0; i < c->env->model->layers; i++) {
        KVP_TRY(poison_unused(c, i, true, e));
        KVP_TRY(poison_unused(c, i, false, e));
    }
    return KVP_OK;
}
