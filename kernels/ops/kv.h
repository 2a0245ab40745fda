/* kv.h - where cached keys or values lie: slots of a contiguous strip, or of pages */
#ifndef KVPROOF_OPS_KV_H
#define KVPROOF_OPS_KV_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Element (b, h, slot, x), in elements of `format` from the span's start:
 *   block == 0: ((b * heads + h) * slots + slot) * dim + x
 *   block  > 0: ((page * heads + h) * block + slot % block) * dim + x,
 *               page = table[b * table_stride + slot / block] (i32) */
struct kb_kv {
    struct kb_span data;
    enum kvp_format format;  /* F32, F16, BF16 */
    uint32_t heads, dim;
    uint64_t slots;          /* capacity per sequence when block == 0 */
    uint32_t block;
    struct kb_span table;    /* i32; only when block > 0 */
    uint64_t table_stride;
};

#ifdef __cplusplus
}
#endif
#endif
