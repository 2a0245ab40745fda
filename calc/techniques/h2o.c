/* h2o.c - heavy hitters: per kv head, the tokens that gathered most attention, and the recent ones.
 *
 *   slots C = min(T, heavy + recent) of k and v, and one score for each: [B, Hkv, C] (metadata)
 *   heavy, recent absolute, or int(ratio * prompt), truncated
 *   decode step: a query sees min(T, heavy + recent + 1) keys; its own row is stored after eviction
 *   prefill: full attention, then a second pass of q.k for the mass every key received
 *
 * Variants: `drop` really drops (the default). `mask` hides what it would drop and keeps it: the dense
 * cache's bytes. `flexgen` has 2k slots from the start, k = heavy, and a score for each: the
 * new row goes into a slot that is free, the oldest recent one into that of the lowest score.
 *
 * With grouped heads a kv head's score is the sum over its query heads; an MLA latent belongs to all heads,
 * so its slots have one score a layer. A layer whose own window is shorter than the context keeps its ring. */
#include "calc/select.h"

#include <inttypes.h>

enum { DROP, MASK, FLEXGEN };
static const char *const variants[] = {"drop", "mask", "flexgen", NULL};

static int variant_of(const struct kvp_spec *s)
{
    return (int)kvp_spec_param(s, "variant")->i;
}

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

/* The scores of `slots` slots; all of them from the start when `fixed`. */
static void add_scores(struct plan_class *c, uint64_t slots, enum kvp_format f, const struct law *like, bool fixed)
{
    struct part *x = plan_add_part(c, "scores");

    x->tag = KVP_TAG_METADATA;
    x->format = f;
    x->heads = select_heads(c);
    x->width = 1;
    x->law.cap = slots;
    x->law.strip = like->strip;
    x->follows_growth = x->strips = true;
    if (fixed)
        x->slots = x->slots_most = slots;
}

static uint64_t all_slots(const struct law *l, uint64_t max_len)
{
    (void)max_len;
    return l->cap;
}

/* Of the class at most `slots` tokens stay. */
static void limit(struct plan *p, struct plan_class *c, const struct kvp_spec *s, uint64_t slots)
{
    const bool fixed = variant_of(s) == FLEXGEN;
    const struct law ring = {.held = law_ring, .strip = fixed ? all_slots : NULL, .cap = slots};

    c->span = num_min(c->span, fixed ? slots : num_add(&p->over, slots, 1));
    select_ring(c, slots, !fixed);
    for (uint32_t i = 0; fixed && i < c->n_parts; i++)
        if (c->parts[i].rows) {
            c->parts[i].law = ring;
            c->parts[i].slots = c->parts[i].slots_most = slots;
        }
    if (class_has_rows(c))
        add_scores(c, slots, kvp_spec_param(s, "score_dtype")->f, &ring, fixed);
}

/* The new token is one more than is kept; flexgen has a slot free for it, and chooses so many fewer of the prompt. */
static void scratch(struct plan *p, const struct plan_class *c, uint64_t kept, bool fixed)
{
    plan_add_scratch(p, "prompt_scores", KVP_F32, p->w.batch, select_heads(c), p->w.prompt);
    plan_add_scratch(p, "kept_index", KVP_I32, p->w.batch, select_heads(c), kept - (fixed && kept < p->w.context));
    plan_add_scratch(p, "probabilities", KVP_F32, p->w.batch, c->model->heads, fixed ? kept : num_add(&p->over, kept, 1));
}

static kvp_err slots_of(struct plan *p, const struct kvp_spec *s, uint64_t *slots, struct kvp_error *e)
{
    uint64_t heavy, recent;

    KVP_TRY(budget(p, s, "heavy", "heavy_ratio", &heavy, e));
    if (variant_of(s) == FLEXGEN) {
        if (kvp_spec_param(s, "recent")->given)
            return kvp_fail(e, KVP_EINPUT, "h2o: recent=%" PRId64 ": variant=flexgen has as many recent slots as heavy ones, expected heavy only", kvp_spec_param(s, "recent")->i);
        if (heavy < 2)
            return kvp_fail(e, KVP_EINPUT, "h2o: heavy is %" PRIu64 " tokens; variant=flexgen keeps heavy - 1 recent ones, so at least 2", heavy);
        recent = heavy;
    } else {
        KVP_TRY(budget(p, s, "recent", "recent_ratio", &recent, e));
    }
    *slots = num_add(&p->over, heavy, recent);
    return KVP_OK;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    uint64_t slots = 0;

    KVP_TRY(select_check(p, "h2o", e));
    KVP_TRY(slots_of(p, s, &slots, e));
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];
        const uint64_t kept = variant_of(s) == MASK ? p->w.context : num_min(p->w.context, slots);

        if (!select_sees_all(p, c))
            continue;
        if (variant_of(s) != MASK)
            limit(p, c, s, slots);
        if (class_has_rows(c))
            scratch(p, c, kept, variant_of(s) == FLEXGEN);
    }
    return KVP_OK;
}

