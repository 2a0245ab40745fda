/* lorc.c - low-rank keys and values: the latents X*A are stored, a layer's ranks wide, for all heads together.
 *
 *   cache    sum over layers of B * T * (rk + rv) * b
 *   weights  D * r + r * Hkv * d for each of W_k and W_v
 *
 * rule=uniform: k_rank and v_rank, half of min(D, Hkv * d) when not given. rule=progressive: from r_max in the
 * first layer to r_min in the last, on a line in the logarithm of the condition numbers of W_k and W_v, multiplied up
 * from the last layer. Where these are not known they count as equal, which is linear in depth. To the nearest.
 *
 * form=absorbed: the second factor goes into q and into the weighted sum: 2 * H * (rk + rv) * S FLOPs a step.
 * Rotated keys cannot be absorbed: under RoPE they are rebuilt, 2 * rk * Hkv * d * S a step, in either form.
 * form=rebuild: values too. */
#include "calc/rewrite.h"
#include "calc/technique.h"

#include <inttypes.h>

static const char *const rules[] = {"uniform", "progressive", NULL};
static const char *const forms[] = {"absorbed", "rebuild", NULL};
enum { UNIFORM, PROGRESSIVE };
enum { ABSORBED, REBUILD };

struct ranks {
    const struct kvp_model *m;
    const struct kvp_spec *s;
    uint32_t layers; /* attention layers that store k and v */
    uint32_t seen;
    double before, all; /* logarithms of condition numbers: of the layers before this one, of all but the last */
    uint64_t refused, most; /* a rank that is too big, and what it may be */
};

static bool owns(const struct kvp_layer_class *c)
{
    return c->mixer == KVP_MIX_ATTENTION && !c->no_kv;
}

static uint64_t given_or(const struct kvp_spec *s, const char *key, uint64_t d)
{
    const struct kvp_param *p = kvp_spec_param(s, key);

    return p->given ? (uint64_t)p->i : d;
}

/* r_max - (r_max - r_min) * i / (n - 1), to the nearest */
static uint64_t at_depth(uint64_t most, uint64_t least, uint64_t i, uint64_t n)
{
    return n < 2 ? most : most - ((most - least) * i * 2 + (n - 1)) / (2 * (n - 1));
}

static uint64_t rank_at(const struct ranks *r, uint64_t most, uint64_t least)
{
    if (!r->m->conditions)
        return at_depth(most, least, r->seen, r->layers);
    return r->all > 0 ? most - (uint64_t)((double)(most - least) * (r->before / r->all) + 0.5) : most;
}

static void edit(struct kvp_layer_class *c, uint32_t layer, void *to)
{
    struct ranks *r = to;
    const uint64_t full = num_min(r->m->width, (uint64_t)c->kv_heads * c->head_dim);
    const uint64_t r_max = given_or(r->s, "r_max", full), r_min = given_or(r->s, "r_min", num_max(full / 4, 1));
    const bool progressive = kvp_spec_param(r->s, "rule")->i == PROGRESSIVE;
    const bool absorb = kvp_spec_param(r->s, "form")->i == ABSORBED;
    uint64_t k, v;

    if (!owns(c))
        return;
    if (progressive && r_min > r_max) {
        r->refused = r_min;
        r->most = r_max;
        return;
    }
    k = progressive ? rank_at(r, r_max, r_min) : given_or(r->s, "k_rank", num_max(full / 2, 1));
    v = progressive ? k : given_or(r->s, "v_rank", num_max(full / 2, 1));
    r->seen++;
    r->before += r->m->conditions ? r->m->conditions[layer] : 0;
    if (num_max(k, v) > full) {
        r->refused = num_max(k, v);
        r->most = full;
    }
    c->low_k = (uint32_t)k;
    c->low_v = (uint32_t)v;
    c->absorb_k = absorb && r->m->position != KVP_POS_ROPE;
    c->absorb_v = absorb;
}

static kvp_err model_rewrite(struct kvp_model *m, const struct kvp_spec *s, struct kvp_error *e)
{
    struct ranks r = {.m = m, .s = s};

    if (model_mixers(m, KVP_MIX_MLA))
        return kvp_fail(e, KVP_ENOTSUP, "lorc: %s stores a latent already (MLA)", m->name);
    for (uint32_t i = 0; i < m->layers; i++)
        r.layers += owns(&m->cls[m->class_of[i]]);
    if (!r.layers)
        return kvp_fail(e, KVP_ENOTSUP, "lorc: not applicable, %s has no attention layer that stores k and v", m->name);
    if (r.layers != model_mixers(m, KVP_MIX_ATTENTION))
        return kvp_fail(e, KVP_ENOTSUP, "lorc: %s has layers that read another layer's rows", m->name);
    for (uint32_t i = 0, n = 0; i < m->layers && m->conditions; i++)
        if (owns(&m->cls[m->class_of[i]]) && ++n < r.layers)
            r.all += m->conditions[i];
    KVP_TRY(model_edit(m, edit, &r, e));
    if (r.refused)
        return kvp_fail(e, KVP_EINPUT, "lorc: a rank of %" PRIu64 " of %s is more than %" PRIu64, r.refused, m->name, r.most);
    return KVP_OK;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    (void)s;
    (void)e;
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];

        for (uint32_t k = 0; k < c->n_parts && c->model->low_k; k++) {
            struct part *x = &c->parts[k];

            if (!x->rows)
                continue;
            x->width = k ? c->model->low_v : c->model->low_k;
            x->name = k ? "v_latent" : "k_latent";
            x->heads = 1;
            x->replicated = true;
        }
    }
    return KVP_OK;
}

