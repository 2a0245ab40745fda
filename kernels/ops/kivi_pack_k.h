/* kivi_pack_k.h - KIVI keys: asymmetric codes per channel over groups of tokens */
#ifndef KVPROOF_OPS_KIVI_PACK_K_H
#define KVPROOF_OPS_KIVI_PACK_K_H

#include "kernels/backend.h"

#include "kernels/ops/kivi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Liu et al. 2024 (arXiv:2402.02750), section 4; layout of jy-yuan/KIVI quant/new_pack.py.
 * For each (b, h, channel c, group of `group` consecutive tokens): min and max of the stored-precision
 * values; scale = (max - min) / (2^bits - 1), both min and scale rounded to `format`;
 * code = clamp(round_half_even((x - min) / scale), 0, 2^bits - 1) with the rounded min and scale, 0 when
 * scale is 0. All of it in f32: the values widened, each subtraction and each division (true division,
 * no reciprocal) rounded once to nearest even, subnormals kept, nothing contracted; so codes, scales and
 * mins are the same bits on every backend. Values are finite. */
struct kb_kivi_pack_k {
    uint64_t batch;
    uint32_t kv_heads, head_dim, bits, group;
    uint64_t tokens;            /* to pack: a multiple of group and of 32/bits */
    enum kvp_format format;     /* of scales, mins; source values are rounded to it first */
    bool src_is_f32;            /* src: f32 rows (prefill), else rows of `format` (the residual) */
    struct kb_span src;         /* element (b, t, h, c): b*src_batch + t*src_token + h*src_head + c */
    uint64_t src_batch, src_token, src_head;
    uint64_t dst_token;         /* first token's position t, a multiple of group */
    struct kb_kivi dst;
};

#ifdef __cplusplus
}
#endif
#endif
