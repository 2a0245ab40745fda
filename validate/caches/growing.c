/* growing.c - exactly the used slots: each new token allocates a longer tensor, copies the old rows and
 * frees the old tensor, one tensor at a time (transformers' DynamicCache: torch.cat in update()) */
#include "validate/caches/stores.h"

#include "validate/caches/size.h"

static kvp_err plan(struct store_plan *out, const struct kvp_spec *spec, const struct cache_env *env,
                    struct kvp_error *e)
{
    (void)spec;
    (void)e;
    *out = (struct store_plan){.tokens = env->context, .grows = true};
    return KVP_OK;
}

static kvp_err open_empty(struct store *s, struct kvp_error *e)
{
    (void)s;
    (void)e;
    return KVP_OK;
}

/* `runs` strips, one a sequence and head, from a shorter tensor into a longer one. */
static kvp_err copy_strips(const struct cache_env *env, struct kb_span dst, uint64_t dst_pitch,
                           struct kb_span src, uint64_t src_pitch, uint64_t runs, struct kvp_error *e)
{
    const struct ledger *l = env->led;

    if (env->copy)
        return env->copy(env->self, KVP_OP_GROW, dst, dst_pitch, src, src_pitch, src_pitch, runs, e);
    for (uint64_t i = 0; i < runs; i++) {
        KVP_TRY(l->be->copy(l->dev, dst, src, src_pitch, e));
        dst.offset += dst_pitch;
        src.offset += src_pitch;
    }
    return KVP_OK;
}

static kvp_err grow(struct store *s, uint32_t layer, int part, uint64_t slots, struct kvp_error *e)
{
    const uint64_t row = store_row_bytes(s, layer, part), old = s->layer[layer].slots[part];
    const uint64_t runs = s->env->batch * store_shape(s, layer, part).heads;
    struct led_mem *mem = &s->layer[layer].mem[part], longer = {0};
    kvp_err rc;

    KVP_TRY(store_alloc(s, layer, part, slots, &longer, e));
    rc = old ? copy_strips(s->env, (struct kb_span){longer.buf, 0}, slots * row,
                           (struct kb_span){mem->buf, 0}, old * row, runs, e)
             : KVP_OK;
    if (rc != KVP_OK) {
        led_free(s->env->led, &longer);
        return rc;
    }
    led_free(s->env->led, mem);
    *mem = longer;
    s->layer[layer].slots[part] = slots;
    return KVP_OK;
}

static kvp_err reserve(struct store *s, uint32_t layer, int part, uint64_t used, struct kvp_error *e)
{
    return used > s->layer[layer].slots[part] && store_row_bytes(s, layer, part) ? grow(s, layer, part, used, e) : KVP_OK;
}

static void reset(struct store *s)
{
    for (uint32_t i = 0; i < s->env->model->layers; i++)
        for (int p = 0; p < STORE_PARTS; p++) {
            led_free(s->env->led, &s->layer[i].mem[p]);
            s->layer[i].slots[p] = 0;
        }
}

const struct store_ops store_growing = {
    .name = "growing", .plan = plan, .open = open_empty, .reserve = reserve, .reset = reset};