/* Mass per key: the whole prompt's q.k once more; then the choice of slots. */
static void prefill_ops(struct ops *o, struct plan *p, uint32_t cls, const struct part *scores)
{
    const struct plan_class *c = &p->cls[cls];
    const struct kvp_layer_class *m = c->model;
    const uint64_t B = p->w.batch, P = p->w.prompt, d = m->head_dim, n = c->count, hs = select_heads(c);
    const uint64_t keys = m->kv_heads ? m->kv_heads : m->heads, pass = NUM_PROD(&o->over, 2, B, m->heads, d);
    uint64_t kept;
    bool *over = &o->over;

    ops_add(o, KVP_OP_SCORE, KVP_PREFILL, cls, n,
            (struct cost){.flops = num_mul(over, pass, ops_band(over, P, c->band)),
                          .flops_full = NUM_PROD(over, pass, P, P),
                          .read = num_add(over, NUM_PROD(over, 4, B, P, d, m->heads + keys), NUM_PROD(over, 4, B, m->heads, P)),
                          .written = NUM_PROD(over, 4, B, hs, P)});
    if (!scores)
        return;
    kept = law_ring(&scores->law, P);
    ops_add(o, KVP_OP_EVICT, KVP_PREFILL, cls, n,
            (struct cost){.read = NUM_PROD(over, 4, B, hs, P),
                          .written = NUM_PROD(over, 4 + format_bits(scores->format) / 8, B, hs, kept)});
    ops_more(o, KVP_OP_APPEND, KVP_PREFILL, cls, (struct cost){.read = NUM_PROD(over, 4, B, hs, kept)});
}

/* Add this step's probabilities to the scores, free the lowest slot by moving one row, store the new (which
 * flexgen's cache_append has done). */
static void decode_ops(struct ops *o, struct plan *p, uint32_t cls, const struct part *scores, bool stored)
{
    const struct plan_class *c = &p->cls[cls];
    const uint64_t B = p->w.batch, used = law_ring_before(&scores->law, p->w.context), hs = scores->heads;
    const uint64_t bs = format_bits(scores->format) / 8, heads = c->model->heads, attended = stored ? num_min(used + 1, scores->law.cap) : used + 1;
    const uint64_t row = num_mul(&o->over, B, select_row_bytes(&o->over, c));
    const uint64_t moved = used == scores->law.cap ? row : 0, probs = NUM_PROD(&o->over, 4, B, heads, attended);
    const uint64_t new_row = stored ? 0 : NUM_PROD(&o->over, 4, B, select_row(&o->over, c));
    const uint64_t mass = NUM_PROD(&o->over, B, heads, attended);
    bool *over = &o->over;

    ops_more(o, KVP_OP_ATTN, KVP_DECODE, cls, (struct cost){.read = new_row, .written = probs});
    ops_add(o, KVP_OP_EVICT, KVP_DECODE, cls, c->count,
            (struct cost){.flops = mass,
                          .flops_full = mass,
                          .read = num_add(over, num_add(over, probs, NUM_PROD(over, B, hs, used, bs)), num_add(over, new_row, moved)),
                          .written = num_add(over, NUM_PROD(over, B, hs, num_min(used + 1, scores->law.cap), bs),
                                             num_add(over, stored ? 0 : row, moved))});
}

/* Masking computes with everything: only the sums of the probabilities are added. */
static void mask_ops(struct ops *o, struct plan *p, uint32_t cls)
{
    const struct plan_class *c = &p->cls[cls];
    const uint64_t mass = NUM_PROD(&o->over, p->w.batch, c->model->heads, p->w.context), probs = num_mul(&o->over, 4, mass);

    ops_more(o, KVP_OP_ATTN, KVP_DECODE, cls, (struct cost){.written = probs});
    ops_add(o, KVP_OP_EVICT, KVP_DECODE, cls, c->count, (struct cost){.flops = mass, .flops_full = mass, .read = probs});
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    struct plan_class *c = &p->cls[cls];
    const struct part *scores = plan_find_part(c, "scores");

    if (!select_acts(p, c))
        return;
    if (phase == KVP_PREFILL)
        prefill_ops(o, p, cls, scores);
    else if (scores)
        decode_ops(o, p, cls, scores, variant_of(s) == FLEXGEN);
    else
        mask_ops(o, p, cls);
}

/* The default ratios, unless they come to nothing on a prompt this short. */
static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    (void)m;
    snprintf(buf, n, "%s", w->prompt >= 10 ? "" : "heavy=1,recent=1");
}

static const char *const others[] = {"variant=flexgen", NULL};

const struct technique technique_h2o = {
    .info = {.name = "h2o", .axis = KVP_AXIS_SELECT, .summary = "heavy hitters and recent tokens, chosen per kv head",
             .source = "Zhang et al. 2023, arXiv:2306.14048, section 4; FMInference/H2O h2o_hf/utils_real_drop",
             .params = "heavy,recent,heavy_ratio=0.1,recent_ratio=0.1,score_dtype=f32,variant"},
    .variants = others,
    .n_params = 6,
    .params = {{.key = "heavy", .kind = KVP_PARAM_INT, .no_default = true, .excludes = "heavy_ratio", .min = 1, .max = INT64_MAX},
               {.key = "recent", .kind = KVP_PARAM_INT, .no_default = true, .excludes = "recent_ratio", .min = 1, .max = INT64_MAX},
               {.key = "heavy_ratio", .kind = KVP_PARAM_RATIO, .r = 0.1, .r_min = 0, .r_max = 1},
               {.key = "recent_ratio", .kind = KVP_PARAM_RATIO, .r = 0.1, .r_min = 0, .r_max = 1},
               {.key = "score_dtype", .kind = KVP_PARAM_FORMAT, .f = KVP_F32, .formats = 1u << KVP_F32 | 1u << KVP_F16},
               {.key = "variant", .kind = KVP_PARAM_WORD, .no_default = true, .words = variants}},
    .example = example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
