/* pairs.c - which techniques compose: one verdict for every pair, with the reason.
 *
 * Two techniques on one axis never do. `pairs` names both; `rules` may say *AXIS for every technique on that
 * axis. The first row that fits decides, `pairs` before `rules`. */
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
    {"window", "kv", true, "rows of the window are quantized one by one"},
    {"h2o", "kv", true, "rows are quantized one by one, so one can be evicted with its scales"},
    {"contiguous", "kv", true, "strips of codes and of scales"},
    {"growing", "kv", true, "codes and scales grow row by row"},
    {"paged", "kv", true, "pages of codes and of scales"},
    {"window", "smoothquant", true, "int8 weights beside any rows; with kv=int8 the rows are bytes"},
    {"h2o", "smoothquant", true, "int8 weights beside any rows; with kv=int8 the rows are bytes"},
    {"contiguous", "smoothquant", true, "int8 weights beside any rows; with kv=int8 the rows are bytes"},
    {"growing", "smoothquant", true, "int8 weights beside any rows; with kv=int8 the rows are bytes"},
    {"paged", "smoothquant", true, "int8 weights beside any rows; with kv=int8 the rows are bytes"},
    {"kivi", "smoothquant", true, "weights and cache are stored apart; kv=int8 is refused, the cache is encoded already"},
    {"kv", "smoothquant", true, "weights and cache are stored apart; kv=int8 is refused, the cache is encoded already"},
};

