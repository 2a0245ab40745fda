/* linear.c - rows through a matrix, plain or coded */
#include "validate/engine/parts.h"

/* The product's input in int8, a scale a row. */
static kvp_err quantize_input(struct eng *g, const struct linear *l, struct kb_gemm *a, struct kvp_error *e)
{
    const struct kb_quant_rows q = {.rows = l->rows, .width = l->k, .x_stride = l->x_stride, .x = l->x,
                                    .codes = {g->input_codes.buf, 0}, .scale = {g->input_scales.buf, 0}};

    a->x = q.codes;
    a->x_stride = l->k;
    return eng_run(g, KVP_OP_QUANT_ACT, KB_QUANT_ROWS, &q, e);
}

/* Matrix by matrix, each with its own rows of the output. */
static kvp_err coded_linear(struct eng *g, const struct linear *l, struct kb_gemm a, struct kvp_error *e)
{
    uint32_t n;
    const struct wt_coded *m = weights_coded(&g->w, l->role, l->layer, &n);

    if (!n)
        return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not code the weights of %s", g->m->name, kvp_op_name(l->op));
    if (g->coding.coding == KB_CODING_W8A8)
        KVP_TRY(quantize_input(g, l, &a, e));
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t row = m[i].first - l->first;

        if (m[i].first + m[i].rows <= l->first || m[i].first >= l->first + l->n)
            continue;
        if (m[i].first < l->first || row + m[i].rows > l->n)
            return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not multiply a part of a coded matrix", g->m->name);
        a.n = m[i].rows;
        a.format = g->w.coding.format;
        a.code = weights_code(&g->w, &m[i]);
        a.code.x_scale = (struct kb_span){g->input_scales.buf, 0};
        a.w = (struct kb_span){m[i].part[WT_CODE].buf, 0};
        a.bias.offset = l->bias.offset + row * cvt_size(g->w.coding.vectors);
        a.out.offset = l->out.offset + row * sizeof(float);
        KVP_TRY(eng_run(g, l->op, KB_GEMM, &a, e));
    }
    return KVP_OK;
}

kvp_err eng_linear(struct eng *g, const struct linear *l, struct kvp_error *e)
{
    const struct kb_gemm a = {.m = l->rows, .n = l->n, .k = l->k, .x_stride = l->x_stride, .out_stride = l->out_stride,
                              .accumulate = l->residual, .format = g->w.coding.plain, .x = l->x, .w = l->w, .bias = l->bias,
                              .out = l->out, .work = at(&g->scratch, 0), .work_bytes = g->scratch.bytes};

    if (g->tap && l->role >= WT_LAYER_ROLES)
        KVP_TRY(g->tap(g->tap_self, g, l->role, l->layer, l->x, l->x_stride, l->rows, e));
    return l->w.buf ? eng_run(g, l->op, KB_GEMM, &a, e) : coded_linear(g, l, a, e);
}
