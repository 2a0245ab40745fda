/* h2o.c - heavy hitters: per kv head, the tokens that gathered most attention, and the recent ones.
 *
 *   slots C = min(T, heavy + recent) of k and v, and one score for each: [B, Hkv, C] (metadata)
 *   heavy, recent absolute, or int(ratio * prompt), truncated
 *   decode step: a query sees min(T, heavy + recent + 1) keys; its own row is stored after eviction
 *   prefill: full attention, then a second pass of q.k for the mass every key received
 *
 * The real-drop variant. With grouped heads a kv head's score is the sum over its query heads. */
#include "calc/technique.h"

#include <inttypes.h>

static kvp_err budget(const struct plan *p, const struct kvp_spec *s, const char *key, const char *ratio_key, uint64_t *out,
                      struct kvp_error *e)
{
    const struct kvp_param *n = kvp_spec_param(s, key), *r = kvp_spec_param(s, ratio_key);

    if (n->given) {
        *out = (uint64_t)n->i;
        return KVP_OK;
    }
    *out = (uint64_t)(r->r * (double)p->w.prompt);
    if (*out)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "h2o: %s=%g of a prompt of %" PRIu64 " tokens is 0 tokens; give %s, a larger ratio or a longer prompt",
                    ratio_key, r->r, p->w.prompt, key);
}

/* Kept sets of a layer: one for each key-value head; heads that read one latent (MLA) share one. */
static uint64_t sets(const struct kvp_layer_class *m)
{
    return m->mixer == KVP_MIX_MLA ? 1 : m->kv_heads;
}

static uint64_t row_width(const struct kvp_layer_class *m)
{
    return m->mixer == KVP_MIX_MLA ? (uint64_t)m->kv_rank + m->rope_dim : (uint64_t)m->kv_heads * m->head_dim * 2;
}

static bool stores_rows(const struct plan_class *c)
{
    return c->n_parts && c->parts[0].rows;
}

static void add_scores(struct plan_class *c, uint64_t slots, enum kvp_format f)
{
    struct part *x = plan_add_part(c, "scores");

    x->tag = KVP_TAG_METADATA;
    x->format = f;
    x->heads = sets(c->model);
    x->width = 1;
    x->law.cap = slots;
    x->follows_growth = x->strips = true;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    uint64_t heavy, recent, slots;

    KVP_TRY(budget(p, s, "heavy", "heavy_ratio", &heavy, e));
    KVP_TRY(budget(p, s, "recent", "recent_ratio", &recent, e));
    slots = num_add(&p->over, heavy, recent);
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];
        const uint64_t kept = num_min(p->w.context, slots);

        if (c->model->window && p->w.context > c->model->window)
            return kvp_fail(e, KVP_ENOTSUP,
                            "h2o: a layer sees only its window of %" PRIu64 " tokens, and h2o would keep older ones at context %" PRIu64,
                            c->model->window, p->w.context);
        c->span = num_min(c->span, num_add(&p->over, slots, 1));
        if (!stores_rows(c))
            continue;
        for (uint32_t k = 0; k < c->n_parts; k++) {
            if (!c->parts[k].rows)
                continue;
            c->parts[k].law = (struct law){.held = law_ring, .read = law_ring_before, .cap = slots};
            c->parts[k].append_decode = false; /* the eviction step stores the row */
        }
        add_scores(c, slots, kvp_spec_param(s, "score_dtype")->f);
        plan_add_scratch(p, "prompt_scores", KVP_F32, p->w.batch, sets(c->model), p->w.prompt);
        plan_add_scratch(p, "kept_index", KVP_I32, p->w.batch, sets(c->model), kept);
        plan_add_scratch(p, "probabilities", KVP_F32, p->w.batch, c->model->heads, num_add(&p->over, kept, 1));
    }
    return KVP_OK;
}

