/* ranks.c - tensor, pipeline and expert parallelism as division of the model.
 *
 * Tensor parallel (techniques.md section 4; vLLM model_executor/layers/linear.py, QKVParallelLinear): query heads
 * and feed-forward widths divide by TP; KV heads too, and below TP each rank keeps one: max(1, Hkv / TP), so
 * that together they hold TP * max(1, Hkv / TP) / Hkv times the cache. Latents are whole on every rank, norms
 * and routers too. The vocabulary is padded to a multiple of 64, then of TP (vocab_parallel_embedding.py).
 * Mamba-2's groups divide by TP, or each rank keeps one (layers/mamba/mamba_mixer2.py).
 * Pipeline (vllm/distributed/utils.py, get_pp_indices): L div PP layers a stage; the rest go one each to the
 * stages before the last. The embedding is the first stage's, the final norm and the head the last one's.
 * Experts: whole ones over EP ranks, the first ranks taking the rest; without EP their widths divide by TP.
 * With EP above TP attention is repeated: EP / TP groups, each with the batch given. */
#include "calc/ranks.h"

#include <inttypes.h>
#include <stdlib.h>

/* What a rank of the run divides by. */
struct division {
    const struct kvp_model *m;
    uint32_t tp, ep;      /* ep 1: experts are not dealt out */
    uint32_t expert_tp;   /* what an expert's width divides by */
    uint32_t expert_rank;
    struct kvp_error *e;
    kvp_err rc;
};

static void refuse(struct division *d, const char *what, uint64_t n, uint64_t by)
{
    d->rc = kvp_fail(d->e, KVP_EINPUT, "%s: %" PRIu64 " %s do not divide over %" PRIu64 " ranks", d->m->name, n, what, by);
}

static void divide(struct division *d, uint32_t *n, const char *what)
{
    if (*n % d->tp)
        refuse(d, what, *n, d->tp);
    *n /= d->tp;
}

/* Divided, or one on each of several ranks. */
static void divide_or_repeat(struct division *d, uint32_t *n, const char *what)
{
    if (*n && *n % d->tp && d->tp % *n)
        refuse(d, what, *n, d->tp);
    if (*n)
        *n = *n > d->tp ? *n / d->tp : 1;
}

static void keep(struct division *d, struct kvp_layer_class *c, const char *name, uint32_t rows, uint32_t cols)
{
    for (uint32_t i = 0; i < KVP_MAX_EXTRA; i++)
        if (!c->extra[i].name) {
            c->extra[i] = (struct kvp_extra){.name = name, .rows = rows, .cols = cols, .n = 1};
            return;
        }
    refuse(d, "experts beside so many extra weights", c->experts, d->ep);
}

/* A router scores the experts of every rank. */
static void whole_router(struct division *d, struct kvp_layer_class *c, uint32_t all)
{
    if (c->experts == all)
        return;
    keep(d, c, "router.others", all - c->experts, d->m->width);
    if (c->router_bias)
        keep(d, c, "router_bias.others", all - c->experts, 1);
}

static void experts(struct division *d, struct kvp_layer_class *c)
{
    const uint32_t all = c->experts;

    if (!all)
        return;
    if (all < d->ep)
        refuse(d, "experts", all, d->ep);
    c->experts = all / d->ep + (d->expert_rank < all % d->ep);
    whole_router(d, c, all);
    /* of a token's choices this many fall to a rank, rounded up */
    c->experts_per_token = (c->experts_per_token + d->ep - 1) / d->ep;
    if (c->expert_width % d->expert_tp)
        refuse(d, "channels of an expert", c->expert_width, d->expert_tp);
    c->expert_width /= d->expert_tp;
}

static void layer(struct division *d, struct kvp_layer_class *c)
{
    divide(d, &c->heads, "query heads");
    divide_or_repeat(d, &c->kv_heads, "KV heads");
    divide(d, &c->cross_heads, "query heads of cross-attention");
    divide_or_repeat(d, &c->cross_kv_heads, "KV heads of cross-attention");
    divide(d, &c->inner, "recurrent channels");
    divide(d, &c->rec_heads, "recurrent heads");
    divide_or_repeat(d, &c->groups, "recurrent groups");
    divide(d, &c->ffn_width, "feed-forward channels");
    divide(d, &c->shared_width, "channels of the shared experts");
    experts(d, c);
}

