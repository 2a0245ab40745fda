#include "validate/serve/blocks.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct block {
    int64_t older, newer; /* neighbours in the queue of free blocks */
    int64_t chain;        /* the next with the same slot of the index */
    uint64_t before, hash;
    uint32_t holders;
    bool named;
};

struct blocks {
    uint32_t n, tokens, free;
    uint64_t evicted, slots;
    int64_t oldest, newest;
    struct block *block;
    int64_t *index;
    int32_t *content; /* [n, tokens], of named blocks */
};

static void enqueue(struct blocks *p, uint32_t b)
{
    p->block[b].older = p->newest;
    p->block[b].newer = BLOCKS_NONE;
    if (p->newest >= 0)
        p->block[p->newest].newer = b;
    else
        p->oldest = b;
    p->newest = b;
    p->free++;
}

static void dequeue(struct blocks *p, uint32_t b)
{
    const struct block *x = &p->block[b];

    if (x->older >= 0)
        p->block[x->older].newer = x->newer;
    else
        p->oldest = x->newer;
    if (x->newer >= 0)
        p->block[x->newer].older = x->older;
    else
        p->newest = x->older;
    p->free--;
}

kvp_err blocks_open(struct blocks **out, uint32_t n, uint32_t tokens, struct kvp_error *e)
{
    struct blocks *p = calloc(1, sizeof(*p));

    *out = NULL;
    if (p) {
        *p = (struct blocks){.n = n, .tokens = tokens, .slots = 2 * (uint64_t)n + 1, .oldest = BLOCKS_NONE, .newest = BLOCKS_NONE};
        p->block = calloc(n, sizeof(*p->block));
        p->index = malloc(p->slots * sizeof(*p->index));
        p->content = malloc((size_t)n * tokens * sizeof(*p->content));
    }
    if (!p || !p->block || !p->index || !p->content) {
        blocks_close(p);
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %u blocks", n);
    }
    memset(p->index, 0xff, p->slots * sizeof(*p->index));
    for (uint32_t b = 0; b < n; b++)
        enqueue(p, b);
    *out = p;
    return KVP_OK;
}

void blocks_close(struct blocks *p)
{
    if (!p)
        return;
    free(p->block);
    free(p->index);
    free(p->content);
    free(p);
}

uint32_t blocks_free(const struct blocks *p)
{
    return p->free;
}

uint64_t blocks_evicted(const struct blocks *p)
{
    return p->evicted;
}

uint32_t blocks_holders(const struct blocks *p, uint32_t block)
{
    return p->block[block].holders;
}

static void unname(struct blocks *p, uint32_t b)
{
    int64_t *at = &p->index[p->block[b].hash % p->slots];

    while (*at != b)
        at = &p->block[*at].chain;
    *at = p->block[b].chain;
    p->block[b].named = false;
    p->evicted++;
}

void blocks_hold(struct blocks *p, uint32_t block)
{
    if (p->block[block].holders++ == 0)
        dequeue(p, block);
}

uint32_t blocks_take(struct blocks *p)
{
    const uint32_t b = (uint32_t)p->oldest;

    if (p->block[b].named)
        unname(p, b);
    blocks_hold(p, b);
    return b;
}

void blocks_drop(struct blocks *p, uint32_t block)
{
    if (--p->block[block].holders == 0)
        enqueue(p, block);
}

/* FNV-1a (Fowler, Noll, Vo) over 32-bit words, its high half folded in. */
uint64_t blocks_hash(const struct blocks *p, uint64_t before, const int32_t *tokens)
{
    uint64_t h = before ^ 0xcbf29ce484222325u;

    for (uint32_t i = 0; i < p->tokens; i++)
        h = (h ^ (uint32_t)tokens[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

int64_t blocks_find(const struct blocks *p, uint64_t before, const int32_t *tokens)
{
    const uint64_t hash = blocks_hash(p, before, tokens);
    int64_t b = p->index[hash % p->slots];

    while (b >= 0 && (p->block[b].hash != hash || p->block[b].before != before ||
                      memcmp(p->content + (uint64_t)b * p->tokens, tokens, p->tokens * sizeof(*tokens)) != 0))
        b = p->block[b].chain;
    return b;
}

void blocks_name(struct blocks *p, uint32_t block, uint64_t before, const int32_t *tokens)
{
    struct block *x = &p->block[block];
    int64_t *at;

    if (blocks_find(p, before, tokens) >= 0)
        return;
    x->before = before;
    x->hash = blocks_hash(p, before, tokens);
    x->named = true;
    memcpy(p->content + (uint64_t)block * p->tokens, tokens, p->tokens * sizeof(*tokens));
    at = &p->index[x->hash % p->slots];
    x->chain = *at;
    *at = block;
}
