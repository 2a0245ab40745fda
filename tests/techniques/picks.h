/* picks.h - slow references for caches that choose among a prompt's tokens once, at its end
 *
 * The choice follows FasterDecoding/SnapKV snapkv_utils.py (update_kv): softmax of the last `window` queries, their sum,
 * pooling with stride 1 and padding kernel/2, the best of each head and the window. With grouped heads the sums of a kv
 * head's query heads are added before pooling (KVCache-Factory _grouped_window_attn_cache, whose mean orders alike). */
#ifndef PICKS_H
#define PICKS_H

#include "tests/techniques/rig.h"

#define PICKS_MOST 128

struct picks_case {
    struct rig_case c;
    uint64_t window, kernel;
    bool average, query;
    uint64_t kept[RIG_LAYERS]; /* of the prompt, by hand; 0: the layer keeps its own window */
};

struct picks {
    uint64_t n, token[PICKS_MOST];
};

struct picks_model {
    const struct picks_case *k;
    struct picks *set; /* [layers][batch][heads, as stored] */
};

static inline uint32_t picks_heads(const struct picks_case *k, uint32_t layer)
{
    return k->query && k->kept[layer] ? k->c.heads : k->c.kv_heads;
}

static inline struct picks *picks_at(const struct picks_model *m, uint32_t layer, uint64_t b, uint32_t head)
{
    return &m->set[(layer * m->k->c.batch + b) * m->k->c.heads + head];
}

/* Probabilities of query t of head h over tokens [0, t]; nothing is stored yet, so nothing is rounded. */
static inline void picks_softmax(const struct rig *r, uint32_t layer, uint64_t b, uint64_t t, uint32_t h, double *p)
{
    const uint32_t g = h / (r->c->heads / r->c->kv_heads);
    double top = -HUGE_VAL, sum = 0;

    for (uint64_t j = 0; j <= t; j++) {
        p[j] = 0;
        for (uint32_t d = 0; d < r->c->dim; d++)
            p[j] += (double)rig_q(r, layer, b, t, h)[d] * (double)rig_k(r, layer, b, j, g)[d];
        p[j] /= sqrt((double)r->c->dim);
        top = fmax(top, p[j]);
    }
    for (uint64_t j = 0; j <= t; j++)
        sum += p[j] = exp(p[j] - top);
    for (uint64_t j = 0; j <= t; j++)
        p[j] /= sum;
}

/* Pooled scores of query heads [h0, h1) together for the first `columns` tokens. */
static inline void picks_scores(const struct rig *r, const struct picks_case *k, uint32_t layer, uint64_t b, uint32_t h0, uint32_t h1,
                                uint64_t columns, double *out)
{
    const uint64_t prompt = r->c->prompt, window = k->window < prompt ? k->window : prompt;
    double p[PICKS_MOST], sum[PICKS_MOST] = {0};

    for (uint32_t h = h0; h < h1; h++)
        for (uint64_t t = prompt - window; t < prompt; t++) {
            picks_softmax(r, layer, b, t, h, p);
            for (uint64_t j = 0; j < columns && j <= t; j++)
                sum[j] += p[j];
        }
    for (uint64_t j = 0; j < columns; j++) {
        out[j] = 0;
        for (int64_t l = (int64_t)j - (int64_t)k->kernel / 2, i = 0; i < (int64_t)k->kernel; i++, l++) {
            const double x = l < 0 || l >= (int64_t)columns ? 0 : sum[l];

            out[j] = k->average ? out[j] + x / (double)k->kernel : fmax(out[j], x);
        }
    }
}

/* Is token j among the n best? Equal scores (a pooled maximum that neighbours share): the earlier one. Inputs were
 * chosen so that no other two are closer than what f32 sums can turn round. */
static inline bool picks_best(const struct rig *r, const double *score, uint64_t columns, uint64_t n, uint64_t j)
{
    uint64_t better = 0;

    for (uint64_t i = 0; i < columns; i++) {
        better += score[i] > score[j] || (score[i] == score[j] && i < j);
        ck_assert_msg(fabs(score[i] - score[j]) < 1e-13 || fabs(score[i] - score[j]) > 1e-7 || n == 0 || n == columns,
                      "%s: the input ties: %llu and %llu", r->c->stack, (unsigned long long)i, (unsigned long long)j);
    }
    return better < n;
}

static inline void picks_choose(const struct rig *r, const struct picks_model *m, uint32_t layer, uint64_t b, uint32_t head)
{
    const struct picks_case *k = m->k;
    const uint64_t prompt = r->c->prompt, kept = k->kept[layer], last = kept < k->window ? kept : k->window, columns = prompt - last;
    const uint32_t group = r->c->heads / picks_heads(k, layer);
    struct picks *s = picks_at(m, layer, b, head);
    double score[PICKS_MOST] = {0};

    *s = (struct picks){0};
    if (kept < prompt)
        picks_scores(r, k, layer, b, head * group, (head + 1) * group, columns, score);
    for (uint64_t t = 0; t < prompt; t++)
        if (kept == prompt || t >= columns || picks_best(r, score, columns, kept - last, t))
            s->token[s->n++] = t;
    ck_assert_uint_eq(s->n, kept);
}

/* A layer with a window of its own keeps its newest tokens. */
static inline void picks_newest(const struct rig *r, const struct picks_model *m, uint32_t layer, uint64_t b, uint32_t head, uint64_t seen)
{
    struct picks *s = picks_at(m, layer, b, head);
    const uint64_t w = r->c->window[layer];

    *s = (struct picks){0};
    for (uint64_t t = seen < w ? 0 : seen - w; t < seen; t++)
        s->token[s->n++] = t;
}