static uint32_t padded(struct division *d, uint32_t vocab)
{
    const uint64_t rows = num_cdiv(num_cdiv(vocab, 64) * 64, d->tp);

    if (rows > UINT32_MAX)
        refuse(d, "rows of the vocabulary", vocab, d->tp);
    return (uint32_t)rows;
}

static void vocabulary(struct division *d, struct kvp_model *m)
{
    if (d->tp == 1)
        return;
    m->vocab = padded(d, m->vocab);
    if (m->head_rows)
        m->head_rows = padded(d, m->head_rows);
}

static kvp_err divide_model(struct kvp_model *m, struct division *d)
{
    for (uint32_t i = 0; i < m->classes; i++)
        layer(d, &m->cls[i]);
    for (uint32_t i = 0; i < m->encoders; i++)
        layer(d, &m->encoder[i]);
    if (m->mtp_layers)
        layer(d, &m->mtp);
    vocabulary(d, m);
    return d->rc;
}

/* ---- stages --------------------------------------------------------------------------------------- */

/* First layer of a stage; of the stage after the last: how many there are. */
static uint32_t stage_begin(uint32_t layers, uint32_t pp, uint32_t stage)
{
    const uint32_t each = layers / pp, rest = layers % pp, plain = pp - 1 - rest;
    const uint32_t more = stage > plain ? stage - plain : 0;

    return stage == pp ? layers : stage * each + (more < rest ? more : rest);
}

static void first_of_several(struct kvp_model *m)
{
    m->no_final_norm = m->no_head = m->no_logits = true;
    m->head_bias = false;
    m->mtp_layers = 0;
}

static void after_the_first(struct kvp_model *m, bool last)
{
    if (last && !m->no_head) /* a head that shared the embedding is a copy here */
        m->head_rows = m->head_rows ? m->head_rows : m->vocab;
    m->tied = false;
    m->no_embed = true;
    m->encoders = 0;
    m->encoder_rows = 0;
    m->towers = 0;
    memset(m->extra, 0, sizeof(m->extra));
}

static kvp_err cut(struct kvp_model *out, const struct kvp_model *m, uint32_t begin, uint32_t end, struct kvp_error *e)
{
    struct kvp_layer_class *list = calloc(end - begin, sizeof(*list));
    bool shared = false;
    kvp_err rc;

    if (!list)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu32 " layers", end - begin);
    for (uint32_t l = begin; l < end; l++) {
        memcpy(&list[l - begin], &m->cls[m->class_of[l]], sizeof(*list));
        if (begin && list[l - begin].shared_attn && !shared) /* the stage's own copy of what an earlier one owns */
            list[l - begin].shared_attn = false;
        shared = shared || m->cls[m->class_of[l]].shared_attn;
    }
    out->layers = end - begin;
    rc = kvp_model_group(out, list, e);
    free(list);
    return rc;
}

static kvp_err stage_model(struct kvp_model *out, const struct kvp_model *m, uint32_t pp, uint32_t stage, struct kvp_error *e)
{
    if (pp == 1)
        return KVP_OK;
    KVP_TRY(cut(out, m, stage_begin(m->layers, pp, stage), stage_begin(m->layers, pp, stage + 1), e));
    if (stage > 0)
        after_the_first(out, stage + 1 == pp);
    if (stage + 1 < pp)
        first_of_several(out);
    return KVP_OK;
}

kvp_err ranks_model(struct kvp_model *out, const struct kvp_model *m, const struct kvp_options *o, const struct rank_kind *k,
                    bool divide, struct kvp_error *e)
{
    const uint32_t tp = ranks_or_1(o->tp), ep = ranks_or_1(o->ep);
    struct division d = {.m = m, .tp = tp, .ep = ep, .expert_tp = ep == 1 ? tp : tp > ep ? tp / ep : 1, .expert_rank = k->expert_rank, .e = e};
    kvp_err rc;

    KVP_TRY(kvp_model_copy(out, m, e));
    rc = stage_model(out, m, ranks_or_1(o->pp), k->stage, e);
    if (rc == KVP_OK && divide)
        rc = divide_model(out, &d);
    if (rc != KVP_OK)
        kvp_model_free(out);
    return rc;
}

