/* pairs.c - which techniques compose, one row for every pair, with the reason. */
#include "calc/technique.h"

#define SAME_AXIS "both decide the same thing, so only one of them can"

static const struct kvp_pair pairs[] = {
    {"window", "h2o", false, SAME_AXIS},
    {"window", "kivi", true, "packed keys become a ring of whole groups; attention masks to the window exactly"},
    {"window", "contiguous", true, "the strip is no longer than the window"},
    {"window", "growing", true, "grows up to the window, then is a ring"},
    {"window", "paged", true, "pages hold the ring's slots"},
    {"h2o", "kivi", false, "cannot evict one token of a group that shares its scales"},
    {"h2o", "contiguous", true, "the strip is no longer than the budget"},
    {"h2o", "growing", true, "grows up to the budget, scores along with the rows"},
    {"h2o", "paged", true, "pages hold the budget's slots; scores stay a strip"},
    {"kivi", "contiguous", true, "strips of codes and scales for max_len tokens, and both residuals whole"},
    {"kivi", "growing", false, "growing concatenates whole rows, and key codes are packed across tokens"},
    {"kivi", "paged", true, "codes and scales in pages; a page holds whole groups, so block is a multiple of group"},
    {"contiguous", "growing", false, SAME_AXIS},
    {"contiguous", "paged", false, SAME_AXIS},
    {"growing", "paged", false, SAME_AXIS},
    {"window", "kv", true, "rows of the window are quantized one by one"},
    {"h2o", "kv", true, "rows are quantized one by one, so one can be evicted with its scales"},
    {"contiguous", "kv", true, "strips of codes and of scales"},
    {"growing", "kv", true, "codes and scales grow row by row"},
    {"paged", "kv", true, "pages of codes and of scales"},
    {"kivi", "kv", false, SAME_AXIS},
    {"window", "w", true, "weights and cache are stored apart"},
    {"h2o", "w", true, "weights and cache are stored apart"},
    {"kivi", "w", true, "weights and cache are stored apart"},
    {"contiguous", "w", true, "weights and cache are stored apart"},
    {"growing", "w", true, "weights and cache are stored apart"},
    {"paged", "w", true, "weights and cache are stored apart"},
    {"kv", "w", true, "weights and cache are stored apart"},
    {"window", "smoothquant", true, "int8 weights beside any rows; with kv=int8 the rows are bytes"},
    {"h2o", "smoothquant", true, "int8 weights beside any rows; with kv=int8 the rows are bytes"},
    {"contiguous", "smoothquant", true, "int8 weights beside any rows; with kv=int8 the rows are bytes"},
    {"growing", "smoothquant", true, "int8 weights beside any rows; with kv=int8 the rows are bytes"},
    {"paged", "smoothquant", true, "int8 weights beside any rows; with kv=int8 the rows are bytes"},
    {"kivi", "smoothquant", true, "weights and cache are stored apart; kv=int8 is refused, the cache is encoded already"},
    {"kv", "smoothquant", true, "weights and cache are stored apart; kv=int8 is refused, the cache is encoded already"},
    {"w", "smoothquant", false, SAME_AXIS},
};

const struct kvp_pair *kvp_pair_at(uint32_t i)
{
    return i < sizeof(pairs) / sizeof(pairs[0]) ? &pairs[i] : NULL;
}

const struct kvp_pair *pair_find(const char *a, const char *b)
{
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        const struct kvp_pair *p = &pairs[i];

        if ((strcmp(p->a, a) == 0 && strcmp(p->b, b) == 0) || (strcmp(p->a, b) == 0 && strcmp(p->b, a) == 0))
            return p;
    }
    return NULL;
}
