/* support.c - kb_host_supports: one small question per kernel, in a table */
#include "kernels/host.h"

#include "kernels/ops.h"

static bool is_float(enum kvp_format f)
{
    return f == KVP_F32 || f == KVP_F16 || f == KVP_BF16;
}

static bool is_grouped(uint32_t heads, uint32_t kv_heads, uint32_t head_dim)
{
    return heads && kv_heads && heads % kv_heads == 0 && head_dim;
}

static bool is_kv(const struct kb_kv *kv, uint32_t heads, uint32_t dim)
{
    return is_float(kv->format) && kv->heads == heads && kv->dim == dim && (!kv->block || kv->table.buf) && !kv->shared;
}

/* Rows of codes and blocks too, and such as sequences share. */
static bool is_rows(const struct kb_kv *kv, uint32_t heads, uint32_t dim)
{
    const bool places = kv->heads == heads && kv->dim == dim && (kv->block ? kv->table.buf && !kv->shared : true);

    if (!kb_is_code(kv->format))
        return places && (is_float(kv->format) || (kb_is_row_block(kv->format) && dim % kb_unit_of(kv->format).elements == 0));
    if (kv->scales == KB_SCALES_GROUP)
        return places && kv->group && dim % kv->group == 0 && is_float(kv->scale_format) && kv->scale.buf && kv->shift.buf;
    return places && kv->scales != KB_SCALES_NONE && kv->scale.buf;
}

/* Rows in any form that belong to one sequence, so that it may write and move them. */
static bool is_own(const struct kb_kv *kv, uint32_t heads, uint32_t dim)
{
    return is_rows(kv, heads, dim) && !kv->shared;
}

static bool is_kivi(uint32_t bits, uint32_t group, uint32_t head_dim)
{
    return (bits == 2 || bits == 4) && group && head_dim && group % (32 / bits) == 0 &&
           head_dim % (32 / bits) == 0 && head_dim % group == 0;
}

static bool is_placed(const struct kb_kivi *x, uint32_t unit)
{
    return x->block ? x->table.buf && x->block % unit == 0 && x->ring % unit == 0
                    : x->capacity && x->capacity % unit == 0 && x->ring % unit == 0;
}

static bool norm(const void *args)
{
    const struct kb_norm *a = args;

    return a->width && a->groups && is_float(a->format);
}

static bool is_coded(const struct kb_gemm *a)
{
    const struct kb_coded *c = &a->code;
    const bool bits = c->bits == 2 || c->bits == 4 || c->bits == 8;

    if (a->bias.buf && !is_float(c->bias_format))
        return false;
    switch (c->coding) {
    case KB_CODING_NONE:
        return kb_is_block(a->format) && a->k % kb_unit_of(a->format).elements == 0;
    case KB_CODING_SCALED:
        return (a->format == KVP_INT8 || a->format == KVP_FP8) && c->scale.buf;
    case KB_CODING_W8A8:
        return a->format == KVP_INT8 && c->scale.buf && c->x_scale.buf && c->group < 2 && a->k < 1u << 17;
    case KB_CODING_NF4:
    case KB_CODING_FP4:
        return a->format == KVP_INT4 && c->scale.buf;
    case KB_CODING_GPTQ:
        return a->format == KVP_INT4 && bits && c->scale.buf && c->zero.buf && c->index.buf;
    case KB_CODING_AWQ:
        return a->format == KVP_INT4 && c->bits == 4 && c->group && c->scale.buf && c->zero.buf;
    case KB_CODING_MLX:
        return a->format == KVP_INT4 && bits && c->group && c->scale.buf && c->zero.buf;
    }
    return false;
}

static bool embed(const void *args)
{
    const struct kb_embed *a = args;

    const struct kb_gemm table = {.n = a->vocab, .k = a->width, .format = a->format, .code = a->code};
    const struct kb_gemm positions = {.n = 1, .k = a->width, .format = a->format, .code = a->position_code};

    return a->width && a->vocab && !a->position_ids.buf == !a->position_table.buf &&
           (is_float(a->format) || (is_coded(&table) && (!a->position_ids.buf || is_coded(&positions))));
}

