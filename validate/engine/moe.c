/* moe.c - a feed-forward of experts: the router's logits, the experts of each row, their products, and shared experts that
 * every row goes through */
#include "validate/engine/parts.h"

static const enum kb_act_kind kinds[] = {[KVP_ACT_SILU] = KB_ACT_SILU, [KVP_ACT_GELU_TANH] = KB_ACT_GELU_TANH,
                                         [KVP_ACT_GELU] = KB_ACT_GELU, [KVP_ACT_RELU] = KB_ACT_RELU,
                                         [KVP_ACT_RELU2] = KB_ACT_RELU2};

bool eng_runs_ffn(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    const struct kvp_numbers *n = &m->numbers;
    const uint32_t groups = n->route_groups ? n->route_groups : 1, per = c->experts / groups;

    if (!c->experts)
        return (c->ffn_width || c->ffn == KVP_FFN_NONE) && !c->shared_width;
    return n->route != KVP_ROUTE_UNKNOWN && !c->ffn_width && (c->ffn == KVP_FFN_GATED || c->ffn == KVP_FFN_PLAIN) && !c->expert_in &&
           c->experts_per_token <= c->experts && c->experts % groups == 0 &&
           (!n->route_groups || (n->route_groups_kept && n->route_groups_kept <= groups &&
                                 c->experts_per_token <= per * n->route_groups_kept && (!n->route_pairs || per >= 2)));
}

static kvp_err route(struct eng *g, uint32_t layer, const struct kvp_layer_class *c, uint64_t first, uint64_t rows, struct kvp_error *e)
{
    static const enum kb_route routes[] = {[KVP_ROUTE_SOFTMAX] = KB_ROUTE_SOFTMAX, [KVP_ROUTE_SIGMOID] = KB_ROUTE_SIGMOID,
                                           [KVP_ROUTE_CHOSEN] = KB_ROUTE_CHOSEN};
    const struct kvp_numbers *n = &g->m->numbers;
    const bool corrects = n->route == KVP_ROUTE_SIGMOID; /* the bias turns the choice only; elsewhere it is the product's */
    const uint32_t width = g->m->width;
    const struct kb_span bias = weight(g, WT_ROUTER_BIAS, layer), none = {0};
    const struct linear logits = {.op = KVP_OP_ROUTER, .rows = rows, .n = c->experts, .k = width, .w = weight(g, WT_ROUTER, layer),
                                  .bias = corrects ? none : bias, .x = at(&g->h, first * width), .x_stride = width,
                                  .out = at(&g->router, 0), .out_stride = c->experts};
    const struct kb_moe_route a = {.rows = rows, .experts = c->experts, .chosen = c->experts_per_token, .groups = n->route_groups,
                                   .groups_kept = n->route_groups_kept, .group_pairs = n->route_pairs, .kind = routes[n->route],
                                   .normalise = n->route_normalise, .scale = (float)n->route_scale, .stride = c->experts,
                                   .logits = at(&g->router, 0), .format = g->w.coding.vectors, .bias = corrects ? bias : none,
                                   .ids = at(&g->routed, 0), .weights = at(&g->routed, rows * c->experts_per_token)};

    KVP_TRY(eng_linear(g, &logits, e));
    return eng_run(g, KVP_OP_ROUTER, KB_MOE_ROUTE, &a, e);
}

/* Gate and up of `width` channels, or up alone. */
static uint32_t up_width(const struct kvp_layer_class *c, uint32_t width)
{
    return c->ffn == KVP_FFN_GATED ? 2 * width : width;
}

static struct kb_act activation(const struct eng *g, const struct kvp_layer_class *c, uint64_t rows, uint32_t width, const struct led_mem *m)
{
    const struct kvp_numbers *n = &g->m->numbers;
    const uint64_t stride = up_width(c, width);
    struct kb_act a = {.rows = rows, .width = width, .gated = c->ffn == KVP_FFN_GATED, .kind = kinds[c->act], .in_stride = stride, .out_stride = stride,
                       .in = at(m, 0), .out = at(m, 0)};

    if (n->swiglu_limit > 0) {
        a.kind = KB_ACT_SWIGLU_CLAMPED;
        a.alpha = (float)n->swiglu_alpha;
        a.limit = (float)n->swiglu_limit;
    }
    return a;
}

