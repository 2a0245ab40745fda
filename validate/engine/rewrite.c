#include "validate/engine/rewrite.h"

#include "validate/engine/mixer.h"

#include <inttypes.h>
#include <stdlib.h>

/* A parameter that the user gave; 0 when left out. */
static uint32_t given(const struct kvp_spec *s, const char *key)
{
    const struct kvp_param *p = kvp_spec_param(s, key);

    return p && p->given ? (uint32_t)p->i : 0;
}

static int64_t number(const struct kvp_spec *s, const char *key)
{
    const struct kvp_param *p = kvp_spec_param(s, key);

    return p ? p->i : 0;
}

/* ---- fewer key-value heads: Ainslie et al. 2023 (arXiv:2305.13245), Shazeer 2019 (arXiv:1911.02150) ------- */

static kvp_err group_heads(struct rewritten *r, const char *name, uint32_t wanted, struct kvp_error *e)
{
    for (uint32_t l = 0; l < r->m.layers; l++) {
        struct kvp_layer_class *c = &r->cls[l];
        uint32_t n = wanted;

        if (c->mixer != KVP_MIX_ATTENTION)
            continue;
        for (uint32_t i = 1; !wanted && (i == 1 || i <= c->heads / 4); i++)
            n = c->heads % i == 0 ? i : n;
        if (c->heads % n)
            return kvp_fail(e, KVP_EINPUT, "%s: kv_heads=%" PRIu32 " does not divide the %" PRIu32 " query heads of layer %" PRIu32,
                            name, n, c->heads, l);
        c->kv_heads = n;
    }
    return KVP_OK;
}

static kvp_err gqa(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e)
{
    return group_heads(r, "gqa", given(s, "kv_heads"), e);
}

static kvp_err mqa(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e)
{
    (void)s;
    return group_heads(r, "mqa", 1, e);
}

/* ---- latent attention: DeepSeek-V2 (arXiv:2405.04434), sections 2.1 and 3.1.2 -------------------------------- */

static void to_latent(struct kvp_layer_class *c, const struct kvp_spec *s)
{
    const uint32_t d = c->head_dim, rank = given(s, "kv_rank"), rope = given(s, "rope_dim"), nope = given(s, "nope_dim"), v = given(s, "v_dim");

    c->mixer = KVP_MIX_MLA;
    c->kv_rank = rank ? rank : 4 * d;
    c->rope_dim = rope ? rope : d / 2;
    c->nope_dim = nope ? nope : d;
    c->v_head_dim = v ? v : d;
    c->q_rank = given(s, "q_rank");
    c->head_dim = c->nope_dim + c->rope_dim;
    c->kv_heads = 0;
    c->qk_norm = c->gated_q = false;
}

static kvp_err mla(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct kvp_param *form = kvp_spec_param(s, "form");

    if (form && form->word && strcmp(form->word, "fp8") == 0)
        return kvp_fail(e, KVP_ENOTSUP, "mla: the engine does not run form=fp8 yet");
    for (uint32_t l = 0; l < r->m.layers; l++) {
        if (r->cls[l].mixer != KVP_MIX_ATTENTION)
            continue;
        if (r->cls[l].window || r->cls[l].chunk || r->cls[l].no_kv)
            return kvp_fail(e, KVP_ENOTSUP, "mla: layer %" PRIu32 " of %s has a window, or no keys of its own", l, r->m.name);
        to_latent(&r->cls[l], s);
        if (r->m.position == KVP_POS_ROPE && r->cls[l].rope_dim % 2)
            return kvp_fail(e, KVP_EINPUT, "mla: rope_dim=%" PRIu32 " is odd, and rotary positions pair its elements", r->cls[l].rope_dim);
    }
    return KVP_OK;
}

/* ---- cross-layer attention: Brandon et al. 2024 (arXiv:2405.12981), section 3 ------------------------------ */

/* May one of them read what the other stores? */
static bool same_rows(const struct kvp_layer_class *a, const struct kvp_layer_class *b)
{
    return a->mixer == b->mixer && a->kv_heads == b->kv_heads && a->head_dim == b->head_dim && a->v_head_dim == b->v_head_dim &&
           a->window == b->window && a->chunk == b->chunk;
}

/* The layer is the n-th of its kind that has keys of its own. */
static uint64_t nth_of_kind(const struct rewritten *r, const struct kvp_layer_class *was, uint32_t layer)
{
    uint64_t n = 0;

    for (uint32_t l = 0; l < layer; l++)
        n += !was[l].no_kv && same_rows(&was[l], &r->cls[layer]);
    return n;
}

