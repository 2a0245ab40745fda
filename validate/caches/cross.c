/* cross.c - keys and values of an encoder's output */
#include "validate/caches/cross.h"

#include "validate/caches/size.h"

#include <stdlib.h>

static const struct kvp_layer_class *class_of(const struct cross *c, uint32_t layer)
{
    return &c->model->cls[c->model->class_of[layer]];
}

static kvp_err open_layers(struct cross *c, uint64_t batch, struct kvp_error *e)
{
    for (uint32_t l = 0; l < c->model->layers; l++) {
        const struct kvp_layer_class *x = class_of(c, l);
        uint64_t bytes;

        KVP_TRY(SIZE_PRODUCT(&bytes, "an encoder's keys", e, batch, x->cross_kv_heads, c->tokens, x->cross_head_dim, size_of_format(c->format)));
        KVP_TRY(led_alloc(c->led, LED_CACHE, bytes, &c->k[l], e));
        KVP_TRY(led_alloc(c->led, LED_CACHE, bytes, &c->v[l], e));
    }
    return KVP_OK;
}

kvp_err cross_open(struct cross *out, struct ledger *led, const struct kvp_model *m, enum kvp_format format, uint64_t batch,
                   uint64_t tokens, struct kvp_error *e)
{
    kvp_err rc;

    *out = (struct cross){.led = led, .model = m, .format = format, .tokens = tokens,
                          .k = calloc(m->layers, sizeof(*out->k)), .v = calloc(m->layers, sizeof(*out->v))};
    rc = out->k && out->v ? open_layers(out, batch, e) : kvp_fail(e, KVP_ENOMEM, "out of memory for an encoder's keys");
    if (rc != KVP_OK)
        cross_close(out);
    return rc;
}

void cross_close(struct cross *c)
{
    for (uint32_t l = 0; c->k && c->v && l < c->model->layers; l++) {
        led_free(c->led, &c->k[l]);
        led_free(c->led, &c->v[l]);
    }
    free(c->k);
    free(c->v);
    *c = (struct cross){0};
}

void cross_view(const struct cross *c, uint32_t layer, uint64_t first, struct kb_kv *k, struct kb_kv *v)
{
    const struct kvp_layer_class *x = class_of(c, layer);
    const uint64_t one = (uint64_t)x->cross_kv_heads * c->tokens * x->cross_head_dim * size_of_format(c->format);

    *k = (struct kb_kv){.data = {c->k[layer].buf, first * one}, .format = c->format, .heads = x->cross_kv_heads,
                        .dim = x->cross_head_dim, .slots = c->tokens};
    *v = *k;
    v->data.buf = c->v[layer].buf;
}

kvp_err cross_poison(struct cross *c, uint32_t layer, uint64_t token, struct kvp_error *e)
{
    const uint64_t row = class_of(c, layer)->cross_head_dim * size_of_format(c->format);
    const struct led_mem *const mem[] = {&c->k[layer], &c->v[layer]};

    for (int i = 0; i < 2; i++)
        KVP_TRY(c->led->be->fill(c->led->dev, (struct kb_span){mem[i]->buf, token * row}, 0xff, row, e));
    return KVP_OK;
}