static bool gemm(const void *args)
{
    const struct kb_gemm *a = args;

    return a->n && a->k && (is_float(a->format) ? a->code.coding == KB_CODING_NONE : is_coded(a));
}

static bool rope(const void *args)
{
    const struct kb_rope *a = args;

    return a->heads && a->head_dim && a->head_dim % 2 == 0 && (!a->head_stride || a->head_stride >= a->head_dim);
}

static bool act(const void *args)
{
    const struct kb_act *a = args;

    return a->width && (unsigned)a->kind <= KB_ACT_SCALE && (a->kind != KB_ACT_SCALE || !a->gated) && (a->kind != KB_ACT_SWIGLU_CLAMPED || a->gated) &&
           (a->kind != KB_ACT_SOFTCAP || (!a->gated && a->limit > 0));
}

static bool attn_prefill(const void *args)
{
    const struct kb_attn_prefill *a = args;

    return is_grouped(a->heads, a->kv_heads, a->head_dim) && a->shared_dim < a->head_dim && !a->shared_dim == !a->shared.buf &&
           (!a->sinks.buf || is_float(a->sink_format));
}

static bool attn_decode(const void *args)
{
    const struct kb_attn_decode *a = args;
    bool tail = a->tail_k.buf && a->tail_v.buf;

    return is_grouped(a->heads, a->kv_heads, a->head_dim) && is_rows(&a->k, a->kv_heads, a->head_dim) &&
           is_rows(&a->v, a->kv_heads, a->v_dim ? a->v_dim : a->head_dim) && !a->tail_k.buf == !a->tail_v.buf &&
           (a->used || tail) && (!a->sinks.buf || is_float(a->sink_format));
}

static bool attn_extend(const void *args)
{
    const struct kb_attn_extend *a = args;

    return is_grouped(a->heads, a->kv_heads, a->head_dim) && is_rows(&a->stored_k, a->kv_heads, a->head_dim) &&
           is_rows(&a->stored_v, a->kv_heads, a->head_dim) && !a->first.buf == !a->before.buf && !a->k.buf == !a->v.buf &&
           (a->k.buf || !a->ring) && (!a->ring || (a->window && a->ring + 1 >= a->window)) && (!a->sinks.buf || is_float(a->sink_format));
}

/* A causal query's own key is among those of its sequence, and a bias reaches from end to end. */
static bool attn_cross(const void *args)
{
    const struct kb_attn_cross *a = args;
    const uint64_t last = a->position + a->queries;

    if (!is_grouped(a->heads, a->kv_heads, a->head_dim) || !a->used || !a->k.buf != !a->v.buf || (a->causal && last > a->used) ||
        (a->bias.buf && (a->span < last || a->span < a->used)))
        return false;
    return a->k.buf || (is_rows(&a->stored_k, a->kv_heads, a->head_dim) && is_rows(&a->stored_v, a->kv_heads, a->head_dim));
}

static bool cache_write(const void *args)
{
    const struct kb_cache_write *a = args;

    return a->dst.heads && a->dst.dim && is_rows(&a->dst, a->dst.heads, a->dst.dim) && a->first <= a->dst.dim &&
           a->width <= a->dst.dim - a->first && (a->width || !a->first) && (!a->width || is_float(a->dst.format)) &&
           (!a->repeat || a->dst.heads % a->repeat == 0);
}

static bool h2o_scores(const void *args)
{
    const struct kb_h2o_scores *a = args;

    return is_grouped(a->heads, a->kv_heads, a->head_dim);
}

static bool is_score(enum kvp_format f)
{
    return f == KVP_F32 || f == KVP_F16;
}

