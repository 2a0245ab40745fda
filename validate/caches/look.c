/* look.c - which token lies in which slot */
#include "validate/caches/look.h"

#include "validate/caches/dump.h"
#include "validate/caches/store_dump.h"
#include "validate/caches/steps.h"
#include "validate/caches/stores.h"

#include <stdlib.h>

static uint32_t lists(const struct look *l, uint32_t layer)
{
    return l->one_list ? 1 : store_heads(l->store, layer);
}

static kvp_err open_where(struct look *l, struct kvp_error *e)
{
    const uint32_t layers = l->env->model->layers;

    l->where = calloc(layers, sizeof(*l->where));
    for (uint32_t i = 0; l->where && i < layers; i++) {
        l->where[i] = calloc(l->env->batch * lists(l, i) * l->room[i] + 1, sizeof(**l->where));
        if (!l->where[i])
            return kvp_fail(e, KVP_ENOMEM, "%s: out of memory for a trace", l->name);
    }
    return l->where ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "%s: out of memory for a trace", l->name);
}

kvp_err look_open(struct look *l, const struct cache_env *env, struct store *store, const char *name, bool one_list,
                  const uint64_t *room, struct kvp_error *e)
{
    const uint32_t layers = env->model->layers;

    *l = (struct look){.env = env, .store = store, .name = name, .one_list = one_list};
    l->used = calloc(layers, sizeof(*l->used));
    l->room = calloc(layers, sizeof(*l->room));
    if (!l->used || !l->room)
        return kvp_fail(e, KVP_ENOMEM, "%s: out of memory for %u layers", name, layers);
    memcpy(l->room, room, layers * sizeof(*room));
    return env->trace ? open_where(l, e) : KVP_OK;
}

void look_close(struct look *l)
{
    for (uint32_t i = 0; l->where && i < l->env->model->layers; i++)
        free(l->where[i]);
    free(l->where);
    free(l->used);
    free(l->room);
}

void look_reset(struct look *l)
{
    memset(l->used, 0, l->env->model->layers * sizeof(*l->used));
}

int32_t *look_at(const struct look *l, uint32_t layer, uint64_t b, uint32_t list)
{
    return l->where ? l->where[layer] + (b * lists(l, layer) + list) * l->room[layer] : NULL;
}

void look_put(const struct look *l, uint32_t layer, uint64_t slot, uint64_t position)
{
    for (uint64_t i = 0; l->where && i < l->env->batch * lists(l, layer); i++)
        l->where[layer][i * l->room[layer] + slot] = (int32_t)position;
}

kvp_err look_read(const struct look *l, uint32_t layer, struct kb_span index, uint64_t n, struct kvp_error *e)
{
    const struct ledger *led = l->env->led;

    for (uint64_t i = 0; l->where && i < l->env->batch * lists(l, layer); i++)
        KVP_TRY(led->be->read(led->dev, (struct kb_span){index.buf, index.offset + i * n * sizeof(int32_t)},
                              l->where[layer] + i * l->room[layer], n * sizeof(int32_t), e));
    return KVP_OK;
}

static kvp_err need_trace(const struct look *l, struct kvp_error *e)
{
    return l->where ? KVP_OK : kvp_fail(e, KVP_ENOTSUP, "%s: positions are known only when the run is traced", l->name);
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

kvp_err look_dump_kept(const struct look *l, FILE *f, struct kvp_error *e)
{
    KVP_TRY(need_trace(l, e));
    for (uint32_t i = 0; i < l->env->model->layers; i++) {
        uint64_t *pos = calloc(l->room[i] + 1, sizeof(*pos));

        if (!pos)
            return kvp_fail(e, KVP_ENOMEM, "%s: out of memory for %llu positions", l->name, (unsigned long long)l->room[i]);
        for (uint64_t b = 0; b < l->env->batch; b++)
            for (uint32_t h = 0; h < lists(l, i); h++) {
                for (uint64_t s = 0; s < l->used[i]; s++)
                    pos[s] = (uint64_t)look_at(l, i, b, h)[s];
                qsort(pos, l->used[i], sizeof(*pos), by_value);
                dump_positions(f, i, l->one_list ? -1 : (int64_t)h, (int64_t)b, pos, l->used[i]);
            }
        free(pos);
    }
    return dump_done(f, e);
}

static void dump_where(const struct look *l, uint32_t layer, FILE *f)
{
    struct dump d;

    dump_begin(&d, f, layer, "position", KVP_I32, (uint64_t[]){l->env->batch, lists(l, layer), l->used[layer], 1});
    for (uint64_t b = 0; b < l->env->batch; b++)
        for (uint32_t h = 0; h < lists(l, layer); h++)
            dump_values(&d, KVP_I32, look_at(l, layer, b, h), l->used[layer]);
    dump_end(&d);
}

kvp_err look_dump_cache(const struct look *l, FILE *f, struct kvp_error *e)
{
    for (uint32_t i = 0; i < l->env->model->layers; i++) {
        KVP_TRY(store_dump(l->store, l->env, i, l->used[i], NULL, NULL, f, e)); /* in slot order */
        if (l->where)
            dump_where(l, i, f);
    }
    return dump_done(f, e);
}

kvp_err look_poison(const struct look *l, uint64_t pos, bool *stored, struct kvp_error *e)
{
    KVP_TRY(need_trace(l, e));
    for (uint64_t s = 0; s < l->used[0]; s++)
        if ((uint64_t)look_at(l, 0, 0, 0)[s] == pos) {
            *stored = true;
            return store_poison_slot(l->store, 0, 0, 0, s, e);
        }
    *stored = false;
    for (uint32_t i = 0; i < l->env->model->layers; i++)
        KVP_TRY(store_poison_unused(l->store, i, l->used[i], e));
    return KVP_OK;
}
