#include "validate/engine/calibrate.h"

#include "validate/engine/convert.h"
#include "validate/engine/feedback.h"

#include <stdlib.h>

enum { TOKENS = 128 };
static const double POWER = 0.5; /* of SmoothQuant: half the difficulty to the weights, as for OPT and BLOOM */

/* One role of one layer: its input and its matrices, one below the other. */
struct station {
    struct eng *to;
    enum wt_role role;
    uint32_t layer;
    const float *x; /* [n, cols] */
    float *m;       /* [rows, cols] */
    uint64_t n, rows, cols;
};

/* ---- the norm before ------------------------------------------------------------------------------ */

/* The norm with weights whose output is this role's input and nobody else's: one that both halves read is none. */
static bool norm_of(const struct station *s, enum wt_role *norm)
{
    const struct kvp_model *m = s->to->m;

    *norm = s->role == WT_QKV ? WT_ATTN_NORM : WT_MLP_NORM;
    return (s->role == WT_QKV || s->role == WT_UP) && m->norm_vectors && !m->numbers.norms_only_after &&
           !(m->numbers.parallel && m->cls[m->class_of[s->layer]].norms == 1);
}

/* `base` + the vector is what is divided. */
static kvp_err divide_vector(struct eng *g, enum wt_role role, uint32_t layer, const float *by, uint64_t n, float base, struct kvp_error *e)
{
    const struct kb_span at = weights_of(&g->w, role, layer);
    const enum kvp_format f = g->coding.vectors;
    unsigned char *v;
    kvp_err rc;

    if (!at.buf)
        return KVP_OK;
    v = malloc(n * cvt_size(f));
    if (!v)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a norm");
    rc = g->o.backend->read(g->dev, at, v, n * cvt_size(f), e);
    for (uint64_t i = 0; rc == KVP_OK && i < n; i++)
        cvt_store(f, v + i * cvt_size(f), (base + cvt_load(f, v + i * cvt_size(f))) / by[i] - base);
    if (rc == KVP_OK)
        rc = g->o.backend->write(g->dev, at, v, n * cvt_size(f), e);
    free(v);
    return rc;
}

/* Channels of the input smaller by `by`, which the norm before sees to, columns of the matrices larger by it. */
static kvp_err move_scales(const struct station *s, enum wt_role norm, const float *by, struct kvp_error *e)
{
    for (uint64_t i = 0; i < s->rows * s->cols; i++)
        s->m[i] *= by[i % s->cols];
    KVP_TRY(divide_vector(s->to, norm, s->layer, by, s->cols, s->to->m->numbers.norm_add_one ? 1 : 0, e));
    return divide_vector(s->to, (enum wt_role)(norm + 1), s->layer, by, s->cols, 0, e);
}

/* ---- methods -------------------------------------------------------------------------------------- */

/* The codes of one matrix as stored: the grid's, or without one those nearest to its numbers. */
static kvp_err store(const struct station *s, const struct wt_coded *m, const struct grid *g, struct kvp_error *e)
{
    const struct wt_coding *c = &s->to->coding;
    void *part[WT_PARTS] = {NULL};
    kvp_err rc = KVP_OK;

    for (int p = 0; p < WT_PARTS && rc == KVP_OK; p++)
        if (m->part[p].bytes && !(part[p] = malloc(m->part[p].bytes)))
            rc = kvp_fail(e, KVP_ENOMEM, "out of memory for a coded matrix");
    if (rc == KVP_OK) {
        if (!g)
            wt_encode(part, c, s->m + m->first * s->cols, m->rows, m->cols);
        else
            (c->coding == KB_CODING_GPTQ ? wt_pack_gptq : wt_pack_awq)(part, c, g->code, g->scale, g->zero, m->rows, m->cols);
        rc = weights_put(&s->to->w, m, part, e);
    }
    for (int p = 0; p < WT_PARTS; p++)
        free(part[p]);
    return rc;
}

/* Rounded with feedback by `factor`, or to nearest without. */
static kvp_err code_matrices(const struct station *s, const double *factor, struct kvp_error *e)
{
    const struct wt_coding *c = &s->to->coding;
    uint32_t n;
    const struct wt_coded *m = weights_coded(&s->to->w, s->role, s->layer, &n);
    kvp_err rc = KVP_OK;

    for (uint32_t i = 0; i < n && rc == KVP_OK; i++) {
        const float *rows = s->m + m[i].first * s->cols;
        struct grid g;

        KVP_TRY(grid_open(&g, c->bits, c->group, m[i].rows, m[i].cols, e));
        if (factor)
            rc = gptq_round(&g, rows, m[i].rows, m[i].cols, factor, e);
        else
            grid_round(&g, rows, m[i].rows, m[i].cols);
        if (rc == KVP_OK)
            rc = store(s, &m[i], &g, e);
        grid_close(&g);
    }
    return rc;
}