/* Mass per key: the whole prompt's q.k once more; then the choice of slots. */
static void prefill_ops(struct ops *o, struct plan *p, uint32_t cls, const struct part *scores)
{
    const struct kvp_layer_class *m = p->cls[cls].model;
    const uint64_t B = p->w.batch, P = p->w.prompt, d = m->head_dim, n = m->count;
    const uint64_t kept = law_ring(&scores->law, P), bs = format_bits(scores->format) / 8;
    const uint64_t pass = NUM_PROD(&o->over, 2, B, m->heads, d);
    bool *over = &o->over;

    ops_add(o, KVP_OP_SCORE, KVP_PREFILL, cls, n,
            (struct cost){.flops = num_mul(over, pass, ops_band(over, P, p->cls[cls].band)),
                          .flops_full = NUM_PROD(over, pass, P, P),
                          .read = num_add(over, NUM_PROD(over, 4, B, P, d, (uint64_t)m->heads + m->kv_heads),
                                          NUM_PROD(over, 4, B, m->heads, P)),
                          .written = NUM_PROD(over, 4, B, sets(m), P)});
    ops_add(o, KVP_OP_EVICT, KVP_PREFILL, cls, n,
            (struct cost){.read = NUM_PROD(over, 4, B, sets(m), P),
                          .written = NUM_PROD(over, 4 + bs, B, sets(m), kept)});
    ops_more(o, KVP_OP_APPEND, KVP_PREFILL, cls, (struct cost){.read = NUM_PROD(over, 4, B, sets(m), kept)});
}

/* Add this step's probabilities to the scores, free the lowest slot by moving one row, store the new. */
static void decode_ops(struct ops *o, struct plan *p, uint32_t cls, const struct part *scores)
{
    const struct kvp_layer_class *m = p->cls[cls].model;
    const uint64_t B = p->w.batch, used = law_ring_before(&scores->law, p->w.context), n = m->count;
    const uint64_t bs = format_bits(scores->format) / 8, kv_row = row_width(m);
    const uint64_t row = NUM_PROD(&o->over, B, kv_row, format_bits(p->kv) / 8);
    const uint64_t moved = used == scores->law.cap ? row : 0, probs = NUM_PROD(&o->over, 4, B, m->heads, used + 1);
    const uint64_t new_row = NUM_PROD(&o->over, 4, B, kv_row);
    const uint64_t mass = NUM_PROD(&o->over, B, m->heads, used + 1);
    bool *over = &o->over;

    ops_more(o, KVP_OP_ATTN, KVP_DECODE, cls, (struct cost){.read = new_row, .written = probs});
    ops_add(o, KVP_OP_EVICT, KVP_DECODE, cls, n,
            (struct cost){.flops = mass,
                          .flops_full = mass,
                          .read = num_add(over, num_add(over, probs, NUM_PROD(over, B, sets(m), used, bs)),
                                          num_add(over, new_row, moved)),
                          .written = num_add(over, NUM_PROD(over, B, sets(m), num_min(used + 1, scores->law.cap), bs),
                                             num_add(over, row, moved))});
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    const struct plan_class *c = &p->cls[cls];
    const struct part *scores = &c->parts[c->n_parts - 1];

    (void)s;
    if (!stores_rows(c))
        return;
    if (phase == KVP_PREFILL)
        prefill_ops(o, p, cls, scores);
    else
        decode_ops(o, p, cls, scores);
}

/* The default ratios, unless they come to nothing on a prompt this short. */
static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    (void)m;
    snprintf(buf, n, "%s", w->prompt >= 10 ? "" : "heavy=1,recent=1");
}

const struct technique technique_h2o = {
    .info = {.name = "h2o", .axis = KVP_AXIS_SELECT, .summary = "heavy hitters and recent tokens, chosen per kv head",
             .source = "Zhang et al. 2023, arXiv:2306.14048, section 4; FMInference/H2O h2o_hf/utils_real_drop",
             .params = "heavy,recent,heavy_ratio=0.1,recent_ratio=0.1,score_dtype=f32"},
    .n_params = 5,
    .params = {{.key = "heavy", .kind = KVP_PARAM_INT, .no_default = true, .excludes = "heavy_ratio", .min = 1, .max = INT64_MAX},
               {.key = "recent", .kind = KVP_PARAM_INT, .no_default = true, .excludes = "recent_ratio", .min = 1, .max = INT64_MAX},
               {.key = "heavy_ratio", .kind = KVP_PARAM_RATIO, .r = 0.1, .r_min = 0, .r_max = 1},
               {.key = "recent_ratio", .kind = KVP_PARAM_RATIO, .r = 0.1, .r_min = 0, .r_max = 1},
               {.key = "score_dtype", .kind = KVP_PARAM_FORMAT, .f = KVP_F32, .formats = 1u << KVP_F32 | 1u << KVP_F16}},
    .example = example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
