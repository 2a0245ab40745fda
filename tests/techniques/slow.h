/* slow.h - a decoder the slow way, in double precision, from an engine's own weights: RMS norm, rotated halves, SiLU. What
 * layers see and whose keys they read is the test's to say, so that the engine's idea of it can be wrong. */
#ifndef KVPROOF_TESTS_SLOW_H
#define KVPROOF_TESTS_SLOW_H

#include "kernels/host.h"
#include "tests/validate/tiny.h"
#include "validate/engine/internal.h"

enum { SLOW_LAYERS = 8 };

struct slow_layer {
    uint32_t owner;      /* whose k and v it reads */
    uint32_t kv_heads;   /* of those */
    uint64_t window;     /* 0: all */
};

static inline double slow_weight(const struct eng *g, enum wt_role role, uint32_t layer, uint64_t i)
{
    const struct kb_span s = weights_of(&g->w, role, layer);

    if (!s.buf) /* a check that holds is written to a file too, and this is asked element by element */
        ck_abort_msg("no weights of role %d in layer %u", (int)role, layer);
    return (double)((const float *)kb_at(s))[i];
}

static inline void slow_norm(const struct eng *g, enum wt_role role, uint32_t layer, const double *x, double *out)
{
    const uint32_t width = g->m->width;
    double sum = 0;

    for (uint32_t i = 0; i < width; i++)
        sum += x[i] * x[i];
    for (uint32_t i = 0; i < width; i++)
        out[i] = x[i] / sqrt(sum / width + g->m->norm_eps) * slow_weight(g, role, layer, i);
}

/* out[n] (+)= rows [first, first + n) of a matrix with `k` columns, times x */
static inline void slow_linear(const struct eng *g, enum wt_role role, uint32_t layer, uint64_t first, uint64_t n, uint64_t k,
                               const double *x, double *out, bool add)
{
    for (uint64_t i = 0; i < n; i++) {
        double sum = add ? out[i] : 0;

        for (uint64_t j = 0; j < k; j++)
            sum += slow_weight(g, role, layer, (first + i) * k + j) * x[j];
        out[i] = sum;
    }
}

static inline void slow_rope(const struct eng *g, double *x, uint32_t heads, uint32_t dim, uint64_t position)
{
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t i = 0; i < dim / 2; i++) {
            const double angle = (double)position * pow(g->m->rope_theta, -2.0 * i / dim), c = cos(angle), s = sin(angle);
            double *a = x + h * dim + i, *b = a + dim / 2, u = *a, v = *b;

            *a = u * c - v * s;
            *b = v * c + u * s;
        }
}

struct slow {
    uint64_t n;
    double *x;                           /* [n, width] */
    double *k[SLOW_LAYERS], *v[SLOW_LAYERS]; /* [n, kv_heads * dim] of owners */
};

static inline void slow_attend(const struct eng *g, const struct slow *s, uint32_t layer, const struct slow_layer *l, uint64_t t,
                               const double *q, double *out)
{
    const uint32_t heads = g->m->cls[0].heads, dim = g->m->cls[0].head_dim;
    const uint64_t first = l->window && t >= l->window ? t - l->window + 1 : 0, row = (uint64_t)l->kv_heads * dim;
    double *p = calloc(t + 1, sizeof(*p));

    (void)layer;
    for (uint32_t h = 0; h < heads; h++) {
        const uint64_t at = h / (heads / l->kv_heads) * (uint64_t)dim;
        double sum = 0;

        for (uint64_t j = first; j <= t; j++) {
            p[j] = 0;
            for (uint32_t i = 0; i < dim; i++)
                p[j] += q[h * dim + i] * s->k[l->owner][j * row + at + i];
            sum += p[j] = exp(p[j] / sqrt((double)dim));
        }
        for (uint32_t i = 0; i < dim; i++) {
            out[h * dim + i] = 0;
            for (uint64_t j = first; j <= t; j++)
                out[h * dim + i] += p[j] / sum * s->v[l->owner][j * row + at + i];
        }
    }
    free(p);
}

static inline void slow_mlp(const struct eng *g, uint32_t layer, double *x)
{
    const uint32_t width = g->m->width, ffn = g->m->cls[0].ffn_width;
    double *h = calloc(width, sizeof(*h)), *up = calloc(2 * (size_t)ffn, sizeof(*up));

    slow_norm(g, WT_MLP_NORM, layer, x, h);
    slow_linear(g, WT_UP, layer, 0, 2 * (uint64_t)ffn, width, h, up, false);
    for (uint32_t i = 0; i < ffn; i++)
        up[i] = up[i] / (1 + exp(-up[i])) * up[ffn + i];
    slow_linear(g, WT_DOWN, layer, 0, width, ffn, up, x, true);
    free(h);
    free(up);
}

