/* kv.c - rows of keys and values stored in fewer bits: fp8, int8, int4 with scales beside them, or blocks with scales
 * inside (docs/techniques/kv.md; the formulas are kernels/ops/kv.h's)
 *
 * Rows are as many and lie where they would lie whole, so the cache is rows.c's and the slots a store's. A row is
 * quantized when it is written, the newest before the step's attention reads it back. A tensor's one scale is that of
 * the prompt (vLLM's calculate_kv_scales): what comes later and is larger saturates. */
#include "validate/caches/kv.h"

#include "kernels/code.h"
#include "validate/caches/caches.h"
#include "validate/caches/layout.h"
#include "validate/caches/rows.h"
#include "validate/caches/size.h"
#include "validate/caches/steps.h"

static kvp_err read_scales(struct kv_code *c, const struct kvp_spec *spec, const struct cache_env *env, struct kvp_error *e)
{
    static const struct {
        const char *word;
        enum kb_scales scales;
    } words[] = {{"tensor", KB_SCALES_TENSOR}, {"token-head", KB_SCALES_ROW}, {"group", KB_SCALES_GROUP}};
    const struct kvp_param *p = kvp_spec_param(spec, "scale"), *group = kvp_spec_param(spec, "group");

    c->scales = c->format == KVP_FP8 ? KB_SCALES_TENSOR : c->format == KVP_INT8 ? KB_SCALES_ROW : KB_SCALES_GROUP;
    for (size_t i = 0; p && p->word && i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(p->word, words[i].word) == 0)
            c->scales = words[i].scales;
    if (c->scales != KB_SCALES_GROUP)
        return KVP_OK;
    if (!group || group->i < 1 || group->i > UINT32_MAX)
        return kvp_fail(e, KVP_EINPUT, "%s: group is %lld, expected at least 1", spec->name, group ? (long long)group->i : 0);
    c->group = (uint32_t)group->i;
    c->scale_format = env->format;
    return KVP_OK;
}

static kvp_err read_side(struct kv_code *c, const struct kvp_spec *spec, const char *side, const struct cache_env *env,
                         struct kvp_error *e)
{
    const struct kvp_param *own = kvp_spec_param(spec, side), *both = kvp_spec_param(spec, "format");
    const struct kvp_param *scale = kvp_spec_param(spec, "scale");

    *c = (struct kv_code){.format = own && own->given ? own->f : both ? both->f : KVP_FORMATS};
    if (!kb_unit_of(c->format).bytes)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not store %s as %s yet", spec->name, side, kvp_format_name(c->format));
    if (kb_is_code(c->format))
        return read_scales(c, spec, env, e);
    return scale && scale->given && strcmp(scale->word, "auto") != 0
               ? kvp_fail(e, KVP_EINPUT, "%s: scale is %s, but %s has none beside it", spec->name, scale->word, kvp_format_name(c->format))
               : KVP_OK;
}

static kvp_err check_width(const struct kv_code *c, const struct kvp_spec *spec, uint32_t dim, struct kvp_error *e)
{
    const uint32_t unit = c->group ? c->group : kb_unit_of(c->format).elements;

    return dim % unit == 0 ? KVP_OK
                           : kvp_fail(e, KVP_EINPUT, "%s: a head has %u channels, not a multiple of the %u that %s stores together",
                                      spec->name, dim, unit, kvp_format_name(c->format));
}

kvp_err kv_codes(struct kv_code out[2], const struct cache_env *env, struct kvp_error *e)
{
    static const char *const sides[2] = {"k", "v"};
    const struct kvp_spec *spec = kvp_stack_on(env->stack, KVP_AXIS_ENCODE);

    out[0] = out[1] = (struct kv_code){.format = env->format};
    if (!spec || strcmp(spec->name, cache_kv.name) != 0)
        return KVP_OK;
    for (int s = 0; s < 2; s++) {
        KVP_TRY(read_side(&out[s], spec, sides[s], env, e));
        for (uint32_t l = 0; l < env->model->layers; l++) {
            const struct layer_rows rows = layer_rows(env, l);

            KVP_TRY(check_width(&out[s], spec, s ? rows.v.dim : rows.k.dim, e));
        }
    }
    return KVP_OK;
}

uint64_t kv_beside(const struct kv_code *c, uint32_t dim, bool shift)
{
    if (c->scales == KB_SCALES_ROW)
        return shift ? 0 : sizeof(float);
    return c->scales == KB_SCALES_GROUP ? dim / c->group * size_of_format(c->scale_format) : 0;
}

const struct cache_ops cache_kv = {.name = "kv", .axis = KVP_AXIS_ENCODE, .params = "format k v scale group", ROWS_OPS};
