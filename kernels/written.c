#include "kernels/written.h"

#include "kernels/code.h"
#include "kernels/ops.h"

enum { F32 = 4, I32 = 4 };

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- rows of activations ------------------------------------------------------------------------------ */

static uint64_t embed(const void *args)
{
    const struct kb_embed *a = args;

    return a->rows * a->width * F32;
}

static uint64_t norm(const void *args)
{
    const struct kb_norm *a = args;

    return a->rows * a->groups * a->width * F32;
}

static uint64_t gemm(const void *args)
{
    const struct kb_gemm *a = args;

    return a->m * a->n * F32;
}

static uint64_t rope(const void *args)
{
    const struct kb_rope *a = args;

    return a->rows * a->heads * a->head_dim * F32;
}

static uint64_t act(const void *args)
{
    const struct kb_act *a = args;

    return a->rows * a->width * F32;
}

static uint64_t gate(const void *args)
{
    const struct kb_gate *a = args;

    return a->rows * a->width * F32;
}

static uint64_t quant_rows(const void *args)
{
    const struct kb_quant_rows *a = args;

    return a->rows * (a->width + F32);
}

static uint64_t head_gemm(const void *args)
{
    const struct kb_head_gemm *a = args;

    return a->m * a->heads * (a->transposed ? a->cols : a->rows) * F32;
}

static uint64_t head_norm(const void *args)
{
    const struct kb_head_norm *a = args;

    return a->rows * a->heads * a->dim * F32;
}

static uint64_t moe_route(const void *args)
{
    const struct kb_moe_route *a = args;

    return a->rows * a->chosen * (I32 + F32);
}

/* A row for each choice, or a sum that each choice adds to. */
static uint64_t moe_gemm(const void *args)
{
    const struct kb_moe_gemm *a = args;

    return a->rows * a->chosen * a->n * F32;
}

static uint64_t read_probe(const void *args)
{
    (void)args;
    return F32;
}

/* ---- attention ------------------------------------------------------------------------------------------- */

static uint64_t attn_prefill(const void *args)
{
    const struct kb_attn_prefill *a = args;
    const uint64_t rows = a->batch * a->tokens * a->heads;

    return rows * (a->v_dim ? a->v_dim : a->head_dim) * F32 + (a->lse.buf ? rows * F32 : 0);
}

static uint64_t attn_sinks(const void *args)
{
    return attn_prefill(&((const struct kb_attn_sinks *)args)->attn);
}

static uint64_t attn_decode(const void *args)
{
    const struct kb_attn_decode *a = args;
    const uint64_t rows = a->batch * a->heads, seen = a->used + (a->tail_k.buf ? 1 : 0);

    return rows * (a->v_dim ? a->v_dim : a->head_dim) * F32 + (a->probs.buf ? rows * seen * F32 : 0);
}

static uint64_t attn_slots(const void *args)
{
    return attn_decode(&((const struct kb_attn_slots *)args)->attn);
}

static uint64_t attn_pages(const void *args)
{
    return attn_decode(&((const struct kb_attn_pages *)args)->attn);
}

static uint64_t attn_merged(const void *args)
{
    return attn_decode(&((const struct kb_attn_merged *)args)->attn);
}

static uint64_t attn_extend(const void *args)
{
    const struct kb_attn_extend *a = args;

    return a->first.buf ? 0 : a->batch * a->tokens * a->heads * a->head_dim * F32;
}

static uint64_t attn_cross(const void *args)
{
    const struct kb_attn_cross *a = args;

    return a->batch * a->queries * a->heads * a->head_dim * F32;
}

static uint64_t attn_kivi(const void *args)
{
    const struct kb_attn_kivi *a = args;

    return a->batch * a->heads * a->head_dim * F32;
}

static uint64_t attn_latent(const void *args)
{
    const struct kb_attn_latent *a = args;

    return a->batch * a->heads * a->rank * F32;
}

static uint64_t attn_ragged(const void *args)
{
    const struct kb_attn_ragged *a = args;

    return a->batch * a->heads * a->v.dim * F32;
}

