/* ffn.c - the feed-forward: dense, experts, shared experts. */
#include "calc/weights.h"

static void dense(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    if (c->ffn == KVP_FFN_NONE || c->ffn == KVP_FFN_RWKV || !c->ffn_width)
        return;
    if (c->ffn == KVP_FFN_GATED)
        walk_matrix(w, KVP_ROLE_FFN, "gate_proj", cls, c->count, c->ffn_width, width, c->ffn_bias);
    walk_matrix(w, KVP_ROLE_FFN, "up_proj", cls, c->count, c->ffn_width, width, c->ffn_bias);
    walk_matrix(w, KVP_ROLE_FFN, "down_proj", cls, c->count, width, c->ffn_width, c->ffn_bias);
}

void weights_ffn(struct walk *w, const struct kvp_layer_class *c, uint32_t cls, uint64_t width)
{
    dense(w, c, cls, width);
}
