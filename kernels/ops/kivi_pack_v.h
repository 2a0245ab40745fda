/* kivi_pack_v.h - KIVI values: asymmetric codes per token over groups of channels */
#ifndef KVPROOF_OPS_KIVI_PACK_V_H
#define KVPROOF_OPS_KIVI_PACK_V_H

#include "kernels/backend.h"

#include "kernels/ops/kivi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As kivi_pack_k, but a group is `group` consecutive channels of one token. */
struct kb_kivi_pack_v {
    uint64_t batch;
    uint32_t kv_heads, head_dim, bits, group;
    uint64_t tokens;
    enum kvp_format format;
    bool src_is_f32;
    struct kb_span src;         /* element (b, t, h, c): b*src_batch + t*src_token + h*src_head + c */
    uint64_t src_batch, src_token, src_head;
    uint64_t dst_token;         /* first token's position t */
    struct kb_kivi dst;
};

#ifdef __cplusplus
}
#endif
#endif
