/* support.c - kb_host_supports: one small question per kernel, in a table */
#include "kernels/host.h"

#include "kernels/ops/act.h"
#include "kernels/ops/attn_decode.h"
#include "kernels/ops/attn_kivi.h"
#include "kernels/ops/attn_prefill.h"
#include "kernels/ops/cache_write.h"
#include "kernels/ops/embed.h"
#include "kernels/ops/gemm.h"
#include "kernels/ops/h2o_scores.h"
#include "kernels/ops/h2o_select.h"
#include "kernels/ops/h2o_step.h"
#include "kernels/ops/kivi_pack_k.h"
#include "kernels/ops/kivi_pack_v.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/read_probe.h"
#include "kernels/ops/rope.h"

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
    return is_float(kv->format) && kv->heads == heads && kv->dim == dim && (!kv->block || kv->table.buf);
}

/* Rows of codes and blocks too. */
static bool is_rows(const struct kb_kv *kv, uint32_t heads, uint32_t dim)
{
    const bool places = kv->heads == heads && kv->dim == dim && (!kv->block || kv->table.buf);

    if (!kb_is_code(kv->format))
        return is_kv(kv, heads, dim) || (places && kb_is_block(kv->format) && dim % kb_unit_of(kv->format).elements == 0);
    if (kv->scales == KB_SCALES_GROUP)
        return places && kv->group && dim % kv->group == 0 && is_float(kv->scale_format) && kv->scale.buf && kv->shift.buf;
    return places && kv->scales != KB_SCALES_NONE && kv->scale.buf;
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

static bool embed(const void *args)
{
    const struct kb_embed *a = args;

    return a->width && a->vocab && (is_float(a->format) || (kb_is_block(a->format) && a->width % kb_unit_of(a->format).elements == 0)) &&
           !a->position_ids.buf == !a->position_table.buf;
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

static bool gemm(const void *args)
{
    const struct kb_gemm *a = args;

    return a->n && a->k && (is_float(a->format) ? a->code.coding == KB_CODING_NONE : is_coded(a));
}

static bool rope(const void *args)
{
    const struct kb_rope *a = args;

    return a->heads && a->head_dim && a->head_dim % 2 == 0;
}

static bool act(const void *args)
{
    const struct kb_act *a = args;

    return a->width && (unsigned)a->kind <= KB_ACT_RELU;
}

static bool attn_prefill(const void *args)
{
    const struct kb_attn_prefill *a = args;

    return is_grouped(a->heads, a->kv_heads, a->head_dim);
}

static bool attn_decode(const void *args)
{
    const struct kb_attn_decode *a = args;
    bool tail = a->tail_k.buf && a->tail_v.buf;

    return is_grouped(a->heads, a->kv_heads, a->head_dim) && is_rows(&a->k, a->kv_heads, a->head_dim) &&
           is_rows(&a->v, a->kv_heads, a->head_dim) && !a->tail_k.buf == !a->tail_v.buf && (a->used || tail);
}

static bool cache_write(const void *args)
{
    const struct kb_cache_write *a = args;

    return a->dst.heads && a->dst.dim && is_rows(&a->dst, a->dst.heads, a->dst.dim);
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
           is_kv(&a->k, a->kv_heads, a->head_dim) && is_kv(&a->v, a->kv_heads, a->head_dim);
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

static bool read_probe(const void *args)
{
    const struct kb_read_probe *a = args;

    return a->bytes && a->bytes % 64 == 0;
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
