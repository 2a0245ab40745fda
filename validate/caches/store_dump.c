#include "validate/caches/store_dump.h"

#include "kernels/code.h"
#include "validate/caches/dump.h"
#include "validate/caches/size.h"

#include <stdlib.h>

/* The rows of one layer that are dumped. */
struct dumping {
    const struct store *s;
    const struct cache_env *env;
    uint32_t layer;
    uint64_t n;
    store_slot *slot;
    const void *self;
    FILE *f;
};

/* One tensor: `count` values a row. */
static kvp_err tensor(const struct dumping *x, enum store_part part, uint32_t heads, const char *name, enum kvp_format format,
                      uint64_t count, struct kvp_error *e)
{
    void *host;
    struct dump d;

    if (!heads)
        return KVP_OK;
    KVP_TRY(store_fetch(&host, x->s, x->layer, part, e));
    dump_begin(&d, x->f, x->layer, name, format, (uint64_t[]){x->env->batch, heads, x->n, count});
    for (uint64_t b = 0; b < x->env->batch; b++)
        for (uint32_t h = 0; h < heads; h++)
            for (uint64_t i = 0; i < x->n; i++) {
                const uint64_t slot = x->slot ? x->slot(x->self, x->layer, i) : i;

                dump_row(&d, format, (char *)host + store_row(x->s, x->layer, part, b, h, slot).offset, count);
            }
    dump_end(&d);
    free(host);
    return KVP_OK;
}

static kvp_err rows(const struct dumping *x, enum store_part part, const struct kb_kv *v, const char *name, struct kvp_error *e)
{
    if (kb_is_block(v->format))
        return tensor(x, part, v->heads, name, KVP_U8, size_of_row(v->format, v->dim), e);
    return tensor(x, part, v->heads, name, v->format == KVP_INT8 && v->scales == KB_SCALES_GROUP ? KVP_U8 : v->format, v->dim, e);
}

static kvp_err scales(const struct dumping *x, enum store_part first, const struct kb_kv *v, const char *const names[2], struct kvp_error *e)
{
    if (v->scales == KB_SCALES_TENSOR)
        return dump_number(x->env, x->layer, names[0], v->scale, x->f, e);
    if (v->scales == KB_SCALES_ROW)
        return tensor(x, first, v->heads, names[0], KVP_F32, 1, e);
    for (unsigned i = 0; v->scales == KB_SCALES_GROUP && i < 2; i++)
        KVP_TRY(tensor(x, (enum store_part)(first + i), v->heads, names[i], v->scale_format, v->dim / v->group, e));
    return KVP_OK;
}

kvp_err store_dump(const struct store *s, const struct cache_env *env, uint32_t layer, uint64_t n, store_slot *slot, const void *self,
                   FILE *f, struct kvp_error *e)
{
    static const char *const names[2][2] = {{"k_scale", "k_shift"}, {"v_scale", "v_shift"}};
    const struct dumping x = {s, env, layer, n, slot, self, f};
    struct kb_kv k, v;

    store_view(s, layer, &k, &v);
    KVP_TRY(rows(&x, STORE_K, &k, "k", e));
    KVP_TRY(rows(&x, STORE_V, &v, "v", e));
    KVP_TRY(scales(&x, STORE_K_SCALE, &k, names[0], e));
    return scales(&x, STORE_V_SCALE, &v, names[1], e);
}
