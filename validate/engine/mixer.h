/* mixer.h - layers that keep a state of fixed size instead of keys and values: one row of mixers.c's table for each
 * kind of recurrence, its steps in a file of its own (mamba.c, rwkv.c, delta.c).
 *
 * A layer's state is two tensors, tagged STATE: the window (columns of a convolution, or RWKV's two shifted tokens)
 * in the weights' format, and the matrix in f32 unless the config says otherwise. Written from the papers and the
 * models' own code, as docs/techniques/recurrent.md and techniques.md name them. */
#ifndef KVPROOF_ENGINE_MIXER_H
#define KVPROOF_ENGINE_MIXER_H

#include "validate/engine/rewrite.h"
#include "validate/engine/weights.h"

struct eng;
struct pass;

/* What a layer keeps, and needs for one token while it runs. All in elements. */
struct mixer_size {
    uint64_t window, matrix; /* of a sequence */
    uint64_t row;            /* of the projections: f32, [rows, row] */
    uint64_t out;            /* of what goes into the output projection: f32, [rows, out] */
};

struct mixer_ops {
    enum kvp_recurrent kind;
    struct mixer_size (*size)(const struct kvp_model *m, const struct kvp_layer_class *c);
    /* The layer's input, normed, is in g->h; adds to g->x. */
    kvp_err (*run)(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e);
    /* A new matrix, where it is not all zeros: f32 [batch, size.matrix] on the host. NULL: zeros. */
    void (*start)(const struct kvp_layer_class *c, float *matrix, uint64_t batch);
};

extern const struct mixer_ops mixer_mamba, mixer_mamba2, mixer_rwkv4, mixer_rwkv5, mixer_rwkv6, mixer_rwkv7, mixer_delta;

/* What the engine holds for its recurrent layers. */
struct mixer_layer {
    struct led_mem window, matrix;
    struct led_mem window_mark, matrix_mark; /* of one sequence, as they were behind the prefix that others begin with */
};
struct mixers {
    struct led_mem in, out;     /* activations of the layer at work: [rows, row], [rows, width] */
    uint64_t row, width;        /* the widest layer's, which all use as a stride */
    struct mixer_layer *layer;  /* [layers]; NULL: no layer is recurrent */
    enum kvp_format matrix;     /* how matrices are stored */
};

/* Does the engine run this class, its feed-forward included? */
bool mixers_run(const struct kvp_model *m, const struct kvp_layer_class *c);

kvp_err mixers_open(struct eng *g, struct kvp_error *e);
void mixers_close(struct eng *g);
kvp_err mixers_reset(struct eng *g, struct kvp_error *e); /* nothing seen */
/* The state of `sequence` is set aside, or becomes what was set aside; where nothing is kept they do nothing. */
kvp_err mixers_mark(struct eng *g, uint64_t sequence, struct kvp_error *e);
kvp_err mixers_go_on(struct eng *g, uint64_t sequence, struct kvp_error *e);

kvp_err mixers_layer(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e);
/* RWKV's channel mix, the feed-forward of KVP_FFN_RWKV. */
kvp_err mixers_channels(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e);

/* ---- for mamba.c, rwkv.c and delta.c ---------------------------------------------------------------------- */

/* A matrix [n, k] of a layer: x's rows through it to out. */
struct mixer_product {
    enum kvp_op op;
    enum wt_role w;
    uint64_t w_at; /* its first element, where it is one of several */
    int bias;      /* a role, or -1 */
    uint64_t rows;
    uint64_t n, k;
    struct kb_span x, out;
    uint64_t x_stride, out_stride;
    bool residual;
};
kvp_err mixer_product(struct eng *g, uint32_t layer, const struct mixer_product *l, struct kvp_error *e);

/* The channel mix of rows that are normed already. */
kvp_err rwkv_channels(struct eng *g, uint32_t layer, const struct pass *p, struct kvp_error *e);

const struct kvp_layer_class *mixer_class(const struct eng *g, uint32_t layer);
/* The states of the pass's sequences, from byte `at` of the first one's window on. */
struct kb_span mixer_window(const struct eng *g, uint32_t layer, const struct pass *p, uint64_t at);
struct kb_span mixer_matrix(const struct eng *g, uint32_t layer, const struct pass *p);
struct kb_span mixer_at(const struct led_mem *m, uint64_t f32_elements);
struct kb_span mixer_weight(const struct eng *g, enum wt_role role, uint32_t layer);

/* The technique `recurrent`, for rewrite.c's table. */
kvp_err rewrite_recurrent(struct rewritten *r, const struct kvp_spec *s, struct kvp_error *e);

#endif
