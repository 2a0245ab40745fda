/* moe_route.h - which experts a token goes to, and how much each of them counts */
#ifndef KVPROOF_OPS_MOE_ROUTE_H
#define KVPROOF_OPS_MOE_ROUTE_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* SOFTMAX: scores are the softmax of all logits (Mixtral, DeepSeek-V2). SIGMOID: of each alone (DeepSeek-V3). CHOSEN: scores are
 * the logits, and weights the softmax of the chosen ones (gpt-oss). */
enum kb_route { KB_ROUTE_SOFTMAX, KB_ROUTE_SIGMOID, KB_ROUTE_CHOSEN };

/* A token goes to the `chosen` experts of the highest score + bias; ties: the lower number. With groups, only experts of the
 * `groups_kept` best groups may be chosen: a group (experts / groups neighbours) is worth its highest score + bias, or the
 * sum of its two highest (group_pairs). Weights are scores without bias, divided by their sum when `normalise`, times scale
 * (0: 1). */
struct kb_moe_route {
    uint64_t rows;
    uint32_t experts, chosen;
    uint32_t groups, groups_kept; /* 0: no groups */
    bool group_pairs;
    enum kb_route kind;
    bool normalise;
    float scale;
    uint64_t stride;
    struct kb_span logits;   /* f32 [rows, experts] */
    enum kvp_format format;
    struct kb_span bias;     /* [experts] in format; optional */
    struct kb_span ids;      /* out, i32 [rows, chosen], best first */
    struct kb_span weights;  /* out, f32 [rows, chosen] */
};

#ifdef __cplusplus
}
#endif
#endif
