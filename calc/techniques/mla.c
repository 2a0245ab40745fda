/* mla.c - multi-head latent attention in place of a model's attention, and how a latent may be stored.
 *
 *   form=latent    L * B * T * (rkv + dr) * b
 *   form=expanded  L * B * T * H * (dn + dr + dv) * b, as the transformers code keeps it
 *   form=fp8       rkv fp8 codes, an f32 scale for each 128 of them, dr bf16: 656 B at 512 and 64
 *
 * Defaults by DeepSeek-V2's ratios (arXiv:2405.04434, section 3.1.2): rkv = 4 * d, dr = d/2, dn = dv = d; no q
 * rank. A model that is MLA already keeps its shapes, and only `form` applies. The fp8 layout is vLLM's and
 * FlashMLA's for sparse attention. */
#include "calc/rewrite.h"
#include "calc/technique.h"

#include <inttypes.h>

static const char *const forms[] = {"latent", "expanded", "fp8", NULL};
enum { LATENT, EXPANDED, FP8 };
enum { SCALE_GROUP = 128 };

static uint32_t or_default(const struct kvp_spec *s, const char *key, uint32_t d)
{
    const struct kvp_param *p = kvp_spec_param(s, key);

    return p->given ? (uint32_t)p->i : d;
}

static void edit(struct kvp_layer_class *c, uint32_t layer, void *to)
{
    const struct kvp_spec *s = to;
    const uint32_t d = c->head_dim;

    (void)layer;
    if (c->mixer != KVP_MIX_ATTENTION)
        return;
    c->mixer = KVP_MIX_MLA;
    c->kv_heads = 0;
    c->kv_rank = or_default(s, "kv_rank", 4 * d);
    c->rope_dim = or_default(s, "rope_dim", d / 2);
    c->nope_dim = or_default(s, "nope_dim", d);
    c->v_head_dim = or_default(s, "v_dim", d);
    c->q_rank = or_default(s, "q_rank", 0);
    c->head_dim = c->nope_dim + c->rope_dim;
    c->qk_norm = c->qk_norm_wide = c->k_is_v = false;
}

static bool shapes_given(const struct kvp_spec *s)
{
    static const char *const keys[] = {"kv_rank", "rope_dim", "nope_dim", "v_dim", "q_rank"};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (kvp_spec_param(s, keys[i])->given)
            return true;
    return false;
}

static kvp_err model_rewrite(struct kvp_model *m, const struct kvp_spec *s, struct kvp_error *e)
{
    struct kvp_spec copy = *s;

    if (!model_mixers(m, KVP_MIX_ATTENTION) && !model_mixers(m, KVP_MIX_MLA))
        return kvp_fail(e, KVP_ENOTSUP, "mla: not applicable, %s has no attention layer", m->name);
    if (!model_mixers(m, KVP_MIX_ATTENTION) && shapes_given(s))
        return kvp_fail(e, KVP_EINPUT, "mla: %s has latent attention of its own; only form= applies to it", m->name);
    for (uint32_t i = 0; i < m->classes; i++)
        if (m->cls[i].mixer == KVP_MIX_ATTENTION && (m->cls[i].window || m->cls[i].chunk || m->cls[i].no_kv))
            return kvp_fail(e, KVP_ENOTSUP, "mla: %s has layers with a window, or without keys of their own", m->name);
    return model_edit(m, edit, &copy, e);
}

/* The row of a part that exists, under another name, width and format. */
static struct part *alter(struct part *x, const char *name, uint64_t heads, uint64_t width, enum kvp_format f)
{
    x->name = name;
    x->heads = heads;
    x->width = width;
    x->format = f;
    return x;
}

static struct part *find(struct plan_class *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_parts; i++)
        if (strcmp(c->parts[i].name, name) == 0)
            return &c->parts[i];
    return NULL;
}

static void expanded(struct plan *p, struct plan_class *c)
{
    const struct kvp_layer_class *m = c->model;
    struct part *k = find(c, "latent"), *v = find(c, "k_rope");

    alter(k, "k", m->heads, m->head_dim, p->kv)->replicated = false;
    alter(v, "v", m->heads, m->v_head_dim, p->kv)->replicated = false;
}

static void scaled(struct plan_class *c)
{
    struct part *codes = find(c, "latent"), *scales = plan_add_part(c, "latent_scale");

    *scales = *codes;
    alter(codes, "latent", 1, c->model->kv_rank, KVP_FP8);
    alter(scales, "latent_scale", 1, num_cdiv(c->model->kv_rank, SCALE_GROUP), KVP_F32)->tag = KVP_TAG_METADATA;
    find(c, "k_rope")->format = KVP_BF16;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const int64_t form = kvp_spec_param(s, "form")->i;

    (void)e;
    for (uint32_t i = 0; i < p->n_classes; i++) {
        struct plan_class *c = &p->cls[i];

        if (c->model->mixer != KVP_MIX_MLA)
            continue;
        c->expanded = form == EXPANDED;
        if (c->expanded)
            expanded(p, c);
        if (form == FP8)
            scaled(c);
    }
    return KVP_OK;
}

const struct technique technique_mla = {
    .info = {.name = "mla", .axis = KVP_AXIS_MIXER, .summary = "keys and values of all heads from one latent, which is what is stored",
             .source = "DeepSeek-AI 2024, arXiv:2405.04434, section 2.1; deepseek-ai/DeepSeek-V3 inference/model.py",
             .params = "kv_rank,rope_dim,nope_dim,v_dim,q_rank,form=latent"},
    .n_params = 6,
    .params = {{.key = "kv_rank", .kind = KVP_PARAM_INT, .no_default = true, .min = 1, .max = 1 << 20},
               {.key = "rope_dim", .kind = KVP_PARAM_INT, .no_default = true, .min = 1, .max = 1 << 16},
               {.key = "nope_dim", .kind = KVP_PARAM_INT, .no_default = true, .min = 1, .max = 1 << 16},
               {.key = "v_dim", .kind = KVP_PARAM_INT, .no_default = true, .min = 1, .max = 1 << 16},
               {.key = "q_rank", .kind = KVP_PARAM_INT, .no_default = true, .min = 0, .max = 1 << 20},
               {.key = "form", .kind = KVP_PARAM_WORD, .positional = true, .i = LATENT, .words = forms}},
    .model_rewrite = model_rewrite,
    .cache_rewrite = cache_rewrite,
};
