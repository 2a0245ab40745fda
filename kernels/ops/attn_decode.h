/* attn_decode.h - attention of one new query per sequence over stored slots (+ one unstored row) */
#ifndef KVPROOF_OPS_ATTN_DECODE_H
#define KVPROOF_OPS_ATTN_DECODE_H

#include "kernels/backend.h"

#include "kernels/ops/kv.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_attn_decode {
    uint64_t batch;
    uint32_t heads, kv_heads, head_dim;
    float scale;
    uint64_t used;          /* stored slots [0, used) to attend to, the same for every sequence */
    uint64_t q_stride;      /* f32 elements between sequences */
    struct kb_span q;       /* f32, head h at h * head_dim */
    struct kb_kv k, v;
    struct kb_span tail_k, tail_v; /* f32, one more row per sequence that is not stored (yet), kv head
                               h at h * head_dim; optional, both or none */
    uint64_t tail_stride;
    uint64_t out_stride;
    struct kb_span out;     /* f32 [B, heads*head_dim] */
    struct kb_span probs;   /* f32 [B, heads, used (+1 with a tail, last)] softmax; optional */
    /* What follows is absent when 0; as in attn_prefill. */
    uint32_t v_dim;         /* v, tail_v and out have heads of so many */
    float softcap;
    struct kb_span slopes;  /* f32 [heads]; slot j then holds token j of the text, the tail the next */
    enum kvp_format sink_format;
    struct kb_span sinks;   /* [heads] */
};

#ifdef __cplusplus
}
#endif
#endif