/* Where the names are too many to list. */
static const struct kvp_pair rules[] = {
    /* mixer: fewer key-value heads */
    {"gqa", "*share", true, "first fewer heads, then fewer layers that store them"},
    {"mqa", "*share", true, "first fewer heads, then fewer layers that store them"},
    {"gqa", "*rank", true, "the projections that are factored are those of fewer heads"},
    {"mqa", "*rank", true, "the projections that are factored are those of fewer heads"},
    {"gqa", "*select", true, "sets and scores are a key-value head's, of which there are fewer"},
    {"mqa", "*select", true, "sets and scores are a key-value head's, of which there are fewer"},
    {"gqa", "*merge", true, "layers merge as they would with any number of heads"},
    {"mqa", "*merge", true, "layers merge as they would with any number of heads"},
    {"gqa", "*encode", true, "fewer heads, each row stored as before"},
    {"mqa", "*encode", true, "fewer heads, each row stored as before"},
    {"gqa", "*store", true, "fewer heads, the same slots"},
    {"mqa", "*store", true, "fewer heads, the same slots"},
    /* mixer: latents */
    {"mla", "cla", false, "a latent already serves all heads of its layer; sharing it between layers is not defined"},
    {"mla", "yoco", false, "the halves are made of layers with keys and values, and a latent is neither"},
    {"mla", "lorc", false, "a latent is low-rank already"},
    {"mla", "window", true, "a ring of latents"},
    {"mla", "h2o", true, "one set of slots a layer, not one a head: all heads read one latent"},
    {"mla", "tova", true, "one set of slots a layer, which is what all heads of a latent need"},
    {"mla", "streaming-llm", false, "positions inside the cache need keys stored before rotation, and the latent's rotary part is stored after it"},
    {"mla", "quest", false, "the bounds of a page are those of a head's keys, which are never stored"},
    {"mla", "*select", false, "kept sets are a head's, and all heads read one latent"},
    {"mla", "*merge", false, "what is merged is keys and values, and a latent is neither"},
    {"mla", "kv", true, "the latent in another format"},
    {"mla", "*encode", false, "keys are packed by channel and values by token, and a latent is both"},
    {"mla", "*store", true, "a row is a latent and its rotary part"},
    /* mixer: cross blocks over an encoded context */
    {"xc-cache", "*share", false, "the decoder is frozen: every layer of it keeps its own keys and values"},
    {"xc-cache", "*rank", true, "the decoder's own keys and values are factored; the context is not touched"},
    {"xc-cache", "*select", false, "it would select among the question and the answer; the memory is in the context, which it cannot see"},
    {"xc-cache", "*merge", false, "it would merge the question's and the answer's rows; the memory is in the context, which it cannot see"},
    {"xc-cache", "kv", true, "the decoder's own rows in another format"},
    {"xc-cache", "*encode", false, "the context is stored as hidden states, which have no groups of keys or values"},
    {"xc-cache", "*store", true, "the decoder's own rows; the context is one tensor that never changes"},
    {"xc-cache", "*reuse", false, "the context is encoded offline already; what is left of a prompt is each sequence's own question"},
    {"xc-cache", "*chunking", false, "what goes through the decoder is a question of a few tokens: there is nothing to cut"},
    /* mixer: recurrence */
    {"recurrent", "*reuse", true, "the shared prefix is one more copy of the state, a checkpoint"},
    {"recurrent", "*chunking", true, "the state carries over from chunk to chunk"},
    {"recurrent", "*weights", true, "the projections of a recurrence are linears like any other"},
    {"recurrent", "*batching", true, "a sequence that runs has a state, whatever its length"},
    {"recurrent", "*share", false, "not applicable: no KV cache is left that layers could share"},
    {"recurrent", "*rank", false, "not applicable: no keys and values are left to factor"},
    {"recurrent", "*select", false, "not applicable: no KV cache is left to select from"},
    {"recurrent", "*merge", false, "not applicable: no KV cache is left to merge"},
    {"recurrent", "*encode", false, "not applicable: no KV cache is left; a state's format is --mamba-ssm-cache-dtype"},
    {"recurrent", "*store", false, "not applicable: no KV cache is left to place"},
    /* share */
    {"cla", "lorc", false, "the layers that read a shared latent would each need a second factor of their own"},
    {"yoco", "lorc", false, "the layers that read a shared latent would each need a second factor of their own"},
    {"cla", "window", true, "the readers see the owner's ring"},
    {"cla", "streaming-llm", true, "the readers see the owner's sinks and ring"},
    {"cla", "quest", false, "each reader would choose pages by queries of its own, with bounds that another layer owns"},
    {"cla", "duo", false, "which heads stream is each layer's own, and readers have the owner's heads"},
    {"cla", "*select", false, "an owner's rows are read by layers that score them differently, and nothing says whose scores decide"},
    {"cla", "minicache", true, "neighbouring owners merge"},
    {"cla", "*encode", true, "owners store rows in another form; readers unpack them again"},
    {"cla", "*store", true, "the owners' rows only"},
    {"yoco", "*select", false, "the lower half has a window or a state of its own, and the one shared cache is read by layers that score differently"},
    {"yoco", "*merge", false, "the upper half has one cache already, and the lower half's windows are not merged"},
    {"yoco", "*encode", true, "the one cache and the windows in another form"},
    {"yoco", "*store", true, "the one cache and the windows"},
    /* rank */
    {"lorc", "window", true, "a ring of latents"},
    {"lorc", "streaming-llm", true, "latents are stored before rotation, as sinks need it"},
    {"lorc", "tova", true, "one set of slots a layer, and one latent a layer"},
    {"lorc", "quest", false, "the bounds of a page are those of a head's keys, which are not stored"},
    {"lorc", "*select", false, "kept sets are a head's, and one latent serves all heads"},
    {"lorc", "*merge", false, "two layers' latents are in different bases"},
    {"lorc", "kv", true, "the latents in another format"},
    {"lorc", "*encode", false, "groups are of a head's channels, and a latent has no heads"},
    {"lorc", "*store", true, "a row is the layer's two latents"},
    /* select and merge */
    {"*select", "*merge", false, "two layers merge only when they keep the same tokens for good"},
    {"*select", "kv", true, "the kept rows in another format"},
    {"streaming-llm", "kivi", false, "the sinks would hold a group of keys whose other tokens are gone"},
    {"quest", "*encode", false, "a page's bounds are of keys as they are, and packed keys have only scales"},
    {"duo", "*encode", false, "two lengths in one layer would need two residuals"},
    {"*select", "*encode", false, "cannot drop single tokens of a group that shares its scales"},
    {"adakv", "*store", false, "heads of one layer keep different numbers of tokens, flat in one buffer of its own"},
    {"*select", "contiguous", true, "the strip is as long as what is kept"},
    {"*select", "growing", true, "grows like any rows, up to what is kept"},
    {"*select", "paged", true, "pages hold the slots of what is kept"},
    {"window", "*reuse", true, "what the window still sees of the prefix is shared"},
    {"quest", "*reuse", true, "nothing is evicted; pages of the prefix are shared"},
    {"*select", "*reuse", false, "an evicting sequence would take tokens from the others"},
    {"window", "*chunking", true, "a chunk attends to what the window holds of the chunks before"},
    {"quest", "*chunking", true, "nothing is evicted; bounds follow the pages"},
    {"streaming-llm", "*chunking", true, "sinks and ring take the prompt in any pieces"},
    {"duo", "*chunking", false, "streaming heads need room for a chunk beside sinks and ring, which is not modelled"},
    {"*select", "*chunking", false, "scores of a prompt come from one pass over all of it"},
    {"*merge", "kv", true, "directions in another format"},
    {"*merge", "*encode", false, "what is packed is keys and values, and directions and magnitudes are neither"},
    {"*merge", "contiguous", true, "one strip for both layers"},
    {"*merge", "*store", false, "retained tokens have rows of their own beside the pair's, and places that a store does not know"},
    {"*merge", "*reuse", false, "which tokens a pair of layers retains depends on the whole sequence"},
    {"*merge", "*chunking", false, "which tokens are retained is decided over the whole prompt at once"},
    /* encode and store */
    {"kv", "*store", true, "rows in another format, in the same slots"},
    {"kv", "*reuse", true, "shared rows in another format"},
    {"*encode", "*reuse", false, "which rows are packed yet depends on each sequence's length"},
    {"*encode", "*chunking", true, "earlier chunks are read back as they are stored"},
    {"paged", "*reuse", true, "whole pages of the prefix are named by several tables"},
    {"*store", "*reuse", false, "a strip belongs to one sequence; shared rows need pages, or no store"},
    {"growing", "*batching", false, "a padded tensor that grows for all cannot let sequences come and go"},
    {"*store", "*batching", true, "slots of the sequences that run"},
    {"growing", "*chunking", false, "every chunk would copy the cache, which is not modelled"},
    {"*store", "*chunking", true, "chunks are written to the same slots"},
    /* weights, reuse, batching, chunking */
    {"*weights", "*mixer", true, "whatever linears there are, are stored and multiplied this way"},
    {"*weights", "*share", true, "whatever linears there are, are stored and multiplied this way"},
    {"*weights", "*rank", true, "both factors are linears like any other"},
    {"*weights", "*select", true, "weights do not see which tokens stay"},
    {"*weights", "*merge", true, "weights do not see which layers merge"},
    {"*weights", "*encode", true, "weights and cache are stored each in their own way"},
    {"*weights", "*store", true, "weights do not see where rows lie"},
    {"*weights", "*reuse", true, "weights do not see what is shared"},
    {"*weights", "*batching", true, "weights are read once a step, whoever runs"},
    {"*weights", "*chunking", true, "weights are read once a chunk"},
    {"*reuse", "*batching", true, "a hit leaves fewer tokens for the budget"},
    {"*reuse", "*chunking", true, "what is left behind the hit is cut"},
    {"*batching", "*chunking", true, "as many chunks side by side as the budget holds"},
    {"*reuse", "*mixer", true, "rows of the prefix are shared, whatever their heads and widths"},
    {"*reuse", "*share", true, "owners' rows of the prefix are shared"},
    {"*reuse", "*rank", true, "latents of the prefix are shared"},
    {"*batching", "*mixer", true, "the budget counts tokens, whatever mixes them"},
    {"*batching", "*share", true, "the budget counts tokens, whoever stores them"},
    {"*batching", "*rank", true, "the budget counts tokens, however wide their rows are"},
    {"*batching", "*select", true, "each sequence keeps its own tokens"},
    {"*batching", "*merge", true, "each sequence merges its own rows"},
    {"*batching", "*encode", true, "each sequence packs its own rows"},
    {"*chunking", "*mixer", true, "each chunk attends to all before it"},
    {"*chunking", "*share", true, "each chunk attends to the owners' rows before it"},
    {"*chunking", "*rank", true, "each chunk rebuilds the latents before it"},
};