static kvp_err cla(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e)
{
    struct kvp_layer_class *was = calloc(r->m.layers, sizeof(*was));

    if (!was)
        return kvp_fail(e, KVP_ENOMEM, "cla: out of memory for %" PRIu32 " layers", r->m.layers);
    memcpy(was, r->cls, r->m.layers * sizeof(*was));
    for (uint32_t l = 0; l < r->m.layers; l++)
        if (was[l].mixer == KVP_MIX_ATTENTION && !was[l].no_kv)
            r->cls[l].no_kv = nth_of_kind(r, was, l) % (uint64_t)number(s, "share") != 0;
    free(was);
    return KVP_OK;
}

/* ---- you only cache once: Sun et al. 2024 (arXiv:2405.05254), section 2 -------------------------------------- */

static kvp_err yoco(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct kvp_param *variant = kvp_spec_param(s, "variant");
    const uint32_t half = r->m.layers / 2, heads = given(s, "self_heads");

    if (variant && variant->word && strcmp(variant->word, "window") != 0)
        return kvp_fail(e, KVP_ENOTSUP, "yoco: the engine does not run variant=%s yet", variant->word);
    for (uint32_t l = 0; l < r->m.layers; l++) {
        struct kvp_layer_class *c = &r->cls[l];

        if (c->mixer != KVP_MIX_ATTENTION)
            return kvp_fail(e, KVP_ENOTSUP, "yoco: layer %" PRIu32 " of %s is not attention", l, r->m.name);
        c->window = l < half ? (uint64_t)number(s, "window") : 0;
        c->chunk = 0;
        c->no_kv = l > half;
        if (l >= half)
            continue;
        c->kv_heads = heads ? heads : c->heads;
        if (c->heads % c->kv_heads)
            return kvp_fail(e, KVP_EINPUT, "yoco: self_heads=%" PRIu32 " does not divide the %" PRIu32 " query heads", heads, c->heads);
    }
    r->last_only_from = half;
    return KVP_OK;
}

/* ---- all of them ------------------------------------------------------------------------------------------ */

static const struct {
    const char *name, *params;
    kvp_err (*rewrite)(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e);
} table[] = {
    {"gqa", "kv_heads", gqa},
    {"mqa", NULL, mqa},
    {"mla", "kv_rank rope_dim nope_dim v_dim q_rank form", mla},
    {"cla", "share", cla},
    {"yoco", "variant window self_heads", yoco},
    {"xc-cache", "blocks stride inner question keep encoder encoder_width", rewrite_xc},
    {"recurrent", "kind", rewrite_recurrent},
    {"lorc", "k_rank v_rank rule r_max r_min form", rewrite_lorc},
};
enum { ROWS = sizeof(table) / sizeof(table[0]) };

static int row_of(const struct kvp_spec *spec)
{
    int i = 0;

    while (i < ROWS && strcmp(table[i].name, spec->name) != 0)
        i++;
    return i;
}

kvp_err rewrite_params(const char **out, const struct kvp_spec *spec, struct kvp_error *e)
{
    const int i = row_of(spec);

    if (i == ROWS)
        return kvp_fail(e, KVP_ENOTSUP, "%s: predicted only, the engine does not run it yet", spec->name);
    *out = table[i].params;
    return KVP_OK;
}

static kvp_err copy_layers(struct rewritten *r, const struct kvp_model *m, struct kvp_error *e)
{
    r->m = *m;
    r->cls = calloc(m->layers ? m->layers : 1, sizeof(*r->cls));
    r->class_of = calloc(m->layers ? m->layers : 1, sizeof(*r->class_of));
    if (!r->cls || !r->class_of)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu32 " layers", m->layers);
    for (uint32_t l = 0; l < m->layers; l++) {
        memcpy(&r->cls[l], &m->cls[m->class_of[l]], sizeof(r->cls[l]));
        r->cls[l].count = 1;
        r->class_of[l] = l;
    }
    r->m.cls = r->cls;
    r->m.class_of = r->class_of;
    r->m.classes = m->layers;
    r->last_only_from = m->layers;
    return KVP_OK;
}

kvp_err rewrite_model(struct rewritten *out, const struct kvp_model *m, const struct kvp_stack *s, struct kvp_error *e)
{
    kvp_err rc;

    *out = (struct rewritten){0};
    rc = copy_layers(out, m, e);
    for (uint32_t i = 0; rc == KVP_OK && i < s->n; i++) {
        const int row = row_of(&s->spec[i]);

        if (s->spec[i].axis <= KVP_AXIS_RANK && row < ROWS)
            rc = table[row].rewrite(out, &s->spec[i], e);
    }
    if (rc != KVP_OK)
        rewrite_free(out);
    return rc;
}

void rewrite_free(struct rewritten *r)
{
    free(r->cls);
    free(r->class_of);
    *r = (struct rewritten){0};
}
