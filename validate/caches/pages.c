/* pages.c - block tables with a shuffled page order */
#include "validate/caches/pages.h"

#include "validate/caches/size.h"

#include <stdlib.h>

struct page_table {
    uint64_t pages; /* of a sequence */
    int32_t *host;  /* [batch, pages] */
    struct led_mem mem;
};

struct pages {
    const struct cache_env *env;
    uint64_t shared; /* pages of sequence 0 that all begin with */
    uint32_t n;
    struct page_table *table;           /* [n], the distinct page counts */
    const struct page_table **of_layer; /* in `table` or another's; NULL: none */
};

/* SplitMix64 (Steele, Lea, Flood 2014): deterministic, and good enough to shuffle with. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void shuffle(int32_t *v, uint64_t n)
{
    uint64_t state = 1;

    for (uint64_t i = 0; i < n; i++)
        v[i] = (int32_t)i;
    for (uint64_t i = n; i > 1; i--) {
        const uint64_t j = next_random(&state) % i;
        const int32_t t = v[i - 1];

        v[i - 1] = v[j];
        v[j] = t;
    }
}

/* Rows of [batch, pages] from a list of the pool's pages: row 0 takes the first ones, the others begin as it does. */
static void spread(int32_t *table, uint64_t batch, uint64_t pages, uint64_t shared)
{
    for (uint64_t b = batch; shared && b-- > 1;) {
        memmove(table + b * pages + shared, table + b * pages - (b - 1) * shared, (pages - shared) * sizeof(*table));
        memcpy(table + b * pages, table, shared * sizeof(*table));
    }
}

static kvp_err table_open(struct page_table *t, const struct cache_env *env, uint64_t pages, uint64_t shared,
                          struct kvp_error *e)
{
    struct ledger *l = env->led;
    uint64_t n, bytes;

    t->pages = pages;
    KVP_TRY(SIZE_PRODUCT(&n, "paged: the block table", e, env->batch, pages));
    if (n > INT32_MAX)
        return kvp_fail(e, KVP_ERANGE, "paged: %llu pages do not fit a table of 32-bit page numbers",
                        (unsigned long long)n);
    bytes = n * size_of_format(KVP_I32);
    t->host = malloc(bytes);
    if (!t->host)
        return kvp_fail(e, KVP_ENOMEM, "paged: out of memory for a table of %llu pages",
                        (unsigned long long)n);
    shuffle(t->host, n - (env->batch - 1) * shared);
    spread(t->host, env->batch, pages, shared);
    KVP_TRY(led_alloc(l, LED_METADATA, bytes, &t->mem, e));
    return l->be->write(l->dev, (struct kb_span){t->mem.buf, 0}, t->host, bytes, e);
}

static const struct page_table *find(const struct pages *p, uint64_t pages)
{
    for (uint32_t i = 0; p && i < p->n; i++)
        if (p->table[i].pages == pages)
            return &p->table[i];
    return NULL;
}

static kvp_err layer_open(struct pages *p, uint32_t layer, uint64_t pages, const struct pages *beside, struct kvp_error *e)
{
    if (pages == 0)
        return KVP_OK;
    p->of_layer[layer] = find(p, pages);
    if (!p->of_layer[layer])
        p->of_layer[layer] = find(beside, pages);
    if (p->of_layer[layer])
        return KVP_OK;
    p->of_layer[layer] = &p->table[p->n++];
    return table_open(&p->table[p->n - 1], p->env, pages, size_min(p->shared, pages), e);
}

kvp_err pages_open(struct pages **out, const struct cache_env *env, const uint64_t *per_layer,
                   struct kvp_error *e)
{
    return pages_open_beside(out, env, per_layer, NULL, 0, e);
}

kvp_err pages_open_beside(struct pages **out, const struct cache_env *env, const uint64_t *per_layer,
                          const struct pages *beside, uint64_t shared, struct kvp_error *e)
{
    const uint32_t layers = env->model->layers;
    struct pages *p = calloc(1, sizeof(*p));
    kvp_err rc = KVP_OK;

    *out = NULL;
    if (p) {
        p->env = env;
        p->shared = shared;
        p->table = calloc(layers, sizeof(*p->table));
        p->of_layer = calloc(layers, sizeof(*p->of_layer));
    }
    if (!p || !p->table || !p->of_layer)
        rc = kvp_fail(e, KVP_ENOMEM, "paged: out of memory for the tables of %u layers", layers);
    for (uint32_t i = 0; rc == KVP_OK && i < layers; i++)
        rc = layer_open(p, i, per_layer[i], beside, e);
    if (rc != KVP_OK) {
        pages_close(p);
        return rc;
    }
    *out = p;
    return KVP_OK;
}

void pages_close(struct pages *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; i < p->n; i++) {
        led_free(p->env->led, &p->table[i].mem);
        free(p->table[i].host);
    }
    free(p->table);
    free(p->of_layer);
    free(p);
}

struct kb_span pages_table(const struct pages *p, uint32_t layer, uint64_t *stride)
{
    const struct page_table *t = p->of_layer[layer];

    *stride = t ? t->pages : 0;
    return (struct kb_span){t ? t->mem.buf : NULL, 0};
}

uint64_t pages_at(const struct pages *p, uint32_t layer, uint64_t b, uint64_t i)
{
    const struct page_table *t = p->of_layer[layer];

    return (uint64_t)t->host[b * t->pages + i];
}
