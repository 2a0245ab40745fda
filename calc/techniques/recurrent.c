/* recurrent.c - a recurrence of the model's width in place of every attention layer: no cache, a state.
 *
 *   rwkv4       2 shifts of D and 3 * D in f32              rwkv5, 6, 7   2 shifts and D * 64
 *   mamba       E = 2D, n 16, d_conv 4, R = ceil(D/16)      mamba2        E = 2D, n 128, heads of 64, one group
 *
 * Shapes: BlinkDL/RWKV-LM (rwkv7 low-rank sizes: its trainer's formula; rwkv6: RWKV6 world models, doubled from
 * a width of 4096), state-spaces/mamba mamba_ssm/modules. An RWKV layer brings its channel mix, whose shift is
 * half of the shifts; under Mamba the model's own feed-forward stays, as in hybrids. */
#include "calc/rewrite.h"
#include "calc/technique.h"

#include <math.h>
#include <stdio.h>

static const char *const kinds[] = {"rwkv4", "rwkv5", "rwkv6", "rwkv7", "mamba", "mamba2", NULL};
enum { RWKV4, RWKV5, RWKV6, RWKV7, MAMBA, MAMBA2 };
enum { HEAD = 64 };

struct shape {
    int64_t kind;
    uint32_t width;
};

static uint32_t rwkv7_rank(double factor, uint32_t width)
{
    const double steps = round(factor * sqrt((double)width) / 32);

    return steps > 1 ? (uint32_t)steps * 32 : 32;
}

static void rwkv(struct kvp_layer_class *c, const struct shape *s)
{
    static const enum kvp_recurrent as[] = {KVP_REC_RWKV4, KVP_REC_RWKV5, KVP_REC_RWKV6, KVP_REC_RWKV7};
    static const double factor[4] = {2.5, 2.5, 1.7, 5};

    c->recurrent = as[s->kind];
    c->inner = s->width;
    c->ffn = KVP_FFN_RWKV;
    c->norms = 2; /* ln1 and ln2, whatever the layer had */
    c->ffn_width = s->kind == RWKV4 || s->kind == RWKV7 ? 4 * s->width : (uint32_t)(3.5 * s->width) / 32 * 32;
    c->ffn_bias = false;
    c->experts = c->experts_per_token = c->expert_width = c->expert_in = c->shared_width = 0;
    if (s->kind == RWKV4)
        return;
    c->rec_heads = s->width / HEAD;
    c->rec_head_dim = HEAD;
    for (int i = 0; s->kind == RWKV7 && i < 4; i++)
        c->low_rank[i] = rwkv7_rank(factor[i], s->width);
    if (s->kind == RWKV6) {
        c->low_rank[0] = s->width >= 4096 ? 128 : 64;
        c->low_rank[1] = s->width >= 4096 ? 64 : 32;
    }
}

static void mamba(struct kvp_layer_class *c, const struct shape *s)
{
    c->inner = 2 * s->width;
    c->conv = 4;
    c->conv_bias = true;
    if (s->kind == MAMBA) {
        c->recurrent = KVP_REC_MAMBA1;
        c->state = 16;
        c->dt_rank = (uint32_t)num_cdiv(s->width, 16);
        return;
    }
    c->recurrent = KVP_REC_MAMBA2;
    c->state = 128;
    c->groups = 1;
    c->rec_head_dim = HEAD;
    c->rec_heads = c->inner / HEAD;
    c->rec_norm = true;
}

static void edit(struct kvp_layer_class *c, uint32_t layer, void *to)
{
    struct kvp_layer_class x;

    if (c->mixer == KVP_MIX_NONE)
        return;
    memset(&x, 0, sizeof(x)); /* layers are compared byte by byte */
    x.ffn = c->ffn;
    x.ffn_width = c->ffn_width;
    x.act = c->act;
    x.ffn_bias = c->ffn_bias;
    x.experts = c->experts;
    x.experts_per_token = c->experts_per_token;
    x.expert_width = c->expert_width;
    x.expert_in = c->expert_in;
    x.shared_width = c->shared_width;
    x.shared_gate = c->shared_gate;
    x.router_bias = c->router_bias;
    x.expert_bias = c->expert_bias;
    x.norms = c->norms;
    memcpy(x.extra, c->extra, sizeof(x.extra));
    (((const struct shape *)to)->kind < MAMBA ? rwkv : mamba)(&x, to);
    if (x.recurrent == KVP_REC_RWKV7 && layer == 0) /* its v is the one that later layers mix in */
        x.low_rank[2] = 0;
    memcpy(c, &x, sizeof(x));
}

/* RWKV's norms are LayerNorms, one of them right behind the embedding. */
static kvp_err norms(struct kvp_model *m, struct kvp_error *e)
{
    m->norm = KVP_NORM_LAYER;
    m->norm_vectors = 2;
    return model_extra(m, (struct kvp_extra){"embedding_norm", m->width, 1, 2, false}, e);
}

static kvp_err model_rewrite(struct kvp_model *m, const struct kvp_spec *s, struct kvp_error *e)
{
    struct shape x = {kvp_spec_param(s, "kind")->i, m->width};

    if (!model_mixers(m, KVP_MIX_ATTENTION) && !model_mixers(m, KVP_MIX_MLA))
        return kvp_fail(e, KVP_ENOTSUP, "recurrent: not applicable, %s has no attention layer to replace", m->name);
    if (x.kind != RWKV4 && x.kind != MAMBA && (x.width * (x.kind == MAMBA2 ? 2 : 1)) % HEAD)
        return kvp_fail(e, KVP_EINPUT, "recurrent: %s: the width %u of %s is not made of heads of %d", kinds[x.kind], m->width, m->name, HEAD);
    m->position = KVP_POS_NONE;
    if (x.kind < MAMBA)
        KVP_TRY(norms(m, e));
    return model_edit(m, edit, &x, e);
}

static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    (void)w;
    snprintf(buf, n, "%s", m->width % HEAD ? "mamba" : "rwkv7");
}

static const char *const others[] = {"rwkv4", "rwkv6", "rwkv7", "mamba", "mamba2", NULL};

const struct technique technique_recurrent = {
    .info = {.name = "recurrent", .axis = KVP_AXIS_MIXER, .summary = "a recurrent state of fixed size in place of attention",
             .source = "Peng et al., arXiv:2305.13048, 2404.05892, 2503.14456 (RWKV); Gu, Dao, arXiv:2312.00752, 2405.21060 (Mamba)",
             .params = "kind=rwkv7"},
    .variants = others,
    .n_params = 1,
    .params = {{.key = "kind", .kind = KVP_PARAM_WORD, .positional = true, .i = RWKV7, .words = kinds}},
    .model_rewrite = model_rewrite,
    .example = example,
};