static uint64_t attn_low(const void *args)
{
    const struct kb_attn_low *a = args;

    return a->batch * a->heads * (a->v_up.w.buf ? a->head_dim : a->v.dim) * F32;
}

/* ---- rows of a cache ---------------------------------------------------------------------------------------- */

/* A head's row, or `width` elements of it, with the scales that belong to it. */
static uint64_t row(const struct kb_kv *kv, uint32_t width)
{
    uint64_t scales = 0;

    if (kb_is_code(kv->format) && kv->scales == KB_SCALES_ROW)
        scales = F32;
    else if (kb_is_code(kv->format) && kv->scales == KB_SCALES_GROUP)
        scales = 2ull * (kv->dim / kv->group) * kb_element(kv->scale_format);
    return kb_row_bytes(kv->format, width ? width : kv->dim) + scales;
}

static uint64_t cache_write(const void *args)
{
    const struct kb_cache_write *a = args;

    const bool scale = a->calibrate && kb_is_code(a->dst.format) && a->dst.scales == KB_SCALES_TENSOR;

    return a->batch * a->count * a->dst.heads * row(&a->dst, a->width) + (scale ? F32 : 0);
}

/* Without an index one row a head; with one, as many as it has entries. */
static uint64_t ragged_write(const void *args)
{
    const struct kb_ragged_write *a = args;

    return a->batch * (a->index.buf ? a->index_stride : a->dst.heads) * a->dst.dim * kb_element(a->dst.format);
}

static uint64_t kivi_pack(const struct kb_kivi_pack_k *a)
{
    const uint64_t elements = a->batch * a->kv_heads * a->tokens * a->head_dim;

    return elements * a->bits / 8 + 2 * (elements / a->group) * kb_element(a->format);
}

static uint64_t kivi_pack_k(const void *args)
{
    return kivi_pack(args);
}

static uint64_t kivi_pack_v(const void *args)
{
    const struct kb_kivi_pack_v *a = args;

    return kivi_pack(&(struct kb_kivi_pack_k){.batch = a->batch, .kv_heads = a->kv_heads, .head_dim = a->head_dim, .bits = a->bits,
                                              .group = a->group, .tokens = a->tokens, .format = a->format});
}

/* Directions and both layers' lengths; what is retained is at most what was written. */
static uint64_t pair_merge(const void *args)
{
    const struct kb_pair_merge *a = args;
    const uint64_t rows = a->batch * a->count * a->kv_heads, lengths = a->batch * a->count * (a->per_token ? 1 : a->kv_heads);
    const uint64_t kept = a->batch * a->kv_heads * smaller(a->kept, a->count), listed = a->given ? 0 : a->kept - a->was;

    return rows * row(&a->direction, 0) + 2 * lengths * kb_element(a->direction.format) +
           (a->kept ? 2 * kept * row(&a->lower_kept, 0) : 0) + a->batch * a->kv_heads * listed * (a->index_format == KVP_I64 ? 8 : 4);
}

static uint64_t page_bounds(const void *args)
{
    const struct kb_page_bounds *a = args;
    const uint64_t pages = a->count ? (a->position + a->count - 1) / a->page - a->position / a->page + 1 : 0;

    return 2 * a->batch * a->kv_heads * pages * a->head_dim * kb_element(a->format);
}

/* ---- choices --------------------------------------------------------------------------------------------- */

static uint64_t h2o_scores(const void *args)
{
    const struct kb_h2o_scores *a = args;

    return a->batch * a->kv_heads * a->tokens * F32;
}

static uint64_t h2o_select(const void *args)
{
    const struct kb_h2o_select *a = args;

    return a->batch * a->kv_heads * smaller(a->tokens, a->heavy + a->recent) * (I32 + kb_element(a->score_format));
}