static inline void slow_attention(const struct eng *g, struct slow *s, uint32_t layer, const struct slow_layer *l)
{
    const uint32_t width = g->m->width, heads = g->m->cls[0].heads, dim = g->m->cls[0].head_dim;
    const uint64_t q_rows = (uint64_t)heads * dim, kv = (uint64_t)l->kv_heads * dim;
    double *h = calloc(width, sizeof(*h)), *q = calloc(q_rows, sizeof(*q)), *out = calloc(q_rows, sizeof(*out));

    for (uint64_t t = 0; t < s->n; t++) {
        double *x = s->x + t * width;

        slow_norm(g, WT_ATTN_NORM, layer, x, h);
        slow_linear(g, WT_QKV, layer, 0, q_rows, width, h, q, false);
        slow_rope(g, q, heads, dim, t);
        if (l->owner == layer) {
            slow_linear(g, WT_QKV, layer, q_rows, kv, width, h, s->k[layer] + t * kv, false);
            slow_linear(g, WT_QKV, layer, q_rows + kv, kv, width, h, s->v[layer] + t * kv, false);
            slow_rope(g, s->k[layer] + t * kv, l->kv_heads, dim, t);
        }
        slow_attend(g, s, layer, l, t, q, out);
        slow_linear(g, WT_O, layer, 0, width, q_rows, out, x, true);
    }
    free(h);
    free(q);
    free(out);
}

/* logits [n, vocab] of one text, every layer over every token */
static inline void slow_forward(const struct eng *g, const struct slow_layer *l, const int32_t *ids, uint64_t n, float *logits)
{
    const uint32_t width = g->m->width, vocab = g->m->vocab;
    struct slow s = {.n = n, .x = calloc(n * width, sizeof(double))};
    double *h = calloc(width, sizeof(*h)), *out = calloc(vocab, sizeof(*out));

    ck_assert_uint_le(g->m->layers, SLOW_LAYERS);
    for (uint64_t i = 0; i < n * width; i++)
        s.x[i] = slow_weight(g, WT_EMBED, 0, (uint64_t)ids[i / width] * width + i % width);
    for (uint32_t i = 0; i < g->m->layers; i++) {
        s.k[i] = calloc(n * l[i].kv_heads * g->m->cls[0].head_dim, sizeof(double));
        s.v[i] = calloc(n * l[i].kv_heads * g->m->cls[0].head_dim, sizeof(double));
        slow_attention(g, &s, i, &l[i]);
        for (uint64_t t = 0; t < n; t++)
            slow_mlp(g, i, s.x + t * width);
    }
    for (uint64_t t = 0; t < n; t++) {
        slow_norm(g, WT_FINAL_NORM, 0, s.x + t * width, h);
        slow_linear(g, WT_HEAD, 0, 0, vocab, width, h, out, false);
        for (uint32_t i = 0; i < vocab; i++)
            logits[t * vocab + i] = (float)out[i];
    }
    for (uint32_t i = 0; i < g->m->layers; i++) {
        free(s.k[i]);
        free(s.v[i]);
    }
    free(s.x);
    free(h);
    free(out);
}

/* ---- engines of small models -------------------------------------------------------------------- */

#define SLOW_LLAMA(layers, kv, tied)                                                                              \
    "{\"model_type\":\"llama\",\"vocab_size\":61,\"hidden_size\":24,\"num_hidden_layers\":" #layers ","           \
    "\"num_attention_heads\":6,\"num_key_value_heads\":" #kv ",\"head_dim\":8,\"intermediate_size\":40,"           \
    "\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"max_position_embeddings\":256,"        \
    "\"tie_word_embeddings\":" #tied ",\"torch_dtype\":\"float32\"}"

/* An engine of `config` with `stack`, f32 throughout unless kv says otherwise; NULL and the reason in *err. */
static inline struct eng *slow_try(struct kvp_model *m, const char *config, const char *stack, struct eng_options o,
                                   const char *backend, struct kvp_error *err)
{
    struct kvp_stack s = {0};
    struct eng *g = NULL;
    char copy[256], *save = NULL;

    if (kvp_model_parse(m, config, strlen(config), "test", err) != KVP_OK)
        return NULL;
    snprintf(copy, sizeof(copy), "%s", stack);
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
        ck_assert_msg(kvp_stack_add(&s, word, err) == KVP_OK, "%s: %s", word, err->text);
    ck_assert(kb_find(&o.backend, backend, err) == KVP_OK);
    o.device.threads = 1;
    o.batch = o.batch ? o.batch : 1;
    o.seed = 7;
    if (eng_open(&g, m, &s, &o, err) != KVP_OK) {
        kvp_model_free(m);
        return NULL;
    }
    return g;
}

static inline struct eng *slow_open(struct kvp_model *m, const char *config, const char *stack, struct eng_options o,
                                    const char *backend)
{
    struct kvp_error err = {0};
    struct eng *g = slow_try(m, config, stack, o, backend, &err);

    ck_assert_msg(g != NULL, "%s: %s", stack, err.text);
    return g;
}

/* Logits [n, vocab]: `prompt` tokens at once (each row's when `all`, else the last row's alone), the rest one by one. */
static inline void slow_run(struct eng *g, const int32_t *ids, uint64_t prompt, uint64_t n, bool all, float *logits)
{
    const uint32_t vocab = g->m->vocab;
    struct kvp_error err = {0};

    must(eng_prefill(g, ids, all ? logits : NULL, logits + (prompt - 1) * vocab, &err));
    for (uint64_t t = prompt; t < n; t++)
        must(eng_decode(g, &ids[t], logits + t * vocab, &err));
}

#endif