/* Names `t`, or the axis that it is on. */
static bool fits(const char *row, const struct technique *t)
{
    return strcmp(row[0] == '*' ? row + 1 : row, row[0] == '*' ? kvp_axis_name(t->info.axis) : t->info.name) == 0;
}

static const struct kvp_pair *first(const struct kvp_pair *rows, size_t n, const struct technique *a, const struct technique *b)
{
    for (size_t i = 0; i < n; i++)
        if ((fits(rows[i].a, a) && fits(rows[i].b, b)) || (fits(rows[i].a, b) && fits(rows[i].b, a)))
            return &rows[i];
    return NULL;
}

/* A row without names: the first that fits, or the axis. */
static const struct kvp_pair *verdict(const struct technique *a, const struct technique *b)
{
    static const struct kvp_pair same = {.reason = SAME_AXIS}, unknown = {.reason = "not in the composition table"};
    const struct kvp_pair *p;

    if (a->info.axis == b->info.axis)
        return &same;
    p = first(pairs, sizeof(pairs) / sizeof(pairs[0]), a, b);
    if (!p)
        p = first(rules, sizeof(rules) / sizeof(rules[0]), a, b);
    return p ? p : &unknown;
}

/* The caller reads it before it asks again. */
static const struct kvp_pair *named(const struct technique *a, const struct technique *b)
{
    static _Thread_local struct kvp_pair row;
    const struct kvp_pair *v = verdict(a, b);

    row = (struct kvp_pair){a->info.name, b->info.name, v->allowed, v->reason};
    return &row;
}

const struct kvp_pair *kvp_pair_at(uint32_t i)
{
    const struct technique *a, *b;

    for (uint32_t x = 0; (a = technique_at(x)); x++)
        for (uint32_t y = x + 1; (b = technique_at(y)); y++)
            if (!a->baseline && !b->baseline && i-- == 0)
                return named(a, b);
    return NULL;
}

const struct kvp_pair *pair_find(const char *a, const char *b)
{
    const struct technique *x = technique_find(a, strlen(a)), *y = technique_find(b, strlen(b));

    return x && y && x != y && !x->baseline && !y->baseline ? named(x, y) : NULL;
}
