/* ffn.c - the feed-forward: dense, experts, shared experts. A layer may have the first two side by side.
 *
 * Shapes: MixtralSparseMoeBlock, Qwen2MoeSparseMoeBlock, DeepseekV3MoE and GptOssExperts of
 * huggingface/transformers. A checkpoint may store the experts of a layer as one tensor: the same bytes. */
#include "calc/weights.h"

static void dense(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    const bool gated = c->ffn == KVP_FFN_GATED, fused = gated && c->fused_gate_up;

    if (fused)
        walk_matrix(w, KVP_ROLE_FFN, "gate_up_proj", cls, c->count, 2 * (uint64_t)c->ffn_width, width, c->ffn_bias);
    if (gated && !fused)
        walk_matrix(w, KVP_ROLE_FFN, "gate_proj", cls, c->count, c->ffn_width, width, c->ffn_bias);
    walk_matrix(w, KVP_ROLE_FFN, "up_proj", cls, c->count, fused ? 0 : c->ffn_width, width, c->ffn_bias);
    walk_matrix(w, KVP_ROLE_FFN, "down_proj", cls, c->count, width, c->ffn_width, c->ffn_bias);
}

static void expert_matrix(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, const char *name, uint64_t rows, uint64_t cols)
{
    struct weight x = {.name = name, .role = KVP_ROLE_EXPERT, .cls = cls, .count = (uint64_t)c->count * c->experts, .rows = rows,
                       .cols = cols, .linear = true, .active_of = c->experts, .active = c->experts_per_token};

    if (!x.count || !rows || !cols)
        return;
    w->each(w, &x);
    x.cols = 0;
    x.linear = false;
    x.bias = true;
    if (c->expert_bias)
        w->each(w, &x);
}

static void experts(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    const uint64_t in = c->expert_in ? c->expert_in : width;

    walk_matrix(w, KVP_ROLE_ROUTER, "router", cls, c->count, c->experts, width, c->router_bias);
    if (c->ffn == KVP_FFN_GATED)
        expert_matrix(w, c, cls, "experts.gate_proj", c->expert_width, in);
    expert_matrix(w, c, cls, "experts.up_proj", c->expert_width, in);
    expert_matrix(w, c, cls, "experts.down_proj", in, c->expert_width);
}

static void shared(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    if (c->ffn == KVP_FFN_GATED)
        walk_matrix(w, KVP_ROLE_SHARED, "shared_expert.gate_proj", cls, c->count, c->shared_width, width, false);
    walk_matrix(w, KVP_ROLE_SHARED, "shared_expert.up_proj", cls, c->count, c->shared_width, width, false);
    walk_matrix(w, KVP_ROLE_SHARED, "shared_expert.down_proj", cls, c->count, width, c->shared_width, false);
    if (c->shared_gate)
        walk_matrix(w, KVP_ROLE_ROUTER, "shared_expert_gate", cls, c->count, 1, width, false);
}

void weights_ffn(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    if (c->ffn == KVP_FFN_NONE || c->ffn == KVP_FFN_RWKV)
        return;
    if (c->ffn_width)
        dense(w, c, cls, width);
    if (!c->experts)
        return;
    experts(w, c, cls, width);
    if (c->shared_width)
        shared(w, c, cls, width);
}