static kvp_err by_gptq(const struct station *s, struct kvp_error *e)
{
    double *factor;
    kvp_err rc;

    KVP_TRY(gptq_factor(&factor, s->x, s->n, s->cols, e));
    rc = code_matrices(s, factor, e);
    free(factor);
    return rc;
}

static kvp_err by_awq(const struct station *s, struct kvp_error *e)
{
    enum wt_role norm;
    float *scales;
    kvp_err rc;

    if (!norm_of(s, &norm))
        return code_matrices(s, NULL, e);
    scales = malloc(s->cols * sizeof(*scales));
    if (!scales)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for scales");
    rc = awq_scales(scales, s->m, s->rows, s->cols, s->x, s->n, s->to->coding.bits, s->to->coding.group, e);
    if (rc == KVP_OK)
        rc = move_scales(s, norm, scales, e);
    if (rc == KVP_OK)
        rc = code_matrices(s, NULL, e);
    free(scales);
    return rc;
}

static kvp_err by_smoothing(const struct station *s, struct kvp_error *e)
{
    uint32_t n;
    const struct wt_coded *m = weights_coded(&s->to->w, s->role, s->layer, &n);
    enum wt_role norm;

    if (norm_of(s, &norm)) {
        float *scales = malloc(s->cols * sizeof(*scales));
        kvp_err rc;

        if (!scales)
            return kvp_fail(e, KVP_ENOMEM, "out of memory for scales");
        smooth_scales(scales, s->m, s->rows, s->cols, s->x, s->n, POWER);
        rc = move_scales(s, norm, scales, e);
        free(scales);
        KVP_TRY(rc);
    }
    for (uint32_t i = 0; i < n; i++)
        KVP_TRY(store(s, &m[i], NULL, e));
    return KVP_OK;
}

/* ---- the run -------------------------------------------------------------------------------------- */

static kvp_err read_rows(struct eng *from, struct kb_span at, uint64_t stride, uint64_t rows, uint64_t cols, float *to, struct kvp_error *e)
{
    for (uint64_t r = 0; r < rows; r++, at.offset += stride * sizeof(float))
        KVP_TRY(from->o.backend->read(from->dev, at, to + r * cols, cols * sizeof(float), e));
    return KVP_OK;
}

/* eng.tap: `from` is about to multiply `x` with this role's matrices. */
static kvp_err tap(void *self, struct eng *from, enum wt_role role, uint32_t layer, struct kb_span x, uint64_t stride, uint64_t n,
                   struct kvp_error *e)
{
    static kvp_err (*const methods[])(const struct station *, struct kvp_error *) = {[WT_GPTQ] = by_gptq, [WT_AWQ] = by_awq,
                                                                                              [WT_SMOOTH] = by_smoothing};
    struct eng *to = self;
    struct station s = {.to = to, .role = role, .layer = layer, .n = n};
    uint32_t matrices;
    const struct wt_coded *m = weights_coded(&to->w, role, layer, &matrices);
    float *rows;
    kvp_err rc;

    if (!matrices)
        return KVP_OK;
    s.cols = m->cols;
    s.rows = m[matrices - 1].first + m[matrices - 1].rows;
    rows = malloc(n * s.cols * sizeof(*rows));
    s.x = rows;
    s.m = malloc(s.rows * s.cols * sizeof(*s.m));
    rc = rows && s.m ? read_rows(from, x, stride, n, s.cols, rows, e) : kvp_fail(e, KVP_ENOMEM, "out of memory to calibrate");
    if (rc == KVP_OK)
        rc = read_rows(from, weights_of(&from->w, role, layer), s.cols, s.rows, s.cols, s.m, e);
    if (rc == KVP_OK)
        rc = methods[to->coding.method](&s, e);
    free(rows);
    free(s.m);
    return rc;
}

kvp_err calibrate(struct eng *g, struct kvp_error *e)
{
    static const struct kvp_stack dense;
    struct eng_options o = {.backend = g->o.backend, .device = g->o.device, .batch = 1, .prompt = TOKENS, .seed = g->o.seed,
                            .weights_dir = g->o.weights_dir};
    int32_t ids[TOKENS];
    uint32_t x = (uint32_t)g->o.seed;
    struct eng *whole;
    kvp_err rc;

    if (g->m->position == KVP_POS_LEARNED && g->m->max_positions < o.prompt)
        o.prompt = g->m->max_positions;
    for (int i = 0; i < TOKENS; i++) { /* Numerical Recipes' LCG, its upper bits */
        x = x * 1664525u + 1013904223u;
        ids[i] = (int32_t)((uint64_t)x * g->m->vocab >> 32);
    }
    KVP_TRY(eng_open(&whole, g->m, &dense, &o, e));
    whole->tap = tap;
    whole->tap_self = g;
    rc = eng_prefill(whole, ids, NULL, NULL, e);
    eng_close(whole);
    return rc;
}