static bool h2o_select(const void *args)
{
    const struct kb_h2o_select *a = args;

    return a->tokens && a->tokens <= INT32_MAX && a->kv_heads && a->heavy && a->recent && is_score(a->score_format);
}

static bool h2o_step(const void *args)
{
    const struct kb_h2o_step *a = args;
    uint64_t room;

    return a->heavy && a->recent && !__builtin_add_overflow(a->heavy, a->recent, &room) && a->used <= room &&
           a->position >= a->used && is_score(a->score_format) && is_grouped(a->heads, a->kv_heads, a->head_dim) &&
           is_own(&a->k, a->kv_heads, a->head_dim) && is_own(&a->v, a->kv_heads, a->head_dim);
}

static bool kivi_pack_k(const void *args)
{
    const struct kb_kivi_pack_k *a = args;

    return a->kv_heads && is_float(a->format) && is_kivi(a->bits, a->group, a->head_dim) &&
           a->tokens % a->group == 0 && a->dst_token % a->group == 0 && is_placed(&a->dst, a->group);
}

static bool kivi_pack_v(const void *args)
{
    const struct kb_kivi_pack_v *a = args;

    return a->kv_heads && is_float(a->format) && is_kivi(a->bits, a->group, a->head_dim) && is_placed(&a->dst, 1);
}

static bool attn_kivi(const void *args)
{
    const struct kb_attn_kivi *a = args;
    uint64_t tokens = a->k_packed + a->k_full, values = a->v_packed + a->v_full + (a->tail_v.buf != NULL);

    return is_grouped(a->heads, a->kv_heads, a->head_dim) && is_float(a->format) &&
           is_kivi(a->bits, a->group, a->head_dim) && tokens == values && a->first < tokens &&
           a->k_packed % a->group == 0 && a->k_full <= a->k_res_slots && a->v_full <= a->v_res_slots &&
           (a->k_packed <= a->first || is_placed(&a->k, a->group)) && (a->v_packed <= a->first || is_placed(&a->v, 1));
}

/* ---- recurrences --------------------------------------------------------------------------------- */

static bool conv(const void *args)
{
    const struct kb_conv *a = args;

    return a->channels && a->taps && a->columns + 1 >= a->taps && is_float(a->format) && is_float(a->state_format) &&
           (a->taps == 1 || a->state.buf);
}

static bool shift(const void *args)
{
    const struct kb_shift *a = args;

    return a->width && a->tokens && is_float(a->format) && is_float(a->state_format) && a->state_stride >= a->width;
}

static bool gate(const void *args)
{
    return ((const struct kb_gate *)args)->width;
}

static bool ssm_scan(const void *args)
{
    const struct kb_ssm_scan *a = args;

    return a->channels && a->n && is_float(a->format) && is_float(a->state_format);
}

static bool ssd_scan(const void *args)
{
    const struct kb_ssd_scan *a = args;

    return is_grouped(a->heads, a->groups, a->head_dim) && a->n && is_float(a->format) && is_float(a->state_format);
}

static bool wkv4(const void *args)
{
    const struct kb_wkv4 *a = args;

    return a->channels && is_float(a->format) && is_float(a->state_format);
}

static bool wkv6(const void *args)
{
    const struct kb_wkv6 *a = args;

    return a->heads && a->dim && is_float(a->format) && is_float(a->state_format);
}

static bool wkv7(const void *args)
{
    const struct kb_wkv7 *a = args;

    return a->heads && a->dim && is_float(a->format) && is_float(a->state_format) && !a->v_first.buf == !a->v_mix.buf;
}

static bool delta_scan(const void *args)
{
    const struct kb_delta_scan *a = args;

    return is_grouped(a->heads, a->groups, a->head_dim) && a->n && is_float(a->format) && is_float(a->state_format);
}

static bool head_norm(const void *args)
{
    const struct kb_head_norm *a = args;

    return a->heads && a->dim && is_float(a->format) && (!a->r_k.buf || (a->r.buf && a->k.buf && a->v.buf));
}

