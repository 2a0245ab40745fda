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

    /* which tokens stay, which layers merge */
    {"window", "streaming-llm", false, SAME_AXIS},
    {"window", "pyramidkv", false, SAME_AXIS},
    {"window", "snapkv", false, SAME_AXIS},
    {"window", "adakv", false, SAME_AXIS},
    {"window", "tova", false, SAME_AXIS},
    {"window", "quest", false, SAME_AXIS},
    {"window", "duo", false, SAME_AXIS},
    {"streaming-llm", "h2o", false, SAME_AXIS},
    {"streaming-llm", "pyramidkv", false, SAME_AXIS},
    {"streaming-llm", "snapkv", false, SAME_AXIS},
    {"streaming-llm", "adakv", false, SAME_AXIS},
    {"streaming-llm", "tova", false, SAME_AXIS},
    {"streaming-llm", "quest", false, SAME_AXIS},
    {"streaming-llm", "duo", false, SAME_AXIS},
    {"h2o", "pyramidkv", false, SAME_AXIS},
    {"h2o", "snapkv", false, SAME_AXIS},
    {"h2o", "adakv", false, SAME_AXIS},
    {"h2o", "tova", false, SAME_AXIS},
    {"h2o", "quest", false, SAME_AXIS},
    {"h2o", "duo", false, SAME_AXIS},
    {"pyramidkv", "snapkv", false, SAME_AXIS},
    {"pyramidkv", "adakv", false, SAME_AXIS},
    {"pyramidkv", "tova", false, SAME_AXIS},
    {"pyramidkv", "quest", false, SAME_AXIS},
    {"pyramidkv", "duo", false, SAME_AXIS},
    {"snapkv", "adakv", false, SAME_AXIS},
    {"snapkv", "tova", false, SAME_AXIS},
    {"snapkv", "quest", false, SAME_AXIS},
    {"snapkv", "duo", false, SAME_AXIS},
    {"adakv", "tova", false, SAME_AXIS},
    {"adakv", "quest", false, SAME_AXIS},
    {"adakv", "duo", false, SAME_AXIS},
    {"tova", "quest", false, SAME_AXIS},
    {"tova", "duo", false, SAME_AXIS},
    {"quest", "duo", false, SAME_AXIS},
    {"window", "minicache", true, "both layers of a pair keep the same window of tokens; layers pair up with their like"},
    {"streaming-llm", "minicache", true, "both layers of a pair keep the same tokens, sinks and newest"},
    {"h2o", "minicache", false, "each layer keeps tokens of its own choice, so two layers have no common ones to merge"},
    {"pyramidkv", "minicache", false, "each layer keeps tokens of its own choice, so two layers have no common ones to merge"},
    {"snapkv", "minicache", false, "each layer keeps tokens of its own choice, so two layers have no common ones to merge"},
    {"adakv", "minicache", false, "each layer keeps tokens of its own choice, so two layers have no common ones to merge"},
    {"tova", "minicache", false, "each layer keeps tokens of its own choice, so two layers have no common ones to merge"},
    {"quest", "minicache", false, "the bounds of a page are of one layer's keys, and a pair has none of its own to read"},
    {"duo", "minicache", false, "which heads keep everything is each layer's own, so two layers have no common tokens to merge"},
    {"streaming-llm", "kivi", false, "one token leaves at a time, and a group of them shares its scales"},
    {"pyramidkv", "kivi", true, "what is left of the prompt is packed, and what is generated after it"},
    {"snapkv", "kivi", true, "what is left of the prompt is packed, and what is generated after it"},
    {"adakv", "kivi", false, "heads keep different numbers of tokens, and groups of keys are packed across the tokens of all heads"},
    {"tova", "kivi", false, "one token leaves at a time, and a group of them shares its scales"},
    {"quest", "kivi", false, "the bounds of a page are of whole keys, and a page is read without the rest of its group"},
    {"duo", "kivi", false, "heads keep different numbers of tokens, and groups of keys are packed across the tokens of all heads"},
    {"minicache", "kivi", false, "no source says which of directions, lengths and retained rows are packed"},
    {"streaming-llm", "contiguous", true, "the strip is no longer than sinks and recent tokens, unless the variant grows"},
    {"streaming-llm", "growing", true, "grows up to sinks and recent tokens, then is a ring; the other variants go on growing"},
    {"streaming-llm", "paged", true, "pages hold the slots of sinks and recent tokens"},
    {"pyramidkv", "contiguous", true, "each layer's strip has room for what it keeps and all that may be generated"},
    {"pyramidkv", "growing", true, "each layer grows from what it keeps of the prompt"},
    {"pyramidkv", "paged", true, "layers that keep as many tokens share a table; there are as many tables as budgets"},
    {"snapkv", "contiguous", true, "the strip has room for what is kept and all that may be generated"},
    {"snapkv", "growing", true, "grows from what is kept of the prompt"},
    {"snapkv", "paged", true, "pages hold what is kept of the prompt and what is generated"},
    {"adakv", "contiguous", true, "one flat strip a layer, for all heads' tokens together"},
    {"adakv", "growing", true, "the flat tensor of a layer grows by a row for every head"},
    {"adakv", "paged", false, "heads keep different numbers of tokens, and a table of pages serves all heads of a layer"},
    {"tova", "contiguous", true, "the strip is no longer than the budget"},
    {"tova", "growing", true, "grows up to the budget, then slots are used again"},
    {"tova", "paged", true, "pages hold the budget's slots"},
    {"quest", "contiguous", true, "strips of rows and of page bounds for max_len tokens"},
    {"quest", "growing", true, "rows grow at every token, page bounds at every page"},
    {"quest", "paged", true, "pages hold every token; page bounds stay a strip"},
    {"duo", "contiguous", true, "full heads have a strip for max_len tokens, streaming heads their static slots"},
    {"duo", "growing", true, "full heads grow, streaming heads up to sinks and recent tokens"},
    {"duo", "paged", true, "full heads and streaming heads have pages and a table each"},
    {"minicache", "contiguous", true, "strips of directions, lengths and retained rows for max_len tokens"},
    {"minicache", "growing", false, "growing concatenates a layer's own rows, and directions belong to two layers"},
    {"minicache", "paged", true, "pages hold directions and dense layers' rows; lengths and retained rows stay strips"},
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