static uint64_t matrix(struct ops *o, const struct plan *p, uint64_t rows, uint64_t cols)
{
    return store_bytes(&o->over, &p->weights, KVP_ROLE_ATTN, rows, cols, true);
}

/* `rows` latents of k (and of v) to all heads. */
static struct cost rebuild(struct ops *o, const struct plan *p, const struct kvp_layer_class *m, uint64_t rows, bool k, bool v)
{
    const uint64_t r = (k ? m->low_k : 0) + (uint64_t)(v ? m->low_v : 0), kv = (uint64_t)m->kv_heads * m->head_dim;
    const uint64_t flops = NUM_PROD(&o->over, 2, rows, r, kv);

    return (struct cost){flops, flops, num_add(&o->over, matrix(o, p, kv, r), NUM_PROD(&o->over, 4, rows, r)),
                         NUM_PROD(&o->over, 4, rows, kv, (uint64_t)k + v)};
}

/* Latents that a prefill expands: each pass its own and those before it. */
static uint64_t reach(struct ops *o, const struct plan *p, uint64_t from)
{
    uint64_t rows = 0;

    for (uint64_t at = from; at < p->w.prompt; at = num_add(&o->over, at, p->chunk))
        rows = num_add(&o->over, rows, num_min(p->w.prompt, at + p->chunk));
    return rows;
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    const struct plan_class *c = &p->cls[cls];
    const struct kvp_layer_class *m = c->model;
    const uint64_t B = p->w.batch, q = (uint64_t)m->heads * m->head_dim, S = num_min(p->w.context, c->span);
    const uint64_t absorbed = (m->absorb_k ? m->low_k : 0) + (uint64_t)(m->absorb_v ? m->low_v : 0);
    const uint64_t flops = NUM_PROD(&o->over, 2, B, q, absorbed);

    (void)s;
    if (!m->low_k)
        return;
    if (phase == KVP_PREFILL) {
        const uint64_t rows = num_add(&o->over, reach(o, p, 0), num_mul(&o->over, B - 1, reach(o, p, p->hit)));

        ops_add(o, KVP_OP_REBUILD, phase, cls, c->count, rebuild(o, p, m, rows, true, true));
        return;
    }
    if (!m->absorb_k || !m->absorb_v)
        ops_add(o, KVP_OP_REBUILD, phase, cls, c->count, rebuild(o, p, m, num_mul(&o->over, B, S), !m->absorb_k, !m->absorb_v));
    if (absorbed)
        ops_add(o, KVP_OP_ABSORB, phase, cls, c->count,
                (struct cost){flops, flops, num_add(&o->over, matrix(o, p, (uint64_t)m->kv_heads * m->head_dim, absorbed), NUM_PROD(&o->over, 4, B, q)),
                              NUM_PROD(&o->over, 4, B, m->heads, absorbed)});
}

const struct technique technique_lorc = {
    .info = {.name = "lorc", .axis = KVP_AXIS_RANK, .summary = "low-rank keys and values, from a factored projection",
             .source = "Zhang et al. 2024, arXiv:2410.03111, sections 3 and 4", .params = "k_rank,v_rank,rule=uniform,r_max,r_min,form=absorbed"},
    .n_params = 6,
    .params = {{.key = "k_rank", .kind = KVP_PARAM_INT, .no_default = true, .excludes = "r_max", .min = 1, .max = 1 << 24},
               {.key = "v_rank", .kind = KVP_PARAM_INT, .no_default = true, .excludes = "r_min", .min = 1, .max = 1 << 24},
               {.key = "rule", .kind = KVP_PARAM_WORD, .i = UNIFORM, .words = rules},
               {.key = "r_max", .kind = KVP_PARAM_INT, .no_default = true, .min = 1, .max = 1 << 24},
               {.key = "r_min", .kind = KVP_PARAM_INT, .no_default = true, .min = 1, .max = 1 << 24},
               {.key = "form", .kind = KVP_PARAM_WORD, .i = ABSORBED, .words = forms}},
    .model_rewrite = model_rewrite,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