static bool attn_latent(const void *args)
{
    const struct kb_attn_latent *a = args;

    return a->heads && a->rank && a->rope_dim && a->used && is_rows(&a->latent, 1, a->rank) && is_rows(&a->rope, 1, a->rope_dim);
}

static bool head_gemm(const void *args)
{
    const struct kb_head_gemm *a = args;

    return a->heads && a->rows && a->cols && is_float(a->format) && !(a->transposed && a->bias.buf);
}

static bool moe_route(const void *args)
{
    const struct kb_moe_route *a = args;
    const uint32_t per_group = a->groups ? a->experts / a->groups : a->experts, open = a->groups ? per_group * a->groups_kept : a->experts;

    return a->experts && a->chosen && a->chosen <= open && (!a->groups || (a->experts % a->groups == 0 && a->groups_kept <= a->groups)) &&
           (!a->group_pairs || per_group >= 2) && (unsigned)a->kind <= KB_ROUTE_CHOSEN && (!a->bias.buf || is_float(a->format));
}

static bool moe_gemm(const void *args)
{
    const struct kb_moe_gemm *a = args;

    return a->experts && a->chosen && a->n && a->k && is_float(a->format);
}

static bool quant_rows(const void *args)
{
    const struct kb_quant_rows *a = args;

    return a->width && a->codes.buf && a->scale.buf;
}

static bool read_probe(const void *args)
{
    const struct kb_read_probe *a = args;

    return a->bytes && a->bytes % 64 == 0;
}

static bool attn_slots(const void *args)
{
    const struct kb_attn_slots *a = args;

    return attn_decode(&a->attn) && !a->attn.tail_k.buf && !a->attn.probs.buf && a->attn.head_dim % 2 == 0 &&
           (!a->ring || (a->first + a->ring <= a->attn.used && a->turned < a->ring));
}

static bool attn_low(const void *args)
{
    const struct kb_attn_low *a = args;

    return is_grouped(a->heads, a->kv_heads, a->head_dim) && a->used && a->k.dim && a->v.dim && is_rows(&a->k, 1, a->k.dim) &&
           is_rows(&a->v, 1, a->v.dim) && is_float(a->format) && a->k_up.w.buf && (!a->inv_freq.buf || a->head_dim % 2 == 0) &&
           (!a->ring || (a->first + a->ring <= a->used && a->turned < a->ring));
}

static bool window_scores(const void *args)
{
    const struct kb_window_scores *a = args;

    return is_grouped(a->heads, a->kv_heads, a->head_dim) && a->window && a->window <= a->tokens &&
           a->columns <= a->tokens && a->kernel && a->sets && a->heads % a->sets == 0;
}

static bool top_tokens(const void *args)
{
    const struct kb_top_tokens *a = args;

    return a->sets && a->tokens <= INT32_MAX && a->columns <= a->tokens && a->best <= a->columns;
}

static bool tova_step(const void *args)
{
    const struct kb_tova_step *a = args;

    return a->budget && a->used <= a->budget && is_grouped(a->heads, a->kv_heads, a->head_dim) &&
           is_own(&a->k, a->kv_heads, a->head_dim) && is_own(&a->v, a->kv_heads, a->head_dim);
}

static bool page_bounds(const void *args)
{
    const struct kb_page_bounds *a = args;

    return a->kv_heads && a->head_dim && a->page && is_float(a->format) && a->position + a->count <= a->pages * a->page;
}

static bool page_select(const void *args)
{
    const struct kb_page_select *a = args;

    return is_grouped(a->heads, a->kv_heads, a->head_dim) && is_float(a->format) && a->page && a->chosen &&
           a->used > a->chosen * a->page && a->used <= a->pages * a->page && a->pages <= INT32_MAX;
}

