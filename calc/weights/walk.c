/* walk.c - a whole model's weights, in the order in which a checkpoint is read. */
#include "calc/weights.h"

#include "calc/num.h"

void walk_matrix(struct walk *w, enum kvp_role role, const char *name, uint32_t cls, uint64_t count, uint64_t rows, uint64_t cols, bool bias)
{
    if (!rows || !cols || !count)
        return;
    w->each(w, &(struct weight){.name = name, .role = role, .cls = cls, .count = count, .rows = rows, .cols = cols,
                                .linear = role != KVP_ROLE_EMBED, .biased = bias, .kept = w->kept});
    if (bias)
        w->each(w, &(struct weight){.name = name, .role = role, .cls = cls, .count = count, .rows = rows, .bias = true});
}

void walk_vector(struct walk *w, enum kvp_role role, const char *name, uint32_t cls, uint64_t count, uint64_t n)
{
    if (n && count)
        w->each(w, &(struct weight){.name = name, .role = role, .cls = cls, .count = count, .rows = n});
}

static void norm(struct walk *w, const char *name, uint32_t cls, uint64_t count, uint64_t width)
{
    if (w->m->norm_vectors > 0)
        walk_vector(w, KVP_ROLE_NORM, name, cls, count, width);
    if (w->m->norm_vectors > 1 && width && count)
        w->each(w, &(struct weight){.name = name, .role = KVP_ROLE_NORM, .cls = cls, .count = count, .rows = width, .bias = true});
}

static void extras(struct walk *w, const struct kvp_extra *list, uint32_t n, enum kvp_role role, uint32_t cls, uint64_t count)
{
    for (uint32_t i = 0; i < n && list[i].name; i++) {
        const struct kvp_extra *x = &list[i];

        w->each(w, &(struct weight){.name = x->name, .role = role, .cls = cls, .count = count * x->n, .rows = x->rows,
                                    .cols = x->cols > 1 ? x->cols : 0, .linear = x->linear});
    }
}

static void layer(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    static const char *const names[] = {"attn_norm", "mlp_norm", "post_attn_norm", "post_mlp_norm"};

    w->kept = c->kept;
    for (uint32_t i = 0; i < c->norms; i++)
        norm(w, i < 4 ? names[i] : "norm", cls, c->count, width);
    weights_attention(w, c, cls, width);
    weights_mla(w, c, cls, width);
    weights_cross(w, c, cls, width);
    weights_recurrent(w, c, cls, width);
    if (!c->shared_attn) /* Zamba2 shares the whole block */
        weights_ffn(w, c, cls, width);
    extras(w, c->extra, KVP_MAX_EXTRA, KVP_ROLE_SMALL, cls, c->count);
    w->kept = 0;
}

void weights_each(struct walk *w)
{
    const struct kvp_model *m = w->m;
    const uint64_t positions = m->position == KVP_POS_LEARNED ? m->position_rows ? m->position_rows : m->max_positions : 0;
    const uint64_t enc = m->encoder_width ? m->encoder_width : m->width;
    const uint64_t embed = m->embed_width ? m->embed_width : m->width;

    if (!m->no_embed) {
        walk_matrix(w, KVP_ROLE_EMBED, "embedding", WHOLE_MODEL, 1, m->vocab, embed, false);
        walk_matrix(w, KVP_ROLE_EMBED, "positions", WHOLE_MODEL, 1, positions, m->width, false);
    }
    walk_matrix(w, KVP_ROLE_EMBED, "encoder_positions", WHOLE_MODEL, 1, m->encoder_rows, enc, false);
    for (uint32_t i = 0; i < m->encoders; i++)
        layer(w, &m->encoder[i], ENCODER_CLASS + i, enc);
    for (uint32_t i = 0; i < m->classes; i++)
        layer(w, &m->cls[i], i, m->width);
    if (!m->no_final_norm)
        norm(w, "final_norm", WHOLE_MODEL, 1, m->width);
    extras(w, m->extra, KVP_MAX_EXTRA, KVP_ROLE_SMALL, WHOLE_MODEL, 1);
    if (!m->tied && !m->no_head)
        walk_matrix(w, KVP_ROLE_HEAD, "lm_head", WHOLE_MODEL, 1, m->head_rows ? m->head_rows : m->vocab, embed, false);
    if (m->head_bias)
        walk_vector(w, KVP_ROLE_HEAD, "lm_head.bias", WHOLE_MODEL, 1, m->head_rows ? m->head_rows : m->vocab);
    if (w->tower)
        extras(w, m->tower, m->towers, KVP_ROLE_TOWER, WHOLE_MODEL, 1);
    if (w->mtp && m->mtp_layers) {
        layer(w, &m->mtp, WHOLE_MODEL, m->width);
        extras(w, m->mtp_extra, KVP_MAX_EXTRA, KVP_ROLE_MTP, WHOLE_MODEL, m->mtp_layers);
    }
}

/* ---- what is asked of a walk -------------------------------------------------------------------------- */

struct lowering {
    struct tensors *t;
    const struct store_plan *s;
};

static void lower(struct walk *w, const struct weight *x)
{
    const struct lowering *l = w->to;

    store_lower(l->t, l->s, x);
}

void weight_tensors(struct tensors *t, const struct kvp_model *m, const struct store_plan *s, bool tower, bool mtp)
{
    struct lowering l = {t, s};

    weights_each(&(struct walk){.m = m, .tower = tower, .mtp = mtp, .each = lower, .to = &l});
}

struct count {
    bool *over;
    uint64_t all, active;
};

static void add(struct walk *w, const struct weight *x)
{
    struct count *c = w->to;
    const uint64_t n = NUM_PROD(c->over, x->count, x->rows, x->cols ? x->cols : 1);

    c->all = num_add(c->over, c->all, n);
    c->active = num_add(c->over, c->active, x->active ? n / x->active_of * x->active : n);
}

uint64_t weight_parameters(bool *over, const struct kvp_model *m, bool tower, bool mtp, uint64_t *active)
{
    struct count c = {.over = over};

    weights_each(&(struct walk){.m = m, .tower = tower, .mtp = mtp, .each = add, .to = &c});
    if (active)
        *active = c.active;
    return c.all;
}
