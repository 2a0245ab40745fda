/* parts.h - what every kind of layer is put together from, and the kinds that have files of their own */
#ifndef KVPROOF_ENGINE_PARTS_H
#define KVPROOF_ENGINE_PARTS_H

#include "validate/engine/convert.h"
#include "validate/engine/internal.h"
#include "validate/engine/shapes.h"

/* Latent attention up to its output in g->out (mla.c); g->h holds the normed rows. */
kvp_err eng_mla(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e);
/* The same with factored projections (lorc.c). */
kvp_err eng_low(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e);
/* A layer's experts and shared experts over rows [first, first + rows), at most MLP_ROWS; g->h holds them normed, the
 * residual in g->x takes what they yield (moe.c). */
kvp_err eng_experts(struct eng *g, uint32_t layer, uint64_t first, uint64_t rows, struct kvp_error *e);
/* Is the layer's feed-forward none, a dense one, or experts by a route that is known here? */
bool eng_runs_ffn(const struct kvp_model *m, const struct kvp_layer_class *c);
/* q of `heads` heads, or k, at `x`, `stride` f32 elements between rows; a head begins every `head` elements. */
kvp_err eng_turn(struct eng *g, const struct kvp_layer_class *c, uint64_t rows, struct kb_span x, uint64_t stride, uint32_t heads,
                 uint64_t head, struct kvp_error *e);

/* Attention and feed-forward of one layer, an encoder's too, over the rows of the pass. */
kvp_err eng_layer(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e);
/* The tokens' embeddings into g->x; the encoder's tables or the model's. */
kvp_err eng_embed(struct eng *g, uint64_t rows, bool encoder, struct kvp_error *e);

static inline const struct kvp_layer_class *eng_class(const struct eng *g, uint32_t layer)
{
    return layer < g->m->layers ? &g->m->cls[g->m->class_of[layer]] : wt_encoder_class(g->m, layer - g->m->layers);
}

static inline struct kb_span at(const struct led_mem *m, uint64_t f32_elements)
{
    return (struct kb_span){m->buf, f32_elements * sizeof(float)};
}

static inline struct kb_span weight(const struct eng *g, enum wt_role role, uint32_t layer)
{
    return weights_of(&g->w, role, layer);
}

static inline kvp_err norm(struct eng *g, enum kvp_op op, enum wt_role role, uint32_t layer, uint64_t rows, struct kb_span in,
                    uint64_t in_stride, struct kvp_error *e)
{
    const struct kb_norm a = {.rows = rows, .groups = 1, .width = g->m->width, .in_stride = in_stride,
                              .out_stride = g->m->width, .layer = g->m->norm == KVP_NORM_LAYER, .add_one = g->m->numbers.norm_add_one, .eps = g->m->norm_eps,
                              .format = g->w.coding.vectors, .weight = weight(g, role, layer),
                              .bias = weight(g, (enum wt_role)(role + 1), layer), .in = in, .out = at(&g->h, 0)};

    return eng_run(g, op, KB_NORM, &a, e);
}

/* Does no norm stand before a half of a layer? */
static inline bool eng_norms_behind(const struct eng *g)
{
    return g->m->numbers.norms_last || g->m->numbers.norms_only_after;
}

/* What a half of a layer reads, from row `first` on: normed rows, or where norms stand behind it the residual itself. */
static inline struct kb_span eng_half_input(const struct eng *g, uint64_t first)
{
    return at(eng_norms_behind(g) ? &g->x : &g->h, first * g->m->width);
}

static inline kvp_err eng_norm_first(struct eng *g, enum kvp_op op, enum wt_role role, uint32_t layer, uint64_t rows, struct kvp_error *e)
{
    return eng_norms_behind(g) ? KVP_OK : norm(g, op, role, layer, rows, at(&g->x, 0), g->m->width, e);
}

/* Rows [first, first + rows) of the residual, normed in their place where norms come last. */
static inline kvp_err eng_norm_last(struct eng *g, enum kvp_op op, enum wt_role role, uint32_t layer, uint64_t first, uint64_t rows,
                                    struct kvp_error *e)
{
    const struct kb_norm a = {.rows = rows, .groups = 1, .width = g->m->width, .in_stride = g->m->width, .out_stride = g->m->width,
                              .layer = g->m->norm == KVP_NORM_LAYER, .eps = g->m->norm_eps, .format = g->w.coding.vectors,
                              .weight = weight(g, role, layer), .bias = weight(g, (enum wt_role)(role + 1), layer),
                              .in = at(&g->x, first * g->m->width), .out = at(&g->x, first * g->m->width)};

    return g->m->numbers.norms_last ? eng_run(g, op, KB_NORM, &a, e) : KVP_OK;
}

/* A matrix and its shape; rows come and go with their strides. */
struct linear {
    enum kvp_op op;
    uint64_t rows;
    uint32_t n, k;
    struct kb_span w, bias, x, out;
    uint64_t x_stride, out_stride;
    bool residual;
    enum wt_role role; /* with layer: where the matrix is found when it is coded, and w.buf NULL; */
    uint32_t layer;
    uint64_t first;    /* its first row of the role's */
};

/* Rows of x times `by` in place; does nothing where it is 0 or 1 (forward.c). */
kvp_err eng_scale(struct eng *g, enum kvp_op op, struct kb_span x, uint64_t rows, uint32_t width, uint64_t stride, double by, struct kvp_error *e);

/* The product, coded or not; the engine's tap sees its input (linear.c). */
kvp_err eng_linear(struct eng *g, const struct linear *l, struct kvp_error *e);

#endif
