/* passes.h - a run whose prefill takes several passes, against the same run in one: the whole engine on tiny models */
#ifndef PASSES_H
#define PASSES_H

#include "tests/validate/tiny.h"

enum { PASSES_MAX = 6 * 40 };

static const char *const passes_backends[] = {"ref", "cpu"};
enum { PASSES_BACKENDS = 2 };

struct passes_case {
    const char *stack; /* techniques, space-separated */
    uint64_t batch, prompt, generate, shared; /* prompts begin with so many equal tokens */
};

static inline void passes_stack(struct kvp_stack *s, const char *text)
{
    char copy[256], *save = NULL;
    struct kvp_error err = {0};

    *s = (struct kvp_stack){0};
    snprintf(copy, sizeof(copy), "%s", text);
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
        must(kvp_stack_add(s, word, &err));
}

/* Prompts [batch, prompt], then `generate` tokens of each. */
static inline void passes_tokens(const struct passes_case *c, int32_t *ids, uint32_t vocab)
{
    tiny_tokens(ids, c->batch * (c->prompt + c->generate), vocab);
    for (uint64_t b = 1; b < c->batch; b++) {
        memcpy(ids + b * c->prompt, ids, c->shared * sizeof(*ids));
        if (c->shared < c->prompt) /* and differ from there on */
            ids[b * c->prompt + c->shared] = (ids[c->shared] + (int32_t)b) % (int32_t)vocab;
    }
}

static inline kvp_err passes_open(struct eng **out, const struct kvp_model *m, const struct passes_case *c, const char *backend,
                                  const char *weights, struct kvp_error *e)
{
    struct eng_options o = {.device = {.threads = 1}, .batch = c->batch, .prompt = c->prompt, .generate = c->generate, .seed = 7,
                            .weights_dir = weights, .all_logits = true, .trace = true};
    struct kvp_stack s;

    KVP_TRY(kb_find(&o.backend, backend, e));
    passes_stack(&s, c->stack);
    return eng_open(out, m, &s, &o, e);
}

/* Logits of every prompt row, then of each step: [batch * (prompt + generate), vocab]. And the last prompt rows once more
 * by a prefill that computes no others. */
static inline void passes_run(const struct kvp_model *m, const struct passes_case *c, const char *backend, const char *weights,
                              float *logits, float *last)
{
    struct kvp_error err = {0};
    const uint64_t rows = c->batch * c->prompt, vocab = m->vocab;
    int32_t *ids = malloc(c->batch * (c->prompt + c->generate) * sizeof(*ids));
    struct eng *g = NULL;

    passes_tokens(c, ids, m->vocab);
    must(passes_open(&g, m, c, backend, weights, &err));
    must(eng_prefill(g, ids, NULL, last, &err));
    must(eng_prefill(g, ids, logits, NULL, &err));
    for (uint64_t i = 0; i < c->generate; i++)
        must(eng_decode(g, ids + rows + i * c->batch, logits + (rows + i * c->batch) * vocab, &err));
    eng_close(g);
    free(ids);
}

static inline bool passes_windows(const struct kvp_model *m)
{
    for (uint32_t c = 0; c < m->classes; c++)
        if (m->cls[c].window)
            return true;
    return false;
}

/* Is the stack refused for the model's kind of attention? */
static inline bool passes_no_part(const struct kvp_model *m, const struct passes_case *c, const char *backend, const char *weights)
{
    struct kvp_error why = {0};
    struct eng *g = NULL;
    const kvp_err rc = passes_open(&g, m, c, backend, weights, &why);

    eng_close(g);
    return rc == KVP_ENOTSUP && strstr(why.text, "kind of attention with a prompt in one pass only");
}