static bool attn_pages(const void *args)
{
    const struct kb_attn_pages *a = args;

    return attn_decode(&a->attn) && !a->attn.tail_k.buf && !a->attn.probs.buf && a->page && a->chosen &&
           a->attn.used > (a->chosen - 1) * a->page;
}

static bool attn_sinks(const void *args)
{
    const struct kb_attn_prefill *a = &((const struct kb_attn_sinks *)args)->attn;

    return attn_prefill(a) && a->window && (!a->v_dim || a->v_dim == a->head_dim) && !a->kv_stride && !a->k_head && !a->v_head &&
           !a->shared_dim && !a->chunk && a->softcap == 0 && !a->slopes.buf && !a->sinks.buf;
}

static bool is_list(uint64_t kept, const struct kb_kv *a, const struct kb_kv *b, uint32_t heads, uint32_t dim, enum kvp_format f,
                    enum kvp_format index, uint64_t room)
{
    return !kept || (is_kv(a, heads, dim) && is_kv(b, heads, dim) && !a->block && !b->block && a->format == f && b->format == f &&
                     (index == KVP_I32 || index == KVP_I64) && kept <= a->slots && kept <= b->slots && kept <= room);
}

static bool pair_merge(const void *args)
{
    const struct kb_pair_merge *a = args;

    return is_kv(&a->direction, a->kv_heads, a->head_dim) && a->head_dim && a->kv_heads && a->was <= a->kept && a->kept - a->was <= a->count &&
           (!a->ring || (a->slot < a->ring && a->count <= a->ring)) &&
           is_list(a->kept, &a->lower_kept, &a->upper_kept, a->kv_heads, a->head_dim, a->direction.format, a->index_format, a->index_slots);
}

static bool attn_merged(const void *args)
{
    const struct kb_attn_merged *a = args;

    return attn_decode(&a->attn) && !a->attn.probs.buf && a->attn.k.format == a->attn.v.format &&
           (a->attn.tail_k.buf || a->attn.used > (a->skip < a->attn.used)) &&
           is_list(a->kept, &a->k_kept, &a->v_kept, a->attn.kv_heads, a->attn.head_dim, a->attn.k.format, a->index_format, a->index_slots);
}

static bool h2o_promote(const void *args)
{
    const struct kb_h2o_promote *a = args;

    return a->heavy >= 2 && a->heavy <= INT32_MAX && a->used < 2 * a->heavy && a->position >= a->used && is_score(a->score_format) &&
           is_grouped(a->heads, a->kv_heads, a->head_dim) && is_own(&a->k, a->kv_heads, a->head_dim) && is_own(&a->v, a->kv_heads, a->head_dim);
}

static bool is_ragged(const struct kb_ragged *r)
{
    return r->heads && r->dim && is_float(r->format) && r->lengths.buf && r->starts.buf && r->rows <= INT32_MAX;
}

static bool share_tokens(const void *args)
{
    const struct kb_share_tokens *a = args;

    return a->sets && a->tokens <= INT32_MAX && a->columns <= a->tokens && a->base && a->base <= a->columns && a->floor <= a->base;
}

static bool ragged_write(const void *args)
{
    const struct kb_ragged_write *a = args;

    return is_ragged(&a->dst) && (!a->repeat || a->dst.heads % a->repeat == 0);
}

static bool attn_ragged(const void *args)
{
    const struct kb_attn_ragged *a = args;

    return is_ragged(&a->k) && is_ragged(&a->v) && a->k.heads == a->v.heads && a->k.dim == a->v.dim && is_grouped(a->heads, a->k.heads, a->k.dim);
}

bool kb_host_supports(struct kb_dev *dev, enum kb_kernel k, const void *args)
{
    static bool (*const table[])(const void *) = {
#define KB_X(sym, name) [KB_##sym] = name,
        KB_KERNEL_MAP(KB_X)
#undef KB_X
    };
    (void)dev;
    return (unsigned)k < KB_KERNELS && table[k](args);
}
