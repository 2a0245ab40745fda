/* cross.c - attention over an encoder's output, and the encoder itself.
 *
 * In prefill the encoder runs once over plan->encoder_tokens, and every decoder layer projects its output to
 * k and v once, into the cache. Each token then brings a query only, and reads all of those rows. The
 * encoder's attention has no mask: every query sees every key. An audio encoder's rows come of two convolutions
 * over three frames each, of which the second halves their number. */
#include "calc/ops/pass.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of the encoder's k and v as this class keeps them, one layer. */
static uint64_t kept(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < c->n_parts; i++)
        if (strncmp(c->parts[i].name, "cross_", 6) == 0)
            bytes = sum(s, bytes, num_mul(&s->o->over, part_bytes(&s->o->over, &c->parts[i], s->p->encoder_tokens), s->B));
    return bytes;
}

static struct cost linear(const struct pass *s, uint64_t rows, uint64_t in, uint64_t out, bool bias)
{
    const uint64_t flops = NUM_PROD(&s->o->over, 2, rows, in, out);
    const uint64_t weights = sum(s, pass_weights(s, KVP_ROLE_ATTN, out, in), bias ? pass_plain(s, out) : 0);

    return (struct cost){flops, flops, sum(s, weights, prod3(s, F, rows, in)), prod3(s, F, rows, out)};
}

static void cross_norm(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    const uint64_t width = s->p->model->width, rows = prod3(s, F, s->N, width);

    if (c->model->mixer == KVP_MIX_NONE && c->model->recurrent == KVP_REC_NONE)
        pass_stream(s, KVP_OP_ATTN_NORM, cls, c->alike, s->N, width, width, pass_norm_weights(s));
    else
        ops_more(s->o, KVP_OP_ATTN_NORM, s->phase, cls, (struct cost){.read = sum(s, rows, pass_norm_weights(s)), .written = rows});
}

void ops_cross(const struct pass *s, uint32_t cls)
{
    const struct plan_class *c = &s->p->cls[cls];
    const struct kvp_layer_class *m = c->model;
    const uint64_t width = s->p->model->width, in = m->cross_in ? m->cross_in : width, tokens = s->p->encoder_tokens;
    const uint64_t q = (uint64_t)m->cross_heads * m->cross_head_dim, kv = (uint64_t)m->cross_kv_heads * m->cross_head_dim;
    const uint64_t rows = prod3(s, F, s->N, q);
    struct cost proj;

    if (!m->cross_heads)
        return;
    cross_norm(s, cls);
    proj = linear(s, s->N, width, q, m->qkv_bias);
    if (s->phase == KVP_PREFILL && s->first && tokens) {
        const struct cost x = linear(s, num_mul(&s->o->over, s->B, tokens), in, 2 * kv, m->qkv_bias);

        proj.flops = proj.flops_full = sum(s, proj.flops, x.flops);
        proj.read = sum(s, proj.read, x.read);
        proj.written = sum(s, proj.written, kept(s, cls));
    }
    ops_add(s->o, KVP_OP_CROSS_QKV, s->phase, cls, c->alike, proj);
    ops_add(s->o, KVP_OP_CROSS_ATTN, s->phase, cls, c->alike,
            (struct cost){NUM_PROD(&s->o->over, 4, s->N, q, tokens), NUM_PROD(&s->o->over, 4, s->N, q, tokens), sum(s, rows, kept(s, cls)), rows});
    pass_linear(s, KVP_OP_CROSS_O, KVP_ROLE_ATTN, cls, c->alike, s->N, q, width, m->o_bias, true);
}

/* ---- the encoder ----------------------------------------------------------------------------------------- */