/* Attention of token r->seen over the kept tokens, itself the last, all rounded as stored. */
static inline void picks_attend(const struct rig *r, const struct picks *s, uint32_t layer, uint64_t b, uint32_t h, double *out)
{
    const uint32_t dim = r->c->dim, g = h / (r->c->heads / r->c->kv_heads);
    double *k = rig_zalloc(s->n * dim, sizeof(*k)), *v = rig_zalloc(s->n * dim, sizeof(*v));

    for (uint64_t j = 0; j < s->n; j++)
        for (uint32_t i = 0; i < dim; i++) {
            k[j * dim + i] = rig_round((double)rig_k(r, layer, b, s->token[j], g)[i], r->c->format);
            v[j * dim + i] = rig_round((double)rig_v(r, layer, b, s->token[j], g)[i], r->c->format);
        }
    rig_attend(rig_q(r, layer, b, r->seen, h), k, v, s->n, dim, out);
    free(k);
    free(v);
}

static inline void picks_token(struct rig *r, const struct picks_model *m, uint32_t layer, uint64_t b, uint32_t head)
{
    const uint32_t group = r->c->heads / picks_heads(m->k, layer);
    struct picks *s = picks_at(m, layer, b, head);
    double out[64];

    if (m->k->kept[layer])
        s->token[s->n++] = r->seen;
    else
        picks_newest(r, m, layer, b, head, r->seen + 1);
    for (uint32_t h = head * group; h < (head + 1) * group; h++) {
        picks_attend(r, s, layer, b, h, out);
        rig_same(r, rig_out(r, b, 0, 1, h), out, "attention over the kept set", r->seen);
    }
}

/* The callback of rig_step; `arg` is the model. */
static inline void picks_layer(struct rig *r, uint32_t layer, uint64_t tokens, void *arg)
{
    const struct picks_model *m = arg;

    (void)tokens;
    for (uint64_t b = 0; b < r->c->batch; b++)
        for (uint32_t h = 0; h < picks_heads(m->k, layer); h++)
            if (r->seen)
                picks_token(r, m, layer, b, h);
            else if (m->k->kept[layer])
                picks_choose(r, m, layer, b, h);
            else
                picks_newest(r, m, layer, b, h, r->c->prompt);
}

/* dump_kept has one line for each layer, sequence and head. */
static inline void picks_same(struct rig *r, const struct picks_model *m)
{
    json_t *lines = rig_dump(r, r->ops->dump_kept), *line;
    size_t i, n = 0;

    for (uint32_t l = 0; l < r->c->layers; l++)
        n += r->c->batch * picks_heads(m->k, l);
    ck_assert_uint_eq(json_array_size(lines), n);
    json_array_foreach(lines, i, line) {
        const struct picks *s = picks_at(m, (uint32_t)rig_int(line, "layer"), (uint64_t)rig_int(line, "batch"), (uint32_t)rig_int(line, "head"));
        const json_t *pos = json_object_get(line, "positions");

        ck_assert_uint_eq(json_array_size(pos), s->n);
        for (size_t j = 0; j < s->n; j++)
            ck_assert_msg((uint64_t)json_integer_value(json_array_get(pos, j)) == s->token[j],
                          "%s on %s after %llu tokens, line %zu: position %zu is %lld, expected %llu", r->c->stack, r->be->name,
                          (unsigned long long)r->seen, i, j, (long long)json_integer_value(json_array_get(pos, j)),
                          (unsigned long long)s->token[j]);
    }
    json_decref(lines);
}

/* The whole run of a case on a backend, twice: a second prompt begins afresh. */
static inline void picks_run(const struct picks_case *k, const char *backend)
{
    struct picks_model m = {k, rig_zalloc(k->c.layers * k->c.batch * k->c.heads, sizeof(struct picks))};
    struct rig r;

    rig_open(&r, &k->c, backend, true);
    for (int again = 0; again < 2; again++) {
        while (r.seen < k->c.context) {
            rig_step(&r, picks_layer, &m);
            picks_same(&r, &m);
        }
        rig_reset(&r);
    }
    rig_close(&r);
    free(m.set);
}

/* A stack that the cache refuses, and a word of how. */
struct picks_refusal {
    struct rig_case c;
    kvp_err err;
    const char *says;
};

static inline void picks_refused(const struct picks_refusal *x)
{
    struct kvp_error e = {0};
    struct rig r;
    kvp_err rc;

    rig_prepare(&r, &x->c, "ref", false);
    rc = r.ops->open(&r.cache, &r.env, &e);
    ck_assert_msg(rc == x->err, "%s: %d %s", x->c.stack, rc, e.text);
    ck_assert_msg(strstr(e.text, x->says) != NULL, "%s: %s", x->c.stack, e.text);
    rig_close(&r);
}

/* Is position `pos` in layer 0, sequence 0, head 0, by the dump? */
static inline bool picks_keeps(struct rig *r, uint64_t pos)
{
    json_t *lines = rig_dump(r, r->ops->dump_kept), *list = json_object_get(json_array_get(lines, 0), "positions"), *x;
    bool found = false;
    size_t i;

    json_array_foreach(list, i, x)
        found = found || (uint64_t)json_integer_value(x) == pos;
    json_decref(lines);
    return found;
}

static inline int picks_main(Suite *s)
{
    SRunner *sr = srunner_create(s);
    int failed;

    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}

#endif