static kvp_err routed(struct eng *g, uint32_t layer, const struct kvp_layer_class *c, uint64_t first, uint64_t rows, struct kvp_error *e)
{
    const uint32_t width = g->m->width, k = c->experts_per_token, wide = up_width(c, c->expert_width);
    const struct kb_act act = activation(g, c, rows * k, c->expert_width, &g->expert_up);
    const struct kb_span weights = at(&g->routed, rows * k), none = {0}; /* a product's row times its weight is its input times it */
    const struct kb_moe_gemm up = {.rows = rows, .experts = c->experts, .chosen = k, .n = wide, .k = width,
                                   .format = g->w.coding.plain, .w = weight(g, WT_EXPERT_UP, layer), .bias = weight(g, WT_EXPERT_UP_BIAS, layer),
                                   .ids = at(&g->routed, 0), .x_stride = width, .out_stride = wide,
                                   .x = at(&g->h, first * width), .out = at(&g->expert_up, 0),
                                   .weights = g->m->numbers.route_first ? weights : none};
    const struct kb_moe_gemm down = {.rows = rows, .experts = c->experts, .chosen = k, .n = width, .k = c->expert_width,
                                     .format = g->w.coding.plain, .w = weight(g, WT_EXPERT_DOWN, layer),
                                     .bias = weight(g, WT_EXPERT_DOWN_BIAS, layer), .ids = at(&g->routed, 0), .x_each = true,
                                     .x_stride = wide, .out_stride = width, .x = at(&g->expert_up, 0),
                                     .out = at(&g->x, first * width), .accumulate = true,
                                     .weights = g->m->numbers.route_first ? none : weights};

    KVP_TRY(eng_run(g, KVP_OP_MLP_UP, KB_MOE_GEMM, &up, e));
    KVP_TRY(eng_run(g, KVP_OP_MLP_ACT, KB_ACT, &act, e));
    KVP_TRY(eng_scale(g, KVP_OP_MLP_ACT, at(&g->expert_up, 0), rows * k, c->expert_width, wide, g->m->numbers.residual_scale, e));
    return eng_run(g, KVP_OP_MLP_DOWN, KB_MOE_GEMM, &down, e);
}

/* What the shared experts count for each row: a router of one expert. */
static kvp_err share_of(struct eng *g, uint32_t layer, uint64_t first, uint64_t rows, struct kvp_error *e)
{
    const uint32_t width = g->m->width;
    const struct linear logits = {.op = KVP_OP_ROUTER, .rows = rows, .n = 1, .k = width, .w = weight(g, WT_SHARED_SCALE, layer),
                                  .x = at(&g->h, first * width), .x_stride = width, .out = at(&g->router, 0), .out_stride = 1};
    const struct kb_moe_route a = {.rows = rows, .experts = 1, .chosen = 1, .kind = KB_ROUTE_SIGMOID, .stride = 1,
                                   .logits = at(&g->router, 0), .ids = at(&g->routed, 0), .weights = at(&g->routed, rows)};

    KVP_TRY(eng_linear(g, &logits, e));
    return eng_run(g, KVP_OP_ROUTER, KB_MOE_ROUTE, &a, e);
}

static kvp_err shared(struct eng *g, uint32_t layer, const struct kvp_layer_class *c, uint64_t first, uint64_t rows, struct kvp_error *e)
{
    const uint32_t width = g->m->width, wide = up_width(c, c->shared_width);
    const struct kb_act act = activation(g, c, rows, c->shared_width, &g->mlp);
    const struct linear up = {.op = KVP_OP_MLP_UP, .rows = rows, .n = wide, .k = width, .w = weight(g, WT_SHARED_UP, layer),
                              .x = at(&g->h, first * width), .x_stride = width, .out = at(&g->mlp, 0), .out_stride = wide};
    const struct linear down = {.op = KVP_OP_MLP_DOWN, .rows = rows, .n = width, .k = c->shared_width, .w = weight(g, WT_SHARED_DOWN, layer),
                                .x = at(&g->mlp, 0), .x_stride = wide, .out = at(&g->x, first * width), .out_stride = width,
                                .residual = true};
    const struct kb_moe_gemm weighed = {.rows = rows, .experts = 1, .chosen = 1, .n = width, .k = c->shared_width,
                                        .format = g->w.coding.plain, .w = down.w, .ids = at(&g->routed, 0), .x_stride = wide,
                                        .out_stride = width, .x = down.x, .out = down.out, .weights = at(&g->routed, rows),
                                        .accumulate = true};

    KVP_TRY(eng_linear(g, &up, e));
    KVP_TRY(eng_run(g, KVP_OP_MLP_ACT, KB_ACT, &act, e));
    KVP_TRY(eng_scale(g, KVP_OP_MLP_ACT, at(&g->mlp, 0), rows, c->shared_width, wide, g->m->numbers.residual_scale, e));
    if (!c->shared_gate)
        return eng_linear(g, &down, e);
    KVP_TRY(share_of(g, layer, first, rows, e));
    return eng_run(g, KVP_OP_MLP_DOWN, KB_MOE_GEMM, &weighed, e);
}

kvp_err eng_experts(struct eng *g, uint32_t layer, uint64_t first, uint64_t rows, struct kvp_error *e)
{
    const struct kvp_layer_class *c = &g->m->cls[g->m->class_of[layer]];

    KVP_TRY(route(g, layer, c, first, rows, e));
    KVP_TRY(routed(g, layer, c, first, rows, e));
    return c->shared_width ? shared(g, layer, c, first, rows, e) : KVP_OK;
}