static void encoder_layer(const struct pass *s, const struct kvp_layer_class *c, uint64_t width)
{
    const uint64_t q = (uint64_t)c->heads * c->head_dim, kv = (uint64_t)c->kv_heads * c->head_dim, n = c->count;
    const uint64_t up = c->ffn == KVP_FFN_GATED ? 2 : 1, ffn = c->ffn_width;
    const uint64_t flops = NUM_PROD(&s->o->over, 4, s->N, q, s->T);

    pass_stream(s, KVP_OP_ENCODE, 0, n, s->N, width, width, pass_plain(s, (uint64_t)s->p->model->norm_vectors * width));
    pass_linear(s, KVP_OP_ENCODE, KVP_ROLE_ATTN, 0, n, s->N, width, q + 2 * kv, c->qkv_bias, false);
    ops_add(s->o, KVP_OP_ENCODE, s->phase, 0, n, (struct cost){flops, flops, prod3(s, F, s->N, q + 2 * kv), prod3(s, F, s->N, q)});
    pass_linear(s, KVP_OP_ENCODE, KVP_ROLE_ATTN, 0, n, s->N, q, width, c->o_bias, true);
    pass_stream(s, KVP_OP_ENCODE, 0, n, s->N, width, width, pass_plain(s, (uint64_t)s->p->model->norm_vectors * width));
    pass_linear(s, KVP_OP_ENCODE, KVP_ROLE_FFN, 0, n, s->N, width, up * ffn, c->ffn_bias, false);
    pass_stream(s, KVP_OP_ENCODE, 0, n, s->N, up * ffn, ffn, 0);
    pass_linear(s, KVP_OP_ENCODE, KVP_ROLE_FFN, 0, n, s->N, ffn, width, c->ffn_bias, true);
}

/* `rows` of `out` channels, each of 3 * `in`; `frames` of `in` are read. */
static void convolution(const struct pass *s, uint64_t frames, uint64_t rows, uint64_t in, uint64_t out)
{
    const uint64_t taps = num_mul(&s->o->over, 3, in), flops = NUM_PROD(&s->o->over, 2, rows, taps, out);
    const uint64_t weights = sum(s, store_bytes(&s->o->over, &s->p->weights, KVP_ROLE_SMALL, out, taps, false), pass_plain(s, out));

    ops_add(s->o, KVP_OP_ENCODE, s->phase, 0, 1, (struct cost){flops, flops, sum(s, weights, prod3(s, F, frames, in)), prod3(s, F, rows, out)});
}

static void frames_to_rows(const struct pass *s, uint64_t channels, uint64_t width)
{
    const uint64_t frames = num_mul(&s->o->over, 2, s->N);

    if (!channels)
        return;
    convolution(s, frames, frames, channels, width);
    convolution(s, frames, s->N, width, width);
}

/* Its ops are listed apart, then added up: the encoder is one op. */
void ops_encoder(const struct pass *s)
{
    const struct kvp_model *m = s->p->model;
    const uint64_t width = m->encoder_width ? m->encoder_width : m->width, tokens = s->p->encoder_tokens;
    struct ops each = {0};
    const struct pass e = {.o = &each, .p = s->p, .phase = s->phase, .B = s->B, .T = tokens, .N = num_mul(&s->o->over, s->B, tokens),
                           .first = true, .last = true, .whole = true};
    struct cost all = {0};

    if (!m->encoders || !tokens)
        return;
    frames_to_rows(&e, m->encoder_channels, width);
    pass_stream(&e, KVP_OP_ENCODE, 0, 1, e.N, 0, width, pass_plain(&e, prod3(&e, m->encoder_rows ? 2 : 1, e.N, width)));
    for (uint32_t i = 0; i < m->encoders; i++)
        encoder_layer(&e, &m->encoder[i], width);
    for (uint32_t i = 0; i < each.n; i++) {
        all.flops = sum(s, all.flops, each.v[i].flops);
        all.flops_full = sum(s, all.flops_full, each.v[i].flops_full);
        all.read = sum(s, all.read, each.v[i].read_bytes);
        all.written = sum(s, all.written, each.v[i].written_bytes);
    }
    s->o->over |= each.over;
    s->o->oom |= each.oom;
    ops_free(&each);
    ops_add(s->o, KVP_OP_ENCODE, s->phase, UINT32_MAX, 1, all);
}
