/* rewrite_recurrent.c - a recurrence of the model's width in place of every layer that attends.
 *
 * From docs/techniques/recurrent.md and its sources: Mamba's blocks as mamba_ssm/modules/ makes them by default; RWKV's
 * as BlinkDL/RWKV-LM's trainers do, with their LayerNorms, the one behind the embedding, and their channel mix. */
#include "validate/engine/mixer.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { HEAD = 64 }; /* channels of a head, in all that have heads */

/* 32 * round(factor * sqrt(width) / 32), at least 32: the trainer's suggestion for RWKV-7. */
static uint32_t rank7(double factor, uint32_t width)
{
    const double n = floor(factor * sqrt((double)width) / 32 + 0.5);

    return n < 1 ? 32 : 32 * (uint32_t)n;
}

static void rwkv4(struct kvp_layer_class *c, uint32_t width)
{
    c->inner = width;
    c->ffn_width = 4 * width;
}

static void heads(struct kvp_layer_class *c, uint32_t channels)
{
    c->inner = channels;
    c->rec_heads = channels / HEAD;
    c->rec_head_dim = HEAD;
}

static void rwkv5(struct kvp_layer_class *c, uint32_t width)
{
    heads(c, width);
    c->ffn_width = (uint32_t)((uint64_t)width * 7 / 2) & ~31u;
}

static void rwkv6(struct kvp_layer_class *c, uint32_t width)
{
    const uint32_t times = width < 4096 ? 1 : 2;

    rwkv5(c, width);
    c->low_rank[0] = 64 * times;
    c->low_rank[1] = 32 * times;
}

static void rwkv7(struct kvp_layer_class *c, uint32_t width)
{
    heads(c, width);
    c->ffn_width = 4 * width;
    c->low_rank[0] = c->low_rank[1] = rank7(2.5, width);
    c->low_rank[2] = rank7(1.7, width);
    c->low_rank[3] = rank7(5, width);
}

static void mamba(struct kvp_layer_class *c, uint32_t width)
{
    c->inner = 2 * width;
    c->state = 16;
    c->conv = 4;
    c->conv_bias = true;
    c->dt_rank = width / 16 + (width % 16 != 0);
}

static void mamba2(struct kvp_layer_class *c, uint32_t width)
{
    heads(c, 2 * width);
    c->state = 128;
    c->conv = 4;
    c->groups = 1;
    c->conv_bias = c->rec_norm = true;
}

static const struct {
    const char *word;
    enum kvp_recurrent kind;
    bool rwkv;
    uint32_t per_head; /* the width must be a multiple of it; 0: any */
    void (*shape)(struct kvp_layer_class *c, uint32_t width);
} kinds[] = {
    {"rwkv4", KVP_REC_RWKV4, true, 0, rwkv4},     {"rwkv5", KVP_REC_RWKV5, true, HEAD, rwkv5},
    {"rwkv6", KVP_REC_RWKV6, true, HEAD, rwkv6},  {"rwkv7", KVP_REC_RWKV7, true, HEAD, rwkv7},
    {"mamba", KVP_REC_MAMBA1, false, 0, mamba},   {"mamba2", KVP_REC_MAMBA2, false, HEAD / 2, mamba2},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

/* All that attends goes; under Mamba the feed-forward and the norms stay. */
static void replace(struct kvp_layer_class *c, int kind, uint32_t width)
{
    const struct kvp_layer_class was = *c;

    memset(c, 0, sizeof(*c));
    c->count = was.count;
    c->recurrent = kinds[kind].kind;
    c->norms = was.norms;
    c->act = was.act;
    if (kinds[kind].rwkv) {
        c->ffn = KVP_FFN_RWKV;
        c->norms = 2;
    } else {
        c->ffn = was.ffn;
        c->ffn_width = was.ffn_width;
        c->ffn_bias = was.ffn_bias;
        c->experts = was.experts;
        c->experts_per_token = was.experts_per_token;
        c->expert_width = was.expert_width;
        c->expert_in = was.expert_in;
        c->shared_width = was.shared_width;
        c->shared_gate = was.shared_gate;
        c->router_bias = was.router_bias;
        c->expert_bias = was.expert_bias;
    }
    memcpy(c->extra, was.extra, sizeof(c->extra));
    kinds[kind].shape(c, width);
}

static kvp_err layer_norms(struct rewritten *r, struct kvp_error *e)
{
    if (r->m.extra[0].name)
        return kvp_fail(e, KVP_ENOTSUP, "recurrent: the engine does not run %s with %s beside RWKV's own norm", r->m.name,
                        r->m.extra[0].name);
    r->m.norm = KVP_NORM_LAYER;
    r->m.norm_vectors = 2;
    r->m.extra[0] = (struct kvp_extra){.name = "pre_norm", .rows = r->m.width, .cols = 1, .n = 2};
    return KVP_OK;
}

kvp_err rewrite_recurrent(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct kvp_param *p = kvp_spec_param(s, "kind");
    uint32_t replaced = 0;
    int kind = 0;

    while (kind < KINDS && (!p || !p->word || strcmp(kinds[kind].word, p->word) != 0))
        kind++;
    if (kind == KINDS)
        return kvp_fail(e, KVP_ENOTSUP, "recurrent: the engine does not run kind=%s yet", p && p->word ? p->word : "?");
    if (kinds[kind].per_head && r->m.width % kinds[kind].per_head)
        return kvp_fail(e, KVP_EINPUT, "recurrent: kind=%s: width %" PRIu32 " does not make heads of %d channels", kinds[kind].word,
                        r->m.width, HEAD);
    for (uint32_t l = 0; l < r->m.layers; l++)
        if (r->cls[l].mixer != KVP_MIX_NONE) {
            replace(&r->cls[l], kind, r->m.width);
            replaced++;
        }
    if (!replaced)
        return kvp_fail(e, KVP_ENOTSUP, "recurrent: %s has no layer that attends", r->m.name);
    if (r->cls[0].recurrent == KVP_REC_RWKV7) /* its v is what the later layers mix with theirs */
        r->cls[0].low_rank[2] = 0;
    r->m.position = KVP_POS_NONE;
    return kinds[kind].rwkv ? layer_norms(r, e) : KVP_OK;
}
