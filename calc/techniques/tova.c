/* tova.c - per layer the `budget` tokens that the newest query attends to most, the same for all heads.
 *
 *   slots C = min(T, budget) of k and v; no accumulator, no list: keys carry their rotation
 *   decode step: attention sees min(T, budget + 1) keys; then the lowest mean over the heads leaves, which
 *   may be the newest token's own. Its row waits outside the cache until then, where the official code
 *   holds budget + 1 slots inside a step.
 *
 * Oren et al. 2024, arXiv:2401.06104, section 4; schwartz-lab-NLP/TOVA src/tova_cache.py. */
#include "calc/select.h"

#include <inttypes.h>

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const uint64_t budget = spec_int(s, "budget"), kept = num_min(p->w.context, budget);

    KVP_TRY(select_check(p, "tova", e));
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];

        if (!select_sees_all(p, c))
            continue;
        c->span = num_min(c->span, num_add(&p->over, budget, 1));
        select_ring(c, budget, true);
        plan_add_scratch(p, "kept_index", KVP_I32, p->w.batch, 1, kept);
        plan_add_scratch(p, "probabilities", KVP_F32, p->w.batch, c->model->heads, num_max(p->w.prompt, num_add(&p->over, kept, 1)));
    }
    return KVP_OK;
}

/* The last query's row of q.k again, its mean over the heads, the choice. */
static void prefill_ops(struct ops *o, struct plan *p, uint32_t cls, uint64_t budget)
{
    const struct plan_class *c = &p->cls[cls];
    const struct kvp_layer_class *m = c->model;
    const uint64_t B = p->w.batch, P = p->w.prompt, keys = m->kv_heads ? m->kv_heads : m->heads, index = NUM_PROD(&o->over, 4, B, budget);
    bool *over = &o->over;
    const uint64_t flops = num_add(over, NUM_PROD(over, 2, B, m->heads, m->head_dim, P), NUM_PROD(over, B, m->heads, P));

    if (budget >= P)
        return;
    ops_add(o, KVP_OP_SELECT, KVP_PREFILL, cls, c->count,
            (struct cost){flops, flops, NUM_PROD(over, 4, B, m->head_dim, num_add(over, m->heads, num_mul(over, P, keys))), index});
    ops_more(o, KVP_OP_APPEND, KVP_PREFILL, cls, (struct cost){.read = index});
}

static void decode_ops(struct ops *o, struct plan *p, uint32_t cls, uint64_t budget)
{
    const struct plan_class *c = &p->cls[cls];
    const uint64_t B = p->w.batch, used = num_min(p->w.context - 1, budget), H = c->model->heads;
    bool *over = &o->over;
    const uint64_t probs = NUM_PROD(over, 4, B, H, used + 1), mean = NUM_PROD(over, B, H, used + 1);
    const uint64_t new_row = NUM_PROD(over, 4, B, select_row(over, c)), row = num_mul(over, B, select_row_bytes(over, c));

    ops_more(o, KVP_OP_ATTN, KVP_DECODE, cls, (struct cost){.read = new_row, .written = probs});
    ops_add(o, KVP_OP_EVICT, KVP_DECODE, cls, c->count, (struct cost){mean, mean, num_add(over, probs, new_row), row});
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    const struct plan_class *c = &p->cls[cls];

    if (select_acts(p, c))
        (phase == KVP_PREFILL ? prefill_ops : decode_ops)(o, p, cls, spec_int(s, "budget"));
}

static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    (void)m;
    snprintf(buf, n, "%" PRIu64, num_max(w->context / 4, 1));
}

const struct technique technique_tova = {
    .info = {.name = "tova", .axis = KVP_AXIS_SELECT, .summary = "tokens that the newest query attends to, one set a layer",
             .source = "Oren et al. 2024, arXiv:2401.06104, section 4; schwartz-lab-NLP/TOVA", .params = "budget=512"},
    .n_params = 1,
    .params = {{.key = "budget", .kind = KVP_PARAM_INT, .positional = true, .i = 512, .min = 1, .max = INT64_MAX}},
    .example = example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
