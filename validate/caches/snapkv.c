/* snapkv.c - the prompt tokens that its last queries attend to most, and those last tokens, chosen once for each
 * head (Li et al. 2024, arXiv:2404.14469, section 4; FasterDecoding/SnapKV snapkv/monkeypatch/snapkv_utils.py)
 *
 * A prompt shorter than `cap` stays whole; otherwise `cap` of its tokens do, in every layer. The official code
 * repeats rows to query heads first (heads=query); with heads=kv the query heads of a kv head choose together. */
#include "validate/caches/caches.h"
#include "validate/caches/picked.h"
#include "validate/caches/size.h"

static kvp_err read_spec(struct picked_rule *r, const struct cache_env *env, const struct kvp_spec *spec, struct kvp_error *e)
{
    uint64_t cap;

    KVP_TRY(picked_read_window(r, spec, e));
    KVP_TRY(picked_read_cap(&cap, r, spec, e));
    for (uint32_t i = 0; i < env->model->layers; i++)
        r->kept[i] = size_min(env->prompt, cap);
    return KVP_OK;
}

static kvp_err snapkv_open(struct cache **out, const struct cache_env *env, struct kvp_error *e)
{
    return picked_open(out, env, read_spec, e);
}

const struct cache_ops cache_snapkv = {.name = "snapkv", .axis = KVP_AXIS_SELECT, .params = "cap window kernel pooling heads", .encodes = true,
                                       .open = snapkv_open, PICKED_OPS};