/* ---- kinds ---------------------------------------------------------------------------------------- */

/* How many of EP ranks have an expert more than the others, by the first class where some do. */
static uint32_t fuller(const struct kvp_model *m, uint32_t ep)
{
    for (uint32_t i = 0; i < m->classes; i++)
        if (m->cls[i].experts % ep)
            return m->cls[i].experts % ep;
    return 0;
}

static bool has_experts(const struct kvp_model *m)
{
    for (uint32_t i = 0; i < m->classes; i++)
        if (m->cls[i].experts)
            return true;
    return false;
}

static kvp_err check(const struct kvp_model *m, uint32_t tp, uint32_t pp, uint32_t ep, struct kvp_error *e)
{
    if (pp > m->layers)
        return kvp_fail(e, KVP_EINPUT, "%s: %" PRIu32 " layers are fewer than %" PRIu32 " pipeline stages", m->name, m->layers, pp);
    if (ep > 1 && !has_experts(m))
        return kvp_fail(e, KVP_EINPUT, "%s has no experts to divide over %" PRIu32 " ranks", m->name, ep);
    if (ep > 1 && tp % ep && ep % tp)
        return kvp_fail(e, KVP_EINPUT, "%" PRIu32 " expert ranks and %" PRIu32 " tensor ranks: one must be a multiple of the other", ep, tp);
    if (tp > 65536 || pp > 65536 || ep > 65536)
        return kvp_fail(e, KVP_EINPUT, "expected at most 65536 ranks of a kind");
    return KVP_OK;
}

/* Weights that are counted only on request must be countable then. */
static kvp_err check_asked(const struct kvp_model *m, const struct kvp_options *o, struct kvp_error *e)
{
    if (o->with_vision && m->tower_unknown)
        return kvp_fail(e, KVP_ENOTSUP, "%s: --with-vision: its tower cannot be counted: %s", m->name, m->tower_unknown);
    if (o->with_mtp && m->mtp_unknown)
        return kvp_fail(e, KVP_ENOTSUP, "%s: --with-mtp: its prediction layers cannot be counted: %s", m->name, m->mtp_unknown);
    return KVP_OK;
}

kvp_err ranks_kinds(const struct kvp_model *m, const struct kvp_options *o, struct rank_kind **out, uint32_t *n, struct kvp_error *e)
{
    const uint32_t tp = ranks_or_1(o->tp), pp = ranks_or_1(o->pp), ep = ranks_or_1(o->ep);
    const uint32_t all = tp > ep ? tp : ep, more = fuller(m, ep), each = all / ep;

    KVP_TRY(check_asked(m, o, e));
    KVP_TRY(check(m, tp, pp, ep, e));
    *out = calloc(2ull * pp, sizeof(**out));
    *n = 0;
    if (!*out)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu32 " stages", pp);
    for (uint32_t s = 0; s < pp; s++) {
        (*out)[(*n)++] = (struct rank_kind){.stage = s, .alike = (more ? more : ep) * each};
        if (more)
            (*out)[(*n)++] = (struct rank_kind){.stage = s, .alike = (ep - more) * each, .expert_rank = more};
    }
    return KVP_OK;
}

void ranks_replicate(struct plan *rank, const struct plan *stage)
{
    for (uint32_t c = 0; c < rank->n_classes && c < stage->n_classes; c++)
        for (uint32_t i = 0; i < rank->cls[c].n_parts && i < stage->cls[c].n_parts; i++) {
            struct part *x = &rank->cls[c].parts[i];

            if (!x->replicated)
                continue;
            x->heads = stage->cls[c].parts[i].heads;
            x->width = stage->cls[c].parts[i].width;
            x->row = stage->cls[c].parts[i].row;
        }
}