/* The stack's logits are those of `plain`, to rounding; of a model that no part of a prompt suits, it is refused. */
static inline void passes_same(const struct kvp_model *m, const struct passes_case *c, const char *plain, const char *backend,
                               const char *weights, double within)
{
    const uint64_t n = c->batch * (c->prompt + c->generate) * m->vocab, rows = c->batch * c->prompt;
    float *a = malloc(n * sizeof(*a)), *b = malloc(n * sizeof(*b)), *last[2];
    struct passes_case one = *c;
    double apart;

    one.stack = plain;
    if (tiny_is_whole(m) && passes_no_part(m, c, backend, weights)) {
        free(a);
        free(b);
        return;
    }
    for (int i = 0; i < 2; i++) {
        last[i] = malloc(c->batch * m->vocab * sizeof(*a));
        passes_run(m, i ? c : &one, backend, weights, i ? a : b, last[i]);
    }
    apart = far_apart(a, b, n);
    ck_assert_msg(apart < within, "%s, %s on %s: apart by %g", m->name, c->stack, backend, apart);
    apart = far_apart(last[1], last[0], c->batch * m->vocab);
    ck_assert_msg(apart < within, "%s, %s on %s: last rows apart by %g", m->name, c->stack, backend, apart);
    for (uint64_t q = 0; q < c->batch; q++) { /* and each is the row it says it is */
        apart = far_apart(last[1] + q * m->vocab, a + ((q + 1) * c->prompt - 1) * m->vocab, m->vocab);
        ck_assert_msg(apart < within, "%s, %s on %s: sequence %d's last row apart by %g", m->name, c->stack, backend, (int)q, apart);
    }
    (void)rows;
    free(a);
    free(b);
    free(last[0]);
    free(last[1]);
}

/* Bytes that the run holds. */
static inline void passes_bytes(const struct passes_case *c, int model, uint64_t cache, uint64_t metadata, uint64_t activation)
{
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g = NULL;
    const struct ledger *l;

    tiny_load(&m, model);
    must(passes_open(&g, &m, c, "ref", NULL, &err));
    l = eng_ledger(g);
    ck_assert_msg(l->now[LED_CACHE] == cache && l->now[LED_METADATA] == metadata && l->now[LED_ACTIVATION] == activation,
                  "%s: cache %llu, metadata %llu, activation %llu; expected %llu, %llu, %llu", c->stack,
                  (unsigned long long)l->now[LED_CACHE], (unsigned long long)l->now[LED_METADATA],
                  (unsigned long long)l->now[LED_ACTIVATION], (unsigned long long)cache, (unsigned long long)metadata,
                  (unsigned long long)activation);
    eng_close(g);
    kvp_model_free(&m);
}

/* What cannot run says why. */
static inline void passes_refused(const struct passes_case *c, int model, kvp_err code, const char *word)
{
    struct kvp_error err = {0};
    struct kvp_model m;
    struct eng *g = NULL;

    tiny_load(&m, model);
    ck_assert_int_eq(passes_open(&g, &m, c, "ref", NULL, &err), code);
    ck_assert_msg(strstr(err.text, word), "%s: '%s' does not say %s", c->stack, err.text, word);
    kvp_model_free(&m);
}

#define PASSES_SAME(name, cases)                                                                              \
    START_TEST(name)                                                                                          \
    {                                                                                                         \
        const int n = (int)(sizeof(cases) / sizeof(cases[0]));                                                \
        const struct passes_case *c = &cases[_i % n].c;                                                       \
        struct kvp_model m;                                                                                   \
                                                                                                              \
        for (int i = 0; i < TINY_MODELS; i++) {                                                               \
            tiny_load(&m, i);                                                                                 \
            if (!cases[_i % n].whole_only || !passes_windows(&m))                                               \
                passes_same(&m, c, cases[_i % n].plain, passes_backends[_i / n], NULL, passes_within(&cases[_i % n], passes_backends[_i / n])); \
            kvp_model_free(&m);                                                                               \
        }                                                                                                     \
    }                                                                                                         \
    END_TEST
#define PASSES_RUNS(cases) ((int)(sizeof(cases) / sizeof(cases[0])) * PASSES_BACKENDS)

struct passes_pair {
    struct passes_case c;
    const char *plain;
    bool whole_only; /* not where layers have windows */
};

/* A fast product of other rows rounds elsewhere, and then a number on the edge of two codes goes to the other: 1 of 127, or
 * of 15. In double precision none does. */
static inline double passes_within(const struct passes_pair *p, const char *backend)
{
    if (!strstr(p->c.stack, "kv:") || strcmp(backend, "ref") == 0)
        return 1e-5;
    return strstr(p->c.stack, "int4") ? 5e-3 : 5e-4;
}

#endif
