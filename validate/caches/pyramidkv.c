/* pyramidkv.c - SnapKV's choice with a budget that falls from the bottom layer to the top one
 *
 * rule=official (Zefan-Cai/KVCache-Factory pyramidkv/pyramidkv_utils.py, PyramidKVCluster.update_kv): integers,
 * the window beside the budget. A prompt below `cap` stays whole; below twice the budget every layer keeps `cap`.
 * rule=kvpress (NVIDIA/kvpress presses/pyramidkv_press.py, get_layer_budget): real numbers, the window inside.
 * Cai et al. 2024, arXiv:2406.02069, section 4. Layers are counted among those that see the whole context. */
#include "validate/caches/caches.h"
#include "validate/caches/picked.h"
#include "validate/caches/size.h"

#include <math.h>

struct budget {
    uint64_t prompt, window, layers, beta;
    uint64_t cap; /* official */
    double ratio; /* kvpress: of the prompt that goes */
};

static uint64_t official(const struct budget *b, uint64_t layer)
{
    const uint64_t beside = b->cap - b->window, rest = b->prompt - size_min(b->prompt, b->window);
    uint64_t least = beside / b->beta, most = 2 * beside - least, step;

    if (b->prompt < b->cap)
        return b->prompt;
    if (b->prompt < 2 * beside)
        return b->cap;
    if (most >= rest) {
        most = rest;
        least = 2 * beside - most;
    }
    step = b->layers > 1 ? (most - least) / (b->layers - 1) : 0;
    return most - step * layer + b->window;
}

static uint64_t kvpress(const struct budget *b, uint64_t layer)
{
    const double prompt = (double)b->prompt, window = (double)b->window, mean = prompt * (1 - b->ratio);
    double least = mean / (double)b->beta, most = 2 * mean - least;

    if (most >= prompt - window) {
        most = prompt - window;
        least = 2 * mean - most;
    }
    if (b->layers < 2 || least < window || most < least || most > prompt)
        return (uint64_t)nearbyint(mean);
    return (uint64_t)nearbyint(most - (most - least) / (double)(b->layers - 1) * (double)layer);
}

static kvp_err read_budget(struct budget *b, const struct picked_rule *r, const struct kvp_spec *spec, bool by_ratio, struct kvp_error *e)
{
    const struct kvp_param *beta = kvp_spec_param(spec, "beta"), *ratio = kvp_spec_param(spec, "ratio");

    if (!beta || beta->i < 1)
        return kvp_fail(e, KVP_EINPUT, "%s: beta is %lld, expected at least 1", spec->name, beta ? (long long)beta->i : 0);
    b->beta = (uint64_t)beta->i;
    if (!ratio || ratio->given != by_ratio)
        return kvp_fail(e, KVP_EINPUT, "%s: ratio belongs to rule=kvpress, and only to it", spec->name);
    if (by_ratio && r->query_heads)
        return kvp_fail(e, KVP_EINPUT, "%s: rule=kvpress stores kv heads, expected heads=kv", spec->name);
    b->ratio = ratio->r;
    if (by_ratio)
        return KVP_OK;
    KVP_TRY(picked_read_cap(&b->cap, r, spec, e));
    return b->cap <= INT64_MAX / 2 ? KVP_OK : kvp_fail(e, KVP_ERANGE, "%s: cap is too big", spec->name);
}

static kvp_err read_spec(struct picked_rule *r, const struct cache_env *env, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *rule = kvp_spec_param(spec, "rule");
    const bool by_ratio = rule && strcmp(rule->word, "kvpress") == 0;
    struct budget b = {.prompt = env->prompt};
    uint64_t layer = 0;

    KVP_TRY(picked_read_window(r, spec, e));
    KVP_TRY(read_budget(&b, r, spec, by_ratio, e));
    b.window = r->window;
    for (uint32_t i = 0; i < env->model->layers; i++)
        b.layers += r->acts[i];
    for (uint32_t i = 0; i < env->model->layers; i++)
        if (r->acts[i])
            r->kept[i] = (by_ratio ? kvpress : official)(&b, layer++);
    return KVP_OK;
}

static kvp_err pyramidkv_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    return picked_open(out, env, read_spec, e);
}

const struct cache_ops cache_pyramidkv = {.name = "pyramidkv", .axis = KVP_AXIS_SELECT,
                                          .params = "cap window kernel pooling heads beta rule ratio", .encodes = true,
                                          .open = pyramidkv_open, PICKED_OPS};