/* The new row, the one that moves to make room, and every score. */
static uint64_t h2o_step(const void *args)
{
    const struct kb_h2o_step *a = args;
    const uint64_t most = a->heavy + a->recent, rows = a->used < most ? 1 : 2;

    return a->batch * a->kv_heads * (rows * (row(&a->k, 0) + row(&a->v, 0)) + smaller(a->used + 1, most) * kb_element(a->score_format) +
                                     (a->victim.buf ? I32 : 0));
}

static uint64_t h2o_promote(const void *args)
{
    const struct kb_h2o_promote *a = args;
    const uint64_t rows = a->used < 2 * a->heavy - 1 ? 0 : 2;

    return a->batch * a->kv_heads * (rows * (row(&a->k, 0) + row(&a->v, 0)) + (a->used + 1) * kb_element(a->score_format) +
                                     (a->victim.buf ? I32 : 0));
}

static uint64_t tova_step(const void *args)
{
    const struct kb_tova_step *a = args;

    return a->batch * (a->kv_heads * (row(&a->k, 0) + row(&a->v, 0)) + (a->victim.buf ? I32 : 0));
}

static uint64_t window_scores(const void *args)
{
    const struct kb_window_scores *a = args;

    return a->batch * a->sets * a->columns * F32;
}

static uint64_t top_tokens(const void *args)
{
    const struct kb_top_tokens *a = args;

    return a->batch * a->sets * (a->best + a->tokens - a->columns) * I32;
}

static uint64_t share_tokens(const void *args)
{
    const struct kb_share_tokens *a = args;

    return a->batch * a->sets * (1 + a->base + a->tokens - a->columns) * I32;
}

static uint64_t page_select(const void *args)
{
    const struct kb_page_select *a = args;

    return a->batch * a->kv_heads * a->chosen * I32;
}

/* ---- states -------------------------------------------------------------------------------------------------- */

static uint64_t conv(const void *args)
{
    const struct kb_conv *a = args;

    return a->batch * a->channels * (a->tokens * F32 + (a->state.buf ? a->columns * kb_element(a->state_format) : 0));
}

/* The sequences whose last row is among [first, first + rows) leave it behind. */
static uint64_t shift(const void *args)
{
    const struct kb_shift *a = args;
    const uint64_t ends = a->keep ? (a->first + a->rows) / a->tokens - a->first / a->tokens : 0;

    return a->width * (a->rows * F32 + ends * kb_element(a->state_format));
}

static uint64_t ssm_scan(const void *args)
{
    const struct kb_ssm_scan *a = args;

    return a->batch * a->channels * (a->tokens * F32 + a->n * kb_element(a->state_format));
}

static uint64_t ssd_scan(const void *args)
{
    const struct kb_ssd_scan *a = args;

    return a->batch * a->heads * a->head_dim * (a->tokens * F32 + a->n * kb_element(a->state_format));
}

static uint64_t wkv4(const void *args)
{
    const struct kb_wkv4 *a = args;

    return a->batch * a->channels * (a->tokens * F32 + 3 * kb_element(a->state_format));
}

static uint64_t wkv6(const void *args)
{
    const struct kb_wkv6 *a = args;

    return a->batch * a->heads * a->dim * (a->tokens * F32 + a->dim * kb_element(a->state_format));
}

/* k is left changed, and v where it is mixed. */
static uint64_t wkv7(const void *args)
{
    const struct kb_wkv7 *a = args;
    const uint64_t rows = a->v_first.buf ? 3 : 2;

    return a->batch * a->heads * a->dim * (rows * a->tokens * F32 + a->dim * kb_element(a->state_format));
}

static uint64_t delta_scan(const void *args)
{
    const struct kb_delta_scan *a = args;

    return a->batch * a->heads * a->head_dim * (a->tokens * F32 + a->n * kb_element(a->state_format));
}

/* ---- all of them: a kernel without a rule does not compile -------------------------------------------------------- */

uint64_t kb_written(enum kb_kernel k, const void *args)
{
    static uint64_t (*const rules[KB_KERNELS])(const void *args) = {
#define KB_X(sym, name) [KB_##sym] = name,
        KB_KERNEL_MAP(KB_X)
#undef KB_X
    };

    return rules[k](args);
}
